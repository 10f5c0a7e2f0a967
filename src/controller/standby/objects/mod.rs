//! The standby's objects: made in the embassy from home's manifests, kept at no replicas until a
//! promotion, and removed at retirement.
//!
//! The manifests are home's and home may be in a thief's hands. So they can only be of a closed list of
//! kinds, can neither be nor use an object of the operator's ([`reserved`]), never overwrite what is not
//! this standby's, and are written as ServiceAccount `embassy-restorer`, whose rights are the embassy
//! admin's to give. Read, plan and write are apart: [`live`], [`plan`], [`transform`].

mod body;
mod kind;
mod live;
pub mod plan;
mod readiness;
pub mod reserved;
mod transform;
mod unpack;

pub use kind::Kind;
pub use live::restorer_client;
pub use readiness::{WorkloadReadiness, all_ready, readiness, serving};
pub use transform::{COMPONENT, StandbyObject, Transform, transform};
pub use unpack::{UnpackError, unpack};

use super::super::Context;
use super::super::apply::ApplyError;
use super::build::label_value;
use crate::api::DataEmbassy;
use crate::api::embassy::ServiceStatus;
use crate::api::names::{self, ANNOTATION_SEQUENCE, MANIFESTS_KEY, RESTORER};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _};
use live::{CALL, Standby};
use plan::{Live, Observed};
use serde_json::Value;

/// Why the standby's objects could not be seen to.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The manifests could not be read.
    #[error("cannot read the manifests of the standby (Secret {name})")]
    Manifests {
        /// The Secret.
        name: String,
        /// The API server's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The manifests are not what the mover writes.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The standby could not be read.
    #[error("cannot read the standby's {kind}s")]
    Read {
        /// Their kind.
        kind: Kind,
        /// The API server's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The standby may not be read, so nothing is known of it.
    #[error("may not read the standby's {kind}s: extend Role {RESTORER} ({why})")]
    Unreadable {
        /// Their kind.
        kind: Kind,
        /// The API server's answer.
        why: String,
    },
    /// No answer in time.
    #[error("no answer from the API server within {} s", CALL.as_secs())]
    Timeout,
    /// An object that the transform made is none (a defect of ours).
    #[error("a standby object is not a Kubernetes object")]
    Object(#[source] serde_json::Error),
    /// The namespace's name cannot be sent.
    #[error("`{0}` is not a namespace")]
    Namespace(String),
    /// The API server does not work, or not for us.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Whether the standby may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It may not: all workloads are kept at no replicas, also if somebody scales them up.
    PilotLight,
    /// It serves, or is being started: nothing is written and nothing deleted. Home may be in a thief's
    /// hands by now, and what the mirror says since (images, say) must not reach what serves.
    Serving,
}

/// Something about one object that people should know.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// CamelCase constant.
    pub reason: &'static str,
    /// What is the matter and what to do about it.
    pub message: String,
    /// True if the object is not (or no more) as home has it; false if it was made with a change.
    pub omitted: bool,
}

impl Finding {
    fn omitted(kind: Kind, name: &str, reason: &'static str, message: &str) -> Self {
        Self { kind: kind.to_string(), name: name.into(), reason, message: message.into(), omitted: true }
    }

    fn changed(kind: Kind, name: &str, reason: &'static str, message: &str) -> Self {
        Self { omitted: false, ..Self::omitted(kind, name, reason, message) }
    }

    fn unnamed(kind: &str, name: &str, reason: &'static str, message: String) -> Self {
        // Home's words, cut short: they may be anything.
        let short = |text: &str| text.chars().take(253).collect();
        Self { kind: short(kind), name: short(name), reason, message, omitted: true }
    }

    fn forbidden(kind: Kind, name: &str, why: &str) -> Self {
        let resource = kind.resource();
        let group = if resource.group.is_empty() { "core" } else { &resource.group };
        let mend = if why.contains("impersonate") {
            format!(
                "let the operator impersonate ServiceAccount {RESTORER} (run `kubectl embassy pair` again)"
            )
        } else {
            format!(
                "give Role {RESTORER} the verbs get, list, create, patch and delete on {} of group {group}, \
                 or leave the object out of spec.services at home",
                resource.plural
            )
        };
        Self::omitted(kind, name, "Forbidden", &format!("{mend}: {why}"))
    }
}

/// What a turn of [`sync`] came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Synced {
    /// Each object, for the status.
    pub services: Vec<ServiceStatus>,
    /// What people should know.
    pub findings: Vec<Finding>,
    /// The dispatch that the manifests came with; `None`: there are none yet.
    pub sequence: Option<i64>,
    /// Objects that were written or deleted this turn.
    pub written: usize,
}

