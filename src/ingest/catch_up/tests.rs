//! Threads that catch up from a real journal: while it grows, across its restart, and when it is damaged.

use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};

use super::*;
use crate::index::Writer;
use crate::ingest::apply::tests::{TABLE, VECTOR, entry};
use crate::ingest::indexes::spec;
use crate::store::{Directory, Entry, Journal, Origin};
use crate::vector::{Metric, Vector, VectorType};

fn text(bytes: &mut BytesMut, text: &str) {
    bytes.put_slice(text.as_bytes());
    bytes.put_u8(0);
}

fn begin(commit: u64) -> Bytes {
    let mut bytes = BytesMut::from(&b"B"[..]);
    bytes.put_u64(commit);
    bytes.put_i64(0);
    bytes.put_u32(1);
    bytes.freeze()
}

fn relation() -> Bytes {
    let mut bytes = BytesMut::from(&b"R"[..]);
    bytes.put_u32(TABLE.0);
    text(&mut bytes, "public");
    text(&mut bytes, "t");
    bytes.put_u8(b'd');
    bytes.put_u16(3);
    for (key, name, kind) in [(1, "id", 23), (0, "v", VECTOR.0), (0, "p", 23)] {
        bytes.put_u8(key);
        text(&mut bytes, name);
        bytes.put_u32(kind);
        bytes.put_i32(-1);
    }
    bytes.freeze()
}

fn insert(key: i32) -> Bytes {
    let mut bytes = BytesMut::from(&b"I"[..]);
    bytes.put_u32(TABLE.0);
    bytes.put_slice(b"N");
    bytes.put_u16(3);
    let vector = Vector::new(vec![1.0, 2.0]).unwrap();
    let vector = vector.to_binary(VectorType::Vector);
    for value in [&key.to_be_bytes()[..], &vector, &7_i32.to_be_bytes()] {
        bytes.put_u8(b'b');
        bytes.put_i32(i32::try_from(value.len()).unwrap());
        bytes.put_slice(value);
    }
    bytes.freeze()
}

fn commit(commit: u64) -> Bytes {
    let mut bytes = BytesMut::from(&b"C\0"[..]);
    bytes.put_u64(commit);
    bytes.put_u64(commit + 5);
    bytes.put_i64(0);
    bytes.freeze()
}

/// Appends a transaction that inserts so many rows, and waits until it is durable.
async fn append(journal: &Journal, number: u64, rows: std::ops::Range<i32>) {
    let mut messages = vec![begin(number * 10), relation()];
    messages.extend(rows.map(insert));
    messages.push(commit(number * 10));
    for raw in messages {
        let message = LogicalMessage::decode(raw.clone()).unwrap();
        let entry = Entry::of(&message, raw).unwrap();
        Journal::append(journal.room(&entry).await.unwrap(), entry);
    }
    let mut durable = journal.durable();
    let end = Lsn::new(number * 10 + 5);
    durable.wait_for(|durable| *durable >= end).await.unwrap();
}

struct Trial {
    directory: Directory,
    files: tempfile::TempDir,
    journal: Option<Journal>,
    reader: watch::Sender<Option<JournalReader>>,
    orders: mpsc::Sender<CatchUpOrder>,
    controls: mpsc::Receiver<Control>,
    wanted: Option<watch::Sender<()>>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Trial {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let directory = Directory::open(files.path()).unwrap();
        let origin = Origin {
            system_id: 1,
            timeline: 1,
            database: "d".into(),
            slot: "s".into(),
            epoch: 1,
        };
        directory.adopt(&origin).unwrap();
        let (orders, ordered) = mpsc::channel(ORDERS);
        let (to_applier, controls) = mpsc::channel(1);
        let (reader, readable) = watch::channel(None);
        let (stop, stopping) = watch::channel(false);
        let mut trial = Self {
            directory,
            files,
            journal: None,
            reader,
            orders,
            controls,
            wanted: None,
            stop,
            task: tokio::spawn(run(ordered, to_applier, readable, stopping)),
        };
        trial.open();
        trial
    }

