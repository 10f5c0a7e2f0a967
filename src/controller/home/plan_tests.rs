#![allow(clippy::unwrap_used, clippy::panic)]
use super::super::testing::*;
use super::super::validate::validate;
use super::*;
use crate::api::duration::Span;
use crate::api::request::{RequestState, Verb};
use crate::controller::home::observation::Request;

const START: &str = "2026-03-01T12:01:30Z";

fn decide(seen: &Observation) -> Plan {
    plan(seen, &validate(seen))
}

/// The step in one line, for tables.
fn said(seen: &Observation) -> String {
    match decide(seen).step {
        Step::Idle(next) => format!("Idle {}", next.map(|t| t.to_string()).unwrap_or_default()),
        Step::Held { reason, .. } => format!("Held {reason}"),
        Step::Begin { trigger, attempt } => format!("Begin {trigger} {attempt}"),
        Step::AwaitCut(_) => "AwaitCut".into(),
        Step::AwaitMover(_) => "AwaitMover".into(),
        Step::End(ending) => match ending.failure {
            Some((reason, _)) => format!("End {reason}"),
            None => "End".into(),
        },
        other => format!("{other:?}"),
    }
}

fn request(name: &str, token: &str, state: Option<RequestState>) -> Request {
    Request {
        name: name.into(),
        verb: Verb::Sync,
        token: token.into(),
        created: Some(at(START)),
        state,
        message: None,
    }
}

#[test]
fn what_is_due() {
    let sync = |edit: fn(&mut SyncSpec)| {
        let mut seen = observation();
        edit(&mut seen.policies.first_mut().unwrap().spec.sync);
        seen
    };
    let later = |mut seen: Observation, now: &str| {
        seen.now = at(now);
        seen
    };
    let table = [
        (observation(), "Idle 2026-03-01T12:05:00Z"),
        (later(observation(), "2026-03-01T12:05:00Z"), "Begin schedule/2026-03-01T12:05:00Z 1"),
        // Missed for hours: once, for the newest time.
        (later(observation(), "2026-03-01T18:03:00Z"), "Begin schedule/2026-03-01T18:00:00Z 1"),
        (sync(|s| s.suspend = true), "Idle "),
        (sync(|s| s.schedule = None), "Idle "),
        (
            sync(|s| {
                s.schedule = None;
                s.interval = Some(Span::secs(60));
            }),
            "Begin schedule/2026-03-01T12:01:00Z 1",
        ),
        (
            sync(|s| {
                s.schedule = None;
                s.interval = Some(Span::secs(180));
            }),
            "Idle 2026-03-01T12:03:00Z",
        ),
    ];
    for (seen, expected) in table {
        assert_eq!(said(&seen), expected);
    }
}

#[test]
fn the_first_dispatch_does_not_wait_for_the_schedule() {
    let mut seen = observation();
    seen.object.status = None;
    assert_eq!(said(&seen), "Begin schedule/2026-03-01T10:00:00Z 1");
    seen.policies.first_mut().unwrap().spec.sync.schedule = None;
    assert_eq!(said(&seen), "Idle ");
}

#[test]
fn jitter_moves_a_start_by_its_own_amount_and_no_occurrence_is_lost() {
    let mut seen = observation();
    seen.policies.first_mut().unwrap().spec.sync.jitter = Span::secs(120);
    let late = jitter("uid-1", Duration::from_secs(120));
    seen.now = at("2026-03-01T12:05:00Z");
    assert_eq!(said(&seen), format!("Idle {}", after(at("2026-03-01T12:05:00Z"), late)));
    seen.now = after(at("2026-03-01T12:05:00Z"), late);
    assert_eq!(said(&seen), "Begin schedule/2026-03-01T12:05:00Z 1");
    // It began a fraction of a second after its whole second: the same time is not due again.
    let start = whole_second(seen.now).to_string();
    set_run(&mut seen, run("schedule/2026-03-01T12:05:00Z", &start, RunState::Succeeded));
    assert_eq!(said(&seen), format!("Idle {}", after(at("2026-03-01T12:10:00Z"), late)));
}

