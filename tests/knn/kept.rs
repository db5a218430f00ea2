//! What a session keeps between statements: own statements, whose Parse upstream may have skipped, and rows that are still to be
//! fetched.

use super::fixture::{Answered, copies_with, query_vector};
use super::statements::widen;
use crate::harness::message::{bind, close, execute, extended, flush, parse, query, sync};
use crate::harness::{Server, Wire};
use crate::relay::compare::Pair;

/// The index's name by `rektor.stat_indexes`, asked in both protocols.
fn stat_answers(wire: &mut Wire, label: &str) {
    let sql = "select index_name from rektor.stat_indexes";
    for bytes in [extended(sql, &[], &[]), query(sql)] {
        let frames = wire.roundtrip(&bytes);
        let error = frames.iter().find(|frame| frame.tag == b'E');
        assert_eq!(error, None, "{label}");
        let row = frames.iter().find(|frame| frame.tag == b'D');
        let name = row.and_then(|row| row.texts().remove(0));
        assert_eq!(name.as_deref(), Some("item_l2"), "{label}");
    }
}

fn codes(wire: &mut Wire, bytes: &[u8]) -> Vec<Option<String>> {
    let frames = wire.roundtrip(bytes);
    let errors = frames.iter().filter(|frame| frame.tag == b'E');
    errors.map(|error| error.field(b'C')).collect()
}

#[test]
fn stat_views_answer_after_statements_that_failed() {
    let copies = copies_with(Server::Pg18, &["item_l2"]);
    let stat = |what: &str| extended(&format!("select {what} from rektor.stat_indexes"), &[], &[]);
    let fails = |what: &str, code: &str| (what.to_owned(), vec![Some(code.to_owned())]);

    let mut wire = copies.rektor.connect();
    let (what, code) = fails("no_such_column", "42703");
    assert_eq!(codes(&mut wire, &stat(&what)), code);
    stat_answers(&mut wire, "after a Parse that failed");

    let mut wire = copies.rektor.connect();
    wire.run("begin");
    assert_eq!(codes(&mut wire, &query("select 1/0")).len(), 1);
    let (what, code) = fails("rows", "25P02");
    assert_eq!(codes(&mut wire, &stat(&what)), code);
    wire.run("rollback");
    stat_answers(&mut wire, "after a failed transaction");

    // the second is sent before the first has failed
    let mut wire = copies.rektor.connect();
    wire.send(&[stat("no_such_column"), stat("index_name")].concat());
    wire.read_until(b'Z');
    let second = wire.read_until(b'Z');
    let shown: String = second.iter().map(|frame| char::from(frame.tag)).collect();
    assert_eq!(shown, "1tT2TDCZ", "{second:?}");
    wire.run("discard all");
    stat_answers(&mut wire, "after DISCARD ALL");
    wire.send(&[stat("index_name"), query("discard all")].concat());
    wire.read_until(b'Z');
    wire.read_until(b'Z');
    stat_answers(&mut wire, "after a DISCARD ALL sent with one");

    // upstream ignores everything before the Sync, and goes on ignoring it
    let mut wire = copies.rektor.connect();
    let failed = [parse("", "no statement", &[]), flush()].concat();
    wire.send(&failed);
    wire.read_until(b'E');
    let ignored = query("select index_name from rektor.stat_indexes");
    let frames = wire.roundtrip(&[ignored, sync()].concat());
    assert_eq!(frames.len(), 1, "{frames:?}");
    stat_answers(&mut wire, "after a statement that was ignored");
}

