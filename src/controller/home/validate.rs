//! What is wrong with a DataEmbassy and how to mend it. Pure.

use super::observation::{Claim, Observation, Pairing, Reach};
use super::select;
use crate::api::names::{ANNOTATION_ABANDON, KEYS_SECRET, KUBECONFIG_KEY, PASSWORD_KEY, repository_secret};
use crate::api::pair::PairRecord;
use crate::api::policy::{CopyMethod, ReplicaPolicySpec};
use crate::cli::chain;
use crate::domain::schedule::Clockwork;
use crate::domain::writ::check_settings;
use kube::core::Selector;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

const LEAST_INTERVAL: Duration = Duration::from_secs(5);

/// How much a problem stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Scope {
    /// Nothing new is mirrored or dispatched.
    All,
    /// No dispatch is made; the mirror is kept up to date.
    Dispatch,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it stops.
    pub scope: Scope,
    /// CamelCase.
    pub reason: &'static str,
    /// What it is and how to mend it.
    pub message: String,
}

fn all(reason: &'static str, message: impl Into<String>) -> Problem {
    Problem { scope: Scope::All, reason, message: message.into() }
}

fn dispatch(reason: &'static str, message: impl Into<String>) -> Problem {
    Problem { scope: Scope::Dispatch, reason, message: message.into() }
}

/// Every problem, the most important first.
#[must_use]
pub fn validate(seen: &Observation) -> Vec<Problem> {
    let mut problems = vec![];
    if !is_label(seen.name()) {
        let message = "the name also names the repository in the vault, so it must be a DNS label: at most 63 lower-case \
                       letters, digits and dashes, no dash at either end and no dot; make it anew under such a name";
        problems.push(all("NameInvalid", message));
    }
    if seen.object.spec.retired {
        let message = "spec.retired is the operator's, which sets it on the mirror in the embassy when this DataEmbassy is \
                       deleted here: remove it; to end the copy, delete the DataEmbassy";
        problems.push(all("RetiredReserved", message));
    }
    let policy = seen.policy();
    if policy.is_none() {
        let name = &seen.object.spec.policy_ref.name;
        let message =
            format!("there is no ReplicaPolicy {name} in this namespace; create it or correct policyRef");
        problems.push(all("PolicyNotFound", message));
    }
    problems.extend(pairing(seen));
    problems.extend(selectors(seen));
    if let Some((what, other)) = select::overlap(seen) {
        let message = format!(
            "{what} also belongs to DataEmbassy {other}, which is older and may promote; take it out of \
             one of the two, or set promotion.mode: None in one's policy"
        );
        problems.push(all("Overlap", message));
    }
    if let Some(policy) = policy {
        problems.extend(timing(seen, policy));
        problems.extend(volumes(seen, policy));
    }
    problems.sort_by_key(|p| p.scope == Scope::Dispatch);
    problems
}

/// As the vault takes a repository's name.
fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edges = name.starts_with('-') || name.ends_with('-');
    !name.is_empty() && name.len() <= 63 && name.bytes().all(inner) && !edges
}

/// Problems that show only once the embassy was asked.
#[must_use]
pub fn after_asking(seen: &Observation) -> Vec<Problem> {
    let mut problems = vec![];
    if let Reach::Forbidden(why) = &seen.embassy.reach {
        let message = format!("the embassy refuses home: {why}; run `kubectl embassy pair` again");
        problems.push(all("Forbidden", message));
    }
    if !seen.repository_secret && seen.copied() {
        let (name, secret) = (seen.name(), repository_secret(seen.name()));
        let message = format!(
            "Secret {secret} with the repository's password is gone or empty, and the copy in the embassy can be read \
             with that password alone: restore the Secret from a backup, or put the key {name} of Secret {KEYS_SECRET} \
             at the embassy into it as {PASSWORD_KEY}; if both are lost, delete this DataEmbassy, run `kubectl embassy \
             retire {name}` at the embassy and apply it anew"
        );
        problems.push(dispatch("RepositoryPasswordMissing", message));
    }
    problems
}

