//! Keys that are watched while their rows are read from the table → which of them nothing has changed meanwhile, so that the
//! rows read must be those that the index has. Pure: no I/O, no clock.
//!
//! Why that is exact: the watch begins when everything before a position P is applied. Then a snapshot S of the table is read,
//! and after it a position L that lies behind every commit that S shows. Once everything before L is applied, a key that no
//! applied change has touched since P was not changed by any commit between P and L; and what was committed before P is in S,
//! unless its commit was in the WAL but not visible yet, which [`Recent`] finds out. So S shows the row as it is at L.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::sync::oneshot;

use crate::catalog::{IndexId, RowKey};
use crate::index::{LeftOutView, RowChange};
use crate::lsn::Lsn;
use crate::upstream::catalogue::IndexEntry;
use crate::upstream::rows::PgSnapshot;

/// Most keys watched at a time: comparing them holds up the applier for some milliseconds.
pub(crate) const MAX_WATCHED: usize = 10_000;
/// Most keys of an index that wait for their rows; with more, copying all of it is quicker.
pub(crate) const MAX_LACKING: usize = 10_000;
/// Transactions whose visibility is still to be seen, at most: eight bytes each.
const MAX_RECENT: usize = 100_000;

/// What the task that fetches rows wants of the applier.
#[derive(Debug)]
pub(crate) enum Request {
    /// An index that lacks rows, if there is one.
    Lacking(oneshot::Sender<Option<Lacking>>),
    /// From now on it is noted which of these keys are changed.
    Watch {
        index: IndexId,
        keys: Vec<RowKey>,
        answer: oneshot::Sender<Result<Order, Refusal>>,
    },
    /// The rows of a watch's keys: compared, and put right, once everything before `lsn` is applied.
    Fetched {
        order: u64,
        index: IndexId,
        fetched: Fetched,
        answer: oneshot::Sender<Settled>,
    },
    /// A watch ends: its rows cannot be had.
    Release { order: u64, index: IndexId },
    /// An index cannot be mended row by row: it is copied again.
    GiveUp { index: IndexId, reason: String },
    /// Which of these keys the index does not have.
    Absent {
        index: IndexId,
        keys: Vec<RowKey>,
        answer: oneshot::Sender<Vec<RowKey>>,
    },
    /// The rows that no search can find.
    LeftOut {
        index: IndexId,
        answer: oneshot::Sender<LeftOutView>,
    },
    /// An audit of the index has ended.
    Audited {
        index: IndexId,
        at: std::time::SystemTime,
    },
}

/// An index that is not published because it lacks rows that the stream did not bring.
#[derive(Debug)]
pub(crate) struct Lacking {
    pub(crate) index: IndexId,
    pub(crate) keys: Vec<RowKey>,
}

/// A watch that was registered.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) number: u64,
    /// The index as it was made.
    pub(crate) entry: IndexEntry,
    pub(crate) keys: Vec<RowKey>,
}

/// Why keys cannot be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The index follows nothing at present.
    NotComplete,
    /// It catches up, or the stream is not where the copy is: a moment later.
    Later,
}

/// What the table has for the keys of a watch.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Behind every commit that the snapshot shows.
    pub(crate) lsn: Lsn,
    pub(crate) snapshot: PgSnapshot,
    /// A key that is not here has no row.
    pub(crate) rows: HashMap<RowKey, Row>,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) enum Row {
    /// It is there; only the key was read.
    Present,
    /// All of it.
    Whole(RowChange),
}

/// What became of a watch's keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// As of that position.
    pub(crate) lsn: Lsn,
    /// Rows that the index lacked.
    pub(crate) missing: u64,
    /// Rows that the table does not have.
    pub(crate) extra: u64,
    /// Rows with another vector or INCLUDE value.
    pub(crate) differing: u64,
    /// Keys that cannot be told about: they were changed meanwhile, or only looked for.
    pub(crate) again: Vec<RowKey>,
    /// All of them, because the rows that were read may lack a commit that is applied here.
    pub(crate) unseen: bool,
}

/// Keys under watch.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) order: u64,
    /// Of [`Recent`], when the watch began.
    mark: u64,
    /// Whether something has changed the key since.
    keys: BTreeMap<RowKey, bool>,
    fetched: Option<(Fetched, oneshot::Sender<Settled>)>,
    unseen: bool,
}

impl Watch {
    pub(crate) fn new(order: u64, mark: u64, keys: impl IntoIterator<Item = RowKey>) -> Self {
        Self {
            order,
            mark,
            keys: keys.into_iter().map(|key| (key, false)).collect(),
            fetched: None,
            unseen: false,
        }
    }

    /// Takes note of a change that is applied.
    pub(crate) fn touch(&mut self, change: &RowChange) {
        match change {
            RowChange::Upsert { old_key, key, .. } => {
                for key in old_key.iter().chain([key]) {
                    self.touch_key(key);
                }
            }
            RowChange::Delete { key } => self.touch_key(key),
            RowChange::Truncate => self.touch_all(),
        }
    }

    fn touch_key(&mut self, key: &RowKey) {
        if let Some(touched) = self.keys.get_mut(key) {
            *touched = true;
        }
    }

    fn touch_all(&mut self) {
        self.keys.values_mut().for_each(|touched| *touched = true);
    }

    /// The rows are there. If not all that was applied before the watch is in them, nothing can be told.
    pub(crate) fn fetched(
        &mut self,
        fetched: Fetched,
        recent: &mut Recent,
        answer: oneshot::Sender<Settled>,
    ) {
        if !recent.all_seen(self.mark, &fetched.snapshot) {
            self.unseen = true;
            self.touch_all();
        }
        self.fetched = Some((fetched, answer));
    }

