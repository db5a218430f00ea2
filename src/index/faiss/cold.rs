//! What the engine needs of files whose pages the system may take back: vectors that only a search's best candidates are
//! compared with live there. Opens none itself, since this layer does no I/O: `store::mapped` does, tests do.

use std::fmt::Debug;
use std::io;
use std::ptr::NonNull;

/// Makes files.
pub trait ColdFiles: Debug + Send + Sync {
    /// An empty file that goes when it is dropped, or the process ends.
    ///
    /// # Errors
    /// When the system refuses.
    fn create(&self) -> io::Result<Box<dyn ColdFile>>;
}

/// A file of one index. What was written is seen through every map of the same bytes from then on.
pub trait ColdFile: Debug + Send + Sync {
    /// Takes room on the disk, so that writing there later does not lack it.
    ///
    /// # Errors
    /// When there is none. What was taken before stays.
    fn allocate(&self, offset: u64, bytes: usize) -> io::Result<()>;

    /// Lays bytes that were allocated, to be read only, over the memory at `place`. Whoever unmaps that memory unmaps them.
    ///
    /// # Safety
    /// `place` and `offset` are on a page's boundary, `bytes` are whole pages of one mapping that the caller owns, and
    /// nobody else uses them during the call.
    ///
    /// # Errors
    /// When the system refuses; the memory at `place` must then not be used.
    unsafe fn map(&self, offset: u64, bytes: usize, place: NonNull<u8>) -> io::Result<()>;

    /// Writes bytes that were allocated.
    ///
    /// # Errors
    /// When the disk is broken, or a file system that copies on writing has no room after all.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}
