//! The embassy's operator dies at every step of a promotion, once at each.

use crate::given::{self, SOON, number, text};
use anyhow::{Context as _, Result, ensure};
use e2e::Sites;
use e2e::manifests::Wanted;
use e2e::sites::SYSTEM;
use e2e::wait::until;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use testbed::Cluster;

/// The operator's pods.
const OPERATOR: &str = "app.kubernetes.io/name=data-embassy-operator";

/// Where it dies, in the order of a promotion: what was done and is not in the status yet.
const POINTS: &[&str] = &[
    "afterClaim",
    "afterConfirm",
    "beforeFinishRestore",
    "afterFinishRestore",
    "afterProve",
    "afterRestoreObjects",
    "beforeStart",
    "afterStart",
    "afterProbe",
    "afterSwitchTraffic",
];

/// The same end as without any death: epoch 1, served once, home fenced.
pub fn at_every_step(sites: &Sites) -> Result<()> {
    let health = Some(given::api_server(sites)?);
    let wanted = Wanted { mode: "Automatic", health, ..given::calm() };
    let names = given::proven_notes(sites, "kills", &wanted)?;
    let embassy = sites.embassy()?;
    let folder = armed(embassy)?;
    sites.bed.cut("home", "embassy")?;
    let result = story(sites, &names, &folder);
    // Whatever happened: the tests behind this one need a link and an operator that lives.
    sites.bed.heal("home", "embassy")?;
    disarm(&folder)?;
    result?;
    until("home to be fenced", SOON, || {
        Ok((text(&sites.at_home(&names)?, "/status/phase") == "Fenced").then_some(()))
    })
}

fn story(sites: &Sites, names: &e2e::Names, folder: &Path) -> Result<()> {
    let embassy = sites.embassy()?;
    until("the end of the promotion", Duration::from_secs(240), || {
        let mirror = sites.at_embassy(names)?;
        ensure!(text(&mirror, "/status/phase") == "Promoted", "{}", e2e::sites::not_fine(&mirror));
        Ok(Some(()))
    })?;
    for point in POINTS {
        ensure!(folder.join(format!("{point}.died")).exists(), "it was promoted without dying at {point}");
    }
    let deaths = until("kubelet to count the deaths", SOON, || {
        let deaths = restarts(embassy)?;
        ensure!(deaths >= POINTS.len() as u64, "only {deaths} restarts");
        Ok(Some(deaths))
    })?;
    let mirror = sites.at_embassy(names)?;
    ensure!(number(&mirror, "/status/epoch")? == 1, "epoch {}", text(&mirror, "/status/epoch"));
    ensure!(mirror.pointer("/status/promotion").is_none(), "a promotion is still under way");
    let pods = embassy.kubectl(&["get", "pods", "-n", &names.embassy, "-l", "app=notes", "-o", "name"])?;
    ensure!(pods.lines().count() == 1, "the standby runs {} pods: {pods}", pods.lines().count());
    let starts = starts(embassy, &names.embassy)?;
    ensure!(starts == 1, "the application was started {starts} times");
    let line =
        embassy.kubectl(&["exec", "-n", &names.embassy, "notes-0", "--", "head", "-n1", "/data/notes"])?;
    ensure!(line.trim() == given::marker("kills"), "the standby serves {line:?}");
    // Counted from the first suspicion, whatever died in between: at least L.
    let recovery = mirror.pointer("/status/lastPromotion/recoverySeconds").and_then(Value::as_f64);
    let recovery = recovery.context("the recovery is not on record")?;
    ensure!(recovery >= 25.0, "the record says {recovery} s: the deaths took the beginning away");
    println!("      kills: {deaths} deaths at {} points, epoch 1, recovery {recovery} s", POINTS.len());
    Ok(())
}

/// How many pods the StatefulSet controller has made for the standby.
fn starts(cluster: &Cluster, namespace: &str) -> Result<u64> {
    let list = cluster.kubectl(&["get", "events", "-n", namespace, "-o", "json"])?;
    let list: Value = serde_json::from_str(&list)?;
    let events = list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
    let made = events.iter().filter(|event| {
        text(event, "/reason") == "SuccessfulCreate" && text(event, "/message").contains("Pod notes-0")
    });
    Ok(made.map(|event| event.pointer("/count").and_then(Value::as_u64).unwrap_or(1)).sum())
}

/// Gives the operator a folder that outlives its container, with every point armed; returns it as
/// the host sees it.
fn armed(cluster: &Cluster) -> Result<PathBuf> {
    let name = cluster.kubectl(&["get", "deployment", "-n", SYSTEM, "-l", OPERATOR, "-o", "name"])?;
    let patch = json!({"spec": {"template": {"spec": {
        "volumes": [{"name": "crash", "emptyDir": {}}],
        "containers": [{
            "name": "operator",
            "env": [{"name": "EMBASSY_TESTCRASH", "value": "/crash"}],
            "volumeMounts": [{"name": "crash", "mountPath": "/crash"}],
        }],
    }}}});
    cluster.kubectl(&["patch", name.trim(), "-n", SYSTEM, "-p", &patch.to_string()])?;
    cluster.kubectl(&["rollout", "status", name.trim(), "-n", SYSTEM, "--timeout=90s"])?;
    let folder = until("the operator's folder", SOON, || {
        let list = cluster.kubectl(&["get", "pods", "-n", SYSTEM, "-l", OPERATOR, "-o", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let pods = list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
        ensure!(pods.len() == 1, "{} pods: the old one is still there", pods.len());
        let uid = pods.first().map(|pod| text(pod, "/metadata/uid")).context("no pod")?;
        Ok(find(cluster, &uid))
    })?;
    for point in POINTS {
        std::fs::write(folder.join(format!("{point}.armed")), "")?;
    }
    // The operator renames what we have written.
    for entry in std::fs::read_dir(&folder)? {
        std::os::unix::fs::chown(entry?.path(), Some(65_532), Some(65_532))?;
    }
    Ok(folder)
}

/// The pod's emptyDir as the host sees it, once kubelet has made it.
fn find(cluster: &Cluster, uid: &str) -> Option<PathBuf> {
    let pods = cluster.dir().join("kubelet/pods");
    Some(pods.join(uid).join("volumes/kubernetes.io~empty-dir/crash")).filter(|folder| folder.is_dir())
}

fn disarm(folder: &Path) -> Result<()> {
    for point in POINTS {
        match std::fs::remove_file(folder.join(format!("{point}.armed"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn restarts(cluster: &Cluster) -> Result<u64> {
    let list = cluster.kubectl(&["get", "pods", "-n", SYSTEM, "-l", OPERATOR, "-o", "json"])?;
    let list: Value = serde_json::from_str(&list)?;
    let pods = list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(pods.iter().filter_map(|pod| pod.pointer("/status/containerStatuses/0/restartCount")?.as_u64()).sum())
}
