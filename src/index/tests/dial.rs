//! The recall that searches are told to reach against the recall that they reach, on data of several shapes.

use std::borrow::Cow;

use super::*;
use crate::index::dial::{Dial, Question};
use crate::index::linker::due;

const ROWS: usize = 12_000;
const DIM: usize = 24;
const QUERIES: usize = 250;
/// What a sample of 96 rows and one of 250 queries may differ by.
const TOLERANCE: f64 = 0.02;
/// What a search may weigh at most, for so many rows.
fn most(k: usize) -> usize {
    640 + 6 * k
}

/// The share of the true `k` nearest that searches of this effort find.
fn reached(snapshot: &Snapshot, queries: &[Vec<f32>], k: usize, effort: Effort) -> f64 {
    let candidates = snapshot.candidates(effort, k);
    assert!(candidates <= most(k), "{candidates} at {k}");
    recall(snapshot, queries, k, candidates)
}

#[track_caller]
fn check(spec: IndexSpec, mut next: impl FnMut() -> Vec<f32>) {
    let (_writer, snapshot) = linked(spec, std::iter::repeat_with(&mut next).take(ROWS));
    assert!(snapshot.dial().recall_estimated.is_some(), "no curve");
    let queries: Vec<_> = std::iter::repeat_with(&mut next).take(QUERIES).collect();
    let mut least = 0;
    for target in [0.90, 0.95, 0.99] {
        let effort = Effort::Recall(target);
        assert!(
            snapshot.candidates(effort, 10) >= least,
            "cheaper at {target}"
        );
        least = snapshot.candidates(effort, 10);
        for k in [1, 10, 30] {
            let recall = reached(&snapshot, &queries, k, effort);
            assert!(
                recall >= target - TOLERANCE,
                "{:?}: recall {recall} at k = {k}, told {target}",
                spec.metric
            );
        }
    }
}

#[test]
fn uniform() {
    let mut random = Random(1);
    check(spec(DIM, Metric::L2), || {
        (0..DIM).map(|_| random.normal() % 1.0).collect()
    });
}

#[test]
fn clustered() {
    let mut clusters = Clusters::new(2, DIM);
    check(spec(DIM, Metric::L2), || clusters.next());
}

#[test]
fn normalised() {
    let mut clusters = Clusters::new(3, DIM);
    check(spec(DIM, Metric::Cosine), || clusters.next());
}

/// Most rows that are linked later are copies of others, which a graph finds more surely than anything new.
#[test]
fn copies_of_rows_do_not_flatter() {
    let (mut random, mut rows) = (Random(10), Vec::<Vec<f32>>::new());
    check(spec(DIM, Metric::L2), || {
        if (ROWS / 3..ROWS).contains(&rows.len()) && random.below(8) != 0 {
            rows.push(rows[random.index(ROWS / 3)].clone());
        } else {
            rows.push(random.vector(DIM));
        }
        rows[rows.len() - 1].clone()
    });
}

/// Norms differ by factors, so that the scales of the codes do too.
#[test]
fn log_normal_norms_by_l1() {
    let (mut clusters, mut random) = (Clusters::new(8, DIM), Random(9));
    check(spec(DIM, Metric::L1), || {
        let factor = random.normal().exp();
        clusters.next().into_iter().map(|x| x * factor).collect()
    });
}

#[test]
fn log_normal_norms_by_inner_product() {
    let (mut clusters, mut random) = (Clusters::new(4, DIM), Random(5));
    check(spec(DIM, Metric::InnerProduct), || {
        let factor = random.normal().exp();
        clusters.next().into_iter().map(|x| x * factor).collect()
    });
}

/// Queries from elsewhere than the rows miss more than the curve says; checks of them make up for it.
#[test]
fn queries_unlike_the_rows_are_corrected_by_checks() {
    let (mut clusters, mut random) = (Clusters::new(6, DIM), Random(7));
    let rows = std::iter::repeat_with(|| clusters.next()).take(ROWS);
    let (_writer, snapshot) = linked(spec(DIM, Metric::L2), rows);
    let mut next = || -> Vec<f32> {
        let noise = random.vector(DIM);
        let near = clusters.next().into_iter().zip(noise);
        near.map(|(x, noise)| x + 1.5 * noise).collect()
    };
    let queries: Vec<_> = std::iter::repeat_with(&mut next).take(QUERIES).collect();
    let effort = Effort::Recall(DEFAULT_RECALL);
    let before = reached(&snapshot, &queries, 10, effort);
    let dial: &Arc<Dial> = snapshot.view().dial();
    for _ in 0..300 {
        let question = Question {
            query: next(),
            k: 10,
            effort: snapshot.candidates(effort, 10),
        };
        let missed = snapshot.view().missed(&question).unwrap();
        dial.checked(&question, missed, std::time::Duration::ZERO);
    }
    let after = reached(&snapshot, &queries, 10, effort);
    assert!(
        after >= DEFAULT_RECALL - TOLERANCE,
        "{before}, then {after}"
    );
    let measured = snapshot.dial().recall_measured.unwrap();
    assert!(
        (measured - after).abs() <= 0.03,
        "shown {measured}, is {after}"
    );
}

