//! Whether the standby's workloads run.

use super::live::{CALL, Standby};
use super::plan::{Live, Observed};
use super::{Kind, ObjectsError, WORKLOADS};
use crate::controller::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

/// Pods that are looked at for the reason why a workload is not ready.
const MAX_PODS: u32 = 20;

/// One workload of the standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadReadiness {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Replicas that are ready.
    pub ready: i32,
    /// Replicas that there should be; before it is started: home's.
    pub wanted: i32,
    /// Why it is not ready.
    pub message: Option<String>,
}

/// Each workload of the standby.
///
/// # Errors
/// [`ObjectsError`]; also when workloads may not be read: then nothing is known of them.
pub async fn readiness(
    ctx: &Context,
    namespace: &str,
    embassy: &str,
) -> Result<Vec<WorkloadReadiness>, ObjectsError> {
    let standby = Standby::new(&ctx.client, namespace, embassy)?;
    let observed = standby.observe(&WORKLOADS, &[]).await?;
    let mut workloads = judge(&observed)?;
    for workload in &mut workloads {
        let live = observed.live.get(&(workload.kind, workload.name.clone()));
        let Some(live) = live.filter(|l| l.replicas > 0 && workload.ready < workload.wanted) else {
            continue;
        };
        if let Some(why) = pods_say(&ctx.client, namespace, live).await {
            workload.message = Some(why);
        }
    }
    Ok(workloads)
}

/// True if every wanted replica is ready. A standby without workloads (data alone) serves at once.
///
/// # Errors
/// [`ObjectsError`].
pub async fn serving(ctx: &Context, namespace: &str, embassy: &str) -> Result<bool, ObjectsError> {
    let standby = Standby::new(&ctx.client, namespace, embassy)?;
    Ok(all_ready(&judge(&standby.observe(&WORKLOADS, &[]).await?)?))
}

/// True if every wanted replica is ready.
#[must_use]
pub fn all_ready(workloads: &[WorkloadReadiness]) -> bool {
    workloads.iter().all(|w| w.ready >= w.wanted)
}

/// What was read, judged. A kind that may not be read is an error: no workload seen is not "all ready".
pub(super) fn judge(observed: &Observed) -> Result<Vec<WorkloadReadiness>, ObjectsError> {
    if let Some((kind, why)) = observed.unreadable.first_key_value() {
        return Err(ObjectsError::Unreadable { kind: *kind, why: why.clone() });
    }
    let ours = observed.live.iter().filter(|(_, live)| live.ours);
    Ok(ours.map(|((kind, name), live)| one(*kind, name, live)).collect())
}

fn one(kind: Kind, name: &str, live: &Live) -> WorkloadReadiness {
    let wanted = if live.replicas > 0 { live.replicas } else { live.home_replicas };
    let (ready, mut message) = (live.ready, None);
    if live.deleting {
        message = Some("it is being deleted".to_owned());
    } else if live.replicas == 0 && wanted > 0 {
        message = Some("not started: the standby is a pilot light".to_owned());
    } else if ready < wanted {
        message = live.message.clone().or_else(|| Some(format!("{ready} of {wanted} replicas are ready")));
    }
    // What is being deleted is not ready, whatever its status still says.
    let ready = if live.deleting { 0 } else { ready };
    WorkloadReadiness { kind, name: name.to_owned(), ready, wanted, message }
}

/// Why the pods of a workload do not start, in their own words. Failing to find out is no failure.
async fn pods_say(client: &Client, namespace: &str, live: &Live) -> Option<String> {
    if live.selector.is_empty() {
        return None;
    }
    let pairs: Vec<_> = live.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let params = ListParams::default().labels(&pairs.join(",")).limit(MAX_PODS);
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = tokio::time::timeout(CALL, api.list(&params)).await.ok()?.ok()?;
    pods.items.iter().find_map(pod_says)
}

fn pod_says(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let waiting = containers.filter_map(|c| Some((c.name.as_str(), c.state.as_ref()?.waiting.as_ref()?)));
    let mut stuck = waiting.filter_map(|(container, state)| {
        let reason =
            state.reason.as_deref().filter(|r| !matches!(*r, "ContainerCreating" | "PodInitializing"))?;
        let detail = state.message.as_deref().unwrap_or_default();
        Some(format!("pod {name}, container {container}: {reason}: {detail}"))
    });
    stuck.next().or_else(|| {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let bad = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
        Some(format!("pod {name} is not scheduled: {}", bad.message.as_deref().unwrap_or_default()))
    })
}
