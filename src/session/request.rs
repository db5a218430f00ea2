//! A Bind, or the constants of a statement → what the index is asked: vectors and a number of rows. Pure.

mod elements;

use super::filter;
use super::messages::{BindBody, Format};
use crate::catalog::{IndexDefinition, TypeId};
use crate::index::Filter;
use crate::query::{Bound, KnnQuery, QueryStep, QueryVector, RelayReason};
use crate::vector::{
    BIT_OID, Dim, FLOAT4_ARRAY_OID, Metric, NumberType, Vector, VectorError, VectorType,
};

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
    /// One, or those of a batch.
    pub(super) vectors: Vec<Vector>,
    pub(super) batch: Option<Batch>,
    /// Rows that the answer has when enough match, for all vectors together.
    pub(super) limit: usize,
    /// Rows that must match for that: LIMIT and OFFSET together, for each vector.
    pub(super) wanted: usize,
    /// They are a sub-select's: any row of the answer says that there were so many, and none says nothing.
    pub(super) within: bool,
    /// What the index knows that every row of the answer meets.
    pub(super) filter: Filter,
}

/// A search for each of several vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Batch {
    /// Rows of the answer though nothing is found: under LEFT JOIN one a vector.
    pub(super) sure_rows: usize,
}

impl Request {
    /// Whether so many rows of an answer may mean that the statement's guards kept every row away.
    pub(super) fn is_nothing(&self, rows: usize) -> bool {
        rows <= self.batch.map_or(0, |batch| batch.sure_rows)
    }

    /// Whether so many rows of an answer say that it is complete.
    pub(super) fn is_met_by(&self, rows: usize) -> bool {
        rows >= if self.within { 1 } else { self.limit }
    }
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
    let vectors = match &query.query {
        QueryVector::Rows(rows) => {
            let each = rows.iter().map(|(vector, steps)| {
                let steps = Steps::of(query, steps);
                one_vector(&steps, index, vector, parameter)
            });
            each.collect::<Result<Vec<_>, _>>()?
        }
        QueryVector::Elements(array) => {
            let steps = Steps::of(query, &[]);
            match array.as_ref() {
                QueryVector::Literal(text) => elements::of_text(&steps, index, text)?,
                QueryVector::Parameter(number) => {
                    let sent = parameter(*number).ok_or(RelayReason::NullQuery)?;
                    elements::of_parameter(&steps, index, sent)?
                }
                QueryVector::Rows(_) | QueryVector::Elements(_) => {
                    return Err(RelayReason::QueryNotConstant);
                }
            }
        }
        one @ (QueryVector::Literal(_) | QueryVector::Parameter(_)) => {
            vec![one_vector(&Steps::of(query, &[]), index, one, parameter)?]
        }
    };
    if vectors
        .iter()
        .any(|vector| vector.form() != Some(index.form()))
    {
        return Err(RelayReason::WrongDimension);
    }
    if index.metric == Metric::Cosine && vectors.iter().any(Vector::is_zero) {
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
    let batch = query.is_batch().then(|| Batch {
        sure_rows: if query.is_left_joined() {
            vectors.len()
        } else {
            0
        },
    });
    if query.is_left_joined() && limit == 1 {
        return Err(RelayReason::AroundLateral); // a vector has one row, whether one was found or none
    }
    let limit = size(limit)?;
    Ok(Request {
        limit: limit.saturating_mul(vectors.len()),
        vectors,
        batch,
        wanted: size(wanted)?,
        within: query.is_sub_select(),
        filter: filter::read(query, index, types, bind),
    })
}

/// What is done to a vector before it is compared, and as what.
pub(super) struct Steps<'a> {
    query: &'a KnnQuery,
    /// Of one of several vectors, what is done to it alone, at first.
    own: &'a [QueryStep],
}

impl<'a> Steps<'a> {
    fn of(query: &'a KnnQuery, own: &'a [QueryStep]) -> Self {
        Self { query, own }
    }

    fn all(&self) -> impl Iterator<Item = &'a QueryStep> {
        self.own.iter().chain(&self.query.steps)
    }

    /// The type that PostgreSQL gives a literal, or a parameter without a declared type: of the cast that it stands in, else of
    /// what it is compared with. A function alone does not decide it.
    fn kind_unless_declared(&self, index: &IndexDefinition) -> Option<VectorType> {
        match self.all().next() {
            Some(QueryStep::Cast(cast)) => Some(cast.kind),
            Some(QueryStep::BinaryQuantize | QueryStep::Subvector(_)) => None,
            None => self.query.expression.kind(index.column.kind),
        }
    }
}

