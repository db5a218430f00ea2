//! Captured streams, key rules, and every message in a place where PostgreSQL does not send it.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::catalog::TypeId;
use crate::wal::golden::{CAPTURES, payloads};
use crate::wal::pgoutput::RelationColumn;

const TABLE: RelationId = RelationId(7);

fn relation(columns: usize) -> LogicalMessage {
    LogicalMessage::Relation(Relation {
        id: TABLE,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: b'd',
        columns: (0..columns)
            .map(|i| RelationColumn {
                key: i == 0,
                name: format!("c{i}"),
                type_id: TypeId(25),
                type_modifier: -1,
            })
            .collect(),
    })
}

fn begin(commit: u64) -> LogicalMessage {
    LogicalMessage::Begin {
        final_lsn: Lsn::new(commit),
        commit_time: 0,
        xid: 1,
    }
}

fn commit(commit: u64, end: u64) -> LogicalMessage {
    LogicalMessage::Commit {
        commit_lsn: Lsn::new(commit),
        end_lsn: Lsn::new(end),
        commit_time: 0,
    }
}

/// `-` absent or NULL, `u` unchanged, `t:…` text, anything else a binary value.
fn tuple(values: &str) -> Vec<Datum> {
    values
        .split(' ')
        .map(|value| match value {
            "-" => Datum::Null,
            "u" => Datum::Unchanged,
            value => match value.strip_prefix("t:") {
                Some(text) => Datum::Text(Bytes::copy_from_slice(text.as_bytes())),
                None => Datum::Binary(Bytes::copy_from_slice(value.as_bytes())),
            },
        })
        .collect()
}

fn insert(values: &str) -> LogicalMessage {
    LogicalMessage::Insert {
        relation: TABLE,
        new: tuple(values),
    }
}

fn feed(messages: Vec<LogicalMessage>) -> Result<Vec<Event>, TransactionError> {
    let mut transactions = Transactions::new();
    let mut events = Vec::new();
    for message in messages {
        events.extend(transactions.feed(message)?);
    }
    Ok(events)
}

/// One letter for each event, and the rows of changes with their keys.
fn shape(events: &[Event]) -> String {
    events
        .iter()
        .map(|event| match event {
            Event::Begin { .. } => '(',
            Event::Relation(_) => 'r',
            Event::Change(change) => match change.row {
                RowImage::Insert { .. } => 'i',
                RowImage::Update { .. } => 'u',
                RowImage::Delete { .. } => 'd',
            },
            Event::Truncate { .. } => 't',
            Event::Message { commit_lsn, .. } => {
                if commit_lsn.is_some() {
                    'm'
                } else {
                    'M'
                }
            }
            Event::Commit { .. } => ')',
        })
        .collect()
}

#[test]
fn captured_streams_become_events_tagged_with_their_commit() {
    for (server, capture) in CAPTURES {
        let messages = payloads(capture)
            .into_iter()
            .map(|payload| LogicalMessage::decode(payload).unwrap())
            .collect();
        let events = feed(messages).unwrap();
        assert_eq!(
            shape(&events),
            "(rii)(i)(u)(u)(u)(d)(ri)(u)(u)(d)(ri)(u)(d)(rrt)(m)M(i)(ri)",
            "{server}"
        );
        let mut open = None;
        for event in &events {
            match event {
                Event::Begin { commit_lsn, .. } => open = Some(*commit_lsn),
                Event::Change(Change { commit_lsn, .. }) | Event::Truncate { commit_lsn, .. } => {
                    assert_eq!(Some(*commit_lsn), open);
                }
                Event::Commit {
                    commit_lsn,
                    end_lsn,
                    ..
                } => {
                    assert_eq!(Some(*commit_lsn), open);
                    assert!(end_lsn > commit_lsn);
                    open = None;
                }
                Event::Message { commit_lsn, .. } => assert_eq!(*commit_lsn, open),
                Event::Relation(_) => {}
            }
        }
    }
}

