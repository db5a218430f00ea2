//! The write path against real servers: what the stream tells, what it does not tell, and what goes wrong with it.

pub mod following;

use std::time::{Duration, Instant};

use rektor::index::view::Phase;
use rektor::lsn::Lsn;

use crate::harness::{Cluster, Database, Random, SHARED, Server, Wire, wait_for};
use following::{Following, LIMIT};

/// A table of `rows` rows with an index `i` on it.
fn table(database: &Database<'_>, wire: &mut Wire, name: &str, rows: usize) {
    let server = database.cluster.server;
    wire.run(&format!(
        "create table {name} (id int primary key, v {}, price int)",
        server.vector_type(3)
    ));
    insert(server, wire, name, 0, rows);
}

fn insert(server: Server, wire: &mut Wire, name: &str, from: usize, rows: usize) {
    let mut random = Random::new(from as u64 + 1);
    let values: Vec<String> = (from..from + rows)
        .map(|id| format!("({id}, '{}', {id})", random.vector(3, server)))
        .collect();
    wire.run(&format!("insert into {name} values {}", values.join(", ")));
}

fn create_index(wire: &mut Wire, name: &str, table: &str) {
    let options = "'{\"dimensions\": 3}'";
    wire.run(&format!(
        "select rektor.create_index('{name}', '{table}', 'v', 'vector_l2_ops', '{{price}}', {options})"
    ));
}

#[test]
fn a_large_transaction_survives_cut_connections_and_shows_at_once() {
    let database = Server::Pg16.shared().database();
    let mut wire = database.connect();
    wire.run("create table big (id int primary key, v vector(1024), price int)");
    let following = Following::start(&database);
    wire.run("select rektor.create_index('i', 'big', 'v', 'vector_l2_ops', '{price}')");
    following.check(&mut wire, "i");
    // 100 MB: more than memory has room for.
    let fill = "insert into big select id, array_fill(id::real, array[1024])::vector, id from generate_series(1, 24000) id";
    let writer = std::thread::spawn({
        let mut wire = database.connect();
        move || wire.run(fill)
    });
    let cut = format!(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{}' and active",
        following.slot
    );
    let (mut seen, mut cuts) = (Vec::new(), 0);
    let deadline = Instant::now() + LIMIT * SHARED;
    while Instant::now() < deadline {
        let index = following.index("i").unwrap();
        // Never copied again: the journal has what was complete, and the stream tells the rest.
        assert_eq!(index.phase, Phase::Ready);
        let live = index.snapshot.as_ref().map(|s| s.stats().live);
        if let Some(live) = live
            && seen.last() != Some(&live)
        {
            seen.push(live);
        }
        if seen.last() == Some(&24_000) {
            break;
        }
        // It streams from its commit on. Each connection may come a little further with it than the one before.
        let active = format!(
            "select count(*) from pg_replication_slots where slot_name = '{}' and active",
            following.slot
        );
        if cuts < 8 && writer.is_finished() && wire.value(&active) == "1" {
            std::thread::sleep(Duration::from_millis(cuts * 40));
            wire.run(&cut);
            cuts += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(cuts > 0, "no connection was cut");
    writer.join().unwrap();
    assert!(
        seen.iter().all(|live| [0, 24_000].contains(live)),
        "{seen:?}"
    );
    following.check(&mut wire, "i");
}

#[test]
fn a_huge_transaction_holds_up_neither_other_indexes_nor_flush() {
    let database = Server::Pg18.shared().database();
    let mut wire = database.connect();
    wire.run("create table big (id int primary key, v vector(512), price int)");
    table(&database, &mut wire, "t", 50);
    let following = Following::start(&database);
    wire.run("select rektor.create_index('i', 'big', 'v', 'vector_l2_ops', '{price}')");
    create_index(&mut wire, "j", "t");
    following.check(&mut wire, "i");
    following.check(&mut wire, "j");
    wire.run("insert into big select id, array_fill(id::real, array[512])::vector, id from generate_series(1, 40000) id");
    let huge: Lsn = wire.value("select pg_current_wal_lsn()").parse().unwrap();
    let confirmed = format!(
        "select confirmed_flush_lsn from pg_replication_slots where slot_name = '{}'",
        following.slot
    );
    let (mut flushed, mut beside) = (false, 0);
    let deadline = Instant::now() + LIMIT * SHARED;
    while following.index("i").unwrap().applied < huge {
        assert!(Instant::now() < deadline, "{:?}", following.view());
        insert(Server::Pg18, &mut wire, "t", 50 + beside, 1);
        beside += 1;
        let small = following.ready(&mut wire, "j");
        let confirmed: Lsn = wire.value(&confirmed).parse().unwrap();
        let big = following.index("i").unwrap();
        if big.applied < huge {
            assert_eq!(big.phase, Phase::Ready, "it serves what it has");
            assert_eq!(big.snapshot.as_ref().unwrap().stats().live, 0);
            flushed |= confirmed >= huge && small.applied >= huge;
        }
    }
    assert!(
        flushed,
        "the small index and flush waited for the huge transaction"
    );
    following.check(&mut wire, "i");
    following.check(&mut wire, "j");
}

#[test]
fn a_table_that_is_written_while_it_is_copied_is_right() {
    let database = Server::Pg16.shared().database();
    let mut wire = database.connect();
    wire.run(
        "create table t (id int primary key, v vector(64), price int);
         insert into t select id, array_fill(id::real, array[64])::vector, 0 from generate_series(1, 30000) id",
    );
    let mut following = Following::start(&database);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|number| {
            let (mut wire, stop) = (database.connect(), stop.clone());
            std::thread::spawn(move || {
                let mut random = Random::new(number);
                let mut round = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // Some are larger than what is kept for an index that is about to follow; and together no more than a busy
                    // machine can index.
                    let most = if random.below(8) == 0 { 3000 } else { 100 };
                    let (first, count) = (random.below(30_000), random.below(most));
                    let last = first + count;
                    round += 1;
                    let sql = match random.below(4) {
                        0 => format!("delete from t where id between {first} and {last} and id % 2 = {number}"),
                        1 => format!("update t set price = {round} where id between {first} and {last} and id % 2 = {number}"),
                        2 => format!("update t set v = array_fill({round}::real, array[64])::vector where id between {first} and {last} and id % 2 = {number}"),
                        _ => format!("insert into t select id, array_fill(id::real, array[64])::vector, {round} from generate_series({first}, {last}) id where id % 2 = {number} on conflict do nothing"),
                    };
                    wire.run(&sql);
                }
            })
        })
        .collect();
    wire.run("select rektor.create_index('i', 't', 'v', 'vector_l2_ops', '{price}')");
    let now: Lsn = wire.value("select pg_current_wal_lsn()").parse().unwrap();
    following.wait(
        "the copy to end and what followed it to be applied",
        |view| {
            let index = view.indexes.first()?;
            (index.snapshot.is_some() && index.applied > now).then_some(())
        },
    );
    // Another copy while the index serves, and a restart in the middle of what is stored.
    wire.run("update rektor.index set reindexed = reindexed + 1");
    following.ready(&mut wire, "i");
    following.stop().unwrap();
    following.up().unwrap();
    following.wait("it to follow again", |view| {
        (view.indexes.first()?.phase == Phase::Ready).then_some(())
    });
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    following.check(&mut wire, "i");
}

