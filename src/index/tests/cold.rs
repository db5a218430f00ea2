//! Vectors in files: searched as those in memory are, counted apart; and what the disk does not take.

use std::sync::atomic::Ordering;

use super::*;
use crate::catalog::{Method, Storage};
use crate::index::faiss::tests::disk::{Disk, Faults, take_away};
use crate::index::memory::{Memory, Part};

const DIM: usize = 24;
/// Rows that go to a file at a time, see `faiss/store.rs`.
const STEP: u64 = 2_048;
const ROWS: u64 = 5 * STEP;
const ROW_BYTES: u64 = DIM as u64 * 4;

fn memory(limit: Option<u64>, faults: &Arc<Faults>) -> Arc<Memory> {
    Memory::new(limit, Some(Box::new(Disk::new(faults))))
}

fn fill(writer: &mut Writer, random: &mut Random) {
    for number in 0..ROWS {
        writer.apply(upsert(number, random.vector(DIM))).unwrap();
    }
}

#[test]
fn what_is_mapped_is_counted_apart_and_does_not_meet_the_bound() {
    let memory = memory(Some(64 << 20), &Arc::default());
    let mut writer = Writer::within(spec(DIM, Metric::L2), &memory).unwrap();
    fill(&mut writer, &mut Random(1));
    let snapshot = writer.publish(Lsn::new(1));
    let parts = snapshot.stats().memory;
    assert_eq!(parts.of(Part::Mapped), ROWS * ROW_BYTES);
    assert_eq!(parts.of(Part::Vectors), 0);
    // What links and lays out them charges what it takes, at any time.
    let counted = || memory.used() == snapshot.stats().memory.total();
    wait_until("one sum", counted);
    let all: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(all, parts.total() + parts.of(Part::Mapped));
    let estimate = snapshot.spec().estimate(ROWS, [], &memory);
    let without = snapshot.spec().estimate(ROWS, [], &Memory::unlimited());
    assert_eq!(without, estimate + parts.of(Part::Mapped));

    writer.apply(RowChange::Truncate).unwrap();
    writer.publish(Lsn::new(2));
    drop(snapshot);
    wait_until("the old version to go", || memory.used() < 1 << 20);
    assert_eq!(
        writer.publish(Lsn::new(3)).stats().memory.of(Part::Mapped),
        0
    );
}

#[test]
fn what_the_system_takes_back_is_read_again() {
    let mut clusters = Clusters::new(2, DIM);
    let rows = (0..ROWS).map(|_| clusters.next()).collect::<Vec<_>>();
    let spec = spec(DIM, Metric::Cosine);
    let (_writer, snapshot) = linked_in(&with_files(), spec, rows.iter().cloned());
    let queries: Vec<_> = (0..100)
        .map(|_| Vector::new(clusters.next()).unwrap())
        .collect();
    let found = || {
        let found = queries
            .iter()
            .map(|query| snapshot.search(query, 10, 100).unwrap());
        found.map(|found| found.neighbors).collect::<Vec<_>>()
    };
    let before = found();
    for _ in 0..3 {
        take_away();
        assert_eq!(found(), before);
    }
    take_away();
    for row in snapshot.rows() {
        let own = &rows[usize::try_from(row.0).unwrap()];
        assert_eq!(*snapshot.vector(row).unwrap(), own[..]);
    }
}

#[test]
fn what_every_search_walks_through_stays_in_memory() {
    let in_files = |method, storage, metric| {
        let mut spec = spec(64, metric);
        spec.options.method = method;
        spec.options.storage = storage;
        let memory = memory(None, &Arc::default());
        let mut writer = Writer::within(spec, &memory).unwrap();
        let vector = Vector::from_words(spec.form(), vec![1.0; spec.form().words()]).unwrap();
        writer.apply(set(1, vector)).unwrap();
        writer.publish(Lsn::new(1)).stats().memory.of(Part::Mapped) > 0
    };
    for method in [Method::Hnsw, Method::Ivf] {
        assert!(in_files(method, Storage::F32, Metric::Cosine));
        assert!(in_files(method, Storage::F16, Metric::Cosine));
        assert!(!in_files(method, Storage::I8, Metric::Cosine));
    }
    assert!(!in_files(Method::Flat, Storage::F32, Metric::L2));
    assert!(!in_files(Method::Hnsw, Storage::F32, Metric::Hamming));
}

