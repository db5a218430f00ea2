//! Tables as SQL has them ↔ what an index holds, row by row with every vector and INCLUDE value: read by the library from the data
//! directory that a killed or stopped process has left, once it has caught up.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rektor::index::view::{IndexState, Phase, View};
use rektor::ingest::{self, IngestSettings};
use rektor::lsn::Lsn;

use super::tables::{Shape, Table};
use crate::harness::{Database, Rektor, Wire, wait_for};

/// Longest that an index may take to agree with its table.
pub const AGREE_LIMIT: Duration = Duration::from_secs(300);

/// Encoded key → vector and INCLUDE values: short ones as text, long ones as their length.
type Rows = BTreeMap<String, (Vec<f32>, Vec<String>)>;

/// An index that there should be.
#[derive(Clone, Debug)]
pub struct Expected {
    pub name: String,
    pub table: Table,
    pub class: &'static str,
}

impl Expected {
    /// SQL for whether the index can hold a row: a zero vector has no cosine.
    fn indexable(&self) -> &'static str {
        match self.class {
            "vector_cosine_ops" => {
                "v is not null and exists (select from unnest(v::real[]) c where c <> 0)"
            }
            _ => "v is not null",
        }
    }
}

/// Restores from the data directory in this process, catches up, and compares every index with its table. `at_once`: they agree as
/// soon as the position says so; otherwise the catalogue may first have to be read.
pub fn as_restored(
    rektor: &Rektor<'_>,
    indexes: &[Expected],
    shape: Shape,
    at_once: bool,
) -> Result<(), String> {
    let database = &rektor.database;
    let settings = IngestSettings {
        upstream: database.url().parse().unwrap(),
        data_dir: rektor.data_dir().to_owned(),
        slot: rektor.slot().to_owned(),
        max_slot_wal: None,
        max_memory: None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut ingest = ingest::start(settings, stopped)
            .await
            .map_err(|error| format!("cannot start: {error}"))?;
        let mut direct = database.connect();
        let lsn: Lsn = flushed(&mut direct).parse().unwrap();
        let deadline = Instant::now() + AGREE_LIMIT;
        let result = loop {
            let reached = ingest
                .view
                .wait_for(|view| caught_up(view, indexes.len(), lsn));
            let Ok(view) = tokio::time::timeout(AGREE_LIMIT, reached).await else {
                let view = ingest.view.borrow().clone();
                break Err(format!(
                    "restored, but never caught up with {lsn}: {view:?}"
                ));
            };
            let view = view.unwrap().clone();
            let agree = compare_all(&mut direct, &view, indexes, shape);
            if agree.is_ok() || at_once || Instant::now() > deadline {
                break agree;
            }
            tokio::time::sleep(Duration::from_millis(50)).await; // the poll's interval
        };
        stop.send(true).unwrap();
        let ended = ingest.task.await.unwrap();
        result.and(ended.map_err(|error| format!("ended with {error}")))
    })
}

/// Every commit so far lies before it.
pub fn flushed(wire: &mut Wire) -> String {
    wire.value("select pg_current_wal_flush_lsn()")
}

fn caught_up(view: &View, indexes: usize, lsn: Lsn) -> bool {
    view.indexes.len() == indexes
        && view
            .indexes
            .iter()
            .all(|index| index.phase == Phase::Ready && index.applied >= lsn)
}

fn compare_all(
    wire: &mut Wire,
    view: &View,
    indexes: &[Expected],
    shape: Shape,
) -> Result<(), String> {
    for expected in indexes {
        let found = view.indexes.iter();
        let mut found = found.filter(|index| index.definition.name.name == expected.name);
        let index = found
            .next()
            .ok_or(format!("{} is missing", expected.name))?;
        compare(wire, index, expected, shape)?;
    }
    Ok(())
}

