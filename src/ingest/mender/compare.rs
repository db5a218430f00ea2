//! Keys of an index → watched, their rows read, and what differs put right; what the applier and the table know of keys. Never
//! holds a snapshot upstream for longer than one chunk of keys takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::Config;

use crate::catalog::{IndexId, RowKey};
use crate::index::view::View;
use crate::index::{LeftOutView, RowChange};
use crate::ingest::apply::Control;
use crate::ingest::mending::{Fetched, MAX_WATCHED, Order, Refusal, Request, Row, Settled};
use crate::ingest::projection::{Projection, ProjectionError, table_copy};
use crate::lsn::Lsn;
use crate::upstream::rows::{ColumnMeaning, KeyedTable, TableReader};
use crate::upstream::{Disposition, UpstreamError};
use crate::wal::pgoutput::Relation;
use crate::wal::transaction::{Change, RowImage};

/// Keys compared at a time.
pub(super) const CHUNK: usize = MAX_WATCHED;
/// Of these, rows whose vectors are compared when nobody asked.
const SAMPLE: usize = 100;
/// Bytes of vectors compared at a time.
const WHOLE_BYTES: usize = 16 << 20;
/// Times that keys are looked at which change meanwhile.
const ATTEMPTS: u32 = 12;
/// Pause before such keys are looked at again; doubled each time.
const AGAIN_FIRST: Duration = Duration::from_millis(5);
/// Longest such pause.
const AGAIN_MOST: Duration = Duration::from_millis(500);
/// How long the applier may need to come to what was read before the server is asked to write its WAL.
const NUDGE_AFTER: Duration = Duration::from_millis(50);
/// How long the applier may need at all: with a stream that does not flow nothing can be told.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The same when nobody asked: rows that an index lacks must not wait for it.
pub(super) const PATIENCE_UNASKED: Duration = Duration::from_secs(2);
/// Between two tries to register a watch while a large transaction is half applied.
const BETWEEN_RETRY: Duration = Duration::from_millis(50);

/// Why keys could not be compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error("the index is not complete")]
    NotComplete,
    #[error("the index did not come to what was read in time")]
    Stuck,
    #[error(
        "a transaction as old as what was applied before Rektor began, or long ago, has not ended upstream"
    )]
    Unseen,
    #[error("too many rows differ: all are copied again")]
    TooMany,
    #[error("the write path stops")]
    Stopping,
}

impl Trouble {
    /// Whether fetching again may help.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Upstream(error) => error.disposition() == Disposition::Retry,
            Self::Stuck | Self::Unseen | Self::Stopping => true,
            Self::Projection(_) | Self::NotComplete | Self::TooMany => false,
        }
    }
}

/// Which of the rows are read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Whole,
    Sample,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) missing: u64,
    pub(super) extra: u64,
    pub(super) differing: u64,
    pub(super) unsettled: u64,
    pub(super) lsn: Lsn,
}

impl Tally {
    pub(super) fn add(&mut self, settled: &Settled) {
        self.missing += settled.missing;
        self.extra += settled.extra;
        self.differing += settled.differing;
        self.lsn = self.lsn.max(settled.lsn);
    }

    pub(super) fn mended(&self) -> u64 {
        self.missing + self.extra + self.differing
    }
}

/// Reads the table beside the stream, and asks the applier.
#[derive(Debug)]
pub(super) struct Comparer {
    pub(super) config: Config,
    pub(super) controls: mpsc::Sender<Control>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) reader: Option<TableReader>,
    /// How long the applier may need.
    pub(super) patience: Duration,
}

