//! One index: what the catalogue wants it to be, what follows the stream, and what it still needs → its published state.
//! Never serves what it has reason to doubt.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::catalog::{IndexDefinition, RowKey};
use crate::index::view::{Audit, IndexState, Phase};
use crate::index::{IndexError, IndexSpec, Outcome, READY_UNLINKED, RowChange, Snapshot, Writer};
use crate::ingest::mending::{MAX_LACKING, Watch};
use crate::ingest::projection::{Projection, ProjectionError};
use crate::lsn::Lsn;
use crate::upstream::catalogue::{IndexEntry, Partition};
use crate::wal::transaction::{Change, Event};

/// Pause before an index that failed is copied again; doubled with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Most doublings: 320 seconds.
const RETRY_DOUBLINGS: u32 = 6;

#[derive(Debug)]
pub(super) struct Index {
    /// As the catalogue has it.
    pub(super) entry: IndexEntry,
    /// What follows the stream.
    pub(super) live: Option<Live>,
    pub(super) want: Want,
    /// Percent of the copy under way.
    pub(super) percent: f32,
    pub(super) left_out: u64,
    pub(super) failures: u32,
    pub(super) audit: Audit,
}

/// What has to happen to an index before it is as its definition says. It may serve meanwhile, if it is live.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Want {
    /// Nothing, or the copy under way.
    Nothing,
    /// A copy.
    Copy,
    /// The catalogue must be read again, then a copy.
    Catalogue,
    /// Someone must act, or time must pass.
    Mending {
        error: String,
        retry: Option<Instant>,
    },
}

/// A complete index that follows the stream.
#[derive(Debug)]
pub(super) struct Live {
    /// As it was copied; names as of now.
    pub(super) entry: IndexEntry,
    pub(super) writer: Writer,
    /// Commits whose record is before this were in the copy.
    pub(super) point: Lsn,
    pub(super) projection: Option<Projection>,
    /// Something was applied since the last publication.
    pub(super) dirty: bool,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Enough rows were linked once; the head stays small from then on.
    pub(super) linked: bool,
    /// Tells it from what had its definition before.
    pub(super) serial: u64,
    /// It came from what is stored.
    pub(super) stored: bool,
    /// Keys whose rows are being compared with the table.
    pub(super) watch: Option<Watch>,
    /// Keys of rows that the stream told of only in part. Until they are fetched nothing new is published.
    pub(super) lacking: BTreeSet<RowKey>,
    /// Everything before this position is in the snapshot.
    pub(super) complete: Lsn,
}

/// Why an index stopped following its table.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(transparent)]
    Engine(#[from] IndexError),
    #[error("the stream tells of too many rows only in part")]
    TooManyLacking,
}

/// What a new reading of the catalogue means for an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    Same,
    /// Only names.
    Renamed,
    /// Another index is wanted; the old one is still right.
    Rebuild,
    /// Rows may have changed in a way that the stream does not tell.
    Doubtful,
}

/// How two readings of the catalogue differ.
pub(crate) fn difference(old: &IndexEntry, new: &IndexEntry) -> Difference {
    let (a, b) = (&old.definition, &new.definition);
    if old == new {
        Difference::Same
    } else if (&old.stamp, &old.unusable, &old.row_filter)
        != (&new.stamp, &new.unusable, &new.row_filter)
        || (a.relation, &a.column, &a.key) != (b.relation, &b.column, &b.key)
        || partitions_moved(&old.partitions, &new.partitions)
    {
        Difference::Doubtful
    } else if (a.dim, a.metric, &a.include, a.options, old.reindexed)
        != (b.dim, b.metric, &b.include, b.options, new.reindexed)
    {
        Difference::Rebuild
    } else {
        Difference::Renamed
    }
}

/// Whether partitions have brought or taken rows: one is gone, has another file, or was attached.
fn partitions_moved(old: &[Partition], new: &[Partition]) -> bool {
    old.iter().any(|partition| !new.contains(partition))
        || new
            .iter()
            .any(|partition| partition.attached && !old.contains(partition))
}

