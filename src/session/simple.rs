//! A simple Query → relayed, or, when it is one k-NN statement, answered through Rektor's own extended messages.

use super::SessionError;
use super::frame::Frame;
use super::relay::Session;
use crate::query::Effect;

impl Session {
    /// Deals with a simple Query.
    pub(super) async fn simple_query(&mut self, frame: Frame) -> Result<(), SessionError> {
        let sql = frame.body().strip_suffix(b"\0").unwrap_or(frame.body());
        let effect = match self.shared.analyses.of(sql) {
            Ok(analysis) => analysis.effect(),
            Err(effect) => effect,
        };
        self.relay_query(&frame, effect);
        Ok(())
    }
}
