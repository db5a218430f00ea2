//! A statement → what it may change for the session's later statements. What is not known to change nothing may change anything.

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    AlterTableType, DiscardMode, Node, TransactionStmt, TransactionStmtKind, VariableSetKind,
    VariableSetStmt, a_const::Val,
};

use super::survey::Survey;

/// What a statement may change for the session's later statements.
///
/// Functions that are called are known by name only: one that is not well known may write, and whether it calls `set_config`
/// is not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// GUCs, role, or search_path: settings are read again before the next claimed statement.
    pub settings: bool,
    /// It may write (anything that is not a plain SELECT, SHOW, SET, transaction control, …; a SELECT that calls a function
    /// not known to be read-only). COMMIT is not a write: it makes earlier ones count.
    pub writes: bool,
    /// PREPARE, EXECUTE, DEALLOCATE, DISCARD: prepared statements made outside the extended protocol.
    pub prepared: bool,
    /// DISCARD ALL or DEALLOCATE ALL: every prepared statement of the session is gone, Rektor's own included.
    pub discards_prepared: bool,
    /// It may bring rows into a table, or change values, without a change of rows in the stream: a partition is attached, a table
    /// inherits, a column is rewritten. What a function does is not seen.
    pub unstreamed: bool,
    /// Transaction control.
    pub transaction: Option<TransactionEffect>,
}

impl Effect {
    /// The effect of a text that was not analysed.
    pub const UNKNOWN: Self = Self {
        settings: true,
        writes: true,
        prepared: true,
        discards_prepared: true,
        unstreamed: false, // it is no statement, or too long for one that does
        transaction: None,
    };

    /// The effect of running a SELECT.
    pub(super) fn of_survey(survey: &Survey) -> Self {
        Self {
            settings: survey.settings,
            writes: survey.writes,
            ..Self::default()
        }
    }

    const SETTINGS: Self = Self {
        settings: true,
        writes: false,
        prepared: false,
        discards_prepared: false,
        unstreamed: false,
        transaction: None,
    };
}

/// Transaction control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEffect {
    /// BEGIN or START TRANSACTION, with the isolation level if it names one; else `default_transaction_isolation` holds.
    Begin(Option<Isolation>),
    /// SET TRANSACTION ISOLATION LEVEL, or SET `transaction_isolation`; `None` when the value is not plain to see.
    Isolation(Option<Isolation>),
    /// SET TRANSACTION SNAPSHOT.
    ImportSnapshot,
    /// COMMIT, ROLLBACK, PREPARE TRANSACTION: what SET LOCAL set, and on rollback what SET set, is undone.
    End {
        /// AND CHAIN: the next transaction begins at once, with the same isolation level.
        chain: bool,
    },
    /// ROLLBACK TO SAVEPOINT: what SET set since is undone.
    RollbackTo,
}

/// A transaction's isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// READ UNCOMMITTED, which PostgreSQL takes for READ COMMITTED, and READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ.
    RepeatableRead,
    /// SERIALIZABLE.
    Serializable,
}

impl Isolation {
    /// The level of that name, as `current_setting('transaction_isolation')` prints it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            ("read uncommitted", Self::ReadCommitted),
            ("read committed", Self::ReadCommitted),
            ("repeatable read", Self::RepeatableRead),
            ("serializable", Self::Serializable),
        ]
        .into_iter()
        .find(|(level, _)| level.eq_ignore_ascii_case(name))
        .map(|(_, level)| level)
    }
}

