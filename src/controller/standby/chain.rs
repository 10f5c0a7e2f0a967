//! Follows the chain of dispatches: which header is the newest that is ours, unbroken and signed.

use crate::api::dispatch::{CHAIN_START, HeaderError, SignedHeader};
use crate::api::ledger::{Site, Writ};
use crate::api::pair::{PairError, PairRecord};
use serde::{Deserialize, Serialize};

/// A dispatch whose header was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Received {
    /// Position in the chain; 0 stands for the start of it.
    pub sequence: u64,
    /// Chain hash of its header.
    pub hash: String,
    /// Its epoch; `None` when only sequence and hash are known (after a restart).
    pub epoch: Option<u64>,
    /// Moment of the cut.
    pub cut_time: Option<jiff::Timestamp>,
    /// When this operator saw it first.
    pub received: Option<jiff::Timestamp>,
    /// Volumes that it has.
    pub volumes: Vec<String>,
}

/// Why a dispatch is not taken, nor any after it.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Signature or form.
    #[error("dispatch {0} is refused")]
    Header(u64, #[source] HeaderError),
    /// The pair's key is none.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// Signed by home, but for something else.
    #[error("dispatch {sequence} is refused: it is of {what} {found}, not of {expected}")]
    Foreign {
        /// Where it stands.
        sequence: u64,
        /// Pair, DataEmbassy or sequence.
        what: &'static str,
        /// What the header says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// It does not continue what was seen before.
    #[error(
        "dispatch {sequence} does not continue dispatch {before}: the chain was forked or rewritten; \
         somebody other than home's operator wrote with its key, or the vault was restored from an old copy"
    )]
    Broken {
        /// Where it stands.
        sequence: u64,
        /// The last good one.
        before: u64,
    },
    /// An odd epoch, or one below the epoch before.
    #[error("dispatch {sequence} has epoch {epoch}, which cannot be home's here")]
    Epoch {
        /// Where it stands.
        sequence: u64,
        /// Its epoch.
        epoch: u64,
    },
}

impl Received {
    /// Before the first dispatch.
    #[must_use]
    pub fn start() -> Self {
        Self::known(0, CHAIN_START)
    }

    /// One of which only sequence and hash are left (from the status).
    #[must_use]
    pub fn known(sequence: u64, hash: &str) -> Self {
        Self {
            sequence,
            hash: hash.to_owned(),
            epoch: None,
            cut_time: None,
            received: None,
            volumes: Vec::new(),
        }
    }
}

/// Reads again a dispatch that was verified before a restart: its hash says that it is the same.
///
/// # Errors
/// [`ChainError`].
pub fn recall(known: &Received, bytes: &[u8], pair: &PairRecord) -> Result<Received, ChainError> {
    let sequence = known.sequence;
    let key = pair.verifying_key()?;
    let signed = SignedHeader::verify(bytes, &key).map_err(|error| ChainError::Header(sequence, error))?;
    if signed.hash() != known.hash {
        return Err(ChainError::Broken { sequence, before: sequence });
    }
    Ok(Received {
        epoch: Some(signed.header.epoch),
        cut_time: Some(signed.header.cut_time),
        volumes: signed.header.volumes.iter().map(|volume| volume.name.clone()).collect(),
        ..known.clone()
    })
}

/// Takes the stored bytes of the dispatch after `before`.
///
/// # Errors
/// [`ChainError`]: nothing after this one counts.
pub fn follow(
    before: &Received,
    bytes: &[u8],
    pair: &PairRecord,
    embassy: &str,
    now: jiff::Timestamp,
) -> Result<Received, ChainError> {
    let sequence = before.sequence.saturating_add(1);
    let key = pair.verifying_key()?;
    let signed = SignedHeader::verify(bytes, &key).map_err(|error| ChainError::Header(sequence, error))?;
    let header = &signed.header;
    let foreign =
        |what, found: String, expected: String| Err(ChainError::Foreign { sequence, what, found, expected });
    if header.pair != pair.id {
        return foreign("pair", header.pair.clone(), pair.id.clone());
    }
    if header.data_embassy != embassy {
        return foreign("DataEmbassy", header.data_embassy.clone(), embassy.to_owned());
    }
    if header.sequence != sequence {
        return foreign("sequence", header.sequence.to_string(), sequence.to_string());
    }
    if header.previous != before.hash {
        return Err(ChainError::Broken { sequence, before: before.sequence });
    }
    let writ = Writ { epoch: header.epoch, ..Writ::default() };
    if writ.site() != Site::Home || before.epoch.is_some_and(|epoch| header.epoch < epoch) {
        return Err(ChainError::Epoch { sequence, epoch: header.epoch });
    }
    Ok(Received {
        sequence,
        hash: signed.hash(),
        epoch: Some(header.epoch),
        cut_time: Some(header.cut_time),
        received: Some(now),
        volumes: header.volumes.iter().map(|volume| volume.name.clone()).collect(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::dispatch::{DispatchHeader, HEADER_VERSION};
    use ed25519_dalek::SigningKey;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn pair() -> PairRecord {
        let public = hex::encode(key().verifying_key().as_bytes());
        serde_json::from_value(serde_json::json!({
            "version": 1, "id": "p1", "homeNamespace": "h", "embassyNamespace": "e",
            "signingPublicKey": public,
        }))
        .unwrap()
    }

    fn header(change: impl FnOnce(&mut DispatchHeader)) -> Vec<u8> {
        let mut header = DispatchHeader {
            version: HEADER_VERSION,
            pair: "p1".into(),
            data_embassy: "register".into(),
            sequence: 1,
            epoch: 2,
            previous: CHAIN_START.into(),
            cut_time: jiff::Timestamp::UNIX_EPOCH,
            volumes: vec![],
            manifests: None,
            packs: vec![],
            indexes: vec![],
        };
        change(&mut header);
        SignedHeader::sign(header, &key()).unwrap().bytes().to_vec()
    }

    fn take(before: &Received, bytes: &[u8]) -> Result<Received, ChainError> {
        follow(before, bytes, &pair(), "register", jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_chain_is_followed() {
        let first = take(&Received::start(), &header(|_| {})).unwrap();
        let hash = first.hash.clone();
        let second = take(&first, &header(|h| (h.sequence, h.previous) = (2, hash))).unwrap();
        assert_eq!((second.sequence, second.epoch), (2, Some(2)));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let start = Received::start();
        assert!(matches!(take(&start, &header(|h| h.pair = "p2".into())), Err(ChainError::Foreign { .. })));
        assert!(matches!(
            take(&start, &header(|h| h.data_embassy = "x".into())),
            Err(ChainError::Foreign { .. })
        ));
        assert!(matches!(take(&start, &header(|h| h.sequence = 2)), Err(ChainError::Foreign { .. })));
        assert!(matches!(take(&start, &header(|h| h.previous = "0".into())), Err(ChainError::Broken { .. })));
        assert!(matches!(take(&start, &header(|h| h.epoch = 3)), Err(ChainError::Epoch { .. })));
        let mut late = Received::start();
        late.epoch = Some(4);
        assert!(matches!(take(&late, &header(|_| {})), Err(ChainError::Epoch { .. })));
        assert!(matches!(take(&start, b"nonsense"), Err(ChainError::Header(1, _))));
    }
}