fn pairing(seen: &Observation) -> Option<Problem> {
    let spec = &seen.object.spec.embassy;
    let secret = &spec.kubeconfig_secret_ref.name;
    let again = "run `kubectl embassy pair` again";
    // `pair` makes no second key for a pair that works already.
    let restore = match seen.status().pair {
        Some(_) => {
            "restore the Secret from a backup: the signing key is nowhere else; or retire at the embassy and pair anew"
        }
        None => "delete the Secret and run `kubectl embassy pair`",
    };
    match &seen.pairing {
        Pairing::SecretMissing if seen.status().pair.is_some() => {
            Some(all("KubeconfigMissing", format!("Secret {secret} is gone: {restore}")))
        }
        Pairing::SecretMissing => Some(all(
            "KubeconfigMissing",
            format!(
                "there is no Secret {secret} in this namespace; run `kubectl embassy pair` or correct \
                 embassy.kubeconfigSecretRef"
            ),
        )),
        // Id and signing key are there, and `pair` makes a new kubeconfig for them.
        Pairing::KeyMissing(key) if key == KUBECONFIG_KEY => {
            Some(all("KubeconfigMissing", format!("Secret {secret} has no key {key}; {again}")))
        }
        Pairing::KeyMissing(key) => {
            Some(all("KubeconfigMissing", format!("Secret {secret} has no key {key}; {restore}")))
        }
        Pairing::RecordInvalid(why) => {
            Some(all("PairRecordInvalid", format!("Secret {secret}: {why}; {restore}")))
        }
        Pairing::KubeconfigInvalid(why) => {
            Some(all("KubeconfigInvalid", format!("Secret {secret}: {why}; {again}")))
        }
        Pairing::Ready(pair) => mispaired(seen, pair),
    }
}

/// A pair that works, and is not this DataEmbassy's.
fn mispaired(seen: &Observation, pair: &PairRecord) -> Option<Problem> {
    let spec = &seen.object.spec.embassy;
    let secret = &spec.kubeconfig_secret_ref.name;
    if pair.home_namespace != seen.namespace() {
        let message = format!(
            "Secret {secret} pairs namespace {} and not this one; run `kubectl embassy pair` again for this namespace",
            pair.home_namespace
        );
        return Some(all("WrongNamespace", message));
    }
    if pair.embassy_namespace != spec.namespace {
        let message = format!(
            "embassy.namespace is {} but the pair's is {}; set it to the pair's",
            spec.namespace, pair.embassy_namespace
        );
        return Some(all("WrongNamespace", message));
    }
    let status = seen.status();
    // `forget_old_pair` has dropped an even epoch.
    let old = status.pair.filter(|old| *old != pair.id)?;
    let message = format!(
        "Secret {secret} is of pair {} but epoch {} of pair {old} names the embassy there, which may still serve: \
         restore the Secret of pair {old}, or, once nothing serves there any more, delete this DataEmbassy with the \
         annotation {ANNOTATION_ABANDON}=true and apply it anew",
        pair.id,
        status.epoch.unwrap_or_default()
    );
    Some(all("PairChanged", message))
}

fn selectors(seen: &Observation) -> Option<Problem> {
    let spec = &seen.object.spec;
    let both = [
        ("volumes.selector", spec.volumes.selector.as_ref()),
        ("services.selector", spec.services.as_ref().map(|s| &s.selector)),
    ];
    both.into_iter().find_map(|(field, selector)| {
        let error = Selector::try_from(selector?.clone()).err()?;
        Some(all("BadSelector", format!("{field} is not a valid label selector: {}", chain(&error))))
    })
}

fn timing(seen: &Observation, policy: &ReplicaPolicySpec) -> Vec<Problem> {
    let mut problems = vec![];
    if let Some(pair) = seen.pairing.record()
        && let Err(error) = check_settings(&pair.lease, &policy.promotion.fencing)
    {
        problems.push(all("UnsafeTiming", chain(&error)));
    }
    if let Some(schedule) = &policy.sync.schedule
        && let Err(error) = Clockwork::parse(schedule)
    {
        problems.push(dispatch("BadSchedule", chain(&error)));
    }
    if policy.sync.interval.is_some_and(|i| i.get() < LEAST_INTERVAL) {
        problems.push(dispatch("BadSchedule", "sync.interval must be at least 5s"));
    }
    problems
}

