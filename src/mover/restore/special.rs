//! Symbolic links, FIFOs, sockets and device nodes.

use super::{Engine, Item};
use crate::mover::fsx::{self, Kind};
use rustix::fs::{AtFlags, FileType, Mode};
use std::ffi::{OsStr, OsString};
use std::io;

impl Engine<'_> {
    /// Restores one of them. `may_share`: the entry that is there may have other names.
    pub(super) fn special(&self, item: &Item<'_>, may_share: bool) {
        match self.try_special(item, may_share) {
            Ok(()) => self.progress.done(0),
            Err(error) => self.failed(&item.path, "cannot be made", error),
        }
    }

    fn try_special(&self, item: &Item<'_>, may_share: bool) -> io::Result<()> {
        let there = fsx::stat_if_there(&*item.dir.fd, &item.name)?;
        if let Some(meta) = &there {
            if meta.kind == Kind::Dir {
                self.remove(&item.dir.fd, &item.name, &item.path);
            } else if meta.kind == item.wanted.kind
                && (meta.nlink == 1 || may_share)
                && self.is_same_special(item, meta.rdev)?
            {
                self.apply(item, &item.name);
                return Ok(());
            }
        }
        let staged = self.staging_name();
        make(item, &staged)?;
        self.apply(item, &staged);
        self.put(item, &staged)
    }

    fn is_same_special(&self, item: &Item<'_>, rdev: u64) -> io::Result<bool> {
        Ok(match item.wanted.kind {
            Kind::Symlink => Some(fsx::read_link(&*item.dir.fd, &item.name)?) == item.wanted.link,
            Kind::Block | Kind::Char => rdev == item.wanted.rdev,
            _ => true,
        })
    }

    /// Sets the metadata of `name`, counting what could not be set as a miss of the item.
    pub(super) fn apply(&self, item: &Item<'_>, name: &OsStr) {
        item.wanted.apply(&*item.dir.fd, name, &mut |what, error| {
            self.progress.miss_io(&item.path, what, error);
        });
    }
}

fn make(item: &Item<'_>, staged: &OsString) -> io::Result<()> {
    let dir = &*item.dir.fd;
    let kind = match item.wanted.kind {
        Kind::Symlink => {
            let target = item.wanted.link.as_deref().unwrap_or_default();
            return Ok(rustix::fs::symlinkat(target, dir, staged)?);
        }
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::Block => FileType::BlockDevice,
        Kind::Char => FileType::CharacterDevice,
        Kind::File | Kind::Dir => return Err(io::Error::other("not a special file")),
    };
    let result = rustix::fs::mknodat(dir, staged, kind, Mode::from_raw_mode(0o600), item.wanted.rdev);
    if result.is_err() {
        let _ = rustix::fs::unlinkat(dir, staged, AtFlags::empty());
    }
    Ok(result?)
}
