//! A client's frame → relayed, held back, or answered. Notes what each relayed statement may change.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::SessionError;
use super::exchange::End;
use super::explain::Explain;
use super::frame::Frame;
use super::knn::{Claim, knn_query};
use super::messages::{self, BindBody, Body, ParseBody};
use super::pending::{Completion, Installs, Kind, Owner};
use super::prepared::{Meaning, Portal, Prepared};
use super::relay::Session;
use super::verify::Then;
use crate::query::{Effect, RelayReason};

/// The client's Sync, as it comes.
const SYNC: &[u8] = b"S\0\0\0\x04";

/// What running one of two statements may change.
const EITHER: Effect = Effect {
    discards_prepared: false,
    prepared: false,
    ..Effect::UNKNOWN
};

/// A Bind of a k-NN statement that waits for its Execute.
#[derive(Debug)]
pub(super) struct Held {
    prepared: Arc<Prepared>,
    portal: Bytes,
    bind: Frame,
    describe: Option<Frame>,
}

/// Whether executions of a statement are held back, to be answered.
fn is_answered(prepared: &Prepared) -> bool {
    knn_query(prepared).is_some() || Explain::of(&prepared.analysis).is_some()
}

impl Session {
    /// Deals with a whole frame from the client.
    pub(super) async fn frame_from_client(&mut self, frame: Frame) -> Result<(), SessionError> {
        match frame.tag() {
            b'D' if self.is_describe_of_held(&frame) => {
                if let Some(held) = &mut self.held {
                    held.describe = Some(frame);
                }
                return Ok(());
            }
            b'E' => return self.execute(frame).await,
            _ => self.release(RelayReason::Portal),
        }
        match frame.tag() {
            b'Q' => return self.simple_query(frame).await,
            b'P' => self.parse(&frame).await?,
            b'B' => self.bind(frame).await?,
            b'D' => {
                let kind = match frame.body().first() {
                    Some(b'S') => Kind::DescribeStatement,
                    Some(_) | None => Kind::DescribePortal,
                };
                self.forward(&frame, Some(kind));
            }
            b'C' => self.close(&frame),
            b'S' => {
                self.forward(&frame, Some(Kind::Sync));
                self.executed = false;
            }
            b'F' => {
                self.statement_relayed(Effect::UNKNOWN);
                self.forward(&frame, Some(Kind::FunctionCall));
            }
            b'c' | b'f' => {
                self.pending.copy_ended();
                self.forward(&frame, None);
            }
            b'H' | b'X' => self.forward(&frame, None),
            _ => {
                self.go_blind(); // upstream says that it does not know it
                self.forward(&frame, None);
            }
        }
        Ok(())
    }

    /// What relaying a statement means for later ones.
    pub(super) fn statement_relayed(&mut self, effect: Effect) {
        if effect.transaction.is_none() {
            self.facts.pin(|| self.shared.context.view.borrow().clone());
        }
        self.facts.note(effect);
        if effect.discards_prepared {
            self.book.clear_statements();
            self.rewrites.forget();
            self.lookup = None;
        }
    }

    async fn parse(&mut self, frame: &Frame) -> Result<(), SessionError> {
        let Some(parse) = ParseBody::read(frame.body()) else {
            self.forward(frame, Some(Kind::Parse(Installs::Nothing))); // upstream says what is wrong with it
            return Ok(());
        };
        let name = Bytes::copy_from_slice(parse.name);
        let (meaning, replaced) = self.meaning(&parse).await?;
        let known = !name.is_empty() && self.book.statement(&name).is_some();
        let installs = if known {
            // Until upstream has said whether it takes the old one's place, the name may mean either.
            self.book
                .set_statement(name.clone(), Some(Meaning::Plain(EITHER)));
            Installs::OnSuccess(name, meaning)
        } else {
            self.book.set_statement(name.clone(), Some(meaning));
            Installs::Provisional(name)
        };
        match replaced {
            Some(sql) => {
                messages::parse(
                    &mut self.upstream.outbox,
                    parse.name,
                    sql.as_bytes(),
                    &parse.types(),
                );
                self.pending.sent(Kind::Parse(installs), Owner::Client);
            }
            None => self.forward(frame, Some(Kind::Parse(installs))),
        }
        Ok(())
    }

