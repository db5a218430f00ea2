//! Vectors for exact comparison in memory against the same in mapped files, over one graph in one process, in turn: cost of
//! a search while the pages are in memory, and just after all were taken away; what loading and replacing rows takes, and
//! writes to disk.
//! `cargo bench --bench mapped -- [PACKAGES [FOLDER]]`, PACKAGES with `vectors.i8` (rows × 384 signed bytes), FOLDER on the
//! disk to measure. Also measured: 768 synthetic dimensions.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs,
    unsafe_code
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rektor::catalog::{IndexOptions, RowKey};
use rektor::index::{
    GraphImage, IndexSpec, Loader, Memory, Part, RowChange, Snapshot, VectorChange, Writer,
};
use rektor::lsn::Lsn;
use rektor::store::MappedFiles;
use rektor::vector::{Dim, Metric, Vector};
use rustix::mm::Advice;

const QUERIES: usize = 500;
const SYNTHETIC_ROWS: usize = 60_000;
const EFFORTS: [usize; 4] = [16, 40, 64, 160];
/// Times that both are measured, in turn, a block of queries each.
const ROUNDS: usize = 10;
const BLOCK: usize = 100;
const K: usize = 10;

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let packages = arguments.next();
    let folder = arguments.next().map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mapped"),
        PathBuf::from,
    );
    if let Some(packages) = packages {
        let bytes = std::fs::read(Path::new(&packages).join("vectors.i8")).unwrap();
        let rows = bytes.chunks_exact(384).map(|row| {
            let row = row.iter().map(|x| f32::from(x.cast_signed()) * 0.001_573);
            row.collect()
        });
        compare("packages", rows.collect(), &folder);
    }
    compare(
        "synthetic",
        synthetic(SYNTHETIC_ROWS + QUERIES, 768),
        &folder,
    );
}

/// Around 1,000 centres.
fn synthetic(count: usize, dim: usize) -> Vec<Vec<f32>> {
    let mut state = 1_u64;
    let mut normal = move || {
        let sum: f32 = (0..4)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 24) as f32
            })
            .sum();
        (sum - 2.0) * 1.73
    };
    let centres: Vec<Vec<f32>> = (0..1000)
        .map(|_| (0..dim).map(|_| normal()).collect())
        .collect();
    let row = |number: usize| {
        centres[number * 7919 % 1000]
            .iter()
            .map(|x| x + 0.4 * normal())
            .collect()
    };
    (0..count).map(row).collect()
}

fn compare(name: &str, mut rows: Vec<Vec<f32>>, folder: &Path) {
    let queries = rows.split_off(rows.len() - QUERIES);
    let queries: Vec<Vector> = queries
        .into_iter()
        .map(|row| Vector::new(row).unwrap())
        .collect();
    let spec = IndexSpec {
        dim: Dim::new(rows[0].len()).unwrap(),
        metric: Metric::Cosine,
        options: IndexOptions::default(),
        include: 0,
    };
    let graph = graph(spec, &rows);
    println!("{name}: {} rows × {}, k = {K}", rows.len(), spec.dim.get());
    let files = MappedFiles::open(folder).unwrap();
    let (mut one, memory) = load("memory", spec, &graph, &rows, &Memory::unlimited());
    let (mut two, mapped) = load(
        "mapped",
        spec,
        &graph,
        &rows,
        &Memory::new(None, Some(Box::new(files))),
    );
    for effort in EFFORTS {
        hot([&memory, &mapped], &queries, effort);
    }
    for effort in EFFORTS {
        cold([&memory, &mapped], &queries, effort, folder);
    }
    drop((memory, mapped));
    for shift in 1..=2 {
        replace("memory", &mut one, &rows, shift);
        replace("mapped", &mut two, &rows, shift);
    }
}

/// Every row gets another's vector, in no order, a hundred rows a transaction.
fn replace(name: &str, writer: &mut Writer, rows: &[Vec<f32>], shift: usize) {
    let (written, start) = (written_bytes(), Instant::now());
    let mut took = Duration::ZERO;
    for number in 0..rows.len() {
        let number = number * 40_503 % rows.len();
        let row = &rows[(number + shift) % rows.len()];
        let change = RowChange::Upsert {
            old_key: None,
            key: key(number),
            vector: VectorChange::Set(Vector::new(row.clone()).unwrap()),
            include: vec![],
        };
        let one = Instant::now();
        writer.apply(change).unwrap();
        took += one.elapsed();
        if number.is_multiple_of(100) {
            writer.publish(Lsn::new(2));
        }
    }
    println!(
        "  {name}: rows replaced in {:.1} s, writing each {:.2} µs, dirtied on disk {:.0} bytes a row",
        start.elapsed().as_secs_f64(),
        took.as_secs_f64() * 1e6 / rows.len() as f64,
        (written_bytes() - written) as f64 / rows.len() as f64,
    );
}

/// The graph of these rows, linked as ever.
fn graph(spec: IndexSpec, rows: &[Vec<f32>]) -> GraphImage {
    let mut writer = Writer::new(spec).unwrap();
    for (number, row) in rows.iter().enumerate() {
        let change = RowChange::Upsert {
            old_key: None,
            key: key(number),
            vector: VectorChange::Set(Vector::new(row.clone()).unwrap()),
            include: vec![],
        };
        writer.apply(change).unwrap();
    }
    let snapshot = writer.publish(Lsn::new(1));
    while snapshot.stats().unlinked > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut bytes = Vec::new();
    snapshot.graph().unwrap().write(&mut bytes).unwrap();
    GraphImage::read(&bytes, &spec).unwrap()
}