/// The effect of a statement other than SELECT and EXPLAIN.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "an allow-list of what does not write, among 120 kinds of statements"
)]
pub(super) fn of(tree: &Tree) -> Effect {
    let harmless = Effect::default();
    match tree {
        Tree::VariableSetStmt(set) => variable_set(set),
        Tree::TransactionStmt(statement) => transaction(statement),
        Tree::VariableShowStmt(_)
        | Tree::FetchStmt(_)
        | Tree::ClosePortalStmt(_)
        | Tree::ListenStmt(_)
        | Tree::UnlistenStmt(_)
        | Tree::NotifyStmt(_)
        | Tree::LockStmt(_)
        | Tree::CheckPointStmt(_) => harmless,
        Tree::LoadStmt(_) => Effect::SETTINGS, // the library's settings come into being
        Tree::PrepareStmt(_) => Effect {
            prepared: true,
            ..harmless
        },
        Tree::DeallocateStmt(deallocate) => Effect {
            prepared: true,
            discards_prepared: deallocate.isall,
            ..harmless
        },
        Tree::DiscardStmt(discard) => {
            let all = DiscardMode::try_from(discard.target) == Ok(DiscardMode::DiscardAll);
            Effect {
                settings: all,
                prepared: true,
                discards_prepared: all,
                ..harmless
            }
        }
        Tree::ExecuteStmt(_) => Effect {
            settings: true,
            writes: true,
            prepared: true,
            ..harmless
        },
        Tree::DoStmt(_) | Tree::CallStmt(_) => Effect {
            settings: true,
            writes: true,
            unstreamed: matches!(tree, Tree::DoStmt(_)),
            ..harmless
        },
        Tree::AlterTableStmt(alter) => Effect {
            writes: true,
            unstreamed: alter.cmds.iter().any(is_unstreamed),
            ..harmless
        },
        Tree::CreateStmt(create) => Effect {
            writes: true,
            unstreamed: !create.inh_relations.is_empty() && create.partbound.is_none(),
            ..harmless
        },
        _ => Effect {
            writes: true,
            ..harmless
        },
    }
}

/// Whether a part of ALTER TABLE brings rows or changes values.
fn is_unstreamed(command: &Node) -> bool {
    let Some(Tree::AlterTableCmd(command)) = &command.node else {
        return true;
    };
    matches!(
        AlterTableType::try_from(command.subtype),
        Ok(AlterTableType::AtAttachPartition
            | AlterTableType::AtAddInherit
            | AlterTableType::AtAlterColumnType)
    )
}

fn transaction(statement: &TransactionStmt) -> Effect {
    use TransactionStmtKind as K;
    let chain = statement.chain;
    let (effect, settings, writes) = match K::try_from(statement.kind) {
        Ok(K::TransStmtBegin | K::TransStmtStart) => {
            let level = isolation_option(&statement.options);
            (Some(TransactionEffect::Begin(level)), false, false)
        }
        Ok(K::TransStmtCommit | K::TransStmtPrepare) => {
            (Some(TransactionEffect::End { chain }), false, false)
        }
        Ok(K::TransStmtRollback) => (Some(TransactionEffect::End { chain }), true, false),
        Ok(K::TransStmtRollbackTo) => (Some(TransactionEffect::RollbackTo), true, false),
        Ok(K::TransStmtSavepoint | K::TransStmtRelease | K::TransStmtRollbackPrepared) => {
            (None, false, false)
        }
        Ok(K::TransStmtCommitPrepared) => (None, false, true), // another transaction's writes, now
        Ok(K::Undefined) | Err(_) => return Effect::UNKNOWN,
    };
    Effect {
        settings,
        writes,
        transaction: effect,
        ..Effect::default()
    }
}

/// SET and RESET, of whatever: role, session authorization, time zone and transaction modes are settings too.
fn variable_set(set: &VariableSetStmt) -> Effect {
    let multi = VariableSetKind::try_from(set.kind) == Ok(VariableSetKind::VarSetMulti);
    let transaction = match (multi, set.name.as_str()) {
        (true, "TRANSACTION") => {
            isolation_option(&set.args).map(|level| TransactionEffect::Isolation(Some(level)))
        }
        (true, "TRANSACTION SNAPSHOT") => Some(TransactionEffect::ImportSnapshot),
        (false, "transaction_isolation") => Some(TransactionEffect::Isolation(
            set.args
                .first()
                .and_then(constant)
                .and_then(Isolation::from_name),
        )),
        (true | false, _) => None,
    };
    Effect {
        transaction,
        ..Effect::SETTINGS
    }
}

/// The value of `isolation level …` among transaction modes.
fn isolation_option(options: &[Node]) -> Option<Isolation> {
    options.iter().rev().find_map(|node| match &node.node {
        Some(Tree::DefElem(option)) if option.defname == "transaction_isolation" => option
            .arg
            .as_deref()
            .and_then(constant)
            .and_then(Isolation::from_name),
        Some(_) | None => None,
    })
}

fn constant(node: &Node) -> Option<&str> {
    match &node.node {
        Some(Tree::AConst(constant)) => match constant.val.as_ref()? {
            Val::Sval(text) => Some(&text.sval),
            Val::Ival(_) | Val::Fval(_) | Val::Boolval(_) | Val::Bsval(_) => None,
        },
        Some(Tree::String(text)) => Some(&text.sval),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests;
