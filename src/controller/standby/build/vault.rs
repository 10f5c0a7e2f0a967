//! The pair's vault: ConfigMap, volume, Service, Deployment, and the address to publish.

use super::{claim_volume, config_volume, meta, mount, restricted, scratch_volume, seccomp, secret_volume};
use crate::api::names::{self, QUOTA_KEY, SERVER_SECRET, VAULT, VAULT_HEALTH_PORT, VAULT_PORT};
use crate::api::pair::{PairRecord, ServiceType};
use crate::controller::standby::observe::Sibling;
use crate::domain::storage::bytes;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, HTTPGetAction, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, Service, ServicePort,
    ServiceSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Value of the component label.
pub const COMPONENT: &str = "vault";
/// Key of home's public key in the vault's ConfigMap.
pub const SIGNING_PUB: &str = "signing.pub";
/// Most node addresses that enter the certificate.
const MAX_NODES: usize = 64;

/// Quotas and home's public key, for the vault and for movers.
#[must_use]
pub fn config(pair: &PairRecord, siblings: &[Sibling]) -> ConfigMap {
    let quotas: BTreeMap<&str, u64> =
        siblings.iter().filter_map(|s| Some((s.name.as_str(), bytes(s.quota.as_deref()?)?))).collect();
    let quotas = serde_json::to_string(&quotas).unwrap_or_else(|_| "{}".to_owned());
    ConfigMap {
        metadata: meta(&pair.embassy_namespace, VAULT, COMPONENT, None),
        data: Some(BTreeMap::from([
            (QUOTA_KEY.to_owned(), quotas),
            (SIGNING_PUB.to_owned(), pair.signing_public_key.clone()),
        ])),
        ..ConfigMap::default()
    }
}

