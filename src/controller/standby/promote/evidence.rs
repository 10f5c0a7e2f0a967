//! Gathers the evidence for [`crate::domain::promotion::decide`] and writes it into the status.

use super::Input;
use crate::api::conditions::{self, Wanted, types};
use crate::api::embassy::DataEmbassyStatus;
use crate::api::ledger::{Site, Writ};
use crate::api::request::Verb;
use crate::clock::boottime;
use crate::controller::Context;
use crate::domain::health::{self, Suspicion};
use crate::domain::promotion::{Evidence, Proven, Record, Standby};
use crate::domain::writ::{EmbassyTurn, SettingsError, behind, check_settings, embassy_turn};
use crate::probe::{self, CheckView};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use std::time::Duration;

/// What was gathered from probes and ledger.
pub struct Gathered {
    pub suspicion: Suspicion,
    pub checks: Vec<CheckView>,
    pub turn: EmbassyTurn,
    /// The writ as read; `None` if the ledger cannot be read or holds none.
    pub writ: Option<Writ>,
    /// The embassy may write now, by a read of the ledger that is young enough.
    pub permitted: bool,
    /// Every writ of the pair names the embassy and is confirmed.
    pub all_confirmed: bool,
    pub settings: Result<(), SettingsError>,
    unchanged_for: Option<Duration>,
    duration: Duration,
    ledger_error: Option<String>,
}

pub fn gather(ctx: &Context, input: &Input<'_>, status: &DataEmbassyStatus) -> Gathered {
    let name = input.object.name_any();
    let key = format!("{}/{name}", input.pair.embassy_namespace);
    ctx.ledgers.ensure_embassy(input.pair, &ctx.client);
    ctx.probes.ensure(&key, &input.policy.health_checks);
    let checks = ctx.probes.view(&key);
    let suspicion = probe::suspicion(input.policy.promotion.fail_when, &checks);
    let (view, clock) = (ctx.ledgers.embassy(&input.pair.id), boottime());
    let ledger_error = view
        .ledger
        .is_none()
        .then(|| view.last_error.clone().unwrap_or_else(|| "the ledger has not been read yet".to_owned()));
    let writ = view.ledger.as_ref().and_then(|l| l.writs.get(&name)).copied();
    let unchanged_for = view.sighting.unchanged_for(clock);
    let duration = input.pair.lease.duration.get();
    let read = match &ledger_error {
        Some(why) => Err(why.as_str()),
        None => Ok(writ.as_ref()),
    };
    // A ledger below the highest epoch that was ever seen here went back in time: it votes for nobody.
    let high_water = status.epoch.and_then(|epoch| u64::try_from(epoch).ok());
    let turn = match behind(writ.as_ref(), high_water).filter(|_| ledger_error.is_none()) {
        Some(behind) => EmbassyTurn::Wait(behind),
        None => embassy_turn(input.object.spec.embassy.arbiter, read, unchanged_for, duration),
    };
    Gathered {
        suspicion,
        checks,
        turn,
        writ,
        permitted: view.permits.get(&name).is_some_and(|until| clock < *until),
        all_confirmed: view
            .ledger
            .as_ref()
            .is_some_and(|l| !l.writs.is_empty() && l.writs.values().all(Writ::grants_embassy)),
        settings: check_settings(&input.pair.lease, &input.policy.promotion.fencing),
        unchanged_for,
        duration,
        ledger_error,
    }
}

/// Writes what was seen into the status.
pub fn note(gathered: &Gathered, status: &mut DataEmbassyStatus, now: Timestamp) {
    status.health_checks = gathered.checks.iter().map(CheckView::status).collect();
    // Once the writ is taken nothing is decided by this any more, and the record counts from it: a
    // restarted prober that has not seen home yet must not take it away.
    let taken = gathered.writ.is_some_and(|w| w.site() == Site::Embassy) && !gathered.serves(status);
    if !taken {
        let since = status.suspect_since.as_ref().map(|t| t.0);
        status.suspect_since = health::suspect_since(since, &gathered.suspicion, now).map(Time);
    }
    if let Some(writ) = gathered.writ {
        let epoch = i64::try_from(writ.epoch).unwrap_or(i64::MAX);
        status.epoch = status.epoch.max(Some(epoch));
        if status.epoch == Some(epoch) {
            status.active_site = Some(writ.site());
        }
    }
}

