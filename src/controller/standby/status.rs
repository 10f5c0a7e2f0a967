//! Computes the status from what was seen and from what happened, errors included. Pure.

use super::build::vault;
use super::chain::Received;
use super::objects::{Finding, Synced};
use super::observe::Observed;
use super::plan::{Next, Serving, job_end, says};
use super::validate::Verdict;
use crate::api::DataEmbassy;
use crate::api::conditions::{self, Wanted, types};
use crate::api::embassy::{DataEmbassyStatus, Phase, RunState, VaultStatus, VolumeStatus};
use crate::api::ledger::Site;
use crate::api::names::VAULT;
use crate::api::pair::PairRecord;
use crate::vault_client::RepositoryStatus;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

/// What the vault said this turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VaultView {
    /// Its answer about this repository.
    pub status: Option<RepositoryStatus>,
    /// Why there is none.
    pub error: Option<String>,
    /// The newest verified dispatches, oldest first.
    pub verified: Vec<Received>,
    /// Why no dispatch after that is taken.
    pub refused: Option<String>,
}

/// What the status is computed from.
pub struct Facts<'a> {
    /// The mirror.
    pub object: &'a DataEmbassy,
    /// Its pair.
    pub pair: &'a PairRecord,
    /// What was seen.
    pub observed: &'a Observed,
    /// What was judged.
    pub verdict: &'a Verdict,
    /// What the vault said.
    pub vault: &'a VaultView,
    /// Who serves.
    pub serving: &'a Serving,
    /// What is done about restores.
    pub next: &'a Next,
    /// The promotion's conditions.
    pub promotion: &'a [Wanted],
    /// What could not be written this turn.
    pub error: Option<&'a str>,
}

/// Fills in everything but `run` and `lastDispatch`, which [`super::runs`] keeps, and what the
/// promotion keeps.
pub fn fill(status: &mut DataEmbassyStatus, facts: &Facts<'_>, now: jiff::Timestamp) {
    let generation = facts.object.metadata.generation;
    status.observed_generation = generation;
    status.role = Some(Site::Embassy);
    status.pair = Some(facts.pair.id.clone());
    if let Some(writ) = facts.observed.writ {
        status.epoch = status.epoch.max(i64::try_from(writ.epoch).ok());
        status.active_site = Some(writ.site());
    }
    if let Some(received) = facts.vault.verified.last() {
        status.received_sequence = i64::try_from(received.sequence).ok().filter(|n| *n > 0);
    }
    status.volumes = volumes(facts);
    status.vault = published(facts, status.vault.as_ref());
    let mut wanted = facts.verdict.conditions.clone();
    wanted.push(vault_ready(facts));
    wanted.push(proven(facts, status));
    wanted.push(fresh(facts, status, now));
    // Before the summary: a copy whose service cannot be made is not Ready. The rest of the promotion's
    // conditions say what holds a promotion in peace too, and are no fault of the copy.
    wanted.extend(standby(facts, status));
    let phase = phase(facts, status, &wanted);
    wanted.extend(summary(facts, phase, &wanted));
    status.phase = Some(phase);
    for condition in &wanted {
        conditions::set(&mut status.conditions, condition, generation, now);
    }
}

fn volumes(facts: &Facts<'_>) -> Vec<VolumeStatus> {
    let all = facts.verdict.volumes.iter().flat_map(|v| &v.volumes);
    all.map(|volume| {
        let claim = facts.observed.claims.get(&volume.name);
        VolumeStatus {
            name: volume.name.clone(),
            claim: claim.map(kube::ResourceExt::name_any),
            phase: claim.and_then(|c| c.status.as_ref()?.phase.clone()),
        }
    })
    .collect()
}

