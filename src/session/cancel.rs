//! Cancellation: who can be cancelled, by BackendKeyData's process id and secret, and the signal a session waits on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Process id and secret, as BackendKeyData and CancelRequest carry them. The secret's length varies.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct CancelKey(Box<[u8]>);

impl CancelKey {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl std::fmt::Debug for CancelKey {
    /// Whoever knows a key can cancel.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CancelKey")
    }
}

type Sessions = HashMap<CancelKey, watch::Sender<u64>>;

/// The sessions that can be cancelled. One entry a session: bounded by the number of connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Cancels(Arc<Mutex<Sessions>>);

impl Cancels {
    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // a map has no half-done state
    }

    /// Adds a session; it is removed when the registration is dropped.
    pub(super) fn register(&self, key: CancelKey) -> Registration {
        let (sender, requests) = watch::channel(0);
        self.lock().insert(key.clone(), sender);
        Registration {
            key,
            requests,
            cancels: self.clone(),
        }
    }

    /// Tells the session of a CancelRequest, if it is here.
    pub(super) fn cancel(&self, packet: &[u8]) {
        let key = CancelKey::new(packet.get(8..).unwrap_or_default());
        if let Some(session) = self.lock().get(&key) {
            session.send_modify(|requests| *requests += 1);
        }
    }
}

/// A session's entry.
#[derive(Debug)]
pub(super) struct Registration {
    key: CancelKey,
    requests: watch::Receiver<u64>,
    cancels: Cancels,
}

impl Registration {
    /// Forgets requests that came before now: they met an idle session, or one whose statement has ended.
    pub(super) fn rearm(&mut self) {
        self.requests.mark_unchanged();
    }

    /// Whether a request came since [`rearm`](Self::rearm).
    pub(super) fn is_cancelled(&self) -> bool {
        self.requests.has_changed().unwrap_or(false)
    }

    /// Waits for a request. Cancel-safe.
    pub(super) async fn cancelled(&mut self) {
        let mut requests = self.requests.clone();
        if requests.changed().await.is_err() {
            std::future::pending::<()>().await; // the entry is gone: nobody can cancel any more
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.cancels.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_its_session_only() {
        let cancels = Cancels::default();
        let mut one = cancels.register(CancelKey::new(b"pid1secret"));
        let two = cancels.register(CancelKey::new(b"pid2another secret"));
        cancels.cancel(b"\0\0\0\x10\x04\xd2\x16\x2epid1secret");
        cancels.cancel(b"\0\0\0\x10\x04\xd2\x16\x2epid1wrong!");
        assert!(one.is_cancelled() && !two.is_cancelled());
        one.rearm();
        assert!(!one.is_cancelled());
        drop((one, two));
        assert!(cancels.lock().is_empty());
    }
}
