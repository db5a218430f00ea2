//! Nothing lost, nothing invented, whatever happens: a seeded random schedule of writes, DDL and blows against the real process
//! and real servers; after each round every index equals its table, by key, vector and INCLUDE values.
//!
//! The blows: SIGKILL before or after the n-th fsync, write, rename, creation or removal of a file, acknowledgement, read of the
//! stream or of a copy, creation of a slot, start of the stream (`harness/faults.c`), also while it starts again, also with loss of
//! what was not synced; SIGTERM; SIGSTOP; PostgreSQL stopped fast and immediate; backends terminated, connections cut; a disk that
//! is full, broken or read-only for a moment; a slot dropped; stored files emptied, flipped, cut.
//!
//! The long run, all servers at once until there were so many kills in total:
//! `REKTOR_CHAOS_KILLS=1000 cargo test --release --test integration chaos::long -- --ignored --exact --nocapture`.
//! Replay: `REKTOR_CHAOS_SEED` (printed by each run), `REKTOR_CHAOS_ROUNDS`, with the test of that server. A schedule is replayed
//! exactly; what several writers do at once comes out a little differently each time.

mod blows;
mod compare;
mod ddl;
mod plan;
mod tables;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::faults::{Call, Faults};
use crate::harness::{Cluster, Database, Random, Rektor, Server, Wire, wait_for};
use compare::{Expected, as_restored, wait_caught_up, wait_stored};
use plan::{Loss, Plan};
use tables::{Shape, Table, Workload, forgivable};

/// Rounds of each server in an ordinary run of the tests.
const ROUNDS: usize = 24;
const SEED: usize = 20_261_122;
/// Writers at a time, and transactions of each in a round.
const WRITERS: usize = 3;
const TRANSACTIONS: usize = 12;

/// Longest that PostgreSQL may be away.
const LIMIT: Duration = Duration::from_secs(30);

/// What a run has done.
#[derive(Debug, Default)]
struct Tally {
    rounds: usize,
    kills: u64,
    copies: usize,
    slots: usize,
    /// Of the schedule's events, by name.
    events: BTreeMap<String, usize>,
    fired: BTreeMap<Call, u64>,
    calls: BTreeMap<Call, u64>,
    lost: u64,
    refused: u64,
    written: u64,
    /// Indexes made anew only so that a copy comes to its blow.
    provoked: usize,
}

/// A schedule under way.
struct Run<'a> {
    database: Database<'a>,
    rektor: Rektor<'a>,
    faults: Arc<Faults>,
    shape: Arc<Mutex<Shape>>,
    indexes: Vec<Expected>,
    seed: u64,
    tally: Tally,
}

impl<'a> Run<'a> {
    fn new(cluster: &'a Cluster, seed: u64) -> Self {
        let database = cluster.database();
        let faults = Arc::new(Faults::new());
        Rektor::setup(&database);
        let mut run = Self {
            rektor: Rektor::disturbed(&database, &faults),
            database,
            faults,
            shape: Arc::new(Mutex::new(Shape::FIRST)),
            indexes: Vec::new(),
            seed,
            tally: Tally::default(),
        };
        run.prepare();
        run
    }

    fn prepare(&mut self) {
        let server = self.database.cluster.server;
        let mut wire = self.database.connect();
        let mut workload = Workload::new(self.seed, server, &self.shape);
        for table in Table::ALL {
            let dimensions = Shape::FIRST.dimensions(table);
            wire.run(&table.definition(server, dimensions));
            wire.run(&workload.fill(table));
            let name = ddl::index_name(table);
            wire.run(&ddl::create(table, &name, table.class(), dimensions));
            self.indexes.push(Expected {
                name,
                table,
                class: table.class(),
            });
        }
        self.rektor.up();
        assert!(wait_caught_up(
            &mut self.rektor,
            &self.database,
            &self.indexes
        ));
        wait_stored(&self.rektor, &self.database);
    }

