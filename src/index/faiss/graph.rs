//! The handle of a C++ graph: linked by whole batches, searched by anyone meanwhile.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::codes::raw_metric;
use super::ffi::{self, RawGraph, RawView};
use crate::index::IndexError;
use crate::vector::Metric;

/// Nodes for which another thread is worth starting: some 25 ms of linking.
const PARALLEL_FROM: u32 = 256;
/// The first nodes of a graph are linked one after another, so that the later ones find something to link to.
const SERIAL_FIRST: u32 = 256;

/// What a graph keeps for life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Links of a node, see [`IndexOptions`](crate::catalog::IndexOptions).
    pub(super) m: u16,
    /// What it is searched by.
    pub(super) metric: Metric,
}

/// A graph with room for a fixed number of nodes.
#[derive(Debug)]
pub(super) struct Graph {
    raw: NonNull<RawGraph>,
    capacity: u32,
    /// Nodes below were linked, or left out because their row was dead; they are complete for who reads this first.
    linked: AtomicU32,
}

// SAFETY: the shim's graph may be searched by any thread while others link different nodes (graph.h); `linked` is atomic.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Graph {
    /// An empty graph with room for `capacity` nodes.
    pub(super) fn new(shape: Shape, capacity: u32) -> Result<Self, IndexError> {
        Self::create(shape, capacity, std::ptr::null(), 0)
    }

    /// The same graph with more room. Nobody links into `self` meanwhile.
    pub(super) fn enlarged(&self, shape: Shape, capacity: u32) -> Result<Self, IndexError> {
        assert!(capacity >= self.capacity);
        Self::create(shape, capacity, self.raw.as_ptr(), self.linked())
    }

    fn create(
        shape: Shape,
        capacity: u32,
        like: *const RawGraph,
        linked: u32,
    ) -> Result<Self, IndexError> {
        // SAFETY: `like` is null or a graph of the same shape with at least `linked` nodes.
        let raw = unsafe {
            ffi::rektor_graph_new(
                u32::from(shape.m),
                raw_metric(shape.metric),
                capacity,
                like,
                linked,
            )
        };
        let raw = NonNull::new(raw);
        Ok(Self {
            raw: raw.ok_or_else(|| IndexError::Full("no memory for the graph".into()))?,
            capacity,
            linked: AtomicU32::new(linked),
        })
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

    /// Bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        // SAFETY: a valid graph.
        unsafe { ffi::rektor_graph_bytes(self.raw()) }
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
        let failed = AtomicBool::new(false);
        let work = |end: u32| {
            let view = &view;
            while !stop.load(Ordering::Relaxed) && !failed.load(Ordering::Relaxed) {
                let node = next.fetch_add(1, Ordering::Relaxed);
                if node >= end {
                    break;
                }
                // SAFETY: a node below the capacity, given to this thread alone; the rest is the caller's promise.
                let linked = !wanted(node)
                    || unsafe {
                        ffi::rektor_graph_link(
                            self.raw.as_ptr(),
                            view.0,
                            node,
                            u32::from(ef_construction),
                        )
                    } == 0;
                if !linked {
                    failed.store(true, Ordering::Relaxed);
                }
            }
        };
        work(serial);
        next.store(serial, Ordering::Relaxed);
        if end - serial >= PARALLEL_FROM && threads > 1 {
            std::thread::scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(|| work(end));
                }
                work(end);
            });
        } else {
            work(end);
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
