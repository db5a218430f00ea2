//! `CREATE INDEX … USING faiss` and its kin → the call that carries it out upstream, in the client's own session.

use super::prepared::Analysis;
use super::relay::Session;

impl Session {
    /// The tag and the call of a statement that is Rektor's to carry out.
    pub(super) fn own_ddl(&self, _analysis: &Analysis) -> Option<(&'static str, String)> {
        None
    }
}
