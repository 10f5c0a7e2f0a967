//! The two sites: clusters, operator from the chart, pairing.

use crate::binaries::{Binaries, IMAGE};
use crate::wait::until;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testbed::{Cluster, Spec, Testbed, image};

/// Namespace of the operator.
pub const SYSTEM: &str = "data-embassy-system";

/// Names of one pair with one DataEmbassy.
#[derive(Clone, Debug)]
pub struct Names {
    /// Namespace at home.
    pub home: String,
    /// Namespace at the embassy.
    pub embassy: String,
    /// Home's kubeconfig Secret.
    pub secret: String,
    /// The DataEmbassy.
    pub name: String,
}

impl Names {
    /// Names of their own for a test.
    #[must_use]
    pub fn of(test: &str) -> Self {
        Self {
            home: format!("{test}-registers"),
            embassy: format!("{test}-estonia"),
            secret: "luxembourg".to_owned(),
            name: "population-register".to_owned(),
        }
    }
}

/// Two running clusters with the operator.
pub struct Sites {
    /// The testbed.
    pub bed: Testbed,
    /// The programs.
    pub binaries: Binaries,
}

impl Sites {
    /// Starts both clusters, loads the images, installs the chart with the real helm.
    ///
    /// # Errors
    /// The first thing that does not come up.
    pub fn up(binaries: Binaries, detached: bool, say: &dyn Fn(&str)) -> Result<Self> {
        let bed = Testbed::up(&Spec { detached, ..Spec::two() })?;
        say("two Kubernetes clusters are ready: home and embassy");
        let postgres = image::postgres()?;
        for cluster in bed.clusters() {
            cluster.load_image(&binaries.image)?;
            cluster.load_image(&postgres)?;
        }
        let sites = Self { bed, binaries };
        for cluster in sites.bed.clusters() {
            sites.install(cluster)?;
        }
        say("the operator is installed at both by helm");
        Ok(sites)
    }

    /// Installs or upgrades the chart.
    ///
    /// # Errors
    /// What helm says.
    pub fn install(&self, cluster: &Cluster) -> Result<()> {
        let chart = self.binaries.root.join("charts/data-embassy-operator");
        let (repository, tag) = IMAGE.rsplit_once(':').context("the image has a tag")?;
        let mut helm = Command::new(&self.binaries.helm);
        helm.args(["upgrade", "--install", "data-embassy"]).arg(&chart);
        helm.args(["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "120s"]);
        helm.args([
            "--set",
            &format!("image.repository={repository},image.tag={tag},image.pullPolicy=Never"),
        ]);
        helm.arg("--kubeconfig").arg(cluster.kubeconfig());
        run(&mut helm).map(drop)
    }

    /// Removes the chart's release.
    ///
    /// # Errors
    /// What helm says.
    pub fn uninstall(&self, cluster: &Cluster) -> Result<()> {
        let mut helm = Command::new(&self.binaries.helm);
        helm.args(["uninstall", "data-embassy", "--namespace", SYSTEM, "--wait", "--timeout", "60s"]);
        helm.arg("--kubeconfig").arg(cluster.kubeconfig());
        run(&mut helm).map(drop)
    }

    /// The home cluster.
    ///
    /// # Errors
    /// Never, for a testbed of ours.
    pub fn home(&self) -> Result<&Cluster> {
        self.bed.cluster("home")
    }

    /// The embassy cluster.
    ///
    /// # Errors
    /// Never, for a testbed of ours.
    pub fn embassy(&self) -> Result<&Cluster> {
        self.bed.cluster("embassy")
    }

    /// `kubectl embassy pair`.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn pair(&self, names: &Names, more: &[&str]) -> Result<String> {
        let (home, embassy) = (self.home()?.kubeconfig(), self.embassy()?.kubeconfig());
        let mut pair = Command::new(&self.binaries.plugin);
        pair.arg("pair").arg("--home-kubeconfig").arg(home).arg("--embassy-kubeconfig").arg(embassy);
        pair.args(["--home-namespace", &names.home, "--embassy-namespace", &names.embassy]);
        pair.args(["--secret", &names.secret, "--vault-storage-class", "encrypted"]).args(more);
        run(&mut pair)
    }

    /// Any other verb of the plugin, at one site.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn plugin(&self, cluster: &Cluster, args: &[&str]) -> Result<String> {
        let mut plugin = Command::new(&self.binaries.plugin);
        plugin.args(args).env("KUBECONFIG", cluster.kubeconfig());
        run(&mut plugin)
    }

    /// One object as JSON.
    ///
    /// # Errors
    /// When it is not there or the API server does not answer.
    pub fn get(cluster: &Cluster, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        let text =
            cluster.kubectl(&["get", kind, name, "-n", namespace, "-o", "json", "--request-timeout=5s"])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The DataEmbassy as home shows it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn at_home(&self, names: &Names) -> Result<Value> {
        Self::get(self.home()?, "dataembassy", &names.home, &names.name)
    }

    /// The mirror as the embassy shows it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn at_embassy(&self, names: &Names) -> Result<Value> {
        Self::get(self.embassy()?, "dataembassy", &names.embassy, &names.name)
    }

    /// Waits until the embassy has proven a dispatch with at least this sequence; returns the mirror.
    ///
    /// # Errors
    /// When time is up, with the conditions that are not fine.
    pub fn proven(&self, names: &Names, sequence: i64, limit: Duration) -> Result<Value> {
        until(&format!("dispatch {sequence} to be proven"), limit, || {
            let mirror = self.at_embassy(names)?;
            let proven = mirror.pointer("/status/lastDispatch/sequence").and_then(Value::as_i64);
            if proven >= Some(sequence) {
                return Ok(Some(mirror));
            }
            let home = self.at_home(names)?;
            bail!("home: {}; embassy: {}", not_fine(&home), not_fine(&mirror))
        })
    }

    /// Waits until a condition has this status and reason at a site.
    ///
    /// # Errors
    /// When time is up, with what it was instead.
    pub fn condition(
        &self,
        get: impl Fn() -> Result<Value>,
        kind: &str,
        status: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<Value> {
        until(&format!("condition {kind}={status}/{reason}"), limit, || {
            let object = get()?;
            let found = condition(&object, kind).cloned().unwrap_or_default();
            let is = |key: &str, wanted: &str| found.get(key).and_then(Value::as_str) == Some(wanted);
            if is("status", status) && is("reason", reason) {
                return Ok(Some(found));
            }
            bail!("{}", not_fine(&object))
        })
    }
}

/// One condition of an object.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let list = object.pointer("/status/conditions")?.as_array()?;
    list.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
}

/// Phase and conditions that people would look at, in one line.
#[must_use]
pub fn not_fine(object: &Value) -> String {
    let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or("-").to_owned();
    let mut line = text(object.pointer("/status/phase"));
    let list = object.pointer("/status/conditions").and_then(Value::as_array);
    for c in list.into_iter().flatten().filter(|c| text(c.get("status")) != "True") {
        line.push_str(&format!(
            " {}={}/{} ({})",
            text(c.get("type")),
            text(c.get("status")),
            text(c.get("reason")),
            text(c.get("message"))
        ));
    }
    if let Some(message) = object.pointer("/status/run/message").and_then(Value::as_str) {
        line.push_str(&format!(" run: {message}"));
    }
    line
}

/// Runs a program and returns what it printed; its errors are in the error.
///
/// # Errors
/// When it does not start or ends with another code than 0.
pub fn run(command: &mut Command) -> Result<String> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{name} {:?} failed ({}): {out}{err}", command.get_args().collect::<Vec<_>>(), output.status);
    }
    Ok(out.into_owned())
}
