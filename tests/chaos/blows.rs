//! What a plan says → done to the process, its connections, its disk and its server.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ddl::{self, Ddl};
use super::plan::{Event, Loss, Plan, Point, needs_copy};
use super::tables::Workload;
use super::{Run, Table, wait_caught_up};
use crate::harness::faults::Blow;
use crate::harness::{Random, signal, wait_for};

/// Longest until a blow that was arranged for must have come.
const REACH_LIMIT: Duration = Duration::from_secs(300);
/// Between two copies that are asked for to reach one.
const COPY_INTERVAL: Duration = Duration::from_secs(2);

impl Run<'_> {
    /// While the writers write.
    pub(super) fn act(&mut self, plan: &Plan, dice: &mut Random, number: usize) {
        *self.tally.events.entry(name_of(plan)).or_default() += 1;
        if let Event::At(point) = plan.event {
            self.arm(point);
        }
        if let Some(ddl) = plan.ddl {
            let database = self.database.clone();
            if let Event::Restart(mode) = plan.event {
                return std::thread::scope(|scope| {
                    let restarted = scope.spawn(|| restart(&database, mode));
                    ddl.run(&database, dice, &self.shape, &mut self.indexes);
                    restarted.join().unwrap();
                });
            }
            ddl.run(&database, dice, &self.shape, &mut self.indexes);
        }
        match plan.event {
            Event::At(_) => {}
            Event::Kill => self.kill(),
            Event::Stop => assert!(self.rektor.stop().success(), "SIGTERM is an ordinary end"),
            Event::Restart(mode) => restart(&self.database, mode),
            Event::TerminateStream => self.terminate(&format!(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{}' and active",
                self.rektor.slot()
            )),
            Event::TerminateCopy => self.terminate(&format!(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where query ilike 'copy (%' or pid in (select active_pid from pg_replication_slots where slot_name like '{}_copy%')",
                self.rektor.slot()
            )),
            Event::Pause => {
                signal(self.rektor.pid(), "STOP");
                // as long as the writers need, more or less
                std::thread::sleep(Duration::from_millis(100));
                signal(self.rektor.pid(), "CONT");
            }
            Event::Disk(refusal, skip) => {
                let before = self.faults.refused();
                self.faults.refuse(refusal, skip);
                let mut workload = Workload::new(dice.next(), self.database.cluster.server, &self.shape);
                let mut wire = self.database.connect();
                let deadline = Instant::now() + REACH_LIMIT;
                while self.faults.refused() == before {
                    assert!(Instant::now() < deadline, "round {number}: the disk was never used");
                    let _forgiven = wire.attempt(&workload.transaction()).unwrap();
                    let _ended = wire.attempt("rollback").unwrap();
                }
                self.faults.accept();
            }
        }
    }

    fn arm(&self, point: Point) {
        self.faults
            .arm(point.call, point.blow, point.nth, point.lose);
    }

    /// Terminates what that finds, or gives up: a copy may be over before it is found.
    fn terminate(&self, sql: &str) {
        let mut wire = self.database.connect();
        for _ in 0..50 {
            if !wire.rows(sql).is_empty() {
                return;
            }
        }
    }

    /// A point that the writers have not reached is reached now, and its victim is dead.
    pub(super) fn provoke(&mut self, plan: &Plan, number: usize) {
        let Event::At(point) = plan.event else { return };
        let shape = Arc::clone(&self.shape);
        let mut workload = Workload::new(
            self.seed ^ number as u64,
            self.database.cluster.server,
            &shape,
        );
        let mut wire = self.database.connect();
        let deadline = Instant::now() + REACH_LIMIT;
        let mut copied = Instant::now();
        loop {
            let over = match point.blow {
                Blow::Cut => !self.faults.is_armed(),
                Blow::KillBefore | Blow::KillAfter => self.killed(),
            };
            if over {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "round {number}: {point:?} was never reached: {plan:?}"
            );
            let _forgiven = wire.attempt(&workload.transaction()).unwrap();
            let _ended = wire.attempt("rollback").unwrap();
            if needs_copy(point.call) && copied.elapsed() > COPY_INTERVAL {
                copied = Instant::now();
                ddl::reindex(&self.database, Table::Narrow);
                self.tally.provoked += 1;
            }
        }
    }

    /// Loses what is to be lost, and starts the process, killed again where the plan says so.
    pub(super) fn start_again(&mut self, plan: &Plan, dice: &mut Random) {
        if self.rektor.is_running() {
            return;
        }
        self.lose(plan.loss, dice);
        for point in &plan.restarts {
            let fired = self.faults.fired(point.call);
            self.arm(*point);
            self.rektor.spawn();
            if wait_caught_up(&mut self.rektor, &self.database, &self.indexes) {
                self.faults.disarm();
                if self.faults.fired(point.call) == fired {
                    return; // not every start comes to that point
                }
            }
            wait_for("the killed process to end", REACH_LIMIT, || {
                self.killed().then_some(())
            });
        }
        match plan.refused_start {
            None => self.rektor.spawn(),
            Some(refusal) => {
                let before = self.faults.refused();
                self.faults.refuse(refusal, 0);
                self.rektor.spawn();
                wait_for("the disk to be used", REACH_LIMIT, || {
                    (self.faults.refused() > before).then_some(())
                });
                self.faults.accept();
                // It may refuse to start, or come up and wait.
                if !self.rektor.accepts() {
                    let ended = || self.rektor.ended();
                    let status = wait_for("the refusal to start", REACH_LIMIT, ended);
                    assert_eq!(status.code(), Some(1), "{}", self.rektor.log());
                    self.rektor.spawn();
                }
            }
        }
    }

    fn lose(&self, loss: Loss, dice: &mut Random) {
        match loss {
            Loss::Nothing => {}
            Loss::Slot => {
                let slot = self.rektor.slot();
                let mut wire = self.database.connect();
                wait_for("the slot to be free", REACH_LIMIT, || {
                    wire.attempt(&format!("select pg_drop_replication_slot('{slot}')"))
                        .unwrap()
                        .ok()
                });
            }
            Loss::Everything => {
                let state = self.rektor.data_dir().join("state");
                fs::remove_dir_all(&state).unwrap();
            }
            Loss::Flipped | Loss::Cut => damage(self.rektor.data_dir(), loss, dice),
        }
    }
}

