//! Constants against values: whatever PostgreSQL compares as true lies in the range.

use proptest::prelude::*;

use super::*;
use crate::index::ordinal::tests::numeric;

const COMPARISONS: [Comparison; 5] = [
    Comparison::Equal,
    Comparison::Less,
    Comparison::AtMost,
    Comparison::Greater,
    Comparison::AtLeast,
];

/// Whether a value compares so with a constant.
pub(in crate::index) fn holds<T: PartialOrd>(
    comparison: Comparison,
    value: &T,
    constant: &T,
) -> bool {
    match comparison {
        Comparison::Equal => value == constant,
        Comparison::Less => value < constant,
        Comparison::AtMost => value <= constant,
        Comparison::Greater => value > constant,
        Comparison::AtLeast => value >= constant,
    }
}

/// Whether a range has the value, in binary form.
fn has(range: (Ordinal, Ordinal), kind: ValueKind, value: &[u8]) -> bool {
    let ordinal = Ordinal::of_binary(kind, value).unwrap();
    range.0 <= ordinal && ordinal <= range.1
}

#[test]
fn moments_are_read_in_iso_form_only() {
    let check = |kind, text: &str, expected| {
        let read = match Constant::from_text(kind, text) {
            Some(Constant::Date(days)) => Some(i64::from(days)),
            Some(Constant::Timestamp(at) | Constant::Timestamptz(at)) => Some(at),
            Some(other) => panic!("{text}: {other:?}"),
            None => None,
        };
        assert_eq!(read, expected, "{text}");
    };
    check(ValueKind::Date, "2000-01-01", Some(0));
    check(ValueKind::Date, " 2000-03-01 ", Some(60));
    check(ValueKind::Date, "1999-12-31", Some(-1));
    check(ValueKind::Date, "2024-02-29", Some(8_825));
    check(ValueKind::Date, "1970-01-01", Some(-10_957));
    check(ValueKind::Date, "0001-01-01", Some(-730_119));
    check(ValueKind::Date, "9999-12-31", Some(2_921_939));
    for not_iso in [
        "2023-02-29",
        "01/02/2000",
        "2000-1-1",
        "today",
        "2000-01-01 BC",
        "0000-01-01",
        "20000101",
        "2000-13-01",
    ] {
        check(ValueKind::Date, not_iso, None);
    }
    check(ValueKind::Timestamp, "2000-01-02", Some(MICROSECONDS_A_DAY));
    check(ValueKind::Timestamp, "2000-01-01 00:01", Some(60_000_000));
    check(
        ValueKind::Timestamp,
        "2000-01-01T00:00:01.5",
        Some(1_500_000),
    );
    check(ValueKind::Timestamp, "1999-12-31 23:59:59.999999", Some(-1));
    for other in [
        "2000-01-01 24:00:00",
        "2000-01-01 00:00:60",
        "2000-01-01 00:00:00+00",
        "2000-01-01 1:00",
        "2000-01-01 00:00:00.1234567",
        "now",
    ] {
        check(ValueKind::Timestamp, other, None);
    }
    check(ValueKind::Timestamptz, "2000-01-01 02:00+02", Some(0));
    check(
        ValueKind::Timestamptz,
        "2000-01-01 00:00:00-03:30",
        Some(12_600_000_000),
    );
    check(ValueKind::Timestamptz, "2000-01-01T00:00:00Z", Some(0));
    for local in [
        "2000-01-01 00:00",
        "2000-01-01",
        "2000-01-01 00:00 Europe/Berlin",
        "2000-01-01 00:00+0230",
    ] {
        check(ValueKind::Timestamptz, local, None);
    }
}