impl Synced {
    /// True if all of the manifests' objects stand as they should.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.sequence.is_some() && !self.findings.iter().any(|f| f.omitted)
    }
}

/// Makes the standby's objects what the manifests in Secret `<embassy>-manifests` say. Without that
/// Secret, or with an empty one, nothing is touched: that is no order to delete.
///
/// # Errors
/// [`ObjectsError`]; a fault of a single object is a finding and not an error.
pub async fn sync(
    ctx: &Context,
    namespace: &str,
    embassy: &DataEmbassy,
    mode: Mode,
) -> Result<Synced, ObjectsError> {
    let name = embassy.name_any();
    let Some((sequence, manifests)) = manifests(&ctx.client, namespace, &name).await? else {
        return Ok(Synced::default());
    };
    let how = Transform {
        namespace: namespace.to_owned(),
        images: embassy.spec.services.as_ref().map(|s| s.images.clone()).unwrap_or_default(),
        storage_class_name: embassy.spec.embassy.storage_class_name.clone(),
        data_embassy: label_value(&name),
        sequence,
    };
    let (desired, findings) = transform(&manifests, &how);
    let standby = Standby::new(&ctx.client, namespace, &name)?;
    let synced = standby.sync(&desired, findings, mode).await?;
    Ok(Synced { sequence: Some(sequence), ..synced })
}

/// The manifests and their sequence; `None` while the mover has not written any.
async fn manifests(
    client: &Client,
    namespace: &str,
    embassy: &str,
) -> Result<Option<(i64, Vec<Value>)>, ObjectsError> {
    let name = names::manifests(embassy);
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = tokio::time::timeout(CALL, api.get_opt(&name)).await.map_err(|_| ObjectsError::Timeout)?;
    let found = found.map_err(|e| ObjectsError::Manifests { name, source: Box::new(e) })?;
    let Some(secret) = found else { return Ok(None) };
    let sequence = secret.annotations().get(ANNOTATION_SEQUENCE).and_then(|s| s.parse().ok());
    let gzip = secret.data.as_ref().and_then(|d| d.get(MANIFESTS_KEY)).filter(|b| !b.0.is_empty());
    let (Some(sequence), Some(gzip)) = (sequence, gzip) else { return Ok(None) };
    Ok(Some((sequence, unpack(&gzip.0)?)))
}

impl Standby<'_> {
    async fn sync(
        &self,
        desired: &[StandbyObject],
        mut findings: Vec<Finding>,
        mode: Mode,
    ) -> Result<Synced, ObjectsError> {
        let observed = self.observe(&Kind::ALL, desired).await?;
        let (steps, more) = plan::plan(desired, &observed, mode);
        findings.extend(more);
        let mut written = 0_usize;
        for step in &steps {
            match self.act(step, mode).await? {
                Some(finding) => findings.push(finding),
                None => written = written.saturating_add(1),
            }
        }
        Ok(Synced { services: services(desired, &observed, &findings), findings, sequence: None, written })
    }
}

