//! Stored vectors by row id, which rows are live, and when an id may be used again.
//!
//! Invariants that make the shared memory sound:
//! 1. A row is written once, by [`Rows::insert`], while nobody else can name it.
//! 2. A view gives out only rows that are live in it, and holds its pin as long as anyone reads through it.
//! 3. A row's id comes back from [`Rows::insert`] only after [`Rows::retire`] named it (so no graph of a later view
//!    names it) and every view published before that is dropped.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use super::store::Store;
use crate::index::IndexError;
use crate::index::pages::Bitmap;

/// The writer's side.
#[derive(Debug)]
pub(in crate::index) struct Rows {
    vectors: Arc<Store<f32>>,
    live: Bitmap,
    /// Ids below were given out at least once.
    next: u32,
    /// Ids to give out again.
    free: Vec<u32>,
    /// Retired since the last view.
    retiring: Vec<u32>,
    /// Rows to free once the view of that number and all before it are dropped; in order.
    retired: VecDeque<(u64, Vec<u32>)>,
    /// Views that may still be read, in order.
    views: VecDeque<(u64, Weak<()>)>,
    published: u64,
}

/// A row that was just inserted: only the writer knows it, so what belongs to it may be written.
#[derive(Debug)]
pub(in crate::index) struct FreshRow(u32);

impl FreshRow {
    /// Its id.
    pub(in crate::index) fn id(&self) -> u32 {
        self.0
    }
}

/// The rows at one moment, for readers. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::index) struct RowView {
    vectors: Arc<Store<f32>>,
    live: Bitmap,
    _pin: Arc<()>,
}

impl Rows {
    /// No rows, of `dim` components each.
    pub(in crate::index) fn new(dim: usize) -> Self {
        Self {
            vectors: Arc::new(Store::new(dim)),
            live: Bitmap::default(),
            next: 0,
            free: Vec::new(),
            retiring: Vec::new(),
            retired: VecDeque::new(),
            views: VecDeque::new(),
            published: 0,
        }
    }

    /// Stores a vector as a new live row.
    pub(in crate::index) fn insert(&mut self, vector: &[f32]) -> Result<FreshRow, IndexError> {
        let row = match self.free.pop() {
            Some(row) => row,
            None => {
                self.vectors.reserve(self.next)?;
                self.next += 1;
                self.next - 1
            }
        };
        // SAFETY: reserved, and no view or graph names a row that is new or free (invariant 3).
        unsafe { self.vectors.set(row, vector) };
        self.live.insert(row);
        Ok(FreshRow(row))
    }

    /// The row is not live in the next view. Its id stays taken until it is retired.
    pub(in crate::index) fn remove(&mut self, row: u32) {
        self.live.remove(row);
    }

    /// These rows, already removed, are named by nothing but views published before now.
    pub(in crate::index) fn retire(&mut self, rows: impl IntoIterator<Item = u32>) {
        let live = &self.live;
        let dead = rows
            .into_iter()
            .inspect(|row| assert!(!live.contains(*row)));
        self.retiring.extend(dead);
    }

    /// The rows as they are now.
    pub(in crate::index) fn publish(&mut self) -> RowView {
        if !self.retiring.is_empty() {
            let rows = std::mem::take(&mut self.retiring);
            self.retired.push_back((self.published, rows));
        }
        self.published += 1;
        let pin = Arc::new(());
        self.views.push_back((self.published, Arc::downgrade(&pin)));
        self.reclaim();
        RowView {
            vectors: Arc::clone(&self.vectors),
            live: self.live.clone(),
            _pin: pin,
        }
    }

    /// Frees the ids that no view can name any more.
    fn reclaim(&mut self) {
        while self
            .views
            .front()
            .is_some_and(|(_, pin)| pin.strong_count() == 0)
        {
            self.views.pop_front();
        }
        // What the dropped views' readers read happened before: their drop released the count just seen as 0.
        fence(Ordering::Acquire);
        let oldest = self.views.front().map_or(u64::MAX, |(number, _)| *number);
        while self.retired.front().is_some_and(|(last, _)| *last < oldest) {
            let rows = self.retired.pop_front();
            self.free
                .extend(rows.into_iter().flat_map(|(_, rows)| rows));
        }
    }

    /// The vector of a live row.
    pub(in crate::index) fn vector(&self, row: u32) -> Option<&[f32]> {
        // SAFETY: live, so written; a write needs `&mut self`.
        self.live
            .contains(row)
            .then(|| unsafe { self.vectors.get(row) })
    }

    /// The live rows.
    pub(in crate::index) fn live(&self) -> &Bitmap {
        &self.live
    }

    /// Ids given out so far, in use or not.
    pub(in crate::index) fn extent(&self) -> u32 {
        self.next
    }

    /// Bytes of the vectors, bitmap and lists of ids.
    pub(in crate::index) fn bytes(&self) -> usize {
        self.vectors.bytes(self.next) + self.live.bytes() + self.free.capacity() * 4
    }
}

impl RowView {
    /// The vector of a live row.
    pub(in crate::index) fn vector(&self, row: u32) -> Option<&[f32]> {
        // SAFETY: live in this view, so written before it and not again while its pin is held (invariants 1 to 3).
        self.live
            .contains(row)
            .then(|| unsafe { self.vectors.get(row) })
    }

    /// The live rows.
    pub(in crate::index) fn live(&self) -> &Bitmap {
        &self.live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_only_when_no_view_can_name_it() {
        let mut rows = Rows::new(1);
        let first = rows.insert(&[1.0]).unwrap().id();
        let old = rows.publish();
        rows.remove(first);
        rows.retire([first]);
        let new = rows.publish();
        assert_ne!(rows.insert(&[2.0]).unwrap().id(), first, "old names it");
        assert_eq!(old.vector(first), Some(&[1.0][..]));
        assert_eq!(new.vector(first), None);
        drop(old);
        drop(rows.publish());
        assert_eq!(rows.insert(&[3.0]).unwrap().id(), first);
        assert_eq!(new.vector(first), None);
    }
}
