//! What is made beside the stream: copies, and writers that catch up from the journal until they can follow the stream.
//! Never takes over a writer that lacks a change, and never keeps more than a bounded number of changes for one.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::{
    Beside, Difference, Event, IndexEntry, IndexId, Indexes, Live, Memory, Place, RelationId,
    Replica, Snapshot, Trouble, Want, Writer, difference, event_bytes,
};
use crate::lsn::Lsn;
use crate::store::Hold;

/// Most bytes of changes kept for a writer that is about to follow the stream. If there are more, it reads on first.
const JOINING_BYTES: usize = if cfg!(test) { 1 << 10 } else { 16 << 20 };

/// Something that is made.
#[derive(Debug)]
pub(super) struct Job {
    number: u64,
    phase: Phase,
    /// Closed when nobody waits for the job any more.
    _wanted: watch::Sender<()>,
}

#[derive(Debug)]
enum Phase {
    /// Tables are read; from here on the journal has what changes in them.
    Copying(Hold),
    /// The journal is read.
    CatchingUp,
    /// The journal is read up to where this begins.
    Joining {
        kept: Vec<Event>,
        bytes: usize,
        /// Nothing is missing.
        complete: bool,
    },
}

/// What a copy is to make.
#[derive(Clone, Debug)]
pub(crate) struct CopyOrder {
    pub(crate) job: u64,
    pub(crate) entries: Vec<IndexEntry>,
    /// What all indexes share.
    pub(crate) memory: Arc<Memory>,
}

/// What a copy has made of one index.
#[derive(Debug)]
pub(crate) struct CopiedIndex {
    pub(crate) entry: IndexEntry,
    pub(crate) writer: Writer,
    pub(crate) left_out: u64,
}

/// Writers that are to work through the journal until they are where the stream is.
#[derive(Debug)]
pub(crate) struct CatchUpOrder {
    pub(crate) job: u64,
    /// Of the journal that has what they lack.
    pub(crate) epoch: u64,
    /// Everything before is in all of them.
    pub(crate) from: Lsn,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) hold: Hold,
    /// Its sender is gone when nobody waits for it any more.
    pub(crate) wanted: watch::Receiver<()>,
}

/// How far one index has come in catching up.
#[derive(Debug)]
pub(crate) struct CaughtUp {
    pub(crate) id: IndexId,
    /// Commits whose record is before this are in it.
    pub(crate) applied: Lsn,
    /// What there is to serve, if anything has changed.
    pub(crate) published: Option<(Arc<Snapshot>, Beside)>,
    /// Changes since it was told last whose value could not be indexed.
    pub(crate) left_out: u64,
}

impl Indexes {
    pub(super) fn next_job(&mut self) -> u64 {
        self.last_job += 1;
        self.last_job
    }

