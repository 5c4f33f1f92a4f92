//! `ttlfs umount`, also as the hand with which guards and servers unmount.

use super::{Failure, plain};
use crate::config::LogOptions;
use crate::logging::{Destination, Severity, Sink};
use crate::mountpoint::{
    DeviceNumber, MountEntry, Unmount, busy_report, mount_at, mounted_elsewhere, resolve, shown,
    unmount,
};
use crate::registry;
use crate::sys::process::wait_until_free;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct UmountArguments {
    /// Return only when everything that waits for erasure is erased
    #[arg(long)]
    wait_erased: bool,
    /// Take the name away at once, though somebody is in it
    #[arg(long, hide = true)]
    lazy: bool,
    /// Only if this is mounted there; wait for nobody
    #[arg(long, hide = true)]
    device: Option<DeviceNumber>,
    /// Log as a daemon does, with this file to fall back to
    #[arg(long, hide = true)]
    log: Option<PathBuf>,
    mountpoint: PathBuf,
}

pub(super) fn umount(arguments: &UmountArguments) -> Result<ExitCode, Failure> {
    let outcome = match arguments.device {
        None => by_hand(arguments),
        Some(device) => for_daemon(arguments, device),
    };
    if let (Err(failure), Some(fallback)) = (&outcome, &arguments.log) {
        let destination = Destination::Background {
            fallback: fallback.clone(),
        };
        if let Ok(sink) = Sink::open(&LogOptions::default(), &destination) {
            sink.line(Severity::Warning, format_args!("{failure}"));
        }
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

fn by_hand(arguments: &UmountArguments) -> Result<(), Failure> {
    let path = resolve(&arguments.mountpoint)
        .map_err(|error| about(&arguments.mountpoint, plain(&error)))?;
    let turn = registry::turn();
    let entry = mount_at(&path)
        .map_err(Failure::failed)?
        .filter(MountEntry::is_ours)
        .ok_or_else(|| about(&path, "not a ttlfs mount"))?;
    let registered = registry::find(entry.device);
    // Opened before the unmount: afterwards the numbers may be somebody else's, and the file may be gone.
    let held = registered
        .as_ref()
        .and_then(|(path, _)| File::open(path).ok());
    let processes = registered
        .as_ref()
        .map(|(_, registered)| registered.processes())
        .unwrap_or_default();
    take_away(&entry, arguments.lazy)?;
    drop(turn);
    if !arguments.lazy {
        for process in &processes {
            wait_for(process, &entry)?;
        }
        if let Some(file) = held {
            // Those in another process namespace have no numbers here.
            wait_until_free(file.as_fd()).map_err(Failure::failed)?;
        }
        if let Some((_, registered)) = &registered {
            sync(&registered.facts.backing)?;
        }
    }
    Ok(())
}

/// A guard or server was told to stop. What is gone already is done.
fn for_daemon(arguments: &UmountArguments, device: DeviceNumber) -> Result<(), Failure> {
    let _turn = registry::turn();
    let found = mount_at(&arguments.mountpoint).map_err(Failure::failed)?;
    match found.filter(|entry| entry.device == device) {
        Some(entry) => take_away(&entry, arguments.lazy),
        None => Ok(()),
    }
}

fn take_away(entry: &MountEntry, is_lazy: bool) -> Result<(), Failure> {
    let how = if is_lazy {
        Unmount::Lazy
    } else {
        Unmount::Clean
    };
    unmount(&entry.mount_point, how).map_err(|error| {
        if error.raw_os_error() != Some(libc::EBUSY) {
            return about(&entry.mount_point, plain(&error));
        }
        match busy_report(entry) {
            Ok(report) => about(&entry.mount_point, format_args!("busy; {report}")),
            Err(_) => about(&entry.mount_point, plain(&error)),
        }
    })
}

fn about(path: &Path, what: impl std::fmt::Display) -> Failure {
    Failure::failed(format_args!("{}: {what}", shown(path)))
}

/// As long as it takes. A mount that others still have never ends by itself, and that is said.
fn wait_for(process: &OwnedFd, entry: &MountEntry) -> Result<(), Failure> {
    let a_while = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    loop {
        let mut ended = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut ended, Some(&a_while)) {
            Ok(0) => {
                if let Some(other) = mounted_elsewhere(entry.device) {
                    let what = format_args!(
                        "unmounted here; it lives on in the mount namespace of {other}"
                    );
                    return Err(about(&entry.mount_point, what));
                }
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::failed(error)),
        }
    }
}

/// The daemon has written everything; this brings it to the disk.
fn sync(backing: &Path) -> Result<(), Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(backing, flags, Mode::empty()) {
        Ok(directory) => rustix::fs::syncfs(&directory).map_err(|error| about(backing, error)),
        // Moved or closed to us since: nothing to be said about a mount that is gone.
        Err(_) => Ok(()),
    }
}
