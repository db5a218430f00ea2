//! The files of an index's rows, each written once and shared by the generations that name it: which rows of them still
//! count, which files are worth keeping, and how to read what counts. Never changes a file.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::disk::Disk;
use super::rows::{ChunkReader, StoredRow, read_whole};
use super::{FileEntry, IndexEntry};
use crate::index::Place;
use crate::vector::{Dim, Form};

/// A chunk is closed at the row that takes it beyond this: large enough that millions of rows are some hundred files, small
/// enough that writing one again is nothing.
pub(super) const CHUNK_BYTES: u64 = if cfg!(test) { 2 << 10 } else { 64 << 20 };
/// So many chunks of less than half that size become one: a generation with few changes adds a small one.
const MANY_SMALL: usize = 8;
/// Stands for the place of a row that no longer counts. No place packs to it.
const DEAD: u32 = u32::MAX;

/// A chunk in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChunkEntry {
    pub(super) file: FileEntry,
    /// In the file.
    pub(super) rows: u64,
    /// Of them, those that count.
    pub(super) live: u64,
}

/// What a generation has of an index: which row is in which of its files.
#[derive(Debug)]
pub struct Chunks {
    /// The generation's.
    pub(super) directory: PathBuf,
    pub(super) chunks: Vec<Chunk>,
}

#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) file: FileEntry,
    /// Of each row, in the file's order.
    places: Vec<u32>,
    live: usize,
}

impl Chunk {
    /// A file whose rows all count.
    pub(super) fn new(file: FileEntry, places: Vec<u32>) -> Self {
        Self {
            live: places.len(),
            file,
            places,
        }
    }

    fn retain(&mut self, counts: impl Fn(Place) -> bool) {
        for place in &mut self.places {
            if *place != DEAD && !counts(Place::unpack(*place)) {
                *place = DEAD;
                self.live -= 1;
            }
        }
    }

    /// The places of the rows that count.
    pub(super) fn live(&self) -> impl Iterator<Item = Place> + '_ {
        let live = self.places.iter().filter(|place| **place != DEAD);
        live.map(|place| Place::unpack(*place))
    }

    /// Whether the rows that count would fill less than half a chunk.
    fn is_small(&self) -> bool {
        let (live, rows) = (self.live as u64, self.places.len() as u64);
        self.file.size.saturating_mul(live) < (CHUNK_BYTES / 2).saturating_mul(rows.max(1))
    }

    pub(super) fn entry(&self) -> ChunkEntry {
        ChunkEntry {
            file: self.file.clone(),
            rows: self.places.len() as u64,
            live: self.live as u64,
        }
    }

    /// A bit for each row, set if it no longer counts; nothing when all count.
    fn dead_bits(&self) -> Vec<u8> {
        if self.live == self.places.len() {
            return Vec::new();
        }
        let eights = self.places.chunks(8);
        eights
            .map(|eight| {
                let bits = eight.iter().rev();
                bits.fold(0, |byte, place| byte << 1 | u8::from(*place == DEAD))
            })
            .collect()
    }
}

impl Chunks {
    /// What the next generation shares, and what is better written again, given which rows count.
    pub(super) fn divide(&self, counts: impl Fn(Place) -> bool) -> (Vec<Chunk>, Vec<Chunk>) {
        let mut chunks = self.chunks.clone();
        for chunk in &mut chunks {
            chunk.retain(&counts);
        }
        let (worn, mut shared): (Vec<Chunk>, Vec<Chunk>) = chunks
            .into_iter()
            .partition(|chunk| chunk.live * 2 < chunk.places.len() || chunk.live == 0);
        let mut again = worn;
        if shared.iter().filter(|chunk| chunk.is_small()).count() >= MANY_SMALL {
            let (small, large): (Vec<Chunk>, Vec<Chunk>) =
                shared.into_iter().partition(Chunk::is_small);
            again.extend(small);
            shared = large;
        }
        (shared, again)
    }

    /// Bytes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.file.size).sum()
    }
}

/// The dead rows of all chunks, one after another.
pub(super) fn dead_bits(chunks: &[Chunk]) -> Vec<u8> {
    chunks.iter().flat_map(Chunk::dead_bits).collect()
}

/// Reads the rows of an index that count, file by file.
pub struct RowReader {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    entry: IndexEntry,
    /// Of the chunks from `next` on.
    dead: std::vec::IntoIter<u8>,
    next: usize,
    open: Option<Open>,
    read: Vec<Chunk>,
    done: bool,
}

struct Open {
    rows: ChunkReader,
    dead: Vec<u8>,
    chunk: Chunk,
}

