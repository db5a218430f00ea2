//! SQL text → PostgreSQL's own parse tree and tokens, through libpg_query. Refuses what could not be analysed safely.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pg_query::protobuf::{self, Node, Token as Kind};

/// The longest text that is parsed: three times the text of a vector of 16,000 dimensions (Django repeats the vector in
/// the select list, WHERE and ORDER BY), with room to spare. What is longer is relayed.
pub(super) const MAX_TEXT: usize = 2 * 1024 * 1024;

/// Why a text was not analysed. It is relayed, and nothing is known of what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// PostgreSQL's grammar refuses it (upstream says so itself), or it is nested more deeply than Rektor follows.
    #[error("syntax error")]
    Refused,
    /// It is longer than [`MAX_TEXT`].
    #[error("statement of more than {MAX_TEXT} bytes")]
    TooLong,
}

/// libpg_query redirects the process's standard error while it works (it collects the grammar's warnings): two threads doing
/// so at once would leave it redirected for good. So one text is parsed at a time; that takes microseconds.
static PARSER: Mutex<()> = Mutex::new(());

fn parser() -> MutexGuard<'static, ()> {
    PARSER.lock().unwrap_or_else(PoisonError::into_inner) // it guards no data
}

/// Parses a query string.
pub(super) fn parse(sql: &str) -> Result<protobuf::ParseResult, ParseError> {
    if sql.len() > MAX_TEXT {
        return Err(ParseError::TooLong);
    }
    let _guard = parser();
    // libpg_query bounds its own recursion by the thread's stack, and prost decodes at most 100 messages deep.
    pg_query::parse(sql, 0)
        .map(|result| result.protobuf)
        .map_err(|_| ParseError::Refused)
}

/// A token of a statement; comments are none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    /// Its bytes within the whole text.
    pub(super) start: usize,
    /// One past its last byte.
    pub(super) end: usize,
    kind: i32,
}

impl Token {
    pub(super) fn is(&self, kind: Kind) -> bool {
        self.kind == kind as i32
    }

    pub(super) fn is_any(&self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.is(*kind))
    }

    /// The digits of `$n`.
    pub(super) fn parameter<'a>(&self, sql: &'a str) -> Option<&'a str> {
        self.is(Kind::Param)
            .then(|| self.text(sql).trim_start_matches('$'))
    }

    pub(super) fn text<'a>(&self, sql: &'a str) -> &'a str {
        sql.get(self.start..self.end).unwrap_or("")
    }
}

/// The tokens of a part of a text.
pub(super) fn tokens(sql: &str, range: Range<usize>) -> Result<Vec<Token>, ParseError> {
    let text = sql.get(range.clone()).ok_or(ParseError::Refused)?;
    let scanned = {
        let _guard = parser();
        pg_query::scan_tokens(text).map_err(|_| ParseError::Refused)?
    };
    let comments = [Kind::SqlComment as i32, Kind::CComment as i32];
    scanned
        .into_iter()
        .filter(|token| !comments.contains(&token.token))
        .map(|token| {
            let place = |at: i32| usize::try_from(at).map(|at| at + range.start);
            match (place(token.start), place(token.end)) {
                (Ok(start), Ok(end)) if start < end && end <= range.end => Ok(Token {
                    start,
                    end,
                    kind: token.token,
                }),
                (Ok(_) | Err(_), Ok(_) | Err(_)) => Err(ParseError::Refused),
            }
        })
        .collect()
}

/// The identifiers or operators of a name list, e.g. `["pg_catalog", "int4"]`; `None` when one is something else.
pub(super) fn names(nodes: &[Node]) -> Option<Vec<&str>> {
    nodes.iter().map(string).collect()
}

/// The value of a String node.
pub(super) fn string(node: &Node) -> Option<&str> {
    match &node.node {
        Some(protobuf::node::Node::String(string)) => Some(&string.sval),
        Some(_) | None => None,
    }
}
