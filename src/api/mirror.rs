//! What home says of its volumes on the mirror, so that the standby can be made before the first
//! dispatch is there (annotation [`super::names::ANNOTATION_VOLUMES`]).

use serde::{Deserialize, Serialize};

/// All volumes of a DataEmbassy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HomeVolumes {
    /// Sorted by name.
    pub volumes: Vec<HomeVolume>,
}

/// One volume at home.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HomeVolume {
    /// Name of the claim.
    pub name: String,
    /// Capacity (Kubernetes quantity).
    pub size: String,
    /// Access modes.
    pub access_modes: Vec<String>,
    /// User of the pod that consumes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<i64>,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<i64>,
    /// Its fsGroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<i64>,
}
