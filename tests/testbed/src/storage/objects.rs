//! The Kubernetes objects the provisioner reads and makes: pure functions, no client.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use super::volume::{Content, SnapshotInfo};

/// `provisioner` of the classes.
pub const PROVISIONER: &str = "testbed.dataembassy.io/fscrypt";
/// `driver` of the snapshot class.
pub const DRIVER: &str = "testbed.dataembassy.io";
/// Name of the snapshot class.
pub const SNAPSHOT_CLASS: &str = "testbed";
/// Finalizer on everything that has a file behind it.
pub const FINALIZER: &str = "testbed.dataembassy.io/image";
/// API group of snapshots.
pub const SNAPSHOT_GROUP: &str = "snapshot.storage.k8s.io";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const ENCRYPTED: &str = "dataembassy.io/encrypted";
const NODE: &str = "testbed.dataembassy.io/node";
const PREFIX: &str = "testbed.dataembassy.io/prefix";
const DEFAULT_SNAPSHOT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// A resource of the snapshot group, by its kind.
pub fn snapshot_resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(SNAPSHOT_GROUP, "v1", kind), plural)
}

/// The two storage classes.
pub fn storage_classes() -> Vec<Value> {
    let class = |name: &str, encrypted: bool| {
        // The annotation is the admin's word that the class encrypts: the plain one goes without.
        let annotations = if encrypted { json!({ENCRYPTED: "true"}) } else { json!({}) };
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": name, "annotations": annotations},
            "provisioner": PROVISIONER,
            "parameters": {"encrypted": encrypted.to_string()},
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
            "allowVolumeExpansion": false,
        })
    };
    vec![class("encrypted", true), class("plain", false)]
}

/// The snapshot class: the default one, as there is no other.
pub fn snapshot_class() -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass",
        "metadata": {"name": SNAPSHOT_CLASS, "annotations": {DEFAULT_SNAPSHOT_CLASS: "true"}},
        "driver": DRIVER,
        "deletionPolicy": "Delete",
    })
}

/// Whether snapshots without a class go to this one.
pub fn is_default(class: &DynamicObject) -> bool {
    class.annotations().get(DEFAULT_SNAPSHOT_CLASS).is_some_and(|v| v == "true")
}

/// Bytes of a Kubernetes quantity, rounded up.
pub fn bytes(quantity: &Quantity) -> Result<u64> {
    let text = quantity.0.trim();
    let exponent = |c: char| c == 'e' || c == 'E';
    let scientific = text.split_once(exponent).is_some_and(|(_, power)| power.parse::<i32>().is_ok());
    let split = if scientific { None } else { text.find(|c: char| c.is_ascii_alphabetic()) };
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let factor = match unit {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => bail!("{text:?}: unit {unit:?} is unknown"),
    };
    let number: f64 = number.parse().with_context(|| format!("{text:?} is no quantity"))?;
    let value = (number * factor).ceil();
    // 8 EiB, far from where a double's gaps or a cast's edge would matter.
    ensure!((0.0..9e18).contains(&value), "{text:?} is no size");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above")]
    Ok(value as u64)
}

/// Name of the volume of a claim.
pub fn volume_name(claim_uid: &str) -> String {
    format!("pvc-{claim_uid}")
}

/// Whether the claim waits for us, on this node, under this class.
pub fn is_ours(claim: &PersistentVolumeClaim, class: &StorageClass, node: &str) -> bool {
    let selected = claim.annotations().get(SELECTED_NODE);
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    let here = selected.map_or(!waits, |selected| selected == node);
    class.provisioner == PROVISIONER && here && is_unbound(claim)
}

/// Whether the claim has neither a volume nor a deletion ahead.
pub fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    claim.metadata.deletion_timestamp.is_none() && volume.is_empty()
}

/// Where the claim's first content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nowhere.
    Empty,
    /// A VolumeSnapshot of this name in the claim's namespace.
    Snapshot(String),
    /// A claim of this name in the claim's namespace.
    Claim(String),
    /// A populator of somebody else: not ours to provision.
    Foreign,
}

/// What a claim asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Bytes.
    pub size: u64,
    /// Whether its class encrypts.
    pub encrypted: bool,
    /// First content.
    pub source: Source,
}

