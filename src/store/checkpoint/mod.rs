//! Generations: the rows of every index at one moment → a directory of checked files, and back. Files of rows that did not
//! change are shared with the generation before, as names of the same file.
//! Never shows a generation that is not complete, and keeps the one before it.

mod chunks;
mod rows;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::{Origin, StoreError, document};
use crate::catalog::IndexId;
use crate::lsn::Lsn;
use chunks::ChunkEntry;
pub use chunks::{Chunks, RowReader};
pub use rows::StoredRow;
pub use write::{GenerationWriter, IndexHeader, IndexWriter};

/// Generations that are kept: should the newest turn out damaged, the one before it and the journal replace it.
pub(super) const KEPT: usize = 2;
/// The manifest's form and that of the files it names. Another number is not read: copy again.
const FORMAT: u32 = 2;
const PREFIX: &str = "gen-";
const UNFINISHED: &str = ".tmp";
const MANIFEST: &str = "manifest";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    origin: Origin,
    number: u64,
    /// As a number of bytes.
    position: u64,
    indexes: Vec<IndexEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IndexEntry {
    id: i64,
    identity: String,
    /// As a number of bytes.
    lsn: u64,
    dim: usize,
    /// Whether the dimensions are bits.
    #[serde(default)]
    bits: bool,
    include: usize,
    rows: u64,
    chunks: Vec<ChunkEntry>,
    /// Which of the chunks' rows no longer count, if any.
    dead: Option<FileEntry>,
    blobs: Vec<(String, FileEntry)>,
}

/// A file of a generation, as it must be found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) crc32c: u32,
}

/// A complete generation.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    directory: PathBuf,
    manifest: Arc<Manifest>,
}

impl Generation {
    pub(super) fn origin(&self) -> &Origin {
        &self.manifest.origin
    }

    /// From where the journal is needed.
    pub(super) fn least_lsn(&self) -> Lsn {
        let lsns = self.manifest.indexes.iter().map(|index| index.lsn);
        Lsn::new(lsns.fold(self.manifest.position, u64::min))
    }

    pub(super) fn index(&self, disk: &Arc<dyn Disk>, id: IndexId) -> Option<StoredIndex> {
        let mut entries = self.manifest.indexes.iter();
        let entry = entries.find(|entry| entry.id == id.0)?;
        Some(StoredIndex {
            disk: Arc::clone(disk),
            directory: self.directory.clone(),
            lsn: Lsn::new(entry.lsn),
            entry: entry.clone(),
        })
    }
}

fn directory_name(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}

/// Finds the complete generations, newest first, and removes what a crash left unfinished.
pub(super) fn find(disk: &dyn Disk, root: &Path) -> Result<Vec<Generation>, StoreError> {
    let mut generations = Vec::new();
    for name in names(disk, root)? {
        let directory = root.join(&name);
        if name.ends_with(UNFINISHED) {
            remove(disk, &directory)?;
            continue;
        }
        match load(disk, &directory) {
            Ok(Some(generation)) => generations.push(generation),
            Ok(None) => remove(disk, &directory)?, // its removal was begun
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!(%error, "a generation is left out");
            }
            Err(error) => return Err(error),
        }
    }
    generations.sort_by_key(|generation| std::cmp::Reverse(generation.manifest.number));
    generations.truncate(KEPT);
    Ok(generations)
}

/// Removes every generation.
pub(super) fn remove_all(disk: &dyn Disk, root: &Path) -> Result<(), StoreError> {
    for name in names(disk, root)? {
        remove(disk, &root.join(name))?;
    }
    Ok(())
}

fn names(disk: &dyn Disk, root: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = disk.list(root).map_err(StoreError::at(root))?;
    names.retain(|name| name.starts_with(PREFIX));
    Ok(names)
}

fn load(disk: &dyn Disk, directory: &Path) -> Result<Option<Generation>, StoreError> {
    let path = directory.join(MANIFEST);
    let Some(manifest) = document::read::<Manifest>(disk, &path)? else {
        return Ok(None);
    };
    if manifest.format != FORMAT {
        let what = format!("format {} instead of {FORMAT}", manifest.format);
        return Err(StoreError::corrupt(&path, what));
    }
    let named = directory.file_name().and_then(|name| name.to_str());
    if named != Some(&directory_name(manifest.number)) {
        return Err(StoreError::corrupt(
            &path,
            "in another generation's directory",
        ));
    }
    Ok(Some(Generation {
        directory: directory.to_owned(),
        manifest: Arc::new(manifest),
    }))
}

/// Removes a generation, its manifest first: what a crash leaves of it is no generation.
fn remove(disk: &dyn Disk, directory: &Path) -> Result<(), StoreError> {
    let manifest = directory.join(MANIFEST);
    match disk.remove_file(&manifest) {
        Ok(()) => disk
            .sync_dir(directory)
            .map_err(StoreError::at(directory))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(StoreError::at(&manifest)(error)),
    }
    for name in disk.list(directory).map_err(StoreError::at(directory))? {
        let path = directory.join(name);
        disk.remove_file(&path).map_err(StoreError::at(&path))?;
    }
    disk.remove_dir(directory)
        .map_err(StoreError::at(directory))
}

/// An index in a generation.
#[derive(Clone, Debug)]
pub struct StoredIndex {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    entry: IndexEntry,
    /// Transactions whose commit record lies before this position are in the rows.
    pub lsn: Lsn,
}

impl StoredIndex {
    /// What the writer said of its definition and its table.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.entry.identity
    }

    /// How many rows it holds.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entry.rows
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entry.rows == 0
    }

    /// Its rows. What was read is of use only if the last item is no error.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the file is missing, or is not the one that was written.
    pub fn rows(&self) -> Result<RowReader, StoreError> {
        RowReader::open(
            Arc::clone(&self.disk),
            self.directory.clone(),
            self.entry.clone(),
        )
    }

    /// A file of the engine's own, whole and checked; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the file is missing, or is not the one that was written.
    pub fn blob(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let blob = self.entry.blobs.iter().find(|(known, _)| known == name);
        let Some((_, entry)) = blob else {
            return Ok(None);
        };
        rows::read_whole(&*self.disk, &self.directory, entry).map(Some)
    }
}
