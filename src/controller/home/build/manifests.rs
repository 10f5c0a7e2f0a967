//! The manifests that go with the volumes: what the server or this cluster put into an object is
//! taken out again, so that it can be created elsewhere. Pure.

use crate::api::names::ANNOTATION_FENCED_REPLICAS;
use flate2::{Compression, GzBuilder};
use serde_json::{Map, Value};
use std::io::Write as _;

/// Largest Secret that an API server takes, less some room for its metadata.
pub const MAX_GZIP: usize = 1_000_000;

const SERVER_META: [&str; 9] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "ownerReferences",
    "generation",
    "selfLink",
];
const SERVER_ANNOTATIONS: [&str; 8] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
    ANNOTATION_FENCED_REPLICAS,
];

/// Why manifests cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// They cannot be written as JSON or compressed.
    #[error("the manifests cannot be packed")]
    Pack(#[source] std::io::Error),
    /// More than a Secret takes.
    #[error(
        "the manifests take {0} bytes compressed and a Secret takes {MAX_GZIP}; narrow services.selector or move \
         large ConfigMaps into a volume"
    )]
    TooLarge(usize),
}

/// One object as it is sent.
#[must_use]
pub fn strip(mut object: Value) -> Value {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let fenced = fenced_replicas(&object);
    if let Some(root) = object.as_object_mut() {
        root.remove("status");
        if let Some(meta) = root.get_mut("metadata").and_then(Value::as_object_mut) {
            strip_meta(meta);
        }
        if let Some(spec) = root.get_mut("spec").and_then(Value::as_object_mut) {
            match kind.as_str() {
                "Service" => strip_service(spec),
                "PersistentVolumeClaim" => strip_claim(spec),
                "StatefulSet" => strip_templates(spec),
                _ => {}
            }
            if let Some(replicas) = fenced {
                spec.insert("replicas".to_owned(), replicas.into());
            }
        }
        if kind == "ServiceAccount" {
            // Made by the cluster, and worth nothing in another one.
            root.remove("secrets");
        }
    }
    object
}

/// Replicas before the fence scaled it down: what it has now is no part of the service.
fn fenced_replicas(object: &Value) -> Option<i64> {
    object.pointer("/metadata/annotations")?.get(ANNOTATION_FENCED_REPLICAS)?.as_str()?.parse().ok()
}

fn strip_meta(meta: &mut Map<String, Value>) {
    for key in SERVER_META {
        meta.remove(key);
    }
    meta.remove("finalizers");
    meta.remove("namespace");
    if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, _| !SERVER_ANNOTATIONS.contains(&key.as_str()));
        if annotations.is_empty() {
            meta.remove("annotations");
        }
    }
}

fn strip_service(spec: &mut Map<String, Value>) {
    // A headless Service stays headless; any other address belongs to this cluster.
    if spec.get("clusterIP").and_then(Value::as_str) != Some("None") {
        spec.remove("clusterIP");
    }
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
        spec.remove(key);
    }
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        port.remove("nodePort");
    }
}

fn strip_claim(spec: &mut Map<String, Value>) {
    for key in ["volumeName", "dataSource", "dataSourceRef"] {
        spec.remove(key);
    }
}

fn strip_templates(spec: &mut Map<String, Value>) {
    let templates = spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut);
    for template in templates.into_iter().flatten().filter_map(Value::as_object_mut) {
        template.remove("status");
        if let Some(meta) = template.get_mut("metadata").and_then(Value::as_object_mut) {
            strip_meta(meta);
        }
    }
}

/// False for Secrets that only mean something in this cluster or are ours.
#[must_use]
pub fn sendable_secret(secret_type: Option<&str>) -> bool {
    !matches!(
        secret_type,
        Some("kubernetes.io/service-account-token" | "bootstrap.kubernetes.io/token" | "helm.sh/release.v1")
    )
}

/// Names that a pod template refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: Vec<String>,
    /// Secrets.
    pub secrets: Vec<String>,
    /// ServiceAccounts.
    pub service_accounts: Vec<String>,
}

/// What a workload's pods need beside their volumes: found by the fields' names anywhere in the
/// template, so that a kind of reference that we do not know by name is not missed.
#[must_use]
pub fn references(workload: &Value) -> References {
    let mut found = References::default();
    if let Some(template) = workload.pointer("/spec/template/spec") {
        if let Some(name) = template.get("serviceAccountName").and_then(Value::as_str) {
            found.service_accounts.push(name.to_owned());
        }
        walk(template, &mut found);
    }
    for list in [&mut found.config_maps, &mut found.secrets, &mut found.service_accounts] {
        list.sort();
        list.dedup();
    }
    found
}

fn walk(value: &Value, found: &mut References) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            match key.as_str() {
                "configMap" | "configMapRef" | "configMapKeyRef" => name(value, &mut found.config_maps),
                "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => {
                    name(value, &mut found.secrets);
                }
                "imagePullSecrets" => {
                    value.as_array().into_iter().flatten().for_each(|v| name(v, &mut found.secrets));
                }
                _ => {}
            }
            walk(value, found);
        }),
        _ => {}
    }
}

fn name(reference: &Value, list: &mut Vec<String>) {
    // Volumes say `secretName`, everything else `name`.
    let name = reference.get("secretName").or_else(|| reference.get("name")).and_then(Value::as_str);
    list.extend(name.filter(|n| !n.is_empty()).map(str::to_owned));
}

/// Gzip of the JSON array, without a time in it: equal manifests are equal bytes and deduplicate.
///
/// # Errors
/// [`ManifestsError`].
pub fn pack(objects: &[Value]) -> Result<Vec<u8>, ManifestsError> {
    let json = serde_json::to_vec(objects).map_err(|e| ManifestsError::Pack(e.into()))?;
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    gzip.write_all(&json).map_err(ManifestsError::Pack)?;
    let bytes = gzip.finish().map_err(ManifestsError::Pack)?;
    if bytes.len() > MAX_GZIP { Err(ManifestsError::TooLarge(bytes.len())) } else { Ok(bytes) }
}

#[cfg(test)]
#[path = "manifests_tests.rs"]
mod tests;
