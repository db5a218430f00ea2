//! The house's rules that a compiler does not check: which module may use which, where `unsafe` may stand, and that
//! every file says what it is.

use std::fs;
use std::path::Path;

/// Each module and those it may use; a module that is not named here fails the test, so that it gets its place.
const MAY_USE: &[(&str, &[&str])] = &[
    ("lsn", &[]),
    ("vector", &[]),
    ("catalog", &["lsn", "vector"]),
    ("wal", &["lsn", "vector", "catalog"]),
    ("index", &["lsn", "vector", "catalog"]),
    ("query", &["lsn", "vector", "catalog", "index::view"]),
    ("upstream", &["lsn", "vector", "catalog", "wal", "index"]),
    ("store", &["lsn", "vector", "catalog", "wal", "index"]),
    ("session", &["lsn", "vector", "catalog", "index", "query"]),
    (
        "telemetry",
        &["lsn", "vector", "catalog", "index", "query", "session"],
    ),
    ("admin", &["lsn", "catalog", "upstream"]),
    ("config", &["lsn", "vector", "catalog", "session"]),
    (
        "ingest",
        &[
            "lsn", "vector", "catalog", "wal", "index", "upstream", "store",
        ],
    ),
    (
        "app",
        &[
            "lsn",
            "vector",
            "catalog",
            "wal",
            "index",
            "query",
            "upstream",
            "store",
            "session",
            "telemetry",
            "admin",
            "config",
            "ingest",
        ],
    ),
];

/// Where unsafe code lives, and why nowhere else: FAISS is C++, and a map is a pointer to a file.
const UNSAFE: &[&str] = &["index/faiss/", "store/mapped.rs"];

#[test]
fn modules_use_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        if path.contains("/tests/") {
            continue; // as of tests at a file's end
        }
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{path}: module {module} has no place in MAY_USE"));
            continue;
        };
        for used in used_modules(&text) {
            let within = |place: &&str| used == **place || used.starts_with(&format!("{place}::"));
            let own = used.split("::").next() == Some(&module);
            if !own && !allowed.iter().any(within) {
                wrong.push(format!("{path} uses crate::{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_where_it_is_allowed() {
    for (path, text) in sources() {
        let lines = code_of(&text);
        let found = lines.iter().find(|line| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe")
        });
        let allowed = UNSAFE.iter().any(|place| path.starts_with(place));
        assert!(
            found.is_none() || allowed,
            "{path}: {}",
            found.unwrap_or(&"")
        );
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        // lib.rs and faiss's modules may set an attribute first
        let first = text.lines().find(|line| !line.starts_with("#!["));
        assert!(
            first.is_some_and(|line| line.starts_with("//! ")),
            "{path} does not open with //!"
        );
    }
}

#[test]
fn the_checks_see_what_they_look_for() {
    let text = "use crate::lsn::Lsn;\nuse crate::{catalog::TypeId, index::{view::View, Snapshot}};\n// crate::store\n\
                pub(crate) fn f(x: crate::query::Plan) {}\n";
    let used = used_modules(text);
    assert_eq!(
        used,
        [
            "lsn::Lsn",
            "catalog::TypeId",
            "index::view::View",
            "index::Snapshot",
            "query::Plan"
        ]
    );
}

/// Every Rust file under `src/`, by its path there.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((relative(&root, &path), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 10, "{} files found", files.len());
    files
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap().display().to_string()
}

fn module_of(path: &str) -> String {
    let first = path.split('/').next().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The lines without comments. A `//` within a string ends its line here too: nothing is looked for behind one.
fn code_of(text: &str) -> Vec<&str> {
    text.lines()
        .map(|line| line.split("//").next().unwrap())
        .collect()
}

/// Every path that begins with `crate::`, its braces expanded, without the `crate::`. Unit tests at a file's end may use
/// what they need to build their subject.
fn used_modules(text: &str) -> Vec<String> {
    let code = code_of(text.split("#[cfg(test)]\nmod ").next().unwrap()).join("\n");
    let mut used = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        expand(&code[start + "crate::".len()..], "", &mut used);
    }
    used
}

/// Reads one path, or one brace group of paths, and returns what follows it.
fn expand<'t>(text: &'t str, prefix: &str, used: &mut Vec<String>) -> &'t str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    let (path, rest) = text.split_at(end.unwrap_or(text.len()));
    let path = format!("{prefix}{path}");
    let Some(mut rest) = rest
        .strip_prefix('{')
        .filter(|_| path.is_empty() || path.ends_with("::"))
    else {
        used.push(path.trim_end_matches(':').to_owned());
        return rest;
    };
    loop {
        rest = rest.trim_start_matches([' ', '\n', ',']);
        match rest.strip_prefix('}') {
            Some(rest) => return rest,
            None if rest.is_empty() => return rest,
            None => rest = expand(rest, &path, used),
        }
    }
}
