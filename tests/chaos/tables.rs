//! A seed → transactions on the chaos test's tables. What they are made of may be changed by DDL meanwhile: a statement may fail,
//! and then for a reason that [`forgivable`] knows.

use std::fmt::Write;
use std::sync::Mutex;

use crate::harness::{Random, Server};

/// The tables: small vectors with INCLUDE columns, one of them out of line; vectors that are out of line themselves, so that other
/// updates leave them out of the stream; a partitioned table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Narrow,
    Wide,
    Split,
}

/// Leaves of the partitioned table, by region.
pub const REGIONS: usize = 3;

impl Table {
    pub const ALL: [Self; 3] = [Self::Narrow, Self::Wide, Self::Split];

    pub fn name(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Wide => "wide",
            Self::Split => "split",
        }
    }

    /// Keys come from a space this small, so that operations meet.
    fn keys(self) -> usize {
        match self {
            Self::Narrow => 700,
            Self::Wide => 80,
            Self::Split => 300,
        }
    }

    pub fn class(self) -> &'static str {
        match self {
            Self::Narrow => "vector_l2_ops",
            Self::Wide => "vector_ip_ops",
            Self::Split => "vector_cosine_ops",
        }
    }

    pub fn include(self) -> &'static [&'static str] {
        match self {
            Self::Narrow => &["tag", "story"],
            Self::Wide => &["tag"],
            Self::Split => &[],
        }
    }

    pub fn definition(self, server: Server, dimensions: usize) -> String {
        let v = server.vector_type(dimensions);
        match self {
            Self::Narrow => {
                format!("create table narrow (id int primary key, v {v}, tag text, story text);")
            }
            Self::Wide => format!(
                "create table wide (tag text, v {v}, id text primary key, story text);
                 alter table wide alter v set storage external;"
            ),
            Self::Split => {
                let mut sql = format!(
                    "create table split (v {v}, region int, id bigint, tag text, story text, primary key (region, id)) partition by list (region);"
                );
                for region in 0..REGIONS {
                    write!(
                        sql,
                        "create table split_{region} partition of split for values in ({region});"
                    )
                    .unwrap();
                }
                sql
            }
        }
    }

    fn key_columns(self) -> &'static str {
        match self {
            Self::Narrow | Self::Wide => "id",
            Self::Split => "region, id",
        }
    }

    fn key(self, n: usize) -> String {
        match self {
            Self::Narrow => n.to_string(),
            Self::Wide => format!("'k{n}'"),
            Self::Split => format!("{}, {}", n % REGIONS, n / REGIONS),
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
            Self::Split => {
                "'00000004' || encode(int4send(region), 'hex') || '00000008' || encode(int8send(id), 'hex')"
            }
        }
    }
}

/// What DDL may have changed.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub narrow: usize,
    pub wide: usize,
    pub split: usize,
}

impl Shape {
    pub const FIRST: Self = Self {
        narrow: 8,
        wide: 520,
        split: 16,
    };

    pub fn dimensions(&self, table: Table) -> usize {
        match table {
            Table::Narrow => self.narrow,
            Table::Wide => self.wide,
            Table::Split => self.split,
        }
    }

    pub fn set_dimensions(&mut self, table: Table, dimensions: usize) {
        match table {
            Table::Narrow => self.narrow = dimensions,
            Table::Wide => self.wide = dimensions,
            Table::Split => self.split = dimensions,
        }
    }
}

/// SQLSTATEs that a statement may fail with while tables change, others write, and servers stop.
pub fn forgivable(state: &str) -> bool {
    const STATES: [&str; 16] = [
        "40P01", // deadlock
        "40001", // moved to another partition by a concurrent update
        "23505", // someone else took the key
        "23514", // no partition for the row: detached
        "42703", "42P01", "42804", // a column or table that is another by now
        "22000", // other dimensions
        "55P03", "57014", // a lock that could not be had in time
        "57P01", "57P02", "57P03", // the server stops, or starts
        "25P02", // what follows any of these in a transaction
        "0A000", // a plan that is not valid any more
        "3B001", // a savepoint of a transaction that failed at its begin
    ];
    STATES.contains(&state)
}

/// A generator of transactions.
pub struct Workload<'a> {
    pub random: Random,
    server: Server,
    shape: &'a Mutex<Shape>,
}

impl<'a> Workload<'a> {
    pub fn new(seed: u64, server: Server, shape: &'a Mutex<Shape>) -> Self {
        Self {
            random: Random::new(seed),
            server,
            shape,
        }
    }

    /// Rows for an empty table.
    pub fn fill(&mut self, table: Table) -> String {
        let mut sql = String::new();
        for n in (0..table.keys()).step_by(2) {
            let (key, v) = (table.key(n), self.value(table));
            let (name, columns) = (table.name(), table.key_columns());
            write!(
                sql,
                "insert into {name} ({columns}, v, tag) values ({key}, {v}, 'first');"
            )
            .unwrap();
        }
        sql
    }

