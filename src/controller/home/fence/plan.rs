//! Which objects the fence `Scale` touches: pure.

use crate::api::ledger::Writ;
use crate::api::names::{ANNOTATION_FENCED_REPLICAS, LABEL_MANAGED_BY, MANAGER};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt as _;
use std::collections::{BTreeMap, BTreeSet};

/// What belongs to one DataEmbassy at home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Its PersistentVolumeClaims.
    pub claims: BTreeSet<String>,
    /// Its workloads by `Kind/name`; those that mount a claim are found by themselves.
    pub workloads: BTreeSet<String>,
}

/// The namespace as it was read.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All Deployments.
    pub deployments: Vec<Deployment>,
    /// All StatefulSets.
    pub stateful_sets: Vec<StatefulSet>,
    /// All Pods.
    pub pods: Vec<Pod>,
}

/// One change of a workload's scale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// `Deployment` or `StatefulSet`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// To this many.
    pub replicas: i32,
    /// Remember this many (fence) or forget (unfence).
    pub remember: Option<i32>,
}

/// What the fence does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FencePlan {
    /// Workloads to scale.
    pub scale: Vec<Scale>,
    /// Pods to kill: name and UID.
    pub kill: Vec<(String, String)>,
    /// Workloads that cannot be scaled without losing their claims.
    pub refused: Vec<String>,
}

struct Workload<'a> {
    kind: &'static str,
    name: String,
    replicas: i32,
    remembered: Option<i32>,
    template: Option<&'a PodSpec>,
    selector: &'a LabelSelector,
    deletes_claims: bool,
}

/// Everything that may write: scaled to zero, its pods killed.
#[must_use]
pub fn fence(seen: &Seen, members: &Members) -> FencePlan {
    let mut plan = FencePlan::default();
    let ours: Vec<_> = workloads(seen).into_iter().filter(|w| belongs(w, members)).collect();
    for workload in &ours {
        if workload.deletes_claims {
            // Scaling down would delete the very volumes that are to be protected.
            plan.refused.push(format!("{}/{}", workload.kind, workload.name));
        } else if workload.replicas > 0 {
            plan.scale.push(Scale {
                kind: workload.kind,
                name: workload.name.clone(),
                replicas: 0,
                remember: Some(workload.replicas),
            });
        }
    }
    let selectors: Vec<_> = ours.iter().map(|w| w.selector).collect();
    for pod in seen.pods.iter().filter(|pod| may_write(pod, members, &selectors)) {
        plan.kill.push((pod.name_any(), pod.uid().unwrap_or_default()));
    }
    plan
}

/// What the fence had scaled down goes back to what it was.
#[must_use]
pub fn unfence(seen: &Seen, members: &Members) -> Vec<Scale> {
    let ours = workloads(seen).into_iter().filter(|w| belongs(w, members));
    let restore = ours.filter_map(|w| {
        let replicas = w.remembered?;
        Some(Scale { kind: w.kind, name: w.name, replicas, remember: None })
    });
    restore.collect()
}

/// Whether what was fenced may start again: only when the ledger itself shows that the writ is
/// home's. A right from memory stops nothing, and lets nothing go either.
#[must_use]
pub fn may_release(writ: Option<&Writ>, high_water: Option<u64>) -> bool {
    writ.is_some_and(|w| w.grants_home() && high_water.is_none_or(|h| w.epoch >= h))
}

fn workloads(seen: &Seen) -> Vec<Workload<'_>> {
    let deployments = seen.deployments.iter().filter_map(|d| {
        let spec = d.spec.as_ref()?;
        Some(Workload {
            kind: "Deployment",
            name: d.name_any(),
            replicas: spec.replicas.unwrap_or(1),
            remembered: remembered(d.annotations()),
            template: spec.template.spec.as_ref(),
            selector: &spec.selector,
            deletes_claims: false,
        })
    });
    let stateful_sets = seen.stateful_sets.iter().filter_map(|s| {
        let spec = s.spec.as_ref()?;
        let policy = spec.persistent_volume_claim_retention_policy.as_ref();
        Some(Workload {
            kind: "StatefulSet",
            name: s.name_any(),
            replicas: spec.replicas.unwrap_or(1),
            remembered: remembered(s.annotations()),
            template: spec.template.spec.as_ref(),
            selector: &spec.selector,
            deletes_claims: policy.and_then(|p| p.when_scaled.as_deref()) == Some("Delete"),
        })
    });
    deployments.chain(stateful_sets).collect()
}

fn remembered(annotations: &BTreeMap<String, String>) -> Option<i32> {
    annotations.get(ANNOTATION_FENCED_REPLICAS)?.parse().ok()
}

fn belongs(workload: &Workload<'_>, members: &Members) -> bool {
    members.workloads.contains(&format!("{}/{}", workload.kind, workload.name))
        || workload.template.is_some_and(|spec| mounts(spec, &members.claims))
        // A StatefulSet's template names no claim: its claims are `<template>-<name>-<ordinal>`.
        || (workload.kind == "StatefulSet"
            && members.claims.iter().any(|claim| is_claim_of(claim, &workload.name)))
}

