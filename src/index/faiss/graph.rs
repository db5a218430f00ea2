//! The handle of a C++ graph: linked by whole batches, searched by anyone meanwhile.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::codes::raw_metric;
use super::ffi::{self, RawGraph, RawView};
use super::stored::GraphImage;
use crate::index::IndexError;
use crate::index::memory::{Account, Charge, Part};
use crate::vector::Metric;

/// Nodes for which another thread is worth starting: some 25 ms of linking.
const PARALLEL_FROM: u32 = 256;
/// The first nodes of a graph are linked one after another, so that the later ones find something to link to.
const SERIAL_FIRST: u32 = 256;

/// Bytes of a node that are written before it is linked: its level and where its lists begin.
pub(super) const NODE_BYTES: usize = size_of::<i32>() + size_of::<usize>();

/// What a graph keeps for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::index) struct Shape {
    /// Links of a node, see [`IndexOptions`](crate::catalog::IndexOptions).
    pub(super) m: u16,
    /// What it is searched by.
    pub(super) metric: Metric,
}

impl Shape {
    /// Slots of the lists of a node of that many levels: FAISS's sizes.
    pub(super) fn slots(self, levels: u32) -> usize {
        usize::from(self.m) * (levels as usize + 1)
    }
}

/// A graph with room for a fixed number of nodes.
#[derive(Debug)]
pub(super) struct Graph {
    raw: NonNull<RawGraph>,
    capacity: u32,
    /// Nodes below were linked, or left out because their row was dead; they are complete for who reads this first.
    linked: AtomicU32,
    charge: Charge,
}