#[test]
fn only_what_is_compared_as_numbers_is_compared_as_numbers() {
    let decimal = |text: &str| Constant::Decimal(text.into());
    let range = |constant: Constant, kind, comparison| constant.range(kind, comparison);
    let int = Ordinal::of_int;
    assert_eq!(
        range(decimal("5.5"), ValueKind::Int4, Comparison::Less),
        Some((Ordinal::LEAST, int(5)))
    );
    assert_eq!(
        range(decimal("-5.5"), ValueKind::Int4, Comparison::Greater),
        Some((int(-5), Ordinal::GREATEST))
    );
    let (low, high) = range(decimal("5.5"), ValueKind::Int4, Comparison::Equal).unwrap();
    assert!(low > high, "no integer is 5.5");
    assert_eq!(
        range(decimal("5.0"), ValueKind::Int4, Comparison::Less),
        Some((Ordinal::LEAST, int(4)))
    );
    assert_eq!(
        range(decimal("1e400"), ValueKind::Int8, Comparison::Less),
        None
    );
    assert_eq!(
        range(Constant::Float(5.0), ValueKind::Int4, Comparison::Equal),
        None,
        "compared as doubles"
    );
    assert_eq!(
        range(
            Constant::Text(b"5".into()),
            ValueKind::Int4,
            Comparison::Equal
        ),
        None
    );
    assert_eq!(
        range(
            Constant::Text(b"a".into()),
            ValueKind::Text,
            Comparison::Less
        ),
        None
    );
    assert_eq!(
        range(
            Constant::Timestamptz(0),
            ValueKind::Timestamp,
            Comparison::Less
        ),
        None
    );
    assert_eq!(
        range(Constant::Date(1), ValueKind::Timestamptz, Comparison::Less),
        None
    );
    assert_eq!(
        range(Constant::Date(1), ValueKind::Timestamp, Comparison::AtLeast),
        Some((int(MICROSECONDS_A_DAY), Ordinal::GREATEST))
    );
    assert_eq!(
        range(Constant::Bool(true), ValueKind::Bool, Comparison::Less),
        Some((Ordinal::LEAST, int(0)))
    );
    assert_eq!(
        range(Constant::Int(i64::MIN), ValueKind::Int8, Comparison::Less),
        Some(EMPTY)
    );
}

#[test]
fn texts_are_read_strictly() {
    let read = Constant::from_text;
    assert_eq!(read(ValueKind::Int4, " 12 "), Some(Constant::Int(12)));
    for odd in [
        "0x10",
        "1_000",
        "",
        "12a",
        "1.5",
        "99999999999999999999",
        "\t1",
    ] {
        assert_eq!(read(ValueKind::Int8, odd), None, "{odd}");
    }
    for odd in ["NaN", "inf", "infinity", "1e999", "0x1p3", ".", "1e", "--1"] {
        assert_eq!(read(ValueKind::Float8, odd), None, "{odd}");
    }
    assert_eq!(
        read(ValueKind::Float8, "-1.5e2"),
        Some(Constant::Float(-150.0))
    );
    assert_eq!(read(ValueKind::Float8, ".5"), Some(Constant::Float(0.5)));
    assert_eq!(
        read(ValueKind::Numeric, "007.50"),
        Some(Constant::Decimal("007.50".into()))
    );
    assert_eq!(read(ValueKind::Bool, "TRUE"), Some(Constant::Bool(true)));
    assert_eq!(read(ValueKind::Bool, "yes"), None);
    assert_eq!(
        read(ValueKind::Text, " a "),
        Some(Constant::Text(b" a ".into()))
    );
    let id = "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let uuid = read(ValueKind::Uuid, id).unwrap();
    assert_eq!(uuid, read(ValueKind::Uuid, &id.replace('-', "")).unwrap());
    assert_eq!(
        read(ValueKind::Uuid, "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"),
        None
    );
    assert_eq!(
        Constant::from_number("9223372036854775808"),
        Some(Constant::Decimal("9223372036854775808".into()))
    );
    assert_eq!(Constant::from_number("0x1F"), None);
}

