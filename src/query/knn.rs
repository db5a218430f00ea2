//! A SELECT's parse tree → a k-NN query, or the reason why it is not claimed.

use std::ops::Range;

use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    AConst, AExprKind, LimitOption, Node, ResTarget, SelectStmt, SortByDir, SortByNulls,
};

use super::RelayReason;
use super::batch::{self, Batch, Joined};
use super::condition::{self, Condition};
use super::expression::{self, OnColumn, QueryStep};
use super::nested;
use super::operand::{self, Bound, MAX_ROWS, QueryVector};
use super::parse::{self, Token};
use super::splice::{Around, Lateral, SortKey, Splices};
use super::survey::Survey;
use super::tables::{alias, searched, tables, visible};
use crate::catalog::quoted_name;
use crate::vector::{Expression, Metric};

/// A statement in the shape `SELECT … FROM table [WHERE …] ORDER BY column <op> query [ASC] LIMIT k [OFFSET n]`.
#[derive(Clone, Debug)]
pub struct KnnQuery {
    /// The table's schema, if written.
    pub schema: Option<String>,
    /// The table's name.
    pub table: String,
    /// The table's alias, if it has one.
    pub alias: Option<String>,
    /// The ordered-by column.
    pub column: String,
    /// What of it is ordered by.
    pub expression: Expression,
    /// The modifier of the type that it is cast to.
    pub dimensions: Option<i64>,
    /// The operator's metric.
    pub metric: Metric,
    /// The query.
    pub query: QueryVector,
    /// The query, or the array of queries, is a parameter that the statement names nowhere else: no other use of it shows in which form it is sent.
    pub query_used_once: bool,
    /// Parameters that the statement names more than once: without a declared type, any of the uses may decide it.
    pub repeated: Vec<u16>,
    /// What is done to the query before it is compared.
    pub steps: Vec<QueryStep>,
    /// LIMIT.
    pub limit: Bound,
    /// OFFSET.
    pub offset: Bound,
    /// Conditions of WHERE that an index may use: of each group every row of the answer meets one at least, and perhaps others.
    pub conditions: Vec<Vec<Condition>>,
    /// Functions called anywhere in the statement that are not well known, as `name` or `schema.name`, lower case as the
    /// catalogue has them. The claim holds only if upstream says that every one of that name is an ordinary function
    /// (`prokind = 'f'`), not volatile, and returns no set.
    pub unknown_functions: Vec<String>,
    /// Types cast to that are not well known, likewise: enums, domains, other extensions' types. The claim holds only if
    /// their input and cast functions are not volatile (an enum's never are).
    pub unknown_types: Vec<String>,
    /// The other tables of the statement, perhaps views, likewise by their quoted names. The claim holds only if upstream says
    /// that none is a view: what that calls is not looked into.
    pub other_tables: Vec<String>,
    /// The greatest parameter number used.
    pub(super) parameters: u16,
    /// Where the rewriter cuts.
    pub(super) splices: Splices,
    /// The statement that the query is a sub-select of, with its name if it stands in WITH.
    pub(super) around: Option<(Around, Option<String>)>,
    /// The statement that joins it with several vectors.
    pub(super) batch: Option<Batch>,
}

/// Recognises a k-NN query in a SELECT whose bytes are `range` and whose tokens are `tokens`: the SELECT itself, or the one
/// sub-select, in FROM or in WITH, that it selects from, as where the nearest by one distance are put in order by another.
pub(super) fn recognise(
    select: &SelectStmt,
    survey: Survey,
    sql: &str,
    range: Range<usize>,
    tokens: &[Token],
) -> Result<KnnQuery, RelayReason> {
    let text = Text { sql, tokens };
    if let Some(joined) = batch::of(select) {
        return for_each(select, &joined, survey, &text, range);
    }
    let Some(nested) = nested::of(select) else {
        return one_level(select, survey, &text, range, tokens, None);
    };
    plain(select)?;
    // What stands in brackets may have aggregates as far as the survey of the whole is concerned.
    let obstacle = Survey::of(nested.query).obstacle.or(survey.obstacle);
    let survey = Survey { obstacle, ..survey };
    let found = Around::find(range, tokens, select.where_clause.is_some());
    let (around, tokens) = found.ok_or(RelayReason::NotAPlainSelect)?;
    let query = one_level(
        nested.query,
        survey,
        &text,
        around.inner.clone(),
        tokens,
        None,
    )?;
    Ok(KnnQuery {
        around: Some((around, nested.name)),
        ..query
    })
}

