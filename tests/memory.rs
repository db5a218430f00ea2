//! `max_memory`: what does not fit says so and goes upstream, what fits serves on, and what comes to fit comes by itself.

use std::time::Duration;

use crate::harness::{Database, Rektor, Server, Wire, wait_for};

/// Beyond the longest pause before what did not fit is tried again, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// Of this many dimensions some 12 MiB with codes alone (vectors may be in files): one such index fits into 16 MiB, two do not.
const ROWS: u32 = 20_000;
const DIM: u32 = 384;

fn fill(database: &Database<'_>, table: &str, first: u32, last: u32) {
    database.connect().run(&format!(
        "select setseed({first} / 1e6);
         insert into {table}
         select id, (select array_agg(random()::real) from generate_series(1, {DIM} + 0 * id))::vector
         from generate_series({first}, {last}) id"
    ));
}

/// A table that the planner's statistics know, or do not.
fn table(database: &Database<'_>, name: &str, analyzed: bool) {
    let mut wire = database.connect();
    wire.run(&format!(
        "create table {name} (id int primary key, v vector({DIM})) with (autovacuum_enabled = off)"
    ));
    fill(database, name, 1, ROWS);
    if analyzed {
        wire.run(&format!("analyze {name}"));
    }
}

fn create(wire: &mut Wire, table: &str) {
    wire.run(&format!(
        "create index {table}_idx on {table} using faiss (v vector_l2_ops) with (storage = i8)"
    ));
}

/// Waits until the index is in that phase; its error.
fn wait_phase(rektor: &Rektor<'_>, table: &str, wanted: &str) -> String {
    let mut wire = rektor.connect();
    let sql =
        format!("select phase, error from rektor.stat_indexes where index_name = '{table}_idx'");
    wait_for(&format!("{table}_idx to be {wanted}"), LIMIT, || {
        let rows = wire.rows(&sql);
        let [phase, error] = &rows.first()?[..] else {
            panic!("{rows:?}")
        };
        (phase.as_deref() == Some(wanted)).then(|| error.clone().unwrap_or_default())
    })
}

/// Searches answer as PostgreSQL does; whether the index takes part.
fn searches(rektor: &Rektor<'_>, table: &str) -> bool {
    let (mut direct, mut through) = (rektor.database.connect(), rektor.connect());
    rektor.catch_up(&mut through);
    let query = direct.value(&format!("select v from {table} where id = 7"));
    let sql = format!("select id from {table} order by v <-> '{query}' limit 1");
    assert_eq!(through.value(&sql), "7");
    let plan = through.column(&format!("explain {sql}"));
    plan.iter()
        .any(|line| line.contains(&format!("{table}_idx")))
        && !plan.iter().any(|line| line.contains("Rektor: relay"))
}

