//! Fixed-width items by row id, in chunks that never move: written by one thread while others read what was given to
//! them. The only memory that searches share with the writer. Knows nothing of who may read what: `rows` and `codes` do.
//!
//! A cold store keeps its rows, but for the first, in a file that is mapped over the chunks: the system may take those
//! pages back and read them again. What the disk has no room for stays in memory, as far as there may be more of that.
//! Rows are written with `pwrite`: on a broken disk that is an error, where writing through a map would kill the process.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use memmap2::{Advice, MmapMut};

use super::cold::ColdFile;
use crate::index::IndexError;
use crate::index::memory::{Account, Charge, Part};

/// Rows of a chunk, as a power of two: 16,384 rows × 384 floats are 24 MiB.
pub(super) const CHUNK_SHIFT: u32 = 14;
const CHUNK_ROWS: usize = 1 << CHUNK_SHIFT;
/// Rows that room is taken for at a time: with 384 floats 1.5 MiB, about a huge page. The first come in powers of two.
const STEP_ROWS: usize = 1 << 10;
const FIRST_ROWS: usize = 64;
/// Rows that go to a file at a time: of any width whole pages, since an item has at least two bytes.
const COLD_ROWS: usize = 1 << 11;
/// So many first rows of an index stay in memory: a small one takes nothing of the disk. In tests all go to the file.
const HOT_ROWS: usize = if cfg!(test) { 0 } else { COLD_ROWS };
/// Parts of a chunk that are in a file or in memory each by itself.
const COLD_STEPS: usize = CHUNK_ROWS / COLD_ROWS;
/// Of memory.
const PAGE: usize = 4096;
const _: () = assert!(COLD_STEPS <= u8::BITS as usize && STEP_ROWS <= COLD_ROWS);
/// Row ids stay below 2^31: FAISS numbers nodes with signed 32 bits.
pub(super) const MAX_ROWS: usize = 1 << 31;

/// A table of chunks. `T` is plain data for which all-zero bytes are a value.
#[derive(Debug)]
pub(super) struct Store<T: Plain> {
    /// Null until the chunk is needed, then set once. Untouched pages cost nothing, here and in the chunks.
    chunks: Box<[AtomicPtr<T>]>,
    /// What the chunks point into.
    memory: Mutex<Vec<Chunk>>,
    charge: Charge,
    cold: Option<Cold>,
    /// Items of a row.
    width: usize,
    /// Rows with room.
    rows: AtomicUsize,
}

#[derive(Debug)]
struct Chunk {
    _memory: MmapMut,
    /// A bit for each step over which the file lies.
    in_file: u8,
}

/// The file of a store.
#[derive(Debug)]
struct Cold {
    /// Made when the first row goes to it; or why there is none.
    file: OnceLock<Result<Box<dyn ColdFile>, String>>,
    charge: Charge,
}

