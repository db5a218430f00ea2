//! The primary is restarted, replaced by a promoted standby, or restored to an earlier point.

use super::fixture::{SERVERS, World};
use crate::harness::{Cluster, Server};

#[test]
fn a_promoted_standby_is_followed_after_a_new_copy() {
    for server in SERVERS {
        let cluster = Cluster::start(server);
        let mut world = World::on(cluster.database(), "");
        let database = world.database.clone();
        cluster.fail_over(|| {
            // The standby never sees these, and the index has them.
            database
                .connect()
                .run(&super::fixture::rows_of(server, "t", 100, 5));
            world.check();
        });
        world.wire = world.database.connect();
        world.insert("t", 200, 5);
        world.follows();
        assert_eq!(
            world.value("select count(*) from t where id between 100 and 104"),
            "0"
        );
        assert_eq!(
            world.value("select timeline_id from pg_control_checkpoint()"),
            "2"
        );
    }
}

#[test]
fn a_primary_restored_to_an_earlier_point_is_followed_after_a_new_copy() {
    for server in SERVERS {
        for running in [true, false] {
            println!("{server:?}, Rektor running: {running}");
            let cluster = Cluster::start(server);
            let mut world = World::on(cluster.database(), "");
            cluster.down("fast");
            cluster.keep("earlier");
            cluster.up();
            world.wire = world.database.connect();
            world.insert("t", 100, 20);
            world.check();
            if !running {
                world.following.stop().unwrap();
            }
            cluster.down("immediate");
            cluster.put_back("earlier");
            cluster.up();
            world.wire = world.database.connect();
            if !running {
                world.following.up().unwrap();
            }
            // As much as was there before, so that positions agree again and contents do not.
            world.insert("t", 300, 40);
            world.follows();
            assert_eq!(
                world.value("select count(*) from t where id between 100 and 199"),
                "0"
            );
        }
    }
}

#[test]
fn a_restarted_primary_is_followed_from_where_it_was() {
    for server in [Server::Plain, Server::Pg16] {
        let cluster = Cluster::start(server);
        let mut world = World::on(cluster.database(), "");
        for mode in ["fast", "immediate"] {
            cluster.down(mode);
            cluster.up();
            world.wire = world.database.connect();
            world.check();
            assert!(world.is_the_first_copy(), "it was copied again");
            let from = if mode == "fast" { 100 } else { 200 };
            world.insert("t", from, 5);
            world.check();
        }
        world.follows();
    }
}
