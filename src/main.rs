//! The `ttlfs` command: parses what was typed, calls, and turns the outcome into an exit status.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::process::ExitCode;
use ttlfs::cli::{self, Cli, Failure};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let is_run = args.get(1).is_some_and(|arg| arg == "run");
    match Cli::try_parse_from(&args) {
        Ok(cli) => cli::dispatch(cli.command).unwrap_or_else(|failure| {
            eprintln!("ttlfs: {failure}");
            ExitCode::from(failure.status())
        }),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                // Nobody reads it: nothing else to do about it.
                let _ = error.print();
                ExitCode::SUCCESS
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                eprint!("{}", Cli::command().render_help());
                ExitCode::from(Failure::USAGE)
            }
            _ => {
                eprintln!("ttlfs: {}", cli::one_line(&error));
                // `run` leaves 2 to the command.
                ExitCode::from(if is_run { Failure::RUN } else { Failure::USAGE })
            }
        },
    }
}
