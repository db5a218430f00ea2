//! What a person sees with SQL: indexes made and dropped, their state, how a statement is answered and why.

use std::time::Duration;

use crate::harness::message::{describe, execute, extended, parse, query, sync};
use crate::harness::{Frame, Rektor, Server, Wire, wait_for};
use crate::knn::fixture::Answered;

/// Rektor before a table of a thousand rows, without an index.
fn with_items(server: Server) -> Rektor<'static> {
    let database = server.shared().database();
    let mut wire = database.connect();
    let v = server.vector_type(3);
    let of_n = if server.has_pgvector() {
        "format('[%s,%s,1]', n, n % 10)::vector"
    } else {
        "array[n, n % 10, 1]::real[]"
    };
    wire.run(&format!("create table item (id int primary key, category int, v {v}, note text); insert into item select n, n % 5, {of_n}, 'n' || n from generate_series(1, 1000) n; analyze item"));
    Rektor::start(&database)
}

fn tags(frames: &[Frame]) -> Vec<String> {
    frames
        .iter()
        .filter(|frame| frame.tag == b'C')
        .map(Frame::command)
        .collect()
}

fn shape(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}

#[test]
fn index_statements_look_like_postgress_own() {
    for server in Server::ALL {
        let rektor = with_items(server);
        let mut wire = rektor.connect();
        let with = if server.has_pgvector() {
            ""
        } else {
            " with (dimensions = 3)"
        };
        let create = |name: &str| {
            format!(
                "create index {name} on item using faiss (v vector_l2_ops) include (category){with}"
            )
        };
        // simple
        let frames = wire.roundtrip(&query(&create("a")));
        assert_eq!(
            (shape(&frames).as_str(), tags(&frames)),
            ("CZ", vec!["CREATE INDEX".to_owned()]),
            "{frames:?}"
        );
        // extended: described as NoData
        let frames = wire.roundtrip(&extended(&create("b"), &[], &[]));
        assert_eq!(
            (shape(&frames).as_str(), tags(&frames)),
            ("1tn2nCZ", vec!["CREATE INDEX".to_owned()]),
            "{frames:?}"
        );
        // in a transaction, with other statements, rolled back
        let frames = wire.roundtrip(&query(&format!(
            "begin; {}; select 1; rollback",
            create("c")
        )));
        assert_eq!(
            tags(&frames),
            ["BEGIN", "CREATE INDEX", "SELECT 1", "ROLLBACK"]
        );
        let frames = wire.roundtrip(&query(&create("if not exists a")));
        assert_eq!(tags(&frames), ["CREATE INDEX"]);
        assert!(
            frames
                .iter()
                .any(|frame| frame.tag == b'N' && frame.field(b'C').as_deref() == Some("42P07")),
            "{frames:?}"
        );
        rektor.wait_ready("a");
        rektor.wait_ready("b");
        assert_eq!(
            wire.column("select index_name from rektor.stat_indexes order by 1"),
            ["a", "b"]
        );
        for (sql, tag) in [
            ("alter index a rename to a2", "ALTER INDEX"),
            ("alter index a2 set (ef_construction = 64)", "ALTER INDEX"),
            ("reindex index a2", "REINDEX"),
            ("drop index b", "DROP INDEX"),
            ("drop index if exists b", "DROP INDEX"),
            ("drop index a2, b2", ""),
            ("drop index a2", "DROP INDEX"),
        ] {
            let frames = wire.roundtrip(&query(sql));
            match tag {
                "" => assert_eq!(
                    frames[0].field(b'C').as_deref(),
                    Some("42704"),
                    "{sql}: {frames:?}"
                ),
                tag => assert_eq!(tags(&frames), [tag], "{sql}: {frames:?}"),
            }
        }
        wait_for("the indexes to be gone", Duration::from_secs(10), || {
            wire.column("select index_name from rektor.stat_indexes")
                .is_empty()
                .then_some(())
        });
        // an index of PostgreSQL's own keeps its statements
        for (sql, tag) in [
            ("create index own on item (category)", "CREATE INDEX"),
            ("alter index own rename to own2", "ALTER INDEX"),
            ("reindex index own2", "REINDEX"),
            ("drop index own2", "DROP INDEX"),
        ] {
            assert_eq!(tags(&wire.roundtrip(&query(sql))), [tag]);
        }
    }
}

