//! What rows told of a graph just before they were linked into it, a few at a time → a curve of its recall, once they are
//! enough. For indexes whose rows come by small commits, so that there never are enough at once. Kept in memory only: after a
//! start they are gathered anew.
//!
//! They are taken of a graph that grows meanwhile. What a search misses at one effort grows slowly, by the logarithm of the
//! nodes: a row counts as long as the graph has not doubled since, and the curve is taken to be of as many nodes as there were
//! on average.

use std::time::{Duration, Instant};

use super::dial::{Curve, GOOD_ENOUGH, MEASURED_K};

/// Rows that make a curve, as of those that wait together.
pub(super) const ENOUGH: usize = 256;
/// Where there is none at all, so many make one until there are enough: recall at 10 of so many is known within .01.
pub(super) const FIRST: usize = 96;
/// Rows that are looked at for each that is wanted, as most may be copies.
pub(super) const LOOKED_AT: usize = 4;
/// After rows were searched for, none are for so many times as long: what comes fast is linked first.
const REST: u32 = 4;

/// What a row told: the share of its nearest that each effort missed, up to the first that missed nothing, when so many nodes were
/// linked. Nothing of a hundred rows, if it was not searched for so many.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) linked: u32,
    pub(super) missed: [Vec<f64>; 2],
}

/// Those that there are, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Samples {
    samples: Vec<Sample>,
    looked_at: usize,
    not_before: Option<Instant>,
}

impl Samples {
    /// Whether the next rows may be searched for.
    pub(super) fn are_wanted(&self) -> bool {
        self.not_before.is_none_or(|time| Instant::now() >= time)
    }

    /// Whether so many rows were copies of others that there may be nothing else.
    pub(super) fn are_rare(&self) -> bool {
        self.looked_at >= LOOKED_AT * ENOUGH
    }

    /// Whether they are enough for a curve that lasts.
    pub(super) fn are_enough(&self) -> bool {
        self.samples.len() >= ENOUGH
    }

    /// Whether the row after so many others is asked for its hundred nearest too: recall at 100 is known as well from fewer.
    pub(super) fn asks_many(&self, others: usize) -> bool {
        (self.samples.len() + others).is_multiple_of(2)
    }

    /// Takes what those told of so many rows that were looked at, now that so many nodes are linked, and how much of the
    /// processor's time it took.
    pub(super) fn add(&mut self, told: Vec<Sample>, looked_at: usize, linked: u32, took: Duration) {
        self.samples.extend(told);
        let is_recent = |sample: &Sample| u64::from(sample.linked) * 2 > u64::from(linked);
        self.samples.retain(is_recent);
        self.looked_at += looked_at;
        self.not_before = Some(Instant::now() + took * REST);
    }

