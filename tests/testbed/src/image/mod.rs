//! Container images without any registry: made here, kept in the cache, loaded into the clusters.

mod oci;
mod recipes;

pub use oci::{Image, Layer};
pub use recipes::{POSTGRES, containerfile, postgres};

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{cache, sys};

/// The image under every pod.
pub const PAUSE: &str = "localhost/pause:test";
/// A shell and the usual small tools.
pub const BUSYBOX: &str = "localhost/busybox:test";

/// It waits for its end, takes in orphans, and goes at once when told to.
const PAUSE_SCRIPT: &str = "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done";

/// The archives that every full cluster gets at its start.
pub fn base() -> Result<Vec<PathBuf>> {
    let key = cache::key(&["3", PAUSE_SCRIPT]);
    let dir = cache::folder("base-images", &key, |part| {
        let work = tempfile::tempdir().context("cannot make a temporary folder")?;
        let program = fetch_busybox(work.path())?;
        build_base(&program, part)
    })?;
    Ok(vec![dir.join("pause.tar"), dir.join("busybox.tar")])
}

/// Debian's dynamic busybox: the static one crashes when it looks up a name.
fn fetch_busybox(work: &Path) -> Result<PathBuf> {
    let mut command = Command::new("apt-get");
    command.args(["download", "-q", "busybox"]).current_dir(work);
    sys::output(&mut command).context("cannot get Debian's package busybox")?;
    let package = sys::names_in(work).into_iter().find(|name| name.ends_with(".deb"));
    let package = work.join(package.context("apt-get brought no package")?);
    let root = work.join("package").display().to_string();
    sys::run("dpkg-deb", &["-x", &package.display().to_string(), &root])?;
    ["bin/busybox", "usr/bin/busybox"]
        .map(|name| work.join("package").join(name))
        .into_iter()
        .find(|file| file.is_file())
        .context("the package busybox holds no busybox")
}

/// The libraries that a program is linked with, its interpreter among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let list = sys::run("ldd", &[program])?;
    Ok(list.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
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
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n")?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    for library in libraries(program)? {
        let inside = root.join(library.strip_prefix("/")?);
        fs::create_dir_all(inside.parent().context("a library needs a folder")?)?;
        fs::copy(&library, inside)?;
    }
    fs::copy(program, root.join("bin/busybox"))?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    for name in sys::output(Command::new(program).arg("--list"))?.lines() {
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
