//! Published snapshots → generations on disk, when there is enough that a restart would have to read again; then the journal
//! is trimmed. Never holds up the applier: a snapshot is written while it goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::ingest::apply::{Control, Kept};
use crate::ingest::indexes::KeptIndex;
use crate::ingest::stopped;
use crate::store::{Directory, IndexHeader, StoreError, Trimmer};

/// How often it is looked at whether there is reason for a new generation.
const INTERVAL: Duration = Duration::from_secs(1);
/// Growth of the journal that is reason enough: what a restart then replays takes some seconds.
const JOURNAL_BYTES: u64 = 256 << 20;
/// Pause after a generation that could not be written, most likely for want of room.
const PAUSE: Duration = Duration::from_secs(60);
/// Rows between two looks at whether to stop.
const STOP_ROWS: usize = 1024;

/// Writes generations until `stop`.
pub(crate) async fn run(
    directory: Arc<Directory>,
    controls: mpsc::Sender<Control>,
    journal: watch::Receiver<Option<Trimmer>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut written = BTreeSet::new();
    // The journal's size when the last generation was taken.
    let mut base = 0;
    let mut pause = INTERVAL;
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = INTERVAL;
        let Some(trimmer) = journal.borrow().clone() else {
            continue;
        };
        let (answer, kept) = oneshot::channel();
        if controls.send(Control::Keep(answer)).await.is_err() {
            return;
        }
        let Ok(kept) = kept.await else { continue };
        let size = trimmer.size();
        base = size.min(base);
        let is_new = |index: &KeptIndex| !index.stored && !written.contains(&index.serial);
        // Writing costs as much as all rows: at most twice what the journal has taken.
        let memory = kept
            .indexes
            .iter()
            .map(|kept| kept.snapshot.stats().memory_bytes);
        let enough = JOURNAL_BYTES.max(memory.sum::<u64>() / 2);
        if !kept.indexes.iter().any(is_new) && size - base < enough {
            continue;
        }
        let serials = kept.indexes.iter().map(|index| index.serial).collect();
        let (owner, stopping) = (Arc::clone(&directory), stop.clone());
        // Joined at once; it looks at `stop` itself.
        let writing = tokio::task::spawn_blocking(move || write(&owner, kept, &stopping));
        match writing.await {
            Ok(Ok(())) => {
                (written, base) = (serials, size);
                if let Some(keep_from) = directory.keep_from() {
                    trimmer.trim(keep_from).await;
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the indexes cannot be stored; a restart copies them or replays a longer journal");
                pause = PAUSE;
            }
            Err(error) => {
                tracing::error!(%error, "storing the indexes failed");
                pause = PAUSE;
            }
        }
    }
}

/// Writes a generation. Blocks; gives up when it is to stop.
pub(crate) fn write(
    directory: &Directory,
    kept: Kept,
    stop: &watch::Receiver<bool>,
) -> Result<(), StoreError> {
    let mut generation = directory.begin_generation(kept.epoch, kept.position)?;
    for index in kept.indexes {
        let identity = match serde_json::to_string(&index.entry) {
            Ok(identity) => identity,
            Err(error) => {
                tracing::error!(%error, index = %index.entry.definition.name, "the definition cannot be stored");
                continue;
            }
        };
        let snapshot = index.snapshot;
        let include = snapshot.spec().include;
        let mut rows = generation.index(IndexHeader {
            id: index.entry.definition.id,
            identity,
            lsn: index.lsn,
            dim: snapshot.spec().dim.get(),
            include,
        })?;
        for (number, row) in snapshot.rows().enumerate() {
            if number % STOP_ROWS == 0 && *stop.borrow() {
                return Err(StoreError::Stopped);
            }
            if let (Some(key), Some(vector)) = (snapshot.key(row), snapshot.vector(row)) {
                let values = (0..include).map(|column| snapshot.include(row, column));
                rows.row(key, Ok(vector), values)?;
            }
        }
        for (number, row) in index.left_out.rows().enumerate() {
            if number % STOP_ROWS == 0 && *stop.borrow() {
                return Err(StoreError::Stopped);
            }
            let values = (0..include).map(|column| row.include(column));
            rows.row(row.key(), Err(row.reason), values)?;
        }
        rows.finish()?;
    }
    generation.commit()
}
