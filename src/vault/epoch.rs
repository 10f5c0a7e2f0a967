//! Which epoch a DataEmbassy's writ has, by the embassy's ledger.
//!
//! It is asked for at every commit and never cached: a cached epoch is exactly the stale right that
//! the writ exists to end. Only the epoch counts here; a home that is `yielding` may still make its
//! final dispatch (design, rule 10).

use super::watch::read_bounded;
use crate::api::ledger::{Ledger, LedgerError};
use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Longest wait for the ledger.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest epoch file that is read, in bytes.
const MAX_EPOCH_FILE: u64 = 1 << 20;

/// Why no epoch is known. Always a reason to hold, never to commit.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The vault was given no source.
    #[error("this vault was given neither a ledger nor an epoch file")]
    NoSource,
    /// The epoch file cannot be read.
    #[error("cannot read the epoch file")]
    File(#[source] std::io::Error),
    /// The epoch file is not `{"name": {"epoch": N}}`.
    #[error("the epoch file does not parse")]
    Json(#[source] serde_json::Error),
    /// The API server did not answer in time.
    #[error("the ledger was not answered within 3 s")]
    Timeout,
    /// The API server refused, or was not reached.
    #[error("cannot read the ledger")]
    Kube(#[source] Box<kube::Error>),
    /// The Lease is no ledger.
    #[error("the Lease is not a ledger")]
    Ledger(#[source] LedgerError),
    /// There is no writ for this DataEmbassy.
    #[error("the ledger has no writ for {0}")]
    NoWrit(String),
}

/// Why there is no client for the ledger.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// This is no pod, or its account cannot be read.
    #[error("this is no pod with a service account")]
    NotInCluster(#[from] kube::config::InClusterError),
    /// The client cannot be made.
    #[error("cannot make a client for the API server")]
    Kube(#[from] kube::Error),
}

/// Where the epoch is read.
pub trait EpochSource: Send + Sync {
    /// The epoch of the DataEmbassy's writ, read now; `None` where nobody checks (by hand only).
    fn epoch<'a>(&'a self, data_embassy: &'a str) -> BoxFuture<'a, Result<Option<u64>, EpochError>>;
}

/// Always unknown: what a vault without a source says.
#[derive(Debug)]
pub struct NoSource;

impl EpochSource for NoSource {
    fn epoch<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<u64>, EpochError>> {
        Box::pin(async { Err(EpochError::NoSource) })
    }
}

/// Nobody checks. Only for a vault on loopback that serves one person's experiments.
#[derive(Debug)]
pub struct Unchecked;

impl EpochSource for Unchecked {
    fn epoch<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<u64>, EpochError>> {
        Box::pin(async { Ok(None) })
    }
}

/// A file `{"name": {"epoch": 4}}`, for tests and by hand.
#[derive(Debug)]
pub struct FileSource(pub PathBuf);

#[derive(Deserialize)]
struct FileWrit {
    epoch: u64,
}

impl EpochSource for FileSource {
    fn epoch<'a>(&'a self, data_embassy: &'a str) -> BoxFuture<'a, Result<Option<u64>, EpochError>> {
        Box::pin(async move {
            // Off the event loop: a file on a network mount may hang.
            let path = self.0.clone();
            let read = tokio::task::spawn_blocking(move || read_bounded(&path, MAX_EPOCH_FILE)).await;
            let bytes =
                read.map_err(std::io::Error::other).and_then(|read| read).map_err(EpochError::File)?;
            let writs: BTreeMap<String, FileWrit> =
                serde_json::from_slice(&bytes).map_err(EpochError::Json)?;
            let writ = writs.get(data_embassy);
            writ.map(|writ| Some(writ.epoch)).ok_or_else(|| EpochError::NoWrit(data_embassy.to_owned()))
        })
    }
}

/// The pair's ledger, a Lease in the embassy's own cluster.
pub struct LeaseSource {
    api: kube::Api<Lease>,
    name: String,
}

impl LeaseSource {
    /// A client for the Lease `namespace/name` by the pod's own service account.
    ///
    /// # Errors
    /// [`ClientError`]. Nothing is asked of the API server yet: a vault must serve readers while
    /// that is down.
    pub fn in_cluster(namespace: &str, name: &str) -> Result<Self, ClientError> {
        let mut config = kube::Config::incluster()?;
        // The library's default retries (15 tries, up to 1000 s) would answer with an epoch of
        // long ago; here a late answer is worth less than none.
        config.default_retry = false;
        config.connect_timeout = Some(LEDGER_TIMEOUT);
        config.read_timeout = Some(LEDGER_TIMEOUT);
        let client = kube::Client::try_from(config)?;
        Ok(Self { api: kube::Api::namespaced(client, namespace), name: name.to_owned() })
    }
}

impl EpochSource for LeaseSource {
    fn epoch<'a>(&'a self, data_embassy: &'a str) -> BoxFuture<'a, Result<Option<u64>, EpochError>> {
        Box::pin(async move {
            // Without a resourceVersion a GET is a quorum read: never an API server's old cache.
            let answer = tokio::time::timeout(LEDGER_TIMEOUT, self.api.get(&self.name)).await;
            let lease = answer
                .map_err(|_| EpochError::Timeout)?
                .map_err(|error| EpochError::Kube(Box::new(error)))?;
            let ledger = Ledger::from_lease(&lease).map_err(EpochError::Ledger)?;
            let writ = ledger.writs.get(data_embassy);
            writ.map(|writ| Some(writ.epoch)).ok_or_else(|| EpochError::NoWrit(data_embassy.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use std::convert::Infallible;

    fn source(answer: Option<(u16, serde_json::Value)>) -> LeaseSource {
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = answer.clone();
            async move {
                let path = "/apis/coordination.k8s.io/v1/namespaces/registers/leases/ledger-p";
                assert_eq!(request.uri().path(), path);
                assert_eq!(request.uri().query().unwrap_or_default(), "", "a quorum read");
                let Some((status, json)) = answer else { return std::future::pending().await };
                let body = Body::from(json.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        });
        let client = kube::Client::new(service, "registers");
        let api = kube::Api::namespaced(client, "registers");
        LeaseSource { api, name: "ledger-p".to_owned() }
    }

    fn lease(writs: &str) -> Option<(u16, serde_json::Value)> {
        let metadata = serde_json::json!({
            "name": "ledger-p",
            "resourceVersion": "7",
            "uid": "u",
            "annotations": {crate::api::ledger::WRITS: writs},
        });
        let spec = serde_json::json!({"leaseDurationSeconds": 30});
        Some((200, serde_json::json!({"metadata": metadata, "spec": spec})))
    }

    #[tokio::test]
    async fn the_lease_says_the_epoch_of_each_writ() {
        let ledger = source(lease(r#"{"register":{"epoch":4,"yielding":true}}"#));
        assert_eq!(ledger.epoch("register").await.unwrap(), Some(4), "yielding home may still commit");
        assert!(matches!(ledger.epoch("other").await, Err(EpochError::NoWrit(_))));
    }

    #[tokio::test]
    async fn whatever_is_not_a_ledger_is_unknown() {
        let broken = source(lease("not json")).epoch("register").await;
        assert!(matches!(broken, Err(EpochError::Ledger(_))), "{broken:?}");
        let status = serde_json::json!({"kind": "Status", "code": 404, "message": "", "reason": "NotFound"});
        let missing = source(Some((404, status))).epoch("register").await;
        assert!(matches!(missing, Err(EpochError::Kube(_))), "{missing:?}");
        let silent = source(None).epoch("register").await;
        assert!(matches!(silent, Err(EpochError::Timeout)), "{silent:?}");
    }

    #[tokio::test]
    async fn a_client_with_tls_can_be_made_in_this_process() {
        // kube panics or fails here when no TLS provider is chosen for the process.
        let config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
        assert!(kube::Client::try_from(config).is_ok());
    }
}
