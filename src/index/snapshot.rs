//! An immutable state of an index at one LSN → nearest neighbours, keys, INCLUDE values.
use crate::index::{IndexError, IndexSpec};
use crate::lsn::Lsn;
use crate::vector::Vector;

/// A row's number within its index; a new vector gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub(crate) u32);

/// A row found by a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbor {
    /// The row.
    pub row: RowId,
    /// The distance as the operator returns it, from the stored vector.
    pub distance: f32,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Nearest first.
    pub neighbors: Vec<Neighbor>,
    /// Whether these are all live rows of the index: a wider search finds no more.
    pub exhausted: bool,
    /// Distances computed, on codes and on stored vectors.
    pub distances: u64,
}

/// Sizes of an index at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows that can be found.
    pub live: u64,
    /// Rows of the table that hold no indexable vector (NULL, wrong dimension, zero under cosine, …).
    pub left_out: u64,
    /// Live rows not linked into the graph yet, searched exactly.
    pub unlinked: u64,
    /// Rows in the graph that are dead.
    pub dead: u64,
    /// Bytes held in memory.
    pub memory_bytes: u64,
}

/// An index at one LSN. Cheap to hold, never changes.
#[derive(Debug)]
pub struct Snapshot {
    _todo: (),
}

impl Snapshot {
    /// What the index is.
    pub fn spec(&self) -> &IndexSpec {
        todo!()
    }
    /// Every commit before this position is in the snapshot.
    pub fn lsn(&self) -> Lsn {
        todo!()
    }
    /// Sizes.
    pub fn stats(&self) -> Stats {
        todo!()
    }
    /// The `k` nearest live rows to `query` (of the index's dimension), weighing at least `ef` candidates.
    /// Fewer than `k` come back only when fewer are live. Rows before they are linked are compared exactly.
    pub fn search(&self, query: &Vector, k: usize, ef: usize) -> Result<Found, IndexError> {
        let _ = (query, k, ef);
        todo!()
    }
    /// The same by an exact scan of every live row.
    pub fn search_exact(&self, query: &Vector, k: usize) -> Result<Found, IndexError> {
        let _ = (query, k);
        todo!()
    }
    /// The encoded key of a row that this snapshot returned ([`crate::catalog::RowKey`]'s encoding).
    pub fn key(&self, row: RowId) -> Option<&[u8]> {
        let _ = row;
        todo!()
    }
    /// The stored vector of a row.
    pub fn vector(&self, row: RowId) -> Option<&[f32]> {
        let _ = row;
        todo!()
    }
    /// INCLUDE column `column` of a row, in the form it arrived in (binary); `None` is NULL.
    pub fn include(&self, row: RowId, column: usize) -> Option<&[u8]> {
        let _ = (row, column);
        todo!()
    }
    /// Every live row.
    pub fn rows(&self) -> impl Iterator<Item = RowId> + '_ {
        std::iter::empty()
    }
}
