//! Nothing lost, nothing invented: a seeded random workload on indexed tables, and at points on the way the index holds
//! exactly the table's rows. Replay: `REKTOR_TEST_SEED`, `REKTOR_TEST_OPERATIONS`.

mod operations;
mod verify;

use std::time::{Duration, Instant};

use crate::harness::{Cluster, Database, Random, Rektor, Server, Wire};
use operations::{Table, Workload};

const OPERATIONS: usize = 20_000;
const CHECKS: usize = 20;

fn from_environment(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// A seed that the test prints when it fails.
fn seed(test: &str, server: Server) -> u64 {
    let default = 20_261_122;
    let seed = u64::try_from(from_environment("REKTOR_TEST_SEED", default)).unwrap();
    eprintln!("{test} on {server:?}: REKTOR_TEST_SEED={seed}"); // shown when the test fails
    seed
}

/// Creates the tables and their indexes, some filled before and some after.
fn prepare(rektor: &Rektor<'_>, workload: &mut Workload, wire: &mut Wire) {
    for (n, table) in Table::ALL.iter().enumerate() {
        wire.run(&table.definition(rektor.database.cluster.server));
        if n % 2 == 0 {
            for _ in 0..30 {
                wire.run(&workload.transaction(&[*table]));
            }
        }
        rektor.create_index(
            &table.index(rektor.database.cluster.server),
            table.index_name(),
        );
    }
}

/// Item: a workload through Rektor while it keeps up, checked twenty times.
fn holds_exactly_the_tables_rows(server: Server) {
    let database = server.shared().database();
    let rektor = Rektor::start(&database);
    let mut workload = Workload::new(seed("workload", server), server);
    let mut wire = rektor.connect();
    prepare(&rektor, &mut workload, &mut wire);
    let operations = from_environment("REKTOR_TEST_OPERATIONS", OPERATIONS);
    for check in 1..=CHECKS {
        while workload.operations < operations * check / CHECKS {
            let sql = workload.transaction(Table::ALL);
            wire.run(&sql);
        }
        verify::through_sql(
            &rektor,
            &mut workload.random,
            &format!("check {check} after {} operations", workload.operations),
        );
    }
    verify::after_the_end(rektor);
}

/// The same while Rektor is killed and PostgreSQL restarted in the middle.
fn survives_kills_and_restarts(server: Server) {
    let cluster = Cluster::start(server);
    let database = cluster.database();
    let mut rektor = Rektor::start(&database);
    let mut workload = Workload::new(seed("kills", server), server);
    let mut wire = database.connect(); // goes on while Rektor is away
    prepare(&rektor, &mut workload, &mut wire);
    let operations = from_environment("REKTOR_TEST_OPERATIONS", OPERATIONS);
    let mut dice = Random::new(workload.random.next());
    for check in 1..=CHECKS {
        let until = operations * check / CHECKS;
        let disturb_at = until - dice.below(operations / CHECKS - 1);
        let mut undisturbed = true;
        while workload.operations < until {
            let sql = workload.transaction(Table::ALL);
            wire.run(&sql);
            if undisturbed && workload.operations >= disturb_at {
                undisturbed = false;
                wire = disturb(check, &database, &mut rektor, &mut workload, wire);
            }
        }
        verify::through_sql(
            &rektor,
            &mut workload.random,
            &format!("check {check} after {} operations", workload.operations),
        );
    }
    verify::after_the_end(rektor);
}

/// In turn: Rektor killed and started at once, killed for a while, PostgreSQL stopped, PostgreSQL crashed, Rektor stopped.
fn disturb<'a>(
    check: usize,
    database: &Database<'a>,
    rektor: &mut Rektor<'a>,
    workload: &mut Workload,
    mut wire: Wire,
) -> Wire {
    match check % 5 {
        0 => {
            rektor.kill();
            rektor.up();
        }
        1 => {
            rektor.kill();
            for _ in 0..50 {
                wire.run(&workload.transaction(Table::ALL));
            }
            rektor.up();
        }
        2 => {
            database.cluster.down("fast");
            database.cluster.up();
            wire = database.connect();
        }
        3 => {
            database.cluster.down("immediate");
            database.cluster.up();
            wire = database.connect();
        }
        _ => {
            assert!(rektor.stop().success(), "SIGTERM is an ordinary end");
            rektor.up();
        }
    }
    wire
}

#[test]
fn holds_exactly_the_tables_rows_on_plain() {
    holds_exactly_the_tables_rows(Server::Plain);
}

#[test]
fn holds_exactly_the_tables_rows_on_16() {
    holds_exactly_the_tables_rows(Server::Pg16);
}

#[test]
fn holds_exactly_the_tables_rows_on_18() {
    holds_exactly_the_tables_rows(Server::Pg18);
}

#[test]
fn survives_kills_and_restarts_on_plain() {
    survives_kills_and_restarts(Server::Plain);
}

#[test]
fn survives_kills_and_restarts_on_16() {
    survives_kills_and_restarts(Server::Pg16);
}

#[test]
fn survives_kills_and_restarts_on_18() {
    survives_kills_and_restarts(Server::Pg18);
}

/// Stopping the primary is not delayed by Rektor, and an idle table does not hold its WAL.
#[test]
fn the_primary_is_safe() {
    let cluster = Cluster::start(Server::Pg18);
    let database = cluster.database();
    let rektor = Rektor::start(&database);
    let mut wire = rektor.connect();
    wire.run("create table idle (id int primary key, v vector(3)); insert into idle values (1, '[1,2,3]')");
    rektor.create_index(
        "create index idle_idx on idle using faiss (v vector_l2_ops)",
        "idle_idx",
    );
    // traffic that is none of Rektor's
    wire.run("create table busy (n int)");
    for _ in 0..20 {
        wire.run("insert into busy select generate_series(1, 2000)");
    }
    let lsn = wire.value("select pg_current_wal_lsn()");
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{lsn}' from pg_replication_slots where slot_name = '{}'",
        rektor.slot()
    );
    crate::harness::wait_for("the idle slot to move on", Duration::from_secs(60), || {
        (wire.value(&confirmed) == "t").then_some(())
    });
    drop(wire);
    let started = Instant::now();
    cluster.down("fast");
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "shutting the primary down took {:?}",
        started.elapsed()
    );
    cluster.up();
    let mut wire = database.connect();
    wire.run("insert into idle values (2, '[1,2,4]')");
    rektor.wait_ready("idle_idx");
    let mut wire = rektor.connect();
    rektor.catch_up(&mut wire);
    assert_eq!(
        wire.column("select id from idle order by v <-> '[1,2,4]' limit 1"),
        ["2"]
    );
}
