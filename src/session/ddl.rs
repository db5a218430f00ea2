//! `CREATE INDEX … USING faiss` and its kin → the call that carries it out upstream, in the client's own session and
//! transaction. The client sees the command's own tag; whether it may is Postgres's to say.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;

use super::SessionError;
use super::exchange::End;
use super::lookup;
use super::messages::{self, Report, error_field};
use super::pending::{Completion, Kind, Owner};
use super::prepared::Analysis;
use super::relay::{Session, Transaction};
use crate::query::{Ddl, DdlError, ObjectName, StatementKind};

const INSTALLED: &str = include_str!("../../sql/session_installed.sql");
const INDEXES: &str = include_str!("../../sql/session_indexes.sql");
/// The portal that they run in.
const PORTAL: &[u8] = b"rektor_ddl";
/// Names found to be indexes of Rektor's that are remembered until the view shows them.
const MAX_CREATED: usize = 1_000;

impl Session {
    /// The tag and the text that takes the place of a prepared statement that is Rektor's to carry out.
    pub(super) fn own_ddl(&mut self, analysis: &Analysis) -> Option<(&'static str, String)> {
        match &analysis.single()?.kind {
            StatementKind::Ddl(ddl) => self.replacement(ddl),
            StatementKind::Knn(_)
            | StatementKind::NotClaimed(_)
            | StatementKind::Explain { .. }
            | StatementKind::Other => None,
        }
    }

    /// Sends a simple Query with the commands that are Rektor's replaced; false when there are none.
    pub(super) fn simple_ddl(&mut self, analysis: &Arc<Analysis>) -> bool {
        let Some(statements) = &analysis.statements else {
            return false;
        };
        let mut text = String::with_capacity(analysis.sql.len() + 256);
        let mut completions = VecDeque::new();
        let (mut from, mut replaced) = (0, false);
        for statement in statements {
            let replacement = match &statement.kind {
                StatementKind::Ddl(ddl) => self.replacement(ddl),
                StatementKind::Knn(_)
                | StatementKind::NotClaimed(_)
                | StatementKind::Explain { .. }
                | StatementKind::Other => None,
            };
            completions.push_back(Completion {
                tag: replacement.as_ref().map(|(tag, _)| *tag),
                rows: None,
            });
            if let Some((_, call)) = replacement {
                let before = analysis.sql.get(from..statement.range.start);
                text.push_str(before.unwrap_or_default());
                text.push_str(&call);
                from = statement.range.end;
                replaced = true;
            }
        }
        if !replaced {
            return false;
        }
        text.push_str(analysis.sql.get(from..).unwrap_or_default());
        let effects = analysis.effects();
        effects.for_each(|effect| self.statement_relayed(effect));
        self.book.remove_statement(b"");
        self.book.remove_portal(b"");
        messages::query(&mut self.upstream.outbox, text.as_bytes());
        self.pending
            .sent(Kind::Query { completions }, Owner::Client);
        self.executed = false;
        true
    }

    /// Before DDL on indexes that the view does not show: asks upstream whether they are Rektor's. One that another session
    /// has just created is.
    pub(super) async fn look_for_indexes(
        &mut self,
        analysis: &Analysis,
    ) -> Result<(), SessionError> {
        let named = analysis
            .statements
            .iter()
            .flatten()
            .filter_map(|statement| match &statement.kind {
                StatementKind::Ddl(ddl) => Some(ddl.names()),
                StatementKind::Knn(_)
                | StatementKind::NotClaimed(_)
                | StatementKind::Explain { .. }
                | StatementKind::Other => None,
            });
        let unknown: Vec<String> = named
            .flatten()
            .filter(|name| !self.is_own_index(name))
            .map(|name| name.name.clone())
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        if self.transaction == Transaction::Failed || self.executed || self.pending.is_skipping() {
            return Ok(());
        }
        let names = lookup::array(unknown.iter().cloned());
        if self.ask(INSTALLED, &[]).await? && self.ask(INDEXES, &[names.as_bytes()]).await? {
            if self.created.len() >= MAX_CREATED {
                self.created.clear();
            }
            self.created.extend(unknown);
        }
        Ok(())
    }

