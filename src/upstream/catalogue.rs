//! `rektor.index` and PostgreSQL's catalogue, read at one moment → index definitions, each usable or with the reason why not.
//! Only reads; an index that cannot be followed is a description for the operator, never an error of the whole.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::catalog::{
    ColumnNumber, Factory, IncludeColumn, IndexDefinition, IndexId, IndexOptions, KeyColumn,
    KeyType, Method, PgvectorTypes, QualifiedName, RelationId, Storage, TypeId, VectorColumn,
};
use crate::upstream::UpstreamError;
use crate::upstream::sql::SqlSession;
use crate::vector::{
    BIT_OID, Dim, Expression, FLOAT4_ARRAY_OID, Form, MAX_DIM, Metric, VectorType,
};
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
                catalogue.indexes.push(entry(row)?);
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

/// One row of `ingest_indexes.sql`.
fn entry(row: &Row) -> Result<IndexEntry, UpstreamError> {
    let table = QualifiedName {
        schema: row.try_get("table_schema")?,
        name: row.try_get("table_name")?,
    };
    let mut problems = Vec::new();
    table_problems(row, &table, &mut problems)?;
    let column = vector_column(row, &mut problems)?;
    let key = key_columns(row, &mut problems)?;
    let include = include_columns(row, &mut problems)?;
    let metric: String = row.try_get("metric")?;
    let metric = Metric::from_name(&metric).unwrap_or_else(|| {
        problems.push(format!("metric {metric} is not known"));
        Metric::L2
    });
    let dimensions: i32 = row.try_get("dimensions")?;
    let dim = usize::try_from(dimensions).ok().and_then(Dim::new);
    let Some(dim) = dim.or_else(|| {
        problems.push(format!("{dimensions} is no number of dimensions"));
        Dim::new(1)
    }) else {
        return Err(UpstreamError::Protocol("no dimension".into()));
    };
    let expression = expression(row, &column, &mut problems)?;
    let kind = expression.kind(column.kind).unwrap_or(column.kind);
    match (metric.form(dim), kind) {
        (Form::Bits(_), VectorType::Bit) => {}
        (Form::Numbers(dim), VectorType::Vector | VectorType::Halfvec | VectorType::RealArray)
            if dim.get() <= MAX_DIM => {}
        (form, kind) => problems.push(format!(
            "{} is of type {}, which has no distance {} of {} dimensions",
            match expression.sql(&column.name, column.kind, dim) {
                Some(sql) => sql,
                None => format!("column {}", column.name),
            },
            kind.sql_name(),
            metric.name(),
            form.dim()
        )),
    }
    let options = options(row.try_get("options")?, kind).unwrap_or_else(|problem| {
        problems.push(problem);
        IndexOptions::default()
    });
    unlisted_columns(row, &column, &key, &include, &mut problems)?;
    Ok(IndexEntry {
        definition: Arc::new(IndexDefinition {
            id: IndexId(row.try_get("id")?),
            name: QualifiedName {
                schema: table.schema.clone(),
                name: row.try_get("index_name")?,
            },
            relation: RelationId(row.try_get("relation")?),
            table,
            column,
            expression,
            pgvector: PgvectorTypes {
                vector: row.try_get::<_, Option<u32>>("vector_type")?.map(TypeId),
                halfvec: row.try_get::<_, Option<u32>>("halfvec_type")?.map(TypeId),
            },
            dim,
            metric,
            key,
            include,
            options,
        }),
        unusable: problems.into_iter().next(),
        reindexed: row.try_get("reindexed")?,
        stamp: row.try_get("stamp")?,
        written: row.try_get("written")?,
        file: row.try_get("file")?,
        shape: shape(row)?,
        row_filter: row.try_get("row_filter")?,
        partitions: partitions(row)?,
    })
}

fn shape(row: &Row) -> Result<Shape, UpstreamError> {
    let numbers: Option<Vec<i16>> = row.try_get("shape_numbers")?;
    let names: Option<Vec<String>> = row.try_get("shape_names")?;
    let numbers = numbers.into_iter().flatten().map(ColumnNumber);
    Ok(Shape(numbers.zip(names.into_iter().flatten()).collect()))
}

fn partitions(row: &Row) -> Result<Vec<Partition>, UpstreamError> {
    let oids: Option<Vec<u32>> = row.try_get("part_oids")?;
    let files: Option<Vec<u32>> = row.try_get("part_files")?;
    let linked: Option<Vec<u32>> = row.try_get("part_linked")?;
    let attached: Option<Vec<bool>> = row.try_get("part_attached")?;
    let files = files.into_iter().flatten();
    let links = linked.into_iter().flatten();
    let rest = files.zip(links.zip(attached.into_iter().flatten()));
    let partitions = oids.into_iter().flatten().zip(rest);
    Ok(partitions
        .map(|(oid, (file, (linked, attached)))| Partition {
            relation: RelationId(oid),
            file,
            linked,
            attached,
        })
        .collect())
}

