//! The embassy part of the operator: vault, restore, standby, promotion.
//!
//! One turn: `observe` reads once, `validate` judges, `make` makes what is missing, `ask` asks the
//! vault, `runs` takes in what the mover said, the promotion has its say, `plan::next` decides on
//! the next restore, `status` is computed from all of it and written, and only then is the Job made
//! that the status speaks of.

pub mod ask;
pub mod build;
pub mod chain;
pub mod make;
pub mod objects;
pub mod observe;
pub mod plan;
pub mod promote;
pub mod retire;
pub mod runs;
pub mod status;
pub mod validate;

#[cfg(test)]
mod tests;

use super::Context;
use super::apply::ApplyError;
use crate::api::conditions::{self, Wanted, types};
use crate::api::embassy::{DataEmbassyStatus, Phase, RunState};
use crate::api::policy::PromotionMode;
use crate::api::request::RequestState;
use crate::api::{DataEmbassy, EmbassyRequest, pair::PairRecord};
use crate::cli::chain as causes;
use chain::Received;
use kube::Resource as _;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use make::{MakeError, Site};
use observe::{ObserveError, Observed};
use plan::{Next, NextInput, Restores, Serving};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time to the next turn while something moves.
const SOON: Duration = Duration::from_secs(2);
/// Time to the next turn while home is in doubt: each of these is a moment without service.
const HURRY: Duration = Duration::from_millis(500);
/// Time to the next turn otherwise.
const LATER: Duration = Duration::from_secs(10);
/// Bound of writing one Event.
const EVENT: Duration = Duration::from_secs(5);

/// Why a reconcile in the embassy ended early.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// What is there could not be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// What should be there could not be made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// The status could not be written.
    #[error(transparent)]
    Status(#[from] ApplyError),
}

/// Verified headers that are remembered for each mirror.
const REMEMBERED: usize = 1024;

/// What the embassy part remembers between turns: the newest verified headers of each mirror, by
/// its UID. Never needed for safety; after a restart the chain is taken up from the status.
#[derive(Clone, Default)]
pub struct StandbyMemory {
    received: Arc<Mutex<BTreeMap<String, Vec<Received>>>>,
}

impl StandbyMemory {
    /// Oldest first.
    fn get(&self, uid: &str) -> Vec<Received> {
        self.received.lock().ok().and_then(|all| all.get(uid).cloned()).unwrap_or_default()
    }

    fn set(&self, uid: &str, received: &[Received]) {
        if let Ok(mut all) = self.received.lock() {
            let first = received.len().saturating_sub(REMEMBERED);
            all.insert(uid.to_owned(), received.iter().skip(first).cloned().collect());
        }
    }

    fn forget(&self, uid: &str) {
        if let Ok(mut all) = self.received.lock() {
            all.remove(uid);
        }
    }
}

/// What the promotion says to the rest of a turn.
#[derive(Clone, Debug, Default)]
pub struct Promotion {
    /// Instead of the phase that the copy alone would have.
    pub phase: Option<Phase>,
    /// Its conditions (HomeReachable, QuorumAvailable, PromotionAllowed, FenceReady, …).
    pub conditions: Vec<Wanted>,
    /// Which restores may run.
    pub restores: Restores,
    /// Home is in doubt or a promotion is under way.
    pub hurry: bool,
    /// It may come to a promotion: look often enough to see it.
    pub watchful: bool,
}

