//! Filters that searches compared all rows of → the rows that met them, and whether walks among those come to an end: what
//! the next search with the same filter need not find out again. Never decides which rows meet a filter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::filter::Filter;
use super::pages::RowSet;

/// Filters that are remembered, the latest: each takes a bit a row at most.
const FILTERS: usize = 8;
/// From so many walks given up on …
const TOLD: u32 = 4;
/// … and while they are at least so many in four, searches do without.
const IN_FOUR: u32 = 3;
/// One in so many walks all the same: other queries come, and other rows.
const AGAIN: u32 = 16;
/// Walks counted, before the earlier count for half as much.
const COUNTED: u32 = 64;

/// What is known of an index's filters, and of their rows in one snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Tried {
    filters: Arc<Mutex<Vec<Trial>>>,
    /// Which of the index's snapshots.
    snapshot: u64,
}

#[derive(Debug)]
struct Trial {
    filter: Filter,
    /// In one snapshot.
    rows: Option<(u64, Arc<RowSet>)>,
    walks: u32,
    given_up: u32,
    /// Searches that did without a walk.
    without: u32,
}

impl Tried {
    /// The same for the next snapshot, in which other rows may meet the filters.
    pub(super) fn next(&mut self) -> Self {
        self.snapshot += 1;
        for trial in &mut *self.lock() {
            trial.rows = None;
        }
        self.clone()
    }

    /// Whether walks among the rows that meet the filter are mostly given up.
    pub(super) fn starves(&self, filter: &Filter) -> bool {
        let filters = self.lock();
        let trial = filters.iter().find(|trial| trial.filter == *filter);
        trial.is_some_and(Trial::starves)
    }

    /// The same for a search that will do without a walk then: now and then one does not.
    pub(super) fn does_without(&self, filter: &Filter) -> bool {
        let mut filters = self.lock();
        let trial = filters.iter_mut().find(|trial| trial.filter == *filter);
        trial.is_some_and(|trial| {
            trial.without += 1;
            trial.starves() && !trial.without.is_multiple_of(AGAIN)
        })
    }

    /// Counts a walk.
    pub(super) fn walked(&self, filter: &Filter, given_up: bool) {
        self.update(filter, given_up, |trial| {
            if trial.walks == COUNTED {
                trial.walks /= 2;
                trial.given_up /= 2;
            }
            trial.walks += 1;
            trial.given_up += u32::from(given_up);
        });
    }

    /// The rows that meet the filter, which are named if they are not known.
    pub(super) fn rows(&self, filter: &Filter, name: impl FnOnce() -> RowSet) -> Arc<RowSet> {
        let known = self.lock().iter().find_map(|trial| {
            let (snapshot, rows) = trial.rows.as_ref()?;
            let is_it = *snapshot == self.snapshot && trial.filter == *filter;
            is_it.then(|| Arc::clone(rows))
        });
        known.unwrap_or_else(|| {
            let rows = Arc::new(name());
            self.update(filter, true, |trial| {
                trial.rows = Some((self.snapshot, Arc::clone(&rows)));
            });
            rows
        })
    }

    /// Changes what is known of a filter, which from then on is the latest. Of one that is not known only if it is to be.
    fn update(&self, filter: &Filter, is_new: bool, change: impl FnOnce(&mut Trial)) {
        let mut filters = self.lock();
        let place = filters.iter().position(|trial| trial.filter == *filter);
        let mut trial = match place {
            Some(place) => filters.remove(place),
            None if is_new => Trial {
                filter: filter.clone(),
                rows: None,
                walks: 0,
                given_up: 0,
                without: 0,
            },
            None => return,
        };
        change(&mut trial);
        if filters.len() == FILTERS {
            filters.remove(0);
        }
        filters.push(trial);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Trial>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trial {
    fn starves(&self) -> bool {
        self.given_up >= TOLD && self.given_up * 4 >= self.walks * IN_FOUR
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Ordinal;

    fn filter(number: i64) -> Filter {
        let mut filter = Filter::default();
        filter.add(0, vec![(Ordinal::LEAST, Ordinal::of_int(number))]);
        filter
    }

    #[test]
    fn what_starves_is_walked_seldom_until_walks_end() {
        let tried = Tried::default();
        tried.walked(&filter(1), false); // not of interest
        assert!(tried.lock().is_empty());
        for _ in 0..TOLD {
            assert!(!tried.starves(&filter(1)));
            tried.walked(&filter(1), true);
        }
        assert!(tried.starves(&filter(1)) && !tried.starves(&filter(2)));
        let without = (0..10 * AGAIN).filter(|_| tried.does_without(&filter(1)));
        assert_eq!(without.count(), 10 * (AGAIN as usize - 1));
        for _ in 0..COUNTED {
            tried.walked(&filter(1), false);
        }
        assert!(!tried.starves(&filter(1)) && !tried.does_without(&filter(1)));
    }

    #[test]
    fn rows_are_those_of_the_snapshot() {
        let mut writer = Tried::default();
        let (first, second) = (writer.next(), writer.next());
        let name = |tried: &Tried, row| tried.rows(&filter(1), || RowSet::Listed(vec![row]));
        let listed = |rows: Arc<RowSet>| rows.iter().collect::<Vec<u32>>();
        assert_eq!(listed(name(&first, 1)), [1]);
        assert_eq!(listed(name(&first, 9)), [1], "known");
        assert_eq!(listed(name(&second, 2)), [2], "another snapshot");
        assert_eq!(listed(name(&second, 9)), [2], "known");
        assert_eq!(listed(name(&first, 3)), [3], "an earlier one");
        let _third = writer.next();
        assert_eq!(listed(name(&first, 4)), [4], "let go");
    }

    #[test]
    fn only_the_latest_filters_are_kept() {
        let tried = Tried::default();
        for number in 0..3 * i64::try_from(FILTERS).unwrap() {
            tried.walked(&filter(number), true);
            tried.walked(&filter(0), true);
        }
        assert_eq!(tried.lock().len(), FILTERS);
        assert!(tried.starves(&filter(0)));
    }
}
