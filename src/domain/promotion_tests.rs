#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::api::duration::Span;
use std::time::Duration;

const L: Duration = Duration::from_secs(30);

fn t(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}
fn policy() -> PromotionSpec {
    PromotionSpec {
        mode: PromotionMode::Automatic,
        accept_unproven_fence: true,
        stabilization: Span::secs(30),
        ..PromotionSpec::default()
    }
}
fn claimable() -> EmbassyTurn {
    EmbassyTurn::Claim(Writ { epoch: 1, ..Writ::default() })
}
fn suspect() -> Suspicion {
    Suspicion::Suspect("portal: connection refused".into())
}

/// A world in which everything speaks for a promotion; each row of a table spoils one thing.
fn ready<'a>(policy: &'a PromotionSpec, suspicion: &'a Suspicion) -> Evidence<'a> {
    Evidence {
        policy,
        suspicion,
        suspect_since: Some(t(-60)),
        turn: claimable(),
        settings: Ok(()),
        proven: Some(Proven { sequence: 7, cut_time: t(-120) }),
        key_present: true,
        omitted: None,
        hold: None,
        retired: false,
        last_promotion: None,
        request: None,
        promoted: false,
    }
}

#[test]
fn home_lost_and_every_gate_open_is_a_claim() {
    let (p, s) = (policy(), suspect());
    assert!(matches!(decide(&ready(&p, &s), t(0)), Decision::Claim(writ, _) if writ.epoch == 1));
}

#[test]
fn each_gate_alone_holds_the_promotion() {
    let (p, s) = (policy(), suspect());
    let unproven_fence = PromotionSpec { accept_unproven_fence: false, ..policy() };
    let manual = PromotionSpec { mode: PromotionMode::Manual, ..policy() };
    let hold = Hold { until: None, reason: "audit".into() };
    let base = || ready(&p, &s);
    let wait = |wait| EmbassyTurn::Wait(wait);
    let table: Vec<(Gate, Evidence<'_>)> = vec![
        (Gate::Held, Evidence { hold: Some(&hold), ..base() }),
        (Gate::SettingsUnsafe, Evidence { settings: Err(SettingsError::Rho(1000)), ..base() }),
        (Gate::FenceUnproven, ready(&unproven_fence, &s)),
        (Gate::ManualPromotion, ready(&manual, &s)),
        (Gate::Unproven, Evidence { proven: None, ..base() }),
        (Gate::KeysMissing, Evidence { key_present: false, ..base() }),
        (Gate::StandbyIncomplete, Evidence { omitted: Some("Deployment/portal: Rejected".into()), ..base() }),
        (Gate::ReplicaStale, Evidence { proven: Some(Proven { sequence: 1, cut_time: t(-4000) }), ..base() }),
        (Gate::CoolingDown, Evidence { last_promotion: Some(t(-60)), ..base() }),
        (Gate::NoArbiter, Evidence { turn: wait(EmbassyWait::NoArbiter("timeout".into())), ..base() }),
        (Gate::NoWrit, Evidence { turn: wait(EmbassyWait::NoWrit), ..base() }),
        (Gate::OverrideRequired, Evidence { turn: wait(EmbassyWait::OverrideRequired), ..base() }),
    ];
    for (gate, evidence) in table {
        match decide(&evidence, t(0)) {
            Decision::Hold(found, message) => {
                assert_eq!(found, gate);
                assert!(!message.is_empty());
            }
            other => panic!("{gate:?}: {other:?}"),
        }
    }
}

#[test]
fn a_live_ledger_is_waited_for_and_never_taken() {
    let (p, s) = (policy(), suspect());
    let turn = EmbassyTurn::Wait(EmbassyWait::LeaseNotExpired { unchanged_ms: 1, needed_ms: L.as_millis() });
    let alive = Evidence { turn, ..ready(&p, &s) };
    assert!(matches!(decide(&alive, t(0)), Decision::Await(_)));
}

#[test]
fn without_suspicion_nothing_happens_however_old_the_ledger() {
    let p = policy();
    for s in [Suspicion::Healthy, Suspicion::Unknown("no health checks".into())] {
        assert_eq!(decide(&ready(&p, &s), t(0)), Decision::Stay, "{s:?}");
    }
}

#[test]
fn suspicion_must_be_stable() {
    let (p, s) = (policy(), suspect());
    let young = Evidence { suspect_since: Some(t(-29)), ..ready(&p, &s) };
    assert!(matches!(decide(&young, t(0)), Decision::Suspect(_)));
    let never = Evidence { suspect_since: None, ..ready(&p, &s) };
    assert!(matches!(decide(&never, t(0)), Decision::Suspect(_)));
}

