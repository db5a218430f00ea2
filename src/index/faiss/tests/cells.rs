//! Near rows get near ids; none is given out while its row is live, and those of removed rows come back.

use super::*;
use crate::index::faiss::cells::CELLS_FROM;

const DIM: usize = 16;
const CLUSTERS: u64 = 64;

/// A row of one of the clusters, which its first component tells.
fn clustered(state: &mut u64) -> (u64, Vec<f32>) {
    let cluster = random(state) % CLUSTERS;
    let mut of = cluster + 1;
    let row = (0..DIM).map(|_| {
        let centre = (random(&mut of) % 2_001) as f32 / 100.0;
        centre + (random(state) % 1_001) as f32 / 1_000.0
    });
    (cluster, row.collect())
}

/// Rows, and the cluster of each id that is live.
struct Table {
    rows: Rows,
    clusters: Vec<Option<u64>>,
    live: Vec<u32>,
    state: u64,
}

impl Table {
    fn new() -> Self {
        Self {
            rows: Rows::new(spec(DIM, Metric::L2, Method::Hnsw), &account()),
            clusters: Vec::new(),
            live: Vec::new(),
            state: 3,
        }
    }

    fn insert(&mut self) {
        let (cluster, vector) = clustered(&mut self.state);
        let row = self.rows.insert(&vector).unwrap();
        self.note(row, cluster);
    }

    fn note(&mut self, row: u32, cluster: u64) {
        if self.clusters.len() <= row as usize {
            self.clusters.resize(row as usize + 1, None);
        }
        let before = self.clusters[row as usize].replace(cluster);
        assert_eq!(before, None, "row {row} was live");
        self.live.push(row);
    }

    fn remove(&mut self) {
        let place = usize::try_from(random(&mut self.state)).unwrap() % self.live.len();
        let row = self.live.swap_remove(place);
        self.clusters[row as usize] = None;
        self.rows.remove(row);
    }

    /// Of the live rows whose next id is live too, the share where that is of the same cluster.
    fn nearness(&self) -> f64 {
        let pairs = self.clusters.windows(2);
        let both = pairs.filter_map(|pair| Some((pair[0]?, pair[1]?)));
        let (same, all) = both.fold((0.0, 0.0), |(same, all), (one, other)| {
            (same + f64::from(u8::from(one == other)), all + 1.0)
        });
        same / all
    }

    /// Ids that were given out or are held ready, for each live row.
    fn ids(&self) -> f64 {
        self.clusters.len() as f64 / self.live.len() as f64
    }

    /// Replaces every row once, rebuilding as the linker would.
    fn churn(&mut self) {
        for _ in 0..8 {
            for _ in 0..self.live.len() / 8 {
                self.remove();
                self.insert();
            }
            let view = self.rows.publish(None);
            let rebuild = view.rebuild().unwrap();
            drop(view);
            drop(self.rows.publish(rebuild));
            drop(self.rows.publish(None));
        }
    }
}

#[test]
fn near_rows_get_near_ids_and_keep_them_so() {
    let mut table = Table::new();
    for _ in 0..CELLS_FROM {
        table.insert();
    }
    let without = table.nearness(); // one in 64, by chance
    assert!(without < 0.05, "{without}");
    for _ in 0..3 * CELLS_FROM {
        table.insert();
    }
    drop(table.rows.publish(None));
    // A quarter came before there were cells.
    let (loaded, ids) = (table.nearness(), table.ids());
    assert!(loaded > 0.55 && ids < 1.15, "{loaded} {ids}");
    table.churn();
    table.churn();
    let (churned, ids) = (table.nearness(), table.ids());
    assert!(churned > 0.6 && ids < 1.7, "{churned} {ids}");
}

#[test]
fn ids_of_rows_that_were_loaded_are_used_again_in_their_cells() {
    let mut table = Table::new();
    let mut vectors: Vec<_> = (0..2 * CELLS_FROM)
        .map(|_| clustered(&mut table.state))
        .collect();
    vectors.sort_by_key(|(cluster, _)| *cluster);
    for (row, (cluster, vector)) in (0..).zip(vectors) {
        table.rows.load(row, &vector).unwrap();
        table.note(row, cluster);
    }
    table.rows.finish_loading();
    drop(table.rows.publish(None));
    assert!(table.nearness() > 0.95);
    table.insert(); // with it there are cells
    table.churn();
    table.churn();
    let (churned, ids) = (table.nearness(), table.ids());
    assert!(churned > 0.5 && ids < 1.7, "{churned} {ids}");
}

#[test]
fn ids_of_cells_that_get_no_rows_go_to_others() {
    let mut table = Table::new();
    for _ in 0..2 * CELLS_FROM {
        table.insert();
    }
    // All new rows are in one place, where hardly any was.
    for _ in 0..6 {
        for _ in 0..CELLS_FROM / 2 {
            table.remove();
            let row = table.rows.insert(&[100.0; DIM]).unwrap();
            table.note(row, CLUSTERS);
        }
        let view = table.rows.publish(None);
        let rebuild = view.rebuild().unwrap();
        drop(view);
        drop(table.rows.publish(rebuild));
        drop(table.rows.publish(None));
    }
    let ids = table.ids();
    assert!(ids < 1.6, "{ids}");
}