fn key(number: usize) -> RowKey {
    RowKey::from_parts([&u32::try_from(number).unwrap().to_be_bytes()[..]])
}

fn load(
    name: &str,
    spec: IndexSpec,
    graph: &GraphImage,
    rows: &[Vec<f32>],
    memory: &Arc<Memory>,
) -> (Writer, Arc<Snapshot>) {
    let (written, start) = (written_bytes(), Instant::now());
    let mut loader = Loader::within(spec, Some(graph), memory).unwrap();
    for (number, row) in rows.iter().enumerate() {
        let place = rektor::index::Place::Row(u32::try_from(number).unwrap());
        let vector = Ok(Vector::new(row.clone()).unwrap());
        loader.row(place, &key(number), &vector, &[]).unwrap();
    }
    let took = start.elapsed();
    loader.adopt(graph).unwrap();
    let mut writer = loader.finish();
    let snapshot = writer.publish(Lsn::new(1));
    let parts = snapshot.stats().memory;
    let each = |bytes: u64| bytes as f64 / rows.len() as f64;
    println!(
        "  {name}: loaded at {:.2} µs a row; bytes a row: memory {:.0}, mapped {:.0}; dirtied on disk {:.0}",
        took.as_secs_f64() * 1e6 / rows.len() as f64,
        each(parts.total()),
        each(parts.of(Part::Mapped)),
        each(written_bytes() - written),
    );
    (writer, snapshot)
}

/// Each query's least time over all rounds, the two in turn.
fn hot(both: [&Snapshot; 2], queries: &[Vector], effort: usize) {
    let mut least = [vec![f64::MAX; queries.len()], vec![f64::MAX; queries.len()]];
    for round in 0..ROUNDS {
        for (block, some) in queries.chunks(BLOCK).enumerate() {
            for turn in 0..2 {
                let which = (turn + round + block) % 2;
                for (number, query) in some.iter().enumerate() {
                    let took = searched(both[which], query, effort);
                    let least = &mut least[which][block * BLOCK + number];
                    *least = least.min(took);
                }
            }
        }
    }
    for query in queries {
        let found = both.map(|one| one.search(query, K, effort).unwrap().neighbors);
        assert_eq!(found[0], found[1]);
    }
    let mean = least.map(|least| least.iter().sum::<f64>() / queries.len() as f64);
    println!(
        "  ef {effort:>3}, all in memory: {:.1} µs and mapped {:.1} µs, ratio {:.3}",
        mean[0],
        mean[1],
        mean[1] / mean[0]
    );
}

/// Each query once, after the system took away all mapped pages.
fn cold(both: [&Snapshot; 2], queries: &[Vector], effort: usize, folder: &Path) {
    let least: f64 = queries
        .iter()
        .map(|query| searched(both[0], query, effort))
        .sum();
    let held = resident();
    take_away(folder);
    let (before, left) = (major_faults(), resident());
    let took: Vec<f64> = queries
        .iter()
        .map(|query| searched(both[1], query, effort))
        .collect();
    let mut sorted = took.clone();
    sorted.sort_by(f64::total_cmp);
    let count = queries.len() as f64;
    println!(
        "  ef {effort:>3}, pages taken away ({:.0} MB → {:.0} MB): {:.0} µs in memory, mapped mean {:.0}, p50 {:.0}, p99 {:.0} µs, {:.1} pages read a search",
        held as f64 / 1e6,
        left as f64 / 1e6,
        least / count,
        took.iter().sum::<f64>() / count,
        sorted[took.len() / 2],
        sorted[took.len() * 99 / 100],
        (major_faults() - before) as f64 / count,
    );
}

fn searched(snapshot: &Snapshot, query: &Vector, effort: usize) -> f64 {
    let start = Instant::now();
    let found = snapshot.search(query, K, effort).unwrap();
    let took = start.elapsed().as_secs_f64() * 1e6;
    assert_eq!(found.neighbors.len(), K);
    took
}

/// Writes the files below the folder out and has the system reclaim their pages.
fn take_away(folder: &Path) {
    for descriptor in std::fs::read_dir("/proc/self/fd").unwrap() {
        let path = descriptor.unwrap().path();
        if std::fs::read_link(&path).is_ok_and(|target| target.starts_with(folder)) {
            File::open(&path).unwrap().sync_all().unwrap();
        }
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    for line in maps
        .lines()
        .filter(|line| line.contains(folder.to_str().unwrap()))
    {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|x| usize::from_str_radix(x, 16).unwrap());
        // SAFETY: the pages come back with the same content when they are read.
        unsafe {
            let place = std::ptr::with_exposed_provenance_mut(start);
            rustix::mm::madvise(place, end - start, Advice::LinuxPageOut).unwrap();
        }
    }
}

/// Bytes of files that are in this process's memory now.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssFile:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}

fn major_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap();
    fields.split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// What this process has dirtied so far, of which the system writes what is not overwritten or dropped before.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find(|line| line.starts_with("write_bytes:"));
    line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}
