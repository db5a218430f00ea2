//! The index engine alone, in this process, on one search thread: the Rektor row of `benches/peers.py`.
//! `engine DIR` builds an index of the vectors that `peers.py` prepared in DIR, says so in a line of JSON, and then, for
//! each effort on a line of its input, prints recall and cost of the held-out queries; on `many EFFORT
//! COUNT`, how many queries a second one call for so many of them answers, against a call for each. By hand:
//! `printf '%s\n' 32 64 'many 64 100' | cargo bench --bench engine -- target/bench/packages-1000`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs
)]

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rektor::catalog::{IndexOptions, Method, RowKey};
use rektor::index::{Effort, Filter, IndexSpec, RowChange, Snapshot, VectorChange, Writer};
use rektor::lsn::Lsn;
use rektor::vector::{Dim, Metric, Vector};
use serde_json::{Value, json};

/// The curve that is measured: candidates weighed.
const EFFORTS: [usize; 15] = [
    10, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 400, 600,
];
/// Queries before each measurement.
const WARM_UP: usize = 50;

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let Some(folder) = arguments.next() else {
        println!("usage: engine DIR [METHOD], DIR made by benches/peers.py");
        return;
    };
    let method = arguments
        .next()
        .map(|name| Method::from_name(&name).unwrap());
    let folder = PathBuf::from(folder);
    let meta = std::fs::read_to_string(folder.join("meta.json")).unwrap();
    let meta: Value = serde_json::from_str(&meta).unwrap();
    let number = |name: &str| usize::try_from(meta[name].as_u64().unwrap()).unwrap();
    let (dim, k) = (number("dim"), number("k"));
    let spec = IndexSpec {
        dim: Dim::new(dim).unwrap(),
        metric: Metric::Cosine,
        options: IndexOptions {
            method: method.unwrap_or_default(),
            m: u16::try_from(number("m")).unwrap(),
            ef_construction: u16::try_from(number("ef_construction")).unwrap(),
            ..IndexOptions::default()
        },
        include: 0,
    };
    let queries: Vec<Vector> = vectors(&folder.join("queries.f32"), dim).collect();
    let truth: Vec<HashSet<u32>> = std::fs::read(folder.join("truth.i32"))
        .unwrap()
        .chunks_exact(4 * k)
        .map(|ids| {
            ids.chunks_exact(4)
                .map(|id| u32::from_le_bytes(id.try_into().unwrap()))
                .collect()
        })
        .collect();

    let before = anonymous_bytes();
    let built = build(spec, &folder.join("base.f32"));
    let snapshot = &built.snapshot;
    let shown = json!({
        "efforts": EFFORTS,
        "build_s": built.linked.as_secs_f64(),
        "stored_s": built.stored.as_secs_f64(),
        "laid_out_s": built.laid_out.as_secs_f64(),
        "row_bytes": (anonymous_bytes() - before) / snapshot.stats().live,
        "accounted_bytes": snapshot.stats().memory.total() / snapshot.stats().live,
    });
    println!("{shown}");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let shown = match line.trim().strip_prefix("many ") {
            Some(many) => {
                let numbers: Vec<usize> = many.split(' ').map(|n| n.parse().unwrap()).collect();
                together(snapshot, &queries, k, numbers[0], numbers[1])
            }
            None => measured(snapshot, &queries, &truth, k, line.trim().parse().unwrap()),
        };
        println!("{shown}");
    }
}

/// The rows of a file of floats, read as they are wanted.
fn vectors(path: &Path, dim: usize) -> impl Iterator<Item = Vector> {
    let mut file = std::io::BufReader::new(File::open(path).unwrap());
    let mut bytes = vec![0; 4 * dim];
    std::iter::from_fn(move || {
        std::io::Read::read_exact(&mut file, &mut bytes).ok()?;
        let row = bytes
            .chunks_exact(4)
            .map(|x| f32::from_le_bytes(x.try_into().unwrap()));
        Some(Vector::new(row.collect()).unwrap())
    })
}

/// An index of all rows, its row numbers those of the file; how long until all were stored, all were linked, and all laid out.
struct Built {
    snapshot: std::sync::Arc<Snapshot>,
    stored: Duration,
    linked: Duration,
    laid_out: Duration,
    _writer: Writer,
}

