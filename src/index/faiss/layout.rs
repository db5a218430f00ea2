//! A lineage whose codes lie as they came → one whose codes lie by nearness, with the same nodes and the same graph.
//!
//! A walk meets some thousand rows that are near to each other. Where their codes are in the same pages, most of the time
//! is saved that goes into waiting for memory: of a million rows of 768 dimensions a search takes a fifth less. (Coleman et
//! al., "Graph Reordering for Cache-Efficient Near Neighbor Search", 2021, order by the graph; here cells do: the rows that
//! one of some sampled rows is nearest to, and near cells one after another.) No result depends on it.

use std::sync::Arc;

use super::codes::Codes;
use super::lineage::Lineage;
use super::rebuild::Rebuild;
use super::vectors::Vectors;
use super::view::RowView;
use crate::index::IndexError;
use crate::index::memory::{Charge, Part};
use crate::vector::Form;

/// Rows from which it pays: the codes of fewer are mostly in the caches. In tests so few that it happens in some.
const FROM: u64 = if cfg!(test) { 5_500 } else { 65_536 };
/// It is done again when one in so many nodes has got its code since.
const SCATTERED: u64 = 2;
/// Cells of an index of a million nodes: of a thousand each, some pages of what a walk looks at first.
const CELLS: u32 = 1_024;
/// Fewer nodes have cells of so many.
const LEAST: u32 = 256;
/// It is given up when one in so many nodes came while it was made: when they have all come, it is done at once.
pub(super) const OUTRUN: u32 = 4;
/// Dimensions above which a code is some pages by itself.
const LARGEST: usize = 4_096;
/// Bytes of a node in `cells` and `order`, and in the numbers that its links are translated by at the end.
const SORTING: usize = size_of::<u16>() + 2 * size_of::<u32>();
/// Nodes worked on for each that could have been linked in the time.
const QUICKER: u32 = 32;

impl RowView {
    /// Whether so many codes lie as they came that laying them out pays.
    pub(in crate::index) fn is_scattered(&self) -> bool {
        let Some(lineage) = self.lineage() else {
            return false;
        };
        let fits = matches!(self.spec().form(), Form::Numbers(dim) if dim.get() <= LARGEST);
        let scattered = u64::from(lineage.scattered()) * SCATTERED >= u64::from(lineage.extent());
        fits && self.live().len() >= FROM && scattered && lineage.graph().is_some()
    }

    /// Begins to lay out the codes of its nodes.
    pub(in crate::index) fn lay_out(&self) -> Result<Option<Layout>, IndexError> {
        let Some(old) = self.lineage_held() else {
            return Ok(None);
        };
        let nodes = self.nodes().min(old.linked());
        // What others may need in the meantime is left to them.
        let wanted = super::node_bytes(self.spec()) as u64 * u64::from(nodes);
        self.account().memory().check(wanted)?;
        let codes = Codes::laid_out(self.spec(), old.codes.mean().into(), self.vectors());
        codes.make_room(nodes)?; // so that for want of it nothing is done in vain
        let sorting = Charge::new(Arc::clone(self.account()), Part::Graph);
        sorting.grow_to(nodes as usize * SORTING)?;
        let count = (nodes / LEAST).clamp(1, CELLS);
        let centres = Codes::new(self.spec(), Some(old.codes.mean().into()), self.vectors());
        for centre in 0..count {
            let node = u64::from(nodes) * u64::from(centre) / u64::from(count);
            let row = old.row(u32::try_from(node).unwrap_or(u32::MAX));
            // SAFETY: the codes of nodes of a view's lineage were written; nobody else knows the centres.
            unsafe {
                let (code, scales) = old.codes.get(row);
                centres.set(centre, code, scales)?;
            }
        }
        for _ in 0..ROUNDS {
            improve(&centres, count, old, nodes)?;
        }
        Ok(Some(Layout {
            old: Arc::clone(old),
            codes,
            tour: tour(&centres, count),
            centres,
            cells: Vec::new(),
            order: Vec::new(),
            copied: 0,
            _sorting: sorting,
            view: self.part(old, nodes, self.live().clone()),
        }))
    }
}

/// Rounds of k-means, and how many nodes for each centre take part.
const ROUNDS: usize = 3;
const SAMPLED: u32 = 24;

