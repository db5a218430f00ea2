//! Indexes that grow by commits of one row, never more than a few of which wait: they have curves as others have.

use super::*;

const DIM: usize = 24;
const QUERIES: usize = 250;
/// What a sample of 96 rows and one of 250 queries may differ by.
const TOLERANCE: f64 = 0.02;
/// Rows that wait at most: too few for a curve.
const WAITING: u64 = 8;

/// Publishes these rows one by one.
fn trickle(
    writer: &mut Writer,
    numbers: std::ops::Range<u64>,
    mut next: impl FnMut() -> Vec<f32>,
) -> Arc<Snapshot> {
    let mut last = writer.publish(Lsn::new(numbers.start));
    for number in numbers {
        writer.apply(upsert(number, next())).unwrap();
        last = writer.publish(Lsn::new(number + 1));
        if last.view().can_link() && last.stats().unlinked >= WAITING {
            wait_until("linking", || last.stats().unlinked == 0);
        }
    }
    wait_until("linking", || last.stats().unlinked == 0);
    last
}

#[track_caller]
fn check(snapshot: &Snapshot, queries: &[Vec<f32>]) {
    let candidates = |target| snapshot.candidates(Effort::Recall(target), 10);
    assert!(
        candidates(0.99) > candidates(0.9),
        "the target has no effect"
    );
    for target in [0.9, 0.95, 0.99] {
        for k in [1, 10] {
            let effort = snapshot.candidates(Effort::Recall(target), k);
            let reached = recall(snapshot, queries, k, effort);
            assert!(
                reached >= target - TOLERANCE,
                "recall {reached} at k = {k}, told {target}"
            );
        }
    }
}

#[test]
fn an_index_that_grows_by_single_rows_gets_a_curve() {
    let mut random = Random(21);
    let mut writer = Writer::new(spec(DIM, Metric::L2)).unwrap();
    let mut last = trickle(&mut writer, 0..6_000, || random.vector(DIM));
    // Where the processor is slow or shared, fewer of them are searched for.
    let mut number = 6_000;
    while last.dial().recall_estimated.is_none() && number < 8_000 {
        last = trickle(&mut writer, number..number + 100, || random.vector(DIM));
        number += 100;
    }
    assert!(last.dial().recall_estimated.is_some(), "no curve");
    let queries: Vec<_> = std::iter::repeat_with(|| random.vector(DIM))
        .take(QUERIES)
        .collect();
    check(&last, &queries);
}

/// The curve of the first rows promises too much of twice as many.
#[test]
fn an_index_that_doubles_by_single_rows_gets_another_curve() {
    let mut random = Random(22);
    let rows = std::iter::repeat_with(|| random.vector(DIM)).take(5_000);
    let (mut writer, first) = linked(spec(DIM, Metric::Cosine), rows);
    let before = first.view().dial().curve().unwrap();
    drop(first);
    let mut last = trickle(&mut writer, 5_000..10_000, || random.vector(DIM));
    let mut after = last.view().dial().curve().unwrap();
    let mut number = 10_000;
    while after.linked == before.linked && number < 20_000 {
        last = trickle(&mut writer, number..number + 100, || random.vector(DIM));
        after = last.view().dial().curve().unwrap();
        number += 100;
    }
    assert!(
        after.linked > before.linked && u64::from(after.linked) * 2 > last.stats().live,
        "a curve of {} nodes, before of {}",
        after.linked,
        before.linked
    );
    let queries: Vec<_> = std::iter::repeat_with(|| random.vector(DIM))
        .take(QUERIES)
        .collect();
    check(&last, &queries);
}

/// Rows that come one by one and are copies of others say nothing: the last curve is taken to be of the graph that they make.
#[test]
fn copies_that_come_one_by_one_replace_no_curve() {
    let mut random = Random(23);
    let rows: Vec<_> = std::iter::repeat_with(|| random.vector(DIM))
        .take(5_000)
        .collect();
    let (mut writer, mut last) = linked(spec(DIM, Metric::L2), rows.iter().cloned());
    let before = last.view().dial().curve().unwrap();
    let mut copies = rows.iter().cycle().cloned();
    // As many as it takes, see above.
    let after = (5_000..25_000).step_by(500).find_map(|from| {
        last = trickle(&mut writer, from..from + 500, || copies.next().unwrap());
        let curve = last.view().dial().curve().unwrap();
        (curve.linked > before.linked).then_some(curve)
    });
    let after = after.expect("given up");
    assert_eq!(after.points(), before.points());
}
