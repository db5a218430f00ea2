//! The applier against a model of the table: whatever the order of transactions, of copies, of what passes by and is read from
//! the journal, and of failures, an index that serves holds exactly the rows of the position that it claims.

mod engine;
mod rows;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::catalog::{
    ColumnNumber, IncludeColumn, IndexDefinition, IndexOptions, KeyColumn, KeyType, PgvectorTypes,
    QualifiedName, RelationId, RowKey, TypeId, VectorColumn,
};
use crate::index::Writer;
use crate::index::view::{IndexState, Phase};
use crate::ingest::catch_up::CatchUp;
use crate::ingest::indexes::spec;
use crate::ingest::mending::{self, Settled};
use crate::ingest::projection::{Projection, table_copy};
use crate::ingest::{keep, restore};
use crate::store::{Directory, Origin};
use crate::upstream::rows::PgSnapshot;
use crate::vector::{Dim, Expression, Metric, Vector, VectorType};
use crate::wal::pgoutput::{Datum, OldTuple, RelationColumn};
use crate::wal::transaction::{Change, RowImage};

pub(crate) const VECTOR: TypeId = TypeId(16_000);
pub(crate) const TABLE: RelationId = RelationId(7);

type Row = (Option<[f32; 2]>, i32);
type Rows = BTreeMap<i32, Row>;

/// What one transaction does, and the table after it.
struct Committed {
    commit_lsn: Lsn,
    end_lsn: Lsn,
    events: Vec<Event>,
    after: Rows,
}

pub(crate) fn entry(id: i64, metric: Metric) -> IndexEntry {
    let name = |name: &str| QualifiedName {
        schema: "public".into(),
        name: name.into(),
    };
    let definition = IndexDefinition {
        id: IndexId(id),
        name: name("i"),
        relation: TABLE,
        table: name("t"),
        column: VectorColumn {
            name: "v".into(),
            number: ColumnNumber(2),
            kind: VectorType::Vector,
            type_id: VECTOR,
        },
        expression: Expression::Column,
        pgvector: PgvectorTypes::default(),
        dim: Dim::new(2).unwrap(),
        metric,
        key: vec![KeyColumn {
            name: "id".into(),
            number: ColumnNumber(1),
            kind: KeyType::Int4,
        }],
        include: vec![IncludeColumn {
            name: "p".into(),
            number: ColumnNumber(3),
            type_id: TypeId(23),
            deterministic: true,
        }],
        options: IndexOptions::default(),
    };
    IndexEntry {
        definition: Arc::new(definition),
        unusable: None,
        reindexed: 0,
        written: String::new(),
        file: 0,
        shape: crate::upstream::catalogue::Shape::default(),
        stamp: String::new(),
        row_filter: None,
        partitions: Vec::new(),
    }
}

fn relation() -> Arc<Relation> {
    let column = |name: &str, type_id| RelationColumn {
        key: name == "id",
        name: name.into(),
        type_id,
        type_modifier: -1,
    };
    Arc::new(Relation {
        id: TABLE,
        schema: "public".into(),
        name: "t".into(),
        replica_identity: b'd',
        columns: vec![
            column("id", TypeId(23)),
            column("v", VECTOR),
            column("p", TypeId(23)),
        ],
    })
}

pub(crate) fn int(number: i32) -> Datum {
    Datum::Binary(Bytes::copy_from_slice(&number.to_be_bytes()))
}

pub(crate) fn vector(value: Option<[f32; 2]>) -> Datum {
    value.map_or(Datum::Null, |v| {
        let vector = Vector::new(v.to_vec()).unwrap();
        Datum::Binary(vector.to_binary(VectorType::Vector).into())
    })
}

fn tuple(key: i32, row: Row) -> Vec<Datum> {
    vec![int(key), vector(row.0), int(row.1)]
}

fn row_key(key: i32) -> RowKey {
    RowKey::from_parts([&key.to_be_bytes()[..]])
}

/// The number of a transaction of the history.
fn xid(number: usize) -> u32 {
    u32::try_from(number).unwrap() + 10
}

