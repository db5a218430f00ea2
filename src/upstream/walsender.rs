//! Commands of the replication protocol → typed answers, and a started stream → [`ReplicationMessage`]s.
//! Never decodes what a message says of tables, and never confirms a position by itself.

use std::time::{Duration, SystemTime};

use bytes::BufMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use super::UpstreamError;
use super::frames::{self, FrameReader, FrameWriter, Incoming};
use super::login::{self, expect, unexpected};
use crate::catalog::quoted_identifier;
use crate::lsn::{Lsn, Progress};
use crate::wal::pgoutput::ReplicationMessage;

/// How long opening a connection and logging in may take where the connection string sets no `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a stream is given up. Upstream answers every status that asks for a reply; this is twice the
/// `wal_sender_timeout` of the connection, since decoding a huge transaction of other tables can delay an answer.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);
/// A reader that was not asked for long finds what has arrived meanwhile within this time.
const GRACE: Duration = Duration::from_millis(200);
/// Most rows that a command's answer may have: these are catalogue reads, never tables.
const MAX_ROWS: usize = 100_000;
/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins.
const POSTGRES_EPOCH_MICROSECONDS: i128 = 946_684_800_000_000;

/// What `IDENTIFY_SYSTEM` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's identifier, from its initdb.
    pub system_id: u64,
    /// Changes at every promotion.
    pub timeline: u32,
    /// How far the WAL is flushed.
    pub wal: Lsn,
    /// The database that the connection is in.
    pub database: String,
}

/// How long a slot lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// Until it is dropped.
    Permanent,
    /// Until this connection ends.
    Temporary,
}

/// What becomes of the snapshot that a new slot begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotSnapshot {
    /// Not wanted.
    Nothing,
    /// Exported for other sessions, until the next command of this connection.
    Export,
    /// The current transaction's; it must be REPEATABLE READ, READ ONLY and have done nothing else.
    Use,
}

/// A new slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The stream will contain exactly the transactions whose commit record is not before this position; the
    /// snapshot the others.
    pub consistent_point: Lsn,
    /// The exported snapshot's name.
    pub snapshot: Option<String>,
}

/// A connection to a walsender that executes commands one by one. None of them is cancel-safe: a connection whose
/// command was cancelled refuses the next.
pub struct ReplicationConnection {
    reader: FrameReader,
    writer: FrameWriter,
    in_flight: bool,
}

impl std::fmt::Debug for ReplicationConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicationConnection")
            .finish_non_exhaustive()
    }
}

impl ReplicationConnection {
    /// Connects to the first host of the connection string that accepts.
    ///
    /// # Errors
    /// With the last host's error when none does, and at once when a server refuses the login.
    pub async fn connect(config: &Config) -> Result<Self, UpstreamError> {
        let user = login::check(config)?;
        let limit = config.get_connect_timeout().copied();
        let limit = limit
            .filter(|limit| !limit.is_zero())
            .unwrap_or(CONNECT_TIMEOUT);
        let mut last = None;
        for address in frames::addresses(config)? {
            let attempt = timeout(limit, Self::connect_to(&address, config, user)).await;
            let error = match attempt {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => UpstreamError::Timeout {
                    doing: "connecting",
                    limit,
                },
            };
            last = Some(error);
        }
        Err(last.unwrap_or(UpstreamError::Closed)) // never empty: `addresses` returns one at least
    }

    async fn connect_to(
        address: &frames::Address,
        config: &Config,
        user: &str,
    ) -> Result<Self, UpstreamError> {
        let (mut reader, mut writer) = frames::open(address, config).await?;
        login::log_in(&mut reader, &mut writer, config, user).await?;
        let mut connection = Self {
            reader,
            writer,
            in_flight: false,
        };
        if config.get_target_session_attrs() != TargetSessionAttrs::Any {
            connection.check_session(config, address).await?;
        }
        Ok(connection)
    }

    /// Several hosts with `target_session_attrs` mean "whichever is the primary": every session must find the same.
    async fn check_session(
        &mut self,
        config: &Config,
        address: &frames::Address,
    ) -> Result<(), UpstreamError> {
        let rows = self.query("SHOW transaction_read_only").await?;
        let read_only = single(&rows, 0, "transaction_read_only")? == "on";
        if read_only == (config.get_target_session_attrs() == TargetSessionAttrs::ReadOnly) {
            return Ok(());
        }
        Err(UpstreamError::Connect {
            address: address.to_string(),
            source: std::io::Error::other("the server does not match target_session_attrs"),
        })
    }

