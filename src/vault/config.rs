//! The command line of `embassy vault`, and what follows from it.

use super::commit::Authority;
use super::epoch::{EpochSource, FileSource, LeaseSource, NoSource, Unchecked};
use super::tls::TlsFiles;
use super::watch::read_bounded;
use ed25519_dalek::VerifyingKey;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Command line of `embassy vault`.
#[derive(Clone, Debug, clap::Args)]
pub struct VaultArgs {
    /// Folder of the repositories; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Our certificate chain (PEM); read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM); read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The only authority whose client certificates open the vault (PEM); read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Id of the pair whose dispatches are taken.
    #[arg(long, value_name = "ID")]
    pub pair: Option<String>,
    /// Home's public ed25519 key: 64 hex digits of the raw 32 bytes.
    #[arg(long, value_name = "FILE")]
    pub signing_key: Option<PathBuf>,
    /// A repository that may be created and written; repeat it. Without any, all may.
    #[arg(long = "repository", value_name = "NAME", conflicts_with = "repositories_file")]
    pub repositories: Vec<String>,
    /// The same as a file, one name a line; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub repositories_file: Option<PathBuf>,
    /// Quotas: JSON {"repository": bytes}; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub quota_file: Option<PathBuf>,
    /// Epochs: JSON {"name": {"epoch": N}}, read at every commit.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ledger", "no_epoch_check"])]
    pub epoch_file: Option<PathBuf>,
    /// The pair's ledger, a Lease in the cluster that this runs in; read at every commit.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "no_epoch_check")]
    pub ledger: Option<String>,
    /// Commits any epoch. Only with --insecure-standalone.
    #[arg(long, requires = "insecure_standalone")]
    pub no_epoch_check: bool,
    /// Where /healthz, /readyz and /metrics are served over plain HTTP.
    #[arg(long, value_name = "ADDR:PORT")]
    pub health_listen: Option<SocketAddr>,
    /// No TLS, everybody is home, loopback only: for benches and for trying things by hand.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key", "client_ca"])]
    pub insecure_standalone: bool,
    /// Longest silence of a client in seconds before it is dropped.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub client_timeout: u64,
    /// Most connections at once.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_connections: u16,
}

/// Why the command line makes no vault.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An option is missing.
    #[error("{0} is needed (or --insecure-standalone, to try things by hand)")]
    Missing(&'static str),
    /// Plain HTTP where others could reach it.
    #[error("--insecure-standalone listens on loopback only, not on {0}")]
    NotLoopback(SocketAddr),
    /// The key file cannot be read.
    #[error("cannot read the signing key {path}")]
    ReadKey {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The key file holds no key.
    #[error("{0} does not hold 64 hex digits of an ed25519 public key")]
    Key(PathBuf),
    /// `--ledger` is not of its form.
    #[error("--ledger takes NAMESPACE/NAME, not {0:?}")]
    Ledger(String),
    /// No client for the ledger.
    #[error("cannot reach for the ledger")]
    Client(#[source] Box<super::epoch::ClientError>),
}

impl VaultArgs {
    /// The TLS files; `None` for plain HTTP on loopback.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn tls(&self) -> Result<Option<TlsFiles>, ConfigError> {
        if self.insecure_standalone {
            let loopback = self.listen.ip().is_loopback();
            return if loopback { Ok(None) } else { Err(ConfigError::NotLoopback(self.listen)) };
        }
        let need = |path: &Option<PathBuf>, name| path.clone().ok_or(ConfigError::Missing(name));
        Ok(Some(TlsFiles {
            cert: need(&self.tls_cert, "--tls-cert")?,
            key: need(&self.tls_key, "--tls-key")?,
            client_ca: need(&self.client_ca, "--client-ca")?,
        }))
    }

    /// Whose dispatches are taken; `None` refuses all of them (standalone only).
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn authority(&self) -> Result<Option<Authority>, ConfigError> {
        match (&self.pair, &self.signing_key) {
            (Some(pair), Some(path)) => Ok(Some(Authority { pair: pair.clone(), key: read_key(path)? })),
            (None, None) if self.insecure_standalone => Ok(None),
            (None, _) => Err(ConfigError::Missing("--pair")),
            (_, None) => Err(ConfigError::Missing("--signing-key")),
        }
    }

    /// Where epochs are read. Within the runtime, which the API server's client needs.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn epochs(&self) -> Result<Box<dyn EpochSource>, ConfigError> {
        if let Some(path) = &self.epoch_file {
            return Ok(Box::new(FileSource(path.clone())));
        }
        if let Some(ledger) = &self.ledger {
            let (namespace, name) = ledger
                .split_once('/')
                .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
                .ok_or_else(|| ConfigError::Ledger(ledger.clone()))?;
            let source = LeaseSource::in_cluster(namespace, name)
                .map_err(|error| ConfigError::Client(Box::new(error)))?;
            return Ok(Box::new(source));
        }
        match (self.no_epoch_check, self.insecure_standalone) {
            (true, _) => Ok(Box::new(Unchecked)),
            (false, true) => Ok(Box::new(NoSource)),
            (false, false) => Err(ConfigError::Missing("--ledger or --epoch-file")),
        }
    }
}

fn read_key(path: &Path) -> Result<VerifyingKey, ConfigError> {
    let bytes =
        read_bounded(path, 1024).map_err(|source| ConfigError::ReadKey { path: path.to_owned(), source })?;
    let key = hex::decode(bytes.trim_ascii()).ok().and_then(|raw| <[u8; 32]>::try_from(raw).ok());
    key.and_then(|raw| VerifyingKey::from_bytes(&raw).ok()).ok_or_else(|| ConfigError::Key(path.to_owned()))
}
