//! Whether two namespaces can be paired, and under which record. Pure: what was found goes in, a
//! record or a refusal that says how to go on comes out.

use super::rbac::{Account, Grant};
use crate::api::names::{ANNOTATION_OPERATOR, KUBECONFIG_KEY, LABEL_CLUSTER_ROLE, PAIR_KEY, SIGNING_KEY};
use crate::api::pair::{LeaseSettings, PairRecord, VaultSettings};
use crate::api::{duration::Span, ledger::Site};
use ed25519_dalek::SigningKey;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRole;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Namespace at home.
    pub home_namespace: String,
    /// Namespace at the embassy.
    pub embassy_namespace: String,
    /// Home's Secret.
    pub secret: String,
    /// Timing of the writ.
    pub lease: LeaseSettings,
    /// How the vault is made.
    pub vault: VaultSettings,
    /// How long the embassy keeps what home wants gone.
    pub retention_floor: Span,
}

/// What stands at home.
#[derive(Clone, Debug, Default)]
pub struct HomeFound {
    /// UID of the cluster (of its `kube-system`), if it may be read.
    pub cluster: Option<String>,
    /// The custom resources are installed.
    pub api: bool,
    /// The namespace holds a pair record: it is an embassy.
    pub is_embassy: bool,
    /// The Secret by the wanted name.
    pub secret: Option<Secret>,
    /// ClusterRoles labelled as home's.
    pub roles: Vec<ClusterRole>,
}

/// What stands at the embassy.
#[derive(Clone, Debug, Default)]
pub struct EmbassyFound {
    /// UID of the cluster.
    pub cluster: Option<String>,
    /// The custom resources are installed.
    pub api: bool,
    /// The pair record in the namespace, unparsed.
    pub pair: Option<String>,
    /// What runs or lies in the namespace already, as `kind/name`.
    pub occupied: Vec<String>,
    /// ClusterRoles labelled as the embassy's.
    pub roles: Vec<ClusterRole>,
    /// The wanted StorageClass of the vault is there; `None` if none was named.
    pub storage_class: Option<bool>,
}

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The record, for both sides.
    pub record: PairRecord,
    /// Home's private signing key.
    pub key: SigningKey,
    /// Rights of the operator at home.
    pub home_grant: Grant,
    /// Rights of the operator at the embassy.
    pub embassy_grant: Grant,
    /// This pair was begun or made before; what is missing is made.
    pub resumed: bool,
    /// What the user should know although it stops nothing.
    pub notes: Vec<String>,
}

/// Why the two cannot be paired, with the mend.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No chart.
    #[error(
        "the operator is not installed at {0}: no ClusterRole there has the label {LABEL_CLUSTER_ROLE}={1}. Install \
         it first: helm install data-embassy charts/data-embassy-operator -n data-embassy-system --create-namespace"
    )]
    ChartMissing(Site, &'static str),
    /// Two charts.
    #[error(
        "{0} has several ClusterRoles with the label {LABEL_CLUSTER_ROLE}={1}: {2}. One operator a cluster: uninstall \
         the other one"
    )]
    ChartTwice(Site, &'static str, String),
    /// A chart without its annotation.
    #[error(
        "ClusterRole {0} at {1} does not name the operator's ServiceAccount in its annotation {ANNOTATION_OPERATOR} \
         (namespace/name): upgrade the chart"
    )]
    ChartAnnotation(String, Site),
    /// No custom resources.
    #[error("the custom resources are not installed at {0}: install the chart with crds.install=true")]
    NoApi(Site),
    /// Home's namespace is an embassy.
    #[error(
        "namespace {0} at home holds a pair record itself: it is the embassy of another pair and takes only mirrors. \
         Choose another --home-namespace"
    )]
    HomeIsEmbassy(String),
    /// Home and embassy are one namespace.
    #[error("home and embassy are the same namespace of the same cluster: nothing would be safe there")]
    Same,
    /// The embassy's namespace belongs to another pair.
    #[error(
        "namespace {namespace} at the embassy already belongs to pair {id}, and Secret {secret} at home is not of it. \
         Choose another --embassy-namespace, or retire that pair first, at the embassy: kubectl embassy retire NAME \
         for each of its DataEmbassies, then kubectl embassy retire --pair -n {namespace}"
    )]
    Paired {
        /// The embassy's namespace.
        namespace: String,
        /// The pair that it belongs to.
        id: String,
        /// Home's Secret.
        secret: String,
    },
    /// Something is in the embassy's namespace.
    #[error(
        "namespace {0} at the embassy is in use ({1}): a pair takes an empty namespace, so that home's rights there \
         reach nothing else. Choose another --embassy-namespace"
    )]
    Occupied(String, String),
    /// The Secret is something else.
    #[error("Secret {0} at home is not of this pair: delete it or choose another --secret")]
    SecretTaken(String),
    /// The embassy's side is gone.
    #[error(
        "Secret {0} at home belongs to pair {1}, whose record at the embassy is gone (retired, or the cluster was \
         rebuilt). Delete that Secret, then pair anew"
    )]
    Orphaned(String, String),
    /// No such StorageClass.
    #[error("the embassy has no StorageClass {0}: give another --vault-storage-class")]
    StorageClass(String),
}

