//! The text and binary forms of `vector`, `halfvec`, `real[]` and `bit` ↔ vectors. Never panics on any input.

use super::{FLOAT4_OID, MAX_BITS, MAX_DIM, Vector, VectorError, VectorType};

impl Vector {
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
}

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
    // What is too small for `real` PostgreSQL refuses, and pgvector takes for 0.
    let digits = element.split(['e', 'E']).next().unwrap_or_default();
    if kind == VectorType::RealArray
        && component == 0.0
        && digits.contains(|c| ('1'..='9').contains(&c))
    {
        return Err(VectorError::Malformed);
    }
    if kind == VectorType::Halfvec {
        Ok(half::f16::from_f32(component).to_f32())
    } else {
        Ok(component)
    }
}
