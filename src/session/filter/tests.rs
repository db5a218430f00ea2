//! Conditions and parameters as clients send them, and what becomes of them.

use bytes::BufMut;

use super::*;
use crate::catalog::TypeId;
use crate::query::{StatementKind, analyze};

const INT4: u32 = 23;
const INT8: u32 = 20;
const FLOAT8: u32 = 701;
const NUMERIC: u32 = 1700;
const TEXT: u32 = 25;
const VARCHAR: u32 = 1043;
const TIMESTAMPTZ: u32 = 1184;

/// An index that includes a column of each type: `i4 i8 f8 n t d tz b` and an opaque one, `j`.
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
        ("j", 3802),
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
