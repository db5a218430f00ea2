//! The indexes as the write path owns them, and the changes kept for a copy under way → the published states.
//! No I/O and no clock of its own. Never shows a part of a transaction.

mod one;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::catalog::IndexId;
use crate::index::view::{Generation, IndexState};
use crate::index::{Changed, LeftOutView, Snapshot, Writer};
use crate::ingest::lag::Commits;
use crate::lsn::Lsn;
use crate::store::Chunks;
use crate::upstream::catalogue::{IndexEntry, Shape};
use crate::wal::pgoutput::{Datum, Relation};
use crate::wal::transaction::{Event, RowImage};
pub(crate) use one::{Difference, difference, kinds, spec};
use one::{Index, Live, Want};

/// Most bytes of changes kept for tables that are being copied. Beyond it the stream waits for the copy.
pub(crate) const KEPT_BYTES: usize = 256 << 20;
/// What a kept change costs beside its values.
const EVENT_BYTES: usize = 256;
/// All indexes of the database.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    all: BTreeMap<IndexId, Index>,
    generation: Generation,
    job: Option<Job>,
    jobs: u64,
    /// Counts what became complete.
    serials: u64,
    /// A slot holds all WAL from now on: without one, what changes after a copy would be lost.
    following: bool,
    /// Why nothing is followed, after something was.
    halted: Option<String>,
    /// Something was seen that only reading the catalogue can explain.
    suspicious: bool,
}

/// A copy under way.
#[derive(Debug)]
struct Job {
    number: u64,
    ids: Vec<IndexId>,
    kept: Vec<Event>,
    bytes: usize,
    /// Length of `kept` and its bytes when the open transaction began.
    mark: (usize, usize),
}

/// What a copy is to make.
#[derive(Clone, Debug)]
pub(crate) struct CopyOrder {
    pub(crate) job: u64,
    pub(crate) entries: Vec<IndexEntry>,
}

/// What a copy has made of one index.
#[derive(Debug)]
pub(crate) struct CopiedIndex {
    pub(crate) entry: IndexEntry,
    pub(crate) writer: Writer,
    pub(crate) left_out: u64,
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
    pub(crate) chunks: Chunks,
    /// Commits whose record is before this are in it.
    pub(crate) point: Lsn,
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
    pub(crate) stored: Option<Chunks>,
}