/// The vector that is compared, of a literal or a parameter.
fn one_vector<'a>(
    steps: &Steps<'_>,
    index: &IndexDefinition,
    vector: &QueryVector,
    parameter: impl Fn(u16) -> Option<(u32, Format, &'a [u8])>,
) -> Result<Vector, RelayReason> {
    match vector {
        QueryVector::Literal(text) => {
            let kind = steps.kind_unless_declared(index);
            let kind = kind.ok_or(RelayReason::MalformedQuery)?;
            compared(steps, index, kind, Vector::from_text(kind, text))
        }
        QueryVector::Parameter(number) => {
            let sent = parameter(*number).ok_or(RelayReason::NullQuery)?;
            sent_vector(steps, index, sent)
        }
        QueryVector::Rows(_) | QueryVector::Elements(_) => Err(RelayReason::QueryNotConstant),
    }
}

/// The vector that is compared, of the declared type, format and value of what was sent.
fn sent_vector(
    steps: &Steps<'_>,
    index: &IndexDefinition,
    (declared, format, value): (u32, Format, &[u8]),
) -> Result<Vector, RelayReason> {
    let is_text = TEXTS.contains(&declared);
    let kind = match declared {
        0 => steps.kind_unless_declared(index),
        _ if is_text => steps.kind_unless_declared(index),
        declared => declared_kind(index, declared),
    };
    let kind = kind.ok_or(RelayReason::ParameterType)?;
    let from_text = |kind| match std::str::from_utf8(value) {
        Ok(text) => Vector::from_text(kind, text),
        Err(_) => Err(VectorError::Malformed),
    };
    let sent = match format {
        Format::Binary if !is_text => Vector::from_binary(kind, value),
        Format::Binary | Format::Text => from_text(kind),
    };
    compared(steps, index, kind, sent)
}

fn declared_kind(index: &IndexDefinition, declared: u32) -> Option<VectorType> {
    let types = [
        (Some(index.column.type_id), index.column.kind),
        (index.pgvector.vector, VectorType::Vector),
        (index.pgvector.halfvec, VectorType::Halfvec),
        (Some(TypeId(FLOAT4_ARRAY_OID)), VectorType::RealArray),
        (Some(TypeId(BIT_OID)), VectorType::Bit),
    ];
    let mut types = types.into_iter();
    types
        .find(|(type_id, _)| *type_id == Some(TypeId(declared)))
        .map(|(_, kind)| kind)
}

/// What a query of that type is compared as, after the statement's steps.
fn compared(
    steps: &Steps<'_>,
    index: &IndexDefinition,
    kind: VectorType,
    sent: Result<Vector, VectorError>,
) -> Result<Vector, RelayReason> {
    let malformed = |_| RelayReason::MalformedQuery;
    let (mut kind, mut vector) = (kind, sent.map_err(malformed)?);
    for step in steps.all() {
        (kind, vector) = match step {
            QueryStep::Cast(cast) => {
                let written = cast.dimensions.map(usize::try_from);
                if written.is_some_and(|written| written != Ok(vector.dim())) {
                    return Err(RelayReason::WrongDimension);
                }
                (cast.kind, cast_to(vector, kind, cast.kind)?)
            }
            QueryStep::BinaryQuantize => {
                let dim = Dim::new(vector.dim()).ok_or(RelayReason::MalformedQuery)?;
                let bits = vector.binary_quantize(dim);
                (VectorType::Bit, bits.map_err(malformed)?)
            }
            QueryStep::Subvector(part) => (kind, vector.subvector(*part).map_err(malformed)?),
        };
    }
    match steps.query.expression.kind(index.column.kind) {
        Some(with) if with == kind => Ok(vector),
        // By itself PostgreSQL makes a vector a halfvec, and nothing else.
        Some(VectorType::Halfvec) if kind == VectorType::Vector => {
            cast_to(vector, kind, VectorType::Halfvec)
        }
        Some(_) | None => Err(RelayReason::ParameterType),
    }
}

fn cast_to(vector: Vector, from: VectorType, to: VectorType) -> Result<Vector, RelayReason> {
    let cast = match (from, to) {
        (VectorType::Bit, VectorType::Bit) => Ok(vector),
        (VectorType::Bit, _) | (_, VectorType::Bit) => Err(VectorError::Malformed),
        (_, VectorType::Halfvec) => vector.cast(NumberType::Halfvec),
        (_, VectorType::Vector | VectorType::RealArray) => Ok(vector),
    };
    cast.map_err(|_| RelayReason::MalformedQuery)
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
