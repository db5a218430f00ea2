//! One statement that searches for each of several vectors, as applications write it: the rows that exact SQL gives, from the
//! index; never short, and only what PostgreSQL would show; in a transaction, under other roles and names.

use super::fixture::{Answered, copies_with, query_vector};
use super::statements::{Protocol, messages, widen};
use crate::harness::message::{bind, describe, execute, parse, query, sync};
use crate::harness::{Rektor, Server};
use crate::relay::compare::{Copies, Pair};

const INDEXES: &[&str] = &[
    "item_l2",
    "item_cosine",
    "paired_idx",
    "by_uuid_idx",
    "by_text_idx",
    "gap_l2",
    "tenant_idx",
];

/// Rows of vectors `q(n, v)`; {t} is the vectors' type.
const ROWS: &[&str] = &[
    "(values (0, $1::{t}), (1, $2::{t})) q(n, v)",
    "(values (5, $1::{t}), (-5, $2)) as q(n, v)",
    "(values (1, $2::{t}), (2, $1), (3, $2)) q(n, v)",
];

/// The same where the vectors have a type of their own.
const VECTOR_ROWS: &[&str] = &[
    "(values (0, cast(array[0.5, 1, -2.25, 3] as vector(4))), (1, cast(array[1e-1, 2, 3, 4] as vector(4)))) as q (n, v)",
    "(values (0, '[1,2,3,4]'::vector(4)), (0, $1), (0, $2::vector)) q(n, v)",
    "(values (1::bigint, $1::vector), (1, $2)) q(n, v)",
    "(values ('a', $1::vector), ('b', $2)) q(n, v)",
    "unnest(array[$1, $2]::vector[]) with ordinality q(v, n)",
    "unnest(array[$1::vector, $2::vector, $1]) with ordinality q(v, n)",
    "lateral unnest(array['[1,2,3,4]', '[4,3,2,1]']::vector[]) with ordinality as q(v, n)",
    "unnest('{\"[1,2,3,4]\",\"[0,0,1,0]\",\"[1,2,3,4]\"}'::vector(4)[]) with ordinality q(v, n)",
];

/// How the search is joined with them.
const JOINS: &[&str] = &[
    "{rows} join lateral ({search}) r on true",
    "{rows} cross join lateral ({search}) r",
    "{rows}, lateral ({search}) as r",
    "{rows} left join lateral ({search}) r on true",
];

const SEARCHES: &[&str] = &[
    "select id, name, embedding <-> q.v as d from item order by item.embedding <-> q.v limit 5",
    "select i.id, q.v <=> i.embedding as d from item i where category = 3 order by d limit 4 offset 2",
    "select id, category from item where price > 100 and name like 'item%' order by embedding <-> q.v limit 1 + 0",
    "select a, b from paired order by v <-> q.v limit 3",
    "select id from by_uuid order by by_uuid.v <-> q.v limit 3",
    "select id from by_text t order by t.v <-> q.v limit 3",
];

/// The text of a statement.
fn statement(rows: &str, join: &str, search: &str, server: Server) -> String {
    let kind = if server.has_pgvector() {
        "vector"
    } else {
        "real[]"
    };
    let from = join.replace("{rows}", rows).replace("{search}", search);
    format!("select q.n, r.* from {from}").replace("{t}", kind)
}

fn nominated(rektor: &Rektor<'_>, before: Answered) -> f64 {
    let after = Answered::now(rektor);
    assert_eq!(after.exact, before.exact);
    after.nominate - before.nominate
}

