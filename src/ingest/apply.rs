//! Events of the stream, and what the other tasks found out → indexes → one published `View` a commit. One thread owns all
//! of it. Never shows a transaction before its commit, and never applies one twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::catalog::IndexId;
use crate::index::view::{SlotStatus, View};
use crate::ingest::indexes::{
    CopiedIndex, CopyOrder, Indexes, KeptIndex, RestoredIndex, event_bytes,
};
use crate::ingest::lag::Commits;
use crate::ingest::stopped;
use crate::lsn::Lsn;
use crate::upstream::catalogue::IndexEntry;
use crate::wal::pgoutput::Relation;
use crate::wal::transaction::Event;

/// A transaction up to this size is applied only when it is complete, so that a broken connection costs nothing. A larger one
/// is applied as it comes, invisibly; if it breaks, the indexes that it touched are copied again. As
/// `logical_decoding_work_mem`, above which the server spills.
const TRANSACTION_BYTES: usize = if cfg!(test) { 2 << 10 } else { 64 << 20 };
/// How often progress that no commit announces is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How long to wait for the catalogue when the stream describes a table with other columns than are known. Beyond, the index is
/// copied again.
const PUZZLED_MOST: Duration = Duration::from_secs(10);
/// Most transactions whose visibility one reading of the catalogue waits for; beyond, the periodic reading must do.
const CATALOGUE_XIDS: usize = 1000;

/// What the receiving task hands on, in the stream's order.
#[derive(Debug)]
pub(crate) enum Item {
    /// An event, with its share of the memory for what is not applied yet.
    Event(Event, OwnedSemaphorePermit),
    /// Between transactions: everything before this position has been sent.
    Position(Lsn, OwnedSemaphorePermit),
    /// The connection ended; the transaction that was under way comes again.
    Cut,
    /// A new slot begins here: what was before is not connected to what follows.
    Begin {
        position: Lsn,
        /// Of the stored state that follows from it.
        epoch: u64,
    },
    /// What a process before this one had stored; the stream continues from the position.
    Restore {
        position: Lsn,
        epoch: u64,
        indexes: Vec<RestoredIndex>,
    },
}

/// What the other tasks tell.
#[derive(Debug)]
pub(crate) enum Control {
    /// The stream flows, or why not.
    Stream {
        streaming: bool,
        error: Option<String>,
    },
    /// The catalogue was read, in answer to requests up to this number.
    Catalogue {
        request: u64,
        entries: Vec<IndexEntry>,
    },
    /// The catalogue cannot be read.
    CatalogueFailed(String),
    /// The slot was looked at; `None` if there is none.
    Slot(Option<SlotStatus>),
    /// The slot was given up, and why: nothing follows its table until a new one begins.
    GivenUp(String),
    /// The copier is ready; `None` if nothing is to be copied any more.
    CopyBegin(oneshot::Sender<Option<CopyOrder>>),
    /// How far a copy is.
    CopyProgress {
        job: u64,
        percents: Vec<(IndexId, f32)>,
    },
    /// A copy cannot begin yet, and why.
    CopyWaits(String),
    /// A copy is complete, as of that position.
    Copied {
        job: u64,
        point: Lsn,
        indexes: Vec<CopiedIndex>,
    },
    /// What there is to store is wanted. No answer while a large transaction is half applied.
    Keep(oneshot::Sender<Kept>),
    /// A copy failed by the fault of these indexes, or of none.
    CopyFailed {
        job: u64,
        faulty: Vec<IndexId>,
        error: String,
    },
}

/// Every complete index, as of its last publication.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Of the stream that they follow.
    pub(crate) epoch: u64,
    /// Everything before it is applied.
    pub(crate) position: Lsn,
    pub(crate) indexes: Vec<KeptIndex>,
}

/// That the catalogue is to be read, after these transactions are visible.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CatalogueRequest {
    pub(crate) number: u64,
    pub(crate) xids: Vec<u32>,
}

/// Positions that the receiving task moves and every view shows.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    received: AtomicU64,
    durable: AtomicU64,
    upstream: AtomicU64,
    commits: Mutex<Commits>,
}

impl Marks {
    pub(crate) fn set(&self, received: Lsn, durable: Lsn, upstream: Lsn) {
        self.received.store(received.as_u64(), Ordering::Relaxed);
        self.durable.store(durable.as_u64(), Ordering::Relaxed);
        self.upstream.store(upstream.as_u64(), Ordering::Relaxed);
    }

    pub(crate) fn compare_clocks(&self, sent: i64, now: SystemTime) {
        self.commits().compare_clocks(sent, now);
    }

    pub(crate) fn arrived(&self, commit: Lsn, time: i64) {
        self.commits().arrived(commit, time);
    }

    /// Nothing that holds the lock can leave it half changed.
    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the applier's results go.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) view: watch::Sender<Arc<View>>,
    /// Everything before this position is searchable.
    pub(crate) applied: watch::Sender<Lsn>,
    pub(crate) catalogue: watch::Sender<CatalogueRequest>,
    pub(crate) copy_wanted: watch::Sender<bool>,
}

