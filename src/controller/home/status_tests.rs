#![allow(clippy::unwrap_used)]
use super::super::plan::plan;
use super::super::retire::{Farewell, farewell};
use super::super::testing::*;
use super::super::validate::validate;
use super::*;
use crate::api::names::ANNOTATION_ABANDON;
use crate::controller::home::build::mirror;

fn compute(seen: &Observation, outcome: Outcome) -> DataEmbassyStatus {
    let problems = validate(seen);
    let decided = plan(seen, &problems);
    status(seen, &decided, &Outcome { problems, ..outcome })
}

fn well() -> Outcome {
    Outcome { keys_sent: true, ..Outcome::default() }
}

fn settled() -> Observation {
    let mut seen = observation();
    seen.object.status.as_mut().unwrap().last_dispatch = Some(DispatchStatus::default());
    seen
}

fn word(status: &DataEmbassyStatus, kind: &str) -> String {
    let condition = conditions::get(&status.conditions, kind).unwrap();
    format!("{}/{}", condition.status, condition.reason)
}

#[test]
fn phases() {
    type Edit = fn(&mut Observation);
    let table: [(Edit, Phase, &str); 8] = [
        (|_| {}, Phase::Protected, "True/Protected"),
        (|s| s.writ.right = Right::Denied("lapsed".into()), Phase::Fenced, "False/Fenced"),
        (|s| s.writ.epoch = Some(1), Phase::Fenced, "False/Fenced"),
        (|s| s.now = at("2026-03-01T13:00:00Z"), Phase::Degraded, "False/ReplicaStale"),
        (|s| s.embassy = Default::default(), Phase::Degraded, "False/NotAsked"),
        (|s| s.policies.clear(), Phase::Degraded, "False/PolicyNotFound"),
        (
            |s| s.embassy.mirror.as_mut().unwrap().status.last_dispatch = None,
            Phase::Seeding,
            "False/NoProvenDispatch",
        ),
        (
            |s| {
                s.object.status.as_mut().unwrap().last_dispatch = None;
                s.embassy.mirror = None;
            },
            Phase::Provisioning,
            "False/NoProvenDispatch",
        ),
    ];
    for (edit, phase, ready) in table {
        let mut seen = settled();
        edit(&mut seen);
        let status = compute(&seen, well());
        assert_eq!(status.phase, Some(phase));
        // At 13:00 a run is due, too, and nothing holds it.
        assert_eq!(word(&status, types::READY), ready, "{phase:?}");
    }
}

#[test]
fn an_embassy_out_of_reach_is_not_stalled_and_says_unknown_of_its_copy() {
    let mut seen = settled();
    seen.embassy = crate::controller::home::observation::Embassy {
        reach: Reach::Unreachable("no answer within 6 s".into()),
        ..Default::default()
    };
    let status = compute(&seen, Outcome::default());
    assert_eq!(word(&status, types::STALLED), "False/AsExpected");
    assert_eq!(word(&status, types::EMBASSY_REACHABLE), "False/EmbassyUnreachable");
    assert_eq!(word(&status, types::REPLICA_FRESH), "Unknown/EmbassyUnreachable");
    assert_eq!(word(&status, types::REPLICA_PROVEN), "Unknown/EmbassyUnreachable");
}

#[test]
fn the_epoch_never_falls() {
    let mut seen = settled();
    seen.object.status.as_mut().unwrap().epoch = Some(6);
    seen.writ.epoch = Some(2);
    let status = compute(&seen, well());
    assert_eq!(status.epoch, Some(6));
    seen.writ.epoch = Some(7);
    let status = compute(&seen, well());
    assert_eq!((status.epoch, status.active_site), (Some(7), Some(Site::Embassy)));
}

#[test]
fn what_belongs_to_another_pair_is_forgotten_unless_it_may_serve() {
    let old = |epoch| {
        let mut seen = settled();
        let status = seen.object.status.as_mut().unwrap();
        (status.pair, status.epoch) = (Some("old".into()), Some(epoch));
        (seen.writ, seen.embassy) = Default::default();
        seen
    };
    let mut seen = old(6);
    assert_eq!(seen.forget_old_pair().as_deref(), Some("old"));
    let now = compute(&seen, Outcome::default());
    assert_eq!((now.epoch, now.pair.as_deref(), now.phase), (None, Some("p1"), Some(Phase::Provisioning)));
    seen.object.status = Some(now);
    assert_eq!(seen.forget_old_pair(), None);
    let mut seen = old(7);
    assert_eq!(seen.forget_old_pair(), None);
    assert!(seen.paired().is_none());
    let now = compute(&seen, Outcome::default());
    assert_eq!((now.epoch, now.pair.as_deref()), (Some(7), Some("old")));
    assert_eq!(word(&now, types::STALLED), "True/PairChanged");
    // Another namespace's Secret by mistake takes nothing away.
    let mut seen = old(6);
    seen.object.spec.embassy.namespace = "other".into();
    assert_eq!(seen.forget_old_pair(), None);
}

