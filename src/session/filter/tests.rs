//! Conditions and parameters as clients send them, and what becomes of them.

use bytes::BufMut;
use proptest::prelude::*;

use super::*;
use crate::catalog::TypeId;
use crate::index::JsonPath;
use crate::query::{StatementKind, analyze};

const INT4: u32 = 23;
const INT8: u32 = 20;
const FLOAT8: u32 = 701;
const NUMERIC: u32 = 1700;
const TEXT: u32 = 25;
const VARCHAR: u32 = 1043;
const TIMESTAMPTZ: u32 = 1184;

/// An index that includes a column of each type: `i4 i8 f8 n t d tz b`, an opaque one, `j`, arrays and a document.
fn definition() -> IndexDefinition {
    let mut definition = super::super::candidates::tests::definition(&[]);
    let columns = [
        ("i4", INT4),
        ("i8", INT8),
        ("f8", FLOAT8),
        ("n", NUMERIC),
        ("t", TEXT),
        ("d", 1082),
        ("tz", TIMESTAMPTZ),
        ("b", 16),
        ("j", 114),
        ("ints", 1007),
        ("tags", 1009),
        ("meta", 3802),
    ];
    definition.include = (1..)
        .zip(columns)
        .map(|(number, (name, oid))| IncludeColumn {
            name: name.into(),
            number: crate::catalog::ColumnNumber(number),
            type_id: TypeId(oid),
            deterministic: true,
        })
        .collect();
    definition
}

fn knn(condition: &str) -> KnnQuery {
    let sql = format!("select * from t where {condition} order by v <-> '[1,2]' limit 5");
    let kind = analyze(&sql).unwrap().remove(0).kind;
    let StatementKind::Knn(query) = kind else {
        panic!("{sql}: {kind:?}");
    };
    *query
}

/// A Bind's body with these parameters.
fn bind(parameters: &[(Format, Option<&[u8]>)]) -> Vec<u8> {
    let mut body = vec![0, 0];
    let count = u16::try_from(parameters.len()).unwrap();
    body.put_u16(count);
    for (format, _) in parameters {
        body.put_u16(u16::from(*format == Format::Binary));
    }
    body.put_u16(count);
    for (_, value) in parameters {
        match value {
            None => body.put_i32(-1),
            Some(value) => {
                body.put_i32(i32::try_from(value.len()).unwrap());
                body.put_slice(value);
            }
        }
    }
    body.put_u16(0);
    body
}

fn filter(condition: &str, types: &[u32], parameters: &[(Format, Option<&[u8]>)]) -> Filter {
    let body = bind(parameters);
    read(
        &knn(condition),
        &definition(),
        types,
        BindBody::read(&body).as_ref(),
    )
}

/// The filter with one condition: the column equals one of these constants.
fn equals(column: usize, kind: ValueKind, constants: &[Constant]) -> Filter {
    let ranges = constants
        .iter()
        .map(|constant| constant.range(kind, Comparison::Equal).unwrap());
    let mut filter = Filter::default();
    filter.add(column, ranges.collect());
    filter
}

fn ints(column: usize, constants: &[i64]) -> Filter {
    let constants: Vec<_> = constants.iter().copied().map(Constant::Int).collect();
    equals(column, ValueKind::Int8, &constants)
}

