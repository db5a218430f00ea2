//! An operator's commands: a database's connection string → schema rektor installed, removed or checked, and a private
//! PostgreSQL where there is none. Never touches an index, and never prints: `main` does.

pub mod check;
pub mod private;
pub mod setup;
pub mod teardown;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// The oldest server whose publications and row filters work as Rektor needs them.
const MIN_VERSION: i32 = 150_000;

/// Why an operator's command failed. Each text is one line, without passwords.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The server cannot be reached, or does not let us in.
    #[error("cannot connect to upstream: {0}")]
    Connect(String),
    /// A statement failed.
    #[error("{doing}: {reason}")]
    Statement {
        /// What was being done.
        doing: &'static str,
        /// What the server said.
        reason: String,
    },
    /// The role may not do what setup does.
    #[error(
        "installing schema rektor: {0}; rektor setup --print writes the SQL for someone with the rights"
    )]
    NoRight(String),
    /// The server is too old.
    #[error("PostgreSQL 15 or newer is needed, and this is {0}")]
    Version(String),
    /// The slot is someone's.
    #[error(
        "replication slot \"{slot}\" is in use by process {pid} ({application}): stop that first"
    )]
    SlotInUse {
        /// The slot.
        slot: String,
        /// Who uses it.
        pid: i32,
        /// What it calls itself.
        application: String,
    },
    /// Schema rektor is not there.
    #[error(
        "schema rektor is not installed in database \"{0}\": run rektor setup --upstream … first"
    )]
    NotInstalled(String),
}

/// A connection for catalogue reads and DDL, with the task that drives it.
#[derive(Debug)]
pub struct Connection {
    /// To send statements with.
    pub client: Client,
    driver: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Connection {
    /// Connects without TLS.
    pub async fn open(database: &tokio_postgres::Config) -> Result<Self, AdminError> {
        let (client, connection) = database
            .connect(NoTls)
            .await
            .map_err(|e| AdminError::Connect(one_line(&e)))?;
        Ok(Self {
            client,
            driver: tokio::spawn(connection),
        })
    }

    /// Says goodbye and waits for the connection's end.
    pub async fn close(self) {
        drop(self.client);
        // The work is done; how the connection ends says nothing about it.
        drop(self.driver.await);
    }

    /// The server's version, if it is new enough.
    pub async fn version(&self) -> Result<String, AdminError> {
        let row = self
            .client
            .query_one("select current_setting('server_version_num')::int, current_setting('server_version')", &[])
            .await
            .map_err(|e| failed("reading the server's version", &e))?;
        let (number, text): (i32, String) = (row.get(0), row.get(1));
        if number < MIN_VERSION {
            return Err(AdminError::Version(text));
        }
        Ok(text)
    }

    /// Whether schema rektor, which is there, is this version's.
    pub async fn current(&self) -> Result<bool, AdminError> {
        self.client
            .query_one(
                "select to_regprocedure('rektor.mend_columns()') is not null",
                &[],
            )
            .await
            .map(|row| row.get(0))
            .map_err(|e| failed("looking at schema rektor", &e))
    }

    /// Whether schema rektor is there.
    pub async fn installed(&self) -> Result<bool, AdminError> {
        self.client
            .query_one("select to_regclass('rektor.index') is not null", &[])
            .await
            .map(|row| row.get(0))
            .map_err(|e| failed("looking for schema rektor", &e))
    }
}

/// The database is reachable, new enough, and has schema rektor.
pub async fn require_installed(database: &tokio_postgres::Config) -> Result<(), AdminError> {
    let connection = Connection::open(database).await?;
    connection.version().await?;
    if !connection.installed().await? {
        let name = database.get_dbname().unwrap_or_default();
        return Err(AdminError::NotInstalled(name.to_owned()));
    }
    connection.close().await;
    Ok(())
}

fn failed(doing: &'static str, error: &tokio_postgres::Error) -> AdminError {
    AdminError::Statement {
        doing,
        reason: one_line(error),
    }
}

/// An error of tokio-postgres with its causes, and the server's own words where it said something.
fn one_line(error: &tokio_postgres::Error) -> String {
    let text = if let Some(said) = error.as_db_error() {
        let more = |label: &str, text: Option<&str>| {
            text.map_or_else(String::new, |text| format!("; {label}{text}"))
        };
        format!(
            "{} (SQLSTATE {}){}{}",
            said.message(),
            said.code().code(),
            more("", said.detail()),
            more("hint: ", said.hint())
        )
    } else {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            if !text.contains(&error.to_string()) {
                text = format!("{text}: {error}");
            }
            cause = error.source();
        }
        text
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
