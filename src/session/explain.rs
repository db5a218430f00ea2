//! EXPLAIN of a k-NN statement → way, index and effort, and the plan of the statement that would run, without keys.

use std::sync::Arc;

use super::SessionError;
use super::prepared::Analysis;
use super::relay::Session;

impl Session {
    /// Answers a simple EXPLAIN; false when it is to be relayed.
    pub(super) async fn simple_explain(
        &mut self,
        _analysis: &Arc<Analysis>,
    ) -> Result<bool, SessionError> {
        Ok(false)
    }
}
