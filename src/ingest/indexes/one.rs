//! One index: what the catalogue wants it to be, what follows the stream, and what it still needs → its published state.
//! Never serves what it has reason to doubt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::replica::{Replica, Trouble, commit_of};
use super::{CaughtUp, KeptIndex};
use crate::catalog::IndexDefinition;
use crate::index::view::{IndexState, Phase};
use crate::index::{IndexSpec, LeftOutView, READY_UNLINKED, Snapshot};
use crate::lsn::Lsn;
use crate::upstream::catalogue::{IndexEntry, Partition};
use crate::wal::transaction::Event;

/// Pause before an index that failed is copied again; doubled with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Most doublings: 320 seconds.
const RETRY_DOUBLINGS: u32 = 6;

#[derive(Debug)]
pub(super) struct Index {
    /// As the catalogue has it.
    pub(super) entry: IndexEntry,
    /// What serves, or will from the next publication on.
    pub(super) live: Option<Live>,
    /// The job that makes what comes in its place.
    pub(super) filling: Option<u64>,
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

/// A complete index.
#[derive(Debug)]
pub(super) struct Live {
    /// As it was copied; names as of now.
    pub(super) entry: IndexEntry,
    pub(super) place: Place,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Enough rows were linked once; the head stays small from then on.
    linked: bool,
    /// Tells it from what had its definition before.
    pub(super) serial: u64,
    /// It came from what is stored.
    pub(super) stored: bool,
}

/// Where the writer of an index is.
#[derive(Debug)]
pub(super) enum Place {
    /// It follows the stream.
    Here(Replica),
    /// It catches up from the journal; the snapshot is what it has told of last.
    Away {
        job: u64,
        applied: Lsn,
        left_out: LeftOutView,
    },
    /// It is being moved.
    Nowhere,
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
            filling: None,
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
                    let names = &self.entry.definition;
                    let mut definition = (*live.entry.definition).clone();
                    definition.name = names.name.clone();
                    definition.table = names.table.clone();
                    live.entry.definition = Arc::new(definition);
                    if let Place::Here(replica) = &mut live.place {
                        replica.rename(&live.entry.definition);
                    }
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
        self.filling = None;
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
        self.filling = None;
        self.want = Want::Mending {
            error,
            retry: Some(now + pause),
        };
    }

    /// Whether it waits for what that job makes.
    pub(super) fn waits_for(&self, number: u64) -> bool {
        self.filling == Some(number) || self.is_away(number)
    }

    /// Whether its writer is with that job.
    pub(super) fn is_away(&self, number: u64) -> bool {
        let place = self.live.as_ref().map(|live| &live.place);
        matches!(place, Some(Place::Away { job, .. }) if *job == number)
    }

    /// Whether the event changes rows of its table.
    pub(super) fn is_concerned_by(&self, event: &Event) -> bool {
        commit_of(&self.entry.definition, event).is_some()
    }

    /// Applies a change, if it concerns this index; whether the catalogue should be read.
    pub(super) fn apply(&mut self, event: &Event, now: Instant) -> bool {
        let Some(Live {
            place: Place::Here(replica),
            ..
        }) = &mut self.live
        else {
            return false;
        };
        match replica.apply(event) {
            Ok(left_out) => {
                self.left_out += u64::from(left_out);
                false
            }
            Err(trouble) => {
                self.trouble(trouble, now);
                true
            }
        }
    }

    /// The index cannot follow its table.
    pub(super) fn trouble(&mut self, trouble: Trouble, now: Instant) {
        tracing::warn!(index = %self.entry.definition.name, %trouble, "the index cannot follow its table and is copied again");
        self.distrust();
        match trouble {
            Trouble::Projection(_) => self.want = Want::Catalogue,
            Trouble::Engine(error) => self.fail(error.to_string(), now),
            Trouble::UnknownRow => {}
        }
    }

    /// Gives its writer to a job that catches up from the journal, with all that was applied before `position`.
    pub(super) fn send_away(&mut self, job: u64, position: Lsn) -> Option<Replica> {
        let live = self.live.as_mut()?;
        match std::mem::replace(&mut live.place, Place::Nowhere) {
            Place::Here(mut replica) => {
                replica.point = replica.point.max(position);
                live.place = Place::Away {
                    job,
                    applied: replica.point,
                    left_out: replica.writer.left_out(),
                };
                Some(replica)
            }
            elsewhere => {
                live.place = elsewhere;
                None
            }
        }
    }

    /// Takes over how far its writer has come with a job.
    pub(super) fn caught_up(&mut self, number: u64, state: CaughtUp) {
        self.left_out += state.left_out;
        if let Some(live) = &mut self.live
            && let Place::Away {
                job,
                applied,
                left_out,
            } = &mut live.place
            && *job == number
        {
            *applied = state.applied;
            if let Some((snapshot, view)) = state.published {
                live.snapshot = Some(snapshot);
                *left_out = view;
            }
        }
    }

    /// Makes what was applied visible.
    pub(super) fn publish(&mut self, position: Lsn) {
        if let Some(live) = &mut self.live
            && let Place::Here(replica) = &mut live.place
            && replica.dirty
        {
            live.snapshot = Some(replica.writer.publish(position.max(replica.point)));
            replica.dirty = false;
        }
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
            };
        };
        IndexState {
            definition: Arc::clone(&live.entry.definition),
            phase: live.phase(),
            snapshot: live.snapshot.clone(),
            applied: live.applied(position),
            left_out_changes: self.left_out,
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
    pub(super) fn new(entry: IndexEntry, place: Place, serial: u64) -> Self {
        Self {
            entry,
            place,
            snapshot: None,
            linked: false,
            serial,
            stored: false,
        }
    }

    /// Everything before this is in the snapshot, when everything before `position` was applied.
    pub(super) fn applied(&self, position: Lsn) -> Lsn {
        match &self.place {
            Place::Here(replica) => position.max(replica.point),
            Place::Away { applied, .. } => *applied,
            Place::Nowhere => Lsn::ZERO,
        }
    }

    /// What there is to store of it; `None` while something is applied that is not published.
    pub(super) fn kept(&self, position: Lsn) -> Option<KeptIndex> {
        let left_out = match &self.place {
            Place::Here(replica) if !replica.dirty => replica.writer.left_out(),
            Place::Away { left_out, .. } => left_out.clone(),
            Place::Here(_) | Place::Nowhere => return None,
        };
        Some(KeptIndex {
            entry: self.entry.clone(),
            snapshot: self.snapshot.clone()?,
            left_out,
            lsn: self.applied(position),
            serial: self.serial,
            stored: self.stored,
        })
    }

    pub(super) fn is_linked(&self) -> bool {
        self.linked
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
