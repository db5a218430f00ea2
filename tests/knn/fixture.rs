//! The tables of the k-NN tests: two copies of one database, the second indexed by Rektor and served through it.
//! Row values come from a seed, with distances that differ, except where ties are the point.

use std::fmt::Write;

use crate::harness::{Database, Random, Rektor, Server};
use crate::relay::compare::Copies;

const DIMENSIONS: usize = 4;
const ITEMS: usize = 3000;

/// The indexes: name, table, column, operator class.
const INDEXES: &[(&str, &str, &str, &str)] = &[
    ("item_l2", "item", "embedding", "vector_l2_ops"),
    ("item_cosine", "item", "embedding", "vector_cosine_ops"),
    ("item_ip", "item", "embedding", "vector_ip_ops"),
    ("item_l1", "item", "embedding", "vector_l1_ops"),
    ("paired_idx", "paired", "v", "vector_l2_ops"),
    ("by_uuid_idx", "by_uuid", "v", "vector_l2_ops"),
    ("by_text_idx", "by_text", "v", "vector_l2_ops"),
    ("by_bigint_idx", "by_bigint", "v", "vector_l2_ops"),
    ("by_smallint_idx", "by_smallint", "v", "vector_l2_ops"),
    ("by_varchar_idx", "by_varchar", "v", "vector_l2_ops"),
    ("gap_l2", "gap", "v", "vector_l2_ops"),
    ("gap_cosine", "gap", "v", "vector_cosine_ops"),
    ("tie_idx", "tie", "v", "vector_l2_ops"),
    ("parted_idx", "parted", "v", "vector_l2_ops"),
    (
        "odd_idx",
        "\"Odd \"\"name\"\"\"",
        "\"the vector\"",
        "vector_l2_ops",
    ),
    ("tenant_idx", "tenant", "v", "vector_l2_ops"),
];

/// Two copies, and all indexes ready.
pub fn copies(server: Server) -> Copies {
    let names: Vec<_> = INDEXES.iter().map(|(name, ..)| *name).collect();
    copies_with(server, &names)
}

/// Two copies, and these indexes ready.
pub fn copies_with(server: Server, names: &[&str]) -> Copies {
    let copies = Copies::of(server, |database| fill(database, server));
    let mut wire = copies.rektor.connect();
    for (name, table, column, class) in INDEXES {
        if names.contains(name) {
            let options = if server.has_pgvector() {
                ""
            } else {
                " with (dimensions = 4)"
            };
            wire.run(&format!(
                "create index {name} on {table} using faiss ({column} {class}){options}"
            ));
        }
    }
    for name in names {
        copies.rektor.wait_ready(name);
    }
    copies
}

fn fill(database: &Database<'_>, server: Server) {
    let mut wire = database.connect();
    let vector_type = server.vector_type(DIMENSIONS);
    wire.run(&include_str!("fixture.sql").replace("{v}", &vector_type));
    let mut random = Random::new(7);
    let mut insert = |table: &str, rows: usize, row: &dyn Fn(usize, String) -> String| {
        let mut sql = format!("insert into {table} values ");
        for n in 1..=rows {
            let vector = random.vector(DIMENSIONS, server);
            let comma = if n > 1 { ", " } else { "" };
            write!(sql, "{comma}({})", row(n, format!("'{vector}'"))).unwrap();
        }
        wire.run(&sql);
    };
    insert("item", ITEMS, &|n, v| {
        format!("{n}, {}, {n}.50, 'item {n}', {v}", n % 20)
    });
    insert("paired", 400, &|n, v| {
        format!("{}, 'b{}', {v}", n % 40, n / 40)
    });
    insert("by_uuid", 300, &|n, v| format!("md5('{n}')::uuid, {v}"));
    insert("by_text", 300, &|n, v| format!("'kéy {n}', {v}"));
    insert("by_bigint", 300, &|n, v| {
        format!("{}, {v}", n * 10_000_000_000)
    });
    insert("by_smallint", 300, &|n, v| format!("{n} - 150, {v}"));
    insert("by_varchar", 300, &|n, v| format!("'k{n}', {v}"));
    insert("parted", 400, &|n, v| format!("{n}, {}, {v}", n % 2));
    insert("plain", 300, &|n, v| format!("{n}, {v}"));
    insert("\"Odd \"\"name\"\"\"", 300, &|n, v| {
        format!("{n}, {v}, 'x{n}'")
    });
    insert("tenant", 600, &|n, v| {
        let owner = if n % 100 == 0 { "reader" } else { "other" };
        format!("{n}, '{owner}', {v}")
    });
    // every third row NULL, every seventh the zero vector
    let zero = server.vector_text("0,0,0,0");
    insert("gap", 60, &|n, v| match n {
        n if n % 3 == 0 => format!("{n}, null"),
        n if n % 7 == 0 => format!("{n}, '{zero}'"),
        n => format!("{n}, {v}"),
    });
    // ten places, thirty rows in each
    let place = |n: usize| server.vector_text(&format!("{},1,2,3", n % 10));
    insert("tie", 300, &|n, _| format!("{n}, '{}'", place(n)));
}

/// A query vector's text.
pub fn query_vector(server: Server, seed: u64) -> String {
    Random::new(seed).vector(DIMENSIONS, server)
}

/// How the k-NN statements so far were answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answered {
    pub nominate: f64,
    pub exact: f64,
    pub relay: f64,
}

impl Answered {
    pub fn now(rektor: &Rektor<'_>) -> Self {
        let of =
            |way: &str| rektor.metric(&format!("rektor_knn_statements_total{{way=\"{way}\"}}"));
        Self {
            nominate: of("nominate"),
            exact: of("exact"),
            relay: of("relay"),
        }
    }
}