proptest! {
    #[test]
    fn integers_and_integers(value in prop_oneof![any::<i64>(), -3_i64..3, Just(i64::MAX), Just(i64::MIN)], constant in prop_oneof![any::<i64>(), -3_i64..3, Just(i64::MAX), Just(i64::MAX - 1), Just(i64::MIN)]) {
        for comparison in COMPARISONS {
            let range = Constant::Int(constant).range(ValueKind::Int8, comparison).unwrap();
            let holds = holds(comparison, &value, &constant);
            let found = has(range, ValueKind::Int8, &value.to_be_bytes());
            prop_assert!(!holds || found);
            // Nothing too many either, but at the very end.
            prop_assert!(holds || !found || value.max(constant) >= i64::MAX - 1);
        }
    }

    #[test]
    fn integers_and_decimals(value in -30_i32..30, constant in -300_i32..300, digits in 1_usize..4) {
        let sign = if constant < 0 { "-" } else { "" };
        let text = format!("{sign}{}.{}{}", constant.abs() / 10, constant.abs() % 10, "0".repeat(digits));
        let constant_value: f64 = text.parse().unwrap();
        for comparison in COMPARISONS {
            let range = Constant::Decimal(text.clone()).range(ValueKind::Int4, comparison).unwrap();
            prop_assert_eq!(holds(comparison, &f64::from(value), &constant_value), has(range, ValueKind::Int4, &value.to_be_bytes()), "{} {:?} {}", value, comparison, text);
        }
    }

    #[test]
    fn floats(value: f32, constant in prop_oneof![any::<f64>(), -2.0..2.0_f64, any::<f32>().prop_map(f64::from)]) {
        prop_assume!(!value.is_nan() && !constant.is_nan());
        #[allow(clippy::cast_possible_truncation)]
        let rounded = f64::from(constant as f32);
        for comparison in COMPARISONS {
            let single = Constant::Float(constant).range(ValueKind::Float4, comparison).unwrap();
            let double = Constant::Float(constant).range(ValueKind::Float8, comparison).unwrap();
            for constant in [constant, rounded] {
                prop_assert!(!holds(comparison, &f64::from(value), &constant) || has(single, ValueKind::Float4, &value.to_be_bytes()));
            }
            let value = f64::from(value);
            prop_assert_eq!(holds(comparison, &value, &constant), has(double, ValueKind::Float8, &value.to_be_bytes()));
        }
    }

    #[test]
    fn numerics(value in -100_000_i64..100_000, constant in -100_000_i64..100_000, shift in 0_usize..5) {
        let decimal = |number: i64| {
            let digits = format!("{:06}", number.unsigned_abs());
            let (whole, fraction) = digits.split_at(digits.len() - shift);
            format!("{}{whole}.{fraction}", if number < 0 { "-" } else { "" })
        };
        let text = decimal(constant).trim_end_matches('.').to_owned();
        for comparison in COMPARISONS {
            for constant_of in [Constant::Decimal(text.clone()), Constant::from_binary(ValueKind::Numeric, &numeric(&text)).unwrap()] {
                let range = constant_of.range(ValueKind::Numeric, comparison).unwrap();
                let holds = holds(comparison, &value, &constant);
                let found = has(range, ValueKind::Numeric, &numeric(&decimal(value)));
                prop_assert!(!holds || found);
                prop_assert!(holds || !found || value == constant);
            }
        }
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,40}", odd in "[-+0-9.eE: TZ]{0,30}", bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
        for oid in [16, 21, 23, 20, 700, 701, 1700, 25, 2950, 1082, 1114, 1184] {
            let kind = ValueKind::from_oid(oid).unwrap();
            for constant in [Constant::from_text(kind, &text), Constant::from_text(kind, &odd), Constant::from_binary(kind, &bytes)] {
                for comparison in COMPARISONS {
                    if let Some(constant) = &constant {
                        let _ = constant.range(kind, comparison);
                        let _ = constant.range(ValueKind::Int4, comparison);
                    }
                }
            }
        }
    }
}