#[test]
fn what_the_stream_does_not_tell_is_found() {
    for server in [Server::Plain, Server::Pg18] {
        let database = server.shared().database();
        let mut wire = database.connect();
        table(&database, &mut wire, "t", 50);
        let following = Following::start(&database);
        create_index(&mut wire, "i", "t");
        following.check(&mut wire, "i");

        // A rewrite of all values, without any change in the stream.
        let (kind, value) = match server {
            Server::Plain => ("real[]", "array[v[3], v[2], v[1]]"),
            Server::Pg16 | Server::Pg18 => (
                "vector(3)",
                "array[(v::real[])[3], (v::real[])[2], (v::real[])[1]]::vector",
            ),
        };
        wire.run(&format!("alter table t alter v type {kind} using {value}"));
        following.comes_to_agree(&mut wire, "i");

        // The publication is gone for a while, and with it what happened meanwhile.
        wire.run("alter publication rektor drop table t");
        following.wait_failed("i", "not in publication");
        insert(server, &mut wire, "t", 50, 5);
        wire.run("alter publication rektor add table only t");
        following.comes_to_agree(&mut wire, "i");

        // A column is dropped and comes back as another one: the index went with the first.
        wire.run(&format!(
            "begin; alter table t drop v; alter table t add v {}; commit",
            server.vector_type(3)
        ));
        following.wait("the index to go with its column", |view| {
            view.indexes.is_empty().then_some(())
        });
        create_index(&mut wire, "i", "t");
        following.comes_to_agree(&mut wire, "i");

        wire.run("drop table t");
        following.wait("the index to go with its table", |view| {
            view.indexes.is_empty().then_some(())
        });
    }
}

