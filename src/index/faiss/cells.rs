//! The code of a new row → an id beside those of rows like it. A walk meets some thousand rows that are near to each other:
//! where they lie in the same pages, most of its time is saved that would go into waiting for memory.
//!
//! A cell is the rows that one of some sampled rows is nearest to, and takes ids in extents, as many at a time as befits its
//! size. (Centres found by k-means were no better.) Which id a row has means nothing but that: no result depends on it, and what
//! is unknown after a start (whose extent an old id was of) is found out again when it matters.

use super::codes::Codes;
use super::vectors::Vectors;
use crate::index::pages::Bitmap;
use crate::index::{IndexError, IndexSpec};
use crate::vector::Form;

/// Live rows from which ids are given out by cells: fewer are all near.
pub(super) const CELLS_FROM: u64 = 16_384;
/// Cells, so that a million rows are a thousand in each: some pages of what a walk looks at first. Finding the cell of a row
/// takes some microseconds. Twice as many were no better.
const CELLS: u32 = 1_024;
/// Dimensions above which a row is some pages by itself.
const LARGEST: usize = 4_096;
/// An extent has one id for so many rows of its cell, so that few ids are held ready in vain, …
const SHARE: u32 = 16;
/// … and between so many: the least is what `owners` counts by, and the most are many pages.
const LEAST: u32 = 4;
const MOST: u32 = 256;
/// One in so many ids may lie idle, of removed rows in cells that get no new ones, before others take them.
const IDLE: usize = 8;
/// The owner of ids that no cell is known to have.
const NOBODY: u16 = u16::MAX;
const _: () = assert!(CELLS < NOBODY as u32 && CELLS as u64 <= CELLS_FROM);

#[derive(Clone, Debug, Default)]
struct Cell {
    /// What is left of its last extent.
    next: u32,
    end: u32,
    /// Ids it took so far.
    taken: u32,
    /// Of removed rows.
    free: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cells {
    /// A code for each cell.
    centres: Codes,
    cells: Vec<Cell>,
    /// The cell of each extent, by id in steps of the least extent.
    owners: Vec<u16>,
    /// Ids in the cells' lists.
    idle: usize,
}

impl Cells {
    /// Whether rows like these have cells.
    pub(super) fn serve(spec: &IndexSpec) -> bool {
        matches!(spec.form(), Form::Numbers(dim) if dim.get() <= LARGEST)
    }

    /// Cells around some of the live rows of an index, all of which have codes.
    ///
    /// # Errors
    /// When there is no memory.
    pub(super) fn choose(
        spec: &IndexSpec,
        codes: &Codes,
        vectors: &Vectors,
        live: &Bitmap,
    ) -> Result<Self, IndexError> {
        let chosen = Self {
            centres: Codes::new(spec, Some(codes.mean().into()), vectors),
            cells: vec![Cell::default(); CELLS as usize],
            owners: Vec::new(),
            idle: 0,
        };
        let step = usize::try_from(live.len() / u64::from(CELLS)).unwrap_or(1);
        for (centre, row) in (0..CELLS).zip(live.iter().step_by(step.max(1))) {
            // SAFETY: a live row's code was written; nobody else knows these centres.
            unsafe {
                let (code, scales) = codes.get(row);
                chosen.centres.set(centre, code, scales)?;
            }
        }
        Ok(chosen)
    }

    /// The cell of a row, by its code around the same mean.
    pub(super) fn of(&self, code: &[u8], scales: &[f32]) -> usize {
        // SAFETY: all centres were written, and are written under `&mut self` only.
        unsafe { self.centres.nearest(CELLS, code, scales) as usize }
    }

    /// An id for a row of a cell. `next` is the first that nobody has; of those in `others` it is not known whose they were.
    pub(super) fn take(&mut self, cell: usize, next: &mut u32, others: &mut Vec<u32>) -> u32 {
        let crowded = self.idle + others.len() > *next as usize / IDLE;
        let of = &mut self.cells[cell];
        if let Some(row) = of.free.pop() {
            self.idle -= 1;
            return row;
        }
        if of.next == of.end {
            if crowded && let Some(row) = others.pop().or_else(|| self.any()) {
                return row;
            }
            self.extend(cell, next);
        }
        let of = &mut self.cells[cell];
        of.next += 1;
        of.taken += 1;
        of.next - 1
    }

    /// An id of a removed row, of the cell that has most.
    pub(super) fn any(&mut self) -> Option<u32> {
        let fullest = self.cells.iter_mut().max_by_key(|cell| cell.free.len())?;
        let row = fullest.free.pop()?;
        self.idle -= 1;
        Some(row)
    }

    /// Gives a cell the next extent.
    fn extend(&mut self, cell: usize, next: &mut u32) {
        // Ids that were given out before there were cells end anywhere.
        let start = next.next_multiple_of(LEAST);
        let of = &mut self.cells[cell];
        let rows = of.taken / SHARE;
        let rows = rows.next_power_of_two().clamp(LEAST, MOST);
        (of.next, of.end) = (start, start + rows);
        *next = of.end;
        for part in 0..rows / LEAST {
            self.own(start + part * LEAST, cell);
        }
    }

    /// Whether it is known whose the ids about this one are.
    pub(super) fn knows(&self, row: u32) -> bool {
        let owner = self.owners.get((row / LEAST) as usize);
        owner.is_some_and(|owner| *owner != NOBODY)
    }

    /// The ids about this one are those of a cell.
    pub(super) fn own(&mut self, row: u32, cell: usize) {
        let part = (row / LEAST) as usize;
        if self.owners.len() <= part {
            self.owners.resize(part + 1, NOBODY);
        }
        self.owners[part] = u16::try_from(cell).unwrap_or(NOBODY);
    }

    /// Takes back the id of a removed row; false if it is not known whose it is.
    pub(super) fn give_back(&mut self, row: u32) -> bool {
        let owner = self.owners.get((row / LEAST) as usize).copied();
        let Some(cell) = owner.and_then(|owner| self.cells.get_mut(usize::from(owner))) else {
            return false;
        };
        cell.free.push(row);
        self.idle += 1;
        true
    }

    /// Bytes held, beside the centres' codes.
    pub(super) fn bytes(&self) -> usize {
        let free = self.cells.iter().map(|cell| cell.free.capacity());
        self.owners.capacity() * size_of::<u16>()
            + self.cells.capacity() * size_of::<Cell>()
            + free.sum::<usize>() * size_of::<u32>()
    }
}
