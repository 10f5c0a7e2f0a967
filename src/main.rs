//! `embassy`: parse and dispatch.

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    data_embassy::cli::install_crypto();
    match data_embassy::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embassy: {}", data_embassy::cli::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
