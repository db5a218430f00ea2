//! Indexes on casts and functions of a column, as pgvector's README teaches them: created, refused, searched and followed as
//! PostgreSQL does it; and a sub-select's rows put in another order.

use std::fmt::Write;

use super::fixture::{Answered, query_vector};
use super::statements::{Protocol, messages};
use crate::harness::message::{bind, describe, execute, parse, sync};
use crate::harness::{Database, Random, Server};
use crate::relay::compare::{Copies, Pair};

/// Rows, and bits of a row's signs.
pub(super) const ROWS: usize = 400;

/// Index, table, what is indexed with its operator class.
const INDEXES: &[(&str, &str, &str)] = &[
    ("half_l2", "item", "(v::halfvec(4)) halfvec_l2_ops"),
    (
        "half_cosine",
        "item",
        "(cast(v as halfvec(4))) halfvec_cosine_ops",
    ),
    (
        "part",
        "item",
        "(subvector(v, 1, 3)::vector(3)) vector_cosine_ops",
    ),
    (
        "half_part",
        "item",
        "(subvector(v, 2, 3)::halfvec(3)) halfvec_l2_ops",
    ),
    ("free_l2", "item", "(free::vector(4)) vector_l2_ops"),
    ("real_half", "item", "(r::halfvec(4)) halfvec_l2_ops"),
    (
        "h_signs",
        "item",
        "(binary_quantize(h)::bit(4)) bit_hamming_ops",
    ),
    (
        "signs",
        "sign",
        "(binary_quantize(v)::bit(400)) bit_hamming_ops",
    ),
    (
        "signs_jaccard",
        "sign",
        "(binary_quantize(v)::bit(400)) bit_jaccard_ops",
    ),
    ("sign_l2", "sign", "v vector_l2_ops"),
];

/// The vector of row n has n positive components: its signs' distance to those of a positive vector is its own.
pub(super) fn signs(n: usize) -> String {
    let component = |at: usize| if at < n { n + at } else { 0 }.to_string();
    let components: Vec<String> = (0..ROWS).map(component).collect();
    format!("[{}]", components.join(","))
}

pub(super) fn fill(database: &Database<'_>) {
    let mut wire = database.connect();
    wire.run("create table item (id int primary key, n int, v vector(4), free vector, r real[], h halfvec(4))");
    wire.run("create table sign (id int primary key, n int, v vector(400))");
    let mut random = Random::new(77);
    let (mut items, mut vectors) = (String::new(), String::new());
    for n in 1..=ROWS {
        let vector = random.vector(4, Server::Pg18);
        let reals = vector.replace('[', "{").replace(']', "}");
        write!(
            items,
            "({n}, {}, '{vector}', '{vector}', '{reals}', '{vector}'), ",
            n % 5
        )
        .unwrap();
        write!(vectors, "({n}, {}, '{}'), ", n % 5, signs(n)).unwrap();
    }
    wire.run(&format!(
        "insert into item values {items} (0, 0, null, null, null, null)"
    ));
    wire.run(&format!("insert into sign values {vectors} (0, 0, null)"));
}

fn copies(server: Server) -> Copies {
    let copies = Copies::of(server, fill);
    let mut wire = copies.rektor.connect();
    for (name, table, indexed) in INDEXES {
        wire.run(&format!(
            "create index {name} on {table} using faiss ({indexed})"
        ));
    }
    for (name, ..) in INDEXES {
        copies.rektor.wait_ready(name);
    }
    copies
}

