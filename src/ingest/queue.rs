//! Events of the stream → whole transactions for the applier, as long as there is memory for them. What does not fit passes by:
//! the applier is told which tables it changed, and their indexes read it from the journal. Never waits for the applier.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::catalog::RelationId;
use crate::ingest::apply::{CATALOGUE_XIDS, Item, is_definition};
use crate::ingest::indexes::event_bytes;
use crate::lsn::Lsn;
use crate::upstream::UpstreamError;
use crate::wal::transaction::Event;

/// Memory for events that arrived and are not applied yet.
const QUEUE_BYTES: usize = if cfg!(test) { 8 << 10 } else { 64 << 20 };
/// A transaction above this passes by. It is what the others wait for while it is applied: a second or two.
const TRANSACTION_BYTES: usize = if cfg!(test) { 4 << 10 } else { 16 << 20 };
/// What an item costs at least: bounds the number of items.
const ITEM_BYTES: usize = 256;
/// Most items in the queue. The memory bound is reached first, save by what passes by.
pub(crate) const QUEUE_ITEMS: usize = QUEUE_BYTES / ITEM_BYTES + 1024;

/// Transactions that the applier does not get, or none: a position between transactions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Where they end.
    pub(crate) end: Lsn,
    /// Tables whose rows they changed.
    pub(crate) changed: BTreeSet<RelationId>,
    /// Tables that they described.
    pub(crate) described: BTreeSet<RelationId>,
    /// Those of them that changed the definitions of indexes.
    pub(crate) definers: BTreeSet<u32>,
}

impl Passed {
    /// Nothing but a position.
    pub(crate) fn at(end: Lsn) -> Self {
        Self {
            end,
            ..Self::default()
        }
    }

    fn note(&mut self, xid: u32, event: &Event) {
        match event {
            Event::Relation(relation) => {
                self.described.insert(relation.id);
            }
            Event::Change(change) => {
                if self.changed.insert(change.relation.id) && is_definition(&change.relation) {
                    self.definer(xid);
                }
            }
            Event::Truncate { relations, .. } => {
                for relation in relations {
                    if self.changed.insert(relation.id) && is_definition(relation) {
                        self.definer(xid);
                    }
                }
            }
            Event::Begin { .. } | Event::Message { .. } | Event::Commit { .. } => {}
        }
    }

    fn definer(&mut self, xid: u32) {
        if self.definers.len() < CATALOGUE_XIDS {
            self.definers.insert(xid);
        }
    }

    fn merge(&mut self, later: Self) {
        self.end = self.end.max(later.end);
        self.changed.extend(later.changed);
        self.described.extend(later.described);
        for xid in later.definers {
            self.definer(xid);
        }
    }
}

/// A whole transaction.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) xid: u32,
    pub(crate) commit_lsn: Lsn,
    pub(crate) end: Lsn,
    /// Descriptions and changes of tables.
    pub(crate) events: Vec<Event>,
    /// Its share of the memory, given back when it is applied.
    memory: Option<OwnedSemaphorePermit>,
}

impl Whole {
    /// One that takes no memory of a queue.
    #[cfg(test)]
    pub(crate) fn of(xid: u32, commit_lsn: Lsn, end: Lsn, events: Vec<Event>) -> Self {
        Self {
            xid,
            commit_lsn,
            end,
            events,
            memory: None,
        }
    }

    /// The same for those who do not get it.
    pub(crate) fn passed(&self) -> Passed {
        let mut passed = Passed::at(self.end);
        for event in &self.events {
            passed.note(self.xid, event);
        }
        passed
    }
}

/// The sending end of the applier's queue.
#[derive(Debug)]
pub(crate) struct Queue {
    items: mpsc::Sender<Item>,
    memory: Arc<Semaphore>,
    feed: Feed,
}

#[derive(Debug)]
enum Feed {
    /// The applier has everything.
    Live,
    /// There was not even room to tell it of this.
    Behind(Passed),
}

impl Queue {
    pub(crate) fn new(items: mpsc::Sender<Item>) -> Self {
        Self {
            items,
            memory: Arc::new(Semaphore::new(QUEUE_BYTES)),
            feed: Feed::Live,
        }
    }

