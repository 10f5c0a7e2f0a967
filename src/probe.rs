//! Health checks: the requests; what they mean is decided in [`crate::domain::health`].
//!
//! One background task per DataEmbassy tries its checks, each at its own period, so that a slow
//! reconcile or a hanging server never delays another check. The task ends when the DataEmbassy is
//! forgotten, when the checks change, or when the hub is dropped.

mod names;
mod request;

use crate::api::embassy::HealthStatus;
use crate::api::policy::{FailWhen, HealthCheck};
use crate::clock;
use crate::domain::health::{self, CheckState, Suspicion, Verdict};
use request::Prober;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Most checks of one DataEmbassy (the schema's bound); more are never tried and stay Unknown.
const MAX_CHECKS: usize = 16;
/// Shortest time between two tries, whatever the policy says: a period of 0s must not spin.
const MIN_PERIOD: Duration = Duration::from_millis(100);

/// One check as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckView {
    /// Its name.
    pub name: String,
    /// What it says.
    pub verdict: Verdict,
    /// For people; empty when it works.
    pub message: String,
}

impl CheckView {
    /// As it is shown in status.
    #[must_use]
    pub fn status(&self) -> HealthStatus {
        HealthStatus {
            name: self.name.clone(),
            state: self.verdict.word().to_owned(),
            message: (!self.message.is_empty()).then(|| self.message.clone()),
        }
    }
}

/// Whether home is suspect by these checks.
#[must_use]
pub fn suspicion(fail_when: FailWhen, views: &[CheckView]) -> Suspicion {
    let verdicts: Vec<_> = views.iter().map(|v| (v.name.as_str(), v.verdict.clone())).collect();
    health::suspect(fail_when, &verdicts)
}

/// All probers of this process.
#[derive(Clone, Default)]
pub struct ProbeHub {
    probers: Arc<Mutex<BTreeMap<String, Probed>>>,
}

/// The states of one DataEmbassy's checks, shared with its task.
type States = Arc<Mutex<Vec<CheckState>>>;

struct Probed {
    checks: Vec<HealthCheck>,
    states: States,
    task: AbortHandle,
}

impl Drop for Probed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ProbeHub {
    /// Sees to it that `checks` are tried for DataEmbassy `key` (`namespace/name`). A check that did
    /// not change keeps what is known of it. Call it at every turn, within the tokio runtime.
    pub fn ensure(&self, key: &str, checks: &[HealthCheck]) {
        let Ok(mut probers) = self.probers.lock() else { return };
        let old = probers.get(key);
        if old.is_some_and(|p| p.checks == checks && !p.task.is_finished()) {
            return;
        }
        if checks.is_empty() {
            probers.remove(key);
            return;
        }
        let states: States = Arc::new(Mutex::new(carry_over(old, checks)));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let task = runtime.spawn(probe_all(checks.to_vec(), Arc::clone(&states))).abort_handle();
        probers.insert(key.to_owned(), Probed { checks: checks.to_vec(), states, task });
    }

    /// What is known of the checks of `key`, in the policy's order; empty if it has none.
    #[must_use]
    pub fn view(&self, key: &str) -> Vec<CheckView> {
        let Ok(probers) = self.probers.lock() else { return Vec::new() };
        let Some(probed) = probers.get(key) else { return Vec::new() };
        let states = probed.states.lock().map(|s| s.clone()).unwrap_or_default();
        let now = clock::now();
        probed.checks.iter().zip(states).map(|(check, state)| view(check, &state, now)).collect()
    }

    /// Ends the task of a DataEmbassy that is gone, retired or no longer standby.
    pub fn forget(&self, key: &str) {
        if let Ok(mut probers) = self.probers.lock() {
            probers.remove(key);
        }
    }
}

fn carry_over(old: Option<&Probed>, checks: &[HealthCheck]) -> Vec<CheckState> {
    let known = old.map(|p| (&p.checks, p.states.lock().map(|s| s.clone()).unwrap_or_default()));
    let state_of = |check: &HealthCheck| {
        let (checks, states) = known.as_ref()?;
        states.get(checks.iter().position(|c| c == check)?).cloned()
    };
    checks.iter().map(|check| state_of(check).unwrap_or_default()).collect()
}

fn view(check: &HealthCheck, state: &CheckState, now: jiff::Timestamp) -> CheckView {
    let verdict = health::verdict(state, check, now);
    let message = match &verdict {
        // A first failed try is worth showing although the check still counts as healthy.
        Verdict::Healthy => state.message.clone().unwrap_or_default(),
        Verdict::Failed(why) | Verdict::Unknown(why) => why.clone(),
    };
    CheckView { name: check.name.clone(), verdict, message }
}

async fn probe_all(checks: Vec<HealthCheck>, states: States) {
    let loops = checks
        .iter()
        .enumerate()
        .take(MAX_CHECKS)
        .map(|(index, check)| Box::pin(probe_one(index, check, Arc::clone(&states))));
    futures::future::join_all(loops).await;
}

async fn probe_one(index: usize, check: &HealthCheck, states: States) {
    let prober = Prober::new(check);
    let mut ticks = tokio::time::interval(check.period.get().max(MIN_PERIOD));
    // After a pause (a suspended node) tries must not come in a burst: they would all fail or all
    // succeed together, and a row of tries would say no more than one.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = prober.probe().await;
        let Ok(mut states) = states.lock() else { return };
        let Some(state) = states.get_mut(index) else { return };
        *state = health::observe(state, check, result, clock::now());
    }
}

#[cfg(test)]
mod tests;
