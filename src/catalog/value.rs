//! The types of columns that a filter can use, and how it compares them.

use super::IncludeColumn;

/// The types of columns that a filter can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueKind {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric`
    Numeric,
    /// `text` and `character varying`: equality only
    Text,
    /// `uuid`: equality only
    Uuid,
    /// `date`
    Date,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    Timestamptz,
}

/// How a filter sees an INCLUDE column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterKind {
    /// One value of a kind.
    One(ValueKind),
    /// An array of values of a kind, of any dimensions.
    Array(ValueKind),
    /// `jsonb`
    Jsonb,
}

impl FilterKind {
    /// `jsonb`, by `pg_type.oid`.
    pub const JSONB_OID: u32 = 3802;

    /// The kind of a column, if filters can use it. Text under a collation that takes different strings for equal cannot be
    /// compared by its bytes.
    #[must_use]
    pub fn of(column: &IncludeColumn) -> Option<Self> {
        let is_comparable = |kind: Self| match kind {
            Self::One(kind) | Self::Array(kind) => kind != ValueKind::Text || column.deterministic,
            Self::Jsonb => true, // knows no collation
        };
        Self::from_oid(column.type_id.0).filter(|kind| is_comparable(*kind))
    }

    /// The kind of a type.
    #[must_use]
    pub fn from_oid(oid: u32) -> Option<Self> {
        let array = || ValueKind::from_array_oid(oid).map(Self::Array);
        let one = ValueKind::from_oid(oid).map(Self::One);
        one.or_else(array)
            .or((oid == Self::JSONB_OID).then_some(Self::Jsonb))
    }
}

impl From<ValueKind> for FilterKind {
    fn from(kind: ValueKind) -> Self {
        Self::One(kind)
    }
}

impl ValueKind {
    /// The kind of a type and of the elements of an array type, by `pg_type.oid`.
    const OIDS: [(u32, u32, Self); 13] = [
        (16, 1000, Self::Bool),
        (21, 1005, Self::Int2),
        (23, 1007, Self::Int4),
        (20, 1016, Self::Int8),
        (700, 1021, Self::Float4),
        (701, 1022, Self::Float8),
        (1700, 1231, Self::Numeric),
        (25, 1009, Self::Text),
        (1043, 1015, Self::Text),
        (2950, 2951, Self::Uuid),
        (1082, 1182, Self::Date),
        (1114, 1115, Self::Timestamp),
        (1184, 1185, Self::Timestamptz),
    ];

    /// The kind of a type.
    #[must_use]
    pub fn from_oid(oid: u32) -> Option<Self> {
        let mut kinds = Self::OIDS.into_iter();
        kinds.find_map(|(own, _, kind)| (own == oid).then_some(kind))
    }

    /// The kind of an array type's elements.
    #[must_use]
    pub fn from_array_oid(oid: u32) -> Option<Self> {
        let mut kinds = Self::OIDS.into_iter();
        kinds.find_map(|(_, array, kind)| (array == oid).then_some(kind))
    }

    /// Every kind, some of them twice.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::OIDS.into_iter().map(|(_, _, kind)| kind)
    }

    /// Whether constants are compared with such columns by more than equality.
    pub(crate) fn is_ordered(self) -> bool {
        !matches!(self, Self::Text | Self::Uuid)
    }
}

/// How a column's value is compared with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}
