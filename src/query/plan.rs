//! A k-NN query and the indexes there are → the statement that nominates and the one that is exact.
//! Both are the client's own text with a few pieces put in; nothing else of it changes.

use std::ops::Range;
use std::sync::Arc;

use super::knn::KnnQuery;
use super::operand::Bound;
use super::splice::{Around, Splices};
use super::{RelayReason, quote};
use crate::catalog::{IndexDefinition, KeyType, RelationId, quoted_identifier, quoted_name};
use crate::index::view::{IndexState, Phase, View};
use crate::vector::{Expression, VectorType};

#[cfg(test)]
pub(super) use fixtures::items;

/// Most parameters a statement of the extended protocol may have.
const MAX_PARAMETERS: u16 = u16::MAX;

/// How a k-NN query is answered by an index.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The index, as of the view that was planned with.
    pub index: Arc<IndexState>,
    /// The statement restricted to keys: its extra parameters are `$first_key_param …`, one array a key column, in key order.
    /// Each is cast to its array type in the text, which is that of [`KeyType::array_oid`].
    pub nominate: String,
    /// Number of the first extra parameter: max(declared, used) + 1.
    pub first_key_param: u16,
    /// The statement with an ORDER BY that no vector index can serve, and no keys.
    pub exact: String,
}

/// Plans a k-NN query: finds the ready index on its table and column with its metric, and writes both statements.
/// `sql` is the text that `query` was analysed from, `declared` the number of parameter types its Parse declared.
/// `table` is what the table's name resolves to in the session, where the caller knows; without it an unqualified name must
/// fit indexed tables of one schema only. The statement's own guard finds out when the name means another table after all.
///
/// # Errors
/// The reason why no index can answer it now.
pub fn plan(
    sql: &str,
    query: &KnnQuery,
    declared: u16,
    table: Option<RelationId>,
    view: &View,
) -> Result<Plan, RelayReason> {
    let index = choose(query, table, view)?;
    let definition = &index.definition;
    let first_key_param = query
        .parameters
        .max(declared)
        .checked_add(1)
        .ok_or(RelayReason::TooManyParameters)?;
    let keys = u16::try_from(definition.key.len()).map_err(|_| RelayReason::TooManyParameters)?;
    if keys == 0 || keys - 1 > MAX_PARAMETERS - first_key_param {
        return Err(RelayReason::TooManyParameters);
    }
    let restriction = restriction(query, definition, first_key_param);
    let nominate = rewrite(sql, query, Some(&restriction));
    let exact = rewrite(sql, query, None);
    Ok(Plan {
        index: Arc::clone(index),
        nominate: nominate.ok_or(RelayReason::NotAPlainSelect)?,
        first_key_param,
        exact: exact.ok_or(RelayReason::NotAPlainSelect)?,
    })
}

/// The index that serves the query: on its table and column, for its metric, ready.
fn choose<'a>(
    query: &KnnQuery,
    table: Option<RelationId>,
    view: &'a View,
) -> Result<&'a Arc<IndexState>, RelayReason> {
    let on_column: Vec<&Arc<IndexState>> = view
        .indexes
        .iter()
        .filter(|index| {
            let definition = &index.definition;
            table.is_none_or(|table| table == definition.relation)
                && definition.table.name == query.table
                && query
                    .schema
                    .as_ref()
                    .is_none_or(|schema| *schema == definition.table.schema)
                && definition.column.name == query.column
        })
        .collect();
    let first = on_column.first().ok_or(RelayReason::NoIndex)?;
    if on_column
        .iter()
        .any(|index| index.definition.relation != first.definition.relation)
    {
        return Err(RelayReason::AmbiguousTable);
    }
    let mut serving: Vec<(Fit, &Arc<IndexState>)> = on_column
        .into_iter()
        .filter_map(|index| Some((fit(query, &index.definition)?, index)))
        .collect();
    serving.sort_by_key(|(fit, _)| *fit);
    let (_, first) = serving.first().ok_or(RelayReason::OtherExpression)?;
    if let Some(written) = query.written_kind()
        && !compares(written, query.expression.kind(first.definition.column.kind))
    {
        return Err(RelayReason::OtherVectorType);
    }
    let for_metric: Vec<&Arc<IndexState>> = serving
        .into_iter()
        .map(|(_, index)| index)
        .filter(|index| index.definition.metric == query.metric)
        .collect();
    if let Some(ready) = for_metric.iter().find(|index| is_ready(index)) {
        return fits(query, &ready.definition).map(|()| *ready);
    }
    let waiting = for_metric.first().ok_or(RelayReason::OtherMetric)?;
    Err(match waiting.phase {
        Phase::Copying { .. } => RelayReason::Copying,
        Phase::Building { .. } | Phase::Ready => RelayReason::Building,
        Phase::Failed { .. } => RelayReason::Failed,
    })
}

