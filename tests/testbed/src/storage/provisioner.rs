//! Claims become volumes, released volumes go away.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};

use super::objects::{self, NewVolume, Source, VolumeStep};
use super::volume::{Content, Request, Volumes};

/// How soon something that failed or is not there yet is looked at again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
const CONCURRENCY: u16 = 4;

/// What all reconciles share.
#[derive(Clone)]
pub(super) struct Context {
    pub client: Client,
    pub recorder: Recorder,
    pub volumes: Volumes,
    pub node: String,
    pub prefix: String,
}

/// An error in the form that kube's controllers want.
#[derive(Debug)]
pub(super) struct Failure(pub anyhow::Error);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self(error.into())
    }
}

impl Context {
    /// Runs disk work where it may block.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(Volumes) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let volumes = self.volumes.clone();
        tokio::task::spawn_blocking(move || work(volumes)).await.context("disk work broke off")?
    }

    /// Tells the object's readers; that nobody can be told is only logged.
    pub async fn tell<K: Resource<DynamicType = T>, T: Default>(
        &self,
        object: &K,
        kind: EventType,
        what: [&str; 2],
        note: &str,
    ) {
        self.tell_dynamic(object, &T::default(), kind, what, note).await;
    }

    /// As `tell`, for objects whose type is known at run time only. `what`: reason and action.
    pub async fn tell_dynamic<K: Resource>(
        &self,
        object: &K,
        dynamic: &K::DynamicType,
        type_: EventType,
        [reason, action]: [&str; 2],
        note: &str,
    ) {
        let note = note.chars().take(1000).collect();
        let event =
            Event { type_, reason: reason.into(), action: action.into(), note: Some(note), secondary: None };
        if let Err(e) = self.recorder.publish(&event, &object.object_ref(dynamic)).await {
            tracing::warn!(error = %e, reason, "an event could not be published");
        }
    }
}

/// Serves claims and volumes until the process ends.
pub(super) async fn run(context: Arc<Context>) {
    let claims = Controller::new(
        Api::<PersistentVolumeClaim>::all(context.client.clone()),
        watcher::Config::default(),
    )
    .with_config(Config::default().concurrency(CONCURRENCY))
    .run(claim, again, context.clone())
    .for_each(log);
    let volumes =
        Controller::new(Api::<PersistentVolume>::all(context.client.clone()), watcher::Config::default())
            .with_config(Config::default().concurrency(CONCURRENCY))
            .run(volume, again, context.clone())
            .for_each(log);
    futures::join!(claims, volumes);
}

/// What a controller does after an error.
pub(super) fn again<K>(_: Arc<K>, _: &Failure, _: Arc<Context>) -> Action {
    Action::requeue(AGAIN)
}

/// Logs what went wrong in a controller.
pub(super) async fn log<T, E: std::fmt::Display>(result: Result<T, E>) {
    if let Err(e) = result {
        tracing::warn!("{e}");
    }
}

async fn claim(claim: Arc<PersistentVolumeClaim>, context: Arc<Context>) -> Result<Action, Failure> {
    let name = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default();
    if name.is_empty() || !objects::is_unbound(&claim) {
        return Ok(Action::await_change());
    }
    let Some(class) = Api::<StorageClass>::all(context.client.clone()).get_opt(name).await? else {
        return Ok(Action::requeue(AGAIN));
    };
    if !objects::is_ours(&claim, &class, &context.node) {
        return Ok(Action::await_change());
    }
    match provision(&claim, &class, &context).await {
        Ok(Some(note)) => {
            let what = ["ProvisioningSucceeded", "Provision"];
            context.tell(&*claim, EventType::Normal, what, &note).await;
            Ok(Action::await_change())
        }
        Ok(None) => Ok(Action::await_change()),
        Err(e) => {
            let note = format!("{e:#}");
            context.tell(&*claim, EventType::Warning, ["ProvisioningFailed", "Provision"], &note).await;
            Err(Failure(e.context(format!("claim {}", claim.name_any()))))
        }
    }
}

/// Makes the volume and its object. `None`: the claim is for another provisioner.
async fn provision(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    context: &Context,
) -> Result<Option<String>> {
    let wish = objects::wish(claim, class)?;
    if wish.source == Source::Foreign {
        return Ok(None);
    }
    let content = find_content(claim, &wish.source, context).await?;
    let name = objects::volume_name(&claim.uid().context("the claim has no uid")?);
    let request = Request { name: name.clone(), size: wish.size, encrypted: wish.encrypted, content };
    let size = context.on_disk(move |volumes| volumes.create(&request)).await?;
    let data = context.volumes.layout.data(&name);
    let new = NewVolume { size, data: &data, node: &context.node, prefix: &context.prefix, class };
    let pv = objects::persistent_volume(claim, &new)?;
    let volumes = Api::<PersistentVolume>::all(context.client.clone());
    match volumes.create(&PostParams::default(), &pv).await {
        Ok(_) => Ok(Some(format!("provisioned volume {name} of {size} bytes"))),
        Err(e) if is_status(&e, 409) => Ok(None),
        Err(e) => Err(e).context("creating the PersistentVolume"),
    }
}