/// One turn for a DataEmbassy mirrored into this cluster; `pair` is its namespace's pair record.
///
/// # Errors
/// [`StandbyError`]; it has been written to the status before, where that was possible.
pub async fn reconcile(
    object: &DataEmbassy,
    context: &Context,
    pair: &PairRecord,
) -> Result<Action, StandbyError> {
    let now = crate::clock::now();
    let uid = object.metadata.uid.clone().unwrap_or_default();
    if object.metadata.deletion_timestamp.is_some() {
        context.standby.forget(&uid);
        return Ok(Action::await_change());
    }
    context.ledgers.ensure_embassy(pair, &context.client);
    let observed = Box::pin(observe::observe(object, context, pair)).await?;
    let mut draft = object.status.clone().unwrap_or_default();
    let verdict = validate::validate(object, pair, &observed);
    let site = Site { context, object, pair, observed: &observed, verdict: &verdict };

    let serving = plan::serving(&observed, &draft);
    if retire::requests(context, object, pair, &observed, &serving, now).await? {
        context.standby.forget(&uid);
        return Ok(Action::await_change());
    }
    let retired = object.spec.retired && serving == Serving::No;
    let made = make(&site, retired, now).await;
    let vault = ask::ask(object, pair, &observed, &context.standby, now).await;
    runs::absorb(&mut draft, &observed.restore, &vault.verified, now);
    if retired {
        runs::abandon(&mut draft, now);
    }

    let promotion = promotion(&site, &vault, &mut draft, retired, now).await?;

    let next = if retired { Next::Idle } else { decide(&site, &draft, &vault, &promotion, now) };
    if let Next::Start { sequence, attempt } = next {
        let cut = vault.verified.iter().find(|r| r.sequence == sequence).and_then(|r| r.cut_time);
        runs::start(&mut draft, build::restore::job_name(&object.name_any()), sequence, attempt, cut, now);
    }
    let error = made.as_ref().err().map(|error| causes(error));
    let facts = status::Facts {
        object,
        pair,
        observed: &observed,
        verdict: &verdict,
        vault: &vault,
        serving: &serving,
        next: &next,
        promotion: &promotion.conditions,
        error: error.as_deref(),
    };
    status::fill(&mut draft, &facts, now);
    put(&mut draft, &promotion, object.metadata.generation, now);
    let pause = if promotion.hurry {
        HURRY
    } else if status::is_moving(&facts, &draft) || promotion.watchful {
        SOON
    } else {
        LATER
    };
    if !write(context, object, &draft).await? {
        // Somebody else was faster: what was decided here was decided on old news.
        return Ok(Action::requeue(SOON));
    }
    if let Some((sequence, attempt)) = due(&draft, retired) {
        site.ensure_job(sequence, attempt, &vault.verified).await?;
    }
    if let Some(uid) = plan::job_to_delete(&observed.restore, draft.run.as_ref()) {
        site.drop_job(&uid).await?;
    }
    made?;
    Ok(Action::requeue(pause))
}

/// Lets the promotion have its say; a retired copy and one without a policy have none.
async fn promotion(
    site: &Site<'_>,
    vault: &status::VaultView,
    draft: &mut DataEmbassyStatus,
    retired: bool,
    now: jiff::Timestamp,
) -> Result<Promotion, StandbyError> {
    let (context, object) = (site.context, site.object);
    let Some(policy) = site.observed.policy.as_ref().filter(|_| !retired) else {
        let key = format!("{}/{}", site.pair.embassy_namespace, object.name_any());
        context.probes.forget(&key);
        return Ok(Promotion::default());
    };
    let input = promote::Input {
        object,
        policy,
        pair: site.pair,
        key_present: site.observed.key,
        received: vault.verified.iter().map(|r| r.sequence).max(),
        restore: &site.observed.restore,
        claims: site.claims(),
        requests: &open(&site.observed.requests),
    };
    let outcome = Box::pin(promote::turn(context, &input, draft, now)).await;
    for (name, state, message) in &outcome.requests {
        if let Some(request) = site.observed.requests.iter().find(|r| r.name_any() == *name) {
            retire::mark(context, request, *state, message, now).await?;
        }
    }
    let mut conditions = outcome.conditions;
    if object.spec.services.is_none() || outcome.synced.is_some() || outcome.objects_error.is_some() {
        conditions.push(status::standby_ready(outcome.synced.as_ref(), outcome.objects_error.as_deref()));
    }
    if let Some(synced) = outcome.synced {
        draft.services = synced.services;
    }
    let hurry = outcome.moving || matches!(outcome.phase, Some(Phase::HomeSuspect | Phase::AwaitingWrit));
    let watchful = policy.promotion.mode != PromotionMode::None;
    Ok(Promotion { phase: outcome.phase, conditions, restores: outcome.restores, hurry, watchful })
}

