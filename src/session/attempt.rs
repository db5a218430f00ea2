//! One run of an own statement in a claimed statement's place: nominating, or exact. Reports what came of it, and what an error
//! means: outside a transaction the client's own statement can still run; inside one the client is told.

use std::sync::Arc;

use bytes::Bytes;

use super::SessionError;
use super::candidates::Search;
use super::counters::Way;
use super::exchange::{End, MAX_HELD, Replies};
use super::knn::{Claim, QUERY_CANCELED, Served, knn_query};
use super::messages::{self, BindBody};
use super::pending::{Completion, Kind, Owner};
use super::prepared::Prepared;
use super::relay::Session;
use crate::query::RelayReason;

/// Which statement of Rektor's runs in the client's place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Own<'a> {
    /// The one that is restricted to these keys.
    Nominate(&'a [Bytes]),
    /// The one that no vector index can serve. Any number of rows is its answer.
    Exact,
}

/// What an attempt brought.
pub(super) enum Attempt {
    /// An answer that may be given.
    Enough(Replies),
    /// Fewer rows than wanted.
    Short(Replies),
    /// More bytes than may be held, or than may be held beside those of other portals.
    TooLarge,
    /// The statement is dealt with: an error was given to the client.
    Reported,
    /// Upstream refused the rewritten statement, and nothing was lost by it.
    Refused,
}

impl Session {
    /// Runs a statement of Rektor's once, and holds its answer.
    pub(super) async fn attempt(
        &mut self,
        claim: &Claim,
        search: &Search,
        which: Own<'_>,
        first: bool,
    ) -> Result<Attempt, SessionError> {
        let fresh = self.is_fresh();
        let sync_with_it = claim.sync && !self.executed;
        let end = if sync_with_it { End::Sync } else { End::Flush };
        let Some(mut bind) = BindBody::read(claim.bind.body()) else {
            return Ok(Attempt::Refused);
        };
        if let Some(failed) = self.verify_original(claim, which, fresh).await? {
            return Ok(failed);
        }
        let mut completions = 2;
        let gone = first || (fresh && sync_with_it); // a portal of an earlier attempt
        if !gone {
            messages::close(&mut self.upstream.outbox, b'P', &claim.portal);
            completions += 1;
        }
        let Some((own, parsed)) = self.own(&claim.prepared, which, fresh) else {
            return Ok(Attempt::Refused);
        };
        completions += usize::from(parsed);
        let query;
        if let Some(number) = self.query_parameter(claim)
            && !(search.request.batch.is_none() && bind.is_binary(number))
        {
            query = search.query_in_binary();
            bind.set_binary(number, &query);
        }
        let keys = match which {
            Own::Nominate(keys) => keys,
            Own::Exact => &[],
        };
        bind.redirect(&mut self.upstream.outbox, &own, keys);
        if let Some(describe) = &claim.describe {
            self.upstream.outbox.extend_from_slice(describe.bytes());
            completions += 1;
        }
        messages::execute(&mut self.upstream.outbox, &claim.portal, 0);
        let replies = self.exchange(end, completions).await?;
        if replies.skipped {
            self.forget_own(&claim.prepared);
            if sync_with_it {
                self.pending.sent(Kind::Sync, Owner::Client);
            } else {
                self.end_claim(claim);
            }
            return Ok(Attempt::Reported);
        }
        self.executed = end == End::Flush;
        if replies.error.is_some() {
            return self.failed(claim, &replies, fresh).await;
        }
        if replies.overflow || !self.has_room(claim, &replies) {
            return Ok(Attempt::TooLarge);
        }
        Ok(match which {
            Own::Nominate(_) if !search.request.is_met_by(replies.rows) => Attempt::Short(replies),
            Own::Nominate(_) | Own::Exact => Attempt::Enough(replies),
        })
    }

    /// Whether what the client does not fetch at once may be held beside what it has not fetched yet.
    fn has_room(&self, claim: &Claim, replies: &Replies) -> bool {
        let is_held = claim.max_rows > 0 && replies.rows >= claim.max_rows;
        !is_held || self.book.held_beside(&claim.portal) + replies.held <= MAX_HELD
    }

