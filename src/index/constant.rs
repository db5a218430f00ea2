//! A constant of a condition, as text or in binary form → the ordinals of a column's values that are equal to it, at most it
//! and at least it. Pure. What it cannot read as PostgreSQL surely would, it does not read: the condition is then not used.

use super::ordinal::{Ordinal, numeric_text};
use crate::catalog::{Comparison, ValueKind};

/// A constant with the type that it has in the statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// `boolean`
    Bool(bool),
    /// `smallint`, `integer`, `bigint`
    Int(i64),
    /// `numeric`, as text of a number
    Decimal(String),
    /// `real`, `double precision`
    Float(f64),
    /// `text`, `character varying`
    Text(Vec<u8>),
    /// `uuid`
    Uuid([u8; 16]),
    /// `date`: days since 2000-01-01
    Date(i32),
    /// `timestamp`: microseconds since 2000-01-01
    Timestamp(i64),
    /// `timestamptz`: microseconds since 2000-01-01 UTC
    Timestamptz(i64),
}

/// Where a constant lies among a column's values: those at most it have ordinals up to `high`, those at least it from `low`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    low: Ordinal,
    high: Ordinal,
    /// Exactly the values equal to the constant have the ordinal `low` = `high`.
    exact: bool,
}

const MICROSECONDS_A_DAY: i64 = 86_400_000_000;

impl Constant {
    /// Reads a text that PostgreSQL takes for a value of that type; only forms that no setting gives another meaning.
    #[must_use]
    pub fn from_text(kind: ValueKind, text: &str) -> Option<Self> {
        if kind == ValueKind::Text {
            return Some(Self::Text(text.as_bytes().into()));
        }
        let text = text.trim_matches(' ');
        match kind {
            ValueKind::Text => None, // dealt with
            ValueKind::Bool => match text.to_ascii_lowercase().as_str() {
                "t" | "true" => Some(Self::Bool(true)),
                "f" | "false" => Some(Self::Bool(false)),
                _ => None,
            },
            ValueKind::Int2 | ValueKind::Int4 | ValueKind::Int8 => {
                is_number(text).then(|| text.parse().ok().map(Self::Int))?
            }
            ValueKind::Numeric => is_number(text).then(|| Self::Decimal(text.into())),
            ValueKind::Float4 => finite(is_number(text).then(|| text.parse::<f32>().ok())??.into()),
            ValueKind::Float8 => finite(is_number(text).then(|| text.parse::<f64>().ok())??),
            ValueKind::Uuid => uuid(text).map(Self::Uuid),
            ValueKind::Date => date(text).map(Self::Date),
            ValueKind::Timestamp => timestamp(text).map(Self::Timestamp),
            ValueKind::Timestamptz => timestamptz(text).map(Self::Timestamptz),
        }
    }

    /// A number as SQL text has it: an integer, if it fits 64 bits, else a `numeric`.
    #[must_use]
    pub fn from_number(text: &str) -> Option<Self> {
        if !is_number(text) {
            return None;
        }
        Some(
            text.parse()
                .map_or_else(|_| Self::Decimal(text.into()), Self::Int),
        )
    }

    /// Reads the binary form of a value of that type.
    #[must_use]
    pub fn from_binary(kind: ValueKind, value: &[u8]) -> Option<Self> {
        Some(match kind {
            ValueKind::Bool => match value {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                _ => return None,
            },
            ValueKind::Int2 => Self::Int(i16::from_be_bytes(value.try_into().ok()?).into()),
            ValueKind::Int4 => Self::Int(i32::from_be_bytes(value.try_into().ok()?).into()),
            ValueKind::Int8 => Self::Int(i64::from_be_bytes(value.try_into().ok()?)),
            ValueKind::Float4 => Self::Float(f32::from_be_bytes(value.try_into().ok()?).into()),
            ValueKind::Float8 => Self::Float(f64::from_be_bytes(value.try_into().ok()?)),
            ValueKind::Numeric => Self::Decimal(numeric_text(value)?),
            ValueKind::Text => Self::Text(value.into()),
            ValueKind::Uuid => Self::Uuid(value.try_into().ok()?),
            ValueKind::Date => Self::Date(i32::from_be_bytes(value.try_into().ok()?)),
            ValueKind::Timestamp => Self::Timestamp(i64::from_be_bytes(value.try_into().ok()?)),
            ValueKind::Timestamptz => Self::Timestamptz(i64::from_be_bytes(value.try_into().ok()?)),
        })
    }

