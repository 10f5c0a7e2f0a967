//! What home writes into the embassy: the mirrored DataEmbassy and its policy.

use crate::api::embassy::DataEmbassySpec;
use crate::api::mirror::{HomeVolume, HomeVolumes};
use crate::api::names::{ANNOTATION_HOME_UID, ANNOTATION_VOLUMES, LABEL_MANAGED_BY, MANAGER};
use crate::api::pair::PairRecord;
use crate::api::{DataEmbassy, ReplicaPolicy, ReplicaPolicySpec};
use crate::controller::home::observation::{Claim, Mirror, MirroredPolicy, Observation};
use crate::controller::home::select;
use kube::api::ObjectMeta;

/// What home says of its volumes.
#[must_use]
pub fn volumes(seen: &Observation) -> HomeVolumes {
    let claims = select::claims(&seen.object.spec.volumes, &seen.claims);
    HomeVolumes { volumes: claims.into_iter().map(volume).collect() }
}

fn volume(claim: &Claim) -> HomeVolume {
    let consumer = claim.consumer.clone().unwrap_or_default();
    HomeVolume {
        name: claim.name.clone(),
        size: claim.size.clone(),
        access_modes: claim.access_modes.clone(),
        run_as_user: consumer.run_as_user,
        run_as_group: consumer.run_as_group,
        fs_group: consumer.fs_group,
    }
}

/// The mirror to be created or updated; `None` if there is nothing to do. `volumes_known` is false
/// while home's volumes are incomplete: then the annotation stays as it is.
#[must_use]
pub fn wanted(seen: &Observation, pair: &PairRecord, volumes_known: bool) -> Option<DataEmbassy> {
    let mirror = seen.embassy.mirror.as_ref();
    if mirror.is_some_and(|m| m.deleting) || (mirror.is_none() && !volumes_known) {
        return None;
    }
    let fresh = serde_json::to_string(&volumes(seen)).unwrap_or_default();
    let volumes = match mirror.and_then(|m| m.volumes.clone()) {
        Some(old) if !volumes_known => old,
        _ => fresh,
    };
    let uid = seen.object.metadata.uid.clone().unwrap_or_default();
    let spec = DataEmbassySpec { retired: false, ..seen.object.spec.clone() };
    let same = mirror.is_some_and(|m| {
        m.spec.as_ref() == Some(&spec)
            && m.home_uid.as_ref() == Some(&uid)
            && m.volumes.as_ref() == Some(&volumes)
    });
    (!same).then(|| DataEmbassy {
        metadata: metadata(seen.name(), pair, mirror.map(|m| &m.resource_version), &uid, &volumes),
        spec,
        status: None,
    })
}

/// The mirror of a DataEmbassy that was deleted at home; `None` if it says so already or cannot.
#[must_use]
pub fn retired(mirror: &Mirror, name: &str, pair: &PairRecord) -> Option<DataEmbassy> {
    let spec = mirror.spec.clone().filter(|spec| !spec.retired)?;
    let uid = mirror.home_uid.clone().unwrap_or_default();
    let volumes = mirror.volumes.clone().unwrap_or_default();
    Some(DataEmbassy {
        metadata: metadata(name, pair, Some(&mirror.resource_version), &uid, &volumes),
        spec: DataEmbassySpec { retired: true, ..spec },
        status: None,
    })
}

fn metadata(name: &str, pair: &PairRecord, version: Option<&String>, uid: &str, volumes: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(pair.embassy_namespace.clone()),
        resource_version: version.cloned(),
        labels: Some([(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
        annotations: Some(
            [
                (ANNOTATION_HOME_UID.to_owned(), uid.to_owned()),
                (ANNOTATION_VOLUMES.to_owned(), volumes.to_owned()),
            ]
            .into(),
        ),
        ..ObjectMeta::default()
    }
}

/// The mirrored policy to be created or updated; `None` if there is nothing to do.
#[must_use]
pub fn policy(
    name: &str,
    spec: &ReplicaPolicySpec,
    theirs: Option<&MirroredPolicy>,
    pair: &PairRecord,
) -> Option<ReplicaPolicy> {
    if theirs.is_some_and(|t| t.spec.as_ref() == Some(spec)) {
        return None;
    }
    Some(ReplicaPolicy {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(pair.embassy_namespace.clone()),
            resource_version: theirs.map(|t| t.resource_version.clone()),
            labels: Some([(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: spec.clone(),
    })
}
