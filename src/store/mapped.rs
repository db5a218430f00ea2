//! Vectors of an index → a file without a name, mapped read-only, whose pages the system keeps while it has room and reads
//! again when they are wanted. Not durable state: generations and journal are, and the rows are loaded again from them.
//!
//! A file has no name, so nothing is left of it after any end of the process, and nobody can shorten it. What is read from
//! the map comes from the page cache, where `write` puts it (Linux: both are one), so a row can be read once it was
//! written. Neither a full nor a broken disk kills: room is taken before it is mapped, and writing goes through `pwrite`.
//! One thing does, as with any map (also a program's own code): a page that was taken back and that the disk then cannot
//! read any more (SIGBUS).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::MmapMut;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::StoreError;
use super::disk::{Disk, RealDisk};
use crate::index::{ColdFile, ColdFiles};

/// File systems that are memory: `statfs` says so of tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58F6];
/// What is written to see whether maps show it: a page.
const PROBE: [u8; 4096] = [0x5A; 4096];

/// A directory for such files, this process's own.
#[derive(Debug)]
pub struct MappedFiles {
    directory: PathBuf,
    refused: Arc<AtomicBool>,
}

/// See the module.
#[derive(Debug)]
struct MappedFile {
    file: File,
    /// The disk had no room the last time that any file asked.
    refused: Arc<AtomicBool>,
}

impl MappedFiles {
    /// Makes the directory if need be, empties it, and tries what will be asked of it.
    ///
    /// # Errors
    /// When the file system does not allow it, or is memory itself: nothing would be gained.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = || StoreError::at(directory);
        RealDisk.create_dir(directory).map_err(failed())?;
        let system = rustix::fs::statfs(directory).map_err(io::Error::from);
        if IN_MEMORY.contains(&system.map_err(failed())?.f_type.cast_unsigned()) {
            let reason = "the file system is memory itself";
            return Err(failed()(io::Error::new(io::ErrorKind::Unsupported, reason)));
        }
        // Where files cannot be made without a name, a kill may have come between their making and their removal.
        for name in RealDisk.list(directory).map_err(failed())? {
            let left = directory.join(name);
            match RealDisk.remove_file(&left) {
                // It may be a disk of its own, with what its file system needs.
                Err(error) if error.kind() != io::ErrorKind::IsADirectory => {
                    return Err(StoreError::at(&left)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let files = Self::within(directory);
        files.probe().map_err(failed())?;
        Ok(files)
    }

    /// The same of any directory, which may hold other things.
    pub(crate) fn within(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            refused: Arc::default(),
        }
    }

    /// Whether a map shows what is written beside it.
    fn probe(&self) -> io::Result<()> {
        let file = self.create()?;
        let mut memory = MmapMut::map_anon(PROBE.len())?;
        file.allocate(0, PROBE.len())?;
        // SAFETY: one page, all of a mapping that is ours.
        unsafe { file.map(0, PROBE.len(), NonNull::from(memory.as_mut()).cast())? };
        file.write(0, &PROBE)?;
        if memory[..] == PROBE {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "maps do not show what is written",
        ))
    }
}

impl ColdFiles for MappedFiles {
    fn create(&self) -> io::Result<Box<dyn ColdFile>> {
        let file = tempfile::tempfile_in(&self.directory)?;
        Ok(Box::new(MappedFile {
            file,
            refused: Arc::clone(&self.refused),
        }))
    }
}

impl ColdFile for MappedFile {
    fn allocate(&self, offset: u64, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        let allocated = rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, bytes)
        });
        let allocated = match allocated {
            // Then a full disk shows when a row is written.
            Err(Errno::OPNOTSUPP) => self.file.set_len(offset + bytes),
            allocated => allocated.map_err(io::Error::from),
        };
        let refused = self.refused.swap(allocated.is_err(), Ordering::Relaxed);
        if let Err(error) = &allocated
            && !refused
        {
            tracing::warn!(%error, "no room on disk for vectors: more of them stay in memory");
        }
        allocated
    }

    unsafe fn map(&self, offset: u64, bytes: usize, place: NonNull<u8>) -> io::Result<()> {
        let place = place.as_ptr().cast();
        // SAFETY: whole pages of the caller's own, used by nobody else.
        let mapped = unsafe {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            rustix::mm::mmap(place, bytes, ProtFlags::READ, flags, &self.file, offset)
        };
        if let Err(error) = mapped {
            // Older systems leave a hole, into which another thread might map what the caller would then unmap.
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: as above.
            let filled = unsafe { rustix::mm::mmap_anonymous(place, bytes, protection, flags) };
            if filled.is_err() {
                std::process::abort(); // as for any few bytes that the system does not have
            }
            return Err(error.into());
        }
        // Reading ahead would bring in what nobody asked for, in place of what is wanted. May be refused: it is advice.
        // SAFETY: it changes nothing that can be read.
        let _advised = unsafe { rustix::mm::madvise(place, bytes, Advice::Random) };
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: usize = 4;

    fn written(files: &MappedFiles) -> io::Result<MmapMut> {
        let file = files.create()?;
        let mut memory = MmapMut::map_anon(2 * PAGES * PROBE.len())?;
        file.allocate(PROBE.len() as u64, PAGES * PROBE.len())?;
        let place = NonNull::from(&mut memory[PROBE.len()..]).cast();
        // SAFETY: pages within a mapping that is ours.
        unsafe { file.map(PROBE.len() as u64, PAGES * PROBE.len(), place)? };
        memory[0] = 1;
        // Across two pages.
        file.write(PROBE.len() as u64 * 2 - 1, &[2, 3])?;
        Ok(memory)
    }

    #[test]
    fn what_is_written_shows_and_nothing_is_ever_in_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("vectors");
        let files = match MappedFiles::open(&directory) {
            Ok(files) => files,
            Err(error) if error.to_string().contains("is memory itself") => return,
            Err(error) => panic!("{error}"),
        };
        let memory = written(&files).unwrap();
        let page = PROBE.len();
        assert_eq!((memory[0], memory[page]), (1, 0));
        assert_eq!(memory[2 * page - 1..2 * page + 1], [2, 3]);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);

        std::fs::write(directory.join("left"), "by a kill").unwrap();
        MappedFiles::open(&directory).unwrap();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        // Maps do not need the directory, or the file's descriptor.
        drop((files, parent));
        assert_eq!(memory[2 * page], 3);
    }

    #[test]
    fn a_full_file_system_refuses_and_what_fits_goes_on() {
        // tmpfs refuses at once what is larger than all of it.
        let shared = Path::new("/dev/shm");
        let refused = MappedFiles::open(&shared.join("rektor-vectors-test"));
        let Err(StoreError::Io { source, .. }) = refused else {
            panic!("memory was taken for a disk")
        };
        assert_eq!(source.to_string(), "the file system is memory itself");
        let files = MappedFiles::within(shared);
        let file = files.create().unwrap();
        let error = file.allocate(0, 1 << 50).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        assert!(files.refused.load(Ordering::Relaxed));
        written(&files).unwrap();
        assert!(!files.refused.load(Ordering::Relaxed));
    }
}