#[test]
fn a_failed_run_is_tried_again_with_back_off() {
    let mut seen = observation();
    let failed = run("schedule/2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z", RunState::Failed);
    set_run(
        &mut seen,
        RunStatus { next_attempt: Some(Time(at("2026-03-01T12:02:10Z"))), attempt: 3, ..failed },
    );
    assert_eq!(said(&seen), "Idle 2026-03-01T12:02:10Z");
    seen.now = at("2026-03-01T12:02:10Z");
    assert_eq!(said(&seen), "Begin schedule/2026-03-01T12:00:00Z 4");
    // A new request does not wait for it.
    seen.now = at("2026-03-01T12:02:00Z");
    seen.requests = vec![request("now", "token-1", None)];
    assert_eq!(said(&seen), "Begin request/now 1");
}

#[test]
fn gates() {
    type Edit = fn(&mut Observation);
    let table: [(Edit, &str); 9] = [
        (|s| s.writ.right = Right::Denied("epoch 1".into()), "Held Fenced"),
        (|s| s.writ.right = Right::Unknown, "Held LedgerUnknown"),
        (|s| s.writ.epoch = None, "Held LedgerUnknown"),
        (|s| s.writ.alarm = Some("restored".into()), "Held LedgerAlarm"),
        (|s| s.embassy.mirror = None, "Held EmbassyUnknown"),
        (|s| s.embassy.mirror.as_mut().unwrap().status.vault = None, "Held VaultNotReady"),
        (|s| s.embassy.vault_client = None, "Held VaultNotReady"),
        (|s| s.claims.clear(), "Held NoVolumes"),
        (
            |s| s.pairing = crate::controller::home::observation::Pairing::SecretMissing,
            "Held KubeconfigMissing",
        ),
    ];
    for (edit, expected) in table {
        let mut seen = observation();
        seen.now = at("2026-03-01T12:05:00Z");
        edit(&mut seen);
        assert_eq!(said(&seen), expected);
    }
    let mut seen = observation();
    seen.running_movers = 4;
    assert!(matches!(busy(&seen, 4), Some(Step::Held { reason: "MoversBusy", .. })));
    assert!(busy(&seen, 5).is_none());
}

#[test]
fn the_way_of_a_cut() {
    let mut seen = under_way(START);
    assert_eq!(said(&seen), "Cut");
    seen.now = at("2026-03-01T12:02:01Z");
    assert_eq!(said(&seen), "Recut", "nothing was cut for half a minute: the time would be too old");
    // Once only: what cannot be cut twice is a failed try, with its back-off and its Event.
    let cut = |seen: &mut Observation, at_: &str| {
        seen.object.status.as_mut().unwrap().run.as_mut().unwrap().cut_time = Some(Time(at(at_)));
    };
    cut(&mut seen, "2026-03-01T12:02:01Z");
    assert_eq!(said(&seen), "Cut");
    seen.now = at("2026-03-01T12:02:32Z");
    assert_eq!(said(&seen), "End CutNotMade");
    cut(&mut seen, START);
    seen.now = at("2026-03-01T12:02:01Z");
    seen.temporaries = vec![snapshot(START, "data-0", true)];
    assert_eq!(said(&seen), "Cut");
    seen.now = at("2026-03-01T12:02:31Z");
    assert_eq!(said(&seen), "End CutInterrupted");
    seen.temporaries.push(snapshot(START, "data-1", false));
    assert_eq!(said(&seen), "AwaitCut");
    seen.temporaries.iter_mut().for_each(|t| t.error = Some("no class".into()));
    assert_eq!(said(&seen), "End SnapshotFailed");
    seen.temporaries.iter_mut().for_each(|t| t.error = None);
    seen.now = at("2026-03-01T12:20:00Z");
    assert_eq!(said(&seen), "End SnapshotTimeout");
    seen.temporaries.iter_mut().for_each(|t| t.ready = true);
    assert_eq!(said(&seen), "StartMover");
    seen.now = at("2026-03-01T12:31:31Z");
    assert_eq!(said(&seen), "End MoverNotStarted");
    seen.writ.right = Right::Denied("lapsed".into());
    assert_eq!(said(&seen), "End Fenced");
}

