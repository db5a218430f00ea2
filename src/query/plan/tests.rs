//! Rewritten statements, letter by letter, and the choice of an index.

use super::fixtures::{BIGINT, index, items, view};
use super::*;
use crate::query::{StatementKind, analyze};
use crate::vector::Metric;

fn knn(sql: &str) -> KnnQuery {
    let mut statements = analyze(sql).unwrap();
    match statements.remove(0).kind {
        StatementKind::Knn(query) => *query,
        other @ (StatementKind::NotClaimed(_)
        | StatementKind::Explain { .. }
        | StatementKind::Ddl(_)
        | StatementKind::Other) => panic!("{other:?}: {sql}"),
    }
}

fn planned(sql: &str, declared: u16, view: &View) -> Result<Plan, RelayReason> {
    plan(sql, &knn(sql), declared, None, view)
}

/// `{K}` stands for the conditions of the single bigint key as `$n` and the guards.
#[test]
fn rewrites_differ_only_where_they_must() {
    let table = [
        (
            "SELECT id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 5",
            1,
            "SELECT id FROM items WHERE {K} ORDER BY (embedding <-> '[1,2,3]') OPERATOR(pg_catalog.+) 0 LIMIT 5",
            "SELECT id FROM items ORDER BY (embedding <-> '[1,2,3]') OPERATOR(pg_catalog.+) 0 LIMIT 5",
        ),
        (
            "/*+ hint */ select *\nfrom items -- all of them\nwhere cat = 1 or cat = 2 -- two\n order by embedding<->$1 -- near\n asc nulls last limit $2 -- few",
            3,
            "/*+ hint */ select *\nfrom items -- all of them\nwhere (cat = 1 or cat = 2) AND {K} -- two\n order by (embedding<->$1) OPERATOR(pg_catalog.+) 0 -- near\n asc nulls last limit $2 -- few",
            "/*+ hint */ select *\nfrom items -- all of them\nwhere cat = 1 or cat = 2 -- two\n order by (embedding<->$1) OPERATOR(pg_catalog.+) 0 -- near\n asc nulls last limit $2 -- few",
        ),
        (
            "SELECT id, embedding <-> $1 AS d FROM items WHERE id IN (1, 2) ORDER BY d LIMIT $3",
            4,
            "SELECT id, embedding <-> $1 AS d FROM items WHERE (id IN (1, 2)) AND {K} ORDER BY (embedding <-> $1) OPERATOR(pg_catalog.+) 0 LIMIT $3",
            "SELECT id, embedding <-> $1 AS d FROM items WHERE id IN (1, 2) ORDER BY (embedding <-> $1) OPERATOR(pg_catalog.+) 0 LIMIT $3",
        ),
        (
            "SELECT ALL name, ((embedding <-> $1)) dist, cat IS DISTINCT FROM 3 AS \"from\", 1 AS where FROM items ORDER BY 2 ASC OFFSET 1 FETCH FIRST 3 ROWS ONLY;",
            2,
            "SELECT ALL name, ((embedding <-> $1)) dist, cat IS DISTINCT FROM 3 AS \"from\", 1 AS where FROM items WHERE {K} ORDER BY (((embedding <-> $1))) OPERATOR(pg_catalog.+) 0 ASC OFFSET 1 FETCH FIRST 3 ROWS ONLY",
            "SELECT ALL name, ((embedding <-> $1)) dist, cat IS DISTINCT FROM 3 AS \"from\", 1 AS where FROM items ORDER BY (((embedding <-> $1))) OPERATOR(pg_catalog.+) 0 ASC OFFSET 1 FETCH FIRST 3 ROWS ONLY",
        ),
        (
            "SELECT items.order, CAST('where' AS text) AS as, 2 AS order, (SELECT 1 FROM items WHERE cat = 1 ORDER BY id LIMIT 1) FROM items WHERE(cat=2)ORDER BY items.embedding<->$1::vector(3)LIMIT 5",
            2,
            "SELECT items.order, CAST('where' AS text) AS as, 2 AS order, (SELECT 1 FROM items WHERE cat = 1 ORDER BY id LIMIT 1) FROM items WHERE((cat=2)) AND {K} ORDER BY (items.embedding<->$1::vector(3)) OPERATOR(pg_catalog.+) 0 LIMIT 5",
            "SELECT items.order, CAST('where' AS text) AS as, 2 AS order, (SELECT 1 FROM items WHERE cat = 1 ORDER BY id LIMIT 1) FROM items WHERE(cat=2)ORDER BY (items.embedding<->$1::vector(3)) OPERATOR(pg_catalog.+) 0 LIMIT 5",
        ),
        (
            "SELECT 1 FROM items WHERE a = 'x'\n  'y' AND b = U&'d!0061' UESCAPE '!' AND c = $q$ ORDER BY $q$ORDER BY embedding <-> '[1,'\n'2,3]' LIMIT 5",
            1,
            "SELECT 1 FROM items WHERE (a = 'x'\n  'y' AND b = U&'d!0061' UESCAPE '!' AND c = $q$ ORDER BY $q$) AND {K} ORDER BY (embedding <-> '[1,'\n'2,3]') OPERATOR(pg_catalog.+) 0 LIMIT 5",
            "SELECT 1 FROM items WHERE a = 'x'\n  'y' AND b = U&'d!0061' UESCAPE '!' AND c = $q$ ORDER BY $q$ORDER BY (embedding <-> '[1,'\n'2,3]') OPERATOR(pg_catalog.+) 0 LIMIT 5",
        ),
        (
            "SELECT FROM items * WHERE nulls = 'größe' AND \"LIMIT\" = 1 ORDER BY embedding <-> $1 NULLS LAST LIMIT 5",
            2,
            "SELECT FROM items * WHERE (nulls = 'größe' AND \"LIMIT\" = 1) AND {K} ORDER BY (embedding <-> $1) OPERATOR(pg_catalog.+) 0 NULLS LAST LIMIT 5",
            "SELECT FROM items * WHERE nulls = 'größe' AND \"LIMIT\" = 1 ORDER BY (embedding <-> $1) OPERATOR(pg_catalog.+) 0 NULLS LAST LIMIT 5",
        ),
    ];
    for (sql, parameter, nominate, exact) in table {
        let plan = planned(sql, 0, &items()).unwrap();
        let keys = format!(
            "\"items\".\"id\" OPERATOR(pg_catalog.=) ANY (${parameter}::pg_catalog.int8[]) \
             AND '\"items\"'::pg_catalog.regclass OPERATOR(pg_catalog.=) '77'::pg_catalog.oid \
             AND pg_catalog.pg_current_xact_id_if_assigned() IS NULL"
        );
        assert_eq!(plan.nominate, nominate.replace("{K}", &keys));
        assert_eq!(plan.exact, exact);
        assert_eq!(plan.first_key_param, parameter);
    }
}

