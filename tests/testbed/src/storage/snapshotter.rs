//! VolumeSnapshots: the snapshot controller and the driver's sidecar in one.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::EventType;
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};

use super::objects;
use super::provisioner::{AGAIN, Context, Failure, again, bound_volume, ignore_gone, is_status, log};
use super::volume::SnapshotInfo;

const CONCURRENCY: u16 = 4;
/// How soon we look whether an object that we deleted is gone.
const SOON: std::time::Duration = std::time::Duration::from_millis(200);

fn snapshots() -> ApiResource {
    objects::snapshot_resource("VolumeSnapshot", "volumesnapshots")
}

fn contents() -> ApiResource {
    objects::snapshot_resource("VolumeSnapshotContent", "volumesnapshotcontents")
}

fn classes() -> ApiResource {
    objects::snapshot_resource("VolumeSnapshotClass", "volumesnapshotclasses")
}

/// Serves snapshots until the process ends. The CRDs must be there.
pub(super) async fn run(context: Arc<Context>) {
    let all = |resource: ApiResource| Api::<DynamicObject>::all_with(context.client.clone(), &resource);
    let config = || Config::default().concurrency(CONCURRENCY);
    let taken = Controller::new_with(all(snapshots()), watcher::Config::default(), snapshots())
        .with_config(config())
        .run(snapshot, again, context.clone())
        .for_each(log);
    let held = Controller::new_with(all(contents()), watcher::Config::default(), contents())
        .with_config(config())
        .run(content, again, context.clone())
        .for_each(log);
    futures::join!(taken, held);
}

fn namespaced(context: &Context, object: &DynamicObject) -> Api<DynamicObject> {
    let namespace = object.namespace().unwrap_or_default();
    Api::namespaced_with(context.client.clone(), &namespace, &snapshots())
}

