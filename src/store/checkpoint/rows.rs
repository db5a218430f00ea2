//! Rows of an index → blocks with checksums in a file, a chunk, and back.
//! Never yields a row of a block whose checksum is wrong.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::super::StoreError;
use super::super::disk::{Disk, DiskFile};
use super::FileEntry;
use crate::catalog::RowKey;
use crate::index::{LeftOut, Place};
use crate::vector::{Form, Vector};

const MAGIC: [u8; 8] = *b"RKTROWS\x02";
/// A block is closed at the row that takes it beyond this.
const BLOCK_BYTES: usize = 256 << 10;
/// Handed to the operating system at a time.
const WRITE_BYTES: usize = 1 << 20;
/// Made durable at a time as a file grows: who commits on the same disk, a PostgreSQL among them, waits for what is on its way
/// there, and that of hundreds of MB takes a tenth of a second.
const SYNC_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 16 << 20 };

/// A row as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// Where it was.
    pub place: Place,
    /// Its key.
    pub key: RowKey,
    /// Its vector, or why it has none that can be found.
    pub vector: Result<Vector, LeftOut>,
    /// Its INCLUDE values in binary form; `None` is NULL.
    pub include: Vec<Option<Box<[u8]>>>,
}

/// A file whose size and checksum are counted as it is written.
pub(super) struct CheckedFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    name: String,
    buffer: Vec<u8>,
    size: u64,
    /// Of these, since the last sync.
    unsynced: u64,
    crc32c: u32,
}

impl std::fmt::Debug for CheckedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckedFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl CheckedFile {
    pub(super) fn create(disk: &dyn Disk, path: PathBuf, name: String) -> Result<Self, StoreError> {
        let file = disk.create(&path).map_err(StoreError::at(&path))?;
        Ok(Self {
            file,
            path,
            name,
            buffer: Vec::new(),
            size: 0,
            unsynced: 0,
            crc32c: 0,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes so far.
    fn length(&self) -> u64 {
        self.size + self.buffer.len() as u64
    }

    /// Makes the file durable.
    pub(super) fn finish(mut self) -> Result<FileEntry, StoreError> {
        let finished = self.flush().and_then(|()| self.file.sync());
        finished.map_err(StoreError::at(&self.path))?;
        Ok(FileEntry {
            name: self.name,
            size: self.size,
            crc32c: self.crc32c,
        })
    }
}

impl Write for CheckedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.append(&self.buffer)?;
            self.size += self.buffer.len() as u64;
            self.unsynced += self.buffer.len() as u64;
            self.crc32c = crc32c::crc32c_append(self.crc32c, &self.buffer);
            self.buffer.clear();
            if self.unsynced >= SYNC_BYTES {
                self.file.sync()?;
                self.unsynced = 0;
            }
        }
        Ok(())
    }
}

const fn code_of(reason: LeftOut) -> u8 {
    match reason {
        LeftOut::Null => 1,
        LeftOut::WrongDimension => 2,
        LeftOut::NotFinite => 3,
        LeftOut::Zero => 4,
    }
}

fn reason_of(code: u8) -> Option<LeftOut> {
    [
        LeftOut::Null,
        LeftOut::WrongDimension,
        LeftOut::NotFinite,
        LeftOut::Zero,
    ]
    .into_iter()
    .find(|reason| code_of(*reason) == code)
}

/// Marks a row with a vector where another has the reason why it has none.
const HAS_VECTOR: u8 = 0;
/// Stands for NULL where a value's length stands.
const NULL: u32 = u32::MAX;

/// Rows on their way into a file.
#[derive(Debug)]
pub(super) struct RowFile {
    file: CheckedFile,
    form: Form,
    include: usize,
    block: Vec<u8>,
    places: Vec<u32>,
}

impl RowFile {
    pub(super) fn begin(
        mut file: CheckedFile,
        form: Form,
        include: usize,
    ) -> Result<Self, StoreError> {
        let written = file.write_all(&MAGIC);
        written.map_err(StoreError::at(&file.path))?;
        Ok(Self {
            file,
            form,
            include,
            block: Vec::new(),
            places: Vec::new(),
        })
    }

    /// About how long the file will be.
    pub(super) fn length(&self) -> u64 {
        self.file.length() + self.block.len() as u64
    }

