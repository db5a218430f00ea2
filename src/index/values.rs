//! For each row what filters compare: one ordinal, or a set of them. Copy-on-write, as everything that snapshots share.

use std::sync::Arc;

use super::faiss::keep_in_ranges;
use super::ordinal::Ordinal;
use super::pages::Records;

/// Rows of a page: copying one for a changed row (8 KiB) stays below a microsecond.
const PAGE_ROWS: usize = 1_024;
/// Pages of a branch: a clone of ten million rows then counts 153 references a column.
const BRANCH_PAGES: usize = 64;

/// Rows of a word of a bitmap.
pub(super) const WORD: usize = 64;

/// Marked rows of a page from which on all rows of its words are compared with a range, 64 at a time, which costs as much as some
/// ten one by one for each word.
const MARKED_A_RANGE: usize = 160;

/// Stands where there is no row.
pub(super) const NONE: u64 = u64::MAX;

/// In the set of a row that every condition takes for met.
pub(super) const EVERY: Ordinal = Ordinal::GREATEST;

/// Ranges of ordinals, both ends included.
type Ranges<'a> = &'a [(Ordinal, Ordinal)];

/// What a column's rows have.
#[derive(Clone, Debug)]
pub(super) enum Values {
    /// One ordinal.
    One(Table),
    /// A set, as eight bytes for each of them, in order.
    Many(Records),
}

/// One ordinal a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    branches: Vec<Arc<Vec<Arc<Page>>>>,
}

type Page = [u64; PAGE_ROWS];

impl Values {
    /// Whether the row has that ordinal.
    pub(super) fn has(&self, row: u32, ordinal: u64) -> bool {
        match self {
            Self::One(table) => table.get(row) == ordinal,
            Self::Many(sets) => numbers(sets.get(row)).any(|own| own == ordinal),
        }
    }

    /// Whether one of the row's ordinals lies in one of the ranges, which are in order.
    pub(super) fn is_in(&self, row: u32, ranges: Ranges<'_>) -> bool {
        match self {
            Self::One(table) => lies_in(table.get(row), ranges),
            Self::Many(sets) => {
                let is_in = |own| own == EVERY.get() || lies_in(own, ranges);
                numbers(sets.get(row)).any(is_in)
            }
        }
    }

    /// Of a bitmap of rows, leaves those that are in the ranges.
    pub(super) fn retain(&self, ranges: Ranges<'_>, marks: &mut [u64]) {
        match self {
            Self::One(table) => table.retain(ranges, marks),
            Self::Many(_) => {
                for (number, word) in (0_u32..).zip(marks) {
                    let mut rest = *word;
                    while rest != 0 {
                        let bit = rest & rest.wrapping_neg();
                        if !self.is_in(number * 64 + rest.trailing_zeros(), ranges) {
                            *word &= !bit;
                        }
                        rest ^= bit;
                    }
                }
            }
        }
    }

    /// What every search looks at beside its ranges.
    pub(super) fn always(&self) -> Ranges<'static> {
        match self {
            Self::One(_) => &[],
            Self::Many(_) => &[(EVERY, EVERY)],
        }
    }

    /// The row has nothing.
    pub(super) fn clear(&mut self, row: u32) {
        match self {
            Self::One(table) => {
                table.set(row, NONE);
            }
            Self::Many(sets) if !sets.get(row).is_empty() => sets.set(row, &[]),
            Self::Many(_) => {}
        }
    }

    /// Bytes held, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::One(table) => table.bytes(),
            Self::Many(sets) => sets.bytes(),
        }
    }
}

impl Table {
    /// The row's ordinal; [`NONE`] for a row that was never set.
    fn get(&self, row: u32) -> u64 {
        let (branch, page, slot) = place(row);
        let branch = self.branches.get(branch);
        branch
            .and_then(|branch| branch.get(page))
            .map_or(NONE, |page| page[slot])
    }

    /// False if the row had it.
    pub(super) fn set(&mut self, row: u32, ordinal: u64) -> bool {
        if self.get(row) == ordinal {
            return false;
        }
        let (branch, page, slot) = place(row);
        while self.branches.len() <= branch {
            self.branches.push(Arc::default());
        }
        let Some(branch) = self.branches.get_mut(branch).map(Arc::make_mut) else {
            return false;
        };
        while branch.len() <= page {
            branch.push(Arc::new([NONE; PAGE_ROWS]));
        }
        if let Some(page) = branch.get_mut(page) {
            Arc::make_mut(page)[slot] = ordinal;
        }
        true
    }

    fn retain(&self, ranges: Ranges<'_>, marks: &mut [u64]) {
        for (number, words) in marks.chunks_mut(PAGE_ROWS / WORD).enumerate() {
            let branch = self.branches.get(number / BRANCH_PAGES);
            let page = branch.and_then(|branch| branch.get(number % BRANCH_PAGES));
            if words.iter().all(|word| *word == 0) {
                continue;
            }
            let Some(page) = page else {
                words.fill(0);
                continue;
            };
            let marked: usize = words.iter().map(|word| word.count_ones() as usize).sum();
            if marked >= MARKED_A_RANGE * ranges.len() {
                let ends = ranges.iter().map(|(low, high)| (low.get(), high.get()));
                keep_in_ranges(&page[..], &ends.collect::<Vec<_>>(), words);
                continue;
            }
            for (word, ordinals) in words.iter_mut().zip(page.chunks(WORD)) {
                let mut rest = *word;
                while rest != 0 {
                    let bit = rest & rest.wrapping_neg();
                    let ordinal = ordinals.get(rest.trailing_zeros() as usize);
                    if !ordinal.is_some_and(|ordinal| lies_in(*ordinal, ranges)) {
                        *word &= !bit;
                    }
                    rest ^= bit;
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        let pages: usize = self.branches.iter().map(|branch| branch.len()).sum();
        pages * size_of::<Page>()
    }
}

/// The ordinals of a set.
pub(super) fn numbers(set: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (words, _) = set.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word))
}

/// Whether an ordinal lies in one of the ranges, which are in order.
fn lies_in(ordinal: u64, ranges: Ranges<'_>) -> bool {
    let (low, high) = match ranges {
        [range] => *range,
        ranges => {
            let after = ranges.partition_point(|(_, high)| high.get() < ordinal);
            match ranges.get(after) {
                Some(range) => *range,
                None => return false,
            }
        }
    };
    low.get() <= ordinal && ordinal <= high.get()
}

fn place(row: u32) -> (usize, usize, usize) {
    let row = row as usize;
    let page = row / PAGE_ROWS;
    (page / BRANCH_PAGES, page % BRANCH_PAGES, row % PAGE_ROWS)
}
