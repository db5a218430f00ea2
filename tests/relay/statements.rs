//! Single statements, each sent simply, extended with results in text, and extended with results in binary.

use super::compare::Copies;
use crate::harness::{Server, message};

/// Statements in an order that makes sense in one session. Lines that begin with `copy … from stdin` are followed by
/// the data in [`copy_data`].
const STATEMENTS: &[&str] = &[
    // nothing at all
    "",
    ";",
    "-- only a comment",
    "/* a /* nested */ comment */",
    // plain reads, every type
    "select 1",
    "select 1 as one, 'two'::text as two, null as nothing, 3.0 as three",
    "select",
    "select * from item order by id limit 7",
    "select * from typed",
    "select id, name, price, tags, data, seen from item where id between 10 and 20 order by id desc",
    "select count(*), sum(price), avg(price), min(name), max(seen) from item",
    "select data ->> 'n' as n, data from item order by id limit 3",
    "select i, count(*) over (partition by s order by a) from typed",
    "table cheap",
    "values (1, 'a'), (2, 'b')",
    "with recursive t(n) as (values (1) union all select n + 1 from t where n < 20) select sum(n) from t",
    "select a.id, b.id from item a left join owned b on a.id = b.id order by 1 limit 5",
    "select (pair()).*",
    "select * from pair()",
    "select row(1, 'x', null), array[[1, 2], [3, 4]], '(1,2)'::point",
    "select generate_series(1, 5) as n, 'x' || generate_series(1, 2)",
    "select distinct on (id % 3) id from item order by id % 3, id",
    "select id from item order by id fetch first 3 rows with ties",
    "select repeat('x', 100000) as long",
    "select n, repeat('y', 500) from generate_series(1, 5000) n",
    "select 'ünïcödé ☃', U&'\\0041', E'a\\tb', $$dollar $1 quoted$$",
    "select \"quoted \"\"name\"\"\" from (values (1)) v(\"quoted \"\"name\"\"\")",
    "select 1; select 2",
    "select 1 as a; select 2 as b; select 3 as c",
    "select 1; select 1 / 0; select 3",
    "select 1; ; select 2;",
    // writes
    "insert into account values (21, 5), (22, 6)",
    "insert into account values (23, 7) returning *, balance * 2 as double",
    "insert into account values (23, 8) on conflict (id) do update set balance = excluded.balance returning id, balance",
    "update account set balance = balance + 1 where id > 20",
    "update account set balance = 0 where false",
    "delete from account where id > 20 returning id",
    "with moved as (delete from account where id = 20 returning *) insert into account select id + 100, balance from moved",
    "update account set id = 20 where id = 120",
    "merge into account a using (values (19, 1), (30, 2)) v(id, n) on a.id = v.id when matched then update set balance = v.n when not matched then insert values (v.id, v.n)",
    "delete from account where id = 30",
    "insert into owned (account, note) values (1, 'first') returning id",
    "insert into owned (account, note) values (2, 'second')",
    "select * from audit",
    "delete from owned",
    "truncate owned restart identity",
    "select nextval('counter'), currval('counter')",
    "select setval('counter', 1)",
    // errors, with every field
    "select 1 / 0",
    "selec 1",
    "select * from missing",
    "select missing from item",
    "select id, name, from item",
    "select 'abc'::int",
    "select '2026-13-45'::date",
    "select complain('it went wrong')",
    "insert into account values (1, 1)",
    "insert into account values (50, -1)",
    "insert into account values (null, 1)",
    "insert into owned (account) values (99999)",
    "insert into owned (note) values ('longer than twenty characters')",
    "select 0::positive",
    "select 'glad'::mood",
    "select missing_function(1)",
    "select add('x', 1)",
    "select 1 + 'a'::text",
    "select (select id from item)",
    "select * from item where id = $1",
    "drop table account",
    "commit prepared 'none'",
    "set work_mem = 'lots'",
    "show missing.setting",
    "select '\\x00'::text || chr(0)",
    "select 'unterminated",
    "lock table item",
    "vacuum missing",
    "create database template1",
    // notices and warnings
    "select mention('hello')",
    "do $$ begin raise notice 'from do'; raise info 'an info'; raise log 'not seen'; end $$",
    "drop table if exists not_there",
    "create table if not exists item (id int)",
    "commit",
    "rollback",
    "begin",
    "begin",
    "select 1",
    "commit",
    "set client_min_messages = debug1",
    "drop view if exists not_there_either",
    "reset client_min_messages",
    "create table truncated_to_sixty_three_characters_which_is_what_postgres_does_with_names (a int)",
    "drop table truncated_to_sixty_three_characters_which_is_what_postgres_does_with_names",
    // transactions
    "begin isolation level repeatable read",
    "show transaction_isolation",
    "insert into account values (60, 1)",
    "savepoint s",
    "insert into account values (60, 1)",
    "select 1",
    "rollback to s",
    "select count(*) from account where id = 60",
    "release s",
    "release s",
    "rollback",
    "begin",
    "select 1 / 0",
    "select 1",
    "commit",
    "start transaction read only",
    "insert into account values (61, 1)",
    "end",
    "begin; insert into account values (62, 1); rollback",
    "begin; select 1 / 0; commit",
    "rollback",
    "begin; insert into account values (63, 1); commit; delete from account where id = 63",
    "set transaction isolation level serializable",
    "begin",
    "set transaction isolation level serializable",
    "set local statement_timeout = '1min'",
    "show statement_timeout",
    "commit",
    "show statement_timeout",
    "begin",
    "set constraints all deferred",
    "commit and chain",
    "rollback",
    // settings
    "set application_name = 'comparison'",
    "show application_name",
    "set datestyle = 'German, DMY'",
    "select date '2026-02-28'",
    "reset datestyle",
    "set time zone 'Europe/Berlin'",
    "select seen from item where id = 1",
    "set intervalstyle = 'iso_8601'",
    "select h from typed",
    "reset all",
    "select set_config('my.own', 'value', false), current_setting('my.own'), current_setting('my.other', true)",
    "set search_path = pg_catalog, public",
    "show search_path",
    "reset search_path",
    "set extra_float_digits = 0",
    "select 0.1::float8 + 0.2::float8, 1e-10::real",
    "reset extra_float_digits",
    "set standard_conforming_strings = off",
    "select 'a\\\\b'",
    "reset standard_conforming_strings",
    "set bytea_output = 'escape'",
    "select e from typed",
    "reset bytea_output",
    "set session characteristics as transaction read only",
    "insert into account values (64, 1)",
    "set session characteristics as transaction read write",
    "set client_encoding = 'LATIN1'",
    "select chr(252)",
    "select chr(9731)",
    "reset client_encoding",
    // roles and row security
    "set role reader",
    "select current_user, session_user",
    "select * from secret",
    "select name from item",
    "select id from item order by id limit 2",
    "insert into secret values (3, 'reader', 'x')",
    "reset role",
    "select * from secret order by id",
    "set session authorization reader",
    "select count(*) from secret",
    "reset session authorization",
    // prepared statements and cursors in SQL
    "prepare p (int) as select name from item where id = $1",
    "execute p(3)",
    "execute p('x')",
    "explain (costs off) execute p(3)",
    "prepare p as select 1",
    "deallocate p",
    "execute p(3)",
    "prepare q as insert into account values ($1, 1)",
    "execute q(70)",
    "delete from account where id = 70",
    "deallocate all",
    "begin",
    "declare c scroll cursor for select id, name from item order by id",
    "fetch 3 from c",
    "fetch backward 2 from c",
    "move 5 in c",
    "fetch all from c",
    "close c",
    "fetch c",
    "rollback",
    "declare held cursor with hold for select id from item order by id limit 4",
    "fetch 2 from held",
    "close all",
    "begin",
    "select cursors()",
    "fetch all from from_function",
    "commit",
    // procedures, functions, DO
    "call pay(1, 2, 10)",
    "call pay(1, 2, 100000)",
    "call pay(2, 1, 10)",
    "call give(21)",
    "do $$ begin perform 1; end $$",
    "do language plpgsql $$ begin perform complain('inside do'); end $$",
    "select add(1, 2)",
    // DDL
    "create table made (id int generated always as identity primary key, v text default 'd')",
    "insert into made default values returning *",
    "alter table made add column w int not null default 5",
    "select * from made",
    "create index made_w on made (w)",
    "create unique index concurrently made_v on made (v)",
    "drop index concurrently made_v",
    "reindex table made",
    "alter index made_w rename to made_w2",
    "drop index made_w2",
    "drop index made_w2",
    "alter index if exists made_w2 set (fillfactor = 50)",
    "create view made_view as select * from made",
    "create or replace view made_view as select * from made where id > 0",
    "drop table made",
    "drop table made cascade",
    "create table copied as select id, name from item where id < 4",
    "select * from copied order by id",
    "select id into temp other from item where id < 3",
    "comment on table copied is 'a comment'",
    "analyze copied",
    "vacuum copied",
    "drop table copied, other",
    "create temporary table item (x int)",
    "select * from item",
    "drop table pg_temp.item",
    "create schema s create table t (a int)",
    "set search_path = s",
    "select * from t",
    "reset search_path",
    "drop schema s cascade",
    "grant update on item to reader",
    "revoke update on item from reader",
    "create role postgres",
    "drop role no_such_role",
    "drop role if exists no_such_role",
    "create extension if not exists plpgsql",
    // plans
    "explain (costs off) select * from item where id = 5",
    "explain (costs off, format json) select * from item order by name",
    "explain (costs off, verbose) update account set balance = 1 where id = 1",
    "explain (analyze, costs off, timing off, summary off, buffers off) select * from item where id < 5",
    // COPY
    "copy (select id, name from item order by id limit 5) to stdout",
    "copy item to stdout with (format csv, header)",
    "copy (select id, tags from item order by id limit 5) to stdout with (format binary)",
    "copy account from stdin",
    "copy account (id, balance) from stdin with (format csv)",
    "delete from account where id >= 1000",
    "copy missing from stdin",
    "copy (select 1 / 0) to stdout",
    "copy (select id, 1 / (3 - id) from item order by id) to stdout",
    // asynchronous messages
    "listen channel",
    "notify channel, 'payload'",
    "select pg_notify('channel', n::text) from generate_series(1, 3) n",
    "begin; notify channel, 'later'; commit",
    "unlisten *",
    "notify channel",
    // locking and advisory locks
    "select id from item where id = 1 for update",
    "select pg_advisory_lock(42), pg_advisory_unlock(42), pg_advisory_unlock(42)",
    "select pg_sleep(0.01)",
    "select txid_current_if_assigned()",
    "set statement_timeout = '1s'",
    "select pg_sleep(5)",
    "reset statement_timeout",
    // words that a front end might mistake for its own
    "select 'create index i on t using faiss (v)' as text",
    "select 'a <-> b', '<=>', '<#>'",
    "create index on item using faiss_not (name)",
    "select 1 as rektor, 2 as faiss",
    "drop index if exists rektor_not_there",
    "alter index if exists rektor_not_there rename to other",
    "select point '(1,2)' <-> point '(4,6)' as distance",
    "select id from item order by point(id, 0) <-> point '(3.2, 0)' limit 3",
    "select 'fat cat'::tsquery <-> 'rat'::tsquery",
    "set rektor.nothing = '1'",
    "show rektor.nothing",
    "reset rektor.nothing",
    "discard plans",
    "discard sequences",
    "discard temp",
    "discard all",
    "begin",
    "discard all",
    "rollback",
    "select count(*) from pg_prepared_statements",
    "select count(*) from pg_cursors where name <> ''",
    "checkpoint",
];

