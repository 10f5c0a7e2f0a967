//! The operator's own HTTP endpoint: `/healthz`, `/readyz`, `/metrics`.

use crate::metrics::Metrics;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared between the endpoint and the operator.
#[derive(Clone)]
pub struct AdminState {
    /// Set once the controllers' first lists are in.
    pub ready: Arc<AtomicBool>,
    /// What `/metrics` shows.
    pub metrics: Metrics,
}

/// Why the endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address} for health and metrics")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Serves until the process ends.
///
/// # Errors
/// [`AdminError::Listen`]; also when the listener breaks later.
pub async fn serve(address: SocketAddr, state: AdminState) -> Result<(), AdminError> {
    let listen = |source| AdminError::Listen { address, source };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state);
    let listener = tokio::net::TcpListener::bind(address).await.map_err(listen)?;
    axum::serve(listener, router).await.map_err(listen)
}

async fn ready(State(state): State<AdminState>) -> (StatusCode, &'static str) {
    if state.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the first list of DataEmbassies has not come in yet")
    }
}

async fn metrics(State(state): State<AdminState>) -> (StatusCode, String) {
    match state.metrics.encode() {
        Ok(text) => (StatusCode::OK, text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    }
}
