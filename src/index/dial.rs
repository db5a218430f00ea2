//! A wanted recall → how many candidates a search weighs, by a curve measured on the index's own rows, corrected by exact
//! checks of live queries. Decides nothing else: any effort finds rows of the index, only more or fewer of the nearest.
//!
//! The curve is measured with rows just before they are linked (`faiss/measure.rs`): rows that the graph does not hold yet
//! are to it what queries are. Searching for rows that it holds flatters it, .951 against .917 for queries held out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::DEFAULT_EF;
use super::samples::{Sample, Samples};

/// The recall that searches are given when nobody asks for another.
pub const DEFAULT_RECALL: f64 = 0.95;

/// Efforts that a curve is measured at, in steps of about 1.6; the last bounds what a search may cost.
const EFFORTS: [usize; 10] = [10, 16, 25, 40, 64, 100, 160, 250, 400, 640];
/// The numbers of rows for which recall is measured; between them the effort is interpolated.
pub(super) const MEASURED_K: [usize; 2] = [10, 100];
/// Recall from which a greater effort is not measured.
pub(super) const GOOD_ENOUGH: f64 = 0.998;
/// Recall is a share of a sample: below this share of misses it says nothing.
const LEAST_MISS: f64 = 0.001;

/// A curve is of a sample, so are the checks, and the graph grows: searches aim at this share of the misses they are allowed.
/// (With .85 real embeddings were found to .962 at first and .949 after some checks, of .95 wanted.)
const AIM: f64 = 0.7;

/// What a check weighs against those before it: some thirty count.
const DECAY: f64 = 0.97;
/// So many checks that found what the curve promises are taken for granted, so that the first real ones do not swing it.
const PRIOR_CHECKS: f64 = 8.0;
/// The correction multiplies the effort by this at most, or divides it by the other: thirty checks that happen to miss nothing
/// do not take away more than the aim is above what is wanted.
const MOST_CORRECTION: f64 = 16.0;
const LEAST_CORRECTION: f64 = 0.7;
/// A check costs a scan of the index: no more than this share of one core.
const CHECK_SHARE: u32 = 100;
/// And no more often than this, however small the index is.
const CHECK_PAUSE: Duration = Duration::from_millis(200);
/// A check of more rows than this says little more and costs more.
const CHECK_K: usize = 100;

/// Recall by effort, for each of [`MEASURED_K`], when so many nodes were linked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    /// Share of the true nearest that were missed, falling with the effort.
    misses: [Vec<(f64, f64)>; 2],
    pub(super) linked: u32,
}

impl Curve {
    /// The efforts to measure for `k` rows.
    pub(super) fn efforts(k: usize) -> impl Iterator<Item = usize> {
        let scale = if k <= MEASURED_K[0] { 1 } else { 2 };
        EFFORTS
            .into_iter()
            .map(move |effort| effort * scale)
            .filter(move |effort| *effort >= k)
    }

    /// From the recall measured at each effort, for each of [`MEASURED_K`].
    pub(super) fn new(measured: [Vec<(usize, f64)>; 2], linked: u32) -> Self {
        #[allow(clippy::cast_precision_loss)] // small numbers
        let falling = |points: Vec<(usize, f64)>| {
            let mut least = 1.0_f64;
            let fall = |(effort, recall)| {
                least = least.min(1.0 - recall).max(LEAST_MISS);
                (effort as f64, least)
            };
            points.into_iter().map(fall).collect()
        };
        Self {
            misses: measured.map(falling),
            linked,
        }
    }

    /// The same, taken to be of another number of nodes.
    pub(super) fn of(&self, linked: u32) -> Self {
        Self {
            linked,
            ..self.clone()
        }
    }

    /// For each of [`MEASURED_K`] the efforts, rising, and the share missed at each.
    pub(super) fn points(&self) -> &[Vec<(f64, f64)>; 2] {
        &self.misses
    }

