//! The chain of dispatch headers of one repository: where it stands, and what may come next.
//!
//! The checks are pure functions of what was read; [`super::commit`] does the reading and writing.

use super::error::{Reason, RequestError};
use super::repo::Repo;
use super::store::Store;
use super::watch::read_bounded;
use crate::api::dispatch::{CHAIN_START, DispatchHeader, MAX_HEADER_BYTES, parse_dispatch_name};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Write as _};

/// How far home's clock may be ahead of ours at a cut.
const MAX_CLOCK_AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// The newest header of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// Its sequence.
    pub sequence: u64,
    /// SHA-256 of its bytes, lower-case hex.
    pub hash: String,
    /// Its cut.
    pub cut_time: Timestamp,
}

/// Where a chain stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The newest header; `None` before the first.
    pub last: Option<Last>,
    /// The highest epoch that the ledger ever said for this DataEmbassy.
    pub epoch_mark: u64,
}

#[derive(Serialize, Deserialize)]
struct Mark {
    epoch: u64,
}

impl Chain {
    /// Reads the chain's end and the high-water mark from the disk. Blocking.
    ///
    /// # Errors
    /// [`RequestError::Damaged`] when the newest header or the mark does not parse: better no
    /// commit at all than one behind a chain that nobody can follow.
    pub fn load(repo: &Repo) -> Result<Self, RequestError> {
        Ok(Self { last: load_last(repo)?, epoch_mark: load_mark(repo)? })
    }

    /// Raises the high-water mark to `epoch`, on the disk first. Blocking.
    ///
    /// # Errors
    /// The file system's; the mark is as before.
    pub fn raise_mark(&mut self, store: &Store, repo: &Repo, epoch: u64) -> Result<(), RequestError> {
        if epoch <= self.epoch_mark {
            return Ok(());
        }
        let text = serde_json::json!(Mark { epoch }).to_string();
        let write = || -> io::Result<()> {
            let mut temp = store.temp()?;
            temp.write_all(text.as_bytes())?;
            temp.replace(&repo.epoch_mark())
        };
        write().map_err(RequestError::io("write the epoch's high-water mark"))?;
        self.epoch_mark = epoch;
        Ok(())
    }
}

fn load_last(repo: &Repo) -> Result<Option<Last>, RequestError> {
    let mut newest: Option<u64> = None;
    for entry in fs::read_dir(repo.dispatches()).map_err(RequestError::io("list dispatches"))? {
        let entry = entry.map_err(RequestError::io("list dispatches"))?;
        newest = newest.max(entry.file_name().to_str().and_then(parse_dispatch_name));
    }
    let Some(sequence) = newest else { return Ok(None) };
    let max = u64::try_from(MAX_HEADER_BYTES).unwrap_or(u64::MAX);
    let bytes =
        read_bounded(&repo.dispatch(sequence), max).map_err(RequestError::io("read the last dispatch"))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // Its signature held when it was stored, and the next header's `previous` vouches for every
    // byte of it; here only the time of the cut is needed.
    let header: DispatchHeader = serde_json::from_slice(line)
        .map_err(|error| RequestError::Damaged(format!("dispatch {sequence} does not parse: {error}")))?;
    let hash = hex::encode(Sha256::digest(&bytes));
    Ok(Some(Last { sequence, hash, cut_time: header.cut_time }))
}

