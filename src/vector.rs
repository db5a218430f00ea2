//! Vectors: the text and binary forms of `vector`, `halfvec`, `real[]` and `bit` → 32-bit words (finite `f32` numbers, or 32
//! bits each), and exact distances. Never lets a NaN, an infinity or an empty vector through, and never panics on any input.

mod expression;

pub use expression::{Expression, NumberType, Part};

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most dimensions a vector may have: pgvector's `VECTOR_MAX_DIM`.
pub const MAX_DIM: usize = 16_000;

/// Most bits a string of bits may have: what pgvector's HNSW indexes.
pub const MAX_BITS: usize = 64_000;

/// The number of dimensions of a vector, 1 to [`MAX_DIM`], or of the bits of a string, 1 to [`MAX_BITS`].
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
        (1..=MAX_BITS)
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
    /// PostgreSQL's own `bit(n)`.
    Bit,
}

impl VectorType {
    /// The type's name as `format_type` prints it.
    #[must_use]
    pub const fn sql_name(self) -> &'static str {
        match self {
            Self::Vector => "vector",
            Self::Halfvec => "halfvec",
            Self::RealArray => "real[]",
            Self::Bit => "bit",
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
    /// Bits that differ, `<~>`.
    Hamming,
    /// 1 − bits set in both ÷ bits set in either, `<%>`.
    Jaccard,
}

impl Metric {
    /// Those that compare numbers.
    pub const OF_NUMBERS: [Self; 4] = [Self::L2, Self::InnerProduct, Self::Cosine, Self::L1];
    /// Those that compare bits.
    pub const OF_BITS: [Self; 2] = [Self::Hamming, Self::Jaccard];

    /// Every metric.
    fn all() -> impl Iterator<Item = Self> {
        Self::OF_NUMBERS.into_iter().chain(Self::OF_BITS)
    }

    /// What vectors of so many dimensions are under this metric.
    #[must_use]
    pub const fn form(self, dim: Dim) -> Form {
        match self {
            Self::L2 | Self::InnerProduct | Self::Cosine | Self::L1 => Form::Numbers(dim),
            Self::Hamming | Self::Jaccard => Form::Bits(dim),
        }
    }

    /// The metric that an operator orders by.
    #[must_use]
    pub fn from_operator(operator: &str) -> Option<Self> {
        Self::all().find(|metric| metric.operator() == operator)
    }

    /// The operator that orders by this distance.
    #[must_use]
    pub const fn operator(self) -> &'static str {
        match self {
            Self::L2 => "<->",
            Self::InnerProduct => "<#>",
            Self::Cosine => "<=>",
            Self::L1 => "<+>",
            Self::Hamming => "<~>",
            Self::Jaccard => "<%>",
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
            Self::Hamming => "hamming",
            Self::Jaccard => "jaccard",
        }
    }

