//! A claimed k-NN statement → its answer: by nomination, widened while it is short, else exactly, else relayed as it came.
//! Never gives the client a row that Postgres did not return for this very execution.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::SessionError;
use super::counters::Way;
use super::exchange::{End, Replies};
use super::frame::Frame;
use super::messages::{self, BindBody, Report};
use super::pending::{Completion, Kind, Owner};
use super::prepared::{Meaning, Portal, Prepared};
use super::relay::{Session, Transaction};
use super::request::{self, Request};
use super::rewrite;
use crate::catalog::{IndexDefinition, IndexId, RowKey};
use crate::index::view::{IndexState, Phase, View};
use crate::index::{DEFAULT_EF, Found};
use crate::lsn::Lsn;
use crate::query::{KnnQuery, Plan, RelayReason, StatementKind};
use crate::vector::Vector;

/// Candidates beyond k + offset: so many may have moved upstream since they were indexed without costing the last place.
/// Ten more keys cost 25–40 µs.
pub(super) const MARGIN: usize = 10;
/// Candidates are multiplied by this while the answer is short.
pub(super) const WIDENING: usize = 4;
/// Widening ends at this share of the table: from there on a scan is as good.
const WIDEST_SHARE: usize = 50;
/// Widening goes at least this far, however small the table is.
const LEAST_WIDEST: usize = 500;
/// How long a statement waits for the index to apply what the session must see: several times the usual lag, and short
/// enough that an exact scan instead is no worse.
const LSN_WAIT: Duration = Duration::from_secs(2);
/// Candidates above which a search leaves the session's thread: it takes a millisecond and more.
const INLINE_CANDIDATES: usize = 400;
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

/// What an attempt with some candidates brought.
enum Attempt {
    /// An answer that may be given.
    Enough(Replies),
    /// Fewer rows than wanted.
    Short { rows: usize },
    /// More bytes than may be held.
    TooLarge,
    /// The statement is dealt with: an error was given to the client.
    Reported,
    /// Upstream refused the rewritten statement, and nothing was lost by it.
    Refused,
}

/// A statement's plan, with what its look-up depends on.
pub(super) struct Planned {
    pub(super) subject: String,
    pub(super) plan: Arc<Plan>,
}

/// What is asked and of which index, settled before the first attempt.
pub(super) struct Search {
    pub(super) index: Arc<IndexState>,
    pub(super) request: Request,
    pub(super) ef: usize,
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

