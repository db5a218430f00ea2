//! Bytes of the replication stream → messages → row changes with their positions. Pure: no I/O, never panics on any input.

pub mod copy;
pub mod pgoutput;
pub mod transaction;