/// Statement (`$1` is a vector of four dimensions, `$2` one of 400, the rest numbers), and whether the index answers it.
const STATEMENTS: &[(&str, bool)] = &[
    // half precision
    (
        "select id from item order by v::halfvec(4) <-> $1 limit 5",
        true,
    ),
    (
        "select * from item order by cast(v as halfvec(4)) <-> $1::halfvec(4) limit 5",
        true,
    ),
    (
        "select id, v::halfvec(4) <=> $1::vector as d from item where n = 3 order by d limit 5",
        true,
    ),
    (
        "select id, v::halfvec <=> $1::vector(4)::halfvec(4) as d from item order by 2 limit 5 offset 2",
        true,
    ),
    (
        "select id from item order by r::halfvec(4) <-> $1 limit 5",
        true,
    ),
    (
        "select id from item order by v::halfvec(4) <#> $1 limit 5",
        false,
    ),
    ("select id from item order by v <-> $1 limit 5", false),
    // another type's dimensions
    (
        "select id from item order by free::vector(4) <-> $1 limit 5",
        true,
    ),
    (
        "select id from item order by free::vector(5) <-> $1 limit 5",
        false,
    ),
    (
        "select id from item order by v::halfvec(4) <-> $1::halfvec(3) limit 5",
        false,
    ),
    // a column's own index serves it cast
    (
        "select id from sign order by v::halfvec(400) <-> $2 limit 5",
        true,
    ),
    (
        "select id from sign order by v::vector(400) <-> $2::vector(400) limit 5",
        true,
    ),
    // parts
    (
        "select id from item order by subvector(v, 1, 3)::vector(3) <=> subvector($1::vector, 1, 3) limit 5",
        true,
    ),
    (
        "select id from item order by subvector(v, 1, 3) <=> subvector($1::vector, 1, 3)::vector(3) limit 5",
        true,
    ),
    (
        "select id from item order by subvector(v, 2, 3)::halfvec(3) <-> subvector($1::halfvec(4), 2, 3) limit 5",
        true,
    ),
    (
        "select id from item order by subvector(v, 2, 3)::vector(3) <-> subvector($1::vector, 2, 3) limit 5",
        false,
    ),
    (
        "select id from item order by subvector(v, 1, 3)::vector(3) <=> subvector($1, 1, 3) limit 5",
        false,
    ),
    // signs
    (
        "select id from sign order by binary_quantize(v)::bit(400) <~> binary_quantize($2::vector) limit 5",
        true,
    ),
    (
        "select id from sign order by binary_quantize(v)::bit(400) <%> binary_quantize($2::vector(400)) limit 5",
        true,
    ),
    (
        "select id, binary_quantize(v) <~> binary_quantize($2::halfvec) as d from sign order by d limit 5",
        true,
    ),
    (
        "select id from sign where n = 2 order by public.binary_quantize(sign.v)::bit(400) <~> binary_quantize($2::vector)::bit(400) limit 5",
        true,
    ),
    (
        "select id from sign order by binary_quantize(v)::bit(400) <~> binary_quantize($2) limit 5",
        false,
    ),
    (
        "select id from sign order by binary_quantize(v)::bit(400) <~> $2 limit 5",
        false,
    ),
    (
        "select id from sign order by binary_quantize(v)::bit(300) <~> binary_quantize($2::vector)::bit(300) limit 5",
        false,
    ),
    (
        "select count(*) from (select id from item order by binary_quantize(h)::bit(4) <~> binary_quantize($1::halfvec) limit 20) s",
        false,
    ),
    // put in another order
    (
        "select * from (select * from sign order by binary_quantize(v)::bit(400) <~> binary_quantize($2::vector) limit 20) s order by v <=> $2 limit 5",
        true,
    ),
    (
        "select s.id, s.v <-> $2 as d from (select id, v from sign where n = 1 order by binary_quantize(sign.v) <~> binary_quantize($2::vector) limit $3) as s order by d limit $4",
        true,
    ),
    (
        "select near.x, near.d + 1 from (select id, v::halfvec(4) <-> $1 from item order by 2 limit 9 offset 1) as near (x, d) where near.d < 100 order by near.x desc",
        true,
    ),
    (
        "select * from (select *, v <-> $2 as d from sign order by d limit 8) s",
        true,
    ),
    (
        "with r as materialized (select id, v <-> $2 as distance from sign where n = 3 order by distance limit 5) select * from r order by distance + 0",
        true,
    ),
    (
        "with r (x, y) as (select id, v::halfvec(4) <=> $1 from item order by 2 limit $3) select y, r.x from r as r where y < 1.5 order by r.x",
        true,
    ),
    (
        "with sign as (select * from sign order by v <-> $2 limit 6) select id, (select min(id) from sign) from sign order by binary_quantize(v) <~> binary_quantize($2::vector) limit $4",
        true,
    ),
    (
        "with r as (select id, v <-> $2 as d from sign order by d limit 500) select * from r where d < 5 order by d",
        false,
    ),
    (
        "with r as (select id, v <-> $2 as d from sign order by d limit 5) select count(*) from r",
        false,
    ),
    // fewer rows than the sub-select may have, or than meet the outer condition
    (
        "select id from (select id, v from sign where id < 15 order by v <-> $2 limit 20) s order by id limit 3",
        false,
    ),
    (
        "select id from (select id, v from sign order by v <-> $2 limit 20) s where id < 0 order by id",
        false,
    ),
    (
        "select * from (select * from sign order by v <-> $2 limit 500) s order by id limit 5",
        false,
    ),
];

