//! One stream of the walsender → the journal and the applier's queue, and status reports back. Reports on its own timer,
//! whatever the applier and the journal do. Never waits for the applier, and never confirms a position before everything up to
//! it is durable in the journal.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::ingest::marks::Marks;
use crate::ingest::queue::{Open, Passed, Queue};
use crate::ingest::stopped;
use crate::lsn::{Lsn, Progress};
use crate::store::{Entry, Journal, Room, StoreError};
use crate::upstream::UpstreamError;
use crate::upstream::slot::SeenCommit;
use crate::upstream::walsender::{ReplicationStream, StatusSender, StreamReceiver};
use crate::wal::pgoutput::{LogicalMessage, ReplicationMessage};
use crate::wal::transaction::{Event, Transactions};

/// Longest silence towards upstream: far below `wal_sender_timeout`, and what an idle slot lags at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two reports of progress: a commit that waits for us waits no longer than this.
const STATUS_PAUSE: Duration = Duration::from_millis(2);

/// Most messages taken between two looks at everything else: well under a millisecond of work.
const BURST: usize = 256;

/// When all that had come was taken, what comes next is taken together after this time: a commit long after the last is taken
/// at once, and a thousand a second wake everything behind this half as often. Upstream's buffers have room for it.
const GATHER: Duration = Duration::from_millis(2);

/// How a stream ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything stops.
    Stopped,
    /// The journal cannot be written.
    JournalFailed,
}

/// How far one connection has come.
struct Receiver<'a> {
    queue: &'a mut Queue,
    journal: &'a Journal,
    marks: &'a Marks,
    transactions: Transactions,
    open: Open,
    progress: Progress,
    upstream: Lsn,
    /// What the journal has no room for yet. Nothing is read meanwhile.
    held: Option<Held>,
    /// Upstream should hear of progress soon.
    news: bool,
    /// Nothing is read until this time.
    gathers: Option<Instant>,
}

struct Held {
    what: What,
    /// What the journal keeps of it.
    entry: Option<Entry>,
}

enum What {
    Event(Event),
    Position(Lsn),
}

/// Receives until `stop` or an error. `position` is where to resume: everything before it is in the queue and in the
/// journal's.
///
/// # Errors
/// When the stream ends.
pub(crate) async fn receive(
    stream: ReplicationStream,
    position: &mut Lsn,
    queue: &mut Queue,
    journal: &Journal,
    marks: &Marks,
    applied: &mut watch::Receiver<Lsn>,
    stop: &mut watch::Receiver<bool>,
) -> Result<Ended, UpstreamError> {
    let (mut incoming, mut status) = stream.split();
    let mut durable = journal.durable();
    let progress = begin(
        *position,
        *durable.borrow_and_update(),
        *applied.borrow_and_update(),
    );
    let mut receiver = Receiver {
        queue,
        journal,
        marks,
        transactions: Transactions::new(),
        open: Open::None,
        progress,
        upstream: *position,
        held: None,
        news: true,
        gathers: None,
    };
    let mut reported = Instant::now();
    let timer = sleep_until(reported);
    let mut timer = std::pin::pin!(timer);
    let gathering = sleep_until(reported);
    let mut gathering = std::pin::pin!(gathering);
    loop {
        *position = receiver.progress.received();
        // Stopping, then status, then making room: reading comes last, and only when there is room.
        tokio::select! {
            biased;
            () = stopped(stop) => {
                leave(status, &receiver.progress).await?;
                return Ok(Ended::Stopped);
            }
            () = timer.as_mut() => {
                let silent = reported.elapsed() >= STATUS_INTERVAL;
                status.send_status(&receiver.progress, silent).await?;
                reported = Instant::now();
                receiver.news = false;
                timer.as_mut().reset(reported + STATUS_INTERVAL);
            }
            moved = durable.changed() => {
                if moved.is_err() {
                    return Ok(Ended::JournalFailed);
                }
                let durable = *durable.borrow_and_update();
                receiver.progress.make_durable(durable.min(receiver.progress.received()));
                receiver.mark();
                receiver.news = true;
            }
            room = receiver.room(), if receiver.held.is_some() => match room {
                Ok(room) => receiver.release(room)?,
                Err(_stopped) => return Ok(Ended::JournalFailed),
            },
            room = receiver.queue.room(), if receiver.queue.is_behind() => {
                room?;
                receiver.queue.catch_up()?;
            }
            () = gathering.as_mut(), if receiver.gathers.is_some() => receiver.gathers = None,
            message = incoming.next(), if receiver.held.is_none() && receiver.gathers.is_none() => {
                receiver.message(message?)?;
                let burst = receiver.burst(&mut incoming);
                *position = receiver.progress.received(); // also when it failed
                if let Some(ended) = burst? {
                    return Ok(ended);
                }
                if let Some(until) = receiver.gathers {
                    gathering.as_mut().reset(until);
                }
            }
            changed = applied.changed() => {
                changed.map_err(|_| UpstreamError::Closed)?;
                let applied = *applied.borrow_and_update();
                receiver.progress.apply(applied.min(receiver.progress.received()));
                receiver.news = true;
            }
        }
        if receiver.news {
            let due = reported + STATUS_PAUSE;
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
        }
    }
}