impl Cold {
    /// Takes room on the disk.
    fn allocate(&self, offset: usize, bytes: usize) -> Result<(&dyn ColdFile, &Charge), String> {
        let memory = self.charge.account().memory();
        let file = self.file.get_or_init(|| memory.cold_file());
        let file = file.as_ref().map_err(String::clone)?;
        let allocated = file.allocate(offset as u64, bytes);
        allocated.map_err(|error| error.to_string())?;
        Ok((&**file, &self.charge))
    }
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
            cold: None,
            width,
            rows: AtomicUsize::new(0),
        }
    }

    /// The same for rows that are hardly ever read: in a file, if the account's memory has any.
    pub(super) fn cold(width: usize, account: &Arc<Account>, part: Part) -> Self {
        const { assert!(size_of::<T>() * COLD_ROWS >= PAGE) };
        let cold = account.memory().has_files().then(|| Cold {
            file: OnceLock::new(),
            charge: Charge::new(Arc::clone(account), Part::Mapped),
        });
        Self {
            cold,
            ..Self::new(width, account, part)
        }
    }

    /// Makes room for `row` and all before it.
    pub(super) fn reserve(&self, row: u32) -> Result<(), IndexError> {
        if self.rows.load(Ordering::Acquire) > row as usize {
            return Ok(());
        }
        if row as usize >= MAX_ROWS {
            return Err(full());
        }
        let mut chunks = self.lock();
        let mut rows = self.rows.load(Ordering::Relaxed); // another thread may have been first
        while rows <= row as usize {
            let to = self.step_after(rows, row as usize + 1);
            self.add(rows, to, &mut chunks)?;
            rows = to;
            self.rows.store(rows, Ordering::Release);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Chunk>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows that there is room for after the step that follows `rows`, of so many that are wanted.
    fn step_after(&self, rows: usize, wanted: usize) -> usize {
        let next = (rows + 1).next_multiple_of(COLD_ROWS);
        if self.file_from(rows).is_some() {
            return next;
        }
        room_for(wanted.min(next))
    }

    /// The file, where the rows from there on go to it.
    fn file_from(&self, rows: usize) -> Option<&Cold> {
        let cold = self.cold.as_ref();
        cold.filter(|_| rows + 1 > HOT_ROWS)
    }

    /// Makes room for the rows from `rows` to `to`, which are of one chunk.
    fn add(&self, rows: usize, to: usize, chunks: &mut Vec<Chunk>) -> Result<(), IndexError> {
        let bytes = (to - rows) * self.row_bytes();
        let cold = self.file_from(rows);
        match cold.map(|cold| cold.allocate(rows * self.row_bytes(), bytes)) {
            Some(Ok((file, charge))) => {
                self.add_chunks(rows, chunks)?;
                let offset = (rows * self.row_bytes()) as u64;
                // Row ids are below 2^31, and a chunk is nowhere near address 0.
                let first = u32::try_from(rows).map_err(|_| full())?;
                let place = NonNull::new(self.place(first).cast()).ok_or_else(full)?;
                // SAFETY: a step is whole pages of a chunk that is ours, and of rows that nobody was given yet.
                unsafe { file.map(offset, bytes, place) }.map_err(no_memory)?;
                chunks[rows / CHUNK_ROWS].in_file |= 1 << step_of(rows);
                charge.add(bytes as u64)
            }
            Some(Err(error)) => {
                let charged = self.charge.add(bytes as u64);
                charged.map_err(|refused| refused.nor_on_disk(&error))?;
                self.add_chunks(rows, chunks)
            }
            None => {
                self.charge.add(bytes as u64)?;
                self.add_chunks(rows, chunks)
            }
        }
    }

    /// Adds chunks up to that of `row`.
    fn add_chunks(&self, row: usize, chunks: &mut Vec<Chunk>) -> Result<(), IndexError> {
        while chunks.len() <= row / CHUNK_ROWS {
            self.add_chunk(chunks)?;
        }
        Ok(())
    }

    fn add_chunk(&self, chunks: &mut Vec<Chunk>) -> Result<(), IndexError> {
        let slot = self.chunks.get(chunks.len()).ok_or_else(full)?;
        let mut memory = MmapMut::map_anon(CHUNK_ROWS * self.row_bytes()).map_err(no_memory)?;
        // The first chunk keeps small pages, so that a small index stays small. Advice may be refused: then it is
        // only slower.
        if !chunks.is_empty() && self.cold.is_none() {
            let _advice = memory.advise(Advice::HugePage);
        }
        slot.store(memory.as_mut_ptr().cast(), Ordering::Release);
        chunks.push(Chunk {
            _memory: memory,
            in_file: 0,
        });
        Ok(())
    }

    fn row_bytes(&self) -> usize {
        self.width * size_of::<T>()
    }

    /// The items of `row`.
    ///
    /// # Safety
    /// `row` was written, that write happened before this call, and nobody writes it while the slice lives.
    pub(super) unsafe fn get(&self, row: u32) -> &[T] {
        // SAFETY: the row was written, so its chunk exists, has CHUNK_ROWS × width items and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.place(row), self.width) }
    }

    /// Writes the items of `row`, wherever it is.
    ///
    /// # Safety
    /// As [`set`](Self::set).
    pub(super) unsafe fn write(&self, row: u32, items: &[T]) -> Result<(), IndexError> {
        if let Some(Ok(file)) = self.cold.as_ref().and_then(|cold| cold.file.get()) {
            let in_file = self.lock()[row as usize >> CHUNK_SHIFT].in_file;
            if in_file & 1 << step_of(row as usize) != 0 {
                assert_eq!(items.len(), self.width, "items of a row");
                // SAFETY: plain data may be read as bytes.
                let bytes = unsafe {
                    std::slice::from_raw_parts(items.as_ptr().cast(), size_of_val(items))
                };
                // The map shows it at once: both are the page cache. Who reads it is told of the row later.
                return file
                    .write(u64::from(row) * bytes.len() as u64, bytes)
                    .map_err(|error| {
                        IndexError::Engine(format!("a vector was not written: {error}"))
                    });
            }
        }
        // SAFETY: the caller's promise; the row is in memory.
        unsafe { self.set(row, items) };
        Ok(())
    }

    /// Writes the items of `row`, of a store that is not cold.
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

/// Which of a chunk's steps the row is in.
fn step_of(row: usize) -> usize {
    row % CHUNK_ROWS / COLD_ROWS
}

fn full() -> IndexError {
    IndexError::Full(format!("{MAX_ROWS} row ids are used up"))
}

fn no_memory(error: io::Error) -> IndexError {
    IndexError::Full(format!("no memory for rows: {error}"))
}

/// Rows that room is made for when `rows` are needed.
fn room_for(rows: usize) -> usize {
    if rows <= STEP_ROWS {
        rows.next_power_of_two().max(FIRST_ROWS)
    } else {
        rows.next_multiple_of(STEP_ROWS)
    }
}
