//! The index engine alone, in this process, on one search thread: build time, recall and cost of a query.
//! `cargo bench --bench engine -- vectors.i8 [dimensions] [queries]`: rows of signed bytes, the last of them the queries.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs
)]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rektor::catalog::{IndexOptions, RowKey};
use rektor::index::{DEFAULT_EF, IndexSpec, RowChange, RowId, VectorChange, Writer};
use rektor::lsn::Lsn;
use rektor::vector::{Dim, Metric, Vector};

const K: usize = 10;

/// What this thread has computed so far: the measure to trust on a machine that does other things as well.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let Some(path) = arguments.next() else {
        println!("usage: engine FILE [DIMENSIONS] [QUERIES] [METRIC]");
        return;
    };
    let mut number = |default: usize| {
        arguments
            .next()
            .map_or(default, |argument| argument.parse().unwrap())
    };
    let (dim, queries) = (number(384), number(500));
    let metric = arguments
        .next()
        .map_or(Metric::Cosine, |name| Metric::from_name(&name).unwrap());

    let bytes = std::fs::read(path).unwrap();
    let vectors: Vec<Vector> = bytes
        .chunks_exact(dim)
        .map(|row| {
            Vector::new(
                row.iter()
                    .map(|byte| f32::from(byte.cast_signed()))
                    .collect(),
            )
            .unwrap()
        })
        .collect();
    let (rows, queries) = vectors.split_at(vectors.len() - queries);

    let spec = IndexSpec {
        dim: Dim::new(dim).unwrap(),
        metric,
        options: IndexOptions::default(),
        include: 0,
    };
    let mut writer = Writer::new(spec).unwrap();
    let start = Instant::now();
    for (id, row) in rows.iter().enumerate() {
        let change = RowChange::Upsert {
            old_key: None,
            key: RowKey::from_parts([&(id as u64).to_be_bytes()[..]]),
            vector: VectorChange::Set(row.clone()),
            include: vec![],
        };
        writer.apply(change).unwrap();
    }
    let snapshot = writer.publish(Lsn::new(1));
    let stored = start.elapsed();
    while snapshot.stats().unlinked > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let built = start.elapsed();
    let stats = snapshot.stats();
    println!(
        "{} rows × {dim} {}: stored in {:.2} s, linked after {:.2} s, {} bytes a row",
        rows.len(),
        metric.name(),
        stored.as_secs_f64(),
        built.as_secs_f64(),
        stats.memory_bytes / stats.live
    );

    let start = Instant::now();
    let truth: Vec<HashSet<RowId>> = queries
        .iter()
        .map(|query| {
            snapshot
                .search_exact(query, K)
                .unwrap()
                .neighbors
                .iter()
                .map(|n| n.row)
                .collect()
        })
        .collect();
    println!(
        "exact scan: {:.0} µs/query",
        start.elapsed().as_secs_f64() * 1e6 / queries.len() as f64
    );

    println!(
        "{:>6} {:>10} {:>10} {:>16}",
        "ef", "recall@10", "µs/query", "distances/query"
    );
    for ef in [
        10, 16, 24, 32, 40, 48, DEFAULT_EF, 80, 96, 128, 192, 256, 400,
    ] {
        let (mut hits, mut distances) = (0, 0);
        let (mut best, mut best_cpu) = (Duration::MAX, Duration::MAX);
        for _ in 0..7 {
            (hits, distances) = (0, 0);
            let (start, cpu) = (Instant::now(), cpu_time());
            let found: Vec<_> = queries
                .iter()
                .map(|query| snapshot.search(query, K, ef).unwrap())
                .collect();
            best = best.min(start.elapsed());
            best_cpu = best_cpu.min(cpu_time().saturating_sub(cpu));
            for (found, truth) in found.iter().zip(&truth) {
                hits += found
                    .neighbors
                    .iter()
                    .filter(|n| truth.contains(&n.row))
                    .count();
                distances += found.distances;
            }
        }
        println!(
            "{ef:>6} {:>10.4} {:>10.1} {:>10.1} {:>16.0}",
            hits as f64 / (K * queries.len()) as f64,
            best.as_secs_f64() * 1e6 / queries.len() as f64,
            best_cpu.as_secs_f64() * 1e6 / queries.len() as f64,
            distances as f64 / queries.len() as f64
        );
    }
}
