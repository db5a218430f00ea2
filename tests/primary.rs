//! What the primary has to bear: it stops when it is told to, keeps no WAL for us that we could have confirmed, gets rid of
//! us when we hang, and may even wait for us if it wants to.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Cluster, Database, Rektor, Server, Wire, signal, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// An indexed table `item (id, v)`, empty.
fn follow<'a>(database: &Database<'a>) -> Rektor<'a> {
    let mut wire = database.connect();
    let vector = database.cluster.server.vector_type(3);
    wire.run(&format!(
        "create table item (id bigint generated always as identity primary key, v {vector})"
    ));
    let rektor = Rektor::start(database);
    let sql = "select rektor.create_index('i', 'item', 'v', 'vector_l2_ops', options => '{\"dimensions\": 3}')";
    wire.run(sql);
    rektor.wait_ready("i");
    rektor
}

fn insert(server: Server, rows: usize) -> String {
    let vector = server.vector_text("1,2,3");
    format!("insert into item (v) select '{vector}' from generate_series(1, {rows})")
}

/// Waits until the index has as many rows as the table.
fn wait_equal(database: &Database<'_>, rektor: &Rektor<'_>) {
    let mut direct = database.connect();
    wait_for("the index to equal the table", LIMIT, || {
        let rows: f64 = direct.value("select count(*) from item").parse().unwrap();
        #[allow(clippy::float_cmp)] // counts
        let equal = rektor.metric("rektor_index_rows") == rows;
        equal.then_some(())
    });
}

/// A client that writes until `stop`, through restarts of the server.
fn write_on(database: &Database<'_>, stop: &AtomicBool, commits: &AtomicU64) {
    let statement = insert(database.cluster.server, 10);
    let port = database.cluster.port;
    let login = [("user", "postgres"), ("database", database.name.as_str())];
    while !stop.load(Ordering::Relaxed) {
        let Ok(Ok(mut wire)) = Wire::reach(port, &login, "") else {
            std::thread::sleep(std::time::Duration::from_millis(5)); // it is down, or on its way
            continue;
        };
        while !stop.load(Ordering::Relaxed) && matches!(wire.attempt(&statement), Ok(Ok(()))) {
            commits.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// PostgreSQL waits for a walsender until its client has confirmed everything.
#[test]
fn stopping_it_is_not_delayed() {
    for server in [Server::Plain, Server::Pg18] {
        let cluster = Cluster::start(server);
        let database = cluster.database();
        let rektor = follow(&database);
        let (stop, commits) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut seconds: Vec<f64> = Vec::new();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| write_on(&database, &stop, &commits));
            }
            for _ in 0..5 {
                let before = commits.load(Ordering::Relaxed);
                wait_for("writes", LIMIT, || {
                    (commits.load(Ordering::Relaxed) > before + 50).then_some(())
                });
                wait_for("the stream", LIMIT, || {
                    (rektor.metric("rektor_replication_streaming") > 0.5).then_some(())
                });
                let started = Instant::now();
                cluster.down("fast");
                seconds.push(started.elapsed().as_secs_f64());
                cluster.up();
            }
            stop.store(true, Ordering::Relaxed);
        });
        wait_equal(&database, &rektor);
        seconds.sort_by(f64::total_cmp);
        println!("{server:?}: stopped within {seconds:.2?} s");
        // The median, since a machine may be busy with something else; a walsender that waits for us is there each time, and
        // waits for its timeout, a minute.
        assert!(seconds[2] < 15.0, "{server:?} {seconds:?}");
    }
}

/// Writes `megabytes` of WAL to a table that is not published, and returns the most that Rektor's slot held meanwhile: of
/// what the walsender had read, what was not confirmed; of all that had been written; and what was kept on the disk for it.
fn write_elsewhere(database: &Database<'_>, rektor: &Rektor<'_>, megabytes: usize) -> [u64; 3] {
    let done = AtomicBool::new(false);
    let mut held = [0; 3];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut wire = database.connect();
            wire.run("drop table if exists elsewhere; create table elsewhere (filling text)");
            wire.run("alter table elsewhere alter filling set storage plain");
            for _ in 0..megabytes {
                wire.run(
                    "insert into elsewhere select repeat('x', 1000) from generate_series(1, 1000)",
                );
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut direct = database.connect();
        let sql = format!(
            "select (s.sent_lsn - p.confirmed_flush_lsn)::bigint, (pg_current_wal_lsn() - p.confirmed_flush_lsn)::bigint,
                 (pg_current_wal_lsn() - p.restart_lsn)::bigint
             from pg_replication_slots p join pg_stat_replication s on s.pid = p.active_pid where slot_name = '{}'",
            rektor.slot()
        );
        while !done.load(Ordering::Relaxed) {
            for row in direct.rows(&sql) {
                let number = |column: usize| -> u64 {
                    let text = row[column].as_deref().unwrap();
                    text.parse().unwrap_or(0) // the slot is ahead of the sample's first half
                };
                held = std::array::from_fn(|column| held[column].max(number(column)));
            }
            std::thread::sleep(std::time::Duration::from_millis(5)); // between samples
        }
    });
    held
}