/// Reads a claim; an error says what this provisioner cannot do.
pub fn wish(claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<Wish> {
    let spec = claim.spec.as_ref().context("the claim has no spec")?;
    ensure!(spec.volume_mode.as_deref() != Some("Block"), "block volumes are not supported");
    ensure!(spec.selector.is_none(), "claims with a selector cannot be provisioned");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    ensure!(!modes.iter().any(|m| m == "ReadWriteMany"), "ReadWriteMany is not supported");
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let storage = requests.and_then(|r| r.get("storage")).context("the claim requests no storage")?;
    let encrypted = match class.parameters.as_ref().and_then(|p| p.get("encrypted")).map(String::as_str) {
        Some("true") => true,
        Some("false") => false,
        other => bail!("parameter encrypted of class {} is {other:?}: say true or false", class.name_any()),
    };
    Ok(Wish { size: bytes(storage)?, encrypted, source: source(claim) })
}

fn source(claim: &PersistentVolumeClaim) -> Source {
    let Some(spec) = claim.spec.as_ref() else {
        return Source::Empty;
    };
    let Some(reference) = spec.data_source_ref.as_ref() else {
        return Source::Empty;
    };
    let group = reference.api_group.as_deref().unwrap_or_default();
    let elsewhere = reference.namespace.as_deref().is_some_and(|n| Some(n) != claim.namespace().as_deref());
    match (group, reference.kind.as_str()) {
        _ if elsewhere => Source::Foreign,
        (SNAPSHOT_GROUP, "VolumeSnapshot") => Source::Snapshot(reference.name.clone()),
        ("", "PersistentVolumeClaim") => Source::Claim(reference.name.clone()),
        _ => Source::Foreign,
    }
}

/// Everything about the new PersistentVolume that is not in its claim.
#[derive(Debug, Clone, Copy)]
pub struct NewVolume<'a> {
    /// Real size.
    pub size: u64,
    /// Directory that pods get.
    pub data: &'a Path,
    /// Node that has it.
    pub node: &'a str,
    /// Prefix of the cluster.
    pub prefix: &'a str,
    /// Its class.
    pub class: &'a StorageClass,
}

/// The PersistentVolume for a claim.
pub fn persistent_volume(claim: &PersistentVolumeClaim, new: &NewVolume<'_>) -> Result<PersistentVolume> {
    let uid = claim.uid().context("the claim has no uid")?;
    let modes = claim.spec.as_ref().and_then(|s| s.access_modes.clone()).unwrap_or_default();
    let pv = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(&uid),
            "annotations": {PROVISIONED_BY: PROVISIONER, NODE: new.node},
            "labels": {PREFIX: new.prefix},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": {"storage": new.size.to_string()},
            "accessModes": modes,
            "persistentVolumeReclaimPolicy": new.class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": new.class.name_any(),
            "mountOptions": new.class.mount_options,
            "volumeMode": "Filesystem",
            "local": {"path": new.data},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "uid": uid,
                "namespace": claim.namespace(), "name": claim.name_any(),
                "resourceVersion": claim.resource_version(),
            },
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [new.node]},
            ]}]}},
        },
    });
    serde_json::from_value(pv).context("building a PersistentVolume")
}

/// What is to be done about one of our PersistentVolumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeStep {
    /// Nothing.
    Keep,
    /// Delete the object; its finalizer brings it back here.
    DeleteObject,
    /// Delete the image, then let the object go.
    DeleteImage,
    /// Let the object go, the image stays (policy Retain).
    LetGo,
}

/// Decides about a PersistentVolume on `node`.
pub fn volume_step(pv: &PersistentVolume, node: &str) -> VolumeStep {
    let is = |key: &str, value: &str| pv.annotations().get(key).is_some_and(|v| v == value);
    if !is(PROVISIONED_BY, PROVISIONER) || !is(NODE, node) {
        return VolumeStep::Keep;
    }
    let phase = pv.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    let policy = pv.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    let delete = policy == Some("Delete");
    match (pv.metadata.deletion_timestamp.is_some(), phase) {
        (true, "Bound") => VolumeStep::Keep,
        (true, _) if !pv.finalizers().iter().any(|f| f == FINALIZER) => VolumeStep::Keep,
        (true, _) => {
            if delete {
                VolumeStep::DeleteImage
            } else {
                VolumeStep::LetGo
            }
        }
        (false, "Released") if delete => VolumeStep::DeleteObject,
        (false, _) => VolumeStep::Keep,
    }
}

