//! `ttlfs mount`.

use super::config::privilege;
use super::setup::{Ground, Outcome, Site, give_up};
use super::{Failure, MountOptionArguments, plain};
use crate::config::{Config, Sources};
use crate::logging;
use crate::mountpoint::shown;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct MountArguments {
    #[command(flatten)]
    options: MountOptionArguments,
    /// Configuration file; what -o says wins
    #[arg(short = 'c', value_name = "FILE", env = "TTLFS_CONFIG")]
    config: Option<PathBuf>,
    /// Stay in front, and log to standard error
    #[arg(short = 'f')]
    foreground: bool,
    /// The directory that holds the files (or `backing` in the configuration file)
    backing: Option<PathBuf>,
    /// The directory where they are to be seen; may be BACKING (or `mountpoint` in the configuration file)
    mountpoint: Option<PathBuf>,
}

pub(super) fn mount(arguments: MountArguments) -> Result<ExitCode, Failure> {
    let config = Config::load(Sources {
        file: arguments.config.filter(|file| !file.as_os_str().is_empty()),
        options: arguments.options.options,
        privilege: privilege(),
    })?;
    logging::filter(config.log()).map_err(|error| Failure::usage(plain(&error)))?;
    let backing = config.backing(arguments.backing.as_deref())?;
    let mountpoint = config.mountpoint(arguments.mountpoint.as_deref())?;
    let site = Site::examine(backing, mountpoint)?;
    let ground = if arguments.foreground {
        Ground::Foreground
    } else {
        Ground::Background
    };
    let Outcome { started, facts } = site.establish(config, ground)?;
    if started.wait_ready().unwrap_or(false) {
        return Ok(ExitCode::SUCCESS);
    }
    give_up(&facts);
    let mountpoint = shown(&facts.mountpoint);
    let what = format_args!("{mountpoint}: not mounted: the daemon did not come up");
    Err(Failure::failed(what))
}