#[test]
fn expressions_are_ordered_as_postgres_orders_them() {
    for server in [Server::Pg16, Server::Pg18] {
        let copies = copies(server);
        let mut pair = copies.sessions(&[]);
        pair.query("load 'vector'");
        for (number, (sql, claimed)) in STATEMENTS.iter().enumerate() {
            let seed = 500 + u64::try_from(number).unwrap();
            let (few, many) = (query_vector(server, seed), signs(ROWS));
            for protocol in [
                Protocol::Simple,
                Protocol::Text,
                Protocol::Binary,
                Protocol::Prepared(7),
            ] {
                let (sql, values) = renumbered(sql, &[&few, &many, "7", "3"]);
                let (bytes, ready) = messages(protocol, &sql, &values);
                let before = Answered::now(&copies.rektor).nominate;
                let label = format!("{server:?} {protocol:?} {sql}");
                pair.exchange(&label, &bytes, ready, b"");
                let times = match protocol {
                    Protocol::Prepared(times) => u32::try_from(times).unwrap(),
                    Protocol::Simple | Protocol::Text | Protocol::Binary => 1,
                };
                let times = if *claimed { f64::from(times) } else { 0.0 };
                let answered = Answered::now(&copies.rektor).nominate - before;
                assert_eq!(answered, times, "{label}");
            }
        }
    }
}

/// The statement with its parameters numbered from 1, and their values.
fn renumbered<'a>(sql: &str, values: &[&'a str]) -> (String, Vec<&'a str>) {
    let (mut sql, mut used) = (sql.to_owned(), Vec::new());
    for (at, value) in values.iter().enumerate() {
        let name = format!("${}", at + 1);
        if sql.contains(&name) {
            used.push(*value);
            sql = sql.replace(&name, &format!("${}", used.len()));
        }
    }
    (sql, used)
}

fn oid(pair: &mut Pair, name: &str) -> u32 {
    pair.direct
        .value(&format!("select '{name}'::regtype::oid"))
        .parse()
        .unwrap()
}

/// Parameters whose type the driver declares, as pgvector's own client libraries do, in binary form.
#[test]
fn declared_parameters_are_read_by_their_type() {
    for server in [Server::Pg16, Server::Pg18] {
        let copies = copies(server);
        let mut pair = copies.sessions(&[]);
        pair.query("load 'vector'");
        let (vector, half) = (oid(&mut pair, "vector"), oid(&mut pair, "halfvec"));
        let floats = [0.3_f32, -0.2, 0.5, 0.1];
        let header = [0, 4, 0, 0];
        let vectors: Vec<u8> = header
            .into_iter()
            .chain(floats.iter().flat_map(|x| x.to_be_bytes()))
            .collect();
        let halves = b"\0\x04\0\0\x34\xcd\xb2\x66\x38\0\x2e\x66"; // the same, rounded
        let reals = [
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 188, 0, 0, 0, 4, 0, 0, 0, 1][..],
            &floats
                .iter()
                .flat_map(|x| [&4_u32.to_be_bytes()[..], &x.to_be_bytes()].concat())
                .collect::<Vec<_>>(),
        ]
        .concat();
        for (sql, types, value, claimed) in [
            ("v::halfvec(4) <-> $1", vector, &vectors[..], true),
            ("v::halfvec(4) <-> $1", half, halves, true),
            ("v::halfvec(4) <-> $1", 0, halves, true),
            ("v::halfvec(4) <-> $1", 0, &vectors, false),
            ("v::halfvec(4) <-> $1", 1021, &reals, false),
            ("v::halfvec(4) <-> $1::halfvec(4)", 1021, &reals, true),
            ("v::halfvec(4) <-> $1::halfvec", vector, &vectors, true),
            (
                "subvector(v, 1, 3)::vector(3) <=> subvector($1, 1, 3)",
                vector,
                &vectors,
                true,
            ),
            (
                "subvector(v, 2, 3)::halfvec(3) <-> subvector($1, 2, 3)",
                half,
                halves,
                true,
            ),
            (
                "binary_quantize(h)::bit(4) <~> binary_quantize($1)",
                half,
                halves,
                true,
            ),
            (
                "binary_quantize(h)::bit(4) <~> binary_quantize($1)",
                vector,
                &vectors,
                true,
            ),
            (
                "binary_quantize(h)::bit(4) <~> $1",
                1560,
                b"\0\0\0\x04\xb0",
                true,
            ),
        ] {
            // Signs of few components are often the same: any of such rows is right.
            let ties = sql.starts_with("binary");
            let shown = if ties {
                "binary_quantize(h) <~> b'1011'"
            } else {
                "id"
            };
            let sql = format!("select {shown} from item order by {sql} limit 5");
            let bytes = [
                parse("", &sql, &[types]),
                bind("", "", &[1], &[Some(value)], &[1]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]
            .concat();
            let before = Answered::now(&copies.rektor).nominate;
            pair.exchange(&format!("{server:?} {types} {sql}"), &bytes, 1, b"");
            let after = Answered::now(&copies.rektor).nominate;
            assert_eq!(after > before, claimed, "{server:?} {types} {sql}");
        }
    }
}

