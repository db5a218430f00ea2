//! The rows at one moment: read, searched and linked by any number of threads.

use std::borrow::Cow;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::codes;
use super::ffi::{self, RawAmong, RawFilter, RawView};
use super::lineage::Lineage;
use super::measure::{self, Measuring};
use super::vectors::Vectors;
use crate::catalog::Method;
use crate::index::dial::Dial;
use crate::index::memory::Account;
use crate::index::pages::{Bitmap, RowSet};
use crate::index::{IndexError, IndexSpec};

/// The rows at one moment.
#[derive(Debug)]
pub(in crate::index) struct RowView {
    spec: IndexSpec,
    vectors: Arc<Vectors>,
    live: Bitmap,
    lineage: Option<Arc<Lineage>>,
    /// Nodes of the lineage that are in this view.
    extent: u32,
    dial: Arc<Dial>,
    /// Keeps the rows' ids from being used again.
    pin: Arc<()>,
}

/// How far a filtered walk goes.
#[derive(Clone, Copy, Debug)]
pub(in crate::index) struct Pace {
    /// Of the live rows, that are allowed.
    pub(in crate::index) share: f64,
    /// Distances to give up at, …
    pub(in crate::index) most: u64,
    /// … and those where rows near the query are hardly ever allowed.
    pub(in crate::index) most_starved: u64,
}
/// Rows from which lists are trained: with fewer, comparing all costs as little.
const TRAIN_FROM: u32 = 4_096;
/// Lists are made anew for so many times the rows that they were made for: twice the lists.
const OUTGROWN: u64 = 4;

/// Rows and distances, nearest first, and how many distances that took.
pub(in crate::index) type Ranked = (Vec<(u32, f32)>, u64);

impl RowView {
    pub(super) fn new(
        spec: IndexSpec,
        vectors: Arc<Vectors>,
        live: Bitmap,
        lineage: Option<Arc<Lineage>>,
        dial: Arc<Dial>,
        pin: Arc<()>,
    ) -> Self {
        let extent = lineage.as_ref().map_or(0, |lineage| lineage.extent());
        Self {
            spec,
            vectors,
            live,
            lineage,
            extent,
            dial,
            pin,
        }
    }

    /// The first `extent` nodes of a lineage whose rows this view keeps, `live` of them alive.
    pub(super) fn part(&self, lineage: &Arc<Lineage>, extent: u32, live: Bitmap) -> Self {
        Self {
            spec: self.spec,
            vectors: Arc::clone(&self.vectors),
            live,
            lineage: Some(Arc::clone(lineage)),
            extent,
            dial: Arc::clone(&self.dial),
            pin: Arc::clone(&self.pin),
        }
    }

    /// What efforts are chosen by.
    pub(in crate::index) fn dial(&self) -> &Arc<Dial> {
        &self.dial
    }

