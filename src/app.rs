//! A `Config` → all parts running, until a signal or the first part that ends; then their end, in order.
//! Owns every task and joins it. Never prints: what is to be said goes through `say`.

mod data_dir;
mod signals;

use std::fmt;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressDrawTarget};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::admin::private::{PrivateError, PrivateServer};
use crate::admin::{self, AdminError};
use crate::config::{Config, LogFormat, Upstream};
use crate::index;
use crate::ingest::{self, IngestError, IngestSettings};
use crate::session::{self, Context, Counters, UpstreamAddress};
use crate::telemetry::{self, Sources, progress};
use data_dir::DataDir;
use signals::Signals;

/// Why Rektor does not run, or ended. Each text is one line.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// FAISS was compiled for newer processors.
    #[error("{0}")]
    Cpu(String),
    /// An address is taken, or not ours.
    #[error("cannot listen on {address} ({setting}): {source}")]
    Listen {
        /// Which setting names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("data directory {path}: {reason}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The private server did not start or stop.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// Upstream cannot be used.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The indexes cannot be fed.
    #[error("{error}{}", advice(.error))]
    Ingest {
        /// Why not.
        #[from]
        error: IngestError,
    },
    /// A part of Rektor ended by itself.
    #[error("{part} ended: {reason}")]
    Ended {
        /// Which.
        part: &'static str,
        /// Why.
        reason: String,
    },
    /// There is nowhere to log to.
    #[error("cannot write to standard error: {0}")]
    Log(io::Error),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
    /// Told twice to stop.
    #[error("stopped at once by a second signal")]
    Interrupted,
}

fn advice(error: &IngestError) -> &'static str {
    match error {
        IngestError::Upstream(_) => " (rektor check says what mends it)",
        IngestError::Store(_) | IngestError::Panicked(_) | IngestError::Budget { .. } => "",
    }
}

/// One request to stop can arrive as several signals: `timeout`, `sudo` and process groups multiply them.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// Runs until told to stop. `say` gets one line, when clients are accepted.
pub async fn serve(config: Config, mut say: impl FnMut(&str)) -> Result<(), AppError> {
    index::cpu_supported().map_err(AppError::Cpu)?;
    let terminal = io::stderr().is_terminal();
    let bars = MultiProgress::with_draw_target(if terminal {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    });
    let filter = EnvFilter::new(&config.log_level);
    telemetry::log::start(
        filter,
        config.log_format == LogFormat::Json,
        terminal,
        &bars,
    )
    .map_err(AppError::Log)?;

    let mut signals = Signals::new().map_err(AppError::Signals)?;
    let mut app = tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        started = App::start(config, bars) => started?,
    };
    say(&app.ready);
    let ended = tokio::select! {
        biased;
        () = signals.next() => Ok(()),
        error = app.ended() => Err(error),
    };
    if let Err(error) = &ended {
        tracing::error!(%error, "stopping");
    } else {
        tracing::info!("stopping");
    }
    let again = async {
        let first = Instant::now();
        loop {
            signals.next().await;
            if first.elapsed() > SAME_REQUEST {
                break;
            }
        }
    };
    tokio::select! {
        biased;
        () = again => return Err(AppError::Interrupted),
        stopped = app.stop() => stopped?,
    }
    ended
}

/// A task, and how it is told to end.
struct Part<E> {
    name: &'static str,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), E>>,
    joined: bool,
}

