//! `make demo`: a country's register survives the loss of its home.

use anyhow::{Context as _, Result, bail};
use e2e::manifests::{self, Wanted};
use e2e::wait::until;
use e2e::{Binaries, Names, Register, Sites};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// NodePort of the register at home.
const PORT: u16 = 30432;

fn main() -> ExitCode {
    if let Some(text) = manifests_asked_for() {
        println!("{text}");
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let say = |line: &str| println!("{:7.1}s  {line}", start.elapsed().as_secs_f64());
    match demo(&say) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `--print-manifests [ADDRESS]`, for tests/e2e/kind-demo.sh: the register, or with the address of home's
/// node its `ReplicaPolicy` and `DataEmbassy`. Nothing is started.
fn manifests_asked_for() -> Option<String> {
    let mut args = std::env::args().skip(1);
    args.next().filter(|option| option == "--print-manifests")?;
    let names = Names::of("demo");
    Some(match args.next() {
        None => manifests::register(&names, PORT),
        Some(node) => manifests::data_embassy(&names, &wanted(&node)),
    })
}

/// What the demo asks for, with a health check of the register at this node.
fn wanted(node: &str) -> Wanted {
    Wanted { health: Some(format!("{node}:{PORT}")), ..Wanted::default() }
}

fn demo(say: &dyn Fn(&str)) -> Result<String> {
    let keep = std::env::var("KEEP").is_ok_and(|v| v == "1");
    let sites = Sites::up(Binaries::find()?, keep, say)?;
    let result = story(&sites, say);
    if keep {
        try_next(&sites)?;
    } else if result.is_ok() {
        sites.bed.down()?;
        say("everything that was started is gone again");
    }
    result
}

fn story(sites: &Sites, say: &dyn Fn(&str)) -> Result<String> {
    let names = Names::of("demo");
    let (home, embassy) = (sites.home()?, sites.embassy()?);
    let register = Register::create(home, &names, PORT)?;
    say("home: PostgreSQL runs on an encrypted volume, pgbench's tables are filled");
    sites.pair(&names, &[])?;
    say("home and embassy are paired (`kubectl embassy pair`)");
    home.apply(&manifests::data_embassy(&names, &wanted(&home.node_ip().to_string())))?;
    say("home: DataEmbassy applied (arbiter Embassy, fence Scale accepted as best effort)");
    let load = register.pgbench(home)?;
    let writer = register.writer(home, 1)?;
    say("home: pgbench and an application write all the time");
    let mirror = sites.proven(&names, 1, Duration::from_secs(180))?;
    say(&format!("embassy: first dispatch restored and proven (cut {})", cut_text(&mirror)));
    let mirror = sites.proven(&names, 3, Duration::from_secs(180))?;
    say(&format!("embassy: dispatch {} proven; epoch {}", sequence(&mirror), epoch(&mirror)));

    let lost_at = Timestamp::now();
    let clock = Instant::now();
    sites.bed.cut("home", "embassy")?;
    home.kill_site()?;
    say("HOME IS LOST: link cut and site killed");
    let acked = writer.acked();
    drop((writer, load));

    watch_promotion(sites, &names, say)?;
    let standby = Register::new(&names.embassy);
    standby.wait_ready(embassy, Duration::from_secs(60))?;
    let recovery = clock.elapsed().as_secs_f64();
    say("embassy: PostgreSQL answers, the register is served again");

    let mirror = sites.at_embassy(&names)?;
    let cut = cut(&mirror)?;
    let history = standby.check_invariant(embassy)?;
    say(&format!("embassy: pgbench's sums agree over {history} transactions"));
    let rows = standby.rows(embassy)?;
    let due: BTreeSet<u64> = acked.iter().filter(|a| a.at < cut).map(|a| a.id).collect();
    let missing: Vec<_> = due.difference(&rows).collect();
    if due.is_empty() {
        bail!("no row was acknowledged before the cut: nothing was checked");
    }
    if !missing.is_empty() {
        bail!(
            "{} rows acknowledged before the cut are missing, the first is {:?}",
            missing.len(),
            missing.first()
        );
    }
    say(&format!("embassy: all {} rows acknowledged before the cut are there", due.len()));
    standby.sql(embassy, "register", "insert into acked (id) values (1000000000)")?;
    say("embassy: the register takes new writes");
    let loss = lost_at.duration_since(cut).as_secs_f64();
    Ok(format!(
        "demo: recovery_seconds={recovery:.1} data_loss_seconds={loss:.1} epoch={} rows_checked={} invariant=ok",
        epoch(&mirror),
        due.len()
    ))
}

/// Shows the phases as they come until the embassy serves.
fn watch_promotion(sites: &Sites, names: &Names, say: &dyn Fn(&str)) -> Result<()> {
    let mut shown = String::new();
    until("the embassy to be promoted", Duration::from_secs(240), || {
        let mirror = sites.at_embassy(names)?;
        let text = |path: &str| mirror.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
        let (phase, step) = (text("/status/phase"), text("/status/promotion/step"));
        let now = if step.is_empty() { phase.clone() } else { format!("{phase}: {step}") };
        if now != shown {
            say(&format!("embassy: {now}"));
            shown = now;
        }
        if phase == "Promoted" {
            return Ok(Some(()));
        }
        bail!("{}", e2e::sites::not_fine(&mirror))
    })
}

fn try_next(sites: &Sites) -> Result<()> {
    println!("\nThe clusters are still up. Try:");
    for cluster in sites.bed.clusters() {
        println!("  KUBECONFIG={} kubectl get de,rp,er,pods -A", cluster.kubeconfig().display());
    }
    println!(
        "  KUBECONFIG={} kubectl embassy status -n demo-estonia",
        sites.embassy()?.kubeconfig().display()
    );
    println!("  cargo run -p testbed -- start home     # home boots again: fenced, it cannot write");
    println!("  cargo run -p testbed -- down           # removes everything");
    Ok(())
}

fn sequence(mirror: &Value) -> i64 {
    mirror.pointer("/status/lastDispatch/sequence").and_then(Value::as_i64).unwrap_or(0)
}

fn epoch(mirror: &Value) -> i64 {
    mirror.pointer("/status/epoch").and_then(Value::as_i64).unwrap_or(-1)
}

fn cut_text(mirror: &Value) -> String {
    cut(mirror).map(|t| t.to_string()).unwrap_or_default()
}

fn cut(mirror: &Value) -> Result<Timestamp> {
    let text = mirror.pointer("/status/lastDispatch/cutTime").and_then(Value::as_str);
    Ok(text.context("the mirror names no cut")?.parse()?)
}
