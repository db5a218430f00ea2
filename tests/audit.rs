//! Indexes compared with their tables: what the stream does not tell is found and put right, unasked and when asked, and a
//! table that is written to all the time is never said to differ.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::message::{describe, execute, extended, parse, query, sync};
use crate::harness::{Cluster, Database, Frame, Random, Rektor, Server, Wire, wait_for};

/// Rows of the tables here.
const ROWS: usize = 400;

/// Rektor before a table of [`ROWS`] rows, with index `i`, which serves.
fn with_index(server: Server) -> Rektor<'static> {
    let database = server.shared().database();
    let mut wire = database.connect();
    let v = server.vector_type(3);
    wire.run(&format!(
        "create table t (id int primary key, v {v}, price int)"
    ));
    wire.run(&format!("insert into t {}", rows(server, 0, ROWS)));
    let rektor = Rektor::start(&database);
    rektor.create_index(&create_index(server), "i");
    rektor
}

fn create_index(server: Server) -> String {
    let with = if server.has_pgvector() {
        ""
    } else {
        " with (dimensions = 3)"
    };
    format!("create index i on t using faiss (v vector_l2_ops) include (price){with}")
}

fn rows(server: Server, from: usize, count: usize) -> String {
    let mut random = Random::new(from as u64 + 7);
    let values: Vec<String> = (from..from + count)
        .map(|id| format!("({id}, '{}', {id})", random.vector(3, server)))
        .collect();
    format!("values {}", values.join(", "))
}

/// Runs these statements in a way that no subscriber hears of them.
fn unheard(wire: &mut Wire, kinds: &str, statements: &str) {
    wire.run(&format!(
        "begin; alter publication rektor set (publish = '{kinds}'); {statements}; \
         alter publication rektor set (publish = 'insert, update, delete, truncate'); commit"
    ));
}

/// Adds one row, removes two, changes the vectors of three and the INCLUDE value of one; nothing of it is in the stream.
fn damage(database: &Database<'_>) {
    let server = database.cluster.server;
    let mut wire = database.connect();
    unheard(
        &mut wire,
        "delete",
        &format!("insert into t {}", rows(server, 9000, 1)),
    );
    unheard(&mut wire, "insert", "delete from t where id in (3, 5)");
    let vector = server.vector_text("9,9,9");
    unheard(
        &mut wire,
        "insert",
        &format!(
            "update t set v = '{vector}' where id in (10, 11, 12); update t set price = -1 where id = 20"
        ),
    );
    unheard(&mut wire, "insert", "update t set v = null where id = 30");
}

/// missing, extra, differing, repaired, unsettled
fn verify(wire: &mut Wire, index: &str) -> Vec<String> {
    let sql = format!(
        "select missing, extra, differing, repaired, unsettled from rektor.verify_index('{index}')"
    );
    let mut found = wire.rows(&sql);
    assert_eq!(found.len(), 1);
    found.remove(0).into_iter().map(Option::unwrap).collect()
}

/// Finds and repairs damage: all of it, unless the comparison that nobody asked for was there before.
fn check_damage(wire: &mut Wire, index: &str, expected: [&str; 5], label: &str) {
    let found = verify(wire, index);
    let mended = wire.value("select mended_rows from rektor.stat_indexes");
    assert_eq!(mended, expected[3], "{label}: {found:?}");
    if found[3] == expected[3] {
        assert_eq!(found, expected, "{label}");
    }
}

fn shape(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}

#[test]
fn what_the_stream_does_not_tell_is_reported_and_put_right() {
    for server in Server::ALL {
        let rektor = with_index(server);
        let mut wire = rektor.connect();
        assert_eq!(
            verify(&mut wire, "i"),
            ["0", "0", "0", "0", "0"],
            "{server:?}"
        );
        damage(&rektor.database);
        let damaged = ["1", "2", "5", "8", "0"];
        check_damage(&mut wire, "public.i", damaged, &format!("{server:?}"));
        assert_eq!(
            verify(&mut wire, "i"),
            ["0", "0", "0", "0", "0"],
            "{server:?}"
        );
        let row = wire.rows(
            "select index_name, table_name, rows_table, rows_index, left_out, lsn <= pg_current_wal_insert_lsn(), \
             recall > 0.9, duration > '0' from rektor.verify_index('i')",
        );
        let row: Vec<&str> = row[0]
            .iter()
            .map(|value| value.as_deref().unwrap())
            .collect();
        assert_eq!(
            row,
            ["i", "t", "399", "398", "1", "t", "t", "t"],
            "{server:?}"
        );
        // A search finds what was put right.
        let vector = server.vector_text("9,9,9");
        let near = wire.column(&format!(
            "select id from t order by v <-> '{vector}' limit 3"
        ));
        assert_eq!(near.len(), 3);
        assert!(
            near.iter()
                .all(|id| ["10", "11", "12"].contains(&id.as_str())),
            "{near:?}"
        );
        assert!(rektor.metric("rektor_audit_mended_rows_total") >= 8.0);
    }
}

