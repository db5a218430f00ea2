//! The edge to unsafe code: memory shared between the writer and the searches, and the C++ shim over FAISS.
//! Everything given out is safe to use; lengths are checked before a pointer crosses.
#![allow(unsafe_code)]

mod rows;
mod store;

pub(super) use rows::{FreshRow, RowView, Rows};
