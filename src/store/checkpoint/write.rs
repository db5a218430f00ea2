//! Rows, and what an engine keeps beside them → a new generation beside the others, shown when it is complete.
//! Never touches a generation that stands, until a newer one does.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::super::{Directory, StoreError, document};
use super::chunks::{self, CHUNK_BYTES, Chunk, Chunks};
use super::rows::{CheckedFile, RowFile};
use super::{
    FORMAT, Generation, IndexEntry, KEPT, MANIFEST, Manifest, PREFIX, UNFINISHED, directory_name,
    names, remove,
};
use crate::catalog::IndexId;
use crate::index::{LeftOut, Place};
use crate::lsn::Lsn;
use crate::vector::Form;

/// What an index is, beside its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexHeader {
    /// Which index.
    pub id: IndexId,
    /// What tells a reader whether the rows are still of use: its definition and its table, in the writer's words.
    pub identity: String,
    /// Transactions whose commit record lies before this position are in the rows.
    pub lsn: Lsn,
    /// What every vector is made of.
    pub form: Form,
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
    pub(in crate::store) fn begin(
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
    pub fn index(&mut self, header: IndexHeader) -> IndexWriter<'_, 'a> {
        IndexWriter {
            generation: self,
            header,
            file: None,
            files: 0,
            chunks: Vec::new(),
        }
    }

    /// Makes a file whose content is checked.
    fn create(&self, name: String) -> Result<CheckedFile, StoreError> {
        let path = self.directory.join(&name);
        CheckedFile::create(&*self.owner.disk, path, name)
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
        let mut file = self.create(format!("index-{id}-{name}"))?;
        write(&mut file).map_err(StoreError::at(file.path()))?;
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
    /// Being written.
    file: Option<RowFile>,
    /// Begun so far.
    files: usize,
    chunks: Vec<Chunk>,
}

impl IndexWriter<'_, '_> {
    /// Takes over the files of an earlier generation, as far as their rows still count; those that count and are not taken
    /// over are to be written, and come back.
    pub fn share(&mut self, base: &Chunks, counts: impl Fn(Place) -> bool) -> Vec<Place> {
        let (shared, mut again) = base.divide(counts);
        for chunk in shared {
            let from = base.directory.join(&chunk.file.name);
            let to = self.generation.directory.join(&chunk.file.name);
            match self.generation.owner.disk.link(&from, &to) {
                Ok(()) => self.chunks.push(chunk),
                // A file system without links, or the file is gone: its rows are in memory.
                Err(error) => {
                    tracing::debug!(%error, file = %from.display(), "cannot be shared and is written again");
                    again.push(chunk);
                }
            }
        }
        again.iter().flat_map(Chunk::live).collect()
    }

    /// Appends a row: its place, its encoded key, its vector or why it has none, its INCLUDE values.
    ///
    /// # Errors
    /// When the row does not have the header's form, or the file system refuses.
    pub fn row<'v>(
        &mut self,
        place: Place,
        key: &[u8],
        vector: Result<&[f32], LeftOut>,
        include: impl IntoIterator<Item = Option<&'v [u8]>>,
    ) -> Result<(), StoreError> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                // Unique among all generations that may come to share it.
                let name = format!(
                    "index-{}-rows-{}-{}",
                    self.header.id, self.generation.manifest.number, self.files
                );
                let file = self.generation.create(name)?;
                self.files += 1;
                let file = RowFile::begin(file, self.header.form, self.header.include)?;
                self.file.insert(file)
            }
        };
        file.append(place, key, vector, include)?;
        if file.length() >= CHUNK_BYTES {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        if let Some(file) = self.file.take() {
            let (places, file) = file.finish()?;
            self.chunks.push(Chunk::new(file, places));
        }
        Ok(())
    }

    /// Ends the rows of this index, durably. What it returns is of use when the generation is committed.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(mut self) -> Result<Chunks, StoreError> {
        self.close()?;
        let bits = chunks::dead_bits(&self.chunks);
        let dead = if bits.is_empty() {
            None
        } else {
            let mut file = self
                .generation
                .create(format!("index-{}-dead", self.header.id))?;
            file.write_all(&bits).map_err(StoreError::at(file.path()))?;
            Some(file.finish()?)
        };
        let entries: Vec<_> = self.chunks.iter().map(Chunk::entry).collect();
        let number = self.generation.manifest.number;
        self.generation.manifest.indexes.push(IndexEntry {
            id: self.header.id.0,
            identity: self.header.identity,
            lsn: self.header.lsn.as_u64(),
            dim: self.header.form.dim().get(),
            bits: matches!(self.header.form, Form::Bits(_)),
            include: self.header.include,
            rows: entries.iter().map(|chunk| chunk.live).sum(),
            chunks: entries,
            dead,
            blobs: Vec::new(),
        });
        Ok(Chunks {
            directory: self.generation.owner.root.join(directory_name(number)),
            chunks: self.chunks,
        })
    }
}