    /// Whether everything that the rows show is applied.
    pub(crate) fn is_due(&self, applied: Lsn) -> bool {
        self.fetched
            .as_ref()
            .is_some_and(|(fetched, _)| fetched.lsn <= applied)
    }

    /// What the table has for each key that was not touched, and the touched keys; `None` before the rows are there.
    pub(crate) fn verdict(self) -> Option<Verdict> {
        let (mut fetched, answer) = self.fetched?;
        let mut again = Vec::new();
        let mut rows = Vec::with_capacity(self.keys.len());
        for (key, touched) in self.keys {
            if touched {
                again.push(key);
            } else {
                rows.push((fetched.rows.remove(&key), key));
            }
        }
        Some(Verdict {
            lsn: fetched.lsn,
            rows,
            again,
            unseen: self.unseen,
            answer,
        })
    }
}

/// What must be true of an index, as of a position.
pub(crate) struct Verdict {
    pub(crate) lsn: Lsn,
    /// The table's row of each key, `None` if it has none.
    pub(crate) rows: Vec<(Option<Row>, RowKey)>,
    pub(crate) again: Vec<RowKey>,
    pub(crate) unseen: bool,
    pub(crate) answer: oneshot::Sender<Settled>,
}

/// Transactions that were applied, as long as it is not known that everyone can see them: a commit is in the WAL, and here,
/// a moment before it is visible upstream, and with synchronous replication the moment can be long.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    xids: VecDeque<(u64, u32)>,
    next: u64,
    unknown: Unknown,
}

/// Transactions that may be invisible and are not in the list.
#[derive(Clone, Copy, Debug, Default)]
enum Unknown {
    #[default]
    None,
    /// Those of an earlier process.
    Earlier,
    /// Those older than this one.
    OlderThan(u32),
}

impl Recent {
    /// What is applied continues what an earlier process has applied.
    pub(crate) fn continues(&mut self) {
        self.unknown = Unknown::Earlier;
    }

    /// A transaction is applied.
    pub(crate) fn applied(&mut self, xid: u32) {
        self.xids.push_back((self.next, xid));
        self.next += 1;
        if self.xids.len() > MAX_RECENT
            && let Some((_, dropped)) = self.xids.pop_front()
        {
            let newest = match self.unknown {
                Unknown::OlderThan(other) if !is_older(other, dropped) => other,
                Unknown::None | Unknown::Earlier | Unknown::OlderThan(_) => dropped.wrapping_add(1),
            };
            self.unknown = Unknown::OlderThan(newest);
        }
    }

    /// Tells what is applied now from what will be.
    pub(crate) fn mark(&self) -> u64 {
        self.next
    }

    /// Whether the snapshot shows every transaction that was applied before the mark.
    fn all_seen(&mut self, mark: u64, snapshot: &PgSnapshot) -> bool {
        self.xids.retain(|(_, xid)| !snapshot.sees(*xid));
        if matches!(self.unknown, Unknown::Earlier) {
            self.unknown = Unknown::OlderThan(snapshot.end());
        }
        if let Unknown::OlderThan(bound) = self.unknown {
            let running = snapshot.running();
            if running.iter().any(|xid| is_older(*xid, bound)) || is_older(snapshot.end(), bound) {
                return false;
            }
            self.unknown = Unknown::None;
        }
        self.xids.front().is_none_or(|(number, _)| *number >= mark)
    }
}

/// Whether a transaction number comes before another; they wrap around.
fn is_older(xid: u32, than: u32) -> bool {
    than.wrapping_sub(xid).wrapping_sub(1) < u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> PgSnapshot {
        PgSnapshot::parse(text).unwrap()
    }

    #[test]
    fn what_is_not_visible_yet_is_noticed() {
        let mut recent = Recent::default();
        (5..8).for_each(|xid| recent.applied(xid));
        let mark = recent.mark();
        recent.applied(9);
        // 6 is in the WAL, but not visible; 9 came after the mark.
        assert!(!recent.all_seen(mark, &snapshot("6:10:6,9")));
        assert!(!recent.all_seen(mark, &snapshot("6:7:6")));
        assert!(recent.all_seen(mark, &snapshot("9:10:9")));
        assert!(!recent.all_seen(recent.mark(), &snapshot("9:10:9")));
    }

    #[test]
    fn what_is_forgotten_is_taken_for_invisible_while_anything_so_old_runs() {
        let mut recent = Recent::default();
        let last = u32::try_from(MAX_RECENT).unwrap() + 10;
        (10..last).for_each(|xid| recent.applied(xid));
        assert!(recent.all_seen(recent.mark(), &snapshot(&format!("9:{last}:9"))));
        let more = last + u32::try_from(MAX_RECENT).unwrap() + 2;
        (last..more).for_each(|xid| recent.applied(xid));
        assert!(!recent.all_seen(recent.mark(), &snapshot(&format!("9:{more}:9"))));
        assert!(recent.all_seen(recent.mark(), &snapshot(&format!("{more}:{more}:"))));
        // After a restart: whatever was running then may have been applied.
        let mut recent = Recent::default();
        recent.continues();
        assert!(!recent.all_seen(recent.mark(), &snapshot("5:9:5")));
        assert!(!recent.all_seen(recent.mark(), &snapshot("5:12:5,11")));
        assert!(recent.all_seen(recent.mark(), &snapshot("11:12:11")));
    }
}