#[test]
fn it_is_found_unasked() {
    let rektor = with_index(Server::Pg18);
    let mut wire = rektor.connect();
    damage(&rektor.database);
    // One of three changed vectors may be found as well: unasked, vectors are compared in a sample.
    wait_for("the audit to put it right", Duration::from_secs(60), || {
        let row =
            wire.rows("select mended_rows >= 7, audit_age < '1 minute' from rektor.stat_indexes");
        (row[0] == [Some("t".to_owned()), Some("t".to_owned())]).then_some(())
    });
    wait_for("the log to say so", Duration::from_secs(10), || {
        rektor.log().contains("were put right").then_some(())
    });
    assert_eq!(verify(&mut wire, "i")[..2], ["0", "0"]);
}

#[test]
fn a_table_that_is_written_to_all_the_time_does_not_differ() {
    for server in Server::ALL {
        let rektor = with_index(server);
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let mut wire = rektor.database.connect();
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    // One of them does not wait for its commits.
                    wire.run(&format!("set synchronous_commit = {}", if number == 0 { "off" } else { "on" }));
                    let mut random = Random::new(number);
                    let mut written = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        let (id, other) = (random.below(40), 1000 + random.below(40));
                        let vector = random.vector(3, server);
                        let sql = match random.below(5) {
                            0 => format!("update t set price = {written} where id = {id}"),
                            1 => format!("insert into t values ({other}, '{vector}', 1) on conflict (id) do update set v = excluded.v"),
                            2 => format!("delete from t where id = {other}"),
                            3 => format!("update t set id = {other} where id = {other} + 1 and not exists (select from t where id = {other})"),
                            _ => format!("update t set v = '{vector}' where id = {id}"),
                        };
                        // Two writers may want the same key, or each other's rows.
                        wire.attempt(&sql).unwrap().ok();
                        written += 1;
                    }
                    written
                })
            })
            .collect();
        let mut wire = rektor.connect();
        for _ in 0..5 {
            let found = verify(&mut wire, "i");
            assert_eq!(found[..4], ["0", "0", "0", "0"], "{server:?}");
        }
        stop.store(true, Ordering::Relaxed);
        let written: u64 = writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum();
        assert!(written > 100, "{written}");
        assert_eq!(
            verify(&mut wire, "i"),
            ["0", "0", "0", "0", "0"],
            "{server:?}"
        );
    }
}

#[test]
fn a_row_that_enters_a_row_filter_is_fetched() {
    let database = Server::Pg18.shared().database();
    let mut wire = database.connect();
    // Stored out of line: an UPDATE of another column does not carry it.
    wire.run("create table big (id int primary key, v vector(768)); alter table big alter v set storage external");
    wire.run("insert into big select n, array_fill(n::real, array[768])::vector from generate_series(1, 50) n");
    let rektor = Rektor::start(&database);
    rektor.create_index("create index b on big using faiss (v vector_l2_ops)", "b");
    wire.run("alter publication rektor drop table big; alter publication rektor add table big where (id > 25)");
    let mut client = rektor.connect();
    let count = |client: &mut Wire, wanted: &str| {
        wait_for(&format!("{wanted} rows"), Duration::from_secs(60), || {
            let rows =
                client.rows("select rows, phase from rektor.stat_indexes where index_name = 'b'");
            (rows.first()? == &[Some(wanted.to_owned()), Some("ready".to_owned())]).then_some(())
        });
    };
    count(&mut client, "25");
    // The copier says so after its rows are there.
    let copies = || rektor.log().matches("copied").count();
    wait_for("the second copy", Duration::from_secs(60), || {
        (copies() == 2).then_some(())
    });
    // They enter it: the stream has their keys, and not their vectors.
    wire.run("update big set id = id + 100 where id in (7, 9)");
    count(&mut client, "27");
    assert_eq!(copies(), 2, "it was copied again");
    assert_eq!(
        client.column("select fetched_rows from rektor.stat_indexes"),
        ["2"]
    );
    assert_eq!(verify(&mut client, "b"), ["0", "0", "0", "0", "0"]);
    // Keys keep being followed.
    wire.run("update big set v = array_fill(0::real, array[768])::vector where id = 107; update big set id = 9 where id = 109");
    count(&mut client, "26");
    assert_eq!(verify(&mut client, "b"), ["0", "0", "0", "0", "0"]);
}

