//! Published snapshots → generations on disk, when there is enough that a restart would have to read again; then the journal
//! is trimmed. Writes what changed since the generation before and shares the rest with it.
//! Never holds up the applier: a snapshot is written while it goes on, by a thread that searches go before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::index::{Changed, Place, RowId};
use crate::ingest::apply::{Control, Kept};
use crate::ingest::indexes::KeptIndex;
use crate::ingest::stopped;
use crate::store::{Chunks, Directory, GenerationWriter, IndexHeader, StoreError, Trimmer};

/// How often it is looked at whether there is reason for a new generation.
const INTERVAL: Duration = Duration::from_secs(1);
/// Growth of the journal that is reason enough: what a restart then replays takes some seconds. A generation writes about as
/// much, and as much again for what was worn out.
const JOURNAL_BYTES: u64 = 256 << 20;
/// The name of an index's graph in a generation.
pub(crate) const GRAPH: &str = "graph";
/// Nodes linked since the graph was stored that are reason enough, once the linker has nearly caught up: a restart would link
/// them again. At least so many, and an eighth, so that all writing of graphs is a few times the last one.
const UNSTORED: u64 = 4096;
const CAUGHT_UP: u64 = 2048;
const UNSTORED_SHARE: u64 = 8;
/// Pause after a generation that could not be written, most likely for want of room.
const PAUSE: Duration = Duration::from_secs(60);
/// Added to the nice value of the thread that writes: about a tenth of a core that others want. Not nothing, as linking takes
/// that nobody waits for: on a machine that has no time to spare the journal would only grow.
const NICER: i32 = 10;
/// Rows between two looks at whether to stop.
const STOP_ROWS: usize = 1024;

/// What the newest generation has of each index, and what has changed since.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<u64, Base>);

/// Of one index, by its serial: another of the same definition has other rows at its places.
#[derive(Debug, Default)]
struct Base {
    /// None: it is in no generation.
    chunks: Option<Chunks>,
    /// Places that were written since.
    changed: Changed,
    /// Nodes of the stored graph.
    linked: u64,
}

impl Known {
    /// Takes note of what the applier tells once.
    pub(crate) fn learn(&mut self, kept: &mut Kept) {
        let serials: BTreeSet<u64> = kept.indexes.iter().map(|index| index.serial).collect();
        self.0.retain(|serial, _| serials.contains(serial));
        for index in &mut kept.indexes {
            let base = self.0.entry(index.serial).or_default();
            base.changed.merge(&index.changed);
            index.changed = Changed::default();
            if let Some(files) = index.stored.take() {
                (base.chunks, base.linked) = (Some(files.chunks), files.linked);
            }
        }
    }

    /// Whether there is reason for a generation, when the journal has grown by that many bytes since the last.
    fn is_due(&self, kept: &Kept, grown: u64) -> bool {
        if self.0.values().any(|base| base.chunks.is_none()) {
            return true;
        }
        let mut graphs = 0;
        for index in &kept.indexes {
            let Some(graph) = index.snapshot.graph() else {
                continue;
            };
            graphs += graph.bytes();
            let linked = u64::from(graph.nodes());
            let stored = self.0.get(&index.serial).map_or(0, |base| base.linked);
            let unstored = linked.saturating_sub(stored);
            if unstored > UNSTORED.max(linked / UNSTORED_SHARE)
                && index.snapshot.stats().unlinked <= CAUGHT_UP
            {
                return true;
            }
        }
        // Graphs are written whole.
        grown >= JOURNAL_BYTES.max(graphs)
    }
}

/// Writes generations until `stop`.
pub(crate) async fn run(
    directory: Arc<Directory>,
    controls: mpsc::Sender<Control>,
    journal: watch::Receiver<Option<Trimmer>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut known = Known::default();
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
        let Ok(mut kept) = kept.await else { continue };
        known.learn(&mut kept);
        let size = trimmer.size();
        base = size.min(base);
        if !known.is_due(&kept, size - base) {
            continue;
        }
        let (owner, stopping) = (Arc::clone(&directory), stop.clone());
        let writing = behind_others(move || {
            let written = write(&owner, &kept, &mut known, &stopping);
            (known, written)
        });
        match writing.await {
            Ok((after, Ok(()))) => {
                (known, base) = (after, size);
                if let Some(keep_from) = directory.keep_from() {
                    trimmer.trim(keep_from).await;
                }
            }
            Ok((after, Err(error))) => {
                tracing::warn!(%error, "the indexes cannot be stored; a restart copies them or replays a longer journal");
                (known, pause) = (after, PAUSE);
            }
            Err(error) => {
                // Nothing is known any more, so the next one writes everything.
                tracing::error!(%error, "storing the indexes failed");
                (known, pause) = (Known::default(), PAUSE);
            }
        }
    }
}

