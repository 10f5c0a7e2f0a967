//! Removes what an instance left, from its names alone: nothing here needs a live process or a
//! complete record, so that it works after any crash.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::cgroup::Cgroup;
use crate::net::Network;
use crate::{process, sys};

/// Removes everything of an instance: processes, mounts, loop devices, network, control groups, files.
pub(crate) fn instance(number: u8, dir: &Path) -> Result<()> {
    let network = Network::new(number);
    let groups: Vec<Cgroup> = Cgroup::names(&network.prefix()).iter().map(|name| Cgroup::new(name)).collect();
    for group in &groups {
        group.kill()?;
    }
    for cluster in sys::names_in(dir) {
        let cluster = dir.join(cluster);
        for (_, process) in process::running(&cluster) {
            process.kill()?;
        }
        container_files(&cluster);
    }
    network.destroy()?;
    mounts(dir)?;
    loops(dir)?;
    for group in &groups {
        group.remove()?;
    }
    links(dir);
    device_socket();
    cni_results(&network.prefix());
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

/// Takes away every mount at or under a folder.
pub(crate) fn mounts(dir: &Path) -> Result<()> {
    sys::wait_for("the end of all mounts", Duration::from_secs(20), || {
        let found = sys::mounts_under(dir)?;
        for point in &found {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
        Ok(found.is_empty().then_some(()))
    })
}

/// Detaches the loop devices whose files lie under a folder.
pub(crate) fn loops(dir: &Path) -> Result<()> {
    if !Path::new("/sys/block").exists() {
        return Ok(());
    }
    sys::wait_for("the end of all loop devices", Duration::from_secs(20), || {
        let mut left = 0;
        for name in sys::names_in("/sys/block".as_ref()) {
            let file = Path::new("/sys/block").join(&name).join("loop/backing_file");
            let Ok(backing) = fs::read_to_string(file) else {
                continue;
            };
            if Path::new(backing.trim().trim_end_matches(" (deleted)")).starts_with(dir) {
                let _ = sys::run("losetup", &["-d", &format!("/dev/{name}")]);
                left += 1;
            }
        }
        Ok((left == 0).then_some(()))
    })
}

/// Removes what containerd puts outside of the cluster's folder for each of its containers: the
/// sockets of its shims, the CNI library's notes.
pub(crate) fn container_files(cluster: &Path) {
    let tasks = cluster.join("run/io.containerd.runtime.v2.task/k8s.io");
    for id in sys::names_in(&tasks) {
        cni_results(&format!("cni-loopback-{id}-"));
        let address = fs::read_to_string(tasks.join(id).join("address")).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://") {
            let inside = Path::new(socket).starts_with("/run/containerd/s");
            if inside && fs::metadata(socket).is_ok_and(|found| found.file_type().is_socket()) {
                let _ = fs::remove_file(socket);
            }
        }
    }
    let _ = fs::remove_dir("/run/containerd/s");
    let _ = fs::remove_dir("/run/containerd");
}

/// Removes the links to logs that kubelets put where all of them do.
fn links(dir: &Path) {
    let logs = Path::new("/var/log/containers");
    for name in sys::names_in(logs) {
        let link = logs.join(name);
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(dir)) {
            let _ = fs::remove_file(link);
        }
    }
    let _ = fs::remove_dir(logs);
}

/// Removes the socket for device plugins, which lies at one place for all kubelets of the machine,
/// unless one listens there.
fn device_socket() {
    let dir = Path::new("/var/lib/kubelet/device-plugins");
    let socket = dir.join("kubelet.sock");
    if socket.exists() && std::os::unix::net::UnixStream::connect(&socket).is_err() {
        let _ = fs::remove_file(socket);
        let _ = fs::remove_dir(dir);
        let _ = fs::remove_dir("/var/lib/kubelet");
    }
}

/// Removes what the CNI library remembers of networks with our prefix.
fn cni_results(prefix: &str) {
    let results = Path::new("/var/lib/cni/results");
    for name in sys::names_in(results) {
        if name.starts_with(prefix) {
            let _ = fs::remove_file(results.join(name));
        }
    }
    let _ = fs::remove_dir(results);
    let _ = fs::remove_dir("/var/lib/cni");
}

/// Says what of an instance is still there, one line for each thing: for tests of the cleaning.
pub fn traces(number: u8, dir: &Path) -> Result<Vec<String>> {
    let network = Network::new(number);
    let prefix = network.prefix();
    let mut found = Vec::new();
    found.extend(Cgroup::names(&prefix).into_iter().map(|name| format!("cgroup {name}")));
    for (place, what) in
        [("/run/netns", "netns"), ("/sys/class/net", "link"), ("/var/lib/cni/results", "cni")]
    {
        let names = sys::names_in(place.as_ref());
        found.extend(names.into_iter().filter(|n| n.starts_with(&prefix)).map(|n| format!("{what} {n}")));
    }
    found.extend(sys::mounts_under(dir)?.iter().map(|point| format!("mount {}", point.display())));
    for entry in sys::names_in("/proc".as_ref()) {
        let Ok(pid) = entry.parse::<i32>() else {
            continue;
        };
        if pid == process::Process::own()?.pid {
            continue;
        }
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&format!("{}/", dir.display())) {
            found.push(format!("process {pid} {line}"));
        }
    }
    if dir.exists() {
        found.push(format!("folder {}", dir.display()));
    }
    Ok(found)
}

/// Refuses a folder that would be dangerous to remove.
pub(crate) fn check_base(dir: &Path) -> Result<()> {
    if !dir.is_absolute() || dir.components().count() < 3 {
        bail!("{} cannot be the testbed's folder: give an absolute path with two parts", dir.display());
    }
    Ok(())
}
