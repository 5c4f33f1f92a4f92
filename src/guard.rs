//! The guard: the parent that keeps a mount alive while its servers come and go.
//!
//! It holds the device, the backing directory, the lock and the memory of the shared tables, starts a server,
//! waits, and starts the next one when it ends while the mount is still there. It touches no filesystem of ours
//! and allocates nothing once it runs: whatever takes memory or may hang (unmounting, looking for who is in the
//! way) is done by a child, `ttlfs umount`.
//!
//! Deliberately not here: a death signal that takes the server along. A server whose guard was killed goes on
//! serving until the unmount; programs notice nothing.

mod backoff;
mod launch;
mod publish;

use launch::HELD;
pub use launch::{
    Descriptors, GuardArguments, Launch, ServerArguments, ServerDescriptors, Started, foreground,
    from_memory, start, to_memory,
};

use crate::logging::{Destination, Severity, Sink};
use crate::mount::STATE_FDS;
use crate::sys::process::{Inherit, Program, Received, Signals};
use backoff::next_delay;
use publish::{End, Published};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A second signal within this time takes the mount's name away although it is busy.
const SECOND_SIGNAL: Duration = Duration::from_secs(10);
/// What a server writes when it serves.
pub const READY: u8 = b'R';

/// The signal by which a server passes on that it was told to stop.
pub const STOP: Signal = Signal::USR1;
/// The same, when it was told twice.
pub const STOP_LAZILY: Signal = Signal::USR2;

/// How an unmount was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Clean,
    Lazy,
}

struct Programs {
    first: Program,
    successor: Program,
    unmount: Program,
    unmount_lazily: Program,
}

struct Server {
    pid: Pid,
    ready_since: Option<Instant>,
}

enum Phase {
    Serving(Server),
    /// No server; the next one is due then.
    Waiting(Instant),
}

/// Everything that the running guard needs, made before it starts.
struct Guard {
    descriptors: Descriptors,
    state: Vec<OwnedFd>,
    ready_reader: OwnedFd,
    ready_writer: OwnedFd,
    signals: Signals,
    programs: Programs,
    sink: Sink,
    published: Published,
    is_foreground: bool,
    oom_score_adj: Option<Vec<u8>>,
    phase: Phase,
    /// The first server has said that it serves: from now on the mount is kept alive.
    is_established: bool,
    delay: Duration,
    helper: Option<Pid>,
    stop_asked_at: Option<Instant>,
}

