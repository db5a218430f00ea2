//! An answer with fewer rows than wanted, to which the index proposed every row that can match → whether it is the answer.
//! It is, where Postgres showed all that is in the index before the attempt, and the index shows the same after it: then the
//! table did not change between, and Postgres saw no row that was not proposed.

use std::sync::Arc;

use super::SessionError;
use super::candidates::Search;
use super::exchange::End;
use super::knn::{Planned, Unready, ready_index};
use super::messages;
use super::relay::Session;
use crate::catalog::RelationId;
use crate::query::{Isolation, KnnQuery};

const SETTLED: &str = include_str!("../../sql/session_settled.sql");
/// The portal that it runs in.
const PORTAL: &[u8] = b"rektor_settled";

/// Attempts after which it is still not known, before Postgres searches the whole table: one for what is not visible yet, and
/// two that find the table changed meanwhile.
pub(super) const MAX_REPEATS: u32 = 3;

/// What a short answer means.
pub(super) enum Shortage {
    /// No other row matches.
    Complete,
    /// Another attempt may tell, with this.
    Again(Search),
    /// Nobody knows.
    Unknown,
    /// The client was given an error.
    Reported,
}

impl Session {
    /// Whether a short answer is all there is, all rows of `search` that meet its filter having been proposed. `settled`:
    /// whether Postgres was known to show all that is in the index, before the attempt.
    pub(super) async fn shortage(
        &mut self,
        query: &KnnQuery,
        planned: &Planned,
        search: &Search,
        settled: bool,
        end: End,
    ) -> Result<Shortage, SessionError> {
        let Some(snapshot) = search.index.snapshot.clone() else {
            return Ok(Shortage::Unknown);
        };
        if snapshot.stats().left_out > 0 {
            return Ok(Shortage::Unknown); // rows without a vector come last, but they come
        }
        let definition = &planned.plan.index.definition;
        let sees_locks = match self.facts.last(&planned.subject) {
            Some((settings, Ok(()))) if settings.isolation == Some(Isolation::ReadCommitted) => {
                settings.sees_locks
            }
            // In other levels Postgres goes on seeing what it saw when the transaction began.
            Some((_, Ok(()) | Err(_))) | None => return Ok(Shortage::Unknown),
        };
        if !settled && !sees_locks {
            return Ok(Shortage::Unknown);
        }
        if !settled {
            return Ok(match self.is_settled(definition.relation, end).await? {
                Some(true) => {
                    snapshot.settle();
                    Shortage::Again(search.on(Arc::clone(&search.index)))
                }
                Some(false) => Shortage::Unknown,
                None => Shortage::Reported,
            });
        }
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
            Some(Isolation::ReadCommitted) => Shortage::Again(search.on(index)),
            // Postgres goes on seeing what it saw.
            Some(Isolation::RepeatableRead | Isolation::Serializable) | None => Shortage::Unknown,
        })
    }

    /// Whether upstream shows all that was committed to a table so far; `None` when the client was given an error instead.
    async fn is_settled(
        &mut self,
        table: RelationId,
        end: End,
    ) -> Result<Option<bool>, SessionError> {
        let own = self.rewrites.next_own();
        let table = table.0.to_string();
        let out = &mut self.upstream.outbox;
        messages::parse(out, &own.name, SETTLED.as_bytes(), &[]);
        messages::bind_text(out, PORTAL, &own.name, &[table.as_bytes()]);
        messages::execute(out, PORTAL, 0);
        messages::close(out, b'P', PORTAL);
        messages::close(out, b'S', &own.name);
        let replies = self.exchange(end, 5).await?;
        if replies.skipped {
            return Ok(None);
        }
        if let Some(error) = &replies.error {
            self.client.outbox.extend_from_slice(error.bytes());
            self.pending.skip_to_sync();
            return Ok(None);
        }
        let row = replies.row_bodies().next().and_then(messages::row_values);
        Ok(Some(
            row.is_some_and(|row| row.first() == Some(&Some(b"t"))),
        ))
    }
}