fn is_claim_of(claim: &str, stateful_set: &str) -> bool {
    let Some((head, ordinal)) = claim.rsplit_once('-') else { return false };
    !ordinal.is_empty()
        && ordinal.bytes().all(|b| b.is_ascii_digit())
        && head.strip_suffix(stateful_set).is_some_and(|template| template.ends_with('-'))
}

fn mounts(spec: &PodSpec, claims: &BTreeSet<String>) -> bool {
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|v| v.persistent_volume_claim.as_ref())
        .any(|source| claims.contains(&source.claim_name))
}

fn may_write(pod: &Pod, members: &Members, selectors: &[&LabelSelector]) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    // Our own movers only read at home.
    let mover = pod.labels().get(LABEL_MANAGED_BY).is_some_and(|v| v == MANAGER);
    let mounts_claim = pod.spec.as_ref().is_some_and(|spec| mounts(spec, &members.claims));
    !over && !mover && (mounts_claim || selectors.iter().any(|s| matches(s, pod.labels())))
}

/// `matchLabels` only: workloads of apps/v1 that use expressions are still caught by their claims.
fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let wanted = selector.match_labels.as_ref();
    wanted.is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(k, v)| labels.get(k) == Some(v)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn seen(when_scaled: &str) -> Seen {
        let set = json!({
            "metadata": {"name": "postgres"},
            "spec": {
                "replicas": 1, "serviceName": "postgres",
                "selector": {"matchLabels": {"app": "postgres"}},
                "persistentVolumeClaimRetentionPolicy": {"whenScaled": when_scaled},
                "template": {"spec": {"containers": []}},
            },
        });
        let other = json!({
            "metadata": {"name": "other"},
            "spec": {
                "replicas": 3, "selector": {"matchLabels": {"app": "other"}},
                "template": {"spec": {"containers": []}},
            },
        });
        let pod = |name: &str, app: &str, managed: bool| {
            let by = if managed { MANAGER } else { "someone" };
            json!({
                "metadata": {"name": name, "uid": name, "labels": {"app": app, LABEL_MANAGED_BY: by}},
                "spec": {"containers": [], "volumes": [
                    {"name": "d", "persistentVolumeClaim": {"claimName": format!("data-{app}-0")}},
                ]},
            })
        };
        let pods = [
            pod("postgres-0", "postgres", false),
            pod("other-0", "other", false),
            pod("mover", "postgres", true),
        ];
        Seen {
            deployments: vec![serde_json::from_value(other).unwrap()],
            stateful_sets: vec![serde_json::from_value(set).unwrap()],
            pods: pods.into_iter().map(|p| serde_json::from_value(p).unwrap()).collect(),
        }
    }

    fn members() -> Members {
        Members { claims: ["data-postgres-0".to_owned()].into(), workloads: BTreeSet::new() }
    }

    #[test]
    fn only_what_belongs_to_it_is_fenced_and_it_is_found_by_its_claims() {
        let plan = fence(&seen("Retain"), &members());
        assert_eq!(plan.kill, [("postgres-0".to_owned(), "postgres-0".to_owned())]);
        assert_eq!(
            plan.scale,
            [Scale { kind: "StatefulSet", name: "postgres".into(), replicas: 0, remember: Some(1) }]
        );
    }

    #[test]
    fn a_stateful_set_that_deletes_its_claims_is_never_scaled_down() {
        let plan = fence(&seen("Delete"), &members());
        assert!(plan.scale.is_empty());
        assert_eq!(plan.refused, ["StatefulSet/postgres"]);
        assert_eq!(plan.kill.len(), 1, "its pods still die");
    }

    #[test]
    fn the_scale_comes_back_once() {
        let mut seen = seen("Retain");
        assert!(unfence(&seen, &members()).is_empty());
        let set = seen.stateful_sets.first_mut().unwrap();
        set.annotations_mut().insert(ANNOTATION_FENCED_REPLICAS.to_owned(), "2".to_owned());
        let back = unfence(&seen, &members());
        assert_eq!(
            back,
            [Scale { kind: "StatefulSet", name: "postgres".into(), replicas: 2, remember: None }]
        );
    }

    #[test]
    fn nothing_is_let_go_from_memory() {
        let writ = |epoch, yielding| Writ { epoch, yielding, ..Writ::default() };
        for (writ, high_water, expected) in [
            (None, None, false),
            (None, Some(2), false),
            (Some(writ(2, false)), Some(2), true),
            (Some(writ(0, false)), None, true),
            (Some(writ(0, false)), Some(2), false),
            (Some(writ(3, false)), Some(2), false),
            (Some(writ(2, true)), Some(2), false),
        ] {
            assert_eq!(may_release(writ.as_ref(), high_water), expected, "{writ:?} {high_water:?}");
        }
    }

    #[test]
    fn names_of_claims_are_matched_whole() {
        assert!(is_claim_of("data-postgres-0", "postgres"));
        assert!(!is_claim_of("data-mypostgres-0", "postgres"));
        assert!(!is_claim_of("data-postgres-x", "postgres"));
    }
}
