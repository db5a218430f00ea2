//! Searches and changes made up at random, over hard values of every type that filters know, in and out of transactions:
//! frame by frame what an exact search gives. `REKTOR_RANDOM_SEED` and `REKTOR_RANDOM_ROUNDS` make it another run, or a longer one.

mod conditions;
mod values;

use std::fmt::Write;

use conditions::{Parameter, Writer};
use values::{COLUMNS, any, binary_forms, literal};

use super::fixture::Answered;
use super::statements::widen;
use crate::harness::message::{bind, close, describe, execute, parse, query, sync};
use crate::harness::{Random, Server};
use crate::relay::compare::{Copies, Pair};

const ROWS: usize = 400;
/// Statements in a run of the suite, on each server.
const ROUNDS: usize = 600;

/// What changes the meaning of constants, plans, or how soon changes are seen.
const SETTINGS: &[&str] = &[
    "set timezone = 'Asia/Kolkata'",
    "set timezone = 'America/Los_Angeles'",
    "set timezone = 'UTC'",
    "set datestyle = 'German'",
    "set datestyle = 'ISO, MDY'",
    "set rektor.consistency = 'strong'",
    "set rektor.consistency = 'session'",
    "set seq_page_cost = 1; set random_page_cost = 4",
    "set seq_page_cost = 1e6; set random_page_cost = 1e6",
    "set plan_cache_mode = force_generic_plan",
    "set plan_cache_mode = auto",
    "set extra_float_digits = 3",
];

/// What a run needs.
struct Run {
    random: Random,
    binary: std::collections::HashMap<(u32, &'static str), Vec<u8>>,
    /// The next row's place on a line: every distance is another.
    place: usize,
    id: usize,
    server: Server,
}

impl Run {
    fn vector(&mut self) -> String {
        self.place += 1;
        // 7919 is prime: places near each other come far apart in time
        let at = self.place * 7_919 % 4_001;
        self.server.vector_text(&format!("{at},0,0,0"))
    }

    fn row(&mut self) -> String {
        self.id += 1;
        let vector = self.vector();
        let mut row = format!("({}, '{vector}'", self.id);
        for column in COLUMNS {
            write!(row, ", {}", literal(&mut self.random, column)).unwrap();
        }
        row + ")"
    }

    fn insert(&mut self, rows: usize) -> String {
        let rows: Vec<_> = (0..rows).map(|_| self.row()).collect();
        format!("insert into r values {}", rows.join(", "))
    }

    /// A change of some rows.
    fn change(&mut self) -> String {
        match self.random.below(6) {
            0 => {
                let count = 1 + self.random.below(5);
                self.insert(count)
            }
            1 => format!("delete from r where id % 97 = {}", self.random.below(97)),
            2 => {
                let (vector, id) = (self.vector(), self.random.below(self.id));
                format!("update r set v = '{vector}' where id = {id}")
            }
            _ => {
                let column = any(&mut self.random, COLUMNS);
                let value = literal(&mut self.random, column);
                let of = 3 + self.random.below(50);
                let rest = self.random.below(of);
                format!(
                    "update r set {} = {value} where id % {of} = {rest}",
                    column.name
                )
            }
        }
    }

    /// A search: its text with the vector as `$1`, the vector, and further parameters.
    fn search(&mut self, bound: bool) -> (String, String, Vec<Parameter>) {
        let (table, qualifier) = *any(
            &mut self.random,
            &[
                ("r", "r."),
                ("r as s", "s."),
                ("public.r", "r."),
                ("r join k on k.key = r.i4", "r."),
                ("k, r as s left join k as l on l.key = s.i2", "s."),
            ],
        );
        let mut writer = Writer {
            random: &mut self.random,
            binary: &self.binary,
            bound,
            parameters: Vec::new(),
            qualifier,
        };
        // one row of `k` has that key
        let condition_of_k = if table.starts_with("k,") {
            "k.key = 7 and "
        } else {
            ""
        };
        let depth = *any(writer.random, &[0, 0, 1, 1, 2, 3]);
        let condition = writer.tree(depth);
        let parameters = writer.parameters;
        let operator = any(&mut self.random, &["<->", "<->", "<#>", "<+>"]);
        let limit = *any(&mut self.random, &[1, 3, 10, 10, 60, 1_000]);
        let offset = *any(&mut self.random, &["", "", "", " offset 2", " offset 30"]);
        let place = self.random.below(4_001);
        let vector = self.server.vector_text(&format!("{place}.3,0,0,0"));
        let sql = format!(
            "select id, v {operator} $1 as d from {table} where {condition_of_k}({condition}) order by {qualifier}v {operator} $1 limit {limit}{offset}"
        );
        (sql, vector, parameters)
    }

