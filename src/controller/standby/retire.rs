//! Requests at the embassy, and the end of a DataEmbassy that was deleted at home.

use super::build::restore;
use super::make::MakeError;
use super::objects;
use super::observe::Observed;
use super::plan::Serving;
use crate::api::names::{
    self, CA_SECRET, EMBASSY_CLIENT_SECRET, HOME_CLIENT_SECRET, KEYS_SECRET, SERVER_SECRET, VAULT,
};
use crate::api::pair::PairRecord;
use crate::api::request::{EmbassyRequestStatus, RequestState, Verb};
use crate::api::{DataEmbassy, EmbassyRequest};
use crate::controller::Context;
use crate::controller::apply::{Applier, ApplyError};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

/// What a request comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Delete everything of this DataEmbassy; `last` when it is the pair's last one.
    Retire {
        /// The vault goes too.
        last: bool,
    },
    /// No; why.
    Refuse(String),
    /// Not for this part: the promotion answers it.
    Elsewhere,
}

/// Judges a request.
#[must_use]
pub fn judge(
    object: &DataEmbassy,
    observed: &Observed,
    serving: &Serving,
    request: &EmbassyRequest,
) -> Answer {
    let refuse = |why: &str| Answer::Refuse(why.to_owned());
    match request.spec.verb {
        // The promotion has no turn for it any more, so nobody else would answer.
        Verb::Promote | Verb::Override if object.spec.retired && *serving == Serving::No => refuse(
            "it was deleted at home and its standby is gone: there is nothing to promote; make the DataEmbassy anew at home",
        ),
        Verb::Promote | Verb::Override => Answer::Elsewhere,
        Verb::Sync => refuse("dispatches are made at home: ask there"),
        Verb::Retire if !object.spec.retired => {
            refuse("it still exists at home: delete the DataEmbassy there first, then ask again")
        }
        Verb::Retire => match serving {
            Serving::Yes(epoch) => Answer::Refuse(format!(
                "the writ names the embassy (epoch {epoch}): this may be the only living copy; give the writ back first"
            )),
            Serving::Unknown(why) => {
                Answer::Refuse(format!("{why}: it is not known who writes; ask again later"))
            }
            Serving::No => {
                let name = object.name_any();
                Answer::Retire { last: observed.siblings.iter().all(|sibling| sibling.name == name) }
            }
        },
    }
}

