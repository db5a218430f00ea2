//! Rows about to be linked → recall by effort of the graph they are not in yet; a live query → what a search of it missed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::ffi::{self, RawAmong};
use super::lineage::Lineage;
use super::view::RowView;
use crate::index::dial::{Curve, GOOD_ENOUGH, MEASURED_K, Question};
use crate::index::pages::{Bitmap, RowSet};
use crate::index::samples::LOOKED_AT;
use crate::index::{DEFAULT_EF, IndexError};

/// Nodes from which a graph is worth measuring: below, a search compares a good part of all rows.
const FROM: u32 = 4_096;
/// Rows that are searched for: recall at 10 of so many is known within .006 (of 96 within .01, too little for a target that is
/// .015 away), for some .6 ms each at 60,000 rows of real embeddings.
const SAMPLE: u32 = 256;
/// Where there will be another curve before all rows are linked, and the graph has so many: fewer do for this one.
const PASSING: u32 = 16_384;
const PASSING_SAMPLE: u32 = 96;
/// Fewer say too little …
const LEAST_SAMPLE: usize = 16;
/// … or less than the last curve, corrected by checks, as long as the graph has not grown to so many quarters. Where no more wait
/// they are searched for one by one, until there were enough.
const LEAST_TO_REPLACE: usize = 96;
const OUTDATED_QUARTERS: u64 = 32;
/// A curve is good until the graph has grown to so many quarters of what was measured …
const STALE_QUARTERS: u64 = 8;
/// … or to so many, when no more rows than these are waiting: there may be no better chance for a long time.
const LAST_CHANCE_QUARTERS: u64 = 5;
const LAST_ROWS: u32 = 1_024;
/// Recall at 100 is known as well from fewer: each has a hundred rows to miss.
const SAMPLE_OF_MANY: usize = 64;
/// While no more than one in so many nodes is dead, what queries need beyond the curve is not for the dead.
const FRESH: u64 = 10;
/// Queries whose exact answers are looked for together: what is kept of them has room in the cache beside a block of rows.
const TOGETHER: usize = 16;

type Queries<'q> = Vec<Cow<'q, [f32]>>;
/// Rows and their distances, nearest first.
type Nearest = Vec<(u32, f32)>;

/// A query and its exact answer.
struct Asked<'q> {
    query: Cow<'q, [f32]>,
    exact: Nearest,
}

impl RowView {
    /// Measures `lineage`, whose next nodes are about to be linked, by `least` of those that wait, or more.
    pub(super) fn measured(
        &self,
        lineage: &Arc<Lineage>,
        last: Option<&Curve>,
        least: usize,
    ) -> Result<Option<Curve>, IndexError> {
        let (linked, extent) = (lineage.linked(), lineage.extent());
        let comes_again = u64::from(extent) * 4 >= u64::from(linked) * LAST_CHANCE_QUARTERS;
        let passing = comes_again && linked >= PASSING;
        let size = if passing { PASSING_SAMPLE } else { SAMPLE };
        // From everywhere among them.
        let step = (extent - linked).div_ceil(size);
        let waiting = (0..step).flat_map(|first| {
            let nodes = (linked + first..extent).step_by(step as usize);
            nodes.map(|node| lineage.row(node))
        });
        let waiting = waiting.take(size as usize * LOOKED_AT);
        let Some(part) = self.linked_part(lineage, linked) else {
            return Ok(None);
        };
        let (mut sample, copies) = self.sample(lineage, linked, waiting, size)?;
        if sample.len() < least {
            if let Some(last) = last {
                // It stays, and no other is tried for at once.
                return Ok(Some(last.of(linked)));
            }
            sample.extend(copies);
            if sample.len() < least {
                return Ok(None);
            }
        }
        let is_enough = sample.len() >= LEAST_TO_REPLACE;
        let curve = part.curve(sample)?;
        // A curve of few rows is better than none, until there were enough.
        Ok(Some(if is_enough { curve } else { curve.of(0) }))
    }