/// What the engine needs of a definition.
pub(crate) fn spec(definition: &IndexDefinition) -> IndexSpec {
    IndexSpec {
        dim: definition.dim,
        metric: definition.metric,
        options: definition.options,
        include: definition.include.len(),
    }
}

impl Index {
    pub(super) fn new(entry: IndexEntry) -> Self {
        Self {
            want: wanted(&entry),
            entry,
            live: None,
            percent: 0.0,
            left_out: 0,
            failures: 0,
            audit: Audit::default(),
        }
    }

    /// Whether anything is different.
    pub(super) fn redefine(&mut self, entry: IndexEntry) -> bool {
        let difference = difference(&self.entry, &entry);
        let wait_is_over = self.want == Want::Catalogue;
        self.entry = entry;
        match difference {
            Difference::Same if !wait_is_over => return false,
            Difference::Same | Difference::Rebuild => self.demand_copy(),
            Difference::Renamed => {
                if let Some(live) = &mut self.live {
                    let names = &self.entry.definition;
                    let mut definition = (*live.entry.definition).clone();
                    definition.name = names.name.clone();
                    definition.table = names.table.clone();
                    live.entry.definition = Arc::new(definition);
                }
                if wait_is_over {
                    self.demand_copy();
                }
            }
            Difference::Doubtful => {
                tracing::info!(index = %self.entry.definition.name, "the table's definition changed");
                self.distrust();
            }
        }
        true
    }

    /// The index is made anew, while the old one serves.
    pub(super) fn demand_copy(&mut self) {
        self.want = wanted(&self.entry);
    }

    /// The index may be wrong: it stops serving and is made anew.
    pub(super) fn distrust(&mut self) {
        self.live = None;
        self.percent = 0.0;
        self.demand_copy();
    }

    pub(super) fn fail(&mut self, error: String, now: Instant) {
        let pause = RETRY_FIRST * 2_u32.pow(self.failures.min(RETRY_DOUBLINGS));
        self.failures = self.failures.saturating_add(1);
        self.want = Want::Mending {
            error,
            retry: Some(now + pause),
        };
    }

    /// The commit record of a change that concerns this index.
    pub(super) fn commit_of(&self, event: &Event) -> Option<Lsn> {
        let relation = self.entry.definition.relation;
        match event {
            Event::Change(change) => (change.relation.id == relation).then_some(change.commit_lsn),
            Event::Truncate {
                commit_lsn,
                relations,
            } => relations
                .iter()
                .any(|r| r.id == relation)
                .then_some(*commit_lsn),
            Event::Begin { .. }
            | Event::Relation(_)
            | Event::Message { .. }
            | Event::Commit { .. } => None,
        }
    }

    /// Applies a change, if it concerns this index; whether the catalogue should be read.
    pub(super) fn apply(&mut self, event: &Event, now: Instant) -> bool {
        let (Some(commit), Some(live)) = (self.commit_of(event), &mut self.live) else {
            return false;
        };
        if commit < live.point {
            return false; // the copy had it
        }
        match live.apply(event) {
            Ok(left_out) => {
                self.left_out += u64::from(left_out);
                return false;
            }
            Err(trouble) => {
                tracing::warn!(index = %self.entry.definition.name, %trouble, "the index cannot follow its table and is copied again");
                self.distrust();
                match trouble {
                    Trouble::Projection(_) => self.want = Want::Catalogue,
                    Trouble::Engine(error) => self.fail(error.to_string(), now),
                    Trouble::TooManyLacking => {}
                }
            }
        }
        true
    }

    pub(super) fn state(&mut self, position: Lsn) -> IndexState {
        let live = self.live.as_mut().filter(|live| live.snapshot.is_some());
        let Some(live) = live else {
            let phase = match &self.want {
                Want::Nothing | Want::Copy | Want::Catalogue => Phase::Copying {
                    percent: self.percent,
                },
                Want::Mending { error, .. } => Phase::Failed {
                    error: error.clone(),
                },
            };
            return IndexState {
                definition: Arc::clone(&self.entry.definition),
                phase,
                snapshot: None,
                applied: Lsn::ZERO,
                left_out_changes: self.left_out,
                audit: self.audit,
            };
        };
        IndexState {
            definition: Arc::clone(&live.entry.definition),
            phase: live.phase(),
            snapshot: live.snapshot.clone(),
            applied: live.shown(position),
            left_out_changes: self.left_out,
            audit: self.audit,
        }
    }
}