    /// Before an own statement is parsed for a client's statement that is older: whether the client's is still valid. Its
    /// result may have changed since (a column was added under `select *`); then it must fail, as it would without Rektor.
    async fn verify_original(
        &mut self,
        claim: &Claim,
        which: Own<'_>,
        fresh: bool,
    ) -> Result<Option<Attempt>, SessionError> {
        let rewrite = self.rewrites.get(&claim.prepared.analysis.sql);
        let known = rewrite.is_some_and(|rewrite| match which {
            Own::Nominate(_) => rewrite.nominate.is_some(),
            Own::Exact => rewrite.exact.is_some(),
        });
        let Some(bind) = BindBody::read(claim.bind.body()) else {
            return Ok(Some(Attempt::Refused));
        };
        if known || !self.pending.is_empty() {
            return Ok(None); // its Parse is on its way
        }
        messages::describe(&mut self.upstream.outbox, b'S', bind.statement);
        let replies = self.exchange(End::Flush, 1).await?;
        if replies.skipped {
            self.end_claim(claim);
            return Ok(Some(Attempt::Reported));
        }
        if replies.error.is_none() {
            return Ok(None);
        }
        self.failed(claim, &replies, fresh).await.map(Some)
    }

    /// What an attempt's error means.
    async fn failed(
        &mut self,
        claim: &Claim,
        replies: &Replies,
        fresh: bool,
    ) -> Result<Attempt, SessionError> {
        if fresh && replies.sqlstate() != Some(QUERY_CANCELED) {
            if replies.ready.is_none() {
                self.recover().await?;
            }
            let names = self.rewrites.distrust(&claim.prepared.analysis.sql);
            self.close_own(&names);
            return Ok(Attempt::Refused);
        }
        self.forget_own(&claim.prepared);
        let shown = replies.frames.iter().filter(|frame| !is_own(frame.tag()));
        for frame in shown.chain(&replies.error).chain(&replies.ready) {
            self.client.outbox.extend_from_slice(frame.bytes());
        }
        if replies.ready.is_none() {
            self.pending.skip_to_sync();
            self.end_claim(claim);
        }
        Ok(Attempt::Reported)
    }

    /// Upstream failed at a text's own statements, or skipped them: which of them it has parsed is not known.
    fn forget_own(&mut self, prepared: &Prepared) {
        let names = self.rewrites.distrust(&prepared.analysis.sql);
        self.retired.extend(names);
    }

    /// The parameter that statements of Rektor's take as a binary vector.
    fn query_parameter(&mut self, claim: &Claim) -> Option<u16> {
        let sql = &claim.prepared.analysis.sql;
        self.rewrites.get(sql)?.query_parameter
    }

    /// The name of a statement of Rektor's; whether a Parse of it was put into the outbox.
    fn own(&mut self, prepared: &Prepared, which: Own<'_>, fresh: bool) -> Option<(Bytes, bool)> {
        let rewrite = self.rewrites.get(&prepared.analysis.sql)?;
        let known = match which {
            Own::Nominate(_) => &rewrite.nominate,
            Own::Exact => &rewrite.exact,
        };
        // In a transaction an error cannot be taken back: there the own statement is never older than the client's, so that
        // it is stale only if the client's is.
        if let Some(own) = known
            && (fresh || own.serial > prepared.serial)
        {
            return Some((own.name.clone(), false));
        }
        let next = self.rewrites.next_own();
        let name = next.name.clone();
        let rewrite = self.rewrites.get(&prepared.analysis.sql)?;
        let out = &mut self.upstream.outbox;
        let old = match which {
            Own::Nominate(_) => {
                let types = rewrite.nominate_types();
                messages::parse(out, &name, rewrite.plan.nominate.as_bytes(), &types);
                rewrite.nominate.replace(next)
            }
            Own::Exact => {
                let types = rewrite.exact_types();
                messages::parse(out, &name, rewrite.plan.exact.as_bytes(), &types);
                rewrite.exact.replace(next)
            }
        };
        self.retired.extend(old.map(|own| own.name));
        Some((name, true))
    }

