//! File-system primitives by directory descriptor.
//!
//! Nothing here ever follows a symbolic link of the volume: every name is one component below an
//! open directory. What has no `*at` call (chmod, extended attributes) goes through
//! `/proc/self/fd/N/NAME` with the calls that do not follow the last component.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Block device.
    Block,
    /// Character device.
    Char,
}

/// Seconds and nanoseconds (0..1e9) since 1970.
pub type Time = (i64, u32);

/// What stat says.
#[derive(Clone, Debug)]
pub struct Meta {
    /// The kind.
    pub kind: Kind,
    /// `st_mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Status change time.
    pub ctime: Time,
    /// Inode number.
    pub ino: u64,
    /// Names of the inode.
    pub nlink: u64,
    /// Device number of a device node.
    pub rdev: u64,
    /// True for the root of a mounted file system.
    pub mount_root: bool,
}

/// Extended attributes.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// stat of `name` in `dir`; the empty name is `dir` itself.
///
/// # Errors
/// As statx(2).
pub fn stat(dir: impl AsFd, name: &OsStr) -> io::Result<Meta> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?;
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::BlockDevice => Kind::Block,
        FileType::CharacterDevice => Kind::Char,
        FileType::Unknown => return Err(io::Error::other("an unknown type of file")),
    };
    Ok(Meta {
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: stat.stx_size,
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        ino: stat.stx_ino,
        nlink: stat.stx_nlink.into(),
        rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        mount_root: stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
            && stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// [`stat`], with `None` where there is nothing.
///
/// # Errors
/// As statx(2), without ENOENT.
pub fn stat_if_there(dir: impl AsFd, name: &OsStr) -> io::Result<Option<Meta>> {
    match stat(dir, name) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the directory at `path`, the only place where a whole path is followed: it is ours, not
/// the volume's.
///
/// # Errors
/// As open(2).
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the directory `name` in `dir`.
///
/// # Errors
/// As openat(2); ENOTDIR or ELOOP if it is no directory.
pub fn open_dir(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens the regular file `name` in `dir` for reading, without touching its access time if we may.
///
/// # Errors
/// As openat(2).
pub fn open_file(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    // NONBLOCK: should it have become a FIFO meanwhile, open must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::openat(&dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => Ok(rustix::fs::openat(&dir, name, flags, Mode::empty())?),
        other => Ok(other?),
    }
}

/// Names in `dir`, sorted by bytes, without `.` and `..`.
///
/// # Errors
/// As getdents(2).
pub fn list(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_os_string());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A path to `name` in `dir` for calls that take no descriptor.
#[must_use]
pub fn proc_path(dir: impl AsFd, name: &OsStr) -> PathBuf {
    let dir = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()));
    // Without a name the path must end in `/.`: else it is the magic link itself.
    if name.is_empty() { dir.join(".") } else { dir.join(name) }
}

/// The labels of a node's security policy belong to that node: the kubelet relabels a volume for
/// the pod that uses it, so another cluster's label would only lock the pod out.
const NODE_LABEL: &[u8] = b"security.selinux";

/// Extended attributes of `name` in `dir` itself (never of a link's target).
///
/// # Errors
/// As llistxattr(2) and lgetxattr(2); a file system without attributes has none.
pub fn xattrs(dir: impl AsFd, name: &OsStr) -> io::Result<Xattrs> {
    let path = proc_path(dir, name);
    let names = match grow(|buffer| rustix::fs::llistxattr(&path, buffer)) {
        Ok(names) => names,
        Err(rustix::io::Errno::NOTSUP) => return Ok(Xattrs::new()),
        Err(error) => return Err(error.into()),
    };
    let mut out = Xattrs::new();
    for name in names.split(|byte| *byte == 0).filter(|n| !n.is_empty() && *n != NODE_LABEL) {
        match grow(|buffer| rustix::fs::lgetxattr(&path, OsStr::from_bytes(name), buffer)) {
            Ok(value) => drop(out.insert(name.to_vec(), value)),
            // Removed since it was listed.
            Err(rustix::io::Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(out)
}

/// Calls `get` with larger buffers until its answer fits; the kernel's own limit is 64 KiB.
fn grow(mut get: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 512];
    loop {
        match get(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(rustix::io::Errno::RANGE) if buffer.len() <= 1 << 20 => {
                let larger = buffer.len() * 4;
                buffer.resize(larger, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Target of the symbolic link `name` in `dir`.
///
/// # Errors
/// As readlinkat(2).
pub fn read_link(dir: impl AsFd, name: &OsStr) -> io::Result<OsString> {
    let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
    Ok(OsStr::from_bytes(target.to_bytes()).to_os_string())
}
