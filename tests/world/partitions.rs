//! Partitions are made, attached, detached, truncated and dropped, and rows move between them.

use super::fixture::{SERVERS, World};

const TABLE: &str =
    "create table t (id int primary key, v VECTOR, price int) partition by range (id);
     create table t1 partition of t for values from (0) to (30);
     create table t2 partition of t for values from (30) to (100) partition by range (id);
     create table t21 partition of t2 for values from (30) to (40);
     create table t22 partition of t2 for values from (40) to (100)";

/// Each goes on from where the one before has left the table.
const CHANGES: &[&str] = &[
    "create table t3 partition of t for values from (100) to (200); insert into t (id, v) values (100, ‹1,2,3›)",
    "update t set id = id + 80 where id between 10 and 15",
    "update t set id = 12 where id = 45",
    "truncate t21",
    "truncate t2",
    "alter table t detach partition t2",
    "insert into t2 (id, v) values (50, ‹1,1,1›); alter table t attach partition t2 for values from (30) to (100)",
    "begin; alter table t detach partition t1; delete from t1; insert into t1 (id, v) values (7, ‹7,7,7›); alter table t attach partition t1 for values from (0) to (30); commit",
    "drop table t22",
    "create table t4 (v VECTOR, junk int, price int, id int primary key); insert into t4 (id, v) values (250, ‹2,2,2›); alter table t4 drop junk; alter table t attach partition t4 for values from (200) to (300)",
    "update t set v = ‹3,3,3› where id = 250",
    "drop table t2",
    "truncate t",
];

#[test]
fn whatever_happens_to_partitions_is_followed() {
    for server in SERVERS {
        let mut world = World::with(server, TABLE);
        for change in CHANGES {
            println!("{server:?}: {change}");
            world.run(change);
            world.comes_to_agree();
            world.run("insert into t (id, v) values (1, ‹1,0,0›) on conflict (id) do update set v = ‹0,1,0›");
            world.check();
        }
    }
}
