//! Back up and restore by hand, with the stock restic on the other side.

use crate::bench::Bench;
use crate::{corpus, judge};
use data_embassy::api::report::MoverReason;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

#[test]
fn everything_comes_back_and_a_second_restore_touches_nothing() {
    let bench = Bench::new();
    let source = bench.make("source");
    corpus::zoo(&source);
    bench.backup(&source).ok();
    let target = bench.make("target");
    bench.restore(&target).ok();
    judge::same(&source, &target);
    assert!(judge::blocks(&target.join("sparse")) < 2048, "the sparse file was filled up");
    let before: Vec<_> = ["plain", "sparse", "one", "link", "fifo"]
        .map(|name| fs::symlink_metadata(target.join(name)).unwrap())
        .iter()
        .map(|meta| (meta.ino(), meta.ctime(), meta.ctime_nsec()))
        .collect();
    bench.restore(&target).ok();
    judge::same(&source, &target);
    let after: Vec<_> = ["plain", "sparse", "one", "link", "fifo"]
        .map(|name| fs::symlink_metadata(target.join(name)).unwrap())
        .iter()
        .map(|meta| (meta.ino(), meta.ctime(), meta.ctime_nsec()))
        .collect();
    assert_eq!(before, after, "an equal entry was touched");
    let verified = bench.verify(&target).ok();
    assert!(verified.report.proven);
}

