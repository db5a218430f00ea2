//! The upstream server: replication connection, slot, copies and catalogue reads → typed values and [`UpstreamError`].
//! Never interprets a row's values, and never knows of an index or a client.

pub mod backfill;
pub mod catalogue;
mod frames;
mod login;
pub mod rows;
pub mod slot;
pub mod sql;
pub mod walsender;

use std::io;

use postgres_protocol::message::backend::ErrorResponseBody;

use crate::wal::pgoutput::DecodeError;

/// An error that the server reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// SQLSTATE, five characters.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// More about it. May quote values: for the person who acts, not for logs.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.sqlstate)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

/// Why upstream did not do what was asked. No text holds a password.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The connection string asks for what cannot be done.
    #[error("{0}")]
    Config(String),
    /// No connection could be opened.
    #[error("cannot connect to upstream at {address}: {source}")]
    Connect {
        /// Host and port, or socket path.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The login cannot be completed from our side.
    #[error("cannot log in to upstream: {0}")]
    Authentication(String),
    /// The open connection failed.
    #[error("the connection to upstream failed: {0}")]
    Io(#[from] io::Error),
    /// Upstream ended the connection without an error, as it does when it shuts down.
    #[error("upstream closed the connection")]
    Closed,
    /// Upstream was silent for too long.
    #[error("upstream did not answer within {} seconds while {doing}", .limit.as_secs())]
    Timeout {
        /// What was waited for.
        doing: &'static str,
        /// How long.
        limit: std::time::Duration,
    },
    /// The server reported an error.
    #[error("upstream: {0}")]
    Server(Box<ServerError>),
    /// A statement failed before or beside the server's answer.
    #[error("a statement on upstream failed: {0}")]
    Statement(#[source] tokio_postgres::Error),
    /// Upstream sent what the protocol does not allow here.
    #[error("upstream does not follow the protocol: {0}")]
    Protocol(String),
    /// A message of the stream cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The server, the database or the slot is not as it must be, and what would mend it.
    #[error("{0}")]
    Unsuitable(String),
    /// Someone else uses what is needed.
    #[error("{0}")]
    Busy(String),
    /// The catalogue changed between two looks at it.
    #[error("{0}")]
    Changed(String),
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Connect again, after a pause that grows.
    Retry,
    /// Someone must act first: trying again gives the same.
    Fatal,
}

impl UpstreamError {
    /// Whether trying again can help.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Config(_) | Self::Authentication(_) | Self::Unsuitable(_) => Disposition::Fatal,
            Self::Server(error) => of_sqlstate(&error.sqlstate),
            // A message that cannot be decoded comes again; but a retry loses nothing and a mended server heals it.
            Self::Connect { .. }
            | Self::Io(_)
            | Self::Closed
            | Self::Timeout { .. }
            | Self::Statement(_)
            | Self::Protocol(_)
            | Self::Decode(_)
            | Self::Busy(_)
            | Self::Changed(_) => Disposition::Retry,
        }
    }

    /// The SQLSTATE, if the server reported one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.sqlstate),
            Self::Config(_)
            | Self::Connect { .. }
            | Self::Authentication(_)
            | Self::Io(_)
            | Self::Closed
            | Self::Timeout { .. }
            | Self::Statement(_)
            | Self::Protocol(_)
            | Self::Decode(_)
            | Self::Unsuitable(_)
            | Self::Busy(_)
            | Self::Changed(_) => None,
        }
    }
}

/// SQLSTATEs have an open set of values: what is not known to pass needs someone to act.
fn of_sqlstate(sqlstate: &str) -> Disposition {
    let passes = match sqlstate.get(..2) {
        // Connection, transaction rollback, resources, operator intervention, system error, internal error.
        Some("08" | "40" | "53" | "57" | "58" | "XX") => true,
        // 55006: the slot is still held by our previous walsender. 55P03: a lock was not available.
        Some("55") => matches!(sqlstate, "55006" | "55P03"),
        Some(_) | None => false,
    };
    if passes {
        Disposition::Retry
    } else {
        Disposition::Fatal
    }
}

impl From<tokio_postgres::Error> for UpstreamError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(reported) => Self::Server(Box::new(ServerError {
                sqlstate: reported.code().code().to_owned(),
                message: reported.message().to_owned(),
                detail: reported.detail().map(str::to_owned),
                hint: reported.hint().map(str::to_owned),
            })),
            None => Self::Statement(error),
        }
    }
}

impl From<&ErrorResponseBody> for UpstreamError {
    fn from(body: &ErrorResponseBody) -> Self {
        match frames::report(body.fields()) {
            Ok(error) => Self::Server(Box::new(error)),
            Err(error) => Self::Protocol(format!("malformed error message: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &str) -> UpstreamError {
        UpstreamError::Server(Box::new(ServerError {
            sqlstate: sqlstate.to_owned(),
            message: "m".to_owned(),
            detail: Some("secret row".to_owned()),
            hint: Some("h".to_owned()),
        }))
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        for sqlstate in [
            "57P01", "57P03", "53300", "08006", "55006", "58030", "40001",
        ] {
            assert_eq!(server(sqlstate).disposition(), Disposition::Retry);
        }
        for sqlstate in [
            "28P01", "28000", "3D000", "42501", "42704", "55000", "", "é",
        ] {
            assert_eq!(server(sqlstate).disposition(), Disposition::Fatal);
        }
    }

    #[test]
    fn the_text_leaves_out_what_may_quote_values() {
        assert_eq!(
            server("42501").to_string(),
            "upstream: m (SQLSTATE 42501); h"
        );
    }
}
