//! Runs that do not come to a report.
#![allow(clippy::unwrap_used)]

use super::super::observe::RestoreObjects;
use super::super::plan::{NOT_STARTED, job_to_delete, leftover};
use super::*;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

fn at(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn objects(state: Option<&Value>) -> RestoreObjects {
    let job = json!({"metadata": {"name": "register-restore", "uid": "j1", "creationTimestamp": at(0).to_string(),
        "annotations": {"dataembassy.io/trigger": "dispatch/8/1"}}});
    let pod = |state: &Value| {
        json!({"metadata": {"name": "p"}, "status": {"phase": "Pending", "containerStatuses": [{
            "name": "mover", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        }]}})
    };
    RestoreObjects {
        job: Some(serde_json::from_value::<Job>(job).unwrap()),
        pods: state.iter().map(|s| serde_json::from_value::<Pod>(pod(s)).unwrap()).collect(),
        ..RestoreObjects::default()
    }
}

fn running(promoting: bool) -> DataEmbassyStatus {
    let mut status = DataEmbassyStatus::default();
    start(&mut status, "register-restore".into(), 8, 1, None, at(0));
    status.promotion = promoting.then(|| {
        serde_json::from_value(json!({"step": "FinishRestore", "reason": "r", "startedAt": at(0).to_string(),
            "sequence": 8}))
        .unwrap()
    });
    status
}

/// A pod that can never start must not block a promotion, and a slow image must not fail a quiet day.
#[test]
fn a_mover_that_does_not_start_fails_its_run_and_sooner_during_a_promotion() {
    let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
    let works = json!({"running": {"startedAt": at(1).to_string()}});
    for (promoting, state, after, fails) in [
        (false, Some(&waiting), 599, false),
        (false, Some(&waiting), 600, true),
        (false, None, 600, true),
        (true, Some(&waiting), 29, false),
        (true, Some(&waiting), 30, true),
        (true, None, 30, true),
        (true, Some(&works), 9999, false),
    ] {
        let (mut status, objects) = (running(promoting), objects(state));
        absorb(&mut status, &objects, &[], at(after));
        let run = status.run.as_ref().unwrap();
        let row = format!("{promoting} {state:?} {after}");
        assert_eq!(run.state == Some(RunState::Failed), fails, "{row}");
        assert_eq!(job_to_delete(&objects, Some(run)), fails.then(|| "j1".to_owned()), "{row}");
        assert_eq!(leftover(&objects, Some(run)).is_some(), fails, "{row}");
        if fails {
            assert_eq!(run.reason.as_deref(), Some(NOT_STARTED));
            assert!(run.next_attempt.as_ref().unwrap().0 > at(after), "{row}");
            let cause = if state.is_some() { "no such image" } else { "cannot be made" };
            assert!(run.message.as_deref().unwrap().contains(cause), "{run:?}");
        }
    }
}

/// The pod of a deleted Job may start late: nothing else may write its volumes before it is gone.
#[test]
fn a_mover_that_was_given_up_is_waited_for_until_its_pod_is_gone() {
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    let (mut status, mut objects) = (running(true), objects(Some(&waiting)));
    absorb(&mut status, &objects, &[], at(40));
    let run = status.run.as_ref();
    objects.job = None;
    objects.strays = std::mem::take(&mut objects.pods);
    assert!(leftover(&objects, run).unwrap().contains("pod p"));
    assert_eq!(job_to_delete(&objects, run), None);
    objects.strays.clear();
    assert_eq!(leftover(&objects, run), None);
}
