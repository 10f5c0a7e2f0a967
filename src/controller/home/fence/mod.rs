//! The fence `Scale` at home: while this site holds no permit, nothing that may write runs.
//!
//! One task a DataEmbassy, apart from the reconciler: a reconcile may hang on a dead embassy just
//! when the permit runs out. It is best effort (design section 5): with the operator or the API
//! server dead nobody fences, and a node that reboots starts pods before any operator runs. What
//! it finds running without a permit is counted and reported.

mod plan;

pub use plan::Members;

use crate::api::embassy::{Arbiter, FenceRecord};
use crate::api::ledger::Writ;
use crate::api::names::ANNOTATION_FENCED_REPLICAS;
use crate::clock::{Boot, boottime, now};
use crate::controller::apply::{Applier, ApplyError};
use crate::domain::writ::{HomeEvidence, HomeRight, home_right};
use crate::lease::{HomeView, LedgerHub};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::ListParams;
use plan::{FencePlan, Scale, Seen};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Time between two looks; part of F.
const TURN: Duration = Duration::from_millis(500);
/// A fence whose ledger nobody has asked by then (no usable kubeconfig, say) holds no permit: the
/// process before this one may have, and it lapses by itself.
/// Longer than one slow but good turn of the keeper (a read and an update, 3 s each).
const KEEPER_GRACE: Duration = Duration::from_secs(8);
/// Bound of one list call to this cluster's own API server.
const OWN_CALL: Duration = Duration::from_secs(5);
/// Seconds between TERM and KILL. Not zero: a forced deletion takes the object away before the
/// process is dead, and then nobody could tell when the last write was possible.
const GRACE: u32 = 1;

/// Why a turn of the fence failed; it is tried again at the next.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The namespace cannot be read.
    #[error("cannot list what may write")]
    List(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("no answer from this cluster's API server within {} s", OWN_CALL.as_secs())]
    Timeout,
    /// A workload or pod cannot be stopped.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A StatefulSet would lose its claims.
    #[error(
        "{0} deletes its claims when scaled down: set persistentVolumeClaimRetentionPolicy.whenScaled to Retain"
    )]
    DeletesClaims(String),
}

/// What the fence has to know of one DataEmbassy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceTarget {
    /// Namespace at home.
    pub namespace: String,
    /// Name of the DataEmbassy.
    pub name: String,
    /// The pair's id.
    pub pair: String,
    /// Who keeps the ledger.
    pub arbiter: Arbiter,
    /// Highest epoch seen (`status.epoch`).
    pub high_water: Option<u64>,
    /// What belongs to it.
    pub members: Members,
}

/// What the fence has done.
#[derive(Clone, Debug, Default)]
pub struct FenceView {
    /// Whether home may write, as of the last turn; `None` before the first.
    pub right: Option<HomeRight>,
    /// The last fencing, as it was measured.
    pub record: Option<FenceRecord>,
    /// Why the last turn failed, for people.
    pub last_error: Option<String>,
}

/// All fences of this process.
#[derive(Clone, Default)]
pub struct FenceHub {
    fences: Arc<Mutex<BTreeMap<String, Fence>>>,
}

struct Fence {
    shared: Arc<Mutex<Shared>>,
    task: AbortHandle,
}

struct Shared {
    target: FenceTarget,
    view: FenceView,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FenceHub {
    /// Fences `key` (`namespace/name`) from now on. Cheap when nothing changed.
    pub fn ensure(&self, key: &str, target: FenceTarget, ledgers: &LedgerHub, applier: &Applier) {
        let mut fences = lock(&self.fences);
        let fence = fences.entry(key.to_owned()).or_insert_with(|| {
            let shared = Arc::new(Mutex::new(Shared { target: target.clone(), view: FenceView::default() }));
            let task = tokio::spawn(guard(shared.clone(), ledgers.clone(), applier.clone()));
            Fence { shared, task: task.abort_handle() }
        });
        lock(&fence.shared).target = target;
    }

    /// The DataEmbassy is gone; what was scaled down stays so.
    pub fn forget(&self, key: &str) {
        if let Some(fence) = lock(&self.fences).remove(key) {
            fence.task.abort();
        }
    }

    /// What the fence of `key` has done.
    #[must_use]
    pub fn view(&self, key: &str) -> FenceView {
        lock(&self.fences).get(key).map(|f| lock(&f.shared).view.clone()).unwrap_or_default()
    }
}

async fn guard(shared: Arc<Mutex<Shared>>, ledgers: LedgerHub, applier: Applier) {
    let mut ticks = tokio::time::interval(TURN);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut was, mut released, mut held, began) = (None, false, false, boottime());
    loop {
        ticks.tick().await;
        let target = lock(&shared).target.clone();
        let view = ledgers.home(&target.pair);
        let right = right_now(&target, &view, began, boottime());
        let shown = plan::may_release(writ_of(&target, &view), target.high_water);
        held |= matches!(right, HomeRight::Granted(_));
        let result = match &right {
            HomeRight::Unknown => Ok(()),
            // After every fencing, and once at the start: an operator may die half-way.
            HomeRight::Granted(_) if shown && !released => {
                let result = release(&target, &applier).await;
                released = result.is_ok();
                result
            }
            HomeRight::Granted(_) => Ok(()),
            HomeRight::Denied(_) => {
                released = false;
                let first = !matches!(was, Some(HomeRight::Denied(_)));
                enforce(&target, &applier, &shared, first, held).await
            }
        };
        let mut shared = lock(&shared);
        shared.view.last_error = result.as_ref().err().map(|e| crate::cli::chain(e));
        was = Some(right.clone());
        shared.view.right = Some(right);
    }
}

