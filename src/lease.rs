//! Input and output of the ledgers. The rules are in [`crate::domain::writ`]; this file only
//! carries requests: one in flight per arbiter, each with a timeout, without the client's retries.
//!
//! One background task per pair and part. A task lives as long as somebody `ensure`s it; it is
//! never the reconciler's own task, because a reconcile may hang on a dead peer while a permit
//! runs out.

use crate::api::ledger::{Ledger, LedgerError, Writ};
use crate::api::pair::PairRecord;
use crate::clock::{Boot, boottime, now};
use crate::domain::writ::{
    HomeWant, Sighting, embassy_permits, home_permits, home_turn, may_write, override_writ,
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;

/// How often a turn that lost a race is begun again at once.
const CONFLICT_RETRIES: usize = 3;

/// Why a turn at a ledger failed. The next turn begins with a read.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No answer in time; the request may still land.
    #[error("no answer from the ledger's API server within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Refused or broken off.
    #[error("the ledger's API server refused or broke off")]
    Api(#[source] Box<kube::Error>),
    /// Someone else wrote meanwhile.
    #[error("the ledger was changed meanwhile")]
    Conflict,
    /// The epoch would fall (rule 5).
    #[error(
        "epoch {epoch} would be written for {name} over epoch {stands}, and epochs only rise: nothing was written; \
         it is decided anew on what stands now"
    )]
    Lower {
        /// The DataEmbassy.
        name: String,
        /// What was to be written.
        epoch: u64,
        /// What stands.
        stands: u64,
    },
    /// The Lease is not a ledger.
    #[error("the Lease is not a ledger")]
    Content(#[from] LedgerError),
}

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
    /// Turns that have ended since this process began, well or badly; lost races do not count.
    pub turns: u64,
}

/// What the embassy's watcher of its own ledger knows.
#[derive(Clone, Debug, Default)]
pub struct EmbassyView {
    /// The ledger as last read; `None` until the first read, and again while it cannot be read.
    pub ledger: Option<Ledger>,
    /// The Lease that `ledger` was read from: a claim carries its `resourceVersion`.
    pub lease: Option<Lease>,
    /// Rule 3's timer.
    pub sighting: Sighting,
    /// DataEmbassy name -> until when this site may write it.
    pub permits: BTreeMap<String, Boot>,
    /// Why the last read failed, for people.
    pub last_error: Option<String>,
}

/// All keepers and watchers of this process.
#[derive(Clone, Default)]
pub struct LedgerHub {
    home: Arc<Mutex<BTreeMap<String, HomeKeeper>>>,
    embassy: Arc<Mutex<BTreeMap<String, EmbassyWatcher>>>,
}

/// What an update of the ledger is made from.
struct Seen {
    lease: Lease,
    ledger: Ledger,
    /// Rule 3's timer as it stood when `lease` was read.
    sighting: Sighting,
}

struct HomeKeeper {
    shared: Arc<Mutex<HomeShared>>,
    task: AbortHandle,
}

struct HomeShared {
    client: Client,
    wants: BTreeMap<String, HomeWant>,
    view: HomeView,
}

struct EmbassyWatcher {
    view: Arc<Mutex<EmbassyView>>,
    task: AbortHandle,
}

