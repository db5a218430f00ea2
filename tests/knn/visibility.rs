//! Your own writes, every isolation level, and tables that change between two executions.

use super::fixture::{Answered, copies_with, query_vector};
use crate::harness::message::{bind, close, execute, extended, parse, query, sync};
use crate::harness::{Server, Wire};
use crate::relay::compare::{Copies, Pair};

/// The query vector moved a little: the rows of a test differ in their distances.
fn near(server: Server, seed: u64, steps: u16) -> String {
    let text = query_vector(server, seed);
    let components = text.trim_matches(['[', ']', '{', '}']).split(',');
    let mut components: Vec<f32> = components
        .map(|component| component.parse().unwrap())
        .collect();
    components[0] += f32::from(steps) / 4096.0;
    let components: Vec<_> = components.iter().map(f32::to_string).collect();
    server.vector_text(&components.join(","))
}

const NEAREST: &str = "select id, name from item order by embedding <-> $1 limit 4";

fn nearest(pair: &mut Pair, label: &str, vector: &str) {
    pair.exchange(
        label,
        &extended(NEAREST, &[Some(vector.as_bytes())], &[]),
        1,
        b"",
    );
    pair.query(&NEAREST.replace("$1", &format!("'{vector}'")));
}

/// Another session's write on both copies, and its own search: the index has applied the write after it.
fn elsewhere(copies: &Copies, vector: &str, sql: &str) {
    for mut wire in [copies.direct.connect(), copies.rektor.connect()] {
        wire.run(sql);
        let seen = wire.rows(&NEAREST.replace("$1", &format!("'{vector}'")));
        assert_eq!(seen.len(), 4);
    }
}

/// Every write that a session makes is in its next search, at once, in every isolation level.
#[test]
fn a_session_sees_its_own_writes() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2"]);
        let mut pair = copies.sessions(&[]);
        let v = query_vector(server, 31);
        let far = server.vector_text("90,90,90,90");
        let [a, b, c, d, e, f] = [1, 2, 3, 4, 5, 6].map(|steps| near(server, 31, steps));
        for write in [
            format!("insert into item values (10001, 1, 1, 'new', '{v}')"),
            format!("update item set embedding = '{far}' where id = 10001"),
            format!("update item set embedding = '{v}', id = 10002 where id = 10001"),
            "update item set name = 'renamed' where id = 10002".to_owned(),
            "delete from item where id = 10002".to_owned(),
            format!("begin; insert into item values (10003, 1, 1, 'new', '{a}')"),
            "rollback".to_owned(),
            format!(
                "begin; insert into item values (10004, 1, 1, 'new', '{b}'); savepoint s; delete from item where id = 10004; rollback to s"
            ),
            "commit".to_owned(),
            format!("do $$ begin insert into item values (10005, 1, 1, 'do', '{c}'); end $$"),
            format!(
                "with w as (insert into item values (10006, 1, 1, 'cte', '{d}') returning id) select * from w"
            ),
            format!("select 1; insert into item values (10007, 1, 1, 'multi', '{e}'); select 2"),
            "delete from item where id > 10000".to_owned(),
            "set synchronous_commit = off".to_owned(),
            format!("insert into item values (10008, 1, 1, 'async', '{f}')"),
            "delete from item where id > 10000; reset synchronous_commit".to_owned(),
            format!(
                "begin; set local synchronous_commit = off; insert into item values (10010, 1, 1, 'local', '{a}'); commit"
            ),
        ] {
            pair.query(&write);
            nearest(&mut pair, &format!("{server:?} after {write}"), &v);
        }
        let insert =
            |id, vector: &str| format!("insert into item values ({id}, 1, 1, 'async', '{vector}')");
        for queries in [
            &[
                "begin",
                "set local synchronous_commit = off",
                &insert(10011, &b),
                "commit",
            ][..],
            &[
                "begin",
                "set local synchronous_commit = off",
                "",
                &insert(10012, &c),
                "commit",
            ],
            &[
                "set synchronous_commit = off",
                &insert(10013, &d),
                "reset synchronous_commit",
            ],
        ] {
            for sql in queries {
                match *sql {
                    "" => nearest(&mut pair, "between", &v),
                    sql => drop(pair.query(sql)),
                }
            }
            nearest(&mut pair, &format!("{server:?} after {queries:?}"), &v);
        }
        let line = format!("10009\t1\t1\tcopied\t{v}\n");
        pair.exchange("copy", &query("copy item from stdin"), 1, line.as_bytes());
        nearest(&mut pair, "after COPY", &v);
        pair.query("delete from item where id > 10000");
    }
}

