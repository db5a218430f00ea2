//! A live server → one point after the other that Rektor needs of it, each with what mends it.
//! Changes nothing: reads the catalogue, and opens and closes one replication connection.

use std::fmt;

use super::{AdminError, Connection, failed};
use crate::upstream::UpstreamError;
use crate::upstream::walsender::ReplicationConnection;

const SERVER: &str = include_str!("../../sql/check_server.sql");
const INSTALLED: &str = include_str!("../../sql/check_installed.sql");
const TABLES: &str = include_str!("../../sql/check_tables.sql");
const TABLE: &str = "select rektor.check_table($1)";

/// What was found at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it must be.
    Well,
    /// Rektor will not work, or endangers the server.
    Failing,
}

/// One point, and what to do about it.
#[derive(Clone, Debug)]
pub struct Point {
    /// Whether it is well.
    pub state: State,
    /// What was found.
    pub finding: String,
    /// The statement or setting that mends it; empty when all is well.
    pub mend: String,
}

impl Point {
    fn well(finding: impl Into<String>) -> Self {
        Self {
            state: State::Well,
            finding: finding.into(),
            mend: String::new(),
        }
    }

    fn failing(finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            state: State::Failing,
            finding: finding.into(),
            mend: mend.into(),
        }
    }

    /// Whether nothing need be done.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.state == State::Well
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.state {
            State::Well => "ok  ",
            State::Failing => "FAIL",
        };
        write!(f, "{word}  {}", self.finding)?;
        self.mend
            .lines()
            .try_for_each(|line| write!(f, "\n          {line}"))
    }
}

/// Tests everything; what cannot be reached is a failing point, and ends the list.
pub async fn run(database: &tokio_postgres::Config, slot: &str) -> Vec<Point> {
    let mut points = Vec::new();
    if let Err(e) = examine(database, slot, &mut points).await {
        let mend = match &e {
            AdminError::Connect(_) => {
                "check host, port, user, password, and that the server is running"
            }
            AdminError::Version(_) => "upgrade PostgreSQL",
            AdminError::Statement { .. }
            | AdminError::NoRight(_)
            | AdminError::SlotInUse { .. }
            | AdminError::NotInstalled(_) => "",
        };
        points.push(Point::failing(e.to_string(), mend));
    }
    points
}

async fn examine(
    database: &tokio_postgres::Config,
    slot: &str,
    points: &mut Vec<Point>,
) -> Result<(), AdminError> {
    let connection = Connection::open(database).await?;
    connection.version().await?;
    ask(&connection, SERVER, Some(slot), points).await?;
    points.push(replication(database).await);
    if connection.installed().await? {
        if connection.current().await? {
            points.push(Point::well("schema rektor is installed"));
            ask(&connection, INSTALLED, None, points).await?;
            tables(&connection, points).await?;
        } else {
            points.push(Point::failing(
                "schema rektor is of an older version of Rektor",
                "rektor setup --upstream …\n-- or, by someone with the rights: rektor setup --print | psql …",
            ));
        }
    } else {
        points.push(Point::failing(
            "schema rektor is not installed",
            "rektor setup --upstream …\n-- or, by someone with the rights: rektor setup --print | psql …",
        ));
    }
    connection.close().await;
    Ok(())
}

/// A real replication connection: what a pooler in between, or `pg_hba.conf`, refuses.
async fn replication(database: &tokio_postgres::Config) -> Point {
    let identified = async {
        let mut connection = ReplicationConnection::connect(database).await?;
        let identity = connection.identify_system().await?;
        connection.close().await?;
        Ok::<_, UpstreamError>(identity)
    };
    match identified.await {
        Ok(identity) => Point::well(format!(
            "a replication connection works (system {}, timeline {})",
            identity.system_id, identity.timeline
        )),
        Err(e) => {
            let mend = match e.sqlstate() {
                Some("28000") => {
                    let user = database.get_user().unwrap_or_default();
                    let name = database.get_dbname().unwrap_or_default();
                    format!(
                        "-- in pg_hba.conf, then SELECT pg_reload_conf();\nhost {name} {user} samenet scram-sha-256"
                    )
                }
                Some("42501") => "-- see the role's right to replicate above".to_owned(),
                Some("53300") => "-- see the WAL senders above".to_owned(),
                Some(_) | None => {
                    "-- name the server itself in --upstream, not a connection pooler".to_owned()
                }
            };
            Point::failing(format!("no replication connection: {e}"), mend)
        }
    }
}

/// Runs a query whose rows are points: well, finding, mend.
async fn ask(
    connection: &Connection,
    sql: &str,
    slot: Option<&str>,
    points: &mut Vec<Point>,
) -> Result<(), AdminError> {
    let rows = match slot {
        Some(slot) => connection.client.query(sql, &[&slot]).await,
        None => connection.client.query(sql, &[]).await,
    };
    for row in rows.map_err(|e| failed("reading the server's settings", &e))? {
        let finding: String = row.get("finding");
        points.push(if row.get("well") {
            Point::well(finding)
        } else {
            Point::failing(
                finding,
                row.get::<_, Option<String>>("mend").unwrap_or_default(),
            )
        });
    }
    Ok(())
}

/// Each indexed table: whether publishing it breaks its own writes by now.
async fn tables(connection: &Connection, points: &mut Vec<Point>) -> Result<(), AdminError> {
    let client = &connection.client;
    let rows = client
        .query(TABLES, &[])
        .await
        .map_err(|e| failed("reading the indexed tables", &e))?;
    for row in rows {
        let (relation, name): (u32, &str) = (row.get(0), row.get(1));
        match client.execute(TABLE, &[&relation]).await {
            Ok(_) => points.push(Point::well(format!(
                "indexed table {name} can be published"
            ))),
            Err(e) => match e.as_db_error() {
                Some(said) => points.push(Point::failing(
                    said.message(),
                    said.hint().or(said.detail()).unwrap_or_default(),
                )),
                None => return Err(failed("checking an indexed table", &e)),
            },
        }
    }
    Ok(())
}
