//! An ordinary SQL connection in Rektor's own role: connects, owns the task that drives it, and turns its errors into ours.
//! Never writes to a table.

use std::error::Error;
use std::io;

use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::upstream::UpstreamError;

/// What Rektor's connections are called in `pg_stat_activity`, and what `synchronous_standby_names` may name.
pub const APPLICATION_NAME: &str = "rektor";

/// A connection and the task that moves its bytes.
#[derive(Debug)]
pub struct SqlSession {
    client: Client,
    catalogue: OnceCell<Statement>,
    _driver: Driver,
}

/// Ends with the session, also when that is dropped half-way.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl SqlSession {
    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn connect(config: &Config) -> Result<Self, UpstreamError> {
        let mut config = config.clone();
        config.application_name(APPLICATION_NAME);
        let (client, connection) = config.connect(NoTls).await.map_err(not_connected)?;
        let driver = Driver(tokio::spawn(async move {
            // The client sees the same failure as the result of its next request.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "SQL connection ended");
            }
        }));
        client
            .batch_execute(include_str!("../../sql/ingest_session.sql"))
            .await?;
        Ok(Self {
            client,
            catalogue: OnceCell::new(),
            _driver: driver,
        })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The statement that reads every index, prepared once a connection: it is run every two seconds, and planning it costs
    /// the server several times what running it does (some 10 ms against 2).
    pub(super) async fn catalogue(&self) -> Result<&Statement, UpstreamError> {
        let sql = include_str!("../../sql/ingest_indexes.sql");
        let prepared = self.catalogue.get_or_try_init(|| self.client.prepare(sql));
        Ok(prepared.await?)
    }
}

/// The driver's text for a failed connection leaves out the cause.
fn not_connected(error: tokio_postgres::Error) -> UpstreamError {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause {
        Some(cause) => UpstreamError::Io(io::Error::new(cause.kind(), cause.to_string())),
        None => error.into(),
    }
}
