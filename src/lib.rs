#![cfg_attr(test, allow(clippy::unwrap_used, missing_docs))]
//! Rektor stands beside a PostgreSQL and makes it a fast vector database.
pub mod catalog;
pub mod index;
pub mod lsn;
pub mod query;
pub mod session;
pub mod store;
pub mod upstream;
pub mod vector;
pub mod wal;
