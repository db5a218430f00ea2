//! Filtered searches against a model that compares values themselves, and their recall where the graph is walked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::super::constant::tests::holds;
use super::super::pages::RowSet;
use super::super::*;
use super::{Clusters, Random, key, linked_with, wait_until};
use crate::catalog::{Comparison, Factory, FilterKind, IndexOptions, Method, RowKey, ValueKind};
use crate::lsn::Lsn;
use crate::vector::Vector;

const DIM: usize = 4;
const KINDS: [Option<FilterKind>; 5] = [
    Some(FilterKind::One(ValueKind::Int4)),
    None,
    Some(FilterKind::One(ValueKind::Text)),
    Some(FilterKind::One(ValueKind::Float8)),
    Some(FilterKind::Array(ValueKind::Int4)),
];

fn spec(method: Method) -> IndexSpec {
    IndexSpec {
        dim: Dim::new(DIM).unwrap(),
        metric: Metric::L2,
        options: IndexOptions {
            method,
            ..IndexOptions::default()
        },
        include: KINDS.len(),
    }
}

/// A row's values: an integer, bytes that nobody can compare and the numbers of its ones as an array, a text, a number.
type Values = (Option<i32>, Option<u8>, Option<u8>, Option<f64>);

fn changes((int, opaque, text, number): &Values) -> Vec<ColumnChange> {
    let change = |value: Option<Vec<u8>>| {
        value.map_or(ColumnChange::Null, |value| ColumnChange::Set(value.into()))
    };
    vec![
        change(int.map(|int| int.to_be_bytes().into())),
        change(opaque.map(|byte| vec![byte])),
        change(text.map(|text| format!("text {text}").into_bytes())),
        change(number.map(|number| number.to_be_bytes().into())),
        change(opaque.map(ones)),
    ]
}

/// The numbers of a byte's ones, as an `integer[]` in binary form.
fn ones(byte: u8) -> Vec<u8> {
    let ones: Vec<i32> = (0..8).filter(|bit| byte >> bit & 1 == 1).collect();
    let head = [1, 0, 23, i32::try_from(ones.len()).unwrap(), 1];
    let elements = ones.into_iter().flat_map(|one| [4, one]);
    let words = head.into_iter().chain(elements);
    words.flat_map(i32::to_be_bytes).collect()
}

#[derive(Clone, Debug)]
enum Test {
    Int(Comparison, i64),
    In(Vec<i64>),
    Text(u8),
    Number(Comparison, f64),
    Opaque,
    /// Some element compares so.
    Element(Comparison, i64),
    /// Any of them is an element.
    Overlaps(Vec<i64>),
    /// One of these holds.
    Either(Vec<Test>),
}

impl Test {
    fn add_to(&self, filter: &mut Filter) {
        if let Self::Either(tests) = self {
            return filter.add_any(tests.iter().map(Self::ranges).collect());
        }
        let (column, ranges) = self.ranges();
        filter.add(column, ranges);
    }

    fn ranges(&self) -> (usize, Vec<(Ordinal, Ordinal)>) {
        let (column, ranges) = match self {
            Self::Int(comparison, constant) => (
                0,
                vec![Constant::Int(*constant).range(ValueKind::Int4, *comparison)],
            ),
            Self::In(list) => {
                let range = |constant: &i64| {
                    Constant::Int(*constant).range(ValueKind::Int4, Comparison::Equal)
                };
                (0, list.iter().map(range).collect())
            }
            Self::Text(text) => {
                let constant = Constant::Text(format!("text {text}").into_bytes());
                (2, vec![constant.range(ValueKind::Text, Comparison::Equal)])
            }
            Self::Number(comparison, constant) => (
                3,
                vec![Constant::Float(*constant).range(ValueKind::Float8, *comparison)],
            ),
            Self::Opaque => (1, vec![Some((Ordinal::LEAST, Ordinal::LEAST))]),
            Self::Element(comparison, constant) => (
                4,
                vec![Constant::Int(*constant).range(ValueKind::Int4, *comparison)],
            ),
            Self::Overlaps(list) => {
                let range = |constant: &i64| {
                    Constant::Int(*constant).range(ValueKind::Int4, Comparison::Equal)
                };
                (4, list.iter().map(range).collect())
            }
            Self::Either(_) => unreachable!("they are not nested"),
        };
        (column, ranges.into_iter().map(Option::unwrap).collect())
    }

