//! The status at home, computed from what was observed and what was done, errors included. Pure.

use super::arbiter;
use super::fence::FenceView;
use super::observation::{Observation, Reach, Right};
use super::plan::{Plan, Step};
use super::remote::REACH_AGAIN;
use super::select;
use super::validate::Problem;
use crate::api::conditions::{self, Wanted, types};
use crate::api::embassy::{
    DataEmbassyStatus, DispatchStatus, Phase, RunState, RunStatus, ServiceStatus, VolumeStatus,
};
use crate::api::ledger::Site;
use crate::domain::schedule::elapsed;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use std::time::Duration;

/// What a turn brought.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What is wrong with the object.
    pub problems: Vec<Problem>,
    /// What failed while acting.
    pub faults: Vec<Problem>,
    /// The changed run.
    pub run: Option<RunStatus>,
    /// The dispatch that was committed.
    pub dispatch: Option<DispatchStatus>,
    /// The keys stand in the embassy, as far as this process knows.
    pub keys_sent: bool,
    /// What the fence has done.
    pub fence: FenceView,
}

/// Faults that only the passing of time or the other side mends.
const PASSING: [&str; 4] = ["EmbassyUnreachable", "EmbassyNotReady", "ApiError", "Timeout"];

impl Outcome {
    /// What makes the object stall, if anything does.
    #[must_use]
    pub fn stall(&self) -> Option<&Problem> {
        self.problems.iter().chain(self.faults.iter().filter(|f| !PASSING.contains(&f.reason))).next()
    }
}

/// The new status.
#[must_use]
pub fn status(seen: &Observation, plan: &Plan, outcome: &Outcome) -> DataEmbassyStatus {
    let mut status = seen.status();
    let generation = seen.object.metadata.generation;
    // Half a picture is no news of what there is.
    if !seen.partial {
        status.volumes = volumes(seen, &status);
        status.services = services(seen);
    }
    status.observed_generation = generation;
    status.role = Some(Site::Home);
    status.epoch = epoch(seen, &status);
    status.active_site = Some(active_site(&status));
    if let Some(pair) = seen.paired() {
        status.pair = Some(pair.id.clone());
    }
    status.arbiter = Some(arbiter::in_force(seen));
    if let Some(run) = &outcome.run {
        status.run = Some(run.clone());
    }
    if let Some(dispatch) = &outcome.dispatch {
        status.last_dispatch = Some(dispatch.clone());
    }
    if let Some(record) = &outcome.fence.record {
        status.last_fence = Some(record.clone());
    }
    let mut wanted = vec![
        stalled(outcome),
        embassy_reachable(seen),
        // Before freshness: why nothing is proven explains why nothing is fresh.
        replica_proven(seen),
        replica_fresh(seen),
        keys_available(seen, outcome),
    ];
    wanted.extend(COPIED.map(|kind| copied(seen, kind)));
    let phase = phase(seen, outcome, &status, &wanted);
    status.phase = Some(phase);
    wanted.extend(summary(seen, plan, outcome, &status, phase, &wanted));
    wanted.push(fence_ready(seen, &status, outcome));
    for condition in &wanted {
        conditions::set(&mut status.conditions, condition, generation, seen.now);
    }
    status
}

/// The high-water mark: it never falls, whatever a restored ledger says.
fn epoch(seen: &Observation, status: &DataEmbassyStatus) -> Option<i64> {
    let seen = seen.writ.epoch.and_then(|e| i64::try_from(e).ok());
    seen.into_iter().chain(status.epoch).max()
}

fn active_site(status: &DataEmbassyStatus) -> Site {
    if status.epoch.is_some_and(|e| e % 2 != 0) { Site::Embassy } else { Site::Home }
}

fn volumes(seen: &Observation, old: &DataEmbassyStatus) -> Vec<VolumeStatus> {
    let claims = select::claims(&seen.object.spec.volumes, &seen.claims);
    let mut volumes: Vec<VolumeStatus> = claims
        .iter()
        .map(|c| VolumeStatus {
            name: c.name.clone(),
            claim: Some(c.name.clone()),
            phase: Some(c.phase.clone()).filter(|p| !p.is_empty()),
        })
        .collect();
    // A claim that was copied and vanished stays here until the spec says that it is meant.
    if old.last_dispatch.is_some() && old.observed_generation == seen.object.metadata.generation {
        let gone = |v: &&VolumeStatus| !seen.claims.iter().any(|c| c.name == v.name);
        let gone = old
            .volumes
            .iter()
            .filter(gone)
            .map(|v| VolumeStatus { phase: Some("Missing".into()), ..v.clone() });
        volumes.extend(gone);
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
    }
    volumes
}

