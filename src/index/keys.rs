//! An encoded key → where its row is. A hash table of 32-bit places; the keys themselves stay in the records, so a row
//! costs five bytes here. Used by the writer alone.

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use std::hash::BuildHasher;

/// Where a row of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A row with a vector, by its row id.
    Row(u32),
    /// A row without an indexable vector, by its slot among those.
    LeftOut(u32),
}

/// Left-out places have this bit; row ids stay below it.
const LEFT_OUT: u32 = 1 << 31;

impl Place {
    /// The place as one number; never [`u32::MAX`].
    #[must_use]
    pub fn pack(self) -> u32 {
        match self {
            Self::Row(row) => row,
            Self::LeftOut(slot) => slot | LEFT_OUT,
        }
    }

    /// The place that was packed.
    #[must_use]
    pub fn unpack(packed: u32) -> Self {
        if packed & LEFT_OUT == 0 {
            Self::Row(packed)
        } else {
            Self::LeftOut(packed & !LEFT_OUT)
        }
    }
}

/// The key map. Each call brings the function that finds a place's key.
#[derive(Debug, Default)]
pub(super) struct KeyMap {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl KeyMap {
    /// Where the row of `key` is.
    pub(super) fn get<'a>(&self, key: &[u8], key_of: impl Fn(Place) -> &'a [u8]) -> Option<Place> {
        self.table
            .find(self.hasher.hash_one(key), |packed| {
                key_of(Place::unpack(*packed)) == key
            })
            .map(|packed| Place::unpack(*packed))
    }

    /// The row of `key` is now at `place`. `key_of(place)` and of every place in the map must be its key already,
    /// and the old place's key still be there.
    pub(super) fn insert<'a>(
        &mut self,
        key: &[u8],
        place: Place,
        key_of: impl Fn(Place) -> &'a [u8],
    ) {
        let entry = self.table.entry(
            self.hasher.hash_one(key),
            |packed| key_of(Place::unpack(*packed)) == key,
            |packed| self.hasher.hash_one(key_of(Place::unpack(*packed))),
        );
        match entry {
            Entry::Occupied(mut entry) => *entry.get_mut() = place.pack(),
            Entry::Vacant(entry) => {
                entry.insert(place.pack());
            }
        }
    }

    /// Forgets `key`.
    pub(super) fn remove<'a>(
        &mut self,
        key: &[u8],
        key_of: impl Fn(Place) -> &'a [u8],
    ) -> Option<Place> {
        let found = self.table.find_entry(self.hasher.hash_one(key), |packed| {
            key_of(Place::unpack(*packed)) == key
        });
        Some(Place::unpack(found.ok()?.remove().0))
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size()
    }
}
