//! Searches with conditions on arrays and documents, over values that are hard to compare: the rows that exact SQL gives.

use std::fmt::Write;

use super::fixture::{Answered, query_vector};
use super::statements::{Protocol, nominated, widen};
use crate::harness::message::{bind, describe, execute, parse, sync};
use crate::harness::{Database, Random, Server};
use crate::relay::compare::Copies;

const ROWS: usize = 1_200;

const TABLE: &str = "create table doc (
    id int primary key, tags text[], vc varchar(20)[], ints int[], bigs bigint[], us uuid[], ns numeric[], fs real[],
    ds date[], bs boolean[], odd text[], meta jsonb, plain json, v {v});
    create table part (id int primary key, j jsonb, v {v});";

/// Documents that differ less, or more, than their texts do.
const DOCUMENTS: &[&str] = &[
    "null",
    "true",
    "1",
    "\"a\"",
    "\"1\"",
    "[]",
    "{}",
    "[1]",
    "[1.0, \"a\"]",
    "[[1], \"a\", null]",
    "[\"a\", \"b\"]",
    "[[\"b\", [\"a\"]], {\"a\": 1}]",
    r#"{"a": 1}"#,
    r#"{"a": 1.00}"#,
    r#"{"a": 1e0, "b": 2}"#,
    r#"{"a": -0.0}"#,
    r#"{"a": 0}"#,
    r#"{"a": 100}"#,
    r#"{"a": 1e2}"#,
    r#"{"a": 0.1}"#,
    r#"{"a": 0.10000000000000000000001}"#,
    r#"{"a": 1e400}"#,
    r#"{"a": "1"}"#,
    r#"{"a": "1.0"}"#,
    r#"{"a": " 1"}"#,
    r#"{"a": "a"}"#,
    r#"{"a": "A"}"#,
    r#"{"a": "a "}"#,
    r#"{"a": "\u0061"}"#,
    r#"{"a": "é\n\"\\\t😀"}"#,
    r#"{"a": ""}"#,
    r#"{"a": "null"}"#,
    r#"{"a": null}"#,
    r#"{"a": true}"#,
    r#"{"a": "true"}"#,
    r#"{"a": []}"#,
    r#"{"a": {}}"#,
    r#"{"a": [1]}"#,
    r#"{"a": [[1]]}"#,
    r#"{"a": ["a", 1, null]}"#,
    r#"{"a": ["b", {"b": "x"}]}"#,
    r#"{"a": {"b": "x"}}"#,
    r#"{"a": {"b": ["x", "y"]}}"#,
    r#"{"a": {"b": {"c": 1}}}"#,
    r#"{"a": "{\"b\": \"x\"}"}"#,
    r#"{"a": {"0": "x"}, "0": "y"}"#,
    r#"{"a": ["x"], "0": "x"}"#,
    r#"{"": "x", "b": {"": 1}}"#,
    r#"{"b": "a", "a": "b"}"#,
    r#"{"a": 1, "a": 2}"#,
    r#"{"A": 1, "b": {"a": 1}}"#,
    r#"[{"a": 1}, {"b": 2}]"#,
    r#"[{"a": 1, "b": 2}]"#,
];

/// Texts that a part of a document is compared with.
const TEXTS: &[&str] = &[
    "a",
    "A",
    "a ",
    "",
    "1",
    "1.0",
    "1.00",
    "0",
    "-0",
    "100",
    "1e2",
    "true",
    "null",
    " 1",
    "x",
    "0.1",
    "é\n\"\\\t😀",
    "{\"b\": \"x\"}",
    "[]",
    "{}",
    "[1]",
];

