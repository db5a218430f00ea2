//! The one write loop: upstream's changes → indexes → published views. Copies what is new, follows what is copied, and begins
//! again where it cannot be sure. Never sees a client.
//!
//! ```text
//! walsender ─ receive ─▶ queue ─▶ apply (one thread, owns the writers) ─▶ watch<View>
//!              │  ▲ status            ▲ catalogue   │ ▲ writers        │ snapshots
//!              │  │                   │ follow      │ │   ▲ rows       │
//!              ▼  └─ applied, durable ┘             ▼ │   └ mender     ▼ keep
//!           journal ───────────────────────────▶ catch_up ◀──────── generations
//!                                                   ▲ copier, restore
//! ```

mod apply;
mod budget;
mod catch_up;
mod copier;
mod follow;
mod history;
mod indexes;
mod keep;
mod lag;
mod marks;
mod mender;
mod mending;
mod projection;
mod queue;
mod recall;
mod receive;
mod restore;
mod watch_upstream;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::index::view::View;
use crate::index::{ColdFiles, Memory, join_ended};
use crate::ingest::apply::{Applier, CatalogueRequest, Outputs};
use crate::ingest::budget::Budget;
use crate::ingest::follow::Follower;
use crate::ingest::marks::Marks;
use crate::ingest::mender::Mender;
pub use crate::ingest::mender::VerifyRequest;
use crate::ingest::queue::{QUEUE_ITEMS, Queue};
use crate::ingest::watch_upstream::Watcher;
use crate::lsn::Lsn;
use crate::store::{Directory, MappedFiles, StoreError};
use crate::upstream::catalogue::{check_role, check_server};
use crate::upstream::sql::SqlSession;
use crate::upstream::walsender::ReplicationConnection;
use crate::upstream::{Disposition, UpstreamError, slot};

/// Where in the data directory the journal and the generations are.
const STATE: &str = "state";
/// Below the data directory: vectors that are not in memory. Nothing in it outlives the process.
const VECTORS: &str = "vectors";
/// Messages between the tasks: each waits for the applier after one.
const CONTROLS: usize = 16;
/// Verifications that wait for their turn.
const VERIFICATIONS: usize = 16;
/// How long opening a connection may take, where the connection string says nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the write path is told.
#[derive(Clone, Debug)]
pub struct IngestSettings {
    /// The database to follow, in Rektor's own role.
    pub upstream: tokio_postgres::Config,
    /// Where Rektor keeps its files.
    pub data_dir: PathBuf,
    /// The replication slot's name.
    pub slot: String,
    /// Bytes of WAL that upstream may have to keep for the slot before it is given up.
    pub max_slot_wal: Option<u64>,
    /// Bytes of memory that all indexes together may hold.
    pub max_memory: Option<u64>,
}

/// Why the write path cannot work.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Upstream refuses, or is not set up.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// What is stored cannot be used, or nothing can be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part of the write path panicked. Its place is in the log.
    #[error("the write path failed: {0}")]
    Panicked(String),
    /// Upstream had to keep too much WAL for the slot.
    #[error(
        "the replication slot was given up, since {held} MiB of WAL were kept for it, and max_slot_wal is {limit} MiB"
    )]
    Budget {
        /// MiB of WAL.
        held: u64,
        /// MiB of WAL.
        limit: u64,
    },
}

impl IngestError {
    /// Whether trying again can help.
    fn disposition(&self) -> Disposition {
        match self {
            Self::Upstream(error) => error.disposition(),
            Self::Store(StoreError::Locked(_) | StoreError::OtherCluster { .. })
            | Self::Panicked(_) => Disposition::Fatal,
            Self::Budget { .. } => Disposition::Retry,
            // A full disk can be emptied.
            Self::Store(
                StoreError::Io { .. }
                | StoreError::Corrupt { .. }
                | StoreError::Order(_)
                | StoreError::Stopped,
            ) => Disposition::Retry,
        }
    }
}

