//! Row security with policies that look things up, views over views, roles changed by every means, tables that get rows which no
//! stream tells of: what PostgreSQL shows, directly and through Rektor.

use std::fmt::Write;
use std::process::Stdio;
use std::time::Duration;

use super::fixture::{Answered, query_vector};
use super::statements::{Protocol, messages, widen};
use crate::harness::{Database, Random, Rektor, Server, Wire, wait_for};
use crate::relay::compare::{Copies, Pair};

const ROWS: usize = 1_200;

fn fill(database: &Database<'_>, server: Server) {
    let mut wire = database.connect();
    wire.run(&include_str!("policies.sql").replace("{v}", &server.vector_type(4)));
    let mut random = Random::new(61);
    for (table, columns) in [
        ("place", "id, org, kind, secret, v"),
        ("room", "id, org, kind, v"),
        ("old", "id, v"),
    ] {
        let mut sql = format!("insert into {table} ({columns}) values ");
        for n in 0..ROWS {
            let comma = if n > 0 { ", " } else { "" };
            let v = random.vector(4, server);
            let kind = ["'a'", "'hidden'", "null", "'b'"][n % 7 % 4];
            match table {
                "place" => write!(sql, "{comma}({n}, {}, {kind}, 's{n}', '{v}')", n % 9),
                "room" => write!(sql, "{comma}({n}, {}, {kind}, '{v}')", 1 + n % 2),
                _ => write!(sql, "{comma}({n}, '{v}')"),
            }
            .unwrap();
        }
        wire.run(&sql);
    }
}

fn copies(server: Server) -> Copies {
    let copies = Copies::of(server, |database| fill(database, server));
    let options = if server.has_pgvector() {
        ""
    } else {
        " with (dimensions = 4)"
    };
    for (table, include) in [
        ("place", " include (org, kind)"),
        ("room", " include (kind)"),
        ("old", ""),
    ] {
        let create = format!(
            "create index {table}_idx on {table} using faiss (v vector_l2_ops){include}{options}"
        );
        copies.rektor.create_index(&create, &format!("{table}_idx"));
    }
    copies
}

fn sessions_of(copies: &Copies, role: &str) -> Pair {
    let mut pair = copies.sessions(&[]);
    pair.direct = copies.direct.connect_as(role);
    pair.through = copies.rektor.connect_as(role);
    pair
}

/// Searches that each role makes.
const SEARCHES: &[&str] = &[
    "select id, kind from place order by v <-> $1 limit 5",
    "select id, org from place order by v <-> $1 limit 2000",
    "select id from place where org = 1 order by v <-> $1 limit 10",
    "select id from place where org = 1 order by v <-> $1 limit 300",
    "select id from place where kind = 'hidden' order by v <-> $1 limit 10",
    "select id from place where kind is distinct from 'a' and (org = 2 or kind is null) order by v <-> $1 limit 20",
    "select id from place where org in (select org from org_member) order by v <-> $1 limit 10",
    "select id from place where leaks(id, kind) order by v <-> $1 limit 3",
    "select secret from place where org = 1 order by v <-> $1 limit 3",
    "select * from place order by v <-> $1 limit 3",
    "select p.id, (select count(*) from place q where q.org = p.org) from place p order by v <-> $1 limit 4",
    "select id from near order by v <-> $1 limit 5",
    "select id from near_barrier where org = 1 order by v <-> $1 limit 5",
    "select id from near_barrier where leaks(id, kind) order by v <-> $1 limit 3",
    "select id from near_invoker order by v <-> $1 limit 5",
    "select id from over order by v <-> $1 limit 500",
    "select id, org from room order by v <-> $1 limit 20",
    "select id, org from room where kind = 'b' order by v <-> $1 limit 400",
    "select id from room_1 order by v <-> $1 limit 5",
    "select id from (select id, v from place order by v <-> $1 limit 30) s order by id limit 7",
];

fn search_all(pair: &mut Pair, label: &str, server: Server, seed: u64) {
    for (n, sql) in (0..).zip(SEARCHES) {
        let v = query_vector(server, seed * 100 + n);
        for protocol in [Protocol::Simple, Protocol::Text] {
            let (bytes, ready) = messages(protocol, sql, &[&v]);
            pair.exchange(&format!("{server:?} {label}: {sql}"), &bytes, ready, b"");
        }
    }
}

