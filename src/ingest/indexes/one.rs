//! One index: what the catalogue wants it to be, what follows the stream, and what it still needs → its published state.
//! Never serves what it has reason to doubt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::definition::{Difference, difference, rename};
use super::replica::{Replica, Trouble, commit_of};
use super::{CaughtUp, KeptIndex};
use crate::index::view::{Audit, IndexState, Phase};
use crate::index::{Changed, LeftOutView, READY_UNLINKED, Snapshot};
use crate::ingest::indexes::Files;
use crate::ingest::lag::Commits;
use crate::lsn::Lsn;
use crate::upstream::catalogue::IndexEntry;
use crate::wal::pgoutput::Relation;
use crate::wal::transaction::Event;

/// Pause before an index that failed is copied again; doubled with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// What has no room is tried again after this time even if there is no more: the table may have become smaller.
const FULL_RETRY: Duration = Duration::from_secs(600);
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
        /// Bytes of memory for which there must be room first; 0 if that was not the reason.
        needs: u64,
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
    /// Everything before this position is in the snapshot, while rows are lacking.
    complete: Lsn,
    /// The files that it came from, until they are asked for.
    pub(super) stored: Option<Files>,
}

/// Where the writer of an index is.
#[derive(Debug)]
pub(super) enum Place {
    /// It follows the stream.
    Here(Box<Replica>),
    /// It catches up from the journal; the snapshot is what it has told of last.
    Away {
        job: u64,
        applied: Lsn,
        /// What the snapshot does not show and a restart needs; `None` until what is served is all of it.
        beside: Option<Beside>,
    },
    /// It is being moved.
    Nowhere,
}

/// What belongs to a snapshot when it is stored.
#[derive(Debug)]
pub(crate) struct Beside {
    pub(crate) left_out: LeftOutView,
    /// Places that were written since it was told last.
    pub(crate) changed: Changed,
}

impl Beside {
    /// Of what was published a moment ago.
    pub(crate) fn of(replica: &mut Replica) -> Self {
        Self {
            left_out: replica.writer.left_out(),
            changed: replica.writer.take_changed(),
        }
    }
}

