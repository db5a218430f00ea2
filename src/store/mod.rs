//! Messages of the stream and rows of the indexes → files that survive a crash, and back; and files for vectors, which do not.
//! Never hands out a byte whose checksum is wrong, and never claims as durable what was not synced.

mod checkpoint;
mod disk;
mod document;
mod journal;
mod mapped;

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use checkpoint::{
    Chunks, GenerationWriter, IndexHeader, IndexWriter, RowReader, StoredIndex, StoredRow,
};
pub use journal::{
    Entry, Hold, Holds, Journal, JournalReader, RecoveredJournal, Replayed, Room, Tail, Trimmer,
};
pub use mapped::MappedFiles;

use crate::catalog::IndexId;
use crate::lsn::Lsn;
use disk::{Disk, RealDisk};

/// The directory's lock, held while a process uses it.
const LOCK_FILE: &str = "lock";
/// Written and removed, to see whether the disk takes anything.
const PROBE_FILE: &str = "probe";
/// As much as the journal writes at a time.
const PROBE_BYTES: usize = 1 << 20;
/// Whose state this is.
const ORIGIN_FILE: &str = "origin";

/// Why the store cannot do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process uses the directory.
    #[error("data directory {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The directory belongs to another cluster or database.
    #[error("data directory {} belongs to {stored}, but upstream is {found}", .path.display())]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// What it was made for.
        stored: String,
        /// What upstream is.
        found: String,
    },
    /// Bytes are not what was written.
    #[error("{} is damaged: {what}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A caller broke an order or a form that the files rely on.
    #[error("{0} cannot be stored here")]
    Order(&'static str),
    /// The journal's writer has ended; [`Journal::close`] tells why.
    #[error("the journal has stopped")]
    Stopped,
}

impl StoreError {
    /// Adds the path to an operating system's error.
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

/// Which stream the stored state continues. State of another origin may lack changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The upstream cluster's identifier.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: u32,
    /// The database.
    pub database: String,
    /// The slot's name.
    pub slot: String,
    /// Counts how often the slot had to be made anew.
    pub epoch: u64,
}

/// How the stored state relates to upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Nothing was stored.
    New,
    /// It continues this stream.
    Same,
    /// It continued another timeline or slot: [`Directory::clear`] it and copy again.
    Stale,
}

/// The directory in which one Rektor keeps the state of one slot.
#[derive(Debug)]
pub struct Directory {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    state: Mutex<State>,
    holds: Holds,
    /// Unlocks when it is dropped.
    _lock: Option<File>,
}

#[derive(Debug)]
struct State {
    origin: Option<Origin>,
    /// Newest first, at most [`checkpoint::KEPT`].
    generations: Vec<checkpoint::Generation>,
}

