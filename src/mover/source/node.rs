//! From an entry of the file system to a node of the restic format.

use crate::api::dispatch::RootMetadata;
use crate::mover::fsx::{self, Kind, Meta};
use crate::mover::gomode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustic_core::repofile::{Metadata, Node, NodeType};
use serde_json::json;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Prefix of the names under which a restore builds files before it renames them.
pub const STAGING_PREFIX: &str = ".embassy-restore-tmp-";
/// Name in a target's root that says: the last restore did not reach its end.
pub const UNFINISHED: &str = ".embassy-restore-unfinished";

/// What tells that a file did not change since the parent snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Identity {
    /// Size, mtime, ctime and inode: for live volumes and block-level snapshots, which keep them.
    Inode,
    /// Size and mtime: for clones made file by file, where ctime and inode are always new.
    Mtime,
}

/// Builds the node of `entry` in `dir`, called `name` in the snapshot.
///
/// Left out on purpose: access times (reading would change the tree), the device number (another
/// mount would), and names of users and groups (numbers are what the file system keeps).
pub fn build(
    dir: impl AsFd,
    entry: &OsStr,
    name: &OsStr,
    meta: &Meta,
    identity: &Identity,
) -> io::Result<Node> {
    let node_type = match meta.kind {
        Kind::File => NodeType::File,
        Kind::Dir => NodeType::Dir,
        Kind::Symlink => NodeType::from_link(Path::new(&fsx::read_link(&dir, entry)?)),
        Kind::Fifo => NodeType::Fifo,
        Kind::Socket => NodeType::Socket,
        Kind::Block => NodeType::Dev { device: meta.rdev },
        Kind::Char => NodeType::Chardev { device: meta.rdev },
    };
    let mtime = timestamp(meta.mtime)?;
    let linked = meta.kind != Kind::Dir && meta.nlink > 1;
    let mut out = Metadata {
        mode: Some(gomode::to_go(meta.kind, meta.mode)),
        mtime: Some(mtime),
        // restic sets it on restore, so it needs a value; the mtime is one that does not change.
        atime: Some(mtime),
        uid: Some(meta.uid),
        gid: Some(meta.gid),
        links: if meta.kind == Kind::Dir { 0 } else { meta.nlink },
        // One volume is one file system; restic tells hard links by device and inode.
        device_id: u64::from(linked),
        ..Metadata::default()
    };
    if meta.kind == Kind::File {
        out.size = meta.size;
    }
    match identity {
        Identity::Inode if meta.kind == Kind::File => {
            out.inode = meta.ino;
            out.ctime = Some(timestamp(meta.ctime)?);
        }
        // The library compares ctimes whenever both are there: give it one that stays.
        Identity::Mtime if meta.kind == Kind::File => out.ctime = Some(mtime),
        _ => {}
    }
    if linked {
        out.inode = meta.ino;
    }
    for (key, value) in fsx::xattrs(&dir, entry)? {
        let name = String::from_utf8(key)
            .map_err(|_| io::Error::other("an extended attribute's name is not UTF-8"))?;
        // The library does not export the attribute's type; its JSON is its stable form.
        let attribute = json!({"name": name, "value": STANDARD.encode(value)});
        out.extended_attributes.push(serde_json::from_value(attribute)?);
    }
    Ok(Node::new_node(name, node_type, out))
}

/// Makes the node differ from the one in the parent snapshot, so that the file is read.
///
/// The ctime is the one compared field whose stored value nobody needs: it becomes the present,
/// which no parent can hold.
pub fn force_reread(node: &mut Node) {
    node.meta.ctime = Some(Timestamp::now());
}

fn timestamp((seconds, nanos): fsx::Time) -> io::Result<Timestamp> {
    let nanos = i32::try_from(nanos).map_err(io::Error::other)?;
    Timestamp::new(seconds, nanos).map_err(|_| {
        io::Error::other(format!("its time, {seconds} s after 1970, has no place in the format"))
    })
}

/// Metadata of an open root directory, for the header.
///
/// # Errors
/// As stat(2) and listxattr(2).
pub fn root_metadata(root: impl AsFd) -> io::Result<RootMetadata> {
    let meta = fsx::stat(&root, OsStr::new(""))?;
    let mut xattrs = std::collections::BTreeMap::new();
    for (key, value) in fsx::xattrs(&root, OsStr::new(""))? {
        let name = String::from_utf8(key)
            .map_err(|_| io::Error::other("an extended attribute's name is not UTF-8"))?;
        xattrs.insert(name, STANDARD.encode(value));
    }
    Ok(RootMetadata {
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        mtime_sec: meta.mtime.0,
        mtime_nsec: meta.mtime.1,
        xattrs,
    })
}