#[test]
fn what_a_full_disk_does_not_take_stays_in_memory() {
    for full in [1, 2, 3] {
        let faults: Arc<Faults> = Arc::default();
        faults.full.store(full, Ordering::Relaxed);
        let memory = memory(None, &faults);
        let mut clusters = Clusters::new(3, DIM);
        let rows: Vec<_> = (0..ROWS).map(|_| clusters.next()).collect();
        let spec = spec(DIM, Metric::Cosine);
        let (_writer, snapshot) = linked_in(&memory, spec, rows.iter().cloned());
        for row in snapshot.rows() {
            let own = &rows[usize::try_from(row.0).unwrap()];
            assert_eq!(*snapshot.vector(row).unwrap(), own[..]);
        }
        let parts = snapshot.stats().memory;
        let refused = ROWS / STEP / full as u64;
        assert_eq!(parts.of(Part::Vectors), refused * STEP * ROW_BYTES);
        assert_eq!(parts.of(Part::Mapped), (ROWS - refused * STEP) * ROW_BYTES);
        let queries: Vec<_> = (0..50).map(|_| clusters.next()).collect();
        let recall = recall(&snapshot, &queries, 10, 100);
        assert!(recall >= 0.95, "{full}: {recall}");
    }
}

#[test]
fn without_room_anywhere_both_reasons_are_told_and_later_it_goes_on() {
    let faults: Arc<Faults> = Arc::default();
    // Less than the vectors of one step take.
    let memory = memory(Some(STEP * ROW_BYTES), &faults);
    let mut writer = Writer::within(spec(DIM, Metric::L2), &memory).unwrap();
    let change = upsert(1, Random(4).vector(DIM));
    faults.full.store(1, Ordering::Relaxed);
    let error = writer.apply(change.clone()).unwrap_err().to_string();
    assert!(error.starts_with(OUT_OF_MEMORY), "{error}");
    assert!(error.ends_with("; on disk: no storage space"), "{error}");
    faults.full.store(0, Ordering::Relaxed);
    writer.apply(change).unwrap();
    let stats = writer.publish(Lsn::new(1)).stats();
    assert_eq!(stats.live, 1);
    assert_eq!(stats.memory.of(Part::Mapped), STEP * ROW_BYTES);
}

#[test]
fn a_row_that_cannot_be_written_is_not_there_and_the_others_are() {
    let faults: Arc<Faults> = Arc::default();
    let memory = memory(None, &faults);
    let mut writer = Writer::within(spec(DIM, Metric::L2), &memory).unwrap();
    let mut random = Random(5);
    let vector = random.vector(DIM);
    writer.apply(upsert(1, vector.clone())).unwrap();
    faults.broken.store(true, Ordering::Relaxed);
    let error = writer.apply(upsert(2, random.vector(DIM))).unwrap_err();
    let text = "index engine: a vector was not written: broken";
    assert_eq!(error.to_string(), text);
    assert!(!writer.knows(&key(2)));
    let snapshot = writer.publish(Lsn::new(1));
    assert_eq!(snapshot.stats().live, 1);
    faults.broken.store(false, Ordering::Relaxed);
    writer.apply(upsert(2, random.vector(DIM))).unwrap();
    let snapshot = writer.publish(Lsn::new(2));
    let own = Vector::new(vector).unwrap();
    let found = snapshot.search_exact(&own, 2).unwrap().neighbors;
    assert_eq!((found.len(), found[0].distance), (2, 0.0));
}
