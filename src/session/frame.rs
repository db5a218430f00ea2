//! Bytes of a connection → frames (`type, length, body`) of protocol 3, and the packets before it. Sans-IO: never reads,
//! never waits, never looks into a body, and never panics on any input.

use bytes::{Bytes, BytesMut};

/// Type and length.
pub(super) const HEADER: usize = 5;
/// Longest start-up packet: PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`.
pub(super) const MAX_STARTUP: usize = 10_000;
/// Longest frame before authentication: PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`.
pub(super) const MAX_BEFORE_AUTHENTICATION: usize = 65_535;
/// Longest frame afterwards: PostgreSQL's `PQ_LARGE_MESSAGE_LIMIT`.
pub(super) const MAX_FRAME: usize = 0x3fff_ffff - 1;

/// A frame's length contradicts the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// Less than its own length field, or more than allowed.
    #[error("invalid message length")]
    Length,
    /// A start-up packet shorter than its fixed part or longer than [`MAX_STARTUP`].
    #[error("invalid length of startup packet")]
    StartupLength,
}

/// What a frame's first five bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The message type.
    pub(super) tag: u8,
    /// Bytes of the whole frame, header included.
    pub(super) total: usize,
}

/// A whole frame.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Frame(Bytes);

impl Frame {
    /// The message type.
    pub(super) fn tag(&self) -> u8 {
        self.0.first().copied().unwrap_or_default()
    }

    /// What follows the header.
    pub(super) fn body(&self) -> &[u8] {
        self.0.get(HEADER..).unwrap_or_default()
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl std::fmt::Debug for Frame {
    /// Bodies hold row values and passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({} bytes)", char::from(self.tag()), self.0.len())
    }
}

/// The header at the start of these bytes, when it is there.
pub(super) fn header(bytes: &[u8], limit: usize) -> Result<Option<Header>, FrameError> {
    let Some((tag, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let Some(length) = rest.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length < 4 || length > limit {
        return Err(FrameError::Length);
    }
    Ok(Some(Header {
        tag: *tag,
        total: length + 1,
    }))
}

/// Takes the first frame, when all of it is there.
pub(super) fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    match header(buffer, limit)? {
        Some(header) if header.total <= buffer.len() => {
            Ok(Some(Frame(buffer.split_to(header.total).freeze())))
        }
        Some(_) | None => Ok(None),
    }
}

/// A packet before the first frame: `length, code, body`.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Packet {
    /// The client asks for TLS.
    Tls,
    /// The client asks for GSSAPI encryption.
    Gss,
    /// The client asks to cancel what the session of this key does: process id and secret, as they came.
    Cancel { packet: Bytes },
    /// The client logs in: the packet as it came.
    Startup { packet: Bytes },
}

/// Takes the packet before the first frame, when all of it is there.
pub(super) fn take_packet(buffer: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if !(8..=MAX_STARTUP).contains(&length) {
        return Err(FrameError::StartupLength);
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let packet = buffer.split_to(length).freeze();
    let code = packet.get(4..8).unwrap_or_default();
    Ok(Some(match (code, length) {
        ([0x04, 0xd2, 0x16, 0x2f], 8) => Packet::Tls,
        ([0x04, 0xd2, 0x16, 0x30], 8) => Packet::Gss,
        ([0x04, 0xd2, 0x16, 0x2e], 12..) => Packet::Cancel { packet },
        ([0x04, 0xd2, ..], _) => return Err(FrameError::StartupLength),
        _ => Packet::Startup { packet },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_need_all_their_bytes() {
        let bytes = b"Q\0\0\0\x06x\0S\0\0\0\x04";
        for end in 0..7 {
            let mut buffer = BytesMut::from(&bytes[..end]);
            assert_eq!(take(&mut buffer, MAX_FRAME), Ok(None), "cut at {end}");
            assert_eq!(buffer.len(), end);
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        let frame = take(&mut buffer, MAX_FRAME).unwrap().unwrap();
        assert_eq!((frame.tag(), frame.body()), (b'Q', &b"x\0"[..]));
        assert_eq!(take(&mut buffer, MAX_FRAME).unwrap().unwrap().tag(), b'S');
        assert!(buffer.is_empty());
    }

    #[test]
    fn lengths_are_bounded() {
        let check = |bytes: &[u8], limit, expected| assert_eq!(header(bytes, limit), expected);
        check(b"Q\0\0\0\x03", MAX_FRAME, Err(FrameError::Length));
        check(b"Q\xff\xff\xff\xff", MAX_FRAME, Err(FrameError::Length));
        check(
            b"p\0\x01\0\0",
            MAX_BEFORE_AUTHENTICATION,
            Err(FrameError::Length),
        );
        let long = Some(Header {
            tag: b'd',
            total: 0x3fff_ffff,
        });
        check(b"d\x3f\xff\xff\xfe", MAX_FRAME, Ok(long));
    }

    #[test]
    fn packets_before_the_first_frame() {
        let check = |bytes: &[u8], expected: Result<Option<&str>, FrameError>| {
            let found = take_packet(&mut BytesMut::from(bytes)).map(|packet| {
                packet.map(|packet| match packet {
                    Packet::Tls => "tls",
                    Packet::Gss => "gss",
                    Packet::Cancel { .. } => "cancel",
                    Packet::Startup { .. } => "startup",
                })
            });
            assert_eq!(found, expected, "{bytes:?}");
        };
        check(b"\0\0\0\x08\x04\xd2\x16\x2f", Ok(Some("tls")));
        check(b"\0\0\0\x08\x04\xd2\x16\x30", Ok(Some("gss")));
        check(b"\0\0\0\x10\x04\xd2\x16\x2eppppssss", Ok(Some("cancel")));
        check(
            b"\0\0\0\x14\x04\xd2\x16\x2epppp12345678",
            Ok(Some("cancel")),
        );
        check(b"\0\0\0\x09\0\x03\0\0\0", Ok(Some("startup")));
        check(b"\0\0\0\x09\0\x03\0\0", Ok(None));
        check(b"\0\0", Ok(None));
        check(b"\0\0\0\x07\0\x03\0\0", Err(FrameError::StartupLength));
        check(b"\0\0\x27\x11\0\x03\0\0", Err(FrameError::StartupLength));
        check(b"GET / HTTP/1.1\r\n", Err(FrameError::StartupLength));
        check(
            b"\x16\x03\x01\x02\0\x01\0\x01",
            Err(FrameError::StartupLength),
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = take(&mut BytesMut::from(&bytes[..]), MAX_FRAME);
            let _ = take_packet(&mut BytesMut::from(&bytes[..]));
        }
    }
}
