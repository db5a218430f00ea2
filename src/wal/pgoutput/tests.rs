//! Golden messages of real servers, every truncation of them, and arbitrary bytes.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::wal::golden::{CAPTURES, payloads, unhex};

fn decode(line: &str) -> Result<LogicalMessage, DecodeError> {
    LogicalMessage::decode(unhex(line))
}

fn binary(bytes: &'static [u8]) -> Datum {
    Datum::Binary(Bytes::from_static(bytes))
}

fn text(bytes: &'static [u8]) -> Datum {
    Datum::Text(Bytes::from_static(bytes))
}

fn column(key: bool, name: &str, type_id: u32, type_modifier: i32) -> RelationColumn {
    RelationColumn {
        key,
        name: name.to_owned(),
        type_id: TypeId(type_id),
        type_modifier,
    }
}

#[test]
fn messages_of_a_real_server_are_understood() {
    let items = RelationId(0x454e);
    let mood = TypeId(0x4549);
    let vector = b"\0\x03\0\0\x3f\x80\0\0\x40\0\0\0\x40\x40\0\0";
    let same_row = |id: &'static [u8], tag| vec![binary(id), tag, binary(vector), binary(b"ok")];
    let id = |id: &'static [u8]| vec![binary(id), Datum::Null, Datum::Null, Datum::Null];
    let cases: [(&str, LogicalMessage); 16] = [
        (
            "4200000000024afd18000303d93256c87d00000341",
            LogicalMessage::Begin {
                final_lsn: Lsn::new(0x24a_fd18),
                commit_time: 0x3_03d9_3256_c87d,
                xid: 0x341,
            },
        ),
        (
            "430000000000024afd1800000000024afd48000303d93256c87d",
            LogicalMessage::Commit {
                commit_lsn: Lsn::new(0x24a_fd18),
                end_lsn: Lsn::new(0x24a_fd48),
                commit_time: 0x3_03d9_3256_c87d,
            },
        ),
        (
            "59000045497075626c6963006d6f6f6400",
            LogicalMessage::Type {
                id: mood,
                schema: "public".to_owned(),
                name: "mood".to_owned(),
            },
        ),
        (
            // PostgreSQL 15: the base type of a domain, whose schema pg_catalog comes as an empty string
            "5900004034005f666c6f61743400",
            LogicalMessage::Type {
                id: TypeId(0x4034),
                schema: "pg_catalog".to_owned(),
                name: "_float4".to_owned(),
            },
        ),
        (
            "5200004e5d7075626c69630077686f6c65006600020169640000000017ffffffff01740000000019ffffffff",
            LogicalMessage::Relation(Relation {
                id: RelationId(0x4e5d),
                schema: "public".to_owned(),
                name: "whole".to_owned(),
                replica_identity: b'f',
                columns: vec![column(true, "id", 23, -1), column(true, "t", 25, -1)],
            }),
        ),
        (
            "520000414f7075626c6963006974656d730064000200746167000000041300000fa401760000004002ffffffff",
            LogicalMessage::Relation(Relation {
                id: RelationId(0x414f),
                schema: "public".to_owned(),
                name: "items".to_owned(),
                replica_identity: b'd',
                columns: vec![
                    column(false, "tag", 1043, 4004),
                    column(true, "v", 0x4002, -1),
                ],
            }),
        ),
        (
            "490000454e4e00046200000004000000026e6e6e",
            LogicalMessage::Insert {
                relation: items,
                new: id(b"\0\0\0\x02"),
            },
        ),
        (
            "490000414f4e000474000000013174000000016174000000075b312c322c335d74000000026f6b",
            LogicalMessage::Insert {
                relation: RelationId(0x414f),
                new: vec![text(b"1"), text(b"a"), text(b"[1,2,3]"), text(b"ok")],
            },
        ),
        (
            "550000454e4e0004620000000400000003756200000010000300003f800000400000004040000062000000026f6b",
            LogicalMessage::Update {
                relation: items,
                old: None,
                new: same_row(b"\0\0\0\x03", Datum::Unchanged),
            },
        ),
        (
            "550000454e4b00046200000004000000036e6e6e4e0004620000000400000004756200000010000300003f800000400000004040000062000000026f6b",
            LogicalMessage::Update {
                relation: items,
                old: Some(OldTuple::Key(id(b"\0\0\0\x03"))),
                new: same_row(b"\0\0\0\x04", Datum::Unchanged),
            },
        ),
        (
            "5500004e5d4f0002620000000400000001620000000261624e000262000000040000000275",
            LogicalMessage::Update {
                relation: RelationId(0x4e5d),
                old: Some(OldTuple::Full(vec![binary(b"\0\0\0\x01"), binary(b"ab")])),
                new: vec![binary(b"\0\0\0\x02"), Datum::Unchanged],
            },
        ),
        (
            "440000454e4b00046200000004000000016e6e6e",
            LogicalMessage::Delete {
                relation: items,
                old: OldTuple::Key(id(b"\0\0\0\x01")),
            },
        ),
        (
            "5400000002030000414f0000415f",
            LogicalMessage::Truncate {
                relations: vec![RelationId(0x414f), RelationId(0x415f)],
                cascade: true,
                restart_identity: true,
            },
        ),
        (
            "4d010000000001b7ffc07072650000000007636f6e74656e74",
            LogicalMessage::Message {
                transactional: true,
                lsn: Lsn::new(0x1b7_ffc0),
                prefix: "pre".to_owned(),
                content: Bytes::from_static(b"content"),
            },
        ),
        (
            "4d000000000001b800486f757473696465000000000200ff",
            LogicalMessage::Message {
                transactional: false,
                lsn: Lsn::new(0x1b8_0048),
                prefix: "outside".to_owned(),
                content: Bytes::from_static(b"\0\xff"),
            },
        ),
        (
            "4f000000000000abcd66617200",
            LogicalMessage::Origin {
                lsn: Lsn::new(0xabcd),
                name: "far".to_owned(),
            },
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(decode(line), Ok(expected), "{line}");
    }
}

#[test]
fn every_capture_decodes_and_every_truncation_of_it_fails() {
    for (server, capture) in CAPTURES {
        let payloads = payloads(capture);
        assert_eq!(payloads.len(), 66, "{server}");
        for payload in payloads {
            LogicalMessage::decode(payload.clone()).unwrap();
            for length in 0..payload.len() {
                let cut = LogicalMessage::decode(payload.slice(..length));
                assert!(
                    matches!(cut, Err(DecodeError::Truncated(_))),
                    "{server} {length}"
                );
            }
            let mut longer = payload.to_vec();
            longer.push(0);
            let longer = LogicalMessage::decode(longer.into());
            assert!(
                matches!(longer, Err(DecodeError::Trailing { extra: 1, .. })),
                "{server}"
            );
        }
    }
}

#[test]
fn captures_hold_every_message_value_and_tuple_kind() {
    for (server, capture) in CAPTURES {
        let mut seen = std::collections::BTreeSet::new();
        for payload in payloads(capture) {
            seen.insert(char::from(payload[0]));
            let message = LogicalMessage::decode(payload).unwrap();
            let shown = format!("{message:?}");
            for kind in ["Key(", "Full(", "Unchanged", "Null"] {
                if shown.contains(kind) {
                    seen.insert(kind.chars().next().unwrap().to_ascii_lowercase());
                }
            }
        }
        let seen: String = seen.into_iter().collect();
        assert_eq!(seen, "BCDIMORTUYfknu", "{server}");
    }
}

#[test]
fn what_protocol_1_does_not_have_is_an_error() {
    use DecodeError::{Negative, NotUtf8, Truncated, Unknown};
    let unknown = |what, value| Unknown { what, value };
    let cases = [
        ("", Truncated("message tag")),
        ("53", unknown("pgoutput message tag", b'S')), // stream start, protocol 2
        ("43010000000000000001", unknown("commit flags", 1)),
        ("49000000014b0000", unknown("tuple kind", b'K')),
        ("44000000014e0000", unknown("tuple kind", b'N')),
        ("55000000014e000178", unknown("value kind", b'x')),
        ("55000000014b00004b", unknown("tuple kind", b'K')),
        ("49000000014effff", Negative("value count")),
        ("49000000014e000162ffffffff", Negative("value")),
        ("54ffffffff00", Negative("relation count")),
        ("540000000004", unknown("truncate flags", 4)),
        ("4d020000000000000000", unknown("message flags", 2)),
        ("520000000100610078", unknown("replica identity", b'x')),
        ("5900000001ff0061", NotUtf8("schema name")),
        ("520000000100ff00", NotUtf8("relation name")),
    ];
    for (line, expected) in cases {
        assert_eq!(decode(line), Err(expected), "{line}");
    }
}

#[test]
fn text_that_anyone_may_choose_does_not_stop_the_stream() {
    let message = decode("4d000000000000000001ff0000000000").unwrap();
    assert!(
        matches!(message, LogicalMessage::Message { prefix, .. } if prefix == "\u{fffd}"),
        "an emitted message's prefix"
    );
}

#[test]
fn copy_data_is_understood() {
    let data = ReplicationMessage::decode(unhex(
        "7700000000000000010000000000000002000000000000000342",
    ));
    assert_eq!(
        data,
        Ok(ReplicationMessage::WalData {
            start: Lsn::new(1),
            end: Lsn::new(2),
            sent: 3,
            payload: Bytes::from_static(b"B"),
        })
    );
    let keepalive = unhex("6b0000000000000002000000000000000301");
    assert_eq!(
        ReplicationMessage::decode(keepalive.clone()),
        Ok(ReplicationMessage::Keepalive {
            end: Lsn::new(2),
            sent: 3,
            reply_requested: true,
        })
    );
    for length in 0..keepalive.len() {
        assert!(ReplicationMessage::decode(keepalive.slice(..length)).is_err());
    }
    for line in [
        "78",
        "6b000000000000000200000000000000030100",
        "6b0000000000000002000000000000000302",
    ] {
        assert!(ReplicationMessage::decode(unhex(line)).is_err(), "{line}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = ReplicationMessage::decode(bytes.clone());
        let _ = LogicalMessage::decode(bytes);
    }

    #[test]
    fn a_damaged_message_never_panics(
        capture in 0..CAPTURES.len(),
        line in 0..66_usize,
        at in any::<proptest::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut bytes = payloads(CAPTURES[capture].1)[line].to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = LogicalMessage::decode(bytes.into());
    }
}
