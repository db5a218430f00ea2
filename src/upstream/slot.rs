//! The replication slot: what state it is in, whether it may be used, and whom its creation waits for.
//! Never takes a slot that someone else uses.

use crate::lsn::Lsn;
use crate::upstream::UpstreamError;
use crate::upstream::sql::SqlSession;

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
