//! Recall of the default effort on seeded data, easy and hard, fresh and after churn.

use super::*;

const ROWS: usize = 6_000;
const DIM: usize = 32;
const QUERIES: usize = 200;

#[track_caller]
fn check(spec: IndexSpec, mut next: impl FnMut() -> Vec<f32>, at_least: f64) {
    let rows: Vec<_> = std::iter::repeat_with(&mut next).take(ROWS).collect();
    let queries: Vec<_> = std::iter::repeat_with(&mut next).take(QUERIES).collect();
    for memory in memories() {
        let (_writer, snapshot) = linked_in(&memory, spec, rows.iter().cloned());
        for k in [10, 100] {
            let recall = recall(&snapshot, &queries, k, DEFAULT_EF.max(k * 3 / 2));
            assert!(
                recall >= at_least,
                "{:?}: recall {recall} at k = {k}",
                spec.metric
            );
        }
    }
}

#[test]
fn clusters_under_every_metric() {
    for metric in Metric::OF_NUMBERS {
        let mut clusters = Clusters::new(1, DIM);
        check(spec(DIM, metric), || clusters.next(), 0.95);
    }
}

#[test]
fn clusters_of_bits() {
    for metric in Metric::OF_BITS {
        // With few bits nearly all distances are equal to others.
        for dim in [24, 256, 1_000] {
            let spec = spec(dim, metric);
            let mut clusters = BitClusters::new(12, spec.form());
            check(spec, || clusters.next(), 0.95);
        }
    }
}

#[test]
fn one_massive_dimension() {
    let clusters = std::cell::RefCell::new(Clusters::new(2, DIM));
    let next = || {
        let mut vector = clusters.borrow_mut().next();
        vector[7] = 300.0 + 0.1 * vector[7];
        vector
    };
    for metric in [Metric::L2, Metric::L1] {
        check(spec(DIM, metric), &next, 0.95);
    }
}

#[test]
fn log_normal_norms_under_inner_product() {
    let (mut clusters, mut random) = (Clusters::new(3, DIM), Random(4));
    let next = || {
        let factor = random.normal().exp();
        clusters.next().into_iter().map(|x| x * factor).collect()
    };
    check(spec(DIM, Metric::InnerProduct), next, 0.95);
}

#[test]
fn after_replacing_every_row_twice() {
    let mut clusters = Clusters::new(5, DIM);
    let (mut writer, first) = linked(
        spec(DIM, Metric::Cosine),
        std::iter::repeat_with(|| clusters.next()).take(ROWS),
    );
    let query = Vector::new(clusters.next()).unwrap();
    let before = first.search_exact(&query, 20).unwrap().neighbors;
    let mut last = Arc::clone(&first);
    let (mut lsn, mut rebuilt) = (1, false);
    for number in 0..2 * ROWS as u64 {
        writer
            .apply(upsert(number * 7 % ROWS as u64, clusters.next()))
            .unwrap();
        if number % 50 == 49 {
            lsn += 1;
            let dead = last.stats().dead;
            last = writer.publish(Lsn::new(lsn));
            rebuilt |= last.stats().dead < dead;
        }
    }
    // A rebuild waits for others of this process.
    wait_until("a rebuild", || {
        let dead = last.stats().dead;
        last = writer.publish(Lsn::new(lsn));
        rebuilt |= last.stats().dead < dead;
        rebuilt && last.stats().unlinked == 0
    });
    assert_eq!(last.stats().live, ROWS as u64);
    let queries: Vec<_> = std::iter::repeat_with(|| clusters.next())
        .take(QUERIES)
        .collect();
    let after = recall(&last, &queries, 10, DEFAULT_EF);
    assert!(after >= 0.95, "recall {after}");
    assert_eq!(
        first.search_exact(&query, 20).unwrap().neighbors,
        before,
        "an old snapshot changed"
    );
}