fn compare(wire: &mut Wire, index: &IndexState, of: &Expected, shape: Shape) -> Result<(), String> {
    let name = &of.name;
    let mut expected = rows_of_table(wire, of, shape);
    let snapshot = index.snapshot.as_ref().ok_or("no snapshot")?;
    let include = of.table.include();
    for row in snapshot.rows() {
        let key = snapshot.key(row).expect("a key");
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let vector = snapshot.vector(row).expect("a vector").to_vec();
        let values = (0..index.definition.include.len())
            .map(|column| shown(include[column], snapshot.include(row, column)))
            .collect();
        match expected.remove(&key) {
            None => {
                return Err(format!(
                    "{name} holds row {key} twice, or the table has not"
                ));
            }
            Some(row) if row != (vector.clone(), values) => {
                return Err(format!(
                    "{name}: row {key} differs from the table's {row:?}"
                ));
            }
            Some(_) => {}
        }
    }
    match expected.keys().next() {
        None => Ok(()),
        Some(key) => Err(format!(
            "{name} lacks {} rows, such as {key}",
            expected.len()
        )),
    }
}

fn shown(column: &str, value: Option<&[u8]>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(value) if column == "story" => value.len().to_string(),
        Some(value) => String::from_utf8_lossy(value).into_owned(),
    }
}

/// The rows that the index must hold.
fn rows_of_table(wire: &mut Wire, of: &Expected, shape: Shape) -> Rows {
    let (key, name) = (of.table.encoded_key(), of.table.name());
    let values = of.table.include().iter().map(|column| match *column {
        "story" => ", coalesce(octet_length(story)::text, 'NULL')".to_owned(),
        column => format!(", coalesce({column}, 'NULL')"),
    });
    let values: String = values.collect();
    let rows = wire.rows(&format!(
        "select {key}, v::real[]::text{values} from {name} where {}",
        of.indexable()
    ));
    let mut found = Rows::new();
    for row in rows {
        let mut row = row.into_iter().map(|value| value.expect("no NULL"));
        let (Some(key), Some(vector)) = (row.next(), row.next()) else {
            panic!("two values")
        };
        let components = vector.trim_matches(['{', '}']).split(',');
        let vector: Vec<f32> = components.map(|c| c.parse().unwrap()).collect();
        assert_eq!(vector.len(), shape.dimensions(of.table), "{name}");
        found.insert(key, (vector, row.collect()));
    }
    found
}

/// The running process holds as many rows as there are, and finds no difference itself.
pub fn as_told(rektor: &Rektor<'_>, indexes: &[Expected]) -> Result<(), String> {
    let mut direct = rektor.database.connect();
    let mut through = rektor.connect();
    let verifies = direct.value("select to_regproc('rektor.verify_index') is not null") == "t";
    for index in indexes {
        if verifies {
            let sql = format!(
                "select missing, extra, differing, repaired, unsettled from rektor.verify_index('{}')",
                index.name
            );
            // The stream may be about to be resumed.
            let found = wait_for("the comparison", AGREE_LIMIT, || {
                match through.try_rows(&sql) {
                    Ok(found) => Some(found),
                    Err(error) if error.field(b'C').as_deref() == Some("55000") => None,
                    Err(error) => panic!("{sql}: {error:?}"),
                }
            });
            let is_nothing = |value: &Option<String>| value.as_deref() == Some("0");
            if !found.iter().flatten().all(is_nothing) || found.len() != 1 {
                let name = &index.name;
                return Err(format!(
                    "{name}: missing, extra, differing, repaired, unsettled: {found:?}"
                ));
            }
        }
        let held = through.value(&format!(
            "select rows from rektor.stat_indexes where index_name = '{}'",
            index.name
        ));
        let there = direct.value(&format!(
            "select count(*) from {} where {}",
            index.table.name(),
            index.indexable()
        ));
        if held != there {
            let name = &index.name;
            return Err(format!("{name} holds {held} rows, the table {there}"));
        }
    }
    Ok(())
}

