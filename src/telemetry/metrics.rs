//! The view and the counters at the moment of a scrape → Prometheus text. Labelled by index, never by query.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use prometheus::{Encoder, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

use super::Sources;
use crate::index::view::{IndexState, Phase, View};
use crate::session::Counters;

/// The exposition format's media type.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Names and help texts. Base units, and `_total` where a value only grows.
mod names {
    pub(super) type Name = (&'static str, &'static str);

    pub(super) const BUILD: Name = ("rektor_build_info", "1, labelled by version");
    pub(super) const MEMORY: Name = (
        "process_resident_memory_bytes",
        "Resident memory size in bytes",
    );
    pub(super) const STREAMING: Name = (
        "rektor_replication_streaming",
        "1 while the replication stream is connected",
    );
    pub(super) const LAG: Name = (
        "rektor_replication_lag_bytes",
        "WAL bytes that upstream has written and Rektor has not made durable",
    );
    pub(super) const POSITION: Name = (
        "rektor_replication_position_bytes",
        "WAL position, labelled by what has come so far: upstream, received, durable",
    );
    pub(super) const LAG_SECONDS: Name = (
        "rektor_replication_lag_seconds",
        "How long the oldest commit waits that has arrived and is not searchable everywhere; absent when the stream is down and none waits",
    );
    pub(super) const SLOT_RETAINED: Name = (
        "rektor_slot_retained_wal_bytes",
        "WAL bytes that upstream keeps for the replication slot",
    );
    pub(super) const SLOT_SAFE: Name = (
        "rektor_slot_safe_wal_bytes",
        "WAL bytes that can be written before the slot is in danger; absent if max_slot_wal_keep_size sets no limit",
    );
    pub(super) const SLOT_STATUS: Name = (
        "rektor_slot_wal_status",
        "1 for the state of the slot's WAL: reserved, extended, unreserved, lost",
    );
    pub(super) const LAST_ERROR: Name = (
        "rektor_last_error_timestamp_seconds",
        "When the newest error of the stream, the catalogue or a copy came up",
    );
    pub(super) const INDEX_LAG_SECONDS: Name = (
        "rektor_index_lag_seconds",
        "How long the oldest commit waits that has arrived and that the index does not show; absent while it does not serve",
    );
    pub(super) const INDEX_ROWS: Name = ("rektor_index_rows", "Rows that a search can find");
    pub(super) const INDEX_LEFT_OUT: Name = (
        "rektor_index_left_out_rows",
        "Rows without an indexable vector: NULL, of another dimension, zero under cosine",
    );
    pub(super) const INDEX_UNLINKED: Name = (
        "rektor_index_unlinked_rows",
        "Rows not in the graph yet, searched exactly",
    );
    pub(super) const INDEX_DEAD: Name = (
        "rektor_index_dead_rows",
        "Dead rows that are still in the graph",
    );
    pub(super) const INDEX_MEMORY: Name = (
        "rektor_index_memory_bytes",
        "Memory that the index holds, without what is mapped from files",
    );
    pub(super) const INDEX_MEMORY_PARTS: Name = (
        "rektor_index_memory_part_bytes",
        "The same by part: vectors, codes, graph, keys, records, filters, other; and mapped, vectors in files",
    );
    pub(super) const MEMORY_USED: Name = (
        "rektor_memory_used_bytes",
        "Memory that all indexes hold, those in the making too",
    );
    pub(super) const MEMORY_LIMIT: Name = (
        "rektor_memory_limit_bytes",
        "What they may hold (max_memory); absent if there is no bound",
    );
    pub(super) const INDEX_LAG: Name = (
        "rektor_index_lag_bytes",
        "WAL bytes that upstream has written and the index does not show; absent while it does not serve",
    );
    pub(super) const INDEX_PHASE: Name = (
        "rektor_index_phase",
        "1 for the phase that the index is in: copying, building, ready, failed",
    );
    pub(super) const INDEX_PROGRESS: Name = (
        "rektor_index_progress_ratio",
        "How much of the copy, or of the build, is done",
    );
    pub(super) const INDEX_LEFT_OUT_CHANGES: Name = (
        "rektor_index_left_out_changes_total",
        "Changes whose value could not be indexed",
    );
    pub(super) const AUDIT_FETCHED: Name = (
        "rektor_audit_fetched_rows_total",
        "Rows fetched by key because the stream told of them only in part",
    );
    pub(super) const AUDIT_MENDED: Name = (
        "rektor_audit_mended_rows_total",
        "Rows that were not as in their table, and were put right",
    );
    pub(super) const AUDIT_TIMESTAMP: Name = (
        "rektor_audit_timestamp_seconds",
        "When the last comparison of all keys with the table ended, since 1970; 0 before the first",
    );
    pub(super) const SESSIONS: Name = ("rektor_sessions", "Client sessions that are open");
    pub(super) const KNN: Name = (
        "rektor_knn_statements_total",
        "k-NN statements, labelled by the way they were answered: nominate, exact, relay",
    );
    pub(super) const RELAYED: Name = (
        "rektor_knn_relayed_total",
        "k-NN statements that went upstream as they were, labelled by the reason",
    );
    pub(super) const CANDIDATES: Name =
        ("rektor_knn_candidates_total", "Keys proposed to upstream");
    pub(super) const WIDENINGS: Name = (
        "rektor_knn_widenings_total",
        "Attempts that came back short and were repeated with more candidates",
    );
    pub(super) const LOOKUPS: Name = (
        "rektor_lookups_total",
        "Look-ups of settings and rights in clients' sessions",
    );
    pub(super) const DDL: Name = (
        "rektor_index_statements_total",
        "Statements that define indexes, carried out upstream",
    );
}