fn volumes(seen: &Observation, policy: &ReplicaPolicySpec) -> Vec<Problem> {
    let wanted = &seen.object.spec.volumes;
    let claims = select::claims(wanted, &seen.claims);
    let mut problems = vec![];
    let missing = select::missing(wanted, &seen.claims);
    if !missing.is_empty() {
        let message = format!(
            "PersistentVolumeClaim {} does not exist; create it or take it out of volumes.names",
            missing.join(", ")
        );
        problems.push(dispatch("VolumeNotFound", message));
    } else if claims.is_empty() {
        let message = "volumes.selector matches no PersistentVolumeClaim; label the claims or correct it";
        problems.push(dispatch("NoVolumes", message));
    }
    problems.extend(vanished(seen, &claims));
    problems.extend(claims.iter().filter_map(|claim| unusable(claim)));
    problems.extend(copy_method(seen, policy, &claims));
    problems
}

/// A claim that was copied before and is gone: a dispatch without it would bury the good copy.
fn vanished(seen: &Observation, claims: &[&Claim]) -> Option<Problem> {
    let status = seen.status();
    status.last_dispatch.as_ref()?;
    // A changed spec is the user's word that this is meant.
    if status.observed_generation != seen.object.metadata.generation {
        return None;
    }
    let gone = status.volumes.iter().find(|v| {
        v.claim.is_some()
            && !claims.iter().any(|c| c.name == v.name)
            && !seen.claims.iter().any(|c| c.name == v.name)
    })?;
    (seen.object.spec.volumes.selector.is_some()).then(|| {
        dispatch(
            "VolumeNotFound",
            format!(
                "PersistentVolumeClaim {} was copied before and is gone; restore it, or say that it is gone for \
                 good by changing volumes (for example to names without it)",
                gone.name
            ),
        )
    })
}

fn unusable(claim: &Claim) -> Option<Problem> {
    let name = &claim.name;
    if claim.deleting {
        let message =
            format!("PersistentVolumeClaim {name} is being deleted; take it out of volumes or make it anew");
        return Some(dispatch("VolumeNotFound", message));
    }
    if claim.block {
        let message = format!("PersistentVolumeClaim {name} has volumeMode Block; only Filesystem is copied");
        return Some(dispatch("VolumeUnsupported", message));
    }
    if claim.phase != "Bound" {
        let message = format!(
            "PersistentVolumeClaim {name} is {}, not Bound; start the pod that uses it, or see its events",
            if claim.phase.is_empty() { "Pending" } else { &claim.phase }
        );
        return Some(dispatch("VolumeUnbound", message));
    }
    None
}

fn copy_method(seen: &Observation, policy: &ReplicaPolicySpec, claims: &[&Claim]) -> Option<Problem> {
    match policy.sync.copy_method {
        CopyMethod::Snapshot if !seen.snapshots_supported => Some(dispatch(
            "SnapshotsUnsupported",
            "this cluster has no snapshot.storage.k8s.io/v1; install the snapshot CRDs, controller and a \
             driver, or set sync.copyMethod: Direct if nobody writes meanwhile",
        )),
        CopyMethod::Snapshot => None,
        CopyMethod::Direct => direct(claims),
    }
}

fn direct(claims: &[&Claim]) -> Option<Problem> {
    let in_use = |c: &&&Claim| c.consumer.as_ref().is_some_and(|u| u.node.is_some());
    if let Some(claim) =
        claims.iter().filter(in_use).find(|c| c.access_modes.iter().any(|m| m == "ReadWriteOncePod"))
    {
        let message = format!(
            "PersistentVolumeClaim {} is ReadWriteOncePod and in use; set sync.copyMethod: Snapshot",
            claim.name
        );
        return Some(dispatch("VolumeExclusive", message));
    }
    let nodes: BTreeSet<&str> = claims
        .iter()
        .filter(|c| !c.access_modes.iter().any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany"))
        .filter_map(|c| c.consumer.as_ref()?.node.as_deref())
        .collect();
    (nodes.len() > 1).then(|| {
        let nodes = nodes.into_iter().collect::<Vec<_>>().join(" and ");
        let message = format!(
            "the volumes are in use on nodes {nodes}, and no one pod can read them all; set \
             sync.copyMethod: Snapshot, or make one DataEmbassy per node"
        );
        dispatch("VolumesOnDifferentNodes", message)
    })
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
