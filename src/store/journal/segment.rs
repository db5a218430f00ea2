//! The form of a journal segment: header and records → bytes, and a file's bytes → records or where they end.
//! Never decides whether an end is a torn write or damage.

use std::io::{self, Read};

use bytes::Bytes;

use crate::lsn::Lsn;

/// Names the file's form; the last byte is its version.
const MAGIC: [u8; 8] = *b"RKTRJNL\x01";
/// Magic, number, start, system identifier, epoch, checksum.
pub(super) const HEADER_LENGTH: usize = 8 + 8 + 8 + 8 + 8 + 4;
/// Checksum of the rest, payload's length and checksum, kind, position, synced.
pub(super) const RECORD_HEADER_LENGTH: usize = 4 + 4 + 4 + 1 + 8 + 8;
/// pgoutput's messages are one PostgreSQL allocation each, of at most 1 GiB.
pub(super) const MAX_PAYLOAD: usize = 1 << 30;

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// One more than the segment's before it.
    pub(super) number: u64,
    /// Where the segment before it ends.
    pub(super) start: Lsn,
    /// Whose WAL this is.
    pub(super) system_id: u64,
    /// Of which state of the slot.
    pub(super) epoch: u64,
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A transaction's Begin; the position is where its commit record begins.
    Begin,
    /// A table's description; position 0.
    Relation,
    /// Any other message within a transaction; the position is the Begin's.
    Change,
    /// A transaction's Commit; the position is where its commit record ends.
    Commit,
    /// Nothing for us lies before this position. No payload.
    Position,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Begin => 1,
            Self::Relation => 2,
            Self::Change => 3,
            Self::Commit => 4,
            Self::Position => 5,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [
            Self::Begin,
            Self::Relation,
            Self::Change,
            Self::Commit,
            Self::Position,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) position: Lsn,
    /// How much of the file was durable when this was written: what lies before it was no torn write since.
    pub(super) synced: u64,
    pub(super) payload: Bytes,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LENGTH);
        bytes.extend_from_slice(&MAGIC);
        for word in [self.number, self.start.as_u64(), self.system_id, self.epoch] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_LENGTH]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let sum = crc32c::crc32c(bytes.first_chunk::<{ HEADER_LENGTH - 4 }>()?);
        if fields.take::<8>()? != MAGIC {
            return None;
        }
        let header = Self {
            number: fields.u64()?,
            start: Lsn::new(fields.u64()?),
            system_id: fields.u64()?,
            epoch: fields.u64()?,
        };
        (fields.u32()? == sum).then_some(header)
    }
}

/// Appends a record's bytes.
pub(super) fn encode_record(
    out: &mut Vec<u8>,
    kind: Kind,
    position: Lsn,
    synced: u64,
    payload: &[u8],
) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX); // at most MAX_PAYLOAD, checked by the writer
    let mut rest = [0; RECORD_HEADER_LENGTH - 4];
    let mut at = 0;
    for field in [
        &length.to_le_bytes()[..],
        &crc32c::crc32c(payload).to_le_bytes(),
        &[kind.code()],
        &position.as_u64().to_le_bytes(),
        &synced.to_le_bytes(),
    ] {
        rest[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    out.extend_from_slice(&crc32c::crc32c(&rest).to_le_bytes());
    out.extend_from_slice(&rest);
    out.extend_from_slice(payload);
}

struct RecordHeader {
    length: usize,
    checksum: u32,
    kind: Kind,
    position: Lsn,
    synced: u64,
}

fn decode_record_header(bytes: &[u8; RECORD_HEADER_LENGTH]) -> Option<RecordHeader> {
    let mut fields = Fields(bytes);
    let checksum = fields.u32()?;
    let rest = bytes.last_chunk::<{ RECORD_HEADER_LENGTH - 4 }>()?;
    if crc32c::crc32c(rest) != checksum {
        return None;
    }
    let length = usize::try_from(fields.u32()?).ok()?;
    Some(RecordHeader {
        length,
        checksum: fields.u32()?,
        kind: Kind::from_code(fields.take::<1>()?[0])?,
        position: Lsn::new(fields.u64()?),
        synced: fields.u64()?,
    })
    .filter(|header| header.length <= MAX_PAYLOAD)
}

/// Little-endian numbers from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// What comes next in a segment.
#[derive(Debug)]
pub(super) enum Next {
    /// A record that is whole.
    Record(Record),
    /// The file ends where a record ends.
    End,
    /// Here is no whole record.
    Bad,
}

/// Reads a segment's records in order.
pub(super) struct SegmentReader {
    /// Buffers nothing beyond `length`: what lies there may be cut and written anew.
    source: io::BufReader<io::Take<Box<dyn Read + Send>>>,
    /// Where the next record begins.
    offset: u64,
    length: u64,
}

impl std::fmt::Debug for SegmentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentReader")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl SegmentReader {
    /// Reads the header; `None` when it is not one.
    pub(super) fn open(
        source: Box<dyn Read + Send>,
        length: u64,
    ) -> io::Result<(Self, Option<SegmentHeader>)> {
        const BUFFER: usize = 1 << 20;
        let mut source = io::BufReader::with_capacity(BUFFER, source.take(length));
        let mut header = None;
        if length >= HEADER_LENGTH as u64 {
            let mut bytes = [0; HEADER_LENGTH];
            source.read_exact(&mut bytes)?;
            header = SegmentHeader::decode(&bytes);
        }
        let reader = Self {
            source,
            offset: HEADER_LENGTH as u64,
            length,
        };
        Ok((reader, header))
    }

    /// Where the next record begins; after `Bad`, where the bad one did.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Lets more of the file be read than before.
    pub(super) fn extend(&mut self, length: u64) {
        let more = length.saturating_sub(self.length);
        let source = self.source.get_mut();
        source.set_limit(source.limit() + more);
        self.length += more;
    }

    /// The next record. Nothing can be read after `Bad`, or after `End` until there is more.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        let left = self.length - self.offset;
        if left == 0 {
            return Ok(Next::End);
        }
        if left < RECORD_HEADER_LENGTH as u64 {
            return Ok(Next::Bad);
        }
        let mut bytes = [0; RECORD_HEADER_LENGTH];
        self.source.read_exact(&mut bytes)?;
        let Some(header) = decode_record_header(&bytes) else {
            return Ok(Next::Bad);
        };
        let whole = (RECORD_HEADER_LENGTH + header.length) as u64;
        if whole > left {
            return Ok(Next::Bad);
        }
        let mut payload = vec![0; header.length];
        self.source.read_exact(&mut payload)?;
        if crc32c::crc32c(&payload) != header.checksum {
            return Ok(Next::Bad);
        }
        self.offset += whole;
        Ok(Next::Record(Record {
            kind: header.kind,
            position: header.position,
            synced: header.synced,
            payload: payload.into(),
        }))
    }
}

