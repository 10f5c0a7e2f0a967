//! What only a human may do.

use crate::given::{self, SOON, number, text};
use anyhow::{Result, ensure};
use e2e::manifests::{self, Wanted};
use e2e::wait::until;
use e2e::{Names, Sites};
use serde_json::json;
use std::time::Duration;

/// Arbiter `Home`: a promotion is held until a human overrides; then home fences itself.
pub fn arbiter_home(sites: &Sites) -> Result<()> {
    let wanted = Wanted {
        arbiter: "Home",
        mode: "Automatic",
        // Port 1 never answers: home looks sick from the first look on, and is alive all the time.
        health: Some(format!("{}:1", sites.home()?.node_ip())),
        ..given::calm()
    };
    let names = given::proven_notes(sites, "human", &wanted)?;
    let mirror = || sites.at_embassy(&names);
    sites.condition(mirror, "PromotionAllowed", "False", "OverrideRequired", SOON)?;
    until("the promotion to be held", SOON, || {
        Ok((text(&mirror()?, "/status/phase") == "PromotionHeld").then_some(()))
    })?;
    ensure!(number(&mirror()?, "/status/epoch")? == 0, "the epoch moved without a human");

    let embassy = sites.embassy()?;
    let wrong = ["promote", &names.name, "-n", &names.embassy, "--override", "--confirm", "another-name"];
    ensure!(sites.plugin(embassy, &wrong).is_err(), "an override with a wrong name was taken");
    let right =
        ["promote", &names.name, "-n", &names.embassy, "--override", "--confirm", &names.name, "--wait"];
    sites.plugin(embassy, &right)?;
    let mirror = mirror()?;
    ensure!(number(&mirror, "/status/epoch")? == 1, "the override did not move the epoch to 1");
    ensure!(text(&mirror, "/status/lastPromotion/override") == "true", "the override is not on record");
    // Home sees the override and stops its writers.
    until("home to fence itself", SOON, || {
        let at_home = sites.at_home(&names)?;
        let pods =
            sites.home()?.kubectl(&["get", "pods", "-n", &names.home, "-l", "app=notes", "-o", "name"])?;
        ensure!(text(&at_home, "/status/phase") == "Fenced" && pods.trim().is_empty(), "home: {pods}");
        Ok(Some(()))
    })?;
    let line =
        embassy.kubectl(&["exec", "-n", &names.embassy, "notes-0", "--", "head", "-n1", "/data/notes"])?;
    ensure!(line.trim() == given::marker("human"), "the standby serves {line:?}");
    Ok(())
}

/// A claim in two DataEmbassies that may promote: the younger is refused, the older goes on.
pub fn overlap(sites: &Sites) -> Result<()> {
    let names = given::proven_notes(sites, "overlap", &given::calm())?;
    let second = Names { name: "second-register".to_owned(), ..names.clone() };
    sites.home()?.apply(&manifests::data_embassy(&second, &given::calm()))?;
    let said = sites.condition(|| sites.at_home(&second), "Stalled", "True", "Overlap", SOON)?;
    ensure!(text(&said, "/message").contains(&names.name), "it does not name the other: {said}");
    ensure!(sites.at_embassy(&second).is_err(), "the refused one was mirrored");
    let before = number(&sites.at_embassy(&names)?, "/status/lastDispatch/sequence")?;
    sites.proven(&names, before + 1, SOON)?;
    // Mended as the message says.
    let policy = json!({"spec": {"promotion": {"mode": "None"}}}).to_string();
    sites.home()?.kubectl(&[
        "patch",
        "rp",
        &second.name,
        "-n",
        &names.home,
        "--type=merge",
        "-p",
        &policy,
    ])?;
    sites.condition(|| sites.at_home(&second), "Stalled", "False", "AsExpected", SOON)?;
    e2e::wait::holds("the older one being fine", Duration::from_secs(3), || {
        Ok(text(&sites.at_home(&names)?, "/status/phase") != "Pending")
    })?;
    given::rest(sites, &names)?;
    given::rest(sites, &second)
}
