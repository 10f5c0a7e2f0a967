#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;

fn at(seconds: u64) -> Boot {
    Boot(Duration::from_secs(seconds))
}
fn ledger(writ: Writ) -> Ledger {
    Ledger { writs: [("x".to_owned(), writ)].into() }
}
fn want(high_water: Option<u64>) -> BTreeMap<String, HomeWant> {
    [("x".to_owned(), HomeWant { high_water })].into()
}
const L: Duration = Duration::from_secs(30);
const R: Duration = Duration::from_secs(15);

#[test]
fn the_default_settings_hold_and_each_side_of_the_rule_is_enforced() {
    let (lease, fencing) = (LeaseSettings::default(), Fencing::default());
    check_settings(&lease, &fencing).unwrap();
    let short = LeaseSettings { duration: Span::secs(25), ..lease };
    assert!(matches!(check_settings(&short, &fencing), Err(SettingsError::TooShort { .. })));
    let long_pause = Fencing { max_pause: Span::secs(10), ..fencing };
    assert!(check_settings(&lease, &long_pause).is_err());
    let drift = LeaseSettings { rho_permille: 100, ..lease };
    assert!(check_settings(&drift, &fencing).is_err(), "rho counts");
    let hasty = LeaseSettings { renew: Span::secs(10), ..lease };
    assert!(matches!(check_settings(&hasty, &fencing), Err(SettingsError::RenewTooShort { .. })));
}

#[test]
fn home_makes_a_first_writ_and_is_granted_from_sending() {
    let turn = home_turn(&Ledger::default(), &want(None));
    assert_eq!(turn.next.writs["x"].epoch, 0);
    assert_eq!(home_permits(&turn, at(100), R)["x"], at(115));
}

#[test]
fn home_never_touches_an_odd_epoch_and_gets_no_permit_from_it() {
    let odd = Writ { epoch: 1, ..Writ::default() };
    let turn = home_turn(&ledger(odd), &want(Some(0)));
    assert_eq!(turn.next.writs["x"], odd);
    assert!(home_permits(&turn, at(100), R).is_empty());
}

#[test]
fn a_ledger_from_an_old_backup_votes_for_nobody() {
    for (seen, alarm) in [
        (ledger(Writ { epoch: 2, ..Writ::default() }), Alarm::Behind { epoch: 2, high_water: 4 }),
        (Ledger::default(), Alarm::Missing { high_water: 4 }),
    ] {
        let turn = home_turn(&seen, &want(Some(4)));
        assert_eq!(turn.alarms["x"], alarm);
        assert!(home_permits(&turn, at(1), R).is_empty(), "no permit from a ledger that went back");
        assert!(turn.next.writs.get("x") == seen.writs.get("x"), "and nothing is repaired in silence");
    }
}

fn evidence(arbiter: Arbiter, writ: Option<&Writ>) -> HomeEvidence<'_> {
    HomeEvidence { arbiter, high_water: Some(0), writ, read: writ.is_some(), permit: None, asked: true }
}

#[test]
fn home_without_evidence_may_not_write() {
    let even = Writ::default();
    let base = evidence(Arbiter::Embassy, Some(&even));
    assert!(matches!(home_right(&base, at(1)), HomeRight::Denied(_)));
    let permit = HomeEvidence { permit: Some(at(10)), ..base };
    assert_eq!(home_right(&permit, at(9)), HomeRight::Granted(Some(at(10))));
    assert!(matches!(home_right(&permit, at(10)), HomeRight::Denied(_)), "the end is exclusive");
    let fresh = HomeEvidence { asked: false, ..base };
    assert_eq!(home_right(&fresh, at(1)), HomeRight::Unknown, "a starting operator asks first");
}

#[test]
fn home_remembers_that_it_lost_the_writ_although_the_ledger_is_out_of_reach() {
    for arbiter in [Arbiter::Home, Arbiter::Embassy] {
        let lost = HomeEvidence { high_water: Some(1), permit: Some(at(99)), ..evidence(arbiter, None) };
        assert!(matches!(home_right(&lost, at(1)), HomeRight::Denied(_)), "{arbiter:?}");
    }
}

/// Deleted and made anew at home, without its status, while the embassy may hold the writ.
#[test]
fn without_a_past_and_before_the_ledger_was_read_nothing_is_let_go() {
    for arbiter in [Arbiter::Home, Arbiter::Embassy] {
        let anew = HomeEvidence { high_water: None, asked: true, ..evidence(arbiter, None) };
        assert_eq!(home_right(&anew, at(1)), HomeRight::Unknown, "{arbiter:?}");
        let read = HomeEvidence { read: true, ..anew };
        assert_eq!(home_right(&read, at(1)), HomeRight::Granted(None), "nobody can claim: {arbiter:?}");
    }
}

#[test]
fn under_arbiter_home_a_cut_link_changes_nothing() {
    let cut = HomeEvidence { asked: true, ..evidence(Arbiter::Home, None) };
    assert_eq!(home_right(&cut, at(1_000_000)), HomeRight::Granted(None));
}

#[test]
fn the_embassy_claims_only_after_l_of_stillness() {
    let even = Writ::default();
    let turn = |unchanged| embassy_turn(Arbiter::Embassy, Ok(Some(&even)), unchanged, L);
    assert!(matches!(turn(None), EmbassyTurn::Wait(EmbassyWait::LeaseNotExpired { .. })));
    assert!(matches!(turn(Some(L - Duration::from_millis(1))), EmbassyTurn::Wait(_)));
    let EmbassyTurn::Claim(claim) = turn(Some(L)) else { unreachable!("L has passed") };
    assert_eq!((claim.epoch, claim.confirmed), (1, false));
    let confirm = embassy_turn(Arbiter::Embassy, Ok(Some(&claim)), Some(Duration::ZERO), L);
    let EmbassyTurn::Confirm(confirmed) = confirm else { unreachable!("claimed") };
    assert!(!claim.grants_embassy(), "a claim alone grants nothing");
    assert!(confirmed.grants_embassy());
}