/// A running write path.
#[derive(Debug)]
pub struct Ingest {
    /// All indexes, as of the last commit.
    pub view: watch::Receiver<Arc<View>>,
    /// Takes indexes to be compared with their tables.
    pub verify: mpsc::Sender<VerifyRequest>,
    /// Ends after shutdown, when everything is joined and the slot is free; or with what only a person can mend.
    pub task: JoinHandle<Result<(), IngestError>>,
}

/// Starts the write path. If upstream is down, it starts nevertheless and keeps trying.
///
/// # Errors
/// When upstream is there but cannot be followed, as someone must act first.
pub async fn start(
    mut settings: IngestSettings,
    shutdown: watch::Receiver<bool>,
) -> Result<Ingest, IngestError> {
    if settings.upstream.get_connect_timeout().is_none() {
        settings.upstream.connect_timeout(CONNECT_TIMEOUT);
    }
    let state = settings.data_dir.join(STATE);
    let opened = tokio::task::spawn_blocking(move || Directory::open(&state)).await;
    let opened = opened.map_err(|error| IngestError::Panicked(error.to_string()))?;
    let directory = Arc::new(opened?);
    let mut first = View::default();
    match preflight(&settings, &directory).await {
        Ok(()) => {}
        Err(error) if error.disposition() == Disposition::Fatal => return Err(error),
        Err(error) => {
            tracing::warn!(%error, "upstream cannot be reached yet");
            first.error = Some(error.to_string());
        }
    }
    let (publish, view) = watch::channel(Arc::new(first));
    let (verify, asked) = mpsc::channel(VERIFICATIONS);
    let task = tokio::spawn(supervise(settings, directory, publish, asked, shutdown));
    Ok(Ingest { view, verify, task })
}

/// Where vectors go that only the best candidates are compared with; without one they stay in memory.
async fn cold_files(data_dir: &Path) -> Option<Box<dyn ColdFiles>> {
    let directory = data_dir.join(VECTORS);
    let opened = tokio::task::spawn_blocking(move || MappedFiles::open(&directory)).await;
    match opened {
        Ok(Ok(files)) => Some(Box::new(files)),
        Ok(Err(error)) => {
            tracing::warn!(%error, "vectors are kept in memory");
            None
        }
        Err(error) => {
            tracing::error!(%error, "vectors are kept in memory");
            None
        }
    }
}

async fn preflight(settings: &IngestSettings, directory: &Directory) -> Result<(), IngestError> {
    let mut replication = match ReplicationConnection::connect(&settings.upstream).await {
        Ok(replication) => replication,
        // An ordinary session may be able to say what would mend it.
        Err(UpstreamError::Server(refusal)) => {
            let session = SqlSession::connect(&settings.upstream).await?;
            check_role(&session).await?;
            return Err(UpstreamError::Server(refusal).into());
        }
        Err(error) => return Err(error.into()),
    };
    let system = replication.identify_system().await?;
    follow::require_same_cluster(directory, &system)?;
    let session = SqlSession::connect(&settings.upstream).await?;
    check_server(&session).await?;
    let state = slot::find(&session, &settings.slot, &system.database).await?;
    let is_ours = directory
        .origin()
        .is_some_and(|origin| origin.slot == settings.slot);
    if let Some(state) = state.filter(|_| !is_ours) {
        slot::require_unused(&settings.slot, &state)?;
    }
    if let Err(error) = replication.close().await {
        tracing::debug!(%error, "upstream was quicker to close the connection");
    }
    Ok(())
}

