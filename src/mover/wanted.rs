//! What an entry shall be, whether it is that, and making it that.

use super::fsx::{self, Kind, Meta, Time, Xattrs};
use super::gomode;
use crate::api::dispatch::RootMetadata;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustic_core::repofile::{Node, NodeType};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

/// Everything about an entry that a restore brings back, except its contents and its names.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The kind.
    pub kind: Kind,
    /// `st_mode & 0o7777`; means nothing for a symbolic link.
    pub mode: u32,
    /// Owner, `None` if the snapshot does not say.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Modification time.
    pub mtime: Option<Time>,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Target of a symbolic link.
    pub link: Option<OsString>,
    /// Number of a device node.
    pub rdev: u64,
}

fn time(stamp: jiff::Timestamp) -> Time {
    let nanos = stamp.as_nanosecond();
    let seconds = nanos.div_euclid(1_000_000_000);
    // Both fit: the library's range is the years -9999..9999.
    (i64::try_from(seconds).unwrap_or_default(), nanos.rem_euclid(1_000_000_000) as u32)
}

impl Wanted {
    /// From a node of a snapshot.
    #[must_use]
    pub fn from_node(node: &Node) -> Self {
        let (kind, rdev) = match &node.node_type {
            NodeType::File => (Kind::File, 0),
            NodeType::Dir => (Kind::Dir, 0),
            NodeType::Symlink { .. } => (Kind::Symlink, 0),
            NodeType::Dev { device } => (Kind::Block, *device),
            NodeType::Chardev { device } => (Kind::Char, *device),
            NodeType::Fifo => (Kind::Fifo, 0),
            NodeType::Socket => (Kind::Socket, 0),
        };
        let link = (kind == Kind::Symlink).then(|| node.node_type.to_link().as_os_str().to_owned());
        let xattrs = node.meta.extended_attributes.iter().map(|attribute| {
            (attribute.name.clone().into_bytes(), attribute.value.clone().unwrap_or_default())
        });
        Self {
            kind,
            // restic leaves a mode of 0 out.
            mode: gomode::from_go(node.meta.mode.unwrap_or(0)),
            uid: node.meta.uid,
            gid: node.meta.gid,
            mtime: node.meta.mtime.map(time),
            xattrs: xattrs.collect(),
            link,
            rdev,
        }
    }

    /// From a header's metadata of a volume's root.
    #[must_use]
    pub fn from_root(root: &RootMetadata) -> Self {
        let xattrs = root
            .xattrs
            .iter()
            .map(|(name, value)| (name.clone().into_bytes(), STANDARD.decode(value).unwrap_or_default()));
        Self {
            kind: Kind::Dir,
            mode: root.mode & 0o7777,
            uid: Some(root.uid),
            gid: Some(root.gid),
            mtime: Some((root.mtime_sec, root.mtime_nsec)),
            xattrs: xattrs.collect(),
            link: None,
            rdev: 0,
        }
    }

    /// For a volume's root as it stands here. A root that belongs to the node, made writable for us by
    /// fsGroup alone, has a time that only its owner may set: it is the mount's and not the data's.
    /// Mode, owner and group still count.
    #[must_use]
    pub fn of_root(mut self, found: &Meta) -> Self {
        let us = rustix::process::geteuid();
        if !us.is_root() && us.as_raw() != found.uid {
            self.mtime = None;
        }
        self
    }

