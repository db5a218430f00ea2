//! What a single statement cannot show: portals, pipelines, errors inside them, COPY that fails, FunctionCall, cancels,
//! notifications while idle, and messages larger than any buffer.

use std::fmt::Write;
use std::time::Duration;

use super::compare::{Copies, Pair};
use crate::harness::message::{
    bind, close, copy_data, copy_done, copy_fail, describe, execute, extended, flush,
    function_call, parse, query, sync,
};
use crate::harness::{Frame, Server, Wire, wait_for};

const INT4: u32 = 23;
const TEXT: u32 = 25;

/// A label, the messages, and how many ReadyForQuery answer them.
type Exchange = (&'static str, Vec<Vec<u8>>, usize);

fn exchanges() -> Vec<Exchange> {
    let five = 5i32.to_be_bytes();
    let many = "select id, name from item order by id";
    let by_id = "select * from item where id = $1";
    vec![
        (
            "parameter as text",
            vec![extended(by_id, &[Some(b"5")], &[])],
            1,
        ),
        ("parameter of NULL", vec![extended(by_id, &[None], &[1])], 1),
        (
            "parameter in binary, declared type",
            vec![
                parse("", by_id, &[INT4]),
                describe(b'S', ""),
                bind("", "", &[1], &[Some(&five)], &[1]),
                execute("", 0),
                sync(),
            ],
            1,
        ),
        (
            "parameter of the wrong width",
            vec![
                parse("", by_id, &[INT4]),
                bind("", "", &[1], &[Some(&[0, 5])], &[1]),
                execute("", 0),
                sync(),
            ],
            1,
        ),
        (
            "a format per column",
            vec![
                parse("", by_id, &[]),
                bind("", "", &[0], &[Some(b"5")], &[0, 1, 0, 1, 0, 1]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ],
            1,
        ),
        (
            "formats of a wrong number",
            vec![
                parse("", by_id, &[]),
                bind("", "", &[0, 0], &[Some(b"5")], &[0, 1]),
                execute("", 0),
                sync(),
            ],
            1,
        ),
        ("too few parameters", vec![extended(by_id, &[], &[])], 1),
        (
            "named statement, executed twice, closed",
            vec![
                parse("s1", "select $1::int + $2::int as sum", &[]),
                describe(b'S', "s1"),
                sync(),
                bind("", "s1", &[], &[Some(b"1"), Some(b"2")], &[]),
                execute("", 0),
                sync(),
                bind("", "s1", &[], &[Some(b"3"), Some(b"4")], &[1]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
                close(b'S', "s1"),
                sync(),
                bind("", "s1", &[], &[Some(b"3"), Some(b"4")], &[1]),
                execute("", 0),
                sync(),
            ],
            5,
        ),
        (
            "a statement's name taken twice",
            vec![
                parse("s2", "select 1", &[]),
                parse("s2", "select 2", &[]),
                sync(),
                parse("", "select 3", &[]),
                parse("", "select 4", &[]),
                bind("", "", &[], &[], &[]),
                execute("", 0),
                sync(),
                close(b'S', "s2"),
                close(b'S', "never"),
                sync(),
            ],
            3,
        ),
        (
            "portal fetched in parts",
            vec![
                parse("", many, &[]),
                bind("p", "", &[], &[], &[]),
                describe(b'P', "p"),
                execute("p", 3),
                execute("p", 2),
                flush(),
                execute("p", 0),
                execute("p", 1),
                close(b'P', "p"),
                sync(),
            ],
            1,
        ),
        (
            "portal gone after Sync",
            vec![
                parse("", many, &[]),
                bind("p", "", &[], &[], &[]),
                execute("p", 3),
                sync(),
                execute("p", 2),
                sync(),
            ],
            2,
        ),
        (
            "portals kept by a transaction, interleaved",
            vec![
                query("begin"),
                parse("", many, &[]),
                bind("a", "", &[], &[], &[]),
                bind("b", "", &[], &[], &[1]),
                execute("a", 2),
                execute("b", 2),
                sync(),
                execute("a", 2),
                execute("b", 1),
                sync(),
                bind("a", "", &[], &[], &[]),
                sync(),
                query("rollback"),
                execute("b", 1),
                sync(),
            ],
            6,
        ),
        (
            "max_rows an exact multiple, one, and negative",
            vec![
                parse("", "select generate_series(1, 4)", &[]),
                bind("", "", &[], &[], &[]),
                execute("", 2),
                execute("", 2),
                execute("", 2),
                sync(),
                bind("", "", &[], &[], &[]),
                execute("", 1),
                sync(),
                bind("", "", &[], &[], &[]),
                execute("", -5),
                sync(),
            ],
            3,
        ),
        (
            "max_rows of a data change",
            vec![
                parse("", "update account set balance = balance returning id", &[]),
                bind("", "", &[], &[], &[]),
                execute("", 2),
                execute("", 100),
                sync(),
            ],
            1,
        ),
        (
            "an error skips to Sync",
            vec![
                parse("", "select 1 / $1::int", &[]),
                bind("", "", &[], &[Some(b"0")], &[]),
                execute("", 0),
                parse("", "select 2", &[]),
                bind("", "", &[], &[], &[]),
                execute("", 0),
                sync(),
                bind("", "", &[], &[Some(b"1")], &[]),
                execute("", 0),
                sync(),
            ],
            2,
        ),
        (
            "an error in Parse, in Bind, in Describe",
            vec![
                parse("", "selec", &[]),
                describe(b'S', ""),
                sync(),
                parse("", "select $1::int", &[]),
                sync(),
                bind("", "", &[], &[Some(b"x")], &[]),
                sync(),
                describe(b'S', "none"),
                sync(),
                describe(b'P', "none"),
                sync(),
                execute("none", 0),
                sync(),
            ],
            6,
        ),
        (
            "a pipeline of ten, one Sync each",
            (0..10)
                .map(|n| extended(&format!("select {n}, $1::text"), &[Some(b"x")], &[]))
                .collect(),
            10,
        ),
        (
            "a pipeline under one Sync: insert, read, delete",
            vec![
                parse("", "insert into account values (700, 1)", &[]),
                bind("", "", &[], &[], &[]),
                execute("", 0),
                parse("", "select count(*) from account where id = 700", &[]),
                bind("", "", &[], &[], &[]),
                execute("", 0),
                parse("", "delete from account where id = 700", &[]),
                bind("", "", &[], &[], &[]),
                execute("", 0),
                sync(),
            ],
            1,
        ),
        (
            "a pipeline rolled back by its last statement",
            vec![
                parse("", "insert into account values (701, 1)", &[]),
                bind("", "", &[], &[], &[]),
                execute("", 0),
                parse("", "select 1 / 0", &[]),
                bind("", "", &[], &[], &[]),
                execute("", 0),
                sync(),
                query("select count(*) from account where id = 701"),
            ],
            2,
        ),
        (
            "simple and extended mixed, unnamed statement lost",
            vec![
                parse("", "select 1", &[]),
                sync(),
                query("select 2"),
                bind("", "", &[], &[], &[]),
                execute("", 0),
                sync(),
            ],
            3,
        ),
        (
            "the empty query extended",
            vec![
                parse("", "", &[]),
                describe(b'S', ""),
                bind("", "", &[], &[], &[]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ],
            1,
        ),
        (
            "two statements in Parse",
            vec![parse("", "select 1; select 2", &[]), sync()],
            1,
        ),
        (
            "BEGIN, failure, COMMIT extended",
            ["begin", "select 1 / 0", "select 1", "commit"]
                .iter()
                .map(|sql| extended(sql, &[], &[]))
                .collect(),
            4,
        ),
        (
            "Sync alone, twice; Flush alone",
            vec![sync(), flush(), sync()],
            2,
        ),
        (
            "named statement over DDL: changed result type",
            vec![
                query("create table shape (a int); insert into shape values (1)"),
                parse("shape", "select * from shape", &[]),
                bind("", "shape", &[], &[], &[]),
                execute("", 0),
                sync(),
                query("alter table shape add column b int"),
                bind("", "shape", &[], &[], &[]),
                execute("", 0),
                sync(),
                close(b'S', "shape"),
                query("drop table shape"),
                sync(),
            ],
            6,
        ),
        (
            "PREPARE and protocol-level statements share names",
            vec![
                query("prepare shared as select 1"),
                bind("", "shared", &[], &[], &[]),
                execute("", 0),
                sync(),
                parse("mine", "select 2", &[]),
                sync(),
                query("execute mine"),
                query("deallocate shared"),
                query("deallocate mine"),
                bind("", "mine", &[], &[], &[]),
                execute("", 0),
                sync(),
            ],
            7,
        ),
        (
            "DEALLOCATE ALL and DISCARD ALL",
            vec![
                parse("gone", "select 1", &[]),
                sync(),
                query("deallocate all"),
                bind("", "gone", &[], &[], &[]),
                sync(),
                parse("gone", "select 1", &[]),
                sync(),
                query("discard all"),
                describe(b'S', "gone"),
                sync(),
            ],
            6,
        ),
        (
            "a cursor in SQL executed as a portal",
            vec![
                query("begin"),
                query("declare c cursor for select id from item order by id"),
                execute("c", 2),
                describe(b'P', "c"),
                sync(),
                query("fetch 2 from c"),
                query("rollback"),
            ],
            5,
        ),
        (
            "FunctionCall",
            vec![
                function_call(745, &[]),
                function_call(481, &["5"]),
                function_call(1, &[]),
                function_call(141, &["6", "7"]),
            ],
            4,
        ),
        (
            "declared types that fit and that do not",
            vec![
                parse("", "select $1 + $2", &[INT4, INT4]),
                describe(b'S', ""),
                sync(),
                parse("", "select $1 + $2", &[TEXT, INT4]),
                sync(),
                parse("", "select $1, $3", &[0, INT4]),
                describe(b'S', ""),
                sync(),
            ],
            3,
        ),
        (
            "names with unusual characters",
            vec![
                parse("a \"b\" ü;", "select 1", &[]),
                bind("p'q", "a \"b\" ü;", &[], &[], &[]),
                execute("p'q", 0),
                close(b'S', "a \"b\" ü;"),
                sync(),
            ],
            1,
        ),
        (
            "names that are Rektor's own",
            vec![
                parse("rektor_1", "select 1", &[]),
                bind("rektor", "rektor_1", &[], &[], &[]),
                execute("rektor", 0),
                sync(),
                close(b'S', "rektor_1"),
                sync(),
            ],
            2,
        ),
    ]
}

#[test]
fn portals_pipelines_and_their_errors_are_the_same() {
    for server in Server::ALL {
        let copies = Copies::new(server);
        let mut pair = copies.sessions(&[]);
        for (label, messages, ready) in exchanges() {
            // all at once, as a pipeline sends them
            pair.exchange(
                &format!("{server:?}: {label}"),
                &messages.concat(),
                ready,
                b"",
            );
            pair.query("rollback; deallocate all");
        }
        let mut pair = copies.sessions(&[]);
        for (label, messages, ready) in exchanges() {
            // and a byte at a time, so that no reader may count on whole messages
            let bytes = messages.concat();
            pair.compare(&format!("{server:?}, in small pieces: {label}"), |wire| {
                bytes.chunks(3).for_each(|piece| wire.send(piece));
                crate::harness::wire::exchange(wire, &sync(), ready + 1, b"")
            });
            pair.query("rollback; deallocate all");
        }
    }
}

/// A session on each copy of version 18.
fn pair_on_18() -> (Copies, Pair) {
    let copies = Copies::new(Server::Pg18);
    let pair = copies.sessions(&[]);
    (copies, pair)
}

#[test]
fn start_up_is_the_same() {
    let (copies, _) = pair_on_18();
    for parameters in [
        &[][..],
        &[("application_name", "me"), ("client_encoding", "LATIN1")],
        &[("options", "-c statement_timeout=5s -c my.own=1")],
        &[("datestyle", "ISO, DMY")],
    ] {
        let mut pair = copies.sessions(parameters);
        pair.compare("start-up", |wire| wire.startup.clone());
        pair.query("show statement_timeout");
        pair.query("select current_setting('my.own', true), current_setting('application_name')");
    }
    let refused = [
        vec![("user", "nobody_knows"), ("database", "postgres")],
        vec![("user", "postgres"), ("database", "not_there")],
        vec![
            ("user", "postgres"),
            ("database", "postgres"),
            ("no_such_setting", "1"),
        ],
        vec![
            ("user", "postgres"),
            ("database", "postgres"),
            ("work_mem", "x"),
        ],
        vec![("database", "postgres")],
    ];
    for parameters in refused {
        let attempt = |port| {
            Wire::connect(port, &parameters, "")
                .err()
                .map(|error| format!("{error:?}"))
        };
        let direct = attempt(copies.direct.cluster.port);
        assert!(direct.is_some(), "{parameters:?} was let in");
        assert_eq!(direct, attempt(copies.rektor.port), "{parameters:?}");
    }
}

#[test]
fn another_database_of_the_server_is_relayed() {
    let (copies, _) = pair_on_18();
    let mut wire = Wire::login(copies.rektor.port, "postgres", "template1");
    assert_eq!(wire.value("select current_database()"), "template1");
    assert_eq!(
        wire.roundtrip(&extended("select $1::int", &[Some(b"4")], &[]))
            .len(),
        8
    );
}

#[test]
fn sixty_five_thousand_parameters_are_the_same() {
    let (_copies, mut pair) = pair_on_18();
    let mut sql = "select count(*), sum(v) from unnest(array[".to_owned();
    for n in 1..=65_535 {
        write!(sql, "{}${n}::int", if n > 1 { "," } else { "" }).unwrap();
    }
    sql.push_str("]) v");
    let values: Vec<_> = (1..=65_535).map(|n: u32| n.to_string()).collect();
    let parameters: Vec<_> = values.iter().map(|value| Some(value.as_bytes())).collect();
    let frames = pair.exchange(
        "65,535 parameters",
        &extended(&sql, &parameters, &[]),
        1,
        b"",
    );
    let row = frames
        .iter()
        .find(|frame| frame.tag == b'D')
        .expect("a row");
    assert_eq!(
        row.texts(),
        [Some("65535".to_owned()), Some("2147450880".to_owned())]
    );
}

#[test]
fn large_messages_are_the_same() {
    let (_copies, mut pair) = pair_on_18();
    let big = "x".repeat(20_000_000);
    pair.exchange(
        "a large parameter",
        &extended("select length($1), md5($1)", &[Some(big.as_bytes())], &[]),
        1,
        b"",
    );
    pair.exchange(
        "a large value",
        &query("select repeat('y', 30000000)"),
        1,
        b"",
    );
    pair.exchange(
        "a large result",
        &query("select n, md5(n::text) from generate_series(1, 200000) n"),
        1,
        b"",
    );
    pair.exchange(
        "a large statement",
        &query(&format!("select length('{big}')")),
        1,
        b"",
    );
    pair.query("create table loaded (id int, v int)");
    let lines = "1001\t5\n".repeat(300_000);
    pair.exchange(
        "a large COPY",
        &query("copy loaded from stdin"),
        1,
        lines.as_bytes(),
    );
    pair.query("select count(*), sum(v) from loaded");
    pair.exchange("a large COPY out", &query("copy loaded to stdout"), 1, b"");
}

#[test]
fn copies_that_fail_are_the_same() {
    let (_copies, mut pair) = pair_on_18();
    let start = |sql: &str| query(sql);
    let cases: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        (
            "CopyFail",
            start("copy account from stdin"),
            [copy_data(b"900\t1\n"), copy_fail("changed my mind")].concat(),
        ),
        (
            "bad data",
            start("copy account from stdin"),
            [copy_data(b"901\tx\n"), copy_done()].concat(),
        ),
        (
            "missing column",
            start("copy account from stdin"),
            [copy_data(b"902\n"), copy_done()].concat(),
        ),
        (
            "duplicate key",
            start("copy account from stdin"),
            [copy_data(b"1\t1\n"), copy_done()].concat(),
        ),
        (
            "data in pieces",
            start("copy account from stdin"),
            [
                copy_data(b"90"),
                copy_data(b"3\t1"),
                copy_data(b"\n"),
                copy_done(),
            ]
            .concat(),
        ),
        (
            "Flush and Sync are ignored",
            start("copy account from stdin"),
            [copy_data(b"904\t1\n"), flush(), sync(), copy_done()].concat(),
        ),
        (
            "binary without header",
            start("copy account from stdin binary"),
            [copy_data(b"nonsense"), copy_done()].concat(),
        ),
        (
            "COPY between statements",
            start("select 1; copy account from stdin; select 2"),
            [copy_data(b"905\t1\n"), copy_done()].concat(),
        ),
    ];
    for (label, start, answer) in cases {
        pair.compare(label, |wire| {
            wire.send(&start);
            let mut frames = wire.read_until(b'G');
            wire.send(&answer);
            frames.extend(wire.read_until(b'Z'));
            frames
        });
        pair.query("select count(*) from account");
    }
}

#[test]
fn notifications_arrive_while_idle() {
    let (_copies, mut pair) = pair_on_18();
    pair.query("listen idle");
    pair.compare("a notification from another session", |wire| {
        let database = wire.value("select current_database()");
        Wire::login(Server::Pg18.shared().port, "postgres", &database).run("notify idle, 'hello'");
        vec![wire.read().unwrap()] // nothing was sent: it comes by itself
    });
    // in the middle of a transaction it waits for the end
    pair.query("begin");
    pair.compare("a notification during a transaction", |wire| {
        let database = wire.value("select current_database()");
        Wire::login(Server::Pg18.shared().port, "postgres", &database).run("notify idle, 'again'");
        wire.roundtrip(&query("commit"))
    });
}

#[test]
fn a_cancel_reaches_the_statement() {
    let (copies, mut pair) = pair_on_18();
    let running = |wire: &Wire| {
        let mut outside = Wire::login(copies.direct.cluster.port, "postgres", "postgres");
        let pid = wire.pid();
        wait_for("the statement to run", Duration::from_secs(10), || {
            let sql = format!(
                "select state from pg_stat_activity where pid = {pid} and query like '%pg_sleep%'"
            );
            (outside.column(&sql) == ["active"]).then_some(())
        });
    };
    for (label, bytes) in [
        ("simple", query("select pg_sleep(50)")),
        (
            "extended",
            extended("select pg_sleep($1)", &[Some(b"50")], &[]),
        ),
        (
            "in a pipeline",
            [
                extended("select pg_sleep(50)", &[], &[]),
                query("select 'after'"),
            ]
            .concat(),
        ),
    ] {
        let ready = if label == "in a pipeline" { 2 } else { 1 };
        let frames = pair.compare(label, |wire| {
            wire.send(&bytes);
            running(wire);
            wire.cancel();
            (0..ready)
                .flat_map(|_| wire.read_until(b'Z'))
                .collect::<Vec<Frame>>()
        });
        let error = frames
            .iter()
            .find(|frame| frame.tag == b'E')
            .expect("an error");
        assert_eq!(error.field(b'C').as_deref(), Some("57014"), "{label}");
    }
    pair.compare("a cancel of an idle session does nothing", |wire| {
        wire.cancel();
        wire.roundtrip(&query("select 1"))
    });
}

#[test]
fn the_end_of_a_session_is_the_same() {
    let (copies, mut pair) = pair_on_18();
    // terminated by an administrator, while idle: FATAL, then the end
    pair.compare("pg_terminate_backend", |wire| {
        let pid = wire.pid();
        Wire::login(copies.direct.cluster.port, "postgres", "postgres")
            .run(&format!("select pg_terminate_backend({pid})"));
        let fatal = wire.read().unwrap();
        assert!(wire.read().is_err(), "the connection stays open");
        vec![fatal]
    });
    // a message that is no message
    let mut pair = copies.sessions(&[]);
    pair.compare("an unknown message type", |wire| {
        wire.send(b"!\0\0\0\x04");
        let fatal = wire.read().unwrap();
        assert!(wire.read().is_err(), "the connection stays open");
        vec![fatal]
    });
    let mut pair = copies.sessions(&[]);
    pair.compare("a query in the middle of COPY", |wire| {
        wire.send(&query("copy account from stdin"));
        let mut frames = wire.read_until(b'G');
        wire.send(&query("select 1"));
        frames.extend(std::iter::from_fn(|| wire.read().ok()));
        frames
    });
    // Terminate ends the backend
    let pair = copies.sessions(&[]);
    let mut through = pair.through;
    let pid = through.pid();
    through.send(b"X\0\0\0\x04");
    let mut outside = copies.direct.connect();
    wait_for("the backend to end", Duration::from_secs(10), || {
        let left = outside.value(&format!(
            "select count(*) from pg_stat_activity where pid = {pid}"
        ));
        (left == "0").then_some(())
    });
}