#[test]
fn unknown_means_wait() {
    assert!(matches!(
        embassy_turn(Arbiter::Embassy, Err("timeout"), Some(L), L),
        EmbassyTurn::Wait(EmbassyWait::NoArbiter(_))
    ));
    assert_eq!(embassy_turn(Arbiter::Embassy, Ok(None), Some(L), L), EmbassyTurn::Wait(EmbassyWait::NoWrit));
}

#[test]
fn under_arbiter_home_only_a_human_moves_the_writ() {
    let even = Writ { epoch: 2, ..Writ::default() };
    assert_eq!(
        embassy_turn(Arbiter::Home, Ok(Some(&even)), Some(L * 100), L),
        EmbassyTurn::Wait(EmbassyWait::OverrideRequired)
    );
    let taken = override_writ(Some(&even), Some(2));
    assert_eq!(taken, Writ { epoch: 3, confirmed: true, overridden: true, yielding: false });
    assert_eq!(override_writ(Some(&taken), Some(3)).epoch, 3, "a second override takes no second epoch");
}

#[test]
fn any_new_version_starts_the_timer_again_and_a_restart_forgets_it() {
    let mut sighting = Sighting::default();
    assert_eq!(sighting.unchanged_for(at(5)), None);
    sighting.observe("7", at(10));
    sighting.observe("7", at(20));
    assert_eq!(sighting.unchanged_for(at(40)), Some(Duration::from_secs(30)));
    sighting.observe("8", at(41));
    assert_eq!(sighting.unchanged_for(at(41)), Some(Duration::ZERO));
}

/// The heart of it, for every pair of moments: a permit granted by the last update before the
/// ledger stood still ends, with pause and fence, before the embassy can claim.
#[test]
fn no_permit_of_home_outlives_the_wait_of_the_embassy() {
    let (lease, fencing) = (LeaseSettings::default(), Fencing::default());
    let rho = f64::from(lease.rho_permille) / 1000.0;
    let (kf, l) = (fencing.max_pause.get() + fencing.max_fence_time.get(), lease.duration.get());
    // Home's clock slow, the embassy's fast: the worst case. The update landed just after sending,
    // and the embassy read it at once.
    let last_write = (lease.renew.get() + kf).as_secs_f64() / (1.0 - rho);
    let first_claim = l.as_secs_f64() / (1.0 + rho);
    assert!(last_write <= first_claim, "{last_write} > {first_claim}");
}

/// The writ was lost with its ledger, or fell back with it: an override must still come to an end,
/// above every epoch that was seen.
#[test]
fn an_override_goes_above_all_that_was_seen() {
    let writ = |epoch| Writ { epoch, ..Writ::default() };
    for (stands, high_water, wanted) in [
        (None, None, 1),
        (None, Some(2), 3),
        (None, Some(3), 5),
        (Some(0), Some(4), 5),
        (Some(1), Some(4), 5),
        (Some(3), Some(5), 7),
        (Some(4), Some(2), 5),
        (Some(4), None, 5),
        (Some(5), Some(4), 5),
    ] {
        let stands = stands.map(writ);
        let taken = override_writ(stands.as_ref(), high_water);
        assert_eq!(taken.epoch, wanted, "{stands:?} {high_water:?}");
        assert!(taken.grants_embassy() && taken.overridden, "{stands:?}");
        assert!(may_write(stands.as_ref(), &taken), "{stands:?}");
        let lost = stands.map(|w| w.epoch) < high_water;
        assert_eq!(behind(stands.as_ref(), high_water).is_some(), lost, "{stands:?} {high_water:?}");
    }
    assert!(!may_write(Some(&writ(4)), &writ(3)), "epochs only rise");
    assert!(may_write(Some(&writ(3)), &writ(3)), "a confirmation keeps the epoch");
}

/// The k-th takeover of a pair must not wait for k times L; and what home writes still counts.
#[test]
fn our_own_update_keeps_the_timer_and_anybody_else_s_starts_it_again() {
    let seen = |versions: &[(&str, u64)]| {
        let mut sighting = Sighting::default();
        versions.iter().for_each(|(version, second)| sighting.observe(version, at(*second)));
        sighting
    };
    // What was sighted when the update left, what has been read since, kept, and for how long at 50.
    for (sent_on, now, kept, unchanged) in [
        (seen(&[("7", 10)]), seen(&[("7", 10)]), true, 40),
        (seen(&[("7", 10)]), seen(&[("7", 10), ("8", 41)]), true, 40),
        (seen(&[("7", 10)]), seen(&[("7", 10), ("9", 41)]), false, 9),
        (seen(&[("6", 1)]), seen(&[("6", 1), ("7", 10)]), false, 40),
        (Sighting::default(), Sighting::default(), false, 0),
        (Sighting::default(), seen(&[("8", 41)]), false, 9),
    ] {
        let mut sighting = now.clone();
        assert_eq!(sighting.own_write(&sent_on, "8"), kept, "{sent_on:?} {now:?}");
        assert_eq!(
            sighting.unchanged_for(at(50)).unwrap_or_default(),
            Duration::from_secs(unchanged),
            "{sent_on:?} {now:?}"
        );
    }
    let mut ours = seen(&[("7", 10)]);
    ours.own_write(&seen(&[("7", 10)]), "8");
    ours.observe("9", at(45));
    assert_eq!(ours.unchanged_for(at(50)), Some(Duration::from_secs(5)), "home's next update counts");
}
