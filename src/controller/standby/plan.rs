//! Decides: which certificates to issue, what a finished Job means, which dispatch to restore next.
//! No client, no clock.

use super::build::certs::is_due;
use super::build::restore::trigger_of;
use super::build::vault;
use super::chain::Received;
use super::observe::{Observed, RestoreObjects, Stored};
use crate::api::embassy::{DataEmbassyStatus, RunState, RunStatus};
use crate::api::ledger::Site;
use crate::api::mirror::HomeVolumes;
use crate::api::pair::PairRecord;
use crate::api::report::{MoverKind, MoverReport};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;
use std::time::Duration;

/// First wait after a failed restore; it doubles.
const BACKOFF: Duration = Duration::from_secs(10);
/// Longest wait after a failed restore.
const BACKOFF_MOST: Duration = Duration::from_secs(600);
/// Wait after a failed restore while a promotion waits for it.
const HURRY: Duration = Duration::from_secs(5);
/// A Job without a pod for this long says so.
const POD_LATE: Duration = Duration::from_secs(30);
/// A mover that has not started for this long is given up; images of a new version may be large.
const START_LATE: Duration = Duration::from_secs(600);
/// The same while a promotion waits for it: an older proven dispatch serves, a pod that hangs does not.
const START_LATE_PROMOTING: Duration = Duration::from_secs(30);
/// Reason of a run whose mover never started.
pub const NOT_STARTED: &str = "MoverNotStarted";

/// A certificate to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issue {
    /// The authority itself: once.
    Authority,
    /// The vault's, for these names.
    Server(BTreeSet<String>),
    /// Home's client certificate.
    Home,
    /// Our client certificate.
    Embassy,
}

/// Which certificates to issue. Nothing but the authority while there is none; none at all when
/// it is damaged: a second authority would lock home out without a word.
#[must_use]
pub fn certificates(pair: &PairRecord, observed: &Observed, now: jiff::Timestamp) -> Vec<Issue> {
    let have = &observed.certificates;
    let Some(authority) = &have.authority else { return vec![Issue::Authority] };
    if authority.facts.is_none() || !authority.complete {
        return Vec::new();
    }
    let names = vault::server_names(pair, observed.vault.service.as_ref(), &observed.nodes);
    let due = |stored: &Option<Stored>| match stored {
        Some(Stored { facts: Some(facts), complete: true }) => is_due(facts, now),
        _ => true,
    };
    let lacks =
        have.server.as_ref().and_then(|s| s.facts.as_ref()).is_none_or(|f| !f.names.is_superset(&names));
    let mut issue = Vec::new();
    // Without the Service's address the certificate would be made twice.
    if observed.vault.service.is_some() && (due(&have.server) || lacks) {
        issue.push(Issue::Server(names));
    }
    if due(&have.home) {
        issue.push(Issue::Home);
    }
    if due(&have.embassy) {
        issue.push(Issue::Embassy);
    }
    issue
}

/// `Some(true)` when the Job succeeded, `Some(false)` when it failed, `None` while it runs.
#[must_use]
pub fn job_end(job: &Job) -> Option<bool> {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().find_map(|condition| match condition.type_.as_str() {
        "Complete" if condition.status == "True" => Some(true),
        "Failed" if condition.status == "True" => Some(false),
        _ => None,
    })
}

/// Who writes, as far as the restore must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Home, or nobody: volumes may be written by restores.
    No,
    /// The writ is odd or was: a restore would destroy what the standby writes.
    Yes(u64),
    /// Not known: hold.
    Unknown(String),
}

/// Whether the standby serves or may be about to. Epochs only rise, so the highest that was ever
/// seen decides; a ledger that was not read yet decides nothing.
#[must_use]
pub fn serving(observed: &Observed, status: &DataEmbassyStatus) -> Serving {
    if !observed.ledger_seen {
        return Serving::Unknown("the ledger has not been read yet".to_owned());
    }
    let seen = |epoch: Option<i64>| epoch.and_then(|epoch| u64::try_from(epoch).ok());
    let epoch = observed.writ.map(|writ| writ.epoch);
    let promoted = status.last_promotion.as_ref().map(|promotion| promotion.epoch);
    let highest = epoch.max(seen(status.epoch)).max(seen(promoted)).unwrap_or_default();
    let writ = crate::api::ledger::Writ { epoch: highest, ..Default::default() };
    if writ.site() == Site::Embassy { Serving::Yes(highest) } else { Serving::No }
}

/// What the restore Job came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Still at it; what holds it up.
    Running(Option<String>),
    /// Restored and compared.
    Proven(Box<MoverReport>),
    /// Not.
    Failed {
        /// CamelCase.
        reason: String,
        /// For people.
        message: String,
    },
}