/// What makes the table itself impossible to copy or follow.
fn table_problems(
    row: &Row,
    table: &QualifiedName,
    problems: &mut Vec<String>,
) -> Result<(), UpstreamError> {
    let kind: String = row.try_get("relation_kind")?;
    if kind != "r" && kind != "p" {
        problems.push(format!("{table} is not a table"));
    }
    if row.try_get::<_, String>("persistence")? != "p" {
        problems.push(format!(
            "table {table} is unlogged or temporary: its changes are not replicated"
        ));
    }
    if !row.try_get::<_, bool>("may_select")? {
        problems.push(format!(
            "permission denied for table {table}: grant SELECT on it to Rektor's role"
        ));
    }
    if let Some(problem) = row.try_get::<_, Option<String>>("problem")? {
        let withdrawn = row.try_get::<_, Option<String>>("withdrawn")?.is_some();
        problems.push(if withdrawn {
            format!("{problem}; until that is mended it is out of publication {PUBLICATION}, so that its writes go on")
        } else {
            problem
        });
    }
    if !row.try_get::<_, bool>("published")? {
        problems.push(format!(
            "table {table} is not in publication {PUBLICATION}: run ALTER PUBLICATION {PUBLICATION} ADD TABLE {table}"
        ));
    } else if !row.try_get::<_, bool>("publishes_all")? {
        problems.push(format!(
            "publication {PUBLICATION} leaves out some kinds of changes: run rektor setup"
        ));
    }
    Ok(())
}

fn vector_column(row: &Row, problems: &mut Vec<String>) -> Result<VectorColumn, UpstreamError> {
    let name: String = row.try_get("column_name")?;
    let number: Option<i16> = row.try_get("column_number")?;
    let type_id: Option<u32> = row.try_get("column_type")?;
    let type_name: Option<String> = row.try_get("column_type_name")?;
    let kind = match (type_id, type_name.as_deref()) {
        (Some(FLOAT4_ARRAY_OID), _) => Some(VectorType::RealArray),
        (Some(BIT_OID), _) => Some(VectorType::Bit),
        (_, Some("vector")) => Some(VectorType::Vector),
        (_, Some("halfvec")) => Some(VectorType::Halfvec),
        (Some(_) | None, Some(_) | None) => None,
    };
    if number.is_none() {
        problems.push(format!("column {name} does not exist"));
    } else if kind.is_none() {
        problems.push(format!(
            "column {name} is of type {}, not vector, halfvec, real[] or bit",
            type_name.unwrap_or_default()
        ));
    }
    Ok(VectorColumn {
        name,
        number: ColumnNumber(number.unwrap_or(0)),
        kind: kind.unwrap_or(VectorType::Vector),
        type_id: TypeId(type_id.unwrap_or(0)),
    })
}

/// What of the column is indexed.
fn expression(
    row: &Row,
    column: &VectorColumn,
    problems: &mut Vec<String>,
) -> Result<Expression, UpstreamError> {
    let Some(name) = row.try_get::<_, Option<String>>("expression")? else {
        return Ok(Expression::Column);
    };
    let expression = Expression::from_name(&name);
    if expression.is_none_or(|expression| expression.kind(column.kind).is_none()) {
        problems.push(format!(
            "{name} of column {} of type {} cannot be indexed",
            column.name,
            column.kind.sql_name()
        ));
    }
    Ok(expression.unwrap_or_default())
}

/// The columns that identify a row in the stream.
fn key_columns(row: &Row, problems: &mut Vec<String>) -> Result<Vec<KeyColumn>, UpstreamError> {
    let Some(names) = row.try_get::<_, Option<Vec<String>>>("key_names")? else {
        let identity: String = row.try_get("replica_identity")?;
        problems.push(match identity.as_str() {
            "n" => "the table's replica identity is NOTHING: its updates and deletes are not replicated".into(),
            "i" => "the index that was the table's replica identity is gone".into(),
            _ => "the table has no primary key".to_owned(),
        });
        return Ok(Vec::new());
    };
    let numbers: Vec<i16> = row.try_get("key_numbers")?;
    let types: Vec<u32> = row.try_get("key_types")?;
    if !row.try_get::<_, bool>("key_immediate")? {
        problems.push("the table's primary key is deferrable".into());
    }
    let mut key = Vec::with_capacity(names.len());
    for ((name, number), type_id) in names.into_iter().zip(numbers).zip(types) {
        let number = ColumnNumber(number);
        match KeyType::from_oid(TypeId(type_id)) {
            Some(kind) => key.push(KeyColumn { name, number, kind }),
            None => problems.push(format!(
                "key column {name} is not of an integer, uuid or text type"
            )),
        }
    }
    Ok(key)
}