    /// What a statement means, and the text that takes its place upstream.
    async fn meaning(
        &mut self,
        parse: &ParseBody<'_>,
    ) -> Result<(Meaning, Option<String>), SessionError> {
        let analysis = match self.shared.analyses.of(parse.sql) {
            Ok(analysis) => analysis,
            Err(effect) => return Ok((Meaning::Plain(effect), None)),
        };
        if analysis.interest.ddl {
            self.look_for_indexes(&analysis).await?;
        }
        let serial = self.rewrites.next_serial();
        let (tag, replaced) = match self.own_ddl(&analysis) {
            Some((tag, call)) => (Some(tag), Some(call)),
            None => (None, None),
        };
        let prepared = Prepared {
            analysis,
            types: parse.types(),
            tag,
            serial,
        };
        Ok((Meaning::Analysed(Arc::new(prepared)), replaced))
    }

    async fn bind(&mut self, frame: Frame) -> Result<(), SessionError> {
        let mut body = Body(frame.body());
        let (Some(portal), Some(statement)) = (body.string(), body.string()) else {
            self.forward(&frame, Some(Kind::Bind));
            return Ok(());
        };
        let meaning = self.book.statement(statement).cloned();
        if let Some(Meaning::Analysed(prepared)) = &meaning {
            if is_answered(prepared) && BindBody::read(frame.body()).is_some() {
                self.held = Some(Held {
                    prepared: Arc::clone(prepared),
                    portal: Bytes::copy_from_slice(portal),
                    bind: frame,
                    describe: None,
                });
                return Ok(());
            }
            if prepared.analysis.interest.verify
                && let Some(bind) = BindBody::read(frame.body())
                && Box::pin(self.verify_bound(prepared, &bind)).await? == Then::Reported
            {
                return Ok(()); // upstream skips what comes before the next Sync
            }
            if prepared.analysis.interest.stat {
                self.send_stat(End::Flush);
            }
        }
        let portal = portal.to_vec();
        self.book.set_portal(&portal, meaning.map(Portal::Relayed));
        self.forward(&frame, Some(Kind::Bind));
        Ok(())
    }

    fn is_describe_of_held(&self, frame: &Frame) -> bool {
        self.held.as_ref().is_some_and(|held| {
            let mut body = Body(frame.body());
            held.describe.is_none()
                && body.byte() == Some(b'P')
                && body.string() == Some(&held.portal)
        })
    }

    /// Relays a Bind that was held back: what follows is not its Execute.
    pub(super) fn release(&mut self, reason: RelayReason) {
        let Some(held) = self.held.take() else { return };
        self.shared.context.counters.relayed(&reason.to_string());
        self.forward(&held.bind, Some(Kind::Bind));
        self.book.set_portal(
            &held.portal,
            Some(Portal::Relayed(Meaning::Analysed(held.prepared))),
        );
        if let Some(describe) = &held.describe {
            self.forward(describe, Some(Kind::DescribePortal));
        }
        self.executed = true;
    }

