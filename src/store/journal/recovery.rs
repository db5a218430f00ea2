//! The journal's segments on disk → what they reach from and to, checked.
//! Never passes over a damaged record: only what a crash tore off behind the last durable byte is cut.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::hold::Holds;
use super::segment::{Kind, Next, SegmentHeader, SegmentReader, was_durable_beyond};
use super::tail::{Extent, JournalReader, Tail};
use super::{DIRECTORY, Journal, file_name, number_of};
use crate::lsn::Lsn;
use crate::store::disk::Disk;
use crate::store::{Origin, StoreError};

/// A segment that was read to its end.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) start: Lsn,
    pub(super) length: u64,
}

/// A journal whose every record has been checked.
#[derive(Debug)]
pub struct RecoveredJournal {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) system_id: u64,
    pub(super) epoch: u64,
    /// In order.
    pub(super) segments: Vec<Segment>,
    /// Where the last one ends; of no meaning when there is none.
    pub(super) end: Lsn,
    /// What its trimming must respect.
    pub(super) holds: Holds,
}

impl RecoveredJournal {
    pub(in crate::store) fn recover(
        disk: Arc<dyn Disk>,
        root: &Path,
        origin: &Origin,
        holds: Holds,
    ) -> Result<Self, StoreError> {
        let directory = root.join(DIRECTORY);
        let mut journal = Self {
            system_id: origin.system_id,
            epoch: origin.epoch,
            segments: Vec::new(),
            end: Lsn::ZERO,
            holds,
            disk,
            directory,
        };
        let made = journal.disk.create_dir(&journal.directory);
        made.map_err(StoreError::at(&journal.directory))?;
        let synced = journal.disk.sync_dir(root);
        synced.map_err(StoreError::at(root))?;
        let numbers = numbers(&*journal.disk, &journal.directory)?;
        let last = numbers.last().copied();
        for number in numbers {
            journal.check(number, Some(number) == last)?;
        }
        Ok(journal)
    }

    /// Where the journal begins and ends: it holds every transaction whose commit record lies between. `None` when
    /// there is none yet.
    #[must_use]
    pub fn range(&self) -> Option<(Lsn, Lsn)> {
        self.segments.first().map(|first| (first.start, self.end))
    }

    /// The messages from `from` on, as a reader beside the writer would find them.
    #[must_use]
    pub fn replay(&self, from: Lsn) -> Tail {
        let extent = Extent {
            segments: self.segments.clone().into(),
            end: self.end,
        };
        let reader = JournalReader {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            epoch: self.epoch,
            extent: watch::channel(extent).1,
        };
        reader.tail(from)
    }

    /// Starts the writer, on a blocking thread of the current runtime: at the journal's end, or, where there is no
    /// journal yet, at `start`, where the stream begins.
    ///
    /// # Errors
    /// When the next segment cannot be made.
    pub fn start(self, start: Lsn) -> Result<Journal, StoreError> {
        Journal::start(self, start)
    }

    fn check(&mut self, number: u64, last: bool) -> Result<(), StoreError> {
        let path = self.directory.join(file_name(number));
        let (mut reader, header) = open(&*self.disk, &path)?;
        let Some(header) = header else {
            // A crash between making the file and syncing it. Nothing was written to it before that.
            if last && !self.was_durable_beyond(&path, 0)? {
                let removed = self.disk.remove_file(&path);
                removed.map_err(StoreError::at(&path))?;
                let synced = self.disk.sync_dir(&self.directory);
                return synced.map_err(StoreError::at(&self.directory));
            }
            return Err(StoreError::corrupt(&path, "no journal header"));
        };
        self.check_header(&path, number, &header)?;
        let mut end = header.start;
        let mut boundary = reader.offset();
        let mut inside = None;
        loop {
            let at = reader.offset();
            match reader.next().map_err(StoreError::at(&path))? {
                Next::Record(record) => {
                    let wrong =
                        || StoreError::corrupt(&path, format!("record out of order at byte {at}"));
                    match (record.kind, inside) {
                        (Kind::Relation, _) => {}
                        (Kind::Begin, None) if record.position >= end => {
                            inside = Some(record.position);
                        }
                        (Kind::Change, Some(begun)) if record.position == begun => {}
                        (Kind::Commit, Some(begun)) if record.position > begun => {
                            inside = None;
                            end = record.position;
                        }
                        (Kind::Position, None) if record.position >= end => end = record.position,
                        (Kind::Begin | Kind::Change | Kind::Commit | Kind::Position, _) => {
                            return Err(wrong());
                        }
                    }
                    if inside.is_none() {
                        boundary = reader.offset();
                    }
                }
                Next::End if inside.is_none() => break,
                Next::End | Next::Bad if !last => {
                    return Err(StoreError::corrupt(
                        &path,
                        format!("no whole record at byte {at}"),
                    ));
                }
                Next::End | Next::Bad => {
                    if self.was_durable_beyond(&path, at)? {
                        return Err(StoreError::corrupt(
                            &path,
                            format!("no whole record at byte {at}"),
                        ));
                    }
                    break;
                }
            }
        }
        if last {
            // Also where nothing was torn: what a killed process had not synced is about to be called durable.
            let cut = self.disk.truncate(&path, boundary);
            cut.map_err(StoreError::at(&path))?;
        }
        self.segments.push(Segment {
            number,
            start: header.start,
            length: boundary,
        });
        self.end = end;
        Ok(())
    }

    fn check_header(
        &self,
        path: &Path,
        number: u64,
        header: &SegmentHeader,
    ) -> Result<(), StoreError> {
        let expected = SegmentHeader {
            number,
            start: header.start,
            system_id: self.system_id,
            epoch: self.epoch,
        };
        if *header != expected {
            return Err(StoreError::corrupt(path, "a journal of another stream"));
        }
        match self.segments.last() {
            Some(before) if before.number + 1 != number => Err(StoreError::corrupt(
                path,
                "the segment before it is missing",
            )),
            Some(_) if self.end != header.start => Err(StoreError::corrupt(
                path,
                "does not begin where the segment before it ends",
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn was_durable_beyond(&self, path: &Path, bad: u64) -> Result<bool, StoreError> {
        let file = self.disk.open(path);
        file.and_then(|file| was_durable_beyond(file, bad))
            .map_err(StoreError::at(path))
    }
}

/// The numbers of the segments in the directory, in order.
pub(super) fn numbers(disk: &dyn Disk, directory: &Path) -> Result<Vec<u64>, StoreError> {
    let names = disk.list(directory).map_err(StoreError::at(directory))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn open(
    disk: &dyn Disk,
    path: &Path,
) -> Result<(SegmentReader, Option<SegmentHeader>), StoreError> {
    let length = disk.length(path).map_err(StoreError::at(path))?;
    let file = disk.open(path).map_err(StoreError::at(path))?;
    SegmentReader::open(file, length).map_err(StoreError::at(path))
}
