//! What an earlier process stored → writers as of their generation, and the journal's messages since, for the applier.
//! Never hands over an index whose definition or table has changed, or a row of a damaged file.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::index::{ColumnChange, GraphImage, IndexError, IndexSpec, Loader, Writer};
use crate::ingest::apply::Item;
use crate::ingest::indexes::{Difference, RestoredIndex, difference, kinds, spec};
use crate::ingest::keep::GRAPH;
use crate::ingest::receive::{Queue, item_bytes};
use crate::lsn::Lsn;
use crate::store::{Chunks, Directory, RecoveredJournal, Replayed, StoreError, StoredIndex};
use crate::upstream::UpstreamError;
use crate::upstream::catalogue::IndexEntry;
use crate::wal::pgoutput::LogicalMessage;
use crate::wal::transaction::Transactions;

/// Rows after which what was loaded is shown to the engine's linker, which works on it while loading goes on, if there is no
/// graph.
const PUBLISH_ROWS: u64 = 10_000;
/// Messages read ahead of the applier; each is at most 1 GiB, and nearly all are some kilobytes.
const READ_AHEAD: usize = 64;

/// Why something stored is of no use.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] IndexError),
}

/// Loads every index of the catalogue that is stored as it is defined now, and from where the journal, which begins at
/// `start`, tells the rest. Blocks.
pub(crate) fn load(
    directory: &Directory,
    entries: Vec<IndexEntry>,
    start: Lsn,
) -> Vec<RestoredIndex> {
    let usable = entries.into_iter().filter(|entry| entry.unusable.is_none());
    usable
        .filter_map(|entry| {
            let name = &entry.definition.name;
            for stored in directory.candidates(entry.definition.id) {
                let old = serde_json::from_str::<IndexEntry>(stored.identity())
                    .ok()
                    .filter(|old| {
                        matches!(
                            difference(old, &entry),
                            Difference::Same | Difference::Renamed
                        )
                    });
                let Some(old) = old.filter(|_| stored.lsn >= start) else {
                    continue;
                };
                match fill(&stored, &entry) {
                    Ok((writer, chunks)) => {
                        tracing::info!(index = %name, rows = stored.len(), lsn = %stored.lsn, "loaded");
                        return Some(RestoredIndex {
                            writer,
                            chunks,
                            point: stored.lsn,
                            former: old.shape,
                            entry,
                        });
                    }
                    Err(error) => tracing::warn!(index = %name, %error, "a stored state is of no use"),
                }
            }
            None
        })
        .collect()
}

fn fill(stored: &StoredIndex, entry: &IndexEntry) -> Result<(Writer, Chunks), LoadError> {
    let spec = spec(&entry.definition);
    let graph = graph(stored, &spec, entry)?;
    let mut loader = Loader::new(spec, graph.as_ref())?.filtered_on(kinds(&entry.definition));
    let mut since_publication = 0;
    let mut rows = stored.rows()?;
    for row in rows.by_ref() {
        let row = row?;
        let include: Vec<_> = row
            .include
            .into_iter()
            .map(|value| value.map_or(ColumnChange::Null, ColumnChange::Set))
            .collect();
        loader.row(row.place, &row.key, &row.vector, &include)?;
        since_publication += 1;
        if since_publication == PUBLISH_ROWS && graph.is_none() {
            since_publication = 0;
            loader.publish(stored.lsn);
        }
    }
    if let Some(graph) = &graph
        && let Err(error) = loader.adopt(graph)
    {
        tracing::warn!(index = %entry.definition.name, %error, "all rows are linked again");
    }
    Ok((loader.finish(), rows.into_chunks()?))
}

/// The stored graph. Without one, or with one that is of no use, all rows are linked again: that costs only time.
fn graph(
    stored: &StoredIndex,
    spec: &IndexSpec,
    entry: &IndexEntry,
) -> Result<Option<GraphImage>, LoadError> {
    let read = match stored.blob(GRAPH) {
        Ok(bytes) => bytes
            .map(|bytes| GraphImage::read(&bytes, spec))
            .transpose()
            .map_err(LoadError::from),
        Err(error @ StoreError::Corrupt { .. }) => Err(error.into()),
        Err(error) => return Err(error.into()),
    };
    Ok(read.unwrap_or_else(|error| {
        tracing::warn!(index = %entry.definition.name, %error, "all rows are linked again");
        None
    }))
}

/// Why the journal's messages did not all reach the applier.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The messages are whole, but not what this version understands.
    #[error("the journal cannot be understood: {0}")]
    Content(String),
    #[error(transparent)]
    Queue(#[from] UpstreamError),
}

/// Sends the journal's messages from `from` on to the applier, as the stream would. It skips what it has.
pub(crate) async fn replay(
    journal: &RecoveredJournal,
    from: Lsn,
    queue: &Queue,
) -> Result<(), ReplayError> {
    let messages = journal.replay(from)?;
    let (send, mut receive) = mpsc::channel(READ_AHEAD);
    // Joined below; it ends when the receiver is gone.
    let reader = tokio::task::spawn_blocking(move || {
        for message in messages {
            if send.blocking_send(message).is_err() {
                return;
            }
        }
    });
    let mut transactions = Transactions::new();
    let content = |error: &dyn std::fmt::Display| ReplayError::Content(error.to_string());
    while let Some(message) = receive.recv().await {
        match message? {
            Replayed::Message(payload) => {
                let message = LogicalMessage::decode(payload).map_err(|error| content(&error))?;
                let event = transactions.feed(message);
                if let Some(event) = event.map_err(|error| content(&error))? {
                    let memory = queue.reserve(item_bytes(&event)).await?;
                    queue.push(Item::Event(event, memory))?;
                }
            }
            Replayed::Position(position) => {
                let memory = queue.reserve(1).await?;
                queue.push(Item::Position(position, memory))?;
            }
        }
    }
    reader
        .await
        .map_err(|_| ReplayError::Content("its reader panicked".to_owned()))
}

/// Runs blocking work of the store on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    directory: &Arc<Directory>,
    work: impl FnOnce(&Directory) -> T + Send + 'static,
) -> Result<T, StoreError> {
    let directory = Arc::clone(directory);
    let done = tokio::task::spawn_blocking(move || work(&directory)).await;
    done.map_err(|_| StoreError::Stopped)
}
