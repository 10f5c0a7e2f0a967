//! What stands between the library and any repository.
//!
//! *Reading*: a file must hold what its name says. The library decrypts snapshots, indexes and keys and
//! never hashes them, so whoever holds the password could put another file under an old name. And for
//! a dispatch only the indexes that its signed header names are shown: anyone who may add files could
//! else make every restore fail with one that does not parse.
//!
//! *Writing*: no half snapshot. The library's archiver cannot be stopped: when the source ends early, it finishes the tree with
//! what it has and saves the snapshot. So the one write that would make it visible is refused once
//! the run was told to stop.

use super::BackendError;
use crate::mover::progress::Progress;
use bytes::Bytes;
use rustic_core::{BytesList, FileType, Id, ReadBackend, RusticResult, WriteBackend};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
pub struct Gate {
    inner: Arc<dyn WriteBackend>,
    progress: Arc<Progress>,
    indexes: IndexFilter,
}

/// Which indexes the library is shown; all of them until it is set.
#[derive(Clone, Default)]
pub struct IndexFilter(Arc<Mutex<Option<HashSet<String>>>>);

impl IndexFilter {
    /// Shows these only, by their names in hex.
    pub fn only(&self, names: &[String]) {
        *self.lock() = Some(names.iter().cloned().collect());
    }

    fn shows(&self, id: &Id) -> bool {
        self.lock().as_ref().is_none_or(|names| names.contains(id.to_hex().as_str()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashSet<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Guards `inner` by `progress`.
    #[must_use]
    pub fn new(inner: Arc<dyn WriteBackend>, progress: Arc<Progress>, indexes: IndexFilter) -> Self {
        Self { inner, progress, indexes }
    }
}

impl ReadBackend for Gate {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let mut all = self.inner.list_with_size(tpe)?;
        if tpe == FileType::Index {
            all.retain(|(id, _)| self.indexes.shows(id));
        }
        Ok(all)
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        let bytes = self.inner.read_full(tpe, id)?;
        if tpe != FileType::Config && crate::mover::repo::hash(&bytes) != *id {
            let name = id.to_hex();
            let why = format!("{}/{} holds other content than its name says", tpe.dirname(), name.as_str());
            return Err(BackendError::Corrupt(why).for_library());
        }
        Ok(bytes)
    }

    fn read_partial(
        &self,
        tpe: FileType,
        id: &Id,
        cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        self.inner.read_partial(tpe, id, cacheable, offset, length)
    }

    fn warmup_path(&self, tpe: FileType, id: &Id) -> String {
        self.inner.warmup_path(tpe, id)
    }
}

impl WriteBackend for Gate {
    fn create(&self) -> RusticResult<()> {
        self.inner.create()
    }

    fn write_bytes(&self, tpe: FileType, id: &Id, cacheable: bool, content: BytesList) -> RusticResult<()> {
        if tpe == FileType::Snapshot && self.progress.stopped() {
            let why = "the run was stopped: its half snapshot is not saved".to_owned();
            return Err(BackendError::Setup(why).for_library());
        }
        self.inner.write_bytes(tpe, id, cacheable, content)
    }

    fn remove(&self, tpe: FileType, id: &Id, cacheable: bool) -> RusticResult<()> {
        self.inner.remove(tpe, id, cacheable)
    }
}
