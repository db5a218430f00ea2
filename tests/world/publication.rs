//! The publication is altered by hand, and tables come to break their own writes by being in it.

use std::time::Duration;

use super::fixture::{SERVERS, World};
use crate::harness::{Rektor, Server, wait_for};

/// The catalogue is read every two seconds; the machine may be busy with ten other things.
const UNDONE: Duration = Duration::from_secs(30);

/// What makes the table's updates fail; what the index says meanwhile, and the cure, where it does not heal by itself.
const BREAKING: &[(&str, &str, &str)] = &[
    (
        "alter table t drop constraint t_pkey",
        "no usable key",
        "alter table t add primary key (id)",
    ),
    (
        "alter table t drop constraint t_pkey, add primary key (id) deferrable",
        "deferrable",
        "alter table t drop constraint t_pkey, add primary key (id)",
    ),
    (
        "alter table t replica identity nothing",
        "NOTHING",
        "alter table t replica identity default",
    ),
    (
        "create unique index u on t (id); alter table t replica identity using index u; drop index u",
        "no usable key",
        "alter table t replica identity default",
    ),
    (
        "alter publication rektor drop table t; alter publication rektor add table only t (v, price)",
        "",
        "",
    ),
    (
        "alter table t replica identity full; alter publication rektor drop table t;
         alter publication rektor add table only t (id, v, price)",
        "",
        "",
    ),
    (
        "alter publication rektor drop table t; alter publication rektor add table only t where (price > 3)",
        "",
        "",
    ),
];

#[test]
fn what_breaks_the_applications_writes_is_undone() {
    for server in Server::ALL {
        for (breaking, reason, cure) in BREAKING {
            println!("{server:?}: {breaking}");
            let mut world = World::of(server);
            world.run(breaking);
            let update = world.sql("update t set v = ‹0.5,0.5,0.5› where id = 20");
            // Rektor may have been quicker.
            let before = world.wire.try_rows(&update);
            println!("  at once: {}", before.is_ok());
            wait_for("updates to work again", UNDONE, || {
                world.wire.try_rows(&update).ok()
            });
            world.wire.run("delete from t where id = 21");
            if !reason.is_empty() {
                world.wait_failed(reason);
                world.wait_failed("out of publication");
                world.insert("t", 100, 5);
                world.run(cure);
            }
            world.follows();
            assert_eq!(world.value("select count(*) from rektor.withdrawn"), "0");
        }
    }
}

#[test]
fn a_partition_that_breaks_its_writes_is_undone() {
    for server in SERVERS {
        let mut world = World::with(
            server,
            "create table t (id int primary key, v VECTOR, price int) partition by range (id);
             create table t1 partition of t for values from (0) to (1000)",
        );
        world.run("alter table t1 replica identity nothing");
        wait_for("updates to work again", UNDONE, || {
            world
                .wire
                .try_rows("update t set price = 0 where id = 20")
                .ok()
        });
        world.wait_failed("replica identity of its own");
        world.run("alter table t1 replica identity default");
        world.follows();
    }
}

#[test]
fn only_rektors_role_may_mend_and_only_what_is_broken() {
    let mut world = World::of(Server::Plain);
    let role = format!("nobody_{}", world.database.name);
    world.run(&format!("create role {role} login"));
    let mut nobody = world.database.connect_as(&role);
    for call in [
        "select rektor.mend_publication()",
        "select rektor.mend_columns()",
    ] {
        assert!(nobody.try_rows(call).is_err());
        assert_eq!(world.wire.rows(call).len(), 0, "there is nothing to mend");
    }
    world.check();
}

#[test]
fn a_table_that_inherits_or_cannot_be_sent_is_no_longer_served() {
    for server in SERVERS {
        let mut world = World::of(server);
        world.run("create table child () inherits (t)");
        world.wait_failed("child tables");
        world.run("drop table child");
        world.follows();
        // A value of such an array would end the stream of every table.
        world.run("alter table t add bad aclitem[]");
        world.run("update t set bad = array[makeaclitem(10, 10, 'select', false)] where id = 20");
        world.wait_failed("cannot be replicated");
        world.run("alter table t drop bad");
        world.follows();
    }
}

/// What is done by hand, what the index says of it, and what undoes it.
const BY_HAND: &[(&str, &str, &str)] = &[
    (
        "alter publication rektor set (publish = 'insert')",
        "leaves out some kinds of changes",
        "alter publication rektor set (publish = 'insert, update, delete, truncate')",
    ),
    (
        "alter publication rektor drop table t; alter publication rektor add table only t (id, v)",
        "price is not in the column list",
        "alter publication rektor drop table t; alter publication rektor add table only t",
    ),
    (
        "alter publication rektor drop table t",
        "is not in publication",
        "alter publication rektor add table only t",
    ),
];

#[test]
fn what_is_altered_by_hand_is_said_and_followed_when_undone() {
    for server in SERVERS {
        for (by_hand, reason, undo) in BY_HAND {
            println!("{server:?}: {by_hand}");
            let mut world = World::of(server);
            world.run(by_hand);
            world.wait_failed(reason);
            // These are missing in the stream.
            let change =
                world.sql("update t set v = ‹1,1,1› where id = 30; delete from t where id = 31");
            world.wire.run(&change);
            world.insert("t", 100, 5);
            world.run(undo);
            world.follows();
        }
    }
}

#[test]
fn partitions_need_their_roots_name() {
    let mut world = World::with(
        Server::Plain,
        "create table t (id int primary key, v VECTOR, price int) partition by range (id);
         create table t1 partition of t for values from (0) to (1000)",
    );
    world.run("alter publication rektor set (publish_via_partition_root = false)");
    world.wait_failed("leaves out some kinds of changes");
    world.insert("t", 100, 5);
    world.run("alter publication rektor set (publish_via_partition_root = true)");
    world.follows();
}

#[test]
fn a_row_filter_that_changes_is_followed() {
    for server in SERVERS {
        let mut world = World::of(server);
        for filter in ["id > 10", "id > 20", "id < 15"] {
            world.run(&format!(
                "alter publication rektor drop table t; alter publication rektor add table only t where ({filter})"
            ));
            let rows = format!("select count(*) from t where {filter}");
            let expected: u64 = world.value(&rows).parse().unwrap();
            world
                .following
                .wait(&format!("the rows of {filter}"), |view| {
                    let live = view.indexes.first()?.snapshot.as_ref()?.stats().live;
                    (live == expected).then_some(())
                });
        }
        world.run(
            "alter publication rektor drop table t; alter publication rektor add table only t",
        );
        world.follows();
    }
}

#[test]
fn a_publication_that_is_dropped_and_made_anew() {
    for server in SERVERS {
        let mut world = World::of(server);
        world.run("drop publication rektor");
        world.insert("t", 100, 5);
        world.wait_failed("publication");
        Rektor::setup(&world.database);
        world.run("alter publication rektor add table only t");
        world.follows();
        // Quicker than any look at the catalogue.
        world.run("drop publication rektor");
        world.insert("t", 200, 5);
        Rektor::setup(&world.database);
        world.run("alter publication rektor add table only t");
        world.insert("t", 300, 5);
        world.follows();
    }
}
