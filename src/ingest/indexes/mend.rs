//! Rows fetched by key → compared with what the indexes have, and put right where they differ. Only between transactions, and
//! only what is surely as the table has it at the position that is applied.

use std::time::Instant;

use super::Indexes;
use super::one::{Index, Place};
use super::replica::Replica;
use crate::catalog::{IndexId, RowKey};
use crate::index::{Comparison, IndexError, RowChange};
use crate::ingest::mending::{
    Lacking, MAX_WATCHED, Order, Refusal, Request, Row, Settled, Verdict, Watch,
};
use crate::lsn::Lsn;

impl Indexes {
    /// Does what the task that fetches rows asks for. Everything before `position` is applied.
    pub(crate) fn mend(&mut self, request: Request, position: Lsn) {
        // Whoever asked may have been stopped: then nobody needs an answer.
        match request {
            Request::Lacking(answer) => {
                let _unasked = answer.send(self.lacking());
            }
            Request::Watch {
                index,
                keys,
                answer,
            } => {
                let _unasked = answer.send(self.watch(index, keys, position));
            }
            Request::Fetched {
                order,
                index,
                fetched,
                answer,
            } => {
                let following = self.all.get_mut(&index).and_then(Index::following);
                let watch = following.and_then(|replica| replica.watch.as_mut());
                if let Some(watch) = watch.filter(|watch| watch.order == order) {
                    watch.fetched(fetched, &mut self.recent, answer);
                }
            }
            Request::Release { order, index } => {
                if let Some(replica) = self.following(index) {
                    replica.watch.take_if(|watch| watch.order == order);
                }
            }
            Request::GiveUp { index, reason } => {
                if let Some(index) = self.all.get_mut(&index)
                    && index.live.is_some()
                {
                    tracing::warn!(index = %index.entry.definition.name, reason, "the index cannot be mended row by row and is copied again");
                    index.distrust();
                }
            }
            Request::Absent {
                index,
                mut keys,
                answer,
            } => {
                if let Some(replica) = self.following(index) {
                    keys.retain(|key| !replica.writer.knows(key));
                    let _unasked = answer.send(keys);
                }
            }
            Request::LeftOut { index, answer } => {
                if let Some(replica) = self.following(index) {
                    let _unasked = answer.send(replica.writer.left_out());
                }
            }
            Request::Audited { index, at } => {
                if let Some(index) = self.all.get_mut(&index) {
                    index.audit.audited_at = Some(at);
                }
            }
        }
    }

    /// A transaction is applied whose changes upstream may not show yet.
    pub(crate) fn applied(&mut self, xid: u32) {
        self.recent.applied(xid);
    }

    /// Whether an index lacks rows that are to be fetched. Those of one that catches up may come by themselves.
    pub(crate) fn wants_rows(&mut self) -> bool {
        let mut following = self.all.values_mut().filter_map(Index::following);
        following.any(|replica| !replica.lacking.is_empty())
    }

    /// Everything before this position is searchable in all complete indexes, when everything before `position` is applied
    /// or on its way from the journal.
    pub(crate) fn shown(&self, position: Lsn) -> Lsn {
        let lives = self.all.values().filter_map(|index| index.live.as_ref());
        lives
            .filter(|live| live.snapshot.is_some())
            .map(|live| live.shown(position))
            .fold(position, Lsn::min)
    }

    fn following(&mut self, index: IndexId) -> Option<&mut Replica> {
        self.all.get_mut(&index)?.following()
    }

    fn lacking(&mut self) -> Option<Lacking> {
        self.all.iter_mut().find_map(|(id, index)| {
            let replica = index.following()?;
            (!replica.lacking.is_empty()).then(|| Lacking {
                index: *id,
                keys: replica.lacking.iter().take(MAX_WATCHED).cloned().collect(),
            })
        })
    }

