//! The replication slot is dropped, moved, lost, or holds too much; there is none left for us, or no walsender.

use std::time::Duration;

use super::fixture::{SERVERS, World};
use crate::harness::{Cluster, Server, Wire, wait_for};
use crate::ingest::following::{Following, LIMIT};

/// What happens to the slot while Rektor is down.
const WHILE_DOWN: &[&str] = &[
    "select pg_drop_replication_slot('SLOT')",
    "select pg_replication_slot_advance('SLOT', pg_current_wal_lsn())",
    "select pg_drop_replication_slot('SLOT'); select pg_create_logical_replication_slot('SLOT', 'pgoutput')",
    "select pg_replication_slot_advance('SLOT', pg_current_wal_lsn()); select pg_drop_replication_slot('SLOT');
     select pg_create_logical_replication_slot('SLOT', 'pgoutput')",
];

#[test]
fn a_slot_that_changes_while_rektor_is_down_means_a_new_copy() {
    for server in SERVERS {
        for change in WHILE_DOWN {
            println!("{server:?}: {change}");
            let mut world = World::of(server);
            world.following.stop().unwrap();
            world.insert("t", 100, 5);
            let slot = world.following.slot.clone();
            let active =
                format!("select active from pg_replication_slots where slot_name = '{slot}'");
            wait_for("the walsender to end", LIMIT, || {
                (world.value(&active) == "f").then_some(())
            });
            for statement in change.replace("SLOT", &slot).split(';') {
                world.wire.rows(statement);
            }
            world.insert("t", 200, 5);
            world.following.up().unwrap();
            world.follows();
        }
    }
}

fn flood(wire: &mut Wire, megabytes: usize) {
    wire.run("create table if not exists flood (filler text)");
    wire.run("alter table flood alter filler set storage external");
    for _ in 0..megabytes {
        wire.run("insert into flood values (repeat('x', 1 << 20))");
    }
}

fn retained(wire: &mut Wire, slot: &str) -> u64 {
    let sql = format!(
        "select coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)::bigint
         from pg_replication_slots where slot_name = '{slot}'"
    );
    wire.value(&sql).parse().unwrap()
}

#[test]
fn a_slot_that_is_lost_while_rektor_is_down_means_a_new_copy() {
    for server in SERVERS {
        let cluster = Cluster::start_with(
            server,
            "max_slot_wal_keep_size = 32MB\nmin_wal_size = 32MB\nmax_wal_size = 64MB",
        );
        let mut world = World::on(cluster.database(), "");
        let slot = world.following.slot.clone();
        world.following.stop().unwrap();
        world.insert("t", 100, 5);
        let status =
            format!("select wal_status from pg_replication_slots where slot_name = '{slot}'");
        wait_for("the slot to be lost", LIMIT, || {
            flood(&mut world.wire, 50);
            world.wire.run("checkpoint");
            (world.wire.value(&status) == "lost").then_some(())
        });
        world.following.up().unwrap();
        world.follows();
        assert_ne!(world.value(&status), "lost");
        world.following.wait("the slot's status", |view| {
            (view.slot.as_ref()?.wal_status == "reserved").then_some(())
        });
    }
}

#[test]
fn too_much_wal_gives_the_slot_up_until_what_held_it_has_ended() {
    for server in SERVERS {
        let cluster = Cluster::start(server);
        let mut world = World::on(cluster.database(), "");
        world.following.limit_slot_wal(64 << 20);
        world.check();
        let slot = world.following.slot.clone();
        // Whatever is confirmed: a transaction that began before can still commit.
        let mut open = world.database.connect();
        open.run("create table held (n int); begin; insert into held values (1)");
        flood(&mut world.wire, 100);
        world.following.wait("the reason", |view| {
            view.error.as_ref()?.contains("was given up").then_some(())
        });
        world.wait_failed("max_slot_wal is 64 MiB");
        let slots = format!("select count(*) from pg_replication_slots where slot_name = '{slot}'");
        wait_for("the slot to be dropped", LIMIT, || {
            (world.value(&slots) == "0").then_some(())
        });
        world.insert("t", 100, 5);
        world.following.wait("what it waits for", |view| {
            view.error
                .as_ref()?
                .contains("transactions that ran then")
                .then_some(())
        });
        assert_eq!(world.value(&slots), "0", "it would hold as much again");
        open.run("commit");
        world.follows();
        let view = world.following.view();
        assert_eq!(view.error, None);
        assert!(
            view.last_error
                .as_ref()
                .is_some_and(|(text, _)| text.contains("given up"))
        );
    }
}

