//! A tree or a target that wants out.

use crate::bench::Bench;
use crate::{corpus, judge};
use data_embassy::api::report::MoverReason;
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustic_core::{
    BackupOptions, Credentials, ReadSource, ReadSourceEntry, Repository, RepositoryBackends,
    RepositoryOptions, RusticResult, SnapshotOptions,
};
use std::ffi::OsStr;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

struct Evil(&'static str);

impl ReadSource for Evil {
    type Open = Cursor<Vec<u8>>;
    type Iter = std::vec::IntoIter<RusticResult<ReadSourceEntry<Cursor<Vec<u8>>>>>;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Self::Iter {
        let meta = Metadata { mode: Some(0o644), ..Metadata::default() };
        let node = Node::new_node(OsStr::new(self.0), NodeType::File, meta);
        let path = PathBuf::from("/volume/harmless");
        vec![Ok(ReadSourceEntry { path, node, open: Some(Cursor::new(b"evil".to_vec())) })].into_iter()
    }
}

/// Puts a snapshot with a file of that name into the bench's repository.
fn plant(bench: &Bench, name: &'static str) {
    let backend = data_embassy::mover::backend::local::LocalBackend::new(bench.path("repo"));
    let backends = RepositoryBackends::new(Arc::new(backend), None);
    let password = fs::read_to_string(bench.path("password")).unwrap();
    let repository = Repository::new(&RepositoryOptions::default().no_cache(true), &backends)
        .unwrap()
        .open(&Credentials::password(password.trim_end()))
        .unwrap()
        .to_indexed()
        .unwrap();
    let snapshot = SnapshotOptions::default().to_snapshot().unwrap();
    let paths = [PathBuf::from("/volume")];
    repository.archive(&BackupOptions::default().no_scan(true), &Evil(name), snapshot, &paths).unwrap();
}

#[test]
fn a_name_that_leads_out_is_refused() {
    for name in ["../escaped", "..", ".", "a/b", "/etc/escaped", ""] {
        let bench = Bench::new();
        bench.backup(&bench.make("empty")).ok();
        plant(&bench, name);
        let target = bench.make("deep/target");
        bench.restore(&target).fails_with(MoverReason::RepositoryDamaged);
        assert!(!bench.path("deep/escaped").exists(), "{name:?} escaped");
    }
}

#[test]
fn no_link_of_the_target_is_followed() {
    let bench = Bench::new();
    let source = bench.make("source");
    fs::create_dir(source.join("dir")).unwrap();
    fs::write(source.join("dir/file"), b"new").unwrap();
    fs::write(source.join("file"), b"new").unwrap();
    bench.backup(&source).ok();
    let (target, outside) = (bench.make("target"), bench.make("outside"));
    fs::write(outside.join("file"), b"old").unwrap();
    fs::write(outside.join("other"), b"old").unwrap();
    let before = judge::picture(&outside);
    symlink(&outside, target.join("dir")).unwrap();
    symlink(outside.join("file"), target.join("file")).unwrap();
    symlink(&outside, target.join("extra")).unwrap();
    bench.verify(&target).fails_with(MoverReason::NotProven);
    bench.restore(&target).ok();
    judge::same(&source, &target);
    judge::assert_same(&before, &judge::picture(&outside));
}

#[test]
fn every_type_makes_way_for_every_other() {
    let kinds = ["file", "dir", "link", "fifo", "char"];
    let make = |path: &std::path::Path, kind: &str| match kind {
        "file" => fs::write(path, b"f").unwrap(),
        "dir" => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), b"i").unwrap();
        }
        "link" => symlink("file-file", path).unwrap(),
        "fifo" => corpus::mknod(path, rustix::fs::FileType::Fifo, 0, 0),
        _ => corpus::mknod(path, rustix::fs::FileType::CharacterDevice, 1, 5),
    };
    let bench = Bench::new();
    let (source, target) = (bench.make("source"), bench.make("target"));
    for wanted in kinds {
        for there in kinds {
            make(&source.join(format!("{wanted}-{there}")), wanted);
            make(&target.join(format!("{wanted}-{there}")), there);
        }
    }
    bench.backup(&source).ok();
    bench.restore(&target).ok();
    judge::same(&source, &target);
}