    /// Whether an empty answer is due to the guards: the transaction has written, or the name means another table.
    pub(super) async fn guards_failed(&mut self, claim: &Claim) -> Result<bool, SessionError> {
        let Some(query) = knn_query(&claim.prepared) else {
            return Ok(true);
        };
        let Some(rewrite) = self.rewrites.get(&claim.prepared.analysis.sql) else {
            return Ok(true);
        };
        let (subject, plan) = (rewrite.subject.clone(), Arc::clone(&rewrite.plan));
        if self
            .look_up(query, &plan.index.definition, &subject, End::Flush)
            .await?
            .is_err()
        {
            return Ok(true);
        }
        let claimable = self.facts.last(&subject).map(|(_, claimable)| claimable);
        Ok(self.facts.wrote() || claimable != Some(Ok(())))
    }

    /// Runs the exact statement in one exchange: few rows are expected.
    pub(super) async fn exact_at_once(
        &mut self,
        claim: &Claim,
        search: &Search,
        first: bool,
    ) -> Result<Served, SessionError> {
        match self.attempt(claim, search, Own::Exact, first).await? {
            Attempt::Enough(replies) | Attempt::Short(replies) => {
                self.give(claim, replies, Way::Exact);
                Ok(Served::Done)
            }
            Attempt::TooLarge => self.exact(claim, search).await,
            failed @ (Attempt::Reported | Attempt::Refused) => Ok(served_after(&failed)),
        }
    }

    /// Runs the exact statement; its answer is relayed as it comes.
    pub(super) async fn exact(
        &mut self,
        claim: &Claim,
        search: &Search,
    ) -> Result<Served, SessionError> {
        let fresh = self.is_fresh();
        let Some(mut bind) = BindBody::read(claim.bind.body()) else {
            return Ok(Served::Relay(RelayReason::MalformedQuery));
        };
        if let Some(failed) = self.verify_original(claim, Own::Exact, fresh).await? {
            return Ok(served_after(&failed));
        }
        let mut completions = 2;
        messages::close(&mut self.upstream.outbox, b'P', &claim.portal);
        let Some((own, parsed)) = self.own(&claim.prepared, Own::Exact, fresh) else {
            return Ok(Served::Relay(RelayReason::StaleGeneration));
        };
        completions += usize::from(parsed);
        let query;
        if let Some(number) = self.query_parameter(claim)
            && search.request.batch.is_none()
            && !bind.is_binary(number)
        {
            query = search.query_in_binary();
            bind.set_binary(number, &query);
        }
        bind.redirect(&mut self.upstream.outbox, &own, &[]);
        let replies = self.exchange(End::Flush, completions).await?;
        if replies.skipped {
            self.forget_own(&claim.prepared);
            self.end_claim(claim);
            return Ok(Served::Done);
        }
        if replies.error.is_some() {
            let failed = self.failed(claim, &replies, fresh).await?;
            return Ok(served_after(&failed));
        }
        let bound = replies
            .frames
            .iter()
            .filter(|frame| matches!(frame.tag(), b'2' | b'N'));
        bound.for_each(|frame| self.client.outbox.extend_from_slice(frame.bytes()));
        self.execute_bound(claim, Completion::default());
        self.shared.context.counters.answered(Way::Exact);
        self.end_claim(claim);
        Ok(Served::Done)
    }
}

/// Whether a reply answers a message that the client did not send: ParseComplete, CloseComplete.
pub(super) fn is_own(tag: u8) -> bool {
    matches!(tag, b'1' | b'3')
}

/// What a failed attempt leaves to do.
fn served_after(failed: &Attempt) -> Served {
    match failed {
        Attempt::Refused => Served::Relay(RelayReason::RewriteRefused),
        Attempt::Reported | Attempt::Enough(_) | Attempt::Short(_) | Attempt::TooLarge => {
            Served::Done
        }
    }
}
