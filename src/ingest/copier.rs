//! Orders to copy → tables read at one position → writers full of their rows, handed to the applier. One copy at a time.
//! Never hands over a writer that lacks a row.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::Config;

use crate::catalog::{FilterKind, IndexId};
use crate::index::{IndexError, Memory, Outcome, Writer};
use crate::ingest::apply::Control;
use crate::ingest::indexes::{CopiedIndex, CopyOrder, kinds, needs, spec};
use crate::ingest::projection::{Projection, ProjectionError, table_copy};
use crate::ingest::stopped;
use crate::lsn::Lsn;
use crate::upstream::Disposition;
use crate::upstream::backfill::{Backfill, BackfillError, BackfillProgress, RowBatch, TableCopy};
use crate::upstream::catalogue::IndexEntry;
use crate::wal::pgoutput::{Datum, Relation};
use crate::wal::transaction::{Change, RowImage};

/// Sessions that read at the same time. Indexing is slower than reading: more would wait.
const SESSIONS: usize = 2;
/// Batches read ahead, each at most about 1 MiB.
const BATCHES: usize = 8;
/// Rows after which what was copied is shown to the engine's linker, which works on it while the copy goes on.
const PUBLISH_ROWS: u64 = 10_000;
/// Between two reports of progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// Pause after a copy that failed by no table's fault; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// Longest pause.
const PAUSE_MOST: Duration = Duration::from_secs(30);

/// Why a copy failed, and by which table's fault.
#[derive(Debug, thiserror::Error)]
enum CopyFailure {
    #[error("{0}")]
    Backfill(BackfillError),
    #[error("{error}")]
    Row { table: usize, error: RowError },
    /// Of that index alone, which needs so many bytes.
    #[error("{error}")]
    Memory {
        id: IndexId,
        needs: u64,
        error: IndexError,
    },
    #[error("the copy's indexing thread panicked")]
    Panicked,
}

/// Why a copied row could not be indexed.
#[derive(Debug, thiserror::Error)]
enum RowError {
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(transparent)]
    Engine(#[from] IndexError),
    #[error("the engine does not know what to do with a copied row")]
    Outcome,
}

impl CopyFailure {
    /// The indexes whose fault it is, given those of each table. A connection that ended or a lock that was not free is
    /// nobody's.
    fn faulty(&self, ids: &[Vec<IndexId>]) -> Option<Vec<IndexId>> {
        let table = match self {
            Self::Memory { id, .. } => return Some(vec![*id]),
            Self::Backfill(BackfillError { table, error }) => {
                let passes = error.disposition() == Disposition::Retry;
                table.filter(|_| !passes)
            }
            Self::Row { table, .. } => Some(*table),
            Self::Panicked => None,
        };
        table.and_then(|table| ids.get(table)).cloned()
    }

    /// Bytes of memory that the faulty index needs, if it is that.
    fn needs(&self) -> u64 {
        match self {
            Self::Memory { needs, .. } => *needs,
            Self::Backfill(_) | Self::Row { .. } | Self::Panicked => 0,
        }
    }
}

/// Copies whatever is wanted until `stop`.
pub(crate) async fn run(
    config: Config,
    slot: String,
    controls: mpsc::Sender<Control>,
    mut wanted: watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            wanted = wanted.wait_for(|wanted| *wanted) => if wanted.is_err() { return },
        }
        let (answer, order) = oneshot::channel();
        if controls.send(Control::CopyBegin(answer)).await.is_err() {
            return;
        }
        let Ok(order) = order.await else { return };
        let Some(order) = order else { continue };
        let job = order.job;
        let memory = Arc::clone(&order.memory);
        let tables = Table::of(order);
        let ids: Vec<Vec<IndexId>> = tables.iter().map(Table::ids).collect();
        let done = copy(&config, &slot, job, (tables, memory), &controls, &mut stop).await;
        let outcome = match done {
            Ok(None) => return,
            Ok(Some((point, indexes))) => {
                pause = Duration::ZERO;
                Control::Copied {
                    job,
                    point,
                    indexes,
                }
            }
            Err(failure) => {
                let faulty = failure.faulty(&ids);
                if faulty.is_none() {
                    pause = (pause * 2).clamp(PAUSE_FIRST, PAUSE_MOST);
                }
                tracing::warn!(error = %failure, "a copy failed and will be tried again");
                Control::CopyFailed {
                    job,
                    faulty: faulty.unwrap_or_default(),
                    error: failure.to_string(),
                    needs: failure.needs(),
                }
            }
        };
        if controls.send(outcome).await.is_err() {
            return;
        }
        // Until the applier has taken it over, the order stands as it was.
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// A table of a copy with the indexes that it fills.
struct Table {
    copy: TableCopy,
    relation: Arc<Relation>,
    entries: Vec<IndexEntry>,
}

