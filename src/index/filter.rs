//! Conditions on INCLUDE columns → which rows of a snapshot may meet them. Never leaves out a row that does.

use super::attributes::{Attributes, Column};
use super::ordinal::Ordinal;
use super::pages::{Bitmap, RowSet};

/// Conditions that all hold for the wanted rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    conditions: Vec<Condition>,
}

/// One of these holds: a column's value, or something in it, lies in one of these ranges, both ends included, in order, apart,
/// none empty. NULL lies in none. A column is there once.
type Condition = Vec<(usize, Vec<(Ordinal, Ordinal)>)>;

impl Filter {
    /// Adds a condition: INCLUDE column `column`, from 0, lies in one of the ranges.
    pub fn add(&mut self, column: usize, ranges: Vec<(Ordinal, Ordinal)>) {
        self.add_any(vec![(column, ranges)]);
    }

    /// Adds a condition: some of these columns lies in one of its ranges.
    pub fn add_any(&mut self, mut columns: Vec<(usize, Vec<(Ordinal, Ordinal)>)>) {
        columns.sort_by_key(|(column, _)| *column);
        let mut condition = Condition::with_capacity(columns.len());
        for (column, ranges) in columns {
            match condition.last_mut() {
                Some((last, all)) if *last == column => all.extend(ranges),
                Some(_) | None => condition.push((column, ranges)),
            }
        }
        for (_, ranges) in &mut condition {
            *ranges = apart(std::mem::take(ranges));
        }
        self.conditions.push(condition);
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
            condition.iter().any(|(column, ranges)| {
                let own = ordinal(*column);
                ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&own))
            })
        })
    }

    /// The columns with a condition.
    pub fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.conditions.iter().flatten().map(|(column, _)| *column)
    }
}

/// The same ranges in order, apart, none empty.
fn apart(mut ranges: Vec<(Ordinal, Ordinal)>) -> Vec<(Ordinal, Ordinal)> {
    ranges.retain(|(low, high)| low <= high);
    ranges.sort_unstable();
    let mut apart: Vec<(Ordinal, Ordinal)> = Vec::with_capacity(ranges.len());
    for (low, high) in ranges {
        match apart.last_mut() {
            Some((_, last)) if low <= *last => *last = high.max(*last),
            Some(_) | None => apart.push((low, high)),
        }
    }
    apart
}

/// Bits of a word of a bitmap.
const WORD: usize = 64;
/// Rows are sorted rather than marked in a bitmap when the bitmap has so many words for each of them.
const WORDS_A_ROW: usize = 16;
/// Entries of the rarest condition that are looked at to see how many meet the others too.
const SAMPLE: usize = 64;

/// A condition on the rows of one snapshot: one of these columns lies in its ranges.
#[derive(Debug)]
struct Test<'a>(Vec<(&'a Column, &'a [(Ordinal, Ordinal)])>);

impl<'a> Test<'a> {
    /// `None` when nothing can be told of one of the columns.
    fn new(condition: &'a Condition, attributes: &'a Attributes) -> Option<Self> {
        let columns = condition.iter().map(|(column, ranges)| {
            let column = attributes.column(*column)?;
            Some((column, ranges.as_slice()))
        });
        columns.collect::<Option<_>>().map(Self)
    }

    /// Entries that name its rows: at least as many as rows.
    fn count(&self) -> usize {
        let columns = self.0.iter();
        columns.map(|(column, ranges)| column.count(ranges)).sum()
    }

    /// Every row that meets it, others, and some twice.
    fn rows(&self) -> impl Iterator<Item = u32> {
        let columns = self.0.iter();
        columns.flat_map(|(column, ranges)| column.rows(ranges))
    }

    fn is_met(&self, row: u32) -> bool {
        let mut columns = self.0.iter();
        columns.any(|(column, ranges)| column.is_in(row, ranges))
    }

    /// Of a bitmap of rows, leaves those that meet it.
    fn retain(&self, marks: &mut [u64]) {
        if let [(column, ranges)] = self.0.as_slice() {
            return column.retain(ranges, marks);
        }
        let mut met = vec![0; marks.len()];
        for (column, ranges) in &self.0 {
            let mut of_column = marks.to_vec();
            column.retain(ranges, &mut of_column);
            for (met, own) in met.iter_mut().zip(of_column) {
                *met |= own;
            }
        }
        marks.copy_from_slice(&met);
    }
}

/// A filter on the rows of one snapshot. The rarest condition is the first.
#[derive(Debug)]
pub(super) struct Matcher<'a> {
    live: &'a Bitmap,
    tests: Vec<Test<'a>>,
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
        let conditions = filter.conditions.iter();
        let mut tests: Vec<_> = conditions
            .filter_map(|condition| Test::new(condition, attributes))
            .map(|test| (test.count(), test))
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

    /// How many rows are gone through, column by column, to name those that meet it, if that is how it is done.
    pub(super) fn swept(&self) -> Option<usize> {
        let rows = self.live.pages().len() * super::pages::PAGE_WORDS * WORD;
        let columns = &self.tests.first()?.0;
        let mut each = columns.iter();
        let swept = each.all(|(column, ranges)| column.is_swept(ranges, self.entries, rows));
        swept.then(|| rows * self.tests.iter().map(|test| test.0.len()).sum::<usize>())
    }

    /// About how many rows meet it.
    pub(super) fn estimate(&self) -> usize {
        let Some(rarest) = self.tests.first() else {
            return 0;
        };
        let step = (self.entries / SAMPLE).max(1);
        let (mut seen, mut met) = (0, 0);
        for row in rarest.rows().step_by(step) {
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
        self.tests.iter().all(|test| test.is_met(row))
    }

    /// Every live row that meets the filter.
    pub(super) fn rows(&self) -> RowSet {
        let Some(rarest) = self.tests.first() else {
            return RowSet::Listed(Vec::new());
        };
        let named = rarest.rows();
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
        for test in &self.tests {
            test.retain(&mut marks);
        }
        RowSet::Marked(marks)
    }
}
