//! `kubectl embassy retire`: the only way in which a copy is deleted, at the embassy, by a human.

use super::confirm::{self, ConfirmError};
use super::kube::{Cluster, Object, SiteArgs, SiteError};
use super::{request, say};
use crate::api::duration::Span;
use crate::api::ledger::Site;
use crate::api::names::{
    CA_SECRET, EMBASSY_CLIENT_SECRET, HOME_CLIENT_SECRET, HOME_IDENTITY, HOME_LEDGER_ROLE, HOME_ROLE,
    HOME_TOKEN_SECRET, KEYS_SECRET, OPERATOR_EMBASSY_BINDING, PAIR_CONFIG_MAP, PAIR_KEY, RESTORER,
    SERVER_SECRET, VAULT, ledger,
};
use crate::api::pair::{PairError, PairRecord};
use crate::api::request::Verb;
use crate::api::{DataEmbassy, ReplicaPolicy};
use ::kube::ResourceExt as _;
use ::kube::api::ListParams;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};

/// Arguments of `kubectl embassy retire`.
#[derive(Clone, Debug, clap::Args)]
pub struct RetireArgs {
    /// The DataEmbassy, at the embassy, that was deleted at home.
    #[arg(required_unless_present = "pair", conflicts_with = "pair")]
    pub name: Option<String>,
    #[command(flatten)]
    site: SiteArgs,
    /// Remove the pair itself, when no DataEmbassy of it is left.
    #[arg(long)]
    pair: bool,
    /// For scripts: the DataEmbassy's name once more, or with --pair the namespace.
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// Why, for the record.
    #[arg(long)]
    reason: Option<String>,
    /// Wait until the operator has deleted everything.
    #[arg(long)]
    wait: bool,
    /// Longest wait.
    #[arg(long, default_value = "10m")]
    timeout: Span,
}

/// Why nothing, or not all, was retired.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// A site refused or did not answer.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The request did not come to its end.
    #[error(transparent)]
    Request(#[from] request::RequestError),
    /// Not confirmed.
    #[error(transparent)]
    Confirm(#[from] ConfirmError),
    /// The namespace holds no pair record.
    #[error("namespace {0} holds no pair record: it is no embassy (copies are deleted at the embassy)")]
    NoEmbassy(String),
    /// The record does not parse.
    #[error("the pair record in namespace {0} cannot be used")]
    Record(String, #[source] PairError),
    /// It may not be retired.
    #[error("{0}")]
    Not(String),
}

/// Retires a mirror, or the pair.
///
/// # Errors
/// [`RetireError`]; the same command goes on where it stopped.
pub async fn run(args: &RetireArgs) -> Result<(), RetireError> {
    let cluster = Cluster::connect(&args.site.target(), "the embassy").await?;
    let namespace = args.site.namespace.clone().unwrap_or_else(|| cluster.default_namespace.clone());
    let map = cluster.get(&cluster.namespaced::<ConfigMap>(&namespace), PAIR_CONFIG_MAP).await?;
    let text = map.ok_or_else(|| RetireError::NoEmbassy(namespace.clone()))?;
    let text = text.data.and_then(|mut data| data.remove(PAIR_KEY)).unwrap_or_default();
    let record =
        PairRecord::parse(text.as_bytes()).map_err(|error| RetireError::Record(namespace.clone(), error))?;
    match &args.name {
        Some(name) => mirror(&cluster, &namespace, name, &record, args).await,
        None => pair(&cluster, &namespace, &record, args).await,
    }
}

async fn mirror(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    record: &PairRecord,
    args: &RetireArgs,
) -> Result<(), RetireError> {
    let all: Vec<DataEmbassy> = cluster.list(&cluster.namespaced(namespace), &ListParams::default()).await?;
    let object = all.iter().find(|object| object.name_any() == name);
    let object = retirable(object, namespace, name).map_err(RetireError::Not)?;
    say(&doomed(object, record, all.len() == 1));
    confirm::typed(
        "This cannot be taken back.",
        name,
        args.confirm.as_deref(),
        &format!("--confirm {name}"),
    )?;
    let reason = request::reason(cluster, args.reason.as_deref()).await;
    let asked = request::submit(cluster, &request::build(namespace, name, Verb::Retire, &reason)).await?;
    say(&format!("embassyrequest {asked} created"));
    if args.wait {
        say(&request::wait(cluster, namespace, &asked, args.timeout.get()).await?);
    }
    Ok(())
}

/// The mirror, if it may be retired. The operator judges it once more.
///
/// # Errors
/// The reason, with the mend.
pub fn retirable<'a>(
    object: Option<&'a DataEmbassy>,
    namespace: &str,
    name: &str,
) -> Result<&'a DataEmbassy, String> {
    let object = object.ok_or_else(|| format!("no DataEmbassy {name} in namespace {namespace}"))?;
    if !object.spec.retired {
        return Err(format!(
            "{name} still exists at home: delete the DataEmbassy there first. If home is lost for good and this copy \
             is not wanted either: kubectl -n {namespace} patch dataembassy {name} --type merge \
             -p '{{\"spec\":{{\"retired\":true}}}}'"
        ));
    }
    if object.status.as_ref().and_then(|status| status.active_site) == Some(Site::Embassy) {
        return Err(format!("the writ of {name} names the embassy: this may be the only living copy"));
    }
    Ok(object)
}

