//! One try of one check.

use super::names::{NameError, Names};
use crate::api::policy::{HealthCheck, HttpCheck, TcpCheck};
use crate::domain::health::ProbeResult;
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Most bytes of an answer that are read.
const MAX_BODY: usize = 64 * 1024;
/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 3;
/// Most bytes of a file with CA certificates.
const MAX_ROOTS: u64 = 4 * 1024 * 1024;
/// Shortest timeout, whatever the policy says: with 0s nothing could ever answer.
const MIN_TIMEOUT: Duration = Duration::from_millis(50);
/// Where CA certificates lie, first found; `SSL_CERT_FILE` comes before all. The operator's image has
/// none of its own: whom to trust is the embassy's decision, so its admin mounts them.
const ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Tries one check.
pub(super) struct Prober {
    kind: Kind,
    timeout: Duration,
}

enum Kind {
    Http {
        client: reqwest::Client,
        url: reqwest::Url,
        expect: i32,
        roots: bool,
    },
    Tcp {
        names: Names,
        host: String,
        port: u16,
    },
    /// It can never be tried, and why: the fault of the policy, not of home.
    Unusable(String),
}

impl Prober {
    /// Prepares what the tries share.
    pub(super) fn new(check: &HealthCheck) -> Self {
        let timeout = check.timeout.get().max(MIN_TIMEOUT);
        // Half of the time for the name, so that a silent resolver leaves some for the remembered
        // address.
        let names = Names::new(timeout / 2);
        let kind = match (&check.http, &check.tcp) {
            (Some(http), None) => prepare_http(http, names),
            (None, Some(tcp)) => prepare_tcp(tcp, names),
            _ => Err("a health check has exactly one of http and tcp: mend the ReplicaPolicy".to_owned()),
        };
        Self { kind: kind.unwrap_or_else(Kind::Unusable), timeout }
    }

    /// One try, bounded by the check's timeout.
    pub(super) async fn probe(&self) -> ProbeResult {
        let attempt = async {
            match &self.kind {
                Kind::Http { client, url, expect, roots } => get(client, url, *expect, *roots).await,
                Kind::Tcp { names, host, port } => connect(names, host, *port).await,
                Kind::Unusable(why) => ProbeResult::Unknown(why.clone()),
            }
        };
        match tokio::time::timeout(self.timeout, attempt).await {
            Ok(result) => result,
            Err(_) => ProbeResult::Failed(format!("no answer within {} ms", self.timeout.as_millis())),
        }
    }
}

