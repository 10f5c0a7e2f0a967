//! The disk part against the real kernel. Needs root: without it these tests fail, they do not skip.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::freeze::Frozen;
use super::layout::{files, wait_until};
use super::*;

const MIB: u64 = 1 << 20;
const MARKER: &[u8] = b"MARKER-written-at-home-4711";

/// A directory of volumes that goes away with the test, also when it fails.
struct Site {
    dir: PathBuf,
    volumes: Volumes,
    _parent: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the storage tests mount file systems: run them as root"
        );
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("storage");
        let volumes = Volumes::new(&dir, "de0-test").unwrap();
        Self { dir, volumes, _parent: parent }
    }

    fn volume(&self, name: &str, mib: u64, encrypted: bool, content: Content) -> anyhow::Result<PathBuf> {
        let request = Request { name: name.into(), size: mib * MIB, encrypted, content };
        self.volumes.create(&request)?;
        Ok(self.volumes.layout.data(name))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let done = cleanup(&self.dir);
        if !std::thread::panicking() {
            done.unwrap();
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

fn marker_on_disk(dir: &Path) -> bool {
    let images = raw_images(dir).unwrap();
    assert!(!images.is_empty());
    images.iter().any(|image| contains(image, MARKER).unwrap())
}

#[test]
fn a_marker_is_on_the_raw_disk_of_a_plain_volume_and_not_of_an_encrypted_one() {
    for encrypted in [true, false] {
        let site = Site::new();
        let data = site.volume("pvc-1", 32, encrypted, Content::Empty).unwrap();
        write_synced(&data.join("citizens"), MARKER);
        write_synced(&data.join(String::from_utf8_lossy(MARKER).as_ref()), b"a name");
        std::os::unix::fs::symlink(data.join("MARKER-written-at-home-4711"), data.join("link")).unwrap();
        site.volumes.snapshot("pvc-1", "snap-1").unwrap();
        lock_all(&site.dir).unwrap();
        assert_eq!(leftovers(&site.dir).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(marker_on_disk(&site.dir), !encrypted, "encrypted: {encrypted}");
        assert!(!data.exists());
        assert_eq!(mount_all(&site.dir).unwrap(), 1);
        assert_eq!(fs::read(data.join("citizens")).unwrap(), MARKER);
    }
}

#[test]
fn without_its_key_an_encrypted_volume_shows_neither_names_nor_contents() {
    let site = Site::new();
    let data = site.volume("pvc-1", 32, true, Content::Empty).unwrap();
    write_synced(&data.join("citizens"), MARKER);
    let key = site.volumes.layout.key("pvc-1");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&key).unwrap().len(), 64);
    lock_all(&site.dir).unwrap();
    let aside = site.dir.join("aside");
    fs::rename(&key, &aside).unwrap();
    mount_all(&site.dir).unwrap();
    let names: Vec<_> = files(&data).unwrap();
    assert_eq!(names.len(), 1);
    assert_ne!(names[0].file_name().unwrap(), "citizens");
    assert!(fs::read(&names[0]).is_err());
    assert!(File::create(data.join("new")).is_err(), "writing needs the key too");
    fs::rename(&aside, &key).unwrap();
    mount_all(&site.dir).unwrap();
    assert_eq!(fs::read(data.join("citizens")).unwrap(), MARKER);
}

#[test]
fn a_key_in_use_cannot_be_locked_away() {
    let site = Site::new();
    let data = site.volume("pvc-1", 32, true, Content::Empty).unwrap();
    let open = File::create(data.join("open")).unwrap();
    let refused = lock_all(&site.dir).unwrap_err();
    assert!(format!("{refused:#}").contains("open files"), "{refused:#}");
    drop(open);
    lock_all(&site.dir).unwrap();
}

#[test]
fn a_full_volume_says_so_and_leaves_its_neighbour_alone() {
    let site = Site::new();
    let data = site.volume("pvc-1", 32, true, Content::Empty).unwrap();
    let other = site.volume("pvc-2", 32, true, Content::Empty).unwrap();
    let mut file = File::create(data.join("big")).unwrap();
    let block = vec![1; 1 << 20];
    let written =
        (0..64).take_while(|_| file.write_all(&block).and_then(|()| file.sync_all()).is_ok()).count();
    assert!((18..32).contains(&written), "{written} MiB fitted in 32 MiB");
    let full = file.write_all(&block).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    write_synced(&other.join("fits"), &block);
    fs::remove_file(data.join("big")).unwrap();
    drop(file);
    write_synced(&data.join("again"), &block);
}

/// Appends numbered records and syncs each, as a database's log does.
struct Writer {
    synced: Arc<AtomicU64>,
    stop: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(path: PathBuf) -> Self {
        let (synced, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, end) = (synced.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut file = File::create(path).unwrap();
            for number in 1_u64.. {
                file.write_all(&number.to_le_bytes().repeat(128)).unwrap();
                file.sync_data().unwrap();
                count.store(number, Ordering::SeqCst);
                if end.load(Ordering::SeqCst) > 0 {
                    break;
                }
            }
        });
        Self { synced, stop, thread: Some(thread) }
    }

    fn wait_for(&self, number: u64) -> u64 {
        let got = || self.synced.load(Ordering::SeqCst);
        assert!(wait_until(Duration::from_secs(30), || Ok(got() >= number)).unwrap(), "only {}", got());
        got()
    }

    fn stop(mut self) {
        self.stop.store(1, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The number of whole records; every one must be what was written.
fn records(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    for (index, record) in bytes.chunks_exact(1024).enumerate() {
        let want = (index as u64 + 1).to_le_bytes().repeat(128);
        assert_eq!(record, want, "record {}", index + 1);
    }
    bytes.len() as u64 / 1024
}

#[test]
fn a_snapshot_under_a_syncing_writer_holds_all_that_was_synced_before_and_nothing_later() {
    for encrypted in [true, false] {
        let site = Site::new();
        let data = site.volume("pvc-1", 300, encrypted, Content::Empty).unwrap();
        write_synced(&data.join("ballast"), &vec![7; 64 << 20]);
        let writer = Writer::start(data.join("log"));
        let before = writer.wait_for(20);
        let info = site.volumes.snapshot("pvc-1", "snap-1").unwrap();
        let after = writer.synced.load(Ordering::SeqCst);
        println!("encrypted {encrypted}: writers waited {:?}, {before}..{after} records", info.frozen);
        writer.wait_for(after + 20);
        assert!(info.created <= jiff::Timestamp::now());
        // The copy is clean as it lies there, with no journal to replay.
        let check =
            Command::new("e2fsck").arg("-fn").arg(site.volumes.layout.snapshot("snap-1")).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        // Restored beside its source, which stays mounted and written to.
        let copy = site.volume("pvc-2", 300, encrypted, Content::Snapshot("snap-1".into())).unwrap();
        let held = records(&copy.join("log"));
        assert!((before..=after + 1).contains(&held), "{before} <= {held} <= {after} + 1");
        assert_eq!(fs::read(copy.join("ballast")).unwrap(), vec![7; 64 << 20]);
        write_synced(&copy.join("log"), b"own life");
        writer.stop();
        assert!(records(&data.join("log")) > after);
    }
}

#[test]
fn taking_a_snapshot_again_returns_the_first_one() {
    let site = Site::new();
    let data = site.volume("pvc-1", 32, true, Content::Empty).unwrap();
    write_synced(&data.join("one"), b"1");
    let first = site.volumes.snapshot("pvc-1", "snap-1").unwrap();
    write_synced(&data.join("two"), b"2");
    assert_eq!(site.volumes.snapshot("pvc-1", "snap-1").unwrap(), first);
    let copy = site.volume("pvc-2", 32, true, Content::Snapshot("snap-1".into())).unwrap();
    assert!(copy.join("one").exists() && !copy.join("two").exists());
    site.volumes.delete_snapshot("snap-1").unwrap();
    site.volumes.delete_snapshot("snap-1").unwrap();
    assert!(site.volume("pvc-3", 32, true, Content::Snapshot("snap-1".into())).is_err());
}

#[test]
fn clones_may_be_larger_but_neither_smaller_nor_of_the_other_kind() {
    let site = Site::new();
    let data = site.volume("pvc-1", 32, true, Content::Empty).unwrap();
    write_synced(&data.join("citizens"), MARKER);
    let source = || Content::Volume("pvc-1".into());
    let larger = site.volume("pvc-2", 96, true, source()).unwrap();
    assert_eq!(fs::read(larger.join("citizens")).unwrap(), MARKER);
    write_synced(&larger.join("big"), &vec![1; 60 << 20]);
    let smaller = site.volume("pvc-3", 16, true, source()).unwrap_err();
    assert!(format!("{smaller:#}").contains("are asked for"), "{smaller:#}");
    let plain = site.volume("pvc-4", 32, false, source()).unwrap_err();
    assert!(format!("{plain:#}").contains("encrypted"), "{plain:#}");
    lock_all(&site.dir).unwrap();
    assert!(!marker_on_disk(&site.dir));
}

#[test]
fn more_volumes_than_dev_has_loop_nodes() {
    let site = Site::new();
    for number in 0..12 {
        let data = site.volume(&format!("pvc-{number}"), 8, true, Content::Empty).unwrap();
        write_synced(&data.join("n"), &[number]);
    }
    lock_all(&site.dir).unwrap();
    assert_eq!(mount_all(&site.dir).unwrap(), 12);
    for number in 0..12 {
        let data = site.volumes.layout.data(&format!("pvc-{number}"));
        assert_eq!(fs::read(data.join("n")).unwrap(), [number]);
    }
}

#[test]
fn after_a_power_cut_synced_data_is_there_and_unsynced_is_not() {
    let site = Site::new();
    let data = site.volume("pvc-1", 32, true, Content::Empty).unwrap();
    write_synced(&data.join("synced"), b"kept");
    File::open(&data).unwrap().sync_all().unwrap();
    fs::write(data.join("unsynced"), b"lost").unwrap();
    power_cut(&site.dir).unwrap();
    assert_eq!(leftovers(&site.dir).unwrap(), Vec::<PathBuf>::new());
    mount_all(&site.dir).unwrap();
    mount_all(&site.dir).unwrap();
    assert_eq!(fs::read(data.join("synced")).unwrap(), b"kept");
    assert!(!data.join("unsynced").exists());
}

#[test]
fn the_guard_thaws_when_its_process_is_killed() {
    let site = Site::new();
    let data = site.volume("pvc-1", 32, false, Content::Empty).unwrap();
    let mount = site.volumes.layout.mount("pvc-1");
    // This test program again, as the process that freezes and is killed.
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "storage::disk_tests::freezes_until_killed", "--ignored", "--nocapture"])
        .env("TESTBED_FREEZE", &mount)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let frozen = mount.with_extension("frozen");
    assert!(wait_until(Duration::from_secs(20), || Ok(frozen.exists())).unwrap(), "never frozen");
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    let target = data.join("after");
    let writer = std::thread::spawn(move || write_synced(&target, b"goes on"));
    assert!(wait_until(Duration::from_secs(10), || Ok(writer.is_finished())).unwrap(), "still frozen");
    println!("writers went on {:?} after the kill", start.elapsed());
    fs::remove_file(frozen).unwrap();
}

#[test]
#[ignore = "run by the_guard_thaws_when_its_process_is_killed, to be killed"]
fn freezes_until_killed() {
    let Some(mount) = std::env::var_os("TESTBED_FREEZE").map(PathBuf::from) else {
        return;
    };
    let _frozen = Frozen::new(&mount).unwrap();
    fs::write(mount.with_extension("frozen"), b"").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn cleanup_leaves_nothing_whatever_state_it_finds() {
    let site = Site::new();
    let data = site.volume("pvc-1", 32, true, Content::Empty).unwrap();
    site.volume("pvc-2", 32, false, Content::Empty).unwrap();
    site.volumes.snapshot("pvc-1", "snap-1").unwrap();
    // A pod's bind mount elsewhere, a frozen file system, a half-made image, a deleted image.
    let pod = tempfile::tempdir().unwrap();
    rustix::mount::mount_bind(&data, pod.path()).unwrap();
    ioctl::freeze(&File::open(site.volumes.layout.mount("pvc-2")).unwrap()).unwrap();
    fs::write(site.dir.join("volumes/pvc-3.new"), b"half").unwrap();
    fs::remove_file(site.volumes.layout.volume("pvc-1")).unwrap();
    let live = site.volumes.layout.lock_provisioner(Duration::from_secs(1)).unwrap();
    assert!(leftovers(&site.dir).unwrap().len() >= 4);
    drop(live);
    cleanup(&site.dir).unwrap();
    assert!(!site.dir.exists());
    assert_eq!(leftovers(&site.dir).unwrap(), Vec::<PathBuf>::new());
    assert!(files(pod.path()).unwrap().is_empty(), "the pod's mount is gone too");
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!all.contains(site.dir.to_str().unwrap()) && !all.contains(pod.path().to_str().unwrap()));
    cleanup(&site.dir).unwrap();
}

#[test]
fn a_half_made_volume_is_made_anew_and_a_deleted_one_is_gone() {
    let site = Site::new();
    fs::write(site.dir.join("volumes/pvc-1.new"), b"half").unwrap();
    fs::write(site.volumes.layout.key("pvc-1"), b"half a key").unwrap();
    let data = site.volume("pvc-1", 32, true, Content::Empty).unwrap();
    write_synced(&data.join("kept"), MARKER);
    // Made again with the same request: the same volume.
    let again = site.volume("pvc-1", 32, true, Content::Empty).unwrap();
    assert_eq!(fs::read(again.join("kept")).unwrap(), MARKER);
    site.volumes.delete("pvc-1").unwrap();
    site.volumes.delete("pvc-1").unwrap();
    for sub in super::layout::SUBDIRS {
        assert_eq!(files(&site.dir.join(sub)).unwrap(), Vec::<PathBuf>::new(), "{sub}");
    }
    assert!(site.volume("../../etc", 32, true, Content::Empty).is_err());
}
