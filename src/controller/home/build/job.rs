//! The Job that makes a dispatch.

use super::cut::manifests_name;
use super::meta;
use crate::api::names::{
    ANNOTATION_CUT_TIME, ANNOTATION_TRIGGER, CA_CERT, COMPONENT_BACKUP, MANIFESTS_KEY, PASSWORD_KEY,
    SIGNING_KEY, TLS_CERT, TLS_KEY, repository_secret, vault_client_secret,
};
use crate::api::policy::{CopyMethod, MoverSpec};
use crate::controller::home::observation::{Claim, Consumer, Observation};
use crate::controller::home::select;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EmptyDirVolumeSource, EnvVar, KeyToPath, NodeAffinity, NodeSelector,
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaimVolumeSource, PodSecurityContext,
    PodSpec, PodTemplateSpec, SeccompProfile, SecretVolumeSource, SecurityContext, Toleration, Volume,
    VolumeMount,
};
use kube::api::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};

/// A mover that takes longer than a day is stuck.
const DEADLINE_SECONDS: i64 = 86_400;
/// Who runs when nothing is known of the consuming pod.
const NOBODY: i64 = 65_532;
const KEEP_ANY_OWNER: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETFCAP", "MKNOD"];
const SECRETS: &str = "/secrets";

/// What a mover is told.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// Name of the run and of the Job.
    pub run: &'a str,
    /// What asked for it.
    pub trigger: &'a str,
    /// The cut.
    pub cut_time: Timestamp,
    /// The writ's epoch.
    pub epoch: u64,
    /// The pair's id.
    pub pair: &'a str,
    /// `host:port` of the vault.
    pub vault: &'a str,
    /// Image of the mover.
    pub image: &'a str,
    /// Policy's word on movers.
    pub mover: &'a MoverSpec,
    /// How the volumes were cut.
    pub copy_method: CopyMethod,
    /// Volume name -> claim that the mover mounts.
    pub mounts: BTreeMap<String, String>,
}

/// The Job.
#[must_use]
pub fn backup(seen: &Observation, order: &Order<'_>) -> Job {
    let claims = select::claims(&seen.object.spec.volumes, &seen.claims);
    let mut metadata = meta(seen, order.run, COMPONENT_BACKUP, Some(order.run));
    let annotations = [
        (ANNOTATION_CUT_TIME.to_owned(), order.cut_time.to_string()),
        (ANNOTATION_TRIGGER.to_owned(), order.trigger.to_owned()),
    ];
    metadata.annotations = Some(annotations.into());
    let labels = metadata.labels.clone();
    Job {
        metadata,
        spec: Some(JobSpec {
            // Every try is a new run with a new cut: a pod that is started again would stamp old data as new.
            backoff_limit: Some(0),
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
                spec: Some(pod(seen, order, &claims)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn pod(seen: &Observation, order: &Order<'_>, claims: &[&Claim]) -> PodSpec {
    let mut volumes: Vec<Volume> = order
        .mounts
        .iter()
        .enumerate()
        .map(|(i, (_, claim))| Volume {
            name: format!("volume-{i}"),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                // A temporary volume must be writable once, or its journal cannot be replayed.
                read_only: Some(order.copy_method == CopyMethod::Direct),
            }),
            ..Volume::default()
        })
        .collect();
    volumes.extend(secret_volumes(seen, order.run));
    volumes.push(Volume {
        name: "tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    PodSpec {
        affinity: (order.copy_method == CopyMethod::Direct).then(|| beside(claims)).flatten(),
        automount_service_account_token: Some(false),
        containers: vec![container(seen, order)],
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(pod_security(order.mover, claims)),
        tolerations: Some(tolerations(claims)).filter(|t| !t.is_empty()),
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn container(seen: &Observation, order: &Order<'_>) -> Container {
    let mount = |name: String, path: String, read_only: bool| VolumeMount {
        name,
        mount_path: path,
        read_only: Some(read_only),
        ..VolumeMount::default()
    };
    let mut mounts: Vec<VolumeMount> = (order.mounts.keys().enumerate())
        .map(|(i, name)| mount(format!("volume-{i}"), format!("/volumes/{name}"), true))
        .collect();
    for name in ["repository", "vault-client", "signing", "manifests"] {
        mounts.push(mount(name.to_owned(), format!("{SECRETS}/{name}"), true));
    }
    mounts.push(mount("tmp".to_owned(), "/tmp".to_owned(), false));
    let env = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    };
    Container {
        name: "mover".to_owned(),
        image: Some(order.image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["/embassy".to_owned()]),
        args: Some(args(seen, order)),
        // The image is empty but for the binary: everything that looks for a home finds this one.
        env: Some(vec![env("HOME", "/tmp"), env("TMPDIR", "/tmp")]),
        resources: order.mover.resources.clone(),
        security_context: Some(container_security(order.mover)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn args(seen: &Observation, order: &Order<'_>) -> Vec<String> {
    let repository = format!("rest:https://{}/{}/", order.vault, seen.name());
    let client = format!("{SECRETS}/vault-client");
    let pairs = [
        ("--repository", repository),
        ("--password-file", format!("{SECRETS}/repository/{PASSWORD_KEY}")),
        ("--cacert", format!("{client}/{CA_CERT}")),
        ("--client-cert", format!("{client}/{TLS_CERT}")),
        ("--client-key", format!("{client}/{TLS_KEY}")),
        ("--pair", order.pair.to_owned()),
        ("--data-embassy", seen.name().to_owned()),
        ("--manifests", format!("{SECRETS}/manifests/{MANIFESTS_KEY}")),
        ("--epoch", order.epoch.to_string()),
        ("--cut-time", order.cut_time.to_string()),
        ("--signing-key-file", format!("{SECRETS}/signing/{SIGNING_KEY}")),
    ];
    let mut args = vec!["mover".to_owned(), "backup".to_owned(), "--dispatch".to_owned()];
    for (flag, value) in pairs {
        args.extend([flag.to_owned(), value]);
    }
    for name in order.mounts.keys() {
        args.extend(["--volume".to_owned(), format!("{name}=/volumes/{name}")]);
    }
    args
}

fn secret_volumes(seen: &Observation, run: &str) -> Vec<Volume> {
    let kubeconfig = seen.object.spec.embassy.kubeconfig_secret_ref.name.clone();
    let secret = |name: &str, secret: String, items: &[&str]| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            // Readable by whoever the mover runs as; it is the only container of its pod.
            default_mode: Some(0o444),
            items: Some(items.iter().map(|key| item(key)).collect()),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    vec![
        secret("repository", repository_secret(seen.name()), &[PASSWORD_KEY]),
        secret("vault-client", vault_client_secret(seen.name()), &[TLS_CERT, TLS_KEY, CA_CERT]),
        // The kubeconfig in the same Secret is none of the mover's business.
        secret("signing", kubeconfig, &[SIGNING_KEY]),
        secret("manifests", manifests_name(run), &[MANIFESTS_KEY]),
    ]
}

fn item(key: &str) -> KeyToPath {
    KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None }
}

/// The consuming pod's node: a volume that one node holds can be read there only.
fn beside(claims: &[&Claim]) -> Option<Affinity> {
    let shared = |c: &&&Claim| c.access_modes.iter().any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany");
    let node = claims.iter().filter(|c| !shared(c)).find_map(|c| c.consumer.as_ref()?.node.clone())?;
    let requirement = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node]),
    };
    Some(Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![NodeSelectorTerm {
                    match_fields: Some(vec![requirement]),
                    ..NodeSelectorTerm::default()
                }],
            }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    })
}

fn consumers<'a>(claims: &'a [&Claim]) -> impl Iterator<Item = &'a Consumer> {
    claims.iter().filter_map(|c| c.consumer.as_ref())
}

