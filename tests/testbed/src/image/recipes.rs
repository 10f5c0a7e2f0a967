//! Larger images: PostgreSQL out of Debian packages, and anything that a Containerfile says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Image, Layer};
use crate::{cache, host, sys};

/// PostgreSQL 15 with its client programs and `pgbench`, for any user number.
pub const POSTGRES: &str = "localhost/postgres:test";

const PACKAGES: &str = "postgresql-15,postgresql-client-15,postgresql-contrib";
const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Starts PostgreSQL as whoever it is run as; `PGDATA` is initialised when it is empty. A
/// read-only root file system is fine as long as `PGDATA`, `/tmp` and nothing else is writable.
const ENTRYPOINT: &str = r#"#!/bin/sh
set -eu
if [ "$(id -u)" = 0 ]; then echo "this image does not run as root" >&2; exit 1; fi
if [ "$#" -gt 0 ]; then exec "$@"; fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  chmod 700 "$PGDATA" 2>/dev/null || true
  initdb --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 -D "$PGDATA"
  echo "host all all all trust" >> "$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp ${POSTGRES_ARGS:-}
"#;

/// The archive of [`POSTGRES`], made on the first call (about half a minute).
pub fn postgres() -> Result<PathBuf> {
    let sources = apt_sources();
    let key = cache::key(&["1", PACKAGES, ENTRYPOINT, &sources]);
    let dir = cache::folder("postgres-image", &key, |part| {
        host::require(host::MMDEBSTRAP)?;
        let work = tempfile::tempdir_in(part)?;
        let debian = work.path().join("debian.tar");
        bootstrap(&debian)?;
        let root = work.path().join("root");
        postgres_root(&root)?;
        let image = Image {
            name: POSTGRES.to_owned(),
            entrypoint: vec!["/usr/local/bin/entrypoint".to_owned()],
            env: vec![
                format!("PATH={BIN}:/usr/local/bin:/usr/bin:/bin"),
                "PGDATA=/data/pgdata".to_owned(),
                "PGHOST=/tmp".to_owned(),
                "PGUSER=postgres".to_owned(),
                "LANG=C.UTF-8".to_owned(),
            ],
            user: "999:999".to_owned(),
            workdir: "/tmp".to_owned(),
            layers: vec![Layer::Tar(debian), Layer::Folder(root)],
            ..Image::default()
        };
        image.write(&part.join("postgres.tar"))
    })?;
    Ok(dir.join("postgres.tar"))
}

/// A minimal Debian with PostgreSQL as a tar file, from the mirrors that this machine uses.
fn bootstrap(to: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", "--mode=root", "--format=tar"]);
    command.arg(format!("--include={PACKAGES}"));
    command.arg("--aptopt=Apt::Install-Recommends \"false\"");
    for dir in ["doc", "man", "locale", "info", "lintian"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{dir}/*"));
    }
    // No cluster is made at installation: the user number and the place are the pod's.
    command.arg("--essential-hook=mkdir -p \"$1/etc/postgresql-common\"; echo 'create_main_cluster = false' > \"$1/etc/postgresql-common/createcluster.conf\"");
    command.args([
        "--dpkgopt=force-confold",
        "--customize-hook=rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*.bin",
    ]);
    command.arg(suite()?).arg(to);
    for file in source_files() {
        command.arg(file);
    }
    sys::output(&mut command).map(|_| ())
}

/// The release of Debian that this machine runs.
fn suite() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot tell the distribution")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("the image of PostgreSQL is made on Debian only: no VERSION_CODENAME")
}

fn source_files() -> Vec<PathBuf> {
    let parts = Path::new("/etc/apt/sources.list.d");
    let extra = sys::names_in(parts).into_iter().map(|name| parts.join(name));
    std::iter::once(PathBuf::from("/etc/apt/sources.list"))
        .chain(extra)
        .filter(|file| file.extension().is_some_and(|end| end == "list" || end == "sources"))
        .filter(|file| fs::metadata(file).is_ok_and(|found| found.len() > 0))
        .collect()
}

fn apt_sources() -> String {
    source_files().iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
}

/// What the image has over Debian: the user 999 and the way to start.
fn postgres_root(root: &Path) -> Result<()> {
    for dir in ["etc", "usr/local/bin", "data"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o1777))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999:PostgreSQL:/tmp:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\npostgres:x:999:\n")?;
    let entrypoint = root.join("usr/local/bin/entrypoint");
    fs::write(&entrypoint, ENTRYPOINT)?;
    fs::set_permissions(&entrypoint, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Builds an image out of a Containerfile and its folder, and writes it as an OCI archive. There
/// is no registry to pull from: such a file starts `FROM scratch`. `build_args` are `NAME=VALUE`.
pub fn containerfile(
    file: &Path,
    context: &Path,
    build_args: &[String],
    name: &str,
    to: &Path,
) -> Result<()> {
    host::require_root()?;
    host::require(host::BUILDAH)?;
    let parent = to.parent().context("an archive needs a folder")?;
    fs::create_dir_all(parent)?;
    let work = tempfile::tempdir_in(parent)?;
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        let (root, run) = (work.path().join("root"), work.path().join("run"));
        command.arg("--root").arg(root).arg("--runroot").arg(run);
        command.args(["--storage-driver", "vfs"]).args(args);
        sys::output(&mut command)
    };
    let (file, context) = (file.display().to_string(), context.display().to_string());
    let mut build = vec!["bud", "--isolation", "chroot", "--pull-never", "-f", &file, "-t", name];
    build.extend(build_args.iter().flat_map(|arg| ["--build-arg", arg.as_str()]));
    build.push(&context);
    buildah(&build)?;
    let part = work.path().join("image.tar");
    buildah(&["push", name, &format!("oci-archive:{}:{name}", part.display())])?;
    fs::rename(&part, to).with_context(|| format!("cannot write {}", to.display()))
}
