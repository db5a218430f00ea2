//! Which replies upstream still owes, in order, and to whom: the client's messages and Rektor's own share one stream.
//! Follows the protocol's rules for errors (everything is skipped up to the next Sync) and for COPY IN (a Sync is ignored).

use std::collections::VecDeque;

use bytes::Bytes;

use super::prepared::Meaning;

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The client: replies are relayed.
    Client,
    /// Rektor: replies are swallowed.
    Rektor,
}

/// A sent message that has a reply, with what is to be done at its reply.
#[derive(Debug)]
pub(super) enum Kind {
    /// → `1`
    Parse(Installs),
    /// → `2`
    Bind,
    /// → `3`
    Close,
    /// → `t` and then `T` or `n`
    DescribeStatement,
    /// → `T` or `n`
    DescribePortal,
    /// → rows or COPY, then `C`, `I` or `s`
    Execute {
        /// What is changed about its end.
        completion: Completion,
    },
    /// → `Z`
    Sync,
    /// → anything, then `Z`
    Query {
        /// What is changed about the end of each statement.
        completions: VecDeque<Completion>,
    },
    /// → `V`, `Z`
    FunctionCall,
}

/// What the client is told at the end of a statement beside what upstream tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Completion {
    /// The command tag that the client expects instead of upstream's.
    pub(super) tag: Option<&'static str>,
    /// Frames before it.
    pub(super) rows: Option<Bytes>,
}

/// What a client's Parse does to the statements that Rektor knows.
#[derive(Debug, Default)]
pub(super) enum Installs {
    /// Nothing that matters.
    #[default]
    Nothing,
    /// The statement of that name is known from now on; it is not if Parse fails.
    Provisional(Bytes),
    /// A statement of that name may exist: this one takes its place only if Parse succeeds.
    OnSuccess(Bytes, Meaning),
}

/// A message whose reply is owed.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) kind: Kind,
    pub(super) owner: Owner,
}

/// What a reply means.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// Whose message it answers; `None` is nobody's (asynchronous).
    pub(super) owner: Option<Owner>,
    /// The message it completes.
    pub(super) done: Option<Expected>,
    /// Messages that upstream skips because of this error, the failed one first.
    pub(super) skipped: Vec<Expected>,
}

/// A reply that answers nothing that was sent: the stream can no longer be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("upstream sent a reply that nothing asked for")]
pub(super) struct Unexpected;

/// The replies owed.
#[derive(Debug, Default)]
pub(super) struct Pending {
    queue: VecDeque<Expected>,
    /// Upstream reported an error and skips what comes before the next Sync.
    skipping: bool,
    /// Upstream takes COPY data and ignores Sync.
    copying_in: bool,
}

impl Pending {
    /// Notes a message that was sent, unless upstream will ignore it.
    pub(super) fn sent(&mut self, kind: Kind, owner: Owner) {
        if matches!(kind, Kind::Sync) {
            if self.copying_in {
                return;
            }
            self.skipping = false;
        }
        if !self.skipping {
            self.queue.push_back(Expected { kind, owner });
        }
    }

    /// The client ended its COPY data.
    pub(super) fn copy_ended(&mut self) {
        self.copying_in = false;
    }

    /// Nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Upstream ignores everything before the next Sync.
    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Nothing is owed that can change a setting, a row or the transaction.
    pub(super) fn is_harmless(&self) -> bool {
        self.queue.iter().all(|expected| match expected.kind {
            Kind::Parse(_) | Kind::DescribeStatement => true,
            Kind::Close => expected.owner == Owner::Rektor,
            Kind::Bind
            | Kind::DescribePortal
            | Kind::Execute { .. }
            | Kind::Sync
            | Kind::Query { .. }
            | Kind::FunctionCall => false,
        })
    }

    /// An error was reported in upstream's place: what follows is skipped, as upstream does.
    pub(super) fn skip_to_sync(&mut self) {
        self.skipping = true;
    }

    /// Whether upstream needs a Flush before it sends all that is owed.
    pub(super) fn needs_flush(&self) -> bool {
        self.queue.back().is_some_and(|last| match last.kind {
            Kind::Parse(_)
            | Kind::Bind
            | Kind::Close
            | Kind::DescribeStatement
            | Kind::DescribePortal
            | Kind::Execute { .. } => true,
            Kind::Sync | Kind::Query { .. } | Kind::FunctionCall => false,
        })
    }

    /// The message that upstream is answering.
    pub(super) fn head(&mut self) -> Option<&mut Expected> {
        self.queue.front_mut()
    }

    /// The message that was sent last.
    pub(super) fn last(&mut self) -> Option<&mut Expected> {
        self.queue.back_mut()
    }

