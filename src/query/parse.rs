//! SQL text → PostgreSQL's own parse tree and tokens, through libpg_query. Refuses what could not be analysed safely.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pg_query::protobuf::{self, Node, RawStmt, Token as Kind};

/// The longest text that is parsed: three times the text of a vector of 16,000 dimensions (Django repeats the vector in
/// the select list, WHERE and ORDER BY). What is longer is relayed.
const MAX_TEXT: usize = 1024 * 1024;

/// Most tokens of a text: three arrays of 16,000 numbers and their commas, which take a fifth of a second to analyse.
const MAX_TOKENS: usize = 100_000;

/// Most steps that runs of operator characters may take: PostgreSQL's scanner reads `/*/*/*…` and `++++…` again from every
/// character on. Some 20 milliseconds; a thousand comment bars of a hundred characters are a tenth of it.
const MAX_OPERATOR_STEPS: usize = 20_000_000;

/// Why a text was not analysed. It is relayed, and nothing is known of what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// PostgreSQL's grammar refuses it (upstream says so itself), or it is nested more than some fifty levels deep.
    #[error("syntax error")]
    Refused,
    /// It would take too long to analyse.
    #[error("statement too long")]
    TooLong,
}

/// libpg_query redirects the process's standard error while it works (it collects the grammar's warnings): two threads doing
/// so at once would leave it redirected for good. So one text is parsed at a time; that takes microseconds.
static PARSER: Mutex<()> = Mutex::new(());

/// A parsed text.
pub(super) struct Parsed {
    pub(super) statements: Vec<RawStmt>,
    tokens: Vec<Token>,
}

impl Parsed {
    /// Parses a query string.
    pub(super) fn new(sql: &str) -> Result<Self, ParseError> {
        if sql.len() > MAX_TEXT || operator_steps(sql.as_bytes()) > MAX_OPERATOR_STEPS {
            return Err(ParseError::TooLong);
        }
        let _guard = PARSER.lock().unwrap_or_else(PoisonError::into_inner); // it guards no data
        let tokens = tokens(sql)?;
        if tokens.len() > MAX_TOKENS {
            return Err(ParseError::TooLong);
        }
        // libpg_query bounds its own recursion by the thread's stack, and prost decodes at most 100 messages deep.
        let tree = pg_query::parse(sql, 0).map_err(|_| ParseError::Refused)?;
        Ok(Self {
            statements: tree.protobuf.stmts,
            tokens,
        })
    }

    /// The tokens of a part of the text.
    pub(super) fn tokens(&self, range: &Range<usize>) -> &[Token] {
        let start = self
            .tokens
            .partition_point(|token| token.start < range.start);
        let end = self.tokens.partition_point(|token| token.end <= range.end);
        self.tokens.get(start..end).unwrap_or_default()
    }

    /// Where the last token that starts before `at` ends: a semicolon's end, or 0.
    pub(super) fn end_of_token_before(&self, at: usize) -> usize {
        let index = self.tokens.partition_point(|token| token.start < at);
        index
            .checked_sub(1)
            .and_then(|before| self.tokens.get(before))
            .map_or(0, |token| token.end)
    }
}

/// The sum of the squares of the lengths of runs of operator characters.
fn operator_steps(sql: &[u8]) -> usize {
    let (mut steps, mut run) = (0_usize, 0_usize);
    for byte in sql {
        if matches!(
            byte,
            b'~' | b'!'
                | b'@'
                | b'#'
                | b'^'
                | b'&'
                | b'|'
                | b'`'
                | b'?'
                | b'+'
                | b'-'
                | b'*'
                | b'/'
                | b'%'
                | b'<'
                | b'>'
                | b'='
        ) {
            run += 1;
        } else if run > 0 {
            steps = steps.saturating_add(run.saturating_mul(run));
            run = 0;
        }
    }
    steps.saturating_add(run.saturating_mul(run))
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

fn tokens(sql: &str) -> Result<Vec<Token>, ParseError> {
    let comments = [Kind::SqlComment as i32, Kind::CComment as i32];
    let scanned = pg_query::scan_tokens(sql).map_err(|_| ParseError::Refused)?;
    scanned
        .into_iter()
        .filter(|token| !comments.contains(&token.token))
        .map(
            |token| match (usize::try_from(token.start), usize::try_from(token.end)) {
                (Ok(start), Ok(end)) if start < end && end <= sql.len() => Ok(Token {
                    start,
                    end,
                    kind: token.token,
                }),
                (Ok(_) | Err(_), Ok(_) | Err(_)) => Err(ParseError::Refused),
            },
        )
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