    /// One transaction: one operation alone, or several, some of them rolled back.
    pub fn transaction(&mut self) -> String {
        let mut sql = String::new();
        match self.random.below(12) {
            0..=3 => self.operation(&mut sql),
            4..=6 => self.several(&mut sql, 8, "commit"),
            7 => self.several(&mut sql, 6, "rollback"),
            8 | 9 => {
                sql.push_str("begin;");
                self.operation(&mut sql);
                for end in ["rollback to s", "release s"] {
                    sql.push_str("savepoint s;");
                    self.operation(&mut sql);
                    write!(sql, "{end};").unwrap();
                }
                self.operation(&mut sql);
                sql.push_str("commit;");
            }
            10 => self.swap(&mut sql),
            _ => self.several(&mut sql, 30, "commit"),
        }
        sql
    }

    fn several(&mut self, sql: &mut String, most: usize, end: &str) {
        sql.push_str("begin;");
        for _ in 0..=self.random.below(most) {
            self.operation(sql);
        }
        write!(sql, "{end};").unwrap();
    }

    /// Two rows exchange their keys.
    fn swap(&mut self, sql: &mut String) {
        let table = [Table::Narrow, Table::Wide][self.random.below(2)];
        let (a, b) = (
            self.random.below(table.keys()),
            self.random.below(table.keys()),
        );
        let (name, between) = (table.name(), 100_000);
        sql.push_str("begin;");
        for (from, to) in [(a, between), (b, a), (between, b)] {
            write!(
                sql,
                "update {name} set id = {} where {} and not exists (select from {name} where {});",
                table.key(to),
                table.is_key(from),
                table.is_key(to)
            )
            .unwrap();
        }
        write!(sql, "delete from {name} where {};", table.is_key(between)).unwrap();
        sql.push_str("commit;");
    }

    /// SQL for a vector, now and then NULL or zero.
    pub fn value(&mut self, table: Table) -> String {
        let dimensions = self.shape.lock().unwrap().dimensions(table);
        match self.random.below(24) {
            0 => "null".to_owned(),
            1 => {
                let zeros = vec!["0"; dimensions].join(",");
                format!("'{}'", self.server.vector_text(&zeros))
            }
            _ => format!("'{}'", self.random.vector(dimensions, self.server)),
        }
    }

    fn operation(&mut self, sql: &mut String) {
        let table = match self.random.below(10) {
            0..=5 => Table::Narrow,
            6 => Table::Wide,
            _ => Table::Split,
        };
        let (name, n) = (table.name(), self.random.below(table.keys()));
        let (columns, key, is_key) = (table.key_columns(), table.key(n), table.is_key(n));
        let other = self.random.below(table.keys());
        let free = format!(
            "not exists (select from {name} where {})",
            table.is_key(other)
        );
        let v = self.value(table);
        match self.random.below(100) {
            0..=34 => write!(sql, "insert into {name} ({columns}, v, tag) values ({key}, {v}, 'tag {other}') on conflict do nothing;"),
            35..=49 => write!(sql, "insert into {name} ({columns}, v) values ({key}, {v}) on conflict ({columns}) do update set v = excluded.v;"),
            50..=59 => write!(sql, "update {name} set v = {v}, tag = null where {is_key};"),
            // the vector stays, and is not sent when it is stored out of line
            60..=67 => write!(sql, "update {name} set tag = 'tag {other}' where {is_key};"),
            68..=70 => write!(sql, "update {name} set story = (select string_agg(md5((n * {other})::text), '') from generate_series(1, 90) n) where {is_key};"),
            71..=72 => write!(sql, "update {name} set tag = 'some {n}' where tag = 'tag {other}';"),
            73..=84 => write!(sql, "delete from {name} where {is_key};"),
            // the key changes, alone or with the vector; in the partitioned table the row may move
            85..=90 => write!(sql, "update {name} set ({columns}) = row({}) where {is_key} and {free};", table.key(other)),
            91..=94 => write!(sql, "update {name} set ({columns}) = row({}), v = {v} where {is_key} and {free};", table.key(other)),
            // the same row twice in a transaction
            95..=97 => write!(sql, "delete from {name} where {is_key}; insert into {name} ({columns}, v) values ({key}, {v}) on conflict do nothing;"),
            // of the partitioned table it means a copy, as the leaves' files are others: see `Ddl::Truncate`
            98 if table != Table::Split && self.random.below(10) == 0 => write!(sql, "truncate {name};"),
            _ => write!(sql, "update {name} set v = v where {is_key};"),
        }
        .unwrap();
    }

    /// A transaction of more bytes than are applied only when complete (64 MiB): `commit` or `rollback`.
    pub fn huge(&mut self, end: &str) -> String {
        let v = self.value(Table::Narrow);
        let mut sql = "begin;".to_owned();
        // long values that cost the test little: they are stored compressed, and sent in full
        write!(
            sql,
            "insert into narrow (id, v, tag, story) select 1000000 + n, {v}, n::text, repeat(md5(n::text), 1200) from generate_series(1, 2200) n;
             update narrow set tag = 'huge' where id % 3 = 0 and id > 1000000;
             delete from narrow where id > 1000000 and id % 20 > 0;
             update narrow set story = null where id > 1000000;"
        )
        .unwrap();
        write!(sql, "{end};").unwrap();
        sql
    }
}
