//! Where the provisioner's things lie below its directory, and the locks on them.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;

/// Sub-directories, all of them made by [`Layout::create`] and removed by a cleanup.
pub const SUBDIRS: [&str; 5] = ["volumes", "snapshots", "mounts", "keys", "locks"];
const LOCK_DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// Paths of one provisioner.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the directories where they are missing.
    pub fn create(dir: &Path) -> Result<Self> {
        for sub in SUBDIRS {
            let path = dir.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        let root = dir.canonicalize().with_context(|| format!("resolving {}", dir.display()))?;
        Ok(Self { root })
    }

    /// The layout of a directory that is there, `None` where there is none.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        match dir.canonicalize() {
            Ok(root) => Ok(Some(Self { root })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("resolving {}", dir.display())),
        }
    }

    /// The directory itself, without symbolic links.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Image file of a volume.
    pub fn volume(&self, pv: &str) -> PathBuf {
        self.root.join("volumes").join(format!("{pv}.img"))
    }
    /// Image file of a snapshot.
    pub fn snapshot(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(format!("{id}.img"))
    }
    /// What is known of a snapshot; it exists when this file does.
    pub fn snapshot_info(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(format!("{id}.json"))
    }
    /// Where a volume's whole file system is mounted.
    pub fn mount(&self, pv: &str) -> PathBuf {
        self.root.join("mounts").join(pv)
    }
    /// The directory of a volume that pods get.
    pub fn data(&self, pv: &str) -> PathBuf {
        self.mount(pv).join("data")
    }
    /// Master key of a volume or snapshot; there is none for plain ones.
    pub fn key(&self, name: &str) -> PathBuf {
        self.root.join("keys").join(format!("{name}.key"))
    }
    /// Written once all volumes are mounted.
    pub fn ready(&self) -> PathBuf {
        self.root.join("provisioner.ready")
    }

    /// Names of all volumes whose image is complete.
    pub fn volumes(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = files(&self.root.join("volumes"))?
            .iter()
            .filter(|p| p.extension().is_some_and(|e| e == "img"))
            .filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Takes the lock of one volume or snapshot, across processes; a killed holder frees it.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        self.lock_within(&format!("{name}.lock"), LOCK_DEADLINE)
    }

    /// The lock a running provisioner holds for as long as it lives.
    pub fn lock_provisioner(&self, deadline: Duration) -> Result<Lock> {
        self.lock_within("provisioner", deadline).context("is a provisioner still running here?")
    }

    fn lock_within(&self, name: &str, deadline: Duration) -> Result<Lock> {
        let path = self.root.join("locks").join(name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let until = Instant::now() + deadline;
        while let Err(e) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK && e != rustix::io::Errno::INTR {
                return Err(e).with_context(|| format!("locking {}", path.display()));
            }
            if Instant::now() > until {
                bail!("{} is held by another process for {deadline:?}", path.display());
            }
            std::thread::sleep(POLL);
        }
        Ok(Lock { _file: file })
    }
}

/// A lock that is held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The files directly in `dir`; none where the directory is missing.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("reading {}", dir.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.with_context(|| format!("reading {}", dir.display()))?.path());
    }
    found.sort();
    Ok(found)
}

/// Removes a file; one that is not there is fine.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Calls `probe` until it is true or the deadline has passed; says which.
pub fn wait_until(deadline: Duration, mut probe: impl FnMut() -> Result<bool>) -> Result<bool> {
    let until = Instant::now() + deadline;
    loop {
        if probe()? {
            return Ok(true);
        }
        if Instant::now() > until {
            return Ok(false);
        }
        std::thread::sleep(POLL);
    }
}
