//! Where the program `testbed` is: the library starts it for work that outlives its caller.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::sys;

/// A copy of the program inside a cluster's folder, so that a later build does not change it.
pub(crate) fn testbed(dir: &Path) -> Result<PathBuf> {
    let copy = dir.join("bin/testbed");
    if copy.exists() {
        return Ok(copy);
    }
    let source = find()?;
    let parent = copy.parent().context("a program needs a folder")?;
    fs::create_dir_all(parent)?;
    let part = parent.join("testbed.part");
    fs::copy(&source, &part).with_context(|| format!("cannot copy {}", source.display()))?;
    fs::rename(&part, &copy)?;
    Ok(copy)
}

fn find() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("DATA_EMBASSY_TESTBED") {
        return Ok(PathBuf::from(given));
    }
    let own = std::env::current_exe().context("cannot tell the own program")?;
    if own.file_name().is_some_and(|name| name == "testbed") {
        return Ok(own);
    }
    build()
}

/// We are a test: cargo has built the library only, so the program is built now.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--bin", "testbed", "--message-format=json", "--manifest-path"])
        .arg(manifest);
    let told = sys::output(&mut command).context("cannot build the testbed program")?;
    told.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line.pointer("/target/name").is_some_and(|name| name == "testbed"))
        .find_map(|line| line.get("executable")?.as_str().map(PathBuf::from))
        .context("cargo did not say where the testbed program is")
}