/// A k-NN query for each of several vectors. How many rows there are tells whether each has found its own: nothing may leave
/// some out, or add others.
fn for_each(
    select: &SelectStmt,
    joined: &Joined<'_>,
    survey: Survey,
    text: &Text<'_>,
    range: Range<usize>,
) -> Result<KnnQuery, RelayReason> {
    plain(select)?;
    let all_rows = select.where_clause.is_none()
        && select.with_clause.is_none()
        && select.limit_count.is_none()
        && select.limit_offset.is_none();
    if !all_rows {
        return Err(RelayReason::AroundLateral);
    }
    let obstacle = Survey::of(joined.query).obstacle.or(survey.obstacle);
    let survey = Survey { obstacle, ..survey };
    let parts = Lateral::find(range, text.tokens).ok_or(RelayReason::NotAPlainSelect)?;
    let tokens = text.tokens.get(parts.inner_tokens.clone());
    let tokens = tokens.ok_or(RelayReason::NotAPlainSelect)?;
    let inner = parts.inner.clone();
    let each = Some((joined, &parts));
    one_level(joined.query, survey, text, inner, tokens, each)
}

/// A statement's text, and all of its tokens.
struct Text<'a> {
    sql: &'a str,
    tokens: &'a [Token],
}

/// A k-NN query in a SELECT over a table, whose bytes are `range` and whose tokens are `tokens`; `each` is what it is joined with,
/// if it is a search for each of several vectors.
fn one_level(
    select: &SelectStmt,
    survey: Survey,
    text: &Text<'_>,
    range: Range<usize>,
    tokens: &[Token],
    each: Option<(&Joined<'_>, &Lateral)>,
) -> Result<KnnQuery, RelayReason> {
    let tables = tables(select)?;
    plain(select)?;
    let (distance, sort_key) = sort_key(select)?;
    let distance = Distance::of(distance, each.map(|(joined, _)| joined))?;
    let searched = searched(&tables, &distance.on.column)?;
    if searched.joined && each.is_some() {
        return Err(RelayReason::NotOneTable);
    }
    let table = searched.table;
    let column = searched.column_of(&distance.on.column);
    let column = column.ok_or(RelayReason::NotADistance)?;
    let (query, steps, batch) = match each {
        Some((joined, _)) if joined.is_hidden_by(visible(table)) => {
            return Err(RelayReason::QueryNotConstant);
        }
        Some((joined, parts)) => {
            let vectors = joined.vectors(distance.query)?;
            let batch = joined.batch(text.sql, text.tokens, parts, &vectors)?;
            (vectors.query, vectors.steps, Some(batch))
        }
        None => {
            let (query, steps) = operand::query_vector(distance.query)?;
            (query, steps, None)
        }
    };
    let limit = operand::limit(select)?;
    let offset = operand::offset(select)?;
    if let Some(obstacle) = survey.obstacle {
        return Err(obstacle);
    }
    if let (Bound::Constant(limit), Bound::Constant(offset)) = (&limit, &offset)
        && limit + offset > MAX_ROWS
    {
        return Err(RelayReason::LimitTooLarge);
    }
    let targets = select.target_list.len();
    let splices = Splices::find(
        text.sql,
        range,
        tokens,
        &sort_key,
        targets,
        select.where_clause.is_some(),
    )?;
    let schema = (!table.schemaname.is_empty()).then(|| table.schemaname.clone());
    let others = survey.relations.iter();
    let others = others.filter(|(other, name)| (other, name) != (&schema, &table.relname));
    let other_tables = others.map(|(schema, name)| quoted_name(schema.as_deref(), name));
    Ok(KnnQuery {
        other_tables: other_tables.collect(),
        schema,
        table: table.relname.clone(),
        alias: alias(table).map(|alias| alias.aliasname.clone()),
        column: column.to_owned(),
        expression: distance.on.expression,
        dimensions: distance.on.dimensions,
        metric: distance.metric,
        query_used_once: is_used_once(&query, text.sql, text.tokens),
        repeated: repeated_parameters(text.sql, text.tokens),
        query,
        steps,
        limit,
        offset,
        conditions: condition::conditions(select.where_clause.as_deref(), searched),
        unknown_functions: survey.unknown_functions.into_iter().collect(),
        unknown_types: survey.unknown_types.into_iter().collect(),
        parameters: greatest_parameter(text.sql, text.tokens)?,
        splices,
        around: None,
        batch,
    })
}

/// Refuses every clause that makes rows of the table something else than rows of the answer.
fn plain(select: &SelectStmt) -> Result<(), RelayReason> {
    let refused = [
        (!select.distinct_clause.is_empty(), RelayReason::Distinct),
        (
            !select.group_clause.is_empty() || select.having_clause.is_some(),
            RelayReason::Grouped,
        ),
        (!select.window_clause.is_empty(), RelayReason::Window),
        (!select.locking_clause.is_empty(), RelayReason::Locking),
        (select.into_clause.is_some(), RelayReason::Into),
        (
            !select.values_lists.is_empty(),
            RelayReason::NotAPlainSelect,
        ),
        (
            LimitOption::try_from(select.limit_option) == Ok(LimitOption::WithTies),
            RelayReason::WithTies,
        ),
    ];
    match refused.into_iter().find(|(present, _)| *present) {
        Some((_, reason)) => Err(reason),
        None => Ok(()),
    }
}

/// The expression that the statement is ordered by, and how it is written: itself, or as a reference to the select list.
fn sort_key(select: &SelectStmt) -> Result<(&Node, SortKey), RelayReason> {
    let sort = match select.sort_clause.as_slice() {
        [] => return Err(RelayReason::NotOrdered),
        [
            Node {
                node: Some(Tree::SortBy(sort)),
            },
        ] => sort,
        [_] => return Err(RelayReason::NotADistance),
        [_, ..] => return Err(RelayReason::SeveralSortKeys),
    };
    let ascending = matches!(
        SortByDir::try_from(sort.sortby_dir),
        Ok(SortByDir::SortbyDefault | SortByDir::SortbyAsc)
    );
    let nulls_last = matches!(
        SortByNulls::try_from(sort.sortby_nulls),
        Ok(SortByNulls::SortbyNullsDefault | SortByNulls::SortbyNullsLast)
    );
    if !ascending || !nulls_last {
        return Err(RelayReason::NotAscending);
    }
    let key = sort.node.as_deref().ok_or(RelayReason::NotADistance)?;
    let index = match &key.node {
        Some(Tree::ColumnRef(reference)) => {
            match parse::names(&reference.fields).as_deref() {
                Some([name]) => target_named(&select.target_list, name)?,
                Some(_) | None => return Err(RelayReason::NotADistance), // a qualified name is always a column
            }
        }
        Some(Tree::AConst(constant)) => target_numbered(&select.target_list, constant)?,
        Some(_) | None => return Ok((key, SortKey::Expression)),
    };
    let target = select.target_list.get(index).and_then(res_target);
    let expression = target.and_then(|target| target.val.as_deref());
    expression
        .map(|expression| {
            let alias = target.is_some_and(|target| !target.name.is_empty());
            (expression, SortKey::Target { index, alias })
        })
        .ok_or(RelayReason::NotADistance)
}

fn res_target(node: &Node) -> Option<&ResTarget> {
    match &node.node {
        Some(Tree::ResTarget(target)) => Some(target),
        Some(_) | None => None,
    }
}

/// The select-list item that a bare name in ORDER BY means: PostgreSQL looks at output names before columns.
/// (What `*` expands to is not known here; a column of that name beside the alias would be refused by PostgreSQL.)
fn target_named(targets: &[Node], name: &str) -> Result<usize, RelayReason> {
    let mut found = Err(RelayReason::NotADistance);
    for (index, node) in targets.iter().enumerate() {
        let target = res_target(node).ok_or(RelayReason::AmbiguousSortKey)?;
        if target.name.is_empty() {
            if target
                .val
                .as_deref()
                .is_none_or(|value| may_be_named(value, name))
            {
                return Err(RelayReason::AmbiguousSortKey);
            }
        } else if target.name == name {
            if found.is_ok() {
                return Err(RelayReason::AmbiguousSortKey);
            }
            found = Ok(index);
        }
    }
    found
}

/// Output names that PostgreSQL gives to expressions of its own syntax.
const CHOSEN_NAMES: &[&str] = &[
    "?column?",
    "array",
    "case",
    "coalesce",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "exists",
    "greatest",
    "grouping",
    "least",
    "localtime",
    "localtimestamp",
    "nullif",
    "row",
    "session_user",
    "system_user",
    "user",
];

/// Whether PostgreSQL may call an item of the select list that has no alias by this name.
fn may_be_named(value: &Node, name: &str) -> bool {
    let last = |names: &[Node]| names.last().and_then(parse::string) == Some(name);
    let inner = |node: Option<&Node>| node.is_some_and(|node| may_be_named(node, name));
    CHOSEN_NAMES.contains(&name)
        || match &value.node {
            Some(Tree::ColumnRef(column)) => last(&column.fields),
            Some(Tree::FuncCall(call)) => last(&call.funcname),
            Some(Tree::TypeCast(cast)) => {
                cast.type_name.as_ref().is_none_or(|kind| last(&kind.names))
                    || inner(cast.arg.as_deref())
            }
            Some(Tree::CollateClause(collate)) => inner(collate.arg.as_deref()),
            Some(Tree::AIndirection(field)) => {
                field
                    .indirection
                    .iter()
                    .any(|step| parse::string(step) == Some(name))
                    || inner(field.arg.as_deref())
            }
            Some(Tree::CaseExpr(case)) => inner(case.defresult.as_deref()),
            Some(Tree::SubLink(link)) => match link
                .subselect
                .as_deref()
                .and_then(|select| select.node.as_ref())
            {
                Some(Tree::SelectStmt(select)) => select
                    .target_list
                    .first()
                    .and_then(res_target)
                    .is_none_or(|target| {
                        target.name == name
                            || (target.name.is_empty() && inner(target.val.as_deref()))
                    }),
                Some(_) | None => true,
            },
            Some(_) => false,
            None => true,
        }
}

/// The select-list item that a number in ORDER BY means; no `*` may stand before it.
fn target_numbered(targets: &[Node], constant: &AConst) -> Result<usize, RelayReason> {
    let Some(Val::Ival(number)) = &constant.val else {
        return Err(RelayReason::NotADistance);
    };
    let index = usize::try_from(number.ival)
        .ok()
        .and_then(|number| number.checked_sub(1))
        .filter(|index| *index < targets.len())
        .ok_or(RelayReason::NotADistance)?;
    let starred = targets.iter().take(index).any(|node| {
        res_target(node)
            .and_then(|target| target.val.as_deref())
            .is_none_or(|value| match &value.node {
                Some(Tree::ColumnRef(column)) => column
                    .fields
                    .iter()
                    .any(|field| matches!(field.node, Some(Tree::AStar(_)))),
                Some(Tree::AIndirection(_)) | None => true, // `(row).*`
                Some(_) => false,
            })
    });
    if starred {
        return Err(RelayReason::AmbiguousSortKey);
    }
    Ok(index)
}

/// `column <operator> query`, either way round, where the column may stand in an expression that can be indexed.
struct Distance<'a> {
    on: OnColumn<'a>,
    metric: Metric,
    query: &'a Node,
}