#[test]
fn a_search_for_a_recall_is_checked_by_itself() {
    let mut clusters = Clusters::new(8, DIM);
    let rows = std::iter::repeat_with(|| clusters.next()).take(ROWS);
    let (_writer, snapshot) = linked(spec(DIM, Metric::L2), rows);
    let query = Vector::new(clusters.next()).unwrap();
    assert_eq!(snapshot.dial().recall_measured, None);
    snapshot
        .search_with(&query, 10, Effort::Candidates(40))
        .unwrap();
    assert_eq!(snapshot.dial().recall_measured, None);
    wait_until("a check", || {
        snapshot
            .search_with(&query, 10, Effort::Recall(DEFAULT_RECALL))
            .unwrap();
        snapshot.dial().recall_measured.is_some()
    });
}

/// After every row was replaced the graph is another, and so is its curve.
#[test]
fn a_rebuild_is_measured_as_well() {
    let mut clusters = Clusters::new(9, DIM);
    let rows = std::iter::repeat_with(|| clusters.next()).take(ROWS);
    let (mut writer, mut last) = linked(spec(DIM, Metric::L2), rows);
    let mut other = Clusters::new(10, DIM);
    for number in 0..ROWS as u64 {
        writer.apply(upsert(number, other.next())).unwrap();
        if number % 1_000 == 999 {
            last = writer.publish(Lsn::new(number));
        }
    }
    wait_until("a rebuild", || {
        last = writer.publish(Lsn::new(ROWS as u64));
        last.stats().dead == 0 && last.stats().unlinked == 0
    });
    let queries: Vec<_> = std::iter::repeat_with(|| other.next())
        .take(QUERIES)
        .collect();
    let recall = reached(&last, &queries, 10, Effort::Recall(DEFAULT_RECALL));
    assert!(recall >= DEFAULT_RECALL - TOLERANCE, "recall {recall}");
}

/// A third dead is rebuilt when recall has come to cost much more than it did, and not before.
#[test]
fn a_third_dead_is_rebuilt_when_recall_has_become_dear() {
    let mut clusters = Clusters::new(11, DIM);
    let rows = std::iter::repeat_with(|| clusters.next()).take(ROWS);
    let (mut writer, first) = linked(spec(DIM, Metric::L2), rows);
    drop(first);
    for number in 0..ROWS as u64 * 2 / 5 {
        writer
            .apply(RowChange::Delete { key: key(number) })
            .unwrap();
    }
    let mut last = writer.publish(Lsn::new(2));
    let dead = last.stats().dead;
    assert!(dead * 3 > ROWS as u64 && dead * 2 < ROWS as u64);
    // What the linker would do, it would have begun before it links this row.
    writer.apply(upsert(u64::MAX, clusters.next())).unwrap();
    last = writer.publish(Lsn::new(3));
    wait_until("linking", || last.stats().unlinked == 0);
    assert_eq!(writer.publish(Lsn::new(4)).stats().dead, dead);
    let question = Question {
        query: clusters.next(),
        k: 10,
        effort: last.candidates(Effort::Recall(DEFAULT_RECALL), 10),
    };
    for _ in 0..100 {
        let dial = last.view().dial();
        dial.checked(&question, 0.5, std::time::Duration::ZERO);
    }
    let mut lsn = 4;
    wait_until("a rebuild", || {
        lsn += 1;
        last = writer.publish(Lsn::new(lsn));
        last.stats().dead == 0
    });
    let queries: Vec<_> = std::iter::repeat_with(|| clusters.next())
        .take(QUERIES)
        .collect();
    let recall = reached(&last, &queries, 10, Effort::Recall(DEFAULT_RECALL));
    assert!(recall >= DEFAULT_RECALL - TOLERANCE, "recall {recall}");
}

