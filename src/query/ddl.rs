//! `CREATE INDEX … USING faiss`, and DROP, REINDEX, ALTER INDEX → the call of `rektor.ddl` that carries it out.
//! Validates only what the call cannot express; everything else is checked upstream.

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    AlterTableStmt, AlterTableType, DefElem, DropStmt, IndexElem, IndexStmt, Node, ObjectType,
    RangeVar, ReindexObjectType, ReindexStmt, RenameStmt, SortByDir, SortByNulls,
};
use serde_json::{Map, Value, json};

use super::{expression, parse, quote, tables};
use crate::vector::Expression;

/// The access method that makes an index Rektor's.
const ACCESS_METHOD: &str = "faiss";

/// A name as written, unquoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName {
    /// Its schema, if written.
    pub schema: Option<String>,
    /// The name.
    pub name: String,
}

/// DDL that may be Rektor's to carry out.
#[derive(Clone, Debug, PartialEq)]
pub enum Ddl {
    /// `CREATE INDEX … USING faiss`: always Rektor's.
    CreateIndex(Box<CreateIndex>),
    /// `DROP INDEX`: Rektor's if one of the names is.
    DropIndex {
        /// The names.
        names: Vec<ObjectName>,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// `ALTER INDEX … RENAME TO`: Rektor's if the name is.
    RenameIndex {
        /// The index.
        name: ObjectName,
        /// Its new name.
        new_name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// `ALTER INDEX …`, anything but RENAME: Rektor's if the name is.
    AlterIndex {
        /// The index.
        name: ObjectName,
        /// IF EXISTS.
        if_exists: bool,
        /// What is asked for, or why it cannot be done with an index of Rektor's.
        change: Result<AlterIndex, DdlError>,
    },
    /// `REINDEX INDEX`: Rektor's if the name is.
    Reindex {
        /// The index.
        name: ObjectName,
    },
}

/// `CREATE INDEX … USING faiss`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateIndex {
    /// The index's name, if given.
    pub name: Option<String>,
    /// The table.
    pub table: ObjectName,
    /// What the call says, or why it is refused.
    arguments: Result<Map<String, Value>, DdlError>,
}

/// What `ALTER INDEX` sets and resets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlterIndex {
    set: Map<String, Value>,
    reset: Vec<String>,
}

/// Why a command on an index of Rektor's is refused; the client is sent these fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DdlError {
    /// The SQLSTATE.
    pub sqlstate: &'static str,
    /// The message, as PostgreSQL words it.
    pub message: String,
}

/// `feature_not_supported`
const NOT_SUPPORTED: &str = "0A000";
/// `invalid_parameter_value`
const INVALID_PARAMETER: &str = "22023";

impl DdlError {
    fn not_supported(message: impl Into<String>) -> Self {
        Self {
            sqlstate: NOT_SUPPORTED,
            message: message.into(),
        }
    }
}

impl Ddl {
    /// The indexes that the command is about; the command is Rektor's if one of them is. Empty for CREATE INDEX, which always is.
    #[must_use]
    pub fn names(&self) -> &[ObjectName] {
        match self {
            Self::CreateIndex(_) => &[],
            Self::DropIndex { names, .. } => names,
            Self::RenameIndex { name, .. }
            | Self::AlterIndex { name, .. }
            | Self::Reindex { name } => std::slice::from_ref(name),
        }
    }

