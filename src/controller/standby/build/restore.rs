//! The Job that restores a dispatch into the standby's volumes and proves it, and what it needs.

use super::{
    BuildError, claim_volume, config_volume, meta, mount, owner, restricted, scratch_volume, seccomp,
    secret_volume, vault,
};
use crate::api::DataEmbassy;
use crate::api::mirror::HomeVolumes;
use crate::api::names::{
    self, ANNOTATION_SEQUENCE, ANNOTATION_TRIGGER, EMBASSY_CLIENT_SECRET, KEYS_SECRET, PASSWORD_KEY, VAULT,
};
use crate::api::pair::PairRecord;
use crate::api::policy::MoverSpec;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
    Secret, SecurityContext, ServiceAccount, VolumeMount,
};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use std::collections::BTreeMap;

/// Value of the component label.
pub const COMPONENT: &str = "restore";

/// What a restore Job is made from.
pub struct RestoreInput<'a> {
    /// The mirror.
    pub object: &'a DataEmbassy,
    /// Its pair.
    pub pair: &'a PairRecord,
    /// Home's volumes.
    pub volumes: &'a HomeVolumes,
    /// The policy's part about movers.
    pub mover: &'a MoverSpec,
    /// This operator's image.
    pub image: &'a str,
    /// `host:port` of the vault as this cluster reaches it.
    pub vault: &'a str,
}

/// Name of the restore Job. It is the same for every dispatch on purpose: the API server lets
/// only one object have it, so two restores never write one volume, whichever replica of the
/// operator woke up late.
#[must_use]
pub fn job_name(embassy: &str) -> String {
    names::child(embassy, "restore")
}

/// What a Job was made for: `dispatch/<sequence>/<attempt>`.
#[must_use]
pub fn trigger(sequence: u64, attempt: i32) -> String {
    format!("dispatch/{sequence}/{attempt}")
}

/// Inverse of [`trigger`].
#[must_use]
pub fn parse_trigger(text: &str) -> Option<(u64, i32)> {
    let (sequence, attempt) = text.strip_prefix("dispatch/")?.split_once('/')?;
    Some((sequence.parse().ok()?, attempt.parse().ok()?))
}

/// The trigger that a Job carries.
#[must_use]
pub fn trigger_of(job: &Job) -> Option<(u64, i32)> {
    parse_trigger(job.metadata.annotations.as_ref()?.get(ANNOTATION_TRIGGER)?)
}

/// The Job that restores dispatch `sequence`.
///
/// # Errors
/// [`BuildError::NoVolumes`] without a volume to restore into.
pub fn job(input: &RestoreInput<'_>, sequence: u64, attempt: i32) -> Result<Job, BuildError> {
    if input.volumes.volumes.is_empty() {
        return Err(BuildError::NoVolumes);
    }
    let name = input.object.name_any();
    let mut metadata = meta(&input.pair.embassy_namespace, &job_name(&name), COMPONENT, Some(&name));
    metadata.owner_references = owner(input.object);
    let annotations = BTreeMap::from([
        (ANNOTATION_SEQUENCE.to_owned(), sequence.to_string()),
        (ANNOTATION_TRIGGER.to_owned(), trigger(sequence, attempt)),
    ]);
    metadata.annotations = Some(annotations.clone());
    let labels = metadata.labels.clone();
    Ok(Job {
        metadata,
        spec: Some(JobSpec {
            // The operator tries again itself, with a back-off and with the newest dispatch.
            backoff_limit: Some(0),
            // No ttl: the finished Job keeps its name taken while the standby serves.
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels,
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(input, &name, sequence)),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

fn pod(input: &RestoreInput<'_>, name: &str, sequence: u64) -> PodSpec {
    let mut volumes = vec![
        secret_volume("client", EMBASSY_CLIENT_SECRET, None),
        secret_volume("key", KEYS_SECRET, Some(&[(name, PASSWORD_KEY)])),
        config_volume("config", VAULT),
        scratch_volume("tmp"),
    ];
    volumes.extend(numbered(input).map(|(slot, claim)| claim_volume(&slot, claim)));
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: Some(names::manifests(name)),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(30),
        security_context: Some(pod_security(input)),
        containers: vec![container(input, name, sequence)],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// Volumes of a pod have names of at most 63 characters without dots, claims may have longer ones.
fn numbered<'a>(input: &'a RestoreInput<'_>) -> impl Iterator<Item = (String, &'a str)> {
    input.volumes.volumes.iter().enumerate().map(|(n, volume)| (format!("data-{n}"), volume.name.as_str()))
}

fn args(input: &RestoreInput<'_>, name: &str, sequence: u64) -> Vec<String> {
    let namespace = &input.pair.embassy_namespace;
    let repository = format!("rest:https://{}/{name}/", input.vault);
    let secret = format!("{namespace}/{}", names::manifests(name));
    let sequence = sequence.to_string();
    let key = format!("/config/{}", vault::SIGNING_PUB);
    let mut args = vec!["mover".to_owned(), "restore".to_owned()];
    for (option, value) in [
        ("--repository", repository.as_str()),
        ("--password-file", "/key/password"),
        ("--cacert", "/client/ca.crt"),
        ("--client-cert", "/client/tls.crt"),
        ("--client-key", "/client/tls.key"),
        ("--dispatch", &sequence),
        ("--pair", &input.pair.id),
        ("--data-embassy", name),
        ("--verify-key-file", &key),
        ("--manifests-secret", &secret),
    ] {
        args.extend([option.to_owned(), value.to_owned()]);
    }
    for volume in &input.volumes.volumes {
        args.extend(["--volume".to_owned(), format!("{0}=/volumes/{0}", volume.name)]);
    }
    args
}

fn container(input: &RestoreInput<'_>, name: &str, sequence: u64) -> Container {
    let mut mounts = vec![
        mount("client", "/client", true),
        mount("key", "/key", true),
        mount("config", "/config", true),
        mount("tmp", "/tmp", false),
    ];
    let data = numbered(input).map(|(slot, claim)| mount(&slot, &format!("/volumes/{claim}"), false));
    mounts.extend(data.collect::<Vec<VolumeMount>>());
    let env =
        |name: &str| EnvVar { name: name.to_owned(), value: Some("/tmp".to_owned()), ..EnvVar::default() };
    Container {
        name: "mover".to_owned(),
        image: Some(input.image.to_owned()),
        args: Some(args(input, name, sequence)),
        env: Some(vec![env("HOME"), env("TMPDIR")]),
        resources: Some(input.mover.resources.clone().unwrap_or_else(resources)),
        security_context: Some(security(input.mover.privileged)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn resources() -> ResourceRequirements {
    let quantity = |text: &str| Quantity(text.to_owned());
    ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), quantity("100m")),
            ("memory".to_owned(), quantity("256Mi")),
        ])),
        ..ResourceRequirements::default()
    }
}

fn security(privileged: bool) -> SecurityContext {
    let mut context = restricted();
    if privileged {
        let add = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETFCAP", "MKNOD"].map(str::to_owned).to_vec();
        context.capabilities = Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: Some(add) });
    }
    context
}

