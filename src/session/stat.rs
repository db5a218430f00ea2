//! What only Rektor knows → settings of the client's session, as JSON, just before a statement that reads them.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::exchange::End;
use super::messages;
use super::pending::{Installs, Kind, Owner};
use super::relay::Session;
use crate::catalog::{Method, QualifiedName};
use crate::index::view::{IndexState, Phase, View};
use crate::index::{DEFAULT_RECALL, MemoryParts};
use crate::lsn::Lsn;

const SET: &str = include_str!("../../sql/session_stat.sql");
/// The statement that it is, and the portal that it runs in.
const OWN: &[u8] = b"rektor_stat";

impl Session {
    /// Sends the settings that `rektor.stat_*` read; upstream's replies are swallowed. Before a simple Query they end with a
    /// Sync, as its look-up does. The statement is made anew each time: a Parse that upstream skips, or DISCARD ALL, leaves none.
    pub(super) fn send_stat(&mut self, end: End) {
        if self.pending.is_skipping() {
            return; // a Sync of ours would end what only the client's ends
        }
        let view = self.shared.context.view.borrow().clone();
        let (indexes, replication) = (
            indexes(&view).to_string(),
            replication(&view, &self.shared.context.slot).to_string(),
        );
        let values = [indexes.as_bytes(), replication.as_bytes()];
        let out = &mut self.upstream.outbox;
        messages::close(out, b'S', OWN);
        messages::parse(out, OWN, SET.as_bytes(), &[]);
        messages::bind_text(out, OWN, OWN, &values);
        messages::execute(out, OWN, 0);
        messages::close(out, b'P', OWN);
        let parse = Kind::Parse(Installs::Nothing);
        let completion = super::pending::Completion::default();
        let execute = Kind::Execute { completion };
        for kind in [Kind::Close, parse, Kind::Bind, execute, Kind::Close] {
            self.pending.sent(kind, Owner::Rektor);
        }
        if end == End::Sync {
            messages::sync(&mut self.upstream.outbox);
            self.pending.sent(Kind::Sync, Owner::Rektor);
        }
    }
}

/// `rektor.stat_indexes`
fn indexes(view: &View) -> Value {
    view.indexes
        .iter()
        .map(|index| one_index(index, view))
        .collect()
}

fn one_index(index: &IndexState, view: &View) -> Value {
    let (definition, now) = (&index.definition, SystemTime::now());
    let (phase, percent, error) = match &index.phase {
        Phase::Copying { percent } => ("copying", Some(*percent), None),
        Phase::Building { percent } => ("building", Some(*percent), None),
        Phase::Ready => ("ready", Some(100.0), None),
        Phase::Failed { error } => ("failed", None, Some(error)),
    };
    let stats = index.snapshot.as_ref().map(|snapshot| snapshot.stats());
    // A flat index has no effort: it compares all rows.
    let searched = index.snapshot.as_ref();
    let searched = searched.filter(|_| definition.options.method != Method::Flat);
    let dial = searched.map(|snapshot| snapshot.dial());
    json!({
        "index_id": definition.id.0,
        "index_name": name(&definition.name),
        "table_name": name(&definition.table),
        "column_name": definition.column.name,
        "metric": definition.metric.name(),
        "method": definition.options.method.name(),
        "rows": stats.map(|stats| stats.live),
        "phase": phase,
        "percent": percent,
        "applied_lsn": index.serves_to().map(lsn),
        "lag_bytes": index.serves_to().map(|applied| view.upstream.bytes_since(applied)),
        "memory_bytes": stats.map(|stats| stats.memory.total()),
        "memory_parts": stats.map(|stats| parts(&stats.memory)),
        "error": error,
        "recall_target": DEFAULT_RECALL,
        "ef": dial.map(|dial| dial.ef),
        "recall_estimated": dial.and_then(|dial| dial.recall_estimated),
        "recall_measured": dial.and_then(|dial| dial.recall_measured),
        "lag_seconds": index.snapshot.as_ref().and_then(|_| view.lag_seconds(index.behind_since, now)),
        "fetched_rows": index.audit.fetched,
        "mended_rows": index.audit.mended,
        "expression": definition.expression.sql(
            &definition.column.name,
            definition.column.kind,
            definition.dim,
        ),
        "audit_age": index.audit.audited_at.map(age),
    })
}

fn parts(memory: &MemoryParts) -> Value {
    let parts = memory.iter();
    parts
        .map(|(part, bytes)| (part.name().to_owned(), bytes.into()))
        .collect::<Map<_, _>>()
        .into()
}

/// `rektor.stat_replication`
fn replication(view: &View, slot: &str) -> Value {
    let applied = view.indexes.iter().filter_map(|index| index.serves_to());
    let applied = applied.min().unwrap_or(view.received);
    json!([{
        "slot_name": slot,
        "streaming": view.streaming,
        "received_lsn": lsn(view.received),
        "durable_lsn": lsn(view.durable),
        "applied_lsn": lsn(applied),
        "upstream_lsn": lsn(view.upstream),
        "lag_bytes": view.upstream.bytes_since(applied),
        "error": view.error,
        "lag_seconds": view.lag_seconds(view.behind_since, SystemTime::now()),
        "wal_status": view.slot.as_ref().map(|slot| &slot.wal_status),
        "retained_bytes": view.slot.as_ref().map(|slot| slot.retained),
        "safe_wal_bytes": view.slot.as_ref().and_then(|slot| slot.safe),
        "last_error": view.last_error.as_ref().map(|(text, _)| text),
        "last_error_at": view.last_error.as_ref().map(|(_, at)| timestamp(*at)),
    }])
}

/// A time as PostgreSQL reads it, to the microsecond.
fn timestamp(at: SystemTime) -> String {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970-01-01 as a date: PostgreSQL's own Julian days count from 2440588.
    format!(
        "J{} {:02}:{:02}:{:02}.{micros:06}+00",
        day + 2_440_588,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// A name as `regclass` prints it with the usual search path.
pub(super) fn name(name: &QualifiedName) -> String {
    if name.schema == "public" {
        name.name.clone()
    } else {
        name.to_string()
    }
}

/// The time since a moment, as `interval` reads it.
fn age(at: SystemTime) -> String {
    // A clock that was set back makes it 0.
    let since = SystemTime::now().duration_since(at).unwrap_or_default();
    format!("{} seconds", since.as_secs())
}

fn lsn(lsn: Lsn) -> String {
    lsn.to_string()
}
