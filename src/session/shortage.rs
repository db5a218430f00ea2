//! An answer with fewer rows than wanted, to which the index proposed every row that can match → whether it is the answer.
//! It is, where the index shows the same after the attempt as before it: then the table did not change between, and Postgres
//! saw no row that was not proposed.

use std::sync::Arc;

use super::SessionError;
use super::candidates::Search;
use super::exchange::End;
use super::knn::{Planned, Unready, ready_index};
use super::relay::Session;
use crate::query::{Isolation, KnnQuery};

/// Attempts that find the table changed meanwhile, before Postgres searches it all.
pub(super) const MAX_REPEATS: u32 = 2;

/// What a short answer means.
pub(super) enum Shortage {
    /// No other row matches.
    Complete,
    /// The table has changed since: another attempt, with this.
    Changed(Search),
    /// Nobody knows.
    Unknown,
    /// The client was given an error.
    Reported,
}

impl Session {
    /// Whether a short answer is all there is, all rows of `search` that meet its filter having been proposed.
    pub(super) async fn shortage(
        &mut self,
        query: &KnnQuery,
        planned: &Planned,
        search: &Search,
        end: End,
    ) -> Result<Shortage, SessionError> {
        let Some(snapshot) = search.index.snapshot.clone() else {
            return Ok(Shortage::Unknown);
        };
        if snapshot.stats().left_out > 0 {
            return Ok(Shortage::Unknown); // rows without a vector come last, but they come
        }
        let definition = &planned.plan.index.definition;
        let position = match self
            .look_up(query, definition, &planned.subject, end)
            .await?
        {
            Ok(position) => position,
            Err(Unready::Relay(_)) => return Ok(Shortage::Unknown),
            Err(Unready::Reported) => return Ok(Shortage::Reported),
        };
        let isolation = match self.facts.last(&planned.subject) {
            // Otherwise the statement's own guards may have kept every row away.
            Some((settings, Ok(()))) if !self.facts.wrote() => settings.isolation,
            Some((_, Ok(()) | Err(_))) | None => return Ok(Shortage::Unknown),
        };
        let Some(position) = position else {
            return Ok(Shortage::Unknown);
        };
        let id = search.index.definition.id;
        let view = match self.wait_for(id, position).await? {
            Ok(view) => view,
            Err(Unready::Relay(_)) => return Ok(Shortage::Unknown),
            Err(Unready::Reported) => return Ok(Shortage::Reported),
        };
        let Ok(index) = ready_index(&view, id, position) else {
            return Ok(Shortage::Unknown);
        };
        if index.definition.include != search.index.definition.include {
            return Ok(Shortage::Unknown); // the filter is about other columns
        }
        let same = |newer: &Arc<_>| Arc::ptr_eq(newer, &snapshot);
        if index.snapshot.as_ref().is_some_and(same) {
            return Ok(Shortage::Complete);
        }
        Ok(match isolation {
            Some(Isolation::ReadCommitted) => Shortage::Changed(search.on(index)),
            // Postgres goes on seeing what it saw.
            Some(Isolation::RepeatableRead | Isolation::Serializable) | None => Shortage::Unknown,
        })
    }
}