impl Table {
    fn of(order: CopyOrder) -> Vec<Self> {
        let mut tables: Vec<Self> = Vec::new();
        let mut groups: Vec<Vec<IndexEntry>> = Vec::new();
        for entry in order.entries {
            let same = |group: &&mut Vec<IndexEntry>| {
                group
                    .first()
                    .is_some_and(|e| e.definition.relation == entry.definition.relation)
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(entry),
                None => groups.push(vec![entry]),
            }
        }
        for entries in groups {
            let definitions: Vec<_> = entries.iter().map(|entry| &*entry.definition).collect();
            let filter = entries.first().and_then(|entry| entry.row_filter.clone());
            let (copy, relation) = table_copy(&definitions, filter);
            tables.push(Self {
                copy,
                relation,
                entries,
            });
        }
        tables
    }

    fn ids(&self) -> Vec<IndexId> {
        self.entries
            .iter()
            .map(|entry| entry.definition.id)
            .collect()
    }
}

/// One copy. `None` when it was stopped.
async fn copy(
    config: &Config,
    slot: &str,
    job: u64,
    (tables, memory): (Vec<Table>, Arc<Memory>),
    controls: &mpsc::Sender<Control>,
    stop: &mut watch::Receiver<bool>,
) -> Result<Option<(Lsn, Vec<CopiedIndex>)>, CopyFailure> {
    let copies: Vec<TableCopy> = tables.iter().map(|table| table.copy.clone()).collect();
    let names: Vec<String> = copies.iter().map(|copy| copy.name.to_string()).collect();
    // Distinct from that of an earlier process whose connection upstream has not given up yet.
    let temporary = format!("{slot:.40}_copy_{}_{job}", std::process::id());
    let report = |blockers: String| {
        let reason = format!("the copy of {} is {blockers}", names.join(", "));
        tracing::warn!("{reason}");
        if controls.try_send(Control::CopyWaits(reason)).is_err() {
            tracing::debug!("the applier is busy");
        }
    };
    let opening = Backfill::open(config, &temporary, &copies, SESSIONS, report);
    let backfill = tokio::select! {
        biased;
        () = stopped(stop) => return Ok(None),
        opened = opening => opened.map_err(CopyFailure::Backfill)?,
    };
    let (point, progress) = (backfill.point(), backfill.progress());
    require_room(&tables, &progress, &memory)?;
    tracing::info!(tables = names.join(", "), %point, "copying");
    let ids: Vec<Vec<IndexId>> = tables.iter().map(Table::ids).collect();
    let (send, receive) = mpsc::channel(BATCHES);
    // Joined below in every case: it ends when the sender is gone.
    let indexing = tokio::task::spawn_blocking(move || index_rows(tables, &memory, point, receive));
    let read = tokio::select! {
        biased;
        () = stopped(stop) => None,
        read = backfill.run(send) => Some(read),
        never = report_progress(job, &ids, &progress, controls) => match never {},
    };
    let indexed = indexing.await.map_err(|_| CopyFailure::Panicked)?;
    let Some(read) = read else { return Ok(None) };
    // A row that cannot be indexed ends the reading too: that is the cause, and comes first.
    let indexes = indexed?;
    read.map_err(CopyFailure::Backfill)?;
    tracing::info!(tables = names.join(", "), %point, "copied");
    Ok(Some((point, indexes)))
}

async fn report_progress(
    job: u64,
    ids: &[Vec<IndexId>],
    progress: &BackfillProgress,
    controls: &mpsc::Sender<Control>,
) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let tables = ids.iter().enumerate();
        let percents = tables.flat_map(|(table, ids)| {
            let percent = progress.percent(table);
            ids.iter().map(move |id| (*id, percent))
        });
        let report = Control::CopyProgress {
            job,
            percents: percents.collect(),
        };
        if controls.try_send(report).is_err() {
            tracing::debug!("the applier is busy: a progress report is left out");
        }
    }
}

