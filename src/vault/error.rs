//! Errors of a request and how a client sees them.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use std::io;

/// Why a dispatch was not committed: the constant that home's operator acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The two lines are not a header.
    Malformed,
    /// The signature does not hold, or is not by the pair's key.
    BadSignature,
    /// The vault was started without home's public key.
    NoSigningKey,
    /// The header names another pair.
    WrongPair,
    /// The header names another DataEmbassy than the repository.
    WrongRepository,
    /// The header's sequence is not the name it was sent to.
    WrongName,
    /// Not the next header of the chain.
    ChainBroken,
    /// A listed snapshot, pack or index is not there.
    Incomplete,
    /// The cut lies before the previous one.
    CutTimeRegressed,
    /// The cut lies more than five minutes in the future.
    CutTimeInFuture,
    /// The epoch is not the ledger's, or is the embassy's.
    EpochRefused,
    /// The ledger says an epoch lower than one that it said before: it was restored from a backup.
    LedgerBehind,
    /// The ledger cannot be read now: hold and try again.
    EpochUnknown,
}

impl Reason {
    /// The constant as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed",
            Self::BadSignature => "BadSignature",
            Self::NoSigningKey => "NoSigningKey",
            Self::WrongPair => "WrongPair",
            Self::WrongRepository => "WrongRepository",
            Self::WrongName => "WrongName",
            Self::ChainBroken => "ChainBroken",
            Self::Incomplete => "Incomplete",
            Self::CutTimeRegressed => "CutTimeRegressed",
            Self::CutTimeInFuture => "CutTimeInFuture",
            Self::EpochRefused => "EpochRefused",
            Self::LedgerBehind => "LedgerBehind",
            Self::EpochUnknown => "EpochUnknown",
        }
    }
}

/// What can go wrong with one request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// 400: the request is wrong in itself.
    #[error("{0}")]
    Bad(String),
    /// 403: not for this role, or not in an append-only vault.
    #[error("{0}")]
    Forbidden(String),
    /// 404: nothing of that name.
    #[error("{0}")]
    NotFound(&'static str),
    /// 405: this address does not know the method.
    #[error("this address does not take that method")]
    Method,
    /// 408: the client sent too slowly.
    #[error("the body came too slowly: {0}")]
    Slow(&'static str),
    /// 413: longer than its type may be.
    #[error("longer than the {0} bytes that this type may have")]
    TooLong(u64),
    /// 416: the range lies outside of the object's length in bytes.
    #[error("the range lies outside of the object, which has {0} bytes")]
    Range(u64),
    /// 409, or 503 when it is worth a retry unchanged: a dispatch refused.
    #[error("{}: {message}", .reason.as_str())]
    Refused {
        /// The constant.
        reason: Reason,
        /// One line for people.
        message: String,
    },
    /// 507: quota, count limit or disk is full. What was there stays as it was.
    #[error("{0}")]
    Full(String),
    /// 500: what is stored is not what was stored. Needs a human.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// 500, or 507 for a full disk.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// 500: a task of ours died.
    #[error("an internal task failed")]
    Task(#[source] tokio::task::JoinError),
}

impl RequestError {
    /// For `map_err`: the error of an I/O step with what was being done.
    pub fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// A refusal of a dispatch.
    pub fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self::Refused { reason, message: message.into() }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Range(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Refused { reason: Reason::EpochUnknown, .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused { .. } => StatusCode::CONFLICT,
            Self::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Io { source, .. } if disk_full(source) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Damaged(_) | Self::Io { .. } | Self::Task(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer for the client: text, or JSON with reason and message for a refused dispatch.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let (kind, body) = match self {
            Self::Refused { reason, message } => {
                let json = serde_json::json!({"reason": reason.as_str(), "message": message});
                ("application/json", json.to_string())
            }
            // The source of an I/O error names paths of the host: that is for our log only.
            Self::Io { source, .. } if disk_full(source) => (
                "text/plain; charset=utf-8",
                "the vault's disk is full; what was stored is intact\n".to_owned(),
            ),
            other => ("text/plain; charset=utf-8", format!("{other}\n")),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Self::Range(length) = self
            && let Ok(value) = HeaderValue::from_str(&format!("bytes */{length}"))
        {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
        response
    }
}

/// Whether an I/O error means that there is no room: the disk's, or a quota of the file system.
#[must_use]
pub fn disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Runs blocking disk work off the event loop.
///
/// # Errors
/// The work's own error, or [`RequestError::Task`] when it died.
pub async fn blocking<T, F>(work: F) -> Result<T, RequestError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, RequestError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(RequestError::Task)?
}
