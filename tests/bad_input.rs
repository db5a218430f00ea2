//! Bad input of every kind: vectors that cannot be indexed, frames that are none, an upstream that goes and comes back.
//! Each gives a clear error where somebody sees it; nothing is lost, nothing panics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::message::{extended, frame, query};
use crate::harness::{Cluster, Rektor, Server, Wire, wait_for};
use crate::knn::fixture::Answered;

fn item_with_index(rektor: &Rektor<'_>) -> Wire {
    let server = rektor.database.cluster.server;
    let mut wire = rektor.connect();
    let with = if server.has_pgvector() {
        ""
    } else {
        " with (dimensions = 3)"
    };
    wire.run(&format!(
        "create table item (id int primary key, v {})",
        server.vector_type(3)
    ));
    rektor.create_index(
        &format!("create index item_idx on item using faiss (v vector_cosine_ops){with}"),
        "item_idx",
    );
    wire
}

/// `real[]` takes anything: what is no vector of the index is left out and counted, and its neighbours are indexed.
#[test]
fn rows_that_cannot_be_indexed_are_left_out() {
    let rektor = Rektor::start(&Server::Plain.shared().database());
    let mut wire = item_with_index(&rektor);
    let odd = [
        "{1,2}",
        "{1,2,3,4}",
        "{}",
        "{NaN,1,2}",
        "{1,Infinity,2}",
        "{1,NULL,3}",
        "{0,0,0}",
        "{{1,2,3}}",
        "{3e38,3e38,3e38}",
        "{1e-45,0,0}",
    ];
    let mut good = 0;
    for (n, value) in odd.iter().enumerate() {
        wire.run(&format!("insert into item values ({}, '{value}')", 100 + n));
        wire.run(&format!("insert into item values ({n}, '{{{n},1,1}}')"));
        good += 1;
    }
    wire.run("insert into item values (200, null)");
    rektor.catch_up(&mut wire);
    let nearest = "select id from item where id < 100 order by v <=> '{1,1,1}' limit 3";
    assert_eq!(wire.column(nearest), ["1", "2", "3"]);
    let rows: i64 = wire
        .value("select rows from rektor.stat_indexes")
        .parse()
        .unwrap();
    assert!((good..=good + 2).contains(&rows), "{rows} rows are indexed"); // the huge and the tiny one may be
    assert!(
        rektor.metric("rektor_index_left_out_rows") >= 8.0,
        "left out: {}",
        rektor.metric("rektor_index_left_out_rows")
    );
    // and back: a row that becomes good is found, one that becomes bad is not
    wire.run(
        "update item set v = '{1,1,1}' where id = 100; update item set v = '{1,1}' where id = 1",
    );
    rektor.catch_up(&mut wire);
    assert_eq!(wire.value("select id from item where id in (1, 2, 100) and array_length(v, 1) = 3 order by v <=> '{1,1,1}' limit 1"), "100");
    let now: i64 = wire
        .value("select rows from rektor.stat_indexes")
        .parse()
        .unwrap();
    assert_eq!(now, rows);
}

/// Sends bytes on a fresh socket and returns what comes back until the end.
fn send_raw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let _ = stream.write_all(bytes); // it may be closed in the middle of it
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut reply = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return reply,
            Ok(n) => reply.extend(&chunk[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return reply,
            Err(error) => panic!(
                "{error}: the connection hangs after {}",
                bytes.escape_ascii()
            ),
        }
    }
}

