//! What is noted of a session, and what an answer of the look-up means.

use super::*;

/// The look-up's row with these differences from an ordinary one.
fn answer(changes: &[(usize, Option<&str>)]) -> Answer {
    let mut values = [
        None,
        None,
        None,
        None,
        Some("read committed"),
        Some("UTF8"),
        Some("on"),
        Some("f"),
        Some("0/10"),
        Some("77"),
        Some("t"),
        Some("t"),
        Some("t"),
        Some("t"),
        Some("t"),
        None,
        Some("t"),
    ];
    for (at, value) in changes {
        values[*at] = *value;
    }
    let bytes = values.map(|value| value.map(str::as_bytes));
    Answer::read(&bytes, RelationId(77)).unwrap()
}

#[test]
fn an_answer_says_whether_a_statement_may_be_claimed() {
    let check = |changes, expected| assert_eq!(answer(changes).claimable, expected);
    check(&[], Ok(()));
    check(&[(9, Some("78"))], Err(RelayReason::Shadowed));
    check(&[(9, None)], Err(RelayReason::Shadowed));
    check(&[(10, Some("f"))], Err(RelayReason::StaleGeneration));
    check(&[(11, Some("f"))], Err(RelayReason::NoKeyPrivilege));
    check(&[(11, None)], Err(RelayReason::NoKeyPrivilege));
    check(&[(12, Some("f"))], Err(RelayReason::UnknownFunction));
    check(&[(13, Some("f"))], Err(RelayReason::UnknownType));
    check(&[(16, Some("f"))], Err(RelayReason::View));
    assert!(Answer::read(&[None], RelationId(77)).is_none());
}

#[test]
fn settings_are_read() {
    let settings = |changes| answer(changes).settings;
    assert_eq!(settings(&[]).min_lsn, None);
    assert_eq!(settings(&[(1, Some(""))]).min_lsn, None);
    assert_eq!(settings(&[(1, Some("0/20"))]).min_lsn, Some(Lsn::new(32)));
    assert_eq!(
        settings(&[(1, Some("x"))]).min_lsn,
        Some(Lsn::new(u64::MAX))
    );
    let effort = |changes: &[_]| answer(changes).settings.wanted.effort(Method::Hnsw);
    let recall = |value| effort(&[(2, Some("40")), (3, Some(value))]);
    assert_eq!(effort(&[]), Effort::Recall(DEFAULT_RECALL));
    assert_eq!(recall("0.9"), Effort::Recall(0.9));
    assert_eq!(recall("1"), Effort::Recall(MOST_RECALL));
    for unusable in ["", "x", "-1", "95", "NaN"] {
        assert_eq!(recall(unusable), Effort::Recall(DEFAULT_RECALL));
    }
    assert_eq!(
        effort(&[(2, Some("200")), (3, Some("0.5"))]),
        Effort::Candidates(200)
    );
    let both = settings(&[(2, Some("200")), (15, Some("8"))]).wanted;
    assert_eq!(both.effort(Method::Ivf), Effort::Lists(8));
    assert_eq!(both.effort(Method::Hnsw), Effort::Candidates(200));
    for unset in [None, Some("1"), Some("0"), Some("x")] {
        let wanted = answer(&[(15, unset)]).settings.wanted;
        assert_eq!(wanted.effort(Method::Ivf), Effort::Recall(DEFAULT_RECALL));
    }
    assert_eq!(
        settings(&[(0, Some("strong"))]).consistency,
        Consistency::Strong
    );
    assert!(!settings(&[(5, Some("LATIN1"))]).utf8);
}

#[test]
fn a_session_sees_its_own_commits_and_waits_for_no_others() {
    let now = Instant::now();
    let mut facts = Facts::default();
    assert!(facts.get("s", now).is_none());
    facts.learn("s".into(), &answer(&[]), now);
    let (settings, _) = facts.get("s", now).unwrap();
    assert_eq!(facts.must_see(settings), Lsn::ZERO);
    let writes = Effect {
        writes: true,
        ..Effect::default()
    };
    facts.note(writes);
    assert!(facts.get("s", now).is_none());
    facts.learn("s".into(), &answer(&[(8, Some("0/30"))]), now);
    let (settings, _) = facts.get("s", now).unwrap();
    assert_eq!(facts.must_see(settings), Lsn::new(48));
    let eventual = answer(&[(0, Some("eventual")), (1, Some("0/5"))]).settings;
    assert_eq!(facts.must_see(&eventual), Lsn::new(5));
}

#[test]
fn a_commit_before_an_eventual_search_is_seen_by_a_later_one() {
    let (mut facts, now) = (Facts::default(), Instant::now());
    facts.note(Effect {
        writes: true,
        ..Effect::default()
    });
    let eventual = answer(&[(0, Some("eventual")), (8, Some("0/30"))]);
    facts.learn("s".into(), &eventual, now);
    assert_eq!(facts.must_see(&eventual.settings), Lsn::ZERO);
    assert_eq!(facts.must_see(&answer(&[]).settings), Lsn::new(48));
}