    fn holds(&self, (int, byte, text, number): &Values) -> bool {
        match self {
            Self::Int(comparison, constant) => {
                int.is_some_and(|int| holds(*comparison, &i64::from(int), constant))
            }
            Self::In(list) => int.is_some_and(|int| list.contains(&int.into())),
            Self::Text(wanted) => *text == Some(*wanted),
            Self::Number(comparison, constant) => {
                number.is_some_and(|number| holds(*comparison, &number, constant))
            }
            Self::Opaque => true,
            Self::Element(comparison, constant) => {
                let mut ones = (0..8).filter(|bit| byte.is_some_and(|byte| byte >> bit & 1 == 1));
                ones.any(|bit| holds(*comparison, &bit, constant))
            }
            Self::Overlaps(list) => list
                .iter()
                .any(|bit| byte.is_some_and(|byte| byte >> bit & 1 == 1)),
            Self::Either(tests) => tests
                .iter()
                .any(|test| test.holds(&(*int, *byte, *text, *number))),
        }
    }
}

fn test() -> impl Strategy<Value = Test> {
    let several = proptest::collection::vec(one_test(), 2..4);
    prop_oneof![3 => one_test(), 1 => several.prop_map(Test::Either)]
}

fn one_test() -> impl Strategy<Value = Test> {
    let comparison = || {
        prop_oneof![
            Just(Comparison::Equal),
            Just(Comparison::Less),
            Just(Comparison::AtMost),
            Just(Comparison::Greater),
            Just(Comparison::AtLeast)
        ]
    };
    prop_oneof![
        (comparison(), -1_i64..5)
            .prop_map(|(comparison, constant)| Test::Int(comparison, constant)),
        proptest::collection::vec(-1_i64..6, 0..4).prop_map(Test::In),
        (0_u8..4).prop_map(Test::Text),
        (comparison(), prop_oneof![-1.0..1.0, Just(0.0), Just(-0.0)])
            .prop_map(|(comparison, constant)| Test::Number(comparison, constant)),
        Just(Test::Opaque),
        (comparison(), -1_i64..9)
            .prop_map(|(comparison, constant)| Test::Element(comparison, constant)),
        proptest::collection::vec(0_i64..8, 0..4).prop_map(Test::Overlaps),
    ]
}

fn values() -> impl Strategy<Value = Values> {
    (
        proptest::option::weighted(0.9, 0_i32..4),
        proptest::option::of(any::<u8>()),
        proptest::option::weighted(0.9, 0_u8..3),
        proptest::option::weighted(0.9, prop_oneof![-1.0..1.0, Just(0.0), Just(-0.0)]),
    )
}

#[derive(Clone, Debug)]
enum Change {
    /// A row, with a vector or without one.
    Put(u8, Option<Vec<f32>>, Values),
    /// Only its values.
    Values(u8, Values),
    Delete(u8),
    Truncate,
}

fn change() -> impl Strategy<Value = Change> {
    let vector = || proptest::collection::vec(-4.0_f32..4.0, DIM);
    prop_oneof![
        20 => (0_u8..40, proptest::option::weighted(0.9, vector()), values()).prop_map(|(key, vector, values)| Change::Put(key, vector, values)),
        8 => (0_u8..40, values()).prop_map(|(key, values)| Change::Values(key, values)),
        6 => (0_u8..40).prop_map(Change::Delete),
        1 => Just(Change::Truncate),
    ]
}

type Model = BTreeMap<u8, (Option<Vec<f32>>, Values)>;

fn apply(writer: &mut Writer, model: &mut Model, change: &Change) {
    let upsert = |number: u8, vector, values: &Values| RowChange::Upsert {
        old_key: None,
        key: key(number.into()),
        vector,
        include: changes(values),
    };
    match change {
        Change::Put(number, vector, values) => {
            let set = match vector {
                Some(vector) => VectorChange::Set(Vector::new(vector.clone()).unwrap()),
                None => VectorChange::LeftOut(LeftOut::Null),
            };
            writer.apply(upsert(*number, set, values)).unwrap();
            model.insert(*number, (vector.clone(), *values));
        }
        Change::Values(number, values) => {
            let outcome = writer
                .apply(upsert(*number, VectorChange::Unchanged, values))
                .unwrap();
            assert_eq!(outcome == Outcome::Unknown, !model.contains_key(number));
            if let Some(row) = model.get_mut(number) {
                row.1 = *values;
            }
        }
        Change::Delete(number) => {
            writer
                .apply(RowChange::Delete {
                    key: key((*number).into()),
                })
                .unwrap();
            model.remove(number);
        }
        Change::Truncate => {
            writer.apply(RowChange::Truncate).unwrap();
            model.clear();
        }
    }
}

