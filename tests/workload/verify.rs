//! An index against its table at one position: through SQL while Rektor runs, and row by row, with every vector, by
//! opening the data directory with the library once Rektor has stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rektor::index::view::{IndexState, Phase, View};
use rektor::ingest::{self, IngestSettings};
use rektor::lsn::Lsn;

use super::operations::Table;
use crate::harness::{Database, Random, Rektor, Wire, wait_for};

/// The rows that an index must hold: encoded key → vector.
type Rows = BTreeMap<String, Vec<f32>>;

/// `LIMIT n` over all rows gives the table's rows, single searches give the nearest, and the counts agree.
pub fn through_sql(rektor: &Rektor<'_>, random: &mut Random, moment: &str) {
    let server = rektor.database.cluster.server;
    let mut direct = rektor.database.connect();
    let mut through = rektor.connect();
    for table in Table::ALL {
        rektor.wait_ready(table.index_name());
        rektor.catch_up(&mut through);
        // a search waits a while and then goes upstream: here the index itself is meant
        let lsn = direct.value("select pg_current_wal_lsn()");
        let applied = format!(
            "select applied_lsn >= '{lsn}' from rektor.stat_indexes where index_name = '{}'",
            table.index_name()
        );
        wait_for("the index to catch up", Duration::from_secs(60), || {
            (through.value(&applied) == "t").then_some(())
        });
        let (name, key, indexable) = (table.name(), table.encoded_key(), table.indexable());
        let expected = direct.rows(&format!(
            "select {key}, md5(v::text) from {name} where {indexable} order by 1"
        ));
        let query = random.vector(table.dimensions(), server);
        let nearest = format!(
            "from {name} where {indexable} order by v {} '{query}'",
            table.operator()
        );
        let mut got = through.rows(&format!(
            "select {key}, md5(v::text) {nearest} limit {}",
            expected.len()
        ));
        got.sort();
        assert_eq!(expected, got, "{moment}: rows of {name}");
        let rows = format!(
            "select rows from rektor.stat_indexes where index_name = '{}'",
            table.index_name()
        );
        assert_eq!(
            through.value(&rows),
            expected.len().to_string(),
            "{moment}: number of rows of {name}"
        );
        through.run("set hnsw.ef_search = 1000");
        for _ in 0..5 {
            let query = random.vector(table.dimensions(), server);
            let sql = format!(
                "select v {0} '{query}' from {name} where {indexable} order by v {0} '{query}' limit 10",
                table.operator()
            );
            assert_eq!(
                direct.column(&sql),
                through.column(&sql),
                "{moment}: the nearest of {name}"
            );
        }
    }
}

/// Stops Rektor, opens what it left with the library, waits until that has caught up, and compares every row and vector.
pub fn after_the_end(mut rektor: Rektor<'_>) {
    rektor.kill();
    let database = rektor.database.clone();
    let settings = IngestSettings {
        upstream: database.url().parse().unwrap(),
        data_dir: rektor.data_dir().to_owned(),
        slot: rektor.slot().to_owned(),
        max_slot_wal: None,
        max_memory: None,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut ingest = ingest::start(settings, stopped).await.unwrap();
        let lsn: Lsn = position(&database).parse().unwrap();
        let ready = |view: &Arc<View>| {
            let indexes = view.indexes.iter();
            let ready = indexes.filter(|index| index.phase == Phase::Ready && index.applied >= lsn);
            ready.count() == Table::ALL.len()
        };
        let caught_up = ingest.view.wait_for(ready);
        let view = tokio::time::timeout(Duration::from_secs(300), caught_up)
            .await
            .expect("the index catches up")
            .unwrap()
            .clone();
        for index in &view.indexes {
            compare(&database, index);
        }
        stop.send(true).unwrap();
        ingest.task.await.unwrap().unwrap();
    });
    let mut direct = database.connect();
    wait_for("the slot to be free", Duration::from_secs(20), || {
        let sql = format!(
            "select active from pg_replication_slots where slot_name = '{}'",
            rektor.slot()
        );
        (direct.value(&sql) == "f").then_some(())
    });
}

fn position(database: &Database<'_>) -> String {
    database.connect().value("select pg_current_wal_lsn()")
}

fn compare(database: &Database<'_>, index: &IndexState) {
    let name = &index.definition.name.name;
    let table = Table::ALL
        .iter()
        .find(|table| table.index_name() == name)
        .expect("an index of the workload");
    let expected = rows_of_table(&mut database.connect(), *table);
    let snapshot = index.snapshot.as_ref().expect("a snapshot");
    let mut held = Rows::new();
    for row in snapshot.rows() {
        let key = snapshot.key(row).expect("a key");
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let vector = snapshot.vector(row).expect("a vector").to_vec();
        assert!(
            held.insert(key.clone(), vector).is_none(),
            "{name} holds {key} twice"
        );
    }
    for (key, vector) in &expected {
        assert_eq!(held.get(key), Some(vector), "{name}: row {key}");
    }
    assert_eq!(
        held.len(),
        expected.len(),
        "{name} holds rows that the table has not"
    );
}

fn rows_of_table(wire: &mut Wire, table: Table) -> Rows {
    let (key, indexable, name) = (table.encoded_key(), table.indexable(), table.name());
    let rows = wire.rows(&format!(
        "select {key}, v::real[]::text from {name} where {indexable}"
    ));
    rows.into_iter()
        .map(|row| {
            let [Some(key), Some(vector)] = <[_; 2]>::try_from(row).unwrap() else {
                panic!("a NULL")
            };
            let components = vector.trim_matches(['{', '}']).split(',');
            (
                key,
                components
                    .map(|component| component.parse().unwrap())
                    .collect(),
            )
        })
        .collect()
}
