//! Metrics of the operator, in the OpenMetrics text format.

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Labels: one DataEmbassy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EmbassyLabels {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// All metrics; cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Reconciles that ended in an error.
    pub reconcile_errors: Family<EmbassyLabels, Counter>,
    /// Reconciles in all.
    pub reconciles: Family<EmbassyLabels, Counter>,
    /// Highest epoch that this site has seen.
    pub epoch: Family<EmbassyLabels, Gauge>,
    /// Unix time of the cut of the newest proven dispatch, seconds.
    pub proven_cut: Family<EmbassyLabels, Gauge<f64, AtomicU64>>,
    /// F as measured last: seconds from the lapse of the permit to the last pod's end.
    pub fence_seconds: Family<EmbassyLabels, Gauge<f64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("data_embassy");
        let (reconcile_errors, reconciles) = (Family::default(), Family::default());
        let (epoch, proven_cut, fence_seconds) = (Family::default(), Family::default(), Family::default());
        registry.register("reconcile_errors", "Reconciles that ended in an error", reconcile_errors.clone());
        registry.register("reconciles", "Reconciles", reconciles.clone());
        registry.register("epoch", "Highest epoch of the writ that this site has seen", epoch.clone());
        registry.register(
            "proven_cut_timestamp_seconds",
            "Cut time of the newest proven dispatch",
            proven_cut.clone(),
        );
        registry.register(
            "fence_seconds",
            "From the lapse of the permit to the end of the last pod, last time",
            fence_seconds.clone(),
        );
        Self { registry: Arc::new(registry), reconcile_errors, reconciles, epoch, proven_cut, fence_seconds }
    }
}

impl Metrics {
    /// The text for `/metrics`.
    ///
    /// # Errors
    /// Only if a metric cannot be formatted.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
