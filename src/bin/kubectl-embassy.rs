//! `kubectl embassy`: parse and dispatch.

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    match data_embassy::plugin::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kubectl embassy: {}", data_embassy::cli::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
