//! Tests of the engine through its interface: against a model, for recall, and under concurrency.

mod cold;
mod concurrency;
mod dial;
mod filters;
mod hard;
mod lists;
mod many;
mod memory;
mod model;
mod own;
mod recall;
mod storage;
mod stored;
mod trickle;

use std::sync::Arc;

use super::faiss::tests::disk::Disk;
use super::*;
use crate::catalog::RowKey;
use crate::lsn::Lsn;
use crate::vector::{Form, Vector};

/// Seeded random numbers (SplitMix64), so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    /// About normal: the sum of twelve uniform numbers.
    #[allow(clippy::cast_precision_loss)]
    fn normal(&mut self) -> f32 {
        (0..12)
            .map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32)
            .sum::<f32>()
            - 6.0
    }

    fn vector(&mut self, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| self.normal()).collect()
    }
}

/// Vectors around centres of unequal weight, as embeddings lie.
struct Clusters {
    centres: Vec<Vec<f32>>,
    random: Random,
}

impl Clusters {
    fn new(seed: u64, dim: usize) -> Self {
        let mut random = Random(seed);
        let centres = (0..40).map(|_| random.vector(dim)).collect();
        Self { centres, random }
    }

    fn next(&mut self) -> Vec<f32> {
        let widest = 1 + self.random.index(self.centres.len());
        let centre = self.random.index(widest);
        self.centres[centre]
            .iter()
            .map(|c| c + 0.4 * self.random.normal())
            .collect()
    }
}

/// Strings of bits around others, each bit another with a chance of one in eight.
struct BitClusters {
    centres: Vec<Vec<u64>>,
    random: Random,
    form: Form,
}

impl BitClusters {
    fn new(seed: u64, form: Form) -> Self {
        let mut random = Random(seed);
        let centres = (0..40)
            .map(|_| (0..form.words()).map(|_| random.next()).collect())
            .collect();
        Self {
            centres,
            random,
            form,
        }
    }

    #[allow(clippy::cast_possible_truncation)]
    fn next(&mut self) -> Vec<f32> {
        let centre = self.random.index(self.centres.len());
        let words = self.centres[centre].iter().map(|word| {
            let flipped = self.random.next() & self.random.next() & self.random.next();
            f32::from_bits((word ^ flipped) as u32)
        });
        let words = words.collect();
        let bits = Vector::from_words(self.form, words).unwrap();
        bits.as_slice().to_vec()
    }
}

/// Clusters of what the index is made of.
fn clusters(spec: IndexSpec, seed: u64) -> Box<dyn FnMut() -> Vec<f32>> {
    match spec.form() {
        Form::Numbers(dim) => {
            let mut clusters = Clusters::new(seed, dim.get());
            Box::new(move || clusters.next())
        }
        Form::Bits(_) => {
            let mut clusters = BitClusters::new(seed, spec.form());
            Box::new(move || clusters.next())
        }
    }
}

fn spec(dim: usize, metric: Metric) -> IndexSpec {
    IndexSpec {
        dim: Dim::new(dim).unwrap(),
        metric,
        options: IndexOptions::default(),
        include: 0,
    }
}

fn key(number: u64) -> RowKey {
    RowKey::from_parts([&number.to_be_bytes()[..]])
}

fn upsert(number: u64, vector: Vec<f32>) -> RowChange {
    set(number, Vector::new(vector).unwrap())
}

fn set(number: u64, vector: Vector) -> RowChange {
    RowChange::Upsert {
        old_key: None,
        key: key(number),
        vector: VectorChange::Set(vector),
        include: vec![],
    }
}

/// Waits for what threads of low priority do: seconds, but ten times as long and more where other tests leave them little time.
/// It looks again after a rest, so as not to be one of those.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(
            start.elapsed().as_secs() < 600,
            "waited ten minutes for: {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Memory, without and with files for vectors.
fn memories() -> [Arc<Memory>; 2] {
    [Memory::unlimited(), with_files()]
}

fn with_files() -> Arc<Memory> {
    Memory::new(None, Some(Box::new(Disk::new(&Arc::default()))))
}

/// An index of these vectors, all linked, keys counted from 0.
fn linked(spec: IndexSpec, vectors: impl Iterator<Item = Vec<f32>>) -> (Writer, Arc<Snapshot>) {
    linked_in(&Memory::unlimited(), spec, vectors)
}

/// The same with that memory.
fn linked_in(
    memory: &Arc<Memory>,
    spec: IndexSpec,
    vectors: impl Iterator<Item = Vec<f32>>,
) -> (Writer, Arc<Snapshot>) {
    let upserts = (0..).zip(vectors).map(|(number, vector)| {
        let vector = Vector::from_words(spec.form(), vector).unwrap();
        set(number, vector)
    });
    linked_with(Writer::within(spec, memory).unwrap(), upserts)
}

/// The same with any changes.
fn linked_with(
    mut writer: Writer,
    changes: impl Iterator<Item = RowChange>,
) -> (Writer, Arc<Snapshot>) {
    for change in changes {
        writer.apply(change).unwrap();
    }
    let snapshot = writer.publish(Lsn::new(1));
    wait_until("linking", || snapshot.stats().unlinked == 0);
    (writer, snapshot)
}

/// The share of the true `k` nearest that a search finds, counting rows as near as the last of them as found.
fn recall(snapshot: &Snapshot, queries: &[Vec<f32>], k: usize, ef: usize) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for query in queries {
        let query = Vector::from_words(snapshot.spec().form(), query.clone()).unwrap();
        let exact = snapshot.search_exact(&query, k).unwrap().neighbors;
        let last = exact.last().unwrap().distance;
        let got = snapshot.search(&query, k, ef).unwrap();
        assert_eq!(got.neighbors.len(), exact.len());
        assert!(got.distances < snapshot.stats().live, "searched by a scan");
        found += got
            .neighbors
            .iter()
            .filter(|neighbor| neighbor.distance <= last)
            .count();
        wanted += exact.len();
    }
    found as f64 / wanted as f64
}
