//! `/healthz`, `/readyz` and `/metrics`, over plain HTTP and without secrets.

use super::room::Room;
use super::server::Vault;
use super::tls::Current;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Most connections at once: kubelet, Prometheus, and a person.
const MAX_CONNECTIONS: usize = 32;
/// Longest life of a connection; a scrape takes milliseconds.
const LIFETIME: Duration = Duration::from_secs(60);

/// What health is judged by.
#[derive(Clone)]
pub struct Health {
    /// Empty while the repositories are being opened. Counting millions of objects takes longer
    /// than a liveness probe waits, and a vault killed for that would never start.
    pub vault: Arc<OnceLock<Arc<Vault>>>,
    /// Our certificate.
    pub tls: Option<watch::Receiver<Current>>,
    /// Cancelled at SIGTERM.
    pub shutdown: CancellationToken,
}

/// Serves until the token is cancelled.
pub async fn serve(listener: TcpListener, health: Health) {
    let shutdown = health.shutdown.clone();
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health);
    let places = Room::new(MAX_CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (service, seat) = (TowerToHyperService::new(routes.clone()), places.enter());
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(LIFETIME);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                ended = tokio::time::timeout(LIFETIME, connection) => {
                    if let Ok(Err(error)) = ended {
                        tracing::debug!(%error, "a health connection ended badly");
                    }
                }
                // A probe of kubelet's must get through, whoever else sits here and says nothing.
                () = seat.out.cancelled() => {}
            }
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
    let Some(vault) = health.vault.get() else { return Some("opening the repositories") };
    // A volume that went away under us answers with an error here.
    vault.committer.store.space().err().map(|_| "the vault's folder does not answer")
}

async fn metrics(State(health): State<Health>) -> String {
    health.vault.get().map(|vault| vault.metrics.text(vault)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_that_still_opens_is_alive_but_not_ready() {
        let health = Health { vault: Arc::default(), tls: None, shutdown: CancellationToken::new() };
        assert_eq!(not_ready(&health), Some("opening the repositories"));
        health.shutdown.cancel();
        assert_eq!(not_ready(&health), Some("shutting down"));
    }
}
