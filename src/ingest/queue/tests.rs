//! What fits is sent whole, what does not passes by with all that it touched, and a cut transaction leaves nothing.

use bytes::Bytes;

use super::*;
use crate::wal::pgoutput::{Datum, Relation};
use crate::wal::transaction::{Change, RowImage};

fn relation(id: u32, name: &str) -> Arc<Relation> {
    Arc::new(Relation {
        id: RelationId(id),
        schema: "rektor".into(),
        name: name.into(),
        replica_identity: b'd',
        columns: Vec::new(),
    })
}

fn change(table: &Arc<Relation>, bytes: usize) -> Event {
    Event::Change(Change {
        commit_lsn: Lsn::ZERO,
        relation: Arc::clone(table),
        row: RowImage::Insert {
            new: vec![Datum::Binary(Bytes::from(vec![0; bytes]))],
        },
    })
}

/// Sends the events of a transaction, without its end.
fn begin(open: &mut Open, queue: &mut Queue, number: u32, events: Vec<Event>) {
    let commit_lsn = Lsn::new(u64::from(number) * 10);
    let begin = Event::Begin {
        commit_lsn,
        xid: number,
        commit_time: 0,
    };
    for event in [begin].into_iter().chain(events) {
        open.event(event, queue).unwrap();
    }
}

fn send(open: &mut Open, queue: &mut Queue, number: u32, events: Vec<Event>) {
    begin(open, queue, number, events);
    let commit = Event::Commit {
        commit_lsn: Lsn::new(u64::from(number) * 10),
        end_lsn: Lsn::new(u64::from(number) * 10 + 5),
        commit_time: 0,
    };
    open.event(commit, queue).unwrap();
}

fn ids(ids: &[u32]) -> BTreeSet<RelationId> {
    ids.iter().copied().map(RelationId).collect()
}

#[test]
fn what_does_not_fit_passes_by() {
    let (items, mut queued) = mpsc::channel(100);
    let mut queue = Queue::new(items);
    let mut open = Open::default();
    let (a, b, definitions) = (relation(1, "a"), relation(2, "b"), relation(3, "index"));
    let whole = |queued: &mut mpsc::Receiver<Item>| {
        let Ok(Item::Transaction(whole)) = queued.try_recv() else {
            panic!("no transaction");
        };
        whole
    };
    let passed = |queued: &mut mpsc::Receiver<Item>| {
        let Ok(Item::Passed(passed)) = queued.try_recv() else {
            panic!("nothing passed by");
        };
        passed
    };

    send(&mut open, &mut queue, 1, vec![change(&a, 100); 3]);
    let first = whole(&mut queued);
    assert_eq!(
        (first.xid, first.end, first.events.len()),
        (1, Lsn::new(15), 3)
    );
    drop(first);

    // Larger than a transaction may be: what it touched before and after that is known.
    let mut events = vec![Event::Relation(Arc::clone(&a)), change(&a, 100)];
    events.extend(vec![change(&b, 1000); 8]);
    events.push(Event::Truncate {
        commit_lsn: Lsn::ZERO,
        relations: vec![Arc::clone(&definitions)],
    });
    send(&mut open, &mut queue, 2, events);
    let wanted = Passed {
        end: Lsn::new(25),
        changed: ids(&[1, 2, 3]),
        described: ids(&[1]),
        definers: [2].into(),
    };
    assert_eq!(passed(&mut queued), wanted);
    assert_eq!(
        queue.memory.available_permits(),
        QUEUE_BYTES,
        "it holds no memory"
    );

    // The applier is slow: two fit, the third does not, and the fourth does when the first is applied.
    for number in 3..6 {
        send(&mut open, &mut queue, number, vec![change(&a, 2800)]);
    }
    drop(whole(&mut queued));
    send(&mut open, &mut queue, 6, vec![change(&b, 2800)]);
    assert_eq!(whole(&mut queued).xid, 4);
    assert_eq!(passed(&mut queued).changed, ids(&[1]));
    assert_eq!(whole(&mut queued).xid, 6);
}

#[test]
fn a_cut_transaction_leaves_nothing() {
    let (items, mut queued) = mpsc::channel(100);
    let mut queue = Queue::new(items);
    for bytes in [10, 5000] {
        let mut open = Open::default();
        begin(
            &mut open,
            &mut queue,
            1,
            vec![change(&relation(1, "a"), bytes)],
        );
        drop(open); // with its connection
        assert!(queued.try_recv().is_err());
        assert_eq!(queue.memory.available_permits(), QUEUE_BYTES);
    }
}

#[tokio::test]
async fn without_a_place_everything_is_told_later_at_once() {
    let (items, mut queued) = mpsc::channel(1);
    let mut queue = Queue::new(items);
    let mut open = Open::default();
    let (a, b) = (relation(1, "a"), relation(2, "b"));
    queue.pass(Passed::at(Lsn::new(1))).unwrap();
    assert!(!queue.is_behind());
    send(&mut open, &mut queue, 1, vec![change(&a, 10)]);
    send(&mut open, &mut queue, 2, vec![change(&b, 5000)]);
    queue.pass(Passed::at(Lsn::new(77))).unwrap();
    assert!(queue.is_behind());
    assert_eq!(queue.memory.available_permits(), QUEUE_BYTES);
    assert!(matches!(queued.recv().await, Some(Item::Passed(passed)) if passed.end == Lsn::new(1)));
    queue.room().await.unwrap();
    queue.catch_up().unwrap();
    assert!(!queue.is_behind());
    let Some(Item::Passed(passed)) = queued.recv().await else {
        panic!("nothing was told");
    };
    assert_eq!((passed.end, passed.changed), (Lsn::new(77), ids(&[1, 2])));
    drop(queued);
    assert!(
        queue.pass(Passed::at(Lsn::new(80))).is_err(),
        "the applier is gone"
    );
}
