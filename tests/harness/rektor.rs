//! The real `rektor` binary in front of a test's database: started, waited for, killed and started again.
//! Never reaches into the process: what a test may know of it, an operator may.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use super::faults::Faults;
use super::{Database, SHARED, Wire, free_port, wait_for};

/// A start reads what is stored, and connects upstream.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A copy and build of a test's table on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A stop ends sessions, flushes the journal and says goodbye upstream.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A running `rektor serve`.
pub struct Rektor<'a> {
    pub database: Database<'a>,
    pub port: u16,
    pub http: u16,
    data: tempfile::TempDir,
    slot: String,
    /// `--max-memory`, if not the default.
    max_memory: Option<String>,
    running: Option<Running>,
    log: Arc<Mutex<String>>,
    /// Loaded into the process, if a test wants it disturbed.
    faults: Option<Arc<Faults>>,
}

struct Running {
    child: Child,
    adopted: PathBuf,
    /// Gets a line once connections are accepted.
    accepts: mpsc::Receiver<String>,
    accepted: bool,
    /// Reads what it writes to standard error, to its end.
    reads: Option<JoinHandle<()>>,
}

/// `rektor` with these arguments, to its end.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rektor"));
    command.args(arguments).stdin(Stdio::null());
    command
}

impl<'a> Rektor<'a> {
    /// `rektor setup` on the database, then `rektor serve`, until it accepts connections.
    pub fn start(database: &Database<'a>) -> Self {
        Self::setup(database);
        Self::serve(database)
    }

    /// `rektor setup`, which must succeed.
    pub fn setup(database: &Database<'_>) -> Output {
        let output = command(&["setup", "--upstream", &database.url()])
            .output()
            .unwrap();
        assert!(output.status.success(), "setup: {output:?}");
        output
    }

    /// `rektor serve` with a slot and a data directory of its own, until it accepts connections.
    pub fn serve(database: &Database<'a>) -> Self {
        let mut rektor = Self::new(database, None);
        rektor.up();
        rektor
    }

    /// The same with so much memory for its indexes.
    pub fn serve_within(database: &Database<'a>, max_memory: &str) -> Self {
        let mut rektor = Self::new(database, None);
        rektor.limit_memory(max_memory);
        rektor.up();
        rektor
    }

    /// From the next start on its indexes may have so much memory.
    pub fn limit_memory(&mut self, max_memory: &str) {
        self.max_memory = Some(max_memory.to_owned());
    }

    /// One whose calls can be disturbed, not started yet.
    pub fn disturbed(database: &Database<'a>, faults: &Arc<Faults>) -> Self {
        Self::new(database, Some(Arc::clone(faults)))
    }

    fn new(database: &Database<'a>, faults: Option<Arc<Faults>>) -> Self {
        Self {
            database: database.clone(),
            port: free_port(),
            http: free_port(),
            data: tempfile::tempdir().unwrap(),
            slot: format!("rektor_{}", database.name),
            max_memory: None,
            running: None,
            log: Arc::default(),
            faults,
        }
    }

    /// The arguments that `serve` runs with.
    pub fn arguments(&self) -> Vec<String> {
        let text = |value: &str| value.to_owned();
        let mut arguments = vec![
            text("serve"),
            text("--upstream"),
            self.database.url(),
            text("--listen"),
            format!("127.0.0.1:{}", self.port),
            text("--http"),
            format!("127.0.0.1:{}", self.http),
            text("--data-dir"),
            self.data.path().display().to_string(),
            text("--slot"),
            self.slot.clone(),
        ];
        if let Some(size) = &self.max_memory {
            arguments.extend([text("--max-memory"), size.clone()]);
        }
        arguments
    }