/// An index that is being filled.
struct Filling {
    entry: IndexEntry,
    projection: Projection,
    writer: Writer,
    left_out: u64,
}

/// Feeds copied rows to the writers, on a thread of its own. Complete only if the copy was: the caller knows.
fn index_rows(
    tables: Vec<Table>,
    memory: &Arc<Memory>,
    point: Lsn,
    mut batches: mpsc::Receiver<RowBatch>,
) -> Result<Vec<CopiedIndex>, CopyFailure> {
    let mut filling = Vec::with_capacity(tables.len());
    for (table, from) in tables.iter().enumerate() {
        filling.push(begin(from, memory).map_err(|error| CopyFailure::Row { table, error })?);
    }
    let mut since_publication = 0;
    while let Some(RowBatch { table, rows }) = batches.blocking_recv() {
        let (Some(indexes), Some(from)) = (filling.get_mut(table), tables.get(table)) else {
            continue; // the reader numbers tables as it was given them
        };
        since_publication += rows.len() as u64;
        for row in rows {
            fill(indexes, &from.relation, point, row)
                .map_err(|(index, error)| failure(table, index, error))?;
        }
        if since_publication >= PUBLISH_ROWS {
            since_publication = 0;
            for index in filling.iter_mut().flatten() {
                index.writer.publish(point);
            }
        }
    }
    let done = filling.into_iter().flatten().map(|index| CopiedIndex {
        entry: index.entry,
        writer: index.writer,
        left_out: index.left_out,
    });
    Ok(done.collect())
}

fn begin(table: &Table, memory: &Arc<Memory>) -> Result<Vec<Filling>, RowError> {
    let fillings = table.entries.iter().map(|entry| {
        Ok(Filling {
            entry: entry.clone(),
            projection: Projection::new(&entry.definition, &table.relation)?,
            writer: Writer::within(spec(&entry.definition), memory)?
                .filtered_on(kinds(&entry.definition)),
            left_out: 0,
        })
    });
    fillings.collect()
}

/// Why the copy ends when a row of a table cannot be put into an index.
fn failure(table: usize, index: &Filling, error: RowError) -> CopyFailure {
    match error {
        RowError::Engine(error @ IndexError::Memory { .. }) => CopyFailure::Memory {
            id: index.entry.definition.id,
            needs: needs(index.writer.held()),
            error,
        },
        error @ (RowError::Projection(_) | RowError::Engine(_) | RowError::Outcome) => {
            CopyFailure::Row { table, error }
        }
    }
}

/// Refuses an index that cannot fit beside those before it, by the planner's estimate of its table.
fn require_room(
    tables: &[Table],
    progress: &BackfillProgress,
    memory: &Memory,
) -> Result<(), CopyFailure> {
    let mut wanted = 0_u64;
    for (table, from) in tables.iter().enumerate() {
        for entry in &from.entries {
            let include = entry.definition.include.iter().map(FilterKind::of);
            let rows = progress.complete_rows(table);
            let needs = spec(&entry.definition).estimate(rows, include, memory);
            wanted = wanted.saturating_add(needs);
            memory.check(wanted).map_err(|error| CopyFailure::Memory {
                id: entry.definition.id,
                needs,
                error,
            })?;
        }
    }
    Ok(())
}

/// With the index that does not take the row.
fn fill<'f>(
    indexes: &'f mut [Filling],
    relation: &Arc<Relation>,
    point: Lsn,
    row: Vec<Datum>,
) -> Result<(), (&'f Filling, RowError)> {
    let change = Change {
        commit_lsn: point,
        relation: Arc::clone(relation),
        row: RowImage::Insert { new: row },
    };
    for index in indexes {
        let put = index.put(&change);
        put.map_err(|error| (&*index, error))?;
    }
    Ok(())
}

impl Filling {
    fn put(&mut self, change: &Change) -> Result<(), RowError> {
        match self.writer.apply(self.projection.change(change)?)? {
            Outcome::Indexed => {}
            Outcome::LeftOut(_) => self.left_out += 1,
            Outcome::Removed | Outcome::Unknown => return Err(RowError::Outcome),
        }
        Ok(())
    }
}