#[test]
fn constants_are_read_as_the_columns_type() {
    let same = |condition, expected: Filter| {
        assert_eq!(filter(condition, &[], &[]), expected, "{condition}")
    };
    same("i4 = 5", ints(0, &[5]));
    same("5 = i4", ints(0, &[5]));
    same("i4 = '5'", ints(0, &[5]));
    same("i4 in (1, '2', null)", ints(0, &[1, 2]));
    same("i4 = any ('{3, NULL ,4}')", ints(0, &[3, 4]));
    same("i4 = any (null)", ints(0, &[]));
    same("i4 = null", ints(0, &[]));
    same("i4 = 5.5", ints(0, &[]));
    same("t = 1e3::text", Filter::default());
    let text = |text: &str| Constant::Text(text.into());
    same(
        "t in ('a', 'b c')",
        equals(4, ValueKind::Text, &[text("a"), text("b c")]),
    );
    same(
        "t = any ('{a,\"b \\\\\\\" c\",\" \"}')",
        equals(
            4,
            ValueKind::Text,
            &[text("a"), text("b \\\" c"), text(" ")],
        ),
    );
    same("b", equals(7, ValueKind::Bool, &[Constant::Bool(true)]));
    same(
        "not b",
        equals(7, ValueKind::Bool, &[Constant::Bool(false)]),
    );
    same(
        "d = '2000-01-03'",
        equals(5, ValueKind::Date, &[Constant::Date(2)]),
    );
    same(
        "n = 1.50",
        equals(3, ValueKind::Numeric, &[Constant::Float(1.5)]),
    );
    let mut between = Filter::default();
    between.add(
        1,
        vec![(
            Constant::Int(2)
                .range(ValueKind::Int8, Comparison::Equal)
                .unwrap()
                .0,
            Constant::Int(7)
                .range(ValueKind::Int8, Comparison::Equal)
                .unwrap()
                .0,
        )],
    );
    same("i8 between 2 and 7", between);
    for unused in [
        "j = '5'",
        "other = 5",
        "t < 'a'",
        "d > 'yesterday'",
        "tz > '2024-01-01'",
        "d > '2024-01-01'::timestamp",
        "i4 = any ('{{1}}')",
        "i4 = any ('[0:0]={1}')",
        "t = any ('{a b\\c}')",
        "i4 in (1, 'x')",
        "i4 = true",
        "i4 = 5::float8",
    ] {
        same(unused, Filter::default());
    }
}

#[test]
fn parameters_are_read_by_type_and_format() {
    use Format::{Binary, Text};
    let same = |condition, types: &[u32], parameter: (Format, Option<&[u8]>), expected: Filter| {
        let found = filter(condition, types, &[parameter]);
        assert_eq!(found, expected, "{condition} {types:?} {parameter:?}");
    };
    let nothing = Filter::default;
    same("i4 = $1", &[], (Text, Some(b"5")), ints(0, &[5]));
    same(
        "i4 = $1",
        &[0],
        (Binary, Some(&5_i32.to_be_bytes())),
        ints(0, &[5]),
    );
    same(
        "i4 = $1",
        &[0],
        (Binary, Some(&5_i64.to_be_bytes())),
        nothing(),
    );
    same(
        "i4 = $1",
        &[INT8],
        (Binary, Some(&5_i64.to_be_bytes())),
        ints(0, &[5]),
    );
    same("i4 = $1", &[INT4], (Text, None), ints(0, &[]));
    same(
        "i4 = $1::int8",
        &[0],
        (Binary, Some(&5_i64.to_be_bytes())),
        ints(0, &[5]),
    );
    same(
        "i4 = $1::int8",
        &[INT4],
        (Binary, Some(&5_i32.to_be_bytes())),
        ints(0, &[5]),
    );
    same("i4 = $1::int4", &[TEXT], (Text, Some(b"5")), ints(0, &[5]));
    same("i4 = $1::int4", &[TEXT], (Binary, Some(b"5")), nothing());
    same(
        "i4 = $1",
        &[FLOAT8],
        (Binary, Some(&5.0_f64.to_be_bytes())),
        nothing(),
    );
    same("i4 = $1", &[TEXT], (Text, Some(b"5")), nothing());
    same("i4 = $1", &[NUMERIC], (Text, Some(b"5")), ints(0, &[5]));
    same(
        "t = $1",
        &[VARCHAR],
        (Binary, Some(b"a")),
        equals(4, ValueKind::Text, &[Constant::Text(b"a".into())]),
    );
    same(
        "t = $1",
        &[705],
        (Text, Some(b"a")),
        equals(4, ValueKind::Text, &[Constant::Text(b"a".into())]),
    );
    same(
        "tz = $1",
        &[TIMESTAMPTZ],
        (Binary, Some(&9_i64.to_be_bytes())),
        equals(6, ValueKind::Timestamptz, &[Constant::Timestamptz(9)]),
    );
    same(
        "tz = $1",
        &[1114],
        (Binary, Some(&9_i64.to_be_bytes())),
        nothing(),
    );
    // a type that comes from elsewhere in the statement
    same(
        "f8 = $1 and i8 = $1",
        &[],
        (Binary, Some(&5_i64.to_be_bytes())),
        nothing(),
    );
    same(
        "i8 = $1 and i8 = $1",
        &[INT8],
        (Binary, Some(&5_i64.to_be_bytes())),
        {
            let mut twice = ints(1, &[5]);
            let range = Constant::Int(5)
                .range(ValueKind::Int8, Comparison::Equal)
                .unwrap();
            twice.add(1, vec![range]);
            twice
        },
    );
    same(
        "i8 in ($1, 2.5)",
        &[],
        (Binary, Some(&5_i64.to_be_bytes())),
        nothing(),
    );
    same(
        "i8 in ($1, 2::numeric)",
        &[],
        (Binary, Some(&5_i64.to_be_bytes())),
        nothing(),
    );
    same(
        "i8 in ($1, 2)",
        &[],
        (Binary, Some(&5_i64.to_be_bytes())),
        ints(1, &[2, 5]),
    );
}