impl<'a> Distance<'a> {
    /// `each` are the vectors that it may be the distance to.
    fn of(node: &'a Node, each: Option<&Joined<'_>>) -> Result<Self, RelayReason> {
        let Some(Tree::AExpr(operation)) = &node.node else {
            return Err(RelayReason::NotADistance);
        };
        if AExprKind::try_from(operation.kind) != Ok(AExprKind::AexprOp) {
            return Err(RelayReason::NotADistance);
        }
        let metric = match operation.name.last().and_then(parse::string) {
            Some(operator) => Metric::from_operator(operator).ok_or(RelayReason::NotADistance)?,
            None => return Err(RelayReason::NotADistance),
        };
        let (Some(left), Some(right)) = (operation.lexpr.as_deref(), operation.rexpr.as_deref())
        else {
            return Err(RelayReason::NotADistance);
        };
        let of_table = |node| {
            let is_vector =
                |on: &OnColumn<'_>| each.is_some_and(|joined| joined.column(&on.column).is_some());
            expression::on_column(node).filter(|on| !is_vector(on))
        };
        let (on, query) = match (of_table(left), of_table(right)) {
            (Some(on), None) => (on, right),
            (None, Some(on)) => (on, left),
            (Some(_), Some(_)) | (None, None) => return Err(RelayReason::NotADistance),
        };
        Ok(Self { on, metric, query })
    }
}