    /// Sends what begins anew; what was before is of no meaning then. There is one a stream at most: it may wait.
    pub(crate) async fn begin(&mut self, item: Item) -> Result<(), UpstreamError> {
        self.feed = Feed::Live;
        let sent = self.items.send(item).await;
        sent.map_err(|_| UpstreamError::Closed)
    }

    pub(crate) fn is_behind(&self) -> bool {
        matches!(self.feed, Feed::Behind(_))
    }

    /// Waits until [`Self::catch_up`] can succeed. Cancel-safe.
    pub(crate) async fn room(&self) -> Result<(), UpstreamError> {
        let room = self.items.reserve().await;
        room.map(drop).map_err(|_| UpstreamError::Closed)
    }

    /// Tells the applier what it does not know yet, if there is room.
    pub(crate) fn catch_up(&mut self) -> Result<(), UpstreamError> {
        match std::mem::replace(&mut self.feed, Feed::Live) {
            Feed::Live => Ok(()),
            Feed::Behind(passed) => self.pass(passed),
        }
    }

    /// Sends transactions that pass by, or a position.
    pub(crate) fn pass(&mut self, passed: Passed) -> Result<(), UpstreamError> {
        if let Feed::Behind(before) = &mut self.feed {
            before.merge(passed);
            return Ok(());
        }
        match self.items.try_send(Item::Passed(passed)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(Item::Passed(passed))) => {
                self.feed = Feed::Behind(passed);
                Ok(())
            }
            Err(_) => Err(UpstreamError::Closed),
        }
    }

    fn whole(&mut self, whole: Whole) -> Result<(), UpstreamError> {
        self.catch_up()?;
        if self.is_behind() {
            return self.pass(whole.passed());
        }
        match self.items.try_send(Item::Transaction(whole)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(Item::Transaction(whole))) => {
                self.pass(whole.passed())
            }
            Err(_) => Err(UpstreamError::Closed),
        }
    }

    /// Takes memory, if there is.
    fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.memory).try_acquire_many_owned(bytes).ok()
    }
}

/// The transaction that is arriving.
#[derive(Debug, Default)]
pub(crate) enum Open {
    #[default]
    None,
    /// It may still fit.
    Whole { whole: Whole, bytes: usize },
    /// It passes by.
    Passing { xid: u32, passed: Passed },
}

impl Open {
    /// Takes the next event of the stream; the end of a transaction sends it.
    pub(crate) fn event(&mut self, event: Event, queue: &mut Queue) -> Result<(), UpstreamError> {
        match event {
            Event::Begin {
                commit_lsn, xid, ..
            } => {
                let memory = queue.reserve(ITEM_BYTES);
                let whole = Whole {
                    xid,
                    commit_lsn,
                    end: Lsn::ZERO,
                    events: Vec::new(),
                    memory,
                };
                *self = match whole.memory {
                    Some(_) => Self::Whole { whole, bytes: 0 },
                    None => Self::Passing {
                        xid,
                        passed: whole.passed(),
                    },
                };
            }
            Event::Commit { end_lsn, .. } => {
                return match std::mem::take(self) {
                    Self::None => Ok(()),
                    Self::Whole { mut whole, .. } => {
                        whole.end = end_lsn;
                        queue.whole(whole)
                    }
                    Self::Passing { mut passed, .. } => {
                        passed.end = end_lsn;
                        queue.pass(passed)
                    }
                };
            }
            Event::Message { .. } => {}
            Event::Relation(_) | Event::Change(_) | Event::Truncate { .. } => {
                self.change(event, queue);
            }
        }
        Ok(())
    }

    fn change(&mut self, event: Event, queue: &Queue) {
        match self {
            // A description between transactions; the catalogue is read now and then in any case.
            Self::None => {}
            Self::Passing { xid, passed } => passed.note(*xid, &event),
            Self::Whole { whole, bytes } => {
                let more = event_bytes(&event);
                *bytes += more;
                let room = (*bytes <= TRANSACTION_BYTES).then(|| queue.reserve(more));
                if let (Some(Some(room)), Some(memory)) = (room, &mut whole.memory) {
                    memory.merge(room);
                    whole.events.push(event);
                } else {
                    let mut passed = whole.passed();
                    passed.note(whole.xid, &event);
                    let xid = whole.xid;
                    *self = Self::Passing { xid, passed };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
