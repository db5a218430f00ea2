//! What Rektor knows of the upstream catalogue: tables, columns, keys and index definitions, as plain checked data.
//! Never reads them itself (`upstream` does) and never holds a row's values except as an encoded key.

mod key;
mod value;

pub use key::{KeyColumn, KeyType, RowKey, key_arrays, key_tables};
pub use value::{Comparison, FilterKind, ValueKind};

use std::fmt;

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

/// A table's name as a quoted identifier, with its schema where one is given.
#[must_use]
pub fn quoted_name(schema: Option<&str>, name: &str) -> String {
    match schema {
        Some(schema) => format!("{}.{}", quoted_identifier(schema), quoted_identifier(name)),
        None => quoted_identifier(name),
    }
}

#[cfg(test)]
mod tests;
