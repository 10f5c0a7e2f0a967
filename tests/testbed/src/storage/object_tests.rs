//! What the provisioner decides and writes, without a cluster.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::objects::*;
use super::volume::SnapshotInfo;

fn class() -> StorageClass {
    serde_json::from_value(storage_classes().remove(0)).unwrap()
}

fn claim(spec: Value) -> PersistentVolumeClaim {
    let mut whole = json!({"storageClassName": "encrypted", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "32Mi"}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let meta = json!({"name": "data", "namespace": "register", "uid": "u-1",
        "annotations": {"volume.kubernetes.io/selected-node": "node-1"}});
    serde_json::from_value(json!({"metadata": meta, "spec": whole})).unwrap()
}

#[test]
fn quantities() {
    let of = |text: &str| bytes(&Quantity(text.into()));
    assert_eq!(of("32Mi").unwrap(), 32 << 20);
    assert_eq!(of("1.5Gi").unwrap(), 3 << 29);
    assert_eq!(of("5G").unwrap(), 5_000_000_000);
    assert_eq!(of("1e3").unwrap(), 1000);
    assert_eq!(of("1500m").unwrap(), 2);
    assert_eq!(of("7").unwrap(), 7);
    for bad in ["", "-1", "5 apples", "1e30", "NaN", "inf"] {
        assert!(of(bad).is_err(), "{bad}");
    }
}

#[test]
fn only_the_encrypted_class_says_that_it_encrypts() {
    for value in storage_classes() {
        let class: StorageClass = serde_json::from_value(value).unwrap();
        let says = class.metadata.annotations.unwrap_or_default().contains_key("dataembassy.io/encrypted");
        assert_eq!(says, class.parameters.unwrap()["encrypted"] == "true");
        assert_eq!(class.volume_binding_mode.as_deref(), Some("WaitForFirstConsumer"));
    }
}

#[test]
fn a_claim_waits_for_its_node() {
    let ours = claim(json!({}));
    assert!(is_ours(&ours, &class(), "node-1"));
    assert!(!is_ours(&ours, &class(), "node-2"));
    let mut early = ours.clone();
    early.metadata.annotations = None;
    assert!(!is_ours(&early, &class(), "node-1"));
    let immediate = StorageClass { volume_binding_mode: None, ..class() };
    assert!(is_ours(&early, &immediate, "node-1"));
    let other = StorageClass { provisioner: "other".into(), ..class() };
    assert!(!is_ours(&ours, &other, "node-1"));
    assert!(!is_ours(&claim(json!({"volumeName": "pv"})), &class(), "node-1"));
}

#[test]
fn wishes_are_read_and_refused() {
    let plain = wish(&claim(json!({})), &class()).unwrap();
    assert_eq!(plain, Wish { size: 32 << 20, encrypted: true, source: Source::Empty });
    let of = |kind: &str, group: &str| {
        let spec = json!({"dataSourceRef": {"apiGroup": group, "kind": kind, "name": "x"}});
        wish(&claim(spec), &class()).unwrap().source
    };
    assert_eq!(of("VolumeSnapshot", SNAPSHOT_GROUP), Source::Snapshot("x".into()));
    assert_eq!(of("PersistentVolumeClaim", ""), Source::Claim("x".into()));
    assert_eq!(of("Populator", "example.com"), Source::Foreign);
    assert!(wish(&claim(json!({"volumeMode": "Block"})), &class()).is_err());
    assert!(wish(&claim(json!({"accessModes": ["ReadWriteMany"]})), &class()).is_err());
    assert!(wish(&claim(json!({"resources": {}})), &class()).is_err());
    assert!(wish(&claim(json!({})), &StorageClass { parameters: None, ..class() }).is_err());
}

#[test]
fn volumes_are_pinned_to_node_and_claim() {
    let class = class();
    let new = NewVolume {
        size: 32 << 20,
        data: Path::new("/d"),
        node: "node-1",
        prefix: "de0-home",
        class: &class,
    };
    let pv = serde_json::to_value(persistent_volume(&claim(json!({})), &new).unwrap()).unwrap();
    let at = |pointer: &str| pv.pointer(pointer).cloned().unwrap();
    assert_eq!(at("/metadata/name"), "pvc-u-1");
    assert_eq!(at("/spec/claimRef/uid"), "u-1");
    assert_eq!(at("/spec/local/path"), "/d");
    let term = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values/0";
    assert_eq!(at(term), "node-1");
}

#[test]
fn steps_of_a_volume() {
    let pv = |phase: &str, policy: &str, deleting: bool, node: &str| -> PersistentVolume {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({
            "metadata": {"name": "pvc-1", "finalizers": [FINALIZER], "deletionTimestamp": deleted, "annotations": {
                "pv.kubernetes.io/provisioned-by": PROVISIONER, "testbed.dataembassy.io/node": node}},
            "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase},
        }))
        .unwrap()
    };
    let step = |phase, policy, deleting| volume_step(&pv(phase, policy, deleting, "node-1"), "node-1");
    assert_eq!(step("Bound", "Delete", false), VolumeStep::Keep);
    assert_eq!(step("Available", "Delete", false), VolumeStep::Keep);
    assert_eq!(step("Released", "Delete", false), VolumeStep::DeleteObject);
    assert_eq!(step("Released", "Retain", false), VolumeStep::Keep);
    assert_eq!(step("Bound", "Delete", true), VolumeStep::Keep);
    assert_eq!(step("Released", "Delete", true), VolumeStep::DeleteImage);
    assert_eq!(step("Released", "Retain", true), VolumeStep::LetGo);
    assert_eq!(volume_step(&pv("Released", "Delete", false, "node-2"), "node-1"), VolumeStep::Keep);
}

#[test]
fn a_snapshots_time_is_never_later_than_its_cut() {
    let created: jiff::Timestamp = "2026-01-02T03:04:05.999Z".parse().unwrap();
    let info = SnapshotInfo { created, size: 5, volume: "pvc-1".into(), frozen: Duration::ZERO };
    let status = ready_status("content", &info);
    assert_eq!(text(&status, "/status/creationTime"), Some("2026-01-02T03:04:05Z"));
    assert_eq!(
        content_status("id", &info).pointer("/status/creationTime").unwrap(),
        1_767_323_045_999_000_000_i64
    );
}
