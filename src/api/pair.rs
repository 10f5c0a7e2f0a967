//! The pair record: what both sides of a pair agreed on when `kubectl embassy pair` ran.

use super::duration::Span;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

/// The agreement of one home namespace and one embassy namespace.
///
/// Stored as JSON under [`super::names::PAIR_KEY`]: in the embassy namespace's ConfigMap
/// [`super::names::PAIR_CONFIG_MAP`] and in home's kubeconfig Secret. Both sides check
/// [`crate::domain::writ::check_settings`] before they act on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PairRecord {
    /// Format version, 1.
    pub version: u32,
    /// Random id, so that a rebuilt home can pair again.
    pub id: String,
    /// Namespace at home.
    pub home_namespace: String,
    /// Namespace at the embassy.
    pub embassy_namespace: String,
    /// Home's public signing key: 64 hex digits of the raw ed25519 key.
    pub signing_public_key: String,
    /// Timing of the writ (design section 5).
    #[serde(default)]
    pub lease: LeaseSettings,
    /// How the vault is made and reached.
    #[serde(default)]
    pub vault: VaultSettings,
    /// How long the embassy keeps what home wants gone.
    #[serde(default = "default_retention_floor")]
    pub retention_floor: Span,
}

/// L, R, retry, timeout and rho of design section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaseSettings {
    /// L = D: how long the ledger must stand still before a claim.
    pub duration: Span,
    /// R: from sending a renewal until the site fences itself.
    pub renew: Span,
    /// Time between two turns.
    pub retry: Span,
    /// Timeout of one request to an arbiter.
    pub timeout: Span,
    /// rho in thousandths: greatest error of a clock's rate (10 = 1 %).
    pub rho_permille: u32,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            duration: Span::secs(30),
            renew: Span::secs(15),
            retry: Span::secs(2),
            timeout: Span::secs(3),
            rho_permille: 10,
        }
    }
}

/// How the vault is made and reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VaultSettings {
    /// StorageClass of the vault's volume; must be known to encrypt.
    pub storage_class_name: Option<String>,
    /// Size of the vault's volume (a Kubernetes quantity).
    pub size: String,
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    pub service_type: ServiceType,
    /// `host:port` that home uses instead of what the Service shows; its host enters the
    /// certificate's names.
    pub address: Option<String>,
}

impl Default for VaultSettings {
    fn default() -> Self {
        Self {
            storage_class_name: None,
            size: "10Gi".into(),
            service_type: ServiceType::NodePort,
            address: None,
        }
    }
}

/// The Service types that a vault can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reached through the cluster network only (a mesh or VPN joins the clusters).
    ClusterIP,
    /// Reached at any node's address.
    NodePort,
    /// Reached at the address that the provider gives.
    LoadBalancer,
}

fn default_retention_floor() -> Span {
    Span::secs(30 * 86_400)
}

/// Why a pair record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// Not the JSON of a pair record.
    #[error(
        "the pair record does not parse: it was edited, or is from a newer version; restore it from a backup"
    )]
    Json(#[source] serde_json::Error),
    /// A version from the future.
    #[error("pair record version {0} is not known; upgrade this operator")]
    Version(u32),
    /// The public key is not 32 bytes in hex or not a point of the curve.
    #[error(
        "signingPublicKey in the pair record is not an ed25519 public key in hex; restore the record from a backup"
    )]
    PublicKey,
}

impl PairRecord {
    /// Parses a stored record.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn parse(json: &[u8]) -> Result<Self, PairError> {
        let record: Self = serde_json::from_slice(json).map_err(PairError::Json)?;
        if record.version != 1 {
            return Err(PairError::Version(record.version));
        }
        record.verifying_key()?;
        Ok(record)
    }

    /// Home's public key.
    ///
    /// # Errors
    /// [`PairError::PublicKey`].
    pub fn verifying_key(&self) -> Result<VerifyingKey, PairError> {
        let raw = hex::decode(&self.signing_public_key).map_err(|_| PairError::PublicKey)?;
        let raw: [u8; 32] = raw.try_into().map_err(|_| PairError::PublicKey)?;
        VerifyingKey::from_bytes(&raw).map_err(|_| PairError::PublicKey)
    }
}