#[test]
fn a_human_can_ask_under_manual_but_the_gates_still_hold() {
    let p = PromotionSpec { mode: PromotionMode::Manual, ..policy() };
    let s = Suspicion::Healthy;
    let asked = Evidence { request: Some(Verb::Promote), ..ready(&p, &s) };
    assert!(matches!(decide(&asked, t(0)), Decision::Claim(..)));
    let turn = EmbassyTurn::Wait(EmbassyWait::LeaseNotExpired { unchanged_ms: 0, needed_ms: 1 });
    assert!(matches!(decide(&Evidence { turn, ..asked }, t(0)), Decision::Await(_)));
}

#[test]
fn an_override_opens_every_gate_but_never_serves_what_was_not_proven() {
    let p = PromotionSpec { accept_unproven_fence: false, ..policy() };
    let s = Suspicion::Healthy;
    let turn = EmbassyTurn::Wait(EmbassyWait::OverrideRequired);
    let asked = Evidence { request: Some(Verb::Override), turn, ..ready(&p, &s) };
    assert_eq!(decide(&asked, t(0)), Decision::Override);
    let incomplete = Evidence { omitted: Some("Deployment/portal: Rejected".into()), ..asked.clone() };
    assert_eq!(decide(&incomplete, t(0)), Decision::Override);
    let unproven = Evidence { proven: None, ..asked.clone() };
    assert!(matches!(decide(&unproven, t(0)), Decision::Hold(Gate::Unproven, _)));
    let lost = EmbassyTurn::Wait(EmbassyWait::Behind { epoch: None, high_water: 3 });
    assert_eq!(decide(&Evidence { turn: lost, ..asked.clone() }, t(0)), Decision::Override);
    let unread = EmbassyTurn::Wait(EmbassyWait::NoArbiter("timeout".into()));
    let blind = decide(&Evidence { turn: unread, ..asked.clone() }, t(0));
    assert!(matches!(blind, Decision::Hold(Gate::NoArbiter, _)), "{blind:?}");
    let retired = Evidence { retired: true, ..asked };
    assert_eq!(decide(&retired, t(0)), Decision::Stay);
}

#[test]
fn a_claim_that_stands_is_finished_even_if_home_looks_well_again() {
    let p = policy();
    let s = Suspicion::Healthy;
    let writ = Writ { epoch: 1, confirmed: true, ..Writ::default() };
    let confirm = Evidence { turn: EmbassyTurn::Confirm(writ), ..ready(&p, &s) };
    assert_eq!(decide(&confirm, t(0)), Decision::Confirm(writ));
    let held = Evidence { turn: EmbassyTurn::Held, ..ready(&p, &s) };
    assert_eq!(decide(&held, t(0)), Decision::Continue);
    assert_eq!(decide(&Evidence { promoted: true, ..held }, t(0)), Decision::Serving);
}

#[test]
fn a_copy_only_is_never_promoted() {
    let p = PromotionSpec { mode: PromotionMode::None, ..policy() };
    let s = suspect();
    for request in [None, Some(Verb::Promote), Some(Verb::Override)] {
        assert_eq!(decide(&Evidence { request, ..ready(&p, &s) }, t(0)), Decision::Stay);
    }
}

#[test]
fn a_spoilt_volume_is_never_taken_for_the_proven_one() {
    let last = |sequence, state| Some(LastRestore { sequence, state });
    let table = [
        (finish_restore(7, 7, None), RestoreStep::Done),
        (finish_restore(7, 7, last(7, RunState::Succeeded)), RestoreStep::Done),
        (finish_restore(8, 7, last(7, RunState::Succeeded)), RestoreStep::Restore(8)),
        (finish_restore(8, 7, last(8, RunState::Running)), RestoreStep::Wait),
        (finish_restore(8, 7, last(8, RunState::Failed)), RestoreStep::FallBack(7)),
        (finish_restore(7, 7, last(8, RunState::Failed)), RestoreStep::Restore(7)),
        (finish_restore(7, 7, last(7, RunState::Failed)), RestoreStep::Restore(7)),
        (finish_restore(7, 7, last(8, RunState::Succeeded)), RestoreStep::Restore(7)),
        (finish_restore(8, 8, last(8, RunState::Succeeded)), RestoreStep::Done),
    ];
    for (row, (found, wanted)) in table.into_iter().enumerate() {
        assert_eq!(found, wanted, "row {row}");
    }
}

