//! A data directory → a running PostgreSQL of our own in it, with schema rektor, reachable through a socket only; and
//! its end. Never runs as root, never listens on the network, never touches a server that is not this directory's.

mod binaries;
mod cluster;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use super::{AdminError, Connection, setup};
use binaries::Binaries;

/// The superuser, the database, and the number in the socket's name.
const USER: &str = "postgres";
const PORT: u16 = 5432;
/// Between two looks whether the server answers by now.
const POLL: Duration = Duration::from_millis(50);
/// A server that says neither yes nor no for so long has hung; recovery after a crash answers "starting up".
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// pg_ctl waits that long for a shutdown, and then says that it failed.
const STOP_LIMIT_SECONDS: &str = "60";
/// A longer log is set aside when the server starts; one older log is kept.
const MAX_LOG_BYTES: u64 = 64 << 20;
/// How often the log's length is looked at while the server runs.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// `sizeof(sockaddr_un.sun_path)` - 1.
const MAX_SOCKET_PATH: usize = 107;
/// Sessions beyond the clients': replication, copies, catalogue reads, and an operator.
const OWN_CONNECTIONS: usize = 16;

/// Why there is no private PostgreSQL. Each text is one line.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// No programs.
    #[error(
        "no PostgreSQL found ({0}): install one, name its programs with --pg-bin, or a server with --upstream"
    )]
    NoBinaries(String),
    /// The cluster in the data directory needs another version.
    #[error(
        "{path} was made by PostgreSQL {cluster}, and only other versions were found ({found}): name its programs with --pg-bin"
    )]
    OtherVersion {
        /// The cluster's directory.
        path: PathBuf,
        /// The major version that made it.
        cluster: u32,
        /// What there is.
        found: String,
    },
    /// Started as root on a system without an unprivileged user.
    #[error(
        "PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as"
    )]
    NoUser,
    /// The data directory lies where the unprivileged user cannot go.
    #[error(
        "PostgreSQL does not run as root, and its user cannot enter {0}: name another --data-dir"
    )]
    Closed(PathBuf),
    /// Something about files.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// One of the programs failed.
    #[error("{program}: {reason}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// The server ended or hung before it answered.
    #[error("the private PostgreSQL did not start: {reason} (log: {log})")]
    Start {
        /// The last complaint in its log.
        reason: String,
        /// The log.
        log: PathBuf,
    },
    /// It runs, but cannot be prepared.
    #[error("the private PostgreSQL: {0}")]
    Admin(#[from] AdminError),
}

/// Whom the server runs as when Rektor was started as root.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// A running server, which ends with this process.
#[derive(Debug)]
pub struct PrivateServer {
    child: Child,
    binaries: Binaries,
    owner: Option<Owner>,
    cluster: PathBuf,
    sockets: SocketDirectory,
    log: PathBuf,
}

/// Where the socket is.
#[derive(Debug)]
struct SocketDirectory {
    path: PathBuf,
    /// Made for this run, since the data directory's path is too long for a socket.
    temporary: bool,
}

impl PrivateServer {
    /// Starts the data directory's server, making it when there is none, and installs pgvector (where it is available)
    /// and schema rektor. The directory exists and belongs to this process.
    pub async fn start(
        data_dir: &Path,
        pg_bin: Option<&Path>,
        max_connections: usize,
    ) -> Result<Self, PrivateError> {
        let owner = cluster::owner()?;
        if let Some(owner) = owner {
            cluster::let_pass(data_dir, owner)?;
            if let Some(closed) = cluster::closed(data_dir, owner) {
                return Err(PrivateError::Closed(closed));
            }
        }
        let cluster = data_dir.join("postgres");
        let binaries = binaries::find(pg_bin, owner, &cluster).await?;
        tracing::info!(programs = %binaries.directory.display(), version = binaries.major, pgvector = binaries.has_vector, "private PostgreSQL");
        if !cluster.join("PG_VERSION").exists() {
            cluster::init(&binaries, owner, &cluster).await?;
        }
        cluster::stop_orphan(&binaries, owner, &cluster).await?;
        let sockets = SocketDirectory::make(data_dir, owner)?;
        let log_path = data_dir.join("postgres.log");
        let mut server = Self {
            child: launch(
                &binaries,
                owner,
                &cluster,
                &sockets.path,
                &log_path,
                max_connections,
            )?,
            binaries,
            owner,
            cluster,
            sockets,
            log: log_path.clone(),
        };
        let connection = server.wait_until_it_answers(&log_path).await?;
        server.prepare(connection).await?;
        Ok(server)
    }

