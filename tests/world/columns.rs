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
    // the stream tells of new names before any reading of the catalogue does
    (
        "alter table t rename v to w; update t set w = ‹1,2,3› where id = 20; update t set price = 7 where id = 21",
        FollowsServing,
    ),
    // and of names that no reading of the catalogue has seen
    (
        "begin; update t set price = 7 where id = 21; alter table t rename v to w; update t set w = ‹1,2,3› where id = 20;
         alter table t rename price to v; update t set v = 3 where id = 22; commit",
        Follows,
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
                Follows => {
                    world.settle();
                    world.follows();
                }
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

/// Attribute numbers are not what a dump carries: names are, and they are those of the moment.
#[test]
fn a_dump_is_restored_with_its_indexes() {
    for server in SERVERS {
        let mut world = World::of(server);
        world.run("alter table t rename v to w");
        world.run("alter table t rename price to v");
        world.following.wait("the names", |view| {
            let definition = &view.indexes.first()?.definition;
            (definition.column.name == "w" && definition.include[0].name == "v").then_some(())
        });
        assert_eq!(world.value("select column_name from rektor.index"), "w");
        let dump = world
            .database
            .tool("pg_dump", world.database.cluster.port)
            .output()
            .unwrap();
        assert!(dump.status.success(), "{dump:?}");
        let restored = world.database.cluster.empty_database();
        let mut psql = restored.tool("psql", world.database.cluster.port);
        let mut psql = psql
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut psql.stdin.take().unwrap(), &dump.stdout).unwrap();
        assert!(psql.wait().unwrap().success());
        let mut wire = restored.connect();
        let numbers = "select array_agg(attnum order by attname desc) from pg_attribute where attrelid = 't'::regclass and attname in ('v', 'w')";
        let there = wire.value(numbers);
        assert_ne!(
            there,
            world.value(numbers),
            "the restored table has no dropped columns"
        );
        let following =
            crate::ingest::following::Following::try_start(&restored.url(), &restored.name)
                .unwrap();
        following.comes_to_agree(&mut wire, "i");
        assert_eq!(wire.value("select column_numbers from rektor.index"), there);
        wire.run("alter table t rename w to x");
        following.wait("the new name", |view| {
            (view.indexes.first()?.definition.column.name == "x").then_some(())
        });
        following.comes_to_agree(&mut wire, "i");
    }
}

/// What an earlier version has installed is brought up to date by another setup.
#[test]
fn an_older_schema_is_upgraded_by_setup() {
    let mut world = World::of(Server::Plain);
    world.following.stop().unwrap();
    world.run(
        "drop table rektor.withdrawn;
         alter table rektor.index drop column column_numbers cascade, drop column numbered_for cascade, drop column numbered_in cascade;
         drop function rektor.mend_columns",
    );
    let refused = world.following.up().unwrap_err().to_string();
    assert!(refused.contains("run rektor setup again"), "{refused}");
    crate::harness::Rektor::setup(&world.database);
    assert_eq!(
        world.value("select column_numbers from rektor.index"),
        "{4,5}"
    );
    world.following.up().unwrap();
    world.run("alter table t rename v to w");
    world.settle();
    world.follows();
}