/// Decides. `fresh` is a new random id and key, used unless a pair is resumed.
///
/// # Errors
/// [`Refused`].
pub fn decide(
    wanted: &Wanted,
    home: &HomeFound,
    embassy: &EmbassyFound,
    fresh: (String, SigningKey),
) -> Result<Plan, Refused> {
    let home_grant = grant(&home.roles, Site::Home, "home")?;
    let embassy_grant = grant(&embassy.roles, Site::Embassy, "embassy")?;
    if !home.api {
        return Err(Refused::NoApi(Site::Home));
    }
    if !embassy.api {
        return Err(Refused::NoApi(Site::Embassy));
    }
    if home.is_embassy {
        return Err(Refused::HomeIsEmbassy(wanted.home_namespace.clone()));
    }
    let same_cluster = home.cluster.is_some() && home.cluster == embassy.cluster;
    if same_cluster && wanted.home_namespace == wanted.embassy_namespace {
        return Err(Refused::Same);
    }
    if embassy.storage_class == Some(false) {
        return Err(Refused::StorageClass(wanted.vault.storage_class_name.clone().unwrap_or_default()));
    }
    let mut notes = Vec::new();
    if same_cluster {
        notes.push("both sites are the same cluster: fine for a trial, but it is no embassy".to_owned());
    }
    let (record, key, resumed) = record(wanted, home, embassy, fresh)?;
    if resumed
        && (record.lease, &record.vault, record.retention_floor)
            != (wanted.lease, &wanted.vault, wanted.retention_floor)
    {
        notes.push(format!(
            "pair {} keeps the settings that it was made with; other settings take a new pair",
            record.id
        ));
    }
    Ok(Plan { record, key, home_grant, embassy_grant, resumed, notes })
}

/// The record and key: of the pair that was begun, or fresh.
fn record(
    wanted: &Wanted,
    home: &HomeFound,
    embassy: &EmbassyFound,
    fresh: (String, SigningKey),
) -> Result<(PairRecord, SigningKey, bool), Refused> {
    let theirs = embassy.pair.as_ref().map(|json| PairRecord::parse(json.as_bytes()).ok());
    let taken = || Refused::SecretTaken(wanted.secret.clone());
    let paired = |record: Option<&PairRecord>| Refused::Paired {
        namespace: wanted.embassy_namespace.clone(),
        id: record.map_or_else(|| "(its record does not parse)".to_owned(), |r| r.id.clone()),
        secret: wanted.secret.clone(),
    };
    let ours = home.secret.as_ref().map(|secret| begun(secret, wanted).ok_or_else(taken)).transpose()?;
    match (ours, theirs) {
        (Some(ours), Some(Some(theirs))) if ours.record.id == theirs.id => Ok((theirs, ours.key, true)),
        (_, Some(theirs)) => Err(paired(theirs.as_ref())),
        (Some(ours), None) if ours.complete => Err(Refused::Orphaned(wanted.secret.clone(), ours.record.id)),
        (ours, None) => {
            if !embassy.occupied.is_empty() {
                let namespace = wanted.embassy_namespace.clone();
                return Err(Refused::Occupied(namespace, embassy.occupied.join(", ")));
            }
            let resumed = ours.is_some();
            let (id, key) = ours.map_or(fresh, |ours| (ours.record.id, ours.key));
            // Nothing acts on a pair without a record at the embassy, so new settings are taken.
            Ok((new_record(wanted, id, &key), key, resumed))
        }
    }
}

fn new_record(wanted: &Wanted, id: String, key: &SigningKey) -> PairRecord {
    PairRecord {
        version: 1,
        id,
        home_namespace: wanted.home_namespace.clone(),
        embassy_namespace: wanted.embassy_namespace.clone(),
        signing_public_key: hex::encode(key.verifying_key().as_bytes()),
        lease: wanted.lease,
        vault: wanted.vault.clone(),
        retention_floor: wanted.retention_floor,
    }
}

/// A pair as home's Secret has it.
struct Begun {
    record: PairRecord,
    key: SigningKey,
    complete: bool,
}

/// `None`: the Secret is of something else, or of another pair of namespaces.
fn begun(secret: &Secret, wanted: &Wanted) -> Option<Begun> {
    let data = secret.data.as_ref()?;
    let record = PairRecord::parse(&data.get(PAIR_KEY)?.0).ok()?;
    let seed = hex::decode(data.get(SIGNING_KEY)?.0.trim_ascii()).ok()?;
    let key = SigningKey::from_bytes(&seed.try_into().ok()?);
    let ours = record.home_namespace == wanted.home_namespace
        && record.embassy_namespace == wanted.embassy_namespace
        && record.signing_public_key == hex::encode(key.verifying_key().as_bytes());
    ours.then(|| Begun { record, key, complete: data.contains_key(KUBECONFIG_KEY) })
}

/// The one ClusterRole of the chart, and its operator.
fn grant(roles: &[ClusterRole], site: Site, label: &'static str) -> Result<Grant, Refused> {
    let name = |role: &ClusterRole| role.metadata.name.clone().unwrap_or_default();
    let role = match roles {
        [role] => role,
        [] => return Err(Refused::ChartMissing(site, label)),
        several => {
            let names: Vec<_> = several.iter().map(name).collect();
            return Err(Refused::ChartTwice(site, label, names.join(", ")));
        }
    };
    let operator = role.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION_OPERATOR));
    let operator = operator.and_then(|text| text.split_once('/'));
    let (namespace, account) = operator
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
        .ok_or_else(|| Refused::ChartAnnotation(name(role), site))?;
    let operator = Account { namespace: namespace.to_owned(), name: account.to_owned() };
    Ok(Grant { cluster_role: name(role), operator })
}

#[cfg(test)]
#[path = "pair_plan_tests.rs"]
mod tests;
