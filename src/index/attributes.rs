//! INCLUDE values → for each column that filters can use, the ordinals of every row, and the rows sorted by ordinal.
//! Pure; a clone shares everything and costs a reference count a branch and a run.
//!
//! The sorted side is a log-structured merge: what was set since the last sealing becomes a sorted run, and runs of similar
//! size are merged, so there are at most some twenty and each entry is written as often. Entries are only ever added: one
//! whose row has another value now, or is gone, stays until a merge meets it. So a run names a superset, perhaps a row twice,
//! and a reader compares with the row's own ordinals, which are always those of its snapshot.

use std::sync::Arc;

use super::ordinal::Ordinal;
use super::pages::Records;
use super::tokens;
use super::values::{Table, Values, numbers};
use crate::catalog::FilterKind;

/// A run is merged into the one before it until that is at least so many times as long.
const GROWTH: usize = 2;

/// To mark the row that an entry names costs as much as to compare so many rows that follow each other with a range.
const SWEPT: usize = 8;

/// All columns, in INCLUDE order.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes {
    columns: Vec<Option<Column>>,
}

/// One column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    kind: FilterKind,
    /// False once a value was met that is none of its kind: from then on nothing can be told of the column.
    readable: bool,
    values: Values,
    /// Longest first.
    runs: Vec<Arc<Run>>,
    /// Set since the last sealing.
    tail: Vec<(u64, u32)>,
}

/// Entries in order, without equal ones.
#[derive(Debug, Default)]
struct Run {
    ordinals: Vec<u64>,
    rows: Vec<u32>,
}

impl Run {
    /// An empty one that grows to so many entries without taking more room.
    fn for_entries(count: usize) -> Self {
        Self {
            ordinals: Vec::with_capacity(count),
            rows: Vec::with_capacity(count),
        }
    }
}

impl Attributes {
    /// No rows; `None` for columns that filters cannot use.
    pub(super) fn new(kinds: impl IntoIterator<Item = Option<FilterKind>>) -> Self {
        let columns = kinds.into_iter().map(|kind| kind.map(Column::new));
        Self {
            columns: columns.collect(),
        }
    }

    /// The same columns without rows.
    pub(super) fn emptied(&self) -> Self {
        let kind = |column: &Option<Column>| column.as_ref().map(|column| column.kind);
        Self::new(self.columns.iter().map(kind))
    }

    /// The row has these values now, one a column.
    pub(super) fn set<'a>(&mut self, row: u32, value: impl Fn(usize) -> Option<&'a [u8]>) {
        for (number, column) in self.columns.iter_mut().enumerate() {
            if let Some(column) = column {
                column.set(row, value(number));
            }
        }
    }

    /// The row is gone.
    pub(super) fn remove(&mut self, row: u32) {
        for column in self.columns.iter_mut().flatten() {
            column.values.clear(row);
        }
    }

    /// Sorts what was set, so that a clone finds it.
    pub(super) fn seal(&mut self) {
        self.columns.iter_mut().flatten().for_each(Column::seal);
    }

    /// A column that can be filtered on.
    pub(super) fn column(&self, number: usize) -> Option<&Column> {
        let column = self.columns.get(number)?.as_ref()?;
        column.readable.then_some(column)
    }

    /// Bytes held, about.
    pub(super) fn bytes(&self) -> usize {
        self.columns.iter().flatten().map(Column::bytes).sum()
    }
}

