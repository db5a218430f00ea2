//! EXPLAIN of a k-NN statement → the plan of the statement that would run, and lines that say way, index and effort, or why it
//! is relayed. Never shows a key: they stand behind a sub-select, empty unless ANALYZE runs the statement.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::SessionError;
use super::candidates::{Search, WIDENING, find, key_arrays};
use super::exchange::{End, Replies};
use super::frame::Frame;
use super::knn::{Claim, Planned, Served, Unready};
use super::messages::{self, BindBody};
use super::pending::{Completion, Kind, Owner};
use super::prepared::Analysis;
use super::relay::{Session, Transaction};
use super::rewrite;
use super::stat::name;
use crate::index::Effort;
use crate::index::view::View;
use crate::query::{Effect, KnnQuery, Plan, RelayReason, StatementKind};

/// Whether policies hide rows of the table from the role: then it is not told how many there are.
const ROW_SECURITY: &str = include_str!("../../sql/session_row_security.sql");

/// An EXPLAIN of a k-NN statement, in text form.
pub(super) struct Explain<'a> {
    /// EXPLAIN and its options, as written.
    prefix: &'a str,
    query: &'a KnnQuery,
    analyze: bool,
    verbose: bool,
}

/// What an EXPLAIN will show.
struct Explained {
    /// The statement to run, with `extra` parameters beyond the client's; `None` is the original.
    instead: Option<(String, Vec<Bytes>)>,
    lines: Vec<String>,
}

impl<'a> Explain<'a> {
    /// The EXPLAIN in a text, when it is one that is answered.
    pub(super) fn of(analysis: &'a Analysis) -> Option<Self> {
        let statement = analysis.single()?;
        let StatementKind::Explain {
            analyze,
            verbose,
            text: true,
            inner,
        } = &statement.kind
        else {
            return None;
        };
        let StatementKind::Knn(query) = &inner.kind else {
            return None;
        };
        Some(Self {
            prefix: analysis.sql.get(statement.range.start..inner.range.start)?,
            query,
            analyze: *analyze,
            verbose: *verbose,
        })
    }
}

/// The line of an EXPLAIN whose statement is not claimed.
pub(super) fn not_claimed(analysis: &Analysis, view: &View) -> Option<Bytes> {
    let mut tables = view
        .indexes
        .iter()
        .map(|index| &index.definition.table.name);
    if !tables.any(|table| analysis.sql.contains(table.as_str())) {
        return None; // other types have operators of these names: such a plan is Postgres's own
    }
    let StatementKind::Explain {
        text: true, inner, ..
    } = &analysis.single()?.kind
    else {
        return None;
    };
    match &inner.kind {
        StatementKind::NotClaimed(reason) => Some(rows(&[relay_line(*reason)])),
        StatementKind::Knn(_)
        | StatementKind::Explain { .. }
        | StatementKind::Ddl(_)
        | StatementKind::Other => None,
    }
}

fn relay_line(reason: RelayReason) -> String {
    format!("Rektor: relay ({reason})")
}

/// Lines of a plan, as DataRows.
fn rows(lines: &[String]) -> Bytes {
    let mut out = BytesMut::new();
    for line in lines {
        messages::data_row(&mut out, line.as_bytes());
    }
    out.freeze()
}

impl Session {
    /// Answers a simple EXPLAIN.
    pub(super) async fn simple_explain(
        &mut self,
        frame: &Frame,
        analysis: &Arc<Analysis>,
    ) -> Result<(), SessionError> {
        let mut shown = not_claimed(analysis, &self.shared.context.view.borrow());
        if let Some(explain) = Explain::of(analysis) {
            if !self.pending.is_empty() {
                self.settle().await?;
            }
            let explained = match self.explained(&analysis.sql, &explain, &[], None).await? {
                Ok(explained) => explained,
                Err(Unready::Relay(reason)) => Explained::relay(reason),
                Err(Unready::Reported) => {
                    self.ready_after_error().await?;
                    return Ok(());
                }
            };
            let lines = rows(&explained.lines);
            match explained.instead {
                Some((sql, keys)) if !self.executed => {
                    return self
                        .simple_explain_instead(frame, analysis.effects(), (&sql, &keys), &lines)
                        .await;
                }
                Some(_) | None => shown = Some(lines),
            }
        }
        self.relay_query(frame, analysis.effects());
        if let (Some(rows), Some(last)) = (shown, self.pending.last())
            && let Kind::Query { completions } = &mut last.kind
        {
            {
                completions.push_back(Completion {
                    tag: None,
                    rows: Some(rows),
                });
            }
        }
        Ok(())
    }

