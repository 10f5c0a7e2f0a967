//! What no manifest of home may be or touch.
//!
//! Home's kubeconfig cannot read the keys in the embassy's namespace or reach the vault's volume; its
//! manifests must not become a way round that. A thief at home who could send a Secret `vault-ca`, or a
//! Deployment whose pod mounts `embassy-keys` or the vault's claim, would have the copy.

use crate::api::names;
use serde_json::Value;

/// Names of the operator's own objects in an embassy namespace, whatever their kind.
const NAMES: [&str; 14] = [
    names::PAIR_CONFIG_MAP,
    names::KEYS_SECRET,
    names::HOME_CLIENT_SECRET,
    names::EMBASSY_CLIENT_SECRET,
    names::CA_SECRET,
    names::SERVER_SECRET,
    names::VAULT,
    names::RESTORER,
    names::HOME_IDENTITY,
    names::HOME_ROLE,
    names::HOME_LEDGER_ROLE,
    names::HOME_TOKEN_SECRET,
    names::OPERATOR_HOME_BINDING,
    names::OPERATOR_EMBASSY_BINDING,
];

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A Secret or ServiceAccount: those of the movers are reserved too.
    Mover,
    /// Anything else.
    Other,
}

/// True if the operator keeps this name for itself.
#[must_use]
pub fn is_reserved(named: Named, name: &str) -> bool {
    // `names::manifests` of any DataEmbassy, those to come included.
    NAMES.contains(&name) || (named == Named::Mover && name.ends_with("-manifests"))
}

/// The first reference of a pod's spec (or any part of one) to an object of the operator's.
#[must_use]
pub fn reserved_reference(spec: &Value) -> Option<String> {
    match spec {
        Value::Object(map) => map.iter().find_map(|(key, value)| {
            direct(key, value).or_else(|| nested(key, value)).or_else(|| reserved_reference(value))
        }),
        Value::Array(items) => items.iter().find_map(reserved_reference),
        _ => None,
    }
}

/// `secretName: x`, `claimName: x`, `serviceAccountName: x`.
fn direct(key: &str, value: &Value) -> Option<String> {
    let named = match key {
        "secretName" | "serviceAccountName" | "serviceAccount" => Named::Mover,
        "claimName" => Named::Other,
        _ => return None,
    };
    let name = value.as_str()?;
    is_reserved(named, name).then(|| name.to_owned())
}

/// `secret: {name: x}`, `configMap: {name: x}`, `secretKeyRef: {name: x}`, `imagePullSecrets: [{name: x}]`,
/// `nodePublishSecretRef: {name: x}` and whatever else a volume driver calls it.
fn nested(key: &str, value: &Value) -> Option<String> {
    let key = key.to_ascii_lowercase();
    let named = if key.contains("secret") {
        Named::Mover
    } else if key.contains("configmap") || key.ends_with("ref") {
        Named::Other
    } else {
        return None;
    };
    let items = match value {
        Value::Array(items) => items.as_slice(),
        other => std::slice::from_ref(other),
    };
    let mut names = items.iter().filter_map(|item| item.get("name")?.as_str());
    names.find(|name| is_reserved(named, name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_way_to_a_key_is_seen() {
        for spec in [
            json!({"volumes": [{"name": "v", "secret": {"secretName": "embassy-keys"}}]}),
            json!({"volumes": [{"name": "v", "configMap": {"name": "embassy-pair"}}]}),
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "embassy-vault"}}]}),
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "vault-ca"}}]}}]}),
            json!({"volumes": [{"name": "v", "csi": {"nodePublishSecretRef": {"name": "vault-server"}}}]}),
            json!({"containers": [{"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "vault-ca", "key": "k"}}}]}]}),
            json!({"initContainers": [{"envFrom": [{"secretRef": {"name": "vault-client-home"}}]}]}),
            json!({"imagePullSecrets": [{"name": "register-manifests"}]}),
            json!({"serviceAccountName": "embassy-restorer"}),
            json!({"serviceAccount": "register-manifests"}),
        ] {
            assert!(reserved_reference(&spec).is_some(), "{spec}");
        }
    }

    /// A name that is added to names.rs and forgotten here would be a hole that nobody sees.
    #[test]
    fn every_name_of_the_operators_is_reserved() {
        let source = include_str!("../../../api/names.rs");
        // Values of the component label name no object.
        let lines = source.lines().filter(|line| !line.contains("const COMPONENT_"));
        let values = lines.filter_map(|line| line.split_once(": &str = \"")?.1.split('"').next());
        let own: Vec<_> = values
            .filter(|v| !v.contains('/') && !v.contains('.'))
            .filter(|v| ["embassy-", "vault-", "data-embassy-"].iter().any(|p| v.starts_with(p)))
            .collect();
        assert!(own.len() >= 10, "{own:?}");
        for name in own {
            assert!(is_reserved(Named::Other, name), "{name}");
        }
    }

    #[test]
    fn ordinary_pods_pass() {
        let spec = json!({
            "serviceAccountName": "portal",
            "containers": [{"name": "embassy-vault", "env": [{"name": "vault-ca", "value": "embassy-keys"}]}],
            "volumes": [{"name": "embassy-keys", "configMap": {"name": "portal-manifests"}}],
        });
        assert_eq!(reserved_reference(&spec), None);
    }
}
