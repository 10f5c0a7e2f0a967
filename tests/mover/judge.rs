//! The independent comparer: describes a directory as text, line by line, by the plainest calls.

use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Path (escaped) to description.
pub type Picture = BTreeMap<String, String>;

/// Describes everything below `root`, and `root` itself as `.`.
pub fn picture(root: &Path) -> Picture {
    let mut inodes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut found = Picture::new();
    look(root, root, &mut found, &mut inodes);
    for names in inodes.values().filter(|names| names.len() > 1) {
        for name in names {
            found.get_mut(name).unwrap().push_str(&format!(" group={}", names[0]));
        }
    }
    found
}

fn look(root: &Path, path: &Path, found: &mut Picture, inodes: &mut BTreeMap<u64, Vec<String>>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let name = match path.strip_prefix(root).unwrap() {
        below if below.as_os_str().is_empty() => ".".to_owned(),
        below => below.as_os_str().as_bytes().escape_ascii().to_string(),
    };
    let mut line =
        format!("uid={} gid={} mtime={}.{:09}", meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
    if kind.is_symlink() {
        line.push_str(&format!(" symlink={:?}", fs::read_link(path).unwrap()));
    } else {
        line.push_str(&format!(" mode={:o}", meta.mode()));
    }
    if kind.is_file() {
        let content = fs::read(path).unwrap();
        line.push_str(&format!(" size={} sha256={}", content.len(), hex::encode(Sha256::digest(&content))));
    }
    if kind.is_block_device() || kind.is_char_device() {
        line.push_str(&format!(" rdev={}", meta.rdev()));
    }
    let mut keys: Vec<_> = xattr::list(path).unwrap().collect();
    keys.sort();
    for key in keys {
        let value = xattr::get(path, &key).unwrap().unwrap();
        let short = hex::encode(&Sha256::digest(&value)[..4]);
        line.push_str(&format!(" {key:?}={}:{short}", value.len()));
    }
    if !kind.is_dir() {
        line.push_str(&format!(" nlink={}", meta.nlink()));
        inodes.entry(meta.ino()).or_default().push(name.clone());
    }
    found.insert(name, line);
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            look(root, &path.join(name), found, inodes);
        }
    }
}

/// Fails with every difference.
#[track_caller]
pub fn same(wanted: &Path, found: &Path) {
    assert_same(&picture(wanted), &picture(found));
}

#[track_caller]
pub fn assert_same(wanted: &Picture, found: &Picture) {
    let mut text = String::new();
    for (name, line) in wanted {
        match found.get(name) {
            Some(other) if other == line => {}
            Some(other) => text.push_str(&format!("{name}\n  wanted {line}\n  found  {other}\n")),
            None => text.push_str(&format!("{name}\n  is missing\n")),
        }
    }
    for name in found.keys().filter(|name| !wanted.contains_key(*name)) {
        text.push_str(&format!("{name}\n  is too much\n"));
    }
    assert!(text.is_empty(), "{text}");
}

/// Without the entries that `skip` names, and without `.`.
pub fn without(mut picture: Picture, skip: impl Fn(&str) -> bool) -> Picture {
    picture.retain(|name, _| name != "." && !skip(name));
    picture
}

/// 512-byte blocks that a file takes.
pub fn blocks(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks()
}