#[test]
fn what_does_not_fit_says_so_and_comes_when_there_is_room() {
    let cluster = Server::Pg16.shared();
    let database = cluster.database();
    Rektor::setup(&database);
    for (name, analyzed) in [("first", true), ("second", true), ("third", false)] {
        table(&database, name, analyzed);
    }
    let mut rektor = Rektor::serve_within(&database, "16MB");
    let mut wire = rektor.connect();
    create(&mut wire, "first");
    rektor.wait_ready("first_idx");
    let parts = "select (select sum(value::bigint) from jsonb_each_text(memory_parts) where key <> 'mapped') = memory_bytes
            and (memory_parts->>'codes')::bigint between 20000 * 448 and 22000 * 448
            and (memory_parts->>'mapped')::bigint = 0
        from rektor.stat_indexes where index_name = 'first_idx'";
    assert_eq!(wire.value(parts), "t");
    // One by the planner's estimate, one when it is half copied.
    for name in ["second", "third"] {
        create(&mut wire, name);
        let error = wait_phase(&rektor, name, "failed");
        assert!(error.starts_with("out of memory: "), "{error}");
        assert!(error.contains("MiB of 15 MiB (max_memory"), "{error}");
        assert!(!searches(&rektor, name));
        assert!(searches(&rektor, "first"));
        // How far behind it is has no meaning while it does not serve, and the others' lag is the stream's.
        let told = format!(
            "select count(lag_bytes) + count(lag_seconds) + count(applied_lsn) from rektor.stat_indexes
             where index_name = '{name}_idx'"
        );
        assert_eq!(wire.value(&told), "0");
        let series = format!("rektor_index_lag_bytes{{index=\"public.{name}_idx\"}}");
        assert!(!rektor.http("/metrics").1.contains(&series), "{series}");
        let applied = "select applied_lsn > '0/0' from rektor.stat_replication";
        assert_eq!(wire.value(applied), "t");
        let verify = format!("select * from rektor.verify_index('{name}_idx')");
        let refused = wire.try_rows(&verify).unwrap_err();
        assert_eq!(refused.field(b'C').as_deref(), Some("53200"));
    }
    assert!(rektor.metric("rektor_memory_used_bytes") < f64::from(16 << 20));
    assert!(rektor.metric("rektor_memory_limit_bytes") >= f64::from(16 << 20));

    wire.run("drop index third_idx; drop index first_idx");
    wait_phase(&rektor, "second", "ready");
    assert!(searches(&rektor, "second"));

    create(&mut wire, "third");
    wait_phase(&rektor, "third", "failed");
    drop(wire);
    assert!(rektor.stop().success());
    rektor.limit_memory("64MB");
    rektor.up();
    wait_phase(&rektor, "third", "ready");
    assert!(searches(&rektor, "third") && searches(&rektor, "second"));
}

#[test]
fn an_index_that_outgrows_the_bound_goes_upstream_and_the_others_go_on() {
    let cluster = Server::Pg16.shared();
    let database = cluster.database();
    Rektor::setup(&database);
    table(&database, "growing", true);
    let mut direct = database.connect();
    direct.run("create table small (id int primary key, v vector(384)); insert into small select * from growing limit 100");
    let rektor = Rektor::serve_within(&database, "16MB");
    let mut wire = rektor.connect();
    create(&mut wire, "growing");
    create(&mut wire, "small");
    rektor.wait_ready("growing_idx");
    rektor.wait_ready("small_idx");

    fill(&database, "growing", ROWS + 1, 2 * ROWS);
    let error = wait_phase(&rektor, "growing", "failed");
    assert!(error.starts_with("out of memory: "), "{error}");
    assert!(error.contains("MiB of 16 MiB (max_memory)"), "{error}");
    assert!(!searches(&rektor, "growing"));
    // The stream goes on.
    fill(&database, "small", 100_001, 100_100);
    rektor.catch_up(&mut wire);
    assert!(searches(&rektor, "small"));
    assert_eq!(
        wire.value("select rows from rektor.stat_indexes where index_name = 'small_idx'"),
        "200"
    );

    direct.run(&format!(
        "delete from growing where id > {ROWS}; analyze growing"
    ));
    wire.run("reindex index growing_idx");
    wait_phase(&rektor, "growing", "ready");
    assert!(searches(&rektor, "growing"));
}

