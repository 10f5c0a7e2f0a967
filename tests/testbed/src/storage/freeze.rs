//! A file system that is frozen for as long as a value lives, and not a moment longer.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::ioctl;

/// Leaves its control groups (v1 or v2), says so, waits for the end of its input, thaws.
const GUARD: &str = r#"
for procs in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do
    [ -w "$procs" ] && echo 0 > "$procs"
done
echo
read _
exec fsfreeze --unfreeze "$0"
"#;

/// A frozen file system. Thaws when dropped, and also when this process is killed: a guard
/// process waits for the end of a pipe that only we hold, and thaws then.
#[derive(Debug)]
pub struct Frozen {
    dir: File,
    guard: Child,
    thawed: bool,
}

impl Frozen {
    /// Freezes the file system mounted at `mount`.
    pub fn new(mount: &Path) -> Result<Self> {
        let dir = File::open(mount).with_context(|| format!("opening {}", mount.display()))?;
        // Most of what is dirty goes to disk while writers still run, so the freeze itself is short.
        rustix::fs::syncfs(&dir).with_context(|| format!("syncing {}", mount.display()))?;
        let guard = guard(mount).context("starting the guard of a freeze")?;
        // From here on a drop thaws, also when freezing half failed.
        let frozen = Self { dir, guard, thawed: false };
        ioctl::freeze(&frozen.dir).with_context(|| format!("freezing {}", mount.display()))?;
        Ok(frozen)
    }

    /// Thaws and says whether the file system was frozen until now: a copy is good only then.
    pub fn thaw(mut self) -> Result<()> {
        self.thawed = true;
        ioctl::thaw(&self.dir).context("thawing: the volume was not frozen all the time")
    }
}

/// Starts the guard and waits until it has left the control group of its cluster: killing or
/// freezing all of the cluster's processes must not take the one that thaws along.
fn guard(mount: &Path) -> Result<Child> {
    let mut guard = Command::new("sh")
        .args(["-c", GUARD])
        .arg(mount)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let mut line = [0; 1];
    let ready = guard.stdout.take().context("the guard has no output")?.read_exact(&mut line);
    if let Err(e) = ready {
        drop(guard.stdin.take());
        guard.wait()?;
        return Err(e).context("the guard ended early");
    }
    Ok(guard)
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.thawed {
            // Not frozen (the freeze failed) is the only way this fails, and it is fine.
            let _ = ioctl::thaw(&self.dir);
        }
        // The end of the pipe lets the guard end; it must not outlive us and thaw a later freeze.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Thaws what a killed process may have left frozen. `true` when it was.
pub fn thaw(mount: &Path) -> Result<bool> {
    let dir = File::open(mount).with_context(|| format!("opening {}", mount.display()))?;
    Ok(ioctl::thaw(&dir).is_ok())
}
