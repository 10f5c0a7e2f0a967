//! The pair's certificates: one authority, the vault's server certificate, one client certificate
//! for home and one for the embassy. All ECDSA P-256.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const DAY: u64 = 86_400;
/// Life of the authority.
pub const CA_LIFE: Duration = Duration::from_secs(3650 * DAY);
/// Life of the server's certificate.
pub const SERVER_LIFE: Duration = Duration::from_secs(90 * DAY);
/// Life of a client's certificate.
pub const CLIENT_LIFE: Duration = Duration::from_secs(30 * DAY);
/// Certificates begin this much in the past: the other cluster's clock may be behind.
const BACKDATE: Duration = Duration::from_secs(3600);

/// A certificate with its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

/// What a stored certificate says; no secret in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertFacts {
    /// Start, seconds since 1970.
    pub not_before: i64,
    /// End, seconds since 1970.
    pub not_after: i64,
    /// Common name.
    pub common_name: String,
    /// Names and addresses.
    pub names: BTreeSet<String>,
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The library refused.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// Not a certificate.
    #[error("Secret {0} holds no certificate that parses")]
    Parse(String),
}

/// A new authority for a pair.
///
/// # Errors
/// [`CertError::Make`].
pub fn authority(pair: &str, now: jiff::Timestamp) -> Result<Pem, CertError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = params(&format!("data-embassy pair {pair}"), now, CA_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let cert = params.self_signed(&key)?;
    Ok(Pem { cert: cert.pem(), key: key.serialize_pem() })
}

/// A server certificate for `names` (DNS names and IP addresses).
///
/// # Errors
/// [`CertError::Make`]; also for a name that is no DNS name.
pub fn server(ca: &Pem, names: &BTreeSet<String>, now: jiff::Timestamp) -> Result<Pem, CertError> {
    let mut params = params("embassy-vault", now, SERVER_LIFE)?;
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf(ca, params)
}

/// A client certificate; the vault reads the client's role from `common_name`.
///
/// # Errors
/// [`CertError::Make`].
pub fn client(ca: &Pem, common_name: &str, now: jiff::Timestamp) -> Result<Pem, CertError> {
    let mut params = params(common_name, now, CLIENT_LIFE)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf(ca, params)
}

fn leaf(ca: &Pem, mut params: CertificateParams) -> Result<Pem, CertError> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, KeyPair::from_pem(&ca.key)?)?;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let cert = params.signed_by(&key, &issuer)?;
    Ok(Pem { cert: cert.pem(), key: key.serialize_pem() })
}

fn params(common_name: &str, now: jiff::Timestamp, life: Duration) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + life;
    Ok(params)
}

/// What the certificate in `pem` says; `None` for anything but a certificate.
#[must_use]
pub fn facts(pem: &[u8]) -> Option<CertFacts> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let mut names = BTreeSet::new();
    if let Ok(Some(extension)) = parsed.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.insert((*name).to_owned()),
                GeneralName::IPAddress(raw) => address(raw).is_some_and(|ip| names.insert(ip.to_string())),
                _ => false,
            };
        }
    }
    let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Some(CertFacts {
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        common_name: common_name.unwrap_or_default().to_owned(),
        names,
    })
}

fn address(raw: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(raw) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(raw).ok().map(IpAddr::from)
}

/// True when less than a third of the certificate's life is left.
#[must_use]
pub fn is_due(facts: &CertFacts, now: jiff::Timestamp) -> bool {
    let life = facts.not_after.saturating_sub(facts.not_before);
    facts.not_after.saturating_sub(now.as_second()) < life / 3
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn day(n: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_700_000_000 + n * 86_400).unwrap()
    }

    #[test]
    fn the_server_names_what_it_was_given_and_is_renewed_in_time() {
        let ca = authority("p", day(0)).unwrap();
        let names: BTreeSet<String> =
            ["embassy-vault.ns.svc", "198.18.0.9", "2001:db8::1"].map(str::to_owned).into();
        let server = server(&ca, &names, day(0)).unwrap();
        let facts = facts(server.cert.as_bytes()).unwrap();
        assert_eq!(facts.names, names);
        assert!(!is_due(&facts, day(0)));
        assert!(!is_due(&facts, day(59)));
        assert!(is_due(&facts, day(61)));
    }

    #[test]
    fn a_client_has_its_role_as_the_only_name_and_a_ca_is_not_due_for_years() {
        let ca = authority("p", day(0)).unwrap();
        let home = client(&ca, "home", day(0)).unwrap();
        let home = facts(home.cert.as_bytes()).unwrap();
        assert_eq!(home.common_name, "home");
        assert!(is_due(&home, day(21)) && !is_due(&home, day(19)));
        assert!(!is_due(&facts(ca.cert.as_bytes()).unwrap(), day(2000)));
    }

    #[test]
    fn what_is_no_certificate_has_no_facts() {
        assert_eq!(facts(b""), None);
        assert_eq!(facts(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None);
    }
}
