//! A view → the lineage that will replace its own: of the live rows, linked anew, or of the same graph laid out. It is
//! brought up to date beside the one in use; only the writer takes it over.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::layout;
use super::lineage::Lineage;
use super::measure;
use super::view::RowView;
use crate::catalog::IndexOptions;
use crate::index::IndexError;
use crate::index::dial::Curve;

/// 2³² by the golden ratio: its multiples are spread evenly over all numbers.
const SPREAD: u32 = 0x9e37_79b9;

impl RowView {
    /// Begins a lineage of the rows that are live now.
    pub(in crate::index) fn rebuild(&self) -> Result<Option<Rebuild>, IndexError> {
        let Some(old) = self.lineage_held() else {
            return Ok(None);
        };
        let new = Lineage::new(Arc::clone(&old.codes));
        let (mut kept, dropped): (Vec<u32>, _) = (0..self.nodes())
            .map(|node| old.row(node))
            .partition(|row| self.live().contains(*row));
        // Near rows linked one after the other find each other and little else: of a million rows laid out by nearness
        // (`layout`), linked in that order, recall fell from .89 to .83.
        kept.sort_unstable_by_key(|row| row.wrapping_mul(SPREAD));
        let most = kept.len() - measure::held_back(kept.len());
        new.reserve(kept.len())?;
        let held = kept.split_off(most);
        kept.iter().for_each(|row| new.push_reserved(*row));
        Ok(Some(Rebuild {
            old: Arc::clone(old),
            new: Arc::new(new),
            taken: self.nodes(),
            dropped,
            held,
            curve: None,
            same_graph: false,
            options: self.spec().options,
            _pin: self.pin(),
        }))
    }
}

/// A lineage made beside the one in use, of the rows that were live when it began and all that came after.
#[derive(Debug)]
pub(in crate::index) struct Rebuild {
    old: Arc<Lineage>,
    new: Arc<Lineage>,
    /// Nodes of the old lineage that the new one has, or has dropped.
    taken: u32,
    /// Rows of the old lineage that the new one does not name.
    dropped: Vec<u32>,
    /// Rows of both that are the last to become nodes of the new one: what it is measured by.
    held: Vec<u32>,
    /// Of the new graph, once it was measured.
    curve: Option<Curve>,
    /// The new graph is the old one, so that what is known of that holds.
    same_graph: bool,
    options: IndexOptions,
    /// Of the view that it began with: keeps every row that either lineage names from being used again.
    _pin: Arc<()>,
}

/// What a rebuild comes to.
pub(super) struct Rebuilt {
    pub(super) lineage: Arc<Lineage>,
    /// The rows of the old lineage that it does not name.
    pub(super) dropped: Vec<u32>,
    /// What the dial is told: of a new graph its curve, if one was measured.
    pub(super) told: Option<Option<Curve>>,
}

impl Rebuild {
    /// A lineage that has the nodes of a view and their graph, on the way to have those that came since.
    pub(super) fn laid_out(view: &RowView, old: Arc<Lineage>, new: Lineage) -> Self {
        Self {
            old,
            taken: new.extent(),
            new: Arc::new(new),
            dropped: Vec::new(),
            held: Vec::new(),
            curve: None,
            same_graph: true,
            options: view.spec().options,
            _pin: view.pin(),
        }
    }

    /// Whether it is of the lineage of `view`, and no layout that others would have to be laid out soon; if not it is of no use.
    pub(in crate::index) fn fits(&self, view: &RowView) -> bool {
        let came = self.new.scattered();
        let outrun = self.same_graph && came > view.nodes() / layout::OUTRUN;
        let of_it = |lineage| self.replaces(lineage);
        !outrun && view.lineage_held().is_some_and(of_it)
    }

    pub(super) fn replaces(&self, lineage: &Arc<Lineage>) -> bool {
        Arc::ptr_eq(&self.old, lineage)
    }

    /// Takes the nodes that came with `view` and links the next `most`; true when none are left.
    pub(in crate::index) fn link(
        &mut self,
        view: &RowView,
        most: u32,
        threads: usize,
        stop: &AtomicBool,
    ) -> Result<bool, IndexError> {
        self.take(view.nodes())?;
        let end = self
            .new
            .linked()
            .saturating_add(most)
            .min(self.new.extent());
        // Rows that died since it began are dead in every view that will see the new lineage.
        // SAFETY: the pin holds the rows of both lineages.
        unsafe {
            self.new.link(
                view.vectors(),
                Some(view.live()),
                end,
                &self.options,
                threads,
                stop,
            )?
        };
        if end < self.new.extent() || self.held.is_empty() {
            return Ok(end == self.new.extent());
        }
        self.curve = view.measured_by(&self.new, &self.held)?;
        self.take_held()?;
        Ok(false)
    }

    /// The new lineage, with every node of the old one.
    pub(super) fn finish(mut self) -> Result<Rebuilt, IndexError> {
        self.take_held()?;
        self.take(self.old.extent())?;
        Ok(Rebuilt {
            lineage: self.new,
            dropped: self.dropped,
            told: (!self.same_graph).then_some(self.curve),
        })
    }

    fn take_held(&mut self) -> Result<(), IndexError> {
        while let Some(row) = self.held.last() {
            self.new.push(*row)?;
            self.held.pop();
        }
        Ok(())
    }

    fn take(&mut self, extent: u32) -> Result<(), IndexError> {
        while self.taken < extent {
            let row = self.old.row(self.taken);
            if !Arc::ptr_eq(&self.old.codes, &self.new.codes) {
                // SAFETY: a node of the old lineage, whose rows the pin and the newest view keep; nobody sees the new codes yet.
                unsafe { self.new.codes.copy(&self.old.codes, row)? };
            }
            self.new.push(row)?;
            self.taken += 1;
        }
        Ok(())
    }
}