/// Looks up what the claim's data source names, so far as it is there and ready.
async fn find_content(claim: &PersistentVolumeClaim, source: &Source, context: &Context) -> Result<Content> {
    let namespace = claim.namespace().unwrap_or_default();
    let found = match source {
        Source::Empty | Source::Foreign => None,
        Source::Claim(name) => Some(bound_volume(&context.client, &namespace, name).await?),
        Source::Snapshot(name) => {
            let resource = objects::snapshot_resource("VolumeSnapshot", "volumesnapshots");
            let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), &namespace, &resource);
            let snapshot =
                api.get(name).await.with_context(|| format!("looking up VolumeSnapshot {name}"))?;
            anyhow::ensure!(objects::is_ready(&snapshot), "VolumeSnapshot {name} is not ready to use");
            let bound = objects::text(&snapshot.data, "/status/boundVolumeSnapshotContentName");
            let bound = bound.with_context(|| format!("VolumeSnapshot {name} is bound to nothing"))?;
            Some(snapshot_handle(&context.client, bound).await?)
        }
    };
    objects::content(source, found)
}

/// Our name of the snapshot behind a content object.
async fn snapshot_handle(client: &Client, content: &str) -> Result<String> {
    let resource = objects::snapshot_resource("VolumeSnapshotContent", "volumesnapshotcontents");
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let content = api.get(content).await.context("looking up a VolumeSnapshotContent")?;
    let driver = objects::text(&content.data, "/spec/driver");
    anyhow::ensure!(driver == Some(objects::DRIVER), "the snapshot is of driver {driver:?}, not ours");
    let handle = objects::text(&content.data, "/status/snapshotHandle");
    handle.map(str::to_owned).context("the VolumeSnapshotContent has no handle")
}

/// Our name of the volume that a claim is bound to.
pub(super) async fn bound_volume(client: &Client, namespace: &str, name: &str) -> Result<String> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let claim = claims.get(name).await.with_context(|| format!("looking up claim {name}"))?;
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|_| bound);
    let volume = volume.with_context(|| format!("claim {name} is not bound"))?;
    let pv = Api::<PersistentVolume>::all(client.clone()).get(&volume).await?;
    objects::our_volume(&pv)
}

async fn volume(pv: Arc<PersistentVolume>, context: Arc<Context>) -> Result<Action, Failure> {
    match objects::volume_step(&pv, &context.node) {
        VolumeStep::Keep => {}
        VolumeStep::DeleteObject => {
            let api = Api::<PersistentVolume>::all(context.client.clone());
            let this = DeleteParams { preconditions: Some(same(pv.meta())), ..DeleteParams::default() };
            ignore_gone(api.delete(&pv.name_any(), &this).await.map(drop))?;
        }
        VolumeStep::DeleteImage => {
            let name = pv.name_any();
            if let Err(e) = context.on_disk(move |volumes| volumes.delete(&name)).await {
                let note = format!("{e:#}");
                context.tell(&*pv, EventType::Warning, ["VolumeFailedDelete", "Delete"], &note).await;
                return Err(Failure(e));
            }
            let_go(&pv, &context.client).await?;
        }
        VolumeStep::LetGo => let_go(&pv, &context.client).await?,
    }
    Ok(Action::await_change())
}

async fn let_go(pv: &PersistentVolume, client: &Client) -> Result<()> {
    let api = Api::<PersistentVolume>::all(client.clone());
    let patch = Patch::Merge(objects::finalizers_patch(pv.meta(), false));
    ignore_gone(api.patch(&pv.name_any(), &PatchParams::default(), &patch).await.map(drop))
}

/// A precondition: this very object in this very version.
fn same(meta: &kube::core::ObjectMeta) -> kube::api::Preconditions {
    kube::api::Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() }
}

/// Whether the API server answered with this code.
pub(super) fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Something that is gone already needs nothing more.
pub(super) fn ignore_gone(result: kube::Result<()>) -> Result<()> {
    match result {
        Err(e) if is_status(&e, 404) => Ok(()),
        other => other.context("writing to the API server"),
    }
}