impl Comparer {
    /// Compares the rows of these keys, and puts right what differs.
    pub(super) async fn compare(
        &mut self,
        index: IndexId,
        keys: Vec<RowKey>,
        depth: Depth,
    ) -> Result<Tally, Trouble> {
        let mut tally = Tally::default();
        let (mut keys, mut pause) = (keys, AGAIN_FIRST);
        // For a moment a commit is applied here and not visible there; what lasts is something else.
        let mut always_unseen = true;
        if depth == Depth::Sample {
            let settled = self.compare_once(index, keys, depth).await?;
            tally.add(&settled);
            keys = settled.again;
        }
        for _ in 0..ATTEMPTS {
            let mut again = Vec::new();
            let mut unseen = false;
            let length = whole_rows(&self.view.borrow(), index);
            for keys in keys.chunks(length) {
                let settled = self
                    .compare_once(index, keys.to_vec(), Depth::Whole)
                    .await?;
                tally.add(&settled);
                unseen |= settled.unseen;
                again.extend(settled.again);
            }
            keys = again;
            always_unseen &= unseen;
            if keys.is_empty() {
                return Ok(tally);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MOST);
        }
        if always_unseen {
            return Err(Trouble::Unseen);
        }
        tally.unsettled = keys.len() as u64;
        Ok(tally)
    }

    async fn compare_once(
        &mut self,
        index: IndexId,
        keys: Vec<RowKey>,
        depth: Depth,
    ) -> Result<Settled, Trouble> {
        let order = self.watch(index, keys.clone()).await?;
        let number = order.number;
        let settled = match self.fetch(order, depth).await {
            Ok(fetched) => self.settle(number, index, fetched).await,
            Err(error) => Err(error),
        };
        if settled.is_err() {
            self.reader = None;
            let order = number;
            self.tell(Request::Release { order, index }).await?;
        }
        // Without an answer the index was sent to read a large transaction: a new watch begins when it is back.
        settled.map(|settled| {
            settled.unwrap_or(Settled {
                again: keys,
                ..Settled::default()
            })
        })
    }

    async fn watch(&self, index: IndexId, keys: Vec<RowKey>) -> Result<Order, Trouble> {
        let deadline = Instant::now() + self.patience;
        loop {
            let (answer, order) = oneshot::channel();
            let keys = keys.clone();
            self.tell(Request::Watch {
                index,
                keys,
                answer,
            })
            .await?;
            match order.await.map_err(|_| Trouble::Stopping)? {
                Ok(order) => return Ok(order),
                Err(Refusal::NotComplete) => return Err(Trouble::NotComplete),
                Err(Refusal::Later) if Instant::now() > deadline => return Err(Trouble::Stuck),
                Err(Refusal::Later) => tokio::time::sleep(BETWEEN_RETRY).await,
            }
        }
    }

    /// Reads the rows of a watch's keys.
    async fn fetch(&mut self, order: Order, depth: Depth) -> Result<Fetched, Trouble> {
        let (table, projection, relation) = keyed_table(&order)?;
        let mut keys = order.keys;
        let whole = match depth {
            Depth::Whole => keys.len(),
            Depth::Sample => spread(&mut keys, SAMPLE),
        };
        let (whole, looked_for) = keys.split_at(whole);
        let read = self
            .reader()
            .await?
            .fetch(&table, whole, looked_for)
            .await?;
        let mut rows = HashMap::with_capacity(read.rows.len() + read.present.len());
        for new in read.rows {
            let change = Change {
                commit_lsn: read.lsn,
                relation: Arc::clone(&relation),
                row: RowImage::Insert { new },
            };
            let change = projection.change(&change)?;
            if let RowChange::Upsert { key, .. } = &change {
                rows.insert(key.clone(), Row::Whole(change));
            }
        }
        rows.extend(read.present.into_iter().map(|key| (key, Row::Present)));
        Ok(Fetched {
            lsn: read.lsn,
            snapshot: read.snapshot,
            rows,
        })
    }

    /// Hands rows to the applier, and waits until it has come to them; `None` when the watch has ended before.
    async fn settle(
        &self,
        order: u64,
        index: IndexId,
        fetched: Fetched,
    ) -> Result<Option<Settled>, Trouble> {
        let (answer, mut settled) = oneshot::channel();
        let request = Request::Fetched {
            order,
            index,
            fetched,
            answer,
        };
        self.tell(request).await?;
        if let Ok(settled) = tokio::time::timeout(NUDGE_AFTER, &mut settled).await {
            return Ok(settled.ok());
        }
        if let Some(reader) = &self.reader {
            // Without it, the next record that the server writes by itself will do.
            if let Err(error) = reader.nudge().await {
                tracing::debug!(%error, "the server cannot be asked to write its WAL");
            }
        }
        match tokio::time::timeout(self.patience, settled).await {
            Ok(settled) => Ok(settled.ok()),
            Err(_) => Err(Trouble::Stuck),
        }
    }

