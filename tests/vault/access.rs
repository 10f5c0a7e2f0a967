//! Who gets in, as what, and how certificates change under running clients.

use super::harness::*;
use super::pki::{Authority, Files, Identity, tls_client};
use reqwest::blocking::Client;
use std::time::Duration;

struct Secured {
    vault: Vault,
    pems: Files,
    ca: Authority,
    dir: tempfile::TempDir,
}

fn secured() -> Secured {
    let (dir, ca) = (temp(), Authority::new("embassy"));
    let pems = Files::new(&dir.path().join("pem"), &ca.server(), &ca.pem());
    let vault = Vault::start(&pems.flags(&dir.path().join("data")));
    Secured { vault, pems, ca, dir }
}

impl Secured {
    fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.vault.address)
    }

    fn client(&self, identity: &Identity) -> Client {
        tls_client(&self.ca.pem(), Some(identity), false)
    }

    fn home(&self) -> Client {
        let home = self.client(&self.ca.client("home"));
        assert_eq!(home.post(self.url("register/?create=true")).send().unwrap().status(), 200);
        let config = home.post(self.url("register/config")).body("a config").send().unwrap();
        assert_eq!(config.status(), 200);
        home
    }
}

#[test]
fn only_our_own_authority_opens_the_door() {
    let secured = secured();
    let ca = secured.ca.pem();
    secured.home();
    let stranger = Authority::new("embassy").client("home");
    let get = |client: Client| client.get(secured.url("register/config")).send();
    assert!(get(tls_client(&ca, None, false)).is_err(), "no certificate");
    assert!(get(secured.client(&stranger)).is_err(), "another authority of the same name");
    assert!(get(secured.client(&secured.ca.client_until("home", -60))).is_err(), "expired");
    assert!(get(secured.client(&secured.ca.server())).is_err(), "a server's certificate");
    assert!(get(secured.client(&secured.ca.client("admin"))).is_err(), "a name that is no role");
    assert!(get(secured.client(&secured.ca.client("home2"))).is_err(), "nearly a role");
    let plain = client().get(format!("http://{}/register/config", secured.vault.address)).send();
    assert!(plain.is_err(), "no TLS");
    assert_eq!(get(secured.client(&secured.ca.client("embassy"))).unwrap().status(), 200);
}

#[test]
fn older_tls_is_refused() {
    let secured = secured();
    let (ca, home) = (secured.ca.pem(), secured.ca.client("home"));
    crypto();
    let pem = format!("{}{}", home.key, home.cert);
    let old = Client::builder()
        .no_proxy()
        .max_tls_version(reqwest::tls::Version::TLS_1_2)
        .add_root_certificate(reqwest::Certificate::from_pem(ca.as_bytes()).unwrap())
        .identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap())
        .build()
        .unwrap();
    assert!(old.get(secured.url("register/config")).send().is_err());
    assert_eq!(secured.client(&home).get(secured.url("register/status")).send().unwrap().status(), 200);
}

#[test]
fn the_embassy_writes_nothing_but_locks() {
    let secured = secured();
    let home = secured.home();
    let embassy = secured.client(&secured.ca.client("embassy"));
    let content = b"a content".to_vec();
    let name = id(&content);
    let at = |kind: &str| secured.url(&format!("register/{kind}/{name}"));
    for kind in ["data", "keys", "snapshots", "index"] {
        assert_eq!(embassy.post(at(kind)).body(content.clone()).send().unwrap().status(), 403, "{kind}");
        assert_eq!(home.post(at(kind)).body(content.clone()).send().unwrap().status(), 200, "{kind}");
        assert_eq!(embassy.get(at(kind)).send().unwrap().bytes().unwrap(), content, "{kind}");
        assert_eq!(embassy.delete(at(kind)).send().unwrap().status(), 403, "{kind}");
    }
    let dispatch = secured.url("register/dispatches/00000000000000000001");
    assert_eq!(embassy.post(dispatch).body("x").send().unwrap().status(), 403);
    assert_eq!(embassy.post(secured.url("other/?create=true")).send().unwrap().status(), 403);
    assert_eq!(embassy.post(secured.url("register/config")).body("x").send().unwrap().status(), 403);
    for client in [&embassy, &home] {
        assert_eq!(client.post(at("locks")).body(content.clone()).send().unwrap().status(), 200);
        assert_eq!(client.delete(at("locks")).send().unwrap().status(), 200);
        assert_eq!(client.get(secured.url("register/status")).send().unwrap().status(), 200);
    }
}

