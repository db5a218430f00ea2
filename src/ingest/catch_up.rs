//! Writers that lack changes, and the journal that has them → writers that are where the stream is, on a thread for each order.
//! Never applies a part of a transaction, and never passes over what it cannot read.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::catalog::IndexId;
use crate::ingest::apply::Control;
use crate::ingest::indexes::{Beside, CatchUpOrder, CaughtUp, Replica, Trouble};
use crate::ingest::stopped;
use crate::lsn::Lsn;
use crate::store::{Hold, JournalReader, Replayed, StoreError, Tail};
use crate::wal::pgoutput::LogicalMessage;
use crate::wal::transaction::{Event, Transactions};

/// Orders that wait for their thread to start.
pub(crate) const ORDERS: usize = 16;
/// Orders that are carried out at a time: each computes on a thread of its own.
const THREADS: usize = 8;
/// Between two publications while there is more to read. Publishing costs, and nobody waits for what is long past.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);
/// Changes after which what was applied is shown to the engine's linker, which works on it while reading goes on.
const LINK_CHANGES: usize = 10_000;
/// Messages between two looks at whether to go on.
const LOOK_MESSAGES: usize = 1024;

/// Why writers cannot catch up.
#[derive(Debug, thiserror::Error)]
enum CatchUpError {
    #[error("the journal cannot be read: {0}")]
    Store(#[from] StoreError),
    /// The messages are whole, but not what this version understands.
    #[error("the journal cannot be understood: {0}")]
    Content(String),
    #[error("catching up from the journal failed: {0}")]
    Panicked(String),
}

/// Carries out orders until `stop`.
pub(crate) async fn run(
    mut orders: mpsc::Receiver<CatchUpOrder>,
    controls: mpsc::Sender<Control>,
    journal: watch::Receiver<Option<JournalReader>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(ended) = tasks.join_next() => log(ended),
            order = orders.recv(), if tasks.len() < THREADS => match order {
                Some(order) => {
                    tasks.spawn(carry_out(order, controls.clone(), journal.clone(), stop.clone()));
                }
                None => break,
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        log(ended);
    }
}

fn log(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "catching up from the journal failed");
    }
}

async fn carry_out(
    order: CatchUpOrder,
    controls: mpsc::Sender<Control>,
    journal: watch::Receiver<Option<JournalReader>>,
    stop: watch::Receiver<bool>,
) {
    let job = order.job;
    let work = Work {
        job,
        epoch: order.epoch,
        follow: CatchUp::new(order.replicas, order.from),
        hold: order.hold,
        goal: None,
        controls: controls.clone(),
        journal,
        wanted: order.wanted,
        stop,
        runtime: Handle::current(),
    };
    let done = tokio::task::spawn_blocking(move || work.run()).await;
    let done = done.unwrap_or_else(|error| Err(CatchUpError::Panicked(error.to_string())));
    if let Err(error) = done {
        tracing::error!(%error, "indexes that depend on the journal are copied again");
        let error = error.to_string();
        // The applier is gone only when everything stops.
        let _stopping = controls.send(Control::CatchUpFailed { job, error }).await;
    }
}

/// An order that is being carried out.
struct Work {
    job: u64,
    epoch: u64,
    follow: CatchUp,
    hold: Hold,
    /// Where the applier was when it began to keep what comes.
    goal: Option<Lsn>,
    controls: mpsc::Sender<Control>,
    journal: watch::Receiver<Option<JournalReader>>,
    wanted: watch::Receiver<()>,
    stop: watch::Receiver<bool>,
    runtime: Handle,
}

/// How reading one journal ended.
enum Ended {
    /// The applier keeps what comes next.
    UpToDate,
    /// Nobody waits for the result.
    Unwanted,
    /// The journal's writer has ended; another will go on.
    Closed,
}

impl Work {
    fn run(mut self) -> Result<(), CatchUpError> {
        let mut next = self.reader(false);
        while let Some(reader) = next {
            next = match self.read(reader.tail(self.follow.position))? {
                Ended::UpToDate => {
                    self.join();
                    return Ok(());
                }
                Ended::Unwanted => None,
                Ended::Closed => self.reader(true),
            };
        }
        Ok(())
    }

