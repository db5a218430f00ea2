//! Client connections: start-up, authentication, raw-frame relay, k-NN answers, Rektor's own statements.
//! Never sees the writer; reads indexes through one published view.

use crate::index::view::View;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What every session needs.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where upstream listens.
    pub upstream: UpstreamAddress,
    /// The database whose tables are indexed.
    pub database: String,
    /// The published indexes.
    pub view: watch::Receiver<Arc<View>>,
    /// Most client connections at a time.
    pub max_connections: usize,
}

/// An address of upstream, without credentials: clients bring their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// Host and port.
    Tcp { host: String, port: u16 },
    /// The socket's path, `…/.s.PGSQL.5432`.
    Unix(std::path::PathBuf),
}

/// Accepts clients until `shutdown` turns true, then lets the sessions end and joins them.
pub async fn serve(
    listener: TcpListener,
    context: Context,
    shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let _ = (listener, context, shutdown);
    todo!()
}
