//! What the machine must have, and how it gets it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::sys;

/// A program that must be there, and the Debian package that brings it.
type Need = (&'static str, &'static str);

/// To run clusters.
pub(crate) const CLUSTER: &[Need] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nsenter", "util-linux"),
    ("conntrack", "conntrack"),
    ("sysctl", "procps"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
];
/// To make images out of a Containerfile.
pub(crate) const BUILDAH: &[Need] = &[("buildah", "buildah")];
/// To make the image of PostgreSQL.
pub(crate) const MMDEBSTRAP: &[Need] = &[("mmdebstrap", "mmdebstrap")];

/// Fails unless we are root: namespaces, mounts and control groups need it.
pub(crate) fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the testbed needs root: it makes network namespaces, mounts and control groups");
    }
    Ok(())
}

/// Sees to it that programs are there, and installs their Debian packages where they are missing.
pub(crate) fn require(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    require_root()?;
    if sys::which("apt-get").is_none() {
        bail!("these Debian packages are missing and there is no apt-get to install them: {list}");
    }
    tracing::info!("installing {list}");
    let _held = sys::lock(&crate::cache::dir().join("apt.lock"))?;
    apt(&["update", "-q"]).context("apt-get update failed")?;
    let install = ["install", "-y", "-q", "--no-install-recommends"];
    apt(&[install.as_slice(), missing.as_slice()].concat())
        .with_context(|| format!("could not install these missing Debian packages: {list}"))
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = needs
        .iter()
        .filter(|(program, _)| sys::which(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if needs == CLUSTER && cni_plugins().is_err() {
        packages.push("containernetworking-plugins");
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    sys::output(&mut command).map(|_| ())
}

/// The folder of the CNI plugins.
pub(crate) fn cni_plugins() -> Result<PathBuf> {
    ["/usr/lib/cni", "/opt/cni/bin"]
        .map(PathBuf::from)
        .into_iter()
        .find(|dir| dir.join("bridge").exists() && dir.join("host-local").exists())
        .context("the CNI plugins are missing (Debian: containernetworking-plugins)")
}

/// The Go toolchain.
pub(crate) fn go() -> Result<PathBuf> {
    sys::which("go").context("Go (1.25 or newer) is missing: it builds Kubernetes, see https://go.dev/dl")
}