    /// Where the constant lies among the values of a column of that kind; `None` where PostgreSQL would compare them in a
    /// way that ordinals do not follow, or not at all.
    pub(crate) fn bounds(&self, kind: ValueKind) -> Option<Bounds> {
        match (kind, self) {
            (ValueKind::Bool, Self::Bool(value)) => Some(Bounds::at(Ordinal::of_bool(*value))),
            (ValueKind::Int2 | ValueKind::Int4 | ValueKind::Int8, Self::Int(value)) => {
                Some(Bounds::at(Ordinal::of_int(*value)))
            }
            (ValueKind::Int2 | ValueKind::Int4 | ValueKind::Int8, Self::Decimal(text)) => {
                among_integers(text)
            }
            (ValueKind::Float4 | ValueKind::Float8 | ValueKind::Numeric, Self::Int(value)) => {
                // Converted as the server does: to the nearest.
                #[allow(clippy::cast_precision_loss)]
                Some(Bounds::near(kind, *value as f64))
            }
            (ValueKind::Float4 | ValueKind::Float8 | ValueKind::Numeric, Self::Decimal(text)) => {
                Some(Bounds::near(kind, text.parse().ok()?))
            }
            (ValueKind::Float4 | ValueKind::Float8 | ValueKind::Numeric, Self::Float(value)) => {
                Some(Bounds::near(kind, *value))
            }
            (ValueKind::Text, Self::Text(value)) => Some(Bounds::at(Ordinal::of_bytes(value))),
            (ValueKind::Uuid, Self::Uuid(value)) => Some(Bounds::at(Ordinal::of_bytes(value))),
            (ValueKind::Date, Self::Date(days)) => {
                Some(Bounds::at(Ordinal::of_int((*days).into())))
            }
            (ValueKind::Timestamp, Self::Timestamp(at))
            | (ValueKind::Timestamptz, Self::Timestamptz(at)) => {
                Some(Bounds::at(Ordinal::of_int(*at)))
            }
            (ValueKind::Timestamp, Self::Date(days)) => {
                let at = match *days {
                    i32::MIN => i64::MIN, // -infinity
                    i32::MAX => i64::MAX,
                    days => i64::from(days).checked_mul(MICROSECONDS_A_DAY)?,
                };
                Some(Bounds::at(Ordinal::of_int(at)))
            }
            (
                ValueKind::Bool
                | ValueKind::Int2
                | ValueKind::Int4
                | ValueKind::Int8
                | ValueKind::Float4
                | ValueKind::Float8
                | ValueKind::Numeric
                | ValueKind::Text
                | ValueKind::Uuid
                | ValueKind::Date
                | ValueKind::Timestamp
                | ValueKind::Timestamptz,
                _,
            ) => None,
        }
    }

    /// The ordinals of the values for which a comparison with the constant may hold. None at all is an empty range.
    #[must_use]
    pub fn range(&self, kind: ValueKind, comparison: Comparison) -> Option<(Ordinal, Ordinal)> {
        let bounds = self.bounds(kind)?;
        let below = if bounds.exact {
            bounds.high.previous()
        } else {
            bounds.high
        };
        let above = if bounds.exact {
            bounds.low.next()
        } else {
            bounds.low
        };
        match comparison {
            Comparison::Equal => Some((bounds.low, bounds.high)),
            _ if !kind.is_ordered() => None,
            // Nothing is below the least.
            Comparison::Less if bounds.exact && bounds.low == Ordinal::LEAST => Some(EMPTY),
            Comparison::Less => Some((Ordinal::LEAST, below)),
            Comparison::AtMost => Some((Ordinal::LEAST, bounds.high)),
            Comparison::Greater => Some((above, Ordinal::GREATEST)),
            Comparison::AtLeast => Some((bounds.low, Ordinal::GREATEST)),
        }
    }
}

/// The ranges of the values of a column of that kind that differ from all of these constants. Values that cannot be told from
/// one are among them; of texts and uuids a hash is told, which another has with a probability of 2⁻⁶⁴, and nobody can know which.
#[must_use]
pub fn others(kind: ValueKind, constants: &[Constant]) -> Option<Vec<(Ordinal, Ordinal)>> {
    let bounds: Option<Vec<Bounds>> = constants.iter().map(|one| one.bounds(kind)).collect();
    let mut points: Vec<Ordinal> = bounds?
        .into_iter()
        .filter_map(|bounds| bounds.exact.then_some(bounds.low))
        .collect();
    points.sort_unstable();
    let (mut ranges, mut from) = (Vec::with_capacity(points.len() + 1), Ordinal::LEAST);
    for point in points {
        if point > from {
            ranges.push((from, point.previous()));
        }
        from = point.next();
    }
    ranges.push((from, Ordinal::GREATEST));
    Some(ranges)
}

/// A range without ordinals.
pub(crate) const EMPTY: (Ordinal, Ordinal) = (Ordinal::GREATEST, Ordinal::LEAST);

impl Bounds {
    /// Of a constant that is one of the values.
    fn at(ordinal: Ordinal) -> Self {
        Self {
            low: ordinal,
            high: ordinal,
            exact: ordinal < Ordinal::GREATEST, // which several values share
        }
    }

    /// Of a constant that is compared as a floating-point number. With a `real` column it may be rounded to one first.
    fn near(kind: ValueKind, value: f64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // rounding is meant
        let rounded = f64::from(value as f32);
        let other = if kind == ValueKind::Float4 {
            rounded
        } else {
            value
        };
        let (a, b) = (Ordinal::of_float(value), Ordinal::of_float(other));
        Self {
            low: a.min(b),
            high: a.max(b),
            exact: a == b && a < Ordinal::GREATEST && kind != ValueKind::Numeric,
        }
    }
}

