//! Fixed-width items by row id, in chunks that never move: written by one thread while others read what was given to
//! them. The only memory that searches share with the writer. Knows nothing of who may read what: `rows` and `codes` do.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::{Advice, MmapMut};

use crate::index::IndexError;

/// Rows of a chunk, as a power of two: 16,384 rows × 384 floats are 24 MiB.
pub(super) const CHUNK_SHIFT: u32 = 14;
const CHUNK_ROWS: usize = 1 << CHUNK_SHIFT;
/// Row ids stay below 2^31: FAISS numbers nodes with signed 32 bits.
pub(super) const MAX_ROWS: usize = 1 << 31;

/// A table of chunks. `T` is plain data for which all-zero bytes are a value.
#[derive(Debug)]
pub(super) struct Store<T: Plain> {
    /// Null until the chunk is needed, then set once. Untouched pages cost nothing, here and in the chunks.
    chunks: Box<[AtomicPtr<T>]>,
    /// What the chunks point into.
    memory: Mutex<Vec<MmapMut>>,
    /// Items of a row.
    width: usize,
    /// Rows with room, counted from 0 without gaps.
    rows: AtomicUsize,
}

/// Types of which any bytes, also zeros, are a valid value.
///
/// # Safety
/// The implementor has no padding, no invalid bit pattern and no destructor.
pub(super) unsafe trait Plain: Copy + Send + Sync {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: plain numbers.
unsafe impl Plain for u32 {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}

impl<T: Plain> Store<T> {
    /// An empty store of `width` items a row.
    pub(super) fn new(width: usize) -> Self {
        // SAFETY: a null pointer is all zeros.
        let chunks = unsafe { Box::new_zeroed_slice(MAX_ROWS / CHUNK_ROWS).assume_init() };
        Self {
            chunks,
            memory: Mutex::default(),
            width,
            rows: AtomicUsize::new(0),
        }
    }

    /// Makes room for `row` and all before it. Called by one thread at a time.
    pub(super) fn reserve(&self, row: u32) -> Result<(), IndexError> {
        while self.rows.load(Ordering::Relaxed) <= row as usize {
            let rows = self.rows.load(Ordering::Relaxed);
            let slot = self.chunks.get(rows / CHUNK_ROWS);
            let slot =
                slot.ok_or_else(|| IndexError::Full(format!("{MAX_ROWS} row ids are used up")))?;
            let out_of_memory = |error| IndexError::Full(format!("no memory for rows: {error}"));
            let mut chunk = MmapMut::map_anon(self.chunk_bytes()).map_err(out_of_memory)?;
            // The first chunk keeps small pages, so that a small index stays small. Advice may be refused: then it is
            // only slower.
            if rows > 0 {
                let _advice = chunk.advise(Advice::HugePage);
            }
            slot.store(chunk.as_mut_ptr().cast(), Ordering::Release);
            self.memory
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(chunk);
            self.rows.store(rows + CHUNK_ROWS, Ordering::Release);
        }
        Ok(())
    }

    fn chunk_bytes(&self) -> usize {
        CHUNK_ROWS * self.width * size_of::<T>()
    }

    /// The items of `row`.
    ///
    /// # Safety
    /// `row` was written, that write happened before this call, and nobody writes it while the slice lives.
    pub(super) unsafe fn get(&self, row: u32) -> &[T] {
        // SAFETY: the row was written, so its chunk exists, has CHUNK_ROWS × width items and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.place(row), self.width) }
    }

    /// Writes the items of `row`.
    ///
    /// # Safety
    /// `row` was reserved, and nobody else reads or writes it during the call.
    pub(super) unsafe fn set(&self, row: u32, items: &[T]) {
        assert_eq!(items.len(), self.width, "items of a row");
        // SAFETY: the chunk exists and the caller has the row for itself.
        unsafe { std::ptr::copy_nonoverlapping(items.as_ptr(), self.place(row), self.width) }
    }

    /// Where `row` is.
    fn place(&self, row: u32) -> *mut T {
        let chunk = self.chunks[row as usize >> CHUNK_SHIFT].load(Ordering::Acquire);
        assert!(!chunk.is_null(), "row {row} was never written");
        // SAFETY: within the chunk: the remainder is below CHUNK_ROWS.
        unsafe { chunk.add((row as usize & (CHUNK_ROWS - 1)) * self.width) }
    }

    /// The chunk table, for the shim; valid as long as the store.
    pub(super) fn table(&self) -> *const *const T {
        self.chunks.as_ptr().cast()
    }

    /// Bytes of `rows` rows.
    pub(super) fn bytes(&self, rows: u32) -> usize {
        rows as usize * self.width * size_of::<T>()
    }
}