/// Moves each centre to the mean of those of a sample of the nodes that it is nearest to.
fn improve(centres: &Codes, count: u32, lineage: &Lineage, nodes: u32) -> Result<(), IndexError> {
    let dim = centres.mean().len();
    let all: Vec<u32> = (0..count).collect();
    let mut sums = vec![0.0_f32; dim * count as usize];
    let mut sizes = vec![0.0_f32; count as usize];
    let step = (nodes / (SAMPLED * count)).max(1);
    for node in (0..nodes).step_by(step as usize) {
        let row = lineage.row(node);
        // SAFETY: a node of a lineage that a view holds; and all centres were written.
        let (centre, (code, scales)) = unsafe {
            (
                centres.nearest(&all, &lineage.codes, row) as usize,
                lineage.codes.get(row),
            )
        };
        sizes[centre] += 1.0;
        let sums = sums[centre * dim..].iter_mut();
        for (sum, x) in sums.zip(centres.decoded(code, scales)) {
            *sum += x;
        }
    }
    for (centre, (sum, size)) in (0..).zip(sums.chunks_exact(dim).zip(sizes)) {
        if size > 0.0 {
            let mean: Vec<f32> = sum.iter().map(|sum| sum / size).collect();
            // SAFETY: nobody else knows the centres.
            unsafe { centres.encode_decoded(centre, &mean)? };
        }
    }
    Ok(())
}

/// Centres, each the nearest to the one before that is left.
fn tour(centres: &Codes, count: u32) -> Vec<u32> {
    let mut left: Vec<u32> = (1..count).collect();
    let mut tour = vec![0];
    while let (Some(last), false) = (tour.last(), left.is_empty()) {
        // SAFETY: all centres were written, and nobody else knows them.
        let next = unsafe { centres.nearest(&left, centres, *last) };
        left.retain(|centre| *centre != next);
        tour.push(next);
    }
    tour
}

/// Codes on their way to where they will lie.
#[derive(Debug)]
pub(in crate::index) struct Layout {
    old: Arc<Lineage>,
    /// With those of the first `copied` nodes of `order`.
    codes: Codes,
    centres: Codes,
    /// The centres in the order of their cells.
    tour: Vec<u32>,
    /// The centre of each of the first nodes.
    cells: Vec<u16>,
    /// The nodes by their cells, once all of these are known.
    order: Vec<u32>,
    copied: usize,
    _sorting: Charge,
    /// Of the nodes that are laid out; it keeps their rows.
    view: RowView,
}

impl Layout {
    /// Does as much as takes about the time to link so many rows; true when all is done.
    pub(in crate::index) fn go_on(&mut self, rows: u32) -> Result<bool, IndexError> {
        let most = rows.saturating_mul(QUICKER) as usize;
        let nodes = self.view.nodes() as usize;
        if self.cells.len() < nodes {
            self.assign(most.min(nodes - self.cells.len()));
            if self.cells.len() == nodes {
                self.sort();
            }
            return Ok(false);
        }
        for node in self.order.iter().skip(self.copied).take(most) {
            // SAFETY: the view's lineage has the code; nobody else knows the new ones.
            unsafe { self.codes.copy(&self.old.codes, self.old.row(*node))? };
            self.copied += 1;
        }
        Ok(self.copied == nodes)
    }

    /// Finds the cells of the next nodes.
    fn assign(&mut self, count: usize) {
        for _ in 0..count {
            let node = u32::try_from(self.cells.len()).unwrap_or(u32::MAX);
            let row = self.old.row(node);
            // SAFETY: a node of the view's lineage; and all centres were written.
            let centre = unsafe { self.centres.nearest(&self.tour, &self.old.codes, row) };
            self.cells.push(u16::try_from(centre).unwrap_or(u16::MAX));
        }
    }

    fn sort(&mut self) {
        let mut ranks = vec![0_u32; self.tour.len()];
        for (rank, centre) in (0..).zip(&self.tour) {
            ranks[*centre as usize] = rank;
        }
        self.order = (0..self.view.nodes()).collect();
        let cells = &self.cells;
        self.order
            .sort_by_key(|node| ranks[usize::from(cells[*node as usize])]);
    }

    /// The lineage that it makes, which is brought up to date as one that was rebuilt.
    pub(in crate::index) fn finish(self) -> Result<Rebuild, IndexError> {
        let m = self.view.spec().options.m;
        let new = self.old.laid_out(Arc::new(self.codes), self.order, m)?;
        Ok(Rebuild::laid_out(&self.view, self.old, new))
    }
}

/// Where vectors are kept as codes alone, they are these from now on.
pub(super) fn vectors_of(vectors: &Arc<Vectors>, codes: &Arc<Codes>) -> Arc<Vectors> {
    if vectors.are_codes() {
        return Arc::new(vectors.of_codes(codes));
    }
    Arc::clone(vectors)
}
