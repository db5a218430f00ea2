//! Vectors: the text and binary forms of `vector`, `halfvec` and `real[]` → finite `f32` numbers, and exact distances.
//! Never lets a NaN, an infinity or an empty vector through, and never panics on any input.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most dimensions a vector may have: pgvector's `VECTOR_MAX_DIM`.
pub const MAX_DIM: usize = 16_000;

/// The number of dimensions of a vector, 1 to [`MAX_DIM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub struct Dim(u16);

impl TryFrom<usize> for Dim {
    type Error = &'static str;

    fn try_from(dimensions: usize) -> Result<Self, Self::Error> {
        Self::new(dimensions).ok_or("no number of dimensions")
    }
}

impl From<Dim> for usize {
    fn from(dim: Dim) -> Self {
        dim.get()
    }
}

impl Dim {
    /// A dimension, if it is one.
    #[must_use]
    pub fn new(dimensions: usize) -> Option<Self> {
        (1..=MAX_DIM)
            .contains(&dimensions)
            .then(|| u16::try_from(dimensions).ok().map(Self))
            .flatten()
    }

    /// The number of dimensions.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The column types that hold vectors. OIDs of extension types differ from database to database: they are found by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VectorType {
    /// pgvector's `vector`: 4 bytes a dimension.
    Vector,
    /// pgvector's `halfvec`: 2 bytes a dimension.
    Halfvec,
    /// PostgreSQL's own `real[]`.
    RealArray,
}

impl VectorType {
    /// The type's name as `format_type` prints it.
    #[must_use]
    pub const fn sql_name(self) -> &'static str {
        match self {
            Self::Vector => "vector",
            Self::Halfvec => "halfvec",
            Self::RealArray => "real[]",
        }
    }
}

/// How two vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// Euclidean distance, `<->`.
    L2,
    /// Negative inner product, `<#>`.
    InnerProduct,
    /// Cosine distance, `<=>`.
    Cosine,
    /// Taxicab distance, `<+>`.
    L1,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 4] = [Self::L2, Self::InnerProduct, Self::Cosine, Self::L1];

    /// The metric that an operator orders by.
    #[must_use]
    pub fn from_operator(operator: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|metric| metric.operator() == operator)
    }

    /// The operator that orders by this distance.
    #[must_use]
    pub const fn operator(self) -> &'static str {
        match self {
            Self::L2 => "<->",
            Self::InnerProduct => "<#>",
            Self::Cosine => "<=>",
            Self::L1 => "<+>",
        }
    }

    /// The name in `rektor.index` and `rektor.stat_indexes`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::InnerProduct => "ip",
            Self::Cosine => "cosine",
            Self::L1 => "l1",
        }
    }

    /// The metric of that [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// The distance that the operator returns, computed in double precision. The cosine distance of a zero vector is NaN.
    /// Both slices have the same length.
    #[must_use]
    pub fn distance(self, a: &[f32], b: &[f32]) -> f64 {
        let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
        match self {
            Self::L2 => pairs().map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt(),
            Self::L1 => pairs().map(|(x, y)| (x - y).abs()).sum::<f64>(),
            Self::InnerProduct => -pairs().map(|(x, y)| x * y).sum::<f64>(),
            Self::Cosine => {
                let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
                for (x, y) in pairs() {
                    dot += x * y;
                    aa += x * x;
                    bb += y * y;
                }
                1.0 - (dot / (aa * bb).sqrt()).clamp(-1.0, 1.0)
            }
        }
    }
}

/// Why a value is no vector that can be indexed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    /// No dimension at all.
    #[error("vector must have at least 1 dimension")]
    Empty,
    /// More than [`MAX_DIM`] dimensions.
    #[error("vector cannot have more than {MAX_DIM} dimensions")]
    TooLong,
    /// A component is NaN.
    #[error("NaN not allowed in vector")]
    NotANumber,
    /// A component is infinite, or does not fit into the type.
    #[error("infinite value not allowed in vector")]
    Infinite,
    /// An element of an array is NULL.
    #[error("array must not contain nulls")]
    NullElement,
    /// An array of another element type, or of several dimensions.
    #[error("array must be one-dimensional real[]")]
    NotAVector,
    /// The bytes or the text do not follow the type's format.
    #[error("invalid input for a vector")]
    Malformed,
}

/// A vector of 1 to [`MAX_DIM`] finite components.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector(Box<[f32]>);

impl Vector {
    /// A vector of these components.
    ///
    /// # Errors
    /// When there are none or too many, or one is not finite.
    pub fn new(components: Vec<f32>) -> Result<Self, VectorError> {
        if components.is_empty() {
            return Err(VectorError::Empty);
        }
        if components.len() > MAX_DIM {
            return Err(VectorError::TooLong);
        }
        for component in &components {
            if component.is_nan() {
                return Err(VectorError::NotANumber);
            }
            if component.is_infinite() {
                return Err(VectorError::Infinite);
            }
        }
        Ok(Self(components.into_boxed_slice()))
    }

