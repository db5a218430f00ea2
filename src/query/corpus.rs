//! The statements that frameworks, drivers and tutorials send, each with what becomes of it.

mod reasons;

use super::{Bound, KnnQuery, QueryStep, QueryVector, RelayReason, StatementKind, analyze};
use crate::vector::{Metric, VectorType};

fn claim(sql: &str) -> Result<KnnQuery, RelayReason> {
    let mut statements = analyze(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    assert_eq!(statements.len(), 1, "{sql}");
    match statements.remove(0).kind {
        StatementKind::Knn(query) => Ok(*query),
        StatementKind::NotClaimed(reason) => Err(reason),
        other @ (StatementKind::Explain { .. } | StatementKind::Ddl(_) | StatementKind::Other) => {
            panic!("{other:?}: {sql}")
        }
    }
}

#[test]
fn framework_shapes() {
    use RelayReason as R;
    let q = "'[3,1,2]'";
    type Shape = (u8, String, Result<(&'static str, Metric), R>);
    let shapes: &[Shape] = &[
        (1, format!("SELECT * FROM items ORDER BY embedding <-> {q} LIMIT 5"), Ok(("embedding", Metric::L2))),
        (2, "SELECT * FROM items WHERE id != 1 ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 1) LIMIT 5".into(), Err(R::QueryNotConstant)),
        (3, format!("SELECT * FROM items WHERE embedding <-> {q} < 5"), Err(R::NotOrdered)),
        (4, format!("WITH r AS MATERIALIZED (SELECT id, embedding <-> {q} AS distance FROM items ORDER BY distance LIMIT 5) SELECT * FROM r ORDER BY distance + 0"), Ok(("embedding", Metric::L2))),
        (5, format!("WITH r AS MATERIALIZED (SELECT id, embedding <-> {q} AS distance FROM items ORDER BY distance LIMIT 5) SELECT * FROM r WHERE distance < 5 ORDER BY distance + 0"), Ok(("embedding", Metric::L2))),
        (6, format!("SELECT * FROM items ORDER BY embedding::halfvec(3) <-> {q} LIMIT 5"), Ok(("embedding", Metric::L2))),
        (7, format!("SELECT * FROM (SELECT * FROM items ORDER BY binary_quantize(embedding)::bit(3) <~> binary_quantize({q}) LIMIT 20) ORDER BY embedding <=> {q} LIMIT 5"), Err(R::QueryNotConstant)),
        (7, format!("SELECT * FROM (SELECT * FROM items ORDER BY binary_quantize(embedding)::bit(3) <~> binary_quantize({q}::vector) LIMIT 20) ORDER BY embedding <=> {q} LIMIT 5"), Ok(("embedding", Metric::Hamming))),
        (8, format!("SELECT * FROM items ORDER BY subvector(embedding, 1, 3)::vector(3) <=> subvector({q}::vector, 1, 3) LIMIT 5"), Ok(("embedding", Metric::Cosine))),
        (9, "SELECT id, embedding <-> $1 AS d FROM items WHERE category_id=$2 ORDER BY d LIMIT $3".into(), Ok(("embedding", Metric::L2))),
        (11, "SELECT items.id FROM items ORDER BY items.embedding <-> $1 LIMIT $2::INTEGER".into(), Ok(("embedding", Metric::L2))),
        (12, "SELECT anon_1.id FROM (SELECT items.id AS id, items.embedding AS embedding FROM items ORDER BY CAST(binary_quantize(items.embedding) AS BIT(3)) <~> binary_quantize($1) LIMIT $2) AS anon_1 ORDER BY anon_1.embedding <=> $3 LIMIT $4".into(), Ok(("embedding", Metric::Hamming))),
        (13, format!(r#"SELECT "t"."id", "t"."name", "t"."n", "t"."x", ("t"."embedding" <=> {q}) AS "distance" FROM "t" ORDER BY 5 ASC LIMIT 5"#), Ok(("embedding", Metric::Cosine))),
        (14, format!(r#"SELECT "t"."id", ("t"."embedding" <=> {q}) AS "distance" FROM "t" INNER JOIN "u" ON ("t"."u_id" = "u"."id") WHERE ("t"."embedding" <=> {q}) < 0.5 ORDER BY 2 ASC LIMIT 5"#), Ok(("embedding", Metric::Cosine))),
        (15, format!(r#"SELECT "t"."id", (1 - ("t"."embedding" <=> {q})) AS "similarity" FROM "t" ORDER BY 2 DESC LIMIT 5"#), Err(R::NotAscending)),
        (16, "SELECT langchain_pg_embedding.id AS langchain_pg_embedding_id, langchain_pg_embedding.embedding <=> $1 AS distance FROM langchain_pg_embedding JOIN langchain_pg_collection ON langchain_pg_embedding.collection_id = langchain_pg_collection.uuid WHERE langchain_pg_embedding.collection_id=$2::UUID AND jsonb_path_match(langchain_pg_embedding.cmetadata, CAST($3 AS JSONPATH), CAST($4 AS JSONB)) ORDER BY distance ASC LIMIT $5".into(), Ok(("embedding", Metric::Cosine))),
        (17, r#"SELECT "langchain_id", "content", "embedding", "langchain_metadata", cosine_distance("embedding", $1) as distance FROM "public"."vectorstore" ORDER BY "embedding" <=> $1 LIMIT $2;"#.into(), Ok(("embedding", Metric::Cosine))),
        (18, r#"SELECT *, "embedding" <=> $1 as "_distance" FROM docs WHERE metadata->>'k'=$4 ORDER BY "_distance" ASC LIMIT $2"#.into(), Ok(("embedding", Metric::Cosine))),
        (18, r#"SELECT *, "embedding" OPERATOR(extensions.<=>) $1 as "_distance" FROM docs ORDER BY "_distance" ASC LIMIT $2"#.into(), Ok(("embedding", Metric::Cosine))),
        (19, format!("SELECT id, node_id, text, metadata_, (embedding <=> {q}) AS distance FROM public.data_items WHERE (metadata_->>'year')::float > 2000.0 AND metadata_::jsonb->'tags' ?| array['a'] ORDER BY distance asc LIMIT 2"), Ok(("embedding", Metric::Cosine))),
        (20, format!("SELECT *, 1 - (embedding <=> {q}) AS score FROM public.haystack WHERE meta->>'x' != ALL('{{a}}') AND meta->>'y' IS DISTINCT FROM 'b' ORDER BY embedding <=> {q} ASC LIMIT 10"), Ok(("embedding", Metric::Cosine))),
        (21, "SELECT id, vector <=> $1::vector AS distance, payload FROM mem0 WHERE payload->>'user_id' = $2 ORDER BY distance LIMIT $3".into(), Ok(("vector", Metric::Cosine))),
        (22, "SELECT *, embedding <=> $1 AS distance FROM public.vector_store WHERE embedding <=> $2 < $3 AND metadata::jsonb @@ '$.a == 1'::jsonpath ORDER BY distance LIMIT $4".into(), Ok(("embedding", Metric::Cosine))),
        (23, "SELECT *, (1 + (embedding <#> $1)) AS distance FROM public.vector_store WHERE (1 + (embedding <#> $2)) < $3 ORDER BY distance LIMIT $4".into(), Err(R::NotADistance)),
        (26, "SELECT id FROM items ORDER BY embedding <+> $1::vector LIMIT 5".into(), Ok(("embedding", Metric::L1))),
        (3, "SELECT id FROM items ORDER BY embedding <~> B'101' LIMIT 5".into(), Ok(("embedding", Metric::Hamming))),
        (3, "SELECT id FROM items ORDER BY embedding <%> '101'::bit(3) LIMIT 5".into(), Ok(("embedding", Metric::Jaccard))),
        (24, format!("WITH temp AS (SELECT (2 - (embedding <=> {q})) / 2 AS score FROM items) SELECT * FROM temp WHERE score >= 0.5 ORDER BY score desc LIMIT 5"), Err(R::With)),
        (25, format!(r#"SELECT "t".*, "t"."embedding" <-> {q} AS neighbor_distance FROM "t" WHERE "t"."embedding" IS NOT NULL AND "t"."id" != 1 ORDER BY "t"."embedding" <-> {q} LIMIT 5"#), Ok(("embedding", Metric::L2))),
        (26, "SELECT id, embedding::text FROM items ORDER BY embedding <-> $1::vector LIMIT 5".into(), Ok(("embedding", Metric::L2))),
        (27, r#"select "id" from "items" order by "items"."embedding" <-> $1 limit $2"#.into(), Ok(("embedding", Metric::L2))),
        (28, "SELECT id, 1 - (embedding <=> $1::vector) AS similarity FROM docs ORDER BY embedding <=> $1::vector, created_at DESC LIMIT $2".into(), Err(R::SeveralSortKeys)),
        (29, "SELECT id, 1 - (embedding <=> $1::vector) AS similarity FROM docs WHERE 1 - (embedding <=> $1::vector) > $3 ORDER BY embedding <=> $1::vector LIMIT $2".into(), Ok(("embedding", Metric::Cosine))),
        (30, format!("SELECT id, RANK() OVER (ORDER BY embedding <=> {q}) AS rank FROM docs ORDER BY embedding <=> {q} LIMIT 20"), Err(R::Window)),
        (31, format!("SELECT * FROM (VALUES (0, CAST(ARRAY[1,2] AS VECTOR(2)))) qv (n, q_vector) JOIN LATERAL (SELECT id FROM chunk ORDER BY vector <=> qv.q_vector LIMIT 3) r ON true ORDER BY vector <=> {q} LIMIT 2"), Err(R::AroundLateral)),
        (31, "SELECT query_vectors.qid, result.id, result.distance FROM (VALUES (0, CAST(ARRAY[0.5, -1] AS VECTOR(2))), (1, CAST(ARRAY[1e-3, 2] AS VECTOR(2)))) AS query_vectors (qid, q_vector) JOIN LATERAL (SELECT chunk.id AS id, chunk.vector <=> query_vectors.q_vector AS distance FROM chunk WHERE chunk.collection_name = 'c' ORDER BY chunk.vector <=> query_vectors.q_vector LIMIT 3) AS result ON true ORDER BY query_vectors.qid, result.distance".into(), Ok(("vector", Metric::Cosine))),
        (32, "(SELECT id FROM a ORDER BY embedding <=> $1 LIMIT 5) UNION ALL (SELECT id FROM a ORDER BY embedding <=> $2 LIMIT 5)".into(), Err(R::SetOperation)),
        (33, "SELECT id, greatest(0, 1 - (embedding <=> $1)) + ts_rank(v, q) AS hybrid_score FROM docs ORDER BY hybrid_score DESC LIMIT 5".into(), Err(R::NotAscending)),
        (35, format!("SELECT category_id, AVG(embedding <-> {q}) FROM items GROUP BY category_id"), Err(R::Grouped)),
    ];
    for (number, sql, expected) in shapes {
        let claimed = claim(sql).map(|query| (query.column, query.metric));
        let expected = expected.map(|(column, metric)| (column.to_owned(), metric));
        assert_eq!(claimed, expected, "shape {number}: {sql}");
    }
}

#[test]
fn parts_of_a_claim() {
    let query = claim("SELECT id FROM public.items AS i ORDER BY $1::vector(3) <=> i.emb LIMIT '10'::bigint OFFSET $2").unwrap();
    assert_eq!(query.schema.as_deref(), Some("public"));
    assert_eq!(query.table, "items");
    assert_eq!(query.alias.as_deref(), Some("i"));
    assert_eq!(query.query, QueryVector::Parameter(1));
    assert_eq!(query.written_dimensions().collect::<Vec<_>>(), [3]);
    assert_eq!(query.limit, Bound::Constant(10));
    assert_eq!(query.offset, Bound::Parameter(2));
    assert_eq!(query.parameters, 2);
}

/// Claimed, and what of it asks upstream first.
#[test]
fn unknown_names_are_listed() {
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "SELECT * FROM t WHERE a = 1 AND b LIKE 'x%' AND c BETWEEN 1 AND 2 AND d IS NOT NULL AND e2 IS TRUE ORDER BY e <-> $1 LIMIT 1",
            &[],
            &[],
        ),
        (
            "SELECT lower(a) || b, now(), current_timestamp, coalesce(a, b), CASE a WHEN 1 THEN 2 ELSE 3 END, greatest(a, b), nullif(a, b), ROW(a, b), ARRAY[a, b], a[1], a[1:2] FROM t ORDER BY e <-> $1 LIMIT 1",
            &[],
            &[],
        ),
        (
            "SELECT extract(year FROM a), a AT TIME ZONE 'UTC', substring(a from 1 for 2), trim(both from a), position('a' in b), overlay(a placing b from 1), a COLLATE \"C\", INTERVAL '1 day', (a, b) OVERLAPS (c, d), a IS NORMALIZED FROM t ORDER BY e <-> $1 LIMIT 1",
            &[],
            &[],
        ),
        (
            "SELECT * FROM t WHERE a IN (WITH w AS (SELECT max(x) FROM u GROUP BY y) SELECT count(*) OVER () FROM w, unnest(ARRAY[1]) n, generate_series(1, 2) LIMIT 3) ORDER BY e <-> $1 LIMIT 1",
            &[],
            &[],
        ),
        (
            "SELECT (SELECT array_agg(x ORDER BY y) FROM u WHERE u.t = t.id), EXISTS (SELECT 1), ARRAY(SELECT 2) FROM t ORDER BY e <-> $1 LIMIT 1",
            &[],
            &[],
        ),
        (
            "SELECT mine(a), s.\"Yours\"(a), mine(b), app.lower(c), pg_catalog.lower(d), app.l2_norm(e) FROM t ORDER BY e <-> $1 LIMIT 1",
            &["app.lower", "mine", "s.Yours"],
            &[],
        ),
        (
            "SELECT * FROM t WHERE a IN (SELECT 1 FROM theirs(1)) ORDER BY e <-> $1 LIMIT 1",
            &["theirs"],
            &[],
        ),
        (
            "SELECT a::mood, b::s.mood[], x::s.int4, y::s.vector, z::pg_catalog.int4, c::int[], d::_int4, f::varchar(3), g::timestamp with time zone FROM t ORDER BY e <-> $1 LIMIT 1",
            &[],
            &["mood", "s.int4", "s.mood"],
        ),
    ];
    for (sql, functions, types) in table {
        let query = claim(sql).unwrap_or_else(|reason| panic!("{reason}: {sql}"));
        assert_eq!(query.unknown_functions, *functions, "{sql}");
        assert_eq!(query.unknown_types, *types, "{sql}");
    }
}

#[test]
fn query_vectors() {
    use QueryVector::{Literal, Parameter};
    let table = [
        ("$1", Parameter(1), None),
        ("$1::vector", Parameter(1), Some((VectorType::Vector, None))),
        (
            "CAST($1 AS vector(3))",
            Parameter(1),
            Some((VectorType::Vector, Some(3))),
        ),
        (
            "$1::extensions.halfvec(3)",
            Parameter(1),
            Some((VectorType::Halfvec, Some(3))),
        ),
        (
            "$1::real[]",
            Parameter(1),
            Some((VectorType::RealArray, None)),
        ),
        (
            "$1::float4[3]",
            Parameter(1),
            Some((VectorType::RealArray, None)),
        ),
        (
            "$1::_float4",
            Parameter(1),
            Some((VectorType::RealArray, None)),
        ),
        ("'[1,2]'", Literal("[1,2]".into()), None),
        ("E'[1,\\x32]'", Literal("[1,2]".into()), None),
        ("$$[1,2]$$", Literal("[1,2]".into()), None),
        (
            "vector '[1,2]'",
            Literal("[1,2]".into()),
            Some((VectorType::Vector, None)),
        ),
        (
            "('[1,2]'::vector)",
            Literal("[1,2]".into()),
            Some((VectorType::Vector, None)),
        ),
        (
            "'nonsense'::vector",
            Literal("nonsense".into()),
            Some((VectorType::Vector, None)),
        ),
        (
            "ARRAY[1, -2.5, 3e2, 4]::vector(4)",
            Literal("[1,-2.5,3e2,4]".into()),
            Some((VectorType::Vector, Some(4))),
        ),
        (
            "ARRAY[1, 2]::real[]",
            Literal("{1,2}".into()),
            Some((VectorType::RealArray, None)),
        ),
        ("B'101'", Literal("101".into()), None),
        ("X'1f'", Literal("x1f".into()), None),
        (
            "'b101'::bit(3)",
            Literal("b101".into()),
            Some((VectorType::Bit, Some(3))),
        ),
        // One bit, as SQL has it.
        ("$1::bit", Parameter(1), Some((VectorType::Bit, Some(1)))),
    ];
    for (text, vector, cast) in table {
        for sql in [
            format!("SELECT * FROM t ORDER BY e <-> {text} LIMIT 1"),
            format!("SELECT * FROM t ORDER BY {text} <-> e LIMIT 1"),
            format!("SELECT {text} <-> e AS d FROM t ORDER BY d LIMIT 1"),
        ] {
            let query = claim(&sql).unwrap_or_else(|reason| panic!("{reason}: {sql}"));
            assert_eq!(query.query, vector, "{sql}");
            let found = query.steps.first().map(|step| match step {
                QueryStep::Cast(cast) => (cast.kind, cast.dimensions),
                QueryStep::BinaryQuantize | QueryStep::Subvector(_) => panic!("{step:?}"),
            });
            assert_eq!(found, cast, "{sql}");
        }
    }
}

/// What of a column is ordered by, and what is done to the query.
#[test]
fn expressions() {
    let table: &[(&str, &str, &[i64])] = &[
        ("e::halfvec(3) <-> $1", "halfvec", &[3]),
        ("cast(e as halfvec(3)) <-> $1", "halfvec", &[3]),
        ("e::public.halfvec <-> $1::halfvec(3)", "halfvec", &[3]),
        ("(t.e)::halfvec(3) <-> ('[1,2,3]')", "halfvec", &[3]),
        ("'[1,2,3]'::vector(3) <=> e::halfvec(3)", "halfvec", &[3, 3]),
        ("e::vector(3) <-> $1", "vector", &[3]),
        (
            "binary_quantize(e)::bit(3) <~> binary_quantize($1)",
            "binary_quantize",
            &[3],
        ),
        (
            "binary_quantize(e)::bit(3) <~> binary_quantize('[1,2,3]'::vector)",
            "binary_quantize",
            &[3],
        ),
        (
            "cast(public.binary_quantize(t.e) as bit(3)) <%> binary_quantize($1::vector(3))::bit(3)",
            "binary_quantize",
            &[3, 3],
        ),
        ("binary_quantize(e) <~> B'101'", "binary_quantize", &[]),
        ("binary_quantize(e) <~> $1::bit(3)", "binary_quantize", &[3]),
        (
            "subvector(e, 2, 3)::vector(3) <=> subvector($1::vector, 2, 3)",
            "subvector(2, 3)::vector",
            &[3, 3],
        ),
        (
            "subvector(e, 2, 3)::halfvec(3) <=> '[1,2,3]'",
            "subvector(2, 3)::halfvec",
            &[3],
        ),
        ("subvector(e, 2, 3) <=> $1", "subvector(2, 3)", &[]),
    ];
    for (distance, expression, dimensions) in table {
        for sql in [
            format!("SELECT * FROM t ORDER BY {distance} LIMIT 1"),
            format!("SELECT id, {distance} AS d FROM t ORDER BY d LIMIT 1"),
        ] {
            let query = claim(&sql).unwrap_or_else(|reason| panic!("{reason}: {sql}"));
            assert_eq!(query.column, "e", "{sql}");
            assert_eq!(query.expression.to_string(), *expression, "{sql}");
            let written: Vec<i64> = query.written_dimensions().collect();
            assert_eq!(written, *dimensions, "{sql}");
        }
    }
    for (distance, reason) in [
        ("e::sparsevec(3) <-> $1", RelayReason::NotADistance),
        ("e::bit(3) <~> $1", RelayReason::NotADistance),
        ("e::halfvec(3)::vector(3) <-> $1", RelayReason::NotADistance),
        ("l2_normalize(e) <-> $1", RelayReason::NotADistance),
        (
            "binary_quantize(e)::varbit <~> $1",
            RelayReason::NotADistance,
        ),
        ("binary_quantize(e, 1) <~> $1", RelayReason::NotADistance),
        (
            "binary_quantize(VARIADIC e) <~> $1",
            RelayReason::NotADistance,
        ),
        ("binary_quantize(u.e) <~> $1", RelayReason::NotADistance),
        ("subvector(e, $2, 3) <-> $1", RelayReason::NotADistance),
        ("subvector(e, -1, 3) <-> $1", RelayReason::NotADistance),
        ("subvector(e, 1, 16001) <-> $1", RelayReason::NotADistance),
        ("e::halfvec(3) <-> f::halfvec(3)", RelayReason::NotADistance),
        (
            "binary_quantize(e) <~> binary_quantize('[1,2,3]')",
            RelayReason::QueryNotConstant,
        ),
        (
            "e::halfvec(3) <-> l2_normalize($1)",
            RelayReason::QueryNotConstant,
        ),
        (
            "e::halfvec(3) <-> $1::vector::halfvec::vector::halfvec::vector",
            RelayReason::QueryNotConstant,
        ),
    ] {
        let sql = format!("SELECT * FROM t ORDER BY {distance} LIMIT 1");
        assert_eq!(claim(&sql).map(|_| ()), Err(reason), "{sql}");
    }
}

/// A sub-select that finds the nearest, and what may stand around it.
#[test]
fn sub_selects() {
    let near = "SELECT * FROM t ORDER BY e <-> $1 LIMIT 20";
    for around in [
        "SELECT * FROM (@) s ORDER BY e <=> $1 LIMIT 5",
        "select distance, (select 1) from (@) as s (id, distance) where distance < $2 order by lower(name), 1",
        "SELECT * FROM (@)",
        "SELECT s.* FROM (@) s ORDER BY s.e <=> $1 LIMIT 5 OFFSET 2",
        "WITH s AS (@) SELECT * FROM s ORDER BY e <=> $1 LIMIT 5",
        "WITH \"as\" (x, y) AS NOT MATERIALIZED (@) SELECT * FROM \"as\" AS r (z) WHERE x < 1",
        "with t as materialized (@) select id, (select count(*) from t) from t",
    ] {
        let sql = around.replace('@', near);
        let query = claim(&sql).unwrap_or_else(|reason| panic!("{reason}: {sql}"));
        assert!(query.is_sub_select());
        assert_eq!(query.limit, Bound::Constant(20), "{sql}");
    }
    use RelayReason as R;
    for (around, reason) in [
        ("SELECT count(*) FROM (@) s", R::Aggregate),
        ("WITH s AS (@) SELECT count(*) FROM s", R::Aggregate),
        ("WITH s AS (@) SELECT * FROM public.s", R::With),
        ("WITH s AS (@) SELECT * FROM u", R::With),
        ("WITH s AS (@), r AS (SELECT 1) SELECT * FROM s", R::With),
        ("WITH RECURSIVE s AS (@) SELECT * FROM s", R::With),
        ("WITH s AS (@) SELECT * FROM s JOIN u ON true", R::With),
        ("WITH s AS (@) (SELECT * FROM s)", R::NotAPlainSelect),
        (
            "WITH s AS (INSERT INTO t VALUES (1) RETURNING e <-> $1) SELECT * FROM s",
            R::With,
        ),
        ("SELECT e FROM (@) s GROUP BY e", R::Grouped),
        ("SELECT DISTINCT e FROM (@) s", R::Distinct),
        ("SELECT rank() OVER (ORDER BY e) FROM (@) s", R::Window),
        ("SELECT * FROM (@) s FOR UPDATE", R::Locking),
        ("SELECT * FROM (@) s, u", R::NotOneTable),
        ("SELECT * FROM LATERAL (@) s", R::NotOneTable),
        (
            "SELECT * FROM (SELECT * FROM (@) s LIMIT 3) r",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM (SELECT * FROM (@) s ORDER BY id LIMIT 3) r",
            R::NotOneTable,
        ),
        ("SELECT * FROM (@) s UNION SELECT 1", R::SetOperation),
        ("WITH w AS (SELECT 1) SELECT * FROM (@) s", R::With),
        ("SELECT random() FROM (@) s", R::Volatile),
        ("SELECT unnest(ARRAY[1]) FROM (@) s", R::SetReturning),
        ("SELECT * FROM ((@)) s", R::NotAPlainSelect),
        ("SELECT * FROM (@ FOR SHARE) s", R::Locking),
        ("SELECT * FROM (WITH w AS (SELECT 1) @) s", R::With),
        (
            "SELECT * FROM (SELECT DISTINCT * FROM t ORDER BY e <-> $1 LIMIT 20) s",
            R::Distinct,
        ),
        (
            "SELECT * FROM (SELECT max(e) FROM t ORDER BY e <-> $1 LIMIT 20) s",
            R::Aggregate,
        ),
        (
            "SELECT * FROM (SELECT random() FROM t ORDER BY e <-> $1 LIMIT 20) s",
            R::Volatile,
        ),
        (
            "SELECT * FROM (SELECT * FROM t ORDER BY e <-> $1) s ORDER BY 1 LIMIT 1",
            R::NotOneTable,
        ),
        (
            "SELECT * FROM (SELECT * FROM t ORDER BY e <-> $1 LIMIT ALL) s LIMIT 1",
            R::NoLimit,
        ),
    ] {
        let sql = around.replace('@', near);
        assert_eq!(claim(&sql).map(|_| ()), Err(reason), "{sql}");
    }
}

#[test]
fn limits() {
    use Bound::{Absent, Constant, Parameter};
    let table = [
        ("LIMIT 5", Constant(5), Absent),
        ("LIMIT 5 OFFSET 0", Constant(5), Constant(0)),
        ("OFFSET 2 LIMIT 5", Constant(5), Constant(2)),
        (
            "OFFSET 2 ROWS FETCH NEXT 5 ROWS ONLY",
            Constant(5),
            Constant(2),
        ),
        ("FETCH FIRST ROW ONLY", Constant(1), Absent),
        ("FETCH FIRST (5) ROWS ONLY", Constant(5), Absent),
        ("LIMIT '5'", Constant(5), Absent),
        (
            "LIMIT '10'::bigint OFFSET '1'::bigint",
            Constant(10),
            Constant(1),
        ),
        ("LIMIT $2 OFFSET $3", Parameter(2), Parameter(3)),
        (
            "LIMIT CAST($2 AS integer) OFFSET NULL",
            Parameter(2),
            Absent,
        ),
        ("LIMIT $2::int8", Parameter(2), Absent),
        ("NULLS LAST LIMIT 5", Constant(5), Absent),
    ];
    for (text, limit, offset) in table {
        let query = claim(&format!("SELECT * FROM t ORDER BY e <-> $1 {text}")).expect(text);
        assert_eq!((query.limit, query.offset), (limit, offset), "{text}");
    }
}