fn nominated(sql: &str, view: &View) -> String {
    planned(sql, 0, view).unwrap().nominate
}

#[test]
fn keys_are_named_by_what_the_statement_calls_the_table() {
    let composite = &[
        ("a", KeyType::Int4),
        ("b", KeyType::Text),
        ("c", KeyType::Uuid),
    ];
    let comp = view(vec![index(
        1,
        77,
        ("s", "comp"),
        Metric::L2,
        composite,
        Phase::Ready,
    )]);
    assert_eq!(
        nominated(
            "SELECT * FROM s.comp AS c ORDER BY c.embedding <-> $1 LIMIT $2",
            &comp
        ),
        "SELECT * FROM s.comp AS c WHERE (\"c\".\"a\", \"c\".\"b\", \"c\".\"c\") OPERATOR(pg_catalog.=) \
         ANY (SELECT * FROM ROWS FROM (pg_catalog.unnest($3::pg_catalog.int4[]), pg_catalog.unnest($4::pg_catalog.text[]), \
         pg_catalog.unnest($5::pg_catalog.uuid[]))) \
         AND '\"s\".\"comp\"'::pg_catalog.regclass OPERATOR(pg_catalog.=) '77'::pg_catalog.oid \
         AND pg_catalog.pg_current_xact_id_if_assigned() IS NULL \
         ORDER BY (c.embedding <-> $1) OPERATOR(pg_catalog.+) 0 LIMIT $2"
    );
    let odd = r#"O'Neil"s \ table"#;
    let key = &[("Ke\"y", KeyType::Varchar)];
    let odd = view(vec![index(
        1,
        4_000_000_000,
        ("public", odd),
        Metric::L2,
        key,
        Phase::Ready,
    )]);
    assert_eq!(
        nominated(
            r#"SELECT 1 FROM "O'Neil""s \ table" ORDER BY embedding <-> $1 LIMIT 1"#,
            &odd
        ),
        r#"SELECT 1 FROM "O'Neil""s \ table" WHERE "O'Neil""s \ table"."Ke""y" OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.varchar[]) AND E'"O''Neil""s \\ table"'::pg_catalog.regclass OPERATOR(pg_catalog.=) '4000000000'::pg_catalog.oid AND pg_catalog.pg_current_xact_id_if_assigned() IS NULL ORDER BY (embedding <-> $1) OPERATOR(pg_catalog.+) 0 LIMIT 1"#
    );
}

