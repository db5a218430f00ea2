//! Flags, then `REKTOR_…` variables, then `rektor.toml`, then defaults → a [`Config`] that leaves nothing open.
//! Never prints a password, and never connects anywhere.

mod memory;

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use tokio_postgres::config::{Host, SslMode};

use crate::session::UpstreamAddress;

/// Read when no `--config` names another file, if it exists.
const DEFAULT_FILE: &str = "rektor.toml";
/// Longest time an operator waits to learn that upstream does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// PostgreSQL's port.
const DEFAULT_PORT: u16 = 5432;
/// Beyond this the sockets of one process run out before memory does.
const MAX_MAX_CONNECTIONS: usize = 100_000;
/// A hundred times what a healthy slot holds, and for most servers less than what they keep free.
const DEFAULT_MAX_SLOT_WAL: &str = "64GB";
/// Four WAL segments: less is held for a moment by any busy server.
const LEAST_MAX_SLOT_WAL: u64 = 64 << 20;
/// PostgreSQL's `NAMEDATALEN` - 1, which bounds a slot's name.
const MAX_SLOT_NAME: usize = 63;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "rektor",
    version,
    about = "Stands beside a PostgreSQL and makes it a fast vector database",
    max_term_width = 120,
    after_help = "Every flag is also a key of rektor.toml (data_dir = \"…\") and a variable (REKTOR_DATA_DIR=…);\n\
                  a flag wins over a variable, a variable over the file, the file over the default.\n\
                  Exit status: 0 fine, 1 failed, 2 wrong usage or configuration."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Accept clients: relay them to PostgreSQL, and answer their k-NN searches from FAISS indexes
    Serve(Settings),
    /// Install schema rektor and the publication in the database
    Setup {
        /// Where.
        #[command(flatten)]
        database: DatabaseSettings,
        /// Write the SQL to standard output, for someone with the rights, instead of running it
        #[arg(long)]
        print: bool,
    },
    /// Remove the replication slot, the publication and schema rektor from the database
    Teardown(DatabaseSettings),
    /// Test everything the database must offer, and print what mends each failing point
    Check(DatabaseSettings),
}

/// What `setup`, `teardown` and `check` can be told.
#[derive(Args, Clone, Debug, Default)]
pub struct DatabaseSettings {
    /// The database, as postgres://user@host:port/database
    #[arg(
        long,
        value_name = "URL",
        env = "REKTOR_UPSTREAM",
        hide_env = true,
        hide_env_values = true
    )]
    pub upstream: Option<String>,
    /// File that holds the password for upstream
    #[arg(
        long,
        value_name = "FILE",
        env = "REKTOR_UPSTREAM_PASSWORD_FILE",
        hide_env = true
    )]
    pub upstream_password_file: Option<PathBuf>,
    /// Name of the replication slot [default: rektor]
    #[arg(long, value_name = "NAME", env = "REKTOR_SLOT", hide_env = true)]
    pub slot: Option<String>,
    /// Configuration file [default: rektor.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "REKTOR_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
}

