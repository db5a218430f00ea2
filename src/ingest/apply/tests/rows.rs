//! Rows that the stream does not bring: lacking ones are fetched before anything is shown, and what differs from the table is
//! found and put right, key by key.

use super::*;
use crate::ingest::mending::{Fetched, Lacking, Order, Refusal, Row as TableRow};

const INDEX: IndexId = IndexId(1);

/// An index that follows its table.
struct One {
    applier: Applier,
    view: watch::Receiver<Arc<View>>,
    lacking: watch::Receiver<bool>,
    orders: mpsc::Receiver<CatchUpOrder>,
    rows: Rows,
    /// Of the open transaction.
    events: Vec<Event>,
    /// Transactions so far.
    number: u64,
}

impl One {
    fn new(rows: Rows) -> Self {
        let (view_sender, view) = watch::channel(Arc::new(View::default()));
        let (rows_wanted, lacking) = watch::channel(false);
        let (catch_up, mut orders) = mpsc::channel(1);
        let outputs = Outputs {
            view: view_sender,
            applied: watch::channel(Lsn::ZERO).0,
            catalogue: watch::channel(CatalogueRequest::default()).0,
            copy_wanted: watch::channel(false).0,
            rows_wanted,
            catch_up,
        };
        let mut applier = Applier::new(Arc::default(), Holds::default(), outputs);
        applier.item(Item::Begin {
            position: Lsn::new(1),
            epoch: 1,
        });
        let entries = vec![entry(1, Metric::L2)];
        applier.control(Control::Catalogue {
            began: std::time::Instant::now(),
            request: 0,
            entries,
        });
        let (answer, mut order) = oneshot::channel();
        applier.control(Control::CopyBegin(answer));
        let order = order.try_recv().unwrap().unwrap();
        let indexes = vec![copied(&order.entries[0], &rows)];
        let (job, point) = (order.job, Lsn::new(1));
        applier.control(Control::Copied {
            job,
            point,
            indexes,
        });
        join_at_once(&mut applier, &mut orders);
        Self {
            applier,
            view,
            lacking,
            orders,
            rows,
            events: Vec::new(),
            number: 0,
        }
    }

    fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    fn change(&mut self, commit_lsn: Lsn, row: RowImage) {
        self.event(Event::Change(Change {
            commit_lsn,
            relation: relation(),
            row,
        }));
    }

    fn begin(&mut self) -> Lsn {
        self.number += 1;
        Lsn::new(self.number * 10)
    }

    fn whole(&mut self, commit_lsn: Lsn) -> Whole {
        let xid = u32::try_from(self.number).unwrap();
        let events = std::mem::take(&mut self.events);
        Whole::of(xid, commit_lsn, self.end(), events)
    }

    fn commit(&mut self, commit_lsn: Lsn) {
        let whole = self.whole(commit_lsn);
        self.applier.item(Item::Transaction(whole));
        self.applier.ask();
    }

    fn transaction(&mut self, rows: impl IntoIterator<Item = RowImage>) {
        let commit_lsn = self.begin();
        for row in rows {
            self.change(commit_lsn, row);
        }
        self.commit(commit_lsn);
    }

    /// The end of the last transaction.
    fn end(&self) -> Lsn {
        Lsn::new(self.number * 10 + 5)
    }

    fn watch(&mut self, keys: &[i32]) -> Result<Order, Refusal> {
        let (answer, mut order) = oneshot::channel();
        let keys = keys.iter().map(|key| row_key(*key)).collect();
        self.applier.control(Control::Mend(Request::Watch {
            index: INDEX,
            keys,
            answer,
        }));
        order.try_recv().unwrap()
    }

    /// The rows of the table as of now are handed over.
    fn fetch(&mut self, order: &Order, whole: bool) -> oneshot::Receiver<Settled> {
        let definition = &order.entry.definition;
        let (_, relation) = table_copy(&[definition], None);
        let projection = Projection::new(definition, &relation).unwrap();
        let rows = self.rows.iter().map(|(key, row)| {
            let change = Change {
                commit_lsn: Lsn::ZERO,
                relation: Arc::clone(&relation),
                row: RowImage::Insert {
                    new: tuple(*key, *row),
                },
            };
            let row = if whole {
                TableRow::Whole(projection.change(&change).unwrap())
            } else {
                TableRow::Present
            };
            (row_key(*key), row)
        });
        let fetched = Fetched {
            lsn: self.end(),
            snapshot: PgSnapshot::parse(&format!("1:{}:", self.number + 1)).unwrap(),
            rows: rows.collect(),
        };
        let (answer, settled) = oneshot::channel();
        self.applier.control(Control::Mend(Request::Fetched {
            order: order.number,
            index: INDEX,
            fetched,
            answer,
        }));
        self.applier.ask();
        settled
    }

