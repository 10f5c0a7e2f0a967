//! The storage provisioner in a real cluster: claims, snapshots, clones, power cuts.
//! Needs root, like every test with a cluster.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use testbed::{Cluster, Component, Spec, Testbed, storage, wait_for};

const LIMIT: Duration = Duration::from_secs(90);
const MARKER: &str = "MARKER-written-at-home-0815";

fn get(cluster: &Cluster, what: &[&str]) -> Option<Value> {
    let arguments = [&["get", "-o", "json"], what].concat();
    serde_json::from_str(&cluster.kubectl(&arguments).ok()?).ok()
}

/// Waits until an object has this value at this place.
fn wait_value(cluster: &Cluster, what: &[&str], pointer: &str, value: Value) {
    let mut last = None;
    let found = wait_for(&format!("{value} at {pointer} of {what:?}"), LIMIT, || {
        last = get(cluster, what).and_then(|object| object.pointer(pointer).cloned());
        Ok((last.as_ref() == Some(&value)).then_some(()))
    });
    let events = || cluster.kubectl(&["get", "events", "-A"]).unwrap_or_default();
    assert!(found.is_ok(), "{found:?}, last {last:?}\n{}", events());
}

fn wait_gone(cluster: &Cluster, what: &[&str]) {
    let arguments = [&["get", "--ignore-not-found", "-o", "name"], what].concat();
    wait_for(&format!("the end of {what:?}"), LIMIT, || {
        Ok(cluster.kubectl(&arguments).is_ok_and(|said| said.trim().is_empty()).then_some(()))
    })
    .unwrap();
}

/// Waits for an event of this reason about this object whose note contains `text`.
fn wait_event(cluster: &Cluster, reason: &str, name: &str, text: &str) {
    wait_for(&format!("event {reason} about {name}"), LIMIT, || {
        let events = get(cluster, &["events"]).unwrap_or_default();
        let all = events.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
        let fits = |event: &Value| {
            let at = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            at("/reason") == reason && at("/involvedObject/name") == name && at("/message").contains(text)
        };
        Ok(all.iter().any(fits).then_some(()))
    })
    .unwrap();
}

fn claim(cluster: &Cluster, name: &str, class: &str, size: &str, source: Value) {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "dataSource": source,
            "resources": {"requests": {"storage": size}}},
    });
    cluster.apply(&claim.to_string()).unwrap();
}

/// A pod on a claim that runs a script and then stays.
fn pod(cluster: &Cluster, claim: &str, script: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": claim},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000},
            "containers": [{
                "name": "app", "image": testbed::image::BUSYBOX, "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", format!("{script}; touch /data/.done; while :; do sleep 1; done")],
                "readinessProbe": {"exec": {"command": ["test", "-e", "/data/.done"]}, "periodSeconds": 1},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    });
    cluster.apply(&pod.to_string()).unwrap();
    let ready = format!("--timeout={}s", LIMIT.as_secs());
    let said = cluster.kubectl(&["wait", "--for=condition=Ready", &ready, &format!("pod/{claim}")]);
    let events = || cluster.kubectl(&["get", "events", "-A"]).unwrap_or_default();
    assert!(said.is_ok(), "{said:?}\n{}", events());
}

fn read(cluster: &Cluster, pod: &str, script: &str) -> String {
    cluster.kubectl(&["exec", pod, "--", "sh", "-c", script]).unwrap().trim().to_owned()
}

fn take_snapshot(cluster: &Cluster, name: &str, claim: &str) {
    let snapshot = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": name},
        "spec": {"source": {"persistentVolumeClaimName": claim}},
    });
    cluster.apply(&snapshot.to_string()).unwrap();
    wait_value(cluster, &["volumesnapshot", name], "/status/readyToUse", json!(true));
}

fn images(cluster: &Cluster) -> Vec<PathBuf> {
    storage::raw_images(&storage_dir(cluster)).unwrap()
}

fn storage_dir(cluster: &Cluster) -> PathBuf {
    cluster.storage_dir()
}

fn marker_on_disk(cluster: &Cluster) -> bool {
    images(cluster).iter().any(|image| storage::contains(image, MARKER.as_bytes()).unwrap())
}

fn from_snapshot(name: &str) -> Value {
    json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name})
}

