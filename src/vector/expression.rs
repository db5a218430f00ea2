//! What can be indexed of a column besides its value: the casts and functions of pgvector that its users index, and what they
//! make of a vector, bit for bit as pgvector does. A closed list: no other expression is ever evaluated.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Dim, MAX_DIM, Vector, VectorError, VectorType};

/// An expression over one column of vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Expression {
    /// The column itself.
    #[default]
    Column,
    /// `column::vector(n)`, `column::halfvec(n)`.
    Cast(NumberType),
    /// `binary_quantize(column)::bit(n)`.
    BinaryQuantize,
    /// `subvector(column, start, count)::vector(count)`, `…::halfvec(count)`, or of the column's own type.
    Subvector(Part, Option<NumberType>),
}

/// A type that a column can be cast to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NumberType {
    /// `vector`
    Vector,
    /// `halfvec`
    Halfvec,
}

/// Consecutive components of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    start: u16,
    count: u16,
}

impl NumberType {
    /// The type as a column's.
    #[must_use]
    pub const fn kind(self) -> VectorType {
        match self {
            Self::Vector => VectorType::Vector,
            Self::Halfvec => VectorType::Halfvec,
        }
    }

    /// The type, if a column can be cast to it.
    #[must_use]
    pub const fn of(kind: VectorType) -> Option<Self> {
        match kind {
            VectorType::Vector => Some(Self::Vector),
            VectorType::Halfvec => Some(Self::Halfvec),
            VectorType::RealArray | VectorType::Bit => None,
        }
    }
}

impl Part {
    /// `count` components from the `start`-th on, from 1, as `subvector` counts; `None` beyond any vector.
    #[must_use]
    pub fn new(start: i64, count: i64) -> Option<Self> {
        let within = |number| u16::try_from(number).ok().filter(|number| *number > 0);
        let (start, count) = (within(start)?, within(count)?);
        let end = usize::from(start - 1) + usize::from(count);
        (end <= MAX_DIM).then_some(Self { start, count })
    }

    /// How many components.
    #[must_use]
    pub const fn count(self) -> usize {
        self.count as usize
    }
}

impl Expression {
    /// The type of its values over a column of that type; `None` where PostgreSQL has no such function or cast.
    #[must_use]
    pub const fn kind(self, column: VectorType) -> Option<VectorType> {
        match (self, column) {
            (Self::Column, kind) => Some(kind),
            (Self::Cast(to), VectorType::Vector | VectorType::Halfvec | VectorType::RealArray) => {
                Some(to.kind())
            }
            (Self::BinaryQuantize, VectorType::Vector | VectorType::Halfvec) => {
                Some(VectorType::Bit)
            }
            (Self::Subvector(_, None), VectorType::Vector | VectorType::Halfvec) => Some(column),
            (Self::Subvector(_, Some(to)), VectorType::Vector | VectorType::Halfvec) => {
                Some(to.kind())
            }
            (Self::Cast(_), VectorType::Bit)
            | (
                Self::BinaryQuantize | Self::Subvector(..),
                VectorType::RealArray | VectorType::Bit,
            ) => None,
        }
    }

    /// Whether it has the same values as another over a column of that type, however they are written.
    #[must_use]
    pub fn equals(self, other: Self, column: VectorType) -> bool {
        match (self, other) {
            (Self::Subvector(part, _), Self::Subvector(same, _)) => {
                part == same && self.kind(column) == other.kind(column)
            }
            (
                Self::Column | Self::Cast(_) | Self::BinaryQuantize | Self::Subvector(..),
                Self::Column | Self::Cast(_) | Self::BinaryQuantize | Self::Subvector(..),
            ) => self == other,
        }
    }

    /// Its value for a row's vector, where its type declares `dim` dimensions.
    ///
    /// # Errors
    /// When PostgreSQL would raise an error.
    pub fn of(self, vector: Vector, dim: Dim) -> Result<Vector, VectorError> {
        match self {
            Self::Column => Ok(vector),
            Self::Cast(to) => vector.cast(to),
            // An explicit cast to bit(n) cuts off or fills up.
            Self::BinaryQuantize => vector.binary_quantize(dim),
            Self::Subvector(part, None) => vector.subvector(part),
            Self::Subvector(part, Some(to)) => vector.subvector(part)?.cast(to),
        }
    }

