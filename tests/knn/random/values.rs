//! Columns of every type that filters know, with values that are hard to compare, and their binary forms as PostgreSQL sends them.

use std::collections::HashMap;
use std::fmt::Write;

use crate::harness::{Random, Wire};

/// Types whose values are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    Number,
    Time,
    Text,
    Bool,
    Uuid,
    Array,
    Document,
}

/// A column: its name, its type, what that is called in a cast, its family, its type's OID and send function, texts of values.
#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    pub declared: &'static str,
    pub kind: &'static str,
    pub family: Family,
    pub oid: u32,
    send: &'static str,
    pub values: &'static [&'static str],
}

const INTEGERS: &[&str] = &["0", "1", "-1", "7", "8", "9", "100"];
const TEXTS: &[&str] = &[
    "", "a", "A", "ab", "abc", "b", "ä", "a\u{308}", "a ", " a", "a%", "null", "\\", "1", "\"q\"",
    "o''k",
];
const TIMES: &[&str] = &[
    "2020-02-29 00:00:00+00",
    "2020-02-29 00:00:00.000001+00",
    "2020-02-29 05:30:00+05:30",
    "2020-02-28 23:59:59.999999+00",
    "2020-03-01 00:00:00-08",
    "infinity",
    "-infinity",
    "1999-12-31 12:00:00+14",
    "0044-03-15 00:00:00+00 BC",
];

const fn column(
    name: &'static str,
    (declared, kind): (&'static str, &'static str),
    family: Family,
    (oid, send): (u32, &'static str),
    values: &'static [&'static str],
) -> Column {
    Column {
        name,
        declared,
        kind,
        family,
        oid,
        send,
        values,
    }
}

