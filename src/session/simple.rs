//! A simple Query → relayed, or, when it is one k-NN statement, answered through Rektor's own extended messages: the client
//! sees what a simple Query gives, and its unnamed statement and portal are gone afterwards, as after one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::SessionError;
use super::candidates::{Search, find, key_arrays, wider};
use super::counters::Way;
use super::exchange::{End, Replies};
use super::frame::Frame;
use super::knn::{Planned, QUERY_CANCELED, Served, Unready};
use super::messages;
use super::pending::{Kind, Owner};
use super::prepared::Analysis;
use super::relay::{Session, Transaction};
use super::rewrite::{self, Taught};
use super::shortage::{Few, MAX_REPEATS, Shortage};
use super::verify::Then;
use crate::query::{KnnQuery, QueryVector, RelayReason, StatementKind};

/// Own statements of a simple Query: the original, for its errors, and the one that nominates.
const ORIGINAL: &[u8] = b"rektor_simple_original";
const NOMINATE: &[u8] = b"rektor_simple_nominate";

impl Session {
    /// Deals with a simple Query.
    pub(super) async fn simple_query(&mut self, frame: Frame) -> Result<(), SessionError> {
        let sql = frame.body().strip_suffix(b"\0").unwrap_or(frame.body());
        let analysis = match self.shared.analyses.of(sql) {
            Ok(analysis) => analysis,
            Err(effect) => {
                self.relay_query(&frame, [effect]);
                return Ok(());
            }
        };
        let gone = analysis.deallocates();
        gone.iter().for_each(|gone| self.book.deallocate(gone));
        if analysis.interest.stat {
            if !self.pending.is_empty() {
                self.settle().await?;
            }
            if self.transaction != Transaction::Failed && !self.executed {
                self.send_stat(End::Sync);
            }
        }
        if analysis.interest.verify && self.verify_simple(&analysis).await? == Then::Reported {
            return Ok(());
        }
        if analysis.interest.ddl {
            self.look_for_indexes(&analysis).await?;
            if self.simple_ddl(&analysis) {
                return Ok(());
            }
        }
        let reason = match analysis.single().map(|statement| &statement.kind) {
            Some(StatementKind::Knn(query)) => {
                match Box::pin(self.simple_knn(&analysis, query)).await? {
                    Served::Done => return Ok(()),
                    Served::Relay(reason) => Some(reason),
                }
            }
            Some(StatementKind::NotClaimed(reason)) => Some(*reason),
            Some(StatementKind::Explain { .. }) => {
                return Box::pin(self.simple_explain(&frame, &analysis)).await;
            }
            Some(StatementKind::Ddl(_) | StatementKind::Other) | None => None,
        };
        if let Some(reason) = reason {
            self.shared.context.counters.relayed(&reason.to_string());
        }
        self.relay_query(&frame, analysis.effects());
        Ok(())
    }

    /// Answers a simple Query that is one k-NN statement.
    async fn simple_knn(
        &mut self,
        analysis: &Arc<Analysis>,
        query: &KnnQuery,
    ) -> Result<Served, SessionError> {
        if !self.pending.is_empty() {
            self.settle().await?;
        }
        if self.executed || self.pending.is_skipping() {
            return Ok(Served::Relay(RelayReason::NotDirect)); // extended messages without their Sync come before it
        }
        if let Some(registration) = &mut self.registration {
            registration.rearm();
        }
        self.facts.pin(|| self.shared.context.view.borrow().clone());
        let view = self.shared.context.view.borrow().clone();
        let planned = match rewrite::plan(&analysis.sql, query, &[], &view) {
            Ok(rewrite) => Planned {
                subject: rewrite.subject,
                plan: rewrite.plan,
            },
            Err(reason) => return Ok(Served::Relay(reason)),
        };
        if planned.plan.first_key_param != 1 {
            return Ok(Served::Relay(RelayReason::ParameterType)); // there is no parameter $1, as upstream says
        }
        let search = match self.prepare(query, &[], None, &planned).await? {
            Ok(search) => search,
            Err(Unready::Relay(reason)) => return Ok(Served::Relay(reason)),
            Err(Unready::Reported) => return self.ready_after_error().await,
        };
        self.simple_widen(analysis, query, &planned, search).await
    }

    /// After an error that was given to the client: ReadyForQuery.
    pub(super) async fn ready_after_error(&mut self) -> Result<Served, SessionError> {
        messages::sync(&mut self.upstream.outbox);
        self.pending.sent(Kind::Sync, Owner::Client);
        self.settle().await?;
        Ok(Served::Done)
    }