/// A poisoned lock means that a task panicked between two assignments of plain data; the data is
/// still a view, and losing the beat would fence a healthy home.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LedgerHub {
    /// What is known of the ledger of pair `pair` as home.
    #[must_use]
    pub fn home(&self, pair: &str) -> HomeView {
        lock(&self.home).get(pair).map(|k| lock(&k.shared).view.clone()).unwrap_or_default()
    }

    /// What is known of the ledger of pair `pair` as embassy.
    #[must_use]
    pub fn embassy(&self, pair: &str) -> EmbassyView {
        lock(&self.embassy).get(pair).map(|w| lock(&w.view).clone()).unwrap_or_default()
    }

    /// Keeps the beat at the ledger of `pair` over `client` (home's narrow identity in the embassy),
    /// and wants a writ for DataEmbassy `name`. Cheap when nothing changed.
    pub fn ensure_home(&self, pair: &PairRecord, client: Client, holder: &str, name: &str, want: HomeWant) {
        let mut keepers = lock(&self.home);
        let keeper = keepers.entry(pair.id.clone()).or_insert_with(|| {
            let shared = Arc::new(Mutex::new(HomeShared {
                client: client.clone(),
                wants: BTreeMap::new(),
                view: HomeView::default(),
            }));
            let task = tokio::spawn(keep(pair.clone(), holder.to_owned(), shared.clone()));
            HomeKeeper { shared, task: task.abort_handle() }
        });
        let mut shared = lock(&keeper.shared);
        shared.client = client;
        shared.wants.insert(name.to_owned(), want);
    }

    /// DataEmbassy `name` is gone; the beat ends with the last one of its pair.
    pub fn forget_home(&self, pair: &str, name: &str) {
        let mut keepers = lock(&self.home);
        let Some(keeper) = keepers.get(pair) else { return };
        let empty = {
            let mut shared = lock(&keeper.shared);
            shared.wants.remove(name);
            shared.wants.is_empty()
        };
        if empty {
            keeper.task.abort();
            keepers.remove(pair);
        }
    }

    /// Watches the ledger of `pair` in this operator's own cluster.
    pub fn ensure_embassy(&self, pair: &PairRecord, client: &Client) {
        let mut watchers = lock(&self.embassy);
        watchers.entry(pair.id.clone()).or_insert_with(|| {
            let view = Arc::new(Mutex::new(EmbassyView::default()));
            let task = tokio::spawn(watch(pair.clone(), client.clone(), view.clone()));
            EmbassyWatcher { view, task: task.abort_handle() }
        });
    }

    /// The pair is retired.
    pub fn forget_embassy(&self, pair: &str) {
        if let Some(watcher) = lock(&self.embassy).remove(pair) {
            watcher.task.abort();
        }
    }

    /// Writes one writ into the embassy's ledger at exactly the version that the view holds.
    ///
    /// # Errors
    /// [`LeaseError::Conflict`] if the ledger changed since: then the claim is dead and the timer
    /// starts anew with the next read. [`LeaseError::Lower`] if the epoch would fall.
    pub async fn write_writ(
        &self,
        pair: &PairRecord,
        client: &Client,
        name: &str,
        writ: Writ,
    ) -> Result<(), LeaseError> {
        let view = self.embassy(&pair.id);
        let (Some(lease), Some(ledger)) = (view.lease, view.ledger) else {
            return Err(LeaseError::Conflict);
        };
        let seen = Seen { lease, ledger, sighting: view.sighting };
        self.put_writ(pair, client, name, writ, seen).await
    }

    /// A human's override: the writ that follows on what stands now and on `high_water`, the highest epoch
    /// that was seen. It reads first: a home that beats changes the version every few seconds, and an
    /// update on the version of the last turn could conflict for ever.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub async fn override_writ(
        &self,
        pair: &PairRecord,
        client: &Client,
        name: &str,
        high_water: Option<u64>,
    ) -> Result<Writ, LeaseError> {
        let lease = bounded(pair.lease.timeout.get(), get(&ledger_api(client, pair), &pair.id)).await?;
        let ledger = Ledger::from_lease(&lease)?;
        let writ = override_writ(ledger.writs.get(name), high_water);
        // An override waits for no timer, and leaves none running.
        let seen = Seen { lease, ledger, sighting: Sighting::default() };
        self.put_writ(pair, client, name, writ, seen).await?;
        Ok(writ)
    }

    async fn put_writ(
        &self,
        pair: &PairRecord,
        client: &Client,
        name: &str,
        writ: Writ,
        Seen { lease, mut ledger, sighting }: Seen,
    ) -> Result<(), LeaseError> {
        let sent_on = lease.resource_version().unwrap_or_default();
        let stands = ledger.writs.get(name);
        if !may_write(stands, &writ) {
            let stands = stands.map_or(0, |writ| writ.epoch);
            return Err(LeaseError::Lower { name: name.to_owned(), epoch: writ.epoch, stands });
        }
        ledger.writs.insert(name.to_owned(), writ);
        let next = ledger.into_lease(&lease, None, None)?;
        let api = ledger_api(client, pair);
        let result = bounded(pair.lease.timeout.get(), replace(&api, &next)).await;
        let received = boottime();
        let Some(watcher) = lock(&self.embassy).get(&pair.id).map(|w| w.view.clone()) else {
            return result.map(|_| ());
        };
        let mut view = lock(&watcher);
        match result {
            // The answer is a read of what stands now.
            Ok(lease) => {
                let version = lease.resource_version().unwrap_or_default();
                if !view.sighting.own_write(&sighting, &version) {
                    view.sighting.observe(&version, received);
                }
                view.ledger = Some(ledger);
                view.lease = Some(lease);
                Ok(())
            }
            // The watcher, or a sibling's update, has read what came after: that is not in doubt.
            Err(error @ LeaseError::Conflict) if !view.sighting.is_at(&sent_on) => Err(error),
            // What was read is old, and the request may still land: read again within a turn.
            Err(error) => {
                view.ledger = None;
                view.lease = None;
                view.last_error =
                    Some("an update of the ledger is in doubt and is being read again".to_owned());
                Err(error)
            }
        }
    }
}

fn ledger_api(client: &Client, pair: &PairRecord) -> Api<Lease> {
    Api::namespaced(client.clone(), &pair.embassy_namespace)
}