/// Endless choices out of a finite script.
struct Choices<'a>(std::iter::Cycle<std::slice::Iter<'a, u32>>);

impl Choices<'_> {
    fn below(&mut self, limit: u32) -> u32 {
        self.0.next().unwrap() % limit
    }

    fn key(&mut self) -> i32 {
        i32::try_from(self.below(6)).unwrap()
    }

    fn vector(&mut self) -> Option<[f32; 2]> {
        let part = |n: u32| f32::from(u16::try_from(n).unwrap());
        match self.below(5) {
            0 => None,
            _ => Some([part(self.below(9)), part(self.below(9))]),
        }
    }
}

/// One statement on the table, as pgoutput tells it.
fn statement(
    choices: &mut Choices,
    rows: &mut Rows,
    commit_lsn: Lsn,
    table: &Arc<Relation>,
) -> Option<Event> {
    let change = |row| {
        Some(Event::Change(Change {
            commit_lsn,
            relation: Arc::clone(table),
            row,
        }))
    };
    let key = choices.key();
    let number = i32::try_from(choices.below(100)).unwrap();
    let old = rows.get(&key).copied();
    match (choices.below(10), old) {
        (0, _) => {
            rows.clear();
            Some(Event::Truncate {
                commit_lsn,
                relations: vec![Arc::clone(table)],
            })
        }
        (1 | 2, Some(_)) => {
            rows.remove(&key);
            let old = OldTuple::Key(vec![int(key), Datum::Null, Datum::Null]);
            change(RowImage::Delete { old })
        }
        (3 | 4, Some(row)) => {
            let to = choices.key();
            if rows.contains_key(&to) {
                return None;
            }
            rows.remove(&key);
            rows.insert(to, row);
            let old = Some(OldTuple::Key(vec![int(key), Datum::Null, Datum::Null]));
            let unchanged = row.0.map_or(Datum::Null, |_| Datum::Unchanged);
            let new = vec![int(to), unchanged, int(row.1)];
            change(RowImage::Update { old, new })
        }
        (5 | 6, Some(row)) => {
            rows.insert(key, (row.0, number));
            let unchanged = row.0.map_or(Datum::Null, |_| Datum::Unchanged);
            let new = vec![int(key), unchanged, int(number)];
            change(RowImage::Update { old: None, new })
        }
        (_, Some(_)) => {
            let row = (choices.vector(), number);
            rows.insert(key, row);
            let new = tuple(key, row);
            change(RowImage::Update { old: None, new })
        }
        (_, None) => {
            let row = (choices.vector(), number);
            rows.insert(key, row);
            let new = tuple(key, row);
            change(RowImage::Insert { new })
        }
    }
}

/// A history of the table, every transaction 10 bytes of WAL after the one before.
fn history(choices: &mut Choices, table: &Arc<Relation>) -> Vec<Committed> {
    let mut rows = Rows::new();
    let mut history = Vec::new();
    for number in 1..=u64::from(4 + choices.below(20)) {
        let commit_lsn = Lsn::new(number * 10);
        // Some take more than is kept for a writer that joins.
        let length = if choices.below(4) == 0 {
            12
        } else {
            choices.below(4)
        };
        let mut events = Vec::new();
        for _ in 0..length {
            events.extend(statement(choices, &mut rows, commit_lsn, table));
        }
        history.push(Committed {
            commit_lsn,
            end_lsn: Lsn::new(number * 10 + 5),
            events,
            after: rows.clone(),
        });
    }
    history
}

/// The table at a position.
fn rows_at(history: &[Committed], position: Lsn) -> Rows {
    let before = history.iter().take_while(|t| t.commit_lsn < position);
    before.last().map(|t| t.after.clone()).unwrap_or_default()
}

fn copied(entry: &IndexEntry, rows: &Rows) -> CopiedIndex {
    let (_, relation) = table_copy(&[&entry.definition], None);
    let projection = Projection::new(&entry.definition, &relation).unwrap();
    let mut writer = Writer::new(spec(&entry.definition)).unwrap();
    for (key, row) in rows {
        let new = vec![int(*key), vector(row.0), int(row.1)];
        let change = Change {
            commit_lsn: Lsn::ZERO,
            relation: Arc::clone(&relation),
            row: RowImage::Insert { new },
        };
        writer.apply(projection.change(&change).unwrap()).unwrap();
    }
    CopiedIndex {
        entry: entry.clone(),
        writer,
        left_out: 0,
    }
}

