//! Keeps half a snapshot from being written.
//!
//! The library's archiver cannot be stopped: when the source ends early, it finishes the tree with
//! what it has and saves the snapshot. So the one write that would make it visible is refused once
//! the run was told to stop.

use super::BackendError;
use crate::mover::progress::Progress;
use bytes::Bytes;
use rustic_core::{BytesList, FileType, Id, ReadBackend, RusticResult, WriteBackend};
use std::sync::Arc;

/// See the module.
pub struct Gate {
    inner: Arc<dyn WriteBackend>,
    progress: Arc<Progress>,
}

impl Gate {
    /// Guards `inner` by `progress`.
    #[must_use]
    pub fn new(inner: Arc<dyn WriteBackend>, progress: Arc<Progress>) -> Self {
        Self { inner, progress }
    }
}

impl ReadBackend for Gate {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.inner.list_with_size(tpe)
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        self.inner.read_full(tpe, id)
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
