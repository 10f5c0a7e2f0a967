//! Reads everything that one turn needs, once, into a value that can be serialised: a field
//! incident becomes a test. Secrets are kept apart and never serialised.

use super::build::certs::{self, CertFacts, Pem};
use super::build::restore;
use crate::api::ledger::Writ;
use crate::api::names::{
    self, CA_CERT, CA_SECRET, EMBASSY_CLIENT_SECRET, HOME_CLIENT_SECRET, KEYS_SECRET, LABEL_COMPONENT,
    LABEL_MANAGED_BY, MANAGER, SERVER_SECRET, TLS_CERT, TLS_KEY, VAULT,
};
use crate::api::pair::PairRecord;
use crate::api::{DataEmbassy, EmbassyRequest, ReplicaPolicy, ReplicaPolicySpec};
use crate::controller::Context;
use crate::vault_client::Credentials;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Bound of one read.
const READ: Duration = Duration::from_secs(10);
/// Most objects of a kind that are read.
const MOST: u32 = 1000;

/// Why a turn could not see what it needs.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The API server refused or did not answer.
    #[error("cannot read {0}")]
    Api(&'static str, #[source] Box<kube::Error>),
    /// More than can be looked through.
    #[error("more than {MOST} {0} in the namespace: give the pair a namespace of its own")]
    TooMany(&'static str),
    /// No answer in time.
    #[error("no answer in time while reading {0}")]
    Timeout(&'static str),
}

/// Another DataEmbassy of the pair (or this one).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sibling {
    /// Its name.
    pub name: String,
    /// Its part of the vault, a quantity.
    pub quota: Option<String>,
    /// It was deleted at home.
    pub retired: bool,
}

/// The certificates that are there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Certificates {
    /// The authority; `None`: there is none yet.
    pub authority: Option<Stored>,
    /// The vault's.
    pub server: Option<Stored>,
    /// Home's.
    pub home: Option<Stored>,
    /// Ours.
    pub embassy: Option<Stored>,
}

/// One TLS Secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stored {
    /// What the certificate says; `None` for an empty or a damaged Secret.
    pub facts: Option<CertFacts>,
    /// A key lies beside it, and `ca.crt` is the authority's certificate.
    pub complete: bool,
}

/// The vault's objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VaultObjects {
    /// Quotas and public key.
    pub config: Option<ConfigMap>,
    /// Its Service.
    pub service: Option<Service>,
    /// Its Deployment.
    pub deployment: Option<Deployment>,
    /// Its pods.
    pub pods: Vec<Pod>,
}

/// What the restore of this DataEmbassy left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreObjects {
    /// The Job, running or finished.
    pub job: Option<Job>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Pods of a Job that had its name before.
    pub strays: Vec<Pod>,
    /// ServiceAccount, Role, RoleBinding and Secret are all there as they should be.
    pub role: Option<Role>,
    /// See `role`.
    pub binding: Option<RoleBinding>,
    /// See `role`.
    pub account: bool,
    /// See `role`.
    pub secret: bool,
}

/// Everything that one turn saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Observed {
    /// The policy; `None`: there is no such object.
    pub policy: Option<ReplicaPolicySpec>,
    /// All DataEmbassies of the pair.
    pub siblings: Vec<Sibling>,
    /// Requests for this DataEmbassy that are not older than it.
    pub requests: Vec<EmbassyRequest>,
    /// StorageClasses by name.
    pub classes: BTreeMap<String, StorageClass>,
    /// All claims of the namespace by name.
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    /// InternalIPs of the nodes, sorted; empty when nodes may not be read.
    pub nodes: Vec<IpAddr>,
    /// The vault's objects.
    pub vault: VaultObjects,
    /// The certificates.
    pub certificates: Certificates,
    /// True if the repository's key is there.
    pub key: bool,
    /// The restore's objects.
    pub restore: RestoreObjects,
    /// Movers at work in the whole cluster.
    pub active_movers: u32,
    /// True if the ledger could be read at least once; without it nobody knows who writes.
    pub ledger_seen: bool,
    /// This DataEmbassy's writ.
    pub writ: Option<Writ>,
    /// What must not be serialised.
    #[serde(skip)]
    pub material: Material,
}

/// Keys. Never serialised, never printed.
#[derive(Clone, Default)]
pub struct Material {
    /// The authority with its key.
    pub authority: Option<Pem>,
    /// Our credentials for the vault.
    pub client: Option<Credentials>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Material(..)")
    }
}

