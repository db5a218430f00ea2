//! The thread that links published rows into the graph while it is searched, and rebuilds the graph when half of it is
//! dead; and the thread that checks live queries. One each per index, owned by its writer. They never hold up the writer
//! or a search.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::dial::Dial;
use super::faiss::{Rebuild, low_priority};
use super::{IndexError, Snapshot};

/// Rows linked before the newest snapshot is looked at again: a fraction of a second.
const BATCH: u32 = 1_024;
/// With fewer rows waiting than this (a search scans them in some 20 µs), linking takes half of its thread's time at most.
const CALM: u32 = 2_048;
/// Rows waiting from which a second thread is worth its core.
const BACKLOG: u32 = 4_096;
/// A graph is rebuilt when it has this many nodes and half of them are dead …
const REBUILD_FROM: u32 = 4_096;
/// … or a third, if recall has come to cost this many times the effort of the graph that was measured.
const COSTLY: f64 = 1.5;
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
        linker.spawn("linker", Shared::run)?;
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
        self.shared.changed.notify_one();
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
            let _state = self.shared.lock(); // so that the thread does not miss the notification
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

/// A rebuild in the making, and the process-wide leave to make it.
struct Rebuilding(Option<Rebuild>);

impl Drop for Rebuilding {
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
        low_priority();
        while let Some(question) = self.dial.next_question() {
            let Some(snapshot) = self.lock().newest.clone() else {
                continue;
            };
            let started = Instant::now();
            // A search that has no memory says so to whoever asked; there will be other queries to check.
            if let Ok(missed) = snapshot.view().missed(&question) {
                self.dial.checked(&question, missed, started.elapsed());
            }
        }
    }

    fn run(&self) {
        let mut rebuilding: Option<Rebuilding> = None;
        while let Some(snapshot) = self.next(rebuilding.is_some()) {
            let started = Instant::now();
            let calm = snapshot.view().unlinked() < CALM;
            let done = self.work(&snapshot, &mut rebuilding);
            snapshot.view().account().linked(&done);
            match done {
                Ok(()) if calm => self.rest(started.elapsed()),
                Ok(()) => {}
                Err(IndexError::Engine(reason)) => return self.dial.fail(&reason),
                Err(IndexError::Full(_) | IndexError::Memory { .. }) => {
                    // Searches scan what is not linked; the next try may find memory. Others may need it meanwhile.
                    rebuilding = None;
                    self.rest(RETRY);
                }
            }
        }
    }

    /// The newest snapshot, when there is something to do for it; `None` at the end.
    fn next(&self, rebuilding: bool) -> Option<Arc<Snapshot>> {
        let mut state = self.lock();
        loop {
            if self.stopped() {
                return None;
            }
            let Some(snapshot) = &state.newest else {
                state = self.wait(state, None);
                continue;
            };
            let view = snapshot.view();
            let rebuild = state.rebuilt.is_none() && due(snapshot);
            let free = !REBUILDING.load(Ordering::Relaxed);
            if view.can_link() && view.unlinked() > 0 || rebuilding || rebuild && free {
                return Some(Arc::clone(snapshot));
            }
            // Another index's rebuild ends without a word to this one.
            state = self.wait(state, rebuild.then_some(RETRY));
        }
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

    /// Links a batch, and a batch of the rebuild.
    fn work(
        &self,
        snapshot: &Snapshot,
        rebuilding: &mut Option<Rebuilding>,
    ) -> Result<(), IndexError> {
        let view = snapshot.view();
        if view.can_link() && view.unlinked() > 0 {
            view.link(BATCH, threads(view.unlinked()), &self.stop)?;
        }
        if rebuilding.is_none()
            && self.lock().rebuilt.is_none()
            && due(snapshot)
            && REBUILDING
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        {
            let leave = rebuilding.insert(Rebuilding(None));
            leave.0 = view.rebuild()?;
        }
        let Some(rebuild) = rebuilding.as_mut().and_then(|leave| leave.0.as_mut()) else {
            *rebuilding = None;
            return Ok(());
        };
        if !rebuild.fits(view) {
            *rebuilding = None;
            return Ok(());
        }
        let ready =
            !view.can_link() || rebuild.link(view, BATCH, threads(view.nodes()), &self.stop)?;
        if ready && !self.stopped() {
            self.lock().rebuilt = rebuilding.as_mut().and_then(|leave| leave.0.take());
            *rebuilding = None;
        }
        Ok(())
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
fn due(snapshot: &Snapshot) -> bool {
    let view = snapshot.view();
    let (nodes, live) = (u64::from(view.nodes()), view.live().len());
    let half = live * 2 <= nodes;
    let third = live * 3 <= nodes * 2;
    view.nodes() >= REBUILD_FROM
        && (half || third && view.dial().correction() >= COSTLY || view.outgrown())
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
