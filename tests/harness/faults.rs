//! A kill, a cut or a disk fault at a chosen call of the real process, by the library in `faults.c`: compiled at first use, loaded
//! with LD_PRELOAD, steered through a file that both sides see. Never needs anything of the product.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What is counted, in the order of `faults.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// fsync, fdatasync and their kin, of a file or directory of the data directory.
    Sync = 1,
    Rename,
    /// Removing a file or directory.
    Unlink,
    /// ftruncate, fallocate.
    Truncate,
    /// write, pwrite and their kin to a file of the data directory.
    Write,
    /// Making a file or directory.
    Create,
    /// A standby status message sent on the replication stream.
    Ack,
    /// A read from the replication stream.
    StreamReceive,
    /// A read from a session that has sent a COPY.
    CopyReceive,
    /// CREATE_REPLICATION_SLOT sent: the main slot's, or a copy's.
    CreateSlot,
    StartReplication,
    DropSlot,
}

impl Call {
    pub const ALL: [Self; 12] = [
        Self::Sync,
        Self::Rename,
        Self::Unlink,
        Self::Truncate,
        Self::Write,
        Self::Create,
        Self::Ack,
        Self::StreamReceive,
        Self::CopyReceive,
        Self::CreateSlot,
        Self::StartReplication,
        Self::DropSlot,
    ];
}

/// What happens at the chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    KillBefore = 1,
    KillAfter,
    /// The connection is shut down. Only of calls on connections.
    Cut,
}

/// How the disk refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// ENOSPC: nothing grows.
    Full = 28,
    /// EIO: nothing is written or synced.
    Broken = 5,
    /// EROFS: nothing changes.
    ReadOnly = 30,
}

/// Words of the control file, as in `faults.c`.
const RULE_CALL: u64 = 0;
const RULE_BLOW: u64 = 1;
const RULE_COUNTDOWN: u64 = 2;
const LOSE: u64 = 3;
const SEED: u64 = 4;
const DISK_ERRNO: u64 = 5;
const DISK_SKIP: u64 = 6;
const DISK_SHORT: u64 = 7;
const DISK_REFUSED: u64 = 8;
const LOST: u64 = 9;
const CALLS: u64 = 16;
const FIRED: u64 = 48;
const WORDS: u64 = 80;

/// The faults of one process after another on one data directory.
#[derive(Debug)]
pub struct Faults {
    control: File,
    dir: tempfile::TempDir,
}

impl Faults {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("control"))
            .unwrap();
        control.set_len(WORDS * 8).unwrap();
        fs::create_dir(dir.path().join("trash")).unwrap();
        Self { control, dir }
    }

    /// The environment of a process whose files are below `data`.
    pub fn environment(&self, data: &Path) -> Vec<(&'static str, PathBuf)> {
        let data = data.canonicalize().unwrap();
        vec![
            ("LD_PRELOAD", library().to_owned()),
            ("REKTOR_FAULTS", self.dir.path().join("control")),
            ("REKTOR_FAULTS_TRASH", self.dir.path().join("trash")),
            ("REKTOR_FAULTS_DIR", data),
        ]
    }

    fn set(&self, word: u64, value: u64) {
        let written = self.control.write_at(&value.to_ne_bytes(), word * 8);
        assert_eq!(written.unwrap(), 8);
    }

    fn get(&self, word: u64) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, word * 8).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// From now on the `nth` such call is the last before the blow. With `lose`, a kill takes along what was not synced.
    pub fn arm(&self, call: Call, blow: Blow, nth: u64, lose: Option<u64>) {
        self.disarm();
        self.set(RULE_BLOW, blow as u64);
        self.set(RULE_COUNTDOWN, nth);
        self.set(LOSE, u64::from(lose.is_some()));
        self.set(SEED, lose.unwrap_or_default());
        self.set(RULE_CALL, call as u64);
    }

    /// No blow any more.
    pub fn disarm(&self) {
        self.set(RULE_CALL, 0);
    }

    /// Whether a blow is still to come.
    pub fn is_armed(&self) -> bool {
        self.get(RULE_CALL) != 0
    }

    /// From the `skip`th call on, the disk refuses, until it is told otherwise.
    pub fn refuse(&self, refusal: Refusal, skip: u64) {
        self.set(DISK_SKIP, skip);
        self.set(DISK_ERRNO, refusal as u64);
    }

    /// The disk takes everything again.
    pub fn accept(&self) {
        self.set(DISK_ERRNO, 0);
    }

    /// Every write writes half of what it was given.
    pub fn write_short(&self, short: bool) {
        self.set(DISK_SHORT, u64::from(short));
    }

    /// Calls of that kind so far.
    pub fn calls(&self, call: Call) -> u64 {
        self.get(CALLS + call as u64)
    }

    /// Blows at calls of that kind so far.
    pub fn fired(&self, call: Call) -> u64 {
        self.get(FIRED + call as u64)
    }

    /// Calls that the disk has refused so far.
    pub fn refused(&self) -> u64 {
        self.get(DISK_REFUSED)
    }

    /// Files and names that kills have taken back so far.
    pub fn lost(&self) -> u64 {
        self.get(LOST)
    }
}

/// The compiled library.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let built = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("faults-{}.so", std::process::id()));
        let status = Command::new("cc")
            .args([
                "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o",
            ])
            .arg(&built)
            .arg(root.join("tests/harness/faults.c"))
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("cc, which FAISS needs too");
        assert!(status.success(), "faults.c");
        // one name for all runs, moved into place whole
        let library = built.with_file_name("faults.so");
        fs::rename(&built, &library).unwrap();
        library
    })
}
