//! Rows are found by their own vectors: the graph has a way to each, however many others crowd around.

use super::*;

const ROWS: usize = 20_000;
/// Where clusters have no inside: most rows lie at the rim, near to few others' nearest.
const DIM: usize = 128;

fn stored(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot.graph().unwrap().write(&mut bytes).unwrap();
    bytes
}

fn unreached(snapshot: &Snapshot) -> usize {
    let graph = GraphImage::read(&stored(snapshot), snapshot.spec()).unwrap();
    graph.unreached()
}

/// Rows that a search for their own vector does not find.
fn missed(snapshot: &Snapshot, rows: &[Vec<f32>], ef: usize) -> usize {
    let is_missed = |row: &&Vec<f32>| {
        let query = Vector::new(row.to_vec()).unwrap();
        let found = snapshot.search(&query, 1, ef).unwrap().neighbors;
        found[0].distance > 1e-5
    };
    rows.iter().filter(is_missed).count()
}

#[test]
fn every_row_is_found_by_its_own_vector() {
    for metric in [Metric::L2, Metric::Cosine] {
        let mut clusters = Clusters::new(1, DIM);
        let rows: Vec<_> = (0..ROWS).map(|_| clusters.next()).collect();
        let (_writer, snapshot) = linked(spec(DIM, metric), rows.iter().cloned());
        assert_eq!(unreached(&snapshot), 0, "{metric:?}");
        // A greedy walk may end elsewhere; seldom, and not at a high effort.
        for (ef, most) in [(40, 60), (64, 30), (200, 12)] {
            let missed = missed(&snapshot, &rows, ef);
            assert!(missed <= most, "{metric:?}, {ef}: {missed}");
        }
    }
}

#[test]
fn every_row_can_be_reached_under_every_metric() {
    for metric in Metric::OF_NUMBERS.into_iter().chain(Metric::OF_BITS) {
        let spec = spec(DIM, metric);
        let next = clusters(spec, 2);
        let rows = std::iter::repeat_with(next).take(ROWS / 2);
        let (_writer, snapshot) = linked(spec, rows);
        assert_eq!(unreached(&snapshot), 0, "{metric:?}");
    }
}

/// A graph is stored as of a moment; what came later has taken links from those before.
#[test]
fn every_row_can_be_reached_after_loading() {
    let spec = spec(DIM, Metric::L2);
    let mut clusters = Clusters::new(3, DIM);
    let rows: Vec<_> = (0..ROWS).map(|_| clusters.next()).collect();
    let (before, later) = rows.split_at(ROWS / 4);
    let (mut writer, first) = linked(spec, before.iter().cloned());
    for (number, row) in (before.len() as u64..).zip(later) {
        writer.apply(upsert(number, row.clone())).unwrap();
    }
    let last = writer.publish(Lsn::new(2));
    wait_until("linking", || last.stats().unlinked == 0);
    assert_eq!(unreached(&last), 0, "enlarged");
    let graph = GraphImage::read(&stored(&first), &spec).unwrap();
    let mut loader = Loader::new(spec, Some(&graph)).unwrap();
    for row in first.rows() {
        let vector = Vector::new(first.vector(row).unwrap().to_vec());
        let vector = Ok(vector.unwrap());
        let key = RowKey::from_encoded(first.key(row).unwrap());
        loader.row(row.place(), &key, &vector, &[]).unwrap();
    }
    loader.adopt(&graph).unwrap();
    let loaded = loader.finish().publish(Lsn::new(1));
    assert!(graph.unreached() > 0, "nothing is tested");
    assert_eq!(unreached(&loaded), 0);
}
