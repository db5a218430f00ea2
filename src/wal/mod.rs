//! Bytes of the replication stream → messages → row changes with their positions. Pure: no I/O, never panics on any input.

pub mod copy;
#[cfg(test)]
mod golden;
pub mod pgoutput;
pub mod transaction;