fn writ_of<'a>(target: &FenceTarget, view: &'a HomeView) -> Option<&'a Writ> {
    view.ledger.as_ref().and_then(|l| l.writs.get(&target.name))
}

fn right_now(target: &FenceTarget, view: &HomeView, began: Boot, now: Boot) -> HomeRight {
    let evidence = HomeEvidence {
        arbiter: target.arbiter,
        high_water: target.high_water,
        writ: writ_of(target, view),
        read: view.ledger.is_some(),
        permit: view.permits.get(&target.name).copied(),
        asked: view.turns > 0 || now.since(began) >= KEEPER_GRACE,
    };
    home_right(&evidence, now)
}

async fn enforce(
    target: &FenceTarget,
    applier: &Applier,
    shared: &Mutex<Shared>,
    first: bool,
    held: bool,
) -> Result<(), FenceError> {
    if first {
        let decided_at = Time(now());
        lock(shared).view.record =
            Some(FenceRecord { decided_at, completed_at: None, seconds: None, found_running: 0 });
    }
    let seen = observe(target, applier).await?;
    let plan = plan::fence(&seen, &target.members);
    if !held {
        // This process never held a permit: whatever is here was started by a node or a person, unfenced.
        let found = i32::try_from(plan.kill.len()).unwrap_or(i32::MAX);
        if let Some(record) = lock(shared).view.record.as_mut() {
            record.found_running = record.found_running.max(found);
        }
    }
    let done = plan.scale.is_empty() && plan.kill.is_empty();
    stop(target, applier, plan).await?;
    if done {
        complete(shared);
    }
    Ok(())
}

/// Notes the end of a fencing once: nothing that may write was found any more.
fn complete(shared: &Mutex<Shared>) {
    let mut shared = lock(shared);
    let Some(record) = shared.view.record.as_mut().filter(|r| r.completed_at.is_none()) else { return };
    let end = now();
    record.seconds = Some(end.duration_since(record.decided_at.0).as_secs_f64());
    record.completed_at = Some(Time(end));
}

async fn stop(target: &FenceTarget, applier: &Applier, plan: FencePlan) -> Result<(), FenceError> {
    // Pods first and all at once: they are what writes; the scale only keeps them from coming back.
    let kills = plan.kill.iter().map(|(pod, uid)| {
        applier.delete::<Pod>(
            &target.namespace,
            pod,
            Some(uid).filter(|u| !u.is_empty()).map(String::as_str),
            Some(GRACE),
        )
    });
    let scales = plan.scale.iter().map(|scale| set_scale(target, applier, scale));
    let (kills, scales) = tokio::join!(futures::future::join_all(kills), futures::future::join_all(scales));
    for result in kills {
        match result {
            // Another pod of the same name has come up meanwhile: the next turn takes it.
            Err(error) if error.is_conflict() => {}
            other => other?,
        }
    }
    for result in scales {
        result?;
    }
    plan.refused.into_iter().next().map_or(Ok(()), |name| Err(FenceError::DeletesClaims(name)))
}

async fn release(target: &FenceTarget, applier: &Applier) -> Result<(), FenceError> {
    let seen = observe(target, applier).await?;
    for scale in plan::unfence(&seen, &target.members) {
        set_scale(target, applier, &scale).await?;
    }
    Ok(())
}

async fn set_scale(target: &FenceTarget, applier: &Applier, scale: &Scale) -> Result<(), FenceError> {
    let remember = scale.remember.map(|n| n.to_string());
    let patch = json!({
        "metadata": {"annotations": {ANNOTATION_FENCED_REPLICAS: remember}},
        "spec": {"replicas": scale.replicas},
    });
    if scale.kind == "Deployment" {
        applier.merge::<Deployment>(&target.namespace, &scale.name, &patch).await?;
    } else {
        applier.merge::<StatefulSet>(&target.namespace, &scale.name, &patch).await?;
    }
    Ok(())
}

async fn observe(target: &FenceTarget, applier: &Applier) -> Result<Seen, FenceError> {
    let client = applier.client();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &target.namespace);
    let stateful_sets: Api<StatefulSet> = Api::namespaced(client.clone(), &target.namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
    let all = ListParams::default();
    let lists = async { tokio::try_join!(deployments.list(&all), stateful_sets.list(&all), pods.list(&all)) };
    let lists = tokio::time::timeout(OWN_CALL, lists).await.map_err(|_| FenceError::Timeout)?;
    let (deployments, stateful_sets, pods) = lists.map_err(|e| FenceError::List(Box::new(e)))?;
    Ok(Seen { deployments: deployments.items, stateful_sets: stateful_sets.items, pods: pods.items })
}