fn services(seen: &Observation) -> Vec<ServiceStatus> {
    let spec = seen.object.spec.services.as_ref();
    let workloads = select::workloads(spec, &seen.workloads).into_iter().map(|w| ServiceStatus {
        kind: w.kind.clone(),
        name: w.name.clone(),
        ready: Some(format!("{}/{}", w.ready, w.replicas)),
        message: None,
    });
    let services = select::services(spec, &seen.services).into_iter().map(|s| ServiceStatus {
        kind: "Service".to_owned(),
        name: s.name.clone(),
        ..ServiceStatus::default()
    });
    let mut all: Vec<ServiceStatus> = workloads.chain(services).collect();
    all.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
    all
}

fn stalled(outcome: &Outcome) -> Wanted {
    match outcome.stall() {
        Some(problem) => Wanted::yes(types::STALLED, problem.reason, problem.message.clone()),
        None => Wanted::no(types::STALLED, "AsExpected", "nothing has to be mended"),
    }
}

fn embassy_reachable(seen: &Observation) -> Wanted {
    let kind = types::EMBASSY_REACHABLE;
    match &seen.embassy.reach {
        Reach::Reached => Wanted::yes(kind, "Answered", "the embassy's API server answers"),
        Reach::Unreachable(why) => Wanted::no(kind, "EmbassyUnreachable", format!("{why}; {REACH_AGAIN}")),
        Reach::Forbidden(why) => Wanted::no(
            kind,
            "Forbidden",
            format!("{why}; run `kubectl embassy pair` again, it renews home's rights"),
        ),
        Reach::NotAsked => Wanted::unknown(kind, "NotAsked", "there is no usable pairing yet"),
    }
}

/// Unknown unless the embassy has just been asked: an old answer says nothing about now.
fn unless_reached(seen: &Observation, kind: &'static str) -> Option<Wanted> {
    (seen.embassy.reach != Reach::Reached)
        .then(|| Wanted::unknown(kind, "EmbassyUnreachable", "the embassy cannot be asked what it has"))
}

fn proven(seen: &Observation) -> Option<&DispatchStatus> {
    let dispatch = seen.embassy.mirror.as_ref()?.status.last_dispatch.as_ref()?;
    (dispatch.sequence > 0).then_some(dispatch)
}

fn replica_fresh(seen: &Observation) -> Wanted {
    let kind = types::REPLICA_FRESH;
    if let Some(unknown) = unless_reached(seen, kind) {
        return unknown;
    }
    let objective = seen.policy().map(|p| p.sync.recovery_point_objective);
    let cut = proven(seen).and_then(|d| d.cut_time.as_ref()).map(|t| t.0);
    match (cut, objective) {
        (Some(cut), Some(objective)) if elapsed(cut, seen.now) <= objective.get() => Wanted::yes(
            kind,
            "WithinObjective",
            format!("the newest proven dispatch is younger than {objective}"),
        ),
        (Some(cut), Some(objective)) => Wanted::no(
            kind,
            "ReplicaStale",
            format!(
                "the newest proven dispatch was cut at {cut}, longer than {objective} ago; see status.run"
            ),
        ),
        (None, _) => Wanted::no(kind, "NoProvenDispatch", "the embassy has not proven any dispatch yet"),
        (_, None) => Wanted::unknown(kind, "PolicyNotFound", "the policy with the objective is missing"),
    }
}

/// What only the embassy can judge, shown here as it says it.
const COPIED: [&str; 3] = [types::ENCRYPTION_VERIFIED, types::VAULT_READY, types::STANDBY_READY];

fn copied(seen: &Observation, kind: &'static str) -> Wanted {
    if let Some(unknown) = unless_reached(seen, kind) {
        return unknown;
    }
    match theirs(seen, kind) {
        Some(theirs) => as_theirs(kind, theirs),
        None => Wanted::unknown(kind, "NotReported", "the embassy has not said anything about it yet"),
    }
}

fn theirs<'a>(seen: &'a Observation, kind: &str) -> Option<&'a Condition> {
    seen.embassy.mirror.as_ref().and_then(|m| conditions::get(&m.status.conditions, kind))
}

fn as_theirs(kind: &'static str, theirs: &Condition) -> Wanted {
    let status = match theirs.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    };
    Wanted { kind, status, reason: theirs.reason.clone(), message: theirs.message.clone() }
}

