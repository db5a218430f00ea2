//! `rektor.index` and PostgreSQL's catalogue, read at one moment → index definitions, each usable or with the reason why not.
//! Only reads; an index that cannot be followed is a description for the operator, never an error of the whole.

mod entry;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::catalog::{ColumnNumber, IndexDefinition, RelationId};
use crate::upstream::UpstreamError;
use crate::upstream::sql::SqlSession;
use crate::wal::pgoutput::Relation;

/// The publication that carries `rektor.index` and every indexed table.
pub const PUBLICATION: &str = "rektor";
/// The oldest server with row filters, column lists and TID range scans.
const OLDEST_SERVER: i32 = 150_000;
/// A commit is in the WAL a moment before it is visible; with synchronous replication the moment can be long.
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks for it.
const VISIBLE_RETRY: Duration = Duration::from_millis(3);

/// An index as the catalogue has it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// What it is. Only partly true when it is not usable.
    pub definition: Arc<IndexDefinition>,
    /// Why it cannot be copied or followed.
    pub unusable: Option<String>,
    /// Counts REINDEX.
    pub reindexed: i64,
    /// Changes when a column of the index is altered.
    pub stamp: String,
    /// The transactions that last wrote the columns' catalogue rows. Together with `file` it tells a rewrite of the values.
    pub written: String,
    /// The file that holds the table, 0 for a partitioned one: another one after a rewrite of any kind.
    pub file: u32,
    /// Every column of the table, as the stream describes it.
    pub shape: Shape,
    /// The publication's row filter, as SQL.
    pub row_filter: Option<String>,
    /// All partitions below a partitioned table.
    pub partitions: Vec<Partition>,
}

/// The columns of a table that the stream carries, in its order: what tells which column a name meant at a position of the
/// stream, since that knows no attribute numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape(Vec<(ColumnNumber, String)>);

impl Shape {
    /// Whether the stream describes exactly these columns.
    #[must_use]
    pub fn is_of(&self, relation: &Relation) -> bool {
        let names = relation.columns.iter().map(|column| &column.name);
        names.eq(self.0.iter().map(|(_, name)| name))
    }

    /// What the column of that number is called.
    #[must_use]
    pub fn name(&self, number: ColumnNumber) -> Option<&str> {
        let mut columns = self.0.iter();
        let found = columns.find(|(other, _)| *other == number);
        found.map(|(_, name)| name.as_str())
    }
}

/// One reading of the catalogue.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Every index.
    pub indexes: Vec<IndexEntry>,
    /// [`mend`] has something to do.
    pub to_mend: bool,
}

/// A partition, of any level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Which.
    pub relation: RelationId,
    /// The file that holds its rows: another one after TRUNCATE or a rewrite.
    pub file: u32,
    /// The transaction that made it a partition: another one if it was detached meanwhile, and may have lost rows.
    pub linked: u32,
    /// It was attached after its creation, and may have brought rows. Of what was seen before this says nothing: a crash of
    /// the server can change it.
    pub attached: bool,
}

impl Partition {
    /// Whether it has been this partition all the time.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.relation, self.file, self.linked) == (other.relation, other.file, other.linked)
    }
}

/// Whether the server can be tailed at all.
///
/// # Errors
/// When it cannot, with what to do about it.
pub async fn check_server(session: &SqlSession) -> Result<(), UpstreamError> {
    let sql = include_str!("../../sql/ingest_server.sql");
    let row = session.client().query_one(sql, &[]).await?;
    let refuse = |text: String| Err(UpstreamError::Unsuitable(text));
    let version: i32 = row.try_get("version")?;
    if version < OLDEST_SERVER {
        return refuse(format!(
            "PostgreSQL {} is too old: 15 or newer is needed",
            version / 10_000
        ));
    }
    // Since 19 `replica` suffices while a logical slot exists; creating the slot is the test there.
    if version < 190_000 && row.try_get::<_, String>("wal_level")? != "logical" {
        return refuse(
            "wal_level is not logical: run ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL".into(),
        );
    }
    if !row.try_get::<_, bool>("installed")? || !row.try_get::<_, bool>("published")? {
        return refuse(
            "schema rektor or publication rektor is missing in the database: run rektor setup"
                .into(),
        );
    }
    if !row.try_get::<_, bool>("current")? {
        return refuse(
            "schema rektor is of an older version of Rektor: run rektor setup again".into(),
        );
    }
    Ok(())
}