/// Queries that need more than the curve says of any graph do not have one made anew at each third: it would not help them. What
/// they need because of the dead does.
#[test]
fn a_third_dead_is_not_rebuilt_for_queries_that_always_need_more() {
    let mut clusters = Clusters::new(17, DIM);
    let rows = std::iter::repeat_with(|| clusters.next()).take(ROWS);
    let (mut writer, first) = linked(spec(DIM, Metric::L2), rows);
    let question = |snapshot: &Snapshot| Question {
        query: vec![0.0; DIM],
        k: 10,
        effort: snapshot.candidates(Effort::Recall(DEFAULT_RECALL), 10),
    };
    let learn = |snapshot: &Snapshot, missed: f64, until: f64| {
        let dial = snapshot.view().dial();
        for _ in 0..1_000 {
            let took = std::time::Duration::ZERO;
            snapshot.view().learn(&question(snapshot), missed, took);
            if dial.correction() >= until {
                return;
            }
        }
        panic!("a correction of {}", dial.correction());
    };
    learn(&first, 0.2, 2.0);
    let before = first.view().dial().correction();
    drop(first);
    for number in 0..ROWS as u64 * 2 / 5 {
        let dead = RowChange::Delete { key: key(number) };
        writer.apply(dead).unwrap();
    }
    let last = writer.publish(Lsn::new(2));
    assert!(!due(last.view()), "{before} before any was dead");
    learn(&last, 0.2, before * 1.2);
    assert!(!due(last.view()), "a fifth more");
    learn(&last, 0.9, before * 1.6);
    assert!(due(last.view()), "much more than before");
}

/// What curves are measured by: many queries compared with the rows together find what each finds alone, of rows that die and
/// rows that have copies too.
#[test]
fn exact_answers_of_many_are_those_of_each() {
    let specs = [
        spec(130, Metric::L2),
        spec(130, Metric::Cosine),
        spec(64, Metric::InnerProduct),
        spec(DIM, Metric::L1),
        spec(200, Metric::Hamming),
    ];
    for spec in specs {
        let mut next = clusters(spec, 14);
        let mut rows: Vec<Vec<f32>> = std::iter::repeat_with(&mut next).take(3_000).collect();
        rows.extend_from_within(..200);
        let (mut writer, _) = linked(spec, rows.into_iter());
        for number in (0..3_000).step_by(7) {
            let dead = RowChange::Delete { key: key(number) };
            writer.apply(dead).unwrap();
        }
        let last = writer.publish(Lsn::new(2));
        let queries: Vec<Cow<'_, [f32]>> = (0..37).map(|_| Cow::Owned(next())).collect();
        let marks = last.view().live().words();
        for k in [1, 10, 100] {
            let together = last.view().nearest_among(&queries, k, &marks).unwrap();
            assert_eq!(together.len(), queries.len());
            for (query, found) in queries.iter().zip(together) {
                let alone = last.view().scan(query, k).unwrap().0;
                let distances = |found: Vec<(u32, f32)>| -> Vec<f32> {
                    found.into_iter().map(|(_, distance)| distance).collect()
                };
                assert!(
                    found
                        .iter()
                        .all(|(row, _)| last.view().live().contains(*row))
                );
                assert_eq!(
                    distances(found),
                    distances(alone),
                    "{:?}, k = {k}",
                    spec.metric
                );
            }
        }
    }
}

/// Where rows come a few at a time, those that wait say too little of the graph to replace what many have said, until many have
/// come.
#[test]
fn a_few_rows_replace_no_curve() {
    let mut clusters = Clusters::new(12, DIM);
    let rows = std::iter::repeat_with(|| clusters.next()).take(ROWS);
    let (mut writer, mut last) = linked(spec(DIM, Metric::L2), rows);
    let curve = last.view().dial().curve().unwrap();
    let mut rows = (1_000_000..).map(|number| upsert(number, clusters.next()));
    // As many as it takes: of each twenty four are searched for, but one or none where the processor is slow or shared.
    let changed_at = (2..1_000).find_map(|lsn| {
        for row in rows.by_ref().take(20) {
            writer.apply(row).unwrap();
        }
        last = writer.publish(Lsn::new(lsn));
        wait_until("linking", || last.stats().unlinked == 0);
        let changed = last.view().dial().curve().unwrap() != curve;
        changed.then(|| last.stats().live)
    });
    let changed_at = changed_at.expect("another curve");
    let due = u64::from(curve.linked) * 5 / 4;
    // Twenty commits tell of eighty rows at most.
    assert!(changed_at > due + 20 * 20, "due at {due}, at {changed_at}");
}