/// What is deleted, for the user to read.
#[must_use]
pub fn doomed(object: &DataEmbassy, record: &PairRecord, last: bool) -> String {
    let status = object.status.clone().unwrap_or_default();
    let mut text = format!("retiring {} deletes for good:", object.name_any());
    for volume in &status.volumes {
        text.push_str(&format!("\n  volume {}", volume.claim.as_deref().unwrap_or(&volume.name)));
    }
    for service in &status.services {
        text.push_str(&format!("\n  {} {}", service.kind, service.name));
    }
    if let Some(dispatch) = &status.last_dispatch {
        let cut = dispatch.cut_time.as_ref().map_or_else(String::new, |time| format!(", cut {}", time.0));
        text.push_str(&format!("\n  the newest proven dispatch: {}{cut}", dispatch.sequence));
    }
    text.push_str(if last {
        "\n  the vault with every dispatch: this is the pair's last DataEmbassy"
    } else {
        "\n  its part of the standby; its repository goes with the pair's last DataEmbassy"
    });
    text.push_str(&format!("\nThe pair's retention floor is {}.", record.retention_floor));
    text
}

async fn pair(
    cluster: &Cluster,
    namespace: &str,
    record: &PairRecord,
    args: &RetireArgs,
) -> Result<(), RetireError> {
    none_left(cluster, namespace).await?;
    say(&format!(
        "retiring pair {} deletes in namespace {namespace}: the vault with its volume and keys, the ledger, all \
         identities of the pair, and its record. Home's access ends first.",
        record.id
    ));
    let flag = format!("--confirm {namespace}");
    confirm::typed("This cannot be taken back.", namespace, args.confirm.as_deref(), &flag)?;
    delete::<RoleBinding>(cluster, namespace, &[HOME_ROLE, HOME_LEDGER_ROLE]).await?;
    delete::<Secret>(cluster, namespace, &[HOME_TOKEN_SECRET]).await?;
    // Home may have sent another one while the user was typing; now it cannot any more.
    none_left(cluster, namespace).await?;
    delete::<Deployment>(cluster, namespace, &[VAULT]).await?;
    delete::<Service>(cluster, namespace, &[VAULT]).await?;
    delete::<PersistentVolumeClaim>(cluster, namespace, &[VAULT]).await?;
    let secrets = [SERVER_SECRET, EMBASSY_CLIENT_SECRET, HOME_CLIENT_SECRET, KEYS_SECRET, CA_SECRET];
    delete::<Secret>(cluster, namespace, &secrets).await?;
    let policies: Vec<ReplicaPolicy> =
        cluster.list(&cluster.namespaced(namespace), &ListParams::default()).await?;
    for policy in &policies {
        delete::<ReplicaPolicy>(cluster, namespace, &[&policy.name_any()]).await?;
    }
    delete::<Lease>(cluster, namespace, &[&ledger(&record.id)]).await?;
    delete::<RoleBinding>(cluster, namespace, &[RESTORER, VAULT, OPERATOR_EMBASSY_BINDING]).await?;
    delete::<Role>(cluster, namespace, &[HOME_ROLE, HOME_LEDGER_ROLE, RESTORER, VAULT]).await?;
    delete::<ServiceAccount>(cluster, namespace, &[HOME_IDENTITY, RESTORER, VAULT]).await?;
    // The record goes last: while it is there, this command can be run again.
    delete::<ConfigMap>(cluster, namespace, &[VAULT, PAIR_CONFIG_MAP]).await?;
    say(&format!(
        "pair {} is retired. The namespace stays: kubectl delete namespace {namespace}\nAt home, namespace {}: delete \
         the Secret with its kubeconfig and signing key",
        record.id, record.home_namespace
    ));
    Ok(())
}

