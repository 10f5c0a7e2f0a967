//! Full disks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The name of the file that takes the space.
const NAME: &str = ".testbed-fill";

/// Fills the file system of `folder` until `leave` bytes are free.
pub fn fill(folder: &Path, leave: u64) -> Result<PathBuf> {
    let file_path = folder.join(NAME);
    let file = File::options()
        .create(true)
        .append(true)
        .open(&file_path)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    // Allocation needs blocks for itself, so that one step may fall short or fail: smaller ones follow.
    let mut step = u64::MAX;
    while step >= 4096 {
        let stat = statvfs(folder)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(leave);
        step = step.min(free);
        if step < 4096 {
            break;
        }
        let end = file.metadata()?.len();
        if fallocate(&file, FallocateFlags::empty(), end, step).is_err() {
            step /= 2;
        }
    }
    Ok(file_path)
}

/// Gives the space back.
pub fn free(folder: &Path) -> Result<()> {
    match fs::remove_file(folder.join(NAME)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
