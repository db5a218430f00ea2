//! Searches with conditions on INCLUDE columns: the rows that exact SQL gives, from the index and without a table scan, however
//! few match; also right after the columns' values, names or types changed.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fixture::{Answered, query_vector};
use super::statements::{Protocol, TRIES, messages, nominated, widen};
use crate::harness::message::{bind, describe, execute, extended, parse, sync};
use crate::harness::{Database, Random, Server, wait_for};
use crate::relay::compare::Copies;

const ROWS: usize = 2_000;

const TABLE: &str = "create table shop (
    id int primary key, i2 smallint, i4 int, i8 bigint, f4 real, f8 double precision, n numeric, t text, vc varchar(20),
    u uuid, b boolean, d date, ts timestamp, tz timestamptz, j jsonb, ch char(4), v {v});
create table shelves (id int, part int, i4 int, v {v}, primary key (id, part)) partition by list (part);
create table shelves_0 partition of shelves for values in (0);
create table shelves_1 partition of shelves for values in (1);";

fn fill(database: &Database<'_>, server: Server) {
    let mut wire = database.connect();
    wire.run(&TABLE.replace("{v}", &server.vector_type(4)));
    let mut random = Random::new(21);
    let (mut shop, mut shelves) = (String::new(), String::new());
    for n in 0..ROWS {
        let comma = if n > 0 { ", " } else { "" };
        write!(shop, "{comma}({n}, '{}')", random.vector(4, server)).unwrap();
        write!(
            shelves,
            "{comma}({n}, {}, {}, '{}')",
            n % 2,
            n % 50,
            random.vector(4, server)
        )
        .unwrap();
    }
    wire.run(&format!("insert into shelves values {shelves}"));
    wire.run(&format!("insert into shop (id, v) values {shop}"));
    // every seventh row has no values
    wire.run(
        "update shop set i2 = id % 10, i4 = id % 100 - 50, i8 = id * 10000000000, f4 = id / 10.0, f8 = -id / 7.0,
            n = (id % 400) / 100.0, t = 'text ' || id % 20, vc = 'vc' || id % 3, u = md5((id % 500)::text)::uuid,
            b = id % 4 = 0, d = date '2020-01-01' + id % 365, ts = timestamp '2020-01-01' + id * interval '1 hour',
            tz = timestamptz '2020-01-01 00:00+00' + id * interval '1 minute', j = '{}', ch = 'c' || id % 5
        where id % 7 <> 0",
    );
}

fn copies(server: Server) -> Copies {
    let copies = Copies::of(server, |database| fill(database, server));
    let options = if server.has_pgvector() {
        ""
    } else {
        " with (dimensions = 4)"
    };
    let mut wire = copies.rektor.connect();
    wire.run(&format!(
        "create index shop_idx on shop using faiss (v vector_l2_ops)
            include (i2, i4, i8, f4, f8, n, t, vc, u, b, d, ts, tz, j, ch){options}"
    ));
    wire.run(&format!(
        "create index shelves_idx on shelves using faiss (v vector_l2_ops) include (part, i4){options}"
    ));
    copies.rektor.wait_ready("shop_idx");
    copies.rektor.wait_ready("shelves_idx");
    copies
}

