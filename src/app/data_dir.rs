//! `--data-dir` → a directory that is ours alone, for as long as this process lives.
//! Never touches a directory that holds something else.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::AppError;

/// Held locked while Rektor runs; its presence marks the directory as Rektor's.
const LOCK: &str = "lock";

/// The locked directory.
#[derive(Debug)]
pub(super) struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes it if need be (mode 0700) and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, AppError> {
        let failed = |reason: String| AppError::DataDir {
            path: path.to_owned(),
            reason,
        };
        let io_failed = |e: io::Error| failed(e.to_string());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io_failed)?;
        let lock = path.join(LOCK);
        if !lock.exists() && fs::read_dir(path).map_err(io_failed)?.next().is_some() {
            return Err(failed(
                "is not empty, and not a data directory of Rektor".to_owned(),
            ));
        }
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(io_failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(failed("another Rektor is using it".to_owned()));
            }
            Err(TryLockError::Error(e)) => return Err(io_failed(e)),
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_failed)?;
        // A loss of power must not leave the state without the file that says whose it is.
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        for directory in [path, parent.unwrap_or(Path::new("."))] {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(io_failed)?;
        }
        Ok(Self { _lock: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_or_our_own_is_taken_and_only_once() {
        let parent = tempfile::tempdir().unwrap();
        let ours = parent.path().join("a/b");
        let first = DataDir::open(&ours).unwrap();
        let mode = fs::metadata(&ours).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let second = DataDir::open(&ours).unwrap_err().to_string();
        assert!(second.ends_with("another Rektor is using it"), "{second}");
        drop(first);
        fs::write(ours.join("journal"), "").unwrap();
        drop(DataDir::open(&ours).unwrap());

        let other = DataDir::open(parent.path()).unwrap_err().to_string();
        assert!(other.contains("is not empty"), "{other}");
    }
}
