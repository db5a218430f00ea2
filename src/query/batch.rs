//! A SELECT that joins rows of query vectors with a search for each, by LATERAL → the vectors, where the search stands, and an
//! expression that says which of the vectors a row has. Whether that is a k-NN query is seen elsewhere.

use std::ops::Range;

use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    Alias, FuncCall, JoinType, Node, RangeFunction, RangeSubselect, SelectStmt, SetOperation,
    TypeCast,
};

use super::expression::{self, QueryStep};
use super::knn::KnnQuery;
use super::operand::{self, QueryCast, QueryVector};
use super::parse::Token;
use super::splice::Lateral;
use super::tables::column_ref;
use super::{RelayReason, parse};
use crate::catalog::quoted_identifier;
use crate::vector::VectorType;

/// Most vectors of a statement.
pub const MAX_VECTORS: usize = 1_000;

/// Most steps between a vector's column and what is compared.
const MAX_STEPS: usize = 4;

/// A statement that searches for each of several vectors.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// The whole statement, in bytes of the text.
    pub(super) statement: Range<usize>,
    /// The search, likewise.
    pub(super) inner: Range<usize>,
    /// An expression over the row of vectors: its vector's number among them, from 1.
    pub(super) place: String,
    /// LEFT JOIN: a vector whose search finds nothing has a row all the same.
    pub(super) left: bool,
}

impl KnnQuery {
    /// Whether it searches for each of several vectors.
    #[must_use]
    pub fn is_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// Whether of several vectors one whose search finds nothing has a row all the same.
    #[must_use]
    pub fn is_left_joined(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.left)
    }

    /// Of a search for each of several vectors, the search.
    #[must_use]
    pub fn search_of_batch<'s>(&self, sql: &'s str) -> Option<&'s str> {
        sql.get(self.batch.as_ref()?.inner.clone())
    }
}

/// The FROM of such a statement.
pub(super) struct Joined<'a> {
    rows: Rows<'a>,
    alias: &'a Alias,
    left: bool,
    /// The search.
    pub(super) query: &'a SelectStmt,
}

/// What the vectors are rows of.
enum Rows<'a> {
    /// `(VALUES (…), …)`
    Values(Vec<&'a [Node]>),
    /// `unnest(array)`, perhaps WITH ORDINALITY
    Unnest { array: &'a Node, numbered: bool },
}

/// The two items of FROM, if the second is a search for each row of the first.
pub(super) fn of(select: &SelectStmt) -> Option<Joined<'_>> {
    if !is_plain_operation(select) {
        return None;
    }
    let (rows, search, left) = match select.from_clause.as_slice() {
        [rows, search] => (rows, search, false),
        [item] => {
            let Some(Tree::JoinExpr(join)) = &item.node else {
                return None;
            };
            let left = match JoinType::try_from(join.jointype) {
                Ok(JoinType::JoinInner) => false,
                Ok(JoinType::JoinLeft) => true,
                Ok(_) | Err(_) => return None,
            };
            let plain = !join.is_natural && join.using_clause.is_empty() && join.alias.is_none();
            if !plain || !join.quals.as_deref().is_none_or(is_true) {
                return None;
            }
            (join.larg.as_deref()?, join.rarg.as_deref()?, left)
        }
        _ => return None,
    };
    let Some(Tree::RangeSubselect(search)) = &search.node else {
        return None;
    };
    let query = select_of(search).filter(|_| search.lateral)?;
    if query.sort_clause.is_empty() || query.limit_count.is_none() {
        return None;
    }
    let (rows, alias) = match &rows.node {
        Some(Tree::RangeSubselect(item)) if !item.lateral => {
            (Rows::Values(values(item)?), item.alias.as_ref()?)
        }
        Some(Tree::RangeFunction(item)) => (unnest(item)?, item.alias.as_ref()?),
        Some(_) | None => return None,
    };
    Some(Joined {
        rows,
        alias,
        left,
        query,
    })
}

