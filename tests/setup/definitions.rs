//! What may be defined as an index, and what its rows do to the publication: by SQL alone, without a running Rektor.

use super::prepared;
use crate::harness::{Server, Wire};

pub(super) fn published(wire: &mut Wire) -> Vec<String> {
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
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"method\": \"magic\"}')",
        "22023",
        r#"invalid value for enum option "method": magic"#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"storage\": \"f8\"}')",
        "22023",
        r#"invalid value for enum option "storage": f8"#,
    ),
    (
        "select rektor.create_index('x', 'items', 'embedding', options => '{\"storage\": \"i8\", \"method\": \"flat\"}')",
        "22023",
        r#"storage "i8" keeps no vectors for method "flat" to compare"#,
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
        "table, metric, expression and dimensions of an index cannot be changed",
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
