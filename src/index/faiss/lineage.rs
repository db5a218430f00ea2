//! One numbering of nodes: the rows in the order in which they enter a graph, their codes, and the graph itself.
//! The graph may be enlarged without renumbering, so every view of a lineage uses its newest graph. A rebuild or a new
//! mean is a new lineage.
//!
//! Invariant: a row that a node names keeps its codes until the lineage is replaced and every view of it is dropped
//! (`rows`, invariant 3). So codes of nodes may be read by whoever holds a view of the lineage.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;

use super::codes::Codes;
use super::ffi::{RawGraph, RawLists, RawView};
use super::graph::{Graph, Shape};
use super::lists::Lists;
use super::store::Store;
use super::stored::GraphImage;
use super::vectors::Vectors;
use crate::catalog::{IndexOptions, Method};
use crate::index::IndexError;
use crate::index::memory::Part;
use crate::index::pages::Bitmap;

/// Least room of a graph: cheaper than enlarging it often.
const LEAST_CAPACITY: u32 = 8 << 10;

/// The capacity of a graph for so many nodes and half as many again.
fn room_for(nodes: u32) -> u32 {
    nodes
        .saturating_add(nodes / 2)
        .clamp(LEAST_CAPACITY, i32::MAX.unsigned_abs())
}

/// What nodes are linked into: a graph or lists, or neither yet.
pub(super) struct Structure {
    graph: Option<Arc<Graph>>,
    lists: Option<Arc<Lists>>,
}

impl Structure {
    /// Nodes that are linked.
    pub(super) fn linked(&self) -> u32 {
        let graph = self.graph.as_ref().map(|graph| graph.linked());
        let lists = || self.lists.as_ref().map(|lists| lists.linked());
        graph.or_else(lists).unwrap_or(0)
    }

    /// Null, or valid as long as `self`.
    pub(super) fn raw_graph(&self) -> *const RawGraph {
        let graph = self.graph.as_ref();
        graph.map_or(std::ptr::null(), |graph| graph.raw())
    }

