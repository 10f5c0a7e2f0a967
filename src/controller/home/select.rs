//! Which claims and workloads a DataEmbassy means. Pure.

use super::observation::{Claim, Labelled, Observation, Sibling, Workload};
use crate::api::embassy::{ServicesSpec, VolumesSpec};
use crate::api::policy::PromotionMode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};
use std::collections::{BTreeMap, BTreeSet};

/// True if the selector means an object with these labels; a selector that is not valid means none
/// (validation reports it).
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

/// The claims that exist out of those that are meant, sorted by name.
#[must_use]
pub fn claims<'a>(volumes: &VolumesSpec, all: &'a [Claim]) -> Vec<&'a Claim> {
    let meant = |claim: &&Claim| match &volumes.selector {
        Some(selector) => selects(selector, &claim.labels),
        None => volumes.names.contains(&claim.name),
    };
    let mut found: Vec<&Claim> = all.iter().filter(meant).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Names that are given and do not exist.
#[must_use]
pub fn missing<'a>(volumes: &'a VolumesSpec, all: &[Claim]) -> Vec<&'a str> {
    let known: BTreeSet<&str> = all.iter().map(|c| c.name.as_str()).collect();
    volumes.names.iter().map(String::as_str).filter(|name| !known.contains(name)).collect()
}

/// The workloads that are meant.
#[must_use]
pub fn workloads<'a>(services: Option<&ServicesSpec>, all: &'a [Workload]) -> Vec<&'a Workload> {
    let Some(services) = services else { return vec![] };
    all.iter().filter(|w| selects(&services.selector, &w.labels)).collect()
}

/// The Services that are meant.
#[must_use]
pub fn services<'a>(services: Option<&ServicesSpec>, all: &'a [Labelled]) -> Vec<&'a Labelled> {
    let Some(services) = services else { return vec![] };
    all.iter().filter(|s| selects(&services.selector, &s.labels)).collect()
}

/// The first object that this DataEmbassy shares with an older one that may promote:
/// `(what, the other's name)`.
#[must_use]
pub fn overlap(seen: &Observation) -> Option<(String, String)> {
    let may_promote = |policy: &str| {
        // An unknown policy may promote: missing evidence means hold.
        seen.policy_named(policy).is_none_or(|p| p.promotion.mode != PromotionMode::None)
    };
    let spec = &seen.object.spec;
    if !may_promote(&spec.policy_ref.name) {
        return None;
    }
    let own = objects(&spec.volumes, spec.services.as_ref(), seen);
    let created = seen.object.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let older =
        |s: &&Sibling| (s.created, s.name.as_str()) < (created, seen.name()) && may_promote(&s.policy);
    let mut siblings: Vec<&Sibling> = seen.siblings.iter().filter(older).collect();
    siblings.sort_by(|a, b| a.name.cmp(&b.name));
    siblings.into_iter().find_map(|sibling| {
        let theirs = objects(&sibling.volumes, sibling.services.as_ref(), seen);
        own.intersection(&theirs).next().map(|shared| (shared.clone(), sibling.name.clone()))
    })
}

fn objects(volumes: &VolumesSpec, services: Option<&ServicesSpec>, seen: &Observation) -> BTreeSet<String> {
    let claims = claims(volumes, &seen.claims).into_iter();
    let workloads = workloads(services, &seen.workloads).into_iter();
    claims
        .map(|c| format!("PersistentVolumeClaim {}", c.name))
        .chain(volumes.names.iter().map(|name| format!("PersistentVolumeClaim {name}")))
        .chain(workloads.map(|w| format!("{} {}", w.kind, w.name)))
        .collect()
}