    /// The journal, or the next one, as soon as there is one; `None` when nobody waits for the result, or it is another
    /// stream's.
    fn reader(&mut self, next: bool) -> Option<JournalReader> {
        let (journal, stop, wanted) = (&mut self.journal, &mut self.stop, &mut self.wanted);
        let epoch = self.epoch;
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = stopped(stop) => None,
                _unwanted = wanted.changed() => None,
                reader = async {
                    if next {
                        journal.changed().await.ok()?;
                    }
                    journal.wait_for(Option::is_some).await.ok()?.clone()
                } => reader.filter(|reader| reader.epoch() == epoch),
            }
        })
    }

    fn read(&mut self, mut tail: Tail) -> Result<Ended, CatchUpError> {
        let mut transactions = Transactions::new();
        let mut until_look = LOOK_MESSAGES;
        loop {
            match tail.next() {
                Some(message) => {
                    let message = message?;
                    if let Some(event) = event(&mut transactions, message)? {
                        self.follow.event(&event);
                    }
                }
                None => {
                    self.follow.position = self.follow.position.max(tail.position());
                    self.follow.publish();
                    if !self.tell() {
                        return Ok(Ended::Unwanted);
                    }
                    match self.goal {
                        None => match self.begin_join() {
                            Some(position) => self.goal = Some(position),
                            None => return Ok(Ended::Unwanted),
                        },
                        Some(goal) if self.follow.position >= goal => return Ok(Ended::UpToDate),
                        Some(_) => match self.wait(&mut tail) {
                            Some(Ok(())) => {}
                            Some(Err(_closed)) => return Ok(Ended::Closed),
                            None => return Ok(Ended::Unwanted),
                        },
                    }
                }
            }
            until_look -= 1;
            if until_look == 0 {
                until_look = LOOK_MESSAGES;
                if *self.stop.borrow() || self.wanted.has_changed().is_err() || !self.tell() {
                    return Ok(Ended::Unwanted);
                }
            }
        }
    }

    /// Waits for more; `None` when nobody waits for the result.
    fn wait(&mut self, tail: &mut Tail) -> Option<Result<(), StoreError>> {
        let (stop, wanted) = (&mut self.stop, &mut self.wanted);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = stopped(stop) => None,
                _unwanted = wanted.changed() => None,
                grown = tail.grown() => Some(grown),
            }
        })
    }

    /// Tells the applier what there is to tell; whether it listens.
    fn tell(&mut self) -> bool {
        let job = self.job;
        for (id, trouble) in self.follow.take_troubled() {
            let told = Control::Trouble { job, id, trouble };
            if self.controls.blocking_send(told).is_err() {
                return false;
            }
        }
        let states = self.follow.take_states();
        if states.is_empty() {
            return true;
        }
        // The generations hold the journal for what they have.
        self.hold.advance(self.follow.position);
        let told = Control::CaughtUp { job, states };
        self.controls.blocking_send(told).is_ok()
    }

    /// Where the applier is, from where on it keeps what comes.
    fn begin_join(&mut self) -> Option<Lsn> {
        let (answer, answered) = oneshot::channel();
        let job = self.job;
        let asked = Control::Join { job, answer };
        self.controls.blocking_send(asked).ok()?;
        answered.blocking_recv().ok()
    }

    fn join(mut self) {
        self.hold.advance(self.follow.position);
        // The applier is gone only when everything stops.
        let _stopping = self.controls.blocking_send(Control::Joined {
            job: self.job,
            position: self.follow.position,
            hold: self.hold,
            replicas: self.follow.into_replicas(),
        });
    }
}

/// Writers, and how far they have come.
#[derive(Debug)]
pub(crate) struct CatchUp {
    replicas: Vec<Following>,
    /// Everything before this was read, and applied unless a writer had it.
    pub(crate) position: Lsn,
    /// The open transaction was applied before.
    stale: bool,
    published: Instant,
    /// What there is to tell of.
    states: Vec<CaughtUp>,
    troubled: Vec<(IndexId, Trouble)>,
}

