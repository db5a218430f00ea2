//! The session loop: frames of both directions, relayed as they are unless a statement is Rektor's to answer.
//! Follows who is owed which reply; bounded by [`HIGH_WATER`] in each direction.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::watch;

use super::cancel::Registration;
use super::dispatch::Held;
use super::facts::Facts;
use super::frame::{self, Frame, HEADER, Header, MAX_FRAME};
use super::link::{HIGH_WATER, Link};
use super::messages::{self, Report};
use super::pending::{Completion, Expected, Installs, Kind, Owner, Pending};
use super::prepared::Book;
use super::rewrite::{Own, Rewrites};
use super::startup::{Login, Scope};
use super::{SessionError, Shared};
use crate::query::{Effect, RelayReason};

/// A frame beyond this is relayed in pieces as it arrives, and not looked into.
const MAX_INSPECTED: usize = 1024 * 1024;

/// Bytes of the client's that wait while a statement is being answered: a whole frame that is looked into, and more.
const MAX_INBOX: usize = MAX_INSPECTED + HIGH_WATER;

/// The state of the transaction, as the last ReadyForQuery told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transaction {
    /// Outside a transaction block.
    Idle,
    /// In a transaction block.
    Open,
    /// In a transaction block that failed.
    Failed,
}

/// Whether frames are still looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They are.
    Following,
    /// Bytes are relayed, whatever they are.
    Blind,
}

/// A client's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Link,
    pub(super) upstream: Link,
    pub(super) pending: Pending,
    pub(super) transaction: Transaction,
    mode: Mode,
    /// Bytes of a frame from the client that are still to be relayed.
    passing_up: usize,
    /// Bytes of a frame from upstream that are still to be relayed, or dropped.
    passing_down: Passing,
    pub(super) registration: Option<Registration>,
    pub(super) book: Book,
    pub(super) facts: Facts,
    pub(super) rewrites: Rewrites,
    /// The look-up, once upstream has parsed it.
    pub(super) lookup: Option<Own>,
    /// Indexes that this session created, or renamed to.
    pub(super) created: HashSet<String>,
    /// Own statements that are no longer used, to be closed.
    pub(super) retired: Vec<Bytes>,
    /// The last wait for the index was in vain.
    pub(super) lagged: bool,
    /// A Bind that waits for its Execute.
    pub(super) held: Option<Held>,
    /// Something was bound or executed since the last Sync: an error there would undo it.
    pub(super) executed: bool,
}

/// What is left of a frame from upstream whose beginning was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passing {
    Relay(usize),
    Drop(usize),
}

/// What is done with a frame from upstream.
#[derive(Debug)]
pub(super) enum Verdict {
    Relay,
    Drop,
    /// These frames are sent instead.
    Replace(BytesMut),
}

impl Session {
    pub(super) fn new(client: Link, login: Login, shared: Arc<Shared>) -> Self {
        Self {
            shared,
            client,
            upstream: login.upstream,
            pending: Pending::default(),
            transaction: Transaction::Idle,
            mode: match login.scope {
                Scope::Indexed => Mode::Following,
                Scope::Foreign => Mode::Blind,
            },
            passing_up: 0,
            passing_down: Passing::Relay(0),
            registration: login.registration,
            book: Book::default(),
            facts: Facts::default(),
            rewrites: Rewrites::default(),
            lookup: None,
            created: HashSet::new(),
            retired: Vec::new(),
            lagged: false,
            held: None,
            executed: false,
        }
    }

    /// Relays until one side ends, or `shutdown` turns true and nothing is under way.
    pub(super) async fn run(
        mut self,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), SessionError> {
        let mut stopping = false;
        while !self.is_over() {
            if stopping && self.pending.is_empty() {
                return self.terminate().await;
            }
            match self.take_from_client().await {
                Err(SessionError::UpstreamClosed) => break, // the client gets what upstream said last
                taken => taken?,
            }
            self.take_from_upstream(); // also what came while a statement was answered
            if self.client.ended && self.upstream.outbox.is_empty() {
                self.upstream.finish().await?;
            }
            tokio::select! {
                stepped = self.step() => stepped?,
                () = super::stopped(&mut shutdown), if !stopping => stopping = true,
            }
        }
        self.client.finish().await?;
        Ok(())
    }

    /// Ends the session as a server that shuts down does.
    async fn terminate(mut self) -> Result<(), SessionError> {
        messages::terminate(&mut self.upstream.outbox);
        let report = Report {
            severity: "FATAL",
            sqlstate: "57P01",
            message: "terminating connection due to administrator command",
            hint: None,
        };
        if self.mode == Mode::Following {
            messages::error(&mut self.client.outbox, report);
        }
        self.upstream.drain().await?;
        self.client.finish().await?;
        Ok(())
    }

    /// Frames are looked at.
    pub(super) fn is_following(&self) -> bool {
        self.mode == Mode::Following
    }

    fn is_over(&self) -> bool {
        self.upstream.ended && self.upstream.inbox.is_empty() && self.client.outbox.is_empty()
    }