    fn lacks(&mut self) -> Vec<RowKey> {
        let (answer, mut lacking) = oneshot::channel();
        self.applier
            .control(Control::Mend(Request::Lacking(answer)));
        let lacking = lacking.try_recv().unwrap();
        lacking.map_or_else(Vec::new, |Lacking { keys, .. }| keys)
    }

    fn state(&self) -> Arc<IndexState> {
        Arc::clone(&self.view.borrow().indexes[0])
    }

    fn agrees(&self) {
        let state = self.state();
        let expected = findable(self.rows.clone(), Metric::L2);
        assert_eq!(held(&state), Some(expected));
        assert_eq!(state.applied, self.end());
    }
}

fn insert(key: i32, row: Row) -> RowImage {
    RowImage::Insert {
        new: tuple(key, row),
    }
}

/// An UPDATE of another column: the vector is out of line.
fn unchanged(key: i32, number: i32) -> RowImage {
    RowImage::Update {
        old: None,
        new: vec![int(key), Datum::Unchanged, int(number)],
    }
}

fn delete(key: i32) -> RowImage {
    let old = OldTuple::Key(vec![int(key), Datum::Null, Datum::Null]);
    RowImage::Delete { old }
}

#[test]
fn a_row_that_came_in_part_is_fetched_before_anything_is_shown() {
    let mut one = One::new([(1, (Some([1.0, 1.0]), 1))].into());
    one.transaction([insert(2, (Some([2.0, 2.0]), 2))]);
    one.rows.insert(2, (Some([2.0, 2.0]), 2));
    one.agrees();
    let before = one.state().applied;

    // Key 3 enters a row filter: the stream has its number, but not its vector.
    one.rows.insert(3, (Some([3.0, 3.0]), 30));
    one.transaction([unchanged(3, 30)]);
    assert_eq!(one.lacks(), [row_key(3)]);
    assert!(*one.lacking.borrow());
    one.rows.insert(4, (Some([4.0, 4.0]), 4));
    one.transaction([insert(4, (Some([4.0, 4.0]), 4))]);
    assert_eq!(
        one.state().applied,
        before,
        "nothing without the row is shown"
    );
    assert_eq!(held(&one.state()).unwrap().len(), 2);

    let order = one.watch(&[3]).unwrap();
    let mut settled = one.fetch(&order, true);
    let settled = settled.try_recv().unwrap();
    assert_eq!((settled.missing, settled.again.len()), (0, 0));
    one.agrees();
    assert!(!*one.lacking.borrow());
    let audit = one.state().audit;
    assert_eq!((audit.fetched, audit.mended), (1, 0));
}

#[test]
fn a_lacking_row_may_come_or_go_by_itself() {
    let arrives = insert(3, (Some([3.0, 3.0]), 3));
    let moves = RowImage::Update {
        old: Some(OldTuple::Key(vec![int(3), Datum::Null, Datum::Null])),
        new: vec![int(5), Datum::Unchanged, int(7)],
    };
    for (change, lacks) in [(arrives, None), (delete(3), None), (moves, Some(5))] {
        let mut one = One::new(Rows::new());
        one.transaction([unchanged(3, 1)]);
        one.transaction([change]);
        let expected: Vec<RowKey> = lacks.into_iter().map(row_key).collect();
        assert_eq!(one.lacks(), expected);
        assert_eq!(one.state().applied == one.end(), lacks.is_none());
    }
    let mut one = One::new(Rows::new());
    one.transaction([unchanged(3, 1)]);
    let commit_lsn = one.begin();
    one.event(Event::Truncate {
        commit_lsn,
        relations: vec![relation()],
    });
    one.commit(commit_lsn);
    one.agrees();
}

#[test]
fn too_many_lacking_rows_mean_a_copy() {
    let mut one = One::new(Rows::new());
    let most = i32::try_from(mending::MAX_LACKING).unwrap();
    one.transaction((0..most).map(|key| unchanged(key, 0)));
    assert_eq!(one.lacks().len(), mending::MAX_LACKING);
    one.transaction([unchanged(most, 0)]);
    assert_eq!(one.lacks(), []);
    assert!(one.applier.indexes.wants_copy());
}

