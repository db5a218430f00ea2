//! What the prefilter sees and what it does not, by tables.

use super::*;

fn flags(sql: &str) -> String {
    let found = interest(sql.as_bytes());
    [
        (found.distance, 'd'),
        (found.ddl, 'i'),
        (found.stat, 's'),
        (found.verify, 'v'),
        (found.settings, 'g'),
        (found.writes, 'w'),
    ]
    .into_iter()
    .filter_map(|(on, letter)| on.then_some(letter))
    .collect()
}

#[test]
fn what_matters_is_seen() {
    let table = [
        ("", ""),
        ("  ;; ; ", ""),
        ("SELECT 1", ""),
        ("select abalance from pgbench_accounts where aid = $1", ""),
        (
            "SELECT count(*), lower (x), CAST(a AS varchar(10)) FROM t WHERE a IN (1) AND b = ANY($1)",
            "",
        ),
        ("SELECT * FROM (VALUES (1)) v WHERE EXISTS (SELECT 1)", ""),
        ("SHOW server_version", ""),
        ("BEGIN", ""),
        ("begin transaction isolation level serializable", "g"),
        ("start transaction read only", ""),
        ("FETCH 10 FROM c", ""),
        // distances
        ("SELECT a<->b", "d"),
        ("SELECT a OPERATOR(public.<#>) b", "d"),
        ("SELECT a OPERATOR ( \"public\" . <=> ) b", "d"),
        ("SELECT a <+> b", "d"),
        ("SELECT a<->-1", "d"),
        ("SELECT a << -> b, a < -b, a <= b, a <> b", ""),
        ("SELECT L2_Distance(a, b)", "d"),
        ("SELECT cosine_distance (a, b), inner_product(a, b)", "d"),
        ("SELECT hamming_distance(a, b), jaccard_distance(a, b)", "d"),
        ("SELECT 'x; -- ' <-> c", "d"),
        ("SELECT '/* ' <-> c", "d"),
        // DDL
        ("CREATE INDEX ON t USING FAISS (e)", "iw"),
        ("create index on t using\"faiss\"(e)", "iw"),
        ("CREATE INDEX ON t (e)", "w"),
        ("DROP INDEX a", "iw"),
        ("drop/**/index a", "iw"),
        ("DROP INDEX CONCURRENTLY IF EXISTS a", "iw"),
        ("ALTER INDEX a RENAME TO b", "iw"),
        ("REINDEX INDEX a", "iw"),
        ("REINDEX (VERBOSE) INDEX a", "iw"),
        ("DROP TABLE t", "w"),
        ("SELECT rektor.create_index('a')", "iw"),
        ("CREATE INDEX ON t USING U&\"f\\0061iss\" (e)", "disvgw"),
        // stat views
        ("SELECT * FROM rektor.stat_indexes", "is"),
        ("TABLE \"stat_replication\"", "s"),
        ("SELECT * FROM pg_stat_activity", ""),
        ("SELECT * FROM Rektor.Verify_Index('i')", "ivw"),
        // settings
        ("SET rektor.recall_target = 0.9", "ig"),
        ("  \n\tset hnsw.ef_search=10", "g"),
        ("/* a /* b */ c */ -- d\n SET x = 1", "g"),
        ("-- c\r\nRESET ALL", "g"),
        ("SELECT 1; SET x = 1", "g"),
        ("SELECT 1;SET x = 1", "g"),
        ("SELECT 'a;' ; /* ; */ DISCARD ALL", "gw"),
        ("/* one; two */ SET x = 1", "gw"),
        ("-- one; two\nSET x = 1", "gw"),
        ("/* one; two */ SELECT 1", "w"),
        ("SELECT 'a; -- b'; SET x = 1", "gw"),
        ("SELECT 'a; /* b'; SET x = 1", "gw"),
        ("SELECT set_config('x', 'y', false)", "g"),
        ("SELECT pg_catalog . SET_CONFIG ('x', 'y', false)", "g"),
        ("UPDATE t SET x = 1", "w"),
        ("ROLLBACK", "g"),
        ("ABORT", "g"),
        ("COMMIT AND CHAIN", "g"),
        ("end", "g"),
        ("SELECT CASE WHEN a THEN 1 END", ""),
        ("PREPARE p AS SELECT 1", "g"),
        ("DEALLOCATE ALL", "g"),
        ("EXECUTE p(1)", "gw"),
        ("CALL p()", "gw"),
        ("DO $$ begin perform 1; end $$", "gw"),
        ("SET TRANSACTION SNAPSHOT 'x'", "g"),
        ("ALTER TABLE t ATTACH PARTITION p DEFAULT", "gw"),
        ("ALTER TABLE t INHERIT u", "gw"),
        ("alter table t alter a type int", "gw"),
        ("CREATE TABLE t () INHERITS (u)", "gw"),
        // writes
        ("INSERT INTO t VALUES (1)", "w"),
        ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", "w"),
        ("SELECT * INTO u FROM t", "w"),
        ("SELECT * FROM t FOR UPDATE", "w"),
        ("SELECT my_function(1)", "w"),
        ("SELECT \"lower\"(1)", "w"),
        ("SELECT my_function /* lower */ (1)", "w"),
        ("SELECT my_function -- lower\n (1)", "w"),
        ("SELECT app.lower(1)", "w"),
        ("SELECT \"app\" . lower(1)", "w"),
        ("SELECT x.pg_catalog.lower(1), xpg_catalog.lower(1)", "w"),
        (
            "SELECT pg_catalog.lower(1), PG_CATALOG .lower(1), CAST(e AS public.vector(3))",
            "",
        ),
        ("SELECT app.l2_distance(a, b)", "d"),
        ("SELECT nextval('s')", "w"),
        ("COPY t FROM STDIN", "w"),
        ("COMMIT PREPARED 'x'", "gw"),
        ("SET CONSTRAINTS ALL IMMEDIATE", "gw"),
        ("VACUUM", "w"),
        ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "w"),
    ];
    for (sql, expected) in table {
        assert_eq!(flags(sql), expected, "{sql}");
    }
}

#[test]
fn any_bytes_will_do() {
    for byte in 0..=u8::MAX {
        for length in 0..5 {
            let _ = interest(&vec![byte; length]);
        }
    }
    assert!(!interest(&[0x83, b'S', b'E', b'T', 0x80]).settings);
    assert!(interest(&[b"x".repeat(5_000).as_slice(), b" <-> "].concat()).distance);
}
