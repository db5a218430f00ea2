//! All indexes at one moment, as the front end sees them: what `ingest` publishes and `session` reads.
//! Immutable; a change is a new view.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::catalog::{IndexDefinition, IndexId};
use crate::index::{Memory, Snapshot};
use crate::lsn::Lsn;

/// Counts changes of the definitions: analyses and prepared rewrites are valid within one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// Where an index is on its way to serving.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Rows are being copied from the table.
    Copying {
        /// 0 to 100, by the planner's estimate of the table's rows.
        percent: f32,
    },
    /// All rows are there; too few are linked to serve within the search budget.
    Building {
        /// 0 to 100.
        percent: f32,
    },
    /// Serves.
    Ready,
    /// Does not serve until someone acts, or a retry succeeds.
    Failed {
        /// What happened, for an operator.
        error: String,
    },
}

/// One index at one moment.
#[derive(Clone, Debug)]
pub struct IndexState {
    /// What it is.
    pub definition: Arc<IndexDefinition>,
    /// Whether it serves.
    pub phase: Phase,
    /// What is searched; present from the moment the copy is complete.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Every commit before this position is in the snapshot. Moves on while the table is idle.
    pub applied: Lsn,
    /// Changes whose value could not be indexed, since the start.
    pub left_out_changes: u64,
    /// When the oldest commit was made that arrived and is not in the snapshot, by this machine's clock.
    pub behind_since: Option<SystemTime>,
    /// What comparing it with its table found.
    pub audit: Audit,
}

impl IndexState {
    /// The position up to which it serves; `None` while it does not, from which no lag can be told.
    #[must_use]
    pub fn serves_to(&self) -> Option<Lsn> {
        self.snapshot.as_ref().map(|_| self.applied)
    }
}

/// What comparing an index with its table found, since the start of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Rows fetched by key because a change in the stream did not carry all of them.
    pub fetched: u64,
    /// Rows that were not as in the table, and were put right.
    pub mended: u64,
    /// When the last comparison of all keys ended.
    pub audited_at: Option<SystemTime>,
}

/// The replication slot, as upstream's catalogue has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotStatus {
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// Bytes of WAL that upstream keeps for it.
    pub retained: u64,
    /// Bytes of WAL that can still be written before it is in danger; absent if it never is.
    pub safe: Option<i64>,
    /// Why it was invalidated.
    pub invalidated: Option<String>,
}

/// All indexes of the configured database at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Counts changes of the definitions.
    pub generation: Generation,
    /// Everything before this position has arrived from upstream.
    pub received: Lsn,
    /// Everything before this position is journalled.
    pub durable: Lsn,
    /// The newest position upstream has told of.
    pub upstream: Lsn,
    /// Whether the stream is connected.
    pub streaming: bool,
    /// The last error of the stream, until it flows again.
    pub error: Option<String>,
    /// The newest error, also when it is over, and when it came up.
    pub last_error: Option<(Arc<str>, SystemTime)>,
    /// The slot, since it was looked at last; absent while there is none.
    pub slot: Option<SlotStatus>,
    /// When the oldest commit was made that arrived and is not everywhere, by this machine's clock.
    pub behind_since: Option<SystemTime>,
    /// The catalogue was read once: `indexes` are all of them.
    pub complete: bool,
    /// When the newest reading of the catalogue was begun that `indexes` come of.
    pub catalogue_read: Option<Instant>,
    /// What all indexes hold in memory, as of now; absent until something is followed.
    pub memory: Option<Arc<Memory>>,
    /// By id. Ready or not.
    pub indexes: Vec<Arc<IndexState>>,
}

impl View {
    /// How long the oldest commit has waited that is known and not shown, which was made at `since`; 0 if there is none.
    /// `None` where that is not known: without a stream there may be others.
    #[must_use]
    pub fn lag_seconds(&self, since: Option<SystemTime>, now: SystemTime) -> Option<f64> {
        match since {
            Some(since) => Some(now.duration_since(since).unwrap_or_default().as_secs_f64()),
            None => self.streaming.then_some(0.0),
        }
    }

    /// The index of that id.
    #[must_use]
    pub fn index(&self, id: IndexId) -> Option<&Arc<IndexState>> {
        self.indexes.iter().find(|index| index.definition.id == id)
    }
}

/// What comparing all of an index with its table found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verification {
    /// Rows of the table.
    pub rows_table: u64,
    /// Rows that a search can find.
    pub rows_index: u64,
    /// Rows without an indexable vector.
    pub left_out: u64,
    /// Rows that the index lacked.
    pub missing: u64,
    /// Rows that the table did not have.
    pub extra: u64,
    /// Rows with another vector or INCLUDE value than in the table.
    pub differing: u64,
    /// Rows that changed each time they were looked at: nothing can be said of them.
    pub unsettled: u64,
    /// The comparison holds as of this position.
    pub lsn: Lsn,
    /// The share of the ten nearest rows that a search finds, over a sample of the index's own rows; `None` for too few rows.
    pub recall: Option<f64>,
    /// How long it took.
    pub took: Duration,
}

/// Why an index cannot be compared with its table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is not complete yet, or was given up meanwhile.
    #[error("index is not complete: {0}")]
    NotComplete(String),
    /// Others wait already.
    #[error("other indexes are being verified")]
    Busy,
    /// Upstream could not be read, or the stream does not flow.
    #[error("index cannot be compared with its table: {0}")]
    Failed(String),
}
