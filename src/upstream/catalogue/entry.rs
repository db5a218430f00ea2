//! A row of the catalogue's query → an index's definition, with all reasons why it cannot be followed.
//! Reads nothing itself.

use std::sync::Arc;

use tokio_postgres::Row;

use super::{IndexEntry, PUBLICATION, Partition, Shape};
use crate::catalog::{
    ColumnNumber, Factory, IncludeColumn, IndexDefinition, IndexId, IndexOptions, KeyColumn,
    KeyType, Method, PgvectorTypes, QualifiedName, RelationId, Storage, TypeId, VectorColumn,
};
use crate::upstream::UpstreamError;
use crate::vector::{
    BIT_OID, Dim, Expression, FLOAT4_ARRAY_OID, Form, MAX_DIM, Metric, VectorType,
};

/// One row of `ingest_indexes.sql`.
pub(super) fn read(row: &Row) -> Result<IndexEntry, UpstreamError> {
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