    /// The curve, once they are enough for a first one.
    #[allow(clippy::cast_precision_loss)] // small numbers
    pub(super) fn curve(&self) -> Option<Curve> {
        let count = self.samples.len();
        if count < FIRST {
            return None;
        }
        let recalls = [0, 1].map(|which| {
            let missed = || self.samples.iter().map(|sample| &sample.missed[which]);
            let of = missed().filter(|missed| !missed.is_empty()).count();
            let efforts = Curve::efforts(MEASURED_K[which]).enumerate();
            let recalls = efforts.map(|(place, effort)| {
                let missed = missed().filter_map(|missed| missed.get(place));
                (effort, 1.0 - missed.sum::<f64>() / of as f64)
            });
            let mut is_reached = false;
            let needed = recalls.take_while(|(_, recall)| {
                !std::mem::replace(&mut is_reached, *recall >= GOOD_ENOUGH)
            });
            needed.collect()
        });
        let nodes = self.samples.iter().map(|sample| u64::from(sample.linked));
        let linked = u32::try_from(nodes.sum::<u64>() / count as u64);
        Some(Curve::new(recalls, linked.unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row for which each effort misses this share, in a graph of so many nodes.
    fn sample(samples: &Samples, missed: f64, linked: u32) -> Sample {
        let shares = |k| {
            let efforts = Curve::efforts(k);
            efforts.map(|effort| missed / effort as f64).collect()
        };
        let [few, many] = MEASURED_K;
        let of_many = samples.asks_many(0).then(|| shares(many));
        Sample {
            linked,
            missed: [shares(few), of_many.unwrap_or_default()],
        }
    }

    fn add(samples: &mut Samples, count: usize, missed: f64, linked: u32) {
        for _ in 0..count {
            let one = sample(samples, missed, linked);
            samples.add(vec![one], 1, linked, Duration::ZERO);
        }
    }

    #[test]
    fn enough_rows_are_a_curve_of_what_they_missed_on_average() {
        let mut samples = Samples::default();
        add(&mut samples, FIRST / 2, 1.0, 5_000);
        add(&mut samples, FIRST / 2 - 1, 3.0, 6_000);
        assert_eq!(samples.curve(), None, "one is wanting");
        add(&mut samples, 1, 3.0, 6_000);
        let curve = samples.curve().unwrap();
        assert!(!samples.are_enough());
        assert_eq!(curve.linked, 5_500);
        for (which, points) in curve.points().iter().enumerate() {
            let efforts: Vec<usize> = Curve::efforts(MEASURED_K[which]).collect();
            // What finds nearly all is the last that says anything.
            let last = efforts.iter().position(|effort| *effort >= 1_000);
            let needed = last.map_or(efforts.len(), |last| last + 1);
            assert_eq!(points.len(), needed);
            for (effort, (at, miss)) in efforts.iter().zip(points) {
                let expected = 2.0 / *effort as f64;
                assert!((at - *effort as f64).abs() < 0.1);
                assert!((miss - expected).abs() < 0.001, "{miss}, not {expected}");
            }
        }
        add(&mut samples, ENOUGH - FIRST, 3.0, 6_000);
        assert!(samples.are_enough());
    }

    /// A row that missed nothing at some effort was not searched for with greater ones.
    #[test]
    fn what_missed_nothing_misses_nothing_at_greater_efforts() {
        let mut samples = Samples::default();
        for number in 0..ENOUGH {
            let missed = if number % 4 == 0 {
                vec![0.5, 0.4, 0.0]
            } else {
                vec![0.0]
            };
            let missed = [missed, vec![0.0]];
            let one = Sample {
                linked: 5_000,
                missed,
            };
            samples.add(vec![one], 1, 5_000, Duration::ZERO);
        }
        let curve = samples.curve().unwrap();
        let shares: Vec<f64> = curve.points()[0].iter().map(|point| point.1).collect();
        assert_eq!(shares.len(), 3);
        assert!((shares[0] - 0.125).abs() < 1e-9 && (shares[1] - 0.1).abs() < 1e-9);
        assert_eq!(curve.points()[1].len(), 1);
    }

    #[test]
    fn every_second_row_is_asked_for_a_hundred() {
        let mut samples = Samples::default();
        add(&mut samples, ENOUGH, 1.0, 5_000);
        let of_many = samples.samples.iter();
        let of_many = of_many.filter(|sample| !sample.missed[1].is_empty());
        assert_eq!(of_many.count(), ENOUGH / 2);
        assert!(samples.asks_many(0) && !samples.asks_many(1));
    }

    #[test]
    fn rows_of_a_graph_half_as_large_do_not_count() {
        let mut samples = Samples::default();
        add(&mut samples, ENOUGH - 1, 5.0, 5_000);
        add(&mut samples, FIRST - 1, 1.0, 10_000);
        assert_eq!(samples.curve(), None, "the first are forgotten");
        add(&mut samples, 1, 1.0, 10_000);
        let curve = samples.curve().unwrap();
        assert_eq!(curve.linked, 10_000);
        assert!((curve.points()[0][0].1 - 0.1).abs() < 0.001);
    }

    #[test]
    fn rows_are_rare_where_most_are_copies() {
        let mut samples = Samples::default();
        for _ in 0..LOOKED_AT * ENOUGH - 1 {
            samples.add(vec![], 1, 5_000, Duration::ZERO);
        }
        assert!(!samples.are_rare());
        samples.add(vec![], 1, 5_000, Duration::ZERO);
        assert!(samples.are_rare());
    }

    #[test]
    fn after_some_there_is_a_rest() {
        let mut samples = Samples::default();
        assert!(samples.are_wanted());
        samples.add(vec![], 1, 5_000, Duration::ZERO);
        assert!(samples.are_wanted());
        samples.add(vec![], 1, 5_000, Duration::from_secs(3_600));
        assert!(!samples.are_wanted());
    }
}
