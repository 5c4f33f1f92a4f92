//! The hidden subcommand `serve`: a server process, from what its guard gave it.
//!
//! Signals and standard output and error are dealt with here, so that serving knows nothing of them.

use super::Failure;
use crate::guard::{self, Launch, READY, ServerArguments, ServerDescriptors};
use crate::logging::{self, Destination, Sink};
use crate::mount::{self, ServeArgs};
use crate::sys::process::Signals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// As in the guard: a second signal within this time doesn't wait for those who are in the mount.
const SECOND_SIGNAL: Duration = Duration::from_secs(10);

pub(super) fn serve(arguments: &ServerArguments) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::failed(format_args!("server: {error}"));
    let descriptors = arguments.take().map_err(failed)?;
    rustix::thread::set_name(c"ttlfs-server").map_err(|error| failed(error.into()))?;
    let launch = Launch::read(descriptors.launch.as_fd()).map_err(failed)?;
    start_log(&launch).map_err(failed)?;
    if !launch.is_privileged && !arguments.takeover {
        tracing::warn!(
            "mounted by a plain user: file contents pass through the daemon (no kernel passthrough), and \
             files belong to this user"
        );
    }
    let signals = Signals::block(&[Signal::TERM, Signal::INT, Signal::HUP]).map_err(failed)?;
    let guard = rustix::process::getppid();
    watch_signals(signals, guard, &launch).map_err(failed)?;

    let ServerDescriptors {
        device,
        backing,
        lock,
        launch: _,
        entry: held_entry,
        ready,
        state,
    } = descriptors;
    let ready = relay_readiness(ready, launch.is_foreground).map_err(failed)?;
    let entry = launch.entry.clone();
    let outcome = mount::serve(ServeArgs {
        device,
        backing,
        state,
        config: launch.config,
        takeover: arguments.takeover,
        ready: Some(ready),
        privileged: launch.is_privileged,
        mount_device: device_number(&launch.facts.device),
        mountpoint: launch.facts.mountpoint.clone(),
    });
    if rustix::process::getppid() != guard {
        // The guard was killed: nobody else tidies up.
        let _ = std::fs::remove_file(entry);
    }
    drop((lock, held_entry));
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!("the server ends: {error}");
            Err(Failure::failed(error))
        }
    }
}

/// A device number written as `major:minor`.
fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
}

fn start_log(launch: &Launch) -> io::Result<()> {
    let destination = if launch.is_foreground {
        Destination::Front
    } else {
        Destination::Background {
            fallback: launch.log_fallback.clone(),
        }
    };
    let options = launch.config.log();
    logging::start(options, Sink::open(options, &destination)?)
}

/// Lets go of the caller's standard error before the guard hears that we serve: from then on nobody listens there.
fn relay_readiness(guard: OwnedFd, is_foreground: bool) -> io::Result<OwnedFd> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    std::thread::Builder::new()
        .name("ready".into())
        .spawn(move || {
            let mut byte = [0u8; 1];
            let got = rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut byte));
            if got == Ok(1) && byte[0] == READY {
                if !is_foreground {
                    guard::detach_stdio();
                }
                // A guard that is gone needs no telling.
                let _ = rustix::io::write(&guard, &[READY]);
            }
        })?;
    Ok(writer)
}

/// Who tells the server to stop means the mount: the guard unmounts it, and the server ends with it.
fn watch_signals(signals: Signals, guard: Option<Pid>, launch: &Launch) -> io::Result<()> {
    let mountpoint = launch.facts.mountpoint.clone();
    let device = launch.facts.device.clone();
    let fallback = (!launch.is_foreground).then(|| launch.log_fallback.clone());
    let watch = move || {
        let mut stop_asked_at: Option<Instant> = None;
        loop {
            let mut wait = [PollFd::new(&signals, PollFlags::IN)];
            if poll(&mut wait, None).is_err() {
                continue;
            }
            while let Some(received) = signals.next() {
                if received.signal == Signal::HUP.as_raw() {
                    continue;
                }
                let now = Instant::now();
                let again = stop_asked_at.is_some_and(|at| now.duration_since(at) < SECOND_SIGNAL);
                stop_asked_at = Some(now);
                let parent = rustix::process::getppid();
                if let Some(guard) = guard.filter(|_| parent == guard) {
                    let signal = if again {
                        guard::STOP_LAZILY
                    } else {
                        guard::STOP
                    };
                    // It was our parent an instant ago. If it has just died, the next signal finds us alone.
                    let _ = rustix::process::kill_process(guard, signal);
                    continue;
                }
                let mut unmount = Command::new("/proc/self/exe");
                unmount.arg("umount").arg(format!("--device={device}"));
                unmount.args(again.then_some("--lazy"));
                if let Some(fallback) = &fallback {
                    unmount.arg("--log").arg(fallback);
                }
                unmount.arg("--").arg(&mountpoint).stdin(Stdio::null());
                match unmount.spawn() {
                    // Reaped on a thread of its own: this one must hear the next signal.
                    Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
                    Err(error) => tracing::error!("can't unmount: {error}"),
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch)?;
    Ok(())
}
