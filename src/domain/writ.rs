//! Who may write (design section 5), as pure functions.
//!
//! Read in this order: [`check_settings`] (why the times fit together), [`home_turn`] and
//! [`home_permits`] (home's half), [`embassy_turn`] and [`embassy_permits`] (the embassy's half).
//! Why there can never be two writers, in short:
//!
//! 1. Home writes only until `sent + R` of an update that it made to the ledger, and that update
//!    changed the ledger's version.
//! 2. The embassy claims only after it has seen one version of the ledger for L, by its own clock
//!    and counted from the *receipt* of the first read: so home sent nothing that landed since, and
//!    by [`check_settings`] home's last permit has lapsed and its writers are dead.
//! 3. A late update of home's that still lands carries an old `resourceVersion` and is refused once
//!    the claim stands; one that lands before kills the claim in the same way.
//! 4. Epochs only rise, so an old ledger that comes back grants nothing.
//!
//! The arbiters so far are `Embassy` (one ledger, E) and `Home` (none: only a human moves the
//! writ). The rules for a witness extend these functions and do not replace them.

use super::boot::Boot;
use crate::api::duration::Span;
use crate::api::embassy::Arbiter;
use crate::api::ledger::{Ledger, Site, Writ};
use crate::api::pair::LeaseSettings;
use crate::api::policy::Fencing;
use std::collections::BTreeMap;
use std::time::Duration;

/// Settings under which two sites could write at once, or a healthy home would lose its permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// `(R + K + F) * (1 + rho) / (1 - rho) <= L` does not hold.
    #[error(
        "unsafe lease settings: (renew {renew} + maxPause {pause} + maxFenceTime {fence}) * (1+rho)/(1-rho) \
         is {sum_ms} ms and must be at most duration {duration}; raise the duration or lower the others"
    )]
    TooShort {
        /// R.
        renew: Span,
        /// K.
        pause: Span,
        /// F.
        fence: Span,
        /// L.
        duration: Span,
        /// The left side in milliseconds.
        sum_ms: u128,
    },
    /// `R >= 2 * (1.2 * retry + timeout)` does not hold.
    #[error(
        "unstable lease settings: renew {renew} must be at least 2 * (1.2 * retry {retry} + timeout {timeout}) \
         = {least_ms} ms, or one lost request fences a healthy home"
    )]
    RenewTooShort {
        /// R.
        renew: Span,
        /// Time between two turns.
        retry: Span,
        /// Timeout of one request.
        timeout: Span,
        /// The right side in milliseconds.
        least_ms: u128,
    },
    /// rho is 100 % or more.
    #[error("rhoPermille must be below 1000, it is {0}")]
    Rho(u32),
}

/// Refuses settings that break the safety rule. Both sites call it before they act.
///
/// # Errors
/// [`SettingsError`] with the numbers in its message.
pub fn check_settings(lease: &LeaseSettings, fencing: &Fencing) -> Result<(), SettingsError> {
    if lease.rho_permille >= 1000 {
        return Err(SettingsError::Rho(lease.rho_permille));
    }
    let rho = u128::from(lease.rho_permille);
    let left = lease.renew.get() + fencing.max_pause.get() + fencing.max_fence_time.get();
    // Rounded up: half a millisecond too little would be half a millisecond of two writers.
    let sum_ms = (left.as_nanos() * (1000 + rho)).div_ceil((1000 - rho) * 1_000_000);
    if sum_ms > lease.duration.get().as_millis() {
        return Err(SettingsError::TooShort {
            renew: lease.renew,
            pause: fencing.max_pause,
            fence: fencing.max_fence_time,
            duration: lease.duration,
            sum_ms,
        });
    }
    let least = 2 * (lease.retry.get() * 12 / 10 + lease.timeout.get());
    if lease.renew.get() < least {
        return Err(SettingsError::RenewTooShort {
            renew: lease.renew,
            retry: lease.retry,
            timeout: lease.timeout,
            least_ms: least.as_millis(),
        });
    }
    Ok(())
}

/// What home wants of the ledger for one DataEmbassy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HomeWant {
    /// Highest epoch that home has ever seen (`status.epoch`); `None` if it never had a writ.
    pub high_water: Option<u64>,
}

