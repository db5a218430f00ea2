//! Effects, and that the prefilter sees whatever has one.

use super::*;
use crate::query::{analyze, interest};

fn effect(sql: &str) -> Effect {
    let statements = analyze(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    assert_eq!(statements.len(), 1, "{sql}");
    statements[0].effect
}

#[test]
fn effects() {
    use Isolation::{ReadCommitted, RepeatableRead, Serializable};
    use TransactionEffect::{Begin, End, ImportSnapshot, RollbackTo};
    let none = Effect::default();
    let settings = Effect::SETTINGS;
    let prepared = Effect {
        prepared: true,
        ..none
    };
    let writes = Effect {
        writes: true,
        ..none
    };
    let unstreamed = Effect {
        unstreamed: true,
        ..writes
    };
    let begin = |level| Effect {
        transaction: Some(Begin(level)),
        ..none
    };
    let end = |chain, settings| Effect {
        transaction: Some(End { chain }),
        settings,
        ..none
    };
    let isolation = |level| Effect {
        transaction: Some(TransactionEffect::Isolation(level)),
        ..settings
    };
    let table = [
        ("SELECT 1", none),
        (
            "SELECT lower(a), count(*), random() FROM t GROUP BY 1",
            none,
        ),
        ("VALUES (1)", none),
        ("TABLE t", none),
        ("WITH x AS (SELECT 1) SELECT * FROM x", none),
        ("SELECT 1 UNION SELECT 2", none),
        (
            "SELECT * FROM t, LATERAL (SELECT 1) u JOIN generate_series(1, 2) g ON true",
            none,
        ),
        ("SELECT set_config('a', 'b', false)", settings),
        (
            "SELECT pg_catalog.set_config('a', 'b', false) FROM t",
            settings,
        ),
        ("SELECT mine(1)", writes),
        ("SELECT * FROM mine(1)", writes),
        ("SELECT nextval('s')", writes),
        ("SELECT 1 INTO t", writes),
        ("SELECT 1 FROM t FOR UPDATE", writes),
        ("SELECT a ###### b", none),
        ("SELECT (r).field, a IS JSON, b IS DOCUMENT FROM t", none),
        (
            "WITH x AS (INSERT INTO t VALUES (1) RETURNING 1) SELECT * FROM x",
            writes,
        ),
        ("INSERT INTO t VALUES (1)", writes),
        (
            "MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE",
            writes,
        ),
        ("CREATE TABLE t ()", writes),
        ("CREATE TABLE t AS SELECT 1", writes),
        ("TRUNCATE t", writes),
        ("VACUUM", writes),
        ("SHOW x", none),
        ("FETCH 1 FROM c", none),
        ("CLOSE c", none),
        ("LISTEN c", none),
        ("NOTIFY c", none),
        ("LOCK TABLE t", none),
        ("DECLARE c CURSOR FOR SELECT 1", none),
        ("DECLARE c CURSOR FOR SELECT mine(1)", writes),
        ("COPY t TO STDOUT", none),
        ("COPY (SELECT 1) TO STDOUT", none),
        ("COPY (SELECT mine(1)) TO STDOUT", writes),
        ("COPY (DELETE FROM t RETURNING *) TO STDOUT", writes),
        ("COPY t TO PROGRAM 'x'", writes),
        ("COPY t FROM STDIN", writes),
        ("EXPLAIN SELECT mine(1)", none),
        ("EXPLAIN INSERT INTO t VALUES (1)", none),
        ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", writes),
        ("EXPLAIN (ANALYZE) SELECT mine(1)", writes),
        ("EXPLAIN (ANALYZE off) SELECT mine(1)", none),
        ("PREPARE p AS DELETE FROM t", prepared),
        (
            "EXECUTE p",
            Effect {
                settings: true,
                writes: true,
                ..prepared
            },
        ),
        ("DEALLOCATE p", prepared),
        (
            "DEALLOCATE ALL",
            Effect {
                discards_prepared: true,
                ..prepared
            },
        ),
        (
            "DISCARD ALL",
            Effect {
                settings: true,
                discards_prepared: true,
                ..prepared
            },
        ),
        ("DISCARD PLANS", prepared),
        (
            "DO ''",
            Effect {
                settings: true,
                ..unstreamed
            },
        ),
        ("ALTER TABLE t ATTACH PARTITION p DEFAULT", unstreamed),
        ("ALTER TABLE t ADD a int, INHERIT u", unstreamed),
        ("ALTER TABLE t ALTER a SET DATA TYPE int", unstreamed),
        ("ALTER TABLE t ALTER a TYPE int USING b", unstreamed),
        ("CREATE TABLE t () INHERITS (u)", unstreamed),
        ("CREATE TABLE p PARTITION OF t DEFAULT", writes),
        ("ALTER TABLE t ADD a int, ALTER b DROP NOT NULL", writes),
        ("ALTER TABLE t DETACH PARTITION p", writes),
        (
            "CALL p()",
            Effect {
                settings: true,
                ..writes
            },
        ),
        ("LOAD 'x'", settings),
        ("SET x = 1", settings),
        ("SET LOCAL x TO DEFAULT", settings),
        ("SET ROLE a", settings),
        ("SET SESSION AUTHORIZATION a", settings),
        ("SET TIME ZONE 'UTC'", settings),
        ("RESET x", settings),
        ("RESET ALL", settings),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            settings,
        ),
        (
            "SET default_transaction_isolation = 'serializable'",
            settings,
        ),
        ("SET CONSTRAINTS ALL IMMEDIATE", writes),
        ("BEGIN", begin(None)),
        ("START TRANSACTION READ ONLY", begin(None)),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            begin(Some(Serializable)),
        ),
        (
            "START TRANSACTION READ WRITE, ISOLATION LEVEL REPEATABLE READ",
            begin(Some(RepeatableRead)),
        ),
        (
            "BEGIN ISOLATION LEVEL READ UNCOMMITTED DEFERRABLE",
            begin(Some(ReadCommitted)),
        ),
        (
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            isolation(Some(RepeatableRead)),
        ),
        (
            "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED",
            isolation(Some(ReadCommitted)),
        ),
        ("SET TRANSACTION READ ONLY", settings),
        (
            "SET transaction_isolation = 'serializable'",
            isolation(Some(Serializable)),
        ),
        ("SET transaction_isolation TO DEFAULT", isolation(None)),
        (
            "SET TRANSACTION SNAPSHOT '1-1'",
            Effect {
                transaction: Some(ImportSnapshot),
                ..settings
            },
        ),
        ("COMMIT", end(false, false)),
        ("END AND CHAIN", end(true, false)),
        ("PREPARE TRANSACTION 'x'", end(false, false)),
        ("ROLLBACK", end(false, true)),
        ("ABORT AND CHAIN", end(true, true)),
        (
            "ROLLBACK TO s",
            Effect {
                transaction: Some(RollbackTo),
                ..settings
            },
        ),
        ("SAVEPOINT s", none),
        ("RELEASE s", none),
        ("COMMIT PREPARED 'x'", writes),
        ("ROLLBACK PREPARED 'x'", none),
    ];
    for (sql, expected) in table {
        assert_eq!(effect(sql), expected, "{sql}");
        let seen = interest(sql.as_bytes());
        assert!(
            seen.writes || !expected.writes,
            "a write is not seen: {sql}"
        );
        let matters = expected.settings || expected.prepared || expected.discards_prepared;
        // BEGIN, COMMIT and the like show in ReadyForQuery; a level or a snapshot does not.
        let level = !matches!(expected.transaction, None | Some(Begin(None)));
        assert!(seen.parse() || !(matters || level), "not parsed: {sql}");
    }
}

#[test]
fn isolation_levels_have_names() {
    for (name, level) in [
        ("read committed", Some(Isolation::ReadCommitted)),
        ("READ UNCOMMITTED", Some(Isolation::ReadCommitted)),
        ("repeatable read", Some(Isolation::RepeatableRead)),
        ("serializable", Some(Isolation::Serializable)),
        ("snapshot", None),
    ] {
        assert_eq!(Isolation::from_name(name), level);
    }
}
