//! An immutable state of an index at one LSN → nearest neighbours, keys, INCLUDE values.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::attributes::Attributes;
use super::faiss::{GraphSource, Ranked, RowView};
use super::keys::Place;
use super::memory::MemoryParts;
use super::pages::Records;
use super::tried::Tried;
use super::{DialStats, IndexError, IndexSpec, record};
use crate::catalog::Method;
use crate::lsn::Lsn;
use crate::vector::Vector;

/// A candidate of the graph costs about as much as so many rows of a scan, which is in order and exact.
const SCAN_RATIO: usize = 16;

/// A list is searched for each so many candidates: `kCandidatesPerList` of `faiss/lists.cpp`, which says why.
const CANDIDATES_PER_LIST: usize = 4;

/// A row's number within its index; a new vector gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub(crate) u32);

impl RowId {
    /// The row's place.
    #[must_use]
    pub fn place(self) -> Place {
        Place::Row(self.0)
    }
}

/// A row found by a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbor {
    /// The row.
    pub row: RowId,
    /// The distance as the operator returns it, from the stored vector.
    pub distance: f32,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Nearest first.
    pub neighbors: Vec<Neighbor>,
    /// Whether these are all live rows of the index that meet the filter: a wider search finds no more.
    pub exhausted: bool,
    /// Distances computed, on codes and on stored vectors.
    pub distances: u64,
}

impl Found {
    pub(super) fn of((ranked, distances): Ranked, exhausted: bool) -> Self {
        Self {
            exhausted,
            neighbors: ranked
                .into_iter()
                .map(|(row, distance)| Neighbor {
                    row: RowId(row),
                    distance,
                })
                .collect(),
            distances,
        }
    }
}

/// How hard a search tries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effort {
    /// So many candidates are weighed.
    Candidates(usize),
    /// Of an index of lists: so many of them are searched, and candidates weighed in proportion.
    Lists(usize),
    /// As many as it takes, by what was measured of this index, to find this share of the true nearest.
    Recall(f64),
}

/// Sizes of an index at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows that can be found.
    pub live: u64,
    /// Rows of the table that hold no indexable vector (NULL, wrong dimension, zero under cosine, …).
    pub left_out: u64,
    /// Rows not linked into the graph yet, compared one by one.
    pub unlinked: u64,
    /// Rows in the graph that are dead.
    pub dead: u64,
    /// Whether the codes will be laid out anew, near ones together, once nothing else is to be done.
    pub scattered: bool,
    /// Bytes held in memory, by all its snapshots and what is made beside them.
    pub memory: MemoryParts,
}

/// An index at one LSN. Cheap to hold, never changes.
#[derive(Debug)]
pub struct Snapshot {
    spec: IndexSpec,
    lsn: Lsn,
    rows: RowView,
    records: Records,
    attributes: Attributes,
    left_out: u64,
    settled: AtomicBool,
    tried: Tried,
}

impl Snapshot {
    pub(super) fn new(
        spec: IndexSpec,
        lsn: Lsn,
        rows: RowView,
        records: Records,
        attributes: Attributes,
        left_out: u64,
        tried: Tried,
    ) -> Self {
        Self {
            spec,
            lsn,
            rows,
            records,
            attributes,
            left_out,
            settled: AtomicBool::new(false),
            tried,
        }
    }

    /// What the index is.
    #[must_use]
    pub fn spec(&self) -> &IndexSpec {
        &self.spec
    }

