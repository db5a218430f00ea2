//! The thread that links published rows into the graph while it is searched; the thread that rebuilds the graph when half
//! of it is dead; and the thread that checks live queries. One each per index, owned by its writer. They never hold up the
//! writer or a search: while few rows wait, and for a rebuild, only time that nobody else wants is taken.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::dial::Dial;
use super::faiss::{Rebuild, RowView, idle_priority};
use super::{IndexError, Snapshot};

/// Rows linked before the newest snapshot is looked at again: a fraction of a second.
const BATCH: u32 = 1_024;
/// With fewer rows waiting than this (a search scans them in some 20 µs), linking is quiet as well.
const CALM: u32 = 2_048;
/// Rows waiting from which a second thread is worth its core.
const BACKLOG: u32 = 4_096;
/// A graph is rebuilt when it has this many nodes and half of them are dead …
const REBUILD_FROM: u32 = 4_096;
/// … or a third, if recall has come to cost this many times the effort of the graph that was measured.
const COSTLY: f64 = 1.5;
/// A rebuild is quiet until live rows are no more than one in so many nodes: then it must come to its end.
const PRESSING: u64 = 4;
/// Quiet work takes only time that nobody else wants, a few rows at once: some milliseconds of work. …
const QUIET_BATCH: u32 = 32;
/// … Where nobody leaves it time, so that those few rows take this long, …
const PATIENCE: Duration = Duration::from_millis(250);
/// … it goes on as others do, for so many batches of so many rows, resting so many times as long as it works.
const CROWDED_BATCHES: u32 = 16;
const CROWDED_BATCH: u32 = 256;
const CROWDED_REST: u32 = 4;
/// After a failure for want of memory.
const RETRY: Duration = Duration::from_secs(1);

/// At most one rebuild at a time in this process.
static REBUILDING: AtomicBool = AtomicBool::new(false);

/// Owns the threads; dropping it stops them and waits for their end.
#[derive(Debug)]
pub(super) struct Linker {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dial: Arc<Dial>,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// What to work on next.
    newest: Option<Arc<Snapshot>>,
    /// Ready for the writer to take over.
    rebuilt: Option<Rebuild>,
}

impl Linker {
    /// Starts the threads.
    pub(super) fn start(dial: Arc<Dial>) -> Result<Self, IndexError> {
        let mut linker = Self {
            shared: Arc::new(Shared {
                dial,
                state: Mutex::default(),
                changed: Condvar::new(),
                stop: AtomicBool::new(false),
            }),
            threads: Vec::new(),
        };
        linker.spawn("linker", Shared::link)?;
        linker.spawn("rebuilder", Shared::rebuild)?;
        linker.spawn("checker", Shared::check)?;
        Ok(linker)
    }

    fn spawn(&mut self, name: &str, work: fn(&Shared)) -> Result<(), IndexError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || shared.watched(work))
            .map_err(|error| IndexError::Engine(format!("no thread for an index: {error}")))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Hands over the newest snapshot.
    pub(super) fn see(&self, snapshot: Arc<Snapshot>) {
        let old = self.shared.lock().newest.replace(snapshot);
        self.shared.changed.notify_all();
        drop(old);
    }

    /// Whether a rebuild is ready.
    pub(super) fn is_rebuilt(&self) -> bool {
        self.shared.lock().rebuilt.is_some()
    }

    /// A rebuild to publish, if one is ready.
    pub(super) fn rebuilt(&self) -> Option<Rebuild> {
        self.shared.lock().rebuilt.take()
    }
}