/// What an index needs that met the bound when it held so many bytes: at least a little more.
pub(crate) fn needs(held: u64) -> u64 {
    held + held / 8 + 1
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
        self.filling = None;
        self.want = wanted(&self.entry);
    }

    /// The index may be wrong: it stops serving and is made anew.
    pub(super) fn distrust(&mut self) {
        self.live = None;
        self.percent = 0.0;
        self.demand_copy();
    }

    /// It is tried again after a while, and when there is room for `needs` bytes.
    pub(super) fn fail(&mut self, error: String, needs: u64, now: Instant) {
        let pause = RETRY_FIRST * 2_u32.pow(self.failures.min(RETRY_DOUBLINGS));
        self.failures = self.failures.saturating_add(1);
        self.filling = None;
        self.want = Want::Mending {
            error,
            retry: Some(now + pause),
            needs,
        };
    }

    /// Fails by what a writer met.
    pub(super) fn fail_by(&mut self, trouble: &Trouble, now: Instant) {
        let held = self.live.as_ref().map_or(0, Live::held);
        self.fail(trouble.to_string(), trouble.needs(held), now);
    }

    /// Time has passed: what failed is copied again, if there is room for it.
    pub(super) fn retry(&mut self, room: u64, now: Instant) {
        if let Want::Mending {
            retry: Some(at),
            needs,
            ..
        } = self.want
            && at <= now
            && (needs <= room || at + FULL_RETRY <= now)
        {
            self.want = Want::Copy;
        }
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
        let held = self.live.as_ref().map_or(0, Live::held);
        self.distrust();
        match trouble {
            Trouble::Projection(_) => self.want = Want::Catalogue,
            Trouble::Engine(_) => self.fail(trouble.to_string(), trouble.needs(held), now),
            Trouble::TooManyLacking => {}
        }
    }

    /// Gives its writer to a job that catches up from the journal, with all that was applied before `position`.
    pub(super) fn send_away(&mut self, job: u64, position: Lsn) -> Option<Replica> {
        // What was applied with the same batch may not be shown yet, and could not be before it has caught up.
        self.publish(position);
        let live = self.live.as_mut()?;
        let applied = live.shown(position);
        match std::mem::replace(&mut live.place, Place::Nowhere) {
            Place::Here(mut replica) => {
                replica.point = replica.point.max(position);
                replica.watch = None; // it would not see the changes
                live.place = Place::Away {
                    job,
                    applied,
                    beside: (!replica.dirty).then(|| Beside::of(&mut replica)),
                };
                Some(*replica)
            }
            elsewhere @ (Place::Away { .. } | Place::Nowhere) => {
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
                beside,
            } = &mut live.place
            && *job == number
        {
            *applied = state.applied;
            if let Some((snapshot, mut now)) = state.published {
                live.snapshot = Some(snapshot);
                if let Some(before) = beside {
                    now.changed.merge(&before.changed);
                }
                *beside = Some(now);
            }
        }
    }

    /// Makes what was applied visible.
    pub(super) fn publish(&mut self, position: Lsn) {
        if let Some(live) = &mut self.live
            && let Place::Here(replica) = &mut live.place
            && replica.lacking.is_empty()
        {
            live.complete = position.max(replica.point);
            if replica.dirty || replica.writer.is_rebuilt() {
                live.snapshot = Some(replica.writer.publish(live.complete));
                replica.dirty = false;
            }
        }
    }

    /// Whether there is something to publish that no change has brought.
    pub(super) fn is_rebuilt(&self) -> bool {
        self.live.as_ref().is_some_and(|live| match &live.place {
            Place::Here(replica) => replica.writer.is_rebuilt(),
            Place::Away { .. } | Place::Nowhere => false,
        })
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
                audit: self.audit,
                behind_since: None,
            };
        };
        let applied = live.shown(position);
        IndexState {
            definition: Arc::clone(&live.entry.definition),
            phase: live.phase(),
            snapshot: live.snapshot.clone(),
            applied,
            left_out_changes: self.left_out,
            audit: self.audit,
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
            needs: 0,
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
            stored: None,
            complete: Lsn::ZERO,
        }
    }

    /// Everything before this position is in the snapshot, when everything before `position` is applied.
    pub(super) fn shown(&self, position: Lsn) -> Lsn {
        match &self.place {
            Place::Here(replica) if replica.lacking.is_empty() => position.max(replica.point),
            Place::Here(_) => self.complete,
            Place::Away { applied, .. } => *applied,
            Place::Nowhere => Lsn::ZERO,
        }
    }

    /// Takes over the names of a newer reading of the catalogue.
    fn rename(&mut self, entry: &IndexEntry) {
        if let Place::Here(replica) = &mut self.place {
            replica.rename(entry);
        }
        rename(&mut self.entry, entry);
    }

    /// Whether it follows the stream and cannot apply changes of a table that is described like this. One that catches up
    /// finds out by itself.
    pub(super) fn is_puzzled_by(&self, relation: &Arc<Relation>) -> bool {
        matches!(&self.place, Place::Here(replica) if !replica.understands(relation))
    }

    /// Whether what is served can be stored.
    pub(super) fn is_whole(&self) -> bool {
        self.snapshot.is_some()
            && match &self.place {
                Place::Here(replica) => !replica.dirty,
                Place::Away { beside, .. } => beside.is_some(),
                Place::Nowhere => false,
            }
    }

    /// What there is to store of it, if it is whole. What changed is told once.
    pub(super) fn kept(&mut self, position: Lsn) -> Option<KeptIndex> {
        let lsn = self.shown(position);
        let Beside { left_out, changed } = match &mut self.place {
            Place::Here(replica) => Beside::of(replica),
            Place::Away { beside, .. } => {
                let beside = beside.as_mut()?;
                Beside {
                    left_out: beside.left_out.clone(),
                    changed: std::mem::take(&mut beside.changed),
                }
            }
            Place::Nowhere => return None,
        };
        Some(KeptIndex {
            entry: self.entry.clone(),
            snapshot: self.snapshot.clone()?,
            left_out,
            lsn,
            serial: self.serial,
            changed,
            stored: self.stored.take(),
        })
    }

    /// Takes its writer back.
    pub(super) fn take_back(&mut self, mut replica: Replica) {
        if let Place::Away { applied, .. } = &self.place {
            self.complete = *applied; // until all that it lacks is there
        }
        if let Place::Away {
            beside: Some(beside),
            ..
        } = &self.place
        {
            replica.writer.mark_changed(&beside.changed);
        }
        replica.rename(&self.entry);
        self.place = Place::Here(Box::new(replica));
    }

    /// Bytes of memory that it holds.
    fn held(&self) -> u64 {
        let stats = self.snapshot.as_ref().map(|snapshot| snapshot.stats());
        stats.map_or(0, |stats| stats.memory.total())
    }

    /// Why it cannot serve any longer, if so, and the memory that it needs before it is tried again.
    pub(super) fn failure(&self) -> Option<(String, u64)> {
        let snapshot = self.snapshot.as_ref()?;
        if let Some(error) = snapshot.failure() {
            return Some((format!("index engine: {error}"), 0));
        }
        // A few rows may wait to be linked; many would make every search slow.
        let error = snapshot.starved()?;
        let waits = snapshot.stats().unlinked > READY_UNLINKED;
        waits.then(|| (error, needs(self.held())))
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