/// Why an arbiter's ledger votes for nobody (rule 9).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// The writ is gone although home had one.
    #[error(
        "the ledger holds no writ although epoch {high_water} was seen: the embassy's API server was \
         restored from an old backup or the ledger was edited; a human must override"
    )]
    Missing {
        /// Home's high-water mark.
        high_water: u64,
    },
    /// The epoch is below one that was seen.
    #[error(
        "the ledger shows epoch {epoch} although {high_water} was seen: the embassy's API server was \
         restored from an old backup; a human must override"
    )]
    Behind {
        /// The ledger's epoch.
        epoch: u64,
        /// Home's high-water mark.
        high_water: u64,
    },
}

/// Result of [`home_turn`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HomeTurn {
    /// The content to write.
    pub next: Ledger,
    /// DataEmbassies for which this ledger votes for nobody.
    pub alarms: BTreeMap<String, Alarm>,
}

impl HomeTurn {
    /// True if any writ of the ledger still names home, so that there is something to beat for.
    #[must_use]
    pub fn names_home(&self) -> bool {
        self.next.writs.values().any(|writ| writ.site() == Site::Home)
    }
}

/// Home's turn at one arbiter: the content of its next update. It never touches an odd epoch.
#[must_use]
pub fn home_turn(seen: &Ledger, wants: &BTreeMap<String, HomeWant>) -> HomeTurn {
    let mut turn = HomeTurn { next: seen.clone(), alarms: BTreeMap::new() };
    for (name, want) in wants {
        match (seen.writs.get(name), want.high_water) {
            (None, None) => {
                turn.next.writs.insert(name.clone(), Writ::default());
            }
            (None, Some(high_water)) => {
                turn.alarms.insert(name.clone(), Alarm::Missing { high_water });
            }
            (Some(writ), Some(high_water)) if writ.epoch < high_water => {
                turn.alarms.insert(name.clone(), Alarm::Behind { epoch: writ.epoch, high_water });
            }
            (Some(_), _) => {}
        }
    }
    turn
}

/// The permits that a *successful* update grants home: until `sent + R`, where `sent` was read
/// before the request left (counting from the answer would stretch R by the network's delay).
#[must_use]
pub fn home_permits(turn: &HomeTurn, sent: Boot, renew: Duration) -> BTreeMap<String, Boot> {
    let granted =
        turn.next.writs.iter().filter(|(name, writ)| writ.grants_home() && !turn.alarms.contains_key(*name));
    granted.map(|(name, _)| (name.clone(), sent.plus(renew))).collect()
}

/// Whether home may run the writers of one DataEmbassy now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HomeRight {
    /// It may, until the given moment (`None`: until a human overrides, arbiter `Home`).
    Granted(Option<Boot>),
    /// Nothing is known yet: no turn at the ledger has ended since this process started.
    Unknown,
    /// It may not.
    Denied(String),
}

/// Evidence for [`home_right`].
#[derive(Clone, Copy, Debug)]
pub struct HomeEvidence<'a> {
    /// Who keeps the ledger.
    pub arbiter: Arbiter,
    /// Highest epoch seen; `None`: this DataEmbassy never had a writ, so nobody can have claimed it.
    pub high_water: Option<u64>,
    /// The writ as last seen by this process.
    pub writ: Option<&'a Writ>,
    /// True once this process has read the ledger, whatever it held.
    pub read: bool,
    /// Permit from [`home_permits`].
    pub permit: Option<Boot>,
    /// True once a turn at the ledger has ended, well or badly.
    pub asked: bool,
}

