//! The client's prepared statements, as far as they matter.

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Prepared {}