#[test]
fn only_the_statement_itself_is_rewritten() {
    let sql = "SET x = 1; /* a */ SELECT id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 1; SELECT 2";
    let statements = analyze(sql).unwrap();
    let StatementKind::Knn(query) = &statements[1].kind else {
        panic!("{statements:?}")
    };
    let plan = plan(sql, query, 0, None, &items()).unwrap();
    assert_eq!(
        plan.exact,
        "/* a */ SELECT id FROM items ORDER BY (embedding <-> '[1,2,3]') OPERATOR(pg_catalog.+) 0 LIMIT 1"
    );
    let sql =
        "EXPLAIN (ANALYZE) /* b */ SELECT id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 1";
    let statement = analyze(sql).unwrap().remove(0);
    let StatementKind::Explain { inner, .. } = statement.kind else {
        panic!("{statement:?}")
    };
    assert_eq!(&sql[..inner.range.start], "EXPLAIN (ANALYZE) /* b */ ");
    let StatementKind::Knn(query) = &inner.kind else {
        panic!("{inner:?}")
    };
    let plan = super::plan(sql, query, 0, None, &items()).unwrap();
    assert_eq!(
        plan.exact,
        "SELECT id FROM items ORDER BY (embedding <-> '[1,2,3]') OPERATOR(pg_catalog.+) 0 LIMIT 1"
    );
}

#[test]
fn keys_come_after_every_other_parameter() {
    let sql = "SELECT id FROM items WHERE cat = $7 ORDER BY embedding <-> $2 LIMIT 5";
    for (declared, first) in [(0, 8), (7, 8), (9, 10), (u16::MAX - 1, u16::MAX)] {
        assert_eq!(
            planned(sql, declared, &items()).unwrap().first_key_param,
            first
        );
    }
    let none_left = planned(sql, u16::MAX, &items()).map(|_| ());
    assert_eq!(none_left, Err(RelayReason::TooManyParameters));
    let two = &[("a", KeyType::Int8), ("b", KeyType::Int8)];
    let two = view(vec![index(
        1,
        77,
        ("public", "items"),
        Metric::L2,
        two,
        Phase::Ready,
    )]);
    assert_eq!(
        planned(sql, u16::MAX - 2, &two).unwrap().first_key_param,
        u16::MAX - 1
    );
    let one_left = planned(sql, u16::MAX - 1, &two).map(|_| ());
    assert_eq!(one_left, Err(RelayReason::TooManyParameters));
}

#[test]
fn the_index_must_fit_and_be_ready() {
    use RelayReason as R;
    let l2 = "SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 5";
    let state = |id, relation, schema, metric, phase| {
        index(id, relation, (schema, "items"), metric, BIGINT, phase)
    };
    let public = |phase| state(1, 77, "public", Metric::L2, phase);
    let other = state(2, 88, "other", Metric::L2, Phase::Ready);
    let failed = Phase::Failed { error: "e".into() };
    let typed =
        |cast: &str| format!("SELECT id FROM items ORDER BY embedding <-> $1::{cast} LIMIT 5");
    type Case = (String, Vec<Arc<IndexState>>, Result<i64, R>);
    let cases: Vec<Case> = vec![
        (l2.into(), vec![public(Phase::Ready)], Ok(1)),
        (l2.into(), vec![], Err(R::NoIndex)),
        (
            l2.replace("items", "item"),
            vec![public(Phase::Ready)],
            Err(R::NoIndex),
        ),
        (
            l2.replace("embedding", "emb"),
            vec![public(Phase::Ready)],
            Err(R::NoIndex),
        ),
        (
            l2.replace("items", "other.items"),
            vec![public(Phase::Ready)],
            Err(R::NoIndex),
        ),
        (
            l2.replace("items", "other.items"),
            vec![public(Phase::Ready), other.clone()],
            Ok(2),
        ),
        (
            l2.into(),
            vec![public(Phase::Ready), other.clone()],
            Err(R::AmbiguousTable),
        ),
        (
            l2.replace("<->", "<=>"),
            vec![public(Phase::Ready)],
            Err(R::OtherMetric),
        ),
        (
            l2.into(),
            vec![public(Phase::Copying { percent: 1.0 })],
            Err(R::Copying),
        ),
        (
            l2.into(),
            vec![public(Phase::Building { percent: 1.0 })],
            Err(R::Building),
        ),
        (l2.into(), vec![public(failed.clone())], Err(R::Failed)),
        (
            l2.into(),
            vec![
                public(failed),
                state(3, 77, "public", Metric::L2, Phase::Ready),
            ],
            Ok(3),
        ),
        (typed("vector"), vec![public(Phase::Ready)], Ok(1)),
        (typed("public.vector(3)"), vec![public(Phase::Ready)], Ok(1)),
        (
            typed("vector(4)"),
            vec![public(Phase::Ready)],
            Err(R::WrongDimension),
        ),
        (
            typed("halfvec"),
            vec![public(Phase::Ready)],
            Err(R::OtherVectorType),
        ),
        (
            typed("real[]"),
            vec![public(Phase::Ready)],
            Err(R::OtherVectorType),
        ),
    ];
    for (sql, indexes, expected) in cases {
        let chosen = planned(&sql, 0, &view(indexes)).map(|plan| plan.index.definition.id.0);
        assert_eq!(chosen, expected, "{sql}");
    }
    let both = view(vec![public(Phase::Ready), other]);
    let resolved = plan(l2, &knn(l2), 0, Some(RelationId(88)), &both);
    assert_eq!(resolved.unwrap().index.definition.id.0, 2);
    let elsewhere = plan(l2, &knn(l2), 0, Some(RelationId(99)), &both).map(|_| ());
    assert_eq!(elsewhere, Err(R::NoIndex));
}