#[test]
fn the_stock_restic_checks_and_restores_ours() {
    let bench = Bench::new();
    let source = bench.make("source");
    corpus::zoo(&source);
    bench.backup(&source).ok();
    bench.restic(&["check", "--read-data"]);
    // What restic 0.14 cannot: raw link targets, attributes of links (it follows them), sockets,
    // hard links of FIFOs.
    for name in ["raw-link", "dangling", "socket", "fifo-too"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    corpus::set_mtime(&source, 1_234_567_890, 987_654_321);
    bench.backup(&source).ok();
    bench.restic(&["restore", "latest", "--target", bench.path("theirs").to_str().unwrap()]);
    let theirs = bench.path("theirs").join(source.strip_prefix("/").unwrap());
    let drop_capability = |mut picture: judge::Picture| {
        // restic sets attributes before the owner, and the kernel then clears the capability.
        for line in picture.values_mut() {
            *line =
                line.split(' ').filter(|w| !w.contains("security.capability")).collect::<Vec<_>>().join(" ");
        }
        judge::without(picture, |name| name.starts_with("link"))
    };
    judge::assert_same(&drop_capability(judge::picture(&source)), &drop_capability(judge::picture(&theirs)));
}

#[test]
fn ours_restores_what_the_stock_restic_made() {
    let bench = Bench::new();
    let source = bench.make("source");
    corpus::zoo(&source);
    // restic 0.14 keeps neither raw link targets nor attributes of links nor hard links of FIFOs.
    for name in ["raw-link", "dangling", "socket", "fifo-too"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    corpus::set_mtime(&source, 1_234_567_890, 987_654_321);
    bench.restic(&["init"]);
    bench.restic(&["backup", source.to_str().unwrap()]);
    let target = bench.make("target");
    bench.restore(&target).ok();
    judge::same(&source, &target);
    bench.verify(&target).ok();
    // And ours goes on in the same repository.
    fs::write(source.join("more"), b"more").unwrap();
    bench.backup(&source).ok();
    bench.restic(&["check", "--read-data"]);
    bench.restore(&target).ok();
    judge::same(&source, &target);
}

#[test]
fn any_older_state_becomes_the_snapshot() {
    for seed in 1..=12_u64 {
        println!("seed {seed}");
        let bench = Bench::new();
        let source = bench.make("source");
        corpus::random(&source, seed);
        bench.backup(&source).ok();
        let target = bench.make("target");
        bench.restore(&target).ok();
        judge::same(&source, &target);
        corpus::mutate(&source, seed + 1000, 40);
        bench.backup(&source).ok();
        corpus::mutate(&target, seed + 2000, 40);
        bench.restore(&target).ok();
        judge::same(&source, &target);
        bench.verify(&target).ok();
    }
}

#[test]
fn names_that_are_linked_here_and_separate_there_do_not_mix() {
    let bench = Bench::new();
    let source = bench.make("source");
    let target = bench.make("target");
    // Linked in the target, separate in the snapshot: the library writes both into one inode.
    fs::write(source.join("a"), b"contents of a").unwrap();
    fs::write(source.join("b"), b"contents of b").unwrap();
    fs::write(target.join("a"), b"what was there").unwrap();
    fs::hard_link(target.join("a"), target.join("b")).unwrap();
    bench.backup(&source).ok();
    bench.restore(&target).ok();
    judge::same(&source, &target);
    // The same contents and times, so that both look unchanged, yet linked.
    for name in ["a", "b"] {
        fs::write(source.join(name), b"equal").unwrap();
        corpus::set_mtime(&source.join(name), 1_000_000_000, 0);
    }
    fs::remove_file(target.join("b")).unwrap();
    fs::write(target.join("a"), b"equal").unwrap();
    corpus::set_mtime(&target.join("a"), 1_000_000_000, 0);
    fs::hard_link(target.join("a"), target.join("b")).unwrap();
    bench.backup(&source).ok();
    assert!(bench.verify(&target).fails_with(MoverReason::NotProven).stderr.contains("names"));
    bench.restore(&target).ok();
    judge::same(&source, &target);
    // And linked again: two groups where the target has one over all four.
    fs::remove_file(source.join("b")).unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    fs::write(source.join("c"), b"equal").unwrap();
    corpus::set_mtime(&source.join("c"), 1_000_000_000, 0);
    fs::hard_link(source.join("c"), source.join("d")).unwrap();
    for name in ["b", "c", "d"] {
        let _ = fs::remove_file(target.join(name));
        fs::hard_link(target.join("a"), target.join(name)).unwrap();
    }
    bench.backup(&source).ok();
    bench.verify(&target).fails_with(MoverReason::NotProven);
    bench.restore(&target).ok();
    judge::same(&source, &target);
}

#[test]
fn a_change_that_keeps_size_and_time_is_seen() {
    let bench = Bench::new();
    let source = bench.make("source");
    let file = source.join("file");
    fs::write(&file, b"first").unwrap();
    corpus::set_mtime(&file, 1_000_000_000, 0);
    std::thread::sleep(Duration::from_millis(2500));
    bench.backup(&source).ok();
    fs::write(&file, b"other").unwrap();
    corpus::set_mtime(&file, 1_000_000_000, 0);
    bench.backup(&source).ok();
    let target = bench.make("target");
    bench.restore(&target).ok();
    judge::same(&source, &target);
}

#[test]
fn a_clone_of_a_source_costs_no_reading_and_a_fresh_file_is_read_again() {
    let bench = Bench::new();
    let source = bench.make("source");
    fs::write(source.join("still"), vec![1; 3_000_000]).unwrap();
    corpus::set_mtime(&source.join("still"), 1_000_000_000, 0);
    let clone = |bench: &Bench| {
        let args = ["--init", "--identity", "mtime", "--source"].map(std::ffi::OsStr::new);
        bench.run("backup", args.into_iter().chain([source.as_os_str()])).ok()
    };
    fs::write(source.join("fresh"), b"aaaa").unwrap();
    let fresh = fs::metadata(source.join("fresh")).unwrap();
    clone(&bench);
    // The same size and the same time stamp, as within one tick of a coarse clock.
    fs::write(source.join("fresh"), b"bbbb").unwrap();
    corpus::set_mtime(&source.join("fresh"), fresh.mtime(), fresh.mtime_nsec());
    clone(&bench);
    let target = bench.make("target");
    bench.restore(&target).ok();
    judge::same(&source, &target);
}

#[test]
fn a_wrong_key_and_a_missing_repository_are_told_apart() {
    let bench = Bench::new();
    let source = bench.make("source");
    let ended = bench.run("backup", ["--source", source.to_str().unwrap()]);
    ended.fails_with(MoverReason::RepositoryMissing);
    bench.backup(&source).ok();
    fs::write(bench.path("password"), "another\n").unwrap();
    bench.backup(&source).fails_with(MoverReason::WrongKey);
    fs::write(bench.path("password"), "\n").unwrap();
    bench.backup(&source).fails_with(MoverReason::Failed);
}

#[test]
fn a_password_by_a_person_gets_a_dear_key_and_a_random_one_a_cheap_one() {
    for (password, n) in [("correct horse", 1 << 17), (&*"r".repeat(43), 1 << 14)] {
        let bench = Bench::new();
        fs::write(bench.path("password"), password).unwrap();
        bench.backup(&bench.make("source")).ok();
        let keys = bench.stored("keys");
        assert_eq!(keys.len(), 1);
        let key: serde_json::Value = serde_json::from_slice(&fs::read(&keys[0]).unwrap()).unwrap();
        assert_eq!(key["N"], n);
        bench.restic(&["snapshots"]);
    }
}

#[test]
fn a_creation_that_was_interrupted_is_finished_with_the_same_key() {
    let bench = Bench::new();
    let source = bench.make("source");
    bench.backup(&source).ok();
    fs::remove_file(bench.path("repo/config")).unwrap();
    for file in bench.stored("snapshots").iter().chain(&bench.stored("index")).chain(&bench.stored("data")) {
        fs::remove_file(file).unwrap();
    }
    bench.backup(&source).ok();
    assert_eq!(bench.stored("keys").len(), 1, "a second key under the same password");
    bench.restic(&["check", "--read-data"]);
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_it_would() {
    let bench = Bench::new();
    let source = bench.make("source");
    fs::write(source.join("file"), b"1").unwrap();
    bench.backup(&source).ok();
    let target = bench.make("target");
    fs::write(target.join("extra"), b"").unwrap();
    let before = judge::picture(&target);
    let args = ["--snapshot", "latest", "--delete", "--dry-run", "--target", target.to_str().unwrap()];
    let ended = bench.run("restore", args).ok();
    assert!(ended.stdout.contains("file: is missing") && ended.stdout.contains("extra"), "{}", ended.stdout);
    judge::assert_same(&before, &judge::picture(&target));
    // Without --delete a stranger stays, and is no difference.
    bench.run("restore", ["--snapshot", "latest", "--target", target.to_str().unwrap()]).ok();
    assert!(target.join("extra").exists() && target.join("file").exists());
}
