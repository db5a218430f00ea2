//! Expressions → the values that a k-NN query needs: its query vector, LIMIT and OFFSET.

use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{AConst, Node, SelectStmt, TypeCast, TypeName};

use super::expression::{self, QueryStep};
use super::{RelayReason, parse};
use crate::vector::VectorType;

/// Most rows, LIMIT and OFFSET together, that an index is asked for by constants: above it a scan is the better search, and
/// Postgres has a better one.
pub(super) const MAX_ROWS: i64 = 1_000_000;

/// Where a number of the statement comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Absent: no OFFSET.
    Absent,
    /// A constant in the text, checked to be in range.
    Constant(i64),
    /// `$n`, from 1: the caller checks range and NULL.
    Parameter(u16),
}

/// Where the query vector comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryVector {
    /// A literal's text, `[…]`, `{…}` or bits; not yet looked at.
    Literal(String),
    /// `$n`, from 1.
    Parameter(u16),
    /// Several, each a literal or a parameter, with what is done to it before it is one of the statement's vectors.
    Rows(Vec<(QueryVector, Vec<QueryStep>)>),
    /// The elements of an array, which is a literal or a parameter.
    Elements(Box<QueryVector>),
}

/// A cast that the query vector is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryCast {
    /// The type.
    pub kind: VectorType,
    /// Its modifier, as in `vector(384)`.
    pub dimensions: Option<i64>,
}

/// Most steps between the query as it is written and what it is compared as: a cast, a function, and a cast of that.
const MAX_STEPS: usize = 4;

/// The query vector: `$n`, a string, or what casts to vector types and pgvector's functions make of one of them or of an
/// array of numbers; the steps come in the order in which they are done.
pub(super) fn query_vector(node: &Node) -> Result<(QueryVector, Vec<QueryStep>), RelayReason> {
    let mut steps = Vec::new();
    let mut node = node;
    let vector = loop {
        if let Some(vector) = uncast_vector(node)? {
            break vector;
        }
        let outermost = (steps.len() < MAX_STEPS).then(|| expression::step(node));
        let (step, argument) = outermost.flatten().ok_or(RelayReason::QueryNotConstant)?;
        steps.push(step);
        if let QueryStep::Cast(cast) = step
            && let Some(text) = array_text(argument, cast.kind)
        {
            break QueryVector::Literal(text);
        }
        node = argument;
    };
    steps.reverse();
    // Of vector and halfvec PostgreSQL does not choose for a constant.
    if let (QueryVector::Literal(_), Some(QueryStep::BinaryQuantize | QueryStep::Subvector(_))) =
        (&vector, steps.first())
    {
        return Err(RelayReason::QueryNotConstant);
    }
    Ok((vector, steps))
}

fn uncast_vector(node: &Node) -> Result<Option<QueryVector>, RelayReason> {
    match &node.node {
        Some(Tree::ParamRef(parameter)) => Ok(Some(QueryVector::Parameter(
            parameter_number(parameter.number).ok_or(RelayReason::QueryNotConstant)?,
        ))),
        Some(Tree::AConst(constant)) if constant.isnull => Err(RelayReason::NullQuery),
        Some(Tree::AConst(AConst {
            val: Some(Val::Sval(text)),
            ..
        })) => Ok(Some(QueryVector::Literal(text.sval.clone()))),
        // B'101' comes as b101, which means the same in a string.
        Some(Tree::AConst(AConst {
            val: Some(Val::Bsval(bits)),
            ..
        })) => Ok(Some(QueryVector::Literal(
            bits.bsval
                .strip_prefix('b')
                .unwrap_or(&bits.bsval)
                .to_owned(),
        ))),
        Some(_) | None => Ok(None),
    }
}

fn parameter_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// `vector`, `halfvec`, `real[]`, `float4[]`, `bit(n)`, with or without schema and modifier.
pub(super) fn vector_type(name: &TypeName) -> Option<QueryCast> {
    let names = parse::names(&name.names)?;
    if name.setof || name.pct_type {
        return None;
    }
    let array = !name.array_bounds.is_empty();
    let kind = match (*names.last()?, array) {
        ("vector", false) => VectorType::Vector,
        ("halfvec", false) => VectorType::Halfvec,
        ("bit", false) => VectorType::Bit,
        ("float4", true) | ("_float4", false) => VectorType::RealArray,
        _ => return None,
    };
    let dimensions = match name.typmods.as_slice() {
        [] => None,
        [modifier] => match &modifier.node {
            Some(Tree::AConst(constant)) => Some(integer(constant)?),
            Some(_) | None => return None,
        },
        [_, _, ..] => return None,
    };
    Some(QueryCast { kind, dimensions })
}