#[test]
fn keys_of_several_columns_and_partitions_are_compared() {
    for server in [Server::Plain, Server::Pg18] {
        let database = server.shared().database();
        let mut wire = database.connect();
        let v = server.vector_type(3);
        wire.run(&format!(
            "create table t (tenant text, id bigint, v {v}, price int, primary key (tenant, id)) partition by list (tenant);
             create table \"t A\" partition of t for values in ('a'); create table t_b partition of t for values in ('b')"
        ));
        let vector = server.vector_text("1,2,3");
        wire.run(&format!("insert into t select case n % 2 when 0 then 'a' else 'b' end, n, '{vector}', n from generate_series(1, 100) n"));
        let rektor = Rektor::start(&database);
        rektor.create_index(&create_index(server), "i");
        let mut client = rektor.connect();
        assert_eq!(verify(&mut client, "i"), ["0", "0", "0", "0", "0"]);
        unheard(
            &mut wire,
            "insert",
            "delete from t where id < 10; update t set price = 0 where id = 50",
        );
        let damaged = ["0", "9", "1", "10", "0"];
        check_damage(&mut client, "i", damaged, &format!("{server:?}"));
        let counts = client.rows("select rows_table, rows_index from rektor.verify_index('i')");
        assert_eq!(counts, [[Some("91".to_owned()), Some("91".to_owned())]]);
    }
}

#[test]
fn any_driver_can_ask() {
    let rektor = with_index(Server::Pg16);
    let mut wire = rektor.connect();
    // Described before it runs, its name a parameter, twice.
    let sql = "select index_name, missing from rektor.verify_index($1)";
    let frames = wire.roundtrip(&[parse("s", sql, &[]), describe(b'S', "s"), sync()].concat());
    assert_eq!(shape(&frames), "1tTZ");
    for _ in 0..2 {
        let bind = crate::harness::message::bind("", "s", &[], &[Some(b"i")], &[]);
        let frames = wire.roundtrip(&[bind, describe(b'P', ""), execute("", 0), sync()].concat());
        assert_eq!(shape(&frames), "2TDCZ", "{frames:?}");
    }
    // Among other statements, in their order, in a transaction.
    let frames = wire.roundtrip(&query(
        "begin; select 1; select missing from rektor.verify_index('i'); commit",
    ));
    assert_eq!(shape(&frames), "CTDCTDCCZ", "{frames:?}");
    wire.run("begin; declare c cursor for select 1");
    let frames = wire.roundtrip(&extended(
        "select missing from rektor.verify_index('i')",
        &[],
        &[],
    ));
    assert_eq!(shape(&frames), "1tT2TDCZ", "{frames:?}");
    wire.run("commit");

    // What cannot be verified.
    let database = rektor.database.clone();
    for (sql, sqlstate) in [
        ("select * from rektor.verify_index('nothing')", "42704"),
        ("select * from rektor.verify_index('other.i')", "42704"),
        ("select * from rektor.verify_index('a.b.c')", "42601"),
        (
            "select * from rektor.stat_indexes i, rektor.verify_index(i.index_name)",
            "0A000",
        ),
    ] {
        let frames = wire.roundtrip(&query(sql));
        assert_eq!(
            frames[frames.len() - 2].field(b'C').as_deref(),
            Some(sqlstate),
            "{sql}: {frames:?}"
        );
        let frames = wire.roundtrip(&extended(sql, &[], &[]));
        assert_eq!(
            frames[frames.len() - 2].field(b'C').as_deref(),
            Some(sqlstate),
            "{sql}: {frames:?}"
        );
    }
    let mut direct = database.connect();
    let frames = direct.roundtrip(&query("select * from rektor.verify_index('i')"));
    let error = &frames[frames.len() - 2];
    assert_eq!(error.field(b'C').as_deref(), Some("55000"));
    assert_eq!(
        error.field(b'H').as_deref(),
        Some("Connect through Rektor.")
    );

    // Only who may read every row.
    direct.run("drop role if exists verify_reader, verify_stranger");
    direct.run("create role verify_reader login; create role verify_stranger login; grant select on t to verify_reader");
    let ask = |user: &str| {
        let frames = rektor
            .connect_as(user)
            .roundtrip(&query("select missing from rektor.verify_index('i')"));
        frames
            .iter()
            .find(|frame| frame.tag == b'E')
            .and_then(|frame| frame.field(b'C'))
    };
    assert_eq!(ask("verify_reader"), None);
    assert_eq!(ask("verify_stranger").as_deref(), Some("42501"));
    direct.run("alter table t enable row level security; create policy p on t using (id < 5)");
    assert_eq!(ask("verify_reader").as_deref(), Some("42501"));
    assert_eq!(ask("postgres"), None);
    direct.run("drop policy p on t; alter table t disable row level security; drop owned by verify_reader, verify_stranger; drop role verify_reader, verify_stranger");
}

