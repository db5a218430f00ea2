//! Whole expressions, made up at random, against three-valued logic.

use super::*;

/// A boolean expression over `i4`, `b` and `t`, as SQL has it.
#[derive(Clone, Debug)]
enum Expression {
    /// `i4 <operator> number`, a number of halves.
    Compare(&'static str, Option<i8>),
    Between(Option<i8>, Option<i8>, bool),
    In(Vec<Option<i8>>, bool),
    /// `i4 IS [NOT] DISTINCT FROM number`
    Distinct(Option<i8>, bool),
    /// `t = …`, `t <> …`
    Text(Option<u8>, bool),
    Flag,
    /// `b IS [NOT] TRUE | FALSE | UNKNOWN`
    Flagged(Option<bool>, bool),
    Null(&'static str, bool),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

/// A row's `i4`, `b` and `t`.
type Row = (Option<i8>, Option<bool>, Option<u8>);

impl Expression {
    fn sql(&self) -> String {
        let halves = |number: &Option<i8>| match number {
            Some(number) if number % 2 == 0 => (number / 2).to_string(),
            Some(number) => format!("{:.1}", f64::from(*number) / 2.0),
            None => "null".into(),
        };
        let not = |negated: &bool| if *negated { "not " } else { "" };
        match self {
            Self::Compare(operator, number) => format!("i4 {operator} {}", halves(number)),
            Self::Between(low, high, negated) => {
                format!(
                    "i4 {}between {} and {}",
                    not(negated),
                    halves(low),
                    halves(high)
                )
            }
            Self::In(list, negated) => {
                let list: Vec<_> = list.iter().map(halves).collect();
                format!("i4 {}in ({})", not(negated), list.join(", "))
            }
            Self::Distinct(number, negated) => {
                format!("i4 is {}distinct from {}", not(negated), halves(number))
            }
            Self::Text(text, negated) => {
                let operator = if *negated { "<>" } else { "=" };
                let text = text.map_or("null".into(), |text| format!("'{text}'"));
                format!("t {operator} {text}")
            }
            Self::Flag => "b".into(),
            Self::Flagged(value, negated) => {
                let value = value.map_or("unknown".into(), |value| value.to_string());
                format!("b is {}{value}", not(negated))
            }
            Self::Null(column, negated) => format!("{column} is {}null", not(negated)),
            Self::Not(inner) => format!("not ({})", inner.sql()),
            Self::And(a, b) => format!("({} and {})", a.sql(), b.sql()),
            Self::Or(a, b) => format!("({} or {})", a.sql(), b.sql()),
        }
    }

    /// True, false, or neither.
    fn holds(&self, row: &Row) -> Option<bool> {
        let (int, flag, text) = row;
        let compare = |operator: &str, number: &Option<i8>| {
            let order = (int.as_ref()? * 2).cmp(number.as_ref()?);
            Some(match operator {
                "=" => order.is_eq(),
                "<>" => order.is_ne(),
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                _ => order.is_ge(),
            })
        };
        let and = |a: Option<bool>, b: Option<bool>| match (a, b) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            (_, _) => None,
        };
        let not = |value: Option<bool>, negated: bool| value.map(|value| value != negated);
        let or = |a, b| not(and(not(a, true), not(b, true)), true);
        match self {
            Self::Compare(operator, number) => compare(operator, number),
            Self::Between(low, high, negated) => {
                not(and(compare(">=", low), compare("<=", high)), *negated)
            }
            Self::In(list, negated) => {
                let any = list.iter().map(|number| compare("=", number));
                not(any.fold(Some(false), or), *negated)
            }
            Self::Distinct(wanted, negated) => {
                let twice = int.map(|int| 2 * int);
                Some((twice != *wanted) != *negated)
            }
            Self::Text(wanted, negated) => {
                let (text, wanted) = ((*text)?, (*wanted)?);
                Some((text == wanted) != *negated)
            }
            Self::Flag => *flag,
            Self::Flagged(value, negated) => Some((flag == value) != *negated),
            Self::Null(column, negated) => {
                let is_null = match *column {
                    "i4" => int.is_none(),
                    "b" => flag.is_none(),
                    _ => text.is_none(),
                };
                Some(is_null != *negated)
            }
            Self::Not(inner) => not(inner.holds(row), true),
            Self::And(a, b) => and(a.holds(row), b.holds(row)),
            Self::Or(a, b) => or(a.holds(row), b.holds(row)),
        }
    }

    /// How many groups of conditions follow from its being `wanted`.
    fn groups(&self, wanted: bool) -> usize {
        match self {
            Self::Not(inner) => inner.groups(!wanted),
            Self::And(a, b) if wanted => a.groups(true) + b.groups(true),
            Self::And(a, b) => a.groups(false) * b.groups(false),
            Self::Or(a, b) if wanted => a.groups(true) * b.groups(true),
            Self::Or(a, b) => a.groups(false) + b.groups(false),
            Self::Compare(..)
            | Self::Between(..)
            | Self::In(..)
            | Self::Distinct(..)
            | Self::Text(..)
            | Self::Flag
            | Self::Flagged(..)
            | Self::Null(..) => 1,
        }
    }
}

fn expression() -> impl Strategy<Value = Expression> {
    let number = || proptest::option::weighted(0.9, -3_i8..8);
    let operator = prop_oneof![
        Just("="),
        Just("<>"),
        Just("<"),
        Just("<="),
        Just(">"),
        Just(">=")
    ];
    let leaf = prop_oneof![
        4 => (operator, number()).prop_map(|(operator, number)| Expression::Compare(operator, number)),
        2 => (number(), number(), any::<bool>()).prop_map(|(low, high, negated)| Expression::Between(low, high, negated)),
        2 => (proptest::collection::vec(number(), 1..4), any::<bool>()).prop_map(|(list, negated)| Expression::In(list, negated)),
        2 => (number(), any::<bool>()).prop_map(|(number, negated)| Expression::Distinct(number, negated)),
        2 => (proptest::option::weighted(0.9, 0_u8..3), any::<bool>()).prop_map(|(text, negated)| Expression::Text(text, negated)),
        1 => Just(Expression::Flag),
        2 => (any::<Option<bool>>(), any::<bool>()).prop_map(|(value, negated)| Expression::Flagged(value, negated)),
        2 => (prop_oneof![Just("i4"), Just("b"), Just("t")], any::<bool>()).prop_map(|(column, negated)| Expression::Null(column, negated)),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let two = || {
            (
                inner.clone().prop_map(Box::new),
                inner.clone().prop_map(Box::new),
            )
        };
        prop_oneof![
            2 => inner.clone().prop_map(|inner| Expression::Not(Box::new(inner))),
            1 => two().prop_map(|(a, b)| Expression::And(a, b)),
            1 => two().prop_map(|(a, b)| Expression::Or(a, b)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn no_row_that_meets_an_expression_is_left_out(expression in expression()) {
        let sql = expression.sql();
        let filter = filter(&sql, &[], &[]);
        let ints = (0_i8..4).map(Some).chain([None]);
        for int in ints {
            for flag in [Some(false), Some(true), None] {
                for text in [Some(0_u8), Some(1), None] {
                    let allowed = filter.allows(|column| match column {
                        0 => int.map_or(Ordinal::NULL, |int| Ordinal::of_int(int.into())),
                        7 => flag.map_or(Ordinal::NULL, Ordinal::of_bool),
                        4 => text.map_or(Ordinal::NULL, |text| Ordinal::of_bytes(text.to_string().as_bytes())),
                        other => panic!("{other}"),
                    });
                    let holds = expression.holds(&(int, flag, text)) == Some(true);
                    prop_assert!(allowed || !holds, "{} {:?} {:?} {:?}", sql, int, flag, text);
                    if expression.groups(true) <= 32 { // beyond it some are not used
                        prop_assert_eq!(allowed, holds, "{} {:?} {:?} {:?}", sql, int, flag, text);
                    }
                }
            }
        }
    }
}
