//! How many bytes a repository takes, and the quotas that bound it.

use super::error::RequestError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Disk block in bytes; what is charged is whole blocks.
const BLOCK: u64 = 4096;
/// Longest quota file that is read, in bytes.
const MAX_QUOTA_FILE: u64 = 1 << 20;

/// What an object of `length` bytes is charged: whole blocks as on the disk, and at least one. By
/// plain bytes a thief with home's certificate could fill the disk's inodes with empty-ish objects
/// and never meet the quota.
#[must_use]
pub fn charge(length: u64) -> u64 {
    length.max(1).div_ceil(BLOCK).saturating_mul(BLOCK)
}

#[derive(Debug, Default)]
struct Counts {
    used: u64,
    reserved: u64,
}

/// Bytes used by one repository, locks aside.
#[derive(Debug, Default)]
pub struct Usage(Mutex<Counts>);

impl Usage {
    /// Starts at what was counted on the disk.
    #[must_use]
    pub fn new(used: u64) -> Self {
        Self(Mutex::new(Counts { used, reserved: 0 }))
    }

    /// Bytes of what is stored, in whole blocks.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.counts().used
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Two plain numbers are valid after a panic elsewhere, too.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room set aside for an upload in flight, given back on drop. Without it parallel uploads would
/// each find room for themselves and together exceed the quota.
#[derive(Debug)]
pub struct Reservation {
    usage: Arc<Usage>,
    quota: Option<u64>,
    bytes: u64,
}

impl Reservation {
    /// Nothing reserved yet.
    #[must_use]
    pub fn new(usage: Arc<Usage>, quota: Option<u64>) -> Self {
        Self { usage, quota, bytes: 0 }
    }

    /// Grows to hold an object of `length` bytes.
    ///
    /// # Errors
    /// [`RequestError::Full`] when the quota does not allow it; what was reserved stays.
    pub fn grow_to(&mut self, length: u64) -> Result<(), RequestError> {
        let wanted = charge(length);
        let more = wanted.saturating_sub(self.bytes);
        let mut counts = self.usage.counts();
        let total = counts.used.saturating_add(counts.reserved).saturating_add(more);
        if let Some(quota) = self.quota
            && total > quota
        {
            let text = format!(
                "the repository's quota of {quota} bytes is used up ({} used, {more} more asked for); \
                 what was stored is intact",
                counts.used
            );
            return Err(RequestError::Full(text));
        }
        counts.reserved = counts.reserved.saturating_add(more);
        drop(counts);
        self.bytes = self.bytes.max(wanted);
        Ok(())
    }

    /// The object is stored: what it takes counts as used from now on.
    pub fn keep(mut self, length: u64) {
        let mut counts = self.usage.counts();
        counts.used = counts.used.saturating_add(charge(length));
        counts.reserved = counts.reserved.saturating_sub(self.bytes);
        drop(counts);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut counts = self.usage.counts();
        counts.reserved = counts.reserved.saturating_sub(self.bytes);
    }
}

/// Why a quota file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// Not readable.
    #[error("cannot read the quota file {path}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Not `{"repository": bytes, …}`.
    #[error("the quota file {path} is not a JSON object of bytes by repository")]
    Parse {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// Quotas in bytes by repository; one that is not named has none.
#[derive(Debug, Default)]
pub struct Quotas {
    path: Option<PathBuf>,
    by_repository: RwLock<BTreeMap<String, u64>>,
}

impl Quotas {
    /// Reads the quota file; without one nothing has a quota.
    ///
    /// # Errors
    /// [`QuotaError`]: a vault must not start with quotas that it cannot read.
    pub fn load(path: Option<PathBuf>) -> Result<Self, QuotaError> {
        let map = path.as_deref().map(read_quotas).transpose()?.unwrap_or_default();
        Ok(Self { path, by_repository: RwLock::new(map) })
    }

    /// Reads the file again; `true` when something changed.
    ///
    /// # Errors
    /// [`QuotaError`]; the quotas from before stay in force.
    pub fn reload(&self) -> Result<bool, QuotaError> {
        let Some(path) = self.path.as_deref() else { return Ok(false) };
        let fresh = read_quotas(path)?;
        let mut map = self.by_repository.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *map != fresh;
        *map = fresh;
        Ok(changed)
    }

    /// The quota of `repository` in bytes.
    #[must_use]
    pub fn get(&self, repository: &str) -> Option<u64> {
        self.by_repository.read().unwrap_or_else(PoisonError::into_inner).get(repository).copied()
    }
}

fn read_quotas(path: &Path) -> Result<BTreeMap<String, u64>, QuotaError> {
    let bytes = super::watch::read_bounded(path, MAX_QUOTA_FILE)
        .map_err(|source| QuotaError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| QuotaError::Parse { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parallel_uploads_together_stay_within_the_quota() {
        let usage = Arc::new(Usage::new(BLOCK));
        let mut first = Reservation::new(Arc::clone(&usage), Some(3 * BLOCK));
        let mut second = Reservation::new(Arc::clone(&usage), Some(3 * BLOCK));
        first.grow_to(1).unwrap();
        first.grow_to(BLOCK).unwrap();
        second.grow_to(BLOCK).unwrap();
        assert!(second.grow_to(BLOCK + 1).is_err());
        drop(second);
        first.grow_to(BLOCK + 1).unwrap();
        first.keep(BLOCK + 1);
        assert_eq!(usage.used(), 3 * BLOCK);
        assert_eq!(usage.counts().reserved, 0);
    }
}
