//! Conditions on INCLUDE columns → which rows of a snapshot may meet them. Never leaves out a row that does.

use super::attributes::{Attributes, Column};
use super::ordinal::Ordinal;
use super::pages::{Bitmap, RowSet};

/// Conditions that all hold for the wanted rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    conditions: Vec<Condition>,
}

/// A column's value, or something in it, lies in one of these ranges, both ends included. NULL lies in none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    column: usize,
    /// In order, apart, none empty.
    ranges: Vec<(Ordinal, Ordinal)>,
}

impl Filter {
    /// Adds a condition: INCLUDE column `column`, from 0, lies in one of the ranges.
    pub fn add(&mut self, column: usize, mut ranges: Vec<(Ordinal, Ordinal)>) {
        ranges.retain(|(low, high)| low <= high);
        ranges.sort_unstable();
        let mut apart: Vec<(Ordinal, Ordinal)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match apart.last_mut() {
                Some((_, last)) if low <= *last => *last = high.max(*last),
                Some(_) | None => apart.push((low, high)),
            }
        }
        self.conditions.push(Condition {
            column,
            ranges: apart,
        });
    }

    /// Whether it has no condition: every row meets it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether a row with these ordinals, one a column, meets it.
    #[cfg(test)]
    pub(crate) fn allows(&self, ordinal: impl Fn(usize) -> Ordinal) -> bool {
        self.conditions.iter().all(|condition| {
            let own = ordinal(condition.column);
            let mut ranges = condition.ranges.iter();
            ranges.any(|(low, high)| (*low..=*high).contains(&own))
        })
    }

    /// The columns with a condition.
    pub fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.conditions.iter().map(|condition| condition.column)
    }
}

/// Bits of a word of a bitmap.
const WORD: usize = 64;
/// Rows are sorted rather than marked in a bitmap when the bitmap has so many words for each of them.
const WORDS_A_ROW: usize = 16;
/// Entries of the rarest condition that are looked at to see how many meet the others too.
const SAMPLE: usize = 64;

/// A filter on the rows of one snapshot. The rarest condition is the first.
#[derive(Debug)]
pub(super) struct Matcher<'a> {
    live: &'a Bitmap,
    tests: Vec<(&'a Column, &'a [(Ordinal, Ordinal)])>,
    /// Entries of the first condition.
    entries: usize,
}

impl<'a> Matcher<'a> {
    /// `None` when no condition can be used.
    pub(super) fn new(
        filter: &'a Filter,
        attributes: &'a Attributes,
        live: &'a Bitmap,
    ) -> Option<Self> {
        let mut tests: Vec<_> = filter
            .conditions
            .iter()
            .filter_map(|condition| {
                let column = attributes.column(condition.column)?;
                let ranges = condition.ranges.as_slice();
                Some((column.count(ranges), (column, ranges)))
            })
            .collect();
        tests.sort_by_key(|(count, _)| *count);
        let entries = tests.first()?.0;
        Some(Self {
            live,
            tests: tests.into_iter().map(|(_, test)| test).collect(),
            entries,
        })
    }

    /// At least the rows that meet the filter; what naming them costs.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// How many rows are gone through, condition by condition, to name those that meet it, if that is how it is done.
    pub(super) fn swept(&self) -> Option<usize> {
        let (column, ranges) = self.tests.first()?;
        let rows = self.live.pages().len() * super::pages::PAGE_WORDS * WORD;
        let swept = column.is_swept(ranges, self.entries, rows);
        swept.then(|| rows * self.tests.len())
    }

    /// About how many rows meet it.
    pub(super) fn estimate(&self) -> usize {
        let Some((column, ranges)) = self.tests.first() else {
            return 0;
        };
        let step = (self.entries / SAMPLE).max(1);
        let (mut seen, mut met) = (0, 0);
        for row in column.rows(ranges).step_by(step) {
            seen += 1;
            met += usize::from(self.is_met(row));
        }
        let live = usize::try_from(self.live.len()).unwrap_or(usize::MAX);
        (self.entries * met).div_ceil(seen.max(1)).min(live)
    }

    /// Whether a row is live and meets the filter.
    pub(super) fn is_met(&self, row: u32) -> bool {
        self.live.contains(row) && self.allows(row)
    }

    /// Whether a live row meets the filter.
    pub(super) fn allows(&self, row: u32) -> bool {
        self.tests
            .iter()
            .all(|(column, ranges)| column.is_in(row, ranges))
    }

    /// Every live row that meets the filter.
    pub(super) fn rows(&self) -> RowSet {
        let Some((column, ranges)) = self.tests.first() else {
            return RowSet::Listed(Vec::new());
        };
        let named = column.rows(ranges);
        let words = self.live.pages().len() * super::pages::PAGE_WORDS;
        if self.entries * WORDS_A_ROW < words {
            let mut rows: Vec<u32> = named.filter(|row| self.is_met(*row)).collect();
            rows.sort_unstable();
            rows.dedup();
            return RowSet::Listed(rows);
        }
        let live = self.live.pages().iter().flat_map(|page| page.iter());
        let mut marks: Vec<u64>;
        if self.swept().is_some() {
            marks = live.copied().collect();
        } else {
            marks = vec![0; words];
            for row in named {
                let row = row as usize;
                if let Some(word) = marks.get_mut(row / WORD) {
                    *word |= 1 << (row % WORD);
                }
            }
            for (mark, live) in marks.iter_mut().zip(live) {
                *mark &= live;
            }
        }
        for (column, ranges) in &self.tests {
            column.retain(ranges, &mut marks);
        }
        RowSet::Marked(marks)
    }
}
