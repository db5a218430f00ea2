//! The writer on a disk that fails or loses power at every operation, and damaged segments.

mod killed;
mod running;
mod tail;

use std::path::PathBuf;

use super::recovery::RecoveredJournal;
use super::*;
use crate::store::Origin;
use crate::store::disk::RealDisk;
use crate::store::disk::fault::{Fault, FaultDisk, Random};
use crate::wal::pgoutput::Relation;

fn origin() -> Origin {
    Origin {
        system_id: 7,
        timeline: 1,
        database: "d".to_owned(),
        slot: "s".to_owned(),
        epoch: 1,
    }
}

fn recover(disk: &FaultDisk) -> Result<RecoveredJournal, StoreError> {
    RecoveredJournal::recover(
        Arc::new(disk.clone()),
        Path::new(""),
        &origin(),
        Holds::default(),
    )
}

const START: u64 = 100;
/// So that a short workload writes, rotates and trims often.
const SMALL: Limits = Limits {
    segment: 1500,
    write: 300,
    trim: 500,
};

/// A step of a workload. Numbers are chosen so that every message differs.
#[derive(Clone, Debug)]
enum Step {
    /// A transaction of so many changes; the first describes its table.
    Transaction(usize),
    /// One that is cut off by a lost connection.
    CutOff(usize),
    Position,
    Sync,
    /// To the position some transactions back.
    Trim(u64),
}

/// What the journal must hold, and where each complete transaction ends.
#[derive(Clone, Debug, Default)]
struct Model {
    messages: Vec<(Replayed, Lsn)>,
    next: u64,
    /// The newest description of the table, which may be repeated anywhere.
    relation: Option<Bytes>,
    trimmed_to: Lsn,
    /// What was said to be durable within transactions.
    told: Lsn,
}

impl Model {
    fn message(&mut self, kind: &str) -> Bytes {
        self.next += 1;
        format!(
            "{kind} {} {}",
            self.next,
            "x".repeat(usize::try_from(self.next % 90).unwrap())
        )
        .into()
    }

    fn run(&mut self, writer: &mut Writer, step: &Step) -> Result<(), StoreError> {
        match step {
            Step::Transaction(changes) | Step::CutOff(changes) => {
                let cut_off = matches!(step, Step::CutOff(_));
                let begin = self.message("begin");
                let commit_lsn = Lsn::new(START + self.next * 10);
                let mut all = vec![begin.clone()];
                writer.append(Item::Begin {
                    commit_lsn,
                    message: begin,
                })?;
                for i in 0..*changes {
                    if i == 0 {
                        let relation = self.message("relation");
                        all.push(relation.clone());
                        self.relation = Some(relation.clone());
                        writer.append(Item::Relation {
                            id: 1,
                            message: relation,
                        })?;
                    }
                    let change = self.message("change");
                    all.push(change.clone());
                    writer.append(Item::Change { message: change })?;
                    if self.next.is_multiple_of(4) {
                        writer.sync()?; // as within a huge transaction
                        self.told = self.told.max(writer.durable());
                    }
                }
                if cut_off {
                    return writer.abandon();
                }
                let commit = self.message("commit");
                all.push(commit.clone());
                let end = Lsn::new(START + self.next * 10);
                // Known before the call: a commit whose write fails half way may still be found.
                self.messages.extend(
                    all.into_iter()
                        .map(|message| (Replayed::Message(message), end)),
                );
                writer.append(Item::Commit {
                    end_lsn: end,
                    message: commit,
                })
            }
            Step::Position => {
                self.next += 1;
                let lsn = Lsn::new(START + self.next * 10);
                self.messages.push((Replayed::Position(lsn), lsn));
                writer.append(Item::Position { lsn })
            }
            Step::Sync => writer.sync(),
            Step::Trim(back) => {
                let end = self.messages.last().map_or(START, |(_, end)| end.as_u64());
                let keep_from = Lsn::new(end.saturating_sub(back * 10).max(START));
                self.trimmed_to = self.trimmed_to.max(keep_from);
                writer.trim(keep_from)
            }
        }
    }
}

fn workload(random: &mut Random, length: usize) -> Vec<Step> {
    (0..length)
        .map(|_| match random.below(10) {
            0..4 => Step::Transaction(random.below(5)),
            4 => Step::CutOff(random.below(5)),
            5 => Step::Position,
            6..9 => Step::Sync,
            _ => Step::Trim(random.below(20) as u64),
        })
        .collect()
}

/// Checks what a restart finds against what was written, and how much of it was said to be durable.
fn check(found: &RecoveredJournal, model: &Model, durable: Lsn) {
    let Some((start, end)) = found.range() else {
        assert!(
            durable <= Lsn::new(START),
            "lost everything up to {durable}"
        );
        return;
    };
    assert!(end >= durable, "{end} was found, {durable} was promised");
    assert!(start <= model.trimmed_to.max(Lsn::new(START)));
    let expected: Vec<_> = model
        .messages
        .iter()
        .filter(|(_, at)| *at > start && *at <= end)
        .map(|(message, _)| message.clone())
        .collect();
    let mut replayed: Vec<_> = found.replay(start).collect::<Result<_, _>>().unwrap();
    // Descriptions are repeated at the head of a segment.
    let is_relation =
        |item: &Replayed| matches!(item, Replayed::Message(m) if m.starts_with(b"relation"));
    let mut without = expected;
    replayed.retain(|item| !is_relation(item));
    without.retain(|item| !is_relation(item));
    assert_eq!(replayed, without, "from {start} to {end}");
}