#[test]
fn truncate_is_seen_at_once() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2"]);
        let mut pair = copies.sessions(&[]);
        let v = query_vector(server, 32);
        pair.query("begin; truncate item");
        nearest(&mut pair, "in the transaction", &v);
        pair.query("rollback");
        nearest(&mut pair, "rolled back", &v);
        pair.query("truncate item");
        nearest(&mut pair, "truncated", &v);
        pair.query(&format!(
            "insert into item values (1, 1, 1, 'again', '{v}')"
        ));
        nearest(&mut pair, "filled again", &v);
    }
}

#[test]
fn isolation_levels_see_what_they_see() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2"]);
        let v = query_vector(server, 33);
        for level in [
            "read uncommitted",
            "read committed",
            "repeatable read",
            "serializable",
            "repeatable read read only",
            "serializable, read only, deferrable",
        ] {
            let mut pair = copies.sessions(&[]);
            pair.query(&format!("begin isolation level {level}"));
            nearest(&mut pair, &format!("{server:?} {level}, first"), &v);
            let insert = format!("insert into item values (11001, 1, 1, 'from outside', '{v}')");
            elsewhere(&copies, &v, &insert);
            nearest(
                &mut pair,
                &format!("{server:?} {level}, after an insert elsewhere"),
                &v,
            );
            elsewhere(&copies, &v, "delete from item where id = 11001");
            nearest(
                &mut pair,
                &format!("{server:?} {level}, after a delete elsewhere"),
                &v,
            );
            pair.query("commit");
            nearest(
                &mut pair,
                &format!("{server:?} {level}, after the commit"),
                &v,
            );
        }
    }
}

/// A REPEATABLE READ transaction whose first statement came before the rows it searches were deleted elsewhere.
#[test]
fn a_snapshot_taken_before_a_delete_still_finds_the_rows() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2"]);
        let v = query_vector(server, 34);
        let mut pair = copies.sessions(&[]);
        pair.query("begin isolation level repeatable read");
        pair.query("select count(*) from item");
        elsewhere(&copies, &v, "delete from item where category < 15");
        nearest(
            &mut pair,
            &format!("{server:?}: rows deleted elsewhere"),
            &v,
        );
        pair.query("commit");
        nearest(&mut pair, &format!("{server:?}: after the commit"), &v);
    }
}

/// What a transaction's snapshot is older than, whichever Queries brought it about: a row that is deleted elsewhere afterwards.
#[test]
fn every_statement_of_a_query_counts() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2"]);
        let v = query_vector(server, 38);
        for queries in [
            &["begin isolation level repeatable read; select 1"][..],
            &[
                "set default_transaction_isolation = 'repeatable read'",
                "begin; select 1",
            ],
            &[
                "begin",
                "",
                "commit; begin isolation level repeatable read",
                "select count(*) from item",
            ],
            &[
                "begin",
                "",
                "rollback; begin isolation level repeatable read",
                "select count(*) from item",
            ],
            &[
                "begin isolation level repeatable read; select 1; savepoint s",
                "rollback to s",
            ],
            &[
                "begin isolation level repeatable read; select 1; savepoint s",
                "select 1 / 0; commit",
                "rollback to s",
            ],
        ] {
            let insert = format!("insert into item values (13001, 1, 1, 'doomed', '{v}')");
            elsewhere(&copies, &v, &insert);
            let mut pair = copies.sessions(&[]);
            for sql in queries {
                match *sql {
                    "" => nearest(&mut pair, "what is known before", &v),
                    sql => drop(pair.query(sql)),
                }
            }
            elsewhere(&copies, &v, "delete from item where id = 13001");
            nearest(
                &mut pair,
                &format!("{server:?}: deleted after {queries:?}"),
                &v,
            );
            pair.query("commit");
        }
        let mut wire = copies.rektor.connect();
        let search = NEAREST.replace("$1", &format!("'{v}'"));
        wire.run("begin");
        wire.run(&search);
        wire.run("commit; set rektor.recall_target = 0.5");
        let plan = wire.column(&format!("explain {search}"));
        assert!(
            plan.iter().any(|line| line.contains("recall_target 0.5")),
            "{plan:?}"
        );
    }
}

/// A snapshot of another session's, imported by the Query that opens the transaction.
#[test]
fn an_imported_snapshot_finds_rows_deleted_since() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2"]);
        let v = query_vector(server, 39);
        let mut pair = copies.sessions(&[]);
        let mut exporters = [copies.direct.connect(), copies.rektor.connect()];
        let snapshots = exporters.each_mut().map(|exporter| {
            exporter.run("begin isolation level repeatable read");
            exporter.value("select pg_export_snapshot()")
        });
        elsewhere(&copies, &v, "delete from item where category < 15");
        for (wire, snapshot) in [&mut pair.direct, &mut pair.through]
            .into_iter()
            .zip(snapshots)
        {
            wire.run(&format!(
                "begin isolation level repeatable read; set transaction snapshot '{snapshot}'"
            ));
        }
        nearest(&mut pair, &format!("{server:?}: an imported snapshot"), &v);
    }
}