/// Queries by what they order by, and the index that serves them: on the same expression, else on the column itself.
#[test]
fn an_expression_is_served_by_its_own_index() {
    use RelayReason as R;
    let on = |id, expression: &str, metric, dim: usize| {
        let plain = index(id, 77, ("public", "items"), metric, BIGINT, Phase::Ready);
        let mut state = IndexState::clone(&plain);
        let mut definition = IndexDefinition::clone(&state.definition);
        definition.expression = Expression::try_from(expression.to_owned()).unwrap();
        definition.dim = crate::vector::Dim::new(dim).unwrap();
        state.definition = Arc::new(definition);
        Arc::new(state)
    };
    let plain = on(1, "", Metric::L2, 3);
    let half = on(2, "halfvec", Metric::L2, 3);
    let bits = on(3, "binary_quantize", Metric::Hamming, 3);
    let part = on(4, "subvector(1, 2)::vector", Metric::L2, 2);
    let all = [&plain, &half, &bits, &part];
    type Served<'a> = (&'a str, &'a [&'a Arc<IndexState>], Result<i64, R>);
    let cases: &[Served<'_>] = &[
        ("embedding <-> $1", &all, Ok(1)),
        ("embedding <-> $1", &[&half, &bits], Err(R::OtherExpression)),
        ("embedding::halfvec(3) <-> $1", &all, Ok(2)),
        ("embedding::halfvec <-> $1::vector(3)", &all, Ok(2)),
        ("embedding::halfvec(3) <-> $1", &[&plain], Ok(1)),
        ("embedding::vector(3) <-> $1", &all, Ok(1)),
        (
            "embedding::vector(3) <-> $1",
            &[&half],
            Err(R::OtherExpression),
        ),
        ("embedding::halfvec(4) <-> $1", &all, Err(R::WrongDimension)),
        ("embedding::halfvec(3) <=> $1", &all, Err(R::OtherMetric)),
        (
            "embedding::halfvec(3) <-> $1::bit(3)",
            &all,
            Err(R::OtherVectorType),
        ),
        (
            "embedding::vector(3) <-> $1::halfvec",
            &all,
            Err(R::OtherVectorType),
        ),
        (
            "binary_quantize(embedding)::bit(3) <~> binary_quantize($1)",
            &all,
            Ok(3),
        ),
        ("binary_quantize(embedding)::bit(3) <~> $1", &all, Ok(3)),
        (
            "binary_quantize(embedding)::bit(2) <~> $1",
            &all,
            Err(R::WrongDimension),
        ),
        (
            "binary_quantize(embedding)::bit(3) <~> $1",
            &[&plain],
            Err(R::OtherExpression),
        ),
        (
            "subvector(embedding, 1, 2)::vector(2) <-> subvector($1::vector, 1, 2)",
            &all,
            Ok(4),
        ),
        ("subvector(embedding, 1, 2) <-> $1", &all, Ok(4)),
        (
            "subvector(embedding, 1, 2)::halfvec(2) <-> $1",
            &all,
            Err(R::OtherExpression),
        ),
        (
            "subvector(embedding, 2, 2) <-> $1",
            &all,
            Err(R::OtherExpression),
        ),
    ];
    for (distance, indexes, expected) in cases {
        let sql = format!("SELECT id FROM items ORDER BY {distance} LIMIT 5");
        let indexes = indexes.iter().map(|index| Arc::clone(index)).collect();
        let chosen = planned(&sql, 0, &view(indexes)).map(|plan| plan.index.definition.id.0);
        assert_eq!(chosen, *expected, "{sql}");
    }
}

