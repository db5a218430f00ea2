//! A new connection → its upstream session: SSLRequest and GSSENCRequest are answered, CancelRequest is forwarded, and the
//! start-up message and every authentication frame are relayed as they came. Never reads a password and stores none.

use bytes::{Buf, Bytes};

use super::cancel::{CancelKey, Registration};
use super::frame::{self, Frame, MAX_BEFORE_AUTHENTICATION, MAX_FRAME, Packet};
use super::link::{Link, Stream};
use super::messages::{self, Body, Report};
use super::{SessionError, Shared, UpstreamAddress};

/// A client that has logged in.
#[derive(Debug)]
pub(super) struct Login {
    /// The connection to upstream, past its first ReadyForQuery.
    pub(super) upstream: Link,
    /// What was logged in to.
    pub(super) scope: Scope,
    /// The session's entry among those that can be cancelled.
    pub(super) registration: Option<Registration>,
}

/// What the start-up message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The database whose tables are indexed.
    Indexed,
    /// Another database, or replication: nothing to do but to relay.
    Foreign,
}

/// Whether the connection may become a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Within the limit of connections.
    Session,
    /// Beyond it: it may only cancel.
    OnlyCancel,
}

/// Leads a connection up to its session; `None` when it ended in an orderly way without one.
pub(super) async fn log_in(
    client: &mut Link,
    shared: &Shared,
    admission: Admission,
    local: bool,
) -> Result<Option<Login>, SessionError> {
    let packet = loop {
        match next_packet(client).await? {
            Some(Packet::Tls | Packet::Gss) => {
                client.outbox.extend_from_slice(b"N");
                client.drain().await?;
            }
            Some(Packet::Cancel { packet }) => {
                shared.cancels.cancel(&packet);
                forward_cancel(shared, &packet).await?;
                return Ok(None);
            }
            Some(Packet::Startup { packet }) => break packet,
            None => return Ok(None),
        }
    };
    if admission == Admission::OnlyCancel {
        refuse(client, "53300", "sorry, too many clients already").await?;
        return Ok(None);
    }
    let stream = match connect(&shared.context.upstream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "cannot connect to upstream");
            let message = format!("could not connect to the upstream server: {error}");
            refuse(client, "08006", &message).await?;
            return Ok(None);
        }
    };
    let mut upstream = Link::new(stream);
    upstream.outbox.extend_from_slice(&packet);
    let trust = local || shared.context.allow_trust;
    let Some(key) = authenticate(client, &mut upstream, trust).await? else {
        return Ok(None);
    };
    Ok(Some(Login {
        upstream,
        scope: scope(&packet, &shared.context.database),
        registration: key.0.map(|key| shared.cancels.register(key)),
    }))
}

/// Reports a fatal error and says that no more comes.
async fn refuse(
    client: &mut Link,
    sqlstate: &'static str,
    message: &str,
) -> Result<(), SessionError> {
    let report = Report {
        severity: "FATAL",
        sqlstate,
        message,
        hint: None,
    };
    messages::error(&mut client.outbox, report);
    Ok(client.finish().await?)
}

async fn next_packet(client: &mut Link) -> Result<Option<Packet>, SessionError> {
    loop {
        match frame::take_packet(&mut client.inbox) {
            Ok(Some(packet)) => return Ok(Some(packet)),
            Ok(None) if client.ended => return Ok(None),
            Ok(None) => client.fill().await?,
            Err(error) => {
                refuse(client, "08P01", &error.to_string()).await?;
                return Ok(None);
            }
        }
    }
}

async fn connect(address: &UpstreamAddress) -> std::io::Result<Stream> {
    match address {
        UpstreamAddress::Tcp { host, port } => Stream::tcp(host, *port).await,
        UpstreamAddress::Unix(path) => Stream::unix(path).await,
    }
}

/// Forwards a CancelRequest and waits, as its sender does, until upstream has closed the connection.
async fn forward_cancel(shared: &Shared, packet: &Bytes) -> Result<(), SessionError> {
    let mut upstream = Link::new(connect(&shared.context.upstream).await?);
    upstream.outbox.extend_from_slice(packet);
    upstream.drain().await?;
    while !upstream.ended {
        upstream.fill().await?;
        upstream.inbox.clear();
    }
    Ok(())
}