fn is_ready(index: &IndexState) -> bool {
    index.phase == Phase::Ready && index.snapshot.is_some()
}

/// How an index's order is related to the one that a query asks for; the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// It is the same.
    Same,
    /// The query orders by the column cast to another type of numbers: what is near in one is near in the other, but for the
    /// rounding, and what is proposed Postgres puts in order.
    Near,
}

fn fit(query: &KnnQuery, index: &IndexDefinition) -> Option<Fit> {
    let column = index.column.kind;
    query.expression.kind(column)?;
    if query.expression.equals(index.expression, column) {
        return Some(Fit::Same);
    }
    let near = matches!(query.expression, Expression::Cast(_));
    (near && index.expression == Expression::Column).then_some(Fit::Near)
}

/// Whether a query of that type is compared with such values: PostgreSQL makes a vector a halfvec by itself.
fn compares(written: VectorType, with: Option<VectorType>) -> bool {
    Some(written) == with || (written, with) == (VectorType::Vector, Some(VectorType::Halfvec))
}

/// Whether every written dimension, as in `$1::vector(384)`, is the index's.
fn fits(query: &KnnQuery, index: &IndexDefinition) -> Result<(), RelayReason> {
    let is_its = |dimensions| usize::try_from(dimensions) == Ok(index.dim.get());
    match query.written_dimensions().all(is_its) {
        true => Ok(()),
        false => Err(RelayReason::WrongDimension),
    }
}

/// The conditions that a nominating statement adds: keys, and the guards.
///
/// The guards hold for no row or for all: `'name'::regclass` is resolved when the statement is analysed, as FROM is, and becomes
/// a constant; the transaction's id is looked at once an execution. Both become one-time filters, and where one is false,
/// nothing is read.
fn restriction(query: &KnnQuery, index: &IndexDefinition, first: u16) -> String {
    let name = quoted_name(query.schema.as_deref(), &query.table);
    // With its schema where that is written: a table of this name in another one may be joined.
    let alias = query.alias.as_deref().map(quoted_identifier);
    let table = alias.as_ref().unwrap_or(&name);
    let column = |name: &str| format!("{table}.{}", quoted_identifier(name));
    let parameter = |(number, kind): (u16, KeyType)| match &query.batch {
        None => format!("${number}::{}", array_type(kind)),
        Some(batch) => of_its_row(&batch.place, number, array_type(kind)),
    };
    let parameters: Vec<String> = (first..)
        .zip(index.key.iter().map(|key| key.kind))
        .map(parameter)
        .collect();
    let columns: Vec<String> = index.key.iter().map(|key| column(&key.name)).collect();
    let keys = match (columns.as_slice(), parameters.as_slice()) {
        ([column], [parameter]) => format!("{column} OPERATOR(pg_catalog.=) ANY ({parameter})"),
        (columns, parameters) => {
            let sets: Vec<String> = parameters
                .iter()
                .map(|parameter| format!("pg_catalog.unnest({parameter})"))
                .collect();
            format!(
                "({}) OPERATOR(pg_catalog.=) ANY (SELECT * FROM ROWS FROM ({}))",
                columns.join(", "),
                sets.join(", ")
            )
        }
    };
    format!(
        "{keys} AND {}::pg_catalog.regclass OPERATOR(pg_catalog.=) '{}'::pg_catalog.oid \
         AND pg_catalog.pg_current_xact_id_if_assigned() IS NULL",
        quote::literal(&name),
        index.relation.0
    )
}

