//! Logs: one line an event, to standard error, filtered by `RUST_LOG` (default `info`).

use tracing_subscriber::EnvFilter;

/// Starts logging; called once, by the subcommands that run for long. JSON with `EMBASSY_LOG=json`.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let json = std::env::var("EMBASSY_LOG").is_ok_and(|v| v == "json");
    // A second call (tests) finds a subscriber in place, which is all that is wanted.
    let _already_set = if json { builder.json().try_init() } else { builder.try_init() };
}