/// More of them, where pgvector is installed: its statements on a table without an index of Rektor's.
const VECTOR_STATEMENTS: &[&str] = &[
    "select * from embedded order by id limit 5",
    "select id, embedding <-> '[1,2,3]' as d from embedded order by d, id limit 5",
    "select id from embedded order by embedding <=> '[1,2]' limit 5",
    "select id from embedded order by embedding <-> '[1,NaN,2]' limit 5",
    "select id from embedded order by embedding <-> array[1,2,3] limit 5",
    "select id, half <-> '[1,2,3]' from embedded order by 2, 1 limit 3",
    "select id, bits <~> B'101' from embedded order by 2, 1 limit 3",
    "select id, sparse <#> '{1:1}/5' from embedded order by 2, 1 limit 3",
    "select avg(embedding), sum(embedding) from embedded",
    "select l2_distance(embedding, '[1,2,3]'), cosine_distance(embedding, '[1,2,3]') from embedded order by id limit 3",
    "insert into embedded values (1000, '[1,2]')",
    "insert into embedded values (1001, '[0,0,0]'), (1002, null)",
    "select id, embedding <=> '[1,1,1]' from embedded where id > 1000 order by 2, 1",
    "create index embedded_hnsw on embedded using hnsw (embedding vector_l2_ops)",
    "set hnsw.ef_search = 20",
    "show hnsw.ef_search",
    "set hnsw.ef_search = 0",
    "reset hnsw.ef_search",
    "set enable_seqscan = off",
    "reset enable_seqscan",
    "drop index embedded_hnsw",
    "create index on embedded using ivfflat (embedding vector_cosine_ops) with (lists = 0)",
    "create index on embedded using hnsw (embedding missing_ops)",
    "delete from embedded where id >= 1000",
    "copy embedded (id, embedding) to stdout (format binary)",
    "select '[1,2,3]'::vector::real[], '{1,2,3}'::real[]::vector, vector_dims('[1,2]')",
];

