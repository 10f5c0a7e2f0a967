//! The TLS client: TLS 1.3, our CA and no other, our certificate.

use super::BackendError;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// PEM files of the connection to a vault.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// The CA that signed the vault's certificate.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

fn setup(path: &Path, why: impl std::fmt::Display) -> BackendError {
    BackendError::Setup(format!("{}: {why}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BackendError> {
    let file = File::open(path).map_err(|error| setup(path, error))?;
    let list: Vec<_> = rustls_pemfile::certs(&mut BufReader::new(file))
        .collect::<Result<_, _>>()
        .map_err(|error| setup(path, error))?;
    if list.is_empty() {
        return Err(setup(path, "no certificate in it"));
    }
    Ok(list)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, BackendError> {
    let file = File::open(path).map_err(|error| setup(path, error))?;
    rustls_pemfile::private_key(&mut BufReader::new(file))
        .map_err(|error| setup(path, error))?
        .ok_or_else(|| setup(path, "no private key in it"))
}

/// Builds the client's configuration.
///
/// A host country may own platform roots, so they are never consulted: only `ca` counts.
///
/// # Errors
/// [`BackendError::Setup`] naming the file that cannot be used.
pub fn client_config(files: &TlsFiles) -> Result<rustls::ClientConfig, BackendError> {
    let ca = files.ca.as_deref().ok_or_else(|| {
        BackendError::Setup("https needs --cacert: platform roots are not trusted".to_owned())
    })?;
    let mut roots = RootCertStore::empty();
    for cert in certificates(ca)? {
        roots.add(cert).map_err(|error| setup(ca, error))?;
    }
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| BackendError::Setup(error.to_string()))?
            .with_root_certificates(roots);
    match (files.cert.as_deref(), files.key.as_deref()) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|error| setup(cert, error)),
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(BackendError::Setup("--client-cert and --client-key go together".to_owned())),
    }
}
