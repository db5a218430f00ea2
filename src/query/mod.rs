//! SQL text → recognised k-NN query → plan → rewritten SQL; and Rektor's own DDL → the call that carries it out upstream.
//! Pure: no I/O; what it does not know it does not claim.

pub use ddl::Ddl;
pub use interest::{Interest, interest};
pub use knn::{Bound, KnnQuery, QueryVector, RelayReason};
pub use plan::{Plan, plan};
pub use statement::{Effect, ParseError, Statement, StatementKind, analyze};

mod ddl;
mod interest;
mod knn;
mod plan;
mod statement;
