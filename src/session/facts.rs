//! What the session's own upstream session says: settings, rights, and what a name means there. Read by one look-up just before
//! a k-NN statement when something may have changed them, and not otherwise.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::catalog::{Method, RelationId};
use crate::index::view::View;
use crate::index::{DEFAULT_RECALL, Effort};
use crate::lsn::Lsn;
use crate::query::{Effect, Isolation, RelayReason, TransactionEffect};

/// How long a look-up holds when nothing in the session changed: a GRANT, a renamed column or an ALTER ROLE elsewhere is
/// noticed within this time. (Postgres itself checks the rights of every statement that runs there.)
const MAX_AGE: Duration = Duration::from_secs(1);
/// Tables and functions whose facts are kept at a time.
const MAX_SUBJECTS: usize = 256;

/// `rektor.consistency`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Consistency {
    /// A session sees what it committed.
    #[default]
    Session,
    /// Whatever the index has.
    Eventual,
    /// Everything committed anywhere before the statement.
    Strong,
}

/// The settings that decide how k-NN statements are answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) consistency: Consistency,
    /// `rektor.min_lsn`; an unreadable one can never be reached.
    pub(super) min_lsn: Option<Lsn>,
    pub(super) wanted: Wanted,
    pub(super) isolation: Option<Isolation>,
    pub(super) utf8: bool,
    pub(super) conforming_strings: bool,
    /// The role may read `pg_locks`.
    pub(super) sees_locks: bool,
}

/// What a session wants of searches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wanted {
    /// `hnsw.ef_search`, when it is not pgvector's default.
    ef_search: Option<usize>,
    /// `ivfflat.probes`, likewise.
    probes: Option<usize>,
    /// `rektor.recall_target`
    recall: f64,
}

impl Wanted {
    fn new(ef_search: Option<usize>, probes: Option<usize>, recall: Option<f64>) -> Self {
        Self {
            ef_search: ef_search.filter(|ef| *ef != PGVECTOR_DEFAULT_EF && *ef > 0),
            probes: probes.filter(|probes| *probes != PGVECTOR_DEFAULT_PROBES && *probes > 0),
            recall: recall
                .filter(|recall| (0.0..=1.0).contains(recall))
                .map_or(DEFAULT_RECALL, |recall| recall.min(MOST_RECALL)),
        }
    }

    /// The effort of a search in an index of that method.
    pub(super) fn effort(&self, method: Method) -> Effort {
        let probes = self.probes.filter(|_| method == Method::Ivf);
        match (probes, self.ef_search) {
            (Some(probes), _) => Effort::Lists(probes),
            (None, Some(ef)) => Effort::Candidates(ef),
            (None, None) => Effort::Recall(self.recall),
        }
    }
}

/// What was found out for one table and the functions of one statement: whether it may be claimed.
pub(super) type Claimable = Result<(), RelayReason>;

/// One answer of the look-up.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) settings: Settings,
    /// The transaction has an id: it has written.
    pub(super) wrote: bool,
    /// Upstream's position.
    pub(super) lsn: Option<Lsn>,
    pub(super) claimable: Claimable,
}

/// The facts, and what makes them doubtful.
#[derive(Debug, Default)]
pub(super) struct Facts {
    known: Option<Known>,
    /// The session may have written since its position was last read.
    may_have_written: bool,
    /// The open transaction has an id.
    wrote: bool,
    /// Settings were others since its position was last read: a commit may not have waited for its WAL to be written.
    set_since: bool,
    /// Settings were changed in this transaction, and its end may change them back.
    changed_in_transaction: bool,
    /// SET TRANSACTION SNAPSHOT was seen in this transaction.
    imported_snapshot: bool,
    /// The view published when this transaction's first statement was forwarded.
    pinned: Option<Arc<View>>,
    /// The same of a transaction whose end was forwarded: it holds again where an error keeps that end from being run.
    ending: Option<Arc<View>>,
    /// What the session must see: its own commits.
    own_commits: Lsn,
    /// The open transaction, or statement, may bring rows that no stream tells of.
    unstreamed: bool,
    /// When the last such one ended.
    unstreamed_until: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    settings: Settings,
    at: Instant,
    subjects: HashMap<String, Claimable>,
}