    fn open(&mut self) {
        let journal = self
            .directory
            .journal()
            .unwrap()
            .start(Lsn::new(1))
            .unwrap();
        self.reader.send_replace(Some(journal.reader()));
        self.journal = Some(journal);
    }

    async fn close(&mut self) {
        self.reader.send_replace(None);
        self.journal.take().unwrap().close().await.unwrap();
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().unwrap()
    }

    async fn order(&mut self) {
        let entry = entry(1, Metric::L2);
        let writer = Writer::new(spec(&entry.definition)).unwrap();
        let (sender, wanted) = watch::channel(());
        self.wanted = Some(sender);
        let order = CatchUpOrder {
            job: 3,
            epoch: 1,
            from: Lsn::new(1),
            replicas: vec![Replica::new(
                entry.clone(),
                entry.shape,
                writer,
                Lsn::new(1),
            )],
            hold: self.directory.holds().hold(Lsn::new(1)),
            wanted,
        };
        self.orders.send(order).await.unwrap();
    }

    /// The next thing that is told beside progress, and the rows that were shown last.
    async fn told(&mut self, rows: &mut Vec<u64>) -> Control {
        loop {
            let told = self.controls.recv().await.unwrap();
            let Control::CaughtUp { job: 3, states } = told else {
                return told;
            };
            let shown = states.into_iter().filter_map(|state| state.published);
            rows.extend(shown.map(|(snapshot, _)| snapshot.stats().live));
        }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

fn segments(files: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(files.join("journal")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_reads_what_comes_across_a_restart_of_the_journal_and_joins() {
    let mut trial = Trial::new();
    append(trial.journal(), 1, 0..10).await;
    trial.order().await;
    let mut rows = Vec::new();
    let Control::Join { job: 3, answer } = trial.told(&mut rows).await else {
        panic!("no join");
    };
    assert_eq!(rows, [10]);
    append(trial.journal(), 2, 10..15).await;
    trial.close().await;
    trial.open();
    append(trial.journal(), 3, 15..17).await;
    // A large one, whose rows are seen at once or not at all.
    append(trial.journal(), 4, 17..12_000).await;
    answer.send(Lsn::new(45)).unwrap();
    let told = trial.told(&mut rows).await;
    let Control::Joined {
        job: 3,
        position,
        mut replicas,
        ..
    } = told
    else {
        panic!("{told:?}");
    };
    assert_eq!(position, Lsn::new(45));
    assert_eq!(rows.last(), Some(&12_000));
    assert!(
        rows.iter().all(|rows| [10, 15, 17, 12_000].contains(rows)),
        "{rows:?}"
    );
    assert_eq!(replicas[0].writer.publish(position).stats().live, 12_000);
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_journal_is_told_and_nothing_of_it_applied() {
    let mut trial = Trial::new();
    for number in 1..4 {
        let first = i32::try_from(number).unwrap() * 10;
        append(trial.journal(), number, first..first + 10).await;
    }
    let path = segments(trial.files.path()).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    trial.order().await;
    let mut rows = Vec::new();
    let Control::CatchUpFailed { job: 3, error } = trial.told(&mut rows).await else {
        panic!("the damage was not seen");
    };
    assert!(error.contains("is damaged"), "{error}");
    assert!(rows.iter().all(|rows| *rows <= 10), "{rows:?}");
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_ends_and_lets_the_journal_go() {
    let mut trial = Trial::new();
    append(trial.journal(), 1, 0..10).await;
    trial.order().await;
    let mut rows = Vec::new();
    let Control::Join { answer, .. } = trial.told(&mut rows).await else {
        panic!("no join");
    };
    // It waits for a position that does not come.
    answer.send(Lsn::new(1000)).unwrap();
    trial.wanted = None;
    trial.orders = mpsc::channel(1).0;
    tokio::time::timeout(Duration::from_secs(60), trial.task)
        .await
        .unwrap()
        .unwrap();
}