    /// Measures `lineage`, all of whose nodes are linked, by rows that are not among them; `None` when they are too few.
    pub(super) fn measured_by(
        &self,
        lineage: &Arc<Lineage>,
        rows: &[u32],
    ) -> Result<Option<Curve>, IndexError> {
        let linked = lineage.linked();
        let Some(part) = self.linked_part(lineage, linked) else {
            return Ok(None);
        };
        let (sample, _) = self.sample(lineage, linked, rows.iter().copied(), SAMPLE)?;
        if linked < FROM || sample.len() < LEAST_TO_REPLACE {
            return Ok(None);
        }
        part.curve(sample).map(Some)
    }

    /// The rows that are linked, if they are enough to be measured.
    fn linked_part(&self, lineage: &Arc<Lineage>, linked: u32) -> Option<Self> {
        let waiting = u64::from(lineage.extent().saturating_sub(linked));
        if self.live().len() < 2 * MEASURED_K[1] as u64 + waiting {
            return None; // without a look at all of them
        }
        let rows = (0..linked).map(|node| lineage.row(node));
        let live: Bitmap = rows.filter(|row| self.live().contains(*row)).collect();
        let enough = live.len() >= 2 * MEASURED_K[1] as u64;
        enough.then(|| self.part(lineage, linked, live))
    }

    /// The curve of this view's nodes, by queries.
    fn curve(&self, sample: Queries<'_>) -> Result<Curve, IndexError> {
        let [few, many] = MEASURED_K;
        let of_many = sample.iter().step_by(sample.len().div_ceil(SAMPLE_OF_MANY));
        let of_many = self.answered(of_many.cloned().collect(), many)?;
        let of_few = self.answered(sample, few)?;
        let recalls = [self.recalls(&of_few, few)?, self.recalls(&of_many, many)?];
        Ok(Curve::new(recalls, self.nodes()))
    }

    /// Of those rows at most so many that are not copies of rows that are linked, dead ones too; and copies that were met. A copy
    /// is to the graph what the row is that is there: finding its neighbours says nothing of a query's.
    fn sample(
        &self,
        lineage: &Arc<Lineage>,
        linked: u32,
        rows: impl Iterator<Item = u32>,
        size: u32,
    ) -> Result<(Queries<'_>, Queries<'_>), IndexError> {
        let (mut sample, mut copies) = (Vec::new(), Vec::new());
        let nodes = self.dead_or_alive(lineage, linked);
        for row in rows {
            if sample.len() == size as usize {
                break;
            }
            let Some(query) = self.vector(row) else {
                continue;
            };
            let is_copy = nodes.has_copy(lineage, row, &query)?;
            let kind = if is_copy { &mut copies } else { &mut sample };
            kind.push(query);
        }
        copies.truncate(size as usize);
        Ok((sample, copies))
    }

    /// The first so many nodes, as if all were alive.
    pub(super) fn dead_or_alive(&self, lineage: &Arc<Lineage>, linked: u32) -> Self {
        // A walk asks of no rows but those that nodes name, and each of them has a place.
        self.part(lineage, linked, Bitmap::all_of(self.live()))
    }

    /// Whether a node of this view has the code of a row that is not linked, as far as a walk finds it.
    pub(super) fn has_copy(
        &self,
        lineage: &Lineage,
        row: u32,
        query: &[f32],
    ) -> Result<bool, IndexError> {
        let (nearest, _) = self.search(query, 1, DEFAULT_EF)?;
        // SAFETY: rows that nodes name, linked or waiting, here or in the lineage that this one replaces, which has the same
        // codes: they were written and stay (`lineage`).
        let code = |row| unsafe { lineage.codes.get(row) };
        let is_same = |(found, _): &(u32, f32)| code(*found) == code(row);
        Ok(nearest.first().is_some_and(is_same))
    }

