//! Making a mount: what `mount` and `run` share. First everything is looked at, then things are changed.

use super::{Failure, plain};
use crate::config::{self, Config};
use crate::guard::{self, Descriptors, Launch, Started};
use crate::mountpoint::{
    self, DeviceNumber, MountEntry, MountRequest, Unmount, is_dead, mount_at, resolve, shown,
};
use crate::private::{self, Adopt, PrivateError};
use crate::registry::{self, FileId, MountFacts, Registry};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Too much hangs on these to expire their content.
const FORBIDDEN: &[&str] = &["/", "/home", "/usr", "/etc", "/var"];

/// Two directories that were looked at and can become a mount, as far as can be told without changing anything.
pub(super) struct Site {
    backing_path: PathBuf,
    backing: OwnedFd,
    chain: Chain,
    mountpoint: PathBuf,
    /// A mount there has lost its daemon.
    has_dead_mount: bool,
}

/// A directory and those above it.
struct Chain {
    id: FileId,
    ancestors: Vec<FileId>,
    /// Others than the owner may pass through all of them.
    is_open_to_others: bool,
}

/// A mount whose guard runs.
pub(super) struct Outcome {
    pub(super) started: Started,
    pub(super) facts: MountFacts,
}

/// How the guard is to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    Background,
    Foreground,
}

fn backing_error(path: &Path, what: impl std::fmt::Display) -> Failure {
    Failure::usage(format_args!("BACKING {}: {what}", shown(path)))
}

fn mountpoint_error(path: &Path, what: impl std::fmt::Display) -> Failure {
    Failure::usage(format_args!("MOUNTPOINT {}: {what}", shown(path)))
}

