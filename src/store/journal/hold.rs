//! What readers of the journal have not read yet → the position that trimming must not pass.
//! Lasts as long as the process: a reader that a crash ends begins again at a generation, which holds the journal itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lsn::Lsn;

/// The positions that are held, each with how many hold it.
#[derive(Clone, Debug, Default)]
pub struct Holds(Arc<Mutex<BTreeMap<Lsn, usize>>>);

impl Holds {
    /// Holds everything from `lsn` on, until the hold is dropped.
    #[must_use]
    pub fn hold(&self, lsn: Lsn) -> Hold {
        *self.positions().entry(lsn).or_default() += 1;
        Hold {
            holds: self.clone(),
            lsn,
        }
    }

    /// The least position held.
    pub(super) fn least(&self) -> Option<Lsn> {
        self.positions().first_key_value().map(|(lsn, _)| *lsn)
    }

    fn release(&self, lsn: Lsn) {
        let mut positions = self.positions();
        if let Some(count) = positions.get_mut(&lsn) {
            *count -= 1;
            if *count == 0 {
                positions.remove(&lsn);
            }
        }
    }

    fn positions(&self) -> MutexGuard<'_, BTreeMap<Lsn, usize>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the journal from a position on.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    lsn: Lsn,
}

impl Hold {
    /// What lies before `lsn` is not needed any more.
    pub fn advance(&mut self, lsn: Lsn) {
        if lsn > self.lsn {
            // The new one first: between the two nothing may be let go.
            let next = self.holds.hold(lsn);
            *self = next;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.release(self.lsn);
    }
}
