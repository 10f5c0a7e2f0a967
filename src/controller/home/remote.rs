//! Reads and writes in the embassy, with home's narrow rights: each bounded in time, and none of
//! them able to fail a turn. An embassy out of reach is a condition, never an error.

use super::act::ActError;
use super::build::{mirror, secrets};
use super::observation::{Embassy, Mirror, MirroredPolicy, Observation, Reach};
use super::validate::{Problem, Scope};
use crate::api::names::{ANNOTATION_HOME_UID, ANNOTATION_VOLUMES, HOME_CLIENT_SECRET};
use crate::api::pair::PairRecord;
use crate::api::{DataEmbassy, ReplicaPolicy};
use crate::cli::chain;
use crate::controller::apply::{Applier, ApplyError};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt as _};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bound of all reads of a turn in the embassy.
const READS: Duration = Duration::from_secs(6);
/// Bound of one write in the embassy.
const WRITE: Duration = Duration::from_secs(6);

/// What mends an embassy that does not answer.
pub const REACH_AGAIN: &str = "see the network between the sites, the server's address in the kubeconfig Secret, and the embassy's API server";

/// The embassy as it was read, with the one Secret that home may get there.
#[derive(Default)]
pub struct Remote {
    /// For decisions.
    pub embassy: Embassy,
    /// Content of Secret `vault-client-home`.
    pub vault_client: Option<BTreeMap<String, Vec<u8>>>,
}

/// Reads the embassy.
pub async fn observe(client: &Client, pair: &PairRecord, name: &str, policy: &str) -> Remote {
    match tokio::time::timeout(READS, read(client, pair, name, policy)).await {
        Ok(Ok(remote)) => remote,
        Ok(Err(error)) => {
            Remote { embassy: Embassy { reach: reach(&error), ..Embassy::default() }, vault_client: None }
        }
        Err(_) => {
            let why = format!("no answer within {} s", READS.as_secs());
            Remote {
                embassy: Embassy { reach: Reach::Unreachable(why), ..Embassy::default() },
                vault_client: None,
            }
        }
    }
}

async fn read(client: &Client, pair: &PairRecord, name: &str, policy: &str) -> Result<Remote, kube::Error> {
    // Without types: a newer embassy may store fields that this operator does not know.
    let dynamic = |resource: &ApiResource| -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), &pair.embassy_namespace, resource)
    };
    let mirrors = dynamic(&ApiResource::erase::<DataEmbassy>(&()));
    let policies = dynamic(&ApiResource::erase::<ReplicaPolicy>(&()));
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &pair.embassy_namespace);
    let (mirror, policy, secret) = tokio::try_join!(
        mirrors.get_opt(name),
        policies.get_opt(policy),
        secrets.get_opt(HOME_CLIENT_SECRET)
    )?;
    let vault_client: Option<BTreeMap<String, Vec<u8>>> =
        secret.and_then(|s| s.data).map(|data| data.into_iter().map(|(k, v)| (k, v.0)).collect());
    let digest = vault_client.as_ref().map(|d| secrets::digest(d.iter().map(|(k, v)| (k, v.as_slice()))));
    Ok(Remote {
        embassy: Embassy {
            reach: Reach::Reached,
            mirror: mirror.as_ref().map(read_mirror),
            policy: policy.as_ref().map(|p| MirroredPolicy {
                resource_version: p.resource_version().unwrap_or_default(),
                spec: part(p, "spec"),
            }),
            vault_client: digest,
        },
        vault_client,
    })
}

fn part<T: serde::de::DeserializeOwned>(object: &DynamicObject, key: &str) -> Option<T> {
    object.data.get(key).and_then(|v| serde_json::from_value(v.clone()).ok())
}

fn read_mirror(object: &DynamicObject) -> Mirror {
    Mirror {
        resource_version: object.resource_version().unwrap_or_default(),
        home_uid: object.annotations().get(ANNOTATION_HOME_UID).cloned(),
        volumes: object.annotations().get(ANNOTATION_VOLUMES).cloned(),
        deleting: object.metadata.deletion_timestamp.is_some(),
        spec: part(object, "spec"),
        status: part(object, "status").unwrap_or_default(),
    }
}

fn reach(error: &kube::Error) -> Reach {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            Reach::Forbidden(status.message.clone())
        }
        other => Reach::Unreachable(chain(other)),
    }
}

/// Writes mirror and policy where they differ. The policy goes first: a mirror without its policy
/// would be stalled in the embassy.
///
/// # Errors
/// A problem with its mend.
pub async fn write_mirror(
    client: &Client,
    pair: &PairRecord,
    seen: &Observation,
    volumes_known: bool,
) -> Result<bool, Problem> {
    let applier = Applier::new(client.clone(), WRITE);
    let Some(policy) = seen.policy() else { return Ok(false) };
    let name = &seen.object.spec.policy_ref.name;
    let wanted = mirror::policy(name, policy, seen.embassy.policy.as_ref(), pair);
    let mut changed = wanted.is_some();
    if let Some(policy) = wanted {
        applier.write_strict(&policy).await.or_else(refused)?;
    }
    if let Some(wanted) = mirror::wanted(seen, pair, volumes_known) {
        changed = true;
        applier.write_strict(&wanted).await.or_else(refused)?;
    }
    Ok(changed)
}

/// Tells the embassy that the DataEmbassy is gone at home.
///
/// # Errors
/// A problem with its mend.
pub async fn retire_mirror(client: &Client, mirror: &DataEmbassy) -> Result<(), Problem> {
    Applier::new(client.clone(), WRITE).write_strict(mirror).await.or_else(refused)
}

/// Writes every password of the pair into the embassy.
///
/// # Errors
/// A problem with its mend.
pub async fn write_keys(client: &Client, secret: &Secret) -> Result<(), Problem> {
    Applier::new(client.clone(), WRITE).replace(secret).await.map(|_| ()).or_else(refused)
}

/// What a refused write means. A conflict means only that the next turn reads again.
fn refused<T: Default>(error: ApplyError) -> Result<T, Problem> {
    if error.is_conflict() {
        return Ok(T::default());
    }
    let error = ActError::Apply(error);
    let text = chain(&error);
    let (reason, message) = match error.code() {
        Some(400 | 422) if text.contains("unknown field") || text.contains("Unsupported value") => {
            ("EmbassyTooOld", format!("{text}; upgrade the operator in the embassy first, then home's"))
        }
        Some(400 | 422) => (
            "MirrorRefused",
            format!(
                "{text}; correct what it names in the DataEmbassy or its policy, or, if home's operator is older than the \
                 embassy's, upgrade home's"
            ),
        ),
        Some(403) if !error.lacks_right() => (
            "MirrorRefused",
            format!(
                "{text}; a quota or an admission webhook in the embassy refuses it: see that namespace there"
            ),
        ),
        Some(401 | 403) => {
            ("Forbidden", format!("{text}; run `kubectl embassy pair` again, it renews home's rights"))
        }
        Some(404) => (
            "EmbassyNotReady",
            format!("{text}; the embassy's operator or its definitions are not there yet"),
        ),
        _ => ("EmbassyUnreachable", format!("{text}; {REACH_AGAIN}")),
    };
    Err(Problem { scope: Scope::All, reason, message })
}