/// Works on a thread of its own (one that became nicer never gets its priority back), until the end: `work` looks itself at
/// whether it is to stop.
async fn behind_others<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let (answer, done) = oneshot::channel();
    let work = move || {
        // Of this thread alone. Were it refused, it would compete as others do.
        let _nicer = rustix::process::nice(NICER);
        let _nobody_waits = answer.send(work());
    };
    std::thread::Builder::new()
        .name("keeper".into())
        .spawn(work)?;
    done.await
        .map_err(|_| std::io::Error::other("the thread that writes panicked"))
}

/// Writes a generation. Blocks; gives up when it is to stop.
pub(crate) fn write(
    directory: &Directory,
    kept: &Kept,
    known: &mut Known,
    stop: &watch::Receiver<bool>,
) -> Result<(), StoreError> {
    let mut generation = directory.begin_generation(kept.epoch, kept.position)?;
    let mut written = Vec::new();
    for index in &kept.indexes {
        let base = known.0.get(&index.serial);
        let chunks = write_index(&mut generation, index, base, stop)?;
        let mut linked = 0;
        if let Some(graph) = index.snapshot.graph() {
            linked = u64::from(graph.nodes());
            let id = index.entry.definition.id;
            generation.blob(id, GRAPH, |file| graph.write(file))?;
        }
        let now = Base {
            chunks: Some(chunks),
            changed: Changed::default(),
            linked,
        };
        written.push((index.serial, now));
    }
    generation.commit()?;
    known.0.extend(written);
    Ok(())
}

fn write_index(
    generation: &mut GenerationWriter<'_>,
    index: &KeptIndex,
    base: Option<&Base>,
    stop: &watch::Receiver<bool>,
) -> Result<Chunks, StoreError> {
    let identity = serde_json::to_string(&index.entry);
    let identity = identity.map_err(|_| StoreError::Order("an index's definition"))?;
    let snapshot = &index.snapshot;
    let include = snapshot.spec().include;
    let mut rows = generation.index(IndexHeader {
        id: index.entry.definition.id,
        identity,
        lsn: index.lsn,
        form: snapshot.spec().form(),
        include,
    });
    let is_there = |place: Place| match place {
        Place::Row(_) => snapshot.row_at(place).is_some(),
        Place::LeftOut(slot) => index.left_out.row(slot).is_some(),
    };
    let mut places: Vec<Place> = match base {
        Some(Base {
            chunks: Some(chunks),
            changed,
            ..
        }) => {
            let counts = |place| is_there(place) && !changed.contains(place);
            let mut places = rows.share(chunks, counts);
            places.extend(changed.places().filter(|place| is_there(*place)));
            places
        }
        Some(Base { chunks: None, .. }) | None => all(index),
    };
    // In order, so that reading them again fills memory from one end to the other.
    places.sort_unstable();
    for (number, place) in places.into_iter().enumerate() {
        if number % STOP_ROWS == 0 && *stop.borrow() {
            return Err(StoreError::Stopped);
        }
        match place {
            Place::Row(_) => {
                let row = snapshot.row_at(place);
                if let Some((row, key, vector)) =
                    row.and_then(|row| Some((row, snapshot.key(row)?, snapshot.vector(row)?)))
                {
                    let values = (0..include).map(|column| snapshot.include(row, column));
                    rows.row(place, key, Ok(&vector), values)?;
                }
            }
            Place::LeftOut(slot) => {
                if let Some(row) = index.left_out.row(slot) {
                    let values = (0..include).map(|column| row.include(column));
                    rows.row(place, row.key(), Err(row.reason), values)?;
                }
            }
        }
    }
    rows.finish()
}

/// Every row's place.
fn all(index: &KeptIndex) -> Vec<Place> {
    let rows = index.snapshot.rows().map(RowId::place);
    let left_out = index.left_out.rows();
    rows.chain(left_out.map(|(slot, _)| Place::LeftOut(slot)))
        .collect()
}
