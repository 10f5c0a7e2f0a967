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
    let theirs = Wanted::no(types::FENCE_READY, "PodsNotWrapped", "x");
    conditions::set(&mut seen.object.status.as_mut().unwrap().conditions, &theirs, Some(1), seen.now);
    assert_eq!(word(&compute(&seen, well()), types::FENCE_READY), "False/PodsNotWrapped");
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
