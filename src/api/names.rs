//! Names of objects, labels and annotations: every one of them is spelled here and nowhere else.

/// API group of the custom resources.
pub const GROUP: &str = "dataembassy.io";
/// Field manager and value of [`LABEL_MANAGED_BY`].
pub const MANAGER: &str = "data-embassy";
/// Finalizer at home: the copy abroad is told (`spec.retired`) before the object goes.
pub const FINALIZER: &str = "dataembassy.io/mirror";

/// Standard label; everything that the operator makes carries it with [`MANAGER`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: name of the DataEmbassy that an object was made for.
pub const LABEL_EMBASSY: &str = "dataembassy.io/data-embassy";
/// Label: what an object is for (`backup`, `restore`, `vault`, `standby`, `cut`).
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Label of the chart's ClusterRoles that `pair` binds: `home` or `embassy`.
pub const LABEL_CLUSTER_ROLE: &str = "dataembassy.io/cluster-role";
/// Annotation on those ClusterRoles: the operator's ServiceAccount as `namespace/name`.
pub const ANNOTATION_OPERATOR: &str = "dataembassy.io/operator-service-account";

/// Annotation by the admin on a StorageClass: it encrypts (`"true"`), whatever its provisioner.
pub const ANNOTATION_ENCRYPTED: &str = "dataembassy.io/encrypted";
/// Annotation at home: let the finalizer go although the embassy cannot be told.
pub const ANNOTATION_ABANDON: &str = "dataembassy.io/abandon-embassy";
/// Annotation on a mirror: what home says of its volumes, JSON of [`super::mirror::HomeVolumes`].
pub const ANNOTATION_VOLUMES: &str = "dataembassy.io/volumes";
/// Annotation on a mirror: UID of the object at home.
pub const ANNOTATION_HOME_UID: &str = "dataembassy.io/home-uid";
/// Annotation at home on a workload scaled down by the fence: its replicas before.
pub const ANNOTATION_FENCED_REPLICAS: &str = "dataembassy.io/fenced-replicas";
/// Annotation on a standby workload: home's replicas at the cut, used at promotion.
pub const ANNOTATION_HOME_REPLICAS: &str = "dataembassy.io/home-replicas";
/// Annotation on Jobs, Secrets and volumes: the dispatch they belong to.
pub const ANNOTATION_SEQUENCE: &str = "dataembassy.io/sequence";
/// Annotation on a standby's volumes: the epoch under which it was started; from then on they hold what it
/// wrote, and no restore may touch them under that epoch, whatever the status has lost.
pub const ANNOTATION_STARTED: &str = "dataembassy.io/started-epoch";
/// Annotation on a standby object: hash of what it was made from; it is applied again when that differs.
pub const ANNOTATION_HASH: &str = "dataembassy.io/manifest-hash";
/// Annotation on a backup Job: the cut time (RFC 3339).
pub const ANNOTATION_CUT_TIME: &str = "dataembassy.io/cut-time";
/// Annotation on a backup Job: what asked for it (`schedule/<time>` or `request/<name>`).
pub const ANNOTATION_TRIGGER: &str = "dataembassy.io/trigger";

/// Label: the run that a temporary object belongs to.
pub const LABEL_RUN: &str = "dataembassy.io/run";
/// Annotation on home's repository Secret: id of the pair that its password was made for.
pub const ANNOTATION_PAIR: &str = "dataembassy.io/pair";
/// Value of [`LABEL_COMPONENT`]: backup Jobs at home.
pub const COMPONENT_BACKUP: &str = "backup";
/// Value of [`LABEL_COMPONENT`]: snapshots, claims and Secrets of one run at home.
pub const COMPONENT_CUT: &str = "cut";
/// Value of [`LABEL_COMPONENT`]: home's Secret with a repository password.
pub const COMPONENT_REPOSITORY: &str = "repository";
/// Value of [`LABEL_COMPONENT`]: home's copy of its vault certificate.
pub const COMPONENT_VAULT_CLIENT: &str = "vault-client";

/// ConfigMap in the embassy namespace that makes it one: key [`PAIR_KEY`].
pub const PAIR_CONFIG_MAP: &str = "embassy-pair";
/// Key of the pair record (JSON) in [`PAIR_CONFIG_MAP`] and in home's kubeconfig Secret.
pub const PAIR_KEY: &str = "pair.json";
/// Key of the kubeconfig in home's kubeconfig Secret.
pub const KUBECONFIG_KEY: &str = "kubeconfig";
/// Key of home's private signing key (64 hex digits: ed25519 seed) in home's kubeconfig Secret.
pub const SIGNING_KEY: &str = "signing.key";

