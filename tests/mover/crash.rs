//! Killed, stopped, and gone on.

use crate::bench::Bench;
use crate::dispatch::Home;
use crate::{corpus, judge};
use data_embassy::api::report::{MoverReason, MoverReport};
use rand::{Rng as _, SeedableRng as _};
use std::fs;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_restore_killed_at_any_moment_is_finished_by_the_next() {
    let bench = Bench::new();
    let source = bench.make("source");
    for seed in 0..4 {
        corpus::random(&source.join(format!("part-{seed}")), 300 + seed);
    }
    corpus::zoo(&source.join("zoo"));
    bench.backup(&source).ok();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let target = bench.make("target");
    for round in 0..10 {
        corpus::mutate(&target, seed.wrapping_add(round), 10);
        let mut child = bench
            .command("restore")
            .args(["--snapshot=latest", "--delete", "--target"])
            .arg(&target)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(rng.gen_range(5..400)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    bench.restore(&target).ok();
    judge::same(&source, &target);
}

#[test]
fn a_file_with_the_right_size_and_time_but_lost_bytes_is_mended_after_a_crash() {
    let bench = Bench::new();
    let source = bench.make("source");
    fs::write(source.join("file"), b"precious").unwrap();
    corpus::set_mtime(&source.join("file"), 1_000_000_000, 0);
    bench.backup(&source).ok();
    let target = bench.make("target");
    bench.restore(&target).ok();
    // As after a power cut: the mark is still there, the file's blocks never got to the disk.
    fs::write(target.join(".embassy-restore-unfinished"), b"").unwrap();
    fs::write(target.join("file"), [0; 8]).unwrap();
    corpus::set_mtime(&target.join("file"), 1_000_000_000, 0);
    bench.restore(&target).ok();
    judge::same(&source, &target);
}

#[test]
fn a_backup_killed_at_any_moment_leaves_a_sound_repository() {
    let home = Home::new();
    corpus::random(&home.register, 400);
    home.backup("2026-11-23T10:00:00Z").ok();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    for round in 0..6 {
        corpus::mutate(&home.register, seed.wrapping_add(round), 15);
        let mut child = home
            .bench
            .command("backup")
            .args(home.backup_args(&format!("2026-11-23T11:0{round}:00Z")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(rng.gen_range(5..300)));
        child.kill().unwrap();
        child.wait().unwrap();
        home.restore("latest").ok();
    }
    home.backup("2026-11-23T12:00:00Z").ok();
    home.restore("latest").ok();
    home.arrived();
    home.bench.restic(&["check", "--read-data"]);
}

fn terminate(mut child: std::process::Child) -> Option<i32> {
    std::thread::sleep(Duration::from_millis(300));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn a_stopped_run_says_interrupted_and_leaves_no_half_snapshot() {
    let bench = Bench::new();
    bench.backup(&bench.make("empty")).ok();
    let source = bench.make("source");
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    for i in 0..40 {
        let mut bytes = vec![0; 8 << 20];
        rand::RngCore::fill_bytes(&mut rng, &mut bytes);
        fs::write(source.join(format!("f{i}")), bytes).unwrap();
    }
    let mut command = bench.command("backup");
    command.arg("--source").arg(&source).arg("--termination-log").arg(bench.path("termination"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(terminate(child), Some(1));
    let text = fs::read_to_string(bench.path("termination")).unwrap();
    let report: MoverReport = serde_json::from_str(&text).unwrap();
    assert_eq!(report.reason, Some(MoverReason::Interrupted));
    assert_eq!(bench.stored("snapshots").len(), 1);
    bench.backup(&source).ok();
    let mut command = bench.command("restore");
    command.args(["--snapshot=latest", "--target"]).arg(bench.make("target"));
    command.arg("--termination-log").arg(bench.path("termination"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(terminate(child), Some(1));
    bench.restore(&bench.path("target")).ok();
    judge::same(&source, &bench.path("target"));
}
