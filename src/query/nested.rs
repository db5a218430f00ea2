//! A SELECT around another → the inner one, where that alone brings the rows: in FROM, or in WITH under a name that FROM has.
//! Whether it is a k-NN query is seen elsewhere.

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{SelectStmt, SetOperation};

/// A query within a statement, which is all that the statement selects from.
pub(super) struct Nested<'a> {
    pub(super) query: &'a SelectStmt,
    /// Its name, if it stands in WITH.
    pub(super) name: Option<String>,
}

/// The one sub-select of FROM, or the one query of WITH that FROM names, if it has an order and a limit.
pub(super) fn of(select: &SelectStmt) -> Option<Nested<'_>> {
    if SetOperation::try_from(select.op) != Ok(SetOperation::SetopNone) {
        return None;
    }
    let [item] = select.from_clause.as_slice() else {
        return None;
    };
    let (query, name) = match (&item.node, &select.with_clause) {
        (Some(Tree::RangeSubselect(item)), None) if !item.lateral => {
            (item.subquery.as_deref()?, None)
        }
        (Some(Tree::RangeVar(table)), Some(with)) if !with.recursive => {
            let [only] = with.ctes.as_slice() else {
                return None;
            };
            let Some(Tree::CommonTableExpr(query)) = &only.node else {
                return None;
            };
            let named = table.relname == query.ctename
                && table.schemaname.is_empty()
                && table.catalogname.is_empty()
                && table.inh;
            let query_of = query.ctequery.as_deref().filter(|_| named)?;
            (query_of, Some(query.ctename.clone()))
        }
        (Some(_) | None, Some(_) | None) => return None,
    };
    match &query.node {
        Some(Tree::SelectStmt(query))
            if !query.sort_clause.is_empty() && query.limit_count.is_some() =>
        {
            Some(Nested { query, name })
        }
        Some(_) | None => None,
    }
}