/// The write side of all indexes.
#[derive(Debug)]
pub(crate) struct Applier {
    indexes: Indexes,
    transaction: Option<Transaction>,
    /// Everything before this position is applied.
    position: Lsn,
    /// Of the stream that the indexes follow.
    epoch: u64,
    streaming: bool,
    error: Option<String>,
    catalogue_error: Option<String>,
    last_error: Option<(Arc<str>, SystemTime)>,
    slot: Option<SlotStatus>,
    /// Upstream's position when the view was published last.
    shown: Lsn,
    /// The catalogue was read once.
    complete: bool,
    /// Whom the copy under way waits for.
    copy_waits: Option<String>,
    /// Requests for the catalogue that were not answered, each with the transaction it waits for.
    unanswered: Vec<(u64, Option<u32>)>,
    requests: u64,
    /// The request whose answer tells which columns a table of the stream has, and until when it is waited for: what follows
    /// cannot be understood before.
    puzzled: Option<(u64, Instant)>,
    marks: Arc<Marks>,
    outputs: Outputs,
}

/// The transaction that is arriving.
#[derive(Debug)]
struct Transaction {
    xid: u32,
    events: Vec<Event>,
    bytes: usize,
    /// It is too large to wait for its end: it is applied as it comes.
    spilled: bool,
    /// It changes `rektor.index`.
    redefines: bool,
    /// It was applied before: the journal, or the stream after a failure of the journal, tells it again.
    stale: bool,
}

impl Applier {
    pub(crate) fn new(marks: Arc<Marks>, outputs: Outputs) -> Self {
        Self {
            indexes: Indexes::default(),
            transaction: None,
            position: Lsn::ZERO,
            epoch: 0,
            streaming: false,
            error: None,
            catalogue_error: None,
            last_error: None,
            slot: None,
            shown: Lsn::ZERO,
            complete: false,
            copy_waits: None,
            unanswered: Vec::new(),
            requests: 0,
            puzzled: None,
            marks,
            outputs,
        }
    }

