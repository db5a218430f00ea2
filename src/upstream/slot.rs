//! The replication slot: what state it is in, whether it may be used, and whom its creation waits for.
//! Never takes a slot that someone else uses.

use bytes::Bytes;

use crate::index::view::SlotStatus;
use crate::lsn::Lsn;
use crate::upstream::UpstreamError;
use crate::upstream::sql::SqlSession;
use crate::wal::pgoutput::LogicalMessage;

/// A slot of that name exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// The backend that uses it.
    pub active_pid: Option<i32>,
    /// Who that is.
    pub holder: String,
    /// Its WAL was removed: it can never be read again.
    pub lost: bool,
    /// What was confirmed: transactions committed before are not sent again.
    pub confirmed: Lsn,
}

/// Looks for the slot.
///
/// # Errors
/// When a slot of that name serves another purpose, and so is not ours to use or drop.
pub async fn find(
    session: &SqlSession,
    slot: &str,
    database: &str,
) -> Result<Option<SlotState>, UpstreamError> {
    let sql = include_str!("../../sql/ingest_slot.sql");
    let Some(row) = session.client().query_opt(sql, &[&slot]).await? else {
        return Ok(None);
    };
    let kind: String = row.try_get("slot_type")?;
    let plugin: Option<String> = row.try_get("plugin")?;
    let of: Option<String> = row.try_get("database")?;
    if kind != "logical" || plugin.as_deref() != Some("pgoutput") || of.as_deref() != Some(database)
    {
        return Err(UpstreamError::Unsuitable(format!(
            "replication slot {slot} exists but is not ours ({kind}, plugin {}, database {}): choose another slot name",
            plugin.as_deref().unwrap_or("none"),
            of.as_deref().unwrap_or("none"),
        )));
    }
    let confirmed: Option<String> = row.try_get("confirmed_flush_lsn")?;
    let confirmed = confirmed.unwrap_or_default();
    let application: String = row.try_get("holder_application")?;
    let address: String = row.try_get("holder_address")?;
    Ok(Some(SlotState {
        active_pid: row.try_get("active_pid")?,
        holder: format!("{application} at {address}"),
        lost: row.try_get::<_, Option<String>>("wal_status")?.as_deref() == Some("lost"),
        confirmed: confirmed.parse().unwrap_or(Lsn::ZERO), // absent until the slot is consistent
    }))
}

/// How the slot stands, and how much WAL is held for it.
///
/// # Errors
/// When the connection fails.
pub async fn status(session: &SqlSession, slot: &str) -> Result<Option<SlotStatus>, UpstreamError> {
    let sql = include_str!("../../sql/ingest_slot_status.sql");
    let Some(row) = session.client().query_opt(sql, &[&slot]).await? else {
        return Ok(None);
    };
    let retained: Option<i64> = row.try_get("retained")?;
    let wal_status: Option<String> = row.try_get("wal_status")?;
    Ok(Some(SlotStatus {
        wal_status: wal_status.unwrap_or_default(),
        retained: retained.map_or(0, |bytes| u64::try_from(bytes).unwrap_or(0)),
        safe: row.try_get("safe_wal_size")?,
        invalidated: row.try_get("invalidated")?,
    }))
}

/// Has the server write a record of its running transactions, so that the slot can let go of the WAL before it; if this role
/// may, and the server can.
///
/// # Errors
/// When the connection fails.
pub async fn record_running(session: &SqlSession) -> Result<(), UpstreamError> {
    let client = session.client();
    let row = client
        .query_one(include_str!("../../sql/ingest_may_record.sql"), &[])
        .await?;
    if row.try_get(0)? {
        client
            .batch_execute("select pg_log_standby_snapshot()")
            .await?;
    }
    Ok(())
}

/// Drops the slot, whatever it is doing for the walsender of that process, which must be ours.
///
/// # Errors
/// When the connection fails, or someone uses the slot.
pub async fn give_up(
    session: &SqlSession,
    slot: &str,
    walsender: Option<i32>,
) -> Result<(), UpstreamError> {
    let client = session.client();
    if let Some(pid) = walsender {
        let sql = include_str!("../../sql/ingest_slot_release.sql");
        client.execute(sql, &[&slot, &pid]).await?;
    }
    let sql = include_str!("../../sql/ingest_slot_drop.sql");
    client.execute(sql, &[&slot]).await?;
    Ok(())
}

