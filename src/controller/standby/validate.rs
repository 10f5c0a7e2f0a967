//! What must hold before anything is made: storage that encrypts, a policy, volumes, a key.

use super::build::{label_value, volumes};
use super::observe::Observed;
use crate::api::DataEmbassy;
use crate::api::conditions::{Wanted, types};
use crate::api::mirror::HomeVolumes;
use crate::api::names::{KEYS_SECRET, LABEL_COMPONENT, LABEL_EMBASSY, VAULT};
use crate::api::pair::PairRecord;
use crate::api::policy::AtRest;
use crate::domain::storage::{self, Encryption, bytes};
use kube::ResourceExt as _;

/// Result of [`validate`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// EncryptionVerified and KeysAvailable.
    pub conditions: Vec<Wanted>,
    /// Why a person must act before this goes on: reason and message. The first one counts.
    pub stalled: Option<(String, String)>,
    /// Volumes may be made on the StorageClasses.
    pub storage: bool,
    /// The vault's StorageClass.
    pub vault_class: String,
    /// Home's volumes, once home has said which.
    pub volumes: Option<HomeVolumes>,
}

/// Judges what was observed.
#[must_use]
pub fn validate(object: &DataEmbassy, pair: &PairRecord, observed: &Observed) -> Verdict {
    let mut verdict = Verdict {
        vault_class: vault_class(object, pair).to_owned(),
        volumes: volumes::home_volumes(object),
        ..Verdict::default()
    };
    encryption(object, observed, &mut verdict);
    keys(object, observed, &mut verdict);
    if observed.policy.is_none() {
        let name = &object.spec.policy_ref.name;
        verdict.stall(
            "PolicyNotFound",
            format!(
                "ReplicaPolicy {name} is not in this namespace: home mirrors it; look at home's operator"
            ),
        );
    }
    if object.spec.embassy.namespace != pair.embassy_namespace {
        verdict.stall(
            "NamespaceMismatch",
            format!(
                "spec.embassy.namespace is {}, this namespace's pair record says {}",
                object.spec.embassy.namespace, pair.embassy_namespace
            ),
        );
    }
    taken(object, observed, &mut verdict);
    quota(object, &mut verdict);
    verdict
}

impl Verdict {
    fn stall(&mut self, reason: &str, message: impl Into<String>) {
        self.stalled.get_or_insert_with(|| (reason.to_owned(), message.into()));
    }
}

/// The vault's class: the pair's, or this DataEmbassy's.
fn vault_class<'a>(object: &'a DataEmbassy, pair: &'a PairRecord) -> &'a str {
    pair.vault.storage_class_name.as_deref().unwrap_or(&object.spec.embassy.storage_class_name)
}

/// The classes that are to be used, and those that existing claims really have.
fn classes(object: &DataEmbassy, observed: &Observed, verdict: &Verdict) -> Vec<(String, String)> {
    let mut classes = vec![
        ("the vault".to_owned(), verdict.vault_class.clone()),
        ("the standby".to_owned(), object.spec.embassy.storage_class_name.clone()),
    ];
    let wanted = verdict.volumes.iter().flat_map(|v| &v.volumes).map(|v| v.name.as_str());
    for claim in std::iter::once(VAULT).chain(wanted) {
        let Some(spec) = observed.claims.get(claim).and_then(|c| c.spec.as_ref()) else { continue };
        // A claim without a class has one that nobody can look up.
        classes.push((format!("claim {claim}"), spec.storage_class_name.clone().unwrap_or_default()));
    }
    classes
}

fn encryption(object: &DataEmbassy, observed: &Observed, verdict: &mut Verdict) {
    let required =
        observed.policy.as_ref().is_none_or(|policy| policy.encryption.at_rest == AtRest::Required);
    let mut proofs = Vec::new();
    let mut bad: Option<(&str, String)> = None;
    for (what, class) in classes(object, observed, verdict) {
        let finding = match observed.classes.get(&class) {
            None => (
                "StorageClassNotFound",
                format!("{what}: there is no StorageClass {class:?} in this cluster"),
            ),
            Some(class) => match storage::encryption(class) {
                Encryption::Known(by) => {
                    if !proofs.contains(&by) {
                        proofs.push(by);
                    }
                    continue;
                }
                Encryption::NotKnown(why) => ("StorageClassNotEncrypting", format!("{what}: {why}")),
            },
        };
        bad.get_or_insert(finding);
    }
    verdict.storage = bad.is_none() || !required;
    let Some((reason, message)) = bad else {
        verdict.conditions.push(Wanted::yes(
            types::ENCRYPTION_VERIFIED,
            "StorageClassEncrypts",
            proofs.join("; "),
        ));
        return;
    };
    if required {
        verdict.stall(reason, format!("{message} (encryption.atRest is Required: nothing is stored on it)"));
    }
    verdict.conditions.push(Wanted::no(types::ENCRYPTION_VERIFIED, reason, message));
}

fn keys(object: &DataEmbassy, observed: &Observed, verdict: &mut Verdict) {
    let name = object.name_any();
    verdict.conditions.push(if observed.key {
        Wanted::yes(types::KEYS_AVAILABLE, "KeyPresent", "the repository's key is here (custody Entrusted)")
    } else {
        let message = format!("Secret {KEYS_SECRET} has no key {name:?} yet: home's operator writes it");
        Wanted::no(types::KEYS_AVAILABLE, "KeyMissing", message)
    });
}

/// A claim of that name that is not ours must never be restored over.
fn taken(object: &DataEmbassy, observed: &Observed, verdict: &mut Verdict) {
    let ours = label_value(&object.name_any());
    let names: Vec<String> =
        verdict.volumes.iter().flat_map(|v| &v.volumes).map(|v| v.name.clone()).collect();
    for name in names {
        if name == VAULT {
            verdict.stall(
                "VolumeNameTaken",
                format!("a volume cannot be called {VAULT}: the vault's is; rename it at home"),
            );
        }
        let Some(claim) = observed.claims.get(&name) else { continue };
        let label = |key: &str| claim.labels().get(key).map(String::as_str);
        let is_ours =
            label(LABEL_EMBASSY) == Some(ours.as_str()) && label(LABEL_COMPONENT) == Some(volumes::COMPONENT);
        if !is_ours {
            verdict.stall(
                "VolumeNameTaken",
                format!(
                    "PersistentVolumeClaim {name} is here already and was not made for this DataEmbassy: it is left alone; rename it here or at home"
                ),
            );
        }
    }
    for volume in verdict.volumes.clone().iter().flat_map(|v| &v.volumes) {
        if bytes(&volume.size).is_none() {
            verdict.stall(
                "VolumeSizeUnknown",
                format!("home's volume {} has the size {:?}, which is no quantity", volume.name, volume.size),
            );
        }
    }
}

fn quota(object: &DataEmbassy, verdict: &mut Verdict) {
    if let Some(quota) = object.spec.vault.quota.as_deref().filter(|quota| bytes(quota).is_none()) {
        verdict
            .stall("InvalidQuota", format!("spec.vault.quota {quota:?} is no quantity; write it as 100Gi"));
    }
}
