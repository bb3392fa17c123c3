//! The rules of the house, checked by `make lint` and `make test`: layers, one file for each outside world,
//! headers, no unfinished work, documents that stay true.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
        .to_owned()
}

fn walk(dir: &Path, extension: &str, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory").filter_map(Result::ok) {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                walk(&path, extension, out);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            out.push(path);
        }
    }
}

/// Path from the root, and text.
fn files(extension: &str) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    walk(&root(), extension, &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|p| {
            let text = fs::read_to_string(&p).expect("a text file");
            (
                p.strip_prefix(root())
                    .expect("below the root")
                    .to_string_lossy()
                    .into_owned(),
                text,
            )
        })
        .collect()
}

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path.starts_with("tests/")
        || path.contains("/tests/")
        || ["tests.rs", "testing.rs", "sim.rs"].contains(&name)
        || name.ends_with("_tests.rs")
        || name.ends_with("_properties.rs")
}

/// A file without what stands below its `#[cfg(test)] mod tests {`.
fn product(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |i| &text[..i])
}

#[track_caller]
fn none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

fn lines_with(needles: &[&str], keep: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files("rs") {
        for (i, line) in product(&text).lines().enumerate() {
            let code = line.trim_start();
            if !code.starts_with("//") && needles.iter().any(|n| code.contains(n)) && keep(&path, code) {
                found.push(format!("{path}:{}: {}", i + 1, code));
            }
        }
    }
    found
}

#[test]
fn every_file_says_what_it_is() {
    let found: Vec<_> = files("rs")
        .into_iter()
        .filter(|(_, t)| !t.starts_with("//!"))
        .map(|(p, _)| p)
        .collect();
    none(
        "a file's first lines (`//!`) say what it is, who calls it and its invariant",
        &found,
    );
}

#[test]
fn most_files_are_short() {
    let all = files("rs");
    let long: Vec<_> = all
        .iter()
        .map(|(p, t)| (t.lines().count(), p))
        .filter(|(n, _)| *n > 400)
        .collect();
    let too_long: Vec<_> = long
        .iter()
        .filter(|(n, _)| *n > 700)
        .map(|(n, p)| format!("{p}: {n} lines"))
        .collect();
    none(
        "no file has more than 700 lines: look for the second idea in it",
        &too_long,
    );
    assert!(
        long.len() * 5 <= all.len(),
        "more than a fifth of the files have over 400 lines: {long:?}"
    );
}

#[test]
fn programs_import_proto_and_never_each_other() {
    for (krate, others) in [
        ("proto", &["agent", "coordinator", "wharf"][..]),
        ("agent", &["coordinator", "wharf"]),
        ("coordinator", &["agent", "wharf"]),
        ("cli", &["agent", "coordinator"]),
    ] {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("a manifest");
        for other in others {
            let dependency = format!("\n{other}.workspace");
            assert!(!manifest.contains(&dependency), "{krate} depends on {other}");
        }
    }
}

#[test]
fn planners_are_pure() {
    let pure = |path: &str| {
        (path.starts_with("coordinator/src/plan/")
            || path == "agent/src/step.rs"
            || path.starts_with("agent/src/step/"))
            && !is_test(path)
    };
    let needles = [
        "tokio",
        "tonic",
        "tracing::",
        "Instant::now",
        "SystemTime",
        "Time::now",
        "rand::",
        "std::fs",
        "std::env",
    ];
    none(
        "planners have no clock, randomness, logging or I/O",
        &lines_with(&needles, |p, _| pure(p)),
    );
}

#[test]
fn one_place_names_each_outside_world() {
    for (needle, place) in [
        ("bollard", "agent/src/runtime/docker"),
        ("rusqlite", "coordinator/src/store/sqlite"),
        ("etcd_client", "coordinator/src/store/etcd"),
        ("sysinfo", "agent/src/host"),
    ] {
        // A client of our own that is named alike is none of them.
        let found = lines_with(&[needle], |p, line| {
            !p.starts_with(place) && !is_test(p) && !line.contains("wire::")
        });
        none(&format!("{needle} is named in {place} only"), &found);
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
        concat!("#[ig", "nore"),
    ];
    let mut found = Vec::new();
    for extension in ["rs", "proto", "sh", "toml", "md"] {
        for (path, text) in files(extension) {
            let lines = text
                .lines()
                .enumerate()
                .filter(|(_, l)| marks.iter().any(|m| l.contains(m)));
            found.extend(lines.map(|(i, l)| format!("{path}:{}: {l}", i + 1)));
        }
    }
    none("unfinished work", &found);
}

#[test]
fn nothing_outside_can_make_a_program_panic() {
    let needles = [".unwrap()", ".expect(", "panic!(", "unreachable!("];
    let found = lines_with(&needles, |p, code| {
        let program = ["proto/src", "coordinator/src", "agent/src", "cli/src"]
            .iter()
            .any(|d| p.starts_with(d));
        // The fake runtime is a test's tool; its own faults may panic.
        program && !is_test(p) && !p.starts_with("agent/src/runtime/fake") && !code.contains("#[")
    });
    none(
        "no unwrap, expect or panic in a program: an error names the object, the field and the remedy",
        &found,
    );
}

#[test]
fn every_rpc_and_message_is_documented() {
    let mut found = Vec::new();
    for (path, text) in files("proto") {
        let mut before = "";
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if (line.starts_with("rpc ") || line.starts_with("service "))
                && !before.starts_with("//")
                && !line.contains("//")
            {
                found.push(format!("{path}:{}: {line}", i + 1));
            }
            before = line;
        }
    }
    none("each service and each RPC says what it does and its errors", &found);
}

#[test]
fn the_map_is_short_and_true() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    assert!(
        map.lines().count() < 200,
        "ARCHITECTURE.md has {} lines",
        map.lines().count()
    );
    let paths = map.split('`').skip(1).step_by(2).filter(|p| {
        ["proto/", "coordinator/", "agent/", "cli/", "tests/", "deploy/", "docs/"]
            .iter()
            .any(|d| p.starts_with(d))
            && !p.contains([' ', '*', '{', '<'])
    });
    let missing: Vec<_> = paths.filter(|p| !root().join(p).exists()).map(str::to_owned).collect();
    none("ARCHITECTURE.md names what does not exist", &missing);
}
