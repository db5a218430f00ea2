//! A socket to the server → whole backend messages; frontend messages → the socket.
//! Every read and write may be cancelled at any point without losing or tearing a frame.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorFields, Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::{ServerError, UpstreamError};

/// The longest frame taken: PostgreSQL builds messages in one allocation, of at most 1 GiB.
const MAX_FRAME: usize = 1 << 30;
/// The room made before each read. A frame's announced length reserves no more than arrives.
const READ_CHUNK: usize = 64 << 10;
/// Unsent bytes at which upstream is held to have stopped reading: its socket buffer is full of status messages.
const MAX_UNSENT: usize = 64 << 10;
/// A dead peer is found by TCP after a minute of silence and another of probes, whatever the system's default of hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 6;
/// The tag that postgres-protocol does not know.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// A message from the server.
pub(super) enum Incoming {
    /// CopyBothResponse: streaming begins. Its column formats mean nothing here.
    CopyBoth,
    /// Any other.
    Message(Message),
}

/// The receiving half of a connection.
pub(super) struct FrameReader {
    source: Box<dyn AsyncRead + Send + Sync + Unpin>,
    buffer: BytesMut,
}

impl FrameReader {
    fn new(source: impl AsyncRead + Send + Sync + Unpin + 'static) -> Self {
        Self {
            source: Box::new(source),
            buffer: BytesMut::new(),
        }
    }

    /// The next message if it has arrived already, notices aside.
    pub(super) fn buffered(&mut self) -> Result<Option<Incoming>, UpstreamError> {
        while let Some(incoming) = take(&mut self.buffer)? {
            match incoming {
                Incoming::Message(Message::NoticeResponse(body)) => log_notice(body.fields()),
                Incoming::Message(
                    Message::ParameterStatus(_) | Message::NotificationResponse(_),
                ) => {}
                Incoming::CopyBoth | Incoming::Message(_) => return Ok(Some(incoming)),
            }
        }
        Ok(None)
    }

    /// The next message, notices aside, which are logged. Cancel-safe: what was read stays in the buffer.
    pub(super) async fn next(&mut self) -> Result<Incoming, UpstreamError> {
        loop {
            if let Some(incoming) = self.buffered()? {
                return Ok(incoming);
            }
            self.buffer.reserve(READ_CHUNK);
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                return Err(UpstreamError::Closed);
            }
        }
    }
}

/// Takes a whole frame from the front of the buffer, if one is there.
fn take(buffer: &mut BytesMut) -> Result<Option<Incoming>, UpstreamError> {
    let malformed = |error: io::Error| UpstreamError::Protocol(error.to_string());
    let Some(header) = Header::parse(buffer).map_err(malformed)? else {
        return Ok(None);
    };
    let length = usize::try_from(header.len()).unwrap_or(usize::MAX); // at least 4, as parsed
    if length > MAX_FRAME {
        return Err(UpstreamError::Protocol(format!(
            "a message of type \"{}\" and {length} bytes",
            char::from(header.tag()).escape_default()
        )));
    }
    if buffer.len() <= length {
        return Ok(None);
    }
    if header.tag() == COPY_BOTH_RESPONSE_TAG {
        buffer.advance(length + 1);
        return Ok(Some(Incoming::CopyBoth));
    }
    let message = Message::parse(buffer).map_err(malformed)?;
    Ok(message.map(Incoming::Message))
}

/// The sending half of a connection.
pub(super) struct FrameWriter {
    sink: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    unsent: BytesMut,
}

impl FrameWriter {
    fn new(sink: impl AsyncWrite + Send + Sync + Unpin + 'static) -> Self {
        Self {
            sink: Box::new(sink),
            unsent: BytesMut::new(),
        }
    }

    /// Sends a message that `encode` appends. Cancel-safe: what was not sent goes before the next.
    pub(super) async fn send(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), UpstreamError> {
        if self.unsent.len() > MAX_UNSENT {
            return Err(UpstreamError::Protocol(
                "upstream does not read what it is sent".to_owned(),
            ));
        }
        let before = self.unsent.len();
        if let Err(error) = encode(&mut self.unsent) {
            self.unsent.truncate(before);
            return Err(UpstreamError::Config(error.to_string()));
        }
        while self.unsent.has_remaining() {
            if self.sink.write_buf(&mut self.unsent).await? == 0 {
                return Err(UpstreamError::Closed);
            }
        }
        self.sink.flush().await?;
        Ok(())
    }
}

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A name to resolve.
    Tcp(String, u16),
    /// An address that needs none.
    Ip(IpAddr, u16),
    /// A socket file.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Ip(host, port) => write!(f, "{}", std::net::SocketAddr::new(*host, *port)),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The places that a connection string names, in its order; an address stands in for its host's name, as in libpq.