fn check(snapshot: &Snapshot, model: &Model, tests: &[Test], query: &[f32]) {
    let mut filter = Filter::default();
    tests.iter().for_each(|test| test.add_to(&mut filter));
    let mut expected: Vec<(f64, u8)> = model
        .iter()
        .filter(|(_, (_, values))| tests.iter().all(|test| test.holds(values)))
        .filter_map(|(number, (vector, _))| {
            Some((Metric::L2.distance(query, vector.as_ref()?), *number))
        })
        .collect();
    expected.sort_by(|a, b| a.0.total_cmp(&b.0));
    let query = Vector::new(query.to_vec()).unwrap();
    for k in [1, 3, expected.len(), expected.len() + 1] {
        let found = snapshot
            .search_filtered(&query, k, Effort::Candidates(10), &filter)
            .unwrap();
        assert_eq!(found.neighbors.len(), k.min(expected.len()), "{tests:?}");
        assert_eq!(found.exhausted, k >= expected.len());
        let mut rows: Vec<RowId> = found.neighbors.iter().map(|near| near.row).collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), found.neighbors.len(), "a row twice");
        for (near, (distance, _)) in found.neighbors.iter().zip(&expected) {
            assert!((f64::from(near.distance) - distance).abs() < 1e-3);
            let own = RowKey::from_encoded(snapshot.key(near.row).unwrap());
            let meets = |(_, number): &(f64, u8)| key((*number).into()) == own;
            assert!(
                expected.iter().any(meets),
                "a row that does not meet {tests:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn filters_find_what_the_model_has(
        method in prop_oneof![Just(Method::Hnsw), Just(Method::Flat)],
        transactions in proptest::collection::vec(proptest::collection::vec(change(), 0..12), 1..25),
        filters in proptest::collection::vec(proptest::collection::vec(test(), 0..4), 1..4),
        query in proptest::collection::vec(-4.0_f32..4.0, DIM),
    ) {
        let mut writer = Writer::new(spec(method)).unwrap().filtered_on(KINDS);
        let mut model = Model::new();
        let mut held: Vec<(Arc<Snapshot>, Model)> = Vec::new();
        for (number, transaction) in transactions.iter().enumerate() {
            for change in transaction {
                apply(&mut writer, &mut model, change);
            }
            let snapshot = writer.publish(Lsn::new(number as u64));
            for tests in &filters {
                check(&snapshot, &model, tests, &query);
            }
            if number % 3 == 0 {
                held.push((snapshot, model.clone()));
            }
        }
        for (snapshot, model) in &held {
            for tests in &filters {
                check(snapshot, model, tests, &query);
            }
        }
    }
}

/// Rows of the recall tests; enough for a graph whose walks are cheaper than comparing a large part of the rows.
const ROWS: u64 = 12_000;

/// An index of clustered vectors: an integer that spreads evenly, one that follows the vector's first component, NULLs, and
/// some rows dead.
fn clustered(options: IndexOptions) -> (Writer, Arc<Snapshot>, Vec<Vec<f32>>) {
    let spec = IndexSpec {
        dim: Dim::new(16).unwrap(),
        metric: Metric::L2,
        options,
        include: 2,
    };
    let mut clusters = Clusters::new(11, 16);
    let queries = (0..40).map(|_| clusters.next()).collect();
    let kinds = [ValueKind::Int8, ValueKind::Float4].map(|kind| Some(kind.into()));
    let (mut writer, _) = linked_with(
        Writer::new(spec).unwrap().filtered_on(kinds),
        (0..ROWS).map(|number| {
            let vector = clusters.next();
            let even = match number % 100 {
                99 => ColumnChange::Null,
                _ => ColumnChange::Set(
                    i64::try_from(number * 7_919 % 10_000)
                        .unwrap()
                        .to_be_bytes()
                        .into(),
                ),
            };
            let follows = ColumnChange::Set(vector[0].to_be_bytes().into());
            RowChange::Upsert {
                old_key: None,
                key: key(number),
                vector: VectorChange::Set(Vector::new(vector).unwrap()),
                include: vec![even, follows],
            }
        }),
    );
    for number in (0..ROWS).step_by(9) {
        writer
            .apply(RowChange::Delete { key: key(number) })
            .unwrap();
    }
    let snapshot = writer.publish(Lsn::new(2));
    wait_until("linking", || snapshot.stats().unlinked == 0);
    (writer, snapshot, queries)
}

