//! Rows about to be linked → recall by effort of the graph they are not in yet; a live query → what a search of it missed.

use std::borrow::Cow;
use std::sync::Arc;

use super::ffi;
use super::lineage::Lineage;
use super::view::{Ranked, RowView};
use crate::index::IndexError;
use crate::index::dial::{Curve, MEASURED_K, Question};

/// Nodes from which a graph is worth measuring: below, a search compares a good part of all rows.
const FROM: u32 = 4_096;
/// Rows that are searched for: recall at 10 of so many is known within .006 (of 96 within .01, too little for a target that is
/// .015 away), for some 2 ms each at 100,000 rows.
const SAMPLE: u32 = 256;
/// As long as the graph grows on from so many rows, the next curve is near: fewer do for this one.
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

/// A query and its exact answer.
type Asked<'q> = (Cow<'q, [f32]>, Ranked);

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
        let passing = waiting > LAST_ROWS && linked >= PASSING;
        let size = if passing { PASSING_SAMPLE } else { SAMPLE };
        let step = usize::try_from(waiting.div_ceil(size)).unwrap_or(usize::MAX);
        let sample: Vec<Cow<'_, [f32]>> = (linked..extent)
            .step_by(step)
            .filter_map(|node| self.vector(lineage.row(node)))
            .collect();
        let part = self.part(lineage, linked);
        if sample.len() < LEAST_SAMPLE || part.live().len() < 2 * MEASURED_K[1] as u64 {
            return Ok(None);
        }
        let [few, many] = MEASURED_K;
        let mut asked = part.answered(sample, few)?;
        // A copy of a row that is linked is to the graph what that row is: finding its neighbours says nothing of a query's.
        let is_new = |(query, exact): &Asked<'_>| {
            let mut rows = exact.0.iter();
            !rows.any(|(row, _)| part.vector(*row).as_ref() == Some(query))
        };
        if asked.iter().filter(|asked| is_new(asked)).count() >= LEAST_SAMPLE {
            asked.retain(is_new);
        }
        let of_few = part.recalls(&asked, few)?;
        let sample = asked.into_iter().map(|(query, _)| query).collect();
        let of_many = part.recalls(&part.answered(sample, many)?, many)?;
        Ok(Some(Curve::new([of_few, of_many], linked)))
    }

    /// Queries with their exact answers.
    fn answered<'q>(
        &self,
        queries: Vec<Cow<'q, [f32]>>,
        k: usize,
    ) -> Result<Vec<Asked<'q>>, IndexError> {
        let answered = queries.into_iter().map(|query| {
            let exact = self.compared(&query, k)?;
            Ok((query, exact))
        });
        answered.collect()
    }

    /// Recall of those queries at each effort.
    fn recalls(&self, asked: &[Asked<'_>], k: usize) -> Result<Vec<(usize, f64)>, IndexError> {
        let mut points = Vec::new();
        for effort in Curve::efforts(k) {
            let mut missed = 0.0;
            for (query, exact) in asked {
                missed += share_missed(&self.search(query, k, effort)?, exact);
            }
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
        let found = self.search(&question.query, question.k, question.effort)?;
        Ok(share_missed(
            &found,
            &self.compared(&question.query, question.k)?,
        ))
    }

    /// The `k` nearest of all nodes, as sure as codes can be: a scan that reads a quarter of the bytes, and all vectors where
    /// codes cannot tell.
    fn compared(&self, query: &[f32], k: usize) -> Result<Ranked, IndexError> {
        self.ranked(query, k, 0, |view, k, rows, distances, computed| {
            // SAFETY: see `ranked`; without a graph, every node of the view is compared.
            unsafe {
                ffi::rektor_search(
                    std::ptr::null(),
                    std::ptr::null(),
                    view,
                    query.as_ptr(),
                    k,
                    4 * k,
                    rows,
                    distances,
                    computed,
                )
            }
        })
    }
}

/// Rows as near as the last of the exact ones count as found: of equal rows any will do.
fn share_missed((found, _): &Ranked, (exact, _): &Ranked) -> f64 {
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