    async fn simple_widen(
        &mut self,
        analysis: &Arc<Analysis>,
        query: &KnnQuery,
        planned: &Planned,
        mut search: Search,
    ) -> Result<Served, SessionError> {
        let shape = shape(&analysis.sql, query);
        let least = search.least();
        let widest = search.widest();
        let hints = self.rewrites.hints(shape.clone());
        if hints.goes_exact() {
            return Ok(self.simple_exact(planned));
        }
        let mut candidates = hints.first_candidates(least);
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
                    taught: Taught::Shape(&shape),
                    types: &[],
                    bind: None,
                };
                match self.is_exact_better(few).await? {
                    Some(true) => return Ok(self.simple_exact(planned)),
                    Some(false) => {}
                    None => return self.ready_after_error().await,
                }
            }
            let keys = key_arrays(&found, &search);
            self.count_candidates(&found);
            let original = first.then_some(analysis.sql.as_str());
            let replies = self.simple_attempt(original, planned, &keys).await?;
            if let Some(served) = self.simple_error(&replies) {
                return Ok(served);
            }
            if replies.overflow {
                return Ok(self.simple_exact(planned));
            }
            if search.request.is_met_by(replies.rows) {
                self.rewrites.hints(shape).enough(candidates);
                self.simple_give(&replies);
                return Ok(Served::Done);
            }
            first = false;
            if found.exhausted && repeats < MAX_REPEATS && !search.request.within {
                repeats += 1;
                match self
                    .shortage(query, planned, &search, settled, End::Sync)
                    .await?
                {
                    Shortage::Complete => {
                        self.rewrites.hints(shape).enough(candidates);
                        self.simple_give(&replies);
                        return Ok(Served::Done);
                    }
                    Shortage::Again(newer) => search = newer,
                    Shortage::Unknown => return Ok(self.simple_exact(planned)),
                    Shortage::Reported => return self.ready_after_error().await,
                }
                continue;
            }
            if search.request.is_nothing(replies.rows) && self.transaction == Transaction::Open {
                let definition = &planned.plan.index.definition;
                match self
                    .look_up(query, definition, &planned.subject, End::Sync)
                    .await?
                {
                    Ok(_) => {}
                    Err(Unready::Relay(reason)) => return Ok(Served::Relay(reason)),
                    Err(Unready::Reported) => return self.ready_after_error().await,
                }
                if let Some((_, Err(reason))) = self.facts.last(&planned.subject) {
                    return Ok(Served::Relay(reason));
                }
            }
            if self.is_cancelled() {
                self.report_cancelled().await?;
                return self.ready_after_error().await;
            }
            if found.exhausted || candidates >= widest {
                self.rewrites.hints(shape).fell_short();
                return Ok(self.simple_exact(planned));
            }
            self.shared
                .context
                .counters
                .widenings
                .fetch_add(1, Ordering::Relaxed);
            candidates = wider(search.request.limit, candidates, replies.rows);
        }
    }

    /// Runs the nominating statement once; the first time with the original parsed before it, for its errors.
    async fn simple_attempt(
        &mut self,
        original: Option<&str>,
        planned: &Planned,
        keys: &[Bytes],
    ) -> Result<Replies, SessionError> {
        let out = &mut self.upstream.outbox;
        if let Some(original) = original {
            for name in [b"", ORIGINAL, NOMINATE] {
                messages::close(out, b'S', name);
            }
            let types: Vec<u32> = {
                let key = planned.plan.index.definition.key.iter();
                key.map(|column| column.kind.array_oid().0).collect()
            };
            messages::parse(out, ORIGINAL, original.as_bytes(), &[]);
            messages::parse(out, NOMINATE, planned.plan.nominate.as_bytes(), &types);
        }
        messages::bind_binary(out, b"", NOMINATE, keys);
        messages::describe(out, b'P', b"");
        messages::execute(out, b"", 0);
        messages::close(out, b'P', b"");
        self.book.remove_statement(b"");
        self.book.remove_portal(b"");
        self.exchange(End::Sync, 0).await
    }

    /// What an attempt's error means: the client's, or a reason to run the original.
    fn simple_error(&mut self, replies: &Replies) -> Option<Served> {
        let error = replies.error.as_ref()?;
        let parsed = replies
            .frames
            .iter()
            .filter(|frame| frame.tag() == b'1')
            .count();
        let closed = replies
            .frames
            .iter()
            .filter(|frame| frame.tag() == b'3')
            .count();
        let is_original = closed == 3 && parsed == 0;
        let cancelled = replies.sqlstate() == Some(QUERY_CANCELED);
        if self.transaction == Transaction::Idle && !is_original && !cancelled {
            return Some(Served::Relay(RelayReason::RewriteRefused));
        }
        self.client.outbox.extend_from_slice(error.bytes());
        if let Some(ready) = &replies.ready {
            self.client.outbox.extend_from_slice(ready.bytes());
        }
        Some(Served::Done)
    }

    fn simple_give(&mut self, replies: &Replies) {
        self.shared.context.counters.answered(Way::Nominate);
        let shown = replies
            .frames
            .iter()
            .filter(|frame| !matches!(frame.tag(), b'1' | b'2' | b'3'));
        for frame in shown.chain(&replies.ready) {
            self.client.outbox.extend_from_slice(frame.bytes());
        }
    }

    /// Runs the exact statement as the client's simple Query.
    fn simple_exact(&mut self, planned: &Planned) -> Served {
        self.shared.context.counters.answered(Way::Exact);
        messages::query(&mut self.upstream.outbox, planned.plan.exact.as_bytes());
        let completions = VecDeque::new();
        self.pending
            .sent(Kind::Query { completions }, Owner::Client);
        self.book.remove_statement(b"");
        self.book.remove_portal(b"");
        Served::Done
    }
}

/// A text without its query vector or vectors: what executions of "the same" simple query have in common.
fn shape(sql: &str, query: &KnnQuery) -> String {
    match &query.query {
        QueryVector::Literal(literal) => sql.replacen(literal.as_str(), "?", 1),
        QueryVector::Parameter(_) => sql.to_owned(),
        QueryVector::Rows(_) | QueryVector::Elements(_) => {
            query.search_of_batch(sql).unwrap_or(sql).to_owned()
        }
    }
}
