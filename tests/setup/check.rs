//! `rektor check`: it is content with what it asked for, and names what would mend the rest.

use super::{prepared, rektor, succeed, text};
use crate::harness::{Cluster, Server, command};

#[test]
fn check_is_content_with_what_it_asked_for() {
    for server in Server::ALL {
        let cluster = Cluster::start_with(server, "max_slot_wal_keep_size = '1GB'");
        let database = cluster.database();
        let output = rektor(&["check"], &database);
        assert_eq!(output.status.code(), Some(1));
        let report = text(&output);
        let failing = report
            .lines()
            .filter(|line| line.starts_with("FAIL"))
            .collect::<Vec<_>>();
        assert_eq!(
            failing,
            ["FAIL  schema rektor is not installed"],
            "{report}"
        );
        succeed(&["setup"], &database);
        let report = succeed(&["check"], &database);
        assert!(
            report.lines().all(|line| line.starts_with("ok    ")),
            "{report}"
        );

        // A table that has come to be unpublishable is found, with what mends it.
        let vector = server.vector_type(3);
        let mut wire = database.connect();
        wire.run(&format!(
            "create table items (id int primary key, embedding {vector})"
        ));
        wire.run("select rektor.create_index('a', 'items', 'embedding', options => '{\"dimensions\": 3}')");
        succeed(&["check"], &database);
        wire.rows("select pg_create_logical_replication_slot('rektor', 'pgoutput')");
        let report = succeed(&["check"], &database);
        assert!(
            report.contains("replication slot rektor holds "),
            "{report}"
        );
        wire.rows("select pg_drop_replication_slot('rektor')");
        wire.run("alter table items replica identity nothing");
        let report = text(&rektor(&["check"], &database));
        assert!(
            report.contains("ALTER TABLE public.items REPLICA IDENTITY DEFAULT"),
            "{report}"
        );
    }
}

#[test]
fn check_names_what_mends_a_server_that_cannot_replicate() {
    let cluster = Cluster::start_with(
        Server::Plain,
        "wal_level = replica\nmax_replication_slots = 0\nmax_wal_senders = 0",
    );
    let database = cluster.database();
    database.connect().run("create role poor login");
    let url = database.url().replace("postgres@", "poor@");
    let output = command(&["check", "--upstream", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output);
    for (finding, mend) in [
        (
            "wal_level is replica",
            "ALTER SYSTEM SET wal_level = 'logical';",
        ),
        (
            "role poor may not replicate",
            "ALTER ROLE poor REPLICATION;",
        ),
        (
            "0 of 0 replication slots are free",
            "ALTER SYSTEM SET max_replication_slots = 2;",
        ),
        (
            "0 of 0 WAL senders are free",
            "ALTER SYSTEM SET max_wal_senders = 2;",
        ),
        (
            "max_slot_wal_keep_size is unlimited",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '16GB'; SELECT pg_reload_conf();",
        ),
    ] {
        let (_, after) = report
            .split_once(&format!("FAIL  {finding}"))
            .unwrap_or_else(|| panic!("{finding}:\n{report}"));
        let next = after.lines().nth(1).unwrap_or_default();
        assert_eq!(next.trim(), mend, "{report}");
    }
}

#[test]
fn check_finds_what_the_role_may_not_read() {
    let database = prepared(Server::Pg16);
    let role = format!("reader_{}", database.name);
    let mut wire = database.connect();
    wire.run(&format!(
        "create role {role} login replication; alter table items enable row level security"
    ));
    wire.run("select rektor.create_index('a', 'items', 'embedding')");
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let report = || text(&command(&["check", "--upstream", &url]).output().unwrap());
    let mends = |mend: &str| {
        let report = report();
        assert!(
            report.lines().any(|line| line.trim() == mend),
            "{mend} in\n{report}"
        );
    };
    mends(&format!("GRANT SELECT ON items TO {role};"));
    mends(&format!("ALTER ROLE {role} BYPASSRLS;"));
    wire.run(&format!(
        "GRANT SELECT ON items TO {role}; ALTER ROLE {role} BYPASSRLS"
    ));
    assert!(
        !report().contains(&format!("role {role} may not read")),
        "{}",
        report()
    );
    wire.run("alter publication rektor drop table items");
    mends("ALTER PUBLICATION rektor ADD TABLE ONLY items;");
    wire.run("alter publication rektor set (publish = 'insert')");
    mends(
        "ALTER PUBLICATION rektor SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);",
    );
}
