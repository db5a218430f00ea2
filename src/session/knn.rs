//! A claimed k-NN statement → its answer: by nomination, widened while it is short, else exactly, else relayed as it came.
//! Never gives the client a row that Postgres did not return for this very execution.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::SessionError;
use super::attempt::{Attempt, Own, is_own};
use super::candidates::{Proposed, Search, find, key_arrays, wider};
use super::counters::Way;
use super::exchange::{End, Replies};
use super::frame::Frame;
use super::messages::{self, BindBody, Report};
use super::pending::{Completion, Kind, Owner};
use super::prepared::{HeldRows, Meaning, Portal, Prepared};
use super::relay::{Session, Transaction};
use super::request;
use super::rewrite::{self, Taught};
use super::shortage::{Few, MAX_REPEATS, Shortage};
use crate::catalog::IndexId;
use crate::index::Filter;
use crate::index::view::{IndexState, Phase, View};
use crate::lsn::Lsn;
use crate::query::{KnnQuery, Plan, RelayReason, StatementKind};

/// How long a statement waits for the index to apply what the session must see: several times the usual lag, and short
/// enough that an exact scan instead is no worse.
const LSN_WAIT: Duration = Duration::from_secs(2);
/// The same for a session that has just waited in vain.
const LSN_WAIT_AGAIN: Duration = Duration::from_millis(50);
/// SQLSTATE of a cancelled statement.
pub(super) const QUERY_CANCELED: &[u8] = b"57014";

/// A Bind and Execute of a k-NN statement, held back.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) prepared: Arc<Prepared>,
    pub(super) portal: Bytes,
    pub(super) bind: Frame,
    pub(super) describe: Option<Frame>,
    pub(super) execute: Frame,
    pub(super) max_rows: usize,
    /// The client's Sync follows and has been taken.
    pub(super) sync: bool,
}

/// What became of a claim.
#[derive(Debug)]
pub(super) enum Served {
    /// The client has its answer, or will have it from upstream.
    Done,
    /// The original is to run.
    Relay(RelayReason),
}

/// A statement's plan, with what its look-up depends on.
pub(super) struct Planned {
    pub(super) subject: String,
    pub(super) plan: Arc<Plan>,
}

impl Session {
    /// Answers a claimed statement.
    pub(super) async fn answer(&mut self, claim: Claim) -> Result<(), SessionError> {
        match self.serve(&claim).await? {
            Served::Done => Ok(()),
            Served::Relay(reason) => {
                self.shared.context.counters.relayed(&reason.to_string());
                self.relay_claim(&claim, None);
                Ok(())
            }
        }
    }

    /// Lets the portal that was bound for a claim run upstream, its answer relayed as it comes.
    pub(super) fn execute_bound(&mut self, claim: &Claim, completion: Completion) {
        self.book.set_portal(
            &claim.portal,
            Some(Portal::Relayed(Meaning::Analysed(Arc::clone(
                &claim.prepared,
            )))),
        );
        if let Some(describe) = &claim.describe {
            self.forward(describe, Some(Kind::DescribePortal));
        }
        self.forward(&claim.execute, Some(Kind::Execute { completion }));
        self.executed = true;
    }

    /// Lets the client's own statement run; `rows` are given before its end.
    pub(super) fn relay_claim(&mut self, claim: &Claim, rows: Option<Bytes>) {
        self.facts.pin(|| self.shared.context.view.borrow().clone());
        self.forward(&claim.bind, Some(Kind::Bind));
        self.execute_bound(claim, Completion { tag: None, rows });
        let effects = claim.prepared.analysis.effects();
        effects.for_each(|effect| self.facts.note(effect));
        self.end_claim(claim);
    }

    /// Sends the client's Sync, where it was taken with the claim.
    pub(super) fn end_claim(&mut self, claim: &Claim) {
        if claim.sync {
            messages::sync(&mut self.upstream.outbox);
            self.pending.sent(Kind::Sync, Owner::Client);
            self.executed = false;
        }
    }

