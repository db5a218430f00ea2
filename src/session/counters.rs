//! What the front end did, counted for telemetry. Only ever counts; decides nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How a k-NN statement was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The statement restricted to proposed keys.
    Nominate,
    /// The statement with an ORDER BY that no vector index can serve.
    Exact,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// k-NN statements answered by *nominate*.
    pub nominated: AtomicU64,
    /// k-NN statements answered by *exact*.
    pub exact: AtomicU64,
    /// Keys proposed to upstream.
    pub candidates: AtomicU64,
    /// Attempts that came back short and were repeated with more candidates.
    pub widenings: AtomicU64,
    /// Look-ups of settings and rights.
    pub lookups: AtomicU64,
    /// Statements that define indexes, carried out upstream.
    pub ddl: AtomicU64,
    /// Sessions that are open now.
    pub sessions: AtomicI64,
    /// k-NN statements that went upstream as they were, by reason. The reasons are a fixed set of texts.
    relayed: Mutex<HashMap<String, u64>>,
}

impl Counters {
    /// Counts an answered statement.
    pub(super) fn answered(&self, way: Way) {
        let counter = match way {
            Way::Nominate => &self.nominated,
            Way::Exact => &self.exact,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a statement that went upstream as it was.
    pub(super) fn relayed(&self, reason: &str) {
        let mut relayed = self.relayed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = relayed.get_mut(reason) {
            *count += 1;
        } else {
            relayed.insert(reason.to_owned(), 1);
        }
    }

    /// k-NN statements that went upstream as they were, by reason.
    pub fn relayed_by_reason(&self) -> Vec<(String, u64)> {
        let relayed = self.relayed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: Vec<_> = relayed
            .iter()
            .map(|(reason, count)| (reason.clone(), *count))
            .collect();
        counts.sort();
        counts
    }

    /// Counts a session for as long as the result lives.
    pub(super) fn open_session(&self) -> OpenSession<'_> {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        OpenSession(self)
    }
}

/// A counted session.
pub(super) struct OpenSession<'a>(&'a Counters);

impl Drop for OpenSession<'_> {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
