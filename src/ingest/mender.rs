//! Rows that an index lacks, and keys to be compared → watches, fetched rows, and indexes that are as their tables. Compares
//! now and then unasked, and all of an index when somebody wants to know. Never holds a snapshot upstream for longer than one
//! chunk of keys takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::Config;

use crate::catalog::{IndexId, RowKey};
use crate::index::view::{IndexState, Phase, Verification, VerifyError, View};
use crate::index::{LeftOutView, RowId, Snapshot};
use crate::ingest::apply::Control;
use crate::ingest::mending::{Fetched, MAX_WATCHED, Order, Refusal, Request, Row, Settled};
use crate::ingest::projection::{Projection, ProjectionError, table_copy};
use crate::ingest::{recall, stopped};
use crate::lsn::Lsn;
use crate::upstream::rows::{ColumnMeaning, KeyedTable, TableReader};
use crate::upstream::{Disposition, UpstreamError};
use crate::wal::transaction::{Change, RowImage};

/// Keys compared at a time.
const CHUNK: usize = MAX_WATCHED;
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
const SETTLE_WITHIN: Duration = Duration::from_secs(60);
/// Between two tries to register a watch while a large transaction is half applied.
const BETWEEN_RETRY: Duration = Duration::from_millis(50);
/// Share of its time that the unasked comparison works: one part in so many.
const DUTY: u32 = 100;
/// Least pause between two chunks of it.
const PAUSE_LEAST: Duration = Duration::from_millis(200);
/// Pause between two comparisons of all indexes.
const PAUSE_ROUND: Duration = Duration::from_secs(10);
/// Pause after rows could not be fetched by no table's fault.
const PAUSE_FAILED: Duration = Duration::from_secs(1);
/// More rows to put right than this in one comparison mean that something is badly wrong: all are copied.
const MAX_MENDED: u64 = 50_000;

/// Who wants an index verified, and where the answer goes.
pub type VerifyRequest = (IndexId, oneshot::Sender<Result<Verification, VerifyError>>);

/// Why keys could not be compared.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error("the index is not complete")]
    NotComplete,
    #[error("the stream did not come to what was read within {} s", SETTLE_WITHIN.as_secs())]
    Stuck,
    #[error("too many rows differ: all are copied again")]
    TooMany,
    #[error("the write path stops")]
    Stopping,
}

impl Trouble {
    /// Whether fetching again may help.
    fn passes(&self) -> bool {
        match self {
            Self::Upstream(error) => error.disposition() == Disposition::Retry,
            Self::Stuck | Self::Stopping => true,
            Self::Projection(_) | Self::NotComplete | Self::TooMany => false,
        }
    }
}

/// Which of the rows are read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    Whole,
    Sample,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Tally {
    missing: u64,
    extra: u64,
    differing: u64,
    unsettled: u64,
    lsn: Lsn,
}

impl Tally {
    fn add(&mut self, settled: &Settled) {
        self.missing += settled.missing;
        self.extra += settled.extra;
        self.differing += settled.differing;
        self.lsn = self.lsn.max(settled.lsn);
    }

    fn mended(&self) -> u64 {
        self.missing + self.extra + self.differing
    }
}

/// A comparison of all of an index with its table, chunk by chunk.
#[derive(Debug)]
struct Pass {
    index: IndexId,
    depth: Depth,
    stage: Stage,
    rows_table: u64,
    tally: Tally,
}

/// What comes next.
#[derive(Debug)]
enum Stage {
    /// The table's keys after this one: does the index have them?
    Table {
        after: Option<RowKey>,
    },
    /// The index's rows from this one on: does the table have them, and the same?
    Rows {
        from: u32,
    },
    /// The rows without a vector, from this one on.
    LeftOut {
        rows: LeftOutView,
        from: usize,
    },
    Done,
}

impl Pass {
    fn new(index: IndexId, depth: Depth) -> Self {
        Self {
            index,
            depth,
            stage: Stage::Table { after: None },
            rows_table: 0,
            tally: Tally::default(),
        }
    }
}

/// Fetches rows, compares, verifies.
#[derive(Debug)]
pub(crate) struct Mender {
    config: Config,
    controls: mpsc::Sender<Control>,
    /// An index lacks rows.
    lacking: watch::Receiver<bool>,
    view: watch::Receiver<Arc<View>>,
    reader: Option<TableReader>,
}

impl Mender {
    pub(crate) fn new(
        config: Config,
        controls: mpsc::Sender<Control>,
        lacking: watch::Receiver<bool>,
        view: watch::Receiver<Arc<View>>,
    ) -> Self {
        Self {
            config,
            controls,
            lacking,
            view,
            reader: None,
        }
    }

