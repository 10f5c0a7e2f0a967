//! Links that are cut for a moment and for long, with everything alive at both ends.

use crate::given::{self, SOON, number, text};
use anyhow::{Context as _, Result, bail, ensure};
use e2e::manifests::{self, Wanted};
use e2e::wait::{holds, until};
use e2e::{Acked, Names, Register, Sites};
use jiff::Timestamp;
use std::time::Duration;

/// NodePorts of the registers at home.
const SHORT_PORT: u16 = 30501;
const LONG_PORT: u16 = 30502;

/// A register under automatic promotion, its first dispatch proven.
pub fn register(sites: &Sites, test: &str, port: u16) -> Result<(Names, Register)> {
    let names = Names::of(test);
    let home = sites.home()?;
    let register = Register::create(home, &names, port)?;
    sites.pair(&names, &["--vault-size", "1Gi"])?;
    let health = Some(format!("{}:{port}", home.node_ip()));
    home.apply(&manifests::data_embassy(&names, &Wanted { health, ..Wanted::default() }))?;
    sites.proven(&names, 1, given::FIRST_COPY)?;
    Ok((names, register))
}

/// The link is gone for less than R: nobody stops, nothing moves.
pub fn short_cut(sites: &Sites) -> Result<()> {
    let (names, register) = register(sites, "short", SHORT_PORT)?;
    let writer = register.writer(sites.home()?, 1)?;
    until("some writes", SOON, || Ok((writer.acked().len() > 50).then_some(())))?;
    sites.bed.cut("home", "embassy")?;
    let result = holds("home writing", Duration::from_secs(8), || fresh(&writer.last()));
    sites.bed.heal("home", "embassy")?;
    result?;
    holds("home writing after the cut", Duration::from_secs(40), || {
        let mirror = sites.at_embassy(&names)?;
        Ok(fresh(&writer.last())? && number(&mirror, "/status/epoch")? == 0)
    })?;
    let acked = writer.acked();
    let gap = longest_gap(&acked);
    ensure!(gap < Duration::from_secs(3), "applications waited {gap:?} for a write");
    drop(writer);
    let mirror = sites.at_embassy(&names)?;
    ensure!(mirror.pointer("/status/lastPromotion").is_none(), "it was promoted");
    println!("      short cut: 8 s, {} writes, longest wait {:.2} s", acked.len(), gap.as_secs_f64());
    sites.home()?.kubectl(&["delete", "de", &names.name, "-n", &names.home, "--timeout=60s"]).map(drop)
}

/// The link is gone for longer than L under arbiter `Embassy`: home stops itself first, then the
/// embassy serves; when the link is back home stays fenced. All of it as applications saw it.
pub fn long_cut(sites: &Sites) -> Result<()> {
    let (names, register) = register(sites, "long", LONG_PORT)?;
    let (home, embassy) = (sites.home()?, sites.embassy()?);
    let writer = register.writer(home, 1)?;
    until("some writes", SOON, || Ok((writer.acked().len() > 50).then_some(())))?;
    sites.bed.cut("home", "embassy")?;
    let cut = Timestamp::now();
    let standby = Register::new(&names.embassy);
    standby.wait_ready(embassy, Duration::from_secs(150))?;
    let second = standby.writer(embassy, 1_000_000_000)?;
    until("the embassy's first write", SOON, || Ok(second.last().map(drop)))?;
    let acked = writer.acked();
    let last = acked.last().context("home acknowledged nothing")?;
    let first = second.acked().first().copied().context("the embassy acknowledged nothing")?;
    let (stopped, served) = (seconds(cut, last.at), seconds(cut, first.at));
    ensure!(last.at < first.at, "two writers: home at {stopped:.2} s, the embassy from {served:.2} s on");
    until("the end of the promotion", SOON, || {
        Ok((text(&sites.at_embassy(&names)?, "/status/phase") == "Promoted").then_some(()))
    })?;

    // Home is alive, comes back, and must not write while the embassy does.
    sites.bed.heal("home", "embassy")?;
    until("home to know that it is fenced", SOON, || {
        let object = sites.at_home(&names)?;
        ensure!(text(&object, "/status/phase") == "Fenced", "{}", e2e::sites::not_fine(&object));
        Ok((number(&object, "/status/epoch")? == 1).then_some(()))
    })?;
    holds("home staying fenced", Duration::from_secs(20), || {
        let scale =
            home.kubectl(&["get", "sts", "postgres", "-n", &names.home, "-o", "jsonpath={.spec.replicas}"])?;
        Ok(scale == "0" && register.sql(home, "postgres", "select 1").is_err() && fresh(&second.last())?)
    })?;
    ensure!(writer.acked().len() == acked.len(), "home acknowledged a write after the embassy served");
    fenced_in_time(sites, &names, stopped)?;
    ledger_is_closed(sites, &names)?;
    println!("      long cut: home's last write at {stopped:.1} s, the embassy's first at {served:.1} s");
    Ok(())
}

/// R, plus the time that the fence took: measured by the operator and seen by the application.
fn fenced_in_time(sites: &Sites, names: &Names, stopped: f64) -> Result<()> {
    let object = sites.at_home(names)?;
    let took = object.pointer("/status/lastFence/seconds").and_then(serde_json::Value::as_f64);
    let took = took.context("the fence is not measured")?;
    // A machine that is too slow for the settings must say so; the rule itself is checked above.
    let fence = e2e::sites::condition(&object, "FenceReady").context("home has no FenceReady")?;
    let slow = text(fence, "/reason") == "FenceSlow";
    ensure!(slow == (took > 5.0), "fencing took {took} s, maxFenceTime is 5 s, home says {fence}");
    // R = 15 s, and half a second until the fence looks.
    let limit = 15.5 + took;
    ensure!(
        stopped <= limit,
        "home wrote until {stopped:.1} s after the cut, R + F as measured is {limit:.1} s"
    );
    println!("      long cut: fencing took {took:.2} s by the operator's own measure");
    Ok(())
}

/// Rule 11: home may read the ledger, and no more.
fn ledger_is_closed(sites: &Sites, names: &Names) -> Result<()> {
    let role = Sites::get(sites.embassy()?, "role", &names.embassy, "embassy-home-ledger")?;
    let verbs = text(&role, "/rules/0/verbs");
    ensure!(verbs.contains("get") && !verbs.contains("update"), "home's rights on the ledger: {verbs}");
    Ok(())
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// A write was acknowledged within the last three seconds.
pub fn fresh(last: &Option<Acked>) -> Result<bool> {
    let Some(last) = last else { bail!("no write was ever acknowledged") };
    Ok(seconds(last.at, Timestamp::now()) < 3.0)
}

fn longest_gap(acked: &[Acked]) -> Duration {
    let gaps = acked.windows(2).filter_map(|pair| match pair {
        [a, b] => Duration::try_from(b.at.duration_since(a.at)).ok(),
        _ => None,
    });
    gaps.max().unwrap_or_default()
}
