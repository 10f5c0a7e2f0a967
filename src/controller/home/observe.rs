//! Reads what is at home, once a turn. Everything that was made for the DataEmbassy is read
//! *before* the DataEmbassy itself: then a child that belongs to no run that its status knows is
//! a leftover for certain, and not one that another replica of the operator has just made.

use super::observation::{
    Embassy, Labelled, Observation, Pairing, Request, Sibling, TemporaryKind, WritView,
};
use super::read;
use crate::api::names::{
    COMPONENT_BACKUP, COMPONENT_CUT, LABEL_COMPONENT, LABEL_EMBASSY, LABEL_MANAGED_BY, MANAGER,
    repository_secret,
};
use crate::api::request::EmbassyRequest;
use crate::api::{DataEmbassy, ReplicaPolicy};
use crate::controller::home::build::cut::snapshot_api;
use crate::controller::home::build::secrets;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bound of all reads of a turn at home.
const READS: Duration = Duration::from_secs(15);

/// Why home could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// A read failed.
    #[error("cannot read {what} in namespace {namespace}")]
    Read {
        /// What was read.
        what: &'static str,
        /// Where.
        namespace: String,
        /// The API server's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("no answer from this cluster's API server within {} s", READS.as_secs())]
    Timeout,
}

impl ObserveError {
    /// True if the API server refused: a RoleBinding is missing.
    #[must_use]
    pub fn forbidden(&self) -> bool {
        match self {
            Self::Read { source, .. } => {
                matches!(source.as_ref(), kube::Error::Api(status) if status.code == 403)
            }
            Self::Timeout => false,
        }
    }
}

/// Reads home. `None` if the DataEmbassy is gone. `embassy`, `pairing` and `writ` are filled in by
/// the caller.
///
/// # Errors
/// [`ObserveError`].
pub async fn observe(
    client: &Client,
    namespace: &str,
    name: &str,
    now: jiff::Timestamp,
) -> Result<Option<Observation>, ObserveError> {
    let reads = Reader { client, namespace, leaving: false, refused: AtomicBool::new(false) };
    tokio::time::timeout(READS, reads.all(name, now)).await.unwrap_or(Err(ObserveError::Timeout))
}

/// The same for a DataEmbassy that is being deleted, perhaps with its namespace: then the operator's
/// RoleBinding may be gone already, and what may not be read counts as gone too. Only the
/// DataEmbassy itself must be readable, which the ClusterRole allows.
///
/// # Errors
/// [`ObserveError`].
pub async fn leaving(
    client: &Client,
    namespace: &str,
    name: &str,
    now: jiff::Timestamp,
) -> Result<Option<Observation>, ObserveError> {
    let reads = Reader { client, namespace, leaving: true, refused: AtomicBool::new(false) };
    tokio::time::timeout(READS, reads.all(name, now)).await.unwrap_or(Err(ObserveError::Timeout))
}

/// The DataEmbassy alone.
///
/// # Errors
/// [`ObserveError`].
pub async fn object(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<DataEmbassy>, ObserveError> {
    let reads = Reader { client, namespace, leaving: false, refused: AtomicBool::new(false) };
    let read = reads.get::<DataEmbassy>("the DataEmbassy", name);
    tokio::time::timeout(READS, read).await.unwrap_or(Err(ObserveError::Timeout))
}

/// True if the API server says that there is no right, or no such thing.
#[must_use]
pub fn refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 404))
}

struct Reader<'a> {
    client: &'a Client,
    namespace: &'a str,
    /// A refusal means gone.
    leaving: bool,
    /// There was one.
    refused: AtomicBool,
}

