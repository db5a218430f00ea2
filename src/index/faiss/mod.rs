//! The edge to unsafe code: memory that searches share with the writer, and the C++ shim over FAISS.
//! What is given out is safe to use: [`Rows`] for the writer, [`RowView`] for everyone else. Lengths are checked before
//! a pointer crosses; what may be read when is written down in `rows`, `lineage` and `graph.h`.
#![allow(unsafe_code)]

mod codes;
mod ffi;
mod graph;
mod lineage;
mod lists;
mod measure;
mod rows;
mod store;
mod stored;
#[cfg(test)]
mod tests;
mod view;

pub(super) use lists::check as check_lists;
pub(super) use rows::Rows;
pub use stored::{GraphImage, GraphSource};
pub(super) use view::{Ranked, Rebuild, RowView};

/// Lets every other thread go before the calling one, for good.
pub(super) fn low_priority() {
    // SAFETY: no arguments.
    unsafe { ffi::rektor_low_priority() }
}

/// Links the FAISS that faiss-sys compiled; the shim calls it.
use faiss_sys as _;