#[test]
fn filtered_walks_find_the_nearest_and_never_too_few() {
    nearest_and_never_too_few(IndexOptions::default(), Effort::Candidates(64));
}

#[test]
fn filtered_lists_find_the_nearest_and_never_too_few() {
    let mut options = IndexOptions {
        method: Method::Ivf,
        ..IndexOptions::default()
    };
    nearest_and_never_too_few(options, Effort::Recall(0.97));
    options.method = Method::Factory;
    options.factory = Some(Factory::new("IVF64,SQ8").unwrap());
    nearest_and_never_too_few(options, Effort::Recall(0.97));
    options.factory = Some(Factory::new("HNSW16,SQ8").unwrap());
    nearest_and_never_too_few(options, Effort::Recall(0.97));
}

fn nearest_and_never_too_few(options: IndexOptions, effort: Effort) {
    let (_writer, snapshot, queries) = clustered(options);
    let even = |below: i64| (0, Constant::Int(below), ValueKind::Int8, Comparison::Less);
    let follows = |comparison, bound| (1, Constant::Float(bound), ValueKind::Float4, comparison);
    let mut walked = 0;
    for condition in [
        even(10_000),
        even(5_000),
        even(2_000),
        even(1_000),
        even(100),
        even(1),
        even(0),
        follows(Comparison::Greater, 0.0),
        follows(Comparison::Less, 0.0),
        follows(Comparison::Less, -0.8),
        follows(Comparison::Greater, 1.5),
    ] {
        let (column, constant, kind, comparison) = condition.clone();
        let range = constant.range(kind, comparison).unwrap();
        let mut filter = Filter::default();
        filter.add(column, vec![range]);
        let meets = |row: RowId| {
            let value = snapshot.include(row, column);
            let ordinal =
                value.and_then(|value| super::super::ordinal::Ordinal::of_binary(kind, value));
            ordinal.is_some_and(|ordinal| range.0 <= ordinal && ordinal <= range.1)
        };
        let rows: Vec<RowId> = snapshot.rows().filter(|row| meets(*row)).collect();
        let (mut found, mut wanted) = (0, 0);
        for query in &queries {
            let mut distances: Vec<f64> = rows
                .iter()
                .map(|row| Metric::L2.distance(query, &snapshot.vector(*row).unwrap()))
                .collect();
            distances.sort_by(f64::total_cmp);
            let expected = rows.len().min(10);
            let vector = Vector::new(query.clone()).unwrap();
            let got = snapshot
                .search_filtered(&vector, 10, effort, &filter)
                .unwrap();
            assert_eq!(got.neighbors.len(), expected);
            assert!(got.neighbors.iter().all(|near| meets(near.row)));
            assert_eq!(got.exhausted, rows.len() <= 10);
            walked += u64::from(got.distances < rows.len() as u64);
            wanted += expected;
            if let Some(last) = expected.checked_sub(1) {
                let last = distances[last] + 1e-4;
                found += got
                    .neighbors
                    .iter()
                    .filter(|near| f64::from(near.distance) <= last)
                    .count();
            }
        }
        let recall = found as f64 / f64::from(u32::try_from(wanted.max(1)).unwrap());
        assert!(
            wanted == 0 || recall >= 0.95,
            "{options:?} {condition:?}: {recall}"
        );
    }
    assert!(walked >= 40, "{options:?}: compared all but {walked} times");
}

/// Enough for a sample of them to tell how near the nearest are.
const MARKED_ROWS: u64 = 9_000;