/// A registry of one scrape: an index that is gone leaves nothing behind.
struct Page {
    registry: Registry,
}

impl Page {
    fn gauges(
        &self,
        (name, help): names::Name,
        label_names: &[&str],
    ) -> Result<GaugeVec, prometheus::Error> {
        let gauges = GaugeVec::new(Opts::new(name, help), label_names)?;
        self.registry.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn gauge(&self, name: names::Name, value: f64) -> Result<(), prometheus::Error> {
        self.gauges(name, &[])?
            .get_metric_with_label_values::<&str>(&[])?
            .set(value);
        Ok(())
    }

    fn counters(
        &self,
        (name, help): names::Name,
        label_names: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), label_names)?;
        self.registry.register(Box::new(counters.clone()))?;
        Ok(counters)
    }
}

/// The page at this moment.
pub(super) fn render(sources: &Sources) -> Result<String, prometheus::Error> {
    let page = Page {
        registry: Registry::new(),
    };
    page.gauges(names::BUILD, &["version"])?
        .get_metric_with_label_values(&[env!("CARGO_PKG_VERSION")])?
        .set(1.0);
    if let Some(bytes) = resident_memory() {
        page.gauge(names::MEMORY, as_f64(bytes))?;
    }
    let view = sources.view.borrow().clone();
    if let Some(memory) = &view.memory {
        page.gauge(names::MEMORY_USED, as_f64(memory.used()))?;
        if let Some(limit) = memory.limit() {
            page.gauge(names::MEMORY_LIMIT, as_f64(limit))?;
        }
    }
    replication(&page, &view)?;
    indexes(&page, &view)?;
    front_end(&page, &sources.counters)?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&page.registry.gather(), &mut text)?;
    String::from_utf8(text).map_err(|e| prometheus::Error::Msg(e.to_string()))
}

fn replication(page: &Page, view: &View) -> Result<(), prometheus::Error> {
    page.gauge(names::STREAMING, f64::from(u8::from(view.streaming)))?;
    page.gauge(names::LAG, as_f64(view.upstream.bytes_since(view.durable)))?;
    if let Some(seconds) = view.lag_seconds(view.behind_since, SystemTime::now()) {
        page.gauge(names::LAG_SECONDS, seconds)?;
    }
    if let Some((_, at)) = &view.last_error {
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        page.gauge(names::LAST_ERROR, since.as_secs_f64())?;
    }
    slot(page, view)?;
    let positions = page.gauges(names::POSITION, &["position"])?;
    for (label, lsn) in [
        ("upstream", view.upstream),
        ("received", view.received),
        ("durable", view.durable),
    ] {
        positions
            .get_metric_with_label_values(&[label])?
            .set(as_f64(lsn.as_u64()));
    }
    Ok(())
}

fn slot(page: &Page, view: &View) -> Result<(), prometheus::Error> {
    let Some(slot) = &view.slot else {
        return Ok(());
    };
    page.gauge(names::SLOT_RETAINED, as_f64(slot.retained))?;
    if let Some(safe) = slot.safe {
        page.gauge(names::SLOT_SAFE, as_f64(u64::try_from(safe).unwrap_or(0)))?;
    }
    let statuses = page.gauges(names::SLOT_STATUS, &["status"])?;
    for each in ["reserved", "extended", "unreserved", "lost"] {
        statuses
            .get_metric_with_label_values(&[each])?
            .set(f64::from(u8::from(each == slot.wal_status)));
    }
    Ok(())
}