/// The keys for one of several vectors: a row of the parameter, which is an array of two dimensions. Where the vector is none of
/// those that were searched for, it is NULL.
fn of_its_row(place: &str, number: u16, array: &str) -> String {
    format!(
        "(SELECT (${number}::{array})[{ROW}.place:{ROW}.place] \
         FROM (SELECT {place} AS place) AS {ROW})::{array}"
    )
}

fn array_type(kind: KeyType) -> &'static str {
    match kind {
        KeyType::Int2 => "pg_catalog.int2[]",
        KeyType::Int4 => "pg_catalog.int4[]",
        KeyType::Int8 => "pg_catalog.int8[]",
        KeyType::Uuid => "pg_catalog.uuid[]",
        KeyType::Text => "pg_catalog.text[]",
        KeyType::Varchar => "pg_catalog.varchar[]",
    }
}

/// The statement with `(distance) + 0` as its sort key, and with a further condition if one is given. Pieces are put in
/// directly before or after tokens of the statement, so none lands in a comment.
fn rewrite(sql: &str, query: &KnnQuery, restriction: Option<&str>) -> Option<String> {
    let rewritten = one_level(sql, &query.splices, restriction)?;
    if let Some(batch) = &query.batch {
        return within(sql, &batch.statement, &batch.inner, &rewritten);
    }
    match (&query.around, restriction) {
        (None, _) => Some(rewritten),
        (Some((around, _)), None) => within(sql, &around.statement, &around.inner, &rewritten),
        (Some((around, name)), Some(_)) => {
            counted(sql, query, (around, name.as_deref()), &rewritten)
        }
    }
}

/// A statement with something else in the place of its sub-select.
fn within(
    sql: &str,
    statement: &Range<usize>,
    inner: &Range<usize>,
    instead: &str,
) -> Option<String> {
    let mut text = Spliced::new(sql, statement.start);
    text.keep_to(inner.start)?;
    text.put(instead);
    text.at = inner.end;
    text.keep_to(statement.end)?;
    Some(text.text)
}

/// What is around a restricted sub-select, with no row unless that has as many as its LIMIT: what the client sees of it does
/// not tell. To be counted, one in FROM goes to WITH.
fn counted(
    sql: &str,
    query: &KnnQuery,
    (around, name): (&Around, Option<&str>),
    restricted: &str,
) -> Option<String> {
    let limit = match query.limit {
        Bound::Constant(limit) => limit.to_string(),
        Bound::Parameter(number) => format!("${number}"),
        Bound::Absent => return None,
    };
    let rows = name.map_or_else(|| NEAREST.to_owned(), quoted_identifier);
    let complete =
        format!("(SELECT pg_catalog.count(*) FROM {rows}) OPERATOR(pg_catalog.>=) {limit}");
    let mut text = Spliced::new(sql, around.statement.start);
    if let Some(select) = around.select {
        text.keep_to(select)?;
        text.put(&format!("WITH {NEAREST} AS MATERIALIZED ({restricted}) "));
    }
    text.keep_to(around.inner.start)?;
    text.put(&match around.select {
        Some(_) => format!("SELECT * FROM {NEAREST}"),
        None => restricted.to_owned(),
    });
    text.at = around.inner.end;
    match &around.condition {
        Some(condition) => {
            text.keep_to(condition.start)?;
            text.put("(");
            text.keep_to(condition.end)?;
            text.put(") AND ");
        }
        None => {
            text.keep_to(around.after_from)?;
            text.put(" WHERE ");
        }
    }
    text.put(&complete);
    text.space();
    text.keep_to(around.statement.end)?;
    Some(text.text)
}

/// The name of the sub-select's rows in a statement of ours.
const NEAREST: &str = "rektor_nearest";
/// The name of a row that has the number of a batch's vector.
const ROW: &str = "rektor_row";

