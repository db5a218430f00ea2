//! Bytes of `COPY … TO STDOUT (FORMAT binary)`, cut anywhere → rows of datums. Pure: no I/O, never panics on any input.

use bytes::{Bytes, BytesMut};

use crate::wal::pgoutput::Datum;

/// What every binary copy begins with.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, and the length of the header's extension.
const HEADER: usize = SIGNATURE.len() + 8;
/// Flags in the upper half change the format; none is set by a server of today.
const CRITICAL_FLAGS: u32 = 0xFFFF_0000;
/// Most bytes of a value, `MaxAllocSize`: a longer one is no length but garbage.
const MAX_VALUE: u32 = 0x3FFF_FFFF;

/// Why bytes are not a binary copy. Nothing after the first error can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The first bytes are not the format's.
    #[error("the copy does not begin with the signature of the binary format")]
    Signature,
    /// A flag that changes the format.
    #[error("the copy's header has unknown flags {0:#x}")]
    Flags(u32),
    /// A row of another width than was selected.
    #[error("a copied row has {found} columns instead of {expected}")]
    Width {
        /// Columns selected.
        expected: usize,
        /// Columns found.
        found: i16,
    },
    /// A length that no value has.
    #[error("a copied value has the length {0}")]
    Length(u32),
    /// Bytes after the end marker.
    #[error("the copy goes on after its end")]
    AfterEnd,
    /// No end marker: rows are missing.
    #[error("the copy ends early")]
    Truncated,
}

/// Splits one copy into rows.
#[derive(Debug)]
pub struct CopyDecoder {
    columns: usize,
    buffer: BytesMut,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    Ended,
}

impl CopyDecoder {
    /// For rows of that many columns.
    #[must_use]
    pub fn new(columns: usize) -> Self {
        Self {
            columns,
            buffer: BytesMut::new(),
            state: State::Header,
        }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next row, each value `Null` or `Binary`; `None` when more bytes are needed, or at the end.
    ///
    /// # Errors
    /// When the bytes are not in the format.
    pub fn next_row(&mut self) -> Result<Option<Vec<Datum>>, CopyError> {
        if self.state == State::Header && !self.header()? {
            return Ok(None);
        }
        if self.state == State::Ended {
            return if self.buffer.is_empty() {
                Ok(None)
            } else {
                Err(CopyError::AfterEnd)
            };
        }
        let Some((length, found)) = self.measure()? else {
            return Ok(None);
        };
        let bytes = self.buffer.split_to(length).freeze();
        if found == -1 {
            self.state = State::Ended;
            return self.next_row();
        }
        self.row(&bytes).map(Some)
    }

    /// The copy is over: whether it was complete.
    ///
    /// # Errors
    /// When its end marker did not come.
    pub fn finish(&self) -> Result<(), CopyError> {
        if self.state == State::Ended && self.buffer.is_empty() {
            Ok(())
        } else {
            Err(CopyError::Truncated)
        }
    }

    /// Whether the header is complete; takes it.
    fn header(&mut self) -> Result<bool, CopyError> {
        let seen = self.buffer.len().min(SIGNATURE.len());
        if self.buffer.get(..seen) != SIGNATURE.get(..seen) {
            return Err(CopyError::Signature);
        }
        let Some(flags) = self.u32_at(SIGNATURE.len()) else {
            return Ok(false);
        };
        if flags & CRITICAL_FLAGS != 0 {
            return Err(CopyError::Flags(flags));
        }
        let Some(extension) = self.u32_at(SIGNATURE.len() + 4) else {
            return Ok(false);
        };
        if extension > MAX_VALUE {
            return Err(CopyError::Length(extension));
        }
        let length = HEADER + extension as usize;
        if self.buffer.len() < length {
            return Ok(false);
        }
        drop(self.buffer.split_to(length));
        self.state = State::Rows;
        Ok(true)
    }

    /// Bytes and columns of the next row, once all of it is there; −1 columns is the end marker.
    fn measure(&self) -> Result<Option<(usize, i16)>, CopyError> {
        let Some(count) = self.buffer.first_chunk::<2>() else {
            return Ok(None);
        };
        let found = i16::from_be_bytes(*count);
        if found == -1 {
            return Ok(Some((2, found)));
        }
        if usize::try_from(found) != Ok(self.columns) {
            return Err(CopyError::Width {
                expected: self.columns,
                found,
            });
        }
        let mut at = 2;
        for _ in 0..self.columns {
            let Some(length) = self.u32_at(at) else {
                return Ok(None);
            };
            at += 4 + value_length(length)?.unwrap_or(0);
        }
        Ok((at <= self.buffer.len()).then_some((at, found)))
    }

    /// The values of a row that was measured.
    fn row(&self, bytes: &Bytes) -> Result<Vec<Datum>, CopyError> {
        let mut row = Vec::with_capacity(self.columns);
        let mut at = 2;
        for _ in 0..self.columns {
            let length = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
            let length = u32::from_be_bytes(*length.ok_or(CopyError::Truncated)?);
            at += 4;
            row.push(match value_length(length)? {
                None => Datum::Null,
                Some(length) if at + length <= bytes.len() => {
                    at += length;
                    Datum::Binary(bytes.slice(at - length..at))
                }
                Some(_) => return Err(CopyError::Truncated),
            });
        }
        Ok(row)
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        let word = self.buffer.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*word))
    }
}