    /// Queries with their exact answers.
    fn answered<'q>(&self, queries: Queries<'q>, k: usize) -> Result<Vec<Asked<'q>>, IndexError> {
        let marks = self.live().words();
        let mut exact = Vec::with_capacity(queries.len());
        for some in queries.chunks(TOGETHER) {
            exact.append(&mut self.nearest_among(some, k, &marks)?);
        }
        let both = queries.into_iter().zip(exact);
        Ok(both.map(|(query, exact)| Asked { query, exact }).collect())
    }

    /// Recall of those queries at each effort.
    fn recalls(&self, asked: &[Asked<'_>], k: usize) -> Result<Vec<(usize, f64)>, IndexError> {
        let mut points = Vec::new();
        let mut incomplete: Vec<&Asked<'_>> = asked.iter().collect();
        for effort in Curve::efforts(k) {
            let mut missed = 0.0;
            let mut still = Vec::new();
            for one in incomplete {
                let (found, _) = self.search(&one.query, k, effort)?;
                let share = share_missed(&found, &one.exact);
                missed += share;
                // Where all was found, a greater effort finds it too.
                if share > 0.0 {
                    still.push(one);
                }
            }
            incomplete = still;
            #[allow(clippy::cast_precision_loss)] // a small number
            let recall = 1.0 - missed / asked.len() as f64;
            points.push((effort, recall));
            if recall >= GOOD_ENOUGH {
                break;
            }
        }
        Ok(points)
    }

    /// The share of the nearest rows that a search of the question misses.
    pub(in crate::index) fn missed(&self, question: &Question) -> Result<f64, IndexError> {
        let Question { query, k, effort } = question;
        let (found, _) = self.search(query, *k, *effort)?;
        let all = RowSet::Marked(self.live().words());
        let (exact, _) = self.search_among(query, *k, &all)?;
        Ok(share_missed(&found, &exact))
    }

    /// Tells the dial what a check found, as [`Dial::checked`](crate::index::dial::Dial::checked) takes it.
    pub(in crate::index) fn learn(&self, question: &Question, missed: f64, took: Duration) {
        self.dial().checked(question, missed, took);
        let dead = u64::from(self.nodes()).saturating_sub(self.live().len());
        if dead * FRESH <= u64::from(self.nodes()) {
            self.dial().is_fresh();
        }
    }

    /// The `k` nearest of the marked rows for each of the queries, as sure as codes can be: all signs are read, of few rows codes,
    /// and vectors where codes cannot tell.
    pub(in crate::index) fn nearest_among(
        &self,
        queries: &[Cow<'_, [f32]>],
        k: usize,
        marks: &[u64],
    ) -> Result<Vec<Nearest>, IndexError> {
        let words = self.spec().form().words();
        assert!(
            queries.iter().all(|query| query.len() == words),
            "rows of this index"
        );
        let k = k.min(usize::try_from(self.live().len()).unwrap_or(usize::MAX));
        let flat: Vec<f32> = queries.iter().flat_map(|query| &**query).copied().collect();
        let among = RawAmong {
            rows: std::ptr::null(),
            count: 0,
            marks: marks.as_ptr(),
            words: marks.len(),
        };
        let mut rows = vec![0_u32; k * queries.len()];
        let mut distances = vec![0.0_f32; k * queries.len()];
        let mut found = vec![0_i64; queries.len()];
        let done = self.with_raw(0, self.live(), |view| {
            // SAFETY: see `ranked`; there is room for k rows and distances of each query, all of the length that the view's rows
            // have, and the marked rows are live in this view.
            unsafe {
                ffi::rektor_search_among_many(
                    view,
                    flat.as_ptr(),
                    queries.len(),
                    k,
                    &raw const among,
                    rows.as_mut_ptr(),
                    distances.as_mut_ptr(),
                    found.as_mut_ptr(),
                )
            }
        });
        if done < 0 {
            return Err(IndexError::Full("no memory to search".into()));
        }
        let answers = rows.chunks(k).zip(distances.chunks(k)).zip(found);
        let answers = answers.map(|((rows, distances), found)| {
            let both = rows.iter().copied().zip(distances.iter().copied());
            both.take(usize::try_from(found).unwrap_or(0)).collect()
        });
        Ok(answers.collect())
    }
}

/// How many of so many rows are held back from a graph that is made anew, to measure it by: of those whose copies come, or that
/// die, until it is ready, some are to spare.
pub(super) fn held_back(rows: usize) -> usize {
    let held = 2 * SAMPLE;
    if rows < (FROM + held) as usize {
        return 0;
    }
    held as usize
}

/// How a graph is measured before its next rows are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measuring {
    /// At once, by so many of the rows that wait, or more.
    AtOnce(usize),
    /// By the few that wait, and those to come.
    ByTheFew,
}