/// The user of the data, as home's pods have it; the policy's word goes before.
fn pod_security(input: &RestoreInput<'_>) -> PodSecurityContext {
    let mover = input.mover;
    let volumes = &input.volumes.volumes;
    let mut context = mover.security_context.clone().unwrap_or_else(|| PodSecurityContext {
        run_as_user: volumes.iter().find_map(|v| v.run_as_user),
        run_as_group: volumes.iter().find_map(|v| v.run_as_group),
        fs_group: volumes.iter().find_map(|v| v.fs_group),
        ..PodSecurityContext::default()
    });
    if mover.privileged {
        context.run_as_user = Some(0);
        context.run_as_group = Some(0);
        context.run_as_non_root = Some(false);
        // The mover restores every owner itself; the kubelet must not change them afterwards.
        context.fs_group = None;
    } else {
        let user = *context.run_as_user.get_or_insert(super::NOBODY);
        let group = context.fs_group.unwrap_or(super::NOBODY);
        context.run_as_group.get_or_insert(group);
        context.run_as_non_root.get_or_insert(user != 0);
    }
    if context.fs_group.is_some() {
        context.fs_group_change_policy.get_or_insert_with(|| "OnRootMismatch".to_owned());
    }
    context.seccomp_profile.get_or_insert_with(seccomp);
    context
}

/// The mover's identity and its one right: the Secret with the manifests.
pub struct Identity {
    /// Whom the mover runs as.
    pub account: ServiceAccount,
    /// get, update, patch of one Secret.
    pub role: Role,
    /// Joins them.
    pub binding: RoleBinding,
    /// The Secret, empty; the mover fills it.
    pub secret: Secret,
}

/// Makes the identity of the movers of one DataEmbassy.
#[must_use]
pub fn identity(object: &DataEmbassy, namespace: &str) -> Identity {
    let embassy = object.name_any();
    let name = names::manifests(&embassy);
    let metadata =
        ObjectMeta { owner_references: owner(object), ..meta(namespace, &name, COMPONENT, Some(&embassy)) };
    let role = Role {
        metadata: metadata.clone(),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["secrets".to_owned()]),
            resource_names: Some(vec![name.clone()]),
            verbs: ["get", "update", "patch"].map(str::to_owned).to_vec(),
            non_resource_urls: None,
        }]),
    };
    let binding = RoleBinding {
        metadata: metadata.clone(),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: Some(namespace.to_owned()),
            api_group: None,
        }]),
    };
    let account = ServiceAccount { metadata: metadata.clone(), ..ServiceAccount::default() };
    Identity { account, role, binding, secret: Secret { metadata, ..Secret::default() } }
}
