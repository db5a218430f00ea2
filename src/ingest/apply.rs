//! Events of the stream, and what the other tasks found out → indexes → one published `View` a commit. One thread owns all
//! of it. Never shows a transaction before its commit, and never applies one twice.

mod messages;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::index::Memory;
use crate::index::view::{SlotStatus, View};
use crate::ingest::indexes::Indexes;
use crate::ingest::marks::Marks;
use crate::ingest::queue::{Passed, Whole};
use crate::ingest::stopped;
use crate::lsn::Lsn;
use crate::store::Holds;
use crate::wal::pgoutput::Relation;
use crate::wal::transaction::Event;
pub(crate) use messages::{CatalogueRequest, Control, Item, Kept, Outputs};

/// How often progress that no commit announces is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Transactions that wait are applied together for this long before what they changed is shown: showing costs as much as
/// applying a row or two.
const TOGETHER: Duration = Duration::from_millis(1);
/// How long to wait for the catalogue when the stream describes a table with other columns than are known. Beyond, the index is
/// copied again.
const PUZZLED_MOST: Duration = Duration::from_secs(10);
/// Most transactions whose visibility one reading of the catalogue waits for; beyond, the periodic reading must do.
pub(crate) const CATALOGUE_XIDS: usize = 1000;

/// The write side of all indexes.
#[derive(Debug)]
pub(crate) struct Applier {
    indexes: Indexes,
    /// Everything before this position is applied, or on its way from the journal.
    position: Lsn,
    /// Of the stream that the indexes follow.
    epoch: u64,
    streaming: bool,
    error: Option<String>,
    catalogue_error: Option<String>,
    /// The journal could not be read, and nothing has caught up from it since.
    journal_error: Option<String>,
    last_error: Option<(Arc<str>, SystemTime)>,
    slot: Option<SlotStatus>,
    /// Upstream's position when the view was published last.
    shown: Lsn,
    /// The catalogue was read once.
    complete: bool,
    /// When the reading of the catalogue was begun that was taken last.
    catalogue_read: Option<Instant>,
    /// Whom the copy under way waits for.
    copy_waits: Option<String>,
    /// Transactions that a reading of the catalogue waits for, each with the number of its request.
    unanswered: Vec<(u64, u32)>,
    requests: u64,
    puzzled: Option<Puzzle>,
    marks: Arc<Marks>,
    outputs: Outputs,
}

/// A transaction that cannot be understood before it is known which columns a table has.
#[derive(Debug)]
struct Puzzle {
    whole: Whole,
    /// The request for the catalogue whose answer tells.
    request: u64,
    /// Until when it is waited for.
    deadline: Instant,
}

impl Applier {
    pub(crate) fn new(marks: Arc<Marks>, holds: Holds, outputs: Outputs) -> Self {
        Self {
            indexes: Indexes::new(holds),
            position: Lsn::ZERO,
            epoch: 0,
            streaming: false,
            error: None,
            catalogue_error: None,
            journal_error: None,
            last_error: None,
            slot: None,
            shown: Lsn::ZERO,
            complete: false,
            catalogue_read: None,
            copy_waits: None,
            unanswered: Vec::new(),
            requests: 0,
            puzzled: None,
            marks,
            outputs,
        }
    }

