//! Upserts at a fixed rate, searches at their own fixed rate, probes of how soon a commit is found → latencies of each.
//!
//! `benches/upserts.py` runs it and prints its figures. Arrivals keep to their schedule whatever the server does, and a
//! latency is counted from the scheduled moment, so that a stall costs all who would have come meanwhile.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::error::Error;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Searches that may be under way at once.
const SEARCHERS: usize = 8;
/// Between two probes.
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// The probe's row: outside the keys that are replaced.
const PROBE: i32 = -1;
/// Keys that Rektor proposes for the ten nearest.
const PROPOSED: usize = 13;

/// What is to be done; one JSON argument.
#[derive(Deserialize)]
struct Task {
    direct: String,
    rektor: String,
    table: String,
    operator: String,
    /// Raw little-endian f32, rows × dimensions.
    vectors: String,
    queries: String,
    dimensions: usize,
    /// Keys in the order in which they are replaced, raw little-endian u32, and the vector of each.
    keys: String,
    values: String,
    /// Upserts a second; 0 as fast as they are taken.
    writes: f64,
    /// Searches a second; 0 as fast as they are answered.
    searches: f64,
    /// Without keys, the end.
    seconds: f64,
    /// Unless 0, searches are only what PostgreSQL does of one: it fetches rows by key, of so many, as Rektor has it do,
    /// without Rektor. No probes.
    fetch: usize,
}

#[derive(Default, Serialize)]
struct Outcome {
    seconds: f64,
    written: usize,
    searched: usize,
    search_ms: Percentiles,
    found_ms: Percentiles,
    late_probes: usize,
}

#[derive(Default, Serialize)]
struct Percentiles {
    p50: f64,
    p95: f64,
    p99: f64,
    most: f64,
}

impl Percentiles {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let Some(last) = values.len().checked_sub(1) else {
            return Self::default();
        };
        let at = |per_mille: usize| values[last * per_mille / 1000];
        Self {
            p50: at(500),
            p95: at(950),
            p99: at(990),
            most: at(1000),
        }
    }
}

/// A vector in pgvector's binary form, whatever OID the type has.
#[derive(Debug)]
struct Vector<'a>(&'a [f32]);

impl ToSql for Vector<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_u16(u16::try_from(self.0.len())?);
        out.put_u16(0);
        self.0.iter().for_each(|x| out.put_f32(*x));
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The whole of it only once: there may be a million vectors.
fn floats(path: &str) -> Vec<f32> {
    let mut file = std::fs::File::open(path).unwrap();
    let bytes = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut floats = Vec::with_capacity(bytes / 4);
    let mut part = vec![0; 1 << 20];
    while floats.len() < bytes / 4 {
        let most = part.len().min(bytes - floats.len() * 4);
        file.read_exact(&mut part[..most]).unwrap();
        let (words, _) = part[..most].as_chunks::<4>();
        floats.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
    }
    floats
}

