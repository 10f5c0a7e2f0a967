//! The command line of `embassy`: parse and dispatch, nothing else.

use crate::{controller, crds, mover, telemetry, vault};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// What every subcommand returns; `main` prints the whole chain of causes once.
pub type CliResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Keeps a living, sealed copy of a cluster's registers on foreign soil.
#[derive(Debug, Parser)]
#[command(name = "embassy", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the operator: home for the DataEmbassies applied here, embassy for those mirrored here.
    Operator(Box<controller::Settings>),
    /// Writes the custom resource definitions as YAML.
    Crds {
        /// Folder for one file a definition; without it all go to standard output.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Takes the operator's finalizer off every DataEmbassy: the chart runs it after it is uninstalled.
    Release,
    /// Makes, restores and proves dispatches.
    Mover(mover::MoverArgs),
    /// Serves the append-only repositories of one pair.
    Vault(Box<vault::VaultArgs>),
}

impl Cli {
    /// Runs the chosen subcommand.
    ///
    /// # Errors
    /// The subcommand's own error, with its sources chained.
    pub fn run(self) -> CliResult {
        match self.command {
            Command::Operator(settings) => operator(*settings),
            Command::Crds { out: Some(directory) } => Ok(crds::write(&directory)?),
            Command::Crds { out: None } => {
                for (_, yaml) in crds::definitions()? {
                    println!("---\n{yaml}");
                }
                Ok(())
            }
            Command::Release => release(),
            Command::Mover(args) => mover::run(&args),
            Command::Vault(args) => vault::run(&args),
        }
    }
}

/// Chooses the one TLS library for the whole process; a second call changes nothing.
pub fn install_crypto() {
    // An error only says that a provider is installed already.
    let _installed = rustls::crypto::ring::default_provider().install_default();
}

fn operator(settings: controller::Settings) -> CliResult {
    telemetry::init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(controller::run::run(settings))?)
}

fn release() -> CliResult {
    telemetry::init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(controller::release::run())?)
}

/// An error with all its causes in one line, the one place where errors are printed.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Libraries often repeat the cause in their own message; saying it twice helps nobody.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
