//! An open repository, with reads that check what they read.
//!
//! The library authenticates a blob (Poly1305) but does not compare it with its name. A host that
//! cannot forge a blob can still swap two of them in a pack, so every blob is hashed here.

use super::backend::Location;
use super::error::{Fault, RepoError};
use super::keyfile;
use bytes::Bytes;
use rustic_core::repofile::{BlobType, Node, SnapshotFile, Tree};
use rustic_core::{
    BlobId, Credentials, DataId, Id, IndexedFull, IndexedFullStatus, Open, OpenStatus, Repository,
    RepositoryBackends, RepositoryOptions, TreeId,
};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::Path;

/// A repository whose key is known.
pub type Opened = Repository<OpenStatus>;
/// A repository whose whole index is in memory (about 40 bytes a blob).
pub type Indexed = Repository<IndexedFullStatus>;

/// Reads a password: the first line of a file.
///
/// # Errors
/// [`RepoError::Credentials`].
pub fn read_password(path: &Path) -> Result<String, RepoError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| RepoError::Credentials { path: path.to_owned(), source })?;
    let line = text.lines().next().unwrap_or_default().to_owned();
    if line.is_empty() {
        let what = "the password is empty".to_owned();
        return Err(RepoError::BadCredentials { path: path.to_owned(), what });
    }
    Ok(line)
}

/// Opens the repository, or creates it if it is missing and `create` is set.
///
/// # Errors
/// [`RepoError::Missing`], [`RepoError::WrongKey`], or what the backend says.
pub fn open(location: &Location, password: &str, create: bool) -> Result<Opened, RepoError> {
    let options = RepositoryOptions::default().no_cache(true);
    let backends = RepositoryBackends::new(location.files.clone(), None);
    let doing = "opening the repository";
    let repository = Repository::new(&options, &backends).map_err(RepoError::library(doing))?;
    if repository.config_id().map_err(RepoError::library(doing))?.is_none() {
        if !create {
            return Err(RepoError::Missing(location.name.clone()));
        }
        return keyfile::create(repository, location.files.as_ref(), password);
    }
    // Ours first: the library gives up at the first key file that is none.
    let credentials = match keyfile::find(location.files.as_ref(), password)? {
        Some(master) => Credentials::Masterkey(master),
        None => Credentials::password(password),
    };
    repository.open(&credentials).map_err(|error| {
        let source = Fault::from(error);
        if source.is_wrong_password() {
            RepoError::WrongKey(location.name.clone())
        } else {
            RepoError::Library { doing, source }
        }
    })
}

/// Loads the index.
///
/// # Errors
/// [`RepoError::Library`].
pub fn index(repository: Opened) -> Result<Indexed, RepoError> {
    repository.to_indexed().map_err(RepoError::library("reading the index"))
}

/// One blob, checked against its name.
///
/// # Errors
/// [`RepoError::Damaged`] if it is another, [`RepoError::Library`] if it is missing or unreadable.
pub fn blob<S: IndexedFull>(
    repository: &Repository<S>,
    kind: BlobType,
    id: &BlobId,
) -> Result<Bytes, RepoError> {
    let bytes = repository.get_blob_cached(id, kind).map_err(RepoError::library("reading a blob"))?;
    if hash(&bytes) != **id {
        return Err(RepoError::Damaged(format!(
            "blob {} holds other content than its name says",
            id.to_hex().as_str()
        )));
    }
    Ok(bytes)
}

/// SHA-256 as the library's id.
#[must_use]
pub fn hash(bytes: &[u8]) -> Id {
    Id::new(Sha256::digest(bytes).into())
}

/// Length of a data blob in bytes, from the index.
///
/// # Errors
/// [`RepoError::Library`] if the index does not know it.
pub fn blob_length<S: IndexedFull>(repository: &Repository<S>, id: &DataId) -> Result<u32, RepoError> {
    let entry = repository.get_index_entry(id).map_err(RepoError::library("looking a blob up"))?;
    Ok(entry.data_length())
}

/// One directory of a snapshot: sorted, unique, harmless names.
///
/// # Errors
/// [`RepoError::Damaged`] also for a name that would leave the directory.
pub fn tree<S: IndexedFull>(repository: &Repository<S>, id: &TreeId) -> Result<Vec<Node>, RepoError> {
    let bytes = blob(repository, BlobType::Tree, &BlobId::from(*id))?;
    let tree: Tree = serde_json::from_slice(&bytes)
        .map_err(|error| RepoError::Damaged(format!("tree {id} does not parse: {error}")))?;
    let mut seen = HashSet::new();
    for node in &tree.nodes {
        let name = node.name().into_owned();
        if !is_component(&name) {
            return Err(RepoError::Damaged(format!("tree {id} holds the name {name:?}")));
        }
        if !seen.insert(name) {
            return Err(RepoError::Damaged(format!("tree {id} holds {:?} twice", node.name())));
        }
    }
    let mut nodes = tree.nodes;
    nodes.sort_by(|a, b| a.name().cmp(&b.name()));
    Ok(nodes)
}

/// True for a name that is one component below a directory.
fn is_component(name: &OsStr) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(|byte| matches!(byte, b'/' | 0))
}

/// The node at `path` below the root of a snapshot, `None` if there is none.
///
/// # Errors
/// As [`tree`].
pub fn node_at<S: IndexedFull>(
    repository: &Repository<S>,
    root: TreeId,
    path: &Path,
) -> Result<Option<Node>, RepoError> {
    let mut at = root;
    let mut found = None;
    for part in path.components() {
        let std::path::Component::Normal(name) = part else { continue };
        let node = tree(repository, &at)?.into_iter().find(|node| node.name() == name);
        let Some(node) = node else { return Ok(None) };
        if let Some(subtree) = node.subtree {
            at = subtree;
        }
        found = Some(node);
    }
    Ok(found)
}

/// All snapshots, oldest first.
///
/// # Errors
/// [`RepoError::Library`].
pub fn snapshots<S: Open>(repository: &Repository<S>) -> Result<Vec<SnapshotFile>, RepoError> {
    let mut all = repository.get_all_snapshots().map_err(RepoError::library("reading the snapshots"))?;
    all.sort_by(|a, b| a.time.cmp(&b.time));
    Ok(all)
}

/// One snapshot by its full id.
///
/// # Errors
/// [`RepoError::Library`].
pub fn snapshot<S: Open>(repository: &Repository<S>, id: &str) -> Result<SnapshotFile, RepoError> {
    let found = repository
        .get_snapshots(&[id])
        .map_err(RepoError::library("reading the snapshot"))?
        .into_iter()
        .next();
    found.ok_or_else(|| RepoError::Damaged(format!("snapshot {id} is missing")))
}
