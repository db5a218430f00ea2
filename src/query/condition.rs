//! A WHERE clause → those of its conditions that compare a column with constants, in a form that an index may use.
//! What is not recognised is left out: PostgreSQL applies the whole clause to every row that an index proposes.

use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    AExpr, AExprKind, BoolExprType, BoolTestType, Node, RangeVar, TypeCast, TypeName,
};

use super::knn::{column_of, column_ref};
use super::parse;
use crate::catalog::{Comparison, FilterKind, ValueKind};

/// Most steps into a document.
const MAX_STEPS: usize = 32;
/// Most conditions that are used.
const MAX_CONDITIONS: usize = 32;
/// Most values of an IN list that is used: each is looked up on its own.
pub const MAX_VALUES: usize = 1_000;

/// A condition that every row of the answer meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The column's name.
    pub column: String,
    /// Where in its value: `-> …`, `#> …`
    pub path: Vec<Step>,
    /// Whether that is taken as text: `->>`, `#>>`
    pub as_text: bool,
    /// What holds for it.
    pub test: Test,
}

/// A step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `-> operand`: a key, or a place in an array.
    One(Operand),
    /// `#> operand`, an array of those.
    Many(Operand),
}

/// What holds for a column's value, or what is somewhere in it; none of it for NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// `column <operator> operand`
    Compare(Comparison, Operand),
    /// `column BETWEEN operand AND operand`
    Between(Operand, Operand),
    /// `column IN (operand, …)`
    In(Vec<Operand>),
    /// `column = ANY (array)`
    Any(Operand),
    /// `column`, `NOT column`, `column IS TRUE`, `column IS FALSE`
    Is(bool),
    /// `operand = ANY (column)`, with the sides exchanged: an element compared with the operand.
    Element(Comparison, Operand),
    /// `column @> …`, an array or a document
    Contains(Items),
    /// `column && array`
    Overlaps(Items),
    /// `column ? operand`
    Key(Operand),
    /// `column ?| array`
    AnyKey(Items),
    /// `column ?& array`
    AllKeys(Items),
}

/// An array, or a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Items {
    /// One constant or parameter.
    Whole(Operand),
    /// `ARRAY[operand, …]`
    Each(Vec<Operand>),
}

/// A constant or a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Where the value comes from.
    pub value: OperandValue,
    /// The type that it is cast to, if it is.
    pub cast: Option<FilterKind>,
}

/// Where an operand's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperandValue {
    /// NULL: no comparison with it holds.
    Null,
    /// A number's text.
    Number(String),
    /// A string's value.
    Text(String),
    /// `true` or `false`
    Bool(bool),
    /// `$n`, from 1.
    Parameter(u16),
}

/// The recognised conditions among those that the clause connects by AND.
pub(super) fn conditions(clause: Option<&Node>, table: &RangeVar) -> Vec<Condition> {
    let mut found = Vec::new();
    if let Some(clause) = clause {
        collect(clause, table, &mut found);
    }
    found.truncate(MAX_CONDITIONS);
    found
}

fn collect(node: &Node, table: &RangeVar, found: &mut Vec<Condition>) {
    if let Some(Tree::BoolExpr(operation)) = &node.node
        && BoolExprType::try_from(operation.boolop) == Ok(BoolExprType::AndExpr)
    {
        for part in &operation.args {
            collect(part, table, found);
        }
    } else {
        found.extend(condition(node, table));
    }
}

/// What a condition is about.
struct Subject<'a> {
    column: &'a str,
    path: Vec<Step>,
    as_text: bool,
}

impl Subject<'_> {
    fn meets(self, test: Test) -> Condition {
        Condition {
            column: self.column.to_owned(),
            path: self.path,
            as_text: self.as_text,
            test,
        }
    }
}

/// A column, or a part of a document in one.
fn subject<'a>(node: &'a Node, table: &'a RangeVar) -> Option<Subject<'a>> {
    if let Some(column) = column(node, table) {
        return Some(Subject {
            column,
            path: Vec::new(),
            as_text: false,
        });
    }
    let Some(Tree::AExpr(expression)) = &node.node else {
        return None;
    };
    if AExprKind::try_from(expression.kind) != Ok(AExprKind::AexprOp) {
        return None;
    }
    let (operator, right) = (operator(expression)?, expression.rexpr.as_deref()?);
    let step = match operator {
        "->" | "->>" => Step::One(operand(right)?),
        "#>" | "#>>" => Step::Many(operand(right)?),
        _ => return None,
    };
    let mut subject = subject(expression.lexpr.as_deref()?, table)?;
    if subject.as_text || subject.path.len() == MAX_STEPS {
        return None;
    }
    subject.path.push(step);
    subject.as_text = operator.ends_with(">>");
    Some(subject)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not named here is not recognised"
)]
fn condition(node: &Node, table: &RangeVar) -> Option<Condition> {
    match node.node.as_ref()? {
        Tree::ColumnRef(_) => Some(subject(node, table)?.meets(Test::Is(true))),
        Tree::BoolExpr(operation)
            if BoolExprType::try_from(operation.boolop) == Ok(BoolExprType::NotExpr) =>
        {
            let subject = subject(operation.args.first()?, table)?;
            Some(subject.meets(Test::Is(false)))
        }
        Tree::BooleanTest(test) => {
            let wanted = match BoolTestType::try_from(test.booltesttype).ok()? {
                BoolTestType::IsTrue => true,
                BoolTestType::IsFalse => false,
                BoolTestType::Undefined
                | BoolTestType::IsNotTrue
                | BoolTestType::IsNotFalse
                | BoolTestType::IsUnknown
                | BoolTestType::IsNotUnknown => return None,
            };
            let subject = subject(test.arg.as_deref()?, table)?;
            Some(subject.meets(Test::Is(wanted)))
        }
        Tree::AExpr(expression) => comparison(expression, table),
        _ => None,
    }
}

