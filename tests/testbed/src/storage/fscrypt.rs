//! One random master key per volume, and the encrypted directory under it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::image::publish;
use super::ioctl::{self, KEY_LEN};

/// A volume's master key as it lies in its file.
type Key = [u8; KEY_LEN];

/// Makes a random key of mode 0600.
pub fn new_key(path: &Path) -> Result<()> {
    let mut key: Key = [0; KEY_LEN];
    let mut random = File::open("/dev/urandom").context("opening /dev/urandom")?;
    random.read_exact(&mut key).context("reading /dev/urandom")?;
    write_key(path, &key)
}

/// Copies a key: a copy of a volume opens with the key of the volume.
pub fn copy_key(from: &Path, to: &Path) -> Result<()> {
    write_key(to, &read_key(from)?)
}

fn write_key(path: &Path, key: &Key) -> Result<()> {
    let new = path.with_extension("key.new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new).with_context(|| format!("making {}", new.display()))?;
    file.write_all(key).with_context(|| format!("writing {}", new.display()))?;
    publish(&new, path)
}

fn read_key(path: &Path) -> Result<Key> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let length = bytes.len();
    ensure!(length == KEY_LEN, "{} has {length} bytes in place of {KEY_LEN}", path.display());
    bytes.try_into().map_err(|_| anyhow::anyhow!("{} is no key", path.display()))
}

/// Unlocks the mounted file system and makes sure that `data` in it is encrypted. Idempotent.
pub fn unlock(mount: &Path, data: &Path, key: &Path) -> Result<()> {
    let file_system = File::open(mount).with_context(|| format!("opening {}", mount.display()))?;
    let id = ioctl::add_key(&file_system, &read_key(key)?)
        .with_context(|| format!("giving the kernel the key of {}", mount.display()))?;
    let directory = File::open(data).with_context(|| format!("opening {}", data.display()))?;
    ioctl::set_policy(&directory, &id).with_context(|| format!("encrypting {}", data.display()))
}

/// Takes the key from the kernel. Files that are still open stay readable: `false` then.
pub fn lock(mount: &Path, key: &Path) -> Result<bool> {
    let file_system = File::open(mount).with_context(|| format!("opening {}", mount.display()))?;
    let id = ioctl::add_key(&file_system, &read_key(key)?).context("naming the key")?;
    ioctl::remove_key(&file_system, &id).with_context(|| format!("locking {}", mount.display()))
}
