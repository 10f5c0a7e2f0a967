//! Keeps the record of restore runs in the status. A run is written down *before* its Job is made,
//! with the status's `resourceVersion`: of two replicas of the operator, and of a restore and a
//! promotion, one loses there, and the loser makes nothing.

use super::build::restore::trigger_of;
use super::chain::Received;
use super::observe::RestoreObjects;
use super::plan::{NOT_STARTED, Outcome, backoff, not_started, outcome, run_of};
use crate::api::embassy::{DataEmbassyStatus, DispatchStatus, RunState, RunStatus};
use crate::api::ledger::Site;
use crate::api::report::MoverReport;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Puts what became of the run under way into the status.
pub fn absorb(
    status: &mut DataEmbassyStatus,
    objects: &RestoreObjects,
    verified: &[Received],
    now: jiff::Timestamp,
) {
    let Some(run) = status.run.as_mut().filter(|run| run.state == Some(RunState::Running)) else { return };
    let Some((sequence, attempt)) = run_of(run) else { return };
    let Some(job) = objects.job.as_ref().filter(|job| trigger_of(job) == Some((sequence, attempt))) else {
        return;
    };
    let verified = verified.iter().find(|received| received.sequence == sequence);
    let hash = verified.map(|received| received.hash.as_str());
    let promoting = status.promotion.is_some();
    let outcome = match not_started(job, &objects.pods, promoting, now) {
        Some(message) => Outcome::Failed { reason: NOT_STARTED.to_owned(), message },
        None => outcome(job, &objects.pods, sequence, hash, now),
    };
    match outcome {
        Outcome::Running(says) => run.message = says,
        Outcome::Failed { reason, message } => {
            run.state = Some(RunState::Failed);
            run.reason = Some(reason);
            run.message = Some(message);
            run.completion_time = Some(Time(now));
            let wait = jiff::SignedDuration::try_from(backoff(attempt)).unwrap_or_default();
            run.next_attempt = now.checked_add(wait).ok().map(Time);
        }
        Outcome::Proven(report) => {
            run.state = Some(RunState::Succeeded);
            run.message = None;
            run.completion_time = Some(Time(now));
            let cut = run.cut_time.clone();
            let mut proven = dispatch(sequence, &report, verified, now);
            proven.cut_time = cut.or(proven.cut_time);
            status.last_dispatch = Some(proven);
        }
    }
}

fn dispatch(
    sequence: u64,
    report: &MoverReport,
    verified: Option<&Received>,
    now: jiff::Timestamp,
) -> DispatchStatus {
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    DispatchStatus {
        sequence: count(sequence),
        header_hash: verified.map(|v| v.hash.clone()).or_else(|| report.header_hash.clone()),
        // The verified header's word goes before the mover's; never the time of the restore.
        cut_time: verified.and_then(|v| v.cut_time).or(report.cut_time).map(Time),
        received_time: verified.and_then(|v| v.received).map(Time),
        proven_time: Some(Time(now)),
        proven_by: Some(Site::Embassy),
        bytes_added: count(report.bytes_added),
        files: count(report.files),
        duration_seconds: report.duration_seconds,
    }
}

/// Ends the run of a retired DataEmbassy: its Job is deleted.
pub fn abandon(status: &mut DataEmbassyStatus, now: jiff::Timestamp) {
    if let Some(run) = status.run.as_mut().filter(|run| run.state == Some(RunState::Running)) {
        run.state = Some(RunState::Failed);
        run.reason = Some("Retired".to_owned());
        run.message = Some("the DataEmbassy was deleted at home".to_owned());
        run.completion_time = Some(Time(now));
    }
}

/// Writes a new run down.
pub fn start(
    status: &mut DataEmbassyStatus,
    job: String,
    sequence: u64,
    attempt: i32,
    cut: Option<jiff::Timestamp>,
    now: jiff::Timestamp,
) {
    status.run = Some(RunStatus {
        trigger: format!("dispatch/{sequence}"),
        job: Some(job),
        attempt,
        cut_time: cut.map(Time),
        start_time: Some(Time(now)),
        state: Some(RunState::Running),
        ..RunStatus::default()
    });
}

#[cfg(test)]
#[path = "runs_tests.rs"]
mod tests;
