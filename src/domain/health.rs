//! State of health checks: what a row of tries means, and when home is suspect.
//!
//! Pure: the requests are [`crate::probe`]'s. Missing evidence is `Unknown` and never counts as
//! failed, so a prober that cannot see (no resolver, no CA roots, a task that died) never makes home
//! look sick.

use crate::api::policy::{FailWhen, HealthCheck};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest message kept of one try, in characters.
const MAX_MESSAGE: usize = 256;
/// A check that was not tried for this many of its turns (period + timeout) is Unknown again.
const STALE_TURNS: i32 = 4;

/// What one try showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeResult {
    /// Home answered as it should.
    Ok,
    /// Home did not answer, or not as it should.
    Failed(String),
    /// The fault is on this side of the wire: it says nothing about home.
    Unknown(String),
}

/// What is known of one check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckState {
    /// Failed tries in a row; an Unknown one breaks the row.
    pub failures: u32,
    /// Good tries in a row; an Unknown one breaks the row.
    pub successes: u32,
    /// What the rows have settled so far.
    pub settled: Settled,
    /// What the last try said, if it was not good.
    pub message: Option<String>,
    /// When it was tried last.
    pub last_try: Option<Timestamp>,
}

/// What the rows of tries have settled so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settled {
    /// Nothing yet.
    #[default]
    Nothing,
    /// It works.
    Healthy,
    /// It does not.
    Failed,
    /// The last try was Unknown, and before that it worked or nothing was settled.
    Lost,
    /// The last try was Unknown, and before that it did not work.
    LostFailed,
}

/// What a check says now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Home's service works.
    Healthy,
    /// It does not, and why.
    Failed(String),
    /// Nothing can be said, and why.
    Unknown(String),
}

impl Verdict {
    /// The word for status and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Failed(_) => "Failed",
            Self::Unknown(_) => "Unknown",
        }
    }
}

/// Adds the result of one try.
#[must_use]
pub fn observe(state: &CheckState, check: &HealthCheck, result: ProbeResult, now: Timestamp) -> CheckState {
    let mut next = CheckState { last_try: Some(now), message: None, ..state.clone() };
    match result {
        ProbeResult::Ok => {
            next.failures = 0;
            next.successes = state.successes.saturating_add(1);
            let was_failed = matches!(state.settled, Settled::Failed | Settled::LostFailed);
            if !was_failed || next.successes >= threshold(check.success_threshold) {
                next.settled = Settled::Healthy;
            }
        }
        ProbeResult::Failed(why) => {
            next.successes = 0;
            next.failures = state.failures.saturating_add(1);
            next.message = Some(short(&why));
            if next.failures >= threshold(check.failure_threshold) {
                next.settled = Settled::Failed;
            }
        }
        ProbeResult::Unknown(why) => {
            (next.failures, next.successes) = (0, 0);
            next.message = Some(short(&why));
            next.settled = match state.settled {
                Settled::Failed | Settled::LostFailed => Settled::LostFailed,
                Settled::Nothing | Settled::Healthy | Settled::Lost => Settled::Lost,
            };
        }
    }
    next
}

/// What a check says at `now`; a check that nobody tries any more says nothing.
#[must_use]
pub fn verdict(state: &CheckState, check: &HealthCheck, now: Timestamp) -> Verdict {
    let Some(last) = state.last_try else {
        return Verdict::Unknown("not tried yet".into());
    };
    let turn = check.period.get().saturating_add(check.timeout.get());
    let stale = SignedDuration::try_from(turn).unwrap_or(SignedDuration::MAX).saturating_mul(STALE_TURNS);
    if now.duration_since(last) > stale {
        return Verdict::Unknown(format!("not tried since {last}: the operator was stopped or is stuck"));
    }
    let message = || state.message.clone().unwrap_or_else(|| "no detail".into());
    match state.settled {
        Settled::Healthy => Verdict::Healthy,
        Settled::Failed => Verdict::Failed(message_of_failure(state)),
        Settled::Lost | Settled::LostFailed if state.failures == 0 && state.successes > 0 => {
            Verdict::Unknown("working again, but not for long enough".into())
        }
        Settled::Nothing | Settled::Lost | Settled::LostFailed if state.failures > 0 => {
            let (n, of) = (state.failures, threshold(check.failure_threshold));
            Verdict::Unknown(format!("{n} of {of} failed tries: {}", message()))
        }
        Settled::Nothing | Settled::Lost | Settled::LostFailed => Verdict::Unknown(message()),
    }
}

