#![allow(clippy::unwrap_used)]
use super::*;

fn clockwork(cron: &str, zone: &str) -> Clockwork {
    Clockwork::parse(&Schedule { cron: cron.into(), time_zone: Some(zone.into()) }).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_missed_schedule_runs_once_and_for_its_newest_time() {
    let five = clockwork("*/5 * * * *", "UTC");
    let latest = five.latest(at("2026-03-01T10:00:00Z"), at("2026-03-01T11:59:59Z"));
    assert_eq!(latest, Some(at("2026-03-01T11:55:00Z")));
    assert_eq!(five.latest(at("2026-03-01T11:55:00Z"), at("2026-03-01T11:59:59Z")), None);
    assert_eq!(five.next(at("2026-03-01T11:55:00Z")), Some(at("2026-03-01T12:00:00Z")));
}

#[test]
fn zones_count() {
    let three = clockwork("0 3 * * *", "Europe/Tallinn");
    assert_eq!(three.next(at("2026-01-10T02:00:00Z")), Some(at("2026-01-11T01:00:00Z")));
    assert_eq!(three.next(at("2026-07-10T02:00:00Z")), Some(at("2026-07-11T00:00:00Z")));
}

#[test]
fn a_time_that_spring_leaves_out_runs_at_the_transition() {
    // Tallinn 2026-03-29: 03:00 EET becomes 04:00 EEST at 01:00Z.
    let job = clockwork("30 3 * * *", "Europe/Tallinn");
    let noon = at("2026-03-28T10:00:00Z");
    assert_eq!(job.next(noon), Some(at("2026-03-29T01:00:00Z")));
    assert_eq!(job.latest(noon, at("2026-03-29T12:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
    assert_eq!(job.next(at("2026-03-29T01:00:00Z")), Some(at("2026-03-30T00:30:00Z")));
}

#[test]
fn a_time_that_autumn_repeats_runs_once_and_a_rhythm_goes_on() {
    // Tallinn 2026-10-25: 04:00 EEST becomes 03:00 EET at 01:00Z.
    let job = clockwork("30 3 * * *", "Europe/Tallinn");
    let first = at("2026-10-25T00:30:00Z");
    assert_eq!(job.next(at("2026-10-24T12:00:00Z")), Some(first));
    assert_eq!(job.next(first), Some(at("2026-10-26T01:30:00Z")));
    assert_eq!(job.latest(first, at("2026-10-25T02:00:00Z")), None);
    let rhythm = clockwork("*/30 * * * *", "Europe/Tallinn");
    let mut seen = vec![];
    let mut cursor = at("2026-10-24T23:59:00Z");
    for _ in 0..6 {
        cursor = rhythm.next(cursor).unwrap();
        seen.push(cursor.to_string());
    }
    assert_eq!(
        seen.join(" "),
        "2026-10-25T00:00:00Z 2026-10-25T00:30:00Z 2026-10-25T01:00:00Z 2026-10-25T01:30:00Z \
         2026-10-25T02:00:00Z 2026-10-25T02:30:00Z"
    );
}

#[test]
fn next_and_latest_agree_through_a_year() {
    for (cron, zone) in
        [("*/45 * * * *", "Europe/Tallinn"), ("15 2,3 * * 0", "America/New_York"), ("0 0 1 * *", "UTC")]
    {
        let clockwork = clockwork(cron, zone);
        let mut cursor = at("2026-01-01T00:00:00Z");
        while cursor < at("2026-12-31T00:00:00Z") {
            let next = clockwork.next(cursor).unwrap();
            assert!(next > cursor, "{cron} {zone} {cursor}");
            assert_eq!(clockwork.latest(cursor, next), Some(next), "{cron} {zone} {cursor}");
            let before = next - SignedDuration::from_secs(1);
            assert_eq!(clockwork.latest(cursor, before), None, "{cron} {zone} {cursor}");
            cursor = next;
        }
    }
}

#[test]
fn what_never_comes_or_does_not_parse_is_refused() {
    for (cron, zone) in [
        ("0 0 30 2 *", "UTC"),
        ("* * * *", "UTC"),
        ("0 * * * * *", "UTC"),
        ("61 * * * *", "UTC"),
        ("0 0 * * *", "Mars/Olympus"),
    ] {
        let schedule = Schedule { cron: cron.into(), time_zone: Some(zone.into()) };
        assert!(Clockwork::parse(&schedule).is_err(), "{cron} {zone}");
    }
}

#[test]
fn jitter_is_deterministic_and_bounded() {
    let span = Duration::from_secs(30);
    assert_eq!(jitter("a", span), jitter("a", span));
    assert_ne!(jitter("a", span), jitter("b", span));
    assert!((0..100).all(|i| jitter(&i.to_string(), span) < span));
    assert_eq!(jitter("a", Duration::ZERO), Duration::ZERO);
}

#[test]
fn backoff_doubles_up_to_five_minutes() {
    let waits: Vec<u64> = (1..=8).map(|n| backoff(n).as_secs()).collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!(backoff(u32::MAX).as_secs(), 300);
}