#[test]
fn what_pgvector_refuses_is_refused_in_its_words() {
    for server in [Server::Pg16, Server::Pg18] {
        let copies = Copies::of(server, fill);
        let mut pair = copies.sessions(&[]);
        pair.query("load 'vector'");
        for (table, indexed) in [
            ("item", "(v::halfvec(3)) halfvec_l2_ops"),
            ("item", "(v::halfvec(4)) vector_l2_ops"),
            ("item", "(v::vector(4)) halfvec_l2_ops"),
            ("item", "(n::halfvec(4)) halfvec_l2_ops"),
            ("item", "(binary_quantize(v)::bit(4)) vector_l2_ops"),
            ("item", "(binary_quantize(r)::bit(4)) bit_hamming_ops"),
            ("item", "(binary_quantize(n)::bit(4)) bit_hamming_ops"),
            ("item", "(subvector(r, 1, 2)::vector(2)) vector_l2_ops"),
            ("item", "(subvector(v, 1, 2)::vector(3)) vector_l2_ops"),
            ("item", "(subvector(v, 3, 3)::vector(3)) vector_l2_ops"),
            ("item", "(missing::halfvec(4)) halfvec_l2_ops"),
            ("item", "(v::halfvec(4)) missing_ops"),
        ] {
            let told = |wire: &mut crate::harness::Wire, method: &str| {
                let sql = format!("create index on {table} using {method} ({indexed})");
                let error = wire.try_rows(&sql).expect_err(&sql);
                let message = error.field(b'M').map(|text| text.replace(method, "…"));
                (error.field(b'C'), message)
            };
            let expected = told(&mut pair.direct, "hnsw");
            assert_eq!(told(&mut pair.through, "faiss"), expected, "{indexed}");
        }
        for indexed in [
            "(v::sparsevec(4))",
            "(l2_normalize(v)) vector_l2_ops",
            "(v + v) vector_l2_ops",
        ] {
            let sql = format!("create index on item using faiss ({indexed})");
            let error = pair.through.try_rows(&sql).expect_err(&sql);
            assert_eq!(error.field(b'C').as_deref(), Some("0A000"), "{sql}");
        }
        // Names as PostgreSQL chooses them, and the same by function.
        for (_, table, indexed) in INDEXES.iter().take(8) {
            pair.direct
                .run(&format!("create index on {table} using hnsw ({indexed})"));
            pair.through
                .run(&format!("create index on {table} using faiss ({indexed})"));
        }
        let expected = pair.direct.column(
            "select indexname from pg_indexes where tablename in ('item', 'sign') and indexname not like '%pkey' order by 1");
        let found = pair
            .through
            .column("select name from rektor.index order by 1");
        assert_eq!(found, expected);
        let mut wire = copies.rektor.database.connect();
        wire.run("select rektor.create_index('f', 'item', 'v', 'vector_l2_ops', expression => 'subvector(2,2)')");
        let error = wire
            .try_rows("select rektor.create_index('g', 'item', 'v', 'vector_l2_ops', expression => 'v + v')")
            .unwrap_err();
        assert_eq!(error.field(b'C').as_deref(), Some("0A000"));
        let stored =
            wire.rows("select expression, dimensions::text from rektor.index where name = 'f'");
        assert_eq!(
            stored,
            [["subvector(2, 2)", "2"].map(|text| Some(text.to_owned()))]
        );
        copies.rektor.wait_ready("f");
        let mut through = copies.rektor.connect();
        let shown =
            through.value("select expression from rektor.stat_indexes where index_name = 'f'");
        assert_eq!(shown, "subvector(v, 2, 2)::vector(2)");
    }
}

