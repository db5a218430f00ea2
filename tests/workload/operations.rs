//! A seed → transactions of random operations on the workload's tables, as SQL that never fails.

use std::fmt::Write;

use crate::harness::{Random, Server};

/// The tables: a small vector with an out-of-line INCLUDE column, a vector large enough to be stored out of line itself
/// (so that other updates send it as unchanged), and a composite key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Table {
    Narrow,
    Wide,
    Paired,
}

impl Table {
    pub const ALL: &'static [Self] = &[Self::Narrow, Self::Wide, Self::Paired];

    pub fn name(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Wide => "wide",
            Self::Paired => "\"Paired up\"",
        }
    }

    pub fn index_name(self) -> &'static str {
        match self {
            Self::Narrow => "narrow_idx",
            Self::Wide => "wide_idx",
            Self::Paired => "paired_up_idx",
        }
    }

    pub fn dimensions(self) -> usize {
        match self {
            Self::Narrow => 8,
            Self::Wide => 600,
            Self::Paired => 5,
        }
    }

    /// Keys come from a space this small, so that operations meet.
    fn keys(self) -> usize {
        match self {
            Self::Narrow => 1500,
            Self::Wide => 120,
            Self::Paired => 500,
        }
    }

    pub fn definition(self, server: Server) -> String {
        let v = server.vector_type(self.dimensions());
        match self {
            Self::Narrow => {
                format!("create table narrow (id int primary key, v {v}, tag text, story text)")
            }
            Self::Wide => {
                format!("create table wide (tag text, v {v}, id text primary key, story text)")
            }
            Self::Paired => format!(
                "create table \"Paired up\" (b uuid, tag text, v {v}, a bigint, story text, primary key (a, b))"
            ),
        }
    }

    pub fn index(self, server: Server) -> String {
        let class = match self {
            Self::Narrow => "vector_l2_ops",
            Self::Wide => "vector_ip_ops",
            Self::Paired => "vector_cosine_ops",
        };
        let dimensions = self.dimensions();
        let options = if server.has_pgvector() {
            String::new()
        } else {
            format!(" with (dimensions = {dimensions})")
        };
        format!(
            "create index {} on {} using faiss (v {class}) include (tag, story){options}",
            self.index_name(),
            self.name()
        )
    }

    /// The operator of the index.
    pub fn operator(self) -> &'static str {
        match self {
            Self::Narrow => "<->",
            Self::Wide => "<#>",
            Self::Paired => "<=>",
        }
    }

    fn key_columns(self) -> &'static str {
        match self {
            Self::Narrow | Self::Wide => "id",
            Self::Paired => "a, b",
        }
    }

    fn key(self, n: usize) -> String {
        match self {
            Self::Narrow => n.to_string(),
            Self::Wide => format!("'k{n}'"),
            Self::Paired => format!("{}, '00000000-0000-0000-0000-{:012}'", n % 25, n / 25),
        }
    }

    fn is_key(self, n: usize) -> String {
        format!("({}) = ({})", self.key_columns(), self.key(n))
    }

    /// SQL for a row's key as the index encodes it, in hexadecimal.
    pub fn encoded_key(self) -> &'static str {
        match self {
            Self::Narrow => "'00000004' || encode(int4send(id), 'hex')",
            Self::Wide => "lpad(to_hex(octet_length(id)), 8, '0') || encode(textsend(id), 'hex')",
            Self::Paired => {
                "'00000008' || encode(int8send(a), 'hex') || '00000010' || encode(uuid_send(b), 'hex')"
            }
        }
    }

    /// SQL for whether the index can hold the row: a zero vector has no cosine.
    pub fn indexable(self) -> &'static str {
        match self {
            Self::Narrow | Self::Wide => "v is not null",
            Self::Paired => "v is not null and (v <=> v) <> 'NaN'",
        }
    }
}

/// A generator of transactions.
pub struct Workload {
    pub random: Random,
    pub operations: usize,
    server: Server,
}

