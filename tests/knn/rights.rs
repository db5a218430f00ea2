//! Only what PostgreSQL would show: row security, grants on columns, roles changed in mid-session, shadowed names.

use super::fixture::{Answered, copies_with, query_vector};
use crate::harness::message::extended;
use crate::harness::{Server, Wire};
use crate::relay::compare::{Copies, Pair};

/// Sessions of a role on both copies.
fn sessions_of(copies: &Copies, role: &'static str) -> Pair {
    let mut pair = copies.sessions(&[]);
    pair.direct = copies.direct.connect_as(role);
    pair.through = copies.rektor.connect_as(role);
    pair
}

/// The statement simply and with a parameter, on both copies.
fn compare_both(pair: &mut Pair, label: &str, sql: &str, vector: &str) {
    pair.exchange(
        &format!("{label}: {sql}"),
        &extended(sql, &[Some(vector.as_bytes())], &[]),
        1,
        b"",
    );
    pair.query(&sql.replace("$1", &format!("'{vector}'")));
}

#[test]
fn roles_see_what_they_may() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2", "tenant_idx"]);
        let v = query_vector(server, 21);
        for (role, sql) in [
            // row security: six rows of 600 are the reader's
            ("reader", "select id from tenant order by v <-> $1 limit 5"),
            ("reader", "select id from tenant order by v <-> $1 limit 10"),
            ("reader", "select * from tenant order by v <-> $1 limit 100"),
            (
                "postgres",
                "select id from tenant order by v <-> $1 limit 10",
            ),
            // name and embedding may be read, the key may not
            (
                "keyless",
                "select name from item order by embedding <-> $1 limit 10",
            ),
            (
                "keyless",
                "select name from item where name like 'item 1%' order by embedding <-> $1 limit 10",
            ),
            (
                "keyless",
                "select id from item order by embedding <-> $1 limit 10",
            ),
            (
                "keyless",
                "select * from item order by embedding <-> $1 limit 10",
            ),
            // nothing may be read
            (
                "stranger",
                "select name from item order by embedding <-> $1 limit 10",
            ),
            (
                "stranger",
                "select id from tenant order by v <-> $1 limit 10",
            ),
            (
                "reader",
                "select name from item order by embedding <-> $1 limit 10",
            ),
        ] {
            let mut pair = sessions_of(&copies, role);
            compare_both(&mut pair, &format!("{server:?} as {role}"), sql, &v);
        }
    }
}

#[test]
fn a_role_changed_in_mid_session_counts_at_once() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies_with(server, &["item_l2", "tenant_idx"]);
        let mut pair = copies.sessions(&[]);
        let v = query_vector(server, 22);
        let tenant = "select id from tenant order by v <-> $1 limit 10";
        let item = "select id from item order by embedding <-> $1 limit 10";
        for change in [
            "set role reader",
            "set role keyless",
            "reset role",
            "set session authorization stranger",
            "reset session authorization",
            "begin; set local role stranger",
            "rollback",
            "select set_config('role', 'reader', false)",
            "discard all",
        ] {
            pair.query(change);
            compare_both(&mut pair, &format!("{server:?} after {change}"), tenant, &v);
            compare_both(&mut pair, &format!("{server:?} after {change}"), item, &v);
            if change.starts_with("begin") {
                continue; // the failed transaction is what the next one ends
            }
        }
    }
}

#[test]
fn a_revoked_right_counts_at_the_next_statement() {
    let server = Server::Pg18;
    let copies = copies_with(server, &["item_l2", "tenant_idx"]);
    let mut pair = sessions_of(&copies, "reader");
    let v = query_vector(server, 23);
    let sql = "select id from item order by embedding <-> $1 limit 10";
    compare_both(&mut pair, "granted", sql, &v);
    for statement in [
        "revoke select on item from reader",
        "grant select on item to reader",
    ] {
        copies.direct.connect().run(statement);
        copies.rektor.database.connect().run(statement);
        compare_both(&mut pair, statement, sql, &v);
    }
    for statement in [
        "alter table item enable row level security",
        "alter table item disable row level security",
    ] {
        copies.direct.connect().run(statement);
        copies.rektor.database.connect().run(statement);
        compare_both(&mut pair, statement, sql, &v);
    }
}

#[test]
fn a_table_that_shadows_the_indexed_one_is_searched_itself() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2", "tenant_idx"]);
        let v = query_vector(server, 24);
        let sql = "select id from item order by embedding <-> $1 limit 5";
        let vector_type = server.vector_type(4);
        for shadow in [
            format!(
                "create temporary table item (id int primary key, embedding {vector_type}); insert into item values (-1, '{v}')"
            ),
            format!(
                "create schema other; create table other.item (id int primary key, embedding {vector_type}); insert into other.item values (-2, '{v}'); set search_path = other, public"
            ),
            "reset search_path; drop schema other cascade".to_owned(),
            format!(
                "create schema postgres; create table postgres.item (id int, embedding {vector_type}); insert into postgres.item values (-3, '{v}')"
            ),
            "drop schema postgres cascade".to_owned(),
        ] {
            let mut pair = copies.sessions(&[]);
            compare_both(&mut pair, "before", sql, &v);
            pair.query(&shadow);
            compare_both(&mut pair, &format!("{server:?} after {shadow}"), sql, &v);
            pair.query("reset search_path");
            compare_both(&mut pair, "after reset", sql, &v);
            pair.query("drop table if exists pg_temp.item");
            compare_both(&mut pair, "after drop", sql, &v);
        }
    }
}

/// Keys of rows that a role may not see must not come back to it in any text.
#[test]
fn hidden_keys_do_not_show_in_plans_or_statements() {
    let server = Server::Pg18;
    let copies = copies_with(server, &["item_l2", "tenant_idx"]);
    let v = query_vector(server, 25);
    let mut wire: Wire = copies.rektor.connect_as("reader");
    let before = Answered::now(&copies.rektor);
    let seen = wire.rows(&format!(
        "select id, current_query() from tenant order by v <-> '{v}' limit 3"
    ));
    let plan = wire
        .column(&format!(
            "explain (analyze, costs off) select id from tenant order by v <-> '{v}' limit 3"
        ))
        .join("\n");
    let after = Answered::now(&copies.rektor);
    assert_ne!(before, after, "the search was not counted");
    for row in &seen {
        let text = row[1].as_deref().unwrap_or_default();
        assert!(
            !text.contains("{1,") && !text.contains("ARRAY["),
            "keys in current_query(): {text}"
        );
    }
    let conditions = plan
        .lines()
        .filter(|line| line.contains("Cond") || line.contains("Filter"));
    for line in conditions {
        assert!(!line.contains("'{"), "keys in the plan: {line}");
    }
}
