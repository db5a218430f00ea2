//! What Rektor knows of the upstream catalogue: tables, columns, keys and index definitions, as plain checked data.
//! Never reads them itself (`upstream` does) and never holds a row's values except as an encoded key.

mod value;

pub use value::{Comparison, FilterKind, ValueKind};

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::vector::{Dim, Expression, Form, Metric, VectorType};

/// `pg_class.oid` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationId(pub u32);

/// `pg_type.oid` of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TypeId(pub u32);

/// `rektor.index.id`, an index's identity across renames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IndexId(pub i64);

impl fmt::Display for IndexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `pg_attribute.attnum` of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ColumnNumber(pub i16);

/// A schema-qualified name, unquoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QualifiedName {
    /// The schema.
    pub schema: String,
    /// The name within it.
    pub name: String,
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

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

/// The column that holds the vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorColumn {
    /// The column's name.
    pub name: String,
    /// The column's number.
    pub number: ColumnNumber,
    /// The column's type, by name.
    pub kind: VectorType,
    /// The column's type, by this database's OID.
    pub type_id: TypeId,
}

/// pgvector's types by this database's OIDs; without pgvector there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgvectorTypes {
    /// `vector`
    pub vector: Option<TypeId>,
    /// `halfvec`
    pub halfvec: Option<TypeId>,
}

/// A column named by INCLUDE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncludeColumn {
    /// The column's name.
    pub name: String,
    /// The column's number.
    pub number: ColumnNumber,
    /// The column's type.
    pub type_id: TypeId,
    /// Whether equal values are equal bytes, as far as the column's collation decides that.
    #[serde(default)]
    pub deterministic: bool,
}

/// How an index finds its candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// One growing HNSW graph over 8-bit codes.
    #[default]
    Hnsw,
    /// An exact scan of every row.
    Flat,
    /// FAISS's inverted lists with 4-bit codes.
    Ivf,
    /// What a FAISS factory string names.
    Factory,
}

impl Method {
    /// The name in `WITH (method = …)`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hnsw => "hnsw",
            Self::Flat => "flat",
            Self::Ivf => "ivf",
            Self::Factory => "factory",
        }
    }

    /// The method of that [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Hnsw, Self::Flat, Self::Ivf, Self::Factory]
            .into_iter()
            .find(|method| method.name() == name)
    }
}

/// A FAISS factory string of those that can be indexed with: `[transform,]IVFn[_HNSWm],code` or `[transform,]HNSWm[,code]`.
/// The exact re-ranking comes after it, so it has no refinement of its own.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Factory {
    bytes: [u8; Self::MOST],
    length: u8,
}

impl Factory {
    /// Longest text: the longest useful one has some 40 bytes.
    const MOST: usize = 64;

    /// The text, if it is on the list.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut parts = text.split(',').peekable();
        parts.next_if(|part| is_transform(part));
        let structure = parts.next()?;
        let code = parts.next();
        let known = match numbered(structure, "IVF") {
            Some("") => code.is_some_and(is_code),
            Some(rest) => {
                rest.strip_prefix("_HNSW").is_some_and(is_number) && code.is_some_and(is_code)
            }
            // Lists alone rank product codes with a selection of rows.
            None => {
                numbered(structure, "HNSW") == Some("")
                    && code.is_none_or(|code| is_code(code) && !code.starts_with("PQ"))
            }
        };
        let mut bytes = [0; Self::MOST];
        bytes
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        let length = u8::try_from(text.len()).ok()?;
        (known && parts.next().is_none()).then_some(Self { bytes, length })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length));
        // Made of a text of that length.
        bytes
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl TryFrom<String> for Factory {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("a factory string that cannot be indexed with")
    }
}

impl From<Factory> for String {
    fn from(factory: Factory) -> Self {
        factory.as_str().to_owned()
    }
}

