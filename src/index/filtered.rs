//! A query and a filter → the nearest rows that meet it: all that meet it compared one by one where they are few, else a
//! walk through the graph that keeps only them. Never fewer than asked for while that many meet the filter.

use std::sync::{Arc, OnceLock};

use super::IndexError;
use super::faiss::Pace;
use super::filter::{Filter, Matcher};
use super::pages::RowSet;
use super::snapshot::{Effort, Found, Snapshot};
use crate::catalog::Method;
use crate::vector::Vector;

/// A row that the rarest condition names costs about this much of comparing it, …
const NAMING: f64 = 0.5;
/// … and where all rows are gone through instead, each of them this much.
const SWEEPING: f64 = 0.05;
/// A distance of the walk costs as much as so many of a scan, which fetches codes in order and ahead, …
const WALK_RATIO: f64 = 2.2;
/// … and most of them not at all where rows have signs.
const SIGNED_WALK_RATIO: f64 = 6.0;
/// A walk that a filter starves meets mostly rows that their signs leave out.
const STARVED_RATIO: f64 = 3.0;
/// Distances that the walk computes for each candidate that it weighs.
const DISTANCES: f64 = 14.0;
/// A candidate that lists weigh costs as much as a scan of this part of a list, most of it for asking whether rows are allowed.
const LISTED: f64 = 0.5;
/// A filter that keeps away from the query makes the walk long: it is gone to the end only where at least this share of the
/// rows meets the filter. With a half the walk costs as much as comparing them all, with a third twice.
const PATIENT: f64 = 0.45;

/// What a filter does to a search, for `EXPLAIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterCost {
    /// About how many rows meet it.
    pub rows: usize,
    /// Whether all of them are compared, without the graph.
    pub exact: bool,
}

/// Searches for `k` rows that meet a filter: what they have in common.
pub(super) struct Filtered<'a> {
    snapshot: &'a Snapshot,
    matcher: Matcher<'a>,
    filter: &'a Filter,
    k: usize,
    ef: usize,
    approach: Approach,
    /// All rows that meet the filter, once they were wanted.
    rows: OnceLock<Arc<RowSet>>,
}

impl<'a> Filtered<'a> {
    /// `None` when no condition can be used.
    pub(super) fn new(
        snapshot: &'a Snapshot,
        k: usize,
        effort: Effort,
        filter: &'a Filter,
    ) -> Option<Self> {
        let matcher = Matcher::new(filter, snapshot.attributes(), snapshot.view().live())?;
        let ef = snapshot.candidates(effort, k).max(k);
        let mut approach = snapshot.approach(&matcher, k, ef);
        if approach.walk.is_some() && snapshot.tried().does_without(filter) {
            approach.walk = None;
        }
        Some(Self {
            snapshot,
            matcher,
            filter,
            k,
            ef,
            approach,
            rows: OnceLock::new(),
        })
    }

    /// As [`Snapshot::search_filtered`].
    pub(super) fn search(&self, query: &Vector) -> Result<Found, IndexError> {
        let (view, query, k) = (self.snapshot.view(), query.as_slice(), self.k);
        let tried = self.snapshot.tried();
        let mut wasted = 0;
        if let Some(pace) = self.approach.walk {
            let allowed = |row| self.matcher.allows(row);
            let (rows, distances) = view.search_allowed(query, k, self.ef, pace, &allowed)?;
            tried.walked(self.filter, rows.len() < k);
            if rows.len() >= k {
                return Ok(Found::of((rows, distances), false));
            }
            wasted = distances;
        }
        let name = || tried.rows(self.filter, || self.matcher.rows());
        let rows = self.rows.get_or_init(name);
        let (ranked, distances) = view.search_among(query, k, rows)?;
        let exhausted = ranked.len() == rows.len();
        Ok(Found::of((ranked, distances + wasted), exhausted))
    }
}

/// How a filtered search begins.
struct Approach {
    rows: usize,
    /// `None` for comparing all that meet the filter.
    walk: Option<Pace>,
}

impl Snapshot {
    /// The `k` nearest live rows that meet the filter, with the effort of a search without one.
    /// Fewer than `k` come back only when fewer meet it, and some that do not meet it may come back; none is left out for a
    /// condition that cannot be used.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_filtered(
        &self,
        query: &Vector,
        k: usize,
        effort: Effort,
        filter: &Filter,
    ) -> Result<Found, IndexError> {
        match Filtered::new(self, k, effort, filter) {
            Some(filtered) => filtered.search(query),
            None => self.search_with(query, k, effort),
        }
    }

    /// What the filter would do to such a search; `None` when none of its conditions can be used.
    #[must_use]
    pub fn filter_cost(&self, k: usize, effort: Effort, filter: &Filter) -> Option<FilterCost> {
        let matcher = Matcher::new(filter, self.attributes(), self.view().live())?;
        let approach = self.approach(&matcher, k, self.candidates(effort, k));
        Some(FilterCost {
            rows: approach.rows,
            exact: approach.walk.is_none() || self.tried().starves(filter),
        })
    }

    /// Compares what both ways would cost.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // estimates
    fn approach(&self, matcher: &Matcher<'_>, k: usize, ef: usize) -> Approach {
        let rows = matcher.estimate();
        let (live, k, ef) = (self.live().max(1) as f64, k as f64, ef.max(k) as f64);
        let share = (rows as f64 / live).clamp(1.0 / live, 1.0);
        let naming = match matcher.swept() {
            Some(rows) => rows as f64 * SWEEPING,
            None => matcher.entries() as f64 * NAMING,
        };
        let scan = naming + rows as f64;
        let ratio = if self.spec().has_signs() {
            SIGNED_WALK_RATIO
        } else {
            WALK_RATIO
        };
        let kept = k + (ef - k) * share;
        let method = self.spec().options.method;
        let weighing = match (method, self.spec().options.lists) {
            (Method::Hnsw | Method::Flat, _) => DISTANCES * ratio,
            (Method::Ivf | Method::Factory, 0) => LISTED * live.sqrt(),
            (Method::Ivf | Method::Factory, lists) => LISTED * live / f64::from(lists),
        };
        let walk = kept / share * weighing;
        let walks = method != Method::Flat && walk < scan && kept < rows as f64;
        // Giving up and comparing all after all costs twice that at most.
        let most = (scan / ratio) as u64;
        let starved = (scan / ratio.min(STARVED_RATIO)) as u64;
        let pace = Pace {
            share,
            most,
            most_starved: if share < PATIENT { 0 } else { starved },
        };
        Approach {
            rows,
            walk: walks.then_some(pace),
        }
    }
}
