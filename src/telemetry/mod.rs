//! The published view and the session counters → metrics, health, log lines and a bar on the terminal.
//! Only ever reads: nothing here changes what Rektor does.

mod http;
pub mod log;
mod metrics;
pub mod progress;

pub use http::serve;

use std::sync::Arc;

use tokio::sync::watch;

use crate::index::view::View;
use crate::session::Counters;

/// What telemetry reads.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The published indexes.
    pub view: watch::Receiver<Arc<View>>,
    /// What the front end did.
    pub counters: Arc<Counters>,
}