/// Reads what one turn needs.
///
/// # Errors
/// [`ObserveError`]; nothing may be done on half a view.
pub async fn observe(
    object: &DataEmbassy,
    context: &Context,
    pair: &PairRecord,
) -> Result<Observed, ObserveError> {
    let reader = Reader { context, namespace: pair.embassy_namespace.as_str() };
    let name = object.name_any();
    let mut observed = Observed {
        policy: reader
            .get::<ReplicaPolicy>(&object.spec.policy_ref.name, "the ReplicaPolicy")
            .await?
            .map(|p| p.spec),
        siblings: reader.siblings().await?,
        requests: reader.requests(object).await?,
        classes: reader.classes().await?,
        claims: by_name(reader.list(&ListParams::default(), "PersistentVolumeClaims").await?),
        nodes: reader.nodes().await?,
        active_movers: reader.active_movers().await?,
        ..Observed::default()
    };
    observed.vault = reader.vault().await?;
    observed.restore = reader.restore(&name).await?;
    reader.secrets(&name, &mut observed).await?;
    let view = context.ledgers.embassy(&pair.id);
    observed.ledger_seen = view.ledger.is_some();
    observed.writ = view.ledger.and_then(|ledger| ledger.writs.get(&name).copied());
    Ok(observed)
}

struct Reader<'a> {
    context: &'a Context,
    namespace: &'a str,
}

