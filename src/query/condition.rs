//! A WHERE clause → those of its conditions that compare a column with constants, in a form that an index may use.
//! What is not recognised is left out: PostgreSQL applies the whole clause to every row that an index proposes.

use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    AExpr, AExprKind, BoolExprType, BoolTestType, Node, RangeVar, TypeCast, TypeName,
};

use super::knn::{column_of, column_ref};
use super::parse;
use crate::catalog::{Comparison, ValueKind};

/// Most conditions that are used.
const MAX_CONDITIONS: usize = 32;
/// Most values of an IN list that is used: each is looked up on its own.
pub const MAX_VALUES: usize = 1_000;

/// A condition that every row of the answer meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The column's name.
    pub column: String,
    /// What holds for its value.
    pub test: Test,
}

/// What holds for a column's value; none of it for NULL.
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
}

/// A constant or a parameter. Of [`Test::Any`] it is an array, and the type is its elements'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Where the value comes from.
    pub value: OperandValue,
    /// The type that it is cast to, if it is.
    pub cast: Option<ValueKind>,
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
    } else if let Some((column, test)) = condition(node, table) {
        found.push(Condition {
            column: column.to_owned(),
            test,
        });
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not named here is not recognised"
)]
fn condition<'a>(node: &'a Node, table: &'a RangeVar) -> Option<(&'a str, Test)> {
    match node.node.as_ref()? {
        Tree::ColumnRef(_) => Some((column(node, table)?, Test::Is(true))),
        Tree::BoolExpr(operation)
            if BoolExprType::try_from(operation.boolop) == Ok(BoolExprType::NotExpr) =>
        {
            Some((column(operation.args.first()?, table)?, Test::Is(false)))
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
            Some((column(test.arg.as_deref()?, table)?, Test::Is(wanted)))
        }
        Tree::AExpr(expression) => comparison(expression, table),
        _ => None,
    }
}

fn comparison<'a>(expression: &'a AExpr, table: &'a RangeVar) -> Option<(&'a str, Test)> {
    let (left, right) = (expression.lexpr.as_deref()?, expression.rexpr.as_deref()?);
    let operator = match parse::names(&expression.name)?.as_slice() {
        [name] | ["pg_catalog", name] => *name,
        _ => return None,
    };
    match AExprKind::try_from(expression.kind).ok()? {
        AExprKind::AexprOp => {
            let operator = compared_by(operator)?;
            match column(left, table) {
                Some(column) => Some((column, Test::Compare(operator, operand(right)?))),
                None => {
                    let column = column(right, table)?;
                    Some((column, Test::Compare(turned(operator), operand(left)?)))
                }
            }
        }
        AExprKind::AexprIn if operator == "=" => {
            let operands = items(right)?.iter().map(operand);
            Some((
                column(left, table)?,
                Test::In(operands.collect::<Option<_>>()?),
            ))
        }
        AExprKind::AexprBetween => match items(right)? {
            [low, high] => {
                let test = Test::Between(operand(low)?, operand(high)?);
                Some((column(left, table)?, test))
            }
            _ => None,
        },
        AExprKind::AexprOpAny if operator == "=" => {
            let test = match &right.node {
                Some(Tree::AArrayExpr(array)) if array.elements.len() <= MAX_VALUES => {
                    Test::In(array.elements.iter().map(operand).collect::<Option<_>>()?)
                }
                Some(_) => Test::Any(array(right)?),
                None => return None,
            };
            Some((column(left, table)?, test))
        }
        AExprKind::Undefined
        | AExprKind::AexprIn
        | AExprKind::AexprOpAny
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
            cast: Some(scalar_type(cast.type_name.as_ref()?)?),
        });
    }
    let value = value(node)?;
    Some(Operand { value, cast: None })
}

