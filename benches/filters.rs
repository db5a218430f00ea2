//! Filtered searches of the engine alone, in this process: recall and CPU time of each filter beside the search without one.
//! `cargo bench --bench filters -- DIR [METHOD]`, where DIR holds `vectors.i8` (rows × 384 signed bytes) and METHOD is `hnsw`
//! (which weighs 64 candidates), `ivf` or a factory string (what finds .95). The filters keep 100 % to 0.01 % of the rows:
//! evenly, near the queries, and far from them.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    missing_docs
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rektor::catalog::{Comparison, Factory, IndexOptions, Method, RowKey, ValueKind};
use rektor::index::{
    ColumnChange, Constant, DEFAULT_RECALL, Effort, Filter, Found, IndexSpec, RowChange, Snapshot,
    VectorChange, Writer,
};
use rektor::lsn::Lsn;
use rektor::vector::{Dim, Metric, Vector};

const DIMENSIONS: usize = 384;
const SHARES: [f64; 10] = [1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001, 0.0001];
/// Rows asked for, as a session asks for LIMIT 10; the nearest 10 count.
const ASKED: usize = 13;
const K: usize = 10;
/// Queries, the nearest held-out rows to one of them, so that a filter can follow them or avoid them.
const QUERIES: usize = 150;
/// Held out: every so many rows.
const HELD_OUT: usize = 60;
/// Blocks of all queries, in turn with the filter and without: the kernel counts CPU time in ticks, so their sum counts.
const ROUNDS: usize = 8;

struct Data {
    effort: Effort,
    snapshot: Arc<Snapshot>,
    rows: Vec<Vec<f32>>,
    /// Of each query to each row.
    distances: Vec<Vec<f64>>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut arguments = arguments.by_ref().filter(|argument| argument != "--bench");
    let Some(folder) = arguments.next() else {
        println!("usage: filters DIR [METHOD], with vectors.i8");
        return;
    };
    let mut options = IndexOptions::default();
    let method = arguments.next().unwrap_or("hnsw".into());
    let effort = match method.as_str() {
        "hnsw" => Effort::Candidates(64),
        _ => Effort::Recall(DEFAULT_RECALL),
    };
    match method.as_str() {
        "hnsw" => {}
        "ivf" => options.method = Method::Ivf,
        factory => {
            options.method = Method::Factory;
            options.factory = Some(Factory::new(factory).unwrap());
        }
    }
    let bytes = std::fs::read(PathBuf::from(folder).join("vectors.i8")).unwrap();
    let all: Vec<Vec<f32>> = bytes
        .chunks_exact(DIMENSIONS)
        .map(|row| row.iter().map(|x| f32::from(x.cast_signed())).collect())
        .collect();
    let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let anchor = all[0].clone();
    let (mut queries, mut rows) = (Vec::new(), Vec::new());
    for (number, row) in all.into_iter().enumerate() {
        match number % HELD_OUT {
            0 => queries.push(row),
            _ => rows.push(row),
        }
    }
    queries.sort_by(|a, b| dot(b, &anchor).total_cmp(&dot(a, &anchor)));
    queries.truncate(QUERIES);
    let even = |number: usize| (number * 7_919 % 1_000_003) as f32;
    let values = [
        (0..rows.len()).map(even).collect::<Vec<f32>>(),
        rows.iter().map(|row| dot(row, &anchor)).collect(),
    ];
    let data = build(rows, &values, &queries, options, effort);
    println!(
        "{} rows, {} candidates",
        data.rows.len(),
        data.snapshot.candidates(effort, ASKED)
    );
    for (label, column, upwards) in [("even", 0, true), ("near", 1, false), ("far", 1, true)] {
        for share in SHARES {
            let mut sorted = values[column].clone();
            sorted.sort_by(f32::total_cmp);
            let count = ((data.rows.len() as f64 * share) as usize).clamp(1, data.rows.len());
            let bound = sorted[if upwards {
                count - 1
            } else {
                data.rows.len() - count
            }];
            let comparison = if upwards {
                Comparison::AtMost
            } else {
                Comparison::AtLeast
            };
            let mut filter = Filter::default();
            let constant = Constant::Float(bound.into());
            filter.add(
                column,
                vec![constant.range(ValueKind::Float4, comparison).unwrap()],
            );
            let of = &values[column];
            let meets = |row: usize| {
                if upwards {
                    of[row] <= bound
                } else {
                    of[row] >= bound
                }
            };
            let (took, base, recall) = measured(&data, &queries, &filter, &meets);
            let cost = data
                .snapshot
                .filter_cost(ASKED, data.effort, &filter)
                .unwrap();
            println!(
                "{label:>5} {:>8.2} %  recall {recall:.4}  {took:7.1} µs  {:5.2} × unfiltered  {}",
                share * 100.0,
                took / base,
                if cost.exact { "compared" } else { "walked" }
            );
        }
    }
}