/// The key that BackendKeyData gave, if upstream sent one.
struct Key(Option<CancelKey>);

/// Relays both directions until upstream is ready for queries; `None` when the login failed.
async fn authenticate(
    client: &mut Link,
    upstream: &mut Link,
    trust: bool,
) -> Result<Option<Key>, SessionError> {
    let mut asked = false;
    let mut key = None;
    loop {
        while let Some(frame) = frame::take(&mut upstream.inbox, MAX_FRAME)? {
            match frame.tag() {
                b'R' => match Body(frame.body()).u32() {
                    Some(0) if !asked && !trust => {
                        messages::terminate(&mut upstream.outbox);
                        upstream.drain().await?;
                        refuse(client, "28000", TRUST_REFUSED).await?;
                        return Ok(None);
                    }
                    Some(0) | None => {}
                    Some(1..) => asked = true,
                },
                b'K' => key = Some(CancelKey::new(frame.body())),
                _ => {}
            }
            client.outbox.extend_from_slice(frame.bytes());
            if frame.tag() == b'Z' {
                return Ok(Some(Key(key)));
            }
        }
        while let Some(frame) = take_from_client(client)? {
            upstream.outbox.extend_from_slice(frame.bytes());
        }
        if upstream.ended || client.ended {
            client.finish().await?;
            return Ok(None);
        }
        client.drain().await?;
        upstream.drain().await?;
        tokio::select! {
            read = upstream.fill() => read?,
            read = client.fill() => read?,
        }
    }
}

/// The next frame of an authentication; anything else waits for the session.
fn take_from_client(client: &mut Link) -> Result<Option<Frame>, SessionError> {
    match client.inbox.first() {
        Some(b'p') => Ok(frame::take(&mut client.inbox, MAX_BEFORE_AUTHENTICATION)?),
        Some(_) if client.inbox.remaining() > MAX_BEFORE_AUTHENTICATION => {
            Err(frame::FrameError::Length.into())
        }
        Some(_) | None => Ok(None),
    }
}

const TRUST_REFUSED: &str = "the upstream server asks this user for no password, which Rektor accepts only from local clients \
     (set allow_trust to accept it)";

/// Whether a start-up packet asks for a plain session in `database`.
fn scope(packet: &[u8], database: &str) -> Scope {
    let (mut user, mut wanted, mut replication) = (None, None, false);
    let mut body = Body(packet.get(8..).unwrap_or_default());
    while let Some(name) = body.string().filter(|name| !name.is_empty()) {
        let Some(value) = body.string() else { break };
        match name {
            b"user" => user = Some(value),
            b"database" if !value.is_empty() => wanted = Some(value),
            b"replication" => replication = is_on(value),
            _ => {}
        }
    }
    if !replication && wanted.or(user) == Some(database.as_bytes()) {
        Scope::Indexed
    } else {
        Scope::Foreign
    }
}

/// Anything but a spelling of false: what upstream takes for replication must not be taken for a plain session.
fn is_on(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    ![
        "0", "f", "fa", "fal", "fals", "false", "n", "no", "of", "off",
    ]
    .iter()
    .any(|off| off.as_bytes() == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_sessions_in_the_indexed_database_are_looked_at() {
        let check = |parameters: &str, expected| {
            let packet = format!("\0\0\0\0\0\x03\0\0{parameters}\0\0");
            assert_eq!(scope(packet.as_bytes(), "app"), expected, "{parameters:?}");
        };
        check("user\0u\0database\0app", Scope::Indexed);
        check("database\0app\0user\0u", Scope::Indexed);
        check("user\0app", Scope::Indexed);
        check("user\0u", Scope::Foreign);
        check("user\0app\0database\0other", Scope::Foreign);
        check("user\0app\0replication\0database", Scope::Foreign);
        check("user\0app\0replication\0true", Scope::Foreign);
        check("user\0app\0replication\0off", Scope::Indexed);
    }
}