    /// The command tag that a client is told.
    #[must_use]
    pub const fn tag(&self) -> &'static str {
        match self {
            Self::CreateIndex(_) => "CREATE INDEX",
            Self::DropIndex { .. } => "DROP INDEX",
            Self::RenameIndex { .. } | Self::AlterIndex { .. } => "ALTER INDEX",
            Self::Reindex { .. } => "REINDEX",
        }
    }

    /// The statement that carries it out upstream.
    ///
    /// # Errors
    /// When the command asks for what an index of Rektor's cannot be.
    pub fn call(&self) -> Result<String, DdlError> {
        let command = match self {
            Self::CreateIndex(create) => {
                json!({ "create_index": create.arguments.as_ref().map_err(Clone::clone)? })
            }
            Self::DropIndex { names, if_exists } => {
                let names: Vec<Value> = names
                    .iter()
                    .map(|name| json!([name.schema, name.name]))
                    .collect();
                json!({ "drop_index": { "names": names, "if_exists": if_exists } })
            }
            Self::RenameIndex {
                name,
                new_name,
                if_exists,
            } => json!({ "rename_index": {
                "schema": name.schema, "name": name.name, "new_name": new_name, "if_exists": if_exists,
            } }),
            Self::AlterIndex {
                name,
                if_exists,
                change,
            } => {
                let change = change.as_ref().map_err(Clone::clone)?;
                json!({ "alter_index": {
                    "schema": name.schema, "name": name.name, "if_exists": if_exists,
                    "set": change.set, "reset": change.reset,
                } })
            }
            Self::Reindex { name } => {
                json!({ "reindex": { "schema": name.schema, "name": name.name } })
            }
        };
        // A JSON text of serde_json has no byte below 0x20; NUL cannot come out of SQL text.
        let command = quote::literal(&command.to_string());
        Ok(format!("CALL rektor.ddl({command}::pg_catalog.jsonb)"))
    }
}

/// The DDL in a statement, if it may be Rektor's.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "five kinds of statements among 120"
)]
pub(super) fn recognise(tree: &Tree) -> Option<Ddl> {
    match tree {
        Tree::IndexStmt(index) if index.access_method == ACCESS_METHOD => create_index(index),
        Tree::DropStmt(drop) => drop_index(drop),
        Tree::RenameStmt(rename) => rename_index(rename),
        Tree::AlterTableStmt(alter) => alter_index(alter),
        Tree::ReindexStmt(reindex) => reindex_index(reindex),
        _ => None,
    }
}

fn create_index(index: &IndexStmt) -> Option<Ddl> {
    let table = index.relation.as_ref()?;
    Some(Ddl::CreateIndex(Box::new(CreateIndex {
        name: (!index.idxname.is_empty()).then(|| index.idxname.clone()),
        table: object_name(table),
        arguments: create_arguments(index, table),
    })))
}

/// The call's arguments. What is refused is refused in PostgreSQL's words.
fn create_arguments(index: &IndexStmt, table: &RangeVar) -> Result<Map<String, Value>, DdlError> {
    let method = |lack: &str| {
        DdlError::not_supported(format!(
            "access method \"{ACCESS_METHOD}\" does not support {lack}"
        ))
    };
    if index.unique || index.nulls_not_distinct {
        return Err(method("unique indexes"));
    }
    let [element] = index.index_params.as_slice() else {
        return Err(method("multicolumn indexes"));
    };
    let element = index_element(element)?;
    let indexed = Indexed::of(element, table)?;
    if index.where_clause.is_some() {
        return Err(method("partial indexes"));
    }
    if SortByDir::try_from(element.ordering) != Ok(SortByDir::SortbyDefault) {
        return Err(method("ASC/DESC options"));
    }
    if SortByNulls::try_from(element.nulls_ordering) != Ok(SortByNulls::SortbyNullsDefault) {
        return Err(method("NULLS FIRST/LAST options"));
    }
    if !element.collation.is_empty() {
        return Err(method("collations"));
    }
    if !element.opclassopts.is_empty() {
        return Err(method("operator class options"));
    }
    if !index.table_space.is_empty() {
        return Err(method("tablespaces"));
    }
    if !table.catalogname.is_empty() {
        return Err(DdlError::not_supported(format!(
            "cross-database references are not implemented: \"{}.{}.{}\"",
            table.catalogname, table.schemaname, table.relname
        )));
    }
    let include = index
        .index_including_params
        .iter()
        .map(|column| included(column))
        .collect::<Result<Vec<_>, _>>()?;
    let table_name = object_name(table);
    let mut options = options(&index.options)?;
    if let Some(dimensions) = indexed.dimensions {
        let named = options.insert("dimensions".to_owned(), dimensions.into());
        if named.is_some_and(|named| named != dimensions) {
            return Err(DdlError {
                sqlstate: INVALID_PARAMETER,
                message: format!("the expression has {dimensions} dimensions"),
            });
        }
    }
    let mut arguments = json!({
        "name": (!index.idxname.is_empty()).then_some(&index.idxname),
        "schema": table_name.schema,
        "table": table_name.name,
        "only": !table.inh,
        "column": indexed.column,
        "opclass": element.opclass.last().and_then(parse::string),
        "include": include,
        "options": options,
        "if_not_exists": index.if_not_exists,
    });
    if indexed.expression != Expression::Column
        && let Some(arguments) = arguments.as_object_mut()
    {
        arguments.insert("expression".into(), indexed.expression.to_string().into());
    }
    match arguments {
        Value::Object(arguments) => Ok(arguments),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Ok(Map::new())
        }
    }
}

