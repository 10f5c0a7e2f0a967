//! Dispatches on a local repository: the chain, its refusals, the proof.

use crate::bench::{Bench, Ended};
use crate::{corpus, judge};
use data_embassy::api::dispatch::{SignedHeader, dispatch_name};
use data_embassy::api::report::MoverReason;
use ed25519_dalek::SigningKey;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub const SEED: [u8; 32] = [7; 32];

/// A bench with home's keys and two volumes.
pub struct Home {
    pub bench: Bench,
    pub register: PathBuf,
    pub ledger: PathBuf,
}

impl Home {
    pub fn new() -> Self {
        let bench = Bench::new();
        let key = SigningKey::from_bytes(&SEED);
        fs::write(bench.path("seed"), format!("{}\n", hex::encode(SEED))).unwrap();
        fs::write(bench.path("public"), hex::encode(key.verifying_key().as_bytes())).unwrap();
        let (register, ledger) = (bench.make("home/register"), bench.make("home/ledger"));
        Self { bench, register, ledger }
    }

    pub fn backup_args(&self, cut: &str) -> Vec<String> {
        let volume = |name: &str, path: &Path| format!("--volume={name}={}", path.display());
        [
            "--dispatch".to_owned(),
            "--pair=pair-1".to_owned(),
            "--data-embassy=register".to_owned(),
            volume("register", &self.register),
            volume("ledger", &self.ledger),
            "--epoch=2".to_owned(),
            format!("--cut-time={cut}"),
            format!("--signing-key-file={}", self.bench.path("seed").display()),
        ]
        .to_vec()
    }

    pub fn backup(&self, cut: &str) -> Ended {
        self.bench.run("backup", self.backup_args(cut))
    }

    pub fn embassy_args(&self, dispatch: &str) -> Vec<String> {
        let volume =
            |name: &str| format!("--volume={name}={}", self.bench.make(&format!("embassy/{name}")).display());
        [
            format!("--dispatch={dispatch}"),
            "--pair=pair-1".to_owned(),
            "--data-embassy=register".to_owned(),
            volume("register"),
            volume("ledger"),
            format!("--verify-key-file={}", self.bench.path("public").display()),
        ]
        .to_vec()
    }

    pub fn restore(&self, dispatch: &str) -> Ended {
        self.bench.run("restore", self.embassy_args(dispatch))
    }

    pub fn verify(&self, dispatch: &str) -> Ended {
        self.bench.run("verify", self.embassy_args(dispatch))
    }

    #[track_caller]
    pub fn arrived(&self) {
        judge::same(&self.register, &self.bench.path("embassy/register"));
        judge::same(&self.ledger, &self.bench.path("embassy/ledger"));
    }

    pub fn header_path(&self, sequence: u64) -> PathBuf {
        self.bench.path("repo/dispatches").join(dispatch_name(sequence))
    }

    pub fn header(&self, sequence: u64) -> SignedHeader {
        let key = SigningKey::from_bytes(&SEED).verifying_key();
        SignedHeader::verify(&fs::read(self.header_path(sequence)).unwrap(), &key).unwrap()
    }
}

