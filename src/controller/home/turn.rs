//! One turn at home: the order of things, and what is told to whom.

use super::delete::delete;
use super::observation::{Observation, Reach};
use super::observe::ObserveError;
use super::plan::{self, Plan, Step};
use super::remote::{self, Remote};
use super::status::{self, Outcome};
use super::tell::{news, tell};
use super::validate::{Problem, Scope, after_asking, validate};
use super::{
    HomeError, act, build, forget, has_finalizer, keep_beat, keep_fence, key, observe, settle_pair, writ,
};
use crate::api::DataEmbassy;
use crate::api::conditions::{self, types};
use crate::api::embassy::DataEmbassyStatus;
use crate::api::names::FINALIZER;
use crate::api::pair::PairRecord;
use crate::cli::chain;
use crate::clock::{boottime, now};
use crate::controller::Context;
use crate::metrics::EmbassyLabels;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::controller::Action;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use std::time::Duration;

/// Bound of a call to this cluster outside the applier and `observe`.
pub(super) const OWN_CALL: Duration = Duration::from_secs(10);

pub(super) async fn turn(object: &DataEmbassy, context: &Context) -> Result<Action, HomeError> {
    if object.metadata.deletion_timestamp.is_some() {
        return Box::pin(delete(object, context)).await;
    }
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let Some(mut seen) = observe::observe(&context.client, &namespace, &name, now()).await? else {
        forget(object, None, context);
        return Ok(Action::await_change());
    };
    if seen.object.metadata.deletion_timestamp.is_some() {
        return Box::pin(delete(&seen.object, context)).await;
    }
    let client = pairing(&mut seen, context).await?;
    settle_pair(&mut seen, context);
    // A writ once seen is a right that can lapse, whatever else is wrong now.
    if let Some(pair) = seen.status().pair.filter(|_| seen.status().epoch.is_some()) {
        keep_fence(&seen, &pair, context);
    }
    let mut problems = validate(&seen);
    let blocked = problems.iter().any(|p| p.scope == Scope::All);
    let mut remote = Remote::default();
    if let (Some(pair), Some(client)) = (seen.pairing.record().cloned(), &client) {
        let paired = seen.paired().is_some();
        if paired && (!blocked || seen.status().epoch.is_some()) {
            keep_beat(&seen, &pair, client, context);
            keep_fence(&seen, &pair.id, context);
        }
        if paired {
            remote = ask(&seen, &pair, client).await;
        }
        seen.embassy = remote.embassy.clone();
        seen.writ = writ(&seen, &pair, context);
    }
    problems.extend(after_asking(&seen));
    let mut plan = plan::plan(&seen, &problems);
    if matches!(plan.step, Step::Begin { .. })
        && let Some(held) = plan::busy(&seen, context.settings.max_movers)
    {
        plan.step = held;
    }
    let mut outcome = Outcome { problems, fence: context.fences.view(&key(&seen)), ..Outcome::default() };
    Box::pin(work(&seen, &plan, &remote, client.as_ref(), &mut outcome, context)).await;
    finish(&seen, &plan, &outcome, context).await
}

/// Finds the pair and a client for it.
pub(super) async fn pairing(seen: &mut Observation, context: &Context) -> Result<Option<Client>, HomeError> {
    let secret_name = seen.object.spec.embassy.kubeconfig_secret_ref.name.clone();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), seen.namespace());
    let read = tokio::time::timeout(OWN_CALL, api.get_opt(&secret_name)).await;
    let leaving = seen.object.metadata.deletion_timestamp.is_some();
    let secret = match read.map_err(|_| ObserveError::Timeout)? {
        // A namespace that goes away takes the operator's RoleBinding before the Secret.
        Err(error) if leaving && observe::refused(&error) => None,
        other => other.map_err(|e| HomeError::Secret(Box::new(e)))?,
    };
    let memory_key = format!("{}/{secret_name}", seen.namespace());
    let (pairing, client) = context.home.pairing(&memory_key, secret.as_ref()).await;
    seen.pairing = pairing;
    if client.is_none()
        && leaving
        && let Some((record, client)) = context.home.remembered(&memory_key)
    {
        seen.pairing = super::observation::Pairing::Ready(Box::new(record));
        return Ok(Some(client));
    }
    Ok(client)
}

pub(super) async fn ask(seen: &Observation, pair: &PairRecord, client: &Client) -> Remote {
    remote::observe(client, pair, seen.name(), &seen.object.spec.policy_ref.name).await
}

/// Does all that is to be done; what fails becomes a fault, and the rest goes on.
async fn work(
    seen: &Observation,
    plan: &Plan,
    remote: &Remote,
    client: Option<&Client>,
    outcome: &mut Outcome,
    context: &Context,
) {
    let blocked = outcome.problems.iter().any(|p| p.scope == Scope::All);
    if let (Some(pair), Some(client), false) = (seen.pairing.record(), client, blocked)
        && seen.embassy.reach == Reach::Reached
    {
        local(act::repository_secret(seen, &pair.id, context).await, outcome);
        abroad(seen, pair, client, outcome, context).await;
        local(act::vault_client(seen, remote, context).await, outcome);
    }
    local(act::answer(seen, &plan.answers, context).await, outcome);
    match act::step(seen, &plan.step, context).await {
        Ok(run) => outcome.run = run,
        Err(error) => step_failed(seen, &error, outcome),
    }
    if let Step::End(ending) = &plan.step
        && let Some(run) = seen.status().run
    {
        let (run, dispatch) = plan::ended(&run, ending, seen.now);
        (outcome.run, outcome.dispatch) = (Some(run), dispatch);
    }
    local(act::clean(seen, plan, context).await, outcome);
}

