//! Logical messages in stream order → events tagged with their transaction's commit, each change with its table as of then.
//! Never buffers a transaction, never decides what is indexed, and never lets a message in a wrong place pass.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::catalog::{RelationId, RowKey};
use crate::lsn::Lsn;
use crate::wal::pgoutput::{Datum, LogicalMessage, OldTuple, Relation};

/// What happened upstream. Between `Begin` and `Commit` nothing may become visible.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A committed transaction begins.
    Begin {
        /// Where its commit record begins: a copy's snapshot contains it exactly if this is before the copy's position.
        commit_lsn: Lsn,
        /// The transaction's number.
        xid: u32,
        /// Microseconds since 2000-01-01.
        commit_time: i64,
    },
    /// A table was described, for the first time on this connection or since it changed: read the catalogue again.
    Relation(Arc<Relation>),
    /// A row changed.
    Change(Change),
    /// Tables were emptied.
    Truncate {
        /// Where the transaction's commit record begins.
        commit_lsn: Lsn,
        /// Which.
        relations: Vec<Arc<Relation>>,
    },
    /// `pg_logical_emit_message`.
    Message {
        /// Where the transaction's commit record begins, if it is part of one.
        commit_lsn: Option<Lsn>,
        /// Where it is in the WAL.
        lsn: Lsn,
        /// Names its sender.
        prefix: String,
        /// Its bytes.
        content: Bytes,
    },
    /// The transaction is complete: all of it may become visible now.
    Commit {
        /// Where its commit record begins.
        commit_lsn: Lsn,
        /// Where its commit record ends: what to confirm, and where to resume.
        end_lsn: Lsn,
        /// Microseconds since 2000-01-01.
        commit_time: i64,
    },
}

/// A row's change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where the transaction's commit record begins.
    pub commit_lsn: Lsn,
    /// The table as it was then.
    pub relation: Arc<Relation>,
    /// What the row was and is.
    pub row: RowImage,
}

/// A row before and after. Tuples have one value for each of the table's columns.
#[derive(Clone, Debug, PartialEq)]
pub enum RowImage {
    /// INSERT
    Insert {
        /// The new row.
        new: Vec<Datum>,
    },
    /// UPDATE
    Update {
        /// What was sent of the row before.
        old: Option<OldTuple>,
        /// The row after.
        new: Vec<Datum>,
    },
    /// DELETE
    Delete {
        /// What was sent of the row.
        old: OldTuple,
    },
}

/// What a change did to a row's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// INSERT
    Inserted(RowKey),
    /// UPDATE
    Updated {
        /// The key before, only if it was another.
        old: Option<RowKey>,
        /// The key after.
        new: RowKey,
    },
    /// DELETE
    Deleted(RowKey),
}

