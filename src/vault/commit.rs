//! The commit of a dispatch: one signed header, checked against everything the vault knows.

use super::chain::{Chain, Last, check_epoch, check_names, check_place};
use super::epoch::EpochSource;
use super::error::{Reason, RequestError, blocking};
use super::names::{Kind, ObjectId};
use super::repo::Repo;
use super::store::{Published, Store, TempFile, fsync_parent};
use super::usage::Reservation;
use super::watch::read_bounded;
use crate::api::dispatch::{DispatchHeader, HeaderError, SignedHeader, dispatch_name};
use ed25519_dalek::VerifyingKey;
use std::fs;
use std::io::{self, Write as _};
use std::sync::Arc;
use tokio::sync::MutexGuard;

/// Whose dispatches are accepted.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Id of the pair.
    pub pair: String,
    /// Home's public key.
    pub key: VerifyingKey,
}

/// What a commit needs beside the repository.
pub struct Committer {
    /// The folder on disk.
    pub store: Arc<Store>,
    /// `None`: every dispatch is refused.
    pub authority: Option<Authority>,
    /// The ledger.
    pub epochs: Box<dyn EpochSource>,
}

/// How a commit ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is the new end of the chain.
    New,
    /// These very bytes are the end of the chain already.
    Again,
}

impl Committer {
    /// Checks and stores a header; after `Ok` it is durable. Commits of one repository wait for
    /// each other, and so does [`Self::settled`].
    ///
    /// # Errors
    /// [`RequestError::Refused`] with the reason; the chain is as before.
    pub async fn commit(
        &self,
        repo: &Arc<Repo>,
        sequence: u64,
        body: Vec<u8>,
        quota: Option<u64>,
    ) -> Result<Committed, RequestError> {
        let authority = self.authority.as_ref().ok_or_else(|| {
            RequestError::refused(Reason::NoSigningKey, "this vault was started without home's public key")
        })?;
        let signed = verify(authority.clone(), body).await?;
        check_names(&signed.header, &authority.pair, repo.name.as_str(), sequence)?;
        let (mut slot, chain) = self.lock_chain(repo).await?;
        // Whatever fails from here on, the disk is asked anew before the next commit.
        *slot = None;
        if chain.last.as_ref().is_some_and(|last| last.sequence == sequence)
            && is_stored(repo, sequence, &signed).await?
        {
            *slot = Some(chain);
            return Ok(Committed::Again);
        }
        check_place(&signed.header, chain.last.as_ref(), jiff::Timestamp::now())?;
        let mut room = Reservation::new(Arc::clone(&repo.usage), quota);
        room.grow_to(length(&signed))?;
        let (signed, temp) = self.stage(repo, signed).await?;
        // The ledger is read last, with all slow work done, so that little time is left between
        // the answer and the link for the writ to move. `settled` closes the rest of the gap.
        let mut chain = self.check_writ(repo, chain, &signed.header).await?;
        let last = publish(repo, temp, &signed).await?;
        room.keep(length(&signed));
        chain.last = Some(last);
        *slot = Some(chain);
        Ok(Committed::New)
    }

    /// The chain once no commit is in flight. Who moved the writ at the ledger *before* asking
    /// this knows the answer to be final: a commit that read the old epoch is over, and any later
    /// one reads the new.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn settled(&self, repo: &Arc<Repo>) -> Result<Chain, RequestError> {
        let (mut slot, chain) = self.lock_chain(repo).await?;
        *slot = Some(chain.clone());
        Ok(chain)
    }

    async fn lock_chain<'a>(
        &self,
        repo: &'a Arc<Repo>,
    ) -> Result<(MutexGuard<'a, Option<Chain>>, Chain), RequestError> {
        let slot = repo.chain.lock().await;
        let chain = match slot.clone() {
            Some(chain) => chain,
            None => {
                let repo = Arc::clone(repo);
                blocking(move || Chain::load(&repo)).await?
            }
        };
        Ok((slot, chain))
    }

    /// Checks that all is there and writes the temporary file.
    async fn stage(
        &self,
        repo: &Arc<Repo>,
        signed: SignedHeader,
    ) -> Result<(SignedHeader, TempFile), RequestError> {
        let (store, repo) = (Arc::clone(&self.store), Arc::clone(repo));
        blocking(move || {
            check_complete(&repo, &signed.header)?;
            let mut temp = store.temp().map_err(RequestError::io("create a temporary file"))?;
            temp.write_all(signed.bytes()).map_err(RequestError::io("write a dispatch"))?;
            temp.sync().map_err(RequestError::io("fsync a dispatch"))?;
            Ok((signed, temp))
        })
        .await
    }

    async fn check_writ(
        &self,
        repo: &Arc<Repo>,
        mut chain: Chain,
        header: &DispatchHeader,
    ) -> Result<Chain, RequestError> {
        let answer = self
            .epochs
            .epoch(repo.name.as_str())
            .await
            .map_err(|error| RequestError::refused(Reason::EpochUnknown, crate::cli::chain(&error)))?;
        let Some(ledger) = answer else { return Ok(chain) };
        let mark = chain.epoch_mark;
        let (store, shared) = (Arc::clone(&self.store), Arc::clone(repo));
        // Raised also when this header is refused: what the ledger has said once, it has said.
        let chain = blocking(move || chain.raise_mark(&store, &shared, ledger).map(|()| chain)).await?;
        check_epoch(header.epoch, ledger, mark)?;
        Ok(chain)
    }
}