    /// The metric of that [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|metric| metric.name() == name)
    }

    /// The distance that the operator returns, computed in double precision. The cosine distance of a zero vector is NaN.
    /// Both slices are words of the metric's [`Form`], and have the same length.
    #[must_use]
    pub fn distance(self, a: &[f32], b: &[f32]) -> f64 {
        let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
        let bits = |operation: fn(u32, u32) -> u32| {
            let words = a.iter().zip(b).map(|(x, y)| (x.to_bits(), y.to_bits()));
            words
                .map(|(x, y)| f64::from(operation(x, y).count_ones()))
                .sum::<f64>()
        };
        match self {
            Self::L2 => pairs().map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt(),
            Self::L1 => pairs().map(|(x, y)| (x - y).abs()).sum::<f64>(),
            Self::Hamming => bits(|x, y| x ^ y),
            Self::Jaccard => {
                let both = bits(|x, y| x & y);
                // As pgvector says it: also of two strings without any bit set.
                if both == 0.0 {
                    1.0
                } else {
                    1.0 - both / bits(|x, y| x | y)
                }
            }
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

/// What the vectors of an index are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// So many numbers.
    Numbers(Dim),
    /// So many bits.
    Bits(Dim),
}

impl Form {
    /// How many numbers or bits.
    #[must_use]
    pub const fn dim(self) -> Dim {
        match self {
            Self::Numbers(dim) | Self::Bits(dim) => dim,
        }
    }

    /// How many words they take.
    #[must_use]
    pub const fn words(self) -> usize {
        match self {
            Self::Numbers(dim) => dim.get(),
            Self::Bits(dim) => dim.get().div_ceil(WORD_BITS),
        }
    }
}

/// Bits of a word.
const WORD_BITS: usize = 32;

/// Why a value is no vector that can be indexed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    /// No dimension at all.
    #[error("vector must have at least 1 dimension")]
    Empty,
    /// More than [`MAX_DIM`] dimensions, or [`MAX_BITS`] bits.
    #[error("vector cannot have more than {MAX_DIM} dimensions, or {MAX_BITS} bits")]
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

/// A vector of 1 to [`MAX_DIM`] finite components, or of 1 to [`MAX_BITS`] bits.
#[derive(Clone, Debug)]
pub struct Vector {
    /// Of bits: 32 each, in the order in which PostgreSQL has them in memory, the last filled up with zeros. So the engine
    /// stores one kind of thing; a word that is no number is never used as one.
    words: Box<[f32]>,
    /// How many bits, if they are bits.
    bits: Option<Dim>,
}

impl PartialEq for Vector {
    /// In every bit: words of bits may look like NaN.
    fn eq(&self, other: &Self) -> bool {
        let words = |vector: &Self| {
            vector
                .words
                .iter()
                .map(|word| word.to_bits())
                .collect::<Vec<_>>()
        };
        self.bits == other.bits && words(self) == words(other)
    }
}

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
        Ok(Self {
            words: components.into_boxed_slice(),
            bits: None,
        })
    }

    /// A string of so many bits, eight in each byte, the first the highest. What is beyond them counts as zero.
    fn of_bits(bits: usize, bytes: &[u8]) -> Result<Self, VectorError> {
        if bits == 0 {
            return Err(VectorError::Empty);
        }
        let dim = Dim::new(bits).ok_or(VectorError::TooLong)?;
        if bytes.len() != bits.div_ceil(8) {
            return Err(VectorError::Malformed);
        }
        let word = |(first, bytes): (usize, &[u8])| {
            let mut word = [0; WORD_BITS / 8];
            word.iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = *from);
            // The highest bit of the first byte is the first.
            let known = u32::try_from(bits - first * WORD_BITS).map_or(u32::MAX, |left| {
                u32::MAX.checked_shl(32 - left.min(32)).unwrap_or(0)
            });
            let word = u32::from_be_bytes(word) & known;
            f32::from_bits(u32::from_ne_bytes(word.to_be_bytes()))
        };
        Ok(Self {
            words: bytes.chunks(WORD_BITS / 8).enumerate().map(word).collect(),
            bits: Some(dim),
        })
    }

    /// The vector of these words.
    ///
    /// # Errors
    /// When they are none of that form.
    pub fn from_words(form: Form, words: Vec<f32>) -> Result<Self, VectorError> {
        if words.len() != form.words() {
            return Err(VectorError::Malformed);
        }
        match form {
            Form::Numbers(_) => Self::new(words),
            Form::Bits(dim) => {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                let bytes = bytes.get(..dim.get().div_ceil(8));
                Self::of_bits(dim.get(), bytes.ok_or(VectorError::Malformed)?)
            }
        }
    }

    /// Decodes the type's binary form, as `COPY BINARY`, pgoutput and binary parameters carry it.
    ///
    /// # Errors
    /// When the bytes are not exactly one value of the type, or no vector.
    pub fn from_binary(kind: VectorType, bytes: &[u8]) -> Result<Self, VectorError> {
        Self::new(match kind {
            VectorType::Bit => {
                let (length, bytes) = bytes
                    .split_first_chunk::<4>()
                    .ok_or(VectorError::Malformed)?;
                let bits = usize::try_from(i32::from_be_bytes(*length));
                return Self::of_bits(bits.map_err(|_| VectorError::Malformed)?, bytes);
            }
            VectorType::Vector => header_and_components::<4>(bytes)?
                .map(|c| f32::from_be_bytes(*c))
                .collect(),
            VectorType::Halfvec => header_and_components::<2>(bytes)?
                .map(|c| half::f16::from_be_bytes(*c).to_f32())
                .collect(),
            VectorType::RealArray => array_components(bytes)?,
        })
    }

    /// Decodes the type's text form: `[1,2]`, `{1,2}` for `real[]`, `101`, `b101` or `x5` for `bit`.
    ///
    /// # Errors
    /// When the text is not in that form, or no vector.
    pub fn from_text(kind: VectorType, text: &str) -> Result<Self, VectorError> {
        let (open, close) = match kind {
            VectorType::Vector | VectorType::Halfvec => ('[', ']'),
            VectorType::RealArray => ('{', '}'),
            VectorType::Bit => return bits_from_text(text),
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
        let count = u16::try_from(self.dim()).unwrap_or(u16::MAX); // at most MAX_BITS, by construction
        let mut bytes = Vec::with_capacity(20 + self.words.len() * 8);
        match kind {
            VectorType::Vector | VectorType::Halfvec => {
                bytes.extend_from_slice(&count.to_be_bytes());
                bytes.extend_from_slice(&[0, 0]);
                for component in &self.words {
                    if kind == VectorType::Vector {
                        bytes.extend_from_slice(&component.to_be_bytes());
                    } else {
                        bytes.extend_from_slice(&half::f16::from_f32(*component).to_be_bytes());
                    }
                }
            }
            VectorType::Bit => {
                bytes.extend_from_slice(&u32::from(count).to_be_bytes());
                bytes.extend(self.words.iter().flat_map(|word| word.to_ne_bytes()));
                bytes.truncate(4 + self.dim().div_ceil(8));
            }
            VectorType::RealArray => {
                for word in [1, 0, FLOAT4_OID, u32::from(count), 1] {
                    bytes.extend_from_slice(&word.to_be_bytes());
                }
                for component in &self.words {
                    bytes.extend_from_slice(&4_u32.to_be_bytes());
                    bytes.extend_from_slice(&component.to_be_bytes());
                }
            }
        }
        bytes
    }

    /// The components; of bits, the words that hold them.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        &self.words
    }

    /// The number of components, or of bits.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.bits.map_or(self.words.len(), Dim::get)
    }

    /// What it is made of.
    #[must_use]
    pub fn form(&self) -> Option<Form> {
        match self.bits {
            Some(bits) => Some(Form::Bits(bits)),
            None => Dim::new(self.words.len()).map(Form::Numbers),
        }
    }

    /// Whether every component is zero: such a vector has no cosine distance.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.words.iter().all(|component| *component == 0.0)
    }
}

