//! Certificates for tests.

use super::harness::{SOON, crypto, flags};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair,
};
use reqwest::blocking::Client;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A certificate with its key, PEM.
pub struct Identity {
    pub cert: String,
    pub key: String,
}

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }

    pub fn server(&self) -> Identity {
        let mut params = named("vault", &["127.0.0.1"]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&params)
    }

    pub fn client(&self, role: &str) -> Identity {
        let mut params = named(role, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    /// A client whose certificate ends so many seconds from now.
    pub fn client_until(&self, role: &str, seconds: i64) -> Identity {
        let mut params = named(role, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let end =
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_now().saturating_add_signed(seconds));
        params.not_after = end;
        self.issue(&params)
    }
}

fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The files of a vault with TLS, and the flags that name them.
pub struct Files {
    pub dir: PathBuf,
}

impl Files {
    pub fn new(dir: &Path, server: &Identity, client_ca: &str) -> Self {
        let files = Self { dir: dir.to_owned() };
        std::fs::create_dir_all(dir).unwrap();
        files.server(server);
        files.write("client-ca.pem", client_ca);
        files.write("epochs.json", r#"{"register":{"epoch":0}}"#);
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        files.write("home.pub", &format!("{}\n", hex::encode(key.as_bytes())));
        files
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// Replaces a file as Kubernetes does: never half of one.
    pub fn write(&self, name: &str, text: &str) {
        let fresh = self.dir.join(format!("{name}.new"));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.dir.join(name)).unwrap();
    }

    pub fn server(&self, server: &Identity) {
        self.write("tls.key", &server.key);
        self.write("tls.crt", &server.cert);
    }

    pub fn flags(&self, data: &Path) -> Vec<String> {
        let (cert, key, ca) = (self.path("tls.crt"), self.path("tls.key"), self.path("client-ca.pem"));
        let (home, epochs) = (self.path("home.pub"), self.path("epochs.json"));
        let data = data.to_str().unwrap();
        flags(&[
            "--data",
            data,
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
            "--client-ca",
            &ca,
            "--pair",
            "pair-1",
            "--signing-key",
            &home,
            "--epoch-file",
            &epochs,
        ])
    }
}

/// A client that trusts `server_ca` and shows `identity`. With `pool` it keeps its connection.
pub fn tls_client(server_ca: &str, identity: Option<&Identity>, pool: bool) -> Client {
    crypto();
    let mut builder = Client::builder()
        .no_proxy()
        .timeout(SOON)
        .pool_max_idle_per_host(usize::from(pool))
        .add_root_certificate(reqwest::Certificate::from_pem(server_ca.as_bytes()).unwrap());
    if let Some(identity) = identity {
        let pem = format!("{}{}", identity.key, identity.cert);
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    builder.build().unwrap()
}
