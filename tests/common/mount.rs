//! A mount that unmounts when dropped.

use super::process::{self, Daemon, Finished, MOUNT_VARIABLE, run_to_end, ttlfs};
use super::wait::comes_true;
use super::{Io, Store, files, is_native, scratch};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MOUNT_LIMIT: Duration = Duration::from_secs(30);
const UNMOUNT_LIMIT: Duration = Duration::from_secs(60);
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// A backing directory shown at a mountpoint, or, natively, just the backing directory.
pub struct Mount {
    backing: PathBuf,
    mountpoint: PathBuf,
    options: String,
    pub io: Io,
    mounted: bool,
}

impl Mount {
    /// Mounts a new, empty backing directory. The root is made writable for everybody and sticky, as `/tmp` is.
    #[track_caller]
    pub fn new(store: &Store, io: Io, options: &str) -> Mount {
        let mount = Mount::over(store.backing(), io, options);
        // Not on a read-only mount: those tests look at something else.
        if !options.split(',').any(|option| option == "ro") {
            files::chmod(mount.root(), 0o1777).unwrap();
        }
        mount
    }

    /// Mounts this backing directory as it is.
    #[track_caller]
    pub fn over(backing: PathBuf, io: Io, options: &str) -> Mount {
        let all: Vec<&str> = [io.option(), options]
            .into_iter()
            .filter(|option| !option.is_empty())
            .collect();
        let mountpoint = if is_native() {
            backing.clone()
        } else {
            scratch::fresh("mnt")
        };
        let mut mount = Mount {
            backing,
            mountpoint,
            options: all.join(","),
            io,
            mounted: false,
        };
        if !is_native() {
            std::fs::create_dir(&mount.mountpoint).unwrap();
        }
        mount.mount();
        mount
    }

    /// Tries to mount, for tests of what is refused; unmounts again if it worked.
    pub fn attempt(backing: &Path, options: &str) -> Finished {
        let mountpoint = scratch::fresh("mnt");
        std::fs::create_dir(&mountpoint).unwrap();
        let done = start(backing, &mountpoint, options);
        if is_mounted(&mountpoint) {
            let _ = run_to_end(ttlfs().arg("umount").arg(&mountpoint), UNMOUNT_LIMIT);
        }
        let _ = std::fs::remove_dir(&mountpoint);
        done
    }

    /// Mounts again what was unmounted.
    #[track_caller]
    pub fn mount(&mut self) {
        assert!(!self.mounted, "mounted already");
        if is_native() {
            self.mounted = true;
            return;
        }
        let done = start(&self.backing, &self.mountpoint, &self.options);
        // So that drop cleans up after a mount that failed half-way, too.
        self.mounted = true;
        assert!(
            done.status.success(),
            "mount -o {}: {}\n{}{}",
            self.options,
            done.status,
            done.output,
            done.errors
        );
        assert!(
            is_mounted(&self.mountpoint),
            "`ttlfs mount` returned, but nothing is mounted"
        );
    }

    /// Unmounts as an admin would; the daemon must be gone when that returns.
    #[track_caller]
    pub fn unmount(&mut self) {
        self.unmount_with(&[]);
    }

    #[track_caller]
    pub fn unmount_with(&mut self, arguments: &[&str]) {
        assert!(self.mounted, "not mounted");
        if is_native() {
            self.mounted = false;
            return;
        }
        if let Err(complaint) = self.try_unmount(arguments) {
            panic!("{complaint}");
        }
        self.mounted = false;
    }

    /// `ttlfs umount`, and whether it kept its promises.
    fn try_unmount(&self, arguments: &[&str]) -> Result<(), String> {
        let mut complaint = String::new();
        // Another test may just be starting a process, which for a moment holds copies of this test's descriptors:
        // a mount that is busy is asked again.
        let unmounted = comes_true(BUSY_LIMIT, || {
            let mut umount = ttlfs();
            umount.arg("umount").args(arguments).arg(&self.mountpoint);
            match process::run(&mut umount, UNMOUNT_LIMIT) {
                Ok(done) if done.status.success() => complaint.clear(),
                Ok(done) => complaint = format!("{}: {}{}", done.status, done.output, done.errors),
                Err(_) => complaint = format!("not done within {UNMOUNT_LIMIT:?}"),
            }
            complaint.is_empty() || !complaint.contains("busy")
        });
        if !unmounted || !complaint.is_empty() {
            return Err(format!("`ttlfs umount` failed: {complaint}"));
        }
        if is_mounted(&self.mountpoint) {
            return Err("`ttlfs umount` returned, but it is still mounted".into());
        }
        let left = self.processes();
        if !left.is_empty() {
            return Err(format!("`ttlfs umount` returned, but {left:?} still run"));
        }
        Ok(())
    }

