//! Single k-NN statements, each simple, extended with results in text and in binary, and prepared once and executed until
//! its plan is generic: frames as PostgreSQL gives them with an exact scan, and answered the way they should be.

use std::collections::HashMap;

use super::cases::Way::{self, Any, Exact, Nominate, Relay};
use super::cases::{CASES, QUERIES, VECTOR_CASES};
use super::fixture::{Answered, copies, copies_with, query_vector};
use crate::harness::message::{bind, close, describe, execute, extended, parse, query, sync};
use crate::harness::{Frame, Server};
use crate::relay::compare::{Copies, Pair};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Protocol {
    Simple,
    Text,
    Binary,
    /// Prepared once, executed this often.
    Prepared(usize),
}

fn literal(value: &str) -> String {
    match value.parse::<i64>() {
        Ok(_) => value.to_owned(),
        Err(_) => format!("'{value}'"),
    }
}

pub(super) fn messages(protocol: Protocol, sql: &str, parameters: &[&str]) -> (Vec<u8>, usize) {
    // a driver declares no more parameters than the statement has
    let used = (1..=parameters.len())
        .filter(|n| sql.contains(&format!("${n}")))
        .count();
    let values: Vec<_> = parameters[..used]
        .iter()
        .map(|value| Some(value.as_bytes()))
        .collect();
    match protocol {
        Protocol::Simple => {
            let mut text = sql.to_owned();
            for (n, value) in parameters.iter().enumerate() {
                text = text.replace(&format!("${}", n + 1), &literal(value));
            }
            (query(&text), 1)
        }
        Protocol::Text => (extended(sql, &values, &[]), 1),
        Protocol::Binary => (extended(sql, &values, &[1]), 1),
        Protocol::Prepared(times) => {
            let mut bytes = [parse("named", sql, &[]), describe(b'S', "named"), sync()].concat();
            for _ in 0..times {
                bytes.extend(bind("", "named", &[], &values, &[]));
                bytes.extend([execute("", 0), sync()].concat());
            }
            bytes.extend([close(b'S', "named"), sync()].concat());
            (bytes, times + 2)
        }
    }
}