/// Whether home may write now. Without evidence it may not.
#[must_use]
pub fn home_right(evidence: &HomeEvidence<'_>, now: Boot) -> HomeRight {
    let seen = evidence.writ.map_or(0, |w| w.epoch).max(evidence.high_water.unwrap_or(0));
    if !seen.is_multiple_of(2) {
        return HomeRight::Denied(format!("epoch {seen} names the embassy"));
    }
    if evidence.writ.is_some_and(|w| w.yielding) {
        return HomeRight::Denied(format!("epoch {seen} is being yielded"));
    }
    // A DataEmbassy that was made anew knows nothing of the one before it: the embassy may hold the
    // writ. Nothing is stopped for that, and nothing that was fenced is let go either.
    if evidence.high_water.is_none() && evidence.writ.is_none() && !evidence.read {
        return HomeRight::Unknown;
    }
    match (evidence.arbiter, evidence.permit) {
        (Arbiter::Home, _) => HomeRight::Granted(None),
        (Arbiter::Embassy, Some(until)) if now < until => HomeRight::Granted(Some(until)),
        // Never had a writ: the embassy cannot claim what is not in the ledger, so nothing is to be fenced.
        (Arbiter::Embassy, _) if evidence.high_water.is_none() && evidence.writ.is_none() => {
            HomeRight::Granted(None)
        }
        (Arbiter::Embassy, _) if !evidence.asked => HomeRight::Unknown,
        (Arbiter::Embassy, Some(_)) => HomeRight::Denied("the permit has lapsed".into()),
        (Arbiter::Embassy, None) => HomeRight::Denied("no arbiter has granted a permit".into()),
    }
}

/// What the embassy does next about one writ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbassyTurn {
    /// Nothing; says why.
    Wait(EmbassyWait),
    /// Write this writ, with the `resourceVersion` that was read (rule 3).
    Claim(Writ),
    /// Write this writ, with the `resourceVersion` that was read (rule 4).
    Confirm(Writ),
    /// The ledger names the embassy: it may write by [`embassy_permits`].
    Held,
}

/// Why the embassy waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbassyWait {
    /// The ledger could not be read.
    #[error("the ledger is not known: {0}")]
    NoArbiter(String),
    /// The ledger lost what was seen before (rule 9): it votes for nobody.
    #[error(
        "the ledger shows {} although epoch {high_water} was seen: it was lost, or restored from an old backup; \
         make sure that home is stopped, then run `kubectl embassy promote --override`",
        epoch.map_or_else(|| "no writ".to_owned(), |epoch| format!("epoch {epoch}"))
    )]
    Behind {
        /// What it shows.
        epoch: Option<u64>,
        /// The embassy's high-water mark.
        high_water: u64,
    },
    /// Home never made a writ for this DataEmbassy.
    #[error("home has not written this DataEmbassy into the ledger yet")]
    NoWrit,
    /// The ledger changed less than L ago.
    #[error("the ledger has stood still for {unchanged_ms} of {needed_ms} ms")]
    LeaseNotExpired {
        /// By this process's clock, from receipt.
        unchanged_ms: u128,
        /// L.
        needed_ms: u128,
    },
    /// Arbiter `Home`: only a human moves the writ.
    #[error("arbiter is Home: only an override by a human at the embassy moves the writ")]
    OverrideRequired,
    /// The writ is being given back.
    #[error("the writ is being yielded")]
    Yielding,
}

/// The embassy's turn for one DataEmbassy, when home is judged lost.
///
/// `unchanged_for` is counted by this process alone, from the receipt of the first read of the
/// version that it saw; a restart begins anew (rule 3).
#[must_use]
pub fn embassy_turn(
    arbiter: Arbiter,
    writ: Result<Option<&Writ>, &str>,
    unchanged_for: Option<Duration>,
    duration: Duration,
) -> EmbassyTurn {
    let writ = match writ {
        Err(why) => return EmbassyTurn::Wait(EmbassyWait::NoArbiter(why.to_owned())),
        Ok(None) => return EmbassyTurn::Wait(EmbassyWait::NoWrit),
        Ok(Some(writ)) => *writ,
    };
    match writ.site() {
        Site::Embassy if writ.yielding => EmbassyTurn::Wait(EmbassyWait::Yielding),
        Site::Embassy if writ.confirmed => EmbassyTurn::Held,
        Site::Embassy => EmbassyTurn::Confirm(Writ { confirmed: true, ..writ }),
        Site::Home if arbiter == Arbiter::Home => EmbassyTurn::Wait(EmbassyWait::OverrideRequired),
        Site::Home => match unchanged_for {
            Some(unchanged) if unchanged >= duration => EmbassyTurn::Claim(next_odd(&writ)),
            other => EmbassyTurn::Wait(EmbassyWait::LeaseNotExpired {
                unchanged_ms: other.unwrap_or_default().as_millis(),
                needed_ms: duration.as_millis(),
            }),
        },
    }
}

