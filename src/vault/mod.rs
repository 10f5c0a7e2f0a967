//! The vault: the append-only repository server in the embassy.
//!
//! It speaks restic's REST protocol over mutual TLS, keeps restic's layout on disk (so that the
//! stock program opens the folder without us), and commits dispatches: signed headers that make a
//! set of snapshots *received*. It holds no key and can read nothing of what it keeps.
//!
//! What it promises: what was acknowledged is durable under the name it was sent to, whenever the
//! process or the machine dies; nothing stored is ever altered or, locks aside, deleted; a dispatch
//! is committed only if it is signed by home, next in its chain, complete, and of the ledger's epoch.
//!
//! Map: `config` (flags) -> `server` (connections, [`tls`]) -> `routes` (who may do what) ->
//! `receive`, `read`, `list`, `commit` (with the pure checks of `chain` and the ledger of `epoch`)
//! -> `repo`, `store`, `usage` (the disk).

pub mod body;
pub mod chain;
pub mod commit;
pub mod config;
pub mod epoch;
pub mod error;
pub mod health;
pub mod list;
pub mod metrics;
pub mod names;
pub mod read;
pub mod receive;
pub mod repo;
pub mod repositories;
mod room;
pub mod routes;
pub mod server;
pub mod stall;
pub mod store;
pub mod tls;
pub mod usage;
pub mod watch;

pub use config::VaultArgs;

use crate::cli::CliResult;
use commit::Committer;
use health::Health;
use metrics::Metrics;
use repositories::Repositories;
use server::{Server, Vault};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tls::TlsState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use usage::Quotas;

/// How often watched files are read again.
const RELOAD: Duration = Duration::from_secs(2);
/// Uploads of packs, indexes, snapshots and dispatches at once.
const UPLOADS: usize = 32;
/// Lists at once.
const LISTS: usize = 8;
/// Threads for disk work: more only queue at the disk.
const DISK_THREADS: usize = 48;
/// Threads for everything else.
const MAX_WORKERS: usize = 4;

/// Why the vault cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Runs `embassy vault` until SIGTERM or SIGINT.
///
/// # Errors
/// The error printed by `main`.
pub fn run(args: &VaultArgs) -> CliResult {
    crate::telemetry::init();
    // For the ledger's client; the server's own TLS names its library itself.
    crate::cli::install_crypto();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(DISK_THREADS)
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(args));
    // A disk that hangs must not keep the process past the grace that its requests had.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(args: &VaultArgs) -> CliResult {
    let tls = args.tls()?.map(TlsState::load).transpose()?.map(Arc::new);
    let shutdown = CancellationToken::new();
    stop_on_signal(shutdown.clone())?;
    let watching = tls.as_ref().map(|tls| tls.subscribe());
    let opened = Arc::new(OnceLock::new());
    if let Some(address) = args.health_listen {
        let listener = listen(address, "health").await?;
        let health = Health { vault: Arc::clone(&opened), tls: watching.clone(), shutdown: shutdown.clone() };
        tokio::spawn(health::serve(listener, health));
    }
    let vault = tokio::select! {
        vault = open(args) => Arc::new(vault?),
        () = shutdown.cancelled() => return Ok(()),
    };
    opened.get_or_init(|| Arc::clone(&vault));
    tokio::spawn(reload(Arc::clone(&vault), tls));
    let listener = listen(args.listen, "vault").await?;
    let max_connections = usize::from(args.max_connections);
    server::serve(listener, Server { vault, tls: watching, max_connections, shutdown }).await;
    tracing::info!("stopped");
    Ok(())
}

async fn open(args: &VaultArgs) -> Result<Vault, Box<dyn std::error::Error + Send + Sync>> {
    let authority = args.authority()?;
    let epochs = args.epochs()?;
    let quotas = Quotas::load(args.quota_file.clone())?;
    let repositories = Repositories::load(&args.repositories, args.repositories_file.clone())?;
    let data = args.data.clone();
    let store = Arc::new(tokio::task::spawn_blocking(move || store::Store::open(&data)).await??);
    Ok(Vault {
        committer: Arc::new(Committer { store, authority, epochs }),
        quotas,
        repositories,
        metrics: Metrics::default(),
        uploads: Semaphore::new(UPLOADS),
        lists: Arc::new(Semaphore::new(LISTS)),
        client_timeout: Duration::from_secs(args.client_timeout),
    })
}

async fn listen(address: SocketAddr, what: &'static str) -> Result<TcpListener, ListenError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ListenError { address, source })?;
    let address = listener.local_addr().map_err(|source| ListenError { address, source })?;
    tracing::info!(what, %address, "listening");
    Ok(listener)
}

fn stop_on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("stopping: requests in flight may end");
        shutdown.cancel();
    });
    Ok(())
}

/// Reads the watched files again, for as long as the vault runs.
async fn reload(vault: Arc<Vault>, tls: Option<Arc<TlsState>>) {
    let mut turn = tokio::time::interval(RELOAD);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = [String::new(), String::new(), String::new()];
    loop {
        turn.tick().await;
        let [certificates, quotas, repositories] = &mut failing;
        if let Some(tls) = &tls {
            report(&vault.metrics, "certificates", tls.reload(), certificates);
        }
        report(&vault.metrics, "quotas", vault.quotas.reload(), quotas);
        report(&vault.metrics, "repositories", vault.repositories.reload(), repositories);
    }
}

/// Tells of a reload once: a file that stays broken must not fill the log every two seconds.
fn report<E: std::error::Error + Display>(
    metrics: &Metrics,
    what: &'static str,
    result: Result<bool, E>,
    failing: &mut String,
) {
    match result {
        Ok(changed) => {
            if changed || !failing.is_empty() {
                metrics.reload(what, true);
                tracing::info!(what, "read again");
            }
            failing.clear();
        }
        Err(error) => {
            metrics.reload(what, false);
            let text = crate::cli::chain(&error);
            if *failing != text {
                tracing::error!(what, error = text, "cannot read again; what was read before stays in force");
                *failing = text;
            }
        }
    }
}
