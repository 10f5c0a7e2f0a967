//! Tables for what this part decides, and the objects it makes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::build::{certs, restore, vault};
use super::chain::Received;
use super::observe::{Observed, Sibling, Stored};
use super::plan::{
    self, Issue, JobStep, Next, NextInput, Outcome, Restores, Serving, backoff, certificates, job_step, next,
    outcome, serving,
};
use super::retire::{Answer, judge};
use super::runs;
use super::status::{Facts, VaultView, fill};
use super::validate::{Verdict, validate};
use crate::api::conditions;
use crate::api::embassy::{DataEmbassyStatus, DispatchStatus, Phase, RunState};
use crate::api::ledger::Writ;
use crate::api::mirror::HomeVolumes;
use crate::api::pair::PairRecord;
use crate::api::{DataEmbassy, EmbassyRequest, ReplicaPolicySpec};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn now() -> jiff::Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn pair() -> PairRecord {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    from(json!({
        "version": 1, "id": "p1", "homeNamespace": "registers", "embassyNamespace": "estonia",
        "signingPublicKey": hex::encode(key.verifying_key().as_bytes()),
    }))
}

fn object() -> DataEmbassy {
    let volumes = json!({"volumes": [{
        "name": "pgdata", "size": "10Gi", "accessModes": ["ReadWriteOnce"],
        "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999,
    }]});
    from(json!({
        "apiVersion": "dataembassy.io/v1alpha1", "kind": "DataEmbassy",
        "metadata": {"name": "register", "namespace": "estonia", "uid": "u1", "generation": 3,
            "annotations": {"dataembassy.io/volumes": volumes.to_string()}},
        "spec": {"policyRef": {"name": "p"}, "volumes": {"names": ["pgdata"]},
            "embassy": {"kubeconfigSecretRef": {"name": "k"}, "namespace": "estonia",
                "storageClassName": "encrypted"}},
    }))
}

fn class(encrypts: bool) -> StorageClass {
    from(json!({
        "metadata": {"name": "encrypted", "annotations": {"dataembassy.io/encrypted": encrypts.to_string()}},
        "provisioner": "x.example", "allowVolumeExpansion": true,
    }))
}

fn claim(name: &str, embassy: &str) -> PersistentVolumeClaim {
    from(json!({
        "metadata": {"name": name, "labels": {"dataembassy.io/data-embassy": embassy,
            "app.kubernetes.io/component": "standby", "app.kubernetes.io/managed-by": "data-embassy"}},
        "spec": {"storageClassName": "encrypted", "resources": {"requests": {"storage": "10Gi"}}},
        "status": {"phase": "Bound"},
    }))
}

fn observed() -> Observed {
    Observed {
        policy: Some(ReplicaPolicySpec::default()),
        siblings: vec![Sibling { name: "register".into(), quota: Some("1Gi".into()), retired: false }],
        classes: [("encrypted".to_owned(), class(true))].into(),
        claims: [("pgdata".to_owned(), claim("pgdata", "register"))].into(),
        key: true,
        ledger_seen: true,
        writ: Some(Writ { epoch: 2, ..Writ::default() }),
        ..Observed::default()
    }
}

fn received(sequence: u64) -> Received {
    let mut received = Received::known(sequence, &format!("hash{sequence}"));
    received.epoch = Some(2);
    received.cut_time = Some(now());
    received.volumes = vec!["pgdata".into()];
    received
}

fn proven(sequence: i64) -> DataEmbassyStatus {
    let dispatch = DispatchStatus { sequence, cut_time: Some(Time(now())), ..DispatchStatus::default() };
    DataEmbassyStatus { last_dispatch: Some(dispatch), ..DataEmbassyStatus::default() }
}

fn decide(observed: &Observed, status: &DataEmbassyStatus, newest: u64, restores: Restores) -> Next {
    let verified: Vec<_> = (1..=newest).map(received).collect();
    let volumes = validate(&object(), &pair(), observed).volumes.unwrap();
    next(
        &NextInput { observed, status, verified: &verified, volumes: &volumes, restores, max_movers: 4 },
        now(),
    )
}