/// A search whose own statement upstream never parsed, since what came before it failed, is answered the next time.
#[test]
fn searches_are_answered_after_statements_that_failed() {
    for server in [Server::Plain, Server::Pg18] {
        let copies = copies_with(server, &["item_l2"]);
        let mut pair = copies.sessions(&[]);
        widen(&mut pair, server);
        let v = query_vector(server, 12);
        let search = "select id from item order by embedding <-> $1 limit 5";
        let other = "select name from item order by embedding <-> $1 limit 5";
        // never enough: by *exact* at once after the first time
        let all = "select id from item order by embedding <-> $1 limit 4000";
        let run = |name: &str| {
            [
                bind("", name, &[], &[Some(v.as_bytes())], &[]),
                execute("", 0),
            ]
            .concat()
        };
        let prepare = [
            parse("a", search, &[]),
            parse("b", other, &[]),
            parse("all", all, &[]),
            sync(),
        ];
        pair.exchange("prepare", &prepare.concat(), 1, b"");
        let fresh = [run("b"), sync()].concat(); // what a look-up tells is known after this
        let failing = |name: &str| [parse("", "no statement", &[]), run(name), sync()].concat();
        for name in ["a", "all"] {
            let label = |what: &str| format!("{server:?} {name} {what}");
            if name == "all" {
                pair.exchange(&label("itself"), &[run(name), sync()].concat(), 1, b"");
                // in this session's order the next one makes the statement anew
                let again = [parse("all", all, &[]), sync()].concat();
                pair.exchange(&label("closed"), &again, 1, b"");
            }
            pair.exchange(&label("before"), &fresh, 1, b"");
            pair.exchange(&label("skipped"), &failing(name), 1, b"");
            let before = Answered::now(&copies.rektor);
            let bytes = [query("begin"), run(name), sync(), query("commit")].concat();
            pair.exchange(&label("in a transaction"), &bytes, 3, b"");
            let after = Answered::now(&copies.rektor);
            assert_eq!(after.relay, before.relay, "{}", label("is answered"));
        }
    }
}

/// What portals have not given yet is held up to a bound for all of them; beyond it upstream holds it.
#[test]
fn held_rows_are_bounded_for_all_portals_together() {
    let server = Server::Pg18;
    let copies = copies_with(server, &["item_l2"]);
    let mut pair = copies.sessions(&[]);
    widen(&mut pair, server);
    // 36 rows of some 150,000 bytes: 5.4 MB
    let search = "select id, repeat(name, 16000) from item where id > 1000 order by embedding <-> $1 limit 36";
    let v = query_vector(server, 13);
    pair.exchange(
        "prepare",
        &[parse("s", search, &[]), sync()].concat(),
        1,
        b"",
    );
    pair.query("begin");
    let mut ways = Vec::new();
    let mut open = |pair: &mut Pair, portal: &str| {
        let before = Answered::now(&copies.rektor);
        let bound = bind(portal, "s", &[], &[Some(v.as_bytes())], &[]);
        let bytes = [bound, execute(portal, 1), sync()].concat();
        pair.exchange(portal, &bytes, 1, b"");
        let after = Answered::now(&copies.rektor);
        ways.push((after.nominate - before.nominate, after.exact - before.exact));
    };
    let fetch = |pair: &mut Pair, portal: &str, rows: i32| {
        let bytes = [execute(portal, rows), sync()].concat();
        pair.exchange(portal, &bytes, 1, b"");
    };
    for portal in ["a", "b", "c", "d"] {
        open(&mut pair, portal);
    }
    for portal in ["d", "a", "c"] {
        fetch(&mut pair, portal, 7);
    }
    fetch(&mut pair, "a", 0); // there is room again …
    open(&mut pair, "e");
    open(&mut pair, "f");
    let closed = [close(b'P', "b"), sync()].concat();
    pair.exchange("close", &closed, 1, b"");
    open(&mut pair, "g"); // … and again
    for portal in ["c", "d", "e", "f", "g"] {
        fetch(&mut pair, portal, 0);
    }
    pair.query("commit");
    pair.query("begin");
    open(&mut pair, "h");
    pair.query("commit");
    let (held, upstream) = ((1.0, 0.0), (0.0, 1.0));
    assert_eq!(
        ways,
        [held, held, held, upstream, held, upstream, held, held]
    );
}
