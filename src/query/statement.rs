//! SQL text → its statements, each with what it means to Rektor. Parsed with PostgreSQL's own grammar.

use std::ops::Range;

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    CopyStmt, DefElem, ExplainStmt, Node, RawStmt, SelectStmt, Token as Kind,
};

use super::effect::{self, Effect};
use super::parse::{self, ParseError, Parsed, Token};
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
    let parsed = Parsed::new(sql)?;
    let text = Text {
        sql,
        parsed: &parsed,
    };
    parsed
        .statements
        .iter()
        .map(|statement| text.raw_statement(statement))
        .collect()
}

/// A text and its parse.
struct Text<'a> {
    sql: &'a str,
    parsed: &'a Parsed,
}

impl Text<'_> {
    fn raw_statement(&self, raw: &RawStmt) -> Result<Statement, ParseError> {
        let first = usize::try_from(raw.stmt_location).unwrap_or(0);
        let length = usize::try_from(raw.stmt_len).unwrap_or(0);
        let end = if length == 0 {
            self.sql.len() // 0 is the rest
        } else {
            first + length
        };
        // Comments before the first token are not in the tree's range, but they are the statement's: some carry hints.
        let start = self.parsed.end_of_token_before(first);
        let text = self.sql.get(start..end).ok_or(ParseError::Refused)?;
        let start = end - text.trim_ascii_start().len();
        let range = start..(start + text.trim_ascii().len());
        let tree = raw.stmt.as_ref().and_then(|node| node.node.as_ref());
        self.statement(range, tree.ok_or(ParseError::Refused)?)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kinds of statements that mean something to Rektor, among 120"
    )]
    fn statement(&self, range: Range<usize>, tree: &Tree) -> Result<Statement, ParseError> {
        match tree {
            Tree::SelectStmt(select) => Ok(self.select(range, select)),
            Tree::ExplainStmt(explain) => self.explain(range, explain),
            Tree::DeclareCursorStmt(declare) => {
                Ok(holding(range, surveyed(declare.query.as_deref())))
            }
            Tree::CopyStmt(copy) => Ok(holding(range, copy_effect(copy))),
            _ => Ok(Statement {
                range,
                kind: ddl::recognise(tree).map_or(StatementKind::Other, StatementKind::Ddl),
                effect: effect::of(tree),
            }),
        }
    }

    fn select(&self, range: Range<usize>, select: &SelectStmt) -> Statement {
        let survey = Survey::of(select);
        let effect = Effect::of_survey(&survey);
        let bytes = self.sql.as_bytes().get(range.clone()).unwrap_or_default();
        let kind = if interest(bytes).distance {
            let tokens = self.parsed.tokens(&range);
            match knn::recognise(select, survey, self.sql, range.clone(), tokens) {
                Ok(query) => StatementKind::Knn(Box::new(query)),
                Err(reason) => StatementKind::NotClaimed(reason),
            }
        } else {
            StatementKind::Other
        };
        Statement {
            range,
            kind,
            effect,
        }
    }

    fn explain(&self, range: Range<usize>, explain: &ExplainStmt) -> Result<Statement, ParseError> {
        let query = explain.query.as_ref().and_then(|node| node.node.as_ref());
        let query = query.ok_or(ParseError::Refused)?;
        let analyze = flag(&explain.options, "analyze");
        let start = explained_start(self.parsed.tokens(&range)).ok_or(ParseError::Refused)?;
        let inner = self.statement(start..range.end, query)?;
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

/// Where the explained statement starts: after EXPLAIN and its options.
fn explained_start(tokens: &[Token]) -> Option<usize> {
    let mut rest = tokens.iter().peekable();
    rest.next_if(|token| token.is(Kind::Explain))?;
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
    rest.next().map(|token| token.start)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn on_a_thread<T: Send + 'static>(
        stack: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        std::thread::Builder::new()
            .stack_size(stack)
            .spawn(work)
            .unwrap()
            .join()
            .unwrap()
    }

    const KNN: &str = "SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 5";

    #[test]
    fn explained_statements_are_found() {
        // Prefix, suffix, whether it is claimed, ANALYZE, VERBOSE, FORMAT TEXT.
        let table = [
            ("EXPLAIN ", "", true, false, false, true),
            ("explain analyse verbose\n", " ;", true, true, true, true),
            (
                "EXPLAIN (ANALYZE, VERBOSE false) ",
                "",
                true,
                true,
                false,
                true,
            ),
            (
                "EXPLAIN (analyze 0, verbose 1, costs off) ",
                "",
                true,
                false,
                true,
                true,
            ),
            (
                "EXPLAIN (ANALYZE off, ANALYZE on) ",
                "",
                true,
                true,
                false,
                true,
            ),
            ("EXPLAIN (FORMAT json)", "", true, false, false, false),
            (
                "EXPLAIN (FORMAT \"text\", BUFFERS, SERIALIZE none) ",
                "",
                true,
                false,
                false,
                true,
            ),
            (
                "/* a */ EXPLAIN /* (b */ (FORMAT YAML) -- c\n ",
                " -- d",
                true,
                false,
                false,
                false,
            ),
            ("EXPLAIN (", ")", false, false, false, true),
            ("EXPLAIN ((", "))", false, false, false, true),
            ("EXPLAIN ANALYZE (", ")", false, true, false, true),
            ("EXPLAIN (ANALYZE) (", ")", false, true, false, true),
        ];
        for (prefix, suffix, claimed, analyze, verbose, text) in table {
            let sql = format!("{prefix}{KNN}{suffix}");
            let statements = super::analyze(&sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
            let [statement] = statements.as_slice() else {
                panic!("{sql}")
            };
            let StatementKind::Explain {
                analyze: analyzed,
                verbose: verbosely,
                text: as_text,
                inner,
            } = &statement.kind
            else {
                panic!("{statement:?}: {sql}")
            };
            assert_eq!(
                (*analyzed, *verbosely, *as_text),
                (analyze, verbose, text),
                "{sql}"
            );
            assert_eq!(
                matches!(inner.kind, StatementKind::Knn(_)),
                claimed,
                "{sql}"
            );
            if claimed {
                assert_eq!(&sql[statement.range.start..inner.range.start], prefix);
            }
            assert!(sql[inner.range.clone()].contains(KNN), "{sql}");
        }
        for sql in [
            "EXPLAIN SELECT 1",
            "EXPLAIN EXECUTE p",
            "EXPLAIN INSERT INTO t VALUES (1)",
        ] {
            let statement = super::analyze(sql).unwrap().remove(0);
            assert!(matches!(statement.kind, StatementKind::Other), "{sql}");
        }
    }

    #[test]
    fn texts_are_split_where_postgres_splits_them() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            (" ;; -- x\n ; /* y */", &[]),
            ("SELECT 1", &["SELECT 1"]),
            (
                " SELECT 1 ; ;SELECT 'a;b' -- c;\n; ",
                &["SELECT 1", "SELECT 'a;b' -- c;"],
            ),
            (
                "/* a */SELECT 1;-- b\nSELECT $$;$$ /* c */",
                &["/* a */SELECT 1", "-- b\nSELECT $$;$$ /* c */"],
            ),
            (
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 'ä'",
                &[
                    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
                    "SELECT 'ä'",
                ],
            ),
        ];
        for (sql, parts) in table {
            let found: Vec<&str> = super::analyze(sql)
                .unwrap()
                .iter()
                .map(|statement| &sql[statement.range.clone()])
                .collect();
            assert_eq!(found, *parts, "{sql}");
        }
    }

    #[test]
    fn what_cannot_be_analysed_is_refused() {
        let refused = Some(ParseError::Refused);
        let long = Some(ParseError::TooLong);
        let table = [
            ("SELEC 1".to_owned(), refused),
            ("SELECT 'a".to_owned(), refused),
            ("SELECT 1\0".to_owned(), refused),
            (
                format!("SELECT {}1{}", "lower(".repeat(60), ")".repeat(60)),
                refused,
            ),
            (format!("SELECT '{}'", "a".repeat(2 << 20)), long),
            (format!("SELECT 1{}", ", 1".repeat(60_000)), long),
            (
                format!("SELECT {}{}", "/*".repeat(20_000), "*/".repeat(20_000)),
                long,
            ),
            (format!("SELECT 1 {} 1", "+".repeat(10_000)), long),
            (
                format!("/*{}*/ SELECT 1 -- {}", "*".repeat(500), "=".repeat(500)),
                None,
            ),
            (
                format!("SELECT '[{}]'", "0.123456789,".repeat(48_000)),
                None,
            ),
        ];
        for (sql, expected) in table {
            let start: String = sql.chars().take(40).collect();
            assert_eq!(super::analyze(&sql).err(), expected, "{start}");
        }
    }

    /// Whatever is nested how deeply: an answer, and no stack overflow, also on the stack of a worker thread that is half used.
    #[test]
    fn deep_nesting_is_survived() {
        let deep = |depth: usize| {
            let wrap = |open: &str, inner: &str, close: &str| {
                format!(
                    "SELECT {}{inner}{}",
                    open.repeat(depth),
                    close.repeat(depth)
                )
            };
            [
                wrap("(", "1", ")"),
                wrap("(", "a <-> '[1]'", ")"),
                wrap("NOT ", "true", ""),
                wrap("- ", "1", ""),
                wrap("1 + ", "1", ""),
                wrap("", "1", " + 1"),
                wrap("", "a", " AND b"),
                wrap("", "a", " OR b AND c"),
                wrap("", "a", "::int"),
                wrap("", "a", "[1]"),
                wrap("ARRAY[", "1", "]"),
                wrap("(SELECT ", "1", ")"),
                wrap("CASE WHEN ", "a", " THEN 1 END"),
                wrap("lower(", "a", ")"),
                wrap("1 UNION SELECT ", "1", ""),
                wrap("* FROM (SELECT ", "1", ") t"),
                wrap("* FROM a JOIN ", "b", " ON true"),
                wrap("/*", "", "*/"),
                wrap("", "1", ", 1"),
                wrap("", "1", "; SELECT 1"),
                "(".repeat(depth),
                "EXPLAIN ".repeat(depth),
                format!("SELECT {}", "a.".repeat(depth)),
                format!("{} SELECT 1 {}", "(".repeat(depth), ")".repeat(depth)),
                format!(
                    "SELECT * FROM t WHERE {}",
                    "x = (SELECT y FROM t WHERE ".repeat(depth)
                ),
            ]
        };
        for stack in [700 << 10, 2 << 20] {
            for depth in [10, 60, 1_000, 9_000, 20_000] {
                for sql in deep(depth) {
                    on_a_thread(stack, move || {
                        let _ = interest(sql.as_bytes());
                        drop(analyze(&sql));
                    });
                }
            }
        }
    }
}
