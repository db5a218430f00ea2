//! A connection string → a logged-in replication connection. Trust, password, md5 and SCRAM-SHA-256.
//! Never repeats a password in an error.

use std::io;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as SaslBinding, SCRAM_SHA_256, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};

use super::UpstreamError;
use super::frames::{FrameReader, FrameWriter, Incoming, name_of};

/// How the connection is called in `pg_stat_replication` and in `synchronous_standby_names`.
const APPLICATION_NAME: &str = "rektor";

/// Ours come first, so that the connection string's own `options` win.
/// wal_sender_timeout: the server's may be off or a second; a lost connection must free the slot within a minute.
/// The others: limits that a role may carry for its interactive sessions would end a copy or its waiting snapshot.
const OPTIONS: &str = "-c wal_sender_timeout=60s -c statement_timeout=0 -c lock_timeout=0 \
                       -c idle_in_transaction_session_timeout=0";

/// Refuses what is not possible yet before anything is sent.
pub(super) fn check(config: &Config) -> Result<&str, UpstreamError> {
    let tls = matches!(config.get_ssl_mode(), SslMode::Require)
        || matches!(config.get_ssl_negotiation(), SslNegotiation::Direct)
        || matches!(config.get_channel_binding(), ChannelBinding::Require);
    if tls {
        return Err(UpstreamError::Config(
            "TLS is not supported yet: the upstream connection string must not require it"
                .to_owned(),
        ));
    }
    config.get_user().ok_or_else(|| {
        UpstreamError::Config("the upstream connection string names no user".to_owned())
    })
}

/// Sends the start-up message and authenticates, up to the first ReadyForQuery. Not cancel-safe.
pub(super) async fn log_in(
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    config: &Config,
    user: &str,
) -> Result<(), UpstreamError> {
    let options = match config.get_options() {
        Some(own) => format!("{OPTIONS} {own}"),
        None => OPTIONS.to_owned(),
    };
    let mut parameters = vec![
        ("user", user),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        // Types without a binary form come as text: in the form that reads back exactly, as PostgreSQL's own subscriber asks.
        ("DateStyle", "ISO"),
        ("IntervalStyle", "postgres"),
        ("extra_float_digits", "3"),
        ("options", &options),
        (
            "application_name",
            config.get_application_name().unwrap_or(APPLICATION_NAME),
        ),
    ];
    if let Some(database) = config.get_dbname() {
        parameters.push(("database", database));
    }
    writer
        .send(|buffer| frontend::startup_message(parameters, buffer))
        .await?;
    authenticate(reader, writer, config, user).await?;
    loop {
        match expect(reader).await? {
            Incoming::Message(Message::BackendKeyData(_)) => {}
            Incoming::Message(Message::ReadyForQuery(_)) => return Ok(()),
            other @ (Incoming::CopyBoth | Incoming::Message(_)) => {
                return Err(unexpected(&other, "login"));
            }
        }
    }
}

async fn authenticate(
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    config: &Config,
    user: &str,
) -> Result<(), UpstreamError> {
    let password = || {
        config.get_password().ok_or_else(|| {
            UpstreamError::Authentication(
                "upstream asks for a password and none is configured".to_owned(),
            )
        })
    };
    let unsupported = |method: &str| {
        UpstreamError::Authentication(format!(
            "upstream asks for {method}, which is not supported; use trust, password, md5 or scram-sha-256"
        ))
    };
    match expect(reader).await? {
        Incoming::Message(Message::AuthenticationOk) => return Ok(()),
        Incoming::Message(Message::AuthenticationCleartextPassword) => {
            let password = password()?;
            send_secret(writer, |buffer| {
                frontend::password_message(password, buffer)
            })
            .await?;
        }
        Incoming::Message(Message::AuthenticationMd5Password(body)) => {
            let hash = md5_hash(user.as_bytes(), password()?, body.salt());
            send_secret(writer, |buffer| {
                frontend::password_message(hash.as_bytes(), buffer)
            })
            .await?;
        }
        Incoming::Message(Message::AuthenticationSasl(body)) => {
            scram(reader, writer, &body, password()?).await?
        }
        Incoming::Message(Message::AuthenticationGss | Message::AuthenticationGssContinue(_)) => {
            return Err(unsupported("GSSAPI"));
        }
        Incoming::Message(Message::AuthenticationSspi) => return Err(unsupported("SSPI")),
        Incoming::Message(Message::AuthenticationKerberosV5) => {
            return Err(unsupported("Kerberos V5"));
        }
        Incoming::Message(Message::AuthenticationScmCredential) => {
            return Err(unsupported("SCM credentials"));
        }
        other @ (Incoming::CopyBoth | Incoming::Message(_)) => {
            return Err(unexpected(&other, "login"));
        }
    }
    match expect(reader).await? {
        Incoming::Message(Message::AuthenticationOk) => Ok(()),
        other @ (Incoming::CopyBoth | Incoming::Message(_)) => Err(unexpected(&other, "login")),
    }
}

async fn scram(
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    body: &AuthenticationSaslBody,
    password: &[u8],
) -> Result<(), UpstreamError> {
    let malformed = |error: io::Error| UpstreamError::Protocol(error.to_string());
    let failed = |error: io::Error| UpstreamError::Authentication(error.to_string());
    let offered = body
        .mechanisms()
        .any(|mechanism| Ok(mechanism == SCRAM_SHA_256))
        .map_err(malformed)?;
    if !offered {
        return Err(UpstreamError::Authentication(
            "upstream offers no SCRAM-SHA-256".to_owned(),
        ));
    }
    let mut scram = ScramSha256::new(password, SaslBinding::unsupported());
    let first = scram.message().to_vec();
    send_secret(writer, |buffer| {
        frontend::sasl_initial_response(SCRAM_SHA_256, &first, buffer)
    })
    .await?;
    match expect(reader).await? {
        Incoming::Message(Message::AuthenticationSaslContinue(body)) => {
            scram.update(body.data()).map_err(failed)?;
        }
        other @ (Incoming::CopyBoth | Incoming::Message(_)) => {
            return Err(unexpected(&other, "SCRAM exchange"));
        }
    }
    let answer = scram.message().to_vec();
    send_secret(writer, |buffer| frontend::sasl_response(&answer, buffer)).await?;
    match expect(reader).await? {
        Incoming::Message(Message::AuthenticationSaslFinal(body)) => {
            scram.finish(body.data()).map_err(failed)
        }
        other @ (Incoming::CopyBoth | Incoming::Message(_)) => {
            Err(unexpected(&other, "SCRAM exchange"))
        }
    }
}

/// Sends a message whose content must not show in an error.
async fn send_secret(
    writer: &mut FrameWriter,
    encode: impl FnOnce(&mut BytesMut) -> io::Result<()>,
) -> Result<(), UpstreamError> {
    let sent = writer
        .send(|buffer| encode(buffer).map_err(|_| io::Error::other("the password cannot be sent")))
        .await;
    match sent {
        Err(UpstreamError::Config(text)) => Err(UpstreamError::Authentication(text)),
        sent => sent,
    }
}

/// The next message, unless it reports an error.
pub(super) async fn expect(reader: &mut FrameReader) -> Result<Incoming, UpstreamError> {
    match reader.next().await? {
        Incoming::Message(Message::ErrorResponse(body)) => Err(UpstreamError::from(&body)),
        incoming @ (Incoming::CopyBoth | Incoming::Message(_)) => Ok(incoming),
    }
}

pub(super) fn unexpected(incoming: &Incoming, phase: &str) -> UpstreamError {
    UpstreamError::Protocol(format!("{} during {phase}", name_of(incoming)))
}
