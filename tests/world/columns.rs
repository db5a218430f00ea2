//! Columns and tables are altered, renamed, moved, dropped and made anew.

use super::fixture::{SERVERS, World};
use crate::harness::Server;

/// What must come of a change.
enum Outcome {
    /// The index holds what the table holds, and goes on doing so.
    Follows,
    /// The same, and without another copy: the index never stops serving.
    FollowsServing,
    /// The index is gone, as PostgreSQL's own would be.
    Dropped,
    /// The index fails with this reason until the second statement; then it follows.
    FailsUntil(&'static str, &'static str),
}
use Outcome::{Dropped, FailsUntil, Follows, FollowsServing};

/// A change, and what must come of it.
const CASES: &[(&str, Outcome)] = &[
    // columns that have nothing to do with the index
    ("alter table t add extra int default 7", FollowsServing),
    ("alter table t drop a", FollowsServing),
    ("alter table t rename a to b", FollowsServing),
    ("alter table t alter a type bigint", Follows),
    ("alter table t alter v set statistics 10", FollowsServing),
    ("alter table t alter v set storage external", FollowsServing),
    (
        "alter table t drop a; alter table t add a2 VECTOR; update t set a2 = v",
        FollowsServing,
    ),
    // renamed columns: vector, key, INCLUDE
    ("alter table t rename v to w", FollowsServing),
    (
        "alter table t rename id to key; alter table t rename key to id",
        FollowsServing,
    ),
    ("alter table t rename price to cost", FollowsServing),
    (
        "begin; alter table t rename v to w; alter table t rename price to v; alter table t rename w to price; commit",
        FollowsServing,
    ),
    // dropped columns of the index
    ("alter table t drop v", Dropped),
    ("alter table t drop price", Dropped),
    (
        "begin; alter table t drop v; alter table t add v VECTOR; commit",
        Dropped,
    ),
    // other types
    ("alter table t alter price type bigint", Follows),
    (
        "alter table t alter id type bigint; alter table t alter id type int",
        Follows,
    ),
    (
        "alter table t alter id type numeric",
        FailsUntil("has type numeric", "alter table t alter id type int"),
    ),
    (
        "alter table t alter v type text using v::text",
        FailsUntil(
            "is of type text",
            "alter table t alter v type VECTOR using v::VECTOR",
        ),
    ),
    // the key
    (
        "alter table t drop constraint t_pkey, add primary key (id, price)",
        Follows,
    ),
    // the table
    ("alter table t rename to u", FollowsServing),
    (
        "create schema elsewhere; alter table t set schema elsewhere",
        FollowsServing,
    ),
    (
        "create schema s1; alter table t set schema s1; alter schema s1 rename to s2",
        FollowsServing,
    ),
    ("drop table t", Dropped),
    (
        "begin; drop table t; create table t (id int primary key, v VECTOR, price int); commit",
        Dropped,
    ),
    (
        "truncate t; insert into t (id, v) values (1, ‹1,2,3›)",
        Follows,
    ),
    (
        "begin; delete from t; truncate t; insert into t (id, v) values (1, ‹1,2,3›), (2, ‹3,2,1›); commit",
        Follows,
    ),
    ("vacuum full t", FollowsServing),
    ("cluster t using t_pkey", FollowsServing),
];

#[test]
fn what_is_altered_is_followed() {
    for server in SERVERS {
        for (change, outcome) in CASES {
            println!("{server:?}: {change}");
            let mut world = World::of(server);
            run(&mut world, change);
            match outcome {
                Follows => world.follows(),
                FollowsServing => {
                    world.settle();
                    assert!(world.is_the_first_copy(), "it was copied again");
                    world.follows();
                }
                Dropped => {
                    world.wait_dropped();
                    let published =
                        "select count(*) from pg_publication_tables where tablename = 't'";
                    // The row of a table that is gone goes with the next change of rektor.index.
                    let left =
                        "select count(*) from rektor.index i join pg_class c on c.oid = i.relation";
                    assert_eq!(world.value(left), "0");
                    assert_eq!(world.value(published), "0");
                }
                FailsUntil(reason, mend) => {
                    world.wait_failed(reason);
                    world.insert("t", 1000, 5);
                    run(&mut world, mend);
                    world.follows();
                }
            }
        }
    }
}

/// One statement after the other: VACUUM does not go with others.
fn run(world: &mut World<'_>, sql: &str) {
    if sql.starts_with("begin") {
        world.run(sql);
    } else {
        sql.split(';').for_each(|statement| world.run(statement));
    }
}

#[test]
fn dimensions_that_change() {
    let mut world = World::of(Server::Pg18);
    let rows = "select dimensions from rektor.index";
    world.run("alter table t alter v type vector(2) using subvector(v, 1, 2)");
    world.comes_to_agree();
    assert_eq!(world.following.index("i").unwrap().definition.dim.get(), 2);
    assert_eq!(world.value(rows), "2");
    world.run("alter table t alter v type vector(3) using (v || '[0]')");
    world.follows();
    assert_eq!(world.value(rows), "3");
}
