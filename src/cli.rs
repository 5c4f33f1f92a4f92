//! What can be typed, and the exit statuses: 0 done, 1 something could not be done, 2 wrong usage or configuration.

mod config;
mod generate;
mod mount;
mod run;
mod serve;
mod setup;
mod umount;

use crate::config::ConfigError;
use crate::guard;
use clap::{Parser, Subcommand};
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser, Debug)]
#[command(name = "ttlfs", version, about, disable_help_subcommand = true)]
#[command(
    after_help = "Exit status: 0 done, 1 something could not be done, 2 wrong usage or configuration."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Mount a backing directory; returns when the mount serves
    Mount(mount::MountArguments),
    /// Unmount; returns when everything due is on disk and the daemon is gone
    Umount(umount::UmountArguments),
    /// Run one command with a private temp directory that is gone and erased afterwards
    Run(run::RunArguments),
    /// Look at configuration files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the manual page
    Man,
    /// Keep a mount alive
    #[command(hide = true)]
    Guard(guard::GuardArguments),
    /// Serve a mount
    #[command(hide = true)]
    Serve(guard::ServerArguments),
    /// Keep and clean up the directory of `run`
    #[command(hide = true)]
    Keeper(run::KeeperArguments),
    /// Run a command in the namespace of `run --private-tmp`
    #[command(hide = true)]
    Enter(run::EnterArguments),
}

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Say what is wrong in a configuration file
    Check { file: PathBuf },
}

/// Why a command ends without success: one line, and the exit status.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    /// `run`: ttlfs itself failed, not the command.
    pub const RUN: u8 = 125;

    /// Something could not be done.
    fn failed(message: impl fmt::Display) -> Failure {
        Failure {
            status: Failure::FAILED,
            message: message.to_string(),
        }
    }

    /// What was typed or configured can't be right.
    fn usage(message: impl fmt::Display) -> Failure {
        Failure {
            status: Failure::USAGE,
            message: message.to_string(),
        }
    }

    fn with_status(self, status: u8) -> Failure {
        Failure { status, ..self }
    }

    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::usage(error)
    }
}

/// Carries out a command.
pub fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Mount(arguments) => mount::mount(arguments),
        Command::Umount(arguments) => umount::umount(&arguments),
        Command::Run(arguments) => {
            run::run(arguments).map_err(|failure| failure.with_status(Failure::RUN))
        }
        Command::Config {
            command: ConfigCommand::Check { file },
        } => config::check(file),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man => generate::manual(),
        Command::Guard(arguments) => arguments
            .take()
            .and_then(guard::run)
            .map_err(|error| Failure::failed(format_args!("guard: {error}"))),
        Command::Serve(arguments) => serve::serve(&arguments),
        Command::Keeper(arguments) => run::keeper(&arguments),
        Command::Enter(arguments) => run::enter(&arguments),
    }
}

/// The option `-o`, shared by the commands that mount.
#[derive(clap::Args, Debug)]
pub struct MountOptionArguments {
    /// Rules for the whole mount (ttl=24h,quota=10G), for a subtree (rule=/PATH:KEY=VALUE:...), and kernel options
    #[arg(short = 'o', value_name = "OPT[,OPT...]", allow_hyphen_values = true, action = clap::ArgAction::Append)]
    options: Vec<String>,
}

/// What clap has to say, as a single line.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut line = String::new();
    for part in text.lines().map(str::trim) {
        if part.starts_with("Usage:") || part.starts_with("For more information") {
            break;
        }
        if part.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push_str(if line.ends_with(':') { " " } else { "; " });
        }
        line.push_str(part.strip_prefix("error: ").unwrap_or(part));
    }
    line
}

/// An error without the number that `io::Error` adds.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_are_one_line() {
        for args in [
            &["ttlfs", "umount"][..],
            &["ttlfs", "mount", "--bogus"],
            &["ttlfs", "mout"],
        ] {
            let error = Cli::try_parse_from(args).expect_err("wrong usage");
            let line = one_line(&error);
            assert!(!line.contains('\n') && !line.is_empty(), "{line:?}");
        }
    }
}