/// The text form of `ARRAY[1, 2.5, -3e2]`.
fn array_text(node: &Node, kind: VectorType) -> Option<String> {
    let Some(Tree::AArrayExpr(array)) = &node.node else {
        return None;
    };
    let mut text = String::new();
    for element in &array.elements {
        let Some(Tree::AConst(constant)) = &element.node else {
            return None;
        };
        if !text.is_empty() {
            text.push(',');
        }
        match constant.val.as_ref()? {
            Val::Ival(number) => text.push_str(&number.ival.to_string()),
            Val::Fval(number) => text.push_str(&number.fval),
            Val::Boolval(_) | Val::Sval(_) | Val::Bsval(_) => return None,
        }
    }
    match kind {
        VectorType::Vector | VectorType::Halfvec => Some(format!("[{text}]")),
        VectorType::RealArray => Some(format!("{{{text}}}")),
        VectorType::Bit => None,
    }
}

pub(super) fn limit(select: &SelectStmt) -> Result<Bound, RelayReason> {
    let node = select.limit_count.as_deref().ok_or(RelayReason::NoLimit)?;
    match bound(node)? {
        Some(Bound::Constant(limit)) if limit < 1 => Err(RelayReason::LimitNotPositive),
        Some(Bound::Constant(limit)) if limit > MAX_ROWS => Err(RelayReason::LimitTooLarge),
        Some(bound) => Ok(bound),
        None => Err(RelayReason::NoLimit),
    }
}

pub(super) fn offset(select: &SelectStmt) -> Result<Bound, RelayReason> {
    let Some(node) = select.limit_offset.as_deref() else {
        return Ok(Bound::Absent);
    };
    match bound(node)? {
        Some(Bound::Constant(offset)) if offset < 0 => Err(RelayReason::LimitNotPositive),
        Some(Bound::Constant(offset)) if offset > MAX_ROWS => Err(RelayReason::LimitTooLarge),
        Some(bound) => Ok(bound),
        None => Ok(Bound::Absent), // OFFSET NULL
    }
}

/// A number of LIMIT or OFFSET; `None` is NULL.
fn bound(node: &Node) -> Result<Option<Bound>, RelayReason> {
    let inner = match &node.node {
        Some(Tree::TypeCast(cast)) if casts_to_integer(cast) => {
            cast.arg.as_deref().ok_or(RelayReason::LimitNotConstant)?
        }
        Some(_) | None => node,
    };
    match &inner.node {
        Some(Tree::ParamRef(parameter)) => parameter_number(parameter.number)
            .map(|number| Some(Bound::Parameter(number)))
            .ok_or(RelayReason::LimitNotConstant),
        Some(Tree::AConst(constant)) if constant.isnull => Ok(None),
        Some(Tree::AConst(constant)) => integer(constant)
            .map(|number| Some(Bound::Constant(number)))
            .ok_or(RelayReason::LimitNotConstant),
        Some(_) | None => Err(RelayReason::LimitNotConstant),
    }
}

fn casts_to_integer(cast: &TypeCast) -> bool {
    cast.type_name.as_ref().is_some_and(|name| {
        name.array_bounds.is_empty()
            && !name.setof
            && matches!(
                parse::names(&name.names).as_deref(),
                Some(["int2" | "int4" | "int8"] | ["pg_catalog", "int2" | "int4" | "int8"])
            )
    })
}

/// An integer constant: `5`, `'5'`, or one beyond 32 bits, which the grammar keeps as text.
fn integer(constant: &AConst) -> Option<i64> {
    match constant.val.as_ref()? {
        Val::Ival(number) => Some(i64::from(number.ival)),
        Val::Fval(number) => number.fval.parse().ok(),
        Val::Sval(text) => text.sval.trim_matches(' ').parse().ok(),
        Val::Boolval(_) | Val::Bsval(_) => None,
    }
}
