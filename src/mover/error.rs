//! One error enum for each stage of a run, and the one place where they become a reason.

use super::backend::BackendError;
use crate::api::dispatch::HeaderError;
use crate::api::report::MoverReason;
use rustic_core::RusticError;
use std::io;
use std::path::PathBuf;

/// An error of the repository library, printed in one line.
///
/// The library's own `Display` is a page of text, and it hides the kind of the error; the causes
/// below it, of which ours are the interesting ones, stay reachable through `source`.
#[derive(Debug)]
pub struct Fault(Box<RusticError>);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.0.display_log();
        f.write_str(text.strip_prefix("Error: ").unwrap_or(&text))
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl From<Box<RusticError>> for Fault {
    fn from(error: Box<RusticError>) -> Self {
        Self(error)
    }
}

impl Fault {
    /// True if the library says that the password opens no key.
    #[must_use]
    pub fn is_wrong_password(&self) -> bool {
        self.0.is_incorrect_password()
    }

    /// Our own backend's error, if that is what is at the bottom.
    #[must_use]
    pub fn backend(&self) -> Option<&BackendError> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref::<BackendError>() {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }
}

/// Opening, creating or reading a repository.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// There is no `config` where the repository should be.
    #[error("there is no repository at {0}; correct the path, or create one with `mover init`")]
    Missing(String),
    /// The password opens none of the keys.
    #[error("the password opens no key of the repository at {0}")]
    WrongKey(String),
    /// A local file of credentials cannot be used.
    #[error("cannot read {path}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of credentials does not hold what it should.
    #[error("{path}: {what}")]
    BadCredentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A blob's or file's content is not what its name says.
    #[error("the repository is damaged: {0}")]
    Damaged(String),
    /// The key file could not be sealed.
    #[error("cannot make the repository's key file: {0}")]
    Key(&'static str),
    /// The transport failed.
    #[error("the repository's backend failed")]
    Backend(#[from] BackendError),
    /// The library failed while doing `doing`.
    #[error("{doing}")]
    Library {
        /// What was being done.
        doing: &'static str,
        /// The library's error.
        #[source]
        source: Fault,
    },
}

impl RepoError {
    /// Maps a library error, for `map_err`.
    pub fn library(doing: &'static str) -> impl FnOnce(Box<RusticError>) -> Self {
        move |source| Self::Library { doing, source: source.into() }
    }
}

/// Reading the volumes at home.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory is not there or cannot be opened.
    #[error("the source {path} cannot be opened as a directory")]
    Missing {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Empty, although it was not before.
    #[error(
        "volume {volume} is empty, but its last dispatch held {before} entries; nothing was committed. \
         Is the right volume mounted? If it is really meant to be empty, acknowledge it"
    )]
    Empty {
        /// The volume.
        volume: String,
        /// Entries of the dispatch before.
        before: u64,
    },
    /// The manifests' file cannot be read.
    #[error("the manifests in {path} are not the gzip of a JSON array")]
    Manifests {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The library lost entries without an error (it drops what it cannot archive).
    #[error("{read} entries were read from {path}, but the snapshot holds {stored}; it is not used")]
    Lost {
        /// The source.
        path: PathBuf,
        /// Entries handed to the library.
        read: u64,
        /// Entries in the snapshot's tree.
        stored: u64,
    },
}

/// Restoring and proving.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target is not a directory that can be opened.
    #[error("the target {path} cannot be used")]
    Target {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The snapshot does not exist.
    #[error("there is no snapshot {0}")]
    NoSnapshot(String),
    /// The snapshot has no such directory.
    #[error("snapshot {snapshot} holds no directory {path}")]
    NoPath {
        /// The snapshot.
        snapshot: String,
        /// The path.
        path: String,
    },
    /// The manifests cannot be handed over.
    #[error("the manifests cannot be written to {to}: {why}")]
    Manifests {
        /// File or Secret.
        to: String,
        /// Why.
        why: String,
    },
}

