//! Regular files: reuse what is there, fetch the rest, rename into place.

use super::{Engine, Item};
use crate::mover::contents::{self, Check};
use crate::mover::error::RepoError;
use crate::mover::fsx::{self, Kind, Meta};
use crate::mover::repo;
use rustic_core::BlobId;
use rustic_core::repofile::BlobType;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Files from this size on are flushed by themselves, so that the flush of the whole file system
/// at the end has no gigabytes to wait for. The smaller ones are covered by that and by the mark
/// in the root: an fsync for each would take ten times as long and prove nothing more.
const FLUSH: u64 = 1 << 20;

/// Why a file was not restored.
enum Failure {
    Target(&'static str, io::Error),
    Repository(RepoError),
    Stopped,
}

impl From<RepoError> for Failure {
    fn from(error: RepoError) -> Self {
        Self::Repository(error)
    }
}

impl Engine<'_> {
    /// Restores one regular file. `may_share`: the inode that is there may have other names.
    pub(super) fn file(&self, item: &Item<'_>, may_share: bool) {
        if !self.go_on() {
            return;
        }
        match self.try_file(item, may_share) {
            Ok(size) => self.progress.done(size),
            Err(Failure::Target(what, error)) => self.failed(&item.path, what, error),
            Err(Failure::Repository(error)) => self.unreadable(&item.path, error),
            Err(Failure::Stopped) => {}
        }
    }

    fn try_file(&self, item: &Item<'_>, may_share: bool) -> Result<u64, Failure> {
        let dir = &*item.dir.fd;
        let size = contents::size(self.repository, &item.node)?;
        let there =
            fsx::stat_if_there(dir, &item.name).map_err(|error| Failure::Target("cannot be read", error))?;
        let there = match there {
            Some(meta) if meta.kind == Kind::Dir => {
                self.remove(dir, &item.name, &item.path);
                None
            }
            other => other.filter(|meta| meta.kind == Kind::File),
        };
        if let Some(meta) = &there
            && self.looks_unchanged(item, meta, size, may_share)
            && (!self.options.verify || self.is_unchanged(item)?)
        {
            self.apply(item, &item.name);
            return Ok(size);
        }
        self.build(item, size, there.is_some())?;
        Ok(size)
    }

    fn looks_unchanged(&self, item: &Item<'_>, meta: &Meta, size: u64, may_share: bool) -> bool {
        meta.size == size && Some(meta.mtime) == item.wanted.mtime && (meta.nlink == 1 || may_share)
    }

    fn is_unchanged(&self, item: &Item<'_>) -> Result<bool, Failure> {
        // Unreadable counts as changed: it is built anew.
        let Ok(file) = fsx::open_file(&*item.dir.fd, &item.name) else { return Ok(false) };
        let check = contents::check(self.repository, &item.node, &File::from(file), self.progress)?;
        Ok(matches!(check, Check::Equal))
    }

    fn build(&self, item: &Item<'_>, size: u64, reuse: bool) -> Result<(), Failure> {
        let dir = &*item.dir.fd;
        let staged = self.staging_name();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, &staged, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| Failure::Target("cannot be made", error.into()))?;
        let result = self.fill(item, File::from(file), size, reuse, &staged);
        if result.is_err() {
            // A failure here leaves a name that the next run removes.
            let _ = rustix::fs::unlinkat(dir, &staged, AtFlags::empty());
        }
        result
    }

    fn fill(
        &self,
        item: &Item<'_>,
        file: File,
        size: u64,
        reuse: bool,
        staged: &OsStr,
    ) -> Result<(), Failure> {
        let failed = |what| move |error| Failure::Target(what, error);
        let old = (reuse.then(|| fsx::open_file(&*item.dir.fd, &item.name).ok()).flatten()).map(File::from);
        // The whole length first: blocks of zeros are then left out and stay holes.
        file.set_len(size).map_err(failed("cannot get its length"))?;
        let mut offset = 0;
        let mut buffer = Vec::new();
        for id in item.node.content.iter().flatten() {
            if !self.go_on() {
                return Err(Failure::Stopped);
            }
            let length = repo::blob_length(self.repository, id)?;
            let reused = old.as_ref().is_some_and(|old| {
                contents::read_block(old, offset, length, &mut buffer).is_ok() && repo::hash(&buffer) == **id
            });
            let fetched;
            let block: &[u8] = if reused {
                &buffer
            } else {
                fetched = repo::blob(self.repository, BlobType::Data, &BlobId::from(*id))?;
                &fetched
            };
            if block.iter().any(|byte| *byte != 0) {
                file.write_all_at(block, offset).map_err(failed("cannot be written"))?;
            }
            let written = if reused { 0 } else { block.len() as u64 };
            self.progress.written.fetch_add(written, std::sync::atomic::Ordering::Relaxed);
            offset += block.len() as u64;
        }
        self.apply(item, staged);
        if size >= FLUSH {
            file.sync_all().map_err(failed("cannot be flushed"))?;
        }
        self.put(item, staged).map_err(failed("cannot be renamed into place"))
    }
}
