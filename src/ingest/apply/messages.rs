//! What the applier is told by the other tasks, and what it tells them.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use crate::catalog::IndexId;
use crate::index::view::{SlotStatus, View};
use crate::ingest::indexes::{
    CatchUpOrder, CaughtUp, CopiedIndex, CopyOrder, KeptIndex, Replica, RestoredIndex, Trouble,
};
use crate::ingest::mending::Request;
use crate::ingest::queue::{Passed, Whole};
use crate::lsn::Lsn;
use crate::store::Hold;
use crate::upstream::catalogue::IndexEntry;

/// What the receiving task hands on, in the stream's order.
#[derive(Debug)]
pub(crate) enum Item {
    /// A transaction.
    Transaction(Whole),
    /// Transactions that only the journal has, or none.
    Passed(Passed),
    /// A new slot begins here: what was before is not connected to what follows.
    Begin {
        position: Lsn,
        /// Of the stored state that follows from it.
        epoch: u64,
    },
    /// What a process before this one had stored; the stream continues from the position, up to which the journal has
    /// the rest.
    Restore {
        position: Lsn,
        epoch: u64,
        indexes: Vec<RestoredIndex>,
    },
}

/// What the other tasks tell.
#[derive(Debug)]
pub(crate) enum Control {
    /// The stream flows, or why not.
    Stream {
        streaming: bool,
        error: Option<String>,
    },
    /// The catalogue was read, in answer to requests up to this number; when that was begun.
    Catalogue {
        request: u64,
        began: Instant,
        entries: Vec<IndexEntry>,
    },
    /// The catalogue cannot be read.
    CatalogueFailed(String),
    /// The slot was looked at; `None` if there is none.
    Slot(Option<SlotStatus>),
    /// The slot was given up, and why: nothing follows its table until a new one begins.
    GivenUp(String),
    /// The copier is ready; `None` if nothing is to be copied any more.
    CopyBegin(oneshot::Sender<Option<CopyOrder>>),
    /// How far a copy is.
    CopyProgress {
        job: u64,
        percents: Vec<(IndexId, f32)>,
    },
    /// A copy cannot begin yet, and why.
    CopyWaits(String),
    /// A copy is complete, as of that position.
    Copied {
        job: u64,
        point: Lsn,
        indexes: Vec<CopiedIndex>,
    },
    /// Writers that read the journal are where it ends: from the position that is answered on the applier keeps what
    /// comes for them. No answer if nobody waits for them any more.
    Join {
        job: u64,
        answer: oneshot::Sender<Lsn>,
    },
    /// How far they have come.
    CaughtUp { job: u64, states: Vec<CaughtUp> },
    /// One of them cannot go on.
    Trouble {
        job: u64,
        id: IndexId,
        trouble: Trouble,
    },
    /// They have everything before that position, which is not before that of the answer.
    Joined {
        job: u64,
        position: Lsn,
        /// Of the journal, from that position on.
        hold: Hold,
        replicas: Vec<Replica>,
    },
    /// The journal cannot be read.
    CatchUpFailed { job: u64, error: String },
    /// What there is to store is wanted. No answer while something is applied that is not published.
    Keep(oneshot::Sender<Kept>),
    /// Rows are fetched by key.
    Mend(Request),
    /// A copy failed by the fault of these indexes, or of none.
    CopyFailed {
        job: u64,
        faulty: Vec<IndexId>,
        error: String,
        /// Bytes of memory that they need; 0 if that is not the reason.
        needs: u64,
    },
}

/// Every complete index, as of its last publication.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Of the stream that they follow.
    pub(crate) epoch: u64,
    /// Everything before it is applied.
    pub(crate) position: Lsn,
    pub(crate) indexes: Vec<KeptIndex>,
}

/// That the catalogue is to be read, after these transactions are visible.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CatalogueRequest {
    pub(crate) number: u64,
    pub(crate) xids: Vec<u32>,
}

/// Where the applier's results go.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) view: watch::Sender<Arc<View>>,
    /// Everything before this position is searchable.
    pub(crate) applied: watch::Sender<Lsn>,
    pub(crate) catalogue: watch::Sender<CatalogueRequest>,
    pub(crate) copy_wanted: watch::Sender<bool>,
    pub(crate) catch_up: mpsc::Sender<CatchUpOrder>,
    /// An index lacks rows that are to be fetched.
    pub(crate) rows_wanted: watch::Sender<bool>,
}
