//! Carries out the plan at home: objects in, errors out; no decision is made here.

use super::build::{cut, job, manifests, secrets};
use super::gather;
use super::observation::{Observation, Temporary, TemporaryKind};
use super::plan::{Answer, Plan, Step, begun, busy, run_name, whole_second};
use super::remote::Remote;
use super::select;
use crate::api::embassy::RunStatus;
use crate::api::names::{repository_secret as secret_name, vault_client_secret};
use crate::api::policy::CopyMethod;
use crate::api::request::{EmbassyRequest, EmbassyRequestStatus, RequestState};
use crate::controller::Context;
use crate::controller::apply::{ApplyError, Created};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use std::collections::BTreeMap;

/// Why a step at home failed.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// A write was refused or not answered.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A read was.
    #[error("cannot read {what}")]
    Read {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The manifests cannot be sent.
    #[error(transparent)]
    Manifests(#[from] manifests::ManifestsError),
    /// The observation lacks what the plan made sure of.
    #[error("{0} is not known; the next turn reads again")]
    Missing(&'static str),
    /// A password is gone that the embassy may hold alone.
    #[error(
        "Secret {0} with a repository's password is gone: no key is sent until it is restored, because that would \
         take the embassy's away"
    )]
    PasswordMissing(String),
    /// No randomness.
    #[error("the system gives no random bytes")]
    Random(#[source] rand::Error),
}

impl ActError {
    /// What the API server said, if it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        let source = match self {
            Self::Apply(ApplyError::Api { source, .. }) | Self::Read { source, .. } => source,
            _ => return None,
        };
        match source.as_ref() {
            kube::Error::Api(status) => Some(&status.message),
            _ => None,
        }
    }

    /// A right is missing. Quotas and webhooks refuse with the same code, and no pairing mends those.
    #[must_use]
    pub fn lacks_right(&self) -> bool {
        self.code() == Some(403) && self.refusal().is_some_and(|words| words.contains(" cannot "))
    }

    /// The same request would be refused again: the run is over.
    #[must_use]
    pub fn ends_run(&self) -> bool {
        matches!(self, Self::Manifests(_))
            || self.code().is_some_and(|code| (400..500).contains(&code) && !matches!(code, 408 | 409 | 429))
    }

    /// HTTP status of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Apply(error) => error.code(),
            Self::Read { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Makes the repository's password unless there is one, or a copy that was made with one.
///
/// # Errors
/// [`ActError`].
pub async fn repository_secret(seen: &Observation, pair: &str, context: &Context) -> Result<(), ActError> {
    if !seen.may_make_password() {
        return Ok(());
    }
    let mut random = [0_u8; 32];
    rand::RngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut random).map_err(ActError::Random)?;
    context.applier.create(&secrets::repository(seen, pair, random)).await?;
    Ok(())
}

/// Copies home's vault certificate out of the embassy, when it is new or was rotated.
///
/// # Errors
/// [`ActError`].
pub async fn vault_client(seen: &Observation, remote: &Remote, context: &Context) -> Result<(), ActError> {
    let vault = seen.embassy.mirror.as_ref().and_then(|m| m.status.vault.as_ref());
    let (Some(theirs), Some(vault)) = (&remote.vault_client, vault) else { return Ok(()) };
    let Some(mut wanted) = secrets::vault_client(seen, theirs, &vault.ca_bundle) else { return Ok(()) };
    let api: Api<Secret> = Api::namespaced(context.client.clone(), seen.namespace());
    let read = api.get_opt(&vault_client_secret(seen.name())).await;
    match read
        .map_err(|e| ActError::Read { what: "home's copy of its vault certificate", source: Box::new(e) })?
    {
        None => {
            context.applier.create(&wanted).await?;
        }
        Some(ours) if ours.data != wanted.data => {
            wanted.metadata.resource_version = ours.metadata.resource_version;
            context.applier.replace(&wanted).await?;
        }
        Some(_) => {}
    }
    Ok(())
}