    pub(super) fn append<'v>(
        &mut self,
        place: Place,
        key: &[u8],
        vector: Result<&[f32], LeftOut>,
        include: impl IntoIterator<Item = Option<&'v [u8]>>,
    ) -> Result<(), StoreError> {
        let before = self.block.len();
        self.block.extend_from_slice(&place.pack().to_le_bytes());
        let encoded = self.encode(key, vector, include);
        if encoded.is_err() {
            self.block.truncate(before);
            return encoded;
        }
        self.places.push(place.pack());
        if self.block.len() >= BLOCK_BYTES {
            self.close_block()?;
        }
        Ok(())
    }

    fn encode<'v>(
        &mut self,
        key: &[u8],
        vector: Result<&[f32], LeftOut>,
        include: impl IntoIterator<Item = Option<&'v [u8]>>,
    ) -> Result<(), StoreError> {
        self.value(Some(key))?;
        match vector {
            Ok(words) if words.len() == self.form.words() => {
                self.block.push(HAS_VECTOR);
                for word in words {
                    self.block.extend_from_slice(&word.to_le_bytes());
                }
            }
            Ok(_) => return Err(StoreError::Order("a vector of another dimension")),
            Err(reason) => self.block.push(code_of(reason)),
        }
        let mut columns = 0;
        for value in include {
            self.value(value)?;
            columns += 1;
        }
        if columns != self.include {
            return Err(StoreError::Order("a row with other INCLUDE columns"));
        }
        Ok(())
    }

    fn value(&mut self, value: Option<&[u8]>) -> Result<(), StoreError> {
        let length = match value {
            Some(bytes) => u32::try_from(bytes.len())
                .ok()
                .filter(|length| *length != NULL)
                .ok_or(StoreError::Order("a value of more than 4 GiB"))?,
            None => NULL,
        };
        self.block.extend_from_slice(&length.to_le_bytes());
        self.block.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), StoreError> {
        let length = u32::try_from(self.block.len())
            .map_err(|_| StoreError::Order("a row of more than 4 GiB"))?;
        let mut header = [0; 8];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&crc32c::crc32c(&self.block).to_le_bytes());
        let written = self
            .file
            .write_all(&header)
            .and_then(|()| self.file.write_all(&self.block));
        written.map_err(StoreError::at(&self.file.path))?;
        self.block.clear();
        Ok(())
    }

    /// The rows' places, packed and in the file's order, and the file.
    pub(super) fn finish(mut self) -> Result<(Vec<u32>, FileEntry), StoreError> {
        if !self.block.is_empty() {
            self.close_block()?;
        }
        Ok((self.places, self.file.finish()?))
    }
}

/// Opens a file that must have the entry's size.
pub(super) fn open_checked(
    disk: &dyn Disk,
    path: &Path,
    entry: &FileEntry,
) -> Result<Box<dyn Read + Send>, StoreError> {
    let missing = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            StoreError::corrupt(path, "missing")
        } else {
            StoreError::at(path)(error)
        }
    };
    let length = disk.length(path).map_err(missing)?;
    if length != entry.size {
        let what = format!("{length} bytes instead of {}", entry.size);
        return Err(StoreError::corrupt(path, what));
    }
    disk.open(path).map_err(missing)
}

/// The bytes of a file, all checked.
pub(super) fn read_whole(
    disk: &dyn Disk,
    directory: &Path,
    entry: &FileEntry,
) -> Result<Vec<u8>, StoreError> {
    let path = directory.join(&entry.name);
    let file = open_checked(disk, &path, entry)?;
    let mut bytes = Vec::with_capacity(usize::try_from(entry.size).unwrap_or(0)); // the file's own length by now
    file.take(entry.size)
        .read_to_end(&mut bytes)
        .map_err(StoreError::at(&path))?;
    if bytes.len() as u64 != entry.size || crc32c::crc32c(&bytes) != entry.crc32c {
        return Err(StoreError::corrupt(&path, "wrong checksum"));
    }
    Ok(bytes)
}