/// What an index must hold: rows with a vector that its metric can index.
fn findable(rows: Rows, metric: Metric) -> BTreeMap<RowKey, (Vec<f32>, i32)> {
    let rows = rows.into_iter().filter_map(|(key, (vector, number))| {
        let vector = vector?;
        let zero = metric == Metric::Cosine && vector == [0.0, 0.0];
        let key = row_key(key);
        (!zero).then(|| (key, (vector.to_vec(), number)))
    });
    rows.collect()
}

fn held(index: &IndexState) -> Option<BTreeMap<RowKey, (Vec<f32>, i32)>> {
    let snapshot = index.snapshot.as_ref()?;
    let rows = snapshot.rows().map(|row| {
        let number = snapshot.include(row, 0).unwrap().try_into().unwrap();
        (
            RowKey::from_encoded(snapshot.key(row).unwrap()),
            (
                snapshot.vector(row).unwrap().to_vec(),
                i32::from_be_bytes(number),
            ),
        )
    });
    Some(rows.collect())
}

/// A thread that catches up, step by step.
struct Reading {
    job: u64,
    follow: CatchUp,
    hold: Hold,
    wanted: watch::Receiver<()>,
    /// Where the applier was when it began to keep what comes.
    goal: Option<Lsn>,
}

struct Trial {
    applier: Applier,
    view: watch::Receiver<Arc<View>>,
    orders: mpsc::Receiver<CatchUpOrder>,
    readings: Vec<Reading>,
    history: Vec<Committed>,
    /// Transactions that the journal has.
    journalled: usize,
    order: Option<CopyOrder>,
    /// The transaction that was being streamed when the copy began.
    begun: usize,
    entries: Vec<IndexEntry>,
    /// Rows that are being fetched.
    fetch: Option<Fetch>,
    directory: Directory,
    known: keep::Known,
    kept: u32,
    _files: tempfile::TempDir,
}

/// Keys that are watched, and the rows read, once they are, with the answer.
struct Fetch {
    index: IndexId,
    order: mending::Order,
    answer: Option<oneshot::Receiver<mending::Settled>>,
}

type Parts = (
    Applier,
    watch::Receiver<Arc<View>>,
    mpsc::Receiver<CatchUpOrder>,
);

/// What was ordered catches up at once: there is nothing to read.
fn join_at_once(applier: &mut Applier, orders: &mut mpsc::Receiver<CatchUpOrder>) {
    applier.ask();
    while let Ok(order) = orders.try_recv() {
        let (answer, mut goal) = oneshot::channel();
        let job = order.job;
        applier.control(Control::Join { job, answer });
        applier.control(Control::Joined {
            job,
            position: goal.try_recv().unwrap().max(order.from),
            hold: order.hold,
            replicas: order.replicas,
        });
        applier.ask();
    }
}

/// An applier that knows nothing yet.
fn applier(holds: Holds) -> Parts {
    let (view_sender, view) = watch::channel(Arc::new(View::default()));
    let (catch_up, orders) = mpsc::channel(1);
    let outputs = Outputs {
        view: view_sender,
        applied: watch::channel(Lsn::ZERO).0,
        catalogue: watch::channel(CatalogueRequest::default()).0,
        copy_wanted: watch::channel(false).0,
        catch_up,
        rows_wanted: watch::channel(false).0,
    };
    (Applier::new(Arc::default(), holds, outputs), view, orders)
}

impl Trial {
    fn new(history: Vec<Committed>) -> Self {
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
        let (applier, view, orders) = applier(directory.holds());
        let mut trial = Self {
            applier,
            view,
            orders,
            readings: Vec::new(),
            directory,
            known: keep::Known::default(),
            kept: 0,
            _files: files,
            history,
            journalled: 0,
            order: None,
            begun: 0,
            fetch: None,
            entries: vec![entry(1, Metric::L2), entry(2, Metric::Cosine)],
        };
        trial.applier.item(Item::Begin {
            position: Lsn::new(1),
            epoch: 1,
        });
        trial.redefine();
        trial
    }

