//! Directories that hold everything a file system can, and changes to them.

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

pub fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let at = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn chown(path: &Path, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn mknod(path: &Path, kind: FileType, major: u32, minor: u32) {
    let dev = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), dev).unwrap();
}

/// A POSIX ACL as the kernel keeps it: owner rw, user 1234 rwx, group r, mask rwx, others none.
pub fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 7, 1234), (4, 4, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)];
    let mut raw = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        raw.extend(tag.to_le_bytes());
        raw.extend(permissions.to_le_bytes());
        raw.extend(id.to_le_bytes());
    }
    raw
}

/// The whole zoo, under `root`.
pub fn zoo(root: &Path) {
    fs::create_dir_all(root.join("deep/er/and/deeper")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    let write = |name: &str, content: &[u8]| fs::write(root.join(name), content).unwrap();
    write("plain", b"hello\n");
    write("zero", b"");
    write("deep/er/and/deeper/leaf", &vec![7; 100_000]);
    for mode in [0o000, 0o4755, 0o2755, 0o1644, 0o7777, 0o400] {
        let name = format!("mode-{mode:o}");
        write(&name, name.as_bytes());
        chmod(&root.join(&name), mode);
    }
    write("big-owner", b"x");
    chown(&root.join("big-owner"), 4_000_000_000, 3_999_999_999);
    for (name, seconds, nanos) in
        [("old", -86_400 * 365 * 20, 123_456_789), ("before", -1, 1), ("future", 4_102_444_800, 999_999_999)]
    {
        write(name, name.as_bytes());
        set_mtime(&root.join(name), seconds, nanos);
    }
    links(root);
    specials(root);
    odd_names(root);
    attributes(root);
    sparse(&root.join("sparse"));
    chmod(&root.join("empty"), 0o2570);
    chown(&root.join("empty"), 1000, 2000);
    set_mtime(&root.join("deep"), 1_000_000_000, 5);
    chmod(root, 0o2775);
    chown(root, 0, 4321);
    set_mtime(root, 1_234_567_890, 987_654_321);
}

fn links(root: &Path) {
    symlink("plain", root.join("link")).unwrap();
    symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    symlink("..", root.join("deep/up")).unwrap();
    symlink(std::ffi::OsStr::from_bytes(b"odd\xff\xfetarget"), root.join("raw-link")).unwrap();
    set_mtime(&root.join("link"), 1_111_111_111, 222_222_222);
    chown(&root.join("link"), 55, 66);
    fs::write(root.join("one"), b"linked thrice").unwrap();
    fs::hard_link(root.join("one"), root.join("two")).unwrap();
    fs::hard_link(root.join("one"), root.join("deep/three")).unwrap();
    fs::write(root.join("pair-a"), b"linked thrice").unwrap();
    fs::hard_link(root.join("pair-a"), root.join("pair-b")).unwrap();
    fs::hard_link(root.join("link"), root.join("link-too")).unwrap();
}

fn specials(root: &Path) {
    mknod(&root.join("fifo"), FileType::Fifo, 0, 0);
    mknod(&root.join("char"), FileType::CharacterDevice, 1, 3);
    mknod(&root.join("block"), FileType::BlockDevice, 259, 1_000_000);
    mknod(&root.join("socket"), FileType::Socket, 0, 0);
    fs::hard_link(root.join("fifo"), root.join("fifo-too")).unwrap();
    chmod(&root.join("fifo"), 0o604);
}

fn odd_names(root: &Path) {
    let dir = root.join("names");
    fs::create_dir(&dir).unwrap();
    let names: [&[u8]; 14] = [
        b"non\xffutf8",
        b"\xc3(",
        b"new\nline",
        b"tab\t",
        b"back\\slash",
        b"\\x41",
        b"quote\"s'`",
        b" ",
        b"-rf",
        b"*",
        b"\x01\x7f",
        "ß→💾".as_bytes(),
        b"...",
        b".hidden",
    ];
    for name in names {
        fs::write(dir.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(dir.join("n".repeat(255)), b"long").unwrap();
    fs::create_dir(dir.join(std::ffi::OsStr::from_bytes(b"dir\xf0\x28"))).unwrap();
    // `a` with its entries sorts before `a.b` by components, after it by plain bytes of paths.
    fs::create_dir(dir.join("a")).unwrap();
    fs::write(dir.join("a/z"), b"").unwrap();
    fs::write(dir.join("a.b"), b"").unwrap();
}

fn attributes(root: &Path) {
    let path = root.join("attributes");
    fs::write(&path, b"#!/bin/sh\n").unwrap();
    chown(&path, 7, 8);
    xattr::set(&path, "user.empty", b"").unwrap();
    xattr::set(&path, "user.binary", &[0, 255, 10, 0]).unwrap();
    xattr::set(&path, "user.large", &vec![42; 2000]).unwrap();
    xattr::set(&path, "trusted.embassy", b"t").unwrap();
    // cap_net_bind_service=ep, as file capabilities are kept.
    let capability = hex::decode("0100000200040000000000000000000000000000").unwrap();
    xattr::set(&path, "security.capability", &capability).unwrap();
    xattr::set(&path, "system.posix_acl_access", &acl()).unwrap();
    xattr::set(root.join("dangling"), "trusted.on-a-link", b"l").unwrap();
    let dir = root.join("acl-dir");
    fs::create_dir(&dir).unwrap();
    xattr::set(&dir, "system.posix_acl_default", &acl()).unwrap();
    fs::write(dir.join("inherits"), b"").unwrap();
}

fn sparse(path: &Path) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::create(path).unwrap();
    file.set_len(40 << 20).unwrap();
    file.write_all_at(b"in the middle of nothing", 20 << 20).unwrap();
}

/// A random tree, the same for the same seed.
pub fn random(root: &Path, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    fs::create_dir_all(root).unwrap();
    for _ in 0..60 {
        change(root, &mut rng);
    }
}

/// `count` random changes: new, gone, moved, rewritten, linked, unlinked, of another type.
pub fn mutate(root: &Path, seed: u64, count: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..count {
        change(root, &mut rng);
    }
}

fn entries(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        todo.extend(names.iter().filter(|p| p.symlink_metadata().unwrap().is_dir()).cloned());
        found.extend(names);
    }
    found.sort();
    found
}

fn pick<'a>(all: &'a [PathBuf], rng: &mut StdRng) -> Option<&'a PathBuf> {
    (!all.is_empty()).then(|| &all[rng.gen_range(0..all.len())])
}