    /// Works until `stop`.
    pub(crate) async fn run(
        mut self,
        mut asked: mpsc::Receiver<VerifyRequest>,
        mut stop: watch::Receiver<bool>,
    ) {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => {}
            () = self.work(&mut asked) => {}
        }
    }

    async fn work(&mut self, asked: &mut mpsc::Receiver<VerifyRequest>) {
        let mut audit = Round::default();
        loop {
            let asked = tokio::select! {
                biased;
                lacking = self.lacking.wait_for(|lacking| *lacking) => match lacking {
                    Ok(_) => None,
                    Err(_) => return,
                },
                asked = asked.recv() => match asked {
                    Some(asked) => Some(asked),
                    None => return,
                },
                () = tokio::time::sleep_until(audit.next.into()) => None,
            };
            self.fetch_lacking().await;
            if let Some((index, answer)) = asked {
                self.verify(index, answer).await;
            } else if audit.next <= Instant::now() {
                self.audit(&mut audit).await;
            }
        }
    }

    /// Fetches the rows that indexes lack.
    async fn fetch_lacking(&mut self) {
        while *self.lacking.borrow() {
            let (answer, lacking) = oneshot::channel();
            if self.tell(Request::Lacking(answer)).await.is_err() {
                return;
            }
            let Ok(Some(lacking)) = lacking.await else {
                return;
            };
            let index = lacking.index;
            match self.compare(index, lacking.keys, Depth::Whole).await {
                Ok(tally) if tally.unsettled == 0 => {}
                Ok(_) => {
                    self.give_up(
                        index,
                        "its rows change faster than they are fetched".to_owned(),
                    )
                    .await
                }
                Err(Trouble::NotComplete) => return,
                Err(trouble) if trouble.passes() => {
                    tracing::warn!(error = %trouble, "rows that an index lacks cannot be fetched yet");
                    tokio::time::sleep(PAUSE_FAILED).await;
                    return;
                }
                Err(trouble) => self.give_up(index, trouble.to_string()).await,
            }
        }
    }

    async fn give_up(&self, index: IndexId, reason: String) {
        // The applier is gone only when everything stops.
        let _stopping = self.tell(Request::GiveUp { index, reason }).await;
    }

    /// One chunk of the comparison that nobody asked for.
    async fn audit(&mut self, round: &mut Round) {
        let begun = Instant::now();
        let Some(pass) = round.pass(&self.view.borrow()) else {
            round.next = begun + PAUSE_ROUND;
            return;
        };
        let index = pass.index;
        match self.step(pass).await {
            Ok(()) if matches!(pass.stage, Stage::Done) => {
                let at = SystemTime::now();
                let _stopping = self.tell(Request::Audited { index, at }).await;
                round.pass_ended();
            }
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, "an index cannot be compared with its table at present");
                round.pass_ended();
            }
        }
        round.next = Instant::now() + (begun.elapsed() * (DUTY - 1)).max(PAUSE_LEAST);
    }

    /// Compares all of an index with its table, for whoever waits.
    async fn verify(
        &mut self,
        index: IndexId,
        mut answer: oneshot::Sender<Result<Verification, VerifyError>>,
    ) {
        let verified = tokio::select! {
            biased;
            () = answer.closed() => None,
            verified = self.verified(index) => Some(verified),
        };
        match verified {
            Some(verified) => {
                // Whoever asked may have gone.
                let _unasked = answer.send(verified);
            }
            // A statement of the reader's was cut short.
            None => self.reader = None,
        }
    }

    async fn verified(&mut self, index: IndexId) -> Result<Verification, VerifyError> {
        let begun = Instant::now();
        serving(&self.view.borrow(), index)?;
        let mut pass = Pass::new(index, Depth::Whole);
        while !matches!(pass.stage, Stage::Done) {
            if let Err(trouble) = self.step(&mut pass).await {
                return Err(match trouble {
                    Trouble::NotComplete | Trouble::TooMany => {
                        VerifyError::NotComplete(trouble.to_string())
                    }
                    Trouble::Upstream(_)
                    | Trouble::Projection(_)
                    | Trouble::Stuck
                    | Trouble::Stopping => VerifyError::Failed(trouble.to_string()),
                });
            }
            self.fetch_lacking().await;
        }
        let at = SystemTime::now();
        let _stopping = self.tell(Request::Audited { index, at }).await;
        let snapshot = serving(&self.view.borrow(), index)?;
        let stats = snapshot.stats();
        let measured = tokio::task::spawn_blocking(move || recall::measure(&snapshot)).await;
        let tally = pass.tally;
        Ok(Verification {
            rows_table: pass.rows_table,
            rows_index: stats.live,
            left_out: stats.left_out,
            missing: tally.missing,
            extra: tally.extra,
            differing: tally.differing,
            unsettled: tally.unsettled,
            lsn: tally.lsn,
            recall: measured.unwrap_or_default(),
            took: begun.elapsed(),
        })
    }

    /// Compares the next chunk.
    async fn step(&mut self, pass: &mut Pass) -> Result<(), Trouble> {
        let index = pass.index;
        let keys = match &mut pass.stage {
            Stage::Table { after } => {
                let keys = self.table_keys(index, after.as_ref()).await?;
                pass.rows_table += keys.len() as u64;
                let last = keys.last().filter(|_| keys.len() == CHUNK).cloned();
                pass.stage = match last {
                    Some(last) => Stage::Table { after: Some(last) },
                    None => Stage::Rows { from: 0 },
                };
                self.absent(index, keys).await?
            }
            Stage::Rows { from } => {
                let snapshot =
                    serving(&self.view.borrow(), index).map_err(|_| Trouble::NotComplete)?;
                let (keys, next) = row_keys(&snapshot, *from);
                pass.stage = match next {
                    Some(from) => Stage::Rows { from },
                    None => Stage::LeftOut {
                        rows: self.left_out(index).await?,
                        from: 0,
                    },
                };
                keys
            }
            Stage::LeftOut { rows, from } => {
                let keys: Vec<RowKey> = rows
                    .rows()
                    .skip(*from)
                    .take(CHUNK)
                    .map(|(_, row)| RowKey::from_encoded(row.key()))
                    .collect();
                *from += keys.len();
                if keys.len() < CHUNK {
                    pass.stage = Stage::Done;
                }
                keys
            }
            Stage::Done => Vec::new(),
        };
        if keys.is_empty() {
            return Ok(());
        }
        let tally = self.compare(index, keys, pass.depth).await?;
        pass.tally.missing += tally.missing;
        pass.tally.extra += tally.extra;
        pass.tally.differing += tally.differing;
        pass.tally.unsettled += tally.unsettled;
        pass.tally.lsn = pass.tally.lsn.max(tally.lsn);
        if pass.tally.mended() > MAX_MENDED {
            self.give_up(index, Trouble::TooMany.to_string()).await;
            return Err(Trouble::TooMany);
        }
        Ok(())
    }

    /// Compares the rows of these keys, and puts right what differs.
    async fn compare(
        &mut self,
        index: IndexId,
        keys: Vec<RowKey>,
        depth: Depth,
    ) -> Result<Tally, Trouble> {
        let mut tally = Tally::default();
        let (mut keys, mut pause) = (keys, AGAIN_FIRST);
        if depth == Depth::Sample {
            let settled = self.compare_once(index, keys, depth).await?;
            tally.add(&settled);
            keys = settled.again;
        }
        for _ in 0..ATTEMPTS {
            let mut again = Vec::new();
            let length = whole_rows(&self.view.borrow(), index);
            for keys in keys.chunks(length) {
                let settled = self
                    .compare_once(index, keys.to_vec(), Depth::Whole)
                    .await?;
                tally.add(&settled);
                again.extend(settled.again);
            }
            keys = again;
            if keys.is_empty() {
                return Ok(tally);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MOST);
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
        let order = self.watch(index, keys).await?;
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
        settled
    }

    async fn watch(&self, index: IndexId, keys: Vec<RowKey>) -> Result<Order, Trouble> {
        let deadline = Instant::now() + SETTLE_WITHIN;
        while Instant::now() < deadline {
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
                Err(Refusal::Later) => tokio::time::sleep(BETWEEN_RETRY).await,
            }
        }
        Err(Trouble::Stuck)
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
            if let crate::index::RowChange::Upsert { key, .. } = &change {
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

    /// Hands rows to the applier, and waits until it has come to them.
    async fn settle(
        &self,
        order: u64,
        index: IndexId,
        fetched: Fetched,
    ) -> Result<Settled, Trouble> {
        let (answer, mut settled) = oneshot::channel();
        let request = Request::Fetched {
            order,
            index,
            fetched,
            answer,
        };
        self.tell(request).await?;
        if let Ok(settled) = tokio::time::timeout(NUDGE_AFTER, &mut settled).await {
            return settled.map_err(|_| Trouble::NotComplete);
        }
        if let Some(reader) = &self.reader {
            // Without it, the next record that the server writes by itself will do.
            if let Err(error) = reader.nudge().await {
                tracing::debug!(%error, "the server cannot be asked to write its WAL");
            }
        }
        match tokio::time::timeout(SETTLE_WITHIN, settled).await {
            Ok(settled) => settled.map_err(|_| Trouble::NotComplete),
            Err(_) => Err(Trouble::Stuck),
        }
    }

    async fn table_keys(
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

    async fn absent(&self, index: IndexId, keys: Vec<RowKey>) -> Result<Vec<RowKey>, Trouble> {
        let (answer, absent) = oneshot::channel();
        self.tell(Request::Absent {
            index,
            keys,
            answer,
        })
        .await?;
        absent.await.map_err(|_| Trouble::NotComplete)
    }

    async fn left_out(&self, index: IndexId) -> Result<LeftOutView, Trouble> {
        let (answer, rows) = oneshot::channel();
        self.tell(Request::LeftOut { index, answer }).await?;
        rows.await.map_err(|_| Trouble::NotComplete)
    }

    async fn reader(&mut self) -> Result<&mut TableReader, Trouble> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => TableReader::connect(&self.config).await?,
        };
        Ok(self.reader.insert(reader))
    }

    async fn tell(&self, request: Request) -> Result<(), Trouble> {
        let sent = self.controls.send(Control::Mend(request)).await;
        sent.map_err(|_| Trouble::Stopping)
    }
}

