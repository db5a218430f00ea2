//! What each layer of the configuration says, what wins, and what is refused.

use super::*;

fn settings(file: &str) -> (tempfile::TempDir, Settings) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rektor.toml");
    fs::write(&path, file).unwrap();
    let settings = Settings {
        config: Some(path),
        ..Settings::default()
    };
    (directory, settings)
}

#[test]
fn what_is_said_on_the_command_line_wins_over_the_file_and_the_file_over_the_default() {
    let file = "listen = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\nlog_format = \"json\"\nmax_connections = 7\n\
                allow_trust = true\nupstream = \"postgres://u@h/d\"";
    let (_directory, mut said) = settings(file);
    said.listen = Some("127.0.0.1:9".to_owned());
    said.allow_trust = Some(false);
    let config = said.resolve().unwrap();
    assert_eq!(config.listen.port(), 9);
    assert_eq!(config.http.port(), 2);
    assert_eq!(config.slot, "rektor");
    assert_eq!(config.max_connections, 7);
    assert_eq!(config.log_format, LogFormat::Json);
    assert!(!config.allow_trust);
    assert!(matches!(config.upstream, Upstream::Server(database) if database.name == "d"));
}

#[test]
fn flags_and_variables_reach_the_settings() {
    let cli = Cli::try_parse_from([
        "rektor",
        "serve",
        "--allow-trust",
        "--slot",
        "s",
        "--log-format",
        "json",
    ])
    .unwrap();
    let Command::Serve(settings) = cli.command else {
        panic!("not serve")
    };
    assert_eq!(
        (settings.allow_trust, settings.slot.as_deref()),
        (Some(true), Some("s"))
    );
    for (arguments, kind) in [
        (
            &["rektor", "serve", "--nope"][..],
            clap::error::ErrorKind::UnknownArgument,
        ),
        (
            &["rektor", "check", "--listen", "x:1"],
            clap::error::ErrorKind::UnknownArgument,
        ),
        (
            &["rektor"],
            clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ),
    ] {
        assert_eq!(
            Cli::try_parse_from(arguments).unwrap_err().kind(),
            kind,
            "{arguments:?}"
        );
    }
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[test]
fn what_cannot_work_is_one_line_that_names_the_setting() {
    for (file, error) in [
        ("liste = 1", "unknown field `liste`"),
        ("max_connections = \"many\"", "max_connections"),
        (
            "max_connections = 0",
            "max_connections: 0 is not between 1 and 100000",
        ),
        ("listen = \"nowhere\"", "listen: \"nowhere\": "),
        ("slot = \"Rektor-1\"", "slot: \"Rektor-1\" is no slot name"),
        (
            "log_level = \"rektor=loud\"",
            "log_level: \"rektor=loud\": ",
        ),
        ("log_format = \"xml\"", "log_format"),
        ("upstream = \"http://h\"", "upstream: "),
        ("upstream = \"postgres://h/d\"", "upstream: no user"),
        ("upstream = \"user=u dbname=d\"", "upstream: no host"),
        (
            "upstream = \"postgres://u@a,b/d\"",
            "upstream: more than one host",
        ),
        (
            "upstream = \"postgres://u@h/d?sslmode=require\"",
            "upstream: TLS",
        ),
        (
            "upstream = \"postgres://u@h/d\"\nupstream_password_file = \"/no/such\"",
            "upstream_password_file: /no/such: ",
        ),
        ("= broken", "configuration file "),
    ] {
        let (_directory, said) = settings(file);
        let text = said.resolve().expect_err(file).to_string();
        assert!(text.contains(error), "{file}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let missing = Settings {
        config: Some("/no/such/rektor.toml".into()),
        ..Settings::default()
    };
    assert!(
        missing
            .resolve()
            .unwrap_err()
            .to_string()
            .starts_with("configuration file /no/such/rektor.toml: ")
    );
}

#[test]
fn a_connection_string_becomes_a_database() {
    let unix = Database::new("host=/run/pg port=5433 user=u", None).unwrap();
    assert_eq!(unix.name, "u", "as libpq: the user's name");
    assert_eq!(
        unix.address,
        UpstreamAddress::Unix("/run/pg/.s.PGSQL.5433".into())
    );
    let tcp = Database::new("postgres://u@h/d", None).unwrap();
    let expected = UpstreamAddress::Tcp {
        host: "h".to_owned(),
        port: 5432,
    };
    assert_eq!(tcp.address, expected);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "secret\n").unwrap();
    let with = Database::new("postgres://u@h/d", Some(&file)).unwrap();
    assert_eq!(with.connection.get_password(), Some(&b"secret"[..]));
    let twice = Database::new("postgres://u:other@h/d", Some(&file)).unwrap_err();
    assert!(!twice.to_string().contains("secret") && !twice.to_string().contains("other"));
}

#[test]
fn sizes_of_wal_are_postgres_sizes() {
    for (text, bytes) in [
        (None, Some(64 << 30)),
        (Some("-1"), None),
        (Some("512MB"), Some(512 << 20)),
        (Some(" 2 TB"), Some(2 << 40)),
        (Some("100"), Some(100 << 20)),
        (Some("1048576kB"), Some(1 << 30)),
    ] {
        assert_eq!(wal_size(text).unwrap(), bytes, "{text:?}");
    }
    for text in [
        "",
        "0",
        "63MB",
        "64 mb",
        "1PB",
        "-2",
        "99999999999TB",
        "1.5GB",
    ] {
        let error = wal_size(Some(text)).unwrap_err().to_string();
        assert!(
            error.starts_with("max_slot_wal: ") && !error.contains('\n'),
            "{error}"
        );
    }
}