#[test]
fn what_is_kept_of_vectors_equals_the_table_also_after_a_restart() {
    let cluster = Server::Pg16.shared();
    let database = cluster.database();
    Rektor::setup(&database);
    table(&database, "v", false);
    let rows = 5_000;
    database.connect().run(&format!(
        "delete from v where id > {rows};
         create table h (id int primary key, v halfvec({DIM})); insert into h select id, v::halfvec from v"
    ));
    let mut rektor = Rektor::serve(&database);
    let mut wire = rektor.connect();
    let mut names = Vec::new();
    for (storage, bytes) in [("f32", 4), ("f16", 2), ("bf16", 2), ("i8", 0)] {
        let name = format!("{storage}_idx");
        wire.run(&format!(
            "create index {name} on v using faiss (v vector_cosine_ops) with (storage = {storage})"
        ));
        names.push((name, bytes));
    }
    wire.run("create index half_idx on h using faiss (v halfvec_l2_ops)");
    names.push(("half_idx".to_owned(), 2));
    let check = |rektor: &Rektor<'_>, wire: &mut Wire, count: i32| {
        // Stored indexes are ready before the stream flows again, and without it nothing can be compared.
        wait_for("the stream", LIMIT, || {
            let streaming = wire.value("select streaming from rektor.stat_replication");
            (streaming == "t").then_some(())
        });
        for (name, bytes) in &names {
            rektor.wait_ready(name);
            let verified = wire.rows(&format!(
                "select rows_table, rows_index, missing, extra, differing, repaired
                 from rektor.verify_index('{name}')"
            ));
            let count = count.to_string();
            let expected = [&count, &count, "0", "0", "0", "0"].map(|text| Some(text.to_owned()));
            assert_eq!(verified, [expected], "{name}");
            let held = wire.value(&format!(
                "select ((memory_parts->>'vectors')::float8 + (memory_parts->>'mapped')::float8) / rows / {DIM} from rektor.stat_indexes
                 where index_name = '{name}'"
            ));
            let held: f64 = held.parse().unwrap();
            let bytes = f64::from(*bytes);
            // A third of the rows got new places, and room is made for 2,048 at a time.
            assert!((bytes..=bytes * 1.7).contains(&held), "{name}: {held}");
        }
    };
    check(&rektor, &mut wire, rows);
    wire.run("update v set v = (select w.v from v w where w.id = v.id % 10 + 1) where id % 3 = 0");
    wire.run("update v set v = v where id % 3 = 1");
    rektor.catch_up(&mut wire);
    check(&rektor, &mut wire, rows);
    drop(wire);
    assert!(rektor.stop().success());
    rektor.up();
    let mut wire = rektor.connect();
    check(&rektor, &mut wire, rows);
    wire.run("alter index i8_idx set (storage = f16)");
    wait_for("the index to be made anew", LIMIT, || {
        let sql = "select (memory_parts->>'vectors')::bigint > 0 from rektor.stat_indexes
            where index_name = 'i8_idx'";
        (wire.column(sql).first().is_some_and(|is| is == "t")).then_some(())
    });
}

#[test]
fn vectors_in_files_can_be_taken_away_and_nothing_is_left_of_them() {
    let cluster = Server::Pg16.shared();
    let database = cluster.database();
    Rektor::setup(&database);
    table(&database, "v", false);
    let mut rektor = Rektor::serve(&database);
    let folder = rektor.data_dir().join("vectors");
    if rektor.log().contains("the file system is memory itself") {
        return; // then there is no disk to put them on
    }
    rektor.create_index(
        "create index v_idx on v using faiss (v vector_l2_ops)",
        "v_idx",
    );
    let check = |rektor: &Rektor<'_>| {
        rektor.wait_ready("v_idx");
        let mapped = "select (memory_parts->>'mapped')::bigint >= 16000 * 384 * 4
                and memory_bytes < 16000 * 384 * 4 from rektor.stat_indexes";
        assert_eq!(rektor.connect().value(mapped), "t");
        assert!(
            rektor.metric("rektor_index_memory_part_bytes{index=\"public.v_idx\",part=\"mapped\"}")
                > 0.0
        );
        assert!(searches(rektor, "v"));
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", rektor.pid())).unwrap();
        let ours = |line: &&str| line.contains(folder.to_str().unwrap());
        let lines: Vec<&str> = maps.lines().filter(ours).collect();
        // Read only, and shared: no page of it is this process's own.
        assert!(
            !lines.is_empty() && lines.iter().all(|line| line.contains(" r--s ")),
            "{lines:?}"
        );
        let names = std::fs::read_dir(&folder).unwrap();
        assert_eq!(names.count(), 0);
    };
    check(&rektor);
    rektor.kill();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    rektor.up();
    check(&rektor);
}