#[test]
fn an_index_without_a_name_gets_postgress() {
    let rektor = with_items(Server::Pg18);
    let mut wire = rektor.connect();
    for _ in 0..2 {
        wire.run("create index on item using faiss (v vector_cosine_ops)");
    }
    rektor.wait_ready("item_v_idx");
    rektor.wait_ready("item_v_idx1");
    let sql = "select table_name, column_name, metric, method, rows, phase, percent, error from rektor.stat_indexes where index_name = 'item_v_idx'";
    let row = wire.rows(sql).remove(0);
    let row: Vec<_> = row.iter().map(Option::as_deref).collect();
    assert_eq!(
        row[1..7],
        [
            Some("v"),
            Some("cosine"),
            Some("hnsw"),
            Some("1000"),
            Some("ready"),
            Some("100")
        ]
    );
    assert!(
        row[0].is_some_and(|table| table.ends_with("item")),
        "{row:?}"
    );
    assert_eq!(row[7], None);
}

/// Whether the error of a statement has that SQLSTATE, in both protocols.
fn refused(wire: &mut Wire, sql: &str, state: &str) {
    for bytes in [query(sql), extended(sql, &[], &[])] {
        let frames = wire.roundtrip(&bytes);
        let error = frames
            .iter()
            .find(|frame| frame.tag == b'E')
            .unwrap_or_else(|| panic!("{sql} works: {frames:?}"));
        assert_eq!(
            error.field(b'C').as_deref(),
            Some(state),
            "{sql}: {error:?}"
        );
        assert!(
            error
                .field(b'M')
                .is_some_and(|message| !message.contains('\n')),
            "{error:?}"
        );
    }
}

#[test]
fn indexes_that_cannot_be_are_refused() {
    let rektor = with_items(Server::Pg18);
    let mut wire = rektor.connect();
    wire.run("create table keyless (id int, v vector(3)); create table dimensionless (id int primary key, v vector); create view item_view as select * from item");
    wire.run("create table by_numeric (id numeric primary key, v vector(3)); create table deferred (id int primary key deferrable, v vector(3))");
    wire.run("create temporary table passing (id int primary key, v vector(3)); create unlogged table unlogged (id int primary key, v vector(3))");
    wire.run("create index taken on item using faiss (v vector_l2_ops)");
    for (sql, state) in [
        (
            "create index on missing using faiss (v vector_l2_ops)",
            "42P01",
        ),
        (
            "create index on item using faiss (missing vector_l2_ops)",
            "42703",
        ),
        (
            "create index on item using faiss (note vector_l2_ops)",
            "42804",
        ),
        ("create index on item using faiss (v missing_ops)", "42704"),
        (
            "create index on item using faiss (v halfvec_l2_ops)",
            "42804",
        ),
        (
            "create index on item using faiss (v vector_l2_ops) include (missing)",
            "42703",
        ),
        (
            "create index on item using faiss (v vector_l2_ops) with (method = magic)",
            "22023",
        ),
        (
            "create index on item using faiss (v vector_l2_ops) with (m = 1)",
            "22023",
        ),
        (
            "create index on item using faiss (v vector_l2_ops) with (m = many)",
            "22023",
        ),
        (
            "create index on item using faiss (v vector_l2_ops) with (unknown = 1)",
            "22023",
        ),
        (
            "create index taken on item using faiss (v vector_l2_ops)",
            "42P07",
        ),
        (
            "create index item_pkey on item using faiss (v vector_l2_ops)",
            "42P07",
        ),
        (
            "create index on keyless using faiss (v vector_l2_ops)",
            "55000",
        ),
        (
            "create index on by_numeric using faiss (v vector_l2_ops)",
            "0A000",
        ),
        (
            "create index on deferred using faiss (v vector_l2_ops)",
            "55000",
        ),
        (
            "create index on dimensionless using faiss (v vector_l2_ops)",
            "22023",
        ),
        ("drop index missing", "42704"),
        ("alter index missing rename to other", "42P01"),
        ("reindex index missing", "42P01"),
    ] {
        refused(&mut wire, sql, state);
    }
    for sql in [
        "create index on item_view using faiss (v vector_l2_ops)",
        "create index on passing using faiss (v vector_l2_ops)",
        "create index on unlogged using faiss (v vector_l2_ops)",
        "create unique index on item using faiss (v vector_l2_ops)",
        "create index on item using faiss (v vector_l2_ops) where id > 5",
        "create index on item using faiss (v, id)",
        "create index on item using faiss (lower(note))",
        "create index on item using faiss (v desc)",
    ] {
        let error = wire.try_rows(sql).expect_err(sql);
        assert!(
            error
                .field(b'C')
                .is_some_and(|state| !state.starts_with("XX")),
            "{sql}: {error:?}"
        );
    }
    // whoever does not own the table may not index it
    wire.run("do $$ begin create role visitor login; exception when duplicate_object or unique_violation then null; end $$; grant select on item to visitor");
    rektor.wait_ready("taken");
    let mut visitor = rektor.connect_as("visitor");
    for sql in [
        "create index on item using faiss (v vector_l2_ops)",
        "drop index taken",
        "alter index taken rename to mine",
        "reindex index taken",
    ] {
        let error = visitor.try_rows(sql).expect_err(sql);
        assert_eq!(
            error.field(b'C').as_deref(),
            Some("42501"),
            "{sql}: {error:?}"
        );
    }
    rektor.wait_ready("taken");
}

