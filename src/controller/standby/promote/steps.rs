//! The steps after Confirm: FinishRestore, Prove, RestoreObjects, Start, Probe, SwitchTraffic.

use super::evidence::Gathered;
use super::{Input, Outcome, PromoteError, marks};
use crate::api::conditions::{Wanted, types};
use crate::api::embassy::{DataEmbassyStatus, PromotionStep, RunState};
use crate::controller::Context;
use crate::controller::standby::objects::{self, Mode};
use crate::controller::standby::plan::{Restores, leftover, run_of};
use crate::crash;
use crate::domain::promotion::{LastRestore, RestoreStep, finish_restore, next_step, record};
use jiff::Timestamp;
use kube::ResourceExt as _;

/// Does as many steps as can be done now; stops at the first that has to wait.
pub async fn run(
    ctx: &Context,
    input: &Input<'_>,
    status: &mut DataEmbassyStatus,
    gathered: &Gathered,
    now: Timestamp,
    outcome: &mut Outcome,
) -> Result<(), PromoteError> {
    outcome.restores = Restores::Hold;
    while let Some(step) = status.promotion.as_ref().map(|p| p.step) {
        crash::point(&format!("before{step:?}"));
        let done = match step {
            PromotionStep::Claim | PromotionStep::Confirm => true,
            PromotionStep::FinishRestore => restored(input, status, outcome),
            PromotionStep::Prove => proven(status),
            PromotionStep::RestoreObjects => objects_restored(ctx, input, status, outcome).await?,
            PromotionStep::Start => started(ctx, input, gathered, outcome).await?,
            PromotionStep::Probe => serves(ctx, input, gathered, outcome).await?,
            // Services at the embassy select the standby's pods already; routes follow later.
            PromotionStep::SwitchTraffic => true,
        };
        if !done {
            return Ok(());
        }
        // Done, but the status does not know it yet.
        crash::point(&format!("after{step:?}"));
        match next_step(step) {
            Some(next) => {
                if let Some(progress) = status.promotion.as_mut() {
                    progress.step = next;
                }
            }
            None => finish(status, gathered, now),
        }
    }
    Ok(())
}

fn restored(input: &Input<'_>, status: &mut DataEmbassyStatus, outcome: &mut Outcome) -> bool {
    let failed = status.run.as_ref().filter(|run| run.state == Some(RunState::Failed));
    if let Some(message) = failed.and_then(|run| run.message.clone()) {
        outcome.conditions.push(Wanted::no(types::PROMOTION_ALLOWED, "RestoreFailed", message));
    }
    if let Some(why) = leftover(input.restore, status.run.as_ref()) {
        outcome.conditions.push(Wanted::no(types::PROMOTION_ALLOWED, "MoverStopping", why));
        return false;
    }
    let proven = status.last_dispatch.as_ref().map_or(0, |d| d.sequence);
    let target = status.promotion.as_ref().map_or(proven, |p| p.sequence);
    let last = status.run.as_ref().and_then(|run| {
        let (sequence, _) = run_of(run)?;
        Some(LastRestore { sequence, state: run.state? })
    });
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    match finish_restore(number(target), number(proven), last) {
        RestoreStep::Done => return true,
        RestoreStep::Wait => {}
        RestoreStep::Restore(sequence) => outcome.restores = Restores::Only(sequence),
        RestoreStep::FallBack(older) => {
            if let Some(progress) = status.promotion.as_mut() {
                progress.sequence = i64::try_from(older).unwrap_or(i64::MAX);
            }
            outcome.restores = Restores::Only(older);
        }
    }
    false
}

/// A restore reports success only with the comparison, so this only guards against a step skipped.
fn proven(status: &DataEmbassyStatus) -> bool {
    let target = status.promotion.as_ref().map(|p| p.sequence);
    let dispatch = status.last_dispatch.as_ref();
    dispatch.is_some_and(|d| d.proven_time.is_some() && Some(d.sequence) == target)
}

async fn objects_restored(
    ctx: &Context,
    input: &Input<'_>,
    status: &DataEmbassyStatus,
    outcome: &mut Outcome,
) -> Result<bool, PromoteError> {
    if input.object.spec.services.is_none() {
        return Ok(true);
    }
    let synced = objects::sync(ctx, &input.pair.embassy_namespace, input.object, Mode::PilotLight).await?;
    let target = status.promotion.as_ref().map(|p| p.sequence);
    // Who overrides takes over with what can be made; the rest is in StandbyReady.
    let overridden = status.promotion.as_ref().is_some_and(|p| p.overridden);
    let complete =
        (synced.complete() || overridden) && synced.sequence.is_some() && synced.sequence == target;
    if !complete {
        let what = synced.findings.iter().find(|f| f.omitted).map_or_else(
            || format!("the manifests are of dispatch {:?}, wanted {target:?}", synced.sequence),
            |f| format!("{}/{}: {}", f.kind, f.name, f.message),
        );
        outcome.conditions.push(Wanted::no(types::PROMOTION_ALLOWED, "ObjectsIncomplete", what));
    }
    outcome.synced = Some(synced);
    Ok(complete)
}

async fn started(
    ctx: &Context,
    input: &Input<'_>,
    gathered: &Gathered,
    outcome: &mut Outcome,
) -> Result<bool, PromoteError> {
    // The last check before anything can write: a permit that is young enough, by our own clock.
    if !gathered.permitted {
        return Ok(false);
    }
    marks::write(ctx, input, gathered.writ.map_or(0, |writ| writ.epoch)).await?;
    if input.object.spec.services.is_none() {
        return Ok(true);
    }
    let findings = objects::scale_up(ctx, &input.pair.embassy_namespace, &input.object.name_any()).await?;
    if let Some(finding) = findings.first() {
        let what = format!("{}/{}: {}", finding.kind, finding.name, finding.message);
        outcome.conditions.push(Wanted::no(types::PROMOTION_ALLOWED, finding.reason, what));
        return Ok(false);
    }
    Ok(true)
}

async fn serves(
    ctx: &Context,
    input: &Input<'_>,
    gathered: &Gathered,
    outcome: &mut Outcome,
) -> Result<bool, PromoteError> {
    if input.object.spec.services.is_none() {
        return Ok(true);
    }
    // Again: a workload that somebody put out between the two steps would be waited for without end.
    if !started(ctx, input, gathered, outcome).await? {
        return Ok(false);
    }
    Ok(objects::serving(ctx, &input.pair.embassy_namespace, &input.object.name_any()).await?)
}

fn finish(status: &mut DataEmbassyStatus, gathered: &Gathered, now: Timestamp) {
    let Some(progress) = status.promotion.take() else { return };
    let cut = status.last_dispatch.as_ref().and_then(|d| d.cut_time.as_ref()).map(|time| time.0);
    let epoch = gathered.writ.and_then(|w| i64::try_from(w.epoch).ok()).unwrap_or_default();
    status.last_promotion = Some(record(progress, cut, epoch, now));
}
