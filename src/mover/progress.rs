//! What a run has done so far: counts, misses, and whether it is to stop.

use super::error::{MoverError, io_reason};
use crate::api::report::MoverReason;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Misses that are named; all are counted.
const NAMED: usize = 100;

/// Shared by all threads of a run.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries done.
    pub files: AtomicU64,
    /// Bytes read (backup) or settled (restore, verify).
    pub bytes: AtomicU64,
    /// Bytes written to the target.
    pub written: AtomicU64,
    /// Entries expected, 0 if unknown.
    pub total_files: AtomicU64,
    /// Bytes expected, 0 if unknown.
    pub total_bytes: AtomicU64,
    stop: AtomicBool,
    misses: Mutex<Misses>,
}

/// Everything that was missed.
#[derive(Clone, Debug, Default)]
pub struct Misses {
    /// How many.
    pub total: u64,
    /// The first of them, `path: why`.
    pub named: Vec<String>,
    worst: Option<MoverReason>,
}

impl Progress {
    /// Adds one entry of `bytes` bytes.
    pub fn done(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts and names one miss.
    pub fn miss(&self, reason: MoverReason, path: &std::path::Path, why: impl std::fmt::Display) {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        misses.total += 1;
        if misses.named.len() < NAMED {
            misses.named.push(format!("{}: {why}", path.display()));
        }
        if misses.worst.is_none_or(|worst| rank(reason) > rank(worst)) {
            misses.worst = Some(reason);
        }
    }

    /// [`Self::miss`] for an error of the target's file system.
    pub fn miss_io(&self, path: &std::path::Path, what: &str, error: &io::Error) {
        self.miss(io_reason(error), path, format_args!("{what}: {error}"));
    }

    /// Misses so far.
    #[must_use]
    pub fn misses(&self) -> Misses {
        self.misses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks all threads to stop at the next entry.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// True once [`Self::stop`] was called.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Takes the misses out, where they are the result and not a failure.
    #[must_use]
    pub fn take_misses(&self) -> Misses {
        std::mem::take(&mut self.misses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fails if the run is to stop.
    ///
    /// # Errors
    /// [`MoverError::Interrupted`].
    pub fn check(&self) -> Result<(), MoverError> {
        if self.stopped() { Err(MoverError::Interrupted) } else { Ok(()) }
    }

    /// Fails if anything was missed.
    ///
    /// # Errors
    /// [`MoverError::Missed`] with the gravest reason.
    pub fn nothing_missed(&self, doing: &str) -> Result<(), MoverError> {
        let misses = self.misses();
        match misses.worst {
            None => Ok(()),
            Some(reason) => Err(MoverError::Missed {
                reason,
                message: format!(
                    "{doing}: {} entries were missed, the first is {}",
                    misses.total,
                    misses.named.first().map_or("unknown", String::as_str)
                ),
            }),
        }
    }
}

/// Which of two reasons is told when both occurred: the one that explains the other.
fn rank(reason: MoverReason) -> u8 {
    match reason {
        MoverReason::VaultUnreachable => 6,
        MoverReason::RepositoryDamaged => 5,
        MoverReason::TargetFull => 4,
        MoverReason::NotRestorable => 3,
        MoverReason::Unreadable => 2,
        MoverReason::NotProven => 1,
        _ => 0,
    }
}
