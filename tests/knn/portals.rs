//! Answers that are fetched in parts, where the transaction goes on in between: PostgreSQL's rows, or its errors.

use super::fixture::{copies_with, query_vector};
use super::statements::widen;
use crate::harness::Server;
use crate::harness::message::{bind, close, execute, parse, query, sync};

/// Two rows, something else, and then two more: or an error, where the portal or its transaction is no more.
#[test]
fn a_portal_ends_where_postgres_ends_it() {
    for server in Server::ALL {
        let copies = copies_with(server, &["item_l2"]);
        let v = query_vector(server, 51);
        let search = "select id, name from item order by embedding <-> $1 limit 10";
        let begun = [
            parse("", search, &[]),
            bind("C_1", "", &[], &[Some(v.as_bytes())], &[]),
            execute("C_1", 2),
            sync(),
        ]
        .concat();
        let more = [execute("C_1", 2), sync()].concat();
        let closed = [close(b'P', "C_1"), execute("C_1", 2), sync()].concat();
        let twice = [
            execute("C_1", 2),
            execute("none", 0),
            execute("C_1", 2),
            sync(),
        ]
        .concat();
        let (savepoint, back) = (query("savepoint s"), query("rollback to s"));
        let fail = query("select 1 / 0");
        for (label, steps) in [
            ("goes on", vec![&begun, &more, &more]),
            ("a failed transaction", vec![&begun, &fail, &more]),
            (
                "its savepoint is rolled back",
                vec![&savepoint, &begun, &more, &back, &more],
            ),
            (
                "a later savepoint is rolled back",
                vec![&begun, &savepoint, &more, &back, &more],
            ),
            (
                "a later savepoint is rolled back after an error",
                vec![&begun, &savepoint, &fail, &more, &back, &more],
            ),
            (
                "an error between two parts",
                vec![&begun, &savepoint, &twice, &back, &more],
            ),
            (
                "another transaction",
                vec![&begun, &query("commit; begin"), &more],
            ),
            (
                "closed in SQL",
                vec![&begun, &query("close \"C_1\""), &more],
            ),
            ("closed", vec![&begun, &closed]),
        ] {
            for pipelined in [false, true] {
                let mut pair = copies.sessions(&[]);
                widen(&mut pair, server);
                pair.query("begin");
                let label = format!("{server:?}, {label}, pipelined: {pipelined}");
                if pipelined {
                    let bytes: Vec<u8> = steps.iter().copied().flatten().copied().collect();
                    pair.exchange(&label, &bytes, steps.len(), b"");
                } else {
                    for step in &steps {
                        pair.exchange(&label, step, 1, b"");
                    }
                }
                pair.query("rollback");
            }
        }
        let mut pair = copies.sessions(&[]);
        widen(&mut pair, server);
        pair.query("begin");
        let ended = [&begun[..], &query("commit"), &more].concat();
        pair.exchange("ended by what is under way", &ended, 3, b"");
    }
}
