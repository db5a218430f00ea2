//! The running thread: what is given to it becomes durable, or it says why not.

use super::*;

fn begin(commit: u64) -> LogicalMessage {
    LogicalMessage::Begin {
        final_lsn: Lsn::new(commit),
        commit_time: 0,
        xid: 1,
    }
}

fn commit(commit: u64, end: u64) -> LogicalMessage {
    LogicalMessage::Commit {
        commit_lsn: Lsn::new(commit),
        end_lsn: Lsn::new(end),
        commit_time: 0,
    }
}

async fn put(journal: &Journal, message: &LogicalMessage, raw: Bytes) -> Result<(), StoreError> {
    let Some(entry) = Entry::of(message, raw) else {
        return Ok(());
    };
    Journal::append(journal.room(&entry).await?, entry);
    Ok(())
}

async fn put_position(journal: &Journal, lsn: u64) -> Result<(), StoreError> {
    let entry = Entry::position(Lsn::new(lsn));
    Journal::append(journal.room(&entry).await?, entry);
    Ok(())
}

fn on_real_disk(root: &Path) -> RecoveredJournal {
    RecoveredJournal::recover(Arc::new(RealDisk), root, &origin(), Holds::default()).unwrap()
}

#[tokio::test]
async fn the_running_journal_becomes_durable_and_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let journal = on_real_disk(directory.path())
        .start(Lsn::new(START))
        .unwrap();
    let mut durable = journal.durable();
    let raw = |text: &'static str| Bytes::from_static(text.as_bytes());
    let relation = LogicalMessage::Relation(Relation {
        id: crate::catalog::RelationId(1),
        schema: String::new(),
        name: String::new(),
        replica_identity: b'd',
        columns: Vec::new(),
    });
    let ignored = LogicalMessage::Origin {
        lsn: Lsn::ZERO,
        name: String::new(),
    };
    put(&journal, &begin(110), raw("B")).await.unwrap();
    put(&journal, &ignored, raw("O")).await.unwrap();
    put(&journal, &relation, raw("R")).await.unwrap();
    put(&journal, &commit(110, 120), raw("C")).await.unwrap();
    durable.wait_for(|lsn| *lsn == Lsn::new(120)).await.unwrap();
    put_position(&journal, 130).await.unwrap();
    durable.wait_for(|lsn| *lsn == Lsn::new(130)).await.unwrap();
    // A lost connection: the transaction comes again.
    put(&journal, &begin(140), raw("half")).await.unwrap();
    journal.abandon().await.unwrap();
    put(&journal, &begin(140), raw("B2")).await.unwrap();
    put(&journal, &commit(140, 150), raw("C2")).await.unwrap();
    put(&journal, &begin(160), raw("open")).await.unwrap();
    assert!(journal.trimmer().size() > 0);
    journal.close().await.unwrap();
    assert_eq!(*durable.borrow(), Lsn::new(150));

    let found = on_real_disk(directory.path());
    assert_eq!(found.range(), Some((Lsn::new(START), Lsn::new(150))));
    let replayed: Vec<_> = found.replay(Lsn::new(START)).map(Result::unwrap).collect();
    let message = |text| Replayed::Message(raw(text));
    assert_eq!(
        replayed,
        [
            message("B"),
            message("R"),
            message("C"),
            Replayed::Position(Lsn::new(130)),
            message("B2"),
            message("C2")
        ]
    );
    let journal = found.start(Lsn::ZERO).unwrap();
    assert_eq!(*journal.durable().borrow(), Lsn::new(150));
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_failed_writer_stops_confirming_and_says_why() {
    let disk = FaultDisk::new();
    let recovered = recover(&disk).unwrap();
    let journal = recovered.start(Lsn::new(START)).unwrap();
    let mut durable = journal.durable();
    disk.arrange(disk.operations() + 1, Fault::Stop);
    put(&journal, &begin(110), Bytes::new()).await.unwrap();
    put(&journal, &commit(110, 120), Bytes::new())
        .await
        .unwrap();
    assert!(
        durable
            .wait_for(|lsn| *lsn > Lsn::new(START))
            .await
            .is_err()
    );
    let refused = put_position(&journal, 130).await;
    assert!(matches!(refused, Err(StoreError::Stopped)));
    let why = journal.close().await.unwrap_err();
    assert!(why.to_string().contains("the power is gone"), "{why}");
}

#[tokio::test]
async fn much_more_than_the_queue_holds_passes_through() {
    let directory = tempfile::tempdir().unwrap();
    let journal = on_real_disk(directory.path())
        .start(Lsn::new(START))
        .unwrap();
    let raw = Bytes::from(vec![1; 3 << 20]);
    let change = LogicalMessage::Truncate {
        relations: Vec::new(),
        cascade: false,
        restart_identity: false,
    };
    put(&journal, &begin(110), Bytes::new()).await.unwrap();
    for _ in 0..40 {
        put(&journal, &change, raw.clone()).await.unwrap();
    }
    put(
        &journal,
        &change,
        Bytes::from(vec![1; QUEUE_BYTES as usize + 1]),
    )
    .await
    .unwrap();
    put(&journal, &commit(110, 120), Bytes::new())
        .await
        .unwrap();
    journal.close().await.unwrap();
    let found = on_real_disk(directory.path());
    assert_eq!(found.range(), Some((Lsn::new(START), Lsn::new(120))));
    assert_eq!(found.replay(Lsn::new(START)).count(), 43);
}