    /// A curve of stored points; `None` when no measurement can have given them.
    pub(super) fn from_points(misses: [Vec<(f64, f64)>; 2], linked: u32) -> Option<Self> {
        let is_curve = |points: &Vec<(f64, f64)>| {
            let shares = |(effort, miss): &(f64, f64)| {
                *effort >= 1.0 && effort.is_finite() && (LEAST_MISS..=1.0).contains(miss)
            };
            !points.is_empty()
                && points.iter().all(shares)
                && points.is_sorted_by(|a, b| a.0 < b.0 && a.1 >= b.1)
        };
        let curve = misses.iter().all(is_curve);
        curve.then_some(Self { misses, linked })
    }

    /// The effort at which `k` rows are found with this share of misses.
    fn effort(&self, miss: f64, k: usize) -> f64 {
        #[allow(clippy::cast_precision_loss)] // small numbers
        let [few, many, k] = [MEASURED_K[0] as f64, MEASURED_K[1] as f64, k as f64];
        // What was not measured is not gone below.
        let of = |points: &[(f64, f64)]| {
            let least = points.first().map_or(k, |(effort, _)| *effort);
            interpolated(points, miss).max(least)
        };
        let of_few = of(&self.misses[0]);
        if k <= few {
            return of_few;
        }
        let of_many = of(&self.misses[1]);
        if k >= many {
            return of_many * k / many;
        }
        let share = (k / few).ln() / (many / few).ln();
        (of_few.ln() * (1.0 - share) + of_many.ln() * share).exp()
    }

    /// The share of misses to expect at an effort: the inverse of `effort`.
    fn miss(&self, effort: f64, k: usize) -> f64 {
        let (mut low, mut high) = ((LEAST_MISS / 100.0).ln(), 0.0_f64);
        for _ in 0..30 {
            let middle = f64::midpoint(low, high);
            if self.effort(middle.exp(), k) > effort {
                low = middle;
            } else {
                high = middle;
            }
        }
        high.exp()
    }
}

/// The effort of a share of misses: between the points linear in the logarithms of both, beyond them in inverse proportion.
fn interpolated(points: &[(f64, f64)], miss: f64) -> f64 {
    let mut before: Option<(f64, f64)> = None;
    for &(effort, reached) in points {
        if reached <= miss {
            let Some((less, above)) = before else {
                return effort * reached / miss;
            };
            let share = (above / miss).ln() / (above / reached).ln();
            return (less.ln() + (effort / less).ln() * share).exp();
        }
        before = Some((effort, reached));
    }
    before.map_or(1.0, |(effort, reached)| effort * reached / miss)
}

/// The most candidates that a search for `k` rows weighs, whatever is asked.
fn most(k: usize) -> usize {
    EFFORTS[EFFORTS.len() - 1] + 6 * k
}

/// What the dial shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DialStats {
    /// Candidates that a search for ten rows weighs for [`DEFAULT_RECALL`].
    pub ef: usize,
    /// Recall at 10 that the curve promises at that effort; absent before a curve is measured.
    pub recall_estimated: Option<f64>,
    /// Recall of the live queries that were checked, the newest counting most; absent before some were.
    pub recall_measured: Option<f64>,
}

/// A live query, to be answered exactly as well.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) query: Vec<f32>,
    pub(super) k: usize,
    pub(super) effort: usize,
}

/// Sums over the checks, older ones fading.
#[derive(Clone, Copy, Debug, Default)]
struct Checks {
    count: f64,
    missed: f64,
    expected: f64,
}

