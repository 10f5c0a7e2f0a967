//! Every object that `pair` makes, as pure functions. Who may do what abroad is decided here and
//! nowhere else; the tests hold the exact verbs.

use crate::api::duration::Span;
use crate::api::names::{
    GROUP, HOME_CLIENT_SECRET, HOME_IDENTITY, HOME_LEDGER_ROLE, HOME_ROLE, HOME_TOKEN_SECRET, KEYS_SECRET,
    KUBECONFIG_KEY, LABEL_MANAGED_BY, MANAGER, OPERATOR_EMBASSY_BINDING, OPERATOR_HOME_BINDING,
    PAIR_CONFIG_MAP, PAIR_KEY, RESTORER, SIGNING_KEY, VAULT, ledger,
};
use crate::api::pair::PairRecord;
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::ObjectMeta;
use std::collections::BTreeMap;

/// Label of PodSecurity admission.
pub const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Verbs of whoever restores home's manifests. The embassy's admin may narrow them.
const RESTORER_VERBS: [&str; 7] = ["create", "get", "list", "watch", "update", "patch", "delete"];

/// A ServiceAccount by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The chart's ClusterRole at one site and the operator that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Name of the ClusterRole.
    pub cluster_role: String,
    /// The operator's ServiceAccount.
    pub operator: Account,
}

/// All that stands in the embassy's namespace when a pair is made.
///
/// Users destructure it without `..`, so that a new object does not compile until it is written.
#[derive(Clone, Debug)]
pub struct EmbassyObjects {
    /// The identities: home's, the restorer's, the vault's.
    pub accounts: [ServiceAccount; 3],
    /// What home may do, all but the ledger.
    pub home_role: Role,
    /// Home's rights on the ledger. Only ever created: after Confirm the embassy's operator takes
    /// `update` out of it, and a second `pair` must not give it back.
    pub ledger_role: Role,
    /// What the restorer may do. Only ever created: the admin may have narrowed it.
    pub restorer_role: Role,
    /// What the vault may do.
    pub vault_role: Role,
    /// One for each Role, and the operator's.
    pub bindings: [RoleBinding; 5],
    /// Empty, to be filled by home (keys) and by the embassy's operator (certificate). Only ever created.
    pub secrets: [Secret; 2],
    /// The token of home's identity, filled by the cluster.
    pub token: Secret,
    /// The ledger, without a writ. Only ever created: it decides who may write.
    pub ledger: Lease,
    /// The pair record: with it the namespace is an embassy. Written last.
    pub pair: ConfigMap,
}

/// Builds [`EmbassyObjects`].
#[must_use]
pub fn embassy_objects(record: &PairRecord, record_json: &str, grant: &Grant) -> EmbassyObjects {
    let ns = record.embassy_namespace.as_str();
    let home = Account { namespace: ns.to_owned(), name: HOME_IDENTITY.to_owned() };
    let restorer = Account { namespace: ns.to_owned(), name: RESTORER.to_owned() };
    let vault = Account { namespace: ns.to_owned(), name: VAULT.to_owned() };
    EmbassyObjects {
        accounts: [account(ns, HOME_IDENTITY, false), account(ns, RESTORER, false), account(ns, VAULT, true)],
        home_role: role(ns, HOME_ROLE, home_rules()),
        ledger_role: role(ns, HOME_LEDGER_ROLE, vec![ledger_rule(&record.id, &["get", "watch", "update"])]),
        restorer_role: role(ns, RESTORER, restorer_rules()),
        vault_role: role(ns, VAULT, vec![ledger_rule(&record.id, &["get"])]),
        bindings: [
            binding(ns, HOME_ROLE, "Role", HOME_ROLE, &home),
            binding(ns, HOME_LEDGER_ROLE, "Role", HOME_LEDGER_ROLE, &home),
            binding(ns, RESTORER, "Role", RESTORER, &restorer),
            binding(ns, VAULT, "Role", VAULT, &vault),
            binding(ns, OPERATOR_EMBASSY_BINDING, "ClusterRole", &grant.cluster_role, &grant.operator),
        ],
        secrets: [opaque(ns, KEYS_SECRET), opaque(ns, HOME_CLIENT_SECRET)],
        token: token(ns),
        ledger: lease(record),
        pair: ConfigMap {
            metadata: meta(ns, PAIR_CONFIG_MAP),
            data: Some([(PAIR_KEY.to_owned(), record_json.to_owned())].into()),
            ..ConfigMap::default()
        },
    }
}

/// The operator's rights in the pair's namespace at home.
#[must_use]
pub fn home_binding(namespace: &str, grant: &Grant) -> RoleBinding {
    binding(namespace, OPERATOR_HOME_BINDING, "ClusterRole", &grant.cluster_role, &grant.operator)
}

