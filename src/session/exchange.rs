//! Rektor's own messages to upstream and what comes back, while the client waits: frames are held until someone decides about
//! them. What belongs to nobody's statement (NOTIFY, ParameterStatus) and what earlier messages are owed passes at once.

use super::SessionError;
use super::frame::{self, Frame, MAX_FRAME};
use super::messages::{self, error_field};
use super::relay::{Session, Verdict};

/// Bytes of answers that are held back at most: a session's share of memory. A larger answer is asked for again, and streamed.
pub(super) const MAX_HELD: usize = 16 * 1024 * 1024;

/// What ends a batch of own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Flush: the transaction stays as it is.
    Flush,
    /// Sync, in the client's place: outside a block, the transaction ends.
    Sync,
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// All but rows of a discarded answer, in order; the error and ReadyForQuery are apart.
    pub(super) frames: Vec<Frame>,
    /// Rows among them.
    pub(super) rows: usize,
    /// Bytes of them.
    pub(super) held: usize,
    /// The answer was larger than may be held: rows are missing.
    pub(super) overflow: bool,
    /// The error that ended it.
    pub(super) error: Option<Frame>,
    /// ReadyForQuery.
    pub(super) ready: Option<Frame>,
    /// An earlier message of the client's failed, and upstream skips everything up to the client's Sync.
    pub(super) skipped: bool,
}

impl Replies {
    /// The SQLSTATE of the error.
    pub(super) fn sqlstate(&self) -> Option<&[u8]> {
        messages::sqlstate(self.error.as_ref()?.body())
    }

    /// The bodies of the rows.
    pub(super) fn row_bodies(&self) -> impl Iterator<Item = &[u8]> {
        let rows = self.frames.iter().filter(|frame| frame.tag() == b'D');
        rows.map(Frame::body)
    }
}

impl Session {
    /// Sends what was put into the outbox, and takes the replies up to the end. `completions` of the messages sent are
    /// answered by one frame each (ParseComplete, BindComplete, CloseComplete, CommandComplete, …).
    pub(super) async fn exchange(
        &mut self,
        end: End,
        completions: usize,
    ) -> Result<Replies, SessionError> {
        match end {
            End::Flush => messages::flush(&mut self.upstream.outbox),
            End::Sync => messages::sync(&mut self.upstream.outbox),
        }
        let mut replies = Replies::default();
        let mut open = completions;
        loop {
            let Some(frame) = self.next_reply(&mut replies).await? else {
                replies.skipped = true;
                return Ok(replies);
            };
            match frame.tag() {
                b'E' => {
                    replies.error = Some(frame);
                    if end == End::Flush {
                        return Ok(replies);
                    }
                }
                b'Z' => {
                    self.note_ready(frame.body());
                    self.executed = false;
                    replies.ready = Some(frame);
                    return Ok(replies);
                }
                tag => {
                    if is_completion(tag) {
                        open = open.saturating_sub(1);
                    }
                    replies.rows += usize::from(tag == b'D');
                    replies.held += frame.bytes().len();
                    replies.overflow |= replies.held > MAX_HELD;
                    if !replies.overflow || tag != b'D' {
                        replies.frames.push(frame);
                    }
                    if open == 0 && end == End::Flush {
                        return Ok(replies);
                    }
                }
            }
        }
    }

    /// The next frame that answers Rektor's own messages; `None` when they are skipped because the client's failed.
    async fn next_reply(&mut self, replies: &mut Replies) -> Result<Option<Frame>, SessionError> {
        loop {
            self.finish_passing();
            let whole = match frame::header(&self.upstream.inbox, MAX_FRAME)? {
                Some(header) if header.tag == b'D' && header.total > MAX_HELD => {
                    replies.overflow = true;
                    self.drop_next(header.total);
                    continue;
                }
                Some(_) if self.is_passing() => None,
                Some(_) => frame::take(&mut self.upstream.inbox, MAX_FRAME)?,
                None => None,
            };
            let Some(frame) = whole else {
                if self.upstream.ended {
                    return Err(SessionError::UpstreamClosed);
                }
                self.step().await?;
                continue;
            };
            match frame.tag() {
                b'A' | b'S' => self.pass(&frame),
                b'E' if is_fatal(frame.body()) => self.pass(&frame),
                _ if !self.pending.is_empty() => {
                    self.pass(&frame);
                    if self.pending.is_skipping() {
                        return Ok(None);
                    }
                }
                _ => return Ok(Some(frame)),
            }
        }
    }

    /// Deals with a frame as if no statement of Rektor's were under way.
    fn pass(&mut self, frame: &Frame) {
        match self.frame_from_upstream(frame.tag(), frame.body()) {
            Verdict::Relay => self.client.outbox.extend_from_slice(frame.bytes()),
            Verdict::Drop => {}
            Verdict::Replace(frames) => self.client.outbox.extend_from_slice(&frames),
        }
    }

    /// Waits until everything that was sent is answered, the answers relayed.
    pub(super) async fn settle(&mut self) -> Result<(), SessionError> {
        if self.pending.needs_flush() {
            messages::flush(&mut self.upstream.outbox);
        }
        loop {
            self.take_from_upstream();
            if self.pending.is_empty() || !self.is_following() {
                return Ok(());
            }
            if self.upstream.ended {
                return Err(SessionError::UpstreamClosed);
            }
            self.step().await?;
        }
    }

    /// Ends the transaction that a failed attempt left, so that the client's own statement can run in its place.
    pub(super) async fn recover(&mut self) -> Result<(), SessionError> {
        self.exchange(End::Sync, 0).await?;
        Ok(())
    }
}

/// Whether this reply completes a message.
fn is_completion(tag: u8) -> bool {
    matches!(tag, b'1' | b'2' | b'3' | b'C' | b'I' | b's' | b'T' | b'n')
}

/// Whether the connection ends with this error.
fn is_fatal(body: &[u8]) -> bool {
    matches!(error_field(body, b'V'), Some(b"FATAL" | b"PANIC"))
}