pub const COLUMNS: &[Column] = &[
    column(
        "i2",
        ("int2", "int2"),
        Family::Number,
        (21, "int2send"),
        INTEGERS,
    ),
    column(
        "i4",
        ("int4", "int4"),
        Family::Number,
        (23, "int4send"),
        INTEGERS,
    ),
    column(
        "i8",
        ("int8", "int8"),
        Family::Number,
        (20, "int8send"),
        &[
            "0",
            "1",
            "-1",
            "7",
            "9007199254740992",
            "9007199254740993",
            "9223372036854775807",
            "-9223372036854775808",
        ],
    ),
    column(
        "f4",
        ("float4", "float4"),
        Family::Number,
        (700, "float4send"),
        &[
            "0",
            "-0",
            "1",
            "0.1",
            "1.5",
            "7",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e-40",
            "16777216",
        ],
    ),
    column(
        "f8",
        ("float8", "float8"),
        Family::Number,
        (701, "float8send"),
        &[
            "0",
            "-0",
            "1",
            "0.1",
            "0.30000000000000004",
            "7",
            "NaN",
            "Infinity",
            "-Infinity",
            "9007199254740992",
            "1e300",
        ],
    ),
    column(
        "n",
        ("numeric", "numeric"),
        Family::Number,
        (1700, "numeric_send"),
        &[
            "0",
            "0.0",
            "1",
            "1.00",
            "0.1",
            "0.10000000000000000000001",
            "7",
            "NaN",
            "Infinity",
            "-Infinity",
            "9007199254740993",
            "-1.5",
            "1e30",
        ],
    ),
    column("t", ("text", "text"), Family::Text, (25, "textsend"), TEXTS),
    column(
        "vc",
        ("varchar(12)", "varchar"),
        Family::Text,
        (1043, "varcharsend"),
        TEXTS,
    ),
    column(
        "tc",
        ("text collate other", "text"),
        Family::Text,
        (25, "textsend"),
        TEXTS,
    ),
    column(
        "b",
        ("bool", "bool"),
        Family::Bool,
        (16, "boolsend"),
        &["true", "false"],
    ),
    column(
        "d",
        ("date", "date"),
        Family::Time,
        (1082, "date_send"),
        &[
            "2020-02-29",
            "2020-03-01",
            "1999-12-31",
            "infinity",
            "-infinity",
            "0044-03-15 BC",
        ],
    ),
    column(
        "ts",
        ("timestamp", "timestamp"),
        Family::Time,
        (1114, "timestamp_send"),
        TIMES,
    ),
    column(
        "tz",
        ("timestamptz", "timestamptz"),
        Family::Time,
        (1184, "timestamptz_send"),
        TIMES,
    ),
    column(
        "u",
        ("uuid", "uuid"),
        Family::Uuid,
        (2950, "uuid_send"),
        &[
            "00000000-0000-0000-0000-000000000000",
            "c4ca4238-a0b9-2382-0dcc-509a6f75849b",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ],
    ),
    column(
        "ta",
        ("text[]", "text[]"),
        Family::Array,
        (1009, "array_send"),
        &[
            "{}",
            "{a}",
            "{a,b}",
            "{b,a}",
            "{a,NULL}",
            "{NULL}",
            "{{a,b},{b,a}}",
            "[0:1]={a,b}",
            "{\"\"}",
            "{\"a \",A}",
        ],
    ),
    column(
        "ia",
        ("int4[]", "int4[]"),
        Family::Array,
        (1007, "array_send"),
        &[
            "{}",
            "{1}",
            "{1,2}",
            "{2,1,7}",
            "{1,NULL}",
            "{NULL}",
            "{{1,2},{2,1}}",
        ],
    ),
    column(
        "na",
        ("numeric[]", "numeric[]"),
        Family::Array,
        (1231, "array_send"),
        &[
            "{}",
            "{1}",
            "{1.0,2}",
            "{0.1,7.00}",
            "{NaN}",
            "{Infinity,NULL}",
        ],
    ),
    column(
        "j",
        ("jsonb", "jsonb"),
        Family::Document,
        (3802, "jsonb_send"),
        &[
            "{}",
            "[]",
            "null",
            "1",
            "\"a\"",
            "true",
            "[\"a\", 1]",
            "{\"a\": 1}",
            "{\"a\": 1.0}",
            "{\"a\": \"1\"}",
            "{\"a\": null}",
            "{\"a\": \"a\"}",
            "{\"a\": [\"a\", \"b\"]}",
            "{\"a\": {\"b\": \"a\"}}",
            "{\"a\": true, \"b\": \"a\"}",
            "{\"b\": \"\"}",
            "{\"a\": \"A\", \"b\": [1, 2]}",
            "{\"a\": {\"b\": 1}, \"b\": null}",
        ],
    ),
    // its "x" is a number in every form, or not there
    column(
        "jn",
        ("jsonb", "jsonb"),
        Family::Document,
        (3802, "jsonb_send"),
        &[
            "{}",
            "{\"x\": null}",
            "{\"x\": 1}",
            "{\"x\": 7.0}",
            "{\"x\": -1.5}",
            "{\"x\": 1e2}",
            "{\"x\": 0}",
            "{\"x\": 100}",
            "{\"x\": 8}",
        ],
    ),
];

/// The values' binary forms, by type and text.
pub fn binary_forms(wire: &mut Wire) -> HashMap<(u32, &'static str), Vec<u8>> {
    let mut sql = String::new();
    let mut keys = Vec::new();
    for column in COLUMNS {
        for value in column.values {
            let union = if sql.is_empty() { "" } else { " union all " };
            let Column { send, kind, .. } = column;
            let number = keys.len();
            write!(
                sql,
                "{union}select {number}, encode({send}('{value}'::{kind}), 'hex')"
            )
            .unwrap();
            keys.push((column.oid, *value));
        }
    }
    let rows = wire.rows(&format!(
        "select * from ({sql}) s (number, form) order by number"
    ));
    let bytes = |text: &str| {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect::<Vec<_>>()
    };
    let forms = rows.iter().map(|row| bytes(row[1].as_deref().unwrap()));
    keys.into_iter().zip(forms).collect()
}

/// One of them.
pub fn any<'a, T>(random: &mut Random, all: &'a [T]) -> &'a T {
    &all[random.below(all.len())]
}

/// A value of a column as SQL text, or NULL.
pub fn literal(random: &mut Random, column: &Column) -> String {
    if random.below(8) == 0 {
        return "null".to_owned();
    }
    format!("'{}'", any(random, column.values))
}