fn gzip(path: &Path, text: &str) {
    let file = fs::File::create(path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap();
}

#[test]
fn dispatches_follow_each_other_and_arrive_proven() {
    let home = Home::new();
    corpus::zoo(&home.register);
    corpus::random(&home.ledger, 5);
    fs::create_dir(home.ledger.join("lost+found")).unwrap();
    let manifests = home.bench.path("manifests.json.gz");
    let objects = r#"[{"kind":"ConfigMap","metadata":{"name":"a"}},{"kind":"Service"}]"#;
    gzip(&manifests, objects);
    let mut args = home.backup_args("2026-11-23T10:00:00Z");
    args.push(format!("--manifests={}", manifests.display()));
    let first = home.bench.run("backup", args).ok().report;
    assert_eq!((first.sequence, first.epoch), (Some(1), Some(2)));
    fs::remove_dir(home.ledger.join("lost+found")).unwrap();
    let out = home.bench.path("manifests.json");
    let mut args = home.embassy_args("latest");
    args.push(format!("--manifests-out={}", out.display()));
    let restored = home.bench.run("restore", args).ok().report;
    assert!(restored.proven);
    assert_eq!(restored.header_hash, first.header_hash);
    assert_eq!(fs::read_to_string(out).unwrap(), objects);
    corpus::set_mtime(&home.ledger, 1_500_000_000, 7);
    corpus::mutate(&home.register, 6, 30);
    home.backup("2026-11-23T10:05:00Z").ok();
    let (one, two) = (home.header(1), home.header(2));
    assert_eq!(two.header.previous, one.hash());
    assert!(one.header.manifests.is_some() && two.header.manifests.is_none());
    for id in two.header.packs.iter() {
        assert!(home.bench.path("repo/data").join(&id[..2]).join(id).exists());
    }
    for id in two.header.indexes.iter() {
        assert!(home.bench.path("repo/index").join(id).exists());
    }
    corpus::mutate(&home.bench.path("embassy/register"), 7, 30);
    home.verify("2").fails_with(MoverReason::NotProven);
    assert!(home.restore("latest").ok().report.proven);
    home.arrived();
    assert!(home.verify("2").ok().report.proven);
    // Back to the first one, and the stock restic agrees with all of it.
    assert!(home.restore("1").ok().report.proven);
    home.bench.restic(&["check", "--read-data"]);
}

#[test]
fn the_same_cut_again_is_the_same_dispatch_and_an_older_one_is_refused() {
    let home = Home::new();
    fs::write(home.register.join("f"), b"1").unwrap();
    let first = home.backup("2026-11-23T10:00:00Z").ok().report;
    let again = home.backup("2026-11-23T10:00:00Z").ok().report;
    assert_eq!(first.header_hash, again.header_hash);
    home.backup("2026-11-23T09:59:59Z").fails_with(MoverReason::HeaderRefused);
    assert_eq!(home.bench.stored("dispatches").len(), 1);
}

#[test]
fn an_empty_or_missing_volume_commits_nothing() {
    let home = Home::new();
    home.backup("2026-11-23T10:00:00Z").ok();
    fs::write(home.register.join("f"), b"1").unwrap();
    home.backup("2026-11-23T10:01:00Z").ok();
    fs::remove_file(home.register.join("f")).unwrap();
    fs::create_dir(home.register.join("lost+found")).unwrap();
    home.backup("2026-11-23T10:02:00Z").fails_with(MoverReason::SourceEmpty);
    let mut args = home.backup_args("2026-11-23T10:02:00Z");
    args.push("--allow-empty=register".to_owned());
    home.bench.run("backup", args).ok();
    fs::remove_dir_all(&home.register).unwrap();
    home.backup("2026-11-23T10:03:00Z").fails_with(MoverReason::SourceMissing);
    fs::write(&home.register, b"a file").unwrap();
    home.backup("2026-11-23T10:03:00Z").fails_with(MoverReason::SourceMissing);
    assert_eq!(home.bench.stored("dispatches").len(), 3);
}

#[test]
fn a_forged_foreign_or_old_header_is_refused() {
    let home = Home::new();
    fs::write(home.register.join("f"), b"1").unwrap();
    home.backup("2026-11-23T10:00:00Z").ok();
    let good = fs::read(home.header_path(1)).unwrap();
    let mut header = home.header(1).header;
    // Altered by one byte.
    let mut bad = good.clone();
    let at = bad.iter().position(|byte| *byte == b'2').unwrap();
    bad[at] = b'4';
    fs::write(home.header_path(1), &bad).unwrap();
    home.restore("latest").fails_with(MoverReason::HeaderRefused);
    // Signed by another.
    let forged = SignedHeader::sign(header.clone(), &SigningKey::from_bytes(&[1; 32])).unwrap();
    fs::write(home.header_path(1), forged.bytes()).unwrap();
    home.restore("latest").fails_with(MoverReason::HeaderRefused);
    home.backup("2026-11-23T10:01:00Z").fails_with(MoverReason::HeaderRefused);
    // Signed by home, for another pair.
    header.pair = "p2".to_owned();
    let foreign = SignedHeader::sign(header, &SigningKey::from_bytes(&SEED)).unwrap();
    fs::write(home.header_path(1), foreign.bytes()).unwrap();
    home.restore("latest").fails_with(MoverReason::HeaderRefused);
    // Good, but under another sequence.
    fs::write(home.header_path(1), &good).unwrap();
    fs::write(home.header_path(2), &good).unwrap();
    home.restore("latest").fails_with(MoverReason::HeaderRefused);
    fs::remove_file(home.header_path(2)).unwrap();
    // Good, but older than what is known to exist.
    let mut args = home.embassy_args("latest");
    args.push("--min-sequence=2".to_owned());
    home.bench.run("restore", args).fails_with(MoverReason::HeaderRefused);
    home.restore("7").fails_with(MoverReason::RepositoryMissing);
    assert!(fs::read_dir(home.bench.path("embassy/register")).unwrap().next().is_none());
    home.restore("1").ok();
    home.arrived();
}

#[test]
fn a_flipped_bit_in_any_pack_is_never_a_success() {
    let home = Home::new();
    corpus::random(&home.register, 21);
    home.backup("2026-11-23T10:00:00Z").ok();
    for pack in home.bench.stored("data") {
        let good = fs::read(&pack).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 3;
        bad[middle] ^= 1;
        fs::write(&pack, &bad).unwrap();
        let _ = fs::remove_dir_all(home.bench.path("embassy"));
        home.restore("latest").fails_with(MoverReason::RepositoryDamaged);
        let args = ["--read-data-percent=100"];
        home.bench.run("verify", args).fails_with(MoverReason::RepositoryDamaged);
        // Into an empty target again: what is there already needs nothing from the pack.
        fs::write(&pack, &good[..good.len() / 4]).unwrap();
        let _ = fs::remove_dir_all(home.bench.path("embassy"));
        home.restore("latest").fails_with(MoverReason::RepositoryDamaged);
        fs::remove_file(&pack).unwrap();
        let _ = fs::remove_dir_all(home.bench.path("embassy"));
        home.restore("latest").fails_with(MoverReason::RepositoryDamaged);
        fs::write(&pack, &good).unwrap();
    }
    home.restore("latest").ok();
    home.arrived();
}

#[test]
fn a_target_that_is_changed_behind_our_back_is_not_proven() {
    let home = Home::new();
    fs::write(home.register.join("f"), b"right").unwrap();
    home.backup("2026-11-23T10:00:00Z").ok();
    home.restore("latest").ok();
    let file = home.bench.path("embassy/register/f");
    let meta = fs::metadata(&file).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    fs::write(&file, b"wrong").unwrap();
    corpus::set_mtime(&file, meta.mtime(), meta.mtime_nsec());
    home.verify("latest").fails_with(MoverReason::NotProven);
    // It looks unchanged, so the restore leaves it alone; the proof does not let it pass.
    home.restore("latest").fails_with(MoverReason::NotProven);
    let mut args = home.embassy_args("latest");
    args.push("--verify".to_owned());
    home.bench.run("restore", args).ok();
    home.arrived();
}

/// As in a cluster: the mover has no privilege, and the volumes' roots belong to the node, made
/// writable for the mover's group by fsGroup. Their time is not ours to set; all the rest is proven.
#[test]
fn a_root_that_belongs_to_the_node_is_proven_without_its_time() {
    let home = Home::new();
    corpus::chmod(home.bench.dir.path(), 0o777);
    corpus::chmod(&home.bench.path("password"), 0o644);
    corpus::chmod(&home.bench.path("public"), 0o644);
    for (at, volume) in [&home.register, &home.ledger].into_iter().enumerate() {
        fs::write(volume.join("entry"), format!("{at}")).unwrap();
        std::os::unix::fs::lchown(volume.join("entry"), Some(65_534), Some(65_534)).unwrap();
        std::os::unix::fs::chown(volume, Some(0), Some(65_534)).unwrap();
        corpus::chmod(volume, 0o2775);
    }
    home.backup("2026-11-23T10:00:00Z").ok();
    let owner =
        std::process::Command::new("chown").args(["-R", "65534"]).arg(home.bench.path("repo")).status();
    assert!(owner.unwrap().success());
    let args = home.embassy_args("latest");
    for volume in ["register", "ledger"] {
        let root = home.bench.path("embassy").join(volume);
        std::os::unix::fs::chown(&root, Some(0), Some(65_534)).unwrap();
        corpus::chmod(&root, 0o2775);
    }
    let run = |verb: &str| {
        let mut command = home.bench.command(verb);
        command.args(&args).arg("--json").arg("--termination-log").arg(home.bench.path("termination"));
        home.bench.finish(&mut crate::fidelity::as_nobody(&command))
    };
    assert!(run("restore").ok().report.proven);
    // Another mode of the root is still no equal copy.
    corpus::chmod(&home.bench.path("embassy/ledger"), 0o2777);
    run("verify").fails_with(MoverReason::NotProven);
}

/// The volumes of a dispatch have one time: "the latest" of them would be chance.
#[test]
fn the_latest_snapshot_of_a_dispatch_is_refused() {
    let home = Home::new();
    fs::write(home.register.join("entry"), "1").unwrap();
    fs::write(home.ledger.join("entry"), "2").unwrap();
    home.backup("2026-11-23T10:00:00Z").ok();
    let target = home.bench.make("target");
    fs::write(target.join("mine"), "3").unwrap();
    let ended = home.bench.restore(&target);
    assert_ne!(ended.code, Some(0), "{}", ended.stdout);
    assert!(ended.stderr.contains("several have that time"), "{}", ended.stderr);
    assert!(target.join("mine").exists(), "the target was touched");
}

/// Anyone with home's certificate can add files. None of them may keep a committed dispatch from
/// being restored.
#[test]
fn junk_that_a_client_added_spoils_no_dispatch() {
    let home = Home::new();
    corpus::random(&home.register, 22);
    home.backup("2026-11-23T10:00:00Z").ok();
    for kind in ["index", "keys", "snapshots"] {
        for junk in ["junk", "{}", "", "0"] {
            let name = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(junk));
            fs::write(home.bench.path("repo").join(kind).join(name), junk).unwrap();
        }
    }
    assert!(home.restore("latest").ok().report.proven);
    home.arrived();
}