    /// The expression that [`rektor.index`](Self) names so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "vector" => Some(Self::Cast(NumberType::Vector)),
            "halfvec" => Some(Self::Cast(NumberType::Halfvec)),
            "binary_quantize" => Some(Self::BinaryQuantize),
            _ => {
                let (numbers, to) = name.strip_prefix("subvector(")?.split_once(')')?;
                let to = match to {
                    "" => None,
                    "::vector" => Some(NumberType::Vector),
                    "::halfvec" => Some(NumberType::Halfvec),
                    _ => return None,
                };
                let (start, count) = numbers.split_once(", ")?;
                let part = Part::new(start.parse().ok()?, count.parse().ok()?)?;
                Some(Self::Subvector(part, to))
            }
        }
    }

    /// The expression over a column of that name, as SQL; `None` for the column itself.
    #[must_use]
    pub fn sql(self, column: &str, kind: VectorType, dim: Dim) -> Option<String> {
        match self {
            Self::Column => None,
            Self::Cast(to) => Some(format!("{column}::{}({dim})", to.kind().sql_name())),
            Self::BinaryQuantize => Some(format!("binary_quantize({column})::bit({dim})")),
            Self::Subvector(Part { start, count }, to) => Some(format!(
                "subvector({column}, {start}, {count})::{}({dim})",
                to.map_or(kind, NumberType::kind).sql_name()
            )),
        }
    }
}

impl fmt::Display for Expression {
    /// The name in `rektor.index`; nothing for the column itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column => Ok(()),
            Self::Cast(to) => f.write_str(to.kind().sql_name()),
            Self::BinaryQuantize => f.write_str("binary_quantize"),
            Self::Subvector(Part { start, count }, to) => {
                write!(f, "subvector({start}, {count})")?;
                match to {
                    None => Ok(()),
                    Some(to) => write!(f, "::{}", to.kind().sql_name()),
                }
            }
        }
    }
}

impl TryFrom<String> for Expression {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        if name.is_empty() {
            return Ok(Self::Column);
        }
        Self::from_name(&name).ok_or("an expression that is not known")
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.to_string()
    }
}

impl Vector {
    /// The same as another type of numbers.
    ///
    /// # Errors
    /// When it is of bits, or a component is too large for a half.
    pub fn cast(self, to: NumberType) -> Result<Self, VectorError> {
        if self.bits.is_some() {
            return Err(VectorError::Malformed);
        }
        match to {
            NumberType::Vector => Ok(self),
            // To the nearest, of two the even one; what overflows is infinite.
            NumberType::Halfvec => {
                let halves = self.words.iter();
                let halves = halves.map(|component| half::f16::from_f32(*component).to_f32());
                Self::new(halves.collect())
            }
        }
    }

    /// A bit for each component, set where it is positive: `dim` of them, cut off or filled up with zeros.
    ///
    /// # Errors
    /// When it is of bits.
    pub fn binary_quantize(&self, dim: Dim) -> Result<Self, VectorError> {
        if self.bits.is_some() {
            return Err(VectorError::Malformed);
        }
        let mut bytes = vec![0_u8; dim.get().div_ceil(8)];
        let positive = self.words.iter().map(|component| *component > 0.0);
        for (at, positive) in positive.take(dim.get()).enumerate() {
            if let Some(byte) = bytes.get_mut(at / 8) {
                *byte |= u8::from(positive) << (7 - at % 8);
            }
        }
        Self::of_bits(dim.get(), &bytes)
    }