#[test]
fn the_newest_dispatch_is_restored_and_nothing_while_the_embassy_may_write() {
    let start = |sequence| Next::Start { sequence, attempt: 1 };
    assert_eq!(decide(&observed(), &proven(2), 5, Restores::Follow), start(5));
    assert_eq!(decide(&observed(), &proven(5), 5, Restores::Follow), Next::Idle);
    assert_eq!(decide(&observed(), &proven(2), 5, Restores::Hold), Next::Idle);
    let mut odd = observed();
    odd.writ = Some(Writ { epoch: 3, ..Writ::default() });
    assert!(matches!(decide(&odd, &proven(2), 5, Restores::Follow), Next::Held("Serving", _)));
    assert_eq!(decide(&odd, &proven(2), 5, Restores::Only(2)), start(2));
    // The ledger went back in time: the highest epoch that was ever seen decides.
    let mut status = proven(2);
    status.epoch = Some(3);
    assert!(matches!(decide(&observed(), &status, 5, Restores::Follow), Next::Held("Serving", _)));
    let blind = Observed { ledger_seen: false, writ: None, ..observed() };
    assert!(matches!(decide(&blind, &proven(2), 5, Restores::Follow), Next::Held("WritUnknown", _)));
    let keyless = Observed { key: false, ..observed() };
    assert!(matches!(decide(&keyless, &proven(2), 5, Restores::Follow), Next::Held("KeyMissing", _)));
    let busy = Observed { active_movers: 4, ..observed() };
    assert!(matches!(decide(&busy, &proven(2), 5, Restores::Follow), Next::Held("TooManyMovers", _)));
    assert_eq!(decide(&busy, &proven(2), 5, Restores::Only(5)), start(5));
}

#[test]
fn a_dispatch_with_a_volume_that_the_mirror_does_not_know_is_held() {
    let mut more = received(1);
    more.volumes.push("other".into());
    let home = validate(&object(), &pair(), &observed()).volumes.unwrap();
    assert!(plan::parts(&[more], 1, &home).is_err());
    assert!(plan::parts(&[Received::known(1, "h")], 1, &home).is_err());
    assert_eq!(plan::parts(&[received(1)], 1, &home).unwrap(), home);
    assert!(plan::parts(&[received(1)], 1, &HomeVolumes::default()).is_err());
}

#[test]
fn a_run_under_way_is_waited_for_and_a_failed_one_backs_off() {
    let mut status = proven(2);
    runs::start(&mut status, "j".into(), 5, 1, None, now());
    assert_eq!(decide(&observed(), &status, 6, Restores::Follow), Next::Idle);
    let run = status.run.as_mut().unwrap();
    (run.state, run.attempt) = (Some(RunState::Failed), 3);
    run.next_attempt = Some(Time(now() + jiff::SignedDuration::from_secs(1)));
    assert_eq!(decide(&observed(), &status, 6, Restores::Follow), Next::Idle);
    status.run.as_mut().unwrap().next_attempt = Some(Time(now()));
    assert_eq!(decide(&observed(), &status, 6, Restores::Follow), Next::Start { sequence: 6, attempt: 4 });
    assert!(backoff(1) < backoff(2) && backoff(99).as_secs() == 600);
}

fn job(trigger: &str, ended: Option<&str>) -> Job {
    let conditions: Vec<Value> = ended.iter().map(|e| json!({"type": e, "status": "True"})).collect();
    from(json!({
        "metadata": {"name": "register-restore", "uid": "j1", "annotations": {"dataembassy.io/trigger": trigger}},
        "status": {"conditions": conditions},
    }))
}

fn pod(report: &Value) -> Pod {
    from(json!({"status": {"containerStatuses": [{
        "name": "mover", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "message": report.to_string()}},
    }]}}))
}

