//! The statements that frameworks, drivers and tutorials send, each with what becomes of it.

use super::{Bound, KnnQuery, QueryVector, RelayReason, StatementKind, analyze};
use crate::vector::Metric;

fn claim(sql: &str) -> Result<KnnQuery, RelayReason> {
    let mut statements = analyze(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    assert_eq!(statements.len(), 1, "{sql}");
    match statements.remove(0).kind {
        StatementKind::Knn(query) => Ok(*query),
        StatementKind::NotClaimed(reason) => Err(reason),
        other => panic!("{other:?}: {sql}"),
    }
}

#[test]
fn framework_shapes() {
    use RelayReason as R;
    let q = "'[3,1,2]'";
    let shapes: &[(u8, String, Result<(&str, Metric), R>)] = &[
        (1, format!("SELECT * FROM items ORDER BY embedding <-> {q} LIMIT 5"), Ok(("embedding", Metric::L2))),
        (2, "SELECT * FROM items WHERE id != 1 ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 1) LIMIT 5".into(), Err(R::QueryNotConstant)),
        (3, format!("SELECT * FROM items WHERE embedding <-> {q} < 5"), Err(R::NotOrdered)),
        (4, format!("WITH r AS MATERIALIZED (SELECT id, embedding <-> {q} AS distance FROM items ORDER BY distance LIMIT 5) SELECT * FROM r ORDER BY distance + 0"), Err(R::With)),
        (5, format!("WITH r AS MATERIALIZED (SELECT id, embedding <-> {q} AS distance FROM items ORDER BY distance LIMIT 5) SELECT * FROM r WHERE distance < 5 ORDER BY distance + 0"), Err(R::With)),
        (6, format!("SELECT * FROM items ORDER BY embedding::halfvec(3) <-> {q} LIMIT 5"), Err(R::NotADistance)),
        (7, format!("SELECT * FROM (SELECT * FROM items ORDER BY binary_quantize(embedding)::bit(3) <~> binary_quantize({q}) LIMIT 20) ORDER BY embedding <=> {q} LIMIT 5"), Err(R::NotOneTable)),
        (8, format!("SELECT * FROM items ORDER BY subvector(embedding, 1, 3)::vector(3) <=> subvector({q}::vector, 1, 3) LIMIT 5"), Err(R::NotADistance)),
        (9, "SELECT id, embedding <-> $1 AS d FROM items WHERE category_id=$2 ORDER BY d LIMIT $3".into(), Ok(("embedding", Metric::L2))),
        (11, "SELECT items.id FROM items ORDER BY items.embedding <-> $1 LIMIT $2::INTEGER".into(), Ok(("embedding", Metric::L2))),
        (12, "SELECT anon_1.id FROM (SELECT items.id AS id, items.embedding AS embedding FROM items ORDER BY CAST(binary_quantize(items.embedding) AS BIT(3)) <~> binary_quantize($1) LIMIT $2) AS anon_1 ORDER BY anon_1.embedding <=> $3 LIMIT $4".into(), Err(R::NotOneTable)),
        (13, format!(r#"SELECT "t"."id", "t"."name", "t"."n", "t"."x", ("t"."embedding" <=> {q}) AS "distance" FROM "t" ORDER BY 5 ASC LIMIT 5"#), Ok(("embedding", Metric::Cosine))),
        (14, format!(r#"SELECT "t"."id", ("t"."embedding" <=> {q}) AS "distance" FROM "t" INNER JOIN "u" ON ("t"."u_id" = "u"."id") WHERE ("t"."embedding" <=> {q}) < 0.5 ORDER BY 2 ASC LIMIT 5"#), Err(R::NotOneTable)),
        (15, format!(r#"SELECT "t"."id", (1 - ("t"."embedding" <=> {q})) AS "similarity" FROM "t" ORDER BY 2 DESC LIMIT 5"#), Err(R::NotAscending)),
        (16, "SELECT langchain_pg_embedding.id AS langchain_pg_embedding_id, langchain_pg_embedding.embedding <=> $1 AS distance FROM langchain_pg_embedding JOIN langchain_pg_collection ON langchain_pg_embedding.collection_id = langchain_pg_collection.uuid WHERE langchain_pg_embedding.collection_id=$2::UUID AND jsonb_path_match(langchain_pg_embedding.cmetadata, CAST($3 AS JSONPATH), CAST($4 AS JSONB)) ORDER BY distance ASC LIMIT $5".into(), Err(R::NotOneTable)),
        (17, r#"SELECT "langchain_id", "content", "embedding", "langchain_metadata", cosine_distance("embedding", $1) as distance FROM "public"."vectorstore" ORDER BY "embedding" <=> $1 LIMIT $2;"#.into(), Ok(("embedding", Metric::Cosine))),
        (18, r#"SELECT *, "embedding" <=> $1 as "_distance" FROM docs WHERE metadata->>'k'=$4 ORDER BY "_distance" ASC LIMIT $2"#.into(), Ok(("embedding", Metric::Cosine))),
        (18, r#"SELECT *, "embedding" OPERATOR(extensions.<=>) $1 as "_distance" FROM docs ORDER BY "_distance" ASC LIMIT $2"#.into(), Ok(("embedding", Metric::Cosine))),
        (19, format!("SELECT id, node_id, text, metadata_, (embedding <=> {q}) AS distance FROM public.data_items WHERE (metadata_->>'year')::float > 2000.0 AND metadata_::jsonb->'tags' ?| array['a'] ORDER BY distance asc LIMIT 2"), Ok(("embedding", Metric::Cosine))),
        (20, format!("SELECT *, 1 - (embedding <=> {q}) AS score FROM public.haystack WHERE meta->>'x' != ALL('{{a}}') AND meta->>'y' IS DISTINCT FROM 'b' ORDER BY embedding <=> {q} ASC LIMIT 10"), Ok(("embedding", Metric::Cosine))),
        (21, "SELECT id, vector <=> $1::vector AS distance, payload FROM mem0 WHERE payload->>'user_id' = $2 ORDER BY distance LIMIT $3".into(), Ok(("vector", Metric::Cosine))),
        (22, "SELECT *, embedding <=> $1 AS distance FROM public.vector_store WHERE embedding <=> $2 < $3 AND metadata::jsonb @@ '$.a == 1'::jsonpath ORDER BY distance LIMIT $4".into(), Ok(("embedding", Metric::Cosine))),
        (23, "SELECT *, (1 + (embedding <#> $1)) AS distance FROM public.vector_store WHERE (1 + (embedding <#> $2)) < $3 ORDER BY distance LIMIT $4".into(), Err(R::NotADistance)),
        (24, format!("WITH temp AS (SELECT (2 - (embedding <=> {q})) / 2 AS score FROM items) SELECT * FROM temp WHERE score >= 0.5 ORDER BY score desc LIMIT 5"), Err(R::With)),
        (25, format!(r#"SELECT "t".*, "t"."embedding" <-> {q} AS neighbor_distance FROM "t" WHERE "t"."embedding" IS NOT NULL AND "t"."id" != 1 ORDER BY "t"."embedding" <-> {q} LIMIT 5"#), Ok(("embedding", Metric::L2))),
        (26, "SELECT id, embedding::text FROM items ORDER BY embedding <-> $1::vector LIMIT 5".into(), Ok(("embedding", Metric::L2))),
        (27, r#"select "id" from "items" order by "items"."embedding" <-> $1 limit $2"#.into(), Ok(("embedding", Metric::L2))),
        (28, "SELECT id, 1 - (embedding <=> $1::vector) AS similarity FROM docs ORDER BY embedding <=> $1::vector, created_at DESC LIMIT $2".into(), Err(R::SeveralSortKeys)),
        (29, "SELECT id, 1 - (embedding <=> $1::vector) AS similarity FROM docs WHERE 1 - (embedding <=> $1::vector) > $3 ORDER BY embedding <=> $1::vector LIMIT $2".into(), Ok(("embedding", Metric::Cosine))),
        (30, format!("SELECT id, RANK() OVER (ORDER BY embedding <=> {q}) AS rank FROM docs ORDER BY embedding <=> {q} LIMIT 20"), Err(R::Window)),
        (31, format!("SELECT * FROM (VALUES (0, CAST(ARRAY[1,2] AS VECTOR(2)))) qv (n, q_vector) JOIN LATERAL (SELECT id FROM chunk ORDER BY vector <=> qv.q_vector LIMIT 3) r ON true ORDER BY vector <=> {q} LIMIT 2"), Err(R::NotOneTable)),
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
    assert_eq!(query.cast.unwrap().dimensions, Some(3));
    assert_eq!(query.limit, Bound::Constant(10));
    assert_eq!(query.offset, Bound::Parameter(2));
    assert_eq!(query.parameters, 2);
}
