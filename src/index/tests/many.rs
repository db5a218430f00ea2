//! Many queries at once: what single searches find, whatever their number, order and filter.

use proptest::prelude::*;

use super::*;
use crate::catalog::{Comparison, Method, ValueKind};
use crate::index::ending::join_ended;
use crate::index::many::Helper;

const DIM: usize = 8;

/// An index of clustered vectors with a number that counts the rows, all linked.
fn counted(method: Method, rows: u64) -> (Writer, Arc<Snapshot>, Clusters) {
    let spec = IndexSpec {
        options: IndexOptions {
            method,
            ..IndexOptions::default()
        },
        include: 1,
        ..spec(DIM, Metric::L2)
    };
    let mut clusters = Clusters::new(31, DIM);
    let changes = (0..rows).map(|number| RowChange::Upsert {
        old_key: None,
        key: key(number),
        vector: VectorChange::Set(Vector::new(clusters.next()).unwrap()),
        include: vec![ColumnChange::Set(
            i64::try_from(number).unwrap().to_be_bytes().into(),
        )],
    });
    let writer = Writer::new(spec).unwrap();
    let writer = writer.filtered_on([Some(ValueKind::Int8.into())]);
    let (writer, snapshot) = linked_with(writer, changes);
    (writer, snapshot, clusters)
}

/// Rows whose number is less than that.
fn below(number: u64) -> Filter {
    let constant = Constant::Int(i64::try_from(number).unwrap());
    let range = constant.range(ValueKind::Int8, Comparison::Less);
    let mut filter = Filter::default();
    filter.add(0, range.into_iter().collect());
    filter
}

fn same(snapshot: &Snapshot, queries: &[Vector], k: usize, effort: Effort, filter: &Filter) {
    let many = snapshot.search_many(queries, k, effort, filter).unwrap();
    assert_eq!(many.len(), queries.len());
    for (query, many) in queries.iter().zip(many) {
        let one = snapshot.search_filtered(query, k, effort, filter).unwrap();
        assert_eq!(one.neighbors, many.neighbors);
        assert_eq!(
            (one.exhausted, one.distances),
            (many.exhausted, many.distances)
        );
    }
}

#[test]
fn many_searches_find_what_single_ones_find() {
    const ROWS: u64 = 6_000;
    for method in [Method::Hnsw, Method::Flat] {
        let (writer, snapshot, clusters) = counted(method, ROWS);
        // So that no check changes the effort between one search and the other.
        drop(writer);
        join_ended();
        let clusters = std::sync::Mutex::new(clusters);
        let cases = (
            0_usize..70,
            1_usize..30,
            prop_oneof![
                Just(None),
                Just(Some(0)),
                (1..ROWS).prop_map(Some),
                Just(Some(3))
            ],
        );
        proptest!(ProptestConfig::with_cases(60), |((count, k, filter) in cases)| {
            let mut clusters = clusters.lock().unwrap();
            let vectors = std::iter::repeat_with(|| Vector::new(clusters.next()).unwrap());
            let mut queries: Vec<Vector> = vectors.take(count).collect();
            queries.extend(queries.first().cloned()); // one of them twice
            let filter = filter.map_or_else(Filter::default, below);
            same(&snapshot, &queries, k, Effort::Candidates(40), &filter);
            same(&snapshot, &queries, k, Effort::Recall(0.9), &filter);
        });
    }
}

/// However often all are taken and one more is asked for, all come back.
#[test]
fn helpers_come_back() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for _ in 0..3 {
        let taken: Vec<_> = std::iter::repeat_with(Helper::new)
            .take(cores + 1)
            .collect();
        let count = taken.iter().flatten().count();
        assert!(count < cores, "more than cores to spare");
        drop(taken);
        // Other tests may have one for a moment.
        wait_until("a helper", || cores == 1 || Helper::new().is_some());
    }
}

#[test]
fn calls_are_bounded_and_share_the_cores() {
    let (_writer, snapshot, mut clusters) = counted(Method::Hnsw, 5_000);
    let vectors = std::iter::repeat_with(|| Vector::new(clusters.next()).unwrap());
    let queries: Vec<Vector> = vectors.take(MAX_QUERIES + 1).collect();
    let (effort, filter) = (Effort::Candidates(20), Filter::default());
    let many = |count: usize, k| snapshot.search_many(&queries[..count], k, effort, &filter);
    assert!(many(MAX_QUERIES + 1, 1).is_err());
    assert!(many(2, MAX_RESULTS / 2 + 1).is_err());
    assert!(many(2, MAX_RESULTS / 2).is_ok());
    assert_eq!(many(MAX_QUERIES, 10).unwrap().len(), MAX_QUERIES);
    // A query that is refused, among others and by any thread, is the call's error; and no thread is lost by it.
    for place in [0, 200] {
        let mut queries = queries[..300].to_vec();
        queries[place] = Vector::new(vec![1.0; DIM + 1]).unwrap();
        assert!(snapshot.search_many(&queries, 5, effort, &filter).is_err());
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| same(&snapshot, &queries[..100], 5, effort, &filter));
        }
    });
}