#[test]
fn nothing_is_mirrored_before_the_ledger_was_read() {
    let mut seen = observation();
    assert!(seen.may_mirror());
    // Made anew after a deletion: its status knows no epoch, and the ledger may hold an odd one.
    seen.object.status = None;
    seen.writ = Default::default();
    assert!(!seen.may_mirror());
    seen.writ.read = true;
    assert!(seen.may_mirror(), "a ledger without such a writ");
    seen.writ.epoch = Some(1);
    assert!(!seen.may_mirror());
}

#[test]
fn a_status_that_did_not_change_is_equal() {
    let mut seen = settled();
    let first = compute(&seen, well());
    seen.object.status = Some(first.clone());
    seen.now = at("2026-03-01T12:02:10Z");
    assert_eq!(compute(&seen, well()), first);
}

#[test]
fn conditions_of_others_are_left_alone() {
    let mut seen = settled();
    let theirs = Wanted::no(types::DIVERGENCE_DETECTED, "Other", "x");
    conditions::set(&mut seen.object.status.as_mut().unwrap().conditions, &theirs, Some(1), seen.now);
    assert_eq!(word(&compute(&seen, well()), types::DIVERGENCE_DETECTED), "False/Other");
}

#[test]
fn what_stalls_in_the_embassy_shows_at_home() {
    let mut seen = settled();
    let say = |seen: &mut Observation, wanted: Wanted| {
        let list = &mut seen.embassy.mirror.as_mut().unwrap().status.conditions;
        conditions::set(list, &wanted, Some(1), at(NOW));
    };
    assert_eq!(word(&compute(&seen, well()), types::VAULT_READY), "Unknown/NotReported");
    say(&mut seen, Wanted::no(types::STANDBY_READY, "PilotLight", "x"));
    assert_eq!(compute(&seen, well()).phase, Some(Phase::Protected));
    say(&mut seen, Wanted::no(types::VAULT_READY, "VaultFull", "raise it"));
    let now = compute(&seen, well());
    assert_eq!((now.phase, word(&now, types::READY)), (Some(Phase::Degraded), "False/VaultFull".into()));
    say(&mut seen, Wanted::yes(types::STALLED, "NotEncrypted", "annotate the class"));
    say(&mut seen, Wanted::no(types::ENCRYPTION_VERIFIED, "NotEncrypted", "annotate the class"));
    let now = compute(&seen, well());
    assert_eq!((now.phase, word(&now, types::READY)), (Some(Phase::Degraded), "False/NotEncrypted".into()));
    let ready = conditions::get(&now.conditions, types::READY).unwrap();
    assert_eq!(ready.message, "in the embassy: annotate the class");
    assert_eq!(word(&now, types::STALLED), "False/AsExpected", "home's own has nothing to mend");
    assert_eq!(word(&now, types::RECONCILING), "False/Settled");
    assert_eq!(word(&now, types::ENCRYPTION_VERIFIED), "False/NotEncrypted");
    seen.object.status.as_mut().unwrap().last_dispatch = None;
    assert_eq!(compute(&seen, well()).phase, Some(Phase::Pending));
    seen.embassy.reach = Reach::Unreachable("x".into());
    assert_eq!(word(&compute(&seen, well()), types::ENCRYPTION_VERIFIED), "Unknown/EmbassyUnreachable");
}

#[test]
fn the_fence_says_what_it_found_and_what_it_could_not_do() {
    use crate::api::embassy::FenceRecord;
    let slow = |seconds| FenceView {
        record: Some(FenceRecord {
            decided_at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOW)),
            completed_at: None,
            seconds: Some(seconds),
            found_running: 0,
        }),
        ..FenceView::default()
    };
    let fence = |found_running, last_error: Option<&str>| FenceView {
        record: Some(FenceRecord {
            decided_at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOW)),
            completed_at: None,
            seconds: Some(1.25),
            found_running,
        }),
        last_error: last_error.map(str::to_owned),
        right: None,
    };
    for (fence, expected, words) in [
        (FenceView::default(), "False/BestEffort", "best effort"),
        (fence(0, None), "False/BestEffort", "best effort"),
        (slow(5.0), "False/BestEffort", "best effort"),
        (slow(5.01), "False/FenceSlow", "maxFenceTime is 5s"),
        (fence(2, None), "False/FoundRunning", "2 pods ran without a permit"),
        (fence(2, Some("whenScaled to Retain")), "False/FenceFailed", "whenScaled to Retain"),
    ] {
        let now = compute(&settled(), Outcome { fence, ..well() });
        assert_eq!(word(&now, types::FENCE_READY), expected);
        let condition = conditions::get(&now.conditions, types::FENCE_READY).unwrap();
        assert!(condition.message.contains(words), "{}", condition.message);
        assert_eq!(now.phase, Some(Phase::Protected), "it says so beside, and stops nothing");
        let told = crate::controller::home::tell::news(&DataEmbassyStatus::default(), &now);
        let event = told.iter().any(|(_, reason, _)| expected.ends_with(reason.as_str()));
        assert_eq!(event, expected != "False/BestEffort");
    }
}