#[test]
fn it_waits_for_nothing_that_cannot_come_and_can_be_cancelled() {
    let rektor = with_index(Server::Pg18);
    let mut holder = rektor.database.connect();
    // The table cannot be read while this is open.
    holder.run("begin; lock table t in access exclusive mode");
    let mut wire = rektor.connect();
    wire.send(&query("select * from rektor.verify_index('i')"));
    let held = "select 1 from pg_locks where not granted and relation = 't'::regclass";
    let mut watcher = rektor.database.connect();
    wait_for("the comparison to wait", Duration::from_secs(20), || {
        (!watcher.rows(held).is_empty()).then_some(())
    });
    wire.cancel();
    let frames = wire.read_until(b'Z');
    assert_eq!(
        frames[0].field(b'C').as_deref(),
        Some("57014"),
        "{frames:?}"
    );
    holder.run("rollback");
    assert_eq!(verify(&mut wire, "i"), ["0", "0", "0", "0", "0"]);
}

#[test]
fn an_index_that_is_not_complete_cannot_be_verified() {
    // Its own server: the copy waits for every transaction of it.
    let cluster = Cluster::start(Server::Plain);
    let database = cluster.database();
    let mut wire = database.connect();
    wire.run("create table t (id int primary key, v real[], price int)");
    wire.run(&format!("insert into t {}", rows(Server::Plain, 0, 20)));
    let rektor = Rektor::start(&database);
    let mut holder = database.connect();
    holder.run("begin; select pg_current_xact_id()");
    let mut client = rektor.connect();
    client.run(&create_index(Server::Plain));
    let error = client
        .try_rows("select * from rektor.verify_index('i')")
        .unwrap_err();
    assert_eq!(error.field(b'C').as_deref(), Some("55000"), "{error:?}");
    assert!(
        error
            .field(b'M')
            .is_some_and(|text| text.contains("not complete")),
        "{error:?}"
    );
    holder.run("commit");
    rektor.wait_ready("i");
    assert_eq!(verify(&mut client, "i"), ["0", "0", "0", "0", "0"]);
}

#[test]
fn a_large_transaction_does_not_disturb_it() {
    let rektor = with_index(Server::Pg16);
    let mut wire = rektor.connect();
    let mut writer = rektor.database.connect();
    // The stream carries all columns: this is more than the applier gets at once, and the index reads it from the journal.
    writer.run("alter table t add note text");
    let fill = std::thread::spawn(move || {
        writer.run("insert into t select n, array[n % 7, n % 11, 1]::real[]::vector, n, repeat('x', 2000) from generate_series(10001, 60000) n");
        writer.run("update t set price = -price where id > 10000");
    });
    while !fill.is_finished() {
        assert_eq!(verify(&mut wire, "i")[..4], ["0", "0", "0", "0"]);
    }
    fill.join().unwrap();
    assert_eq!(verify(&mut wire, "i"), ["0", "0", "0", "0", "0"]);
}