/// Where rows of a first curve were few, the next few go on, until they are enough.
#[test]
fn a_curve_of_few_rows_is_soon_replaced() {
    let mut clusters = Clusters::new(16, DIM);
    let rows = std::iter::repeat_with(|| clusters.next()).take(4_096);
    let (mut writer, mut last) = linked(spec(DIM, Metric::L2), rows);
    assert_eq!(last.view().dial().curve(), None);
    let mut commit = |count: u64, from: u64| {
        for number in from..from + count {
            writer.apply(upsert(number, clusters.next())).unwrap();
        }
        last = writer.publish(Lsn::new(from));
        wait_until("linking", || last.stats().unlinked == 0);
        last.view().dial().curve().unwrap()
    };
    let first = commit(20, 5_000);
    let mut number = 5_020;
    let mut next = commit(5, number);
    assert_eq!(next, first, "a few rows and a few more");
    while next == first {
        number += 5;
        assert!(number < 30_000, "no other curve");
        next = commit(5, number);
    }
    assert!(next.linked >= 4_096);
}

/// Rows that exchange their vectors, again and again, some at a time: to the graph they are what its dead nodes are, and finding
/// what is near them says nothing of a query. By the dial as much is found as in the beginning, and of a graph made anew.
#[test]
fn rows_that_exchange_vectors_do_not_flatter() {
    let mut random = Random(13);
    let mut rows: Vec<Vec<f32>> = std::iter::repeat_with(|| random.vector(DIM))
        .take(ROWS)
        .collect();
    let queries: Vec<_> = std::iter::repeat_with(|| random.vector(DIM))
        .take(QUERIES)
        .collect();
    let (mut writer, mut last) = linked(spec(DIM, Metric::L2), rows.iter().cloned());
    let check = |snapshot: &Snapshot, when: &str| {
        let recall = reached(snapshot, &queries, 10, Effort::Recall(DEFAULT_RECALL));
        assert!(recall >= DEFAULT_RECALL - TOLERANCE, "{when}: {recall}");
    };
    check(&last, "in the beginning");
    let mut lsn = 2;
    for third in [0, 1, 2, 0, 1] {
        let third = third * (ROWS / 3)..(third + 1) * (ROWS / 3);
        rows[third.clone()].rotate_left(1);
        for number in third {
            // One in four has a vector that is new.
            if number % 4 == 0 {
                rows[number] = random.vector(DIM);
            }
            let row = upsert(number as u64, rows[number].clone());
            writer.apply(row).unwrap();
            if number % 500 == 499 {
                last = writer.publish(Lsn::new(lsn));
                wait_until("linking", || last.stats().unlinked == 0);
                lsn += 1;
            }
        }
        last = writer.publish(Lsn::new(lsn));
        wait_until("linking", || last.stats().unlinked == 0);
        check(&last, "exchanged");
    }
    wait_until("a rebuild", || {
        lsn += 1;
        last = writer.publish(Lsn::new(lsn));
        last.stats().dead < ROWS as u64
    });
    check(&last, "made anew");
}

/// A graph made anew is measured when it has all rows but some that were held back for it, and in the end has those as well.
#[test]
fn a_rebuild_is_measured_by_rows_held_back() {
    let mut clusters = Clusters::new(15, DIM);
    let rows = std::iter::repeat_with(|| clusters.next()).take(ROWS);
    let (mut writer, first) = linked(spec(DIM, Metric::L2), rows);
    drop(first);
    for number in (0..ROWS as u64).step_by(2) {
        let dead = RowChange::Delete { key: key(number) };
        writer.apply(dead).unwrap();
    }
    let mut last = writer.publish(Lsn::new(2));
    let mut lsn = 2;
    wait_until("a rebuild", || {
        lsn += 1;
        last = writer.publish(Lsn::new(lsn));
        last.stats().dead == 0
    });
    let live = last.stats().live;
    assert_eq!((live, last.stats().unlinked), (ROWS as u64 / 2, 0));
    let linked = u64::from(last.view().dial().curve().unwrap().linked);
    assert!(linked < live && live <= linked + 512, "{linked} of {live}");
    let queries: Vec<_> = std::iter::repeat_with(|| clusters.next())
        .take(QUERIES)
        .collect();
    let recall = reached(&last, &queries, 10, Effort::Recall(DEFAULT_RECALL));
    assert!(recall >= DEFAULT_RECALL - TOLERANCE, "recall {recall}");
}