#[test]
fn explain_says_how_and_why() {
    for server in Server::ALL {
        let rektor = with_items(server);
        let with = if server.has_pgvector() {
            ""
        } else {
            " with (dimensions = 3)"
        };
        rektor.create_index(
            &format!("create index item_idx on item using faiss (v vector_l2_ops){with}"),
            "item_idx",
        );
        let mut wire = rektor.connect();
        let q = server.vector_text("1,2,3");
        let near = format!("select id from item order by v <-> '{q}' limit 5");
        let mut explain = |sql: &str| wire.column(sql).join("\n");
        let plan = explain(&format!("explain {near}"));
        for part in ["Rektor: nominate", "item_idx", "Candidates", "Lag"] {
            assert!(plan.contains(part), "{server:?}: no {part} in\n{plan}");
        }
        assert!(
            !explain(&format!("explain (format json) {near}")).contains("Rektor"),
            "only the text form is for people"
        );
        let analyzed = explain(&format!("explain (analyze, costs off) {near}"));
        assert!(
            analyzed.contains("actual") && analyzed.contains("Rektor: nominate"),
            "{analyzed}"
        );
        for (sql, reason) in [
            (format!("explain {near} for update"), "lock"),
            (
                format!(
                    "explain select id, count(*) over () from item order by v <-> '{q}' limit 5"
                ),
                "window",
            ),
            (
                format!(
                    "explain select distinct id, v <-> '{q}' from item order by v <-> '{q}' limit 5"
                ),
                "DISTINCT",
            ),
            (
                format!(
                    "explain select i.id from item i, generate_series(1, 2) j order by i.v <-> '{q}' limit 5"
                ),
                "table",
            ),
            (
                format!("explain select id from item order by v <=> '{q}' limit 5"),
                "index",
            ),
        ] {
            let plan = explain(&sql);
            let line = plan
                .lines()
                .find(|line| line.contains("Rektor"))
                .unwrap_or_else(|| panic!("{sql}:\n{plan}"));
            assert!(
                line.contains("relay") && line.to_lowercase().contains(&reason.to_lowercase()),
                "{sql}: {line}"
            );
        }
        // the same through the extended protocol, with the vector as a parameter
        let frames = wire.roundtrip(&extended(
            "explain select id from item order by v <-> $1 limit 5",
            &[Some(q.as_bytes())],
            &[],
        ));
        let lines: Vec<_> = frames
            .iter()
            .filter(|frame| frame.tag == b'D')
            .map(|frame| frame.texts()[0].clone().unwrap())
            .collect();
        assert!(lines.join("\n").contains("Rektor: nominate"), "{frames:?}");
        // inside transactions the reason tells
        wire.run("begin isolation level serializable");
        let plan = wire.column(&format!("explain {near}")).join("\n");
        assert!(
            plan.contains("relay (isolation level SERIALIZABLE)"),
            "{plan}"
        );
        wire.run("rollback");
        wire.run(&format!(
            "begin; insert into item values (5000, 1, '{q}', 'new')"
        ));
        let plan = wire.column(&format!("explain {near}")).join("\n");
        assert!(
            plan.contains("relay") || plan.contains("One-Time Filter"),
            "{plan}"
        );
        wire.run("rollback");
    }
}

