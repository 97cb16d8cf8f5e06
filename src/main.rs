//! `litefleet`: the command line of a fleet of SQLite databases. It uses the crate's public API and nothing else.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::args::Arguments::parse();
    let json = arguments.json;
    match cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::output::print_error(&error, json);
            ExitCode::FAILURE
        }
    }
}
