//! Stored rows → a writer with every row at the place where it was; and the places that were written since, which are all
//! that the next storing has to store. Does no I/O.

use std::sync::Arc;

use super::faiss::GraphImage;
use super::keys::Place;
use super::left_out::MOST_LEFT_OUT;
use super::memory::Memory;
use super::pages::Bitmap;
use super::{ColumnChange, IndexError, IndexSpec, LeftOut, Snapshot, Writer, record};
use crate::catalog::{FilterKind, RowKey};
use crate::lsn::Lsn;
use crate::vector::{Metric, Vector};

/// A set of places.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    rows: Bitmap,
    left_out: Bitmap,
}

impl Changed {
    /// Whether the place is in the set.
    #[must_use]
    pub fn contains(&self, place: Place) -> bool {
        match place {
            Place::Row(row) => self.rows.contains(row),
            Place::LeftOut(slot) => self.left_out.contains(slot),
        }
    }

    /// Adds all of these rows.
    pub(super) fn merge_rows(&mut self, rows: &Bitmap) {
        self.rows.merge(rows);
    }

    /// Adds what `other` has.
    pub fn merge(&mut self, other: &Self) {
        self.rows.merge(&other.rows);
        self.left_out.merge(&other.left_out);
    }

    /// Whether no place is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.len() + self.left_out.len() == 0
    }

    /// The places, rows with a vector first.
    pub fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let rows = self.rows.iter().map(Place::Row);
        rows.chain(self.left_out.iter().map(Place::LeftOut))
    }

    pub(super) fn insert(&mut self, place: Place) {
        match place {
            Place::Row(row) => self.rows.insert(row),
            Place::LeftOut(slot) => self.left_out.insert(slot),
        };
    }
}

/// A writer in the making. It has never given up a row, so no row id can mean two rows.
#[derive(Debug)]
pub struct Loader(Writer);

impl Loader {
    /// An index without rows, which will have that graph, if one is given.
    ///
    /// # Errors
    /// When the options are beyond what the engine has room for, or there is no memory for the rows of the graph.
    pub fn new(spec: IndexSpec, graph: Option<&GraphImage>) -> Result<Self, IndexError> {
        Self::within(spec, graph, &Memory::unlimited())
    }

    /// The same with the memory that the index shares with others.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn within(
        spec: IndexSpec,
        graph: Option<&GraphImage>,
        memory: &Arc<Memory>,
    ) -> Result<Self, IndexError> {
        let mut writer = Writer::within(spec, memory)?;
        if let Some(graph) = graph {
            writer.rows.expect_graph(graph)?;
        }
        Ok(Self(writer))
    }

    /// As [`Writer::serves`].
    pub fn serves(&self) {
        self.0.serves();
    }

    /// As [`Writer::filtered_on`].
    #[must_use]
    pub fn filtered_on(self, kinds: impl IntoIterator<Item = Option<FilterKind>>) -> Self {
        Self(self.0.filtered_on(kinds))
    }

    /// Puts a row where it was.
    ///
    /// # Errors
    /// When it cannot have been there: the place or the key is taken, or the row is not of this index's form.
    pub fn row(
        &mut self,
        place: Place,
        key: &RowKey,
        vector: &Result<Vector, LeftOut>,
        include: &[ColumnChange],
    ) -> Result<(), IndexError> {
        let wrong = |what: &str| Err(IndexError::Engine(format!("a stored row {what}")));
        let writer = &mut self.0;
        if include.len() != writer.spec.include {
            return wrong("has other INCLUDE columns");
        }
        if writer.place(key.as_bytes()).is_some() {
            return wrong("has the key of another");
        }
        let Some(record) = record::encode(None, key.as_bytes(), include)? else {
            return wrong("lacks a value");
        };
        match (place, vector) {
            (Place::Row(row), Ok(vector)) => {
                if vector.form() != Some(writer.spec.form()) {
                    return wrong("has another dimension");
                }
                if writer.spec.metric == Metric::Cosine && vector.is_zero() {
                    return wrong("has no direction");
                }
                writer.rows.load(row, vector.as_slice())?;
                writer.set_record(row, &record);
            }
            (Place::LeftOut(slot), Err(reason)) if slot < MOST_LEFT_OUT => {
                let left_out = &mut writer.left_out;
                let index = slot as usize;
                if left_out.reasons.len() <= index {
                    left_out.reasons.resize(index + 1, *reason);
                }
                if !left_out.records.get(slot).is_empty() {
                    return wrong("is where another is");
                }
                if let Some(known) = left_out.reasons.get_mut(index) {
                    *known = *reason;
                }
                left_out.records.set(slot, &record);
            }
            (Place::Row(_) | Place::LeftOut(_), _) => {
                return wrong("is among others than its own kind");
            }
        }
        writer.index_key(key.as_bytes(), place);
        Ok(())
    }

    /// Shows what was loaded to the linker, which works on it while loading goes on.
    pub fn publish(&mut self, lsn: Lsn) -> Arc<Snapshot> {
        self.0.publish(lsn)
    }

    /// Takes over the graph of the rows that were loaded, none of which was published.
    ///
    /// # Errors
    /// When it is another's, or there is no memory; all rows are then linked anew.
    pub fn adopt(&mut self, graph: &GraphImage) -> Result<(), IndexError> {
        self.0.rows.adopt_graph(graph)
    }

    /// Everything was loaded: places in between are free.
    #[must_use]
    pub fn finish(mut self) -> Writer {
        self.0.rows.finish_loading();
        let left_out = &mut self.0.left_out;
        let slots = (0_u32..).zip(&left_out.reasons).map(|(slot, _)| slot);
        left_out.free = slots
            .filter(|slot| left_out.records.get(*slot).is_empty())
            .collect();
        self.0
    }
}
