//! `litefleet`: the command line of a fleet of SQLite databases. It uses the crate's public API and nothing else.

mod cli;

use std::{env, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    let arguments = match cli::args::Arguments::try_parse() {
        Ok(arguments) => arguments,
        // What cannot be read as a command still says how it wants to be answered.
        Err(wrong) if wrong.use_stderr() && env::args_os().any(|argument| argument == "--json") => {
            cli::output::print_usage_error(&wrong);
            return ExitCode::from(cli::USAGE);
        }
        Err(wrong) => wrong.exit(),
    };
    let json = arguments.json;
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            cli::output::print_error(&error, json);
            cli::interrupt::end_if_cancelled(&error);
            ExitCode::FAILURE
        }
    }
}