/// Whether the role lacks the attribute that replication takes: for when the server has refused a replication connection.
/// Managed services have other ways to grant it, so that it must not be asked for otherwise.
///
/// # Errors
/// When it does, with what mends it.
pub async fn check_role(session: &SqlSession) -> Result<(), UpstreamError> {
    let sql = include_str!("../../sql/ingest_role.sql");
    let row = session.client().query_one(sql, &[]).await?;
    if row.try_get("may_replicate")? {
        return Ok(());
    }
    let role: String = row.try_get("role")?;
    Err(UpstreamError::Unsuitable(format!(
        "role {role} may not use replication: run ALTER ROLE {role} REPLICATION"
    )))
}

/// Reads every index once the transactions of these numbers are visible.
///
/// # Errors
/// When the connection fails or reading is not permitted.
pub async fn read_indexes(session: &SqlSession, after: &[u32]) -> Result<Catalogue, UpstreamError> {
    let client = session.client();
    let deadline = Instant::now() + VISIBLE_WITHIN;
    loop {
        client
            .batch_execute("begin isolation level repeatable read read only")
            .await?;
        let row = client
            .query_one("select pg_current_snapshot()::text", &[])
            .await?;
        let snapshot: String = row.try_get(0)?;
        if after.iter().all(|xid| is_visible(&snapshot, *xid)) || Instant::now() > deadline {
            let rows = client.query(session.catalogue().await?, &[]).await?;
            client.batch_execute("commit").await?;
            let mut catalogue = Catalogue::default();
            for row in &rows {
                catalogue.indexes.push(entry::read(row)?);
                catalogue.to_mend |= row.try_get::<_, bool>("to_mend")?;
            }
            return Ok(catalogue);
        }
        client.batch_execute("rollback").await?;
        tokio::time::sleep(VISIBLE_RETRY).await;
    }
}

/// Does what PostgreSQL would for an index of its own, and takes tables out of the publication that break their own writes;
/// what was done, one line each.
///
/// # Errors
/// When the connection fails, or it is not permitted, or a lock is not free. What is urgent was done first.
pub async fn mend(session: &SqlSession) -> Result<Vec<String>, UpstreamError> {
    let mut done = Vec::new();
    for sql in [
        include_str!("../../sql/ingest_mend_publication.sql"),
        include_str!("../../sql/ingest_mend_columns.sql"),
    ] {
        for row in session.client().query(sql, &[]).await? {
            done.push(row.try_get(0)?);
        }
    }
    Ok(done)
}

/// Whether a transaction that is known to have committed is so in a `pg_snapshot`, `xmin:xmax:running,…` of 64-bit numbers.
fn is_visible(snapshot: &str, xid: u32) -> bool {
    let mut parts = snapshot.splitn(3, ':');
    let (Some(_xmin), Some(xmax), Some(running)) = (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let Some(xmax) = low_half(xmax) else {
        return false;
    };
    // Numbers wrap around; at most half of them are in use.
    let begun_before_xmax = xmax.wrapping_sub(xid).wrapping_sub(1) < u32::MAX / 2;
    begun_before_xmax && !running.split(',').any(|other| low_half(other) == Some(xid))
}

/// The 32 bits of a transaction number that the WAL carries.
fn low_half(number: &str) -> Option<u32> {
    let number: u64 = number.parse().ok()?;
    u32::try_from(number & u64::from(u32::MAX)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visibility_in_a_snapshot() {
        for (snapshot, xid, visible) in [
            ("10:20:12,15", 9, true),
            ("10:20:12,15", 12, false),
            ("10:20:12,15", 13, true),
            ("10:20:12,15", 20, false),
            ("10:10:", 9, true),
            ("10:10:", 10, false),
            // The 32-bit counter has wrapped around.
            ("4294967300:4294967310:4294967305", 9, false),
            ("4294967300:4294967310:4294967305", 4_294_967_290, true),
            ("4294967300:4294967310:4294967305", 13, true),
            ("4294967300:4294967310:4294967305", 14, false),
            ("garbage", 1, false),
        ] {
            assert_eq!(is_visible(snapshot, xid), visible, "{snapshot} {xid}");
        }
    }
}
