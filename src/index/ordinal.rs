//! An INCLUDE column's value in binary form → one 64-bit number that a filter compares. Pure; trusts nothing it reads.
//!
//! A filter only has to name every row that meets it, and may name more: PostgreSQL checks each row again. So ordinals need
//! not tell all values apart. They keep the order of numbers and times, and of text and uuid they are hashes.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::sync::LazyLock;

use crate::catalog::ValueKind;

/// Hashes with a key that each process draws anew: nobody can look for two values that have one hash, so that a condition
/// against the one would leave out the other.
pub(crate) fn hasher() -> DefaultHasher {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.build_hasher()
}

/// What a filter compares instead of a value. No value has NULL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordinal(u64);

impl Ordinal {
    /// At most every value's.
    pub const LEAST: Self = Self(0);
    /// At least every value's.
    pub const GREATEST: Self = Self(u64::MAX - 2);
    /// NULL's. The number beyond it stands for nothing at all where ordinals are kept.
    pub const NULL: Self = Self(u64::MAX - 1);

    fn new(number: u64) -> Self {
        Self(number.min(Self::GREATEST.0))
    }

    /// The number, never `u64::MAX`.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next greater one: only values beyond this one's have it, where no other value shares this one's.
    pub(crate) fn next(self) -> Self {
        Self::new(self.0 + 1)
    }

    /// The next smaller one.
    pub(crate) fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    pub(crate) fn of_bool(value: bool) -> Self {
        Self::of_int(i64::from(value))
    }

    pub(crate) fn of_int(value: i64) -> Self {
        Self::new(value.cast_unsigned() ^ (1 << 63))
    }

    /// As PostgreSQL orders them: −0 equals 0, and NaN is the greatest and equals itself.
    pub(crate) fn of_float(value: f64) -> Self {
        let value = if value == 0.0 {
            0.0
        } else if value.is_nan() {
            f64::NAN.copysign(1.0)
        } else {
            value
        };
        let bits = value.to_bits();
        Self::new(if bits >> 63 == 0 {
            bits ^ (1 << 63)
        } else {
            !bits
        })
    }

    /// A floating-point number with this ordinal: NaN below and above all others.
    pub(crate) fn float(self) -> f64 {
        f64::from_bits(if self.0 >> 63 == 1 {
            self.0 ^ (1 << 63)
        } else {
            !self.0
        })
    }

    pub(crate) fn of_bytes(value: &[u8]) -> Self {
        let mut hasher = hasher();
        hasher.write(value);
        Self::of_hash(hasher.finish())
    }

    pub(crate) fn of_hash(hash: u64) -> Self {
        Self::new(hash)
    }

    /// The ordinal of a column's value; `None` if the bytes are not a value of that kind.
    pub(crate) fn of_binary(kind: ValueKind, value: &[u8]) -> Option<Self> {
        Some(match kind {
            ValueKind::Bool => Self::of_bool(*value.first()? != 0),
            ValueKind::Int2 => Self::of_int(i16::from_be_bytes(value.try_into().ok()?).into()),
            ValueKind::Int4 | ValueKind::Date => {
                Self::of_int(i32::from_be_bytes(value.try_into().ok()?).into())
            }
            ValueKind::Int8 | ValueKind::Timestamp | ValueKind::Timestamptz => {
                Self::of_int(i64::from_be_bytes(value.try_into().ok()?))
            }
            ValueKind::Float4 => Self::of_float(f32::from_be_bytes(value.try_into().ok()?).into()),
            ValueKind::Float8 => Self::of_float(f64::from_be_bytes(value.try_into().ok()?)),
            ValueKind::Numeric => Self::of_float(numeric_text(value)?.parse().ok()?),
            ValueKind::Text | ValueKind::Uuid => Self::of_bytes(value),
        })
    }
}

/// Powers of 10,000 beyond which a double is infinite or zero: 10 to the 400.
const FAR: i32 = 100;