fn is_plain_operation(select: &SelectStmt) -> bool {
    SetOperation::try_from(select.op) == Ok(SetOperation::SetopNone)
}

fn is_true(node: &Node) -> bool {
    match &node.node {
        Some(Tree::AConst(constant)) => {
            matches!(&constant.val, Some(Val::Boolval(value)) if value.boolval)
        }
        Some(_) | None => false,
    }
}

fn select_of(item: &RangeSubselect) -> Option<&SelectStmt> {
    match &item.subquery.as_deref()?.node {
        Some(Tree::SelectStmt(select)) => Some(select),
        Some(_) | None => None,
    }
}

/// The rows of `(VALUES …)`.
fn values(item: &RangeSubselect) -> Option<Vec<&[Node]>> {
    let select = select_of(item)?;
    let bare = is_plain_operation(select)
        && select.sort_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && select.with_clause.is_none();
    let rows = select.values_lists.iter().map(|row| match &row.node {
        Some(Tree::List(list)) => Some(list.items.as_slice()),
        Some(_) | None => None,
    });
    let rows = rows.collect::<Option<Vec<_>>>()?;
    (bare && !rows.is_empty()).then_some(rows)
}

fn unnest(item: &RangeFunction) -> Option<Rows<'_>> {
    let [function] = item.functions.as_slice() else {
        return None;
    };
    if item.is_rowsfrom || !item.coldeflist.is_empty() {
        return None;
    }
    let call = match &function.node {
        Some(Tree::List(list)) => list.items.first()?,
        Some(_) | None => return None,
    };
    let Some(Tree::FuncCall(call)) = &call.node else {
        return None;
    };
    let array = only_argument(call)?;
    Some(Rows::Unnest {
        array,
        numbered: item.ordinality,
    })
}

fn only_argument(call: &FuncCall) -> Option<&Node> {
    let named = matches!(
        parse::names(&call.funcname)?.as_slice(),
        ["unnest"] | ["pg_catalog", "unnest"]
    );
    match call.args.as_slice() {
        [array] if named && expression::is_plain(call) => Some(array),
        _ => None,
    }
}

/// Vectors that are searched for.
pub(super) struct Vectors {
    pub(super) query: QueryVector,
    /// What is done to each; first it becomes one of that kind.
    pub(super) steps: Vec<QueryStep>,
    kind: VectorType,
    /// The column that they are, from 0.
    column: usize,
}

impl<'a> Joined<'a> {
    /// Whether the search's table cannot be told from the rows.
    pub(super) fn is_hidden_by(&self, table: &str) -> bool {
        self.alias.aliasname == table
    }

    /// The column that a name means, from 0, if it is one of the rows'. Without its qualifier it may be the table's.
    pub(super) fn column(&self, names: &[&str]) -> Option<usize> {
        match names {
            [rows, column] if *rows == self.alias.aliasname => self.columns().position(column),
            _ => None,
        }
    }

