//! Creates a repository, with a key file that is cheap to open.
//!
//! The library's key files cost 130 MiB and most of a second at each open (scrypt, N = 2^17). That
//! slows down guessing a person's password; the operator's passwords are 256 random bits, which
//! nobody guesses at any speed, so their key file gets N = 2^14. Any restic opens both.

use super::error::RepoError;
use aes256ctr_poly1305aes::aead::Aead as _;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, aead};
use rand::RngCore as _;
use rustic_core::repofile::{KeyFile, MasterKey};
use rustic_core::{
    BytesList, ConfigOptions, Credentials, FileType, Id, KeyOptions, OpenStatus, Repository, WriteBackend,
};
use sha2::{Digest as _, Sha256};

/// log2 of scrypt's N for a password of 256 random bits.
const CHEAP: u8 = 14;
/// log2 of scrypt's N for a password that a person chose.
const DEAR: u8 = 17;
/// Length from which a password counts as 256 random bits: 32 bytes in base64 without padding.
const RANDOM_LENGTH: usize = 43;
const SALT: usize = 64;
const NONCE: usize = 16;

fn cipher(password: &str, salt: &[u8], log_n: u8) -> Result<Aes256CtrPoly1305Aes, RepoError> {
    let params =
        scrypt::Params::new(log_n, 8, 1).map_err(|_| RepoError::Key("scrypt refuses its parameters"))?;
    let mut key = Key::default();
    scrypt::scrypt(password.as_bytes(), salt, &params, &mut key)
        .map_err(|_| RepoError::Key("scrypt refuses its output's length"))?;
    Ok(Aes256CtrPoly1305Aes::new(&key))
}

fn seal(master: &MasterKey, password: &str) -> Result<Vec<u8>, RepoError> {
    let log_n = if password.len() >= RANDOM_LENGTH { CHEAP } else { DEAR };
    let mut salt = vec![0; SALT];
    let mut nonce = [0; NONCE];
    rand::rngs::OsRng.fill_bytes(&mut salt);
    rand::rngs::OsRng.fill_bytes(&mut nonce);
    let plain = serde_json::to_vec(master).map_err(|_| RepoError::Key("no JSON"))?;
    let sealed = cipher(password, &salt, log_n)?
        .encrypt(aead::Nonce::<Aes256CtrPoly1305Aes>::from_slice(&nonce), plain.as_slice())
        .map_err(|_| RepoError::Key("encryption failed"))?;
    let file = KeyFile {
        hostname: Some("data-embassy".to_owned()),
        username: Some("embassy".to_owned()),
        // restic lists keys by their date.
        created: Some(jiff::Zoned::now()),
        kdf: "scrypt".to_owned(),
        n: 1 << log_n,
        r: 8,
        p: 1,
        data: [nonce.as_slice(), &sealed].concat(),
        salt,
    };
    serde_json::to_vec(&file).map_err(|_| RepoError::Key("no JSON"))
}

fn unseal(file: &KeyFile, password: &str) -> Result<Option<MasterKey>, RepoError> {
    let log_n = u8::try_from(file.n.max(1).ilog2()).unwrap_or(u8::MAX);
    // N comes from the vault: refuse what would only eat memory (2^20 takes 1 GiB).
    if log_n > 20 || file.r != 8 || file.p != 1 {
        return Ok(None);
    }
    let Some((nonce, sealed)) = file.data.split_at_checked(NONCE) else { return Ok(None) };
    let plain = cipher(password, &file.salt, log_n)?
        .decrypt(aead::Nonce::<Aes256CtrPoly1305Aes>::from_slice(nonce), sealed);
    Ok(plain.ok().and_then(|plain| serde_json::from_slice(&plain).ok()))
}

/// The master key of a key file of ours that `password` opens; whatever else lies among the keys is
/// passed over, because anyone who may add files can put anything there.
///
/// # Errors
/// [`RepoError::Library`] if the keys cannot be read.
pub fn find(files: &dyn WriteBackend, password: &str) -> Result<Option<MasterKey>, RepoError> {
    let listing = "listing the keys";
    for id in files.list(FileType::Key).map_err(RepoError::library(listing))? {
        let bytes = files.read_full(FileType::Key, &id).map_err(RepoError::library(listing))?;
        if let Ok(file) = serde_json::from_slice::<KeyFile>(&bytes)
            && let Some(master) = unseal(&file, password)?
        {
            return Ok(Some(master));
        }
    }
    Ok(None)
}

/// Creates the repository: directories, key, and last of all `config`, which makes it exist.
///
/// # Errors
/// [`RepoError`]; a repeated call finishes what an interrupted one began.
pub fn create(
    repository: Repository<()>,
    files: &dyn WriteBackend,
    password: &str,
) -> Result<Repository<OpenStatus>, RepoError> {
    let doing = "creating the repository";
    files.create().map_err(RepoError::library(doing))?;
    // An interrupted creation has left its key behind. A second key file under the same password but
    // with another master key would leave it to chance which of the two opens the repository.
    let master = match find(files, password)? {
        Some(master) => master,
        None => {
            let master = MasterKey::new();
            let file = seal(&master, password)?;
            let id = Id::new(Sha256::digest(&file).into());
            files
                .write_bytes(FileType::Key, &id, false, BytesList::from(file))
                .map_err(RepoError::library(doing))?;
            master
        }
    };
    repository
        .init(&Credentials::Masterkey(master), &KeyOptions::default(), &ConfigOptions::default())
        .map_err(RepoError::library(doing))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_file_opens_with_its_password_only_and_also_by_the_library() {
        let master = MasterKey::new();
        let password = "x".repeat(RANDOM_LENGTH);
        let file: KeyFile = serde_json::from_slice(&seal(&master, &password).unwrap()).unwrap();
        assert_eq!(file.n, 1 << CHEAP);
        let back = unseal(&file, &password).unwrap().unwrap();
        assert_eq!(back.encrypt, master.encrypt);
        assert!(unseal(&file, "another").unwrap().is_none());
        assert!(file.key_from_password(&password).is_ok());
        assert!(file.key_from_password(&"y".repeat(RANDOM_LENGTH)).is_err());
    }
}