    /// Works until `stop`. For a thread of its own: applying is CPU work.
    pub(crate) async fn run(
        mut self,
        mut items: mpsc::Receiver<Item>,
        mut controls: mpsc::Receiver<Control>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Stopping first. Then what others found out, since it may be what ends a pause of the stream.
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                Some(control) = controls.recv() => self.control(control),
                _ = tick.tick() => self.tick(),
                Some(item) = items.recv(), if !self.indexes.is_full() && self.puzzled.is_none() => self.item(item),
                else => return,
            }
            self.ask();
        }
    }

    fn item(&mut self, item: Item) {
        match item {
            Item::Event(event, _memory) => self.event(event),
            Item::Position(position, _memory) => {
                self.position = self.position.max(position);
                self.show();
            }
            Item::Cut => {
                if self
                    .transaction
                    .take()
                    .is_some_and(|transaction| transaction.spilled)
                {
                    self.indexes.abandon_transaction();
                    self.show();
                }
            }
            Item::Begin { position, epoch } => {
                (self.position, self.epoch) = (position, epoch);
                self.marks.commits().forget();
                self.indexes.begin_stream();
                self.show();
            }
            Item::Restore {
                position,
                epoch,
                indexes,
            } => {
                (self.position, self.epoch) = (position, epoch);
                self.indexes.restore(indexes);
                self.show();
            }
        }
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::Begin {
                xid, commit_lsn, ..
            } => {
                self.indexes.begin_transaction();
                self.transaction = Some(Transaction {
                    xid: *xid,
                    events: Vec::new(),
                    bytes: 0,
                    spilled: false,
                    redefines: false,
                    stale: *commit_lsn < self.position,
                });
            }
            Event::Relation(relation) => {
                self.indexes.described(&event);
                if self.indexes.is_puzzled_by(relation) {
                    let xid = self.transaction.as_ref().map(|transaction| transaction.xid);
                    self.request_catalogue(xid);
                    self.puzzled = Some((self.requests, Instant::now() + PUZZLED_MOST));
                }
            }
            Event::Change(change) => {
                let redefines = is_definition(&change.relation);
                self.row_event(event, redefines);
            }
            Event::Truncate { relations, .. } => {
                let redefines = relations.iter().any(|relation| is_definition(relation));
                self.row_event(event, redefines);
            }
            Event::Message { .. } => {}
            Event::Commit { end_lsn, .. } => self.commit(*end_lsn),
        }
    }

    /// A change of rows. [`crate::wal::transaction`] lets it come only inside a transaction.
    fn row_event(&mut self, event: Event, redefines: bool) {
        let Some(transaction) = self.transaction.as_mut().filter(|open| !open.stale) else {
            return;
        };
        if redefines {
            transaction.redefines = true;
            return;
        }
        transaction.bytes += event_bytes(&event);
        transaction.events.push(event);
        if transaction.spilled || transaction.bytes > TRANSACTION_BYTES {
            transaction.spilled = true;
            let now = Instant::now();
            for event in transaction.events.drain(..) {
                self.indexes.apply(event, now);
            }
        }
    }

    fn commit(&mut self, end: Lsn) {
        if let Some(transaction) = self.transaction.take() {
            let now = Instant::now();
            for event in transaction.events {
                self.indexes.apply(event, now);
            }
            if transaction.redefines {
                self.request_catalogue(Some(transaction.xid));
            }
        }
        self.position = self.position.max(end);
        self.show();
    }

    fn control(&mut self, control: Control) {
        let now = Instant::now();
        match control {
            Control::Stream { streaming, error } => {
                self.streaming = streaming;
                self.error = error;
            }
            Control::Catalogue { request, entries } => {
                self.unanswered.retain(|(number, _)| *number > request);
                self.puzzled = self.puzzled.filter(|(number, _)| *number > request);
                self.catalogue_error = None;
                self.complete = true;
                self.indexes.catalogue(entries);
            }
            Control::CatalogueFailed(error) => self.catalogue_error = Some(error),
            Control::Slot(slot) => {
                if self.slot == slot {
                    return;
                }
                self.slot = slot;
            }
            Control::GivenUp(reason) => {
                self.copy_waits = None;
                self.indexes.end_stream(reason);
            }
            Control::CopyBegin(answer) => {
                // If no one waits for it any more, the order must not be lost.
                if let Err(Some(order)) = answer.send(self.indexes.begin_copy()) {
                    self.indexes.copy_failed(order.job, &[], "", now);
                }
            }
            Control::Keep(answer) => {
                if let Some(indexes) = self.indexes.kept(self.position) {
                    // Whoever asked may have been stopped.
                    let _unasked = answer.send(Kept {
                        epoch: self.epoch,
                        position: self.position,
                        indexes,
                    });
                }
                return;
            }
            Control::CopyWaits(reason) => self.copy_waits = Some(reason),
            Control::CopyProgress { job, percents } => {
                self.copy_waits = None;
                self.indexes.copy_progress(job, &percents);
            }
            Control::Copied {
                job,
                point,
                indexes,
            } => {
                self.copy_waits = None;
                self.indexes.install(job, point, indexes, now);
            }
            Control::CopyFailed { job, faulty, error } => {
                // By no table's fault: no index tells the reason.
                self.copy_waits = faulty.is_empty().then(|| error.clone());
                self.indexes.copy_failed(job, &faulty, &error, now);
            }
        }
        self.show();
    }

    fn tick(&mut self) {
        self.indexes.retry(Instant::now());
        self.puzzled = self
            .puzzled
            .filter(|(_, deadline)| *deadline > Instant::now());
        // Also while nothing is applied it shows how far behind it is.
        let upstream = self.marks.upstream.load(Ordering::Relaxed);
        if self.indexes.is_building() || self.shown.as_u64() != upstream {
            self.show();
        }
    }

    /// Publishes what there is to see. Inside a large transaction that is what was there before it.
    fn show(&mut self) {
        if self
            .transaction
            .as_ref()
            .is_none_or(|transaction| !transaction.spilled)
        {
            self.indexes.publish(self.position);
        }
        let commits = Arc::clone(&self.marks);
        let mut commits = commits.commits();
        commits.applied(self.position);
        let (generation, indexes) = self.indexes.states(self.position, &commits);
        let behind_since = commits.oldest_after(self.position);
        drop(commits);
        let lsn = |mark: &AtomicU64| Lsn::new(mark.load(Ordering::Relaxed));
        let error = self
            .error
            .as_ref()
            .or(self.catalogue_error.as_ref())
            .or(self.copy_waits.as_ref());
        let newest = self.last_error.as_ref().map(|(text, _)| &**text);
        if let Some(error) = error
            && newest != Some(error)
        {
            self.last_error = Some((error.as_str().into(), SystemTime::now()));
        }
        self.shown = lsn(&self.marks.upstream);
        self.outputs.view.send_replace(Arc::new(View {
            generation,
            received: lsn(&self.marks.received),
            durable: lsn(&self.marks.durable),
            upstream: lsn(&self.marks.upstream).max(self.position),
            streaming: self.streaming,
            error: error.cloned(),
            last_error: self.last_error.clone(),
            slot: self.slot.clone(),
            behind_since,
            complete: self.complete,
            indexes,
        }));
        self.outputs
            .applied
            .send_if_modified(|applied| std::mem::replace(applied, self.position) != self.position);
    }

    /// Passes on what the indexes need from the other tasks.
    fn ask(&mut self) {
        if self.indexes.take_suspicion() {
            self.request_catalogue(None);
        }
        let wanted = self.indexes.wants_copy();
        self.outputs
            .copy_wanted
            .send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
    }

    fn request_catalogue(&mut self, xid: Option<u32>) {
        self.requests += 1;
        if self.unanswered.len() < CATALOGUE_XIDS {
            self.unanswered.push((self.requests, xid));
        }
        self.outputs.catalogue.send_replace(CatalogueRequest {
            number: self.requests,
            xids: self.unanswered.iter().filter_map(|(_, xid)| *xid).collect(),
        });
    }
}

/// Whether this is the table that defines the indexes.
fn is_definition(relation: &Relation) -> bool {
    relation.schema == "rektor" && relation.name == "index"
}

#[cfg(test)]
mod tests;
