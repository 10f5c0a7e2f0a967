//! Cluster objects reduced to what decisions need. Pure.

use super::build::cut::SOURCE;
use super::observation::{Claim, Consumer, MoverJob, Temporary, TemporaryKind, Workload};
use crate::api::names::{COMPONENT_CUT, LABEL_COMPONENT, LABEL_EMBASSY, LABEL_RUN};
use crate::api::report::MoverReport;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, PodSpec};
use kube::ResourceExt;
use kube::api::DynamicObject;

/// Longest part of a log that is shown.
const MAX_WORDS: usize = 400;

/// A pod template with the claims that its pods mount.
pub struct Template<'a> {
    spec: &'a PodSpec,
    /// `<template>-<statefulset>-` prefixes of claims.
    prefixes: Vec<String>,
}

/// The templates of a namespace's workloads: they tell a claim's user while no pod runs.
#[must_use]
pub fn templates<'a>(deployments: &'a [Deployment], sets: &'a [StatefulSet]) -> Vec<Template<'a>> {
    let plain = deployments.iter().filter_map(|d| {
        let spec = d.spec.as_ref()?.template.spec.as_ref()?;
        Some(Template { spec, prefixes: vec![] })
    });
    let sets = sets.iter().filter_map(|s| {
        let outer = s.spec.as_ref()?;
        let prefixes = outer.volume_claim_templates.iter().flatten();
        let prefixes = prefixes.map(|t| format!("{}-{}-", t.name_any(), s.name_any())).collect();
        Some(Template { spec: outer.template.spec.as_ref()?, prefixes })
    });
    plain.chain(sets).collect()
}

/// A claim with its consumer: a running pod, else another pod, else a template.
#[must_use]
pub fn claim(object: &PersistentVolumeClaim, pods: &[Pod], templates: &[Template<'_>]) -> Claim {
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let capacity = status.capacity.as_ref().and_then(|c| c.get("storage"));
    let requested = spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("storage"));
    Claim {
        name: object.name_any(),
        labels: object.labels().clone(),
        phase: status.phase.unwrap_or_default(),
        size: capacity.or(requested).map(|q| q.0.clone()).unwrap_or_default(),
        access_modes: spec.access_modes.unwrap_or_default(),
        storage_class: spec.storage_class_name,
        block: spec.volume_mode.as_deref() == Some("Block"),
        deleting: object.metadata.deletion_timestamp.is_some(),
        consumer: consumer(&object.name_any(), pods, templates),
    }
}

fn consumer(claim: &str, pods: &[Pod], templates: &[Template<'_>]) -> Option<Consumer> {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    let mut using: Vec<(&Pod, &PodSpec)> = pods
        .iter()
        .filter(|p| p.labels().get(LABEL_EMBASSY).is_none())
        .filter_map(|p| Some((p, p.spec.as_ref()?)))
        .filter(|(p, spec)| mounts(spec, claim) && !matches!(phase(p).as_str(), "Succeeded" | "Failed"))
        .collect();
    using.sort_by_key(|(p, _)| (phase(p) != "Running", p.name_any()));
    if let Some((_, spec)) = using.first() {
        let node = spec.node_name.clone();
        return Some(Consumer { node, ..user(spec, claim) });
    }
    let template = templates.iter().find(|t| {
        mounts(t.spec, claim)
            || t.prefixes.iter().any(|prefix| {
                claim
                    .strip_prefix(prefix.as_str())
                    .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            })
    })?;
    Some(user(template.spec, claim))
}

fn mounts(spec: &PodSpec, claim: &str) -> bool {
    volume_of(spec, claim).is_some()
}

fn volume_of<'a>(spec: &'a PodSpec, claim: &str) -> Option<&'a str> {
    spec.volumes.iter().flatten().find_map(|volume| {
        let source = volume.persistent_volume_claim.as_ref()?;
        (source.claim_name == claim).then_some(volume.name.as_str())
    })
}

/// The user of the container that mounts the claim; the container's word beats the pod's.
fn user(spec: &PodSpec, claim: &str) -> Consumer {
    let volume = volume_of(spec, claim);
    let uses = |c: &&Container| c.volume_mounts.iter().flatten().any(|m| Some(m.name.as_str()) == volume);
    let container = spec.containers.iter().find(uses).or(spec.containers.first());
    let own = container.and_then(|c| c.security_context.as_ref());
    let pod = spec.security_context.as_ref();
    Consumer {
        node: None,
        run_as_user: own.and_then(|s| s.run_as_user).or_else(|| pod?.run_as_user),
        run_as_group: own.and_then(|s| s.run_as_group).or_else(|| pod?.run_as_group),
        fs_group: pod.and_then(|s| s.fs_group),
        supplemental_groups: pod.and_then(|s| s.supplemental_groups.clone()).unwrap_or_default(),
        tolerations: own_tolerations(spec),
    }
}

