//! Wrong input and broken parts: a condition that says it, an Event, and recovery once it is mended.

use crate::given::{self, SOON, number, text};
use anyhow::{Result, ensure};
use e2e::manifests::{self, Wanted};
use e2e::wait::until;
use e2e::{Names, Sites};
use serde_json::{Value, json};
use std::time::Duration;
use testbed::Cluster;

/// An Event with this reason about the DataEmbassy.
fn event(cluster: &Cluster, namespace: &str, name: &str, reason: &str) -> Result<()> {
    until(&format!("an Event {reason} about {name}"), SOON, || {
        let list = cluster.kubectl(&["get", "events.events.k8s.io", "-n", namespace, "-o", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let events = list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
        let about = events.iter().filter(|e| text(e, "/regarding/name") == name);
        let reasons: Vec<String> = about.map(|e| text(e, "/reason")).collect();
        ensure!(reasons.iter().any(|r| r == reason), "only {reasons:?}");
        Ok(Some(()))
    })
}

/// Waits for the complaint at home, its Event, and that its message says how to mend it.
fn complains(sites: &Sites, names: &Names, reason: &str, mend: &str) -> Result<()> {
    let said = sites.condition(|| sites.at_home(names), "Stalled", "True", reason, SOON)?;
    ensure!(text(&said, "/message").contains(mend), "{reason} does not say `{mend}`: {said}");
    sites.condition(|| sites.at_home(names), "Ready", "False", reason, SOON)?;
    event(sites.home()?, &names.home, &names.name, reason)
}

fn patch(sites: &Sites, names: &Names, kind: &str, patch: &Value) -> Result<()> {
    let patch = patch.to_string();
    let args = ["patch", kind, &names.name, "-n", &names.home, "--type=merge", "-p", &patch];
    sites.home()?.kubectl(&args).map(drop)
}

/// One mistake after the other in one DataEmbassy; each is said, and mending it is enough.
pub fn wrong_input(sites: &Sites) -> Result<()> {
    let wanted = Wanted {
        storage_class: "no-such-class".to_owned(),
        volumes: Some(vec!["data-notes-0".to_owned(), "missing-claim".to_owned()]),
        when: "schedule: {cron: \"61 * * * *\"}".to_owned(),
        ..given::calm()
    };
    let names = Names::of("wrong");
    let home = sites.home()?;
    home.apply(&manifests::notes(&names, &given::marker("wrong"), "encrypted"))?;
    home.apply(&manifests::data_embassy(&names, &wanted))?;
    // Nobody has paired this namespace: the operator may not even look.
    complains(sites, &names, "Forbidden", "kubectl embassy pair")?;
    sites.pair(&names, &["--vault-size", "256Mi"])?;

    // Home's kubeconfig is gone, then it is none, then it is as it was.
    let mut secret = Sites::get(home, "secret", &names.home, &names.secret)?;
    if let Some(metadata) = secret.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| ["name", "namespace", "labels", "annotations"].contains(&key.as_str()));
    }
    home.kubectl(&["delete", "secret", &names.secret, "-n", &names.home])?;
    complains(sites, &names, "KubeconfigMissing", &names.secret)?;
    let mut garbage = secret.clone();
    if let Some(data) = garbage.pointer_mut("/data").and_then(Value::as_object_mut) {
        data.insert("pair.json".to_owned(), json!(e2e::base64_encode(b"{")));
    }
    home.apply(&garbage.to_string())?;
    complains(sites, &names, "PairRecordInvalid", &names.secret)?;
    home.apply(&secret.to_string())?;

    complains(sites, &names, "BadSchedule", "61")?;
    patch(sites, &names, "rp", &json!({"spec": {"sync": {"schedule": null, "interval": "5s"}}}))?;
    complains(sites, &names, "VolumeNotFound", "missing-claim")?;
    patch(sites, &names, "de", &json!({"spec": {"volumes": {"names": ["data-notes-0"]}}}))?;

    // The embassy refuses storage that is not there, or not known to encrypt; home shows it too.
    for class in ["no-such-class", "plain"] {
        let reason = if class == "plain" { "StorageClassNotEncrypting" } else { "StorageClassNotFound" };
        patch(sites, &names, "de", &json!({"spec": {"embassy": {"storageClassName": class}}}))?;
        let mirror = || sites.at_embassy(&names);
        sites.condition(mirror, "EncryptionVerified", "False", reason, SOON)?;
        sites.condition(mirror, "Stalled", "True", reason, SOON)?;
        event(sites.embassy()?, &names.embassy, &names.name, reason)?;
        let claims = sites.embassy()?.kubectl(&["get", "pvc", "-n", &names.embassy, "-o", "name"])?;
        ensure!(!claims.contains("data-notes-0"), "a volume was made on {class}: {claims}");
        sites.condition(|| sites.at_home(&names), "Ready", "False", reason, SOON)?;
    }
    patch(sites, &names, "de", &json!({"spec": {"embassy": {"storageClassName": "encrypted"}}}))?;
    sites.proven(&names, 1, given::FIRST_COPY)?;
    sites.condition(|| sites.at_home(&names), "Ready", "True", "Protected", SOON)?;
    wrong_server(sites, &names)
}

