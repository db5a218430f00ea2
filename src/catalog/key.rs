//! Keys of rows: the types they may have, their encoding, and encoded keys → the binary arrays that ask for their rows.
//! Never shows a key's values.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{ColumnNumber, TypeId};

/// The types a key column may have: their equality is leakproof, and their binary form identifies the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyType {
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `uuid`
    Uuid,
    /// `text`
    Text,
    /// `character varying`
    Varchar,
}

impl KeyType {
    /// Every key type.
    pub const ALL: [Self; 6] = [
        Self::Int2,
        Self::Int4,
        Self::Int8,
        Self::Uuid,
        Self::Text,
        Self::Varchar,
    ];

    /// The type's `pg_type.oid`.
    #[must_use]
    pub const fn oid(self) -> TypeId {
        TypeId(match self {
            Self::Int2 => 21,
            Self::Int4 => 23,
            Self::Int8 => 20,
            Self::Uuid => 2950,
            Self::Text => 25,
            Self::Varchar => 1043,
        })
    }

    /// The `pg_type.oid` of its array type.
    #[must_use]
    pub const fn array_oid(self) -> TypeId {
        TypeId(match self {
            Self::Int2 => 1005,
            Self::Int4 => 1007,
            Self::Int8 => 1016,
            Self::Uuid => 2951,
            Self::Text => 1009,
            Self::Varchar => 1015,
        })
    }

    /// The key type of that OID, if it is one.
    #[must_use]
    pub fn from_oid(oid: TypeId) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.oid() == oid)
    }

    /// The length of the binary form, where it is fixed.
    #[must_use]
    pub const fn width(self) -> Option<usize> {
        match self {
            Self::Int2 => Some(2),
            Self::Int4 => Some(4),
            Self::Int8 => Some(8),
            Self::Uuid => Some(16),
            Self::Text | Self::Varchar => None,
        }
    }
}

/// A column of an indexed table's key, in key order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// The column's name.
    pub name: String,
    /// The column's number.
    pub number: ColumnNumber,
    /// The column's type.
    pub kind: KeyType,
}

/// A row's key: for each key column an `int32` length and the value's binary form, both as PostgreSQL sends the
/// elements of an array. Equal keys are equal bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey(Box<[u8]>);

impl RowKey {
    /// The key of these binary values, in key order.
    #[must_use]
    pub fn from_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::with_capacity(12);
        for part in parts {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX); // a value has at most 1 GiB
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Self(bytes.into_boxed_slice())
    }

    /// The key whose encoding this is.
    #[must_use]
    pub fn from_encoded(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The encoding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The binary values of an encoded key, in key order; stops at a malformed length.
    pub fn parts(mut encoded: &[u8]) -> impl Iterator<Item = &[u8]> {
        std::iter::from_fn(move || {
            let (length, rest) = encoded.split_first_chunk::<4>()?;
            let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            encoded = rest;
            Some(part)
        })
    }
}

/// Encoded keys as PostgreSQL's binary arrays, one a key column.
pub fn key_arrays<'a>(
    columns: &[KeyColumn],
    keys: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Vec<Bytes> {
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let header = |column: &KeyColumn| {
        let mut array = BytesMut::with_capacity(20 + keys.len() * 12);
        array.put_u32(u32::from(count > 0)); // dimensions
        array.put_u32(0); // no NULLs
        array.put_u32(column.kind.oid().0);
        if count > 0 {
            array.put_u32(count);
            array.put_u32(1); // lower bound
        }
        array
    };
    let mut arrays: Vec<BytesMut> = columns.iter().map(header).collect();
    for key in keys {
        for (array, part) in arrays.iter_mut().zip(RowKey::parts(key)) {
            array.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
            array.put_slice(part);
        }
    }
    arrays.into_iter().map(BytesMut::freeze).collect()
}

/// The same with two dimensions: each row of keys is one of the arrays, as long as the longest, with NULLs at its end.
pub fn key_tables(columns: &[KeyColumn], rows: &[Vec<&[u8]>]) -> Vec<Bytes> {
    let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let header = |column: &KeyColumn| {
        let mut array = BytesMut::with_capacity(28 + rows.len() * width * 12);
        array.put_u32(if width > 0 { 2 } else { 0 }); // dimensions
        array.put_u32(u32::from(width > 0)); // perhaps NULLs
        array.put_u32(column.kind.oid().0);
        if width > 0 {
            for size in [rows.len(), width] {
                array.put_u32(number(size));
                array.put_u32(1); // lower bound
            }
        }
        array
    };
    let mut arrays: Vec<BytesMut> = columns.iter().map(header).collect();
    for keys in rows {
        for key in keys {
            for (array, part) in arrays.iter_mut().zip(RowKey::parts(key)) {
                array.put_u32(number(part.len()));
                array.put_slice(part);
            }
        }
        for array in &mut arrays {
            (keys.len()..width).for_each(|_| array.put_i32(-1));
        }
    }
    arrays.into_iter().map(BytesMut::freeze).collect()
}

impl fmt::Debug for RowKey {
    /// Row values are never logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowKey({} bytes)", self.0.len())
    }
}