/// A transaction of the stream. No two histories of a cluster have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenCommit {
    /// Where its commit record begins.
    pub lsn: Lsn,
    /// Its number.
    pub xid: u32,
    /// When it was committed, in microseconds since 2000-01-01.
    pub time: i64,
}

impl SeenCommit {
    /// Of the message that it begins with.
    #[must_use]
    pub fn of(message: &LogicalMessage) -> Option<Self> {
        match message {
            LogicalMessage::Begin {
                final_lsn,
                commit_time,
                xid,
            } => Some(Self {
                lsn: *final_lsn,
                xid: *xid,
                time: *commit_time,
            }),
            LogicalMessage::Commit { .. }
            | LogicalMessage::Relation(_)
            | LogicalMessage::Type { .. }
            | LogicalMessage::Origin { .. }
            | LogicalMessage::Insert { .. }
            | LogicalMessage::Update { .. }
            | LogicalMessage::Delete { .. }
            | LogicalMessage::Truncate { .. }
            | LogicalMessage::Message { .. } => None,
        }
    }
}

/// The transactions that the slot, which no one may use meanwhile, would tell of a stretch of WAL.
///
/// # Errors
/// When the connection fails, or the slot cannot be read.
pub async fn commits(
    session: &SqlSession,
    slot: &str,
    from: Lsn,
    to: Lsn,
) -> Result<Vec<SeenCommit>, UpstreamError> {
    let sql = include_str!("../../sql/ingest_slot_commits.sql");
    let mut commits = Vec::new();
    for row in session
        .client()
        .query(sql, &[&slot, &to.to_string()])
        .await?
    {
        let data: &[u8] = row.try_get(0)?;
        let message = LogicalMessage::decode(Bytes::copy_from_slice(data))?;
        commits.extend(SeenCommit::of(&message).filter(|seen| (from..to).contains(&seen.lsn)));
    }
    Ok(commits)
}

/// Which transactions run: all before the first number have ended, and none has begun that is not before the second.
///
/// # Errors
/// When the connection fails.
pub async fn running(session: &SqlSession) -> Result<(i64, i64), UpstreamError> {
    let sql = include_str!("../../sql/ingest_running.sql");
    let row = session.client().query_one(sql, &[]).await?;
    Ok((row.try_get("oldest")?, row.try_get("next")?))
}

/// Why the slot may not be used now, if so.
///
/// # Errors
/// When another process uses it.
pub fn require_free(slot: &str, state: &SlotState) -> Result<(), UpstreamError> {
    match state.active_pid {
        None => Ok(()),
        Some(pid) => Err(UpstreamError::Busy(format!(
            "replication slot {slot} is in use by process {pid} ({}): another Rektor, or the last one's connection that PostgreSQL has not given up yet",
            state.holder
        ))),
    }
}

/// The same for a slot that nothing is known of: two that take it from each other would each miss what the other got.
///
/// # Errors
/// When another process uses it.
pub fn require_unused(slot: &str, state: &SlotState) -> Result<(), UpstreamError> {
    match state.active_pid {
        None => Ok(()),
        Some(pid) => Err(UpstreamError::Unsuitable(format!(
            "replication slot {slot} is in use by process {pid} ({}), and this data directory is not of the Rektor that uses it: each Rektor needs a slot of its own (--slot)",
            state.holder
        ))),
    }
}

/// Whom the creation of that slot waits for, in words; `None` when for no one.
///
/// # Errors
/// When the connection fails.
pub async fn blockers(session: &SqlSession, slot: &str) -> Result<Option<String>, UpstreamError> {
    let sql = include_str!("../../sql/ingest_blockers.sql");
    let mut waits = Vec::new();
    for row in session.client().query(sql, &[&slot]).await? {
        let pid: i32 = row.try_get("pid")?;
        let role: String = row.try_get("role")?;
        let application: String = row.try_get("application")?;
        let state: String = row.try_get("state")?;
        let seconds: i64 = row.try_get("seconds")?;
        waits.push(if pid == 0 {
            "a prepared transaction".to_owned()
        } else {
            format!("process {pid} (role {role}, application {application:?}, {state} in a transaction for {seconds} s)")
        });
    }
    Ok((!waits.is_empty()).then(|| {
        format!(
            "waiting for running transactions to end: {}",
            waits.join(", ")
        )
    }))
}