/// Waits until every index of the running process serves and has applied everything so far, as SQL tells.
pub fn wait_caught_up(
    rektor: &mut Rektor<'_>,
    database: &Database<'_>,
    indexes: &[Expected],
) -> bool {
    let lsn = flushed(&mut database.connect());
    let sql = format!(
        "select index_name from rektor.stat_indexes where phase = 'ready' and applied_lsn >= '{lsn}' order by 1"
    );
    let mut names: Vec<&str> = indexes.iter().map(|index| &index.name[..]).collect();
    names.sort_unstable();
    let deadline = Instant::now() + AGREE_LIMIT;
    let parameters = [("user", "postgres"), ("database", &database.name[..])];
    let mut through = None;
    let mut last = String::new();
    loop {
        if rektor.exited().is_some() {
            return false;
        }
        if through.is_none() {
            let reached = Wire::reach(rektor.port, &parameters, "");
            through = reached.ok().and_then(Result::ok);
        }
        if let Some(wire) = &mut through {
            match wire.try_column(&sql) {
                Ok(ready) if ready == names => return true,
                Ok(ready) => last = format!("{ready:?} are ready"),
                Err(error) => {
                    last = error;
                    through = None;
                }
            }
        }
        assert!(
            Instant::now() < deadline,
            "never caught up with {lsn}: {last}; there should be {names:?}"
        );
        std::thread::sleep(Duration::from_millis(5)); // the poll's interval
    }
}

/// Waits until a generation holds every index as it was copied last: what is not stored would be copied again.
pub fn wait_stored(rektor: &Rektor<'_>, database: &Database<'_>) {
    let mut wire = database.connect();
    let wanted = wire.rows(
        "select id, reindexed, c.relname from rektor.index i join pg_class c on c.oid = i.relation",
    );
    let log = rektor.log();
    let wanted: Vec<(String, String, u64)> = wanted
        .into_iter()
        .map(|row| {
            let [Some(id), Some(reindexed), Some(table)] = <[_; 3]>::try_from(row).unwrap() else {
                panic!("a NULL")
            };
            (id, reindexed, copied_at(&log, &table))
        })
        .collect();
    wait_for("the indexes to be stored", AGREE_LIMIT, || {
        let stored = newest_generation(&rektor.data_dir().join("state"))?;
        let holds = |(id, reindexed, point): &(String, String, u64)| {
            let mut stored = stored["indexes"].as_array().into_iter().flatten();
            stored.any(|index| {
                let identity = index["identity"].as_str().unwrap_or_default();
                let identity: serde_json::Value =
                    serde_json::from_str(identity).unwrap_or_default();
                let is = |value: &serde_json::Value, number: &str| {
                    value.as_i64().map(|value| value.to_string()).as_deref() == Some(number)
                };
                is(&index["id"], id)
                    && is(&identity["reindexed"], reindexed)
                    && index["lsn"].as_u64() >= Some(*point)
            })
        };
        wanted.iter().all(holds).then_some(())
    });
}

/// The position of the table's last copy.
fn copied_at(log: &str, table: &str) -> u64 {
    let name = format!("public.{table}");
    let mut copies = log
        .lines()
        .filter(|line| line.contains(" copied ") && line.contains(&name));
    let last = copies.next_back().and_then(|line| {
        let point = line.split("point=").nth(1)?;
        point.split_whitespace().next()?.parse::<Lsn>().ok()
    });
    last.unwrap_or(Lsn::ZERO).as_u64()
}

/// The newest manifest, if it can be read just now.
fn newest_generation(state: &Path) -> Option<serde_json::Value> {
    let names = std::fs::read_dir(state).ok()?.flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let newest = names
        .filter(|name| name.starts_with("gen-") && !name.ends_with(".tmp"))
        .max()?;
    let text = std::fs::read_to_string(state.join(newest).join("manifest")).ok()?;
    serde_json::from_str(text.lines().next()?).ok()
}
