#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::json;
use std::io::Read as _;

#[test]
fn what_the_server_put_in_is_taken_out() {
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "web", "namespace": "registers", "uid": "u", "resourceVersion": "1", "generation": 2,
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [], "ownerReferences": [], "labels": {"a": "b"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "keep": "me"}
        },
        "spec": {
            "type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "nodePort": 30000}]
        },
        "status": {}
    });
    assert_eq!(
        strip(object),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "labels": {"a": "b"}, "annotations": {"keep": "me"}},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]}
        })
    );
}

#[test]
fn a_headless_service_stays_headless() {
    let stripped = strip(
        json!({"kind": "Service", "metadata": {}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
    );
    assert_eq!(stripped.pointer("/spec"), Some(&json!({"clusterIP": "None"})));
}

#[test]
fn a_claim_loses_its_volume() {
    let claim = json!({
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "finalizers": ["kubernetes.io/pvc-protection"], "annotations": {
            "pv.kubernetes.io/bind-completed": "yes", "volume.kubernetes.io/selected-node": "n"}},
        "spec": {"volumeName": "pv-1", "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Bound"}
    });
    assert_eq!(
        strip(claim),
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}})
    );
}

#[test]
fn a_fenced_workload_is_sent_with_the_replicas_before_the_fence() {
    let fenced = json!({
        "kind": "StatefulSet",
        "metadata": {"name": "db", "annotations": {ANNOTATION_FENCED_REPLICAS: "3"}},
        "spec": {"replicas": 0, "volumeClaimTemplates": [{"metadata": {"name": "data", "creationTimestamp": null}, "status": {}}]}
    });
    assert_eq!(
        strip(fenced),
        json!({"kind": "StatefulSet", "metadata": {"name": "db"},
               "spec": {"replicas": 3, "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}})
    );
}

#[test]
fn references_are_found_wherever_a_template_may_have_them() {
    let workload = json!({"spec": {"template": {"spec": {
        "serviceAccountName": "runner",
        "imagePullSecrets": [{"name": "pull"}],
        "initContainers": [{"envFrom": [{"secretRef": {"name": "init-env"}}]}],
        "containers": [{
            "envFrom": [{"configMapRef": {"name": "env"}}],
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "a"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "b"}}}
            ]
        }],
        "volumes": [
            {"name": "a", "configMap": {"name": "files"}},
            {"name": "b", "secret": {"secretName": "certs"}},
            {"name": "c", "projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "more"}}]}},
            {"name": "d", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "csi"}}}
        ]
    }}}});
    let found = references(&workload);
    assert_eq!(found.config_maps, ["env", "files", "map", "more"]);
    assert_eq!(found.secrets, ["certs", "csi", "init-env", "key", "projected", "pull"]);
    assert_eq!(found.service_accounts, ["runner"]);
}

#[test]
fn packing_is_deterministic_and_bounded() {
    let objects = [json!({"kind": "ConfigMap"})];
    let packed = pack(&objects).unwrap();
    assert_eq!(packed, pack(&objects).unwrap());
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
    assert_eq!(text, r#"[{"kind":"ConfigMap"}]"#);
    let mut noise = vec![0_u8; 2_000_000];
    rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut noise);
    assert!(matches!(pack(&[json!(hex::encode(noise))]), Err(ManifestsError::TooLarge(_))));
}

#[test]
fn secrets_of_this_cluster_stay_here() {
    assert!(!sendable_secret(Some("kubernetes.io/service-account-token")));
    assert!(
        sendable_secret(Some("Opaque"))
            && sendable_secret(Some("kubernetes.io/tls"))
            && sendable_secret(None)
    );
}
