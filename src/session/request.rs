//! A Bind, or the constants of a statement → what the index is asked: a vector and a number of rows. Pure.

use super::filter;
use super::messages::{BindBody, Format};
use crate::catalog::IndexDefinition;
use crate::index::Filter;
use crate::query::{Bound, KnnQuery, QueryVector, RelayReason};
use crate::vector::{FLOAT4_ARRAY_OID, Metric, Vector, VectorError, VectorType};

/// Most rows, LIMIT and OFFSET together, that an index is asked for: 10,000 keys cost Postgres 18 ms; beyond, a scan is as good.
const MAX_ROWS: u64 = 10_000;

const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;
/// `text`, `varchar`, `unknown`: the parameter is the text form, whatever its format.
const TEXTS: [u32; 3] = [25, 1043, 705];

/// What an index is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) vector: Vector,
    /// Rows that the answer has when enough match.
    pub(super) limit: usize,
    /// Rows that must match for that: LIMIT and OFFSET together.
    pub(super) wanted: usize,
    /// What the index knows that every row of the answer meets.
    pub(super) filter: Filter,
}

/// Reads the request of a statement. `bind` carries the parameters, of the types that Parse declared.
///
/// # Errors
/// The reason why the index cannot answer it.
pub(super) fn read(
    query: &KnnQuery,
    index: &IndexDefinition,
    types: &[u32],
    bind: Option<&BindBody<'_>>,
) -> Result<Request, RelayReason> {
    let parameter = |number: u16| {
        let declared = types.get(usize::from(number).saturating_sub(1));
        let (format, value) = bind.and_then(|bind| bind.value(number))?;
        Some((declared.copied().unwrap_or(0), format, value))
    };
    let vector = match &query.query {
        QueryVector::Literal(text) => Vector::from_text(index.column.kind, text),
        QueryVector::Parameter(number) => {
            let (declared, format, value) = parameter(*number).ok_or(RelayReason::NullQuery)?;
            vector(index, declared, format, value)?
        }
    };
    let vector = vector.map_err(|_| RelayReason::MalformedQuery)?;
    if vector.form() != Some(index.form()) {
        return Err(RelayReason::WrongDimension);
    }
    if index.metric == Metric::Cosine && vector.is_zero() {
        return Err(RelayReason::ZeroQuery);
    }
    let number = |bound: &Bound| match bound {
        Bound::Absent => Ok(0),
        Bound::Constant(number) => Ok(*number),
        Bound::Parameter(number) => {
            let (declared, format, value) = parameter(*number).ok_or(RelayReason::NullLimit)?;
            integer(declared, format, value).ok_or(RelayReason::ParameterType)
        }
    };
    let (limit, offset) = (number(&query.limit)?, number(&query.offset)?);
    let limit = u64::try_from(limit).map_err(|_| RelayReason::LimitNotPositive)?;
    let offset = u64::try_from(offset).map_err(|_| RelayReason::LimitNotPositive)?;
    if limit == 0 {
        return Err(RelayReason::LimitNotPositive);
    }
    let wanted = limit.saturating_add(offset);
    if wanted > MAX_ROWS {
        return Err(RelayReason::LimitTooLarge);
    }
    let size = |rows: u64| usize::try_from(rows).map_err(|_| RelayReason::LimitTooLarge);
    Ok(Request {
        vector,
        limit: size(limit)?,
        wanted: size(wanted)?,
        filter: filter::read(query, index, types, bind),
    })
}

fn vector(
    index: &IndexDefinition,
    declared: u32,
    format: Format,
    value: &[u8],
) -> Result<Result<Vector, VectorError>, RelayReason> {
    let kind = index.column.kind;
    let is_text = TEXTS.contains(&declared);
    let is_own = declared == 0
        || declared == index.column.type_id.0
        || (kind == VectorType::RealArray && declared == FLOAT4_ARRAY_OID);
    if !is_text && !is_own {
        return Err(RelayReason::ParameterType);
    }
    Ok(match format {
        Format::Binary if is_own => Vector::from_binary(kind, value),
        Format::Binary | Format::Text => match std::str::from_utf8(value) {
            Ok(text) => Vector::from_text(kind, text),
            Err(_) => Err(VectorError::Malformed),
        },
    })
}

/// LIMIT's and OFFSET's parameters are `bigint` unless declared otherwise.
fn integer(declared: u32, format: Format, value: &[u8]) -> Option<i64> {
    match (format, declared) {
        (Format::Text, 0 | INT8 | INT4 | INT2) => {
            std::str::from_utf8(value).ok()?.trim().parse().ok()
        }
        (Format::Binary, 0 | INT8) => Some(i64::from_be_bytes(value.try_into().ok()?)),
        (Format::Binary, INT4) => Some(i32::from_be_bytes(value.try_into().ok()?).into()),
        (Format::Binary, INT2) => Some(i16::from_be_bytes(value.try_into().ok()?).into()),
        (Format::Text | Format::Binary, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_by_declared_type_and_format() {
        let check = |declared, format, value: &[u8], expected| {
            assert_eq!(
                integer(declared, format, value),
                expected,
                "{declared} {value:?}"
            );
        };
        check(0, Format::Text, b"10", Some(10));
        check(INT4, Format::Text, b" 10 ", Some(10));
        check(INT8, Format::Text, b"x", None);
        check(INT8, Format::Text, b"99999999999999999999", None);
        check(0, Format::Binary, &10_i64.to_be_bytes(), Some(10));
        check(0, Format::Binary, &10_i32.to_be_bytes(), None);
        check(INT4, Format::Binary, &(-1_i32).to_be_bytes(), Some(-1));
        check(INT2, Format::Binary, &7_i16.to_be_bytes(), Some(7));
        check(700, Format::Text, b"10", None);
    }
}
