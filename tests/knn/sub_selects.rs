//! A search as the sub-select of a statement that puts its rows in another order: what it sees in a transaction, under another
//! name, and after a restart; and what EXPLAIN shows of it. (Its shapes are among those of `expressions`.)

use super::expressions::{ROWS, fill, signs};
use super::fixture::Answered;
use super::statements::{Protocol, messages};
use crate::harness::Server;
use crate::relay::compare::{Copies, Pair};

/// A sub-select after a write in its transaction, under another table's name, explained, and after a restart.
#[test]
fn sub_selects_see_what_postgres_sees() {
    let mut copies = Copies::of(Server::Pg18, fill);
    let create =
        "create index signs on sign using faiss ((binary_quantize(v)::bit(400)) bit_hamming_ops)";
    copies.rektor.create_index(create, "signs");
    let near = "select id, v from sign order by binary_quantize(v)::bit(400) <~> binary_quantize($1::vector) limit 20";
    let in_from = format!("select id from ({near}) s order by v <=> $1 limit 5");
    let in_with = format!("with s as ({near}) select id from s order by v <=> $1 limit 5");
    let query = signs(ROWS);
    let ask = |pair: &mut Pair, rektor: &crate::harness::Rektor<'_>| {
        let before = Answered::now(rektor).nominate;
        for sql in [&in_from, &in_with] {
            for protocol in [Protocol::Simple, Protocol::Text, Protocol::Prepared(2)] {
                let (bytes, ready) = messages(protocol, sql, &[&query]);
                pair.exchange(&format!("{protocol:?} {sql}"), &bytes, ready, b"");
            }
        }
        Answered::now(rektor).nominate - before
    };
    let mut pair = copies.sessions(&[]);
    assert_eq!(ask(&mut pair, &copies.rektor), 8.0);
    pair.query("begin");
    assert_eq!(ask(&mut pair, &copies.rektor), 8.0);
    pair.query(&format!(
        "insert into sign values (1000, 1, '{}')",
        signs(ROWS - 1)
    ));
    assert_eq!(ask(&mut pair, &copies.rektor), 0.0);
    pair.query("rollback");
    assert_eq!(ask(&mut pair, &copies.rektor), 8.0);
    pair.query("create temp table sign (id int, v vector(400))");
    assert_eq!(ask(&mut pair, &copies.rektor), 0.0);
    pair.query("drop table pg_temp.sign");
    assert_eq!(ask(&mut pair, &copies.rektor), 8.0);
    for (sql, analyze) in [
        (&in_from, ""),
        (&in_with, ""),
        (&in_from, "(analyze) "),
        (&in_with, "(analyze) "),
    ] {
        let sql = sql.replace("$1", &format!("'{query}'"));
        let plan = pair.through.column(&format!("explain {analyze}{sql}"));
        assert!(
            plan.iter().any(|line| line == "Rektor: nominate"),
            "{plan:?}"
        );
        assert!(
            plan.iter().any(|line| line.contains("CTE Scan")),
            "{plan:?}"
        );
    }
    drop(pair);
    assert!(copies.rektor.stop().success());
    copies.rektor.up();
    copies.rektor.wait_ready("signs");
    let mut pair = copies.sessions(&[]);
    pair.query("update sign set v = (select v from sign where id = 399) where id = 7");
    copies.rektor.catch_up(&mut pair.through);
    let verified = pair
        .through
        .rows("select missing + extra + differing, left_out from rektor.verify_index('signs')");
    assert_eq!(verified, [["0", "1"].map(|text| Some(text.to_owned()))]);
    pair.query("delete from sign where id = 7");
    assert_eq!(ask(&mut pair, &copies.rektor), 8.0);
}