/// A k-NN query over a table, rewritten.
fn one_level(sql: &str, splices: &Splices, restriction: Option<&str>) -> Option<String> {
    let mut text = Spliced::new(sql, splices.statement.start);
    match (restriction, &splices.condition) {
        (Some(restriction), Some(condition)) => {
            text.keep_to(condition.start)?;
            text.put("(");
            text.keep_to(condition.end)?;
            text.put(") AND ");
            text.put(restriction);
            text.space();
        }
        (Some(restriction), None) => {
            text.keep_to(splices.before_order)?;
            text.put(" WHERE ");
            text.put(restriction);
            text.space();
        }
        (None, Some(_) | None) => {}
    }
    text.keep_to(splices.key.start)?;
    text.put("(");
    text.put(sql.get(splices.expression.clone())?);
    // Qualified, for a search_path on which `+` is another's.
    text.put(") OPERATOR(pg_catalog.+) 0");
    text.at = splices.key.end;
    text.space();
    text.keep_to(splices.statement.end)?;
    Some(text.text)
}

/// A text that is copied up to some place, with pieces put in.
struct Spliced<'a> {
    sql: &'a str,
    at: usize,
    text: String,
}

impl<'a> Spliced<'a> {
    fn new(sql: &'a str, at: usize) -> Self {
        Self {
            sql,
            at,
            text: String::with_capacity(sql.len() + 512),
        }
    }

    fn keep_to(&mut self, end: usize) -> Option<()> {
        self.text.push_str(self.sql.get(self.at..end)?);
        self.at = end;
        Some(())
    }

    fn put(&mut self, piece: &str) {
        self.text.push_str(piece);
    }

    /// Keeps a word that was put in apart from one that follows.
    fn space(&mut self) {
        let next = self.sql.as_bytes().get(self.at);
        if next.is_some_and(|next| !next.is_ascii_whitespace()) {
            self.put(" ");
        }
    }
}

#[cfg(test)]
mod fixtures {
    use super::*;
    use crate::catalog::{
        ColumnNumber, IndexId, IndexOptions, KeyColumn, PgvectorTypes, QualifiedName, TypeId,
        VectorColumn,
    };
    use crate::index::{IndexSpec, Writer};
    use crate::lsn::Lsn;
    use crate::vector::{Dim, Metric};

    /// An index on `embedding` of a table `schema.name`, whose OID is `relation`.
    pub(super) fn index(
        id: i64,
        relation: u32,
        (schema, name): (&str, &str),
        metric: Metric,
        key: &[(&str, KeyType)],
        phase: Phase,
    ) -> Arc<IndexState> {
        let (dim, options) = (Dim::new(3).unwrap(), IndexOptions::default());
        let spec = IndexSpec {
            dim,
            metric,
            options,
            include: 0,
        };
        let qualified = |name: &str| QualifiedName {
            schema: schema.into(),
            name: name.into(),
        };
        let definition = IndexDefinition {
            id: IndexId(id),
            name: qualified(&format!("index_{id}")),
            relation: RelationId(relation),
            table: qualified(name),
            column: VectorColumn {
                name: "embedding".into(),
                number: ColumnNumber(9),
                kind: VectorType::Vector,
                type_id: TypeId(9999),
            },
            expression: Expression::Column,
            pgvector: PgvectorTypes::default(),
            dim,
            metric,
            key: (1..)
                .zip(key)
                .map(|(number, (name, kind))| KeyColumn {
                    name: (*name).into(),
                    number: ColumnNumber(number),
                    kind: *kind,
                })
                .collect(),
            include: vec![],
            options,
        };
        Arc::new(IndexState {
            definition: Arc::new(definition),
            phase,
            snapshot: Some(Writer::new(spec).unwrap().publish(Lsn::default())),
            applied: Lsn::default(),
            left_out_changes: 0,
            behind_since: None,
            audit: crate::index::view::Audit::default(),
        })
    }

    pub(super) fn view(indexes: Vec<Arc<IndexState>>) -> View {
        View {
            indexes,
            ..View::default()
        }
    }

    pub(super) const BIGINT: &[(&str, KeyType)] = &[("id", KeyType::Int8)];

    pub(in crate::query) fn items() -> View {
        view(vec![index(
            1,
            77,
            ("public", "items"),
            Metric::L2,
            BIGINT,
            Phase::Ready,
        )])
    }
}

#[cfg(test)]
mod tests;