    /// Decodes the type's binary form, as `COPY BINARY`, pgoutput and binary parameters carry it.
    ///
    /// # Errors
    /// When the bytes are not exactly one value of the type, or no vector.
    pub fn from_binary(kind: VectorType, bytes: &[u8]) -> Result<Self, VectorError> {
        Self::new(match kind {
            VectorType::Vector => header_and_components::<4>(bytes)?
                .map(|c| f32::from_be_bytes(*c))
                .collect(),
            VectorType::Halfvec => header_and_components::<2>(bytes)?
                .map(|c| half::f16::from_be_bytes(*c).to_f32())
                .collect(),
            VectorType::RealArray => array_components(bytes)?,
        })
    }

    /// Decodes the type's text form: `[1,2]`, or `{1,2}` for `real[]`.
    ///
    /// # Errors
    /// When the text is not in that form, or no vector.
    pub fn from_text(kind: VectorType, text: &str) -> Result<Self, VectorError> {
        let (open, close) = match kind {
            VectorType::Vector | VectorType::Halfvec => ('[', ']'),
            VectorType::RealArray => ('{', '}'),
        };
        let inner = text
            .trim_matches(is_space)
            .strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close));
        let inner = inner.ok_or(VectorError::Malformed)?;
        if inner.trim_matches(is_space).is_empty() {
            return Err(VectorError::Empty);
        }
        let mut components = Vec::with_capacity(inner.len() / 8 + 1);
        for element in inner.split(',') {
            let component = component_from_text(kind, element.trim_matches(is_space))?;
            if components.len() == MAX_DIM {
                return Err(VectorError::TooLong);
            }
            components.push(component);
        }
        Self::new(components)
    }

    /// Encodes as the type's binary form.
    #[must_use]
    pub fn to_binary(&self, kind: VectorType) -> Vec<u8> {
        let count = u16::try_from(self.0.len()).unwrap_or(u16::MAX); // at most MAX_DIM, by construction
        let mut bytes = Vec::with_capacity(20 + self.0.len() * 8);
        match kind {
            VectorType::Vector | VectorType::Halfvec => {
                bytes.extend_from_slice(&count.to_be_bytes());
                bytes.extend_from_slice(&[0, 0]);
                for component in &self.0 {
                    if kind == VectorType::Vector {
                        bytes.extend_from_slice(&component.to_be_bytes());
                    } else {
                        bytes.extend_from_slice(&half::f16::from_f32(*component).to_be_bytes());
                    }
                }
            }
            VectorType::RealArray => {
                for word in [1, 0, FLOAT4_OID, u32::from(count), 1] {
                    bytes.extend_from_slice(&word.to_be_bytes());
                }
                for component in &self.0 {
                    bytes.extend_from_slice(&4_u32.to_be_bytes());
                    bytes.extend_from_slice(&component.to_be_bytes());
                }
            }
        }
        bytes
    }

    /// The components.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The number of components.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.0.len()
    }

    /// Whether every component is zero: such a vector has no cosine distance.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|component| *component == 0.0)
    }
}

/// `pg_type.oid` of `real`.
pub const FLOAT4_OID: u32 = 700;
/// `pg_type.oid` of `real[]`.
pub const FLOAT4_ARRAY_OID: u32 = 1021;

/// The white space that PostgreSQL's parsers skip.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// `int16 dimensions, int16 unused, dimensions × N bytes`, the form of `vector` and `halfvec`.
fn header_and_components<const N: usize>(
    bytes: &[u8],
) -> Result<impl Iterator<Item = &[u8; N]>, VectorError> {
    let (header, body) = bytes
        .split_first_chunk::<4>()
        .ok_or(VectorError::Malformed)?;
    let count = usize::from(u16::from_be_bytes([header[0], header[1]]));
    let (components, rest) = body.as_chunks::<N>();
    if components.len() != count || !rest.is_empty() {
        return Err(VectorError::Malformed);
    }
    Ok(components.iter())
}

/// The binary form of a one-dimensional `real[]` without NULLs.
fn array_components(bytes: &[u8]) -> Result<Vec<f32>, VectorError> {
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(VectorError::Malformed);
    }
    let mut words = words.iter().map(|word| u32::from_be_bytes(*word));
    let mut next = || words.next().ok_or(VectorError::Malformed);
    let (dimensions, _has_null, element) = (next()?, next()?, next()?);
    if element != FLOAT4_OID || dimensions > 1 {
        return Err(VectorError::NotAVector);
    }
    if dimensions == 0 {
        return Err(VectorError::Empty);
    }
    let count = next()? as usize;
    next()?; // the lower bound, which carries nothing here
    if count > MAX_DIM {
        return Err(VectorError::TooLong);
    }
    let mut components = Vec::with_capacity(count);
    for _ in 0..count {
        match next()? {
            4 => components.push(f32::from_bits(next()?)),
            u32::MAX => return Err(VectorError::NullElement),
            _ => return Err(VectorError::Malformed),
        }
    }
    if next().is_ok() {
        return Err(VectorError::Malformed);
    }
    Ok(components)
}

