//! FAISS's own indexes as methods: recall, growth, churn, search while rows are added, strings that fit no column.

use super::*;
use crate::catalog::{Factory, Method};

const ROWS: usize = 8_000;
const QUERIES: usize = 100;

fn ivf(dim: usize, metric: Metric) -> IndexSpec {
    let mut spec = spec(dim, metric);
    spec.options.method = Method::Ivf;
    spec
}

fn factory(dim: usize, metric: Metric, text: &str) -> IndexSpec {
    let mut spec = spec(dim, metric);
    spec.options.method = Method::Factory;
    spec.options.factory = Some(Factory::new(text).unwrap());
    spec
}

#[track_caller]
fn check(spec: IndexSpec) {
    let mut clusters = Clusters::new(21, spec.dim.get());
    let (_writer, snapshot) = linked(spec, std::iter::repeat_with(|| clusters.next()).take(ROWS));
    let queries: Vec<_> = std::iter::repeat_with(|| clusters.next())
        .take(QUERIES)
        .collect();
    for k in [10, 100] {
        // What the curve of these lists promises; a sample of it and one of queries differ by less than .02.
        let ef = snapshot.candidates(Effort::Recall(DEFAULT_RECALL), k);
        assert!(snapshot.dial().recall_estimated.is_some(), "not measured");
        let recall = recall(&snapshot, &queries, k, ef);
        assert!(
            recall >= 0.93,
            "{spec:?}: recall {recall} at k = {k}, ef {ef}"
        );
    }
}

#[test]
fn lists_under_every_metric() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        check(ivf(32, metric));
    }
    check(ivf(33, Metric::L2)); // an odd number of dimensions
}

#[test]
fn factory_strings() {
    for text in [
        "IVF64,Flat",
        "IVF64_HNSW16,SQ8",
        "IVF64,PQ8x4fs",
        "OPQ16_32,IVF64,PQ16x4fs",
        "PCA16,IVF64,SQfp16",
        "HNSW16",
        "HNSW16,SQ8",
        "IVF64,RaBitQ",
    ] {
        check(factory(32, Metric::L2, text));
    }
    check(factory(32, Metric::InnerProduct, "IVF64,SQ8"));
    check(factory(32, Metric::Cosine, "HNSW16,SQfp16"));
}

#[test]
fn a_string_that_fits_no_such_column_is_faisss_error() {
    let error = Writer::new(factory(32, Metric::L2, "IVF64,PQ7")).unwrap_err();
    assert!(error.to_string().contains("FAISS"), "{error}");
}

#[test]
fn more_lists_find_more() {
    assert!(include_str!("../faiss/lists.cpp").contains("kCandidatesPerList = 4;"));
    let mut clusters = Clusters::new(24, 32);
    let mut spec = ivf(32, Metric::L2);
    spec.options.lists = 100;
    let (_writer, snapshot) = linked(spec, std::iter::repeat_with(|| clusters.next()).take(ROWS));
    let queries: Vec<_> = std::iter::repeat_with(|| clusters.next())
        .take(QUERIES)
        .collect();
    let recall_of = |lists| {
        let candidates = snapshot.candidates(Effort::Lists(lists), 1);
        assert_eq!(candidates, 4 * lists);
        recall(&snapshot, &queries, 1, candidates)
    };
    let (one, many) = (recall_of(1), recall_of(30));
    assert!(one < many && many >= 0.95, "{one} {many}");
}

#[test]
fn lists_grow_with_the_rows_and_forget_the_dead() {
    let mut clusters = Clusters::new(22, 16);
    let mut writer = Writer::new(ivf(16, Metric::L2)).unwrap();
    let mut last = writer.publish(Lsn::ZERO);
    for number in 0..20_000 {
        writer.apply(upsert(number, clusters.next())).unwrap();
        if number % 1_000 == 999 {
            last = writer.publish(Lsn::new(number));
        }
    }
    // Trained with 4,096 at first; 20,000 rows have others.
    wait_until("lists for more rows", || {
        last = writer.publish(Lsn::new(20_000));
        !last.view().outgrown() && last.stats().unlinked == 0
    });
    for number in 0..15_000 {
        writer
            .apply(RowChange::Delete { key: key(number) })
            .unwrap();
    }
    wait_until("lists without the dead", || {
        last = writer.publish(Lsn::new(20_001));
        last.stats().dead == 0 && last.stats().unlinked == 0
    });
    let queries: Vec<_> = std::iter::repeat_with(|| clusters.next())
        .take(QUERIES)
        .collect();
    let recall = recall(&last, &queries, 10, 2 * DEFAULT_EF);
    assert!(recall >= 0.95, "recall {recall}");
}

#[test]
fn what_is_added_while_others_search_is_found_by_them() {
    let mut clusters = Clusters::new(23, 16);
    let (mut writer, first) = linked(
        ivf(16, Metric::L2),
        std::iter::repeat_with(|| clusters.next()).take(ROWS),
    );
    let query = Vector::new(clusters.next()).unwrap();
    let before = first.search_exact(&query, 20).unwrap().neighbors;
    let newest = std::sync::Mutex::new(Arc::clone(&first));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let snapshot = Arc::clone(&newest.lock().unwrap());
                    for row in snapshot.rows().skip(ROWS - 20).take(20) {
                        let own = Vector::new(snapshot.vector(row).unwrap().to_vec()).unwrap();
                        let found = snapshot.search(&own, 1, 2 * DEFAULT_EF).unwrap();
                        assert!(found.neighbors[0].distance < 1e-3);
                    }
                }
            });
        }
        for number in 0..3_000 {
            writer
                .apply(upsert(number * 5 % 15_000, clusters.next()))
                .unwrap();
            if number % 20 == 19 {
                *newest.lock().unwrap() = writer.publish(Lsn::new(number));
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(
        first.search_exact(&query, 20).unwrap().neighbors,
        before,
        "an old snapshot changed"
    );
}
