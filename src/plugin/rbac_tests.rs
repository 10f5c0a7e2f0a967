//! Golden tests: the exact rights that cross the border.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::api::pair::{LeaseSettings, VaultSettings};
use serde_json::{Value, json};

fn objects() -> EmbassyObjects {
    let record = PairRecord {
        version: 1,
        id: "0123456789abcdef".into(),
        home_namespace: "registers".into(),
        embassy_namespace: "estonia".into(),
        signing_public_key: "00".repeat(32),
        lease: LeaseSettings::default(),
        vault: VaultSettings::default(),
        retention_floor: Span::secs(86_400),
    };
    let operator = Account { namespace: "data-embassy-system".into(), name: "operator".into() };
    embassy_objects(&record, "{}", &Grant { cluster_role: "de-embassy".into(), operator })
}

fn value(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

#[test]
fn home_may_do_exactly_this_in_the_embassy() {
    let o = objects();
    assert_eq!(
        value(&o.home_role)["rules"],
        json!([
            { "apiGroups": ["dataembassy.io"], "resources": ["dataembassies", "replicapolicies"],
              "verbs": ["create", "get", "watch", "update"] },
            { "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["vault-client-home"], "verbs": ["get"] },
            { "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["embassy-keys"], "verbs": ["update"] },
        ])
    );
    assert_eq!(
        value(&o.ledger_role)["rules"],
        json!([{ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                 "resourceNames": ["ledger-0123456789abcdef"], "verbs": ["get", "watch", "update"] }])
    );
}

#[test]
fn home_can_neither_look_around_nor_destroy_nor_order() {
    let o = objects();
    for rule in [o.home_role.rules.unwrap(), o.ledger_role.rules.unwrap()].concat() {
        for verb in ["list", "patch", "delete", "deletecollection", "impersonate", "bind", "escalate", "*"] {
            assert!(!rule.verbs.iter().any(|v| v == verb), "{verb}");
        }
        for resource in rule.resources.unwrap() {
            assert!(!resource.contains('/') && resource != "*" && resource != "embassyrequests");
            // A Lease or a Secret is touched by name only, and never made by home.
            if resource == "leases" || resource == "secrets" {
                assert!(rule.resource_names.is_some());
                assert!(!rule.verbs.iter().any(|v| v == "create"));
            }
        }
    }
}

#[test]
fn each_role_is_bound_to_its_own_identity() {
    let bound: Vec<_> = objects()
        .bindings
        .iter()
        .map(|b| {
            let subject = &b.subjects.as_ref().unwrap()[0];
            let of = format!("{}/{}", subject.namespace.as_deref().unwrap(), subject.name);
            (format!("{} {}", b.role_ref.kind, b.role_ref.name), of)
        })
        .collect();
    let wanted = [
        ("Role embassy-home", "estonia/embassy-home"),
        ("Role embassy-home-ledger", "estonia/embassy-home"),
        ("Role embassy-restorer", "estonia/embassy-restorer"),
        ("Role embassy-vault", "estonia/embassy-vault"),
        ("ClusterRole de-embassy", "data-embassy-system/operator"),
    ]
    .map(|(role, of)| (role.to_owned(), of.to_owned()));
    assert_eq!(bound, wanted);
}

#[test]
fn the_vault_may_read_the_ledger_and_nothing_else() {
    assert_eq!(
        value(&objects().vault_role)["rules"],
        json!([{ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                 "resourceNames": ["ledger-0123456789abcdef"], "verbs": ["get"] }])
    );
}

#[test]
fn the_restorer_has_seven_verbs_on_six_kinds() {
    let verbs = json!(["create", "get", "list", "watch", "update", "patch", "delete"]);
    assert_eq!(
        value(&objects().restorer_role)["rules"],
        json!([
            { "apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": verbs },
            { "apiGroups": [""], "resources": ["services", "configmaps", "secrets", "serviceaccounts"], "verbs": verbs },
        ])
    );
}

#[test]
fn the_ledger_starts_without_a_writ_and_the_secrets_empty() {
    let o = objects();
    assert_eq!(o.ledger.metadata.name.as_deref(), Some("ledger-0123456789abcdef"));
    assert_eq!(o.ledger.metadata.annotations, None);
    assert_eq!(o.ledger.spec.unwrap().lease_duration_seconds, Some(30));
    for secret in &o.secrets {
        assert!(secret.data.is_none());
    }
    assert_eq!(whole_seconds("1500ms".parse().unwrap()), 2);
    assert_eq!(whole_seconds("0s".parse().unwrap()), 1);
}
