//! Connections: accepted, bounded, identified, timed out, and ended in peace.

use super::commit::Committer;
use super::metrics::Metrics;
use super::repositories::Repositories;
use super::room::{Room, Seat};
use super::routes;
use super::stall::StallGuard;
use super::tls::{Current, Role, TlsError, identify};
use super::usage::Quotas;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that have not shown a certificate yet. They have places of their own so that a
/// stranger who opens many cannot take those of home and embassy; with all of them taken the oldest
/// is cut off.
const MAX_HANDSHAKES: usize = 64;
/// Longest handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Bytes that hyper may buffer for one connection.
const CONNECTION_BUFFER: usize = 256 << 10;
/// How long requests in flight may go on after SIGTERM. Below Kubernetes' default grace of 30 s.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(25);

/// Everything that a request needs.
pub struct Vault {
    /// The folder, the authority, the ledger.
    pub committer: Arc<Committer>,
    /// Bytes by repository.
    pub quotas: Quotas,
    /// Which repositories may be written.
    pub repositories: Repositories,
    /// The counters.
    pub metrics: Metrics,
    /// Places for uploads: bounds the memory and the disk's queue.
    pub uploads: Semaphore,
    /// Places for lists: each holds a thread while its reader is slow.
    pub lists: Arc<Semaphore>,
    /// Longest silence of a client, whatever it should be doing.
    pub client_timeout: Duration,
}

/// The door.
pub struct Server {
    /// What is served.
    pub vault: Arc<Vault>,
    /// `None`: plain HTTP, everybody is home. For loopback only.
    pub tls: Option<watch::Receiver<Current>>,
    /// Most connections at once.
    pub max_connections: usize,
    /// Cancelled at SIGTERM.
    pub shutdown: CancellationToken,
}

struct Door {
    server: Server,
    places: Arc<Semaphore>,
}

/// Serves until the token is cancelled, then lets requests in flight end for at most 25 s.
pub async fn serve(listener: TcpListener, server: Server) {
    let places = Arc::new(Semaphore::new(server.max_connections));
    let handshakes = Room::new(MAX_HANDSHAKES);
    let shutdown = server.shutdown.clone();
    let door = Arc::new(Door { server, places });
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (door, seat) = (Arc::clone(&door), handshakes.enter());
                tracker.spawn(async move { door.admit(stream, seat).await });
            }
            Err(error) => {
                // Out of descriptors, most likely: at once again would be a busy loop.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(SHUTDOWN_GRACE, tracker.wait()).await.is_err() {
        tracing::warn!("requests were cut off at the end of the shutdown's grace");
    }
}

impl Door {
    async fn admit(&self, stream: TcpStream, handshake: Seat) {
        // Small answers (a commit's, a lock's) must not wait for more to send.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let Some(tls) = self.server.tls.clone() else {
            drop(handshake);
            let forever = std::future::pending();
            return self.converse(stream, Role::Home, forever).await;
        };
        let current = tls.borrow().clone();
        let accept = TlsAcceptor::from(current.config).accept(stream);
        let accept = tokio::time::timeout(HANDSHAKE_TIME, accept);
        let accepted = tokio::select! {
            accepted = accept => accepted,
            () = handshake.out.cancelled() => {
                return self.server.vault.metrics.turned_away("handshake crowded out");
            }
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::info!(%error, "a TLS handshake failed");
                return self.server.vault.metrics.turned_away("handshake");
            }
            Err(_) => return self.server.vault.metrics.turned_away("handshake timeout"),
        };
        drop(handshake);
        let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        match peer.ok_or(TlsError::Certificate).and_then(identify) {
            Ok((role, not_after)) => {
                let over = outdated(tls, current.ca_generation, not_after);
                self.converse(stream, role, over).await;
            }
            Err(error) => {
                tracing::warn!(%error, "a client was turned away");
                self.server.vault.metrics.turned_away("role");
            }
        }
    }

    /// Serves one connection until it ends, or asks it to once `over` or the shutdown comes.
    async fn converse<I>(&self, stream: I, role: Role, over: impl Future<Output = ()>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let vault = &self.server.vault;
        let Ok(place) = self.places.try_acquire() else {
            tracing::warn!("a connection was refused: too many are open");
            return vault.metrics.turned_away("too many");
        };
        vault.metrics.connections.inc();
        let service = service_fn(|request| async {
            Ok::<_, Infallible>(routes::handle(Arc::clone(vault), role, request).await)
        });
        let io = TokioIo::new(StallGuard::new(stream, vault.client_timeout));
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(vault.client_timeout);
        builder.max_buf_size(CONNECTION_BUFFER);
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async { tokio::select! { () = over => {}, () = self.server.shutdown.cancelled() => {} } } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended badly");
        }
        drop(place);
        vault.metrics.connections.dec();
    }
}

/// Ends when the client's certificate expires or the CA that it was accepted under is replaced.
async fn outdated(mut tls: watch::Receiver<Current>, generation: u64, not_after: i64) {
    let now = jiff::Timestamp::now().as_second();
    let left = u64::try_from(not_after.saturating_sub(now)).unwrap_or(0);
    let replaced = async {
        if tls.wait_for(|current| current.ca_generation != generation).await.is_err() {
            // The sender is gone only when the vault ends.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = replaced => {}
        () = tokio::time::sleep(Duration::from_secs(left)) => {}
    }
}
