//! What the receiving task knows → positions and commits that the applier's views, and the next connection, are made of.
//! Shared; never waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::ingest::history::History;
use crate::ingest::lag::Commits;
use crate::lsn::Lsn;
use crate::upstream::slot::SeenCommit;

/// Positions that the receiving task moves and every view shows, and the commits that came with them.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    received: AtomicU64,
    durable: AtomicU64,
    upstream: AtomicU64,
    commits: Mutex<Commits>,
    history: Mutex<History>,
}

impl Marks {
    pub(crate) fn set(&self, received: Lsn, durable: Lsn, upstream: Lsn) {
        self.received.store(received.as_u64(), Ordering::Relaxed);
        self.durable.store(durable.as_u64(), Ordering::Relaxed);
        self.upstream.store(upstream.as_u64(), Ordering::Relaxed);
    }

    pub(crate) fn received(&self) -> Lsn {
        Lsn::new(self.received.load(Ordering::Relaxed))
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::Relaxed))
    }

    pub(crate) fn upstream(&self) -> Lsn {
        Lsn::new(self.upstream.load(Ordering::Relaxed))
    }

    pub(crate) fn compare_clocks(&self, sent: i64, now: SystemTime) {
        self.commits().compare_clocks(sent, now);
    }

    pub(crate) fn arrived(&self, commit: SeenCommit) {
        self.commits().arrived(commit.lsn, commit.time);
        self.history().saw(commit);
    }

    /// Nothing that holds a lock can leave what it guards half changed.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
