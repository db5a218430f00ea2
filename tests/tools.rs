//! The tools that people already have: psql, pgbench, pg_dump, psycopg and tokio-postgres, through Rektor as directly.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Cluster, Server, Wire, rektor, wait_for};
use crate::relay::compare::Copies;

fn succeed(mut command: Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn psql_describes_and_copies() {
    for server in Server::ALL {
        let copies = Copies::new(server);
        let database = &copies.rektor.database;
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let scripts = [
            "\\d\n\\d item\n\\d+ owned\n\\dt+ *.item\n\\df add\n\\du reader\n\\dn\n\\dv\n\\di\n\\dT+ mood\n\\ds\n\\dp item\n\\conninfo\n".to_owned(),
            format!("\\copy (select id, name from item order by id limit 20) to '{path}'\n\\! cat {path}\n"),
            format!("create table again (id int, name text);\n\\copy again from '{path}'\nselect count(*), max(name) from again;\ndrop table again;\n"),
            "\\timing off\nselect 1 \\gset a_\n\\echo :a_\nbegin;\nselect 1/0;\n\\echo :ERROR :SQLSTATE\nrollback;\n\\set FETCH_COUNT 3\nselect id from item order by id limit 10;\n".to_owned(),
            "select id, name from item order by id limit 3 \\gdesc\nselect 'x' as a, 'y' as b \\gx\n\\sf add\n\\errverbose\nselect * from missing;\n\\errverbose\n".to_owned(),
            "listen here;\nnotify here, 'hello';\nselect 1;\n".to_owned(),
        ];
        for script in scripts {
            let run = |port: u16| {
                let mut command = database.tool("psql", port);
                command
                    .args(["-X", "-a"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                let mut child = command.spawn().unwrap();
                child
                    .stdin
                    .take()
                    .unwrap()
                    .write_all(script.as_bytes())
                    .unwrap();
                let output = child.wait_with_output().unwrap();
                // the port is in \conninfo, a notification names its sender
                let shown = |bytes: &[u8]| {
                    let lines = text(bytes).replace(&port.to_string(), "PORT");
                    let keep = |line: &&str| {
                        !line.starts_with("Asynchronous notification")
                            && !line.contains("Backend PID")
                    };
                    lines.lines().filter(keep).collect::<Vec<_>>().join("\n")
                };
                (shown(&output.stdout), shown(&output.stderr))
            };
            let direct = run(database.cluster.port);
            assert_eq!(direct, run(copies.rektor.port), "{server:?}: {script}");
            assert!(!direct.0.is_empty());
        }
    }
}

#[test]
fn psql_ctrl_c_cancels() {
    let copies = Copies::new(Server::Plain);
    let database = &copies.rektor.database;
    let mut command = database.tool("psql", copies.rektor.port);
    command
        .args(["-X", "-c", "select pg_sleep(77)"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let psql = command.spawn().unwrap();
    let mut outside = database.connect();
    wait_for("psql's statement to run", Duration::from_secs(20), || {
        let sql = "select count(*) from pg_stat_activity where query = 'select pg_sleep(77)' and state = 'active'";
        (outside.value(sql) == "1").then_some(())
    });
    let started = Instant::now();
    rektor::signal(psql.id(), "INT");
    let output = psql.wait_with_output().unwrap();
    assert!(
        text(&output.stderr).contains("canceling statement due to user request"),
        "{output:?}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "the cancel came late"
    );
}

#[test]
fn pgbench_initialises_and_runs() {
    let copies = Copies::new(Server::Pg18);
    let database = &copies.rektor.database;
    let pgbench = |port: u16, arguments: &[&str]| {
        let mut command = database.tool("pgbench", port);
        command.args(arguments);
        text(&succeed(command).stdout)
    };
    pgbench(copies.rektor.port, &["-i", "-s", "1", "-q"]);
    for protocol in ["simple", "extended", "prepared"] {
        let output = pgbench(
            copies.rektor.port,
            &["-c", "4", "-j", "2", "-t", "50", "-M", protocol],
        );
        assert!(
            output.contains("number of failed transactions: 0 "),
            "{output}"
        );
    }
    let mut tps = Vec::new();
    for port in [database.cluster.port, copies.rektor.port] {
        let output = pgbench(
            port,
            &["-S", "-c", "8", "-j", "2", "-t", "500", "-M", "prepared"],
        );
        let line = output
            .lines()
            .find(|line| line.starts_with("tps = "))
            .expect("a throughput");
        tps.push(line.to_owned());
    }
    eprintln!(
        "pgbench -S -c 8: direct {}, through Rektor {}",
        tps[0], tps[1]
    );
}

#[test]
fn pg_dump_gives_the_same_dump() {
    for server in Server::ALL {
        let copies = Copies::new(server);
        let database = &copies.rektor.database;
        let dump = |port: u16, arguments: &[&str]| {
            let mut command = database.tool("pg_dump", port);
            command.args(arguments);
            let output = text(&succeed(command).stdout);
            // each dump has a random key of its own
            let own =
                |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
            output.lines().filter(own).collect::<Vec<_>>().join("\n")
        };
        for arguments in [
            &[][..],
            &["--schema-only", "--no-owner"],
            &["--data-only", "--inserts"],
        ] {
            let direct = dump(database.cluster.port, arguments);
            assert!(direct.contains("item"));
            assert_eq!(
                direct,
                dump(copies.rektor.port, arguments),
                "{server:?} {arguments:?}"
            );
        }
    }
}

#[test]
fn encryption_requests_are_answered() {
    let copies = Copies::new(Server::Plain);
    let database = &copies.rektor.database;
    for (mode, works) in [
        ("disable", true),
        ("allow", true),
        ("prefer", true),
        ("require", false),
    ] {
        let mut command = database.tool("psql", copies.rektor.port);
        command
            .env("PGSSLMODE", mode)
            .args(["-X", "-At", "-c", "select 1"]);
        let output = command.output().unwrap();
        assert_eq!(output.status.success(), works, "sslmode={mode}: {output:?}");
    }
    let mut command = database.tool("psql", copies.rektor.port);
    command
        .env("PGGSSENCMODE", "require")
        .args(["-X", "-At", "-c", "select 1"]);
    assert!(
        !command.output().unwrap().status.success(),
        "GSS encryption is not there"
    );
}

/// Every login that needs a secret, through Rektor with libpq: let in with the right one, refused as directly with another.
#[test]
fn logins_are_upstreams() {
    for server in [Server::Plain, Server::Pg18] {
        let cluster = Cluster::start(server);
        let database = cluster.database();
        let mut wire = database.connect();
        for (role, encryption) in [
            ("md5_user", "md5"),
            ("scram_user", "scram-sha-256"),
            ("plain_user", "scram-sha-256"),
        ] {
            wire.run(&format!("set password_encryption = '{encryption}'; create role {role} login password 'sésame'"));
        }
        wire.run("create role barred login; create role expired login password 'sésame' valid until '2020-01-01'");
        let rektor = crate::harness::Rektor::start(&database);
        cluster.set_hba(
            "host all md5_user all md5\nhost all scram_user,expired all scram-sha-256\nhost all plain_user all password\n\
             host all barred all reject\nhost replication postgres all trust\nhost all postgres all trust\n",
        );
        wait_for("the new rules", Duration::from_secs(10), || {
            Wire::connect(cluster.port, &[("user", "barred")], "")
                .err()
                .filter(|e| e.field(b'C').as_deref() == Some("28000"))
        });
        let login = |port: u16, role: &str, password: &str| {
            let mut command = database.tool("psql", port);
            command
                .env("PGUSER", role)
                .env("PGPASSWORD", password)
                .env("PGSSLMODE", "disable");
            let output = command
                .args(["-X", "-At", "-c", "select current_user"])
                .output()
                .unwrap();
            (
                text(&output.stdout),
                text(&output.stderr).replace(&port.to_string(), "PORT"),
            )
        };
        for role in [
            "md5_user",
            "scram_user",
            "plain_user",
            "expired",
            "barred",
            "unknown",
        ] {
            for password in ["sésame", "wrong", ""] {
                let direct = login(cluster.port, role, password);
                assert_eq!(
                    direct,
                    login(rektor.port, role, password),
                    "{server:?} {role} with {password:?}"
                );
                let right = password == "sésame" && role.ends_with("_user");
                assert_eq!(direct.0 == format!("{role}\n"), right, "{direct:?}");
            }
        }
    }
}

/// The Python that tests/run.sh sets up, with psycopg.
fn python() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    let python = std::env::var_os("REKTOR_TEST_PYTHON").map_or(own, PathBuf::from);
    assert!(
        python.exists(),
        "no {}: run tests/run.sh, which installs psycopg",
        python.display()
    );
    python
}

#[test]
fn psycopg_works() {
    let copies = Copies::new(Server::Pg16);
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients.py");
    let run = |port: u16, database: &str| {
        let mut command = Command::new(python());
        command.arg(&script).arg(format!(
            "host=127.0.0.1 port={port} user=postgres dbname={database}"
        ));
        text(&succeed(command).stdout)
    };
    let direct = run(copies.direct.cluster.port, &copies.direct.name);
    assert!(direct.lines().count() > 10, "{direct}");
    assert_eq!(
        direct,
        run(copies.rektor.port, &copies.rektor.database.name)
    );
}

#[tokio::test]
async fn tokio_postgres_works() {
    use futures_util::{SinkExt, TryStreamExt};
    use tokio_postgres::{NoTls, error::SqlState};
    let copies = tokio::task::spawn_blocking(|| Copies::new(Server::Pg18))
        .await
        .unwrap();
    let url = format!(
        "postgres://postgres@127.0.0.1:{}/{}",
        copies.rektor.port, copies.rektor.database.name
    );
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let row = client
        .query_one("select $1::int + 1, $2::text", &[&41i32, &"x"])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (42, "x"));
    // pipelined
    let select = client
        .prepare("select name from item where id = $1")
        .await
        .unwrap();
    let names = futures_util::future::try_join_all((1..=50i32).map(|id| {
        let (client, select) = (&client, &select);
        async move {
            client
                .query_one(select, &[&id])
                .await
                .map(|row| row.get::<_, String>(0))
        }
    }));
    assert_eq!(names.await.unwrap()[49], "item 50");
    // transactions, COPY, errors, cancel
    let transaction = client.transaction().await.unwrap();
    let sink = transaction
        .copy_in("copy account from stdin")
        .await
        .unwrap();
    futures_util::pin_mut!(sink);
    sink.send(bytes::Bytes::from_static(b"800\t5\n801\t6\n"))
        .await
        .unwrap();
    assert_eq!(sink.finish().await.unwrap(), 2);
    let error = transaction
        .execute("insert into account values (800, 1)", &[])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    transaction.rollback().await.unwrap();
    let copied = client.copy_out("copy item to stdout").await.unwrap();
    let bytes: usize = copied
        .try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) })
        .await
        .unwrap();
    assert!(bytes > 10_000);
    let token = client.cancel_token();
    let (slept, cancelled) = tokio::join!(client.simple_query("select pg_sleep(60)"), async {
        let mut outside = tokio::task::spawn_blocking({
            let database = copies.rektor.database.clone();
            move || database.connect()
        })
        .await
        .unwrap();
        tokio::task::spawn_blocking(move || {
            wait_for("the statement to run", Duration::from_secs(20), || {
                let sql = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active' and datname = current_database()";
                (outside.value(sql) == "1").then_some(())
            });
        })
        .await
        .unwrap();
        token.cancel_query(NoTls).await
    });
    cancelled.unwrap();
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    drop(client);
    connection.await.unwrap().unwrap();

    drop(copies);
}