/// The host of the embassy holds the password under custody `Entrusted`: it can encrypt, not sign.
#[test]
fn another_file_under_an_old_name_is_refused() {
    let home = Home::new();
    fs::write(home.register.join("entry"), "1").unwrap();
    let manifests = home.bench.path("manifests.json.gz");
    gzip(&manifests, r#"[{"kind":"ConfigMap","metadata":{"name":"a"}}]"#);
    let mut args = home.backup_args("2026-11-23T10:00:00Z");
    args.push(format!("--manifests={}", manifests.display()));
    home.bench.run("backup", args).ok();
    let first = home.header(1).header.manifests.unwrap().snapshot;
    fs::write(home.register.join("entry"), "2").unwrap();
    gzip(&manifests, r#"[{"kind":"ConfigMap","metadata":{"name":"forged"}}]"#);
    let mut args = home.backup_args("2026-11-23T10:05:00Z");
    args.push(format!("--manifests={}", manifests.display()));
    home.bench.run("backup", args).ok();
    let second = home.header(2).header.manifests.unwrap().snapshot;
    // A snapshot that decrypts well, under the name of another.
    let snapshots = home.bench.path("repo/snapshots");
    fs::copy(snapshots.join(second), snapshots.join(first)).unwrap();
    let mut args = home.embassy_args("1");
    args.push(format!("--manifests-out={}", home.bench.path("manifests.json").display()));
    home.bench.run("restore", args).fails_with(MoverReason::RepositoryDamaged);
    assert!(!home.bench.path("manifests.json").exists(), "forged manifests were handed over");
}
