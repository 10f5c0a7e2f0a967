//! The temporary objects of a run: snapshots, claims made from them, the manifests' Secret.

use super::meta;
use crate::api::names::{ANNOTATION_CUT_TIME, COMPONENT_CUT, MANIFESTS_KEY, child};
use crate::controller::home::observation::{Claim, Observation, Temporary};
use crate::domain::storage_size::larger;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Secret, TypedLocalObjectReference,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;

/// Annotation on temporary objects: the claim that they were cut from (too long for a label).
pub const SOURCE: &str = "dataembassy.io/source-claim";
const SNAPSHOT_GROUP: &str = "snapshot.storage.k8s.io";

/// The API of VolumeSnapshots, which has no type in the client library.
#[must_use]
pub fn snapshot_api() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(SNAPSHOT_GROUP, "v1", "VolumeSnapshot"))
}

/// A snapshot of a claim with the driver's default class.
#[must_use]
pub fn snapshot(seen: &Observation, run: &str, claim: &Claim) -> DynamicObject {
    let mut object = DynamicObject::new(&child(run, &short(&claim.name)), &snapshot_api());
    object.metadata = meta(seen, &child(run, &short(&claim.name)), COMPONENT_CUT, Some(run));
    object.metadata.annotations = Some([(SOURCE.to_owned(), claim.name.clone())].into());
    object.data = serde_json::json!({"spec": {"source": {"persistentVolumeClaimName": claim.name}}});
    object
}

/// A claim made from a snapshot, in the same StorageClass as its source.
#[must_use]
pub fn temporary_claim(
    seen: &Observation,
    run: &str,
    claim: &Claim,
    cut: &Temporary,
) -> PersistentVolumeClaim {
    let mut metadata = meta(seen, &cut.name, COMPONENT_CUT, Some(run));
    metadata.annotations = Some([(SOURCE.to_owned(), claim.name.clone())].into());
    let size = cut.restore_size.as_deref().map_or(claim.size.as_str(), |s| larger(s, &claim.size));
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            // A driver may offer many-node volumes only where the source is one; one node is enough.
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: claim.storage_class.clone(),
            data_source: Some(TypedLocalObjectReference {
                api_group: Some(SNAPSHOT_GROUP.to_owned()),
                kind: "VolumeSnapshot".to_owned(),
                name: cut.name.clone(),
            }),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(size.to_owned()))].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// Name of the Secret with a run's manifests.
#[must_use]
pub fn manifests_name(run: &str) -> String {
    child(run, "manifests")
}

/// The Secret with a run's manifests, gathered at the cut.
#[must_use]
pub fn manifests_secret(seen: &Observation, run: &str, cut_time: jiff::Timestamp, gzip: Vec<u8>) -> Secret {
    let mut metadata = meta(seen, &manifests_name(run), COMPONENT_CUT, Some(run));
    metadata.annotations = Some([(ANNOTATION_CUT_TIME.to_owned(), cut_time.to_string())].into());
    Secret {
        metadata,
        data: Some([(MANIFESTS_KEY.to_owned(), ByteString(gzip))].into()),
        ..Secret::default()
    }
}

/// A claim's name as a short, distinct suffix.
fn short(claim: &str) -> String {
    use sha2::Digest as _;
    let mut hash = hex::encode(sha2::Sha256::digest(claim.as_bytes()));
    hash.truncate(10);
    hash
}