#[test]
fn certificates_rotate_under_a_running_client_without_a_gap() {
    let secured = secured();
    secured.home();
    let home = tls_client(&secured.ca.pem(), Some(&secured.ca.client("home")), true);
    let mut sent: u32 = 0;
    let mut upload = || {
        sent += 1;
        let content = sent.to_le_bytes();
        let url = secured.url(&format!("register/data/{}", id(&content)));
        assert_eq!(home.post(url).body(content.to_vec()).send().unwrap().status(), 200, "upload {sent}");
    };
    upload();
    // The server's certificate: running connections go on, new ones see the new one.
    let reloads = "embassy_vault_reloads_total{what=\"certificates\",result=\"ok\"} ";
    secured.pems.server(&secured.ca.server());
    wait_for("the new certificate is read", SOON, || {
        upload();
        (secured.vault.metric(reloads) == Some(1.0)).then_some(())
    });
    upload();
    // The clients' authority: first both, then only the new one. The old client is shut out, also
    // on the connection that it holds open; the new one was let in before.
    let next = Authority::new("embassy, next");
    let renewed = tls_client(&secured.ca.pem(), Some(&next.client("home")), false);
    secured.pems.write("client-ca.pem", &format!("{}{}", secured.ca.pem(), next.pem()));
    let status = secured.url("register/status");
    wait_for("the new authority is known", SOON, || renewed.get(&status).send().ok());
    secured.pems.write("client-ca.pem", &next.pem());
    wait_for("the old authority is forgotten", SOON, || home.get(&status).send().err());
    assert_eq!(renewed.get(&status).send().unwrap().status(), 200);
}

#[test]
fn a_broken_rotation_keeps_the_old_certificate() {
    let secured = secured();
    let home = secured.home();
    // A key that does not fit: what a half-done rotation looks like.
    secured.pems.write("tls.key", &secured.ca.server().key);
    let errors = "embassy_vault_reloads_total{what=\"certificates\",result=\"error\"} ";
    wait_for("the broken pair is seen", SOON, || secured.vault.metric(errors));
    assert_eq!(home.get(secured.url("register/status")).send().unwrap().status(), 200);
    secured.pems.server(&secured.ca.server());
    let reloads = "embassy_vault_reloads_total{what=\"certificates\",result=\"ok\"} ";
    wait_for("the mended pair is read", SOON, || secured.vault.metric(reloads));
    assert_eq!(home.get(secured.url("register/status")).send().unwrap().status(), 200);
}

#[test]
fn a_connection_ends_with_its_certificate() {
    let secured = secured();
    secured.home();
    let brief = tls_client(&secured.ca.pem(), Some(&secured.ca.client_until("home", 4)), true);
    let status = secured.url("register/status");
    assert_eq!(brief.get(&status).send().unwrap().status(), 200);
    wait_for("the client is shut out", Duration::from_secs(20), || brief.get(&status).send().err());
    drop(secured.dir);
}

/// Anybody in the network can open connections and say nothing; nobody may be locked out by that.
#[test]
fn silent_strangers_lock_nobody_out() {
    let secured = secured();
    let silent: Vec<_> = (0..200)
        .flat_map(|_| [secured.vault.address, secured.vault.health])
        .map(|address| std::net::TcpStream::connect(address).unwrap())
        .collect();
    let start = std::time::Instant::now();
    let health = client().get(format!("http://{}/healthz", secured.vault.health)).send().unwrap();
    assert!(health.status().is_success());
    secured.home();
    // A silent one is let sit for ten seconds at the vault, and for sixty at its health.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(silent);
}