/// Home sends nothing to a vault that is not published: neither to one whose disk is not known to
/// be encrypted, nor to one without certificates.
fn published(facts: &Facts<'_>, before: Option<&VaultStatus>) -> Option<VaultStatus> {
    let observed = facts.observed;
    let ca = observed.material.authority.as_ref()?;
    if !facts.verdict.storage || observed.certificates.server.as_ref().is_none_or(|s| !s.complete) {
        return None;
    }
    let before = before.map(|vault| vault.address.as_str());
    let address = vault::address(facts.pair, observed.vault.service.as_ref(), &observed.nodes, before)?;
    Some(VaultStatus { address, ca_bundle: ca.cert.clone() })
}

fn vault_ready(facts: &Facts<'_>) -> Wanted {
    let no = |reason: &str, message: String| Wanted::no(types::VAULT_READY, reason, message);
    let observed = facts.observed;
    if !facts.verdict.storage {
        return no("NotAllowed", "the vault is not made on storage that is not known to encrypt".to_owned());
    }
    if observed.certificates.authority.as_ref().is_some_and(|ca| ca.facts.is_none() || !ca.complete) {
        let message = "Secret vault-ca does not hold a certificate and its key: restore it from a backup, or delete it \
                       to make a new authority (home then fetches new certificates)";
        return no("AuthorityDamaged", message.to_owned());
    }
    let status = observed.vault.deployment.as_ref().and_then(|d| d.status.as_ref());
    if status.and_then(|s| s.ready_replicas).unwrap_or_default() < 1 {
        let claim = observed.claims.get(VAULT).and_then(|c| c.status.as_ref()?.phase.as_deref());
        let claim = claim.filter(|phase| *phase != "Bound").map(|phase| format!("; its volume is {phase}"));
        let says =
            observed.vault.pods.iter().find_map(says).unwrap_or_else(|| "its pod is starting".to_owned());
        return no("VaultNotReady", format!("the vault is not ready: {says}{}", claim.unwrap_or_default()));
    }
    if let Some(error) = &facts.vault.error {
        return no("VaultUnreachable", error.clone());
    }
    let Some(vault) = &facts.vault.status else {
        return Wanted::unknown(types::VAULT_READY, "NotAsked", "the vault has not been asked yet");
    };
    if let Some(quota) = vault.quota.filter(|quota| no_room(vault.used, *quota)) {
        let message = format!(
            "the repository has {} of the {quota} bytes of its quota, and one more pack may not fit: raise \
             spec.vault.quota at home",
            vault.used
        );
        return no("QuotaReached", message);
    }
    if vault.fs_total > 0 && vault.free < vault.fs_total / 100 {
        let message =
            format!("{} of {} bytes are free: raise the size of claim {VAULT}", vault.free, vault.fs_total);
        return no("VaultFull", message);
    }
    Wanted::yes(types::VAULT_READY, "VaultAnswers", "the vault answers and has room")
}

/// Most that the mover writes in one piece, a pack of the repository's format.
const PACK: u64 = 32 << 20;

/// True when the vault may refuse the mover's next pack: it refuses what would exceed the quota, so a
/// repository that is full never reaches it. A small quota is told at three quarters.
fn no_room(used: u64, quota: u64) -> bool {
    used >= quota || quota - used < PACK.min(quota / 4)
}

fn proven(facts: &Facts<'_>, status: &DataEmbassyStatus) -> Wanted {
    let kind = types::REPLICA_PROVEN;
    if let Some(refused) = &facts.vault.refused {
        return Wanted::no(kind, "HeaderRefused", refused.clone());
    }
    let failed = status.run.as_ref().filter(|run| run.state == Some(RunState::Failed));
    if let Some(run) = failed {
        let reason = run.reason.as_deref().unwrap_or("Failed");
        let message = run.message.as_deref().unwrap_or_default();
        return Wanted::no(kind, reason, format!("{} (try {}): {message}", run.trigger, run.attempt));
    }
    if let Next::Held(reason, message) = facts.next
        && status.last_dispatch.is_none()
    {
        return Wanted::no(kind, reason, message.clone());
    }
    match (&status.last_dispatch, facts.vault.verified.last()) {
        (Some(dispatch), _) => {
            Wanted::yes(kind, "Proven", format!("dispatch {} was restored and compared", dispatch.sequence))
        }
        (None, Some(received)) => {
            Wanted::no(kind, "Seeding", format!("dispatch {} is being restored", received.sequence))
        }
        (None, None) => Wanted::no(kind, "NothingReceived", "no dispatch has arrived from home yet"),
    }
}