/// Runs the guard until the mount is gone.
pub fn run(descriptors: Descriptors) -> io::Result<ExitCode> {
    descriptors.close_others()?;
    let launch = Launch::read(descriptors.launch.as_fd())?;
    // Nothing of the guard may keep the mount busy, or any other.
    std::env::set_current_dir("/")?;
    rustix::thread::set_name(c"ttlfs-guard")?;
    if !launch.is_foreground {
        // Fails only for the leader of a session of its own: just as good.
        let _ = rustix::process::setsid();
    }
    let watched = [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::CHILD,
        STOP,
        STOP_LAZILY,
    ];
    let signals = Signals::block(&watched)?;
    let mut state = Vec::with_capacity(STATE_FDS);
    for _ in 0..STATE_FDS {
        state.push(rustix::fs::memfd_create(
            "ttlfs-state",
            MemfdFlags::CLOEXEC,
        )?);
    }
    let (ready_reader, ready_writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let destination = if launch.is_foreground {
        Destination::Front
    } else {
        Destination::Background {
            fallback: launch.log_fallback.clone(),
        }
    };
    let programs = programs(&launch, &descriptors, &state, ready_writer.as_fd())?;
    let mut guard = Guard {
        sink: Sink::open(launch.config.log(), &destination)?,
        published: Published::open(&launch, &descriptors.entry)?,
        is_foreground: launch.is_foreground,
        oom_score_adj: protect_from_oom(),
        programs,
        descriptors,
        state,
        ready_reader,
        ready_writer,
        signals,
        phase: Phase::Waiting(Instant::now()),
        is_established: false,
        delay: Duration::ZERO,
        helper: None,
        stop_asked_at: None,
    };
    drop(launch);
    Ok(guard.watch())
}

fn programs(
    launch: &Launch,
    descriptors: &Descriptors,
    state: &[OwnedFd],
    ready: BorrowedFd<'_>,
) -> io::Result<Programs> {
    let exe = OsStr::new("/proc/self/exe");
    let mountpoint = launch.facts.mountpoint.as_os_str();
    let server = |takeover: Option<&str>| {
        let mut argv: Vec<OsString> = vec!["ttlfs".into(), "serve".into()];
        argv.extend(descriptors.server_arguments(state, ready));
        argv.extend(takeover.map(OsString::from));
        argv.extend(["--".into(), mountpoint.to_owned()]);
        Program::new(exe, &argv)
    };
    let unmount = |lazy: Option<&str>| {
        let mut argv: Vec<OsString> = vec!["ttlfs".into(), "umount".into()];
        argv.push(format!("--device={}", launch.facts.device).into());
        argv.extend(lazy.map(OsString::from));
        if !launch.is_foreground {
            argv.push("--log".into());
            argv.push(launch.log_fallback.clone().into());
        }
        argv.extend(["--".into(), mountpoint.to_owned()]);
        Program::new(exe, &argv)
    };
    Ok(Programs {
        first: server(None)?,
        successor: server(Some("--takeover"))?,
        unmount: unmount(None)?,
        unmount_lazily: unmount(Some("--lazy"))?,
    })
}

/// Asks the OOM killer to look elsewhere. What it was before is for the children: they can be replaced.
fn protect_from_oom() -> Option<Vec<u8>> {
    let path = "/proc/self/oom_score_adj";
    let before = std::fs::read(path).ok()?;
    std::fs::write(path, "-1000").ok()?;
    Some(before)
}

impl Guard {
    fn watch(&mut self) -> ExitCode {
        loop {
            if let Phase::Waiting(due) = self.phase {
                if self.is_device_gone() {
                    return self.finish(ExitCode::SUCCESS);
                }
                if due <= Instant::now() {
                    self.start_server();
                }
            }
            self.sleep();
            if let Some(end) = self.handle_signals() {
                return end;
            }
            self.handle_readiness();
        }
    }

    /// Until a signal comes, the server says something, or the next one is due.
    fn sleep(&self) {
        let timeout = match self.phase {
            Phase::Serving(_) => None,
            Phase::Waiting(due) => {
                Timespec::try_from(due.saturating_duration_since(Instant::now())).ok()
            }
        };
        // The device is watched only while nobody serves: every request would wake us.
        let signals = PollFd::new(&self.signals, PollFlags::IN);
        let ready = PollFd::new(&self.ready_reader, PollFlags::IN);
        // An interrupted or failed poll is a round too many, nothing worse.
        let _ = match self.phase {
            Phase::Serving(_) => poll(&mut [signals, ready], timeout.as_ref()),
            Phase::Waiting(_) => {
                let device = PollFd::new(&self.descriptors.device, PollFlags::empty());
                poll(&mut [signals, ready, device], timeout.as_ref())
            }
        };
    }

    /// Whether the kernel has ended the connection: the last mount of it is gone.
    fn is_device_gone(&self) -> bool {
        let mut device = [PollFd::new(&self.descriptors.device, PollFlags::empty())];
        let answer = poll(&mut device, Some(&Timespec::default()));
        answer.is_ok() && device[0].revents().contains(PollFlags::ERR)
    }

    fn start_server(&mut self) {
        self.drain_readiness();
        let program = if self.is_established {
            &self.programs.successor
        } else {
            &self.programs.first
        };
        // An array, not a Vec: nothing is allocated here.
        let mut keep = [self.ready_writer.as_fd(); 1 + HELD + STATE_FDS];
        for (slot, (_, fd)) in keep[1..].iter_mut().zip(self.descriptors.held()) {
            *slot = fd;
        }
        for (slot, fd) in keep[1 + HELD..].iter_mut().zip(&self.state) {
            *slot = fd.as_fd();
        }
        let inherit = Inherit {
            keep: &keep,
            oom_score_adj: self.oom_score_adj.as_deref(),
        };
        match program.spawn(&inherit) {
            Ok(pid) => {
                self.published.server_started(pid);
                self.phase = Phase::Serving(Server {
                    pid,
                    ready_since: None,
                });
            }
            Err(error) => {
                self.sink.line(
                    Severity::Error,
                    format_args!("can't start a server, will try again: {error}"),
                );
                self.delay = next_delay(self.delay, None);
                self.phase = Phase::Waiting(Instant::now() + self.delay);
            }
        }
    }

    fn drain_readiness(&self) {
        let mut byte = [0u8; 16];
        while matches!(rustix::io::read(&self.ready_reader, &mut byte), Ok(1..)) {}
    }

    fn handle_readiness(&mut self) {
        let mut byte = [0u8; 1];
        if rustix::io::read(&self.ready_reader, &mut byte) != Ok(1) || byte[0] != READY {
            return;
        }
        let Phase::Serving(server) = &mut self.phase else {
            return;
        };
        server.ready_since = Some(Instant::now());
        self.published.server_ready();
        if self.is_established {
            self.sink.line(
                Severity::Warning,
                format_args!("a new server has taken over"),
            );
            return;
        }
        self.is_established = true;
        if let Some(report) = self.descriptors.report.take() {
            // Whoever waited may have gone: the mount serves all the same.
            let _ = rustix::io::write(&report, &[READY]);
        }
        if !self.is_foreground {
            detach_stdio();
        }
    }

    fn handle_signals(&mut self) -> Option<ExitCode> {
        while let Some(Received { signal, .. }) = self.signals.next() {
            match Signal::from_named_raw(signal) {
                Some(Signal::CHILD) => {
                    if let Some(end) = self.reap() {
                        return Some(end);
                    }
                }
                Some(Signal::TERM | Signal::INT) => self.asked_to_stop(),
                // The terminal of a mount in front has gone. In the background it means nothing.
                Some(Signal::HUP) if self.is_foreground => self.asked_to_stop(),
                Some(STOP) => self.unmount(Stop::Clean),
                Some(STOP_LAZILY) => self.unmount(Stop::Lazy),
                _ => {}
            }
        }
        None
    }

    fn asked_to_stop(&mut self) {
        let now = Instant::now();
        let again = self
            .stop_asked_at
            .is_some_and(|before| now.duration_since(before) < SECOND_SIGNAL);
        self.stop_asked_at = Some(now);
        self.unmount(if again { Stop::Lazy } else { Stop::Clean });
    }

    /// Leaves it to a child: unmounting may wait for the server, and the guard must not.
    fn unmount(&mut self, how: Stop) {
        let program = match how {
            Stop::Clean if self.helper.is_some() => return,
            Stop::Clean => &self.programs.unmount,
            Stop::Lazy => &self.programs.unmount_lazily,
        };
        let inherit = Inherit {
            keep: &[],
            oom_score_adj: self.oom_score_adj.as_deref(),
        };
        match program.spawn(&inherit) {
            Ok(pid) => self.helper = Some(pid),
            Err(error) => self
                .sink
                .line(Severity::Error, format_args!("can't unmount: {error}")),
        }
    }

    fn reap(&mut self) -> Option<ExitCode> {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if self.helper == Some(pid) {
                self.helper = None;
            }
            let Phase::Serving(server) = &self.phase else {
                continue;
            };
            if server.pid == pid {
                let ready_for = server.ready_since.map(|since| since.elapsed());
                if let Some(end) = self.server_ended(status, ready_for) {
                    return Some(end);
                }
            }
        }
        None
    }

    fn server_ended(
        &mut self,
        status: WaitStatus,
        ready_for: Option<Duration>,
    ) -> Option<ExitCode> {
        let end = End::from(status);
        if self.is_device_gone() {
            if !end.is_success() {
                let message = format_args!("the server ended after the unmount: {end}");
                self.sink.line(Severity::Error, message);
                return Some(self.finish(ExitCode::FAILURE));
            }
            return Some(self.finish(ExitCode::SUCCESS));
        }
        if !self.is_established {
            // Nobody has used this mount yet, and the caller hears of it: no reason to try again.
            self.unmount(Stop::Lazy);
            if let Some(helper) = self.helper {
                // Before the caller hears of it: it looks whether the mount is still there.
                let _ = rustix::process::waitpid(Some(helper), WaitOptions::empty());
            }
            return Some(self.finish(ExitCode::FAILURE));
        }
        self.delay = next_delay(self.delay, ready_for);
        self.phase = Phase::Waiting(Instant::now() + self.delay);
        self.published.server_ended(end);
        let restarts = self.published.restarts();
        let delay_ms = self.delay.as_millis();
        self.sink.line(
            Severity::Error,
            format_args!("the server ended: {end}; restart {restarts} in {delay_ms} ms"),
        );
        None
    }

    fn finish(&mut self, code: ExitCode) -> ExitCode {
        self.published.remove();
        code
    }
}

/// The caller's terminal or pipe isn't ours to keep.
pub fn detach_stdio() {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    if let Ok(null) = null {
        // Each can fail only where the descriptor table is broken; then there is nothing to detach from.
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// The numbers of descriptors as they go into arguments.
fn numbers(descriptors: &[OwnedFd]) -> String {
    let numbers: Vec<String> = descriptors
        .iter()
        .map(|fd| fd.as_raw_fd().to_string())
        .collect();
    numbers.join(",")
}