    /// Starts it again with the same arguments and data, until it accepts connections.
    pub fn up(&mut self) {
        self.spawn();
        assert!(
            self.accepts(),
            "rektor ended before its ready line; it wrote:\n{}",
            self.log()
        );
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.running.is_none(), "already running");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rektor"));
        command.args(self.arguments()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(faults) = &self.faults {
            command.envs(faults.environment(self.data.path()));
        }
        let mut child = command.spawn().unwrap();
        let (ready, accepts) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = ready.send(line); // later lines have no listener
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let log = Arc::clone(&self.log);
        let reads = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut chunk) {
                log.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&chunk[..n]));
            }
        });
        let adopted = self.database.cluster.adopt(child.id());
        self.running = Some(Running {
            child,
            adopted,
            accepts,
            accepted: false,
            reads: Some(reads),
        });
    }

    /// Waits until it accepts connections; false if it ends before.
    pub fn accepts(&mut self) -> bool {
        let running = self.running.as_mut().expect("running");
        if running.accepted {
            return true;
        }
        match running.accepts.recv_timeout(START_LIMIT * SHARED) {
            Ok(_) => {
                running.accepted = true;
                true
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => false,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("no ready line from rektor; it wrote:\n{}", self.log())
            }
        }
    }

    /// Takes note of its end, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.exited()?;
        if let Some(mut running) = self.running.take() {
            running.forget();
        }
        Some(status)
    }

    /// SIGKILL: no chance to flush or say goodbye.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("running");
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        running.forget();
    }

    /// SIGTERM, and its exit status.
    pub fn stop(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("running");
        signal(running.child.id(), "TERM");
        let status = wait_for("rektor to stop", STOP_LIMIT, || {
            running.child.try_wait().unwrap()
        });
        running.forget();
        status
    }

    /// Whether it was started, and neither stopped nor killed nor found ended.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("running").child.id()
    }

    /// Its exit status, if it has ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let running = self.running.as_mut()?;
        let status = running.child.try_wait().unwrap()?;
        running.read_to_end();
        Some(status)
    }

    /// What it has written to standard error, over all its runs.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// The replication slot's name.
    pub fn slot(&self) -> &str {
        &self.slot
    }

    /// A connection through Rektor as superuser.
    pub fn connect(&self) -> Wire {
        self.connect_as("postgres")
    }

    /// A connection through Rektor as that role.
    pub fn connect_as(&self, user: &str) -> Wire {
        Wire::login(self.port, user, &self.database.name)
    }

    /// Waits until that index serves.
    pub fn wait_ready(&self, index: &str) {
        let mut wire = self.connect();
        wait_for(&format!("{index} to be ready"), READY_LIMIT, || {
            let rows = wire.rows(&format!(
                "select phase, error from rektor.stat_indexes where index_name = '{index}'"
            ));
            let [phase, error] = &rows.first()?[..] else {
                panic!("{rows:?}")
            };
            assert_ne!(phase.as_deref(), Some("failed"), "{index}: {error:?}");
            (phase.as_deref() == Some("ready")).then_some(())
        });
    }

    /// Makes a connection's next searches wait for everything that has been committed so far: that is its position.
    pub fn require(&self, wire: &mut Wire) -> String {
        let lsn = self.database.connect().value("select pg_current_wal_lsn()");
        wire.run(&format!("set rektor.min_lsn = '{lsn}'"));
        lsn
    }

    /// The same, and waits until the indexes are there, however long: a search alone waits two seconds, and then asks PostgreSQL.
    pub fn catch_up(&self, wire: &mut Wire) {
        let lsn = self.require(wire);
        let applied = format!(
            "select count(*) from rektor.stat_indexes where phase = 'ready' and applied_lsn < '{lsn}'"
        );
        let mut status = self.connect();
        wait_for("the indexes to catch up", READY_LIMIT, || {
            (status.value(&applied) == "0").then_some(())
        });
    }

    /// Creates the index through Rektor and waits until it serves.
    pub fn create_index(&self, sql: &str, name: &str) {
        self.connect().run(sql);
        self.wait_ready(name);
    }

    /// The body of a page of its HTTP address, with its status code.
    pub fn http(&self, path: &str) -> (u16, String) {
        http(self.http, path)
    }

    /// A counter or gauge's value: the sum over the lines whose name and labels begin with `prefix`.
    pub fn metric(&self, prefix: &str) -> f64 {
        let (_, page) = self.http("/metrics");
        let lines = page.lines().filter(|line| line.starts_with(prefix));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Running {
    /// The process has ended; nothing of what it wrote is missing from the log afterwards.
    fn read_to_end(&mut self) {
        if let Some(reads) = self.reads.take() {
            reads.join().unwrap();
        }
    }

    /// The process has ended.
    fn forget(&mut self) {
        self.read_to_end();
        let _ = std::fs::remove_file(&self.adopted); // the guard would kill nobody
    }
}

impl Drop for Rektor<'_> {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill(); // it may have ended by itself
            let _ = running.child.wait();
            running.forget();
        }
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(8000);
            eprintln!(
                "--- rektor's log:\n{}",
                &log[log.ceil_char_boundary(start)..]
            );
        }
    }
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, name: &str) {
    let script = format!("kill -{name} {pid}");
    let status = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(status.success(), "{script}");
}

/// One GET over a connection of its own.
pub fn http(port: u16, path: &str) -> (u16, String) {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").expect("an HTTP reply");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status code"), body.to_owned())
}