#[test]
fn direct_starts_at_once() {
    let mut seen = under_way(START);
    seen.policies.first_mut().unwrap().spec.sync.copy_method = CopyMethod::Direct;
    assert_eq!(said(&seen), "StartMover");
}

#[test]
fn the_ends_of_a_mover() {
    let good = MoverReport { success: true, sequence: Some(4), ..MoverReport::default() };
    let full = MoverReport { reason: Some(MoverReason::VaultFull), ..MoverReport::default() };
    let mut seen = under_way(START);
    for (job, expected) in [
        (job(START, Some(good.clone())), "End"),
        (job(START, Some(full)), "End VaultFull"),
        (job(START, None), "End MoverLost"),
        (MoverJob { complete: false, failed: None, ..job(START, None) }, "AwaitMover"),
        (MoverJob { failed: Some("DeadlineExceeded".into()), ..job(START, None) }, "End MoverTimeout"),
        // Exit code and report disagree: not a success.
        (
            MoverJob { complete: false, failed: Some("x".into()), ..job(START, Some(good.clone())) },
            "End Failed",
        ),
        (MoverJob { failed: None, deleting: true, ..job(START, None) }, "End MoverLost"),
    ] {
        seen.jobs = vec![job];
        assert_eq!(said(&seen), expected);
    }
    seen.jobs = vec![];
    seen.object.status.as_mut().unwrap().run.as_mut().unwrap().job = Some(name_of(START));
    assert_eq!(said(&seen), "End MoverLost");
}

#[test]
fn a_mover_that_cannot_run_is_given_up_with_its_cause() {
    let mut seen = under_way(START);
    let waiting = Some("ImagePullBackOff: no such image".to_owned());
    let stuck = MoverJob { complete: false, failed: None, created: Some(at(START)), ..job(START, None) };
    let minutes = |n: u64| after(at(START), Duration::from_secs(60 * n));
    for (job, now, expected, words) in [
        (stuck.clone(), at(START), "AwaitMover", ""),
        (stuck.clone(), minutes(1), "AwaitMover", "no pod was created"),
        (MoverJob { pod: true, ..stuck.clone() }, minutes(1), "AwaitMover", "waits for a node"),
        (stuck.clone(), minutes(10), "End MoverNotStarted", "no pod was created"),
        (
            MoverJob { pod: true, waiting, ..stuck.clone() },
            minutes(11),
            "End MoverNotStarted",
            "no such image",
        ),
        (MoverJob { pod: true, started: true, ..stuck.clone() }, minutes(600), "AwaitMover", ""),
    ] {
        (seen.jobs, seen.now) = (vec![job], now);
        assert_eq!(said(&seen), expected);
        let decided = decide(&seen);
        let message = match decided.step {
            Step::AwaitMover(message) => message.unwrap_or_default(),
            Step::End(ending) => ending.failure.unwrap().1,
            other => panic!("{other:?}"),
        };
        assert!(message.contains(words) && message.is_empty() == words.is_empty(), "{message}");
        // Its Job goes with it, or it would run late.
        assert_eq!(decided.old_jobs.len(), usize::from(expected.starts_with("End")));
    }
    seen.jobs = vec![stuck];
    let completion_time = Some(Time(seen.now));
    set_run(&mut seen, RunStatus { completion_time, ..run("x", START, RunState::Failed) });
    assert_eq!(decide(&seen).old_jobs.len(), 1, "also if the operator died in between");
}

#[test]
fn a_run_is_followed_to_its_end_whatever_else_is_wrong() {
    let mut seen = under_way(START);
    seen.claims.clear();
    seen.writ.right = Right::Denied("lapsed".into());
    seen.jobs = vec![MoverJob { complete: false, failed: None, ..job(START, None) }];
    assert_eq!(said(&seen), "AwaitMover");
}

