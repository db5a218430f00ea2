//! Row changes in commit order → the next snapshot. The only code that changes an index.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::attributes::Attributes;
use super::faiss::{Rows, check_lists};
use super::keys::{KeyMap, Place};
use super::left_out::{LeftOut, LeftOutRows, LeftOutView};
use super::linker::Linker;
use super::loader::Changed;
use super::memory::{Account, Memory, Part};
use super::pages::Records;
use super::tried::Tried;
use super::{IndexError, IndexSpec, Snapshot, record};
use crate::catalog::{FilterKind, IndexOptions, Method, RowKey};
use crate::lsn::Lsn;
use crate::vector::{Metric, Vector};

/// What a change says of the vector column.
#[derive(Clone, Debug)]
pub enum VectorChange {
    /// A new value that can be decoded (of any dimension).
    Set(Vector),
    /// NULL, or a value that is no vector: the row stays known but cannot be found.
    LeftOut(LeftOut),
    /// As before.
    Unchanged,
}

/// What a change says of an INCLUDE column.
#[derive(Clone, Debug)]
pub enum ColumnChange {
    /// A new value, in binary form.
    Set(Box<[u8]>),
    /// NULL.
    Null,
    /// As before.
    Unchanged,
}

/// One row's change. Applying it twice is the same as once.
#[derive(Clone, Debug)]
pub enum RowChange {
    /// INSERT or UPDATE: the row of `key` is now this.
    Upsert {
        /// The key before, when it changed.
        old_key: Option<RowKey>,
        /// The key now.
        key: RowKey,
        /// The vector column.
        vector: VectorChange,
        /// The INCLUDE columns, all of them.
        include: Vec<ColumnChange>,
    },
    /// DELETE.
    Delete {
        /// The row's key.
        key: RowKey,
    },
    /// TRUNCATE.
    Truncate,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The row can be found.
    Indexed,
    /// The row is known but cannot be found.
    LeftOut(LeftOut),
    /// The row (or rows) are gone, or were not there.
    Removed,
    /// The change left something "unchanged" of a row that the index does not know: it must be fetched by key.
    Unknown,
}

/// How what the index has of a key compares with what it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same, in every bit.
    Same,
    /// The index lacks the row.
    Missing,
    /// The index has a row that should not be.
    Extra,
    /// Its vector or an INCLUDE value is another.
    Differing,
}

/// pgvector's limits of `m`; the shim's lists have room for twice the largest.
const M: RangeInclusive<u16> = 2..=100;
/// pgvector's limits of `ef_construction`.
const EF_CONSTRUCTION: RangeInclusive<u16> = 4..=1_000;

/// Nodes from which an index has a linker; below it there is nothing to link or rebuild.
const LINKER_FROM: u32 = 2_048;

/// The single writer of one index. It owns the thread that links rows; dropping it stops that thread, and leaves the
/// snapshots as they are.
#[derive(Debug)]
pub struct Writer {
    pub(super) spec: IndexSpec,
    pub(super) rows: Rows,
    pub(super) records: Records,
    pub(super) attributes: Attributes,
    pub(super) left_out: LeftOutRows,
    pub(super) tried: Tried,
    pub(super) keys: KeyMap,
    /// Places written since the last [`take_changed`](Self::take_changed).
    changed: Changed,
    account: Arc<Account>,
    linker: Option<Linker>,
}

/// What a row's vector is after a change.
enum NewVector<'a> {
    /// The row keeps the one it has.
    Kept(Place),
    Stored(&'a [f32]),
    LeftOut(LeftOut),
}

impl Writer {
    /// An empty index, with as much memory as there is.
    ///
    /// # Errors
    /// When the options are beyond what the engine has room for, or FAISS can make no index of them.
    pub fn new(spec: IndexSpec) -> Result<Self, IndexError> {
        Self::within(spec, &Memory::unlimited())
    }

