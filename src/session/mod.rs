//! Client connections: start-up, authentication, raw-frame relay, k-NN answers, Rektor's own statements.
//! Never sees the writer; reads indexes through one published view.

mod attempt;
mod cancel;
mod candidates;
mod counters;
mod ddl;
mod dispatch;
mod exchange;
mod explain;
mod facts;
mod filter;
mod frame;
mod knn;
mod link;
mod lookup;
mod messages;
mod pending;
mod prepared;
mod relay;
mod request;
mod rewrite;
mod shortage;
mod simple;
mod startup;
mod stat;
mod verify;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::catalog::IndexId;
use crate::index::view::{Verification, VerifyError, View};
use cancel::Cancels;
pub use counters::{Counters, Way};
use frame::FrameError;
use link::{Link, Stream};
use startup::Admission;

/// What every session needs.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where upstream listens.
    pub upstream: UpstreamAddress,
    /// The database whose tables are indexed.
    pub database: String,
    /// The replication slot, for `rektor.stat_replication`.
    pub slot: String,
    /// The published indexes.
    pub view: watch::Receiver<Arc<View>>,
    /// Most client connections at a time.
    pub max_connections: usize,
    /// Whether a client from another machine may log in although upstream asks it for nothing.
    pub allow_trust: bool,
    /// Takes indexes to be compared with their tables, each with where the answer goes.
    pub verify: mpsc::Sender<VerifyRequest>,
    /// What was done, for telemetry.
    pub counters: Arc<Counters>,
}

/// An index to be compared with its table.
pub type VerifyRequest = (IndexId, oneshot::Sender<Result<Verification, VerifyError>>);

/// An address of upstream, without credentials: clients bring their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// Host and port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// The socket's path, `…/.s.PGSQL.5432`.
    Unix(std::path::PathBuf),
}

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    context: Context,
    cancels: Cancels,
    analyses: prepared::Analyses,
}

/// Why a session ended before its client said goodbye.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("upstream closed the connection")]
    UpstreamClosed,
}

/// Connections beyond the limit that may still cancel, or are being told so.
const MAX_BEYOND_LIMIT: usize = 64;
/// Time to log in, as PostgreSQL's `authentication_timeout`.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a failed accept: out of file descriptors is not mended by trying faster.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long statements may go on after Rektor was told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Accepts clients until `shutdown` turns true, then lets the sessions end and joins them.
///
/// # Errors
/// None at present; a failed accept is logged and tried again.
pub async fn serve(
    listener: TcpListener,
    context: Context,
    mut shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let admitted = Arc::new(Semaphore::new(context.max_connections));
    let shared = Arc::new(Shared {
        context,
        cancels: Cancels::default(),
        analyses: prepared::Analyses::default(),
    });
    let mut sessions = JoinSet::new();
    let stop = shutdown.clone();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(ended) = sessions.join_next() => log_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let permit = Arc::clone(&admitted).try_acquire_owned().ok();
                    if permit.is_some() || sessions.len() < shared.context.max_connections + MAX_BEYOND_LIMIT {
                        let session = session(stream, peer, Arc::clone(&shared), permit, stop.clone());
                        sessions.spawn(session);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let rest = async {
        while let Some(ended) = sessions.join_next().await {
            log_panic(ended);
        }
    };
    if tokio::time::timeout(SHUTDOWN_GRACE, rest).await.is_err() {
        sessions.shutdown().await;
    }
    Ok(())
}

/// Resolves once sessions are to end, without holding the channel's lock afterwards.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could say it: that too is the end.
    drop(shutdown.wait_for(|stop| *stop).await);
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session ended by a defect of Rektor's");
    }
}

/// One connection from its first byte to its last.
async fn session(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
    shutdown: watch::Receiver<bool>,
) {
    let admission = match permit {
        Some(_) => Admission::Session,
        None => Admission::OnlyCancel,
    };
    let result = run(stream, peer, &shared, admission, shutdown).await;
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "session ended");
    }
}

async fn run(
    stream: TcpStream,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    admission: Admission,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), SessionError> {
    stream.set_nodelay(true)?;
    let mut client = Link::new(Stream::Tcp(stream));
    let login = {
        let log_in = startup::log_in(&mut client, shared, admission, peer.ip().is_loopback());
        tokio::select! {
            login = tokio::time::timeout(LOGIN_TIMEOUT, log_in) => match login {
                Ok(login) => login?,
                Err(_) => None,
            },
            () = stopped(&mut shutdown) => None,
        }
    };
    match login {
        Some(login) => {
            let _open = shared.context.counters.open_session();
            Box::pin(relay::Session::new(client, login, Arc::clone(shared)).run(shutdown)).await
        }
        None => Ok(()),
    }
}
