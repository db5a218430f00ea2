//! A parse tree → a k-NN query, or the reason why it is not claimed.
use crate::vector::Metric;

/// Why a statement goes upstream as it is. Its Display is what EXPLAIN prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayReason {
    /// More than one table in FROM, or something that is not a table.
    #[error("more than one table")]
    NotOneTable,
    // … one variant a cause: window, aggregate, DISTINCT, locking clause, WITH TIES, set operation, volatile, no index on column,
    // index not ready, index lags behind, serializable, transaction has written, no SELECT on key, client_encoding, …
}

/// Where a number or a vector of the statement comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// Absent: no LIMIT, or OFFSET 0.
    Absent,
    /// A constant in the text.
    Constant(i64),
    /// `$n`, from 1.
    Parameter(u16),
}

/// Where the query vector comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryVector {
    /// A literal's text, `[…]` or `{…}`.
    Literal(String),
    /// `$n`, from 1.
    Parameter(u16),
}

/// A statement in the shape `SELECT … FROM table [WHERE …] ORDER BY column <op> query [ASC] LIMIT k [OFFSET n]`.
#[derive(Clone, Debug)]
pub struct KnnQuery {
    /// The table as written: schema, if written, and name.
    pub schema: Option<String>,
    /// Its name.
    pub table: String,
    /// The ordered-by column.
    pub column: String,
    /// The operator's metric.
    pub metric: Metric,
    /// The query.
    pub query: QueryVector,
    /// LIMIT.
    pub limit: Bound,
    /// OFFSET.
    pub offset: Bound,
    /// Functions and casts called anywhere in the statement that are not known to be non-volatile: the caller asks upstream.
    pub unknown_functions: Vec<String>,
    // private: what the rewriter needs (token positions)
}
