//! `litefleet`, the command line of a fleet of SQLite databases. It uses only the public API of the crate.

mod cli;

use std::{env, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    let arguments = match cli::args::Arguments::try_parse() {
        Ok(arguments) => arguments,
        // An invalid command line may still ask for JSON.
        Err(error) if error.use_stderr() && env::args_os().any(|argument| argument == "--json") => {
            cli::output::print_usage_error(&error);
            return ExitCode::from(cli::USAGE_ERROR);
        }
        Err(error) => error.exit(),
    };
    let json = arguments.json;
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            cli::output::print_error(&error, json);
            cli::interrupt::terminate_if_cancelled(&error);
            ExitCode::FAILURE
        }
    }
}
