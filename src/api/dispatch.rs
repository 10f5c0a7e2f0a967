//! The dispatch header: the one signed, clear record that commits a dispatch (design section 6).
//!
//! On the wire and on disk a header is two lines of UTF-8:
//!
//! ```text
//! {"version":1,"pair":"…","dataEmbassy":"…",…}\n
//! ed25519 <key id, 16 hex digits> <signature, standard base64>\n
//! ```
//!
//! The signature covers the *bytes* of the first line (without its newline) behind a fixed
//! domain prefix, so nobody has to agree on a canonical JSON. The chain hash
//! ([`SignedHeader::hash`]) covers the whole two lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Upper bound of a stored header in bytes; a longer one is refused unread.
pub const MAX_HEADER_BYTES: usize = 8 << 20;
/// The only header version there is.
pub const HEADER_VERSION: u32 = 1;
/// `previous` of the first dispatch of a chain.
pub const CHAIN_START: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Domain separation: a signature over anything else can never be taken for a dispatch's.
const SIGNING_PREFIX: &[u8] = b"dataembassy.io/dispatch/v1\n";

/// What a header says. Field order is the order on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DispatchHeader {
    /// [`HEADER_VERSION`].
    pub version: u32,
    /// Id of the pair that the dispatch belongs to.
    pub pair: String,
    /// Name of the DataEmbassy; also the repository's name in the vault.
    pub data_embassy: String,
    /// Position in the chain, from 1, without gaps.
    pub sequence: u64,
    /// The writ's epoch at the cut (even: home).
    pub epoch: u64,
    /// [`SignedHeader::hash`] of the header before it, or [`CHAIN_START`].
    pub previous: String,
    /// The moment of the cut: nothing acknowledged before it is missing.
    pub cut_time: jiff::Timestamp,
    /// One entry a volume, sorted by `name`.
    pub volumes: Vec<VolumeEntry>,
    /// Snapshot of the manifests that go with the volumes.
    pub manifests: Option<ManifestsEntry>,
    /// Ids (64 hex digits) of every pack that the snapshots need, sorted.
    pub packs: Vec<String>,
    /// Ids of every index that names those packs, sorted.
    pub indexes: Vec<String>,
}

/// One volume of a dispatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeEntry {
    /// Name of the PersistentVolumeClaim at home.
    pub name: String,
    /// restic snapshot id.
    pub snapshot: String,
    /// restic tree id of the snapshot's root.
    pub tree: String,
    /// Metadata of the volume's root directory, which the restic format does not keep.
    pub root: RootMetadata,
    /// Entries in the tree, all types.
    pub files: u64,
    /// Sum of the files' sizes in bytes.
    pub bytes: u64,
}

/// Metadata of a volume's root directory (think of a pod's `fsGroup`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootMetadata {
    /// Permission bits with suid, sgid and sticky (`st_mode & 0o7777`).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time, seconds since 1970 (may be negative).
    pub mtime_sec: i64,
    /// Nanoseconds of the modification time, 0..1e9.
    pub mtime_nsec: u32,
    /// Extended attributes: name -> value in standard base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

/// The manifests' snapshot: one file `manifests.json`, a JSON array of Kubernetes objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestsEntry {
    /// restic snapshot id.
    pub snapshot: String,
    /// Number of objects.
    pub objects: u64,
}

/// Why a header is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The two lines are not there or are too long.
    #[error("not a dispatch header: {0}")]
    Malformed(&'static str),
    /// The first line is not the JSON of a header.
    #[error("the dispatch header does not parse")]
    Json(#[source] serde_json::Error),
    /// Signed by a key that the pair record does not name.
    #[error("the dispatch header is signed by key {found}, the pair record names {expected}")]
    UnknownKey {
        /// Key id in the header.
        found: String,
        /// Key id of the pair record's public key.
        expected: String,
    },
    /// The signature does not hold.
    #[error("the dispatch header's signature does not verify: it was altered or forged")]
    BadSignature,
    /// A version from the future.
    #[error("dispatch header version {0} is not known; upgrade this operator")]
    Version(u32),
}

/// A header with the exact bytes that were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeader {
    /// The parsed header.
    pub header: DispatchHeader,
    bytes: Vec<u8>,
}

impl SignedHeader {
    /// Signs `header` with home's key.
    ///
    /// # Errors
    /// Only if the header cannot be serialised, which no valid value causes.
    pub fn sign(header: DispatchHeader, key: &SigningKey) -> Result<Self, HeaderError> {
        let mut bytes = serde_json::to_vec(&header).map_err(HeaderError::Json)?;
        let signature = key.sign(&signing_input(&bytes));
        let line =
            format!("\ned25519 {} {}\n", key_id(&key.verifying_key()), STANDARD.encode(signature.to_bytes()));
        bytes.extend_from_slice(line.as_bytes());
        Ok(Self { header, bytes })
    }