    async fn execute(&mut self, frame: Frame) -> Result<(), SessionError> {
        let mut body = Body(frame.body());
        let (Some(portal), Some(max_rows)) = (body.string(), body.i32()) else {
            self.release(RelayReason::Portal);
            self.forward(
                &frame,
                Some(Kind::Execute {
                    completion: Completion::default(),
                }),
            );
            return Ok(());
        };
        let portal = Bytes::copy_from_slice(portal);
        let max_rows = usize::try_from(max_rows).unwrap_or(0);
        if self.held.as_ref().is_some_and(|held| held.portal == portal)
            && let Some(held) = self.held.take()
        {
            let sync = self.client.inbox.starts_with(SYNC);
            if sync {
                let _ = self.client.inbox.split_to(SYNC.len());
            }
            let claim = Claim {
                prepared: held.prepared,
                portal: held.portal,
                bind: held.bind,
                describe: held.describe,
                execute: frame,
                max_rows,
                sync,
            };
            return Box::pin(self.answer(claim)).await;
        }
        self.release(RelayReason::Portal);
        let (effect, completion) = match self.book.portal(&portal) {
            Some(Portal::Relayed(meaning)) => {
                let completion = Completion {
                    tag: meaning.tag(),
                    rows: meaning.explained(&self.shared.context.view.borrow()),
                };
                let reason = meaning.not_claimed();
                let effect = meaning.effect();
                let gone = meaning.deallocates();
                gone.iter().for_each(|gone| self.book.deallocate(gone));
                if let Some(reason) = reason {
                    self.shared.context.counters.relayed(&reason.to_string());
                }
                (effect, completion)
            }
            Some(Portal::Held(_)) => return self.fetch_held(&frame, &portal, max_rows).await,
            None => (Effect::UNKNOWN, Completion::default()),
        };
        self.statement_relayed(effect);
        self.forward(&frame, Some(Kind::Execute { completion }));
        self.executed = true;
        Ok(())
    }

    /// Serves more rows of an answer that is held, with Postgres's tags. Upstream's own portal is at its end and gives none;
    /// but whether it can still be fetched, after an error or ROLLBACK TO, is Postgres's to say.
    async fn fetch_held(
        &mut self,
        frame: &Frame,
        portal: &[u8],
        max_rows: usize,
    ) -> Result<(), SessionError> {
        self.settle().await?;
        if self.pending.is_skipping() {
            return Ok(());
        }
        self.upstream.outbox.extend_from_slice(frame.bytes());
        let replies = self.exchange(End::Flush, 1).await?;
        self.executed = true;
        if let Some(error) = &replies.error {
            self.client.outbox.extend_from_slice(error.bytes());
            self.pending.skip_to_sync();
            return Ok(());
        }
        let held = self.book.portal(portal).filter(|_| replies.rows == 0);
        let Some(Portal::Held(rows)) = held else {
            // Another one of its name, as DECLARE makes them.
            let frames = replies.frames.iter();
            frames.for_each(|frame| self.client.outbox.extend_from_slice(frame.bytes()));
            return Ok(());
        };
        let most = if max_rows == 0 { usize::MAX } else { max_rows };
        let mut given = 0;
        while given < most
            && let Some(row) = rows.pop_front()
        {
            self.client.outbox.extend_from_slice(&row);
            given += 1;
        }
        if given == most {
            messages::portal_suspended(&mut self.client.outbox);
        } else {
            messages::command_complete(
                &mut self.client.outbox,
                format!("SELECT {given}").as_bytes(),
            );
        }
        Ok(())
    }

    fn close(&mut self, frame: &Frame) {
        let mut body = Body(frame.body());
        match (body.byte(), body.string()) {
            (Some(b'S'), Some(name)) => self.book.remove_statement(name),
            (Some(b'P'), Some(name)) => self.book.remove_portal(name),
            _ => {}
        }
        self.forward(frame, Some(Kind::Close));
    }

    /// A relayed simple query, with the effects of its statements.
    pub(super) fn relay_query(&mut self, frame: &Frame, effects: impl IntoIterator<Item = Effect>) {
        for effect in effects {
            self.statement_relayed(effect);
        }
        self.book.remove_statement(b"");
        self.book.remove_portal(b"");
        self.forward(
            frame,
            Some(Kind::Query {
                completions: VecDeque::new(),
            }),
        );
        self.executed = false;
    }
}