#[derive(Debug)]
struct Following {
    replica: Replica,
    /// Changes whose value could not be indexed, since it was told last.
    left_out: u64,
    /// Changes that the linker has not seen.
    unlinked: usize,
}

impl CatchUp {
    pub(crate) fn new(replicas: Vec<Replica>, from: Lsn) -> Self {
        let following = replicas.into_iter().map(|replica| Following {
            replica,
            left_out: 0,
            unlinked: 0,
        });
        Self {
            replicas: following.collect(),
            position: from,
            stale: false,
            published: Instant::now(),
            states: Vec::new(),
            troubled: Vec::new(),
        }
    }

    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            // Of a journal that was opened anew.
            Event::Begin { commit_lsn, .. } => self.stale = *commit_lsn < self.position,
            Event::Change(_) | Event::Truncate { .. } if self.stale => {}
            Event::Change(_) | Event::Truncate { .. } => {
                let (position, troubled) = (self.position, &mut self.troubled);
                self.replicas.retain_mut(|following| {
                    let done = following.apply(event, position);
                    let done = done.map_err(|trouble| (following.replica.id(), trouble));
                    done.map_err(|trouble| troubled.push(trouble)).is_ok()
                });
            }
            Event::Commit { end_lsn, .. } => {
                self.position = self.position.max(*end_lsn);
                if self.published.elapsed() >= PUBLISH_INTERVAL {
                    self.publish();
                }
            }
            Event::Relation(_) | Event::Message { .. } => {}
        }
    }

    /// Makes everything applied ready to be shown. Only between transactions.
    pub(crate) fn publish(&mut self) {
        self.published = Instant::now();
        // Of two states the later one is enough.
        let mut before = std::mem::take(&mut self.states);
        for Following {
            replica,
            left_out,
            unlinked,
        } in &mut self.replicas
        {
            let id = replica.id();
            let before = before.iter_mut().find(|state| state.id == id);
            let (before, more) =
                before.map_or((None, 0), |state| (state.published.take(), state.left_out));
            if !replica.lacking.is_empty() {
                // Nothing of it may be shown; it is fetched when the index follows the stream.
                *left_out += more;
                continue;
            }
            let applied = replica.point.max(self.position);
            let published = if replica.dirty {
                (replica.dirty, *unlinked) = (false, 0);
                let snapshot = replica.writer.publish(applied);
                let mut beside = Beside::of(replica);
                if let Some((_, before)) = before {
                    beside.changed.merge(&before.changed);
                }
                Some((snapshot, beside))
            } else {
                before
            };
            self.states.push(CaughtUp {
                id,
                applied,
                published,
                left_out: std::mem::take(left_out) + more,
            });
        }
    }

    pub(crate) fn take_states(&mut self) -> Vec<CaughtUp> {
        std::mem::take(&mut self.states)
    }

    pub(crate) fn take_troubled(&mut self) -> Vec<(IndexId, Trouble)> {
        std::mem::take(&mut self.troubled)
    }

    pub(crate) fn into_replicas(self) -> Vec<Replica> {
        let replicas = self.replicas.into_iter();
        replicas.map(|following| following.replica).collect()
    }
}

impl Following {
    fn apply(&mut self, event: &Event, position: Lsn) -> Result<(), Trouble> {
        self.left_out += u64::from(self.replica.apply(event)?);
        if self.replica.dirty {
            self.unlinked += 1;
            if self.unlinked >= LINK_CHANGES {
                // For the linker alone: nobody else sees a part of a transaction.
                self.unlinked = 0;
                drop(self.replica.writer.publish(position));
            }
        }
        Ok(())
    }
}

fn event(
    transactions: &mut Transactions,
    message: Replayed,
) -> Result<Option<Event>, CatchUpError> {
    let content = |error: &dyn std::fmt::Display| CatchUpError::Content(error.to_string());
    match message {
        Replayed::Message(payload) => {
            let message = LogicalMessage::decode(payload).map_err(|error| content(&error))?;
            transactions.feed(message).map_err(|error| content(&error))
        }
        Replayed::Position(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