/// The vault's volume.
#[must_use]
pub fn claim(pair: &PairRecord, class: &str) -> PersistentVolumeClaim {
    let size = Quantity(pair.vault.size.clone());
    PersistentVolumeClaim {
        metadata: meta(&pair.embassy_namespace, VAULT, COMPONENT, None),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: Some(class.to_owned()),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The vault's Service.
#[must_use]
pub fn service(pair: &PairRecord) -> Service {
    let kind = match pair.vault.service_type {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata: meta(&pair.embassy_namespace, VAULT, COMPONENT, None),
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            // With managed-by: a restored pod of home's may well be labelled `component: vault` (and then
            // would be sent home's backups); one with both labels is refused by `objects`.
            selector: Some(super::labels(COMPONENT, None)),
            ports: Some(vec![ServicePort {
                name: Some("vault".to_owned()),
                port: i32::from(VAULT_PORT),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("vault".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn args(pair: &PairRecord) -> Vec<String> {
    let namespace = &pair.embassy_namespace;
    let ledger = format!("{namespace}/{}", names::ledger(&pair.id));
    let listen = format!("0.0.0.0:{VAULT_PORT}");
    let health = format!("0.0.0.0:{VAULT_HEALTH_PORT}");
    [
        ("--data", "/data"),
        ("--listen", &listen),
        ("--tls-cert", "/tls/tls.crt"),
        ("--tls-key", "/tls/tls.key"),
        ("--client-ca", "/tls/ca.crt"),
        ("--pair", &pair.id),
        ("--signing-key", "/config/signing.pub"),
        ("--quota-file", "/config/quota.json"),
        ("--ledger", &ledger),
        ("--health-listen", &health),
    ]
    .into_iter()
    .fold(vec!["vault".to_owned()], |mut args, (option, value)| {
        args.extend([option.to_owned(), value.to_owned()]);
        args
    })
}

fn probe(path: &str, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("health".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(5),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn container(pair: &PairRecord, image: &str) -> Container {
    let quantity = |text: &str| Quantity(text.to_owned());
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: "vault".to_owned(),
        image: Some(image.to_owned()),
        args: Some(args(pair)),
        ports: Some(vec![port("vault", VAULT_PORT), port("health", VAULT_HEALTH_PORT)]),
        readiness_probe: Some(probe("/readyz", 2)),
        liveness_probe: Some(probe("/healthz", 6)),
        resources: Some(ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), quantity("50m")),
                ("memory".to_owned(), quantity("64Mi")),
            ])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(restricted()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![
            mount("data", "/data", false),
            mount("tls", "/tls", true),
            mount("config", "/config", true),
            mount("tmp", "/tmp", false),
        ]),
        ..Container::default()
    }
}

/// The vault's Deployment. `Recreate`: two vaults on one volume would each believe in their own
/// chain.
#[must_use]
pub fn deployment(pair: &PairRecord, image: &str) -> Deployment {
    let mut metadata = meta(&pair.embassy_namespace, VAULT, COMPONENT, None);
    let labels = metadata.labels.clone();
    metadata.annotations = None;
    let pod = PodSpec {
        service_account_name: Some(VAULT.to_owned()),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(30),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(super::NOBODY),
            run_as_group: Some(super::NOBODY),
            fs_group: Some(super::NOBODY),
            // A vault has millions of files: without this every start would touch them all.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(seccomp()),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(pair, image)],
        volumes: Some(vec![
            claim_volume("data", VAULT),
            secret_volume("tls", SERVER_SECRET, None),
            config_volume("config", VAULT),
            scratch_volume("tmp"),
        ]),
        ..PodSpec::default()
    };
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(2),
            selector: LabelSelector {
                match_labels: Some(super::labels(COMPONENT, None)),
                match_expressions: None,
            },
            strategy: Some(DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The Service's own address with the vault's port: how this cluster reaches it, without DNS.
#[must_use]
pub fn inside(service: Option<&Service>) -> Option<String> {
    let ip = cluster_ip(service?)?;
    Some(host_port(&ip.to_string(), VAULT_PORT))
}

fn cluster_ip(service: &Service) -> Option<IpAddr> {
    service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}

fn balancer(service: &Service) -> Option<String> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    ingress.iter().find_map(|i| i.ip.clone().or_else(|| i.hostname.clone()))
}

fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// `host` of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Where home reaches the vault: what the pair's options say, else the load balancer, else a node's
/// port, else the cluster address. `published` is kept while it is still right, so that home does
/// not follow the order of nodes.
#[must_use]
pub fn address(
    pair: &PairRecord,
    service: Option<&Service>,
    nodes: &[IpAddr],
    published: Option<&str>,
) -> Option<String> {
    if let Some(address) = &pair.vault.address {
        return Some(address.clone());
    }
    let service = service?;
    match pair.vault.service_type {
        ServiceType::LoadBalancer => balancer(service).map(|host| host_port(&host, VAULT_PORT)),
        ServiceType::NodePort => {
            let port = service.spec.as_ref()?.ports.as_ref()?.first()?.node_port?;
            let port = u16::try_from(port).ok()?;
            let mut all = nodes.iter().map(|node| host_port(&node.to_string(), port));
            let kept = all.clone().find(|address| Some(address.as_str()) == published);
            // Nodes may be hidden from this operator: then the cluster address is all there is.
            kept.or_else(|| all.next()).or_else(|| inside(Some(service)))
        }
        ServiceType::ClusterIP => inside(Some(service)),
    }
}

/// The names that the server's certificate must have.
#[must_use]
pub fn server_names(pair: &PairRecord, service: Option<&Service>, nodes: &[IpAddr]) -> BTreeSet<String> {
    let namespace = &pair.embassy_namespace;
    let mut names = BTreeSet::from([
        VAULT.to_owned(),
        format!("{VAULT}.{namespace}"),
        format!("{VAULT}.{namespace}.svc"),
        format!("{VAULT}.{namespace}.svc.cluster.local"),
    ]);
    names.extend(nodes.iter().take(MAX_NODES).map(IpAddr::to_string));
    names.extend(service.and_then(cluster_ip).map(|ip| ip.to_string()));
    names.extend(service.and_then(balancer));
    names.extend(pair.vault.address.as_deref().map(|address| normal(host_of(address))));
    names
}

/// Addresses in the one form that a certificate gives back.
fn normal(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |ip| ip.to_string())
}