#[test]
fn a_key_that_changes_between_is_looked_at_again() {
    let mut one = One::new([(1, (Some([1.0, 1.0]), 1)), (2, (None, 2))].into());
    let order = one.watch(&[1, 2, 3]).unwrap();
    one.rows.insert(3, (Some([3.0, 3.0]), 3));
    one.transaction([insert(3, (Some([3.0, 3.0]), 3))]);
    let mut settled = one.fetch(&order, true);
    assert_eq!(settled.try_recv().unwrap().again, [row_key(3)]);
    // A position that is not applied yet.
    let order = one.watch(&[1, 2]).unwrap();
    one.number += 1;
    let mut settled = one.fetch(&order, true);
    settled.try_recv().unwrap_err();
    one.transaction([delete(7)]);
    assert_eq!(settled.try_recv().unwrap().again, []);
    // A commit that was streamed and is not visible.
    one.transaction([delete(7)]);
    let order = one.watch(&[1]).unwrap();
    one.number -= 1;
    let mut settled = one.fetch(&order, true);
    assert_eq!(settled.try_recv().unwrap().again, [row_key(1)]);
}

#[test]
fn an_index_that_catches_up_is_compared_when_it_has() {
    let mut one = One::new(Rows::new());
    let watched = one.watch(&[1]).unwrap();
    let commit_lsn = one.begin();
    for key in 0..100 {
        one.change(commit_lsn, insert(key, (None, key)));
    }
    let passed = one.whole(commit_lsn).passed();
    one.applier.item(Item::Passed(passed));
    assert_eq!(one.watch(&[1]).unwrap_err(), Refusal::Later);
    // What was watched before has missed the changes.
    let mut settled = one.fetch(&watched, true);
    assert!(settled.try_recv().is_err());
    join_at_once(&mut one.applier, &mut one.orders);
    assert!(one.watch(&[1]).is_ok());
}

#[test]
fn what_came_just_before_a_transaction_that_passed_by_is_shown() {
    let mut one = One::new(Rows::new());
    one.rows.insert(7, (Some([7.0, 7.0]), 7));
    let commit_lsn = one.begin();
    one.change(commit_lsn, insert(7, (Some([7.0, 7.0]), 7)));
    let before = Item::Transaction(one.whole(commit_lsn));
    let shown = one.end();
    let commit_lsn = one.begin();
    one.change(commit_lsn, insert(8, (Some([8.0, 8.0]), 8)));
    let passed = Item::Passed(one.whole(commit_lsn).passed());
    // In one batch.
    one.applier.take(before);
    one.applier.take(passed);
    one.applier.show();
    assert_eq!(one.state().applied, shown);
    let expected = findable(one.rows.clone(), Metric::L2);
    assert_eq!(held(&one.state()), Some(expected));
}

proptest! {
    /// What the stream does not tell is found by comparing all keys, counted, and put right; and nothing else is.
    #[test]
    fn exactly_what_differs_is_put_right(script in proptest::collection::vec(any::<u32>(), 40..200)) {
        let mut choices = Choices(script.iter().cycle());
        let mut rows = Rows::new();
        for _ in 0..choices.below(7) {
            rows.insert(choices.key(), (choices.vector(), 1));
        }
        let mut one = One::new(rows);
        let before = one.rows.clone();
        for _ in 0..choices.below(6) {
            let (key, vector) = (choices.key(), choices.vector());
            if choices.below(3) == 0 {
                one.rows.remove(&key);
            } else {
                one.rows.insert(key, (vector, i32::try_from(choices.below(3)).unwrap()));
            }
        }
        let keys: Vec<i32> = (0..6).collect();
        let bits = |row: &Row| (row.0.map(|v| v.map(f32::to_bits)), row.1);
        let of = |which: fn(Option<&Row>, Option<&Row>) -> bool| keys.iter().filter(|key| which(before.get(*key), one.rows.get(*key))).count() as u64;
        let missing = of(|old, new| old.is_none() && new.is_some());
        let extra = of(|old, new| old.is_some() && new.is_none());
        let differing = keys
            .iter()
            .filter_map(|key| before.get(key).zip(one.rows.get(key)))
            .filter(|(old, new)| bits(old) != bits(new))
            .count() as u64;
        one.transaction([]);

        // Looking for keys alone finds what is not there; the rest needs whole rows.
        let order = one.watch(&keys).unwrap();
        let settled = one.fetch(&order, false).try_recv().unwrap();
        prop_assert_eq!((settled.missing, settled.extra, settled.differing), (0, extra, 0));
        prop_assert_eq!(settled.again.len() as u64, missing);
        let order = one.watch(&keys).unwrap();
        let settled = one.fetch(&order, true).try_recv().unwrap();
        prop_assert_eq!((settled.missing, settled.extra, settled.differing), (missing, 0, differing));
        one.agrees();
        prop_assert_eq!(one.state().audit.mended, missing + extra + differing);
    }
}
