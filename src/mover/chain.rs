//! The chain of dispatches: read the last, build the next, commit it.

use super::backend::{BackendError, Committed, DispatchStore};
use super::error::{DispatchError, MoverError, RepoError};
use super::progress::Progress;
use super::repo::{self, Indexed};
use crate::api::dispatch::{CHAIN_START, DispatchHeader, SignedHeader};
use ed25519_dalek::{SigningKey, VerifyingKey};
use rustic_core::repofile::{IndexFile, RepoFile};
use rustic_core::{Id, TreeId};
use std::collections::{BTreeSet, HashSet};
use std::path::Path;

/// Reads 64 hex digits from a file.
fn read_key(path: &Path) -> Result<[u8; 32], RepoError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| RepoError::Credentials { path: path.to_owned(), source })?;
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| RepoError::BadCredentials {
        path: path.to_owned(),
        what: "not 64 hex digits".to_owned(),
    })?;
    Ok(key)
}

/// Home's signing key: the raw seed in 64 hex digits.
///
/// # Errors
/// [`RepoError::Credentials`], [`RepoError::BadCredentials`].
pub fn read_signing_key(path: &Path) -> Result<SigningKey, RepoError> {
    Ok(SigningKey::from_bytes(&read_key(path)?))
}

/// Home's public key: 64 hex digits.
///
/// # Errors
/// [`RepoError::Credentials`], [`RepoError::BadCredentials`].
pub fn read_verifying_key(path: &Path) -> Result<VerifyingKey, RepoError> {
    VerifyingKey::from_bytes(&read_key(path)?)
        .map_err(|error| RepoError::BadCredentials { path: path.to_owned(), what: error.to_string() })
}

/// Whose dispatches these are, and whose signature counts.
pub struct Identity<'a> {
    /// The pair's id.
    pub pair: &'a str,
    /// Name of the DataEmbassy.
    pub data_embassy: &'a str,
    /// Home's public key.
    pub key: &'a VerifyingKey,
}

/// Reads and verifies one header.
///
/// # Errors
/// [`DispatchError::Header`], [`DispatchError::Refused`] if it is another pair's, another
/// DataEmbassy's or stands under another sequence.
pub fn read(
    store: &dyn DispatchStore,
    sequence: u64,
    identity: &Identity<'_>,
) -> Result<SignedHeader, MoverError> {
    let bytes = match store.read_dispatch(sequence) {
        Err(BackendError::NotFound(_)) => {
            return Err(DispatchError::None(format!(" {sequence}")).into());
        }
        other => other?,
    };
    let signed = SignedHeader::verify(&bytes, identity.key)
        .map_err(|source| DispatchError::Header { sequence, source })?;
    let header = &signed.header;
    let refuse = |why: String| Err(DispatchError::Refused { sequence, why }.into());
    if header.pair != identity.pair {
        return refuse(format!("it belongs to pair {}, not {}", header.pair, identity.pair));
    }
    if header.data_embassy != identity.data_embassy {
        let (found, wanted) = (&header.data_embassy, identity.data_embassy);
        return refuse(format!("it belongs to DataEmbassy {found}, not {wanted}"));
    }
    if header.sequence != sequence {
        return refuse(format!("its header says {}", header.sequence));
    }
    Ok(signed)
}

/// The newest header, `None` if there is none yet.
///
/// # Errors
/// As [`read`].
pub fn last(store: &dyn DispatchStore, identity: &Identity<'_>) -> Result<Option<SignedHeader>, MoverError> {
    match store.list_dispatches()?.last() {
        None => Ok(None),
        Some(sequence) => read(store, *sequence, identity).map(Some),
    }
}

/// Puts `header` behind `last`: sequence and previous hash.
#[must_use]
pub fn follow(last: Option<&SignedHeader>) -> (u64, String) {
    match last {
        None => (1, CHAIN_START.to_owned()),
        Some(last) => (last.header.sequence + 1, last.hash()),
    }
}

/// Signs and commits `header`.
///
/// # Errors
/// [`DispatchError`]; a lost answer is no error, for the vault is asked what stands there.
pub fn commit(
    store: &dyn DispatchStore,
    header: DispatchHeader,
    key: &SigningKey,
) -> Result<SignedHeader, MoverError> {
    let sequence = header.sequence;
    let signed = SignedHeader::sign(header, key).map_err(DispatchError::Sign)?;
    match store.commit_dispatch(sequence, signed.bytes()) {
        Ok(Committed::Done) => Ok(signed),
        Ok(Committed::Taken) => Err(DispatchError::Overtaken(sequence).into()),
        Ok(Committed::Refused { reason, message }) => {
            Err(DispatchError::Vault { sequence, reason, message }.into())
        }
        // The answer may be lost and the header committed: what stands there decides.
        Err(error) => match store.read_dispatch(sequence) {
            Ok(stored) if stored == signed.bytes() => Ok(signed),
            _ => Err(error.into()),
        },
    }
}

/// Packs that hold a blob reachable from `trees`, and the indexes that name them.
///
/// # Errors
/// [`RepoError`] if anything reachable is missing: such a dispatch must not be committed.
pub fn needed(
    repository: &Indexed,
    trees: &[TreeId],
    progress: &Progress,
) -> Result<(Vec<String>, Vec<String>), MoverError> {
    let packs = reachable_packs(repository, trees, progress)?;
    let mut indexes = BTreeSet::new();
    let doing = "reading the indexes";
    for file in repository.stream_files::<IndexFile>().map_err(RepoError::library(doing))? {
        let (id, index): (<IndexFile as RepoFile>::Id, IndexFile) =
            file.map_err(RepoError::library(doing))?;
        if index.packs.iter().any(|pack| packs.contains(&*pack.id)) {
            indexes.insert(*id);
        }
    }
    let names =
        |ids: BTreeSet<Id>| ids.into_iter().map(|id| id.to_hex().as_str().to_owned()).collect::<Vec<_>>();
    Ok((names(packs), names(indexes)))
}

fn reachable_packs(
    repository: &Indexed,
    trees: &[TreeId],
    progress: &Progress,
) -> Result<BTreeSet<Id>, MoverError> {
    let doing = "looking a blob up";
    let mut packs = BTreeSet::new();
    let mut seen: HashSet<TreeId> = trees.iter().copied().collect();
    let mut todo = trees.to_vec();
    while let Some(id) = todo.pop() {
        progress.check()?;
        let entry = repository.get_index_entry(&id).map_err(RepoError::library(doing))?;
        packs.insert(*entry.pack);
        for node in repo::tree(repository, &id)? {
            for blob in node.content.iter().flatten() {
                let entry = repository.get_index_entry(blob).map_err(RepoError::library(doing))?;
                packs.insert(*entry.pack);
            }
            todo.extend(node.subtree.filter(|subtree| seen.insert(*subtree)));
        }
    }
    Ok(packs)
}
