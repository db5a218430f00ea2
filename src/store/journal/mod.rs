//! Messages of the stream → journal files on a thread of their own → how far they are durable.
//! Never waits for an index, and never keeps more than a bounded number of bytes in memory.

mod hold;
mod recovery;
mod segment;
mod tail;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

pub use hold::{Hold, Holds};
pub use recovery::RecoveredJournal;
pub use tail::{JournalReader, Replayed, Tail};

use super::StoreError;
use super::disk::Disk;
use crate::lsn::Lsn;
use crate::wal::pgoutput::LogicalMessage;
use tail::Extent;
use writer::{Item, Limits, Writer};

/// The journal's directory within the store's.
const DIRECTORY: &str = "journal";
/// The suffix of a segment's file.
const SUFFIX: &str = ".segment";
/// Commands that wait for the writer. Most are small; what bounds memory is the next.
const QUEUE_LENGTH: usize = 4096;
/// Bytes of messages that wait for the writer: a quarter of a second at the 114 MB/s that a walsender sends.
const QUEUE_BYTES: u32 = 32 << 20;
/// While messages keep coming, a commit waits at most this long for its sync to begin. Syncing takes as long again.
const GROUP_INTERVAL: Duration = Duration::from_millis(50);
/// And where they come one by one, a sync begins no sooner after the last one's begin: at a thousand commits a second the disk,
/// and the processor's time that it takes, would be busy with nothing else.
const SYNC_PAUSE: Duration = Duration::from_millis(10);
/// Within a huge transaction nothing waits for a sync; this keeps the one at its end short.
const SYNC_BYTES: u64 = 16 << 20;

fn file_name(number: u64) -> String {
    format!("{number:020}{SUFFIX}")
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// Removes all segments.
pub(super) fn remove_all(disk: &dyn Disk, root: &Path) -> Result<(), StoreError> {
    let directory = root.join(DIRECTORY);
    match disk.list(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::at(&directory)(error)),
        Ok(_) => {}
    }
    for number in recovery::numbers(disk, &directory)? {
        let path = directory.join(file_name(number));
        disk.remove_file(&path).map_err(StoreError::at(&path))?;
    }
    let synced = disk.sync_dir(&directory);
    synced.map_err(StoreError::at(&directory))
}

/// What a message adds to the journal.
#[derive(Debug)]
pub struct Entry(Item);

impl Entry {
    /// The entry of a message and the bytes that it was decoded from. `None` for what changes nothing.
    #[must_use]
    pub fn of(message: &LogicalMessage, raw: Bytes) -> Option<Self> {
        Some(Self(match message {
            LogicalMessage::Begin { final_lsn, .. } => Item::Begin {
                commit_lsn: *final_lsn,
                message: raw,
            },
            LogicalMessage::Commit { end_lsn, .. } => Item::Commit {
                end_lsn: *end_lsn,
                message: raw,
            },
            LogicalMessage::Relation(relation) => Item::Relation {
                id: relation.id.0,
                message: raw,
            },
            LogicalMessage::Insert { .. }
            | LogicalMessage::Update { .. }
            | LogicalMessage::Delete { .. }
            | LogicalMessage::Truncate { .. }
            | LogicalMessage::Message {
                transactional: true,
                ..
            } => Item::Change { message: raw },
            LogicalMessage::Type { .. }
            | LogicalMessage::Origin { .. }
            | LogicalMessage::Message {
                transactional: false,
                ..
            } => return None,
        }))
    }

    /// Notes that nothing for us lies before `lsn`, as a keepalive between transactions tells. Only when this is
    /// durable may it be confirmed: a slot that is ahead of the journal looks like lost changes.
    #[must_use]
    pub const fn position(lsn: Lsn) -> Self {
        Self(Item::Position { lsn })
    }

    /// Bytes that wait in memory until they are written.
    fn bytes(&self) -> u32 {
        let message = match &self.0 {
            Item::Begin { message, .. }
            | Item::Relation { message, .. }
            | Item::Change { message }
            | Item::Commit { message, .. } => message.len(),
            Item::Position { .. } => 0,
        };
        // The largest possible message passes alone.
        u32::try_from(message).map_or(QUEUE_BYTES, |bytes| bytes.min(QUEUE_BYTES))
    }
}

/// Room in the journal's queue for one entry.
#[derive(Debug)]
pub struct Room {
    place: mpsc::OwnedPermit<Command>,
    bytes: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Command {
    Append {
        item: Item,
        /// Given back when the item is written.
        _bytes: OwnedSemaphorePermit,
    },
    Abandon,
    Trim(Lsn),
}

/// The running journal.
#[derive(Debug)]
pub struct Journal {
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    durable: watch::Receiver<Lsn>,
    reader: JournalReader,
    size: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), StoreError>>,
}

impl Journal {
    fn start(recovered: RecoveredJournal, start: Lsn) -> Result<Self, StoreError> {
        let (disk, directory) = (Arc::clone(&recovered.disk), recovered.directory.clone());
        let epoch = recovered.epoch;
        let writer = Writer::start(recovered, start, Limits::USUAL)?;
        let (commands, queue) = mpsc::channel(QUEUE_LENGTH);
        let (published, durable) = watch::channel(writer.durable());
        let (readable, extent) = watch::channel(writer.extent());
        let published = Published {
            version: writer.extent_version(),
            extent: readable,
            durable: published,
        };
        let size = Arc::new(AtomicU64::new(writer.size()));
        let shared = Arc::clone(&size);
        let thread = tokio::task::spawn_blocking(move || write(published, writer, queue, &shared));
        Ok(Self {
            commands,
            room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
            durable,
            reader: JournalReader {
                disk,
                directory,
                epoch,
                extent,
            },
            size,
            thread,
        })
    }

