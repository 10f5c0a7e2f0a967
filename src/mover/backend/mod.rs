//! Where a repository lives: a local directory or a REST vault, each with its dispatches.
//!
//! Both implement the library's backend traits and [`DispatchStore`]. Above them sits
//! [`window::Windowed`], which turns the library's one request a blob into few larger ones.

pub mod gate;
pub mod local;
pub mod rest;
pub mod tls;
pub mod window;

use super::progress::Progress;
use crate::api::report::MoverReason;
use rustic_core::{ErrorKind, FileType, Id, RusticError, WriteBackend};
use std::io;
use std::sync::Arc;

/// What goes wrong between us and the stored bytes.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No answer, or the connection broke, after all retries.
    #[error("{url} did not answer after {tries} tries: {why}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Requests made.
        tries: u32,
        /// The last cause.
        why: String,
    },
    /// Vault or disk are full.
    #[error("{0} is full")]
    Full(String),
    /// Nothing has that name.
    #[error("{0} is not there")]
    NotFound(String),
    /// An answer that no retry mends.
    #[error("{url} was refused with status {status}: {body}")]
    Refused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The answer's first bytes.
        body: String,
    },
    /// Fewer or other bytes than were asked for.
    #[error("{0}")]
    Corrupt(String),
    /// The local file system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The client cannot be set up (bad URL, bad certificate).
    #[error("{0}")]
    Setup(String),
}

impl BackendError {
    /// The reason that the operator sees.
    #[must_use]
    pub fn reason(&self) -> MoverReason {
        match self {
            Self::Unreachable { .. } => MoverReason::VaultUnreachable,
            Self::Full(_) => MoverReason::VaultFull,
            Self::NotFound(_) | Self::Corrupt(_) => MoverReason::RepositoryDamaged,
            Self::Refused { .. } => MoverReason::VaultRefused,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => MoverReason::RepositoryDamaged,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => MoverReason::VaultFull,
                _ => MoverReason::Failed,
            },
            Self::Setup(_) => MoverReason::Failed,
        }
    }

    /// Wraps it for the library, which hands it back as a source.
    #[must_use]
    pub fn for_library(self) -> Box<RusticError> {
        RusticError::with_source(ErrorKind::Backend, "the backend failed", self)
    }
}

/// How a commit ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Committed {
    /// The header stands, made by this call or by an earlier one with the same bytes.
    Done,
    /// Other bytes stand under that sequence.
    Taken,
    /// The vault said no.
    Refused {
        /// CamelCase reason.
        reason: String,
        /// For people.
        message: String,
    },
}

/// The signed headers beside the repository.
pub trait DispatchStore: Send + Sync {
    /// All sequences, ascending.
    ///
    /// # Errors
    /// [`BackendError`]; a store without any dispatch is an empty list.
    fn list_dispatches(&self) -> Result<Vec<u64>, BackendError>;
    /// The stored bytes of one header.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] if there is none.
    fn read_dispatch(&self, sequence: u64) -> Result<Vec<u8>, BackendError>;
    /// Commits; repeating it with the same bytes is harmless.
    ///
    /// # Errors
    /// Only what leaves the outcome unknown or is no answer; a refusal is a [`Committed`].
    fn commit_dispatch(&self, sequence: u64, bytes: &[u8]) -> Result<Committed, BackendError>;
}

/// An opened location.
#[derive(Clone)]
pub struct Location {
    /// For the library.
    pub files: Arc<dyn WriteBackend>,
    /// For the headers.
    pub dispatches: Arc<dyn DispatchStore>,
    /// Which indexes the library is shown.
    pub indexes: gate::IndexFilter,
    /// For people; holds no secret.
    pub name: String,
}

/// Opens `spec`: `rest:URL` or a directory.
///
/// # Errors
/// [`BackendError::Setup`] for a URL or certificate that cannot be used.
pub fn open(spec: &str, tls: &tls::TlsFiles, progress: &Arc<Progress>) -> Result<Location, BackendError> {
    let indexes = gate::IndexFilter::default();
    let gated = |inner| Arc::new(gate::Gate::new(inner, progress.clone(), indexes.clone()));
    if let Some(url) = spec.strip_prefix("rest:") {
        let rest = Arc::new(rest::RestBackend::new(url, tls, progress.clone())?);
        let name = rest.name();
        let files = gated(Arc::new(window::Windowed::new(rest.clone())));
        return Ok(Location { files, dispatches: rest, indexes, name });
    }
    let local = Arc::new(local::LocalBackend::new(spec.strip_prefix("local:").unwrap_or(spec)));
    let files = gated(local.clone());
    Ok(Location { files, dispatches: local, indexes, name: spec.to_owned() })
}

/// Path of a file below the repository, as restic lays it out over REST.
fn rest_path(tpe: FileType, id: &Id) -> String {
    match tpe {
        FileType::Config => "config".to_owned(),
        _ => format!("{}/{}", tpe.dirname(), id.to_hex().as_str()),
    }
}