fn is_used_once(query: &QueryVector, sql: &str, tokens: &[Token]) -> bool {
    let number = match query {
        QueryVector::Parameter(number) => number,
        QueryVector::Elements(array) => return is_used_once(array, sql, tokens),
        QueryVector::Literal(_) | QueryVector::Rows(_) => return false,
    };
    let uses = tokens
        .iter()
        .filter_map(|token| token.parameter(sql))
        .filter(|digits| digits.parse() == Ok(*number));
    uses.count() == 1
}

/// Each `$n` that occurs more than once.
fn repeated_parameters(sql: &str, tokens: &[Token]) -> Vec<u16> {
    let numbers = tokens.iter().filter_map(|token| token.parameter(sql));
    let mut numbers: Vec<u16> = numbers.filter_map(|digits| digits.parse().ok()).collect();
    numbers.sort_unstable();
    let mut repeated: Vec<u16> = numbers
        .windows(2)
        .filter_map(|pair| (pair.first() == pair.last()).then(|| pair.first().copied())?)
        .collect();
    repeated.dedup();
    repeated
}

/// The greatest `$n` of the statement, 0 without any.
fn greatest_parameter(sql: &str, tokens: &[Token]) -> Result<u16, RelayReason> {
    tokens
        .iter()
        .filter_map(|token| token.parameter(sql))
        .map(|digits| {
            digits
                .parse::<u16>()
                .map_err(|_| RelayReason::TooManyParameters)
        })
        .try_fold(0, |greatest, number| Ok(greatest.max(number?)))
}
