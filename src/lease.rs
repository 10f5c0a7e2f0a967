//! Input and output of the ledgers. The rules are in [`crate::domain::writ`]; this file only
//! carries requests, one in flight per arbiter, each with a timeout, without the client's retries.

use crate::api::ledger::Ledger;
use crate::clock::Boot;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What home's keeper of a pair's ledger knows.
#[derive(Clone, Debug, Default)]
pub struct HomeView {
    /// The ledger as last written or read; `None` until the embassy answered once.
    pub ledger: Option<Ledger>,
    /// DataEmbassy name -> until when this site may write it.
    pub permits: BTreeMap<String, Boot>,
    /// When the last update succeeded.
    pub last_success: Option<Boot>,
    /// Why the last turn failed, for people.
    pub last_error: Option<String>,
    /// Alarms by DataEmbassy name: missing writ, epoch below the high-water mark.
    pub alarms: BTreeMap<String, String>,
}

/// What the embassy's watcher of its own ledger knows.
#[derive(Clone, Debug, Default)]
pub struct EmbassyView {
    /// The ledger as last read; `None` until the first read.
    pub ledger: Option<Ledger>,
    /// How long it has stood still by this process's own clock, counted from the receipt of the
    /// first read of its version.
    pub unchanged_for: Option<Duration>,
    /// DataEmbassy name -> until when this site may write it.
    pub permits: BTreeMap<String, Boot>,
    /// Why the last read failed, for people.
    pub last_error: Option<String>,
}

/// All keepers and watchers of this process.
#[derive(Clone, Default)]
pub struct LedgerHub {
    home: Arc<Mutex<BTreeMap<String, HomeView>>>,
    embassy: Arc<Mutex<BTreeMap<String, EmbassyView>>>,
}

impl LedgerHub {
    /// What is known of the ledger of pair `pair` as home.
    #[must_use]
    pub fn home(&self, pair: &str) -> HomeView {
        self.home.lock().map(|m| m.get(pair).cloned().unwrap_or_default()).unwrap_or_default()
    }

    /// What is known of the ledger of pair `pair` as embassy.
    #[must_use]
    pub fn embassy(&self, pair: &str) -> EmbassyView {
        self.embassy.lock().map(|m| m.get(pair).cloned().unwrap_or_default()).unwrap_or_default()
    }
}
