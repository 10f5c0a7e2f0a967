//! What a mover says when it ends: JSON in the pod's termination message.
//!
//! The kubelet keeps at most 4096 bytes of it, so [`MoverReport::to_termination_message`] shortens
//! the list of errors until it fits; the counts stay exact.

use serde::{Deserialize, Serialize};

/// The kubelet's limit of a termination message in bytes.
pub const MAX_TERMINATION_MESSAGE: usize = 4096;

/// Result of one mover run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MoverReport {
    /// What ran.
    pub kind: MoverKind,
    /// True only if nothing was missed.
    pub success: bool,
    /// CamelCase reason on failure.
    pub reason: Option<MoverReason>,
    /// One sentence for people: what failed and what to do about it.
    pub message: String,
    /// Sequence of the dispatch made or restored.
    pub sequence: Option<u64>,
    /// Chain hash of that dispatch's header.
    pub header_hash: Option<String>,
    /// Cut time of that dispatch.
    pub cut_time: Option<jiff::Timestamp>,
    /// Epoch of that dispatch.
    pub epoch: Option<u64>,
    /// True if the restored tree was compared with the signed one and is equal.
    pub proven: bool,
    /// Entries read or restored.
    pub files: u64,
    /// Bytes read or compared.
    pub bytes: u64,
    /// Bytes added to the vault (backup) or written to the volume (restore).
    pub bytes_added: u64,
    /// Seconds from start to end.
    pub duration_seconds: f64,
    /// How many entries could not be read, restored or did not compare equal.
    pub errors_total: u64,
    /// The first of them, each as `path: why`.
    pub errors: Vec<String>,
}

/// The mover's modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoverKind {
    /// Makes a dispatch.
    #[default]
    Backup,
    /// Restores a dispatch into volumes and proves it.
    Restore,
    /// Compares volumes with a dispatch, or the repository with itself.
    Verify,
}

/// Why a mover failed. The operator maps each to a condition, an Event and a retry policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoverReason {
    /// The vault did not answer or broke off (retry with back-off).
    VaultUnreachable,
    /// The vault or its quota is full (HTTP 507).
    VaultFull,
    /// The vault refused the dispatch: its epoch is not the ledger's.
    EpochRefused,
    /// The vault refused for another reason (certificate, permission, malformed).
    VaultRefused,
    /// No repository where one was expected.
    RepositoryMissing,
    /// The key does not open the repository.
    WrongKey,
    /// The source directory is missing or is not a directory.
    SourceMissing,
    /// The source is empty although the dispatch before it was not.
    SourceEmpty,
    /// Entries could not be read.
    Unreadable,
    /// Entries could not be restored as they were (ownership, xattrs).
    NotRestorable,
    /// The restored tree differs from the signed one.
    NotProven,
    /// The repository is damaged: missing or corrupt packs.
    RepositoryDamaged,
    /// A header's signature, chain or epoch does not hold.
    HeaderRefused,
    /// No space left on the target.
    TargetFull,
    /// Stopped by SIGTERM.
    Interrupted,
    /// Anything else; the message says what.
    Failed,
}

impl MoverReport {
    /// JSON that fits the kubelet's limit; drops listed errors from the end until it does.
    #[must_use]
    pub fn to_termination_message(&self) -> String {
        let mut report = self.clone();
        loop {
            let text = serde_json::to_string(&report).unwrap_or_default();
            if text.len() <= MAX_TERMINATION_MESSAGE {
                return text;
            }
            if report.errors.pop().is_none() {
                let keep = report.message.len().saturating_sub(256);
                let cut = (0..=keep).rev().find(|i| report.message.is_char_boundary(*i));
                report.message.truncate(cut.unwrap_or(0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_long_report_is_shortened_and_keeps_its_counts() {
        let report = MoverReport {
            errors_total: 5000,
            errors: (0..500).map(|i| format!("/data/file-{i}: permission denied")).collect(),
            message: "ä".repeat(4000),
            ..MoverReport::default()
        };
        let text = report.to_termination_message();
        assert!(text.len() <= MAX_TERMINATION_MESSAGE);
        let back: MoverReport = serde_json::from_str(&text).unwrap();
        assert_eq!(back.errors_total, 5000);
    }
}