impl Facts {
    /// A relayed statement may have this effect.
    pub(super) fn note(&mut self, effect: Effect) {
        let ends = matches!(
            effect.transaction,
            Some(TransactionEffect::End { .. } | TransactionEffect::RollbackTo)
        );
        if effect.settings && !ends {
            self.known = None;
            self.changed_in_transaction = true;
            self.set_since = true;
        }
        self.may_have_written |= effect.writes;
        self.unstreamed |= effect.unstreamed;
        match effect.transaction {
            Some(TransactionEffect::Begin(None)) | None => {}
            Some(TransactionEffect::Begin(Some(_)) | TransactionEffect::Isolation(_)) => {
                self.known = None;
                self.changed_in_transaction = true;
            }
            Some(TransactionEffect::ImportSnapshot) => self.imported_snapshot = true,
            Some(TransactionEffect::End { .. } | TransactionEffect::RollbackTo) => {
                if self.changed_in_transaction {
                    self.known = None;
                }
                if effect.transaction != Some(TransactionEffect::RollbackTo) {
                    let ended = self.pinned.take();
                    self.ending = self.ending.take().or(ended);
                }
            }
        }
    }

    /// A statement that takes a snapshot is about to be forwarded.
    pub(super) fn pin(&mut self, view: impl FnOnce() -> Arc<View>) {
        if self.pinned.is_none() {
            self.pinned = Some(view());
        }
    }

    /// The open transaction has failed, perhaps before what was to end it; after ROLLBACK TO its snapshot is still the same.
    pub(super) fn transaction_failed(&mut self) {
        self.pinned = self.ending.take().or(self.pinned.take());
    }

    /// A transaction is open, and nothing is under way: what was to end another has ended it.
    pub(super) fn transaction_open(&mut self) {
        self.ending = None;
    }

    /// No transaction is open any more.
    pub(super) fn transaction_ended(&mut self, now: impl FnOnce() -> Instant) {
        if std::mem::take(&mut self.unstreamed) {
            self.unstreamed_until = Some(now());
        }
        if self.changed_in_transaction {
            self.known = None;
            self.changed_in_transaction = false;
        }
        self.imported_snapshot = false;
        self.wrote = false;
        self.pinned = None;
        self.ending = None;
    }

    /// Whether a view, for which the catalogue was begun to be read at that moment, may lack what this session has brought into
    /// a table. (Its own transaction has written, and another may follow at once, of which no ReadyForQuery tells.)
    pub(super) fn outruns(&self, catalogue: Option<Instant>) -> bool {
        self.unstreamed
            || self
                .unstreamed_until
                .is_some_and(|until| catalogue.is_none_or(|read| read <= until))
    }

    /// Whether the open transaction is known to have written.
    pub(super) fn wrote(&self) -> bool {
        self.wrote
    }

    /// Whether a commit since the position was last read may not be written yet, whatever the settings are now.
    pub(super) fn may_be_unwritten(&self) -> bool {
        self.set_since
    }

    /// What is known of a subject, when no look-up is needed.
    pub(super) fn get(&self, subject: &str, now: Instant) -> Option<(&Settings, Claimable)> {
        let known = self.known.as_ref().filter(|known| {
            !self.may_have_written
                && known.settings.consistency != Consistency::Strong
                && now.duration_since(known.at) < MAX_AGE
        })?;
        Some((&known.settings, *known.subjects.get(subject)?))
    }

    /// What the newest look-up said of a subject.
    pub(super) fn last(&self, subject: &str) -> Option<(&Settings, Claimable)> {
        let known = self.known.as_ref()?;
        Some((&known.settings, *known.subjects.get(subject)?))
    }

    /// Takes note of an answer. The transaction that wrote goes on being one that may have written.
    pub(super) fn learn(&mut self, subject: String, answer: &Answer, now: Instant) {
        let wanted = match answer.settings.consistency {
            // `eventual` does not wait for it; but the session may want to see its own commits later.
            Consistency::Session | Consistency::Eventual => self.may_have_written,
            Consistency::Strong => true,
        };
        if wanted && let Some(lsn) = answer.lsn {
            self.own_commits = self.own_commits.max(lsn);
        }
        self.wrote = answer.wrote;
        if !answer.wrote {
            self.may_have_written = false;
        }
        self.set_since &= self.changed_in_transaction; // its end changes them back
        let mut subjects = match self.known.take() {
            Some(known)
                if now.duration_since(known.at) < MAX_AGE
                    && known.settings == answer.settings
                    && known.subjects.len() < MAX_SUBJECTS
                    && !wanted =>
            {
                known.subjects
            }
            Some(_) | None => HashMap::new(),
        };
        subjects.insert(subject, answer.claimable);
        self.known = Some(Known {
            settings: answer.settings.clone(),
            at: now,
            subjects,
        });
    }

