//! One table's changes → one writer: what makes an index follow its table, in the applier or on a thread that catches up.
//! Never applies what the copy it began with already has.

use std::sync::Arc;

use crate::catalog::{IndexDefinition, IndexId};
use crate::index::{IndexError, Outcome, RowChange, Writer};
use crate::ingest::projection::{Projection, ProjectionError};
use crate::lsn::Lsn;
use crate::wal::transaction::{Change, Event};

/// An index's writer, and what it needs to follow its table.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) definition: Arc<IndexDefinition>,
    pub(crate) writer: Writer,
    /// Commits whose record is before this are in it.
    pub(crate) point: Lsn,
    projection: Option<Projection>,
    /// Something was applied since the last publication.
    pub(crate) dirty: bool,
}

/// Why an index stopped following its table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(transparent)]
    Engine(#[from] IndexError),
    #[error("a change leaves a value as it was, of a row that the index does not have")]
    UnknownRow,
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
    pub(crate) fn new(definition: Arc<IndexDefinition>, writer: Writer, point: Lsn) -> Self {
        Self {
            definition,
            writer,
            point,
            projection: None,
            dirty: true,
        }
    }

    pub(crate) fn id(&self) -> IndexId {
        self.definition.id
    }

    /// Takes over what the index is called now.
    pub(super) fn rename(&mut self, definition: &Arc<IndexDefinition>) {
        self.definition = Arc::clone(definition);
        self.projection = None;
    }

    /// Applies a change, if it concerns this index and is not in it; whether the row cannot be found.
    pub(crate) fn apply(&mut self, event: &Event) -> Result<bool, Trouble> {
        match commit_of(&self.definition, event) {
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
        match self.writer.apply(change)? {
            Outcome::Indexed | Outcome::Removed => Ok(false),
            Outcome::LeftOut(_) => Ok(true),
            Outcome::Unknown => Err(Trouble::UnknownRow),
        }
    }

    fn project(&mut self, change: &Change) -> Result<RowChange, ProjectionError> {
        let known = self.projection.take();
        let projection = match known.filter(|known| known.is_for(&change.relation)) {
            Some(projection) => projection,
            None => Projection::new(&self.definition, &change.relation)?,
        };
        self.projection.insert(projection).change(change)
    }
}
