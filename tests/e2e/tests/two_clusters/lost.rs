//! Home loses its power, and comes back.

use crate::fence;
use crate::given::{SOON, number, text};
use anyhow::{Context as _, Result, ensure};
use e2e::wait::{holds, until};
use e2e::{Acked, Register, Sites};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// NodePort of the register at home.
const PORT: u16 = 30503;

/// Killed: promoted, with nothing lost that was acknowledged before the cut. Rebooted: the node
/// starts its pods before any operator runs, so fence `Scale` cannot exclude an overlap; it is
/// measured, reported, and ended.
pub fn killed_and_rebooted(sites: &Sites) -> Result<()> {
    let (names, register) = fence::register(sites, "lost", PORT)?;
    let (home, embassy) = (sites.home()?, sites.embassy()?);
    let writer = register.writer(home, 1)?;
    sites.proven(&names, number(&sites.at_embassy(&names)?, "/status/lastDispatch/sequence")? + 2, SOON)?;
    home.kill_site()?;
    let acked = writer.acked();
    drop(writer);
    let standby = Register::new(&names.embassy);
    standby.wait_ready(embassy, Duration::from_secs(150))?;
    let mirror = until("the end of the promotion", SOON, || {
        let mirror = sites.at_embassy(&names)?;
        Ok((text(&mirror, "/status/phase") == "Promoted").then_some(mirror))
    })?;
    nothing_lost(&standby, embassy, &mirror, &acked)?;
    let loss = mirror.pointer("/status/lastPromotion/dataLossSeconds").and_then(Value::as_f64);
    ensure!(loss.is_some_and(|loss| loss > 0.0 && loss < 120.0), "reported loss {loss:?}");

    let second = standby.writer(embassy, 1_000_000_000)?;
    home.start_site()?;
    let overlap = watch_the_reboot(sites, &names, &register, &second)?;
    let object = until("home to report itself fenced", SOON, || {
        let object = sites.at_home(&names)?;
        ensure!(text(&object, "/status/phase") == "Fenced", "{}", e2e::sites::not_fine(&object));
        Ok(object.pointer("/status/lastFence/completedAt").is_some().then_some(object))
    })?;
    let fence = e2e::sites::condition(&object, "FenceReady").context("home has no FenceReady")?;
    ensure!(text(fence, "/status") == "False", "FenceReady: {fence}");
    let found = number(&object, "/status/lastFence/foundRunning")?;
    // The other way round is fine: a pod may be found and stopped before its database answers.
    ensure!(overlap.is_none() || found > 0, "applications saw {overlap:?}, the operator reports no pod");
    ensure!(found > 0 && text(fence, "/reason") == "FoundRunning", "a pod was there at the boot: {fence}");
    println!(
        "      reboot: the operator found {found} pods; home accepted connections for {:.1} s beside the embassy; \
         FenceReady={}/{}: {}",
        overlap.unwrap_or_default().as_secs_f64(),
        text(fence, "/status"),
        text(fence, "/reason"),
        text(fence, "/message")
    );
    ensure!(fence::fresh(&second.last())?, "the embassy stopped serving");
    Ok(())
}

fn nothing_lost(
    standby: &Register,
    embassy: &testbed::Cluster,
    mirror: &Value,
    acked: &[Acked],
) -> Result<()> {
    standby.check_invariant(embassy)?;
    let cut: jiff::Timestamp = text(mirror, "/status/lastDispatch/cutTime").parse()?;
    let rows = standby.rows(embassy)?;
    let due: BTreeSet<u64> = acked.iter().filter(|a| a.at < cut).map(|a| a.id).collect();
    ensure!(!due.is_empty(), "no row was acknowledged before the cut: nothing was checked");
    let missing = due.difference(&rows).count();
    ensure!(missing == 0, "{missing} of {} rows acknowledged before the cut are missing", due.len());
    Ok(())
}

/// For how long home's database answered although the embassy serves; `None` if it never did.
fn watch_the_reboot(
    sites: &Sites,
    names: &e2e::Names,
    register: &Register,
    second: &e2e::register::Writer,
) -> Result<Option<Duration>> {
    let home = sites.home()?;
    let (mut first, mut last) = (None, None);
    let start = std::time::Instant::now();
    let mut fenced_since = None;
    until("home to be fenced after its boot", SOON, || {
        if register.sql(home, "postgres", "select 1").is_ok() {
            first.get_or_insert(start.elapsed());
            last = Some(start.elapsed());
            fenced_since = None;
        }
        ensure!(fence::fresh(&second.last())?, "the embassy stopped serving");
        let pods = home.kubectl(&["get", "pods", "-n", &names.home, "-l", "app=postgres", "-o", "name"])?;
        let scale =
            home.kubectl(&["get", "sts", "postgres", "-n", &names.home, "-o", "jsonpath={.spec.replicas}"])?;
        ensure!(pods.trim().is_empty() && scale == "0", "home's pods: {pods} replicas: {scale}");
        Ok(fenced_since.replace(()).is_some().then_some(()))
    })?;
    holds("home staying fenced", Duration::from_secs(10), || {
        Ok(register.sql(home, "postgres", "select 1").is_err())
    })?;
    Ok(first.zip(last).map(|(first, last): (Duration, Duration)| last - first))
}
