//! The end of a DataEmbassy at home: movers stop, the embassy is told, the object goes.
//!
//! It must come to an end while the namespace itself goes away, which takes the operator's
//! RoleBinding, the kubeconfig and everything else in any order. So what may not be read or deleted
//! counts as gone; finalizer and status need the ClusterRole only.

use super::observation::Observation;
use super::plan::{Plan, Step};
use super::retire::{ABANDONED, Farewell, abandoned, farewell, with_way_out};
use super::status::{self, Outcome};
use super::tell::tell;
use super::turn::{ask, pairing, set_finalizer, write};
use super::validate::{Problem, Scope};
use super::{
    HomeError, act, forget, has_finalizer, keep_beat, keep_fence, key, observe, remote, settle_pair, writ,
};
use crate::api::DataEmbassy;
use crate::api::conditions::{self, Wanted, types};
use crate::api::pair::PairRecord;
use crate::clock::now;
use crate::controller::Context;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Client, ResourceExt as _};
use std::time::Duration;

/// Until the next try of what a person or the embassy has to mend.
const LATER: Duration = Duration::from_secs(5);
/// Until the next look at what comes by itself.
const SOON: Duration = Duration::from_millis(500);

/// One turn of a deletion.
pub(super) async fn delete(object: &DataEmbassy, context: &Context) -> Result<Action, HomeError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let Some(fresh) = observe::object(&context.client, &namespace, &name).await? else {
        forget(object, None, context);
        return Ok(Action::await_change());
    };
    if fresh.metadata.deletion_timestamp.is_none() {
        // Another one of this name, which the watch has not brought yet.
        return Ok(Action::requeue(SOON));
    }
    // Before anything that could fail: it is the way out.
    if has_finalizer(&fresh) && abandoned(&fresh) {
        return go(&fresh, None, ABANDONED, context).await;
    }
    let Some(mut seen) = observe::leaving(&context.client, &namespace, &name, now()).await? else {
        forget(object, None, context);
        return Ok(Action::await_change());
    };
    let client = pairing(&mut seen, context).await?;
    settle_pair(&mut seen, context);
    let pair = pair(&seen).cloned();
    if !has_finalizer(&seen.object) {
        stop(&seen, context).await?;
        forget(&seen.object, pair.as_ref().map(|p| p.id.as_str()), context);
        return Ok(Action::await_change());
    }
    keep(&seen, client.as_ref(), context);
    stop(&seen, context).await?;
    if let (Some(pair), Some(client)) = (&pair, &client) {
        seen.embassy = ask(&seen, pair, client).await.embassy;
        seen.writ = writ(&seen, pair, context);
    }
    let (reason, message) = match (farewell(&seen, pair.as_ref()), &client) {
        (Farewell::Go(why), _) => {
            return go(&seen.object, pair.as_ref().map(|p| p.id.as_str()), why, context).await;
        }
        (Farewell::Tell(mirror), Some(client)) => match remote::retire_mirror(client, &mirror).await {
            // Read once more before the object goes: a conflict is no error but was no write.
            Ok(()) => return Ok(Action::requeue(SOON)),
            Err(problem) => (problem.reason, with_way_out(&problem.message)),
        },
        (Farewell::Tell(_), None) => ("KubeconfigMissing", with_way_out("the kubeconfig Secret is gone")),
        (Farewell::Wait { reason, message }, _) => (reason, message),
    };
    wait(&seen, reason, message, context).await
}

/// The pair to tell. A namespace that was mistyped in the spec must not stand in the way.
fn pair(seen: &Observation) -> Option<&PairRecord> {
    let old = seen.status().pair;
    let ours =
        |p: &&PairRecord| p.home_namespace == seen.namespace() && old.as_ref().is_none_or(|old| *old == p.id);
    seen.pairing.record().filter(ours)
}

/// Beat and fence go on until the object is gone: without the beat the embassy would take over
/// from a service that still runs here.
fn keep(seen: &Observation, client: Option<&Client>, context: &Context) {
    let record = pair(seen);
    if let (Some(pair), Some(client)) = (record, client) {
        keep_beat(seen, pair, client, context);
    }
    let pair = record.map(|p| p.id.clone()).or_else(|| seen.status().pair);
    // Half a picture would make the fence forget what belongs to it.
    if let Some(pair) = pair.filter(|_| seen.status().epoch.is_some() && !seen.partial) {
        keep_fence(seen, &pair, context);
    }
}

/// Stops the movers and deletes what they worked on.
async fn stop(seen: &Observation, context: &Context) -> Result<(), HomeError> {
    let plan = Plan {
        step: Step::Idle(None),
        answers: vec![],
        leftovers: seen.temporaries.iter().filter(|t| !t.deleting).cloned().collect(),
        old_jobs: vec![],
    };
    let mut results = vec![];
    for job in seen.jobs.iter().filter(|j| !j.deleting) {
        let done = context.applier.delete::<Job>(seen.namespace(), &job.name, Some(&job.uid), None).await;
        results.push(done.map_err(act::ActError::from));
    }
    results.push(act::clean(seen, &plan, context).await);
    for result in results {
        match result {
            // The rights went with the namespace, and so does the object.
            Err(error) if matches!(error.code(), Some(403 | 404)) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Says what the deletion waits for.
async fn wait(
    seen: &Observation,
    reason: &'static str,
    message: String,
    context: &Context,
) -> Result<Action, HomeError> {
    let plan = Plan { step: Step::Idle(None), answers: vec![], leftovers: vec![], old_jobs: vec![] };
    let fault = Problem { scope: Scope::All, reason, message: message.clone() };
    let fence = context.fences.view(&key(seen));
    let outcome = Outcome { faults: vec![fault], fence, ..Outcome::default() };
    let mut status = status::status(seen, &plan, &outcome);
    let wanted = Wanted::no(types::READY, reason, message.clone());
    conditions::set(&mut status.conditions, &wanted, seen.object.metadata.generation, seen.now);
    let first = conditions::get(&seen.status().conditions, types::READY).is_none_or(|c| c.reason != reason);
    write(seen, status, context).await?;
    // Who holds the writ is known in a moment.
    let moment = reason == "LedgerUnknown";
    if first && !moment {
        tell(&seen.object, EventType::Warning, reason, message, context).await;
    }
    Ok(Action::requeue(if moment { SOON } else { LATER }))
}

async fn go(
    object: &DataEmbassy,
    pair: Option<&str>,
    why: &str,
    context: &Context,
) -> Result<Action, HomeError> {
    tell(object, EventType::Normal, "Retired", format!("let go: {why}"), context).await;
    match set_finalizer(object, false, context).await {
        // Another replica of the operator was faster.
        Err(error) if error.code() == Some(404) => {}
        other => other?,
    }
    forget(object, pair, context);
    Ok(Action::await_change())
}
