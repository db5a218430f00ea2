//! setup, teardown, check, and the SQL they install: every error with its SQLSTATE, on every server.

use std::io::Write as _;
use std::process::{Output, Stdio};

use crate::harness::{Cluster, Database, Server, Wire, command};

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

fn published(wire: &mut Wire) -> Vec<String> {
    wire.column("select tablename from pg_publication_tables where pubname = 'rektor' order by 1")
}

#[test]
fn a_table_is_published_as_long_as_it_has_an_index() {
    for server in Server::ALL {
        let database = prepared(server);
        let mut wire = database.connect();
        wire.run("begin; select rektor.create_index('a', 'items', 'embedding'); rollback");
        assert_eq!(published(&mut wire), ["index"]);
        wire.run("select rektor.create_index('a', 'items', 'embedding')");
        wire.run("select rektor.create_index('b', 'items', 'embedding', 'vector_cosine_ops')");
        assert_eq!(published(&mut wire), ["index", "items"]);
        wire.run("select rektor.drop_index('public.a')");
        assert_eq!(published(&mut wire), ["index", "items"]);
        wire.run("select rektor.drop_index('b')");
        assert_eq!(published(&mut wire), ["index"]);
        // A dropped table takes its index along, at the next change of any.
        wire.run("select rektor.create_index('a', 'items', 'embedding')");
        wire.run("create table kept (like items including all); drop table items");
        wire.run("select rektor.create_index('a', 'kept', 'embedding', options => '{\"dimensions\": 3}')");
        assert_eq!(
            wire.column("select relation::text from rektor.index"),
            ["kept"]
        );
    }
}