impl<E: fmt::Display> Part<E> {
    /// Resolves when it ends. Cancel-safe.
    async fn ended(&mut self) -> AppError {
        let result = (&mut self.task).await;
        self.joined = true;
        let reason = match result {
            Ok(Ok(())) => "without being told to".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        AppError::Ended {
            part: self.name,
            reason,
        }
    }

    /// Tells it to end and waits until it has.
    async fn stop(&mut self) {
        self.stop.send_replace(true);
        if self.joined {
            return;
        }
        match (&mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(part = self.name, %error, "ended with an error"),
            Err(error) => {
                tracing::error!(part = self.name, %error, "ended by a defect of Rektor's")
            }
        }
        self.joined = true;
    }
}

/// Everything that runs.
struct App {
    sessions: Part<io::Error>,
    ingest: Part<IngestError>,
    bars: Part<io::Error>,
    http: Part<io::Error>,
    private: Option<PrivateServer>,
    _data_dir: DataDir,
    /// What an operator is told.
    ready: String,
}

/// Where the tables are, once there is a server.
struct Server {
    connection: tokio_postgres::Config,
    address: UpstreamAddress,
    database: String,
    private: Option<PrivateServer>,
}

impl App {
    async fn start(config: Config, bars: MultiProgress) -> Result<Self, AppError> {
        // First what an operator can have got wrong: before a server is started or a slot is made.
        let data_dir = DataDir::open(&config.data_dir)?;
        let clients = listen("listen", config.listen).await?;
        let http = listen("http", config.http).await?;
        let ready = ready_line(&config, &clients, &http)?;

        let server = Server::start(&config).await?;
        let (stop_sessions, sessions_stopped) = watch::channel(false);
        let (stop_ingest, ingest_stopped) = watch::channel(false);
        let (stop_bars, bars_stopped) = watch::channel(false);
        let (stop_http, http_stopped) = watch::channel(false);

        let settings = IngestSettings {
            upstream: server.connection.clone(),
            data_dir: config.data_dir.clone(),
            slot: config.slot.clone(),
            max_slot_wal: config.max_slot_wal,
            max_memory: config.max_memory,
        };
        let ingest = ingest::start(settings, ingest_stopped).await?;
        let counters = Arc::new(Counters::default());
        let context = Context {
            upstream: server.address,
            database: server.database,
            slot: config.slot.clone(),
            view: ingest.view.clone(),
            verify: ingest.verify,
            max_connections: config.max_connections,
            allow_trust: config.allow_trust,
            counters: Arc::clone(&counters),
        };
        let sources = Sources {
            view: ingest.view.clone(),
            counters,
        };
        let shown = progress::show(bars, ingest.view, bars_stopped);
        let sessions = session::serve(clients, context, sessions_stopped.clone());
        Ok(Self {
            sessions: Part::new("the front end", stop_sessions, tokio::spawn(sessions)),
            ingest: Part::new("the replication stream", stop_ingest, ingest.task),
            bars: Part::new(
                "the progress bar",
                stop_bars,
                tokio::spawn(async {
                    shown.await;
                    Ok(())
                }),
            ),
            http: Part::new(
                "the HTTP server",
                stop_http,
                tokio::spawn(telemetry::serve(
                    http,
                    sources,
                    sessions_stopped,
                    http_stopped,
                )),
            ),
            private: server.private,
            _data_dir: data_dir,
            ready,
        })
    }

    /// Resolves when a part that should run on has ended. Cancel-safe.
    async fn ended(&mut self) -> AppError {
        tokio::select! {
            error = self.sessions.ended() => error,
            error = self.ingest.ended() => error,
            error = self.http.ended() => error,
            error = private_ended(&mut self.private) => error,
        }
    }

    /// Clients first, so that their last statements are answered; then what fed them; the private server last.
    async fn stop(mut self) -> Result<(), AppError> {
        self.sessions.stop().await;
        self.bars.stop().await;
        self.ingest.stop().await;
        self.http.stop().await;
        if let Some(private) = self.private {
            private.stop().await?;
        }
        Ok(())
    }
}

impl<E> Part<E> {
    fn new(name: &'static str, stop: watch::Sender<bool>, task: JoinHandle<Result<(), E>>) -> Self {
        Self {
            name,
            stop,
            task,
            joined: false,
        }
    }
}

impl Server {
    async fn start(config: &Config) -> Result<Self, AppError> {
        match &config.upstream {
            Upstream::Server(database) => {
                admin::require_installed(&database.connection).await?;
                Ok(Self {
                    connection: database.connection.clone(),
                    address: database.address.clone(),
                    database: database.name.clone(),
                    private: None,
                })
            }
            Upstream::Private { pg_bin } => {
                let server = PrivateServer::start(
                    &config.data_dir,
                    pg_bin.as_deref(),
                    config.max_connections,
                )
                .await?;
                let connection = server.connection();
                Ok(Self {
                    address: UpstreamAddress::Unix(server.socket()),
                    database: connection.get_dbname().unwrap_or_default().to_owned(),
                    connection,
                    private: Some(server),
                })
            }
        }
    }
}

/// Never resolves where there is no private server.
async fn private_ended(private: &mut Option<PrivateServer>) -> AppError {
    let Some(server) = private else {
        return std::future::pending().await;
    };
    let reason = match server.ended().await {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    *private = None;
    AppError::Ended {
        part: "the private PostgreSQL",
        reason,
    }
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| AppError::Listen {
            setting,
            address,
            source,
        })
}

/// What is printed when clients are accepted: where they connect, to what, and where the metrics are.
fn ready_line(
    config: &Config,
    clients: &TcpListener,
    http: &TcpListener,
) -> Result<String, AppError> {
    let address = |setting, listener: &TcpListener, address| {
        listener.local_addr().map_err(|source| AppError::Listen {
            setting,
            address,
            source,
        })
    };
    let upstream = match &config.upstream {
        Upstream::Server(database) => format!("database \"{}\"", database.name),
        Upstream::Private { .. } => {
            format!("a private PostgreSQL in {}", config.data_dir.display())
        }
    };
    Ok(format!(
        "rektor accepts connections on {} for {upstream}; metrics on http://{}/metrics",
        address("listen", clients, config.listen)?,
        address("http", http, config.http)?,
    ))
}