/// Runs until the first error; the durable position is what a reporter would have told upstream.
fn run(disk: &FaultDisk, steps: &[Step], model: &mut Model) -> Result<Lsn, Lsn> {
    let mut told = Lsn::new(START);
    let Ok(recovered) = recover(disk) else {
        return Err(Lsn::ZERO);
    };
    let Ok(mut writer) = Writer::start(recovered, Lsn::new(START), SMALL) else {
        return Err(Lsn::ZERO);
    };
    for step in steps {
        let done = model.run(&mut writer, step);
        told = told.max(writer.durable()).max(model.told);
        if done.is_err() {
            return Err(told);
        }
    }
    Ok(told)
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_promised() {
    for seed in 0..12 {
        let steps = workload(&mut Random::new(seed), 40);
        let disk = FaultDisk::new();
        run(&disk, &steps, &mut Model::default()).unwrap();
        let operations = disk.operations();
        assert!(operations > 30);
        for at in 1..=operations {
            let disk = FaultDisk::new();
            disk.arrange(at, Fault::Stop);
            let mut model = Model::default();
            let told = match run(&disk, &steps, &mut model) {
                Ok(told) | Err(told) => told,
            };
            for crash in 0..4 {
                let after = disk.reboot(&mut Random::new(seed * 1000 + at * 10 + crash));
                let found = recover(&after).unwrap_or_else(|e| panic!("seed {seed} at {at}: {e}"));
                check(&found, &model, told);
                // A second look finds the same, and writing goes on.
                let end = found.range().map_or(Lsn::new(START), |(_, end)| end);
                let again = recover(&after).unwrap();
                assert_eq!(again.range(), found.range());
                let mut model = model.clone();
                model.messages.retain(|(_, at)| *at <= end);
                let mut writer = Writer::start(again, Lsn::new(START), SMALL).unwrap();
                for step in [Step::Transaction(2), Step::Sync] {
                    model.run(&mut writer, &step).unwrap();
                }
                check(&recover(&after).unwrap(), &model, writer.durable());
            }
        }
    }
}

#[test]
fn a_failed_operation_promises_nothing_and_a_restart_mends_it() {
    for seed in 0..12 {
        let steps = workload(&mut Random::new(seed), 40);
        let disk = FaultDisk::new();
        run(&disk, &steps, &mut Model::default()).unwrap();
        for at in 1..=disk.operations() {
            let disk = FaultDisk::new();
            disk.arrange(at, Fault::FailOnce);
            let mut model = Model::default();
            let Err(told) = run(&disk, &steps, &mut model) else {
                panic!("the failure of operation {at} was not seen");
            };
            check(&recover(&disk).unwrap(), &model, told);
        }
    }
}

/// A journal of three segments and what it holds.
fn three_segments() -> (FaultDisk, Model, Lsn) {
    let disk = FaultDisk::new();
    let mut model = Model::default();
    for _ in 0..3 {
        let recovered = recover(&disk).unwrap();
        let mut writer = Writer::start(recovered, Lsn::new(START), SMALL).unwrap();
        for step in [
            Step::Transaction(2),
            Step::Sync,
            Step::Position,
            Step::Transaction(1),
            Step::Sync,
        ] {
            model.run(&mut writer, &step).unwrap();
        }
    }
    let end = recover(&disk).unwrap().range().unwrap().1;
    (disk, model, end)
}

#[test]
fn every_flipped_and_truncated_byte_is_seen() {
    let (disk, model, end) = three_segments();
    let mut corrupt = 0;
    let files = disk.files();
    assert_eq!(files.len(), 3);
    for file in &files {
        let bytes = disk.content(file);
        let last = Some(file) == files.iter().max();
        let mut damage: Vec<Vec<u8>> = (0..bytes.len())
            .map(|length| bytes[..length].to_vec())
            .collect();
        damage.extend((0..bytes.len()).map(|at| {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            damaged
        }));
        for damaged in damage {
            disk.replace(file, damaged);
            match recover(&disk) {
                Err(StoreError::Corrupt { .. }) => corrupt += 1,
                Err(other) => panic!("{other}"),
                // Behind the last record that tells of durability, damage cannot be told from a torn write. Then less
                // is found than was promised, and the slot, which was confirmed further, gives it away.
                Ok(found) => {
                    assert!(last, "damage of {} was not seen", file.display());
                    let (_, found_end) = found.range().unwrap();
                    assert!(found_end < end);
                    check(&found, &model, Lsn::ZERO);
                }
            }
            if disk.length(file).is_ok() {
                disk.replace(file, bytes.clone());
            } else {
                disk.create(file).unwrap().append(&bytes).unwrap(); // a header that was torn was removed
            }
        }
    }
    assert!(corrupt > 0);
    // What was durable before the last sync is told apart even in the last segment.
    let last = files.iter().max().unwrap();
    let mut bytes = disk.content(last);
    bytes[segment::HEADER_LENGTH + segment::RECORD_HEADER_LENGTH] ^= 1;
    disk.replace(last, bytes);
    assert!(matches!(recover(&disk), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_missing_or_foreign_segment_is_seen() {
    let (disk, _, _) = three_segments();
    let mut files = disk.files();
    files.sort();
    let renamed = PathBuf::from(DIRECTORY).join(file_name(9));
    disk.rename(&files[1], &renamed).unwrap();
    assert!(matches!(recover(&disk), Err(StoreError::Corrupt { .. })));
    disk.rename(&renamed, &files[1]).unwrap();
    recover(&disk).unwrap();
    let mut other = origin();
    other.epoch = 2;
    let foreign = RecoveredJournal::recover(
        Arc::new(disk.clone()),
        Path::new(""),
        &other,
        Holds::default(),
    );
    assert!(matches!(foreign, Err(StoreError::Corrupt { .. })));
    // The first may be gone: it was trimmed.
    disk.remove_file(&files[0]).unwrap();
    recover(&disk).unwrap();
    // The last one gone looks like an older journal: the slot tells.
    disk.remove_file(&files[2]).unwrap();
    recover(&disk).unwrap();
}

#[test]
fn segments_rotate_repeat_descriptions_and_are_trimmed() {
    let disk = FaultDisk::new();
    let mut writer =
        Writer::start(recover(&disk).unwrap(), Lsn::new(START), Limits::USUAL).unwrap();
    let big = Bytes::from(vec![7; 9 << 20]);
    let description = Bytes::from_static(b"relation");
    let mut at = START;
    for i in 0..24 {
        let begin = Bytes::from_static(b"begin");
        let commit_lsn = Lsn::new(at);
        writer
            .append(Item::Begin {
                commit_lsn,
                message: begin,
            })
            .unwrap();
        if i == 0 {
            writer
                .append(Item::Relation {
                    id: 1,
                    message: description.clone(),
                })
                .unwrap();
        }
        writer
            .append(Item::Change {
                message: big.clone(),
            })
            .unwrap();
        at += 10;
        let end_lsn = Lsn::new(at);
        let commit = Bytes::from_static(b"commit");
        writer
            .append(Item::Commit {
                end_lsn,
                message: commit,
            })
            .unwrap();
    }
    writer.sync().unwrap();
    assert_eq!(disk.files().len(), 4);
    assert!(writer.size() > 3 * Limits::USUAL.segment);
    let found = recover(&disk).unwrap();
    assert_eq!(found.range(), Some((Lsn::new(START), Lsn::new(at))));
    // From the middle: fewer messages, and the description first.
    let from = Lsn::new(at - 20);
    let replayed: Vec<_> = found.replay(from).collect::<Result<_, _>>().unwrap();
    assert!(replayed.len() < 24 * 3);
    assert_eq!(replayed[0], Replayed::Message(description));
    writer.trim(from).unwrap();
    let (start, end) = recover(&disk).unwrap().range().unwrap();
    assert!(start > Lsn::new(START) && start <= from && end == Lsn::new(at));
    writer.trim(end).unwrap();
    assert_eq!(recover(&disk).unwrap().range(), Some((end, end)));
    assert!(writer.size() < 1000);
}

#[test]
fn an_order_that_no_stream_has_is_refused() {
    let text = || Bytes::from_static(b"m");
    let begin = |at| Item::Begin {
        commit_lsn: Lsn::new(at),
        message: text(),
    };
    let commit = |at| Item::Commit {
        end_lsn: Lsn::new(at),
        message: text(),
    };
    let position = |at| Item::Position { lsn: Lsn::new(at) };
    let change = || Item::Change { message: text() };
    for items in [
        vec![change()],
        vec![commit(200)],
        vec![begin(99)],
        vec![begin(200), begin(210)],
        vec![begin(200), commit(200)],
        vec![begin(200), position(300)],
        vec![begin(200), commit(210), begin(205)],
    ] {
        let shown = format!("{items:?}");
        let writer = Writer::start(recover(&FaultDisk::new()).unwrap(), Lsn::new(START), SMALL);
        let mut writer = writer.unwrap();
        let mut outcome = Ok(());
        for item in items {
            assert!(outcome.is_ok(), "{shown}");
            outcome = writer.append(item);
        }
        assert!(matches!(outcome, Err(StoreError::Order(_))), "{shown}");
    }
    let mut writer =
        Writer::start(recover(&FaultDisk::new()).unwrap(), Lsn::new(START), SMALL).unwrap();
    for item in [
        position(150),
        position(120),
        begin(150),
        change(),
        commit(160),
        position(160),
    ] {
        writer.append(item).unwrap();
    }
}