#[test]
fn definitions_are_stored_checked() {
    for server in Server::ALL {
        let database = prepared(server);
        let mut wire = database.connect();
        wire.run(
            r#"call rektor.ddl('{"create_index": {"name": null, "schema": null, "table": "items", "only": false,
                "column": "embedding", "opclass": "vector_cosine_ops", "include": ["category", "price"],
                "options": {"method": "HNSW", "m": "24"}, "if_not_exists": false}}')"#,
        );
        wire.run("select rektor.create_index(null, 'items', 'embedding')");
        wire.run(
            r#"select rektor.create_index(null, 'items', 'embedding', options => '{"m": 60}')"#,
        );
        wire.run(r#"select rektor.create_index(null, 'items', 'embedding', options => '{"dimensions": 3}')"#);
        wire.run("select rektor.create_index('items_embedding_idx', 'items', 'embedding', if_not_exists => true)");
        let found = wire.rows(
            "select name, metric, dimensions, include, options from rektor.index order by id",
        );
        let expected = [
            [
                "items_embedding_category_price_idx",
                "cosine",
                "3",
                "{category,price}",
                r#"{"m": 24, "method": "hnsw"}"#,
            ],
            ["items_embedding_idx", "l2", "3", "{}", "{}"],
            [
                "items_embedding_idx1",
                "l2",
                "3",
                "{}",
                r#"{"m": 60, "ef_construction": 120}"#,
            ],
            ["items_embedding_idx2", "l2", "3", "{}", "{}"],
        ];
        let expected: Vec<Vec<_>> = expected
            .iter()
            .map(|row| row.map(|v| Some(v.to_owned())).to_vec())
            .collect();
        assert_eq!(found, expected, "{server:?}");

        wire.run(
            r#"call rektor.ddl('{"rename_index": {"schema": null, "name": "items_embedding_idx", "new_name": "n"}}');
               call rektor.ddl('{"alter_index": {"schema": "public", "name": "n", "set": {"m": 8}, "reset": ["method"]}}');
               call rektor.ddl('{"reindex": {"schema": null, "name": "n"}}')"#,
        );
        let found = wire.rows("select options, reindexed from rektor.index where name = 'n'");
        assert_eq!(
            found,
            [[Some(r#"{"m": 8}"#.to_owned()), Some("1".to_owned())]]
        );
        // Postgres's own index may stand beside ours in one DROP INDEX.
        wire.run(
            r#"create index plain on items (price);
               call rektor.ddl('{"drop_index": {"names": [[null, "plain"], ["public", "n"], [null, "no"]], "if_exists": true}}')"#,
        );
        assert_eq!(wire.value("select count(*) from rektor.index"), "3");
        assert_eq!(wire.value("select to_regclass('plain') is null"), "t");
    }
}

/// Statements that fail, and how: (statement, SQLSTATE, message). `$v` stands for the vector type.
const ERRORS: &[(&str, &str, &str)] = &[
    (
        "select rektor.create_index('taken', 'items', 'embedding')",
        "42P07",
        r#"relation "taken" already exists"#,
    ),
    (
        "select rektor.create_index('items', 'items', 'embedding')",
        "42P07",
        r#"relation "items" already exists"#,
    ),
    (
        "select rektor.create_index('x', 'items', 'nope')",
        "42703",
        r#"column "nope" does not exist"#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', include => '{nope}')",
        "42703",
        r#"column "nope" does not exist"#,
    ),
    (
        "select rektor.create_index('x', 'items', 'ctid')",
        "0A000",
        "index creation on system columns is not supported",
    ),
    (
        "select rektor.create_index('x', 'items', 'category')",
        "42804",
        r#"operator class "vector_l2_ops" does not accept data type text"#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', 'halfvec_l2_ops')",
        "42804",
        r#"operator class "halfvec_l2_ops" does not accept data type "#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', 'foo_ops')",
        "42704",
        r#"operator class "foo_ops" does not exist for access method "faiss""#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"foo\": 1}')",
        "22023",
        r#"unrecognized parameter "foo""#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"m\": 1}')",
        "22023",
        r#"value 1 out of bounds for option "m""#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"m\": \"a\"}')",
        "22023",
        r#"invalid value for integer option "m": a"#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"m\": 9, \"ef_construction\": 17}')",
        "22023",
        "ef_construction must be greater than or equal to 2 * m",
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"ef_construction\": 1001}')",
        "22023",
        r#"value 1001 out of bounds for option "ef_construction""#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"method\": \"ivf\"}')",
        "22023",
        r#"invalid value for enum option "method": ivf"#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"storage\": \"f16\"}')",
        "22023",
        r#"invalid value for enum option "storage": f16"#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"dimensions\": 16001}')",
        "22023",
        r#"value 16001 out of bounds for option "dimensions""#,
    ),
    (
        r#"call rektor.ddl('{"create_index": {"table": "no", "column": "e"}}')"#,
        "42P01",
        r#"relation "no" does not exist"#,
    ),
    (
        r#"call rektor.ddl('{"create_index": {"schema": "no", "table": "t", "column": "e"}}')"#,
        "3F000",
        r#"schema "no" does not exist"#,
    ),
    (
        r#"call rektor.ddl('{"drop_index": {"names": [[null, "no"]]}}')"#,
        "42704",
        r#"index "no" does not exist"#,
    ),
    (
        r#"call rektor.ddl('{"rename_index": {"name": "no", "new_name": "a"}}')"#,
        "42P01",
        r#"relation "no" does not exist"#,
    ),
    (
        r#"call rektor.ddl('{"rename_index": {"name": "taken", "new_name": "items"}}')"#,
        "42P07",
        r#"relation "items" already exists"#,
    ),
    (
        r#"call rektor.ddl('{"reindex": {"name": "no"}}')"#,
        "42P01",
        r#"relation "no" does not exist"#,
    ),
    (
        r#"call rektor.ddl('{"alter_index": {"name": "no", "set": {"m": 3}}}')"#,
        "42P01",
        r#"relation "no" does not exist"#,
    ),
    (
        r#"call rektor.ddl('{"alter_index": {"name": "taken", "set": {"m": 101}}}')"#,
        "22023",
        r#"value 101 out of bounds for option "m""#,
    ),
    (
        r#"call rektor.ddl('{"alter_index": {"name": "taken", "reset": ["foo"]}}')"#,
        "22023",
        r#"unrecognized parameter "foo""#,
    ),
    (
        r#"call rektor.ddl('{"alter_index": {"name": "taken", "set": {"dimensions": 3}}}')"#,
        "0A000",
        "dimensions of an index cannot be changed",
    ),
    (
        "update rektor.index set dimensions = 4",
        "0A000",
        "table, metric and dimensions of an index cannot be changed",
    ),
    (
        "select rektor.drop_index('a.b.c')",
        "42601",
        "improper qualified name (too many dotted names): a.b.c",
    ),
    (
        "select * from rektor.stat_indexes",
        "55000",
        "rektor.stat_indexes is known to Rektor only",
    ),
    (
        "create table t (id int, e $v); select rektor.create_index('x', 't', 'e')",
        "55000",
        r#"table "t" has no usable key"#,
    ),
    (
        "create table t (id int primary key deferrable, e $v); select rektor.create_index('x', 't', 'e')",
        "55000",
        r#"table "t" has a deferrable primary key"#,
    ),
    (
        "create table t (id int primary key, e $v); alter table t replica identity nothing; select rektor.create_index('x', 't', 'e')",
        "55000",
        r#"table "t" has replica identity NOTHING"#,
    ),
    (
        "create table t (id int, e $v); alter table t replica identity full; select rektor.create_index('x', 't', 'e')",
        "55000",
        r#"table "t" has no usable key"#,
    ),
    (
        "create table t (id numeric primary key, e $v); select rektor.create_index('x', 't', 'e')",
        "0A000",
        r#"key column "id" of table "t" has type numeric"#,
    ),
    (
        "create unlogged table t (id int primary key, e $v); select rektor.create_index('x', 't', 'e')",
        "0A000",
        r#"cannot create a faiss index on unlogged table "t""#,
    ),
    (
        "create temp table t (id int primary key, e $v); select rektor.create_index('x', 't', 'e')",
        "0A000",
        r#"cannot create a faiss index on temporary table "t""#,
    ),
    (
        "create view t as select * from items; select rektor.create_index('x', 't', 'embedding')",
        "42809",
        r#"cannot create index on relation "t""#,
    ),
    (
        "create materialized view t as select * from items; select rektor.create_index('x', 't', 'embedding')",
        "42809",
        r#"cannot create index on relation "t""#,
    ),
    (
        "select rektor.create_index('x', 'pg_class', 'relname')",
        "42809",
        r#"cannot create index on relation "pg_class""#,
    ),
    (
        "select rektor.create_index('x', 'rektor.index', 'name')",
        "42809",
        r#"cannot create index on relation "index""#,
    ),
    (
        "create table t (id int primary key, e $v) partition by list (id); create table l partition of t default; select rektor.create_index('x', 'l', 'e')",
        "0A000",
        r#"cannot create a faiss index on partition "l""#,
    ),
    (
        "create table t (id int primary key, e $v) partition by list (id); create table l partition of t default; alter table l replica identity nothing; select rektor.create_index('x', 't', 'e')",
        "55000",
        r#"partition "l" of table "t" has a replica identity of its own"#,
    ),
    (
        r#"create table t (id int primary key, e $v) partition by list (id); call rektor.ddl('{"create_index": {"table": "t", "only": true, "column": "e"}}')"#,
        "0A000",
        "cannot create a faiss index on only a partitioned table",
    ),
    (
        "create table t (id int primary key, e $v); create table c () inherits (t); select rektor.create_index('x', 't', 'e')",
        "0A000",
        r#"cannot create a faiss index on table "t" because it has child tables"#,
    ),
    (
        "create table t (id int primary key, e $v, g int generated always as (1) stored); select rektor.create_index('x', 't', 'e', include => '{g}')",
        "0A000",
        r#"cannot index generated column "g""#,
    ),
    (
        "create table t (id int primary key, e $v, a aclitem); select rektor.create_index('x', 't', 'e', include => '{a}')",
        "0A000",
        r#"column "a" of type aclitem cannot be included"#,
    ),
    (
        "create table t (id int primary key, e $v, a aclitem[]); select rektor.create_index('x', 't', 'e')",
        "0A000",
        r#"column "a" of table "t" has type aclitem[]"#,
    ),
    (
        "set local role nobody_else; select rektor.create_index('x', 'items', 'embedding')",
        "42501",
        "must be owner of table items",
    ),
    (
        "set local role nobody_else; select rektor.drop_index('taken')",
        "42501",
        "must be owner of index taken",
    ),
    (
        "set local role nobody_else; insert into rektor.index (name, relation, column_name, metric, dimensions) values ('x', 'items', 'embedding', 'l2', 3)",
        "42501",
        r#"new row violates row-level security policy for table "index""#,
    ),
    (
        "drop publication rektor; select rektor.create_index('x', 'items', 'embedding')",
        "55000",
        r#"publication "rektor" does not exist"#,
    ),
];

#[test]
fn every_error_has_postgress_sqlstate_and_text() {
    for server in Server::ALL {
        let database = prepared(server);
        let mut wire = database.connect();
        wire.run("do $$ begin create role nobody_else; exception when duplicate_object then null; end $$");
        wire.run("select rektor.create_index('taken', 'items', 'embedding')");
        let vector = server.vector_type(3);
        for (statement, sqlstate, message) in ERRORS {
            let statement = statement.replace("$v", &vector);
            wire.run("begin");
            let error = wire.try_rows(&statement).expect_err(&statement);
            wire.run("rollback");
            assert_eq!(
                error.field(b'C').as_deref(),
                Some(*sqlstate),
                "{server:?} {statement}: {error:?}"
            );
            let said = error.field(b'M').unwrap_or_default();
            assert!(said.starts_with(message), "{server:?} {statement}: {said}");
        }
        let untyped = if server.has_pgvector() {
            "vector"
        } else {
            "real[]"
        };
        wire.run(&format!("create table t (id int primary key, e {untyped})"));
        let error = wire
            .try_rows("select rektor.create_index('x', 't', 'e')")
            .unwrap_err();
        assert_eq!(error.field(b'C').as_deref(), Some("22023"));
        assert_eq!(
            error.field(b'M').as_deref(),
            Some("column does not have dimensions")
        );
        wire.run(&format!(
            "insert into t values (1, null), (2, '{}')",
            server.vector_text("1,2")
        ));
        wire.run("select rektor.create_index('x', 't', 'e')");
        assert_eq!(
            wire.value("select dimensions from rektor.index where name = 'x'"),
            "2"
        );
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
    wire.run(r#"set rektor.stat_indexes = '[{"index_name": "a", "rows": 5, "applied_lsn": "0/1A", "percent": null}]'"#);
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
fn check_is_content_with_what_it_asked_for() {
    for server in Server::ALL {
        let cluster = Cluster::start_with(server, "max_slot_wal_keep_size = '1GB'");
        let database = cluster.database();
        let output = rektor(&["check"], &database);
        assert_eq!(output.status.code(), Some(1));
        let report = text(&output);
        let failing = report
            .lines()
            .filter(|line| line.starts_with("FAIL"))
            .collect::<Vec<_>>();
        assert_eq!(
            failing,
            ["FAIL  schema rektor is not installed"],
            "{report}"
        );
        succeed(&["setup"], &database);
        let report = succeed(&["check"], &database);
        assert!(
            report.lines().all(|line| line.starts_with("ok    ")),
            "{report}"
        );

        // A table that has come to be unpublishable is found, with what mends it.
        let vector = server.vector_type(3);
        let mut wire = database.connect();
        wire.run(&format!(
            "create table items (id int primary key, embedding {vector})"
        ));
        wire.run("select rektor.create_index('a', 'items', 'embedding', options => '{\"dimensions\": 3}')");
        succeed(&["check"], &database);
        wire.rows("select pg_create_logical_replication_slot('rektor', 'pgoutput')");
        let report = succeed(&["check"], &database);
        assert!(
            report.contains("replication slot rektor holds "),
            "{report}"
        );
        wire.rows("select pg_drop_replication_slot('rektor')");
        wire.run("alter table items replica identity nothing");
        let report = text(&rektor(&["check"], &database));
        assert!(
            report.contains("ALTER TABLE public.items REPLICA IDENTITY DEFAULT"),
            "{report}"
        );
    }
}

#[test]
fn check_names_what_mends_a_server_that_cannot_replicate() {
    let cluster = Cluster::start_with(
        Server::Plain,
        "wal_level = replica\nmax_replication_slots = 0\nmax_wal_senders = 0",
    );
    let database = cluster.database();
    database.connect().run("create role poor login");
    let url = database.url().replace("postgres@", "poor@");
    let output = command(&["check", "--upstream", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output);
    for (finding, mend) in [
        (
            "wal_level is replica",
            "ALTER SYSTEM SET wal_level = 'logical';",
        ),
        (
            "role poor may not replicate",
            "ALTER ROLE poor REPLICATION;",
        ),
        (
            "0 of 0 replication slots are free",
            "ALTER SYSTEM SET max_replication_slots = 2;",
        ),
        (
            "0 of 0 WAL senders are free",
            "ALTER SYSTEM SET max_wal_senders = 2;",
        ),
        (
            "max_slot_wal_keep_size is unlimited",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '16GB'; SELECT pg_reload_conf();",
        ),
    ] {
        let (_, after) = report
            .split_once(&format!("FAIL  {finding}"))
            .unwrap_or_else(|| panic!("{finding}:\n{report}"));
        let next = after.lines().nth(1).unwrap_or_default();
        assert_eq!(next.trim(), mend, "{report}");
    }
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
fn check_finds_what_the_role_may_not_read() {
    let database = prepared(Server::Pg16);
    let role = format!("reader_{}", database.name);
    let mut wire = database.connect();
    wire.run(&format!(
        "create role {role} login replication; alter table items enable row level security"
    ));
    wire.run("select rektor.create_index('a', 'items', 'embedding')");
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let report = || text(&command(&["check", "--upstream", &url]).output().unwrap());
    let mends = |mend: &str| {
        let report = report();
        assert!(
            report.lines().any(|line| line.trim() == mend),
            "{mend} in\n{report}"
        );
    };
    mends(&format!("GRANT SELECT ON items TO {role};"));
    mends(&format!("ALTER ROLE {role} BYPASSRLS;"));
    wire.run(&format!(
        "GRANT SELECT ON items TO {role}; ALTER ROLE {role} BYPASSRLS"
    ));
    assert!(
        !report().contains(&format!("role {role} may not read")),
        "{}",
        report()
    );
    wire.run("alter publication rektor drop table items");
    mends("ALTER PUBLICATION rektor ADD TABLE ONLY items;");
    wire.run("alter publication rektor set (publish = 'insert')");
    mends(
        "ALTER PUBLICATION rektor SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);",
    );
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
