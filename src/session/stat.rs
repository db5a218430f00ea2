//! What only Rektor knows → settings of the client's session, just before a statement that reads them.

use super::relay::Session;

impl Session {
    /// Sends the settings that `rektor.stat_*` read.
    pub(super) fn send_stat(&mut self) {}
}