/// A value's length, `None` for NULL.
fn value_length(word: u32) -> Result<Option<usize>, CopyError> {
    match word {
        u32::MAX => Ok(None),
        length if length <= MAX_VALUE => Ok(Some(length as usize)),
        length => Err(CopyError::Length(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0; 8]);
        for row in rows {
            bytes.extend_from_slice(&i16::try_from(row.len()).unwrap().to_be_bytes());
            for value in row {
                let length = value
                    .as_ref()
                    .map_or(-1, |v| i32::try_from(v.len()).unwrap());
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(value.as_deref().unwrap_or_default());
            }
        }
        bytes.extend_from_slice(&[0xFF, 0xFF]);
        bytes
    }

    fn decode(columns: usize, pieces: &[&[u8]]) -> Result<Vec<Vec<Option<Vec<u8>>>>, CopyError> {
        let mut decoder = CopyDecoder::new(columns);
        let mut rows = Vec::new();
        for piece in pieces {
            decoder.feed(piece);
            while let Some(row) = decoder.next_row()? {
                rows.push(
                    row.into_iter()
                        .map(|datum| match datum {
                            Datum::Binary(bytes) => Some(bytes.to_vec()),
                            Datum::Null => None,
                            Datum::Unchanged | Datum::Text(_) => panic!("no such datum in a copy"),
                        })
                        .collect(),
                );
            }
        }
        decoder.finish()?;
        Ok(rows)
    }

    fn two_rows() -> Vec<Vec<Option<Vec<u8>>>> {
        vec![
            vec![Some(vec![0, 0, 0, 1]), None],
            vec![Some(vec![0, 0, 0, 2]), Some(b"hello".to_vec())],
        ]
    }

    #[test]
    fn every_cut_gives_the_same_rows_and_every_loss_an_error() {
        let rows = two_rows();
        let bytes = encode(&rows);
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(decode(2, &[head, tail]).as_ref(), Ok(&rows), "cut at {cut}");
            if cut < bytes.len() {
                assert_eq!(
                    decode(2, &[head]),
                    Err(CopyError::Truncated),
                    "lost from {cut}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_the_format_is_refused() {
        let bytes = encode(&two_rows());
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(decode(2, &[&long]), Err(CopyError::AfterEnd));
        let width = CopyError::Width {
            expected: 3,
            found: 2,
        };
        assert_eq!(decode(3, &[&bytes]), Err(width));
        assert_eq!(decode(2, &[b"COPY"]), Err(CopyError::Signature));
        let mut flags = bytes.clone();
        flags[SIGNATURE.len()] = 1;
        assert_eq!(decode(2, &[&flags]), Err(CopyError::Flags(1 << 24)));
        let mut length = bytes;
        length[HEADER + 2] = 0x70;
        assert_eq!(decode(2, &[&length]), Err(CopyError::Length(0x7000_0004)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), columns in 0_usize..4) {
            let _ = decode(columns, &[&bytes]);
            let mut after_header = encode(&[]);
            after_header.truncate(HEADER);
            after_header.extend_from_slice(&bytes);
            let _ = decode(columns, &[&after_header]);
        }
    }
}
