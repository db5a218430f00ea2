//! What real servers sent: the golden files → payloads. Only for tests.

use bytes::Bytes;

/// The servers and forms that were captured, with `capture.sql`.
pub(super) const CAPTURES: [(&str, &str); 6] = [
    ("15 binary", include_str!("golden/pg15-binary.hex")),
    ("15 text", include_str!("golden/pg15-text.hex")),
    ("16 binary", include_str!("golden/pg16-binary.hex")),
    ("16 text", include_str!("golden/pg16-text.hex")),
    ("18 binary", include_str!("golden/pg18-binary.hex")),
    ("18 text", include_str!("golden/pg18-text.hex")),
];

/// The messages of a capture, in stream order.
pub(super) fn payloads(capture: &str) -> Vec<Bytes> {
    capture.lines().map(unhex).collect()
}

/// Hex digits, in which `(78*2100)` stands for 2,100 bytes 0x78.
pub(super) fn unhex(line: &str) -> Bytes {
    let mut bytes = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (value, count);
        if let Some(run) = rest.strip_prefix('(') {
            let (body, after) = run.split_once(')').unwrap();
            let (digits, times) = body.split_once('*').unwrap();
            (value, count, rest) = (digits, times.parse().unwrap(), after);
        } else {
            let (digits, after) = rest.split_at(2);
            (value, count, rest) = (digits, 1, after);
        }
        bytes.extend(std::iter::repeat_n(
            u8::from_str_radix(value, 16).unwrap(),
            count,
        ));
    }
    bytes.into()
}