#[test]
fn an_older_embassy_stalls_and_a_sleeping_one_does_not() {
    let fault = |reason| Problem {
        scope: crate::controller::home::validate::Scope::All,
        reason,
        message: "x".into(),
    };
    let status = compute(&settled(), Outcome { faults: vec![fault("EmbassyTooOld")], ..well() });
    assert_eq!(word(&status, types::STALLED), "True/EmbassyTooOld");
    let status = compute(&settled(), Outcome { faults: vec![fault("EmbassyUnreachable")], ..well() });
    assert_eq!(word(&status, types::STALLED), "False/AsExpected");
}

#[test]
fn the_mirror_is_written_only_when_it_differs() {
    let mut seen = observation();
    let first = mirror::wanted(&seen, &pair(), true).unwrap();
    assert_eq!(first.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(first.metadata.namespace.as_deref(), Some("estonia"));
    let theirs = seen.embassy.mirror.as_mut().unwrap();
    theirs.spec = Some(first.spec.clone());
    theirs.volumes = first.metadata.annotations.unwrap().get("dataembassy.io/volumes").cloned();
    assert!(mirror::wanted(&seen, &pair(), true).is_none());
    // A claim is missing: the spec still goes, the list of volumes stays as it was.
    let before = seen.embassy.mirror.as_ref().unwrap().volumes.clone();
    seen.claims.pop();
    assert!(mirror::wanted(&seen, &pair(), false).is_none());
    seen.object.spec.embassy.storage_class_name = "encrypted".into();
    let changed = mirror::wanted(&seen, &pair(), false).unwrap();
    assert_eq!(changed.metadata.annotations.unwrap().get("dataembassy.io/volumes"), before.as_ref());
    seen.embassy.mirror = None;
    assert!(mirror::wanted(&seen, &pair(), false).is_none());
    assert!(mirror::wanted(&seen, &pair(), true).unwrap().metadata.resource_version.is_none());
}

#[test]
fn a_deletion_tells_the_embassy_first() {
    let say = |seen: &Observation, pair: Option<&crate::api::pair::PairRecord>| match farewell(seen, pair) {
        Farewell::Go(_) => "go".to_owned(),
        Farewell::Tell(mirror) => format!("tell {}", mirror.spec.retired),
        Farewell::Wait { reason, message } => {
            assert!(message.contains(ANNOTATION_ABANDON), "{message}");
            format!("wait {reason}")
        }
    };
    let known = pair();
    let mut seen = observation();
    seen.embassy.mirror.as_mut().unwrap().spec = Some(seen.object.spec.clone());
    assert_eq!(say(&seen, Some(&known)), "tell true");
    assert_eq!(say(&seen, None), "wait KubeconfigMissing");
    seen.writ.epoch = Some(1);
    assert_eq!(say(&seen, Some(&known)), "wait EmbassyActive");
    // The embassy may have taken the writ while no operator looked: nothing is decided from memory.
    seen.writ = Default::default();
    assert_eq!(say(&seen, Some(&known)), "wait LedgerUnknown");
    let mirror = seen.embassy.mirror.take();
    assert_eq!(say(&seen, Some(&known)), "wait LedgerUnknown");
    seen.embassy.mirror = mirror;
    (seen.writ.read, seen.writ.epoch) = (true, Some(0));
    seen.embassy.mirror.as_mut().unwrap().spec.as_mut().unwrap().retired = true;
    assert_eq!(say(&seen, Some(&known)), "go");
    seen.embassy.mirror.as_mut().unwrap().home_uid = Some("other".into());
    assert_eq!(say(&seen, Some(&known)), "go");
    seen.embassy.reach = Reach::Unreachable("x".into());
    assert_eq!(say(&seen, Some(&known)), "wait EmbassyUnreachable");
    seen.object.metadata.annotations = Some([(ANNOTATION_ABANDON.to_owned(), "true".to_owned())].into());
    assert_eq!(say(&seen, Some(&known)), "go");
}
