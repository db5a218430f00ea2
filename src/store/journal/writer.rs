//! Records in stream order → segment files, synced in groups. Plain calls that block; the thread around them is `mod.rs`.
//! Never says durable what is not, and never leaves part of an abandoned transaction behind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::file_name;
use super::hold::Holds;
use super::recovery::{RecoveredJournal, Segment};
use super::segment::{Kind, MAX_PAYLOAD, SegmentHeader, encode_record};
use super::tail::Extent;
use crate::lsn::Lsn;
use crate::store::StoreError;
use crate::store::disk::{Disk, DiskFile};

/// Sizes at which the writer acts; a crash test takes small ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A segment is closed at the end of the transaction that takes it beyond this.
    pub(super) segment: u64,
    /// Records are gathered up to this before they are handed to the operating system.
    pub(super) write: usize,
    /// Trimming closes the open segment only if that frees something worth a file.
    pub(super) trim: u64,
}

impl Limits {
    /// Segments small enough that trimming frees space soon, and large enough that a description of every table at
    /// their head is nothing.
    pub(super) const USUAL: Self = Self {
        segment: 64 << 20,
        write: 1 << 20,
        trim: 1 << 20,
    };
}

/// A record to append.
#[derive(Debug)]
pub(super) enum Item {
    Begin { commit_lsn: Lsn, message: Bytes },
    Relation { id: u32, message: Bytes },
    Change { message: Bytes },
    Commit { end_lsn: Lsn, message: Bytes },
    Position { lsn: Lsn },
}

/// Appends to the newest segment.
pub(super) struct Writer {
    limits: Limits,
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    system_id: u64,
    epoch: u64,
    /// In order; the last one is open.
    segments: Vec<Segment>,
    file: Box<dyn DiskFile>,
    /// Encoded and not yet written.
    buffer: Vec<u8>,
    /// Bytes of the open segment on disk or in the buffer.
    length: u64,
    /// Bytes of the open segment that are durable.
    synced: u64,
    /// Where the last complete transaction ends in the open segment.
    boundary: u64,
    /// The same as a position of the stream.
    end: Lsn,
    durable: Lsn,
    /// Bytes of the open segment that a reader may have: durable, and whole transactions.
    readable: u64,
    /// What readers still need.
    holds: Holds,
    /// Where the open transaction's commit record begins.
    inside: Option<Lsn>,
    /// The newest description of each table on this connection, repeated at the head of every segment.
    relations: BTreeMap<u32, Bytes>,
}

impl Writer {
    pub(super) fn start(
        recovered: RecoveredJournal,
        start: Lsn,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let end = recovered.range().map_or(start, |(_, end)| end);
        let number = recovered.segments.last().map_or(1, |last| last.number + 1);
        let mut segments = recovered.segments;
        let mut writer = Self {
            limits,
            file: Box::new(Unopened),
            disk: recovered.disk,
            directory: recovered.directory,
            system_id: recovered.system_id,
            epoch: recovered.epoch,
            buffer: Vec::new(),
            length: 0,
            synced: 0,
            boundary: 0,
            end,
            durable: end,
            readable: 0,
            holds: recovered.holds,
            inside: None,
            relations: BTreeMap::new(),
            segments: Vec::new(),
        };
        writer.segments.append(&mut segments);
        writer.open_segment(number)?;
        Ok(writer)
    }

    /// Everything before this position is durable.
    pub(super) fn durable(&self) -> Lsn {
        self.durable
    }

    /// Whether a sync would move `durable` on.
    pub(super) fn is_waiting(&self) -> bool {
        self.durable < self.end
    }

    /// Bytes that a crash would lose.
    pub(super) fn unsynced(&self) -> u64 {
        self.length - self.synced
    }

    /// Bytes of all segments.
    pub(super) fn size(&self) -> u64 {
        let closed = self.segments.iter().rev().skip(1);
        closed.map(|segment| segment.length).sum::<u64>() + self.length
    }

    pub(super) fn append(&mut self, item: Item) -> Result<(), StoreError> {
        match (item, self.inside) {
            (
                Item::Begin {
                    commit_lsn,
                    message,
                },
                None,
            ) if commit_lsn >= self.end => {
                self.record(Kind::Begin, commit_lsn, &message)?;
                self.inside = Some(commit_lsn);
            }
            (Item::Relation { id, message }, _) => {
                self.record(Kind::Relation, Lsn::ZERO, &message)?;
                // The received frame's memory is shared with its neighbours: keep only what is needed.
                self.relations.insert(id, Bytes::copy_from_slice(&message));
            }
            (Item::Change { message }, Some(commit_lsn)) => {
                self.record(Kind::Change, commit_lsn, &message)?;
            }
            (Item::Commit { end_lsn, message }, Some(commit_lsn)) if end_lsn > commit_lsn => {
                self.record(Kind::Commit, end_lsn, &message)?;
                self.inside = None;
                self.end = end_lsn;
            }
            // Told again, or from before the restart.
            (Item::Position { lsn }, None) if lsn <= self.end => {}
            (Item::Position { lsn }, None) => {
                self.record(Kind::Position, lsn, &[])?;
                self.end = lsn;
            }
            (Item::Begin { .. }, _) => return Err(StoreError::Order("a Begin")),
            (Item::Change { .. }, None) => return Err(StoreError::Order("a change")),
            (Item::Commit { .. }, _) => return Err(StoreError::Order("a Commit")),
            (Item::Position { .. }, Some(_)) => return Err(StoreError::Order("a position")),
        }
        if self.inside.is_none() {
            self.boundary = self.length;
            if self.length >= self.limits.segment {
                self.rotate()?;
            }
        }
        Ok(())
    }