/// Conditions, and further parameters. All are answered by nominating, whatever number of rows matches.
const CONDITIONS: &[(&str, &[&str])] = &[
    ("true", &[]),
    ("i2 = 3", &[]),
    ("i2 = 3.0", &[]),
    ("i2 = 3.5", &[]),
    ("i2 < 2 and i4 > 40", &[]),
    ("i4 = $2", &["-50"]),
    ("i4 = $2", &["123456"]),
    ("i4 = '7'", &[]),
    ("7 = shop.i4", &[]),
    ("i4 >= 49", &[]),
    ("i4 between -2 and $2", &["2"]),
    ("i4 in (1, 2, null, 49)", &[]),
    ("i4 in ($2, $3)", &["1", "2"]),
    ("i4 = any ('{1,2,NULL}')", &[]),
    ("i4 = any ($2)", &["{1,2}"]),
    ("i4 = any (array[1, 2])", &[]),
    ("i4 is null and i2 = 1", &[]),
    ("i8 > 19900000000000", &[]),
    ("i8 > 19900000000000.5", &[]),
    ("i8 = 30000000000", &[]),
    ("i8 < -9223372036854775808", &[]),
    ("i8 <= 99999999999999999999", &[]),
    ("f4 = 0.1", &[]),
    ("f4 = '0.1'", &[]),
    ("f4 = '0.1'::real", &[]),
    ("f4 in (0.1, 0.2)", &[]),
    ("f4 = $2", &["0.3"]),
    ("f4 > 199", &[]),
    ("f8 between -1 and -0.5", &[]),
    ("f8 < '-1e2' and f8 > -101", &[]),
    ("n = 1.5", &[]),
    ("n = 1.50::numeric", &[]),
    ("n < 0.02", &[]),
    ("n > $2", &["3.97"]),
    ("n in (1, 2.25, '3.5')", &[]),
    ("t = 'text 3'", &[]),
    ("t = 'Text 3'", &[]),
    ("t in ('text 3', 'text 4', 'none')", &[]),
    ("t = any ($2)", &["{\"text 3\",\"text 5\"}"]),
    ("t = $2::text", &["text 19"]),
    ("vc = 'vc1'", &[]),
    ("vc = 'vc1'::text and t = 'text 7'", &[]),
    ("u = 'ECCBC87E-4B5C-E2FE-2830-8FD9F2A7BAF3'", &[]),
    ("u = $2", &["eccbc87e4b5ce2fe28308fd9f2a7baf3"]),
    (
        "u = any ('{eccbc87e-4b5c-e2fe-2830-8fd9f2a7baf3}'::uuid[])",
        &[],
    ),
    ("b", &[]),
    ("not b and i2 = 1", &[]),
    ("b = 'f' and i2 = 1", &[]),
    ("b is true and i2 = 2", &[]),
    ("d = '2020-02-29'", &[]),
    ("d = date '2020-02-29'", &[]),
    ("d >= '2020-12-20'", &[]),
    ("d between $2 and $3", &["2020-03-01", "2020-03-02"]),
    ("ts < '2020-01-01 12:00:00'", &[]),
    ("ts >= timestamp '2020-03-20T00:00:00.5'", &[]),
    ("ts >= date '2020-03-23'", &[]),
    ("tz <= '2020-01-01 00:10+00'", &[]),
    ("tz <= '2020-01-01 02:10+02'::timestamptz", &[]),
    ("tz = '2020-01-01 00:10:00Z'", &[]),
    ("i4 <> 7 and i2 = 3 and i4 > 40", &[]),
    ("not (i4 < 48 or i4 is null)", &[]),
    ("not i4 between -49 and 47", &[]),
    ("i4 not between $2 and 48", &["-49"]),
    ("i4 not in (1, 2) and i4 between 0 and 3", &[]),
    ("i4 not in (1, null)", &[]),
    ("f4 not in ('0.1', 0.2::float8) and i4 < -48", &[]),
    ("f4 not in ('0.1', '0.2', 0.3)", &[]),
    ("f8 in ('-1', -2, -3.0)", &[]),
    ("i4 <> all ($2) and i4 > 46", &["{48,49}"]),
    ("not (i4 <> 7)", &[]),
    ("i4 is null", &[]),
    ("t is null and b is null", &[]),
    ("i4 is not null and i2 = 3 and i8 > 19000000000000", &[]),
    ("b is not true and i2 = 3", &[]),
    ("b is not false and i4 = 5", &[]),
    ("not (b is not true) and i4 = 6", &[]),
    ("b is unknown", &[]),
    ("not b and not (i2 <> 3)", &[]),
    ("not (t = 'text 1' or t <> 'text 3')", &[]),
    ("t <> 'text 3' and i4 = -47", &[]),
    ("vc not in ('vc0', 'vc1') and i4 = 5", &[]),
    (
        "u <> 'eccbc87e-4b5c-e2fe-2830-8fd9f2a7baf3' and i4 = 3",
        &[],
    ),
    (
        "d <> '2020-02-29' and d between '2020-02-28' and '2020-03-01'",
        &[],
    ),
    ("n <> 1.5 and n between 1.49 and 1.51", &[]),
    ("f4 <> $2 and f4 < 0.5", &["0.3"]),
    ("i4 is distinct from 7 and i2 = 3 and i4 > 40", &[]),
    ("i4 is not distinct from $2", &["7"]),
    (
        "i4 is not distinct from null and i2 is distinct from 1",
        &[],
    ),
    ("i4 = 7 or i8 = 30000000000", &[]),
    ("i4 = 7 or t = $2 or b is null", &["text 3"]),
    // as ORMs exclude: rows without a value stay
    ("not (i4 >= 3 and i4 is not null)", &[]),
    ("not (i4 = 5 and b) and i4 between 4 and 6", &[]),
    (
        "(i4 = 5 or (i4 = 6 and (b or d = '2020-02-29'))) and i8 > 0",
        &[],
    ),
    ("i4 <> all (array[]::int[]) and i2 = 3", &[]),
    // recognised in part
    ("i4 = 5 or (i4 = 6 and t like '%1')", &[]),
    ("i4 = 5 and t like '%1'", &[]),
    ("i4 = 5 and (b or i2 = 3)", &[]),
    ("i4 = 5 and j = '{}' and ch = 'c0'", &[]),
    ("i4 = 5 and id % 2 = 1", &[]),
    ("i4 = -44 and b is not true", &[]),
    ("i4 = 5 and id <> 5 and t > 'text'", &[]),
];

