//! The proof: compares a directory with a tree of a snapshot, and changes nothing.
//!
//! It shares no decision with the restore: it looks at everything again, reads every file and
//! hashes it, and knows nothing of what the restore believes to have done.

use super::contents::{self, Check};
use super::error::{MoverError, RepoError, RestoreError};
use super::fsx::{self, Kind, Meta};
use super::pool::{self, Pool};
use super::progress::Progress;
use super::repo::{self, Indexed};
use super::source::{LOST_AND_FOUND, UNFINISHED};
use super::wanted::Wanted;
use crate::api::report::MoverReason;
use rustic_core::TreeId;
use rustic_core::repofile::Node;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Device and inode in the snapshot, as far as the node has more than one name there.
type Key = (u64, u64);

/// What to compare.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Read the files; without it, size and time stand for the contents.
    pub contents: bool,
    /// Names that the snapshot does not have are a difference.
    pub extra: bool,
}

struct Prover<'a> {
    repository: &'a Indexed,
    progress: &'a Progress,
    scope: Scope,
    groups: Mutex<Groups>,
    /// What ends the comparison: the vault went away.
    broken: Mutex<Option<MoverError>>,
}

/// Names by inode, on both sides.
#[derive(Default)]
struct Groups {
    by_key: HashMap<Key, Group>,
    by_inode: HashMap<u64, Key>,
}

struct Group {
    inode: u64,
    names: u64,
    links: u64,
    path: PathBuf,
}

/// Compares; every difference is counted in `progress` as [`MoverReason::NotProven`].
///
/// # Errors
/// [`RestoreError::Target`], [`MoverError::Interrupted`], or a vault that cannot be read.
pub fn compare(
    repository: &Indexed,
    tree: TreeId,
    root: Option<&Wanted>,
    target: &Path,
    scope: Scope,
    progress: &Progress,
) -> Result<(), MoverError> {
    let unusable = |source| RestoreError::Target { path: target.to_owned(), source };
    let fd = Arc::new(fsx::open_root(target).map_err(unusable)?);
    let prover = Prover { repository, progress, scope, groups: Mutex::default(), broken: Mutex::new(None) };
    if let Some(root) = root {
        let meta = fsx::stat(&*fd, OsStr::new("")).map_err(unusable)?;
        prover.metadata(&root.clone().of_root(&meta), &fd, OsStr::new(""), &meta, target);
    }
    pool::run(|pool| prover.directory(&pool, &fd, target, tree, true)).map_err(unusable)?;
    progress.check()?;
    let broken = prover.broken.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(error) = broken {
        return Err(error);
    }
    prover.finish_groups();
    Ok(())
}

impl<'a> Prover<'a> {
    fn differs(&self, path: &Path, why: impl std::fmt::Display) {
        self.progress.miss(MoverReason::NotProven, path, why);
    }

