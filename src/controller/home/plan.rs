//! What to do next about the dispatches of one DataEmbassy. Pure: a state machine over
//! `status.run` and the objects of the run.
//!
//! A run is written down before anything is made for it, and what is made carries the run's name;
//! so a crash at any point leads back here with all that is needed. Children are read *before* the
//! status (see `observe.rs`): what belongs to no run that the status knows is a leftover.

use super::observation::{MoverJob, Observation, Right, Temporary, TemporaryKind};
pub use super::requests::Answer;
use super::validate::Problem;
use super::{requests, select};
use crate::api::embassy::{DispatchStatus, RunState, RunStatus};
use crate::api::names::child;
use crate::api::policy::{CopyMethod, SyncSpec};
use crate::api::report::{MoverReason, MoverReport};
use crate::domain::schedule::{Clockwork, after, backoff, elapsed, jitter};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use std::time::Duration;

/// A cut that has not begun by then gets a new time.
const RECUT_AFTER: Duration = Duration::from_secs(30);
/// Snapshots made further apart than this are no consistent set.
const CUT_WINDOW: Duration = Duration::from_secs(60);
/// A driver may fail and try again; not for longer than this.
const SNAPSHOT_ERROR_AFTER: Duration = Duration::from_secs(60);
/// How long the Job of a failed run is kept for its log.
const KEEP_FAILED: Duration = Duration::from_secs(900);
/// Longest wait for the mover's Job to be made after its cut; it may wait for others to end.
const START_WITHIN: Duration = Duration::from_secs(1800);
/// Longest wait for the mover's pod to run.
const POD_TIMEOUT: Duration = Duration::from_secs(600);
/// A pod that runs by then needs no explanation.
const POD_SLOW: Duration = Duration::from_secs(15);
/// Longest wait for snapshots.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(900);

/// What to do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The next step of the run.
    pub step: Step,
    /// Requests to be answered.
    pub answers: Vec<Answer>,
    /// Temporary objects that no run needs.
    pub leftovers: Vec<Temporary>,
    /// Jobs that no run needs: `(name, UID)`.
    pub old_jobs: Vec<(String, String)>,
}

