//! CopyData payloads of a logical walsender → `ReplicationMessage` → pgoutput protocol 1 → `LogicalMessage`.
//! Never drops what it does not know: an unknown tag, kind or a stray byte is an error.

use crate::catalog::{RelationId, TypeId};
use crate::lsn::Lsn;
use bytes::Bytes;

/// A payload of the walsender's CopyData.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicationMessage {
    /// `w`: a piece of WAL, for pgoutput exactly one [`LogicalMessage`].
    WalData {
        /// Where the piece begins; for pgoutput the position of the record that a change came from, often 0/0.
        start: Lsn,
        /// How far upstream had written when it sent this.
        end: Lsn,
        /// When it did: microseconds since 2000-01-01.
        sent: i64,
        /// One message of the plugin.
        payload: Bytes,
    },
    /// `k`: everything before `end` was sent.
    Keepalive {
        /// The position up to which everything was sent.
        end: Lsn,
        /// When it was sent: microseconds since 2000-01-01.
        sent: i64,
        /// Upstream will end the connection unless a status arrives soon.
        reply_requested: bool,
    },
}

/// A column's value in a tuple.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// `n`: NULL; in an old key tuple: absent.
    Null,
    /// `u`: an out-of-line value that did not change.
    Unchanged,
    /// `t`: the type's text form.
    Text(Bytes),
    /// `b`: the type's binary form.
    Binary(Bytes),
}

/// The row before an UPDATE or DELETE.
#[derive(Clone, Debug, PartialEq)]
pub enum OldTuple {
    /// `K`: only the replica identity's columns carry values.
    Key(Vec<Datum>),
    /// `O`: all columns (REPLICA IDENTITY FULL).
    Full(Vec<Datum>),
}

/// A column as a Relation message describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Part of the replica identity.
    pub key: bool,
    /// `attname`
    pub name: String,
    /// `atttypid`
    pub type_id: TypeId,
    /// `atttypmod`
    pub type_modifier: i32,
}

/// A Relation message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`
    pub id: RelationId,
    /// The schema's name.
    pub schema: String,
    /// `relname`
    pub name: String,
    /// `relreplident`: `d`, `n`, `f` or `i`.
    pub replica_identity: u8,
    /// The published columns, in the order of every tuple's values.
    pub columns: Vec<RelationColumn>,
}

/// One message of pgoutput, protocol 1.
#[derive(Clone, Debug, PartialEq)]
pub enum LogicalMessage {
    /// `B`: a committed transaction follows.
    Begin {
        /// Where its commit record begins.
        final_lsn: Lsn,
        /// Microseconds since 2000-01-01.
        commit_time: i64,
        /// The transaction's number.
        xid: u32,
    },
    /// `C`: the transaction is complete.
    Commit {
        /// Where its commit record begins.
        commit_lsn: Lsn,
        /// Where its commit record ends: what to confirm.
        end_lsn: Lsn,
        /// Microseconds since 2000-01-01.
        commit_time: i64,
    },
    /// `R`: describes a table before its first change, and again after it was altered.
    Relation(Relation),
    /// `Y`: names a type that is not built in, before a Relation that uses it.
    Type {
        /// `pg_type.oid`
        id: TypeId,
        /// The schema's name.
        schema: String,
        /// `typname`
        name: String,
    },
    /// `O`: the transaction was replicated to upstream from elsewhere.
    Origin {
        /// The commit's position there.
        lsn: Lsn,
        /// The origin's name.
        name: String,
    },
    /// `I`
    Insert {
        /// The table.
        relation: RelationId,
        /// The new row.
        new: Vec<Datum>,
    },
    /// `U`
    Update {
        /// The table.
        relation: RelationId,
        /// What was sent of the row before: the key if it changed or is stored out of line, or the whole row.
        old: Option<OldTuple>,
        /// The row after.
        new: Vec<Datum>,
    },
    /// `D`
    Delete {
        /// The table.
        relation: RelationId,
        /// What was sent of the row.
        old: OldTuple,
    },
    /// `T`
    Truncate {
        /// The published tables that were emptied together.
        relations: Vec<RelationId>,
        /// CASCADE was given.
        cascade: bool,
        /// RESTART IDENTITY was given.
        restart_identity: bool,
    },
    /// `M`: `pg_logical_emit_message`.
    Message {
        /// Part of the transaction; else it stands alone.
        transactional: bool,
        /// Where it is in the WAL.
        lsn: Lsn,
        /// Names its sender; bytes that are no UTF-8 are replaced.
        prefix: String,
        /// Its bytes.
        content: Bytes,
    },
}

