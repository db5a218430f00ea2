//! SQL text → its statements, each with what it means to Rektor. Parsed with PostgreSQL's own grammar.

use std::ops::Range;

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    CopyStmt, DefElem, ExplainStmt, Node, RawStmt, SelectStmt, Token as Kind,
};

use super::effect::{self, Effect};
use super::parse::{self, ParseError};
use super::survey::Survey;
use super::{Ddl, KnnQuery, RelayReason, ddl, interest, knn};

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
    /// A SELECT that mentions a distance but is not claimed, and why.
    NotClaimed(RelayReason),
    /// `EXPLAIN (…) <inner>` where the inner statement is `Knn` or `NotClaimed`.
    Explain {
        /// ANALYZE is on.
        analyze: bool,
        /// VERBOSE is on.
        verbose: bool,
        /// FORMAT is TEXT (Rektor adds its lines only then).
        text: bool,
        /// The explained statement; its range is within the same text. What precedes it, from the start of the outer range,
        /// is the prefix that a rewritten statement is explained with.
        inner: Box<Statement>,
    },
    /// DDL that Rektor carries out through a function of schema `rektor`, if the index is Rektor's.
    Ddl(Ddl),
    /// Anything else.
    Other,
}

/// Parses a query string into its statements (none for an empty one).
///
/// The text is read as PostgreSQL reads it with `standard_conforming_strings = on` and in UTF-8; under other settings the
/// caller relays without asking.
///
/// # Errors
/// When the text cannot be analysed: it is to be relayed, with [`Effect::UNKNOWN`].
pub fn analyze(sql: &str) -> Result<Vec<Statement>, ParseError> {
    parse::parse(sql)?
        .stmts
        .iter()
        .map(|statement| raw_statement(sql, statement))
        .collect()
}

fn raw_statement(sql: &str, raw: &RawStmt) -> Result<Statement, ParseError> {
    let start = usize::try_from(raw.stmt_location).unwrap_or(0);
    let length = usize::try_from(raw.stmt_len).unwrap_or(0);
    let end = if length == 0 {
        sql.len()
    } else {
        start + length
    }; // 0 is the rest
    let text = sql.get(start..end).ok_or(ParseError::Refused)?;
    let start = start + (text.len() - text.trim_ascii_start().len());
    let range = start..(start + text.trim_ascii().len());
    let tree = raw.stmt.as_ref().and_then(|node| node.node.as_ref());
    statement(sql, range, tree.ok_or(ParseError::Refused)?)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of statements that mean something to Rektor, among 120"
)]
fn statement(sql: &str, range: Range<usize>, tree: &Tree) -> Result<Statement, ParseError> {
    match tree {
        Tree::SelectStmt(select) => select_statement(sql, range, select),
        Tree::ExplainStmt(explain) => explain_statement(sql, range, explain),
        Tree::DeclareCursorStmt(declare) => Ok(holding(range, surveyed(declare.query.as_deref()))),
        Tree::CopyStmt(copy) => Ok(holding(range, copy_effect(copy))),
        _ => Ok(Statement {
            range,
            kind: ddl::recognise(tree).map_or(StatementKind::Other, StatementKind::Ddl),
            effect: effect::of(tree),
        }),
    }
}

/// A statement that runs a query in a way that Rektor does not rewrite.
fn holding(range: Range<usize>, effect: Effect) -> Statement {
    Statement {
        range,
        kind: StatementKind::Other,
        effect,
    }
}

fn surveyed(query: Option<&Node>) -> Effect {
    match query.and_then(|node| node.node.as_ref()) {
        Some(Tree::SelectStmt(select)) => Effect::of_survey(&Survey::of(select)),
        Some(_) | None => Effect {
            writes: true,
            ..Effect::default()
        },
    }
}

fn copy_effect(copy: &CopyStmt) -> Effect {
    let mut effect = match &copy.query {
        Some(query) => surveyed(Some(query)),
        None => Effect::default(),
    };
    effect.writes |= copy.is_from || copy.is_program;
    effect
}

