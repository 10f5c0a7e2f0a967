//! The operator: one Controller for DataEmbassies, which plays *home* for those applied here and
//! *embassy* for those mirrored into a namespace that holds a pair record.

pub mod apply;
pub mod home;
pub mod release;
pub mod run;
pub mod standby;

use crate::lease::LedgerHub;
use crate::metrics::Metrics;
use crate::probe::ProbeHub;
use apply::Applier;
use kube::Client;
use kube::runtime::events::Recorder;

/// What every reconcile may use.
#[derive(Clone)]
pub struct Context {
    /// This operator's own cluster.
    pub client: Client,
    /// The only writer, for this cluster.
    pub applier: Applier,
    /// The ledgers' keepers and watchers.
    pub ledgers: LedgerHub,
    /// Writes Events.
    pub recorder: Recorder,
    /// The health checks' tasks.
    pub probes: ProbeHub,
    /// The fences at home.
    pub fences: home::fence::FenceHub,
    /// What the home part remembers between turns (never needed for safety).
    pub home: home::HomeMemory,
    /// What the embassy part remembers between turns (never needed for safety).
    pub standby: standby::StandbyMemory,
    /// Counters and gauges.
    pub metrics: Metrics,
    /// From the command line.
    pub settings: Settings,
}

/// Settings of the operator.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Image of movers and vaults: this operator's own.
    #[arg(long, env = "EMBASSY_IMAGE")]
    pub image: String,
    /// Name of this replica (its pod), shown as the ledger's holder.
    #[arg(long, env = "POD_NAME", default_value = "operator")]
    pub identity: String,
    /// Namespace that the operator runs in.
    #[arg(long, env = "POD_NAMESPACE", default_value = "data-embassy-system")]
    pub namespace: String,
    /// Most movers that run at once in this cluster.
    #[arg(long, env = "EMBASSY_MAX_MOVERS", default_value_t = 4)]
    pub max_movers: u32,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "EMBASSY_ADMIN", default_value = "0.0.0.0:8080")]
    pub admin: std::net::SocketAddr,
}
