//! The keeper of a `run`: makes the directory and the mount, waits for the front process to finish or to die, and
//! removes and erases everything. Nothing that can happen to the front process or to the command stops it.

use super::super::setup::{Ground, Outcome, Site, give_up};
use super::super::{Failure, plain};
use super::directory::TempDirectory;
use crate::config::Config;
use crate::guard::{Started, from_memory, to_memory};
use crate::mountpoint::{MountEntry, Unmount, mount_at, mounted_elsewhere, shown, unmount};
use crate::registry::{self, Registry, path_text};
use crate::rule::Key;
use crate::sys::process::{Signals, close_all_but, inherited};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

/// After the unmount the server has little to do: what it keeps in memory is worth nothing any more.
const SERVER_ENDS_SECONDS: i64 = 5;
const MESSAGE_MAX_BYTES: usize = 16 << 10;
/// The command has started; its pidfd comes along.
const STARTED: u8 = b'C';
/// The command has ended: clean up.
const FINISH: u8 = b'F';

/// What is to be done, for the keeper to read.
#[derive(Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) config: Config,
    pub(super) keep: bool,
    pub(super) is_private_tmp: bool,
}

impl Plan {
    /// How often what is left is overwritten. `-o erase=none` says not at all; without a word it is.
    fn passes(&self) -> Option<u8> {
        let defaults = self.config.defaults();
        if defaults.text(Key::Erase).as_deref() == Some("none") {
            return None;
        }
        let passes = defaults.text(Key::Passes);
        Some(passes.and_then(|text| text.parse().ok()).unwrap_or(1))
    }
}

/// What the keeper says.
#[derive(Serialize, Deserialize)]
enum Word {
    Serving {
        #[serde(with = "path_text")]
        path: PathBuf,
    },
    Failed {
        message: String,
    },
    Finished {
        problem: Option<String>,
    },
}

/// The front process' view of its keeper.
pub(super) struct Keeper {
    child: Child,
    socket: OwnedFd,
    path: PathBuf,
    keep: bool,
    passes: Option<u8>,
}