/// Why a ledger that was read votes for nobody: its epoch, or its lack of one, is below `high_water`.
#[must_use]
pub fn behind(writ: Option<&Writ>, high_water: Option<u64>) -> Option<EmbassyWait> {
    let (epoch, high_water) = (writ.map(|writ| writ.epoch), high_water?);
    (epoch < Some(high_water)).then_some(EmbassyWait::Behind { epoch, high_water })
}

/// A human's override: the writ to write at E at once. The guarantee is suspended, and that stays
/// on record in the ledger.
///
/// A ledger that lost its writ, or shows less than `high_water`, has forgotten epochs: the next odd one
/// above all that were seen, so that home, which may remember more, is not let go by a repeated one.
#[must_use]
pub fn override_writ(writ: Option<&Writ>, high_water: Option<u64>) -> Writ {
    let seen = match (behind(writ, high_water), writ) {
        (None, Some(writ)) if writ.site() == Site::Embassy => {
            return Writ { confirmed: true, overridden: true, yielding: false, ..*writ };
        }
        _ => writ.map(|writ| writ.epoch).max(high_water).unwrap_or_default(),
    };
    let next = next_odd(&Writ { epoch: seen, ..Writ::default() });
    Writ { confirmed: true, overridden: true, ..next }
}

/// A writ may be written over another one only if the epoch does not fall (rule 5).
#[must_use]
pub fn may_write(stands: Option<&Writ>, next: &Writ) -> bool {
    stands.is_none_or(|stands| next.epoch >= stands.epoch)
}

/// The permits that a read of E gives the embassy: until `sent + R` of that read (rule 2).
#[must_use]
pub fn embassy_permits(seen: &Ledger, sent: Boot, renew: Duration) -> BTreeMap<String, Boot> {
    let granted = seen.writs.iter().filter(|(_, writ)| writ.grants_embassy());
    granted.map(|(name, _)| (name.clone(), sent.plus(renew))).collect()
}

/// How long a version of the ledger has been seen by this process (rule 3's timer).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    version: Option<String>,
    since: Boot,
}

impl Sighting {
    /// Notes a read: `received` is the moment its answer came. A new version, or the first one,
    /// starts the timer anew.
    pub fn observe(&mut self, version: &str, received: Boot) {
        if self.version.as_deref() != Some(version) {
            self.version = Some(version.to_owned());
            self.since = received;
        }
    }

    /// Notes our own update: it was sent at the version of `sent_on`, it succeeded, and `version` is
    /// what it made. The timer goes on, or in a pair of many DataEmbassies each takeover would wait for
    /// L after the one before it. `false`: another version has been seen since, and that one counts.
    ///
    /// Why this is safe: that the update succeeded proves that nothing of home's landed since the first
    /// read of the old version, so home's last permit is as old as it was. Every update of home's that
    /// is still in flight carries the old version or an older one and is refused. A new one must first
    /// read ours, and changes the version again: then [`Self::observe`] starts the timer anew.
    pub fn own_write(&mut self, sent_on: &Self, version: &str) -> bool {
        let seen = self.version.as_deref();
        // The watcher may have read our update before its answer came.
        if sent_on.version.is_none() || (seen != sent_on.version.as_deref() && seen != Some(version)) {
            return false;
        }
        *self = Self { version: Some(version.to_owned()), since: sent_on.since };
        true
    }

    /// The version is the one that was read.
    #[must_use]
    pub fn is_at(&self, version: &str) -> bool {
        self.version.as_deref() == Some(version)
    }

    /// For how long the version has been seen at `now`; `None` before the first read.
    #[must_use]
    pub fn unchanged_for(&self, now: Boot) -> Option<Duration> {
        self.version.as_ref().map(|_| now.since(self.since))
    }
}

fn next_odd(writ: &Writ) -> Writ {
    Writ { epoch: (writ.epoch + 1) | 1, yielding: false, confirmed: false, overridden: false }
}

#[cfg(test)]
#[path = "writ_tests.rs"]
mod tests;