/// Why a row's key cannot be told from its change. The stream is sound; the table cannot be followed by this key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key's value was not sent: the column is not part of the replica identity, or NULL.
    #[error("a change of table {table} lacks the value of key column {column}")]
    Absent {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// The key came as text although the stream is binary.
    #[error("a change of table {table} carries key column {column} in text form")]
    NotBinary {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
}

/// Why a sequence of messages is none that PostgreSQL sends. The connection is of no further use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// A transaction begins before the one before it has ended.
    #[error("the transaction committed at {new} begins inside the one committed at {open}")]
    NestedBegin {
        /// The open transaction.
        open: Lsn,
        /// The new one.
        new: Lsn,
    },
    /// A change, or an end, of no transaction.
    #[error("{0} message outside a transaction")]
    OutsideTransaction(&'static str),
    /// The end of another transaction than the one that began.
    #[error("the transaction that began as committed at {begun} ends as committed at {ended}")]
    WrongCommit {
        /// What Begin said.
        begun: Lsn,
        /// What Commit said.
        ended: Lsn,
    },
    /// Transactions come in the order of their commits; this one does not.
    #[error("a transaction committed at {new} follows one that ended at {last}")]
    Backwards {
        /// The end of the transaction before.
        last: Lsn,
        /// The transaction out of order.
        new: Lsn,
    },
    /// A change of a table that was not described.
    #[error("a change of relation {}, which was not described", .0.0)]
    UnknownRelation(RelationId),
    /// A tuple with more or fewer values than the table has columns.
    #[error("a tuple of {values} values for table {table} of {columns} columns")]
    WrongWidth {
        /// The table.
        table: String,
        /// Columns described.
        columns: usize,
        /// Values sent.
        values: usize,
    },
}

/// Follows the messages of one replication connection.
#[derive(Debug, Default)]
pub struct Transactions {
    relations: HashMap<RelationId, Arc<Relation>>,
    state: State,
    /// Where the last complete transaction ended.
    last_end: Lsn,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Between,
    Inside {
        commit_lsn: Lsn,
    },
}

impl Transactions {
    /// For a new connection, on which every table will be described again.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the last message left a transaction open: a keepalive confirms nothing then.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        matches!(self.state, State::Inside { .. })
    }

    /// Takes the next message. `None` for those that change nothing (Type, Origin).
    ///
    /// # Errors
    /// When no PostgreSQL would send it here; nothing of it was taken over.
    pub fn feed(&mut self, message: LogicalMessage) -> Result<Option<Event>, TransactionError> {
        Ok(Some(match message {
            LogicalMessage::Begin {
                final_lsn,
                commit_time,
                xid,
            } => {
                self.begin(final_lsn)?;
                Event::Begin {
                    commit_lsn: final_lsn,
                    xid,
                    commit_time,
                }
            }
            LogicalMessage::Commit {
                commit_lsn,
                end_lsn,
                commit_time,
            } => {
                self.commit(commit_lsn, end_lsn)?;
                Event::Commit {
                    commit_lsn,
                    end_lsn,
                    commit_time,
                }
            }
            LogicalMessage::Relation(relation) => {
                let relation = Arc::new(relation);
                self.relations.insert(relation.id, Arc::clone(&relation));
                Event::Relation(relation)
            }
            LogicalMessage::Type { .. } => return Ok(None),
            LogicalMessage::Origin { .. } => {
                self.commit_lsn("Origin")?;
                return Ok(None);
            }
            LogicalMessage::Insert { relation, new } => {
                self.change("Insert", relation, RowImage::Insert { new })?
            }
            LogicalMessage::Update { relation, old, new } => {
                self.change("Update", relation, RowImage::Update { old, new })?
            }
            LogicalMessage::Delete { relation, old } => {
                self.change("Delete", relation, RowImage::Delete { old })?
            }
            LogicalMessage::Truncate { relations, .. } => Event::Truncate {
                commit_lsn: self.commit_lsn("Truncate")?,
                relations: relations
                    .into_iter()
                    .map(|id| self.relation(id))
                    .collect::<Result<_, _>>()?,
            },
            LogicalMessage::Message {
                transactional,
                lsn,
                prefix,
                content,
            } => Event::Message {
                commit_lsn: transactional
                    .then(|| self.commit_lsn("transactional Message"))
                    .transpose()?,
                lsn,
                prefix,
                content,
            },
        }))
    }

    fn begin(&mut self, commit_lsn: Lsn) -> Result<(), TransactionError> {
        if let State::Inside { commit_lsn: open } = self.state {
            return Err(TransactionError::NestedBegin {
                open,
                new: commit_lsn,
            });
        }
        if commit_lsn < self.last_end {
            return Err(TransactionError::Backwards {
                last: self.last_end,
                new: commit_lsn,
            });
        }
        self.state = State::Inside { commit_lsn };
        Ok(())
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn) -> Result<(), TransactionError> {
        let begun = self.commit_lsn("Commit")?;
        if begun != commit_lsn {
            return Err(TransactionError::WrongCommit {
                begun,
                ended: commit_lsn,
            });
        }
        if end_lsn <= commit_lsn {
            return Err(TransactionError::Backwards {
                last: commit_lsn,
                new: end_lsn,
            });
        }
        self.state = State::Between;
        self.last_end = end_lsn;
        Ok(())
    }

    fn commit_lsn(&self, what: &'static str) -> Result<Lsn, TransactionError> {
        match self.state {
            State::Inside { commit_lsn } => Ok(commit_lsn),
            State::Between => Err(TransactionError::OutsideTransaction(what)),
        }
    }

    fn relation(&self, id: RelationId) -> Result<Arc<Relation>, TransactionError> {
        let relation = self.relations.get(&id);
        relation
            .map(Arc::clone)
            .ok_or(TransactionError::UnknownRelation(id))
    }

    fn change(
        &self,
        what: &'static str,
        relation: RelationId,
        row: RowImage,
    ) -> Result<Event, TransactionError> {
        let commit_lsn = self.commit_lsn(what)?;
        let relation = self.relation(relation)?;
        for tuple in [row.old_tuple().map(OldTuple::values), row.new_tuple()]
            .into_iter()
            .flatten()
        {
            if tuple.len() != relation.columns.len() {
                return Err(TransactionError::WrongWidth {
                    table: relation.qualified_name(),
                    columns: relation.columns.len(),
                    values: tuple.len(),
                });
            }
        }
        Ok(Event::Change(Change {
            commit_lsn,
            relation,
            row,
        }))
    }
}