#[test]
fn only_a_proven_report_of_the_same_dispatch_counts() {
    let good =
        json!({"kind": "Restore", "success": true, "proven": true, "sequence": 5, "headerHash": "hash5"});
    let done = job("dispatch/5/1", Some("Complete"));
    let verdict = |report: &Value| outcome(&done, &[pod(report)], 5, Some("hash5"), now());
    assert!(matches!(verdict(&good), Outcome::Proven(_)));
    for (field, value) in [
        ("success", json!(false)),
        ("proven", json!(false)),
        ("sequence", json!(4)),
        ("headerHash", json!("other")),
        ("kind", json!("Backup")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert!(matches!(verdict(&bad), Outcome::Failed { .. }), "{field}");
    }
    assert!(
        matches!(outcome(&done, &[], 5, None, now()), Outcome::Failed { reason, .. } if reason == "NoReport")
    );
    let failed = job("dispatch/5/1", Some("Failed"));
    assert!(matches!(outcome(&failed, &[pod(&good)], 5, None, now()), Outcome::Failed { .. }));
    assert_eq!(outcome(&job("dispatch/5/1", None), &[pod(&good)], 5, None, now()), Outcome::Running(None));
}

#[test]
fn a_proven_run_reaches_the_status_with_the_time_of_its_cut() {
    let mut status = DataEmbassyStatus::default();
    let mut objects = observed().restore;
    objects.job = Some(job("dispatch/5/1", Some("Complete")));
    let report =
        json!({"kind": "Restore", "success": true, "proven": true, "sequence": 5, "headerHash": "hash5"});
    objects.pods = vec![pod(&report)];
    runs::start(&mut status, "j".into(), 5, 1, None, now());
    let later = now() + jiff::SignedDuration::from_secs(90);
    runs::absorb(&mut status, &objects, &[received(5), received(6)], later);
    let dispatch = status.last_dispatch.unwrap();
    assert_eq!((dispatch.sequence, dispatch.cut_time.unwrap().0), (5, now()));
    assert_eq!(dispatch.proven_time.unwrap().0, later);
    assert_eq!(status.run.unwrap().state, Some(RunState::Succeeded));
}

#[test]
fn the_job_of_another_run_is_never_deleted_while_it_works() {
    assert_eq!(job_step(None, 5, 1), JobStep::Create);
    assert_eq!(job_step(Some(&job("dispatch/5/1", None)), 5, 1), JobStep::Wait);
    assert_eq!(job_step(Some(&job("dispatch/4/1", None)), 5, 1), JobStep::Wait);
    assert_eq!(job_step(Some(&job("dispatch/5/1", Some("Failed"))), 5, 1), JobStep::Wait);
    assert_eq!(job_step(Some(&job("dispatch/5/1", Some("Failed"))), 5, 2), JobStep::Replace("j1".into()));
}

#[test]
fn storage_that_is_not_known_to_encrypt_stalls_unless_it_is_only_preferred() {
    let reason = |observed: &Observed| {
        let verdict = validate(&object(), &pair(), observed);
        (verdict.storage, verdict.stalled.map(|(reason, _)| reason))
    };
    assert_eq!(reason(&observed()), (true, None));
    let mut plain = observed();
    plain.classes.insert("encrypted".into(), class(false));
    assert_eq!(reason(&plain), (false, Some("StorageClassNotEncrypting".into())));
    plain.policy.as_mut().unwrap().encryption.at_rest = crate::api::policy::AtRest::Preferred;
    assert_eq!(reason(&plain), (true, None));
    let mut none = observed();
    none.classes.clear();
    assert_eq!(reason(&none), (false, Some("StorageClassNotFound".into())));
    // The claim that is really there has another class than the spec says.
    let mut other = observed();
    other.claims.get_mut("pgdata").unwrap().spec.as_mut().unwrap().storage_class_name = Some("gone".into());
    assert_eq!(reason(&other), (false, Some("StorageClassNotFound".into())));
    let mut foreign = observed();
    foreign.claims.insert("pgdata".into(), claim("pgdata", "another"));
    assert_eq!(reason(&foreign), (true, Some("VolumeNameTaken".into())));
    assert_eq!(reason(&Observed { policy: None, ..observed() }), (true, Some("PolicyNotFound".into())));
}

fn service() -> Service {
    from(json!({"metadata": {"name": "embassy-vault"},
        "spec": {"clusterIP": "198.18.9.1", "ports": [{"port": 8443, "nodePort": 30443}]}}))
}

#[test]
fn certificates_are_issued_once_and_again_when_names_or_time_run_out() {
    let mut seen = observed();
    assert_eq!(certificates(&pair(), &seen, now()), [Issue::Authority]);
    let ca = certs::authority("p1", now()).unwrap();
    let stored = |cert: &str| Some(Stored { facts: certs::facts(cert.as_bytes()), complete: true });
    seen.certificates.authority = stored(&ca.cert);
    assert_eq!(certificates(&pair(), &seen, now()), [Issue::Home, Issue::Embassy], "no Service yet");
    seen.vault.service = Some(service());
    seen.nodes = vec!["198.18.0.2".parse().unwrap()];
    let names = vault::server_names(&pair(), seen.vault.service.as_ref(), &seen.nodes);
    assert!(names.contains("198.18.9.1") && names.contains("198.18.0.2"), "{names:?}");
    seen.certificates.server = stored(&certs::server(&ca, &names, now()).unwrap().cert);
    seen.certificates.home = stored(&certs::client(&ca, "home", now()).unwrap().cert);
    seen.certificates.embassy = stored(&certs::client(&ca, "embassy", now()).unwrap().cert);
    assert_eq!(certificates(&pair(), &seen, now()), []);
    let later = now() + jiff::SignedDuration::from_hours(24 * 21);
    assert_eq!(certificates(&pair(), &seen, later), [Issue::Home, Issue::Embassy]);
    seen.nodes.push("198.18.0.3".parse().unwrap());
    assert!(matches!(certificates(&pair(), &seen, now())[..], [Issue::Server(_)]));
    seen.certificates.authority = Some(Stored::default());
    assert_eq!(certificates(&pair(), &seen, now()), [], "a damaged authority is never replaced");
}

#[test]
fn the_address_is_the_options_else_what_the_service_shows() {
    let nodes = ["198.18.0.2".parse().unwrap(), "198.18.0.3".parse().unwrap()];
    let at = |pair: &PairRecord, published| vault::address(pair, Some(&service()), &nodes, published);
    assert_eq!(at(&pair(), None).as_deref(), Some("198.18.0.2:30443"));
    assert_eq!(at(&pair(), Some("198.18.0.3:30443")).as_deref(), Some("198.18.0.3:30443"));
    assert_eq!(at(&pair(), Some("198.18.0.9:30443")).as_deref(), Some("198.18.0.2:30443"));
    let mut given = pair();
    given.vault.address = Some("vault.example:443".into());
    assert_eq!(at(&given, None).as_deref(), Some("vault.example:443"));
    assert!(vault::server_names(&given, None, &[]).contains("vault.example"));
    assert_eq!(vault::address(&pair(), Some(&service()), &[], None).as_deref(), Some("198.18.9.1:8443"));
}

#[test]
fn the_restore_job_is_restricted_and_runs_as_the_data_s_user() {
    let (object, pair) = (object(), pair());
    let volumes = validate(&object, &pair, &observed()).volumes.unwrap();
    let mut mover = crate::api::policy::MoverSpec::default();
    let make = |mover: &_| {
        let input = restore::RestoreInput {
            object: &object,
            pair: &pair,
            volumes: &volumes,
            mover,
            image: "embassy:1",
            vault: "198.18.9.1:8443",
        };
        serde_json::to_value(restore::job(&input, 5, 2).unwrap()).unwrap()
    };
    let job = make(&mover);
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(job["metadata"]["name"], "register-restore");
    assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "u1");
    assert_eq!(job["spec"]["backoffLimit"], 0);
    assert_eq!(
        pod["securityContext"],
        json!({
            "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999, "runAsNonRoot": true,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    let args: Vec<&str> =
        pod["containers"][0]["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(
        args.join(" "),
        "mover restore --repository rest:https://198.18.9.1:8443/register/ \
        --password-file /key/password --cacert /client/ca.crt --client-cert /client/tls.crt \
        --client-key /client/tls.key --dispatch 5 --pair p1 --data-embassy register \
        --verify-key-file /config/signing.pub --manifests-secret estonia/register-manifests \
        --volume pgdata=/volumes/pgdata"
    );
    mover.privileged = true;
    let job = make(&mover);
    assert_eq!(job["spec"]["template"]["spec"]["securityContext"]["runAsUser"], 0);
    assert_eq!(
        job["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["add"][0],
        "CHOWN"
    );
}

#[test]
fn the_vault_is_restricted_and_alone_on_its_volume() {
    let deployment = serde_json::to_value(vault::deployment(&pair(), "embassy:1")).unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        })
    );
    let args: Vec<&str> =
        pod["containers"][0]["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(
        args.join(" "),
        "vault --data /data --listen 0.0.0.0:8443 --tls-cert /tls/tls.crt \
        --tls-key /tls/tls.key --client-ca /tls/ca.crt --pair p1 --signing-key /config/signing.pub \
        --quota-file /config/quota.json --ledger estonia/ledger-p1 --health-listen 0.0.0.0:8081"
    );
    let config = vault::config(&pair(), &observed().siblings);
    assert_eq!(config.data.unwrap()["quota.json"], r#"{"register":1073741824}"#);
}

fn retire_request() -> EmbassyRequest {
    from(json!({"apiVersion": "dataembassy.io/v1alpha1", "kind": "EmbassyRequest", "metadata": {"name": "r"},
        "spec": {"verb": "Retire", "target": "register", "token": "12345678", "reason": "over"}}))
}

#[test]
fn only_what_was_retired_at_home_and_does_not_serve_is_erased() {
    let request = retire_request();
    let mut object = object();
    assert!(matches!(judge(&object, &observed(), &Serving::No, &request), Answer::Refuse(_)));
    object.spec.retired = true;
    assert_eq!(judge(&object, &observed(), &Serving::No, &request), Answer::Retire { last: true });
    assert!(matches!(judge(&object, &observed(), &Serving::Yes(3), &request), Answer::Refuse(_)));
    assert!(matches!(
        judge(&object, &observed(), &Serving::Unknown("x".into()), &request),
        Answer::Refuse(_)
    ));
    let mut two = observed();
    two.siblings.push(Sibling { name: "b".into(), ..Sibling::default() });
    assert_eq!(judge(&object, &two, &Serving::No, &request), Answer::Retire { last: false });
}

#[test]
fn a_promotion_of_what_was_retired_is_refused_and_not_left_unanswered() {
    let mut request = retire_request();
    let mut object = object();
    for verb in [crate::api::request::Verb::Promote, crate::api::request::Verb::Override] {
        request.spec.verb = verb;
        object.spec.retired = false;
        assert_eq!(judge(&object, &observed(), &Serving::No, &request), Answer::Elsewhere);
        object.spec.retired = true;
        assert!(matches!(judge(&object, &observed(), &Serving::No, &request), Answer::Refuse(_)));
        assert_eq!(judge(&object, &observed(), &Serving::Yes(3), &request), Answer::Elsewhere);
    }
}

fn status_of(object: &DataEmbassy, observed: &Observed, mut status: DataEmbassyStatus) -> DataEmbassyStatus {
    let verdict: Verdict = validate(object, &pair(), observed);
    let serving = serving(observed, &status);
    let vault = VaultView {
        status: Some(crate::vault_client::RepositoryStatus::default()),
        verified: vec![received(5)],
        ..VaultView::default()
    };
    let facts = Facts {
        object,
        pair: &pair(),
        observed,
        verdict: &verdict,
        vault: &vault,
        serving: &serving,
        next: &Next::Idle,
        promotion: &[],
        error: None,
    };
    fill(&mut status, &facts, now());
    status
}

#[test]
fn the_phase_is_protected_only_with_everything_in_place() {
    let mut seen = observed();
    assert_eq!(status_of(&object(), &seen, DataEmbassyStatus::default()).phase, Some(Phase::Provisioning));
    seen.vault.deployment = Some(from(json!({"metadata": {}, "status": {"readyReplicas": 1}})));
    assert_eq!(status_of(&object(), &seen, DataEmbassyStatus::default()).phase, Some(Phase::Seeding));
    let status = status_of(&object(), &seen, proven(5));
    assert_eq!(status.phase, Some(Phase::Protected));
    assert!(conditions::is_true(&status.conditions, "Ready"));
    assert_eq!(status.received_sequence, Some(5));
    let mut old = proven(5);
    old.last_dispatch.as_mut().unwrap().cut_time = Some(Time("2026-11-23T11:00:00Z".parse().unwrap()));
    let stale = status_of(&object(), &seen, old);
    assert_eq!(stale.phase, Some(Phase::Degraded));
    assert_eq!(conditions::get(&stale.conditions, "ReplicaFresh").unwrap().reason, "Stale");
    let mut retired = object();
    retired.spec.retired = true;
    assert_eq!(status_of(&retired, &seen, proven(5)).phase, Some(Phase::Retired));
    seen.writ = Some(Writ { epoch: 3, ..Writ::default() });
    let serving = status_of(&retired, &seen, proven(5));
    assert_ne!(serving.phase, Some(Phase::Retired), "home cannot stop a serving standby");
    assert_eq!(conditions::get(&serving.conditions, "Stalled").unwrap().reason, "RetiredWhileServing");
}

#[test]
fn a_second_turn_with_nothing_new_changes_nothing() {
    let mut seen = observed();
    seen.vault.deployment = Some(from(json!({"metadata": {}, "status": {"readyReplicas": 1}})));
    let once = status_of(&object(), &seen, proven(5));
    assert_eq!(status_of(&object(), &seen, once.clone()), once);
}

#[test]
fn an_object_that_cannot_be_made_is_no_ready_standby_and_a_changed_one_is() {
    use super::objects::{Finding, Synced};
    let finding = |omitted| Finding {
        kind: "Deployment".into(),
        name: "portal".into(),
        reason: "Rejected",
        message: "why".into(),
        omitted,
    };
    let synced = |findings| Synced { sequence: Some(5), findings, ..Synced::default() };
    let ready = |synced: &Synced, error| super::status::standby_ready(Some(synced), error).status;
    assert_eq!(ready(&synced(vec![finding(false), finding(true)]), None), Some(false));
    assert_eq!(ready(&synced(vec![finding(false)]), None), Some(true));
    assert_eq!(ready(&synced(vec![]), None), Some(true));
    assert_eq!(ready(&synced(vec![]), Some("timeout")), Some(false));
    assert_eq!(ready(&Synced::default(), None), Some(false), "without manifests nothing comes up");
    assert_eq!(super::status::standby_ready(None, None).status, None);
}
