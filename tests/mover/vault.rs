//! Dispatches through the real vault, over good lines and bad ones.

use crate::corpus;
use crate::dispatch::Home;
use crate::harness::Vault;
use crate::pki::{Authority, Files, Identity};
use crate::proxy::{Fault, Proxy};
use data_embassy::api::report::MoverReason;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// A vault without TLS that commits any epoch, and a home that uses it.
fn plain(more: &[&str]) -> (Home, Vault) {
    let mut home = Home::new();
    let data = home.bench.make("vault");
    let public = home.bench.path("public");
    let mut flags = vec!["--no-epoch-check", "--pair", "pair-1", "--signing-key", public.to_str().unwrap()];
    flags.extend(more);
    let vault = Vault::plain(&data, &flags);
    home.bench.repository = at(vault.address);
    (home, vault)
}

fn at(address: SocketAddr) -> String {
    format!("rest:http://{address}/register/")
}

fn show(home: &mut Home, ca: &str, identity: &Identity) {
    let bench = &mut home.bench;
    let mut options = Vec::new();
    for (name, text) in [("cacert", ca), ("client-cert", &identity.cert), ("client-key", &identity.key)] {
        fs::write(bench.path(name), text).unwrap();
        options.push(format!("--{name}={}", bench.path(name).display()));
    }
    bench.options = options;
}

#[test]
fn home_writes_and_the_embassy_reads_over_mutual_tls() {
    let mut home = Home::new();
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let files = Files::new(&home.bench.path("vault-files"), &servers.server(), &clients.pem());
    let vault = Vault::start(&files.flags(&home.bench.make("vault")));
    home.bench.repository = format!("rest:https://{}/register/", vault.address);
    show(&mut home, &servers.pem(), &clients.client("home"));
    corpus::zoo(&home.register);
    corpus::random(&home.ledger, 31);
    // The ledger of the test says 0.
    home.backup("2026-11-23T10:00:00Z").fails_with(MoverReason::EpochRefused);
    files.write("epochs.json", r#"{"register":{"epoch":2}}"#);
    home.backup("2026-11-23T10:00:00Z").ok();
    corpus::mutate(&home.ledger, 32, 30);
    home.backup("2026-11-23T10:05:00Z").ok();
    show(&mut home, &servers.pem(), &clients.client("embassy"));
    assert!(home.restore("latest").ok().report.proven);
    home.arrived();
    home.backup("2026-11-23T10:06:00Z").fails_with(MoverReason::VaultRefused);
    // Another authority's server is not ours, whatever the platform trusts.
    show(&mut home, &Authority::new("others").pem(), &clients.client("home"));
    home.restore("latest").fails_with(MoverReason::VaultUnreachable);
    home.bench.options.clear();
    home.restore("latest").fails_with(MoverReason::Failed);
}

#[test]
fn a_commit_whose_answer_was_lost_is_one_commit() {
    let (mut home, vault) = plain(&[]);
    fs::write(home.register.join("f"), b"1").unwrap();
    let proxy = Proxy::start(vault.address, Fault::LoseAnswer("POST /register/dispatches/"));
    home.bench.repository = at(proxy.address);
    let report = home.backup("2026-11-23T10:00:00Z").ok().report;
    assert_eq!(proxy.struck.load(Ordering::SeqCst), 1, "the answer was not lost");
    assert_eq!(report.sequence, Some(1));
    assert_eq!(home.restore("latest").ok().report.header_hash, report.header_hash);
    home.arrived();
}

#[test]
fn a_line_that_breaks_all_the_time_only_costs_time() {
    let (mut home, vault) = plain(&[]);
    corpus::random(&home.register, 41);
    let proxy = Proxy::start(vault.address, Fault::Cut(200_000));
    home.bench.repository = at(proxy.address);
    home.backup("2026-11-23T10:00:00Z").ok();
    home.restore("latest").ok();
    home.arrived();
    assert!(proxy.struck.load(Ordering::SeqCst) > 0, "the line never broke");
}

#[test]
fn a_vault_that_is_away_or_full_is_told_as_such() {
    let (home, mut vault) = plain(&[]);
    corpus::random(&home.register, 51);
    home.backup("2026-11-23T10:00:00Z").ok();
    vault.kill();
    home.restore("latest").fails_with(MoverReason::VaultUnreachable);
    home.backup("2026-11-23T10:01:00Z").fails_with(MoverReason::VaultUnreachable);
    let quota = home.bench.path("quota.json");
    fs::write(&quota, r#"{"register": 100000}"#).unwrap();
    let (home, _vault) = plain(&["--quota-file", quota.to_str().unwrap()]);
    corpus::random(&home.register, 52);
    home.backup("2026-11-23T10:00:00Z").fails_with(MoverReason::VaultFull);
}

#[test]
fn the_stock_restic_reads_what_the_vault_holds() {
    let (home, vault) = plain(&[]);
    corpus::random(&home.register, 61);
    home.backup("2026-11-23T10:00:00Z").ok();
    let output = std::process::Command::new("restic")
        .args(["--repo", &at(vault.address), "--no-cache", "check", "--read-data", "--password-file"])
        .arg(home.bench.path("password"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn plain_http_goes_to_loopback_only() {
    let mut home = Home::new();
    for url in
        ["rest:http://198.18.0.1:1/register/", "rest:http://localhost/register/", "rest:ftp://127.0.0.1/"]
    {
        home.bench.repository = url.to_owned();
        home.restore("latest").fails_with(MoverReason::Failed);
    }
}