#[test]
fn partitions_come_and_go() {
    let database = Server::Pg18.shared().database();
    let mut wire = database.connect();
    wire.run(
        "create table t (id int primary key, v vector(3), price int) partition by range (id);
         create table t1 partition of t for values from (0) to (100);
         create table t2 partition of t for values from (100) to (200);
         create table t3 (id int primary key, v vector(3), price int)",
    );
    insert(Server::Pg18, &mut wire, "t", 90, 20);
    insert(Server::Pg18, &mut wire, "t3", 200, 20);
    let following = Following::start(&database);
    create_index(&mut wire, "i", "t");
    following.check(&mut wire, "i");
    wire.run("update t set id = id + 20 where id < 100"); // to the other partition
    following.check(&mut wire, "i");
    for silent in [
        "alter table t attach partition t3 for values from (200) to (300)",
        // between two looks at the catalogue
        "alter table t detach partition t3; delete from t3 where id < 205; alter table t attach partition t3 for values from (200) to (300)",
        "truncate t2",
        "alter table t detach partition t3",
    ] {
        wire.run(silent);
        following.comes_to_agree(&mut wire, "i");
    }
}

#[test]
fn a_slot_that_is_lost_or_moved_means_a_new_copy() {
    let database = Server::Pg16.shared().database();
    let mut wire = database.connect();
    table(&database, &mut wire, "t", 50);
    let following = Following::start(&database);
    create_index(&mut wire, "i", "t");
    following.check(&mut wire, "i");
    let slot = &following.slot;
    let free = |wire: &mut Wire, take: &str| {
        // Rektor connects again at once: the slot must be caught between.
        wait_for("the slot to be free", LIMIT, || {
            wire.run(&format!(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}' and active"
            ));
            wire.try_rows(take).ok()
        });
    };
    insert(Server::Pg16, &mut wire, "t", 50, 5);
    free(
        &mut wire,
        &format!("select pg_drop_replication_slot('{slot}')"),
    );
    insert(Server::Pg16, &mut wire, "t", 55, 5);
    following.comes_to_agree(&mut wire, "i");
    insert(Server::Pg16, &mut wire, "t", 60, 5);
    following.check(&mut wire, "i");

    // Someone reads the slot, and takes the changes of these rows away. Another table's change comes after them.
    let steal = format!(
        "insert into t values (1000, '[1,1,1]', 1); \
         select count(*) from pg_logical_slot_get_binary_changes('{slot}', null, null, 'proto_version', '1', 'publication_names', 'rektor')"
    );
    free(&mut wire, &steal);
    following.comes_to_agree(&mut wire, "i");
}

#[test]
fn a_slot_that_another_uses_is_refused() {
    let database = Server::Pg16.shared().database();
    let mut wire = database.connect();
    table(&database, &mut wire, "t", 50);
    let mut first = Following::start(&database);
    create_index(&mut wire, "i", "t");
    first.check(&mut wire, "i");
    let pid = wire.value(&format!(
        "select active_pid from pg_replication_slots where slot_name = '{}'",
        first.slot
    ));
    let Err(error) = Following::try_start(&database.url(), &first.slot) else {
        panic!("a second one follows with the same slot");
    };
    let error = error.to_string();
    assert!(
        error.contains(&format!("is in use by process {pid} ")) && error.contains("--slot"),
        "{error}"
    );
    insert(Server::Pg16, &mut wire, "t", 50, 5);
    first.check(&mut wire, "i");
    first.stop().unwrap();
    first.up().unwrap();
    insert(Server::Pg16, &mut wire, "t", 55, 5);
    first.check(&mut wire, "i");
}

#[test]
fn what_does_not_concern_us_does_not_hold_wal() {
    let database = Server::Pg18.shared().database();
    let mut wire = database.connect();
    table(&database, &mut wire, "t", 5);
    let following = Following::start(&database);
    create_index(&mut wire, "i", "t");
    following.check(&mut wire, "i");
    wire.run("create table other (n int); insert into other select generate_series(1, 10000)");
    let now = wire.value("select pg_current_wal_lsn()");
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{now}' from pg_replication_slots where slot_name = '{}'",
        following.slot
    );
    wait_for("the slot to follow", LIMIT, || {
        (wire.value(&confirmed) == "t").then_some(())
    });
    // And searches that wait for that position go on.
    following.check(&mut wire, "i");
}

#[test]
fn an_index_without_rights_fails_with_the_reason_until_they_are_there() {
    let database = Server::Pg18.shared().database();
    let mut wire = database.connect();
    table(&database, &mut wire, "t", 50);
    table(&database, &mut wire, "open", 50);
    crate::harness::Rektor::setup(&database);
    let role = format!("tail_{}", database.name);
    wire.run(&format!(
        "create role {role} login replication; grant select on open to {role}; grant usage on schema public to {role}"
    ));
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let following = Following::try_start(&url, &role).unwrap();
    create_index(&mut wire, "i", "t");
    create_index(&mut wire, "j", "open");
    following.check(&mut wire, "j");
    following.wait_failed("i", "permission denied for table public.t");
    wire.run(&format!("grant select on t to {role}"));
    following.comes_to_agree(&mut wire, "i");
    // Rows that row security hides would be missing: an error, not a partial index.
    wire.run(
        "alter table t enable row level security; create policy part_of_it on t using (id < 5)",
    );
    create_index(&mut wire, "k", "t");
    following.wait_failed("k", "row-level security");
    following.check(&mut wire, "i");
}