impl Checks {
    /// By how much live queries need more effort than the curve says: what they miss at one effort, it misses at another.
    fn correction(&self, curve: &Curve) -> f64 {
        let expected = self.expected / self.count;
        let missed = (self.missed + PRIOR_CHECKS * expected) / (self.count + PRIOR_CHECKS);
        let factor = |missed: f64| {
            let points = &curve.misses[0];
            interpolated(points, expected) / interpolated(points, missed)
        };
        // A few queries that missed nothing say little of the next, which may miss all: less effort is chosen only by what
        // they missed and a deviation more.
        let sure = missed + (missed / self.count).sqrt();
        let factor = factor(missed).max(factor(sure).min(1.0));
        factor.clamp(LEAST_CORRECTION, MOST_CORRECTION)
    }
}

#[derive(Debug, Default)]
struct Slot {
    question: Option<Question>,
    not_before: Option<Instant>,
    stop: bool,
}

/// One per index; shared by its snapshots, its linker and the thread that checks.
#[derive(Debug)]
pub(super) struct Dial {
    curve: ArcSwapOption<Curve>,
    /// Bits of the factor by which live queries need more effort than the curve says.
    correction: AtomicU64,
    /// Bits of what that was last when hardly any node was dead: so much the queries need by what they are.
    fresh: AtomicU64,
    checks: Mutex<Checks>,
    /// Of the graph that there is, towards its next curve.
    samples: Mutex<Samples>,
    slot: Mutex<Slot>,
    asked: Condvar,
    /// What a thread of the index ended of before its time: what it was working on may be half done.
    failure: Mutex<Option<String>>,
}

impl Default for Dial {
    fn default() -> Self {
        Self {
            curve: ArcSwapOption::empty(),
            correction: AtomicU64::new(1.0_f64.to_bits()),
            fresh: AtomicU64::new(1.0_f64.to_bits()),
            checks: Mutex::default(),
            samples: Mutex::default(),
            slot: Mutex::default(),
            asked: Condvar::new(),
            failure: Mutex::default(),
        }
    }
}

impl Dial {
    /// The curve, once one was measured.
    pub(super) fn curve(&self) -> Option<std::sync::Arc<Curve>> {
        self.curve.load_full()
    }

    /// A newer curve of the same graph: the correction stays.
    pub(super) fn measured(&self, curve: Curve) {
        self.curve.store(Some(curve.into()));
        *self.samples() = Samples::default();
    }