    /// What `name` in `dir` is otherwise than wanted; empty if nothing. Contents are not looked at.
    ///
    /// # Errors
    /// If the entry cannot be read.
    pub fn differences(&self, dir: impl AsFd, name: &OsStr, found: &Meta) -> io::Result<Vec<String>> {
        if found.kind != self.kind {
            return Ok(vec![format!("type is {:?}, wanted {:?}", found.kind, self.kind)]);
        }
        let mut out = Vec::new();
        let mut differ = |what: &str, found: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
            out.push(format!("{what} is {found:?}, wanted {wanted:?}"));
        };
        if self.kind != Kind::Symlink && found.mode != self.mode {
            differ("mode", &format_args!("{:o}", found.mode), &format_args!("{:o}", self.mode));
        }
        if self.uid.is_some_and(|uid| uid != found.uid) {
            differ("owner", &found.uid, &self.uid);
        }
        if self.gid.is_some_and(|gid| gid != found.gid) {
            differ("group", &found.gid, &self.gid);
        }
        if self.mtime.is_some_and(|mtime| mtime != found.mtime) {
            differ("modification time", &found.mtime, &self.mtime);
        }
        if matches!(self.kind, Kind::Block | Kind::Char) && found.rdev != self.rdev {
            differ("device number", &found.rdev, &self.rdev);
        }
        if let Some(link) = &self.link {
            let target = fsx::read_link(&dir, name)?;
            if target != *link {
                differ("link target", &target, link);
            }
        }
        let xattrs = fsx::xattrs(&dir, name)?;
        if xattrs != self.xattrs {
            let show = |all: &Xattrs| {
                all.iter()
                    .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.len()))
                    .collect::<Vec<_>>()
            };
            differ("extended attributes (name, length)", &show(&xattrs), &show(&self.xattrs));
        }
        Ok(out)
    }

    /// Gives `name` in `dir` (the empty name: `dir` itself) the wanted metadata, touching only what
    /// differs, and tells `failed` what could not be set.
    ///
    /// The order matters: chown clears suid and file capabilities, an ACL changes the mode, and
    /// everything may change the times.
    pub fn apply(&self, dir: impl AsFd, name: &OsStr, failed: &mut dyn FnMut(&str, &io::Error)) {
        let mut check = |what: &str, result: io::Result<()>| {
            if let Err(error) = result {
                failed(what, &error);
            }
        };
        check("the owner cannot be set", self.apply_owner(&dir, name));
        let xattrs = self.apply_xattrs(&dir, name);
        check("an extended attribute cannot be set", xattrs);
        if self.kind != Kind::Symlink {
            check("the mode cannot be set", self.apply_mode(&dir, name));
        }
        check("the times cannot be set", self.apply_mtime(&dir, name));
    }

    fn apply_owner(&self, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
        let now = fsx::stat(&dir, name)?;
        let uid = self.uid.filter(|uid| *uid != now.uid).map(Uid::from_raw);
        let gid = self.gid.filter(|gid| *gid != now.gid).map(Gid::from_raw);
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        rustix::fs::chownat(dir, name, uid, gid, flags).map_err(|error| {
            let (uid, gid) = (self.uid.unwrap_or(now.uid), self.gid.unwrap_or(now.gid));
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{uid}:{gid}: {error}"))
        })
    }

    fn apply_xattrs(&self, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
        let have = fsx::xattrs(&dir, name)?;
        if have == self.xattrs {
            return Ok(());
        }
        let path = fsx::proc_path(&dir, name);
        let mut first = Ok(());
        let mut keep = |key: &[u8], result: rustix::io::Result<()>| {
            if let (Ok(()), Err(error)) = (&first, result) {
                let (key, error) = (String::from_utf8_lossy(key), io::Error::from(error));
                first = Err(io::Error::new(error.kind(), format!("{key}: {error}")));
            }
        };
        for key in have.keys().filter(|key| !self.xattrs.contains_key(*key)) {
            keep(key, rustix::fs::lremovexattr(&path, OsStr::from_bytes(key)));
        }
        for (key, value) in self.xattrs.iter().filter(|(key, value)| have.get(*key) != Some(value)) {
            let set = rustix::fs::lsetxattr(&path, OsStr::from_bytes(key), value, XattrFlags::empty());
            keep(key, set);
        }
        first
    }

    fn apply_mode(&self, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
        if fsx::stat(&dir, name)?.mode == self.mode {
            return Ok(());
        }
        chmod(dir, name, self.mode)
    }

    fn apply_mtime(&self, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
        let Some((seconds, nanos)) = self.mtime else { return Ok(()) };
        if fsx::stat(&dir, name)?.mtime == (seconds, nanos) {
            return Ok(());
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
        };
        if name.is_empty() {
            return Ok(rustix::fs::futimens(dir, &times)?);
        }
        Ok(rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// chmod that never follows a link: there is no such call, so the inode is pinned by `O_PATH`.
///
/// # Errors
/// As chmod(2); ELOOP-like errors if `name` is a symbolic link.
pub fn chmod(dir: impl AsFd, name: &OsStr, mode: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(mode);
    if name.is_empty() {
        return Ok(rustix::fs::fchmod(dir, mode)?);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pinned = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if fsx::stat(&pinned, OsStr::new(""))?.kind == Kind::Symlink {
        return Err(io::Error::other("it is a symbolic link"));
    }
    use std::os::fd::AsRawFd as _;
    Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", pinned.as_raw_fd()), mode)?)
}
