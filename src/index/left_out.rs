//! Rows of the table that cannot be found, for want of a vector that fits: why, their keys and INCLUDE values. No snapshot
//! shows them; changes may make them findable, and a restart needs them.

use super::pages::Records;
use super::{IndexError, record};

/// Most rows without a vector: so that no packed place is `u32::MAX`.
pub(super) const MOST_LEFT_OUT: u32 = (1 << 31) - 1;

/// Why a row of the table is not findable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// The vector is NULL.
    Null,
    /// Another number of dimensions than the index has.
    WrongDimension,
    /// NaN, infinite, or malformed.
    NotFinite,
    /// A zero vector under cosine.
    Zero,
}

/// Rows of the table without an indexable vector: kept for their key and INCLUDE values.
#[derive(Debug, Default)]
pub(super) struct LeftOutRows {
    pub(super) records: Records,
    pub(super) reasons: Vec<LeftOut>,
    pub(super) free: Vec<u32>,
}

impl LeftOutRows {
    pub(super) fn insert(&mut self, reason: LeftOut) -> Result<u32, IndexError> {
        if let Some(slot) = self.free.pop() {
            self.reasons[slot as usize] = reason;
            return Ok(slot);
        }
        let slot = u32::try_from(self.reasons.len())
            .ok()
            .filter(|slot| *slot < MOST_LEFT_OUT);
        let slot = slot.ok_or_else(|| IndexError::Full("2^31 rows without a vector".into()))?;
        self.reasons.push(reason);
        Ok(slot)
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.records.set(slot, &[]);
        self.free.push(slot);
    }

    pub(super) fn bytes(&self) -> usize {
        let lists = self.reasons.capacity() + self.free.capacity() * size_of::<u32>();
        self.records.bytes() + lists
    }

    pub(super) fn len(&self) -> u64 {
        (self.reasons.len() - self.free.len()) as u64
    }

    /// The rows as they are now. The records are shared, not copied.
    pub(super) fn view(&self) -> LeftOutView {
        LeftOutView {
            records: self.records.clone(),
            reasons: self.reasons.clone(),
        }
    }
}

/// The rows without an indexable vector at one moment: what a snapshot does not show and a restart needs.
#[derive(Clone, Debug)]
pub struct LeftOutView {
    records: Records,
    reasons: Vec<LeftOut>,
}

/// A row without an indexable vector.
#[derive(Clone, Copy, Debug)]
pub struct LeftOutRow<'a> {
    /// Why it cannot be found.
    pub reason: LeftOut,
    record: &'a [u8],
}

impl LeftOutView {
    /// Every such row.
    pub fn rows(&self) -> impl Iterator<Item = (u32, LeftOutRow<'_>)> {
        let slots = (0_u32..).zip(&self.reasons);
        slots.filter_map(|(slot, _)| Some((slot, self.row(slot)?)))
    }

    /// The row in a slot, if there is one.
    #[must_use]
    pub fn row(&self, slot: u32) -> Option<LeftOutRow<'_>> {
        let reason = *self.reasons.get(slot as usize)?;
        let record = self.records.get(slot);
        // A free slot's record is empty; a row's begins with its key's length.
        (!record.is_empty()).then_some(LeftOutRow { reason, record })
    }
}

impl<'a> LeftOutRow<'a> {
    /// The encoded key.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        record::key(self.record)
    }

    /// INCLUDE column `column`, in the form it arrived in (binary); `None` is NULL.
    #[must_use]
    pub fn include(&self, column: usize) -> Option<&'a [u8]> {
        record::include(self.record, column)
    }
}