/// A group of conditions: one of these columns lies in one of these ranges.
fn either(group: Group) -> Filter {
    let mut filter = Filter::default();
    filter.add_any(group);
    filter
}

#[test]
fn one_of_several_conditions_is_read() {
    let same = |condition, expected: Filter| {
        assert_eq!(filter(condition, &[], &[]), expected, "{condition}")
    };
    let at = |number: i64| {
        Constant::Int(number)
            .range(ValueKind::Int8, Comparison::Equal)
            .unwrap()
    };
    let all_but = |number: i64| {
        let (low, high) = at(number);
        vec![
            (Ordinal::LEAST, low.previous()),
            (high.next(), Ordinal::GREATEST),
        ]
    };
    same(
        "i4 = 5 or i8 = 6",
        either(vec![(0, vec![at(5)]), (1, vec![at(6)])]),
    );
    same("i4 = 5 or i4 = 6", ints(0, &[5, 6]));
    let mut not_five = all_but(5);
    not_five.push(NULL);
    same(
        "not (i4 = 5 and i4 is not null)",
        either(vec![(0, not_five.clone())]),
    );
    same("i4 is distinct from 5", either(vec![(0, not_five)]));
    same(
        "i4 is distinct from null",
        either(vec![(0, vec![NOT_NULL])]),
    );
    same("i4 is not distinct from 5", ints(0, &[5]));
    same(
        "i4 is not distinct from null",
        either(vec![(0, vec![NULL])]),
    );
    // either is nothing where nothing is known of the other
    same("i4 = 5 or j is null", Filter::default());
    same("i4 = 5 or i8 = 6.5::float8", Filter::default());
    same("i4 = 5 or meta is distinct from '1'", Filter::default());
    // what never holds adds nothing
    same(
        "i4 = 5 or i8 = null",
        either(vec![(0, vec![at(5)]), (1, vec![])]),
    );
    // of each part of a condition, one
    let tag = |text| (10, vec![(text_element(text), text_element(text))]);
    same("tags @> '{a,b}' or i4 = 5", {
        let mut both = either(vec![tag("a"), (0, vec![at(5)])]);
        both.add_any(vec![tag("b"), (0, vec![at(5)])]);
        both
    });
    // NULL never differs from a list, unless that is empty
    same("i4 <> all (array[5])", either(vec![(0, all_but(5))]));
    same("i4 <> all (array[]::int[])", Filter::default());
    same("i4 <> all ('{}')", Filter::default());
    same("not i4 = any (array[]::int[])", Filter::default());
}

#[test]
fn arrays_are_read_in_both_forms() {
    use Format::{Binary, Text};
    let mut array = Vec::new();
    for word in [1, 1, 23, 3, 1, 4, 7, -1, 4, 9] {
        array.put_i32(word);
    }
    let int4_array = 1007;
    let check = |types: &[u32], format, value: &[u8], expected: Filter| {
        assert_eq!(
            filter("i4 = any ($1)", types, &[(format, Some(value))]),
            expected,
            "{value:?}"
        );
    };
    check(&[], Binary, &array, ints(0, &[7, 9]));
    check(&[int4_array], Binary, &array, ints(0, &[7, 9]));
    check(&[int4_array], Text, b"{7,9}", ints(0, &[7, 9]));
    check(&[], Text, b" { 7 , 9 } ", ints(0, &[7, 9]));
    check(&[], Text, b"{}", ints(0, &[]));
    check(
        &[],
        Binary,
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23],
        ints(0, &[]),
    );
    check(&[1016], Binary, &array, Filter::default());
    for end in 0..array.len() {
        check(&[], Binary, &array[..end], Filter::default());
    }
    for malformed in [
        "{",
        "{1",
        "1}",
        "{1,}",
        "{,}",
        "{1}{2}",
        "{\"1}",
        "{\"1\" x}",
        "{a}",
    ] {
        check(&[], Text, malformed.as_bytes(), Filter::default());
    }
}

