//! The client's prepared statements and portals, as far as they matter: what is not noted here is relayed, and may have done
//! anything. Bounded; forgetting is always safe.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::explain;
use crate::index::view::View;
use crate::query::{
    self, Effect, Interest, RelayReason, Statement, StatementKind, TransactionEffect, VerifiedName,
};

/// Statements noted for one session: more are relayed.
const MAX_STATEMENTS: usize = 10_000;
/// Texts whose analysis is kept, for all sessions.
const MAX_ANALYSES: usize = 2_000;
/// A longer text is analysed each time: it carries its data with it and will not come again.
const MAX_CACHED_TEXT: usize = 16 * 1024;

/// What a text means.
#[derive(Debug)]
pub(super) struct Analysis {
    /// The text.
    pub(super) sql: String,
    /// What it mentions.
    pub(super) interest: Interest,
    /// The indexes that it wants verified.
    pub(super) verified: Vec<VerifiedName>,
    /// Its statements; `None` when PostgreSQL's grammar refuses it.
    pub(super) statements: Option<Vec<Statement>>,
}

impl Analysis {
    /// The one statement, when there is one.
    pub(super) fn single(&self) -> Option<&Statement> {
        match self.statements.as_deref() {
            Some([statement]) => Some(statement),
            Some(_) | None => None,
        }
    }

    /// The statements that the text deallocates by name.
    pub(super) fn deallocates(&self) -> Vec<Deallocated> {
        let statements = self.statements.iter().flatten();
        statements
            .filter(|statement| statement.effect.prepared && !statement.effect.discards_prepared)
            .filter_map(|statement| Deallocated::of(self.sql.get(statement.range.clone())?))
            .collect()
    }

    /// What each of the text's statements may change, in their order.
    pub(super) fn effects(&self) -> impl Iterator<Item = Effect> {
        let known = self.statements.iter().flatten();
        known
            .map(|statement| statement.effect)
            .chain(self.statements.is_none().then_some(Effect::UNKNOWN))
    }
}

/// Whether a text that need not be looked into opens a transaction block and does no more: it takes no snapshot yet.
fn is_begin(sql: &[u8]) -> bool {
    let sql = sql.trim_ascii();
    let sql = sql.strip_suffix(b";").unwrap_or(sql);
    let word = sql.split(|byte| !byte.is_ascii_alphabetic()).next();
    word.is_some_and(|word| {
        word.eq_ignore_ascii_case(b"begin") || word.eq_ignore_ascii_case(b"start")
    }) && !sql.contains(&b';')
}

/// What a DEALLOCATE names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deallocated {
    /// This statement.
    Statement(Bytes),
    /// A name that is not plain to see.
    Unknown,
}

impl Deallocated {
    /// Reads `DEALLOCATE [PREPARE] name`; `None` for PREPARE, EXECUTE and the like.
    fn of(sql: &str) -> Option<Self> {
        let mut words = sql.split_ascii_whitespace();
        let first = words.next()?;
        if ["prepare", "execute", "discard"]
            .iter()
            .any(|word| first.eq_ignore_ascii_case(word))
        {
            return None;
        }
        let rest: Vec<&str> = words
            .skip_while(|word| word.eq_ignore_ascii_case("prepare"))
            .collect();
        let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        Some(match rest.as_slice() {
            [name] if first.eq_ignore_ascii_case("deallocate") => match name.strip_prefix('"') {
                Some(quoted) => match quoted.strip_suffix('"') {
                    Some(name) if plain(name) => Self::Statement(name.to_owned().into()),
                    Some(_) | None => Self::Unknown,
                },
                None if plain(name) => Self::Statement(name.to_ascii_lowercase().into()),
                None => Self::Unknown,
            },
            _ => Self::Unknown,
        })
    }
}

/// Analyses by text, shared by all sessions.
#[derive(Debug, Default)]
pub(super) struct Analyses(Mutex<HashMap<String, Arc<Analysis>>>);

