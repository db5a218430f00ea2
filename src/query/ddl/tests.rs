//! Commands → calls and refusals, by tables.

use super::*;
use crate::query::{StatementKind, analyze};

fn ddl(sql: &str) -> Option<Ddl> {
    let mut statements = analyze(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    match statements.remove(0).kind {
        StatementKind::Ddl(ddl) => Some(ddl),
        StatementKind::Knn(_)
        | StatementKind::NotClaimed(_)
        | StatementKind::Explain { .. }
        | StatementKind::Other => None,
    }
}

/// The call's JSON; the text around it is checked.
fn command(sql: &str) -> Value {
    let call = ddl(sql).expect(sql).call().expect(sql);
    let json = call
        .strip_prefix("CALL rektor.ddl('")
        .and_then(|rest| rest.strip_suffix("'::pg_catalog.jsonb)"))
        .unwrap_or_else(|| panic!("{call}"));
    serde_json::from_str(&json.replace("''", "'")).expect(&call)
}

#[test]
fn create_index_becomes_a_call() {
    let minimal = json!({ "create_index": {
        "name": null, "schema": null, "table": "items", "only": false, "column": "embedding",
        "opclass": null, "include": [], "options": {}, "if_not_exists": false,
    } });
    assert_eq!(
        command("CREATE INDEX ON items USING faiss (embedding)"),
        minimal
    );
    assert_eq!(
        command("create index concurrently on items using FAISS (Embedding)"),
        minimal
    );
    assert_eq!(
        command(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS \"Idx\" ON ONLY s.\"T'able\" USING faiss
             (\"E\" public.vector_cosine_ops) INCLUDE (category, \"Price\")
             WITH (method = hnsw, M = 16, \"Odd\" = 'x''y', ratio = 0.5, big = 9999999999, storage = f32, fast, slow = false, t = real)"
        ),
        json!({ "create_index": {
            "name": "Idx", "schema": "s", "table": "T'able", "only": true, "column": "E",
            "opclass": "vector_cosine_ops", "include": ["category", "Price"],
            "options": {
                "method": "hnsw", "m": 16, "Odd": "x'y", "ratio": 0.5, "big": 9_999_999_999.0, "storage": "f32",
                "fast": true, "slow": "false", "t": "float4",
            },
            "if_not_exists": true,
        } })
    );
    let tag = ddl("CREATE INDEX ON items USING faiss (embedding)")
        .unwrap()
        .tag();
    assert_eq!(tag, "CREATE INDEX");
}

#[test]
fn expressions_are_named_in_the_call() {
    let call = |indexed: &str| {
        let sql = format!("CREATE INDEX ON s.items USING faiss ({indexed} some_ops) WITH (m = 8)");
        let mut call = command(&sql)["create_index"].take();
        assert_eq!(call["column"], "e", "{indexed}");
        let dimensions = call["options"]["dimensions"].take();
        (call["expression"].take(), dimensions)
    };
    for (indexed, expression, dimensions) in [
        ("(e::halfvec(3))", "halfvec", json!(3)),
        ("(CAST(e AS extensions.halfvec(3)))", "halfvec", json!(3)),
        ("(items.e::halfvec)", "halfvec", json!(null)),
        ("((((e)::vector(3))))", "vector", json!(3)),
        ("(binary_quantize(e)::bit(3))", "binary_quantize", json!(3)),
        (
            "(public.binary_quantize(s.items.e)::pg_catalog.bit(3))",
            "binary_quantize",
            json!(3),
        ),
        ("binary_quantize(e)", "binary_quantize", json!(null)),
        (
            "(subvector(e, 2, 3)::vector(3))",
            "subvector(2, 3)::vector",
            json!(3),
        ),
        ("subvector(e, 2, 3)", "subvector(2, 3)", json!(null)),
    ] {
        assert_eq!(call(indexed), (json!(expression), dimensions), "{indexed}");
    }
}

/// What may be indexed.
const ONLY_THESE: &str = "access method \"faiss\" supports only indexes on a column, a cast of one to vector(n) or \
    halfvec(n), binary_quantize(column)::bit(n) and subvector(column, start, count)::vector(count)";

#[test]
fn what_an_index_of_ours_cannot_be_is_refused() {
    let table = [
        (
            "CREATE UNIQUE INDEX ON t USING faiss (e)",
            "0A000",
            "access method \"faiss\" does not support unique indexes",
        ),
        (
            "CREATE INDEX ON t USING faiss (e, f)",
            "0A000",
            "access method \"faiss\" does not support multicolumn indexes",
        ),
        (
            "CREATE INDEX ON t USING faiss (lower(e))",
            "0A000",
            ONLY_THESE,
        ),
        (
            "CREATE INDEX ON t USING faiss ((e::sparsevec(3)))",
            "0A000",
            ONLY_THESE,
        ),
        (
            "CREATE INDEX ON t USING faiss ((l2_normalize(e)))",
            "0A000",
            ONLY_THESE,
        ),
        (
            "CREATE INDEX ON t USING faiss ((subvector(e, 0, 3)))",
            "0A000",
            ONLY_THESE,
        ),
        (
            "CREATE INDEX ON t USING faiss ((u.e::halfvec(3)))",
            "0A000",
            ONLY_THESE,
        ),
        (
            "CREATE INDEX ON t USING faiss ((e::halfvec(3))) WITH (dimensions = 4)",
            "22023",
            "the expression has 3 dimensions",
        ),
        (
            "CREATE INDEX ON t USING faiss (e) WHERE x > 1",
            "0A000",
            "access method \"faiss\" does not support partial indexes",
        ),
        (
            "CREATE INDEX ON t USING faiss (e DESC)",
            "0A000",
            "access method \"faiss\" does not support ASC/DESC options",
        ),
        (
            "CREATE INDEX ON t USING faiss (e ASC)",
            "0A000",
            "access method \"faiss\" does not support ASC/DESC options",
        ),
        (
            "CREATE INDEX ON t USING faiss (e NULLS FIRST)",
            "0A000",
            "access method \"faiss\" does not support NULLS FIRST/LAST options",
        ),
        (
            "CREATE INDEX ON t USING faiss (e COLLATE \"C\")",
            "0A000",
            "access method \"faiss\" does not support collations",
        ),
        (
            "CREATE INDEX ON t USING faiss (e vector_l2_ops(x = 1))",
            "0A000",
            "access method \"faiss\" does not support operator class options",
        ),
        (
            "CREATE INDEX ON t USING faiss (e) TABLESPACE x",
            "0A000",
            "access method \"faiss\" does not support tablespaces",
        ),
        (
            "CREATE INDEX ON t USING faiss (e) INCLUDE ((a + 1))",
            "0A000",
            "expressions are not supported in included columns",
        ),
        (
            "CREATE INDEX ON t USING faiss (e) INCLUDE (a int4_ops)",
            "42P17",
            "including column does not support an operator class",
        ),
        (
            "CREATE INDEX ON t USING faiss (e) WITH (toast.m = 1)",
            "22023",
            "unrecognized parameter namespace \"toast\"",
        ),
        (
            "CREATE INDEX ON t USING faiss (e) WITH (m = 1, m = 2)",
            "22023",
            "parameter \"m\" specified more than once",
        ),
        (
            "CREATE INDEX ON d.s.t USING faiss (e)",
            "0A000",
            "cross-database references are not implemented: \"d.s.t\"",
        ),
        (
            "ALTER INDEX i SET TABLESPACE x",
            "0A000",
            "this form of ALTER INDEX is not supported for access method \"faiss\"",
        ),
        (
            "ALTER INDEX i ALTER COLUMN 1 SET STATISTICS 10",
            "0A000",
            "this form of ALTER INDEX is not supported for access method \"faiss\"",
        ),
        (
            "ALTER INDEX i ATTACH PARTITION j",
            "0A000",
            "this form of ALTER INDEX is not supported for access method \"faiss\"",
        ),
    ];
    for (sql, sqlstate, message) in table {
        let error = ddl(sql).expect(sql).call().expect_err(sql);
        assert_eq!(
            (error.sqlstate, error.message.as_str()),
            (sqlstate, message),
            "{sql}"
        );
    }
}

#[test]
fn other_commands_become_calls() {
    let table = [
        (
            "DROP INDEX a",
            "DROP INDEX",
            json!({ "drop_index": { "names": [[null, "a"]], "if_exists": false } }),
        ),
        (
            "DROP INDEX CONCURRENTLY IF EXISTS a, s.\"B\" CASCADE",
            "DROP INDEX",
            json!({ "drop_index": { "names": [[null, "a"], ["s", "B"]], "if_exists": true } }),
        ),
        (
            "ALTER INDEX IF EXISTS s.a RENAME TO \"B\"",
            "ALTER INDEX",
            json!({ "rename_index": { "schema": "s", "name": "a", "new_name": "B", "if_exists": true } }),
        ),
        (
            "ALTER INDEX a SET (m = 8, method = flat), RESET (ef_construction)",
            "ALTER INDEX",
            json!({ "alter_index": { "schema": null, "name": "a", "if_exists": false, "set": { "m": 8, "method": "flat" }, "reset": ["ef_construction"] } }),
        ),
        (
            "REINDEX INDEX a",
            "REINDEX",
            json!({ "reindex": { "schema": null, "name": "a" } }),
        ),
        (
            "REINDEX (VERBOSE) INDEX CONCURRENTLY s.a",
            "REINDEX",
            json!({ "reindex": { "schema": "s", "name": "a" } }),
        ),
    ];
    for (sql, tag, expected) in table {
        assert_eq!(command(sql), expected, "{sql}");
        let ddl = ddl(sql).unwrap();
        assert_eq!(ddl.tag(), tag);
        assert!(!ddl.names().is_empty());
    }
}

#[test]
fn names_with_backslashes_mean_the_same_under_every_setting() {
    let call = ddl("DROP INDEX \"a\\b\"").unwrap().call().unwrap();
    // JSON doubles the backslash, E'' doubles it again.
    assert_eq!(
        call,
        r#"CALL rektor.ddl(E'{"drop_index":{"if_exists":false,"names":[[null,"a\\\\b"]]}}'::pg_catalog.jsonb)"#
    );
}

#[test]
fn what_is_not_about_an_index_is_none_of_ours() {
    for sql in [
        "CREATE INDEX ON t (e)",
        "CREATE INDEX ON t USING hnsw (e vector_l2_ops)",
        "DROP TABLE t",
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE t SET (fillfactor = 10)",
        "REINDEX TABLE t",
        "REINDEX DATABASE d",
        "ALTER INDEX ALL IN TABLESPACE a SET TABLESPACE b",
        "SELECT 1",
    ] {
        assert!(ddl(sql).is_none(), "{sql}");
    }
}
