//! When commits arrived and how far an index is → the time of the oldest commit that it does not show. Bounded: when commits
//! arrive faster than they are applied, some are passed over, never the oldest. Reads no clock: the server's stamps are moved
//! to this machine's clock by the difference that each message of the stream shows.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::lsn::Lsn;

/// Commits remembered at a time, 16 bytes each: one a millisecond for some seconds, then ever fewer.
const COMMITS: usize = 4096;
/// Seconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// Commits that arrived and that not every index shows yet, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    waiting: VecDeque<(Lsn, i64)>,
    /// How far this machine's clock is ahead of the server's, in microseconds.
    ahead: i64,
}

impl Commits {
    /// The server sent something when its clock showed `sent`, and it is `now` here.
    pub(crate) fn compare_clocks(&mut self, sent: i64, now: SystemTime) {
        self.ahead = microseconds(now).saturating_sub(sent);
    }

    /// A transaction arrived whose commit record is there, and was written at that time of the server's clock.
    pub(crate) fn arrived(&mut self, commit: Lsn, time: i64) {
        if self.waiting.back().is_some_and(|(last, _)| *last >= commit) {
            return; // it comes again, on another connection
        }
        if self.waiting.len() == COMMITS {
            let mut number = 0;
            self.waiting.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        self.waiting.push_back((commit, time));
    }

    /// Every index shows what is before this position.
    pub(crate) fn applied(&mut self, position: Lsn) {
        while self
            .waiting
            .front()
            .is_some_and(|(commit, _)| *commit < position)
        {
            self.waiting.pop_front();
        }
    }

    /// When the oldest commit was made that is not before this position.
    pub(crate) fn oldest_after(&self, position: Lsn) -> Option<SystemTime> {
        let first = self
            .waiting
            .partition_point(|(commit, _)| *commit < position);
        let (_, time) = self.waiting.get(first)?;
        let since = u64::try_from(time.saturating_add(self.ahead)).ok()?;
        Some(SystemTime::UNIX_EPOCH + POSTGRES_EPOCH + Duration::from_micros(since))
    }

    /// Nothing that was known belongs to what follows.
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
    }
}

/// A time on PostgreSQL's scale.
fn microseconds(time: SystemTime) -> i64 {
    let epoch = SystemTime::UNIX_EPOCH + POSTGRES_EPOCH;
    let since = time.duration_since(epoch).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + POSTGRES_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_oldest_commit_not_shown_counts_by_our_clock() {
        let mut commits = Commits::default();
        assert_eq!(commits.oldest_after(Lsn::ZERO), None);
        commits.compare_clocks(50_000_000, at(53)); // ours is three seconds ahead
        for number in [10, 20, 30, 20] {
            commits.arrived(Lsn::new(number), i64::try_from(number).unwrap() * 1_000_000);
        }
        for (position, oldest) in [
            (0, Some(13)),
            (10, Some(13)),
            (11, Some(23)),
            (30, Some(33)),
            (31, None),
        ] {
            assert_eq!(
                commits.oldest_after(Lsn::new(position)),
                oldest.map(at),
                "{position}"
            );
        }
        commits.applied(Lsn::new(21));
        assert_eq!(commits.oldest_after(Lsn::ZERO), Some(at(33)));
        commits.forget();
        assert_eq!(commits.oldest_after(Lsn::ZERO), None);
    }

    #[test]
    fn however_many_arrive_the_oldest_stays() {
        let mut commits = Commits::default();
        for number in 1..100_000_u32 {
            commits.arrived(Lsn::new(number.into()), number.into());
        }
        assert!(commits.waiting.len() <= COMMITS);
        assert_eq!(commits.waiting.front(), Some(&(Lsn::new(1), 1)));
        assert_eq!(commits.waiting.back(), Some(&(Lsn::new(99_999), 99_999)));
    }
}