fn wanted(entry: &IndexEntry) -> Want {
    match &entry.unusable {
        None => Want::Copy,
        Some(reason) => Want::Mending {
            error: reason.clone(),
            retry: None, // the catalogue is read again in any case
        },
    }
}

impl Live {
    pub(super) fn new(entry: IndexEntry, writer: Writer, point: Lsn, serial: u64) -> Self {
        Self {
            entry,
            writer,
            point,
            projection: None,
            dirty: true,
            snapshot: None,
            linked: false,
            serial,
            stored: false,
            watch: None,
            lacking: BTreeSet::new(),
            complete: Lsn::ZERO,
        }
    }

    /// Everything before this position is in the snapshot, when everything before `position` is applied.
    pub(super) fn shown(&self, position: Lsn) -> Lsn {
        if self.lacking.is_empty() {
            position.max(self.point)
        } else {
            self.complete
        }
    }

    /// Whether the row cannot be found.
    fn apply(&mut self, event: &Event) -> Result<bool, Trouble> {
        let change = match event {
            Event::Change(change) => self.project(change)?,
            Event::Truncate { .. } => RowChange::Truncate,
            Event::Begin { .. }
            | Event::Relation(_)
            | Event::Message { .. }
            | Event::Commit { .. } => {
                return Ok(false);
            }
        };
        self.dirty = true;
        if let Some(watch) = &mut self.watch {
            watch.touch(&change);
        }
        match self.writer.apply(change)? {
            Outcome::Unknown => {
                self.note_lacking(event, true)?;
                Ok(false)
            }
            outcome @ (Outcome::Indexed | Outcome::Removed | Outcome::LeftOut(_)) => {
                if !self.lacking.is_empty() {
                    self.note_lacking(event, false)?;
                }
                Ok(matches!(outcome, Outcome::LeftOut(_)))
            }
        }
    }

    /// Takes note of what a change means for the rows that are lacking.
    fn note_lacking(&mut self, event: &Event, lacks: bool) -> Result<(), Trouble> {
        let Event::Change(change) = event else {
            self.lacking.clear();
            return Ok(());
        };
        match self.project(change)? {
            RowChange::Upsert { old_key, key, .. } => {
                if let Some(old) = old_key {
                    self.lacking.remove(&old);
                }
                if lacks {
                    self.lacking.insert(key);
                } else {
                    self.lacking.remove(&key);
                }
            }
            RowChange::Delete { key } => {
                self.lacking.remove(&key);
            }
            RowChange::Truncate => self.lacking.clear(),
        }
        if self.lacking.len() > MAX_LACKING {
            return Err(Trouble::TooManyLacking);
        }
        Ok(())
    }

    fn project(&mut self, change: &Change) -> Result<RowChange, ProjectionError> {
        let known = self.projection.take();
        let projection = match known.filter(|known| known.is_for(&change.relation)) {
            Some(projection) => projection,
            None => Projection::new(&self.entry.definition, &change.relation)?,
        };
        self.projection.insert(projection).change(change)
    }

    fn phase(&mut self) -> Phase {
        if self.linked {
            return Phase::Ready;
        }
        let stats = self
            .snapshot
            .as_ref()
            .map(|snapshot| snapshot.stats())
            .unwrap_or_default();
        self.linked |= stats.unlinked <= READY_UNLINKED;
        if self.linked {
            return Phase::Ready;
        }
        // A percentage: counts beyond a float's precision do not matter.
        #[allow(clippy::cast_precision_loss)]
        let percent =
            100.0 * stats.live.saturating_sub(stats.unlinked) as f32 / stats.live.max(1) as f32;
        Phase::Building { percent }
    }
}
