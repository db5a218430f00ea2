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
        start: Lsn,
        end: Lsn,
        payload: Bytes,
    },
    /// `k`: everything before `end` was sent.
    Keepalive { end: Lsn, reply_requested: bool },
}

/// A column's value in a tuple.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// `n`: NULL; in an old key tuple: absent.
    Null,
    /// `u`: an out-of-line value that did not change.
    Unchanged,
    /// `t`
    Text(Bytes),
    /// `b`
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
    pub name: String,
    pub type_id: TypeId,
    /// `atttypmod`
    pub type_modifier: i32,
}

/// A Relation message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub id: RelationId,
    pub schema: String,
    pub name: String,
    /// `relreplident`: `d`, `n`, `f` or `i`.
    pub replica_identity: u8,
    pub columns: Vec<RelationColumn>,
}

/// One message of pgoutput, protocol 1.
#[derive(Clone, Debug, PartialEq)]
pub enum LogicalMessage {
    Begin {
        final_lsn: Lsn,
        commit_time: i64,
        xid: u32,
    },
    Commit {
        commit_lsn: Lsn,
        end_lsn: Lsn,
        commit_time: i64,
    },
    Relation(Relation),
    Type {
        id: TypeId,
        schema: String,
        name: String,
    },
    Origin {
        lsn: Lsn,
        name: String,
    },
    Insert {
        relation: RelationId,
        new: Vec<Datum>,
    },
    Update {
        relation: RelationId,
        old: Option<OldTuple>,
        new: Vec<Datum>,
    },
    Delete {
        relation: RelationId,
        old: OldTuple,
    },
    Truncate {
        relations: Vec<RelationId>,
        cascade: bool,
        restart_identity: bool,
    },
    Message {
        transactional: bool,
        lsn: Lsn,
        prefix: String,
        content: Bytes,
    },
}
