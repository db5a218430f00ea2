//! Codes are laid out by nearness while everything goes on, and nothing else changes.

use super::*;
use crate::catalog::{RowKey, Storage};
use crate::index::{RowChange, RowId, Snapshot, VectorChange, Writer};
use crate::lsn::Lsn;

const DIM: usize = 32;
const CLUSTERS: u64 = 16;
const ROWS: u64 = 6_000;

fn cluster(key: u64) -> u64 {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % CLUSTERS
}

/// The vector of a key's version: near its cluster's centre.
fn vector(key: u64, version: u64) -> Vec<f32> {
    let (mut of, mut own) = (cluster(key) + 1, key * 1_000 + version + 1);
    let component = |_| {
        let centre = (random(&mut of) % 2_001) as f32 / 100.0 - 10.0;
        centre + (random(&mut own) % 1_001) as f32 / 2_000.0
    };
    (0..DIM).map(component).collect()
}

fn upsert(writer: &mut Writer, key: u64, version: u64) {
    let change = RowChange::Upsert {
        old_key: None,
        key: RowKey::from_parts([&key.to_be_bytes()[..]]),
        vector: VectorChange::Set(Vector::new(vector(key, version)).unwrap()),
        include: vec![],
    };
    writer.apply(change).unwrap();
}

/// The index when all is linked and laid out.
fn settled(writer: &mut Writer) -> Arc<Snapshot> {
    let mut lsn = 1;
    let mut snapshot = writer.publish(Lsn::new(lsn));
    while snapshot.stats().unlinked > 0 || snapshot.stats().scattered {
        std::thread::yield_now();
        if writer.is_rebuilt() {
            lsn += 1;
            snapshot = writer.publish(Lsn::new(lsn));
        }
    }
    snapshot
}

/// Of the codes that lie one behind the other, the share that are of one cluster.
fn nearness(snapshot: &Snapshot) -> f64 {
    let lineage = snapshot.view().lineage().unwrap();
    let key = |row| {
        let key = RowKey::parts(snapshot.key(row)?).next()?;
        Some(u64::from_be_bytes(key.try_into().unwrap()))
    };
    let places = snapshot.view().live().iter().filter_map(|row| {
        // SAFETY: live in the snapshot.
        let place = unsafe { lineage.codes.place(row) };
        Some((place, cluster(key(RowId(row))?)))
    });
    let mut places: Vec<_> = places.collect();
    places.sort_unstable();
    let same = places.windows(2).filter(|pair| pair[0].1 == pair[1].1);
    same.count() as f64 / places.len() as f64
}

/// Of the ten nearest to each tenth key's vector, how many a search of that effort misses, in thousandths.
fn missed(snapshot: &Snapshot, effort: usize, version: impl Fn(u64) -> u64) -> usize {
    let mut missed = 0;
    for key in (0..ROWS).step_by(10) {
        let query = Vector::new(vector(key, version(key))).unwrap();
        let exact = snapshot.search_exact(&query, 10).unwrap().neighbors;
        assert!(exact[0].distance < 0.3, "{key} is there");
        let found = snapshot.search(&query, 10, effort).unwrap().neighbors;
        let last = exact[9].distance;
        missed += found.iter().filter(|n| n.distance > last).count();
    }
    missed / 6
}

#[test]
fn a_graph_is_walked_as_before_it_was_laid_out() {
    for metric in [Metric::L2, Metric::InnerProduct] {
        let mut writer = Writer::new(spec(DIM, metric, Method::Hnsw)).unwrap();
        for key in 0..ROWS / 2 {
            upsert(&mut writer, key, 0);
        }
        // Copies, which have no links of their own, and nodes whose rows are dead.
        for key in 0..200 {
            let change = RowChange::Upsert {
                old_key: None,
                key: RowKey::from_parts([&(ROWS + key).to_be_bytes()[..]]),
                vector: VectorChange::Set(Vector::new(vector(key % 50, 0)).unwrap()),
                include: vec![],
            };
            writer.apply(change).unwrap();
            upsert(&mut writer, key * 7, 1);
        }
        let snapshot = writer.publish(Lsn::new(1));
        while snapshot.stats().unlinked > 0 {
            std::thread::yield_now();
        }
        let view = snapshot.view();
        let mut layout = view.lay_out().unwrap().unwrap();
        while !layout.go_on(10).unwrap() {}
        let made = layout.finish().unwrap().finish().unwrap();
        let laid_out = view.part(&made.lineage, view.nodes(), view.live().clone());
        assert_eq!(made.lineage.scattered(), 0);
        for key in (0..ROWS / 2).step_by(3) {
            for effort in [10, 50] {
                let query = vector(key, 0);
                let (before, distances) = view.search(&query, 10, effort).unwrap();
                let (after, again) = laid_out.search(&query, 10, effort).unwrap();
                assert_eq!(before, after, "{metric:?}, {key}");
                assert_eq!(distances, again, "the same walk");
            }
        }
    }
}

