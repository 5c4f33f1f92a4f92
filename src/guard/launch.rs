//! What a guard is started with: descriptors under numbers, and one JSON document in memory.

use super::{READY, numbers};
use crate::config::Config;
use crate::registry::MountFacts;
use crate::sys::process::{close_all_but, inherited};
use clap::Args;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::pipe::PipeFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How many descriptors every server gets, besides its own.
pub(super) const HELD: usize = 5;
const EXECUTABLE: &str = "/proc/self/exe";

/// Everything about a mount that isn't a descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub struct Launch {
    pub facts: MountFacts,
    pub config: Config,
    /// May it do what only root may?
    pub is_privileged: bool,
    pub is_foreground: bool,
    /// The entry in the registry.
    pub entry: PathBuf,
    /// For log lines where the machine has no system log.
    pub log_fallback: PathBuf,
}

impl Launch {
    pub fn write(&self) -> io::Result<OwnedFd> {
        to_memory("ttlfs-launch", self)
    }

    pub fn read(from: BorrowedFd<'_>) -> io::Result<Launch> {
        from_memory(from)
    }
}

/// Puts a document into memory that nobody changes any more, for other processes to read.
pub fn to_memory(name: &str, document: &impl Serialize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create(name, flags)?);
    file.write_all(&serde_json::to_vec(document)?)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Reads such a document, and leaves the file's position alone: several processes share it.
pub fn from_memory<T: DeserializeOwned>(from: BorrowedFd<'_>) -> io::Result<T> {
    let file = File::from(from.try_clone_to_owned()?);
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let mut text = vec![0; size];
    file.read_exact_at(&mut text, 0)?;
    Ok(serde_json::from_slice(&text)?)
}

/// What the guard holds for its servers.
pub struct Descriptors {
    pub device: OwnedFd,
    pub backing: OwnedFd,
    /// Keeps the backing directory locked.
    pub lock: OwnedFd,
    pub launch: OwnedFd,
    /// The entry in the registry; open as long as somebody serves.
    pub entry: OwnedFd,
    /// Where the caller waits for the mount to serve.
    pub report: Option<OwnedFd>,
}

/// The same as arguments of the hidden subcommand `guard`.
#[derive(Args, Debug)]
pub struct GuardArguments {
    #[arg(long)]
    device: RawFd,
    #[arg(long)]
    backing: RawFd,
    #[arg(long)]
    lock: RawFd,
    #[arg(long)]
    launch: RawFd,
    #[arg(long)]
    entry: RawFd,
    #[arg(long)]
    report: Option<RawFd>,
    /// For people who look at the list of processes.
    mountpoint: PathBuf,
}

impl GuardArguments {
    pub fn take(&self) -> io::Result<Descriptors> {
        Ok(Descriptors {
            device: inherited(self.device)?,
            backing: inherited(self.backing)?,
            lock: inherited(self.lock)?,
            launch: inherited(self.launch)?,
            entry: inherited(self.entry)?,
            report: self.report.map(inherited).transpose()?,
        })
    }
}

/// What a server gets from the guard, as arguments of the hidden subcommand `serve`.
#[derive(Args, Debug)]
pub struct ServerArguments {
    #[arg(long)]
    device: RawFd,
    #[arg(long)]
    backing: RawFd,
    #[arg(long)]
    lock: RawFd,
    #[arg(long)]
    launch: RawFd,
    #[arg(long)]
    entry: RawFd,
    #[arg(long)]
    ready: RawFd,
    #[arg(long, value_delimiter = ',')]
    state: Vec<RawFd>,
    /// Not the first server of this mount.
    #[arg(long)]
    pub takeover: bool,
    /// For people who look at the list of processes.
    mountpoint: PathBuf,
}

