//! Whatever text: no panic; whatever k-NN statement: the rewritten one is the same but for its condition and its sort key.

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{BoolExpr, BoolExprType, Node, ParseResult, SelectStmt};
use proptest::prelude::*;
use proptest::sample::select;

use super::plan::items;
use super::{KnnQuery, StatementKind, analyze, interest, plan};

/// White space and comments, with clauses' keywords in them.
fn gap() -> impl Strategy<Value = String> {
    select(vec![
        " ",
        " ",
        " ",
        "\n",
        "\t \r\n",
        " /* ORDER BY x LIMIT */ ",
        "/**/",
        " -- WHERE ' \n",
        " /* /* ; */ ' */\n",
    ])
    .prop_map(String::from)
}

/// An expression of the select list or of the condition.
fn expression() -> impl Strategy<Value = String> {
    let leaf = select(vec![
        "id",
        "items.id",
        "\"ORDER\"",
        "items.order",
        "'where'",
        "'it''s; FROM'",
        "$$ LIMIT $$",
        "E'\\'ORDER BY\\''",
        "$2",
        "1",
        "1.5e3",
        "NULL",
        "true",
        "current_date",
        "items.\"limit\"",
        "U&'\\0061'",
        "ARRAY[1, 2]",
        "B'01'",
        "(SELECT id FROM items WHERE cat = 1 ORDER BY id LIMIT 1)",
        "nulls",
        "lower('FROM')",
        "INTERVAL '1 day'",
    ])
    .prop_map(String::from);
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone(), gap())
                .prop_map(|(a, b, gap)| format!("({a}){gap}={gap}({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} IS DISTINCT FROM {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("coalesce({a}, {b})")),
            (inner.clone(), gap()).prop_map(|(a, gap)| format!("CAST({a}{gap}AS text)")),
            inner.clone().prop_map(|a| format!("({a})::text")),
            inner
                .clone()
                .prop_map(|a| format!("(NOT ({a}) AND true OR false)")),
            inner.prop_map(|a| format!("CASE WHEN ({a}) THEN 1 END")),
        ]
    })
}

/// How a statement orders by the distance: in the select list, and as sort key.
#[derive(Clone, Debug)]
enum Key {
    Expression(String),
    Alias(String),
    Ordinal(String),
}

fn key() -> impl Strategy<Value = Key> {
    let distance = select(vec![
        "embedding <-> '[1,2,3]'",
        "embedding<->$1",
        "items.embedding <-> $1::vector(3)",
        "(('[1,2,3]'::vector <-> embedding))",
        "embedding OPERATOR(public.<->) CAST($1 AS vector)",
        "embedding <-> ARRAY[1,2,3]::vector",
        "( embedding /* LIMIT */ <-> -- ASC\n $1 )",
    ])
    .prop_map(String::from);
    (distance, 0..3).prop_map(|(distance, kind)| match kind {
        0 => Key::Expression(distance),
        1 => Key::Alias(distance),
        _ => Key::Ordinal(distance),
    })
}

prop_compose! {
    fn knn_statement()(
        targets in prop::collection::vec((expression(), select(vec!["", " x", " AS where", " AS \"FROM\"", " AS as", " AS order"])), 0..3),
        condition in prop::option::of((expression(), expression(), select(vec!["AND", "OR"]))),
        key in key(),
        alias in select(vec!["dist", "AS dist", "AS \"dist\""]),
        tail in select(vec!["LIMIT 5", "ASC LIMIT $3", "NULLS LAST OFFSET 2 LIMIT 5", "ASC NULLS LAST FETCH FIRST 3 ROWS ONLY", "asc limit '5'::bigint offset $3"]),
        gaps in prop::collection::vec(gap(), 8),
    ) -> String {
        let mut list: Vec<String> = targets.iter().map(|(target, name)| format!("{target}{name}")).collect();
        let sort = match &key {
            Key::Expression(distance) => distance.clone(),
            Key::Alias(distance) => {
                list.push(format!("{distance} {alias}"));
                "dist".into()
            }
            Key::Ordinal(distance) => {
                list.push(format!("{distance} {alias}"));
                list.len().to_string()
            }
        };
        if list.is_empty() {
            list.push("*".into());
        }
        let [g0, g1, g2, g3, g4, g5, g6, g7] = <[String; 8]>::try_from(gaps).unwrap();
        let condition = condition.map_or(String::new(), |(a, b, and)| format!("WHERE{g3}({a}) IS NULL{g4}{and} {b} IS NULL{g5}"));
        format!(
            "{g0}SELECT{g1}{}{g2}FROM items{g7}{condition}ORDER{g6}BY{g1}{sort}{g2} {tail}{g4}",
            list.join(&format!("{g5},{g6}")),
        )
    }
}