fn operator(expression: &AExpr) -> Option<&str> {
    match parse::names(&expression.name)?.as_slice() {
        [name] | ["pg_catalog", name] => Some(name),
        _ => None,
    }
}

fn comparison(expression: &AExpr, table: &RangeVar) -> Option<Condition> {
    let (left, right) = (expression.lexpr.as_deref()?, expression.rexpr.as_deref()?);
    let operator = operator(expression)?;
    let of = |node| subject(node, table);
    match AExprKind::try_from(expression.kind).ok()? {
        AExprKind::AexprOp => by_operator(operator, left, right, table),
        AExprKind::AexprIn if operator == "=" => {
            let operands = items(right)?.iter().map(operand);
            Some(of(left)?.meets(Test::In(operands.collect::<Option<_>>()?)))
        }
        AExprKind::AexprBetween => match items(right)? {
            [low, high] => Some(of(left)?.meets(Test::Between(operand(low)?, operand(high)?))),
            _ => None,
        },
        AExprKind::AexprOpAny => match of(left) {
            Some(left) if operator == "=" => Some(left.meets(match several(right)? {
                Items::Each(operands) => Test::In(operands),
                Items::Whole(array) => Test::Any(array),
            })),
            Some(_) => None,
            None => {
                let test = Test::Element(turned(compared_by(operator)?), operand(left)?);
                Some(of(right)?.meets(test))
            }
        },
        AExprKind::Undefined
        | AExprKind::AexprIn
        | AExprKind::AexprOpAll
        | AExprKind::AexprDistinct
        | AExprKind::AexprNotDistinct
        | AExprKind::AexprNullif
        | AExprKind::AexprLike
        | AExprKind::AexprIlike
        | AExprKind::AexprSimilar
        | AExprKind::AexprNotBetween
        | AExprKind::AexprBetweenSym
        | AExprKind::AexprNotBetweenSym => None,
    }
}

/// `left <operator> right`
fn by_operator(operator: &str, left: &Node, right: &Node, table: &RangeVar) -> Option<Condition> {
    let of = |node| subject(node, table);
    let either = || match of(left) {
        Some(left) => Some((left, right)),
        None => Some((of(right)?, left)),
    };
    let (subject, test) = match operator {
        "@>" => (of(left)?, Test::Contains(several(right)?)),
        "<@" => (of(right)?, Test::Contains(several(left)?)),
        "&&" => {
            let (subject, other) = either()?;
            (subject, Test::Overlaps(several(other)?))
        }
        "?" => (of(left)?, Test::Key(operand(right)?)),
        "?|" => (of(left)?, Test::AnyKey(several(right)?)),
        "?&" => (of(left)?, Test::AllKeys(several(right)?)),
        operator => {
            let comparison = compared_by(operator)?;
            match of(left) {
                Some(left) => (left, Test::Compare(comparison, operand(right)?)),
                None => (
                    of(right)?,
                    Test::Compare(turned(comparison), operand(left)?),
                ),
            }
        }
    };
    Some(subject.meets(test))
}

fn compared_by(operator: &str) -> Option<Comparison> {
    Some(match operator {
        "=" => Comparison::Equal,
        "<" => Comparison::Less,
        "<=" => Comparison::AtMost,
        ">" => Comparison::Greater,
        ">=" => Comparison::AtLeast,
        _ => return None,
    })
}

/// The comparison with its sides exchanged.
fn turned(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Equal => Comparison::Equal,
        Comparison::Less => Comparison::Greater,
        Comparison::AtMost => Comparison::AtLeast,
        Comparison::Greater => Comparison::Less,
        Comparison::AtLeast => Comparison::AtMost,
    }
}

fn column<'a>(node: &'a Node, table: &'a RangeVar) -> Option<&'a str> {
    column_of(&column_ref(node)?, table)
}

/// The items of a list that is not too long.
fn items(node: &Node) -> Option<&[Node]> {
    match &node.node {
        Some(Tree::List(list)) if list.items.len() <= MAX_VALUES => Some(&list.items),
        Some(_) | None => None,
    }
}

fn operand(node: &Node) -> Option<Operand> {
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
fn several(node: &Node) -> Option<Items> {
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
fn cast_to(cast: &TypeCast) -> Option<FilterKind> {
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

#[cfg(test)]
mod tests;