    async fn simple_explain_instead(
        &mut self,
        frame: &Frame,
        effects: impl Iterator<Item = Effect>,
        (sql, keys): (&str, &[Bytes]),
        lines: &Bytes,
    ) -> Result<(), SessionError> {
        let own = self.rewrites.next_own();
        let out = &mut self.upstream.outbox;
        messages::close(out, b'S', b"");
        messages::parse(out, &own.name, sql.as_bytes(), &[]);
        messages::bind_binary(out, b"", &own.name, keys);
        messages::describe(out, b'P', b"");
        messages::execute(out, b"", 0);
        messages::close(out, b'P', b"");
        messages::close(out, b'S', &own.name);
        self.book.remove_statement(b"");
        self.book.remove_portal(b"");
        let replies = self.exchange(End::Sync, 0).await?;
        if replies.error.is_some() && self.transaction == Transaction::Idle {
            self.relay_query(frame, effects); // the error, in the words for the statement as it came
            return Ok(());
        }
        self.give_explained(&replies, lines, false);
        Ok(())
    }

    /// Answers an EXPLAIN of the extended protocol.
    pub(super) async fn serve_explain(&mut self, claim: &Claim) -> Result<Served, SessionError> {
        let analysis = Arc::clone(&claim.prepared.analysis);
        let (Some(explain), Some(bind)) =
            (Explain::of(&analysis), BindBody::read(claim.bind.body()))
        else {
            return Ok(Served::Relay(RelayReason::NotDirect));
        };
        let types = &claim.prepared.types;
        let explained = match self
            .explained(&analysis.sql, &explain, types, Some(&bind))
            .await?
        {
            Ok(explained) => explained,
            Err(Unready::Relay(reason)) => Explained::relay(reason),
            Err(Unready::Reported) => {
                self.end_claim(claim);
                return Ok(Served::Done);
            }
        };
        let lines = rows(&explained.lines);
        let Some((sql, keys)) = explained.instead else {
            self.relay_claim(claim, Some(lines));
            return Ok(Served::Done);
        };
        let own = self.rewrites.next_own();
        let fresh = self.is_fresh();
        let out = &mut self.upstream.outbox;
        messages::parse(out, &own.name, sql.as_bytes(), types);
        bind.redirect(out, &own.name, &keys);
        let mut completions = 4;
        if let Some(describe) = &claim.describe {
            out.extend_from_slice(describe.bytes());
            completions += 1;
        }
        messages::execute(out, &claim.portal, 0);
        messages::close(out, b'S', &own.name);
        let end = if claim.sync && !self.executed {
            End::Sync
        } else {
            End::Flush
        };
        let replies = self.exchange(end, completions).await?;
        if replies.skipped {
            match end {
                End::Sync => self.pending.sent(Kind::Sync, Owner::Client),
                End::Flush => self.end_claim(claim),
            }
            return Ok(Served::Done);
        }
        if replies.error.is_some() && fresh {
            if replies.ready.is_none() {
                self.recover().await?;
            }
            return Ok(Served::Relay(RelayReason::RewriteRefused));
        }
        self.executed = end == End::Flush;
        self.give_explained(&replies, &lines, true);
        if replies.ready.is_none() {
            if replies.error.is_some() {
                self.pending.skip_to_sync();
            }
            self.end_claim(claim);
        }
        Ok(Served::Done)
    }

    /// Gives the client a plan with Rektor's lines after it; BindComplete only to one that sent a Bind.
    fn give_explained(&mut self, replies: &Replies, lines: &Bytes, bound: bool) {
        for frame in &replies.frames {
            match frame.tag() {
                b'1' | b'3' => continue,
                b'2' if !bound => continue,
                b'C' => self.client.outbox.extend_from_slice(lines),
                _ => {}
            }
            self.client.outbox.extend_from_slice(frame.bytes());
        }
        for frame in replies.error.iter().chain(&replies.ready) {
            self.client.outbox.extend_from_slice(frame.bytes());
        }
    }

