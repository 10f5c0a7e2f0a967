//! A provisioner that is killed in the midst of its work. Needs root, like the other disk tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::layout::wait_until;
use super::*;

const DIR: &str = "TESTBED_WORK_DIR";
const DATA: &[u8] = b"kept across every crash";

/// Everything a provisioner does, each step repeatable.
fn work(dir: &Path) -> anyhow::Result<()> {
    let volumes = Volumes::new(dir, "de0-test")?;
    let create = |name: &str, mib: u64, content: Content| {
        volumes.create(&Request { name: name.into(), size: mib << 20, encrypted: true, content })
    };
    create("pvc-1", 32, Content::Empty)?;
    fs::write(volumes.layout.data("pvc-1").join("file"), DATA)?;
    volumes.snapshot("pvc-1", "snap-1")?;
    create("pvc-2", 48, Content::Snapshot("snap-1".into()))?;
    create("pvc-3", 32, Content::Volume("pvc-1".into()))?;
    volumes.delete_snapshot("snap-1")?;
    volumes.delete("pvc-2")
}

#[test]
#[ignore = "run by killed_at_any_point_the_work_can_be_finished_or_removed, to be killed"]
fn works_until_killed() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    fs::write(dir.join("begun"), b"").unwrap();
    work(&dir).unwrap();
}

#[test]
fn killed_at_any_point_the_work_can_be_finished_or_removed() {
    assert!(rustix::process::geteuid().is_root(), "the storage tests mount file systems: run them as root");
    let mut interrupted = 0;
    for step in 0..24 {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "storage::crash_tests::works_until_killed", "--ignored"])
            .env(DIR, dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        assert!(wait_until(Duration::from_secs(20), || Ok(dir.join("begun").exists())).unwrap());
        // Not a wait for something: the moment of the kill is what the test varies.
        std::thread::sleep(Duration::from_millis(step * 10));
        interrupted += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_file(dir.join("begun")).unwrap();
        if step % 2 == 0 {
            mount_all(dir).unwrap();
            // A killed worker may have got as far as deleting the snapshot: then it is taken anew.
            work(dir).unwrap();
            let volumes = Volumes::new(dir, "de0-test").unwrap();
            assert_eq!(volumes.layout.volumes().unwrap(), ["pvc-1", "pvc-3"]);
            assert_eq!(fs::read(volumes.layout.data("pvc-3").join("file")).unwrap(), DATA);
        }
        cleanup(dir).unwrap();
        assert_eq!(leftovers(dir).unwrap(), Vec::<PathBuf>::new());
        assert!(!dir.exists());
    }
    println!("killed in the midst of it: {interrupted} of 24 times");
    assert!(interrupted > 5, "only {interrupted} kills hit the work");
}
