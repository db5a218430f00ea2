//! A change of a table, or a copied row, as one index sees it: key, vector and INCLUDE values picked out by column name.
//! Pure. Never guesses: a table that does not look as the definition says is an error, a value that is no vector is left out.

use std::sync::Arc;

use crate::catalog::{IndexDefinition, QualifiedName, RelationId, TypeId};
use crate::index::{ColumnChange, LeftOut, RowChange, VectorChange};
use crate::upstream::backfill::TableCopy;
use crate::vector::{Dim, Expression, Vector, VectorError, VectorType};
use crate::wal::pgoutput::{Datum, Relation, RelationColumn};
use crate::wal::transaction::{Change, KeyChange, KeyError};

/// Why an index cannot follow its table as it is now. Reading the catalogue again may heal it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProjectionError {
    /// The table has no column of that name any more.
    #[error("table {table} has no column {column} in the stream")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// The column has another type than it had.
    #[error("column {column} of table {table} has another type than the index was made for")]
    OtherType {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A name may mean one column or another.
    #[error("columns of table {0} were renamed in a way that the stream does not tell")]
    Renamed(String),
    /// A value arrived in text form, though the stream is binary.
    #[error("an INCLUDE column of table {0} arrived in text form")]
    TextInclude(String),
    /// The change does not carry the key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Where an index finds its columns in a table's tuples. Valid for one [`Relation`].
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    relation: Arc<Relation>,
    key: Vec<usize>,
    vector: usize,
    kind: VectorType,
    expression: Expression,
    dim: Dim,
    include: Vec<usize>,
}

