//! Keys and certificates of one cluster, and the kubeconfig files made of them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

use crate::net::Addresses;
use crate::sys;

/// An authority that issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    fn issue(&self, name: &str, group: &str, names: Vec<SanType>) -> Result<Leaf> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = names;
        let cert = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Leaf { cert, key: key.serialize_pem() })
    }
}

struct Leaf {
    cert: String,
    key: String,
}

/// Writes `pki/` and the kubeconfig files of all components into a cluster's folder.
pub(crate) fn write(dir: &Path, cluster: &str, at: Addresses) -> Result<()> {
    let pki = dir.join("pki");
    if pki.join("done").exists() {
        return Ok(());
    }
    fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;
    let ca = Authority::new(&format!("{cluster}-ca"))?;
    sys::write_atomic(&pki.join("ca.crt"), &ca.pem)?;
    sys::write_atomic(&pki.join("ca.key"), ca.issuer.key().serialize_pem())?;
    let account = KeyPair::generate()?;
    sys::write_atomic(&pki.join("sa.key"), account.serialize_pem())?;
    sys::write_atomic(&pki.join("sa.pub"), account.public_key_pem())?;

    let server = ca.issue("kube-apiserver", "testbed", server_names(at)?)?;
    write_leaf(&pki, "apiserver", &server)?;
    let node_names = vec![dns(cluster)?, address(at.node())];
    let node = ca.issue(&format!("system:node:{cluster}"), "system:nodes", node_names)?;
    write_leaf(&pki, "kubelet", &node)?;
    let admin = ca.issue("admin", "system:masters", Vec::new())?;
    write_leaf(&pki, "admin", &admin)?;

    let config = |leaf: &Leaf| kubeconfig(cluster, at.node(), &ca.pem, leaf);
    sys::write_atomic(&dir.join("kubelet.conf"), config(&node)?)?;
    sys::write_atomic(&dir.join("admin.conf"), config(&admin)?)?;
    for name in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        let leaf = ca.issue(&format!("system:{name}"), "testbed", Vec::new())?;
        sys::write_atomic(&dir.join(format!("{name}.conf")), config(&leaf)?)?;
    }
    sys::write_atomic(&pki.join("done"), "")
}

fn write_leaf(pki: &Path, name: &str, leaf: &Leaf) -> Result<()> {
    sys::write_atomic(&pki.join(format!("{name}.crt")), &leaf.cert)?;
    sys::write_atomic(&pki.join(format!("{name}.key")), &leaf.key)
}

fn server_names(at: Addresses) -> Result<Vec<SanType>> {
    let mut names = Vec::new();
    for name in [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ] {
        names.push(dns(name)?);
    }
    names.extend([Ipv4Addr::LOCALHOST, at.node(), at.first_service()].map(address));
    Ok(names)
}

fn dns(name: &str) -> Result<SanType> {
    Ok(SanType::DnsName(name.try_into().context("not a DNS name")?))
}

fn address(ip: Ipv4Addr) -> SanType {
    SanType::IpAddress(ip.into())
}

fn kubeconfig(cluster: &str, server: Ipv4Addr, ca: &str, leaf: &Leaf) -> Result<Vec<u8>> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {
            "server": format!("https://{server}:6443"),
            "certificate-authority-data": STANDARD.encode(ca),
        }}],
        "users": [{"name": cluster, "user": {
            "client-certificate-data": STANDARD.encode(&leaf.cert),
            "client-key-data": STANDARD.encode(&leaf.key),
        }}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
        "current-context": cluster,
    });
    Ok(serde_json::to_vec_pretty(&config)?)
}
