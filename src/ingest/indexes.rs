//! The indexes as the write path owns them, and what is made for them beside the stream → the published states.
//! No I/O and no clock of its own. Never shows a part of a transaction.

mod definition;
mod jobs;
mod mend;
mod one;
mod replica;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::catalog::{IndexId, RelationId};
use crate::index::view::{Generation, IndexState};
use crate::index::{Changed, LeftOutView, Memory, Snapshot, Writer};
use crate::ingest::lag::Commits;
use crate::ingest::mending::Recent;
use crate::lsn::Lsn;
use crate::store::{Chunks, Holds};
use crate::upstream::catalogue::{IndexEntry, Shape};
use crate::wal::pgoutput::{Datum, Relation};
use crate::wal::transaction::{Event, RowImage};
pub(crate) use definition::{Difference, difference, kinds, spec};
use jobs::Job;
pub(crate) use jobs::{CatchUpOrder, CaughtUp, CopiedIndex, CopyOrder};
pub(crate) use one::{Beside, needs};
use one::{Index, Live, Place, Want};
pub(crate) use replica::{Replica, Trouble};

/// What a change costs in memory beside its values.
const EVENT_BYTES: usize = 256;
/// All indexes of the database.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    all: BTreeMap<IndexId, Index>,
    generation: Generation,
    /// At most one copies; of those that catch up there are fewer than indexes.
    jobs: Vec<Job>,
    /// Numbers jobs.
    last_job: u64,
    /// What is to catch up, and is not passed on yet: at most one for each job.
    orders: Vec<CatchUpOrder>,
    /// What of the journal the jobs need.
    holds: Holds,
    /// Counts what became complete.
    serials: u64,
    /// A slot holds all WAL from now on: without one, what changes after a copy would be lost.
    following: bool,
    /// Why nothing is followed, after something was.
    halted: Option<String>,
    /// Something was seen that only reading the catalogue can explain.
    suspicious: bool,
    /// Watches of keys so far.
    watches: u64,
    /// What may be applied here and not visible upstream.
    recent: Recent,
    /// What all indexes share.
    pub(crate) memory: Arc<Memory>,
}

/// What an earlier process had stored of an index.
#[derive(Debug)]
pub(crate) struct RestoredIndex {
    /// As the catalogue has it now.
    pub(crate) entry: IndexEntry,
    /// What the table's columns were called when it was stored.
    pub(crate) former: Shape,
    pub(crate) writer: Writer,
    /// The files that it came from.
    pub(crate) files: Files,
    /// Commits whose record is before this are in it.
    pub(crate) point: Lsn,
    /// The same, to be served.
    pub(crate) snapshot: Arc<Snapshot>,
}

/// The files that an index was made from.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) chunks: Chunks,
    /// Nodes of the graph among them.
    pub(crate) linked: u64,
}

/// A complete index, to be stored.
#[derive(Debug)]
pub(crate) struct KeptIndex {
    pub(crate) entry: IndexEntry,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) left_out: LeftOutView,
    /// Commits whose record is before this are in it.
    pub(crate) lsn: Lsn,
    /// Tells it from what had its definition before.
    pub(crate) serial: u64,
    /// Places that were written since this was asked last.
    pub(crate) changed: Changed,
    /// When it is asked first: the files that it came from, if it came from files.
    pub(crate) stored: Option<Files>,
}

impl Indexes {
    pub(crate) fn new(holds: Holds) -> Self {
        Self {
            holds,
            ..Self::default()
        }
    }

    /// Takes over a reading of the catalogue.
    pub(crate) fn catalogue(&mut self, entries: Vec<IndexEntry>) {
        let before = self.all.len();
        self.all
            .retain(|id, _| entries.iter().any(|entry| entry.definition.id == *id));
        let mut changed = self.all.len() != before;
        for entry in entries {
            let id = entry.definition.id;
            match self.all.get_mut(&id) {
                Some(index) => changed |= index.redefine(entry),
                None => {
                    changed = true;
                    self.all.insert(id, Index::new(entry));
                }
            }
        }
        if changed {
            self.generation.0 += 1;
        }
        self.end_jobs();
    }

    /// Whether the catalogue should be read; asks only once.
    pub(crate) fn take_suspicion(&mut self) -> bool {
        std::mem::take(&mut self.suspicious)
    }

    /// A table was described by the stream: if an index is on it, its columns may have changed.
    pub(crate) fn described(&mut self, relation: RelationId) {
        let mut indexes = self.all.values();
        self.suspicious |= indexes.any(|index| index.entry.definition.relation == relation);
    }

    /// Whether an index that follows this table does not find its columns in it: they may have been renamed.
    pub(crate) fn is_puzzled_by(&self, relation: &Arc<Relation>) -> bool {
        let mut lives = self.all.values().filter_map(|index| index.live.as_ref());
        lives.any(|live| {
            live.entry.definition.relation == relation.id && live.is_puzzled_by(relation)
        })
    }

    /// Applies a change or TRUNCATE, and keeps it for what is about to follow the stream.
    pub(crate) fn apply(&mut self, event: Event, now: Instant) {
        for index in self.all.values_mut() {
            self.suspicious |= index.apply(&event, now);
        }
        self.keep(event);
    }

