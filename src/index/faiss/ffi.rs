//! The C++ shim's functions and structs, as `shim.h` has them.

use std::ffi::c_void;

/// `RektorCodes`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawCodes {
    pub(super) codes: *const *const u8,
    pub(super) scales: *const *const f32,
    pub(super) beside: usize,
    pub(super) places: *const *const u32,
    pub(super) mean: *const f32,
    pub(super) dim: usize,
    pub(super) stride: usize,
    pub(super) metric: u32,
}

/// `RektorStorage`.
pub(super) const F32: u32 = 0;
pub(super) const F16: u32 = 1;
pub(super) const BF16: u32 = 2;
pub(super) const CODE: u32 = 3;

/// `RektorView`.
#[repr(C)]
pub(super) struct RawView {
    pub(super) codes: RawCodes,
    pub(super) vectors: *const *const u8,
    pub(super) storage: u32,
    pub(super) live: *const *const u64,
    pub(super) live_pages: usize,
    pub(super) nodes: *const *const u32,
    pub(super) laid_out: u32,
    pub(super) linked: u32,
    pub(super) extent: u32,
}

/// `RektorFilter`.
#[repr(C)]
pub(super) struct RawFilter {
    pub(super) allowed: unsafe extern "C" fn(*const c_void, u32) -> bool,
    pub(super) context: *const c_void,
    pub(super) share: f64,
    pub(super) most: u64,
    pub(super) most_starved: u64,
}

/// `RektorAmong`.
#[repr(C)]
pub(super) struct RawAmong {
    pub(super) rows: *const u32,
    pub(super) count: usize,
    pub(super) marks: *const u64,
    pub(super) words: usize,
}

/// `RektorLists`.
#[repr(C)]
pub(super) struct RawLists {
    _opaque: [u8; 0],
}

/// `RektorGraph`.
#[repr(C)]
pub(super) struct RawGraph {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    pub(super) fn rektor_idle_priority();
    #[cfg(test)]
    pub(super) fn rektor_best_kernel() -> u32;
    #[cfg(test)]
    pub(super) fn rektor_dot(kernel: u32, code: *const u8, query: *const i8, stride: usize) -> i32;
    #[cfg(test)]
    pub(super) fn rektor_best_bit_kernel() -> u32;
    #[cfg(test)]
    pub(super) fn rektor_bits(
        kernel: u32,
        metric: u32,
        a: *const u8,
        b: *const u8,
        bytes: usize,
    ) -> f32;
    #[cfg(test)]
    pub(super) fn rektor_manhattan(
        kernel: u32,
        code: *const u8,
        query: *const f32,
        scale: f32,
        stride: usize,
    ) -> f32;
    #[cfg(test)]
    pub(super) fn rektor_within(
        kernel: u32,
        codes: *const RawCodes,
        query: *const f32,
        rows: *const u32,
        count: usize,
        reach: f32,
        deviations: f32,
        swept: bool,
        which: *mut u32,
        found: *mut f32,
    ) -> usize;
    pub(super) fn rektor_sign(codes: *const RawCodes, code: *const u8, scale: *mut f32);
    pub(super) fn rektor_nearest(
        codes: *const RawCodes,
        places: *const u32,
        count: usize,
        other: *const RawCodes,
        place: u32,
    ) -> u32;
    pub(super) fn rektor_encode(
        codes: *const RawCodes,
        x: *const f32,
        code: *mut u8,
        scale: *mut f32,
    );
    pub(super) fn rektor_narrow(
        storage: u32,
        metric: u32,
        x: *const f32,
        count: usize,
        out: *mut u16,
    );
    pub(super) fn rektor_widen(storage: u32, halves: *const u16, count: usize, out: *mut f32);
    pub(super) fn rektor_graph_new(
        m: u32,
        metric: u32,
        capacity: u32,
        like: *const RawGraph,
        linked: u32,
        order: *const u32,
    ) -> *mut RawGraph;
    pub(super) fn rektor_graph_free(graph: *mut RawGraph);
    pub(super) fn rektor_graph_bytes(graph: *const RawGraph, nodes: u32) -> usize;
    pub(super) fn rektor_graph_link(
        graph: *mut RawGraph,
        view: *const RawView,
        node: u32,
        linked: u32,
        ef_construction: u32,
    ) -> i32;
    pub(super) fn rektor_graph_entry(graph: *const RawGraph) -> u64;
    pub(super) fn rektor_graph_node(
        graph: *const RawGraph,
        node: u32,
        nodes: u32,
        levels: *mut u32,
        twin: *mut u32,
    );
    pub(super) fn rektor_graph_links(
        graph: *const RawGraph,
        node: u32,
        nodes: u32,
        slots: *mut i32,
    ) -> usize;
    pub(super) fn rektor_graph_load(
        m: u32,
        metric: u32,
        capacity: u32,
        nodes: u32,
        levels: *const u8,
        twins: *const u32,
        slots: *const i32,
        count: usize,
        entry: u32,
    ) -> *mut RawGraph;
    pub(super) fn rektor_lists_new(
        factory: *const std::ffi::c_char,
        view: *const RawView,
        nodes: *const u32,
        count: usize,
        lists: usize,
        threads: u32,
        error: *mut std::ffi::c_char,
        room: usize,
    ) -> *mut RawLists;
    pub(super) fn rektor_lists_sampled(
        factory: *const std::ffi::c_char,
        dim: usize,
        metric: u32,
        lists: usize,
        count: usize,
    ) -> usize;
    pub(super) fn rektor_lists_check(
        factory: *const std::ffi::c_char,
        dim: usize,
        metric: u32,
        error: *mut std::ffi::c_char,
        room: usize,
    ) -> i32;
    pub(super) fn rektor_lists_free(lists: *mut RawLists);
    pub(super) fn rektor_lists_add(
        lists: *mut RawLists,
        view: *const RawView,
        nodes: *const u32,
        count: usize,
    ) -> i32;
    pub(super) fn rektor_lists_row_bytes(lists: *const RawLists) -> usize;
    pub(super) fn rektor_visited_bytes() -> u64;
    pub(super) fn rektor_search(
        graph: *const RawGraph,
        lists: *const RawLists,
        view: *const RawView,
        query: *const f32,
        k: usize,
        ef: usize,
        rows: *mut u32,
        distances: *mut f32,
        computed: *mut u64,
    ) -> i64;
    pub(super) fn rektor_search_allowed(
        graph: *const RawGraph,
        lists: *const RawLists,
        view: *const RawView,
        query: *const f32,
        k: usize,
        ef: usize,
        filter: *const RawFilter,
        rows: *mut u32,
        distances: *mut f32,
        computed: *mut u64,
    ) -> i64;
    pub(super) fn rektor_keep_in_ranges(
        ordinals: *const u64,
        ranges: *const u64,
        count: usize,
        marks: *mut u64,
        words: usize,
    );
    pub(super) fn rektor_search_among(
        view: *const RawView,
        query: *const f32,
        k: usize,
        among: *const RawAmong,
        rows: *mut u32,
        distances: *mut f32,
        computed: *mut u64,
    ) -> i64;
    pub(super) fn rektor_search_among_many(
        view: *const RawView,
        queries: *const f32,
        count: usize,
        k: usize,
        among: *const RawAmong,
        rows: *mut u32,
        distances: *mut f32,
        found: *mut i64,
    ) -> i32;
    pub(super) fn rektor_scan(
        view: *const RawView,
        query: *const f32,
        k: usize,
        rows: *mut u32,
        distances: *mut f32,
        computed: *mut u64,
    ) -> i64;
}
