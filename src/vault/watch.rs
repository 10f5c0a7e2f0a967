//! Files that are read again while the vault runs: certificates, quotas, the list of repositories.
//!
//! They are polled, not watched: Kubernetes swaps a whole folder by a symlink, network file systems
//! raise no events, and reading a few kilobytes every two seconds costs nothing.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Reads a whole file of at most `max` bytes.
///
/// # Errors
/// The file system's, or `FileTooLarge`.
pub fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}
