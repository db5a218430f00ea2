//! WHERE clauses and what is recognised of them.

use super::*;
use crate::query::{StatementKind, analyze};

/// The conditions, one a line.
fn recognised(condition: &str) -> Vec<String> {
    let sql = format!("select * from s.items i where {condition} order by i.v <-> $1 limit 5");
    let kind = analyze(&sql).unwrap().remove(0).kind;
    let StatementKind::Knn(query) = kind else {
        panic!("{sql}: {kind:?}");
    };
    let group = |group: &Vec<Condition>| {
        let conditions: Vec<_> = group.iter().map(show).collect();
        conditions.join(" | ")
    };
    query.conditions.iter().map(group).collect()
}

fn operand_value(value: &OperandValue) -> String {
    match value {
        OperandValue::Null => "null".into(),
        OperandValue::Number(text) => text.clone(),
        OperandValue::Text(text) => format!("'{text}'"),
        OperandValue::Bool(value) => value.to_string(),
        OperandValue::Parameter(number) => format!("${number}"),
    }
}

fn show(condition: &Condition) -> String {
    let show_cast = |cast: FilterKind| match cast {
        FilterKind::One(kind) => format!("{kind:?}"),
        FilterKind::Array(kind) => format!("{kind:?}[]"),
        FilterKind::Jsonb => "Jsonb".into(),
    };
    let operand = |operand: &Operand| {
        let value = operand_value(&operand.value);
        match operand.cast {
            Some(cast) => format!("{value}::{}", show_cast(cast)),
            None => value,
        }
    };
    let list = |list: &[Operand]| list.iter().map(operand).collect::<Vec<_>>().join(" ");
    let items = |items: &Items| match items {
        Items::Whole(whole) => operand(whole),
        Items::Each(each) => format!("[{}]", list(each)),
    };
    let mut column = condition.column.clone();
    for step in &condition.path {
        column += &match step {
            Step::One(key) => format!(".{}", operand(key)),
            Step::Many(keys) => format!("#{}", operand(keys)),
        };
    }
    if condition.as_text {
        column += " text";
    }
    if let Some(kind) = condition.cast {
        column += &format!("::{kind:?}");
    }
    match &condition.test {
        Test::Element(comparison, right) => {
            format!("{column} element {comparison:?} {}", operand(right))
        }
        Test::Contains(right) => format!("{column} contains {}", items(right)),
        Test::Overlaps(right) => format!("{column} overlaps {}", items(right)),
        Test::Key(key) => format!("{column} has {}", operand(key)),
        Test::AnyKey(keys) => format!("{column} has any {}", items(keys)),
        Test::AllKeys(keys) => format!("{column} has all {}", items(keys)),
        Test::Compare(comparison, right) => {
            format!("{column} {comparison:?} {}", operand(right))
        }
        Test::Between(low, high) => format!("{column} {}..{}", operand(low), operand(high)),
        Test::In(operands) => format!("{column} in {}", list(operands)),
        Test::Any(array) => format!("{column} any {}", operand(array)),
        Test::Differs(right) => format!("{column} differs {}", operand(right)),
        Test::Distinct(right) => format!("{column} distinct {}", operand(right)),
        Test::NotDistinct(right) => format!("{column} not distinct {}", operand(right)),
        Test::Outside(low, high) => format!("{column} not {}..{}", operand(low), operand(high)),
        Test::NotIn(operands) => format!("{column} not in {}", list(operands)),
        Test::NotAny(array) => format!("{column} not any {}", operand(array)),
        Test::Is(wanted) => format!("{column} is {wanted}"),
        Test::IsNot(value) => format!("{column} is not {value}"),
        Test::Null(true) => format!("{column} is null"),
        Test::Null(false) => format!("{column} is not null"),
    }
}

#[test]
fn comparisons_of_columns_with_constants_are_recognised() {
    let check = |condition: &str, expected: &[&str]| {
        assert_eq!(recognised(condition), expected, "{condition}");
    };
    check("a = 5", &["a Equal 5"]);
    check("5 < i.a", &["a Greater 5"]);
    check(
        "a >= -1.5 and (b <= 'x' and $2 > a)",
        &["a AtLeast -1.5", "b AtMost 'x'", "a Less $2"],
    );
    check(
        "\"Odd name\" = 12345678901234567890",
        &["Odd name Equal 12345678901234567890"],
    );
    check("a operator(pg_catalog.=) 5", &["a Equal 5"]);
    check("a between 1 and $3", &["a 1..$3"]);
    check(
        "a in (1, '2', $2::int, null)",
        &["a in 1 '2' $2::Int4 null"],
    );
    check(
        "a = any ($2) and b = any ('{1,2}'::int[]) and c = any (array[1, 2])",
        &["a any $2", "b any '{1,2}'::Int4[]", "c in 1 2"],
    );
    check("flag", &["flag is true"]);
    check(
        "not i.flag and b is true and c is false and d = true",
        &["flag is false", "b is true", "c is false", "d Equal true"],
    );
    check("d >= date '2024-01-01'", &["d AtLeast '2024-01-01'::Date"]);
    check(
        "d < '2024-01-01'::timestamp and e > $2::timestamptz",
        &[
            "d Less '2024-01-01'::Timestamp",
            "e Greater $2::Timestamptz",
        ],
    );
    check(
        "t = 'x'::text and n = 5::bigint",
        &["t Equal 'x'::Text", "n Equal 5::Int8"],
    );
}