/// Answers the requests of this turn. `true`: the mirror is gone.
///
/// # Errors
/// What could not be deleted or written; the next turn goes on.
pub async fn requests(
    context: &Context,
    object: &DataEmbassy,
    pair: &PairRecord,
    observed: &Observed,
    serving: &Serving,
    now: jiff::Timestamp,
) -> Result<bool, MakeError> {
    for request in &observed.requests {
        let state = request.status.as_ref().and_then(|status| status.state);
        if state == Some(RequestState::Refused) {
            continue;
        }
        // A completed Retire whose mirror is still here: we died in between, so go on.
        let again = state == Some(RequestState::Completed) && request.spec.verb == Verb::Retire;
        if state == Some(RequestState::Completed) && !again {
            continue;
        }
        match judge(object, observed, serving, request) {
            Answer::Elsewhere => {}
            Answer::Refuse(why) => mark(context, request, RequestState::Refused, &why, now).await?,
            Answer::Retire { last } => {
                // Volumes only go once nothing is left that could still write them.
                let removed =
                    objects::remove_all(context, &pair.embassy_namespace, &object.name_any()).await?;
                if removed.left > 0 {
                    let message = format!("{} objects of the standby are still being deleted", removed.left);
                    if !again {
                        mark(context, request, RequestState::Accepted, &message, now).await?;
                    }
                    return Ok(false);
                }
                erase(&context.applier, object, pair, observed, last).await?;
                let left = if last {
                    "deleted, with the vault: it was the pair's last DataEmbassy"
                } else {
                    "deleted; its repository stays in the vault until the pair's last DataEmbassy is retired"
                };
                if !again {
                    mark(context, request, RequestState::Completed, left, now).await?;
                }
                let uid = object.metadata.uid.as_deref();
                context
                    .applier
                    .delete::<DataEmbassy>(&pair.embassy_namespace, &object.name_any(), uid, None)
                    .await?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Writes down what became of a request.
///
/// # Errors
/// [`ApplyError`].
pub async fn mark(
    context: &Context,
    request: &EmbassyRequest,
    state: RequestState,
    message: &str,
    now: jiff::Timestamp,
) -> Result<(), MakeError> {
    let before = request.status.clone().unwrap_or_default();
    let ended = state != RequestState::Accepted;
    let status = EmbassyRequestStatus {
        state: Some(state),
        message: Some(message.to_owned()),
        accepted_at: before.accepted_at.clone().or(Some(Time(now))),
        completed_at: before.completed_at.clone().or_else(|| ended.then_some(Time(now))),
    };
    if before == status {
        return Ok(());
    }
    let mut fresh = request.clone();
    fresh.metadata.managed_fields = None;
    fresh.status = Some(status);
    context.applier.replace_status(&fresh).await?;
    Ok(())
}

/// Deletes what belongs to one DataEmbassy, and the vault when it was the last.
async fn erase(
    applier: &Applier,
    object: &DataEmbassy,
    pair: &PairRecord,
    observed: &Observed,
    last: bool,
) -> Result<(), ApplyError> {
    let namespace = pair.embassy_namespace.as_str();
    let name = object.name_any();
    applier.delete::<Job>(namespace, &restore::job_name(&name), None, None).await?;
    let ours = super::build::label_value(&name);
    let claims = observed.claims.values().filter(|claim| {
        claim.labels().get(names::LABEL_EMBASSY) == Some(&ours)
            && claim.labels().get(names::LABEL_MANAGED_BY).map(String::as_str) == Some(names::MANAGER)
    });
    for claim in claims {
        let uid = claim.metadata.uid.as_deref();
        applier.delete::<PersistentVolumeClaim>(namespace, &claim.name_any(), uid, None).await?;
    }
    let mover = names::manifests(&name);
    applier.delete::<RoleBinding>(namespace, &mover, None, None).await?;
    applier.delete::<Role>(namespace, &mover, None, None).await?;
    applier.delete::<ServiceAccount>(namespace, &mover, None, None).await?;
    applier.delete::<Secret>(namespace, &mover, None, None).await?;
    if observed.key {
        let patch = serde_json::json!({ "data": { name: null } });
        applier.merge::<Secret>(namespace, KEYS_SECRET, &patch).await?;
    }
    if !last {
        return Ok(());
    }
    applier.delete::<Deployment>(namespace, VAULT, None, None).await?;
    applier.delete::<Service>(namespace, VAULT, None, None).await?;
    applier.delete::<PersistentVolumeClaim>(namespace, VAULT, None, None).await?;
    applier.delete::<ConfigMap>(namespace, VAULT, None, None).await?;
    for secret in [SERVER_SECRET, EMBASSY_CLIENT_SECRET, CA_SECRET] {
        applier.delete::<Secret>(namespace, secret, None, None).await?;
    }
    // `pair` made this one and home's Role names it: it is emptied and stays.
    let empty = serde_json::json!({ "data": null });
    match applier.merge::<Secret>(namespace, HOME_CLIENT_SECRET, &empty).await {
        Err(error) if error.code() != Some(404) => Err(error),
        _ => Ok(()),
    }
}

/// Stops what a retired DataEmbassy has running; vault, volumes and key stay.
///
/// # Errors
/// What could not be deleted.
pub async fn stop(
    context: &Context,
    object: &DataEmbassy,
    pair: &PairRecord,
    observed: &Observed,
) -> Result<(), MakeError> {
    objects::remove_all(context, &pair.embassy_namespace, &object.name_any()).await?;
    if let Some(job) = &observed.restore.job {
        let uid = job.metadata.uid.as_deref();
        let name = restore::job_name(&object.name_any());
        context.applier.delete::<Job>(&pair.embassy_namespace, &name, uid, None).await?;
    }
    Ok(())
}
