//! Vectors as 32-bit words (finite `f32` numbers, or 32 bits each). Never lets a NaN, an infinity or an empty vector through.
//! Their text and binary forms are in `codec`, how two are compared in `metric`.

mod codec;
mod expression;
mod metric;

pub use expression::{Expression, NumberType, Part};
pub use metric::Metric;

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

#[cfg(test)]
mod tests;
