//! The edge to unsafe code: memory that searches share with the writer, and the C++ shim over FAISS.
//! What is given out is safe to use: [`Rows`] for the writer, [`RowView`] for everyone else. Lengths are checked before
//! a pointer crosses; what may be read when is written down in `rows`, `lineage` and `graph.h`.
#![allow(unsafe_code)]

mod codes;
mod cold;
mod ffi;
mod graph;
mod layout;
mod lineage;
mod lists;
mod measure;
mod probe;
mod rebuild;
mod rows;
mod store;
mod stored;
#[cfg(test)]
pub(super) mod tests;
mod vectors;
mod view;

pub use cold::{ColdFile, ColdFiles};
pub(super) use lists::check as check_lists;
pub(super) use rebuild::Rebuild;
pub use rows::MEAN_ROWS;
pub(super) use rows::Rows;
pub use stored::{GraphImage, GraphSource};
pub(super) use view::{Pace, Ranked, RowView};

use crate::index::IndexSpec;
use crate::vector::Form;

/// About how many bytes a row with a node takes, beside its vector.
pub(super) fn node_bytes(spec: &IndexSpec) -> usize {
    // Two lists' worth on the lowest level, and above, over all nodes, about a link each; room for half as many again.
    let links = (2 * usize::from(spec.options.m) + 2) * size_of::<i32>();
    let numbers = 6 * size_of::<u32>() + graph::NODE_BYTES * 3 / 2;
    let code = match spec.form() {
        Form::Bits(_) => 0, // the stored row itself
        form => codes::stride(form) + codes::beside(form, spec.metric) * size_of::<f32>(),
    };
    code + links + numbers
}

/// Whether codes have signs.
pub(super) fn has_signs(spec: &IndexSpec) -> bool {
    codes::beside(spec.form(), spec.metric) > codes::SCALES
}

/// Bytes that all threads of the process hold to know which nodes a walk visited.
pub(super) fn visited_bytes() -> u64 {
    // SAFETY: no arguments.
    unsafe { ffi::rektor_visited_bytes() }
}

/// Of a bitmap of rows, a bit for each of these ordinals, leaves those whose ordinal lies in one of the ranges, both ends included.
pub(super) fn keep_in_ranges(ordinals: &[u64], ranges: &[(u64, u64)], marks: &mut [u64]) {
    let words = marks.len().min(ordinals.len() / 64);
    let ends: Vec<u64> = ranges
        .iter()
        .flat_map(|(low, high)| [*low, *high])
        .collect();
    // SAFETY: 64 ordinals a word, two ends a range.
    unsafe {
        ffi::rektor_keep_in_ranges(
            ordinals.as_ptr(),
            ends.as_ptr(),
            ranges.len(),
            marks.as_mut_ptr(),
            words,
        );
    }
}

/// Lets every other thread go before the calling one, for good.
pub(super) fn idle_priority() {
    // SAFETY: no arguments.
    unsafe { ffi::rektor_idle_priority() }
}

/// Links the FAISS that faiss-sys compiled; the shim calls it.
use faiss_sys as _;