#[test]
fn policies_and_views_decide() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies(server);
        for role in ["reader", "writer", "stranger"] {
            let mut pair = sessions_of(&copies, role);
            widen(&mut pair, server);
            for setting in [
                "select 1",
                "set app.tenant = '3'",
                "set app.all = 'on'",
                "set row_security = off",
            ] {
                pair.query(setting);
                search_all(&mut pair, &format!("as {role} after {setting}"), server, 1);
            }
        }
    }
}

/// EXPLAIN does not count rows that policies hide, nor those that a condition would find among them.
#[test]
fn explain_counts_only_for_those_who_see_all() {
    let copies = copies(Server::Pg18);
    let explain =
        "explain select id from place where org = 2 and kind = 'a' order by v <-> $1 limit 1";
    let v = query_vector(Server::Pg18, 31);
    let lines = |role: &str, protocol: Protocol| {
        let (bytes, _) = messages(protocol, explain, &[&v]);
        let frames = copies.rektor.connect_as(role).roundtrip(&bytes);
        let rows = frames.iter().filter(|frame| frame.tag == b'D');
        let lines = rows.filter_map(|row| row.texts().remove(0));
        let lines = lines.skip_while(|line| !line.starts_with("Rektor"));
        lines.collect::<Vec<_>>().join("\n")
    };
    for protocol in [Protocol::Simple, Protocol::Text] {
        let told = lines("postgres", protocol);
        for part in [" of 1200 rows,", "1200 rows)", "up to 524,"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let told = lines("reader", protocol);
        for part in [
            "Rektor: nominate",
            "place_idx (hnsw, l2)",
            "while short, then",
            "Filter: org, kind (compared one by one)",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains("rows"), "{told}");
    }
}

#[test]
fn a_role_taken_by_any_means_counts() {
    let server = Server::Pg18;
    let copies = copies(server);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    for (n, change) in (0..).zip([
        "set role reader",
        "set session authorization writer",
        "begin; set local role stranger; set local app.tenant = '5'",
        "rollback to savepoint none",
        "rollback",
        "select set_config('role', 'stranger', false), set_config('app.tenant', '4', false)",
        "reset session authorization",
        "do $$ begin perform set_config('role', 'writer', false); end $$",
        "discard all",
    ]) {
        pair.query(change);
        search_all(&mut pair, &format!("after {change}"), server, 2 + n);
    }
    // a policy and a member's row change while it goes on, in another session and in this one
    let mut pair = sessions_of(&copies, "reader");
    widen(&mut pair, server);
    for (n, change) in (0..).zip([
        "insert into org_member values ('reader', 3)",
        "delete from org_member where org = 1",
        "alter policy members on place using (org = 8)",
        "alter table place disable row level security",
    ]) {
        copies.direct.connect().run(change);
        copies.rektor.database.connect().run(change);
        search_all(&mut pair, &format!("after {change}"), server, 20 + n);
    }
}

/// Rows and values that no stream tells of, at once in the session that made them.
#[test]
fn what_ddl_brings_is_seen_by_its_session() {
    let server = Server::Pg18;
    let v = query_vector(server, 71);
    let kind = server.vector_type(4);
    for change in [
            format!("create table child () inherits (place); insert into child values (-1, 1, 'b', 's', '{v}')"),
            format!(
                "create table room_3 (id int, org int not null, kind text, v {kind}, primary key (id, org));
                 insert into room_3 values (-1, 3, 'b', '{v}');
                 alter table room attach partition room_3 for values in (3)"
            ),
            "alter table place alter kind type text collate \"POSIX\"".to_owned(),
            "alter table room detach partition room_2".to_owned(),
            "truncate room_1".to_owned(),
            "alter table place rename kind to sort; alter table place rename secret to kind".to_owned(),
            "alter table place drop kind; alter table place add kind text default 'b'".to_owned(),
            "drop table old; create table old (id int primary key, v int[])".to_owned(),
            format!("alter table old rename to older; create table old as select id, v from older limit 10; insert into old values (-1, '{v}')"),
            "create temp view place as select 1 as id, 'b' as kind, null::real[] as v".to_owned(),
        ] {
            let copies = copies(server);
            let mut pair = copies.sessions(&[]);
            widen(&mut pair, server);
            let searches = [
                "select id from place where kind = 'b' order by v <-> $1 limit 5",
                "select id from room order by v <-> $1 limit 5",
                "select id from old order by v <-> $1 limit 5",
            ];
            let mut nominated = 0.0;
            for time in ["before", "after", "again after", "later after"] {
                if time == "after" {
                    pair.query(&change);
                }
                let mut search_all = || {
                    for sql in searches {
                        for protocol in [Protocol::Simple, Protocol::Text] {
                            let (bytes, ready) = messages(protocol, sql, &[&v]);
                            let label = format!("{server:?} {time} {change}: {sql}");
                            pair.exchange(&label, &bytes, ready, b"");
                        }
                    }
                    let before = std::mem::replace(&mut nominated, Answered::now(&copies.rektor).nominate);
                    (nominated > before).then_some(())
                };
                if time == "later after" {
                    // the session is answered from indexes again, where one is ready
                    wait_for(&change, Duration::from_secs(20), search_all);
                } else {
                    search_all();
                }
            }
        }
}

/// A dump made through Rektor, and restored through it into another database: its indexes come back there, and answer.
#[test]
fn a_dump_is_restored_through_rektor() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies(server);
        let mut indexes = vec!["place_idx", "room_idx", "old_idx"];
        if server.has_pgvector() {
            for (name, column) in [
                ("place_half", "(v::halfvec(4)) halfvec_cosine_ops"),
                ("place_bits", "(binary_quantize(v)::bit(4)) bit_hamming_ops"),
                (
                    "place_part",
                    "(subvector(v, 1, 2)::vector(2)) vector_l2_ops",
                ),
            ] {
                copies.rektor.create_index(
                    &format!("create index {name} on place using faiss ({column})"),
                    name,
                );
                indexes.push(name);
            }
        }
        for custom in [false, true] {
            let target = copies.rektor.database.cluster.empty_database();
            let port = copies.rektor.port;
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut dump = copies.rektor.database.tool("pg_dump", port);
            dump.args([
                "-f",
                file.path().to_str().unwrap(),
                if custom { "-Fc" } else { "-Fp" },
            ]);
            let dumped = dump.output().unwrap();
            assert!(dumped.status.success(), "{dumped:?}");
            let mut restore = target.tool(if custom { "pg_restore" } else { "psql" }, port);
            let arguments = if custom {
                vec!["--exit-on-error", "--jobs=2", "-d", &target.name]
            } else {
                vec!["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]
            };
            let restored = restore
                .args(arguments)
                .arg(file.path())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(restored.status.success(), "{restored:?}");
            let rektor = Rektor::serve(&target);
            for index in &indexes {
                rektor.wait_ready(index);
            }
            answers_as(&copies.direct, &rektor, server);
        }
    }
}

/// The restored database gives what the first one gives, from its indexes.
fn answers_as(direct: &Database<'_>, rektor: &Rektor<'_>, server: Server) {
    let v = query_vector(server, 72);
    let mut searches = vec![
        "select id from place where org = 1 order by v <-> $1 limit 10",
        "select id from room where kind = 'b' order by v <-> $1 limit 10",
        "select id from old order by v <-> $1 limit 10",
    ];
    if server.has_pgvector() {
        searches.extend([
            "select id from place order by v::halfvec(4) <=> $1 limit 10",
            "select id from place order by subvector(v, 1, 2)::vector(2) <-> subvector($1::vector, 1, 2) limit 10",
        ]);
    }
    let (mut exact, mut through): (Wire, Wire) = (direct.connect(), rektor.connect());
    for sql in searches {
        let sql = sql.replace("$1", &format!("'{v}'"));
        let before = Answered::now(rektor);
        assert_eq!(exact.rows(&sql), through.rows(&sql), "{sql}");
        assert_eq!(
            Answered::now(rektor).nominate,
            before.nominate + 1.0,
            "{sql}"
        );
    }
}