impl Reader<'_> {
    async fn all(&self, name: &str, now: jiff::Timestamp) -> Result<Option<Observation>, ObserveError> {
        let cut = own(name, COMPONENT_CUT);
        let everything = ListParams::default();
        let repository_name = repository_secret(name);
        let backup = own(name, COMPONENT_BACKUP);
        let (jobs, snapshots, secrets, claims, pods) = tokio::try_join!(
            self.list::<Job>("Jobs", &backup),
            self.snapshots(&cut),
            self.list::<Secret>("Secrets", &cut),
            self.list::<PersistentVolumeClaim>("PersistentVolumeClaims", &everything),
            self.list::<Pod>("Pods", &everything),
        )?;
        let (deployments, stateful_sets, services, policies, requests, repository) = tokio::try_join!(
            self.list::<Deployment>("Deployments", &everything),
            self.list::<StatefulSet>("StatefulSets", &everything),
            self.list::<Service>("Services", &everything),
            self.list::<ReplicaPolicy>("ReplicaPolicies", &everything),
            self.list::<EmbassyRequest>("EmbassyRequests", &everything),
            self.get::<Secret>("the repository Secret", &repository_name),
        )?;
        let running_movers = self.running_movers().await?;
        let siblings = self.list::<DataEmbassy>("DataEmbassies", &everything).await?;
        // Last of all: see the head of this file.
        let Some(object) = self.get::<DataEmbassy>("the DataEmbassy", name).await? else { return Ok(None) };
        let templates = read::templates(&deployments, &stateful_sets);
        let (ours, theirs): (Vec<_>, Vec<_>) = claims.iter().partition(|c| read::is_temporary(*c, name));
        let other: Vec<&PersistentVolumeClaim> = theirs
            .into_iter()
            .filter(|c| c.labels().get(LABEL_COMPONENT).is_none_or(|v| v != COMPONENT_CUT))
            .collect();
        let mut temporaries: Vec<_> =
            ours.iter().map(|c| read::temporary(*c, TemporaryKind::Claim)).collect();
        temporaries.extend(secrets.iter().map(|s| read::temporary(s, TemporaryKind::Secret)));
        temporaries.extend(snapshots.iter().flatten().map(read::snapshot));
        Ok(Some(Observation {
            now,
            policies,
            pairing: Pairing::default(),
            claims: other.into_iter().map(|c| read::claim(c, &pods, &templates)).collect(),
            workloads: read::workloads(&deployments, &stateful_sets),
            services: services
                .iter()
                .map(|s| Labelled { name: s.name_any(), labels: s.labels().clone() })
                .collect(),
            siblings: siblings.iter().filter(|s| s.name_any() != name).map(sibling).collect(),
            requests: requests.iter().filter_map(|r| request(r, name)).collect(),
            jobs: jobs.iter().map(|job| read::job(job, &pods)).collect(),
            temporaries,
            snapshots_supported: snapshots.is_some(),
            repository_secret: repository.is_some_and(|s| secrets::password(&s).is_some()),
            running_movers,
            writ: WritView::default(),
            embassy: Embassy::default(),
            partial: self.refused.load(Ordering::Relaxed),
            object,
        }))
    }

    async fn list<K>(&self, what: &'static str, params: &ListParams) -> Result<Vec<K>, ObserveError>
    where
        K: crate::controller::apply::Child,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        match api.list(params).await {
            Ok(list) => Ok(list.items),
            Err(error) if self.gone(&error) => Ok(vec![]),
            Err(error) => Err(self.error(what, error)),
        }
    }

    async fn get<K>(&self, what: &'static str, name: &str) -> Result<Option<K>, ObserveError>
    where
        K: crate::controller::apply::Child,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        match api.get_opt(name).await {
            Err(error) if self.gone(&error) => Ok(None),
            other => other.map_err(|e| self.error(what, e)),
        }
    }

    fn gone(&self, error: &kube::Error) -> bool {
        let gone = self.leaving && refused(error);
        self.refused.fetch_or(gone, Ordering::Relaxed);
        gone
    }

    /// `None` if this cluster knows no snapshots.
    async fn snapshots(&self, params: &ListParams) -> Result<Option<Vec<DynamicObject>>, ObserveError> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.namespace, &snapshot_api());
        match api.list(params).await {
            Ok(list) => Ok(Some(list.items)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) if self.gone(&error) => Ok(None),
            Err(error) => Err(self.error("VolumeSnapshots", error)),
        }
    }

    async fn running_movers(&self) -> Result<u32, ObserveError> {
        running_movers(self.client).await.map_err(|e| self.error("all backup Jobs", e))
    }

    fn error(&self, what: &'static str, source: kube::Error) -> ObserveError {
        ObserveError::Read { what, namespace: self.namespace.to_owned(), source: Box::new(source) }
    }
}