    /// Who the server is and how far it has come.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, UpstreamError> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentity {
            system_id: parsed(&rows, 0, "system identifier")?,
            timeline: parsed(&rows, 1, "timeline")?,
            wal: parsed(&rows, 2, "WAL position")?,
            database: single(&rows, 3, "database")?.to_owned(),
        })
    }

    /// The server's process at the other end.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn process(&mut self) -> Result<i32, UpstreamError> {
        let rows = self.query("SELECT pg_catalog.pg_backend_pid()").await?;
        parsed(&rows, 0, "process")
    }

    /// Runs SQL, or a replication command, by the simple protocol; the rows of all its statements, as text.
    ///
    /// # Errors
    /// When the server reports one, or the answer is larger than a catalogue read can be.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, UpstreamError> {
        self.begin_command(sql).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let incoming = self.reader.next().await?;
            match incoming {
                Incoming::Message(Message::DataRow(body)) => {
                    if rows.len() == MAX_ROWS {
                        failure.get_or_insert(UpstreamError::Protocol(format!(
                            "an answer of more than {MAX_ROWS} rows"
                        )));
                    } else {
                        rows.push(fields(&body)?);
                    }
                }
                Incoming::Message(Message::ErrorResponse(body)) => {
                    failure = Some(UpstreamError::from(&body));
                }
                Incoming::Message(Message::ReadyForQuery(_)) => {
                    self.in_flight = false;
                    return failure.map_or(Ok(rows), Err);
                }
                Incoming::Message(
                    Message::RowDescription(_)
                    | Message::CommandComplete(_)
                    | Message::EmptyQueryResponse,
                ) => {}
                other @ (Incoming::CopyBoth | Incoming::Message(_)) => {
                    return Err(unexpected(&other, "a command's answer"));
                }
            }
        }
    }

    /// Creates a logical slot for pgoutput. Waits for every transaction that runs on the server.
    ///
    /// # Errors
    /// When the server refuses: no privilege, no free slot, name taken.
    pub async fn create_slot(
        &mut self,
        name: &str,
        kind: SlotKind,
        snapshot: SlotSnapshot,
    ) -> Result<CreatedSlot, UpstreamError> {
        let temporary = match kind {
            SlotKind::Permanent => "",
            SlotKind::Temporary => " TEMPORARY",
        };
        let snapshot = match snapshot {
            SlotSnapshot::Nothing => "nothing",
            SlotSnapshot::Export => "export",
            SlotSnapshot::Use => "use",
        };
        let command = format!(
            "CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput (SNAPSHOT '{snapshot}')",
            quoted_identifier(name)
        );
        let rows = self.query(&command).await?;
        Ok(CreatedSlot {
            consistent_point: parsed(&rows, 1, "consistent point")?,
            snapshot: rows
                .first()
                .and_then(|row| row.get(2))
                .and_then(Option::clone)
                .filter(|name| !name.is_empty()),
        })
    }

    /// Drops a slot that nobody uses.
    ///
    /// # Errors
    /// When it does not exist, or is in use.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), UpstreamError> {
        let command = format!("DROP_REPLICATION_SLOT {}", quoted_identifier(name));
        self.query(&command).await.map(drop)
    }

    /// Starts streaming from `from`. A slot that was confirmed beyond it silently starts there instead: read the
    /// slot's `confirmed_flush_lsn` from another session afterwards.
    ///
    /// # Errors
    /// When the server refuses: the slot is missing, lost or in use.
    pub async fn start_replication(
        mut self,
        slot: &str,
        from: Lsn,
        publication: &str,
    ) -> Result<ReplicationStream, UpstreamError> {
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {}, binary 'true', messages 'true')",
            quoted_identifier(slot),
            literal(&quoted_identifier(publication))
        );
        self.begin_command(&command).await?;
        match expect(&mut self.reader).await? {
            Incoming::CopyBoth => Ok(ReplicationStream {
                receiver: StreamReceiver {
                    reader: self.reader,
                    heard: Instant::now(),
                },
                sender: StatusSender {
                    writer: self.writer,
                },
            }),
            other @ Incoming::Message(_) => Err(unexpected(&other, "START_REPLICATION")),
        }
    }

    /// Ends the connection, and with it its temporary slots, without an entry in the server's log.
    ///
    /// # Errors
    /// When the connection has failed already.
    pub async fn close(mut self) -> Result<(), UpstreamError> {
        terminate(&mut self.writer).await
    }

    async fn begin_command(&mut self, sql: &str) -> Result<(), UpstreamError> {
        if self.in_flight {
            return Err(UpstreamError::Protocol(
                "the command before this one was abandoned".to_owned(),
            ));
        }
        self.in_flight = true;
        self.writer
            .send(|buffer| frontend::query(sql, buffer))
            .await
    }
}

/// A running stream. Ask for a reply at least once a minute, or an idle stream counts as dead.
#[derive(Debug)]
pub struct ReplicationStream {
    receiver: StreamReceiver,
    sender: StatusSender,
}

impl ReplicationStream {
    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// When the stream has ended; it cannot go on.
    pub async fn next(&mut self) -> Result<ReplicationMessage, UpstreamError> {
        self.receiver.next().await
    }

    /// Reports progress: received as `write`, durable as `flush`, applied as `apply`. Cancel-safe.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send_status(
        &mut self,
        progress: &Progress,
        reply_requested: bool,
    ) -> Result<(), UpstreamError> {
        self.sender.send_status(progress, reply_requested).await
    }

    /// Both directions apart, so that status goes out while a message is awaited.
    #[must_use]
    pub fn split(self) -> (StreamReceiver, StatusSender) {
        (self.receiver, self.sender)
    }
}