fn knn(sql: &str) -> KnnQuery {
    let mut statements = analyze(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    match statements.remove(0).kind {
        StatementKind::Knn(query) => *query,
        other @ (StatementKind::NotClaimed(_)
        | StatementKind::Explain { .. }
        | StatementKind::Ddl(_)
        | StatementKind::Other) => panic!("{other:?}: {sql}"),
    }
}

fn tree(sql: &str) -> ParseResult {
    let result = pg_query::parse(sql, 0);
    result
        .unwrap_or_else(|error| panic!("{error}: {sql}"))
        .protobuf
}

fn select_of(tree: &mut ParseResult) -> &mut SelectStmt {
    let Some(Tree::SelectStmt(select)) = &mut tree.stmts[0].stmt.as_mut().unwrap().node else {
        panic!("no SELECT");
    };
    select
}

/// The text that libpg_query makes of a tree: trees compared without their locations.
fn canonical(tree: &ParseResult) -> String {
    pg_query::deparse(tree, pg_query::DeparseOptions::default()).unwrap()
}

/// Takes the last `count` conditions off an AND, and what is left.
fn without_last(condition: Option<Box<Node>>, count: usize) -> Option<Box<Node>> {
    let Some(Tree::BoolExpr(and)) = condition?.node else {
        panic!("no AND");
    };
    let mut arguments = and.args;
    arguments.truncate(arguments.len() - count);
    match arguments.len() {
        0 => None,
        1 => arguments.pop().map(Box::new),
        _ => Some(Box::new(Node {
            node: Some(Tree::BoolExpr(Box::new(BoolExpr {
                boolop: BoolExprType::AndExpr as i32,
                args: arguments,
                ..BoolExpr::default()
            }))),
        })),
    }
}

/// Takes `+ 0` off the sort key.
fn without_zero(select: &mut SelectStmt) {
    let Some(Tree::SortBy(sort)) = &mut select.sort_clause[0].node else {
        panic!("no sort key");
    };
    let Some(Tree::AExpr(sum)) = sort.node.take().unwrap().node else {
        panic!("no sum");
    };
    assert_eq!(sum.name.len(), 2);
    sort.node = sum.lexpr;
}

/// Puts the select list's item in the place of an alias or ordinal.
fn with_key_written_out(select: &mut SelectStmt) {
    let last = select.target_list.last().cloned();
    let Some(Tree::SortBy(sort)) = &mut select.sort_clause[0].node else {
        panic!("no sort key");
    };
    if !matches!(sort.node.as_ref().unwrap().node, Some(Tree::AExpr(_))) {
        let Some(Tree::ResTarget(target)) = last.unwrap().node else {
            panic!("no target");
        };
        sort.node = target.val;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_survived(text in ".*", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = interest(&bytes);
        let _ = interest(text.as_bytes());
        let _ = analyze(&text);
    }

    #[test]
    fn any_words_are_survived(words in prop::collection::vec(select(vec![
        "SELECT", "FROM", "items", "WHERE", "ORDER", "BY", "LIMIT", "5", "embedding", "<->", "$1", "(", ")", ",", ";", "AS",
        "EXPLAIN", "(ANALYZE)", "'[1,2,3]'", "::", "vector", "d", "*", ".", "=", "AND", "INDEX", "CREATE", "ON", "USING", "faiss",
        "DROP", "ALTER", "SET", "'", "\"", "--", "/*", "*/", "\n", "WITH", "UNION", "1", "[", "]", "OFFSET", "NULLS", "LAST", "ASC",
    ]), 0..24)) {
        let text = words.join(" ");
        let _ = interest(text.as_bytes());
        for statement in analyze(&text).unwrap_or_default() {
            prop_assert!(text.get(statement.range.clone()).is_some());
            if let StatementKind::Knn(query) = statement.kind
                && let Ok(plan) = plan(&text, &query, 0, None, &items())
            {
                prop_assert!(pg_query::parse(&plan.nominate, 0).is_ok(), "{}", plan.nominate);
                prop_assert!(pg_query::parse(&plan.exact, 0).is_ok(), "{}", plan.exact);
            }
        }
    }

    #[test]
    fn a_rewritten_statement_differs_in_condition_and_sort_key_only(sql in knn_statement()) {
        prop_assert!(interest(sql.as_bytes()).distance);
        let query = knn(&sql);
        let plan = plan(&sql, &query, 0, None, &items()).unwrap();
        let mut original = tree(&sql);
        with_key_written_out(select_of(&mut original));
        let original = canonical(&original);

        let mut exact = tree(&plan.exact);
        without_zero(select_of(&mut exact));
        prop_assert_eq!(&canonical(&exact), &original);

        let mut nominate = tree(&plan.nominate);
        let select = select_of(&mut nominate);
        without_zero(select);
        // The key, and two guards.
        select.where_clause = without_last(select.where_clause.take(), 3);
        prop_assert_eq!(&canonical(&nominate), &original);

        // Byte by byte: before and after the sort key everything is as written.
        let text = sql.trim_ascii();
        let shift = sql.len() - sql.trim_ascii_start().len();
        let splices = &query.splices;
        prop_assert!(plan.exact.starts_with(&text[..splices.key.start - shift]));
        prop_assert!(plan.exact.ends_with(&text[splices.key.end - shift..]));
        prop_assert!(plan.nominate.ends_with(&text[splices.key.end - shift..]));
    }
}
