//! Home's manifests made into standby objects: a pure function.

use super::kind::Kind;
use super::reserved::is_reserved;
use super::{Finding, body};
use crate::api::embassy::ImageMapping;
use crate::api::names::{
    ANNOTATION_FENCED_REPLICAS, ANNOTATION_HASH, ANNOTATION_HOME_REPLICAS, ANNOTATION_SEQUENCE, GROUP,
    LABEL_COMPONENT, LABEL_EMBASSY, LABEL_MANAGED_BY, MANAGER,
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// Value of [`LABEL_COMPONENT`] of what this module makes.
pub const COMPONENT: &str = "standby";
/// Most replicas that are believed.
const MAX_REPLICAS: i64 = 10_000;
/// Labels and annotations with these prefixes are other programs' notes about the object at home: here
/// they would be false, or make another controller (a GitOps tool) take the standby for its own.
const FOREIGN_NOTES: [&str; 8] = [
    "kubectl.kubernetes.io/",
    "deployment.kubernetes.io/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "meta.helm.sh/",
    "volume.beta.kubernetes.io/",
    "pv.kubernetes.io/",
];

/// How manifests are changed for the embassy.
#[derive(Clone, Debug)]
pub struct Transform {
    /// The embassy's namespace.
    pub namespace: String,
    /// Image references, by prefix, first match.
    pub images: Vec<ImageMapping>,
    /// StorageClass of the claims that a StatefulSet would make.
    pub storage_class_name: String,
    /// The DataEmbassy, as a label's value.
    pub data_embassy: String,
    /// The dispatch that the manifests came with.
    pub sequence: i64,
}

/// One object as it should stand in the embassy.
#[derive(Clone, Debug, PartialEq)]
pub struct StandbyObject {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All of it; a workload's replicas are 0.
    pub object: Value,
    /// Home's replicas, for workloads.
    pub home_replicas: Option<i32>,
    /// Hash of all but replicas and sequence: what decides whether it is applied again.
    pub hash: String,
}

/// Changes manifests for the embassy; what cannot be a standby is left out with a [`Finding`].
/// Ordered as they are to be applied.
#[must_use]
pub fn transform(input: &[Value], how: &Transform) -> (Vec<StandbyObject>, Vec<Finding>) {
    let mut objects = Vec::new();
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for manifest in input {
        let Some((kind, name)) = identify(manifest, &mut findings) else { continue };
        if !seen.insert((kind, name.clone())) {
            findings.push(Finding::omitted(kind, &name, "Duplicate", "it is there twice in the manifests"));
            continue;
        }
        match object(kind, &name, manifest, how, &mut findings) {
            Ok(object) => objects.push(object),
            Err(finding) => findings.push(finding),
        }
    }
    objects.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    (objects, findings)
}

/// Kind and name of a manifest, if it is one that is restored.
fn identify(manifest: &Value, findings: &mut Vec<Finding>) -> Option<(Kind, String)> {
    let text = |pointer| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    let name = text("/metadata/name");
    let Some(known) = Kind::of(api_version, kind) else {
        // Claims are made by the restore, before any manifest is looked at.
        if kind != "PersistentVolumeClaim" {
            let message =
                format!("{api_version}/{kind} is not restored in the embassy: apply it there by hand");
            findings.push(Finding::unnamed(kind, name, "KindNotRestored", message));
        }
        return None;
    };
    // Every namespace has this one already, with its own cluster's CA.
    if known == Kind::ConfigMap && name == "kube-root-ca.crt" {
        return None;
    }
    if !valid_name(known, name) {
        findings.push(Finding::unnamed(
            kind,
            name,
            "InvalidName",
            "its name is not a Kubernetes name".into(),
        ));
        return None;
    }
    Some((known, name.to_owned()))
}

fn valid_name(kind: Kind, name: &str) -> bool {
    let longest = if kind == Kind::Service { 63 } else { 253 };
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let starts = kind != Kind::Service || name.starts_with(|c: char| c.is_ascii_lowercase());
    let dots = kind != Kind::Service || !name.contains('.');
    name.len() <= longest && starts && dots && name.split('.').all(label)
}

fn object(
    kind: Kind,
    name: &str,
    manifest: &Value,
    how: &Transform,
    findings: &mut Vec<Finding>,
) -> Result<StandbyObject, Finding> {
    let omitted = |reason, message: &str| Finding::omitted(kind, name, reason, message);
    if is_reserved(kind.named(), name) {
        return Err(omitted(
            "Reserved",
            "the operator keeps this name in the embassy for itself: rename it at home",
        ));
    }
    let label = |key: &str| manifest.pointer("/metadata/labels").and_then(|l| l.get(key)?.as_str());
    if label(LABEL_MANAGED_BY) == Some(MANAGER) {
        return Err(omitted("Reserved", "it carries the operator's own label: it is no part of the service"));
    }
    kind.check(manifest).map_err(|e| omitted("Malformed", &format!("it is not a {kind}: {e}")))?;
    let mut object = body::body(kind, name, manifest, how, findings)?;
    let home_replicas = kind.is_workload().then(|| home_replicas(manifest));
    let metadata = metadata(name, manifest, how, home_replicas);
    let resource = kind.resource();
    object.insert("apiVersion".into(), json!(resource.api_version));
    object.insert("kind".into(), json!(resource.kind));
    object.insert("metadata".into(), Value::Object(metadata));
    let mut object = Value::Object(object);
    let hash = hex::encode(Sha256::digest(object.to_string().as_bytes()));
    // After the hash: a dispatch that changed nothing must not make every object be written again.
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(ANNOTATION_HASH.into(), json!(hash));
        annotations.insert(ANNOTATION_SEQUENCE.into(), json!(how.sequence.to_string()));
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
        && kind.is_workload()
    {
        spec.insert("replicas".into(), json!(0));
    }
    Ok(StandbyObject { kind, name: name.to_owned(), object, home_replicas, hash })
}

/// Only what is named here is kept: uids, owners, finalizers and managed fields are home's.
fn metadata(name: &str, manifest: &Value, how: &Transform, home_replicas: Option<i32>) -> Map<String, Value> {
    let mut labels = notes(manifest.pointer("/metadata/labels"));
    labels.insert(LABEL_MANAGED_BY.into(), json!(MANAGER));
    labels.insert(LABEL_EMBASSY.into(), json!(how.data_embassy));
    labels.insert(LABEL_COMPONENT.into(), json!(COMPONENT));
    let mut annotations = notes(manifest.pointer("/metadata/annotations"));
    if let Some(replicas) = home_replicas {
        annotations.insert(ANNOTATION_HOME_REPLICAS.into(), json!(replicas.to_string()));
    }
    Map::from_iter([
        ("name".to_owned(), json!(name)),
        ("namespace".to_owned(), json!(how.namespace)),
        ("labels".to_owned(), Value::Object(labels)),
        ("annotations".to_owned(), Value::Object(annotations)),
    ])
}

/// Labels or annotations without the operator's own and those of other controllers.
pub(super) fn notes(map: Option<&Value>) -> Map<String, Value> {
    let Some(map) = map.and_then(Value::as_object) else { return Map::new() };
    let ours = |key: &str| key.split_once('/').is_some_and(|(domain, _)| domain == GROUP);
    let foreign = |key: &str| FOREIGN_NOTES.iter().any(|prefix| key.starts_with(prefix));
    let keep = map.iter().filter(|(key, value)| value.is_string() && !ours(key) && !foreign(key));
    keep.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Replicas at home; those before the fence where home was fenced when the manifests were cut (the last
/// dispatch of a switchover is made after home was stopped: its zero is not what the user wanted).
fn home_replicas(manifest: &Value) -> i32 {
    let given = manifest.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let fenced = manifest
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(ANNOTATION_FENCED_REPLICAS)?.as_str()?.parse::<i64>().ok());
    let wanted = if given == 0 { fenced.unwrap_or(0) } else { given };
    i32::try_from(wanted.clamp(0, MAX_REPLICAS)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
