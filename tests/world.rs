//! Changes in the world around Rektor, on real servers: whatever happens to columns, tables, publication, slot, primary and
//! disk ends in an index that equals its table, or in upstream answers with a reason that an operator can read.
//!
mod columns;
mod disk;
mod fixture;
mod primary;
mod publication;
mod slot;
