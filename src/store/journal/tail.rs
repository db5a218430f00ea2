//! The durable part of the journal's files → its messages from a position on, while the writer appends.
//! Never reads what a crash or a lost connection could still take back, and never passes over a damaged record.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::file_name;
use super::recovery::Segment;
use super::segment::{Kind, Next, SegmentReader};
use crate::lsn::Lsn;
use crate::store::StoreError;
use crate::store::disk::Disk;

/// What of the journal can be read: whole transactions that are durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Extent {
    /// In order; the length of the last one is what is durable of it, up to the end of a transaction.
    pub(super) segments: Arc<[Segment]>,
    /// Where it ends.
    pub(super) end: Lsn,
}

/// What the journal holds, in stream order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// A message of pgoutput, as it was received. Transactions are whole; tables are described before their changes.
    Message(Bytes),
    /// Nothing for us lies before this position.
    Position(Lsn),
}

/// Opens the files of a journal for reading, beside its writer.
#[derive(Clone, Debug)]
pub struct JournalReader {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) epoch: u64,
    pub(super) extent: watch::Receiver<Extent>,
}

impl JournalReader {
    /// Of which state of the slot the journal is.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Reads from `from` on, which must be held, and some before it: transactions committed earlier are for the caller
    /// to skip.
    #[must_use]
    pub fn tail(&self, from: Lsn) -> Tail {
        let mut extent = self.extent.clone();
        let seen = extent.borrow_and_update().clone();
        Tail {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            extent,
            seen,
            open: Open::At(from),
            position: from,
        }
    }
}

/// Follows the journal's durable end.
#[derive(Debug)]
pub struct Tail {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    extent: watch::Receiver<Extent>,
    seen: Extent,
    open: Open,
    position: Lsn,
}

#[derive(Debug)]
enum Open {
    /// Nothing yet: the segment of this position comes first.
    At(Lsn),
    /// The segment before this number was read to its end.
    Before(u64),
    Segment {
        number: u64,
        path: PathBuf,
        reader: SegmentReader,
    },
    /// An error was told: there is nothing more to be had.
    Failed,
}

impl Tail {
    /// Everything before this position was read.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Waits until there may be more to read. Cancel-safe.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when the journal's writer has ended: another one may go on in the same files.
    pub async fn grown(&mut self) -> Result<(), StoreError> {
        self.extent.changed().await.map_err(|_| StoreError::Stopped)
    }

    /// Takes notice of what has become durable; whether that is more.
    fn look(&mut self) -> bool {
        let now = self.extent.borrow_and_update().clone();
        let more = now.end > self.seen.end || now.segments.len() != self.seen.segments.len();
        self.seen = now;
        more
    }

    fn advance(&mut self) -> Result<Option<Replayed>, StoreError> {
        loop {
            if !self.open_next()? {
                if self.look() {
                    continue;
                }
                self.position = self.position.max(self.seen.end);
                return Ok(None);
            }
            let Open::Segment {
                number,
                path,
                reader,
            } = &mut self.open
            else {
                continue;
            };
            match reader.next().map_err(StoreError::at(path))? {
                Next::Record(record) => {
                    return Ok(Some(match record.kind {
                        Kind::Position => {
                            self.position = self.position.max(record.position);
                            Replayed::Position(record.position)
                        }
                        Kind::Commit => {
                            self.position = self.position.max(record.position);
                            Replayed::Message(record.payload)
                        }
                        Kind::Begin | Kind::Relation | Kind::Change => {
                            Replayed::Message(record.payload)
                        }
                    }));
                }
                Next::Bad => {
                    let at = reader.offset();
                    return Err(StoreError::corrupt(
                        path,
                        format!("no whole record at byte {at}"),
                    ));
                }
                Next::End => {
                    let (number, closed) = (*number, reader.offset());
                    let last = self.seen.segments.last().map(|last| last.number);
                    if last != Some(number) {
                        self.open = Open::Before(number + 1);
                        continue;
                    }
                    self.look();
                    // The same segment has grown, or was closed behind what was read of it.
                    if !self.extend(number, closed)? {
                        self.position = self.position.max(self.seen.end);
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Lets the open segment be read as far as it is durable now; whether there is more, of it or behind it.
    fn extend(&mut self, number: u64, read: u64) -> Result<bool, StoreError> {
        let is_last = self.seen.segments.last().map(|last| last.number) == Some(number);
        let segments = self.seen.segments.iter();
        let length = segments
            .clone()
            .find(|segment| segment.number == number)
            .map(|segment| segment.length);
        let Some(length) = length else {
            // Trimmed, as all of it was read.
            self.open = Open::Before(number + 1);
            return Ok(true);
        };
        let Open::Segment { reader, path, .. } = &mut self.open else {
            return Ok(true);
        };
        if length < read {
            return Err(StoreError::corrupt(path, "shorter than what was read"));
        }
        reader.extend(length);
        Ok(length > read || !is_last)
    }

    /// Whether a segment is open.
    fn open_next(&mut self) -> Result<bool, StoreError> {
        let mut segments = self.seen.segments.iter();
        let segment = match &self.open {
            Open::Segment { .. } => return Ok(true),
            Open::Failed => return Ok(false),
            // Of several that begin there only the last holds anything.
            Open::At(from) => segments.rev().find(|segment| segment.start <= *from),
            Open::Before(number) => match segments.find(|segment| segment.number >= *number) {
                None => return Ok(false),
                // Those between were trimmed, as they held nothing.
                found => found.filter(|segment| segment.start <= self.position),
            },
        };
        let Some(segment) = segment else {
            return Err(StoreError::corrupt(
                &self.directory,
                format!("the journal does not reach back to {}", self.position),
            ));
        };
        let path = self.directory.join(file_name(segment.number));
        let file = self.disk.open(&path).map_err(StoreError::at(&path))?;
        let opened = SegmentReader::open(file, segment.length).map_err(StoreError::at(&path))?;
        let (reader, Some(header)) = opened else {
            return Err(StoreError::corrupt(&path, "no journal header"));
        };
        if (header.number, header.start) != (segment.number, segment.start) {
            return Err(StoreError::corrupt(&path, "another segment's header"));
        }
        self.open = Open::Segment {
            number: segment.number,
            path,
            reader,
        };
        Ok(true)
    }
}

impl Iterator for Tail {
    type Item = Result<Replayed, StoreError>;

    /// `None` when all that is durable was read; more may come. After an error nothing does.
    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.open, Open::Failed) {
            return None;
        }
        let next = self.advance();
        if next.is_err() {
            self.open = Open::Failed;
        }
        next.transpose()
    }
}
