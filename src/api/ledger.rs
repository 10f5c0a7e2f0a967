//! The ledger: one Lease per pair at every arbiter, with the beat and the writs (design section 5).
//!
//! The writs live in the annotation [`WRITS`] as a JSON map; the beat is `spec.renewTime` (it is
//! information only: nothing is ever decided by its value) and L is `spec.leaseDurationSeconds`.
//! It is one object because any renewal must kill every claim in flight.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Annotation with the writs: JSON, DataEmbassy name -> [`Writ`].
pub const WRITS: &str = "dataembassy.io/writs";

/// The record of which site may write one DataEmbassy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Writ {
    /// Even names home, odd names the embassy; it only rises.
    pub epoch: u64,
    /// The holder is giving it away: no permit is renewed any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yielding: bool,
    /// Every arbiter was seen at this odd epoch: only then may the embassy start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,
    /// A human took it; the guarantee was suspended and that stays on record.
    #[serde(default, rename = "override", skip_serializing_if = "std::ops::Not::not")]
    pub overridden: bool,
}

/// The two sites of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Site {
    /// Where the services normally run.
    Home,
    /// The foreign cluster.
    Embassy,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Home => "Home",
            Self::Embassy => "Embassy",
        })
    }
}

impl Writ {
    /// The site that the epoch names.
    #[must_use]
    pub const fn site(&self) -> Site {
        if self.epoch.is_multiple_of(2) { Site::Home } else { Site::Embassy }
    }

    /// True if home may be granted a permit by an update that writes this content.
    #[must_use]
    pub const fn grants_home(&self) -> bool {
        matches!(self.site(), Site::Home) && !self.yielding
    }

    /// True if the embassy may be granted a permit by a read that shows this content.
    #[must_use]
    pub const fn grants_embassy(&self) -> bool {
        matches!(self.site(), Site::Embassy) && self.confirmed && !self.yielding
    }
}

/// The content of one ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// DataEmbassy name -> writ.
    pub writs: BTreeMap<String, Writ>,
}

/// Why a Lease is not a ledger. Such an arbiter votes for nobody.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The annotation is there but is not a map of writs.
    #[error(
        "annotation {WRITS} of the ledger does not parse: it was edited by hand or is from a newer version"
    )]
    Json(#[source] serde_json::Error),
    /// The writs cannot be written as JSON.
    #[error("the writs cannot be serialised")]
    Write(#[source] serde_json::Error),
}

impl Ledger {
    /// Reads the content of a Lease. A Lease without the annotation holds no writ yet.
    ///
    /// # Errors
    /// [`LedgerError`]; the caller must treat it as an arbiter that votes for nobody.
    pub fn from_lease(lease: &Lease) -> Result<Self, LedgerError> {
        let text = lease.metadata.annotations.as_ref().and_then(|a| a.get(WRITS));
        let writs = match text {
            None => BTreeMap::new(),
            Some(text) => serde_json::from_str(text).map_err(LedgerError::Json)?,
        };
        Ok(Self { writs })
    }

    /// The Lease to send: `read` with this content, and with a new beat if one is given.
    /// It keeps the `resourceVersion` that was read, so that a stale update is refused.
    ///
    /// # Errors
    /// [`LedgerError::Write`].
    pub fn into_lease(
        &self,
        read: &Lease,
        holder: Option<&str>,
        beat: Option<jiff::Timestamp>,
    ) -> Result<Lease, LedgerError> {
        let mut lease = read.clone();
        let text = serde_json::to_string(&self.writs).map_err(LedgerError::Write)?;
        lease.metadata.annotations.get_or_insert_default().insert(WRITS.to_owned(), text);
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_default();
        if let Some(beat) = beat {
            spec.renew_time = Some(MicroTime(beat));
        }
        if let Some(holder) = holder {
            spec.holder_identity = Some(holder.to_owned());
        }
        Ok(lease)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_ledger_survives_the_lease_and_keeps_its_version() {
        let mut read = Lease::default();
        read.metadata.resource_version = Some("17".into());
        let mut ledger = Ledger::default();
        ledger.writs.insert("a".into(), Writ { epoch: 3, confirmed: true, ..Writ::default() });
        let lease = ledger.into_lease(&read, Some("home/0"), None).unwrap();
        assert_eq!(lease.metadata.resource_version.as_deref(), Some("17"));
        assert_eq!(Ledger::from_lease(&lease).unwrap(), ledger);
    }

    #[test]
    fn a_ledger_edited_by_hand_is_an_error_and_not_an_empty_one() {
        let mut lease = Lease::default();
        lease.metadata.annotations = Some([(WRITS.to_owned(), "{\"a\":{\"epoch\":-1}}".to_owned())].into());
        assert!(Ledger::from_lease(&lease).is_err());
    }
}