/// `None` when it is not the time.
pub(super) fn measuring(linked: u32, extent: u32, last: Option<&Curve>) -> Option<Measuring> {
    let waiting = extent.saturating_sub(linked);
    let grown_to = |quarters: u64| {
        last.is_none_or(|last| u64::from(linked) * 4 >= u64::from(last.linked) * quarters)
    };
    let is_first = last.is_none_or(|last| last.linked > 0 && grown_to(OUTDATED_QUARTERS));
    let least = if is_first {
        LEAST_SAMPLE
    } else {
        LEAST_TO_REPLACE
    };
    let quarters = if waiting <= LAST_ROWS {
        LAST_CHANCE_QUARTERS
    } else {
        STALE_QUARTERS
    };
    if linked < FROM || waiting == 0 || !grown_to(quarters) {
        return None;
    }
    Some(if waiting as usize >= least {
        Measuring::AtOnce(least)
    } else {
        Measuring::ByTheFew
    })
}

/// Rows as near as the last of the exact ones count as found: of equal rows any will do.
pub(super) fn share_missed(found: &[(u32, f32)], exact: &[(u32, f32)]) -> f64 {
    let Some((_, last)) = exact.last() else {
        return 0.0;
    };
    let hits = found
        .iter()
        .filter(|(_, distance)| distance <= last)
        .count();
    #[allow(clippy::cast_precision_loss)] // small numbers
    let share = hits.min(exact.len()) as f64 / exact.len() as f64;
    1.0 - share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_measured_when_it_has_grown_by_many_or_by_the_few_that_wait() {
        use Measuring::{AtOnce, ByTheFew};
        let points = MEASURED_K.map(|k| Curve::efforts(k).map(|effort| (effort, 0.9)).collect());
        let curve = Curve::new(points, 8_000);
        let cases = [
            // Too small, or nothing waits.
            (4_095, 4_095 + 5_000, None, None),
            (4_096, 4_096, None, None),
            // The first.
            (4_096, 4_096 + 5_000, None, Some(AtOnce(16))),
            (4_096, 4_096 + 16, None, Some(AtOnce(16))),
            (4_096, 4_096 + 15, None, Some(ByTheFew)),
            (4_096, 4_096 + 1, None, Some(ByTheFew)),
            // Another: doubled, or the last that wait after a quarter more.
            (10_000, 10_000 + 2_000, Some(8_000), None),
            (9_999, 9_999 + 1_000, Some(8_000), None),
            (10_000, 10_000 + 1_000, Some(8_000), Some(AtOnce(96))),
            (10_000, 10_000 + 95, Some(8_000), Some(ByTheFew)),
            (16_000, 16_000 + 2_000, Some(8_000), Some(AtOnce(96))),
            (64_000, 64_000 + 16, Some(8_000), Some(AtOnce(16))),
            (64_000, 64_000 + 15, Some(8_000), Some(ByTheFew)),
            // Of another graph, or by few rows.
            (4_096, 4_096 + 96, Some(0), Some(AtOnce(96))),
            (4_096, 4_096 + 95, Some(0), Some(ByTheFew)),
        ];
        for (linked, extent, last, expected) in cases {
            let last = last.map(|last| curve.of(last));
            let found = measuring(linked, extent, last.as_ref());
            assert_eq!(found, expected, "{linked} of {extent}, last {last:?}");
        }
    }
}
