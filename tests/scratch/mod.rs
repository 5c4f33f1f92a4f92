//! A tmpfs of a test's own, on which it mounts what it likes: everything goes with it, mounts and daemons too.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const TTLFS: &str = env!("CARGO_BIN_EXE_ttlfs");
/// Nothing takes nearly that long; a test that waits longer fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Ends the test where it can't run.
macro_rules! needs_root {
    () => {
        if !scratch::is_root() {
            eprintln!("skipped: needs root");
            return;
        }
    };
}
pub(crate) use needs_root;

/// Is this program in PATH?
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Ends the test where plain users can't mount.
macro_rules! needs_fusermount {
    () => {
        if !scratch::is_installed("fusermount3") {
            eprintln!("skipped: no fusermount3 here");
            return;
        }
    };
}
pub(crate) use needs_fusermount;

pub struct Scratch {
    root: PathBuf,
}

impl Scratch {
    pub fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ttlfs-test-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        std::fs::create_dir(&root).expect("a fresh name");
        let options = c"mode=0755,size=64m";
        rustix::mount::mount("tmpfs", &root, "tmpfs", MountFlags::empty(), options)
            .expect("a tmpfs");
        let scratch = Scratch { root };
        // Closed to other users, as the warning about backing directories asks for.
        scratch.directory("closed");
        scratch.mode("closed", 0o700);
        scratch.directory("closed/backing");
        scratch.directory("mnt");
        scratch
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn backing(&self) -> PathBuf {
        self.path("closed/backing")
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.path("mnt")
    }

    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    pub fn mode(&self, name: &str, mode: u32) {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(name), permissions).expect("a mode");
    }

    /// Mounts the usual backing directory at the usual place.
    pub fn mount(&self, options: &[&str]) -> Mount {
        self.mount_at(options, &self.backing(), &self.mountpoint())
    }

    pub fn mount_at(&self, options: &[&str], backing: &Path, mountpoint: &Path) -> Mount {
        let output = ttlfs(["mount"], |command| {
            command.args(options).arg(backing).arg(mountpoint);
        });
        assert!(output.status.success(), "mount failed: {}", stderr(&output));
        Mount::at(mountpoint).expect("it is mounted")
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let points = text.lines().filter_map(|line| line.split(' ').nth(4));
        let inside = points.filter(|point| Path::new(point).starts_with(&self.root));
        inside.map(PathBuf::from).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for (_, entry) in entries() {
            if Path::new(entry["mountpoint"].as_str().unwrap_or_default()).starts_with(&self.root) {
                for key in ["guard_pid", "server_pid"] {
                    if let Some(process) = process(&entry, key) {
                        let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
                        wait_for_end(&process);
                    }
                }
            }
        }
        for mount in self.mounts().iter().rev() {
            let _ = rustix::mount::unmount(mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        let _ = std::fs::remove_dir(&self.root);
    }
}

/// A mount as the registry knows it.
pub struct Mount {
    pub mountpoint: PathBuf,
    pub entry: Value,
    pub entry_path: PathBuf,
}

impl Mount {
    pub fn at(mountpoint: &Path) -> Option<Mount> {
        entries()
            .into_iter()
            .find(|(_, entry)| entry["mountpoint"] == mountpoint.to_str().expect("a plain path"))
            .map(|(entry_path, entry)| Mount {
                mountpoint: mountpoint.to_owned(),
                entry,
                entry_path,
            })
    }

    pub fn guard(&self) -> OwnedFd {
        process(&self.entry, "guard_pid").expect("the guard lives")
    }

    pub fn server(&self) -> OwnedFd {
        let now = Mount::at(&self.mountpoint).expect("still registered");
        process(&now.entry, "server_pid").expect("the server lives")
    }

    pub fn restarts(&self) -> u64 {
        let now = Mount::at(&self.mountpoint).expect("still registered");
        now.entry["restarts"].as_u64().expect("a number")
    }

    pub fn is_mounted(&self) -> bool {
        is_mounted(&self.mountpoint)
    }

    /// Asks the server for something that nobody else can answer.
    pub fn answers(&self) -> bool {
        let flags = rustix::fs::AtFlags::STATX_FORCE_SYNC;
        let mask = rustix::fs::StatxFlags::BASIC_STATS;
        rustix::fs::statx(rustix::fs::CWD, &self.mountpoint, flags, mask).is_ok()
    }

    pub fn umount(&self) -> Output {
        ttlfs(["umount"], |command| {
            command.arg(&self.mountpoint);
        })
    }
}

pub fn is_mounted(path: &Path) -> bool {
    filesystem_at(path).is_some_and(|filesystem| filesystem == "fuse.ttlfs")
}

/// The type of what is on top at this path.
pub fn filesystem_at(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = text.lines().rfind(|line| {
        line.split(' ')
            .nth(4)
            .is_some_and(|point| Path::new(point) == path)
    })?;
    let (_, after) = line.split_once(" - ")?;
    after.split(' ').next().map(str::to_owned)
}

/// Waits until the kernel's list of mounts says so.
pub fn wait_for_mounts(what: &str, mut condition: impl FnMut() -> bool) {
    let file = File::open("/proc/self/mountinfo").expect("mountinfo");
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting: {what}");
        let timeout = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        // The kernel wakes us when the list changes.
        let _ = poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout));
    }
}