impl Site {
    /// Looks at both directories. The only thing it may change: a dead mount over the backing directory itself goes.
    pub(super) fn examine(backing: &Path, mountpoint: &Path) -> Result<Site, Failure> {
        let (mountpoint, has_dead_mount) = examine_mountpoint(mountpoint)?;
        let backing_path = resolve(backing)
            .map_err(|error| backing_error(backing, needs_directory(&plain(&error))))?;
        let is_in_place = backing_path == mountpoint;
        if has_dead_mount && is_in_place {
            remove_dead_mount(&mountpoint)?;
        }
        let has_dead_mount = has_dead_mount && !is_in_place;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&backing_path, flags, Mode::empty()).map_err(|error| {
            backing_error(&backing_path, needs_directory(&plain(&error.into())))
        })?;
        let chain =
            Chain::above(&directory).map_err(|error| backing_error(&backing_path, error))?;
        if let Some(forbidden) = forbidden(chain.id) {
            let what = format_args!("is {forbidden}; a directory of its own is allowed");
            return Err(backing_error(&backing_path, what));
        }
        refuse_nested(&backing_path, &chain)?;
        if !is_in_place && mountpoint.starts_with(&backing_path) {
            let what = "is inside BACKING; a directory outside, or BACKING itself, is allowed";
            return Err(mountpoint_error(&mountpoint, what));
        }
        if chain.is_open_to_others && !is_in_place {
            eprintln!(
                "ttlfs: warning: {}: other users can enter the backing directory and get around every rule; \
                 close a directory above it to them (chmod 0700)",
                shown(&backing_path)
            );
        }
        Ok(Site {
            backing_path,
            backing: directory,
            chain,
            mountpoint,
            has_dead_mount,
        })
    }

    /// Makes the mount and starts its guard. In the foreground this process becomes the guard, and only errors return.
    pub(super) fn establish(self, config: Config, ground: Ground) -> Result<Outcome, Failure> {
        let registry = Registry::open().map_err(|error| Failure::failed(plain(&error)))?;
        let turn = registry
            .lock()
            .map_err(|error| Failure::failed(plain(&error)))?;
        registry.remove_stale(&turn);
        self.refuse_neighbours()?;
        let private = private::inspect(self.backing.as_fd(), adopt(&config))
            .and_then(|found| private::claim(self.backing.as_fd(), found))
            .map_err(|error| self.private_error(&error))?;
        if self.has_dead_mount {
            remove_dead_mount(&self.mountpoint)?;
        }
        let mounted = mountpoint::mount(&MountRequest {
            source: &self.backing_path,
            mountpoint: &self.mountpoint,
            options: config.kernel(),
        })
        .map_err(|error| mount_failed(&self.mountpoint, &error))?;
        let facts = self.facts(mounted.number);
        let launch = Launch {
            entry: registry.entry_path(&facts),
            log_fallback: registry.log_path(&facts),
            facts,
            config,
            is_privileged: rustix::process::geteuid().is_root(),
            is_foreground: ground == Ground::Foreground,
        };
        let facts = launch.facts.clone();
        let entry = registry.add(&launch.entry, &facts, &turn);
        drop(turn);
        entry
            .map_err(|error| Failure::failed(plain(&error)))
            .and_then(|entry| self.hand_over(&launch, mounted.device, private.lock, entry, ground))
            .inspect_err(|_| {
                // Mounted and not served: it goes again. The error that is reported matters more than these.
                give_up(&facts);
                let _ = std::fs::remove_file(&launch.entry);
            })
    }

    fn hand_over(
        self,
        launch: &Launch,
        device: OwnedFd,
        lock: OwnedFd,
        entry: OwnedFd,
        ground: Ground,
    ) -> Result<Outcome, Failure> {
        let failed = |error: std::io::Error| Failure::failed(plain(&error));
        let descriptors = Descriptors {
            device,
            backing: self.backing,
            lock,
            launch: launch.write().map_err(failed)?,
            entry,
            report: None,
        };
        let mountpoint = &launch.facts.mountpoint;
        match ground {
            Ground::Foreground => Err(failed(guard::foreground(&descriptors, mountpoint))),
            Ground::Background => Ok(Outcome {
                started: guard::start(descriptors, mountpoint).map_err(failed)?,
                facts: launch.facts.clone(),
            }),
        }
    }

    fn facts(&self, device: DeviceNumber) -> MountFacts {
        MountFacts {
            mountpoint: self.mountpoint.clone(),
            backing: self.backing_path.clone(),
            device: device.to_string(),
            backing_id: self.chain.id,
            ancestors: self.chain.ancestors.clone(),
            uid: rustix::process::geteuid().as_raw(),
            started: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        }
    }

    /// Two mounts must not show the same file.
    fn refuse_neighbours(&self) -> Result<(), Failure> {
        for (path, entry) in registry::entries() {
            let other = &entry.facts;
            let relation = if other.backing_id == self.chain.id {
                "is"
            } else if self.chain.ancestors.contains(&other.backing_id) {
                "is inside"
            } else if other.ancestors.contains(&self.chain.id) {
                "contains"
            } else {
                continue;
            };
            if registry::is_alive(&path) {
                let what = format_args!(
                    "{relation} {}, which is mounted on {}; a directory apart from it is allowed",
                    shown(&other.backing),
                    shown(&other.mountpoint)
                );
                return Err(backing_error(&self.backing_path, what));
            }
        }
        Ok(())
    }

    fn private_error(&self, error: &PrivateError) -> Failure {
        match error {
            PrivateError::InUse | PrivateError::HasContent => {
                backing_error(&self.backing_path, error)
            }
            PrivateError::Forged { .. } | PrivateError::Io { .. } => Failure::failed(format_args!(
                "BACKING {}: {error}",
                shown(&self.backing_path)
            )),
        }
    }
}

fn adopt(config: &Config) -> Adopt {
    match config.mount().adopt {
        config::Adopt::Refuse => Adopt::Refuse,
        config::Adopt::Now => Adopt::Now,
        config::Adopt::Birth => Adopt::Birth,
    }
}

fn needs_directory(error: &str) -> String {
    format!("{error}; an existing directory is allowed")
}

fn examine_mountpoint(given: &Path) -> Result<(PathBuf, bool), Failure> {
    let path =
        resolve(given).map_err(|error| mountpoint_error(given, needs_directory(&plain(&error))))?;
    let on_top = mount_at(&path).map_err(|error| Failure::failed(plain(&error)))?;
    if let Some(entry) = on_top.filter(MountEntry::is_ours) {
        if is_dead(&path) {
            return Ok((path, true));
        }
        let what = format_args!(
            "{} is mounted there already; `ttlfs umount` makes room",
            shown(Path::new(&entry.source))
        );
        return Err(mountpoint_error(&path, what));
    }
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok((path, false)),
        Ok(_) => Err(mountpoint_error(
            &path,
            needs_directory("is not a directory"),
        )),
        Err(error) => Err(mountpoint_error(&path, needs_directory(&plain(&error)))),
    }
}

