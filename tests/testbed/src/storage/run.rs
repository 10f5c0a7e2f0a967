//! The process: power-on first, then the classes, then the controllers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};

use super::layout::remove_file;
use super::provisioner::Context;
use super::volume::Volumes;
use super::{objects, provisioner, site, snapshotter};

const API_DEADLINE: Duration = Duration::from_secs(300);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(250);
const LOCK_DEADLINE: Duration = Duration::from_secs(10);
const MANAGER: &str = "testbed-provisioner";

/// Arguments of `testbed provisioner`.
#[derive(Debug, Clone, Args)]
pub struct ProvisionerArgs {
    /// Name of the cluster, for the log
    #[arg(long)]
    pub cluster: String,
    /// Kubeconfig with an administrator's rights
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Directory for images, mounts and keys
    #[arg(long)]
    pub dir: PathBuf,
    /// Name of the node whose kubelet shares this mount namespace
    #[arg(long)]
    pub node: String,
    /// Prefix of everything this cluster makes on the host
    #[arg(long)]
    pub prefix: String,
}

/// Mounts what there is, writes `provisioner.ready`, and serves until SIGTERM. Volumes stay
/// mounted then: pods may still use them.
pub async fn run(args: ProvisionerArgs) -> Result<()> {
    let volumes = Volumes::new(&args.dir, &args.prefix)?;
    let ready = volumes.layout.ready();
    let layout = volumes.layout.clone();
    let _only = tokio::task::spawn_blocking(move || layout.lock_provisioner(LOCK_DEADLINE)).await??;
    remove_file(&ready)?;
    let dir = args.dir.clone();
    let mounted = tokio::task::spawn_blocking(move || site::mount_all(&dir)).await??;
    tracing::info!(cluster = args.cluster, mounted, "volumes are mounted");
    std::fs::write(&ready, std::process::id().to_string()).context("writing the ready file")?;
    let mut stop = signal(SignalKind::terminate()).context("waiting for signals")?;
    tokio::select! {
        served = serve(&args, volumes) => served,
        _ = stop.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn serve(args: &ProvisionerArgs, volumes: Volumes) -> Result<()> {
    let client = tokio::time::timeout(API_DEADLINE, connect(args)).await.context("no API server")??;
    let reporter = Reporter { controller: MANAGER.into(), instance: Some(args.prefix.clone()) };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        volumes,
        node: args.node.clone(),
        prefix: args.prefix.clone(),
    });
    let snapshots = async {
        await_snapshot_api(&context.client).await?;
        snapshotter::run(context.clone()).await;
        anyhow::Ok(())
    };
    let (done, ()) = futures::join!(snapshots, provisioner::run(context.clone()));
    done
}

/// A client, once the API server has taken our storage classes.
async fn connect(args: &ProvisionerArgs) -> Result<Client> {
    loop {
        match try_connect(args).await {
            Ok(client) => return Ok(client),
            Err(e) => tracing::debug!("the API server is not there yet: {e:#}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn try_connect(args: &ProvisionerArgs) -> Result<Client> {
    let file = Kubeconfig::read_from(&args.kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    config.proxy_url = None;
    config.connect_timeout = Some(CONNECT_DEADLINE);
    let client = Client::try_from(config)?;
    let api = Api::<StorageClass>::all(client.clone());
    for class in objects::storage_classes() {
        let name = objects::text(&class, "/metadata/name").unwrap_or_default().to_owned();
        api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(class)).await?;
    }
    Ok(client)
}

/// Waits for the snapshot CRDs, which somebody else applies, and makes the snapshot class.
async fn await_snapshot_api(client: &Client) -> Result<()> {
    let resource = objects::snapshot_resource("VolumeSnapshotClass", "volumesnapshotclasses");
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let class = objects::snapshot_class();
    // Without the CRDs there are no snapshots, but volumes all the same: wait as long as it takes.
    while let Err(e) =
        api.patch(objects::SNAPSHOT_CLASS, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&class)).await
    {
        tracing::debug!("no snapshot API yet: {e}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
