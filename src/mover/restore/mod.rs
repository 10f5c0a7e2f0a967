//! The restore engine: makes a directory equal to a tree of a snapshot.
//!
//! It starts from whatever is there. What is equal is left alone; everything else is built under a
//! temporary name beside its place and renamed onto it, so that a reader sees the old entry or the
//! new one. Killed at any moment, it is finished by the next run.
//!
//! The tree is not trusted: a name is one component below an open directory or it is refused, and
//! no symbolic link of the target is ever followed.

mod file;
mod links;
mod remove;
mod special;

use super::error::{MoverError, RepoError, RestoreError};
use super::fsx::{self, Kind};
use super::pool::{self, Pool};
use super::progress::Progress;
use super::repo::{self, Indexed};
use super::source::{LOST_AND_FOUND, STAGING_PREFIX, UNFINISHED};
use super::wanted::{Wanted, chmod};
use crate::api::report::MoverReason;
use links::Links;
use rustic_core::TreeId;
use rustic_core::repofile::Node;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Directory levels below which a tree is refused: each holds a descriptor and a stack frame.
const MAX_DEPTH: usize = 4096;

/// How to restore.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Remove names that the snapshot does not have.
    pub delete: bool,
    /// Read files that look unchanged, too, and mend what differs.
    pub verify: bool,
}

struct Engine<'a> {
    repository: &'a Indexed,
    progress: &'a Progress,
    options: Options,
    root: Arc<OwnedFd>,
    links: Mutex<Links>,
    staged: AtomicU64,
    /// Set by what no other entry could survive either: no space, no vault.
    aborted: AtomicBool,
    cause: Mutex<Option<MoverError>>,
}

/// A directory that is being restored. Its metadata are set when the last job in it and the last
/// directory below it are done, which is when the last reference goes.
struct OpenDir<'a> {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    wanted: Option<Wanted>,
    progress: &'a Progress,
    aborted: &'a AtomicBool,
    /// Dropped after this directory is finished, so parents come last.
    parent: Option<Arc<OpenDir<'a>>>,
}

impl Drop for OpenDir<'_> {
    fn drop(&mut self) {
        if self.progress.stopped() || self.aborted.load(Ordering::SeqCst) {
            return;
        }
        if let Some(wanted) = &self.wanted {
            wanted.apply(&*self.fd, OsStr::new(""), &mut |what, error| {
                self.progress.miss_io(&self.path, what, error);
            });
        }
    }
}

/// Makes `target` equal to `tree`; `root` is what the directory itself shall be.
///
/// Misses are counted in `progress` and leave a mark in the target, so that the next run does not
/// trust what looks unchanged.
///
/// # Errors
/// [`RestoreError::Target`], and whatever makes going on pointless.
pub fn restore(
    repository: &Indexed,
    tree: TreeId,
    root: Option<Wanted>,
    target: &Path,
    mut options: Options,
    progress: &Progress,
) -> Result<(), MoverError> {
    let unusable = |source| RestoreError::Target { path: target.to_owned(), source };
    let fd = Arc::new(fsx::open_root(target).map_err(unusable)?);
    if fsx::stat_if_there(&*fd, OsStr::new(UNFINISHED)).map_err(unusable)?.is_some() {
        // After a power cut a file may have its size and time but not its bytes.
        options.verify = true;
    }
    mark_unfinished(&fd).map_err(unusable)?;
    let root = match root {
        Some(root) => Some(root.of_root(&fsx::stat(&*fd, OsStr::new("")).map_err(unusable)?)),
        None => None,
    };
    let missed_before = progress.misses().total;
    let engine = Engine {
        repository,
        progress,
        options,
        root: fd.clone(),
        links: Mutex::default(),
        staged: AtomicU64::new(0),
        aborted: AtomicBool::new(false),
        cause: Mutex::new(None),
    };
    let top = Arc::new(OpenDir {
        fd: fd.clone(),
        path: target.to_owned(),
        wanted: root,
        progress,
        aborted: &engine.aborted,
        parent: None,
    });
    pool::run(|pool| engine.directory(&pool, &top, tree, 0)).map_err(unusable)?;
    progress.check()?;
    let cause = engine.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(error) = cause {
        return Err(error);
    }
    rustix::fs::syncfs(&*fd).map_err(|error| unusable(error.into()))?;
    if progress.misses().total == missed_before {
        let name = OsStr::new(UNFINISHED);
        rustix::fs::unlinkat(&*fd, name, AtFlags::empty()).map_err(|e| unusable(e.into()))?;
    }
    drop(top);
    rustix::fs::fsync(&*fd).map_err(|error| unusable(error.into()))?;
    Ok(())
}