    /// Unmounts and mounts again, with caches dropped in between.
    #[track_caller]
    pub fn remount(&mut self) {
        self.unmount();
        files::drop_caches();
        self.mount();
    }

    /// Unmounts, and mounts with other options (without the I/O mode, which stays).
    #[track_caller]
    pub fn remount_with(&mut self, options: &str) {
        self.unmount();
        let all: Vec<&str> = [self.io.option(), options]
            .into_iter()
            .filter(|option| !option.is_empty())
            .collect();
        self.options = all.join(",");
        self.mount();
    }

    /// Says that a test unmounted it by other means.
    pub fn was_unmounted(&mut self) {
        assert!(!is_mounted(&self.mountpoint));
        self.mounted = false;
    }

    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// A path in the mount.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(name)
    }

    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// The same path in the backing directory.
    pub fn back(&self, name: impl AsRef<Path>) -> PathBuf {
        self.backing.join(name)
    }

    /// The server's process id.
    #[track_caller]
    pub fn server(&self) -> i32 {
        let mut server = None;
        // It may just be rewritten.
        comes_true(Duration::from_secs(2), || {
            server = self.daemon().and_then(|daemon| daemon.server);
            server.is_some()
        });
        server.expect("a state file that names the server")
    }

    pub fn daemon(&self) -> Option<Daemon> {
        process::daemon_of(&self.mountpoint)
    }

    /// The server must be the one it was and answer.
    #[track_caller]
    pub fn assert_alive(&self) {
        if !is_native() {
            let server = self.server();
            assert!(process::is_alive(server), "the server is gone");
        }
        files::stat(self.root()).unwrap();
    }

    fn processes(&self) -> Vec<i32> {
        let mut found = process::with_variable(MOUNT_VARIABLE, &self.mountpoint);
        if let Some(daemon) = self.daemon() {
            found.extend([daemon.guard, daemon.server].into_iter().flatten());
        }
        found.retain(|pid| process::is_alive(*pid));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Takes everything away by force. Guards go first: they restart servers.
    fn tear_down(&self) {
        let processes = self.processes();
        while is_mounted(&self.mountpoint) {
            let done = std::process::Command::new("umount")
                .arg("-l")
                .arg(&self.mountpoint)
                .status();
            if !done.is_ok_and(|status| status.success()) {
                break;
            }
        }
        let ended = comes_true(Duration::from_secs(3), || {
            !processes.iter().any(|pid| process::is_alive(*pid))
        });
        if !ended {
            for pid in processes.into_iter().chain(self.processes()) {
                process::kill(pid, Signal::KILL);
            }
            comes_true(Duration::from_secs(5), || self.processes().is_empty());
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_native() {
            return;
        }
        let complaint = if self.mounted {
            self.try_unmount(&[]).err()
        } else {
            None
        };
        if complaint.is_some() || is_mounted(&self.mountpoint) {
            self.tear_down();
        }
        let _ = std::fs::remove_dir(&self.mountpoint);
        if let Some(complaint) = complaint {
            assert!(std::thread::panicking(), "{complaint}");
            eprintln!("{complaint}");
        }
    }
}

fn start(backing: &Path, mountpoint: &Path, options: &str) -> Finished {
    let mut command = ttlfs();
    command.arg("mount").env(MOUNT_VARIABLE, mountpoint);
    if !options.is_empty() {
        command.arg("-o").arg(options);
    }
    run_to_end(command.arg(backing).arg(mountpoint), MOUNT_LIMIT)
}

/// Is this path a mountpoint?
pub fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = path.display().to_string();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&wanted))
}
