//! Arguments → one command, nothing else.

use std::process::ExitCode;

use clap::Parser;
use pgweir::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pgweir: {error:#}");
            ExitCode::FAILURE
        }
    }
}
