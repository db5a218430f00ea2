//! Row changes in commit order → the next snapshot. The only code that changes an index.
use crate::catalog::RowKey;
use crate::index::{IndexError, IndexSpec, Snapshot};
use crate::lsn::Lsn;
use crate::vector::Vector;
use std::sync::Arc;

/// What a change says of the vector column.
#[derive(Clone, Debug)]
pub enum VectorChange {
    /// A new value that can be decoded (of any dimension).
    Set(Vector),
    /// NULL, or a value that is no vector: the row stays known but cannot be found.
    LeftOut(LeftOut),
    /// As before.
    Unchanged,
}

/// Why a row of the table is not findable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// The vector is NULL.
    Null,
    /// Another number of dimensions than the index has.
    WrongDimension,
    /// NaN, infinite, or malformed.
    NotFinite,
    /// A zero vector under cosine.
    Zero,
}

/// What a change says of an INCLUDE column.
#[derive(Clone, Debug)]
pub enum ColumnChange {
    /// A new value, in binary form.
    Set(Box<[u8]>),
    /// NULL.
    Null,
    /// As before.
    Unchanged,
}

/// One row's change. Applying it twice is the same as once.
#[derive(Clone, Debug)]
pub enum RowChange {
    /// INSERT or UPDATE: the row of `key` is now this. `old_key` when the key changed.
    Upsert {
        old_key: Option<RowKey>,
        key: RowKey,
        vector: VectorChange,
        include: Vec<ColumnChange>,
    },
    /// DELETE.
    Delete { key: RowKey },
    /// TRUNCATE.
    Truncate,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The row can be found.
    Indexed,
    /// The row is known but cannot be found.
    LeftOut(LeftOut),
    /// The row (or rows) are gone, or were not there.
    Removed,
    /// The change left something "unchanged" of a row that the index does not know: it must be fetched by key.
    Unknown,
}

/// The single writer of one index.
#[derive(Debug)]
pub struct Writer {
    _todo: (),
}

impl Writer {
    /// An empty index.
    pub fn new(spec: IndexSpec) -> Result<Self, IndexError> {
        let _ = spec;
        todo!()
    }
    /// Applies a change; invisible until [`publish`](Self::publish).
    pub fn apply(&mut self, change: RowChange) -> Result<Outcome, IndexError> {
        let _ = change;
        todo!()
    }
    /// Makes everything applied visible, at once, as the state at `lsn`.
    pub fn publish(&mut self, lsn: Lsn) -> Arc<Snapshot> {
        let _ = lsn;
        todo!()
    }
    /// The worker that links rows into the graph, for one thread of its own; it ends when the writer is dropped.
    pub fn linker(&self) -> Linker {
        todo!()
    }
}

/// Links published rows into the graph while it is searched.
#[derive(Debug)]
pub struct Linker {
    _todo: (),
}

impl Linker {
    /// Works until the writer is dropped; sleeps while there is nothing to link.
    pub fn run(self) {
        todo!()
    }
}
