//! The standby's volumes: one claim for each of home's, under the same name.

use super::meta;
use crate::api::DataEmbassy;
use crate::api::mirror::{HomeVolume, HomeVolumes};
use crate::api::names::ANNOTATION_VOLUMES;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Value of the component label.
pub const COMPONENT: &str = "standby";

/// What the mirror says of home's volumes; `None` when it says nothing that parses.
#[must_use]
pub fn home_volumes(object: &DataEmbassy) -> Option<HomeVolumes> {
    let text = object.metadata.annotations.as_ref()?.get(ANNOTATION_VOLUMES)?;
    serde_json::from_str(text).ok()
}

/// The claim for one of home's volumes. No owner: it outlives its mirror.
#[must_use]
pub fn claim(namespace: &str, embassy: &str, class: &str, volume: &HomeVolume) -> PersistentVolumeClaim {
    let modes = if volume.access_modes.is_empty() {
        vec!["ReadWriteOnce".to_owned()]
    } else {
        volume.access_modes.clone()
    };
    PersistentVolumeClaim {
        metadata: meta(namespace, &volume.name, COMPONENT, Some(embassy)),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(modes),
            storage_class_name: Some(class.to_owned()),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(volume.size.clone()))])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The patch that lets a claim grow to `size`.
#[must_use]
pub fn growth(size: &str) -> serde_json::Value {
    serde_json::json!({ "spec": { "resources": { "requests": { "storage": size } } } })
}
