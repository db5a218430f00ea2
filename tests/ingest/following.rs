//! The write path alone, in this process, on a database of a test: started, watched, compared with the table, stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rektor::catalog::RowKey;
use rektor::index::view::{IndexState, Phase, View};
use rektor::ingest::{self, Ingest, IngestError, IngestSettings};
use rektor::lsn::Lsn;
use rektor::vector::{Vector, VectorType};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::harness::{Database, Rektor, SHARED, Wire, wait_for};

/// The catalogue is looked at every few seconds, a failed copy is tried again after five; the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A running write path.
pub struct Following {
    pub slot: String,
    runtime: Runtime,
    stop: watch::Sender<bool>,
    ingest: Option<Ingest>,
    data: tempfile::TempDir,
    url: String,
    pub max_slot_wal: Option<u64>,
}

impl Following {
    /// Installs schema rektor and starts.
    pub fn start(database: &Database<'_>) -> Self {
        Rektor::setup(database);
        let slot = format!("ingest_{}", database.name);
        Self::try_start(&database.url(), &slot).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_start(url: &str, slot: &str) -> Result<Self, IngestError> {
        let mut following = Self {
            slot: slot.to_owned(),
            runtime: Runtime::new().unwrap(),
            stop: watch::channel(false).0,
            ingest: None,
            data: tempfile::tempdir().unwrap(),
            url: url.to_owned(),
            max_slot_wal: None,
        };
        following.up()?;
        Ok(following)
    }

    /// Starts again what was stopped.
    pub fn up(&mut self) -> Result<(), IngestError> {
        self.stop.send_replace(false);
        let settings = IngestSettings {
            upstream: self.url.parse().unwrap(),
            data_dir: self.data.path().to_owned(),
            slot: self.slot.clone(),
            max_slot_wal: self.max_slot_wal,
            max_memory: None,
        };
        let started = ingest::start(settings, self.stop.subscribe());
        self.ingest = Some(self.runtime.block_on(started)?);
        Ok(())
    }

    /// Starts it again with a limit to the WAL that upstream may have to keep.
    pub fn limit_slot_wal(&mut self, bytes: u64) {
        self.stop().unwrap();
        self.max_slot_wal = Some(bytes);
        self.up().unwrap();
    }

    /// Stops, and returns what it ended with.
    pub fn stop(&mut self) -> Result<(), IngestError> {
        self.stop.send_replace(true);
        let ingest = self.ingest.take().expect("it runs");
        self.runtime.block_on(ingest.task).unwrap()
    }

    pub fn view(&self) -> Arc<View> {
        self.ingest.as_ref().expect("it runs").view.borrow().clone()
    }

    pub fn index(&self, name: &str) -> Option<Arc<IndexState>> {
        let view = self.view();
        view.indexes
            .iter()
            .find(|index| index.definition.name.name == name)
            .cloned()
    }

    /// Waits until the view shows it.
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut(&View) -> Option<T>) -> T {
        wait_for(what, LIMIT, || probe(&self.view()))
    }

    /// Waits until the index has failed for a reason that says this.
    pub fn wait_failed(&self, name: &str, reason: &str) {
        wait_for(&format!("{name} to fail: {reason}"), LIMIT, || {
            let index = self.index(name)?;
            matches!(&index.phase, Phase::Failed { error } if error.contains(reason)).then_some(())
        });
    }

    /// Waits until the index serves as of now, and returns its state.
    pub fn ready(&self, wire: &mut Wire, name: &str) -> Arc<IndexState> {
        let now: Lsn = wire.value("select pg_current_wal_lsn()").parse().unwrap();
        let ready = || {
            let index = self.index(name)?;
            (index.phase == Phase::Ready && index.applied >= now).then_some(index)
        };
        let deadline = std::time::Instant::now() + LIMIT * SHARED;
        while std::time::Instant::now() < deadline {
            if let Some(index) = ready() {
                return index;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{name} is not ready at {now}: {:?}", self.view());
    }

    /// Whatever the view says is ready must be right at once.
    pub fn check(&self, wire: &mut Wire, name: &str) {
        let index = self.ready(wire, name);
        assert_eq!(
            held(&index),
            expected(wire, &index),
            "{name} at {}",
            index.applied
        );
    }

    /// For what the stream does not tell: the index comes to hold the table's rows.
    pub fn comes_to_agree(&self, wire: &mut Wire, name: &str) {
        wait_for(&format!("{name} to agree"), LIMIT, || {
            let index = self.index(name)?;
            (index.phase == Phase::Ready && held(&index) == expected(wire, &index)).then_some(())
        });
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if self.ingest.is_some() {
            let _ = self.stop(); // the test has failed or does not care
        }
    }
}

/// Key → vector of every row that the index can find. Tables have an `int` key `id`.
fn held(index: &IndexState) -> BTreeMap<i32, Vec<f32>> {
    let snapshot = index
        .snapshot
        .as_ref()
        .expect("a ready index has a snapshot");
    let rows = snapshot.rows().map(|row| {
        let key = RowKey::parts(snapshot.key(row).unwrap()).next().unwrap();
        let key = i32::from_be_bytes(key.try_into().unwrap());
        (key, snapshot.vector(row).unwrap().to_vec())
    });
    rows.collect()
}

/// The same as SQL sees it now, the publication's row filter left aside.
fn expected(wire: &mut Wire, index: &IndexState) -> BTreeMap<i32, Vec<f32>> {
    let (column, table) = (&index.definition.column.name, &index.definition.table);
    let rows = wire.rows(&format!(
        "select id, {column}::real[] from {table} where {column} is not null"
    ));
    let rows = rows.into_iter().filter_map(|row| {
        let [Some(key), Some(vector)] = &row[..] else {
            panic!("two values");
        };
        let vector = Vector::from_text(VectorType::RealArray, vector).ok()?;
        (vector.dim() == index.definition.dim.get())
            .then(|| (key.parse().unwrap(), vector.as_slice().to_vec()))
    });
    rows.collect()
}
