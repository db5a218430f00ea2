//! Keys of a table → its rows of those keys in one snapshot, with a position behind all that it shows; and pages of keys in
//! key order. Each in a transaction of its own that is as short as its statement. Never writes to a table.

use std::error::Error;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Config, Row, Statement};

use crate::catalog::{ColumnNumber, KeyColumn, RowKey, TypeId, key_arrays, quoted_identifier};
use crate::lsn::Lsn;
use crate::upstream::UpstreamError;
use crate::upstream::backfill::TableCopy;
use crate::upstream::sql::SqlSession;
use crate::wal::pgoutput::Datum;

/// A session that reads rows by key.
#[derive(Debug)]
pub struct TableReader {
    session: SqlSession,
}

/// A table whose rows are identified by a key.
#[derive(Clone, Debug)]
pub struct KeyedTable {
    /// What to read of it.
    pub table: TableCopy,
    /// The key, in key order.
    pub key: Vec<KeyColumn>,
    /// What the names mean: another column of that name is not read.
    pub columns: Vec<ColumnMeaning>,
}

/// The column that a name stands for.
#[derive(Clone, Debug)]
pub struct ColumnMeaning {
    /// The name.
    pub name: String,
    /// The column.
    pub number: ColumnNumber,
    /// Its type, where a column of that number has had another.
    pub type_id: Option<TypeId>,
}

/// Rows of one snapshot.
#[derive(Debug)]
pub struct KeyedRows {
    /// Whole rows, in the table's columns.
    pub rows: Vec<Vec<Datum>>,
    /// Keys of rows that are there.
    pub present: Vec<RowKey>,
    /// What it shows.
    pub snapshot: PgSnapshot,
    /// Every commit that the snapshot shows is before this position.
    pub lsn: Lsn,
}

impl TableReader {
    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn connect(config: &Config) -> Result<Self, UpstreamError> {
        let session = SqlSession::connect(config).await?;
        session
            .client()
            .batch_execute(include_str!("../../sql/ingest_reader.sql"))
            .await?;
        Ok(Self { session })
    }

    /// The rows of `whole` keys, and which of `looked_for` there are.
    ///
    /// # Errors
    /// When the table cannot be read; the session is of no further use.
    pub async fn fetch(
        &self,
        table: &KeyedTable,
        whole: &[RowKey],
        looked_for: &[RowKey],
    ) -> Result<KeyedRows, UpstreamError> {
        let from = self.begin(table).await?;
        let columns = quoted_list(&table.table.columns);
        let mut fetched = KeyedRows {
            rows: Vec::with_capacity(whole.len()),
            present: Vec::with_capacity(looked_for.len()),
            snapshot: PgSnapshot::default(),
            lsn: Lsn::ZERO,
        };
        if !whole.is_empty() {
            let sql = format!("select {columns} from {from} where {}", by_key(table));
            for row in self.by_keys(&sql, table, whole).await? {
                fetched.rows.push(datums(&row)?);
            }
        }
        if !looked_for.is_empty() {
            let sql = format!(
                "select {} from {from} where {}",
                key_list(table),
                by_key(table)
            );
            for row in self.by_keys(&sql, table, looked_for).await? {
                fetched.present.push(key(&row)?);
            }
        }
        let sql = include_str!("../../sql/ingest_snapshot.sql");
        let row = self.session.client().query_one(sql, &[]).await?;
        fetched.snapshot = PgSnapshot::parse(row.try_get("snapshot")?)?;
        // After all reading: also what made a table look empty to this snapshot is before it.
        let lsn: String = row.try_get("lsn")?;
        fetched.lsn = lsn
            .parse()
            .map_err(|error| UpstreamError::Protocol(format!("{error}")))?;
        self.session.client().batch_execute("commit").await?;
        Ok(fetched)
    }

