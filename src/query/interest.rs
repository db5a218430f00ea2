//! Raw statement bytes → whether parsing them could matter at all. A prefilter: false positives cost a parse, false negatives are defects.

/// What a statement's bytes mention. All false: it is relayed unparsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// A distance operator or function: it may be a k-NN query.
    pub distance: bool,
    /// `faiss`, `rektor`, or INDEX after CREATE, DROP, ALTER, REINDEX: it may be ours to carry out.
    pub ddl: bool,
    /// A name of schema `rektor`'s stat views: their settings must be fresh before it runs.
    pub stat: bool,
    /// SET, RESET, DISCARD, ROLLBACK, `set_config`, …: settings, role or search_path may differ afterwards.
    pub settings: bool,
}

/// Scans a statement once, ASCII case-insensitively; quoting and comments are not considered.
#[must_use]
pub fn interest(sql: &[u8]) -> Interest {
    let _ = sql;
    todo!()
}