/// A `numeric` in binary form as text that Rust and PostgreSQL read alike: digits and a point, `NaN`, `inf` or `-inf`.
pub(crate) fn numeric_text(value: &[u8]) -> Option<String> {
    let words: Vec<u16> = value
        .chunks_exact(2)
        .map(|word| u16::from_be_bytes([word[0], word[1]]))
        .collect();
    let [count, weight, sign, _scale, digits @ ..] = words.as_slice() else {
        return None;
    };
    let negative = match sign {
        0x0000 => false,
        0x4000 => true,
        0xC000 => return Some("NaN".into()),
        0xD000 => return Some("inf".into()),
        0xF000 => return Some("-inf".into()),
        _ => return None,
    };
    if digits.len() != usize::from(*count) || digits.iter().any(|digit| *digit > 9_999) {
        return None;
    }
    // Digits are of base 10,000; the first is that of 10,000 to the power of `weight`.
    let weight = i32::from(weight.cast_signed());
    if weight > FAR && *count > 0 {
        return Some(if negative { "-inf" } else { "inf" }.into());
    }
    if weight < -FAR {
        return Some("0".into());
    }
    let mut text = String::from(if negative { "-0" } else { "0" });
    let mut at = weight.max(-1);
    let digit = |at: i32| {
        let index = usize::try_from(weight - at).ok();
        index.and_then(|index| digits.get(index)).unwrap_or(&0)
    };
    while at >= 0 {
        text.push_str(&format!("{:04}", digit(at)));
        at -= 1;
    }
    text.push('.');
    let last = weight - i32::from(*count);
    while at > last {
        text.push_str(&format!("{:04}", digit(at)));
        at -= 1;
    }
    text.push('0');
    Some(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The binary form of a decimal number, as PostgreSQL makes it.
    pub(in crate::index) fn numeric(text: &str) -> Vec<u8> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
        let fraction = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
        let digits = |text: &str| -> Vec<u16> {
            let chunks = text.as_bytes().chunks(4);
            chunks
                .map(|four| std::str::from_utf8(four).unwrap().parse().unwrap())
                .collect()
        };
        let mut all = digits(&whole);
        let mut weight = i16::try_from(all.len()).unwrap() - 1;
        all.extend(digits(&fraction));
        while all.first() == Some(&0) {
            all.remove(0);
            weight -= 1;
        }
        while all.last() == Some(&0) {
            all.pop();
        }
        let count = u16::try_from(all.len()).unwrap();
        let sign = if negative { 0x4000 } else { 0 };
        let head = [count, weight.cast_unsigned(), sign, 0];
        let words = head.into_iter().chain(all);
        words.flat_map(u16::to_be_bytes).collect()
    }

    #[test]
    fn numerics_are_read() {
        let check = |text: &str, expected: f64| {
            let read: f64 = numeric_text(&numeric(text)).unwrap().parse().unwrap();
            assert_eq!(read, expected, "{text}");
        };
        check("0", 0.0);
        check("1", 1.0);
        check("-1", -1.0);
        check("10000", 10_000.0);
        check("12345678.9012", 12_345_678.901_2);
        check("0.0001", 0.0001);
        check("-0.00000001", -0.000_000_01);
        check("120000000000", 120_000_000_000.0);
        // as `select numeric_send(…)` prints them
        let captured = |hex: &[u8], expected: &str| {
            let read: f64 = numeric_text(hex).unwrap().parse().unwrap();
            assert_eq!(read, expected.parse::<f64>().unwrap());
        };
        captured(b"\0\x02\0\0\0\0\0\x02\0\x0c\x0d\x48", "12.34");
        captured(b"\0\x01\xff\xff\x40\0\0\x03\0\x0a", "-0.001");
        captured(b"\0\0\0\0\xd0\0\0\x20", "inf");
        assert_eq!(numeric_text(b"\0\0\0\0\xc0\0\0\0").as_deref(), Some("NaN"));
        for malformed in [
            &b""[..],
            b"\0\x02\0\0\0\0\0\0\0\x01",
            b"\0\0\0\0\x12\x34\0\0",
        ] {
            assert_eq!(numeric_text(malformed), None);
        }
    }

    #[test]
    fn floats_are_in_postgress_order() {
        let values = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -f64::MIN_POSITIVE,
            0.0,
            f64::MIN_POSITIVE,
            1.5,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        let ordinals: Vec<Ordinal> = values.into_iter().map(Ordinal::of_float).collect();
        assert!(ordinals.is_sorted_by(|a, b| a < b), "{ordinals:?}");
        assert_eq!(Ordinal::of_float(-0.0), Ordinal::of_float(0.0));
        assert_eq!(Ordinal::of_float(-f64::NAN), Ordinal::of_float(f64::NAN));
        assert!(*ordinals.last().unwrap() <= Ordinal::GREATEST);
    }

    #[test]
    fn malformed_values_have_none() {
        for (kind, value) in [
            (ValueKind::Bool, &b""[..]),
            (ValueKind::Int4, b"\0\0\0"),
            (ValueKind::Int8, b"\0\0\0\0"),
            (ValueKind::Float8, b"\0\0\0\0"),
            (ValueKind::Numeric, b"\0"),
            (ValueKind::Date, b""),
            (ValueKind::Timestamp, b"\0\0\0\0\0\0\0\0\0"),
        ] {
            assert_eq!(Ordinal::of_binary(kind, value), None, "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn order_is_kept(a: i64, b: i64, x: f64, y: f64) {
            let int = |value: i64| Ordinal::of_binary(ValueKind::Int8, &value.to_be_bytes()).unwrap();
            prop_assert!(a > b || int(a) <= int(b));
            prop_assert!(a == b || a.max(b) >= i64::MAX - 1 || int(a) != int(b));
            let float = |value: f64| Ordinal::of_binary(ValueKind::Float8, &value.to_be_bytes()).unwrap();
            prop_assert!(x > y || float(x) <= float(y));
            prop_assert!(x == y || float(x) != float(y));
        }

        #[test]
        fn numeric_order_is_kept(a in -1_000_000_000_000_i64..1_000_000_000_000, b in -20_000_i64..20_000, shift in 0_usize..9) {
            let decimal = |number: i64| {
                let sign = if number < 0 { "-" } else { "" };
                let digits = format!("{:010}", number.unsigned_abs());
                let (whole, fraction) = digits.split_at(digits.len() - shift);
                format!("{sign}{whole}.{fraction}")
            };
            let ordinal = |number: i64| Ordinal::of_binary(ValueKind::Numeric, &numeric(&decimal(number))).unwrap();
            prop_assert_eq!(a.cmp(&b), ordinal(a).cmp(&ordinal(b)));
            let read: f64 = numeric_text(&numeric(&decimal(a))).unwrap().parse().unwrap();
            prop_assert_eq!(read, decimal(a).parse::<f64>().unwrap());
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for kind in ValueKind::all() {
                let _ = Ordinal::of_binary(kind, &bytes);
            }
        }
    }
}
