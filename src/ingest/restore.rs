//! What an earlier process stored → writers as of their generation. The journal has what came since.
//! Never hands over an index whose definition or table has changed, or a row of a damaged file.

use std::sync::Arc;

use crate::catalog::Storage;
use crate::index::{
    ColumnChange, GraphImage, IndexError, IndexSpec, Loader, MEAN_ROWS, Memory, Writer,
};
use crate::ingest::indexes::{Difference, Files, RestoredIndex, difference, kinds, spec};
use crate::ingest::keep::GRAPH;
use crate::lsn::Lsn;
use crate::store::{Directory, StoreError, StoredIndex};
use crate::upstream::catalogue::IndexEntry;

/// Rows after which what was loaded is shown to the engine's linker, which works on it while loading goes on, if there is no
/// graph.
const PUBLISH_ROWS: u64 = 10_000;

/// Why something stored is of no use.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] IndexError),
    #[error("there are codes alone, and no graph that tells their mean")]
    NoMean,
}

/// Loads every index of the catalogue that is stored as it is defined now, and from where the journal, which begins at
/// `start`, tells the rest. Blocks.
pub(crate) fn load(
    directory: &Directory,
    entries: Vec<IndexEntry>,
    start: Lsn,
    memory: &Arc<Memory>,
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
                match fill(&stored, &entry, memory) {
                    Ok((mut writer, files)) => {
                        tracing::info!(index = %name, rows = stored.len(), lsn = %stored.lsn, "loaded");
                        return Some(RestoredIndex {
                            snapshot: writer.publish(stored.lsn),
                            writer,
                            files,
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

fn fill(
    stored: &StoredIndex,
    entry: &IndexEntry,
    memory: &Arc<Memory>,
) -> Result<(Writer, Files), LoadError> {
    let spec = spec(&entry.definition);
    let graph = graph(stored, &spec, entry)?;
    if spec.options.storage == Storage::I8 && graph.is_none() && stored.len() >= MEAN_ROWS {
        // What is stored stands for codes around the graph's mean: around another they would be coded twice.
        return Err(LoadError::NoMean);
    }
    let loader = Loader::within(spec, graph.as_ref(), memory)?;
    loader.serves();
    let mut loader = loader.filtered_on(kinds(&entry.definition));
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
    let mut linked = 0;
    if let Some(graph) = &graph {
        match loader.adopt(graph) {
            Ok(()) => linked = u64::from(graph.nodes()),
            Err(error) => {
                tracing::warn!(index = %entry.definition.name, %error, "all rows are linked again");
            }
        }
    }
    let chunks = rows.into_chunks()?;
    Ok((loader.finish(), Files { chunks, linked }))
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

/// Runs blocking work of the store on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    directory: &Arc<Directory>,
    work: impl FnOnce(&Directory) -> T + Send + 'static,
) -> Result<T, StoreError> {
    let directory = Arc::clone(directory);
    let done = tokio::task::spawn_blocking(move || work(&directory)).await;
    done.map_err(|_| StoreError::Stopped)
}