    /// Writes what can be written and reads what there is room for; returns when something changed. Cancel-safe.
    pub(super) async fn step(&mut self) -> Result<(), SessionError> {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let work = poll_fn(|cx| {
            let full = (
                client.outbox.len() >= HIGH_WATER,
                upstream.outbox.len() >= HIGH_WATER,
            );
            for link in [&mut *client, &mut *upstream] {
                if let Poll::Ready(Err(error)) = link.poll_drain(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            let room = (
                client.outbox.len() < HIGH_WATER,
                upstream.outbox.len() < HIGH_WATER,
            );
            let mut changed = (full.0 && room.0) || (full.1 && room.1);
            let room = (room.0, room.1 && client.inbox.len() < MAX_INBOX);
            for (link, room) in [(&mut *upstream, room.0), (&mut *client, room.1)] {
                if room && !link.ended {
                    match link.poll_fill(cx) {
                        Poll::Ready(Ok(())) => changed = true,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {}
                    }
                }
            }
            if changed {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        });
        Ok(work.await?)
    }

    /// From here on bytes are relayed, whatever they are.
    pub(super) fn go_blind(&mut self) {
        self.mode = Mode::Blind;
    }

    /// Takes the client's frames, as far as they have arrived and upstream has room.
    async fn take_from_client(&mut self) -> Result<(), SessionError> {
        while self.upstream.outbox.len() < HIGH_WATER && !self.client.inbox.is_empty() {
            if self.mode == Mode::Blind {
                let all = self.client.inbox.len();
                move_bytes(&mut self.client.inbox, &mut self.upstream.outbox, all);
                break;
            }
            if self.passing_up > 0 {
                let piece = self.passing_up.min(self.client.inbox.len());
                self.passing_up -= piece;
                move_bytes(&mut self.client.inbox, &mut self.upstream.outbox, piece);
                continue;
            }
            match frame::header(&self.client.inbox, MAX_FRAME) {
                Err(_) => self.go_blind(), // upstream says what is wrong with it
                Ok(None) => break,
                Ok(Some(header)) if header.tag == b'd' || header.total > MAX_INSPECTED => {
                    self.large_from_client(header);
                }
                Ok(Some(_)) => match frame::take(&mut self.client.inbox, MAX_FRAME)? {
                    Some(frame) => self.frame_from_client(frame).await?,
                    None => break,
                },
            }
        }
        Ok(())
    }

    /// A frame that is relayed in pieces.
    fn large_from_client(&mut self, header: Header) {
        self.passing_up = header.total;
        if header.tag != b'd' {
            self.release(RelayReason::AnswerTooLarge);
            self.book = Book::default(); // the names in it are not looked for
            self.statement_relayed(Effect::UNKNOWN);
            self.executed = true;
        }
        let kind = match header.tag {
            b'P' => Kind::Parse(Installs::Nothing),
            b'B' => Kind::Bind,
            b'Q' => Kind::Query {
                completions: VecDeque::new(),
            },
            b'F' => Kind::FunctionCall,
            _ => return, // COPY data; anything else of this size ends the connection
        };
        self.pending.sent(kind, Owner::Client);
    }

    /// Relays a frame from the client and notes what upstream will answer.
    pub(super) fn forward(&mut self, frame: &Frame, kind: Option<Kind>) {
        self.upstream.outbox.extend_from_slice(frame.bytes());
        if let Some(kind) = kind {
            self.pending.sent(kind, Owner::Client);
        }
    }

    /// Takes upstream's frames, as far as they have arrived and the client has room.
    pub(super) fn take_from_upstream(&mut self) {
        let mut run = 0; // bytes at the start of the inbox that are relayed as they are
        while self.client.outbox.len() + run < HIGH_WATER {
            let rest = self.upstream.inbox.get(run..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            if self.mode == Mode::Blind {
                run += rest.len();
                break;
            }
            match self.passing_down {
                Passing::Relay(0) | Passing::Drop(0) => {}
                Passing::Relay(left) => {
                    let piece = left.min(rest.len());
                    run += piece;
                    self.passing_down = Passing::Relay(left - piece);
                    continue;
                }
                Passing::Drop(left) => {
                    self.relay_run(&mut run);
                    let piece = left.min(self.upstream.inbox.len());
                    self.upstream.inbox.advance(piece);
                    self.passing_down = Passing::Drop(left - piece);
                    continue;
                }
            }
            let header = match frame::header(rest, u32::MAX as usize) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(_) => {
                    self.go_blind();
                    continue;
                }
            };
            let body = match rest.get(HEADER..header.total) {
                _ if !is_looked_into(header) => Bytes::new(),
                Some(body) => Bytes::copy_from_slice(body),
                None => break,
            };
            match self.frame_from_upstream(header.tag, &body) {
                Verdict::Relay => self.passing_down = Passing::Relay(header.total),
                Verdict::Drop => self.passing_down = Passing::Drop(header.total),
                Verdict::Replace(frames) => {
                    self.relay_run(&mut run);
                    self.client.outbox.extend_from_slice(&frames);
                    self.passing_down = Passing::Drop(header.total);
                }
            }
        }
        self.relay_run(&mut run);
    }

    fn relay_run(&mut self, run: &mut usize) {
        move_bytes(&mut self.upstream.inbox, &mut self.client.outbox, *run);
        *run = 0;
    }

    /// Follows a frame from upstream that no k-NN statement is waiting for.
    pub(super) fn frame_from_upstream(&mut self, tag: u8, body: &[u8]) -> Verdict {
        let Ok(reply) = self.pending.reply(tag) else {
            tracing::warn!(tag = %char::from(tag), "a reply that nothing asked for: relaying blindly from here on");
            self.go_blind();
            return Verdict::Relay;
        };
        if tag == b'Z' {
            self.note_ready(body);
        }
        let own = tag == b'E' && self.is_own_command(reply.skipped.first());
        for skipped in reply.skipped {
            if let Kind::Parse(Installs::Provisional(name)) = skipped.kind {
                self.book.remove_statement(&name);
            }
        }
        if reply.owner == Some(Owner::Rektor) && tag != b'E' {
            return Verdict::Drop;
        }
        match (reply.done, tag) {
            (_, b'E') => {
                super::ddl::mended_error(body, own).map_or(Verdict::Relay, Verdict::Replace)
            }
            (
                Some(Expected {
                    kind: Kind::Parse(Installs::OnSuccess(name, meaning)),
                    ..
                }),
                _,
            ) => {
                self.book.set_statement(name, Some(meaning));
                Verdict::Relay
            }
            (
                Some(Expected {
                    kind: Kind::Execute { completion },
                    ..
                }),
                b'C',
            ) => complete(completion, body),
            (None, b'C') => match self.pending.head() {
                Some(Expected {
                    kind: Kind::Query { completions },
                    ..
                }) => complete(completions.pop_front().unwrap_or_default(), body),
                Some(_) | None => Verdict::Relay,
            },
            (Some(_) | None, _) => Verdict::Relay,
        }
    }

    /// Whether the message that failed carries out a command of Rektor's.
    fn is_own_command(&mut self, failed: Option<&Expected>) -> bool {
        let completion = match failed.or(self.pending.head().map(|head| &*head)) {
            Some(Expected {
                kind: Kind::Execute { completion },
                ..
            }) => Some(completion),
            Some(Expected {
                kind: Kind::Query { completions },
                ..
            }) => completions.front(),
            Some(_) | None => None,
        };
        completion.is_some_and(|completion| completion.tag.is_some())
    }

    pub(super) fn note_ready(&mut self, body: &[u8]) {
        self.transaction = match body.first() {
            Some(b'T') => Transaction::Open,
            Some(b'E') => Transaction::Failed,
            Some(_) | None => Transaction::Idle,
        };
        match (self.transaction, self.pending.is_empty()) {
            (Transaction::Idle, true) => {
                self.book.clear_portals();
                self.facts.transaction_ended(std::time::Instant::now);
            }
            (Transaction::Open, true) => self.facts.transaction_open(),
            (Transaction::Failed, _) => self.facts.transaction_failed(),
            (Transaction::Idle | Transaction::Open, false) => {}
        }
    }

    /// Relays the rest of a frame whose beginning was relayed.
    pub(super) fn finish_passing(&mut self) {
        let inbox = &mut self.upstream.inbox;
        let left = match self.passing_down {
            Passing::Relay(left) => {
                let piece = left.min(inbox.len());
                move_bytes(inbox, &mut self.client.outbox, piece);
                Passing::Relay(left - piece)
            }
            Passing::Drop(left) => {
                let piece = left.min(inbox.len());
                inbox.advance(piece);
                Passing::Drop(left - piece)
            }
        };
        self.passing_down = left;
    }

    /// Whether a frame from upstream is only partly dealt with.
    pub(super) fn is_passing(&self) -> bool {
        !matches!(self.passing_down, Passing::Relay(0) | Passing::Drop(0))
    }

    /// Drops the next frame from upstream, of this many bytes.
    pub(super) fn drop_next(&mut self, total: usize) {
        self.passing_down = Passing::Drop(total);
    }
}

/// CommandComplete as the client is told it.
fn complete(completion: Completion, body: &[u8]) -> Verdict {
    if completion.tag.is_none() && completion.rows.is_none() {
        return Verdict::Relay;
    }
    let mut frames = BytesMut::new();
    frames.extend_from_slice(&completion.rows.unwrap_or_default());
    let tag = body.strip_suffix(b"\0").unwrap_or(body);
    messages::command_complete(&mut frames, completion.tag.map_or(tag, str::as_bytes));
    Verdict::Replace(frames)
}

/// Whether a frame from upstream is dealt with whole. All of these are short.
fn is_looked_into(header: Header) -> bool {
    matches!(header.tag, b'Z' | b'C' | b'E') && header.total <= MAX_INSPECTED
}

/// Appends the first `length` bytes of `from` to `to`.
fn move_bytes(from: &mut BytesMut, to: &mut BytesMut, length: usize) {
    /// Below this a copy is cheaper than giving the buffer away and allocating another.
    const COPIED: usize = 4096;
    let bytes = from.split_to(length.min(from.len()));
    if length < COPIED {
        to.extend_from_slice(&bytes);
    } else {
        to.unsplit(bytes);
    }
}
