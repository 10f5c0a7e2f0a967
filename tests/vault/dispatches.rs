//! Commits: what makes a dispatch *received*, and what does not.

use super::harness::*;
use data_embassy::api::dispatch::{
    CHAIN_START, DispatchHeader, RootMetadata, SignedHeader, VolumeEntry, dispatch_name,
};
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub struct Site {
    pub dir: tempfile::TempDir,
    pub flags: Vec<String>,
    pub snapshot: String,
    pub pack: String,
    pub index: String,
}

pub fn home_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

impl Site {
    /// A vault with a repository `register` that has one snapshot, pack and index.
    pub fn start() -> (Self, Vault) {
        let dir = temp();
        std::fs::write(dir.path().join("home.pub"), hex::encode(home_key().verifying_key().as_bytes()))
            .unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let flags = flags(&[
            "--insecure-standalone",
            "--data",
            &path("data"),
            "--pair",
            "pair-1",
            "--signing-key",
            &path("home.pub"),
            "--epoch-file",
            &path("epochs.json"),
        ]);
        let mut site =
            Self { dir, flags, snapshot: String::new(), pack: String::new(), index: String::new() };
        site.ledger(Some(4));
        let vault = Vault::start(&site.flags);
        create(&vault, "register");
        site.snapshot = stored(&vault, "register", "snapshots", b"a snapshot");
        site.pack = stored(&vault, "register", "data", b"a pack");
        site.index = stored(&vault, "register", "index", b"an index");
        (site, vault)
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn ledger(&self, epoch: Option<u64>) {
        let path = self.dir.path().join("epochs.json");
        match epoch {
            Some(epoch) => {
                std::fs::write(path, format!(r#"{{"register":{{"epoch":{epoch}}}}}"#)).unwrap();
            }
            None => std::fs::remove_file(path).unwrap(),
        }
    }

    pub fn header(&self, sequence: u64, previous: &str) -> DispatchHeader {
        DispatchHeader {
            version: 1,
            pair: "pair-1".into(),
            data_embassy: "register".into(),
            sequence,
            epoch: 4,
            previous: previous.into(),
            cut_time: Timestamp::now(),
            volumes: vec![VolumeEntry {
                name: "data".into(),
                snapshot: self.snapshot.clone(),
                tree: "0".repeat(64),
                root: RootMetadata::default(),
                files: 1,
                bytes: 1,
            }],
            manifests: None,
            packs: vec![self.pack.clone()],
            indexes: vec![self.index.clone()],
        }
    }
}

pub fn sign(header: DispatchHeader) -> SignedHeader {
    SignedHeader::sign(header, &home_key()).unwrap()
}

pub fn send(vault: &Vault, sequence: u64, bytes: &[u8]) -> (u16, serde_json::Value) {
    let url = vault.url(&format!("register/dispatches/{}", dispatch_name(sequence)));
    let response = client().post(url).body(bytes.to_vec()).send().unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().unwrap()).unwrap_or_default())
}

fn commit(vault: &Vault, signed: &SignedHeader) -> (u16, String) {
    let (status, answer) = send(vault, signed.header.sequence, signed.bytes());
    (status, answer["reason"].as_str().unwrap_or_default().to_owned())
}

fn refused(reason: &str) -> (u16, String) {
    (409, reason.to_owned())
}

fn ok() -> (u16, String) {
    (200, String::new())
}

fn status(vault: &Vault) -> serde_json::Value {
    client().get(vault.url("register/status")).send().unwrap().json().unwrap()
}

fn dispatches(data: &Path) -> usize {
    files(&data.join("register/dispatches")).len()
}

#[test]
fn a_chain_grows_and_survives_a_restart() {
    let (site, mut vault) = Site::start();
    assert_eq!(status(&vault)["lastSequence"], serde_json::Value::Null);
    let first = sign(site.header(1, CHAIN_START));
    assert_eq!(commit(&vault, &first), ok());
    assert_eq!(commit(&vault, &first), ok(), "the same bytes again: a retry after a lost reply");
    let second = sign(site.header(2, &first.hash()));
    assert_eq!(commit(&vault, &second), ok());
    assert_eq!(
        (&status(&vault)["lastSequence"], &status(&vault)["lastHeader"]),
        (&2.into(), &second.hash().into())
    );
    vault.kill();
    let vault = Vault::start(&site.flags);
    assert_eq!(status(&vault)["lastHeader"], second.hash());
    assert_eq!(commit(&vault, &second), ok());
    assert_eq!(commit(&vault, &first), refused("ChainBroken"), "an old one");
    assert_eq!(commit(&vault, &sign(site.header(3, &second.hash()))), ok());
    let read = client().get(vault.url(&format!("register/dispatches/{}", dispatch_name(2)))).send().unwrap();
    assert_eq!(read.bytes().unwrap(), second.bytes());
    let list = client().get(vault.url("register/dispatches/")).send().unwrap();
    assert_eq!(list.json::<Vec<String>>().unwrap(), [1, 2, 3].map(dispatch_name));
    assert_no_leftovers(&site.data());
}

#[test]
fn what_does_not_follow_is_refused() {
    let (site, vault) = Site::start();
    assert_eq!(commit(&vault, &sign(site.header(2, CHAIN_START))), refused("ChainBroken"), "a gap");
    assert_eq!(commit(&vault, &sign(site.header(0, CHAIN_START))), refused("ChainBroken"));
    assert_eq!(commit(&vault, &sign(site.header(1, &"1".repeat(64)))), refused("ChainBroken"));
    let first = sign(site.header(1, CHAIN_START));
    assert_eq!(commit(&vault, &first), ok());
    let mut fork = site.header(1, CHAIN_START);
    fork.volumes[0].files = 2;
    assert_eq!(commit(&vault, &sign(fork)), refused("ChainBroken"), "another first");
    assert_eq!(
        commit(&vault, &sign(site.header(2, CHAIN_START))),
        refused("ChainBroken"),
        "a forked lineage"
    );
    let mut early = site.header(2, &first.hash());
    early.cut_time = first.header.cut_time - SignedDuration::from_secs(1);
    assert_eq!(commit(&vault, &sign(early)), refused("CutTimeRegressed"));
    let mut late = site.header(2, &first.hash());
    late.cut_time = Timestamp::now() + SignedDuration::from_mins(6);
    assert_eq!(commit(&vault, &sign(late)), refused("CutTimeInFuture"));
    assert_eq!(dispatches(&site.data()), 1);
    assert_no_leftovers(&site.data());
}

#[test]
fn forged_misdirected_and_incomplete_headers_are_refused() {
    let (site, vault) = Site::start();
    let good = sign(site.header(1, CHAIN_START));
    let forged = SignedHeader::sign(site.header(1, CHAIN_START), &SigningKey::from_bytes(&[8; 32])).unwrap();
    assert_eq!(commit(&vault, &forged), refused("BadSignature"));
    let altered = String::from_utf8(good.bytes().to_vec()).unwrap().replace("\"epoch\":4", "\"epoch\":6");
    let (code, answer) = send(&vault, 1, altered.as_bytes());
    assert_eq!((code, &answer["reason"]), (409, &"BadSignature".into()));
    let (code, answer) = send(&vault, 1, b"not a header");
    assert_eq!((code, &answer["reason"]), (409, &"Malformed".into()));
    let (code, answer) = send(&vault, 2, good.bytes());
    assert_eq!((code, &answer["reason"]), (409, &"WrongName".into()));
    let with = |change: &dyn Fn(&mut DispatchHeader)| {
        let mut header = site.header(1, CHAIN_START);
        change(&mut header);
        commit(&vault, &sign(header))
    };
    assert_eq!(with(&|header| header.pair = "pair-2".into()), refused("WrongPair"));
    assert_eq!(with(&|header| header.data_embassy = "other".into()), refused("WrongRepository"));
    assert_eq!(with(&|header| header.packs.push(id(b"missing"))), refused("Incomplete"));
    assert_eq!(with(&|header| header.packs.push("../../secret".into())), refused("Incomplete"));
    assert_eq!(with(&|header| header.indexes.push(id(b"missing"))), refused("Incomplete"));
    assert_eq!(with(&|header| header.volumes[0].snapshot = id(b"missing")), refused("Incomplete"));
    let manifests = data_embassy::api::dispatch::ManifestsEntry { snapshot: id(b"missing"), objects: 1 };
    assert_eq!(with(&|header| header.manifests = Some(manifests.clone())), refused("Incomplete"));
    assert_eq!(dispatches(&site.data()), 0);
    assert_eq!(commit(&vault, &good), ok());
}

#[test]
fn only_the_ledgers_epoch_commits() {
    let (site, mut vault) = Site::start();
    let first = sign(site.header(1, CHAIN_START));
    site.ledger(None);
    assert_eq!(commit(&vault, &first), (503, "EpochUnknown".into()), "hold while the ledger is unknown");
    std::fs::write(site.dir.path().join("epochs.json"), r#"{"another":{"epoch":4}}"#).unwrap();
    assert_eq!(commit(&vault, &first), (503, "EpochUnknown".into()), "no writ of that name");
    site.ledger(Some(2));
    assert_eq!(commit(&vault, &first), refused("EpochRefused"), "home is ahead of the ledger");
    site.ledger(Some(4));
    assert_eq!(commit(&vault, &first), ok());
    site.ledger(Some(5));
    let second = sign(site.header(2, &first.hash()));
    assert_eq!(commit(&vault, &second), refused("EpochRefused"), "the embassy has the writ");
    assert_eq!(commit(&vault, &first), ok(), "what was committed stays so");
    let mut odd = site.header(2, &first.hash());
    odd.epoch = 5;
    assert_eq!(commit(&vault, &sign(odd)), refused("EpochRefused"), "no dispatch has an odd epoch");
    // The ledger goes back, as from a backup of its API server: never again, restarts included.
    site.ledger(Some(4));
    assert_eq!(commit(&vault, &second), refused("LedgerBehind"));
    vault.kill();
    let vault = Vault::start(&site.flags);
    assert_eq!(commit(&vault, &second), refused("LedgerBehind"));
    site.ledger(Some(6));
    let mut next = site.header(2, &first.hash());
    next.epoch = 6;
    assert_eq!(commit(&vault, &sign(next)), ok());
    assert_eq!(dispatches(&site.data()), 2);
}

#[test]
fn of_many_commits_at_once_one_wins() {
    let (site, vault) = Site::start();
    let rivals: Vec<SignedHeader> = (0..8)
        .map(|n| {
            let mut header = site.header(1, CHAIN_START);
            header.volumes[0].files = n;
            sign(header)
        })
        .collect();
    let results: Vec<(u16, String)> = std::thread::scope(|scope| {
        let threads: Vec<_> = rivals.iter().map(|rival| scope.spawn(|| commit(&vault, rival))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| **result == ok()).count(), 1, "{results:?}");
    assert!(results.iter().all(|result| *result == ok() || *result == refused("ChainBroken")), "{results:?}");
    assert_eq!(dispatches(&site.data()), 1);
}

/// The embassy claims the writ, then asks for the status: no commit of the old epoch may land after
/// that answer, not even one whose client has hung up meanwhile.
#[test]
fn the_status_waits_for_a_commit_in_flight() {
    let (site, vault) = Site::start();
    let ledger = site.dir.path().join("epochs.json");
    std::fs::remove_file(&ledger).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&ledger).status().unwrap();
    assert!(made.success());
    let first = sign(site.header(1, CHAIN_START));
    let mut stream = TcpStream::connect(vault.address).unwrap();
    let (path, length) = (dispatch_name(1), first.bytes().len());
    write!(
        stream,
        "POST /register/dispatches/{path} HTTP/1.1\r\nhost: v\r\ncontent-length: {length}\r\n\r\n"
    )
    .unwrap();
    stream.write_all(first.bytes()).unwrap();
    // Opens only once the commit reads the ledger.
    let mut answer = std::fs::OpenOptions::new().write(true).open(&ledger).unwrap();
    drop(stream);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| status(&vault));
        let early = Instant::now() + Duration::from_millis(500);
        while Instant::now() < early {
            assert!(!asked.is_finished(), "{:?} while a commit was in flight", asked.join());
            std::thread::sleep(Duration::from_millis(10));
        }
        answer.write_all(br#"{"register":{"epoch":4}}"#).unwrap();
        drop(answer);
        assert_eq!(asked.join().unwrap()["lastHeader"], first.hash());
    });
}

#[test]
fn a_damaged_chain_takes_no_more() {
    let (site, mut vault) = Site::start();
    let first = sign(site.header(1, CHAIN_START));
    assert_eq!(commit(&vault, &first), ok());
    vault.kill();
    let path = site.data().join("register/dispatches").join(dispatch_name(1));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "what a broken disk left\n").unwrap();
    let vault = Vault::start(&site.flags);
    assert_eq!(send(&vault, 2, sign(site.header(2, &first.hash())).bytes()).0, 500);
    let read = client().get(vault.url(&format!("register/data/{}", site.pack))).send().unwrap();
    assert_eq!(read.bytes().unwrap(), &b"a pack"[..], "reading goes on");
}
