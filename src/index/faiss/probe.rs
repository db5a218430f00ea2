//! A few rows about to be linked → what they tell of the graph they are not in yet, kept by the dial until enough have told.
//! Rows are not held back for it: they are linked as soon as some were searched for.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::lineage::Lineage;
use super::measure::share_missed;
use super::view::RowView;
use crate::index::IndexError;
use crate::index::dial::{Curve, MEASURED_K};
use crate::index::quiet::cpu_time;
use crate::index::samples::Sample;

/// Rows that are looked at at once: a few of what waits.
const AT_ONCE: usize = 4;
/// Of the processor's time, after which no other is searched for before those that wait are linked.
const LONGEST: Duration = Duration::from_millis(2);

impl RowView {
    /// Searches for some of the rows of these nodes, the next to be linked, unless it is too soon after the last.
    pub(super) fn probe(&self, lineage: &Arc<Lineage>, next: Range<u32>) -> Result<(), IndexError> {
        let began = cpu_time();
        if !self.dial().samples().are_wanted() {
            return Ok(());
        }
        let linked = next.start;
        let mut live = self.live().clone();
        for node in linked..lineage.extent() {
            live.remove(lineage.row(node));
        }
        if live.len() < 2 * MEASURED_K[1] as u64 {
            return Ok(());
        }
        let marks = live.words();
        let part = self.part(lineage, linked, live);
        let nodes = self.dead_or_alive(lineage, linked);
        let copies_serve = self.dial().curve().is_none() && self.dial().samples().are_rare();
        let (mut told, mut looked_at) = (Vec::new(), 0);
        let step = next.len().div_ceil(AT_ONCE).max(1);
        for node in next.step_by(step) {
            if looked_at > 0 && cpu_time().saturating_sub(began) > LONGEST {
                break;
            }
            let row = lineage.row(node);
            let Some(query) = self.vector(row) else {
                continue;
            };
            looked_at += 1;
            if copies_serve || !nodes.has_copy(lineage, row, &query)? {
                let asks_many = self.dial().samples().asks_many(told.len());
                told.push(part.told(query, asks_many, &marks)?);
            }
        }
        let took = cpu_time().saturating_sub(began);
        self.dial().gathered(told, looked_at, linked, took);
        Ok(())
    }

    /// What a query that is no node tells of this view's nodes, the live ones of which are marked.
    fn told(
        &self,
        query: Cow<'_, [f32]>,
        asks_many: bool,
        marks: &[u64],
    ) -> Result<Sample, IndexError> {
        let [few, many] = MEASURED_K;
        let queries = [query];
        let most = if asks_many { many } else { few };
        let exact = self.nearest_among(&queries, most, marks)?.concat();
        let missed = |k: usize| {
            let mut shares = Vec::new();
            for effort in Curve::efforts(k) {
                let (found, _) = self.search(&queries[0], k, effort)?;
                let share = share_missed(&found, &exact[..k.min(exact.len())]);
                shares.push(share);
                // Where all was found, a greater effort finds it too.
                if share <= 0.0 {
                    break;
                }
            }
            Ok::<_, IndexError>(shares)
        };
        let of_many = asks_many.then(|| missed(many)).transpose()?;
        Ok(Sample {
            linked: self.nodes(),
            missed: [missed(few)?, of_many.unwrap_or_default()],
        })
    }
}
