//! Long-running programs of a cluster: started in its network namespace and control group, known
//! by number **and** start time, so that a number that was given to another program is never hit.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::sys;

/// A process as it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

impl Process {
    /// The process that has this number now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        if state == "Z" || state == "X" {
            return None;
        }
        let start = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// This very process.
    pub fn own() -> Result<Self> {
        let pid = i32::try_from(std::process::id()).context("a process number is too large")?;
        Self::of(pid).context("cannot read the own process")
    }

    /// Whether it still runs (a zombie does not).
    #[must_use]
    pub fn alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Sends a signal if it still runs.
    pub fn send(&self, what: Signal) {
        if self.alive() {
            signal(self.pid, what);
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&self) -> Result<()> {
        self.send(Signal::KILL);
        sys::wait_for("the end of a killed process", Duration::from_secs(20), || {
            reap(self.pid);
            Ok((!self.alive()).then_some(()))
        })
    }

    /// Whether some process listens on this TCP port in the network namespace of this one.
    pub(crate) fn listens(&self, port: u16) -> bool {
        let wanted = format!(":{port:04X}");
        ["tcp", "tcp6"].iter().any(|table| {
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.pid));
            text.unwrap_or_default().lines().any(|line| {
                let mut fields = line.split_whitespace();
                fields.nth(1).is_some_and(|at| at.ends_with(&wanted)) && fields.nth(1) == Some("0A")
            })
        })
    }

    /// The memory that it occupies, in bytes.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .map_or(0, |kib| kib * 1024)
    }
}

/// Sends a signal to a number; a process that is gone is no error.
pub(crate) fn signal(pid: i32, what: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, what);
    }
}

/// Takes the end of a child of ours, if it is one, so that no zombie is left.
fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}

/// What a long-running program needs to be started.
pub(crate) struct Start<'a> {
    /// Its name in logs and records.
    pub name: &'a str,
    /// Program and arguments.
    pub argv: &'a [String],
    /// Folder of its cluster.
    pub dir: &'a Path,
    /// The network namespace by name, if it is not the host's.
    pub netns: Option<&'a str>,
    /// Files to write the own process number to, to join the control groups.
    pub cgroups: &'a [PathBuf],
}

/// Starts a program in the background and records it.
pub(crate) fn start(what: &Start<'_>) -> Result<Process> {
    if let Some(old) = recorded(what.dir, what.name)
        && old.alive()
    {
        bail!("{} already runs as process {}", what.name, old.pid);
    }
    let log_path = what.dir.join("log").join(format!("{}.log", what.name));
    fs::create_dir_all(what.dir.join("log"))?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("cannot write {}", log_path.display()))?;
    // The process joins its groups by itself before it becomes the program: when we die between
    // its start and its record it is still found by its group.
    let mut script = String::new();
    for file in what.cgroups {
        script.push_str(&format!("echo $$ > '{}' || exit 121\n", file.display()));
    }
    match what.netns {
        Some(ns) => script.push_str(&format!("exec nsenter --net=/run/netns/{ns} -- \"$@\"")),
        None => script.push_str("exec \"$@\""),
    }
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, "sh"])
        .args(what.argv)
        .current_dir(what.dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start {}", what.name))?;
    let pid = i32::try_from(child.id()).context("a process number is too large")?;
    let process = Process::of(pid)
        .with_context(|| format!("{} ended at once, see {}", what.name, log_path.display()))?;
    let record = serde_json::to_vec(&process)?;
    sys::write_atomic(&record_path(what.dir, what.name), record)?;
    Ok(process)
}

fn record_path(dir: &Path, name: &str) -> PathBuf {
    dir.join("pids").join(name)
}

/// The process that was recorded under a name, whether it still runs or not.
pub(crate) fn recorded(dir: &Path, name: &str) -> Option<Process> {
    serde_json::from_slice(&fs::read(record_path(dir, name)).ok()?).ok()
}

/// All recorded programs of a cluster's folder that still run.
pub(crate) fn running(dir: &Path) -> Vec<(String, Process)> {
    sys::names_in(&dir.join("pids"))
        .into_iter()
        .filter_map(|name| recorded(dir, &name).map(|process| (name, process)))
        .filter(|(_, process)| process.alive())
        .collect()
}

/// Forgets the programs that have ended: of a site that starts again none is missing yet.
pub(crate) fn forget_dead(dir: &Path) {
    for name in sys::names_in(&dir.join("pids")) {
        if !recorded(dir, &name).is_some_and(|process| process.alive()) {
            let _ = fs::remove_file(record_path(dir, &name));
        }
    }
}

/// The identity of this boot of the machine: a record of another boot names no live process.
pub(crate) fn boot_id() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read the boot id")?
        .trim()
        .to_owned())
}