fn select_statement(
    sql: &str,
    range: Range<usize>,
    select: &SelectStmt,
) -> Result<Statement, ParseError> {
    let survey = Survey::of(select);
    let effect = Effect::of_survey(&survey);
    let bytes = sql.as_bytes().get(range.clone()).unwrap_or_default();
    let kind = if interest(bytes).distance {
        let tokens = parse::tokens(sql, range.clone())?;
        match knn::recognise(select, survey, sql, &tokens) {
            Ok(query) => StatementKind::Knn(Box::new(query)),
            Err(reason) => StatementKind::NotClaimed(reason),
        }
    } else {
        StatementKind::Other
    };
    Ok(Statement {
        range,
        kind,
        effect,
    })
}

fn explain_statement(
    sql: &str,
    range: Range<usize>,
    explain: &ExplainStmt,
) -> Result<Statement, ParseError> {
    let query = explain.query.as_ref().and_then(|node| node.node.as_ref());
    let query = query.ok_or(ParseError::Refused)?;
    let analyze = flag(&explain.options, "analyze");
    let start = explained_start(sql, range.clone())?;
    let inner = statement(sql, start..range.end, query)?;
    let effect = if analyze {
        inner.effect
    } else {
        Effect::default()
    };
    let kind = match &inner.kind {
        StatementKind::Knn(_) | StatementKind::NotClaimed(_) => StatementKind::Explain {
            analyze,
            verbose: flag(&explain.options, "verbose"),
            text: format_is_text(&explain.options),
            inner: Box::new(inner),
        },
        StatementKind::Explain { .. } | StatementKind::Ddl(_) | StatementKind::Other => {
            StatementKind::Other
        }
    };
    Ok(Statement {
        range,
        kind,
        effect,
    })
}

/// Where the explained statement starts: after EXPLAIN and its options.
fn explained_start(sql: &str, range: Range<usize>) -> Result<usize, ParseError> {
    let tokens = parse::tokens(sql, range)?;
    let mut rest = tokens.iter().peekable();
    rest.next_if(|token| token.is(Kind::Explain))
        .ok_or(ParseError::Refused)?;
    let query = [
        Kind::Select,
        Kind::With,
        Kind::Values,
        Kind::Table,
        Kind::Ascii40,
    ];
    let options = match tokens.get(1..3) {
        Some([open, first]) => open.is(Kind::Ascii40) && !first.is_any(&query),
        Some(_) | None => false,
    };
    if options {
        let mut depth = 0_usize;
        for token in rest.by_ref() {
            if token.is(Kind::Ascii40) {
                depth += 1;
            } else if token.is(Kind::Ascii41) {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
        }
    } else {
        while rest
            .next_if(|token| token.is_any(&[Kind::Analyze, Kind::Analyse, Kind::Verbose]))
            .is_some()
        {}
    }
    rest.next()
        .map(|token| token.start)
        .ok_or(ParseError::Refused)
}

fn options<'a>(options: &'a [Node], name: &str) -> Option<&'a DefElem> {
    options.iter().rev().find_map(|node| match &node.node {
        Some(Tree::DefElem(option)) if option.defname == name => Some(option.as_ref()),
        Some(_) | None => None,
    })
}

/// Whether an option of EXPLAIN is on; the last one counts, and one without a value is on.
fn flag(list: &[Node], name: &str) -> bool {
    let Some(option) = options(list, name) else {
        return false;
    };
    match option.arg.as_ref().and_then(|arg| arg.node.as_ref()) {
        None => true,
        Some(Tree::Integer(number)) => number.ival != 0,
        Some(Tree::Boolean(boolean)) => boolean.boolval,
        Some(Tree::String(word)) => ["true", "on"]
            .iter()
            .any(|on| word.sval.eq_ignore_ascii_case(on)),
        Some(_) => false,
    }
}

fn format_is_text(list: &[Node]) -> bool {
    match options(list, "format").and_then(|option| option.arg.as_ref()) {
        Some(value) => {
            parse::string(value).is_some_and(|format| format.eq_ignore_ascii_case("text"))
        }
        None => true,
    }
}
