//! Every operator class of `halfvec` and `bit`: the frames that exact SQL gives, answered from the index; recall, also after a
//! restart; and what `CREATE INDEX` refuses, in pgvector's words.

use std::fmt::Write;

use super::fixture::{Answered, query_vector};
use super::statements::{Protocol, messages};
use crate::harness::message::{bind, describe, execute, parse, sync};
use crate::harness::{Database, Random, Rektor, Server};
use crate::relay::compare::Copies;

const ROWS: usize = 400;
/// `pg_type.oid` of `bit`.
const BIT: u32 = 1560;

/// Index, table, operator class, operator.
const CLASSES: &[(&str, &str, &str, &str)] = &[
    ("half_l2", "half", "halfvec_l2_ops", "<->"),
    ("half_ip", "half", "halfvec_ip_ops", "<#>"),
    ("half_cosine", "half", "halfvec_cosine_ops", "<=>"),
    ("half_l1", "half", "halfvec_l1_ops", "<+>"),
    ("flags_hamming", "flags", "bit_hamming_ops", "<~>"),
    ("flags_jaccard", "flags", "bit_jaccard_ops", "<%>"),
];

/// The row of number n has n bits set, so that its distance to a string of ones is its own.
fn flags(n: usize) -> String {
    format!("{}{}", "1".repeat(n), "0".repeat(ROWS - n))
}

fn fill(database: &Database<'_>) {
    let mut wire = database.connect();
    wire.run("create table half (id int primary key, n int, v halfvec(4))");
    wire.run(&format!(
        "create table flags (id int primary key, n int, v bit({ROWS}))"
    ));
    let mut random = Random::new(21);
    let (mut half, mut bits) = (String::new(), String::new());
    for n in 1..=ROWS {
        let vector = random.vector(4, Server::Pg18);
        write!(half, "({n}, {}, '{vector}'), ", n % 5).unwrap();
        write!(bits, "({n}, {}, '{}'), ", n % 5, flags(n)).unwrap();
    }
    wire.run(&format!("insert into half values {half} (0, 0, null)"));
    wire.run(&format!("insert into flags values {bits} (0, 0, null)"));
}

fn copies(server: Server) -> Copies {
    let copies = Copies::of(server, fill);
    let mut wire = copies.rektor.connect();
    for (name, table, class, _) in CLASSES {
        wire.run(&format!(
            "create index {name} on {table} using faiss (v {class})"
        ));
    }
    for (name, ..) in CLASSES {
        copies.rektor.wait_ready(name);
    }
    copies
}

#[test]
fn every_operator_class_answers_as_postgres_does() {
    for server in [Server::Pg16, Server::Pg18] {
        let copies = copies(server);
        let mut pair = copies.sessions(&[]);
        pair.query("load 'vector'");
        for (number, (_, table, _, operator)) in CLASSES.iter().enumerate() {
            let (vector, cast) = if *table == "half" {
                let seed = u64::try_from(number).unwrap();
                (query_vector(server, 300 + seed), "halfvec(4)".to_owned())
            } else {
                (flags(ROWS), format!("bit({ROWS})"))
            };
            for sql in [
                format!("select id from {table} order by v {operator} $1 limit 10"),
                format!(
                    "select id, v, v {operator} $1 as d from {table} where n = 3 order by v {operator} $1 limit 5"
                ),
                format!(
                    "select id from {table} order by v {operator} $1::{cast} limit $2 offset 3"
                ),
            ] {
                for protocol in [
                    Protocol::Simple,
                    Protocol::Text,
                    Protocol::Binary,
                    Protocol::Prepared(7),
                ] {
                    let (bytes, ready) = messages(protocol, &sql, &[&vector, "7"]);
                    let before = Answered::now(&copies.rektor);
                    pair.exchange(
                        &format!("{server:?} {protocol:?} {sql}"),
                        &bytes,
                        ready,
                        b"",
                    );
                    let after = Answered::now(&copies.rektor);
                    let times = if let Protocol::Prepared(times) = protocol {
                        times
                    } else {
                        1
                    };
                    let times = f64::from(u32::try_from(times).unwrap());
                    assert_eq!(
                        (after.nominate - before.nominate, after.exact - before.exact),
                        (times, 0.0),
                        "{server:?} {protocol:?} {sql}"
                    );
                }
            }
        }
    }
}

