//! Promotion: gathers the evidence, lets [`crate::domain::promotion::decide`] decide, and does it.
//!
//! Every step is idempotent and the status remembers which one is being done, so an operator that
//! dies at any of them comes to the same end.

mod evidence;
mod marks;
mod steps;

use super::objects::{self, Mode, Synced};
use super::observe::RestoreObjects;
use super::plan::Restores;
use crate::api::conditions::{Wanted, types};
use crate::api::embassy::{DataEmbassyStatus, Phase, PromotionProgress, PromotionStep};
use crate::api::ledger::{Site, Writ};
use crate::api::names::{HOME_LEDGER_ROLE, ledger};
use crate::api::pair::PairRecord;
use crate::api::request::{RequestState, Verb};
use crate::api::{DataEmbassy, EmbassyRequest, ReplicaPolicySpec};
use crate::controller::Context;
use crate::crash;
use crate::domain::promotion::{Decision, Standby, closed_gate, decide, resume, standby, started_at};
use crate::domain::writ::override_writ;
use crate::lease::LeaseError;
use evidence::Gathered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::rbac::v1::Role;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use serde_json::json;

/// What a turn of the promotion rests on.
pub struct Input<'a> {
    /// The mirror.
    pub object: &'a DataEmbassy,
    /// Its policy.
    pub policy: &'a ReplicaPolicySpec,
    /// The pair record.
    pub pair: &'a PairRecord,
    /// The repository's key is here.
    pub key_present: bool,
    /// The newest received dispatch.
    pub received: Option<u64>,
    /// What movers left.
    pub restore: &'a RestoreObjects,
    /// The standby's volumes, those that are there.
    pub claims: Vec<&'a PersistentVolumeClaim>,
    /// Requests for this DataEmbassy that have not come to their end, oldest first.
    pub requests: &'a [EmbassyRequest],
}

/// What came of a turn.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The phase, when the promotion has one to show.
    pub phase: Option<Phase>,
    /// Conditions that the promotion owns.
    pub conditions: Vec<Wanted>,
    /// What restores may run.
    pub restores: Restores,
    /// The standby's objects, as far as they could be synced.
    pub synced: Option<Synced>,
    /// Why the objects could not be synced.
    pub objects_error: Option<String>,
    /// Requests whose status changes: name, state, message.
    pub requests: Vec<(String, RequestState, String)>,
    /// Something moves: come back soon.
    pub moving: bool,
}

