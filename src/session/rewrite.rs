//! Rektor's own prepared statements of one session: for each k-NN text the one that nominates and the one that is exact,
//! under names that are never used twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::filter;
use super::messages;
use super::prepared::Prepared;
use crate::index::view::{Generation, View};
use crate::query::{self, KnnQuery, Plan, QueryVector, RelayReason};
use crate::vector::VectorType;

/// Texts with own statements in one session: Postgres keeps a plan for each. Beyond it all are made anew.
const MAX_REWRITES: usize = 64;
/// Shapes of simple queries whose hints are kept.
const MAX_SHAPES: usize = 256;
/// Executions that go straight to *exact* after it was needed, at most: then nominating is tried again.
const MAX_EXACT_RUNS: u32 = 15;
/// How long the planner's opinion of a statement holds: an index that is made or dropped upstream, or statistics that were
/// gathered, are noticed within this time.
const OPINION_HOLDS: Duration = Duration::from_secs(60);

/// A statement of Rektor's own that upstream has parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) name: Bytes,
    /// When it was parsed, in the session's own count.
    pub(super) serial: u64,
}

/// One k-NN text, as this session answers it.
#[derive(Debug)]
pub(super) struct Rewrite {
    pub(super) plan: Arc<Plan>,
    /// What the look-up's answer depends on.
    pub(super) subject: String,
    pub(super) nominate: Option<Own>,
    pub(super) exact: Option<Own>,
    /// The parameter of the query, or of an array of queries, where statements of Rektor's may take it in binary form, whatever
    /// the client sends: Postgres reads that in a tenth of the time that the text takes (384 dimensions: 25 µs).
    pub(super) query_parameter: Option<u16>,
    /// It is an array; of which type, the statement says.
    is_array: bool,
    generation: Generation,
    types: Vec<u32>,
    pub(super) hints: Hints,
}

/// What earlier executions of a statement taught.
#[derive(Clone, Debug, Default)]
pub(super) struct Hints {
    /// Candidates that were enough lately.
    candidates: usize,
    /// Executions that still go straight to *exact*.
    exact_runs: u32,
    /// How many will, the next time nominating falls short.
    next_exact_runs: u32,
    /// Whether the planner thought *exact* cheap, and when it was asked.
    cheap: Option<(bool, Instant)>,
}