async fn snapshot(snapshot: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, Failure> {
    let ours = snapshot.finalizers().iter().any(|f| f == objects::FINALIZER);
    if snapshot.meta().deletion_timestamp.is_some() {
        return if ours {
            delete_content(&snapshot, &context).await.map_err(Failure)
        } else {
            Ok(Action::await_change())
        };
    }
    if objects::is_ready(&snapshot) {
        return Ok(Action::await_change());
    }
    match take(&snapshot, &context).await {
        Ok(()) => Ok(Action::await_change()),
        // We acted on an old copy of the object: the new one is on its way to us.
        Err(e) if e.downcast_ref::<kube::Error>().is_some_and(|e| is_status(e, 409)) => {
            Ok(Action::requeue(SOON))
        }
        Err(e) => {
            let note = format!("{e:#}");
            report(&snapshot, &context, &note).await?;
            Err(Failure(e.context(format!("snapshot {}", snapshot.name_any()))))
        }
    }
}

/// Writes a failure into the status, once, and tells about it each time.
async fn report(snapshot: &DynamicObject, context: &Context, note: &str) -> Result<()> {
    let what = ["SnapshotCreationFailed", "Snapshot"];
    context.tell_dynamic(snapshot, &snapshots(), EventType::Warning, what, note).await;
    if objects::text(&snapshot.data, "/status/error/message") == Some(note) {
        return Ok(());
    }
    let patch = Patch::Merge(objects::failed_status(note, jiff::Timestamp::now()));
    let api = namespaced(context, snapshot);
    ignore_gone(api.patch_status(&snapshot.name_any(), &PatchParams::default(), &patch).await.map(drop))
}

/// Takes the snapshot and binds it. Also for one whose content was made by hand.
async fn take(snapshot: &DynamicObject, context: &Context) -> Result<()> {
    let api = namespaced(context, snapshot);
    let given = objects::text(&snapshot.data, "/spec/source/volumeSnapshotContentName");
    let class = match given {
        Some(_) => None,
        None => match find_class(snapshot, context).await? {
            Some(class) => Some(class),
            None => return Ok(()),
        },
    };
    // Before anything is on disk, so that nothing can be forgotten there.
    if !snapshot.finalizers().iter().any(|f| f == objects::FINALIZER) {
        let patch = Patch::Merge(objects::finalizers_patch(snapshot.meta(), true));
        api.patch(&snapshot.name_any(), &PatchParams::default(), &patch)
            .await
            .context("adding the finalizer")?;
    }
    let (name, info) = match (given, class) {
        (Some(name), _) => (name.to_owned(), adopt(name, snapshot, context).await?),
        (None, Some(class)) => cut(snapshot, &class, context).await?,
        (None, None) => return Ok(()),
    };
    let patch = Patch::Merge(objects::ready_status(&name, &info));
    api.patch_status(&snapshot.name_any(), &PatchParams::default(), &patch)
        .await
        .context("writing the status")?;
    let note = format!("snapshot of {} is ready; writers waited {:?}", info.volume, info.frozen);
    context
        .tell_dynamic(snapshot, &snapshots(), EventType::Normal, ["SnapshotReady", "Snapshot"], &note)
        .await;
    Ok(())
}

/// The snapshot's class. `None`: it is another driver's.
async fn find_class(snapshot: &DynamicObject, context: &Context) -> Result<Option<DynamicObject>> {
    let api = Api::<DynamicObject>::all_with(context.client.clone(), &classes());
    let class = match objects::text(&snapshot.data, "/spec/volumeSnapshotClassName") {
        Some(name) => {
            api.get(name).await.with_context(|| format!("looking up VolumeSnapshotClass {name}"))?
        }
        None => {
            let all = api.list(&Default::default()).await.context("listing VolumeSnapshotClasses")?;
            all.items
                .into_iter()
                .find(objects::is_default)
                .context("there is no default VolumeSnapshotClass")?
        }
    };
    let ours = objects::text(&class.data, "/driver") == Some(objects::DRIVER);
    Ok(Some(class).filter(|_| ours))
}

/// Takes a new snapshot of the claim's volume and writes its content object.
async fn cut(
    snapshot: &DynamicObject,
    class: &DynamicObject,
    context: &Context,
) -> Result<(String, SnapshotInfo)> {
    let claim = objects::text(&snapshot.data, "/spec/source/persistentVolumeClaimName");
    let claim = claim.context("the snapshot names no source")?;
    let volume = bound_volume(&context.client, &snapshot.namespace().unwrap_or_default(), claim).await?;
    let uid = snapshot.uid().context("the snapshot has no uid")?;
    let (id, name) = (objects::snapshot_id(&uid), objects::content_name(&uid));
    let handle = id.clone();
    let info = context.on_disk(move |volumes| volumes.snapshot(&volume, &id)).await?;
    let new = serde_json::from_value(objects::snapshot_content(snapshot, class, &info)?)?;
    let api = Api::<DynamicObject>::all_with(context.client.clone(), &contents());
    match api.create(&PostParams::default(), &new).await {
        Ok(_) => {}
        Err(e) if is_status(&e, 409) => {}
        Err(e) => return Err(e).context("creating the VolumeSnapshotContent"),
    }
    let patch = Patch::Merge(objects::content_status(&handle, &info));
    api.patch_status(&name, &PatchParams::default(), &patch).await.context("writing the content's status")?;
    Ok((name, info))
}

/// Binds a content object that was made by hand for a snapshot we have.
async fn adopt(name: &str, snapshot: &DynamicObject, context: &Context) -> Result<SnapshotInfo> {
    let api = Api::<DynamicObject>::all_with(context.client.clone(), &contents());
    let content = api.get(name).await.with_context(|| format!("looking up VolumeSnapshotContent {name}"))?;
    let at = |pointer| objects::text(&content.data, pointer);
    ensure!(at("/spec/driver") == Some(objects::DRIVER), "VolumeSnapshotContent {name} is of another driver");
    let (wanted, namespace) = (snapshot.name_any(), snapshot.namespace().unwrap_or_default());
    let points_here = at("/spec/volumeSnapshotRef/name") == Some(&wanted)
        && at("/spec/volumeSnapshotRef/namespace") == Some(&namespace);
    ensure!(points_here, "VolumeSnapshotContent {name} is for another VolumeSnapshot");
    let handle = at("/spec/source/snapshotHandle").or_else(|| at("/status/snapshotHandle"));
    let handle = handle.with_context(|| format!("VolumeSnapshotContent {name} has no handle"))?.to_owned();
    let (id, shown) = (handle.clone(), handle.clone());
    let info = context.on_disk(move |volumes| volumes.snapshot_info(&id)).await?;
    let info = info.with_context(|| format!("there is no snapshot {shown}"))?;
    let patch = Patch::Merge(objects::finalizers_patch(content.meta(), true));
    api.patch(name, &PatchParams::default(), &patch).await.context("adding the content's finalizer")?;
    let patch = Patch::Merge(objects::content_status(&handle, &info));
    api.patch_status(name, &PatchParams::default(), &patch).await.context("writing the content's status")?;
    Ok(info)
}

/// Deletes the content of a snapshot that is going, and lets it go when the content is gone.
async fn delete_content(snapshot: &DynamicObject, context: &Context) -> Result<Action> {
    let uid = snapshot.uid().context("the snapshot has no uid")?;
    let bound = objects::text(&snapshot.data, "/status/boundVolumeSnapshotContentName");
    let name = bound.map_or_else(|| objects::content_name(&uid), str::to_owned);
    let api = Api::<DynamicObject>::all_with(context.client.clone(), &contents());
    match api.get_opt(&name).await.context("looking up the content")? {
        Some(content) if objects::text(&content.data, "/spec/deletionPolicy") != Some("Retain") => {
            if content.meta().deletion_timestamp.is_none() {
                ignore_gone(api.delete(&name, &DeleteParams::default()).await.map(drop))?;
            }
            return Ok(Action::requeue(SOON));
        }
        Some(_) => {}
        // Taken, but we were killed before its content was written.
        None => {
            let id = objects::snapshot_id(&uid);
            context.on_disk(move |volumes| volumes.delete_snapshot(&id)).await?;
        }
    }
    let patch = Patch::Merge(objects::finalizers_patch(snapshot.meta(), false));
    let gone =
        namespaced(context, snapshot).patch(&snapshot.name_any(), &PatchParams::default(), &patch).await;
    ignore_gone(gone.map(drop))?;
    Ok(Action::await_change())
}

/// Removes the image behind a content object that is being deleted.
async fn content(content: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, Failure> {
    let at = |pointer| objects::text(&content.data, pointer);
    let held = content.finalizers().iter().any(|f| f == objects::FINALIZER);
    if content.meta().deletion_timestamp.is_none() || !held || at("/spec/driver") != Some(objects::DRIVER) {
        return Ok(Action::await_change());
    }
    if still_wanted(&content, &context).await? {
        return Ok(Action::requeue(AGAIN));
    }
    let by_uid = at("/spec/volumeSnapshotRef/uid").map(objects::snapshot_id);
    let handle = at("/status/snapshotHandle").map(str::to_owned).or(by_uid);
    if let (Some(id), true) = (handle, at("/spec/deletionPolicy") != Some("Retain")) {
        context.on_disk(move |volumes| volumes.delete_snapshot(&id)).await?;
    }
    let api = Api::<DynamicObject>::all_with(context.client.clone(), &contents());
    let patch = Patch::Merge(objects::finalizers_patch(content.meta(), false));
    ignore_gone(api.patch(&content.name_any(), &PatchParams::default(), &patch).await.map(drop))?;
    Ok(Action::await_change())
}

/// Whether the snapshot that a content belongs to lives on: its data must stay then.
async fn still_wanted(content: &DynamicObject, context: &Context) -> Result<bool> {
    let at = |pointer| objects::text(&content.data, pointer);
    let (Some(namespace), Some(name)) =
        (at("/spec/volumeSnapshotRef/namespace"), at("/spec/volumeSnapshotRef/name"))
    else {
        return Ok(false);
    };
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), namespace, &snapshots());
    let Some(snapshot) = api.get_opt(name).await.context("looking up the snapshot of a content")? else {
        return Ok(false);
    };
    let same = at("/spec/volumeSnapshotRef/uid").is_none_or(|uid| snapshot.uid().as_deref() == Some(uid));
    Ok(same && snapshot.meta().deletion_timestamp.is_none())
}
