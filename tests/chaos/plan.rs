//! A seed and a round's number → what happens in it.

use super::ddl::Ddl;
use super::tables::Table;
use crate::harness::Random;
use crate::harness::faults::{Blow, Call, Refusal};

/// A call at which the process is killed, or a connection cut.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub call: Call,
    pub blow: Blow,
    pub nth: u64,
    /// Power goes, too: the seed of what is lost.
    pub lose: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub enum Event {
    At(Point),
    /// SIGKILL at any moment.
    Kill,
    /// SIGTERM.
    Stop,
    /// PostgreSQL stops in that mode and comes back.
    Restart(&'static str),
    /// The walsender's backend is terminated.
    TerminateStream,
    /// The backends of a copy are terminated.
    TerminateCopy,
    /// SIGSTOP, and SIGCONT a moment later.
    Pause,
    /// The disk refuses for a moment.
    Disk(Refusal, u64),
}

/// What is amiss with the stored state when the process starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Nothing,
    /// The slot is dropped upstream.
    Slot,
    /// The data directory is empty.
    Everything,
    /// A byte of some file is another.
    Flipped,
    /// Some file ends early.
    Cut,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub event: Event,
    pub ddl: Option<Ddl>,
    /// A transaction above the bound for waiting in memory, and how it ends.
    pub huge: Option<&'static str>,
    pub short_writes: bool,
    pub loss: Loss,
    /// The disk refuses when the process starts again, for a moment.
    pub refused_start: Option<Refusal>,
    /// Where the process is killed while it starts again, one after the other.
    pub restarts: Vec<Point>,
    /// Before the comparison the process is stopped in order, rather than killed.
    pub ends_in_order: bool,
}

impl Plan {
    pub fn choose(dice: &mut Random, number: usize) -> Self {
        let mut event = event(dice);
        let mut ddl = (dice.below(4) == 0).then(|| Ddl::choose(dice));
        let huge = (number % 40 == 20).then(|| ["commit", "rollback"][dice.below(2)]);
        let loss = match dice.below(30) {
            0 => Loss::Slot,
            1 => Loss::Everything,
            2 => Loss::Flipped,
            3 => Loss::Cut,
            _ => Loss::Nothing,
        };
        let mut restarts: Vec<_> = (0..dice.below(3)).map(|_| at_start(dice)).collect();
        match event {
            Event::At(Point { call, .. }) if needs_copy(call) && ddl.is_none() => {
                ddl = Some(Ddl::Reindex(Table::ALL[dice.below(3)]));
            }
            Event::TerminateCopy => ddl = Some(Ddl::Reindex(Table::ALL[dice.below(3)])),
            Event::Restart(_) => ddl = ddl.filter(|ddl| ddl.is_repeatable()),
            Event::Disk(..) => ddl = None,
            Event::At(_) | Event::Kill | Event::Stop | Event::TerminateStream | Event::Pause => {}
        }
        if huge.is_some() {
            // killed in the middle of it, and again where its beginning is cut off the journal
            event = Event::At(Point {
                call: Call::StreamReceive,
                blow: Blow::KillAfter,
                nth: 100 + u64::try_from(dice.below(400)).unwrap(),
                lose: None,
            });
            restarts.insert(0, point(dice, Call::Truncate, 1));
            ddl = None;
        }
        let refused_start = match dice.below(40) {
            0 => Some(Refusal::Full),
            1 => Some(Refusal::Broken),
            2 => Some(Refusal::ReadOnly),
            _ => None,
        };
        if loss != Loss::Nothing {
            // without a slot there is none to drop
            let call = match loss {
                Loss::Everything => Call::DropSlot,
                Loss::Nothing | Loss::Slot | Loss::Flipped | Loss::Cut => Call::CreateSlot,
            };
            restarts.insert(0, point(dice, call, 1));
            // the state of a process that is not running
            event = Event::Kill;
        }
        Self {
            event,
            ddl,
            huge,
            short_writes: dice.below(10) == 0,
            loss,
            refused_start,
            restarts,
            ends_in_order: dice.below(4) == 0,
        }
    }

    /// Whether an index may be copied in this round.
    pub fn may_copy(&self) -> bool {
        self.ddl.is_some() || self.loss != Loss::Nothing
    }

    /// Whether index and table may differ for a moment after all positions agree.
    pub fn is_silent(&self) -> bool {
        self.ddl.is_some_and(Ddl::is_silent)
    }
}

/// Calls that come only with a copy and the generation after it.
pub fn needs_copy(call: Call) -> bool {
    match call {
        Call::Rename | Call::Unlink | Call::Create | Call::CopyReceive | Call::CreateSlot => true,
        Call::Sync
        | Call::Truncate
        | Call::Write
        | Call::Ack
        | Call::StreamReceive
        | Call::StartReplication
        | Call::DropSlot => false,
    }
}

fn event(dice: &mut Random) -> Event {
    match dice.below(40) {
        0..=25 => {
            let (call, most) = [
                (Call::Sync, 20),
                (Call::Sync, 20),
                (Call::Write, 20),
                (Call::Write, 20),
                (Call::Ack, 20),
                (Call::Ack, 20),
                (Call::StreamReceive, 30),
                (Call::StreamReceive, 30),
                (Call::CopyReceive, 12),
                (Call::CreateSlot, 1),
                (Call::Rename, 1),
                (Call::Create, 4),
                (Call::Unlink, 5),
            ][dice.below(13)];
            Event::At(point(dice, call, most))
        }
        26..=28 => Event::Kill,
        29 | 30 => Event::Stop,
        31 => Event::Restart("fast"),
        32 => Event::Restart("immediate"),
        33 | 34 => Event::TerminateStream,
        35 => Event::TerminateCopy,
        36 => Event::Pause,
        37 => Event::Disk(
            [Refusal::Full, Refusal::Broken, Refusal::ReadOnly][dice.below(3)],
            u64::try_from(dice.below(10)).unwrap(),
        ),
        _ => {
            let calls = [
                Call::StreamReceive,
                Call::CopyReceive,
                Call::Ack,
                Call::CreateSlot,
            ];
            let call = calls[dice.below(4)];
            let cut = point(dice, call, 15);
            let nth = if cut.call == Call::CreateSlot {
                1
            } else {
                cut.nth
            };
            Event::At(Point {
                blow: Blow::Cut,
                nth,
                ..cut
            })
        }
    }
}

fn at_start(dice: &mut Random) -> Point {
    let (call, most) = [
        (Call::Sync, 8),
        (Call::Write, 4),
        (Call::Create, 2),
        (Call::StartReplication, 1),
        (Call::StreamReceive, 4),
        (Call::Ack, 4),
        (Call::Unlink, 2),
        (Call::Truncate, 1),
    ][dice.below(8)];
    point(dice, call, most)
}

fn point(dice: &mut Random, call: Call, most: usize) -> Point {
    Point {
        call,
        blow: [Blow::KillBefore, Blow::KillAfter][dice.below(2)],
        nth: 1 + u64::try_from(dice.below(most)).unwrap(),
        lose: (dice.below(2) == 0).then(|| dice.next()),
    }
}
