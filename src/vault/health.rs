//! `/healthz`, `/readyz` and `/metrics`, over plain HTTP and without secrets.

use super::server::Vault;
use super::tls::Current;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Most connections at once: kubelet, Prometheus, and a person.
const MAX_CONNECTIONS: usize = 32;
/// Longest life of a connection; a scrape takes milliseconds.
const LIFETIME: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Health {
    vault: Arc<Vault>,
    tls: Option<watch::Receiver<Current>>,
    shutdown: CancellationToken,
}

/// Serves until the token is cancelled.
pub async fn serve(
    listener: TcpListener,
    vault: Arc<Vault>,
    tls: Option<watch::Receiver<Current>>,
    shutdown: CancellationToken,
) {
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Health { vault, tls, shutdown: shutdown.clone() });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(LIFETIME);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(LIFETIME, connection).await {
                tracing::debug!(%error, "a health connection ended badly");
            }
            drop(place);
        });
    }
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    match not_ready(&health) {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn not_ready(health: &Health) -> Option<&'static str> {
    if health.shutdown.is_cancelled() {
        return Some("shutting down");
    }
    let now = jiff::Timestamp::now().as_second();
    if health.tls.as_ref().is_some_and(|tls| tls.borrow().not_after <= now) {
        return Some("the certificate has expired");
    }
    // A volume that went away under us answers with an error here.
    health.vault.committer.store.space().err().map(|_| "the vault's folder does not answer")
}

async fn metrics(State(health): State<Health>) -> String {
    health.vault.metrics.text(&health.vault)
}