#[test]
fn a_graph_made_anew_of_rows_that_were_laid_out_is_as_good_as_one_that_never_was() {
    let spec = spec(DIM, Metric::L2, Method::Hnsw);
    let mut writer = Writer::new(spec).unwrap();
    for key in 0..2 * ROWS {
        upsert(&mut writer, key, 0);
    }
    let laid_out = settled(&mut writer);
    assert!(nearness(&laid_out) > 0.8);
    for key in ROWS..2 * ROWS {
        let key = RowKey::from_parts([&key.to_be_bytes()[..]]);
        writer.apply(RowChange::Delete { key }).unwrap();
    }
    drop(laid_out);
    let mut rebuilt = writer.publish(Lsn::new(2));
    while rebuilt.stats().dead > 0 {
        std::thread::yield_now();
        if writer.is_rebuilt() {
            rebuilt = writer.publish(Lsn::new(2));
        }
    }
    let mut fresh = Writer::new(spec).unwrap();
    for key in 0..ROWS {
        upsert(&mut fresh, key, 0);
    }
    let fresh = settled(&mut fresh);
    for effort in [10, 20, 40] {
        let (now, first) = (
            missed(&rebuilt, effort, |_| 0),
            missed(&fresh, effort, |_| 0),
        );
        assert!(
            now <= first + 10,
            "effort {effort}: {now} and {first} of a thousand"
        );
    }
}

/// Searches find the rows as they are at that version.
fn check(snapshot: &Snapshot, version: impl Fn(u64) -> u64) {
    let missed = missed(snapshot, 100, version);
    assert!(missed < 10, "{missed} of a thousand");
}

#[test]
fn codes_are_laid_out_and_rows_stay_what_they_were() {
    for storage in [Storage::F32, Storage::I8] {
        let mut spec = spec(DIM, Metric::L2, Method::Hnsw);
        spec.options.storage = storage;
        let mut writer = Writer::new(spec).unwrap();
        for key in 0..ROWS {
            upsert(&mut writer, key, 0);
        }
        let old = writer.publish(Lsn::new(1));
        assert!(nearness(&old) < 0.1, "as they came");
        let snapshot = settled(&mut writer);
        let laid_out = nearness(&snapshot);
        assert!(laid_out > 0.8, "{storage:?}: {laid_out}");
        check(&snapshot, |_| 0);
        check(&old, |_| 0);
        // All are replaced: the dead are dropped, the new laid out where those were, and whoever holds the old sees the old.
        for key in 0..ROWS {
            upsert(&mut writer, key, 1);
        }
        let newest = settled(&mut writer);
        assert_eq!(newest.stats().live, ROWS);
        let again = nearness(&newest);
        assert!(again > 0.6, "{storage:?}: {again}");
        check(&newest, |_| 1);
        check(&snapshot, |_| 0);
    }
}

#[test]
fn rows_that_come_while_codes_are_laid_out_are_found() {
    let mut writer = Writer::new(spec(DIM, Metric::L2, Method::Hnsw)).unwrap();
    for key in 0..ROWS - 1_000 {
        upsert(&mut writer, key, 0);
    }
    drop(writer.publish(Lsn::new(1)));
    let mut layouts = 0;
    for key in ROWS - 1_000..ROWS {
        upsert(&mut writer, key, 0);
        upsert(&mut writer, key - 1_000, 1);
        layouts += u64::from(writer.is_rebuilt());
        drop(writer.publish(Lsn::new(key)));
        std::thread::yield_now();
    }
    let snapshot = settled(&mut writer);
    layouts += u64::from(nearness(&snapshot) > 0.6);
    assert!(layouts > 0, "nothing is tested");
    check(&snapshot, |key| {
        u64::from((ROWS - 2_000..ROWS - 1_000).contains(&key))
    });
}