fn wal_of_other_tables_is_confirmed(servers: &[Server], megabytes: usize, most: u64) {
    for server in servers.iter().copied() {
        let cluster = Cluster::start_with(server, "max_wal_size = 4GB");
        let database = cluster.database();
        let rektor = follow(&database);
        // Three times, since what is written while a busy machine leaves the walsender no time is kept.
        let is_confirmed = (0..3).any(|_| {
            let [unconfirmed, behind, kept] = write_elsewhere(&database, &rektor, megabytes);
            println!(
                "{server:?}: of {megabytes} MB at most {unconfirmed} bytes read and not confirmed, {behind} written, {kept} kept"
            );
            // What keeps the files is `restart_lsn`, which follows at the next record of running transactions: the server
            // writes one every 15 s, and with each checkpoint; from 16 on it can be asked for one.
            let is_kept = server != Server::Plain && kept >= most;
            unconfirmed < most && behind < most && !is_kept
        });
        assert!(is_confirmed, "{server:?}: more than {most} bytes");
        let mut direct = database.connect();
        let retained = format!(
            "select (pg_current_wal_lsn() - restart_lsn)::bigint from pg_replication_slots where slot_name = '{}'",
            rektor.slot()
        );
        wait_for("the slot to let go", LIMIT, || {
            direct.run("checkpoint");
            let retained: u64 = direct.value(&retained).parse().unwrap();
            (retained < 1 << 20).then_some(())
        });
    }
}

#[test]
fn wal_of_other_tables_is_not_kept_for_us() {
    wal_of_other_tables_is_confirmed(&[Server::Plain, Server::Pg18], 200, 64 << 20);
}

#[test]
#[ignore = "2 GB of WAL"]
fn wal_of_other_tables_is_not_kept_for_us_however_much() {
    // At 400 MB/s the walsender itself is tens of megabytes behind.
    wal_of_other_tables_is_confirmed(&[Server::Pg18], 2000, 256 << 20);
}

/// A process that hangs keeps its connection open, and confirms nothing.
fn hang(server: Server) {
    let cluster = Cluster::start(server);
    let database = cluster.database();
    let rektor = follow(&database);
    let mut direct = database.connect();
    let senders = "select count(*) from pg_stat_replication where application_name = 'rektor'";
    wait_for("the stream", LIMIT, || {
        (direct.value(senders) == "1").then_some(())
    });
    signal(rektor.pid(), "STOP");
    direct.run(&insert(server, 100));
    // Rektor's connection asks for a `wal_sender_timeout` of a minute, whatever the server's is.
    wait_for("the walsender to end", 2 * LIMIT, || {
        (direct.value(senders) == "0").then_some(())
    });
    direct.run(&insert(server, 100));
    signal(rektor.pid(), "CONT");
    wait_equal(&database, &rektor);
    wait_for("the stream", LIMIT, || {
        (direct.value(senders) == "1").then_some(())
    });
}

#[test]
fn when_we_hang_it_gets_rid_of_us_and_we_go_on_afterwards() {
    std::thread::scope(|scope| {
        for server in [Server::Plain, Server::Pg18] {
            scope.spawn(move || hang(server));
        }
    });
}

/// A logical walsender may be a synchronous standby: with `remote_apply` a commit returns when searches see it.
#[test]
fn it_can_wait_for_us() {
    for server in [Server::Plain, Server::Pg18] {
        let cluster = Cluster::start(server);
        let database = cluster.database();
        let rektor = follow(&database);
        let mut direct = database.connect();
        direct.run("alter system set synchronous_standby_names = 'rektor'");
        direct.run("alter system set synchronous_commit = local");
        direct.run("select pg_reload_conf()");
        wait_for("a synchronous standby", LIMIT, || {
            let states = direct.column("select sync_state from pg_stat_replication");
            states.contains(&"sync".to_owned()).then_some(())
        });
        // Commits wait from when the checkpointer has read the new settings, which it does before a checkpoint.
        direct.run("checkpoint");
        let mut application = database.connect();
        application.run("set synchronous_commit = remote_apply");
        for rows in 1..=50 {
            application.run(&insert(server, 1));
            #[allow(clippy::float_cmp)] // counts
            let visible = rektor.metric("rektor_index_rows") == f64::from(rows);
            assert!(visible, "{server:?}: row {rows}");
        }
        application.run("reset synchronous_commit");
    }
}