/// Home's Secret. Without a kubeconfig it marks a pair that is half made.
#[must_use]
pub fn home_secret(
    record: &PairRecord,
    name: &str,
    record_json: &str,
    seed_hex: &str,
    kubeconfig: Option<&str>,
) -> Secret {
    let mut data: BTreeMap<String, ByteString> = [
        (PAIR_KEY.to_owned(), ByteString(record_json.as_bytes().to_vec())),
        (SIGNING_KEY.to_owned(), ByteString(seed_hex.as_bytes().to_vec())),
    ]
    .into();
    if let Some(text) = kubeconfig {
        data.insert(KUBECONFIG_KEY.to_owned(), ByteString(text.as_bytes().to_vec()));
    }
    Secret {
        metadata: meta(&record.home_namespace, name),
        data: Some(data),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

/// A namespace; `pod_security` is the level that it enforces, if any.
#[must_use]
pub fn namespace(name: &str, pod_security: Option<&str>) -> Namespace {
    let mut labels: BTreeMap<String, String> = [(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned())].into();
    if let Some(level) = pod_security {
        labels.insert(POD_SECURITY.to_owned(), level.to_owned());
    }
    Namespace {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
        ..Namespace::default()
    }
}

/// What home may do in the embassy, all but the ledger: no `list` (it may not look around), no
/// `patch` and no `delete` (it cannot destroy the copy), no status, no requests.
fn home_rules() -> Vec<PolicyRule> {
    vec![
        rule(GROUP, &["dataembassies", "replicapolicies"], &["create", "get", "watch", "update"], &[]),
        rule("", &["secrets"], &["get"], &[HOME_CLIENT_SECRET]),
        // Update without get: home gives its keys and cannot read them back, nor anyone else's.
        rule("", &["secrets"], &["update"], &[KEYS_SECRET]),
    ]
}

fn restorer_rules() -> Vec<PolicyRule> {
    vec![
        rule("apps", &["deployments", "statefulsets"], &RESTORER_VERBS, &[]),
        rule("", &["services", "configmaps", "secrets", "serviceaccounts"], &RESTORER_VERBS, &[]),
    ]
}

fn ledger_rule(pair: &str, verbs: &[&str]) -> PolicyRule {
    rule("coordination.k8s.io", &["leases"], verbs, &[&ledger(pair)])
}

fn lease(record: &PairRecord) -> Lease {
    Lease {
        metadata: meta(&record.embassy_namespace, &ledger(&record.id)),
        spec: Some(LeaseSpec {
            lease_duration_seconds: Some(whole_seconds(record.lease.duration)),
            ..LeaseSpec::default()
        }),
    }
}

/// Rounded up: a ledger never shows a shorter time than the record.
fn whole_seconds(span: Span) -> i32 {
    let rounded = span.get().as_millis().div_ceil(1000);
    i32::try_from(rounded).unwrap_or(i32::MAX).max(1)
}

fn token(ns: &str) -> Secret {
    let mut metadata = meta(ns, HOME_TOKEN_SECRET);
    metadata.annotations =
        Some([("kubernetes.io/service-account.name".to_owned(), HOME_IDENTITY.to_owned())].into());
    Secret { metadata, type_: Some("kubernetes.io/service-account-token".into()), ..Secret::default() }
}

fn opaque(ns: &str, name: &str) -> Secret {
    Secret { metadata: meta(ns, name), type_: Some("Opaque".into()), ..Secret::default() }
}

fn account(ns: &str, name: &str, automount: bool) -> ServiceAccount {
    ServiceAccount {
        metadata: meta(ns, name),
        automount_service_account_token: Some(automount),
        ..ServiceAccount::default()
    }
}

fn role(ns: &str, name: &str, rules: Vec<PolicyRule>) -> Role {
    Role { metadata: meta(ns, name), rules: Some(rules) }
}

fn binding(ns: &str, name: &str, kind: &str, role: &str, subject: &Account) -> RoleBinding {
    RoleBinding {
        metadata: meta(ns, name),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: kind.to_owned(),
            name: role.to_owned(),
        },
        subjects: Some(vec![Subject {
            api_group: None,
            kind: "ServiceAccount".into(),
            name: subject.name.clone(),
            namespace: Some(subject.namespace.clone()),
        }]),
    }
}

fn rule(group: &str, resources: &[&str], verbs: &[&str], names: &[&str]) -> PolicyRule {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        resource_names: (!names.is_empty()).then(|| owned(names)),
        non_resource_urls: None,
    }
}

fn meta(ns: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(ns.to_owned()),
        name: Some(name.to_owned()),
        labels: Some([(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
#[path = "rbac_tests.rs"]
mod tests;
