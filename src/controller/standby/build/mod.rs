//! Makes the objects of the embassy side. Pure: what was observed goes in, objects come out.

pub mod certs;
pub mod restore;
pub mod vault;
pub mod volumes;

use crate::api::DataEmbassy;
use crate::api::names::{LABEL_COMPONENT, LABEL_EMBASSY, LABEL_MANAGED_BY, MANAGER};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource,
    SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use serde::Serialize;
use std::collections::BTreeMap;

/// User and group of pods that need no other.
pub const NOBODY: i64 = 65_532;

/// Why an object could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A certificate could not be made.
    #[error(transparent)]
    Cert(#[from] certs::CertError),
    /// Home has not said yet which volumes there are.
    #[error("the mirror says nothing of home's volumes yet")]
    NoVolumes,
    /// Which volumes a dispatch has is not known.
    #[error("{0}")]
    Volumes(String),
    /// The vault's Service has no address yet.
    #[error("the vault's Service has no address yet")]
    NoService,
}

/// Labels of an object made for a DataEmbassy, or for the whole pair.
#[must_use]
pub fn labels(component: &str, embassy: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (LABEL_COMPONENT.to_owned(), component.to_owned()),
    ]);
    if let Some(embassy) = embassy {
        labels.insert(LABEL_EMBASSY.to_owned(), label_value(embassy));
    }
    labels
}

/// A DataEmbassy's name as a label's value: those are at most 63 characters long.
#[must_use]
pub fn label_value(embassy: &str) -> String {
    if embassy.len() <= 63 { embassy.to_owned() } else { crate::api::names::child(embassy, "de") }
}

/// Metadata of an object.
#[must_use]
pub fn meta(namespace: &str, name: &str, component: &str, embassy: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        labels: Some(labels(component, embassy)),
        ..ObjectMeta::default()
    }
}

/// The reference by which an object goes with its mirror. Never on vault, volumes or keys: a
/// deleted mirror must not take the copy along.
#[must_use]
pub fn owner(object: &DataEmbassy) -> Option<Vec<OwnerReference>> {
    object.controller_owner_ref(&()).map(|reference| vec![reference])
}

/// True if `observed` has everything that `wanted` says, at any depth; what the API server added
/// does not count. Lists must have the same length.
#[must_use]
pub fn covers<T: Serialize>(observed: &T, wanted: &T) -> bool {
    match (serde_json::to_value(observed), serde_json::to_value(wanted)) {
        (Ok(observed), Ok(wanted)) => value_covers(&observed, &wanted),
        _ => false,
    }
}

fn value_covers(observed: &serde_json::Value, wanted: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (observed, wanted) {
        (Value::Object(observed), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            match observed.get(key) {
                Some(observed) => value_covers(observed, wanted),
                // The API server drops empty maps.
                None => wanted.as_object().is_some_and(serde_json::Map::is_empty),
            }
        }),
        (Value::Array(observed), Value::Array(wanted)) => {
            observed.len() == wanted.len() && observed.iter().zip(wanted).all(|(o, w)| value_covers(o, w))
        }
        _ => observed == wanted,
    }
}

/// The container's part of PodSecurity `restricted`.
#[must_use]
pub fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// The runtime's own seccomp filter.
#[must_use]
pub fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

/// A volume from a Secret. World-readable within the pod: without an fsGroup the files belong to
/// root, and movers run as whoever owns the data.
#[must_use]
pub fn secret_volume(name: &str, secret: &str, items: Option<&[(&str, &str)]>) -> Volume {
    let items = items.map(|items| {
        let item = |(key, path): &(&str, &str)| KeyToPath {
            key: (*key).to_owned(),
            path: (*path).to_owned(),
            mode: None,
        };
        items.iter().map(item).collect()
    });
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(0o444),
            items,
            optional: None,
        }),
        ..Volume::default()
    }
}

/// A volume from a ConfigMap.
#[must_use]
pub fn config_volume(name: &str, config: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config.to_owned(),
            default_mode: Some(0o444),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// A volume from a claim.
#[must_use]
pub fn claim_volume(name: &str, claim: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

/// Room for temporary files.
#[must_use]
pub fn scratch_volume(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// Where a volume goes.
#[must_use]
pub fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_api_server_adds_does_not_count_but_drift_does() {
        let wanted = json!({"a": {"b": 1}, "l": [{"x": 1}], "e": {}});
        assert!(covers(&json!({"a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}], "z": 0}), &wanted));
        assert!(!covers(&json!({"a": {"b": 2}, "l": [{"x": 1}]}), &wanted));
        assert!(!covers(&json!({"a": {"b": 1}, "l": []}), &wanted));
        assert!(!covers(&json!({"a": {"b": 1}, "l": [{"x": 1}, {"x": 1}]}), &wanted));
    }

    #[test]
    fn a_label_fits() {
        assert_eq!(label_value("register"), "register");
        assert!(label_value(&"r".repeat(200)).len() <= 63);
    }
}