/// Of rows that a bitmap names those that are really the nearest, wherever they lie, with copies of them among the rows, dead rows
/// and rows that are not linked.
#[test]
fn marked_rows_are_compared_with_what_is_nearest_found() {
    for (metric, dim, copies) in [
        (Metric::L2, 128, false),
        (Metric::L2, 128, true),
        (Metric::Cosine, 130, false),
        (Metric::InnerProduct, 128, false),
        (Metric::L1, 128, false),
        (Metric::L2, 16, false),
    ] {
        let spec = IndexSpec {
            dim: Dim::new(dim).unwrap(),
            metric,
            options: IndexOptions::default(),
            include: 0,
        };
        let mut clusters = Clusters::new(23, dim);
        let queries: Vec<Vec<f32>> = (0..10).map(|_| clusters.next()).collect();
        let mut writer = Writer::new(spec).unwrap();
        let mut last = Vec::new();
        for number in 0..MARKED_ROWS {
            if !copies || number % 300 == 0 {
                last = clusters.next();
            }
            writer.apply(super::upsert(number, last.clone())).unwrap();
        }
        for number in (0..MARKED_ROWS).step_by(7) {
            writer
                .apply(RowChange::Delete { key: key(number) })
                .unwrap();
        }
        let snapshot = writer.publish(Lsn::new(1));
        let live = snapshot.view().live();
        // All, half of each word, whole words here and there, the first half, the last.
        let chosen: [fn(usize) -> u64; 5] = [
            |_| u64::MAX,
            |_| 0x5555_5555_5555_5555,
            |word| if word % 3 == 0 { u64::MAX } else { 0 },
            |word| if word < 75 { u64::MAX } else { 0 },
            |word| if word < 75 { 0 } else { u64::MAX },
        ];
        for (case, chosen) in chosen.into_iter().enumerate() {
            let words = live.pages().iter().flat_map(|page| page.iter());
            let words = words.enumerate().map(|(word, live)| live & chosen(word));
            let among = RowSet::Marked(words.collect());
            for k in [1, 13, 100] {
                let (mut found, mut wanted) = (0, 0);
                for query in &queries {
                    let distance =
                        |row| metric.distance(query, &snapshot.view().vector(row).unwrap());
                    let mut distances: Vec<f64> = among.iter().map(distance).collect();
                    distances.sort_by(f64::total_cmp);
                    let (ranked, _) = snapshot.view().search_among(query, k, &among).unwrap();
                    assert_eq!(ranked.len(), k);
                    assert!(
                        among.len() == among.iter().count()
                            && ranked.is_sorted_by(|a, b| a.1 <= b.1)
                    );
                    let rows: BTreeSet<u32> = ranked.iter().map(|(row, _)| *row).collect();
                    let all: BTreeSet<u32> = among.iter().collect();
                    assert!(rows.len() == k && rows.is_subset(&all));
                    let last = distances[k - 1] + 1e-4;
                    wanted += k;
                    found += ranked
                        .iter()
                        .filter(|(row, _)| distance(*row) <= last)
                        .count();
                }
                assert!(
                    found * 1_000 >= wanted * 998,
                    "{metric:?} {dim} {copies} case {case}, {k}: {found} of {wanted}"
                );
            }
        }
    }
}

/// Hundreds of rows that codes cannot tell apart, all as near as the last of the answer: they are compared by their vectors, and
/// the others are not; nor is any compared by its code twice, but for those that tell beforehand how near the nearest are.
#[test]
fn only_what_codes_cannot_tell_apart_is_compared_by_vectors() {
    const ROWS: usize = 9_000;
    const ALIKE: usize = 700;
    let (dim, metric) = (128, Metric::L2);
    let mut random = Random(31);
    let query = random.vector(dim);
    let mut writer = Writer::new(super::spec(dim, metric)).unwrap();
    for number in 0..ROWS {
        let direction = random.vector(dim);
        let length = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
        #[allow(clippy::cast_precision_loss)] // small
        let distance = if number % (ROWS / ALIKE) == 0 {
            4.0 + number as f32 * 1e-7
        } else {
            8.0 + number as f32 * 1e-3
        };
        let row = query.iter().zip(direction);
        let row = row.map(|(at, towards)| at + towards * distance / length);
        writer
            .apply(super::upsert(number as u64, row.collect()))
            .unwrap();
    }
    let snapshot = writer.publish(Lsn::new(1));
    let live = snapshot.view().live();
    let words = live.pages().iter().flat_map(|page| page.iter());
    let among = RowSet::Marked(words.copied().collect());
    let (ranked, computed) = snapshot.view().search_among(&query, 13, &among).unwrap();
    let (expected, _) = snapshot.view().scan(&query, 13).unwrap();
    let distances = |ranked: &[(u32, f32)]| ranked.iter().map(|row| row.1).collect::<Vec<_>>();
    assert_eq!(distances(&ranked), distances(&expected));
    assert!(computed < 5 * ROWS as u64 / 4, "{computed}");
}