/// The filter with these conditions on a column, each the least and the greatest of what it allows.
fn parts(column: usize, all: &[&[Ordinal]]) -> Filter {
    let mut filter = Filter::default();
    for any in all {
        filter.add(column, any.iter().map(|token| (*token, *token)).collect());
    }
    filter
}

fn text_element(text: &str) -> Ordinal {
    let constant = Constant::Text(text.into());
    constant
        .range(ValueKind::Text, Comparison::Equal)
        .unwrap()
        .0
}

#[test]
fn conditions_on_arrays_are_read() {
    let (a, b) = (text_element("a"), text_element("b"));
    let same = |condition, all: &[&[Ordinal]]| {
        assert_eq!(filter(condition, &[], &[]), parts(10, all), "{condition}");
    };
    same("tags @> array['a', 'b']", &[&[a], &[b]]);
    same("tags @> '{a,\"b\"}'", &[&[a], &[b]]);
    same("tags @> '{a,b}'::text[]", &[&[a], &[b]]);
    same("array['a'] <@ tags", &[&[a]]);
    same("tags @> array['a', null]", &[&[]]);
    same("tags @> null", &[&[]]);
    same("tags && array['a', null, 'b']", &[&[a, b]]);
    same("tags && '{}'", &[&[]]);
    same("'a' = any (tags)", &[&[a]]);
    same("null = any (tags)", &[&[]]);
    same("tags = '{a,NULL,b}'", &[&[a], &[b]]);
    for nothing in [
        "tags @> '{}'",
        "tags = '{}'",
        "tags @> '{{a},{b}}'",
        "tags @> array['a'::uuid]",
        "tags @> array[1]::text[]",
        "tags @> '[\"a\"]'::jsonb",
        "tags = any ('{}')",
        "'a' < any (tags)",
        "tags -> 'a' = 'b'",
    ] {
        assert!(filter(nothing, &[], &[]).is_empty(), "{nothing}");
    }
    let element = |number| (Ordinal::of_int(number), Ordinal::of_int(number));
    let mut greater = Filter::default();
    greater.add(9, vec![(element(6).0, Ordinal::GREATEST)]);
    assert_eq!(filter("5 < any (ints)", &[], &[]), greater);
    let mut both = Filter::default();
    both.add(9, vec![element(1)]);
    both.add(9, vec![element(2)]);
    assert_eq!(filter("ints @> array[1, 2]", &[], &[]), both);
    // of any length, as many as are used
    let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let many = filter(&format!("ints @> '{{{}}}'", many.join(",")), &[], &[]);
    assert_eq!(many.columns().count(), MAX_PARTS);
}