#[test]
fn keys_of_a_captured_stream() {
    let mut transactions = Transactions::new();
    let mut keys = Vec::new();
    for payload in payloads(CAPTURES[4].1) {
        let message = LogicalMessage::decode(payload).unwrap();
        if let Some(Event::Change(change)) = transactions.feed(message).unwrap() {
            let key = match change.relation.name.as_str() {
                "ident" => "c",
                _ => "id",
            };
            let column = change.relation.position(key).unwrap();
            let show = |key: &RowKey| {
                let part = RowKey::parts(key.as_bytes()).next().unwrap();
                match <[u8; 4]>::try_from(part) {
                    Ok(number) => i32::from_be_bytes(number).to_string(),
                    Err(_) => String::from_utf8(part.to_vec()).unwrap(),
                }
            };
            keys.push(match change.key(&[column]).unwrap() {
                KeyChange::Inserted(key) => format!("+{}", show(&key)),
                KeyChange::Updated { old: None, new } => show(&new),
                KeyChange::Updated {
                    old: Some(old),
                    new,
                } => format!("{}>{}", show(&old), show(&new)),
                KeyChange::Deleted(key) => format!("-{}", show(&key)),
            });
        }
    }
    assert_eq!(
        keys.join(" "),
        "+1 +2 +3 3 3>4 1 -1 +k k k>l -l +1 1>2 -2 +o +5"
    );
}

#[test]
fn key_rules() {
    let key = |values: &[&str]| RowKey::from_parts(values.iter().map(|value| value.as_bytes()));
    let keys = OldTuple::Key;
    let full = OldTuple::Full;
    let same = |new: &[&str]| {
        Ok(KeyChange::Updated {
            old: None,
            new: key(new),
        })
    };
    let changed = |old: &[&str], new: &[&str]| {
        Ok(KeyChange::Updated {
            old: Some(key(old)),
            new: key(new),
        })
    };
    let absent = |column: &str| {
        Err(KeyError::Absent {
            table: "public.t".to_owned(),
            column: column.to_owned(),
        })
    };
    let update = |old, new: &str| RowImage::Update {
        old,
        new: tuple(new),
    };
    let cases = [
        (update(None, "a b v"), same(&["a", "b"])),
        (update(None, "a b u"), same(&["a", "b"])),
        // an out-of-line key: old tuple sent, new one unchanged, no key change
        (
            update(Some(keys(tuple("a b -"))), "u b v"),
            same(&["a", "b"]),
        ),
        (
            update(Some(keys(tuple("a b -"))), "a b v"),
            same(&["a", "b"]),
        ),
        (
            update(Some(keys(tuple("a b -"))), "u c u"),
            changed(&["a", "b"], &["a", "c"]),
        ),
        (
            update(Some(full(tuple("a b v"))), "u u u"),
            same(&["a", "b"]),
        ),
        (
            update(Some(full(tuple("a b v"))), "x u u"),
            changed(&["a", "b"], &["x", "b"]),
        ),
        // absent is not NULL, and NULL is no key
        (update(None, "u b v"), absent("c0")),
        (update(Some(keys(tuple("a - -"))), "x y v"), absent("c1")),
        (update(Some(keys(tuple("a b -"))), "x - v"), absent("c1")),
        (
            RowImage::Insert {
                new: tuple("a u v"),
            },
            absent("c1"),
        ),
        (
            RowImage::Insert {
                new: tuple("a b -"),
            },
            Ok(KeyChange::Inserted(key(&["a", "b"]))),
        ),
        (
            RowImage::Insert {
                new: tuple("a t:b -"),
            },
            Err(KeyError::NotBinary {
                table: "public.t".to_owned(),
                column: "c1".to_owned(),
            }),
        ),
        (
            RowImage::Delete {
                old: keys(tuple("a b -")),
            },
            Ok(KeyChange::Deleted(key(&["a", "b"]))),
        ),
        (
            RowImage::Delete {
                old: full(tuple("a b -")),
            },
            Ok(KeyChange::Deleted(key(&["a", "b"]))),
        ),
        (
            RowImage::Delete {
                old: keys(tuple("- b -")),
            },
            absent("c0"),
        ),
    ];
    let LogicalMessage::Relation(relation) = relation(3) else {
        unreachable!()
    };
    let relation = Arc::new(relation);
    for (row, expected) in cases {
        let change = Change {
            commit_lsn: Lsn::new(1),
            relation: Arc::clone(&relation),
            row: row.clone(),
        };
        assert_eq!(change.key(&[0, 1]), expected, "{row:?}");
    }
    let change = Change {
        commit_lsn: Lsn::new(1),
        relation,
        row: RowImage::Insert {
            new: tuple("a b c"),
        },
    };
    assert_eq!(
        change.key(&[2, 0]),
        Ok(KeyChange::Inserted(key(&["c", "a"]))),
        "key order is the caller's"
    );
    assert!(change.key(&[3]).is_err(), "a column that is not there");
}