    fn watch(
        &mut self,
        index: IndexId,
        keys: Vec<RowKey>,
        position: Lsn,
    ) -> Result<Order, Refusal> {
        self.watches += 1;
        let (number, mark) = (self.watches, self.recent.mark());
        let live = self
            .all
            .get_mut(&index)
            .and_then(|index| index.live.as_mut());
        let live = live.ok_or(Refusal::NotComplete)?;
        // The copy, or what was read from the journal, may show what is not visible yet, and whose numbers the stream has
        // still to bring.
        let Place::Here(replica) = &mut live.place else {
            return Err(Refusal::Later);
        };
        if position < replica.point {
            return Err(Refusal::Later);
        }
        replica.watch = Some(Watch::new(number, mark, keys.iter().cloned()));
        Ok(Order {
            number,
            entry: live.entry.clone(),
            keys,
        })
    }

    /// Everything before `position` is applied: watches whose rows are all of it are compared. Only between transactions.
    pub(crate) fn settle(&mut self, position: Lsn, now: Instant) {
        for index in self.all.values_mut() {
            let due = index.following().and_then(|replica| {
                let applied = position.max(replica.point);
                replica.watch.take_if(|watch| watch.is_due(applied))
            });
            if let Some(verdict) = due.and_then(Watch::verdict) {
                index.settle(verdict, now);
            }
        }
    }
}

impl Index {
    /// Its writer, if it follows the stream.
    fn following(&mut self) -> Option<&mut Replica> {
        match &mut self.live.as_mut()?.place {
            Place::Here(replica) => Some(replica),
            Place::Away { .. } | Place::Nowhere => None,
        }
    }

    fn settle(&mut self, verdict: Verdict, now: Instant) {
        let Some(replica) = self.following() else {
            return;
        };
        let mut settled = Settled {
            lsn: verdict.lsn,
            again: verdict.again,
            unseen: verdict.unseen,
            ..Settled::default()
        };
        let mut fetched = 0;
        for (row, key) in verdict.rows {
            match replica.put_right(row, &key) {
                Ok(Found::Same) => {}
                Ok(Found::Fetched) => fetched += 1,
                Ok(Found::Doubtful) => settled.again.push(key),
                Ok(Found::Mended(Comparison::Missing)) => settled.missing += 1,
                Ok(Found::Mended(Comparison::Extra)) => settled.extra += 1,
                Ok(Found::Mended(Comparison::Differing | Comparison::Same)) => {
                    settled.differing += 1
                }
                Err(error) => {
                    self.trouble(error.into(), now);
                    return;
                }
            }
        }
        let mended = settled.missing + settled.extra + settled.differing;
        self.audit.mended += mended;
        self.audit.fetched += fetched;
        let index = &self.entry.definition.name;
        if fetched > 0 {
            tracing::debug!(%index, rows = fetched, "rows that the stream told of in part were fetched");
        }
        if mended > 0 {
            tracing::warn!(
                %index, missing = settled.missing, extra = settled.extra, differing = settled.differing, lsn = %settled.lsn,
                "rows were not as in the table and were put right"
            );
        }
        let _unasked = verdict.answer.send(settled);
    }
}

/// What came of comparing one row.
enum Found {
    Same,
    /// It was lacking.
    Fetched,
    /// Something is amiss, and all of the row must be known.
    Doubtful,
    Mended(Comparison),
}

impl Replica {
    /// Makes the row of a key what the table has.
    fn put_right(&mut self, row: Option<Row>, key: &RowKey) -> Result<Found, IndexError> {
        let change = match row {
            Some(Row::Whole(change)) => change,
            None => RowChange::Delete { key: key.clone() },
            Some(Row::Present) if self.writer.knows(key) && !self.lacking.contains(key) => {
                return Ok(Found::Same);
            }
            Some(Row::Present) => return Ok(Found::Doubtful),
        };
        let lacked = self.lacking.remove(key);
        let found = self.writer.compare(&change)?;
        if found != Comparison::Same {
            self.writer.apply(change)?;
            self.dirty = true;
        }
        Ok(match found {
            Comparison::Same if !lacked => Found::Same,
            Comparison::Missing | Comparison::Same if lacked => Found::Fetched,
            found @ (Comparison::Same
            | Comparison::Missing
            | Comparison::Extra
            | Comparison::Differing) => Found::Mended(found),
        })
    }
}
