//! Real files on a disk that is full or broken when a test wants it to be.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::index::{ColdFile, ColdFiles};
use crate::store::MappedFiles;

/// What the next file operations come to.
#[derive(Debug, Default)]
pub(in crate::index) struct Faults {
    /// Each so-and-so-many-th allocation finds no room; 0 is none.
    pub(in crate::index) full: AtomicUsize,
    asked: AtomicUsize,
    pub(in crate::index) broken: AtomicBool,
}

/// Real files on a disk with faults.
#[derive(Debug)]
pub(in crate::index) struct Disk(MappedFiles, Arc<Faults>);

impl Disk {
    /// Below the system's directory for temporary files.
    pub(in crate::index) fn new(faults: &Arc<Faults>) -> Self {
        Self(
            MappedFiles::within(&std::env::temp_dir()),
            Arc::clone(faults),
        )
    }
}

#[derive(Debug)]
struct File(Box<dyn ColdFile>, Arc<Faults>);

impl ColdFiles for Disk {
    fn create(&self) -> io::Result<Box<dyn ColdFile>> {
        Ok(Box::new(File(self.0.create()?, Arc::clone(&self.1))))
    }
}

impl ColdFile for File {
    fn allocate(&self, offset: u64, bytes: usize) -> io::Result<()> {
        let (full, asked) = (&self.1.full, &self.1.asked);
        let asked = asked.fetch_add(1, Ordering::Relaxed) + 1;
        match full.load(Ordering::Relaxed) {
            full if full > 0 && asked.is_multiple_of(full) => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => self.0.allocate(offset, bytes),
        }
    }

    unsafe fn map(&self, offset: u64, bytes: usize, place: NonNull<u8>) -> io::Result<()> {
        // SAFETY: the caller's.
        unsafe { self.0.map(offset, bytes, place) }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.1.broken.load(Ordering::Relaxed) {
            return Err(io::Error::other("broken"));
        }
        self.0.write(offset, bytes)
    }
}
