#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use super::*;

fn how() -> Transform {
    let image = |from: &str, to: &str| ImageMapping { from: from.into(), to: to.into() };
    Transform {
        namespace: "estonia-registers".into(),
        images: vec![image("registry.ee/", "mirror.lu/ee/"), image("registry.ee", "never")],
        storage_class_name: "encrypted".into(),
        data_embassy: "population".into(),
        sequence: 7,
    }
}

fn one(manifest: Value) -> (Value, Vec<Finding>) {
    let (mut objects, findings) = transform(&[manifest], &how());
    assert_eq!(objects.len(), 1, "{findings:?}");
    (objects.remove(0).object, findings)
}

fn refused(manifest: Value) -> Finding {
    let (objects, mut findings) = transform(std::slice::from_ref(&manifest), &how());
    assert!(objects.is_empty(), "{manifest}");
    assert_eq!(findings.len(), 1);
    assert!(findings[0].omitted);
    findings.remove(0)
}

fn deployment(name: &str, pod: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "portal"}},
            "template": {"metadata": {"labels": {"app": "portal"}}, "spec": pod},
        },
    })
}

fn pod() -> Value {
    json!({"containers": [{"name": "c", "image": "registry.ee/portal:1"}]})
}

/// The whole object, field by field: a change of it is a change of what every standby looks like.
#[test]
fn golden_stateful_set() {
    let manifest = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {
            "name": "db", "namespace": "registers", "uid": "u", "resourceVersion": "5", "generation": 3,
            "ownerReferences": [{"name": "x"}], "finalizers": ["f"],
            "labels": {"register": "population", "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {
                "note": "kept", "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "dataembassy.io/fenced-replicas": "9",
            },
        },
        "spec": {
            "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {
                    "nodeName": "node-1",
                    "initContainers": [{"name": "i", "image": "registry.ee/init"}],
                    "containers": [{"name": "c", "image": "docker.io/postgres:15"}],
                },
            },
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"},
            "volumeClaimTemplates": [{
                "metadata": {"name": "data", "creationTimestamp": null, "labels": {"register": "population"}},
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeName": "pv-1",
                    "resources": {"requests": {"storage": "1Gi"}},
                },
                "status": {"phase": "Pending"},
            }],
        },
        "status": {"replicas": 2},
    });
    let (object, findings) = one(manifest);
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].reason, findings[0].omitted), ("NodeName", false));
    let hash = object["metadata"]["annotations"][ANNOTATION_HASH].clone();
    assert_eq!(hash.as_str().unwrap().len(), 64);
    let expected = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {
            "name": "db", "namespace": "estonia-registers",
            "labels": {
                "register": "population", "app.kubernetes.io/managed-by": "data-embassy",
                "app.kubernetes.io/component": "standby", "dataembassy.io/data-embassy": "population",
            },
            "annotations": {
                "note": "kept", "dataembassy.io/home-replicas": "2", "dataembassy.io/sequence": "7",
                "dataembassy.io/manifest-hash": hash,
            },
        },
        "spec": {
            "replicas": 0, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {
                    "initContainers": [{"name": "i", "image": "mirror.lu/ee/init"}],
                    "containers": [{"name": "c", "image": "docker.io/postgres:15"}],
                },
            },
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain", "whenDeleted": "Retain"},
            "volumeClaimTemplates": [{
                "metadata": {"name": "data", "labels": {"register": "population"}},
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "storageClassName": "encrypted",
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            }],
        },
    });
    assert_eq!(object, expected);
}

#[test]
fn golden_service() {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "portal"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "externalIPs": ["192.0.2.7"], "healthCheckNodePort": 30001, "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "RequireDualStack", "selector": {"app": "portal"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30000}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    });
    let (object, findings) = one(manifest);
    assert_eq!(findings[0].reason, "ExternalIPs");
    let expected = json!({
        "type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "portal"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    });
    assert_eq!(object["spec"], expected);
    assert!(object.get("status").is_none());
    let headless = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
        "spec": {"clusterIP": "None", "clusterIPs": ["None"], "selector": {"app": "db"}},
    });
    assert_eq!(one(headless).0["spec"], json!({"clusterIP": "None", "selector": {"app": "db"}}));
}

#[test]
fn tokens_do_not_cross() {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "portal"},
        "secrets": [{"name": "portal-token-x"}], "imagePullSecrets": [{"name": "pull"}],
    });
    let (object, _) = one(account);
    assert!(object.get("secrets").is_none());
    assert_eq!(object["imagePullSecrets"], json!([{"name": "pull"}]));
    let token = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "embassy-restorer"}},
    });
    assert_eq!(refused(token).reason, "TokenSecret");
}