/// The descriptors of a server.
pub struct ServerDescriptors {
    pub device: OwnedFd,
    pub backing: OwnedFd,
    /// Held, not used: if the guard is killed, the backing directory stays locked.
    pub lock: OwnedFd,
    pub launch: OwnedFd,
    /// Held, not used, likewise.
    pub entry: OwnedFd,
    pub ready: OwnedFd,
    pub state: Vec<OwnedFd>,
}

impl ServerArguments {
    pub fn take(&self) -> io::Result<ServerDescriptors> {
        Ok(ServerDescriptors {
            device: inherited(self.device)?,
            backing: inherited(self.backing)?,
            lock: inherited(self.lock)?,
            launch: inherited(self.launch)?,
            entry: inherited(self.entry)?,
            ready: inherited(self.ready)?,
            state: self
                .state
                .iter()
                .map(|&number| inherited(number))
                .collect::<io::Result<_>>()?,
        })
    }
}

impl Descriptors {
    /// Closes what else the caller had open.
    pub(super) fn close_others(&self) -> io::Result<()> {
        let held = self.held().map(|(_, fd)| fd);
        let keep: Vec<BorrowedFd<'_>> = held
            .into_iter()
            .chain(self.report.as_ref().map(AsFd::as_fd))
            .collect();
        // An old kernel keeps them open: untidy, not wrong.
        match close_all_but(&keep) {
            Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn held(&self) -> [(&'static str, BorrowedFd<'_>); HELD] {
        [
            ("device", self.device.as_fd()),
            ("backing", self.backing.as_fd()),
            ("lock", self.lock.as_fd()),
            ("launch", self.launch.as_fd()),
            ("entry", self.entry.as_fd()),
        ]
    }

    fn arguments(&self) -> impl Iterator<Item = OsString> {
        self.held()
            .map(|(name, fd)| OsString::from(format!("--{name}={}", fd.as_raw_fd())))
            .into_iter()
    }

    pub(super) fn server_arguments(
        &self,
        state: &[OwnedFd],
        ready: BorrowedFd<'_>,
    ) -> impl Iterator<Item = OsString> {
        let more = [
            format!("--ready={}", ready.as_raw_fd()),
            format!("--state={}", numbers(state)),
        ];
        self.arguments().chain(more.map(OsString::from))
    }

    /// Lets the next program inherit them.
    fn pass_on(&self) -> io::Result<()> {
        let held = self.held().map(|(_, fd)| fd);
        for fd in held
            .into_iter()
            .chain(self.report.as_ref().map(AsFd::as_fd))
        {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    }

    fn guard_command(&self, mountpoint: &Path) -> Command {
        let mut command = Command::new(EXECUTABLE);
        command.arg0("ttlfs").arg("guard").args(self.arguments());
        if let Some(report) = &self.report {
            command.arg(format!("--report={}", report.as_raw_fd()));
        }
        command.arg("--").arg(mountpoint).current_dir("/");
        command
    }
}

/// A guard that was started and has not yet said that the mount serves.
pub struct Started {
    pub guard: Child,
    report: OwnedFd,
}

impl Started {
    /// Waits until the mount serves. False if it never will; the reason is on standard error.
    pub fn wait_ready(&self) -> io::Result<bool> {
        let mut byte = [0u8; 1];
        let got = rustix::io::retry_on_intr(|| rustix::io::read(&self.report, &mut byte))?;
        Ok(got == 1 && byte[0] == READY)
    }
}

/// Starts a guard in the background. It says on our standard error what goes wrong until the mount serves.
pub fn start(mut descriptors: Descriptors, mountpoint: &Path) -> io::Result<Started> {
    let (report, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    descriptors.report = Some(theirs);
    descriptors.pass_on()?;
    let guard = descriptors
        .guard_command(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    Ok(Started { guard, report })
}

/// Becomes the guard, in front. Returns only if that fails.
pub fn foreground(descriptors: &Descriptors, mountpoint: &Path) -> io::Error {
    if let Err(error) = descriptors.pass_on() {
        return error;
    }
    descriptors.guard_command(mountpoint).exec()
}