fn build(spec: IndexSpec, path: &Path) -> Built {
    let mut writer = Writer::new(spec).unwrap();
    let start = Instant::now();
    let mut id = 0_u32;
    for vector in vectors(path, spec.dim.get()) {
        let change = RowChange::Upsert {
            old_key: None,
            key: RowKey::from_parts([&id.to_be_bytes()[..]]),
            vector: VectorChange::Set(vector),
            include: vec![],
        };
        writer.apply(change).unwrap();
        id += 1;
        if id.is_multiple_of(16_384) && spec.options.method == Method::Hnsw {
            writer.publish(Lsn::new(u64::from(id))); // so that linking begins; lists are trained with all rows
        }
    }
    let mut snapshot = writer.publish(Lsn::new(u64::MAX));
    let stored = start.elapsed();
    let mut linked = None;
    loop {
        let stats = snapshot.stats();
        if stats.unlinked == 0 {
            linked = linked.or(Some(start.elapsed()));
            if !stats.scattered {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
        if writer.is_rebuilt() {
            snapshot = writer.publish(Lsn::new(u64::MAX));
        }
    }
    let laid_out = start.elapsed();
    // What is no longer needed is freed by other threads.
    let mut held = u64::MAX;
    while snapshot.stats().memory.total() < held {
        held = snapshot.stats().memory.total();
        std::thread::sleep(Duration::from_millis(500));
    }
    Built {
        snapshot,
        stored,
        linked: linked.unwrap(),
        laid_out,
        _writer: writer,
    }
}

/// Recall and cost of searches of one effort.
fn measured(
    snapshot: &Snapshot,
    queries: &[Vector],
    truth: &[HashSet<u32>],
    k: usize,
    effort: usize,
) -> Value {
    for query in queries.iter().take(WARM_UP) {
        snapshot.search(query, k, effort).unwrap();
    }
    let mut took = Vec::with_capacity(queries.len());
    let mut found = Vec::with_capacity(queries.len());
    let cpu = cpu_time();
    for query in queries {
        let start = Instant::now();
        found.push(snapshot.search(query, k, effort).unwrap());
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let cpu = cpu_time() - cpu;
    let key = |row| {
        let id = RowKey::parts(snapshot.key(row).unwrap()).next().unwrap();
        u32::from_be_bytes(id.try_into().unwrap())
    };
    let hits: usize = found
        .iter()
        .zip(truth)
        .map(|(found, truth)| {
            found
                .neighbors
                .iter()
                .filter(|n| truth.contains(&key(n.row)))
                .count()
        })
        .sum();
    let count = queries.len() as f64;
    let distances: u64 = found.iter().map(|found| found.distances).sum();
    let mean = took.iter().sum::<f64>() / count;
    took.sort_by(f64::total_cmp);
    json!({
        "recall": hits as f64 / (count * k as f64),
        "cpu_us": cpu.as_secs_f64() * 1e6 / count,
        "us": mean,
        "p50_us": took[took.len() / 2],
        "p99_us": took[took.len() * 99 / 100],
        "distances": distances as f64 / count,
    })
}

/// How often each block of queries is searched for, by single calls and by one call, in turn.
const ROUNDS: usize = 12;

/// Queries a second of single calls, and of calls for many. For each block of queries the best of the rounds counts: others run
/// on this machine.
fn together(
    snapshot: &Snapshot,
    queries: &[Vector],
    k: usize,
    effort: usize,
    count: usize,
) -> Value {
    let (filter, effort) = (Filter::default(), Effort::Candidates(effort));
    let blocks: Vec<_> = queries.chunks_exact(count).collect();
    let mut best = vec![[Duration::MAX; 2]; blocks.len()];
    for _ in 0..ROUNDS {
        for (block, best) in blocks.iter().zip(&mut best) {
            let single = || {
                for query in *block {
                    snapshot.search_with(query, k, effort).unwrap();
                }
            };
            let many = || drop(snapshot.search_many(block, k, effort, &filter).unwrap());
            let ways: [&dyn Fn(); 2] = [&single, &many];
            for (way, best) in ways.iter().zip(best) {
                let start = Instant::now();
                way();
                *best = start.elapsed().min(*best);
            }
        }
    }
    let count = (blocks.len() * count) as f64;
    let rate = |way: usize| count / best.iter().map(|of| of[way].as_secs_f64()).sum::<f64>();
    let (single, many) = (rate(0), rate(1));
    json!({ "single_qps": single, "many_qps": many, "ratio": many / single })
}

/// What this thread has computed so far: the measure to trust on a machine that does other things as well.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap()
}

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kilobytes = status
        .split("RssAnon:")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next();
    kilobytes.unwrap().parse::<u64>().unwrap() * 1024
}