impl Projection {
    /// Finds the columns of `definition` in the table as the stream describes it.
    pub(crate) fn new(
        definition: &IndexDefinition,
        relation: &Arc<Relation>,
    ) -> Result<Self, ProjectionError> {
        let find = |column: &str, type_id: TypeId| {
            let error = |other| {
                let table = definition.table.to_string();
                let column = column.to_owned();
                if other {
                    ProjectionError::OtherType { table, column }
                } else {
                    ProjectionError::NoColumn { table, column }
                }
            };
            let position = relation.position(column).ok_or_else(|| error(false))?;
            let found = relation.columns.get(position).map(|c| c.type_id);
            if found == Some(type_id) {
                Ok(position)
            } else {
                Err(error(true))
            }
        };
        let key = definition.key.iter();
        let include = definition.include.iter();
        Ok(Self {
            relation: Arc::clone(relation),
            key: key
                .map(|k| find(&k.name, k.kind.oid()))
                .collect::<Result<_, _>>()?,
            vector: find(&definition.column.name, definition.column.type_id)?,
            kind: definition.column.kind,
            expression: definition.expression,
            dim: definition.dim,
            include: include
                .map(|i| find(&i.name, i.type_id))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether it was made for exactly this description.
    pub(crate) fn is_for(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.relation, relation)
    }

    /// The change as the index applies it.
    pub(crate) fn change(&self, change: &Change) -> Result<RowChange, ProjectionError> {
        let (old_key, key) = match change.key(&self.key)? {
            KeyChange::Deleted(key) => return Ok(RowChange::Delete { key }),
            KeyChange::Inserted(key) => (None, key),
            KeyChange::Updated { old, new } => (old, new),
        };
        let new = change.row.new_tuple().unwrap_or_default(); // there for all but deletes
        let include = self.include.iter().map(|position| {
            Ok(match new.get(*position) {
                Some(Datum::Binary(bytes)) => ColumnChange::Set(bytes[..].into()),
                Some(Datum::Unchanged) => ColumnChange::Unchanged,
                Some(Datum::Null) | None => ColumnChange::Null,
                Some(Datum::Text(_)) => {
                    return Err(ProjectionError::TextInclude(self.relation.name.clone()));
                }
            })
        });
        Ok(RowChange::Upsert {
            old_key,
            key,
            vector: self.vector_change(new.get(self.vector)),
            include: include.collect::<Result<_, _>>()?,
        })
    }

    /// What a datum says of the vector.
    fn vector_change(&self, datum: Option<&Datum>) -> VectorChange {
        let decoded = match datum {
            Some(Datum::Unchanged) => return VectorChange::Unchanged,
            None | Some(Datum::Null) => return VectorChange::LeftOut(LeftOut::Null),
            Some(Datum::Binary(bytes)) => Vector::from_binary(self.kind, bytes),
            Some(Datum::Text(bytes)) => std::str::from_utf8(bytes)
                .map_err(|_| VectorError::Malformed)
                .and_then(|text| Vector::from_text(self.kind, text)),
        };
        match decoded.and_then(|vector| self.expression.of(vector, self.dim)) {
            Ok(vector) => VectorChange::Set(vector),
            Err(VectorError::Empty | VectorError::TooLong | VectorError::NotAVector) => {
                VectorChange::LeftOut(LeftOut::WrongDimension)
            }
            Err(
                VectorError::NotANumber
                | VectorError::Infinite
                | VectorError::NullElement
                | VectorError::Malformed,
            ) => VectorChange::LeftOut(LeftOut::NotFinite),
        }
    }
}

/// What to copy of a table for these indexes, all of that table, and how the stream would describe such rows.
pub(crate) fn table_copy(
    definitions: &[&IndexDefinition],
    row_filter: Option<String>,
) -> (TableCopy, Arc<Relation>) {
    let mut columns: Vec<RelationColumn> = Vec::new();
    let mut numbers = Vec::new();
    for definition in definitions {
        let key = definition.key.iter().map(|k| (&k.name, k.kind.oid()));
        let vector = [(&definition.column.name, definition.column.type_id)];
        let include = definition.include.iter().map(|i| (&i.name, i.type_id));
        let named = key.chain(vector).chain(include);
        for ((name, type_id), number) in named.zip(definition.columns()) {
            if !columns.iter().any(|column| column.name == *name) {
                numbers.push(number);
                columns.push(RelationColumn {
                    key: false,
                    name: name.clone(),
                    type_id,
                    type_modifier: -1,
                });
            }
        }
    }
    let (relation, name) = definitions.first().map_or_else(
        || {
            (
                RelationId(0),
                QualifiedName {
                    schema: String::new(),
                    name: String::new(),
                },
            )
        },
        |definition| (definition.relation, definition.table.clone()),
    );
    let described = Arc::new(Relation {
        id: relation,
        schema: name.schema.clone(),
        name: name.name.clone(),
        replica_identity: b'd',
        columns,
    });
    let table = TableCopy {
        relation,
        name,
        columns: described
            .columns
            .iter()
            .map(|column| column.name.clone())
            .collect(),
        numbers,
        row_filter,
    };
    (table, described)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{
        ColumnNumber, IncludeColumn, IndexId, IndexOptions, KeyColumn, KeyType, PgvectorTypes,
        RowKey, VectorColumn,
    };
    use crate::lsn::Lsn;
    use crate::vector::Metric;
    use crate::wal::pgoutput::OldTuple;
    use crate::wal::transaction::RowImage;
    use bytes::Bytes;

    const VECTOR: TypeId = TypeId(16_000);

    fn definition() -> IndexDefinition {
        let name = |name: &str| QualifiedName {
            schema: "public".into(),
            name: name.into(),
        };
        IndexDefinition {
            id: IndexId(1),
            name: name("i"),
            relation: RelationId(7),
            table: name("t"),
            column: VectorColumn {
                name: "v".into(),
                number: ColumnNumber(2),
                kind: VectorType::Vector,
                type_id: VECTOR,
            },
            expression: Expression::Column,
            pgvector: PgvectorTypes::default(),
            dim: Dim::new(2).unwrap(),
            metric: Metric::L2,
            key: vec![KeyColumn {
                name: "id".into(),
                number: ColumnNumber(1),
                kind: KeyType::Int4,
            }],
            include: vec![IncludeColumn {
                name: "tag".into(),
                number: ColumnNumber(3),
                type_id: TypeId(25),
                deterministic: true,
            }],
            options: IndexOptions::default(),
        }
    }

    /// Columns in another order than the index names them.
    fn relation() -> Arc<Relation> {
        let column = |name: &str, type_id| RelationColumn {
            key: false,
            name: name.into(),
            type_id,
            type_modifier: -1,
        };
        Arc::new(Relation {
            id: RelationId(7),
            schema: "public".into(),
            name: "t".into(),
            replica_identity: b'd',
            columns: vec![
                column("tag", TypeId(25)),
                column("v", VECTOR),
                column("other", TypeId(23)),
                column("id", TypeId(23)),
            ],
        })
    }

    fn binary(bytes: &[u8]) -> Datum {
        Datum::Binary(Bytes::copy_from_slice(bytes))
    }

    fn id(number: i32) -> Datum {
        binary(&number.to_be_bytes())
    }

    fn key(number: i32) -> RowKey {
        RowKey::from_parts([&number.to_be_bytes()[..]])
    }

    fn vector(components: &[f32]) -> Datum {
        binary(
            &Vector::new(components.to_vec())
                .unwrap()
                .to_binary(VectorType::Vector),
        )
    }

    fn project(row: RowImage) -> Result<RowChange, ProjectionError> {
        let relation = relation();
        Projection::new(&definition(), &relation)?.change(&Change {
            commit_lsn: Lsn::new(1),
            relation,
            row,
        })
    }

    #[test]
    fn columns_are_found_by_name() {
        let new = vec![binary(b"x"), vector(&[1.0, 2.0]), Datum::Null, id(5)];
        let RowChange::Upsert {
            old_key,
            key: found,
            vector,
            include,
        } = project(RowImage::Insert { new }).unwrap()
        else {
            panic!("an insert is an upsert");
        };
        assert_eq!((old_key, found), (None, key(5)));
        assert!(matches!(vector, VectorChange::Set(v) if v.as_slice() == [1.0, 2.0]));
        assert!(matches!(&include[..], [ColumnChange::Set(bytes)] if **bytes == *b"x"));
    }

    #[test]
    fn a_key_change_keeps_what_is_unchanged() {
        let old = Some(OldTuple::Key(vec![
            Datum::Null,
            Datum::Null,
            Datum::Null,
            id(5),
        ]));
        let new = vec![Datum::Unchanged, Datum::Unchanged, Datum::Null, id(6)];
        let RowChange::Upsert {
            old_key,
            key: found,
            vector,
            include,
        } = project(RowImage::Update { old, new }).unwrap()
        else {
            panic!("an update is an upsert");
        };
        assert_eq!((old_key, found), (Some(key(5)), key(6)));
        assert!(matches!(vector, VectorChange::Unchanged));
        assert!(matches!(include[..], [ColumnChange::Unchanged]));
    }

    #[test]
    fn values_that_are_no_vector_are_left_out() {
        let check = |datum: Datum, expected: LeftOut| {
            let new = vec![Datum::Null, datum, Datum::Null, id(1)];
            let change = project(RowImage::Insert { new }).unwrap();
            let RowChange::Upsert {
                vector: VectorChange::LeftOut(found),
                ..
            } = change
            else {
                panic!("expected {expected:?}, found {change:?}");
            };
            assert_eq!(found, expected);
        };
        check(Datum::Null, LeftOut::Null);
        check(binary(&[0, 0, 0, 0]), LeftOut::WrongDimension);
        check(binary(&[0, 1, 0, 0, 0x7F, 0xC0, 0, 0]), LeftOut::NotFinite);
        check(binary(b"xx"), LeftOut::NotFinite);
        check(Datum::Text(Bytes::from_static(b"[1,")), LeftOut::NotFinite);
        check(Datum::Text(Bytes::from_static(b"\xFF")), LeftOut::NotFinite);
    }

    #[test]
    fn a_table_that_differs_is_an_error() {
        let mut renamed = (*relation()).clone();
        renamed.columns[1].name = "w".into();
        let found = Projection::new(&definition(), &Arc::new(renamed));
        assert!(matches!(found, Err(ProjectionError::NoColumn { column, .. }) if column == "v"));
        let mut retyped = (*relation()).clone();
        retyped.columns[0].type_id = TypeId(23);
        let found = Projection::new(&definition(), &Arc::new(retyped));
        assert!(matches!(found, Err(ProjectionError::OtherType { column, .. }) if column == "tag"));
        let row = RowImage::Insert {
            new: vec![Datum::Null, Datum::Null, Datum::Null, Datum::Null],
        };
        assert!(matches!(project(row), Err(ProjectionError::Key(_))));
    }

    #[test]
    fn a_copy_selects_each_column_once() {
        let mut second = definition();
        second.include.clear();
        let (copy, described) = table_copy(&[&definition(), &second], None);
        assert_eq!(copy.columns, ["id", "v", "tag"]);
        assert!(Projection::new(&definition(), &described).is_ok());
        assert!(Projection::new(&second, &described).is_ok());
    }
}