#[test]
fn parameters_of_arrays_and_documents_are_read() {
    let (a, b) = (text_element("a"), text_element("b"));
    let head = [1, 0, 25, 2, 1, 1].into_iter().flat_map(i32::to_be_bytes);
    let binary: Vec<u8> = head
        .chain(*b"a")
        .chain(1_i32.to_be_bytes())
        .chain(*b"b")
        .collect();
    let check = |condition, declared: u32, format, value: Option<&[u8]>, expected: Filter| {
        let read = filter(condition, &[declared], &[(format, value)]);
        assert_eq!(read, expected, "{condition} {declared} {format:?}");
    };
    for declared in [0, 1009] {
        check(
            "tags @> $1",
            declared,
            Format::Text,
            Some(b"{a,b}"),
            parts(10, &[&[a], &[b]]),
        );
        check(
            "tags @> $1",
            declared,
            Format::Binary,
            Some(&binary),
            parts(10, &[&[a], &[b]]),
        );
        check(
            "tags && $1::text[]",
            declared,
            Format::Binary,
            Some(&binary),
            parts(10, &[&[a, b]]),
        );
        check(
            "tags && $1",
            declared,
            Format::Text,
            None,
            parts(10, &[&[]]),
        );
    }
    check(
        "tags @> array[$1]",
        TEXT,
        Format::Binary,
        Some(b"a"),
        parts(10, &[&[a]]),
    );
    check(
        "tags @> array[$1]",
        INT4,
        Format::Binary,
        Some(b"\0\0\0\x01"),
        Filter::default(),
    );
    check(
        "$1 = any (tags)",
        0,
        Format::Text,
        Some(b"a"),
        parts(10, &[&[a]]),
    );
    check(
        "tags @> $1",
        1007,
        Format::Text,
        Some(b"{1}"),
        Filter::default(),
    );
    let lang = JsonPath::ROOT.contains(r#"{"lang": "en"}"#).unwrap();
    let (text, binary) = (br#"{"lang":"en"}"#, b"\x01{\"lang\" : \"en\"}");
    for declared in [0, 3802] {
        check(
            "meta @> $1",
            declared,
            Format::Text,
            Some(text),
            parts(11, &[&lang]),
        );
        check(
            "meta @> $1",
            declared,
            Format::Binary,
            Some(binary),
            parts(11, &[&lang]),
        );
        check(
            "meta @> $1::jsonb",
            declared,
            Format::Binary,
            Some(binary),
            parts(11, &[&lang]),
        );
    }
    for declared in [114, TEXT, VARCHAR] {
        check(
            "meta @> $1::jsonb",
            declared,
            Format::Text,
            Some(text),
            parts(11, &[&lang]),
        );
        check(
            "meta @> $1::jsonb",
            declared,
            Format::Binary,
            Some(text),
            parts(11, &[&lang]),
        );
        check(
            "meta @> $1",
            declared,
            Format::Text,
            Some(text),
            Filter::default(),
        );
    }
    check(
        "meta @> $1",
        3802,
        Format::Binary,
        Some(b"\x02{}"),
        Filter::default(),
    );
    check(
        "meta @> $1 and meta = $1",
        0,
        Format::Text,
        Some(text),
        Filter::default(),
    );
    let en = JsonPath::ROOT.key("lang").has_text("en").unwrap();
    check(
        "meta ->> 'lang' = $1",
        0,
        Format::Text,
        Some(b"en"),
        parts(11, &[&en]),
    );
    check(
        "meta ->> $1 = 'en'",
        TEXT,
        Format::Binary,
        Some(b"lang"),
        parts(11, &[&en]),
    );
    check(
        "meta ->> $1 = 'en'",
        INT4,
        Format::Text,
        Some(b"0"),
        Filter::default(),
    );
}

#[test]
fn conditions_on_documents_are_read() {
    let root = JsonPath::ROOT;
    let same = |condition, all: &[&[Ordinal]]| {
        assert_eq!(filter(condition, &[], &[]), parts(11, all), "{condition}");
    };
    let text = |path: JsonPath, text| path.has_text(text).unwrap();
    let (a, ab) = (root.key("a"), root.key("a").key("b"));
    same("meta ->> 'a' = 'x'", &[&text(a, "x")]);
    same(
        "meta ->> 'a' in ('x', '5')",
        &[&[text(a, "x"), text(a, "5")].concat()],
    );
    same("meta ->> 'a' = any ('{x,NULL}')", &[&text(a, "x")]);
    same("meta -> 'a' ->> 'b' = 'x'", &[&text(ab, "x")]);
    same("meta -> 'a' -> -1 ->> 'b' = 'x'", &[&text(ab, "x")]);
    same("meta #>> '{a,b}' = 'x'", &[&text(ab, "x")]);
    same("meta #>> '{}' = 'x'", &[&text(root, "x")]);
    same("meta ->> 'a' = null", &[&[]]);
    let both = root.contains(r#"{"a": 1, "c": {}}"#).unwrap();
    assert_eq!(both.len(), 2);
    same(
        "meta @> '{\"a\": 1.0, \"c\": {}}'",
        &[&both[..1], &both[1..]],
    );
    same(
        "'{\"a\": 1, \"c\": {}}'::jsonb <@ meta",
        &[&both[..1], &both[1..]],
    );
    let one = a.contains("1").unwrap();
    same("meta -> 'a' = '1'", &[&one]);
    same("meta -> 'a' @> '[1]'", &[&one]);
    same("meta @> null", &[&[]]);
    same("meta ? 'a'", &[&root.has_key("a")]);
    same("meta ? null", &[&[]]);
    same("meta -> 'a' ? 'b'", &[&a.has_key("b")]);
    let keys = [root.has_key("a"), root.has_key("b")];
    same("meta ?| array['a', null, 'b']", &[&keys.concat()]);
    same("meta ?& '{a,b}'", &[&keys[0], &keys[1]]);
    for nothing in [
        "meta @> '{}'",
        "meta @> '[[]]'",
        "meta @> 'no document'",
        "meta @> '{}'::text[]",
        "meta @> array['a']",
        "meta ?& '{}'",
        "meta ->> 'a' = '{\"b\": 1}'",
        "meta ->> 'a' = '[1, 2]'",
        "meta ->> 'a' > 'x'",
        "meta ->> 'a' between 'x' and 'y'",
        "meta ->> 'a' = 5",
        "meta ->> null = 'x'",
        "meta #>> '{a,0}' = 'x'",
        "meta #>> '{a, -1}' = 'x'",
        "meta #>> '{a,NULL}' = 'x'",
        "meta #>> '{{a},{b}}' = 'x'",
        "meta -> 'a' < '1'",
        "meta = any ('{}')",
        "j ->> 'a' = 'x'",
        "t ->> 'a' = 'x'",
    ] {
        assert!(filter(nothing, &[], &[]).is_empty(), "{nothing}");
    }
}

/// A boolean expression over `i4`, `b` and `t`, as SQL has it.
#[derive(Clone, Debug)]
enum Expression {
    /// `i4 <operator> number`, a number of halves.
    Compare(&'static str, Option<i8>),
    Between(Option<i8>, Option<i8>, bool),
    In(Vec<Option<i8>>, bool),
    /// `i4 IS [NOT] DISTINCT FROM number`
    Distinct(Option<i8>, bool),
    /// `t = …`, `t <> …`
    Text(Option<u8>, bool),
    Flag,
    /// `b IS [NOT] TRUE | FALSE | UNKNOWN`
    Flagged(Option<bool>, bool),
    Null(&'static str, bool),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

/// A row's `i4`, `b` and `t`.
type Row = (Option<i8>, Option<bool>, Option<u8>);

impl Expression {
    fn sql(&self) -> String {
        let halves = |number: &Option<i8>| match number {
            Some(number) if number % 2 == 0 => (number / 2).to_string(),
            Some(number) => format!("{:.1}", f64::from(*number) / 2.0),
            None => "null".into(),
        };
        let not = |negated: &bool| if *negated { "not " } else { "" };
        match self {
            Self::Compare(operator, number) => format!("i4 {operator} {}", halves(number)),
            Self::Between(low, high, negated) => {
                format!(
                    "i4 {}between {} and {}",
                    not(negated),
                    halves(low),
                    halves(high)
                )
            }
            Self::In(list, negated) => {
                let list: Vec<_> = list.iter().map(halves).collect();
                format!("i4 {}in ({})", not(negated), list.join(", "))
            }
            Self::Distinct(number, negated) => {
                format!("i4 is {}distinct from {}", not(negated), halves(number))
            }
            Self::Text(text, negated) => {
                let operator = if *negated { "<>" } else { "=" };
                let text = text.map_or("null".into(), |text| format!("'{text}'"));
                format!("t {operator} {text}")
            }
            Self::Flag => "b".into(),
            Self::Flagged(value, negated) => {
                let value = value.map_or("unknown".into(), |value| value.to_string());
                format!("b is {}{value}", not(negated))
            }
            Self::Null(column, negated) => format!("{column} is {}null", not(negated)),
            Self::Not(inner) => format!("not ({})", inner.sql()),
            Self::And(a, b) => format!("({} and {})", a.sql(), b.sql()),
            Self::Or(a, b) => format!("({} or {})", a.sql(), b.sql()),
        }
    }

    /// True, false, or neither.
    fn holds(&self, row: &Row) -> Option<bool> {
        let (int, flag, text) = row;
        let compare = |operator: &str, number: &Option<i8>| {
            let order = (int.as_ref()? * 2).cmp(number.as_ref()?);
            Some(match operator {
                "=" => order.is_eq(),
                "<>" => order.is_ne(),
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                _ => order.is_ge(),
            })
        };
        let and = |a: Option<bool>, b: Option<bool>| match (a, b) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            (_, _) => None,
        };
        let not = |value: Option<bool>, negated: bool| value.map(|value| value != negated);
        let or = |a, b| not(and(not(a, true), not(b, true)), true);
        match self {
            Self::Compare(operator, number) => compare(operator, number),
            Self::Between(low, high, negated) => {
                not(and(compare(">=", low), compare("<=", high)), *negated)
            }
            Self::In(list, negated) => {
                let any = list.iter().map(|number| compare("=", number));
                not(any.fold(Some(false), or), *negated)
            }
            Self::Distinct(wanted, negated) => {
                let twice = int.map(|int| 2 * int);
                Some((twice != *wanted) != *negated)
            }
            Self::Text(wanted, negated) => {
                let (text, wanted) = ((*text)?, (*wanted)?);
                Some((text == wanted) != *negated)
            }
            Self::Flag => *flag,
            Self::Flagged(value, negated) => Some((flag == value) != *negated),
            Self::Null(column, negated) => {
                let is_null = match *column {
                    "i4" => int.is_none(),
                    "b" => flag.is_none(),
                    _ => text.is_none(),
                };
                Some(is_null != *negated)
            }
            Self::Not(inner) => not(inner.holds(row), true),
            Self::And(a, b) => and(a.holds(row), b.holds(row)),
            Self::Or(a, b) => or(a.holds(row), b.holds(row)),
        }
    }

    /// How many groups of conditions follow from its being `wanted`.
    fn groups(&self, wanted: bool) -> usize {
        match self {
            Self::Not(inner) => inner.groups(!wanted),
            Self::And(a, b) if wanted => a.groups(true) + b.groups(true),
            Self::And(a, b) => a.groups(false) * b.groups(false),
            Self::Or(a, b) if wanted => a.groups(true) * b.groups(true),
            Self::Or(a, b) => a.groups(false) + b.groups(false),
            Self::Compare(..)
            | Self::Between(..)
            | Self::In(..)
            | Self::Distinct(..)
            | Self::Text(..)
            | Self::Flag
            | Self::Flagged(..)
            | Self::Null(..) => 1,
        }
    }
}

fn expression() -> impl Strategy<Value = Expression> {
    let number = || proptest::option::weighted(0.9, -3_i8..8);
    let operator = prop_oneof![
        Just("="),
        Just("<>"),
        Just("<"),
        Just("<="),
        Just(">"),
        Just(">=")
    ];
    let leaf = prop_oneof![
        4 => (operator, number()).prop_map(|(operator, number)| Expression::Compare(operator, number)),
        2 => (number(), number(), any::<bool>()).prop_map(|(low, high, negated)| Expression::Between(low, high, negated)),
        2 => (proptest::collection::vec(number(), 1..4), any::<bool>()).prop_map(|(list, negated)| Expression::In(list, negated)),
        2 => (number(), any::<bool>()).prop_map(|(number, negated)| Expression::Distinct(number, negated)),
        2 => (proptest::option::weighted(0.9, 0_u8..3), any::<bool>()).prop_map(|(text, negated)| Expression::Text(text, negated)),
        1 => Just(Expression::Flag),
        2 => (any::<Option<bool>>(), any::<bool>()).prop_map(|(value, negated)| Expression::Flagged(value, negated)),
        2 => (prop_oneof![Just("i4"), Just("b"), Just("t")], any::<bool>()).prop_map(|(column, negated)| Expression::Null(column, negated)),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let two = || {
            (
                inner.clone().prop_map(Box::new),
                inner.clone().prop_map(Box::new),
            )
        };
        prop_oneof![
            2 => inner.clone().prop_map(|inner| Expression::Not(Box::new(inner))),
            1 => two().prop_map(|(a, b)| Expression::And(a, b)),
            1 => two().prop_map(|(a, b)| Expression::Or(a, b)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn no_row_that_meets_an_expression_is_left_out(expression in expression()) {
        let sql = expression.sql();
        let filter = filter(&sql, &[], &[]);
        let ints = (0_i8..4).map(Some).chain([None]);
        for int in ints {
            for flag in [Some(false), Some(true), None] {
                for text in [Some(0_u8), Some(1), None] {
                    let allowed = filter.allows(|column| match column {
                        0 => int.map_or(Ordinal::NULL, |int| Ordinal::of_int(int.into())),
                        7 => flag.map_or(Ordinal::NULL, Ordinal::of_bool),
                        4 => text.map_or(Ordinal::NULL, |text| Ordinal::of_bytes(text.to_string().as_bytes())),
                        other => panic!("{other}"),
                    });
                    let holds = expression.holds(&(int, flag, text)) == Some(true);
                    prop_assert!(allowed || !holds, "{} {:?} {:?} {:?}", sql, int, flag, text);
                    if expression.groups(true) <= 32 { // beyond it some are not used
                        prop_assert_eq!(allowed, holds, "{} {:?} {:?} {:?}", sql, int, flag, text);
                    }
                }
            }
        }
    }
}

#[test]
fn negations_and_nulls_are_read() {
    let same = |condition, column, ranges: Vec<(Ordinal, Ordinal)>| {
        let mut expected = Filter::default();
        expected.add(column, ranges);
        assert_eq!(filter(condition, &[], &[]), expected, "{condition}");
    };
    let any = (Ordinal::LEAST, Ordinal::GREATEST);
    let nothing = |condition| {
        assert_eq!(
            filter(condition, &[], &[]),
            Filter::default(),
            "{condition}"
        )
    };
    let int = Ordinal::of_int;
    same("i4 is null", 0, vec![NULL]);
    same("meta is null", 11, vec![NULL]);
    same("tags is null", 10, vec![NULL]);
    same("i4 is not null", 0, vec![any]);
    same("n <> 1.5", 3, vec![any]); // a double does not tell all of them apart
    same("i4 <> 5.5", 0, vec![any]);
    same(
        "5 <> i4",
        0,
        vec![(Ordinal::LEAST, int(4)), (int(6), Ordinal::GREATEST)],
    );
    same("i4 <> all ('{5,NULL}')", 0, vec![]);
    same("i4 <> all (null)", 0, vec![]);
    same(
        "not i4 = any ('{5,6}')",
        0,
        vec![(Ordinal::LEAST, int(4)), (int(7), Ordinal::GREATEST)],
    );
    same(
        "not (i4 <> all (array[5, 6]))",
        0,
        vec![(int(5), int(5)), (int(6), int(6))],
    );
    nothing("i4 <> all ('{}')"); // is true, for NULL too
    nothing("tags is not null"); // of an empty array nothing is known
    nothing("meta is not null");
    nothing("not tags @> '{a}'");
    nothing("not meta ? 'a'");
    nothing("not meta ->> 'a' = 'b'");
    nothing("meta ->> 'a' is null");
    let key = |path: JsonPath| {
        path.has_key("k")
            .into_iter()
            .map(|token| (token, token))
            .collect()
    };
    same("meta ->> 'k' is not null", 11, key(JsonPath::ROOT));
    same(
        "(meta -> 'a' ->> 'k')::int is not null",
        11,
        key(JsonPath::ROOT.key("a")),
    );
    nothing("meta -> 0 is not null");
}

#[test]
fn casts_of_parts_are_read() {
    let path = JsonPath::ROOT.key("n");
    let same = |condition, ranges: Vec<(Ordinal, Ordinal)>| {
        let mut expected = Filter::default();
        expected.add(11, ranges);
        assert_eq!(filter(condition, &[], &[]), expected, "{condition}");
    };
    let number = Ordinal::of_float;
    let least = |n: f64| (number(n), Ordinal::GREATEST);
    same(
        "(meta ->> 'n')::int >= 2020",
        path.has_number(least(2020.0), true, false),
    );
    same(
        "2020 <= (meta ->> 'n')::bigint",
        path.has_number(least(2020.0), true, false),
    );
    same(
        "(meta -> 'n')::int >= 2020",
        path.has_number(least(2020.0), false, true),
    );
    same(
        "(meta #>> '{n}')::numeric < 10.5",
        path.has_number((Ordinal::LEAST, number(10.5)), true, false),
    );
    same(
        "cast(meta ->> 'n' as float8) between 1 and 2",
        path.has_number((number(1.0), number(2.0)), true, false),
    );
    same("(meta ->> 'n')::int = null", vec![]);
    let points = |tokens: Vec<Ordinal>| tokens.into_iter().map(|token| (token, token)).collect();
    same("(meta -> 'n')::boolean", points(path.has_bool(true, false)));
    same(
        "not (meta ->> 'n')::bool",
        points(path.has_bool(false, true)),
    );
    same(
        "(meta ->> 'n')::bool is false",
        points(path.has_bool(false, true)),
    );
    same(
        "(meta ->> 'n')::bool <> false",
        points(path.has_bool(true, true)),
    );
    same(
        "(meta ->> 'n')::text = 'x'",
        points(path.has_text("x").unwrap()),
    );
    for condition in [
        "(meta ->> 'n')::int is null",
        "(meta ->> 'n')::bool is not true",
        "(meta ->> 'n')::real > 1",
        "(meta ->> 'n')::numeric(5, 2) > 1",
        "(meta ->> 'n')::date > '2024-01-01'",
        "(meta -> 'n')::text = 'x'",
        "i4::int8 = 5",
        "(meta ->> 'n')::int::text = '5'",
    ] {
        assert_eq!(
            filter(condition, &[], &[]),
            Filter::default(),
            "{condition}"
        );
    }
}
