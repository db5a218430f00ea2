//! A row's key and INCLUDE values ↔ one byte string: `key length, key, (length or NULL, value) per column`, lengths in
//! 32 bits little-endian. Written and read only within this process, so reading trusts the form but never panics.

use super::pages::MAX_RECORD;
use super::{ColumnChange, IndexError};

/// The length that means NULL.
const NULL: u32 = u32::MAX;

/// The record of `key` after `changes` to `old`; `None` when a column is unchanged and there is no old record.
///
/// # Errors
/// When the record would be longer than a page can hold.
pub(super) fn encode(
    old: Option<&[u8]>,
    key: &[u8],
    changes: &[ColumnChange],
) -> Result<Option<Vec<u8>>, IndexError> {
    let mut record = Vec::with_capacity(key.len() + 4 + changes.len() * 12);
    push(&mut record, Some(key))?;
    for (column, change) in changes.iter().enumerate() {
        match change {
            ColumnChange::Set(value) => push(&mut record, Some(value))?,
            ColumnChange::Null => push(&mut record, None)?,
            ColumnChange::Unchanged => match old {
                Some(old) => push(&mut record, include(old, column))?,
                None => return Ok(None),
            },
        }
    }
    Ok(Some(record))
}

/// The key of a record.
pub(super) fn key(record: &[u8]) -> &[u8] {
    fields(record).next().flatten().unwrap_or_default()
}

/// INCLUDE column `column` of a record.
pub(super) fn include(record: &[u8], column: usize) -> Option<&[u8]> {
    fields(record).nth(column + 1).flatten()
}

fn fields(mut rest: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        if length == NULL {
            rest = after;
            return Some(None);
        }
        let (field, after) = after.split_at_checked(length as usize)?;
        rest = after;
        Some(Some(field))
    })
}

fn push(record: &mut Vec<u8>, field: Option<&[u8]>) -> Result<(), IndexError> {
    let bytes = field.unwrap_or_default();
    if record.len() + 4 + bytes.len() > MAX_RECORD {
        return Err(IndexError::Full(format!(
            "key and INCLUDE values of a row exceed {MAX_RECORD} bytes"
        )));
    }
    let length = match field {
        Some(bytes) => u32::try_from(bytes.len()).unwrap_or(NULL), // at most MAX_RECORD
        None => NULL,
    };
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_columns_keep_what_they_have() {
        let set = |value: &[u8]| ColumnChange::Set(value.into());
        let first = encode(None, b"k", &[set(b"a"), ColumnChange::Null, set(b"")]);
        let first = first.unwrap().unwrap();
        assert_eq!(key(&first), b"k");
        let columns: Vec<_> = (0..4).map(|column| include(&first, column)).collect();
        assert_eq!(columns, [Some(&b"a"[..]), None, Some(&b""[..]), None]);

        let changes = [ColumnChange::Unchanged, set(b"b"), ColumnChange::Unchanged];
        let second = encode(Some(&first), b"key2", &changes).unwrap().unwrap();
        assert_eq!(key(&second), b"key2");
        let columns: Vec<_> = (0..3).map(|column| include(&second, column)).collect();
        assert_eq!(columns, [Some(&b"a"[..]), Some(&b"b"[..]), Some(&b""[..])]);
        assert!(encode(None, b"k", &changes).unwrap().is_none());
    }

    #[test]
    fn an_oversized_value_is_refused() {
        let huge = ColumnChange::Set(vec![0; MAX_RECORD].into());
        assert!(encode(None, b"k", &[huge]).is_err());
    }
}