/// One number of a text form. Finite digits that overflow are [`VectorError::Infinite`], as a stored value could not be.
fn component_from_text(kind: VectorType, element: &str) -> Result<f32, VectorError> {
    let element = if kind == VectorType::RealArray {
        if element.eq_ignore_ascii_case("null") {
            return Err(VectorError::NullElement);
        }
        element
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(element)
    } else {
        element
    };
    let component: f32 = element.parse().map_err(|_| VectorError::Malformed)?;
    if kind == VectorType::Halfvec {
        Ok(half::f16::from_f32(component).to_f32())
    } else {
        Ok(component)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_binary_forms() {
        // Captured from PostgreSQL 16 with pgvector 0.8.5: select vector_send('[1,-2.5]'), halfvec_send(..), array_send(..)
        for (kind, hex) in [
            (VectorType::Vector, "00020000 3f800000 c0200000"),
            (VectorType::Halfvec, "00020000 3c00 c100"),
            (
                VectorType::RealArray,
                "00000001 00000000 000002bc 00000002 00000001 00000004 3f800000 00000004 c0200000",
            ),
        ] {
            let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
            let bytes: Vec<u8> = digits
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            let vector = Vector::from_binary(kind, &bytes).unwrap();
            assert_eq!(vector.as_slice(), [1.0, -2.5]);
            assert_eq!(vector.to_binary(kind), bytes);
            for end in 0..bytes.len() {
                assert!(
                    Vector::from_binary(kind, &bytes[..end]).is_err(),
                    "{kind:?} cut at {end}"
                );
            }
        }
    }

    #[test]
    fn text_forms() {
        let check = |kind, text: &str, expected: Result<&[f32], VectorError>| {
            let found = Vector::from_text(kind, text);
            assert_eq!(
                found.as_ref().map(Vector::as_slice),
                expected.as_ref().map(|v| *v),
                "{text:?}"
            );
        };
        check(VectorType::Vector, "[1,2.5,-3e-1]", Ok(&[1.0, 2.5, -0.3]));
        check(VectorType::Vector, " [ 1 , 2 ] ", Ok(&[1.0, 2.0]));
        check(VectorType::RealArray, "{1,\"2\"}", Ok(&[1.0, 2.0]));
        check(
            VectorType::Halfvec,
            "[0.1]",
            Ok(&[half::f16::from_f32(0.1).to_f32()]),
        );
        check(VectorType::Vector, "[]", Err(VectorError::Empty));
        check(VectorType::Vector, "{1}", Err(VectorError::Malformed));
        check(VectorType::Vector, "[1,]", Err(VectorError::Malformed));
        check(VectorType::Vector, "[1]x", Err(VectorError::Malformed));
        check(VectorType::Vector, "[NaN]", Err(VectorError::NotANumber));
        check(VectorType::Vector, "[Infinity]", Err(VectorError::Infinite));
        check(VectorType::Vector, "[1e39]", Err(VectorError::Infinite));
        check(VectorType::Halfvec, "[70000]", Err(VectorError::Infinite));
        check(
            VectorType::RealArray,
            "{1,NULL}",
            Err(VectorError::NullElement),
        );
        check(
            VectorType::RealArray,
            "{{1},{2}}",
            Err(VectorError::Malformed),
        );
        check(
            VectorType::Vector,
            &format!("[{}1]", "1,".repeat(MAX_DIM)),
            Err(VectorError::TooLong),
        );
    }

    #[test]
    fn distances() {
        let (a, b) = ([1.0, 0.0], [0.0, 2.0]);
        assert_eq!(Metric::L2.distance(&a, &b), 5_f64.sqrt());
        assert_eq!(Metric::L1.distance(&a, &b), 3.0);
        assert_eq!(Metric::InnerProduct.distance(&a, &a), -1.0);
        assert_eq!(Metric::Cosine.distance(&a, &b), 1.0);
        assert!(Metric::Cosine.distance(&a, &[0.0, 0.0]).is_nan());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), text in ".{0,64}") {
            for kind in [VectorType::Vector, VectorType::Halfvec, VectorType::RealArray] {
                let _ = Vector::from_binary(kind, &bytes);
                let _ = Vector::from_text(kind, &text);
            }
        }

        #[test]
        fn binary_round_trip(components in proptest::collection::vec(-1e30_f32..1e30, 1..40)) {
            let vector = Vector::new(components).unwrap();
            for kind in [VectorType::Vector, VectorType::RealArray] {
                prop_assert_eq!(&Vector::from_binary(kind, &vector.to_binary(kind)).unwrap(), &vector);
            }
        }
    }
}