/// What follows a name and a number.
fn numbered<'a>(part: &'a str, name: &str) -> Option<&'a str> {
    let rest = part.strip_prefix(name)?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = rest.split_at_checked(digits)?;
    is_number(number).then_some(rest)
}

/// A whole number from 1 to 99,999.
fn is_number(text: &str) -> bool {
    (1..=5).contains(&text.len())
        && !text.starts_with('0')
        && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_transform(part: &str) -> bool {
    let plain = ["PCA", "PCAR", "RR", "OPQ"].into_iter();
    plain.clone().any(|name| numbered(part, name) == Some(""))
        || numbered(part, "OPQ").is_some_and(|rest| rest.strip_prefix('_').is_some_and(is_number))
}

fn is_code(part: &str) -> bool {
    let words = ["Flat", "SQ4", "SQ6", "SQ8", "SQfp16", "SQbf16", "RaBitQ"];
    words.contains(&part)
        || numbered(part, "PQ")
            .is_some_and(|bits| ["", "x4", "x8", "x4fs", "x4fsr"].contains(&bits))
}

/// What is kept of vectors for comparing exactly what codes have found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// All of them.
    #[default]
    F32,
    /// IEEE halves: 11 bits of components from 6e-5 to 65,504. All of `halfvec`.
    F16,
    /// Upper halves of floats: 8 bits of components of any size.
    Bf16,
    /// Nothing but the codes.
    I8,
}

impl Storage {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::I8];

    /// The name in `WITH (storage = …)`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
        }
    }

    /// Bytes of a component.
    #[must_use]
    pub const fn component_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 0,
        }
    }
}

/// What `WITH (…)` chose, within pgvector's own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexOptions {
    /// `method`.
    pub method: Method,
    /// `m`: links a node has on each upper layer, 2 to 100; twice as many on the lowest.
    pub m: u16,
    /// `ef_construction`: candidates weighed for each new node's links, 4 to 1000 and at least 2 × m.
    pub ef_construction: u16,
    /// `lists`: of the method `ivf`; 0 for the square root of the number of rows.
    #[serde(default)]
    pub lists: u16,
    /// `factory`: of the method of that name.
    #[serde(default)]
    pub factory: Option<Factory>,
    /// `storage`; absent in what was stored before there was a choice.
    #[serde(default)]
    pub storage: Storage,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            method: Method::Hnsw,
            m: 16,
            ef_construction: 100,
            lists: 0,
            factory: None,
            storage: Storage::F32,
        }
    }
}

/// An index as `rektor.index` defines it, resolved against the catalogue of one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexDefinition {
    /// `rektor.index.id`.
    pub id: IndexId,
    /// The index's name; its schema is the table's.
    pub name: QualifiedName,
    /// The table's OID.
    pub relation: RelationId,
    /// The table's name.
    pub table: QualifiedName,
    /// The indexed column.
    pub column: VectorColumn,
    /// What of the column is indexed.
    #[serde(default)]
    pub expression: Expression,
    /// The types that pgvector brings.
    #[serde(default)]
    pub pgvector: PgvectorTypes,
    /// How many dimensions an indexable vector has.
    pub dim: Dim,
    /// The distance it serves.
    pub metric: Metric,
    /// The key that identifies a row, 1 to 32 columns.
    pub key: Vec<KeyColumn>,
    /// The columns kept beside the vector.
    pub include: Vec<IncludeColumn>,
    /// `WITH (…)`.
    pub options: IndexOptions,
}

impl IndexDefinition {
    /// The type of the values that it orders; `None` if the column's type has no such expression.
    #[must_use]
    pub const fn kind(&self) -> Option<VectorType> {
        self.expression.kind(self.column.kind)
    }

