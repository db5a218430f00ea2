//! Threads of indexes that are gone, told to stop → threads that have ended. Most give way to all others, so that on a busy
//! machine their last moments take seconds: who drops an index does not wait for them, who ends the process does. Never starts one.

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// More than these are waited for where an index is dropped: whoever drops them faster than they end is slowed down.
const MOST: usize = 64;

static ENDING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Takes over threads that have been told to stop.
pub(super) fn leave(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    let mut ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
    ending.retain(|thread| !thread.is_finished());
    ending.extend(threads);
    let too_many = ending.len() > MOST;
    drop(ending);
    if too_many {
        join_ended();
    }
}

/// Waits until all threads of indexes that were dropped have ended: before the process ends, so that none of them works on while
/// what they work with is taken down.
pub fn join_ended() {
    loop {
        let next = ENDING.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(thread) = next else {
            return;
        };
        // A panic was caught, and told to the index's dial.
        let _ended = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    #[test]
    fn who_leaves_a_thread_does_not_wait_and_who_joins_them_does() {
        let (go, held) = mpsc::channel::<()>();
        let ended = Arc::new(AtomicBool::new(false));
        let at_its_end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let _ = held.recv();
            at_its_end.store(true, Ordering::Relaxed);
        });
        leave([thread]);
        assert!(!ended.load(Ordering::Relaxed));
        drop(go);
        join_ended();
        assert!(ended.load(Ordering::Relaxed));
    }
}