    /// A new slot was created: nothing that is there follows from it, and copies may begin.
    pub(crate) fn begin_stream(&mut self) {
        self.following = true;
        self.halted = None;
        self.jobs.clear();
        self.orders.clear();
        for index in self.all.values_mut() {
            index.distrust();
        }
        self.generation.0 += 1;
    }

    /// The slot was given up: what is there is not followed any more, and nothing can be copied until a new one begins.
    pub(crate) fn end_stream(&mut self, reason: String) {
        self.following = false;
        self.halted = Some(reason);
        for index in self.all.values_mut() {
            index.distrust();
        }
        self.jobs.clear();
        self.orders.clear();
        self.generation.0 += 1;
    }

    /// What was stored is taken over, and catches up with the stream from the journal. The rest is copied.
    pub(crate) fn restore(&mut self, restored: Vec<RestoredIndex>, epoch: u64) {
        self.following = true;
        self.recent.continues();
        self.jobs.clear();
        self.orders.clear();
        let job = self.next_job();
        let mut replicas = Vec::new();
        for made in restored {
            let id = made.entry.definition.id;
            let index = self
                .all
                .entry(id)
                .or_insert_with(|| Index::new(made.entry.clone()));
            if !matches!(
                difference(&made.entry, &index.entry),
                Difference::Same | Difference::Renamed
            ) {
                continue; // the catalogue was read again meanwhile
            }
            self.serials += 1;
            let entry = index.entry.clone();
            let mut replica = Replica::new(entry, made.former, made.writer, made.point);
            replica.dirty = false;
            let place = Place::Away {
                job,
                applied: made.point,
                beside: Some(Beside::of(&mut replica)),
            };
            let mut live = Live::new(index.entry.clone(), place, self.serials);
            (live.snapshot, live.stored) = (Some(made.snapshot), Some(made.files));
            index.live = Some(live);
            (index.want, index.filling) = (Want::Nothing, None);
            replicas.push(replica);
        }
        if let Some(from) = jobs::least_point(&replicas) {
            let hold = self.holds.hold(from);
            self.catch_up(job, epoch, replicas, hold);
        }
        self.generation.0 += 1;
    }

    /// Every complete index as of its last publication, when everything before `position` was applied. `None` while
    /// something is applied that is not published. What changed is told once.
    pub(crate) fn kept(&mut self, position: Lsn) -> Option<Vec<KeptIndex>> {
        let mut lives = self.all.values().filter_map(|index| index.live.as_ref());
        if !lives.all(Live::is_whole) {
            return None;
        }
        let lives = self.all.values_mut();
        let lives = lives.filter_map(|index| index.live.as_mut());
        lives.map(|live| live.kept(position)).collect()
    }

    /// Time has passed: failed copies are tried again, and an index whose engine failed stops serving. Whether one did.
    pub(crate) fn retry(&mut self, now: Instant) -> bool {
        let mut failed = false;
        for index in self.all.values_mut() {
            if let Some((error, needs)) = index.live.as_ref().and_then(Live::failure) {
                tracing::error!(index = %index.entry.definition.name, error, "the index engine failed; the index is copied again");
                index.distrust();
                index.fail(error, needs, now);
                failed = true;
            }
            index.retry(self.memory.room(), now);
        }
        failed
    }

    /// Makes everything applied visible, as of `position`. Only between transactions.
    pub(crate) fn publish(&mut self, position: Lsn) {
        for index in self.all.values_mut() {
            index.publish(position);
        }
    }

    /// Whether an index is on its way to serving, so that its progress changes without a change.
    pub(crate) fn is_building(&self) -> bool {
        let building = |index: &Index| index.live.as_ref().is_some_and(|live| !live.is_linked());
        self.all.values().any(building)
    }

    /// Whether an index was made anew, which shows when it is published.
    pub(crate) fn is_rebuilt(&self) -> bool {
        self.all.values().any(Index::is_rebuilt)
    }

    /// The indexes as sessions see them.
    pub(crate) fn states(
        &mut self,
        position: Lsn,
        commits: &Commits,
    ) -> (Generation, Vec<Arc<IndexState>>) {
        let halted = self.halted.as_deref();
        let states = self
            .all
            .values_mut()
            .map(|index| Arc::new(index.state(position, commits, halted)));
        (self.generation, states.collect())
    }
}

/// About how much memory an event takes.
pub(crate) fn event_bytes(event: &Event) -> usize {
    let datum = |datum: &Datum| match datum {
        Datum::Null | Datum::Unchanged => 0,
        Datum::Text(bytes) | Datum::Binary(bytes) => bytes.len(),
    };
    let tuple = |values: &[Datum]| values.iter().map(datum).sum::<usize>();
    let row = |row: &RowImage| {
        row.old_tuple().map_or(0, |old| tuple(old.values())) + row.new_tuple().map_or(0, tuple)
    };
    EVENT_BYTES
        + match event {
            Event::Change(change) => row(&change.row),
            Event::Message { content, .. } => content.len(),
            Event::Begin { .. }
            | Event::Relation(_)
            | Event::Truncate { .. }
            | Event::Commit { .. } => 0,
        }
}