fn filtered_searches_are_exact(server: Server, protocol: Protocol) {
    let copies = copies(server);
    let mut pair = copies.sessions(&[("timezone", "Asia/Kolkata"), ("datestyle", "German")]);
    widen(&mut pair, server);
    let statement = |condition: &str, limit: usize| {
        format!("select id, i4, t from shop where {condition} order by v <-> $1 limit {limit}")
    };
    nominated(&copies, &mut pair, protocol, CONDITIONS, [5, 40], statement);
}

#[test]
fn filtered_simple_on_18() {
    filtered_searches_are_exact(Server::Pg18, Protocol::Simple);
}

#[test]
fn filtered_prepared_on_18() {
    filtered_searches_are_exact(Server::Pg18, Protocol::Prepared(3));
}

#[test]
fn filtered_simple_on_plain() {
    filtered_searches_are_exact(Server::Plain, Protocol::Simple);
}

#[test]
fn filtered_text_on_16() {
    filtered_searches_are_exact(Server::Pg16, Protocol::Text);
}

/// Parameters in binary form, with and without a declared type.
#[test]
fn binary_parameters_are_read() {
    let server = Server::Pg18;
    let copies = copies(server);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let vector = query_vector(server, 41);
    let array: Vec<u8> = [1_i32, 0, 23, 2, 1, 4, 7, 4, -9]
        .into_iter()
        .flat_map(i32::to_be_bytes)
        .collect();
    let cases: &[(&str, u32, &[u8])] = &[
        ("i4 = $2", 0, &7_i32.to_be_bytes()),
        ("i4 = $2", 20, &7_i64.to_be_bytes()),
        ("i4 = $2", 701, &7_f64.to_be_bytes()),
        ("i8 = $2", 0, &30_000_000_000_i64.to_be_bytes()),
        ("f8 < $2", 0, &(-250_f64).to_be_bytes()),
        ("f4 = $2", 700, &0.3_f32.to_be_bytes()),
        ("b = $2 and i2 = 1", 16, &[0]),
        ("d = $2", 1082, &7_300_i32.to_be_bytes()),
        ("i4 = any ($2)", 0, &array),
        ("i4 = any ($2)", 1007, &array),
        ("i4 in ($2, 12)", 0, &7_i32.to_be_bytes()),
        ("i8 in ($2, 3)", 20, &30_000_000_000_i64.to_be_bytes()),
        ("f8 = $2 and i8 > 0", 0, &(-1_f64).to_be_bytes()),
        ("t = $2", 25, b"text 3"),
        ("vc = $2", 1043, b"vc2"),
    ];
    for (condition, declared, value) in cases {
        let sql = format!("select id from shop where {condition} order by v <-> $1 limit 12");
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

/// Values, names and types of the columns change between two searches; every search sees the change at once.
#[test]
fn changed_columns_are_seen() {
    let server = Server::Pg18;
    let copies = copies(server);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let v = query_vector(server, 42);
    let searches = [
        "i4 = 7",
        "i8 = 7",
        "i2 = 3 and i4 < 0",
        "t = 'text 3'",
        "i4 between 1000 and 2000",
    ];
    for change in [
        "update shop set i4 = 7 where id between 100 and 104",
        "update shop set i4 = null where id between 102 and 104",
        "update shop set id = id + 100000 where i4 = 7",
        "update shop set v = v, i4 = 1500 where id % 100 = 3",
        "update shop set t = 'text 3' where id < 10",
        "delete from shop where i2 = 3 and id % 2 = 0",
        "insert into shop (id, i4, i8, v) select id + 300000, 7, 7, v from shelves where id < 5",
        "update shop set v = null where id = 300001",
        "update shop set v = (select v from shelves where id = 50) where id = 300001",
        "alter table shop rename i4 to old; alter table shop rename i8 to i4; alter table shop rename old to i8",
        "alter table shop alter column i8 type bigint using i8 * 3 + 1",
        "truncate shop",
        "insert into shop (id, i4, i8, t, v) select n, 7, 7, 'text 3', (select v from shelves where id = n) from generate_series(1, 9) n",
        "alter table shop drop column i8; alter table shop add column i8 bigint default 7",
    ] {
        pair.query(change);
        for condition in searches {
            let sql =
                format!("select id, t from shop where {condition} order by v <-> '{v}' limit 8");
            pair.query(&sql);
        }
    }
}

#[test]
fn partitions_are_filtered() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies(server);
        let mut pair = copies.sessions(&[]);
        widen(&mut pair, server);
        let v = query_vector(server, 43);
        for (condition, is_cheap) in [
            ("part = 1", false),
            ("part = 1 and i4 = 7", false),
            ("i4 in (3, 4) and part = 0", false),
            ("part = 2", true), // no partition is read
        ] {
            let sql = format!(
                "select id, part from shelves where {condition} order by v <-> '{v}' limit 30"
            );
            let expected = if is_cheap { (0.0, 1.0) } else { (1.0, 0.0) };
            let is_as_expected = (0..TRIES).any(|_| {
                copies.rektor.catch_up(&mut copies.rektor.connect());
                let before = Answered::now(&copies.rektor);
                pair.query(&sql);
                let after = Answered::now(&copies.rektor);
                (after.nominate - before.nominate, after.exact - before.exact) == expected
            });
            assert!(is_as_expected, "{sql}");
        }
    }
}