impl Column {
    fn new(kind: FilterKind) -> Self {
        Self {
            kind,
            readable: true,
            values: match kind {
                FilterKind::One(_) => Values::One(Table::default()),
                FilterKind::Array(_) | FilterKind::Jsonb => Values::Many(Records::default()),
            },
            runs: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// What a row has now, a run or the tail has as well.
    fn set(&mut self, row: u32, value: Option<&[u8]>) {
        match (&mut self.values, self.kind) {
            (Values::One(table), FilterKind::One(kind)) => {
                let ordinal = match value.map(|value| Ordinal::of_binary(kind, value)) {
                    Some(Some(ordinal)) => ordinal.get(),
                    Some(None) => {
                        self.readable = false;
                        return;
                    }
                    None => Ordinal::NULL.get(),
                };
                if table.set(row, ordinal) {
                    self.tail.push((ordinal, row));
                }
            }
            (Values::Many(sets), kind) => {
                let tokens = match value {
                    Some(value) => tokens::of_binary(kind, value),
                    None => vec![Ordinal::NULL.get()],
                };
                let old: Vec<u64> = numbers(sets.get(row)).collect();
                if tokens == old {
                    return;
                }
                let is_new = |token: &&u64| old.binary_search(token).is_err();
                let new = tokens.iter().filter(is_new).map(|token| (*token, row));
                self.tail.extend(new);
                let bytes: Vec<u8> = tokens
                    .iter()
                    .flat_map(|token| token.to_le_bytes())
                    .collect();
                sets.set(row, &bytes);
            }
            (Values::One(_), FilterKind::Array(_) | FilterKind::Jsonb) => self.readable = false,
        }
    }

    /// Whether one of the row's ordinals lies in one of the ranges, which are in order.
    pub(super) fn is_in(&self, row: u32, ranges: &[(Ordinal, Ordinal)]) -> bool {
        self.values.is_in(row, ranges)
    }

    /// Of a bitmap of rows, leaves those that are in one of the ranges.
    pub(super) fn retain(&self, ranges: &[(Ordinal, Ordinal)], marks: &mut [u64]) {
        self.values.retain(ranges, marks);
    }

    /// Whether rows in ranges are found quicker by going through all rows, when so many entries name them.
    pub(super) fn is_swept(
        &self,
        ranges: &[(Ordinal, Ordinal)],
        entries: usize,
        rows: usize,
    ) -> bool {
        matches!(self.values, Values::One(_))
            && entries.saturating_mul(SWEPT) >= rows * ranges.len()
    }

    /// Entries in the ranges: at least as many as rows.
    pub(super) fn count(&self, ranges: &[(Ordinal, Ordinal)]) -> usize {
        self.parts(ranges).map(|(rows, _)| rows.len()).sum()
    }

    /// The rows of the entries in the ranges, in some order: every row whose value lies there, others, and some twice.
    pub(super) fn rows<'a>(
        &'a self,
        ranges: &'a [(Ordinal, Ordinal)],
    ) -> impl Iterator<Item = u32> + 'a {
        self.parts(ranges)
            .flat_map(|(rows, _)| rows.iter().copied())
    }

    /// The parts of runs that lie in the ranges.
    fn parts<'a>(
        &'a self,
        ranges: &'a [(Ordinal, Ordinal)],
    ) -> impl Iterator<Item = (&'a [u32], &'a [u64])> {
        self.runs.iter().flat_map(move |run| {
            ranges
                .iter()
                .chain(self.values.always())
                .filter_map(move |(low, high)| {
                    let start = run.ordinals.partition_point(|ordinal| *ordinal < low.get());
                    let end = run
                        .ordinals
                        .partition_point(|ordinal| *ordinal <= high.get());
                    Some((run.rows.get(start..end)?, run.ordinals.get(start..end)?))
                })
        })
    }

    fn seal(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let mut tail = std::mem::take(&mut self.tail);
        tail.sort_unstable();
        let room = Run::for_entries(tail.len());
        let mut run = self.run(tail.into_iter(), room);
        while let Some(before) = self.runs.last() {
            if before.rows.len() >= GROWTH * run.rows.len() {
                break;
            }
            let room = Run::for_entries(before.rows.len() + run.rows.len());
            run = self.run(merged(before, &run), room);
            self.runs.pop();
        }
        if !run.rows.is_empty() {
            self.runs.push(Arc::new(run));
        }
    }

    /// A run of those entries that tell what the row has now, each once.
    fn run(&self, entries: impl Iterator<Item = (u64, u32)>, mut run: Run) -> Run {
        let mut last = None;
        for (ordinal, row) in entries {
            if last != Some((ordinal, row)) && self.values.has(row, ordinal) {
                run.ordinals.push(ordinal);
                run.rows.push(row);
            }
            last = Some((ordinal, row));
        }
        run
    }

    fn bytes(&self) -> usize {
        let entries: usize = self.runs.iter().map(|run| run.rows.capacity()).sum();
        self.values.bytes() + entries * (size_of::<u64>() + size_of::<u32>())
    }
}

