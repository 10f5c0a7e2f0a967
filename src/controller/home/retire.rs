//! What happens when a DataEmbassy is deleted at home: the embassy is told, and only then does the
//! object go. The copy and the repository's password stay.

use super::observation::{Mirror, Observation, Reach};
use crate::api::DataEmbassy;
use crate::api::names::ANNOTATION_ABANDON;
use crate::api::pair::PairRecord;
use crate::controller::home::build::mirror;
use serde::Serialize;

/// What to do about a deletion.
#[derive(Clone, Debug, Serialize)]
pub enum Farewell {
    /// Let it go; why.
    Go(&'static str),
    /// Tell the embassy, then let it go.
    Tell(Box<DataEmbassy>),
    /// Wait.
    Wait {
        /// CamelCase.
        reason: &'static str,
        /// Why, and what to do.
        message: String,
    },
}

/// Why an abandoned one goes.
pub const ABANDONED: &str = "the embassy was abandoned by annotation";

/// A person said that the embassy need not be told.
#[must_use]
pub fn abandoned(object: &DataEmbassy) -> bool {
    let said = object.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION_ABANDON));
    said.is_some_and(|v| v == "true")
}

/// Decides. `pair` is the pair as last known.
#[must_use]
pub fn farewell(seen: &Observation, pair: Option<&PairRecord>) -> Farewell {
    if abandoned(&seen.object) {
        return Farewell::Go(ABANDONED);
    }
    let Some(pair) = pair else {
        return wait(
            "KubeconfigMissing",
            "the kubeconfig Secret is gone, unusable or of another pair, so the embassy cannot be told",
        );
    };
    match &seen.embassy.reach {
        Reach::Reached => {}
        Reach::Unreachable(why) | Reach::Forbidden(why) => {
            return wait("EmbassyUnreachable", &format!("the embassy cannot be told: {why}"));
        }
        Reach::NotAsked => return wait("EmbassyUnreachable", "the embassy has not been asked yet"),
    }
    // The embassy may have taken the writ while no operator looked.
    if seen.status().epoch.is_some() && !seen.writ.read {
        return ledger_unknown(seen);
    }
    let Some(theirs) = &seen.embassy.mirror else { return Farewell::Go("there is no mirror in the embassy") };
    tell(seen, theirs, pair)
}

fn tell(seen: &Observation, theirs: &Mirror, pair: &PairRecord) -> Farewell {
    if theirs.home_uid != seen.object.metadata.uid {
        return Farewell::Go("the mirror belongs to another DataEmbassy of this name");
    }
    if theirs.deleting || theirs.spec.as_ref().is_some_and(|spec| spec.retired) {
        return Farewell::Go("the embassy knows that it is retired");
    }
    if seen.writ.odd() || seen.status().epoch.is_some_and(|e| e % 2 != 0) {
        // `retired` stops the standby, and that is the service now.
        return wait(
            "EmbassyActive",
            "the embassy holds the writ and serves; retiring it now would stop the service",
        );
    }
    if !seen.writ.read {
        return ledger_unknown(seen);
    }
    match mirror::retired(theirs, seen.name(), pair) {
        Some(mirror) => Farewell::Tell(Box::new(mirror)),
        None => wait("HomeTooOld", "the mirror was written by a newer operator; upgrade home's"),
    }
}

fn ledger_unknown(seen: &Observation) -> Farewell {
    let why = seen.writ.last_error.as_deref().unwrap_or("no turn at it has ended yet");
    wait("LedgerUnknown", &format!("it is not known who holds the writ: {why}"))
}

fn wait(reason: &'static str, why: &str) -> Farewell {
    Farewell::Wait { reason, message: with_way_out(why) }
}

/// What keeps a deletion waiting, with the way out that is always there.
#[must_use]
pub fn with_way_out(why: &str) -> String {
    format!("{why}; annotate {ANNOTATION_ABANDON}=true to let it go without telling the embassy")
}
