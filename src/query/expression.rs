//! Expressions over one column of vectors, as an index is created on them and a statement is ordered by them, and the same over
//! the query → which they are. By their names alone: a user's own function of such a name counts as pgvector's.

use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{FuncCall, Node};

use super::knn::KnnQuery;
use super::operand::{self, QueryCast};
use super::parse;
use super::tables::column_ref;
use crate::vector::{Expression, NumberType, Part, VectorType};

/// An expression over a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OnColumn<'a> {
    /// The column, as written.
    pub(super) column: Vec<&'a str>,
    pub(super) expression: Expression,
    /// The modifier of the type that it is cast to.
    pub(super) dimensions: Option<i64>,
}

/// What a statement does to its query before the distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryStep {
    /// A cast to a vector type.
    Cast(QueryCast),
    /// `binary_quantize(…)`
    BinaryQuantize,
    /// `subvector(…, start, count)`
    Subvector(Part),
}

impl KnnQuery {
    /// Whether it is a sub-select of the statement: rows of the answer say that it brought as many rows as its LIMIT, and not
    /// how many.
    #[must_use]
    pub fn is_sub_select(&self) -> bool {
        self.around.is_some()
    }

    /// Whether the query is sent as what it is compared with: a value of the column's own type.
    #[must_use]
    pub fn is_sent_as(&self, column: VectorType) -> bool {
        let casts = |step: &QueryStep| matches!(step, QueryStep::Cast(cast) if cast.kind == column);
        self.expression == Expression::Column && self.steps.iter().all(casts)
    }

    /// The type that the query is compared as, where the statement says.
    pub(super) fn written_kind(&self) -> Option<VectorType> {
        let mut kind = None;
        for step in &self.steps {
            match step {
                QueryStep::Cast(cast) => kind = Some(cast.kind),
                QueryStep::BinaryQuantize => kind = Some(VectorType::Bit),
                QueryStep::Subvector(_) => {}
            }
        }
        kind
    }

    /// The numbers of dimensions that the statement writes to what is compared.
    pub(super) fn written_dimensions(&self) -> impl Iterator<Item = i64> {
        let of_query = self.steps.last().and_then(|step| match step {
            QueryStep::Cast(cast) => cast.dimensions,
            QueryStep::Subvector(part) => i64::try_from(part.count()).ok(),
            QueryStep::BinaryQuantize => None,
        });
        self.dimensions.into_iter().chain(of_query)
    }
}

/// The expression over a column that this is, if it is one that can be indexed.
pub(super) fn on_column(node: &Node) -> Option<OnColumn<'_>> {
    if let Some(column) = column_ref(node) {
        return Some(OnColumn {
            column,
            expression: Expression::Column,
            dimensions: None,
        });
    }
    if let Some((cast, inner)) = cast(node) {
        if let Some(column) = column_ref(inner) {
            return Some(OnColumn {
                column,
                expression: Expression::Cast(NumberType::of(cast.kind)?),
                dimensions: cast.dimensions,
            });
        }
        let on = function_of_column(inner)?;
        let expression = match on.expression {
            Expression::BinaryQuantize if cast.kind == VectorType::Bit => on.expression,
            Expression::Subvector(part, _) => {
                Expression::Subvector(part, Some(NumberType::of(cast.kind)?))
            }
            Expression::BinaryQuantize | Expression::Column | Expression::Cast(_) => return None,
        };
        return Some(OnColumn {
            expression,
            dimensions: cast.dimensions,
            ..on
        });
    }
    function_of_column(node)
}

fn function_of_column(node: &Node) -> Option<OnColumn<'_>> {
    let (step, argument) = function(node)?;
    Some(OnColumn {
        column: column_ref(argument)?,
        expression: match step {
            QueryStep::BinaryQuantize => Expression::BinaryQuantize,
            QueryStep::Subvector(part) => Expression::Subvector(part, None),
            QueryStep::Cast(_) => return None,
        },
        dimensions: None,
    })
}

/// The outermost step of an expression over the query, and what it is done to.
pub(super) fn step(node: &Node) -> Option<(QueryStep, &Node)> {
    match cast(node) {
        Some((cast, argument)) => Some((QueryStep::Cast(cast), argument)),
        None => function(node),
    }
}

/// A cast to a vector type.
fn cast(node: &Node) -> Option<(QueryCast, &Node)> {
    let Some(Tree::TypeCast(cast)) = &node.node else {
        return None;
    };
    let kind = cast.type_name.as_ref().and_then(operand::vector_type)?;
    Some((kind, cast.arg.as_deref()?))
}

/// A call of one of pgvector's functions.
fn function(node: &Node) -> Option<(QueryStep, &Node)> {
    let Some(Tree::FuncCall(call)) = &node.node else {
        return None;
    };
    if !is_plain(call) {
        return None;
    }
    match (*parse::names(&call.funcname)?.last()?, call.args.as_slice()) {
        ("binary_quantize", [argument]) => Some((QueryStep::BinaryQuantize, argument)),
        ("subvector", [argument, start, count]) => {
            let part = Part::new(integer(start)?, integer(count)?)?;
            Some((QueryStep::Subvector(part), argument))
        }
        _ => None,
    }
}

/// Whether a call is nothing but name and arguments.
pub(super) fn is_plain(call: &FuncCall) -> bool {
    call.agg_order.is_empty()
        && call.agg_filter.is_none()
        && call.over.is_none()
        && !call.agg_within_group
        && !call.agg_star
        && !call.agg_distinct
        && !call.func_variadic
}

/// A constant whole number.
fn integer(node: &Node) -> Option<i64> {
    match &node.node {
        Some(Tree::AConst(constant)) => match constant.val.as_ref()? {
            Val::Ival(number) => Some(i64::from(number.ival)),
            Val::Fval(_) | Val::Boolval(_) | Val::Sval(_) | Val::Bsval(_) => None,
        },
        Some(_) | None => None,
    }
}