#[test]
fn memory_of_dead_rows_is_used_again() {
    let mut clusters = Clusters::new(6, 8);
    let mut writer = Writer::new(spec(8, Metric::L2)).unwrap();
    let (mut largest, mut snapshot) = (0, writer.publish(Lsn::ZERO));
    for round in 0..60_u64 {
        for number in 0..1_000 {
            writer.apply(upsert(number, clusters.next())).unwrap();
        }
        snapshot = writer.publish(Lsn::new(round));
        let used = |snapshot: &Snapshot| snapshot.stats().dead < 8_000;
        wait_until("a rebuild", || {
            if !used(&snapshot) {
                snapshot = writer.publish(Lsn::new(round));
            }
            used(&snapshot)
        });
        largest = largest.max(snapshot.rows().map(|row| row.0).max().unwrap());
    }
    assert_eq!(snapshot.stats().live, 1_000);
    assert!(
        largest < 40_000,
        "60,000 versions of 1,000 rows took {largest} ids"
    );
}

#[test]
fn copies_of_a_row_are_found_and_do_not_trap_a_walk() {
    let mut clusters = Clusters::new(7, DIM);
    let copied = clusters.next();
    let mut random = Random(8);
    let next = || {
        if random.below(3) == 0 {
            copied.clone()
        } else {
            clusters.next()
        }
    };
    let (_writer, snapshot) = linked(
        spec(DIM, Metric::L2),
        std::iter::repeat_with(next).take(ROWS),
    );
    let query = Vector::new(copied.clone()).unwrap();
    for k in [10, 100, 300] {
        let found = snapshot.search(&query, k, DEFAULT_EF).unwrap();
        assert!(found.distances < 4_000, "searched by a scan");
        assert!(
            found
                .neighbors
                .iter()
                .all(|neighbor| neighbor.distance == 0.0)
        );
        assert_eq!(found.neighbors.len(), k);
    }
    let queries: Vec<_> = std::iter::repeat_with(|| clusters.next())
        .take(QUERIES)
        .collect();
    let recall = recall(&snapshot, &queries, 10, DEFAULT_EF);
    assert!(recall >= 0.95, "recall {recall}");
}

#[test]
fn a_limit_over_all_rows_gives_all_rows() {
    let mut clusters = Clusters::new(9, 8);
    let (_writer, snapshot) = linked(
        spec(8, Metric::L2),
        std::iter::repeat_with(|| clusters.next()).take(3_000),
    );
    let query = Vector::new(clusters.next()).unwrap();
    for (k, ef) in [(0, 0), (0, 9), (1, 0)] {
        assert_eq!(snapshot.search(&query, k, ef).unwrap().neighbors.len(), k);
    }
    for k in [2_999, 3_000, 3_001, usize::MAX] {
        let found = snapshot.search(&query, k, DEFAULT_EF).unwrap();
        assert_eq!(found.exhausted, k >= 3_000);
        let mut rows: Vec<_> = found
            .neighbors
            .iter()
            .map(|neighbor| neighbor.row)
            .collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), k.min(3_000));
        assert!(
            found
                .neighbors
                .is_sorted_by(|a, b| a.distance <= b.distance)
        );
    }
}

#[test]
fn the_graph_is_enlarged_while_it_is_searched() {
    let mut clusters = Clusters::new(10, 8);
    let (mut writer, first) = linked(
        spec(8, Metric::L2),
        std::iter::repeat_with(|| clusters.next()).take(3_000),
    );
    for number in 3_000..20_000 {
        writer.apply(upsert(number, clusters.next())).unwrap();
    }
    let last = writer.publish(Lsn::new(2));
    let queries: Vec<_> = std::iter::repeat_with(|| clusters.next())
        .take(QUERIES)
        .collect();
    wait_until("linking", || {
        assert!(recall(&first, &queries[..1], 10, DEFAULT_EF) > 0.0);
        last.stats().unlinked == 0
    });
    for snapshot in [&first, &last] {
        let recall = recall(snapshot, &queries, 10, DEFAULT_EF);
        assert!(recall >= 0.95, "recall {recall}");
    }
}

#[test]
fn every_size_of_lists_works() {
    for (m, ef_construction) in [(2, 4), (3, 8), (100, 200)] {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::L1] {
            let mut clusters = Clusters::new(11, 8);
            let mut spec = spec(8, metric);
            spec.options = IndexOptions {
                m,
                ef_construction,
                ..spec.options
            };
            let (_writer, snapshot) =
                linked(spec, std::iter::repeat_with(|| clusters.next()).take(3_000));
            let query = Vector::new(clusters.next()).unwrap();
            let found = snapshot.search(&query, 10, 100).unwrap();
            assert_eq!(found.neighbors.len(), 10);
            assert!(found.distances < 3_000, "searched by a scan");
        }
    }
}
