//! k-NN searches through Rektor: the rows that exact SQL gives, and answered from the index where they should be.

mod batches;
mod cases;
mod documents;
mod expressions;
mod filters;
pub mod fixture;
mod high;
mod joins;
mod kept;
mod policies;
mod portals;
mod probes;
mod random;
mod rights;
mod statements;
mod sub_selects;
mod types;
mod visibility;
