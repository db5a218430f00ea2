//! The thread that links published rows into the graph while it is searched, and rebuilds the graph when half of it is
//! dead. One per index, owned by its writer. It never holds up the writer or a search.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::faiss::Rebuild;
use super::{IndexError, Snapshot};

/// Rows linked before the newest snapshot is looked at again: a fraction of a second.
const BATCH: u32 = 1_024;
/// With fewer rows waiting than this (a search scans them in some 20 µs), linking takes half of its thread's time at most.
const CALM: u32 = 2_048;
/// Rows waiting from which a second thread is worth its core.
const BACKLOG: u32 = 4_096;
/// A graph is rebuilt when it has this many nodes and half of them are dead.
const REBUILD_FROM: u32 = 4_096;
/// After a failure for want of memory.
const RETRY: Duration = Duration::from_secs(1);

/// At most one rebuild at a time in this process.
static REBUILDING: AtomicBool = AtomicBool::new(false);

/// Owns the thread; dropping it stops the thread and waits for its end.
#[derive(Debug)]
pub(super) struct Linker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
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
    /// Starts the thread.
    pub(super) fn start() -> Result<Self, IndexError> {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("linker".into())
            .spawn(move || its.run())
            .map_err(|error| IndexError::Engine(format!("no thread to link rows: {error}")))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Hands over the newest snapshot.
    pub(super) fn see(&self, snapshot: Arc<Snapshot>) {
        let old = self.shared.lock().newest.replace(snapshot);
        self.shared.changed.notify_one();
        drop(old);
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
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the linker is reported where it happened; what it left is never linked into again.
            let _panicked = thread.join();
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

    fn run(&self) {
        let mut rebuilding: Option<Rebuilding> = None;
        while let Some(snapshot) = self.next(rebuilding.is_some()) {
            let started = Instant::now();
            let calm = snapshot.view().unlinked() < CALM;
            match self.work(&snapshot, &mut rebuilding) {
                Ok(()) if calm => self.rest(started.elapsed()),
                Ok(()) => {}
                Err(_no_memory) => self.rest(RETRY), // searches scan what is not linked; the next try may find memory
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

/// Whether half of the nodes are dead.
fn due(snapshot: &Snapshot) -> bool {
    let view = snapshot.view();
    view.nodes() >= REBUILD_FROM && view.live().len() * 2 <= u64::from(view.nodes())
}

/// Threads to link with.
fn threads(waiting: u32) -> usize {
    if waiting < BACKLOG {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2))
}
