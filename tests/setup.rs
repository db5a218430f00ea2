//! setup, teardown, check, and the SQL they install: every error with its SQLSTATE, on every server.

use std::io::Write as _;
use std::process::{Output, Stdio};

mod check;
mod definitions;

use crate::harness::{Database, Server, command};
use definitions::published;

fn rektor(arguments: &[&str], database: &Database<'_>) -> Output {
    command(arguments)
        .args(["--upstream", &database.url()])
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn succeed(arguments: &[&str], database: &Database<'_>) -> String {
    let output = rektor(arguments, database);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output)
}

/// A database with schema rektor and a table `items` of one row.
fn prepared(server: Server) -> Database<'static> {
    let database = server.shared().database();
    succeed(&["setup"], &database);
    let vector = server.vector_type(3);
    let value = server.vector_text("1,2,3");
    database.connect().run(&format!(
        "create table items (id int primary key, category text, price real, embedding {vector});
         insert into items values (1, 'a', 1, '{value}')"
    ));
    database
}

/// Everything in the database that setup could have made, and everything that was there before.
const OBJECTS: &str = "
    select pg_describe_object(classid, objid, 0) from (
        select 'pg_class'::regclass, oid from pg_class union all select 'pg_proc'::regclass, oid from pg_proc
        union all select 'pg_operator'::regclass, oid from pg_operator union all select 'pg_namespace'::regclass, oid from pg_namespace
        union all select 'pg_publication'::regclass, oid from pg_publication union all select 'pg_policy'::regclass, oid from pg_policy
        union all select 'pg_type'::regclass, oid from pg_type union all select 'pg_trigger'::regclass, oid from pg_trigger
    ) as o (classid, objid)
    where pg_describe_object(classid, objid, 0) !~ 'pg_toast|pg_temp' order by 1";

#[test]
fn setup_can_be_run_again_and_teardown_leaves_nothing() {
    for server in Server::ALL {
        let database = server.shared().database();
        let before = database.connect().column(OBJECTS);
        succeed(&["setup"], &database);
        let once = database.connect().column(OBJECTS);
        assert_ne!(before, once);
        let said = succeed(&["setup"], &database);
        assert!(
            said.starts_with("schema rektor and publication rektor are installed"),
            "{said}"
        );
        assert_eq!(once, database.connect().column(OBJECTS), "{server:?}");

        let said = succeed(&["teardown"], &database);
        assert!(
            said.contains("removed publication rektor\nremoved schema rektor\n"),
            "{said}"
        );
        assert_eq!(before, database.connect().column(OBJECTS), "{server:?}");
        assert_eq!(
            succeed(&["teardown"], &database),
            "nothing of Rektor's was there\n"
        );
    }
}

#[test]
fn teardown_removes_the_slot_but_not_from_under_its_user() {
    let database = prepared(Server::Plain);
    let slot = format!("rektor_{}", database.name);
    let mut wire = database.connect();
    wire.run(&format!(
        "select pg_create_logical_replication_slot('{slot}', 'pgoutput')"
    ));
    wire.run(&format!(
        "select pg_create_logical_replication_slot('other_{}', 'test_decoding')",
        database.name
    ));
    let said = succeed(&["teardown", "--slot", &slot], &database);
    assert!(
        said.contains(&format!("removed replication slot \"{slot}\"")),
        "{said}"
    );
    let other = format!("other_{}", database.name);
    let said = succeed(&["teardown", "--slot", &other], &database);
    assert!(
        said.contains("it is of another database or plugin"),
        "{said}"
    );
    assert_eq!(
        wire.column(&format!(
            "select slot_name from pg_replication_slots where database = '{}'",
            database.name
        )),
        std::slice::from_ref(&other)
    );
    wire.run(&format!("select pg_drop_replication_slot('{other}')"));
}

#[test]
fn teardown_stops_at_what_users_built_upon_it() {
    let database = prepared(Server::Pg18);
    let mut wire = database.connect();
    wire.run("create view my_monitor as select index_name, lag_bytes from rektor.stat_indexes");
    let output = rektor(&["teardown"], &database);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("view my_monitor depends on view rektor.stat_indexes"),
        "{error}"
    );
    assert_eq!(
        wire.value("select count(*) from pg_publication"),
        "1",
        "nothing was removed"
    );
    wire.run("drop view my_monitor");
    succeed(&["teardown"], &database);
}

