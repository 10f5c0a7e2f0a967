//! The vault: the append-only repository server.

use crate::cli::CliResult;

/// Command line of `embassy vault`.
#[derive(Debug, clap::Args)]
pub struct VaultArgs {}

/// Runs `embassy vault`.
///
/// # Errors
/// The error printed by `main`.
pub fn run(_args: &VaultArgs) -> CliResult {
    Err("not there".into())
}
