//! kill -9 at random moments under load.

use super::dispatches::{Site, send, sign};
use super::harness::*;
use data_embassy::api::dispatch::{CHAIN_START, SignedHeader, dispatch_name};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::sync::Mutex;
use std::time::Duration;

/// What the clients of one round were told.
#[derive(Default)]
struct Told {
    objects: Vec<(&'static str, String)>,
    last: Option<SignedHeader>,
}

#[test]
fn no_kill_loses_or_tears_what_was_acknowledged() {
    let rounds = std::env::var("VAULT_KILL_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    let seed = std::env::var("VAULT_KILL_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("VAULT_KILL_SEED={seed} VAULT_KILL_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let (site, mut vault) = Site::start();
    let mut last: Option<SignedHeader> = None;
    let mut objects = 0;
    for round in 0..rounds {
        let delay = Duration::from_micros(random.gen_range(1_000..120_000));
        let told = load_and_kill(&site, &mut vault, random.r#gen(), last.clone(), delay);
        vault = Vault::start(&site.flags);
        assert!(files(&site.data().join(".tmp")).is_empty(), "round {round}");
        for (kind, name) in &told.objects {
            let read = client().get(vault.url(&format!("register/{kind}/{name}"))).send().unwrap();
            assert_eq!(read.status(), 200, "round {round}: {kind}/{name} was acknowledged");
        }
        objects += told.objects.len();
        last = chain_end(&vault, last, told.last, round);
    }
    // Nothing visible is torn, acknowledged or not.
    for kind in ["data", "index", "snapshots"] {
        for (path, hash) in files(&site.data().join("register").join(kind)) {
            assert_eq!(path.file_name().unwrap().to_str().unwrap(), hash, "{kind}");
        }
    }
    println!("{objects} objects and {} dispatches acknowledged", last.map_or(0, |last| last.header.sequence));
    assert!(objects > 0);
}

/// Eight uploaders and a committer, until the vault is killed after `delay`.
fn load_and_kill(
    site: &Site,
    vault: &mut Vault,
    seed: u64,
    last: Option<SignedHeader>,
    delay: Duration,
) -> Told {
    let told = Mutex::new(Told { objects: vec![], last: last.clone() });
    let address = vault.address;
    std::thread::scope(|scope| {
        for worker in 0..8_u64 {
            let told = &told;
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed ^ worker);
                let client = client();
                loop {
                    let kind =
                        *["data", "data", "data", "index", "snapshots"].get(random.gen_range(0..5)).unwrap();
                    let longest = if random.gen_bool(0.2) { 3 << 20 } else { 20_000 };
                    let length = random.gen_range(1..longest);
                    let content = noise(random.r#gen(), length);
                    let name = id(&content);
                    let url = format!("http://{address}/register/{kind}/{name}");
                    // The first failure is the kill.
                    let Ok(response) = client.post(url).body(content).send() else { return };
                    assert_eq!(response.status(), 200);
                    told.lock().unwrap().objects.push((kind, name));
                }
            });
        }
        let told = &told;
        scope.spawn(move || commit_until_killed(site, address, last, told));
        std::thread::sleep(delay);
        vault.kill();
    });
    told.into_inner().unwrap()
}

fn commit_until_killed(
    site: &Site,
    address: std::net::SocketAddr,
    mut last: Option<SignedHeader>,
    told: &Mutex<Told>,
) {
    let client = client();
    loop {
        let header = next(site, last.as_ref());
        let url = format!("http://{address}/register/dispatches/{}", dispatch_name(header.header.sequence));
        let Ok(response) = client.post(url).body(header.bytes().to_vec()).send() else { return };
        assert_eq!(response.status(), 200);
        told.lock().unwrap().last = Some(header.clone());
        last = Some(header);
    }
}

fn next(site: &Site, last: Option<&SignedHeader>) -> SignedHeader {
    let sequence = last.map_or(1, |last| last.header.sequence + 1);
    sign(site.header(sequence, &last.map_or(CHAIN_START.to_owned(), SignedHeader::hash)))
}

/// The chain's end after a restart: what was acknowledged last, or the one header in flight.
fn chain_end(
    vault: &Vault,
    before: Option<SignedHeader>,
    told: Option<SignedHeader>,
    round: u32,
) -> Option<SignedHeader> {
    let status: serde_json::Value =
        client().get(vault.url("register/status")).send().unwrap().json().unwrap();
    let stands = status["lastSequence"].as_u64().unwrap_or(0);
    let acknowledged = told.as_ref().or(before.as_ref()).map_or(0, |last| last.header.sequence);
    assert!(
        stands == acknowledged || stands == acknowledged + 1,
        "round {round}: dispatch {acknowledged} was acknowledged, the chain stands at {stands}"
    );
    if stands == 0 {
        return None;
    }
    let url = vault.url(&format!("register/dispatches/{}", dispatch_name(stands)));
    let bytes = client().get(url).send().unwrap().bytes().unwrap();
    let key = super::dispatches::home_key().verifying_key();
    let stored = SignedHeader::verify(&bytes, &key).unwrap();
    // A retry of what stands is always acknowledged.
    assert_eq!(send(vault, stands, stored.bytes()).0, 200);
    Some(stored)
}