#[test]
fn stat_views_answer_any_select() {
    let rektor = with_items(Server::Pg18);
    rektor.create_index(
        "create index item_idx on item using faiss (v vector_l2_ops)",
        "item_idx",
    );
    let mut wire = rektor.connect();
    assert_eq!(wire.value("select count(*) from rektor.stat_indexes s join pg_class c on c.oid = s.table_name::regclass"), "1");
    wire.run("create view watched as select index_name, rows from rektor.stat_indexes");
    // a prepared statement sees what is true when it runs
    wire.roundtrip(
        &[
            parse("stat", "select rows from rektor.stat_indexes", &[]),
            describe(b'S', "stat"),
            sync(),
        ]
        .concat(),
    );
    for extra in 1..4 {
        wire.run(&format!(
            "insert into item values ({}, 1, '[5,5,5]', 'x')",
            2000 + extra
        ));
        rektor.catch_up(&mut wire);
        wire.run("select id from item order by v <-> '[5,5,5]' limit 1"); // waits for the position
        let bytes = [
            crate::harness::message::bind("", "stat", &[], &[], &[]),
            execute("", 0),
            sync(),
        ]
        .concat();
        let frames = wire.roundtrip(&bytes);
        let row = frames
            .iter()
            .find(|frame| frame.tag == b'D')
            .expect("a row");
        assert_eq!(
            row.texts()[0].as_deref(),
            Some(&*(1000 + extra).to_string())
        );
    }
    let row = wire.rows("select slot_name, streaming, received_lsn, durable_lsn, applied_lsn, upstream_lsn, lag_bytes, error from rektor.stat_replication").remove(0);
    assert_eq!(
        (row[0].as_deref(), row[1].as_deref()),
        (Some(rektor.slot()), Some("t"))
    );
    assert!(
        row[2..7].iter().all(Option::is_some) && row[7].is_none(),
        "{row:?}"
    );
    wire.run("begin; drop table item; create table item (id bigint primary key, v vector(3)); create index item_idx on item using faiss (v vector_l2_ops); commit");
    let known = "select count(*) from rektor.stat_indexes s where not exists (select from rektor.index i where i.id = s.index_id)";
    assert_eq!(
        wire.value(known),
        "0",
        "what is dropped is not shown, and never as ready"
    );
    let error = rektor
        .database
        .connect()
        .try_rows("select * from rektor.stat_indexes")
        .expect_err("on a direct connection");
    assert!(
        format!("{error:?}")
            .to_lowercase()
            .contains("through rektor"),
        "{error:?}"
    );
}

/// `rektor.min_lsn` makes searches wait for a position that another session was told.
#[test]
fn a_position_can_be_waited_for() {
    let rektor = with_items(Server::Pg16);
    rektor.create_index(
        "create index item_idx on item using faiss (v vector_l2_ops)",
        "item_idx",
    );
    let mut wire = rektor.connect();
    let mut direct = rektor.database.connect();
    let before = Answered::now(&rektor);
    for n in 0..50 {
        direct.run(&format!(
            "insert into item values ({}, 1, '[{n},500,7]', 'x')",
            3000 + n
        ));
        rektor.require(&mut wire);
        assert_eq!(
            wire.column(&format!(
                "select id from item order by v <-> '[{n},500,7]' limit 1"
            )),
            [(3000 + n).to_string()]
        );
    }
    // Where the stream is late, as it may be beside other tests, PostgreSQL is asked.
    let after = Answered::now(&rektor);
    assert!(
        after.nominate - before.nominate > 25.0,
        "answered otherwise: {before:?} {after:?}"
    );
    for wrong in ["nonsense", "0/", ""] {
        wire.run(&format!("set rektor.min_lsn = '{wrong}'"));
        let result = wire.try_rows("select id from item order by v <-> '[1,500,7]' limit 1");
        assert!(
            result.is_ok()
                || result.is_err_and(|error| error.field(b'C').as_deref() == Some("22P02")),
            "min_lsn = {wrong}"
        );
    }
}

/// What Rektor asks on a session's behalf leaves no transaction open, whatever the client sends next.
#[test]
fn own_questions_leave_no_transaction_open() {
    for server in Server::ALL {
        let rektor = with_items(server);
        let with = if server.has_pgvector() {
            ""
        } else {
            " with (dimensions = 3)"
        };
        rektor.create_index(
            &format!("create index item_idx on item using faiss (v vector_l2_ops){with}"),
            "item_idx",
        );
        let q = server.vector_text("1,2,3");
        let near = format!(
            "select id from item where format('%s', id) <> '' order by v <-> '{q}' limit 5"
        );
        let mut other = rektor.database.connect();
        let asking = [
            "select index_name from rektor.stat_indexes".to_owned(),
            near.clone(),
            format!("explain {near}"),
            "set rektor.min_lsn = '0/1'".to_owned(),
        ];
        for (n, first) in asking.iter().enumerate() {
            for (simple_first, simple_second) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let mut wire = rektor.connect();
                let send = |simple: bool, sql: &str| {
                    if simple {
                        query(sql)
                    } else {
                        extended(sql, &[], &[])
                    }
                };
                let frames = wire.roundtrip(&send(simple_first, first));
                assert_eq!(
                    frames.last().unwrap().body,
                    b"I",
                    "{server:?} {first}: {frames:?}"
                );
                let note = format!("written {n} {simple_first} {simple_second}");
                let frames = wire.roundtrip(&send(
                    simple_second,
                    &format!("update item set note = '{note}' where id = 7"),
                ));
                assert_eq!(
                    frames.last().unwrap().body,
                    b"I",
                    "{server:?} after {first}: {frames:?}"
                );
                assert_eq!(
                    other.value("select note from item where id = 7"),
                    note,
                    "{server:?} after {first}: not committed"
                );
            }
        }
    }
}
