//! Asks a vault what it has: its status and its dispatch headers, over mutual TLS.
//!
//! Only our pair's CA is trusted. What comes back is bytes; whether they are a dispatch of ours is
//! judged by [`crate::controller::standby`], never here.

use crate::api::dispatch::{MAX_HEADER_BYTES, dispatch_name};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Bound of connecting.
const CONNECT: Duration = Duration::from_secs(3);
/// Bound of one whole request.
const REQUEST: Duration = Duration::from_secs(10);
/// Longest status that is read.
const MAX_STATUS: usize = 64 << 10;

/// Who we are and whom we trust, all PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The pair's CA.
    pub ca: Vec<u8>,
    /// Our certificate.
    pub cert: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

/// The vault's answer about one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RepositoryStatus {
    /// True once the repository was created.
    pub repository: bool,
    /// Bytes that it takes.
    pub used: u64,
    /// Most bytes that it may take.
    pub quota: Option<u64>,
    /// Free bytes of the vault's volume.
    pub free: u64,
    /// Size of the vault's volume.
    pub fs_total: u64,
    /// Sequence of the newest committed dispatch.
    pub last_sequence: Option<u64>,
    /// Chain hash of its header.
    pub last_header: Option<String>,
}

/// Why the vault could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultClientError {
    /// The PEM is no certificate or key.
    #[error("the vault's {0} does not parse")]
    Pem(&'static str, #[source] rustls::pki_types::pem::Error),
    /// The parts do not fit each other.
    #[error("the vault's certificates make no TLS client")]
    Tls(#[source] rustls::Error),
    /// The HTTP client could not be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// No answer, or it broke off.
    #[error("the vault does not answer")]
    Request(#[source] reqwest::Error),
    /// Another answer than 200.
    #[error("the vault answers {status} to {what}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// The start of its explanation.
        text: String,
    },
    /// Longer than it may be.
    #[error("the vault's answer to {0} is longer than it may be")]
    TooLong(String),
    /// Not the JSON that was expected.
    #[error("the vault's answer to {0} does not parse")]
    Json(String, #[source] serde_json::Error),
}

/// Asks one vault.
#[derive(Clone)]
pub struct VaultClient {
    http: reqwest::Client,
    address: String,
}

impl VaultClient {
    /// `address` is `host:port`, as the server's certificate names it.
    ///
    /// # Errors
    /// [`VaultClientError`] for credentials that are none.
    pub fn new(address: &str, credentials: &Credentials) -> Result<Self, VaultClientError> {
        let http = reqwest::Client::builder()
            .use_preconfigured_tls(tls(credentials)?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            // A kept connection would outlive a rotated certificate.
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1)
            .build()
            .map_err(VaultClientError::Client)?;
        Ok(Self { http, address: address.to_owned() })
    }

    /// What the vault has of `repository`.
    ///
    /// # Errors
    /// [`VaultClientError`].
    pub async fn status(&self, repository: &str) -> Result<RepositoryStatus, VaultClientError> {
        let path = format!("{repository}/status");
        let body = self.get(&path, MAX_STATUS).await?;
        serde_json::from_slice(&body).map_err(|error| VaultClientError::Json(path, error))
    }

    /// The stored bytes of one dispatch's header, unverified.
    ///
    /// # Errors
    /// [`VaultClientError`].
    pub async fn header(&self, repository: &str, sequence: u64) -> Result<Vec<u8>, VaultClientError> {
        self.get(&format!("{repository}/dispatches/{}", dispatch_name(sequence)), MAX_HEADER_BYTES).await
    }

    async fn get(&self, path: &str, most: usize) -> Result<Vec<u8>, VaultClientError> {
        let url = format!("https://{}/{path}", self.address);
        let mut response = self.http.get(url).send().await.map_err(VaultClientError::Request)?;
        let ok = response.status() == reqwest::StatusCode::OK;
        let most = if ok { most } else { 1024 };
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(VaultClientError::Request)? {
            if body.len() + piece.len() > most {
                if ok {
                    return Err(VaultClientError::TooLong(path.to_owned()));
                }
                break;
            }
            body.extend_from_slice(&piece);
        }
        if ok {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        Err(VaultClientError::Refused { status: response.status().as_u16(), what: path.to_owned(), text })
    }
}

fn tls(credentials: &Credentials) -> Result<rustls::ClientConfig, VaultClientError> {
    let certificates = |pem: &[u8], what| {
        let parsed: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem).collect();
        parsed.map_err(|error| VaultClientError::Pem(what, error))
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(&credentials.ca, "CA")? {
        roots.add(authority).map_err(VaultClientError::Tls)?;
    }
    let chain = certificates(&credentials.cert, "client certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&credentials.key)
        .map_err(|error| VaultClientError::Pem("client key", error))?;
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(VaultClientError::Tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(VaultClientError::Tls)
}