    fn columns(&self) -> Columns<'a> {
        Columns {
            names: parse::names(&self.alias.colnames),
            is_values: matches!(self.rows, Rows::Values(_)),
            alias: &self.alias.aliasname,
        }
    }

    /// The vectors that an expression over a column of the rows stands for, what is done to each, and the column.
    pub(super) fn vectors(&self, node: &Node) -> Result<Vectors, RelayReason> {
        let not_constant = RelayReason::QueryNotConstant;
        let mut steps = Vec::new();
        let mut node = node;
        let column = loop {
            if let Some(names) = column_ref(node) {
                break self.column(&names).ok_or(not_constant)?;
            }
            let outermost = (steps.len() < MAX_STEPS).then(|| expression::step(node));
            let (step, argument) = outermost.flatten().ok_or(not_constant)?;
            steps.push(step);
            node = argument;
        };
        let (query, cast) = match &self.rows {
            Rows::Values(rows) => {
                let cells: Option<Vec<&Node>> = rows.iter().map(|row| row.get(column)).collect();
                of_rows(cells.ok_or(not_constant)?.into_iter())?
            }
            Rows::Unnest { .. } if column > 0 => return Err(not_constant),
            Rows::Unnest { array, .. } => of_array(array)?,
        };
        steps.push(QueryStep::Cast(cast));
        steps.reverse();
        Ok(Vectors {
            query,
            steps,
            column,
            kind: cast.kind,
        })
    }

    /// The statement's parts, where its search is ordered by these vectors.
    pub(super) fn batch(
        &self,
        sql: &str,
        tokens: &[Token],
        parts: &Lateral,
        vectors: &Vectors,
    ) -> Result<Batch, RelayReason> {
        let place = self.place(sql, tokens, parts, vectors);
        Ok(Batch {
            place: place.ok_or(RelayReason::NotAPlainSelect)?,
            statement: parts.statement.clone(),
            inner: parts.inner.clone(),
            left: self.left,
        })
    }

    /// By WITH ORDINALITY, by a column of different numbers, else by the vector itself.
    fn place(
        &self,
        sql: &str,
        tokens: &[Token],
        parts: &Lateral,
        vectors: &Vectors,
    ) -> Option<String> {
        let column = vectors.column;
        let columns = self.columns();
        let rows = quoted_identifier(&self.alias.aliasname);
        let named = |column| {
            Some(format!(
                "{rows}.{}",
                quoted_identifier(&columns.name(column)?)
            ))
        };
        let among = |array: &str, column| {
            let column: String = named(column)?;
            Some(format!("pg_catalog.array_position({array}, {column})"))
        };
        match &self.rows {
            Rows::Unnest { numbered: true, .. } => Some(format!("{}::pg_catalog.int4", named(1)?)),
            Rows::Unnest { .. } => {
                let array = parts.in_brackets(tokens)?;
                among(sql.get(array)?, column)
            }
            Rows::Values(values) => {
                let width = values.first()?.len();
                let numbered = (0..width).find_map(|at| Some((at, different_numbers(values, at)?)));
                if let Some((at, numbers)) = numbered {
                    return among(&format!("ARRAY[{}]", numbers.join(", ")), at);
                }
                if vectors.kind == VectorType::RealArray {
                    return None; // of arrays there is no array
                }
                let cells = parts.cells(tokens, column)?;
                if cells.len() != values.len() {
                    return None;
                }
                let texts = cells.into_iter().map(|cell| sql.get(cell));
                let texts = texts.collect::<Option<Vec<_>>>()?;
                among(&format!("ARRAY[{}]", texts.join("\n, ")), column)
            }
        }
    }
}

/// Names of the rows' columns.
struct Columns<'a> {
    /// As the alias has them; `None` if it has something else.
    names: Option<Vec<&'a str>>,
    is_values: bool,
    alias: &'a str,
}

impl Columns<'_> {
    /// Those that the alias does not name are `column1`, …, of a function the alias and `ordinality`.
    fn name(&self, column: usize) -> Option<String> {
        let names = self.names.as_ref()?;
        Some(match (names.get(column), column) {
            (Some(name), _) => (*name).to_owned(),
            (None, column) if self.is_values => format!("column{}", column + 1),
            (None, 0) => self.alias.to_owned(),
            (None, _) => "ordinality".to_owned(),
        })
    }

    /// The column of that name. One that only a row of more columns had is not looked for.
    fn position(&self, name: &str) -> Option<usize> {
        let last = self.names.as_ref()?.len().max(MAX_COLUMNS);
        (0..last).find(|column| self.name(*column).as_deref() == Some(name))
    }
}

/// Columns of VALUES that are known by the names that PostgreSQL gives them.
const MAX_COLUMNS: usize = 16;

