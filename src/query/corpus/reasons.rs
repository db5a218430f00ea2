//! What becomes of every kind of statement that is not claimed: the reason it is relayed for.

use super::claim;
use crate::query::RelayReason;

/// Every cause that the statement itself shows.
#[test]
fn reasons() {
    use RelayReason as R;
    let table: &[(&str, R)] = &[
        ("SELECT 1 <-> 2", R::NotOneTable),
        (
            "SELECT * FROM t, u ORDER BY e <-> $1 LIMIT 1",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM u LEFT JOIN t ON true ORDER BY t.e <-> $1 LIMIT 1",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM t RIGHT JOIN u ON true ORDER BY t.e <-> $1 LIMIT 1",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM t FULL JOIN u ON true ORDER BY t.e <-> $1 LIMIT 1",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM u LEFT JOIN (v JOIN t ON true) ON true ORDER BY t.e <-> $1 LIMIT 1",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM (t JOIN u ON true) AS t ORDER BY t.e <-> $1 LIMIT 1",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM t JOIN f(1) u ON true ORDER BY t.e <-> $1 LIMIT 1",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM u JOIN ONLY t ON true ORDER BY t.e <-> $1 LIMIT 1",
            R::Only,
        ),
        (
            "SELECT * FROM f(1) t ORDER BY e <-> $1 LIMIT 1",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM LATERAL (SELECT 1) t ORDER BY e <-> $1 LIMIT 1",
            R::NotOneTable,
        ),
        ("SELECT * FROM ONLY t ORDER BY e <-> $1 LIMIT 1", R::Only),
        (
            "SELECT * FROM t AS a (x, y) ORDER BY e <-> $1 LIMIT 1",
            R::ColumnAliases,
        ),
        (
            "SELECT * FROM d.s.t ORDER BY e <-> $1 LIMIT 1",
            R::DatabaseQualified,
        ),
        (
            "SELECT * FROM t TABLESAMPLE system (1) ORDER BY e <-> $1 LIMIT 1",
            R::TableSample,
        ),
        (
            "WITH c AS (SELECT 1) SELECT * FROM t ORDER BY e <-> $1 LIMIT 1",
            R::With,
        ),
        (
            "SELECT * FROM t UNION SELECT * FROM t ORDER BY e <-> $1 LIMIT 1",
            R::SetOperation,
        ),
        (
            "SELECT DISTINCT * FROM t ORDER BY e <-> $1 LIMIT 1",
            R::Distinct,
        ),
        (
            "SELECT DISTINCT ON (a) * FROM t ORDER BY e <-> $1 LIMIT 1",
            R::Distinct,
        ),
        (
            "SELECT 1 FROM t GROUP BY a ORDER BY e <-> $1 LIMIT 1",
            R::Grouped,
        ),
        (
            "SELECT 1 FROM t GROUP BY () ORDER BY e <-> $1 LIMIT 1",
            R::Grouped,
        ),
        (
            "SELECT 1 FROM t HAVING true ORDER BY e <-> $1 LIMIT 1",
            R::Grouped,
        ),
        (
            "SELECT count(*) FROM t ORDER BY e <-> $1 LIMIT 1",
            R::Aggregate,
        ),
        (
            "SELECT 1 + max(a) FILTER (WHERE a > 1) FROM t ORDER BY e <-> $1 LIMIT 1",
            R::Aggregate,
        ),
        (
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t ORDER BY e <-> $1 LIMIT 1",
            R::Aggregate,
        ),
        (
            "SELECT count(*) OVER () FROM t ORDER BY e <-> $1 LIMIT 1",
            R::Window,
        ),
        (
            "SELECT my_aggregate(a) OVER w FROM t WINDOW w AS (ORDER BY a) ORDER BY e <-> $1 LIMIT 1",
            R::Window,
        ),
        (
            "SELECT * FROM t WINDOW w AS () ORDER BY e <-> $1 LIMIT 1",
            R::Window,
        ),
        (
            "SELECT unnest(a) FROM t ORDER BY e <-> $1 LIMIT 1",
            R::SetReturning,
        ),
        (
            "SELECT generate_series(1, 3) FROM t ORDER BY e <-> $1 LIMIT 1",
            R::SetReturning,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 1 FOR UPDATE",
            R::Locking,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 1 FOR KEY SHARE OF t SKIP LOCKED",
            R::Locking,
        ),
        (
            "SELECT * FROM t WHERE a = (SELECT 1 FROM u FOR UPDATE) ORDER BY e <-> $1 LIMIT 1",
            R::Locking,
        ),
        ("SELECT * INTO u FROM t ORDER BY e <-> $1 LIMIT 1", R::Into),
        (
            "SELECT * FROM t ORDER BY e <-> $1 FETCH FIRST 1 ROWS WITH TIES",
            R::WithTies,
        ),
        (
            "(SELECT * FROM t ORDER BY e <-> $1 LIMIT 1)",
            R::NotAPlainSelect,
        ),
        (
            "(SELECT * FROM t WHERE a = 1) ORDER BY e <-> $1 LIMIT 1",
            R::NotAPlainSelect,
        ),
        ("TABLE t ORDER BY e <-> $1 LIMIT 1", R::NotAPlainSelect),
        ("SELECT e <-> $1 FROM t", R::NotOrdered),
        (
            "SELECT * FROM t ORDER BY e <-> $1, id LIMIT 1",
            R::SeveralSortKeys,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 DESC LIMIT 1",
            R::NotAscending,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 NULLS FIRST LIMIT 1",
            R::NotAscending,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 USING < LIMIT 1",
            R::NotAscending,
        ),
        (
            "SELECT e <-> $1 FROM t ORDER BY id LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT * FROM t ORDER BY (e <-> $1) + 0 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT * FROM t ORDER BY l2_distance(e, $1) LIMIT 1",
            R::NotADistance,
        ),
        ("SELECT * FROM t ORDER BY e <-> f LIMIT 1", R::NotADistance),
        (
            "SELECT * FROM t ORDER BY $1::vector <-> $2 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT * FROM t ORDER BY u.e <-> $1 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT * FROM t AS a ORDER BY t.e <-> $1 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT * FROM s.t ORDER BY z.t.e <-> $1 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT * FROM t ORDER BY t.* <-> $1 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT * FROM t ORDER BY e[1] <-> $1 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT * FROM t ORDER BY (e).x <-> $1 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> ANY (ARRAY[$1]) LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT e <-> $1 AS d FROM t ORDER BY t.d LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT e <-> $1 AS d FROM t ORDER BY d + 0 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT e <-> $1 AS d FROM t ORDER BY 2 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT e <-> $1 AS d FROM t ORDER BY 0 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT e <-> $1 AS d FROM t ORDER BY -1 LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT e <-> $1 AS d FROM t ORDER BY '1' LIMIT 1",
            R::NotADistance,
        ),
        (
            "SELECT e <-> $1 AS d, a AS d FROM t ORDER BY d LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS d, t.d FROM t ORDER BY d LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS lower, lower(a) FROM t ORDER BY lower LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS d, a::d FROM t ORDER BY d LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS d, (r).d FROM t ORDER BY d LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS d, (SELECT d FROM u) FROM t ORDER BY d LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS d, (SELECT 1 AS d) FROM t ORDER BY d LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS d, (SELECT d UNION SELECT 1) FROM t ORDER BY d LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS d, CASE WHEN a THEN 1 ELSE d END FROM t ORDER BY d LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS d, t.d COLLATE \"C\" FROM t ORDER BY d LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT e <-> $1 AS \"coalesce\", coalesce(a, b) FROM t ORDER BY \"coalesce\" LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT *, e <-> $1 AS d FROM t ORDER BY 2 LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT t.*, e <-> $1 AS d FROM t ORDER BY 2 LIMIT 1",
            R::AmbiguousSortKey,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1::text::vector LIMIT 1",
            R::QueryNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1::float8[] LIMIT 1",
            R::QueryNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1::sparsevec LIMIT 1",
            R::QueryNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> ARRAY[1, 2] LIMIT 1",
            R::QueryNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> ARRAY[1, a]::vector LIMIT 1",
            R::QueryNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> ARRAY[ARRAY[1]]::vector LIMIT 1",
            R::QueryNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> 5 LIMIT 1",
            R::QueryNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> l2_normalize($1) LIMIT 1",
            R::QueryNotConstant,
        ),
        ("SELECT * FROM t ORDER BY e <-> NULL LIMIT 1", R::NullQuery),
        (
            "SELECT * FROM t ORDER BY e <-> NULL::vector LIMIT 1",
            R::NullQuery,
        ),
        ("SELECT * FROM t ORDER BY e <-> $1", R::NoLimit),
        ("SELECT * FROM t ORDER BY e <-> $1 OFFSET 3", R::NoLimit),
        ("SELECT * FROM t ORDER BY e <-> $1 LIMIT ALL", R::NoLimit),
        ("SELECT * FROM t ORDER BY e <-> $1 LIMIT NULL", R::NoLimit),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 1 + 1",
            R::LimitNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 2.5",
            R::LimitNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 'x'",
            R::LimitNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT $2::text::int",
            R::LimitNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT (SELECT 1)",
            R::LimitNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 1 OFFSET (SELECT 1)",
            R::LimitNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 0",
            R::LimitNotPositive,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT -1",
            R::LimitNotPositive,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 1 OFFSET -1",
            R::LimitNotPositive,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 1000001",
            R::LimitTooLarge,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 9223372036854775807",
            R::LimitTooLarge,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 99999999999999999999999",
            R::LimitNotConstant,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $1 LIMIT 999999 OFFSET 2",
            R::LimitTooLarge,
        ),
        (
            "SELECT random() FROM t ORDER BY e <-> $1 LIMIT 1",
            R::Volatile,
        ),
        (
            "SELECT * FROM t WHERE nextval('s') > 1 ORDER BY e <-> $1 LIMIT 1",
            R::Volatile,
        ),
        (
            "SELECT * FROM t WHERE a = (SELECT pg_sleep(1)::text) ORDER BY e <-> $1 LIMIT 1",
            R::Volatile,
        ),
        (
            "SELECT set_config('a', 'b', true) FROM t ORDER BY e <-> $1 LIMIT 1",
            R::Volatile,
        ),
        (
            "SELECT * FROM t WHERE a IN (SELECT 1 FROM u TABLESAMPLE system (1)) ORDER BY e <-> $1 LIMIT 1",
            R::TableSample,
        ),
        (
            "SELECT * FROM t WHERE a !!!! b ORDER BY e <-> $1 LIMIT 1",
            R::UnknownOperator,
        ),
        (
            "SELECT * FROM t WHERE a OPERATOR(s.@#@) ANY (ARRAY[1]) ORDER BY e <-> $1 LIMIT 1",
            R::UnknownOperator,
        ),
        (
            "SELECT * FROM t WHERE a @#@ ANY (SELECT 1) ORDER BY e <-> $1 LIMIT 1",
            R::UnknownOperator,
        ),
        (
            "SELECT (r).field FROM t ORDER BY e <-> $1 LIMIT 1",
            R::UnknownExpression,
        ),
        (
            "SELECT \"my.function\"(a) FROM t ORDER BY e <-> $1 LIMIT 1",
            R::UnknownExpression,
        ),
        (
            "SELECT a::\"my.type\" FROM t ORDER BY e <-> $1 LIMIT 1",
            R::UnknownExpression,
        ),
        (
            "SELECT JSON_OBJECT('a': 1) FROM t ORDER BY e <-> $1 LIMIT 1",
            R::UnknownExpression,
        ),
        (
            "SELECT JSON_VALUE(a, '$') FROM t ORDER BY e <-> $1 LIMIT 1",
            R::UnknownExpression,
        ),
        (
            "SELECT * FROM t WHERE a IN (SELECT 1 FROM JSON_TABLE(b, '$' COLUMNS (c int))) ORDER BY e <-> $1 LIMIT 1",
            R::UnknownExpression,
        ),
        (
            "SELECT * FROM t ORDER BY e <-> $65536 LIMIT 1",
            R::QueryNotConstant,
        ),
        (
            "SELECT * FROM t WHERE a = $65536 ORDER BY e <-> $1 LIMIT 1",
            R::TooManyParameters,
        ),
    ];
    for (sql, expected) in table {
        assert_eq!(claim(sql).map(|_| ()), Err(*expected), "{sql}");
    }
}