/// Owns every task of the write path. The first to end ends all.
async fn supervise(
    settings: IngestSettings,
    directory: Arc<Directory>,
    view: watch::Sender<Arc<View>>,
    asked: mpsc::Receiver<VerifyRequest>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), IngestError> {
    let (stop, stopping) = watch::channel(false);
    let (items, queued) = mpsc::channel(QUEUE_ITEMS);
    let (controls, controlled) = mpsc::channel(CONTROLS);
    let (catalogue, requests) = watch::channel(CatalogueRequest::default());
    let (copy_wanted, wanted) = watch::channel(false);
    let (rows_wanted, lacking) = watch::channel(false);
    let (applied, applied_changes) = watch::channel(Lsn::ZERO);
    let (trimmer, journal) = watch::channel(None);
    let (reader, readable) = watch::channel(None);
    let (catch_up, orders) = mpsc::channel(catch_up::ORDERS);
    let marks = Arc::new(Marks::default());
    let watched = Arc::clone(&marks);
    let mut tasks: JoinSet<Result<(), IngestError>> = JoinSet::new();

    let mender = Mender::new(
        settings.upstream.clone(),
        controls.clone(),
        lacking,
        view.subscribe(),
    );
    let outputs = Outputs {
        view,
        applied,
        catalogue,
        copy_wanted,
        catch_up,
        rows_wanted,
    };
    let memory = Memory::of_process(settings.max_memory, cold_files(&settings.data_dir).await);
    let applier = Applier::new(Arc::clone(&marks), directory.holds(), outputs);
    let applier = applier.within(Arc::clone(&memory));
    let applying = applier.run(queued, controlled, stopping.clone());
    let runtime = tokio::runtime::Handle::current();
    tasks.spawn_blocking(move || {
        runtime.block_on(applying);
        Ok(())
    });
    let (kept, budget) = watch::channel(0);
    let follower = Follower {
        config: settings.upstream.clone(),
        slot: settings.slot.clone(),
        budget: Budget::new(budget, settings.max_slot_wal),
        queue: Queue::new(items),
        marks,
        controls: controls.clone(),
        applied: applied_changes,
        directory: Arc::clone(&directory),
        memory: Arc::clone(&memory),
        journal: None,
        trimmer,
        reader,
        restored: false,
        epochs: 0,
        walsender: None,
        stop: stopping.clone(),
    };
    tasks.spawn(follower.run());
    let (to_applier, stop_reading) = (controls.clone(), stopping.clone());
    tasks.spawn(async {
        catch_up::run(orders, to_applier, readable, stop_reading).await;
        Ok(())
    });
    let (to_applier, stop_keeping) = (controls.clone(), stopping.clone());
    tasks.spawn(async {
        keep::run(directory, to_applier, journal, stop_keeping).await;
        Ok(())
    });
    let watcher = Watcher {
        config: settings.upstream.clone(),
        slot: settings.slot.clone(),
        controls: controls.clone(),
        requests,
        kept,
        marks: watched,
        recorded: Lsn::ZERO,
        complaint: None,
        stop: stopping.clone(),
    };
    tasks.spawn(async {
        watcher.run().await;
        Ok(())
    });
    let stop_mending = stopping.clone();
    tasks.spawn(async {
        mender.run(asked, stop_mending).await;
        Ok(())
    });
    tasks.spawn(async {
        copier::run(settings.upstream, settings.slot, controls, wanted, stopping).await;
        Ok(())
    });

    let mut result = Ok(());
    tokio::select! {
        () = stopped(&mut shutdown) => {}
        Some(ended) = tasks.join_next() => result = flatten(ended),
    }
    stop.send_replace(true);
    while let Some(ended) = tasks.join_next().await {
        let ended = flatten(ended);
        if result.is_ok() {
            result = ended;
        }
    }
    if let Err(error) = tokio::task::spawn_blocking(join_ended).await {
        tracing::warn!(%error, "threads of dropped indexes were not waited for");
    }
    result
}

/// Waits for the order to stop, or for the end of whoever could give it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

fn flatten(
    ended: Result<Result<(), IngestError>, tokio::task::JoinError>,
) -> Result<(), IngestError> {
    ended.unwrap_or_else(|error| Err(IngestError::Panicked(error.to_string())))
}