/// Runs all cases; the failures of expectation are gathered, so that one run shows them all.
fn answers_are_exact(server: Server, protocol: Protocol) {
    let copies = copies(server);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let mut wrong = Vec::new();
    let vector_cases = if server.has_pgvector() {
        VECTOR_CASES
    } else {
        &[]
    };
    for (n, (sql, more, way)) in CASES.iter().chain(vector_cases).enumerate() {
        let vector = query_vector(server, 1000 + u64::try_from(n).unwrap());
        let parameters = [&[&vector[..]], *more].concat();
        let (bytes, ready) = messages(protocol, sql, &parameters);
        let before = Answered::now(&copies.rektor);
        let label = format!("{server:?} {protocol:?}: {sql}");
        pair.exchange(&label, &bytes, ready, b"");
        let after = Answered::now(&copies.rektor);
        let times = if let Protocol::Prepared(times) = protocol {
            times
        } else {
            1
        };
        if let Some(problem) = unexpected(*way, before, after, times) {
            wrong.push(format!("{sql}: {problem}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{server:?} {protocol:?}: not answered as expected\n{}",
        wrong.join("\n")
    );
}

/// Searches so wide that they miss nothing: these tests compare answers, not recall. And pages so dear that finding a few rows
/// is never cheap: otherwise PostgreSQL is asked for them at once.
pub(super) fn widen(pair: &mut Pair, server: Server) {
    if server.has_pgvector() {
        pair.query("load 'vector'");
    }
    // Such costs would have everything compiled.
    pair.query("set hnsw.ef_search = 1000; set seq_page_cost = 1e6; set random_page_cost = 1e6; set jit = off");
}

/// Tries at a statement: where the stream is late, as it may be beside other tests, PostgreSQL is asked.
pub(super) const TRIES: usize = 5;

/// Each condition, with its parameters after the query vector, in a statement of either limit: the rows that exact SQL gives,
/// from the index, and every time.
pub(super) fn nominated(
    copies: &Copies,
    pair: &mut Pair,
    protocol: Protocol,
    conditions: &[(&str, &[&str])],
    limits: [usize; 2],
    statement: impl Fn(&str, usize) -> String,
) {
    let server = copies.direct.cluster.server;
    let mut wrong = Vec::new();
    for (n, (condition, more)) in conditions.iter().enumerate() {
        let vector = query_vector(server, 3_000 + n as u64);
        for limit in limits {
            let sql = statement(condition, limit);
            let parameters = [&[&vector[..]], *more].concat();
            let (bytes, ready) = messages(protocol, &sql, &parameters);
            let label = format!("{server:?} {protocol:?}: {sql}");
            let was_nominated = (0..TRIES).any(|_| {
                let before = Answered::now(&copies.rektor);
                pair.exchange(&label, &bytes, ready, b"");
                let after = Answered::now(&copies.rektor);
                let as_wanted = after.nominate > before.nominate
                    && after.exact <= before.exact
                    && after.relay <= before.relay;
                if !as_wanted {
                    copies.rektor.catch_up(&mut copies.rektor.connect());
                }
                as_wanted
            });
            if !was_nominated {
                wrong.push(sql);
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{server:?}: not answered by nominating\n{}",
        wrong.join("\n")
    );
}

fn unexpected(way: Way, before: Answered, after: Answered, times: usize) -> Option<String> {
    let times = f64::from(u32::try_from(times).unwrap());
    let nominated = after.nominate - before.nominate;
    let exact = after.exact - before.exact;
    let fits = match way {
        Nominate => nominated == times && exact == 0.0,
        Exact => nominated == 0.0 && exact == times,
        Relay => nominated == 0.0 && exact == 0.0,
        Any => true,
    };
    (!fits)
        .then(|| format!("wanted {way:?} × {times}, got nominate × {nominated}, exact × {exact}"))
}

#[test]
fn simple_on_plain() {
    answers_are_exact(Server::Plain, Protocol::Simple);
}

#[test]
fn prepared_on_plain() {
    answers_are_exact(Server::Plain, Protocol::Prepared(2));
}

#[test]
fn simple_on_16() {
    answers_are_exact(Server::Pg16, Protocol::Simple);
}

#[test]
fn binary_on_16() {
    answers_are_exact(Server::Pg16, Protocol::Binary);
}

#[test]
fn simple_on_18() {
    answers_are_exact(Server::Pg18, Protocol::Simple);
}

#[test]
fn text_on_18() {
    answers_are_exact(Server::Pg18, Protocol::Text);
}

#[test]
fn binary_on_18() {
    answers_are_exact(Server::Pg18, Protocol::Binary);
}

#[test]
fn prepared_on_18() {
    answers_are_exact(Server::Pg18, Protocol::Prepared(7));
}

#[test]
fn odd_query_vectors_give_what_postgres_gives() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies_with(server, &["item_l2", "item_cosine", "item_ip", "item_l1"]);
        let mut pair = copies.sessions(&[]);
        for components in QUERIES {
            let vector = server.vector_text(components);
            for operator in ["<->", "<=>", "<#>", "<+>"] {
                let sql = format!(
                    "select id, embedding {operator} $1 as d from item order by embedding {operator} $1, id limit 5"
                );
                for protocol in [Protocol::Simple, Protocol::Text] {
                    let (bytes, ready) = messages(protocol, &sql, &[&vector]);
                    pair.exchange(
                        &format!("{server:?} {protocol:?} {operator} {vector}"),
                        &bytes,
                        ready,
                        b"",
                    );
                }
            }
        }
        let null = "select id from item order by embedding <-> $1, id limit 5";
        pair.exchange("a NULL query", &extended(null, &[None], &[]), 1, b"");
        pair.query("select id from item order by embedding <-> null, id limit 5");
    }
}

/// Without a tie-break any rows of a tie may come: the distances must be the same, and each row's distance its own.
#[test]
fn ties_without_a_tie_break_keep_their_distances() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies_with(server, &["tie_idx"]);
        let pair = copies.sessions(&[]);
        let (mut direct, mut through) = (pair.direct, pair.through);
        for limit in [1, 10, 30, 31, 100, 299, 300, 301] {
            let vector = query_vector(server, limit);
            let sql = format!(
                "select v <-> '{vector}', id from tie order by v <-> '{vector}' limit {limit}"
            );
            let (expected, got) = (direct.rows(&sql), through.rows(&sql));
            let distances = |rows: &[Vec<Option<String>>]| {
                rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>()
            };
            assert_eq!(
                distances(&expected),
                distances(&got),
                "{server:?} limit {limit}"
            );
            let own: HashMap<_, _> = direct
                .rows(&format!("select id, v <-> '{vector}' from tie"))
                .into_iter()
                .map(|mut row| (row.remove(0), row.remove(0)))
                .collect();
            let mut seen = std::collections::HashSet::new();
            for row in &got {
                assert_eq!(own[&row[1]], row[0], "a distance that is not the row's");
                assert!(seen.insert(row[1].clone()), "row {:?} came twice", row[1]);
            }
        }
    }
}

/// Statements of SQL that hold a k-NN search, and several in one query string.
#[test]
fn searches_inside_other_statements_are_the_same() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2"]);
        let mut pair = copies.sessions(&[]);
        widen(&mut pair, server);
        let v = query_vector(server, 5);
        let near = format!("select id from item order by embedding <-> '{v}' limit 5");
        let named = format!(
            "select name from item where category = $1 order by embedding <-> '{v}' limit 5"
        );
        for sql in [
            format!("{near}; {near}"),
            format!("select 1; {near}; select 2"),
            format!("{near}; select 1 / 0; {near}"),
            format!("begin; {near}; commit"),
            format!("begin; insert into plain values (5000, '{v}'); {near}; rollback"),
            format!(
                "insert into plain values (5001, '{v}'); select id from plain order by v <-> '{v}' limit 1; delete from plain where id > 5000"
            ),
            format!(
                "insert into item values (9001, 1, 1, 'new', '{v}'); {near}; delete from item where id = 9001"
            ),
            format!("create temporary table found as {near}"),
            "select * from found order by id".to_owned(),
            "drop table found".to_owned(),
            format!("copy ({near}) to stdout"),
            format!("begin; declare c cursor for {near}; fetch 2 from c; fetch all from c; commit"),
            format!("prepare p as {named}"),
            "execute p(3)".to_owned(),
            "execute p(4); execute p(5)".to_owned(),
            "deallocate p".to_owned(),
            format!(
                "do $$ begin perform id from item order by embedding <-> '{v}' limit 5; end $$"
            ),
            format!(
                "insert into plain select id + 6000, embedding from item order by embedding <-> '{v}' limit 5 returning id"
            ),
            "delete from plain where id > 6000".to_owned(),
            near.clone(),
        ] {
            pair.query(&sql);
        }
    }
}

