//! Searches in a table that others are joined with: one of the same name in another schema, and views.

use super::fixture::{Answered, query_vector};
use super::statements::{Protocol, messages, widen};
use crate::harness::{Database, Random, Server};
use crate::relay::compare::Copies;

const TABLES: &str = "
create schema archive;
create table items (id int primary key, org int, embedding {v});
create table archive.items (id int primary key, note text, embedding {v});
create table composite (a int, b int, embedding {v}, primary key (a, b));
create table archive.composite (a int, b int, embedding {v}, primary key (a, b));
create table audit (id int);
create function noted(id int) returns int language plpgsql as 'begin insert into audit values (id); return id; end';
create view seen as select noted(id) as id from items where id in (3, 5, 9);
create view over_seen as select id from seen;
create view plain_view as select id from items where id % 2 = 0;
create materialized view kept as select id from items where id % 2 = 0;";

fn fill(database: &Database<'_>, server: Server) {
    let mut wire = database.connect();
    wire.run(&TABLES.replace("{v}", &server.vector_type(4)));
    let mut random = Random::new(81);
    for n in 0..600 {
        let v = random.vector(4, server);
        wire.run(&format!(
            "insert into items values ({n}, {}, '{v}');
             insert into archive.items values ({n}, 'n', '{v}');
             insert into composite values ({n}, {}, '{v}');
             insert into archive.composite values ({n}, {}, '{v}')",
            n % 3,
            n % 7,
            n % 7
        ));
    }
    wire.run("refresh materialized view kept");
}

fn copies(server: Server) -> Copies {
    let copies = Copies::of(server, |database| fill(database, server));
    let options = match server.has_pgvector() {
        true => "",
        false => " with (dimensions = 4)",
    };
    for table in ["items", "composite"] {
        let create = format!(
            "create index {table}_idx on public.{table} using faiss (embedding vector_l2_ops){options}"
        );
        copies.rektor.create_index(&create, &format!("{table}_idx"));
    }
    copies
}

/// Each statement by itself and inside a transaction; how often it was nominated.
fn nominated(copies: &Copies, sql: &str, parameters: &[&str]) -> f64 {
    let server = copies.direct.cluster.server;
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let before = Answered::now(&copies.rektor);
    for outside in [true, false] {
        for protocol in [Protocol::Simple, Protocol::Text] {
            if !outside {
                pair.query("begin");
            }
            let (bytes, ready) = messages(protocol, sql, parameters);
            pair.exchange(&format!("{server:?}: {sql}"), &bytes, ready, b"");
            if !outside {
                pair.query("commit");
            }
        }
    }
    Answered::now(&copies.rektor).nominate - before.nominate
}

#[test]
fn a_table_of_the_same_name_in_another_schema() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies(server);
        let v = query_vector(server, 41);
        let mut searches = vec![
            "select public.items.id from public.items join archive.items on archive.items.id = public.items.id order by public.items.embedding <-> $1 limit 5",
            "select archive.items.note from archive.items, public.items where archive.items.id = public.items.id and public.items.org = 1 order by public.items.embedding <-> $1 limit 5",
            "select public.composite.b from public.composite join archive.composite using (a) order by public.composite.embedding <-> $1 limit 5",
            "select * from (select public.items.id, public.items.embedding from public.items join archive.items on archive.items.id = public.items.id order by public.items.embedding <-> $1 limit 9) s order by id limit 4",
            "with s as (select public.items.id from public.items join archive.items on archive.items.id = public.items.id order by public.items.embedding <-> $1 limit 9) select id from s order by id",
            "select id from public.items order by public.items.embedding <-> $1 limit 5",
        ];
        if server.has_pgvector() {
            searches.push("select q.n, r.id from unnest(array[$1]::vector[]) with ordinality as q(v, n) cross join lateral (select id from public.items order by public.items.embedding <-> q.v limit 3) r order by 1, 2");
        }
        for sql in searches {
            assert_eq!(nominated(&copies, sql, &[&v]), 4.0, "{server:?}: {sql}");
        }
    }
}

/// A view's functions are called as often as PostgreSQL calls them.
#[test]
fn views_are_not_run_twice() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies(server);
        let v = query_vector(server, 42);
        for (view, times) in [
            ("seen", 0.0),
            ("over_seen", 0.0),
            ("plain_view", 0.0),
            ("kept", 4.0),
            ("archive.items", 4.0),
        ] {
            for sql in [
                format!(
                    "select i.id from items i join {view} s on s.id = i.id order by i.embedding <-> $1 limit 5"
                ),
                format!(
                    "select i.id from items i where i.id in (select id from {view}) order by i.embedding <-> $1 limit 5"
                ),
            ] {
                assert_eq!(nominated(&copies, &sql, &[&v]), times, "{server:?}: {sql}");
            }
        }
        let mut pair = copies.sessions(&[]);
        pair.query("select id, count(*) from audit group by id order by id");
        let explain = format!(
            "explain select i.id from items i join seen s on s.id = i.id order by i.embedding <-> '{v}' limit 5"
        );
        let plan = pair.through.column(&explain).join("\n");
        assert!(
            plan.contains("Rektor: relay (joined with a view)"),
            "{plan}"
        );
    }
}