/// The comparisons that nobody asked for: one index after the other, then a pause.
#[derive(Debug)]
struct Round {
    next: Instant,
    /// The comparison under way.
    pass: Option<Pass>,
    /// The index that was compared last in this round.
    last: Option<IndexId>,
}

impl Default for Round {
    fn default() -> Self {
        Self {
            next: Instant::now() + PAUSE_ROUND,
            pass: None,
            last: None,
        }
    }
}

impl Round {
    /// The comparison to go on with, or the next; `None` at the end of the round.
    fn pass(&mut self, view: &View) -> Option<&mut Pass> {
        if self.pass.is_none() {
            let mut ids: Vec<IndexId> = view
                .indexes
                .iter()
                .filter(|index| view.streaming && index.snapshot.is_some())
                .map(|index| index.definition.id)
                .filter(|id| self.last.is_none_or(|last| *id > last))
                .collect();
            ids.sort_unstable();
            let Some(id) = ids.first() else {
                self.last = None;
                return None;
            };
            self.pass = Some(Pass::new(*id, Depth::Sample));
        }
        self.pass.as_mut()
    }

    fn pass_ended(&mut self) {
        self.last = self.pass.take().map(|pass| pass.index);
    }
}

/// The snapshot of an index that is complete.
fn serving(view: &View, index: IndexId) -> Result<Arc<Snapshot>, VerifyError> {
    let state = view.index(index);
    let snapshot = state.and_then(|state| state.snapshot.clone());
    snapshot.ok_or_else(|| VerifyError::NotComplete(phase(state.map(|state| &**state))))
}

