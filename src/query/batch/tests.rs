//! Statements that search for each of several vectors: which are recognised, and what becomes of them.

use crate::query::plan::items;
use crate::query::{KnnQuery, QueryVector, RelayReason, StatementKind, analyze, plan};

fn claim(sql: &str) -> Result<KnnQuery, RelayReason> {
    let mut statements = analyze(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    match statements.remove(0).kind {
        StatementKind::Knn(query) => Ok(*query),
        StatementKind::NotClaimed(reason) => Err(reason),
        other @ (StatementKind::Explain { .. } | StatementKind::Ddl(_) | StatementKind::Other) => {
            panic!("{other:?}: {sql}")
        }
    }
}

const VALUES: &str = "(VALUES (0, '[1,2,3]'::vector), (7, '[4,5,6]')) AS q (n, v)";
const NEAREST: &str = "(SELECT id FROM items ORDER BY embedding <-> q.v LIMIT 3) r";

/// The rows of a statement, and the expression that tells them apart.
#[test]
fn vectors_are_told_apart_by_what_the_rows_have() {
    let by_vector = |array: &str| format!("pg_catalog.array_position({array}, \"q\".\"v\")");
    for (rows, count, place) in [
        (
            VALUES,
            2,
            "pg_catalog.array_position(ARRAY[0, 7], \"q\".\"n\")".to_owned(),
        ),
        (
            "(VALUES (-1, $1::vector), (-2, $2), (3, $3::public.vector(3))) q(n, v)",
            3,
            "pg_catalog.array_position(ARRAY[-1, -2, 3], \"q\".\"n\")".to_owned(),
        ),
        // numbers that are not different, or of another type
        (
            "(VALUES (1, CAST(ARRAY[1,2.5,-3] AS vector(3))), (1, $1 /* , */)) q(n, v)",
            2,
            by_vector("ARRAY[CAST(ARRAY[1,2.5,-3] AS vector(3))\n, $1]"),
        ),
        (
            "(VALUES (1::bigint, $1::vector), (2, $2)) q(n, v)",
            2,
            by_vector("ARRAY[$1::vector\n, $2]"),
        ),
        (
            "(VALUES ($1::vector)) q(v)",
            1,
            by_vector("ARRAY[$1::vector]"),
        ),
        (
            "(VALUES ('[1,2,3]'::real[], 5)) q(v, \"N\")",
            1,
            "pg_catalog.array_position(ARRAY[5], \"q\".\"N\")".to_owned(),
        ),
        ("unnest($1::vector[]) q(v)", 0, by_vector("$1::vector[]")),
        (
            "pg_catalog.unnest(CAST($1 AS public.vector(3)[])) AS q (v)",
            0,
            by_vector("CAST($1 AS public.vector(3)[])"),
        ),
        (
            "LATERAL unnest('{\"[1,2,3]\"}'::vector[]) WITH ORDINALITY AS q(v, n)",
            0,
            "\"q\".\"n\"::pg_catalog.int4".to_owned(),
        ),
        (
            "unnest(ARRAY['[1,2,3]', $1]::vector[]) WITH ORDINALITY q(v)",
            2,
            "\"q\".\"ordinality\"::pg_catalog.int4".to_owned(),
        ),
        (
            "unnest(ARRAY['[1,2,3]'::vector, '[4,5,6]']) q(v)",
            2,
            by_vector("ARRAY['[1,2,3]'::vector, '[4,5,6]']"),
        ),
    ] {
        for join in [
            format!("{rows} CROSS JOIN LATERAL {NEAREST}"),
            format!("{rows}, LATERAL {NEAREST}"),
            format!("{rows} INNER JOIN LATERAL {NEAREST} ON true"),
            format!("{rows} LEFT JOIN LATERAL {NEAREST} ON true"),
        ] {
            let sql = format!("SELECT *, 'LATERAL (' AS lateral FROM {join} ORDER BY 1");
            let query = claim(&sql).unwrap_or_else(|reason| panic!("{reason}: {sql}"));
            let batch = query.batch.as_ref().unwrap();
            assert_eq!(batch.place, place, "{sql}");
            assert_eq!(query.is_left_joined(), join.contains("LEFT"));
            assert_eq!(
                query.search_of_batch(&sql).unwrap(),
                NEAREST.trim_start_matches('(').trim_end_matches(") r")
            );
            match query.query {
                QueryVector::Rows(rows) => assert_eq!(rows.len(), count, "{sql}"),
                QueryVector::Elements(_) => assert_eq!(count, 0, "{sql}"),
                one @ (QueryVector::Literal(_) | QueryVector::Parameter(_)) => panic!("{one:?}"),
            }
        }
    }
}

#[test]
fn names_that_postgres_gives_are_known() {
    for (rows, vector) in [
        ("(VALUES (0, $1::vector)) q", "q.column2"),
        ("(VALUES ($1::vector, 3)) q", "q.column1"),
        ("(VALUES ($1::vector, 3)) q(v)", "q.v"),
        ("unnest($1::vector[]) q", "q.q"),
        ("unnest($1::vector[]) AS \"Q\"", "\"Q\".\"Q\""),
    ] {
        let sql = format!(
            "SELECT 1 FROM {rows} CROSS JOIN LATERAL (SELECT id FROM items ORDER BY {vector} <-> items.embedding LIMIT $2) r"
        );
        assert!(claim(&sql).is_ok(), "{sql}");
    }
}

#[test]
fn only_the_search_is_rewritten() {
    let sql = "/* a */ SELECT q.n, r.* FROM unnest($1::vector[]) WITH ORDINALITY AS q(v, n) -- b
        JOIN LATERAL (SELECT id, embedding <-> q.v AS d FROM items i WHERE cat = $2 ORDER BY d LIMIT 3 -- c
        ) r ON true ORDER BY q.n, r.d";
    let query = claim(sql).unwrap();
    let plan = plan(sql, &query, 0, None, &items()).unwrap();
    assert_eq!(plan.first_key_param, 3);
    let keys = "\"i\".\"id\" OPERATOR(pg_catalog.=) ANY ((SELECT ($3::pg_catalog.int8[])[rektor_row.place:rektor_row.place] \
                FROM (SELECT \"q\".\"n\"::pg_catalog.int4 AS place) AS rektor_row)::pg_catalog.int8[]) \
                AND '\"items\"'::pg_catalog.regclass OPERATOR(pg_catalog.=) '77'::pg_catalog.oid \
                AND pg_catalog.pg_current_xact_id_if_assigned() IS NULL";
    let ordered = sql.replace(
        "ORDER BY d LIMIT",
        "ORDER BY (embedding <-> q.v) OPERATOR(pg_catalog.+) 0 LIMIT",
    );
    assert_eq!(plan.exact, ordered);
    let nominate = ordered.replace("WHERE cat = $2", &format!("WHERE (cat = $2) AND {keys}"));
    assert_eq!(plan.nominate, nominate);
}

#[test]
fn what_cannot_be_answered_so_is_refused() {
    use RelayReason as R;
    let search = |order: &str| {
        format!("SELECT 1 FROM {VALUES} CROSS JOIN LATERAL (SELECT id FROM items {order}) r")
    };
    let rows = |rows: &str| format!("SELECT 1 FROM {rows} q(n, v) CROSS JOIN LATERAL {NEAREST}");
    let around =
        |what: &str| format!("SELECT q.n FROM {VALUES} CROSS JOIN LATERAL {NEAREST} {what}");
    let many = vec!["(1, '[1,2,3]'::vector)"; super::MAX_VECTORS + 1].join(", ");
    for (sql, reason) in [
        // the statement around
        (around("WHERE q.n > 0"), R::AroundLateral),
        (around("LIMIT 5"), R::AroundLateral),
        (around("OFFSET 1"), R::AroundLateral),
        (around("GROUP BY q.n"), R::Grouped),
        (around("FOR UPDATE"), R::Locking),
        (around("").replace("q.n", "count(*)"), R::Aggregate),
        (around("").replace("q.n", "DISTINCT q.n"), R::Distinct),
        (around("").replace("q.n", "generate_series(1, 2)"), R::SetReturning),
        (around("").replace("q.n", "random()"), R::Volatile),
        (format!("WITH w AS (SELECT 1) {}", around("")), R::AroundLateral),
        (format!("{} UNION ALL SELECT 1 <-> 2", around("")), R::SetOperation),
        // other joins
        (around("").replace("CROSS JOIN", "LEFT JOIN") + " ON q.n > 0", R::NotOneTable),
        (around("").replace("CROSS JOIN LATERAL", "CROSS JOIN"), R::NotOneTable),
        (around("").replace(" CROSS JOIN", ", items t, "), R::NotOneTable),
        (around("CROSS JOIN items t"), R::NotOneTable),
        // vectors that are not in the statement
        ("SELECT 1 FROM queries q CROSS JOIN LATERAL (SELECT id FROM items ORDER BY embedding <-> q.v LIMIT 3) r".into(), R::NotOneTable),
        (rows("(SELECT n, v FROM queries)"), R::NotOneTable),
        (rows("(VALUES (1, '[1,2,3]'::vector) LIMIT 1)"), R::NotOneTable),
        (rows("(VALUES (1, (SELECT v FROM queries)))"), R::QueryNotConstant),
        (rows("(VALUES (1, '[1,2,3]'), (2, '[4,5,6]'))"), R::QueryNotConstant),
        (rows("(VALUES (1, NULL), (2, '[4,5,6]'::vector))"), R::NullQuery),
        (rows("(VALUES (1, '[1,2,3]'::halfvec), (2, '[4,5,6]'::vector))"), R::QueryNotConstant),
        (rows("(VALUES (1::int, '{1,2,3}'::real[]))"), R::NotAPlainSelect),
        (rows(&format!("(VALUES {many})")), R::BatchTooLarge),
        (rows("unnest($1::int[], $2::vector[])"), R::NotOneTable),
        (rows("ROWS FROM (unnest($1::vector[]))"), R::NotOneTable),
        (rows("myschema.unnest($1::vector[])"), R::NotOneTable),
        (rows("unnest($1)").replace("(n, v)", "(v)"), R::QueryNotConstant),
        (rows("unnest($1::vector[][])").replace("(n, v)", "(v)"), R::QueryNotConstant),
        (rows("unnest($1::real[])").replace("(n, v)", "(v)"), R::QueryNotConstant),
        (rows("unnest(ARRAY['{1}'::real[]])").replace("(n, v)", "(v)"), R::QueryNotConstant),
        (rows("unnest($1::vector[] || $2::vector[])").replace("(n, v)", "(v)"), R::QueryNotConstant),
        // the search
        (search("ORDER BY embedding <-> q.n LIMIT 3"), R::QueryNotConstant),
        (search("ORDER BY embedding <-> v LIMIT 3"), R::NotADistance),
        (search("q ORDER BY q.embedding <-> q.v LIMIT 3"), R::QueryNotConstant),
        (search("q ORDER BY embedding <-> q.v LIMIT 3"), R::QueryNotConstant),
        (search("ORDER BY embedding <-> '[1,2,3]' LIMIT 3"), R::QueryNotConstant),
        (search("ORDER BY embedding <-> q.v LIMIT q.n"), R::LimitNotConstant),
        (search("ORDER BY embedding <-> q.v, id LIMIT 3"), R::SeveralSortKeys),
        (search("ORDER BY embedding <-> q.v"), R::NotOneTable),
        (search("JOIN u USING (id) ORDER BY embedding <-> q.v LIMIT 3"), R::NotOneTable),
        (search("FOR UPDATE").replace("FOR", "ORDER BY embedding <-> q.v LIMIT 3 FOR"), R::Locking),
    ] {
        assert_eq!(claim(&sql).err(), Some(reason), "{sql}");
    }
}