async fn verify(authority: Authority, body: Vec<u8>) -> Result<SignedHeader, RequestError> {
    blocking(move || {
        SignedHeader::verify(&body, &authority.key).map_err(|error| {
            let reason = match error {
                HeaderError::BadSignature | HeaderError::UnknownKey { .. } => Reason::BadSignature,
                HeaderError::Malformed(_) | HeaderError::Json(_) | HeaderError::Version(_) => {
                    Reason::Malformed
                }
            };
            RequestError::refused(reason, crate::cli::chain(&error))
        })
    })
    .await
}

/// Whether these very bytes stand at the chain's end, durable.
async fn is_stored(repo: &Arc<Repo>, sequence: u64, signed: &SignedHeader) -> Result<bool, RequestError> {
    let path = repo.dispatch(sequence);
    let max = length(signed);
    let stored = blocking(move || match read_bounded(&path, max) {
        Ok(bytes) => {
            fsync_parent(&path).map_err(RequestError::io("fsync the dispatches"))?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(None),
        Err(error) => Err(RequestError::io("read a dispatch")(error)),
    })
    .await?;
    Ok(stored.is_some_and(|bytes| bytes == signed.bytes()))
}

async fn publish(repo: &Arc<Repo>, temp: TempFile, signed: &SignedHeader) -> Result<Last, RequestError> {
    let sequence = signed.header.sequence;
    let path = repo.dispatch(sequence);
    let published =
        blocking(move || temp.publish(&path).map_err(RequestError::io("store a dispatch"))).await?;
    match published {
        Published::New => Ok(Last { sequence, hash: signed.hash(), cut_time: signed.header.cut_time }),
        // Somebody else wrote into our folder.
        Published::Taken => {
            Err(RequestError::Damaged(format!("dispatch {} appeared beside us", dispatch_name(sequence))))
        }
    }
}

fn length(signed: &SignedHeader) -> u64 {
    u64::try_from(signed.bytes().len()).unwrap_or(u64::MAX)
}

/// Whether every object that the header names is there. Each was stored under the hash of its
/// content, so being there by name is being there with that hash.
fn check_complete(repo: &Repo, header: &DispatchHeader) -> Result<(), RequestError> {
    let snapshots = header.volumes.iter().map(|volume| &volume.snapshot);
    let snapshots = snapshots.chain(header.manifests.iter().map(|manifests| &manifests.snapshot));
    let named = snapshots
        .map(|id| (Kind::Snapshots, id))
        .chain(header.packs.iter().map(|id| (Kind::Data, id)))
        .chain(header.indexes.iter().map(|id| (Kind::Index, id)));
    let mut missing = Vec::new();
    let mut count: u64 = 0;
    for (kind, text) in named {
        let there = match ObjectId::parse(text) {
            Some(id) => is_file(repo, kind, &id)?,
            None => false,
        };
        if !there {
            count += 1;
            if missing.len() < 5 {
                missing.push(format!("{}/{}", kind.as_str(), text.chars().take(64).collect::<String>()));
            }
        }
    }
    if count == 0 {
        return Ok(());
    }
    let text = format!("{count} listed objects are not in the vault, such as {}", missing.join(", "));
    Err(RequestError::refused(Reason::Incomplete, text))
}

fn is_file(repo: &Repo, kind: Kind, id: &ObjectId) -> Result<bool, RequestError> {
    match fs::metadata(repo.object(kind, id)) {
        Ok(meta) => Ok(meta.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // Unreadable is not absent: a sick disk must not read as home's mistake.
        Err(error) => Err(RequestError::io("look for a listed object")(error)),
    }
}
