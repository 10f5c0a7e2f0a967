//! The mover: makes, restores and proves dispatches (design, section 6).
//!
//! One run is one process. `run` holds its frame (signals, report), `by_hand` and `dispatch` say
//! what is done, and below them:
//!
//! - `backend`: a local directory or a vault behind REST, and the signed headers beside it;
//! - `repo`, `keyfile`: an open repository, with reads that check what they read;
//! - `source`, `archive`: reads a volume and keeps count of what it cannot read;
//! - `chain`: the chain of signed headers;
//! - `restore`, `prove`: makes a directory equal to a tree, and independently compares it.

mod archive;
mod args;
pub mod backend;
mod by_hand;
mod chain;
mod contents;
mod dispatch;
pub mod error;
mod fsx;
mod gomode;
mod keyfile;
mod manifests;
mod pool;
pub mod progress;
mod prove;
mod repo;
mod restore;
mod run;
mod source;
mod wanted;

use crate::api::report::MoverKind;
use crate::cli::CliResult;
pub use args::MoverArgs;
use args::{Command, Output};
use error::MoverError;

/// Runs `embassy mover`. It reports by itself, so it ends the process unless all went well:
/// 0 if nothing was missed, 3 if entries were unreadable, 1 for everything else.
///
/// # Errors
/// Only if the process cannot be set up.
pub fn run(args: &MoverArgs) -> CliResult {
    match execute(args)? {
        0 => Ok(()),
        code => std::process::exit(code),
    }
}

fn execute(args: &MoverArgs) -> Result<i32, MoverError> {
    let plain = Output { json: false, termination_log: None };
    match args.command.as_ref() {
        Command::Backup(args) => {
            run::execute(MoverKind::Backup, &args.output, false, |run| match args.dispatch {
                true => dispatch::backup(run, args),
                false => by_hand::backup(run, args),
            })
        }
        Command::Restore(args) => {
            run::execute(MoverKind::Restore, &args.output, false, |run| match args.which.dispatch {
                Some(_) => dispatch::restore_dispatch(run, args),
                None => by_hand::restore_snapshot(run, args),
            })
        }
        Command::Verify(args) => {
            run::execute(MoverKind::Verify, &args.output, false, |run| match args.which.dispatch {
                Some(_) => dispatch::verify_dispatch(run, args),
                None => by_hand::verify(run, args),
            })
        }
        Command::Snapshots(args) => {
            run::execute(MoverKind::Verify, &plain, true, |run| by_hand::snapshots(run, args))
        }
        Command::Init(args) => run::execute(MoverKind::Backup, &plain, false, |run| by_hand::init(run, args)),
    }
}