    /// Parses and verifies stored bytes against home's public key.
    ///
    /// # Errors
    /// [`HeaderError`]; nothing of an unverified header is returned.
    pub fn verify(bytes: &[u8], key: &VerifyingKey) -> Result<Self, HeaderError> {
        if bytes.len() > MAX_HEADER_BYTES {
            return Err(HeaderError::Malformed("longer than 8 MiB"));
        }
        let body = bytes.strip_suffix(b"\n").ok_or(HeaderError::Malformed("no final newline"))?;
        let split = body.iter().position(|b| *b == b'\n');
        let (line, rest) = body.split_at(split.ok_or(HeaderError::Malformed("no signature line"))?);
        let sig_line = std::str::from_utf8(rest.strip_prefix(b"\n").unwrap_or(rest))
            .map_err(|_| HeaderError::Malformed("the signature line is not UTF-8"))?;
        check_signature(line, sig_line, key)?;
        let header: DispatchHeader = serde_json::from_slice(line).map_err(HeaderError::Json)?;
        if header.version != HEADER_VERSION {
            return Err(HeaderError::Version(header.version));
        }
        Ok(Self { header, bytes: bytes.to_vec() })
    }

    /// The exact bytes to store.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The chain hash: SHA-256 of [`Self::bytes`] in lower-case hex.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(&self.bytes))
    }
}

fn check_signature(line: &[u8], sig_line: &str, key: &VerifyingKey) -> Result<(), HeaderError> {
    let mut words = sig_line.split(' ');
    let (Some("ed25519"), Some(id), Some(sig), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(HeaderError::Malformed("the signature line is not `ed25519 ID SIG`"));
    };
    let expected = key_id(key);
    if id != expected {
        // Cut short: it comes from whoever sent the header, and goes into logs and answers.
        let found = id.chars().take(expected.len()).collect();
        return Err(HeaderError::UnknownKey { found, expected });
    }
    let raw = STANDARD.decode(sig).map_err(|_| HeaderError::Malformed("the signature is not base64"))?;
    let signature = Signature::from_slice(&raw).map_err(|_| HeaderError::BadSignature)?;
    key.verify_strict(&signing_input(line), &signature).map_err(|_| HeaderError::BadSignature)
}

/// Key id: the first 16 hex digits of the SHA-256 of the raw public key.
#[must_use]
pub fn key_id(key: &VerifyingKey) -> String {
    let mut id = hex::encode(Sha256::digest(key.as_bytes()));
    id.truncate(16);
    id
}

/// Name of a dispatch in the vault: its sequence in 20 digits, so that names sort as numbers.
#[must_use]
pub fn dispatch_name(sequence: u64) -> String {
    format!("{sequence:020}")
}

/// Inverse of [`dispatch_name`]; `None` for anything that is not exactly 20 decimal digits.
#[must_use]
pub fn parse_dispatch_name(name: &str) -> Option<u64> {
    (name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.parse().ok()).flatten()
}

fn signing_input(line: &[u8]) -> Vec<u8> {
    [SIGNING_PREFIX, line].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn header() -> DispatchHeader {
        DispatchHeader {
            version: HEADER_VERSION,
            pair: "p1".into(),
            data_embassy: "register".into(),
            sequence: 7,
            epoch: 2,
            previous: CHAIN_START.into(),
            cut_time: jiff::Timestamp::UNIX_EPOCH,
            volumes: vec![],
            manifests: None,
            packs: vec![],
            indexes: vec![],
        }
    }

    #[test]
    fn a_signed_header_verifies_and_any_flipped_byte_does_not() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let signed = SignedHeader::sign(header(), &key).unwrap();
        let back = SignedHeader::verify(signed.bytes(), &key.verifying_key()).unwrap();
        assert_eq!(back, signed);
        for i in 0..signed.bytes().len() {
            let mut bad = signed.bytes().to_vec();
            bad[i] ^= 1;
            let verdict = SignedHeader::verify(&bad, &key.verifying_key());
            assert!(verdict.is_err(), "byte {i} flipped and still accepted");
        }
    }

    #[test]
    fn another_key_is_named_in_the_error() {
        let signed = SignedHeader::sign(header(), &SigningKey::from_bytes(&[7; 32])).unwrap();
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        let error = SignedHeader::verify(signed.bytes(), &other).unwrap_err();
        assert!(matches!(error, HeaderError::UnknownKey { .. }), "{error}");
    }

    #[test]
    fn names_sort_as_numbers() {
        assert!(dispatch_name(9) < dispatch_name(10));
        assert_eq!(parse_dispatch_name(&dispatch_name(42)), Some(42));
        assert_eq!(parse_dispatch_name("42"), None);
    }
}
