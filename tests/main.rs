//! Rektor against real PostgreSQL servers: one binary, so that each server is started once a process.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

mod audit;
mod bad_input;
mod chaos;
mod harness;
mod ingest;
mod knn;
mod layering;
mod memory;
mod primary;
mod recall;
mod relay;
mod seen;
mod serve;
mod setup;
mod tools;
mod workload;
mod world;