#[test]
fn negations_nulls_and_casts_are_recognised() {
    let check = |condition: &str, expected: &[&str]| {
        assert_eq!(recognised(condition), expected, "{condition}");
    };
    check("a <> 5 and 5 != i.b", &["a differs 5", "b differs 5"]);
    check("not a <> 5 and not (not a < 5)", &["a Equal 5", "a Less 5"]);
    check("not (a < 5 or b >= $2)", &["a AtLeast 5", "b Less $2"]);
    check(
        "not ((a = 1 or not b > 2) or c)",
        &["a differs 1", "b Greater 2", "c is false"],
    );
    check("a not in (1, $2)", &["a not in 1 $2"]);
    check("not a in (1, 2)", &["a not in 1 2"]);
    check(
        "a <> all ($2) and b <> all (array[1, 2])",
        &["a not any $2", "b not in 1 2"],
    );
    check("a not between 1 and 2", &["a not 1..2"]);
    check("not (a not between 1 and 2)", &["a 1..2"]);
    check(
        "a is null and not b is null",
        &["a is null", "b is not null"],
    );
    check(
        "a is not true and not b is true",
        &["a is not true", "b is not true"],
    );
    check(
        "not a is not false and b is unknown",
        &["a is false", "b is null"],
    );
    check("(a ->> 'k')::int >= 5", &["a.'k' text::Int4 AtLeast 5"]);
    check("not (a -> 'k')::boolean", &["a.'k'::Bool is false"]);
    check("not (a @> '{}' or b ? 'k')", &[]);
}

#[test]
fn one_of_several_conditions_is_recognised() {
    let check = |condition: &str, expected: &[&str]| {
        assert_eq!(recognised(condition), expected, "{condition}");
    };
    check("a = 5 or b is null", &["a Equal 5 | b is null"]);
    check("not (a < 5 and b >= $2)", &["a AtLeast 5 | b Less $2"]);
    // as Django excludes
    check(
        "not (a = 5 and a is not null)",
        &["a differs 5 | a is null"],
    );
    check(
        "a = 1 or (b = 2 and (c = 3 or d = 4)) or e = 5",
        &[
            "a Equal 1 | b Equal 2 | e Equal 5",
            "a Equal 1 | c Equal 3 | d Equal 4 | e Equal 5",
        ],
    );
    // what is not recognised makes no difference to what must hold beside it
    check("a = 1 or (b = 2 and c = d)", &["a Equal 1 | b Equal 2"]);
    check(
        "a = 1 or a ->> 'k' = 'x'",
        &["a Equal 1 | a.'k' text Equal 'x'"],
    );
    check("a is distinct from 5", &["a distinct 5"]);
    check("5 is not distinct from a", &["a not distinct 5"]);
    check("not a is distinct from $2", &["a not distinct $2"]);
    let every = |words: &str, count: usize| vec![words; count].join(" or ");
    assert_eq!(recognised(&every("a = 1", MAX_ALTERNATIVES)).len(), 1);
    assert_eq!(recognised(&every("a = 1", MAX_ALTERNATIVES + 1)), [""; 0]);
    assert_eq!(recognised(&every("(a = 1 and b = 2)", 5)).len(), 32);
    assert_eq!(recognised(&every("(a = 1 and b = 2)", 6)).len(), 32);
}

/// Beside other tables only what is qualified is surely the searched table's.
#[test]
fn conditions_beside_joined_tables_are_qualified() {
    for (from, expected) in [
        ("items i join other o on o.id = i.id", &["a Equal 1"][..]),
        (
            "other o left join third on i.a = 5, items i",
            &["a Equal 1"],
        ),
        ("items i left join other o using (id)", &["a Equal 1"]),
        (
            "other o right join (items i natural join third) on i.a = 2",
            &["a Equal 1"],
        ),
    ] {
        let sql = format!(
            "select * from {from} where i.a = 1 and b = 2 and o.c = 3 order by i.v <-> $1 limit 5"
        );
        let kind = analyze(&sql).unwrap().remove(0).kind;
        let StatementKind::Knn(query) = kind else {
            panic!("{sql}: {kind:?}");
        };
        assert_eq!(
            (query.table.as_str(), query.alias.as_deref()),
            ("items", Some("i"))
        );
        let shown: Vec<_> = query.conditions.iter().flatten().map(show).collect();
        assert_eq!(shown, expected, "{sql}");
    }
}