    /// A search's messages, and how many ReadyForQuery they bring.
    fn messages(&mut self) -> (String, Vec<u8>, usize) {
        let bound = self.random.below(3) > 0;
        let (sql, vector, parameters) = self.search(bound);
        if !bound {
            let sql = sql.replace("$1", &format!("'{vector}'"));
            let bytes = query(&sql);
            return (sql, bytes, 1);
        }
        let types: Vec<u32> = std::iter::once(0)
            .chain(parameters.iter().map(|parameter| parameter.declared))
            .collect();
        let formats: Vec<u16> = std::iter::once(0)
            .chain(
                parameters
                    .iter()
                    .map(|parameter| u16::from(parameter.binary)),
            )
            .collect();
        let values: Vec<Option<&[u8]>> = std::iter::once(Some(vector.as_bytes()))
            .chain(
                parameters
                    .iter()
                    .map(|parameter| parameter.value.as_deref()),
            )
            .collect();
        let times = *any(&mut self.random, &[1, 1, 2, 7]);
        let mut bytes = [
            parse("named", &sql, &types),
            describe(b'S', "named"),
            sync(),
        ]
        .concat();
        for _ in 0..times {
            bytes.extend(bind("", "named", &formats, &values, &[]));
            bytes.extend([describe(b'P', ""), execute("", 0), sync()].concat());
        }
        bytes.extend([close(b'S', "named"), sync()].concat());
        (format!("{sql} of {parameters:?}"), bytes, times + 2)
    }

    fn setting(&mut self) -> &'static str {
        SETTINGS[self.random.below(SETTINGS.len())]
    }

    fn step(&mut self, number: usize, pair: &mut Pair) {
        match self.random.below(40) {
            0 => drop(pair.query(self.setting())),
            1..=4 => drop(pair.query(&self.change())),
            5 => {
                let level = any(
                    &mut self.random,
                    &["read committed", "repeatable read", "serializable"],
                );
                pair.query(&format!("begin isolation level {level}"));
                for _ in 0..self.random.below(6) {
                    if self.random.below(4) == 0 {
                        let change = self.change();
                        pair.query(&format!("savepoint s; {change}"));
                    }
                    self.compare(number, pair);
                    if self.random.below(4) == 0 {
                        pair.query("rollback to savepoint s"); // an error, where there is none
                    }
                }
                let end = *any(&mut self.random, &["commit", "rollback"]);
                pair.query(end);
            }
            _ => self.compare(number, pair),
        }
    }

    fn compare(&mut self, number: usize, pair: &mut Pair) {
        let (sql, bytes, ready) = self.messages();
        let label = format!("round {number} on {:?}: {sql}", self.server);
        pair.exchange(&label, &bytes, ready, b"");
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
    )
}

fn answers_are_exact(server: Server) {
    let seed = number("REKTOR_RANDOM_SEED").unwrap_or(1);
    let rounds =
        number("REKTOR_RANDOM_ROUNDS").map_or(ROUNDS, |rounds| usize::try_from(rounds).unwrap());
    let mut run = Run {
        random: Random::new(seed),
        binary: std::collections::HashMap::new(),
        place: 0,
        id: 0,
        server,
    };
    let copies = Copies::of(server, |database| {
        let mut wire = database.connect();
        // Where PostgreSQL has ICU, a collation that takes a for A.
        let other = "create collation other (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
        if wire.try_rows(other).is_err() {
            wire.run("create collation other from \"C\"");
        }
        run.binary = binary_forms(&mut wire);
        let columns: Vec<_> = COLUMNS
            .iter()
            .map(|column| format!("{} {}", column.name, column.declared))
            .collect();
        wire.run(&format!(
            "create table r (id int primary key, v {}, {})",
            server.vector_type(4),
            columns.join(", ")
        ));
        wire.run("create table k (key int primary key, label text); insert into k select n, 'k' || n from generate_series(0, 8) n");
        let insert = run.insert(ROWS);
        wire.run(&insert);
        if seed.is_multiple_of(2) {
            wire.run("update r set v = null where id = 1");
        }
    });
    let options = if server.has_pgvector() {
        ""
    } else {
        " with (dimensions = 4)"
    };
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    for class in ["l2", "ip", "l1"] {
        let create = format!(
            "create index r_{class} on r using faiss (v vector_{class}_ops) include ({}){options}",
            names.join(", ")
        );
        copies.rektor.create_index(&create, &format!("r_{class}"));
    }
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    let before = Answered::now(&copies.rektor);
    for round in 0..rounds {
        run.step(round, &mut pair);
    }
    let after = Answered::now(&copies.rektor);
    let (nominated, exact) = (after.nominate - before.nominate, after.exact - before.exact);
    let relayed = after.relay - before.relay;
    eprintln!("{server:?}, seed {seed}: {nominated} nominated, {exact} exact, {relayed} relayed");
    let metrics = copies.rektor.http("/metrics").1;
    let reasons = metrics.lines().filter(|line| line.contains("reason="));
    reasons.for_each(|line| eprintln!("{line}"));
    assert!(
        nominated > exact + relayed,
        "most are answered from the index"
    );
}

#[test]
fn on_18() {
    answers_are_exact(Server::Pg18);
}

#[test]
fn on_plain() {
    answers_are_exact(Server::Plain);
}