    /// The same with memory that has a bound.
    pub(crate) fn within(mut self, memory: Arc<Memory>) -> Self {
        self.indexes.memory = memory;
        self
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
            // Stopping first. Then what others found out, which is rare.
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                Some(control) = controls.recv() => self.control(control),
                _ = tick.tick() => self.tick(),
                Some(item) = items.recv(), if self.puzzled.is_none() => self.items(item, &mut items),
                else => return,
            }
            self.ask();
        }
    }

    /// Takes what has come, and shows it.
    fn items(&mut self, first: Item, items: &mut mpsc::Receiver<Item>) {
        let until = Instant::now() + TOGETHER;
        self.take(first);
        while self.puzzled.is_none()
            && Instant::now() < until
            && let Ok(item) = items.try_recv()
        {
            self.take(item);
        }
        self.show();
    }

    #[cfg(test)]
    fn item(&mut self, item: Item) {
        self.take(item);
        self.show();
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Transaction(whole) => self.transaction(whole),
            Item::Passed(passed) => self.passed(passed),
            Item::Begin { position, epoch } => {
                (self.position, self.epoch) = (position, epoch);
                self.marks.commits().forget();
                self.indexes.begin_stream();
            }
            Item::Restore {
                position,
                epoch,
                indexes,
            } => {
                (self.position, self.epoch) = (position, epoch);
                self.indexes.restore(indexes, epoch);
            }
        }
    }

    fn transaction(&mut self, whole: Whole) {
        let puzzles = |event: &Event| matches!(event, Event::Relation(relation) if self.indexes.is_puzzled_by(relation));
        if whole.events.iter().any(puzzles) {
            self.request_catalogue([whole.xid]);
            self.puzzled = Some(Puzzle {
                whole,
                request: self.requests,
                deadline: Instant::now() + PUZZLED_MOST,
            });
        } else {
            self.apply(whole);
        }
    }

    /// Applies what had to wait for the catalogue, if that is over; whether it was.
    fn go_on_if(&mut self, over: impl FnOnce(&mut Puzzle) -> bool) -> bool {
        let whole = self.puzzled.take_if(over).map(|puzzle| puzzle.whole);
        whole.map(|whole| self.apply(whole)).is_some()
    }

    fn apply(&mut self, whole: Whole) {
        // Else it was applied before: the stream tells it again after a failure of the journal.
        if whole.commit_lsn >= self.position {
            let (now, mut redefines) = (Instant::now(), false);
            for event in whole.events {
                match &event {
                    Event::Relation(relation) => self.indexes.described(relation.id),
                    Event::Change(change) if is_definition(&change.relation) => redefines = true,
                    Event::Truncate { relations, .. }
                        if relations.iter().any(|r| is_definition(r)) =>
                    {
                        redefines = true;
                    }
                    Event::Change(_) | Event::Truncate { .. } => self.indexes.apply(event, now),
                    Event::Begin { .. } | Event::Message { .. } | Event::Commit { .. } => {}
                }
            }
            self.indexes.applied(whole.xid);
            if redefines {
                self.request_catalogue([whole.xid]);
            }
        }
        self.position = self.position.max(whole.end);
    }

    fn passed(&mut self, passed: Passed) {
        for relation in &passed.described {
            self.indexes.described(*relation);
        }
        let changed = |relation| passed.changed.contains(&relation);
        if !passed.changed.is_empty() {
            self.indexes.passed_by(changed, self.position, self.epoch);
        }
        if !passed.definers.is_empty() {
            self.request_catalogue(passed.definers);
        }
        self.position = self.position.max(passed.end);
    }

    fn control(&mut self, control: Control) {
        let now = Instant::now();
        match control {
            Control::Stream { streaming, error } => {
                self.streaming = streaming;
                self.error = error;
            }
            Control::Catalogue {
                request,
                began,
                entries,
            } => {
                self.catalogue_read = Some(began);
                self.unanswered.retain(|(number, _)| *number > request);
                self.catalogue_error = None;
                self.complete = true;
                self.indexes.catalogue(entries);
                self.go_on_if(|puzzle| puzzle.request <= request);
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
                if let Err(Some(order)) = answer.send(self.indexes.begin_copy(self.position)) {
                    self.indexes.copy_failed(order.job, &[], "", 0, now);
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
            Control::Mend(request) => {
                self.indexes.mend(request, self.position);
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
                self.indexes.copied(job, self.epoch, point, indexes);
            }
            Control::Join { job, answer } => {
                if self.indexes.begin_join(job).is_some() {
                    let _stopping = answer.send(self.position);
                }
                return;
            }
            Control::CaughtUp { job, states } => self.indexes.caught_up(job, states),
            Control::Trouble { job, id, trouble } => self.indexes.trouble(job, id, trouble, now),
            Control::Joined {
                job,
                position,
                hold,
                replicas,
            } => {
                self.journal_error = None;
                let from = (position, hold);
                self.indexes.join(job, self.epoch, from, replicas, now);
            }
            Control::CatchUpFailed { job, error } => {
                self.indexes.catch_up_failed(job, &error, now);
                self.journal_error = Some(error);
            }
            Control::CopyFailed {
                job,
                faulty,
                error,
                needs,
            } => {
                // By no table's fault: no index tells the reason.
                self.copy_waits = faulty.is_empty().then(|| error.clone());
                self.indexes.copy_failed(job, &faulty, &error, needs, now);
            }
        }
        self.show();
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let failed = self.indexes.retry(now);
        let gone_on = self.go_on_if(|puzzle| puzzle.deadline <= now);
        // Also while nothing is applied it shows how far behind it is.
        let changing = self.indexes.is_building() || self.indexes.is_rebuilt();
        if failed || gone_on || changing || self.shown != self.marks.upstream() {
            self.show();
        }
    }

    /// Publishes what there is to see.
    fn show(&mut self) {
        self.indexes.settle(self.position, Instant::now());
        self.indexes.publish(self.position);
        let marks = Arc::clone(&self.marks);
        let mut commits = marks.commits();
        let shown = self.indexes.shown(self.position);
        commits.applied(shown);
        let (generation, indexes) = self.indexes.states(self.position, &commits);
        let behind_since = commits.oldest_after(shown);
        drop(commits);
        let error = self
            .error
            .as_ref()
            .or(self.catalogue_error.as_ref())
            .or(self.journal_error.as_ref())
            .or(self.copy_waits.as_ref());
        let newest = self.last_error.as_ref().map(|(text, _)| &**text);
        if let Some(error) = error
            && newest != Some(error)
        {
            self.last_error = Some((error.as_str().into(), SystemTime::now()));
        }
        self.shown = self.marks.upstream();
        self.outputs.view.send_replace(Arc::new(View {
            generation,
            received: self.marks.received(),
            durable: self.marks.durable(),
            upstream: self.marks.upstream().max(self.position),
            streaming: self.streaming,
            error: error.cloned(),
            last_error: self.last_error.clone(),
            slot: self.slot.clone(),
            behind_since,
            complete: self.complete,
            catalogue_read: self.catalogue_read,
            memory: Some(Arc::clone(&self.indexes.memory)),
            indexes,
        }));
        self.outputs
            .applied
            .send_if_modified(|before| std::mem::replace(before, shown) != shown);
    }

    /// Passes on what the indexes need from the other tasks.
    fn ask(&mut self) {
        let lacking = self.indexes.wants_rows();
        self.outputs
            .rows_wanted
            .send_if_modified(|before| std::mem::replace(before, lacking) != lacking);
        if self.indexes.take_suspicion() {
            self.request_catalogue([]);
        }
        let wanted = self.indexes.wants_copy();
        self.outputs
            .copy_wanted
            .send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
        // Without a place now, at the next look: the clock ticks.
        while let Ok(place) = self.outputs.catch_up.try_reserve() {
            let Some(order) = self.indexes.take_order() else {
                break;
            };
            place.send(order);
        }
    }

    fn request_catalogue(&mut self, xids: impl IntoIterator<Item = u32>) {
        self.requests += 1;
        let room = CATALOGUE_XIDS.saturating_sub(self.unanswered.len());
        let xids = xids.into_iter().take(room);
        self.unanswered.extend(xids.map(|xid| (self.requests, xid)));
        self.outputs.catalogue.send_replace(CatalogueRequest {
            number: self.requests,
            xids: self.unanswered.iter().map(|(_, xid)| *xid).collect(),
        });
    }
}

/// Whether this is the table that defines the indexes.
pub(crate) fn is_definition(relation: &Relation) -> bool {
    relation.schema == "rektor" && relation.name == "index"
}

#[cfg(test)]
pub(crate) mod tests;