fn indexes(page: &Page, view: &View) -> Result<(), prometheus::Error> {
    let rows = page.gauges(names::INDEX_ROWS, &["index"])?;
    let left_out = page.gauges(names::INDEX_LEFT_OUT, &["index"])?;
    let unlinked = page.gauges(names::INDEX_UNLINKED, &["index"])?;
    let dead = page.gauges(names::INDEX_DEAD, &["index"])?;
    let memory = page.gauges(names::INDEX_MEMORY, &["index"])?;
    let parts = page.gauges(names::INDEX_MEMORY_PARTS, &["index", "part"])?;
    let lag = page.gauges(names::INDEX_LAG, &["index"])?;
    let lag_times = page.gauges(names::INDEX_LAG_SECONDS, &["index"])?;
    let phases = page.gauges(names::INDEX_PHASE, &["index", "phase"])?;
    let progress = page.gauges(names::INDEX_PROGRESS, &["index"])?;
    let changes = page.counters(names::INDEX_LEFT_OUT_CHANGES, &["index"])?;
    let fetched = page.counters(names::AUDIT_FETCHED, &["index"])?;
    let mended = page.counters(names::AUDIT_MENDED, &["index"])?;
    let audited = page.gauges(names::AUDIT_TIMESTAMP, &["index"])?;
    for index in &view.indexes {
        let name = index.definition.name.to_string();
        let label = &[name.as_str()];
        let stats = index
            .snapshot
            .as_ref()
            .map(|snapshot| snapshot.stats())
            .unwrap_or_default();
        for (gauges, value) in [
            (&rows, stats.live),
            (&left_out, stats.left_out),
            (&unlinked, stats.unlinked),
            (&dead, stats.dead),
            (&memory, stats.memory.total()),
        ] {
            gauges
                .get_metric_with_label_values(label)?
                .set(as_f64(value));
        }
        for (part, bytes) in stats.memory.iter() {
            parts
                .get_metric_with_label_values(&[&name, part.name()])?
                .set(as_f64(bytes));
        }
        if let Some(applied) = index.serves_to() {
            lag.get_metric_with_label_values(label)?
                .set(as_f64(view.upstream.bytes_since(applied)));
            if let Some(seconds) = view.lag_seconds(index.behind_since, SystemTime::now()) {
                lag_times.get_metric_with_label_values(label)?.set(seconds);
            }
        }
        let at = index.audit.audited_at;
        let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        audited
            .get_metric_with_label_values(label)?
            .set(since.unwrap_or_default().as_secs_f64());
        for (counters, value) in [
            (&changes, index.left_out_changes),
            (&fetched, index.audit.fetched),
            (&mended, index.audit.mended),
        ] {
            counters.get_metric_with_label_values(label)?.inc_by(value);
        }
        let (phase, done) = phase(index);
        progress.get_metric_with_label_values(label)?.set(done);
        for each in ["copying", "building", "ready", "failed"] {
            phases
                .get_metric_with_label_values(&[&name, each])?
                .set(f64::from(u8::from(each == phase)));
        }
    }
    Ok(())
}

fn front_end(page: &Page, counters: &Counters) -> Result<(), prometheus::Error> {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let open = counters.sessions.load(Ordering::Relaxed);
    page.gauge(names::SESSIONS, as_f64(u64::try_from(open).unwrap_or(0)))?;
    let by_reason = counters.relayed_by_reason();
    let searches = page.counters(names::KNN, &["way"])?;
    for (way, value) in [
        ("nominate", count(&counters.nominated)),
        ("exact", count(&counters.exact)),
        ("relay", by_reason.iter().map(|(_, value)| value).sum()),
    ] {
        searches.get_metric_with_label_values(&[way])?.inc_by(value);
    }
    let relayed = page.counters(names::RELAYED, &["reason"])?;
    for (reason, value) in &by_reason {
        relayed
            .get_metric_with_label_values(&[reason])?
            .inc_by(*value);
    }
    for (name, counter) in [
        (names::CANDIDATES, &counters.candidates),
        (names::WIDENINGS, &counters.widenings),
        (names::LOOKUPS, &counters.lookups),
        (names::DDL, &counters.ddl),
    ] {
        let counters = page.counters(name, &[])?;
        counters
            .get_metric_with_label_values::<&str>(&[])?
            .inc_by(count(counter));
    }
    Ok(())
}

/// A phase's name, and how much of it is done, from 0 to 1.
fn phase(index: &IndexState) -> (&'static str, f64) {
    match index.phase {
        Phase::Copying { percent } => ("copying", f64::from(percent) / 100.0),
        Phase::Building { percent } => ("building", f64::from(percent) / 100.0),
        Phase::Ready => ("ready", 1.0),
        Phase::Failed { .. } => ("failed", 0.0),
    }
}

/// Metrics are floating-point numbers: exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn as_f64(value: u64) -> f64 {
    value as f64
}

/// FAISS allocates outside of Rust: only the kernel knows all of it.
fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::lsn::Lsn;

    #[test]
    fn a_page_tells_of_the_view() {
        let view = View {
            streaming: true,
            upstream: Lsn::new(500),
            durable: Lsn::new(200),
            ..View::default()
        };
        let (_sender, view) = watch::channel(Arc::new(view));
        let counters = Arc::new(Counters::default());
        counters.nominated.fetch_add(7, Ordering::Relaxed);
        let page = render(&Sources { view, counters }).unwrap();
        for line in [
            "rektor_replication_streaming 1",
            "rektor_replication_lag_bytes 300",
            "rektor_knn_statements_total{way=\"nominate\"} 7",
            "rektor_replication_position_bytes{position=\"upstream\"} 500",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
    }
}
