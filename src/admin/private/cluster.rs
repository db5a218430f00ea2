//! A private cluster's directory: made by initdb, freed of a server that an earlier Rektor left behind, stopped.
//! Never stops a process that is not this directory's server.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::binaries::Binaries;
use super::{Owner, PrivateError, STOP_LIMIT_SECONDS, USER, io_error, run};

/// Whom PostgreSQL runs as when we are root, best first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];
/// C.UTF-8 knows letters beyond ASCII; where the system lacks it, C is always there.
const LOCALES: [&str; 2] = ["C.UTF-8", "C"];

/// The unprivileged user to run as, if this process is root's.
pub(super) fn owner() -> Result<Option<Owner>, PrivateError> {
    let own = Path::new("/proc/self");
    let effective = fs::metadata(own).map_err(io_error("reading", own))?.uid();
    if effective != 0 {
        return Ok(None);
    }
    let passwd = Path::new("/etc/passwd");
    let users = fs::read_to_string(passwd).map_err(io_error("reading", passwd))?;
    let found = UNPRIVILEGED.iter().find_map(|name| find_user(&users, name));
    found.map(Some).ok_or(PrivateError::NoUser)
}

fn find_user(passwd: &str, name: &str) -> Option<Owner> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (uid != 0).then_some(Owner { uid, gid })
    })
}

/// The data directory stays ours; its server's group may pass through it, and see nothing.
pub(super) fn let_pass(data_dir: &Path, owner: Owner) -> Result<(), PrivateError> {
    chown(data_dir, None, Some(owner.gid)).map_err(io_error("giving passage through", data_dir))?;
    fs::set_permissions(data_dir, fs::Permissions::from_mode(0o710))
        .map_err(io_error("giving passage through", data_dir))
}

/// The first directory on the way to `path` that the server's user cannot enter.
pub(super) fn closed(path: &Path, owner: Owner) -> Option<PathBuf> {
    let mut way = path.ancestors().collect::<Vec<_>>();
    way.reverse();
    let enters = |directory: &&Path| {
        let Ok(found) = fs::metadata(directory) else {
            return false;
        };
        let bit = if found.uid() == owner.uid {
            0o100
        } else if found.gid() == owner.gid {
            0o010
        } else {
            0o001
        };
        found.mode() & bit != 0
    };
    way.into_iter()
        .find(|directory| !enters(directory))
        .map(Path::to_owned)
}

/// Makes the cluster: superuser `postgres`, UTF8, anyone who reaches the socket (which only its owner does) is let in.
/// Made beside and renamed, so that a cluster that is there is whole.
pub(super) async fn init(
    binaries: &Binaries,
    owner: Option<Owner>,
    cluster: &Path,
) -> Result<(), PrivateError> {
    let beside = cluster.with_extension("new");
    if beside.exists() {
        fs::remove_dir_all(&beside).map_err(io_error("removing", &beside))?;
    }
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&beside)
        .map_err(io_error("making", &beside))?;
    if let Some(owner) = owner {
        chown(&beside, Some(owner.uid), Some(owner.gid))
            .map_err(io_error("giving away", &beside))?;
    }
    let mut result = Ok(());
    for locale in LOCALES {
        let mut initdb = binaries.command("initdb", owner);
        initdb
            .arg("-D")
            .arg(&beside)
            .args(["-U", USER, "--auth=trust", "--encoding=UTF8"])
            .arg(format!("--locale={locale}"));
        result = run("initdb", initdb).await.map(drop);
        if result.is_ok() {
            break;
        }
    }
    result?;
    fs::rename(&beside, cluster).map_err(io_error("naming", cluster))
}

/// After a kill -9 of Rektor its server goes on: it is stopped. A lock file whose process is another's goes, since
/// process ids start anew with a container and PostgreSQL would take it for a running server.
pub(super) async fn stop_orphan(
    binaries: &Binaries,
    owner: Option<Owner>,
    cluster: &Path,
) -> Result<(), PrivateError> {
    let lock = cluster.join("postmaster.pid");
    let text = match fs::read_to_string(&lock) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("reading", &lock)(e)),
    };
    let pid = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<u32>().ok());
    if pid.is_some_and(|pid| runs_in(pid, cluster)) {
        tracing::warn!("stopping the private PostgreSQL that an earlier Rektor left running");
        return stop(binaries, owner, cluster).await;
    }
    match fs::remove_file(&lock) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()), // it ended just now
        Err(e) => Err(io_error("removing", &lock)(e)),
    }
}

/// Whether that process has this directory as its own: a postmaster works in its data directory.
fn runs_in(pid: u32, cluster: &Path) -> bool {
    let working = fs::read_link(format!("/proc/{pid}/cwd"));
    matches!((working, cluster.canonicalize()), (Ok(working), Ok(cluster)) if working == cluster)
}

/// Ends every session, writes a checkpoint, and returns when the server is gone.
pub(super) async fn stop(
    binaries: &Binaries,
    owner: Option<Owner>,
    cluster: &Path,
) -> Result<(), PrivateError> {
    let mut pg_ctl = binaries.command("pg_ctl", owner);
    pg_ctl
        .arg("-D")
        .arg(cluster)
        .args(["-m", "fast", "-w", "-t", STOP_LIMIT_SECONDS, "stop"]);
    run("pg_ctl", pg_ctl).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgresql:x:7:7::/:/bin/sh\npostgres:x:105:113:,,:/var:/bin/sh\n";
        let found = find_user(passwd, "postgres").unwrap();
        assert_eq!((found.uid, found.gid), (105, 113));
        assert!(find_user(passwd, "nobody").is_none());
        assert!(find_user(passwd, "root").is_none(), "never root");
        assert!(find_user("postgres:x:abc", "postgres").is_none());
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let stranger = Owner {
            uid: u32::MAX - 1,
            gid: u32::MAX - 1,
        };
        let (open, shut) = (parent.path().join("open"), parent.path().join("open/shut"));
        let inner = shut.join("inner");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(closed(&open, stranger), None);
        fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(closed(&inner, stranger), Some(shut.clone()));
        let own = fs::metadata(&shut).unwrap();
        let (uid, gid) = (own.uid(), own.gid());
        assert_eq!(closed(&inner, Owner { uid, gid }), None);
    }

    #[test]
    fn another_process_is_not_taken_for_the_server() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!runs_in(std::process::id(), directory.path()));
        let own = std::env::current_dir().unwrap();
        assert!(runs_in(std::process::id(), &own));
    }
}
