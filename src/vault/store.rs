//! The vault's folder on disk: its repositories, and how a file gets into them.
//!
//! ```text
//! DATA/.lock            held while a vault runs: two would delete each other's temporary files
//! DATA/.tmp/            uploads in flight; emptied at start
//! DATA/<repo>/          the restic layout (config, data/00../ff, index, keys, locks, snapshots)
//! DATA/<repo>/dispatches/<20 digits>
//! DATA/<repo>/epoch     high-water mark of the ledger's epochs
//! ```
//!
//! A file is written to `.tmp`, fsynced, linked into place with link(2), and the folder is fsynced
//! before anything is acknowledged. link(2) never replaces, so append-only holds without a lock and
//! a name appears either with all of its content or not at all, whenever the process dies.

use super::names::RepoName;
use super::repo::Repo;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Most repositories in one vault, as many as a ledger has writs.
const MAX_REPOSITORIES: usize = 2_000;

/// Why the vault's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another vault runs on this folder.
    #[error("{0} is in use by another vault")]
    InUse(PathBuf),
    /// Too many repositories.
    #[error("the vault has {MAX_REPOSITORIES} repositories already")]
    TooMany,
    /// The file system refused.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// For `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// Room on the file system, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Free for a process without privileges.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// The vault's folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    tmp: PathBuf,
    next: AtomicU64,
    repos: RwLock<BTreeMap<RepoName, Arc<Repo>>>,
    creating: Mutex<()>,
    _lock: File,
}

impl Store {
    /// Takes the folder, empties `.tmp` and opens every repository in it (which counts its bytes).
    ///
    /// # Errors
    /// [`StoreError`], above all [`StoreError::InUse`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(StoreError::io("create", root))?;
        let lock = take_lock(&root.join(".lock"), root)?;
        let tmp = root.join(".tmp");
        ensure_dir(&tmp)?;
        empty_dir(&tmp)?;
        fsync_dir(root).map_err(StoreError::io("fsync", root))?;
        let repos = open_repositories(root)?;
        Ok(Self {
            root: root.to_owned(),
            tmp,
            next: AtomicU64::new(0),
            repos: RwLock::new(repos),
            creating: Mutex::new(()),
            _lock: lock,
        })
    }

    /// The repository of that name, if it was created.
    #[must_use]
    pub fn repo(&self, name: &RepoName) -> Option<Arc<Repo>> {
        self.repos.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All repositories, at most 2,000.
    #[must_use]
    pub fn repos(&self) -> Vec<Arc<Repo>> {
        self.repos.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Creates a repository's folders, or finds them. Blocking.
    ///
    /// # Errors
    /// [`StoreError`]; a half-made repository is completed by the next call or start.
    pub fn create(&self, name: &RepoName) -> Result<Arc<Repo>, StoreError> {
        let _one = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(repo) = self.repo(name) {
            return Ok(repo);
        }
        if self.repos.read().unwrap_or_else(PoisonError::into_inner).len() >= MAX_REPOSITORIES {
            return Err(StoreError::TooMany);
        }
        let repo = Arc::new(Repo::open(&self.root, name.clone())?);
        let mut repos = self.repos.write().unwrap_or_else(PoisonError::into_inner);
        repos.insert(name.clone(), Arc::clone(&repo));
        Ok(repo)
    }

    /// A new temporary file. Blocking.
    ///
    /// # Errors
    /// The file system's.
    pub fn temp(&self) -> io::Result<TempFile> {
        // The counter makes names unique within the process, the emptied folder and the lock
        // across processes.
        let path = self.tmp.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(TempFile { path, file, keep: false })
    }

    /// Room on the file system. Blocking.
    ///
    /// # Errors
    /// The file system's.
    pub fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }
}

/// Whether a file was new at its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It stands there now, durable.
    New,
    /// The name was taken; nothing was changed.
    Taken,
}

/// A temporary file, removed on drop.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
    file: File,
    keep: bool,
}

impl TempFile {
    /// Makes the content durable and links it to `target`, never replacing. Blocking.
    ///
    /// # Errors
    /// The file system's. After an error the name may stand or not, but if it stands it has all of
    /// its content.
    pub fn publish(self, target: &Path) -> io::Result<Published> {
        self.sync()?;
        let linked = fs::hard_link(&self.path, target);
        let published = match linked {
            Ok(()) => Published::New,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Published::Taken,
            Err(error) => return Err(error),
        };
        // Also when the name was taken: whoever linked it may have died before this very fsync,
        // and what we acknowledge must survive a power cut.
        fsync_parent(target)?;
        Ok(published)
    }

    /// Makes the content durable and renames it over `target`: for our own small state files only,
    /// never for anything that a client names. Blocking.
    ///
    /// # Errors
    /// The file system's.
    pub fn replace(mut self, target: &Path) -> io::Result<()> {
        self.sync()?;
        fs::rename(&self.path, target)?;
        self.keep = true;
        fsync_parent(target)
    }

    /// Makes the content durable, so that [`Self::publish`] has little left to do. Blocking.
    ///
    /// # Errors
    /// The file system's.
    pub fn sync(&self) -> io::Result<()> {
        // Read-only for everybody: nothing in the repository is ever written twice.
        self.file.set_permissions(fs::Permissions::from_mode(0o440))?;
        self.file.sync_all()
    }
}

impl Write for TempFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_file(&self.path)
        {
            // Not lost for ever: the folder is emptied at the next start.
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary file");
        }
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// The file system's.
pub fn fsync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// [`fsync_dir`] of the folder that holds `path`.
///
/// # Errors
/// The file system's.
pub fn fsync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fsync_dir)
}

/// Makes a folder unless it is there. The caller fsyncs the parent.
pub(super) fn ensure_dir(path: &Path) -> Result<(), StoreError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("create", path)(error))
        }
        _ => Ok(()),
    }
}

fn take_lock(path: &Path, root: &Path) -> Result<File, StoreError> {
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(StoreError::io("open", path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse(root.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(StoreError::io("lock", path)(source)),
    }
}

fn empty_dir(path: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(StoreError::io("list", path))? {
        let leftover = entry.map_err(StoreError::io("list", path))?.path();
        fs::remove_file(&leftover).map_err(StoreError::io("remove", &leftover))?;
    }
    Ok(())
}

fn open_repositories(root: &Path) -> Result<BTreeMap<RepoName, Arc<Repo>>, StoreError> {
    let mut repos = BTreeMap::new();
    for entry in fs::read_dir(root).map_err(StoreError::io("list", root))? {
        let entry = entry.map_err(StoreError::io("list", root))?;
        let is_dir = entry.file_type().map_err(StoreError::io("stat", root))?.is_dir();
        // `lost+found`, `.tmp` and what an admin put there are no repositories.
        let name = entry.file_name().to_str().and_then(RepoName::parse);
        if let (true, Some(name)) = (is_dir, name) {
            match Repo::open(root, name.clone()) {
                Ok(repo) => {
                    repos.insert(name, Arc::new(repo));
                }
                // A creation that a full disk cut short holds nothing yet, and must not keep the vault from
                // serving all the others.
                Err(error) if !entry.path().join("config").exists() => {
                    tracing::error!(
                        repository = name.as_str(),
                        error = crate::cli::chain(&error),
                        "a repository without a config cannot be completed and is left out"
                    );
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(repos)
}
