//! FROM → the tables in it, and which of them a search is made in. Of joins it knows only whether they can give NULLs in the place
//! of a table's rows: where they cannot, each row comes as far from the query as it is, if it comes, however often.

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{Alias, JoinType, Node, RangeVar, SelectStmt, SetOperation};

use super::RelayReason;
use super::parse;

pub(super) fn alias(table: &RangeVar) -> Option<&Alias> {
    table.alias.as_ref()
}

/// The table that is searched.
#[derive(Clone, Copy)]
pub(super) struct Searched<'a> {
    pub(super) table: &'a RangeVar,
    /// Others stand beside it: a bare name may mean a column of theirs.
    pub(super) joined: bool,
}

impl<'a> Searched<'a> {
    /// The only table of a statement.
    pub(super) fn alone(table: &'a RangeVar) -> Self {
        Self {
            table,
            joined: false,
        }
    }

    /// The column's name, if a name written in that way surely means a column of the table.
    pub(super) fn column_of<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        match names {
            [column] if !self.joined => Some(column),
            [qualifier, column] if *qualifier == visible(self.table) => Some(column),
            [schema, qualifier, column]
                if alias(self.table).is_none()
                    && *schema == self.table.schemaname
                    && *qualifier == self.table.relname =>
            {
                Some(column)
            }
            _ => None,
        }
    }
}

/// A table of FROM, and whether a join may give NULLs instead of its rows.
pub(super) type Joining<'a> = (&'a RangeVar, bool);

/// The tables of FROM: one, or several that are joined.
pub(super) fn tables(select: &SelectStmt) -> Result<Vec<Joining<'_>>, RelayReason> {
    if SetOperation::try_from(select.op) != Ok(SetOperation::SetopNone) {
        return Err(RelayReason::SetOperation);
    }
    if select.with_clause.is_some() {
        return Err(RelayReason::With);
    }
    let mut found = Vec::new();
    for item in &select.from_clause {
        collect_tables(item, false, &mut found)?;
    }
    match found.is_empty() {
        true => Err(RelayReason::NotOneTable),
        false => Ok(found),
    }
}

fn collect_tables<'a>(
    item: &'a Node,
    nullable: bool,
    found: &mut Vec<Joining<'a>>,
) -> Result<(), RelayReason> {
    match &item.node {
        Some(Tree::RangeVar(table)) => found.push((table, nullable)),
        Some(Tree::RangeTableSample(_)) => return Err(RelayReason::TableSample),
        // The name of a join hides those of its tables.
        Some(Tree::JoinExpr(join)) if join.alias.is_none() => {
            let (left, right) = match JoinType::try_from(join.jointype) {
                Ok(JoinType::JoinInner) => (nullable, nullable),
                Ok(JoinType::JoinLeft) => (nullable, true),
                Ok(JoinType::JoinRight) => (true, nullable),
                Ok(_) | Err(_) => (true, true),
            };
            for (side, nullable) in [(&join.larg, left), (&join.rarg, right)] {
                let side = side.as_deref().ok_or(RelayReason::NotOneTable)?;
                collect_tables(side, nullable, found)?;
            }
        }
        Some(_) | None => return Err(RelayReason::NotOneTable),
    }
    Ok(())
}

/// Which of the tables is searched: the only one, or the one that the column is qualified with. Each of its rows may come several
/// times, or not at all, but as far from the query as it is.
pub(super) fn searched<'a>(
    tables: &[Joining<'a>],
    column: &[&str],
) -> Result<Searched<'a>, RelayReason> {
    let searched = match tables {
        [(table, _)] => Searched::alone(table),
        tables => {
            let mut named = tables.iter().filter(|(table, _)| {
                let joined = Searched {
                    table,
                    joined: true,
                };
                joined.column_of(column).is_some()
            });
            match (named.next(), named.next()) {
                (Some((table, false)), None) => Searched {
                    table,
                    joined: true,
                },
                (Some(_) | None, _) => return Err(RelayReason::NotOneTable),
            }
        }
    };
    let table = searched.table;
    if !table.inh {
        return Err(RelayReason::Only);
    }
    if !table.catalogname.is_empty() {
        return Err(RelayReason::DatabaseQualified);
    }
    if alias(table).is_some_and(|alias| !alias.colnames.is_empty()) {
        return Err(RelayReason::ColumnAliases);
    }
    Ok(searched)
}

/// The name that the statement knows the table by.
pub(super) fn visible(table: &RangeVar) -> &str {
    alias(table).map_or(&table.relname, |alias| &alias.aliasname)
}

pub(super) fn column_ref(node: &Node) -> Option<Vec<&str>> {
    match &node.node {
        Some(Tree::ColumnRef(column)) => parse::names(&column.fields),
        Some(_) | None => None,
    }
}
