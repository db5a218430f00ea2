//! What every test stands on: real PostgreSQL servers, the real `rektor` binary in front of them, and clients.
//! Environment: `REKTOR_TEST_PLAIN_BIN`, `REKTOR_TEST_PG16_BIN`, `REKTOR_TEST_PG18_BIN` name the servers' bin directories;
//! without them Debian's folders and `target/servers` are searched, and a server that is not there fails the test.

pub mod faults;
mod postgres;
pub mod rektor;
pub mod wire;

pub use postgres::{Cluster, Database, Server};
pub use rektor::{Rektor, command, http, signal};
pub use wire::{Frame, Wire, message};

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A limit is for a machine with nothing else to do. One that is shared may take so many times as long: a test that fails for it
/// says nothing, and one that hangs fails all the same.
pub const SHARED: u32 = 8;

/// Polls until `probe` gives something; panics, naming `what`, after [`SHARED`] times the `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let limit = limit * SHARED;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(5)); // the poll's interval, not a guess at a duration
    }
}

/// A free port, given to nobody else in this process, and below those that Linux gives to outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id()
            .wrapping_mul(97)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(number % 20_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A seeded generator (splitmix64): the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    /// A number of [-1, 1) with few digits, so that its text is short and exact.
    pub fn component(&mut self) -> f32 {
        f32::from(i16::try_from(self.below(2048)).unwrap() - 1024) / 1024.0
    }

    /// A vector's text, `[…]`, or `{…}` for `real[]`.
    pub fn vector(&mut self, dimensions: usize, server: Server) -> String {
        let components: Vec<_> = (0..dimensions)
            .map(|_| self.component().to_string())
            .collect();
        server.vector_text(&components.join(","))
    }
}