impl std::fmt::Debug for RowReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl RowReader {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        entry: IndexEntry,
    ) -> Result<Self, StoreError> {
        let dead = match &entry.dead {
            Some(file) => read_whole(&*disk, &directory, file)?,
            None => Vec::new(),
        };
        Ok(Self {
            disk,
            directory,
            entry,
            dead: dead.into_iter(),
            next: 0,
            open: None,
            read: Vec::new(),
            done: false,
        })
    }

    /// Which rows are where, when all were read.
    ///
    /// # Errors
    /// When they were not.
    pub fn into_chunks(self) -> Result<Chunks, StoreError> {
        if self.next < self.entry.chunks.len() || self.open.is_some() || !self.done {
            return Err(StoreError::Order("rows that were not read"));
        }
        Ok(Chunks {
            directory: self.directory,
            chunks: self.read,
        })
    }

    fn damaged(&self, name: &str, what: &str) -> StoreError {
        StoreError::corrupt(&self.directory.join(name), what)
    }

    fn open_next(&mut self) -> Result<bool, StoreError> {
        let Some(chunk) = self.entry.chunks.get(self.next) else {
            if self.dead.len() > 0 {
                return Err(self.damaged("manifest", "dead rows of more chunks than it names"));
            }
            return Ok(false);
        };
        let bytes = if chunk.live == chunk.rows {
            0
        } else {
            usize::try_from(chunk.rows.div_ceil(8)).unwrap_or(usize::MAX)
        };
        if bytes > self.dead.len() {
            return Err(self.damaged("manifest", "dead rows of fewer chunks than it names"));
        }
        let dim = Dim::new(self.entry.dim);
        let dim = dim.ok_or_else(|| self.damaged("manifest", "no number of dimensions"))?;
        let form = if self.entry.bits {
            Form::Bits(dim)
        } else {
            Form::Numbers(dim)
        };
        let rows = ChunkReader::open(
            &*self.disk,
            &self.directory,
            &chunk.file,
            form,
            self.entry.include,
            chunk.rows,
        )?;
        self.open = Some(Open {
            rows,
            dead: self.dead.by_ref().take(bytes).collect(),
            chunk: Chunk::new(chunk.file.clone(), Vec::new()),
        });
        self.next += 1;
        Ok(true)
    }

    fn advance(&mut self) -> Result<Option<StoredRow>, StoreError> {
        loop {
            let Some(open) = &mut self.open else {
                if self.open_next()? {
                    continue;
                }
                return Ok(None);
            };
            let Some(row) = open.rows.next() else {
                let expected = self.entry.chunks.get(self.next - 1);
                let chunk = self.open.take().map(|open| open.chunk);
                if chunk.as_ref().map(Chunk::entry).as_ref() != expected {
                    return Err(self.damaged("manifest", "other rows are dead than it names"));
                }
                self.read.extend(chunk);
                continue;
            };
            let row = row?;
            let number = open.chunk.places.len();
            let byte = open.dead.get(number / 8).copied().unwrap_or(0);
            if byte >> (number % 8) & 1 == 1 {
                open.chunk.places.push(DEAD);
                continue;
            }
            open.chunk.places.push(row.place.pack());
            open.chunk.live += 1;
            return Ok(Some(row));
        }
    }
}

impl Iterator for RowReader {
    type Item = Result<StoredRow, StoreError>;

    /// Ends after an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(size: u64, places: &[u32]) -> Chunk {
        let file = FileEntry {
            name: format!("{places:?}"),
            size,
            crc32c: 0,
        };
        Chunk::new(file, places.to_vec())
    }

    fn divided(chunks: Vec<Chunk>, gone: &[u32]) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
        let chunks = Chunks {
            directory: PathBuf::new(),
            chunks,
        };
        let (shared, again) = chunks.divide(|place| !gone.contains(&place.pack()));
        let places = |chunks: Vec<Chunk>| {
            let live = chunks
                .iter()
                .map(|chunk| chunk.live().map(Place::pack).collect());
            live.collect()
        };
        (places(shared), places(again))
    }

    #[test]
    fn a_chunk_is_written_again_when_more_than_half_of_it_is_dead() {
        let full = || {
            vec![
                chunk(CHUNK_BYTES, &[1, 2, 3, 4]),
                chunk(CHUNK_BYTES, &[9, 5]),
            ]
        };
        let all = [vec![1, 2, 3, 4], vec![9, 5]];
        assert_eq!(divided(full(), &[7]), (all.to_vec(), vec![]));
        let (shared, again) = divided(full(), &[1, 3]);
        assert_eq!((shared.len(), again.len()), (2, 0));
        assert_eq!(shared[0], [2, 4]);
        let (shared, again) = divided(full(), &[1, 3, 4]);
        assert_eq!((shared, again), (vec![vec![9, 5]], vec![vec![2]]));
        // Nothing of an empty one is kept.
        let (shared, again) = divided(full(), &[9, 5]);
        assert_eq!((shared.len(), again), (1, vec![vec![]]));
    }

    #[test]
    fn many_small_chunks_become_one() {
        let small = |count| {
            let chunks = (0..count).map(|place| chunk(CHUNK_BYTES / 4, &[place]));
            chunks.chain([chunk(CHUNK_BYTES, &[100, 101])]).collect()
        };
        let (shared, again) = divided(small(7), &[]);
        assert_eq!((shared.len(), again.len()), (8, 0));
        let (shared, again) = divided(small(8), &[]);
        assert_eq!((shared, again.len()), (vec![vec![100, 101]], 8));
    }

    #[test]
    fn dead_rows_have_a_bit_each_and_stay_dead() {
        let mut one = chunk(1, &(0..10).collect::<Vec<u32>>());
        assert!(one.dead_bits().is_empty());
        one.retain(|place| !matches!(place, Place::Row(1 | 9)));
        one.retain(|_| true);
        assert_eq!(one.live, 8);
        assert_eq!(one.dead_bits(), [0b10, 0b10]);
        assert_eq!(dead_bits(&[one.clone(), chunk(1, &[5]), one]).len(), 4);
    }
}
