//! The kinds that are restored in the embassy: a closed list.

use super::reserved::Named;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use kube::api::ApiResource;
use serde::Serialize;
use std::fmt;

/// A restored kind, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[allow(missing_docs, reason = "the names are Kubernetes's")]
pub enum Kind {
    ConfigMap,
    Secret,
    ServiceAccount,
    Service,
    StatefulSet,
    Deployment,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::ConfigMap,
        Self::Secret,
        Self::ServiceAccount,
        Self::Service,
        Self::StatefulSet,
        Self::Deployment,
    ];

    /// From a manifest's `apiVersion` and `kind`; `None` for what is not restored.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| {
            let resource = k.resource();
            resource.api_version == api_version && resource.kind == kind
        })
    }

    /// How the API server knows it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
        }
    }

    /// True for what has replicas.
    #[must_use]
    pub fn is_workload(self) -> bool {
        matches!(self, Self::StatefulSet | Self::Deployment)
    }

    /// Which names are reserved for it.
    #[must_use]
    pub fn named(self) -> Named {
        if matches!(self, Self::Secret | Self::ServiceAccount) { Named::Mover } else { Named::Other }
    }

    /// Parses `object` as this kind: home's manifests may be anything.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(self, object: &serde_json::Value) -> Result<(), serde_json::Error> {
        use serde::Deserialize as _;
        match self {
            Self::ConfigMap => ConfigMap::deserialize(object).map(drop),
            Self::Secret => Secret::deserialize(object).map(drop),
            Self::ServiceAccount => ServiceAccount::deserialize(object).map(drop),
            Self::Service => Service::deserialize(object).map(drop),
            Self::StatefulSet => StatefulSet::deserialize(object).map(drop),
            Self::Deployment => Deployment::deserialize(object).map(drop),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