/// Tolerations that a person wrote: the ones for lost nodes are put into every pod by the cluster.
fn own_tolerations(spec: &PodSpec) -> Vec<k8s_openapi::api::core::v1::Toleration> {
    let by_cluster = |key: Option<&str>| {
        matches!(key, Some("node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable"))
    };
    spec.tolerations.iter().flatten().filter(|t| !by_cluster(t.key.as_deref())).cloned().collect()
}

/// Deployments and StatefulSets, by kind and name.
#[must_use]
pub fn workloads(deployments: &[Deployment], sets: &[StatefulSet]) -> Vec<Workload> {
    let plain = deployments.iter().map(|d| Workload {
        kind: "Deployment".to_owned(),
        name: d.name_any(),
        labels: d.labels().clone(),
        replicas: d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
        ready: d.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0),
    });
    let sets = sets.iter().map(|s| Workload {
        kind: "StatefulSet".to_owned(),
        name: s.name_any(),
        labels: s.labels().clone(),
        replicas: s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
        ready: s.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0),
    });
    plain.chain(sets).collect()
}

/// True for what a run of the DataEmbassy made.
pub fn is_temporary(object: &impl ResourceExt, embassy: &str) -> bool {
    let labels = object.labels();
    labels.get(LABEL_COMPONENT).is_some_and(|v| v == COMPONENT_CUT)
        && labels.get(LABEL_EMBASSY).is_some_and(|v| v == embassy)
}

/// A temporary object.
pub fn temporary(object: &impl ResourceExt, kind: TemporaryKind) -> Temporary {
    Temporary {
        kind,
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        run: object.labels().get(LABEL_RUN).cloned().unwrap_or_default(),
        source: object.annotations().get(SOURCE).cloned().unwrap_or_default(),
        ready: false,
        error: None,
        restore_size: None,
        deleting: object.meta().deletion_timestamp.is_some(),
    }
}

/// A VolumeSnapshot.
#[must_use]
pub fn snapshot(object: &DynamicObject) -> Temporary {
    let status = object.data.get("status");
    let text = |pointer: &str| status.and_then(|s| s.pointer(pointer)?.as_str()).map(str::to_owned);
    Temporary {
        ready: status.and_then(|s| s.get("readyToUse")?.as_bool()).unwrap_or(false),
        error: text("/error/message"),
        restore_size: text("/restoreSize"),
        ..temporary(object, TemporaryKind::Snapshot)
    }
}

/// A backup Job and the word of its pod.
#[must_use]
pub fn job(object: &Job, pods: &[Pod]) -> MoverJob {
    let name = object.name_any();
    let status = object.status.clone().unwrap_or_default();
    let condition =
        |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True");
    let mine = |p: &&Pod| {
        p.labels().get("batch.kubernetes.io/job-name").or_else(|| p.labels().get("job-name")) == Some(&name)
    };
    let words: Vec<PodWord> = pods.iter().filter(mine).map(pod_word).collect();
    let text = words.iter().find_map(|w| w.terminated.clone());
    let report = text.as_deref().and_then(|t| serde_json::from_str::<MoverReport>(t).ok());
    let failed = condition("Failed").map(|c| c.reason.clone().unwrap_or_else(|| "Failed".to_owned()));
    MoverJob {
        uid: object.uid().unwrap_or_default(),
        complete: condition("Complete").is_some(),
        failed,
        deleting: object.metadata.deletion_timestamp.is_some(),
        last_words: text.filter(|_| report.is_none()).map(|t| tail(&t)),
        report,
        created: object.metadata.creation_timestamp.as_ref().map(|t| t.0),
        pod: !words.is_empty(),
        started: words.iter().any(|w| w.started),
        waiting: words.into_iter().find_map(|w| w.waiting),
        name,
    }
}

struct PodWord {
    started: bool,
    terminated: Option<String>,
    waiting: Option<String>,
}

fn pod_word(pod: &Pod) -> PodWord {
    let status = pod.status.clone().unwrap_or_default();
    let unscheduled =
        status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    let over = matches!(status.phase.as_deref(), Some("Running" | "Succeeded" | "Failed"));
    let mut word =
        PodWord { started: over, terminated: None, waiting: unscheduled.and_then(|c| c.message.clone()) };
    // A pod that the kubelet killed (eviction) says why here and has no container status.
    let evicted = status.message.filter(|_| status.phase.as_deref() == Some("Failed"));
    for state in status.container_statuses.into_iter().flatten().filter_map(|c| c.state) {
        word.started |= state.running.is_some() || state.terminated.is_some();
        if let Some(end) = state.terminated {
            word.terminated = end.message.or(end.reason);
        }
        if let Some(waiting) = state.waiting {
            let reason = waiting.reason.unwrap_or_default();
            let plain = reason == "ContainerCreating" || reason == "PodInitializing";
            word.waiting = (!plain).then(|| format!("{reason}: {}", waiting.message.unwrap_or_default()));
        }
    }
    word.terminated = word.terminated.or(evicted);
    word
}

/// The end of a text, at most [`MAX_WORDS`] bytes.
fn tail(text: &str) -> String {
    let text = text.trim();
    let start = text.len().saturating_sub(MAX_WORDS);
    let start = (start..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default().to_owned()
}
