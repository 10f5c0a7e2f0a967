//! The command line of `pair`, and what it may hold.

use super::kube::Target;
use super::pair_plan::Wanted;
use crate::api::duration::Span;
use crate::api::pair::{LeaseSettings, ServiceType, VaultSettings};
use std::path::PathBuf;

/// Arguments of `kubectl embassy pair`.
#[derive(Clone, Debug, clap::Args)]
pub struct PairArgs {
    /// Context of home (default: the current one of --home-kubeconfig).
    #[arg(long, required_unless_present = "home_kubeconfig")]
    pub home_context: Option<String>,
    /// Kubeconfig with home's context (default: $KUBECONFIG or ~/.kube/config).
    #[arg(long)]
    pub home_kubeconfig: Option<PathBuf>,
    /// Context of the embassy (default: the current one of --embassy-kubeconfig).
    #[arg(long, required_unless_present = "embassy_kubeconfig")]
    pub embassy_context: Option<String>,
    /// Kubeconfig with the embassy's context (default: $KUBECONFIG or ~/.kube/config).
    #[arg(long)]
    pub embassy_kubeconfig: Option<PathBuf>,
    /// Namespace at home; made if it is not there.
    #[arg(long, value_parser = label)]
    pub home_namespace: String,
    /// Namespace at the embassy; made if it is not there, else it must be empty.
    #[arg(long, value_parser = label)]
    pub embassy_namespace: String,
    /// Secret at home that gets the kubeconfig; DataEmbassies name it in kubeconfigSecretRef.
    #[arg(long, value_parser = subdomain)]
    pub secret: String,
    /// Address of the embassy's API server as home's pods reach it (default: the kubeconfig's).
    #[arg(long, value_name = "URL")]
    pub embassy_server: Option<String>,
    /// PEM of the CA behind --embassy-server (default: the kubeconfig's).
    #[arg(long, value_name = "FILE")]
    pub embassy_ca_file: Option<PathBuf>,
    /// PodSecurity level that the embassy's namespace enforces [default: restricted].
    #[arg(long, value_parser = ["restricted", "baseline", "privileged"])]
    pub pod_security: Option<String>,
    /// StorageClass of the vault; it must be known to encrypt (default: the first DataEmbassy's
    /// embassy.storageClassName).
    #[arg(long)]
    pub vault_storage_class: Option<String>,
    /// Size of the vault's volume.
    #[arg(long, default_value = "10Gi", value_parser = quantity)]
    pub vault_size: String,
    /// How the vault is reached: NodePort, ClusterIP or LoadBalancer.
    #[arg(long, default_value = "NodePort", value_parser = service_type)]
    pub vault_service_type: ServiceType,
    /// HOST:PORT by which home reaches the vault, where the Service does not show it.
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub vault_address: Option<String>,
    /// L: how long the ledger must stand still before the embassy may claim.
    #[arg(long, default_value = "30s")]
    pub lease_duration: Span,
    /// R: how long after its last renewal home fences itself.
    #[arg(long, default_value = "15s")]
    pub lease_renew: Span,
    /// Time between two renewals.
    #[arg(long, default_value = "2s")]
    pub lease_retry: Span,
    /// Timeout of one renewal.
    #[arg(long, default_value = "3s")]
    pub lease_timeout: Span,
    /// How long the embassy keeps what home wants gone.
    #[arg(long, default_value = "30d")]
    pub retention_floor: Span,
}

impl PairArgs {
    /// Where home is.
    #[must_use]
    pub fn home(&self) -> Target {
        Target { kubeconfig: self.home_kubeconfig.clone(), context: self.home_context.clone() }
    }

    /// Where the embassy is.
    #[must_use]
    pub fn embassy(&self) -> Target {
        Target { kubeconfig: self.embassy_kubeconfig.clone(), context: self.embassy_context.clone() }
    }

    /// What is asked for.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted {
            home_namespace: self.home_namespace.clone(),
            embassy_namespace: self.embassy_namespace.clone(),
            secret: self.secret.clone(),
            lease: LeaseSettings {
                duration: self.lease_duration,
                renew: self.lease_renew,
                retry: self.lease_retry,
                timeout: self.lease_timeout,
                ..LeaseSettings::default()
            },
            vault: VaultSettings {
                storage_class_name: self.vault_storage_class.clone(),
                size: self.vault_size.clone(),
                service_type: self.vault_service_type,
                address: self.vault_address.clone(),
            },
            retention_floor: self.retention_floor,
        }
    }
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn label(text: &str) -> Result<String, String> {
    let mend = "a namespace is lower-case letters, digits and `-`, at most 63";
    if is_label(text) { Ok(text.to_owned()) } else { Err(mend.into()) }
}

fn subdomain(text: &str) -> Result<String, String> {
    let mend = "a name is lower-case letters, digits, `-` and `.`, at most 253";
    if text.len() <= 253 && text.split('.').all(is_label) { Ok(text.to_owned()) } else { Err(mend.into()) }
}

fn quantity(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let number = digits.parse::<f64>().is_ok_and(|n| n.is_finite() && n > 0.0);
    let known = ["Ki", "Mi", "Gi", "Ti", "Pi", "k", "M", "G", "T", "P", ""].contains(&unit);
    if number && known { Ok(text.to_owned()) } else { Err("write a size as 500Mi, 10Gi or 2Ti".into()) }
}

fn service_type(text: &str) -> Result<ServiceType, String> {
    match text {
        "NodePort" => Ok(ServiceType::NodePort),
        "ClusterIP" => Ok(ServiceType::ClusterIP),
        "LoadBalancer" => Ok(ServiceType::LoadBalancer),
        _ => Err("NodePort, ClusterIP or LoadBalancer".into()),
    }
}

fn host_port(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("write it as HOST:PORT")?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    // An IPv6 address needs its brackets, or its last group would be taken for the port.
    let host_is_fine = bare.map_or(!host.is_empty() && !host.contains([':', '/']), |h| h.contains(':'));
    if host_is_fine && port.parse::<u16>().is_ok_and(|p| p > 0) {
        Ok(text.to_owned())
    } else {
        Err("write it as HOST:PORT, without a scheme; IPv6 as [ADDRESS]:PORT".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_refused_before_anything_is_asked() {
        assert!(label("estonia-registers").is_ok() && label("Estonia").is_err() && label("-a").is_err());
        assert!(subdomain("a.b").is_ok() && subdomain("a..b").is_err());
        for (text, fine) in
            [("10Gi", true), ("1.5Ti", true), ("100", true), ("10GB", false), ("Gi", false), ("-1Gi", false)]
        {
            assert_eq!(quantity(text).is_ok(), fine, "{text}");
        }
        for (text, fine) in [
            ("vault.lu:8443", true),
            ("[2001:db8::1]:8443", true),
            ("2001:db8::1:8443", false),
            ("https://vault:1", false),
            ("vault", false),
            (":1", false),
            ("vault:0", false),
        ] {
            assert_eq!(host_port(text).is_ok(), fine, "{text}");
        }
    }
}
