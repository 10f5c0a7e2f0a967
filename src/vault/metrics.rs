//! Counters for Prometheus. Every label comes from a closed set or is a repository's name.

use super::server::Vault;
use http::{Method, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

type Labels = Vec<(&'static str, String)>;
/// A counter by labels.
type Counters = Family<Labels, Counter>;
/// A gauge by repository.
type Gauges = Family<Labels, Gauge>;

/// What the vault counts.
pub struct Metrics {
    registry: Registry,
    requests: Counters,
    commits: Counters,
    reloads: Counters,
    turned_away: Counters,
    /// Body bytes received.
    pub received: Counter,
    /// Open connections.
    pub connections: Gauge,
    used: Gauges,
    quota: Gauges,
    last_sequence: Gauges,
    free: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("embassy_vault");
        let (requests, commits, reloads) = (Counters::default(), Counters::default(), Counters::default());
        let (used, quota, last_sequence) = (Gauges::default(), Gauges::default(), Gauges::default());
        let (turned_away, received) = (Counters::default(), Counter::default());
        let (connections, free): (Gauge, Gauge) = (Gauge::default(), Gauge::default());
        registry.register("requests", "Requests by role, method, kind and status", requests.clone());
        registry.register("commits", "Dispatch commits by outcome", commits.clone());
        registry.register("reloads", "Reloads of watched files by what and result", reloads.clone());
        registry.register("turned_away", "Connections refused, by reason", turned_away.clone());
        registry.register_with_unit("received", "Body bytes received", Unit::Bytes, received.clone());
        registry.register("connections", "Open connections", connections.clone());
        registry.register_with_unit("used", "Bytes used by a repository", Unit::Bytes, used.clone());
        registry.register_with_unit("quota", "Quota of a repository", Unit::Bytes, quota.clone());
        registry.register("last_sequence", "Newest dispatch of a repository", last_sequence.clone());
        registry.register_with_unit("free", "Free bytes on the file system", Unit::Bytes, free.clone());
        Self {
            registry,
            requests,
            commits,
            reloads,
            turned_away,
            received,
            connections,
            used,
            quota,
            last_sequence,
            free,
        }
    }
}

impl Metrics {
    /// Counts one answered request.
    pub fn request(&self, role: &'static str, method: &Method, kind: &'static str, status: StatusCode) {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::DELETE => "DELETE",
            // A client could send a new word each time.
            _ => "other",
        };
        let labels = vec![
            ("role", role.to_owned()),
            ("method", method.to_owned()),
            ("kind", kind.to_owned()),
            ("code", status.as_str().to_owned()),
        ];
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts one commit by its outcome: `Committed`, `Again`, a reason, or `Error`.
    pub fn commit(&self, outcome: &'static str) {
        self.commits.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
    }

    /// Counts one reload of a watched file that changed anything or failed.
    pub fn reload(&self, what: &'static str, ok: bool) {
        let result = if ok { "ok" } else { "error" };
        let labels = vec![("what", what.to_owned()), ("result", result.to_owned())];
        self.reloads.get_or_create(&labels).inc();
    }

    /// Counts one connection that was not served.
    pub fn turned_away(&self, reason: &'static str) {
        self.turned_away.get_or_create(&vec![("reason", reason.to_owned())]).inc();
    }

    /// The text of `/metrics`. What is read now, not counted, is filled in first.
    #[must_use]
    pub fn text(&self, vault: &Vault) -> String {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for repo in vault.committer.store.repos() {
            let labels = vec![("repository", repo.name.as_str().to_owned())];
            self.used.get_or_create(&labels).set(gauge(repo.usage.used()));
            match vault.quotas.get(repo.name.as_str()) {
                Some(quota) => {
                    self.quota.get_or_create(&labels).set(gauge(quota));
                }
                None => {
                    self.quota.remove(&labels);
                }
            }
            // A commit in flight holds the lock; the next scrape will have the number.
            let last = repo.chain.try_lock().ok().and_then(|chain| chain.as_ref()?.last.clone());
            if let Some(last) = last {
                self.last_sequence.get_or_create(&labels).set(gauge(last.sequence));
            }
        }
        if let Ok(space) = vault.committer.store.space() {
            self.free.set(gauge(space.free));
        }
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
