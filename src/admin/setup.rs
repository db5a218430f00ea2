//! `sql/` → schema rektor and its publication in a database, or the same as one script for someone who has the rights.
//! Never removes anything.

use tokio_postgres::error::SqlState;

use super::{AdminError, Connection, failed, one_line};

/// The parts in the order in which they rest on each other.
const PARTS: [&str; 9] = [
    include_str!("../../sql/schema.sql"),
    include_str!("../../sql/checks.sql"),
    include_str!("../../sql/publication.sql"),
    include_str!("../../sql/mend.sql"),
    include_str!("../../sql/functions.sql"),
    include_str!("../../sql/ddl.sql"),
    include_str!("../../sql/stat.sql"),
    include_str!("../../sql/verify.sql"),
    include_str!("../../sql/distance.sql"),
];

const MISSING_GRANTS: &str = include_str!("../../sql/missing_grants.sql");

/// Everything as one transaction, for psql.
#[must_use]
pub fn script() -> String {
    format!(
        "-- Installs schema rektor and publication rektor. Can be run again. For psql, connected to the database.\n\
         begin;\n\
         set local client_min_messages = warning;\n\
         do $$ begin perform pg_advisory_xact_lock(hashtextextended('rektor.setup', 0)); end $$;\n\n\
         {}\n\
         commit;\n",
        PARTS.join("\n")
    )
}

/// Installs everything, again if it is there already; says what an operator should know.
pub async fn run(database: &tokio_postgres::Config) -> Result<Vec<String>, AdminError> {
    let connection = Connection::open(database).await?;
    let version = connection.version().await?;
    connection
        .client
        .batch_execute(&script())
        .await
        .map_err(|e| match e.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => AdminError::NoRight(one_line(&e)),
            Some(_) | None => failed("installing schema rektor", &e),
        })?;
    let mut said = vec![format!(
        "schema rektor and publication rektor are installed in database \"{}\" (PostgreSQL {version})",
        database.get_dbname().unwrap_or_default()
    )];
    let missing = connection
        .client
        .query(MISSING_GRANTS, &[])
        .await
        .map_err(|e| failed("looking for missing grants", &e))?;
    if !missing.is_empty() {
        said.push(
            "before tables of these owners can be indexed, someone with the rights runs:"
                .to_owned(),
        );
        said.extend(
            missing
                .iter()
                .map(|row| format!("    {}", row.get::<_, &str>(0))),
        );
    }
    connection.close().await;
    Ok(said)
}
