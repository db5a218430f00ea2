//! Real files on a disk that is full or broken when a test wants it to be.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mm::Advice;

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

/// Has the system take back what this process has mapped of such files, as far as it will.
pub(in crate::index) fn take_away() {
    for descriptor in std::fs::read_dir("/proc/self/fd").unwrap() {
        let path = descriptor.unwrap().path();
        let temporary = |target: &std::path::Path| target.starts_with(std::env::temp_dir());
        if std::fs::read_link(&path).is_ok_and(|target| temporary(&target))
            && let Ok(file) = std::fs::File::open(&path)
        {
            file.sync_all().unwrap(); // what is not on disk yet cannot be taken
        }
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    for line in maps.lines().filter(|line| line.contains(" r--s ")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|x| usize::from_str_radix(x, 16).unwrap());
        let place = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: it changes nothing that can be read. Another test may have unmapped it by now: then it is refused.
        let _done = unsafe { rustix::mm::madvise(place, end - start, Advice::LinuxPageOut) };
    }
}

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