/// What a person has to mend in the embassy. Home's own `Stalled` is about home alone.
fn stalled_abroad(seen: &Observation) -> Option<&Condition> {
    let asked = seen.embassy.reach == Reach::Reached;
    theirs(seen, types::STALLED).filter(|c| asked && c.status == "True")
}

/// F as it was measured, where it exceeds what the settings assume: then the safety rule does not hold.
/// (A fence that found pods running measures the node's boot, not itself.)
fn slow_fence(seen: &Observation, status: &DataEmbassyStatus) -> Option<String> {
    let took = status.last_fence.as_ref().filter(|f| f.found_running == 0)?.seconds?;
    let limit = seen.policy()?.promotion.fencing.max_fence_time;
    (took > limit.get().as_secs_f64()).then(|| {
        format!(
            "the last fencing took {took:.1} s and promotion.fencing.maxFenceTime is {limit}: raise it, and the \
             pair's lease duration with it, or find out why pods die slowly here"
        )
    })
}

fn fence_ready(seen: &Observation, status: &DataEmbassyStatus, outcome: &Outcome) -> Wanted {
    let kind = types::FENCE_READY;
    if let Some(error) = &outcome.fence.last_error {
        return Wanted::no(kind, "FenceFailed", format!("what may write is not under control: {error}"));
    }
    if let Some(message) = slow_fence(seen, status) {
        return Wanted::no(kind, "FenceSlow", message);
    }
    match status.last_fence.as_ref().filter(|f| f.found_running > 0) {
        Some(fence) => {
            let took = fence.seconds.map_or_else(
                || "they are not all stopped yet".to_owned(),
                |s| format!("all were stopped after {s:.1} s"),
            );
            let message = format!(
                "{} pods ran without a permit, started by a node or a person while no operator watched, and {took}: \
                 compare what they wrote; see status.lastFence",
                fence.found_running
            );
            Wanted::no(kind, "FoundRunning", message)
        }
        None => Wanted::no(
            kind,
            "BestEffort",
            "fence Scale is best effort: a node at home that reboots may start pods before they are fenced",
        ),
    }
}

fn replica_proven(seen: &Observation) -> Wanted {
    let kind = types::REPLICA_PROVEN;
    if let Some(unknown) = unless_reached(seen, kind) {
        return unknown;
    }
    match (theirs(seen, kind), proven(seen)) {
        (Some(theirs), _) => as_theirs(kind, theirs),
        (None, Some(dispatch)) => {
            Wanted::yes(kind, "Proven", format!("dispatch {} was restored and compared", dispatch.sequence))
        }
        (None, None) => Wanted::no(kind, "NoProvenDispatch", "the embassy has not proven any dispatch yet"),
    }
}

fn keys_available(seen: &Observation, outcome: &Outcome) -> Wanted {
    let kind = types::KEYS_AVAILABLE;
    let fault = outcome.faults.first();
    if outcome.keys_sent {
        return Wanted::yes(kind, "Entrusted", "the embassy holds the repository's password");
    }
    if let Some(unknown) = unless_reached(seen, kind) {
        return unknown;
    }
    match fault {
        Some(fault) => Wanted::no(kind, fault.reason, fault.message.clone()),
        None => Wanted::no(kind, "KeysNotSent", "the repository's password is not in the embassy yet"),
    }
}

fn is(wanted: &[Wanted], kind: &str, status: bool) -> bool {
    wanted.iter().any(|w| w.kind == kind && w.status == Some(status))
}

fn phase(seen: &Observation, outcome: &Outcome, status: &DataEmbassyStatus, wanted: &[Wanted]) -> Phase {
    if seen.object.metadata.deletion_timestamp.is_some() {
        return Phase::Retired;
    }
    if matches!(seen.writ.right, Right::Denied(_)) || status.active_site == Some(Site::Embassy) {
        return Phase::Fenced;
    }
    let before = status.last_dispatch.is_some();
    if outcome.stall().is_some() || stalled_abroad(seen).is_some() {
        return if before { Phase::Degraded } else { Phase::Pending };
    }
    let vault = seen.embassy.mirror.as_ref().is_some_and(|m| m.status.vault.is_some());
    let reached = seen.embassy.reach == Reach::Reached;
    if !(before || reached && vault) {
        return Phase::Provisioning;
    }
    if reached && proven(seen).is_none() {
        return Phase::Seeding;
    }
    let failed = status.run.as_ref().is_some_and(|r| r.state == Some(RunState::Failed));
    let well = is(wanted, types::REPLICA_FRESH, true)
        && is(wanted, types::REPLICA_PROVEN, true)
        && is(wanted, types::KEYS_AVAILABLE, true)
        && !is(wanted, types::VAULT_READY, false)
        && seen.writ.alarm.is_none();
    if well && !failed { Phase::Protected } else { Phase::Degraded }
}