    /// Some of its components.
    ///
    /// # Errors
    /// When it has fewer, or is of bits.
    pub fn subvector(&self, part: Part) -> Result<Self, VectorError> {
        if self.bits.is_some() {
            return Err(VectorError::Malformed);
        }
        let start = usize::from(part.start) - 1;
        let components = self.words.get(start..start + part.count());
        // PostgreSQL gives what there is; the cast to the declared dimensions refuses that.
        Self::new(components.ok_or(VectorError::Empty)?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(components: &[f32]) -> Vector {
        Vector::new(components.to_vec()).unwrap()
    }

    fn bits(text: &str) -> Vector {
        Vector::from_text(VectorType::Bit, text).unwrap()
    }

    fn dim(n: usize) -> Dim {
        Dim::new(n).unwrap()
    }

    const HALF: Expression = Expression::Cast(NumberType::Halfvec);

    #[test]
    fn values_are_pgvectors() {
        // Each found by PostgreSQL 18 with pgvector 0.8.5.
        let of = |expression: Expression, components: &[f32], n| {
            expression.of(vector(components), dim(n))
        };
        // select '[0.1,65519,2049,2051,-0,5.9e-8,2e-8]'::vector::halfvec::vector
        let halves = [
            0.1, 65519.0, 2049.0, 2051.0, -0.0, 5.9e-8, 2e-8, 1e-45, -6.1e-5,
        ];
        let expected = [
            0.099_975_586,
            65504.0,
            2048.0,
            2052.0,
            -0.0,
            5.960_464_5e-8,
            0.0,
            0.0,
            -6.097_555e-5,
        ];
        assert_eq!(of(HALF, &halves, 9), Ok(vector(&expected)));
        // select '[65520]'::vector::halfvec
        assert_eq!(of(HALF, &[65520.0], 1), Err(VectorError::Infinite));
        assert_eq!(of(HALF, &[-1e30], 1), Err(VectorError::Infinite));
        // select binary_quantize('[1,-2,0,-0,1e-45,3]'::vector)::bit(6), ::bit(2), ::bit(8)
        let signs = [1.0, -2.0, 0.0, -0.0, 1e-45, 3.0];
        for (n, expected) in [(6, "100011"), (2, "10"), (8, "10001100")] {
            let found = of(Expression::BinaryQuantize, &signs, n);
            assert_eq!(found, Ok(bits(expected)));
        }
        // select subvector('[1,2,3]', 2, 2); (…, 2, 3) has two components, which ::vector(3) refuses
        let part = |start, count| Expression::Subvector(Part::new(start, count).unwrap(), None);
        assert_eq!(of(part(2, 2), &[1.0, 2.0, 3.0], 2), Ok(vector(&[2.0, 3.0])));
        assert!(of(part(2, 3), &[1.0, 2.0, 3.0], 3).is_err());
        assert!(of(part(4, 1), &[1.0, 2.0, 3.0], 1).is_err());
        for expression in [HALF, Expression::BinaryQuantize, part(1, 1)] {
            assert!(expression.of(bits("101"), dim(3)).is_err());
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let part = Part::new(3, 16).unwrap();
        let halves = Expression::Subvector(part, Some(NumberType::Halfvec));
        let part = Expression::Subvector(part, None);
        let vectors = Expression::Cast(NumberType::Vector);
        for (expression, name, sql) in [
            (HALF, "halfvec", "v::halfvec(8)"),
            (vectors, "vector", "v::vector(8)"),
            (
                Expression::BinaryQuantize,
                "binary_quantize",
                "binary_quantize(v)::bit(8)",
            ),
            (part, "subvector(3, 16)", "subvector(v, 3, 16)::vector(8)"),
            (
                halves,
                "subvector(3, 16)::halfvec",
                "subvector(v, 3, 16)::halfvec(8)",
            ),
        ] {
            assert_eq!(expression.to_string(), name);
            assert_eq!(Expression::from_name(name), Some(expression));
            let written = expression.sql("v", VectorType::Vector, dim(8));
            assert_eq!(written.as_deref(), Some(sql));
        }
        assert!(
            halves.equals(part, VectorType::Halfvec) && !halves.equals(part, VectorType::Vector)
        );
        for name in [
            "",
            "bit",
            "subvector",
            "subvector(1, 3)::bit",
            "subvector(1, 3)x",
            "subvector(0, 1)",
            "subvector(1,2)",
            "subvector(1, 16001)",
            "subvector(16000, 2)",
        ] {
            assert_eq!(Expression::from_name(name), None, "{name}");
        }
        assert_eq!(Expression::try_from(String::new()), Ok(Expression::Column));
    }

    proptest! {
        #[test]
        fn any_vector_is_quantized_by_its_signs(components in proptest::collection::vec(-2.0_f32..2.0, 1..150), n in 1_usize..150) {
            let quantized = vector(&components).binary_quantize(dim(n)).unwrap();
            let expected: String = (0..n)
                .map(|at| if components.get(at).is_some_and(|x| *x > 0.0) { '1' } else { '0' })
                .collect();
            prop_assert_eq!(quantized, bits(&expected));
        }
    }
}