    fn redefine(&mut self) {
        let entries = self.entries.clone();
        self.applier.control(Control::Catalogue {
            began: std::time::Instant::now(),
            request: 0,
            entries,
        });
    }

    fn control(&mut self, control: Control) {
        self.applier.control(control);
        self.applier.ask();
        self.check();
    }

    /// Sends the transaction, or lets it pass by.
    fn stream(&mut self, number: usize, choices: &mut Choices) {
        let Committed {
            commit_lsn,
            end_lsn,
            events,
            ..
        } = &self.history[number];
        let whole = Whole::of(xid(number), *commit_lsn, *end_lsn, events.clone());
        let item = if choices.below(4) == 0 {
            Item::Passed(whole.passed())
        } else {
            Item::Transaction(whole)
        };
        self.applier.item(item);
        self.applier.ask();
        self.journalled = self.journalled.max(number + 1);
        self.check();
    }

    /// One step of a thread that catches up.
    fn read_on(&mut self, choices: &mut Choices) {
        while let Ok(order) = self.orders.try_recv() {
            assert_eq!(order.epoch, 1);
            self.readings.push(Reading {
                job: order.job,
                follow: CatchUp::new(order.replicas, order.from),
                hold: order.hold,
                wanted: order.wanted,
                goal: None,
            });
            self.applier.ask();
        }
        if self.readings.is_empty() {
            return;
        }
        let at = choices.below(u32::try_from(self.readings.len()).unwrap()) as usize;
        let mut reading = self.readings.swap_remove(at);
        if reading.wanted.has_changed().is_err() {
            return;
        }
        // The journal may be opened anew, and begins with more than is needed; what is not durable yet is not read.
        let read = |t: &&Committed| t.end_lsn <= reading.follow.position;
        let first = self.history.iter().take_while(read).count();
        let first = first.saturating_sub(choices.below(3) as usize);
        let until = self.journalled - choices.below(2).min(u32::from(self.journalled > 0)) as usize;
        for number in first..until.max(first) {
            let Committed {
                commit_lsn,
                end_lsn,
                events,
                ..
            } = &self.history[number];
            reading.follow.event(&Event::Begin {
                commit_lsn: *commit_lsn,
                xid: 1,
                commit_time: 0,
            });
            for event in events {
                reading.follow.event(event);
            }
            reading.follow.event(&Event::Commit {
                commit_lsn: *commit_lsn,
                end_lsn: *end_lsn,
                commit_time: 0,
            });
            if choices.below(3) == 0 {
                break;
            }
        }
        reading.follow.publish();
        for (id, trouble) in reading.follow.take_troubled() {
            let job = reading.job;
            self.control(Control::Trouble { job, id, trouble });
        }
        let states = reading.follow.take_states();
        let job = reading.job;
        self.control(Control::CaughtUp { job, states });
        match (choices.below(8), reading.goal) {
            (0, _) => {
                let error = String::from("damaged");
                self.control(Control::CatchUpFailed { job, error });
                self.time_passes();
                return;
            }
            (1..4, None) => {
                let (answer, mut answered) = oneshot::channel();
                self.control(Control::Join { job, answer });
                match answered.try_recv() {
                    Ok(position) => reading.goal = Some(position),
                    Err(_) => return,
                }
            }
            (_, Some(goal)) if reading.follow.position >= goal => {
                let (position, hold) = (reading.follow.position, reading.hold);
                let replicas = reading.follow.into_replicas();
                return self.control(Control::Joined {
                    job,
                    position,
                    hold,
                    replicas,
                });
            }
            _ => {}
        }
        self.readings.push(reading);
    }

    fn time_passes(&mut self) {
        let later = Instant::now() + Duration::from_secs(1000);
        self.applier.indexes.retry(later);
    }

