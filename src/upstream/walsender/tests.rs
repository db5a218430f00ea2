//! Logins, commands and streams against a scripted server.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::*;
use crate::upstream::Disposition;

const PASSWORD: &str = "open sesame";
const READY: &[u8] = b"Z\0\0\0\x05I";
const AUTHENTICATED: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// A server that plays one side of a conversation: it sends, and checks what it reads.
struct Script {
    config: Config,
    _directory: tempfile::TempDir,
    server: JoinHandle<Vec<u8>>,
}

/// For each step: bytes to send, after one more client message (the first without a tag) was read.
fn script(steps: Vec<Vec<u8>>) -> Script {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join(".s.PGSQL.5432");
    let listener = UnixListener::bind(path).unwrap();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        for (i, step) in steps.into_iter().enumerate() {
            heard.extend(hear(&mut socket, i > 0).await);
            socket.write_all(&step).await.unwrap();
        }
        socket.read_to_end(&mut heard).await.unwrap();
        heard
    });
    let mut config = Config::new();
    config
        .host_path(directory.path())
        .user("u")
        .dbname("d")
        .password(PASSWORD);
    Script {
        config,
        _directory: directory,
        server,
    }
}

async fn hear(socket: &mut UnixStream, tagged: bool) -> Vec<u8> {
    let mut message = vec![0; if tagged { 5 } else { 4 }];
    socket.read_exact(&mut message).await.unwrap();
    let length = u32::from_be_bytes(*message.last_chunk::<4>().unwrap()) as usize;
    let start = message.len();
    message.resize(start + length - 4, 0);
    socket.read_exact(&mut message[start..]).await.unwrap();
    message
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.put_u32(u32::try_from(body.len()).unwrap() + 4);
    bytes.extend_from_slice(body);
    bytes
}

fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u16(u16::try_from(values.len()).unwrap());
    for value in values {
        match value {
            Some(value) => {
                body.put_u32(u32::try_from(value.len()).unwrap());
                body.extend_from_slice(value.as_bytes());
            }
            None => body.put_i32(-1),
        }
    }
    frame(b'D', &body)
}

fn login() -> Vec<u8> {
    [
        AUTHENTICATED,
        &frame(b'S', b"a\0b\0"),
        &frame(b'K', &[0; 8]),
        READY,
    ]
    .concat()
}

fn error(sqlstate: &str) -> Vec<u8> {
    frame(
        b'E',
        format!("SFATAL\0VFATAL\0C{sqlstate}\0Mno\0Dmore\0Hhelp\0\0").as_bytes(),
    )
}

fn contains(heard: &[u8], text: &str) -> bool {
    heard
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn commands_and_their_answers() {
    let script = script(vec![
        login(),
        [
            row(&[Some("7301"), Some("2"), Some("0/16B3748"), Some("d")]),
            frame(b'C', b"IDENTIFY_SYSTEM\0"),
            READY.to_vec(),
        ]
        .concat(),
        [
            row(&[Some("s"), Some("1/2"), Some("snap"), Some("pgoutput")]),
            frame(b'C', b"CREATE_REPLICATION_SLOT\0"),
            READY.to_vec(),
        ]
        .concat(),
        [error("42704"), READY.to_vec()].concat(),
        [
            row(&[None, Some("")]),
            row(&[Some("x"), Some("y")]),
            frame(b'C', b"SELECT 2\0"),
            READY.to_vec(),
        ]
        .concat(),
    ]);
    let mut connection = ReplicationConnection::connect(&script.config)
        .await
        .unwrap();
    assert_eq!(
        connection.identify_system().await.unwrap(),
        SystemIdentity {
            system_id: 7301,
            timeline: 2,
            wal: Lsn::new(0x16b_3748),
            database: "d".to_owned(),
        }
    );
    let slot = connection.create_slot("s", SlotKind::Temporary, SlotSnapshot::Export);
    assert_eq!(
        slot.await.unwrap(),
        CreatedSlot {
            consistent_point: Lsn::new(0x1_0000_0002),
            snapshot: Some("snap".to_owned()),
        }
    );
    let missing = connection.drop_slot("a\"b").await.unwrap_err();
    assert_eq!(missing.sqlstate(), Some("42704"));
    assert_eq!(missing.disposition(), Disposition::Fatal);
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        connection.query("select").await.unwrap(),
        [vec![None, some("")], vec![some("x"), some("y")]],
        "the connection works on after an error"
    );
    connection.close().await.unwrap();
    let heard = script.server.await.unwrap();
    for text in [
        "replication\0database\0",
        "application_name\0rektor\0",
        "wal_sender_timeout=60s",
        "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')\0",
        "DROP_REPLICATION_SLOT \"a\"\"b\"\0",
    ] {
        assert!(contains(&heard, text), "{text}");
    }
    assert!(heard.ends_with(b"X\0\0\0\x04"));
}

