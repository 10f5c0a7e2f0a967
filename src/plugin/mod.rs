//! `kubectl embassy`: edits intent and leaves acting to the operator.
//!
//! Only [`pair`] and `retire --pair` write objects of their own (identities, rights, the pair
//! record): what an admin grants is not for an operator to grant itself. All else is one
//! `EmbassyRequest`. What is written is made by pure builders ([`rbac`], [`kubeconfig`]).

pub mod confirm;
pub mod kube;
pub mod kubeconfig;
pub mod pair;
pub mod pair_args;
pub mod pair_observe;
pub mod pair_plan;
pub mod promote;
pub mod rbac;
pub mod request;
pub mod retire;
pub mod status;
pub mod sync;

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
    /// Shows how data embassies are, at one site or at both.
    Status(Box<status::StatusArgs>),
    /// At home: asks for a dispatch now.
    Sync(sync::SyncArgs),
    /// At the embassy: asks for a takeover.
    Promote(promote::PromoteArgs),
    /// At the embassy: deletes the copy of what was deleted at home, or the pair itself.
    Retire(retire::RetireArgs),
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
                Command::Pair(args) => Ok(Box::pin(pair::run(&args)).await?),
                Command::Status(args) => Ok(status::run(&args).await?),
                Command::Sync(args) => Ok(sync::run(&args).await?),
                Command::Promote(args) => Ok(promote::run(&args).await?),
                Command::Retire(args) => Ok(retire::run(&args).await?),
            }
        })
    }
}

/// Writes a line for the user. A closed pipe (`| head`) is no error of ours.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
}

/// How long ago `then` was, in at most two units. A clock that is behind shows `0s`.
pub(crate) fn age(now: jiff::Timestamp, then: jiff::Timestamp) -> String {
    let seconds = u64::try_from(now.duration_since(then).as_secs()).unwrap_or(0);
    let unit = [86_400, 3600, 60].into_iter().find(|unit| seconds >= *unit).unwrap_or(1);
    let smaller = match unit {
        86_400 => 3600,
        3600 => 60,
        _ => 1,
    };
    crate::api::duration::Span::secs(seconds / smaller * smaller).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ages_have_two_units() {
        let at = |seconds| jiff::Timestamp::from_second(seconds).unwrap();
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (61, "1m1s"), (3661, "1h1m"), (90_061, "1d1h"), (-5, "0s")]
        {
            assert_eq!(age(at(seconds), at(0)), text);
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