/// A run that cannot go on ends, with back-off and Event, and is tried again later; else its status
/// says what it waits for.
fn step_failed(seen: &Observation, error: &act::ActError, outcome: &mut Outcome) {
    let fault = fault(error);
    let ends = error.ends_run();
    if let Some(run) = seen.status().run {
        outcome.run = if ends {
            let failure = Some((fault.reason.to_owned(), fault.message.clone()));
            Some(plan::ended(&run, &plan::Ending { report: None, failure }, seen.now).0)
        } else {
            act::told(run, Some(fault.message.clone()))
        };
    }
    // What ended the run is told by the run; only what is wrong with the object itself stalls it.
    if !ends || matches!(error, act::ActError::Manifests(_)) {
        outcome.faults.push(fault);
    }
}

/// Mirror and keys. Nothing is mirrored while the writ is, or may be, the embassy's.
async fn abroad(
    seen: &Observation,
    pair: &PairRecord,
    client: &Client,
    outcome: &mut Outcome,
    context: &Context,
) {
    if seen.may_mirror() {
        let volumes_known = outcome.problems.is_empty();
        // Only once there is a mirror, or one is about to be made: what was never mirrored goes at once.
        if (volumes_known || seen.embassy.mirror.is_some())
            && !has_finalizer(&seen.object)
            && let Err(error) = set_finalizer(&seen.object, true, context).await
        {
            return outcome.faults.push(fault(&act::ActError::Apply(error)));
        }
        if let Err(problem) = remote::write_mirror(client, pair, seen, volumes_known).await {
            outcome.faults.push(problem);
        }
    }
    match keys(seen, pair, client, context).await {
        Ok(()) => outcome.keys_sent = true,
        Err(problem) => outcome.faults.push(problem),
    }
}

async fn keys(
    seen: &Observation,
    pair: &PairRecord,
    client: &Client,
    context: &Context,
) -> Result<(), Problem> {
    let _one_at_a_time = context.home.writing_keys.lock().await;
    let passwords = act::passwords(seen, &pair.id, context).await.map_err(|e| fault(&e))?;
    let digest = build::secrets::digest(passwords.iter().map(|(k, v)| (k, v.as_slice())));
    let missing = seen.embassy.mirror.as_ref().is_some_and(|m| {
        conditions::get(&m.status.conditions, types::KEYS_AVAILABLE).is_some_and(|c| c.status == "False")
    });
    if !context.home.keys_due(&pair.id, &digest, missing, boottime()) {
        return Ok(());
    }
    remote::write_keys(client, &build::secrets::keys(&pair.embassy_namespace, &passwords)).await?;
    context.home.keys_written(&pair.id, digest, boottime());
    Ok(())
}

fn local(result: Result<(), act::ActError>, outcome: &mut Outcome) {
    if let Err(error) = result {
        outcome.faults.push(fault(&error));
    }
}

/// An error at home as a condition.
fn fault(error: &act::ActError) -> Problem {
    let text = chain(error);
    let (reason, message) = match error {
        act::ActError::Manifests(_) => ("ManifestsTooLarge", text),
        act::ActError::PasswordMissing(_) => ("RepositoryPasswordMissing", text),
        _ if error.lacks_right() => {
            ("Forbidden", format!("{text}; run `kubectl embassy pair` again, it binds the operator's rights"))
        }
        _ if matches!(error.code(), Some(400 | 403 | 422)) => {
            let mend = "the API server refuses it: see the namespace's quota, limits, PodSecurity level and webhooks";
            ("Refused", format!("{text}; {mend}"))
        }
        _ => ("ApiError", text),
    };
    Problem { scope: Scope::Dispatch, reason, message }
}

pub(super) async fn set_finalizer(
    object: &DataEmbassy,
    wanted: bool,
    context: &Context,
) -> Result<(), crate::controller::apply::ApplyError> {
    let mut finalizers: Vec<&str> =
        object.finalizers().iter().map(String::as_str).filter(|f| *f != FINALIZER).collect();
    if wanted {
        finalizers.push(FINALIZER);
    }
    let version = object.resource_version();
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
    let namespace = object.namespace().unwrap_or_default();
    context.applier.merge::<DataEmbassy>(&namespace, &object.name_any(), &patch).await.map(|_| ())
}

/// Writes the status if it changed, then tells.
async fn finish(
    seen: &Observation,
    plan: &Plan,
    outcome: &Outcome,
    context: &Context,
) -> Result<Action, HomeError> {
    let status = status::status(seen, plan, outcome);
    let labels = EmbassyLabels { namespace: seen.namespace().to_owned(), name: seen.name().to_owned() };
    if let Some(epoch) = status.epoch {
        context.metrics.epoch.get_or_create(&labels).set(epoch);
    }
    let wait = status::requeue(seen, plan, &status);
    write(seen, status, context).await?;
    Ok(Action::requeue(wait))
}

pub(super) async fn write(
    seen: &Observation,
    status: DataEmbassyStatus,
    context: &Context,
) -> Result<(), HomeError> {
    let old = seen.status();
    if old == status {
        return Ok(());
    }
    let mut object = seen.object.clone();
    object.status = Some(status.clone());
    // The finalizer may have been added in this turn; a status knows nothing of finalizers, but
    // the version has moved: then the next turn writes.
    context.applier.replace_status(&object).await?;
    for (kind, reason, note) in news(&old, &status) {
        tell(&seen.object, kind, &reason, note, context).await;
    }
    Ok(())
}