/// One lost read of the ledger must not scale a serving embassy to zero.
#[test]
fn what_serves_by_the_record_serves_on_until_a_ledger_that_was_read_takes_the_writ_away() {
    let writ = |epoch, yielding| Some(Writ { epoch, yielding, confirmed: true, ..Writ::default() });
    let odd = writ(3, false);
    let serves = Record { served: Some(3), epoch: Some(3), read: true, writ: odd, step: None };
    let starts = Record { step: Some(PromotionStep::Start), served: None, ..serves };
    let table = [
        (serves, Standby::Serve),
        (Record { read: false, writ: None, ..serves }, Standby::Serve),
        (Record { writ: None, ..serves }, Standby::Serve),
        (Record { writ: writ(2, false), ..serves }, Standby::Serve),
        (Record { writ: writ(4, false), epoch: Some(4), ..serves }, Standby::Dark),
        (Record { writ: writ(3, true), ..serves }, Standby::Dark),
        (starts, Standby::Serve),
        (Record { read: false, writ: None, ..starts }, Standby::Serve),
        (Record { writ: writ(4, false), epoch: Some(4), ..starts }, Standby::Dark),
        (Record { step: Some(PromotionStep::RestoreObjects), ..starts }, Standby::Unknown),
        (Record { epoch: Some(2), writ: writ(2, false), read: true, ..Record::default() }, Standby::Dark),
        (Record { epoch: Some(2), ..Record::default() }, Standby::Unknown),
        (Record { epoch: Some(4), writ: writ(2, false), read: true, ..Record::default() }, Standby::Unknown),
        (Record { read: true, ..Record::default() }, Standby::Dark),
        (Record { read: true, epoch: Some(2), ..Record::default() }, Standby::Unknown),
        (Record::default(), Standby::Unknown),
    ];
    for (row, (record, wanted)) in table.into_iter().enumerate() {
        assert_eq!(standby(&record), wanted, "row {row}");
    }
}

#[test]
fn the_loss_reaches_to_the_claim_and_the_recovery_from_the_request() {
    // Suspect at 0, a human asks at 300, the writ is taken at 330; the dispatch was cut at 10.
    assert_eq!(started_at(Some(t(300)), Some(t(0)), t(330)), t(300));
    assert_eq!(started_at(None, Some(t(0)), t(330)), t(0));
    assert_eq!(started_at(None, None, t(330)), t(330));
    assert_eq!(started_at(Some(t(999)), None, t(330)), t(330), "a clock ahead of ours");
    let progress = PromotionProgress {
        step: PromotionStep::SwitchTraffic,
        reason: "r".into(),
        started_at: Time(t(300)),
        claimed_at: Some(Time(t(330))),
        sequence: 7,
        overridden: false,
    };
    let record = record(progress, Some(t(10)), 3, t(400));
    assert!((record.data_loss_seconds - 320.0).abs() < 0.001, "{record:?}");
    assert!((record.recovery_seconds - 100.0).abs() < 0.001, "{record:?}");
}

/// The status was lost while the embassy served: its volumes hold what it wrote.
#[test]
fn volumes_that_were_started_under_this_epoch_are_never_restored_over() {
    assert_eq!(resume(&[Some(3), Some(3)], 3), PromotionStep::Start);
    assert_eq!(resume(&[Some(3), None], 3), PromotionStep::Start);
    assert_eq!(resume(&[Some(3), None], 5), PromotionStep::FinishRestore);
    assert_eq!(resume(&[None], 3), PromotionStep::FinishRestore);
    assert_eq!(resume(&[], 3), PromotionStep::FinishRestore);
}

/// The condition and the phase must not say two things.
#[test]
fn under_manual_the_condition_says_so_until_a_human_asks() {
    let p = PromotionSpec { mode: PromotionMode::Manual, ..policy() };
    let s = suspect();
    let gate = |evidence: &Evidence<'_>| closed_gate(evidence, t(0)).map(|(gate, _)| gate);
    let lease = EmbassyTurn::Wait(EmbassyWait::LeaseNotExpired { unchanged_ms: 0, needed_ms: 1 });
    let lost = EmbassyTurn::Wait(EmbassyWait::NoArbiter("timeout".into()));
    assert_eq!(gate(&ready(&p, &s)), Some(Gate::ManualPromotion));
    assert_eq!(gate(&Evidence { turn: lease.clone(), ..ready(&p, &s) }), Some(Gate::ManualPromotion));
    assert_eq!(gate(&Evidence { turn: lost, ..ready(&p, &s) }), Some(Gate::NoArbiter));
    let asked = Evidence { request: Some(Verb::Promote), ..ready(&p, &s) };
    assert_eq!(gate(&asked), None);
    assert_eq!(gate(&Evidence { turn: lease, ..asked }), Some(Gate::LeaseNotExpired));
    assert!(closed_gate(&ready(&p, &s), t(0)).unwrap().1.contains("kubectl embassy promote"));
}