fn prepare_http(check: &HttpCheck, names: Names) -> Result<Kind, String> {
    let url: reqwest::Url = check.url.parse().map_err(|e| format!("bad URL `{}`: {e}", check.url))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("bad URL `{}`: it must be http:// or https:// with a host", check.url));
    }
    let (tls, roots) = tls_config()?;
    let client = reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .dns_resolver(Arc::new(names))
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        // No proxy of the operator's environment, and no kept connection: each try shows whether
        // home can be reached anew.
        .no_proxy()
        .pool_max_idle_per_host(0)
        .user_agent(concat!("data-embassy/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| format!("cannot make an HTTP client: {}", chain(&e)))?;
    Ok(Kind::Http { client, url, expect: check.expect_status, roots })
}

fn prepare_tcp(check: &TcpCheck, names: Names) -> Result<Kind, String> {
    let bad = || format!("bad address `{}`: write it as host:port or [IPv6]:port", check.address);
    let (host, port) = check.address.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().ok().filter(|p| *p != 0).ok_or_else(bad)?;
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = inner.unwrap_or(host);
    if host.is_empty() || (inner.is_none() && host.contains(':')) {
        return Err(bad());
    }
    Ok(Kind::Tcp { names, host: host.to_owned(), port })
}

/// TLS by the CA certificates that are found here; false if there are none.
fn tls_config() -> Result<(rustls::ClientConfig, bool), String> {
    let mut roots = rustls::RootCertStore::empty();
    let given = std::env::var("SSL_CERT_FILE").ok();
    for path in given.iter().map(String::as_str).chain(ROOTS) {
        if let Ok(pem) = read_bounded(Path::new(path)) {
            let mut pem = pem.as_slice();
            let certificates = rustls_pemfile::certs(&mut pem).filter_map(Result::ok);
            let (added, _) = roots.add_parsable_certificates(certificates);
            if added > 0 {
                break;
            }
        }
    }
    let found = !roots.is_empty();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("cannot set up TLS: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((config, found))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut pem = Vec::new();
    std::fs::File::open(path)?.take(MAX_ROOTS).read_to_end(&mut pem)?;
    Ok(pem)
}

async fn get(client: &reqwest::Client, url: &reqwest::Url, expect: i32, roots: bool) -> ProbeResult {
    let mut response = match client.get(url.clone()).send().await {
        Ok(response) => response,
        Err(error) => return judge(&error, roots),
    };
    let status = response.status().as_u16();
    if i32::from(status) != expect {
        return ProbeResult::Failed(format!("status {status}, expected {expect}"));
    }
    // A server that sends its headers and then hangs is sick too.
    let mut read = 0_usize;
    while read < MAX_BODY {
        match response.chunk().await {
            Ok(Some(chunk)) => read = read.saturating_add(chunk.len()),
            Ok(None) => break,
            Err(error) => return judge(&error, roots),
        }
    }
    ProbeResult::Ok
}

async fn connect(names: &Names, host: &str, port: u16) -> ProbeResult {
    let addresses = match names.resolve(host).await {
        Ok(addresses) => addresses,
        Err(error) if error.is_homes_fault() => return ProbeResult::Failed(error.to_string()),
        Err(error) => return ProbeResult::Unknown(error.to_string()),
    };
    let mut last = ProbeResult::Unknown(format!("the name {host} has no address"));
    for address in addresses {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(_) => return ProbeResult::Ok,
            Err(error) if is_ours(&error) => {
                // Another address of the same name that was tried in earnest says more.
                if !matches!(last, ProbeResult::Failed(_)) {
                    last = ProbeResult::Unknown(format!("cannot try {address}:{port}: {error}"));
                }
            }
            Err(error) => last = ProbeResult::Failed(format!("cannot connect to {address}:{port}: {error}")),
        }
    }
    last
}

/// Whose fault an error is. "Network unreachable" is home's: behind a router that lost its link that
/// is what a dead home looks like.
fn judge(error: &reqwest::Error, roots: bool) -> ProbeResult {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(name) = e.downcast_ref::<NameError>()
            && !name.is_homes_fault()
        {
            return ProbeResult::Unknown(name.to_string());
        }
        if let Some(tls) = e.downcast_ref::<rustls::Error>()
            && let Some(why) = unknown_tls(tls, roots)
        {
            return ProbeResult::Unknown(why);
        }
        if let Some(io) = e.downcast_ref::<io::Error>() {
            if is_ours(io) {
                return ProbeResult::Unknown(format!("cannot try: {io}"));
            }
            // `io::Error::source` skips the error that it wraps.
            if let Some(inner) = io.get_ref() {
                cause = Some(inner);
                continue;
            }
        }
        cause = e.source();
    }
    ProbeResult::Failed(chain(error))
}

fn unknown_tls(error: &rustls::Error, roots: bool) -> Option<String> {
    use rustls::CertificateError::UnknownIssuer;
    match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) if !roots => Some(
            "there are no CA certificates in the operator's pod: mount a bundle and set SSL_CERT_FILE".into(),
        ),
        rustls::Error::InvalidCertificate(UnknownIssuer) => Some(
            "the certificate is by a CA that is not known here: add it to the bundle of SSL_CERT_FILE".into(),
        ),
        _ => None,
    }
}

/// Errors of this process or host: out of files, ports, memory, or forbidden.
fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::ACCESS,
        Errno::PERM,
        Errno::INVAL,
        Errno::AFNOSUPPORT,
    ];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|e| e.raw_os_error() == code))
}

/// The error with its causes, in one line, the URL left out (it may hold a token).
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn StdError> = error.source();
    while let Some(e) = cause {
        let part = e.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        cause = e.source();
    }
    let head = if error.is_redirect() { "too many redirects" } else { "request failed" };
    if text.is_empty() { head.to_owned() } else { format!("{head}: {text}") }
}

#[cfg(test)]
mod tests;
