//! Placeholder with the declared API until the write loop lands: publishes an empty view and never changes it.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::index::view::View;

/// What ingest works with.
#[derive(Clone, Debug)]
pub struct IngestSettings {
    /// The database.
    pub upstream: tokio_postgres::Config,
    /// Where to keep things.
    pub data_dir: PathBuf,
    /// The slot.
    pub slot: String,
}

/// Why ingest cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {}

/// The running loop.
#[derive(Debug)]
pub struct Ingest {
    /// What it publishes.
    pub view: watch::Receiver<Arc<View>>,
    /// Its task.
    pub task: JoinHandle<Result<(), IngestError>>,
}

/// Starts it.
#[allow(clippy::unused_async)]
pub async fn start(
    _settings: IngestSettings,
    mut shutdown: watch::Receiver<bool>,
) -> Result<Ingest, IngestError> {
    let (sender, view) = watch::channel(Arc::new(View::default()));
    let task = tokio::spawn(async move {
        drop(shutdown.wait_for(|stop| *stop).await);
        drop(sender);
        Ok(())
    });
    Ok(Ingest { view, task })
}
