//! Loop devices and the mounts on them.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::ioctl;
use super::layout::wait_until;

const LOOP_MAJOR: u32 = 7;
const ATTACH_DEADLINE: Duration = Duration::from_secs(20);
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(5);

/// A loop device with a file behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopDevice {
    /// For example `/dev/loop3`.
    pub node: PathBuf,
    /// The file, as the kernel names it (without ` (deleted)`).
    pub backing: PathBuf,
    /// `major:minor`, as in mountinfo.
    pub device: String,
}

/// A mount of this process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of what is mounted.
    pub device: String,
    /// Where.
    pub target: PathBuf,
}

/// All loop devices whose file lies below `root`.
pub fn attached_below(root: &Path) -> Result<Vec<LoopDevice>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").context("reading /sys/block")? {
        let sys = entry.context("reading /sys/block")?.path();
        // Devices come and go while we read: one without a file is simply not attached.
        let (Ok(backing), Ok(device)) =
            (fs::read(sys.join("loop/backing_file")), fs::read_to_string(sys.join("dev")))
        else {
            continue;
        };
        let backing = trimmed(backing);
        if let (Some(name), true) = (sys.file_name(), backing.starts_with(root)) {
            let node = Path::new("/dev").join(name);
            found.push(LoopDevice { node, backing, device: device.trim().to_owned() });
        }
    }
    Ok(found)
}

fn trimmed(mut raw: Vec<u8>) -> PathBuf {
    if raw.last() == Some(&b'\n') {
        raw.pop();
    }
    if raw.ends_with(b" (deleted)") {
        raw.truncate(raw.len() - b" (deleted)".len());
    }
    PathBuf::from(std::ffi::OsString::from_vec(raw))
}

/// The device that has `image` behind it.
pub fn attached(image: &Path) -> Result<Option<LoopDevice>> {
    Ok(attached_below(image)?.into_iter().find(|d| d.backing == image))
}

/// Attaches `image` and returns the open device: it detaches itself when this file is closed
/// and nothing is mounted, so a killed process leaves no device behind.
///
/// An image that is attached already gets the same device: two over one file would tear it.
pub fn attach(image: &Path) -> Result<(LoopDevice, File)> {
    let backing = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .with_context(|| format!("opening {}", image.display()))?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .context("opening /dev/loop-control (are you root?)")?;
    let until = Instant::now() + ATTACH_DEADLINE;
    while Instant::now() < until {
        if let Some(old) = attached(image)? {
            let Ok(file) = OpenOptions::new().read(true).write(true).open(&old.node) else {
                continue;
            };
            // It may have been released between the look and the open.
            if attached(image)?.as_ref() == Some(&old) {
                return Ok((old, file));
            }
            continue;
        }
        let number = ioctl::loop_get_free(&control).context("asking for a free loop device")?;
        let file = open_node(number)?;
        match ioctl::loop_configure(&file, &backing, &image.to_string_lossy()) {
            Ok(()) => {
                let device = attached(image)?.with_context(|| format!("{} vanished", image.display()))?;
                return Ok((device, file));
            }
            // Somebody else was quicker with this device.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENXIO)) => {}
            Err(e) => return Err(e).with_context(|| format!("attaching {}", image.display())),
        }
    }
    bail!("no free loop device for {} within {ATTACH_DEADLINE:?}", image.display())
}

/// Opens `/dev/loopN`, making the node where /dev has only the first few.
fn open_node(number: u32) -> Result<File> {
    let node = PathBuf::from(format!("/dev/loop{number}"));
    let device = rustix::fs::makedev(LOOP_MAJOR, number);
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
    match rustix::fs::mknodat(rustix::fs::CWD, &node, FileType::BlockDevice, mode, device) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).with_context(|| format!("making {}", node.display())),
    }
    let open = OpenOptions::new().read(true).write(true).open(&node);
    open.with_context(|| format!("opening {}", node.display()))
}

/// The mounts of this mount namespace, in the order they were made.
pub fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo").context("reading mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_mount).collect())
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ').skip(2);
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let target = unescape(fields.nth(1)?);
    Some(Mount { device, target: PathBuf::from(std::ffi::OsString::from_vec(target)) })
}

/// Undoes the kernel's `\040` for a space and its like.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// The mounts of loop devices below `root`: others there are not ours.
pub fn loop_mounts_below(root: &Path) -> Result<Vec<Mount>> {
    let ours = |m: &Mount| m.target.starts_with(root) && m.device.starts_with("7:");
    Ok(mounts()?.into_iter().filter(ours).collect())
}

/// The mount at exactly `target`, the topmost if there are several.
pub fn mount_at(target: &Path) -> Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rev().find(|m| m.target == target))
}

/// Unmounts one target; one that is not mounted is fine. `force`: where it stays busy, detach it.
pub fn unmount(target: &Path, force: bool) -> Result<()> {
    let gone =
        wait_until(UNMOUNT_DEADLINE, || match rustix::mount::unmount(target, UnmountFlags::empty()) {
            Ok(()) => Ok(mount_at(target)?.is_none()),
            Err(Errno::INVAL | Errno::NOENT) => Ok(true),
            Err(Errno::BUSY) => Ok(false),
            Err(e) => Err(e).with_context(|| format!("unmounting {}", target.display())),
        })?;
    if gone {
        return Ok(());
    }
    if !force {
        bail!("{} stays busy: a process still has files open on it", target.display());
    }
    match rustix::mount::unmount(target, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("detaching {}", target.display())),
    }
}

/// Unmounts everything that shows `device`, also the binds that a kubelet made for pods.
pub fn unmount_device(device: &str, force: bool) -> Result<()> {
    for mount in mounts()?.iter().rev().filter(|m| m.device == device) {
        unmount(&mount.target, force)?;
    }
    Ok(())
}

/// Waits until no device has the file behind it any more.
pub fn wait_detached(image: &Path, deadline: Duration) -> Result<()> {
    if wait_until(deadline, || Ok(attached(image)?.is_none()))? {
        return Ok(());
    }
    bail!("{} is still in use after {deadline:?}: is a pod still running on it?", image.display())
}

/// Detaches a device by force; a device that is gone is fine.
pub fn clear(device: &LoopDevice) -> Result<()> {
    let file = match File::open(&device.node) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("opening {}", device.node.display()))?,
    };
    match ioctl::loop_clear(&file) {
        Err(e) if e.raw_os_error() != Some(libc::ENXIO) => {
            Err(e).with_context(|| format!("detaching {}", device.node.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_their_escapes() {
        let line = br"36 35 98:0 /mnt1 /mnt\040two/a\134b rw,noatime master:1 - ext3 /dev/root rw";
        let mount = parse_mount(line);
        let want = Mount { device: "98:0".into(), target: PathBuf::from(r"/mnt two/a\b") };
        assert_eq!(mount, Some(want));
        assert_eq!(parse_mount(b""), None);
    }

    #[test]
    fn names_of_deleted_files_are_cut() {
        assert_eq!(trimmed(b"/a/b.img (deleted)\n".to_vec()), PathBuf::from("/a/b.img"));
        assert_eq!(trimmed(b"/a/b.img\n".to_vec()), PathBuf::from("/a/b.img"));
    }
}
