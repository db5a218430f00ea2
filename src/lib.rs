#![cfg_attr(test, allow(clippy::unwrap_used, missing_docs))]
//! Rektor stands beside a PostgreSQL and makes it a fast vector database: it tails logical replication to keep FAISS
//! indexes in step with tables that hold vectors, and speaks the Postgres wire protocol, so that an application changes
//! its connection string and nothing else.
//!
//! # The map
//! Data moves one way; a module knows only the modules above it in this list. `tests/layering.rs` fails on any other edge.
//!
//! | module | turns | into |
//! |---|---|---|
//! | [`lsn`], [`vector`], [`catalog`] | text and bytes | positions, vectors, keys, index definitions |
//! | [`wal`] | bytes of the replication stream | row changes, each with its commit's position |
//! | [`index`] | row changes | rows, codes, one graph or lists → immutable snapshots that can be searched |
//! | [`query`] | SQL text | a k-NN query → a plan → a rewritten statement |
//! | [`upstream`] | a connection string | the replication stream, consistent copies, what the catalogue says |
//! | [`store`] | changes and rows | a journal and generations on disk that survive any crash |
//! | [`session`] | a client's frames | upstream's frames, or a k-NN answer |
//! | [`ingest`] | the stream and the copies | stored, applied and published `View`s: the one write loop |
//! | [`admin`] | an operator's command | schema `rektor` upstream, a report of what is amiss, a private PostgreSQL |
//! | [`telemetry`] | a `View` and counters | metrics, health, logs, progress bars |
//! | [`config`], [`app`] | flags, environment, file | the parts, started, owned and stopped in order |
//!
//! A change's way in: WAL bytes → `LogicalMessage` → `Change` → journal → `index::Writer` → `Snapshot` → published `View`.
//! A query's way: frame → SQL text → `KnnQuery` → `Plan` → `Snapshot::search` → a statement restricted to keys → frames.
//!
//! # Invariants
//! - What Rektor does not recognise goes upstream unchanged, frame by frame. No statement fails because Rektor is in between.
//! - Rows come from Postgres, in the client's own session: the index only nominates keys. No right is checked here.
//! - Readers hold one immutable snapshot; there is one writer. Nothing of a transaction is visible before its commit.
//! - `session` never sees the writer, `ingest` never sees a client: a `watch` channel of views lies between them.
//! - The primary comes first: a table whose publication breaks its own writes leaves it, a slot that holds too much WAL is given
//!   up. What the stream does not tell is found by reading the catalogue; a past that cannot be shown to be the one that was
//!   followed means new copies.
//! - What upstream is told is durable is durable: `flush` never runs ahead of the disk.
//! - The stream waits for the journal's disk alone. An index that falls behind, is new, or is hit by a huge transaction reads the
//!   durable journal on a thread of its own and serves its last snapshot meanwhile; the others go on.
//! - What indexes hold in memory is counted where it is taken, and all of it stays within `max_memory`: an index that cannot
//!   grow fails, and its searches go upstream; nothing else does. Vectors that only the best candidates are compared with are
//!   in mapped files, whose pages the system may take back; what a full disk does not take of them counts as memory.
//! - The pure modules do no I/O and never panic on what comes from outside. `unsafe` lives in `index/faiss` and
//!   `store/mapped.rs` alone.
pub mod admin;
pub mod app;
pub mod catalog;
pub mod config;
pub mod index;
pub mod ingest;
pub mod lsn;
pub mod query;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod upstream;
pub mod vector;
pub mod wal;
