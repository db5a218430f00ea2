//! An answer with fewer rows than wanted, to which the index proposed every row that can match → whether it is the answer.
//! It is, where Postgres showed all that is in the index before the attempt, and the index shows the same after it: then the
//! table did not change between, and Postgres saw no row that was not proposed. Where the planner thinks little of the cost of
//! finding so few rows, Postgres is asked for them instead.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use super::SessionError;
use super::candidates::Search;
use super::exchange::{End, Replies};
use super::knn::{Planned, QUERY_CANCELED, Unready, ready_index};
use super::messages::{self, BindBody};
use super::relay::Session;
use super::rewrite::Taught;
use crate::catalog::RelationId;
use crate::query::{Isolation, KnnQuery};

const SETTLED: &str = include_str!("../../sql/session_settled.sql");
/// The portal that own questions run in.
const PORTAL: &[u8] = b"rektor_question";

/// *exact* is cheap when the planner counts no more than this for it, and …
const CHEAP: f64 = 100.0;
/// … this for each row wanted: somewhat more than a page read at random. A scan of a table of more than some hundred pages
/// costs more, and so long takes the check that nominating needs.
const CHEAP_ROW: f64 = 5.0;

/// Attempts after which it is still not known, before Postgres searches the whole table: one for what is not visible yet, and
/// two that find the table changed meanwhile.
pub(super) const MAX_REPEATS: u32 = 3;

/// A statement to which the index has fewer rows than wanted.
pub(super) struct Few<'a> {
    pub(super) planned: &'a Planned,
    pub(super) search: &'a Search,
    /// Whether Postgres is known to show all that is in the index.
    pub(super) settled: bool,
    pub(super) taught: Taught<'a>,
    /// The parameters' types and values; without it the statement is a simple Query.
    pub(super) types: &'a [u32],
    pub(super) bind: Option<BindBody<'a>>,
}

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
    /// Whether *exact* is to answer at once: nominating would be short, and saying that it is complete takes longer, or is
    /// impossible. `None` when the client was given an error instead.
    pub(super) async fn is_exact_better(
        &mut self,
        few: Few<'_>,
    ) -> Result<Option<bool>, SessionError> {
        if !self.may_be_confirmed(few.planned, few.search, few.settled) {
            return Ok(Some(true));
        }
        let now = Instant::now();
        if let Some(cheap) = self.rewrites.is_cheap(few.taught, now) {
            return Ok(Some(cheap));
        }
        let (fresh, wanted) = (self.is_fresh(), few.search.request.wanted);
        let end = match few.bind {
            Some(_) => End::Flush,
            None => End::Sync,
        };
        let explain = format!("explain {}", few.planned.plan.exact);
        let bind = few.bind.map(|bind| bind.for_portal(PORTAL));
        let replies = self
            .question(&explain, few.types, end, |out, name| match &bind {
                Some(bind) => bind.redirect(out, name, &[]),
                None => messages::bind_text(out, PORTAL, name, &[]),
            })
            .await?;
        if replies.skipped {
            return Ok(None);
        }
        if replies.error.is_some() {
            if fresh && replies.sqlstate() != Some(QUERY_CANCELED) {
                if replies.ready.is_none() {
                    self.recover().await?;
                }
                return Ok(Some(false)); // an attempt says what is wrong
            }
            self.report(&replies);
            return Ok(None);
        }
        let row = replies.row_bodies().next().and_then(messages::row_values);
        let cost = row.and_then(|row| total_cost((*row.first()?)?));
        let rows = u32::try_from(wanted).unwrap_or(u32::MAX);
        let cheap = cost.is_some_and(|cost| cost <= CHEAP + CHEAP_ROW * f64::from(rows));
        self.rewrites.learn_cheap(few.taught, cheap, now);
        Ok(Some(cheap))
    }

    /// Whether it can be known that a short answer is complete.
    fn may_be_confirmed(&self, planned: &Planned, search: &Search, settled: bool) -> bool {
        let snapshot = search.index.snapshot.as_ref();
        if snapshot.is_none_or(|snapshot| snapshot.stats().left_out > 0) || search.request.within {
            return false; // rows without a vector come last, but they come
        }
        match self.facts.last(&planned.subject) {
            Some((settings, Ok(()))) if settings.isolation == Some(Isolation::ReadCommitted) => {
                settled || settings.sees_locks
            }
            // In other levels Postgres goes on seeing what it saw when the transaction began.
            Some((_, Ok(()) | Err(_))) | None => false,
        }
    }

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
        if !self.may_be_confirmed(planned, search, settled) {
            return Ok(Shortage::Unknown);
        }
        let definition = &planned.plan.index.definition;
        if !settled {
            return Ok(
                match self.is_true_of(definition.relation, SETTLED, end).await? {
                    Some(true) => {
                        snapshot.settle();
                        Shortage::Again(search.on(Arc::clone(&search.index)))
                    }
                    Some(false) => Shortage::Unknown,
                    None => Shortage::Reported,
                },
            );
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

    /// Whether upstream says yes to a question about a table; `None` when the client was given an error instead.
    pub(super) async fn is_true_of(
        &mut self,
        table: RelationId,
        question: &str,
        end: End,
    ) -> Result<Option<bool>, SessionError> {
        let table = table.0.to_string();
        let replies = self
            .question(question, &[], end, |out, name| {
                messages::bind_text(out, PORTAL, name, &[table.as_bytes()]);
            })
            .await?;
        if replies.skipped {
            return Ok(None);
        }
        if replies.error.is_some() {
            self.report(&replies);
            return Ok(None);
        }
        let row = replies.row_bodies().next().and_then(messages::row_values);
        Ok(Some(
            row.is_some_and(|row| row.first() == Some(&Some(b"t"))),
        ))
    }

    /// Runs a question of Rektor's own, which `bind` binds to its portal.
    async fn question(
        &mut self,
        sql: &str,
        types: &[u32],
        end: End,
        bind: impl FnOnce(&mut BytesMut, &[u8]),
    ) -> Result<Replies, SessionError> {
        let own = self.rewrites.next_own();
        let out = &mut self.upstream.outbox;
        messages::parse(out, &own.name, sql.as_bytes(), types);
        bind(out, &own.name);
        messages::execute(out, PORTAL, 0);
        messages::close(out, b'P', PORTAL);
        messages::close(out, b'S', &own.name);
        self.exchange(end, 5).await
    }

    /// Gives the client the error of a question, as its statement's.
    fn report(&mut self, replies: &Replies) {
        if let Some(error) = &replies.error {
            self.client.outbox.extend_from_slice(error.bytes());
        }
        self.pending.skip_to_sync();
    }
}

/// The cost in the first line of a plan: `Limit  (cost=8.30..8.32 rows=5 width=12)`.
fn total_cost(line: &[u8]) -> Option<f64> {
    let line = std::str::from_utf8(line).ok()?;
    let (_, costs) = line.split_once("cost=")?;
    let (_, rest) = costs.split_once("..")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_read_from_a_plan() {
        for (line, cost) in [
            ("Limit  (cost=8.30..8.32 rows=5 width=12)", Some(8.32)),
            (
                "Limit  (cost=10000000000.00..10000000123.45 rows=5 width=12)",
                Some(10_000_000_123.45),
            ),
            ("Result  (rows=0)", None),
            ("", None),
        ] {
            assert_eq!(total_cost(line.as_bytes()), cost, "{line}");
        }
    }
}