/// The entries of two runs in order.
fn merged<'a>(a: &'a Run, b: &'a Run) -> impl Iterator<Item = (u64, u32)> + 'a {
    let entries = |run: &'a Run| {
        let pairs = run.ordinals.iter().copied().zip(run.rows.iter().copied());
        pairs.peekable()
    };
    let (mut a, mut b) = (entries(a), entries(b));
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if x <= y => a.next(),
        (Some(_), None) => a.next(),
        (_, _) => b.next(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::values::WORD;
    use super::*;
    use crate::catalog::ValueKind;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, Option<i32>),
        Remove(u32),
        Seal,
    }

    fn step() -> impl Strategy<Value = Step> {
        let row = || prop_oneof![0_u32..40, 1_000_u32..1_100, Just(70_000_u32)];
        prop_oneof![
            10 => (row(), proptest::option::weighted(0.9, 0_i32..8)).prop_map(|(row, value)| Step::Set(row, value)),
            3 => row().prop_map(Step::Remove),
            3 => Just(Step::Seal),
        ]
    }

    fn int(value: i32) -> Ordinal {
        Ordinal::of_int(value.into())
    }

    fn check(attributes: &Attributes, model: &BTreeMap<u32, Option<i32>>) {
        let column = attributes.column(1).unwrap();
        assert!(attributes.column(0).is_none() && attributes.column(2).is_none());
        let null = [(Ordinal::NULL, Ordinal::NULL)];
        let nulls: BTreeSet<u32> = column
            .rows(&null)
            .filter(|row| column.is_in(*row, &null))
            .collect();
        let expected = model.iter().filter(|(_, value)| value.is_none());
        assert_eq!(nulls, expected.map(|(row, _)| *row).collect());
        for ranges in [
            vec![(int(2), int(4))],
            vec![(int(0), int(0)), (int(3), int(5)), (int(7), int(9))],
            vec![(Ordinal::LEAST, Ordinal::GREATEST)],
            vec![],
        ] {
            let matches = |value: &i32| {
                ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&int(*value)))
            };
            let expected: BTreeSet<u32> = model
                .iter()
                .filter(|(_, value)| value.as_ref().is_some_and(matches))
                .map(|(row, _)| *row)
                .collect();
            for row in (0..40).chain(1_000..1_100).chain([70_000, 4_000_000_000]) {
                assert_eq!(column.is_in(row, &ranges), expected.contains(&row), "{row}");
            }
            // Whole words, and some rows of them.
            for word in [u64::MAX, 0x0010_0000_2000_0003] {
                let mut marks = vec![word; 1_100];
                column.retain(&ranges, &mut marks);
                let retained = (0_u32..1_100 * 64)
                    .filter(|row| marks[*row as usize / WORD] >> (row % 64) & 1 == 1)
                    .collect::<BTreeSet<u32>>();
                let expected = expected.iter().filter(|row| word >> (*row % 64) & 1 == 1);
                assert_eq!(retained, expected.copied().collect());
            }
            let named: Vec<u32> = column.rows(&ranges).collect();
            assert_eq!(column.count(&ranges), named.len());
            let named: BTreeSet<u32> = named
                .into_iter()
                .filter(|row| column.is_in(*row, &ranges))
                .collect();
            assert_eq!(named, expected);
        }
    }

    proptest! {
        #[test]
        fn every_row_is_named_and_clones_do_not_change(steps in proptest::collection::vec(step(), 0..400)) {
            let mut attributes = Attributes::new([None, Some(ValueKind::Int4.into())]);
            let mut model: BTreeMap<u32, Option<i32>> = BTreeMap::new();
            let mut held: Vec<(Attributes, BTreeMap<u32, Option<i32>>)> = Vec::new();
            for step in steps.into_iter().chain([Step::Seal]) {
                match step {
                    Step::Set(row, value) => {
                        let bytes = value.map(i32::to_be_bytes);
                        attributes.set(row, |column| {
                            assert_eq!(column, 1);
                            bytes.as_ref().map(<[u8; 4]>::as_slice)
                        });
                        model.insert(row, value);
                    }
                    Step::Remove(row) => {
                        attributes.remove(row);
                        model.remove(&row);
                    }
                    Step::Seal => {
                        attributes.seal();
                        check(&attributes, &model);
                        held.push((attributes.clone(), model.clone()));
                    }
                }
            }
            for (attributes, model) in &held {
                check(attributes, model);
            }
            check(&attributes.emptied(), &BTreeMap::new());
        }
    }

    #[test]
    fn churn_does_not_pile_up() {
        let mut attributes = Attributes::new([Some(ValueKind::Int4.into())]);
        for round in 0..200_u8 {
            for row in 0..50 {
                attributes.set(row, |_| {
                    Some(if round % 2 == 0 {
                        &[0, 0, 0, 1]
                    } else {
                        &[0, 0, 0, 2]
                    })
                });
            }
            attributes.seal();
        }
        let column = attributes.column(0).unwrap();
        assert!(column.count(&[(Ordinal::LEAST, Ordinal::GREATEST)]) <= 100);
        assert!(column.runs.len() <= 2);
    }

    #[test]
    fn a_column_with_a_value_of_another_kind_is_not_used() {
        let mut attributes =
            Attributes::new([Some(ValueKind::Int4.into()), Some(ValueKind::Bool.into())]);
        attributes.set(1, |_| Some(&[1]));
        assert!(attributes.column(0).is_none());
        assert!(attributes.column(1).is_some());
    }
}