/// Why bytes are no message of the stream. Says where, never what a row holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside a field.
    #[error("replication message ends inside {0}")]
    Truncated(&'static str),
    /// Bytes follow the last field.
    #[error("{extra} bytes follow the end of a replication message of type \"{tag}\"")]
    Trailing {
        /// How many.
        extra: usize,
        /// The message's tag.
        tag: char,
    },
    /// A tag or kind that protocol 1 does not have.
    #[error("unknown {what} 0x{value:02x} in a replication message")]
    Unknown {
        /// What the byte stands for.
        what: &'static str,
        /// The byte.
        value: u8,
    },
    /// A count or a length below zero.
    #[error("negative {0} in a replication message")]
    Negative(&'static str),
    /// A name that is not UTF-8, although the connection's encoding is.
    #[error("{0} in a replication message is not UTF-8")]
    NotUtf8(&'static str),
}

impl ReplicationMessage {
    /// Decodes the payload of one CopyData.
    ///
    /// # Errors
    /// When it is not exactly one message.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader(payload);
        let tag = reader.u8("message tag")?;
        match tag {
            b'w' => {
                let start = reader.lsn("start position")?;
                let end = reader.lsn("end position")?;
                let sent = reader.i64("send time")?;
                Ok(Self::WalData {
                    start,
                    end,
                    sent,
                    payload: reader.0,
                })
            }
            b'k' => {
                let end = reader.lsn("end position")?;
                let sent = reader.i64("send time")?;
                let reply_requested = reader.flag("reply request")?;
                reader.finish(tag)?;
                Ok(Self::Keepalive {
                    end,
                    sent,
                    reply_requested,
                })
            }
            value => Err(DecodeError::Unknown {
                what: "message tag",
                value,
            }),
        }
    }
}

impl LogicalMessage {
    /// Decodes the payload of one [`ReplicationMessage::WalData`]. Values share its memory.
    ///
    /// # Errors
    /// When it is not exactly one message of protocol 1.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader(payload);
        let tag = reader.u8("message tag")?;
        let message = reader.message(tag)?;
        reader.finish(tag)?;
        Ok(message)
    }
}

impl Relation {
    /// The position of the column of that name in the table's tuples.
    #[must_use]
    pub fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == column)
    }
}

/// The bytes not read yet. Every read takes from the front or fails.
struct Reader(Bytes);

impl Reader {
    fn message(&mut self, tag: u8) -> Result<LogicalMessage, DecodeError> {
        Ok(match tag {
            b'B' => LogicalMessage::Begin {
                final_lsn: self.lsn("commit position")?,
                commit_time: self.i64("commit time")?,
                xid: self.u32("transaction number")?,
            },
            b'C' => {
                self.flags("commit flags", 0)?;
                LogicalMessage::Commit {
                    commit_lsn: self.lsn("commit position")?,
                    end_lsn: self.lsn("commit end")?,
                    commit_time: self.i64("commit time")?,
                }
            }
            b'R' => LogicalMessage::Relation(self.relation()?),
            b'Y' => LogicalMessage::Type {
                id: TypeId(self.u32("type OID")?),
                schema: self.schema()?,
                name: self.name("type name")?,
            },
            b'O' => LogicalMessage::Origin {
                lsn: self.lsn("origin position")?,
                name: self.lossy("origin name")?,
            },
            b'I' => {
                let relation = RelationId(self.u32("relation OID")?);
                self.expect("tuple kind", b'N')?;
                LogicalMessage::Insert {
                    relation,
                    new: self.tuple()?,
                }
            }
            b'U' => self.update()?,
            b'D' => {
                let relation = RelationId(self.u32("relation OID")?);
                let kind = self.u8("tuple kind")?;
                LogicalMessage::Delete {
                    relation,
                    old: self.old_tuple(kind)?,
                }
            }
            b'T' => self.truncate()?,
            b'M' => {
                let transactional = self.flags("message flags", 1)? == 1;
                let lsn = self.lsn("message position")?;
                let prefix = self.lossy("message prefix")?;
                let content = self.sized("message content")?;
                LogicalMessage::Message {
                    transactional,
                    lsn,
                    prefix,
                    content,
                }
            }
            value => {
                return Err(DecodeError::Unknown {
                    what: "pgoutput message tag",
                    value,
                });
            }
        })
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let id = RelationId(self.u32("relation OID")?);
        let schema = self.schema()?;
        let name = self.name("relation name")?;
        let replica_identity = self.u8("replica identity")?;
        if !matches!(replica_identity, b'd' | b'n' | b'f' | b'i') {
            return Err(DecodeError::Unknown {
                what: "replica identity",
                value: replica_identity,
            });
        }
        let count = self.count("column count")?;
        let mut columns = Vec::with_capacity(self.at_most(count));
        for _ in 0..count {
            columns.push(RelationColumn {
                key: self.flags("column flags", 1)? == 1,
                name: self.name("column name")?,
                type_id: TypeId(self.u32("type OID")?),
                type_modifier: self.i32("type modifier")?,
            });
        }
        Ok(Relation {
            id,
            schema,
            name,
            replica_identity,
            columns,
        })
    }