fn batches_are_exact(server: Server, protocol: Protocol) {
    let copies = copies_with(server, INDEXES);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let vector_rows: &[&str] = match server.has_pgvector() {
        true => VECTOR_ROWS,
        false => &[],
    };
    let times = match protocol {
        Protocol::Prepared(times) => f64::from(u32::try_from(times).unwrap()),
        Protocol::Simple | Protocol::Text | Protocol::Binary => 1.0,
    };
    let mut wrong = Vec::new();
    for (n, rows) in ROWS.iter().chain(vector_rows).enumerate() {
        for (m, search) in SEARCHES.iter().enumerate() {
            let sql = statement(rows, JOINS[(n + m) % JOINS.len()], search, server);
            let [a, b] = [0, 1].map(|at| query_vector(server, 5_000 + 100 * n as u64 + at));
            let (bytes, ready) = messages(protocol, &sql, &[&a, &b]);
            let before = Answered::now(&copies.rektor);
            pair.exchange(
                &format!("{server:?} {protocol:?}: {sql}"),
                &bytes,
                ready,
                b"",
            );
            // `1 + 0` is not a constant to Rektor
            let expected = if search.ends_with("+ 0") { 0.0 } else { times };
            let answered = nominated(&copies.rektor, before);
            if answered != expected {
                wrong.push(format!("{sql}: {answered}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{server:?} {protocol:?}\n{}",
        wrong.join("\n")
    );
}

#[test]
fn batches_simple_on_plain() {
    batches_are_exact(Server::Plain, Protocol::Simple);
}

#[test]
fn batches_prepared_on_plain() {
    batches_are_exact(Server::Plain, Protocol::Prepared(2));
}

#[test]
fn batches_text_on_16() {
    batches_are_exact(Server::Pg16, Protocol::Text);
}

#[test]
fn batches_simple_on_18() {
    batches_are_exact(Server::Pg18, Protocol::Simple);
}

#[test]
fn batches_binary_on_18() {
    batches_are_exact(Server::Pg18, Protocol::Binary);
}

#[test]
fn batches_prepared_on_18() {
    batches_are_exact(Server::Pg18, Protocol::Prepared(7));
}

const BATCH: &str = "select q.n, r.id, r.d from unnest($1::vector[]) with ordinality q(v, n)
    join lateral (select id, embedding <-> q.v as d from item order by d limit 4) r on true order by q.n, r.d";

/// `vector[]`, `halfvec[]`, `text[]`, in text and binary form, declared and not.
#[test]
fn arrays_are_read_in_every_form() {
    let server = Server::Pg18;
    let copies = copies_with(server, INDEXES);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let mut oid = |name: &str| {
        let sql = format!("select '{name}'::regtype::oid::int4");
        pair.direct.value(&sql).parse::<u32>().unwrap()
    };
    let [vector, vectors, halfvec] = ["vector", "vector[]", "halfvec"].map(&mut oid);
    let texts = [0, 1].map(|seed| query_vector(server, seed));
    let binary = |kind: u32, elements: &[Vec<u8>]| {
        let count = u32::try_from(elements.len()).unwrap();
        let words = [1, 0, kind, count, 1]
            .into_iter()
            .flat_map(u32::to_be_bytes);
        let mut array: Vec<u8> = words.collect();
        for element in elements {
            array.extend(u32::try_from(element.len()).unwrap().to_be_bytes());
            array.extend(element);
        }
        array
    };
    let of_vector = |text: &String| {
        let components = text.trim_matches(['[', ']']).split(',');
        let components = components.map(|component| component.parse::<f32>().unwrap());
        let floats = components.flat_map(f32::to_be_bytes);
        [0, 4, 0, 0].into_iter().chain(floats).collect::<Vec<u8>>()
    };
    let halves = vec![vec![0, 4, 0, 0, 0x3c, 0, 0x40, 0, 0xbc, 0, 0, 0]]; // 1, 2, -1, 0
    let vectors_sent = binary(vector, &texts.each_ref().map(of_vector));
    let text_array = format!("{{\"{}\",\"{}\"}}", texts[0], texts[1]);
    let plain_texts = texts.each_ref().map(|text| text.clone().into_bytes());
    for (declared, format, value) in [
        (0, 0, text_array.clone().into_bytes()),
        (vectors, 0, text_array.into_bytes()),
        (0, 1, vectors_sent.clone()),
        (vectors, 1, vectors_sent),
        (1009, 1, binary(25, &plain_texts)),
    ] {
        let before = Answered::now(&copies.rektor);
        let bytes = [
            parse("", BATCH, &[declared]),
            bind("", "", &[format], &[Some(&value)], &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        pair.exchange(&format!("{declared} {format}"), &bytes.concat(), 1, b"");
        assert_eq!(
            nominated(&copies.rektor, before),
            1.0,
            "{declared} {format}"
        );
    }
    // what is none of these, or not a vector of this index
    for (declared, format, value) in [
        (0, 0, b"{}".to_vec()),
        (0, 0, b"{null}".to_vec()),
        (0, 0, b"{\"[1,2,3,4]\",NULL}".to_vec()),
        (0, 0, b"{\"[1,2,3]\"}".to_vec()),
        (0, 0, b"{{\"[1,2,3,4]\"},{\"[4,3,2,1]\"}}".to_vec()),
        (0, 0, b"{\"[1,2,3,4]\"".to_vec()),
        (0, 0, b"{\"[1,2,3,x]\"}".to_vec()),
        (0, 1, binary(halfvec, &halves)),
        (0, 1, binary(vector, &[b"short".to_vec()])),
        (0, 1, vec![0; 7]),
    ] {
        let bytes = [
            parse("", BATCH, &[declared]),
            bind("", "", &[format], &[Some(&value)], &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        let before = Answered::now(&copies.rektor);
        pair.exchange(&format!("odd {value:?}"), &bytes.concat(), 1, b"");
        assert_eq!(nominated(&copies.rektor, before), 0.0, "{value:?}");
    }
    let null = [
        parse("", BATCH, &[]),
        bind("", "", &[], &[None], &[]),
        execute("", 0),
        sync(),
    ];
    pair.exchange("a NULL array", &null.concat(), 1, b"");
}

/// Two vectors, a search for each, and what else the statement says.
fn two(server: Server, join: &str, search: &str, order: &str) -> String {
    let sql = statement(ROWS[0], join, search, server);
    let [a, b] = [0, 1].map(|seed| format!("'{}'", query_vector(server, 77 + seed)));
    format!("{sql} {order}").replace("$1", &a).replace("$2", &b)
}

/// Filters that leave too few, NULL vectors, rows that others may not see: as many rows as PostgreSQL gives.
#[test]
fn batches_are_never_short() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies_with(server, INDEXES);
        let mut pair = copies.sessions(&[]);
        widen(&mut pair, server);
        for search in [
            "select id from item where category = 99 order by embedding <-> q.v limit 3",
            "select id from item where id % 1000 = 7 order by embedding <-> q.v limit 3",
            "select id from item where id % 1000 = 7 order by embedding <-> q.v limit 4",
            "select id from item where id = 5 order by embedding <-> q.v limit 2",
            // of one vector's rows there are enough, of the other's none
            "select id from item where id % 2 = q.n % 2 order by embedding <-> q.v limit 10",
            "select id from item where q.n = 1 order by embedding <-> q.v limit 10",
            "select id from item where q.n = 1 order by embedding <-> q.v limit 1",
            "select id from item where false order by embedding <-> q.v limit 1",
            "select id from gap order by gap.v <-> q.v limit 45",
            "select id from item order by embedding <-> q.v limit 5 offset 2998",
        ] {
            for join in JOINS {
                let search =
                    search.replace("from gap order by", "from gap where v is not null order by");
                pair.query(&two(server, join, &search, "order by 1, 2"));
            }
        }
    }
}

#[test]
fn roles_see_of_batches_what_they_may() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies_with(server, INDEXES);
        for (role, search) in [
            (
                "reader",
                "select id from tenant order by tenant.v <-> q.v limit 3",
            ),
            (
                "reader",
                "select id from tenant order by tenant.v <-> q.v limit 7",
            ),
            (
                "keyless",
                "select name from item order by embedding <-> q.v limit 3",
            ),
            (
                "keyless",
                "select id from item order by embedding <-> q.v limit 3",
            ),
            (
                "stranger",
                "select name from item order by embedding <-> q.v limit 3",
            ),
        ] {
            let mut pair = copies.sessions(&[]);
            pair.direct = copies.direct.connect_as(role);
            pair.through = copies.rektor.connect_as(role);
            for join in JOINS {
                pair.query(&two(server, join, search, "order by 1, 2"));
            }
        }
    }
}

/// A transaction that has written, another table of that name, a LEFT JOIN whose guards keep every row away.
#[test]
fn batches_see_what_postgres_sees() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies_with(server, INDEXES);
        let mut pair = copies.sessions(&[]);
        widen(&mut pair, server);
        let search = "select id, name from item order by embedding <-> q.v limit 3";
        let ask = |pair: &mut Pair| {
            copies.rektor.catch_up(&mut copies.rektor.connect());
            let before = Answered::now(&copies.rektor);
            for join in JOINS {
                let rows = statement(ROWS[0], join, search, server);
                let [a, b] = [0, 1].map(|seed| query_vector(server, 77 + seed));
                for protocol in [Protocol::Simple, Protocol::Text, Protocol::Prepared(2)] {
                    let (bytes, ready) = messages(protocol, &rows, &[&a, &b]);
                    pair.exchange(&format!("{protocol:?} {rows}"), &bytes, ready, b"");
                }
            }
            nominated(&copies.rektor, before)
        };
        let all = 4.0 * JOINS.len() as f64;
        assert_eq!(ask(&mut pair), all);
        pair.query("begin");
        assert_eq!(ask(&mut pair), all);
        let near = query_vector(server, 77);
        pair.query(&format!(
            "insert into item values (20000, 1, 1, 'new', '{near}')"
        ));
        assert_eq!(ask(&mut pair), 0.0);
        pair.query("commit");
        assert_eq!(ask(&mut pair), all);
        pair.query("delete from item where id = 20000");
        assert_eq!(ask(&mut pair), all);
        // written and searched in one pipeline: only the guards can tell
        for join in JOINS {
            let sql = two(server, join, search, "");
            let write = format!("insert into item values (20001, 1, 1, 'new', '{near}')");
            let bytes = [
                query("begin"),
                parse("", &write, &[]),
                bind("", "", &[], &[], &[]),
                execute("", 0),
                parse("", &sql, &[]),
                bind("", "", &[], &[], &[]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
                query("rollback"),
            ];
            pair.exchange("a pipeline", &bytes.concat(), 3, b"");
        }
        pair.query("create temp table item (id int, name text, embedding real[])");
        let before = Answered::now(&copies.rektor);
        pair.query(&two(
            server,
            JOINS[3],
            "select id from item order by embedding::text <-> q.v limit 3",
            "",
        ));
        assert_eq!(nominated(&copies.rektor, before), 0.0);
        pair.query("drop table pg_temp.item");
        assert_eq!(ask(&mut pair), all);
    }
}

/// What EXPLAIN shows; and what is relayed, with its reason.
#[test]
fn explain_tells_of_batches() {
    let server = Server::Pg18;
    let copies = copies_with(server, INDEXES);
    let mut wire = copies.rektor.connect();
    let search = "select id from item order by embedding <-> q.v limit 3";
    let mut explained = |options: &str, sql: &str| {
        let plan = wire.column(&format!("explain {options} {sql}"));
        let from = plan.iter().position(|line| line.starts_with("Rektor"));
        plan[from.unwrap_or_else(|| panic!("{plan:?}"))..].to_vec()
    };
    for options in ["", "(analyze)", "(verbose)", "(analyze, verbose)"] {
        let lines = explained(options, &two(server, JOINS[1], search, ""));
        assert_eq!(lines[0], "Rektor: nominate", "{options}");
        assert_eq!(lines[2], "  Vectors: 2, each with candidates of its own");
    }
    let from_a_table = "select p.id, r.id from plain p cross join lateral (select id from item order by embedding <-> p.v limit 2) r where p.id < 4 order by 1, 2";
    let lines = explained("", from_a_table);
    assert_eq!(
        lines,
        ["Rektor: relay (FROM is not one table, or tables joined with it)"]
    );
    let lines = explained("", &two(server, JOINS[1], search, "limit 3"));
    assert_eq!(
        lines,
        [
            "Rektor: relay (the statement around LATERAL does not tell whether every search found its rows)"
        ]
    );
    let many = vec!["'[1,2,3,4]'"; 100].join(",");
    let many = format!(
        "select r.id from unnest(array[{many}]::vector[]) q(v) cross join lateral (select id from item order by embedding <-> q.v limit 300) r"
    );
    assert_eq!(
        explained("", &many),
        ["Rektor: relay (too many query vectors in one statement, or too many rows for them)"]
    );
}

/// More vectors than one thread takes, each nearest to a row of its own.
#[test]
fn each_of_many_vectors_finds_its_own() {
    let server = Server::Pg18;
    let copies: Copies = copies_with(server, INDEXES);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let sql = "select array_agg(embedding order by id) from item where id <= 400";
    let array = pair.direct.value(sql);
    let sql = BATCH.replace("limit 4", "limit 2");
    for protocol in [Protocol::Simple, Protocol::Prepared(2)] {
        let before = Answered::now(&copies.rektor);
        let (bytes, ready) = messages(protocol, &sql, &[&array]);
        let frames = pair.exchange("400 vectors", &bytes, ready, b"");
        let rows = frames.iter().filter(|frame| frame.tag == b'D').count();
        let times = if protocol == Protocol::Simple { 1 } else { 2 };
        assert_eq!(rows, times * 800);
        assert_eq!(nominated(&copies.rektor, before), times as f64);
    }
}
