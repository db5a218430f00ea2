//! A thread that works only when no other wants to: for linking that nobody waits for.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use super::IndexError;
use super::faiss::idle_priority;

/// Work of one kind that gives way to all other threads.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// Batches that are still to be made as others work.
    pub(super) crowded: u32,
    /// Started with the first batch: one that has given way once never gets its priority back, and a thread for each batch
    /// costs as much as some rows.
    thread: Option<QuietThread>,
}

type Job = Box<dyn FnOnce() + Send>;

/// Dropping it waits for its end.
#[derive(Debug)]
struct QuietThread {
    /// `None` at the end.
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Quiet {
    /// Works when no other thread wants to; returns when it is done.
    pub(super) fn at_leisure<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => QuietThread::start()?,
        };
        let done = thread.run(work);
        self.thread = Some(thread);
        done
    }
}

impl QuietThread {
    fn start() -> Result<Self, IndexError> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let work = move || {
            idle_priority();
            queue.into_iter().for_each(|job| job());
        };
        let thread = std::thread::Builder::new()
            .name("quiet linker".into())
            .spawn(work)
            .map_err(|error| IndexError::Full(format!("no thread to link with: {error}")))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let (answer, answered) = mpsc::sync_channel(1);
        let job = move || {
            let done = std::panic::catch_unwind(AssertUnwindSafe(work));
            let _nobody_waits = answer.send(done);
        };
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(Box::new(job)));
        match (sent, answered.recv()) {
            (Some(Ok(())), Ok(done)) => {
                done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            _ended => Err(IndexError::Engine("the linker's thread ended".into())),
        }
    }
}

impl Drop for QuietThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A job's panic was caught, and given to whoever asked for it.
            let _ended = thread.join();
        }
    }
}

/// The processor's time that this thread has taken: who gives way to others is not charged for theirs.
pub(super) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