    /// Forgets the open transaction: its rest will not come on this connection, and it will be sent again whole.
    pub(super) fn abandon(&mut self) -> Result<(), StoreError> {
        self.relations.clear(); // the next connection describes every table again
        if self.inside.take().is_none() {
            return Ok(());
        }
        self.write()?;
        let cut = self.file.cut(self.boundary);
        cut.map_err(StoreError::at(&self.path()))?;
        self.length = self.boundary;
        self.synced = self.boundary;
        self.readable = self.boundary;
        self.durable = self.end;
        Ok(())
    }

    /// Makes everything appended durable.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.write()?;
        if self.synced < self.length {
            let synced = self.file.sync();
            synced.map_err(StoreError::at(&self.path()))?;
            self.synced = self.length;
        }
        self.readable = self.boundary;
        self.durable = self.end;
        Ok(())
    }

    /// What a reader may have.
    pub(super) fn extent(&self) -> Extent {
        let mut segments = self.segments.clone();
        if let Some(open) = segments.last_mut() {
            open.length = self.readable;
        }
        Extent {
            segments: segments.into(),
            end: self.durable,
        }
    }

    /// Numbers that tell one extent from another.
    pub(super) fn extent_version(&self) -> (Lsn, Option<u64>, Option<u64>) {
        let number = |segment: Option<&Segment>| segment.map(|segment| segment.number);
        let segments = &self.segments;
        (
            self.durable,
            number(segments.first()),
            number(segments.last()),
        )
    }

    /// Removes the segments that hold nothing from `keep_from` on, as far as no reader needs them.
    pub(super) fn trim(&mut self, keep_from: Lsn) -> Result<(), StoreError> {
        let keep_from = self
            .holds
            .least()
            .map_or(keep_from, |held| held.min(keep_from));
        if self.inside.is_none() && self.end <= keep_from && self.length >= self.limits.trim {
            self.rotate()?;
        }
        let nexts = self.segments.iter().skip(1);
        let old = nexts.take_while(|next| next.start <= keep_from).count();
        for segment in self.segments.drain(..old) {
            // Oldest first, so that what a crash leaves is still without a gap.
            let path = self.directory.join(file_name(segment.number));
            let removed = self.disk.remove_file(&path);
            removed.map_err(StoreError::at(&path))?;
            let synced = self.disk.sync_dir(&self.directory);
            synced.map_err(StoreError::at(&self.directory))?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        let number = self.segments.last().map_or(1, |last| last.number + 1);
        if let Some(open) = self.segments.last_mut() {
            open.length = self.length;
        }
        self.open_segment(number)
    }

    /// Makes a segment whose header and descriptions are durable before anything else is written to it.
    fn open_segment(&mut self, number: u64) -> Result<(), StoreError> {
        let header = SegmentHeader {
            number,
            start: self.end,
            system_id: self.system_id,
            epoch: self.epoch,
        };
        let path = self.directory.join(file_name(number));
        self.file = self.disk.create(&path).map_err(StoreError::at(&path))?;
        self.segments.push(Segment {
            number,
            start: self.end,
            length: 0,
        });
        self.buffer = header.encode();
        for message in self.relations.values() {
            encode_record(&mut self.buffer, Kind::Relation, Lsn::ZERO, 0, message);
        }
        self.length = self.buffer.len() as u64;
        self.synced = 0;
        self.readable = 0;
        self.boundary = self.length;
        self.sync()?;
        let synced = self.disk.sync_dir(&self.directory);
        synced.map_err(StoreError::at(&self.directory))
    }

    fn record(&mut self, kind: Kind, position: Lsn, payload: &[u8]) -> Result<(), StoreError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(StoreError::Order("a message of more than 1 GiB"));
        }
        let before = self.buffer.len();
        encode_record(&mut self.buffer, kind, position, self.synced, payload);
        self.length += (self.buffer.len() - before) as u64;
        if self.buffer.len() >= self.limits.write {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), StoreError> {
        if !self.buffer.is_empty() {
            let written = self.file.append(&self.buffer);
            written.map_err(StoreError::at(&self.path()))?;
            self.buffer.clear();
            self.buffer.shrink_to(2 * self.limits.write); // after a message of a gigabyte
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        let number = self.segments.last().map_or(0, |last| last.number);
        self.directory.join(file_name(number))
    }
}

/// Stands in until the first segment is open.
struct Unopened;

impl DiskFile for Unopened {
    fn append(&mut self, _: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn cut(&mut self, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}
