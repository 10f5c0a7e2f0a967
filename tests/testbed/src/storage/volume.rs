//! Volumes and snapshots on disk: one image file each. Knows nothing of Kubernetes.
//!
//! Every step can be repeated: files are made under another name and renamed when complete, and
//! mounting does whatever is still missing. So a kill at any point is mended by the next call.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use rustix::mount::MountFlags;
use serde::{Deserialize, Serialize};

use super::freeze::{self, Frozen};
use super::layout::{Layout, remove_file};
use super::{fscrypt, image, loopdev};

const DETACH_DEADLINE: Duration = Duration::from_secs(20);

/// What a new volume holds at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Empty,
    /// What this snapshot holds.
    Snapshot(String),
    /// What this volume holds at the moment.
    Volume(String),
}

/// What is asked of a new volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of the volume (of the PersistentVolume).
    pub name: String,
    /// Bytes asked for.
    pub size: u64,
    /// Encrypt its data.
    pub encrypted: bool,
    /// What it holds at first.
    pub content: Content,
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// The moment of the freeze: everything synced before is in it.
    pub created: Timestamp,
    /// Size of the volume, so the least size of one restored from it.
    pub size: u64,
    /// The volume it was taken of.
    pub volume: String,
    /// How long writers had to wait.
    pub frozen: Duration,
}

/// The volumes below one directory.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// Where everything lies.
    pub layout: Layout,
    pub(super) prefix: String,
}

impl Volumes {
    /// Opens or makes the directory. `prefix` becomes the label of every file system made in it.
    pub fn new(dir: &Path, prefix: &str) -> Result<Self> {
        Ok(Self { layout: Layout::create(dir)?, prefix: prefix.to_owned() })
    }

