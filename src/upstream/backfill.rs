//! Tables → their rows as of one position of the WAL: a temporary slot's snapshot, read by several sessions with binary copies
//! of ranges of pages. Never sees a later row, and fails rather than leaving one out. Knows nothing of indexes.

mod pieces;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::Config;
use tokio_postgres::types::ToSql;

use crate::catalog::{ColumnNumber, QualifiedName, RelationId};
use crate::lsn::Lsn;
use crate::upstream::sql::SqlSession;
use crate::upstream::walsender::{CreatedSlot, ReplicationConnection, SlotKind, SlotSnapshot};
use crate::upstream::{UpstreamError, slot};
use crate::wal::copy::CopyDecoder;
use crate::wal::pgoutput::Datum;
use pieces::{Part, copy_statement, divide};

/// Rows handed on together: few enough to stay in a cache, enough to make the channel's cost vanish.
const BATCH_ROWS: usize = 256;
/// Bytes after which a batch is handed on with fewer rows.
const BATCH_BYTES: usize = 1 << 20;
/// Between two looks at whom the creation of a slot waits for.
const BLOCKER_INTERVAL: Duration = Duration::from_secs(2);

/// What to copy of one table.
#[derive(Clone, Debug)]
pub struct TableCopy {
    /// The table.
    pub relation: RelationId,
    /// Its name, for messages.
    pub name: QualifiedName,
    /// The columns of each row, in this order.
    pub columns: Vec<String>,
    /// Their numbers.
    pub numbers: Vec<ColumnNumber>,
    /// The publication's row filter, as SQL.
    pub row_filter: Option<String>,
}

/// Some rows of one table, each value binary or NULL.
#[derive(Debug)]
pub struct RowBatch {
    /// Which of the tables that were asked for.
    pub table: usize,
    /// The rows.
    pub rows: Vec<Vec<Datum>>,
}

/// Why a copy failed, and on which of its tables if on one.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct BackfillError {
    /// The table whose fault it is.
    pub table: Option<usize>,
    /// What happened.
    pub error: UpstreamError,
}

impl<E: Into<UpstreamError>> From<E> for BackfillError {
    fn from(error: E) -> Self {
        Self {
            table: None,
            error: error.into(),
        }
    }
}

/// A consistent copy that is ready to run.
#[derive(Debug)]
pub struct Backfill {
    point: Lsn,
    sessions: Vec<SqlSession>,
    ranges: Arc<Ranges>,
}

/// What is left to read, and how much was.
#[derive(Debug)]
struct Ranges {
    waiting: Mutex<VecDeque<Range>>,
    tables: Vec<TableProgress>,
}

/// How far the copy of one table is.
#[derive(Debug, Default)]
struct TableProgress {
    total_blocks: u64,
    done_blocks: AtomicU64,
    estimated_rows: f64,
    /// Of them, those without a NULL.
    complete_rows: f64,
    rows: AtomicU64,
}

/// One COPY statement's part of a table.
#[derive(Debug)]
struct Range {
    table: usize,
    columns: usize,
    sql: String,
    blocks: u64,
}

/// How far the copies of the tables are.
#[derive(Clone, Debug)]
pub struct BackfillProgress(Arc<Ranges>);

impl BackfillProgress {
    /// Percent of a table that was read, by its pages or by the planner's estimate of its rows, whichever is further.
    #[must_use]
    pub fn percent(&self, table: usize) -> f32 {
        let Some(progress) = self.0.tables.get(table) else {
            return 0.0;
        };
        // Counts of pages and rows: precision beyond a float's does not matter for a percentage.
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        let share = |done: u64, total: f64| (done as f64 / total.max(1.0)) as f32;
        #[allow(clippy::cast_precision_loss)]
        let total_blocks = progress.total_blocks as f64;
        let pages = share(progress.done_blocks.load(Ordering::Relaxed), total_blocks);
        let rows = share(
            progress.rows.load(Ordering::Relaxed),
            progress.estimated_rows,
        );
        (pages.max(rows) * 100.0).min(99.9)
    }

    /// The planner's estimate of a table's rows that have a value in every column that is copied.
    #[must_use]
    pub fn complete_rows(&self, table: usize) -> u64 {
        let rows = self.0.tables.get(table).map_or(0.0, |t| t.complete_rows);
        // Never negative, and far from 2^64.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        {
            rows as u64
        }
    }
}