impl Gathered {
    /// The evidence, borrowed from what was gathered.
    pub fn evidence<'a>(&'a self, input: &Input<'a>, status: &DataEmbassyStatus) -> Evidence<'a> {
        let open = |verb| input.requests.iter().any(|r| r.spec.verb == verb);
        let request = [Verb::Override, Verb::Promote].into_iter().find(|verb| open(*verb));
        Evidence {
            policy: &input.policy.promotion,
            suspicion: &self.suspicion,
            suspect_since: status.suspect_since.as_ref().map(|t| t.0),
            turn: self.turn.clone(),
            settings: self.settings.clone(),
            proven: proven(status),
            key_present: input.key_present,
            omitted: omitted(input, status),
            hold: input.object.spec.hold.as_ref(),
            retired: input.object.spec.retired,
            last_promotion: status.last_promotion.as_ref().map(|p| p.serving_at.0),
            request,
            promoted: self.serves(status),
        }
    }

    /// What decides on the standby's workloads.
    pub fn record(&self, status: &DataEmbassyStatus) -> Record {
        Record {
            step: status.promotion.as_ref().map(|p| p.step),
            served: status.last_promotion.as_ref().map(|p| p.epoch),
            epoch: status.epoch,
            read: self.ledger_error.is_none(),
            writ: self.writ,
        }
    }

    /// The ledger's epoch is the embassy's and has been promoted to its end.
    pub fn serves(&self, status: &DataEmbassyStatus) -> bool {
        let promoted = status.last_promotion.as_ref().map(|p| p.epoch);
        status.promotion.is_none()
            && self.writ.is_some_and(|w| {
                w.site() == Site::Embassy && w.confirmed && i64::try_from(w.epoch).ok() == promoted
            })
    }

    /// Home is alive as far as its beat tells.
    pub fn home_reachable(&self) -> Wanted {
        let kind = types::HOME_REACHABLE;
        let (limit, suspicion) = (self.duration.as_secs(), &self.suspicion);
        match (self.unchanged_for, &self.ledger_error) {
            (_, Some(why)) => Wanted::unknown(kind, "LedgerUnknown", why.clone()),
            (Some(unchanged), None) if unchanged >= self.duration => {
                Wanted::no(kind, "NoBeat", format!("home has not renewed the ledger for {limit} s"))
            }
            _ => match suspicion {
                Suspicion::Suspect(why) => Wanted::no(kind, "ChecksFail", why.clone()),
                Suspicion::Healthy => Wanted::yes(kind, "Beating", "home renews the ledger, checks are well"),
                Suspicion::Unknown(why) => {
                    Wanted::yes(kind, "Beating", format!("home renews the ledger; checks: {why}"))
                }
            },
        }
    }

    /// Whether the arbiters answer; while the standby serves, whether they still let it.
    pub fn quorum(&self, right: Standby) -> Wanted {
        quorum(right, self.permitted, self.ledger_error.as_deref())
    }
}

/// Rule 2 ends the embassy's permit with its last read. What serves is not stopped for that: nobody but
/// the embassy itself can give its writ away, so it is told and no outage is made of it.
fn quorum(right: Standby, permitted: bool, error: Option<&str>) -> Wanted {
    let kind = types::QUORUM_AVAILABLE;
    match (right, permitted, error) {
        (Standby::Serve, false, _) => {
            let why = error.unwrap_or("the ledger does not name the embassy, or not confirmed");
            let message = format!(
                "the embassy serves without a permit: {why}; see to the ledger (the API server here), or stop the \
                 service by hand if the writ was given away"
            );
            Wanted::no(kind, "PermitLapsed", message)
        }
        (_, _, Some(why)) => Wanted::no(kind, "NoArbiter", why),
        _ => Wanted::yes(kind, "LedgerRead", "the ledger is read at every arbiter"),
    }
}

/// What the last sync could not make; taking the writ for it would stop home for nothing.
fn omitted(input: &Input<'_>, status: &DataEmbassyStatus) -> Option<String> {
    input.object.spec.services.as_ref()?;
    let ready = conditions::get(&status.conditions, types::STANDBY_READY)?;
    (ready.status == "False").then(|| ready.message.clone())
}

fn proven(status: &DataEmbassyStatus) -> Option<Proven> {
    let dispatch = status.last_dispatch.as_ref()?;
    dispatch.proven_time.as_ref()?;
    Some(Proven { sequence: u64::try_from(dispatch.sequence).ok()?, cut_time: dispatch.cut_time.as_ref()?.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lapsed_permit_of_what_serves_is_told() {
        let reason = |right, permitted, error| quorum(right, permitted, error).reason;
        assert_eq!(reason(Standby::Serve, true, None), "LedgerRead");
        assert_eq!(reason(Standby::Serve, true, Some("timeout")), "NoArbiter");
        assert_eq!(reason(Standby::Serve, false, Some("timeout")), "PermitLapsed");
        assert_eq!(reason(Standby::Serve, false, None), "PermitLapsed");
        assert_eq!(reason(Standby::Dark, false, None), "LedgerRead");
        assert_eq!(reason(Standby::Unknown, false, Some("timeout")), "NoArbiter");
    }
}
