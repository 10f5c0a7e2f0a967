//! Reads packs in windows.
//!
//! The library asks for one blob at a time. Blobs that are needed together were mostly written
//! together, so a request for one fetches its surroundings and the next is answered from memory:
//! 100,000 files of 4 KiB are then hundreds of requests and not 100,000.

use bytes::Bytes;
use rustic_core::{BytesList, FileType, Id, ReadBackend, RusticResult, WriteBackend};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that one request asks for at least, if the pack has them.
const WINDOW: u32 = 1 << 20;
/// Windows that are kept: the memory this takes is at most `KEPT` times the larger of a window
/// and a blob (8 MiB).
const KEPT: usize = 16;

/// See the module.
pub struct Windowed<B> {
    inner: Arc<B>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    windows: VecDeque<Window>,
    /// Sizes of the packs, so that a window never asks beyond a pack's end. 36 bytes a pack.
    sizes: Option<HashMap<Id, u32>>,
}

struct Window {
    pack: Id,
    offset: u32,
    bytes: Bytes,
}

impl Window {
    fn slice(&self, pack: &Id, offset: u32, length: u32) -> Option<Bytes> {
        let start = offset.checked_sub(self.offset)? as usize;
        let end = start.checked_add(length as usize)?;
        (self.pack == *pack && end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }
}

impl<B: WriteBackend> Windowed<B> {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<B>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn size_of(&self, pack: &Id) -> RusticResult<Option<u32>> {
        if let Some(sizes) = &self.state().sizes {
            return Ok(sizes.get(pack).copied());
        }
        let listed: HashMap<Id, u32> = self.inner.list_with_size(FileType::Pack)?.into_iter().collect();
        let size = listed.get(pack).copied();
        self.state().sizes = Some(listed);
        Ok(size)
    }
}

impl<B: WriteBackend> ReadBackend for Windowed<B> {
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
        let exact = |offset, length| self.inner.read_partial(tpe, id, cacheable, offset, length);
        if tpe != FileType::Pack || length >= WINDOW {
            return exact(offset, length);
        }
        if let Some(found) = self.state().windows.iter().find_map(|window| window.slice(id, offset, length)) {
            return Ok(found);
        }
        let Some(size) = self.size_of(id)? else { return exact(offset, length) };
        let wanted = WINDOW.min(size.saturating_sub(offset)).max(length);
        let bytes = exact(offset, wanted)?;
        let window = Window { pack: *id, offset, bytes };
        let found = window.slice(id, offset, length);
        let mut state = self.state();
        if state.windows.len() >= KEPT {
            state.windows.pop_front();
        }
        state.windows.push_back(window);
        drop(state);
        found.map_or_else(|| exact(offset, length), Ok)
    }

    fn warmup_path(&self, tpe: FileType, id: &Id) -> String {
        self.inner.warmup_path(tpe, id)
    }
}

impl<B: WriteBackend> WriteBackend for Windowed<B> {
    fn create(&self) -> RusticResult<()> {
        self.inner.create()
    }

    fn write_bytes(&self, tpe: FileType, id: &Id, cacheable: bool, content: BytesList) -> RusticResult<()> {
        let size = u32::try_from(content.size()).ok();
        self.inner.write_bytes(tpe, id, cacheable, content)?;
        if let (FileType::Pack, Some(size), Some(sizes)) = (tpe, size, &mut self.state().sizes) {
            sizes.insert(*id, size);
        }
        Ok(())
    }

    fn remove(&self, tpe: FileType, id: &Id, cacheable: bool) -> RusticResult<()> {
        self.inner.remove(tpe, id, cacheable)
    }
}
