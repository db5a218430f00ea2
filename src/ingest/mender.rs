//! Rows that an index lacks, and keys to be compared → watches, fetched rows, and indexes that are as their tables. Compares
//! now and then unasked, and all of an index when somebody wants to know. Never works unasked for more than a hundredth of the time.

mod compare;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::Config;

use crate::catalog::{IndexId, RowKey};
use crate::index::view::{IndexState, Phase, Verification, VerifyError, View};
use crate::index::{LeftOutView, RowId, Snapshot};
use crate::ingest::apply::Control;
use crate::ingest::mending::Request;
use crate::ingest::{recall, stopped};
use compare::{CHUNK, Comparer, Depth, PATIENCE, PATIENCE_UNASKED, Tally, Trouble};

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
    comparer: Comparer,
    /// An index lacks rows.
    lacking: watch::Receiver<bool>,
    view: watch::Receiver<Arc<View>>,
}

impl Mender {
    pub(crate) fn new(
        config: Config,
        controls: mpsc::Sender<Control>,
        lacking: watch::Receiver<bool>,
        view: watch::Receiver<Arc<View>>,
    ) -> Self {
        Self {
            comparer: Comparer {
                config,
                controls,
                view: view.clone(),
                reader: None,
                patience: PATIENCE,
            },
            lacking,
            view,
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
            let next = tokio::select! {
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
            // What cannot be fetched for long must not hold up whoever asks.
            if let Some((index, answer)) = next.or_else(|| asked.try_recv().ok()) {
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
            if self.comparer.tell(Request::Lacking(answer)).await.is_err() {
                return;
            }
            let Ok(Some(lacking)) = lacking.await else {
                return;
            };
            let index = lacking.index;
            match self
                .comparer
                .compare(index, lacking.keys, Depth::Whole)
                .await
            {
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
        let _stopping = self.comparer.tell(Request::GiveUp { index, reason }).await;
    }

    /// One chunk of the comparison that nobody asked for.
    async fn audit(&mut self, round: &mut Round) {
        let begun = Instant::now();
        let Some(pass) = round.pass(&self.view.borrow()) else {
            round.next = begun + PAUSE_ROUND;
            return;
        };
        let index = pass.index;
        self.comparer.patience = PATIENCE_UNASKED;
        let stepped = self.step(pass).await;
        self.comparer.patience = PATIENCE;
        match stepped {
            Ok(()) if matches!(pass.stage, Stage::Done) => {
                let at = SystemTime::now();
                let _stopping = self.comparer.tell(Request::Audited { index, at }).await;
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
            None => self.comparer.reader = None,
        }
    }

    async fn verified(&mut self, index: IndexId) -> Result<Verification, VerifyError> {
        let begun = Instant::now();
        serving(&self.view.borrow(), index)?;
        if !self.view.borrow().streaming {
            let interrupted = "the stream is interrupted".to_owned();
            return Err(VerifyError::Failed(interrupted));
        }
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
                    | Trouble::Unseen
                    | Trouble::Stopping => VerifyError::Failed(trouble.to_string()),
                });
            }
            self.fetch_lacking().await;
        }
        let at = SystemTime::now();
        let _stopping = self.comparer.tell(Request::Audited { index, at }).await;
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
                let keys = self.comparer.table_keys(index, after.as_ref()).await?;
                pass.rows_table += keys.len() as u64;
                let last = keys.last().filter(|_| keys.len() == CHUNK).cloned();
                pass.stage = match last {
                    Some(last) => Stage::Table { after: Some(last) },
                    None => Stage::Rows { from: 0 },
                };
                self.comparer.absent(index, keys).await?
            }
            Stage::Rows { from } => {
                let snapshot =
                    serving(&self.view.borrow(), index).map_err(|_| Trouble::NotComplete)?;
                let (keys, next) = row_keys(&snapshot, *from);
                pass.stage = match next {
                    Some(from) => Stage::Rows { from },
                    None => Stage::LeftOut {
                        rows: self.comparer.left_out(index).await?,
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
        let tally = self.comparer.compare(index, keys, pass.depth).await?;
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