    async fn serve(&mut self, claim: &Claim) -> Result<Served, SessionError> {
        let retired = std::mem::take(&mut self.retired);
        self.close_own(&retired);
        if !self.pending.is_harmless() {
            self.settle().await?;
        }
        if self.pending.is_skipping() {
            self.end_claim(claim); // upstream would ignore the rest
            return Ok(Served::Done);
        }
        if let Some(registration) = &mut self.registration {
            registration.rearm();
        }
        self.facts.pin(|| self.shared.context.view.borrow().clone());
        let Some(query) = knn_query(&claim.prepared) else {
            return Box::pin(self.serve_explain(claim)).await;
        };
        let bind = BindBody::read(claim.bind.body());
        let planned = match self.planned(&claim.prepared, query) {
            Ok(planned) => planned,
            Err(reason) => return Ok(Served::Relay(reason)),
        };
        let types = &claim.prepared.types;
        let search = match self.prepare(query, types, bind.as_ref(), &planned).await? {
            Ok(search) => search,
            Err(Unready::Relay(reason)) => return Ok(Served::Relay(reason)),
            Err(Unready::Reported) => {
                self.end_claim(claim);
                return Ok(Served::Done);
            }
        };
        self.widen(claim, query, &planned, search).await
    }

    /// Plans the statement, or finds it planned.
    fn planned(&mut self, prepared: &Prepared, query: &KnnQuery) -> Result<Planned, RelayReason> {
        let view = self.shared.context.view.borrow().clone();
        let mut closed = Vec::new();
        let rewrite = self.rewrites.plan(prepared, query, &view, &mut closed);
        let planned = rewrite.map(|rewrite| Planned {
            subject: rewrite.subject.clone(),
            plan: Arc::clone(&rewrite.plan),
        });
        self.close_own(&closed);
        planned
    }

    /// Reads a statement's request, looks up what must be known, and waits for what must be seen.
    pub(super) async fn prepare(
        &mut self,
        query: &KnnQuery,
        types: &[u32],
        bind: Option<&BindBody<'_>>,
        planned: &Planned,
    ) -> Result<Result<Search, Unready>, SessionError> {
        if self.transaction == Transaction::Failed {
            return Ok(Err(RelayReason::TransactionFailed.into()));
        }
        if self.facts.wrote() {
            return Ok(Err(RelayReason::TransactionWrote.into()));
        }
        let (subject, plan) = (&planned.subject, &planned.plan);
        let definition = &plan.index.definition;
        let id = definition.id;
        if let Some(bind) = bind
            && bind.len() + 1 != usize::from(plan.first_key_param)
        {
            return Ok(Err(RelayReason::TooManyParameters.into())); // upstream says that the number is wrong
        }
        let mut request = match request::read(query, definition, types, bind) {
            Ok(request) => request,
            Err(reason) => return Ok(Err(reason.into())),
        };
        let end = if bind.is_some() {
            End::Flush
        } else {
            End::Sync
        };
        if self.facts.get(subject, Instant::now()).is_none()
            && let Err(unready) = self.look_up(query, definition, subject, end).await?
        {
            return Ok(Err(unready));
        }
        let Some((settings, claimable)) = self.facts.last(subject) else {
            return Ok(Err(RelayReason::StaleGeneration.into()));
        };
        if let Err(reason) = claimable {
            return Ok(Err(reason.into()));
        }
        if !settings.utf8 {
            return Ok(Err(RelayReason::ClientEncoding.into()));
        }
        if !settings.conforming_strings {
            return Ok(Err(RelayReason::NonConformingStrings.into()));
        }
        let pinned = match self.facts.view(settings) {
            Ok(pinned) => pinned.cloned(),
            Err(reason) => return Ok(Err(reason.into())),
        };
        let effort = settings.wanted.effort(definition.options.method);
        let must_see = self.facts.must_see(settings);
        let view = match pinned {
            Some(view) => view,
            None => match self.wait_for(id, must_see).await? {
                Ok(view) => view,
                Err(unready) => return Ok(Err(unready)),
            },
        };
        let index = match ready_index(&view, id, must_see) {
            Ok(index) => index,
            Err(reason) => return Ok(Err(reason.into())),
        };
        if self.facts.outruns(view.catalogue_read) {
            return Ok(Err(RelayReason::Unstreamed.into()));
        }
        if index.definition.include != definition.include {
            request.filter = Filter::default(); // it is about the columns of another state of the index
        }
        let search = Search {
            index,
            request,
            effort,
        };
        if search.is_too_large() {
            return Ok(Err(RelayReason::BatchTooLarge.into()));
        }
        Ok(Ok(search))
    }

