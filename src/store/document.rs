//! Small structures ↔ checked JSON files: the text, then a line with its CRC32C.
//! Never leaves a half-written file under the final name.

use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use super::disk::Disk;

/// Far beyond any document of ours: a manifest has some hundred bytes for each index.
const MAX_LENGTH: u64 = 64 << 20;

/// The text and its checksum line.
pub(super) fn encode(document: &impl Serialize) -> Result<Vec<u8>, io::Error> {
    let mut text = serde_json::to_vec(document)?;
    let checksum = crc32c::crc32c(&text);
    text.extend_from_slice(format!("\n{checksum:08x}\n").as_bytes());
    Ok(text)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    const TRAILER: usize = "\n00000000\n".len();
    let text = bytes
        .len()
        .checked_sub(TRAILER)
        .and_then(|length| bytes.split_at_checked(length));
    let (text, trailer) = text.ok_or("shorter than its checksum")?;
    if trailer != format!("\n{:08x}\n", crc32c::crc32c(text)).as_bytes() {
        return Err("wrong checksum".to_owned());
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// Reads a document; `None` when the file does not exist.
pub(super) fn read<T: DeserializeOwned>(
    disk: &dyn Disk,
    path: &Path,
) -> Result<Option<T>, StoreError> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::at(path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH)
        .read_to_end(&mut bytes)
        .map_err(StoreError::at(path))?;
    let decoded = decode(&bytes);
    decoded
        .map(Some)
        .map_err(|what| StoreError::corrupt(path, what))
}

/// Writes a document beside, durably, and moves it into place.
pub(super) fn write(
    disk: &dyn Disk,
    path: &Path,
    document: &impl Serialize,
) -> Result<(), StoreError> {
    let beside = path.with_extension("tmp");
    let written = || -> io::Result<()> {
        match disk.remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = disk.create(&beside)?;
        file.append(&encode(document)?)?;
        file.sync()?;
        disk.rename(&beside, path)?;
        disk.sync_dir(path.parent().unwrap_or(Path::new("")))
    };
    written().map_err(StoreError::at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_is_seen() {
        let bytes = encode(&("text", 7)).unwrap();
        assert_eq!(decode::<(String, i32)>(&bytes), Ok(("text".to_owned(), 7)));
        for length in 0..bytes.len() {
            assert!(decode::<(String, i32)>(&bytes[..length]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(String, i32)>(&damaged).is_err(), "bit {bit}");
        }
    }
}
