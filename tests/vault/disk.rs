//! Small file systems of their own: a full one, and one whose power is cut. They need root (mount).

use super::dispatches::{Site, send, sign};
use super::harness::*;
use data_embassy::api::dispatch::CHAIN_START;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A mounted image; unmounted when dropped.
pub struct Mounted(PathBuf);

fn run(program: &str, args: &[&str]) {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Mounted {
    fn make(image: &Path, at: &Path, bytes: u64) -> Self {
        std::fs::File::create(image).unwrap().set_len(bytes).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
        Self::mount(image, at)
    }

    fn mount(image: &Path, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        // Ten minutes between the kernel's own commits: only our fsync makes anything durable.
        run("mount", &["-o", "loop,commit=600", image.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a vault that is being dropped may still hold it for a moment.
        Command::new("umount").arg("--lazy").arg(&self.0).output().ok();
    }
}

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: it mounts a file system, which needs root");
    }
    root
}

#[test]
fn a_full_disk_is_a_507_that_leaves_all_intact() {
    if !is_root("a_full_disk_is_a_507_that_leaves_all_intact") {
        return;
    }
    let dir = temp();
    let (image, data) = (dir.path().join("image"), dir.path().join("data"));
    let _mounted = Mounted::make(&image, &data, 16 << 20);
    let vault = Vault::plain(&data, &[]);
    create(&vault, "register");
    let mut kept = vec![];
    let full = (0..64).find_map(|n| {
        let (name, response) = put(&vault, "register", "data", &noise(n, 1 << 20));
        match response.status().as_u16() {
            200 => kept.push(name),
            status => return Some((status, response.text().unwrap())),
        }
        None
    });
    let (status, text) = full.expect("16 MiB must fill up");
    assert_eq!(status, 507, "{text}");
    assert!(text.contains("disk is full"), "{text}");
    assert!(kept.len() > 5, "{} stored", kept.len());
    assert_no_leftovers(&data);
    for name in &kept {
        let read = client().get(vault.url(&format!("register/data/{name}"))).send().unwrap();
        assert_eq!(id(&read.bytes().unwrap()), *name);
    }
    // Small things still find room, and it all opens again.
    stored(&vault, "register", "locks", b"a lock");
    drop(vault);
    let vault = Vault::plain(&data, &[]);
    let list = client().get(vault.url("register/data/")).send().unwrap();
    assert_eq!(list.json::<BTreeSet<String>>().unwrap(), kept.into_iter().collect());
}

/// What was acknowledged must be on the disk *then*: a copy of the disk's image taken at any moment
/// is what a power cut leaves, since all that the kernel still holds back is missing from it.
#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    if !is_root("what_was_acknowledged_survives_a_power_cut") {
        return;
    }
    let (site, mut plain) = Site::start();
    plain.kill();
    let (image, data) = (site.dir.path().join("image"), site.dir.path().join("small"));
    let _mounted = Mounted::make(&image, &data, 96 << 20);
    let mut flags = site.flags.clone();
    let at = flags.iter().position(|flag| flag == "--data").unwrap() + 1;
    flags[at] = data.to_str().unwrap().to_owned();
    let vault = Vault::start(&flags);
    create(&vault, "register");
    for (kind, content) in [("snapshots", "a snapshot"), ("data", "a pack"), ("index", "an index")] {
        stored(&vault, "register", kind, content.as_bytes());
    }
    let mut previous = CHAIN_START.to_owned();
    for round in 1..=4 {
        let header = sign(site.header(round, &previous));
        let acknowledged =
            load_until_cut(&vault, round, || assert_eq!(send(&vault, round, header.bytes()).0, 200));
        previous = header.hash();
        vault.signal(Signal::STOP);
        let copy = site.dir.path().join("cut");
        std::fs::copy(&image, &copy).unwrap();
        vault.signal(Signal::CONT);
        let there = site.dir.path().join("there");
        let _cut = Mounted::mount(&copy, &there);
        flags[at] = there.to_str().unwrap().to_owned();
        let revived = Vault::start(&flags);
        for name in &acknowledged {
            let read = client().get(revived.url(&format!("register/data/{name}"))).send().unwrap();
            assert_eq!(id(&read.bytes().unwrap()), *name, "acknowledged before the cut of round {round}");
        }
        let status: serde_json::Value =
            client().get(revived.url("register/status")).send().unwrap().json().unwrap();
        assert_eq!((&status["lastHeader"], &status["epochMark"]), (&previous.clone().into(), &4.into()));
    }
}

/// Uploads from four threads, calls `commit` in the middle, and gives what was acknowledged. The
/// uploads go on past the end of this only in so far as they were not acknowledged.
fn load_until_cut(vault: &Vault, round: u64, commit: impl FnOnce()) -> Vec<String> {
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(round * 10_000));
    let acknowledged = Mutex::new(vec![]);
    let until = Instant::now() + Duration::from_millis(200);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let content = noise(seed, usize::try_from(seed % 7).unwrap() * 20_000 + 1);
                    let (name, response) = put(vault, "register", "data", &content);
                    assert_eq!(response.status(), 200);
                    acknowledged.lock().unwrap().push(name);
                }
            });
        }
        commit();
        wait_for("some uploads", SOON, || {
            (Instant::now() > until && acknowledged.lock().unwrap().len() > 5).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    acknowledged.into_inner().unwrap()
}

/// What a full disk leaves of a creation must not keep the vault from serving the others.
#[test]
fn a_half_made_repository_is_left_out_and_the_others_are_served() {
    let dir = temp();
    let data = dir.path().join("data");
    for name in ["half", "whole"] {
        std::fs::create_dir_all(data.join(name)).unwrap();
    }
    // A file where a folder belongs cannot be completed, by root either.
    std::fs::write(data.join("half/data"), "").unwrap();
    let vault = Vault::plain(&data, &[]);
    let answer = client().post(vault.url("whole/?create=true")).send().unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    assert!(vault.log().contains("half"), "{}", vault.log());
    // One that has a config holds data: to serve without it would say that it is gone.
    drop(vault);
    std::fs::write(data.join("half/config"), "x").unwrap();
    let log = Vault::try_start(&flags(&["--insecure-standalone", "--data", data.to_str().unwrap()])).err();
    assert!(log.is_some_and(|log| log.contains("half")), "it started without a repository that is in use");
}