fn fresh(facts: &Facts<'_>, status: &DataEmbassyStatus, now: jiff::Timestamp) -> Wanted {
    let kind = types::REPLICA_FRESH;
    if let Serving::Yes(epoch) = facts.serving {
        return Wanted::unknown(
            kind,
            "Serving",
            format!("the embassy holds the writ (epoch {epoch}): nothing comes from home"),
        );
    }
    let Some(policy) = &facts.observed.policy else {
        return Wanted::unknown(kind, "PolicyNotFound", "without a policy there is no objective");
    };
    let Some(cut) = status.last_dispatch.as_ref().and_then(|d| d.cut_time.as_ref()) else {
        return Wanted::no(kind, "NothingProven", "no dispatch has been proven yet");
    };
    let objective = policy.sync.recovery_point_objective;
    let age = std::time::Duration::try_from(now.duration_since(cut.0)).unwrap_or_default();
    // The age itself is not in the message: it would change the status at every turn.
    let message = format!("the newest proven dispatch was cut at {}; the objective is {objective}", cut.0);
    if age <= objective.get() {
        Wanted::yes(kind, "WithinObjective", message)
    } else {
        Wanted::no(kind, "Stale", message)
    }
}

/// StandbyReady of this turn, or the one before where nothing was synced in this one.
fn standby(facts: &Facts<'_>, status: &DataEmbassyStatus) -> Option<Wanted> {
    let fresh = facts.promotion.iter().rfind(|wanted| wanted.kind == types::STANDBY_READY).cloned();
    fresh.or_else(|| {
        let old = conditions::get(&status.conditions, types::STANDBY_READY)?;
        let no =
            (old.status == "False").then(|| Wanted::no(types::STANDBY_READY, &old.reason, &*old.message));
        no.filter(|_| facts.object.spec.services.is_some())
    })
}

/// Whether every object of the service could be made here. False closes the gate `StandbyIncomplete`,
/// so an object that was made with a change is none.
#[must_use]
pub fn standby_ready(synced: Option<&Synced>, error: Option<&str>) -> Wanted {
    let kind = types::STANDBY_READY;
    let Some(synced) = synced.filter(|_| error.is_none()) else {
        return match error {
            Some(error) => Wanted::no(kind, "ObjectsFailed", format!("{error}; it is tried again")),
            None => {
                Wanted::unknown(kind, "NoServices", "spec.services is not given: the data alone is copied")
            }
        };
    };
    let says = |f: &Finding| format!("{}/{}: {}", f.kind, f.name, f.message);
    if let Some(finding) = synced.findings.iter().find(|f| f.omitted) {
        return Wanted::no(kind, finding.reason, says(finding));
    }
    if synced.sequence.is_none() {
        let message = "no dispatch with manifests has been restored yet: the next one brings them";
        return Wanted::no(kind, "NoManifests", message);
    }
    match synced.findings.first() {
        Some(finding) => Wanted::yes(kind, finding.reason, says(finding)),
        None => Wanted::yes(kind, "Made", "every object of the service stands by"),
    }
}

fn phase(facts: &Facts<'_>, status: &DataEmbassyStatus, wanted: &[Wanted]) -> Phase {
    if facts.object.spec.retired && *facts.serving == Serving::No {
        return Phase::Retired;
    }
    if facts.verdict.stalled.is_some() || facts.verdict.volumes.is_none() {
        return if status.last_dispatch.is_some() { Phase::Degraded } else { Phase::Pending };
    }
    let good = |kind: &str| wanted.iter().find(|w| w.kind == kind).is_some_and(|w| w.status == Some(true));
    if status.last_dispatch.is_some() {
        let all = [types::KEYS_AVAILABLE, types::VAULT_READY, types::REPLICA_PROVEN, types::REPLICA_FRESH];
        let standby = wanted.iter().all(|w| w.kind != types::STANDBY_READY || w.status != Some(false));
        return if standby && all.iter().all(|kind| good(kind)) { Phase::Protected } else { Phase::Degraded };
    }
    if good(types::VAULT_READY) && status.received_sequence.is_some() {
        Phase::Seeding
    } else {
        Phase::Provisioning
    }
}

