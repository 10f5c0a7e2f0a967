//! Clients to other clusters: bounded in time, without retries, names resolved without NSS.
//!
//! The binary is a static glibc one: `getaddrinfo` in it crashes, so names are looked up by an own
//! resolver. The kubeconfig comes out of a Secret that a namespace's tenant can write, so everything
//! in it that would make this process read its own files or run a program is refused: a `tokenFile`
//! that points at the operator's own token would send that token to a server of the tenant's choice.

use hickory_resolver::TokioResolver;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};

/// Bounds of a client.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Until the TCP connection stands, name look-up excluded.
    pub connect: Duration,
    /// From the request to the head of its answer (a watch's stream goes on after that).
    pub answer: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), answer: Duration::from_secs(10) }
    }
}

/// Why there is no client. Every message says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Not UTF-8.
    #[error("the kubeconfig is not UTF-8 text; run `kubectl embassy pair` again")]
    Text(#[source] std::str::Utf8Error),
    /// Not a kubeconfig, or without a usable current context.
    #[error("the kubeconfig does not parse; run `kubectl embassy pair` again")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
    /// It names a file or a program.
    #[error(
        "the kubeconfig uses `{0}`, which is refused: it would use files or programs of the operator; \
         embed certificates and tokens (`kubectl embassy pair` does)"
    )]
    Forbidden(&'static str),
    /// Its certificates or keys are unusable.
    #[error("the kubeconfig's certificates cannot be used; run `kubectl embassy pair` again")]
    Tls(#[source] Box<kube::Error>),
    /// `/etc/resolv.conf` is unusable.
    #[error("the operator's pod has no usable /etc/resolv.conf (its dnsPolicy)")]
    Resolver(#[source] Box<hickory_resolver::ResolveError>),
}

/// A client for the cluster of a kubeconfig.
///
/// # Errors
/// [`ClusterError`].
pub async fn client(kubeconfig: &[u8], bounds: Bounds) -> Result<Client, ClusterError> {
    let text = std::str::from_utf8(kubeconfig).map_err(ClusterError::Text)?;
    let parsed = Kubeconfig::from_yaml(text).map_err(|e| ClusterError::Kubeconfig(Box::new(e)))?;
    refuse_local(&parsed)?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|e| ClusterError::Kubeconfig(Box::new(e)))?;
    from_config(&config, bounds)
}

/// A client for a configuration, with our own resolver, time bounds and no retries.
///
/// # Errors
/// [`ClusterError`].
pub fn from_config(config: &Config, bounds: Bounds) -> Result<Client, ClusterError> {
    let tls = |e: kube::Error| ClusterError::Tls(Box::new(e));
    let mut tcp = HttpConnector::new_with_resolver(Dns::from_system()?);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(bounds.connect));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let https = config.rustls_https_connector_with_connector(tcp).map_err(tls)?;
    let http: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(tls)?)
        .map_err(BoxError::from)
        .timeout(bounds.answer)
        .service(http);
    Ok(ClientBuilder::new(service.map_err(BoxError::from), config.default_namespace.clone()).build())
}

/// Refuses what would read this process's files, run a program or skip the check of the server.
fn refuse_local(config: &Kubeconfig) -> Result<(), ClusterError> {
    for auth in config.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()) {
        let used = [
            (auth.exec.is_some(), "exec"),
            (auth.auth_provider.is_some(), "auth-provider"),
            (auth.token_file.is_some(), "tokenFile"),
            (auth.client_certificate.is_some(), "client-certificate"),
            (auth.client_key.is_some(), "client-key"),
        ];
        if let Some((_, name)) = used.into_iter().find(|(used, _)| *used) {
            return Err(ClusterError::Forbidden(name));
        }
    }
    for cluster in config.clusters.iter().filter_map(|named| named.cluster.as_ref()) {
        let used = [
            (cluster.certificate_authority.is_some(), "certificate-authority"),
            (cluster.insecure_skip_tls_verify == Some(true), "insecure-skip-tls-verify"),
            (cluster.proxy_url.is_some(), "proxy-url"),
            (
                cluster.server.as_deref().is_some_and(|url| !url.starts_with("https://")),
                "server without https",
            ),
        ];
        if let Some((_, name)) = used.into_iter().find(|(used, _)| *used) {
            return Err(ClusterError::Forbidden(name));
        }
    }
    Ok(())
}

/// Name look-ups without the C library.
#[derive(Clone)]
struct Dns(Arc<TokioResolver>);

impl Dns {
    fn from_system() -> Result<Self, ClusterError> {
        let mut builder = TokioResolver::builder_tokio().map_err(|e| ClusterError::Resolver(Box::new(e)))?;
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(2);
        options.attempts = 2;
        Ok(Self(Arc::new(builder.build())))
    }
}

impl tower::Service<Name> for Dns {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = hickory_resolver::ResolveError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(name.as_str()).await?;
            // The connector puts the port in.
            let addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn kubeconfig(user: &str, cluster: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             contexts: [{{name: a, context: {{cluster: c, user: u}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\nclusters: [{{name: c, cluster: {{{cluster}}}}}]\n"
        )
    }

    #[tokio::test]
    async fn what_would_use_the_operators_own_files_is_refused() {
        let server = "server: \"https://198.18.0.1:6443\"";
        for (user, cluster) in [
            ("tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token", server.to_owned()),
            ("exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh}", server.to_owned()),
            ("client-certificate: /etc/passwd", server.to_owned()),
            ("token: x", format!("{server}, certificate-authority: /etc/ca")),
            ("token: x", format!("{server}, insecure-skip-tls-verify: true")),
            ("token: x", "server: \"http://198.18.0.1:6443\"".to_owned()),
        ] {
            let verdict = client(kubeconfig(user, &cluster).as_bytes(), Bounds::default()).await;
            assert!(matches!(verdict, Err(ClusterError::Forbidden(_))), "{user} {cluster}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_in_bounded_time() {
        let text = kubeconfig("token: x", "server: \"https://127.0.0.1:1\"");
        let client = client(text.as_bytes(), Bounds::default()).await.unwrap();
        assert!(client.apiserver_version().await.is_err());
    }

    #[tokio::test]
    async fn garbage_is_an_error() {
        assert!(client(b"\xff", Bounds::default()).await.is_err());
        assert!(client(b"{", Bounds::default()).await.is_err());
    }
}