    /// Asks upstream a question of yes or no; an error is no. Ends with a Sync, so that what follows is not part of a pipeline:
    /// DROP INDEX CONCURRENTLY would be refused there.
    async fn ask(&mut self, sql: &str, values: &[&[u8]]) -> Result<bool, SessionError> {
        let own = self.rewrites.next_own();
        let out = &mut self.upstream.outbox;
        messages::parse(out, &own.name, sql.as_bytes(), &[]);
        messages::bind_text(out, PORTAL, &own.name, values);
        messages::execute(out, PORTAL, 0);
        messages::close(out, b'P', PORTAL);
        messages::close(out, b'S', &own.name);
        let replies = self.exchange(End::Sync, 5).await?;
        let row = replies.row_bodies().next().and_then(messages::row_values);
        Ok(row.is_some_and(|values| values == [Some(&b"t"[..])]))
    }

    fn replacement(&mut self, ddl: &Ddl) -> Option<(&'static str, String)> {
        if let Ddl::CreateIndex(create) = ddl {
            if self.created.len() >= MAX_CREATED {
                self.created.clear();
            }
            self.created.extend(create.name.clone());
        } else if !ddl.names().iter().any(|name| self.is_own_index(name)) {
            return None;
        }
        if let Ddl::RenameIndex { new_name, .. } = ddl {
            self.created.insert(new_name.clone());
        }
        self.shared
            .context
            .counters
            .ddl
            .fetch_add(1, Ordering::Relaxed);
        Some((ddl.tag(), ddl.call().unwrap_or_else(|error| raise(&error))))
    }

    /// Whether a name is that of an index of Rektor's, or of one that this session created.
    fn is_own_index(&self, name: &ObjectName) -> bool {
        let view = self.shared.context.view.borrow();
        let shown = view.indexes.iter().any(|index| {
            let known = &index.definition.name;
            known.name == name.name
                && name
                    .schema
                    .as_ref()
                    .is_none_or(|schema| *schema == known.schema)
        });
        shown || self.created.contains(&name.name)
    }
}

/// A statement that fails with this error: so the transaction is in the state that the client expects.
fn raise(error: &DdlError) -> String {
    let quoted = error.message.replace('\'', "''");
    let body = format!(
        "begin raise exception using errcode = '{}', message = '{quoted}'; end",
        error.sqlstate
    );
    format!("do '{}'", body.replace('\'', "''"))
}

/// What is sent instead of upstream's error: to a command that Rektor carried out, without the CONTEXT of its functions; and
/// with a hint when schema `rektor` is missing.
pub(super) fn mended_error(body: &[u8], own: bool) -> Option<BytesMut> {
    missing_schema(body).or_else(|| {
        let mut frames = BytesMut::new();
        own.then(|| messages::without_context(&mut frames, body))?;
        Some(frames)
    })
}

fn missing_schema(body: &[u8]) -> Option<BytesMut> {
    let message = error_field(body, b'M')?;
    if error_field(body, b'C') != Some(b"3F000")
        || !message.windows(8).any(|part| part == b"\"rektor\"")
    {
        return None;
    }
    let message = std::str::from_utf8(message).ok()?;
    let mut frames = BytesMut::new();
    let report = Report {
        severity: "ERROR",
        sqlstate: "3F000",
        message,
        hint: Some("Install it with: rektor setup --upstream …"),
    };
    messages::error(&mut frames, report);
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_command_raises_its_error() {
        let error = DdlError {
            sqlstate: "0A000",
            message: "it's not".into(),
        };
        assert_eq!(
            raise(&error),
            "do 'begin raise exception using errcode = ''0A000'', message = ''it''''s not''; end'"
        );
    }

    #[test]
    fn a_missing_schema_is_told_with_its_cure() {
        let body = b"SERROR\0C3F000\0Mschema \"rektor\" does not exist\0\0";
        let mended = mended_error(body, false).unwrap();
        assert!(error_field(&mended[5..], b'H').is_some());
        assert!(
            mended_error(
                b"SERROR\0C3F000\0Mschema \"other\" does not exist\0\0",
                false
            )
            .is_none()
        );
        assert!(mended_error(b"SERROR\0C42P01\0M\"rektor\"\0\0", false).is_none());
        let own = mended_error(b"SERROR\0C42P01\0Wfunction\0Mm\0\0", true).unwrap();
        assert_eq!(&own[5..], b"SERROR\0C42P01\0Mm\0\0");
    }
}
