//! `embassy release`: what the chart runs after it was uninstalled.
//!
//! A finalizer whose operator is gone would hang every `kubectl delete` for ever. The copies abroad
//! are not told anything: they stay as they are, and an operator that is installed again takes its
//! DataEmbassies up as if nothing had been.

use super::apply::{Applier, ApplyError};
use crate::api::DataEmbassy;
use crate::api::names::FINALIZER;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use std::time::Duration;

/// Bound of one call.
const CALL: Duration = Duration::from_secs(10);
/// Passes over all DataEmbassies; the operator may still be ending, and put one back.
const PASSES: usize = 20;
/// Time between two passes.
const PAUSE: Duration = Duration::from_secs(3);
/// Passes without a find after which it is over.
const QUIET: usize = 2;

/// Why the finalizers could not be taken off.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// No way to the API server.
    #[error("cannot make a client for the API server (is this running in a cluster?)")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The list failed.
    #[error("cannot list DataEmbassies")]
    List(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("no answer from the API server within {} s", CALL.as_secs())]
    Timeout,
    /// One could not be patched.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Somebody puts them back.
    #[error("finalizers keep coming back: is an operator still running?")]
    ComesBack,
}

/// Takes this operator's finalizer off every DataEmbassy of the cluster.
///
/// # Errors
/// [`ReleaseError`].
pub async fn run() -> Result<(), ReleaseError> {
    let config = kube::Config::infer().await.map_err(|e| ReleaseError::Client(Box::new(e)))?;
    let client = Client::try_from(config).map_err(|e| ReleaseError::Client(Box::new(e)))?;
    let applier = Applier::new(client.clone(), CALL);
    let api: Api<DataEmbassy> = Api::all(client);
    let mut quiet = 0;
    for _ in 0..PASSES {
        let list = tokio::time::timeout(CALL, api.list(&ListParams::default())).await;
        let list = match list.map_err(|_| ReleaseError::Timeout)? {
            Ok(list) => list.items,
            // The definitions are gone, and every DataEmbassy with them.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(ReleaseError::List(Box::new(error))),
        };
        let held: Vec<_> = list.iter().filter(|o| o.finalizers().iter().any(|f| f == FINALIZER)).collect();
        quiet = if held.is_empty() { quiet + 1 } else { 0 };
        if quiet >= QUIET {
            return Ok(());
        }
        for object in held {
            release(&applier, object).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(ReleaseError::ComesBack)
}

async fn release(applier: &Applier, object: &DataEmbassy) -> Result<(), ReleaseError> {
    let rest: Vec<_> = object.finalizers().iter().filter(|f| *f != FINALIZER).collect();
    let patch = json!({"metadata": {"finalizers": rest, "resourceVersion": object.resource_version()}});
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    match applier.merge::<DataEmbassy>(&namespace, &name, &patch).await {
        Ok(_) => tracing::info!(namespace, name, "finalizer taken off"),
        // Changed or gone meanwhile: the next pass looks again.
        Err(error) if error.is_conflict() || error.code() == Some(404) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