/// The numbers of a column of VALUES, if they are written as such, without a cast, and none is there twice.
fn different_numbers(rows: &[&[Node]], column: usize) -> Option<Vec<String>> {
    let numbers = rows.iter().map(|row| match &row.get(column)?.node {
        Some(Tree::AConst(constant)) if !constant.isnull => match &constant.val {
            Some(Val::Ival(number)) => Some(number.ival),
            Some(_) | None => None,
        },
        Some(_) | None => None,
    });
    let numbers = numbers.collect::<Option<Vec<i32>>>()?;
    let different: std::collections::BTreeSet<_> = numbers.iter().collect();
    (different.len() == numbers.len()).then(|| numbers.iter().map(ToString::to_string).collect())
}

/// Vectors that are written one by one: one type is that of all, and at least one of them says which.
fn of_rows<'a>(
    cells: impl ExactSizeIterator<Item = &'a Node>,
) -> Result<(QueryVector, QueryCast), RelayReason> {
    if cells.len() > MAX_VECTORS {
        return Err(RelayReason::BatchTooLarge);
    }
    let vectors = cells.map(operand::query_vector);
    let vectors = vectors.collect::<Result<Vec<_>, _>>()?;
    let kinds = vectors.iter().filter_map(|(_, steps)| kind_after(steps));
    let mut kind = None;
    for cell in kinds {
        if *kind.get_or_insert(cell) != cell {
            return Err(RelayReason::QueryNotConstant);
        }
    }
    let cast = QueryCast {
        kind: kind.ok_or(RelayReason::QueryNotConstant)?,
        dimensions: None,
    };
    Ok((QueryVector::Rows(vectors), cast))
}

/// The type that steps end with.
fn kind_after(steps: &[QueryStep]) -> Option<VectorType> {
    steps.iter().fold(None, |kind, step| match step {
        QueryStep::Cast(cast) => Some(cast.kind),
        QueryStep::BinaryQuantize => Some(VectorType::Bit),
        QueryStep::Subvector(_) => kind,
    })
}

/// `ARRAY[…]`, a literal or a parameter, cast to an array of vectors.
fn of_array(array: &Node) -> Result<(QueryVector, QueryCast), RelayReason> {
    let not_constant = RelayReason::QueryNotConstant;
    let (array, cast) = match &array.node {
        Some(Tree::TypeCast(cast)) => {
            let element = element_type(cast).ok_or(not_constant)?;
            (cast.arg.as_deref().ok_or(not_constant)?, Some(element))
        }
        Some(_) | None => (array, None),
    };
    if let Some(Tree::AArrayExpr(array)) = &array.node {
        if array.elements.is_empty() {
            return Err(not_constant);
        }
        let Some(cast) = cast else {
            let (vectors, kind) = of_rows(array.elements.iter())?;
            // An array of arrays would be unnested to its numbers.
            return match kind.kind {
                VectorType::RealArray => Err(not_constant),
                VectorType::Vector | VectorType::Halfvec | VectorType::Bit => Ok((vectors, kind)),
            };
        };
        if array.elements.len() > MAX_VECTORS {
            return Err(RelayReason::BatchTooLarge);
        }
        let vectors = array.elements.iter().map(operand::query_vector);
        let vectors = vectors.collect::<Result<Vec<_>, _>>()?;
        return Ok((QueryVector::Rows(vectors), cast));
    }
    let (elements, steps) = operand::query_vector(array)?;
    match cast {
        Some(cast) if steps.is_empty() => Ok((QueryVector::Elements(Box::new(elements)), cast)),
        Some(_) | None => Err(not_constant),
    }
}

/// The element type of a cast to `vector[]` or `halfvec[]`.
fn element_type(cast: &TypeCast) -> Option<QueryCast> {
    let mut name = cast.type_name.clone()?;
    if name.array_bounds.len() != 1 {
        return None;
    }
    name.array_bounds.clear();
    let cast = operand::vector_type(&name)?;
    matches!(cast.kind, VectorType::Vector | VectorType::Halfvec).then_some(cast)
}

#[cfg(test)]
mod tests;