/// Forms in which bits are written, right ones and wrong ones.
#[test]
fn bits_are_read_as_postgres_reads_them() {
    let (ones, hex) = ("1".repeat(ROWS), "f".repeat(ROWS / 4));
    for server in [Server::Pg16, Server::Pg18] {
        let copies = copies(server);
        let mut pair = copies.sessions(&[]);
        pair.query("load 'vector'");
        for (_, _, _, operator) in &CLASSES[4..] {
            let near = |query: &str| {
                format!(
                    "select id, v {operator} {query} from flags order by v {operator} {query} limit 5"
                )
            };
            for (query, claimed) in [
                (format!("B'{ones}'"), true),
                (format!("X'{hex}'"), true),
                (format!("'b{ones}'"), true),
                (format!("'x{hex}'"), true),
                (format!("'{ones}'::bit({ROWS})"), true),
                (format!("cast(B'{ones}' as bit({ROWS}))"), true),
                // Filled up or cut off by the cast.
                (format!("'{ones}1'::bit({ROWS})"), false),
                (format!("'{ones}'::bit"), false),
                (format!("'{ones}'::varbit"), false),
                ("B'101'".to_owned(), false),
                ("'b12'".to_owned(), false),
                ("'x1g'".to_owned(), false),
                ("''".to_owned(), false),
                ("B''".to_owned(), false),
                ("null".to_owned(), false),
                ("'[1,2,3]'".to_owned(), false),
                ("'[1,2,3]'::vector".to_owned(), false),
            ] {
                let before = Answered::now(&copies.rektor).nominate;
                pair.query(&near(&query));
                let after = Answered::now(&copies.rektor).nominate;
                assert_eq!(after > before, claimed, "{server:?} {operator} {query}");
            }
            // Binary parameters, declared and not: length in bits and bytes, and what only looks like that.
            let length = u32::try_from(ROWS).unwrap().to_be_bytes();
            let whole = [&length[..], &[0xff; ROWS / 8]].concat();
            let (mut short, mut other) = (whole.clone(), whole.clone());
            short.pop();
            other[3] += 1;
            for types in [&[][..], &[BIT], &[1562], &[25]] {
                for value in [&whole, &short, &other, &vec![], &vec![0xff; 4]] {
                    let sql = format!("select id from flags order by v {operator} $1 limit 5");
                    let bytes = [
                        parse("", &sql, types),
                        bind("", "", &[1], &[Some(value)], &[1]),
                        describe(b'P', ""),
                        execute("", 0),
                        sync(),
                    ]
                    .concat();
                    pair.exchange(&format!("{server:?} {types:?} {value:?}"), &bytes, 1, b"");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_indexed_is_refused_as_pgvector_refuses_it() {
    for server in [Server::Pg16, Server::Pg18] {
        let copies = copies(server);
        let mut pair = copies.sessions(&[]);
        let table = "create table odd (id int primary key, plain vector(3), free bit varying, long bit(64001), one bit, real real[], sparse sparsevec(3))";
        pair.query(table);
        for (column, class) in [
            ("plain", "bit_hamming_ops"),
            ("plain", "halfvec_l1_ops"),
            ("free", "bit_hamming_ops"),
            ("free", "bit_jaccard_ops"),
            ("long", "bit_hamming_ops"),
            ("one", "vector_l2_ops"),
            ("one", "missing_ops"),
        ] {
            let told = |wire: &mut crate::harness::Wire, method: &str| {
                let sql = format!("create index on odd using {method} ({column} {class})");
                let error = wire.try_rows(&sql).expect_err(&sql);
                (
                    error.field(b'C'),
                    error.field(b'M').map(|text| text.replace(method, "…")),
                )
            };
            let expected = told(&mut pair.direct, "hnsw");
            assert_eq!(
                told(&mut pair.through, "faiss"),
                expected,
                "{column} {class}"
            );
        }
        let sparse = "create index on odd using faiss (sparse sparsevec_l2_ops)";
        let error = pair.through.try_rows(sparse).expect_err(sparse);
        assert!(
            error.field(b'H').unwrap().contains("bit_jaccard_ops"),
            "{error:?}"
        );
        pair.through
            .run("create index odd_one on odd using faiss (one bit_hamming_ops)");
        copies.rektor.wait_ready("odd_one");
        // The column's type changes to one that has no such distance: said, and searches go on without the index.
        pair.through
            .run("alter table odd alter column one type vector(3) using '[1,2,3]'");
        let mut wire = copies.rektor.connect();
        crate::harness::wait_for(
            "the index to fail",
            std::time::Duration::from_secs(30),
            || {
                let error = wire.value("select coalesce(error, '') from rektor.stat_indexes where index_name = 'odd_one'");
                error
                    .contains("which has no distance hamming")
                    .then_some(())
            },
        );
        pair.through
            .run("select id from odd order by one <-> '[1,2,3]' limit 1");
    }
}

/// The texts of rows around some centres, and of queries like them.
fn clusters(class: &str, count: usize) -> Vec<String> {
    let mut random = Random::new(31);
    if class.starts_with("bit") {
        let centres: Vec<[u64; 4]> = (0..30).map(|_| [(); 4].map(|()| random.next())).collect();
        let one = |_| {
            let centre = centres[random.below(30)];
            let words = centre.map(|word| word ^ (random.next() & random.next() & random.next()));
            words.map(|word| format!("{word:064b}")).concat()
        };
        return (0..count).map(one).collect();
    }
    let centres: Vec<Vec<f32>> = (0..30)
        .map(|_| (0..32).map(|_| random.component()).collect())
        .collect();
    let one = |_| {
        let centre = &centres[random.below(30)];
        let near = centre
            .iter()
            .map(|x| (x + 0.2 * random.component()).to_string());
        format!("[{}]", near.collect::<Vec<_>>().join(","))
    };
    (0..count).map(one).collect()
}

/// The share of the true nearest ten that are found: rows as near as the tenth count.
fn recall(rektor: &Rektor<'_>, operator: &str, queries: &[String]) -> f64 {
    let mut direct = rektor.database.connect();
    let mut through = rektor.connect();
    rektor.catch_up(&mut through);
    // What waits longer than a search does, after a restart, is answered upstream.
    let first = format!(
        "select id from many order by v {operator} '{}' limit 10",
        queries[0]
    );
    crate::harness::wait_for(
        "a search from the index",
        std::time::Duration::from_secs(60),
        || {
            let before = Answered::now(rektor).nominate;
            through.run(&first);
            (Answered::now(rektor).nominate > before).then_some(())
        },
    );
    let before = Answered::now(rektor);
    let mut found = 0;
    for query in queries {
        let distances = |rows: Vec<String>| -> Vec<f64> {
            rows.iter()
                .map(|distance| distance.parse().unwrap())
                .collect()
        };
        let sql = format!(
            "select v {operator} '{query}' from many order by v {operator} '{query}' limit 10"
        );
        let exact = distances(direct.column(&sql));
        let got = distances(through.column(&sql));
        assert_eq!(got.len(), 10);
        found += got.iter().filter(|distance| **distance <= exact[9]).count();
    }
    let after = Answered::now(rektor);
    assert_eq!(
        after.nominate - before.nominate,
        f64::from(u32::try_from(queries.len()).unwrap())
    );
    f64::from(u32::try_from(found).unwrap()) / f64::from(u32::try_from(10 * queries.len()).unwrap())
}

/// More rows than are compared one by one: through the graph, after changes, and after a restart.
#[test]
fn near_rows_are_found_and_kept() {
    const MANY: usize = 8_000;
    for (class, kind, operator) in [
        ("bit_hamming_ops", "bit(256)", "<~>"),
        ("bit_jaccard_ops", "bit(256)", "<%>"),
        ("halfvec_l1_ops", "halfvec(32)", "<+>"),
        ("vector_l1_ops", "vector(32)", "<+>"),
    ] {
        let database = Server::Pg18.shared().database();
        let mut rektor = Rektor::start(&database);
        let mut wire = rektor.connect();
        wire.run(&format!("create table many (id int primary key, v {kind})"));
        let mut texts = clusters(class, MANY + 2_000 + 100);
        let queries = texts.split_off(MANY + 2_000);
        let mut later = texts.split_off(MANY).into_iter();
        for (number, texts) in texts.chunks(1_000).enumerate() {
            let mut sql = "insert into many values ".to_owned();
            for (n, text) in texts.iter().enumerate() {
                let comma = if n > 0 { ", " } else { "" };
                write!(sql, "{comma}({}, '{text}')", number * 1_000 + n).unwrap();
            }
            wire.run(&sql);
        }
        rektor.create_index(
            &format!("create index i on many using faiss (v {class})"),
            "i",
        );
        let fresh = recall(&rektor, operator, &queries);
        for id in (0..MANY).step_by(5) {
            let vector = later.next().unwrap();
            wire.run(&format!("update many set v = '{vector}' where id = {id}"));
        }
        wire.run("delete from many where id % 7 = 1");
        let changed = recall(&rektor, operator, &queries);
        drop(wire);
        assert!(rektor.stop().success());
        rektor.up();
        rektor.wait_ready("i");
        let restarted = recall(&rektor, operator, &queries);
        let mut wire = rektor.connect();
        rektor.catch_up(&mut wire);
        let verified = wire.rows("select missing + extra + differing, rows_table = rows_index, recall > 0.9 from rektor.verify_index('i')");
        let expected = ["0", "t", "t"].map(|text| Some(text.to_owned()));
        assert_eq!(verified, [expected], "{class}");
        eprintln!(
            "{class}: recall@10 {fresh:.3}, after changes {changed:.3}, after a restart {restarted:.3}"
        );
        assert!(
            fresh.min(changed).min(restarted) >= 0.94,
            "{class}: {fresh} {changed} {restarted}"
        );
    }
}