/// Why a step failed; it is tried again, and nothing before it is undone.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// The ledger.
    #[error("cannot write the ledger")]
    Ledger(#[from] LeaseError),
    /// The standby's objects.
    #[error("cannot start the standby")]
    Objects(#[from] objects::ObjectsError),
    /// The volumes' mark.
    #[error("cannot mark the standby's volumes with the epoch")]
    Mark(#[from] crate::controller::apply::ApplyError),
}

/// One turn. Changes `status` (promotion, epoch, health, suspicion) and says the rest in the outcome.
pub async fn turn(
    ctx: &Context,
    input: &Input<'_>,
    status: &mut DataEmbassyStatus,
    now: Timestamp,
) -> Outcome {
    let gathered = evidence::gather(ctx, input, status);
    evidence::note(&gathered, status, now);
    let mut outcome = Outcome::default();
    let decision = decide(&gathered.evidence(input, status), now);
    outcome.conditions = conditions(&gathered, input, status, now);
    if let Err(error) = act(ctx, input, status, &gathered, &decision, now, &mut outcome).await {
        outcome.moving = true;
        let message = crate::cli::chain(&error);
        tracing::warn!(name = input.object.name_any(), %message, "promotion step failed");
        outcome.conditions.push(Wanted::no(types::PROMOTION_ALLOWED, "StepFailed", message));
    }
    let right = standby(&gathered.record(status));
    conclude(status, right, &mut outcome);
    sync_objects(ctx, input, status, &gathered, right, &mut outcome).await;
    answer_requests(input, &decision, status, &mut outcome);
    outcome
}

async fn act(
    ctx: &Context,
    input: &Input<'_>,
    status: &mut DataEmbassyStatus,
    gathered: &Gathered,
    decision: &Decision,
    now: Timestamp,
    outcome: &mut Outcome,
) -> Result<(), PromoteError> {
    outcome.restores = Restores::Follow;
    leave(status, gathered);
    match decision {
        Decision::Stay => {}
        Decision::Suspect(_) => outcome.phase = Some(Phase::HomeSuspect),
        Decision::Await(_) => outcome.phase = Some(Phase::AwaitingWrit),
        Decision::Hold(..) => outcome.phase = Some(Phase::PromotionHeld),
        Decision::Claim(writ, why) => {
            write(ctx, input, *writ, status).await?;
            crash::point("afterClaim");
            begin(input, status, why, false, now);
        }
        Decision::Override => take(ctx, input, status, gathered, now).await?,
        Decision::Confirm(writ) => confirm(ctx, input, status, gathered, *writ, now).await?,
        Decision::Continue => {
            let writ = gathered.writ.unwrap_or_default();
            if status.promotion.is_none() {
                let why = "a promotion whose record was lost: loss and recovery are not known";
                begin(input, status, why, writ.overridden, now);
            }
            // Also a step that is behind what was done (the turn that did it could not write its status):
            // what was started once is never made dark and started again.
            step_to(status, resume(&marks::read(&input.claims), writ.epoch));
            revoke_home(ctx, input, gathered, outcome).await;
            steps::run(ctx, input, status, gathered, now, outcome).await?;
        }
        Decision::Serving => revoke_home(ctx, input, gathered, outcome).await,
    }
    Ok(())
}

/// A human's override.
async fn take(
    ctx: &Context,
    input: &Input<'_>,
    status: &mut DataEmbassyStatus,
    gathered: &Gathered,
    now: Timestamp,
) -> Result<(), PromoteError> {
    let high_water = status.epoch.and_then(|epoch| u64::try_from(epoch).ok());
    let serves = standby(&gathered.record(status)) == Standby::Serve;
    if serves {
        // Before the ledger: dying in between must not end in a restore over what was written.
        let next = override_writ(gathered.writ.as_ref(), high_water);
        marks::write(ctx, input, next.epoch).await?;
    }
    let name = input.object.name_any();
    let writ = ctx.ledgers.override_writ(input.pair, &ctx.client, &name, high_water).await?;
    let epoch = i64::try_from(writ.epoch).unwrap_or(i64::MAX);
    status.epoch = status.epoch.max(Some(epoch));
    // It serves and only its ledger was lost: a new promotion would restore over what it wrote.
    match (serves, status.promotion.as_mut(), status.last_promotion.as_mut()) {
        (true, Some(progress), _) => progress.overridden = true,
        (true, None, Some(last)) => (last.epoch, last.overridden) = (epoch, true),
        _ => begin(input, status, "override by a human", true, now),
    }
    Ok(())
}

/// Rule 4, for a claim of ours or one that stood already.
async fn confirm(
    ctx: &Context,
    input: &Input<'_>,
    status: &mut DataEmbassyStatus,
    gathered: &Gathered,
    writ: Writ,
    now: Timestamp,
) -> Result<(), PromoteError> {
    let serves = standby(&gathered.record(status)) == Standby::Serve;
    if status.promotion.is_none() && !serves {
        begin(input, status, "a claim that stood already", writ.overridden, now);
    }
    write(ctx, input, writ, status).await?;
    crash::point("afterConfirm");
    step_to(status, resume(&marks::read(&input.claims), writ.epoch));
    Ok(())
}

/// Phase and restores, whatever became of the steps: an error in one of them must not make a turn
/// that looks as if nothing were promoted.
fn conclude(status: &DataEmbassyStatus, right: Standby, outcome: &mut Outcome) {
    if status.promotion.is_some() {
        outcome.moving = true;
        outcome.phase = Some(Phase::Promoting);
        if outcome.restores == Restores::Follow {
            outcome.restores = Restores::Hold;
        }
    } else if right == Standby::Serve {
        outcome.phase = Some(Phase::Promoted);
        outcome.restores = Restores::Hold;
    }
}

/// A promotion whose claim never came to stand, or whose writ was given back, is no promotion. Not on a
/// read that is older than what the status has seen: another replica may have claimed since.
fn leave(status: &mut DataEmbassyStatus, gathered: &Gathered) {
    let home = gathered.writ.filter(|writ| writ.site() == Site::Home);
    if home.is_some_and(|writ| i64::try_from(writ.epoch).ok() >= status.epoch) {
        status.promotion = None;
    }
}

fn begin(input: &Input<'_>, status: &mut DataEmbassyStatus, why: &str, overridden: bool, now: Timestamp) {
    let proven = status.last_dispatch.as_ref().map_or(0, |d| d.sequence);
    let received = input.received.and_then(|r| i64::try_from(r).ok()).unwrap_or(0);
    let mut course = input.requests.iter().filter(|r| matches!(r.spec.verb, Verb::Promote | Verb::Override));
    let asked = course.find_map(|r| r.metadata.creation_timestamp.as_ref()).map(|time| time.0);
    let suspect_since = status.suspect_since.as_ref().map(|time| time.0);
    status.promotion = Some(PromotionProgress {
        step: PromotionStep::Confirm,
        reason: why.to_owned(),
        started_at: Time(started_at(asked, suspect_since, now)),
        claimed_at: Some(Time(now)),
        sequence: proven.max(received),
        overridden,
    });
}

fn step_to(status: &mut DataEmbassyStatus, step: PromotionStep) {
    if let Some(progress) = status.promotion.as_mut() {
        progress.step = progress.step.max(step);
    }
}

/// Writes a writ, and its epoch into the status of the same turn: whoever reads an older ledger later
/// must see that it is older.
async fn write(
    ctx: &Context,
    input: &Input<'_>,
    writ: Writ,
    status: &mut DataEmbassyStatus,
) -> Result<(), PromoteError> {
    let name = input.object.name_any();
    ctx.ledgers.write_writ(input.pair, &ctx.client, &name, writ).await?;
    status.epoch = status.epoch.max(i64::try_from(writ.epoch).ok());
    Ok(())
}

/// Rule 11: while the embassy holds every writ of the pair, home may read the ledger and no more.
/// With a writ still at home its beat must go on, so the right stays. A failure is said and tried
/// again: the embassy serves without it.
async fn revoke_home(ctx: &Context, input: &Input<'_>, gathered: &Gathered, outcome: &mut Outcome) {
    if !gathered.all_confirmed {
        return;
    }
    let rules = json!({"rules": [{
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": [ledger(&input.pair.id)],
        "verbs": ["get", "watch"],
    }]});
    let namespace = &input.pair.embassy_namespace;
    if let Err(error) = ctx.applier.merge::<Role>(namespace, HOME_LEDGER_ROLE, &rules).await {
        let why = crate::cli::chain(&error);
        tracing::warn!(name = input.object.name_any(), why, "home keeps its right to update the ledger");
        let message = format!(
            "home may still update the ledger: {why}; take the verb `update` out of Role {HOME_LEDGER_ROLE} \
             by hand, or run `kubectl embassy pair` again so that the operator may"
        );
        outcome.conditions.push(Wanted::no(types::FENCE_READY, "HomeNotRevoked", message));
    }
}

fn conditions(
    gathered: &Gathered,
    input: &Input<'_>,
    status: &DataEmbassyStatus,
    now: Timestamp,
) -> Vec<Wanted> {
    let right = standby(&gathered.record(status));
    let mut list = vec![gathered.home_reachable(), gathered.quorum(right)];
    let serves = status.promotion.is_none() && right == Standby::Serve;
    list.push(match closed_gate(&gathered.evidence(input, status), now) {
        _ if serves => {
            Wanted::no(types::PROMOTION_ALLOWED, "Promoted", "the embassy holds the writ and serves")
        }
        Some((gate, message)) => Wanted::no(types::PROMOTION_ALLOWED, gate.reason(), message),
        None => Wanted::yes(types::PROMOTION_ALLOWED, "GatesOpen", "every gate is open"),
    });
    list.push(Wanted::no(
        types::FENCE_READY,
        "BestEffort",
        "fence Scale is best effort: a node at home that reboots may start pods before they are fenced",
    ));
    list
}

/// Keeps the standby's objects as `right` says; on Unknown nothing is touched.
async fn sync_objects(
    ctx: &Context,
    input: &Input<'_>,
    status: &DataEmbassyStatus,
    gathered: &Gathered,
    right: Standby,
    outcome: &mut Outcome,
) {
    if outcome.synced.is_some() || input.object.spec.services.is_none() {
        return;
    }
    let (namespace, name) = (&input.pair.embassy_namespace, input.object.name_any());
    let mode = match right {
        Standby::Serve => Mode::Serving,
        Standby::Dark => Mode::PilotLight,
        Standby::Unknown => return,
    };
    // A workload that stands at no replicas although it should serve: somebody scaled it down. Like
    // every start it needs a permit that is young enough.
    let mut scaled = Ok(Vec::new());
    if right == Standby::Serve && gathered.permitted {
        scaled = objects::scale_up(ctx, namespace, &name).await;
    }
    // At once, and by what stands here and not by the manifests: home may write again.
    if right == Standby::Dark && (status.last_promotion.is_some() || status.promotion.is_some()) {
        scaled = objects::scale_down(ctx, namespace, &name).await;
    }
    match objects::sync(ctx, namespace, input.object, mode).await {
        Ok(mut synced) => {
            synced.findings.extend(scaled.as_ref().ok().into_iter().flatten().cloned());
            outcome.synced = Some(synced);
        }
        Err(error) => outcome.objects_error = Some(crate::cli::chain(&error)),
    }
    if let Err(error) = scaled {
        outcome.objects_error = Some(crate::cli::chain(&error));
    }
}

fn answer_requests(
    input: &Input<'_>,
    decision: &Decision,
    status: &DataEmbassyStatus,
    outcome: &mut Outcome,
) {
    let (state, message) = match decision {
        Decision::Serving => (RequestState::Completed, "the embassy serves".to_owned()),
        Decision::Stay if input.object.spec.retired => {
            (RequestState::Refused, "the DataEmbassy is retired".to_owned())
        }
        Decision::Stay => (RequestState::Refused, "promotion.mode is None: this is a copy only".to_owned()),
        Decision::Hold(gate, why) => (RequestState::Accepted, format!("held, {}: {why}", gate.reason())),
        Decision::Await(why) => (RequestState::Accepted, format!("waiting: {why}")),
        _ if status.promotion.is_none() && outcome.phase == Some(Phase::Promoted) => {
            (RequestState::Completed, "the embassy serves".to_owned())
        }
        _ => (RequestState::Accepted, "promoting".to_owned()),
    };
    let ours = input.requests.iter().filter(|r| matches!(r.spec.verb, Verb::Promote | Verb::Override));
    outcome.requests.extend(ours.map(|r| (r.name_any(), state, message.clone())));
}