/// What is indexed.
struct Indexed<'a> {
    column: &'a str,
    expression: Expression,
    dimensions: Option<i64>,
}

impl<'a> Indexed<'a> {
    fn of(element: &'a IndexElem, table: &RangeVar) -> Result<Self, DdlError> {
        if !element.name.is_empty() {
            return Ok(Self {
                column: &element.name,
                expression: Expression::Column,
                dimensions: None,
            });
        }
        let found = element.expr.as_deref().and_then(expression::on_column);
        let found = found.and_then(|on| {
            Some(Self {
                column: tables::Searched::alone(table).column_of(&on.column)?,
                expression: on.expression,
                dimensions: on.dimensions,
            })
        });
        found.ok_or_else(|| {
            DdlError::not_supported(format!(
                "access method \"{ACCESS_METHOD}\" supports only indexes on a column, a cast of one to vector(n) or \
                 halfvec(n), binary_quantize(column)::bit(n) and subvector(column, start, count)::vector(count)"
            ))
        })
    }
}

fn index_element(node: &Node) -> Result<&IndexElem, DdlError> {
    match &node.node {
        Some(Tree::IndexElem(element)) => Ok(element),
        Some(_) | None => Err(DdlError::not_supported("index column is not understood")),
    }
}

/// A column of INCLUDE.
fn included(node: &Node) -> Result<&str, DdlError> {
    let element = index_element(node)?;
    if element.name.is_empty() {
        return Err(DdlError::not_supported(
            "expressions are not supported in included columns",
        ));
    }
    if !element.opclass.is_empty() {
        return Err(DdlError {
            sqlstate: "42P17", // invalid_object_definition, as PostgreSQL says it
            message: "including column does not support an operator class".into(),
        });
    }
    Ok(&element.name)
}

/// `WITH (…)`: numbers stay numbers, an option without a value is true, everything else is text.
fn options(list: &[Node]) -> Result<Map<String, Value>, DdlError> {
    let mut options = Map::new();
    for node in list {
        let option = definition(node)?;
        let value = match &option.arg {
            None => Value::Bool(true),
            Some(value) => option_value(value).ok_or_else(|| DdlError {
                sqlstate: INVALID_PARAMETER,
                message: format!("invalid value for parameter \"{}\"", option.defname),
            })?,
        };
        if options.insert(option.defname.clone(), value).is_some() {
            return Err(DdlError {
                sqlstate: INVALID_PARAMETER,
                message: format!("parameter \"{}\" specified more than once", option.defname),
            });
        }
    }
    Ok(options)
}

