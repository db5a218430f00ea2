//! More dimensions than pgvector's own index takes (2,000): indexed, changed and searched through Rektor, with the answers
//! of PostgreSQL. Vectors of this size lie out of line, so an update that leaves them alone does not send them.

use super::fixture::Answered;
use crate::harness::{Rektor, Server, Wire};

/// Rows of a table: enough that searches walk a graph.
const ROWS: usize = 2_600;
const K: usize = 5;

/// Vectors of `dimensions` around a seeded sequence; made by PostgreSQL, as sending them as text takes too long.
fn vectors(dimensions: usize, id: &str) -> String {
    format!(
        "(select array_agg((sin({id} * 12.9898 + i * 78.233) + sin({id} * 0.37) * cos(i * ({id} % 7 + 1)))::real order by i)
          from generate_series(1, {dimensions}) i)::vector"
    )
}

fn same_as_exact(rektor: &Rektor<'_>, through: &mut Wire, dimensions: usize) {
    let mut direct = rektor.database.connect();
    rektor.catch_up(through);
    for operator in ["<->", "<=>"] {
        for at in [3.5, 400.25, 1_900.75] {
            let point = direct.value(&format!("select {}", vectors(dimensions, &at.to_string())));
            let sql = format!("select id, note from t order by v {operator} '{point}' limit {K}");
            let expected = direct.rows(&sql);
            assert_eq!(through.rows(&sql), expected, "{operator} at {at}");
        }
    }
}

fn high(dimensions: usize, rows: usize) {
    let database = Server::Pg18.shared().database();
    let rektor = Rektor::start(&database);
    let mut wire = rektor.connect();
    let made = vectors(dimensions, "id");
    wire.run(&format!(
        "create table t (id int primary key, v vector({dimensions}), note text)"
    ));
    // Not all at once: other tests' copies wait for the end of every transaction.
    for from in (1..=rows).step_by(100) {
        let last = rows.min(from + 99);
        wire.run(&format!(
            "insert into t select id, {made}, 'old' from generate_series({from}, {last}) id"
        ));
    }
    for class in ["l2", "cosine"] {
        let name = format!("t_{class}");
        wire.run(&format!(
            "create index {name} on t using faiss (v vector_{class}_ops)"
        ));
        rektor.wait_ready(&name);
    }
    let before = Answered::now(&rektor);
    same_as_exact(&rektor, &mut wire, dimensions);
    wire.run(&format!(
        "insert into t select id, {made}, 'new' from generate_series({rows} + 1, {rows} + 40) id"
    ));
    wire.run("delete from t where id % 11 = 0");
    wire.run("update t set note = 'changed' where id % 5 = 0"); // the vectors are not sent
    wire.run(&format!(
        "update t set v = {} where id % 97 = 0",
        vectors(dimensions, "(id + 0.5)")
    ));
    same_as_exact(&rektor, &mut wire, dimensions);
    let after = Answered::now(&rektor);
    assert!(
        after.nominate >= before.nominate + 12.0,
        "{before:?}, {after:?}"
    );
}

#[test]
fn of_4000_dimensions() {
    high(4_000, ROWS);
}

#[test]
fn of_16000_dimensions() {
    high(16_000, 300);
}