/// The receiving direction of a stream.
pub struct StreamReceiver {
    reader: FrameReader,
    /// When the last message came.
    heard: Instant,
}

impl StreamReceiver {
    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// When the stream has ended; it cannot go on.
    pub async fn next(&mut self) -> Result<ReplicationMessage, UpstreamError> {
        let deadline = (self.heard + SILENCE_LIMIT).max(Instant::now() + GRACE);
        let incoming = timeout_at(deadline, expect(&mut self.reader))
            .await
            .map_err(|_| UpstreamError::Timeout {
                doing: "streaming",
                limit: SILENCE_LIMIT,
            })??;
        self.heard = Instant::now();
        streamed(incoming)
    }

    /// The next message if it has arrived already. Many do at once: taking them so spares a wait for each.
    ///
    /// # Errors
    /// When the stream has ended; it cannot go on.
    pub fn buffered(&mut self) -> Result<Option<ReplicationMessage>, UpstreamError> {
        match self.reader.buffered()? {
            Some(Incoming::Message(Message::ErrorResponse(body))) => {
                Err(UpstreamError::from(&body))
            }
            Some(incoming) => streamed(incoming).map(Some),
            None => Ok(None),
        }
    }
}

/// A message of a stream.
fn streamed(incoming: Incoming) -> Result<ReplicationMessage, UpstreamError> {
    match incoming {
        Incoming::Message(Message::CopyData(body)) => {
            Ok(ReplicationMessage::decode(body.into_bytes())?)
        }
        Incoming::Message(Message::CopyDone | Message::CommandComplete(_)) => {
            Err(UpstreamError::Closed)
        }
        other @ (Incoming::CopyBoth | Incoming::Message(_)) => Err(unexpected(&other, "streaming")),
    }
}

impl std::fmt::Debug for StreamReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamReceiver").finish_non_exhaustive()
    }
}

/// The sending direction of a stream.
pub struct StatusSender {
    writer: FrameWriter,
}

impl StatusSender {
    /// Reports progress: received as `write`, durable as `flush`, applied as `apply`. Cancel-safe.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send_status(
        &mut self,
        progress: &Progress,
        reply_requested: bool,
    ) -> Result<(), UpstreamError> {
        let status = status_update(progress, now(), reply_requested);
        self.writer
            .send(|buffer| frontend::CopyData::new(&status[..]).map(|data| data.write(buffer)))
            .await
    }

    /// Ends the stream without an entry in the server's log; what was reported last stands.
    ///
    /// # Errors
    /// When the connection has failed already.
    pub async fn close(mut self) -> Result<(), UpstreamError> {
        terminate(&mut self.writer).await
    }
}

impl std::fmt::Debug for StatusSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusSender").finish_non_exhaustive()
    }
}

async fn terminate(writer: &mut FrameWriter) -> Result<(), UpstreamError> {
    writer
        .send(|buffer| {
            frontend::terminate(buffer);
            Ok(())
        })
        .await
}

/// A standby status update. Zero in `flush` or `apply` would mean "unknown", which `Progress` at the stream's start is.
fn status_update(progress: &Progress, now: i64, reply_requested: bool) -> Vec<u8> {
    let mut status = Vec::with_capacity(34);
    status.put_u8(b'r');
    status.put_u64(progress.received().as_u64());
    status.put_u64(progress.durable().as_u64());
    status.put_u64(progress.applied().as_u64());
    status.put_i64(now);
    status.put_u8(u8::from(reply_requested));
    status
}

/// Microseconds since 2000-01-01; only shown in `pg_stat_replication`.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let microseconds = since.map_or(0, |elapsed| {
        i128::try_from(elapsed.as_micros()).unwrap_or(0)
    });
    i64::try_from(microseconds - POSTGRES_EPOCH_MICROSECONDS).unwrap_or(0)
}

fn fields(body: &DataRowBody) -> Result<Vec<Option<String>>, UpstreamError> {
    let malformed = || UpstreamError::Protocol("malformed row".to_owned());
    body.ranges()
        .map(|range| {
            let Some(range) = range else { return Ok(None) };
            let bytes = body
                .buffer()
                .get(range)
                .ok_or_else(|| std::io::Error::other("out of range"))?;
            Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
        })
        .collect()
        .map_err(|_| malformed())
}

/// A value of a one-row answer that is never NULL.
fn single<'a>(
    rows: &'a [Vec<Option<String>>],
    column: usize,
    what: &str,
) -> Result<&'a str, UpstreamError> {
    rows.first()
        .and_then(|row| row.get(column))
        .and_then(Option::as_deref)
        .ok_or_else(|| UpstreamError::Protocol(format!("the answer lacks the {what}")))
}

fn parsed<T: std::str::FromStr>(
    rows: &[Vec<Option<String>>],
    column: usize,
    what: &str,
) -> Result<T, UpstreamError> {
    single(rows, column, what)?
        .parse()
        .map_err(|_| UpstreamError::Protocol(format!("the answer's {what} is malformed")))
}

/// Replication commands know no backslash escapes.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests;