fn phase(state: Option<&IndexState>) -> String {
    match state.map(|state| &state.phase) {
        None => "it is not known yet".to_owned(),
        Some(Phase::Copying { percent }) => format!("it is being copied ({percent:.0} %)"),
        Some(Phase::Building { percent }) => format!("it is being built ({percent:.0} %)"),
        Some(Phase::Ready) => "it is being copied again".to_owned(),
        Some(Phase::Failed { error }) => error.clone(),
    }
}

/// The keys of a chunk of rows, and the row that the next chunk begins with.
fn row_keys(snapshot: &Snapshot, from: u32) -> (Vec<RowKey>, Option<u32>) {
    let mut rows = snapshot.rows().skip_while(|row| row.0 < from).peekable();
    let keys = rows
        .by_ref()
        .take(CHUNK)
        .filter_map(|row: RowId| snapshot.key(row).map(RowKey::from_encoded))
        .collect();
    (keys, rows.peek().map(|row| row.0))
}

/// How many rows of an index are read whole at a time.
fn whole_rows(view: &View, index: IndexId) -> usize {
    let dim = view
        .index(index)
        .map_or(1, |index| index.definition.dim.get());
    (WHOLE_BYTES / (dim * 4)).clamp(1, CHUNK)
}

/// What to read of a watch's table, and how to understand it.
fn keyed_table(
    order: &Order,
) -> Result<(KeyedTable, Projection, Arc<crate::wal::pgoutput::Relation>), ProjectionError> {
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
