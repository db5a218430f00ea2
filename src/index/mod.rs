//! Changes → rows, codes and one graph, or FAISS's lists → immutable snapshots that can be searched.
//! CPU only: no I/O, no tokio, no clock that decides what a search finds. Unsafe code only in `faiss/`.
//!
//! ```text
//! writer.rs    RowChange → rows, records, key map; publish → Snapshot. The only code that changes an index
//! keys.rs      a key → where its row is
//! left_out.rs  rows that cannot be found, and why
//! memory.rs    bytes by part, counted where they are taken; the bound that all indexes share
//! loader.rs    stored rows → a writer as it was; which rows changed since they were stored
//! record.rs    key and INCLUDE values ↔ one byte string
//! pages.rs     copy-on-write tables: live rows, records
//! snapshot.rs  one state at one LSN: searched, read
//! ordinal.rs   an INCLUDE value → a number that filters compare;  constant.rs  a condition's constant → a range of them
//! tokens.rs    an array, a jsonb document → the ordinals of what is in it;  json.rs  reads JSON
//! attributes.rs  ordinals by row (values.rs), and rows by ordinal
//! filter.rs    conditions → which rows may meet them;  filtered.rs  a search among those
//! tried.rs     filters searched with of late → their rows, and whether to walk among them
//! many.rs      many queries at once, on every core
//! dial.rs      a wanted recall → how many candidates a search weighs
//! samples.rs   what rows tell of the graph before they are linked, a few at a time → a curve
//! linker.rs    the threads that link rows into the graph, rebuild it when half is dead or lay it out, and check live queries
//! quiet.rs     a thread that works when no other wants to;  ending.rs  threads of dropped indexes, until they have ended
//! view.rs      all indexes at one moment, as the front end sees them
//! faiss/       memory that searches share with the writer, and the C++ shim over FAISS
//!   rows.rs      the writer's side: vectors, which rows are live, when an id may be used again
//!   view.rs      the rows at one moment: search, scan, link
//!   rebuild.rs   another lineage, made beside the one in use;  layout.rs  the same graph, near nodes near in memory
//!   measure.rs   recall by effort, of rows before they are linked and of live queries;  probe.rs  the same of a few at a time
//!   lineage.rs   one numbering of nodes, with its codes and its graph
//!   stored.rs    a graph ↔ checked bytes
//!   vectors.rs   what is kept of vectors for exact comparison
//!   cold.rs      what files for them must be able to do
//!   codes.rs     8-bit codes;  graph.rs  handle of a C++ graph;  store.rs  chunks that never move
//!   shim.h ffi.rs      the line between Rust and C++
//!   distance.h         distances by codes and by vectors, and how far the first may be from the second
//!   kernels.cpp        dot products of bytes and bits for three kinds of processor;  bits.cpp  distances of bits for two
//!   codes.cpp          vectors and queries → bytes
//!   signs.cpp signs.h  bytes → a bit a component, by which most candidates are left out
//!   vectors.cpp vectors.h  vectors ↔ 16 bits a component; codes → vectors
//!   graph.cpp          FAISS's HNSW structure, linked while it is searched;  nodes.cpp  its room, copies, what is stored
//!   lists.rs lists.cpp  FAISS's own indexes, added to while they are searched
//!   ranges.cpp         ordinals of rows → which lie in a range
//!   search.cpp         the walk, the scan of what is not linked;  among.cpp  rows that meet a filter, all compared
//!   rank.cpp rank.h    candidates by codes → the nearest by vectors
//! ```
//!
//! A row's life: `Writer::apply` stores its vector under a new row id, encodes it, and points its key there. `publish`
//! gives it a node, the next number of the lineage, and makes it live in the new snapshot. Searches compare it one by
//! one until the linker has put its node into the graph. When the row changes its vector, or goes, it is not live in the
//! next snapshot; its node stays until a rebuild drops it, and its id comes back once no snapshot can name it.

mod attributes;
mod constant;
mod dial;
mod ending;
mod faiss;
mod filter;
mod filtered;
mod json;
mod keys;
mod left_out;
mod linker;
mod loader;
mod many;
mod memory;
mod ordinal;
mod pages;
mod quiet;
mod record;
mod samples;
mod snapshot;
#[cfg(test)]
mod tests;
mod tokens;
mod tried;
mod values;
pub mod view;
mod writer;

pub use constant::{Constant, others};
pub use dial::{DEFAULT_RECALL, DialStats};
pub use ending::join_ended;
pub use faiss::{ColdFile, ColdFiles, GraphImage, GraphSource, MEAN_ROWS};
pub use filter::Filter;
pub use filtered::FilterCost;
pub use keys::Place;
pub use left_out::{LeftOut, LeftOutRow, LeftOutView};
pub use loader::{Changed, Loader};
pub use many::{MAX_QUERIES, MAX_RESULTS};
pub use memory::{Memory, MemoryParts, Part};
pub use ordinal::Ordinal;
pub use snapshot::{Effort, Found, Neighbor, RowId, Snapshot, Stats};
pub use tokens::JsonPath;
pub use writer::{ColumnChange, Comparison, Outcome, RowChange, VectorChange, Writer};

use crate::catalog::{FilterKind, IndexOptions, Method, Storage, ValueKind};
use crate::vector::{Dim, Form, Metric};

/// Candidates that a search weighs when nobody says otherwise.
pub const DEFAULT_EF: usize = 64;

/// An index serves once at most this many of its rows are still searched one by one: some 0.1 ms a query.
pub const READY_UNLINKED: u64 = 20_000;