/// The passwords of a pair: of its DataEmbassies, and of those that were deleted here and whose
/// copy is still kept there.
///
/// # Errors
/// [`ActError`].
pub async fn passwords(
    seen: &Observation,
    pair: &str,
    context: &Context,
) -> Result<BTreeMap<String, Vec<u8>>, ActError> {
    use crate::api::names::{ANNOTATION_PAIR, COMPONENT_REPOSITORY, LABEL_COMPONENT, LABEL_EMBASSY};
    use kube::ResourceExt as _;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), seen.namespace());
    let mates = secrets::pair_mates(seen);
    let labels = format!("{LABEL_COMPONENT}={COMPONENT_REPOSITORY}");
    let list = api.list(&kube::api::ListParams::default().labels(&labels)).await;
    let list = list.map_err(|e| ActError::Read { what: "the repository Secrets", source: Box::new(e) })?;
    let found = list.items.into_iter().filter_map(|secret| {
        let name = secret.labels().get(LABEL_EMBASSY)?.clone();
        // A rebuilt home pairs anew, and its Secrets still name the old pair: whoever uses this
        // pair's kubeconfig counts too, or one DataEmbassy would take the others' keys away.
        let ours = secret.annotations().get(ANNOTATION_PAIR).is_some_and(|p| p == pair)
            || mates.contains(&name.as_str());
        let password = secrets::password(&secret)?.to_vec();
        ours.then_some((name, password))
    });
    let mut found: BTreeMap<String, Vec<u8>> = found.collect();
    for name in mates {
        // A Secret that a person restored may lack our labels.
        if !found.contains_key(name)
            && let Some(secret) = api
                .get_opt(&secret_name(name))
                .await
                .map_err(|e| ActError::Read { what: "a repository Secret", source: Box::new(e) })?
            && let Some(password) = secrets::password(&secret)
        {
            found.insert(name.to_owned(), password.to_vec());
        }
    }
    match secrets::lost(seen, &found) {
        Some(secret) => Err(ActError::PasswordMissing(secret)),
        None => Ok(found),
    }
}

/// Deletes what no run needs.
///
/// # Errors
/// [`ActError`].
pub async fn clean(seen: &Observation, plan: &Plan, context: &Context) -> Result<(), ActError> {
    for old in &plan.leftovers {
        remove(seen, old, context).await?;
    }
    for (name, uid) in &plan.old_jobs {
        context.applier.delete::<Job>(seen.namespace(), name, Some(uid), None).await?;
    }
    Ok(())
}

async fn remove(seen: &Observation, old: &Temporary, context: &Context) -> Result<(), ApplyError> {
    let (applier, namespace) = (&context.applier, seen.namespace());
    match old.kind {
        TemporaryKind::Snapshot => {
            applier.delete_dynamic(namespace, &old.name, &old.uid, &cut::snapshot_api()).await
        }
        TemporaryKind::Claim => {
            applier.delete::<PersistentVolumeClaim>(namespace, &old.name, Some(&old.uid), None).await
        }
        TemporaryKind::Secret => applier.delete::<Secret>(namespace, &old.name, Some(&old.uid), None).await,
    }
}