async fn none_left(cluster: &Cluster, namespace: &str) -> Result<(), RetireError> {
    let left: Vec<DataEmbassy> = cluster.list(&cluster.namespaced(namespace), &ListParams::default()).await?;
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = left.iter().map(::kube::ResourceExt::name_any).collect();
    Err(RetireError::Not(format!(
        "the pair still has DataEmbassies ({}): retire each of them first",
        names.join(", ")
    )))
}

async fn delete<K>(cluster: &Cluster, namespace: &str, names: &[&str]) -> Result<(), SiteError>
where
    K: Object + ::kube::Resource<Scope = NamespaceResourceScope>,
{
    for name in names {
        if cluster.delete(&cluster.namespaced::<K>(namespace), name).await? {
            say(&format!("  deleted {} {name}", K::kind(&())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::embassy::{DataEmbassySpec, DataEmbassyStatus, VolumeStatus};
    use crate::api::pair::{LeaseSettings, VaultSettings};

    fn retired() -> DataEmbassy {
        let mut object = DataEmbassy::new("register", DataEmbassySpec::default());
        object.spec.retired = true;
        let volumes = vec![VolumeStatus { name: "data".into(), ..VolumeStatus::default() }];
        object.status = Some(DataEmbassyStatus { volumes, ..DataEmbassyStatus::default() });
        object
    }

    #[test]
    fn only_what_home_deleted_and_the_embassy_does_not_serve_is_retired() {
        assert!(retirable(Some(&retired()), "ns", "register").is_ok());
        assert!(retirable(None, "ns", "register").is_err());
        let mut living = retired();
        living.spec.retired = false;
        let text = retirable(Some(&living), "ns", "register").unwrap_err();
        assert!(text.contains(r#"{"spec":{"retired":true}}"#), "{text}");
        let mut serving = retired();
        serving.status.as_mut().unwrap().active_site = Some(Site::Embassy);
        assert!(retirable(Some(&serving), "ns", "register").is_err());
    }

    #[test]
    fn the_user_reads_what_goes() {
        let record = PairRecord {
            version: 1,
            id: "0".repeat(16),
            home_namespace: "registers".into(),
            embassy_namespace: "ns".into(),
            signing_public_key: String::new(),
            lease: LeaseSettings::default(),
            vault: VaultSettings::default(),
            retention_floor: Span::secs(30 * 86_400),
        };
        let text = doomed(&retired(), &record, true);
        for part in ["volume data", "the vault with every dispatch", "retention floor is 30d"] {
            assert!(text.contains(part), "{part}\nin\n{text}");
        }
        assert!(!doomed(&retired(), &record, false).contains("the vault with"));
    }
}