impl Analyses {
    /// What a text means; `Err` with its effect when it need not be looked into.
    pub(super) fn of(&self, sql: &[u8]) -> Result<Arc<Analysis>, Effect> {
        let interest = query::interest(sql);
        if !interest.parse() {
            return Err(Effect {
                writes: interest.writes,
                transaction: is_begin(sql).then_some(TransactionEffect::Begin(None)),
                ..Effect::default()
            });
        }
        let Ok(sql) = std::str::from_utf8(sql) else {
            return Err(Effect::UNKNOWN);
        };
        let cached = sql.len() <= MAX_CACHED_TEXT;
        if cached && let Some(known) = self.lock().get(sql) {
            return Ok(Arc::clone(known));
        }
        let analysis = Arc::new(Analysis {
            sql: sql.to_owned(),
            verified: match interest.verify {
                true => query::verified_names(sql),
                false => Vec::new(),
            },
            interest,
            statements: query::analyze(sql).ok(), // upstream says what is wrong with it
        });
        if cached {
            let mut known = self.lock();
            if known.len() >= MAX_ANALYSES {
                known.clear();
            }
            known.insert(sql.to_owned(), Arc::clone(&analysis));
        }
        Ok(analysis)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Analysis>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // a map has no half-done state
    }
}

/// A prepared statement of the client's that was looked into.
#[derive(Debug)]
pub(super) struct Prepared {
    /// What it means.
    pub(super) analysis: Arc<Analysis>,
    /// The parameter types that its Parse declared; 0 is undeclared.
    pub(super) types: Vec<u32>,
    /// The command tag that the client expects instead of upstream's.
    pub(super) tag: Option<&'static str>,
    /// When it was parsed, in the session's own count.
    pub(super) serial: u64,
}

/// What a prepared statement is to Rektor.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// Nothing but its effect.
    Plain(Effect),
    /// It was looked into.
    Analysed(Arc<Prepared>),
}

impl Meaning {
    /// The statements that it deallocates by name.
    pub(super) fn deallocates(&self) -> Vec<Deallocated> {
        match self {
            Self::Plain(_) => Vec::new(),
            Self::Analysed(prepared) => prepared.analysis.deallocates(),
        }
    }

    /// What running it may change.
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Plain(effect) => *effect,
            // One statement, or none: upstream refuses to prepare several.
            Self::Analysed(prepared) => prepared.analysis.effects().next().unwrap_or_default(),
        }
    }

    /// Why it is relayed, when it is a search that is not claimed.
    pub(super) fn not_claimed(&self) -> Option<RelayReason> {
        let Self::Analysed(prepared) = self else {
            return None;
        };
        match &prepared.analysis.single()?.kind {
            StatementKind::NotClaimed(reason) => Some(*reason),
            StatementKind::Knn(_)
            | StatementKind::Explain { .. }
            | StatementKind::Ddl(_)
            | StatementKind::Other => None,
        }
    }

    /// What its EXPLAIN says of Rektor, when that is known without more.
    pub(super) fn explained(&self, view: &View) -> Option<Bytes> {
        match self {
            Self::Plain(_) => None,
            Self::Analysed(prepared) => explain::not_claimed(&prepared.analysis, view),
        }
    }

    /// The command tag that the client expects instead of upstream's.
    pub(super) fn tag(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => None,
            Self::Analysed(prepared) => prepared.tag,
        }
    }
}

/// A portal that matters.
#[derive(Debug)]
pub(super) enum Portal {
    /// Upstream runs this statement.
    Relayed(Meaning),
    /// Upstream has run it; these rows are still to be fetched.
    Held(HeldRows),
}

/// Rows of an answer, as frames, that are still to be fetched.
#[derive(Debug, Default)]
pub(super) struct HeldRows {
    rows: VecDeque<Bytes>,
    bytes: usize,
}

impl HeldRows {
    pub(super) fn push_back(&mut self, row: Bytes) {
        self.bytes += row.len();
        self.rows.push_back(row);
    }

    pub(super) fn pop_front(&mut self) -> Option<Bytes> {
        let row = self.rows.pop_front()?;
        self.bytes -= row.len();
        Some(row)
    }
}

/// The session's statements and portals.
#[derive(Debug, Default)]
pub(super) struct Book {
    statements: HashMap<Bytes, Meaning>,
    portals: HashMap<Bytes, Portal>,
}

impl Book {
    /// The statement of that name.
    pub(super) fn statement(&self, name: &[u8]) -> Option<&Meaning> {
        self.statements.get(name)
    }

