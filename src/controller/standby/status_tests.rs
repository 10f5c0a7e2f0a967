//! The summary, and what becomes an Event.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::api::embassy::DispatchStatus;
use crate::controller::standby::validate::Verdict;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

fn now() -> jiff::Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn object() -> DataEmbassy {
    serde_json::from_value(json!({
        "apiVersion": "dataembassy.io/v1alpha1", "kind": "DataEmbassy",
        "metadata": {"name": "register", "namespace": "estonia", "generation": 3},
        "spec": {"policyRef": {"name": "p"}, "volumes": {"names": ["pgdata"]},
            "services": {"selector": {"matchLabels": {"app": "x"}}},
            "embassy": {"kubeconfigSecretRef": {"name": "k"}, "namespace": "estonia",
                "storageClassName": "encrypted"}},
    }))
    .unwrap()
}

fn pair() -> PairRecord {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    serde_json::from_value(json!({
        "version": 1, "id": "p1", "homeNamespace": "registers", "embassyNamespace": "estonia",
        "signingPublicKey": hex::encode(key.verifying_key().as_bytes()),
    }))
    .unwrap()
}

/// A copy that is protected in all but what `promotion` says.
fn filled(promotion: &[Wanted], status: DataEmbassyStatus) -> DataEmbassyStatus {
    let observed = Observed {
        policy: Some(crate::api::ReplicaPolicySpec::default()),
        vault: super::super::observe::VaultObjects {
            deployment: serde_json::from_value(json!({"metadata": {}, "status": {"readyReplicas": 1}}))
                .unwrap(),
            ..Default::default()
        },
        ..Observed::default()
    };
    let verdict = Verdict {
        conditions: vec![Wanted::yes(types::KEYS_AVAILABLE, "KeyPresent", "here")],
        storage: true,
        volumes: Some(crate::api::mirror::HomeVolumes::default()),
        ..Verdict::default()
    };
    let vault =
        VaultView { status: Some(crate::vault_client::RepositoryStatus::default()), ..VaultView::default() };
    let (object, pair) = (object(), pair());
    let facts = Facts {
        object: &object,
        pair: &pair,
        observed: &observed,
        verdict: &verdict,
        vault: &vault,
        serving: &Serving::No,
        next: &Next::Idle,
        promotion,
        error: None,
    };
    let dispatch = DispatchStatus { sequence: 5, cut_time: Some(Time(now())), ..DispatchStatus::default() };
    let mut status = DataEmbassyStatus { last_dispatch: Some(dispatch), ..status };
    fill(&mut status, &facts, now());
    status
}

#[test]
fn a_standby_that_cannot_be_made_is_not_ready() {
    let in_peace = Wanted::no(types::PROMOTION_ALLOWED, "LeaseNotExpired", "home renews");
    let made = Wanted::yes(types::STANDBY_READY, "Made", "stands by");
    let good = filled(&[in_peace.clone(), made], DataEmbassyStatus::default());
    assert!(conditions::is_true(&good.conditions, types::READY), "{:?}", good.conditions);
    assert_eq!(good.phase, Some(Phase::Protected));
    let broken = Wanted::no(types::STANDBY_READY, "Forbidden", "give Role embassy-restorer the verb");
    let bad = filled(&[in_peace.clone(), broken], DataEmbassyStatus::default());
    let ready = conditions::get(&bad.conditions, types::READY).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Forbidden"));
    assert_eq!(bad.phase, Some(Phase::Degraded));
    // A turn that could not look keeps what was seen.
    let blind = filled(&[in_peace], bad);
    assert_eq!(conditions::get(&blind.conditions, types::READY).unwrap().reason, "Forbidden");
}

#[test]
fn stalled_is_told_once_and_its_end_too() {
    let condition = |type_: &str, status: &str, reason: &str| Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(now()),
    };
    let calm = [condition("Stalled", "False", "NotStalled")];
    let stalled = [condition("Stalled", "True", "PolicyNotFound")];
    let other = [condition("Stalled", "True", "InvalidQuota")];
    assert_eq!(changes(&[], &calm).len(), 0);
    assert_eq!(changes(&[], &stalled)[0].reason, "PolicyNotFound");
    assert_eq!(changes(&calm, &stalled).len(), 1);
    assert_eq!(changes(&stalled, &stalled).len(), 0);
    assert_eq!(changes(&stalled, &other)[0].reason, "InvalidQuota");
    assert_eq!(changes(&stalled, &calm).len(), 1);
    assert!(is_bad(&stalled[0]) && !is_bad(&calm[0]));
}

/// The vault refuses the pack that would not fit, so a full repository stays below its quota.
#[test]
fn a_quota_with_no_room_for_one_more_pack_is_reached() {
    const GI: u64 = 1 << 30;
    for (used, quota, full) in [
        (0, GI, false),
        (GI - PACK, GI, false),
        (GI - PACK + 1, GI, true),
        (GI, GI, true),
        (0, 4096, false),
        (4096, 4096, true),
        (u64::MAX, u64::MAX, true),
        (0, 0, true),
        (1, 0, true),
    ] {
        assert_eq!(no_room(used, quota), full, "{used} of {quota}");
    }
}
