//! Fixed-width items by row id, in chunks that never move: written by one thread while others read what was given to
//! them. The only memory that searches share with the writer. Knows nothing of who may read what: `rows` and `codes` do.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Advice, MmapMut};

use crate::index::IndexError;
use crate::index::memory::{Account, Charge, Part};

/// Rows of a chunk, as a power of two: 16,384 rows × 384 floats are 24 MiB.
pub(super) const CHUNK_SHIFT: u32 = 14;
const CHUNK_ROWS: usize = 1 << CHUNK_SHIFT;
/// Rows that room is taken for at a time: with 384 floats 1.5 MiB, about a huge page. The first come in powers of two.
const STEP_ROWS: usize = 1 << 10;
const FIRST_ROWS: usize = 64;
/// Row ids stay below 2^31: FAISS numbers nodes with signed 32 bits.
pub(super) const MAX_ROWS: usize = 1 << 31;

/// A table of chunks. `T` is plain data for which all-zero bytes are a value.
#[derive(Debug)]
pub(super) struct Store<T: Plain> {
    /// Null until the chunk is needed, then set once. Untouched pages cost nothing, here and in the chunks.
    chunks: Box<[AtomicPtr<T>]>,
    /// What the chunks point into.
    memory: Mutex<Vec<MmapMut>>,
    charge: Charge,
    /// Items of a row.
    width: usize,
    /// Rows with room.
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
unsafe impl Plain for u16 {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}

impl<T: Plain> Store<T> {
    /// An empty store of `width` items a row, which are that part of the account.
    pub(super) fn new(width: usize, account: &Arc<Account>, part: Part) -> Self {
        // SAFETY: a null pointer is all zeros.
        let chunks = unsafe { Box::new_zeroed_slice(MAX_ROWS / CHUNK_ROWS).assume_init() };
        Self {
            chunks,
            memory: Mutex::default(),
            charge: Charge::new(Arc::clone(account), part),
            width,
            rows: AtomicUsize::new(0),
        }
    }

    /// Makes room for `row` and all before it.
    pub(super) fn reserve(&self, row: u32) -> Result<(), IndexError> {
        if self.rows.load(Ordering::Acquire) > row as usize {
            return Ok(());
        }
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = room_for(row as usize + 1);
        self.charge.grow_to(rows * self.width * size_of::<T>())?;
        while memory.len() * CHUNK_ROWS < rows {
            let full = || IndexError::Full(format!("{MAX_ROWS} row ids are used up"));
            let slot = self.chunks.get(memory.len()).ok_or_else(full)?;
            let mut chunk = MmapMut::map_anon(CHUNK_ROWS * self.width * size_of::<T>())
                .map_err(|error| IndexError::Full(format!("no memory for rows: {error}")))?;
            // The first chunk keeps small pages, so that a small index stays small. Advice may be refused: then it is
            // only slower.
            if !memory.is_empty() {
                let _advice = chunk.advise(Advice::HugePage);
            }
            slot.store(chunk.as_mut_ptr().cast(), Ordering::Release);
            memory.push(chunk);
        }
        // Only ever more: another thread may have been first.
        self.rows.fetch_max(rows, Ordering::Release);
        Ok(())
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

    /// Items of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The chunk table, for the shim; valid as long as the store.
    pub(super) fn table(&self) -> *const *const T {
        self.chunks.as_ptr().cast()
    }

    /// Whose memory it is.
    pub(super) fn account(&self) -> &Arc<Account> {
        self.charge.account()
    }
}

/// Rows that room is made for when `rows` are needed.
fn room_for(rows: usize) -> usize {
    if rows <= STEP_ROWS {
        rows.next_power_of_two().max(FIRST_ROWS)
    } else {
        rows.next_multiple_of(STEP_ROWS)
    }
}