fn restart(database: &crate::harness::Database<'_>, mode: &str) {
    database.cluster.down(mode);
    database.cluster.up();
}

/// Some stored file is not what was written.
fn damage(data: &Path, loss: Loss, dice: &mut Random) {
    let mut files = Vec::new();
    find(&data.join("state"), &mut files);
    files.retain(|file| fs::metadata(file).unwrap().len() > 0);
    files.sort();
    let file = &files[dice.below(files.len())];
    let mut bytes = fs::read(file).unwrap();
    let at = dice.below(bytes.len());
    match loss {
        Loss::Cut => bytes.truncate(at),
        Loss::Nothing | Loss::Slot | Loss::Everything | Loss::Flipped => {
            bytes[at] ^= 1 << dice.below(8)
        }
    }
    fs::write(file, bytes).unwrap();
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn name_of(plan: &Plan) -> String {
    let event = match plan.event {
        Event::At(point) => format!("{:?} {:?}", point.blow, point.call),
        other @ (Event::Kill
        | Event::Stop
        | Event::Restart(_)
        | Event::TerminateStream
        | Event::TerminateCopy
        | Event::Pause
        | Event::Disk(..)) => format!("{other:?}"),
    };
    match plan.ddl {
        None => event,
        Some(ddl) => format!("{event} during {}", kind_of(ddl)),
    }
}

fn kind_of(ddl: Ddl) -> String {
    let text = format!("{ddl:?}");
    text.split('(').next().unwrap_or_default().to_owned()
}
