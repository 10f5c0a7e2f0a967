//! Container images without any registry: made here, kept in the cache, loaded into the clusters.

mod oci;
mod recipes;

pub use oci::{Image, Layer};
pub use recipes::{POSTGRES, containerfile, postgres};

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{cache, host, sys};

/// The image under every pod.
pub const PAUSE: &str = "localhost/pause:test";
/// A shell and the usual small tools.
pub const BUSYBOX: &str = "localhost/busybox:test";

/// It waits for its end, takes in orphans, and goes at once when told to.
const PAUSE_SCRIPT: &str = "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done";

/// The archives that every full cluster gets at its start.
pub fn base() -> Result<Vec<PathBuf>> {
    let program = sys::which("busybox");
    if program.as_deref().is_none_or(|path| !is_static(path)) {
        host::require(host::BASE_IMAGES)?;
    }
    let program = sys::which("busybox").context("busybox is missing")?;
    anyhow::ensure!(
        is_static(&program),
        "busybox must be static (Debian: busybox-static)"
    );
    let version = sys::run("busybox", &["--help"])?;
    let stamp = fs::metadata(&program)?.len().to_string();
    let key = cache::key(&["2", &version, &stamp, PAUSE_SCRIPT]);
    let dir = cache::folder("base-images", &key, |part| build_base(&program, part))?;
    Ok(vec![dir.join("pause.tar"), dir.join("busybox.tar")])
}

/// A static program names no interpreter.
fn is_static(program: &Path) -> bool {
    let head = fs::read(program).unwrap_or_default();
    let head = head.get(..4096).unwrap_or(&head);
    !head
        .windows(7)
        .any(|window| window == b"/ld-lin" || window == b"ld-musl")
}

fn build_base(program: &Path, part: &Path) -> Result<()> {
    let root = tempfile::tempdir()?;
    busybox_root(program, root.path())?;
    let command = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let mut image = Image {
        name: BUSYBOX.to_owned(),
        command: command("exec sh"),
        layers: vec![Layer::Folder(root.path().to_owned())],
        ..Image::default()
    };
    image.write(&part.join("busybox.tar"))?;
    image.name = PAUSE.to_owned();
    image.command = command(PAUSE_SCRIPT);
    image.user = "65535:65535".to_owned();
    image.write(&part.join("pause.tar"))
}

/// A root file system of busybox under all its names.
fn busybox_root(program: &Path, root: &Path) -> Result<()> {
    for dir in ["bin", "etc", "tmp", "root", "home", "var/tmp", "usr"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for dir in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o1777))?;
    }
    symlink("../bin", root.join("usr/bin"))?;
    symlink("bin", root.join("sbin"))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n")?;
    fs::copy(program, root.join("bin/busybox"))?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    for name in sys::run("busybox", &["--list"])?.lines() {
        if name != "busybox" && !name.contains('/') {
            symlink("busybox", root.join("bin").join(name))?;
        }
    }
    Ok(())
}

/// Loads an OCI archive into the containerd at this socket, for pods.
pub(crate) fn load(socket: &Path, archive: &Path) -> Result<()> {
    let (socket, archive) = (socket.display().to_string(), archive.display().to_string());
    let args = ["-a", &socket, "-n", "k8s.io", "images", "import", &archive];
    sys::run("ctr", &args).map(|_| ())
}
