//! Generations: the rows of every index at one moment → a directory of checked files, and back.
//! Never shows a generation that is not complete, and keeps the one before it.

mod rows;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::{Directory, Origin, StoreError, document};
use crate::catalog::IndexId;
use crate::index::LeftOut;
use crate::lsn::Lsn;
use rows::{CheckedFile, RowFile};
pub use rows::{RowReader, StoredRow};

/// Generations that are kept: should the newest turn out damaged, the one before it and the journal replace it.
pub(super) const KEPT: usize = 2;
/// The manifest's form and that of the files it names. Another number is not read: copy again.
const FORMAT: u32 = 1;
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
    include: usize,
    rows: u64,
    file: FileEntry,
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

/// What an index is, beside its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexHeader {
    /// Which index.
    pub id: IndexId,
    /// What tells a reader whether the rows are still of use: its definition and its table, in the writer's words.
    pub identity: String,
    /// Transactions whose commit record lies before this position are in the rows.
    pub lsn: Lsn,
    /// Dimensions of every vector.
    pub dim: usize,
    /// INCLUDE columns of every row.
    pub include: usize,
}

/// Writes a generation beside the others. What is not committed is removed when the directory is opened again.
#[derive(Debug)]
pub struct GenerationWriter<'a> {
    owner: &'a Directory,
    directory: PathBuf,
    manifest: Manifest,
    committed: bool,
}

impl<'a> GenerationWriter<'a> {
    pub(super) fn begin(
        owner: &'a Directory,
        epoch: u64,
        position: Lsn,
    ) -> Result<Self, StoreError> {
        let origin = owner.origin().filter(|origin| origin.epoch == epoch);
        let origin = origin.ok_or(StoreError::Order("a generation of another epoch"))?;
        let disk = &*owner.disk;
        // Above whatever is there, a damaged one included.
        let taken: BTreeSet<u64> = names(disk, &owner.root)?
            .iter()
            .filter_map(|name| {
                let digits = name.strip_prefix(PREFIX)?;
                digits.trim_end_matches(UNFINISHED).parse().ok()
            })
            .collect();
        let number = taken.last().map_or(1, |last| last + 1);
        let directory = owner
            .root
            .join(format!("{}{UNFINISHED}", directory_name(number)));
        let made = disk.create_dir(&directory);
        made.map_err(StoreError::at(&directory))?;
        Ok(Self {
            owner,
            directory,
            manifest: Manifest {
                format: FORMAT,
                origin,
                number,
                position: position.as_u64(),
                indexes: Vec::new(),
            },
            committed: false,
        })
    }

    /// Begins an index's rows.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn index(&mut self, header: IndexHeader) -> Result<IndexWriter<'_, 'a>, StoreError> {
        let name = format!("index-{}-rows", header.id);
        let path = self.directory.join(&name);
        let file = CheckedFile::create(&*self.owner.disk, path, name)?;
        let rows = RowFile::begin(file, header.dim, header.include)?;
        Ok(IndexWriter {
            generation: self,
            header,
            rows,
        })
    }

    /// Adds a file of the engine's own to an index written before, such as its graph.
    ///
    /// # Errors
    /// When `write` fails, or the file system refuses.
    pub fn blob(
        &mut self,
        id: IndexId,
        name: &str,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let file_name = format!("index-{id}-{name}");
        let path = self.directory.join(&file_name);
        let mut file = CheckedFile::create(&*self.owner.disk, path.clone(), file_name)?;
        write(&mut file).map_err(StoreError::at(&path))?;
        let entry = file.finish()?;
        let mut indexes = self.manifest.indexes.iter_mut();
        let index = indexes.find(|index| index.id == id.0);
        let index = index.ok_or(StoreError::Order("a blob before its index"))?;
        index.blobs.push((name.to_owned(), entry));
        Ok(())
    }

    /// Makes the generation durable and visible, and removes those that are older than the one before it.
    ///
    /// # Errors
    /// When the file system refuses: the generations before it stand.
    pub fn commit(mut self) -> Result<(), StoreError> {
        let (disk, root) = (&*self.owner.disk, &self.owner.root);
        let path = self.directory.join(MANIFEST);
        let written = document::encode(&self.manifest).and_then(|bytes| {
            let mut file = disk.create(&path)?;
            file.append(&bytes)?;
            file.sync()
        });
        written.map_err(StoreError::at(&path))?;
        let synced = disk.sync_dir(&self.directory);
        synced.map_err(StoreError::at(&self.directory))?;
        let complete = root.join(directory_name(self.manifest.number));
        let renamed = disk.rename(&self.directory, &complete);
        renamed.map_err(StoreError::at(&self.directory))?;
        self.committed = true;
        disk.sync_dir(root).map_err(StoreError::at(root))?;
        let mut state = self.owner.state();
        state.generations.insert(
            0,
            Generation {
                directory: complete,
                manifest: Arc::new(self.manifest.clone()),
            },
        );
        state.generations.truncate(KEPT);
        let kept: BTreeSet<PathBuf> = state
            .generations
            .iter()
            .map(|generation| generation.directory.clone())
            .collect();
        drop(state);
        for name in names(disk, root)? {
            let directory = root.join(name);
            if !kept.contains(&directory) {
                remove(disk, &directory)?;
            }
        }
        Ok(())
    }
}

impl Drop for GenerationWriter<'_> {
    /// What could not be completed gives its room back: most often there was too little.
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = remove(&*self.owner.disk, &self.directory)
        {
            tracing::warn!(%error, "an unfinished generation stays until the next start");
        }
    }
}

/// Writes the rows of one index.
#[derive(Debug)]
pub struct IndexWriter<'w, 'a> {
    generation: &'w mut GenerationWriter<'a>,
    header: IndexHeader,
    rows: RowFile,
}

impl IndexWriter<'_, '_> {
    /// Appends a row: its encoded key, its vector or why it has none, its INCLUDE values.
    ///
    /// # Errors
    /// When the row does not have the header's form, or the file system refuses.
    pub fn row<'v>(
        &mut self,
        key: &[u8],
        vector: Result<&[f32], LeftOut>,
        include: impl IntoIterator<Item = Option<&'v [u8]>>,
    ) -> Result<(), StoreError> {
        self.rows.append(key, vector, include)
    }

    /// Ends the rows of this index, durably.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(self) -> Result<(), StoreError> {
        let (rows, file) = self.rows.finish()?;
        self.generation.manifest.indexes.push(IndexEntry {
            id: self.header.id.0,
            identity: self.header.identity,
            lsn: self.header.lsn.as_u64(),
            dim: self.header.dim,
            include: self.header.include,
            rows,
            file,
            blobs: Vec::new(),
        });
        Ok(())
    }
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
            &*self.disk,
            &self.directory,
            &self.entry.file,
            self.entry.dim,
            self.entry.include,
            self.entry.rows,
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
        let path = self.directory.join(&entry.name);
        let file = rows::open_checked(&*self.disk, &path, entry)?;
        let mut bytes = Vec::with_capacity(usize::try_from(entry.size).unwrap_or(0)); // the file's own length by now
        file.take(entry.size)
            .read_to_end(&mut bytes)
            .map_err(StoreError::at(&path))?;
        if bytes.len() as u64 != entry.size || crc32c::crc32c(&bytes) != entry.crc32c {
            return Err(StoreError::corrupt(&path, "wrong checksum"));
        }
        Ok(Some(bytes))
    }
}