#[test]
fn wal_of_others_never_accumulates_behind_an_idle_table() {
    let mut world = World::of(Server::Pg18);
    let slot = world.following.slot.clone();
    let mut most = 0;
    for _ in 0..16 {
        flood(&mut world.wire, 16);
        most = most.max(retained(&mut world.wire, &slot));
    }
    println!("retained at most {} MiB of 256", most >> 20);
    wait_for("the slot to follow", LIMIT, || {
        // A position from which decoding can begin again is logged every 15 seconds.
        world.wire.run("select pg_log_standby_snapshot()");
        (retained(&mut world.wire, &slot) < 48 << 20).then_some(())
    });
    world.check();
    let view = world.following.view();
    assert_eq!(view.behind_since, None, "nothing of ours happened");
}

#[test]
fn no_slot_and_no_walsender_to_be_had_is_said_and_waited_for() {
    let cluster = Cluster::start_with(Server::Pg18, "max_replication_slots = 2");
    let database = cluster.database();
    crate::harness::Rektor::setup(&database);
    let mut wire = database.connect();
    let take = |wire: &mut Wire, name: &str| {
        wire.rows(&format!(
            "select pg_create_physical_replication_slot('{name}')"
        ))
    };
    let free = |wire: &mut Wire, name: &str| {
        wire.rows(&format!("select pg_drop_replication_slot('{name}')"))
    };
    take(&mut wire, "one");
    take(&mut wire, "two");
    wire.run("create table t (id int primary key, v vector(3), price int); insert into t values (1, '[1,2,3]', 1)");
    wire.run("select rektor.create_index('i', 't', 'v', 'vector_l2_ops', '{price}')");
    let following = Following::try_start(&database.url(), "ours").unwrap();
    let all_used = |what: &str| {
        following.wait(what, |view| {
            let error = view.error.as_ref()?;
            error
                .contains("all replication slots are in use")
                .then_some(())
        });
    };
    all_used("why there is no stream");
    free(&mut wire, "one");
    following.wait("the stream", |view| view.streaming.then_some(()));
    all_used("why there is no copy");
    free(&mut wire, "two");
    following.check(&mut wire, "i");

    wire.run("alter system set max_wal_senders = 1");
    cluster.down("fast");
    cluster.up();
    let mut wire = database.connect();
    following.check(&mut wire, "i");
    wire.run("select rektor.create_index('j', 't', 'v', 'vector_l2_ops')");
    following.wait("why there is no copy", |view| {
        view.error
            .as_ref()?
            .contains("max_wal_senders")
            .then_some(())
    });
    following.check(&mut wire, "i");
    wire.run("alter system set max_wal_senders = 5");
    cluster.down("fast");
    cluster.up();
    following.check(&mut database.connect(), "j");
}

#[test]
fn lag_is_seconds_only_while_something_waits() {
    let mut world = World::of(Server::Pg16);
    world.check();
    world.following.wait("no lag", |view| {
        let now = std::time::SystemTime::now();
        let index = view.indexes.first()?;
        let lags = [view.behind_since, index.behind_since];
        (lags.map(|since| view.lag_seconds(since, now)) == [Some(0.0); 2]).then_some(())
    });
    // A transaction whose commit is some seconds old when it arrives.
    world.following.stop().unwrap();
    world.insert("t", 100, 5);
    std::thread::sleep(Duration::from_millis(1)); // the clock has moved on, however coarse
    world.following.up().unwrap();
    world.check();
    world.following.wait("no lag", |view| {
        (view.streaming && view.behind_since.is_none()).then_some(())
    });
}