    fn update(&mut self) -> Result<LogicalMessage, DecodeError> {
        let relation = RelationId(self.u32("relation OID")?);
        let old = match self.u8("tuple kind")? {
            b'N' => None,
            kind => {
                let old = self.old_tuple(kind)?;
                self.expect("tuple kind", b'N')?;
                Some(old)
            }
        };
        Ok(LogicalMessage::Update {
            relation,
            old,
            new: self.tuple()?,
        })
    }

    fn truncate(&mut self) -> Result<LogicalMessage, DecodeError> {
        let count = self.i32("relation count")?;
        let count = usize::try_from(count).map_err(|_| DecodeError::Negative("relation count"))?;
        let flags = self.flags("truncate flags", 3)?;
        let mut relations = Vec::with_capacity(self.at_most(count));
        for _ in 0..count {
            relations.push(RelationId(self.u32("relation OID")?));
        }
        Ok(LogicalMessage::Truncate {
            relations,
            cascade: flags & 1 != 0,
            restart_identity: flags & 2 != 0,
        })
    }

    fn old_tuple(&mut self, kind: u8) -> Result<OldTuple, DecodeError> {
        match kind {
            b'K' => Ok(OldTuple::Key(self.tuple()?)),
            b'O' => Ok(OldTuple::Full(self.tuple()?)),
            value => Err(DecodeError::Unknown {
                what: "tuple kind",
                value,
            }),
        }
    }

    fn tuple(&mut self) -> Result<Vec<Datum>, DecodeError> {
        let count = self.count("value count")?;
        let mut values = Vec::with_capacity(self.at_most(count));
        for _ in 0..count {
            values.push(match self.u8("value kind")? {
                b'n' => Datum::Null,
                b'u' => Datum::Unchanged,
                b't' => Datum::Text(self.sized("value")?),
                b'b' => Datum::Binary(self.sized("value")?),
                value => {
                    return Err(DecodeError::Unknown {
                        what: "value kind",
                        value,
                    });
                }
            });
        }
        Ok(values)
    }

    /// What to reserve for `count` elements: each takes at least a byte, so a lying count reserves no more than was sent.
    fn at_most(&self, count: usize) -> usize {
        count.min(self.0.len())
    }

    fn take(&mut self, length: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if length > self.0.len() {
            return Err(DecodeError::Truncated(what));
        }
        Ok(self.0.split_to(length))
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let array = *self
            .0
            .first_chunk::<N>()
            .ok_or(DecodeError::Truncated(what))?;
        self.take(N, what)?;
        Ok(array)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_be_bytes)
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, DecodeError> {
        self.array(what).map(i32::from_be_bytes)
    }

    fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        self.array(what).map(i64::from_be_bytes)
    }

    fn lsn(&mut self, what: &'static str) -> Result<Lsn, DecodeError> {
        self.array(what).map(u64::from_be_bytes).map(Lsn::new)
    }

    fn count(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        let count = self.array(what).map(i16::from_be_bytes)?;
        usize::try_from(count).map_err(|_| DecodeError::Negative(what))
    }

    /// Bytes behind their `int32` length.
    fn sized(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.i32(what)?;
        let length = usize::try_from(length).map_err(|_| DecodeError::Negative(what))?;
        self.take(length, what)
    }

    fn expect(&mut self, what: &'static str, wanted: u8) -> Result<(), DecodeError> {
        let value = self.u8(what)?;
        if value == wanted {
            return Ok(());
        }
        Err(DecodeError::Unknown { what, value })
    }

    /// A byte of which only the bits of `known` may be set.
    fn flags(&mut self, what: &'static str, known: u8) -> Result<u8, DecodeError> {
        let value = self.u8(what)?;
        if value & !known == 0 {
            return Ok(value);
        }
        Err(DecodeError::Unknown { what, value })
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        self.flags(what, 1).map(|value| value == 1)
    }

    /// Bytes up to a zero byte, which is consumed.
    fn c_string(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.0.iter().position(|byte| *byte == 0);
        let text = self.take(length.ok_or(DecodeError::Truncated(what))?, what)?;
        self.u8(what)?;
        Ok(text)
    }

    fn name(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let text = self.c_string(what)?;
        str::from_utf8(&text)
            .map(str::to_owned)
            .map_err(|_| DecodeError::NotUtf8(what))
    }

    /// pgoutput writes the commonest schema as an empty string.
    fn schema(&mut self) -> Result<String, DecodeError> {
        let name = self.name("schema name")?;
        Ok(if name.is_empty() {
            "pg_catalog".to_owned()
        } else {
            name
        })
    }

    /// Text that anyone may have chosen and nothing depends on: whoever emits such a message must not stop the stream.
    fn lossy(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let text = self.c_string(what)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn finish(self, tag: u8) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing {
                extra,
                tag: char::from(tag),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