fn open(requests: &[EmbassyRequest]) -> Vec<EmbassyRequest> {
    let ended = [Some(RequestState::Completed), Some(RequestState::Refused)];
    let open = requests.iter().filter(|r| !ended.contains(&r.status.as_ref().and_then(|s| s.state)));
    open.cloned().collect()
}

async fn make(site: &Site<'_>, retired: bool, now: jiff::Timestamp) -> Result<(), MakeError> {
    if retired {
        retire::stop(site.context, site.object, site.pair, site.observed).await?;
    }
    site.pair_wide(now).await?;
    if retired || site.verdict.stalled.is_some() || !site.verdict.storage {
        return Ok(());
    }
    site.standby().await
}

/// The decision on restores, and why there may be none.
fn decide(
    site: &Site<'_>,
    draft: &DataEmbassyStatus,
    vault: &status::VaultView,
    promotion: &Promotion,
    now: jiff::Timestamp,
) -> Next {
    let Some(home) = site.verdict.volumes.as_ref() else { return Next::Idle };
    // A claim that was not seen was not judged either: it could be somebody else's.
    let unseen = home.volumes.iter().any(|volume| !site.observed.claims.contains_key(&volume.name));
    if unseen || site.verdict.stalled.is_some() {
        return Next::Idle;
    }
    // A vault whose history changed is not followed; a promotion may still restore what was proven.
    if vault.refused.is_some() && promotion.restores == Restores::Follow {
        return Next::Idle;
    }
    let input = NextInput {
        observed: site.observed,
        status: draft,
        verified: &vault.verified,
        volumes: home,
        restores: promotion.restores,
        max_movers: site.context.settings.max_movers,
    };
    plan::next(&input, now)
}

/// The run whose Job must be there.
fn due(draft: &DataEmbassyStatus, retired: bool) -> Option<(u64, i32)> {
    let run = draft.run.as_ref().filter(|run| run.state == Some(RunState::Running) && !retired)?;
    plan::run_of(run)
}

/// The promotion's phase and conditions go before the copy's.
fn put(draft: &mut DataEmbassyStatus, promotion: &Promotion, generation: Option<i64>, now: jiff::Timestamp) {
    for condition in &promotion.conditions {
        conditions::set(&mut draft.conditions, condition, generation, now);
    }
    if let Some(phase) = promotion.phase {
        draft.phase = Some(phase);
    }
}

/// Writes the status if it changed, and an Event for each condition that turned. `false` on a
/// conflict: then nothing may be done that the status speaks of.
async fn write(
    context: &Context,
    object: &DataEmbassy,
    draft: &DataEmbassyStatus,
) -> Result<bool, StandbyError> {
    if object.status.as_ref() == Some(draft) {
        return Ok(true);
    }
    let mut fresh = object.clone();
    fresh.status = Some(draft.clone());
    fresh.metadata.managed_fields = None;
    match context.applier.replace_status(&fresh).await {
        Ok(_) => {}
        Err(error) if error.is_conflict() => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let before = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    for condition in status::changes(before, &draft.conditions) {
        let type_ = if status::is_bad(condition) { EventType::Warning } else { EventType::Normal };
        let note = format!("{}={}: {}", condition.type_, condition.status, condition.message);
        publish(context, object, type_, &condition.reason, note).await;
    }
    Ok(true)
}

/// An Event that cannot be written is not worth a failed turn.
async fn publish(context: &Context, object: &DataEmbassy, type_: EventType, reason: &str, note: String) {
    let note = note.chars().take(1000).collect();
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let reference = object.object_ref(&());
    match tokio::time::timeout(EVENT, context.recorder.publish(&event, &reference)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(object = status::label(object), error = causes(&error), "cannot write an Event")
        }
        Err(_) => tracing::warn!(object = status::label(object), "no answer while writing an Event"),
    }
}

/// True if the copy alone (promotion aside) is protected: a word for metrics and tests.
#[must_use]
pub fn is_protected(status: &DataEmbassyStatus) -> bool {
    conditions::is_true(&status.conditions, types::READY)
}

/// What the observation of a turn looks like as JSON, for a field incident.
///
/// # Errors
/// Only if it cannot be serialised, which no valid value causes.
pub fn to_json(observed: &Observed) -> Result<String, serde_json::Error> {
    serde_json::to_string(observed)
}