    fn job(&mut self, number: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.number == number)
    }

    fn take_job(&mut self, number: u64) -> Option<Job> {
        let at = self.jobs.iter().position(|job| job.number == number)?;
        Some(self.jobs.swap_remove(at))
    }

    /// Ends what nobody waits for. A copy ends by itself.
    pub(super) fn end_jobs(&mut self) {
        let all = &self.all;
        self.jobs.retain(|job| {
            matches!(job.phase, Phase::Copying(_))
                || all.values().any(|index| index.waits_for(job.number))
        });
        let jobs = &self.jobs;
        self.orders
            .retain(|order| jobs.iter().any(|job| job.number == order.job));
    }

    /// What is to catch up next.
    pub(crate) fn take_order(&mut self) -> Option<CatchUpOrder> {
        self.orders.pop()
    }

    /// Whether an index waits for a copy and none is under way.
    pub(crate) fn wants_copy(&self) -> bool {
        let copies = |job: &Job| matches!(job.phase, Phase::Copying(_));
        self.following
            && !self.jobs.iter().any(copies)
            && self.all.values().any(|index| index.want == Want::Copy)
    }

    /// Begins a copy of all indexes that wait for one. The journal keeps what comes after `position` for it.
    pub(crate) fn begin_copy(&mut self, position: Lsn) -> Option<CopyOrder> {
        if !self.wants_copy() {
            return None;
        }
        let number = self.next_job();
        let mut entries = Vec::new();
        for index in self.all.values_mut() {
            if index.want == Want::Copy {
                (index.want, index.filling) = (Want::Nothing, Some(number));
                index.percent = 0.0;
                entries.push(index.entry.clone());
            }
        }
        self.jobs.push(Job {
            number,
            phase: Phase::Copying(self.holds.hold(position)),
            _wanted: watch::Sender::new(()),
        });
        Some(CopyOrder {
            job: number,
            entries,
            memory: Arc::clone(&self.memory),
        })
    }

    /// How far the copy under way is.
    pub(crate) fn copy_progress(&mut self, job: u64, percents: &[(IndexId, f32)]) {
        for (id, percent) in percents {
            if let Some(index) = self.all.get_mut(id)
                && index.filling == Some(job)
            {
                index.percent = *percent;
            }
        }
    }

    /// The copy failed. `faulty` are the indexes whose fault it is; without any it is tried again at once.
    /// With `needs` they are tried again when there is room for so many bytes.
    pub(crate) fn copy_failed(
        &mut self,
        job: u64,
        faulty: &[IndexId],
        error: &str,
        needs: u64,
        now: Instant,
    ) {
        if self.take_job(job).is_none() {
            return;
        }
        for (id, index) in &mut self.all {
            if index.filling == Some(job) {
                if faulty.contains(id) {
                    index.fail(error.to_owned(), needs, now);
                } else {
                    index.demand_copy();
                }
            }
        }
    }

    /// The copy is complete, as of `point`: the writers catch up from there.
    pub(crate) fn copied(&mut self, job: u64, epoch: u64, point: Lsn, copied: Vec<CopiedIndex>) {
        let Some(Job {
            phase: Phase::Copying(hold),
            ..
        }) = self.take_job(job)
        else {
            return;
        };
        let number = self.next_job();
        let mut replicas = Vec::new();
        for made in copied {
            let Some(index) = self.all.get_mut(&made.entry.definition.id) else {
                continue;
            };
            let same = matches!(
                difference(&made.entry, &index.entry),
                Difference::Same | Difference::Renamed
            );
            if same && index.filling == Some(job) {
                index.filling = Some(number);
                index.left_out += made.left_out;
                let (entry, former) = (index.entry.clone(), made.entry.shape);
                replicas.push(Replica::new(entry, former, made.writer, point));
            }
        }
        self.copy_again(job);
        self.catch_up(number, epoch, replicas, hold);
    }

    /// What waits for the job in vain is copied again.
    fn copy_again(&mut self, job: u64) {
        for index in self.all.values_mut() {
            if index.filling == Some(job) {
                index.demand_copy();
            }
        }
    }

    /// Lets writers catch up, under the number of a job for which their indexes wait. The journal is held for them.
    pub(super) fn catch_up(&mut self, job: u64, epoch: u64, replicas: Vec<Replica>, hold: Hold) {
        let Some(from) = least_point(&replicas) else {
            return;
        };
        let (sender, wanted) = watch::channel(());
        self.jobs.push(Job {
            number: job,
            phase: Phase::CatchingUp,
            _wanted: sender,
        });
        self.orders.push(CatchUpOrder {
            job,
            epoch,
            from,
            replicas,
            hold,
            wanted,
        });
    }

    /// Transactions that changed these tables have passed by, from `position` on, and only the journal has them: the
    /// tables' indexes catch up with them while the others go on.
    pub(crate) fn passed_by(
        &mut self,
        changed: impl Fn(RelationId) -> bool,
        position: Lsn,
        epoch: u64,
    ) {
        // Their numbers are not known here.
        self.recent.continues();
        let number = self.next_job();
        let mut replicas = Vec::new();
        for index in self.all.values_mut() {
            if changed(index.entry.definition.relation) {
                replicas.extend(index.send_away(number, position));
            }
        }
        for job in &mut self.jobs {
            let mut indexes = self.all.values();
            if let Phase::Joining { kept, complete, .. } = &mut job.phase
                && indexes.any(|index| {
                    index.waits_for(job.number) && changed(index.entry.definition.relation)
                })
            {
                (*kept, *complete) = (Vec::new(), false);
            }
        }
        if let Some(from) = least_point(&replicas) {
            let hold = self.holds.hold(from);
            self.catch_up(number, epoch, replicas, hold);
        }
    }

    /// A job's writers are about where the stream is: what comes for them from here on is kept. `None` if nobody waits.
    pub(crate) fn begin_join(&mut self, job: u64) -> Option<()> {
        self.end_jobs();
        self.job(job)?.phase = Phase::Joining {
            kept: Vec::new(),
            bytes: 0,
            complete: true,
        };
        Some(())
    }

    /// Keeps a change for those that are about to follow the stream.
    pub(super) fn keep(&mut self, event: Event) {
        for job in &mut self.jobs {
            if let Phase::Joining {
                kept,
                bytes,
                complete,
            } = &mut job.phase
                && *complete
                && self
                    .all
                    .values()
                    .any(|index| index.waits_for(job.number) && index.is_concerned_by(&event))
            {
                *bytes += event_bytes(&event);
                kept.push(event.clone());
                if *bytes > JOINING_BYTES {
                    (*kept, *complete) = (Vec::new(), false);
                }
            }
        }
    }

    /// How far writers have come that catch up.
    pub(crate) fn caught_up(&mut self, job: u64, states: Vec<CaughtUp>) {
        for state in states {
            if let Some(index) = self.all.get_mut(&state.id)
                && index.waits_for(job)
            {
                index.caught_up(job, state);
            }
        }
    }

    /// A writer cannot follow its table.
    pub(crate) fn trouble(&mut self, job: u64, id: IndexId, trouble: Trouble, now: Instant) {
        if let Some(index) = self.all.get_mut(&id)
            && index.waits_for(job)
        {
            if index.filling == Some(job) && !index.is_away(job) && index.live.is_some() {
                // What serves is not concerned.
                index.fail_by(&trouble, now);
            } else {
                index.trouble(trouble, now);
            }
            self.suspicious = true;
        }
        self.end_jobs();
    }

    /// The journal cannot be read: what depends on it is copied again.
    pub(crate) fn catch_up_failed(&mut self, job: u64, error: &str, now: Instant) {
        if self.take_job(job).is_none() {
            return;
        }
        for index in self.all.values_mut() {
            if index.is_away(job) {
                index.distrust();
                index.fail(error.to_owned(), 0, now);
            } else if index.filling == Some(job) {
                index.fail(error.to_owned(), 0, now);
            }
        }
    }

    /// The writers have everything before `position`, which is where the join began or later: they follow the stream
    /// from here on, or read on if too much has come since.
    pub(crate) fn join(
        &mut self,
        number: u64,
        epoch: u64,
        (position, hold): (Lsn, Hold),
        replicas: Vec<Replica>,
        now: Instant,
    ) {
        let Some(job) = self.take_job(number) else {
            return;
        };
        let Phase::Joining {
            kept,
            complete: true,
            ..
        } = job.phase
        else {
            let mut replicas = replicas;
            for replica in &mut replicas {
                replica.point = replica.point.max(position);
            }
            self.catch_up(number, epoch, replicas, hold);
            return;
        };
        for mut replica in replicas {
            let Some(index) = self.all.get_mut(&replica.id()) else {
                continue;
            };
            replica.point = replica.point.max(position);
            if index.is_away(number) {
                if let Some(live) = &mut index.live {
                    live.take_back(replica);
                }
            } else if index.filling == Some(number) {
                self.serials += 1;
                replica.writer.serves();
                replica.rename(&index.entry);
                replica.dirty = true;
                let place = Place::Here(Box::new(replica));
                index.live = Some(Live::new(index.entry.clone(), place, self.serials));
                (index.want, index.filling) = (Want::Nothing, None);
                self.generation.0 += 1;
            } else {
                continue;
            }
            for event in &kept {
                self.suspicious |= index.apply(event, now);
            }
            if index.live.is_some() {
                index.failures = 0;
            }
        }
        // All have come, unless one was in trouble and nobody heard.
        self.copy_again(number);
    }
}

/// Everything before it is in all of them.
pub(super) fn least_point(replicas: &[Replica]) -> Option<Lsn> {
    replicas.iter().map(|replica| replica.point).min()
}