/// Where the planner would find few rows quickly, PostgreSQL is asked for them at once; where it would read the table, the
/// index proposes them. Either answer is complete, in a transaction too, and errors are PostgreSQL's own.
#[test]
fn few_rows_come_from_postgres_where_that_is_cheap() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies(server);
        for database in [&copies.direct, &copies.rektor.database] {
            let mut wire = database.connect();
            wire.run("create index on shop (i4); update shop set i8 = i4; analyze shop");
            // PostgreSQL does not use it while a transaction of another test may see rows of before the updates.
            wire.run("set enable_seqscan = off");
            wait_for("the index to be usable", Duration::from_secs(60), || {
                let plan = wire.column("explain (costs off) select from shop where i4 = 7");
                let uses = plan.iter().any(|line| line.contains("shop_i4_idx"));
                uses.then_some(())
            });
        }
        let mut pair = copies.sessions(&[]);
        // A scan of so small a table is cheap as well; an index that reads a page is not made dear.
        pair.query("set seq_page_cost = 1000");
        let v = query_vector(server, 45);
        for (condition, limit, is_cheap) in [
            ("i4 = 7", 40, true),
            ("i4 = 700", 10, true),
            ("i4 = 7 and id < 0", 40, true), // in part the index's
            ("i4 = 7", 5, false),            // enough of them
            ("i8 = null", 5, true),
            ("i8 = 7", 40, false),
            ("i8 = 700", 10, false),
        ] {
            let sql = format!(
                "select id, i4 from shop where {condition} order by v <-> $1 limit {limit}"
            );
            for protocol in [
                Protocol::Simple,
                Protocol::Text,
                Protocol::Binary,
                Protocol::Prepared(8),
            ] {
                for within in [false, true] {
                    if within {
                        pair.query("begin");
                    }
                    let (bytes, ready) = messages(protocol, &sql, &[&v]);
                    let before = Answered::now(&copies.rektor);
                    pair.exchange(
                        &format!("{server:?} {protocol:?}: {sql}"),
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
                    #[allow(clippy::cast_precision_loss)] // a handful
                    let expected = if is_cheap {
                        (0.0, times as f64)
                    } else {
                        (times as f64, 0.0)
                    };
                    let got = (after.nominate - before.nominate, after.exact - before.exact);
                    assert_eq!(got, expected, "{server:?} {protocol:?} {within}: {sql}");
                    if within {
                        pair.query("commit");
                    }
                }
            }
        }
        // a change of this session's and of another's are seen; an error is what it is without Rektor
        for sql in [
            "update shop set i4 = 700 where id in (1, 2)",
            "select id from shop where i4 = 700 order by v <-> '{v}' limit 10",
            "select id from shop where i4 = 700 / 0 order by v <-> '{v}' limit 10",
            "select id / (i4 - 700) from shop where i4 = 700 order by v <-> '{v}' limit 10",
            "begin",
            "select id / (i4 - 700) from shop where i4 = 700 order by v <-> '{v}' limit 10",
            "rollback",
            "begin",
            "select id from shop where i4 = 701 and 1 / (i2 - i2) = 1 order by v <-> '{v}' limit 10",
            "select id from shop where i4 = 701 and 1 / 0 = 1 order by v <-> '{v}' limit 10",
            "select 1",
            "rollback",
        ] {
            pair.query(&sql.replace("{v}", &v));
        }
    }
}