fn numbers(path: &str) -> Vec<u32> {
    let words = std::fs::read(path).unwrap();
    let (words, _) = words.as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// A connection on a runtime of the calling thread: its timers are the thread's own sleeps, exact to some 50 µs.
fn connect(url: &str) -> (Runtime, Client) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (client, connection) = runtime
        .block_on(tokio_postgres::connect(url, NoTls))
        .unwrap();
    runtime.spawn(async move { connection.await.unwrap() });
    (runtime, client)
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Moment of the n-th arrival; now where there is no rate.
fn arrival(started: Instant, n: usize, rate: f64) -> Instant {
    if rate == 0.0 {
        return Instant::now();
    }
    started + Duration::from_secs_f64(f64::from(u32::try_from(n).unwrap()) / rate)
}

/// Replaces the keys in their order, each in a transaction of its own; sets `over` at the end.
fn write(task: &Task, vectors: &[f32], started: Instant, over: &AtomicBool) -> usize {
    let (keys, values) = (numbers(&task.keys), numbers(&task.values));
    let (runtime, client) = connect(&task.direct);
    let sql = format!(
        "insert into {} (id, v) values ($1, $2) on conflict (id) do update set v = excluded.v",
        task.table
    );
    let statement = runtime.block_on(client.prepare(&sql)).unwrap();
    // What falls due together is sent together: one round trip for each millisecond's.
    let mut next = 0;
    while next < keys.len() {
        sleep_until(arrival(started, next, task.writes));
        let due = match task.writes {
            0.0 => next + 32,
            rate => {
                next + 1
                    + whole(started.elapsed().as_secs_f64() * rate)
                        .saturating_sub(next + 1)
                        .min(64)
            }
        };
        let due = due.min(keys.len());
        let batch: Vec<(i32, Vector<'_>)> = (next..due)
            .map(|n| {
                let value = values[n] as usize * task.dimensions;
                let key = i32::try_from(keys[n]).unwrap();
                (key, Vector(&vectors[value..value + task.dimensions]))
            })
            .collect();
        let parameters: Vec<[&(dyn ToSql + Sync); 2]> = batch
            .iter()
            .map(|(key, vector)| [key as _, vector as _])
            .collect();
        let running = parameters
            .iter()
            .map(|both| client.execute(&statement, &both[..]));
        runtime
            .block_on(futures_util::future::try_join_all(running))
            .unwrap();
        next = due;
    }
    over.store(true, Ordering::Relaxed);
    keys.len()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(x: f64) -> usize {
    x as usize
}

/// Searches as they arrive, together with its fellows.
fn search(
    task: &Task,
    queries: &[f32],
    started: Instant,
    next: &AtomicUsize,
    over: &AtomicBool,
) -> Vec<f64> {
    let fetches = task.fetch > 0;
    let url = if fetches { &task.direct } else { &task.rektor };
    let (runtime, client) = connect(url);
    let (table, operator) = (&task.table, &task.operator);
    let sql = if fetches {
        format!("select id from {table} where id = any($2) order by (v {operator} $1) + 0 limit 10")
    } else {
        format!("select id from {table} order by v {operator} $1 limit 10")
    };
    let statement = runtime.block_on(client.prepare(&sql)).unwrap();
    let (queries, mut latencies) = (queries.chunks_exact(task.dimensions), Vec::new());
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let moment = arrival(started, n, task.searches);
        sleep_until(moment);
        if over.load(Ordering::Relaxed) {
            return latencies;
        }
        let query = Vector(queries.clone().nth(n % queries.len()).unwrap());
        let keys = keys_of(n, task.fetch);
        let both: [&(dyn ToSql + Sync); 2] = [&query, &keys];
        let parameters = if fetches { &both[..] } else { &both[..1] };
        let found = runtime
            .block_on(client.query(&statement, parameters))
            .unwrap();
        assert_eq!(found.len(), 10, "a short answer");
        latencies.push(milliseconds(moment));
    }
}

/// Different keys, spread over the table as the nearest rows of a query are.
fn keys_of(n: usize, rows: usize) -> Vec<i32> {
    let rows = rows.max(1);
    let first = n.wrapping_mul(2_654_435_761) % rows;
    let step = (rows / PROPOSED).max(1);
    let key = |i| i32::try_from((first + i * step) % rows).unwrap();
    (0..PROPOSED).map(key).collect()
}

/// Commits a row and at once asks for it, again and again; latencies, and how many answers did not have it in time.
fn probe(task: &Task, queries: &[f32], over: &AtomicBool) -> (Vec<f64>, usize) {
    let ((writing, writer), (asking, asker)) = (connect(&task.direct), connect(&task.rektor));
    let upsert = format!(
        "insert into {} (id, v) values ($1, $2) on conflict (id) do update set v = excluded.v",
        task.table
    );
    let upsert = writing.block_on(writer.prepare(&upsert)).unwrap();
    let nearest = format!(
        "select id from {} order by v {} $1 limit 1",
        task.table, task.operator
    );
    let nearest = asking.block_on(asker.prepare(&nearest)).unwrap();
    let (mut latencies, mut missed) = (Vec::new(), 0);
    for query in queries.chunks_exact(task.dimensions).cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        writing
            .block_on(writer.execute(&upsert, &[&PROBE, &Vector(query)]))
            .unwrap();
        let committed = Instant::now();
        let position = writing
            .block_on(writer.simple_query("select pg_current_wal_lsn()"))
            .unwrap();
        let position = position.iter().find_map(|message| {
            let SimpleQueryMessage::Row(row) = message else {
                return None;
            };
            row.get(0).map(str::to_owned)
        });
        let set = format!("set rektor.min_lsn = '{}'", position.unwrap());
        asking.block_on(asker.batch_execute(&set)).unwrap();
        let rows = asking
            .block_on(asker.query(&nearest, &[&Vector(query)]))
            .unwrap();
        latencies.push(milliseconds(committed));
        if rows.first().map(|row| row.get::<_, i32>(0)) != Some(PROBE) {
            missed += 1;
        }
        std::thread::sleep(PROBE_PAUSE);
    }
    (latencies, missed)
}

fn main() {
    let argument = std::env::args()
        .skip(1)
        .find(|argument| argument != "--bench");
    let Some(task) = argument.and_then(|text| serde_json::from_str::<Task>(&text).ok()) else {
        println!("usage: upserts TASK, as benches/upserts.py gives it");
        return;
    };
    let (vectors, queries) = (floats(&task.vectors), floats(&task.queries));
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let started = Instant::now() + Duration::from_millis(500); // all are connected by then
    let mut outcome = Outcome::default();
    std::thread::scope(|scope| {
        let searchers: Vec<_> = (0..SEARCHERS)
            .map(|_| scope.spawn(|| search(&task, &queries, started, &next, &over)))
            .collect();
        if task.keys.is_empty() {
            sleep_until(started + Duration::from_secs_f64(task.seconds));
            over.store(true, Ordering::Relaxed);
        } else {
            let probes = (task.fetch == 0).then(|| scope.spawn(|| probe(&task, &queries, &over)));
            outcome.written = write(&task, &vectors, started, &over);
            if let Some(probes) = probes {
                let (found, missed) = probes.join().unwrap();
                (outcome.found_ms, outcome.late_probes) = (Percentiles::of(found), missed);
            }
        }
        let latencies: Vec<f64> = searchers
            .into_iter()
            .flat_map(|each| each.join().unwrap())
            .collect();
        outcome.searched = latencies.len();
        outcome.search_ms = Percentiles::of(latencies);
    });
    outcome.seconds = started.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&outcome).unwrap());
}