#[test]
fn nothing_of_the_operator_can_be_overwritten_or_used() {
    for name in ["vault-ca", "embassy-keys", "embassy-vault", "population-manifests", "embassy-pair"] {
        let manifest = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        assert_eq!(refused(manifest).reason, "Reserved");
    }
    assert_eq!(refused(deployment("embassy-vault", pod())).reason, "Reserved");
    let labelled = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "x", "labels": {"app.kubernetes.io/managed-by": "data-embassy"}},
    });
    assert_eq!(refused(labelled).reason, "Reserved");
    let mut thief = pod();
    thief["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "embassy-vault"}}]);
    assert_eq!(refused(deployment("portal", thief)).reason, "ReservedReference");
    let mut mimic = deployment("portal", pod());
    mimic["spec"]["template"]["metadata"]["labels"]["dataembassy.io/data-embassy"] = json!("population");
    assert_eq!(refused(mimic).reason, "Reserved");
}

#[test]
fn other_kinds_bad_names_and_nonsense_are_left_out() {
    let of = |api: &str, kind: &str, name: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}});
    for (manifest, reason) in [
        (of("rbac.authorization.k8s.io/v1", "ClusterRole", "x"), "KindNotRestored"),
        (of("apps/v1beta1", "Deployment", "x"), "KindNotRestored"),
        (of("v1", "ConfigMap", "../x"), "InvalidName"),
        (of("v1", "ConfigMap", ""), "InvalidName"),
        (of("v1", "Service", "1x"), "InvalidName"),
        (of("v1", "Service", "a.b"), "InvalidName"),
        (of("v1", "Service", "x"), "Malformed"),
        (of("apps/v1", "Deployment", "x"), "Malformed"),
        (json!(5), "KindNotRestored"),
        (json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": 5}), "Malformed"),
    ] {
        assert_eq!(refused(manifest.clone()).reason, reason, "{manifest}");
    }
    let silent = [of("v1", "PersistentVolumeClaim", "x"), of("v1", "ConfigMap", "kube-root-ca.crt")];
    assert_eq!(transform(&silent, &how()), (vec![], vec![]));
    let (objects, findings) = transform(&[of("v1", "ConfigMap", "x"), of("v1", "ConfigMap", "x")], &how());
    assert_eq!((objects.len(), findings[0].reason), (1, "Duplicate"));
}

#[test]
fn order_and_selectors() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"app": "portal"}},
    });
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let (objects, _) = transform(&[deployment("d", pod()), service, config], &how());
    let kinds: Vec<_> = objects.iter().map(|o| o.kind).collect();
    assert_eq!(kinds, [Kind::ConfigMap, Kind::Service, Kind::Deployment]);
    let spec = &objects[2].object["spec"];
    assert_eq!(spec["selector"]["matchLabels"], json!({"app": "portal"}));
    assert_eq!(spec["template"]["metadata"]["labels"], json!({"app": "portal"}));
}

#[test]
fn replicas_are_those_that_the_user_wanted() {
    let cases = [
        (json!(3), None, 3),
        (json!(null), None, 1),
        (json!(0), None, 0),
        (json!(0), Some("3"), 3),
        (json!(2), Some("3"), 2),
        (json!(-1), None, 0),
        (json!(0), Some("many"), 0),
    ];
    for (replicas, fenced, wanted) in cases {
        let mut manifest = deployment("d", pod());
        manifest["spec"]["replicas"] = replicas.clone();
        manifest["spec"]["paused"] = json!(true);
        if let Some(fenced) = fenced {
            manifest["metadata"]["annotations"] = json!({ANNOTATION_FENCED_REPLICAS: fenced});
        }
        let (object, _) = one(manifest);
        assert_eq!(object["metadata"]["annotations"][ANNOTATION_HOME_REPLICAS], wanted.to_string());
        assert_eq!(object["spec"]["replicas"], 0);
        assert!(object["spec"].get("paused").is_none());
    }
}

#[test]
fn the_hash_follows_the_content_and_not_the_dispatch() {
    let hash =
        |manifest: Value, sequence| transform(&[manifest], &Transform { sequence, ..how() }).0.remove(0).hash;
    let same = hash(deployment("d", pod()), 7);
    assert_eq!(same, hash(deployment("d", pod()), 8));
    let mut other = deployment("d", pod());
    other["spec"]["replicas"] = json!(4);
    assert_ne!(same, hash(other, 7), "home's replicas are content: the annotation has to follow");
}