    fn repository_failed(&self, path: &Path, error: RepoError) {
        let text = crate::cli::chain(&error);
        let error = MoverError::from(error);
        self.progress.miss(error.reason(), path, text);
        if error.reason() != MoverReason::RepositoryDamaged {
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    fn go_on(&self) -> bool {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        !self.progress.stopped() && broken.is_none()
    }

    fn directory(&'a self, pool: &Pool<'a>, dir: &Arc<OwnedFd>, path: &Path, tree: TreeId, root: bool) {
        let nodes = match repo::tree(self.repository, &tree) {
            Ok(nodes) => nodes,
            Err(error) => return self.repository_failed(path, error),
        };
        let names = match fsx::list(&**dir) {
            Ok(names) => names,
            Err(error) => return self.differs(path, format_args!("cannot be listed: {error}")),
        };
        let ignored = |name: &OsStr| root && (name == LOST_AND_FOUND || name == UNFINISHED);
        let mut nodes: BTreeMap<OsString, Node> =
            nodes.into_iter().map(|node| (node.name().into_owned(), node)).collect();
        for name in names {
            if !self.go_on() {
                return;
            }
            let below = path.join(&name);
            match nodes.remove(&name) {
                _ if ignored(&name) => {}
                Some(node) => self.entry(pool, dir, name, below, node),
                None if self.scope.extra => self.differs(&below, "is not in the snapshot"),
                None => {}
            }
        }
        for name in nodes.keys().filter(|name| !ignored(name)) {
            self.differs(&path.join(name), "is missing");
        }
    }

    fn entry(&'a self, pool: &Pool<'a>, dir: &Arc<OwnedFd>, name: OsString, path: PathBuf, node: Node) {
        let meta = match fsx::stat(&**dir, &name) {
            Ok(meta) => meta,
            Err(error) => return self.differs(&path, format_args!("cannot be read: {error}")),
        };
        let wanted = Wanted::from_node(&node);
        if !self.metadata(&wanted, dir, &name, &meta, &path) {
            return;
        }
        if meta.kind == Kind::Dir {
            self.progress.done(0);
            let Some(subtree) = node.subtree else {
                return self.differs(&path, "is a directory without a tree in the snapshot");
            };
            match fsx::open_dir(&**dir, &name) {
                Ok(fd) => self.directory(pool, &Arc::new(fd), &path, subtree, false),
                Err(error) => self.differs(&path, format_args!("cannot be opened: {error}")),
            }
            return;
        }
        self.link(&node, &meta, &path);
        if meta.kind != Kind::File {
            return self.progress.done(0);
        }
        let dir = dir.clone();
        pool.submit(move || self.file(&dir, &name, &path, &node, &meta));
    }

    /// False if the entry is of another type: then nothing else can be compared.
    fn metadata(&self, wanted: &Wanted, dir: &OwnedFd, name: &OsStr, meta: &Meta, path: &Path) -> bool {
        match wanted.differences(dir, name, meta) {
            Ok(all) if all.is_empty() => {}
            Ok(all) => self.differs(path, all.join("; ")),
            Err(error) => self.differs(path, format_args!("cannot be read: {error}")),
        }
        wanted.kind == meta.kind
    }

    fn file(&self, dir: &OwnedFd, name: &OsStr, path: &Path, node: &Node, meta: &Meta) {
        if !self.go_on() {
            return;
        }
        let size = match contents::size(self.repository, node) {
            Ok(size) => size,
            Err(error) => return self.repository_failed(path, error),
        };
        if meta.size != size {
            return self.differs(path, format_args!("size is {}, wanted {size}", meta.size));
        }
        if self.scope.contents {
            let file = match fsx::open_file(dir, name) {
                Ok(file) => File::from(file),
                Err(error) => return self.differs(path, format_args!("cannot be opened: {error}")),
            };
            match contents::check(self.repository, node, &file, self.progress) {
                Ok(Check::Equal) => {}
                Ok(Check::Stopped) => return,
                Ok(Check::Differs(at)) => {
                    return self.differs(path, format_args!("contents differ from byte {at} on"));
                }
                Ok(Check::Unreadable(error)) => {
                    return self.differs(path, format_args!("cannot be read: {error}"));
                }
                Err(error) => return self.repository_failed(path, error),
            }
        }
        self.progress.done(size);
    }

    /// Names that share an inode in the snapshot must share one here, and no others may.
    fn link(&self, node: &Node, meta: &Meta, path: &Path) {
        let key =
            (node.meta.links > 1 && node.meta.inode != 0).then_some((node.meta.device_id, node.meta.inode));
        let Some(key) = key else {
            if meta.nlink != 1 {
                let why = format_args!("has {} names, in the snapshot it has one", meta.nlink);
                self.differs(path, why);
            }
            return;
        };
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let other = *groups.by_inode.entry(meta.ino).or_insert(key);
        let group = groups.by_key.entry(key).or_insert_with(|| Group {
            inode: meta.ino,
            names: 0,
            links: meta.nlink,
            path: path.to_owned(),
        });
        group.names += 1;
        let (inode, first) = (group.inode, group.path.clone());
        drop(groups);
        if inode != meta.ino {
            let why = format_args!("is not the same file as {}, as it should be", first.display());
            self.differs(path, why);
        } else if other != key {
            self.differs(path, "is the same file as one that should be another");
        }
    }

    fn finish_groups(&self) {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for group in groups.by_key.values().filter(|group| group.names != group.links) {
            let (found, wanted) = (group.links, group.names);
            self.differs(&group.path, format_args!("has {found} names, wanted {wanted}"));
        }
    }
}
