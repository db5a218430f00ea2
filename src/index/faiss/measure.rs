//! Rows about to be linked → recall by effort of the graph they are not in yet; a live query → what a search of it missed.

use std::borrow::Cow;
use std::sync::Arc;

use super::ffi::{self, RawAmong};
use super::lineage::Lineage;
use super::view::RowView;
use crate::index::IndexError;
use crate::index::dial::{Curve, MEASURED_K, Question};
use crate::index::pages::{Bitmap, RowSet};

/// Nodes from which a graph is worth measuring: below, a search compares a good part of all rows.
const FROM: u32 = 4_096;
/// Rows that are searched for: recall at 10 of so many is known within .006 (of 96 within .01, too little for a target that is
/// .015 away), for some 2 ms each at 100,000 rows.
const SAMPLE: u32 = 256;
/// Where there will be another curve before all rows are linked, and the graph has so many: fewer do for this one.
const PASSING: u32 = 16_384;
const PASSING_SAMPLE: u32 = 96;
/// Fewer say too little.
const LEAST_SAMPLE: usize = 16;
/// A curve is good until the graph has grown to so many quarters of what was measured …
const STALE_QUARTERS: u64 = 8;
/// … or to so many, when no more rows than these are waiting: there may be no better chance for a long time.
const LAST_CHANCE_QUARTERS: u64 = 5;
const LAST_ROWS: u32 = 1_024;
/// Recall from which a greater effort is not measured.
const GOOD_ENOUGH: f64 = 0.998;

/// Recall at 100 is known as well from fewer: each has a hundred rows to miss.
const SAMPLE_OF_MANY: usize = 64;
/// Queries whose exact answers are looked for together: what is kept of them has room in the cache beside a block of rows.
const TOGETHER: usize = 16;

/// Rows and their distances, nearest first.
type Nearest = Vec<(u32, f32)>;

/// A query and its exact answer.
struct Asked<'q> {
    query: Cow<'q, [f32]>,
    exact: Nearest,
}

impl RowView {
    /// Measures `lineage`, whose next nodes are about to be linked, if the last curve is of a much smaller graph.
    pub(super) fn measured(
        &self,
        lineage: &Arc<Lineage>,
        last: Option<u32>,
    ) -> Result<Option<Curve>, IndexError> {
        let (linked, extent) = (lineage.linked(), lineage.extent());
        let waiting = extent.saturating_sub(linked);
        let quarters = if waiting <= LAST_ROWS {
            LAST_CHANCE_QUARTERS
        } else {
            STALE_QUARTERS
        };
        let due = linked >= FROM
            && last.is_none_or(|last| u64::from(linked) * 4 >= u64::from(last) * quarters);
        if !due || waiting == 0 {
            return Ok(None);
        }
        let comes_again = u64::from(extent) * 4 >= u64::from(linked) * LAST_CHANCE_QUARTERS;
        let passing = comes_again && linked >= PASSING;
        let size = if passing { PASSING_SAMPLE } else { SAMPLE };
        let step = usize::try_from(waiting.div_ceil(size)).unwrap_or(usize::MAX);
        let sample: Vec<Cow<'_, [f32]>> = (linked..extent)
            .step_by(step)
            .filter_map(|node| self.vector(lineage.row(node)))
            .collect();
        let mut live = Bitmap::default();
        for row in (0..linked).map(|node| lineage.row(node)) {
            if self.live().contains(row) {
                live.insert(row);
            }
        }
        let part = self.part(lineage, linked, live);
        if sample.len() < LEAST_SAMPLE || part.live().len() < 2 * MEASURED_K[1] as u64 {
            return Ok(None);
        }
        let [few, many] = MEASURED_K;
        let mut asked = part.answered(sample, few)?;
        // A copy of a row that is linked is to the graph what that row is: finding its neighbours says nothing of a query's.
        let is_new = |asked: &Asked<'_>| {
            let mut rows = asked.exact.iter();
            !rows.any(|(row, _)| part.vector(*row).as_ref() == Some(&asked.query))
        };
        if asked.iter().filter(|asked| is_new(asked)).count() >= LEAST_SAMPLE {
            asked.retain(is_new);
        }
        let of_few = part.recalls(&asked, few)?;
        let step = asked.len().div_ceil(SAMPLE_OF_MANY);
        let sample = asked.into_iter().step_by(step).map(|asked| asked.query);
        let of_many = part.recalls(&part.answered(sample.collect(), many)?, many)?;
        Ok(Some(Curve::new([of_few, of_many], linked)))
    }

    /// Queries with their exact answers.
    fn answered<'q>(
        &self,
        queries: Vec<Cow<'q, [f32]>>,
        k: usize,
    ) -> Result<Vec<Asked<'q>>, IndexError> {
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

/// Rows as near as the last of the exact ones count as found: of equal rows any will do.
fn share_missed(found: &[(u32, f32)], exact: &[(u32, f32)]) -> f64 {
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