#[test]
fn malformed_and_oversized_frames_end_only_their_session() {
    let rektor = Rektor::start(&Server::Pg18.shared().database());
    let mut wire = item_with_index(&rektor);
    let start = |length: u32, code: u32, rest: &[u8]| {
        [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    };
    for bytes in [
        vec![],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![255; 64],
        start(0, 0, b""),
        start(3, 196_608, b""),
        start(8, 196_608, b""),
        start(9, 196_608, b"\0"),
        start(u32::MAX, 196_608, b"user\0"),
        start(10_001, 196_608, &[b'x'; 9_993]),
        start(20, 196_608, b"user\0postgre"),
        start(17, 131_072, b"user\0x\0\0\0"),
        start(16, 80_877_102, &[0; 8]),
        start(16, 80_877_102, &[1, 2, 3, 4]),
        start(8, 80_877_103, b""),
        start(
            8,
            80_877_103,
            &start(8, 80_877_103, &start(8, 80_877_104, b"")),
        ),
    ] {
        send_raw(rektor.port, &bytes);
    }
    for bytes in [
        b"Q\0\0\0\x03".to_vec(),
        b"Q\0\0\0\0".to_vec(),
        b"Q\xff\xff\xff\xff".to_vec(),
        b"Q\x7f\xff\xff\xff".to_vec(),
        b"Q\x40\0\0\0select".to_vec(),
        b"P\0\0\0\x05x".to_vec(),
        b"B\0\0\0\x06\0\0".to_vec(),
        frame(b'P', b"no terminator"),
        frame(
            b'P',
            b"\0select id from item order by v <=> $1 limit 1\0\xff\xff",
        ),
        frame(b'B', b"\0\0\0\0\xff\xff"),
        frame(b'E', b""),
        frame(b'D', b"Z\0"),
        frame(b'C', b""),
        frame(b'Q', b"select 1"),
        frame(
            b'Q',
            b"select id from item order by v <=> '[1,2,3]' limit 1\0more\0",
        ),
        frame(b'd', b"copy data out of place"),
        frame(b'p', b"password out of place\0"),
        frame(0, b""),
        vec![b'Q'],
    ] {
        let mut session = rektor.connect();
        session.send(&bytes);
        session.send(b"X\0\0\0\x04");
        // an error or the end; what matters is that the others go on
    }
    let not_utf8 = query("select 1")
        .iter()
        .map(|&byte| if byte == b'1' { 0xff } else { byte })
        .collect::<Vec<_>>();
    let frames = wire.roundtrip(&not_utf8);
    assert!(frames.iter().any(|frame| frame.tag == b'E'), "{frames:?}");
    assert_eq!(wire.value("select 1"), "1");
    assert_eq!(rektor.connect().value("select 2"), "2");
    assert!(
        !rektor.log().contains("panicked"),
        "a panic:\n{}",
        rektor.log()
    );
}

/// The primary goes away in the middle of everything and comes back: clients are told, searches work again by themselves.
#[test]
fn an_upstream_that_goes_away_and_comes_back() {
    let cluster = Cluster::start(Server::Pg18);
    let mut rektor = Rektor::start(&cluster.database());
    let mut wire = item_with_index(&rektor);
    wire.run("insert into item select n, array[n, 1, 2]::vector from generate_series(1, 500) n");
    let mut idle = rektor.connect();
    for mode in ["fast", "immediate"] {
        cluster.down(mode);
        // an idle client is told, as PostgreSQL tells it
        let told = std::iter::from_fn(|| idle.read().ok()).find(|frame| frame.tag == b'E');
        if mode == "fast" {
            assert_eq!(
                told.and_then(|error| error.field(b'C')).as_deref(),
                Some("57P01")
            );
        }
        let error = Wire::connect(
            rektor.port,
            &[("user", "postgres"), ("database", &rektor.database.name)],
            "",
        )
        .err()
        .expect("nobody can log in");
        let state = error.field(b'C').unwrap();
        assert!(
            state.starts_with("08") || state.starts_with("57P"),
            "{error:?}"
        );
        assert!(rektor.exited().is_none(), "Rektor ended with its upstream");
        let (alive, _) = rektor.http("/livez");
        assert_eq!(alive, 200);
        wait_for("/readyz to say so", Duration::from_secs(20), || {
            (rektor.http("/readyz").0 != 200).then_some(())
        });
        cluster.up();
        rektor.database.connect().run(&format!(
            "insert into item values ({}, '[1,2,3]')",
            if mode == "fast" { 1001 } else { 1002 }
        ));
        // While the stream is down, searches do not wait for it but go upstream.
        wait_for("/readyz to be well again", Duration::from_secs(20), || {
            (rektor.http("/readyz").0 == 200).then_some(())
        });
        rektor.wait_ready("item_idx");
        wire = rektor.connect();
        idle = rektor.connect();
        rektor.catch_up(&mut wire);
        let before = Answered::now(&rektor);
        let found =
            wire.column("select id from item where id > 1000 order by v <=> '[1,2,3]', id limit 5");
        assert_eq!(
            found.last().map(String::as_str),
            Some(if mode == "fast" { "1001" } else { "1002" })
        );
        wire.run("select id from item order by v <=> '[1,2,3]' limit 5");
        assert!(
            Answered::now(&rektor).nominate > before.nominate,
            "the index does not serve again"
        );
        wait_for("/readyz to be well", Duration::from_secs(20), || {
            (rektor.http("/readyz").0 == 200).then_some(())
        });
    }
    assert!(rektor.stop().success());
}

/// A slot that somebody dropped: the index is copied anew, and never wrong in between.
#[test]
fn a_lost_slot_means_a_new_copy() {
    let cluster = Cluster::start(Server::Pg16);
    let mut rektor = Rektor::start(&cluster.database());
    let mut wire = item_with_index(&rektor);
    wire.run("insert into item select n, array[n, 1, 2]::vector from generate_series(1, 500) n");
    rektor.kill();
    let mut direct = rektor.database.connect();
    let slot = rektor.slot().to_owned();
    wait_for("the slot to be free", Duration::from_secs(20), || {
        direct
            .try_rows(&format!("select pg_drop_replication_slot('{slot}')"))
            .ok()
    });
    direct.run("delete from item where id <= 100; update item set v = '[9,9,9]' where id = 200");
    rektor.up();
    rektor.wait_ready("item_idx");
    let mut wire = rektor.connect();
    rektor.catch_up(&mut wire);
    assert_eq!(
        wire.column("select id from item order by v <=> '[9,9,9]' limit 1"),
        ["200"]
    );
    assert_eq!(wire.value("select rows from rektor.stat_indexes"), "400");
}

/// Searches with every LIMIT there is, while rows come and go: never short.
#[test]
fn answers_are_never_short_under_writes() {
    let rektor = Rektor::start(&Server::Pg18.shared().database());
    let mut wire = item_with_index(&rektor);
    wire.run(
        "insert into item select n, array[n, n % 17, 1]::vector from generate_series(1, 2000) n",
    );
    let writer = {
        let mut wire = rektor.connect();
        std::thread::spawn(move || {
            for round in 0..300 {
                // as many rows go as come
                wire.run(&format!("begin; delete from item where id = {0}; insert into item values ({0} + 5000, '[{0},3,4]'); commit", round + 1));
            }
        })
    };
    let mut searches = 0;
    while !writer.is_finished() || searches < 50 {
        for limit in [1, 10, 100, 1999] {
            let frames = wire.roundtrip(&extended(
                &format!("select id from item order by v <=> $1 limit {limit}"),
                &[Some(b"[3,4,5]")],
                &[],
            ));
            let rows = frames.iter().filter(|frame| frame.tag == b'D').count();
            assert_eq!(
                rows,
                limit,
                "short, or an error: {:?}",
                frames.iter().find(|frame| frame.tag == b'E')
            );
            searches += 1;
        }
    }
    writer.join().unwrap();
}
