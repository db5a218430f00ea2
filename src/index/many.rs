//! Many queries on one snapshot → an answer each, the one that a single search gives, worked out on every core that is to
//! spare. Never keeps a thread beyond the call.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::IndexError;
use super::filter::Filter;
use super::filtered::Filtered;
use super::snapshot::{Effort, Found, Snapshot};
use crate::vector::{Form, Vector};

/// Most queries of one call: some 50 ms of two cores, during which other searches wait longer.
pub const MAX_QUERIES: usize = 1_024;
/// Most neighbours that one call is asked for, of all its queries together: 2 MB of answers.
pub const MAX_RESULTS: usize = 100_000;

/// A thread is begun for each so many queries: to begin it, with a visited table of its own, costs as much as one or two.
const QUERIES_PER_THREAD: usize = 8;
/// Queries that a thread takes at once: few enough that all end together, and neighbours in space as far as can be.
const RUN: usize = 8;
/// Queries are put in order within so many, by so many of their components: it costs half a microsecond a query. Each next
/// to the one that is nearest finds codes and links in the processor's caches: of 59,000 × 384, in blocks of 100, on one
/// thread, 23 % more queries a second at ef 16, 11 % at 64, 4 % at 200.
const ORDERED: usize = 128;
const COMPARED: usize = 64;
/// Most threads that all calls of this process begin together, whatever the machine has: beyond it they share memory's
/// bandwidth rather than add to it.
const MAX_HELPERS: usize = 15;

/// Threads of all calls, beside those that made the calls.
static HELPERS: AtomicUsize = AtomicUsize::new(0);

/// A right to begin a thread.
pub(super) struct Helper;

impl Helper {
    /// One of those that are left: with the calling thread there is one for each core.
    pub(super) fn new() -> Option<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let most = (cores - 1).min(MAX_HELPERS);
        let taken = HELPERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            (taken < most).then_some(taken + 1)
        });
        taken.is_ok().then(|| Self) // made only if it is one: it gives the place back when it goes
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        HELPERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers, each with its query's place.
type Answers = Vec<(usize, Found)>;

impl Snapshot {
    /// What [`search_filtered`](Self::search_filtered) finds for each of the queries, in their order; the filter is looked up
    /// once for all of them.
    ///
    /// # Errors
    /// As [`search`](Self::search), and when there are more than [`MAX_QUERIES`] queries or [`MAX_RESULTS`] are wanted.
    pub fn search_many(
        &self,
        queries: &[Vector],
        k: usize,
        effort: Effort,
        filter: &Filter,
    ) -> Result<Vec<Found>, IndexError> {
        if queries.len() > MAX_QUERIES || queries.len().saturating_mul(k) > MAX_RESULTS {
            let error = "more queries at once, or more rows of them, than one call answers";
            return Err(IndexError::Engine(error.into()));
        }
        let filtered = Filtered::new(self, k, effort, filter);
        let order = in_order(queries);
        let next = AtomicUsize::new(0);
        let work = || -> Result<Answers, IndexError> {
            let mut answers = Vec::new();
            loop {
                let first = next.fetch_add(RUN, Ordering::Relaxed);
                let run = order.iter().skip(first).take(RUN);
                if run.len() == 0 {
                    return Ok(answers);
                }
                for (place, query) in run.copied() {
                    let found = match &filtered {
                        Some(filtered) => filtered.search(query)?,
                        None => self.search_with(query, k, effort)?,
                    };
                    answers.push((place, found));
                }
            }
        };
        let mut answers = std::thread::scope(|scope| {
            let wanted = (queries.len() / QUERIES_PER_THREAD).saturating_sub(1);
            let helping: Vec<_> = std::iter::from_fn(Helper::new)
                .take(wanted)
                .map_while(|helper| {
                    let helping = move || {
                        let _helper = helper;
                        work()
                    };
                    // Without a thread there are fewer at work, no less done.
                    let thread = std::thread::Builder::new().name("batch".into());
                    thread.spawn_scoped(scope, helping).ok()
                })
                .collect();
            let mut answers = work();
            for helper in helping {
                let theirs = match helper.join() {
                    Ok(theirs) => theirs,
                    Err(_) => Err(IndexError::Engine("a search panicked".into())),
                };
                answers = answers.and_then(|mut answers| {
                    answers.append(&mut theirs?);
                    Ok(answers)
                });
            }
            answers
        })?;
        answers.sort_unstable_by_key(|(place, _)| *place);
        Ok(answers.into_iter().map(|(_, found)| found).collect())
    }
}

/// The queries with their places, each followed by the nearest of those left, as far as a few components tell.
fn in_order(queries: &[Vector]) -> Vec<(usize, &Vector)> {
    let mut order: Vec<(usize, &Vector)> = queries.iter().enumerate().collect();
    let is_numbers = |query: &Vector| matches!(query.form(), Some(Form::Numbers(_)));
    if !queries.iter().all(is_numbers) {
        return order; // bits have no components
    }
    let distance = |a: &Vector, b: &Vector| -> f32 {
        let pairs = a.as_slice().iter().zip(b.as_slice()).take(COMPARED);
        pairs.map(|(a, b)| (a - b) * (a - b)).sum()
    };
    for block in order.chunks_mut(ORDERED) {
        let mut rest = block;
        while let Some(((_, last), left)) = rest.split_first_mut() {
            let distances = left.iter().map(|(_, query)| distance(last, query));
            let nearest = distances
                .enumerate()
                .min_by(|(_, a), (_, b)| a.total_cmp(b));
            if let Some((nearest, _)) = nearest {
                left.swap(0, nearest);
            }
            rest = left;
        }
    }
    order
}
