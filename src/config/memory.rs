//! `max_memory`: a size, or a share of what the machine and the control group leave when Rektor starts.
//! Reads `/proc` and `/sys` only; never fails for want of them.

use std::fs;
use std::path::Path;

use super::{ConfigError, invalid, size};

/// Percent of what is available that indexes may fill: the rest is for the stream, sessions and their searches.
const DEFAULT_PERCENT: u64 = 80;
/// Below this not even small indexes fit.
const LEAST: u64 = 16 << 20;
/// Control groups without a limit have one that no machine reaches.
const NO_LIMIT: u64 = 1 << 60;

/// Bytes that all indexes together may hold; `None` for no bound.
pub(super) fn max_memory(said: Option<&str>) -> Result<Option<u64>, ConfigError> {
    let Some(text) = said.map(str::trim) else {
        return Ok(available(Path::new("/")).map(|bytes| bytes / 100 * DEFAULT_PERCENT));
    };
    if text == "-1" {
        return Ok(None);
    }
    match size(text).filter(|bytes| *bytes >= LEAST) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(invalid(
            "max_memory",
            format!("\"{text}\" is neither -1 nor a size of at least 16MB, as 512MB or 64GB"),
        )),
    }
}

/// What can be filled without swapping, or being killed.
fn available(root: &Path) -> Option<u64> {
    let machine = fs::read_to_string(root.join("proc/meminfo"));
    let machine = machine.ok().and_then(|text| mem_available(&text));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| group_limit(root, line));
    machine.into_iter().chain(limits).min()
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let value = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The least limit of a control group and those around it, given its line of `/proc/self/cgroup`. Inside a container the
/// path may be the host's: then what is mounted is the container's own.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
    let (mount, file) = match controllers {
        "" => (root.join("sys/fs/cgroup"), "memory.max"),
        "memory" => (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    let own = mount.join(path);
    let groups = own
        .ancestors()
        .take_while(|group| group.starts_with(&mount));
    let limits = groups.filter_map(|group| {
        let text = fs::read_to_string(group.join(file)).ok()?;
        text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_no_bound_or_what_is_there() {
        assert_eq!(max_memory(Some("512MB")).unwrap(), Some(512 << 20));
        assert_eq!(max_memory(Some(" 2 GB")).unwrap(), Some(2 << 30));
        assert_eq!(max_memory(Some("-1")).unwrap(), None);
        assert!(max_memory(None).unwrap() > Some(LEAST));
        for text in ["", "15MB", "1.5GB", "-2", "80%"] {
            let error = max_memory(Some(text)).unwrap_err().to_string();
            assert!(error.starts_with("max_memory: "), "{error}");
        }
    }

    #[test]
    fn the_least_of_machine_and_control_groups_counts() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(available(root), None);
        write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    4096 kB\n");
        assert_eq!(available(root), Some(4 << 20));
        write("proc/self/cgroup", "4:memory:/a/b\n1:cpu:/a\n0::/c\n");
        write(
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(available(root), Some(4 << 20));
        write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000000\n");
        assert_eq!(available(root), Some(3_000_000));
        // The path is the host's.
        write("sys/fs/cgroup/memory.max", "2000000\n");
        assert_eq!(available(root), Some(2_000_000));
        write("sys/fs/cgroup/c/memory.max", "max\n");
        assert_eq!(available(root), Some(2_000_000));
    }
}