const ARRAYS: &[&str] = &[
    "{}",
    "{a}",
    "{A}",
    "{a,b}",
    "{b,a}",
    "{a,a}",
    "{NULL}",
    "{a,NULL}",
    "{\"\"}",
    "{\"a \"}",
    "{\" a\"}",
    "{\"NULL\"}",
    "{\"é,{}\\\"\\\\\"}",
    "{{a,b},{c,d}}",
    "[2:3]={a,b}",
    "{x,y,z}",
];

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn fill(database: &Database<'_>, server: Server) {
    let mut wire = database.connect();
    wire.run(&TABLE.replace("{v}", &server.vector_type(4)));
    let mut random = Random::new(31);
    let mut rows = String::new();
    for n in 0..ROWS {
        let comma = if n > 0 { ", " } else { "" };
        // Half of the rows have a document of the usual kind.
        let meta = if n % 2 == 0 {
            let lang = ["en", "de", "fr"][n / 2 % 3];
            format!(
                r#"{{"lang": "{lang}", "n": {}, "tags": ["t{}", "t{}"], "by": {{"id": {n}}}}}"#,
                n % 50,
                n % 7,
                n % 11
            )
        } else {
            DOCUMENTS[n / 2 % DOCUMENTS.len()].to_owned()
        };
        let tags = if n % 2 == 0 {
            format!("{{t{},t{},t{}}}", n % 5, n % 30, n % 400)
        } else {
            ARRAYS[n / 2 % ARRAYS.len()].to_owned()
        };
        let (meta, tags) = (quoted(&meta), quoted(&tags));
        write!(
            rows,
            "{comma}({n}, {tags}, {tags}, {tags}, {meta}, {meta}, '{}')",
            random.vector(4, server)
        )
        .unwrap();
    }
    wire.run(&format!(
        "insert into doc (id, tags, vc, odd, meta, plain, v) values {rows}"
    ));
    wire.run(
        "update doc set ints = array[id % 10, null, id % 100], bigs = array[id * 10000000000], us = array[md5((id % 50)::text)::uuid],
            ns = array[id % 20, (id % 20) * 0.10], fs = array[id / 10.0, '-0', 'NaN'], ds = array[date '2020-01-01' + id % 30],
            bs = array[id % 3 = 0];
         update doc set tags = null, meta = null, ints = null where id % 13 = 0;
         update doc set ints = array(select generate_series(1, 300)) where id % 100 = 1;
         update doc set meta = (select jsonb_object_agg(n, n) from generate_series(1, 300) n) where id % 100 = 3",
    );
}

/// Parts of documents that can be cast: to `numeric` and, if a number, to `integer`; to `boolean`.
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "1.5",
    "2.5",
    "-2.5",
    "2.4999999999",
    "1e2",
    "99.5",
    "4294967297",
    "4294967296.5",
    "\"3\"",
    "\" 4 \"",
    "\"1e2\"",
    "\"+5\"",
    "\".5\"",
    "\"\\t6\\n\"",
    "\"NaN\"",
    "\"-7.25\"",
    "\"99999999999999999999\"",
    "null",
];
const FLAGS: &[&str] = &[
    "true",
    "false",
    "1",
    "0",
    "null",
    "\"t\"",
    "\"no\"",
    "\" YES \"",
    "\"of\"",
    "\"on\"",
    "\"False\"",
    "\"1\"",
];