    /// Makes a volume (if it is not there yet) and mounts it. Returns the size it really has.
    pub fn create(&self, request: &Request) -> Result<u64> {
        ensure!(is_name(&request.name), "{:?} cannot name a volume", request.name);
        let _lock = self.layout.lock(&request.name)?;
        let path = self.layout.volume(&request.name);
        if !path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
            self.make_image(request, &path).with_context(|| format!("making volume {}", request.name))?;
        }
        self.mount_locked(&request.name)?;
        size_of(&path)
    }

    fn make_image(&self, request: &Request, path: &Path) -> Result<()> {
        let size = image::rounded(request.size);
        let new = path.with_extension("new");
        let key = self.layout.key(&request.name);
        let source = match &request.content {
            Content::Empty => None,
            Content::Snapshot(id) => {
                self.snapshot_info(id)?.with_context(|| format!("there is no snapshot {id}"))?;
                Some((id, self.layout.snapshot(id)))
            }
            Content::Volume(name) => Some((name, self.layout.volume(name))),
        };
        let Some((name, from)) = source else {
            if request.encrypted {
                fscrypt::new_key(&key)?;
            }
            image::make(&new, size, request.encrypted, &self.prefix)?;
            return image::publish(&new, path);
        };
        let had = size_of(&from)?;
        ensure!(size >= had, "{size} bytes are asked for, but the source {name} has {had}");
        let locked = self.layout.key(name).exists();
        ensure!(
            locked == request.encrypted,
            "source {name} and new volume must both be encrypted, or neither"
        );
        if locked {
            fscrypt::copy_key(&self.layout.key(name), &key)?;
        }
        match &request.content {
            Content::Volume(volume) => drop(self.copy_frozen(volume, &new)?),
            _ => drop(image::copy(&from, &new)?),
        }
        image::new_uuid(&new)?;
        if size > had {
            image::grow(&new, size)?;
        }
        image::publish(&new, path)
    }

    /// Copies a volume's image while no writer can change it.
    fn copy_frozen(&self, volume: &str, to: &Path) -> Result<(Timestamp, Duration)> {
        let _lock = self.layout.lock(volume)?;
        let from = self.layout.volume(volume);
        let mount = self.layout.mount(volume);
        if loopdev::mount_at(&mount)?.is_none() {
            ensure!(loopdev::attached(&from)?.is_none(), "volume {volume} is in use but not mounted here");
            let now = Timestamp::now();
            image::copy(&from, to)?;
            return Ok((now, Duration::ZERO));
        }
        let frozen = Frozen::new(&mount)?;
        let (created, start) = (Timestamp::now(), Instant::now());
        image::copy(&from, to)?;
        frozen.thaw()?;
        Ok((created, start.elapsed()))
    }

    /// Takes a snapshot, or returns what is known of it when it is there already.
    pub fn snapshot(&self, volume: &str, id: &str) -> Result<SnapshotInfo> {
        ensure!(is_name(id), "{id:?} cannot name a snapshot");
        let _lock = self.layout.lock(id)?;
        if let Some(info) = self.snapshot_info(id)? {
            return Ok(info);
        }
        let path = self.layout.snapshot(id);
        let new = path.with_extension("new");
        let key = self.layout.key(volume);
        if key.exists() {
            fscrypt::copy_key(&key, &self.layout.key(id))?;
        }
        let (created, frozen) =
            self.copy_frozen(volume, &new).with_context(|| format!("taking snapshot {id} of {volume}"))?;
        image::publish(&new, &path)?;
        let info = SnapshotInfo { created, size: size_of(&path)?, volume: volume.to_owned(), frozen };
        let json = serde_json::to_vec(&info).context("writing down a snapshot")?;
        let known = self.layout.snapshot_info(id);
        let draft = known.with_extension("json.new");
        fs::write(&draft, json).with_context(|| format!("writing {}", draft.display()))?;
        image::publish(&draft, &known)?;
        Ok(info)
    }

    /// What is known of a snapshot; `None` when it is not complete.
    pub fn snapshot_info(&self, id: &str) -> Result<Option<SnapshotInfo>> {
        let path = self.layout.snapshot_info(id);
        match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => {
                let json = read.with_context(|| format!("reading {}", path.display()))?;
                serde_json::from_slice(&json)
                    .with_context(|| format!("understanding {}", path.display()))
                    .map(Some)
            }
        }
    }

    /// Deletes a snapshot; one that is not there is fine.
    pub fn delete_snapshot(&self, id: &str) -> Result<()> {
        ensure!(is_name(id), "{id:?} cannot name a snapshot");
        let lock = self.layout.lock(id)?;
        let path = self.layout.snapshot(id);
        for file in [self.layout.snapshot_info(id), path.with_extension("new"), path, self.layout.key(id)] {
            remove_file(&file)?;
        }
        self.forget_lock(id, lock)
    }

    /// Unmounts and deletes a volume. Fails, and may be repeated, while a pod still uses it.
    pub fn delete(&self, name: &str) -> Result<()> {
        ensure!(is_name(name), "{name:?} cannot name a volume");
        let lock = self.layout.lock(name)?;
        let (path, mount) = (self.layout.volume(name), self.layout.mount(name));
        loopdev::unmount(&mount, false)?;
        loopdev::wait_detached(&path, DETACH_DEADLINE)?;
        if mount.exists() {
            fs::remove_dir(&mount).with_context(|| format!("removing {}", mount.display()))?;
        }
        for file in [path.with_extension("new"), path, self.layout.key(name)] {
            remove_file(&file)?;
        }
        self.forget_lock(name, lock)
    }

    /// Names are never used twice, so nobody waits for the lock of a deleted thing.
    fn forget_lock(&self, name: &str, _held: super::layout::Lock) -> Result<()> {
        remove_file(&self.layout.root().join("locks").join(format!("{name}.lock")))
    }

    /// Mounts a volume and unlocks it with its key. Idempotent.
    pub fn mount(&self, name: &str) -> Result<()> {
        let _lock = self.layout.lock(name)?;
        self.mount_locked(name)
    }

    fn mount_locked(&self, name: &str) -> Result<()> {
        let (path, mount, data) = (self.layout.volume(name), self.layout.mount(name), self.layout.data(name));
        fs::create_dir_all(&mount).with_context(|| format!("making {}", mount.display()))?;
        if loopdev::mount_at(&mount)?.is_none() {
            let (device, open) = loopdev::attach(&path)?;
            rustix::mount::mount(&device.node, &mount, "ext4", MountFlags::empty(), Some(c"discard"))
                .with_context(|| format!("mounting {} at {}", device.node.display(), mount.display()))?;
            // The mount holds the device from here on.
            drop(open);
        }
        // Fails on a file system that a power cut has stopped and that somebody still uses.
        fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
        let key = self.layout.key(name);
        if key.exists() {
            fscrypt::unlock(&mount, &data, &key)?;
        }
        fs::read_dir(&data).map(drop).with_context(|| format!("reading {}", data.display()))
    }

    /// Locks a volume: key out of the kernel, everything unmounted, device released.
    pub fn lock(&self, name: &str) -> Result<()> {
        let _lock = self.layout.lock(name)?;
        let (path, mount, key) = (self.layout.volume(name), self.layout.mount(name), self.layout.key(name));
        if let Some(at) = loopdev::mount_at(&mount)? {
            freeze::thaw(&mount)?;
            if key.exists() && !fscrypt::lock(&mount, &key)? {
                bail!("volume {name} still has open files: stop its pods before locking it");
            }
            loopdev::unmount_device(&at.device, false)?;
        }
        loopdev::wait_detached(&path, DETACH_DEADLINE)
    }
}

/// Names become file names and part of mount options: keep them as plain as Kubernetes does.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(plain)
}

fn size_of(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?.len())
}

/// Paths that one provisioner's directory would still have in use: for messages and tests.
pub fn leftovers(dir: &Path) -> Result<Vec<PathBuf>> {
    let Some(layout) = Layout::open(dir)? else {
        return Ok(Vec::new());
    };
    let root = layout.root();
    let mut found: Vec<PathBuf> = loopdev::attached_below(root)?.into_iter().map(|d| d.node).collect();
    found.extend(loopdev::mounts()?.into_iter().map(|m| m.target).filter(|t| t.starts_with(root)));
    Ok(found)
}
