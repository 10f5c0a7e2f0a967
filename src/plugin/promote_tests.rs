#![allow(clippy::unwrap_used)]

use super::*;
use crate::api::conditions::{Wanted, set};
use crate::api::embassy::{DataEmbassySpec, DataEmbassyStatus, DispatchStatus, PromotionRecord};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn mirror() -> DataEmbassy {
    let mut object = DataEmbassy::new("register", DataEmbassySpec::default());
    object.metadata.namespace = Some("estonia".into());
    let mut conditions = Vec::new();
    set(&mut conditions, &Wanted::yes(types::REPLICA_PROVEN, "Proven", ""), None, at(0));
    let held = Wanted::no(types::PROMOTION_ALLOWED, "LeaseNotExpired", "home renews");
    set(&mut conditions, &held, None, at(0));
    object.status = Some(DataEmbassyStatus {
        phase: Some(Phase::PromotionHeld),
        active_site: Some(Site::Home),
        epoch: Some(2),
        last_dispatch: Some(DispatchStatus {
            sequence: 7,
            cut_time: Some(Time(at(1000))),
            ..DispatchStatus::default()
        }),
        conditions,
        ..DataEmbassyStatus::default()
    });
    object
}

#[test]
fn the_briefing_says_what_is_served_lost_and_closed() {
    let text = briefing(&mirror(), at(1090));
    for line in [
        "estonia/register: phase PromotionHeld, active site Home, epoch 2",
        "newest proven dispatch: 7, cut 1970-01-01T00:16:40Z",
        "predicted loss: what home wrote in the last 1m30s",
        "  CLOSED  PromotionAllowed LeaseNotExpired: home renews",
        "  open    ReplicaProven",
        "  UNKNOWN FenceReady: the operator has not said",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nin\n{text}");
    }
}

#[test]
fn only_a_living_mirror_with_a_proven_dispatch_can_be_promoted() {
    let check = |object: DataEmbassy, embassy| promotable(Some(object), embassy, "estonia", "register");
    assert!(check(mirror(), true).is_ok());
    assert!(check(mirror(), false).unwrap_err().contains("at the embassy"));
    assert!(promotable(None, true, "estonia", "register").is_err());
    let mut retired = mirror();
    retired.spec.retired = true;
    assert!(check(retired, true).is_err());
    let mut empty = mirror();
    empty.status.as_mut().unwrap().last_dispatch = None;
    assert!(check(empty, true).unwrap_err().contains("nothing to serve"));
    let mut done = mirror();
    let status = done.status.as_mut().unwrap();
    (status.phase, status.active_site) = (Some(Phase::Promoted), Some(Site::Embassy));
    assert!(check(done, true).is_err());
}

#[test]
fn a_wait_ends_only_when_the_embassy_serves() {
    let mut object = mirror();
    let text = "PromotionHeld (LeaseNotExpired: home renews)".to_owned();
    assert_eq!(progress(&object), Progress::Under(text));
    let status = object.status.as_mut().unwrap();
    status.phase = Some(Phase::Promoted);
    // The writ still names home: that is not yet ours.
    assert!(matches!(progress(&object), Progress::Under(_)));
    let status = object.status.as_mut().unwrap();
    status.active_site = Some(Site::Embassy);
    status.last_promotion = Some(PromotionRecord {
        reason: "test".into(),
        started_at: Time(at(0)),
        serving_at: Time(at(4)),
        epoch: 3,
        sequence: 7,
        recovery_seconds: 4.25,
        data_loss_seconds: 90.0,
        overridden: false,
    });
    let text = "promoted: dispatch 7, serving after 4.2 s, at most 90 s lost".to_owned();
    assert_eq!(progress(&object), Progress::Promoted(text));
}
