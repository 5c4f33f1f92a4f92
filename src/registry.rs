//! The list of this machine's mounts: one small JSON file each, in `/run/ttlfs` or `$XDG_RUNTIME_DIR/ttlfs`.
//!
//! The kernel's own list says what is mounted. This one says who serves it and from where. An entry may outlive
//! its processes (`kill -9`). So guard and server hold its file locked: one that nobody holds is of the past.

use crate::mountpoint::DeviceNumber;
use crate::sys::process::{hold, is_held};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SYSTEM_DIRECTORY: &str = "/run/ttlfs";
/// A log without a line for this long is of a mount that nobody asks about any more.
const LOG_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A file's identity, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// What doesn't change while a mount lives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountFacts {
    #[serde(with = "path_text")]
    pub mountpoint: PathBuf,
    #[serde(with = "path_text")]
    pub backing: PathBuf,
    /// `MAJOR:MINOR`, as in mountinfo.
    pub device: String,
    pub backing_id: FileId,
    /// The directories above the backing directory, at the time of the mount.
    pub ancestors: Vec<FileId>,
    pub uid: u32,
    /// Seconds since the epoch.
    pub started: u64,
}

/// One mount, as it is registered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub facts: MountFacts,
    pub guard_pid: u32,
    /// 0 while there is none.
    pub server_pid: u32,
    pub restarts: u64,
    /// How the last server ended, if one did.
    pub last_end: String,
    /// Whether the server of now has said that it serves.
    pub ready: bool,
}

impl Entry {
    pub fn device(&self) -> Option<DeviceNumber> {
        self.facts.device.parse().ok()
    }

    /// Those of guard and server that live, the guard first.
    pub fn processes(&self) -> Vec<OwnedFd> {
        [(self.guard_pid, "guard"), (self.server_pid, "serve")]
            .into_iter()
            .filter_map(|(pid, subcommand)| process(pid, subcommand, &self.facts.mountpoint))
            .collect()
    }
}

/// A process, if it is ours: its number may have gone to another one since, or be of another namespace.
fn process(pid: u32, subcommand: &str, mountpoint: &Path) -> Option<OwnedFd> {
    let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
    // Opened first: what is read then is this process' and no later one's.
    let process = rustix::process::pidfd_open(number, PidfdFlags::empty()).ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|&byte| byte == 0);
    let is_ours = words.nth(1) == Some(subcommand.as_bytes())
        && words.any(|word| word == mountpoint.as_os_str().as_bytes());
    is_ours.then_some(process)
}

/// The directory of entries of one user (or, as root, of the system).
pub struct Registry {
    directory: PathBuf,
}

/// While it lives, no other mount of this user is being set up.
pub struct RegistryLock {
    _file: File,
}