/// A string or a parameter that is an array, perhaps cast to an array type.
fn array(node: &Node) -> Option<Operand> {
    let (node, cast) = match &node.node {
        Some(Tree::TypeCast(cast)) => (cast.arg.as_deref()?, Some(array_type(cast)?)),
        Some(_) | None => (node, None),
    };
    match value(node)? {
        value @ (OperandValue::Null | OperandValue::Text(_) | OperandValue::Parameter(_)) => {
            Some(Operand { value, cast })
        }
        OperandValue::Number(_) | OperandValue::Bool(_) => None,
    }
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
fn scalar_type(name: &TypeName) -> Option<ValueKind> {
    name.array_bounds.is_empty().then(|| element_type(name))?
}

fn array_type(cast: &TypeCast) -> Option<ValueKind> {
    let name = cast.type_name.as_ref()?;
    (name.array_bounds.len() == 1).then(|| element_type(name))?
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
mod tests {
    use super::*;
    use crate::query::{StatementKind, analyze};

    /// The conditions, one a line.
    fn recognised(condition: &str) -> Vec<String> {
        let sql = format!("select * from s.items i where {condition} order by i.v <-> $1 limit 5");
        let kind = analyze(&sql).unwrap().remove(0).kind;
        let StatementKind::Knn(query) = kind else {
            panic!("{sql}: {kind:?}");
        };
        query.conditions.iter().map(show).collect()
    }

    fn show(condition: &Condition) -> String {
        let operand = |operand: &Operand| {
            let value = match &operand.value {
                OperandValue::Null => "null".into(),
                OperandValue::Number(text) => text.clone(),
                OperandValue::Text(text) => format!("'{text}'"),
                OperandValue::Bool(value) => value.to_string(),
                OperandValue::Parameter(number) => format!("${number}"),
            };
            operand
                .cast
                .map_or(value.clone(), |kind| format!("{value}::{kind:?}"))
        };
        let column = &condition.column;
        match &condition.test {
            Test::Compare(comparison, right) => {
                format!("{column} {comparison:?} {}", operand(right))
            }
            Test::Between(low, high) => format!("{column} {}..{}", operand(low), operand(high)),
            Test::In(list) => {
                let list: Vec<_> = list.iter().map(operand).collect();
                format!("{column} in {}", list.join(" "))
            }
            Test::Any(array) => format!("{column} any {}", operand(array)),
            Test::Is(wanted) => format!("{column} is {wanted}"),
        }
    }

    #[test]
    fn comparisons_of_columns_with_constants_are_recognised() {
        let check = |condition: &str, expected: &[&str]| {
            assert_eq!(recognised(condition), expected, "{condition}");
        };
        check("a = 5", &["a Equal 5"]);
        check("5 < i.a", &["a Greater 5"]);
        check(
            "a >= -1.5 and (b <= 'x' and $2 > a)",
            &["a AtLeast -1.5", "b AtMost 'x'", "a Less $2"],
        );
        check(
            "\"Odd name\" = 12345678901234567890",
            &["Odd name Equal 12345678901234567890"],
        );
        check("a operator(pg_catalog.=) 5", &["a Equal 5"]);
        check("a between 1 and $3", &["a 1..$3"]);
        check(
            "a in (1, '2', $2::int, null)",
            &["a in 1 '2' $2::Int4 null"],
        );
        check(
            "a = any ($2) and b = any ('{1,2}'::int[]) and c = any (array[1, 2])",
            &["a any $2", "b any '{1,2}'::Int4", "c in 1 2"],
        );
        check("flag", &["flag is true"]);
        check(
            "not i.flag and b is true and c is false and d = true",
            &["flag is false", "b is true", "c is false", "d Equal true"],
        );
        check("d >= date '2024-01-01'", &["d AtLeast '2024-01-01'::Date"]);
        check(
            "d < '2024-01-01'::timestamp and e > $2::timestamptz",
            &[
                "d Less '2024-01-01'::Timestamp",
                "e Greater $2::Timestamptz",
            ],
        );
        check(
            "t = 'x'::text and n = 5::bigint",
            &["t Equal 'x'::Text", "n Equal 5::Int8"],
        );
    }

    #[test]
    fn everything_else_is_left_to_postgres() {
        for condition in [
            "a = b",
            "a + 1 = 5",
            "a <> 5",
            "not (a = 5)",
            "a = 5 or a = 6",
            "a not in (1, 2)",
            "a not between 1 and 2",
            "a between symmetric 2 and 1",
            "a = all ('{1}')",
            "a < any ('{1}')",
            "a is null",
            "a is not true",
            "a is distinct from 5",
            "a like 'x'",
            "a = 'x' collate \"C\"",
            "a collate \"C\" = 'x'",
            "a = lower('X')",
            "a = 'x'::varchar(1)",
            "a = 'x'::char(3)",
            "a = 5::numeric(3, 1)",
            "a = '5'::s.int4",
            "a operator(s.=) 5",
            "other.a = 5",
            "t.i.a = 5",
            "i.* = row(1)",
            "(a, b) = (1, 2)",
            "(a, b) in ((1, 2))",
            "a = (select 1)",
            "a in (select 1)",
            "a = any (array[[1], [2]])",
            "a = any ('{1}'::int[][])",
            "a = -(5::int)",
            "a[1] = 5",
            "true",
            "$2",
            "a = B'01'",
        ] {
            assert_eq!(recognised(condition), [""; 0], "{condition}");
        }
        assert_eq!(
            recognised("a = b and c = 1 and (d = 1 or e = 2)"),
            ["c Equal 1"]
        );
    }

    #[test]
    fn long_lists_are_left_to_postgres() {
        let list = vec!["1"; MAX_VALUES + 1].join(", ");
        assert_eq!(recognised(&format!("a in ({list})")), [""; 0]);
        assert_eq!(recognised(&format!("a = any (array[{list}])")), [""; 0]);
    }
}