    /// What an EXPLAIN shows, and the statement that it explains.
    async fn explained(
        &mut self,
        sql: &str,
        explain: &Explain<'_>,
        types: &[u32],
        bind: Option<&BindBody<'_>>,
    ) -> Result<Result<Explained, Unready>, SessionError> {
        if self.transaction == Transaction::Failed {
            return Ok(Err(RelayReason::TransactionFailed.into()));
        }
        self.facts.pin(|| self.shared.context.view.borrow().clone());
        let view = self.shared.context.view.borrow().clone();
        let planned = match rewrite::plan(sql, explain.query, types, &view) {
            Ok(rewrite) => Planned {
                subject: rewrite.subject,
                plan: rewrite.plan,
            },
            Err(reason) => return Ok(Err(reason.into())),
        };
        let search = match self.prepare(explain.query, types, bind, &planned).await? {
            Ok(search) => search,
            Err(unready) => return Ok(Err(unready)),
        };
        let end = match bind {
            Some(_) => End::Flush,
            None => End::Sync,
        };
        let table = search.index.definition.relation;
        let Some(hides) = self.is_true_of(table, ROW_SECURITY, end).await? else {
            return Ok(Err(Unready::Reported));
        };
        let least = search.least();
        let lag = view.upstream.bytes_since(search.index.applied);
        let mut lines = vec![
            "Rektor: nominate".to_owned(),
            format!("  Index: {}", index_line(&search, hides)),
        ];
        if search.request.batch.is_some() {
            let vectors = search.request.vectors.len();
            lines.push(format!(
                "  Vectors: {vectors}, each with candidates of its own"
            ));
        }
        lines.extend([
            candidates_line(&search, hides),
            format!("  Effort: {}", effort_line(&search, least)),
        ]);
        lines.extend(filter_line(&search, hides));
        lines.extend([format!("  Lag: {lag} bytes")]);
        if explain.analyze && explain.verbose {
            lines.push(
                "  Plan: of the statement as it came, since ANALYZE VERBOSE would print keys"
                    .to_owned(),
            );
            return Ok(Ok(Explained {
                instead: None,
                lines,
            }));
        }
        let keys = match explain.analyze {
            true => match find(&search, least).await {
                Some(found) => key_arrays(&found, &search),
                None => return Ok(Err(RelayReason::SearchFailed.into())),
            },
            false => Vec::new(),
        };
        let text = format!(
            "{}{}",
            explain.prefix,
            behind_sub_selects(&planned.plan, explain.analyze)
        );
        Ok(Ok(Explained {
            instead: Some((text, keys)),
            lines,
        }))
    }
}

impl Explained {
    fn relay(reason: RelayReason) -> Self {
        Self {
            instead: None,
            lines: vec![relay_line(reason)],
        }
    }
}

/// Candidates that a search weighs, and what decided it.
fn effort_line(search: &Search, least: usize) -> String {
    let snapshot = search.index.snapshot.as_ref();
    let weighed = snapshot.map_or(least, |snapshot| {
        snapshot.candidates(search.effort, least).max(least)
    });
    match search.effort {
        Effort::Candidates(_) => format!("{weighed} (hnsw.ef_search)"),
        Effort::Lists(lists) => format!("{weighed} (of at least {lists} lists, ivfflat.probes)"),
        Effort::Recall(recall) => format!("{weighed} (rektor.recall_target {recall})"),
    }
}

fn index_line(search: &Search, hides: bool) -> String {
    let definition = &search.index.definition;
    let live = search
        .index
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.stats().live);
    let rows = match hides {
        false => format!(", {live} rows"),
        true => String::new(),
    };
    format!(
        "{} ({}, {}{rows})",
        name(&definition.name),
        definition.options.method.name(),
        definition.metric.name()
    )
}

/// How many candidates there will be. The most is a share of the table's rows.
fn candidates_line(search: &Search, hides: bool) -> String {
    let most = match hides {
        false => format!(" up to {}", search.widest()),
        true => String::new(),
    };
    let least = search.least();
    format!("  Candidates: {least}, at most ×{WIDENING} while short{most}, then exact")
}

/// What the index filters by, where it does.
fn filter_line(search: &Search, hides: bool) -> Option<String> {
    let snapshot = search.index.snapshot.as_ref()?;
    let filter = &search.request.filter;
    let cost = snapshot.filter_cost(search.least(), search.effort, filter)?;
    let include = &search.index.definition.include;
    let mut columns: Vec<&str> = filter
        .columns()
        .filter_map(|column| Some(include.get(column)?.name.as_str()))
        .collect();
    columns.dedup();
    let rows = match hides {
        false => format!("about {} of {} rows, ", cost.rows, snapshot.stats().live),
        true => String::new(),
    };
    Some(format!(
        "  Filter: {} ({rows}{})",
        columns.join(", "),
        if cost.exact {
            "compared one by one"
        } else {
            "found by the walk"
        }
    ))
}

/// The nominating statement with each key array behind a sub-select, where a plan does not print it; an empty one in its
/// place when the statement is not run.
fn behind_sub_selects(plan: &Plan, bound: bool) -> String {
    let mut text = plan.nominate.clone();
    let last = usize::from(plan.first_key_param) + plan.index.definition.key.len();
    for number in usize::from(plan.first_key_param)..last {
        let parameter = format!("${number}");
        let Some((before, after)) = text.split_once(&format!("{parameter}::")) else {
            continue;
        };
        let Some((array, rest)) = after.split_once(']') else {
            continue;
        };
        let value = if bound { &parameter } else { "'{}'" };
        text = format!("{before}(select {value}::{array}])::{array}]{rest}");
    }
    text
}