/// What the Job for `sequence` came to. Only a report that says success *and* proven *and* names
/// the dispatch that was asked for counts; a Job that merely exited 0 does not.
#[must_use]
pub fn outcome(job: &Job, pods: &[Pod], sequence: u64, hash: Option<&str>, now: jiff::Timestamp) -> Outcome {
    let Some(succeeded) = job_end(job) else { return Outcome::Running(waiting(job, pods, now)) };
    let report = pods.iter().find_map(report);
    let failed = |reason: &str, message: String| Outcome::Failed { reason: reason.to_owned(), message };
    let Some(report) = report else {
        let says = pods.iter().find_map(says).unwrap_or_else(|| "its pod is gone".to_owned());
        return failed("NoReport", format!("the mover left no report: {says}"));
    };
    if !succeeded || !report.success {
        let reason = report.reason.map_or_else(|| "Failed".to_owned(), |reason| format!("{reason:?}"));
        let first = report.errors.first().map(|e| format!(" ({e})")).unwrap_or_default();
        return failed(&reason, format!("{}{first}", report.message));
    }
    if report.kind != MoverKind::Restore || report.sequence != Some(sequence) {
        return failed("WrongReport", format!("the mover reports another run than dispatch {sequence}"));
    }
    if hash.is_some() && report.header_hash.as_deref() != hash {
        return failed(
            "WrongReport",
            format!("the mover restored another dispatch {sequence} than was verified"),
        );
    }
    if !report.proven {
        return failed(
            "NotProven",
            format!("dispatch {sequence} was restored but not compared: {}", report.message),
        );
    }
    Outcome::Proven(Box::new(report))
}

/// Why the mover is given up although its Job has not ended: no container of it has started for too
/// long. Its volumes cannot be attached, its image is not here, no node has room: nothing that time
/// mends by itself, and as long as it stands no other restore may run.
#[must_use]
pub fn not_started(job: &Job, pods: &[Pod], promoting: bool, now: jiff::Timestamp) -> Option<String> {
    if job_end(job).is_some() || pods.iter().any(has_started) {
        return None;
    }
    let made = job.metadata.creation_timestamp.as_ref()?.0;
    let limit = if promoting { START_LATE_PROMOTING } else { START_LATE };
    (now.duration_since(made) >= jiff::SignedDuration::try_from(limit).ok()?).then(|| {
        let cause = waiting(job, pods, now)
            .unwrap_or_else(|| "its pod is being set up (volumes? image?): see its events".to_owned());
        format!("the mover has not started for {} s and is given up: {cause}", limit.as_secs())
    })
}

fn has_started(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let ran = status.container_statuses.iter().flatten().any(|container| {
        let states = [container.state.as_ref(), container.last_state.as_ref()];
        states.into_iter().flatten().any(|state| state.running.is_some() || state.terminated.is_some())
    });
    ran || matches!(status.phase.as_deref(), Some("Running" | "Succeeded" | "Failed"))
}

/// What is left of a mover that was given up. Until it is gone its pod may start after all, and two
/// movers, or a mover and the started standby, would write the same volumes.
#[must_use]
pub fn leftover(restore: &RestoreObjects, run: Option<&RunStatus>) -> Option<String> {
    run.filter(|run| given_up(run))?;
    if restore.job.as_ref().is_some_and(|job| job_end(job).is_none()) {
        return Some("the Job of a mover that never started is being deleted".to_owned());
    }
    let alive = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let pod =
        restore.pods.iter().chain(&restore.strays).find(alive)?.metadata.name.clone().unwrap_or_default();
    Some(format!(
        "pod {pod} of a mover that never started is not gone yet; if its node is lost for good, delete the pod \
         with --force"
    ))
}

fn given_up(run: &RunStatus) -> bool {
    run.state == Some(RunState::Failed) && run.reason.as_deref() == Some(NOT_STARTED)
}

/// The Job to delete, by its uid: that of the last run, whose mover was given up.
#[must_use]
pub fn job_to_delete(restore: &RestoreObjects, run: Option<&RunStatus>) -> Option<String> {
    let run = run.filter(|run| given_up(run))?;
    let job = restore.job.as_ref().filter(|job| trigger_of(job) == run_of(run) && job_end(job).is_none())?;
    job.metadata.uid.clone()
}

fn report(pod: &Pod) -> Option<MoverReport> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ended = statuses.iter().find_map(|s| s.state.as_ref()?.terminated.as_ref())?;
    serde_json::from_str(ended.message.as_deref()?).ok()
}