fn definition(node: &Node) -> Result<&DefElem, DdlError> {
    let Some(Tree::DefElem(option)) = &node.node else {
        return Err(DdlError::not_supported("option is not understood"));
    };
    if option.defnamespace.is_empty() {
        Ok(option)
    } else {
        Err(DdlError {
            sqlstate: INVALID_PARAMETER,
            message: format!(
                "unrecognized parameter namespace \"{}\"",
                option.defnamespace
            ),
        })
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the five kinds of values the grammar makes here"
)]
fn option_value(node: &Node) -> Option<Value> {
    Some(match node.node.as_ref()? {
        Tree::Integer(number) => Value::from(number.ival),
        Tree::Float(number) => number
            .fval
            .parse::<f64>()
            .ok()
            .map(Value::from)
            .filter(|value| !value.is_null())
            .unwrap_or_else(|| Value::from(number.fval.clone())),
        Tree::Boolean(boolean) => Value::from(boolean.boolval),
        Tree::String(text) => Value::from(text.sval.clone()),
        // An unquoted word is parsed as a type's name.
        Tree::TypeName(name) if name.typmods.is_empty() && name.array_bounds.is_empty() => {
            Value::from(parse::names(&name.names)?.last().copied()?)
        }
        _ => return None,
    })
}

fn object_name(relation: &RangeVar) -> ObjectName {
    ObjectName {
        schema: (!relation.schemaname.is_empty()).then(|| relation.schemaname.clone()),
        name: relation.relname.clone(),
    }
}

fn drop_index(drop: &DropStmt) -> Option<Ddl> {
    if ObjectType::try_from(drop.remove_type) != Ok(ObjectType::ObjectIndex) {
        return None;
    }
    let names = drop
        .objects
        .iter()
        .map(|object| match &object.node {
            Some(Tree::List(list)) => match parse::names(&list.items)?.as_slice() {
                [name] => Some(ObjectName {
                    schema: None,
                    name: (*name).to_owned(),
                }),
                [.., schema, name] => Some(ObjectName {
                    schema: Some((*schema).to_owned()),
                    name: (*name).to_owned(),
                }),
                [] => None,
            },
            Some(_) | None => None,
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Ddl::DropIndex {
        names,
        if_exists: drop.missing_ok,
    })
}

fn rename_index(rename: &RenameStmt) -> Option<Ddl> {
    if ObjectType::try_from(rename.rename_type) != Ok(ObjectType::ObjectIndex) {
        return None;
    }
    Some(Ddl::RenameIndex {
        name: object_name(rename.relation.as_ref()?),
        new_name: rename.newname.clone(),
        if_exists: rename.missing_ok,
    })
}

fn reindex_index(reindex: &ReindexStmt) -> Option<Ddl> {
    if ReindexObjectType::try_from(reindex.kind) != Ok(ReindexObjectType::ReindexObjectIndex) {
        return None;
    }
    Some(Ddl::Reindex {
        name: object_name(reindex.relation.as_ref()?),
    })
}

fn alter_index(alter: &AlterTableStmt) -> Option<Ddl> {
    if ObjectType::try_from(alter.objtype) != Ok(ObjectType::ObjectIndex) {
        return None;
    }
    Some(Ddl::AlterIndex {
        name: object_name(alter.relation.as_ref()?),
        if_exists: alter.missing_ok,
        change: alterations(&alter.cmds),
    })
}

fn alterations(commands: &[Node]) -> Result<AlterIndex, DdlError> {
    let unsupported = || {
        DdlError::not_supported(format!(
            "this form of ALTER INDEX is not supported for access method \"{ACCESS_METHOD}\""
        ))
    };
    let mut change = AlterIndex::default();
    for command in commands {
        let Some(Tree::AlterTableCmd(command)) = &command.node else {
            return Err(unsupported());
        };
        let list = match command.def.as_deref().and_then(|def| def.node.as_ref()) {
            Some(Tree::List(list)) => list.items.as_slice(),
            Some(_) | None => return Err(unsupported()),
        };
        match AlterTableType::try_from(command.subtype) {
            Ok(AlterTableType::AtSetRelOptions) => change.set.extend(options(list)?),
            Ok(AlterTableType::AtResetRelOptions) => {
                for option in list {
                    change.reset.push(definition(option)?.defname.clone());
                }
            }
            Ok(_) | Err(_) => return Err(unsupported()),
        }
    }
    Ok(change)
}

#[cfg(test)]
mod tests;