/// One layer of the configuration: what was said there, and nothing else.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The database to stand beside, as postgres://user@host:port/database [default: a private PostgreSQL in the data directory]
    #[arg(
        long,
        value_name = "URL",
        env = "REKTOR_UPSTREAM",
        hide_env = true,
        hide_env_values = true
    )]
    pub upstream: Option<String>,
    /// File that holds the password for upstream
    #[arg(
        long,
        value_name = "FILE",
        env = "REKTOR_UPSTREAM_PASSWORD_FILE",
        hide_env = true
    )]
    pub upstream_password_file: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:6432]
    #[arg(long, value_name = "HOST:PORT", env = "REKTOR_LISTEN", hide_env = true)]
    pub listen: Option<String>,
    /// Where /metrics, /livez and /readyz are served [default: 127.0.0.1:6433]
    #[arg(long, value_name = "HOST:PORT", env = "REKTOR_HTTP", hide_env = true)]
    pub http: Option<String>,
    /// Directory for everything kept on disk [default: rektor-data]
    #[arg(long, value_name = "DIR", env = "REKTOR_DATA_DIR", hide_env = true)]
    pub data_dir: Option<PathBuf>,
    /// Directory of initdb and postgres, for the private PostgreSQL [default: searched for]
    #[arg(long, value_name = "DIR", env = "REKTOR_PG_BIN", hide_env = true)]
    pub pg_bin: Option<PathBuf>,
    /// Name of the replication slot [default: rektor]
    #[arg(long, value_name = "NAME", env = "REKTOR_SLOT", hide_env = true)]
    pub slot: Option<String>,
    /// Most WAL that upstream may have to keep for the slot before it is given up, as 512MB or 64GB; -1 is no limit [default: 64GB]
    #[arg(
        long,
        value_name = "SIZE",
        env = "REKTOR_MAX_SLOT_WAL",
        hide_env = true,
        allow_hyphen_values = true
    )]
    pub max_slot_wal: Option<String>,
    /// Most memory that all indexes together may hold, as 512MB or 64GB; -1 is no bound [default: 80 % of what is available]
    #[arg(
        long,
        value_name = "SIZE",
        env = "REKTOR_MAX_MEMORY",
        hide_env = true,
        allow_hyphen_values = true
    )]
    pub max_memory: Option<String>,
    /// Most client connections at a time [default: 100]
    #[arg(
        long,
        value_name = "N",
        env = "REKTOR_MAX_CONNECTIONS",
        hide_env = true
    )]
    pub max_connections: Option<usize>,
    /// Let clients from other machines in when upstream asks them for no password [default: false]
    #[arg(long, env = "REKTOR_ALLOW_TRUST", hide_env = true, hide_possible_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub allow_trust: Option<bool>,
    /// Log level: error, warn, info, debug, trace, or per module as in info,rektor::session=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "REKTOR_LOG_LEVEL", hide_env = true)]
    pub log_level: Option<String>,
    /// Form of the log lines on standard error: text or json [default: text]
    #[arg(
        long,
        value_name = "FORM",
        env = "REKTOR_LOG_FORMAT",
        hide_env = true,
        hide_possible_values = true
    )]
    pub log_format: Option<LogFormat>,
    /// Configuration file [default: rektor.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "REKTOR_CONFIG", hide_env = true)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the tables are.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// A server that is there already.
    Server(Box<Database>),
    /// A PostgreSQL of our own in the data directory.
    Private {
        /// Where its programs are, if that was said.
        pg_bin: Option<PathBuf>,
    },
}

/// How to reach the database: one host, a user, a database name, perhaps a password.
#[derive(Clone, Debug)]
pub struct Database {
    /// For our own connections.
    pub connection: tokio_postgres::Config,
    /// For those of clients, who bring their own credentials.
    pub address: UpstreamAddress,
    /// The database whose tables are indexed.
    pub name: String,
}

/// What `serve` works with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the tables are.
    pub upstream: Upstream,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where metrics and health are served.
    pub http: SocketAddr,
    /// Everything kept on disk.
    pub data_dir: PathBuf,
    /// The replication slot.
    pub slot: String,
    /// Most bytes of WAL that upstream may have to keep for the slot, if there is a limit.
    pub max_slot_wal: Option<u64>,
    /// Most bytes of memory that all indexes together may hold, if there is a bound.
    pub max_memory: Option<u64>,
    /// Most client connections at a time.
    pub max_connections: usize,
    /// Whether clients that are not local come in without a password.
    pub allow_trust: bool,
    /// A filter of `tracing`.
    pub log_level: String,
    /// The form of log lines.
    pub log_format: LogFormat,
}