    /// An empty index, with the memory that it shares with others.
    ///
    /// # Errors
    /// When the options are beyond what the engine has room for.
    pub fn within(spec: IndexSpec, memory: &Arc<Memory>) -> Result<Self, IndexError> {
        let IndexOptions {
            m, ef_construction, ..
        } = spec.options;
        if !M.contains(&m) || !EF_CONSTRUCTION.contains(&ef_construction) {
            return Err(IndexError::Engine(format!(
                "m = {m}, ef_construction = {ef_construction}"
            )));
        }
        if matches!(spec.options.method, Method::Ivf | Method::Factory) {
            check_lists(&spec)?;
        }
        let account = Account::new(Arc::clone(memory));
        Ok(Self {
            spec,
            rows: Rows::new(spec, &account),
            account,
            records: Records::default(),
            attributes: Attributes::default(),
            left_out: LeftOutRows::default(),
            tried: Tried::default(),
            keys: KeyMap::default(),
            changed: Changed::default(),
            linker: None,
        })
    }

    /// The index serves: memory kept free for such is there for it too.
    pub fn serves(&self) {
        self.account.serves();
    }

    /// Bytes of memory that it and its snapshots hold.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.account.parts().total()
    }

    /// The same index, whose searches can be filtered on these INCLUDE columns, in their order; `None` for one of a type
    /// that no filter can use. Before any row is put in.
    #[must_use]
    pub fn filtered_on(mut self, kinds: impl IntoIterator<Item = Option<FilterKind>>) -> Self {
        self.attributes = Attributes::new(kinds);
        self
    }

    /// Applies a change; invisible until [`publish`](Self::publish).
    ///
    /// # Errors
    /// When the index is full, or the change does not fit its definition; it is then as it was.
    pub fn apply(&mut self, change: RowChange) -> Result<Outcome, IndexError> {
        let outcome = self.applied(change);
        self.account();
        outcome
    }

    fn applied(&mut self, change: RowChange) -> Result<Outcome, IndexError> {
        match change {
            RowChange::Upsert {
                old_key,
                key,
                vector,
                include,
            } => self.upsert(old_key.as_ref(), &key, &vector, &include),
            RowChange::Delete { key } => {
                self.delete(key.as_bytes());
                Ok(Outcome::Removed)
            }
            RowChange::Truncate => {
                // A new version: snapshots keep the old one.
                self.rows = self.rows.emptied();
                self.records = Records::default();
                self.attributes = self.attributes.emptied();
                self.left_out = LeftOutRows::default();
                self.keys = KeyMap::default();
                Ok(Outcome::Removed)
            }
        }
    }

    /// Whether the index has a row of that key, findable or not.
    #[must_use]
    pub fn knows(&self, key: &RowKey) -> bool {
        self.place(key.as_bytes()).is_some()
    }

    /// How the index compares with what it would be after `change`, as far as that tells it: what is unchanged there is not
    /// compared.
    ///
    /// # Errors
    /// When the change does not fit the index's definition.
    pub fn compare(&self, change: &RowChange) -> Result<Comparison, IndexError> {
        let (key, vector, include) = match change {
            RowChange::Upsert {
                key,
                vector,
                include,
                ..
            } => (key, vector, include),
            RowChange::Delete { key } => {
                return Ok(if self.knows(key) {
                    Comparison::Extra
                } else {
                    Comparison::Same
                });
            }
            RowChange::Truncate => {
                return Err(IndexError::Engine("no row to compare with".to_owned()));
            }
        };
        let Some(place) = self.place(key.as_bytes()) else {
            return Ok(Comparison::Missing);
        };
        let old = self.record(place);
        let same_vector = match vector {
            VectorChange::Unchanged => true,
            VectorChange::LeftOut(reason) => self.is_left_out(place, *reason),
            VectorChange::Set(vector) => match self.check(vector, Some(place)) {
                NewVector::Kept(_) => true,
                NewVector::Stored(_) => false,
                NewVector::LeftOut(reason) => self.is_left_out(place, reason),
            },
        };
        let new = record::encode(Some(old), key.as_bytes(), include)?;
        Ok(if same_vector && new.as_deref() == Some(old) {
            Comparison::Same
        } else {
            Comparison::Differing
        })
    }

    fn is_left_out(&self, place: Place, reason: LeftOut) -> bool {
        match place {
            Place::Row(_) => false,
            Place::LeftOut(slot) => self.left_out.reasons.get(slot as usize) == Some(&reason),
        }
    }

    fn upsert(
        &mut self,
        old_key: Option<&RowKey>,
        key: &RowKey,
        vector: &VectorChange,
        include: &[ColumnChange],
    ) -> Result<Outcome, IndexError> {
        if include.len() != self.spec.include {
            return Err(IndexError::Engine(format!(
                "a change brings {} INCLUDE columns of {}",
                include.len(),
                self.spec.include
            )));
        }
        let old_key = old_key.filter(|old| *old != key);
        let at_key = self.place(key.as_bytes());
        let at_old = old_key.and_then(|old| self.place(old.as_bytes()));
        // Both are known only when changes are replayed onto a later state: then the row under the new key is that
        // later state, and the changes that led to it are still to come again.
        let source = at_key.or(at_old);
        let Some(record) = record::encode(
            source.map(|place| self.record(place)),
            key.as_bytes(),
            include,
        )?
        else {
            return Ok(Outcome::Unknown);
        };
        let new = match (vector, source) {
            (VectorChange::Unchanged, None) => return Ok(Outcome::Unknown),
            (VectorChange::Unchanged, Some(place)) => NewVector::Kept(place),
            (VectorChange::LeftOut(reason), _) => NewVector::LeftOut(*reason),
            (VectorChange::Set(vector), source) => self.check(vector, source),
        };
        // What has no place yet, or a longer record than before, takes memory that cannot be refused later.
        if source.is_none_or(|place| self.record(place).len() < record.len()) {
            self.account.check()?;
        }
        let place = self.store(&new)?;
        if let Some(rows) = self.rows.take_recoded() {
            self.changed.merge_rows(rows);
        }
        if !matches!(new, NewVector::Kept(_)) || *self.record(place) != *record {
            self.changed.insert(place);
        }
        // From here on nothing fails. Keys are taken out while their records are still there to compare with.
        for key in old_key
            .map(RowKey::as_bytes)
            .into_iter()
            .chain([key.as_bytes()])
        {
            if let Some(old) = self.take(key)
                && old != place
            {
                self.release(old);
            }
        }
        match place {
            Place::Row(row) => self.set_record(row, &record),
            Place::LeftOut(slot) => self.left_out.records.set(slot, &record),
        }
        self.index_key(key.as_bytes(), place);
        Ok(match place {
            Place::Row(_) => Outcome::Indexed,
            Place::LeftOut(slot) => Outcome::LeftOut(self.left_out.reasons[slot as usize]),
        })
    }

    /// A row with a vector has this record.
    pub(super) fn set_record(&mut self, row: u32, record: &[u8]) {
        self.records.set(row, record);
        self.attributes
            .set(row, |column| record::include(record, column));
    }

    /// The row of `key` is at `place`, and its record as well.
    pub(super) fn index_key(&mut self, key: &[u8], place: Place) {
        let (records, left_out) = (&self.records, &self.left_out.records);
        self.keys
            .insert(key, place, |place| key_of(records, left_out, place));
    }

    /// What storing `vector` means for the row now at `source`.
    fn check<'a>(&self, vector: &'a Vector, source: Option<Place>) -> NewVector<'a> {
        if vector.form() != Some(self.spec.form()) {
            return NewVector::LeftOut(LeftOut::WrongDimension);
        }
        if self.spec.metric == Metric::Cosine && vector.is_zero() {
            return NewVector::LeftOut(LeftOut::Zero);
        }
        if let Some(Place::Row(row)) = source
            && self.rows.holds(row, vector.as_slice())
        {
            return NewVector::Kept(Place::Row(row));
        }
        NewVector::Stored(vector.as_slice())
    }

    /// Where the row will be.
    fn store(&mut self, new: &NewVector<'_>) -> Result<Place, IndexError> {
        match new {
            NewVector::Kept(place) => Ok(*place),
            NewVector::Stored(vector) => Ok(Place::Row(self.rows.insert(vector)?)),
            NewVector::LeftOut(reason) => self.left_out.insert(*reason).map(Place::LeftOut),
        }
    }

    fn delete(&mut self, key: &[u8]) {
        if let Some(place) = self.take(key) {
            self.release(place);
        }
    }

    /// Takes a key out of the map.
    fn take(&mut self, key: &[u8]) -> Option<Place> {
        let (records, left_out) = (&self.records, &self.left_out.records);
        self.keys
            .remove(key, |place| key_of(records, left_out, place))
    }

    /// Gives up what a row of the table had.
    fn release(&mut self, place: Place) {
        match place {
            Place::Row(row) => {
                self.rows.remove(row);
                self.attributes.remove(row);
            }
            Place::LeftOut(slot) => self.left_out.remove(slot),
        }
    }

    pub(super) fn place(&self, key: &[u8]) -> Option<Place> {
        let (records, left_out) = (&self.records, &self.left_out.records);
        self.keys.get(key, |place| key_of(records, left_out, place))
    }

    fn record(&self, place: Place) -> &[u8] {
        match place {
            Place::Row(row) => self.records.get(row),
            Place::LeftOut(slot) => self.left_out.records.get(slot),
        }
    }

    /// Whether a rebuild waits for the next [`publish`](Self::publish).
    #[must_use]
    pub fn is_rebuilt(&self) -> bool {
        self.linker.as_ref().is_some_and(Linker::is_rebuilt)
    }

    /// Makes everything applied visible, at once, as the state at `lsn`.
    pub fn publish(&mut self, lsn: Lsn) -> Arc<Snapshot> {
        let rebuilt = self.linker.as_ref().and_then(Linker::rebuilt);
        self.attributes.seal();
        self.account_published();
        let snapshot = Arc::new(Snapshot::new(
            self.spec,
            lsn,
            self.rows.publish(rebuilt),
            self.records.clone(),
            self.attributes.clone(),
            self.left_out.len(),
            self.tried.next(),
        ));
        if self.linker.is_none() && snapshot.view().nodes() >= LINKER_FROM {
            let started = Linker::start(Arc::clone(snapshot.view().dial()));
            // Without a thread to be had, rows are scanned until the next try.
            self.linker = started
                .map_err(|error| snapshot.view().account().linked(&Err(error)))
                .ok();
        }
        if let Some(linker) = &self.linker {
            linker.see(Arc::clone(&snapshot));
        }
        snapshot
    }

    /// The places that were written since this was asked last. What was at a place that is now empty is not told.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// Takes back what [`Self::take_changed`] gave, since nothing became of it.
    pub fn mark_changed(&mut self, changed: &Changed) {
        self.changed.merge(changed);
    }

    /// The rows that no snapshot shows, with everything applied so far. The records are shared, not copied.
    #[must_use]
    pub fn left_out(&self) -> LeftOutView {
        self.left_out.view()
    }

    /// Accounts for what changes by little and cannot be refused.
    fn account(&self) {
        let records = self.records.bytes() + self.left_out.bytes();
        self.account.set(Part::Records, records);
        self.account.set(Part::Keys, self.keys.bytes());
    }

    /// The same for what takes longer to count.
    fn account_published(&self) {
        self.account();
        self.account.set(Part::Filters, self.attributes.bytes());
        self.account.set(Part::Other, self.rows.other_bytes());
    }
}

/// The key of a place.
fn key_of<'a>(records: &'a Records, left_out: &'a Records, place: Place) -> &'a [u8] {
    record::key(match place {
        Place::Row(row) => records.get(row),
        Place::LeftOut(slot) => left_out.get(slot),
    })
}
