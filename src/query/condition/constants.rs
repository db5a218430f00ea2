//! Constants and parameters as conditions have them: one, two bounds, an array or a document, with the types that they are cast to.

use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{Node, TypeCast, TypeName};

use super::{Items, MAX_VALUES, Operand, OperandValue};
use crate::catalog::{FilterKind, ValueKind};
use crate::query::parse;

/// The items of a list that is not too long.
pub(super) fn items(node: &Node) -> Option<&[Node]> {
    match &node.node {
        Some(Tree::List(list)) if list.items.len() <= MAX_VALUES => Some(&list.items),
        Some(_) | None => None,
    }
}

pub(super) fn bounds(node: &Node) -> Option<(Operand, Operand)> {
    match items(node)? {
        [low, high] => Some((operand(low)?, operand(high)?)),
        _ => None,
    }
}

pub(super) fn operand(node: &Node) -> Option<Operand> {
    if let Some(Tree::TypeCast(cast)) = &node.node {
        return Some(Operand {
            value: value(cast.arg.as_deref()?)?,
            cast: Some(cast_to(cast)?),
        });
    }
    let value = value(node)?;
    Some(Operand { value, cast: None })
}

/// An array or a document: `ARRAY[…]`, perhaps cast, or one operand.
pub(super) fn several(node: &Node) -> Option<Items> {
    let (inner, cast) = match &node.node {
        Some(Tree::TypeCast(cast)) => (cast.arg.as_deref()?, Some(cast_to(cast)?)),
        Some(_) | None => (node, None),
    };
    let Some(Tree::AArrayExpr(array)) = &inner.node else {
        return operand(node).map(Items::Whole);
    };
    let element = match cast {
        Some(FilterKind::Array(kind)) => Some(FilterKind::One(kind)),
        Some(FilterKind::One(_) | FilterKind::Jsonb) => return None,
        None => None,
    };
    if array.elements.len() > MAX_VALUES {
        return None;
    }
    let operands = array.elements.iter().map(|node| {
        let operand = operand(node)?;
        Some(Operand {
            cast: operand.cast.or(element),
            ..operand
        })
    });
    operands.collect::<Option<_>>().map(Items::Each)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not named here is not recognised"
)]
fn value(node: &Node) -> Option<OperandValue> {
    match node.node.as_ref()? {
        Tree::ParamRef(parameter) => {
            let number = u16::try_from(parameter.number).ok()?;
            (number > 0).then_some(OperandValue::Parameter(number))
        }
        Tree::AConst(constant) if constant.isnull => Some(OperandValue::Null),
        Tree::AConst(constant) => Some(match constant.val.as_ref()? {
            Val::Ival(number) => OperandValue::Number(number.ival.to_string()),
            Val::Fval(number) => OperandValue::Number(number.fval.clone()),
            Val::Sval(text) => OperandValue::Text(text.sval.clone()),
            Val::Boolval(value) => OperandValue::Bool(value.boolval),
            Val::Bsval(_) => return None,
        }),
        _ => None,
    }
}

/// A type that values are read of, without a modifier: that would change them.
pub(super) fn cast_to(cast: &TypeCast) -> Option<FilterKind> {
    let name = cast.type_name.as_ref()?;
    match name.array_bounds.len() {
        0 if is_jsonb(name) => Some(FilterKind::Jsonb),
        0 => element_type(name).map(FilterKind::One),
        1 => element_type(name).map(FilterKind::Array),
        _ => None,
    }
}

fn is_jsonb(name: &TypeName) -> bool {
    let names = parse::names(&name.names);
    let is_jsonb =
        names.is_some_and(|names| matches!(names.as_slice(), ["jsonb"] | ["pg_catalog", "jsonb"]));
    is_jsonb && !name.setof && !name.pct_type && name.typmods.is_empty()
}

fn element_type(name: &TypeName) -> Option<ValueKind> {
    if name.setof || name.pct_type || !name.typmods.is_empty() {
        return None;
    }
    let name = match parse::names(&name.names)?.as_slice() {
        [name] | ["pg_catalog", name] => *name,
        _ => return None,
    };
    Some(match name {
        "bool" => ValueKind::Bool,
        "int2" => ValueKind::Int2,
        "int4" => ValueKind::Int4,
        "int8" => ValueKind::Int8,
        "float4" => ValueKind::Float4,
        "float8" => ValueKind::Float8,
        "numeric" => ValueKind::Numeric,
        "text" | "varchar" => ValueKind::Text,
        "uuid" => ValueKind::Uuid,
        "date" => ValueKind::Date,
        "timestamp" => ValueKind::Timestamp,
        "timestamptz" => ValueKind::Timestamptz,
        _ => return None,
    })
}