    /// The vector of a live row as it is kept: rounded, under cosine perhaps of another length.
    pub(in crate::index) fn vector(&self, row: u32) -> Option<Cow<'_, [f32]>> {
        let live = self.live.contains(row);
        // SAFETY: live in this view, so written before it, and not again while its pin is held.
        live.then(|| unsafe { self.vectors.get(row) })
    }

    /// The live rows.
    pub(in crate::index) fn live(&self) -> &Bitmap {
        &self.live
    }

    /// What the rows are.
    pub(super) fn spec(&self) -> &IndexSpec {
        &self.spec
    }

    /// The numbering of its nodes, to be held on to.
    pub(super) fn lineage_held(&self) -> Option<&Arc<Lineage>> {
        self.lineage.as_ref()
    }

    /// Keeps its rows' ids from being used again.
    pub(super) fn pin(&self) -> Arc<()> {
        Arc::clone(&self.pin)
    }

    /// The rows as they are kept.
    pub(super) fn vectors(&self) -> &Vectors {
        &self.vectors
    }

    /// The numbering of its nodes.
    pub(super) fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_deref()
    }

    /// Nodes, dead or alive.
    pub(in crate::index) fn nodes(&self) -> u32 {
        self.extent
    }

    /// Nodes of this view that are not linked as of now.
    pub(in crate::index) fn unlinked(&self) -> u32 {
        let linked = self.lineage.as_ref().map_or(0, |lineage| lineage.linked());
        self.extent.saturating_sub(linked)
    }

    /// Whether rows of this view can be linked: there is a graph to come, the mean is known, and rows enough to train with.
    pub(in crate::index) fn can_link(&self) -> bool {
        self.lineage.as_ref().is_some_and(|lineage| {
            let trains = self.spec.options.method != Method::Hnsw && lineage.lists().is_none();
            lineage.codes.centred() && (!trains || self.extent >= TRAIN_FROM)
        })
    }

    /// Whether searches wait while rows are linked: lists are locked, a graph is not. Then the thread that links must not be one
    /// that others keep from running.
    pub(in crate::index) fn linking_locks(&self) -> bool {
        self.spec.options.method != Method::Hnsw
    }

    /// Whether lists were trained with so few of the rows that are live now that others would serve them better.
    pub(in crate::index) fn outgrown(&self) -> bool {
        let lists = self.lineage.as_ref().and_then(|lineage| lineage.lists());
        lists.is_some_and(|lists| self.live.len() >= OUTGROWN * u64::from(lists.trained_with()))
    }

    /// The `k` nearest live rows, weighing `ef` candidates of the graph; may be fewer than there are.
    pub(in crate::index) fn search(
        &self,
        query: &[f32],
        k: usize,
        ef: usize,
    ) -> Result<Ranked, IndexError> {
        let Some(lineage) = &self.lineage else {
            return self.scan(query, k);
        };
        let ef = ef.max(k).max(1); // the walk keeps at least one candidate
        let structure = lineage.structure();
        // Read before the graph is walked: what is linked after this is scanned.
        let linked = structure.linked();
        self.ranked(query, k, linked, |view, k, rows, distances, computed| {
            // SAFETY: see `ranked`; `structure` holds what its pointers point to.
            unsafe {
                ffi::rektor_search(
                    structure.raw_graph(),
                    structure.raw_lists(),
                    view,
                    query.as_ptr(),
                    k,
                    ef,
                    rows,
                    distances,
                    computed,
                )
            }
        })
    }

    /// The `k` nearest of the live rows that are allowed, with `ef` as [`search`](Self::search) takes it; none when the walk
    /// gave up.
    pub(in crate::index) fn search_allowed<A: Fn(u32) -> bool>(
        &self,
        query: &[f32],
        k: usize,
        ef: usize,
        pace: Pace,
        allowed: &A,
    ) -> Result<Ranked, IndexError> {
        /// Asks the closure that `context` points to.
        unsafe extern "C" fn ask<A: Fn(u32) -> bool>(context: *const c_void, row: u32) -> bool {
            // SAFETY: `context` is the reference to an `A` that the search below is called with.
            unsafe { (*context.cast::<A>())(row) }
        }
        let Some(lineage) = &self.lineage else {
            return Ok((Vec::new(), 0));
        };
        let ef = ef.max(k).max(1); // the walk keeps at least one candidate
        let structure = lineage.structure();
        let linked = structure.linked(); // before the walk, see `search`
        let (graph, lists) = (structure.raw_graph(), structure.raw_lists());
        let filter = RawFilter {
            allowed: ask::<A>,
            context: std::ptr::from_ref(allowed).cast(),
            share: pace.share,
            most: pace.most,
            most_starved: pace.most_starved,
        };
        self.ranked(query, k, linked, |view, k, rows, distances, computed| {
            let query = query.as_ptr();
            // SAFETY: see `ranked`; `structure` holds what both point to, `allowed` outlives the call.
            unsafe {
                ffi::rektor_search_allowed(
                    graph,
                    lists,
                    view,
                    query,
                    k,
                    ef,
                    &raw const filter,
                    rows,
                    distances,
                    computed,
                )
            }
        })
    }

    /// The `k` nearest of these live rows, each compared by its code, or by its vector where there are no codes.
    pub(in crate::index) fn search_among(
        &self,
        query: &[f32],
        k: usize,
        among: &RowSet,
    ) -> Result<Ranked, IndexError> {
        debug_assert!(among.iter().all(|row| self.live.contains(row)));
        if self.lineage.is_none() {
            let mut only = Bitmap::default();
            for row in among.iter() {
                only.insert(row);
            }
            return self.scan_among(query, k, &only);
        }
        let (listed, marked) = among.parts();
        let among = RawAmong {
            rows: listed.as_ptr(),
            count: listed.len(),
            marks: marked.as_ptr(),
            words: marked.len(),
        };
        self.ranked(query, k, 0, |view, k, rows, distances, computed| {
            let (query, among) = (query.as_ptr(), &raw const among);
            // SAFETY: see `ranked`; the rows are live in this view, so their codes and vectors were written.
            unsafe { ffi::rektor_search_among(view, query, k, among, rows, distances, computed) }
        })
    }

    /// The `k` nearest live rows, by comparing each.
    pub(in crate::index) fn scan(&self, query: &[f32], k: usize) -> Result<Ranked, IndexError> {
        self.scan_among(query, k, &self.live)
    }

    /// The same of some of the live rows.
    fn scan_among(&self, query: &[f32], k: usize, among: &Bitmap) -> Result<Ranked, IndexError> {
        self.ranked_among(query, k, 0, among, |view, k, rows, distances, computed| {
            // SAFETY: see `ranked`.
            unsafe { ffi::rektor_scan(view, query.as_ptr(), k, rows, distances, computed) }
        })
    }

    /// Calls the shim with a view of what may be read (all of it held by `self` and unchanging, see `rows`), room for
    /// `k` rows and distances, and a query whose length was checked.
    pub(super) fn ranked(
        &self,
        query: &[f32],
        k: usize,
        linked: u32,
        search: impl FnOnce(&RawView, usize, *mut u32, *mut f32, *mut u64) -> i64,
    ) -> Result<Ranked, IndexError> {
        self.ranked_among(query, k, linked, &self.live, search)
    }

    /// The same with some of the live rows as those that may be read.
    fn ranked_among(
        &self,
        query: &[f32],
        k: usize,
        linked: u32,
        live: &Bitmap,
        search: impl FnOnce(&RawView, usize, *mut u32, *mut f32, *mut u64) -> i64,
    ) -> Result<Ranked, IndexError> {
        let words = self.spec.form().words();
        if query.len() != words {
            return Err(IndexError::Engine(format!(
                "a query of {} words, not {words}",
                query.len()
            )));
        }
        let k = k.min(usize::try_from(live.len()).unwrap_or(usize::MAX));
        let (mut rows, mut distances, mut computed) = (vec![0; k], vec![0.0; k], 0);
        let found = self.with_raw(linked, live, |view| {
            let (rows, distances) = (rows.as_mut_ptr(), distances.as_mut_ptr());
            search(view, k, rows, distances, &raw mut computed)
        });
        let found = usize::try_from(found);
        let found = found.map_err(|_| IndexError::Full("no memory to search".into()))?;
        Ok((
            rows.into_iter().zip(distances).take(found).collect(),
            computed,
        ))
    }

    /// Calls the shim with what it may read, as long as the call: of these live rows.
    pub(super) fn with_raw<T>(
        &self,
        linked: u32,
        live: &Bitmap,
        call: impl FnOnce(&RawView) -> T,
    ) -> T {
        let pages: Vec<*const u64> = live.pages().iter().map(|page| page.as_ptr()).collect();
        let (vectors, storage) = self.vectors.raw();
        let lineage = self.lineage.as_ref();
        call(&RawView {
            codes: lineage.map_or_else(
                || codes::raw_without(&self.spec),
                |lineage| lineage.codes.raw(),
            ),
            vectors,
            storage,
            live: pages.as_ptr(),
            live_pages: pages.len(),
            nodes: lineage.map_or(std::ptr::null(), |lineage| lineage.table()),
            laid_out: lineage.map_or(0, |lineage| lineage.in_order()),
            linked,
            extent: self.extent,
        })
    }

    /// Links the next `most` rows; see [`Graph::link`](super::graph::Graph::link) for `stop`.
    pub(in crate::index) fn link(
        &self,
        most: u32,
        threads: usize,
        stop: &AtomicBool,
    ) -> Result<(), IndexError> {
        let Some(lineage) = &self.lineage else {
            return Ok(());
        };
        let linked = lineage.linked();
        let end = linked.saturating_add(most).min(self.extent);
        let last = self.dial.curve();
        match measure::measuring(linked, lineage.extent(), last.as_deref()) {
            Some(Measuring::AtOnce(least)) => {
                if let Some(curve) = self.measured(lineage, last.as_deref(), least)? {
                    self.dial.measured(curve);
                }
            }
            Some(Measuring::ByTheFew) => self.probe(lineage, linked..end)?,
            None => {}
        }
        // Dead rows as well: they are alive in views that may still be held, and those trust `linked` too.
        // SAFETY: `self` is a view of the lineage.
        unsafe { lineage.link(&self.vectors, None, end, &self.spec.options, threads, stop) }
    }

    /// What the index holds in memory: of all its views, as of now.
    pub(in crate::index) fn account(&self) -> &Arc<Account> {
        self.vectors.account()
    }
}