/// Answers requests.
///
/// # Errors
/// [`ActError`].
pub async fn answer(seen: &Observation, answers: &[Answer], context: &Context) -> Result<(), ActError> {
    let api: Api<EmbassyRequest> = Api::namespaced(context.client.clone(), seen.namespace());
    for answer in answers {
        let read = api.get_opt(&answer.name).await;
        let read = read.map_err(|e| ActError::Read { what: "an EmbassyRequest", source: Box::new(e) })?;
        let Some(mut request) = read else { continue };
        let old = request.status.take().unwrap_or_default();
        let now = Some(Time(whole_second(seen.now)));
        let ended = answer.state != RequestState::Accepted;
        request.status = Some(EmbassyRequestStatus {
            state: Some(answer.state),
            message: Some(answer.message.clone()),
            accepted_at: old.accepted_at.or_else(|| now.clone()),
            completed_at: if ended { now } else { None },
        });
        match context.applier.replace_status(&request).await {
            Err(error) if error.is_conflict() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Does the next step of the run. Returns the changed `status.run`, if it changes.
///
/// # Errors
/// [`ActError`].
pub async fn step(seen: &Observation, step: &Step, context: &Context) -> Result<Option<RunStatus>, ActError> {
    let run = seen.status().run.unwrap_or_default();
    match step {
        Step::Begin { trigger, attempt } => Ok(Some(begun(trigger, *attempt, seen.now))),
        Step::Recut => {
            let cut_time = Some(Time(whole_second(seen.now)));
            Ok(Some(RunStatus { cut_time, ..run }))
        }
        Step::Cut => make_cut(seen, &run, context).await.map(|()| None),
        Step::StartMover => start_mover(seen, run, context).await,
        Step::AwaitCut(message) => Ok(told(run, Some(message.clone()))),
        Step::AwaitMover(message) => Ok(told(run, message.clone())),
        // `End` is worked out by `plan::ended`, without a write.
        Step::Idle(_) | Step::Held { .. } | Step::End(_) => Ok(None),
    }
}

/// The run with what it waits for, if that is news.
pub(super) fn told(run: RunStatus, message: Option<String>) -> Option<RunStatus> {
    (run.message != message).then_some(RunStatus { message, ..run })
}

async fn make_cut(seen: &Observation, run: &RunStatus, context: &Context) -> Result<(), ActError> {
    let (name, cut_time) = named(seen, run)?;
    // The manifests first: they are part of what was there at the cut.
    ensure_manifests(seen, &name, cut_time, context).await?;
    let resource = cut::snapshot_api();
    for claim in select::claims(&seen.object.spec.volumes, &seen.claims) {
        context.applier.create_dynamic(&cut::snapshot(seen, &name, claim), &resource).await?;
    }
    Ok(())
}

async fn ensure_manifests(
    seen: &Observation,
    run: &str,
    cut_time: Timestamp,
    context: &Context,
) -> Result<(), ActError> {
    let there = |t: &Temporary| t.kind == TemporaryKind::Secret && t.run == run && !t.deleting;
    if seen.temporaries.iter().any(there) {
        return Ok(());
    }
    let objects = gather::manifests(seen, &context.client).await?;
    let secret = cut::manifests_secret(seen, run, cut_time, manifests::pack(&objects)?);
    context.applier.create(&secret).await?;
    Ok(())
}

fn named(seen: &Observation, run: &RunStatus) -> Result<(String, Timestamp), ActError> {
    let start = run.start_time.as_ref().ok_or(ActError::Missing("the run's start"))?;
    let cut_time = run.cut_time.as_ref().ok_or(ActError::Missing("the run's cut"))?;
    Ok((run_name(seen.name(), start.0), cut_time.0))
}

async fn start_mover(
    seen: &Observation,
    run: RunStatus,
    context: &Context,
) -> Result<Option<RunStatus>, ActError> {
    // Counted anew: many runs may have come to this point at the same time.
    let _one_at_a_time = context.home.starting.lock().await;
    let running = super::observe::running_movers(&context.client).await;
    let running = running.map_err(|e| ActError::Read { what: "all backup Jobs", source: Box::new(e) })?;
    let counted = Observation { running_movers: running, ..seen.clone() };
    if let Some(Step::Held { message, .. }) = busy(&counted, context.settings.max_movers) {
        return Ok(told(run, Some(message)));
    }
    let (name, cut_time) = named(seen, &run)?;
    ensure_manifests(seen, &name, cut_time, context).await?;
    let policy = seen.policy().ok_or(ActError::Missing("the policy"))?;
    let pair = seen.pairing.record().ok_or(ActError::Missing("the pair"))?;
    let mirror = seen.embassy.mirror.as_ref().and_then(|m| m.status.vault.as_ref());
    let vault = mirror.ok_or(ActError::Missing("the vault's address"))?;
    let mounts = mounts(seen, &name, policy.sync.copy_method, context).await?;
    let order = job::Order {
        run: &name,
        trigger: &run.trigger,
        cut_time,
        epoch: seen.writ.epoch.ok_or(ActError::Missing("the epoch"))?,
        pair: &pair.id,
        vault: &vault.address,
        image: &context.settings.image,
        mover: &policy.sync.mover,
        copy_method: policy.sync.copy_method,
        mounts,
    };
    let created: Created = context.applier.create(&job::backup(seen, &order)).await?;
    tracing::debug!(job = name, ?created, "mover started");
    Ok(Some(RunStatus { job: Some(name), message: None, ..run }))
}

/// Volume name -> claim to mount; makes the temporary claims.
async fn mounts(
    seen: &Observation,
    run: &str,
    method: CopyMethod,
    context: &Context,
) -> Result<BTreeMap<String, String>, ActError> {
    let mut mounts = BTreeMap::new();
    for claim in select::claims(&seen.object.spec.volumes, &seen.claims) {
        let mounted = match method {
            CopyMethod::Direct => claim.name.clone(),
            CopyMethod::Snapshot => {
                let of = |t: &&Temporary| {
                    t.kind == TemporaryKind::Snapshot && t.run == run && t.source == claim.name
                };
                let cut = seen.temporaries.iter().find(of).ok_or(ActError::Missing("a snapshot"))?;
                context.applier.create(&cut::temporary_claim(seen, run, claim, cut)).await?;
                cut.name.clone()
            }
        };
        mounts.insert(claim.name.clone(), mounted);
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> ActError {
        let status =
            kube::core::Status { code, message: message.to_owned(), ..kube::core::Status::default() };
        ActError::Read { what: "x", source: Box::new(kube::Error::Api(Box::new(status))) }
    }

    #[test]
    fn a_refusal_ends_the_run_and_only_a_missing_right_is_mended_by_pairing() {
        let rbac =
            "jobs.batch is forbidden: User \"x\" cannot create resource \"jobs\" in API group \"batch\"";
        for (code, message, ends, lacks) in [
            (403, rbac, true, true),
            (403, "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1", true, false),
            (403, "admission webhook \"w\" denied the request: no", true, false),
            (422, "invalid", true, false),
            (404, "not found", true, false),
            (409, "conflict", false, false),
            (429, "too many requests", false, false),
            (500, "failed calling webhook", false, false),
        ] {
            let error = refused(code, message);
            assert_eq!((error.ends_run(), error.lacks_right()), (ends, lacks), "{code} {message}");
            assert_eq!(error.refusal(), Some(message));
        }
        assert!(!ActError::Missing("x").ends_run());
    }
}