    /// Null, or valid as long as `self`.
    pub(super) fn raw_lists(&self) -> *const RawLists {
        let lists = self.lists.as_ref();
        lists.map_or(std::ptr::null(), |lists| lists.raw())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lineage {
    pub(super) codes: Arc<Codes>,
    /// The row of each node.
    nodes: Store<u32>,
    extent: AtomicU32,
    /// The codes of nodes below lie at the nodes' numbers, near ones together; others lie as they came.
    laid_out: u32,
    graph: ArcSwapOption<Graph>,
    /// Instead of a graph, for methods of FAISS's own.
    lists: ArcSwapOption<Lists>,
    /// Held while nodes are appended, and while the graph is linked into or replaced.
    append: Mutex<()>,
    link: Mutex<()>,
}

impl Lineage {
    /// No nodes.
    pub(super) fn new(codes: Arc<Codes>) -> Self {
        Self {
            nodes: Store::new(1, codes.account(), Part::Graph),
            codes,
            extent: AtomicU32::new(0),
            laid_out: 0,
            graph: ArcSwapOption::empty(),
            lists: ArcSwapOption::empty(),
            append: Mutex::new(()),
            link: Mutex::new(()),
        }
    }

    /// The nodes of a stored graph and the graph, over the codes that were made for it, with room for so many more.
    pub(super) fn stored(
        codes: Arc<Codes>,
        image: &GraphImage,
        more: usize,
    ) -> Result<Self, IndexError> {
        let new = Self {
            laid_out: image.laid_out,
            ..Self::new(codes)
        };
        new.reserve(image.rows.len() + more)?;
        let room = image
            .nodes()
            .saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        let graph = Graph::load(image, room_for(room), new.codes.account())?;
        for row in &image.rows {
            new.push_reserved(*row);
        }
        new.graph.store(Some(Arc::new(graph)));
        Ok(new)
    }

    /// The same graph over other codes of its rows, which lie there, one behind the other, of the nodes that `order` names: these
    /// are numbered anew, in that order. It has each of the first so many nodes once.
    pub(super) fn laid_out(
        &self,
        codes: Arc<Codes>,
        mut order: Vec<u32>,
        m: u16,
    ) -> Result<Self, IndexError> {
        let laid_out = u32::try_from(order.len()).unwrap_or(u32::MAX);
        let new = Self {
            laid_out,
            ..Self::new(codes)
        };
        // Nobody links into the graph while it is copied.
        let _lock = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let graph = self
            .graph()
            .filter(|graph| graph.linked() as usize >= order.len());
        let linked = graph.as_ref().map_or(laid_out, |graph| graph.linked());
        for node in laid_out..linked {
            // SAFETY: a node of this lineage; nobody has seen the others.
            unsafe { new.codes.copy(&self.codes, self.row(node))? };
            order.push(node);
        }
        new.reserve(order.len())?;
        for (number, node) in (0..).zip(&order) {
            let row = self.row(*node);
            // SAFETY: its code was copied; nobody has seen the others.
            assert_eq!(unsafe { new.codes.place(row) }, number);
            new.push_reserved(row);
        }
        if let Some(graph) = graph {
            let shape = Shape {
                m,
                metric: self.codes.metric(),
            };
            let copy = graph.renumbered(shape, &order)?;
            new.graph.store(Some(Arc::new(copy)));
        }
        Ok(new)
    }

    /// Makes room for `more` nodes beyond the extent.
    pub(super) fn reserve(&self, more: usize) -> Result<(), IndexError> {
        let last = (self.extent() as usize).saturating_add(more);
        self.nodes.reserve(u32::try_from(last).unwrap_or(u32::MAX))
    }

    /// Appends a node for `row`, whose code was written.
    pub(super) fn push(&self, row: u32) -> Result<(), IndexError> {
        self.reserve(1)?;
        self.push_reserved(row);
        Ok(())
    }

    /// The same, when there is room: panics if not.
    pub(super) fn push_reserved(&self, row: u32) {
        let _lock = self.append.lock().unwrap_or_else(PoisonError::into_inner);
        let node = self.extent.load(Ordering::Relaxed);
        // SAFETY: reserved; readers stay below `extent`, and the lock keeps other writers out.
        unsafe { self.nodes.set(node, &[row]) };
        self.extent.store(node + 1, Ordering::Release);
    }

    /// Nodes.
    pub(super) fn extent(&self) -> u32 {
        self.extent.load(Ordering::Acquire)
    }

    /// Nodes below have their codes at their numbers.
    pub(super) fn in_order(&self) -> u32 {
        self.laid_out
    }

    /// Nodes that lie as they came.
    pub(super) fn scattered(&self) -> u32 {
        self.extent() - self.laid_out
    }

    /// The row of a node below the extent.
    pub(super) fn row(&self, node: u32) -> u32 {
        assert!(node < self.extent());
        // SAFETY: written once, before the extent said so.
        unsafe { self.nodes.get(node)[0] }
    }

    /// The newest graph.
    pub(super) fn graph(&self) -> Option<Arc<Graph>> {
        self.graph.load_full()
    }

    /// The lists, once trained.
    pub(super) fn lists(&self) -> Option<Arc<Lists>> {
        self.lists.load_full()
    }

    /// What searches go through, held.
    pub(super) fn structure(&self) -> Structure {
        Structure {
            graph: self.graph(),
            lists: self.lists(),
        }
    }

    /// Nodes that are linked.
    pub(super) fn linked(&self) -> u32 {
        self.structure().linked()
    }

    /// Node numbers, for the shim; valid as long as the lineage.
    pub(super) fn table(&self) -> *const *const u32 {
        self.nodes.table()
    }

    /// Links the nodes up to `end`, of them only those whose rows are in `live`, if given; see [`Graph::link`] for
    /// `stop`.
    ///
    /// # Safety
    /// The pin of a view of this lineage, or one that keeps its rows as well, is held through the call; `vectors` are
    /// those of its rows.
    pub(super) unsafe fn link(
        &self,
        vectors: &Vectors,
        live: Option<&Bitmap>,
        end: u32,
        options: &IndexOptions,
        threads: usize,
        stop: &AtomicBool,
    ) -> Result<(), IndexError> {
        let _lock = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let end = end.min(self.extent());
        let wanted = |node: u32| live.is_none_or(|live| live.contains(self.row(node)));
        let (stored, storage) = vectors.raw();
        let view = RawView {
            codes: self.codes.raw(),
            vectors: stored,
            storage,
            live: std::ptr::null(),
            live_pages: 0,
            nodes: self.table(),
            laid_out: self.laid_out,
            linked: 0,
            extent: 0,
        };
        if options.method != Method::Hnsw {
            // SAFETY: as below.
            return unsafe { self.fill_lists(&view, end, options, threads, &wanted) };
        }
        let graph = match self.graph() {
            Some(graph) if graph.capacity() >= end => graph,
            graph => self.grow(graph.as_deref(), options.m)?,
        };
        graph.take_room(end)?;
        // SAFETY: the lock keeps other linkers out; linking does not read `live`; nodes below the extent have rows, and
        // those have codes and vectors, also when they are dead.
        let linked =
            unsafe { graph.link(&view, end, options.ef_construction, threads, &wanted, stop) };
        if linked.is_err() {
            // A node may be linked in part, and must not be linked again: the next try starts anew, and all is scanned.
            self.graph.store(None);
        }
        linked
    }

    /// Trains lists with all nodes that are wanted, if there are none yet, and adds those up to `end`.
    ///
    /// # Safety
    /// As [`Self::link`]; the lock is held.
    unsafe fn fill_lists(
        &self,
        view: &RawView,
        end: u32,
        options: &IndexOptions,
        threads: usize,
        wanted: &impl Fn(u32) -> bool,
    ) -> Result<(), IndexError> {
        let lists = if let Some(lists) = self.lists() {
            lists
        } else {
            let nodes: Vec<u32> = (0..self.extent()).filter(|node| wanted(*node)).collect();
            // SAFETY: the caller's.
            let lists = Arc::new(unsafe {
                Lists::train(view, &nodes, options, threads, self.codes.account())?
            });
            self.lists.store(Some(Arc::clone(&lists)));
            lists
        };
        let nodes: Vec<u32> = (lists.linked()..end).filter(|node| wanted(*node)).collect();
        lists.take_room(nodes.len())?;
        // SAFETY: the caller's.
        let added = unsafe { lists.add(view, &nodes, end) };
        if added.is_err() {
            self.lists.store(None); // some may be in it, and must not come twice
        }
        added
    }

    /// A graph with room for all nodes there are and half as many again.
    fn grow(&self, graph: Option<&Graph>, m: u16) -> Result<Arc<Graph>, IndexError> {
        let shape = Shape {
            m,
            metric: self.codes.metric(),
        };
        let capacity = room_for(self.extent());
        let grown = Arc::new(match graph {
            Some(graph) => graph.enlarged(shape, capacity)?,
            None => Graph::new(shape, capacity, self.codes.account())?,
        });
        self.graph.store(Some(Arc::clone(&grown)));
        Ok(grown)
    }
}