#[test]
fn rows_that_enter_a_row_filter_are_indexed() {
    let database = Server::Pg18.shared().database();
    let mut wire = database.connect();
    // Stored out of line: a row whose key enters the filter comes as an INSERT without its vector.
    wire.run(
        "create table t (id int primary key, v vector(1024), price int);
         insert into t select id, (select array_agg(random()) from generate_series(1, 1024) n where n <> id.id + 5000)::vector, 0
             from generate_series(1, 20) id (id)",
    );
    let following = Following::start(&database);
    wire.run("select rektor.create_index('i', 't', 'v', 'vector_l2_ops', '{price}')");
    following.check(&mut wire, "i");
    wire.run("alter publication rektor drop table t; alter publication rektor add table t where (id > 10)");
    let rows = |count: u64| {
        following.wait(&format!("{count} rows"), |view| {
            let index = view.indexes.first()?;
            let live = index.snapshot.as_ref()?.stats().live;
            (index.phase == Phase::Ready && live == count).then_some(())
        });
    };
    rows(10);
    wire.run("update t set id = id + 1000 where id in (3, 4)");
    rows(12);
    wire.run("update t set id = id - 1000 where id = 1003");
    rows(11);
}

#[test]
fn upstream_stops_at_once_and_is_followed_again() {
    let cluster = Cluster::start(Server::Pg18);
    let database = cluster.database();
    let mut wire = database.connect();
    table(&database, &mut wire, "t", 50);
    let following = Following::start(&database);
    create_index(&mut wire, "i", "t");
    following.check(&mut wire, "i");
    for mode in ["fast", "immediate"] {
        insert(
            Server::Pg18,
            &mut wire,
            "t",
            if mode == "fast" { 50 } else { 60 },
            5,
        );
        let begun = Instant::now();
        cluster.down(mode);
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
        following.wait("it to be noticed", |view| {
            (!view.streaming && view.error.is_some()).then_some(())
        });
        let index = following.index("i").unwrap();
        assert_eq!(index.phase, Phase::Ready, "the last view is still served");
        cluster.up();
        wire = database.connect();
        following.check(&mut wire, "i");
    }
}

#[test]
fn what_is_missing_at_the_start_is_said_or_waited_for() {
    let cluster = Cluster::start_with(Server::Plain, "wal_level = replica");
    let database = cluster.database();
    let refused = |url: &str, part: &str| {
        let Err(error) = Following::try_start(url, "s") else {
            panic!("it started, although: {part}");
        };
        let text = error.to_string();
        assert!(text.contains(part) && !text.contains('\n'), "{text}");
    };
    refused(&database.url(), "wal_level");
    database
        .connect()
        .run("alter system set wal_level = logical");
    cluster.down("fast");
    cluster.up();
    let mut wire = database.connect();
    refused(&database.url(), "run rektor setup");
    crate::harness::Rektor::setup(&database);
    wire.run("create role plain login");
    refused(
        &database.url().replace("postgres@", "plain@"),
        "REPLICATION",
    );
    wire.run("select pg_create_physical_replication_slot('s')");
    refused(&database.url(), "is not ours");
    refused(
        &database.url().replace(&database.name, "nowhere"),
        "does not exist",
    );

    cluster.down("fast");
    let following = Following::try_start(&database.url(), "mine").unwrap();
    following.wait("the reason", |view| {
        view.error.as_ref()?.contains("refused").then_some(())
    });
    cluster.up();
    let mut wire = database.connect();
    table(&database, &mut wire, "t", 5);
    create_index(&mut wire, "i", "t");
    following.check(&mut wire, "i");
}

#[test]
fn a_copy_that_waits_for_a_transaction_goes_on_when_it_ends() {
    let cluster = Cluster::start(Server::Pg18); // its slots would wait for the other tests' transactions too
    let database = cluster.database();
    let mut wire = database.connect();
    table(&database, &mut wire, "t", 5);
    let following = Following::start(&database);
    // Else it is the replication slot itself that waits.
    following.wait("the stream", |view| view.streaming.then_some(()));
    let mut open = database.connect();
    open.run("begin; insert into t values (100, '[1,2,3]', 1)");
    create_index(&mut wire, "i", "t");
    let holder = open.value("select pg_backend_pid()");
    following.wait("who holds it up", |view| {
        let reason = view.error.as_ref()?;
        let names = reason.contains("public.t") && reason.contains(&format!("process {holder} "));
        names.then_some(())
    });
    open.run("commit");
    following.check(&mut wire, "i");
}
