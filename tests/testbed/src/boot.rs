//! Starts all programs of a cluster in the right order and waits until it works.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;

use crate::cluster::{Cluster, Kind};
use crate::components::Component;
use crate::{cache, host, image, pki, process, sys};

/// The longest that any one step of a start may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Starts a cluster, for the first time or again. Not to be called on a thread of an async runtime.
pub(crate) fn start(cluster: &Cluster, storage: bool) -> Result<()> {
    let outcome = start_all(cluster, storage);
    outcome.with_context(|| format!("cannot start {}{}", cluster.name(), obituary(cluster)))
}

fn start_all(cluster: &Cluster, storage: bool) -> Result<()> {
    let network = cluster.network();
    let namespace = network.namespace(cluster.name());
    let (kube, cni) = (cache::kube()?, host::cni_plugins()?);
    process::forget_dead(cluster.dir());
    cluster.cgroup().create()?;
    network.attach(cluster.name(), cluster.addresses())?;
    pki::write(cluster.dir(), cluster.name(), cluster.addresses())?;
    cluster.config(&namespace, &kube.kube, &cni).write()?;

    let full = cluster.kind() == Kind::Full;
    cluster.start(Component::Etcd)?;
    cluster.start(Component::KubeApiserver)?;
    if full {
        cluster.start(Component::Containerd)?;
        wait_containerd(cluster)?;
        for archive in image::base()? {
            cluster.load_image(&archive)?;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(cluster.client())?;
    wait_alive(cluster, "a working API server", || {
        let ready = http::Request::get("/readyz").body(Vec::new())?;
        Ok(runtime.block_on(client.request_text(ready)).is_ok())
    })?;
    let rest = cluster.kind().components().iter().copied();
    for component in rest.filter(|component| !begun(*component)) {
        if storage || component != Component::Provisioner {
            cluster.start(component)?;
        }
    }
    if full {
        runtime.block_on(apply_crds(&client))?;
        wait_alive(cluster, "a Ready node", || Ok(runtime.block_on(node_ready(&client, cluster.name()))))?;
    }
    wait_alive(cluster, "the default ServiceAccount", || {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        Ok(runtime.block_on(accounts.get("default")).is_ok())
    })
}

/// Components that start before the API server answers.
fn begun(component: Component) -> bool {
    matches!(component, Component::Etcd | Component::KubeApiserver | Component::Containerd)
}

fn wait_containerd(cluster: &Cluster) -> Result<()> {
    let socket = cluster.dir().join("containerd.sock").display().to_string();
    wait_alive(cluster, "containerd", || {
        // The CRI plugin is the last to be there.
        let plugins = sys::run("ctr", &["-a", &socket, "plugins", "ls", "-q"]);
        Ok(plugins.is_ok() && sys::run("ctr", &["-a", &socket, "-n", "k8s.io", "version"]).is_ok())
    })
}

/// Starts the kubelet, again and again as an init system would: it ends when containerd does not
/// serve it yet. Returns once it listens.
pub(crate) fn start_kubelet(cluster: &Cluster, argv: &[String]) -> Result<()> {
    let name = Component::Kubelet.name();
    cluster.spawn(name, argv, true)?;
    sys::wait_for("the kubelet", LIMIT, || {
        let process = process::recorded(cluster.dir(), name).context("the kubelet has no record")?;
        if !process.alive() {
            cluster.spawn(name, argv, true)?;
        }
        Ok(process.listens(10250).then_some(()))
    })
}

/// Waits, and gives up at once when a component has died.
fn wait_alive(cluster: &Cluster, what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    sys::wait_for(what, LIMIT, || {
        if probe()? {
            return Ok(Some(()));
        }
        match dead(cluster).first() {
            Some(name) => bail!("{name} has ended"),
            None => Ok(None),
        }
    })
}

fn dead(cluster: &Cluster) -> Vec<&'static str> {
    cluster
        .kind()
        .components()
        .iter()
        .map(|component| component.name())
        .filter(|name| process::recorded(cluster.dir(), name).is_some_and(|p| !p.alive()))
        .collect()
}

/// The last words of the components that have died.
fn obituary(cluster: &Cluster) -> String {
    let mut text = String::new();
    for name in dead(cluster) {
        let log = cluster.dir().join("log").join(format!("{name}.log"));
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        text.push_str(&format!("\n{name} ended, its last lines:"));
        for line in lines.into_iter().rev() {
            text.push_str(&format!("\n  {line}"));
        }
    }
    text
}

async fn node_ready(client: &kube::Client, name: &str) -> bool {
    let nodes: Api<Node> = Api::all(client.clone());
    let Ok(node) = nodes.get(name).await else {
        return false;
    };
    let tainted = node.spec.and_then(|spec| spec.taints).is_some_and(|taints| !taints.is_empty());
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    !tainted && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Applies the definitions of VolumeSnapshots and their groups.
async fn apply_crds(client: &kube::Client) -> Result<()> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let dir = cache::snapshot_crds()?;
    let params = PatchParams::apply("testbed").force();
    let applied = sys::names_in(&dir).into_iter().map(|file| {
        let (definitions, params, path) = (&definitions, &params, dir.join(&file));
        async move {
            let text = std::fs::read_to_string(&path)?;
            let value: Value = serde_yaml::from_str(&text).with_context(|| format!("bad YAML in {file}"))?;
            let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            definitions.patch(name, params, &Patch::Apply(&value)).await?;
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(applied).await.map(|_| ())
}

/// Starts the storage provisioner of a full cluster and waits until all volumes are mounted: a
/// kubelet that came first would start pods over empty folders.
pub(crate) fn start_provisioner(cluster: &Cluster) -> Result<()> {
    let dir = cluster.storage_dir();
    std::fs::create_dir_all(&dir)?;
    let ready = crate::storage::Layout::open(&dir)?.context("the storage folder is gone")?.ready();
    let _ = std::fs::remove_file(&ready);
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
    let argv = [
        text(&crate::program::testbed(cluster.dir())?)?,
        "provisioner".to_owned(),
        format!("--cluster={}", cluster.name()),
        format!("--kubeconfig={}", text(&cluster.kubeconfig())?),
        format!("--dir={}", text(&dir)?),
        format!("--node={}", cluster.name()),
        format!("--prefix={}", cluster.cgroup_name()),
    ];
    cluster.spawn(Component::Provisioner.name(), &argv, false)?;
    wait_alive(cluster, "the storage provisioner", || Ok(ready.exists()))
}