fn remove_dead_mount(mountpoint: &Path) -> Result<(), Failure> {
    mountpoint::unmount(mountpoint, Unmount::Lazy).map_err(|error| {
        let what = format_args!("can't remove the dead mount there: {}", plain(&error));
        Failure::failed(format_args!("MOUNTPOINT {}: {what}", shown(mountpoint)))
    })
}

fn mount_failed(mountpoint: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format_args!(
        "can't mount on {}: {}",
        shown(mountpoint),
        plain(error)
    ))
}

/// Leaves no mount behind that nobody serves.
pub(super) fn give_up(facts: &MountFacts) {
    let _turn = registry::turn();
    let on_top = mount_at(&facts.mountpoint).ok().flatten();
    if on_top.is_some_and(|entry| entry.device.to_string() == facts.device) {
        // The error that is about to be reported matters more than this one.
        let _ = mountpoint::unmount(&facts.mountpoint, Unmount::Lazy);
    }
}

fn forbidden(id: FileId) -> Option<&'static str> {
    FORBIDDEN.iter().copied().find(|path| {
        rustix::fs::stat(*path)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (id.device, id.inode))
    })
}

/// A backing directory that is itself seen through a mount of ours: two sets of rules for one file, and two books.
fn refuse_nested(path: &Path, chain: &Chain) -> Result<(), Failure> {
    let number = DeviceNumber {
        major: rustix::fs::major(chain.id.device),
        minor: rustix::fs::minor(chain.id.device),
    };
    let mounts = mountpoint::mounts().map_err(|error| Failure::failed(plain(&error)))?;
    match mounts
        .iter()
        .find(|entry| entry.is_ours() && entry.device == number)
    {
        None => Ok(()),
        Some(entry) => Err(backing_error(
            path,
            format_args!(
                "is inside the ttlfs mount on {}; a directory outside is allowed",
                shown(&entry.mount_point)
            ),
        )),
    }
}

impl Chain {
    /// Climbs by descriptor from the directory itself, so that no renamed path can mislead.
    fn above(directory: &OwnedFd) -> Result<Chain, String> {
        let (id, mut is_open_to_others) =
            look(directory.as_fd()).map_err(|error| plain(&error.into()))?;
        let mut ancestors = Vec::new();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut below = id;
        let mut current = rustix::fs::openat(directory, "..", flags, Mode::empty());
        // Bounded: a path that is longer than this can't be typed, and nothing hangs on what is above.
        for _ in 0..libc::PATH_MAX {
            // What we may not pass, and what we can't see, we can't be inside of either.
            let Ok(parent) = &current else {
                break;
            };
            let Ok((id, is_open)) = look(parent.as_fd()) else {
                break;
            };
            if id == below {
                break;
            }
            ancestors.push(id);
            is_open_to_others &= is_open;
            below = id;
            current = rustix::fs::openat(parent, "..", flags, Mode::empty());
        }
        Ok(Chain {
            id,
            ancestors,
            is_open_to_others,
        })
    }
}

/// A directory's identity, and whether other users may pass through it by its mode bits.
fn look(directory: std::os::fd::BorrowedFd<'_>) -> Result<(FileId, bool), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    let own_groups = [0, rustix::process::getegid().as_raw()];
    let by_group = stat.st_mode & 0o010 != 0 && !own_groups.contains(&stat.st_gid);
    let id = FileId {
        device: stat.st_dev,
        inode: stat.st_ino,
    };
    Ok((id, stat.st_mode & 0o001 != 0 || by_group))
}

/// Whether a path is seen through a mount of ours. Asks only the kernel.
pub(super) fn is_on_ttlfs(path: &Path) -> bool {
    let answer = rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty());
    let (Ok(stat), Ok(mounts)) = (answer, mountpoint::mounts()) else {
        return false;
    };
    let number = DeviceNumber {
        major: stat.stx_dev_major,
        minor: stat.stx_dev_minor,
    };
    mounts
        .iter()
        .any(|entry| entry.is_ours() && entry.device == number)
}