/// `pg_type.oid` of `real`.
pub const FLOAT4_OID: u32 = 700;
/// `pg_type.oid` of `real[]`.
pub const FLOAT4_ARRAY_OID: u32 = 1021;

/// `pg_type.oid` of `bit`.
pub const BIT_OID: u32 = 1560;

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

/// A string of bits as PostgreSQL reads it: digits of 0 and 1, also behind `b`, or hexadecimal ones behind `x`.
fn bits_from_text(text: &str) -> Result<Vector, VectorError> {
    let (digits, width) = match text.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 4),
        None => (text.strip_prefix(['b', 'B']).unwrap_or(text), 1),
    };
    let bits = digits.len() * width;
    if bits > MAX_BITS {
        return Err(VectorError::TooLong);
    }
    let mut bytes = vec![0_u8; bits.div_ceil(8)];
    for (number, digit) in digits.chars().enumerate() {
        let value = digit
            .to_digit(if width == 1 { 2 } else { 16 })
            .ok_or(VectorError::Malformed)?;
        let first = number * width;
        let byte = bytes.get_mut(first / 8).ok_or(VectorError::Malformed)?;
        // Below 16, and within the byte: its width divides 8.
        *byte |= u8::try_from(value).unwrap_or(0) << (8 - width - first % 8);
    }
    Vector::of_bits(bits, &bytes)
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
    fn golden_binary_forms_of_bits() {
        // select bit_send(B'1011'), bit_send(X'0123456789ABCDEF0'), in PostgreSQL 16
        for (bytes, text, words) in [
            (&b"\0\0\0\x04\xb0"[..], "1011", &[0xb000_0000_u32][..]),
            (
                b"\0\0\0\x44\x01\x23\x45\x67\x89\xab\xcd\xef\0",
                "x0123456789ABCDEF0",
                &[0x0123_4567, 0x89ab_cdef, 0],
            ),
        ] {
            let vector = Vector::from_binary(VectorType::Bit, bytes).unwrap();
            let found: Vec<u32> = vector
                .as_slice()
                .iter()
                .map(|word| u32::from_be_bytes(word.to_ne_bytes()))
                .collect();
            assert_eq!(found, words);
            assert_eq!(vector.to_binary(VectorType::Bit), bytes);
            assert_eq!(Vector::from_text(VectorType::Bit, text).unwrap(), vector);
            let form = vector.form().unwrap();
            let again = Vector::from_words(form, vector.as_slice().to_vec()).unwrap();
            assert_eq!(again, vector);
            assert!(Vector::from_words(form, vec![0.0; words.len() + 1]).is_err());
            for end in 0..bytes.len() {
                let cut = Vector::from_binary(VectorType::Bit, &bytes[..end]);
                assert_eq!(cut, Err(VectorError::Malformed), "cut at {end}");
            }
            let longer = [bytes, &[0]].concat();
            assert!(Vector::from_binary(VectorType::Bit, &longer).is_err());
        }
        // What is beyond the last bit counts as zero, as PostgreSQL reads it.
        assert_eq!(
            Vector::from_binary(VectorType::Bit, b"\0\0\0\x04\xbf"),
            Vector::from_text(VectorType::Bit, "1011")
        );
        for (length, error) in [
            (0, VectorError::Empty),
            (-1, VectorError::Malformed),
            (64_001, VectorError::TooLong),
            (i32::MAX, VectorError::TooLong),
        ] {
            let bytes = [&i32::to_be_bytes(length)[..], &vec![0; 8_001]].concat();
            let bytes = if length == 0 { &bytes[..4] } else { &bytes };
            assert_eq!(
                Vector::from_binary(VectorType::Bit, bytes),
                Err(error),
                "{length} bits"
            );
        }
    }

    #[test]
    fn texts_of_bits() {
        for (text, expected) in [
            ("b101", Ok("101")),
            ("B101", Ok("101")),
            ("x5", Ok("0101")),
            ("XfE", Ok("11111110")),
            ("", Err(VectorError::Empty)),
            ("b", Err(VectorError::Empty)),
            ("102", Err(VectorError::Malformed)),
            (" 101", Err(VectorError::Malformed)),
            ("xg", Err(VectorError::Malformed)),
            ("1é1", Err(VectorError::Malformed)),
            ("+1", Err(VectorError::Malformed)),
        ] {
            let expected = expected.map(|bits| Vector::from_text(VectorType::Bit, bits).unwrap());
            assert_eq!(
                Vector::from_text(VectorType::Bit, text),
                expected,
                "{text:?}"
            );
        }
        let most = "1".repeat(MAX_BITS);
        assert_eq!(
            Vector::from_text(VectorType::Bit, &most).unwrap().dim(),
            MAX_BITS
        );
        let more = format!("{most}0");
        assert_eq!(
            Vector::from_text(VectorType::Bit, &more),
            Err(VectorError::TooLong)
        );
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
        // select B'1100' <~> B'1010', B'1100' <%> B'1010', B'1100' <%> B'0000', B'0000' <%> B'0000'
        let bits = |text| Vector::from_text(VectorType::Bit, text).unwrap();
        let (a, b, zero) = (bits("1100"), bits("1010"), bits("0000"));
        let distance =
            |metric: Metric, a: &Vector, b: &Vector| metric.distance(a.as_slice(), b.as_slice());
        assert_eq!(distance(Metric::Hamming, &a, &b), 2.0);
        assert_eq!(distance(Metric::Jaccard, &a, &b), 1.0 - 1.0 / 3.0);
        assert_eq!(distance(Metric::Jaccard, &a, &zero), 1.0);
        assert_eq!(distance(Metric::Jaccard, &zero, &zero), 1.0);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), text in ".{0,64}") {
            for kind in [VectorType::Vector, VectorType::Halfvec, VectorType::RealArray, VectorType::Bit] {
                let _ = Vector::from_binary(kind, &bytes);
                let _ = Vector::from_text(kind, &text);
            }
        }

        #[test]
        fn bits_round_trip(bits in proptest::collection::vec(any::<bool>(), 1..200)) {
            let text: String = bits.iter().map(|bit| if *bit { '1' } else { '0' }).collect();
            let vector = Vector::from_text(VectorType::Bit, &text).unwrap();
            prop_assert_eq!(vector.dim(), bits.len());
            let binary = vector.to_binary(VectorType::Bit);
            prop_assert_eq!(&Vector::from_binary(VectorType::Bit, &binary).unwrap(), &vector);
            let set = bits.iter().filter(|bit| **bit).count();
            let zero = vec![0.0; vector.as_slice().len()];
            prop_assert_eq!(Metric::Hamming.distance(vector.as_slice(), &zero), set as f64);
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
