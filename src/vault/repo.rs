//! One repository: its folders, its bytes, and the state of its chain.

use super::chain::Chain;
use super::error::RequestError;
use super::names::{Kind, ObjectId, RepoName};
use super::store::{StoreError, ensure_dir, fsync_dir};
use super::usage::{Usage, charge};
use crate::api::dispatch::dispatch_name;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// One repository.
#[derive(Debug)]
pub struct Repo {
    /// Its name, which is the DataEmbassy's.
    pub name: RepoName,
    /// Its bytes, locks aside: a full repository must stay readable, and stock readers lock.
    pub usage: Arc<Usage>,
    /// Held while something is counted and then added, for types with a limit of their number.
    pub counted: Mutex<()>,
    /// Held by the one commit in flight; the chain as it was last read, `None` to read it again.
    pub chain: tokio::sync::Mutex<Option<Chain>>,
    dir: PathBuf,
}

impl Repo {
    /// Opens a repository below `root`, making what folders are missing, and counts its bytes.
    /// Blocking; takes about a second for 100,000 objects.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(root: &Path, name: RepoName) -> Result<Self, StoreError> {
        let dir = root.join(name.as_str());
        ensure_dir(&dir)?;
        let data = dir.join(Kind::Data.as_str());
        for folder in Kind::ALL.iter().map(|kind| kind.as_str()).chain(["dispatches"]) {
            ensure_dir(&dir.join(folder))?;
        }
        for shard in 0..=u8::MAX {
            ensure_dir(&data.join(format!("{shard:02x}")))?;
        }
        for path in [&data, &dir, root] {
            fsync_dir(path).map_err(StoreError::io("fsync", path))?;
        }
        let usage = Arc::new(Usage::new(count_bytes(&dir)?));
        Ok(Self { name, usage, counted: Mutex::new(()), chain: tokio::sync::Mutex::new(None), dir })
    }

    /// Path of `config`; the repository is in use once it is there.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// Path of an object.
    #[must_use]
    pub fn object(&self, kind: Kind, id: &ObjectId) -> PathBuf {
        let folder = self.dir.join(kind.as_str());
        match kind {
            Kind::Data => folder.join(id.shard()).join(id.as_str()),
            Kind::Keys | Kind::Locks | Kind::Snapshots | Kind::Index => folder.join(id.as_str()),
        }
    }

    /// Folders that hold the objects of a type.
    #[must_use]
    pub fn folders(&self, kind: Kind) -> Vec<PathBuf> {
        let folder = self.dir.join(kind.as_str());
        match kind {
            Kind::Data => (0..=u8::MAX).map(|shard| folder.join(format!("{shard:02x}"))).collect(),
            Kind::Keys | Kind::Locks | Kind::Snapshots | Kind::Index => vec![folder],
        }
    }

    /// Folder of the dispatch headers.
    #[must_use]
    pub fn dispatches(&self) -> PathBuf {
        self.dir.join("dispatches")
    }

    /// Path of a dispatch header.
    #[must_use]
    pub fn dispatch(&self, sequence: u64) -> PathBuf {
        self.dispatches().join(dispatch_name(sequence))
    }

    /// Path of the high-water mark of epochs.
    #[must_use]
    pub fn epoch_mark(&self) -> PathBuf {
        self.dir.join("epoch")
    }

    /// Refuses one more object of a type that has as many as it may. Hold [`Self::counted`] from
    /// before this until the object is in place. Blocking.
    ///
    /// # Errors
    /// [`RequestError::Full`] or the file system's.
    pub fn check_count(&self, kind: Kind) -> Result<(), RequestError> {
        let Some(max) = kind.max_count() else { return Ok(()) };
        let there = fs::read_dir(self.dir.join(kind.as_str()))
            .map_err(RequestError::io("count objects"))?
            .take(max)
            .count();
        if there >= max {
            let text = format!("the repository has {max} {} already, which is the most", kind.as_str());
            return Err(RequestError::Full(text));
        }
        Ok(())
    }
}

fn count_bytes(dir: &Path) -> Result<u64, StoreError> {
    let mut sum: u64 = 0;
    let mut folders = vec![dir.to_owned()];
    let locks = dir.join(Kind::Locks.as_str());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
            let entry = entry.map_err(StoreError::io("list", &folder))?;
            match entry.metadata() {
                Ok(meta) if meta.is_dir() && entry.path() != locks => folders.push(entry.path()),
                Ok(meta) if meta.is_file() => sum = sum.saturating_add(charge(meta.len())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("stat", &entry.path())(error)),
            }
        }
    }
    Ok(sum)
}
