//! Threads of indexes that are gone, told to stop → threads that have ended. Most give way to all others, so that on a busy
//! machine their last moments take seconds: who drops an index does not wait for them, who ends the process does. Never starts one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// More than these are waited for where an index is dropped: whoever drops them faster than they end is slowed down.
const MOST: usize = 64;

static OF_THIS_PROCESS: Ending = Ending::none();

#[derive(Debug)]
struct Ending(Mutex<Vec<JoinHandle<()>>>);

impl Ending {
    const fn none() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, threads: impl IntoIterator<Item = JoinHandle<()>>) {
        let mut ending = self.threads();
        ending.retain(|thread| !thread.is_finished());
        ending.extend(threads);
        let too_many = ending.len() > MOST;
        drop(ending);
        if too_many {
            self.join();
        }
    }

    fn join(&self) {
        loop {
            let next = self.threads().pop();
            let Some(thread) = next else {
                return;
            };
            // A panic was caught, and told to the index's dial.
            let _ended = thread.join();
        }
    }
}

/// Takes over threads that have been told to stop.
pub(super) fn leave(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    OF_THIS_PROCESS.take(threads);
}

/// Waits until all threads of indexes that were dropped have ended: before the process ends, so that none of them works on while
/// what they work with is taken down.
pub fn join_ended() {
    OF_THIS_PROCESS.join();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    #[test]
    fn who_leaves_a_thread_does_not_wait_and_who_joins_them_does() {
        let ending = Ending::none();
        let ended = Arc::new(AtomicUsize::new(0));
        let thread = |held: mpsc::Receiver<()>| {
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || {
                let _released = held.recv();
                ended.fetch_add(1, Ordering::Relaxed);
            })
        };
        let (releases, held): (Vec<_>, Vec<_>) =
            std::iter::repeat_with(mpsc::channel).take(MOST).unzip();
        ending.take(held.into_iter().map(&thread));
        assert_eq!(ended.load(Ordering::Relaxed), 0);
        drop(releases);
        ending.join();
        assert_eq!(ended.load(Ordering::Relaxed), MOST);
    }

    #[test]
    fn no_more_than_so_many_are_left() {
        let ending = Ending::none();
        let threads = || std::iter::repeat_with(|| std::thread::spawn(std::thread::yield_now));
        for _ in 0..10 {
            ending.take(threads().take(MOST / 2));
            assert!(ending.threads().len() <= MOST);
        }
        ending.take(threads().take(MOST + 1));
        let left = ending.threads().len();
        assert_eq!(left, 0, "waited for");
    }
}
