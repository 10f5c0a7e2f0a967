//! Hard links: names that share an inode in the snapshot share one here, and no others do.

use super::{Engine, Item};
use crate::mover::fsx::{self, Kind};
use rustic_core::repofile::Node;
use rustix::fs::AtFlags;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, PathBuf};

/// Device and inode of a node that has more than one name.
pub type Key = (u64, u64);

/// `None` for a node that shares its inode with no other.
#[must_use]
pub fn key(node: &Node) -> Option<Key> {
    let meta = &node.meta;
    (!node.is_dir() && meta.links > 1 && meta.inode != 0).then_some((meta.device_id, meta.inode))
}

/// Groups whose first name is restored.
#[derive(Default)]
pub struct Links {
    first: HashMap<Key, First>,
    /// Inodes of the target that belong to a group: no second group may take one over.
    claimed: HashSet<u64>,
}

#[derive(Clone)]
struct First {
    /// Path of the directory below the target.
    dir: PathBuf,
    name: OsString,
    inode: u64,
}

impl Engine<'_> {
    /// Restores one name of a group: the first as an entry of its own, the others as links to it.
    pub(super) fn linked(&self, item: &Item<'_>) {
        let Some(key) = key(&item.node) else { return };
        let first = self.links().first.get(&key).cloned();
        match first {
            None => self.first_of(key, item),
            Some(first) => match self.link_to(&first, item) {
                Ok(()) => self.progress.done(0),
                Err(error) => self.failed(&item.path, "the hard link cannot be made", error),
            },
        }
    }

    fn first_of(&self, key: Key, item: &Item<'_>) {
        let inode = || fsx::stat_if_there(&*item.dir.fd, &item.name).ok().flatten().map(|m| m.ino);
        let free = inode().is_some_and(|ino| !self.links().claimed.contains(&ino));
        if item.wanted.kind == Kind::File {
            self.file(item, free);
        } else {
            self.special(item, free);
        }
        // If it failed, the next name of the group tries to be the first.
        let dir = self.below_root(item);
        if let (Some(inode), Some(dir)) = (inode(), dir) {
            let mut links = self.links();
            links.claimed.insert(inode);
            links.first.insert(key, First { dir, name: item.name.clone(), inode });
        }
    }

    fn below_root(&self, item: &Item<'_>) -> Option<PathBuf> {
        let mut top = &item.dir;
        while let Some(parent) = &top.parent {
            top = parent;
        }
        item.dir.path.strip_prefix(&top.path).ok().map(PathBuf::from)
    }

    fn link_to(&self, first: &First, item: &Item<'_>) -> io::Result<()> {
        let there = fsx::stat_if_there(&*item.dir.fd, &item.name)?;
        match there {
            Some(meta) if meta.ino == first.inode && meta.kind != Kind::Dir => return Ok(()),
            Some(meta) if meta.kind == Kind::Dir => {
                self.remove(&item.dir.fd, &item.name, &item.path);
            }
            _ => {}
        }
        let from = self.open_below(first)?;
        let staged = self.staging_name();
        // Without AT_SYMLINK_FOLLOW a symbolic link itself gets the second name.
        rustix::fs::linkat(&from, &first.name, &*item.dir.fd, &staged, AtFlags::empty())?;
        self.put(item, &staged)
    }

    fn open_below(&self, first: &First) -> io::Result<OwnedFd> {
        let mut fd = self.root.try_clone()?;
        for part in first.dir.components() {
            if let Component::Normal(name) = part {
                fd = fsx::open_dir(&fd, name)?;
            }
        }
        Ok(fd)
    }

    /// Renames a finished temporary name onto its place, or removes it.
    pub(super) fn put(&self, item: &Item<'_>, staged: &std::ffi::OsStr) -> io::Result<()> {
        let dir = &*item.dir.fd;
        rustix::fs::renameat(dir, staged, dir, &item.name).map_err(|error| {
            // The next run would remove it too; the first error is the one to tell.
            let _ = rustix::fs::unlinkat(dir, staged, AtFlags::empty());
            io::Error::from(error)
        })
    }
}
