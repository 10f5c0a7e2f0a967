//! Writes OCI image archives out of folders and tar files.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::sys;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What is in an image and how it is run.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The full name, for example `localhost/tool:test`.
    pub name: String,
    /// The program that is always run.
    pub entrypoint: Vec<String>,
    /// Its arguments, or the whole command when there is no entry point.
    pub command: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// The user, by number and best so (`999:999`).
    pub user: String,
    /// The folder in which it starts.
    pub workdir: String,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Clone, Debug)]
pub enum Layer {
    /// All that is in a folder, owned by root.
    Folder(PathBuf),
    /// A finished tar file.
    Tar(PathBuf),
}

struct Blob {
    hash: String,
    size: u64,
}

impl Blob {
    fn describe(&self, kind: &str) -> Value {
        json!({"mediaType": kind, "digest": format!("sha256:{}", self.hash), "size": self.size})
    }
}

impl Image {
    /// Writes the image as an OCI archive.
    pub fn write(&self, to: &Path) -> Result<()> {
        let parent = to.parent().context("an archive needs a folder")?;
        fs::create_dir_all(parent)?;
        let work = tempfile::tempdir_in(parent).context("cannot make a temporary folder")?;
        let blobs = work.path().join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let layers = self.layers.iter().map(|layer| layer_blob(&blobs, layer)).collect::<Result<Vec<_>>>()?;
        let config = put(&blobs, &serde_json::to_vec(&self.config(&layers))?)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.describe(CONFIG),
            "layers": layers.iter().map(|layer| layer.describe(LAYER)).collect::<Vec<_>>(),
        });
        let manifest = put(&blobs, &serde_json::to_vec(&manifest)?)?;
        let mut entry = manifest.describe(MANIFEST);
        if let Some(entry) = entry.as_object_mut() {
            let names = json!({
                "io.containerd.image.name": self.name,
                "org.opencontainers.image.ref.name": self.name,
            });
            entry.insert("annotations".to_owned(), names);
        }
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(work.path().join("index.json"), serde_json::to_vec(&index)?)?;
        fs::write(work.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let part = tempfile::NamedTempFile::new_in(parent)?;
        let mut archive = Builder::new(part.as_file());
        archive.append_dir_all(".", work.path())?;
        archive.finish()?;
        drop(archive);
        part.persist(to).with_context(|| format!("cannot write {}", to.display()))?;
        Ok(())
    }

    fn config(&self, layers: &[Blob]) -> Value {
        let mut env = self.env.clone();
        if !env.iter().any(|entry| entry.starts_with("PATH=")) {
            env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        }
        let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.hash)).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint, "Cmd": self.command, "Env": env,
                "User": self.user, "WorkingDir": self.workdir,
            },
            "rootfs": {"type": "layers", "diff_ids": ids},
        })
    }
}

/// This machine's architecture in the words of OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn layer_blob(blobs: &Path, layer: &Layer) -> Result<Blob> {
    let part = blobs.join("part");
    match layer {
        Layer::Folder(folder) => write_layer(folder, &part)?,
        Layer::Tar(file) => {
            fs::copy(file, &part).with_context(|| format!("cannot read {}", file.display()))?;
        }
    }
    let hash = hash_file(&part)?;
    let size = fs::metadata(&part)?.len();
    fs::rename(&part, blobs.join(&hash))?;
    Ok(Blob { hash, size })
}

fn put(blobs: &Path, content: &[u8]) -> Result<Blob> {
    let hash = hex(&Sha256::digest(content));
    fs::write(blobs.join(&hash), content)?;
    Ok(Blob { hash, size: content.len() as u64 })
}

fn hash_file(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        match buffer.get(..read) {
            Some(part) if read > 0 => hash.update(part),
            _ => return Ok(hex(&hash.finalize())),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a folder as a layer that depends on nothing but its names, modes and contents.
fn write_layer(folder: &Path, to: &Path) -> Result<()> {
    let mut layer = Builder::new(File::create(to)?);
    append(&mut layer, folder, Path::new("")).with_context(|| format!("cannot pack {}", folder.display()))?;
    layer.into_inner()?.flush()?;
    Ok(())
}

fn append(layer: &mut Builder<File>, base: &Path, inner: &Path) -> Result<()> {
    for name in sys::names_in(&base.join(inner)) {
        let inner = inner.join(name);
        let path = base.join(&inner);
        let found = fs::symlink_metadata(&path)?;
        let mut header = Header::new_gnu();
        header.set_mode(found.permissions().mode() & 0o7777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        let kind = found.file_type();
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            layer.append_data(&mut header, &inner, std::io::empty())?;
            append(layer, base, &inner)?;
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            layer.append_link(&mut header, &inner, fs::read_link(&path)?)?;
        } else if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(found.size());
            layer.append_data(&mut header, &inner, File::open(&path)?)?;
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            layer.append_data(&mut header, &inner, std::io::empty())?;
        } else {
            anyhow::bail!("{} is neither a file, a folder, a link nor a pipe", path.display());
        }
    }
    Ok(())
}