impl Workload {
    pub fn new(seed: u64, server: Server) -> Self {
        Self {
            random: Random::new(seed),
            operations: 0,
            server,
        }
    }

    /// One transaction: one operation alone, or several, some of them rolled back.
    pub fn transaction(&mut self, tables: &[Table]) -> String {
        let mut sql = String::new();
        match self.random.below(10) {
            0..=3 => self.operation(&mut sql, tables),
            4..=6 => self.several(&mut sql, tables, 12, "commit"),
            7 => self.several(&mut sql, tables, 6, "rollback"),
            8 => {
                sql.push_str("begin;");
                self.operation(&mut sql, tables);
                sql.push_str("savepoint s;");
                self.operation(&mut sql, tables);
                sql.push_str("rollback to s;");
                self.operation(&mut sql, tables);
                sql.push_str("commit;");
            }
            _ => self.several(&mut sql, tables, 40, "commit"),
        }
        sql
    }

    fn several(&mut self, sql: &mut String, tables: &[Table], most: usize, end: &str) {
        sql.push_str("begin;");
        for _ in 0..=self.random.below(most) {
            self.operation(sql, tables);
        }
        write!(sql, "{end};").unwrap();
    }

    fn value(&mut self, table: Table) -> String {
        match self.random.below(20) {
            0 => "null".to_owned(),
            1 if table != Table::Wide => {
                let zeros = vec!["0"; table.dimensions()].join(",");
                format!("'{}'", self.server.vector_text(&zeros))
            }
            _ => format!("'{}'", self.random.vector(table.dimensions(), self.server)),
        }
    }

    fn operation(&mut self, sql: &mut String, tables: &[Table]) {
        self.operations += 1;
        // the wide table's rows are long: fewer of them
        let at = self.random.below(tables.len() * 4);
        let table = if at < tables.len() {
            tables[at]
        } else {
            tables[at % tables.len().min(2)]
        };
        let table = if table == Table::Wide && tables.len() > 1 && self.random.below(4) > 0 {
            Table::Narrow
        } else {
            table
        };
        let (name, n) = (table.name(), self.random.below(table.keys()));
        let (columns, key, is_key) = (table.key_columns(), table.key(n), table.is_key(n));
        let other = self.random.below(table.keys());
        match self.random.below(100) {
            0..=39 => {
                let v = self.value(table);
                write!(sql, "insert into {name} ({columns}, v, tag) values ({key}, {v}, 'tag {other}') on conflict do nothing;")
            }
            40..=54 => {
                let v = self.value(table);
                write!(sql, "insert into {name} ({columns}, v) values ({key}, {v}) on conflict ({columns}) do update set v = excluded.v;")
            }
            55..=64 => {
                let v = self.value(table);
                write!(sql, "update {name} set v = {v}, tag = null where {is_key};")
            }
            // the vector stays, and is not sent when it is stored out of line
            65..=74 => write!(sql, "update {name} set tag = 'tag {other}' where {is_key};"),
            75..=76 => write!(sql, "update {name} set story = (select string_agg(md5(n::text), '') from generate_series(1, 200) n) where {is_key};"),
            77..=88 => write!(sql, "delete from {name} where {is_key};"),
            // the key changes, alone or with the vector
            89..=93 => write!(sql, "update {name} set ({columns}) = row({}) where {is_key} and not exists (select from {name} where {});", table.key(other), table.is_key(other)),
            94..=96 => {
                let v = self.value(table);
                write!(sql, "update {name} set ({columns}) = row({}), v = {v} where {is_key} and not exists (select from {name} where {});", table.key(other), table.is_key(other))
            }
            // the same row twice in a transaction
            97 => write!(sql, "delete from {name} where {is_key}; insert into {name} ({columns}, v) values ({key}, {});", self.value(table)),
            98 if self.random.below(8) == 0 => write!(sql, "truncate {name};"),
            _ => write!(sql, "update {name} set v = v where {is_key};"),
        }
        .unwrap();
    }
}