/// Of a number among integers: between two of them, if it is none. Those beyond 64 bits lie at the end.
fn among_integers(text: &str) -> Option<Bounds> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !(whole.to_owned() + fraction)
        .bytes()
        .all(|byte| byte.is_ascii_digit())
    {
        return None; // an exponent, infinity, NaN
    }
    let whole = whole.trim_start_matches('0');
    let beyond = whole.len() > 19;
    let magnitude: i128 = match whole {
        "" => 0,
        _ if beyond => i128::from(i64::MAX) + 2,
        digits => digits.parse().ok()?,
    };
    let has_fraction = i128::from(fraction.bytes().any(|byte| byte != b'0'));
    let (floor, ceiling) = if negative {
        (-magnitude - has_fraction, -magnitude)
    } else {
        (magnitude, magnitude + has_fraction)
    };
    let range = i128::from(i64::MIN)..=i128::from(i64::MAX);
    let inside = range.contains(&floor) && range.contains(&ceiling);
    let ordinal = |value: i128| {
        let value = value.clamp(*range.start(), *range.end());
        i64::try_from(value).ok().map(Ordinal::of_int)
    };
    let (low, high) = (ordinal(ceiling)?, ordinal(floor)?);
    Some(Bounds {
        low,
        high,
        exact: inside && low == high && low < Ordinal::GREATEST,
    })
}

/// Digits with a sign, a point, an exponent.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    digits(whole)
        && digits(fraction)
        && digits(exponent)
        && !exponent.is_empty()
        && whole.len() + fraction.len() > 0
}

/// What overflows, PostgreSQL refuses.
fn finite(value: f64) -> Option<Constant> {
    value.is_finite().then_some(Constant::Float(value))
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    if groups != [8, 4, 4, 4, 12] && groups != [32] {
        return None;
    }
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    bytes.try_into().ok()
}

/// A number of exactly so many digits, at the start of a text.
fn digits(text: &str, count: usize) -> Option<(i32, &str)> {
    let (number, rest) = text.split_at_checked(count)?;
    let all = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((all.then(|| number.parse().ok())??, rest))
}

/// `2024-02-29`, and what follows.
fn date_part(text: &str) -> Option<(i32, &str)> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    if year < 1 || !(1..=days).contains(&day) {
        return None;
    }
    // Days of the civil calendar, in years that begin in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let since_year_0 = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((since_year_0 - SINCE_2000, rest))
}

/// 2000-01-01 in days since the first of March of the year 0.
const SINCE_2000: i32 = 730_425;

fn date(text: &str) -> Option<i32> {
    date_part(text)
        .filter(|(_, rest)| rest.is_empty())
        .map(|(days, _)| days)
}

/// `12:34:56.789`, in microseconds, and what follows.
fn time_part(text: &str) -> Option<(i64, &str)> {
    let (hours, rest) = digits(text, 2)?;
    let (minutes, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (seconds, rest) = match rest.strip_prefix(':') {
        Some(rest) => digits(rest, 2)?,
        None => (0, rest),
    };
    let (micros, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let count = rest.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=6).contains(&count) {
                return None;
            }
            let (number, rest) = digits(rest, count)?;
            (number * 10_i32.pow(6 - u32::try_from(count).ok()?), rest)
        }
        None => (0, rest),
    };
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    let seconds = i64::from(hours * 3_600 + minutes * 60 + seconds);
    Some((seconds * 1_000_000 + i64::from(micros), rest))
}

/// A date, or a date and a time, and what follows.
fn moment(text: &str) -> Option<(i64, &str)> {
    let (days, rest) = date_part(text)?;
    let midnight = i64::from(days) * MICROSECONDS_A_DAY;
    match rest.strip_prefix([' ', 'T']) {
        Some(rest) => time_part(rest).map(|(time, rest)| (midnight + time, rest)),
        None => Some((midnight, rest)),
    }
}

fn timestamp(text: &str) -> Option<i64> {
    moment(text)
        .filter(|(_, rest)| rest.is_empty())
        .map(|(at, _)| at)
}

/// Only with an offset: without one the session's time zone decides.
fn timestamptz(text: &str) -> Option<i64> {
    let (at, offset) = moment(text)?;
    if matches!(offset, "Z" | "z") {
        return Some(at);
    }
    let sign = match offset.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = digits(offset.get(1..)?, 2)?;
    let (minutes, rest) = match rest.strip_prefix(':') {
        Some(rest) => digits(rest, 2)?,
        None => (0, rest),
    };
    // Postgres allows up to 15:59:59.
    if !rest.is_empty() || hours > 14 || minutes > 59 {
        return None;
    }
    Some(at - sign * i64::from(hours * 60 + minutes) * 60_000_000)
}

#[cfg(test)]
pub(super) mod tests;
