//! What cannot be read or set is counted, named and never called a success.

use crate::bench::Bench;
use crate::dispatch::Home;
use crate::{corpus, judge};
use data_embassy::api::report::MoverReason;
use std::fs;
use std::path::Path;
use std::process::Command;

const NOBODY: u32 = 65_534;

/// The mover as another user. setpriv is part of util-linux.
pub fn as_nobody(command: &Command) -> Command {
    let mut out = Command::new("setpriv");
    out.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    out.arg(command.get_program()).args(command.get_args());
    out
}

fn open_up(bench: &Bench) {
    corpus::chmod(bench.dir.path(), 0o777);
    corpus::chmod(&bench.path("password"), 0o644);
}

#[test]
fn unreadable_entries_are_counted_and_named() {
    let bench = Bench::new();
    open_up(&bench);
    let source = bench.make("source");
    fs::write(source.join("readable"), b"1").unwrap();
    fs::write(source.join("secret"), b"2").unwrap();
    corpus::chmod(&source.join("secret"), 0o000);
    fs::create_dir(source.join("closed")).unwrap();
    fs::write(source.join("closed/inside"), b"3").unwrap();
    corpus::chmod(&source.join("closed"), 0o711);
    let mut command = bench.command("backup");
    command.args(["--init", "--json", "--source"]).arg(&source);
    command.arg("--termination-log").arg(bench.path("termination"));
    let ended = bench.finish(&mut as_nobody(&command));
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let report = ended.fails_with(MoverReason::Unreadable).report;
    assert_eq!(report.errors_total, 2, "{:?}", report.errors);
    for name in ["secret", "closed"] {
        assert!(report.errors.iter().any(|line| line.contains(name)), "{:?}", report.errors);
    }
    // As by restic, the rest is in the snapshot.
    bench.restore(&bench.make("target")).ok();
    assert!(bench.path("target/readable").exists() && !bench.path("target/secret").exists());
}

#[test]
fn an_unreadable_entry_commits_nothing_unless_told_to() {
    let home = Home::new();
    open_up(&home.bench);
    corpus::chmod(&home.bench.path("seed"), 0o644);
    fs::write(home.register.join("readable"), b"1").unwrap();
    fs::write(home.register.join("secret"), b"2").unwrap();
    corpus::chmod(&home.register.join("secret"), 0o000);
    let run = |extra: &[&str]| {
        let mut command = home.bench.command("backup");
        command.args(home.backup_args("2026-11-23T10:00:00Z")).args(extra);
        command.arg("--termination-log").arg(home.bench.path("termination"));
        home.bench.finish(&mut as_nobody(&command))
    };
    run(&[]).fails_with(MoverReason::Unreadable);
    assert!(home.bench.stored("dispatches").is_empty());
    let report = run(&["--on-unreadable=report"]).report;
    assert_eq!((report.sequence, report.errors_total, report.success), (Some(1), 1, false));
}

#[test]
fn without_privileges_exactly_the_owners_are_missed() {
    let bench = Bench::new();
    open_up(&bench);
    let source = bench.make("source");
    for (name, owner) in [("mine", NOBODY), ("roots", 0), ("others", 1000)] {
        fs::write(source.join(name), name).unwrap();
        corpus::chown(&source.join(name), owner, NOBODY);
    }
    fs::create_dir(source.join("shut")).unwrap();
    fs::write(source.join("shut/in"), b"in").unwrap();
    for path in [source.clone(), source.join("shut"), source.join("shut/in")] {
        corpus::chown(&path, NOBODY, NOBODY);
    }
    corpus::chmod(&source.join("shut"), 0o500);
    bench.backup(&source).ok();
    let target = bench.make("target");
    corpus::chown(&target, NOBODY, NOBODY);
    let restore = || {
        let mut command = bench.command("restore");
        command.args(["--snapshot=latest", "--delete", "--target"]).arg(&target);
        command.arg("--termination-log").arg(bench.path("termination"));
        bench.finish(&mut as_nobody(&command))
    };
    for path in bench.stored("") {
        corpus::chmod(&path, 0o644);
    }
    let report = restore().fails_with(MoverReason::NotRestorable).report;
    assert_eq!(report.errors_total, 2, "{:?}", report.errors);
    assert!(report.errors.iter().all(|line| line.contains("owner")), "{:?}", report.errors);
    // With only its own files to restore, the same user succeeds, also over a shut directory.
    for name in ["roots", "others"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    fs::write(source.join("shut/in"), b"changed").unwrap();
    bench.backup(&source).ok();
    for path in bench.stored("") {
        corpus::chmod(&path, 0o644);
    }
    let ended = restore();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    judge::same(&source, &target);
}

/// A small file system, unmounted when it goes.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(path: &'a Path, size: &str) -> Self {
        let options = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status();
        assert!(status.unwrap().success());
        Self(path)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_target_is_told_as_such() {
    let bench = Bench::new();
    let source = bench.make("source");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(source.join("large"), bytes).unwrap();
    bench.backup(&source).ok();
    let target = bench.make("target");
    let _mounted = Mounted::tmpfs(&target, "1m");
    bench.restore(&target).fails_with(MoverReason::TargetFull);
}

#[test]
fn what_is_mounted_inside_is_neither_read_nor_removed() {
    let bench = Bench::new();
    let (source, target) = (bench.make("source"), bench.make("target"));
    fs::write(source.join("file"), b"1").unwrap();
    let inside = bench.make("source/inside");
    let other = bench.make("target/other");
    let (_one, _two) = (Mounted::tmpfs(&inside, "1m"), Mounted::tmpfs(&other, "1m"));
    fs::write(inside.join("foreign"), b"2").unwrap();
    fs::write(other.join("foreign"), b"2").unwrap();
    bench.backup(&source).ok();
    bench.restore(&target).fails_with(MoverReason::NotRestorable);
    assert!(target.join("inside").is_dir() && !target.join("inside/foreign").exists());
    assert!(other.join("foreign").exists());
}

#[test]
fn a_file_that_changes_while_it_is_read_is_counted() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let bench = Bench::new();
    let source = bench.make("source");
    let log = source.join("log");
    fs::write(&log, vec![1; 64 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write as _;
            let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
            while !stop.load(Ordering::SeqCst) {
                file.write_all(b"another line\n").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let ended = bench.backup(&source);
        stop.store(true, Ordering::SeqCst);
        ended
    });
    let report = ended.fails_with(MoverReason::Unreadable).report;
    assert!(report.errors[0].contains("changed while"), "{:?}", report.errors);
}
