//! Our disk is full, broken or read-only under the real process: it serves on, confirms nothing, says why, and goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::rows_of;
use crate::harness::faults::{Faults, Refusal};
use crate::harness::{Rektor, Server, Wire, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// The rows that the index proposes, and the table's.
fn compare(rektor: &Rektor<'_>) {
    rektor.wait_ready("i");
    let mut direct = rektor.database.connect();
    let lsn = direct.value("select pg_current_wal_lsn()");
    let mut through = rektor.connect();
    wait_for("the index to catch up", LIMIT, || {
        let applied = format!(
            "select applied_lsn >= '{lsn}' from rektor.stat_indexes where index_name = 'i'"
        );
        (through.value(&applied) == "t").then_some(())
    });
    let rows = direct.rows("select id::text, md5(v::text) from t order by t.id");
    let mut got = through.rows(&format!(
        "select id::text, md5(v::text) from t order by v <-> '[0,0,0]' limit {}",
        rows.len()
    ));
    got.sort_by_key(|row| row[0].as_ref().unwrap().parse::<i64>().unwrap());
    assert_eq!(rows, got);
    let count = "select rows from rektor.stat_indexes where index_name = 'i'";
    assert_eq!(through.value(count), rows.len().to_string());
}

/// What an operator can read once all is well again.
fn told(rektor: &Rektor<'_>) {
    let row = rektor.connect().rows(
        "select error, last_error like '%os error%', last_error_at between now() - interval '10 minutes' and now(), wal_status,
             retained_bytes >= 0, lag_seconds >= 0, (select lag_seconds >= 0 from rektor.stat_indexes)
         from rektor.stat_replication",
    );
    let row: Vec<_> = row[0].iter().map(|value| value.as_deref()).collect();
    let t = Some("t");
    assert_eq!(row, [None, t, t, Some("reserved"), t, t, t]);
    let (_, page) = rektor.http("/metrics");
    for line in [
        "rektor_slot_retained_wal_bytes ",
        "rektor_slot_wal_status{status=\"reserved\"} 1",
        "rektor_replication_lag_seconds ",
        "rektor_index_lag_seconds{index=\"public.i\"} ",
        "rektor_last_error_timestamp_seconds ",
    ] {
        assert!(
            page.lines().any(|other| other.starts_with(line)),
            "{line} in\n{page}"
        );
    }
}

fn confirmed(wire: &mut Wire, rektor: &Rektor<'_>, lsn: &str) -> bool {
    let sql = format!(
        "select confirmed_flush_lsn >= '{lsn}' from pg_replication_slots where slot_name = '{}'",
        rektor.slot()
    );
    wire.value(&sql) == "t"
}

#[test]
fn a_disk_that_refuses_stops_acknowledgements_and_nothing_else() {
    let database = Server::Pg18.shared().database();
    let mut wire = database.connect();
    wire.run("create table t (id int primary key, v vector(3), price int)");
    wire.run(&rows_of(Server::Pg18, "t", 0, 50));
    Rektor::setup(&database);
    let faults = Arc::new(Faults::new());
    let mut rektor = Rektor::disturbed(&database, &faults);
    rektor.up();
    rektor.create_index("create index i on t using faiss (v vector_l2_ops)", "i");
    compare(&rektor);
    for (number, refusal) in [Refusal::Full, Refusal::ReadOnly, Refusal::Broken]
        .into_iter()
        .enumerate()
    {
        println!("{refusal:?}");
        faults.refuse(refusal, 0);
        wire.run(&rows_of(Server::Pg18, "t", 100 * (number + 1), 20));
        let lsn = wire.value("select pg_current_wal_lsn()");
        let mut through = rektor.connect();
        let error = wait_for("the reason", LIMIT, || {
            let rows = through.rows("select error from rektor.stat_replication");
            rows.first()?.first()?.clone()
        });
        println!("  {error}");
        assert!(error.contains("os error"), "{error}");
        assert_eq!(rektor.http("/readyz").0, 503);
        // Searches are answered, also of rows that the index does not have yet.
        assert_eq!(
            through
                .rows("select id from t order by v <-> '[0,0,0]' limit 10")
                .len(),
            10
        );
        let newest = format!(
            "select id from t where id = {} order by v <-> '[0,0,0]' limit 1",
            100 * (number + 1)
        );
        through.run("set rektor.consistency = strong");
        assert_eq!(through.rows(&newest).len(), 1);
        assert!(
            !confirmed(&mut wire, &rektor, &lsn),
            "what is not stored was confirmed"
        );
        faults.accept();
        compare(&rektor);
        wait_for("the confirmation", LIMIT, || {
            confirmed(&mut wire, &rektor, &lsn).then_some(())
        });
        wait_for("/readyz", LIMIT, || {
            (rektor.http("/readyz").0 == 200).then_some(())
        });
    }
    told(&rektor);
    // And nothing of it is wrong on disk.
    rektor.kill();
    rektor.up();
    compare(&rektor);
}