    /// What the other tasks may do at any moment; upstream is ahead of the stream, which is at transaction `number`.
    fn anything(&mut self, number: usize, choices: &mut Choices) {
        match choices.below(16) {
            0 if self.order.is_none() => {
                let (answer, mut order) = oneshot::channel();
                self.applier.control(Control::CopyBegin(answer));
                self.order = order.try_recv().unwrap();
                self.begun = number;
            }
            1 | 2 => self.finish_copy(number, choices),
            6..10 => self.read_on(choices),
            3 => {
                if let Some(order) = self.order.take() {
                    let faulty = if choices.below(2) == 0 {
                        vec![IndexId(1)]
                    } else {
                        Vec::new()
                    };
                    let error = String::from("no");
                    let job = order.job;
                    self.applier.control(Control::CopyFailed {
                        job,
                        faulty,
                        error,
                        needs: 0,
                    });
                    self.time_passes();
                }
            }
            4 if choices.below(4) == 0 => {
                self.entries[0].reindexed += 1;
                self.redefine();
            }
            5 if choices.below(6) == 0 => {
                self.entries[1].stamp.push('x');
                self.redefine();
            }
            10 => self.watch(choices),
            11 | 12 => self.fetch(number, choices),
            _ => {}
        }
        self.check();
    }

    /// Some keys are watched from now on.
    fn watch(&mut self, choices: &mut Choices) {
        let index = IndexId(1 + i64::from(choices.below(2)));
        let keys = (0..choices.below(4)).map(|_| row_key(choices.key()));
        let keys = keys.collect();
        let (answer, mut order) = oneshot::channel();
        let request = Request::Watch {
            index,
            keys,
            answer,
        };
        self.applier.control(Control::Mend(request));
        self.fetch = order.try_recv().unwrap().ok().map(|order| Fetch {
            index,
            order,
            answer: None,
        });
    }

    /// The rows of the watched keys are read: upstream is ahead of transaction `number`, and may not show the newest commits
    /// although they were streamed. Nothing differs, since the stream tells everything.
    fn fetch(&mut self, number: usize, choices: &mut Choices) {
        let Some(fetch) = &mut self.fetch else { return };
        if let Some(answer) = &mut fetch.answer {
            match answer.try_recv() {
                Ok(settled) => {
                    let Settled {
                        missing,
                        extra,
                        differing,
                        ..
                    } = settled;
                    assert_eq!((missing, extra, differing), (0, 0, 0));
                    self.fetch = None;
                }
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => self.fetch = None,
            }
            return;
        }
        let behind = usize::try_from(choices.below(3)).unwrap();
        let seen = (number + usize::try_from(choices.below(4)).unwrap()).saturating_sub(behind);
        let rows = match seen.checked_sub(1).and_then(|last| self.history.get(last)) {
            Some(last) => last.after.clone(),
            None if seen == 0 => Rows::new(),
            None => self.history.last().unwrap().after.clone(),
        };
        let entry = &fetch.order.entry;
        let (_, relation) = table_copy(&[&entry.definition], None);
        let projection = Projection::new(&entry.definition, &relation).unwrap();
        let rows = rows.into_iter().map(|(key, row)| {
            let new = vec![int(key), vector(row.0), int(row.1)];
            let change = Change {
                commit_lsn: Lsn::ZERO,
                relation: Arc::clone(&relation),
                row: RowImage::Insert { new },
            };
            (
                row_key(key),
                mending::Row::Whole(projection.change(&change).unwrap()),
            )
        });
        let fetched = mending::Fetched {
            lsn: Lsn::new(seen as u64 * 10 + 5 + u64::from(choices.below(12))),
            snapshot: PgSnapshot::parse(&format!("1:{}:", xid(seen))).unwrap(),
            rows: rows.collect(),
        };
        let (answer, settled) = oneshot::channel();
        let request = Request::Fetched {
            order: fetch.order.number,
            index: fetch.index,
            fetched,
            answer,
        };
        fetch.answer = Some(settled);
        self.applier.control(Control::Mend(request));
    }

