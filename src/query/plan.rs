//! A k-NN query and the indexes there are → the statement that nominates and the one that is exact.
use super::{KnnQuery, RelayReason};
use crate::catalog::IndexDefinition;
use crate::index::view::{IndexState, View};
use std::sync::Arc;

/// How a k-NN query is answered by an index.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The index, as of the view that was planned with.
    pub index: Arc<IndexState>,
    /// The statement restricted to keys: its extra parameters are `$first_key_param …`, one array a key column.
    pub nominate: String,
    /// Number of the first extra parameter: max(declared, used) + 1.
    pub first_key_param: u16,
    /// The statement with an ORDER BY that no vector index can serve, and no keys.
    pub exact: String,
}

/// Plans a k-NN query: finds the ready index on its table and column with its metric, and writes both statements.
/// `sql` is the text that `query` was analysed from, `declared` the number of parameter types its Parse declared.
pub fn plan(sql: &str, query: &KnnQuery, declared: u16, view: &View) -> Result<Plan, RelayReason> {
    let _ = (sql, query, declared, view, |_: &IndexDefinition| ());
    todo!()
}
