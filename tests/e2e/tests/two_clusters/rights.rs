//! What a thief of home's kubeconfig can do at the embassy: what design section 2 says, and no more.

use crate::given::{self, SOON, number};
use anyhow::{Context as _, Result, ensure};
use e2e::Sites;
use e2e::wait::until;
use serde_json::{Map, Value, json};
use std::process::Command;

/// Attempts with home's own identity against the real API server.
pub fn of_home(sites: &Sites) -> Result<()> {
    let names = given::proven_notes(sites, "rights", &given::calm())?;
    let secret = Sites::get(sites.home()?, "secret", &names.home, &names.secret)?;
    let kubeconfig = secret.pointer("/data/kubeconfig").and_then(Value::as_str).context("no kubeconfig")?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), e2e::base64_decode(kubeconfig)?)?;
    let thief = |args: &[&str]| -> Result<String> {
        let mut kubectl: Command = sites.embassy()?.kubectl_command()?;
        kubectl.env("KUBECONFIG", file.path()).args(args).args(["-n", &names.embassy]);
        e2e::sites::run(&mut kubectl)
    };
    let leases = sites.embassy()?.kubectl(&["get", "lease", "-n", &names.embassy, "-o", "name"])?;
    let ledger = leases.lines().find_map(|l| l.rsplit_once('/')).context("no ledger")?.1.to_owned();
    let mirror = names.name.as_str();
    // What the operator at home needs.
    for allowed in [vec!["get", "dataembassy", mirror], vec!["get", "lease", &ledger]] {
        thief(&allowed).with_context(|| format!("home may not {allowed:?}"))?;
    }
    let owner = r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"00000000-0000-0000-0000-000000000000"}]}}"#;
    let refused: Vec<Vec<&str>> = vec![
        vec!["delete", "dataembassy", mirror],
        vec!["delete", "lease", &ledger],
        vec!["patch", "lease", &ledger, "--type=merge", "-p", "{}"],
        vec!["create", "configmap", "x"],
        vec!["get", "secret", "embassy-keys"],
        vec!["get", "secret", "vault-ca"],
        vec!["get", "pods"],
        vec!["get", "dataembassies"],
        vec!["get", "secrets"],
        vec!["patch", "dataembassy", mirror, "--subresource=status", "--type=merge", "-p", "{}"],
        vec!["delete", "pvc", "data-notes-0"],
    ];
    for attempt in &refused {
        let answer = thief(attempt);
        let said = answer.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(said.contains("orbidden"), "home did {attempt:?}: {answer:?}");
    }
    let request = format!(
        "apiVersion: dataembassy.io/v1alpha1\nkind: EmbassyRequest\nmetadata: {{name: theft, namespace: {}}}\n\
         spec: {{verb: Override, target: {mirror}}}\n",
        names.embassy
    );
    let manifest = tempfile::NamedTempFile::new()?;
    std::fs::write(manifest.path(), request)?;
    let path = manifest.path().display().to_string();
    ensure!(thief(&["create", "-f", &path]).is_err(), "home could forge an override");
    // `update` it has; an owner that is not there would have the mirror collected as garbage.
    let patch: Value = serde_json::from_str(owner)?;
    let references = patch.pointer("/metadata/ownerReferences").cloned().unwrap_or_default();
    refused_change(&thief, &["dataembassy", mirror], "may not give a mirror an owner", |metadata| {
        metadata.insert("ownerReferences".to_owned(), references.clone());
    })?;
    // The ledger it may update, for its beat; a takeover is not home's to write, in whatever spelling.
    let odd = [
        format!(r#"{{"{mirror}":{{"epoch":1,"confirmed":true}}}}"#),
        format!(r#"{{"{mirror}":{{"epoch":0}},"{mirror}":{{"epoch":1,"confirmed":true}}}}"#),
    ];
    for writs in odd {
        refused_change(&thief, &["lease", &ledger], "a writ that names the embassy", |metadata| {
            metadata.insert("annotations".to_owned(), json!({"dataembassy.io/writs": writs}));
        })?;
    }
    let hidden = format!(r#"{{"{mirror}": {{"\u0065poch":1,"confirmed":true}}}}"#);
    refused_change(&thief, &["lease", &ledger], "not written as the operator writes them", |metadata| {
        metadata.insert("annotations".to_owned(), json!({"dataembassy.io/writs": hidden}));
    })?;
    ensure!(number(&sites.at_embassy(&names)?, "/status/epoch")? == 0, "the epoch moved");
    println!("      rights: {} attempts of home's identity were refused", refused.len() + 5);
    given::rest(sites, &names)
}

/// Tries to replace an object with a change of its metadata, until the API server says why not.
fn refused_change(
    thief: &dyn Fn(&[&str]) -> Result<String>,
    object: &[&str],
    words: &str,
    change: impl Fn(&mut Map<String, Value>),
) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().display().to_string();
    until(&format!("the API server to say `{words}`"), SOON, || {
        let read = thief(&[&["get"], object, &["-o", "json"]].concat())?;
        let mut stolen: Value = serde_json::from_str(&read)?;
        let metadata = stolen.pointer_mut("/metadata").and_then(Value::as_object_mut);
        change(metadata.context("no metadata")?);
        std::fs::write(file.path(), stolen.to_string())?;
        match thief(&["replace", "-f", &path]).err().map(|error| format!("{error:#}")) {
            None => Ok(Some(Err(anyhow::anyhow!("home changed {object:?}: {words}")))),
            Some(said) if said.contains(words) => Ok(Some(Ok(()))),
            // Home's operator wrote meanwhile.
            Some(said) => anyhow::bail!("{said}"),
        }
    })?
}