/// At any moment exactly five rows match, but not always the same: every answer has five rows, in every isolation level.
#[test]
fn moving_rows_are_never_missed() {
    let server = Server::Pg18;
    let copies = copies(server);
    let mut setup = copies.rektor.connect();
    setup.run("update shop set i4 = 1000 where id in (1, 2, 3, 4, 5)");
    let v = query_vector(server, 44);
    let search = format!("select id from shop where i4 = 1000 order by v <-> '{v}' limit 10");
    let done = AtomicBool::new(false);
    let (mut mover, done_moving) = (copies.rektor.connect(), &done);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for round in 0.. {
                if done_moving.load(Ordering::Relaxed) {
                    break;
                }
                let (from, to) = if round % 2 == 0 { (0, 10) } else { (10, 0) };
                mover.run(&format!(
                    "begin; update shop set i4 = 0 where id between {from} + 1 and {from} + 5;
                     update shop set i4 = 1000 where id between {to} + 1 and {to} + 5; commit"
                ));
            }
        });
        let _stop = Stop(&done); // at a failed assertion too: the scope waits for the mover
        let mut wire = copies.rektor.connect();
        for round in 0..60 {
            let level = if round % 2 == 0 {
                "read committed"
            } else {
                "repeatable read"
            };
            wire.run(&format!("begin isolation level {level}"));
            assert_eq!(wire.rows(&search).len(), 5, "{level}");
            let frames = wire.roundtrip(&extended(
                &search.replace(&format!("'{v}'"), "$1"),
                &[Some(v.as_bytes())],
                &[],
            ));
            assert_eq!(
                frames.iter().filter(|frame| frame.tag == b'D').count(),
                5,
                "{level}, extended"
            );
            wire.run("commit");
        }
    });
}

/// Ends a loop when it goes out of scope.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What EXPLAIN tells of it.
#[test]
fn explain_shows_the_filter() {
    let server = Server::Pg18;
    let copies = copies(server);
    let mut wire = copies.rektor.connect();
    let v = query_vector(server, 45);
    let mut line = |condition: &str| {
        let sql =
            format!("explain select id from shop where {condition} order by v <-> '{v}' limit 5");
        let rows = wire.rows(&sql).into_iter().flatten().flatten();
        rows.filter(|line| line.contains("Filter: ") && line.contains("about"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        line("i4 = 6 and b"),
        ["  Filter: i4, b (about 17 of 2000 rows, compared one by one)"]
    );
    assert_eq!(line("id = 7"), [""; 0]);
}
