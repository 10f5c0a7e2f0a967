//! The home part: mirror, dispatches, fence.
//!
//! One turn: `observe` reads home, then `remote` the embassy (bounded, and never able to fail the
//! turn); `validate` says what is wrong, `plan` what is due; `act` and `remote` do it with the
//! objects of `build`; `status` tells what came of it.

pub mod act;
pub mod arbiter;
pub mod build;
mod delete;
pub mod fence;
pub mod gather;
mod memory;
pub mod observation;
pub mod observe;
pub mod plan;
pub mod read;
pub mod remote;
pub mod requests;
pub mod retire;
pub mod select;
pub mod status;
mod tell;
#[cfg(test)]
mod testing;
mod turn;
pub mod validate;

use super::Context;
use super::apply::ApplyError;
use crate::api::DataEmbassy;
use crate::api::names::FINALIZER;
use crate::api::pair::PairRecord;
use crate::clock::boottime;
use crate::domain::writ::{HomeEvidence, HomeRight, HomeWant, home_right};
use fence::{FenceTarget, Members};
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt as _};
pub use memory::HomeMemory;
use observation::{Observation, Right, WritView};
use std::time::Duration;

/// Why a reconcile at home ended early.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Home could not be read.
    #[error(transparent)]
    Observe(#[from] observe::ObserveError),
    /// The kubeconfig Secret could not be read.
    #[error("cannot read the kubeconfig Secret")]
    Secret(#[source] Box<kube::Error>),
    /// A finalizer or a status could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A step of a deletion failed.
    #[error(transparent)]
    Act(#[from] act::ActError),
}

/// One turn for a DataEmbassy applied in this cluster.
///
/// # Errors
/// [`HomeError`]; what could be written to the status was written before.
pub async fn reconcile(object: &DataEmbassy, context: &Context) -> Result<Action, HomeError> {
    match Box::pin(turn::turn(object, context)).await {
        Ok(action) => Ok(action),
        // Someone else wrote meanwhile: what was decided is void, and nothing is lost.
        Err(HomeError::Apply(error)) if error.is_conflict() => {
            Ok(Action::requeue(Duration::from_millis(200)))
        }
        Err(HomeError::Observe(error)) if error.forbidden() => {
            tell::forbidden(object, &error, context).await;
            Err(HomeError::Observe(error))
        }
        Err(error) => Err(error),
    }
}

/// Keeps the beat at the ledger, apart from this reconcile: it is a task of its own. Once a writ was
/// seen it is kept whatever else is wrong, because without the beat the embassy would take over and
/// home would be fenced.
fn keep_beat(seen: &Observation, pair: &PairRecord, client: &Client, context: &Context) {
    let want = HomeWant { high_water: high_water(seen) };
    context.ledgers.ensure_home(pair, client.clone(), &context.settings.identity, seen.name(), want);
}

/// Keeps the fence, a task of its own too. It needs no way to the embassy: a home that cannot renew
/// its permit, because the kubeconfig is gone, say, must stop all the more.
fn keep_fence(seen: &Observation, pair: &str, context: &Context) {
    let high_water = high_water(seen);
    let claims = select::claims(&seen.object.spec.volumes, &seen.claims);
    let workloads = select::workloads(seen.object.spec.services.as_ref(), &seen.workloads);
    let target = FenceTarget {
        namespace: seen.namespace().to_owned(),
        name: seen.name().to_owned(),
        pair: pair.to_owned(),
        arbiter: arbiter::in_force(seen),
        high_water,
        members: Members {
            claims: claims.into_iter().map(|c| c.name.clone()).collect(),
            workloads: workloads.into_iter().map(|w| format!("{}/{}", w.kind, w.name)).collect(),
        },
    };
    context.fences.ensure(&key(seen), target, &context.ledgers, &context.applier);
}

/// After pairing anew: what belonged to the old pair ends, in every replica. Its fence too: without
/// the old beat it would stop a healthy home.
fn settle_pair(seen: &mut Observation, context: &Context) {
    let forgotten = seen.forget_old_pair();
    let acted = seen.paired().and_then(|pair| context.home.acts_on(&key(seen), &pair.id));
    let old: Vec<String> = forgotten.into_iter().chain(acted).collect();
    for pair in &old {
        context.ledgers.forget_home(pair, seen.name());
    }
    if !old.is_empty() {
        context.fences.forget(&key(seen));
    }
}

/// Ends what [`keep_beat`] and [`keep_fence`] began. `pair` is the pair as found, which may be
/// newer than the status.
fn forget(object: &DataEmbassy, pair: Option<&str>, context: &Context) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let old = object.status.as_ref().and_then(|s| s.pair.as_deref());
    for pair in pair.into_iter().chain(old) {
        context.ledgers.forget_home(pair, &name);
    }
    context.fences.forget(&format!("{namespace}/{name}"));
}

fn key(seen: &Observation) -> String {
    format!("{}/{}", seen.namespace(), seen.name())
}

fn high_water(seen: &Observation) -> Option<u64> {
    seen.status().epoch.and_then(|e| u64::try_from(e).ok())
}

/// What the ledger's keeper knows of this DataEmbassy's writ.
fn writ(seen: &Observation, pair: &PairRecord, context: &Context) -> WritView {
    let view = context.ledgers.home(&pair.id);
    let writ = view.ledger.as_ref().and_then(|l| l.writs.get(seen.name()));
    let evidence = HomeEvidence {
        arbiter: arbiter::in_force(seen),
        high_water: high_water(seen),
        writ,
        read: view.ledger.is_some(),
        permit: view.permits.get(seen.name()).copied(),
        asked: view.turns > 0,
    };
    WritView {
        read: view.ledger.is_some(),
        epoch: writ.map(|w| w.epoch),
        right: match home_right(&evidence, boottime()) {
            HomeRight::Granted(_) => Right::Granted,
            HomeRight::Unknown => Right::Unknown,
            HomeRight::Denied(why) => Right::Denied(why),
        },
        alarm: view.alarms.get(seen.name()).cloned(),
        last_error: view.last_error,
    }
}

fn has_finalizer(object: &DataEmbassy) -> bool {
    object.finalizers().iter().any(|f| f == FINALIZER)
}