/// Reading, building and committing headers.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// A stored header does not hold.
    #[error("dispatch {sequence} is not accepted")]
    Header {
        /// Its sequence.
        sequence: u64,
        /// Why.
        #[source]
        source: HeaderError,
    },
    /// A stored header holds, but is not the one that was asked for.
    #[error("dispatch {sequence} is refused: {why}")]
    Refused {
        /// Its sequence.
        sequence: u64,
        /// What does not fit.
        why: String,
    },
    /// There is none.
    #[error("the vault holds no dispatch{0}")]
    None(String),
    /// Our own header cannot be signed.
    #[error("the header cannot be signed")]
    Sign(#[source] HeaderError),
    /// The vault said no, with its reason.
    #[error("the vault refused dispatch {sequence}: {reason}: {message}")]
    Vault {
        /// The sequence that was offered.
        sequence: u64,
        /// CamelCase reason from the vault.
        reason: String,
        /// Its words.
        message: String,
    },
    /// Another header stands where ours should be.
    #[error("dispatch {0} was committed by another run meanwhile; start again with a new cut")]
    Overtaken(u64),
}

/// Anything that ends a run early.
#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    /// The command line does not make sense.
    #[error("{0}")]
    Usage(String),
    /// SIGTERM.
    #[error("stopped by a signal; the next run continues where this one stopped")]
    Interrupted,
    /// Entries were missed; they are counted and named in the report.
    #[error("{message}")]
    Missed {
        /// What the misses come to.
        reason: MoverReason,
        /// For people.
        message: String,
    },
    /// See [`RepoError`].
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// See [`SourceError`].
    #[error(transparent)]
    Source(#[from] SourceError),
    /// See [`RestoreError`].
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// See [`DispatchError`].
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// The process could not be set up.
    #[error("{what}")]
    Setup {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<BackendError> for MoverError {
    fn from(error: BackendError) -> Self {
        Self::Repo(RepoError::Backend(error))
    }
}

impl MoverError {
    /// The reason that the operator sees. The only such mapping there is.
    #[must_use]
    pub fn reason(&self) -> MoverReason {
        match self {
            Self::Usage(_) | Self::Setup { .. } => MoverReason::Failed,
            Self::Interrupted => MoverReason::Interrupted,
            Self::Missed { reason, .. } => *reason,
            Self::Repo(error) => repo_reason(error),
            Self::Source(error) => match error {
                SourceError::Missing { .. } => MoverReason::SourceMissing,
                SourceError::Empty { .. } => MoverReason::SourceEmpty,
                SourceError::Manifests { .. } => MoverReason::Failed,
                SourceError::Lost { .. } => MoverReason::Unreadable,
            },
            Self::Restore(error) => match error {
                RestoreError::Target { source, .. } => io_reason(source),
                RestoreError::NoSnapshot(_) | RestoreError::NoPath { .. } => MoverReason::RepositoryDamaged,
                RestoreError::Manifests { .. } => MoverReason::NotRestorable,
            },
            Self::Dispatch(error) => dispatch_reason(error),
        }
    }
}

/// What an I/O error on the target comes to.
#[must_use]
pub fn io_reason(error: &io::Error) -> MoverReason {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => MoverReason::TargetFull,
        _ => MoverReason::NotRestorable,
    }
}

fn repo_reason(error: &RepoError) -> MoverReason {
    match error {
        RepoError::Missing(_) => MoverReason::RepositoryMissing,
        RepoError::WrongKey(_) => MoverReason::WrongKey,
        RepoError::Credentials { .. } | RepoError::BadCredentials { .. } | RepoError::Key(_) => {
            MoverReason::Failed
        }
        RepoError::Damaged(_) => MoverReason::RepositoryDamaged,
        RepoError::Backend(error) => error.reason(),
        RepoError::Library { source, .. } => match source.backend() {
            Some(error) => error.reason(),
            None if source.is_wrong_password() => MoverReason::WrongKey,
            None => MoverReason::RepositoryDamaged,
        },
    }
}

fn dispatch_reason(error: &DispatchError) -> MoverReason {
    match error {
        DispatchError::Header { .. } | DispatchError::Refused { .. } => MoverReason::HeaderRefused,
        DispatchError::None(_) => MoverReason::RepositoryMissing,
        DispatchError::Sign(_) => MoverReason::Failed,
        DispatchError::Overtaken(_) => MoverReason::HeaderRefused,
        DispatchError::Vault { reason, .. } => match reason.as_str() {
            "EpochRefused" => MoverReason::EpochRefused,
            "EpochUnknown" => MoverReason::VaultUnreachable,
            _ => MoverReason::VaultRefused,
        },
    }
}
