//! The mover: makes, restores and proves dispatches.

use crate::cli::CliResult;

/// Command line of `embassy mover`.
#[derive(Debug, clap::Args)]
pub struct MoverArgs {}

/// Runs `embassy mover`.
///
/// # Errors
/// The error printed by `main`.
pub fn run(_args: &MoverArgs) -> CliResult {
    Err("not there".into())
}