/// `Ready` and `Reconciling` after kstatus.
fn summary(
    seen: &Observation,
    plan: &Plan,
    outcome: &Outcome,
    status: &DataEmbassyStatus,
    phase: Phase,
    wanted: &[Wanted],
) -> [Wanted; 2] {
    let moving = matches!(phase, Phase::Pending | Phase::Provisioning | Phase::Seeding | Phase::Retired);
    let (reason, message) = why_not(seen, plan, outcome, status, phase, wanted);
    let ready = if phase == Phase::Protected {
        Wanted::yes(types::READY, "Protected", "the embassy holds a proven copy within the objective")
    } else {
        Wanted::no(types::READY, &reason, message.clone())
    };
    let waits = outcome.stall().is_some() || stalled_abroad(seen).is_some();
    let reconciling = if moving && !waits {
        Wanted::yes(types::RECONCILING, &reason, message)
    } else {
        Wanted::no(types::RECONCILING, "Settled", "nothing is being set up")
    };
    [ready, reconciling]
}

/// The one thing that matters most now.
fn why_not(
    seen: &Observation,
    plan: &Plan,
    outcome: &Outcome,
    status: &DataEmbassyStatus,
    phase: Phase,
    wanted: &[Wanted],
) -> (String, String) {
    if phase == Phase::Fenced {
        let why = match &seen.writ.right {
            Right::Denied(why) => why.clone(),
            _ => "the writ names the embassy".to_owned(),
        };
        let hint = if arbiter::waits(seen) {
            "; arbiter Embassy stays in force until the embassy has been told of Home and the ledger is home's: \
             bring the embassy back, or, if nothing serves there, delete this DataEmbassy with the annotation \
             dataembassy.io/abandon-embassy=true and apply it anew"
        } else {
            ""
        };
        return ("Fenced".to_owned(), format!("home may not write: {why}{hint}"));
    }
    if let Some(problem) = outcome.stall().or(outcome.faults.first()) {
        return (problem.reason.to_owned(), problem.message.clone());
    }
    if let Some(theirs) = stalled_abroad(seen) {
        return (theirs.reason.clone(), format!("in the embassy: {}", theirs.message));
    }
    if let Some(alarm) = &seen.writ.alarm {
        return ("LedgerAlarm".to_owned(), alarm.clone());
    }
    let failed = status.run.as_ref().filter(|r| r.state == Some(RunState::Failed));
    if let Some(run) = failed {
        let reason = run.reason.clone().unwrap_or_else(|| "Failed".to_owned());
        return (reason, run.message.clone().unwrap_or_default());
    }
    if let Step::Held { reason, message } = &plan.step {
        return ((*reason).to_owned(), message.clone());
    }
    // A pilot light is allowed not to run, and what is copied may be late: only a plain no counts.
    let counts = |w: &&Wanted| match COPIED.contains(&w.kind) {
        true => w.kind == types::VAULT_READY && w.status == Some(false),
        false => w.kind != types::STALLED && w.status != Some(true),
    };
    let bad = wanted.iter().find(counts);
    match bad {
        Some(bad) => (bad.reason.clone(), bad.message.clone()),
        None => (format!("{phase:?}"), "the first dispatch is on its way".to_owned()),
    }
}

/// Until the next turn: soon while something moves, else when something is due.
#[must_use]
pub fn requeue(seen: &Observation, plan: &Plan, status: &DataEmbassyStatus) -> Duration {
    const SOON: Duration = Duration::from_secs(2);
    const LATER: Duration = Duration::from_secs(10);
    match &plan.step {
        // What was written down is done at once.
        Step::Begin { .. } | Step::Recut | Step::End(_) => Duration::from_millis(50),
        Step::Cut | Step::AwaitCut(_) => Duration::from_millis(500),
        Step::StartMover | Step::AwaitMover(_) | Step::Held { .. } => SOON,
        Step::Idle(next) => {
            let settled = matches!(status.phase, Some(Phase::Protected | Phase::Degraded));
            let due = next.map_or(LATER, |next| elapsed(seen.now, next));
            due.clamp(Duration::from_millis(50), if settled { LATER } else { SOON })
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