impl Directory {
    /// Opens or makes the directory, closes it to others and takes its lock.
    ///
    /// # Errors
    /// When another process holds it, or the file system refuses.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let disk = Arc::new(RealDisk);
        disk.create_dir(path).map_err(StoreError::at(path))?;
        if let Some(parent) = path.parent() {
            // What is durable in a directory is lost with the directory's own name.
            disk.sync_dir(parent).map_err(StoreError::at(parent))?;
        }
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(StoreError::at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(StoreError::at(&lock_path)(source)),
        }
        Self::on(disk, path.to_owned(), Some(lock))
    }

    fn on(disk: Arc<dyn Disk>, root: PathBuf, lock: Option<File>) -> Result<Self, StoreError> {
        let directory = Self {
            state: Mutex::new(State {
                origin: None,
                generations: checkpoint::find(&*disk, &root)?,
            }),
            disk,
            root,
            holds: Holds::default(),
            _lock: lock,
        };
        match document::read(&*directory.disk, &directory.root.join(ORIGIN_FILE)) {
            Ok(origin) => directory.state().origin = origin,
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!(%error, "what is stored cannot be trusted and is removed");
                directory.clear()?;
            }
            Err(error) => return Err(error),
        }
        if directory.origin().is_none() {
            // What an interrupted `clear` left, or was put here by hand: it is nobody's.
            directory.clear()?;
        }
        Ok(directory)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; and if it did, each field is replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose state this is, if it is anyone's.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        self.state().origin.clone()
    }

    /// Takes the directory for this stream, if it is free or this stream's already.
    ///
    /// # Errors
    /// [`StoreError::OtherCluster`] when it is another cluster's or database's.
    pub fn adopt(&self, origin: &Origin) -> Result<Adoption, StoreError> {
        let stored = self.state().origin.clone();
        match stored {
            Some(stored) if stored == *origin => Ok(Adoption::Same),
            Some(stored)
                if stored.system_id == origin.system_id && stored.database == origin.database =>
            {
                Ok(Adoption::Stale)
            }
            Some(stored) => {
                let name = |origin: &Origin| {
                    format!(
                        "database \"{}\" of the cluster with system identifier {}",
                        origin.database, origin.system_id
                    )
                };
                Err(StoreError::OtherCluster {
                    path: self.root.clone(),
                    stored: name(&stored),
                    found: name(origin),
                })
            }
            None => {
                document::write(&*self.disk, &self.root.join(ORIGIN_FILE), origin)?;
                self.state().origin = Some(origin.clone());
                Ok(Adoption::New)
            }
        }
    }

    /// Removes all stored state; the directory is free then. No journal may be open.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn clear(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        // Generations first: without them a journal is of no use, without a journal they are not used.
        state.generations.clear();
        checkpoint::remove_all(&*self.disk, &self.root)?;
        journal::remove_all(&*self.disk, &self.root)?;
        let origin = self.root.join(ORIGIN_FILE);
        state.origin = None;
        match self.disk.remove_file(&origin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::at(&origin)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let synced = self.disk.sync_dir(&self.root);
        synced.map_err(StoreError::at(&self.root))
    }

    /// Whether the disk takes anything: what is stored need not be read for learning that it still does not.
    ///
    /// # Errors
    /// When it does not.
    pub fn probe(&self) -> Result<(), StoreError> {
        let path = self.root.join(PROBE_FILE);
        let removed = || match self.disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        let probed = removed().and_then(|()| {
            let mut file = self.disk.create(&path)?;
            let written = file
                .append(&vec![0; PROBE_BYTES])
                .and_then(|()| file.sync());
            drop(file);
            removed().and(written)
        });
        probed.map_err(StoreError::at(&path))
    }

    /// Reads and checks the whole journal, and cuts what a crash tore off at its end.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a record that was durable is damaged or missing: [`Self::clear`], and copy again.
    pub fn journal(&self) -> Result<RecoveredJournal, StoreError> {
        let origin = self
            .origin()
            .ok_or(StoreError::Order("a journal without an origin"))?;
        let holds = self.holds.clone();
        RecoveredJournal::recover(Arc::clone(&self.disk), &self.root, &origin, holds)
    }

    /// Where readers say what the journal must keep for them, across journals.
    #[must_use]
    pub fn holds(&self) -> Holds {
        self.holds.clone()
    }

    /// The stored states of an index, newest first. Reading one may still find it damaged.
    #[must_use]
    pub fn candidates(&self, id: IndexId) -> Vec<StoredIndex> {
        let state = self.state();
        let candidates = state.generations.iter();
        candidates
            .filter(|generation| Some(generation.origin()) == state.origin.as_ref())
            .filter_map(|generation| generation.index(&self.disk, id))
            .collect()
    }

    /// Begins a new generation of the stream of that epoch, that becomes visible when it is complete. One at a time.
    /// Indexes that are not in it need nothing of the journal before `position`.
    ///
    /// # Errors
    /// When the directory is another epoch's by now, or the file system refuses.
    pub fn begin_generation(
        &self,
        epoch: u64,
        position: Lsn,
    ) -> Result<GenerationWriter<'_>, StoreError> {
        GenerationWriter::begin(self, epoch, position)
    }

    /// Where the journal must still reach back to, for the older of the kept generations. `None`: nothing is kept.
    #[must_use]
    pub fn keep_from(&self) -> Option<Lsn> {
        let state = self.state();
        state
            .generations
            .iter()
            .filter(|generation| Some(generation.origin()) == state.origin.as_ref())
            .map(checkpoint::Generation::least_lsn)
            .min()
    }
}

#[cfg(test)]
mod tests;
