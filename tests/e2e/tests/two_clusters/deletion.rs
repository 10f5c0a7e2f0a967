//! Deleting at home never deletes the copy abroad.

use crate::given::{self, SOON, number, text};
use anyhow::{Result, ensure};
use e2e::wait::until;
use e2e::{Names, Sites};

/// `kubectl delete dataembassy` at home: the standby stops, vault and copy stay until `retire`.
pub fn of_the_object(sites: &Sites) -> Result<()> {
    let names = given::proven_notes(sites, "deleted", &given::calm())?;
    sites.home()?.kubectl(&["delete", "dataembassy", &names.name, "-n", &names.home, "--timeout=60s"])?;
    ensure!(
        sites.home()?.kubectl(&["get", "pod", "notes-0", "-n", &names.home]).is_ok(),
        "home's pod went too"
    );
    stays_until_retired(sites, &names)
}

/// The namespace goes at home: the same.
pub fn of_the_namespace(sites: &Sites) -> Result<()> {
    let names = given::proven_notes(sites, "gone", &given::calm())?;
    sites.home()?.kubectl(&["delete", "namespace", &names.home, "--timeout=120s"])?;
    stays_until_retired(sites, &names)
}

fn stays_until_retired(sites: &Sites, names: &Names) -> Result<()> {
    let embassy = sites.embassy()?;
    let list = |kinds: &str| embassy.kubectl(&["get", kinds, "-n", &names.embassy, "-o", "name"]);
    until("the standby to stop", SOON, || {
        ensure!(text(&sites.at_embassy(names)?, "/spec/retired") == "true", "the mirror is not retired");
        let (workloads, movers) = (list("statefulsets")?, list("jobs")?);
        ensure!(workloads.trim().is_empty() && movers.trim().is_empty(), "still there: {workloads}{movers}");
        Ok(Some(()))
    })?;
    let mirror = sites.at_embassy(names)?;
    ensure!(text(&mirror, "/status/phase") == "Retired", "phase {}", text(&mirror, "/status/phase"));
    ensure!(number(&mirror, "/status/lastDispatch/sequence")? >= 1, "the last dispatch is forgotten");
    let claims = list("pvc")?;
    for claim in ["embassy-vault", "data-notes-0"] {
        ensure!(claims.contains(claim), "claim {claim} is gone: {claims}");
    }
    // The vault still serves what it holds.
    until("the vault to run", SOON, || {
        let ready = [
            "get",
            "deploy",
            "embassy-vault",
            "-n",
            &names.embassy,
            "-o",
            "jsonpath={.status.readyReplicas}",
        ];
        ensure!(embassy.kubectl(&ready)? == "1", "the vault is not ready");
        Ok(Some(()))
    })?;
    let retire =
        ["retire", &names.name, "-n", &names.embassy, "--confirm", &names.name, "--wait", "--timeout", "2m"];
    sites.plugin(embassy, &retire)?;
    until("all of it to go", SOON, || {
        let left = list("de,pvc,deploy,statefulsets,jobs")?;
        ensure!(left.trim().is_empty(), "left after retire: {left}");
        Ok(Some(()))
    })
}

/// `helm uninstall` at both, in any state, and then the user deletes what is left: nothing hangs.
pub fn uninstall(sites: &Sites) -> Result<()> {
    let (home, embassy) = (sites.home()?, sites.embassy()?);
    let all = |cluster: &testbed::Cluster| cluster.kubectl(&["get", "de", "-A", "-o", "name"]);
    ensure!(!all(home)?.trim().is_empty(), "no DataEmbassy is left to uninstall with");
    for cluster in [home, embassy] {
        sites.uninstall(cluster)?;
        let crds = cluster.kubectl(&["get", "crd", "-o", "name"])?;
        ensure!(crds.contains("dataembassies.dataembassy.io"), "{}: the definitions went", cluster.name());
        ensure!(
            !all(cluster)?.trim().is_empty(),
            "{}: the DataEmbassies went with the chart",
            cluster.name()
        );
        let left = ["get", "all,sa,clusterrole,clusterrolebinding", "-n", e2e::sites::SYSTEM, "-o", "name"];
        let left = cluster
            .kubectl(&[left.as_slice(), &["-l", "app.kubernetes.io/instance=data-embassy"]].concat())?;
        ensure!(left.trim().is_empty(), "{}: left behind: {left}", cluster.name());
        cluster.kubectl(&["delete", "de", "-A", "--all", "--timeout=60s"])?;
        let definitions =
            ["dataembassies", "replicapolicies", "embassyrequests"].map(|n| format!("{n}.dataembassy.io"));
        let mut args = vec!["delete", "crd", "--timeout=60s"];
        args.extend(definitions.iter().map(String::as_str));
        cluster.kubectl(&args)?;
    }
    Ok(())
}