/// Name of our volume behind a bound claim's PersistentVolume.
pub fn our_volume(pv: &PersistentVolume) -> Result<String> {
    let by = pv.annotations().get(PROVISIONED_BY).map(String::as_str);
    ensure!(by == Some(PROVISIONER), "volume {} was provisioned by {by:?}, not by us", pv.name_any());
    Ok(pv.name_any())
}

/// What the first content of a volume is, once its source was found.
pub fn content(source: &Source, found: Option<String>) -> Result<Content> {
    match (source, found) {
        (Source::Empty, _) => Ok(Content::Empty),
        (Source::Snapshot(_), Some(id)) => Ok(Content::Snapshot(id)),
        (Source::Claim(_), Some(volume)) => Ok(Content::Volume(volume)),
        (other, _) => bail!("there is nothing behind {other:?}"),
    }
}

/// Handle and file name of the snapshot that a VolumeSnapshot of this uid asks for.
pub fn snapshot_id(uid: &str) -> String {
    format!("snap-{uid}")
}

/// Name of the content object for a VolumeSnapshot of this uid.
pub fn content_name(uid: &str) -> String {
    format!("snapcontent-{uid}")
}

/// The VolumeSnapshotContent for a VolumeSnapshot.
pub fn snapshot_content(
    snapshot: &DynamicObject,
    class: &DynamicObject,
    info: &SnapshotInfo,
) -> Result<Value> {
    let uid = snapshot.uid().context("the snapshot has no uid")?;
    Ok(json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
        "metadata": {"name": content_name(&uid), "finalizers": [FINALIZER]},
        "spec": {
            "deletionPolicy": text(&class.data, "/deletionPolicy").unwrap_or("Delete"),
            "driver": DRIVER,
            "source": {"volumeHandle": info.volume},
            "sourceVolumeMode": "Filesystem",
            "volumeSnapshotClassName": class.name_any(),
            "volumeSnapshotRef": {
                "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "uid": uid,
                "namespace": snapshot.namespace(), "name": snapshot.name_any(),
            },
        },
    }))
}

/// Status of a content object.
pub fn content_status(id: &str, info: &SnapshotInfo) -> Value {
    let created = i64::try_from(info.created.as_nanosecond()).unwrap_or_default();
    json!({"status": {
        "snapshotHandle": id, "creationTime": created, "readyToUse": true, "restoreSize": info.size, "error": null,
    }})
}

/// Status of a VolumeSnapshot that is there. Whole seconds, rounded down: never later than the cut.
pub fn ready_status(content: &str, info: &SnapshotInfo) -> Value {
    let seconds = jiff::Timestamp::from_second(info.created.as_second()).unwrap_or(info.created);
    json!({"status": {
        "boundVolumeSnapshotContentName": content, "creationTime": seconds.to_string(),
        "readyToUse": true, "restoreSize": info.size.to_string(), "error": null,
    }})
}

/// Status of a VolumeSnapshot that failed.
pub fn failed_status(message: &str, now: jiff::Timestamp) -> Value {
    let seconds = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    json!({"status": {"readyToUse": false, "error": {"message": message, "time": seconds.to_string()}}})
}

/// A non-empty string somewhere in an object.
pub fn text<'a>(data: &'a Value, pointer: &str) -> Option<&'a str> {
    data.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty())
}

/// Whether a VolumeSnapshot or its content says it can be used.
pub fn is_ready(object: &DynamicObject) -> bool {
    object.data.pointer("/status/readyToUse").and_then(Value::as_bool) == Some(true)
}

/// A patch of the finalizers that fails when the object has changed meanwhile.
pub fn finalizers_patch(meta: &kube::core::ObjectMeta, present: bool) -> Value {
    let mut finalizers: Vec<String> = meta.finalizers.clone().unwrap_or_default();
    finalizers.retain(|f| f != FINALIZER);
    if present {
        finalizers.push(FINALIZER.to_owned());
    }
    json!({"metadata": {"resourceVersion": meta.resource_version, "finalizers": finalizers}})
}