/// Progress of a connection that resumes at `position`, which may be ahead of what is durable and applied.
fn begin(position: Lsn, durable: Lsn, applied: Lsn) -> Progress {
    let (durable, applied) = (durable.min(position), applied.min(position));
    let mut progress = Progress::starting_at(durable.min(applied));
    progress.receive(position);
    progress.make_durable(durable);
    progress.apply(applied);
    progress
}

/// Says how far we are and ends the stream, so that the slot is free at once.
async fn leave(mut status: StatusSender, progress: &Progress) -> Result<(), UpstreamError> {
    status.send_status(progress, false).await?;
    status.close().await
}

impl Receiver<'_> {
    fn message(&mut self, message: ReplicationMessage) -> Result<(), UpstreamError> {
        match message {
            ReplicationMessage::WalData {
                end, sent, payload, ..
            } => {
                self.upstream = self.upstream.max(end);
                let message = LogicalMessage::decode(payload.clone())?;
                let entry = Entry::of(&message, payload);
                let begun = SeenCommit::of(&message);
                let event = self.transactions.feed(message);
                let event = event.map_err(|error| UpstreamError::Protocol(error.to_string()))?;
                if let Some(begun) = begun {
                    self.marks.compare_clocks(sent, SystemTime::now());
                    self.marks.arrived(begun);
                }
                self.held = event.map(|event| Held {
                    what: What::Event(event),
                    entry,
                });
            }
            ReplicationMessage::Keepalive {
                end,
                sent,
                reply_requested,
            } => {
                self.marks.compare_clocks(sent, SystemTime::now());
                self.upstream = self.upstream.max(end);
                self.news |= reply_requested;
                // Inside a transaction it says nothing of what that will still bring.
                if !self.transactions.is_inside() && end > self.progress.received() {
                    self.held = Some(Held {
                        what: What::Position(end),
                        entry: Some(Entry::position(end)),
                    });
                }
            }
        }
        Ok(())
    }

    /// Takes what has arrived together with a message, as long as the journal has room.
    fn burst(&mut self, incoming: &mut StreamReceiver) -> Result<Option<Ended>, UpstreamError> {
        for _ in 0..BURST {
            let room = match self.held.as_ref().map(|held| held.entry.as_ref()) {
                Some(Some(entry)) => match self.journal.room_now(entry) {
                    Ok(Some(room)) => Some(room),
                    Ok(None) => break,
                    Err(_stopped) => return Ok(Some(Ended::JournalFailed)),
                },
                Some(None) | None => None,
            };
            self.release(room)?;
            match incoming.buffered()? {
                Some(message) => self.message(message)?,
                None => {
                    // The rest of a transaction is on its way.
                    let is_inside = self.transactions.is_inside();
                    self.gathers = (!is_inside).then(|| Instant::now() + GATHER);
                    break;
                }
            }
        }
        Ok(None)
    }

    /// Waits until the journal has room for what is held; `None` if it does not keep that. Cancel-safe.
    async fn room(&self) -> Result<Option<Room>, StoreError> {
        match self.held.as_ref().and_then(|held| held.entry.as_ref()) {
            Some(entry) => self.journal.room(entry).await.map(Some),
            None => Ok(None),
        }
    }

    /// Hands what is held on, to the journal and the applier.
    fn release(&mut self, room: Option<Room>) -> Result<(), UpstreamError> {
        let Some(Held { what, entry }) = self.held.take() else {
            return Ok(());
        };
        if let (Some(room), Some(entry)) = (room, entry) {
            Journal::append(room, entry);
        }
        let received = match &what {
            What::Event(Event::Commit { end_lsn, .. }) => Some(*end_lsn),
            What::Position(position) => Some(*position),
            What::Event(
                Event::Begin { .. }
                | Event::Relation(_)
                | Event::Change(_)
                | Event::Truncate { .. }
                | Event::Message { .. },
            ) => None,
        };
        if let Some(received) = received {
            self.progress.receive(received);
            self.news = true;
            self.mark();
        }
        match what {
            What::Event(event) => self.open.event(event, self.queue),
            What::Position(position) => self.queue.pass(Passed::at(position)),
        }
    }

    fn mark(&mut self) {
        self.upstream = self.upstream.max(self.progress.received());
        self.marks.set(
            self.progress.received(),
            self.progress.durable(),
            self.upstream,
        );
    }
}
