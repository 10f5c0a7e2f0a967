//! What takes long to build is built once and kept outside the work tree, under a name that says
//! what it was made of. A build goes to a temporary name first: one that is killed leaves nothing
//! that could be taken for a result.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::{host, sys};

const KUBE_MAIN: &str = include_str!("../kube/main.go");
const KUBE_MOD: &str = include_str!("../kube/go.mod");
const KUBE_SUM: &str = include_str!("../kube/go.sum");
const TOOLS_GO: &str = include_str!("../tools/tools.go");
const TOOLS_MOD: &str = include_str!("../tools/go.mod");
const TOOLS_SUM: &str = include_str!("../tools/go.sum");
const KIND_MAIN: &str = include_str!("../tools/kindcheck/main.go");
const KIND_MOD: &str = include_str!("../tools/kindcheck/go.mod");
const KIND_SUM: &str = include_str!("../tools/kindcheck/go.sum");

/// The version of Kubernetes in `kube/go.mod`: a test holds the two together.
pub const KUBERNETES: &str = "v1.35.4";

/// The cache: `DATA_EMBASSY_CACHE`, or `/var/cache/data-embassy`.
#[must_use]
pub fn dir() -> PathBuf {
    std::env::var_os("DATA_EMBASSY_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/data-embassy"), PathBuf::from)
}

/// The key of something made of these parts.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A folder of the cache: as it is, or made by `build` in a temporary folder beside it.
pub(crate) fn folder(name: &str, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let done = dir().join(format!("{name}-{key}"));
    if done.exists() {
        return Ok(done);
    }
    let _held = sys::lock(&dir().join(format!("{name}.lock")))?;
    if done.exists() {
        return Ok(done);
    }
    remove_unfinished(name);
    tracing::info!("building {name} into the cache");
    let began = std::time::Instant::now();
    let part = tempfile::Builder::new()
        .prefix(&format!("{name}.part-"))
        .tempdir_in(dir())
        .context("cannot write into the cache")?;
    build(part.path()).with_context(|| format!("cannot build {name}"))?;
    let part = part.keep();
    fs::rename(&part, &done).with_context(|| format!("cannot finish {}", done.display()))?;
    tracing::info!("built {name} in {} s", began.elapsed().as_secs());
    Ok(done)
}

/// What killed builds of this name left; the lock is held, so none is in work.
fn remove_unfinished(name: &str) {
    for entry in sys::names_in(&dir()) {
        if entry.starts_with(&format!("{name}.part-")) {
            let _ = fs::remove_dir_all(dir().join(entry));
        }
    }
}

/// The programs of Kubernetes, etcd and CoreDNS in one file, and `kubectl` as a name of it.
#[derive(Clone, Debug)]
pub struct Kube {
    /// The program.
    pub kube: PathBuf,
    /// The same under the name `kubectl`; its folder can be put into `PATH`.
    pub kubectl: PathBuf,
}

/// Builds Kubernetes on the first call (about five minutes), and returns where it is.
pub fn kube() -> Result<Kube> {
    let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES} \
         -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor={minor}"
    );
    let key = key(&[KUBE_MAIN, KUBE_MOD, KUBE_SUM, &flags]);
    let dir = folder("kube", &key, |part| {
        let source = sources(&[("main.go", KUBE_MAIN), ("go.mod", KUBE_MOD), ("go.sum", KUBE_SUM)])?;
        go_build(source.path(), &part.join("kube"), ".", Some(&flags))?;
        std::os::unix::fs::symlink("kube", part.join("kubectl")).context("cannot name kubectl")
    })?;
    Ok(Kube { kube: dir.join("kube"), kubectl: dir.join("kubectl") })
}

/// Builds helm on the first call, and returns where it is.
pub fn helm() -> Result<PathBuf> {
    let dir = folder("helm", &key(&[TOOLS_GO, TOOLS_MOD, TOOLS_SUM]), |part| {
        let source = tool_sources()?;
        go_build(source.path(), &part.join("helm"), "helm.sh/helm/v3/cmd/helm", Some("-s -w"))
    })?;
    Ok(dir.join("helm"))
}

/// Builds `kindcheck FILE` on the first call (it reads a kind configuration with kind's own parser).
pub fn kindcheck() -> Result<PathBuf> {
    let dir = folder("kindcheck", &key(&[KIND_MAIN, KIND_MOD, KIND_SUM]), |part| {
        let source = sources(&[("main.go", KIND_MAIN), ("go.mod", KIND_MOD), ("go.sum", KIND_SUM)])?;
        go_build(source.path(), &part.join("kindcheck"), ".", Some("-s -w"))
    })?;
    Ok(dir.join("kindcheck"))
}

/// The folder with the CustomResourceDefinitions of VolumeSnapshots and their groups.
pub fn snapshot_crds() -> Result<PathBuf> {
    const MODULE: &str = "github.com/kubernetes-csi/external-snapshotter/client/v8";
    folder("snapshot-crds", &key(&[TOOLS_MOD, TOOLS_SUM]), |part| {
        let source = tool_sources()?;
        let mut command = go_command(source.path())?;
        let told = sys::output(command.args(["mod", "download", "-json", MODULE]))?;
        let told: serde_json::Value = serde_json::from_str(&told)?;
        let dir = told.get("Dir").and_then(|dir| dir.as_str()).context("go names no folder")?;
        let crds = Path::new(dir).join("config/crd");
        for name in sys::names_in(&crds) {
            if name.starts_with("snapshot.storage") || name.starts_with("groupsnapshot.storage") {
                fs::copy(crds.join(&name), part.join(&name))?;
            }
        }
        anyhow::ensure!(!sys::names_in(part).is_empty(), "{MODULE} holds no definitions");
        Ok(())
    })
}

fn tool_sources() -> Result<tempfile::TempDir> {
    sources(&[("tools.go", TOOLS_GO), ("go.mod", TOOLS_MOD), ("go.sum", TOOLS_SUM)])
}

fn sources(files: &[(&str, &str)]) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir().context("cannot make a temporary folder")?;
    for (name, text) in files {
        fs::write(dir.path().join(name), text)?;
    }
    Ok(dir)
}

fn go_command(source: &Path) -> Result<Command> {
    let mut command = Command::new(host::go()?);
    command.current_dir(source).env("GOWORK", "off").env("GOFLAGS", "-mod=readonly");
    Ok(command)
}

fn go_build(source: &Path, to: &Path, what: &str, flags: Option<&str>) -> Result<()> {
    let mut command = go_command(source)?;
    command.args(["build", "-buildvcs=false", "-trimpath"]);
    if let Some(flags) = flags {
        command.args(["-ldflags", flags]);
    }
    sys::output(command.arg("-o").arg(to).arg(what)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_built() {
        let wanted = format!("k8s.io/kubernetes {KUBERNETES}\n");
        assert!(KUBE_MOD.contains(&wanted), "go.mod holds another version");
    }

    #[test]
    fn a_key_tells_parts_apart() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["a"]).len(), 16);
    }
}
