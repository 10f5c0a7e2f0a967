//! The one way that data flows (`docs/architecture.md`), read off the sources: a decision that
//! could see a client, a task or a clock could not be trusted to be the same one twice.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files that hold decisions and builders only.
const PURE: &[&str] = &[
    "api",
    "domain",
    "controller/home/arbiter.rs",
    "controller/home/build",
    "controller/home/fence/plan.rs",
    "controller/home/observation.rs",
    "controller/home/plan.rs",
    "controller/home/requests.rs",
    "controller/home/retire.rs",
    "controller/home/select.rs",
    "controller/home/status.rs",
    "controller/home/validate.rs",
    "controller/standby/build",
    "controller/standby/objects/body.rs",
    "controller/standby/objects/kind.rs",
    "controller/standby/objects/plan.rs",
    "controller/standby/objects/reserved.rs",
    "controller/standby/objects/transform.rs",
    "controller/standby/plan.rs",
    "controller/standby/status.rs",
    "controller/standby/validate.rs",
];

/// What no pure file may name: clients, tasks, clocks, the machine, chance.
const IMPURE: &[&str] = &[
    "kube::Client",
    "kube::Api",
    "kube::{Api",
    "Api<",
    "Api::",
    "reqwest",
    "tokio",
    "async fn",
    ".await",
    "thread::spawn",
    "crate::clock",
    "boottime(",
    "Timestamp::now",
    "Zoned::now",
    "SystemTime",
    "Instant::now",
    "std::fs",
    "TcpStream",
    "UdpSocket",
    "std::env",
    "std::process",
];

/// Who may not name whom.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("api", &["crate::domain", "crate::controller", "crate::lease", "crate::probe", "crate::cluster"]),
    ("domain", &["crate::controller", "crate::lease", "crate::probe", "crate::cluster", "crate::mover"]),
    ("vault", &["crate::controller", "crate::mover", "crate::plugin"]),
    ("mover", &["crate::controller", "crate::vault::", "crate::plugin"]),
    ("plugin", &["crate::controller", "crate::mover", "crate::vault::"]),
    ("lease.rs", &["crate::controller"]),
    ("probe.rs", &["crate::controller"]),
    ("probe", &["crate::controller"]),
    ("cluster.rs", &["crate::controller"]),
    ("vault_client.rs", &["crate::controller"]),
];

/// Calls that write an object. Only `apply` may; `lease.rs` has the ledger, `plugin/` is a person's
/// tool with a person's rights.
const WRITES: &[&str] =
    &[".create(", ".patch(", ".replace(", ".patch_status(", ".replace_status(", ".delete_collection("];

/// Files under the controller that may write.
const WRITERS: &[&str] = &["controller/apply.rs", "controller/apply/more.rs"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust source at or under a place, with its path under `src`.
fn sources(place: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut stack = vec![src().join(place)];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = path.strip_prefix(src()).unwrap().display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!found.is_empty(), "src/{place} holds no source: the list in tests/layers.rs is old");
    found.sort();
    found
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.ends_with("testing.rs")
}

/// Code lines with their numbers: no comments, and nothing behind the first `#[cfg(test)]`.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(at, line)| (at + 1, line))
}

fn offences(place: &str, words: &[&str]) -> Vec<String> {
    let mut list = Vec::new();
    for (name, text) in sources(place).iter().filter(|(name, _)| !is_test(name)) {
        for (at, line) in code(text) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                list.push(format!("src/{name}:{at} names `{word}`: {}", line.trim()));
            }
        }
    }
    list
}

#[test]
fn pure_files_know_no_client_no_task_and_no_clock() {
    let found: Vec<_> = PURE.iter().flat_map(|place| offences(place, IMPURE)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn dependencies_point_one_way() {
    let found: Vec<_> = FORBIDDEN.iter().flat_map(|(place, words)| offences(place, words)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn only_apply_writes_objects() {
    let found: Vec<_> = offences("controller", WRITES)
        .into_iter()
        .filter(|line| !WRITERS.iter().any(|writer| line.starts_with(&format!("src/{writer}:"))))
        // Strings, paths and Prometheus label sets have methods of the same names.
        .filter(|line| !line.contains("get_or_create(") && !line.contains(".replace('"))
        // A call to the one writer.
        .filter(|line| !line.to_lowercase().contains("applier"))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let long: Vec<_> = sources("")
        .iter()
        .filter(|(_, text)| text.lines().count() > 500)
        .map(|(name, text)| format!("src/{name}: {} lines", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

/// The checks above must be able to fail.
#[test]
fn the_readers_of_this_test_see() {
    let text = "use tokio::fs;\n// tokio\n#[cfg(test)]\nuse tokio::x;\n";
    assert_eq!(code(text).filter(|(_, line)| line.contains("tokio")).count(), 1);
    assert!(!offences("lease.rs", &["tokio"]).is_empty());
    assert!(!offences("controller/apply.rs", WRITES).is_empty());
}