#[tokio::test]
async fn a_stream_delivers_confirms_and_ends() {
    let keepalive = |reply| {
        frame(
            b'd',
            &[&b"k\0\0\0\0\0\0\0\x09"[..], &[0; 8], &[reply]].concat(),
        )
    };
    let script = script(vec![
        login(),
        [frame(b'W', &[0, 0, 0]), keepalive(1)].concat(),
        [
            frame(b'd', &[&b"w"[..], &[0; 24], b"payload"].concat()),
            frame(b'c', b""),
            frame(b'C', b"COPY 0\0"),
        ]
        .concat(),
    ]);
    let connection = ReplicationConnection::connect(&script.config)
        .await
        .unwrap();
    let stream = connection.start_replication("s", Lsn::new(5), "re'k\"tor");
    let mut stream = stream.await.unwrap();
    assert_eq!(
        stream.next().await.unwrap(),
        ReplicationMessage::Keepalive {
            end: Lsn::new(9),
            sent: 0,
            reply_requested: true,
        }
    );
    let mut progress = Progress::starting_at(Lsn::new(5));
    progress.receive(Lsn::new(9));
    progress.make_durable(Lsn::new(8));
    progress.apply(Lsn::new(7));
    stream.send_status(&progress, true).await.unwrap();
    let (mut receiver, sender) = stream.split();
    assert!(matches!(
        receiver.next().await.unwrap(),
        ReplicationMessage::WalData { payload, .. } if &*payload == b"payload"
    ));
    let ended = receiver.next().await.unwrap_err();
    assert!(matches!(ended, UpstreamError::Closed));
    assert_eq!(ended.disposition(), Disposition::Retry);
    sender.close().await.unwrap();
    drop(receiver);
    let heard = script.server.await.unwrap();
    assert!(contains(
        &heard,
        "START_REPLICATION SLOT \"s\" LOGICAL 0/5 (proto_version '1', publication_names '\"re''k\"\"tor\"', binary 'true', messages 'true')"
    ));
    let numbers: Vec<u8> = [9_u64, 8, 7].iter().flat_map(|n| n.to_be_bytes()).collect();
    let status = [&b"d\0\0\0\x26r"[..], &numbers].concat();
    assert!(heard.windows(status.len()).any(|window| window == status));
}

#[tokio::test]
async fn a_silent_stream_is_given_up() {
    let script = script(vec![login(), frame(b'W', &[0, 0, 0])]);
    let connection = ReplicationConnection::connect(&script.config)
        .await
        .unwrap();
    let stream = connection.start_replication("s", Lsn::ZERO, "p");
    let mut stream = stream.await.unwrap();
    tokio::time::pause(); // only now: a paused clock runs ahead of real sockets
    let began = Instant::now();
    // Asked again and again, as a `select!` with a timer does.
    let silent = loop {
        if let Ok(ended) = timeout(Duration::from_secs(1), stream.next()).await {
            break ended.unwrap_err();
        }
    };
    assert!(matches!(silent, UpstreamError::Timeout { .. }), "{silent}");
    assert!(began.elapsed() < SILENCE_LIMIT + Duration::from_secs(2));
}

#[tokio::test]
async fn passwords_are_sent_and_never_told() {
    let md5 = [&b"R\0\0\0\x0c\0\0\0\x05"[..], b"salt"].concat();
    let plain = b"R\0\0\0\x08\0\0\0\x03".to_vec();
    let hashed = md5_of_test();
    for (request, answer) in [(plain, PASSWORD.to_owned()), (md5, hashed)] {
        let script = script(vec![request, error("28P01")]);
        let refused = ReplicationConnection::connect(&script.config)
            .await
            .unwrap_err();
        assert_eq!(refused.sqlstate(), Some("28P01"));
        assert_eq!(refused.disposition(), Disposition::Fatal);
        assert!(!format!("{refused} {refused:?}").contains(PASSWORD));
        let heard = script.server.await.unwrap();
        assert!(contains(&heard, &answer));
    }
}

