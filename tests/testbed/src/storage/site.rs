//! What happens to all volumes of a site at once: power on, power cut, theft, and removal.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::layout::{Layout, SUBDIRS, files, remove_file, wait_until};
use super::volume::{Volumes, leftovers};
use super::{freeze, ioctl, loopdev};

const DETACH_DEADLINE: Duration = Duration::from_secs(20);
const PROVISIONER_DEADLINE: Duration = Duration::from_secs(10);

/// Mounts every volume below `dir` and unlocks it: what a site does at power-on, before its
/// kubelet starts. Also thaws what a killed provisioner left frozen. Idempotent.
/// Returns how many volumes there are.
pub fn mount_all(dir: &Path) -> Result<usize> {
    let Some(layout) = Layout::open(dir)? else {
        return Ok(0);
    };
    thaw_all(dir)?;
    let volumes = Volumes { prefix: String::new(), layout };
    let names = volumes.layout.volumes()?;
    for name in &names {
        volumes.mount(name).with_context(|| format!("mounting volume {name}"))?;
    }
    Ok(names.len())
}

/// Locks every volume below `dir`: keys out of the kernel, unmounted, devices released. What is
/// left is what a thief of the disks gets. Pods must have ended: fails while files are open.
pub fn lock_all(dir: &Path) -> Result<()> {
    let Some(layout) = Layout::open(dir)? else {
        return Ok(());
    };
    let volumes = Volumes { prefix: String::new(), layout };
    for name in volumes.layout.volumes()? {
        volumes.lock(&name).with_context(|| format!("locking volume {name}"))?;
    }
    Ok(())
}

/// Thaws every mounted volume below `dir` (also when `dir` holds the storage of several
/// clusters) and says how many were frozen.
pub fn thaw_all(dir: &Path) -> Result<usize> {
    let Some(layout) = Layout::open(dir)? else {
        return Ok(0);
    };
    let mut thawed = 0;
    for mount in loopdev::loop_mounts_below(layout.root())? {
        thawed += usize::from(freeze::thaw(&mount.target)?);
    }
    Ok(thawed)
}

/// Cuts the power of every volume below `dir`: what is not on disk now never gets there, and
/// everything is unmounted. Call it after the site's processes were killed; [`mount_all`] is
/// the power coming back.
pub fn power_cut(dir: &Path) -> Result<()> {
    let Some(layout) = Layout::open(dir)? else {
        return Ok(());
    };
    thaw_all(dir)?;
    for mount in loopdev::loop_mounts_below(layout.root())? {
        let open =
            File::open(&mount.target).with_context(|| format!("opening {}", mount.target.display()))?;
        ioctl::shutdown(&open).with_context(|| format!("cutting the power of {}", mount.target.display()))?;
    }
    release(&layout)
}

/// Unmounts and detaches everything below the root, by force where files are still open.
fn release(layout: &Layout) -> Result<()> {
    let root = layout.root();
    for device in loopdev::attached_below(root)? {
        loopdev::unmount_device(&device.device, true)?;
    }
    for mount in loopdev::mounts()?.iter().rev().filter(|m| m.target.starts_with(root)) {
        loopdev::unmount(&mount.target, true)?;
    }
    let released = wait_until(DETACH_DEADLINE, || Ok(loopdev::attached_below(root)?.is_empty()))?;
    if !released {
        for device in loopdev::attached_below(root)? {
            loopdev::clear(&device)?;
        }
    }
    let left = leftovers(root)?;
    if !left.is_empty() {
        bail!("still in use: {left:?}: a process keeps files open there");
    }
    Ok(())
}

/// Removes everything a provisioner made below `dir`: mounts, loop devices, files, also after a
/// kill at any point. Refuses while a provisioner runs there. Nothing there is fine.
pub fn cleanup(dir: &Path) -> Result<()> {
    let Some(layout) = Layout::open(dir)? else {
        return Ok(());
    };
    if layout.root().join("locks").is_dir() {
        drop(layout.lock_provisioner(PROVISIONER_DEADLINE)?);
    }
    thaw_all(dir)?;
    release(&layout)?;
    remove_file(&layout.ready())?;
    for sub in SUBDIRS {
        let path = layout.root().join(sub);
        if path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    // Other things of the cluster may lie in the same directory: leave it to them then.
    if files(layout.root())?.is_empty() {
        fs::remove_dir(layout.root()).with_context(|| format!("removing {}", layout.root().display()))?;
    }
    Ok(())
}
