//! SQL text → recognised k-NN query → plan → rewritten SQL; and Rektor's own DDL → the call that carries it out upstream.
//! Pure: no I/O; what it does not know it does not claim.

pub use batch::MAX_VECTORS;
pub use condition::{Condition, Items, MAX_VALUES, Operand, OperandValue, Step, Test};
pub use ddl::{AlterIndex, CreateIndex, Ddl, DdlError, ObjectName};
pub use effect::{Effect, Isolation, TransactionEffect};
pub use expression::QueryStep;
pub use interest::{Interest, interest};
pub use knn::KnnQuery;
pub use operand::{Bound, QueryCast, QueryVector};
pub use parse::ParseError;
pub use plan::{Plan, plan};
pub use reason::RelayReason;
pub use statement::{Statement, StatementKind, analyze};
pub use verify::{VerifiedName, verified_names};

mod batch;
mod condition;
mod ddl;
mod effect;
mod expression;
mod interest;
mod knn;
mod names;
mod nested;
mod operand;
mod parse;
mod plan;
mod quote;
mod reason;
mod splice;
mod statement;
mod survey;
mod tables;
mod verify;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod properties;