/// A configuration that cannot work. Each text is one line and names the setting.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or holds what it may not.
    #[error("configuration file {path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// Why, on one line.
        reason: String,
    },
    /// A value is none that the setting can have.
    #[error("{setting}: {reason}")]
    Value {
        /// The setting, as in the file.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

fn invalid(setting: &'static str, reason: impl ToString) -> ConfigError {
    ConfigError::Value {
        setting,
        reason: one_line(&reason.to_string()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Settings {
    /// The settings of `serve`, complete and checked.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let said = self.over_file()?;
        let data_dir = said.data_dir.unwrap_or_else(|| "rektor-data".into());
        let data_dir = std::path::absolute(&data_dir).map_err(|e| invalid("data_dir", e))?;
        let upstream = match said.upstream {
            Some(url) => Upstream::Server(Box::new(Database::new(
                &url,
                said.upstream_password_file.as_deref(),
            )?)),
            None => Upstream::Private {
                pg_bin: said.pg_bin,
            },
        };
        let max_connections = said.max_connections.unwrap_or(100);
        if !(1..=MAX_MAX_CONNECTIONS).contains(&max_connections) {
            let reason = format!("{max_connections} is not between 1 and {MAX_MAX_CONNECTIONS}");
            return Err(invalid("max_connections", reason));
        }
        let log_level = said
            .log_level
            .unwrap_or_else(|| "info,tokio_postgres=warn".to_owned());
        log_level
            .parse::<tracing_subscriber::EnvFilter>()
            .map_err(|e| invalid("log_level", format!("\"{log_level}\": {e}")))?;
        Ok(Config {
            upstream,
            listen: socket_address("listen", said.listen, "127.0.0.1:6432")?,
            http: socket_address("http", said.http, "127.0.0.1:6433")?,
            data_dir,
            slot: slot_name(said.slot)?,
            max_slot_wal: wal_size(said.max_slot_wal.as_deref())?,
            max_memory: memory::max_memory(said.max_memory.as_deref())?,
            max_connections,
            allow_trust: said.allow_trust.unwrap_or(false),
            log_level,
            log_format: said.log_format.unwrap_or_default(),
        })
    }

    /// What was said here, and below it what the file says.
    fn over_file(self) -> Result<Self, ConfigError> {
        let file = Self::from_file(self.config.as_deref())?;
        Ok(Self {
            upstream: self.upstream.or(file.upstream),
            upstream_password_file: self.upstream_password_file.or(file.upstream_password_file),
            listen: self.listen.or(file.listen),
            http: self.http.or(file.http),
            data_dir: self.data_dir.or(file.data_dir),
            pg_bin: self.pg_bin.or(file.pg_bin),
            slot: self.slot.or(file.slot),
            max_slot_wal: self.max_slot_wal.or(file.max_slot_wal),
            max_memory: self.max_memory.or(file.max_memory),
            max_connections: self.max_connections.or(file.max_connections),
            allow_trust: self.allow_trust.or(file.allow_trust),
            log_level: self.log_level.or(file.log_level),
            log_format: self.log_format.or(file.log_format),
            config: self.config,
        })
    }

    fn from_file(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let failed = |reason: String| ConfigError::File {
            path: path.display().to_string(),
            reason: one_line(&reason),
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(e) => return Err(failed(e.to_string())),
        };
        config::Config::builder()
            .add_source(config::File::from_str(&text, config::FileFormat::Toml))
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|e| failed(e.to_string()))
    }
}

impl DatabaseSettings {
    /// The database and the slot's name; without a database there is nothing to do.
    pub fn resolve(self) -> Result<(Database, String), ConfigError> {
        let said = Settings {
            upstream: self.upstream,
            upstream_password_file: self.upstream_password_file,
            slot: self.slot,
            config: self.config,
            ..Settings::default()
        };
        let said = said.over_file()?;
        let url = said.upstream.ok_or_else(|| {
            invalid(
                "upstream",
                "name the database with --upstream postgres://user@host:port/database",
            )
        })?;
        Ok((
            Database::new(&url, said.upstream_password_file.as_deref())?,
            slot_name(said.slot)?,
        ))
    }
}

impl Database {
    /// Parses a connection string, either form of libpq's, and adds the password that a file holds.
    pub fn new(url: &str, password_file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut connection = url
            .parse::<tokio_postgres::Config>()
            .map_err(|e| invalid("upstream", describe(&e)))?;
        if let Some(path) = password_file {
            if connection.get_password().is_some() {
                return Err(invalid(
                    "upstream_password_file",
                    "upstream holds a password already",
                ));
            }
            let password = fs::read(path).map_err(|e| {
                invalid("upstream_password_file", format!("{}: {e}", path.display()))
            })?;
            connection.password(password.trim_ascii_end());
        }
        if connection.get_ssl_mode() == SslMode::Require {
            return Err(invalid(
                "upstream",
                "TLS to upstream is not there yet: sslmode can be disable or prefer",
            ));
        }
        let user = connection
            .get_user()
            .ok_or_else(|| invalid("upstream", "no user: postgres://user@host:port/database"))?
            .to_owned();
        let name = connection.get_dbname().unwrap_or(&user).to_owned();
        let address = address(&connection)?;
        connection
            .dbname(&name)
            .application_name("rektor")
            .ssl_mode(SslMode::Disable);
        if connection.get_connect_timeout().is_none() {
            connection.connect_timeout(CONNECT_TIMEOUT);
        }
        Ok(Self {
            connection,
            address,
            name,
        })
    }
}

/// The one address that a connection string names.
fn address(connection: &tokio_postgres::Config) -> Result<UpstreamAddress, ConfigError> {
    // One port a host, or one for all.
    let port = connection
        .get_ports()
        .first()
        .copied()
        .unwrap_or(DEFAULT_PORT);
    match connection.get_hosts() {
        [] => Err(invalid(
            "upstream",
            "no host: postgres://user@host:port/database",
        )),
        [Host::Tcp(host)] => Ok(UpstreamAddress::Tcp {
            host: host.clone(),
            port,
        }),
        [Host::Unix(directory)] => Ok(UpstreamAddress::Unix(
            directory.join(format!(".s.PGSQL.{port}")),
        )),
        [_, _, ..] => Err(invalid("upstream", "more than one host")),
    }
}

/// A parse error with its cause, which tokio-postgres's own text leaves out.
fn describe(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error)
        .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn socket_address(
    setting: &'static str,
    said: Option<String>,
    default: &str,
) -> Result<SocketAddr, ConfigError> {
    let text = said.as_deref().unwrap_or(default);
    text.to_socket_addrs()
        .map_err(|e| invalid(setting, format!("\"{text}\": {e}")))?
        .next()
        .ok_or_else(|| invalid(setting, format!("\"{text}\" has no address")))
}

/// A name that PostgreSQL allows a slot.
fn slot_name(said: Option<String>) -> Result<String, ConfigError> {
    let name = said.unwrap_or_else(|| "rektor".to_owned());
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    if name.is_empty() || name.len() > MAX_SLOT_NAME || !name.bytes().all(allowed) {
        let reason = format!(
            "\"{name}\" is no slot name: lower case letters, digits and underscores, at most {MAX_SLOT_NAME}"
        );
        return Err(invalid("slot", reason));
    }
    Ok(name)
}

/// A size as PostgreSQL's settings take it; a number alone is megabytes, as for `max_slot_wal_keep_size`.
fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "kB" => 1 << 10,
        "MB" | "" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn wal_size(said: Option<&str>) -> Result<Option<u64>, ConfigError> {
    let text = said.unwrap_or(DEFAULT_MAX_SLOT_WAL).trim();
    if text == "-1" {
        return Ok(None);
    }
    match size(text).filter(|bytes| *bytes >= LEAST_MAX_SLOT_WAL) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(invalid(
            "max_slot_wal",
            format!("\"{text}\" is neither -1 nor a size of at least 64MB, as 512MB or 64GB"),
        )),
    }
}

#[cfg(test)]
mod tests;