#[test]
fn setup_printed_runs_as_the_databases_unprivileged_owner() {
    for server in Server::ALL {
        let database = server.shared().database();
        let owner = format!("owner_{}", database.name);
        database.connect().run(&format!(
            "create role {owner} login; alter database {} owner to {owner}",
            database.name
        ));
        let script = command(&["setup", "--print"]).output().unwrap();
        let mut psql = database.tool("psql", database.cluster.port);
        let mut psql = psql
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1"])
            .env("PGUSER", &owner)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        psql.stdin
            .take()
            .unwrap()
            .write_all(&script.stdout)
            .unwrap();
        let output = psql.wait_with_output().unwrap();
        assert!(output.status.success(), "{server:?}: {output:?}");

        let vector = server.vector_type(3);
        let mut wire = database.connect_as(&owner);
        wire.run(&format!(
            "create table items (id int primary key, embedding {vector})"
        ));
        wire.run("select rektor.create_index('own', 'items', 'embedding', options => '{\"dimensions\": 3}')");
        assert_eq!(published(&mut wire), ["index", "items"]);

        // A table of someone else's cannot be published by this owner: the error names the GRANT, and the GRANT mends it.
        let other = format!("other_{}", database.name);
        database.connect().run(&format!(
            "create role {other} login; grant create on schema public to {other}"
        ));
        let mut wire = database.connect_as(&other);
        wire.run(&format!(
            "create table others (id int primary key, embedding {vector})"
        ));
        let create = "select rektor.create_index('theirs', 'others', 'embedding', options => '{\"dimensions\": 3}')";
        let error = wire.try_rows(create).unwrap_err();
        assert_eq!(error.field(b'C').as_deref(), Some("42501"));
        let grant = format!("GRANT {other} TO {owner};");
        assert_eq!(
            error.field(b'H'),
            Some(format!("Let a superuser run: {grant}"))
        );
        let said = succeed(&["setup"], &database);
        assert!(said.contains(&format!("    {grant}\n")), "{said}");
        database.connect().run(&grant);
        wire.run(create);
    }
}

#[test]
fn real_arrays_have_pgvectors_operators() {
    let database = prepared(Server::Plain);
    let mut wire = database.connect();
    for (expression, value) in [
        ("'{1,2}'::real[] <-> '{4,6}'", "5"),
        ("'{1,2}'::real[] <#> '{3,4}'", "-11"),
        ("'{1,0}'::real[] <=> '{0,2}'", "1"),
        ("'{1,2}'::real[] <+> '{3,5}'", "5"),
        ("'{0,0}'::real[] <=> '{0,2}'", "NaN"),
        ("inner_product('{1,2}', '{3,4}')", "11"),
        ("l2_distance('{0,0}', '{3,4}')", "5"),
        ("l1_distance('{0,0}', '{3,4}')", "7"),
        ("cosine_distance('{1,1}', '{2,2}')", "0"),
        ("'{1,null}'::real[] <-> '{4,6}'", ""),
    ] {
        assert_eq!(
            wire.value(&format!("select {expression}")),
            value,
            "{expression}"
        );
    }
    let error = wire
        .try_rows("select '{1,2,3}'::real[] <-> '{1,2}'")
        .unwrap_err();
    assert_eq!(error.field(b'C').as_deref(), Some("22000"));
    assert_eq!(
        error.field(b'M').as_deref(),
        Some("different vector dimensions 3 and 2")
    );

    let mut wire = prepared(Server::Pg18).connect();
    let error = wire
        .try_rows("select '{1,2}'::real[] <-> '{4,6}'::real[]")
        .unwrap_err();
    assert_eq!(
        error.field(b'C').as_deref(),
        Some("42883"),
        "pgvector's own meaning stays"
    );
}

#[test]
fn stat_views_show_what_rektor_set() {
    let mut wire = prepared(Server::Pg16).connect();
    wire.run("create table t (id integer primary key, v vector(3))");
    wire.run("insert into rektor.index (name, relation, column_name, metric, dimensions) values ('a', 't', 'v', 'l2', 3)");
    let id = wire.value("select id from rektor.index");
    wire.run(&format!(r#"set rektor.stat_indexes = '[{{"index_id": {id}, "index_name": "a", "rows": 5, "applied_lsn": "0/1A", "percent": null}}, {{"index_id": 77, "index_name": "dropped"}}]'"#));
    let rows = wire.rows("select index_name, rows, applied_lsn, percent from rektor.stat_indexes");
    assert_eq!(
        rows,
        [[
            Some("a".to_owned()),
            Some("5".to_owned()),
            Some("0/1A".to_owned()),
            None
        ]]
    );
}

#[test]
fn setup_without_the_right_to_is_told_of_print() {
    let database = Server::Pg18.shared().database();
    let role = format!("poor_{}", database.name);
    database.connect().run(&format!("create role {role} login"));
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let output = command(&["setup", "--upstream", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("permission denied for database") && error.contains("rektor setup --print"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_server_that_is_not_there_is_one_line() {
    for arguments in [&["setup"][..], &["teardown"]] {
        let output = command(arguments)
            .args(["--upstream", "postgres://postgres:secret@127.0.0.1:1/x"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.starts_with("rektor: cannot connect to upstream: ") && !error.contains("secret"),
            "{error}"
        );
    }
    let output = command(&["check", "--upstream", "postgres://postgres@127.0.0.1:1/x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).starts_with("FAIL  cannot connect to upstream"));
    assert_eq!(
        command(&["setup"]).output().unwrap().status.code(),
        Some(2),
        "no database named"
    );
}