/// A claim waits for its pod, which gets its group and can write; then a snapshot and a clone.
fn provision_and_copy(home: &Cluster) {
    claim(home, "data", "encrypted", "32Mi", Value::Null);
    wait_event(home, "WaitForFirstConsumer", "data", "");
    assert!(images(home).is_empty());
    let start = Instant::now();
    pod(home, "data", &format!("echo {MARKER} > /data/citizens; sync"));
    println!("claim to ready pod: {:?}", start.elapsed());
    assert_eq!(read(home, "data", "stat -c %g /data/citizens"), "2000");

    let start = Instant::now();
    take_snapshot(home, "cut", "data");
    println!("snapshot: {:?}", start.elapsed());
    read(home, "data", "echo later > /data/citizens; sync");
    claim(home, "restored", "encrypted", "64Mi", from_snapshot("cut"));
    pod(home, "restored", "true");
    assert_eq!(read(home, "restored", "cat /data/citizens"), MARKER);
    let kind = json!({"kind": "PersistentVolumeClaim", "name": "data"});
    claim(home, "cloned", "encrypted", "32Mi", kind);
    pod(home, "cloned", "true");
    assert_eq!(read(home, "cloned", "cat /data/citizens"), "later");
    assert_eq!(images(home).len(), 4);
}

fn refusals(home: &Cluster) {
    claim(home, "small", "encrypted", "16Mi", from_snapshot("cut"));
    home.kubectl(&["annotate", "pvc", "small", "volume.kubernetes.io/selected-node=home"]).unwrap();
    wait_event(home, "ProvisioningFailed", "small", "are asked for");
    claim(home, "bare", "plain", "32Mi", from_snapshot("cut"));
    home.kubectl(&["annotate", "pvc", "bare", "volume.kubernetes.io/selected-node=home"]).unwrap();
    wait_event(home, "ProvisioningFailed", "bare", "encrypted");
    let lost = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "lost"},
        "spec": {"source": {"persistentVolumeClaimName": "nowhere"}},
    });
    home.apply(&lost.to_string()).unwrap();
    wait_event(home, "SnapshotCreationFailed", "lost", "nowhere");
    wait_value(home, &["volumesnapshot", "lost"], "/status/readyToUse", json!(false));
    home.kubectl(&["delete", "pvc", "small", "bare"]).unwrap();
    home.kubectl(&["delete", "volumesnapshot", "lost"]).unwrap();
}

/// Work that comes while the provisioner is dead is done when it is back; pods notice nothing.
fn provisioner_killed(home: &Cluster) -> Result<()> {
    home.kill(Component::Provisioner)?;
    let snapshot = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "while-dead"},
        "spec": {"source": {"persistentVolumeClaimName": "data"}},
    });
    home.apply(&snapshot.to_string())?;
    assert_eq!(read(home, "data", "cat /data/citizens"), "later");
    home.start(Component::Provisioner)?;
    wait_value(home, &["volumesnapshot", "while-dead"], "/status/readyToUse", json!(true));
    home.kubectl(&["delete", "volumesnapshot", "while-dead"])?;
    Ok(())
}

fn full_volume(home: &Cluster) {
    let said = read(home, "cloned", "dd if=/dev/zero of=/data/big bs=1M 2>&1; rm /data/big");
    assert!(said.contains("No space left"), "{said}");
}

/// Loses power while pods run: they come back with what they had.
fn power_cut(home: &Cluster) -> Result<()> {
    home.kill_site()?;
    assert_eq!(storage::leftovers(&storage_dir(home))?, Vec::<PathBuf>::new());
    assert!(!marker_on_disk(home), "the disks of a dark site show the marker");
    let start = Instant::now();
    home.start_site()?;
    for name in ["data", "restored", "cloned"] {
        wait_for("a pod after the power cut", LIMIT, || {
            let asked = home.kubectl(&["exec", name, "--", "cat", "/data/citizens"]);
            Ok(asked.ok().filter(|said| !said.is_empty()))
        })?;
    }
    println!("power back to all data served: {:?}", start.elapsed());
    assert_eq!(read(home, "restored", "cat /data/citizens"), MARKER);
    take_snapshot(home, "after", "data");
    Ok(())
}

/// The same marker in a plain volume is on the raw disk: the check above can fail.
fn plain_shows(home: &Cluster) {
    claim(home, "open", "plain", "32Mi", Value::Null);
    pod(home, "open", &format!("echo {MARKER} > /data/citizens; sync"));
    assert!(marker_on_disk(home));
}

fn delete_all(home: &Cluster) {
    for name in ["cut", "after"] {
        home.kubectl(&["delete", "volumesnapshot", name]).unwrap();
    }
    home.kubectl(&["delete", "pod,pvc", "--all", "--wait=false"]).unwrap();
    for kind in ["volumesnapshotcontent", "pvc", "pv"] {
        wait_gone(home, &[kind]);
    }
    assert_eq!(images(home), Vec::<PathBuf>::new());
    assert_eq!(storage::leftovers(&storage_dir(home)).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn volumes_live_are_copied_survive_a_power_cut_and_go() -> Result<()> {
    let bed = Testbed::up(&Spec::full(&["home"]))?;
    let home = bed.cluster("home")?;
    provision_and_copy(home);
    refusals(home);
    full_volume(home);
    provisioner_killed(home)?;
    power_cut(home)?;
    plain_shows(home);
    delete_all(home);
    bed.down()
}