    /// The next keys after a key, in key order.
    ///
    /// # Errors
    /// When the table cannot be read; the session is of no further use.
    pub async fn keys_after(
        &self,
        table: &KeyedTable,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Vec<RowKey>, UpstreamError> {
        let from = self.begin(table).await?;
        let keys = key_list(table);
        let mut conditions: Vec<String> = table
            .table
            .row_filter
            .iter()
            .map(|f| format!("({f})"))
            .collect();
        if after.is_some() {
            let values: Vec<String> = (1..=table.key.len()).map(|n| format!("${n}")).collect();
            conditions.push(format!("({keys}) > ({})", values.join(", ")));
        }
        let condition = match conditions.is_empty() {
            true => String::new(),
            false => format!("where {} ", conditions.join(" and ")),
        };
        let sql = format!("select {keys} from {from} {condition}order by {keys} limit {limit}");
        let types: Vec<Type> = match after {
            Some(_) => types(table, |column| column.kind.oid().0)?,
            None => Vec::new(),
        };
        let statement = self.statement(&sql, table, &types).await?;
        let values: Vec<Raw> = after
            .into_iter()
            .flat_map(|key| RowKey::parts(key.as_bytes()))
            .map(|part| Raw(Bytes::copy_from_slice(part)))
            .collect();
        let rows = self
            .session
            .client()
            .query(&statement, &parameters(&values))
            .await?;
        let found = rows.iter().map(key).collect::<Result<_, _>>()?;
        self.session.client().batch_execute("commit").await?;
        Ok(found)
    }

    /// Makes the server flush its WAL and send it: what is read leaves records that nobody waits for, and an idle server may
    /// take 15 seconds to write them.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn nudge(&self) -> Result<(), UpstreamError> {
        let sql = include_str!("../../sql/ingest_nudge.sql");
        self.session.client().batch_execute(sql).await?;
        Ok(())
    }

    /// Begins a transaction whose snapshot is taken once the table is held: an older one would take a table that is being
    /// rewritten or truncated for an empty one. What to select from.
    async fn begin(&self, table: &KeyedTable) -> Result<String, UpstreamError> {
        let client = self.session.client();
        let sql = include_str!("../../sql/ingest_table.sql");
        let row = client.query_opt(sql, &[&table.table.relation.0]).await?;
        let changed =
            || UpstreamError::Changed(format!("table {} is gone or renamed", table.table.name));
        let from: String = row.ok_or_else(changed)?.try_get("source")?;
        client
            .batch_execute(&format!(
                "begin isolation level repeatable read read only; lock table {from} in access share mode"
            ))
            .await?;
        let row = client.query_opt(sql, &[&table.table.relation.0]).await?;
        let held: String = row.ok_or_else(changed)?.try_get("source")?;
        if held == from {
            Ok(from)
        } else {
            Err(changed())
        }
    }

    async fn by_keys(
        &self,
        sql: &str,
        table: &KeyedTable,
        keys: &[RowKey],
    ) -> Result<Vec<Row>, UpstreamError> {
        let types = types(table, |column| column.kind.array_oid().0)?;
        let statement = self.statement(sql, table, &types).await?;
        let keys = keys.iter().map(RowKey::as_bytes);
        let arrays: Vec<Raw> = key_arrays(&table.key, keys).into_iter().map(Raw).collect();
        Ok(self
            .session
            .client()
            .query(&statement, &parameters(&arrays))
            .await?)
    }

    /// Prepared anew each time, while the table is held: a kept one would find its columns again by name, whatever they mean.
    async fn statement(
        &self,
        sql: &str,
        table: &KeyedTable,
        types: &[Type],
    ) -> Result<Statement, UpstreamError> {
        let statement = self.session.client().prepare_typed(sql, types).await?;
        for found in statement.columns() {
            let meant = table
                .columns
                .iter()
                .find(|column| column.name == found.name());
            let same = meant.is_some_and(|column| {
                let type_id = column
                    .type_id
                    .map_or(found.type_().oid(), |type_id| type_id.0);
                (found.column_id(), found.type_().oid()) == (Some(column.number.0), type_id)
            });
            if !same {
                return Err(UpstreamError::Changed(format!(
                    "a column of table {} is another one now",
                    table.table.name
                )));
            }
        }
        Ok(statement)
    }
}

/// Which transactions a snapshot shows, by the 32 bits of their numbers that the WAL carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PgSnapshot {
    end: u32,
    running: Vec<u32>,
}