/// Waits until it holds, for what the kernel has no event for.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting: {what}");
        std::thread::yield_now();
    }
}

pub fn wait_for_end(process: &OwnedFd) {
    assert!(
        has_ended_within(process, PATIENCE),
        "a process goes on and on"
    );
}

pub fn has_ended_within(process: &OwnedFd, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).expect("a short time");
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)) == Ok(1)
}

pub fn send(process: &OwnedFd, signal: Signal) {
    rustix::process::pidfd_send_signal(process, signal).expect("it lives");
}

fn process(entry: &Value, key: &str) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(entry[key].as_i64()?).ok()?)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // The number may be another process' by now, or one of another namespace.
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let mountpoint = entry["mountpoint"].as_str()?.as_bytes();
    line.split(|&byte| byte == 0)
        .any(|word| word == mountpoint)
        .then_some(process)
}

pub fn entries() -> Vec<(PathBuf, Value)> {
    let directory = std::fs::read_dir("/run/ttlfs")
        .into_iter()
        .flatten()
        .flatten();
    let files = directory.map(|file| file.path());
    let json = files.filter(|path| path.extension() == Some(OsStr::new("json")));
    json.filter_map(|path| {
        let entry = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        Some((path, entry))
    })
    .collect()
}

/// Runs the program to its end, in an environment without its variables.
pub fn ttlfs<const N: usize>(arguments: [&str; N], more: impl FnOnce(&mut Command)) -> Output {
    let mut command = command(arguments);
    more(&mut command);
    command.output().expect("the program runs")
}

pub fn command<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(TTLFS);
    command
        .args(arguments)
        .env_remove("TTLFS_CONFIG")
        .env_remove("TTLFS_LOG")
        .env_remove("TMPDIR")
        .stdin(Stdio::null());
    command
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a shell script in namespaces of its own: its mounts and daemons go with it, and it keeps no copies of the
/// mounts of tests that run beside it.
pub fn in_namespace(script: &str) -> Command {
    let setup = "findmnt -rn -t fuse.ttlfs -o TARGET | xargs -r umount -l; exec sh -c \"$1\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", setup, "sh", script])
        .env_remove("TMPDIR")
        .env_remove("XDG_RUNTIME_DIR")
        .stdin(Stdio::null());
    command
}

/// The same as a plain user who may open /dev/fuse, as is usual.
pub fn as_plain_user(scratch: &Scratch, script: &str) -> Output {
    let program = scratch.path("ttlfs");
    std::fs::copy(TTLFS, &program).expect("a copy that others may execute");
    let device = scratch.path("fuse");
    let setup = format!(
        "mknod -m 666 {device} c 10 229; chmod 666 {device}; mount --bind {device} /dev/fuse
         exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c \"$SCRIPT\"",
        device = device.display()
    );
    in_namespace(&setup)
        .env("TTLFS", &program)
        .env("SCRIPT", script)
        .env("HOME", "/")
        .output()
        .expect("unshare runs")
}