impl Indexes {
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
    }

    /// Whether the catalogue should be read; asks only once.
    pub(crate) fn take_suspicion(&mut self) -> bool {
        std::mem::take(&mut self.suspicious)
    }

    /// A table was described by the stream: if an index is on it, its columns may have changed.
    pub(crate) fn described(&mut self, event: &Event) {
        if let Event::Relation(relation) = event
            && self
                .all
                .values()
                .any(|index| index.entry.definition.relation == relation.id)
        {
            self.suspicious = true;
        }
    }

    /// Whether an index that follows this table does not find its columns in it: they may have been renamed.
    pub(crate) fn is_puzzled_by(&self, relation: &Arc<Relation>) -> bool {
        let mut lives = self.all.values().filter_map(|index| index.live.as_ref());
        lives.any(|live| {
            live.entry.definition.relation == relation.id && !live.understands(relation)
        })
    }

    /// Whether an index waits for a copy and none is under way.
    pub(crate) fn wants_copy(&self) -> bool {
        self.following
            && self.job.is_none()
            && self.all.values().any(|index| index.want == Want::Copy)
    }

    /// Begins a copy of all indexes that wait for one. From here on the changes of their tables are kept.
    pub(crate) fn begin_copy(&mut self) -> Option<CopyOrder> {
        if !self.wants_copy() {
            return None;
        }
        let waiting = self
            .all
            .values_mut()
            .filter(|index| index.want == Want::Copy);
        let mut entries = Vec::new();
        for index in waiting {
            index.want = Want::Nothing;
            index.percent = 0.0;
            entries.push(index.entry.clone());
        }
        self.jobs += 1;
        self.job = Some(Job {
            number: self.jobs,
            ids: entries.iter().map(|entry| entry.definition.id).collect(),
            kept: Vec::new(),
            bytes: 0,
            mark: (0, 0),
        });
        Some(CopyOrder {
            job: self.jobs,
            entries,
        })
    }

    /// How far the copy under way is.
    pub(crate) fn copy_progress(&mut self, job: u64, percents: &[(IndexId, f32)]) {
        if self
            .job
            .as_ref()
            .is_some_and(|current| current.number == job)
        {
            for (id, percent) in percents {
                if let Some(index) = self.all.get_mut(id) {
                    index.percent = *percent;
                }
            }
        }
    }

    /// The copy failed. `faulty` are the indexes whose fault it is; without any it is tried again at once.
    pub(crate) fn copy_failed(&mut self, job: u64, faulty: &[IndexId], error: &str, now: Instant) {
        let Some(job) = self.job.take_if(|current| current.number == job) else {
            return;
        };
        for id in &job.ids {
            if let Some(index) = self.all.get_mut(id) {
                if faulty.contains(id) {
                    index.fail(error.to_owned(), now);
                } else {
                    index.demand_copy();
                }
            }
        }
    }

    /// The copy is complete, as of `point`: what was kept is applied, and the indexes follow the stream from here on.
    pub(crate) fn install(&mut self, job: u64, point: Lsn, copied: Vec<CopiedIndex>, now: Instant) {
        let Some(job) = self.job.take_if(|current| current.number == job) else {
            return;
        };
        let mut missing = job.ids;
        for made in copied {
            let id = made.entry.definition.id;
            let Some(index) = self.all.get_mut(&id) else {
                continue;
            };
            if !matches!(
                difference(&made.entry, &index.entry),
                Difference::Same | Difference::Renamed
            ) {
                continue;
            }
            missing.retain(|other| *other != id);
            index.want = Want::Nothing;
            index.left_out += made.left_out;
            self.serials += 1;
            let former = made.entry.shape;
            let live = Live::new(
                index.entry.clone(),
                former,
                made.writer,
                point,
                self.serials,
            );
            index.live = Some(live);
            for event in &job.kept {
                self.suspicious |= index.apply(event, now);
            }
            if index.live.is_some() {
                index.failures = 0;
            }
            self.generation.0 += 1;
        }
        for id in missing {
            if let Some(index) = self.all.get_mut(&id) {
                index.demand_copy();
            }
        }
    }

    /// Applies a change or TRUNCATE, and keeps it for a copy under way.
    pub(crate) fn apply(&mut self, event: Event, now: Instant) {
        for index in self.all.values_mut() {
            self.suspicious |= index.apply(&event, now);
        }
        let Some(job) = &mut self.job else { return };
        let concerned = job.ids.iter().any(|id| {
            let index = self.all.get(id);
            index.is_some_and(|index| index.commit_of(&event).is_some())
        });
        if concerned {
            job.bytes += event_bytes(&event);
            job.kept.push(event);
        }
    }

    /// A transaction begins: what it keeps may have to be forgotten.
    pub(crate) fn begin_transaction(&mut self) {
        if let Some(job) = &mut self.job {
            job.mark = (job.kept.len(), job.bytes);
        }
    }

    /// The transaction that began last will never end on this connection, although some of it was applied.
    pub(crate) fn abandon_transaction(&mut self) {
        if let Some(job) = &mut self.job {
            job.kept.truncate(job.mark.0);
            job.bytes = job.mark.1;
        }
        for index in self.all.values_mut() {
            if index.live.as_ref().is_some_and(|live| live.dirty) {
                tracing::warn!(index = %index.entry.definition.name, "the stream broke inside a large transaction: the index is copied again");
                index.distrust();
            }
        }
    }

    /// Whether more is kept for the copy than may be: the stream must wait.
    pub(crate) fn is_full(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.bytes > KEPT_BYTES)
    }

    /// A new slot was created: nothing that is there follows from it, and copies may begin.
    pub(crate) fn begin_stream(&mut self) {
        self.following = true;
        self.halted = None;
        self.job = None;
        for index in self.all.values_mut() {
            index.distrust();
        }
        self.generation.0 += 1;
    }

    /// The slot was given up: what is there is not followed any more, and nothing can be copied until a new one begins.
    pub(crate) fn end_stream(&mut self, reason: String) {
        self.following = false;
        self.halted = Some(reason);
        self.job = None;
        for index in self.all.values_mut() {
            index.distrust();
        }
        self.generation.0 += 1;
    }

    /// What was stored is taken over, and the stream continues from there. The rest is copied.
    pub(crate) fn restore(&mut self, restored: Vec<RestoredIndex>) {
        self.following = true;
        self.job = None;
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
            let mut live = Live::new(
                index.entry.clone(),
                made.former,
                made.writer,
                made.point,
                self.serials,
            );
            live.stored = Some(made.chunks);
            index.live = Some(live);
            index.want = Want::Nothing;
        }
        self.generation.0 += 1;
    }

    /// Every complete index as of its last publication, when everything before `position` was applied. `None` while
    /// something is applied that is not published. What changed is told once.
    pub(crate) fn kept(&mut self, position: Lsn) -> Option<Vec<KeptIndex>> {
        let lives = || self.all.values().filter_map(|index| index.live.as_ref());
        if lives().any(|live| live.dirty || live.snapshot.is_none()) {
            return None;
        }
        let lives = self
            .all
            .values_mut()
            .filter_map(|index| index.live.as_mut());
        lives
            .map(|live| {
                Some(KeptIndex {
                    entry: live.entry.clone(),
                    snapshot: live.snapshot.clone()?,
                    left_out: live.writer.left_out(),
                    lsn: position.max(live.point),
                    serial: live.serial,
                    changed: live.writer.take_changed(),
                    stored: live.stored.take(),
                })
            })
            .collect()
    }

    /// Time has passed: failed copies are tried again.
    pub(crate) fn retry(&mut self, now: Instant) {
        for index in self.all.values_mut() {
            if let Want::Mending {
                retry: Some(at), ..
            } = &index.want
                && *at <= now
            {
                index.want = Want::Copy;
            }
        }
    }

    /// Makes everything applied visible, as of `position`. Only between transactions.
    pub(crate) fn publish(&mut self, position: Lsn) {
        for index in self.all.values_mut() {
            if let Some(live) = &mut index.live
                && live.dirty
            {
                live.snapshot = Some(live.writer.publish(position.max(live.point)));
                live.dirty = false;
            }
        }
    }

    /// Whether an index is on its way to serving, so that its progress changes without a change.
    pub(crate) fn is_building(&self) -> bool {
        let building = |index: &Index| index.live.as_ref().is_some_and(|live| !live.linked);
        self.all.values().any(building)
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

/// About how much memory a kept change takes.
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
