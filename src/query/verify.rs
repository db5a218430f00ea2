//! SQL text → the indexes that its calls of `rektor.verify_index` name, as far as that is plain to see: by a constant or a
//! parameter. Pure; goes by tokens, so that it does not matter where in a statement a call stands.

use pg_query::protobuf::Token as Kind;

use super::parse::{Parsed, Token};

/// Calls that are looked at in one text.
const MAX_CALLS: usize = 64;
/// The function's name.
const FUNCTION: &str = "verify_index";

/// How a call names its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifiedName {
    /// A constant, as the text writes it, in quotes.
    Literal(String),
    /// `$n`.
    Parameter(u16),
}

/// The indexes that a text wants verified. None where PostgreSQL's grammar refuses the text.
#[must_use]
pub fn verified_names(sql: &str) -> Vec<VerifiedName> {
    let Ok(parsed) = Parsed::new(sql) else {
        return Vec::new();
    };
    let tokens = parsed.tokens(&(0..sql.len()));
    let calls = (0..tokens.len()).filter_map(|at| call(tokens.get(at..)?, sql));
    let mut names: Vec<VerifiedName> = Vec::new();
    for name in calls.take(MAX_CALLS) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `verify_index ( [name =>] 'x' [:: type] )`
fn call(tokens: &[Token], sql: &str) -> Option<VerifiedName> {
    let (function, rest) = tokens.split_first()?;
    let name = function.text(sql);
    let is_function = name.eq_ignore_ascii_case(FUNCTION)
        || name
            .strip_prefix('"')
            .and_then(|name| name.strip_suffix('"'))
            == Some(FUNCTION);
    let (open, mut rest) = rest.split_first()?;
    if !is_function || !open.is(Kind::Ascii40) {
        return None;
    }
    if let [label, arrow, after @ ..] = rest
        && label.text(sql).eq_ignore_ascii_case("name")
        && arrow.is_any(&[Kind::EqualsGreater, Kind::ColonEquals])
    {
        rest = after;
    }
    let (value, rest) = rest.split_first()?;
    let rest = match rest {
        [cast, _type, after @ ..] if cast.is(Kind::Typecast) => after,
        after => after,
    };
    if !rest.first()?.is(Kind::Ascii41) {
        return None;
    }
    if let Some(number) = value.parameter(sql) {
        return number.parse().ok().map(VerifiedName::Parameter);
    }
    value
        .is_any(&[Kind::Sconst, Kind::Usconst])
        .then(|| VerifiedName::Literal(value.text(sql).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_they_are_plain_to_see() {
        let literal = |text: &str| VerifiedName::Literal(text.to_owned());
        for (sql, expected) in [
            (
                "select * from rektor.verify_index('i')",
                vec![literal("'i'")],
            ),
            (
                "SELECT missing FROM Rektor.\"verify_index\"( 'a''b'::text ) v",
                vec![literal("'a''b'")],
            ),
            (
                "select * from rektor.verify_index(name => E'i\\n')",
                vec![literal("E'i\\n'")],
            ),
            (
                "select * from rektor.verify_index(/* x */ $2)",
                vec![VerifiedName::Parameter(2)],
            ),
            (
                "table t; select (rektor.verify_index('a')).*, rektor.verify_index('a') from verify_index($1::text)",
                vec![literal("'a'"), VerifiedName::Parameter(1)],
            ),
            (
                "select s.* from rektor.stat_indexes i, rektor.verify_index(i.index_name) s",
                vec![],
            ),
            ("select rektor.verify_index('a' || 'b')", vec![]),
            ("select 'verify_index(''a'')'", vec![]),
            ("select verify_index('a", vec![]),
        ] {
            assert_eq!(verified_names(sql), expected, "{sql}");
        }
    }
}