/// Ready, Reconciling and Stalled, as kstatus reads them.
fn summary(facts: &Facts<'_>, phase: Phase, wanted: &[Wanted]) -> Vec<Wanted> {
    let stalled = facts.verdict.stalled.clone().or_else(|| {
        let serving = facts.object.spec.retired && *facts.serving != Serving::No;
        serving.then(|| {
            let message = "the DataEmbassy was deleted at home while the writ is not known to be home's: nothing is stopped";
            ("RetiredWhileServing".to_owned(), message.to_owned())
        })
    });
    let worst = wanted.iter().find(|w| w.status == Some(false) && w.kind != types::ENCRYPTION_VERIFIED);
    let (reason, message) = match (&stalled, facts.error, worst) {
        (Some((reason, message)), _, _) => (reason.clone(), message.clone()),
        (None, Some(error), _) => ("ApplyFailed".to_owned(), error.to_owned()),
        (None, None, _) if facts.verdict.volumes.is_none() => {
            ("VolumesUnknown".to_owned(), "home has not said yet which volumes there are".to_owned())
        }
        (None, None, Some(worst)) => (worst.reason.clone(), worst.message.clone()),
        (None, None, None) => (format!("{phase:?}"), "a proven copy stands by".to_owned()),
    };
    // kstatus: a retired mirror has nothing left to do.
    let ready = phase == Phase::Protected && facts.error.is_none();
    let moving = !ready && stalled.is_none() && phase != Phase::Retired;
    vec![
        if ready {
            Wanted::yes(types::READY, "Protected", message.clone())
        } else {
            Wanted::no(types::READY, &reason, message.clone())
        },
        if moving {
            Wanted::yes(types::RECONCILING, &reason, message.clone())
        } else {
            Wanted::no(types::RECONCILING, "Settled", "nothing is being changed")
        },
        match stalled {
            Some((reason, message)) => Wanted::yes(types::STALLED, &reason, message),
            None => Wanted::no(types::STALLED, "NotStalled", "nothing needs a person"),
        },
    ]
}

/// True while something moves and the next turn should come soon.
#[must_use]
pub fn is_moving(facts: &Facts<'_>, status: &DataEmbassyStatus) -> bool {
    let running = status.run.as_ref().is_some_and(|run| run.state == Some(RunState::Running));
    let job = facts.observed.restore.job.as_ref().is_some_and(|job| job_end(job).is_none());
    running || job || matches!(status.phase, Some(Phase::Pending | Phase::Provisioning | Phase::Seeding))
}

/// What changed for the worse, or to the good again: type, reason and message of each.
#[must_use]
pub fn changes<'a>(
    before: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    after: &'a [k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
) -> Vec<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    // False is the good state of these, or they repeat what another says.
    let silent = [types::READY, types::RECONCILING, types::DIVERGENCE_DETECTED];
    let spoken = after.iter().filter(|now| !silent.contains(&now.type_.as_str()));
    spoken
        .filter(|now| match conditions::get(before, &now.type_) {
            Some(old) => old.status != now.status || (is_bad(now) && old.reason != now.reason),
            None => is_bad(now),
        })
        .collect()
}

/// True for the bad state of a condition. Of Stalled that is True, and many of its reasons (a policy that
/// is not there, a volume's name that is taken) are said by no other condition.
#[must_use]
pub fn is_bad(condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition) -> bool {
    let bad = if condition.type_ == types::STALLED { "True" } else { "False" };
    condition.status == bad
}

/// The name that a log line gives to an object.
#[must_use]
pub fn label(object: &DataEmbassy) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