/// Whether this processor can run the code that FAISS and the shim were compiled to. Call it before anything else.
///
/// # Errors
/// When it cannot, in a sentence for an operator.
pub fn cpu_supported() -> Result<(), String> {
    #[cfg(target_arch = "x86_64")]
    {
        // x86-64-v3, for which FAISS and the shim are compiled; VNNI is used where it is found.
        let features = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("bmi1", std::is_x86_feature_detected!("bmi1")),
            ("bmi2", std::is_x86_feature_detected!("bmi2")),
            ("f16c", std::is_x86_feature_detected!("f16c")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("lzcnt", std::is_x86_feature_detected!("lzcnt")),
            ("movbe", std::is_x86_feature_detected!("movbe")),
            ("popcnt", std::is_x86_feature_detected!("popcnt")),
        ];
        let missing = features
            .into_iter()
            .filter_map(|(name, here)| (!here).then_some(name));
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "this processor lacks {}; Rektor needs x86-64-v3 (Intel Haswell, AMD Zen or later)",
            missing.join(", ")
        ))
    }
    #[cfg(not(target_arch = "x86_64"))]
    Err("Rektor runs on x86-64 processors only, for now".into())
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

impl IndexSpec {
    /// What its vectors are made of.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.metric.form(self.dim)
    }

    /// Whether vectors are only what the best candidates are compared with, and not what searches walk through.
    fn has_cold_vectors(&self) -> bool {
        let codes = match self.options.method {
            Method::Flat => false,
            Method::Hnsw | Method::Ivf | Method::Factory => true,
        };
        codes && self.options.storage != Storage::I8 && matches!(self.form(), Form::Numbers(_))
    }

    /// Whether rows have signs, by which most candidates are left out.
    fn has_signs(&self) -> bool {
        self.options.method != Method::Flat && faiss::has_signs(self)
    }

    /// About how many bytes of this memory so many rows take, with short keys, and INCLUDE columns that filters see as these
    /// kinds: to tell beforehand what cannot fit.
    #[must_use]
    pub fn estimate(
        &self,
        rows: u64,
        include: impl IntoIterator<Item = Option<FilterKind>>,
        memory: &Memory,
    ) -> u64 {
        let vector = match self.form() {
            Form::Numbers(_) if self.has_cold_vectors() && memory.has_files() => 0,
            Form::Numbers(dim) => dim.get() * self.options.storage.component_bytes(),
            form @ Form::Bits(_) => form.words() * size_of::<f32>(),
        };
        let engine = match self.options.method {
            Method::Flat => 0,
            // Lists take less than links.
            Method::Hnsw | Method::Ivf | Method::Factory => faiss::node_bytes(self),
        };
        let include: usize = include.into_iter().map(include_bytes).sum();
        rows.saturating_mul((vector + engine + RECORD_BYTES + include) as u64)
    }
}

/// About how many bytes a row takes for an INCLUDE column: its value in the record, and what filters compare. What has no
/// fixed length is taken to be short: sixteen bytes of text, four elements, a document of eight keys with their values.
fn include_bytes(kind: Option<FilterKind>) -> usize {
    /// Its length, in the record.
    const LENGTH: usize = 4;
    /// The ordinal by row, and in order with the row.
    const ORDINAL: usize = 8 + TOKEN;
    /// One of a row's several ordinals, in order with the row.
    const TOKEN: usize = 8 + 4;
    /// A row's place among those with several.
    const SET: usize = 4;
    let width = |kind| match kind {
        ValueKind::Bool => 1,
        ValueKind::Int2 => 2,
        ValueKind::Int4 | ValueKind::Float4 | ValueKind::Date => 4,
        ValueKind::Int8 | ValueKind::Float8 | ValueKind::Timestamp | ValueKind::Timestamptz => 8,
        ValueKind::Numeric => 12,
        ValueKind::Text | ValueKind::Uuid => 16,
    };
    LENGTH
        + match kind {
            Some(FilterKind::One(kind)) => width(kind) + ORDINAL,
            Some(FilterKind::Array(kind)) => {
                20 + 4 * (LENGTH + width(kind)) + SET + 4 * (8 + TOKEN)
            }
            Some(FilterKind::Jsonb) => 8 * 20 + SET + 16 * (8 + TOKEN),
            None => 16,
        }
}

/// What a row takes beside its vector, code and links: a key of 8 bytes, its record and its place in the map.
const RECORD_BYTES: usize = 40;

/// What the text of [`IndexError::Memory`] begins with.
pub const OUT_OF_MEMORY: &str = "out of memory: ";

/// Why an index cannot do what is asked. Each leaves the index as it was.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The 32-bit row ids, or the memory, are used up.
    #[error("index is full: {0}")]
    Full(String),
    /// The indexes of this process may not have more memory.
    #[error(
        "out of memory: {wanted} MiB more are needed, and the indexes hold {used} MiB of {limit} MiB ({bound}){disk}"
    )]
    Memory {
        /// MiB.
        wanted: u64,
        /// MiB.
        used: u64,
        /// MiB.
        limit: u64,
        /// What of the setting that is.
        bound: &'static str,
        /// Why not on disk either, if it could have been there.
        disk: String,
    },
    /// The engine failed inside FAISS.
    #[error("index engine: {0}")]
    Engine(String),
}

impl IndexError {
    /// The same, where the disk was asked before memory was.
    fn nor_on_disk(mut self, error: &str) -> Self {
        if let Self::Memory { disk, .. } = &mut self {
            *disk = format!("; on disk: {error}");
        }
        self
    }
}