/// Whose hints are meant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Taught<'a> {
    /// A text that was planned.
    Text(&'a str),
    /// Simple queries of this shape.
    Shape(&'a str),
}

impl Rewrite {
    /// The parameter types that the exact statement declares: the client's, but for the query's.
    pub(super) fn exact_types(&self) -> Vec<u32> {
        let mut types = self.types.clone();
        types.resize(usize::from(self.plan.first_key_param) - 1, 0);
        let definition = &self.plan.index.definition;
        let query = self.query_parameter.filter(|_| !self.is_array);
        let query = query.map(usize::from);
        if let Some(declared) = query.and_then(|number| types.get_mut(number - 1)) {
            *declared = definition.column.type_id.0;
        }
        types
    }

    /// The parameter types that the nominating statement declares: those, then one array a key column.
    pub(super) fn nominate_types(&self) -> Vec<u32> {
        let mut types = self.exact_types();
        let keys = self.plan.index.definition.key.iter();
        types.extend(keys.map(|key| key.kind.array_oid().0));
        types
    }
}

impl Hints {
    /// Candidates to begin with, at least `least`.
    pub(super) fn first_candidates(&self, least: usize) -> usize {
        self.candidates.max(least)
    }

    /// So many candidates were enough: fewer may be, the next time.
    pub(super) fn enough(&mut self, candidates: usize) {
        self.candidates = candidates - candidates / 16;
        self.next_exact_runs = 0;
    }

    /// No number of candidates was enough.
    pub(super) fn fell_short(&mut self) {
        self.next_exact_runs = (self.next_exact_runs * 2 + 1).min(MAX_EXACT_RUNS);
        self.exact_runs = self.next_exact_runs;
    }

    /// Whether the planner thinks *exact* cheap, if it was asked lately.
    fn is_cheap(&self, now: Instant) -> Option<bool> {
        let (cheap, at) = self.cheap?;
        (now.saturating_duration_since(at) < OPINION_HOLDS).then_some(cheap)
    }

    /// Whether this execution goes straight to *exact*.
    pub(super) fn goes_exact(&mut self) -> bool {
        let exact = self.exact_runs > 0;
        self.exact_runs = self.exact_runs.saturating_sub(1);
        exact
    }
}

/// The session's rewrites, by text.
#[derive(Debug, Default)]
pub(super) struct Rewrites {
    by_text: HashMap<String, Rewrite>,
    /// Hints of simple queries, by text without the query vector.
    by_shape: HashMap<String, Hints>,
    serial: u64,
}

impl Rewrites {
    /// The next number of the session's own count.
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A name for an own statement, never used before.
    pub(super) fn next_own(&mut self) -> Own {
        let serial = self.next_serial();
        Own {
            name: Bytes::from(format!("rektor_{serial}")),
            serial,
        }
    }

    /// Plans a statement, or finds it planned under this view. Names of statements that are no longer used go to `closed`.
    pub(super) fn plan(
        &mut self,
        prepared: &Prepared,
        query: &KnnQuery,
        view: &View,
        closed: &mut Vec<Bytes>,
    ) -> Result<&mut Rewrite, RelayReason> {
        let sql = prepared.analysis.sql.as_str();
        let current = |rewrite: &Rewrite| {
            rewrite.generation == view.generation && rewrite.types == prepared.types
        };
        if !self.by_text.get(sql).is_some_and(current) {
            if let Some(old) = self.by_text.remove(sql) {
                closed.extend(old.names());
            }
            if self.by_text.len() >= MAX_REWRITES {
                closed.extend(self.by_text.drain().flat_map(|(_, old)| old.names()));
            }
            let rewrite = plan(sql, query, &prepared.types, view)?;
            self.by_text.insert(sql.to_owned(), rewrite);
        }
        self.by_text.get_mut(sql).ok_or(RelayReason::NoIndex)
    }

    /// The hints of a simple query of that shape.
    pub(super) fn hints(&mut self, shape: String) -> &mut Hints {
        if self.by_shape.len() >= MAX_SHAPES && !self.by_shape.contains_key(&shape) {
            self.by_shape.clear();
        }
        self.by_shape.entry(shape).or_default()
    }

    /// Whether the planner thinks *exact* cheap, if it was asked lately.
    pub(super) fn is_cheap(&mut self, taught: Taught<'_>, now: Instant) -> Option<bool> {
        self.taught(taught)?.is_cheap(now)
    }

    /// Takes note of what the planner thinks of *exact*.
    pub(super) fn learn_cheap(&mut self, taught: Taught<'_>, cheap: bool, now: Instant) {
        if let Some(hints) = self.taught(taught) {
            hints.cheap = Some((cheap, now));
        }
    }

    fn taught(&mut self, taught: Taught<'_>) -> Option<&mut Hints> {
        match taught {
            Taught::Text(sql) => self.get(sql).map(|rewrite| &mut rewrite.hints),
            Taught::Shape(shape) => Some(self.hints(shape.to_owned())),
        }
    }

    /// The rewrite of a text that was planned.
    pub(super) fn get(&mut self, sql: &str) -> Option<&mut Rewrite> {
        self.by_text.get_mut(sql)
    }

    /// Upstream has dropped every prepared statement.
    pub(super) fn forget(&mut self) {
        for rewrite in self.by_text.values_mut() {
            rewrite.nominate = None;
            rewrite.exact = None;
        }
    }

    /// An own statement of this text failed: it is not used again.
    pub(super) fn distrust(&mut self, sql: &str) -> Vec<Bytes> {
        match self.by_text.remove(sql) {
            Some(rewrite) => rewrite.names().collect(),
            None => Vec::new(),
        }
    }
}

impl Rewrite {
    fn names(self) -> impl Iterator<Item = Bytes> {
        [self.nominate, self.exact]
            .into_iter()
            .flatten()
            .map(|own| own.name)
    }
}

/// Closes own statements; CloseComplete follows for each.
pub(super) fn close(out: &mut BytesMut, names: &[Bytes]) {
    for name in names {
        messages::close(out, b'S', name);
    }
}

/// Plans a statement for the first time.
pub(super) fn plan(
    sql: &str,
    query: &KnnQuery,
    types: &[u32],
    view: &View,
) -> Result<Rewrite, RelayReason> {
    let declared = u16::try_from(types.len()).map_err(|_| RelayReason::TooManyParameters)?;
    let plan = query::plan(sql, query, declared, None, view)?;
    let filtered: Vec<&str> = filter::columns(query, &plan.index.definition)
        .map(|column| column.name.as_str())
        .collect();
    let subject = format!(
        "{:?} {:?} {} {:?} {:?} {:?} {filtered:?}",
        query.schema,
        query.table,
        plan.index.definition.relation.0,
        query.unknown_functions,
        query.unknown_types,
        query.other_tables
    );
    let column = &plan.index.definition.column;
    let sent = match &query.query {
        QueryVector::Parameter(number) => Some((*number, false)),
        QueryVector::Elements(array) => match array.as_ref() {
            QueryVector::Parameter(number) => Some((*number, true)),
            QueryVector::Literal(_) | QueryVector::Rows(_) | QueryVector::Elements(_) => None,
        },
        QueryVector::Literal(_) | QueryVector::Rows(_) => None,
    };
    // Halves would be rounded here instead of there, and what functions make of a query is not what is sent.
    let sent = sent.filter(|(number, is_array)| {
        let declared = types.get(usize::from(*number) - 1).copied().unwrap_or(0);
        query.query_used_once
            && column.kind != VectorType::Halfvec
            && query.is_sent_as(column.kind)
            && (declared == 0 || (declared == column.type_id.0 && !is_array))
    });
    Ok(Rewrite {
        plan: Arc::new(plan),
        subject,
        nominate: None,
        exact: None,
        query_parameter: sent.map(|(number, _)| number),
        is_array: sent.is_some_and(|(_, is_array)| is_array),
        generation: view.generation,
        types: types.to_vec(),
        hints: Hints::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_begin_where_enough_was_found_and_come_down_slowly() {
        let mut hints = Hints::default();
        assert_eq!(hints.first_candidates(20), 20);
        hints.enough(320);
        assert_eq!(hints.first_candidates(20), 300);
        hints.enough(20);
        assert_eq!(hints.first_candidates(20), 20);
    }

    #[test]
    fn exact_is_remembered_for_a_while() {
        let mut hints = Hints::default();
        assert!(!hints.goes_exact());
        let mut runs = Vec::new();
        for _ in 0..6 {
            hints.fell_short();
            runs.push((0..100).take_while(|_| hints.goes_exact()).count());
        }
        assert_eq!(runs, [1, 3, 7, 15, 15, 15]);
        hints.enough(20);
        hints.fell_short();
        assert!(hints.goes_exact() && !hints.goes_exact());
    }

    #[test]
    fn own_names_are_never_used_twice() {
        let mut rewrites = Rewrites::default();
        let (first, second) = (rewrites.next_own(), rewrites.next_own());
        assert_ne!(first.name, second.name);
        assert!(first.serial < second.serial);
    }
}
