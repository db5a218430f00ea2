//! One table's changes → one writer: what makes an index follow its table, in the applier or on a thread that catches up.
//! Never applies what the copy it began with already has.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::definition::rename;
use super::one::needs;
use crate::catalog::{IndexDefinition, IndexId, RowKey};
use crate::index::{IndexError, Outcome, RowChange, Writer};
use crate::ingest::mending::{MAX_LACKING, Watch};
use crate::ingest::projection::{Projection, ProjectionError};
use crate::lsn::Lsn;
use crate::upstream::catalogue::{IndexEntry, Shape};
use crate::wal::pgoutput::Relation;
use crate::wal::transaction::{Change, Event};

/// Most states of a table's column names that are remembered: each lasts from one reading of the catalogue to the next.
const SHAPES: usize = 8;

/// An index's writer, and what it needs to follow its table.
#[derive(Debug)]
pub(crate) struct Replica {
    /// As it was copied; names as of now, or of when it began to catch up.
    pub(crate) entry: IndexEntry,
    pub(crate) writer: Writer,
    /// Commits whose record is before this are in it.
    pub(crate) point: Lsn,
    projection: Option<Projection>,
    /// How the table's columns were called at positions that the stream may still tell of, newest last.
    shapes: Vec<Shape>,
    /// Something was applied since the last publication.
    pub(crate) dirty: bool,
    /// Keys whose rows are being compared with the table. Only while it follows the stream.
    pub(super) watch: Option<Watch>,
    /// Keys of rows that were told of only in part. Until they are fetched nothing new is published.
    pub(crate) lacking: BTreeSet<RowKey>,
}

/// Why an index stopped following its table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(transparent)]
    Engine(#[from] IndexError),
    #[error("the stream tells of too many rows only in part")]
    TooManyLacking,
}

impl Trouble {
    /// The memory that an index needs before it is tried again, when it held so many bytes; 0 if that is not the reason.
    pub(super) fn needs(&self, held: u64) -> u64 {
        match self {
            Self::Engine(IndexError::Memory { .. }) => needs(held),
            Self::Engine(_) | Self::Projection(_) | Self::TooManyLacking => 0,
        }
    }
}

/// The commit record of a change that concerns the index.
pub(super) fn commit_of(definition: &IndexDefinition, event: &Event) -> Option<Lsn> {
    let relation = definition.relation;
    match event {
        Event::Change(change) => (change.relation.id == relation).then_some(change.commit_lsn),
        Event::Truncate {
            commit_lsn,
            relations,
        } => relations
            .iter()
            .any(|r| r.id == relation)
            .then_some(*commit_lsn),
        Event::Begin { .. } | Event::Relation(_) | Event::Message { .. } | Event::Commit { .. } => {
            None
        }
    }
}

impl Replica {
    /// `former` is what the table's columns were called when the rows were read.
    pub(crate) fn new(entry: IndexEntry, former: Shape, writer: Writer, point: Lsn) -> Self {
        let mut shapes = vec![former];
        if !shapes.contains(&entry.shape) {
            shapes.push(entry.shape.clone());
        }
        Self {
            entry,
            writer,
            point,
            projection: None,
            shapes,
            dirty: true,
            watch: None,
            lacking: BTreeSet::new(),
        }
    }

    pub(crate) fn id(&self) -> IndexId {
        self.entry.definition.id
    }

    /// Takes over the names of a newer reading of the catalogue.
    pub(super) fn rename(&mut self, entry: &IndexEntry) {
        if self.entry == *entry {
            return;
        }
        rename(&mut self.entry, entry);
        self.projection = None;
        self.shapes.retain(|shape| *shape != entry.shape);
        if self.shapes.len() == SHAPES {
            self.shapes.remove(0);
        }
        self.shapes.push(entry.shape.clone());
    }

    /// Whether changes of a table that is described like this can be applied.
    pub(super) fn understands(&self, relation: &Arc<Relation>) -> bool {
        let definition = self.definition_for(relation);
        definition.is_ok_and(|definition| Projection::new(&definition, relation).is_ok())
    }

    /// Applies a change, if it concerns this index and is not in it; whether the row cannot be found.
    pub(crate) fn apply(&mut self, event: &Event) -> Result<bool, Trouble> {
        match commit_of(&self.entry.definition, event) {
            Some(commit) if commit >= self.point => {}
            Some(_) | None => return Ok(false), // the copy had it
        }
        let change = match event {
            Event::Change(change) => self.project(change)?,
            Event::Truncate { .. } => RowChange::Truncate,
            Event::Begin { .. }
            | Event::Relation(_)
            | Event::Message { .. }
            | Event::Commit { .. } => {
                return Ok(false);
            }
        };
        self.dirty = true;
        if let Some(watch) = &mut self.watch {
            watch.touch(&change);
        }
        match self.writer.apply(change)? {
            Outcome::Unknown => {
                self.note_lacking(event, true)?;
                Ok(false)
            }
            outcome @ (Outcome::Indexed | Outcome::Removed | Outcome::LeftOut(_)) => {
                if !self.lacking.is_empty() {
                    self.note_lacking(event, false)?;
                }
                Ok(matches!(outcome, Outcome::LeftOut(_)))
            }
        }
    }

    /// Takes note of what a change means for the rows that are lacking.
    fn note_lacking(&mut self, event: &Event, lacks: bool) -> Result<(), Trouble> {
        let Event::Change(change) = event else {
            self.lacking.clear();
            return Ok(());
        };
        match self.project(change)? {
            RowChange::Upsert { old_key, key, .. } => {
                if let Some(old) = old_key {
                    self.lacking.remove(&old);
                }
                if lacks {
                    self.lacking.insert(key);
                } else {
                    self.lacking.remove(&key);
                }
            }
            RowChange::Delete { key } => {
                self.lacking.remove(&key);
            }
            RowChange::Truncate => self.lacking.clear(),
        }
        if self.lacking.len() > MAX_LACKING {
            return Err(Trouble::TooManyLacking);
        }
        Ok(())
    }

    /// The definition with the names that the columns had when the stream described the table like this.
    fn definition_for(
        &self,
        relation: &Relation,
    ) -> Result<Cow<'_, IndexDefinition>, ProjectionError> {
        let definition = &*self.entry.definition;
        let known = self.shapes.iter().rev();
        let mut renamed = known
            .filter(|shape| shape.is_of(relation))
            .map(|shape| definition.renamed(|n| shape.name(n)));
        if let Some(Some(renamed)) = renamed.next() {
            return Ok(Cow::Owned(renamed));
        }
        // Columns of others may have come or gone. Names decide, unless one has meant another column lately.
        let unchanged = |shape: &Shape| {
            let mut columns = definition.columns();
            columns.all(|n| shape.name(n) == self.entry.shape.name(n))
        };
        if self.shapes.iter().all(unchanged) {
            return Ok(Cow::Borrowed(definition));
        }
        Err(ProjectionError::Renamed(definition.table.to_string()))
    }

    fn project(&mut self, change: &Change) -> Result<RowChange, ProjectionError> {
        let known = self.projection.take();
        let projection = match known.filter(|known| known.is_for(&change.relation)) {
            Some(projection) => projection,
            None => Projection::new(&*self.definition_for(&change.relation)?, &change.relation)?,
        };
        self.projection.insert(projection).change(change)
    }
}
