//! What is kept of vectors: how near it is to them, that the same vector keeps its row, that a restart changes nothing,
//! and recall against the vectors themselves.

use super::*;
use crate::catalog::Storage;
use crate::index::memory::Part;

const DIM: usize = 48;
const ROWS: u64 = 6_000;

fn stored_as(storage: Storage, metric: Metric) -> IndexSpec {
    let mut spec = spec(DIM, metric);
    spec.options.storage = storage;
    spec
}

/// Rows and queries of the same distribution.
fn data() -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut clusters = Clusters::new(11, DIM);
    let rows = (0..ROWS).map(|_| clusters.next()).collect();
    (rows, (0..100).map(|_| clusters.next()).collect())
}

/// The share of the ten nearest by the vectors themselves that a search finds.
fn true_recall(snapshot: &Snapshot, rows: &[Vec<f32>], queries: &[Vec<f32>]) -> f64 {
    let metric = snapshot.spec().metric;
    let mut hits = 0;
    for query in queries {
        let mut exact: Vec<(f64, u64)> = (0..)
            .zip(rows)
            .map(|(number, row)| (metric.distance(query, row), number))
            .collect();
        exact.sort_by(|a, b| a.0.total_cmp(&b.0));
        let query = Vector::new(query.clone()).unwrap();
        let found = snapshot.search(&query, 10, 200).unwrap();
        let keys = found.neighbors.iter();
        let found: Vec<_> = keys.map(|near| snapshot.key(near.row).unwrap()).collect();
        let nearest = exact.iter().take(10);
        hits += nearest
            .filter(|(_, number)| found.contains(&key(*number).as_bytes()))
            .count();
    }
    f64::from(u32::try_from(hits).unwrap()) / f64::from(u32::try_from(queries.len() * 10).unwrap())
}

#[test]
fn recall_by_what_is_kept() {
    let (rows, queries) = data();
    for metric in Metric::OF_NUMBERS {
        for (storage, wanted, bytes) in [
            (Storage::F32, 0.99, 4),
            (Storage::F16, 0.985, 2),
            (Storage::Bf16, 0.98, 2),
            (Storage::I8, 0.96, 0),
        ] {
            let (_writer, snapshot) = linked(stored_as(storage, metric), rows.iter().cloned());
            let recall = true_recall(&snapshot, &rows, &queries);
            assert!(recall >= wanted, "{storage:?} {metric:?}: {recall}");
            let held = snapshot.stats().memory.of(Part::Vectors);
            let least = ROWS * DIM as u64 * bytes;
            assert!(
                (least..=least * 5 / 4).contains(&held),
                "{storage:?} {held}"
            );
        }
    }
}

#[test]
fn what_is_kept_is_as_near_as_its_form_allows() {
    let (rows, _) = data();
    for (storage, relative) in [
        (Storage::F32, 0.0),
        (Storage::F16, 1.0 / 2048.0),
        (Storage::Bf16, 1.0 / 256.0),
    ] {
        let mut writer = Writer::new(stored_as(storage, Metric::L2)).unwrap();
        writer.apply(upsert(0, rows[0].clone())).unwrap();
        let snapshot = writer.publish(Lsn::new(1));
        let row = snapshot.rows().next().unwrap();
        for (kept, own) in snapshot.vector(row).unwrap().iter().zip(&rows[0]) {
            assert!(
                (kept - own).abs() <= own.abs() * relative,
                "{storage:?}: {kept} {own}"
            );
        }
    }
}

#[test]
fn halves_keep_all_of_halfvec_and_of_tiny_vectors_under_cosine() {
    // All values that a halfvec can have.
    let halves: Vec<f32> = [
        1.0,
        -0.25,
        65504.0,
        6.103_515_6e-5,
        5.960_464_5e-8,
        0.333_251_95,
        0.0,
    ]
    .into_iter()
    .collect();
    let mut spec = stored_as(Storage::F16, Metric::L2);
    spec.dim = Dim::new(halves.len()).unwrap();
    for metric in Metric::OF_NUMBERS {
        spec.metric = metric;
        let mut writer = Writer::new(spec).unwrap();
        writer.apply(upsert(0, halves.clone())).unwrap();
        let snapshot = writer.publish(Lsn::new(1));
        let row = snapshot.rows().next().unwrap();
        assert_eq!(*snapshot.vector(row).unwrap(), halves[..]);
    }
    spec.metric = Metric::Cosine;
    let tiny: Vec<f32> = (1..=7_u8).map(|n| f32::from(n) * 1e-30).collect();
    let mut writer = Writer::new(spec).unwrap();
    writer.apply(upsert(0, tiny.clone())).unwrap();
    let snapshot = writer.publish(Lsn::new(1));
    let near = snapshot
        .search_exact(&Vector::new(tiny).unwrap(), 1)
        .unwrap();
    assert!(near.neighbors[0].distance.abs() < 1e-6, "{near:?}");
}

#[test]
fn the_same_vector_keeps_its_row_and_a_restart_changes_nothing() {
    let (rows, queries) = data();
    for metric in Metric::OF_NUMBERS {
        for storage in Storage::ALL {
            let spec = stored_as(storage, metric);
            let (mut writer, snapshot) = linked(spec, rows.iter().cloned());
            let before: Vec<RowId> = snapshot.rows().collect();
            let same = |writer: &Writer, number: u64, vector: &[f32]| {
                let change = upsert(number, vector.to_vec());
                writer.compare(&change).unwrap()
            };
            for number in [0, 1, 100, 5_999] {
                let own = &rows[usize::try_from(number).unwrap()];
                assert_eq!(same(&writer, number, own), Comparison::Same);
                writer.apply(upsert(number, own.clone())).unwrap();
                let mut other = own.clone();
                other[3] += 0.5;
                assert_eq!(same(&writer, number, &other), Comparison::Differing);
            }
            let again = writer.publish(Lsn::new(2));
            assert_eq!(before, again.rows().collect::<Vec<_>>());

            let mut bytes = Vec::new();
            again.graph().unwrap().write(&mut bytes).unwrap();
            let graph = GraphImage::read(&bytes, &spec).unwrap();
            let mut loader = Loader::within(spec, Some(&graph), &with_files()).unwrap();
            for row in again.rows() {
                let key = RowKey::from_encoded(again.key(row).unwrap());
                let vector = Vector::new(again.vector(row).unwrap().to_vec());
                let vector = Ok(vector.unwrap());
                loader.row(row.place(), &key, &vector, &[]).unwrap();
            }
            loader.adopt(&graph).unwrap();
            let mut loaded = loader.finish();
            let restarted = loaded.publish(Lsn::new(2));
            for (number, own) in (0..).zip(&rows) {
                let compared = same(&loaded, number, own);
                assert_eq!(
                    compared,
                    Comparison::Same,
                    "{storage:?} {metric:?} {number}"
                );
            }
            for row in again.rows() {
                let (a, b) = (again.vector(row).unwrap(), restarted.vector(row).unwrap());
                for (a, b) in a.iter().zip(&*b) {
                    assert!(
                        (a - b).abs() <= 1e-5 * a.abs().max(1.0),
                        "{storage:?} {metric:?}"
                    );
                }
            }
            for query in &queries[..10] {
                let query = Vector::new(query.clone()).unwrap();
                let found = |snapshot: &Snapshot| -> Vec<RowId> {
                    let found = snapshot.search(&query, 10, 200).unwrap().neighbors;
                    found.iter().map(|near| near.row).collect()
                };
                assert_eq!(found(&again), found(&restarted), "{storage:?} {metric:?}");
            }
        }
    }
}