impl Backfill {
    /// Takes the snapshot and opens the sessions that will read it. Waits for running transactions, and tells whom it waits
    /// for through `report`.
    ///
    /// # Errors
    /// When anything fails; what was created upstream ends with the connections.
    pub async fn open(
        config: &Config,
        slot: &str,
        tables: &[TableCopy],
        sessions: usize,
        report: impl FnMut(String),
    ) -> Result<Self, BackfillError> {
        let watcher = SqlSession::connect(config).await?;
        let mut replication = ReplicationConnection::connect(config).await?;
        let creation = replication.create_slot(slot, SlotKind::Temporary, SlotSnapshot::Export);
        let created = while_telling(creation, &watcher, slot, report).await?;
        let CreatedSlot {
            consistent_point: point,
            snapshot: Some(snapshot),
        } = created
        else {
            return Err(UpstreamError::Protocol("the slot exported no snapshot".into()).into());
        };
        let first = import(config, &snapshot, tables).await?;
        // The locks keep names as they are: a name that meant another column until now would be copied in its place.
        for (number, table) in tables.iter().enumerate() {
            let named = as_named(&watcher, table).await;
            named.map_err(|error| BackfillError {
                table: Some(number),
                error,
            })?;
        }
        let ranges = plan(&first, tables, sessions).await?;
        let wanted = sessions.min(ranges.waiting().len()).max(1);
        let mut opened = vec![first];
        for _ in 1..wanted {
            opened.push(import(config, &snapshot, tables).await?);
        }
        // Every session has its snapshot: the slot, which would hold back the server's clean-up, can go.
        replication.close().await?;
        Ok(Self {
            point,
            sessions: opened,
            ranges: Arc::new(ranges),
        })
    }

    /// The rows are those of the transactions whose commit record is before this position.
    #[must_use]
    pub fn point(&self) -> Lsn {
        self.point
    }

    /// For watching the copy.
    #[must_use]
    pub fn progress(&self) -> BackfillProgress {
        BackfillProgress(Arc::clone(&self.ranges))
    }

    /// Reads all rows into `rows`, and waits while that is full. All were sent only if this returns success.
    ///
    /// # Errors
    /// When anything fails, or no one receives.
    pub async fn run(self, rows: mpsc::Sender<RowBatch>) -> Result<(), BackfillError> {
        let mut readers = JoinSet::new();
        let mut sessions = Vec::with_capacity(self.sessions.len());
        for session in self.sessions {
            let session = Arc::new(session);
            sessions.push(Arc::clone(&session));
            let (ranges, rows) = (Arc::clone(&self.ranges), rows.clone());
            readers.spawn(async move {
                while let Some(range) = ranges.next() {
                    let done = read_range(&session, &range, &ranges, &rows).await;
                    done.map_err(|error| BackfillError {
                        table: Some(range.table),
                        error,
                    })?;
                }
                Ok::<_, BackfillError>(())
            });
        }
        // Dropping the set, on an error, ends the others. The sessions' locks are held until all have read.
        while let Some(reader) = readers.join_next().await {
            reader
                .map_err(|_| UpstreamError::Protocol("a reader of the copy panicked".into()))??;
        }
        for session in sessions {
            session.client().batch_execute("commit").await?;
        }
        Ok(())
    }
}

/// Awaits the creation of a slot and tells meanwhile whom it waits for.
///
/// # Errors
/// When the creation fails.
pub async fn while_telling<T>(
    creation: impl Future<Output = Result<T, UpstreamError>>,
    watcher: &SqlSession,
    slot: &str,
    mut report: impl FnMut(String),
) -> Result<T, UpstreamError> {
    let mut creation = std::pin::pin!(creation);
    loop {
        match tokio::time::timeout(BLOCKER_INTERVAL, &mut creation).await {
            Ok(created) => return created,
            Err(_elapsed) => {
                if let Some(blockers) = slot::blockers(watcher, slot).await? {
                    report(blockers);
                }
            }
        }
    }
}

/// A session in the exported snapshot that holds the tables still.
async fn import(
    config: &Config,
    snapshot: &str,
    tables: &[TableCopy],
) -> Result<SqlSession, BackfillError> {
    let session = SqlSession::connect(config).await?;
    let client = session.client();
    client
        .batch_execute(&format!(
            // Row security would leave rows out in silence; off, it is an error.
            "begin isolation level repeatable read read only; set transaction snapshot '{}'; set local row_security = off",
            snapshot.replace('\'', "''")
        ))
        .await?;
    for (number, table) in tables.iter().enumerate() {
        let fault = |error: UpstreamError| BackfillError {
            table: Some(number),
            error,
        };
        // Before and after the locks: only what is the same then is what the snapshot shows.
        let parts = parts(&session, table).await.map_err(fault)?;
        let paths = parts.iter().filter(|part| part.may_select);
        let locks: Vec<String> = paths.map(|part| format!("only {}", part.path)).collect();
        if !locks.is_empty() {
            let lock = format!("lock table {} in access share mode", locks.join(", "));
            let locked = client.batch_execute(&lock).await;
            locked.map_err(|error| fault(error.into()))?;
        }
    }
    Ok(session)
}