fn waiting(job: &Job, pods: &[Pod], now: jiff::Timestamp) -> Option<String> {
    if !pods.is_empty() {
        return pods.iter().find_map(says);
    }
    let made = job.metadata.creation_timestamp.as_ref()?.0;
    let late = now.duration_since(made) >= jiff::SignedDuration::try_from(POD_LATE).ok()?;
    late.then(|| "its pod cannot be made: see the Job's events (PodSecurity? quota?)".to_owned())
}

/// What keeps a pod from working, in its own words.
#[must_use]
pub fn says(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_ref().into_iter().flatten();
    let unscheduled = conditions.clone().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        return Some(join(condition.reason.as_deref(), condition.message.as_deref()));
    }
    for container in status.container_statuses.iter().flatten() {
        let (state, last) = (container.state.as_ref(), container.last_state.as_ref());
        let waiting = state.and_then(|s| s.waiting.as_ref());
        let ended =
            state.and_then(|s| s.terminated.as_ref()).or_else(|| last.and_then(|s| s.terminated.as_ref()));
        match (waiting, ended) {
            // A crash loop's own message says nothing; the end before it does.
            (Some(waiting), Some(ended)) => {
                let message = ended.message.as_deref().or(waiting.message.as_deref());
                return Some(join(waiting.reason.as_deref(), message));
            }
            (Some(waiting), None) if waiting.reason.as_deref() != Some("ContainerCreating") => {
                return Some(join(waiting.reason.as_deref(), waiting.message.as_deref()));
            }
            (None, Some(ended)) if !container.ready && ended.exit_code != 0 => {
                return Some(join(ended.reason.as_deref(), ended.message.as_deref()));
            }
            _ => {}
        }
    }
    let reason = status.reason.as_deref().or(status.message.as_deref());
    reason.map(|_| join(status.reason.as_deref(), status.message.as_deref()))
}

fn join(reason: Option<&str>, message: Option<&str>) -> String {
    let text = match (reason, message.map(str::trim)) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        (reason, message) => reason.or(message).unwrap_or("no reason given").to_owned(),
    };
    text.chars().take(1000).collect()
}

/// How long to wait after the `attempt`th failure.
#[must_use]
pub fn backoff(attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or_default().min(16);
    BACKOFF.saturating_mul(1 << doublings).min(BACKOFF_MOST)
}

/// Which restores the promotion lets run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restores {
    /// The newest dispatch, unless the standby serves.
    #[default]
    Follow,
    /// This one and no other, although the writ is odd: the promotion waits for it.
    Only(u64),
    /// None.
    Hold,
}

/// What to do about restores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing is due.
    Idle,
    /// Something is due but must not run: reason and message.
    Held(&'static str, String),
    /// Write down that this runs, then make its Job.
    Start {
        /// The dispatch.
        sequence: u64,
        /// From 1.
        attempt: i32,
    },
}

/// What the decision on the next restore rests on.
pub struct NextInput<'a> {
    /// What was seen.
    pub observed: &'a Observed,
    /// The status with the outcome of the last run in it.
    pub status: &'a DataEmbassyStatus,
    /// The newest verified dispatches, oldest first.
    pub verified: &'a [Received],
    /// What home says of its volumes.
    pub volumes: &'a HomeVolumes,
    /// What the promotion allows.
    pub restores: Restores,
    /// Movers that may run in this cluster at once.
    pub max_movers: u32,
}

