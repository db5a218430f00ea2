//! SQL text → its statements, each with what it means to Rektor. Parsed with PostgreSQL's own grammar.
use super::{Ddl, KnnQuery, RelayReason};
use std::ops::Range;

/// One statement of a query string.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its bytes within the text, without the semicolon.
    pub range: Range<usize>,
    /// What it is.
    pub kind: StatementKind,
    /// What it may change for later statements.
    pub effect: Effect,
}

/// What a statement is to Rektor.
#[derive(Clone, Debug)]
pub enum StatementKind {
    /// A SELECT in the shape of a k-NN query over one table.
    Knn(Box<KnnQuery>),
    /// A SELECT that orders by a distance but is not claimed, and why.
    NotClaimed(RelayReason),
    /// `EXPLAIN (…) <inner>` where the inner statement is `Knn` or `NotClaimed`.
    Explain {
        /// ANALYZE is on.
        analyze: bool,
        /// VERBOSE is on.
        verbose: bool,
        /// FORMAT is TEXT (Rektor adds its lines only then).
        text: bool,
        /// The explained statement; its range is within the same text.
        inner: Box<Statement>,
    },
    /// DDL that Rektor carries out through a function of schema `rektor`.
    Ddl(Ddl),
    /// Anything else.
    Other,
}

/// What a statement may change for the session's later statements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// GUCs, role, or search_path.
    pub settings: bool,
    /// It may write (anything that is not a plain SELECT, SHOW, SET, transaction control, …; a SELECT that calls a function not known to be read-only).
    pub writes: bool,
    /// PREPARE, EXECUTE, DEALLOCATE, DISCARD: prepared statements made outside the extended protocol.
    pub prepared: bool,
    /// DISCARD ALL or DEALLOCATE ALL: every prepared statement of the session is gone, Rektor's own included.
    pub discards_prepared: bool,
}

/// Text that PostgreSQL's grammar refuses; upstream says so itself when it is relayed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("syntax error")]
pub struct ParseError;

/// Parses a query string into its statements (none for an empty one).
pub fn analyze(sql: &str) -> Result<Vec<Statement>, ParseError> {
    let _ = sql;
    todo!()
}