fn load_mark(repo: &Repo) -> Result<u64, RequestError> {
    match read_bounded(&repo.epoch_mark(), 1024) {
        Ok(bytes) => serde_json::from_slice::<Mark>(&bytes).map(|mark| mark.epoch).map_err(|error| {
            RequestError::Damaged(format!("the epoch's high-water mark does not parse: {error}"))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(RequestError::io("read the epoch's high-water mark")(error)),
    }
}

/// Whether the header is for this pair, repository and name.
///
/// # Errors
/// The refusal.
pub fn check_names(
    header: &DispatchHeader,
    pair: &str,
    repository: &str,
    sequence: u64,
) -> Result<(), RequestError> {
    if header.pair != pair {
        let text = format!("the header is for pair {:?}, this vault serves {pair:?}", header.pair);
        return Err(RequestError::refused(Reason::WrongPair, text));
    }
    if header.data_embassy != repository {
        let text = format!("the header is for {:?}, the repository is {repository:?}", header.data_embassy);
        return Err(RequestError::refused(Reason::WrongRepository, text));
    }
    if header.sequence != sequence {
        let text = format!("the header is number {}, it was sent as {sequence}", header.sequence);
        return Err(RequestError::refused(Reason::WrongName, text));
    }
    Ok(())
}

/// Whether the header is the next one of the chain, cut at a time that can be.
///
/// # Errors
/// The refusal.
pub fn check_place(header: &DispatchHeader, last: Option<&Last>, now: Timestamp) -> Result<(), RequestError> {
    let next = last.map_or(Some(1), |last| last.sequence.checked_add(1));
    if Some(header.sequence) != next {
        let text = format!(
            "the chain stands at {}, number {} does not follow",
            last.map_or(0, |last| last.sequence),
            header.sequence
        );
        return Err(RequestError::refused(Reason::ChainBroken, text));
    }
    let previous = last.map_or(CHAIN_START, |last| last.hash.as_str());
    if header.previous != previous {
        let text = format!("the header follows {}, the chain ends with {previous}", header.previous);
        return Err(RequestError::refused(Reason::ChainBroken, text));
    }
    if let Some(last) = last
        && header.cut_time < last.cut_time
    {
        let text = format!("cut at {}, before the previous cut at {}", header.cut_time, last.cut_time);
        return Err(RequestError::refused(Reason::CutTimeRegressed, text));
    }
    if header.cut_time.duration_since(now) > MAX_CLOCK_AHEAD {
        let text = format!("cut at {}, and it is {now} here: is a clock wrong?", header.cut_time);
        return Err(RequestError::refused(Reason::CutTimeInFuture, text));
    }
    Ok(())
}

/// Whether the header's epoch is the ledger's, home's, and no step back. `mark` is the high-water
/// mark from before this reading of the ledger.
///
/// # Errors
/// The refusal.
pub fn check_epoch(header_epoch: u64, ledger_epoch: u64, mark: u64) -> Result<(), RequestError> {
    if ledger_epoch < mark {
        let text = format!(
            "the ledger says epoch {ledger_epoch} but said {mark} before: it was restored from a backup"
        );
        return Err(RequestError::refused(Reason::LedgerBehind, text));
    }
    if header_epoch != ledger_epoch {
        let text = format!("the header has epoch {header_epoch}, the ledger says {ledger_epoch}");
        return Err(RequestError::refused(Reason::EpochRefused, text));
    }
    if !header_epoch.is_multiple_of(2) {
        let text = format!("epoch {header_epoch} is odd: the writ is the embassy's");
        return Err(RequestError::refused(Reason::EpochRefused, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(sequence: u64, previous: &str, cut: i64) -> DispatchHeader {
        DispatchHeader {
            version: 1,
            pair: "p".into(),
            data_embassy: "r".into(),
            sequence,
            epoch: 2,
            previous: previous.into(),
            cut_time: Timestamp::from_second(cut).unwrap(),
            volumes: vec![],
            manifests: None,
            packs: vec![],
            indexes: vec![],
        }
    }

    fn reason(result: Result<(), RequestError>) -> Option<Reason> {
        match result {
            Err(RequestError::Refused { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn only_the_next_header_has_a_place() {
        let now = Timestamp::from_second(1_000).unwrap();
        let last = Last { sequence: 4, hash: "h".into(), cut_time: Timestamp::from_second(900).unwrap() };
        let place = |header: DispatchHeader, last| reason(check_place(&header, last, now));
        assert_eq!(place(header(1, CHAIN_START, 900), None), None);
        assert_eq!(place(header(5, "h", 900), Some(&last)), None);
        assert_eq!(place(header(5, "h", 1_300), Some(&last)), None);
        assert_eq!(place(header(2, CHAIN_START, 900), None), Some(Reason::ChainBroken));
        assert_eq!(place(header(0, CHAIN_START, 900), None), Some(Reason::ChainBroken));
        assert_eq!(place(header(4, "h", 900), Some(&last)), Some(Reason::ChainBroken));
        assert_eq!(place(header(5, CHAIN_START, 900), Some(&last)), Some(Reason::ChainBroken));
        assert_eq!(place(header(5, "h", 899), Some(&last)), Some(Reason::CutTimeRegressed));
        assert_eq!(place(header(5, "h", 1_301), Some(&last)), Some(Reason::CutTimeInFuture));
    }

    #[test]
    fn only_the_ledgers_even_epoch_commits() {
        assert_eq!(reason(check_epoch(4, 4, 4)), None);
        assert_eq!(reason(check_epoch(4, 4, 0)), None);
        assert_eq!(reason(check_epoch(4, 5, 4)), Some(Reason::EpochRefused));
        assert_eq!(reason(check_epoch(4, 2, 2)), Some(Reason::EpochRefused));
        assert_eq!(reason(check_epoch(5, 5, 4)), Some(Reason::EpochRefused));
        assert_eq!(reason(check_epoch(4, 4, 5)), Some(Reason::LedgerBehind));
    }
}
