//! Names to addresses, by our own resolver: a static binary cannot call the C library's.
//!
//! The last addresses of each name are remembered. A resolver that is silent then hides nothing: a
//! broken DNS of the embassy does not make home look sick, and a home whose DNS fell with it is still
//! tried at its address.

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::ProtoErrorKind;
use hickory_resolver::proto::op::ResponseCode;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Most names remembered per check (its host, and those it is redirected to).
const MAX_NAMES: usize = 8;
/// Most addresses tried per name.
const MAX_ADDRESSES: usize = 4;

/// Why there is no address for a name.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NameError {
    /// The DNS says that there is none: home's fault.
    #[error("the name {name} has no address: the DNS answers {answer}")]
    Absent {
        /// The name.
        name: String,
        /// The DNS's answer.
        answer: String,
    },
    /// No answer, and none was ever had: says nothing about home.
    #[error("no answer from this cluster's DNS for {0}: mend the cluster's DNS, or give an address")]
    Silent(String),
    /// There is no usable resolver configuration here.
    #[error("no resolver in this pod (/etc/resolv.conf: {0}): give an address, or set the pod's dnsPolicy")]
    Unconfigured(String),
}

impl NameError {
    /// True if it says something about home.
    pub(super) fn is_homes_fault(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }
}

/// Resolver with a memory, one per check.
#[derive(Clone)]
pub(super) struct Names {
    resolver: Result<Arc<TokioResolver>, String>,
    known: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
    within: Duration,
}

impl Names {
    /// A resolver by this pod's `/etc/resolv.conf` that is given up after `within`.
    pub(super) fn new(within: Duration) -> Self {
        let resolver = TokioResolver::builder_tokio().map(|builder| Arc::new(builder.build()));
        Self { resolver: resolver.map_err(|e| e.to_string()), known: Arc::default(), within }
    }

    /// Addresses of `name`, fresh or remembered.
    pub(super) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let resolver = self.resolver.as_ref().map_err(|why| NameError::Unconfigured(why.clone()))?;
        let answer = tokio::time::timeout(self.within, resolver.lookup_ip(name)).await;
        let error = match answer {
            Ok(Ok(found)) => {
                let found: Vec<_> = found.iter().take(MAX_ADDRESSES).collect();
                self.remember(name, &found);
                return Ok(found);
            }
            Ok(Err(error)) => match error.proto().map(|e| e.kind()) {
                Some(ProtoErrorKind::NoRecordsFound { response_code, .. }) => Some(*response_code),
                _ => None,
            },
            Err(_) => None,
        };
        match error {
            Some(code @ (ResponseCode::NXDomain | ResponseCode::NoError)) => Err(absent(name, code)),
            Some(code) => self.remembered(name).ok_or_else(|| absent(name, code)),
            None => self.remembered(name).ok_or_else(|| NameError::Silent(name.to_owned())),
        }
    }

    fn remember(&self, name: &str, found: &[IpAddr]) {
        if let Ok(mut known) = self.known.lock()
            && (known.len() < MAX_NAMES || known.contains_key(name))
        {
            known.insert(name.to_owned(), found.to_vec());
        }
    }

    fn remembered(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.known.lock().ok()?.get(name).cloned()
    }
}

fn absent(name: &str, code: ResponseCode) -> NameError {
    NameError::Absent { name: name.to_owned(), answer: code.to_str().to_owned() }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = Names::resolve(&names, name.as_str()).await?;
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_resolver_and_silence_needs_a_memory() {
        let names =
            Names { resolver: Err("empty".into()), known: Arc::default(), within: Duration::from_secs(1) };
        assert_eq!(names.resolve("127.0.0.1").await.unwrap(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        let error = names.resolve("portal.example").await.unwrap_err();
        assert!(!error.is_homes_fault(), "{error}");
        names.remember("portal.example", &["192.0.2.1".parse().unwrap()]);
        assert_eq!(names.remembered("portal.example").unwrap().len(), 1);
        for i in 0..100 {
            names.remember(&format!("n{i}.example"), &[]);
        }
        assert_eq!(names.known.lock().unwrap().len(), MAX_NAMES);
    }
}