    fn round(&mut self, number: usize) {
        let mut dice = Random::new(
            self.seed
                .wrapping_add((number as u64).wrapping_mul(0x5851_F42D)),
        );
        let plan = Plan::choose(&mut dice, number);
        let logged = self.rektor.log().len();
        let (kills, provoked) = (self.tally.kills, self.tally.provoked);
        let started = Instant::now();
        self.faults.write_short(plan.short_writes);
        self.disturbed(&plan, &mut dice, number);
        self.start_again(&plan, &mut dice);
        assert!(wait_caught_up(
            &mut self.rektor,
            &self.database,
            &self.indexes
        ));
        if !plan.is_silent() {
            let agree = compare::as_told(&self.rektor, &self.indexes);
            agree.unwrap_or_else(|why| panic!("round {number}, {plan:?}: {why}"));
        }
        if plan.may_copy() {
            wait_stored(&self.rektor, &self.database);
        }
        if plan.ends_in_order {
            assert!(self.rektor.stop().success(), "SIGTERM is an ordinary end");
        } else {
            self.kill();
        }
        let shape = *self.shape.lock().unwrap();
        let agree = as_restored(&self.rektor, &self.indexes, shape, !plan.is_silent());
        agree.unwrap_or_else(|why| panic!("round {number}, {plan:?}: {why}"));
        let kills = usize::try_from(self.tally.kills - kills).unwrap();
        let wanted = 2 * kills + self.tally.provoked - provoked;
        self.count(&plan, logged, wanted, number);
        self.rektor.spawn();
        self.tally.rounds += 1;
        if std::env::var_os("REKTOR_CHAOS_KILLS").is_some() {
            eprintln!(
                "{:?} round {number}: {} kills in all, {} ms, {plan:?}",
                self.database.cluster.server,
                self.tally.kills,
                started.elapsed().as_millis()
            );
        }
    }

    /// Writers, DDL and a blow, all at once.
    fn disturbed(&mut self, plan: &Plan, dice: &mut Random, number: usize) {
        let (database, shape) = (self.database.clone(), Arc::clone(&self.shape));
        let seeds: Vec<u64> = (0..WRITERS).map(|_| dice.next()).collect();
        assert!(self.rektor.accepts(), "{}", self.rektor.log());
        let written: u64 = std::thread::scope(|scope| {
            let writers: Vec<_> = seeds
                .into_iter()
                .enumerate()
                .map(|(n, seed)| {
                    let huge = plan.huge.filter(|_| n == 0);
                    let (database, shape) = (&database, &*shape);
                    scope.spawn(move || write(database, shape, seed, huge))
                })
                .collect();
            self.act(plan, dice, number);
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .sum()
        });
        assert!(written > 0, "round {number}: no transaction succeeded");
        self.tally.written += written;
        self.provoke(plan, number);
    }

    /// What the log of the round may tell; its kills and provocations explain `wanted` copies.
    fn count(&mut self, plan: &Plan, logged: usize, wanted: usize, number: usize) {
        let log = &self.rektor.log()[logged..];
        let copies = log.matches(" copying ").count();
        let slots = log.matches("beginning with a new replication slot").count();
        assert!(!log.contains("panicked"), "round {number}, {plan:?}");
        if !plan.may_copy() {
            assert_eq!(copies, 0, "round {number} copied what it had: {plan:?}");
        }
        assert!(
            copies <= 6 + wanted,
            "round {number} made {copies} copies: {plan:?}\n{log}"
        );
        if plan.loss == Loss::Nothing {
            assert_eq!(slots, 0, "round {number} gave up its slot: {plan:?}");
        }
        self.tally.copies += copies;
        self.tally.slots += slots;
    }

    fn kill(&mut self) {
        self.rektor.kill();
        self.tally.kills += 1;
    }

