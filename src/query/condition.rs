//! A WHERE clause → those of its conditions that compare a column with constants, in a form that an index may use.
//! What is not recognised is left out: PostgreSQL applies the whole clause to every row that an index proposes.

mod constants;

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{AExpr, AExprKind, BoolExprType, BoolTestType, Node, NullTestType};

use super::parse;
use super::tables::{Searched, column_ref};
use crate::catalog::{Comparison, FilterKind, ValueKind};
use constants::{bounds, cast_to, items, operand, several};

/// Most steps into a document.
const MAX_STEPS: usize = 32;
/// Most groups of conditions that are used.
const MAX_GROUPS: usize = 32;
/// Most conditions that one group has: each is compared with the rows on its own.
const MAX_ALTERNATIVES: usize = 64;
/// Most values of an IN list that is used: each is looked up on its own.
pub const MAX_VALUES: usize = 1_000;

/// A condition on a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The column's name.
    pub column: String,
    /// Where in its value: `-> …`, `#> …`
    pub path: Vec<Step>,
    /// Whether that is taken as text: `->>`, `#>>`
    pub as_text: bool,
    /// The type that a part of a document is cast to, if it is.
    pub cast: Option<ValueKind>,
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

/// What holds for a column's value, or what is somewhere in it; of these only [`IsNot`](Self::IsNot),
/// [`Null`](Self::Null), [`Distinct`](Self::Distinct) and [`NotDistinct`](Self::NotDistinct) hold for NULL, and only the latter two
/// say something of NULL when compared with it; any other comparison with it holds for nothing.
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
    /// `column <> operand`
    Differs(Operand),
    /// `column IS DISTINCT FROM operand`
    Distinct(Operand),
    /// `column IS NOT DISTINCT FROM operand`
    NotDistinct(Operand),
    /// `column NOT BETWEEN operand AND operand`
    Outside(Operand, Operand),
    /// `column NOT IN (operand, …)`
    NotIn(Vec<Operand>),
    /// `column <> ALL (array)`
    NotAny(Operand),
    /// `column`, `NOT column`, `column IS TRUE`, `column IS FALSE`
    Is(bool),
    /// `column IS NOT TRUE`, `column IS NOT FALSE`
    IsNot(bool),
    /// `column IS NULL`, or else `column IS NOT NULL`
    Null(bool),
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

/// What is recognised of a clause: of each group every row of the answer meets one condition at least.
pub(super) fn conditions(clause: Option<&Node>, table: Searched<'_>) -> Vec<Vec<Condition>> {
    let mut found = clause.map_or_else(Vec::new, |clause| groups(clause, true, table));
    found.truncate(MAX_GROUPS);
    found
}

/// What follows from an expression's being as `wanted`: true, or false. What is NULL is neither, under NOT as without it.
fn groups(node: &Node, wanted: bool, table: Searched<'_>) -> Vec<Vec<Condition>> {
    let Some(Tree::BoolExpr(operation)) = &node.node else {
        let condition = condition(node, wanted, table);
        return condition.into_iter().map(|one| vec![one]).collect();
    };
    let parts = |wanted| {
        let parts = operation.args.iter();
        parts.map(move |part| groups(part, wanted, table))
    };
    match (BoolExprType::try_from(operation.boolop), wanted) {
        (Ok(BoolExprType::NotExpr), _) => parts(!wanted).flatten().collect(),
        (Ok(BoolExprType::AndExpr), true) | (Ok(BoolExprType::OrExpr), false) => {
            parts(wanted).flatten().collect()
        }
        (Ok(BoolExprType::AndExpr), false) | (Ok(BoolExprType::OrExpr), true) => {
            one_of(parts(wanted))
        }
        (Ok(BoolExprType::Undefined) | Err(_), _) => Vec::new(),
    }
}