fn include_columns(
    row: &Row,
    problems: &mut Vec<String>,
) -> Result<Vec<IncludeColumn>, UpstreamError> {
    let names: Option<Vec<String>> = row.try_get("include_names")?; // NULL without columns
    let names = names.unwrap_or_default();
    let numbers: Option<Vec<Option<i16>>> = row.try_get("include_numbers")?;
    let types: Option<Vec<Option<u32>>> = row.try_get("include_types")?;
    let sendable: Option<Vec<bool>> = row.try_get("include_sendable")?;
    let found = numbers
        .into_iter()
        .flatten()
        .zip(types.into_iter().flatten());
    let deterministic: Option<Vec<bool>> = row.try_get("include_deterministic")?;
    let found = found.zip(sendable.into_iter().flatten());
    let found = found.zip(deterministic.into_iter().flatten());
    let mut include = Vec::with_capacity(names.len());
    for (name, (((number, type_id), sendable), deterministic)) in names.into_iter().zip(found) {
        let (Some(number), Some(type_id)) = (number, type_id) else {
            problems.push(format!("column {name} does not exist"));
            continue;
        };
        if !sendable {
            problems.push(format!("column {name} is of a type without binary output"));
        }
        include.push(IncludeColumn {
            name,
            number: ColumnNumber(number),
            type_id: TypeId(type_id),
            deterministic,
        });
    }
    Ok(include)
}

/// The publication may carry only some of the columns.
fn unlisted_columns(
    row: &Row,
    column: &VectorColumn,
    key: &[KeyColumn],
    include: &[IncludeColumn],
    problems: &mut Vec<String>,
) -> Result<(), UpstreamError> {
    let Some(listed) = row.try_get::<_, Option<Vec<i16>>>("published_columns")? else {
        return Ok(());
    };
    let needed = [(&column.name, column.number)].into_iter();
    let needed = needed.chain(key.iter().map(|k| (&k.name, k.number)));
    for (name, number) in needed.chain(include.iter().map(|i| (&i.name, i.number))) {
        if !listed.contains(&number.0) {
            problems.push(format!(
                "column {name} is not in the column list of publication {PUBLICATION}"
            ));
        }
    }
    Ok(())
}

/// `WITH (…)` as `rektor.create_index` stored it.
fn options(text: &str, kind: VectorType) -> Result<IndexOptions, String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
        .map_err(|_| "the index's options are no JSON object".to_owned())?;
    let mut options = IndexOptions {
        storage: match kind {
            // All that it has.
            VectorType::Halfvec => Storage::F16,
            VectorType::Vector | VectorType::RealArray | VectorType::Bit => Storage::F32,
        },
        ..IndexOptions::default()
    };
    for (name, value) in &object {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let invalid = || format!("option {name} cannot be {text}");
        match name.as_str() {
            "method" => {
                options.method = Method::from_name(&text).ok_or_else(invalid)?;
            }
            "lists" => options.lists = text.parse().map_err(|_| invalid())?,
            "factory" => options.factory = Some(Factory::new(&text).ok_or_else(invalid)?),
            "m" => options.m = text.parse().map_err(|_| invalid())?,
            "ef_construction" => options.ef_construction = text.parse().map_err(|_| invalid())?,
            // For columns without a type modifier; the row carries the dimensions in any case.
            "dimensions" => {}
            "storage" => {
                let mut kinds = Storage::ALL.into_iter();
                options.storage = kinds
                    .find(|kind| kind.name() == text)
                    .filter(|storage| kind != VectorType::Bit || *storage == Storage::F32)
                    .ok_or_else(invalid)?;
            }
            _ => return Err(format!("option {name} is not known or cannot be {text}")),
        }
    }
    if options.method == Method::Flat && options.storage == Storage::I8 {
        return Err("storage i8 keeps nothing that method flat could compare".to_owned());
    }
    Ok(options)
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

    #[test]
    fn options_are_understood_or_named() {
        assert_eq!(
            options("{}", VectorType::Vector),
            Ok(IndexOptions::default())
        );
        let flat = options(
            r#"{"method": "flat", "m": 8, "ef_construction": "64", "storage": "f32"}"#,
            VectorType::Vector,
        )
        .unwrap();
        assert_eq!(
            (flat.method, flat.m, flat.ef_construction),
            (Method::Flat, 8, 64)
        );
        let storage = |text: &str, kind| options(text, kind).map(|options| options.storage);
        assert_eq!(storage("{}", VectorType::Halfvec), Ok(Storage::F16));
        for kind in Storage::ALL {
            let text = format!(r#"{{"storage": "{}"}}"#, kind.name());
            assert_eq!(storage(&text, VectorType::Halfvec), Ok(kind));
        }
        let flat = r#"{"storage": "i8", "method": "flat"}"#;
        assert!(storage(flat, VectorType::Vector).is_err());
        for (text, part) in [
            ("[]", "no JSON"),
            (r#"{"method": "magic"}"#, "method"),
            (r#"{"m": -1}"#, "m cannot be -1"),
            (r#"{"factory": "LSH"}"#, "factory"),
            (r#"{"probes": 3}"#, "probes"),
            (r#"{"storage": "f8"}"#, "storage cannot be f8"),
            (r#"{"storage": "f16"}"#, "storage cannot be f16"),
        ] {
            assert!(
                options(text, VectorType::Bit).unwrap_err().contains(part),
                "{text}"
            );
        }
    }
}
