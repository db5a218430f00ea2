//! A few rows about to be linked → what they tell of the graph they are not in yet, kept until enough have told. They are
//! searched for before they are linked, and what they missed is known after: who waits for them to be linked waits no longer
//! than the searches take.

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
const AT_ONCE: u32 = 4;
/// Of the processor's time, after which no other is searched for before those that wait are linked.
const LONGEST: Duration = Duration::from_millis(2);

type Nearest = Vec<(u32, f32)>;

/// A row with what was found for it at each effort, of 10 rows and of 100.
struct Probe<'v> {
    query: Cow<'v, [f32]>,
    found: [Vec<Nearest>; 2],
}

/// Of the same graph.
pub(super) struct Probes<'v> {
    /// What was searched.
    part: RowView,
    probes: Vec<Probe<'v>>,
    looked_at: usize,
    began: Duration,
}

impl RowView {
    /// Searches for some of the rows of these nodes, the next to be linked; `None` when it is too soon after the last, or
    /// there is too little to search.
    pub(super) fn probes(
        &self,
        lineage: &Arc<Lineage>,
        next: Range<u32>,
    ) -> Result<Option<Probes<'_>>, IndexError> {
        let began = cpu_time();
        if !self.dial().samples().are_wanted() {
            return Ok(None);
        }
        let linked = next.start;
        let mut live = self.live().clone();
        for node in linked..lineage.extent() {
            live.remove(lineage.row(node));
        }
        if live.len() < 2 * MEASURED_K[1] as u64 {
            return Ok(None);
        }
        let part = self.part(lineage, linked, live);
        let nodes = self.dead_or_alive(lineage, linked);
        let (mut probes, mut looked_at) = (Vec::new(), 0);
        let step = next.len().div_ceil(AT_ONCE as usize).max(1);
        for node in next.step_by(step) {
            if looked_at > 0 && cpu_time().saturating_sub(began) > LONGEST {
                break;
            }
            let row = lineage.row(node);
            let Some(query) = self.vector(row) else {
                continue;
            };
            looked_at += 1;
            let serves = self.dial().curve().is_none() && self.dial().samples().are_rare();
            if serves || !nodes.has_copy(lineage, row, &query)? {
                probes.push(part.probe(query, probes.len())?);
            }
        }
        Ok(Some(Probes {
            part,
            probes,
            looked_at,
            began,
        }))
    }

    /// Searches this view's nodes for a row that comes after so many others.
    fn probe<'v>(&self, query: Cow<'v, [f32]>, others: usize) -> Result<Probe<'v>, IndexError> {
        let mut found = [Vec::new(), Vec::new()];
        for (which, k) in MEASURED_K.into_iter().enumerate() {
            if !self.dial().samples().asks(others, which) {
                continue;
            }
            for effort in Curve::efforts(k) {
                found[which].push(self.search(&query, k, effort)?.0);
            }
        }
        Ok(Probe { query, found })
    }

    /// Compares what was found with what is there.
    pub(super) fn weigh(&self, probes: Probes<'_>) -> Result<(), IndexError> {
        let Probes {
            part,
            probes,
            looked_at,
            began,
        } = probes;
        let (queries, found): (Vec<_>, Vec<_>) = probes
            .into_iter()
            .map(|probe| (probe.query, probe.found))
            .unzip();
        let mut told = Vec::with_capacity(found.len());
        if !queries.is_empty() {
            let exact = part.nearest_among(&queries, MEASURED_K[1], &part.live().words())?;
            for (found, exact) in found.into_iter().zip(exact) {
                let [few, many] = found;
                let missed = |found: Vec<Nearest>, k: usize| -> Vec<f64> {
                    let exact = &exact[..k.min(exact.len())];
                    let shares = found.iter().map(|found| share_missed(found, exact));
                    shares.collect()
                };
                told.push(Sample {
                    linked: part.nodes(),
                    missed: [missed(few, MEASURED_K[0]), missed(many, MEASURED_K[1])],
                });
            }
        }
        let took = cpu_time().saturating_sub(began);
        self.dial().gathered(told, looked_at, part.nodes(), took);
        Ok(())
    }
}