impl RowImage {
    /// What was sent of the row before.
    #[must_use]
    pub fn old_tuple(&self) -> Option<&OldTuple> {
        match self {
            Self::Insert { .. } => None,
            Self::Update { old, .. } => old.as_ref(),
            Self::Delete { old } => Some(old),
        }
    }

    /// The row after.
    #[must_use]
    pub fn new_tuple(&self) -> Option<&[Datum]> {
        match self {
            Self::Insert { new } | Self::Update { new, .. } => Some(new),
            Self::Delete { .. } => None,
        }
    }
}

impl OldTuple {
    /// The values, one for each column. In a `Key` tuple NULL means absent.
    #[must_use]
    pub fn values(&self) -> &[Datum] {
        match self {
            Self::Key(values) | Self::Full(values) => values,
        }
    }
}

impl Relation {
    /// For messages to people.
    fn qualified_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

impl Change {
    /// What the change did to the key that consists of the columns at these positions of the relation, in key order.
    ///
    /// A key stored out of line comes as unchanged in the new tuple and with its value in the old one; an old tuple
    /// alone is therefore no key change.
    ///
    /// # Errors
    /// When the change does not carry the key.
    pub fn key(&self, columns: &[usize]) -> Result<KeyChange, KeyError> {
        let old = self.row.old_tuple().map(OldTuple::values);
        let old_key = || self.key_of(columns, |column| old?.get(column));
        let new_key = |new: &[Datum]| {
            self.key_of(columns, |column| match new.get(column)? {
                Datum::Unchanged => old?.get(column),
                value @ (Datum::Null | Datum::Text(_) | Datum::Binary(_)) => Some(value),
            })
        };
        Ok(match &self.row {
            RowImage::Insert { new } => KeyChange::Inserted(new_key(new)?),
            RowImage::Delete { .. } => KeyChange::Deleted(old_key()?),
            RowImage::Update { old: None, new } => KeyChange::Updated {
                old: None,
                new: new_key(new)?,
            },
            RowImage::Update { old: Some(_), new } => {
                let (old, new) = (old_key()?, new_key(new)?);
                KeyChange::Updated {
                    old: (old != new).then_some(old),
                    new,
                }
            }
        })
    }

    fn key_of<'a>(
        &self,
        columns: &[usize],
        value: impl Fn(usize) -> Option<&'a Datum>,
    ) -> Result<RowKey, KeyError> {
        let mut parts = Vec::with_capacity(columns.len());
        for &column in columns {
            match value(column) {
                Some(Datum::Binary(bytes)) => parts.push(&**bytes),
                Some(Datum::Text(_)) => {
                    return Err(KeyError::NotBinary {
                        table: self.relation.qualified_name(),
                        column: self.column_name(column),
                    });
                }
                None | Some(Datum::Null | Datum::Unchanged) => {
                    return Err(KeyError::Absent {
                        table: self.relation.qualified_name(),
                        column: self.column_name(column),
                    });
                }
            }
        }
        Ok(RowKey::from_parts(parts))
    }

    fn column_name(&self, column: usize) -> String {
        let column = self.relation.columns.get(column);
        column.map_or_else(|| "?".to_owned(), |column| column.name.clone())
    }
}

#[cfg(test)]
mod tests;