/// The kubeconfig points at nobody: said, tried again, and fine once it is right again.
fn wrong_server(sites: &Sites, names: &Names) -> Result<()> {
    let home = sites.home()?;
    let get = ["get", "secret", &names.secret, "-n", &names.home, "-o", "jsonpath={.data.kubeconfig}"];
    let good = home.kubectl(&get)?;
    let set = |data: &str| {
        let patch = json!({"data": {"kubeconfig": data}}).to_string();
        home.kubectl(&["patch", "secret", &names.secret, "-n", &names.home, "--type=merge", "-p", &patch])
    };
    // The embassy's node with a port where nobody listens.
    let text = String::from_utf8(e2e::base64_decode(&good)?)?;
    set(&e2e::base64_encode(text.replace(":6443", ":1").as_bytes()))?;
    sites.condition(|| sites.at_home(names), "EmbassyReachable", "False", "EmbassyUnreachable", SOON)?;
    event(home, &names.home, &names.name, "EmbassyUnreachable")?;
    set(&good)?;
    sites.condition(|| sites.at_home(names), "EmbassyReachable", "True", "Answered", SOON)?;
    sites.condition(|| sites.at_home(names), "Ready", "True", "Protected", SOON)?;
    given::rest(sites, names)
}

/// A quota that is too small: the dispatch fails with a reason, and comes through once it is raised.
pub fn vault_full(sites: &Sites) -> Result<()> {
    let wanted = Wanted { quota: Some("4Ki".to_owned()), ..given::calm() };
    let names = given::notes(sites, "full", &wanted)?;
    let failed = |field: &str| text(&sites.at_home(&names).unwrap_or_default(), field);
    until("the run to fail", given::FIRST_COPY, || {
        ensure!(failed("/status/run/reason") == "VaultFull", "run: {}", failed("/status/run"));
        Ok(Some(()))
    })?;
    ensure!(failed("/status/run/message").contains("quota"), "{}", failed("/status/run/message"));
    event(sites.home()?, &names.home, &names.name, "DispatchFailed")?;
    sites.condition(|| sites.at_home(&names), "Ready", "False", "VaultFull", SOON)?;
    // It is tried again, later each time.
    until("a second try", SOON, || {
        Ok((number(&sites.at_home(&names)?, "/status/run/attempt")? >= 2).then_some(()))
    })?;
    patch(sites, &names, "de", &json!({"spec": {"vault": {"quota": "100Mi"}}}))?;
    sites.proven(&names, 1, given::FIRST_COPY)?;
    sites.condition(|| sites.at_home(&names), "Ready", "True", "Protected", SOON)?;
    given::rest(sites, &names)
}

/// No vault for a while: said at both sites, nothing of what it held is lost.
pub fn vault_down(sites: &Sites) -> Result<()> {
    let names = given::proven_notes(sites, "down", &given::calm())?;
    let embassy = sites.embassy()?;
    let before = number(&sites.at_embassy(&names)?, "/status/lastDispatch/sequence")?;
    // No pod may start, so the vault cannot come back.
    embassy.kubectl(&["create", "quota", "none", "--hard=pods=0", "-n", &names.embassy])?;
    embassy.kubectl(&[
        "delete",
        "pod",
        "-n",
        &names.embassy,
        "-l",
        "app.kubernetes.io/component=vault",
        "--grace-period=1",
    ])?;
    let mirror = || sites.at_embassy(&names);
    until("VaultReady=False at the embassy", SOON, || {
        let object = mirror()?;
        let found = e2e::sites::condition(&object, "VaultReady").cloned().unwrap_or_default();
        ensure!(text(&found, "/status") != "True", "{found}");
        Ok(Some(()))
    })?;
    until("a failed or held dispatch at home", Duration::from_secs(150), || {
        let object = sites.at_home(&names)?;
        let ready = e2e::sites::condition(&object, "Ready").cloned().unwrap_or_default();
        ensure!(text(&ready, "/status") == "False", "{ready} run {:?}", object.pointer("/status/run"));
        println!("      vault down: home says {}: {}", text(&ready, "/reason"), text(&ready, "/message"));
        Ok(Some(()))
    })?;
    embassy.kubectl(&["delete", "quota", "none", "-n", &names.embassy])?;
    sites.proven(&names, before + 2, given::FIRST_COPY)?;
    sites.condition(|| sites.at_home(&names), "Ready", "True", "Protected", SOON)?;
    given::rest(sites, &names)
}