// SAFETY: the shim's graph may be searched by any thread while others link different nodes (graph.h); `linked` is atomic.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Graph {
    /// An empty graph with room for `capacity` nodes.
    pub(super) fn new(
        shape: Shape,
        capacity: u32,
        account: &Arc<Account>,
    ) -> Result<Self, IndexError> {
        Self::create(shape, capacity, None, &[], account)
    }

    /// The same graph with more room. Nobody links into `self` meanwhile.
    pub(super) fn enlarged(&self, shape: Shape, capacity: u32) -> Result<Self, IndexError> {
        assert!(capacity >= self.capacity);
        Self::create(shape, capacity, Some(self), &[], self.charge.account())
    }

    /// The same graph with its nodes numbered anew: `order` has each once, in the order of their new numbers. Nobody links
    /// into `self` meanwhile.
    pub(super) fn renumbered(&self, shape: Shape, order: &[u32]) -> Result<Self, IndexError> {
        assert_eq!(order.len(), self.linked() as usize);
        Self::create(
            shape,
            self.capacity,
            Some(self),
            order,
            self.charge.account(),
        )
    }

    fn create(
        shape: Shape,
        capacity: u32,
        like: Option<&Self>,
        order: &[u32],
        account: &Arc<Account>,
    ) -> Result<Self, IndexError> {
        let linked = like.map_or(0, Self::linked);
        let order = (!order.is_empty()).then_some(order);
        let copied = like.map_or(0, |like| like.bytes(linked) - like.bytes(0));
        let charge = Charge::new(Arc::clone(account), Part::Graph);
        charge.grow_to(capacity as usize * NODE_BYTES + copied)?;
        // SAFETY: `like` is null or a graph of the same shape with at least `linked` nodes; `order` has each of them once.
        let raw = unsafe {
            ffi::rektor_graph_new(
                u32::from(shape.m),
                raw_metric(shape.metric),
                capacity,
                like.map_or(std::ptr::null(), Self::raw),
                linked,
                order.map_or(std::ptr::null(), <[u32]>::as_ptr),
            )
        };
        let raw = NonNull::new(raw);
        let created = Self {
            raw: raw.ok_or_else(|| IndexError::Full("no memory for the graph".into()))?,
            capacity,
            linked: AtomicU32::new(linked),
            charge,
        };
        created.take_room(linked)?;
        Ok(created)
    }

    /// A stored graph with room for `capacity` nodes.
    pub(super) fn load(
        image: &GraphImage,
        capacity: u32,
        account: &Arc<Account>,
    ) -> Result<Self, IndexError> {
        let nodes = image.nodes();
        let charge = Charge::new(Arc::clone(account), Part::Graph);
        charge.grow_to(capacity as usize * NODE_BYTES + image.slots.len() * size_of::<i32>())?;
        assert!(nodes <= capacity && capacity <= i32::MAX.unsigned_abs());
        // SAFETY: an image was checked as a whole: lengths, every link, no circle among the twins, the entry (stored.rs).
        let raw = unsafe {
            ffi::rektor_graph_load(
                u32::from(image.shape.m),
                raw_metric(image.shape.metric),
                capacity,
                nodes,
                image.levels.as_ptr(),
                image.twins.as_ptr(),
                image.slots.as_ptr(),
                image.slots.len(),
                image.entry,
            )
        };
        let raw = NonNull::new(raw);
        let loaded = Self {
            raw: raw.ok_or_else(|| IndexError::Full("no memory for the stored graph".into()))?,
            capacity,
            linked: AtomicU32::new(nodes),
            charge,
        };
        loaded.take_room(nodes)?;
        Ok(loaded)
    }

    /// Where walks begin, when a node is linked.
    pub(super) fn entry(&self) -> Option<u32> {
        // SAFETY: a valid graph.
        let entry = unsafe { ffi::rektor_graph_entry(self.raw()) };
        #[allow(clippy::cast_possible_truncation)] // the low half is the node
        let node = entry as u32;
        (entry != u64::MAX).then_some(node)
    }

    /// The number of levels of a node, and 1 + its next twin or 0, as if there were only `nodes` nodes.
    pub(super) fn node(&self, node: u32, nodes: u32) -> (u32, u32) {
        assert!(node < nodes && nodes <= self.linked());
        let (mut levels, mut twin) = (0, 0);
        // SAFETY: a linked node of a valid graph.
        unsafe {
            ffi::rektor_graph_node(self.raw(), node, nodes, &raw mut levels, &raw mut twin);
        }
        (levels, twin)
    }

    /// Writes the links of a node of that many levels into the first of `slots`, as if there were only `nodes` nodes.
    pub(super) fn links<'s>(
        &self,
        shape: Shape,
        node: u32,
        nodes: u32,
        slots: &'s mut Vec<i32>,
    ) -> &'s [i32] {
        let (levels, _) = self.node(node, nodes);
        slots.resize(shape.slots(levels), -1);
        // SAFETY: a linked node of a valid graph of that shape, whose lists take as many slots.
        let written =
            unsafe { ffi::rektor_graph_links(self.raw(), node, nodes, slots.as_mut_ptr()) };
        assert_eq!(written, slots.len(), "slots of a node");
        slots
    }

    /// Nodes there is room for.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Nodes that are linked.
    pub(super) fn linked(&self) -> u32 {
        self.linked.load(Ordering::Acquire)
    }

    /// For searches; valid as long as the graph.
    pub(super) fn raw(&self) -> *const RawGraph {
        self.raw.as_ptr()
    }

    /// Bytes it holds when so many nodes are linked: room for others is not touched before.
    fn bytes(&self, nodes: u32) -> usize {
        assert!(nodes <= self.capacity);
        // SAFETY: a node of a valid graph, or the one after the last.
        unsafe { ffi::rektor_graph_bytes(self.raw(), nodes) }
    }

    /// Takes the memory that linking up to that node takes.
    pub(super) fn take_room(&self, nodes: u32) -> Result<(), IndexError> {
        self.charge.grow_to(self.bytes(nodes))
    }

    /// Links the nodes from `linked()` up to `end` that `wanted` keeps. When `stop` turns true it ends without having
    /// moved `linked`, and the graph must not be linked into again.
    ///
    /// # Safety
    /// Nobody else links into this graph. What `view` points to lives through the call and names a row with codes for
    /// each node below `end`.
    pub(super) unsafe fn link(
        &self,
        view: &RawView,
        end: u32,
        ef_construction: u16,
        threads: usize,
        wanted: &(impl Fn(u32) -> bool + Sync),
        stop: &AtomicBool,
    ) -> Result<(), IndexError> {
        assert!(end <= self.capacity);
        let view = Shared(view);
        let start = self.linked();
        let serial = end.min(SERIAL_FIRST.max(start));
        let next = AtomicU32::new(start);
        // What each thread is at, if any: all nodes below the least are complete. A thread stores before it takes a node, so
        // whoever takes a later one knows of it.
        let at: Vec<AtomicU32> = (0..threads.max(1)).map(|_| u32::MAX.into()).collect();
        let failed = AtomicBool::new(false);
        let work = |thread: &AtomicU32, end: u32| {
            let view = &view;
            thread.store(next.load(Ordering::Relaxed), Ordering::Release);
            while !stop.load(Ordering::Relaxed) && !failed.load(Ordering::Relaxed) {
                let node = next.fetch_add(1, Ordering::AcqRel);
                if node >= end {
                    break;
                }
                thread.store(node, Ordering::Release);
                let complete = at.iter().map(|node| node.load(Ordering::Acquire)).min();
                // SAFETY: a node below the capacity, given to this thread alone; the rest is the caller's promise.
                let linked = !wanted(node)
                    || unsafe {
                        ffi::rektor_graph_link(
                            self.raw.as_ptr(),
                            view.0,
                            node,
                            complete.unwrap_or(0),
                            u32::from(ef_construction),
                        )
                    } == 0;
                if !linked {
                    failed.store(true, Ordering::Relaxed);
                }
            }
            thread.store(u32::MAX, Ordering::Release);
        };
        let this = &at[0];
        work(this, serial);
        next.store(serial, Ordering::Relaxed);
        if end - serial >= PARALLEL_FROM && threads > 1 {
            std::thread::scope(|scope| {
                for thread in &at[1..] {
                    // Where no more threads are allowed, this one does it all.
                    let work = &work;
                    let _helper =
                        std::thread::Builder::new().spawn_scoped(scope, move || work(thread, end));
                }
                work(this, end);
            });
        } else {
            work(this, end);
        }
        if failed.load(Ordering::Relaxed) {
            return Err(IndexError::Full("no memory to link a row".into()));
        }
        if !stop.load(Ordering::Relaxed) {
            self.linked.store(end, Ordering::Release);
        }
        Ok(())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by rektor_graph_new, and nobody else has it now.
        unsafe { ffi::rektor_graph_free(self.raw.as_ptr()) };
    }
}

/// Lets the linker threads share the view.
struct Shared<'a>(&'a RawView);
// SAFETY: it is only read, and what it points to may be read by any thread.
unsafe impl Sync for Shared<'_> {}