    /// What single rows have told since.
    pub(super) fn samples(&self) -> MutexGuard<'_, Samples> {
        lock(&self.samples)
    }

    /// What a few rows told, as [`Samples::add`] takes it: a curve, if they are enough now.
    pub(super) fn gathered(
        &self,
        told: Vec<Sample>,
        looked_at: usize,
        linked: u32,
        took: Duration,
    ) {
        let mut samples = self.samples();
        samples.add(told, looked_at, linked, took);
        let (curve, are_rare) = (samples.curve(), samples.are_rare());
        let are_enough = samples.are_enough() || are_rare;
        drop(samples);
        let last = self.curve();
        match (curve, last) {
            (Some(curve), _) if are_enough => self.measured(curve),
            // Better than none, until there are enough.
            (Some(curve), None) => self.curve.store(Some(curve.of(0).into())),
            // Where there are hardly any the last curve stays, and no other is tried for at once.
            (None, Some(last)) if are_rare => self.measured(last.of(linked)),
            (Some(_), Some(_)) | (None, _) => {}
        }
    }

    /// Another graph took over, of which this is the curve, if one was measured: what checks told of the last one is
    /// forgotten.
    pub(super) fn replaced(&self, curve: Option<Curve>) {
        // Without one, the last is better than none, until the first chance to measure.
        let curve = curve.or_else(|| self.curve().map(|last| last.of(0)));
        self.curve.store(curve.map(Into::into));
        *lock(&self.checks) = Checks::default();
        *self.samples() = Samples::default();
        self.correction.store(1.0_f64.to_bits(), Ordering::Relaxed);
        self.fresh.store(1.0_f64.to_bits(), Ordering::Relaxed);
    }

    /// Candidates to weigh so that `k` rows are found with this recall.
    pub(super) fn effort(&self, recall: f64, k: usize) -> usize {
        let Some(curve) = &*self.curve.load() else {
            return DEFAULT_EF.max(k + k / 2);
        };
        let effort = curve.effort((1.0 - recall) * AIM, k) * self.correction();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // positive; a cast of too much is the most
        let effort = effort.round() as usize;
        effort.clamp(EFFORTS[0].max(k), most(k))
    }

    /// By how much searches weigh more candidates than the curve alone would have it.
    pub(super) fn correction(&self) -> f64 {
        f64::from_bits(self.correction.load(Ordering::Relaxed))
    }

    /// The graph has hardly any dead nodes now.
    pub(super) fn is_fresh(&self) {
        let correction = self.correction.load(Ordering::Relaxed);
        self.fresh.store(correction, Ordering::Relaxed);
    }

    /// By how much the correction has risen since then: what a graph made anew may save. Queries that always need more than the
    /// curve says need it of that one too.
    pub(super) fn risen(&self) -> f64 {
        let fresh = f64::from_bits(self.fresh.load(Ordering::Relaxed));
        self.correction() / fresh.max(1.0)
    }

    /// See [`DialStats`].
    pub(super) fn stats(&self) -> DialStats {
        let ef = self.effort(DEFAULT_RECALL, MEASURED_K[0]);
        let checks = *lock(&self.checks);
        #[allow(clippy::cast_precision_loss)] // a small number
        let estimate = |curve: &std::sync::Arc<Curve>| 1.0 - curve.miss(ef as f64, MEASURED_K[0]);
        DialStats {
            ef,
            recall_estimated: self.curve.load().as_ref().map(estimate),
            recall_measured: (checks.count > 0.0).then(|| 1.0 - checks.missed / checks.count),
        }
    }

    /// A query that is being searched: kept for checking, when it is time for a check. Never waits.
    pub(super) fn offer(&self, query: &[f32], k: usize, effort: usize) {
        let Ok(mut slot) = self.slot.try_lock() else {
            return;
        };
        if k == 0 || k > CHECK_K || slot.question.is_some() {
            return;
        }
        if slot.not_before.is_some_and(|time| Instant::now() < time) {
            return;
        }
        slot.question = Some(Question {
            query: query.to_vec(),
            k,
            effort,
        });
        drop(slot);
        self.asked.notify_one();
    }

    /// Waits for a query to check; `None` at the end.
    pub(super) fn next_question(&self) -> Option<Question> {
        let mut slot = lock(&self.slot);
        loop {
            if slot.stop {
                return None;
            }
            if let Some(question) = slot.question.take() {
                // Until the answer, and long enough after it.
                slot.not_before = Some(Instant::now() + CHECK_PAUSE);
                return Some(question);
            }
            slot = self
                .asked
                .wait(slot)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What a check found: the share that was missed, and the processor's time that it took.
    pub(super) fn checked(&self, question: &Question, missed: f64, took: Duration) {
        #[allow(clippy::cast_precision_loss)] // a small number
        if let Some(curve) = &*self.curve.load() {
            let expected = curve.miss(question.effort as f64, question.k);
            let mut checks = lock(&self.checks);
            checks.count = checks.count * DECAY + 1.0;
            checks.missed = checks.missed * DECAY + missed;
            checks.expected = checks.expected * DECAY + expected;
            let correction = checks.correction(curve);
            self.correction
                .store(correction.to_bits(), Ordering::Relaxed);
        }
        lock(&self.slot).not_before = Some(Instant::now() + (took * CHECK_SHARE).max(CHECK_PAUSE));
    }

    /// A thread of the index panicked.
    pub(super) fn fail(&self, error: &str) {
        lock(&self.failure).get_or_insert_with(|| error.to_owned());
    }

    /// Why the index must be made anew.
    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Ends `next_question`.
    pub(super) fn stop(&self) {
        lock(&self.slot).stop = true;
        self.asked.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
