//! The commits that arrived → whether the server, after a reconnection, tells the same ones again. A server that was restored to
//! an earlier point has the same system identifier and timeline, and a slot of before; when it has written as much as it had
//! then, no position tells it from the one that was followed. Never keeps more than a bounded number of commits.

use std::collections::VecDeque;

use crate::ingest::marks::Marks;
use crate::lsn::Lsn;
use crate::store::{RecoveredJournal, Replayed, StoreError};
use crate::upstream::UpstreamError;
use crate::upstream::slot::{self, SeenCommit};
use crate::upstream::sql::SqlSession;
use crate::wal::pgoutput::LogicalMessage;

/// Commits remembered, 24 bytes each. A server that crashed may have forgotten the confirmations of half a minute.
const COMMITS: usize = 1 << 18;
/// Most WAL that a server decodes once more for the comparison. Beyond, the tables are copied again.
const OVERLAP_BYTES: u64 = 1 << 30;

/// The newest commits that arrived, of every table that is published.
#[derive(Debug, Default)]
pub(crate) struct History {
    seen: VecDeque<SeenCommit>,
    /// Every commit from here on is known.
    since: Lsn,
}

impl History {
    /// Only these are known, which are all from `since` on.
    pub(crate) fn begin(&mut self, since: Lsn, seen: impl IntoIterator<Item = SeenCommit>) {
        self.since = since;
        self.seen.clear();
        for commit in seen {
            self.saw(commit);
        }
    }

    /// A transaction arrived; the same one may arrive again.
    pub(crate) fn saw(&mut self, commit: SeenCommit) {
        if self.seen.back().is_some_and(|last| last.lsn >= commit.lsn) {
            return;
        }
        if self.seen.len() == COMMITS
            && let Some(oldest) = self.seen.pop_front()
        {
            self.since = Lsn::new(oldest.lsn.as_u64() + 1);
        }
        self.seen.push_back(commit);
    }

    /// All commits of a stretch of WAL, if they are known.
    fn between(&self, from: Lsn, to: Lsn) -> Option<Vec<SeenCommit>> {
        let stretch = self
            .seen
            .iter()
            .filter(|seen| (from..to).contains(&seen.lsn));
        (self.since <= from).then(|| stretch.copied().collect())
    }
}

/// Why what upstream tells of the WAL between what it remembers as confirmed and `position` is not what was followed, if so.
pub(crate) async fn contradiction(
    session: &SqlSession,
    slot: &str,
    marks: &Marks,
    confirmed: Lsn,
    position: Lsn,
) -> Result<Option<String>, UpstreamError> {
    if confirmed >= position {
        return Ok(None); // no one else confirms
    }
    let known = marks.history().between(confirmed, position);
    let Some(known) = known.filter(|_| position.bytes_since(confirmed) <= OVERLAP_BYTES) else {
        return Ok(Some(format!(
            "the replication slot is at {confirmed}, too far before {position} to be compared"
        )));
    };
    let told = slot::commits(session, slot, confirmed, position).await?;
    Ok((told != known).then(|| {
        "upstream's transactions are not those that were followed: it was restored to an earlier point".to_owned()
    }))
}

/// The commits that a stored journal holds from `from` on, and from where it holds all.
pub(crate) async fn journalled(
    journal: &RecoveredJournal,
    from: Lsn,
) -> Result<(Lsn, Vec<SeenCommit>), StoreError> {
    let from = journal.range().map_or(from, |(start, _)| from.max(start));
    let messages = journal.replay(from);
    let read = tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        for message in messages {
            if let Replayed::Message(payload) = message?
                && let Ok(begin) = LogicalMessage::decode(payload)
            {
                seen.extend(SeenCommit::of(&begin).filter(|commit| commit.lsn >= from));
            }
        }
        Ok(seen)
    });
    let seen: Result<_, StoreError> = read.await.map_err(|_| StoreError::Stopped)?;
    Ok((from, seen?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(lsn: u64) -> SeenCommit {
        SeenCommit {
            lsn: Lsn::new(lsn),
            xid: 7,
            time: 1,
        }
    }

    #[test]
    fn a_stretch_is_known_only_from_where_all_is() {
        let mut history = History::default();
        history.begin(Lsn::new(10), [commit(10), commit(20)]);
        for lsn in [30, 20, 40] {
            history.saw(commit(lsn));
        }
        let between = |history: &History, from, to| history.between(Lsn::new(from), Lsn::new(to));
        assert_eq!(between(&history, 9, 30), None);
        assert_eq!(
            between(&history, 10, 30),
            Some(vec![commit(10), commit(20)])
        );
        assert_eq!(
            between(&history, 21, 41),
            Some(vec![commit(30), commit(40)])
        );
        for lsn in 0..COMMITS as u64 {
            history.saw(commit(100 + lsn));
        }
        assert_eq!(between(&history, 40, 60), None);
        assert_eq!(
            between(&history, 101, 103),
            Some(vec![commit(101), commit(102)])
        );
    }
}
