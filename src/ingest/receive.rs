//! One stream of the walsender → the journal and items for the applier, and status reports back. Reports on its own timer,
//! whatever the applier and the journal do. Never confirms a position before everything up to it is durable in the journal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::ingest::apply::{Item, Marks};
use crate::ingest::indexes::event_bytes;
use crate::ingest::stopped;
use crate::lsn::{Lsn, Progress};
use crate::store::{Entry, Journal, Room};
use crate::upstream::UpstreamError;
use crate::upstream::walsender::{ReplicationStream, StatusSender};
use crate::wal::pgoutput::{LogicalMessage, ReplicationMessage};
use crate::wal::transaction::{Event, Transactions};

/// Memory for events that arrived and are not applied yet.
const QUEUE_BYTES: u32 = 64 << 20;
/// What an item costs at least: bounds the number of items.
const ITEM_BYTES: u32 = 256;
/// Most items in the queue. The memory bound is reached first.
pub(crate) const QUEUE_ITEMS: usize = (QUEUE_BYTES / ITEM_BYTES) as usize + 1024;
/// Longest silence towards upstream: far below `wal_sender_timeout`, and what an idle slot lags at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two reports of progress: a commit that waits for us waits no longer than this.
const STATUS_PAUSE: Duration = Duration::from_millis(2);

/// Longest time that nothing is read since there is no room, before the connection is given back: upstream, when it shuts
/// down, waits for a walsender until all was received.
const HELD_MOST: Duration = Duration::from_secs(5);

/// How a stream ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything stops.
    Stopped,
    /// There is no room for what comes, and will not be soon.
    Full,
    /// The journal cannot be written.
    JournalFailed,
}

/// The sending end of the applier's queue, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Queue {
    items: mpsc::Sender<Item>,
    memory: Arc<Semaphore>,
}

impl Queue {
    pub(crate) fn new(items: mpsc::Sender<Item>) -> Self {
        Self {
            items,
            memory: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
        }
    }

    /// Waits for room for that many bytes. Cancel-safe.
    pub(crate) async fn reserve(&self, bytes: u32) -> Result<OwnedSemaphorePermit, UpstreamError> {
        let memory = Arc::clone(&self.memory);
        let permit = memory.acquire_many_owned(bytes).await;
        permit.map_err(|_| UpstreamError::Closed)
    }

    /// Sends an item that costs nothing, of which there are few.
    pub(crate) async fn send(&self, item: Item) -> Result<(), UpstreamError> {
        self.items
            .send(item)
            .await
            .map_err(|_| UpstreamError::Closed)
    }

    /// Waits until half of the room is free.
    pub(crate) async fn drained(&self) -> Result<(), UpstreamError> {
        drop(self.reserve(QUEUE_BYTES / 2).await?);
        Ok(())
    }

    /// Sends an item for which there is room.
    pub(crate) fn push(&self, item: Item) -> Result<(), UpstreamError> {
        // Full only if the bound in bytes were wrong.
        self.items.try_send(item).map_err(|_| UpstreamError::Closed)
    }
}

/// How far one connection has come.
struct Receiver<'a> {
    queue: &'a Queue,
    journal: &'a Journal,
    marks: &'a Marks,
    transactions: Transactions,
    progress: Progress,
    upstream: Lsn,
    /// An item for which there is no room yet. Nothing is read meanwhile.
    held: Option<Held>,
    held_since: Instant,
    /// Upstream should hear of progress soon.
    news: bool,
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

/// Room for a held item.
struct Grant {
    memory: OwnedSemaphorePermit,
    journal: Option<Room>,
}

/// Why there will be no room.
enum Refusal {
    Applier,
    Journal,
}

/// Receives until `stop` or an error. `position` is where to resume: everything before it is in the queue and in the
/// journal's.
///
/// # Errors
/// When the stream ends.
pub(crate) async fn receive(
    stream: ReplicationStream,
    position: &mut Lsn,
    queue: &Queue,
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
        progress,
        upstream: *position,
        held: None,
        held_since: Instant::now(),
        news: true,
    };
    let mut reported = Instant::now();
    let timer = sleep_until(reported);
    let mut timer = std::pin::pin!(timer);
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
                if receiver.held.is_some() && receiver.held_since.elapsed() >= HELD_MOST {
                    leave(status, &receiver.progress).await?;
                    return Ok(Ended::Full);
                }
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
                Ok(grant) => receiver.release(grant)?,
                Err(Refusal::Applier) => return Err(UpstreamError::Closed),
                Err(Refusal::Journal) => return Ok(Ended::JournalFailed),
            },
            message = incoming.next(), if receiver.held.is_none() => receiver.message(message?)?,
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
                let event = self.transactions.feed(message);
                let event = event.map_err(|error| UpstreamError::Protocol(error.to_string()))?;
                if let Some(Event::Begin {
                    commit_lsn,
                    commit_time,
                    ..
                }) = &event
                {
                    self.marks.compare_clocks(sent, SystemTime::now());
                    self.marks.arrived(*commit_lsn, *commit_time);
                }
                self.hold(event.map(|event| Held {
                    what: What::Event(event),
                    entry,
                }));
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
                    self.hold(Some(Held {
                        what: What::Position(end),
                        entry: Some(Entry::position(end)),
                    }));
                }
            }
        }
        Ok(())
    }

    fn hold(&mut self, item: Option<Held>) {
        self.held = item;
        self.held_since = Instant::now();
    }

    /// Waits until the held item fits. Cancel-safe.
    async fn room(&self) -> Result<Grant, Refusal> {
        let (bytes, entry) = match &self.held {
            Some(Held {
                what: What::Event(event),
                entry,
            }) => (item_bytes(event), entry.as_ref()),
            Some(Held {
                what: What::Position(_),
                entry,
            }) => (ITEM_BYTES, entry.as_ref()),
            None => (ITEM_BYTES, None),
        };
        let memory = self.queue.reserve(bytes).await;
        let memory = memory.map_err(|_| Refusal::Applier)?;
        let journal = match entry {
            Some(entry) => Some(
                self.journal
                    .room(entry)
                    .await
                    .map_err(|_| Refusal::Journal)?,
            ),
            None => None,
        };
        Ok(Grant { memory, journal })
    }

    /// Hands the held item on, to the journal and the applier.
    fn release(&mut self, grant: Grant) -> Result<(), UpstreamError> {
        let Some(Held { what, entry }) = self.held.take() else {
            return Ok(());
        };
        if let (Some(room), Some(entry)) = (grant.journal, entry) {
            Journal::append(room, entry);
        }
        let (item, received) = match what {
            What::Event(event) => {
                let end = match &event {
                    Event::Commit { end_lsn, .. } => Some(*end_lsn),
                    Event::Begin { .. }
                    | Event::Relation(_)
                    | Event::Change(_)
                    | Event::Truncate { .. }
                    | Event::Message { .. } => None,
                };
                (Item::Event(event, grant.memory), end)
            }
            What::Position(position) => (Item::Position(position, grant.memory), Some(position)),
        };
        if let Some(received) = received {
            self.progress.receive(received);
            self.news = true;
        }
        self.mark();
        self.queue.push(item)
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

/// What an event's item costs of the queue's memory. The largest possible row passes alone.
pub(crate) fn item_bytes(event: &Event) -> u32 {
    u32::try_from(event_bytes(event))
        .unwrap_or(u32::MAX)
        .clamp(ITEM_BYTES, QUEUE_BYTES)
}