/// What libpq answers for user `u`, this password and salt `salt`.
fn md5_of_test() -> String {
    postgres_protocol::authentication::md5_hash(b"u", PASSWORD.as_bytes(), *b"salt")
}

#[tokio::test]
async fn logins_that_cannot_be_completed() {
    let authentication =
        |code: u8, rest: &[u8]| frame(b'R', &[&[0, 0, 0, code][..], rest].concat());
    for (request, expected) in [
        (authentication(7, b""), "GSSAPI"),
        (authentication(9, b""), "SSPI"),
        (authentication(10, b"OTHER\0\0"), "SCRAM-SHA-256"),
    ] {
        let script = script(vec![request]);
        let refused = ReplicationConnection::connect(&script.config)
            .await
            .unwrap_err();
        assert!(matches!(refused, UpstreamError::Authentication(_)));
        assert!(refused.to_string().contains(expected), "{refused}");
    }
    let mut without = script(vec![authentication(3, b"")]);
    let mut config = Config::new();
    config.host_path(without._directory.path()).user("u");
    without.config = config;
    let refused = ReplicationConnection::connect(&without.config)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("none is configured"),
        "{refused}"
    );
    // A server that claims a SCRAM exchange it cannot finish.
    let script = script(vec![
        authentication(10, b"SCRAM-SHA-256\0\0"),
        authentication(11, b"r=other,s=AAAA,i=4096"),
    ]);
    let refused = ReplicationConnection::connect(&script.config)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, UpstreamError::Authentication(_)),
        "{refused}"
    );
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_before_connecting() {
    for (text, expected) in [
        ("host=h user=u sslmode=require", "TLS is not supported yet"),
        (
            "host=h user=u channel_binding=require",
            "TLS is not supported yet",
        ),
        (
            "host=h user=u sslmode=require sslnegotiation=direct",
            "TLS is not supported yet",
        ),
        ("host=h", "names no user"),
        ("user=u", "names no host"),
    ] {
        let config: Config = text.parse().unwrap();
        let refused = ReplicationConnection::connect(&config).await.unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
        assert_eq!(refused.disposition(), Disposition::Fatal);
    }
}

#[tokio::test]
async fn the_first_host_that_accepts_is_used() {
    let script = script(vec![login()]);
    let mut config = Config::new();
    config
        .host_path("/nonexistent")
        .host_path(script._directory.path())
        .user("u");
    let connection = ReplicationConnection::connect(&config).await.unwrap();
    connection.close().await.unwrap();
    let mut config = Config::new();
    config.host_path("/nonexistent").user("u");
    let refused = ReplicationConnection::connect(&config).await.unwrap_err();
    assert!(refused.to_string().contains("/nonexistent/.s.PGSQL.5432"));
    assert_eq!(refused.disposition(), Disposition::Retry);
}

#[tokio::test]
async fn an_abandoned_command_closes_the_connection_to_others() {
    let script = script(vec![login(), Vec::new()]);
    let mut connection = ReplicationConnection::connect(&script.config)
        .await
        .unwrap();
    {
        let query = std::pin::pin!(connection.query("select"));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(query.poll(&mut context).is_pending());
    }
    let refused = connection.query("select").await.unwrap_err();
    assert!(matches!(refused, UpstreamError::Protocol(_)));
}

#[tokio::test]
async fn an_answer_that_lacks_a_value_is_an_error() {
    for answer in [
        Vec::new(),
        row(&[Some("x")]),
        row(&[None, None, None, None]),
    ] {
        let script = script(vec![login(), [answer, READY.to_vec()].concat()]);
        let mut connection = ReplicationConnection::connect(&script.config)
            .await
            .unwrap();
        let refused = connection.identify_system().await.unwrap_err();
        assert!(matches!(refused, UpstreamError::Protocol(_)), "{refused}");
    }
}
