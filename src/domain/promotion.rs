//! Whether the embassy takes over: one pure function from evidence to a decision (design section 5).
//!
//! It is used by the operator and by its tests, for drills of the mind: a golden table says what
//! happens for each state of the world. Missing evidence is `Unknown` and means hold.

use super::health::{Suspicion, stable};
use super::writ::{EmbassyTurn, EmbassyWait, SettingsError};
use crate::api::embassy::{Hold, PromotionProgress, PromotionRecord, PromotionStep, RunState};
use crate::api::ledger::{Site, Writ};
use crate::api::policy::{Fence, PromotionMode, PromotionSpec};
use crate::api::request::Verb;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Why a promotion is held; the names are the reasons of condition `PromotionAllowed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `spec.hold` is in force.
    Held,
    /// The lease settings break the safety rule.
    SettingsUnsafe,
    /// Home's fence is best effort and the policy does not accept that.
    FenceUnproven,
    /// No dispatch has been restored and compared yet.
    Unproven,
    /// The repository's key is not here.
    KeysMissing,
    /// An object of the service cannot be made here: the standby would never come up.
    StandbyIncomplete,
    /// The newest proven dispatch is older than `maxDataLoss`.
    ReplicaStale,
    /// The last promotion was less than `cooldown` ago.
    CoolingDown,
    /// The ledger cannot be read.
    NoArbiter,
    /// Home never wrote a writ.
    NoWrit,
    /// Arbiter `Home`: only a human moves the writ.
    OverrideRequired,
    /// The ledger has not stood still for L: home is alive, or was a moment ago.
    LeaseNotExpired,
    /// The policy says that a human begins promotions.
    ManualPromotion,
    /// The policy says that this is a copy only.
    CopyOnly,
}

impl Gate {
    /// The CamelCase reason.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Held => "Held",
            Self::SettingsUnsafe => "SettingsUnsafe",
            Self::FenceUnproven => "FenceUnproven",
            Self::Unproven => "Unproven",
            Self::KeysMissing => "KeysMissing",
            Self::StandbyIncomplete => "StandbyIncomplete",
            Self::ReplicaStale => "ReplicaStale",
            Self::CoolingDown => "CoolingDown",
            Self::NoArbiter => "NoArbiter",
            Self::NoWrit => "NoWrit",
            Self::OverrideRequired => "OverrideRequired",
            Self::LeaseNotExpired => "LeaseNotExpired",
            Self::ManualPromotion => "ManualPromotion",
            Self::CopyOnly => "CopyOnly",
        }
    }
}

/// The newest proven dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Its sequence.
    pub sequence: u64,
    /// Its cut.
    pub cut_time: Timestamp,
}

/// All that the decision rests on.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// The policy.
    pub policy: &'a PromotionSpec,
    /// What the health checks say.
    pub suspicion: &'a Suspicion,
    /// Since when home has been suspect without a break.
    pub suspect_since: Option<Timestamp>,
    /// What the ledger allows next.
    pub turn: EmbassyTurn,
    /// Whether the lease settings are safe.
    pub settings: Result<(), SettingsError>,
    /// The newest proven dispatch.
    pub proven: Option<Proven>,
    /// The repository's key is here.
    pub key_present: bool,
    /// What the last sync could not make of the service's objects.
    pub omitted: Option<String>,
    /// `spec.hold`.
    pub hold: Option<&'a Hold>,
    /// Deleted at home.
    pub retired: bool,
    /// When the last promotion began to serve.
    pub last_promotion: Option<Timestamp>,
    /// The oldest open request of a human.
    pub request: Option<Verb>,
    /// The ledger's current epoch has been promoted to its end already.
    pub promoted: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Home has the writ and nothing asks for a change.
    Stay,
    /// Home is suspect, and not for long enough yet.
    Suspect(String),
    /// A promotion is wanted and a gate is closed.
    Hold(Gate, String),
    /// A promotion is wanted and only the lease has to expire.
    Await(String),
    /// Write this claim.
    Claim(Writ, String),
    /// Take the writ by a human's order.
    Override,
    /// Write this confirmation.
    Confirm(Writ),
    /// The embassy holds the writ: go on with the steps.
    Continue,
    /// The embassy holds the writ and serves.
    Serving,
}

/// Decides. The order of the arms is the order of what must never be missed.
#[must_use]
pub fn decide(evidence: &Evidence<'_>, now: Timestamp) -> Decision {
    match &evidence.turn {
        EmbassyTurn::Held if evidence.promoted => return Decision::Serving,
        EmbassyTurn::Held => return Decision::Continue,
        // A claim stands: whoever made it had seen L pass, and home cannot write any more.
        EmbassyTurn::Confirm(writ) => return Decision::Confirm(*writ),
        EmbassyTurn::Claim(_) | EmbassyTurn::Wait(_) => {}
    }
    if evidence.retired || evidence.policy.mode == PromotionMode::None {
        return Decision::Stay;
    }
    if evidence.request == Some(Verb::Override) {
        return match unknown(evidence).or_else(|| nothing_to_serve(evidence)) {
            Some((gate, why)) => Decision::Hold(gate, why),
            None => Decision::Override,
        };
    }
    let why = match wanted(evidence, now) {
        Ok(why) => why,
        Err(decision) => return decision,
    };
    match closed_gate(evidence, now) {
        Some((Gate::LeaseNotExpired, message)) => Decision::Await(message),
        Some((gate, message)) => Decision::Hold(gate, message),
        None => match evidence.turn {
            EmbassyTurn::Claim(writ) => Decision::Claim(writ, why),
            _ => Decision::Await("the ledger does not allow a claim yet".into()),
        },
    }
}

/// Whether a promotion is wanted, and why; else what the state is.
fn wanted(evidence: &Evidence<'_>, now: Timestamp) -> Result<String, Decision> {
    if evidence.request == Some(Verb::Promote) {
        return Ok("asked for by a human".into());
    }
    let Suspicion::Suspect(why) = evidence.suspicion else { return Err(Decision::Stay) };
    if !stable(evidence.suspect_since, evidence.policy.stabilization.get(), now) {
        return Err(Decision::Suspect(why.clone()));
    }
    if evidence.policy.mode == PromotionMode::Manual {
        let message = format!("{why}; promotion.mode is Manual: run `kubectl embassy promote`");
        return Err(Decision::Hold(Gate::ManualPromotion, message));
    }
    Ok(why.clone())
}

/// A ledger that was not read: nobody, not even a human, writes over what nobody has seen.
fn unknown(evidence: &Evidence<'_>) -> Option<(Gate, String)> {
    let EmbassyTurn::Wait(wait @ EmbassyWait::NoArbiter(_)) = &evidence.turn else { return None };
    Some((Gate::NoArbiter, format!("{wait}; an override needs the ledger: it is tried again at every read")))
}

/// Gates that even an override cannot open: there would be nothing to serve.
fn nothing_to_serve(evidence: &Evidence<'_>) -> Option<(Gate, String)> {
    if evidence.proven.is_none() {
        return Some((
            Gate::Unproven,
            "no dispatch has been restored and compared yet: there is nothing to serve".into(),
        ));
    }
    (!evidence.key_present).then(|| {
        (Gate::KeysMissing, "the repository's key is not in Secret embassy-keys; home writes it there".into())
    })
}

/// The first closed gate in the order in which people should mend them, or `None`.
/// In peace it says what condition `PromotionAllowed` shows.
#[must_use]
pub fn closed_gate(evidence: &Evidence<'_>, now: Timestamp) -> Option<(Gate, String)> {
    let policy = evidence.policy;
    if policy.mode == PromotionMode::None {
        return Some((Gate::CopyOnly, "promotion.mode is None: this is a copy only".into()));
    }
    if let Some(hold) = evidence.hold.filter(|h| h.until.as_ref().is_none_or(|until| now < until.0)) {
        return Some((Gate::Held, format!("spec.hold: {}", hold.reason)));
    }
    if let Err(error) = &evidence.settings {
        return Some((Gate::SettingsUnsafe, error.to_string()));
    }
    if policy.fence == Fence::Scale && !policy.accept_unproven_fence {
        return Some((
            Gate::FenceUnproven,
            "fence Scale is best effort: a node that reboots may start home's pods again before they are \
             fenced; set promotion.acceptUnprovenFence to accept that, or override"
                .into(),
        ));
    }
    if let Some(closed) = nothing_to_serve(evidence) {
        return Some(closed);
    }
    if let Some(omitted) = &evidence.omitted {
        let message = format!(
            "the service cannot be made here as it is at home: {omitted} (mend that, or take over without it: \
             `kubectl embassy promote --override`)"
        );
        return Some((Gate::StandbyIncomplete, message));
    }
    let ledger = ledger_gate(&evidence.turn);
    let expires = ledger.as_ref().is_some_and(|(gate, _)| *gate == Gate::LeaseNotExpired);
    // Before the lease, which in peace is never expired; after what a person's word does not open.
    let (lease, ledger) = if expires { (ledger, None) } else { (None, ledger) };
    stale(evidence, now).or_else(|| cooling(evidence, now)).or(ledger).or_else(|| manual(evidence)).or(lease)
}

fn manual(evidence: &Evidence<'_>) -> Option<(Gate, String)> {
    let asked = matches!(evidence.request, Some(Verb::Promote | Verb::Override));
    (evidence.policy.mode == PromotionMode::Manual && !asked).then(|| {
        (
            Gate::ManualPromotion,
            "promotion.mode is Manual: run `kubectl embassy promote` when home is lost".into(),
        )
    })
}

fn stale(evidence: &Evidence<'_>, now: Timestamp) -> Option<(Gate, String)> {
    let proven = evidence.proven?;
    let (age, limit) = (now.duration_since(proven.cut_time), span(evidence.policy.max_data_loss));
    (age > limit).then(|| {
        let message = format!(
            "the newest proven dispatch {} was cut {} s ago, more than maxDataLoss {}",
            proven.sequence,
            age.as_secs(),
            evidence.policy.max_data_loss
        );
        (Gate::ReplicaStale, message)
    })
}

fn cooling(evidence: &Evidence<'_>, now: Timestamp) -> Option<(Gate, String)> {
    let since = now.duration_since(evidence.last_promotion?);
    (since < span(evidence.policy.cooldown)).then(|| {
        let message = format!(
            "the last promotion was {} s ago, cooldown is {}",
            since.as_secs(),
            evidence.policy.cooldown
        );
        (Gate::CoolingDown, message)
    })
}

fn ledger_gate(turn: &EmbassyTurn) -> Option<(Gate, String)> {
    let EmbassyTurn::Wait(wait) = turn else { return None };
    let gate = match wait {
        EmbassyWait::NoArbiter(_) | EmbassyWait::Behind { .. } => Gate::NoArbiter,
        EmbassyWait::NoWrit => Gate::NoWrit,
        EmbassyWait::OverrideRequired => Gate::OverrideRequired,
        EmbassyWait::LeaseNotExpired { .. } | EmbassyWait::Yielding => Gate::LeaseNotExpired,
    };
    Some((gate, wait.to_string()))
}

fn span(span: crate::api::duration::Span) -> SignedDuration {
    SignedDuration::try_from(span.get()).unwrap_or(SignedDuration::MAX)
}

/// When a promotion that is begun now started: when a human asked for it, else when home was first
/// suspect.
#[must_use]
pub fn started_at(asked: Option<Timestamp>, suspect_since: Option<Timestamp>, now: Timestamp) -> Timestamp {
    asked.or(suspect_since).unwrap_or(now).min(now)
}

/// What a promotion that came to its end leaves on record. `cut` is that of the promoted dispatch.
///
/// Home could write until the writ was taken: counted to the first suspicion instead, the loss of a
/// planned takeover would read 0 whatever was written since the cut.
#[must_use]
pub fn record(
    progress: PromotionProgress,
    cut: Option<Timestamp>,
    epoch: i64,
    now: Timestamp,
) -> PromotionRecord {
    let seconds = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64().max(0.0);
    let claimed = progress.claimed_at.as_ref().map_or(progress.started_at.0, |time| time.0);
    PromotionRecord {
        reason: progress.reason,
        recovery_seconds: seconds(progress.started_at.0, now),
        data_loss_seconds: cut.map_or(0.0, |cut| seconds(cut, claimed)),
        started_at: progress.started_at,
        serving_at: Time(now),
        epoch,
        sequence: progress.sequence,
        overridden: progress.overridden,
    }
}

/// Where a promotion goes on whose progress the status has lost, with the writ of `epoch` confirmed: the
/// mirror was applied again, or restored without its status. `marks` are the epochs that its volumes were
/// started under, one for each volume. If they name this one, the standby has written: a restore
/// would destroy that. A volume without the mark among others with it has been added since.
#[must_use]
pub fn resume(marks: &[Option<u64>], epoch: u64) -> PromotionStep {
    if marks.contains(&Some(epoch)) { PromotionStep::Start } else { PromotionStep::FinishRestore }
}

/// Whether the standby's workloads may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standby {
    /// They serve, or are being started: never put out, never deleted.
    Serve,
    /// They may not: they are kept at no replicas.
    Dark,
    /// Not known: nothing is touched, in neither direction.
    Unknown,
}

/// What [`standby`] rests on: mostly what the status has on record, which no failed read can take away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    /// The step of the promotion under way.
    pub step: Option<PromotionStep>,
    /// Epoch of the last promotion that came to its end.
    pub served: Option<i64>,
    /// The highest epoch that was ever seen.
    pub epoch: Option<i64>,
    /// The ledger was read now.
    pub read: bool,
    /// What it says of this DataEmbassy.
    pub writ: Option<Writ>,
}

/// Whether the standby's workloads may run. A ledger that cannot be read now, or one that went back
/// in time, must not put out an embassy that serves: that would be an outage made by one lost packet.
/// Only a ledger that was read and takes the writ away does.
#[must_use]
pub fn standby(record: &Record) -> Standby {
    let epoch = record.writ.and_then(|writ| i64::try_from(writ.epoch).ok());
    let taken = record.writ.is_some_and(|writ| writ.site() == Site::Home || writ.yielding);
    // Nothing was ever claimed where there never was a writ.
    let never = record.writ.is_none() && record.epoch.is_none();
    if record.read && ((taken && epoch >= record.epoch) || never) {
        return Standby::Dark;
    }
    let started = record.step.is_some_and(|step| step >= PromotionStep::Start);
    let served = record.served.is_some_and(|epoch| epoch % 2 == 1 && record.epoch == Some(epoch));
    if started || served { Standby::Serve } else { Standby::Unknown }
}

/// The last restore into the standby volumes: which dispatch, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRestore {
    /// The dispatch.
    pub sequence: u64,
    /// What became of it.
    pub state: RunState,
}

/// What step `FinishRestore` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// A restore is running.
    Wait,
    /// Restore this dispatch.
    Restore(u64),
    /// The volumes hold exactly the target, and it is proven.
    Done,
    /// The target failed; promote this older one instead.
    FallBack(u64),
}

/// With one slot, a restore that broke off has spoilt the volumes of the proven dispatch before it,
/// so the volumes are right only if the last restore was the proven one and it succeeded.
#[must_use]
pub fn finish_restore(target: u64, proven: u64, last: Option<LastRestore>) -> RestoreStep {
    match last {
        Some(LastRestore { state: RunState::Running, .. }) => RestoreStep::Wait,
        Some(LastRestore { state: RunState::Failed, sequence }) if sequence == target && target > proven => {
            RestoreStep::FallBack(proven)
        }
        Some(LastRestore { state: RunState::Failed, .. }) => RestoreStep::Restore(target),
        Some(LastRestore { state: RunState::Succeeded, sequence }) if sequence == target => RestoreStep::Done,
        None if proven == target => RestoreStep::Done,
        Some(_) | None => RestoreStep::Restore(target),
    }
}

/// The step after one that is done.
#[must_use]
pub const fn next_step(step: PromotionStep) -> Option<PromotionStep> {
    match step {
        PromotionStep::Claim => Some(PromotionStep::Confirm),
        PromotionStep::Confirm => Some(PromotionStep::FinishRestore),
        PromotionStep::FinishRestore => Some(PromotionStep::Prove),
        PromotionStep::Prove => Some(PromotionStep::RestoreObjects),
        PromotionStep::RestoreObjects => Some(PromotionStep::Start),
        PromotionStep::Start => Some(PromotionStep::Probe),
        PromotionStep::Probe => Some(PromotionStep::SwitchTraffic),
        PromotionStep::SwitchTraffic => None,
    }
}

#[cfg(test)]
#[path = "promotion_tests.rs"]
mod tests;