    /// Waits for room for that entry: the writer may be behind. Cancel-safe.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when the writer has failed.
    pub async fn room(&self, entry: &Entry) -> Result<Room, StoreError> {
        let bytes = Arc::clone(&self.room).acquire_many_owned(entry.bytes());
        // The semaphore is never closed.
        let bytes = bytes.await.map_err(|_| StoreError::Stopped)?;
        let place = self.commands.clone().reserve_owned().await;
        Ok(Room {
            place: place.map_err(|_| StoreError::Stopped)?,
            bytes,
        })
    }

    /// The same if there is room now.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when the writer has failed.
    pub fn room_now(&self, entry: &Entry) -> Result<Option<Room>, StoreError> {
        let Ok(bytes) = Arc::clone(&self.room).try_acquire_many_owned(entry.bytes()) else {
            return Ok(None); // the semaphore is never closed
        };
        match self.commands.clone().try_reserve_owned() {
            Ok(place) => Ok(Some(Room { place, bytes })),
            Err(TrySendError::Full(_)) => Ok(None),
            Err(TrySendError::Closed(_)) => Err(StoreError::Stopped),
        }
    }

    /// Appends an entry, in the place that [`Self::room`] gave for it.
    pub fn append(room: Room, entry: Entry) {
        room.place.send(Command::Append {
            item: entry.0,
            _bytes: room.bytes,
        });
    }

    /// The connection was lost: forgets the transaction that is not complete.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when the writer has failed.
    pub async fn abandon(&self) -> Result<(), StoreError> {
        self.send(Command::Abandon).await
    }

    /// What lets go of old segments, for whoever writes generations.
    #[must_use]
    pub fn trimmer(&self) -> Trimmer {
        Trimmer {
            commands: self.commands.downgrade(),
            size: Arc::clone(&self.size),
        }
    }

    /// Everything before this position is durable: upstream's `flush`. Its sender is gone when the writer has failed.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Lsn> {
        self.durable.clone()
    }

    /// What reads the journal while it is written.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        self.reader.clone()
    }

    /// Makes everything appended durable and ends the writer. An incomplete transaction is forgotten.
    ///
    /// # Errors
    /// What the writer failed of, now or before.
    pub async fn close(self) -> Result<(), StoreError> {
        drop(self.commands);
        self.thread.await.map_err(|_| StoreError::Stopped)?
    }

    async fn send(&self, command: Command) -> Result<(), StoreError> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| StoreError::Stopped)
    }
}

/// Trims a running journal; does nothing once that is closed.
#[derive(Clone, Debug)]
pub struct Trimmer {
    commands: mpsc::WeakSender<Command>,
    size: Arc<AtomicU64>,
}

impl Trimmer {
    /// Bytes of the journal on disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Lets go of what lies before `keep_from`, in whole segments.
    pub async fn trim(&self, keep_from: Lsn) {
        if let Some(commands) = self.commands.upgrade() {
            // Whoever appends learns that the writer has failed.
            let _stopped = commands.send(Command::Trim(keep_from)).await;
        }
    }
}

/// The writer's thread: syncs when nothing more waits, and at least every [`GROUP_INTERVAL`].
/// `published` is dropped last: who sees it gone finds the queue closed.
fn write(
    mut published: Published,
    mut writer: Writer,
    mut queue: mpsc::Receiver<Command>,
    size: &AtomicU64,
) -> Result<(), StoreError> {
    let mut waiting_since = None;
    let mut synced_at: Option<Instant> = None;
    loop {
        let command = match queue.try_recv() {
            Ok(command) => Some(command),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
            Err(mpsc::error::TryRecvError::Empty) => {
                if writer.is_waiting() {
                    let pause = synced_at.map(|at| SYNC_PAUSE.saturating_sub(at.elapsed()));
                    if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
                        std::thread::sleep(pause); // what comes meanwhile is in the queue
                        synced_at = None;
                        continue;
                    }
                    synced_at = Some(Instant::now());
                    sync(&mut writer, &mut published)?;
                    waiting_since = None;
                }
                queue.blocking_recv()
            }
        };
        match command {
            Some(Command::Append { item, _bytes }) => writer.append(item)?,
            Some(Command::Abandon) => writer.abandon()?,
            Some(Command::Trim(keep_from)) => writer.trim(keep_from)?,
            None => {
                writer.abandon()?;
                return sync(&mut writer, &mut published);
            }
        }
        size.store(writer.size(), Ordering::Relaxed);
        if writer.is_waiting() {
            let since = *waiting_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= GROUP_INTERVAL {
                sync(&mut writer, &mut published)?;
                waiting_since = None;
            }
        } else {
            waiting_since = None;
            // Rotation and abandoning sync by themselves.
            published.publish(&writer);
        }
        if writer.unsynced() >= SYNC_BYTES {
            sync(&mut writer, &mut published)?;
        }
    }
}

fn sync(writer: &mut Writer, published: &mut Published) -> Result<(), StoreError> {
    writer.sync()?;
    published.publish(writer);
    Ok(())
}

/// What the writer's thread tells of its files.
#[derive(Debug)]
struct Published {
    version: (Lsn, Option<u64>, Option<u64>),
    extent: watch::Sender<Extent>,
    durable: watch::Sender<Lsn>,
}

impl Published {
    fn publish(&mut self, writer: &Writer) {
        let version = writer.extent_version();
        if self.version != version {
            self.version = version;
            // First: who sees that a position is durable finds it readable.
            self.extent.send_replace(writer.extent());
        }
        self.durable.send_if_modified(|durable| {
            let moved = *durable < writer.durable();
            *durable = writer.durable();
            moved
        });
    }
}

#[cfg(test)]
mod tests;