/// Fails if a column is called something else than what is to be copied. Outside of the snapshot: COPY looks names up anew.
async fn as_named(session: &SqlSession, table: &TableCopy) -> Result<(), UpstreamError> {
    let sql = include_str!("../../sql/ingest_columns.sql");
    let numbers: Vec<i16> = table.numbers.iter().map(|number| number.0).collect();
    let parameters: [&(dyn ToSql + Sync); 3] = [&table.relation.0, &numbers, &table.columns];
    let row = session.client().query_one(sql, &parameters).await?;
    if row.try_get("as_named")? {
        return Ok(());
    }
    Err(UpstreamError::Changed(format!(
        "columns of table {} were renamed while its copy began",
        table.name
    )))
}

async fn parts(session: &SqlSession, table: &TableCopy) -> Result<Vec<Part>, UpstreamError> {
    let sql = include_str!("../../sql/ingest_leaves.sql");
    let rows = session
        .client()
        .query(sql, &[&table.relation.0, &table.columns])
        .await?;
    let mut parts = Vec::with_capacity(rows.len());
    for row in rows {
        parts.push(Part {
            path: row.try_get("path")?,
            partitioned: row.try_get("partitioned")?,
            blocks: row.try_get("blocks")?,
            rows: row.try_get("rows")?,
            complete_rows: row.try_get("complete_rows")?,
            may_select: row.try_get("may_select")?,
            moved: row.try_get("moved")?,
        });
    }
    Ok(parts)
}

/// Divides the tables into ranges. The session holds their locks, so that what it finds stays.
async fn plan(
    session: &SqlSession,
    tables: &[TableCopy],
    sessions: usize,
) -> Result<Ranges, BackfillError> {
    let mut waiting = VecDeque::new();
    let mut progress = Vec::with_capacity(tables.len());
    for (number, table) in tables.iter().enumerate() {
        let fault = |error: UpstreamError| BackfillError {
            table: Some(number),
            error,
        };
        let parts = parts(session, table).await.map_err(fault)?;
        if parts.is_empty() || parts.iter().any(|part| part.moved) {
            return Err(fault(UpstreamError::Changed(format!(
                "table {} was rewritten, truncated, renamed or dropped while its copy began",
                table.name
            ))));
        }
        let pieces = divide(&parts, sessions);
        let leaves = parts.iter().filter(|part| !part.partitioned);
        let mut done = TableProgress {
            complete_rows: leaves.map(|part| part.complete_rows).sum(),
            ..TableProgress::default()
        };
        for piece in pieces {
            done.total_blocks += piece.blocks;
            done.estimated_rows += piece.rows;
            waiting.push_back(Range {
                table: number,
                columns: table.columns.len(),
                sql: copy_statement(table, &piece),
                blocks: piece.blocks,
            });
        }
        progress.push(done);
    }
    Ok(Ranges {
        waiting: Mutex::new(waiting),
        tables: progress,
    })
}

impl Ranges {
    /// Nothing that holds the lock can leave the queue half changed.
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Range>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Range> {
        self.waiting().pop_front()
    }
}

/// Runs one COPY.
async fn read_range(
    session: &SqlSession,
    range: &Range,
    ranges: &Ranges,
    out: &mpsc::Sender<RowBatch>,
) -> Result<(), UpstreamError> {
    let stream = session.client().copy_out(&range.sql).await?;
    let mut stream = std::pin::pin!(stream);
    let mut decoder = CopyDecoder::new(range.columns);
    let mut batch = Vec::with_capacity(BATCH_ROWS);
    let mut bytes = 0;
    let bad = |error| UpstreamError::Protocol(format!("{error}"));
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        bytes += chunk.len();
        decoder.feed(&chunk);
        while let Some(row) = decoder.next_row().map_err(bad)? {
            batch.push(row);
        }
        if batch.len() >= BATCH_ROWS || bytes >= BATCH_BYTES {
            bytes = 0;
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_ROWS));
            ranges.send(range, full, out).await?;
        }
    }
    decoder.finish().map_err(bad)?;
    ranges.send(range, batch, out).await?;
    if let Some(progress) = ranges.tables.get(range.table) {
        progress
            .done_blocks
            .fetch_add(range.blocks, Ordering::Relaxed);
    }
    Ok(())
}

impl Ranges {
    async fn send(
        &self,
        range: &Range,
        rows: Vec<Vec<Datum>>,
        out: &mpsc::Sender<RowBatch>,
    ) -> Result<(), UpstreamError> {
        if let Some(progress) = self.tables.get(range.table) {
            progress
                .rows
                .fetch_add(rows.len() as u64, Ordering::Relaxed);
        }
        let table = range.table;
        let sent = out.send(RowBatch { table, rows }).await;
        sent.map_err(|_| UpstreamError::Protocol("the copy was given up".into()))
    }
}
