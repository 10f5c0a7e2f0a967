//! `kubectl embassy`: edits intent and leaves acting to the operator.
//!
//! Only [`pair`] and `retire --pair` write objects of their own (identities, rights, the pair
//! record): what an admin grants is not for an operator to grant itself. All else is one
//! `EmbassyRequest`. What is written is made by pure builders ([`rbac`], [`kubeconfig`]).

pub mod kube;
pub mod kubeconfig;
pub mod pair;
pub mod pair_args;
pub mod pair_observe;
pub mod pair_plan;
pub mod rbac;

use crate::cli::CliResult;
use clap::{Parser, Subcommand};
use std::io::Write as _;

/// Pairs clusters, shows how data embassies are, and asks for a change of course.
#[derive(Debug, Parser)]
#[command(name = "kubectl-embassy", bin_name = "kubectl embassy", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Joins one namespace at home and one at the embassy: identities, rights, ledger, pair record.
    Pair(Box<pair::PairArgs>),
}

impl Cli {
    /// Runs the chosen subcommand.
    ///
    /// # Errors
    /// The subcommand's own error, with its sources chained.
    pub fn run(self) -> CliResult {
        crate::cli::install_crypto();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match self.command {
                Command::Pair(args) => pair::run(&args).await.map_err(Into::into),
            }
        })
    }
}

/// Writes a line for the user. A closed pipe (`| head`) is no error of ours.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
}
