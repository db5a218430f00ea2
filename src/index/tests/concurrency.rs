//! Searches while rows are linked, replaced and truncated: each must see exactly its snapshot.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const DIM: usize = 16;

/// What a search finds in a snapshot is in the snapshot, ordered, complete in number, and finds a stored row itself.
/// Returns whether it did find it.
fn check(snapshot: &Snapshot, random: &mut Random) -> bool {
    let stats = snapshot.stats();
    let rows: Vec<RowId> = snapshot.rows().collect();
    assert_eq!(rows.len() as u64, stats.live);
    let Some(own) = rows.get(random.index(rows.len().max(1))).copied() else {
        return true;
    };
    let query = Vector::new(snapshot.vector(own).unwrap().to_vec()).unwrap();
    let found = snapshot.search(&query, 10, DEFAULT_EF).unwrap();
    assert_eq!(found.neighbors.len() as u64, stats.live.min(10));
    assert!(
        found
            .neighbors
            .is_sorted_by(|a, b| a.distance <= b.distance)
    );
    for neighbor in &found.neighbors {
        let vector = snapshot
            .vector(neighbor.row)
            .expect("a row that is not live");
        assert!(
            snapshot
                .key(neighbor.row)
                .is_some_and(|key| !key.is_empty())
        );
        let distance = Metric::L2.distance(query.as_slice(), &vector);
        assert!(
            (distance - f64::from(neighbor.distance)).abs() < 1e-4,
            "not the row's distance"
        );
    }
    found.neighbors[0].distance == 0.0
}

#[test]
fn searches_see_their_snapshot_while_everything_changes() {
    let newest = Mutex::new(None::<Arc<Snapshot>>);
    let (done, searched, missed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (newest, done, searched, missed) = (&newest, &done, &searched, &missed);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !done.load(Ordering::Relaxed) {
                    let Some(snapshot) = newest.lock().unwrap().clone() else {
                        continue;
                    };
                    for _ in 0..random.below(20) {
                        let found = check(&snapshot, &mut random);
                        searched.fetch_add(1, Ordering::Relaxed);
                        missed.fetch_add(u64::from(!found), Ordering::Relaxed);
                    }
                }
            });
        }
        let mut clusters = Clusters::new(11, DIM);
        let mut random = Random(12);
        let mut writer = Writer::within(spec(DIM, Metric::L2), &with_files()).unwrap();
        for transaction in 0..600 {
            if transaction == 400 {
                writer.apply(RowChange::Truncate).unwrap();
            }
            for _ in 0..40 {
                let key = random.below(6_000);
                let change = match random.below(5) {
                    0 => RowChange::Delete {
                        key: super::key(key),
                    },
                    _ => upsert(key, clusters.next()),
                };
                writer.apply(change).unwrap();
            }
            let snapshot = writer.publish(Lsn::new(transaction));
            *newest.lock().unwrap() = Some(snapshot);
        }
        done.store(true, Ordering::Relaxed);
    });
    let (searched, missed) = (searched.into_inner(), missed.into_inner());
    assert!(searched > 100, "{searched} searches are no test");
    assert!(
        missed * 50 <= searched,
        "{missed} of {searched} searches missed the row itself"
    );
}

#[test]
fn a_writer_dropped_while_it_links_leaves_its_snapshots() {
    let mut clusters = Clusters::new(13, 64);
    let mut writer = Writer::new(spec(64, Metric::L2)).unwrap();
    for number in 0..20_000 {
        writer.apply(upsert(number, clusters.next())).unwrap();
    }
    let snapshot = writer.publish(Lsn::new(1));
    drop(writer);
    assert!(
        snapshot.stats().unlinked > 0,
        "linked before it could be dropped"
    );
    let mut random = Random(14);
    for _ in 0..20 {
        assert!(check(&snapshot, &mut random));
    }
}