fn build(
    rows: Vec<Vec<f32>>,
    values: &[Vec<f32>; 2],
    queries: &[Vec<f32>],
    options: IndexOptions,
    effort: Effort,
) -> Data {
    let spec = IndexSpec {
        dim: Dim::new(DIMENSIONS).unwrap(),
        metric: Metric::Cosine,
        options,
        include: 2,
    };
    let mut writer = Writer::new(spec)
        .unwrap()
        .filtered_on([Some(ValueKind::Float4.into()); 2]);
    for (number, row) in rows.iter().enumerate() {
        let id = u32::try_from(number).unwrap();
        let change = RowChange::Upsert {
            old_key: None,
            key: RowKey::from_parts([&id.to_be_bytes()[..]]),
            vector: VectorChange::Set(Vector::new(row.clone()).unwrap()),
            include: values
                .iter()
                .map(|values| ColumnChange::Set(values[number].to_be_bytes().into()))
                .collect(),
        };
        writer.apply(change).unwrap();
        if number % 16_384 == 0 {
            writer.publish(Lsn::new(number as u64));
        }
    }
    let mut snapshot = writer.publish(Lsn::new(u64::MAX));
    let estimated = |snapshot: &Snapshot| snapshot.dial().recall_estimated.is_some();
    while snapshot.stats().unlinked > 0 || !estimated(&snapshot) || writer.is_rebuilt() {
        std::thread::sleep(Duration::from_millis(5));
        snapshot = writer.publish(Lsn::new(u64::MAX));
    }
    let distance = |query: &[f32]| {
        let distances = rows.iter().map(|row| Metric::Cosine.distance(query, row));
        distances.collect()
    };
    Data {
        effort,
        snapshot,
        distances: queries.iter().map(|query| distance(query)).collect(),
        rows,
    }
}

/// Microseconds of CPU a query with the filter and without, and recall with it.
fn measured(
    data: &Data,
    queries: &[Vec<f32>],
    filter: &Filter,
    meets: &dyn Fn(usize) -> bool,
) -> (f64, f64, f64) {
    let vectors: Vec<Vector> = queries
        .iter()
        .map(|query| Vector::new(query.clone()).unwrap())
        .collect();
    let searched = |filter: &Filter| {
        let start = cpu_time();
        let search = |query| {
            data.snapshot
                .search_filtered(query, ASKED, data.effort, filter)
        };
        let found: Vec<Found> = vectors.iter().map(|query| search(query).unwrap()).collect();
        ((cpu_time() - start).as_secs_f64() * 1e6, found)
    };
    let (mut with, mut without) = (0.0, 0.0);
    let mut found = Vec::new();
    for _ in 0..ROUNDS {
        without += searched(&Filter::default()).0;
        let (took, answers) = searched(filter);
        with += took;
        found = answers;
    }
    let count = (ROUNDS * queries.len()) as f64;
    let (mut hits, mut wanted) = (0, 0);
    for (all, found) in data.distances.iter().zip(&found) {
        let mut distances: Vec<f64> = (0..data.rows.len())
            .filter(|row| meets(*row))
            .map(|row| all[row])
            .collect();
        let expected = distances.len().min(K);
        assert!(
            found.neighbors.len() >= distances.len().min(ASKED),
            "too few"
        );
        if expected == 0 {
            continue;
        }
        let (_, last, _) = distances.select_nth_unstable_by(expected - 1, f64::total_cmp);
        let last = *last + 1e-6;
        wanted += expected;
        hits += found
            .neighbors
            .iter()
            .take(expected)
            .filter(|near| f64::from(near.distance) <= last)
            .count();
    }
    let recall = hits as f64 / wanted as f64;
    (with / count, without / count, recall)
}

/// What this thread has computed so far.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}
