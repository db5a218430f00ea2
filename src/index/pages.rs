//! Copy-on-write tables by row id: the bitmap of live rows and the rows' records.
//! A clone shares every page and costs one reference count a page; a write copies only the page it touches, so a
//! snapshot keeps exactly what it was given. Never knows what a record means.

use std::sync::Arc;

/// 64-bit words of a bitmap page: 32,768 rows in 4 KiB, small enough to copy for one dead row.
pub(crate) const PAGE_WORDS: usize = 512;
const PAGE_ROWS: usize = PAGE_WORDS * 64;

/// A page of the bitmap.
pub(crate) type BitmapPage = [u64; PAGE_WORDS];

/// A set of row ids. Ids beyond the last page are not in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bitmap {
    pages: Vec<Arc<BitmapPage>>,
    ones: u64,
}

impl Bitmap {
    /// Every id that has a place in the pages of `other`.
    pub(crate) fn all_of(other: &Self) -> Self {
        let full = Arc::new([u64::MAX; PAGE_WORDS]);
        Self {
            pages: vec![full; other.pages.len()],
            ones: (other.pages.len() * PAGE_ROWS) as u64,
        }
    }

    /// Has a place for all ids below `rows`.
    pub(crate) fn make_places(&mut self, rows: u32) {
        let pages = (rows as usize).div_ceil(PAGE_ROWS).max(self.pages.len());
        self.pages.resize_with(pages, || Arc::new([0; PAGE_WORDS]));
    }

    /// Whether `row` is in the set.
    pub(crate) fn contains(&self, row: u32) -> bool {
        let (page, word, bit) = Self::place(row);
        self.pages
            .get(page)
            .is_some_and(|page| page[word] & bit != 0)
    }

    /// Adds `row`; false if it was there.
    pub(crate) fn insert(&mut self, row: u32) -> bool {
        let (page, word, bit) = Self::place(row);
        while self.pages.len() <= page {
            self.pages.push(Arc::new([0; PAGE_WORDS]));
        }
        let word = &mut Arc::make_mut(&mut self.pages[page])[word];
        let new = *word & bit == 0;
        *word |= bit;
        self.ones += u64::from(new);
        new
    }

    /// Takes `row` out; false if it was not there.
    pub(crate) fn remove(&mut self, row: u32) -> bool {
        if !self.contains(row) {
            return false;
        }
        let (page, word, bit) = Self::place(row);
        Arc::make_mut(&mut self.pages[page])[word] &= !bit;
        self.ones -= 1;
        true
    }

    /// Adds every row of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        for row in other.iter() {
            self.insert(row);
        }
    }

    /// Rows in the set.
    pub(crate) fn len(&self) -> u64 {
        self.ones
    }

    /// The rows in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        ones(self.pages.iter().flat_map(|page| page.iter().copied()))
    }

    /// The pages, for code that tests many rows.
    pub(crate) fn pages(&self) -> &[Arc<BitmapPage>] {
        &self.pages
    }

    /// A bit for each row, copied.
    pub(crate) fn words(&self) -> Vec<u64> {
        let words = self.pages.iter().flat_map(|page| page.iter().copied());
        words.collect()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.len() * size_of::<BitmapPage>()
    }

    fn place(row: u32) -> (usize, usize, u64) {
        let row = row as usize;
        (row / PAGE_ROWS, row % PAGE_ROWS / 64, 1 << (row % 64))
    }
}

impl FromIterator<u32> for Bitmap {
    fn from_iter<T: IntoIterator<Item = u32>>(rows: T) -> Self {
        let mut all = Self::default();
        for row in rows {
            all.insert(row);
        }
        all
    }
}

/// Rows to be compared one by one.
#[derive(Debug)]
pub(crate) enum RowSet {
    /// Few among all: in order, each once.
    Listed(Vec<u32>),
    /// Many: a bit for each row.
    Marked(Vec<u64>),
}

impl RowSet {
    /// Its rows, listed and marked.
    pub(crate) fn parts(&self) -> (&[u32], &[u64]) {
        match self {
            Self::Listed(rows) => (rows, &[]),
            Self::Marked(words) => (&[], words),
        }
    }

    /// Its rows in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (rows, words) = self.parts();
        rows.iter().copied().chain(ones(words.iter().copied()))
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        let (rows, words) = self.parts();
        let marked: usize = words.iter().map(|word| word.count_ones() as usize).sum();
        rows.len() + marked
    }
}

/// The numbers of the ones in a bitmap's words, in order.
fn ones(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u32> {
    (0_u32..).zip(words).flat_map(|(number, mut word)| {
        std::iter::from_fn(move || {
            let bit = (word != 0).then(|| word.trailing_zeros())?;
            word &= word - 1;
            Some(number * 64 + bit)
        })
    })
}

/// Rows of a leaf: few enough that copying one for a changed record stays in the microseconds.
const LEAF_ROWS: usize = 64;
/// What a leaf costs beside itself: its pointer, two counts, what the allocator keeps of its two pieces.
const LEAF_OVERHEAD: usize = 40;
/// Leaves of a branch: a clone of a table of ten million rows then counts 600 references.
const BRANCH_LEAVES: usize = 256;

/// The records of 64 rows, packed. `ends[i]` is where record `i` ends and record `i + 1` begins.
#[derive(Clone, Debug)]
struct Leaf {
    ends: [u32; LEAF_ROWS],
    bytes: Vec<u8>,
}

/// Longest record, so that a leaf's offsets fit 32 bits.
pub(crate) const MAX_RECORD: usize = 32 << 20;

/// One byte string a row; a row that was never set has the empty one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    branches: Vec<Arc<Vec<Arc<Leaf>>>>,
    /// Of all records.
    bytes: usize,
    /// Of all leaves' room for them.
    room: usize,
}