fn fill_parts(database: &Database<'_>, server: Server) {
    let mut random = Random::new(32);
    let mut rows = String::new();
    for (n, number) in NUMBERS.iter().enumerate() {
        for (m, flag) in FLAGS.iter().enumerate() {
            let comma = if n + m > 0 { ", " } else { "" };
            let rounded = if number.contains(['"', 'u']) {
                ""
            } else {
                number
            };
            let rounded = if rounded.is_empty() {
                String::new()
            } else {
                format!(", \"r\": {rounded}")
            };
            let document = format!(r#"{{"n": {number}, "f": {flag}, "a": [{number}]{rounded}}}"#);
            let id = n * FLAGS.len() + m;
            write!(
                rows,
                "{comma}({id}, {}, '{}')",
                quoted(&document),
                random.vector(4, server)
            )
            .unwrap();
        }
    }
    database
        .connect()
        .run(&format!("insert into part values {rows}"));
}

fn copies(server: Server) -> Copies {
    let copies = Copies::of(server, |database| {
        fill(database, server);
        fill_parts(database, server);
    });
    let options = if server.has_pgvector() {
        ""
    } else {
        " with (dimensions = 4)"
    };
    let mut wire = copies.rektor.connect();
    wire.run(&format!(
        "create index doc_idx on doc using faiss (v vector_l2_ops)
            include (tags, vc, ints, bigs, us, ns, fs, ds, bs, odd, meta, plain){options}"
    ));
    wire.run(&format!(
        "create index part_idx on part using faiss (v vector_l2_ops) include (j){options}"
    ));
    copies.rektor.wait_ready("doc_idx");
    copies.rektor.wait_ready("part_idx");
    copies
}

/// Conditions, and further parameters. Each is answered by nominating, whatever number of rows matches.
const CONDITIONS: &[(&str, &[&str])] = &[
    ("tags @> array['t3', 't23']", &[]),
    ("tags @> '{t3}'", &[]),
    ("tags @> $2", &["{t3,t13}"]),
    ("tags @> $2::text[]", &["{a}"]),
    ("tags @> array[$2]", &["t399"]),
    ("tags @> array['t3', null]", &[]),
    ("tags @> '{{a},{b}}' and tags && '{a}'", &[]),
    ("array['a'] <@ tags", &[]),
    ("tags && array['t398', 'x']", &[]),
    ("tags && array['x']::text[]", &[]),
    ("tags && $2", &["{nothing,\"a \"}"]),
    ("'a' = any (tags)", &[]),
    ("$2 = any (tags)", &["t7"]),
    ("'NULL' = any (tags)", &[]),
    ("null = any (tags)", &[]),
    ("tags = '{a,NULL}'", &[]),
    ("tags = $2", &["{a,b}"]),
    ("vc @> '{t3,t23}'", &[]),
    ("'a' = any (vc)", &[]),
    ("vc && '{A,\"\"}'::varchar[]", &[]),
    ("ints @> array[7, 77]", &[]),
    ("ints @> $2", &["{5}"]),
    ("ints && '{99, 1000}'", &[]),
    ("77 = any (ints)", &[]),
    ("250 = any (ints)", &[]),
    ("98 < any (ints)", &[]),
    ("$2 = any (ints)", &["3"]),
    ("bigs @> '{110000000000}'", &[]),
    ("5 = any (bigs)", &[]),
    (
        "us @> array['c4ca4238-a0b9-2382-0dcc-509a6f75849b']::uuid[]",
        &[],
    ),
    ("'c4ca4238a0b923820dcc509a6f75849b' = any (us)", &[]),
    ("ns @> '{1.900}'", &[]),
    ("1.9 = any (ns)", &[]),
    ("19 = any (ns)", &[]),
    ("fs @> '{0.1}'", &[]),
    ("0.1 = any (fs)", &[]),
    ("fs @> '{0, NaN}' and 119.5 = any (fs)", &[]),
    ("date '2020-01-30' = any (ds)", &[]),
    ("ds @> '{2020-01-30}'", &[]),
    ("bs @> '{true}' and 7 = any (ints)", &[]),
    ("true = any (bs) and 7 = any (ints)", &[]),
    ("meta @> '{\"lang\": \"en\", \"n\": 4}'", &[]),
    ("meta @> $2", &["{\"n\": 4.0}"]),
    ("meta @> $2::jsonb", &["{\"tags\": [\"t3\", \"t4\"]}"]),
    ("meta @> '{\"by\": {\"id\": 96}}'", &[]),
    ("meta ->> 'lang' = 'fr' and meta ->> 'n' = '2'", &[]),
    ("meta ->> 'lang' = $2 and meta @> '{\"n\": 2}'", &["fr"]),
    ("meta ->> $2 = 'fr' and 8 = any (ints)", &["lang"]),
    ("meta ->> 'n' in ('4', '44', 'x')", &[]),
    ("meta ->> 'n' = any ($2)", &["{4,44,NULL}"]),
    ("meta -> 'by' ->> 'id' = '96'", &[]),
    ("meta #>> '{by,id}' = '96'", &[]),
    (
        "meta -> 'tags' ->> 0 = 't6' and meta -> 'tags' ->> -1 = 't3'",
        &[],
    ),
    ("meta -> 'tags' ? 't10' and meta ->> 'lang' = 'de'", &[]),
    ("meta ? 'lang' and meta @> '{\"n\": 6}'", &[]),
    ("meta ? 'b'", &[]),
    ("meta ?| array['b', '0', 'none']", &[]),
    ("meta ?& '{a,b}'", &[]),
    ("meta ? '299'", &[]),
    ("meta ->> '299' = '299'", &[]),
    ("meta ->> 'nothing' = 'x'", &[]),
    ("meta is null", &[]),
    ("tags is null and id < 800", &[]),
    ("meta is not null and 7 = any (ints)", &[]),
    ("meta ->> 'lang' is not null and 8 = any (ints)", &[]),
    (
        "(meta ->> 'n')::int >= 40 and (meta ->> 'n')::int < 43",
        &[],
    ),
    ("(meta -> 'n')::numeric = 4", &[]),
    ("(meta ->> 'n')::numeric between 3.5 and $2", &["4.5"]),
    ("(meta -> 'n')::int in (4, $2)", &["6"]),
    ("not (meta ->> 'n')::bigint < 48", &[]),
    ("(meta -> 'by' ->> 'id')::float8 > 1195", &[]),
    ("(meta #>> '{by,id}')::int = any ('{96,98}')", &[]),
    ("tags @> '{t3,t23}' or (meta ->> 'n')::int = 4", &[]),
    (
        "meta @> '{\"n\": 4, \"lang\": \"en\"}' or 'a' = any (tags)",
        &[],
    ),
    (
        "meta ->> 'lang' is not distinct from $2 and 8 = any (ints)",
        &["fr"],
    ),
    ("meta is null or (id < 500 and meta ->> 'n' = '9')", &[]),
    // recognised in part
    (
        "tags @> '{t3}' and not tags @> '{t13}' and meta ->> 'n' <> '8'",
        &[],
    ),
    (
        "meta ->> 'lang' = 'en' and (meta ->> 'n')::int < 13 and 2 = any (ints)",
        &[],
    ),
    ("meta @> '{\"n\": 4}' and plain ->> 'lang' = 'en'", &[]),
];

fn answers_are_exact(server: Server, protocol: Protocol) {
    let copies = copies(server);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let statement = |condition: &str, limit: usize| {
        format!("select id, tags, meta from doc where {condition} order by v <-> $1 limit {limit}")
    };
    nominated(
        &copies,
        &mut pair,
        protocol,
        CONDITIONS,
        [3, 200],
        statement,
    );
}

#[test]
fn simple_on_18() {
    answers_are_exact(Server::Pg18, Protocol::Simple);
}

#[test]
fn prepared_on_16() {
    answers_are_exact(Server::Pg16, Protocol::Prepared(2));
}

#[test]
fn text_on_plain() {
    answers_are_exact(Server::Plain, Protocol::Text);
}

/// Casts of parts of documents, in every direction around every value.
#[test]
fn casts_of_parts_are_exact() {
    for server in Server::ALL {
        let copies = copies(server);
        let mut pair = copies.sessions(&[]);
        widen(&mut pair, server);
        let mut conditions = Vec::new();
        for constant in [
            "-3",
            "-2.5",
            "0",
            "1",
            "2",
            "2.5",
            "3",
            "5",
            "100",
            "4294967297",
            "1e19",
            "'NaN'",
        ] {
            for operator in ["=", "<>", "<", "<=", ">", ">="] {
                for left in ["(j ->> 'n')::numeric", "(j -> 'a' ->> 0)::float8"] {
                    conditions.push(format!("{left} {operator} {constant}"));
                }
                if constant != "'NaN'" {
                    conditions.push(format!("(j -> 'r')::bigint {operator} {constant}"));
                }
            }
        }
        for flag in ["true", "false", "null"] {
            for operator in ["=", "<>"] {
                conditions.push(format!("(j ->> 'f')::boolean {operator} {flag}"));
            }
        }
        for test in [
            "{}",
            "not {}",
            "{} is true",
            "{} is not true",
            "not {} is false",
            "{} is null",
        ] {
            conditions.push(test.replace("{}", "(j ->> 'f')::boolean"));
        }
        for condition in &conditions {
            for limit in [5, 300] {
                let v = query_vector(server, 47);
                pair.query(&format!(
                    "select id from part where {condition} order by v <-> '{v}' limit {limit}"
                ));
            }
        }
        // What is not proposed is not cast: no error comes of it.
        let v = query_vector(server, 48);
        let sql = format!(
            "select id from doc where (meta ->> 'a')::numeric between 90 and 110 order by v <-> '{v}' limit 3"
        );
        let before = Answered::now(&copies.rektor);
        assert_eq!(copies.rektor.connect().rows(&sql).len(), 3);
        assert_eq!(
            Answered::now(&copies.rektor).nominate,
            before.nominate + 1.0
        );
    }
}

/// Every way to ask for every hard value, with every value.
#[test]
fn hard_values_are_all_found() {
    let server = Server::Pg18;
    let copies = copies(server);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let mut conditions = Vec::new();
    for document in DOCUMENTS {
        let document = quoted(document);
        for left in [
            "meta",
            "meta -> 'a'",
            "meta -> 'a' -> 'b'",
            "meta -> 0",
            "meta #> '{a}'",
        ] {
            conditions.push(format!("{left} @> {document}"));
            conditions.push(format!("{left} = {document}"));
        }
        conditions.push(format!("{document}::jsonb <@ meta"));
    }
    for text in TEXTS {
        let text = quoted(text);
        for left in [
            "meta ->> 'a'",
            "meta -> 'a' ->> 'b'",
            "meta #>> '{a,b}'",
            "meta ->> ''",
            "meta #>> '{}'",
            "meta ->> 0",
            "meta -> 'a' ->> 0",
            "meta #>> '{a,0}'",
            "meta ->> '0'",
        ] {
            conditions.push(format!("{left} = {text}"));
        }
        for left in ["meta", "meta -> 'a'", "meta #> '{a,b}'"] {
            conditions.push(format!("{left} ? {text}"));
        }
        for column in ["tags", "vc"] {
            conditions.push(format!("{text} = any ({column})"));
        }
    }
    for array in ARRAYS {
        for column in ["tags", "vc"] {
            for operator in ["@>", "&&", "=", "<@"] {
                conditions.push(format!("{column} {operator} {}", quoted(array)));
            }
        }
        conditions.push(format!("meta ?| {}", quoted(array)));
        if *array != "{{a,b},{c,d}}" {
            conditions.push(format!("meta ?& {}", quoted(array)));
        }
    }
    let before = Answered::now(&copies.rektor);
    for (n, condition) in conditions.iter().enumerate() {
        let v = query_vector(server, 5_000 + n as u64);
        pair.query(&format!(
            "select id from doc where {condition} order by v <-> '{v}' limit 250"
        ));
    }
    let exact = Answered::now(&copies.rektor).exact - before.exact;
    // What names a place in an array among keys, the text of an array or an object, and empty arrays is left to PostgreSQL.
    assert!(
        exact < conditions.len() as f64 / 4.0,
        "{exact} of {}",
        conditions.len()
    );
}

/// The binary form of a `text[]`.
fn text_array(elements: &[&str]) -> Vec<u8> {
    let length = i32::try_from(elements.len()).unwrap();
    let head = [1, 0, 25, length, 1].into_iter().flat_map(i32::to_be_bytes);
    let elements = elements.iter().flat_map(|element| {
        let length = i32::try_from(element.len()).unwrap();
        length.to_be_bytes().into_iter().chain(element.bytes())
    });
    head.chain(elements).collect()
}

/// Parameters in binary form, with and without a declared type.
#[test]
fn binary_parameters_are_read() {
    let server = Server::Pg18;
    let copies = copies(server);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let vector = query_vector(server, 46);
    let tags = text_array(&["t3", "t23"]);
    let cases: &[(&str, u32, &[u8])] = &[
        ("tags @> $2", 0, &tags),
        ("tags && $2", 1009, &tags),
        ("meta ?| $2", 0, &tags),
        ("meta ->> 'lang' = any ($2)", 1009, &tags),
        ("$2 = any (tags)", 25, b"t3"),
        ("$2 = any (ints)", 0, &77_i32.to_be_bytes()),
        ("meta @> $2", 0, b"\x01{\"n\": 4}"),
        ("meta @> $2", 3802, b"\x01{\"lang\": \"en\"}"),
        ("meta @> $2::jsonb", 25, b"{\"n\": 4}"),
        ("meta -> $2 = '4'", 25, b"n"),
        ("meta -> 'tags' -> $2 = '\"t3\"'", 23, &0_i32.to_be_bytes()),
    ];
    for (condition, declared, value) in cases {
        let sql = format!("select id from doc where {condition} order by v <-> $1 limit 60");
        let bytes = [
            parse("", &sql, &[0, *declared]),
            bind(
                "",
                "",
                &[0, 1],
                &[Some(vector.as_bytes()), Some(value)],
                &[],
            ),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        pair.exchange(&format!("{sql} {declared}"), &bytes.concat(), 1, b"");
    }
}

/// Values change between two searches, also such as are kept out of line and come as unchanged.
#[test]
fn changed_values_are_seen() {
    let server = Server::Pg18;
    let copies = copies(server);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let v = query_vector(server, 47);
    // Out of line, within the bound, and beyond.
    let large = "select jsonb_object_agg('k' || n, repeat(md5(n::text), 200)) || '{\"size\": \"large\"}' from generate_series(1, 30) n";
    let searches = [
        "tags @> '{t3,t13}'",
        "'new' = any (tags)",
        "meta @> '{\"lang\": \"en\", \"n\": 6}'",
        "meta ->> 'size' = 'large'",
        "meta ? 'k30'",
        "8 = any (ints) and meta ->> 'lang' = 'fr'",
    ];
    for change in [
        "update doc set tags = tags || 'new' where id between 100 and 120",
        "update doc set tags = array_remove(tags, 'new') where id between 110 and 120",
        &format!("update doc set meta = ({large}) where id in (5, 6, 7)"),
        "update doc set ints = '{8}' where id in (5, 6)",
        "update doc set v = v, id = id + 100000 where id = 6",
        "update doc set v = (select v from doc where id = 50) where id = 7",
        "update doc set meta = meta - 'k30' where id = 5",
        "update doc set meta = null where id = 7",
        "update doc set meta = '{\"lang\": \"fr\"}', ints = '{8}' where id between 200 and 210",
        "delete from doc where id between 200 and 205",
        "alter table doc rename tags to labels; alter table doc rename vc to tags",
        "alter table doc alter column tags type text[]",
        "truncate doc",
        "insert into doc (id, tags, meta, v) select n, '{new,t3,t13}', '{\"size\": \"large\"}', '[1,2,3,4]' from generate_series(1, 3) n",
    ] {
        pair.query(change);
        for condition in searches {
            pair.query(&format!(
                "select v <-> '{v}' from doc where {condition} order by v <-> '{v}' limit 30"
            ));
        }
    }
}

/// Under a collation that takes different strings for equal, elements are left to PostgreSQL; documents know no collation.
#[test]
fn other_equalities_are_left_to_postgres() {
    let server = Server::Plain;
    let copies = Copies::of(server, |database| {
        let mut wire = database.connect();
        wire.run(
            "create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             create table word (id int primary key, w text[] collate loose, p text[], v real[]);
             insert into word select n, array[case n % 3 when 0 then 'a' when 1 then 'A' else 'b' end], '{a}',
                 array[n, n % 7, n % 11, 1] from generate_series(1, 300) n",
        );
    });
    let mut wire = copies.rektor.connect();
    wire.run("create index word_idx on word using faiss (v vector_l2_ops) include (w, p) with (dimensions = 4)");
    copies.rektor.wait_ready("word_idx");
    let mut lines = |condition: &str| {
        let sql = format!(
            "explain select id from word where {condition} order by v <-> '{{1,2,3,4}}' limit 150"
        );
        let lines = wire.rows(&sql).into_iter().flatten().flatten();
        lines
            .filter(|line| line.contains("Filter: ") && line.contains("about"))
            .count()
    };
    assert_eq!((lines("p @> '{a}'"), lines("w @> '{a}'")), (1, 0));
    let mut pair = copies.sessions(&[]);
    for condition in ["w @> '{a}'", "'A' = any (w)", "w && '{B}'"] {
        let rows = pair.query(&format!(
            "select id from word where {condition} order by v <-> '{{1,2,3,4}}' limit 150"
        ));
        assert!(rows.iter().filter(|frame| frame.tag == b'D').count() >= 100);
    }
}

/// What EXPLAIN tells of it.
#[test]
fn explain_shows_the_filter() {
    let server = Server::Pg18;
    let copies = copies(server);
    let mut wire = copies.rektor.connect();
    let v = query_vector(server, 48);
    let mut line = |condition: &str| {
        let sql =
            format!("explain select id from doc where {condition} order by v <-> '{v}' limit 5");
        let rows = wire.rows(&sql).into_iter().flatten().flatten();
        rows.filter(|line| line.contains("Filter: ") && line.contains("about"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        line("6 = any (ints) and meta ->> 'lang' = 'en'"),
        ["  Filter: ints, meta (about 37 of 1200 rows, compared one by one)"]
    );
    assert_eq!(
        line("tags && '{t399,x}'"),
        ["  Filter: tags (about 34 of 1200 rows, compared one by one)"]
    );
    assert_eq!(line("tags <@ '{a}'"), [""; 0]);
}
