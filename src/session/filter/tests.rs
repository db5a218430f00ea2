//! Conditions and parameters as clients send them, and what becomes of them.

mod elements;
mod expressions;

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
        ("f4", 700),
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

/// PostgreSQL gives all members of a list, and the column, one type.
#[test]
fn strings_beside_another_type_are_not_read_as_the_columns() {
    let with = |condition, types: &[u32], value: &[u8]| {
        filter(condition, types, &[(Format::Text, Some(value))])
    };
    let none = |condition, types: &[u32]| {
        let filter = with(condition, types, b"0.2");
        assert_eq!(filter, Filter::default(), "{condition}");
    };
    none("f4 not in ('0.1', 0.2::float8)", &[]);
    none("f4 not in ('0.1', $1)", &[FLOAT8]);
    none("f4 not in ($1, 0.2::float8)", &[]);
    none(
        "d not in ('2020-01-01', '2020-01-02 10:00'::timestamp)",
        &[],
    );
    for condition in [
        "f4 not in ('0.1', 0.2)",
        "n in ('0.1', 0.2)",
        "f8 in ('0.1', $1)",
    ] {
        let filter = with(condition, &[], b"0.2");
        assert_ne!(filter, Filter::default(), "{condition}");
    }
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

fn text_element(text: &str) -> Ordinal {
    let constant = Constant::Text(text.into());
    constant
        .range(ValueKind::Text, Comparison::Equal)
        .unwrap()
        .0
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