#[test]
fn leftovers_go_and_what_the_run_needs_stays() {
    let mut seen = under_way(START);
    let old = "2026-03-01T11:00:00Z";
    seen.temporaries = vec![snapshot(START, "data-0", true), snapshot(old, "data-0", true)];
    seen.jobs = vec![job(old, None)];
    let decided = decide(&seen);
    assert_eq!(decided.leftovers, [snapshot(old, "data-0", true)]);
    assert_eq!(decided.old_jobs, [(name_of(old), "job-uid".to_owned())]);
    // The run ends: all temporaries go, its Job stays for its log.
    seen.jobs = vec![job(START, Some(MoverReport { success: true, ..MoverReport::default() }))];
    let decided = decide(&seen);
    assert_eq!(decided.leftovers.len(), 2);
    assert!(decided.old_jobs.is_empty());
    // What it said is in the status now: the Job goes, because its pod still holds the claims.
    let ended =
        |state, end: &str| RunStatus { completion_time: Some(Time(at(end))), ..run("x", START, state) };
    for (state, end, gone) in [
        (RunState::Succeeded, "2026-03-01T12:01:40Z", true),
        (RunState::Failed, "2026-03-01T12:01:40Z", false),
        (RunState::Failed, "2026-03-01T11:01:40Z", true),
    ] {
        set_run(&mut seen, ended(state, end));
        assert_eq!(!decide(&seen).old_jobs.is_empty(), gone, "{state:?} {end}");
    }
}

#[test]
fn requests_are_pinned_at_the_start() {
    // It comes while another run is under way: it gets its own one.
    let mut seen = under_way(START);
    seen.requests = vec![request("now", "token-1", None)];
    let decided = decide(&seen);
    assert_eq!(decided.answers.first().unwrap().state, RequestState::Accepted);
    seen.object.status.as_mut().unwrap().run.as_mut().unwrap().state = Some(RunState::Succeeded);
    seen.requests = vec![request("now", "token-1", Some(RequestState::Accepted))];
    assert_eq!(said(&seen), "Begin request/now 1");
    // Its own run succeeded: done, and no second run.
    set_run(&mut seen, run("request/now", START, RunState::Succeeded));
    let decided = decide(&seen);
    assert_eq!(decided.answers.first().unwrap().state, RequestState::Completed);
    assert_eq!(said(&seen), "Idle 2026-03-01T12:05:00Z");
    // The same token again is the same request.
    seen.requests =
        vec![request("now", "token-1", Some(RequestState::Completed)), request("again", "token-1", None)];
    let decided = decide(&seen);
    assert_eq!(decided.answers.first().unwrap().state, RequestState::Completed);
    assert_eq!(said(&seen), "Idle 2026-03-01T12:05:00Z");
}

#[test]
fn what_is_asked_for_at_the_wrong_site_is_refused_and_makes_no_dispatch() {
    let mut seen = observation();
    for verb in [Verb::Promote, Verb::Override, Verb::Retire] {
        seen.requests = vec![Request { verb, ..request("now", "token-1", None) }];
        let answers = decide(&seen).answers;
        assert_eq!(answers.first().unwrap().state, RequestState::Refused);
        assert!(answers.first().unwrap().message.contains("at the embassy"));
        assert_eq!(said(&seen), "Idle 2026-03-01T12:05:00Z");
    }
}

#[test]
fn an_end_is_written_down() {
    let before = run("request/now", START, RunState::Running);
    let report = MoverReport {
        success: true,
        sequence: Some(9),
        files: 5,
        bytes_added: 77,
        duration_seconds: 1.5,
        ..MoverReport::default()
    };
    let (after_run, dispatch) = ended(&before, &Ending { report: Some(report), failure: None }, at(NOW));
    let dispatch = dispatch.unwrap();
    assert_eq!((dispatch.sequence, dispatch.files, dispatch.bytes_added), (9, 5, 77));
    assert_eq!(dispatch.cut_time.unwrap().0, at(START), "the time of the cut, not of the end");
    assert_eq!(after_run.state, Some(RunState::Succeeded));
    let failure = Ending { report: None, failure: Some(("VaultFull".into(), "full".into())) };
    let (after_run, dispatch) = ended(&RunStatus { attempt: 2, ..before }, &failure, at(NOW));
    assert!(dispatch.is_none());
    assert_eq!(after_run.next_attempt.unwrap().0, at("2026-03-01T12:02:20Z"));
}

#[test]
fn an_observation_survives_json() {
    let seen = under_way(START);
    let text = serde_json::to_string(&seen).unwrap();
    let back: Observation = serde_json::from_str(&text).unwrap();
    assert_eq!(said(&back), said(&seen));
}
