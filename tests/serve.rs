//! `rektor serve` as an operator meets it: what it says when it cannot start, how it stops, its health and metrics,
//! and the private PostgreSQL that it starts, stops, and finds again after a kill.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use crate::harness::{Rektor, Server, Wire, command, free_port, http, message, signal, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// `rektor serve` with free ports and these arguments, to its end, which must come by itself.
fn fails(arguments: &[&str], data_dir: &Path) -> Output {
    let (listen, http) = (free_port(), free_port());
    command(&["serve", "--data-dir"])
        .arg(data_dir)
        .args([
            "--listen",
            &format!("127.0.0.1:{listen}"),
            "--http",
            &format!("127.0.0.1:{http}"),
        ])
        .args(arguments)
        .output()
        .unwrap()
}

/// Its exit status, its last line on standard error, and nothing on standard output.
fn complaint(output: &Output) -> (i32, String) {
    assert!(output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    let complaints = said
        .lines()
        .filter(|line| line.starts_with("rektor: "))
        .collect::<Vec<_>>();
    let [only] = complaints[..] else {
        panic!("{said}")
    };
    (output.status.code().unwrap(), only.to_owned())
}

#[test]
fn what_keeps_it_from_starting_is_one_line_and_a_status() {
    let database = Server::Plain.shared().database();
    let url = database.url();
    let upstream = ["--upstream", &url];
    let empty = || tempfile::tempdir().unwrap();

    let directory = empty();
    let (status, said) = complaint(&fails(&upstream, directory.path()));
    let expected = format!(
        "rektor: schema rektor is not installed in database \"{}\": run rektor setup --upstream … first",
        database.name
    );
    assert_eq!((status, said), (1, expected));

    Rektor::setup(&database);
    let (status, said) = complaint(&fails(
        &["--upstream", "postgres://postgres@127.0.0.1:1/x"],
        empty().path(),
    ));
    assert_eq!(
        (
            status,
            said.starts_with("rektor: cannot connect to upstream: ")
        ),
        (1, true),
        "{said}"
    );
    let (status, said) = complaint(&fails(
        &["--upstream", &url.replace(&database.name, "nowhere")],
        empty().path(),
    ));
    assert_eq!(
        (
            status,
            said.contains("database \"nowhere\" does not exist (SQLSTATE 3D000)")
        ),
        (1, true),
        "{said}"
    );

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = command(&[
        "serve",
        "--upstream",
        &url,
        "--listen",
        &address,
        "--data-dir",
    ])
    .arg(empty().path())
    .output()
    .unwrap();
    let (status, said) = complaint(&output);
    assert_eq!(
        (
            status,
            said.starts_with(&format!(
                "rektor: cannot listen on {address} (listen): Address already in use"
            ))
        ),
        (1, true),
        "{said}"
    );

    let other = empty();
    fs::write(other.path().join("thesis.tex"), "").unwrap();
    let (status, said) = complaint(&fails(&upstream, other.path()));
    assert_eq!(
        (
            status,
            said.contains("is not empty, and not a data directory of Rektor")
        ),
        (1, true),
        "{said}"
    );

    let (status, said) = complaint(&fails(&["--upstream", "http://x"], empty().path()));
    assert_eq!(
        (status, said.starts_with("rektor: upstream: ")),
        (2, true),
        "{said}"
    );
    let (status, said) = complaint(&fails(&["--pg-bin", "/no/such"], empty().path()));
    assert_eq!(
        (
            status,
            said.starts_with("rektor: no PostgreSQL found (/no/such: postgres: No such file")
        ),
        (1, true),
        "{said}"
    );
}

#[test]
fn a_role_that_may_not_replicate_is_told_so() {
    let database = Server::Pg18.shared().database();
    Rektor::setup(&database);
    let role = format!("poor_{}", database.name);
    database.connect().run(&format!("create role {role} login"));
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let directory = tempfile::tempdir().unwrap();
    let (status, said) = complaint(&fails(&["--upstream", &url], directory.path()));
    assert_eq!(
        (status, said.contains("(rektor check says what mends it)")),
        (1, true),
        "{said}"
    );
}

#[test]
fn a_data_directory_has_one_rektor_and_a_slot_in_use_stays() {
    let database = Server::Pg16.shared().database();
    let mut rektor = Rektor::start(&database);
    let url = database.url();
    let (status, said) = complaint(&fails(&["--upstream", &url], rektor.data_dir()));
    assert_eq!(
        (status, said.ends_with("another Rektor is using it")),
        (1, true),
        "{said}"
    );

    wait_for("readiness", LIMIT, || {
        (rektor.http("/readyz").0 == 200).then_some(())
    });
    let output = command(&["teardown", "--upstream", &url, "--slot", rektor.slot()])
        .output()
        .unwrap();
    let (status, said) = complaint(&output);
    assert_eq!(
        (
            status,
            said.contains("is in use by process") && said.contains("(rektor)")
        ),
        (1, true),
        "{said}"
    );
    assert_eq!(
        database
            .connect()
            .value("select count(*) from pg_publication"),
        "1",
        "nothing was removed"
    );

    assert!(rektor.stop().success());
    let free = "select count(*) from pg_replication_slots where active and slot_name = ";
    let free = format!("{free}'{}'", rektor.slot());
    wait_for("the slot to be free", LIMIT, || {
        (database.connect().value(&free) == "0").then_some(())
    });
    let output = command(&["teardown", "--upstream", &url, "--slot", rektor.slot()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_data_directory_of_another_cluster_is_left_alone() {
    let first = Server::Pg16.shared().database();
    let mut rektor = Rektor::start(&first);
    rektor
        .connect()
        .run("create table items (id int primary key, embedding vector(2))");
    rektor.create_index(
        "create index nearby on items using faiss (embedding vector_l2_ops)",
        "nearby",
    );
    assert!(rektor.stop().success());
    let second = Server::Pg18.shared().database();
    Rektor::setup(&second);
    let url = second.url();
    let (status, said) = complaint(&fails(&["--upstream", &url], rektor.data_dir()));
    let belongs = format!(
        "belongs to database \"{}\" of the cluster with system identifier",
        first.name
    );
    assert_eq!((status, said.contains(&belongs)), (1, true), "{said}");
    rektor.up();
    rektor.wait_ready("nearby");
}

#[test]
fn health_and_metrics_tell_of_the_indexes() {
    let server = Server::Pg18;
    let database = server.shared().database();
    let rektor = Rektor::start(&database);
    wait_for("readiness", LIMIT, || {
        (rektor.http("/readyz") == (200, "ready\n".to_owned())).then_some(())
    });
    assert_eq!(rektor.http("/livez"), (200, "live\n".to_owned()));
    assert_eq!(rektor.http("/nope").0, 404);
    let mut wire = rektor.connect();
    wire.run("create table items (id int primary key, embedding vector(2))");
    wire.run(
        "insert into items select n, format('[%s,1]', n)::vector from generate_series(1, 50) n",
    );
    rektor.create_index(
        "create index nearby on items using faiss (embedding vector_l2_ops)",
        "nearby",
    );
    assert_eq!(
        rektor.metric("rektor_index_rows{index=\"public.nearby\"}"),
        50.0
    );
    assert_eq!(
        rektor.metric("rektor_index_phase{index=\"public.nearby\",phase=\"ready\"}"),
        1.0
    );
    assert_eq!(rektor.metric("rektor_replication_streaming"), 1.0);
    wait_for("the other sessions' end", LIMIT, || {
        (rektor.metric("rektor_sessions") == 1.0).then_some(())
    });
    wire.run("drop index nearby");
    wait_for("the index to go", LIMIT, || {
        (!rektor.http("/metrics").1.contains("nearby")).then_some(())
    });
}

#[test]
fn a_signal_lets_statements_end_and_a_second_one_does_not() {
    let database = Server::Plain.shared().database();
    let mut rektor = Rektor::start(&database);
    let mut idle = rektor.connect();
    assert!(
        rektor.stop().success(),
        "an idle client does not hold it up"
    );
    assert_eq!(idle.read().unwrap().field(b'C').as_deref(), Some("57P01"));

    rektor.up();
    let mut busy = rektor.connect();
    let pid = busy.pid();
    busy.send(&message::query("select pg_sleep(60)"));
    let mut direct = database.connect();
    wait_for("the statement to run", LIMIT, || {
        let running = format!(
            "select count(*) from pg_stat_activity where pid = {pid} and wait_event = 'PgSleep'"
        );
        (direct.value(&running) == "1").then_some(())
    });
    // The first signals are one request, as `timeout` sends it twice; one that comes later is a second one.
    let status = wait_for("its end", LIMIT, || {
        signal(rektor.pid(), "INT");
        rektor.exited()
    });
    assert_eq!(status.code(), Some(1));
    assert!(
        rektor
            .log()
            .contains("rektor: stopped at once by a second signal")
    );
}

/// A `rektor serve` without upstream.
struct Private {
    child: Child,
    port: u16,
    http: u16,
    line: String,
}

impl Private {
    fn start(data_dir: &Path, server: Server) -> Self {
        let (port, http) = (free_port(), free_port());
        let mut child = command(&["serve", "--data-dir"])
            .arg(data_dir)
            .args([
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--http",
                &format!("127.0.0.1:{http}"),
            ])
            .arg("--pg-bin")
            .arg(server.bin())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line.is_empty() {
            let mut said = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            panic!("no line from rektor; it wrote:\n{said}");
        }
        Self {
            child,
            port,
            http,
            line,
        }
    }

    fn connect(&self) -> Wire {
        Wire::login(self.port, "postgres", "postgres")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            signal(self.child.id(), "TERM");
            let _ = self.child.wait();
        }
    }
}

/// The private server's process, if its lock file says that there is one.
fn postmaster(data_dir: &Path) -> Option<u32> {
    let lock = fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?;
    lock.lines().next()?.parse().ok()
}

#[test]
fn a_private_server_comes_and_goes_with_rektor() {
    for server in Server::ALL {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("data");
        let mut rektor = Private::start(&data_dir, server);
        assert!(
            rektor.line.starts_with(&format!(
                "rektor accepts connections on 127.0.0.1:{}",
                rektor.port
            )),
            "{}",
            rektor.line
        );
        let vector = server.vector_type(2);
        let mut wire = rektor.connect();
        assert_eq!(
            wire.value("select current_user || ' ' || current_setting('is_superuser')"),
            "postgres on"
        );
        assert_eq!(
            wire.value("select current_setting('listen_addresses')"),
            "",
            "no network"
        );
        wire.run(&format!(
            "create table items (id int primary key, embedding {vector})"
        ));
        drop(wire);
        assert!(postmaster(&data_dir).is_some());
        wait_for("readiness", LIMIT, || {
            (http(rektor.http, "/readyz").0 == 200).then_some(())
        });
        signal(rektor.child.id(), "TERM");
        assert!(rektor.child.wait().unwrap().success());
        assert_eq!(postmaster(&data_dir), None);

        // Killed, it leaves its server behind; the next one stops that and starts its own.
        let mut rektor = Private::start(&data_dir, server);
        let first = postmaster(&data_dir).unwrap();
        rektor.connect().run("insert into items (id) values (1)");
        rektor.child.kill().unwrap();
        rektor.child.wait().unwrap();
        let again = Private::start(&data_dir, server);
        assert_ne!(postmaster(&data_dir), Some(first));
        // Whether anyone has collected its exit status is not ours to say: a process that ended has no program any more.
        assert!(
            fs::read_link(format!("/proc/{first}/exe")).is_err(),
            "the orphan is gone"
        );
        assert_eq!(again.connect().value("select count(*) from items"), "1");
        assert_eq!(
            again.connect().value("select to_regclass('rektor.index')"),
            "rektor.index"
        );
    }
}

#[test]
fn a_private_server_survives_a_stale_lock_file_and_a_long_path() {
    let parent = tempfile::tempdir().unwrap();
    let data_dir = parent.path().join("d".repeat(120));
    drop(Private::start(&data_dir, Server::Pg18));
    // The process that the file names is alive, but no server: this test.
    let lock = data_dir.join("postgres/postmaster.pid");
    fs::write(&lock, format!("{}\n/elsewhere\n", std::process::id())).unwrap();
    let rektor = Private::start(&data_dir, Server::Pg18);
    assert_eq!(rektor.connect().value("select 1"), "1");
    drop(rektor);
    let mine = Server::Pg16.bin();
    let (status, said) = complaint(&fails(&["--pg-bin", mine.to_str().unwrap()], &data_dir));
    assert_eq!(
        (status, said.contains("was made by PostgreSQL 18")),
        (1, true),
        "{said}"
    );
}