impl Drop for Linker {
    fn drop(&mut self) {
        {
            let _state = self.shared.lock(); // so that no thread misses the notification
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.shared.changed.notify_all();
        self.shared.dial.stop();
        for thread in self.threads.drain(..) {
            // A panic was caught, and told to the dial.
            let _ended = thread.join();
        }
    }
}

/// The process-wide leave to rebuild.
struct Leave;

impl Leave {
    fn take() -> Option<Self> {
        let taken = REBUILDING.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then_some(Self)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        REBUILDING.store(false, Ordering::Release);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Does its work until the end; a panic of it becomes the index's failure.
    fn watched(&self, work: fn(&Self)) {
        let worked = std::panic::catch_unwind(AssertUnwindSafe(|| work(self)));
        if let Err(panic) = worked {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            self.dial.fail(text.unwrap_or("panicked"));
        }
    }

    /// Answers live queries exactly as well, on a thread that gives way to all others.
    fn check(&self) {
        idle_priority();
        while let Some(question) = self.dial.next_question() {
            let Some(snapshot) = self.lock().newest.clone() else {
                continue;
            };
            let before = cpu_time();
            // A search that has no memory says so to whoever asked; there will be other queries to check.
            if let Ok(missed) = snapshot.view().missed(&question) {
                self.dial
                    .checked(&question, missed, cpu_time().saturating_sub(before));
            }
        }
    }

    /// Links what is published.
    fn link(&self) {
        let mut crowded = 0;
        while let Some(snapshot) = self.next(|_, view| view.can_link() && view.unlinked() > 0) {
            let view = snapshot.view();
            let waiting = view.unlinked();
            let done = if waiting < CALM {
                let link = |rows| view.link(rows, 1, &self.stop).map(|()| false);
                self.quietly(&mut crowded, link).map(|_| ())
            } else {
                view.link(BATCH, threads(waiting), &self.stop)
            };
            view.account().linked(&done);
            match done {
                Ok(()) => {}
                Err(IndexError::Engine(reason)) => return self.dial.fail(&reason),
                // Searches scan what is not linked; the next try may find memory.
                Err(IndexError::Full(_) | IndexError::Memory { .. }) => self.rest(RETRY),
            }
        }
    }

    /// Makes graphs anew that are due for it.
    fn rebuild(&self) {
        while let Some(snapshot) = self.next(|state, view| state.rebuilt.is_none() && due(view)) {
            // Another index's rebuild ends without a word to this one.
            let Some(_leave) = Leave::take() else {
                self.rest(RETRY);
                continue;
            };
            match self.rebuilt(&snapshot) {
                Ok(rebuilt) => self.lock().rebuilt = rebuilt,
                Err(IndexError::Engine(reason)) => return self.dial.fail(&reason),
                // Others may need the memory meanwhile.
                Err(IndexError::Full(_) | IndexError::Memory { .. }) => self.rest(RETRY),
            }
        }
    }

    /// The graph of a snapshot's rows and of all that come meanwhile; `None` at the end, or when there is another by then.
    fn rebuilt(&self, snapshot: &Snapshot) -> Result<Option<Rebuild>, IndexError> {
        let Some(mut rebuild) = snapshot.view().rebuild()? else {
            return Ok(None);
        };
        let mut crowded = 0;
        while let Some(snapshot) = self.next(|_, _| true) {
            let view = snapshot.view();
            if !rebuild.fits(view) {
                return Ok(None);
            }
            if !view.can_link() || self.add(&mut rebuild, view, &mut crowded)? {
                return Ok((!self.stopped()).then_some(rebuild));
            }
        }
        Ok(None)
    }

    /// Links a batch of the rebuild, the next of so many in a crowd; whether it is complete.
    fn add(
        &self,
        rebuild: &mut Rebuild,
        view: &RowView,
        crowded: &mut u32,
    ) -> Result<bool, IndexError> {
        if view.live().len() * PRESSING <= u64::from(view.nodes()) {
            return rebuild.link(view, BATCH, threads(view.nodes()), &self.stop);
        }
        self.quietly(crowded, |rows| rebuild.link(view, rows, 1, &self.stop))
    }

    /// Links so many rows, giving way to all other threads, or the next of so many batches in a crowd. `link` says whether
    /// that was all.
    fn quietly(
        &self,
        crowded: &mut u32,
        link: impl FnOnce(u32) -> Result<bool, IndexError> + Send,
    ) -> Result<bool, IndexError> {
        let started = Instant::now();
        if *crowded > 0 {
            *crowded -= 1;
            let complete = link(CROWDED_BATCH)?;
            if !complete {
                self.rest(started.elapsed() * CROWDED_REST);
            }
            return Ok(complete);
        }
        let complete = at_leisure(|| link(QUIET_BATCH))?;
        if started.elapsed() > PATIENCE {
            *crowded = CROWDED_BATCHES;
        }
        Ok(complete)
    }

    /// The newest snapshot, when there is something to do for it; `None` at the end.
    fn next(&self, wanted: impl Fn(&State, &RowView) -> bool) -> Option<Arc<Snapshot>> {
        let mut state = self.lock();
        while !self.stopped() {
            if let Some(snapshot) = &state.newest
                && wanted(&state, snapshot.view())
            {
                return Some(Arc::clone(snapshot));
            }
            state = self.wait(state, None);
        }
        None
    }

    /// Waits for a change, or for a time.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match time {
            None => self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            Some(time) => match self.changed.wait_timeout(state, time) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            },
        }
    }

    /// Sleeps, but not beyond the end.
    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.lock();
        while let Some(left) = until
            .checked_duration_since(Instant::now())
            .filter(|_| !self.stopped())
        {
            state = self.wait(state, Some(left));
        }
    }
}

/// Whether so many nodes are dead that a rebuild pays.
fn due(view: &RowView) -> bool {
    let (nodes, live) = (u64::from(view.nodes()), view.live().len());
    let half = live * 2 <= nodes;
    let third = live * 3 <= nodes * 2;
    view.nodes() >= REBUILD_FROM
        && (half || third && view.dial().correction() >= COSTLY || view.outgrown())
}

/// The processor's time that this thread has taken: who gives way to others is not charged for theirs.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Works when no other thread wants to, on a thread of its own: one that has given way once never gets its priority back.
fn at_leisure<T: Send>(
    work: impl FnOnce() -> Result<T, IndexError> + Send,
) -> Result<T, IndexError> {
    std::thread::scope(|scope| {
        let quiet = || {
            idle_priority();
            work()
        };
        let thread = std::thread::Builder::new()
            .name("linker".into())
            .spawn_scoped(scope, quiet)
            .map_err(|error| IndexError::Full(format!("no thread to link with: {error}")))?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Threads to link with.
fn threads(waiting: u32) -> usize {
    if waiting < BACKLOG {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_is_the_failure_of_the_index() {
        let dial: Arc<Dial> = Arc::default();
        let mut linker = Linker::start(Arc::clone(&dial)).unwrap();
        assert_eq!(dial.failure(), None);
        linker.spawn("test", |_| panic!("out of order")).unwrap();
        while dial.failure().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(dial.failure().as_deref(), Some("out of order"));
    }
}
