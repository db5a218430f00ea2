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
use super::quiet::{Quiet, cpu_time};
use super::{IndexError, Snapshot, ending};

/// Rows linked before the newest snapshot is looked at again: a fraction of a second.
const BATCH: u32 = 1_024;
/// With fewer rows waiting than this (a search scans them in some 20 µs), linking is quiet as well.
const CALM: u32 = 2_048;
/// Rows waiting from which a second thread is worth its core.
const BACKLOG: u32 = 4_096;
/// A graph is rebuilt when it has this many nodes and half of them are dead …
const REBUILD_FROM: u32 = 4_096;
/// … or a third, if recall has come to cost this many times the effort that it cost when hardly any were.
const COSTLY: f64 = 1.5;
/// Codes are laid out once no more than one in so many nodes is to be linked: the others are laid behind them as they come.
const SETTLED: u32 = 32;
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
/// Fewer rows than a batch wait this long for others: a thread that gets up for each of a thousand a second costs the searches
/// beside it more than linking does.
const GATHER: Duration = Duration::from_millis(10);
/// After a failure for want of memory.
const RETRY: Duration = Duration::from_secs(1);

/// At most one rebuild at a time in this process.
static REBUILDING: AtomicBool = AtomicBool::new(false);

/// Owns the threads; dropping it stops them, and leaves their last moments to [`ending`].
#[derive(Debug)]
pub(super) struct Linker {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dial: Arc<Dial>,
    state: Mutex<State>,
    /// A snapshot has rows to link.
    linkable: Condvar,
    /// A snapshot is due for a rebuild.
    due: Condvar,
    stopped: Condvar,
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
                linkable: Condvar::new(),
                due: Condvar::new(),
                stopped: Condvar::new(),
                stop: AtomicBool::new(false),
            }),
            threads: Vec::new(),
        };
        linker.spawn("linker", Shared::link)?;
        linker.spawn("rebuilder", Shared::rebuild)?;
        linker.spawn("checker", Shared::check)?;
        Ok(linker)
    }

    fn spawn(&mut self, name: &str, work: fn(&Arc<Shared>)) -> Result<(), IndexError> {
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
        let due = wants_rebuilding(snapshot.view());
        let old = self.shared.lock().newest.replace(snapshot);
        // Nobody is woken for nothing: this is called for each commit.
        self.shared.linkable.notify_one();
        if due {
            self.shared.due.notify_one();
        }
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
        for waited_for in [
            &self.shared.linkable,
            &self.shared.due,
            &self.shared.stopped,
        ] {
            waited_for.notify_all();
        }
        self.shared.dial.stop();
        ending::leave(self.threads.drain(..));
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
    fn watched(self: &Arc<Self>, work: fn(&Arc<Self>)) {
        let worked = std::panic::catch_unwind(AssertUnwindSafe(|| work(self)));
        if let Err(panic) = worked {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            self.dial.fail(text.unwrap_or("panicked"));
        }
    }

    /// Answers live queries exactly as well, on a thread that gives way to all others.
    fn check(self: &Arc<Self>) {
        idle_priority();
        while let Some(question) = self.dial.next_question() {
            let Some(snapshot) = self.lock().newest.clone() else {
                continue;
            };
            let before = cpu_time();
            // A search that has no memory says so to whoever asked; there will be other queries to check.
            if let Ok(missed) = snapshot.view().missed(&question) {
                let took = cpu_time().saturating_sub(before);
                snapshot.view().learn(&question, missed, took);
            }
        }
    }

    /// Links what is published.
    fn link(self: &Arc<Self>) {
        let wanted = |_: &State, view: &RowView| view.can_link() && view.unlinked() > 0;
        let mut quiet = Quiet::default();
        let mut gathered = false;
        while let Some(snapshot) = self.next(&self.linkable, wanted) {
            if snapshot.view().unlinked() < QUIET_BATCH && !gathered {
                drop(snapshot); // whose rows are not kept for this
                self.rest(GATHER);
                gathered = true;
                continue;
            }
            gathered = false;
            let account = Arc::clone(snapshot.view().account());
            let waiting = snapshot.view().unlinked();
            let done = if waiting < CALM && snapshot.view().linking_locks() {
                snapshot.view().link(QUIET_BATCH, 1, &self.stop)
            } else if waiting < CALM {
                let shared = Arc::clone(self);
                self.quietly(&mut quiet, move |rows| {
                    let linked = snapshot.view().link(rows, 1, &shared.stop);
                    linked.map(|()| ((), false))
                })
                .map(|_| ())
            } else {
                let view = snapshot.view();
                view.link(BATCH, threads(waiting), &self.stop)
            };
            account.linked(&done);
            match done {
                Ok(()) => self.wake_if_due(),
                Err(IndexError::Engine(reason)) => return self.dial.fail(&reason),
                // Searches scan what is not linked; the next try may find memory.
                Err(IndexError::Full(_) | IndexError::Memory { .. }) => self.rest(RETRY),
            }
        }
    }

    /// After linking there may be something to do with the whole.
    fn wake_if_due(&self) {
        let state = self.lock();
        let newest = state.newest.as_ref();
        if newest.is_some_and(|snapshot| wants_rebuilding(snapshot.view())) {
            self.due.notify_one();
        }
    }

    /// Makes graphs anew that are due for it, and lays out codes.
    fn rebuild(self: &Arc<Self>) {
        let wanted =
            |state: &State, view: &RowView| state.rebuilt.is_none() && wants_rebuilding(view);
        while let Some(snapshot) = self.next(&self.due, wanted) {
            // Another index's rebuild ends without a word to this one.
            let Some(_leave) = Leave::take() else {
                self.rest(RETRY);
                continue;
            };
            let rebuilt = if due(snapshot.view()) {
                self.rebuilt(&snapshot)
            } else {
                self.laid_out(&snapshot)
            };
            match rebuilt {
                Ok(rebuilt) => self.lock().rebuilt = rebuilt,
                Err(IndexError::Engine(reason)) => return self.dial.fail(&reason),
                // Others may need the memory meanwhile.
                Err(IndexError::Full(_) | IndexError::Memory { .. }) => self.rest(RETRY),
            }
        }
    }

    /// The graph of a snapshot's rows and of all that come meanwhile; `None` at the end, or when there is another by then.
    fn rebuilt(self: &Arc<Self>, snapshot: &Snapshot) -> Result<Option<Rebuild>, IndexError> {
        let rebuild = snapshot.view().rebuild()?;
        rebuild.map_or(Ok(None), |rebuild| self.completed(rebuild))
    }

    /// The same graph, with the codes laid out.
    fn laid_out(self: &Arc<Self>, snapshot: &Snapshot) -> Result<Option<Rebuild>, IndexError> {
        let Some(mut layout) = snapshot.view().lay_out()? else {
            return Ok(None);
        };
        let mut quiet = Quiet::default();
        let mut complete = false;
        while !complete {
            if self.stopped() {
                return Ok(None);
            }
            (layout, complete) = self.quietly(&mut quiet, move |rows| {
                let complete = layout.go_on(rows)?;
                Ok((layout, complete))
            })?;
        }
        self.completed(layout.finish()?)
    }

    /// Links into it what it lacks; `None` at the end, or when there is another graph by then.
    fn completed(self: &Arc<Self>, mut rebuild: Rebuild) -> Result<Option<Rebuild>, IndexError> {
        let mut quiet = Quiet::default();
        while let Some(snapshot) = self.next(&self.due, |_, _| true) {
            if !rebuild.fits(snapshot.view()) {
                return Ok(None);
            }
            let complete = if snapshot.view().can_link() {
                let complete;
                (rebuild, complete) = self.add(rebuild, snapshot, &mut quiet)?;
                complete
            } else {
                true
            };
            if complete {
                return Ok((!self.stopped()).then_some(rebuild));
            }
        }
        Ok(None)
    }

    /// Links a batch of the rebuild, the next of so many in a crowd; whether it is complete.
    fn add(
        self: &Arc<Self>,
        mut rebuild: Rebuild,
        snapshot: Arc<Snapshot>,
        quiet: &mut Quiet,
    ) -> Result<(Rebuild, bool), IndexError> {
        let view = snapshot.view();
        if view.live().len() * PRESSING <= u64::from(view.nodes()) {
            let complete = rebuild.link(view, BATCH, threads(view.nodes()), &self.stop)?;
            return Ok((rebuild, complete));
        }
        let shared = Arc::clone(self);
        self.quietly(quiet, move |rows| {
            let complete = rebuild.link(snapshot.view(), rows, 1, &shared.stop)?;
            Ok((rebuild, complete))
        })
    }

    /// Links so many rows, giving way to all other threads, or the next of so many batches in a crowd. `link` says whether
    /// that was all.
    fn quietly<T: Send + 'static>(
        &self,
        quiet: &mut Quiet,
        link: impl FnOnce(u32) -> Result<(T, bool), IndexError> + Send + 'static,
    ) -> Result<(T, bool), IndexError> {
        let started = Instant::now();
        if quiet.crowded > 0 {
            quiet.crowded -= 1;
            let done = link(CROWDED_BATCH)?;
            if !done.1 {
                self.rest(started.elapsed() * CROWDED_REST);
            }
            return Ok(done);
        }
        let done = quiet.at_leisure(|| link(QUIET_BATCH))?;
        if started.elapsed() > PATIENCE {
            quiet.crowded = CROWDED_BATCHES;
        }
        Ok(done)
    }

    /// The newest snapshot, when there is something to do for it; `None` at the end.
    fn next(
        &self,
        changed: &Condvar,
        wanted: impl Fn(&State, &RowView) -> bool,
    ) -> Option<Arc<Snapshot>> {
        let mut state = self.lock();
        while !self.stopped() {
            if let Some(snapshot) = &state.newest
                && wanted(&state, snapshot.view())
            {
                return Some(Arc::clone(snapshot));
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Sleeps, but not beyond the end.
    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.lock();
        while let Some(left) = until
            .checked_duration_since(Instant::now())
            .filter(|_| !self.stopped())
        {
            state = match self.stopped.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

/// Whether there is something to do with the whole graph.
fn wants_rebuilding(view: &RowView) -> bool {
    due(view) || view.unlinked() < view.nodes() / SETTLED && view.can_link() && view.is_scattered()
}

/// Whether so many nodes are dead that a rebuild pays.
pub(super) fn due(view: &RowView) -> bool {
    let (nodes, live) = (u64::from(view.nodes()), view.live().len());
    let half = live * 2 <= nodes;
    let third = live * 3 <= nodes * 2;
    view.nodes() >= REBUILD_FROM
        && (half || third && view.dial().risen() >= COSTLY || view.outgrown())
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