impl Reader<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.context.client.clone(), self.namespace)
    }

    async fn get<K>(&self, name: &str, what: &'static str) -> Result<Option<K>, ObserveError>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        bound(what, self.api::<K>().get_opt(name)).await
    }

    async fn list<K>(&self, params: &ListParams, what: &'static str) -> Result<Vec<K>, ObserveError>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let list = bound(what, self.api::<K>().list(&params.clone().limit(MOST))).await?;
        // Half a list would show a foreign claim as one that is not there yet.
        if list.metadata.continue_.is_some_and(|token| !token.is_empty()) {
            return Err(ObserveError::TooMany(what));
        }
        Ok(list.items)
    }

    async fn siblings(&self) -> Result<Vec<Sibling>, ObserveError> {
        let all: Vec<DataEmbassy> = self.list(&ListParams::default(), "DataEmbassies").await?;
        let sibling = |object: &DataEmbassy| Sibling {
            name: object.name_any(),
            quota: object.spec.vault.quota.clone(),
            retired: object.spec.retired,
        };
        let mut siblings: Vec<_> = all.iter().map(sibling).collect();
        siblings.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(siblings)
    }

    /// Requests from before the mirror was made speak of a namesake.
    async fn requests(&self, object: &DataEmbassy) -> Result<Vec<EmbassyRequest>, ObserveError> {
        let born = object.metadata.creation_timestamp.clone();
        let mut all: Vec<EmbassyRequest> = self.list(&ListParams::default(), "EmbassyRequests").await?;
        all.retain(|request| {
            request.spec.target == object.name_any() && request.metadata.creation_timestamp >= born
        });
        all.sort_by_key(|request| (request.metadata.creation_timestamp.clone(), request.name_any()));
        Ok(all)
    }

    async fn classes(&self) -> Result<BTreeMap<String, StorageClass>, ObserveError> {
        let api: Api<StorageClass> = Api::all(self.context.client.clone());
        let all = bound("StorageClasses", api.list(&ListParams::default().limit(MOST))).await?;
        Ok(by_name(all.items))
    }

    /// Reading nodes is an extra right: without it the certificate lacks their addresses.
    async fn nodes(&self) -> Result<Vec<IpAddr>, ObserveError> {
        let api: Api<Node> = Api::all(self.context.client.clone());
        let all = match bound("Nodes", api.list(&ListParams::default().limit(MOST))).await {
            Ok(all) => all.items,
            Err(ObserveError::Api(_, error)) if is_forbidden(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut addresses: Vec<IpAddr> = all
            .iter()
            .flat_map(|node| node.status.as_ref().and_then(|s| s.addresses.as_ref()).into_iter().flatten())
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }

    async fn active_movers(&self) -> Result<u32, ObserveError> {
        let api: Api<Job> = Api::all(self.context.client.clone());
        let ours =
            format!("{LABEL_MANAGED_BY}={MANAGER},{LABEL_COMPONENT} in (backup,{})", restore::COMPONENT);
        let params = ListParams::default().labels(&ours).limit(MOST);
        let all = match bound("Jobs", api.list(&params)).await {
            Ok(all) => all.items,
            // The cap saves load and guards nothing.
            Err(ObserveError::Api(_, error)) if is_forbidden(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        let active = all.iter().filter(|job| super::plan::job_end(job).is_none()).count();
        Ok(u32::try_from(active).unwrap_or(u32::MAX))
    }

    async fn vault(&self) -> Result<VaultObjects, ObserveError> {
        let component = super::build::vault::COMPONENT;
        let pods = ListParams::default()
            .labels(&format!("{LABEL_MANAGED_BY}={MANAGER},{LABEL_COMPONENT}={component}"));
        Ok(VaultObjects {
            config: self.get(VAULT, "the vault's ConfigMap").await?,
            service: self.get(VAULT, "the vault's Service").await?,
            deployment: self.get(VAULT, "the vault's Deployment").await?,
            pods: self.list(&pods, "the vault's pods").await?,
        })
    }

    async fn restore(&self, embassy: &str) -> Result<RestoreObjects, ObserveError> {
        let job: Option<Job> = self.get(&restore::job_name(embassy), "the restore Job").await?;
        // By the Job's name and not its uid: a pod may outlive its deleted Job and still write.
        let named = format!("batch.kubernetes.io/job-name={}", restore::job_name(embassy));
        let all: Vec<Pod> = self.list(&ListParams::default().labels(&named), "the restore's pods").await?;
        let uid = job.as_ref().and_then(|job| job.metadata.uid.as_ref());
        let ours = |pod: &Pod| uid.is_some() && pod.labels().get("batch.kubernetes.io/controller-uid") == uid;
        let (pods, strays) = all.into_iter().partition(ours);
        let name = names::manifests(embassy);
        Ok(RestoreObjects {
            job,
            pods,
            strays,
            role: self.get(&name, "the mover's Role").await?,
            binding: self.get(&name, "the mover's RoleBinding").await?,
            account: self.get::<ServiceAccount>(&name, "the mover's ServiceAccount").await?.is_some(),
            secret: self.get::<Secret>(&name, "the manifests' Secret").await?.is_some(),
        })
    }

    async fn secrets(&self, embassy: &str, observed: &mut Observed) -> Result<(), ObserveError> {
        let authority: Option<Secret> = self.get(CA_SECRET, "the pair's CA").await?;
        let ca = authority.as_ref().and_then(|secret| text(secret, TLS_CERT));
        observed.material.authority = authority
            .as_ref()
            .and_then(|secret| Some(Pem { cert: text(secret, TLS_CERT)?, key: text(secret, TLS_KEY)? }));
        let stored = |secret: &Secret| Stored {
            facts: bytes(secret, TLS_CERT).and_then(certs::facts),
            complete: bytes(secret, TLS_KEY).is_some_and(|key| !key.is_empty())
                && ca.is_some()
                && text(secret, CA_CERT) == ca,
        };
        observed.certificates.authority = authority.as_ref().map(|secret| Stored {
            facts: bytes(secret, TLS_CERT).and_then(certs::facts),
            complete: bytes(secret, TLS_KEY).is_some_and(|key| !key.is_empty()),
        });
        let server: Option<Secret> = self.get(SERVER_SECRET, "the vault's certificate").await?;
        observed.certificates.server = server.as_ref().map(stored);
        let home: Option<Secret> = self.get(HOME_CLIENT_SECRET, "home's certificate").await?;
        observed.certificates.home = home.as_ref().map(stored);
        let ours: Option<Secret> = self.get(EMBASSY_CLIENT_SECRET, "the embassy's certificate").await?;
        observed.certificates.embassy = ours.as_ref().map(stored);
        observed.material.client = ours.as_ref().and_then(|secret| {
            Some(Credentials {
                ca: bytes(secret, CA_CERT)?.to_vec(),
                cert: bytes(secret, TLS_CERT)?.to_vec(),
                key: bytes(secret, TLS_KEY)?.to_vec(),
            })
        });
        let keys: Option<Secret> = self.get(KEYS_SECRET, "the repository keys").await?;
        observed.key = keys.as_ref().and_then(|s| bytes(s, embassy)).is_some_and(|key| !key.is_empty());
        Ok(())
    }
}

fn bytes<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(key).map(|value| value.0.as_slice())
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    bytes(secret, key).and_then(|raw| String::from_utf8(raw.to_vec()).ok())
}

fn by_name<K: kube::ResourceExt>(items: Vec<K>) -> BTreeMap<String, K> {
    items.into_iter().map(|item| (item.name_any(), item)).collect()
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

async fn bound<T>(
    what: &'static str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, ObserveError> {
    match tokio::time::timeout(READ, call).await {
        Ok(result) => result.map_err(|error| ObserveError::Api(what, Box::new(error))),
        Err(_) => Err(ObserveError::Timeout(what)),
    }
}
