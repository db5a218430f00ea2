//! `CREATE INDEX … USING faiss`, and DROP, REINDEX, ALTER INDEX of such an index → a call of schema `rektor`'s procedure.

/// DDL that may be Rektor's to carry out.
#[derive(Clone, Debug, PartialEq)]
pub enum Ddl {
    /// `CREATE INDEX … USING faiss`: always Rektor's.
    CreateIndex(
        String, /* refine: fields as needed by rektor.create_index */
    ),
    /// Only if one of the names is an index of Rektor's.
    DropIndex,
}