fn message_of_failure(state: &CheckState) -> String {
    match &state.message {
        Some(message) => message.clone(),
        None => format!("working again since {} tries, but not for long enough", state.successes),
    }
}

fn threshold(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(1).max(1)
}

fn short(text: &str) -> String {
    text.chars().take(MAX_MESSAGE).collect()
}

/// Whether home is suspect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suspicion {
    /// Enough checks failed; which, and why.
    Suspect(String),
    /// Too few failed, even if every Unknown one had.
    Healthy,
    /// It depends on checks that are Unknown; which, and why. Hold.
    Unknown(String),
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspect(why) => write!(f, "home is suspect: {why}"),
            Self::Healthy => f.write_str("home's service works"),
            Self::Unknown(why) => write!(f, "not known whether home's service works: {why}"),
        }
    }
}

/// Judges home by the verdicts of all its checks, each with its name.
#[must_use]
pub fn suspect(fail_when: FailWhen, verdicts: &[(&str, Verdict)]) -> Suspicion {
    if verdicts.is_empty() {
        return Suspicion::Unknown("no health checks".into());
    }
    let needed = match fail_when {
        FailWhen::All => verdicts.len(),
        FailWhen::Any => 1,
        FailWhen::AtLeast(n) => usize::try_from(n).unwrap_or(usize::MAX).max(1),
    };
    if needed > verdicts.len() {
        let have = verdicts.len();
        return Suspicion::Unknown(format!(
            "promotion.failWhen asks for {needed} failed checks and there are {have}: lower it or add checks"
        ));
    }
    let failed = list(verdicts, |v| if let Verdict::Failed(why) = v { Some(why) } else { None });
    let unknown = list(verdicts, |v| if let Verdict::Unknown(why) = v { Some(why) } else { None });
    if failed.len() >= needed {
        return Suspicion::Suspect(failed.join("; "));
    }
    if failed.len().saturating_add(unknown.len()) >= needed {
        return Suspicion::Unknown(unknown.join("; "));
    }
    Suspicion::Healthy
}

fn list<'a>(
    verdicts: &'a [(&str, Verdict)],
    pick: impl Fn(&'a Verdict) -> Option<&'a String>,
) -> Vec<String> {
    verdicts.iter().filter_map(|(name, v)| pick(v).map(|why| format!("{name}: {why}"))).collect()
}

/// Since when home has been suspect without a break; `previous` is what the turn before said.
/// Healthy *and* Unknown break it: stabilisation is counted over evidence only.
#[must_use]
pub fn suspect_since(
    previous: Option<Timestamp>,
    suspicion: &Suspicion,
    now: Timestamp,
) -> Option<Timestamp> {
    match suspicion {
        // A wall clock that was set back must not make the suspicion look older than it is.
        Suspicion::Suspect(_) => Some(previous.filter(|p| *p <= now).unwrap_or(now)),
        Suspicion::Healthy | Suspicion::Unknown(_) => None,
    }
}

/// True once home has been suspect for `stabilization`.
#[must_use]
pub fn stable(since: Option<Timestamp>, stabilization: std::time::Duration, now: Timestamp) -> bool {
    let wanted = SignedDuration::try_from(stabilization).unwrap_or(SignedDuration::MAX);
    since.is_some_and(|since| now.duration_since(since) >= wanted)
}

#[cfg(test)]
mod tests;