/// Decides on the next restore. Missing evidence means hold.
#[must_use]
pub fn next(input: &NextInput<'_>, now: jiff::Timestamp) -> Next {
    let proven = input.status.last_dispatch.as_ref().map(|d| d.sequence);
    let proven = proven.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
    let run = input.status.run.as_ref();
    if run.is_some_and(|run| run.state == Some(RunState::Running)) {
        return Next::Idle;
    }
    if let Some(why) = leftover(&input.observed.restore, run) {
        return Next::Held("MoverStopping", why);
    }
    let sequence = match input.restores {
        Restores::Hold => return Next::Idle,
        // Volumes hold what the last run left, not what was proven before it.
        Restores::Only(sequence) if volumes_hold(input, sequence) => return Next::Idle,
        Restores::Only(sequence) => sequence,
        Restores::Follow => match input.verified.last() {
            Some(received) if received.sequence > proven => received.sequence,
            _ => return Next::Idle,
        },
    };
    if let Err(why) = parts(input.verified, sequence, input.volumes) {
        return Next::Held("VolumesUnknown", why);
    }
    if !input.observed.key {
        return Next::Held("KeyMissing", "the repository's key is not here yet".to_owned());
    }
    if input.restores == Restores::Follow {
        match serving(input.observed, input.status) {
            Serving::No => {}
            Serving::Yes(epoch) => {
                return Next::Held(
                    "Serving",
                    format!("the writ names the embassy (epoch {epoch}): its volumes are not overwritten"),
                );
            }
            Serving::Unknown(why) => return Next::Held("WritUnknown", why),
        }
        if input.status.promotion.is_some() {
            return Next::Held("Promoting", "a promotion is under way".to_owned());
        }
        if input.observed.active_movers >= input.max_movers {
            return Next::Held(
                "TooManyMovers",
                format!("{} movers run in this cluster", input.observed.active_movers),
            );
        }
    }
    let failed = run.filter(|run| run.state == Some(RunState::Failed));
    let wait = failed.and_then(|run| match input.restores {
        Restores::Follow => run.next_attempt.as_ref().map(|time| time.0),
        // A promotion does not wait for a back-off that was meant for a quiet day.
        _ => run.completion_time.as_ref().and_then(|time| time.0.checked_add(HURRY).ok()),
    });
    if wait.is_some_and(|until| until > now) {
        return Next::Idle;
    }
    Next::Start { sequence, attempt: failed.map_or(1, |run| run.attempt.saturating_add(1)) }
}

/// Home's volumes that dispatch `sequence` holds: exactly those are restored. A mover that were
/// given fewer would prove them, and the dispatch would look whole without the others.
///
/// # Errors
/// Why they are not known, for people.
pub fn parts(verified: &[Received], sequence: u64, home: &HomeVolumes) -> Result<HomeVolumes, String> {
    let received = verified
        .iter()
        .find(|received| received.sequence == sequence && received.epoch.is_some())
        .ok_or_else(|| format!("the header of dispatch {sequence} has not been read"))?;
    let volumes = received.volumes.iter().map(|name| {
        home.volumes.iter().find(|volume| volume.name == *name).cloned().ok_or_else(|| {
            format!("dispatch {sequence} holds volume {name}, of which the mirror says nothing: home must mirror again")
        })
    });
    Ok(HomeVolumes { volumes: volumes.collect::<Result<_, _>>()? })
}

/// True if the last run restored and proved `sequence`, and its finished Job still holds the name
/// against a replica of the operator that woke up late.
fn volumes_hold(input: &NextInput<'_>, sequence: u64) -> bool {
    let run = input.status.run.as_ref().filter(|run| run.state == Some(RunState::Succeeded));
    let same = run.and_then(run_of).is_some_and(|(ran, _)| ran == sequence);
    let proven = input.status.last_dispatch.as_ref().map(|d| d.sequence) == i64::try_from(sequence).ok();
    same && proven && input.observed.restore.job.as_ref().is_some_and(|job| job_end(job).is_some())
}

/// What to do so that the Job of a run that is written down is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// It is there, or another one must end first.
    Wait,
    /// Make it.
    Create,
    /// A finished one has the name: delete exactly that one, then make it.
    Replace(String),
}

/// See [`JobStep`].
#[must_use]
pub fn job_step(job: Option<&Job>, sequence: u64, attempt: i32) -> JobStep {
    let Some(job) = job else { return JobStep::Create };
    if trigger_of(job) == Some((sequence, attempt)) || job_end(job).is_none() {
        return JobStep::Wait;
    }
    job.metadata.uid.clone().map_or(JobStep::Wait, JobStep::Replace)
}

/// Sequence and attempt of a run.
#[must_use]
pub fn run_of(run: &RunStatus) -> Option<(u64, i32)> {
    let sequence = run.trigger.strip_prefix("dispatch/")?.parse().ok()?;
    Some((sequence, run.attempt))
}

/// Claims that must grow: name, size and whether the class lets them.
#[must_use]
pub fn growth(observed: &Observed, wanted: &[(String, String)]) -> Vec<(String, String, bool)> {
    let size = |quantity: &str| crate::domain::storage::bytes(quantity);
    let mut grow = Vec::new();
    for (name, wanted) in wanted {
        let Some(spec) = observed.claims.get(name).and_then(|claim| claim.spec.as_ref()) else { continue };
        let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
        let have = requests.and_then(|r| r.get("storage")).and_then(|q| size(&q.0));
        if let (Some(have), Some(want)) = (have, size(wanted))
            && want > have
        {
            let class = spec.storage_class_name.as_ref().and_then(|class| observed.classes.get(class));
            let may = class.is_some_and(|class| class.allow_volume_expansion == Some(true));
            grow.push((name.clone(), wanted.clone(), may));
        }
    }
    grow
}
