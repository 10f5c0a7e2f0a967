//! Eight uploaders at once: figures are printed (`-- --ignored --nocapture`), the memory is bounded.

use super::harness::*;
use super::pki::{Authority, Files, tls_client};
use reqwest::blocking::Client;
use std::path::Path;
use std::time::Instant;

fn high_water_kib(vault: &Vault) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vault.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A vault with a repository, its address, and what makes clients for it.
fn vault(dir: &Path, tls: bool) -> (Vault, String, Box<dyn Fn() -> Client + Sync>) {
    let data = dir.join("data");
    let (vault, url, connect): (_, _, Box<dyn Fn() -> Client + Sync>) = if tls {
        let ca = Authority::new("embassy");
        let pems = Files::new(&dir.join("pem"), &ca.server(), &ca.pem());
        let vault = Vault::start(&pems.flags(&data));
        let url = format!("https://{}", vault.address);
        let home = ca.client("home");
        (vault, url, Box::new(move || tls_client(&ca.pem(), Some(&home), true)))
    } else {
        let vault = Vault::plain(&data, &[]);
        let url = format!("http://{}", vault.address);
        crypto();
        (vault, url, Box::new(|| Client::builder().no_proxy().build().unwrap()))
    };
    let made = connect().post(format!("{url}/register/?create=true")).send().unwrap();
    assert_eq!(made.status(), 200);
    (vault, url, connect)
}

fn upload(count: u64, length: usize, tls: bool) -> (f64, u64) {
    let dir = temp();
    let (vault, url, connect) = vault(dir.path(), tls);
    let contents: Vec<Vec<u8>> = (0..8 * count).map(|seed| noise(seed, length)).collect();
    let names: Vec<String> = contents.iter().map(|content| id(content)).collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (url, connect, contents, names) = (&url, &connect, &contents, &names);
            scope.spawn(move || {
                let client = connect();
                for (content, name) in contents.iter().zip(names).skip(worker).step_by(8) {
                    let url = format!("{url}/register/data/{name}");
                    assert_eq!(client.post(url).body(content.clone()).send().unwrap().status(), 200);
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    ((8 * count) as f64 * length as f64 / f64::from(1 << 20) / seconds, high_water_kib(&vault))
}

#[test]
fn memory_is_bounded_under_eight_uploaders() {
    let (rate, memory) = upload(2, 16 << 20, true);
    println!("8 uploaders of 16 MiB objects: {rate:.0} MiB/s, at most {} MiB resident", memory >> 10);
    assert!(memory < 96 << 10, "{memory} KiB resident");
}

#[test]
#[ignore = "a measurement"]
fn throughput() {
    let cases = [(16, 16 << 20), (128, 1 << 20), (256, 16 << 10)];
    for ((count, length), tls) in cases.into_iter().flat_map(|case| [(case, false), (case, true)]) {
        let (rate, memory) = upload(count, length, tls);
        println!(
            "tls {tls}: 8 uploaders, {} objects of {} KiB: {rate:.0} MiB/s, {:.0} objects/s, VmHWM {} MiB",
            8 * count,
            length >> 10,
            rate * 1024.0 / (length >> 10) as f64,
            memory >> 10
        );
    }
}