impl Keeper {
    /// Starts it, and waits until the mount serves.
    pub(super) fn start(plan: &Plan) -> Result<Keeper, Failure> {
        let failed = |error: io::Error| Failure::failed(plain(&error));
        let (child, socket) = spawn(plan).map_err(failed)?;
        match receive(&socket) {
            Some(Word::Serving { path }) => Ok(Keeper {
                child,
                socket,
                path,
                keep: plan.keep,
                passes: plan.passes(),
            }),
            Some(Word::Failed { message }) => Err(Failure::failed(message)),
            _ => Err(Failure::failed("the temp directory could not be set up")),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on the command ends with this process.
    pub(super) fn command_started(&self, process: &OwnedFd) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [process.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let message = [io::IoSlice::new(&[STARTED])];
        let flags = SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(&self.socket, &message, &mut control, flags) {
            // A keeper that was killed doesn't stop the command; `finish` does its work.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// Waits until everything is removed (or kept). False if that failed; why has been said.
    pub(super) fn finish(&mut self) -> bool {
        let asked = rustix::net::send(&self.socket, &[FINISH], SendFlags::NOSIGNAL);
        let word = asked.ok().and_then(|_| receive(&self.socket));
        let problem = match word {
            Some(Word::Finished { problem }) => problem,
            _ => match TempDirectory::reopen(&self.path) {
                Ok(directory) => tear_down(directory, self.keep, self.passes).err(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => Some(plain(&error)),
            },
        };
        // It has said its last word.
        let _ = self.child.wait();
        if self.keep {
            eprintln!("ttlfs: kept in {}", shown(&self.path));
        }
        if let Some(problem) = &problem {
            eprintln!(
                "ttlfs: {}: not removed as it should be: {problem}",
                shown(&self.path)
            );
        }
        problem.is_none()
    }
}

fn spawn(plan: &Plan) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let plan = to_memory("ttlfs-plan", plan)?;
    for fd in [&theirs, &plan] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
    }
    let child = Command::new("/proc/self/exe")
        .arg("keeper")
        .arg(format!("--socket={}", theirs.as_raw_fd()))
        .arg(format!("--plan={}", plan.as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    Ok((child, ours))
}

fn receive(socket: &OwnedFd) -> Option<Word> {
    let mut text = vec![0; MESSAGE_MAX_BYTES];
    let received =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut text[..], RecvFlags::empty()));
    let (length, _) = received.ok()?;
    serde_json::from_slice(text.get(..length)?).ok()
}

fn say(socket: &OwnedFd, word: &Word) {
    if let Ok(text) = serde_json::to_vec(word) {
        // Nobody listens if the front process was killed.
        let _ = rustix::net::send(socket, &text, SendFlags::NOSIGNAL);
    }
}

/// Arguments of the hidden subcommand `keeper`.
#[derive(clap::Args, Debug)]
pub struct KeeperArguments {
    #[arg(long)]
    socket: RawFd,
    #[arg(long)]
    plan: RawFd,
}

/// The keeper's own program.
pub fn keeper(arguments: &KeeperArguments) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::failed(plain(&error));
    let socket = inherited(arguments.socket).map_err(failed)?;
    let plan = inherited(arguments.plan).map_err(failed)?;
    // What the caller has open is for the command, not for us.
    let _ = close_all_but(&[socket.as_fd(), plan.as_fd()]);
    let plan: Plan = from_memory(plan.as_fd()).map_err(failed)?;
    let _signals =
        Signals::block(&[Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM]).map_err(failed)?;
    // Neither the terminal nor any directory is ours. Each can only fail where it is so already.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"ttlfs-keeper");
    let (keep, passes) = (plan.keep, plan.passes());
    let mode = if plan.is_private_tmp { 0o1777 } else { 0o700 };
    let directory = TempDirectory::create(Mode::from_raw_mode(mode)).map_err(|error| {
        let message = plain(&error);
        say(&socket, &Word::Failed { message });
        Failure::failed("")
    });
    let Ok(directory) = directory else {
        return Ok(ExitCode::FAILURE);
    };
    let _ = std::env::set_current_dir("/");
    let guard = match mount_on(directory.path(), plan.config) {
        Ok(started) => started,
        Err(failure) => {
            let message = failure.to_string();
            // Nothing is in it yet: there is nothing to erase, and the first error is the one that counts.
            let _ = directory.remove(None);
            say(&socket, &Word::Failed { message });
            return Ok(ExitCode::FAILURE);
        }
    };
    let path = directory.path().to_owned();
    say(&socket, &Word::Serving { path });
    wait_for_end(&socket);
    let problem = tear_down(directory, keep, passes).err();
    let mut guard = guard.guard;
    // It is gone, or was killed: only its status is left.
    let _ = guard.wait();
    say(&socket, &Word::Finished { problem });
    Ok(ExitCode::SUCCESS)
}

fn mount_on(path: &Path, config: Config) -> Result<Started, Failure> {
    let site = Site::examine(path, path)?;
    let Outcome { started, facts } = site.establish(config, Ground::Background)?;
    if started.wait_ready().unwrap_or(false) {
        return Ok(started);
    }
    give_up(&facts);
    Err(Failure::failed(
        "the temp directory's daemon did not come up",
    ))
}

/// Until the front process says so, or is gone. Then the command goes too: nobody waits for it.
fn wait_for_end(socket: &OwnedFd) {
    let mut command: Option<OwnedFd> = None;
    loop {
        let mut byte = [0u8; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [io::IoSliceMut::new(&mut byte)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(socket, &mut buffers, &mut control, flags);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                command = descriptors.next();
            }
        }
        match received {
            Err(rustix::io::Errno::INTR) => {}
            Ok(message) if message.bytes > 0 && byte[0] == FINISH => return,
            Ok(message) if message.bytes > 0 => {}
            _ => break,
        }
    }
    if let Some(command) = command {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(&command, Signal::KILL);
        let _ = poll(&mut [PollFd::new(&command, PollFlags::IN)], None);
    }
}

/// Unmounts, whoever is still in it, and removes or keeps the content.
fn tear_down(directory: TempDirectory, keep: bool, passes: Option<u8>) -> Result<(), String> {
    end_mount(directory.path()).map_err(|error| plain(&error))?;
    if keep {
        directory.keep(passes)
    } else {
        directory.remove(passes)
    }
}

fn end_mount(path: &Path) -> io::Result<()> {
    let turn = registry::turn();
    let Some(entry) = mount_at(path)?.filter(MountEntry::is_ours) else {
        return Ok(());
    };
    let registered = registry::find(entry.device);
    let processes = registered
        .as_ref()
        .map(|(_, entry)| entry.processes())
        .unwrap_or_default();
    let is_clean = match unmount(path, Unmount::Clean) {
        // A process that was left behind with a namespace of its own has a copy of the mount.
        Ok(()) => mounted_elsewhere(entry.device).is_none(),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            unmount(path, Unmount::Lazy)?;
            false
        }
        Err(error) => return Err(error),
    };
    drop(turn);
    // Processes that the command left behind may still be in it. Nobody serves them any more: the guard goes
    // first, or it would replace the server.
    for process in &processes {
        if !(is_clean && has_ended(process)) {
            let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
            let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], None);
        }
    }
    if let Some((path, entry)) = registered {
        // The guard may have been killed before it could. Nobody looks for the log of a directory that is gone.
        let _ = std::fs::remove_file(path);
        let _ = Registry::open().map(|own| std::fs::remove_file(own.log_path(&entry.facts)));
    }
    Ok(())
}

fn has_ended(process: &OwnedFd) -> bool {
    let timeout = Timespec {
        tv_sec: SERVER_ENDS_SECONDS,
        tv_nsec: 0,
    };
    let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout));
    ended == Ok(1)
}
