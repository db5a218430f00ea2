//! Why a statement goes upstream as it is: one variant a cause, with the words an operator reads in EXPLAIN.

/// Why a statement goes upstream as it is. Its Display is what EXPLAIN prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RelayReason {
    // ---- the statement's shape -------------------------------------------------------------------------------------
    /// Something else in FROM than tables, or tables that are joined and of which it is not plain which one is searched, or
    /// which may give NULLs.
    #[error("FROM is not one table, or tables joined with it")]
    NotOneTable,
    /// `FROM ONLY`.
    #[error("FROM ONLY")]
    Only,
    /// `FROM t AS a (b, c)`: columns have other names than the index knows.
    #[error("the table's alias renames columns")]
    ColumnAliases,
    /// `FROM database.schema.table`.
    #[error("the table is named with its database")]
    DatabaseQualified,
    /// TABLESAMPLE.
    #[error("TABLESAMPLE")]
    TableSample,
    /// WITH.
    #[error("WITH clause")]
    With,
    /// UNION, INTERSECT or EXCEPT.
    #[error("set operation")]
    SetOperation,
    /// DISTINCT.
    #[error("DISTINCT")]
    Distinct,
    /// GROUP BY or HAVING.
    #[error("GROUP BY or HAVING")]
    Grouped,
    /// An aggregate at the level of the ORDER BY.
    #[error("aggregate")]
    Aggregate,
    /// A window function or WINDOW clause at that level.
    #[error("window function")]
    Window,
    /// A set-returning function at that level.
    #[error("set-returning function")]
    SetReturning,
    /// FOR UPDATE, FOR SHARE, …
    #[error("locking clause")]
    Locking,
    /// SELECT INTO.
    #[error("SELECT INTO")]
    Into,
    /// FETCH FIRST … WITH TIES.
    #[error("WITH TIES")]
    WithTies,
    /// The statement is written in parentheses, or as TABLE or VALUES.
    #[error("not a plain SELECT")]
    NotAPlainSelect,
    /// WHERE, LIMIT or the like beside LATERAL, or a LEFT JOIN of one row for each vector.
    #[error("the statement around LATERAL does not tell whether every search found its rows")]
    AroundLateral,
    /// More vectors, or more rows for all of them, than are proposed at once.
    #[error("too many query vectors in one statement, or too many rows for them")]
    BatchTooLarge,
    /// No ORDER BY.
    #[error("not ordered by a distance")]
    NotOrdered,
    /// More than one sort key.
    #[error("more than one sort key")]
    SeveralSortKeys,
    /// DESC, NULLS FIRST or USING.
    #[error("not ordered by ascending distance")]
    NotAscending,
    /// The sort key is not `column <operator> query`.
    #[error("the sort key is not a column's distance to a query vector")]
    NotADistance,
    /// The sort key is an alias or an ordinal that may mean something else.
    #[error("the sort key's alias or ordinal is ambiguous")]
    AmbiguousSortKey,
    /// The query is neither a parameter nor a literal, nor a cast of one to a vector type.
    #[error("the query vector is neither a parameter nor a literal")]
    QueryNotConstant,
    /// The query is NULL.
    #[error("the query vector is NULL")]
    NullQuery,
    /// No LIMIT, LIMIT ALL or LIMIT NULL.
    #[error("no LIMIT")]
    NoLimit,
    /// LIMIT or OFFSET is an expression.
    #[error("LIMIT or OFFSET is neither a constant nor a parameter")]
    LimitNotConstant,
    /// LIMIT below 1 or OFFSET below 0.
    #[error("LIMIT is not positive, or OFFSET is negative")]
    LimitNotPositive,
    /// LIMIT and OFFSET ask for more rows than an index is searched for.
    #[error("LIMIT and OFFSET are too large")]
    LimitTooLarge,
    /// A function known to be volatile: a repeat would run it twice.
    #[error("volatile function")]
    Volatile,
    /// A function that is not known and was not found non-volatile upstream.
    #[error("function not known to be harmless")]
    UnknownFunction,
    /// A type in a cast that is not known and was not found harmless upstream.
    #[error("cast to a type not known to be harmless")]
    UnknownType,
    /// A view beside the table: the functions that it calls are not looked into.
    #[error("joined with a view")]
    View,
    /// An operator that is not known to be non-volatile.
    #[error("operator not known to be harmless")]
    UnknownOperator,
    /// A construct that Rektor does not analyse (XML, SQL/JSON constructors, field selection, …).
    #[error("construct that Rektor does not analyse")]
    UnknownExpression,
    /// No room for the keys: a statement has at most 65,535 parameters.
    #[error("too many parameters")]
    TooManyParameters,

    // ---- the indexes there are -------------------------------------------------------------------------------------
    /// No index on this table and column.
    #[error("no faiss index on this column")]
    NoIndex,
    /// Indexes on the column are on other expressions of it.
    #[error("no faiss index on this expression of the column")]
    OtherExpression,
    /// Indexes on the column serve other distances.
    #[error("no faiss index on this column for this distance")]
    OtherMetric,
    /// Indexed tables of this name are in several schemas, and the statement does not say which it means.
    #[error("the table's name fits indexed tables in several schemas")]
    AmbiguousTable,
    /// The query is cast to another type than the column's.
    #[error("the query vector is cast to another type than the column's")]
    OtherVectorType,
    /// The index is still being copied.
    #[error("the index is being copied")]
    Copying,
    /// The index is still being built.
    #[error("the index is being built")]
    Building,
    /// The index failed.
    #[error("the index has failed")]
    Failed,

    // ---- what only the session knows -------------------------------------------------------------------------------
    /// SERIALIZABLE: the rewritten statement would take other predicate locks.
    #[error("isolation level SERIALIZABLE")]
    Serializable,
    /// SET TRANSACTION SNAPSHOT.
    #[error("imported snapshot")]
    ImportedSnapshot,
    /// REPEATABLE READ began before this index could serve.
    #[error("the transaction's snapshot is older than the index")]
    SnapshotTooOld,
    /// The transaction has written.
    #[error("the transaction has written")]
    TransactionWrote,
    /// The transaction has failed.
    #[error("the transaction has failed")]
    TransactionFailed,
    /// The table's name does not resolve to the indexed table.
    #[error("the table's name means another table here")]
    Shadowed,
    /// The index's definition changed since the statement was prepared.
    #[error("the index's definition has changed")]
    StaleGeneration,
    /// This session has done what may bring rows that no stream tells of, and the catalogue was not read since.
    #[error("the session has altered a table, and the index may not know it yet")]
    Unstreamed,
    /// The index has not yet applied the position that this session's consistency asks for.
    #[error("the index lags behind what this session must see")]
    Lagging,
    /// No SELECT on the key columns.
    #[error("no SELECT privilege on the key columns")]
    NoKeyPrivilege,
    /// `client_encoding` is not UTF8.
    #[error("client_encoding is not UTF8")]
    ClientEncoding,
    /// `standard_conforming_strings` is off: backslashes in literals mean something else than Rektor reads.
    #[error("standard_conforming_strings is off")]
    NonConformingStrings,
    /// The query vector's dimension is not the index's.
    #[error("the query vector has another dimension than the index")]
    WrongDimension,
    /// A zero query under cosine distance: every distance is NaN.
    #[error("the query vector is zero, and the distance is cosine")]
    ZeroQuery,
    /// The query vector's text or bytes are no vector; upstream says what is wrong with them.
    #[error("the query vector is malformed")]
    MalformedQuery,
    /// A parameter has a type from which Rektor does not read a vector or a number.
    #[error("a parameter is of a type that Rektor does not read")]
    ParameterType,
    /// LIMIT or OFFSET is a parameter that is NULL.
    #[error("LIMIT or OFFSET is NULL")]
    NullLimit,
    /// The portal is used in a way that held rows cannot serve.
    #[error("the portal is fetched in a way that Rektor does not serve")]
    Portal,
    /// The answer exceeds what a session may hold back.
    #[error("the answer is too large to hold back")]
    AnswerTooLarge,
    /// Upstream refused the rewritten statement.
    #[error("upstream refused the rewritten statement")]
    RewriteRefused,
    /// The search failed.
    #[error("the search failed")]
    SearchFailed,
    /// The statement runs through a way that Rektor does not rewrite (EXECUTE, cursor, COPY, function call).
    #[error("run by EXECUTE, a cursor or COPY")]
    NotDirect,
}