/// Reads the rows of a file, block by block.
pub(super) struct ChunkReader {
    source: io::BufReader<Box<dyn Read + Send>>,
    path: PathBuf,
    expected: FileEntry,
    form: Form,
    include: usize,
    rows_left: u64,
    bytes_left: u64,
    crc32c: u32,
    block: Vec<u8>,
    /// Where the next row begins in the block.
    at: usize,
    done: bool,
}

impl std::fmt::Debug for ChunkReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkReader")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl ChunkReader {
    pub(super) fn open(
        disk: &dyn Disk,
        directory: &Path,
        entry: &FileEntry,
        form: Form,
        include: usize,
        rows: u64,
    ) -> Result<Self, StoreError> {
        let path = directory.join(&entry.name);
        let source = open_checked(disk, &path, entry)?;
        let mut reader = Self {
            source: io::BufReader::with_capacity(WRITE_BYTES, source),
            expected: entry.clone(),
            path,
            form,
            include,
            rows_left: rows,
            bytes_left: entry.size,
            crc32c: 0,
            block: Vec::new(),
            at: 0,
            done: false,
        };
        if reader.exactly::<8>()? != MAGIC {
            return Err(reader.damaged("not a file of rows"));
        }
        Ok(reader)
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::corrupt(&self.path, what)
    }

    fn exactly<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        if self.bytes_left < N as u64 {
            return Err(self.damaged("ends inside a block"));
        }
        let mut bytes = [0; N];
        let read = self.source.read_exact(&mut bytes);
        read.map_err(StoreError::at(&self.path))?;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes);
        self.bytes_left -= N as u64;
        Ok(bytes)
    }

    fn next_block(&mut self) -> Result<(), StoreError> {
        let length = u32::from_le_bytes(self.exactly::<4>()?);
        let checksum = u32::from_le_bytes(self.exactly::<4>()?);
        if u64::from(length) > self.bytes_left || length == 0 {
            return Err(self.damaged("a block of impossible length"));
        }
        self.block.clear();
        self.block.resize(length as usize, 0);
        self.at = 0;
        let read = self.source.read_exact(&mut self.block);
        read.map_err(StoreError::at(&self.path))?;
        self.bytes_left -= u64::from(length);
        if crc32c::crc32c(&self.block) != checksum {
            return Err(self.damaged("wrong checksum of a block"));
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, &self.block);
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<StoredRow>, StoreError> {
        if self.at == self.block.len() {
            if self.bytes_left == 0 {
                return if self.rows_left == 0 && self.crc32c == self.expected.crc32c {
                    Ok(None)
                } else {
                    Err(self.damaged("not the file that the manifest names"))
                };
            }
            self.next_block()?;
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let mut fields = Fields(rest);
        let row = fields.row(self.form, self.include);
        self.at += rest.len() - fields.0.len();
        let left = self.rows_left.checked_sub(1);
        match (row, left) {
            (Some(row), Some(left)) => {
                self.rows_left = left;
                Ok(Some(row))
            }
            (None, _) => Err(self.damaged("malformed row")),
            (_, None) => Err(self.damaged("more rows than the manifest names")),
        }
    }
}

impl Iterator for ChunkReader {
    type Item = Result<StoredRow, StoreError>;

    /// Ends after an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

/// The bytes of a block not read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// A value behind its length; `Some(None)` is NULL.
    fn value(&mut self) -> Option<Option<&'a [u8]>> {
        let length = u32::from_le_bytes(*self.take(4)?.first_chunk()?);
        if length == NULL {
            return Some(None);
        }
        self.take(usize::try_from(length).ok()?).map(Some)
    }

    fn row(&mut self, form: Form, include: usize) -> Option<StoredRow> {
        let place = Place::unpack(u32::from_le_bytes(*self.take(4)?.first_chunk()?));
        let key = RowKey::from_encoded(self.value()??);
        let vector = match self.u8()? {
            HAS_VECTOR => {
                let bytes = self.take(form.words().checked_mul(4)?)?;
                let (words, _) = bytes.as_chunks::<4>();
                let words = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
                Ok(Vector::from_words(form, words).ok()?)
            }
            code => Err(reason_of(code)?),
        };
        let mut values = Vec::with_capacity(include.min(self.0.len()));
        for _ in 0..include {
            values.push(self.value()?.map(Box::from));
        }
        Some(StoredRow {
            place,
            key,
            vector,
            include: values,
        })
    }
}
