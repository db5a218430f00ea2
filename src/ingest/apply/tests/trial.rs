//! An applier with its journal, its copies, what reads beside it and what is stored, driven by choices: whatever they are, what
//! it shows is the table.

use super::*;

/// A thread that catches up, step by step.
struct Reading {
    job: u64,
    follow: CatchUp,
    hold: Hold,
    wanted: watch::Receiver<()>,
    /// Where the applier was when it began to keep what comes.
    goal: Option<Lsn>,
}

pub(super) struct Trial {
    pub(super) applier: Applier,
    pub(super) view: watch::Receiver<Arc<View>>,
    orders: mpsc::Receiver<CatchUpOrder>,
    readings: Vec<Reading>,
    pub(super) history: Vec<Committed>,
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

pub(super) type Parts = (
    Applier,
    watch::Receiver<Arc<View>>,
    mpsc::Receiver<CatchUpOrder>,
);

/// What was ordered catches up at once: there is nothing to read.
pub(super) fn join_at_once(applier: &mut Applier, orders: &mut mpsc::Receiver<CatchUpOrder>) {
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
pub(super) fn applier(holds: Holds) -> Parts {
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
    pub(super) fn new(history: Vec<Committed>) -> Self {
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
    pub(super) fn stream(&mut self, number: usize, choices: &mut Choices) {
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

    pub(super) fn time_passes(&mut self) {
        let later = Instant::now() + Duration::from_secs(1000);
        self.applier.indexes.retry(later);
    }

    /// What the other tasks may do at any moment; upstream is ahead of the stream, which is at transaction `number`.
    pub(super) fn anything(&mut self, number: usize, choices: &mut Choices) {
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
    pub(super) fn keep(&mut self) {
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
    pub(super) fn restart(&mut self, number: usize) {
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

    pub(super) fn check(&self) {
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
    pub(super) fn copy_until_ready(&mut self, last: usize, calm: &mut Choices) {
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