/// Write skew that PostgreSQL finds under SERIALIZABLE is found through Rektor as well.
#[test]
fn write_skew_is_found_under_serializable() {
    let server = Server::Pg18;
    let copies = copies_with(server, &["item_l2"]);
    let v = query_vector(server, 35);
    let outcome = |connect: &dyn Fn() -> Wire| {
        let (mut a, mut b) = (connect(), connect());
        for wire in [&mut a, &mut b] {
            wire.run("begin isolation level serializable");
            wire.rows(&NEAREST.replace("$1", &format!("'{v}'")));
        }
        a.run(&format!(
            "insert into item values (12001, 1, 1, 'a', '{v}')"
        ));
        b.run(&format!(
            "insert into item values (12002, 1, 1, 'b', '{v}')"
        ));
        let codes = [a.try_rows("commit"), b.try_rows("commit")];
        codes.map(|result| result.err().and_then(|error| error.field(b'C')))
    };
    let direct = outcome(&|| copies.direct.connect());
    assert!(
        direct.contains(&Some("40001".to_owned())),
        "the direct sessions do not conflict"
    );
    assert_eq!(direct, outcome(&|| copies.rektor.connect()));
}

/// DDL between two executions of one prepared statement: PostgreSQL's error, or its new columns.
#[test]
fn a_table_changed_between_two_executions() {
    for server in Server::ALL {
        let changes = [
            (
                "select * from item order by embedding <-> $1 limit 4",
                "alter table item add column more int default 3",
            ),
            (
                "select id, name from item order by embedding <-> $1 limit 4",
                "alter table item add column more int default 3",
            ),
            (
                "select id, name from item order by embedding <-> $1 limit 4",
                "alter table item rename column name to label",
            ),
            (
                "select id from item order by embedding <-> $1 limit 4",
                "alter table item rename column id to key",
            ),
            (
                "select id from item order by embedding <-> $1 limit 4",
                "alter table item alter column id type bigint",
            ),
            (
                "select id from item order by embedding <-> $1 limit 4",
                "alter table item drop constraint item_pkey cascade",
            ),
            (
                "select id from item order by embedding <-> $1 limit 4",
                "alter table item rename to item2; create table item (id int, embedding text)",
            ),
            (
                "select id from item order by embedding <-> $1 limit 4",
                "drop table item cascade",
            ),
            (
                "select id from item order by embedding <-> $1 limit 4",
                "alter table item rename column embedding to old; alter table item rename column category to embedding",
            ),
        ];
        // the later ones are about Rektor's own bookkeeping, the same on every server
        let most = if server == Server::Pg18 {
            changes.len()
        } else {
            2
        };
        for (prepared, change) in &changes[..most] {
            let copies = copies_with(server, &["item_l2"]);
            let mut pair = copies.sessions(&[]);
            let v = query_vector(server, 36);
            let run = [
                bind("", "kept", &[], &[Some(v.as_bytes())], &[]),
                execute("", 0),
                sync(),
            ]
            .concat();
            pair.exchange(
                "parse",
                &[parse("kept", prepared, &[]), sync()].concat(),
                1,
                b"",
            );
            for _ in 0..3 {
                pair.exchange("before", &run, 1, b"");
            }
            pair.query(change);
            let label = format!("{server:?}: {prepared} after {change}");
            for _ in 0..3 {
                pair.exchange(&label, &run, 1, b"");
            }
            pair.exchange(
                "anew",
                &[close(b'S', "kept"), parse("kept", prepared, &[]), sync()].concat(),
                1,
                b"",
            );
            pair.exchange(&label, &run, 1, b"");
        }
    }
}

/// While the index does not serve, searches still answer; and again after it is dropped.
#[test]
fn searches_answer_whatever_the_index_does() {
    let server = Server::Pg18;
    let copies = copies_with(server, &["item_l2"]);
    let mut pair = copies.sessions(&[]);
    let v = query_vector(server, 37);
    for ddl in [
        "reindex index item_l2",
        "drop index item_l2",
        "create index item_l2 on item using faiss (embedding vector_l2_ops)",
    ] {
        copies.rektor.connect().run(ddl);
        nearest(&mut pair, ddl, &v);
    }
    copies.rektor.wait_ready("item_l2");
    let before = Answered::now(&copies.rektor);
    nearest(&mut pair, "ready again", &v);
    assert_eq!(
        Answered::now(&copies.rektor).nominate - before.nominate,
        2.0
    );
}