/// Whether anything in the file says that more than the first `bad` bytes were durable once. Then what is bad there
/// was not torn in writing: it is damage. Headers are looked for at every byte, since lengths cannot be trusted.
pub(super) fn was_durable_beyond(mut source: impl Read, bad: u64) -> io::Result<bool> {
    const CHUNK: u64 = 1 << 20;
    let mut window = Vec::new();
    loop {
        let read = source.by_ref().take(CHUNK).read_to_end(&mut window)?;
        for bytes in window.windows(RECORD_HEADER_LENGTH) {
            let header = bytes.first_chunk().and_then(decode_record_header);
            if header.is_some_and(|header| header.synced > bad) {
                return Ok(true);
            }
        }
        if read == 0 {
            return Ok(false);
        }
        // a header may lie across two chunks
        let keep = window.len().saturating_sub(RECORD_HEADER_LENGTH - 1);
        window.drain(..keep);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(bytes: &[u8]) -> (Option<SegmentHeader>, Vec<Record>, bool) {
        let source = Box::new(io::Cursor::new(bytes.to_vec()));
        let (mut reader, header) = SegmentReader::open(source, bytes.len() as u64).unwrap();
        let mut records = Vec::new();
        if header.is_none() {
            return (None, records, false);
        }
        loop {
            match reader.next().unwrap() {
                Next::Record(record) => records.push(record),
                Next::End => return (header, records, true),
                Next::Bad => return (header, records, false),
            }
        }
    }

    fn segment() -> (SegmentHeader, Vec<Record>, Vec<u8>) {
        let header = SegmentHeader {
            number: 3,
            start: Lsn::new(77),
            system_id: u64::MAX,
            epoch: 1,
        };
        let record = |kind, position, payload: &'static [u8]| Record {
            kind,
            position: Lsn::new(position),
            synced: 44,
            payload: Bytes::from_static(payload),
        };
        let records = vec![
            record(Kind::Relation, 0, b"relation"),
            record(Kind::Begin, 80, b"begin"),
            record(Kind::Change, 80, b""),
            record(Kind::Commit, 90, b"commit"),
            record(Kind::Position, 99, b""),
        ];
        let mut bytes = header.encode();
        for record in &records {
            encode_record(
                &mut bytes,
                record.kind,
                record.position,
                record.synced,
                &record.payload,
            );
        }
        (header, records, bytes)
    }

    #[test]
    fn a_segment_round_trips() {
        let (header, records, bytes) = segment();
        assert_eq!(read_all(&bytes), (Some(header), records, true));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_seen() {
        let (_, records, bytes) = segment();
        for length in 0..bytes.len() {
            let (_, read, ended) = read_all(&bytes[..length]);
            assert!(records.starts_with(&read));
            assert!(read.len() < records.len(), "{length}");
            let _ = ended;
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (_, read, ended) = read_all(&damaged);
            assert!(!ended && records.starts_with(&read), "bit {bit}");
        }
    }

    #[test]
    fn durability_is_remembered_by_what_follows() {
        let (_, _, bytes) = segment();
        let told = |bad| was_durable_beyond(&bytes[..], bad).unwrap();
        assert!(
            told(43) && !told(44),
            "the records say that 44 bytes were durable"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_all(&bytes);
            let _ = was_durable_beyond(&bytes[..], 0);
        }
    }
}