/// What a `copy … from stdin` of the list reads.
fn copy_data(sql: &str) -> &'static [u8] {
    if sql.contains("csv") {
        b"1003,4\n1004,5\n"
    } else {
        b"1001\t2\n1002\t3\n\\.\n"
    }
}

/// How a statement is sent.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    Simple,
    ExtendedText,
    ExtendedBinary,
}

fn same_frames(server: Server, protocol: Protocol) {
    let copies = Copies::new(server);
    let mut pair = copies.sessions(&[]);
    let vector = if server.has_pgvector() {
        VECTOR_STATEMENTS
    } else {
        &[]
    };
    assert!(STATEMENTS.len() > 200);
    for sql in STATEMENTS.iter().chain(vector) {
        let bytes = match protocol {
            Protocol::Simple => message::query(sql),
            Protocol::ExtendedText => message::extended(sql, &[], &[]),
            Protocol::ExtendedBinary => message::extended(sql, &[], &[1]),
        };
        let label = format!("{server:?} {protocol:?}: {sql}");
        pair.exchange(&label, &bytes, 1, copy_data(sql));
    }
}

#[test]
fn simple_protocol_on_plain() {
    same_frames(Server::Plain, Protocol::Simple);
}

#[test]
fn extended_protocol_in_text_on_plain() {
    same_frames(Server::Plain, Protocol::ExtendedText);
}

#[test]
fn simple_protocol_on_16() {
    same_frames(Server::Pg16, Protocol::Simple);
}

#[test]
fn extended_protocol_in_binary_on_16() {
    same_frames(Server::Pg16, Protocol::ExtendedBinary);
}

#[test]
fn simple_protocol_on_18() {
    same_frames(Server::Pg18, Protocol::Simple);
}

#[test]
fn extended_protocol_in_text_on_18() {
    same_frames(Server::Pg18, Protocol::ExtendedText);
}

#[test]
fn extended_protocol_in_binary_on_18() {
    same_frames(Server::Pg18, Protocol::ExtendedBinary);
}
