//! Makes objects out of an observation. Pure: no meaningful choice is left to who applies them.

pub mod cut;
pub mod job;
pub mod manifests;
pub mod mirror;
pub mod secrets;

use super::observation::Observation;
use crate::api::DataEmbassy;
use crate::api::names::{LABEL_COMPONENT, LABEL_EMBASSY, LABEL_MANAGED_BY, LABEL_RUN, MANAGER};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use kube::api::ObjectMeta;
use std::collections::BTreeMap;

/// Labels of everything that is made at home for this DataEmbassy.
#[must_use]
pub fn labels(seen: &Observation, component: &str) -> BTreeMap<String, String> {
    [(LABEL_MANAGED_BY, MANAGER), (LABEL_EMBASSY, seen.name()), (LABEL_COMPONENT, component)]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// Metadata of a child: it goes with the DataEmbassy.
#[must_use]
pub fn meta(seen: &Observation, name: &str, component: &str, run: Option<&str>) -> ObjectMeta {
    let mut labels = labels(seen, component);
    if let Some(run) = run {
        labels.insert(LABEL_RUN.to_owned(), run.to_owned());
    }
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(seen.namespace().to_owned()),
        labels: Some(labels),
        owner_references: Some(owner(&seen.object).into_iter().collect()),
        ..ObjectMeta::default()
    }
}

fn owner(object: &DataEmbassy) -> Option<OwnerReference> {
    object.controller_owner_ref(&())
}
