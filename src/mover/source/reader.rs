//! Reads one file and notices what the archiver does not.

use crate::api::report::MoverReason;
use crate::mover::fsx::{self, Kind, Meta};
use crate::mover::progress::Progress;
use rustic_core::{ErrorKind, ReadSourceOpen, RusticError, RusticResult};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that may be opened later; keeps its directory open until then.
pub struct SourceFile {
    dir: Arc<OwnedFd>,
    name: OsString,
    path: PathBuf,
    meta: Meta,
    progress: Arc<Progress>,
}

impl SourceFile {
    pub(super) fn new(
        dir: Arc<OwnedFd>,
        name: OsString,
        path: PathBuf,
        meta: Meta,
        progress: Arc<Progress>,
    ) -> Self {
        Self { dir, name, path, meta, progress }
    }

    fn open_file(&self) -> io::Result<File> {
        let file = fsx::open_file(&*self.dir, &self.name)?;
        let now = fsx::stat(&file, OsStr::new(""))?;
        if now.kind != Kind::File || now.ino != self.meta.ino {
            return Err(io::Error::other("it was replaced while the backup ran"));
        }
        Ok(File::from(file))
    }
}

impl ReadSourceOpen for SourceFile {
    type Reader = CheckedReader;

    fn open(self) -> RusticResult<CheckedReader> {
        match self.open_file() {
            Ok(file) => Ok(CheckedReader { file, left: self.meta.size, source: self, told: false }),
            Err(error) => {
                unreadable(&self.progress, &self.path, &error);
                let doing = "a file cannot be opened";
                Err(RusticError::with_source(ErrorKind::InputOutput, doing, error))
            }
        }
    }
}

fn unreadable(progress: &Progress, path: &Path, error: &io::Error) {
    progress.miss(MoverReason::Unreadable, path, format_args!("cannot be read: {error}"));
}

/// Reads as many bytes as the file had when it was seen, and at the end looks whether it is still
/// that file. One that grows all the time (a log) is thereby cut at a moment, and counted.
pub struct CheckedReader {
    file: File,
    left: u64,
    source: SourceFile,
    told: bool,
}

impl CheckedReader {
    fn finish(&mut self) {
        if self.told {
            return;
        }
        self.told = true;
        let now = match fsx::stat(&self.file, OsStr::new("")) {
            Ok(now) => now,
            Err(error) => return unreadable(&self.source.progress, &self.source.path, &error),
        };
        let before = &self.source.meta;
        if self.left > 0 || now.size != before.size || now.mtime != before.mtime {
            let why = "it changed while it was read; what is stored of it may be torn";
            self.source.progress.miss(MoverReason::Unreadable, &self.source.path, why);
        }
    }
}

impl Read for CheckedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.source.progress.stopped() {
            return Err(io::Error::other("the run was stopped"));
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let result = buffer.get_mut(..most).map_or(Ok(0), |part| self.file.read(part));
        match result {
            Ok(0) if most > 0 || self.left == 0 => {
                if !buffer.is_empty() {
                    self.finish();
                }
                Ok(0)
            }
            Ok(count) => {
                self.left = self.left.saturating_sub(count as u64);
                Ok(count)
            }
            // The chunker tries again by itself.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.told = true;
                unreadable(&self.source.progress, &self.source.path, &error);
                Err(error)
            }
        }
    }
}