fn content(rng: &mut StdRng) -> Vec<u8> {
    let length = match rng.gen_range(0..10) {
        0 => 0,
        1..=7 => rng.gen_range(1..5_000),
        _ => rng.gen_range(500_000..3_000_000),
    };
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn change(root: &Path, rng: &mut StdRng) {
    let all = entries(root);
    let dirs: Vec<_> = all.iter().filter(|p| p.symlink_metadata().unwrap().is_dir()).cloned().collect();
    let files: Vec<_> = all.iter().filter(|p| p.symlink_metadata().unwrap().is_file()).cloned().collect();
    let dir = pick(&dirs, rng).filter(|_| rng.gen_bool(0.7)).cloned().unwrap_or(root.to_owned());
    // Few names, so that different types meet in the same place.
    let new = dir.join(format!("n{}", rng.gen_range(0..12)));
    let free = new.symlink_metadata().is_err();
    match rng.gen_range(0..12) {
        0..=2 if free => fs::write(&new, content(rng)).unwrap(),
        3 if free => fs::create_dir(&new).unwrap(),
        4 if free => symlink(format!("n{}", rng.gen_range(0..9)), &new).unwrap(),
        5 if free => {
            if let Some(file) = pick(&files, rng) {
                fs::hard_link(file, &new).unwrap();
            }
        }
        6 => remove(pick(&all, rng)),
        7 => {
            if let Some(file) = pick(&files, rng) {
                rewrite(file, rng);
            }
        }
        8 => {
            if let Some(path) = pick(&all, rng).filter(|p| !p.symlink_metadata().unwrap().is_symlink()) {
                chmod(path, rng.gen_range(0..0o10000));
                let value = rng.r#gen::<[u8; 4]>();
                if path.is_file() || path.is_dir() {
                    xattr::set(path, "user.n", &value).unwrap();
                }
            }
        }
        9 => {
            if let Some(path) = pick(&all, rng) {
                chown(path, rng.gen_range(0..5), rng.gen_range(0..5));
                set_mtime(
                    path,
                    rng.gen_range(-1_000_000_000..2_000_000_000),
                    rng.gen_range(0..1_000_000_000),
                );
            }
        }
        10 if free => {
            if let Some(path) = pick(&all, rng).filter(|p| !new.starts_with(p)) {
                fs::rename(path, &new).unwrap();
            }
        }
        _ if free => mknod(&new, FileType::Fifo, 0, 0),
        _ => {}
    }
}

fn remove(path: Option<&PathBuf>) {
    if let Some(path) = path {
        match path.symlink_metadata().unwrap().is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
}

fn rewrite(file: &Path, rng: &mut StdRng) {
    let mut bytes = fs::read(file).unwrap();
    let at = rng.gen_range(0..=bytes.len());
    match rng.gen_range(0..3) {
        0 => bytes = content(rng),
        1 => drop(bytes.splice(at..at, content(rng))),
        _ => bytes.truncate(at),
    }
    fs::write(file, bytes).unwrap();
}
