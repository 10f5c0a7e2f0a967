//! Runs the tests, and says of a failed one what the clusters looked like.

use anyhow::{Context as _, Result};
use e2e::{Binaries, Sites};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// Which tests may run at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Touches nothing that others use.
    SideBySide,
    /// Cuts links, kills sites or operators.
    OneByOne,
}

/// One test.
pub struct Test {
    /// Its name, unique.
    pub name: &'static str,
    /// Its lane.
    pub lane: Lane,
    /// The test.
    pub run: fn(&Sites) -> Result<()>,
}

/// How many of the first lane run at once: pods start slowly on two cores.
const SIDE_BY_SIDE: usize = 4;

/// Parses `--run [NAME ...]` and runs.
pub fn main(tests: &[Test]) -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == "--run").is_none() {
        println!("\nrunning {} tests", tests.len());
        for test in tests {
            println!("test {} ... ignored, needs root and `--run`", test.name);
        }
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored", tests.len());
        return ExitCode::SUCCESS;
    }
    let names: Vec<String> = args.collect();
    let wanted =
        |test: &&Test| names.is_empty() || names.iter().any(|name| test.name.contains(name.as_str()));
    let chosen: Vec<&Test> = tests.iter().filter(wanted).collect();
    println!("\nrunning {} tests", chosen.len());
    let failed = match up() {
        Ok(sites) => run_all(&sites, &chosen),
        Err(error) => {
            println!("the clusters did not come up: {error:#}");
            chosen.len()
        }
    };
    let word = if failed == 0 && !chosen.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {} passed; {failed} failed; 0 ignored", chosen.len() - failed);
    if word == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn up() -> Result<Sites> {
    let start = Instant::now();
    let say = |line: &str| println!("{:7.1}s  {line}", start.elapsed().as_secs_f64());
    Sites::up(Binaries::find()?.with_faults()?, false, &say).context("two clusters with the operator")
}

fn run_all(sites: &Sites, chosen: &[&Test]) -> usize {
    let (together, alone): (Vec<&Test>, Vec<&Test>) =
        chosen.iter().partition(|test| test.lane == Lane::SideBySide);
    let queue = std::sync::Mutex::new(together.into_iter());
    let failed = std::sync::atomic::AtomicUsize::new(0);
    let take = || queue.lock().ok().and_then(|mut queue| queue.next());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(test) = take() {
                    failed.fetch_add(usize::from(!one(sites, test)), std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    let alone = alone.into_iter().filter(|test| !one(sites, test)).count();
    failed.into_inner() + alone
}

fn one(sites: &Sites, test: &Test) -> bool {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (test.run)(sites)))
        .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked, see above")));
    let seconds = start.elapsed().as_secs_f64();
    match result {
        Ok(()) => {
            println!("test {} ... ok ({seconds:.1} s)", test.name);
            true
        }
        Err(error) => {
            println!("test {} ... FAILED ({seconds:.1} s)\n{error:#}\n{}", test.name, picture(sites));
            false
        }
    }
}

/// What a person would look at first.
fn picture(sites: &Sites) -> String {
    let mut text = String::new();
    for cluster in sites.bed.clusters() {
        for args in [
            ["get", "de,er,pods,pvc,jobs", "-A", "-o", "wide", "--request-timeout=5s"].as_slice(),
            &[
                "logs",
                "-n",
                e2e::sites::SYSTEM,
                "-l",
                "app.kubernetes.io/name=data-embassy-operator",
                "--tail=40",
                "--request-timeout=5s",
            ],
        ] {
            let said = cluster.kubectl(args).unwrap_or_else(|error| format!("{error:#}\n"));
            text.push_str(&format!("--- {}: kubectl {}\n{said}", cluster.name(), args.join(" ")));
        }
    }
    text
}
