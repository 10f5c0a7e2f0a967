#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use super::*;
use crate::api::duration::Span;
use proptest::prelude::*;

fn check(failures: i32, successes: i32) -> HealthCheck {
    HealthCheck {
        name: "portal".into(),
        http: None,
        tcp: None,
        period: Span::secs(5),
        timeout: Span::secs(2),
        failure_threshold: failures,
        success_threshold: successes,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn bad() -> ProbeResult {
    ProbeResult::Failed("connection refused".into())
}

fn blind() -> ProbeResult {
    ProbeResult::Unknown("no resolver".into())
}

fn run(check: &HealthCheck, results: &[ProbeResult]) -> (CheckState, Verdict) {
    let mut state = CheckState::default();
    let mut now = at(0);
    for (i, result) in results.iter().enumerate() {
        now = at(5 * i64::try_from(i).unwrap());
        state = observe(&state, check, result.clone(), now);
    }
    let verdict = verdict(&state, check, now);
    (state, verdict)
}

#[test]
fn thresholds_decide() {
    let c = check(3, 2);
    assert!(matches!(run(&c, &[]).1, Verdict::Unknown(_)));
    assert_eq!(run(&c, &[ProbeResult::Ok]).1, Verdict::Healthy);
    assert_eq!(run(&c, &[ProbeResult::Ok, bad(), bad()]).1, Verdict::Healthy);
    assert_eq!(run(&c, &[bad(), bad(), bad()]).1, Verdict::Failed("connection refused".into()));
    let one_good = [bad(), bad(), bad(), ProbeResult::Ok];
    assert!(matches!(run(&c, &one_good).1, Verdict::Failed(_)), "one good try is not yet well");
    let two_good = [bad(), bad(), bad(), ProbeResult::Ok, ProbeResult::Ok];
    assert_eq!(run(&c, &two_good).1, Verdict::Healthy);
}

#[test]
fn an_operator_that_slept_knows_nothing() {
    let c = check(1, 1);
    let state = observe(&CheckState::default(), &c, bad(), at(0));
    assert!(matches!(verdict(&state, &c, at(28)), Verdict::Failed(_)));
    assert!(matches!(verdict(&state, &c, at(29)), Verdict::Unknown(_)));
}

#[test]
fn suspicion_counts_failed_only() {
    let failed = || Verdict::Failed("x".into());
    let unknown = || Verdict::Unknown("y".into());
    assert_eq!(suspect(FailWhen::All, &[]), Suspicion::Unknown("no health checks".into()));
    let both = [("a", failed()), ("b", unknown())];
    assert_eq!(suspect(FailWhen::All, &both), Suspicion::Unknown("b: y".into()));
    assert_eq!(suspect(FailWhen::Any, &both), Suspicion::Suspect("a: x".into()));
    let well = [("a", Verdict::Healthy), ("b", unknown())];
    assert_eq!(suspect(FailWhen::All, &well), Suspicion::Healthy);
    assert!(matches!(suspect(FailWhen::Any, &well), Suspicion::Unknown(_)));
    assert!(matches!(suspect(FailWhen::AtLeast(3), &both), Suspicion::Unknown(_)));
    assert!(matches!(suspect(FailWhen::AtLeast(0), &well), Suspicion::Unknown(_)));
}

#[test]
fn the_row_of_suspicion_breaks_on_missing_evidence() {
    let sus = Suspicion::Suspect("x".into());
    let since = suspect_since(None, &sus, at(10));
    assert_eq!(since, Some(at(10)));
    assert_eq!(suspect_since(since, &sus, at(20)), Some(at(10)));
    assert_eq!(suspect_since(since, &sus, at(5)), Some(at(5)), "the clock was set back");
    assert_eq!(suspect_since(since, &Suspicion::Unknown("y".into()), at(20)), None);
    assert_eq!(suspect_since(since, &Suspicion::Healthy, at(20)), None);
    assert!(!stable(since, std::time::Duration::from_secs(30), at(39)));
    assert!(stable(since, std::time::Duration::from_secs(30), at(40)));
    assert!(!stable(None, std::time::Duration::ZERO, at(40)));
}

fn result() -> impl Strategy<Value = ProbeResult> {
    prop_oneof![Just(ProbeResult::Ok), Just(bad()), Just(blind())]
}

fn verdict_of() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Healthy), Just(Verdict::Failed("x".into())), Just(Verdict::Unknown("y".into()))]
}

proptest! {
    /// Flapping below the threshold never fails: a check is Failed only after `failureThreshold`
    /// failed tries in a row somewhere before.
    #[test]
    fn failed_needs_a_whole_row(results in prop::collection::vec(result(), 0..40), n in 1i32..6) {
        let c = check(n, 2);
        let (_, verdict) = run(&c, &results);
        let mut row = 0;
        let mut reached = false;
        for r in &results {
            row = if *r == bad() { row + 1 } else { 0 };
            reached |= row >= n;
        }
        prop_assert!(reached || !matches!(verdict, Verdict::Failed(_)));
    }

    /// The last try was Unknown: so is the verdict, whatever was before.
    #[test]
    fn unknown_holds(results in prop::collection::vec(result(), 0..40), n in 1i32..6, m in 1i32..6) {
        let mut results = results;
        results.push(blind());
        let (state, verdict) = run(&check(n, m), &results);
        prop_assert!(matches!(verdict, Verdict::Unknown(_)));
        prop_assert_eq!((state.failures, state.successes), (0, 0));
    }

    /// Enough good tries heal, enough bad ones fail, from every state.
    #[test]
    fn it_settles(results in prop::collection::vec(result(), 0..40), n in 1i32..6, m in 1i32..6) {
        let c = check(n, m);
        let mut good = results.clone();
        good.extend((0..m).map(|_| ProbeResult::Ok));
        prop_assert_eq!(run(&c, &good).1, Verdict::Healthy);
        let mut worse = results;
        worse.extend((0..n).map(|_| bad()));
        prop_assert!(matches!(run(&c, &worse).1, Verdict::Failed(_)));
    }

    /// The order of the checks does not matter, and knowing more never turns Suspect or Healthy round:
    /// whatever an Unknown check turns out to be, a judgement made without it stands.
    #[test]
    fn judgement_is_monotone(
        verdicts in prop::collection::vec(verdict_of(), 1..8),
        k in 0u32..8,
        learnt in verdict_of(),
    ) {
        let word = |s: &Suspicion| match s {
            Suspicion::Suspect(_) => 1, Suspicion::Healthy => 0, Suspicion::Unknown(_) => -1
        };
        for fail_when in [FailWhen::All, FailWhen::Any, FailWhen::AtLeast(k)] {
            let named: Vec<_> = verdicts.iter().map(|v| ("c", v.clone())).collect();
            let before = word(&suspect(fail_when, &named));
            let mut reversed = named.clone();
            reversed.reverse();
            prop_assert_eq!(before, word(&suspect(fail_when, &reversed)));
            if let Some(i) = named.iter().position(|(_, v)| matches!(v, Verdict::Unknown(_))) {
                let mut more = named.clone();
                more[i].1 = learnt.clone();
                let after = word(&suspect(fail_when, &more));
                prop_assert!(before == -1 || before == after);
            }
        }
    }
}