    /// Waits until the index has applied a position; the newest view.
    pub(super) async fn wait_for(
        &mut self,
        id: IndexId,
        lsn: Lsn,
    ) -> Result<Result<Arc<View>, Unready>, SessionError> {
        let mut views = self.shared.context.view.clone();
        let view = views.borrow_and_update().clone();
        if applied(&view, id) >= lsn {
            return Ok(Ok(view));
        }
        let patience = if self.lagged {
            LSN_WAIT_AGAIN
        } else {
            LSN_WAIT
        };
        let mut registration = self.registration.take();
        let waited = {
            let cancelled = async {
                match &mut registration {
                    Some(registration) => registration.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            // A stream that is down brings nothing: the caller finds the view too old.
            let reached = views.wait_for(|view| applied(view, id) >= lsn || !view.streaming);
            tokio::select! {
                reached = tokio::time::timeout(patience, reached) => match reached {
                    Ok(Ok(view)) => Some(Ok(Arc::clone(&view))),
                    Ok(Err(_)) | Err(_) => Some(Err(RelayReason::Lagging.into())),
                },
                () = cancelled => None,
            }
        };
        self.registration = registration;
        self.lagged = matches!(waited, Some(Err(_)));
        match waited {
            Some(result) => Ok(result),
            None => {
                self.report_cancelled().await?;
                Ok(Err(Unready::Reported))
            }
        }
    }

    /// A cancel request met Rektor between statements of its own: what Postgres would have said.
    pub(super) async fn report_cancelled(&mut self) -> Result<(), SessionError> {
        let report = Report {
            severity: "ERROR",
            sqlstate: "57014",
            message: "canceling statement due to user request",
            hint: None,
        };
        // Upstream must be in the state that it would be in: the statement failed, inside its transaction.
        let name = self.rewrites.next_own().name;
        messages::parse(
            &mut self.upstream.outbox,
            &name,
            b"rektor: statement cancelled",
            &[],
        );
        let replies = self.exchange(End::Flush, 1).await?;
        if replies.error.is_some() {
            messages::error(&mut self.client.outbox, report);
            self.pending.skip_to_sync();
        }
        Ok(())
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.registration
            .as_ref()
            .is_some_and(super::cancel::Registration::is_cancelled)
    }

    /// Attempts with more and more candidates, then *exact*.
    async fn widen(
        &mut self,
        claim: &Claim,
        query: &KnnQuery,
        planned: &Planned,
        mut search: Search,
    ) -> Result<Served, SessionError> {
        let sql = claim.prepared.analysis.sql.as_str();
        let least = search.least();
        let Some(rewrite) = self.rewrites.get(sql) else {
            return Ok(Served::Relay(RelayReason::StaleGeneration));
        };
        if rewrite.hints.goes_exact() {
            return self.exact(claim, &search).await;
        }
        let mut candidates = rewrite.hints.first_candidates(least);
        let widest = search.widest();
        let mut first = true;
        let mut repeats = 0;
        loop {
            let settled = search.is_settled();
            let Some(found) = find(&search, candidates.min(widest)).await else {
                return Ok(Served::Relay(RelayReason::SearchFailed));
            };
            if search.is_short_of(&found) {
                let few = Few {
                    planned,
                    search: &search,
                    settled,
                    taught: Taught::Text(sql),
                    types: &claim.prepared.types,
                    bind: BindBody::read(claim.bind.body()),
                };
                match self.is_exact_better(few).await? {
                    Some(true) => return self.exact_at_once(claim, &search, first).await,
                    Some(false) => {}
                    None => {
                        self.end_claim(claim);
                        return Ok(Served::Done);
                    }
                }
            }
            let keys = key_arrays(&found, &search);
            self.count_candidates(&found);
            let nominate = Own::Nominate(&keys);
            let rows = match self.attempt(claim, &search, nominate, first).await? {
                Attempt::Enough(replies) => {
                    if let Some(rewrite) = self.rewrites.get(sql) {
                        rewrite.hints.enough(candidates);
                    }
                    self.give(claim, replies, Way::Nominate);
                    return Ok(Served::Done);
                }
                Attempt::Reported => return Ok(Served::Done),
                Attempt::Refused => return Ok(Served::Relay(RelayReason::RewriteRefused)),
                Attempt::TooLarge => return self.exact(claim, &search).await,
                Attempt::Short(replies)
                    if found.exhausted && repeats < MAX_REPEATS && !search.request.within =>
                {
                    let end = end_of(&replies);
                    let shortage = self.shortage(query, planned, &search, settled, end).await?;
                    first = false;
                    repeats += 1;
                    match shortage {
                        Shortage::Complete => {
                            if let Some(rewrite) = self.rewrites.get(sql) {
                                rewrite.hints.enough(candidates);
                            }
                            self.give(claim, replies, Way::Nominate);
                            return Ok(Served::Done);
                        }
                        Shortage::Again(newer) => {
                            search = newer;
                            continue;
                        }
                        Shortage::Unknown => return self.exact(claim, &search).await,
                        Shortage::Reported => {
                            self.end_claim(claim);
                            return Ok(Served::Done);
                        }
                    }
                }
                Attempt::Short(replies) => replies.rows,
            };
            if search.request.is_nothing(rows)
                && !self.is_fresh()
                && self.guards_failed(claim).await?
            {
                return Ok(Served::Relay(RelayReason::TransactionWrote));
            }
            if self.is_cancelled() {
                self.report_cancelled().await?;
                self.end_claim(claim);
                return Ok(Served::Done);
            }
            if found.exhausted || candidates >= widest {
                if let Some(rewrite) = self.rewrites.get(sql) {
                    rewrite.hints.fell_short();
                }
                return self.exact(claim, &search).await;
            }
            self.shared
                .context
                .counters
                .widenings
                .fetch_add(1, Ordering::Relaxed);
            candidates = wider(search.request.limit, candidates, rows);
            first = false;
        }
    }

    pub(super) fn count_candidates(&self, found: &Proposed) {
        let count = found.count() as u64;
        self.shared
            .context
            .counters
            .candidates
            .fetch_add(count, Ordering::Relaxed);
    }

    /// Nothing of this transaction has been executed: an attempt that fails can be repeated from its beginning.
    pub(super) fn is_fresh(&self) -> bool {
        self.transaction == Transaction::Idle && !self.executed
    }

    /// Gives the client an answer: all of it, or the first `max_rows` rows.
    pub(super) fn give(&mut self, claim: &Claim, replies: Replies, way: Way) {
        self.shared.context.counters.answered(way);
        let most = if claim.max_rows == 0 {
            usize::MAX
        } else {
            claim.max_rows
        };
        let suspended = replies.rows >= most;
        let mut rows = 0;
        let mut held = HeldRows::default();
        for frame in &replies.frames {
            match frame.tag() {
                b'D' if rows >= most => held.push_back(frame.bytes().clone()),
                b'D' => {
                    rows += 1;
                    self.client.outbox.extend_from_slice(frame.bytes());
                }
                b'C' if suspended => messages::portal_suspended(&mut self.client.outbox),
                tag if is_own(tag) => {}
                _ => self.client.outbox.extend_from_slice(frame.bytes()),
            }
        }
        let portal = suspended.then_some(Portal::Held(held));
        match &replies.ready {
            Some(ready) => {
                self.client.outbox.extend_from_slice(ready.bytes());
                if self.transaction != Transaction::Idle {
                    self.book.set_portal(&claim.portal, portal);
                }
            }
            None => {
                self.book.set_portal(&claim.portal, portal);
                self.end_claim(claim);
            }
        }
    }

    /// Closes own statements that are no longer used; upstream's replies are swallowed.
    pub(super) fn close_own(&mut self, names: &[Bytes]) {
        rewrite::close(&mut self.upstream.outbox, names);
        names
            .iter()
            .for_each(|_| self.pending.sent(Kind::Close, Owner::Rektor));
    }
}

/// How own messages after these replies end: with a Sync only where these did.
fn end_of(replies: &Replies) -> End {
    match replies.ready {
        Some(_) => End::Sync,
        None => End::Flush,
    }
}

/// Why the index does not answer.
#[derive(Debug)]
pub(super) enum Unready {
    /// The original is to run.
    Relay(RelayReason),
    /// The client was given an error.
    Reported,
}

impl From<RelayReason> for Unready {
    fn from(reason: RelayReason) -> Self {
        Self::Relay(reason)
    }
}

/// The k-NN query that a prepared statement is.
pub(super) fn knn_query(prepared: &Prepared) -> Option<&KnnQuery> {
    match &prepared.analysis.single()?.kind {
        StatementKind::Knn(query) => Some(query),
        StatementKind::NotClaimed(_)
        | StatementKind::Explain { .. }
        | StatementKind::Ddl(_)
        | StatementKind::Other => None,
    }
}

fn applied(view: &View, id: IndexId) -> Lsn {
    view.index(id).map_or(Lsn::ZERO, |index| index.applied)
}

/// The index of a view, when it serves and has applied what must be seen.
pub(super) fn ready_index(
    view: &View,
    id: IndexId,
    must_see: Lsn,
) -> Result<Arc<IndexState>, RelayReason> {
    let index = view.index(id).ok_or(RelayReason::SnapshotTooOld)?;
    match index.phase {
        Phase::Ready => {}
        Phase::Copying { .. } => return Err(RelayReason::Copying),
        Phase::Building { .. } => return Err(RelayReason::Building),
        Phase::Failed { .. } => return Err(RelayReason::Failed),
    }
    if index.applied < must_see {
        return Err(RelayReason::Lagging);
    }
    Ok(Arc::clone(index))
}
