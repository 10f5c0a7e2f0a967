//! Eight uploaders at once: figures are printed (`-- --ignored --nocapture`), the memory is bounded.

use super::harness::*;
use std::time::Instant;

fn high_water_kib(vault: &Vault) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vault.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn upload(count: u64, length: usize) -> (f64, u64) {
    let dir = temp();
    let vault = Vault::plain(dir.path(), &[]);
    create(&vault, "register");
    let contents: Vec<Vec<u8>> = (0..8 * count).map(|seed| noise(seed, length)).collect();
    let names: Vec<String> = contents.iter().map(|content| id(content)).collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (vault, contents, names) = (&vault, &contents, &names);
            scope.spawn(move || {
                crypto();
                let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
                for (content, name) in contents.iter().zip(names).skip(worker).step_by(8) {
                    let url = vault.url(&format!("register/data/{name}"));
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
    let (rate, memory) = upload(2, 16 << 20);
    println!("8 uploaders of 16 MiB objects: {rate:.0} MiB/s, at most {} MiB resident", memory >> 10);
    assert!(memory < 96 << 10, "{memory} KiB resident");
}

#[test]
#[ignore = "a measurement"]
fn throughput() {
    for (count, length) in [(16, 16 << 20), (128, 1 << 20), (256, 16 << 10)] {
        let (rate, memory) = upload(count, length);
        println!(
            "8 uploaders, {} objects of {} KiB: {rate:.0} MiB/s, {:.0} objects/s, VmHWM {} MiB",
            8 * count,
            length >> 10,
            rate * 1024.0 / (length >> 10) as f64,
            memory >> 10
        );
    }
}
