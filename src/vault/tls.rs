//! Mutual TLS: who may connect, and as what. The certificate files are read again while we run.

use super::watch::read_bounded;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Longest certificate or key file that is read, in bytes.
const MAX_PEM: u64 = 1 << 20;

/// What a client may do, by the common name of its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `home`: creates, reads, appends; deletes locks.
    Home,
    /// `embassy`: reads; writes and deletes locks.
    Embassy,
}

impl Role {
    /// A word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Embassy => "embassy",
        }
    }
}

/// Why the files are no use, or a client is turned away.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file is not PEM of the right sort.
    #[error("{path} holds no usable {what}")]
    Pem {
        /// Its path.
        path: PathBuf,
        /// Certificates or key.
        what: &'static str,
        /// The cause; `None` for an empty file.
        #[source]
        source: Option<rustls::pki_types::pem::Error>,
    },
    /// The parts do not fit each other.
    #[error("the certificate, key and client CA do not make a TLS server")]
    Config(#[from] rustls::Error),
    /// The client CA is none.
    #[error("the client CA is not usable")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A certificate does not parse.
    #[error("a certificate does not parse")]
    Certificate,
    /// The client's certificate gives no role.
    #[error("the client certificate's common name is neither home nor embassy")]
    NoRole,
}

/// Paths of the PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Our chain.
    pub cert: PathBuf,
    /// Our key.
    pub key: PathBuf,
    /// The authority that alone may have signed a client's certificate.
    pub client_ca: PathBuf,
}

#[derive(Clone, PartialEq, Eq)]
struct Pems {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

/// A TLS server made from one state of the files.
#[derive(Clone)]
pub struct Current {
    /// For new connections.
    pub config: Arc<ServerConfig>,
    /// Counts changes of the client CA: connections accepted under another are asked to go, or a
    /// client that was shut out would stay for as long as it keeps talking.
    pub ca_generation: u64,
    /// End of our own certificate, seconds since 1970.
    pub not_after: i64,
}

/// The files, and the newest server that could be made of them.
pub struct TlsState {
    files: TlsFiles,
    last: std::sync::Mutex<Pems>,
    current: watch::Sender<Current>,
}

impl TlsState {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let pems = files.read()?;
        let current = watch::Sender::new(build(&files, &pems, 0)?);
        Ok(Self { files, last: std::sync::Mutex::new(pems), current })
    }

    /// The newest state, to follow its changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Current> {
        self.current.subscribe()
    }

    /// Reads the files again; `true` when something changed.
    ///
    /// # Errors
    /// [`TlsError`]; the server from before stays. (A key that does not fit its certificate is
    /// what a swap of the files in the middle of our reading looks like: the next turn has both.)
    pub fn reload(&self) -> Result<bool, TlsError> {
        let pems = self.files.read()?;
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *last == pems {
            return Ok(false);
        }
        let generation = self.current.borrow().ca_generation;
        let generation = if last.client_ca == pems.client_ca { generation } else { generation + 1 };
        let fresh = build(&self.files, &pems, generation)?;
        self.current.send_replace(fresh);
        *last = pems;
        Ok(true)
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Pems, TlsError> {
        let read = |path: &PathBuf| {
            read_bounded(path, MAX_PEM).map_err(|source| TlsError::Read { path: path.clone(), source })
        };
        Ok(Pems { cert: read(&self.cert)?, key: read(&self.key)?, client_ca: read(&self.client_ca)? })
    }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |source| TlsError::Pem { path: path.to_owned(), what: "certificate", source };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|source| error(Some(source)))?;
    if found.is_empty() { Err(error(None)) } else { Ok(found) }
}

fn build(files: &TlsFiles, pems: &Pems, ca_generation: u64) -> Result<Current, TlsError> {
    let chain = certificates(&pems.cert, &files.cert)?;
    let not_after = chain.first().ok_or(TlsError::Certificate).and_then(not_after)?;
    let key = PrivateKeyDer::from_pem_slice(&pems.key).map_err(|source| TlsError::Pem {
        path: files.key.clone(),
        what: "private key",
        source: Some(source),
    })?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(&pems.client_ca, &files.client_ca)? {
        roots.add(authority)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    // A resumed session brings the client's old certificate along unchecked: one that expired or
    // lost its authority since would still open the vault.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), ca_generation, not_after })
}

fn not_after(certificate: &CertificateDer<'_>) -> Result<i64, TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| TlsError::Certificate)?;
    Ok(parsed.validity().not_after.timestamp())
}

/// Role and end (seconds since 1970) of a client's certificate, which was verified before.
///
/// # Errors
/// [`TlsError::NoRole`] for anything but exactly one common name that is a role.
pub fn identify(certificate: &CertificateDer<'_>) -> Result<(Role, i64), TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| TlsError::Certificate)?;
    let mut names = parsed.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else { return Err(TlsError::NoRole) };
    let role = match name.as_str() {
        Ok("home") => Role::Home,
        Ok("embassy") => Role::Embassy,
        _ => return Err(TlsError::NoRole),
    };
    Ok((role, parsed.validity().not_after.timestamp()))
}