    /// Notes what a Parse made, or that the name now means something that does not matter.
    pub(super) fn set_statement(&mut self, name: Bytes, meaning: Option<Meaning>) {
        match meaning {
            Some(meaning)
                if self.statements.len() < MAX_STATEMENTS
                    || self.statements.contains_key(&name) =>
            {
                self.statements.insert(name, meaning);
            }
            Some(_) | None => {
                self.statements.remove(&name);
            }
        }
    }

    /// Forgets a statement.
    pub(super) fn remove_statement(&mut self, name: &[u8]) {
        self.statements.remove(name);
    }

    /// Forgets what a DEALLOCATE names.
    pub(super) fn deallocate(&mut self, gone: &Deallocated) {
        match gone {
            Deallocated::Statement(name) => self.remove_statement(name),
            Deallocated::Unknown => self.clear_statements(),
        }
    }

    /// Forgets every statement.
    pub(super) fn clear_statements(&mut self) {
        self.statements.clear();
    }

    /// The portal of that name.
    pub(super) fn portal(&mut self, name: &[u8]) -> Option<&mut Portal> {
        self.portals.get_mut(name)
    }

    /// Notes what a Bind made.
    pub(super) fn set_portal(&mut self, name: &[u8], portal: Option<Portal>) {
        match portal {
            Some(portal) if self.portals.len() < MAX_STATEMENTS => {
                self.portals.insert(Bytes::copy_from_slice(name), portal);
            }
            Some(_) | None => self.remove_portal(name),
        }
    }

    /// Bytes of rows that are still to be fetched, from other portals than this.
    pub(super) fn held_beside(&self, name: &[u8]) -> usize {
        let others = self.portals.iter().filter(|(other, _)| *other != name);
        let held = others.map(|(_, portal)| match portal {
            Portal::Held(held) => held.bytes,
            Portal::Relayed(_) => 0,
        });
        held.sum()
    }

    /// Forgets a portal.
    pub(super) fn remove_portal(&mut self, name: &[u8]) {
        if !self.portals.is_empty() {
            self.portals.remove(name);
        }
    }

    /// The transaction has ended, and every portal with it.
    pub(super) fn clear_portals(&mut self) {
        if !self.portals.is_empty() {
            self.portals.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deallocated_names_are_read() {
        let named = |name: &'static str| Some(Deallocated::Statement(name.into()));
        for (sql, expected) in [
            ("DEALLOCATE Some_1", named("some_1")),
            ("deallocate prepare \"Some_1\"", named("Some_1")),
            ("deallocate \"a b\"", Some(Deallocated::Unknown)),
            ("deallocate /* x */ a", Some(Deallocated::Unknown)),
            ("/* x */ deallocate a", Some(Deallocated::Unknown)),
            ("execute a", None),
            ("PREPARE a as select 1", None),
        ] {
            assert_eq!(Deallocated::of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_text_is_analysed_once() {
        let analyses = Analyses::default();
        let sql = b"select * from t order by v <-> $1 limit 3";
        let (first, second) = (analyses.of(sql).unwrap(), analyses.of(sql).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert!(first.single().is_some());
        let plain = analyses.of(b"select 1");
        assert!(plain.is_err_and(|effect| effect == Effect::default()));
        assert!(
            analyses
                .of(b"insert into t values (1)")
                .is_err_and(|effect| effect.writes)
        );
        assert!(
            analyses
                .of(b"set role \xff")
                .is_err_and(|effect| effect == Effect::UNKNOWN)
        );
    }
    #[test]
    fn only_a_begin_alone_takes_no_snapshot() {
        let analyses = Analyses::default();
        for (sql, alone) in [
            ("begin", true),
            (" Start transaction read only ; ", true),
            ("begin; select 1", false),
            ("select 1; begin", false),
        ] {
            let effect = analyses.of(sql.as_bytes()).unwrap_err();
            assert_eq!(effect.transaction.is_some(), alone, "{sql}");
        }
        let several = analyses
            .of(b"commit; begin isolation level serializable")
            .unwrap();
        let effects = several.effects().map(|effect| effect.transaction);
        assert_eq!(
            effects.collect::<Vec<_>>(),
            [
                Some(TransactionEffect::End { chain: false }),
                Some(TransactionEffect::Begin(Some(
                    query::Isolation::Serializable
                ))),
            ]
        );
    }
}