/// All frames of a portal fetched in parts, at every size of part.
#[test]
fn portals_with_max_rows_are_the_same() {
    for server in Server::ALL {
        let copies: Copies = copies_with(server, &["item_l2"]);
        let mut pair = copies.sessions(&[]);
        widen(&mut pair, server);
        let v = query_vector(server, 6);
        for (limit, parts) in [
            (10, vec![3, 3, 3, 3, 3]),
            (10, vec![5, 5, 5]),
            (10, vec![10, 10]),
            (4, vec![1, 0, 0]),
            (6, vec![4, 100]),
            (0, vec![2]),
            (5000, vec![1000, 1500, 1000]),
        ] {
            let sql = format!("select id, name from item order by embedding <-> $1 limit {limit}");
            for results in [&[][..], &[1], &[1, 0]] {
                for begin in [false, true] {
                    let mut bytes = Vec::new();
                    let mut ready = 1;
                    if begin {
                        bytes.extend(query("begin"));
                        ready += 1;
                    }
                    bytes.extend(parse("", &sql, &[]));
                    bytes.extend(bind("c", "", &[], &[Some(v.as_bytes())], results));
                    bytes.extend(describe(b'P', "c"));
                    for part in &parts {
                        bytes.extend(execute("c", *part));
                        if begin {
                            bytes.extend(sync()); // the portal lives to the transaction's end
                            ready += 1;
                        }
                    }
                    bytes.extend(close(b'P', "c"));
                    bytes.extend(sync());
                    if begin {
                        bytes.extend(query("commit"));
                        ready += 1;
                    }
                    pair.exchange(&format!("{server:?} limit {limit} in parts {parts:?}, formats {results:?}, begin {begin}"), &bytes, ready, b"");
                }
            }
        }
    }
}