/// Each object for the status, those that could not be made included.
fn services(desired: &[StandbyObject], observed: &Observed, findings: &[Finding]) -> Vec<ServiceStatus> {
    let finding = |kind: &str, name: &str| {
        let of_it = || findings.iter().filter(|f| f.kind == kind && f.name == name);
        of_it().find(|f| f.omitted).or_else(|| of_it().next()).map(|f| f.message.clone())
    };
    let made = desired.iter().map(|object| {
        let (kind, name) = (object.kind.to_string(), object.name.clone());
        let live = observed.live.get(&(object.kind, name.clone()));
        let ready = live.map(|l| format!("{}/{}", l.ready, l.replicas)).filter(|_| object.kind.is_workload());
        ServiceStatus { message: finding(&kind, &name), kind, name, ready }
    });
    let mut all: Vec<_> = made.collect();
    for f in findings {
        if !all.iter().any(|s| s.kind == f.kind && s.name == f.name) {
            let (kind, name, message) = (f.kind.clone(), f.name.clone(), Some(f.message.clone()));
            all.push(ServiceStatus { kind, name, ready: None, message });
        }
    }
    all
}

/// What is left of a standby that is being removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Removed {
    /// Objects that were still there when this turn began, and kinds that may not be read; 0: it is all
    /// gone.
    pub left: usize,
    /// What could not be deleted.
    pub findings: Vec<Finding>,
}

/// Removes the standby's objects (retirement), workloads first. Volumes are not among them.
///
/// # Errors
/// [`ObjectsError`].
pub async fn remove_all(ctx: &Context, namespace: &str, embassy: &str) -> Result<Removed, ObjectsError> {
    let standby = Standby::new(&ctx.client, namespace, embassy)?;
    let observed = standby.observe(&Kind::ALL, &[]).await?;
    let unreadable = observed.unreadable.iter().map(|(kind, why)| Finding::forbidden(*kind, "*", why));
    let mut findings: Vec<_> = unreadable.collect();
    for step in plan::removal(&observed, |_, _| true) {
        findings.extend(standby.act(&step, Mode::PilotLight).await?);
    }
    // A kind that may not be read may still have objects: "all gone" would be a guess.
    let left = observed.live.len().saturating_add(observed.unreadable.len());
    Ok(Removed { left, findings })
}

/// Starts the standby: every workload at no replicas gets home's. Only for the holder of the writ; it
/// may be called again until [`serving`].
///
/// # Errors
/// [`ObjectsError`].
pub async fn scale_up(ctx: &Context, namespace: &str, embassy: &str) -> Result<Vec<Finding>, ObjectsError> {
    Standby::new(&ctx.client, namespace, embassy)?.scale_up().await
}

/// Puts the standby out: every workload back to no replicas, whatever the manifests say. For a
/// promotion that is given up, and for a retirement.
///
/// # Errors
/// [`ObjectsError`].
pub async fn scale_down(ctx: &Context, namespace: &str, embassy: &str) -> Result<Vec<Finding>, ObjectsError> {
    Standby::new(&ctx.client, namespace, embassy)?.scale_down().await
}

/// The kinds that have replicas; what others depend on tends to be a StatefulSet.
const WORKLOADS: [Kind; 2] = [Kind::StatefulSet, Kind::Deployment];

impl Standby<'_> {
    async fn scale_up(&self) -> Result<Vec<Finding>, ObjectsError> {
        self.scale_all(|live| (live.replicas == 0 && live.home_replicas > 0).then_some(live.home_replicas))
            .await
    }

    async fn scale_down(&self) -> Result<Vec<Finding>, ObjectsError> {
        self.scale_all(|live| (live.replicas != 0).then_some(0)).await
    }

    async fn scale_all(&self, wanted: impl Fn(&Live) -> Option<i32>) -> Result<Vec<Finding>, ObjectsError> {
        let observed = self.observe(&WORKLOADS, &[]).await?;
        let unreadable = observed.unreadable.iter().map(|(kind, why)| Finding::forbidden(*kind, "*", why));
        let mut findings: Vec<_> = unreadable.collect();
        for ((kind, name), live) in observed.live.iter().filter(|(_, live)| live.ours && !live.deleting) {
            if let Some(replicas) = wanted(live) {
                findings.extend(self.scale(*kind, name, replicas).await?);
            }
        }
        Ok(findings)
    }
}

#[cfg(test)]
mod tests;