    /// The position that the session must see.
    pub(super) fn must_see(&self, settings: &Settings) -> Lsn {
        let own = match settings.consistency {
            Consistency::Session | Consistency::Strong => self.own_commits,
            Consistency::Eventual => Lsn::ZERO,
        };
        own.max(settings.min_lsn.unwrap_or(Lsn::ZERO))
    }

    /// Which view answers: `Ok(None)` is the newest.
    ///
    /// # Errors
    /// When the transaction's isolation lets no index answer.
    pub(super) fn view(&self, settings: &Settings) -> Result<Option<&Arc<View>>, RelayReason> {
        if self.imported_snapshot {
            return Err(RelayReason::ImportedSnapshot);
        }
        match settings.isolation {
            Some(Isolation::ReadCommitted) => Ok(None),
            Some(Isolation::RepeatableRead) => Ok(self.pinned.as_ref()),
            Some(Isolation::Serializable) | None => Err(RelayReason::Serializable),
        }
    }
}

impl Answer {
    /// Reads the look-up's row.
    pub(super) fn read(values: &[Option<&[u8]>], relation: RelationId) -> Option<Self> {
        let [
            consistency,
            min_lsn,
            ef_search,
            recall_target,
            isolation,
            encoding,
            conforming,
            wrote,
            lsn,
            resolved,
            columns,
            privilege,
            functions,
            types,
            sees_locks,
            probes,
            no_view,
        ] = values
        else {
            return None;
        };
        let text = |value: &Option<&[u8]>| match value {
            Some(value) => std::str::from_utf8(value).ok().map(str::to_owned),
            None => None,
        };
        let is_true = |value: &Option<&[u8]>| *value == Some(b"t");
        let min_lsn = text(min_lsn).filter(|lsn| !lsn.is_empty());
        let ef_search = text(ef_search).and_then(|ef| ef.parse().ok());
        let probes = text(probes).and_then(|probes| probes.parse().ok());
        let recall = text(recall_target).and_then(|recall| recall.parse().ok());
        let resolved = text(resolved)
            .and_then(|oid| oid.parse().ok())
            .map(RelationId);
        let claimable = if resolved != Some(relation) {
            Err(RelayReason::Shadowed)
        } else if !is_true(columns) {
            Err(RelayReason::StaleGeneration)
        } else if !is_true(privilege) {
            Err(RelayReason::NoKeyPrivilege)
        } else if !is_true(functions) {
            Err(RelayReason::UnknownFunction)
        } else if !is_true(types) {
            Err(RelayReason::UnknownType)
        } else if !is_true(no_view) {
            Err(RelayReason::View)
        } else {
            Ok(())
        };
        Some(Self {
            settings: Settings {
                consistency: match text(consistency).as_deref() {
                    Some("eventual") => Consistency::Eventual,
                    Some("strong") => Consistency::Strong,
                    Some(_) | None => Consistency::Session,
                },
                min_lsn: min_lsn.map(|lsn| lsn.parse().unwrap_or(Lsn::new(u64::MAX))),
                wanted: Wanted::new(ef_search, probes, recall),
                isolation: text(isolation).and_then(|name| Isolation::from_name(&name)),
                utf8: *encoding == Some(b"UTF8"),
                conforming_strings: *conforming == Some(b"on"),
                sees_locks: is_true(sees_locks),
            },
            wrote: is_true(wrote),
            lsn: text(lsn).and_then(|lsn| lsn.parse().ok()),
            claimable,
        })
    }
}

/// pgvector's default of `hnsw.ef_search`: a session that has loaded pgvector shows it without having chosen it.
const PGVECTOR_DEFAULT_EF: usize = 40;
/// The same of `ivfflat.probes`.
const PGVECTOR_DEFAULT_PROBES: usize = 1;

/// No index finds all of the nearest but by comparing all rows, which is another way to answer.
const MOST_RECALL: f64 = 0.999;

#[cfg(test)]
mod tests;
