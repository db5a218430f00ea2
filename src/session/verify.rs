//! `rektor.verify_index('name')` → the index compared with its table, while the client waits; what was found goes into a setting
//! of the session, from which the function upstream gives it. Whether the role may is Postgres's to say.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::SessionError;
use super::exchange::End;
use super::messages::{self, BindBody};
use super::pending::{Completion, Installs, Kind, Owner};
use super::prepared::{Analysis, Prepared};
use super::relay::{Session, Transaction};
use crate::catalog::IndexId;
use crate::index::OUT_OF_MEMORY;
use crate::index::view::{Verification, VerifyError};
use crate::query::VerifiedName;

const TARGET: &str = include_str!("../../sql/session_verify_target.sql");
const SET: &str = include_str!("../../sql/session_verify.sql");
/// The portal that they run in.
const PORTAL: &[u8] = b"rektor_verify";

/// Whether the statement is still to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Run,
    /// The client was given an error.
    Reported,
}

/// What a look-up of an index's name gave.
enum Target {
    Index(IndexId),
    /// The statement will say why not.
    None,
    Reported,
}

impl Session {
    /// Before a simple Query that calls the function.
    pub(super) async fn verify_simple(
        &mut self,
        analysis: &Arc<Analysis>,
    ) -> Result<Then, SessionError> {
        self.verify(analysis, None, End::Sync).await
    }

    /// Before the Bind of a statement that calls the function.
    pub(super) async fn verify_bound(
        &mut self,
        prepared: &Arc<Prepared>,
        bind: &BindBody<'_>,
    ) -> Result<Then, SessionError> {
        self.verify(&prepared.analysis, Some(bind), End::Flush)
            .await
    }

    async fn verify(
        &mut self,
        analysis: &Analysis,
        bind: Option<&BindBody<'_>>,
        end: End,
    ) -> Result<Then, SessionError> {
        if !self.pending.is_empty() {
            self.settle().await?;
        }
        // Upstream says what is wrong; and a Sync of ours would end what the client has not ended.
        if self.transaction == Transaction::Failed
            || self.pending.is_skipping()
            || (end == End::Sync && self.executed)
        {
            return Ok(Then::Run);
        }
        if let Some(registration) = &mut self.registration {
            registration.rearm();
        }
        let mut found = Map::new();
        for name in &analysis.verified {
            let index = match self.verify_target(name, bind, end).await? {
                Target::Index(index) => index,
                Target::None => continue,
                Target::Reported => return Ok(Then::Reported),
            };
            if found.contains_key(&index.to_string()) {
                continue;
            }
            let Some(outcome) = self.wait_verified(index).await else {
                self.report_cancelled().await?;
                if end == End::Sync {
                    self.ready_after_error().await?;
                }
                return Ok(Then::Reported);
            };
            found.insert(index.to_string(), told(&outcome));
        }
        self.send_verified(&Value::Object(found), end);
        Ok(Then::Run)
    }

    /// Asks upstream which index a name means.
    async fn verify_target(
        &mut self,
        name: &VerifiedName,
        bind: Option<&BindBody<'_>>,
        end: End,
    ) -> Result<Target, SessionError> {
        let (sql, value) = match (name, bind) {
            // As it is written: upstream knows what that means under its settings.
            (VerifiedName::Literal(literal), _) => (TARGET.replace("$1", literal), None),
            (VerifiedName::Parameter(number), Some(bind)) => match bind.value(*number) {
                // A text is the same in both formats.
                Some((_, value)) => (TARGET.to_owned(), Some(value)),
                None => return Ok(Target::None),
            },
            (VerifiedName::Parameter(_), None) => return Ok(Target::None),
        };
        let own = self.rewrites.next_own();
        let out = &mut self.upstream.outbox;
        messages::parse(out, &own.name, sql.as_bytes(), &[]);
        messages::bind_text(out, PORTAL, &own.name, value.as_slice());
        messages::execute(out, PORTAL, 0);
        messages::close(out, b'P', PORTAL);
        messages::close(out, b'S', &own.name);
        let replies = self.exchange(end, 5).await?;
        if replies.skipped {
            return Ok(Target::Reported);
        }
        if let Some(error) = &replies.error {
            // The statement would have failed in the same way: the function is not there, or may not be called.
            self.client.outbox.extend_from_slice(error.bytes());
            match &replies.ready {
                Some(ready) => self.client.outbox.extend_from_slice(ready.bytes()),
                None => self.pending.skip_to_sync(),
            }
            return Ok(Target::Reported);
        }
        let row = replies.row_bodies().next().and_then(messages::row_values);
        let id = row.as_deref().and_then(|values| match values {
            [Some(id)] => std::str::from_utf8(id).ok()?.parse().ok(),
            _ => None,
        });
        Ok(id.map_or(Target::None, |id| Target::Index(IndexId(id))))
    }

    /// Waits until the index is compared with its table; `None` when the client no longer wants to know.
    async fn wait_verified(&mut self, index: IndexId) -> Option<Result<Verification, VerifyError>> {
        let (answer, verified) = oneshot::channel();
        if self
            .shared
            .context
            .verify
            .try_send((index, answer))
            .is_err()
        {
            return Some(Err(VerifyError::Busy));
        }
        let mut registration = self.registration.take();
        let cancelled = async {
            match &mut registration {
                Some(registration) => registration.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            verified = verified => {
                let stopped = |_| VerifyError::Failed("Rektor is stopping".to_owned());
                Some(verified.map_err(stopped).and_then(|verified| verified))
            }
            () = cancelled => None,
        };
        self.registration = registration;
        outcome
    }

    /// Sends the setting that the function reads; upstream's replies are swallowed.
    fn send_verified(&mut self, found: &Value, end: End) {
        let own = self.rewrites.next_own();
        let out = &mut self.upstream.outbox;
        messages::parse(out, &own.name, SET.as_bytes(), &[]);
        messages::bind_text(out, PORTAL, &own.name, &[found.to_string().as_bytes()]);
        messages::execute(out, PORTAL, 0);
        messages::close(out, b'P', PORTAL);
        messages::close(out, b'S', &own.name);
        let completion = Completion::default();
        for kind in [
            Kind::Parse(Installs::Nothing),
            Kind::Bind,
            Kind::Execute { completion },
            Kind::Close,
            Kind::Close,
        ] {
            self.pending.sent(kind, Owner::Rektor);
        }
        if end == End::Sync {
            messages::sync(&mut self.upstream.outbox);
            self.pending.sent(Kind::Sync, Owner::Rektor);
        }
    }
}

/// What the function is told.
fn told(outcome: &Result<Verification, VerifyError>) -> Value {
    match outcome {
        Ok(found) => json!({
            "rows_table": found.rows_table,
            "rows_index": found.rows_index,
            "left_out": found.left_out,
            "missing": found.missing,
            "extra": found.extra,
            "differing": found.differing,
            "unsettled": found.unsettled,
            "lsn": found.lsn.to_string(),
            "recall": found.recall,
            "seconds": found.took.as_secs_f64(),
        }),
        Err(error) => json!({
            "sqlstate": match error {
                VerifyError::NotComplete(why) if why.starts_with(OUT_OF_MEMORY) => "53200",
                VerifyError::NotComplete(_) | VerifyError::Failed(_) => "55000",
                VerifyError::Busy => "55006",
            },
            "message": error.to_string(),
        }),
    }
}
