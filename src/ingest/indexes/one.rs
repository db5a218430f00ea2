//! One index: what the catalogue wants it to be, what follows the stream, and what it still needs → its published state.
//! Never serves what it has reason to doubt.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::catalog::{IncludeColumn, IndexDefinition, KeyColumn, VectorColumn};
use crate::index::view::{IndexState, Phase};
use crate::index::{
    IndexError, IndexSpec, Outcome, READY_UNLINKED, RowChange, Snapshot, ValueKind, Writer,
};
use crate::ingest::lag::Commits;
use crate::ingest::projection::{Projection, ProjectionError};
use crate::lsn::Lsn;
use crate::store::Chunks;
use crate::upstream::catalogue::{IndexEntry, Partition, Shape};
use crate::wal::pgoutput::Relation;
use crate::wal::transaction::{Change, Event};

/// Pause before an index that failed is copied again; doubled with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Most doublings: 320 seconds.
const RETRY_DOUBLINGS: u32 = 6;
/// Most states of a table's column names that are remembered: each lasts from one reading of the catalogue to the next.
const SHAPES: usize = 8;

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
    /// How the table's columns were called at positions that the stream may still tell of, newest last.
    shapes: Vec<Shape>,
    /// Something was applied since the last publication.
    pub(super) dirty: bool,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Enough rows were linked once; the head stays small from then on.
    pub(super) linked: bool,
    /// Tells it from what had its definition before.
    pub(super) serial: u64,
    /// The files that it came from, until they are asked for.
    pub(super) stored: Option<Chunks>,
}

/// Why an index stopped following its table.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(transparent)]
    Engine(#[from] IndexError),
    #[error("a change leaves a value as it was, of a row that the index does not have")]
    UnknownRow,
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
        || (old.written != new.written && old.file != new.file)
        || a.relation != b.relation
        || !same_columns(a, b)
        || partitions_moved(&old.partitions, &new.partitions)
    {
        Difference::Doubtful
    } else if (a.dim, a.metric, a.options, old.reindexed)
        != (b.dim, b.metric, b.options, new.reindexed)
        || !same_include(a, b)
    {
        Difference::Rebuild
    } else {
        Difference::Renamed
    }
}

/// Whether key and vector are the same columns, whatever they are called.
fn same_columns(a: &IndexDefinition, b: &IndexDefinition) -> bool {
    let key = |column: &KeyColumn| (column.number, column.kind);
    let vector = |column: &VectorColumn| (column.number, column.kind, column.type_id);
    a.key.iter().map(key).eq(b.key.iter().map(key)) && vector(&a.column) == vector(&b.column)
}

fn same_include(a: &IndexDefinition, b: &IndexDefinition) -> bool {
    let include = |column: &IncludeColumn| (column.number, column.type_id, column.deterministic);
    a.include
        .iter()
        .map(include)
        .eq(b.include.iter().map(include))
}

