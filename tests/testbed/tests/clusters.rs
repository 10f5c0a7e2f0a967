//! The testbed itself: two clusters, a partition, a lost site, and nothing left at the end.
//! `cargo test -p testbed --test clusters -- --ignored` (root; minutes on the first run).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testbed::{Cluster, Component, Spec, Testbed, traces, wait_for};

const WEB: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: localhost/busybox:test
    command: [sh, -c, "mkdir -p /www && echo $SITE > /www/index.html && exec httpd -f -p 8080 -h /www"]
    env: [{name: SITE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
"#;

/// What a pod of `from` gets from the NodePort of `to`.
fn reach(from: &Cluster, to: &Cluster) -> Result<String> {
    let url = format!("http://{}:30080", to.node_ip());
    from.kubectl(&["exec", "web", "--", "timeout", "2", "wget", "-qO-", &url])
}

fn wait_reach(from: &Cluster, to: &Cluster, wanted: bool) -> Result<()> {
    let what = format!("{} {} {}", from.name(), if wanted { "reaching" } else { "losing" }, to.name());
    wait_for(&what, Duration::from_secs(60), || Ok((reach(from, to).is_ok() == wanted).then_some(())))
}

#[test]
#[ignore = "starts real clusters: needs root"]
fn two_clusters_a_partition_and_a_lost_site() -> Result<()> {
    let bed = Testbed::up(&Spec::two())?;
    let (number, dir) = (bed.number(), bed.dir());
    let (home, embassy) = (bed.cluster("home")?, bed.cluster("embassy")?);
    for cluster in [home, embassy] {
        cluster.apply(WEB)?;
        cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"])?;
    }
    wait_reach(home, embassy, true)?;
    ensure!(reach(home, embassy)?.trim() == "embassy", "the answer came from elsewhere");

    bed.cut("home", "embassy")?;
    wait_reach(home, embassy, false)?;
    wait_reach(embassy, home, false)?;
    bed.heal("home", "embassy")?;
    wait_reach(home, embassy, true)?;
    bed.cut_one_way("embassy", "home")?;
    wait_reach(home, embassy, false)?;
    bed.heal_all()?;

    home.restart(Component::KubeApiserver)?;
    wait_for("the API server", Duration::from_secs(60), || {
        Ok(home.kubectl(&["get", "--raw", "/readyz"]).ok())
    })?;
    home.kill_site()?;
    let left = traces(number, home.dir())?.into_iter().filter(|trace| trace.starts_with("process"));
    ensure!(left.count() == 0, "a process survived the loss of power");
    home.start_site()?;
    wait_reach(home, embassy, true).context("after the reboot")?;

    bed.down()?;
    let left = traces(number, &dir)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}
