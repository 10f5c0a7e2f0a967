//! Home's kubeconfig to the embassy: built from the admin's, with home's narrow token in place of
//! the admin's credentials. Pure.

use kube::config::{Cluster, Kubeconfig};
use serde_json::json;

/// Where the embassy's API server is and how it is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `https://host:port`.
    pub url: String,
    /// Standard base64 of the CA's PEM; absent: the roots of the system.
    pub ca_data: Option<String>,
    /// Name in the server's certificate where it is not the URL's host.
    pub tls_server_name: Option<String>,
}

/// Why no kubeconfig can be made for home.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The context names nothing that is there.
    #[error("context `{0}` names no cluster with a server in the kubeconfig of the embassy")]
    NoCluster(String),
    /// Plain HTTP would carry home's token in the clear across a border.
    #[error("the embassy's API server must be given as https://..., not `{0}`")]
    NotHttps(String),
    /// The certificate authority's file cannot be read.
    #[error("cannot read the certificate authority {path}")]
    Ca {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// YAML.
    #[error("the kubeconfig cannot be written as YAML")]
    Yaml(#[source] serde_yaml::Error),
}

/// The cluster entry that `context` names.
///
/// # Errors
/// [`KubeconfigError::NoCluster`].
pub fn cluster<'a>(config: &'a Kubeconfig, context: &str) -> Result<&'a Cluster, KubeconfigError> {
    let missing = || KubeconfigError::NoCluster(context.to_owned());
    let found = config.contexts.iter().find(|c| c.name == context).and_then(|c| c.context.as_ref());
    let name = &found.ok_or_else(missing)?.cluster;
    let entry = config.clusters.iter().find(|c| &c.name == name).and_then(|c| c.cluster.as_ref());
    entry.filter(|c| c.server.is_some()).ok_or_else(missing)
}

/// How home reaches the server: `address` if given, else the admin's own.
///
/// `ca_data` is the CA as read by the caller. `insecure-skip-tls-verify` is never passed on: the
/// token's own `ca.crt` takes its place.
///
/// # Errors
/// [`KubeconfigError::NotHttps`].
pub fn server(
    admin: &Cluster,
    address: Option<&str>,
    ca_data: Option<String>,
) -> Result<Server, KubeconfigError> {
    let url = address.or(admin.server.as_deref()).unwrap_or_default().trim_end_matches('/').to_owned();
    if !url.starts_with("https://") {
        return Err(KubeconfigError::NotHttps(url));
    }
    Ok(Server { url, ca_data, tls_server_name: admin.tls_server_name.clone() })
}

/// The kubeconfig as YAML.
///
/// # Errors
/// [`KubeconfigError::Yaml`].
pub fn render(server: &Server, namespace: &str, token: &str) -> Result<String, KubeconfigError> {
    let mut cluster = json!({ "server": server.url });
    if let (Some(fields), Some(ca)) = (cluster.as_object_mut(), &server.ca_data) {
        fields.insert("certificate-authority-data".into(), json!(ca));
    }
    if let (Some(fields), Some(name)) = (cluster.as_object_mut(), &server.tls_server_name) {
        fields.insert("tls-server-name".into(), json!(name));
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "embassy", "cluster": cluster }],
        "users": [{ "name": "home", "user": { "token": token } }],
        "contexts": [{
            "name": "embassy",
            "context": { "cluster": "embassy", "user": "home", "namespace": namespace },
        }],
        "current-context": "embassy",
    });
    serde_yaml::to_string(&config).map_err(KubeconfigError::Yaml)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const ADMIN: &str = r#"
apiVersion: v1
kind: Config
clusters:
- {name: lux, cluster: {server: "https://198.18.0.2:6443/", insecure-skip-tls-verify: true}}
users:
- {name: root, user: {token: admin-token}}
contexts:
- {name: lux, context: {cluster: lux, user: root}}
current-context: lux
"#;

    #[test]
    fn home_gets_the_server_and_its_own_token_and_nothing_else_of_the_admin() {
        let admin = Kubeconfig::from_yaml(ADMIN).unwrap();
        let server = server(cluster(&admin, "lux").unwrap(), None, Some("Q0E=".into())).unwrap();
        let text = render(&server, "estonia", "home-token").unwrap();
        let read = Kubeconfig::from_yaml(&text).unwrap();
        let entry = cluster(&read, "embassy").unwrap();
        assert_eq!(entry.server.as_deref(), Some("https://198.18.0.2:6443"));
        assert_eq!(entry.certificate_authority_data.as_deref(), Some("Q0E="));
        assert_eq!(entry.insecure_skip_tls_verify, None);
        assert!(!text.contains("admin"));
        assert_eq!(read.contexts[0].context.as_ref().unwrap().namespace.as_deref(), Some("estonia"));
    }

    #[test]
    fn refuses_http_and_a_context_that_is_not_there() {
        let admin = Kubeconfig::from_yaml(ADMIN).unwrap();
        let entry = cluster(&admin, "lux").unwrap();
        assert!(matches!(server(entry, Some("http://a"), None), Err(KubeconfigError::NotHttps(_))));
        assert!(matches!(cluster(&admin, "none"), Err(KubeconfigError::NoCluster(_))));
    }
}