#[test]
fn a_transaction_that_wrote_stays_so_until_it_ends() {
    let now = Instant::now();
    let mut facts = Facts::default();
    facts.note(Effect {
        writes: true,
        ..Effect::default()
    });
    facts.learn("s".into(), &answer(&[(7, Some("t"))]), now);
    assert!(facts.wrote());
    facts.transaction_ended(Instant::now);
    assert!(!facts.wrote());
    assert!(
        facts.get("s", now).is_none(),
        "its position is not known yet"
    );
}

#[test]
fn settings_count_until_a_position_is_read_outside_their_transaction() {
    let (mut facts, now) = (Facts::default(), Instant::now());
    facts.learn("s".into(), &answer(&[]), now);
    assert!(!facts.may_be_unwritten());
    facts.note(Effect {
        settings: true,
        ..Effect::default()
    });
    facts.learn("s".into(), &answer(&[]), now);
    assert!(facts.may_be_unwritten(), "SET LOCAL, and a commit follows");
    facts.transaction_ended(Instant::now);
    assert!(facts.may_be_unwritten());
    facts.learn("s".into(), &answer(&[]), now);
    assert!(!facts.may_be_unwritten());
}

#[test]
fn a_failed_transaction_keeps_its_view() {
    let (mut facts, view) = (Facts::default(), Arc::new(View::default()));
    let settings = answer(&[(4, Some("repeatable read"))]).settings;
    let end = Effect {
        transaction: Some(TransactionEffect::End { chain: false }),
        ..Effect::default()
    };
    let is_first = |facts: &Facts| {
        let pinned = facts.view(&settings).unwrap();
        pinned.is_some_and(|pinned| Arc::ptr_eq(pinned, &view))
    };
    facts.pin(|| Arc::clone(&view));
    facts.note(Effect {
        transaction: Some(TransactionEffect::RollbackTo),
        ..Effect::default()
    });
    assert!(is_first(&facts));
    facts.note(end);
    facts.pin(|| Arc::new(View::default()));
    facts.note(end);
    assert!(facts.view(&settings).unwrap().is_none());
    facts.transaction_failed();
    assert!(is_first(&facts), "the ends were not run");
    facts.note(end);
    facts.transaction_open();
    facts.transaction_failed();
    assert!(!is_first(&facts), "another transaction");
}

#[test]
fn settings_of_a_transaction_end_with_it() {
    let now = Instant::now();
    let mut facts = Facts::default();
    let end = Effect {
        transaction: Some(TransactionEffect::End { chain: false }),
        settings: true,
        ..Effect::default()
    };
    facts.learn("s".into(), &answer(&[]), now);
    facts.note(end);
    assert!(facts.get("s", now).is_some(), "nothing was set");
    facts.note(Effect {
        settings: true,
        ..Effect::default()
    });
    assert!(facts.get("s", now).is_none());
    facts.learn("s".into(), &answer(&[]), now);
    facts.note(end);
    assert!(facts.get("s", now).is_none());
}

#[test]
fn facts_age_and_strong_consistency_always_asks() {
    let now = Instant::now();
    let mut facts = Facts::default();
    facts.learn("s".into(), &answer(&[]), now);
    assert!(facts.get("s", now + MAX_AGE).is_none());
    assert!(facts.get("other", now).is_none());
    facts.learn("s".into(), &answer(&[(0, Some("strong"))]), now);
    assert!(facts.get("s", now).is_none());
    let (settings, _) = facts.last("s").unwrap();
    assert_eq!(facts.must_see(settings), Lsn::new(16));
}

#[test]
fn what_no_stream_tells_is_waited_for() {
    let (mut facts, now) = (Facts::default(), Instant::now());
    let later = |seconds| now + Duration::from_secs(seconds);
    assert!(!facts.outruns(None));
    facts.note(Effect {
        unstreamed: true,
        ..Effect::default()
    });
    assert!(facts.outruns(Some(later(1))), "COMMIT AND CHAIN");
    facts.transaction_ended(|| later(1));
    assert!(facts.outruns(None) && facts.outruns(Some(now)));
    assert!(!facts.outruns(Some(later(2))));
    facts.transaction_ended(|| later(3));
    assert!(!facts.outruns(Some(later(2))), "it did nothing of the kind");
}

#[test]
fn isolation_decides_which_view_answers() {
    let mut facts = Facts::default();
    let with = |level| answer(&[(4, Some(level))]).settings;
    facts.pin(|| Arc::new(View::default()));
    assert!(facts.view(&with("read committed")).unwrap().is_none());
    assert!(facts.view(&with("repeatable read")).unwrap().is_some());
    assert!(facts.view(&with("serializable")).is_err());
    facts.note(Effect {
        transaction: Some(TransactionEffect::ImportSnapshot),
        ..Effect::default()
    });
    let imported = facts.view(&with("repeatable read")).unwrap_err();
    assert_eq!(imported, RelayReason::ImportedSnapshot);
}