impl PgSnapshot {
    /// Reads the text of a `pg_snapshot`: `xmin:xmax:running,…`, of 64-bit numbers.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, UpstreamError> {
        let bad = || UpstreamError::Protocol("not a pg_snapshot".to_owned());
        let mut parts = text.splitn(3, ':').skip(1);
        let (end, running) = parts.next().zip(parts.next()).ok_or_else(bad)?;
        let low = |number: &str| {
            let number: u64 = number.parse().map_err(|_| bad())?;
            u32::try_from(number & u64::from(u32::MAX)).map_err(|_| bad())
        };
        let running = running.split(',').filter(|number| !number.is_empty());
        Ok(Self {
            end: low(end)?,
            running: running.map(low).collect::<Result<_, _>>()?,
        })
    }

    /// Whether it shows a transaction that has committed.
    #[must_use]
    pub fn sees(&self, xid: u32) -> bool {
        // Numbers wrap around; at most half of them are in use.
        let begun = self.end.wrapping_sub(xid).wrapping_sub(1) < u32::MAX / 2;
        begun && !self.running.contains(&xid)
    }

    /// The first number that was not given out yet.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.end
    }

    /// The transactions that were running.
    #[must_use]
    pub fn running(&self) -> &[u32] {
        &self.running
    }
}

/// A condition that is true of the rows of the keys in the parameters.
fn by_key(table: &KeyedTable) -> String {
    let keys = key_list(table);
    let condition = if table.key.len() == 1 {
        format!("{keys} = any ($1)")
    } else {
        let arrays: Vec<String> = (1..=table.key.len()).map(|n| format!("${n}")).collect();
        format!("({keys}) in (select * from unnest({}))", arrays.join(", "))
    };
    match &table.table.row_filter {
        Some(filter) => format!("{condition} and ({filter})"),
        None => condition,
    }
}

fn key_list(table: &KeyedTable) -> String {
    let names: Vec<String> = table.key.iter().map(|column| column.name.clone()).collect();
    quoted_list(&names)
}

/// Identifiers in quotes.
fn quoted_list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| quoted_identifier(name)).collect();
    quoted.join(", ")
}

fn types(table: &KeyedTable, oid: impl Fn(&KeyColumn) -> u32) -> Result<Vec<Type>, UpstreamError> {
    let known = |column| {
        Type::from_oid(oid(column))
            .ok_or_else(|| UpstreamError::Protocol("a key's type is not known".to_owned()))
    };
    table.key.iter().map(known).collect()
}

/// A value in binary form, whatever its type.
#[derive(Debug)]
struct Raw(Bytes);

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Bytes::copy_from_slice(raw)))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn parameters(values: &[Raw]) -> Vec<&(dyn ToSql + Sync)> {
    values
        .iter()
        .map(|value| value as &(dyn ToSql + Sync))
        .collect()
}

fn datums(row: &Row) -> Result<Vec<Datum>, UpstreamError> {
    (0..row.len())
        .map(|column| {
            let value: Option<Raw> = row.try_get(column)?;
            Ok(value.map_or(Datum::Null, |value| Datum::Binary(value.0)))
        })
        .collect()
}

/// The key that a row consists of.
fn key(row: &Row) -> Result<RowKey, UpstreamError> {
    let parts: Vec<Raw> = (0..row.len())
        .map(|column| row.try_get(column))
        .collect::<Result<_, _>>()?;
    Ok(RowKey::from_parts(parts.iter().map(|part| &part.0[..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_what_had_ended() {
        let snapshot = PgSnapshot::parse("100:110:100,105").unwrap();
        for (xid, seen) in [
            (99, true),
            (100, false),
            (104, true),
            (105, false),
            (109, true),
            (110, false),
            (111, false),
        ] {
            assert_eq!(snapshot.sees(xid), seen, "{xid}");
        }
        // Numbers of 64 bits, whose lower half has wrapped around.
        let snapshot = PgSnapshot::parse("4294967290:4294967300:4294967295").unwrap();
        for (xid, seen) in [
            (u32::MAX - 1, true),
            (u32::MAX, false),
            (3, true),
            (4, false),
        ] {
            assert_eq!(snapshot.sees(xid), seen, "{xid}");
        }
        assert_eq!(PgSnapshot::parse("5:5:").unwrap().running(), [0; 0]);
        for text in ["", "1", "1:2", "a:b:c", "1:2:x"] {
            assert!(PgSnapshot::parse(text).is_err(), "{text}");
        }
    }
}
