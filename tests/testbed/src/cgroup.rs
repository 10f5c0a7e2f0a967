//! Control groups of one cluster: everything that it runs is in one tree, so that the whole site
//! can be frozen or killed at one instant. Both cgroup v1 and v2 are handled.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::sys;

const ROOT: &str = "/sys/fs/cgroup";
/// The child group of the cluster's own programs; the pods lie beside it.
const SYSTEM: &str = "system";

/// The control groups of one cluster.
#[derive(Clone, Debug)]
pub struct Cgroup {
    name: String,
    roots: Vec<PathBuf>,
    unified: bool,
}

impl Cgroup {
    /// The groups called `name` directly under every hierarchy of this machine.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let root = Path::new(ROOT);
        let unified = root.join("cgroup.controllers").exists();
        let roots = if unified {
            vec![root.to_owned()]
        } else {
            let wanted = [
                "cpu",
                "cpuacct",
                "cpuset",
                "memory",
                "devices",
                "freezer",
                "blkio",
                "pids",
                "systemd",
                "hugetlb",
                "net_cls",
                "net_prio",
                "perf_event",
                "unified",
            ];
            let dirs: BTreeSet<PathBuf> =
                wanted.iter().filter_map(|name| fs::canonicalize(root.join(name)).ok()).collect();
            dirs.into_iter().collect()
        };
        Self { name: name.to_owned(), roots, unified }
    }

    /// The names of all groups of this machine's first hierarchies that start with `prefix`.
    #[must_use]
    pub fn names(prefix: &str) -> BTreeSet<String> {
        let any = Self::new("");
        any.roots
            .iter()
            .flat_map(|root| sys::names_in(root))
            .filter(|name| name.starts_with(prefix))
            .collect()
    }

    /// Makes the groups, with the processors and memory nodes that v1's `cpuset` wants filled in.
    pub fn create(&self) -> Result<()> {
        for root in &self.roots {
            let dir = root.join(&self.name);
            let inner = dir.join(SYSTEM);
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            if self.unified {
                delegate(root)?;
                delegate(&dir)?;
            }
            fs::create_dir_all(&inner)?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if !self.unified && root.join(file).exists() {
                    let value = fs::read_to_string(root.join(file))?;
                    fs::write(dir.join(file), &value)?;
                    fs::write(inner.join(file), &value)?;
                }
            }
        }
        Ok(())
    }

    /// The files into which a process writes its number to join the group of the cluster's programs.
    #[must_use]
    pub fn join_files(&self) -> Vec<PathBuf> {
        self.dirs().map(|dir| dir.join(SYSTEM).join("cgroup.procs")).collect()
    }

    fn dirs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.roots.iter().map(|root| root.join(&self.name))
    }

    /// The numbers of all processes anywhere in the tree.
    #[must_use]
    pub fn pids(&self) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for dir in self.dirs() {
            collect_pids(&dir, &mut found);
        }
        found
    }

    /// Stops (`true`) or continues (`false`) every process of the tree at one instant.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let (file, value) = match (self.freezer(), frozen) {
            (Some(dir), true) if self.unified => (dir.join("cgroup.freeze"), "1"),
            (Some(dir), false) if self.unified => (dir.join("cgroup.freeze"), "0"),
            (Some(dir), true) => (dir.join("freezer.state"), "FROZEN"),
            (Some(dir), false) => (dir.join("freezer.state"), "THAWED"),
            (None, _) => bail!("this machine has no freezer control group"),
        };
        if !file.exists() {
            return Ok(());
        }
        fs::write(&file, value).with_context(|| format!("cannot write {}", file.display()))?;
        sys::wait_for("the freezer", Duration::from_secs(20), || Ok(self.settled(&file, value).then_some(())))
    }

    fn settled(&self, file: &Path, value: &str) -> bool {
        if self.unified {
            let events = file.with_file_name("cgroup.events");
            let wanted = format!("frozen {value}");
            fs::read_to_string(events).is_ok_and(|text| text.lines().any(|line| line == wanted))
        } else {
            fs::read_to_string(file).is_ok_and(|text| text.trim() == value)
        }
    }

    fn freezer(&self) -> Option<PathBuf> {
        self.roots
            .iter()
            .find(|root| self.unified || root.ends_with("freezer"))
            .map(|root| root.join(&self.name))
    }

    /// Kills every process of the tree, as if the machine lost its power.
    pub fn kill(&self) -> Result<()> {
        if self.pids().is_empty() {
            return Ok(());
        }
        self.freeze(true)?;
        for pid in self.pids() {
            crate::process::signal(pid, rustix::process::Signal::KILL);
        }
        self.freeze(false)?;
        sys::wait_for("the end of all processes of a site", Duration::from_secs(30), || {
            let left = self.pids();
            for pid in &left {
                crate::process::signal(*pid, rustix::process::Signal::KILL);
            }
            Ok(left.is_empty().then_some(()))
        })
    }

    /// Memory of the whole tree in bytes without the page cache.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let Some(dir) = self.dirs().find(|dir| dir.join("memory.stat").exists()) else {
            return 0;
        };
        let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let wanted = if self.unified { "anon " } else { "total_rss " };
        stat.lines().find_map(|line| line.strip_prefix(wanted)?.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes the groups; the processes must be gone.
    pub fn remove(&self) -> Result<()> {
        sys::wait_for("the removal of the control groups", Duration::from_secs(20), || {
            let left = self.dirs().filter(|dir| !remove_tree(dir)).count();
            Ok((left == 0).then_some(()))
        })
    }
}

/// Hands every controller down to the children of a v2 group; one that cannot be is left out.
fn delegate(dir: &Path) -> Result<()> {
    let have = fs::read_to_string(dir.join("cgroup.controllers"))
        .with_context(|| format!("cannot read the controllers of {}", dir.display()))?;
    for controller in have.split_whitespace() {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    Ok(())
}

fn collect_pids(dir: &Path, found: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1));
    for child in child_dirs(dir) {
        collect_pids(&child, found);
    }
}

fn remove_tree(dir: &Path) -> bool {
    for child in child_dirs(dir) {
        remove_tree(&child);
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

fn child_dirs(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