/// Secret in the embassy namespace with the repository passwords of custody `Entrusted`:
/// one key a DataEmbassy. Home may `update` it, nothing else.
pub const KEYS_SECRET: &str = "embassy-keys";
/// Secret in the embassy namespace with home's client certificate for the vault; home may `get` it.
pub const HOME_CLIENT_SECRET: &str = "vault-client-home";
/// Secret with the embassy's own client certificate for the vault.
pub const EMBASSY_CLIENT_SECRET: &str = "vault-client-embassy";
/// Secret with the pair's certificate authority.
pub const CA_SECRET: &str = "vault-ca";
/// Secret with the vault's server certificate.
pub const SERVER_SECRET: &str = "vault-server";
/// Name of the vault's Deployment, Service, PVC and ServiceAccount, and of its ConfigMap.
pub const VAULT: &str = "embassy-vault";
/// TCP port of the vault (mTLS).
pub const VAULT_PORT: u16 = 8443;
/// TCP port of the vault's health and metrics (plain HTTP, in the pod's network only).
pub const VAULT_HEALTH_PORT: u16 = 8081;
/// Key of the quotas (JSON: repository -> bytes) in the vault's ConfigMap.
pub const QUOTA_KEY: &str = "quota.json";
/// ServiceAccount that restored manifests are created as.
pub const RESTORER: &str = "embassy-restorer";
/// ServiceAccount of home's identity in the embassy namespace.
pub const HOME_IDENTITY: &str = "embassy-home";
/// Role of home's identity, all but the ledger.
pub const HOME_ROLE: &str = "embassy-home";
/// Role with home's rights on the ledger; the embassy takes `update` out of it after Confirm.
pub const HOME_LEDGER_ROLE: &str = "embassy-home-ledger";
/// Secret with the token of [`HOME_IDENTITY`], filled by the embassy's cluster.
pub const HOME_TOKEN_SECRET: &str = "embassy-home-token";
/// RoleBinding in a pair's namespace at home: the operator's rights there.
pub const OPERATOR_HOME_BINDING: &str = "data-embassy-operator-home";
/// RoleBinding in a pair's namespace at the embassy: the operator's rights there.
pub const OPERATOR_EMBASSY_BINDING: &str = "data-embassy-operator-embassy";
/// Key of certificates in TLS Secrets.
pub const TLS_CERT: &str = "tls.crt";
/// Key of private keys in TLS Secrets.
pub const TLS_KEY: &str = "tls.key";
/// Key of the CA's certificate in TLS Secrets.
pub const CA_CERT: &str = "ca.crt";
/// Key of the password in the repository Secret at home.
pub const PASSWORD_KEY: &str = "password";
/// Key of the manifests (gzip of a JSON array) in manifests Secrets.
pub const MANIFESTS_KEY: &str = "manifests.json.gz";

/// Name of the ledger's Lease.
#[must_use]
pub fn ledger(pair: &str) -> String {
    format!("ledger-{pair}")
}

/// Home's Secret with the repository password of a DataEmbassy.
#[must_use]
pub fn repository_secret(embassy: &str) -> String {
    child(embassy, "repository")
}

/// Home's copy of its client certificate for the vault, with the vault's CA.
#[must_use]
pub fn vault_client_secret(embassy: &str) -> String {
    child(embassy, "vault-client")
}

/// The embassy's Secret that the restoring mover puts the manifests into; also the name of the
/// mover's ServiceAccount and Role.
#[must_use]
pub fn manifests(embassy: &str) -> String {
    child(embassy, "manifests")
}

/// `<embassy>-<suffix>`, shortened with a hash where it would pass 63 characters.
#[must_use]
pub fn child(embassy: &str, suffix: &str) -> String {
    let name = format!("{embassy}-{suffix}");
    if name.len() <= 63 {
        return name;
    }
    use sha2::Digest as _;
    let mut hash = hex::encode(sha2::Sha256::digest(name.as_bytes()));
    hash.truncate(10);
    let mut head = embassy.to_owned();
    head.truncate(63_usize.saturating_sub(suffix.len() + hash.len() + 2));
    let mut short = format!("{}-{hash}-{suffix}", head.trim_end_matches(['-', '.']));
    short.truncate(63);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_valid_and_distinct() {
        let (a, b) = ("a".repeat(70), format!("{}b", "a".repeat(69)));
        assert!(child(&a, "manifests").len() <= 63);
        assert_ne!(child(&a, "manifests"), child(&b, "manifests"));
        assert_eq!(child("x", "repository"), "x-repository");
    }
}
