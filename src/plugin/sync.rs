//! `kubectl embassy sync`: asks home for a dispatch now.

use super::kube::{Cluster, SiteArgs, SiteError};
use super::{request, say};
use crate::api::DataEmbassy;
use crate::api::duration::Span;
use crate::api::names::PAIR_CONFIG_MAP;
use crate::api::request::Verb;
use k8s_openapi::api::core::v1::ConfigMap;

/// Arguments of `kubectl embassy sync`.
#[derive(Clone, Debug, clap::Args)]
pub struct SyncArgs {
    /// The DataEmbassy.
    pub name: String,
    #[command(flatten)]
    site: SiteArgs,
    /// Why, for the record.
    #[arg(long)]
    reason: Option<String>,
    /// Wait until the vault has committed the dispatch.
    #[arg(long)]
    wait: bool,
    /// Longest wait.
    #[arg(long, default_value = "30m")]
    timeout: Span,
}

/// Why no dispatch was asked for, or none came.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A site refused or did not answer.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The request did not come to its end.
    #[error(transparent)]
    Request(#[from] request::RequestError),
    /// None by that name.
    #[error("no DataEmbassy {name} in namespace {namespace} at {site}")]
    NotFound {
        /// Its name.
        name: String,
        /// Where it was looked for.
        namespace: String,
        /// In which cluster.
        site: String,
    },
    /// This is the embassy.
    #[error("namespace {0} is an embassy: dispatches are made at home, so ask there")]
    NotHome(String),
}

/// Asks, and waits if told to.
///
/// # Errors
/// [`SyncError`].
pub async fn run(args: &SyncArgs) -> Result<(), SyncError> {
    let cluster = Cluster::connect(&args.site.target(), "home").await?;
    let namespace = args.site.namespace.clone().unwrap_or_else(|| cluster.default_namespace.clone());
    let embassies = cluster.namespaced::<DataEmbassy>(&namespace);
    if cluster.get(&embassies, &args.name).await?.is_none() {
        let (name, site) = (args.name.clone(), cluster.site().to_owned());
        return Err(SyncError::NotFound { name, namespace, site });
    }
    if cluster.get(&cluster.namespaced::<ConfigMap>(&namespace), PAIR_CONFIG_MAP).await?.is_some() {
        return Err(SyncError::NotHome(namespace));
    }
    let reason = request::reason(&cluster, args.reason.as_deref()).await;
    let asked = request::build(&namespace, &args.name, Verb::Sync, &reason);
    let name = request::submit(&cluster, &asked).await?;
    say(&format!("embassyrequest {name} created: a dispatch of {namespace}/{} is asked for", args.name));
    if args.wait {
        let message = request::wait(&cluster, &namespace, &name, args.timeout.get()).await?;
        say(&format!("done: {message}"));
    }
    Ok(())
}