fn tolerations(claims: &[&Claim]) -> Vec<Toleration> {
    let mut all: Vec<Toleration> = vec![];
    for toleration in consumers(claims).flat_map(|c| &c.tolerations) {
        if !all.contains(toleration) {
            all.push(toleration.clone());
        }
    }
    all
}

/// Whom the mover runs as: the policy's word, else root if privileged, else the consuming pod's
/// user. A user that is unknown or root becomes nobody: root without its capabilities reads no more.
fn pod_security(mover: &MoverSpec, claims: &[&Claim]) -> PodSecurityContext {
    let first = consumers(claims).find(|c| c.run_as_user.is_some());
    let user = match first.and_then(|c| c.run_as_user) {
        _ if mover.privileged => 0,
        None | Some(0) => NOBODY,
        Some(user) => user,
    };
    let group = first.and_then(|c| c.run_as_group).or_else(|| (user == NOBODY).then_some(NOBODY));
    let fs_group = consumers(claims).find_map(|c| c.fs_group);
    let groups: BTreeSet<i64> = consumers(claims)
        .flat_map(|c| c.supplemental_groups.iter().copied().chain(c.fs_group).chain(c.run_as_group))
        .filter(|g| *g != 0 && Some(*g) != fs_group && Some(*g) != group)
        .collect();
    let computed = PodSecurityContext {
        run_as_user: Some(user),
        run_as_group: if mover.privileged { Some(0) } else { group },
        run_as_non_root: (!mover.privileged).then_some(true),
        fs_group: if mover.privileged { None } else { fs_group },
        // Anything else would change the owners of what is about to be copied.
        fs_group_change_policy: fs_group.filter(|_| !mover.privileged).map(|_| "OnRootMismatch".to_owned()),
        supplemental_groups: Some(groups.into_iter().collect::<Vec<_>>())
            .filter(|g| !g.is_empty() && !mover.privileged),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    };
    mover.security_context.as_ref().map_or(computed.clone(), |wanted| overlay(computed, wanted))
}

/// The policy's fields over the computed ones.
fn overlay(mut base: PodSecurityContext, wanted: &PodSecurityContext) -> PodSecurityContext {
    let wanted = wanted.clone();
    if wanted.run_as_user == Some(0) {
        base.run_as_non_root = None;
    }
    PodSecurityContext {
        run_as_user: wanted.run_as_user.or(base.run_as_user),
        run_as_group: wanted.run_as_group.or(base.run_as_group),
        run_as_non_root: wanted.run_as_non_root.or(base.run_as_non_root),
        fs_group_change_policy: wanted
            .fs_group_change_policy
            .or(base.fs_group_change_policy)
            .or_else(|| wanted.fs_group.map(|_| "OnRootMismatch".to_owned())),
        fs_group: wanted.fs_group.or(base.fs_group),
        supplemental_groups: wanted.supplemental_groups.or(base.supplemental_groups),
        seccomp_profile: wanted.seccomp_profile.or(base.seccomp_profile),
        ..wanted
    }
}

fn container_security(mover: &MoverSpec) -> SecurityContext {
    let keep = KEEP_ANY_OWNER.iter().map(|c| (*c).to_owned()).collect();
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: mover.privileged.then_some(keep),
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