/// What follows where one of several expressions is as wanted, of each of which its groups follow: a group of each together, in
/// every way to choose them. Nothing, if of one of them nothing does.
fn one_of(parts: impl Iterator<Item = Vec<Vec<Condition>>>) -> Vec<Vec<Condition>> {
    let mut all: Vec<Vec<Condition>> = vec![Vec::new()];
    for mut part in parts {
        if all.len().saturating_mul(part.len()) > MAX_GROUPS {
            part.truncate(1);
        }
        let together = all.iter().flat_map(|before| {
            let groups = part.iter();
            groups.map(|group| before.iter().chain(group).cloned().collect())
        });
        all = together.collect();
        all.retain(|group: &Vec<Condition>| group.len() <= MAX_ALTERNATIVES);
        if all.is_empty() {
            break;
        }
    }
    all
}

/// What a condition is about.
struct Subject<'a> {
    column: &'a str,
    path: Vec<Step>,
    as_text: bool,
    cast: Option<ValueKind>,
}

impl Subject<'_> {
    fn meets(self, test: Test) -> Condition {
        Condition {
            column: self.column.to_owned(),
            path: self.path,
            as_text: self.as_text,
            cast: self.cast,
            test,
        }
    }
}

/// A column, or a part of a document in one.
fn subject<'a>(node: &'a Node, table: Searched<'a>) -> Option<Subject<'a>> {
    if let Some(column) = column(node, table) {
        return Some(Subject {
            column,
            path: Vec::new(),
            as_text: false,
            cast: None,
        });
    }
    if let Some(Tree::TypeCast(cast)) = &node.node {
        let Some(FilterKind::One(kind)) = cast_to(cast) else {
            return None;
        };
        let part = subject(cast.arg.as_deref()?, table)?;
        return (!part.path.is_empty() && part.cast.is_none()).then_some(Subject {
            cast: Some(kind),
            ..part
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
    if subject.as_text || subject.cast.is_some() || subject.path.len() == MAX_STEPS {
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
fn condition(node: &Node, wanted: bool, table: Searched<'_>) -> Option<Condition> {
    match node.node.as_ref()? {
        Tree::ColumnRef(_) | Tree::TypeCast(_) => {
            Some(subject(node, table)?.meets(Test::Is(wanted)))
        }
        Tree::BooleanTest(test) => {
            let (is, value) = match BoolTestType::try_from(test.booltesttype).ok()? {
                BoolTestType::IsTrue => (true, Some(true)),
                BoolTestType::IsNotTrue => (false, Some(true)),
                BoolTestType::IsFalse => (true, Some(false)),
                BoolTestType::IsNotFalse => (false, Some(false)),
                BoolTestType::IsUnknown => (true, None),
                BoolTestType::IsNotUnknown => (false, None),
                BoolTestType::Undefined => return None,
            };
            let subject = subject(test.arg.as_deref()?, table)?;
            Some(subject.meets(match (is == wanted, value) {
                (true, Some(value)) => Test::Is(value),
                (false, Some(value)) => Test::IsNot(value),
                (is, None) => Test::Null(is),
            }))
        }
        Tree::NullTest(test) => {
            let is_null = match NullTestType::try_from(test.nulltesttype).ok()? {
                NullTestType::IsNull => true,
                NullTestType::IsNotNull => false,
                NullTestType::Undefined => return None,
            };
            let subject = subject(test.arg.as_deref()?, table)?;
            Some(subject.meets(Test::Null(is_null == wanted)))
        }
        Tree::AExpr(expression) => {
            let condition = comparison(expression, table)?;
            let test = match wanted {
                true => condition.test,
                false => opposite(condition.test)?,
            };
            Some(Condition { test, ..condition })
        }
        _ => None,
    }
}

/// What holds of a value where a comparison with it is false: it is not where that is NULL.
fn opposite(test: Test) -> Option<Test> {
    Some(match test {
        Test::Compare(comparison, operand) => match comparison {
            Comparison::Equal => Test::Differs(operand),
            Comparison::Less => Test::Compare(Comparison::AtLeast, operand),
            Comparison::AtMost => Test::Compare(Comparison::Greater, operand),
            Comparison::Greater => Test::Compare(Comparison::AtMost, operand),
            Comparison::AtLeast => Test::Compare(Comparison::Less, operand),
        },
        Test::Differs(operand) => Test::Compare(Comparison::Equal, operand),
        Test::Distinct(operand) => Test::NotDistinct(operand),
        Test::NotDistinct(operand) => Test::Distinct(operand),
        Test::Between(low, high) => Test::Outside(low, high),
        Test::Outside(low, high) => Test::Between(low, high),
        Test::In(operands) => Test::NotIn(operands),
        Test::NotIn(operands) => Test::In(operands),
        Test::Any(array) => Test::NotAny(array),
        Test::NotAny(array) => Test::Any(array),
        Test::Is(_)
        | Test::IsNot(_)
        | Test::Null(_)
        | Test::Element(..)
        | Test::Contains(_)
        | Test::Overlaps(_)
        | Test::Key(_)
        | Test::AnyKey(_)
        | Test::AllKeys(_) => return None,
    })
}

fn operator(expression: &AExpr) -> Option<&str> {
    match parse::names(&expression.name)?.as_slice() {
        [name] | ["pg_catalog", name] => Some(name),
        _ => None,
    }
}

fn comparison(expression: &AExpr, table: Searched<'_>) -> Option<Condition> {
    let (left, right) = (expression.lexpr.as_deref()?, expression.rexpr.as_deref()?);
    let operator = operator(expression)?;
    let of = |node| subject(node, table);
    match AExprKind::try_from(expression.kind).ok()? {
        AExprKind::AexprOp => by_operator(operator, left, right, table),
        AExprKind::AexprIn => {
            let operands = items(right)?.iter().map(operand);
            let operands = operands.collect::<Option<_>>()?;
            Some(of(left)?.meets(match operator {
                "=" => Test::In(operands),
                "<>" => Test::NotIn(operands),
                _ => return None,
            }))
        }
        AExprKind::AexprBetween => {
            let (low, high) = bounds(right)?;
            Some(of(left)?.meets(Test::Between(low, high)))
        }
        AExprKind::AexprNotBetween => {
            let (low, high) = bounds(right)?;
            Some(of(left)?.meets(Test::Outside(low, high)))
        }
        AExprKind::AexprOpAll if operator == "<>" => Some(of(left)?.meets(match several(right)? {
            Items::Each(operands) => Test::NotIn(operands),
            Items::Whole(array) => Test::NotAny(array),
        })),
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
        AExprKind::AexprDistinct if operator == "=" => {
            let (subject, other) = either(left, right, table)?;
            Some(subject.meets(Test::Distinct(operand(other)?)))
        }
        AExprKind::AexprNotDistinct if operator == "=" => {
            let (subject, other) = either(left, right, table)?;
            Some(subject.meets(Test::NotDistinct(operand(other)?)))
        }
        AExprKind::Undefined
        | AExprKind::AexprDistinct
        | AExprKind::AexprNotDistinct
        | AExprKind::AexprOpAll
        | AExprKind::AexprNullif
        | AExprKind::AexprLike
        | AExprKind::AexprIlike
        | AExprKind::AexprSimilar
        | AExprKind::AexprBetweenSym
        | AExprKind::AexprNotBetweenSym => None,
    }
}

/// Which of two sides is about a column, and the other one.
fn either<'a>(
    left: &'a Node,
    right: &'a Node,
    table: Searched<'a>,
) -> Option<(Subject<'a>, &'a Node)> {
    match subject(left, table) {
        Some(left) => Some((left, right)),
        None => Some((subject(right, table)?, left)),
    }
}

/// `left <operator> right`
fn by_operator(
    operator: &str,
    left: &Node,
    right: &Node,
    table: Searched<'_>,
) -> Option<Condition> {
    let of = |node| subject(node, table);
    let either = || either(left, right, table);
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
        "<>" => {
            let (subject, other) = either()?;
            (subject, Test::Differs(operand(other)?))
        }
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

fn column<'a>(node: &'a Node, table: Searched<'a>) -> Option<&'a str> {
    table.column_of(&column_ref(node)?)
}

#[cfg(test)]
mod tests;