#[test]
fn a_change_keeps_the_table_as_it_was() {
    let events = feed(vec![
        begin(10),
        relation(1),
        insert("a"),
        relation(2),
        insert("b c"),
        commit(10, 12),
    ])
    .unwrap();
    let widths: Vec<_> = events
        .iter()
        .filter_map(|event| {
            let Event::Change(change) = event else {
                return None;
            };
            Some(change.relation.columns.len())
        })
        .collect();
    assert_eq!(widths, [1, 2]);
}

#[test]
fn a_message_in_a_wrong_place_is_an_error() {
    use TransactionError as E;
    let truncate = || LogicalMessage::Truncate {
        relations: vec![TABLE],
        cascade: false,
        restart_identity: false,
    };
    let emitted = LogicalMessage::Message {
        transactional: true,
        lsn: Lsn::new(1),
        prefix: String::new(),
        content: Bytes::new(),
    };
    let origin = LogicalMessage::Origin {
        lsn: Lsn::new(1),
        name: String::new(),
    };
    let backwards = |last, new| E::Backwards {
        last: Lsn::new(last),
        new: Lsn::new(new),
    };
    let wide = |values| E::WrongWidth {
        table: "public.t".to_owned(),
        columns: 1,
        values,
    };
    let cases = [
        (
            vec![begin(10), begin(11)],
            E::NestedBegin {
                open: Lsn::new(10),
                new: Lsn::new(11),
            },
        ),
        (vec![commit(1, 2)], E::OutsideTransaction("Commit")),
        (
            vec![begin(10), commit(11, 12)],
            E::WrongCommit {
                begun: Lsn::new(10),
                ended: Lsn::new(11),
            },
        ),
        (vec![begin(10), commit(10, 10)], backwards(10, 10)),
        (
            vec![begin(10), commit(10, 12), begin(11)],
            backwards(12, 11),
        ),
        (
            vec![begin(10), commit(10, 12), commit(10, 12)],
            E::OutsideTransaction("Commit"),
        ),
        (
            vec![relation(1), insert("a")],
            E::OutsideTransaction("Insert"),
        ),
        (vec![truncate()], E::OutsideTransaction("Truncate")),
        (
            vec![emitted],
            E::OutsideTransaction("transactional Message"),
        ),
        (vec![origin], E::OutsideTransaction("Origin")),
        (vec![begin(10), insert("a")], E::UnknownRelation(TABLE)),
        (vec![begin(10), truncate()], E::UnknownRelation(TABLE)),
        (vec![begin(10), relation(1), insert("a b")], wide(2)),
        (
            vec![
                begin(10),
                relation(1),
                LogicalMessage::Update {
                    relation: TABLE,
                    old: Some(OldTuple::Key(tuple("a b c"))),
                    new: tuple("a"),
                },
            ],
            wide(3),
        ),
    ];
    for (messages, expected) in cases {
        assert_eq!(feed(messages.clone()), Err(expected), "{messages:?}");
    }
}

proptest! {
    /// Any order of messages gives an event or an error, and events pair.
    #[test]
    fn any_sequence_is_taken_or_refused(choices in proptest::collection::vec((0..8_u8, 0..20_u64), 0..40)) {
        let mut transactions = Transactions::new();
        let mut open = false;
        for (choice, number) in choices {
            let message = match choice {
                0 | 1 => begin(number),
                2 | 3 => commit(number, number + 1),
                4 => relation(2),
                5 => insert("a b"),
                6 => LogicalMessage::Delete { relation: TABLE, old: OldTuple::Key(tuple("a -")) },
                _ => LogicalMessage::Truncate { relations: vec![TABLE], cascade: false, restart_identity: false },
            };
            match transactions.feed(message) {
                Ok(Some(Event::Begin { .. })) => { prop_assert!(!open); open = true; }
                Ok(Some(Event::Commit { .. })) => { prop_assert!(open); open = false; }
                Ok(Some(Event::Change(_) | Event::Truncate { .. })) => prop_assert!(open),
                Ok(_) | Err(_) => {}
            }
            prop_assert_eq!(transactions.is_inside(), open);
        }
    }
}