/// Pipelines with searches in the middle: nothing overtakes anything.
#[test]
fn pipelines_with_searches_are_the_same() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2"]);
        let mut pair = copies.sessions(&[]);
        widen(&mut pair, server);
        let v = query_vector(server, 8);
        let search = "select id from item order by embedding <-> $1 limit 5";
        let one = |sql: &str, parameters: &[Option<&[u8]>]| {
            [
                parse("", sql, &[]),
                bind("", "", &[], parameters, &[]),
                describe(b'P', ""),
                execute("", 0),
            ]
            .concat()
        };
        let knn = || one(search, &[Some(v.as_bytes())]);
        let insert = one(
            &format!("insert into item values (9100, 1, 1, 'new', '{v}')"),
            &[],
        );
        let delete = one("delete from item where id = 9100", &[]);
        let fail = one("select 1 / 0", &[]);
        let pipelines: Vec<(&str, Vec<Vec<u8>>, usize)> = vec![
            (
                "ten searches, one Sync",
                (0..10).map(|_| knn()).chain([sync()]).collect(),
                1,
            ),
            (
                "ten searches, a Sync each",
                (0..10).map(|_| [knn(), sync()].concat()).collect(),
                10,
            ),
            (
                "between other statements",
                vec![
                    one("select 1", &[]),
                    knn(),
                    one("select 2", &[]),
                    knn(),
                    sync(),
                ],
                1,
            ),
            (
                "after an INSERT in the same pipeline",
                vec![
                    insert.clone(),
                    knn(),
                    sync(),
                    delete.clone(),
                    knn(),
                    sync(),
                    knn(),
                    sync(),
                ],
                3,
            ),
            (
                "after a failure",
                vec![fail.clone(), knn(), sync(), knn(), sync()],
                2,
            ),
            ("before a failure", vec![knn(), fail, knn(), sync()], 1),
            (
                "a wrong vector in the middle",
                vec![
                    knn(),
                    one(search, &[Some(b"nonsense")]),
                    knn(),
                    sync(),
                    knn(),
                    sync(),
                ],
                2,
            ),
            (
                "in an explicit transaction",
                vec![
                    query("begin"),
                    knn(),
                    sync(),
                    insert,
                    knn(),
                    sync(),
                    query("rollback"),
                    knn(),
                    sync(),
                ],
                5,
            ),
            (
                "described before executed",
                vec![
                    parse("n", search, &[]),
                    describe(b'S', "n"),
                    bind("x", "n", &[], &[Some(v.as_bytes())], &[1]),
                    bind("y", "n", &[], &[Some(v.as_bytes())], &[0]),
                    describe(b'P', "x"),
                    describe(b'P', "y"),
                    execute("y", 0),
                    execute("x", 2),
                    execute("x", 0),
                    close(b'P', "x"),
                    close(b'S', "n"),
                    sync(),
                ],
                1,
            ),
            (
                "bound, never executed",
                vec![
                    parse("", search, &[]),
                    bind("", "", &[], &[Some(v.as_bytes())], &[]),
                    sync(),
                    knn(),
                    sync(),
                ],
                2,
            ),
            (
                "bound before the statement is replaced",
                vec![
                    parse("m", search, &[]),
                    bind("late", "m", &[], &[Some(v.as_bytes())], &[]),
                    close(b'S', "m"),
                    parse("m", "select 1", &[]),
                    execute("late", 0),
                    close(b'S', "m"),
                    sync(),
                ],
                1,
            ),
        ];
        for (label, messages, ready) in pipelines {
            let frames: Vec<Frame> = pair.exchange(
                &format!("{server:?}: {label}"),
                &messages.concat(),
                ready,
                b"",
            );
            assert!(
                frames.iter().any(|frame| frame.tag == b'D') || label.contains("failure"),
                "{label} gave no row"
            );
        }
    }
}

/// A plan costs as much as fetching some rows: few keys must not make PostgreSQL prefer a new one for each execution.
#[test]
fn statements_of_few_rows_are_not_planned_each_time() {
    const TIMES: usize = 12;
    const PLANNED_AT_FIRST: i64 = 5; // by any statement, to know what plans cost
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies_with(server, &["item_l2", "by_text_idx", "paired_idx"]);
        for (table, column) in [("item", "embedding"), ("by_text", "v"), ("paired", "v")] {
            for limit in [1, 3, 7] {
                let mut wire = copies.rektor.connect();
                wire.run("set enable_seqscan = off");
                let sql = format!("select * from {table} order by {column} <-> $1 limit {limit}");
                wire.roundtrip(&[parse("named", &sql, &[]), sync()].concat());
                for seed in 0..TIMES {
                    let vector = query_vector(server, 5_000 + seed as u64);
                    let values = [Some(vector.as_bytes())];
                    let bind = bind("", "named", &[], &values, &[]);
                    let answer = wire.roundtrip(&[bind, execute("", 0), sync()].concat());
                    let rows = answer.iter().filter(|frame| frame.tag == b'D').count();
                    assert_eq!(rows, limit, "{server:?} {sql}");
                }
                let plans = "select generic_plans, custom_plans from pg_prepared_statements
                    where name like 'rektor%' and statement like '%ANY%'";
                let plans = wire.rows(plans);
                let [generic, custom] = [0, 1].map(|column| {
                    let number =
                        |row: &Vec<Option<String>>| row[column].clone()?.parse::<i64>().ok();
                    plans.iter().filter_map(number).sum::<i64>()
                });
                assert_eq!(generic + custom, TIMES as i64, "{server:?} {sql}");
                assert_eq!(custom, PLANNED_AT_FIRST, "{server:?} {sql}");
            }
        }
    }
}