async fn keep(pair: PairRecord, holder: String, shared: Arc<Mutex<HomeShared>>) {
    let mut known: Option<Lease> = None;
    let mut ticks = ticker(pair.lease.retry.get());
    loop {
        ticks.tick().await;
        let (client, wants) = {
            let shared = lock(&shared);
            (shared.client.clone(), shared.wants.clone())
        };
        let mut turn = home_turn_at(&pair, &holder, &client, known.take(), &wants).await;
        // Another replica beat us to it, at a rollout the old one: that says nothing against home, so
        // it is asked again at once, and only a few times.
        for _ in 0..CONFLICT_RETRIES {
            if !matches!(turn.1, Err(LeaseError::Conflict)) {
                break;
            }
            turn = home_turn_at(&pair, &holder, &client, None, &wants).await;
        }
        let (seen, outcome) = turn;
        let mut shared = lock(&shared);
        let view = &mut shared.view;
        // A turn that only lost a race has heard nothing: a starting operator must not stop a healthy
        // home for it.
        view.turns += u64::from(!matches!(outcome, Err(LeaseError::Conflict)));
        // Also a turn whose update failed may have read that the writ is lost.
        view.ledger = seen.or(view.ledger.take());
        match outcome {
            Ok(done) => {
                for (name, until) in done.permits {
                    let permit = view.permits.entry(name).or_insert(until);
                    *permit = until.max(*permit);
                }
                view.alarms = done.alarms;
                view.last_success = Some(done.sent);
                view.last_error = None;
                known = done.lease;
            }
            // Forget the version: the old request may still land, so the next turn reads first.
            Err(error) => view.last_error = Some(crate::cli::chain(&error)),
        }
    }
}

struct HomeTurnDone {
    /// The answer of the update; `None` when there was nothing to beat for.
    lease: Option<Lease>,
    permits: BTreeMap<String, Boot>,
    alarms: BTreeMap<String, String>,
    sent: Boot,
}

/// One turn of home: read if the version is unknown, then update. A conflict ends the turn.
/// Returns what was seen of the ledger, also when the update failed.
async fn home_turn_at(
    pair: &PairRecord,
    holder: &str,
    client: &Client,
    known: Option<Lease>,
    wants: &BTreeMap<String, HomeWant>,
) -> (Option<Ledger>, Result<HomeTurnDone, LeaseError>) {
    let api = ledger_api(client, pair);
    let timeout = pair.lease.timeout.get();
    let read = match known {
        Some(lease) => Ok(lease),
        None => bounded(timeout, get(&api, &pair.id)).await,
    };
    let (read, ledger) = match read.and_then(|lease| Ok((Ledger::from_lease(&lease)?, lease))) {
        Ok((ledger, lease)) => (lease, ledger),
        Err(error) => return (None, Err(error)),
    };
    let turn = home_turn(&ledger, wants);
    let alarms = turn.alarms.iter().map(|(name, alarm)| (name.clone(), alarm.to_string())).collect();
    let sent = boottime();
    if !turn.names_home() {
        // Nothing here is home's any more: a beat would only get in the way of the embassy.
        return (Some(ledger), Ok(HomeTurnDone { lease: None, permits: BTreeMap::new(), alarms, sent }));
    }
    let update = async {
        let next = turn.next.into_lease(&read, Some(holder), Some(now()))?;
        bounded(timeout, replace(&api, &next)).await
    };
    match update.await {
        Ok(lease) => {
            let permits = home_permits(&turn, sent, pair.lease.renew.get());
            (Some(turn.next), Ok(HomeTurnDone { lease: Some(lease), permits, alarms, sent }))
        }
        Err(error) => (Some(ledger), Err(error)),
    }
}

async fn watch(pair: PairRecord, client: Client, view: Arc<Mutex<EmbassyView>>) {
    let api = ledger_api(&client, &pair);
    let mut ticks = ticker(pair.lease.retry.get());
    loop {
        ticks.tick().await;
        let sent = boottime();
        let result = bounded(pair.lease.timeout.get(), get(&api, &pair.id)).await;
        let received = boottime();
        let read = result.and_then(|lease| Ok((Ledger::from_lease(&lease)?, lease)));
        let mut view = lock(&view);
        match read {
            Ok((ledger, lease)) => {
                let version = lease.resource_version().unwrap_or_default();
                view.sighting.observe(&version, received);
                view.permits = embassy_permits(&ledger, sent, pair.lease.renew.get());
                view.ledger = Some(ledger);
                view.lease = Some(lease);
                view.last_error = None;
            }
            Err(error) => {
                // Unknown means hold: nothing is claimed on a ledger that cannot be read now.
                view.ledger = None;
                view.lease = None;
                view.last_error = Some(crate::cli::chain(&error));
            }
        }
    }
}

/// Ticks that never pile up: a turn that took long is not followed by a burst.
fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

async fn bounded<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, LeaseError>>,
) -> Result<T, LeaseError> {
    tokio::time::timeout(timeout, call).await.unwrap_or(Err(LeaseError::Timeout(timeout)))
}

async fn get(api: &Api<Lease>, pair: &str) -> Result<Lease, LeaseError> {
    api.get(&crate::api::names::ledger(pair)).await.map_err(classify)
}

async fn replace(api: &Api<Lease>, lease: &Lease) -> Result<Lease, LeaseError> {
    api.replace(&lease.name_any(), &PostParams::default(), lease).await.map_err(classify)
}

fn classify(error: kube::Error) -> LeaseError {
    match &error {
        kube::Error::Api(status) if status.code == 409 => LeaseError::Conflict,
        _ => LeaseError::Api(Box::new(error)),
    }
}