impl Registry {
    /// Opens the directory for our own mounts, and makes it where it is missing.
    pub fn open() -> io::Result<Registry> {
        let directory = own_directory();
        let is_root = rustix::process::geteuid().is_root();
        let mode = if is_root { 0o755 } else { 0o700 };
        match std::fs::DirBuilder::new().mode(mode).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
        .and_then(|()| check_directory(&directory))
        .map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", directory.display()))
        })?;
        Ok(Registry { directory })
    }

    /// Waits for its turn.
    pub fn lock(&self) -> io::Result<RegistryLock> {
        let path = self.directory.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
        Ok(RegistryLock { _file: file.into() })
    }

    /// A name nobody else uses while the mount lives: an old mount at the same place removes only its own entry.
    pub fn entry_path(&self, facts: &MountFacts) -> PathBuf {
        let device = facts.device.replace(':', ".");
        self.directory
            .join(format!("{}-{device}.json", readable(&facts.mountpoint)))
    }

    /// Where lines go on machines without a system log. One file for each place: they don't pile up.
    pub fn log_path(&self, facts: &MountFacts) -> PathBuf {
        self.directory
            .join(format!("{}.log", readable(&facts.mountpoint)))
    }

    /// Makes an entry and holds it. The caller holds the registry's lock.
    pub fn add(
        &self,
        path: &Path,
        facts: &MountFacts,
        _lock: &RegistryLock,
    ) -> io::Result<OwnedFd> {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        if !hold(file.as_fd())? {
            return Err(io::Error::other(format!(
                "{}: held by another mount",
                path.display()
            )));
        }
        let entry = Entry {
            facts: facts.clone(),
            guard_pid: 0,
            server_pid: 0,
            restarts: 0,
            last_end: String::new(),
            ready: false,
        };
        file.set_len(0)?;
        (&file).write_all(&serde_json::to_vec(&entry)?)?;
        Ok(file.into())
    }

    /// Removes entries whose processes are gone, and old logs. The caller holds the lock.
    pub fn remove_stale(&self, _lock: &RegistryLock) {
        for log in files(&self.directory, "log") {
            let written = std::fs::metadata(&log).and_then(|metadata| metadata.modified());
            let age = written.ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > LOG_KEPT) {
                let _ = std::fs::remove_file(log);
            }
        }
        for path in files(&self.directory, "json") {
            if !is_alive(&path) {
                // Best effort: what stays is only looked at again.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Whether a guard or a server still holds this entry.
pub fn is_alive(entry: &Path) -> bool {
    let file = File::open(entry);
    // What can't be looked at is taken for alive: that refuses more, never too little.
    file.and_then(|file| is_held(file.as_fd())).unwrap_or(true)
}

/// A path as part of a file's name.
fn readable(path: &Path) -> String {
    path.to_string_lossy()
        .trim_matches('/')
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(80)
        .collect()
}

/// Waits for its turn to take a mount away. Two at once could take away what is beneath, too.
///
/// Where there is no registry, there is no turn to wait for.
pub fn turn() -> Option<RegistryLock> {
    Registry::open().and_then(|registry| registry.lock()).ok()
}

/// All entries that we can see: our own and the system's.
pub fn entries() -> Vec<(PathBuf, Entry)> {
    let own = own_directory();
    let mut found = Vec::new();
    if check_directory(&own).is_ok() {
        found = read_directory(&own);
    }
    if own != Path::new(SYSTEM_DIRECTORY) {
        found.extend(read_directory(Path::new(SYSTEM_DIRECTORY)));
    }
    found
}

/// The entry of the mount with this device number.
pub fn find(device: DeviceNumber) -> Option<(PathBuf, Entry)> {
    entries()
        .into_iter()
        .find(|(_, entry)| entry.device() == Some(device))
}

fn own_directory() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return PathBuf::from(SYSTEM_DIRECTORY);
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(format!("/run/user/{}", uid.as_raw()))))
        .filter(|path| path.is_dir());
    match runtime {
        Some(directory) => directory.join("ttlfs"),
        // As tmux and screen do where there is no session manager. Checked below: others could make it first.
        None => PathBuf::from(format!("/tmp/ttlfs-{}", uid.as_raw())),
    }
}

/// Refuses a directory that somebody else could have filled.
fn check_directory(path: &Path) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "is not a directory that only we can write to; move it away",
        ));
    }
    Ok(())
}

fn read_directory(directory: &Path) -> Vec<(PathBuf, Entry)> {
    files(directory, "json")
        .filter_map(|path| read_entry(&path).map(|entry| (path, entry)))
        .collect()
}

fn files(directory: &Path, extension: &'static str) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(move |path| path.extension().is_some_and(|found| found == extension))
}

/// An entry is rewritten in place: who meets it half-written reads again.
fn read_entry(path: &Path) -> Option<Entry> {
    const ATTEMPTS: usize = 5;
    (0..ATTEMPTS).find_map(|_| serde_json::from_slice(&std::fs::read(path).ok()?).ok())
}

/// Paths as JSON strings; as lists of bytes where they aren't UTF-8.
pub(crate) mod path_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    pub(crate) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => text.serialize(to),
            None => path.as_os_str().as_bytes().serialize(to),
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Text {
        Utf8(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Text::deserialize(from)? {
            Text::Utf8(text) => PathBuf::from(text),
            Text::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}
