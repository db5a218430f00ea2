//! One stream of the walsender → items for the applier, and status reports back. Reports on its own timer, whatever the applier
//! does. Never confirms a position before everything up to it is in Rektor's hands.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::ingest::apply::{Item, Marks};
use crate::ingest::indexes::event_bytes;
use crate::ingest::stopped;
use crate::lsn::{Lsn, Progress};
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
    async fn reserve(&self, bytes: u32) -> Result<OwnedSemaphorePermit, UpstreamError> {
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

    fn push(&self, item: Item) -> Result<(), UpstreamError> {
        // Full only if the bound in bytes were wrong.
        self.items.try_send(item).map_err(|_| UpstreamError::Closed)
    }
}

/// How far one connection has come.
struct Receiver<'a> {
    queue: &'a Queue,
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

enum Held {
    Event(Event),
    Position(Lsn),
}

/// Receives until `stop` or an error. `position` is where to resume: everything before it is in the queue.
///
/// # Errors
/// When the stream ends.
pub(crate) async fn receive(
    stream: ReplicationStream,
    position: &mut Lsn,
    queue: &Queue,
    marks: &Marks,
    applied: &mut watch::Receiver<Lsn>,
    stop: &mut watch::Receiver<bool>,
) -> Result<Ended, UpstreamError> {
    let (mut incoming, mut status) = stream.split();
    let mut progress = Progress::starting_at((*applied.borrow_and_update()).min(*position));
    progress.receive(*position);
    progress.make_durable(*position);
    let mut receiver = Receiver {
        queue,
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
        *position = receiver.progress.durable();
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
            room = receiver.room(), if receiver.held.is_some() => receiver.release(room?)?,
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

/// Says how far we are and ends the stream, so that the slot is free at once.
async fn leave(mut status: StatusSender, progress: &Progress) -> Result<(), UpstreamError> {
    status.send_status(progress, false).await?;
    status.close().await
}

impl Receiver<'_> {
    fn message(&mut self, message: ReplicationMessage) -> Result<(), UpstreamError> {
        match message {
            ReplicationMessage::WalData { end, payload, .. } => {
                self.upstream = self.upstream.max(end);
                let message = LogicalMessage::decode(payload)?;
                let event = self.transactions.feed(message);
                let event = event.map_err(|error| UpstreamError::Protocol(error.to_string()))?;
                self.hold(event.map(Held::Event));
            }
            ReplicationMessage::Keepalive {
                end,
                reply_requested,
            } => {
                self.upstream = self.upstream.max(end);
                self.news |= reply_requested;
                // Inside a transaction it says nothing of what that will still bring.
                if !self.transactions.is_inside() && end > self.progress.received() {
                    self.hold(Some(Held::Position(end)));
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
    async fn room(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        let bytes = match &self.held {
            Some(Held::Event(event)) => u32::try_from(event_bytes(event)).unwrap_or(u32::MAX),
            Some(Held::Position(_)) | None => 0,
        };
        // The largest possible row passes alone.
        self.queue
            .reserve(bytes.clamp(ITEM_BYTES, QUEUE_BYTES))
            .await
    }

    /// Hands the held item on: from then on it is ours, and may be confirmed once its transaction is complete.
    fn release(&mut self, room: OwnedSemaphorePermit) -> Result<(), UpstreamError> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        let (item, confirmed) = match held {
            Held::Event(event) => {
                let end = match &event {
                    Event::Commit { end_lsn, .. } => Some(*end_lsn),
                    Event::Begin { .. }
                    | Event::Relation(_)
                    | Event::Change(_)
                    | Event::Truncate { .. }
                    | Event::Message { .. } => None,
                };
                (Item::Event(event, room), end)
            }
            Held::Position(position) => (Item::Position(position, room), Some(position)),
        };
        if let Some(confirmed) = confirmed {
            self.progress.receive(confirmed);
            self.progress.make_durable(confirmed);
            self.news = true;
        }
        self.upstream = self.upstream.max(self.progress.received());
        self.marks.set(
            self.progress.received(),
            self.progress.durable(),
            self.upstream,
        );
        self.queue.push(item)
    }
}