    /// Takes note of a death by the rule.
    fn killed(&mut self) -> bool {
        let Some(status) = self.rektor.ended() else {
            return false;
        };
        assert_eq!(status.signal(), Some(9), "it ended by itself: {status}");
        self.tally.kills += 1;
        true
    }

    fn end(mut self) -> Tally {
        assert!(self.rektor.accepts());
        assert!(self.rektor.stop().success());
        for call in Call::ALL {
            *self.tally.fired.entry(call).or_default() += self.faults.fired(call);
            *self.tally.calls.entry(call).or_default() += self.faults.calls(call);
        }
        self.tally.lost = self.faults.lost();
        self.tally.refused = self.faults.refused();
        self.tally
    }
}

/// One writer's transactions; how many succeeded. Goes on when the server comes back.
fn write(database: &Database<'_>, shape: &Mutex<Shape>, seed: u64, huge: Option<&str>) -> u64 {
    let server = database.cluster.server;
    let mut workload = Workload::new(seed, server, shape);
    let parameters = [("user", "postgres"), ("database", &database.name[..])];
    let mut succeeded = 0;
    let mut wire: Option<Wire> = None;
    for n in 0..TRANSACTIONS {
        let sql = match huge {
            Some(end) if n == TRANSACTIONS / 2 => workload.huge(end),
            Some(_) | None => workload.transaction(),
        };
        // PostgreSQL may be away for a moment
        let mut connected = wire.take().unwrap_or_else(|| {
            wait_for("the server to take connections", LIMIT, || {
                let reached = Wire::reach(database.cluster.port, &parameters, "");
                reached.ok().and_then(Result::ok)
            })
        });
        match connected.attempt(&sql) {
            Ok(Ok(())) => succeeded += 1,
            Ok(Err(state)) if forgivable(&state) => {
                if connected.attempt("rollback").is_err() {
                    continue;
                }
            }
            Ok(Err(state)) => panic!("{state}: {}", &sql[..sql.len().min(1000)]),
            Err(_) => continue,
        }
        wire = Some(connected);
    }
    succeeded
}

fn from_environment(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().expect("a number"))
}

fn run(server: Server, seed: usize, rounds: usize, kills: u64) -> Tally {
    eprintln!("chaos on {server:?}: REKTOR_CHAOS_SEED={seed}"); // shown when the test fails
    let cluster = Cluster::start(server);
    let mut run = Run::new(&cluster, seed as u64);
    let mut number = 0;
    while number < rounds || run.tally.kills < kills {
        run.round(number);
        number += 1;
    }
    run.end()
}

fn short(server: Server) {
    let seed = from_environment("REKTOR_CHAOS_SEED", SEED + server as usize);
    let tally = run(
        server,
        seed,
        from_environment("REKTOR_CHAOS_ROUNDS", ROUNDS),
        0,
    );
    eprintln!("{tally:#?}");
}

#[test]
fn on_plain() {
    short(Server::Plain);
}

#[test]
fn on_16() {
    short(Server::Pg16);
}

#[test]
fn on_18() {
    short(Server::Pg18);
}

/// See the top of this file.
#[test]
#[ignore = "half an hour"]
fn long() {
    let kills = from_environment("REKTOR_CHAOS_KILLS", 1000) as u64;
    let seed = from_environment("REKTOR_CHAOS_SEED", SEED);
    let started = Instant::now();
    let share = kills.div_ceil(Server::ALL.len() as u64);
    let tallies: Vec<(Server, Tally)> = std::thread::scope(|scope| {
        let runs: Vec<_> = Server::ALL
            .into_iter()
            .enumerate()
            .map(|(n, server)| scope.spawn(move || (server, run(server, seed + n, 0, share))))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let mut total = 0;
    for (server, tally) in tallies {
        total += tally.kills;
        println!("{server:?}: {tally:#?}");
        for (call, fired) in &tally.fired {
            assert!(*fired > 0, "no blow at {call:?} on {server:?}");
        }
    }
    println!("{total} kills in {} s", started.elapsed().as_secs());
}
