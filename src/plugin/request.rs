//! EmbassyRequests: how they are made and waited for.

use super::kube::{Cluster, SiteError};
use crate::api::request::{EmbassyRequest, EmbassyRequestSpec, RequestState, Verb};
use ::kube::ResourceExt as _;
use rand::{RngCore as _, rngs::OsRng};
use std::time::Duration;
use tokio::time::Instant;

/// Time between two looks.
pub const POLL: Duration = Duration::from_secs(1);

/// Why a request did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A site refused or did not answer.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The operator says no.
    #[error("request {name} was refused: {message}")]
    Refused {
        /// The request.
        name: String,
        /// Why.
        message: String,
    },
    /// Not within the deadline; the request stays.
    #[error(
        "request {name} has not come to its end within {seconds} s ({last}). It stays in force: kubectl get \
         embassyrequest {name}"
    )]
    Deadline {
        /// The request.
        name: String,
        /// The deadline.
        seconds: u64,
        /// What was known of it last.
        last: String,
    },
    /// Someone deleted the record.
    #[error("request {0} was deleted while we waited")]
    Gone(String),
}

/// A new request. The token is random: two calls are two requests.
#[must_use]
pub fn build(namespace: &str, target: &str, verb: Verb, reason: &str) -> EmbassyRequest {
    let mut token = [0_u8; 16];
    OsRng.fill_bytes(&mut token);
    let spec = EmbassyRequestSpec {
        verb,
        target: target.to_owned(),
        token: hex::encode(token),
        reason: reason.chars().take(1024).collect(),
    };
    let mut request = EmbassyRequest::new("", spec);
    request.metadata.name = None;
    request.metadata.generate_name = Some(format!("{target}-{}-", format!("{verb:?}").to_lowercase()));
    request.metadata.namespace = Some(namespace.to_owned());
    request
}

/// What is written into the record.
pub async fn reason(cluster: &Cluster, given: Option<&str>) -> String {
    match given.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => text.to_owned(),
        None => format!("kubectl embassy by {}", cluster.whoami().await),
    }
}

/// Creates the request and gives its name.
///
/// # Errors
/// [`SiteError`].
pub async fn submit(cluster: &Cluster, request: &EmbassyRequest) -> Result<String, SiteError> {
    let namespace = request.namespace().unwrap_or_default();
    Ok(cluster.post(&cluster.namespaced(&namespace), request).await?.name_any())
}

/// Where a request stands: `None` if it is gone.
///
/// # Errors
/// [`RequestError::Refused`] too: a refusal ends every wait.
pub async fn look(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
) -> Result<Option<(Option<RequestState>, String)>, RequestError> {
    let found = cluster.get(&cluster.namespaced::<EmbassyRequest>(namespace), name).await?;
    let Some(found) = found else { return Ok(None) };
    let status = found.status.unwrap_or_default();
    let message = status.message.unwrap_or_default();
    if status.state == Some(RequestState::Refused) {
        return Err(RequestError::Refused { name: name.to_owned(), message });
    }
    Ok(Some((status.state, message)))
}

/// Waits until the request is completed, and gives its message.
///
/// # Errors
/// [`RequestError`].
pub async fn wait(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    deadline: Duration,
) -> Result<String, RequestError> {
    let end = Instant::now() + deadline;
    loop {
        let last = match look(cluster, namespace, name).await {
            Ok(Some((Some(RequestState::Completed), message))) => return Ok(message),
            Ok(Some((state, message))) => last(state, &message),
            Ok(None) => return Err(RequestError::Gone(name.to_owned())),
            // An API server that is away for a moment ends no wait.
            Err(RequestError::Site(error)) if error.code().is_none() => crate::cli::chain(&error),
            Err(error) => return Err(error),
        };
        if Instant::now() >= end {
            return Err(RequestError::Deadline { name: name.to_owned(), seconds: deadline.as_secs(), last });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One line on a request that is under way.
#[must_use]
pub fn last(state: Option<RequestState>, message: &str) -> String {
    match (state, message) {
        (None, _) => "no operator has taken it yet".to_owned(),
        (Some(_), "") => "accepted".to_owned(),
        (Some(_), message) => format!("accepted: {message}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_names_its_verb_and_is_unlike_any_other() {
        let (a, b) =
            (build("ns", "register", Verb::Promote, "r"), build("ns", "register", Verb::Promote, "r"));
        assert_eq!(a.metadata.generate_name.as_deref(), Some("register-promote-"));
        assert_eq!((a.metadata.name.as_deref(), a.metadata.namespace.as_deref()), (None, Some("ns")));
        assert_ne!(a.spec.token, b.spec.token);
        assert!((8..=64).contains(&a.spec.token.len()));
        let json = serde_json::to_value(&a).unwrap();
        assert!(json.pointer("/metadata/name").is_none(), "{json}");
    }
}