    /// Takes note of a reply.
    pub(super) fn reply(&mut self, tag: u8) -> Result<Reply, Unexpected> {
        let Some(head) = self.queue.front() else {
            return match tag {
                b'N' | b'A' | b'S' | b'E' => Ok(Reply::default()),
                _ => Err(Unexpected),
            };
        };
        let owner = Some(head.owner);
        let done = match (tag, &head.kind) {
            (b'A' | b'S', _) => return Ok(Reply::default()),
            (b'N', _) => false,
            (b'E', kind) => return Ok(self.error(owner, ends_at_ready(kind))),
            (b'1', Kind::Parse(_))
            | (b'2', Kind::Bind)
            | (b'3', Kind::Close)
            | (b'T' | b'n', Kind::DescribeStatement | Kind::DescribePortal)
            | (b'C' | b'I' | b's', Kind::Execute { .. })
            | (b'Z', Kind::Sync | Kind::Query { .. } | Kind::FunctionCall) => true,
            (b't', Kind::DescribeStatement)
            | (b'D' | b'H' | b'd' | b'c', Kind::Execute { .. } | Kind::Query { .. })
            | (b'T' | b'C' | b'I', Kind::Query { .. })
            | (b'V', Kind::FunctionCall) => false,
            (b'G', Kind::Execute { .. } | Kind::Query { .. }) => {
                self.copying_in = true;
                while matches!(self.queue.get(1), Some(next) if matches!(next.kind, Kind::Sync)) {
                    self.queue.remove(1); // it was read as part of the COPY, and ignored
                }
                false
            }
            _ => return Err(Unexpected),
        };
        if matches!(tag, b'C' | b'Z') {
            self.copying_in = false;
        }
        Ok(Reply {
            owner,
            done: done.then(|| self.queue.pop_front()).flatten(),
            skipped: Vec::new(),
        })
    }

    fn error(&mut self, owner: Option<Owner>, ready_follows: bool) -> Reply {
        self.copying_in = false;
        let mut skipped = Vec::new();
        if !ready_follows {
            while let Some(next) = self
                .queue
                .pop_front_if(|next| !matches!(next.kind, Kind::Sync))
            {
                skipped.push(next);
            }
            self.skipping = self.queue.is_empty();
        }
        Reply {
            owner,
            done: None,
            skipped,
        }
    }
}

/// Whether ReadyForQuery follows an error in this message without a further Sync.
fn ends_at_ready(kind: &Kind) -> bool {
    match kind {
        Kind::Sync | Kind::Query { .. } | Kind::FunctionCall => true,
        Kind::Parse(_)
        | Kind::Bind
        | Kind::Close
        | Kind::DescribeStatement
        | Kind::DescribePortal
        | Kind::Execute { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends messages (`P B C s p E S Q F`; lower-case `s`, `p` are Describe), then checks what each reply completes.
    fn check(script: &[(&str, &str)], expected: &str) {
        let mut pending = Pending::default();
        let mut log = String::new();
        for (sent, replies) in script {
            for message in sent.chars() {
                let kind = match message {
                    'P' => Kind::Parse(Installs::Nothing),
                    'B' => Kind::Bind,
                    'C' => Kind::Close,
                    's' => Kind::DescribeStatement,
                    'p' => Kind::DescribePortal,
                    'E' => Kind::Execute {
                        completion: Completion::default(),
                    },
                    'S' => Kind::Sync,
                    'Q' => Kind::Query {
                        completions: VecDeque::new(),
                    },
                    'F' => Kind::FunctionCall,
                    'c' => {
                        pending.copy_ended();
                        continue;
                    }
                    other => unreachable!("{other}"),
                };
                pending.sent(kind, Owner::Client);
            }
            for tag in replies.bytes() {
                match pending.reply(tag) {
                    Ok(reply) => {
                        if reply.done.is_some() {
                            log.push(char::from(tag));
                        }
                        if !reply.skipped.is_empty() {
                            log.push_str(&format!("({})", reply.skipped.len()));
                        }
                    }
                    Err(Unexpected) => log.push('!'),
                }
            }
        }
        log.push_str(if pending.is_empty() {
            " empty"
        } else {
            " owed"
        });
        assert_eq!(log, expected, "{script:?}");
    }

    #[test]
    fn replies_complete_messages_in_order() {
        check(&[("PsBpES", "1tT2TDDCZ")], "1T2TCZ empty");
        check(&[("PBpES", "1N2nASCZ")], "12nCZ empty");
        check(&[("Q", "TDDCCIZ")], "Z empty");
        check(&[("F", "VZ"), ("E", "DsN")], "Zs empty");
        check(&[("BE", "2I"), ("CS", "3Z")], "2I3Z empty");
        check(&[("", "NASE")], " empty");
    }

    #[test]
    fn an_error_skips_to_the_next_sync() {
        check(&[("PBESPBES", "E")], "(3) owed");
        check(&[("PBESPBES", "EZ12CZ")], "(3)Z12CZ empty");
        check(&[("PB", "1E"), ("EQB", ""), ("S", "Z")], "1(1)Z empty");
        check(&[("QQ", "EZCZ")], "ZZ empty");
        check(&[("ES", "CEZ")], "CZ empty"); // a deferred constraint fails at Sync
    }

    #[test]
    fn copy_in_swallows_syncs() {
        check(&[("PBES", "12G"), ("cS", "CZ")], "12CZ empty");
        check(&[("Q", "G"), ("c", "CZ")], "Z empty");
        check(&[("BES", "2G"), ("S", ""), ("cS", "EZ")], "2(1)Z empty");
        check(&[("BES", "2HdddcCZ")], "2CZ empty");
    }

    #[test]
    fn what_nothing_asked_for_is_noticed() {
        for (sent, reply) in [("P", "2"), ("", "Z"), ("S", "C"), ("B", "D"), ("", "1")] {
            let mut pending = Pending::default();
            check(
                &[(sent, reply)],
                &format!("!{}", if sent.is_empty() { " empty" } else { " owed" }),
            );
            assert!(pending.reply(b'1').is_err());
        }
    }
}
