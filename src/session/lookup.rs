//! The look-up: one injected statement that asks the client's own upstream session what a k-NN statement depends on.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::SessionError;
use super::exchange::End;
use super::facts::Answer;
use super::filter;
use super::knn::{QUERY_CANCELED, Unready};
use super::messages;
use super::relay::Session;
use crate::catalog::{IndexDefinition, quoted_name};
use crate::lsn::Lsn;
use crate::query::{KnnQuery, RelayReason};

const LOOKUP: &str = include_str!("../../sql/session_lookup.sql");
/// The portal that it runs in.
const PORTAL: &[u8] = b"rektor_lookup";

impl Session {
    /// Asks what a statement on this index depends on, and notes the answer; upstream's position. A simple Query's look-up ends with a Sync: what
    /// follows a Flush is part of a pipeline to Postgres, and leaves a simple Query inside a block.
    pub(super) async fn look_up(
        &mut self,
        query: &KnnQuery,
        index: &IndexDefinition,
        subject: &str,
        end: End,
    ) -> Result<Result<Option<Lsn>, Unready>, SessionError> {
        self.shared
            .context
            .counters
            .lookups
            .fetch_add(1, Ordering::Relaxed);
        let fresh = self.is_fresh();
        let mut completions = 3;
        let own = match self.lookup.take() {
            Some(own) => own,
            None => {
                let own = self.rewrites.next_own();
                messages::parse(&mut self.upstream.outbox, &own.name, LOOKUP.as_bytes(), &[]);
                completions += 1;
                own
            }
        };
        let values = parameters(query, index, self.facts.may_be_unwritten());
        let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
        messages::bind_text(&mut self.upstream.outbox, PORTAL, &own.name, &values);
        messages::execute(&mut self.upstream.outbox, PORTAL, 0);
        messages::close(&mut self.upstream.outbox, b'P', PORTAL);
        let replies = self.exchange(end, completions).await?;
        if replies.skipped {
            return Ok(Err(Unready::Reported));
        }
        if let Some(error) = &replies.error {
            let sqlstate =
                String::from_utf8_lossy(replies.sqlstate().unwrap_or_default()).into_owned();
            tracing::debug!(sqlstate, "the look-up failed");
            if fresh && replies.sqlstate() != Some(QUERY_CANCELED) {
                if replies.ready.is_none() {
                    self.recover().await?;
                }
                return Ok(Err(Unready::Relay(RelayReason::RewriteRefused)));
            }
            self.client.outbox.extend_from_slice(error.bytes());
            self.pending.skip_to_sync();
            return Ok(Err(Unready::Reported));
        }
        self.lookup = Some(own);
        let answer = replies.row_bodies().next().and_then(|row| {
            let values = messages::row_values(row)?;
            Answer::read(&values, index.relation)
        });
        let Some(answer) = answer else {
            return Ok(Err(Unready::Relay(RelayReason::StaleGeneration)));
        };
        self.facts
            .learn(subject.to_owned(), &answer, Instant::now());
        if answer.wrote {
            return Ok(Err(Unready::Relay(RelayReason::TransactionWrote)));
        }
        Ok(Ok(answer.lsn))
    }
}

/// The look-up's parameters, in text form.
fn parameters(query: &KnnQuery, index: &IndexDefinition, may_be_unwritten: bool) -> [String; 10] {
    let table = quoted_name(query.schema.as_deref(), &query.table);
    let columns = || {
        let key = index.key.iter();
        let key = key.map(|column| (column.number, &column.name, column.kind.oid()));
        let vector = &index.column;
        let include = filter::columns(query, index);
        key.chain([(vector.number, &vector.name, vector.type_id)])
            .chain(include.map(|column| (column.number, &column.name, column.type_id)))
    };
    [
        table,
        index.relation.0.to_string(),
        array(columns().map(|(number, ..)| number.0.to_string())),
        array(columns().map(|(_, name, _)| name.clone())),
        index.key.len().to_string(),
        array(query.unknown_functions.iter().cloned()),
        array(query.unknown_types.iter().cloned()),
        array(columns().map(|(.., kind)| kind.0.to_string())),
        may_be_unwritten.to_string(),
        array(query.other_tables.iter().cloned()),
    ]
}

/// An array in text form, every element quoted.
pub(super) fn array(elements: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = elements
        .map(|element| format!("\"{}\"", element.replace('\\', "\\\\").replace('"', "\\\"")))
        .collect();
    format!("{{{}}}", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_postgres() {
        assert_eq!(quoted_name(None, "a\"b"), "\"a\"\"b\"");
        assert_eq!(quoted_name(Some("S"), "t"), "\"S\".\"t\"");
        assert_eq!(
            array(["a".into(), "b\"\\c".into()].into_iter()),
            r#"{"a","b\"\\c"}"#
        );
        assert_eq!(array(std::iter::empty()), "{}");
    }
}