/// Whether partitions have brought or taken rows: one is gone, has another file, or was attached.
fn partitions_moved(old: &[Partition], new: &[Partition]) -> bool {
    old.iter().any(|partition| !new.contains(partition))
        || new
            .iter()
            .any(|partition| partition.attached.is_some() && !old.contains(partition))
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

/// Which INCLUDE columns searches can be filtered on, and how.
pub(crate) fn kinds(definition: &IndexDefinition) -> impl Iterator<Item = Option<ValueKind>> {
    definition.include.iter().map(ValueKind::of)
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
                    live.rename(&self.entry);
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
                    Trouble::UnknownRow => {}
                }
            }
        }
        true
    }

    /// `halted` is why nothing at all is followed.
    pub(super) fn state(
        &mut self,
        position: Lsn,
        commits: &Commits,
        halted: Option<&str>,
    ) -> IndexState {
        let live = self.live.as_mut().filter(|live| live.snapshot.is_some());
        let Some(live) = live else {
            let phase = match (&self.want, halted) {
                (Want::Mending { error, .. }, _) => Phase::Failed {
                    error: error.clone(),
                },
                (Want::Nothing | Want::Copy | Want::Catalogue, Some(error)) => Phase::Failed {
                    error: error.to_owned(),
                },
                (Want::Nothing | Want::Copy | Want::Catalogue, None) => Phase::Copying {
                    percent: self.percent,
                },
            };
            return IndexState {
                definition: Arc::clone(&self.entry.definition),
                phase,
                snapshot: None,
                applied: Lsn::ZERO,
                left_out_changes: self.left_out,
                behind_since: None,
            };
        };
        let applied = position.max(live.point);
        IndexState {
            definition: Arc::clone(&live.entry.definition),
            phase: live.phase(),
            snapshot: live.snapshot.clone(),
            applied,
            left_out_changes: self.left_out,
            behind_since: commits.oldest_after(applied),
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
    /// `former` is what the table's columns were called when the rows were read.
    pub(super) fn new(
        entry: IndexEntry,
        former: Shape,
        writer: Writer,
        point: Lsn,
        serial: u64,
    ) -> Self {
        let mut shapes = vec![former];
        if !shapes.contains(&entry.shape) {
            shapes.push(entry.shape.clone());
        }
        Self {
            entry,
            writer,
            point,
            projection: None,
            shapes,
            dirty: true,
            snapshot: None,
            linked: false,
            serial,
            stored: None,
        }
    }

    /// Takes over the names of a newer reading of the catalogue.
    fn rename(&mut self, entry: &IndexEntry) {
        let names = &entry.definition;
        // An index that waits to be made anew has other INCLUDE columns: its own names stay until then.
        let of_columns = self.entry.definition.renamed(|n| entry.shape.name(n));
        let mut definition = of_columns.unwrap_or_else(|| (*self.entry.definition).clone());
        definition.name = names.name.clone();
        definition.table = names.table.clone();
        self.entry.definition = Arc::new(definition);
        self.entry.written.clone_from(&entry.written);
        self.entry.file = entry.file;
        self.entry.shape = entry.shape.clone();
        self.projection = None;
        self.shapes.retain(|shape| *shape != entry.shape);
        if self.shapes.len() == SHAPES {
            self.shapes.remove(0);
        }
        self.shapes.push(entry.shape.clone());
    }

    /// The definition with the names that the columns had when the stream described the table like this.
    fn definition_for(
        &self,
        relation: &Relation,
    ) -> Result<Cow<'_, IndexDefinition>, ProjectionError> {
        let definition = &*self.entry.definition;
        let known = self.shapes.iter().rev();
        let mut renamed = known
            .filter(|shape| shape.is_of(relation))
            .map(|shape| definition.renamed(|n| shape.name(n)));
        if let Some(Some(renamed)) = renamed.next() {
            return Ok(Cow::Owned(renamed));
        }
        // Columns of others may have come or gone. Names decide, unless one has meant another column lately.
        let unchanged = |shape: &Shape| {
            let mut columns = definition.columns();
            columns.all(|n| shape.name(n) == self.entry.shape.name(n))
        };
        if self.shapes.iter().all(unchanged) {
            return Ok(Cow::Borrowed(definition));
        }
        Err(ProjectionError::Renamed(definition.table.to_string()))
    }

    /// Whether changes of a table that is described like this can be applied.
    pub(super) fn understands(&self, relation: &Arc<Relation>) -> bool {
        let definition = self.definition_for(relation);
        definition.is_ok_and(|definition| Projection::new(&definition, relation).is_ok())
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
        match self.writer.apply(change)? {
            Outcome::Indexed | Outcome::Removed => Ok(false),
            Outcome::LeftOut(_) => Ok(true),
            Outcome::Unknown => Err(Trouble::UnknownRow),
        }
    }

    fn project(&mut self, change: &Change) -> Result<RowChange, ProjectionError> {
        let known = self.projection.take();
        let projection = match known.filter(|known| known.is_for(&change.relation)) {
            Some(projection) => projection,
            None => Projection::new(&*self.definition_for(&change.relation)?, &change.relation)?,
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