/// One step of a run.
#[derive(Clone, Debug, Serialize)]
pub enum Step {
    /// Nothing is due; the next time is known, or there is none.
    Idle(Option<Timestamp>),
    /// Something is due and cannot begin.
    Held {
        /// CamelCase.
        reason: &'static str,
        /// Why, and what to do.
        message: String,
    },
    /// Write the run down.
    Begin {
        /// `schedule/<time>` or `request/<name>`.
        trigger: String,
        /// From 1.
        attempt: i32,
    },
    /// The cut has not begun: give it a new time.
    Recut,
    /// Make the manifests' Secret and every snapshot that is missing.
    Cut,
    /// Wait for the snapshots.
    AwaitCut(String),
    /// Make the temporary claims and the Job.
    StartMover,
    /// Wait for the Job; what it waits for itself.
    AwaitMover(Option<String>),
    /// The run is over.
    End(Box<Ending>),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ending {
    /// What the mover said, if it said anything.
    pub report: Option<MoverReport>,
    /// `None`: it succeeded.
    pub failure: Option<(String, String)>,
}

/// Name of a run and of its Job: the start tells tries apart.
#[must_use]
pub fn run_name(embassy: &str, start: Timestamp) -> String {
    child(embassy, &format!("backup-{:x}", start.as_second()))
}

/// Decides the next step.
#[must_use]
pub fn plan(seen: &Observation, problems: &[Problem]) -> Plan {
    let run = seen.status().run;
    let active = run.as_ref().filter(|run| run.state == Some(RunState::Running));
    let step = match active {
        Some(run) => running(seen, problems, run),
        None => idle(seen, problems),
    };
    let ended = matches!(step, Step::End(_));
    let keep = active.and_then(|run| run.start_time.as_ref()).map(|t| run_name(seen.name(), t.0));
    let keep_temporary = keep.as_deref().filter(|_| !ended);
    let stale = |t: &&Temporary| !t.deleting && Some(t.run.as_str()) != keep_temporary;
    Plan {
        answers: requests::answers(seen),
        leftovers: seen.temporaries.iter().filter(stale).cloned().collect(),
        old_jobs: old_jobs(seen, run.as_ref(), ended),
        step,
    }
}

/// Jobs that are over. A pod that has ended still holds its claims, so a Job goes as soon as its
/// word is in the status; a failed one stays a while for its log. One that has not ended goes with
/// its run, or it would come late and in the next one's way.
fn old_jobs(seen: &Observation, run: Option<&RunStatus>, ending: bool) -> Vec<(String, String)> {
    let active = run.is_some_and(|r| r.state == Some(RunState::Running)) && !ending;
    let needed = run.filter(|r| match (r.state, &r.completion_time) {
        (Some(RunState::Succeeded), _) => false,
        (Some(RunState::Failed), Some(end)) => elapsed(end.0, seen.now) < KEEP_FAILED,
        _ => true,
    });
    let last = needed.and_then(|r| r.start_time.as_ref()).map(|t| run_name(seen.name(), t.0));
    let stays = |j: &&MoverJob| Some(&j.name) == last.as_ref() && (active || j.ended());
    let old = seen.jobs.iter().filter(|j| !j.deleting && !stays(j));
    old.map(|j| (j.name.clone(), j.uid.clone())).collect()
}

/// A run that is written down as running.
fn running(seen: &Observation, problems: &[Problem], run: &RunStatus) -> Step {
    let Some(begun) = run.start_time.as_ref() else {
        return failed("MoverLost", "the run has no start time: the status was edited; it is tried again");
    };
    let name = run_name(seen.name(), begun.0);
    if let Some(job) = seen.jobs.iter().find(|j| j.name == name) {
        return mover(job, seen.now);
    }
    if run.job.is_some() {
        return failed("MoverLost", "the Job is gone before it ended; the dispatch is tried again");
    }
    if let Some(problem) = problems.first() {
        return failed(problem.reason, &problem.message);
    }
    if let Right::Denied(why) = &seen.writ.right {
        return failed("Fenced", &format!("home lost the writ before the mover began: {why}"));
    }
    let age = run.cut_time.as_ref().map_or(Duration::MAX, |t| elapsed(t.0, seen.now));
    match seen.policy().map(|p| p.sync.copy_method) {
        Some(CopyMethod::Direct) => start(seen, run, age),
        Some(CopyMethod::Snapshot) => cut(seen, run, &name, age),
        None => failed("PolicyNotFound", "the ReplicaPolicy is gone; create it again"),
    }
}

/// Starts the mover unless the way to the vault is gone meanwhile; an operator that was just
/// restarted first has to hear from the embassy again.
fn start(seen: &Observation, run: &RunStatus, age: Duration) -> Step {
    match gate(seen) {
        None if age > START_WITHIN => {
            let why = run.message.as_deref().unwrap_or("the API server did not take it");
            failed("MoverNotStarted", &format!("the mover's Job could not be made: {why}; it is cut anew"))
        }
        None => Step::StartMover,
        Some((_, message)) if age <= CUT_WINDOW => Step::AwaitCut(message),
        Some((reason, message)) => failed(reason, &message),
    }
}

fn cut(seen: &Observation, run: &RunStatus, name: &str, age: Duration) -> Step {
    let claims = select::claims(&seen.object.spec.volumes, &seen.claims);
    let made: Vec<&Temporary> = seen
        .temporaries
        .iter()
        .filter(|t| t.kind == TemporaryKind::Snapshot && t.run == name && !t.deleting)
        .collect();
    if claims.iter().any(|c| !made.iter().any(|t| t.source == c.name)) {
        return match made.is_empty() {
            // Once: an operator that was restarted goes on; what fails again and again must be seen.
            true if age > RECUT_AFTER && run.cut_time != run.start_time => {
                let why = run.message.as_deref().unwrap_or("the API server did not take them");
                failed("CutNotMade", &format!("no snapshot could be made: {why}; it is tried again"))
            }
            true if age > RECUT_AFTER => Step::Recut,
            false if age > CUT_WINDOW => failed(
                "CutInterrupted",
                "the operator was interrupted between the snapshots, which makes no consistent set; it is cut anew",
            ),
            _ => Step::Cut,
        };
    }
    let error = made.iter().find_map(|t| Some((t.source.as_str(), t.error.as_deref()?)));
    if let Some((source, error)) = error.filter(|_| age > SNAPSHOT_ERROR_AFTER) {
        let message = format!(
            "the snapshot of {source} failed: {error}; see the VolumeSnapshotClass and the driver's snapshotter"
        );
        return failed("SnapshotFailed", &message);
    }
    let waiting: Vec<&str> = made.iter().filter(|t| !t.ready).map(|t| t.source.as_str()).collect();
    if waiting.is_empty() {
        return start(seen, run, age);
    }
    let waiting = waiting.join(", ");
    if age > SNAPSHOT_TIMEOUT {
        let message = format!(
            "no snapshot of {waiting} within {} min; see the VolumeSnapshot's status and the driver",
            SNAPSHOT_TIMEOUT.as_secs() / 60
        );
        return failed("SnapshotTimeout", &message);
    }
    let why = error.map(|(_, error)| format!(": {error}")).unwrap_or_default();
    Step::AwaitCut(format!("waiting for the snapshots of {waiting}{why}"))
}

fn mover(job: &MoverJob, now: Timestamp) -> Step {
    if !job.ended() {
        if job.deleting {
            return failed("MoverLost", "the Job was deleted before it ended; the dispatch is tried again");
        }
        return starting(job, now);
    }
    let Some(report) = job.report.clone() else {
        let words = job.last_words.as_deref().unwrap_or("its pod is gone");
        return match job.failed.as_deref() {
            Some("DeadlineExceeded") => {
                failed("MoverTimeout", "the mover took longer than a day; see its log and the vault's load")
            }
            _ => failed("MoverLost", &format!("the mover ended without a report: {words}")),
        };
    };
    // The report is trusted only together with the exit code.
    if job.complete && report.success {
        return Step::End(Box::new(Ending { report: Some(report), failure: None }));
    }
    let reason = report.reason.map_or_else(|| "Failed".to_owned(), |r| format!("{r:?}"));
    let message = mend(&report);
    Step::End(Box::new(Ending { report: Some(report), failure: Some((reason, message)) }))
}

/// A Job that has not ended. Its deadline is a day: one whose pod cannot run is given up long before.
fn starting(job: &MoverJob, now: Timestamp) -> Step {
    let age = job.created.map_or(Duration::ZERO, |t| elapsed(t, now));
    if job.started || age < POD_SLOW {
        return Step::AwaitMover(job.waiting.clone());
    }
    let cause = job.waiting.clone().unwrap_or_else(|| match job.pod {
        true => format!(
            "its pod waits for a node or for its volumes; see the events in `kubectl describe pod -l job-name={}`",
            job.name
        ),
        false => format!(
            "no pod was created: a quota, the namespace's PodSecurity level or a webhook refuses it; see `kubectl \
             describe job {}`",
            job.name
        ),
    });
    if age < POD_TIMEOUT {
        return Step::AwaitMover(Some(cause));
    }
    let minutes = POD_TIMEOUT.as_secs() / 60;
    let message =
        format!("the mover has not run within {minutes} min: {cause}; mend that, it is tried again");
    failed("MoverNotStarted", &message)
}

/// The mover's message, with what the operator's user can do about it.
fn mend(report: &MoverReport) -> String {
    let hint = match report.reason {
        Some(MoverReason::VaultUnreachable) => {
            "see the network between the sites, status.vault.address of the mirror, and Deployment embassy-vault in the \
             embassy; it is tried again"
        }
        Some(MoverReason::VaultRefused) => {
            "see the log of Deployment embassy-vault in the embassy; it is tried again"
        }
        Some(MoverReason::VaultFull) => "raise vault.quota or the vault's volume at the embassy",
        Some(MoverReason::EpochRefused) => {
            "the embassy holds the writ or the ledger was changed; it is tried again"
        }
        Some(MoverReason::WrongKey) => {
            "the Secret with the repository password is not the one that the repository was made with; restore it"
        }
        Some(MoverReason::SourceEmpty) => "restore the volume; nothing was sent, the copy is as it was",
        Some(MoverReason::Unreadable) => {
            "let the mover run as a user that may read everything (sync.mover.securityContext, or privileged: true)"
        }
        _ => "",
    };
    let first = report.errors.first().map(|e| format!(" ({e})")).unwrap_or_default();
    let text = format!("{}{first}", report.message);
    if hint.is_empty() { text } else { format!("{text}; {hint}") }
}

fn failed(reason: &str, message: &str) -> Step {
    Step::End(Box::new(Ending { report: None, failure: Some((reason.to_owned(), message.to_owned())) }))
}

/// No run is under way.
fn idle(seen: &Observation, problems: &[Problem]) -> Step {
    let Some(policy) = seen.policy() else { return Step::Idle(None) };
    match due(seen, &policy.sync) {
        Due::Never => Step::Idle(None),
        Due::At(time) => Step::Idle(Some(time)),
        Due::Now { trigger, attempt } => {
            if let Some(problem) = problems.first() {
                return Step::Held { reason: problem.reason, message: problem.message.clone() };
            }
            match gate(seen) {
                Some((reason, message)) => Step::Held { reason, message },
                None => Step::Begin { trigger, attempt },
            }
        }
    }
}

/// Why a dispatch cannot be made now, if it cannot.
fn gate(seen: &Observation) -> Option<(&'static str, String)> {
    if let Some(alarm) = &seen.writ.alarm {
        return Some(("LedgerAlarm", alarm.clone()));
    }
    match (&seen.writ.right, seen.writ.epoch) {
        (Right::Denied(why), _) => return Some(("Fenced", why.clone())),
        (Right::Unknown, _) | (Right::Granted, None) => {
            let why = seen.writ.last_error.as_deref().unwrap_or("no turn at it has ended yet");
            return Some(("LedgerUnknown", format!("waiting for the embassy's ledger: {why}")));
        }
        (Right::Granted, Some(_)) => {}
    }
    let Some(mirror) = &seen.embassy.mirror else {
        return Some(("EmbassyUnknown", "waiting for the mirror in the embassy".to_owned()));
    };
    if mirror.status.vault.as_ref().is_none_or(|v| v.address.is_empty() || v.ca_bundle.is_empty()) {
        return Some(("VaultNotReady", "waiting for the embassy to publish its vault's address".to_owned()));
    }
    if seen.embassy.vault_client.is_none() {
        let message = "waiting for home's client certificate (Secret vault-client-home in the embassy)";
        return Some(("VaultNotReady", message.to_owned()));
    }
    None
}

/// True if the cluster's cap on movers is reached; asked at the beginning of a run.
#[must_use]
pub fn busy(seen: &Observation, max_movers: u32) -> Option<Step> {
    (seen.running_movers >= max_movers).then(|| Step::Held {
        reason: "MoversBusy",
        message: format!(
            "{} movers run in this cluster and the operator's --max-movers is {max_movers}; it starts when one ends",
            seen.running_movers
        ),
    })
}

enum Due {
    Never,
    At(Timestamp),
    Now { trigger: String, attempt: i32 },
}

/// What is due: a request first, then a failed try, then the schedule.
fn due(seen: &Observation, sync: &SyncSpec) -> Due {
    let last = seen.status().run;
    let retry = last.as_ref().filter(|r| r.state == Some(RunState::Failed));
    let retry_at = retry.and_then(|r| r.next_attempt.as_ref()).map_or(Timestamp::MIN, |t| t.0);
    let attempt_of =
        |trigger: &str| retry.filter(|r| r.trigger == trigger).map_or(1, |r| r.attempt.saturating_add(1));
    if let Some(request) = requests::pending(seen).next() {
        let trigger = format!("request/{}", request.name);
        let attempt = attempt_of(&trigger);
        if attempt > 1 && seen.now < retry_at {
            return Due::At(retry_at);
        }
        return Due::Now { trigger, attempt };
    }
    if sync.suspend || (sync.schedule.is_none() && sync.interval.is_none()) {
        return Due::Never;
    }
    if let Some(retry) = retry.filter(|r| r.trigger.starts_with("schedule/")) {
        if seen.now < retry_at {
            return Due::At(retry_at);
        }
        return Due::Now { trigger: retry.trigger.clone(), attempt: retry.attempt.saturating_add(1) };
    }
    scheduled(seen, sync, last.as_ref().and_then(|r| r.start_time.as_ref()).map(|t| t.0))
}

/// By schedule or interval; the first dispatch is due at once, and missed ones run once.
fn scheduled(seen: &Observation, sync: &SyncSpec, last: Option<Timestamp>) -> Due {
    let uid = seen.object.metadata.uid.as_deref().unwrap_or_default();
    let late = jitter(uid, sync.jitter.get());
    let now_for = |time: Timestamp| Due::Now { trigger: format!("schedule/{time}"), attempt: 1 };
    let Some(last) = last else {
        let created = seen.object.metadata.creation_timestamp.as_ref().map_or(seen.now, |t| t.0);
        let first = after(created, late);
        return if first <= seen.now { now_for(created) } else { Due::At(first) };
    };
    if let Some(interval) = sync.interval {
        let next = after(last, interval.get());
        return if next <= seen.now { now_for(next) } else { Due::At(next) };
    }
    let Some(clockwork) = sync.schedule.as_ref().and_then(|s| Clockwork::parse(s).ok()) else {
        return Due::Never;
    };
    // `occurrence + late` must lie in (last, now].
    let back =
        |t: Timestamp| t.checked_sub(jiff::SignedDuration::try_from(late).unwrap_or_default()).unwrap_or(t);
    // A start is kept in whole seconds, rounded down: alone it would let the same time come twice.
    let status = seen.status();
    let done = status.run.as_ref().and_then(|r| r.trigger.strip_prefix("schedule/")?.parse().ok());
    match clockwork.latest(back(last).max(done.unwrap_or(Timestamp::MIN)), back(seen.now)) {
        Some(time) => now_for(time),
        None => clockwork.next(back(seen.now)).map_or(Due::Never, |t| Due::At(after(t, late))),
    }
}

/// `status.run` of a run that begins now; times are whole seconds, rounded down: the safe side.
#[must_use]
pub fn begun(trigger: &str, attempt: i32, now: Timestamp) -> RunStatus {
    let now = Time(whole_second(now));
    RunStatus {
        trigger: trigger.to_owned(),
        attempt,
        cut_time: Some(now.clone()),
        start_time: Some(now),
        state: Some(RunState::Running),
        ..RunStatus::default()
    }
}

/// The time without its fraction.
#[must_use]
pub fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// `status.run` and `status.lastDispatch` after the end of a run.
#[must_use]
pub fn ended(run: &RunStatus, ending: &Ending, now: Timestamp) -> (RunStatus, Option<DispatchStatus>) {
    let mut run = run.clone();
    run.completion_time = Some(Time(whole_second(now)));
    match (&ending.failure, &ending.report) {
        (Some((reason, message)), _) => {
            run.state = Some(RunState::Failed);
            run.reason = Some(reason.clone());
            run.message = Some(message.clone());
            let wait = backoff(u32::try_from(run.attempt).unwrap_or(1));
            run.next_attempt = Some(Time(after(whole_second(now), wait)));
            (run, None)
        }
        (None, report) => {
            let report = report.clone().unwrap_or_default();
            let cut = report.cut_time.map(Time).or_else(|| run.cut_time.clone());
            let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let dispatch = DispatchStatus {
                sequence: whole(report.sequence.unwrap_or(0)),
                header_hash: report.header_hash,
                cut_time: cut,
                received_time: Some(Time(whole_second(now))),
                bytes_added: whole(report.bytes_added),
                files: whole(report.files),
                duration_seconds: report.duration_seconds,
                ..DispatchStatus::default()
            };
            run.state = Some(RunState::Succeeded);
            (run.reason, run.message, run.next_attempt) = (None, None, None);
            (run, Some(dispatch))
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