    pub(super) async fn table_keys(
        &mut self,
        index: IndexId,
        after: Option<&RowKey>,
    ) -> Result<Vec<RowKey>, Trouble> {
        let order = self.watch(index, Vec::new()).await?; // for the table as the index knows it
        let (table, ..) = keyed_table(&order)?;
        let read = self.reader().await?.keys_after(&table, after, CHUNK).await;
        if read.is_err() {
            self.reader = None;
        }
        Ok(read?)
    }

    pub(super) async fn absent(
        &self,
        index: IndexId,
        keys: Vec<RowKey>,
    ) -> Result<Vec<RowKey>, Trouble> {
        for _ in 0..ATTEMPTS {
            let (answer, absent) = oneshot::channel();
            let keys = keys.clone();
            self.tell(Request::Absent {
                index,
                keys,
                answer,
            })
            .await?;
            match absent.await {
                Ok(absent) => return Ok(absent),
                // It was sent to read a large transaction: this waits until it is back.
                Err(_) => drop(self.watch(index, Vec::new()).await?),
            }
        }
        Err(Trouble::Stuck)
    }

    pub(super) async fn left_out(&self, index: IndexId) -> Result<LeftOutView, Trouble> {
        for _ in 0..ATTEMPTS {
            let (answer, rows) = oneshot::channel();
            self.tell(Request::LeftOut { index, answer }).await?;
            match rows.await {
                Ok(rows) => return Ok(rows),
                Err(_) => drop(self.watch(index, Vec::new()).await?),
            }
        }
        Err(Trouble::Stuck)
    }

    async fn reader(&mut self) -> Result<&mut TableReader, Trouble> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => TableReader::connect(&self.config).await?,
        };
        Ok(self.reader.insert(reader))
    }

    pub(super) async fn tell(&self, request: Request) -> Result<(), Trouble> {
        let sent = self.controls.send(Control::Mend(request)).await;
        sent.map_err(|_| Trouble::Stopping)
    }
}

/// How many rows of an index are read whole at a time.
fn whole_rows(view: &View, index: IndexId) -> usize {
    let words = view
        .index(index)
        .map_or(1, |index| index.definition.form().words());
    (WHOLE_BYTES / (words * 4)).clamp(1, CHUNK)
}

/// What to read of a watch's table, and how to understand it.
fn keyed_table(order: &Order) -> Result<(KeyedTable, Projection, Arc<Relation>), ProjectionError> {
    let definition = &order.entry.definition;
    let (table, relation) = table_copy(&[definition], order.entry.row_filter.clone());
    let projection = Projection::new(definition, &relation)?;
    let meaning = |name: &str, number, type_id| ColumnMeaning {
        name: name.to_owned(),
        number,
        type_id,
    };
    let key = definition.key.iter();
    let mut columns: Vec<_> = key
        .map(|column| meaning(&column.name, column.number, Some(column.kind.oid())))
        .collect();
    let vector = &definition.column;
    columns.push(meaning(&vector.name, vector.number, Some(vector.type_id)));
    // A domain's values come as those of its base type.
    let include = definition.include.iter();
    columns.extend(include.map(|column| meaning(&column.name, column.number, None)));
    let table = KeyedTable {
        table,
        key: definition.key.clone(),
        columns,
    };
    Ok((table, projection, relation))
}

/// Brings so many keys, from all over the list, to its beginning; how many there are.
fn spread(keys: &mut [RowKey], count: usize) -> usize {
    let count = count.min(keys.len());
    let step = keys.len() / count.max(1);
    for place in 0..count {
        keys.swap(place, place * step);
    }
    count
}
