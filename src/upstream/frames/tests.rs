//! Frames that arrive in pieces, are cancelled, are too long or malformed; and which places a connection string names.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::BufMut;
use postgres_protocol::message::frontend;

use super::*;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.put_u32(u32::try_from(body.len()).unwrap() + 4);
    bytes.extend_from_slice(body);
    bytes
}

fn show(incoming: Incoming) -> String {
    match incoming {
        Incoming::Message(Message::CopyData(body)) => {
            String::from_utf8(body.data().to_vec()).unwrap()
        }
        other @ (Incoming::CopyBoth | Incoming::Message(_)) => name_of(&other).to_owned(),
    }
}

#[tokio::test]
async fn frames_survive_any_piece_and_any_cancellation() {
    let mut sent = frame(b'd', b"first");
    sent.extend(frame(b'N', b"SWARNING\0C01000\0Mhear\0\0"));
    sent.extend(frame(b'S', b"a\0b\0"));
    sent.extend(frame(b'W', &[0, 0, 0]));
    sent.extend(frame(b'd', b""));
    sent.extend(frame(b'c', b""));
    let (mut server, client) = tokio::io::duplex(1);
    let mut reader = FrameReader::new(client);
    let writer = tokio::spawn(async move {
        server.write_all(&sent).await.unwrap();
    });
    let mut seen = Vec::new();
    loop {
        // Poll once, then drop the future: the harshest use in a `select!`.
        let polled = {
            let next = pin!(reader.next());
            next.poll(&mut Context::from_waker(Waker::noop()))
        };
        match polled {
            Poll::Ready(Ok(incoming)) => seen.push(show(incoming)),
            Poll::Ready(Err(error)) => {
                assert!(matches!(error, UpstreamError::Closed), "{error}");
                break;
            }
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    writer.await.unwrap();
    assert_eq!(seen, ["first", "CopyBothResponse", "", "CopyDone"]);
}

#[tokio::test]
async fn a_cancelled_send_is_not_torn() {
    let (client, mut server) = tokio::io::duplex(3);
    let mut writer = FrameWriter::new(client);
    for text in ["select 1", "select 2"] {
        let sending = pin!(writer.send(|buffer| frontend::query(text, buffer)));
        let polled = sending.poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        all
    });
    writer.send(|_| Ok(())).await.unwrap();
    drop(writer);
    let mut expected = BytesMut::new();
    frontend::query("select 1", &mut expected).unwrap();
    frontend::query("select 2", &mut expected).unwrap();
    assert_eq!(reader.await.unwrap(), expected);
}

#[tokio::test]
async fn an_upstream_that_does_not_read_is_noticed() {
    let (client, _server) = tokio::io::duplex(1);
    let mut writer = FrameWriter::new(client);
    let long = " ".repeat(MAX_UNSENT + 1);
    {
        let sending = pin!(writer.send(|buffer| frontend::query(&long, buffer)));
        let polled = sending.poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    let refused = writer.send(|buffer| frontend::query("", buffer)).await;
    assert!(matches!(refused, Err(UpstreamError::Protocol(_))));
}

#[test]
fn malformed_frames_are_errors_and_short_ones_wait() {
    let check = |bytes: &[u8]| take(&mut BytesMut::from(bytes)).map(|incoming| incoming.map(show));
    for short in [&b""[..], b"d", b"d\0\0\0", b"d\0\0\0\x05", b"W\0\0\0\x05"] {
        assert!(matches!(check(short), Ok(None)), "{short:?}");
    }
    for malformed in [
        &b"d\0\0\0\x03"[..],      // shorter than its own length
        b"d\xff\xff\xff\xff",     // negative
        b"d\x40\0\0\x01",         // above the limit, refused before it arrives
        b"?\0\0\0\x04",           // unknown tag
        b"1\0\0\0\x05x",          // stray byte
        b"R\0\0\0\x08\0\0\0\x63", // unknown authentication
        b"S\0\0\0\x05x",          // a string without its end
    ] {
        assert!(
            matches!(check(malformed), Err(UpstreamError::Protocol(_))),
            "{malformed:?}"
        );
    }
}

#[test]
fn places_of_a_connection_string() {
    let check = |text: &str| {
        let config: Config = text.parse().unwrap();
        addresses(&config).map(|all| {
            all.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        })
    };
    for (text, expected) in [
        ("postgresql://u@h/d", "h:5432"),
        ("postgresql://u@h1:1,h2:2/d", "h1:1 h2:2"),
        ("host=h1,h2 port=7", "h1:7 h2:7"),
        ("host=/run/pg port=6", "/run/pg/.s.PGSQL.6"),
        ("host=name hostaddr=127.0.0.1 port=6", "127.0.0.1:6"),
        ("host=name hostaddr=::1", "[::1]:5432"),
    ] {
        assert_eq!(check(text).unwrap(), expected, "{text}");
    }
    for text in [
        "user=u",
        "host=a,b,c port=1,2",
        "host=a,b hostaddr=127.0.0.1",
    ] {
        let refused = check(text);
        assert!(matches!(refused, Err(UpstreamError::Config(_))), "{text}");
    }
}