    /// Lets the client's own statement run; `rows` are given before its end.
    pub(super) fn relay_claim(&mut self, claim: &Claim, rows: Option<Bytes>) {
        self.facts.pin(|| self.shared.context.view.borrow().clone());
        self.forward(&claim.bind, Some(Kind::Bind));
        self.book.set_portal(
            &claim.portal,
            Some(Portal::Relayed(Meaning::Analysed(Arc::clone(
                &claim.prepared,
            )))),
        );
        if let Some(describe) = &claim.describe {
            self.forward(describe, Some(Kind::DescribePortal));
        }
        self.forward(
            &claim.execute,
            Some(Kind::Execute {
                completion: Completion { tag: None, rows },
            }),
        );
        self.executed = true;
        self.facts.note(claim.prepared.analysis.effect());
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
        self.widen(claim, &search).await
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
        let request = match request::read(query, definition, types, bind) {
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
        let ef = settings.ef_search.unwrap_or(DEFAULT_EF);
        let must_see = self.facts.must_see(settings);
        let view = match pinned {
            Some(view) => view,
            None => match self.wait_for(id, must_see).await? {
                Ok(view) => view,
                Err(unready) => return Ok(Err(unready)),
            },
        };
        Ok(ready_index(&view, id, must_see)
            .map(|index| Search { index, request, ef })
            .map_err(Unready::Relay))
    }

    /// Waits until the index has applied a position; the newest view.
    async fn wait_for(
        &mut self,
        id: IndexId,
        lsn: Lsn,
    ) -> Result<Result<Arc<View>, Unready>, SessionError> {
        let mut views = self.shared.context.view.clone();
        let view = views.borrow_and_update().clone();
        if applied(&view, id) >= lsn {
            return Ok(Ok(view));
        }
        let mut registration = self.registration.take();
        let waited = {
            let cancelled = async {
                match &mut registration {
                    Some(registration) => registration.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            let reached = views.wait_for(|view| applied(view, id) >= lsn);
            tokio::select! {
                reached = tokio::time::timeout(LSN_WAIT, reached) => match reached {
                    Ok(Ok(view)) => Some(Ok(Arc::clone(&view))),
                    Ok(Err(_)) | Err(_) => Some(Err(RelayReason::Lagging.into())),
                },
                () = cancelled => None,
            }
        };
        self.registration = registration;
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
    async fn widen(&mut self, claim: &Claim, search: &Search) -> Result<Served, SessionError> {
        let sql = claim.prepared.analysis.sql.as_str();
        let least = search.request.wanted + MARGIN;
        let Some(rewrite) = self.rewrites.get(sql) else {
            return Ok(Served::Relay(RelayReason::StaleGeneration));
        };
        if rewrite.hints.goes_exact() {
            return self.exact(claim).await;
        }
        let mut candidates = rewrite.hints.first_candidates(least);
        let widest = widest(&search.index).max(least);
        let mut first = true;
        loop {
            let Some(found) = find(search, candidates.min(widest)).await else {
                return Ok(Served::Relay(RelayReason::SearchFailed));
            };
            let keys = key_arrays(&found, search);
            self.count_candidates(&found);
            match self.attempt(claim, search, &keys, first).await? {
                Attempt::Enough(replies) => {
                    if let Some(rewrite) = self.rewrites.get(sql) {
                        rewrite.hints.enough(candidates);
                    }
                    self.give(claim, replies);
                    return Ok(Served::Done);
                }
                Attempt::Reported => return Ok(Served::Done),
                Attempt::Refused => return Ok(Served::Relay(RelayReason::RewriteRefused)),
                Attempt::TooLarge => return self.exact(claim).await,
                Attempt::Short { rows } => {
                    if rows == 0 && !self.is_fresh() && self.guards_failed(claim).await? {
                        return Ok(Served::Relay(RelayReason::TransactionWrote));
                    }
                }
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
                return self.exact(claim).await;
            }
            self.shared
                .context
                .counters
                .widenings
                .fetch_add(1, Ordering::Relaxed);
            candidates = candidates.saturating_mul(WIDENING);
            first = false;
        }
    }

    pub(super) fn count_candidates(&self, found: &Found) {
        let count = found.neighbors.len() as u64;
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

    /// Runs the nominating statement once.
    async fn attempt(
        &mut self,
        claim: &Claim,
        search: &Search,
        keys: &[Bytes],
        first: bool,
    ) -> Result<Attempt, SessionError> {
        let fresh = self.is_fresh();
        let sync_with_it = claim.sync && !self.executed;
        let end = if sync_with_it { End::Sync } else { End::Flush };
        let Some(bind) = BindBody::read(claim.bind.body()) else {
            return Ok(Attempt::Refused);
        };
        if let Some(failed) = self.verify_original(claim, fresh).await? {
            return Ok(failed);
        }
        let mut completions = 2;
        if !first && !(fresh && sync_with_it) {
            messages::close(&mut self.upstream.outbox, b'P', &claim.portal);
            completions += 1;
        }
        let Some((own, parsed)) = self.own_nominate(&claim.prepared, fresh) else {
            return Ok(Attempt::Refused);
        };
        completions += usize::from(parsed);
        bind.redirect(&mut self.upstream.outbox, &own, keys);
        if let Some(describe) = &claim.describe {
            self.upstream.outbox.extend_from_slice(describe.bytes());
            completions += 1;
        }
        messages::execute(&mut self.upstream.outbox, &claim.portal, 0);
        let replies = self.exchange(end, completions).await?;
        if replies.skipped {
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
        if replies.overflow {
            return Ok(Attempt::TooLarge);
        }
        if replies.rows < search.request.limit {
            return Ok(Attempt::Short { rows: replies.rows });
        }
        Ok(Attempt::Enough(replies))
    }

    /// Before an own statement is parsed for a client's statement that is older: whether the client's is still valid. Its
    /// result may have changed since (a column was added under `select *`); then it must fail, as it would without Rektor.
    async fn verify_original(
        &mut self,
        claim: &Claim,
        fresh: bool,
    ) -> Result<Option<Attempt>, SessionError> {
        let rewrite = self.rewrites.get(&claim.prepared.analysis.sql);
        let known = rewrite.is_some_and(|rewrite| rewrite.nominate.is_some());
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

    /// The nominating statement's name; whether a Parse of it was put into the outbox.
    fn own_nominate(&mut self, prepared: &Prepared, fresh: bool) -> Option<(Bytes, bool)> {
        let next = self.rewrites.next_own();
        let rewrite = self.rewrites.get(&prepared.analysis.sql)?;
        // In a transaction an error cannot be taken back: there the own statement is never older than the client's, so that
        // it is stale only if the client's is.
        if let Some(own) = &rewrite.nominate
            && (fresh || own.serial > prepared.serial)
        {
            return Some((own.name.clone(), false));
        }
        let types = rewrite.nominate_types();
        messages::parse(
            &mut self.upstream.outbox,
            &next.name,
            rewrite.plan.nominate.as_bytes(),
            &types,
        );
        let name = next.name.clone();
        let old = rewrite.nominate.replace(next);
        self.retired.extend(old.map(|own| own.name));
        Some((name, true))
    }

    /// Whether an empty answer is due to the guards: the transaction has written, or the name means another table.
    async fn guards_failed(&mut self, claim: &Claim) -> Result<bool, SessionError> {
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

    /// Gives the client an answer: all of it, or the first `max_rows` rows.
    fn give(&mut self, claim: &Claim, replies: Replies) {
        self.shared.context.counters.answered(Way::Nominate);
        let most = if claim.max_rows == 0 {
            usize::MAX
        } else {
            claim.max_rows
        };
        let suspended = replies.rows >= most;
        let mut rows = 0;
        let mut held = std::collections::VecDeque::new();
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

    /// Runs the exact statement; its answer is relayed as it comes.
    async fn exact(&mut self, claim: &Claim) -> Result<Served, SessionError> {
        let fresh = self.is_fresh();
        let Some(bind) = BindBody::read(claim.bind.body()) else {
            return Ok(Served::Relay(RelayReason::MalformedQuery));
        };
        if let Some(failed) = self.verify_original(claim, fresh).await? {
            return Ok(served_after(&failed));
        }
        let next = self.rewrites.next_own();
        let Some(rewrite) = self.rewrites.get(&claim.prepared.analysis.sql) else {
            return Ok(Served::Relay(RelayReason::StaleGeneration));
        };
        let mut completions = 2;
        messages::close(&mut self.upstream.outbox, b'P', &claim.portal);
        let known = rewrite
            .exact
            .clone()
            .filter(|own| fresh || own.serial > claim.prepared.serial);
        let own = match known {
            Some(own) => own,
            None => {
                let sql = rewrite.plan.exact.as_bytes();
                let types = &claim.prepared.types;
                messages::parse(&mut self.upstream.outbox, &next.name, sql, types);
                completions += 1;
                let old = rewrite.exact.replace(next.clone());
                self.retired.extend(old.map(|own| own.name));
                next
            }
        };
        bind.redirect(&mut self.upstream.outbox, &own.name, &[]);
        let replies = self.exchange(End::Flush, completions).await?;
        if replies.skipped {
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
        self.book.set_portal(
            &claim.portal,
            Some(Portal::Relayed(Meaning::Analysed(Arc::clone(
                &claim.prepared,
            )))),
        );
        if let Some(describe) = &claim.describe {
            self.forward(describe, Some(Kind::DescribePortal));
        }
        self.forward(
            &claim.execute,
            Some(Kind::Execute {
                completion: Completion::default(),
            }),
        );
        self.executed = true;
        self.shared.context.counters.answered(Way::Exact);
        self.end_claim(claim);
        Ok(Served::Done)
    }

    /// Closes own statements that are no longer used; upstream's replies are swallowed.
    pub(super) fn close_own(&mut self, names: &[Bytes]) {
        rewrite::close(&mut self.upstream.outbox, names);
        names
            .iter()
            .for_each(|_| self.pending.sent(Kind::Close, Owner::Rektor));
    }
}

/// Whether a reply answers a message that the client did not send: ParseComplete, CloseComplete.
fn is_own(tag: u8) -> bool {
    matches!(tag, b'1' | b'3')
}

/// What a failed attempt leaves to do.
fn served_after(failed: &Attempt) -> Served {
    match failed {
        Attempt::Refused => Served::Relay(RelayReason::RewriteRefused),
        Attempt::Reported | Attempt::Enough(_) | Attempt::Short { .. } | Attempt::TooLarge => {
            Served::Done
        }
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
fn ready_index(view: &View, id: IndexId, must_see: Lsn) -> Result<Arc<IndexState>, RelayReason> {
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

/// Most candidates that are worth proposing.
pub(super) fn widest(index: &IndexState) -> usize {
    let live = index
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.stats().live);
    usize::try_from(live).unwrap_or(usize::MAX) / WIDEST_SHARE + LEAST_WIDEST
}

/// Searches the index; `None` when it cannot.
pub(super) async fn find(search: &Search, candidates: usize) -> Option<Found> {
    let snapshot = Arc::clone(search.index.snapshot.as_ref()?);
    let ef = search.ef.max(candidates);
    let found = if candidates <= INLINE_CANDIDATES {
        snapshot.search(&search.request.vector, candidates, ef)
    } else {
        let query: Vector = search.request.vector.clone();
        let searching =
            tokio::task::spawn_blocking(move || snapshot.search(&query, candidates, ef));
        searching.await.ok()?
    };
    match found {
        Ok(found) => Some(found),
        Err(error) => {
            tracing::error!(index = %search.index.definition.name, %error, "a search failed");
            None
        }
    }
}

/// The keys of the candidates: for each key column one array in binary form.
pub(super) fn key_arrays(found: &Found, search: &Search) -> Vec<Bytes> {
    let Some(snapshot) = &search.index.snapshot else {
        return Vec::new();
    };
    let keys: Vec<&[u8]> = found
        .neighbors
        .iter()
        .filter_map(|near| snapshot.key(near.row))
        .collect();
    arrays(&search.index.definition, &keys)
}

fn arrays(definition: &IndexDefinition, keys: &[&[u8]]) -> Vec<Bytes> {
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let mut columns: Vec<BytesMut> = definition
        .key
        .iter()
        .map(|column| {
            let mut array = BytesMut::with_capacity(20 + keys.len() * 12);
            array.put_u32(u32::from(count > 0)); // dimensions
            array.put_u32(0); // no NULLs
            array.put_u32(column.kind.oid().0);
            if count > 0 {
                array.put_u32(count);
                array.put_u32(1); // lower bound
            }
            array
        })
        .collect();
    for key in keys {
        for (array, part) in columns.iter_mut().zip(RowKey::parts(key)) {
            array.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
            array.put_slice(part);
        }
    }
    columns.into_iter().map(BytesMut::freeze).collect()
}
