//! The embassy's operator dies at every step of a promotion, each time until it is let through.

use crate::given::{self, SOON, number, text};
use anyhow::{Result, ensure};
use e2e::Sites;
use e2e::manifests::Wanted;
use e2e::sites::SYSTEM;
use e2e::wait::until;
use std::time::Duration;

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
    let result = story(sites, &names);
    // Whatever happened: the tests behind this one need a link and an operator that lives.
    sites.bed.heal("home", "embassy")?;
    die_at(embassy, "")?;
    result
}

fn story(sites: &Sites, names: &e2e::Names) -> Result<()> {
    let embassy = sites.embassy()?;
    for (at, point) in POINTS.iter().enumerate() {
        die_at(embassy, point)?;
        if at == 0 {
            sites.bed.cut("home", "embassy")?;
        }
        until(&format!("the operator to die at {point}"), Duration::from_secs(120), || {
            let phase = text(&sites.at_embassy(names)?, "/status/phase");
            let deaths = deaths(embassy, point)?;
            ensure!(deaths > 0, "phase {phase}, no death at {point}");
            Ok(Some(()))
        })?;
    }
    die_at(embassy, "")?;
    until("the end of the promotion", SOON, || {
        let mirror = sites.at_embassy(names)?;
        ensure!(text(&mirror, "/status/phase") == "Promoted", "{}", e2e::sites::not_fine(&mirror));
        Ok(Some(()))
    })?;
    let mirror = sites.at_embassy(names)?;
    ensure!(number(&mirror, "/status/epoch")? == 1, "epoch {}", text(&mirror, "/status/epoch"));
    ensure!(mirror.pointer("/status/promotion").is_none(), "a promotion is still under way");
    let pods = embassy.kubectl(&["get", "pods", "-n", &names.embassy, "-l", "app=notes", "-o", "name"])?;
    ensure!(pods.lines().count() == 1, "the standby runs {} pods: {pods}", pods.lines().count());
    let line =
        embassy.kubectl(&["exec", "-n", &names.embassy, "notes-0", "--", "head", "-n1", "/data/notes"])?;
    ensure!(line.trim() == given::marker("kills"), "the standby serves {line:?}");
    println!(
        "      kills: died at {} points, epoch 1, recovery {} s",
        POINTS.len(),
        text(&mirror, "/status/lastPromotion/recoverySeconds")
    );
    Ok(())
}

/// Sets where the operator dies; the Deployment brings a new pod with it.
fn die_at(cluster: &testbed::Cluster, point: &str) -> Result<()> {
    let set =
        if point.is_empty() { "EMBASSY_TESTCRASH-".to_owned() } else { format!("EMBASSY_TESTCRASH={point}") };
    cluster.kubectl(&[
        "set",
        "env",
        "deployment",
        "-n",
        SYSTEM,
        "-l",
        "app.kubernetes.io/name=data-embassy-operator",
        &set,
    ])?;
    if point.is_empty() {
        let deploy = [
            "rollout",
            "status",
            "deployment",
            "-n",
            SYSTEM,
            "-l",
            "app.kubernetes.io/name=data-embassy-operator",
            "--timeout=90s",
        ];
        cluster.kubectl(&deploy)?;
    }
    Ok(())
}

/// How often a container with this point set has died.
fn deaths(cluster: &testbed::Cluster, point: &str) -> Result<u64> {
    let list = cluster.kubectl(&[
        "get",
        "pods",
        "-n",
        SYSTEM,
        "-l",
        "app.kubernetes.io/name=data-embassy-operator",
        "-o",
        "json",
    ])?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let pods = list.pointer("/items").and_then(|items| items.as_array()).cloned().unwrap_or_default();
    let ours = pods.iter().filter(|pod| pod.to_string().contains(&format!("\"value\":\"{point}\"")));
    Ok(ours.filter_map(|pod| pod.pointer("/status/containerStatuses/0/restartCount")?.as_u64()).sum())
}