pub(super) fn addresses(config: &Config) -> Result<Vec<Address>, UpstreamError> {
    const DEFAULT_PORT: u16 = 5432;
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    let ports = config.get_ports();
    let count = hosts.len().max(addresses.len());
    if count == 0 {
        return Err(UpstreamError::Config(
            "the upstream connection string names no host".to_owned(),
        ));
    }
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(UpstreamError::Config(format!(
            "the upstream connection string names {} addresses for {} hosts",
            addresses.len(),
            hosts.len()
        )));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(UpstreamError::Config(format!(
            "the upstream connection string names {} ports for {count} hosts",
            ports.len()
        )));
    }
    let port_of = |i: usize| {
        let port = if ports.len() > 1 {
            ports.get(i)
        } else {
            ports.first()
        };
        port.copied().unwrap_or(DEFAULT_PORT)
    };
    let addresses = addresses
        .iter()
        .enumerate()
        .map(|(i, address)| Address::Ip(*address, port_of(i)));
    let hosts = hosts.iter().enumerate().map(|(i, host)| match host {
        Host::Tcp(name) => Address::Tcp(name.clone(), port_of(i)),
        Host::Unix(directory) => Address::Unix(directory.join(format!(".s.PGSQL.{}", port_of(i)))),
    });
    Ok(if addresses.len() > 0 {
        addresses.collect()
    } else {
        hosts.collect()
    })
}

/// Opens a socket.
pub(super) async fn open(
    address: &Address,
    config: &Config,
) -> Result<(FrameReader, FrameWriter), UpstreamError> {
    let failed = |source| UpstreamError::Connect {
        address: address.to_string(),
        source,
    };
    let stream = match address {
        Address::Tcp(host, port) => TcpStream::connect((host.as_str(), *port)).await,
        Address::Ip(host, port) => TcpStream::connect((*host, *port)).await,
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            let (source, sink) = stream.into_split();
            return Ok((FrameReader::new(source), FrameWriter::new(sink)));
        }
    };
    let stream = stream.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    keep_alive(&stream, config).map_err(failed)?;
    let (source, sink) = stream.into_split();
    Ok((FrameReader::new(source), FrameWriter::new(sink)))
}

fn keep_alive(stream: &TcpStream, config: &Config) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    if config.get_keepalives() {
        let probes = socket2::TcpKeepalive::new()
            .with_time(config.get_keepalives_idle().min(KEEPALIVE_IDLE))
            .with_interval(
                config
                    .get_keepalives_interval()
                    .unwrap_or(KEEPALIVE_INTERVAL),
            )
            .with_retries(config.get_keepalives_retries().unwrap_or(KEEPALIVE_RETRIES));
        socket.set_tcp_keepalive(&probes)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(limit) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    Ok(())
}

/// The fields of an error or a notice.
pub(super) fn report(mut fields: ErrorFields<'_>) -> io::Result<ServerError> {
    let mut error = ServerError {
        sqlstate: String::new(),
        message: String::new(),
        detail: None,
        hint: None,
    };
    while let Some(field) = fields.next()? {
        let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => error.sqlstate = value(),
            b'M' => error.message = value(),
            b'D' => error.detail = Some(value()),
            b'H' => error.hint = Some(value()),
            // Severity, position, file, line and the like: of use to nobody here, and the set is open by definition.
            _ => {}
        }
    }
    Ok(error)
}

fn log_notice(fields: ErrorFields<'_>) {
    match report(fields) {
        Ok(notice) => tracing::warn!(sqlstate = notice.sqlstate, "upstream: {}", notice.message),
        Err(error) => tracing::warn!(%error, "upstream sent a malformed notice"),
    }
}

/// What a message is called in an error; its content stays out.
#[allow(clippy::wildcard_enum_match_arm)] // for words only, and the enum is open
pub(super) fn name_of(incoming: &Incoming) -> &'static str {
    let Incoming::Message(message) = incoming else {
        return "CopyBothResponse";
    };
    match message {
        Message::CommandComplete(_) => "CommandComplete",
        Message::CopyData(_) => "CopyData",
        Message::CopyDone => "CopyDone",
        Message::CopyInResponse(_) => "CopyInResponse",
        Message::CopyOutResponse(_) => "CopyOutResponse",
        Message::DataRow(_) => "DataRow",
        Message::EmptyQueryResponse => "EmptyQueryResponse",
        Message::ErrorResponse(_) => "ErrorResponse",
        Message::ReadyForQuery(_) => "ReadyForQuery",
        Message::RowDescription(_) => "RowDescription",
        Message::BackendKeyData(_) => "BackendKeyData",
        _ => "a message of another phase",
    }
}

#[cfg(test)]
mod tests;