    /// What its vectors are made of.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.metric.form(self.dim)
    }

    /// The columns' numbers: of the key, the vector, INCLUDE.
    pub fn columns(&self) -> impl Iterator<Item = ColumnNumber> {
        let key = self.key.iter().map(|column| column.number);
        let include = self.include.iter().map(|column| column.number);
        key.chain([self.column.number]).chain(include)
    }

    /// The same with other names of the columns; `None` if one has none.
    #[must_use]
    pub fn renamed<'a>(&self, name: impl Fn(ColumnNumber) -> Option<&'a str>) -> Option<Self> {
        let mut renamed = self.clone();
        let name = |number| name(number).map(str::to_owned);
        for column in &mut renamed.key {
            column.name = name(column.number)?;
        }
        renamed.column.name = name(renamed.column.number)?;
        for column in &mut renamed.include {
            column.name = name(column.number)?;
        }
        Some(renamed)
    }
}

/// A name as an identifier of SQL, always in quotes.
#[must_use]
pub fn quoted_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_parts_round_trip() {
        for parts in [vec![&b"\0\0\0\x01"[..]], vec![b"a", b"", b"ccc"]] {
            let key = RowKey::from_parts(parts.iter().copied());
            assert_eq!(RowKey::parts(key.as_bytes()).collect::<Vec<_>>(), parts);
        }
        assert_eq!(RowKey::parts(b"\0\0\0\x09short").count(), 0);
    }

    #[test]
    fn key_types_are_found_by_oid() {
        for kind in KeyType::ALL {
            assert_eq!(KeyType::from_oid(kind.oid()), Some(kind));
        }
        assert_eq!(KeyType::from_oid(TypeId(1700)), None);
    }

    #[test]
    fn factory_strings_of_the_list() {
        for text in [
            "IVF100,Flat",
            "IVF4096_HNSW32,PQ384x4fs",
            "OPQ64_128,IVF100,PQ64x4fs",
            "PCA64,HNSW16,SQ8",
            "HNSW32",
            "IVF1,RaBitQ",
        ] {
            let factory = Factory::new(text);
            assert_eq!(factory.map(String::from).as_deref(), Some(text));
        }
        for text in [
            "",
            ",",
            "Flat",
            "LSH",
            "PQ8",
            "HNSW16,PQ8",
            "IVF0,Flat",
            "IVF100",
            "IVF100,",
            "IVF100,Flat,RFlat",
            "IVF999999,Flat",
            "IVF100_HNSW,Flat",
            "IDMap,IVF1,Flat",
            "IVF1,PQ8x12",
            "OPQ,IVF1,Flat",
            "IVFé,Flat",
        ] {
            assert_eq!(Factory::new(text), None, "{text}");
        }
    }

    fn columns(kinds: &[KeyType]) -> Vec<KeyColumn> {
        let column = |(number, kind): (i16, &KeyType)| KeyColumn {
            name: format!("k{number}"),
            number: ColumnNumber(number),
            kind: *kind,
        };
        (1..).zip(kinds).map(column).collect()
    }

    #[test]
    fn keys_become_one_array_a_column() {
        let keys = [
            RowKey::from_parts([&b"\0\0\0\x01"[..], b"ab"]),
            RowKey::from_parts([&b"\0\0\0\x02"[..], b""]),
        ];
        let keys = keys.iter().map(RowKey::as_bytes);
        let found = key_arrays(&columns(&[KeyType::Int4, KeyType::Text]), keys);
        // As array_send(array[1, 2]) and array_send(array['ab', '']) print them.
        let int = b"\0\0\0\x01\0\0\0\0\0\0\0\x17\0\0\0\x02\0\0\0\x01\0\0\0\x04\0\0\0\x01\0\0\0\x04\0\0\0\x02";
        let text = b"\0\0\0\x01\0\0\0\0\0\0\0\x19\0\0\0\x02\0\0\0\x01\0\0\0\x02ab\0\0\0\0";
        assert_eq!(found, [&int[..], &text[..]]);
    }

    #[test]
    fn no_keys_are_an_empty_array() {
        let found = key_arrays(&columns(&[KeyType::Uuid]), std::iter::empty());
        assert_eq!(found, [&b"\0\0\0\0\0\0\0\0\0\0\x0b\x86"[..]]);
    }
}