#[test]
fn a_sub_select_is_restricted_and_counted() {
    let near = "SELECT * FROM items WHERE cat = 1 ORDER BY embedding <-> $1 LIMIT 20";
    let nearest = "WITH rektor_nearest AS MATERIALIZED (SELECT * FROM items WHERE (cat = 1) AND ";
    let count = "(SELECT pg_catalog.count(*) FROM rektor_nearest) OPERATOR(pg_catalog.>=) 20";
    let table = [
        (
            format!("/* h */ SELECT id FROM ({near}) s ORDER BY embedding <=> $2 LIMIT 5"),
            "SELECT id FROM (SELECT * FROM rektor_nearest) s WHERE # ORDER BY embedding <=> $2 LIMIT 5".to_owned(),
        ),
        (
            format!("SELECT s.as, s.from FROM /* a */ ( -- b\n{near} -- c\n) AS s (x, y) WHERE x > 1 OR y < 2"),
            "SELECT s.as, s.from FROM /* a */ ( -- b\nSELECT * FROM rektor_nearest -- c\n) AS s (x, y) WHERE (x > 1 OR y < 2) AND #".to_owned(),
        ),
        (
            format!("SELECT a IS DISTINCT FROM b FROM ({near})"),
            "SELECT a IS DISTINCT FROM b FROM (SELECT * FROM rektor_nearest) WHERE #".to_owned(),
        ),
        (
            format!("SELECT * FROM ({near}) s OFFSET 2 -- d"),
            "SELECT * FROM (SELECT * FROM rektor_nearest) s WHERE # OFFSET 2 -- d".to_owned(),
        ),
    ];
    for (sql, expected) in table {
        let plan = planned(&sql, 0, &items()).unwrap();
        let expected = expected.replace('#', count);
        let (head, rest) = plan.nominate.split_once(nearest).expect(&plan.nominate);
        assert_eq!(head, if sql.starts_with('/') { "/* h */ " } else { "" });
        let (inner, around) = rest.split_once(" LIMIT 20) ").expect(rest);
        assert!(
            inner.ends_with("ORDER BY (embedding <-> $1) OPERATOR(pg_catalog.+) 0"),
            "{inner}"
        );
        assert_eq!(around, expected);
        let exact = sql.replace(
            "embedding <-> $1",
            "(embedding <-> $1) OPERATOR(pg_catalog.+) 0",
        );
        assert_eq!(plan.exact, exact);
        for rewritten in [&plan.nominate, &plan.exact] {
            assert!(pg_query::parse(rewritten, 0).is_ok(), "{rewritten}");
        }
    }
    let sql = "/* h */ WITH \"as\" AS /* ( */ MATERIALIZED (SELECT * FROM items ORDER BY embedding <-> $1 LIMIT 3 -- b\n) SELECT id FROM \"as\" ORDER BY 1";
    let plan = planned(sql, 0, &items()).unwrap();
    let (head, rest) = plan.nominate.split_once(" WHERE ").unwrap();
    assert_eq!(
        head,
        "/* h */ WITH \"as\" AS /* ( */ MATERIALIZED (SELECT * FROM items"
    );
    let around = " LIMIT 3 -- b\n) SELECT id FROM \"as\" WHERE (SELECT pg_catalog.count(*) FROM \"as\") OPERATOR(pg_catalog.>=) 3 ORDER BY 1";
    assert!(rest.ends_with(around), "{rest}");
    assert!(pg_query::parse(&plan.nominate, 0).is_ok());
    let sql = "SELECT * FROM (SELECT * FROM items ORDER BY embedding <-> $1 LIMIT $3 OFFSET $2) s";
    let plan = planned(sql, 0, &items()).unwrap();
    assert!(
        plan.nominate.ends_with("OPERATOR(pg_catalog.>=) $3"),
        "{}",
        plan.nominate
    );
}