#[test]
fn arrays_and_documents_are_recognised() {
    let check = |condition: &str, expected: &str| {
        assert_eq!(recognised(condition), [expected], "{condition}");
    };
    check("a @> array['x', $2]", "a contains ['x' $2]");
    check(
        "a @> array['x', $2]::text[]",
        "a contains ['x'::Text $2::Text]",
    );
    check(
        "a @> array[1::int8, 2]::int8[]",
        "a contains [1::Int8 2::Int8]",
    );
    check("array['x'] <@ i.a", "a contains ['x']");
    check("a @> '{x}'", "a contains '{x}'");
    check("a @> $2::text[]", "a contains $2::Text[]");
    check("a @> '{\"k\": 1}'::jsonb", "a contains '{\"k\": 1}'::Jsonb");
    check("a @> jsonb '[]'", "a contains '[]'::Jsonb");
    check("a && array['x']", "a overlaps ['x']");
    check("$2 && a", "a overlaps $2");
    check("'x' = any (a)", "a element Equal 'x'");
    check("5 < any (i.a)", "a element Greater 5");
    check("a ? 'k'", "a has 'k'");
    check("a ?| array['k', 'l']", "a has any ['k' 'l']");
    check("a ?& $2", "a has all $2");
    check("a ->> 'k' = 'x'", "a.'k' text Equal 'x'");
    check("'x' = a -> 'k' ->> 'l'", "a.'k'.'l' text Equal 'x'");
    check("a ->> 'k' in ('x', $2)", "a.'k' text in 'x' $2");
    check("a ->> 'k' = any ($2)", "a.'k' text any $2");
    check(
        "a ->> 'k' = any (array['x']::text[])",
        "a.'k' text in 'x'::Text",
    );
    check("a #>> '{k,l}' = 'x'", "a#'{k,l}' text Equal 'x'");
    check("a -> 0 ->> $2 = 'x'", "a.0.$2 text Equal 'x'");
    check("a -> 'k' @> '[1]'", "a.'k' contains '[1]'");
    check("a -> 'k' = '1'", "a.'k' Equal '1'");
    check("a #> '{k}' ? 'l'", "a#'{k}' has 'l'");
}

#[test]
fn everything_else_is_left_to_postgres() {
    for condition in [
        "a = b",
        "a + 1 = 5",
        "a = 5 or a + 1 = 6",
        "a = 5 or b = c",
        "not (a = 5 and b = c)",
        "a between symmetric 2 and 1",
        "a = all ('{1}')",
        "a < any ('{1}')",
        "(a = 5) is not true",
        "a is distinct from b",
        "a like 'x'",
        "a = 'x' collate \"C\"",
        "a collate \"C\" = 'x'",
        "a = lower('X')",
        "a = 'x'::varchar(1)",
        "a = 'x'::char(3)",
        "a = 5::numeric(3, 1)",
        "a = '5'::s.int4",
        "a operator(s.=) 5",
        "other.a = 5",
        "t.i.a = 5",
        "i.* = row(1)",
        "(a, b) = (1, 2)",
        "(a, b) in ((1, 2))",
        "a = (select 1)",
        "a in (select 1)",
        "a = any (array[[1], [2]])",
        "a = any ('{1}'::int[][])",
        "a = -(5::int)",
        "a[1] = 5",
        "true",
        "$2",
        "a = B'01'",
        "a <@ array['x']",
        "not a @> array['x']",
        "a @> b",
        "a @> array[b]",
        "a @> array['x'] collate \"C\"",
        "a @> array['x'::char(3)]",
        "a @> array['x']::varchar(3)[]",
        "a @> array['x']::text",
        "a @> '{}'::json",
        "a operator(s.@>) '{}'",
        "lower(a ->> 'k') = 'x'",
        "a::int8 = 5",
        "(a ->> 'k')::numeric(3, 1) = 5",
        "(a ->> 'k')::int::text = '5'",
        "a ->> b = 'x'",
        "a ->> 'k' ->> 'l' = 'x'",
        "a['k'] = '1'",
        "'x' <> any (a -> 'k')",
        "'x' = all (a)",
        "a @@ '$.k == 1'",
        "a @? '$.k'",
    ] {
        assert_eq!(recognised(condition), [""; 0], "{condition}");
    }
    assert_eq!(
        recognised("a = b and c = 1 and (d = 1 or e = f)"),
        ["c Equal 1"]
    );
}

#[test]
fn long_lists_are_left_to_postgres() {
    let list = vec!["1"; MAX_VALUES + 1].join(", ");
    assert_eq!(recognised(&format!("a in ({list})")), [""; 0]);
    assert_eq!(recognised(&format!("a = any (array[{list}])")), [""; 0]);
}
