//! Removes what the snapshot does not have.

use super::{Engine, open_own_dir};
use crate::api::report::MoverReason;
use crate::mover::fsx::{self, Kind};
use rustix::fs::AtFlags;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

impl Engine<'_> {
    /// Removes `name`, with everything below it; what cannot be removed is counted.
    pub(super) fn remove(&self, dir: &OwnedFd, name: &OsStr, path: &Path) {
        let meta = match fsx::stat_if_there(dir, name) {
            Ok(Some(meta)) => meta,
            Ok(None) => return,
            Err(error) => return self.failed(path, "cannot be removed", error),
        };
        if meta.mount_root {
            let why = "a mount point is in the way; what is mounted there is not touched";
            return self.progress.miss(MoverReason::NotRestorable, path, why);
        }
        let result = match meta.kind {
            Kind::Dir => self.remove_dir(dir, name, path),
            _ => unlink(dir, name, AtFlags::empty()),
        };
        if let Err(error) = result {
            self.failed(path, "cannot be removed", error);
        }
    }

    fn remove_dir(&self, dir: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let inner = open_own_dir(dir, name)?;
        for entry in fsx::list(&inner)? {
            if !self.go_on() {
                return Ok(());
            }
            self.remove(&inner, &entry, &path.join(&entry));
        }
        unlink(dir, name, AtFlags::REMOVEDIR)
    }
}

fn unlink(dir: &OwnedFd, name: &OsStr, flags: AtFlags) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name, flags)?)
}