    /// Every commit before this position is in the snapshot.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Whether upstream was seen to show everything that is in it: a commit may be here before it is visible there.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Upstream was seen to.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Sizes, as of now: the linker works on while a snapshot is held.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            live: self.rows.live().len(),
            left_out: self.left_out,
            unlinked: u64::from(self.rows.unlinked()).min(self.rows.live().len()),
            dead: u64::from(self.rows.nodes()).saturating_sub(self.rows.live().len()),
            scattered: self.rows.is_scattered(),
            memory: self.rows.account().parts(),
        }
    }

    /// The `k` nearest live rows to `query`, weighing at least `ef` candidates (`k`, if that is more).
    /// Fewer than `k` come back only when fewer are live. Rows before they are linked are compared one by one.
    ///
    /// # Errors
    /// When the query is not of the index's dimension, or memory runs out.
    pub fn search(&self, query: &Vector, k: usize, ef: usize) -> Result<Found, IndexError> {
        let live = self.live();
        let ef = ef.max(k);
        if !self.walks(ef) {
            return self.search_exact(query, k);
        }
        let found = self.found(self.rows.search(query.as_slice(), k, ef)?);
        // A graph may have parts that no walk reaches.
        if found.neighbors.len() < k.min(live) {
            return self.search_exact(query, k);
        }
        Ok(found)
    }

    /// Candidates that a search for `k` rows weighs.
    #[must_use]
    pub fn candidates(&self, effort: Effort, k: usize) -> usize {
        match effort {
            Effort::Candidates(candidates) => candidates,
            Effort::Lists(lists) => lists.saturating_mul(CANDIDATES_PER_LIST),
            Effort::Recall(recall) => self.rows.dial().effort(recall, k),
        }
    }

    /// As [`search`](Self::search). Of those with a wanted recall some are answered exactly as well, later, by another
    /// thread, to see what they missed.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_with(
        &self,
        query: &Vector,
        k: usize,
        effort: Effort,
    ) -> Result<Found, IndexError> {
        let candidates = self.candidates(effort, k);
        if matches!(effort, Effort::Recall(_)) && self.walks(candidates.max(k)) {
            self.rows.dial().offer(query.as_slice(), k, candidates);
        }
        self.search(query, k, candidates)
    }

    /// Whether a search of that effort goes through the graph: else it compares all rows.
    fn walks(&self, ef: usize) -> bool {
        self.spec.options.method != Method::Flat && ef.saturating_mul(SCAN_RATIO) < self.live()
    }

    /// Why the index no longer keeps its graph up, if so: it must be made anew. As of now, of all its snapshots.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.rows.dial().failure()
    }

    /// Why rows wait to be linked, until there is memory or a thread, if they do. As of now, of all its snapshots.
    #[must_use]
    pub fn starved(&self) -> Option<String> {
        self.rows.account().starved()
    }

    /// As if a thread of the index had panicked.
    #[cfg(test)]
    pub(crate) fn break_engine(&self, error: &str) {
        self.rows.dial().fail(error);
    }

    /// What is known of effort and recall.
    #[must_use]
    pub fn dial(&self) -> DialStats {
        self.rows.dial().stats()
    }

    /// The same by an exact scan of every live row.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_exact(&self, query: &Vector, k: usize) -> Result<Found, IndexError> {
        Ok(self.found(self.rows.scan(query.as_slice(), k)?))
    }

    fn found(&self, ranked: Ranked) -> Found {
        let exhausted = ranked.0.len() == self.live();
        Found::of(ranked, exhausted)
    }

    pub(super) fn live(&self) -> usize {
        usize::try_from(self.rows.live().len()).unwrap_or(usize::MAX)
    }

    /// What filters compare.
    pub(super) fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// What searches with filters found out.
    pub(super) fn tried(&self) -> &Tried {
        &self.tried
    }

    /// The graph as far as it is linked, to be stored; `None` when there is none yet.
    #[must_use]
    pub fn graph(&self) -> Option<GraphSource<'_>> {
        self.rows.graph_source()
    }

    /// The rows, for the linker.
    pub(super) fn view(&self) -> &RowView {
        &self.rows
    }

    /// The encoded key of a live row ([`crate::catalog::RowKey`]'s encoding).
    #[must_use]
    pub fn key(&self, row: RowId) -> Option<&[u8]> {
        self.record(row).map(record::key)
    }

    /// The vector of a live row as it is kept: rounded, and under cosine perhaps of another length.
    #[must_use]
    pub fn vector(&self, row: RowId) -> Option<Cow<'_, [f32]>> {
        self.rows.vector(row.0)
    }

    /// INCLUDE column `column` of a live row, in the form it arrived in (binary); `None` is NULL.
    #[must_use]
    pub fn include(&self, row: RowId, column: usize) -> Option<&[u8]> {
        self.record(row)
            .and_then(|record| record::include(record, column))
    }

    /// Every live row.
    pub fn rows(&self) -> impl Iterator<Item = RowId> + '_ {
        self.rows.live().iter().map(RowId)
    }

    /// The live row at a place.
    #[must_use]
    pub fn row_at(&self, place: Place) -> Option<RowId> {
        match place {
            Place::Row(row) => self.rows.live().contains(row).then_some(RowId(row)),
            Place::LeftOut(_) => None,
        }
    }

    fn record(&self, row: RowId) -> Option<&[u8]> {
        let live = self.rows.live().contains(row.0);
        live.then(|| self.records.get(row.0))
    }
}