/// Rows that come, change and go; values that cannot be cast; a column that is renamed, and dropped.
#[test]
fn expressions_follow_their_column() {
    for server in [Server::Pg16, Server::Pg18] {
        let copies = copies(server);
        let mut pair = copies.sessions(&[]);
        pair.query("load 'vector'");
        let ask = |pair: &mut Pair, column: &str| {
            copies.rektor.catch_up(&mut copies.rektor.connect());
            let before = Answered::now(&copies.rektor).nominate;
            for sql in [
                format!(
                    "select id, {column}::halfvec(4) <-> '[1,2,3,4]' from item order by {column}::halfvec(4) <-> '[1,2,3,4]' limit 6"
                ),
                format!(
                    "select id from item order by subvector({column}, 1, 3)::vector(3) <=> '[3,2,-1]' limit 6"
                ),
            ] {
                pair.query(&sql);
            }
            let after = Answered::now(&copies.rektor).nominate;
            assert_eq!(after - before, 2.0, "{server:?} {column}");
        };
        ask(&mut pair, "v");
        for sql in [
            "insert into item (id, v) values (1000, '[1,2,3,4.25]'), (1001, '[1,2,3,4.5]'), (1002, '[3,2,-1,0]')",
            "update item set v = '[1.125,2,3,4]' where id = 17",
            "update item set v = null where id = 1002",
            "delete from item where id = 1000",
            "update item set id = 1005 where id = 17",
        ] {
            pair.query(sql);
            ask(&mut pair, "v");
        }
        // What a cast refuses is left out, and counted; on PostgreSQL's side such a search fails.
        let mut wire = copies.rektor.connect();
        wire.run("insert into item (id, v, free) values (2000, '[70000,2,3,4]', '[1,2,3]')");
        copies.rektor.catch_up(&mut wire);
        assert_eq!(
            wire.column("select id from item order by v::halfvec(4) <-> '[1,2,3,4]' limit 1")
                .len(),
            1
        );
        // In `free_l2` and `half_l2`, beside row 0 and those inserted without it.
        for (index, left_out) in [("half_l2", "3"), ("part", "2"), ("free_l2", "4")] {
            let sql = format!(
                "select missing + extra + differing, left_out, rows_table = rows_index + left_out, recall > 0.9 from rektor.verify_index('{index}')"
            );
            let expected = ["0", left_out, "t", "t"].map(|text| Some(text.to_owned()));
            assert_eq!(wire.rows(&sql), [expected], "{server:?} {index}");
        }
        wire.run("delete from item where id = 2000");
        for wire in [&mut pair.direct, &mut pair.through] {
            wire.run("alter table item rename v to w");
        }
        crate::harness::wait_for("the new name", std::time::Duration::from_secs(30), || {
            let shown = wire
                .value("select expression from rektor.stat_indexes where index_name = 'half_l2'");
            (shown == "w::halfvec(4)").then_some(())
        });
        ask(&mut pair, "w");
        pair.query("update item set w = '[1,2,3,4.0625]' where id = 30");
        ask(&mut pair, "w");
        for wire in [&mut pair.direct, &mut pair.through] {
            wire.run("alter table item drop column w");
        }
        crate::harness::wait_for(
            "the indexes to go",
            std::time::Duration::from_secs(30),
            || {
                let left = wire.value("select count(*) from rektor.index where column_name in ('v', 'w') and relation = 'item'::regclass");
                (left == "0").then_some(())
            },
        );
        pair.query("select id from item order by w::halfvec(4) <-> '[1,2,3,4]' limit 1");
    }
}
