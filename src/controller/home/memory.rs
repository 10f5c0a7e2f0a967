//! What the home part remembers between turns; losing it costs requests and never safety.

use super::observation::Pairing;
use crate::api::names::{KUBECONFIG_KEY, PAIR_KEY, SIGNING_KEY};
use crate::api::pair::PairRecord;
use crate::cli::chain;
use crate::clock::Boot;
use crate::cluster::{Bounds, client};
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, ResourceExt as _};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// More pairs than this in one cluster: the memory starts anew.
const MAX_PAIRS: usize = 1024;
/// Keys are written again after this long although nothing changed: two replicas of the operator
/// may have overtaken each other.
const REWRITE_KEYS: Duration = Duration::from_secs(600);
/// The same when the embassy says that a key is missing.
const REWRITE_MISSING: Duration = Duration::from_secs(30);

/// The memory; cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct HomeMemory {
    pairs: Arc<Mutex<BTreeMap<String, Known>>>,
    keys: Arc<Mutex<BTreeMap<String, (String, Boot)>>>,
    /// DataEmbassy (`namespace/name`) -> the pair that it acted on last.
    acting: Arc<Mutex<BTreeMap<String, String>>>,
    /// Held while movers are counted and one is started.
    pub(super) starting: Arc<tokio::sync::Mutex<()>>,
    /// Held while passwords are read and written, so that an older map never follows a newer one.
    pub(super) writing_keys: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone)]
struct Known {
    version: String,
    record: PairRecord,
    client: Client,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("version", &self.version).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HomeMemory {
    /// The pair and a client out of the kubeconfig Secret `key` (`namespace/name`).
    pub async fn pairing(&self, key: &str, secret: Option<&Secret>) -> (Pairing, Option<Client>) {
        let Some(secret) = secret else { return (Pairing::SecretMissing, None) };
        let version =
            format!("{}/{}", secret.uid().unwrap_or_default(), secret.resource_version().unwrap_or_default());
        if let Some(known) = lock(&self.pairs).get(key).filter(|k| k.version == version) {
            return (Pairing::Ready(Box::new(known.record.clone())), Some(known.client.clone()));
        }
        match open(secret).await {
            Ok((record, client)) => {
                let known = Known { version, record: record.clone(), client: client.clone() };
                let mut pairs = lock(&self.pairs);
                if pairs.len() >= MAX_PAIRS {
                    pairs.clear();
                }
                pairs.insert(key.to_owned(), known);
                (Pairing::Ready(Box::new(record)), Some(client))
            }
            Err(pairing) => (pairing, None),
        }
    }

    /// The last usable pair of a Secret that is gone: a namespace that is being deleted takes the
    /// Secret away before the embassy was told.
    #[must_use]
    pub fn remembered(&self, key: &str) -> Option<(PairRecord, Client)> {
        lock(&self.pairs).get(key).map(|k| (k.record.clone(), k.client.clone()))
    }

    /// Notes the pair that a DataEmbassy acts on; returns another one that it acted on before.
    #[must_use]
    pub fn acts_on(&self, embassy: &str, pair: &str) -> Option<String> {
        let mut acting = lock(&self.acting);
        if acting.len() >= MAX_PAIRS {
            acting.clear();
        }
        acting.insert(embassy.to_owned(), pair.to_owned()).filter(|old| old != pair)
    }

    /// True if the keys of a pair have to be written: they changed, it was long ago, or the embassy
    /// says that one is missing.
    #[must_use]
    pub fn keys_due(&self, pair: &str, digest: &str, missing: bool, now: Boot) -> bool {
        let keys = lock(&self.keys);
        let Some((written, when)) = keys.get(pair) else { return true };
        let again = if missing { REWRITE_MISSING } else { REWRITE_KEYS };
        written != digest || now.since(*when) >= again
    }

    /// The keys of a pair were written.
    pub fn keys_written(&self, pair: &str, digest: String, now: Boot) {
        let mut keys = lock(&self.keys);
        if keys.len() >= MAX_PAIRS {
            keys.clear();
        }
        keys.insert(pair.to_owned(), (digest, now));
    }
}

async fn open(secret: &Secret) -> Result<(PairRecord, Client), Pairing> {
    let part = |key: &str| {
        let found = secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice());
        found.ok_or_else(|| Pairing::KeyMissing(key.to_owned()))
    };
    let record = PairRecord::parse(part(PAIR_KEY)?).map_err(|e| Pairing::RecordInvalid(chain(&e)))?;
    part(SIGNING_KEY)?;
    let kubeconfig = part(KUBECONFIG_KEY)?;
    // One request to an arbiter is bounded by the pair's own timeout; this bounds all others.
    match client(kubeconfig, Bounds::default()).await {
        Ok(client) => Ok((record, client)),
        Err(error) => Err(Pairing::KubeconfigInvalid(chain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_pair_is_noticed_once() {
        let memory = HomeMemory::default();
        assert_eq!(memory.acts_on("n/x", "old"), None);
        assert_eq!(memory.acts_on("n/x", "old"), None);
        assert_eq!(memory.acts_on("n/y", "new"), None);
        assert_eq!(memory.acts_on("n/x", "new").as_deref(), Some("old"));
        assert_eq!(memory.acts_on("n/x", "new"), None);
    }

    #[test]
    fn keys_are_written_when_they_change_and_again_after_a_while() {
        let memory = HomeMemory::default();
        let at = |s| Boot(Duration::from_secs(s));
        assert!(memory.keys_due("p", "a", false, at(0)));
        memory.keys_written("p", "a".into(), at(0));
        assert!(!memory.keys_due("p", "a", false, at(599)));
        assert!(memory.keys_due("p", "b", false, at(1)));
        assert!(memory.keys_due("p", "a", true, at(30)));
        assert!(memory.keys_due("p", "a", false, at(600)));
    }
}