    /// Stores what there is to store.
    fn keep(&mut self) {
        let (answer, mut kept) = oneshot::channel();
        self.applier.control(Control::Keep(answer));
        let (_going, stop) = watch::channel(false);
        if let Ok(mut kept) = kept.try_recv() {
            self.known.learn(&mut kept);
            self.kept += 1;
            // Every third is not worth a generation.
            if !self.kept.is_multiple_of(3) {
                keep::write(&self.directory, &kept, &mut self.known, &stop).unwrap();
            }
        }
    }

    /// The process ends and another begins, with the journal up to transaction `number`, which comes next.
    fn restart(&mut self, number: usize) {
        let entries = self.entries.clone();
        let indexes = restore::load(&self.directory, entries, Lsn::ZERO, &Memory::unlimited());
        self.known = keep::Known::default();
        let end = number
            .checked_sub(1)
            .map_or(Lsn::new(1), |last| self.history[last].end_lsn);
        (self.applier, self.view, self.orders) = applier(self.directory.holds());
        self.order = None;
        self.readings.clear();
        self.fetch = None;
        self.applier.item(Item::Restore {
            position: end,
            epoch: 1,
            indexes,
        });
        self.redefine();
        self.applier.ask();
        self.check();
    }

    /// The copy's point lies after what was streamed when it began, behind or ahead of the stream of now.
    fn finish_copy(&mut self, number: usize, choices: &mut Choices) {
        let Some(order) = self.order.take() else {
            return;
        };
        let span = u32::try_from(number.saturating_sub(self.begun)).unwrap() + 4;
        let point = Lsn::new((self.begun as u64 + 2 + u64::from(choices.below(span))) * 10);
        let rows = rows_at(&self.history, point);
        let indexes = order
            .entries
            .iter()
            .map(|entry| copied(entry, &rows))
            .collect();
        let job = order.job;
        self.control(Control::Copied {
            job,
            point,
            indexes,
        });
    }

    fn check(&self) {
        for index in &self.view.borrow().indexes {
            let Some(held) = held(index) else {
                assert_ne!(index.phase, Phase::Ready);
                continue;
            };
            let expected = findable(
                rows_at(&self.history, index.applied),
                index.definition.metric,
            );
            assert_eq!(
                held, expected,
                "index {} at {}",
                index.definition.id, index.applied
            );
        }
    }

    /// Copies and the journal alone; `calm` lets nothing fail.
    fn copy_until_ready(&mut self, last: usize, calm: &mut Choices) {
        for _ in 0..40 {
            self.read_on(calm);
            self.finish_copy(last, calm);
            let (answer, mut order) = oneshot::channel();
            self.applier.control(Control::CopyBegin(answer));
            self.order = order.try_recv().unwrap();
            self.begun = last;
        }
        assert!(self.ready());
    }

    fn ready(&self) -> bool {
        let view = self.view.borrow();
        view.indexes.iter().all(|index| index.phase == Phase::Ready)
    }
}

proptest! {
    // Shrinking builds indexes over and over: a failure should show within seconds.
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn an_index_holds_the_rows_of_its_position(script in proptest::collection::vec(any::<u32>(), 40..400)) {
        let mut choices = Choices(script.iter().cycle());
        let history = history(&mut choices, &relation());
        let mut trial = Trial::new(history);
        for number in 0..trial.history.len() {
            trial.anything(number, &mut choices);
            match choices.below(12) {
                0 | 1 => trial.keep(),
                2 => trial.restart(number),
                _ => {}
            }
            if choices.below(5) == 0 {
                // A failure of the journal: the stream tells again what the applier has.
                trial.stream(number.saturating_sub(1), &mut choices);
            }
            trial.stream(number, &mut choices);
            for _ in 0..choices.below(3) {
                trial.anything(number + 1, &mut choices);
            }
        }
        // Whatever happened, copies and the journal alone lead back to complete indexes.
        let last = trial.history.len() - 1;
        let calm = [2]; // nothing fails, and all is read
        let mut calm = Choices(calm.iter().cycle());
        trial.copy_until_ready(last, &mut calm);
        trial.check();
    }
}
