//! Reads a directory for the library's archiver, and keeps count.
//!
//! The archiver drops every entry that fails, with a line in the log and exit code 0. So nothing
//! fails towards it: what cannot be read is counted here, and what was handed over is counted too
//! and compared with the tree that came out of it ([`Tally`]).

mod node;
mod reader;

use super::error::SourceError;
use super::fsx::{self, Kind};
use super::progress::Progress;
use crate::api::dispatch::RootMetadata;
use crate::api::report::MoverReason;
pub use node::{Identity, STAGING_PREFIX, UNFINISHED, root_metadata};
use reader::SourceFile;
use rustic_core::repofile::Node;
use rustic_core::{ReadSource, ReadSourceEntry, RusticResult};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// mkfs makes it in the root of every ext file system; it is nobody's data.
pub const LOST_AND_FOUND: &str = "lost+found";

/// Entries handed to the archiver. They must come out again.
#[derive(Debug, Default)]
pub struct Tally {
    /// Entries of all types, without the root.
    pub entries: AtomicU64,
}

/// A source directory.
pub struct Source {
    root: Arc<OwnedFd>,
    path: PathBuf,
    name: OsString,
    identity: Identity,
    progress: Arc<Progress>,
    tally: Arc<Tally>,
    threshold: Option<fsx::Time>,
}

impl Source {
    /// Opens `path`; `name` is what the directory is called in the snapshot.
    ///
    /// # Errors
    /// [`SourceError::Missing`].
    pub fn open(
        path: &Path,
        name: &OsStr,
        identity: Identity,
        progress: Arc<Progress>,
    ) -> Result<Self, SourceError> {
        let root =
            fsx::open_root(path).map_err(|source| SourceError::Missing { path: path.to_owned(), source })?;
        Ok(Self {
            root: Arc::new(root),
            path: path.to_owned(),
            name: name.to_owned(),
            identity,
            progress,
            tally: Arc::default(),
            threshold: None,
        })
    }

    /// Files touched at or after `threshold` are read again even if they look unchanged: within
    /// the granularity of time stamps a second change may hide behind the first.
    pub fn reread_from(&mut self, threshold: Option<fsx::Time>) {
        self.threshold = threshold;
    }

    /// Metadata of the root directory.
    ///
    /// # Errors
    /// [`SourceError::Missing`].
    pub fn root_metadata(&self) -> Result<RootMetadata, SourceError> {
        root_metadata(&self.root).map_err(|source| SourceError::Missing { path: self.path.clone(), source })
    }

    /// Entries handed over so far.
    #[must_use]
    pub fn entries_read(&self) -> u64 {
        self.tally.entries.load(Ordering::SeqCst)
    }
}

impl ReadSource for Source {
    type Open = SourceFile;
    type Iter = Walk;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Walk {
        Walk {
            context: Context {
                identity: self.identity,
                progress: self.progress.clone(),
                tally: self.tally.clone(),
                threshold: self.threshold,
            },
            stack: Vec::new(),
            start: Some((self.root.clone(), self.path.clone(), self.name.clone())),
        }
    }
}

struct Context {
    identity: Identity,
    progress: Arc<Progress>,
    tally: Arc<Tally>,
    threshold: Option<fsx::Time>,
}

impl Context {
    fn is_fresh(&self, meta: &fsx::Meta) -> bool {
        self.threshold.is_some_and(|threshold| match self.identity {
            Identity::Inode => meta.mtime >= threshold || meta.ctime >= threshold,
            // In a clone made file by file every ctime is new and says nothing.
            Identity::Mtime => meta.mtime >= threshold,
        })
    }
}

struct Frame {
    dir: Arc<OwnedFd>,
    path: PathBuf,
    names: std::vec::IntoIter<OsString>,
}

/// Depth first, each directory before its entries, names in the order of their bytes (which the
/// format asks for and the search in the parent relies on).
pub struct Walk {
    context: Context,
    stack: Vec<Frame>,
    start: Option<(Arc<OwnedFd>, PathBuf, OsString)>,
}

type Entry = ReadSourceEntry<SourceFile>;

impl Walk {
    fn miss(&self, path: &Path, what: &str, error: &std::io::Error) {
        let why = format_args!("{what}: {error}");
        self.context.progress.miss(MoverReason::Unreadable, path, why);
    }

    fn push(&mut self, dir: Arc<OwnedFd>, path: PathBuf) {
        let root = self.stack.is_empty();
        match fsx::list(&*dir) {
            Ok(mut names) => {
                if root {
                    names.retain(|name| name != LOST_AND_FOUND && name != UNFINISHED);
                }
                self.stack.push(Frame { dir, path, names: names.into_iter() });
            }
            Err(error) => self.miss(&path, "cannot be listed", &error),
        }
    }

    fn root(&mut self, dir: Arc<OwnedFd>, path: PathBuf, name: &OsStr) -> Option<Entry> {
        let node = match fsx::stat(&*dir, OsStr::new("")) {
            Ok(meta) => node::build(&*dir, OsStr::new(""), name, &meta, &self.context.identity),
            Err(error) => Err(error),
        };
        self.push(dir, path.clone());
        match node {
            Ok(node) => Some(ReadSourceEntry { path, node, open: None }),
            Err(error) => {
                self.miss(&path, "cannot be read", &error);
                None
            }
        }
    }

    fn entry(&mut self, dir: &Arc<OwnedFd>, path: PathBuf, name: OsString) -> Option<Entry> {
        let built = fsx::stat(&**dir, &name).and_then(|meta| {
            let node = node::build(&**dir, &name, &name, &meta, &self.context.identity)?;
            Ok((meta, node))
        });
        let (meta, mut node) = match built {
            Ok(built) => built,
            Err(error) => {
                self.miss(&path, "cannot be read", &error);
                return None;
            }
        };
        let mut open = None;
        match meta.kind {
            // What is mounted there is another volume's data.
            Kind::Dir if meta.mount_root => {}
            Kind::Dir => match fsx::open_dir(&**dir, &name) {
                Ok(fd) => self.push(Arc::new(fd), path.clone()),
                Err(error) => self.miss(&path, "cannot be opened", &error),
            },
            Kind::File => {
                if self.context.is_fresh(&meta) {
                    node::force_reread(&mut node);
                }
                let (dir, progress) = (dir.clone(), self.context.progress.clone());
                open = Some(SourceFile::new(dir, name, path.clone(), meta, progress));
            }
            _ => {}
        }
        self.tally(&node);
        Some(ReadSourceEntry { path, node, open })
    }

    fn tally(&self, node: &Node) {
        self.context.tally.entries.fetch_add(1, Ordering::SeqCst);
        self.context.progress.files.fetch_add(1, Ordering::Relaxed);
        // The size is counted here and not while reading: unchanged files are not read.
        self.context.progress.bytes.fetch_add(node.meta.size, Ordering::Relaxed);
    }
}

impl Iterator for Walk {
    type Item = RusticResult<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((dir, path, name)) = self.start.take()
            && let Some(entry) = self.root(dir, path, &name)
        {
            return Some(Ok(entry));
        }
        loop {
            if self.context.progress.stopped() {
                return None;
            }
            let frame = self.stack.last_mut()?;
            let Some(name) = frame.names.next() else {
                self.stack.pop();
                continue;
            };
            let (dir, path) = (frame.dir.clone(), frame.path.join(&name));
            if let Some(entry) = self.entry(&dir, path, name) {
                return Some(Ok(entry));
            }
        }
    }
}
