//! `ttlfs run`: one command with a temp directory of its own.
//!
//! Three processes: this one runs the command and passes signals on; the *keeper* makes the directory, and removes
//! and erases it however this one ends; the keeper's guard keeps the mount alive as it does for `mount`.

mod directory;
mod keeper;
mod left;
mod namespace;
mod wipe;

pub use keeper::{KeeperArguments, keeper};

use super::config::privilege;
use super::{Failure, MountOptionArguments, plain};
use crate::config::{Config, Sources};
use crate::mountpoint::shown;
use crate::sys::process::Signals;
use keeper::{Keeper, Plan};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};

const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const SIGNALLED: u8 = 128;

#[derive(clap::Args, Debug)]
pub struct RunArguments {
    #[command(flatten)]
    options: MountOptionArguments,
    /// Put the directory over /tmp and /var/tmp, in a mount namespace of the command's own
    #[arg(long)]
    private_tmp: bool,
    /// Keep what is there at the end, and print where
    #[arg(long)]
    keep: bool,
    /// List what the command left behind
    #[arg(long)]
    report: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// How the command ended, or why it never began.
enum Ended {
    Status(ExitStatus),
    NeverBegan(io::Error),
}

pub(super) fn run(arguments: RunArguments) -> Result<ExitCode, Failure> {
    let config = Config::load(Sources {
        file: None,
        options: arguments.options.options,
        privilege: privilege(),
    })?;
    let failed = |error: io::Error| Failure::failed(plain(&error));
    // Blocked before there is anything to clean up: a signal must not end this process half-way.
    let watched = [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::TERM,
        Signal::USR1,
        Signal::USR2,
        Signal::CHILD,
    ];
    let signals = Signals::block(&watched).map_err(failed)?;
    let mut keeper = Keeper::start(&Plan {
        config,
        keep: arguments.keep,
        is_private_tmp: arguments.private_tmp,
    })?;
    let outcome = attend(&arguments.command, arguments.private_tmp, &keeper, &signals);
    if arguments.report {
        left::report(keeper.path());
    }
    let is_clean = keeper.finish();
    let code = match outcome.map_err(failed)? {
        Ended::Status(status) => code_of(status),
        Ended::NeverBegan(error) => {
            let name = shown(Path::new(&arguments.command[0]));
            eprintln!("ttlfs: {name}: {}", plain(&error));
            if error.kind() == io::ErrorKind::NotFound {
                NOT_FOUND
            } else {
                NOT_EXECUTABLE
            }
        }
    };
    // The command's failure says more than ours; its success would hide ours.
    Ok(ExitCode::from(if code == 0 && !is_clean {
        Failure::RUN
    } else {
        code
    }))
}

fn set_environment(command: &mut Command, directory: &Path) {
    for name in ["TMPDIR", "TMP", "TEMP"] {
        command.env(name, directory);
    }
}

/// Says why a command could not be executed. Returns the exit status.
fn never_began(name: &OsStr, error: &io::Error) -> u8 {
    eprintln!("ttlfs: {}: {}", shown(Path::new(name)), plain(error));
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

/// Arguments of the hidden subcommand `enter`.
#[derive(clap::Args, Debug)]
pub struct EnterArguments {
    directory: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Enters the namespace of `--private-tmp` and becomes the command.
pub(super) fn enter(arguments: &EnterArguments) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::failed(plain(&error)).with_status(Failure::RUN);
    namespace::enter(&arguments.directory).map_err(failed)?;
    let mut command = Command::new(&arguments.command[0]);
    command.args(&arguments.command[1..]);
    set_environment(&mut command, Path::new("/tmp"));
    let error = command.exec();
    Ok(ExitCode::from(never_began(&arguments.command[0], &error)))
}

fn code_of(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => SIGNALLED.wrapping_add(signal.unwrap_or(0) as u8),
    }
}

/// Starts the command and waits for its end.
fn attend(
    words: &[OsString],
    is_private_tmp: bool,
    keeper: &Keeper,
    signals: &Signals,
) -> io::Result<Ended> {
    let mut command;
    if is_private_tmp {
        // By way of a program that enters the namespace: this process in it would keep the mount there.
        command = Command::new("/proc/self/exe");
        command
            .arg("enter")
            .arg(keeper.path())
            .arg("--")
            .args(words);
    } else {
        command = Command::new(&words[0]);
        command.args(&words[1..]);
        set_environment(&mut command, keeper.path());
    }
    signals.not_for(&mut command);
    match command.spawn() {
        Err(error) => Ok(Ended::NeverBegan(error)),
        Ok(child) => {
            let process = pidfd(&child)?;
            keeper.command_started(&process)?;
            wait(child, &process, signals).map(Ended::Status)
        }
    }
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

fn wait(mut child: Child, process: &OwnedFd, signals: &Signals) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        // An interrupted poll is a round too many, nothing worse.
        let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], None);
        while let Some(received) = signals.next() {
            let signal = Signal::from_named_raw(received.signal);
            // What the terminal sends, the command has heard itself.
            let is_for_us_alone = received.from_process;
            if let Some(signal) = signal.filter(|s| *s != Signal::CHILD && is_for_us_alone) {
                // It may have ended this instant.
                let _ = rustix::process::pidfd_send_signal(process, signal);
            }
        }
    }
}
