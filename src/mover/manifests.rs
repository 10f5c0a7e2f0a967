//! The Kubernetes objects that go with the volumes.

use super::archive::MANIFESTS_FILE;
use super::error::{MoverError, RepoError, RestoreError, SourceError};
use super::repo::{self, Indexed};
use crate::api::dispatch::ManifestsEntry;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use rustic_core::BlobId;
use rustic_core::repofile::{BlobType, SnapshotFile};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

/// Most that a file of manifests may unpack to: etcd itself holds 8 GiB, one object 1.5 MiB.
const MAX_MANIFESTS: u64 = 256 << 20;
/// Most that a Secret holds.
const MAX_SECRET: usize = 1 << 20;
/// Key in the Secret.
const SECRET_KEY: &str = "manifests.json.gz";
/// Annotation on the Secret: the dispatch that its content is of.
const SEQUENCE: &str = "dataembassy.io/sequence";
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const TRIES: u32 = 5;

/// Reads and checks the gzip; returns the JSON and the number of objects.
///
/// # Errors
/// [`SourceError::Manifests`].
pub fn read_gzip(path: &Path) -> Result<(Vec<u8>, u64), SourceError> {
    let read = || -> io::Result<(Vec<u8>, u64)> {
        let mut content = Vec::new();
        let file = GzDecoder::new(File::open(path)?);
        file.take(MAX_MANIFESTS + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_MANIFESTS {
            return Err(io::Error::other("more than 256 MiB"));
        }
        let objects = count(&content)?;
        Ok((content, objects))
    };
    read().map_err(|source| SourceError::Manifests { path: path.to_owned(), source })
}

fn count(content: &[u8]) -> io::Result<u64> {
    let objects: Vec<serde::de::IgnoredAny> = serde_json::from_slice(content)?;
    Ok(objects.len() as u64)
}

/// The JSON out of the manifests' snapshot.
///
/// # Errors
/// [`RepoError::Damaged`] if it is not what the header says.
pub fn from_snapshot(
    repository: &Indexed,
    snapshot: &SnapshotFile,
    entry: &ManifestsEntry,
    dir: &str,
) -> Result<Vec<u8>, RepoError> {
    let damaged = |why: &str| RepoError::Damaged(format!("the manifests' snapshot {why}"));
    let path = Path::new(dir).join(MANIFESTS_FILE);
    let node =
        repo::node_at(repository, snapshot.tree, &path)?.ok_or_else(|| damaged("holds no manifests.json"))?;
    let mut content = Vec::new();
    for id in node.content.iter().flatten() {
        content.extend_from_slice(&repo::blob(repository, BlobType::Data, &BlobId::from(*id))?);
        if content.len() as u64 > MAX_MANIFESTS {
            return Err(damaged("holds more than 256 MiB"));
        }
    }
    match count(&content) {
        Ok(objects) if objects == entry.objects => Ok(content),
        _ => Err(damaged("holds other objects than its header says")),
    }
}

/// Writes the JSON to a file, whole or not at all.
///
/// # Errors
/// [`RestoreError::Manifests`].
pub fn write_file(path: &Path, content: &[u8]) -> Result<(), RestoreError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| failed(&path.display().to_string(), error))
}

fn failed(to: &str, why: impl std::fmt::Display) -> RestoreError {
    RestoreError::Manifests { to: to.to_owned(), why: why.to_string() }
}

/// Writes the gzip of the JSON into the existing Secret `NAMESPACE/NAME`.
///
/// # Errors
/// [`RestoreError::Manifests`] after the last try.
pub fn write_secret(secret: &str, content: &[u8], sequence: u64) -> Result<(), MoverError> {
    let Some((namespace, name)) = secret.split_once('/') else {
        return Err(MoverError::Usage("write --manifests-secret NAMESPACE/NAME".to_owned()));
    };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let packed = gzip.write_all(content).and_then(|()| gzip.finish());
    let packed = packed.map_err(|error| failed(secret, error))?;
    if packed.len() > MAX_SECRET {
        let why = format!("{} bytes packed do not fit into a Secret (1 MiB)", packed.len());
        return Err(failed(secret, why).into());
    }
    let patch = serde_json::json!({
        "metadata": {"annotations": {SEQUENCE: sequence.to_string()}},
        "data": {SECRET_KEY: k8s_openapi::ByteString(packed)},
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(secret, error))?;
    Ok(runtime.block_on(patch_secret(namespace, name, &patch)).map_err(|why| failed(secret, why))?)
}

async fn patch_secret(namespace: &str, name: &str, patch: &serde_json::Value) -> Result<(), String> {
    let client = in_cluster()?;
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let mut pause = Duration::from_millis(250);
    let mut why = String::new();
    for _ in 0..TRIES {
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let call = secrets.patch_metadata(name, &params, &patch);
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(_)) => return Ok(()),
            // It is missing or forbidden, and stays so.
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                return Err(status.to_string());
            }
            Ok(Err(error)) => why = crate::cli::chain(&error),
            Err(_) => why = format!("no answer within {CALL_TIMEOUT:?}"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Err(why)
}

fn in_cluster() -> Result<kube::Client, String> {
    // An error only says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = kube::Config::incluster().map_err(|error| crate::cli::chain(&error))?;
    config.connect_timeout = Some(CALL_TIMEOUT);
    config.read_timeout = Some(CALL_TIMEOUT);
    config.write_timeout = Some(CALL_TIMEOUT);
    // The library's own retries go on for a quarter of an hour.
    config.default_retry = false;
    kube::Client::try_from(config).map_err(|error| crate::cli::chain(&error))
}