/// Movers that run in this cluster, of all DataEmbassies.
///
/// # Errors
/// The API server's answer.
pub async fn running_movers(client: &Client) -> Result<u32, kube::Error> {
    let labels = format!("{LABEL_MANAGED_BY}={MANAGER},{LABEL_COMPONENT}={COMPONENT_BACKUP}");
    let jobs: Api<Job> = Api::all(client.clone());
    let jobs = jobs.list(&ListParams::default().labels(&labels)).await?;
    let running = jobs.items.iter().filter(|job| !read::job(job, &[]).ended()).count();
    Ok(u32::try_from(running).unwrap_or(u32::MAX))
}

fn own(name: &str, component: &str) -> ListParams {
    ListParams::default()
        .labels(&format!("{LABEL_MANAGED_BY}={MANAGER},{LABEL_EMBASSY}={name},{LABEL_COMPONENT}={component}"))
}

fn sibling(object: &DataEmbassy) -> Sibling {
    Sibling {
        name: object.name_any(),
        created: object.metadata.creation_timestamp.as_ref().map(|t| t.0),
        policy: object.spec.policy_ref.name.clone(),
        volumes: object.spec.volumes.clone(),
        services: object.spec.services.clone(),
        kubeconfig: object.spec.embassy.kubeconfig_secret_ref.name.clone(),
        copied: object.status.as_ref().is_some_and(|s| s.last_dispatch.is_some()),
    }
}

fn request(object: &EmbassyRequest, target: &str) -> Option<Request> {
    let spec = &object.spec;
    (spec.target == target).then(|| Request {
        name: object.name_any(),
        verb: spec.verb,
        token: spec.token.clone(),
        created: object.metadata.creation_timestamp.as_ref().map(|t| t.0),
        state: object.status.as_ref().and_then(|s| s.state),
        message: object.status.as_ref().and_then(|s| s.message.clone()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use kube::client::Body;

    /// An API server of a namespace that goes away: the RoleBinding is gone, the ClusterRole is not.
    fn terminating() -> Client {
        Client::new(
            tower::service_fn(|request: http::Request<Body>| {
                let path = request.uri().path().to_owned();
                let (code, body) = if path.ends_with("/dataembassies/register") {
                    let object = super::super::testing::observation().object;
                    (200, serde_json::to_vec(&object).unwrap())
                } else if path.contains("/dataembassy.io/") || path == "/apis/batch/v1/jobs" {
                    (200, br#"{"metadata": {}, "items": []}"#.to_vec())
                } else {
                    let refusal = serde_json::json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "message": "forbidden", "reason": "Forbidden", "code": 403,
                    });
                    (403, refusal.to_string().into_bytes())
                };
                let answer = http::Response::builder().status(code).body(Body::from(body));
                async move { Ok::<_, std::convert::Infallible>(answer.unwrap()) }
            }),
            "default",
        )
    }

    #[tokio::test]
    async fn a_namespace_that_goes_away_takes_the_rights_and_a_deletion_goes_on() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let usual = observe(&terminating(), "registers", "register", now).await;
        assert!(usual.unwrap_err().forbidden());
        let seen = leaving(&terminating(), "registers", "register", now).await.unwrap().unwrap();
        assert!(seen.partial && seen.claims.is_empty() && seen.object.status.is_some());
        let object = object(&terminating(), "registers", "register").await.unwrap();
        assert_eq!(object, Some(seen.object));
    }
}