impl Records {
    /// The record of `row`.
    pub(crate) fn get(&self, row: u32) -> &[u8] {
        let (branch, leaf, slot) = Self::place(row);
        self.branches
            .get(branch)
            .and_then(|branch| branch.get(leaf))
            .map_or(&[], |leaf| &leaf.bytes[leaf.range(slot)])
    }

    /// Replaces the record of `row`. The caller keeps within [`MAX_RECORD`].
    pub(crate) fn set(&mut self, row: u32, record: &[u8]) {
        debug_assert!(record.len() <= MAX_RECORD);
        let (branch, leaf, slot) = Self::place(row);
        while self.branches.len() <= branch {
            self.branches.push(Arc::default());
        }
        let branch = Arc::make_mut(&mut self.branches[branch]);
        while branch.len() <= leaf {
            branch.push(Arc::new(Leaf {
                ends: [0; LEAF_ROWS],
                bytes: Vec::new(),
            }));
        }
        let room = branch[leaf].bytes.capacity();
        let leaf = Arc::make_mut(&mut branch[leaf]);
        let old = leaf.range(slot);
        self.bytes = self.bytes + record.len() - old.len();
        let (new, gone) = (record.len(), old.len());
        leaf.bytes.splice(old, record.iter().copied());
        for end in &mut leaf.ends[slot..] {
            // within u32: LEAF_ROWS × MAX_RECORD is
            *end = u32::try_from(*end as usize + new - gone).unwrap_or(u32::MAX);
        }
        self.room = self.room + leaf.bytes.capacity() - room;
    }

    /// Bytes held, about: as if all branches but the last were full.
    pub(crate) fn bytes(&self) -> usize {
        let last = self.branches.last().map_or(0, |branch| branch.len());
        let leaves = self.branches.len().saturating_sub(1) * BRANCH_LEAVES + last;
        self.room + leaves * (size_of::<Leaf>() + LEAF_OVERHEAD)
    }

    fn place(row: u32) -> (usize, usize, usize) {
        let row = row as usize;
        let leaf = row / LEAF_ROWS;
        (leaf / BRANCH_LEAVES, leaf % BRANCH_LEAVES, row % LEAF_ROWS)
    }
}

impl Leaf {
    fn range(&self, slot: usize) -> std::ops::Range<usize> {
        let start = if slot == 0 { 0 } else { self.ends[slot - 1] };
        start as usize..self.ends[slot] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn all_rows_that_have_places_are_in_it() {
        let mut bitmap = Bitmap::default();
        bitmap.make_places(32_769);
        assert_eq!((bitmap.len(), bitmap.contains(32_768)), (0, false));
        let mut all = Bitmap::all_of(&bitmap);
        assert_eq!(all.len(), 2 * 32_768);
        assert!(all.contains(0) && all.contains(65_535) && !all.contains(65_536));
        assert_eq!(all.iter().count() as u64, all.len());
        all.remove(1);
        assert!(!all.contains(1) && all.contains(32_769), "pages are shared");
        bitmap.insert(70_000);
        bitmap.make_places(5);
        assert!(bitmap.contains(70_000));
    }

    proptest! {
        #[test]
        fn bitmap_is_a_set_and_clones_do_not_change(
            changes in proptest::collection::vec((any::<bool>(), 0_u32..100_000), 0..300),
            cut in 0_usize..300,
        ) {
            let (mut bitmap, mut model) = (Bitmap::default(), BTreeSet::new());
            let mut old = None;
            for (number, (insert, row)) in changes.into_iter().enumerate() {
                if number == cut {
                    old = Some((bitmap.clone(), model.clone()));
                }
                if insert {
                    prop_assert_eq!(bitmap.insert(row), model.insert(row));
                } else {
                    prop_assert_eq!(bitmap.remove(row), model.remove(&row));
                }
            }
            for (bitmap, model) in old.into_iter().chain([(bitmap, model)]) {
                prop_assert_eq!(bitmap.len(), model.len() as u64);
                prop_assert!(model.iter().all(|row| bitmap.contains(*row)));
                prop_assert!(bitmap.iter().eq(model.iter().copied()));
            }
        }

        #[test]
        fn records_are_a_map_and_clones_do_not_change(
            changes in proptest::collection::vec((0_u32..40_000, proptest::collection::vec(any::<u8>(), 0..20)), 0..300),
            cut in 0_usize..300,
        ) {
            let (mut records, mut model) = (Records::default(), BTreeMap::new());
            let mut old = None;
            for (number, (row, record)) in changes.into_iter().enumerate() {
                if number == cut {
                    old = Some((records.clone(), model.clone()));
                }
                records.set(row % 200 * 199, &record);
                model.insert(row % 200 * 199, record);
            }
            for (records, model) in old.into_iter().chain([(records, model)]) {
                for row in (0..200_u32).map(|row| row * 199).chain([1, 40_000]) {
                    prop_assert_eq!(records.get(row), model.get(&row).map_or(&[][..], Vec::as_slice));
                }
                prop_assert_eq!(records.bytes, model.values().map(Vec::len).sum::<usize>());
            }
        }
    }
}