    /// As a connection string: the superuser, over the socket.
    #[must_use]
    pub fn connection(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.sockets.path)
            .port(PORT)
            .user(USER)
            .dbname(USER)
            .application_name("rektor");
        config
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.sockets.path.join(format!(".s.PGSQL.{PORT}"))
    }

    /// Resolves when the server has ended without being asked to. Cancel-safe.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            tokio::select! {
                biased;
                ended = self.child.wait() => return ended,
                () = tokio::time::sleep(LOG_INTERVAL) => {}
            }
            if let Err(error) = bound_log(&self.log, MAX_LOG_BYTES) {
                tracing::warn!(%error, log = %self.log.display(), "the private PostgreSQL's log cannot be shortened");
            }
        }
    }

    /// Stops it as `pg_ctl stop -m fast` does, and waits for its end.
    pub async fn stop(mut self) -> Result<(), PrivateError> {
        cluster::stop(&self.binaries, self.owner, &self.cluster).await?;
        self.child
            .wait()
            .await
            .map_err(io_error("waiting for", &self.cluster))?;
        if self.sockets.temporary {
            fs::remove_dir_all(&self.sockets.path)
                .map_err(io_error("removing", &self.sockets.path))?;
        }
        Ok(())
    }

    async fn wait_until_it_answers(&mut self, log: &Path) -> Result<Connection, PrivateError> {
        let failed = |reason: String| PrivateError::Start {
            reason,
            log: log.to_owned(),
        };
        let mut silent_since = tokio::time::Instant::now();
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .map_err(io_error("waiting for", &self.cluster))?
            {
                let complaint = last_complaint(log).unwrap_or_else(|| status.to_string());
                return Err(failed(complaint));
            }
            match Connection::open(&self.connection()).await {
                Ok(connection) => return Ok(connection),
                // 57P03: it recovers from a crash, which takes as long as it takes.
                Err(AdminError::Connect(reason)) if reason.contains("57P03") => {
                    silent_since = tokio::time::Instant::now()
                }
                Err(AdminError::Connect(reason)) if silent_since.elapsed() > SILENCE_LIMIT => {
                    return Err(failed(reason));
                }
                Err(AdminError::Connect(_)) => {}
                Err(e) => return Err(e.into()),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn prepare(&self, connection: Connection) -> Result<(), PrivateError> {
        if self.binaries.has_vector {
            connection
                .client
                .batch_execute("create extension if not exists vector")
                .await
                .map_err(|e| super::failed("creating extension vector", &e))?;
        }
        connection.close().await;
        setup::run(&self.connection()).await?;
        Ok(())
    }
}

impl SocketDirectory {
    /// In the data directory, or, when that path is too long for a socket, in /tmp; open to its owner only.
    fn make(data_dir: &Path, owner: Option<Owner>) -> Result<Self, PrivateError> {
        let inside = data_dir.join("socket");
        let length = inside.as_os_str().len() + format!("/.s.PGSQL.{PORT}.lock").len();
        let (path, temporary) = if length <= MAX_SOCKET_PATH {
            (inside, false)
        } else {
            (
                PathBuf::from(format!("/tmp/rektor-{}", std::process::id())),
                true,
            )
        };
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            // In the data directory it is ours; in /tmp it could be anyone's.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !temporary => {}
            Err(e) => return Err(io_error("making", &path)(e)),
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .map_err(io_error("protecting", &path))?;
        if let Some(owner) = owner {
            chown(&path, Some(owner.uid), Some(owner.gid))
                .map_err(io_error("giving away", &path))?;
        }
        Ok(Self { path, temporary })
    }
}

/// Starts the server as our child. In a process group of its own: Ctrl-C is for Rektor, which stops it in its turn.
fn launch(
    binaries: &Binaries,
    owner: Option<Owner>,
    cluster: &Path,
    sockets: &Path,
    log: &Path,
    max_connections: usize,
) -> Result<Child, PrivateError> {
    let log_file = open_log(log).map_err(io_error("opening", log))?;
    let log_twice = log_file.try_clone().map_err(io_error("opening", log))?;
    let mut command = binaries.command("postgres", owner);
    command.arg("-D").arg(cluster);
    for setting in [
        "listen_addresses=".to_owned(),
        format!("port={PORT}"),
        format!("unix_socket_directories={}", quote_directory(sockets)),
        "unix_socket_permissions=0700".to_owned(),
        "wal_level=logical".to_owned(),
        "logging_collector=off".to_owned(),
        "log_destination=stderr".to_owned(),
        format!("max_connections={}", max_connections + OWN_CONNECTIONS),
    ] {
        command.arg("-c").arg(setting);
    }
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log_file)
        .stderr(log_twice)
        // A last resort, when this process gives up on the way: an orderly end is `stop`.
        .kill_on_drop(true);
    command
        .spawn()
        .map_err(io_error("starting", &binaries.directory.join("postgres")))
}

/// A list of directories is what the setting takes: quoted, a comma in the path is no separator.
fn quote_directory(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('"', "\"\""))
}

/// Sets a long log aside as a copy and empties it: the server appends to it through a descriptor of its own. A line that comes
/// in between is lost.
fn bound_log(path: &Path, longest: u64) -> io::Result<()> {
    if fs::metadata(path)?.len() > longest {
        fs::copy(path, path.with_extension("log.1"))?;
        OpenOptions::new().write(true).truncate(true).open(path)?;
    }
    Ok(())
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > MAX_LOG_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// The last line of the log that says why something ended.
fn last_complaint(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let complaint = |line: &&str| {
        ["FATAL:", "PANIC:", "ERROR:"]
            .iter()
            .any(|word| line.contains(word))
    };
    text.lines().rev().find(complaint).map(str::to_owned)
}

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PrivateError + 'a {
    move |source| PrivateError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Runs a program to its end; its complaints are the error.
async fn run(program: &'static str, mut command: Command) -> Result<String, PrivateError> {
    let failed = |reason: String| PrivateError::Program { program, reason };
    let output = command
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(failed(if words.is_empty() {
        output.status.to_string()
    } else {
        words
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_set_aside_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postgres.log");
        let mut server = open_log(&path).unwrap();
        io::Write::write_all(&mut server, b"one line\n").unwrap();
        bound_log(&path, 9).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one line\n");
        bound_log(&path, 8).unwrap();
        io::Write::write_all(&mut server, b"two\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two\n");
        assert_eq!(
            fs::read(path.with_extension("log.1")).unwrap(),
            b"one line\n"
        );
    }
}
