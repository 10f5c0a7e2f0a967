//! Condition types and reasons: the constants, and how a list of conditions is changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types (design section 3). `Ready`, `Reconciling`, `Stalled` follow kstatus.
#[allow(missing_docs, reason = "the names are the API; design section 3 explains them")]
pub mod types {
    pub const READY: &str = "Ready";
    pub const RECONCILING: &str = "Reconciling";
    pub const STALLED: &str = "Stalled";
    pub const HOME_REACHABLE: &str = "HomeReachable";
    pub const EMBASSY_REACHABLE: &str = "EmbassyReachable";
    pub const REPLICA_FRESH: &str = "ReplicaFresh";
    pub const REPLICA_PROVEN: &str = "ReplicaProven";
    pub const KEYS_AVAILABLE: &str = "KeysAvailable";
    pub const QUORUM_AVAILABLE: &str = "QuorumAvailable";
    pub const FENCE_READY: &str = "FenceReady";
    pub const PROMOTION_ALLOWED: &str = "PromotionAllowed";
    pub const ENCRYPTION_VERIFIED: &str = "EncryptionVerified";
    pub const STANDBY_READY: &str = "StandbyReady";
    pub const VAULT_READY: &str = "VaultReady";
    pub const DIVERGENCE_DETECTED: &str = "DivergenceDetected";
}

/// One condition as it should be: type, status and its reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// One of [`types`].
    pub kind: &'static str,
    /// `Some(true)` True, `Some(false)` False, `None` Unknown.
    pub status: Option<bool>,
    /// CamelCase constant.
    pub reason: String,
    /// What it means here and what to do about it.
    pub message: String,
}

impl Wanted {
    /// A condition that is True.
    #[must_use]
    pub fn yes(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(true), reason: reason.to_owned(), message: message.into() }
    }
    /// A condition that is False.
    #[must_use]
    pub fn no(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(false), reason: reason.to_owned(), message: message.into() }
    }
    /// A condition that is Unknown: it always says why.
    #[must_use]
    pub fn unknown(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, status: None, reason: reason.to_owned(), message: message.into() }
    }
}

/// Longest message that the API conventions allow, in bytes.
const MAX_MESSAGE: usize = 32_768;

/// Puts `wanted` into `list`; `lastTransitionTime` moves only when the status does.
pub fn set(list: &mut Vec<Condition>, wanted: &Wanted, generation: Option<i64>, now: jiff::Timestamp) {
    let status = match wanted.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let mut message = wanted.message.clone();
    if message.len() > MAX_MESSAGE {
        let cut = (0..=MAX_MESSAGE).rev().find(|i| message.is_char_boundary(*i));
        message.truncate(cut.unwrap_or(0));
    }
    let old = list.iter().position(|c| c.type_ == wanted.kind);
    let since = old
        .and_then(|i| list.get(i))
        .filter(|c| c.status == status)
        .map_or(Time(now), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: wanted.kind.to_owned(),
        status: status.to_owned(),
        reason: wanted.reason.clone(),
        message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match old.and_then(|i| list.get_mut(i)) {
        Some(slot) => *slot = condition,
        None => list.push(condition),
    }
}

/// The condition of a type.
#[must_use]
pub fn get<'a>(list: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    list.iter().find(|c| c.type_ == kind)
}

/// True if the condition is there and True.
#[must_use]
pub fn is_true(list: &[Condition], kind: &str) -> bool {
    get(list, kind).is_some_and(|c| c.status == "True")
}