fn mark_unfinished(root: &OwnedFd) -> io::Result<()> {
    let name = OsStr::new(UNFINISHED);
    // An application may have put something else there: a FIFO would make us wait for ever.
    if let Some(other) = fsx::stat_if_there(root, name)?.filter(|meta| meta.kind != Kind::File) {
        let flags = if other.kind == Kind::Dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(root, name, flags)?;
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(root, OsStr::new(UNFINISHED), flags, Mode::from_raw_mode(0o600))?;
    Ok(rustix::fs::fsync(root)?)
}

impl<'a> Engine<'a> {
    fn go_on(&self) -> bool {
        !self.progress.stopped() && !self.aborted.load(Ordering::SeqCst)
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failure of the target; a full disk ends the run, for nothing else would fit.
    fn failed(&self, path: &Path, what: &str, error: io::Error) {
        self.progress.miss_io(path, what, &error);
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if full.contains(&error.kind()) {
            self.abort(RestoreError::Target { path: path.to_owned(), source: error }.into());
        }
    }

    /// Counts a failure of the repository; a vault that is away ends the run.
    fn unreadable(&self, path: &Path, error: RepoError) {
        let text = crate::cli::chain(&error);
        let error = MoverError::from(error);
        let reason = error.reason();
        self.progress.miss(reason, path, text);
        if reason != MoverReason::RepositoryDamaged {
            self.abort(error);
        }
    }

    fn abort(&self, error: MoverError) {
        self.aborted.store(true, Ordering::SeqCst);
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn staging_name(&self) -> OsString {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        format!("{STAGING_PREFIX}{:x}-{number:x}", std::process::id()).into()
    }

    fn directory(&'a self, pool: &Pool<'a>, dir: &Arc<OpenDir<'a>>, tree: TreeId, depth: usize) {
        let mut nodes = match repo::tree(self.repository, &tree) {
            Ok(nodes) => nodes,
            Err(error) => return self.unreadable(&dir.path, error),
        };
        if depth == 0 {
            // A tree that brings our own mark along would keep every later restore from its end.
            nodes.retain(|node| *node.name() != *LOST_AND_FOUND && *node.name() != *UNFINISHED);
        }
        if depth >= MAX_DEPTH {
            let why = "the tree is nested too deep";
            return self.progress.miss(MoverReason::NotRestorable, &dir.path, why);
        }
        self.remove_extra(dir, &nodes, depth == 0);
        for node in nodes {
            if !self.go_on() {
                return;
            }
            self.entry(pool, dir, node, depth);
        }
    }

    fn remove_extra(&self, dir: &OpenDir<'_>, nodes: &[Node], root: bool) {
        let names = match fsx::list(&*dir.fd) {
            Ok(names) => names,
            Err(error) => return self.failed(&dir.path, "cannot be listed", error),
        };
        let wanted: HashSet<_> = nodes.iter().map(Node::name).collect();
        for name in names.iter().filter(|name| !wanted.contains(name.as_os_str())) {
            if root && (name == LOST_AND_FOUND || name == UNFINISHED) {
                continue;
            }
            // What a killed run left goes in any case.
            let leftover = name.as_bytes().starts_with(STAGING_PREFIX.as_bytes());
            if (self.options.delete || leftover) && self.go_on() {
                self.remove(&dir.fd, name, &dir.path.join(name));
            }
        }
    }

    fn entry(&'a self, pool: &Pool<'a>, dir: &Arc<OpenDir<'a>>, node: Node, depth: usize) {
        let name = node.name().into_owned();
        let path = dir.path.join(&name);
        let wanted = Wanted::from_node(&node);
        let item = Item { dir: dir.clone(), name, path, node, wanted };
        if item.wanted.kind == Kind::Dir {
            let Some(subtree) = item.node.subtree else {
                let why = "a directory without a tree".to_owned();
                return self.unreadable(&item.path, RepoError::Damaged(why));
            };
            if let Some(child) = self.child(item) {
                self.progress.done(0);
                self.directory(pool, &Arc::new(child), subtree, depth + 1);
            }
        } else if links::key(&item.node).is_some() {
            // In this thread: the second name of an inode needs the first one finished.
            self.linked(&item);
        } else if item.wanted.kind == Kind::File {
            pool.submit(move || self.file(&item, false));
        } else {
            self.special(&item, false);
        }
    }

    /// Opens the directory below, making it or making way for it.
    fn child(&self, item: Item<'a>) -> Option<OpenDir<'a>> {
        let Item { dir, name, path, wanted, .. } = item;
        match self.open_or_make(&dir.fd, &name, &path) {
            Ok(fd) => Some(OpenDir {
                fd: Arc::new(fd),
                path,
                wanted: Some(wanted),
                progress: self.progress,
                aborted: dir.aborted,
                parent: Some(dir),
            }),
            Err(error) => {
                self.failed(&path, "the directory cannot be made", error);
                None
            }
        }
    }

    fn open_or_make(&self, dir: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<OwnedFd> {
        let there = fsx::stat_if_there(dir, name)?;
        if there.as_ref().is_some_and(|meta| meta.kind != Kind::Dir) {
            self.remove(dir, name, path);
        }
        if there.is_none_or(|meta| meta.kind != Kind::Dir) {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))?;
        }
        open_own_dir(dir, name)
    }
}

/// One entry to restore, not a directory.
struct Item<'a> {
    dir: Arc<OpenDir<'a>>,
    name: OsString,
    path: PathBuf,
    node: Node,
    wanted: Wanted,
}

/// Opens a directory; one that shuts its own owner out is opened up first. Its mode is set anyway
/// once it is done.
fn open_own_dir(dir: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let meta = fsx::stat(dir, name)?;
    if meta.mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root() {
        chmod(dir, name, meta.mode | 0o700)?;
    }
    fsx::open_dir(dir, name)
}
