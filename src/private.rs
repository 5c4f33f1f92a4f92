//! The private directory `.ttlfs/` in a backing directory: made, recognised, locked.
//!
//! Whoever may write to the backing directory could have put anything there under this name. So it is reached
//! only by descriptor, no link is followed, and what isn't plainly ours is refused, never used and never moved:
//! an admin decides what becomes of it.

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

/// The reserved name in the root of every backing directory.
pub const DIRECTORY: &str = ".ttlfs";
/// Holds the time, in ns since the epoch, from which lifetimes of what was there before count (`adopt=now`).
pub const ADOPTED: &str = "adopted";

const CACHE_TAG: &str = "CACHEDIR.TAG";
const CACHE_TAG_TEXT: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n\
# This directory holds the private state of ttlfs, a filesystem for temporary files.\n";
const LOCK: &str = "lock";
const FORMAT: &str = "format";
const FORMAT_NEW: &str = "format.new";
const FORMAT_TEXT: &[u8] = b"ttlfs 1\n";
/// What may be there before `format` is: the creation was interrupted.
const UNFINISHED: &[&str] = &[CACHE_TAG, ADOPTED, LOCK, FORMAT_NEW];

/// What becomes of content that was there before the first mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// It is a reason to refuse the mount.
    Refuse,
    /// Its lifetimes start now.
    Now,
    /// Its lifetimes start at its birth.
    Birth,
}

/// Why a backing directory can't be used.
#[derive(Debug)]
pub enum PrivateError {
    /// Another mount has it.
    InUse,
    /// There is content, and nobody said what to do with it.
    HasContent,
    /// `.ttlfs`, or a file in it, isn't what we make.
    Forged {
        name: String,
        why: String,
    },
    Io {
        what: String,
        error: io::Error,
    },
}

impl fmt::Display for PrivateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivateError::InUse => write!(
                f,
                "is in use by another mount; a backing directory can be mounted once"
            ),
            PrivateError::HasContent => write!(
                f,
                "has content, and was never mounted; -o adopt=now (lifetimes start now) or \
                 -o adopt=birth (they started when it was made) allows it"
            ),
            PrivateError::Forged { name, why } => write!(
                f,
                "{name} {why}; move it away, ttlfs uses only what it made itself"
            ),
            PrivateError::Io { what, error } => {
                let text = error.to_string();
                let text = text.split(" (os error ").next().unwrap_or_default();
                write!(f, "{what}: {text}")
            }
        }
    }
}

impl std::error::Error for PrivateError {}

fn io_error(what: &str) -> impl FnOnce(Errno) -> PrivateError + '_ {
    move |error| PrivateError::Io {
        what: what.to_owned(),
        error: error.into(),
    }
}

fn forged(name: &str, why: impl Into<String>) -> PrivateError {
    PrivateError::Forged {
        name: name.to_owned(),
        why: why.into(),
    }
}

/// What was found in a backing directory. Nothing has been changed yet.
pub struct Inspected {
    existing: Option<OwnedFd>,
    finished: bool,
    adopted_at_ns: Option<u128>,
}

/// A backing directory that is ours until the lock is closed, by whoever holds it last.
pub struct Private {
    pub directory: OwnedFd,
    pub lock: OwnedFd,
}

/// Looks at the backing directory and refuses what can't be used. Changes nothing.
pub fn inspect(backing: BorrowedFd<'_>, adopt: Adopt) -> Result<Inspected, PrivateError> {
    let existing = open_directory(backing)?;
    let finished = match &existing {
        Some(directory) => is_finished(directory.as_fd())?,
        None => false,
    };
    let mut adopted_at_ns = None;
    if !finished && has_content(backing)? {
        match adopt {
            Adopt::Refuse => return Err(PrivateError::HasContent),
            Adopt::Now => adopted_at_ns = Some(now_ns()),
            Adopt::Birth => {}
        }
    }
    Ok(Inspected {
        existing,
        finished,
        adopted_at_ns,
    })
}

/// Makes the private directory where it is missing, and locks it.
pub fn claim(backing: BorrowedFd<'_>, found: Inspected) -> Result<Private, PrivateError> {
    let directory = match found.existing {
        Some(directory) => directory,
        None => make_directory(backing)?,
    };
    let lock = lock(directory.as_fd())?;
    if !found.finished {
        write_file(directory.as_fd(), CACHE_TAG, CACHE_TAG_TEXT)?;
        if let Some(time) = found.adopted_at_ns {
            write_file(directory.as_fd(), ADOPTED, format!("{time}\n").as_bytes())?;
        }
        finish(backing, directory.as_fd())?;
    }
    Ok(Private { directory, lock })
}

/// Opens `.ttlfs` if it is there and beyond doubt ours.
fn open_directory(backing: BorrowedFd<'_>) -> Result<Option<OwnedFd>, PrivateError> {
    let stat = match rustix::fs::statat(backing, DIRECTORY, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(io_error(DIRECTORY))?,
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Directory {
        return Err(forged(
            DIRECTORY,
            format!("is {}, not a directory", describe(kind)),
        ));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match open_beneath(backing, DIRECTORY, flags) {
        Err(Errno::XDEV) => return Err(forged(DIRECTORY, "is another filesystem's mountpoint")),
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(forged(DIRECTORY, "is not a directory")),
        other => other.map_err(io_error(DIRECTORY))?,
    };
    let stat = rustix::fs::fstat(&directory).map_err(io_error(DIRECTORY))?;
    check_owner(DIRECTORY, &stat)?;
    // Who could only look has changed nothing. Who could write may have.
    if stat.st_mode & 0o022 != 0 {
        return Err(forged(DIRECTORY, "is writable by other users"));
    }
    Ok(Some(directory))
}

fn check_owner(name: &str, stat: &Stat) -> Result<(), PrivateError> {
    let own = rustix::process::geteuid().as_raw();
    if stat.st_uid != own {
        let why = format!("belongs to user id {}, not to {own}", stat.st_uid);
        return Err(forged(name, why));
    }
    Ok(())
}

/// Never leaves the directory: not by a link, not by a mount.
fn open_beneath(directory: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
        // Kept from us by a filter of system calls: O_NOFOLLOW alone still follows no link.
        Err(Errno::NOSYS | Errno::PERM) => {
            rustix::fs::openat(directory, name, flags, Mode::empty())
        }
        other => other,
    }
}

/// Whether the creation was completed. Refuses a directory that we can't have begun.
fn is_finished(directory: BorrowedFd<'_>) -> Result<bool, PrivateError> {
    if let Some(mut file) = open_file(directory, FORMAT)? {
        let mut text = Vec::new();
        let name = in_directory(FORMAT);
        Read::by_ref(&mut file)
            .take(64)
            .read_to_end(&mut text)
            .map_err(|error| PrivateError::Io {
                what: name.clone(),
                error,
            })?;
        if text == FORMAT_TEXT {
            return Ok(true);
        }
        let why = format!(
            "says {:?}, which this version doesn't know ({:?} is known)",
            String::from_utf8_lossy(&text).trim_end(),
            String::from_utf8_lossy(FORMAT_TEXT).trim_end()
        );
        return Err(forged(&name, why));
    }
    for entry in Dir::read_from(directory).map_err(io_error(DIRECTORY))? {
        let entry = entry.map_err(io_error(DIRECTORY))?;
        let name = entry.file_name().to_bytes();
        let known = UNFINISHED.iter().any(|ours| ours.as_bytes() == name);
        if !known && name != b"." && name != b".." {
            return Err(forged(DIRECTORY, "has content but no format file"));
        }
    }
    Ok(false)
}

/// Whether there is anything that users may have put there.
fn has_content(backing: BorrowedFd<'_>) -> Result<bool, PrivateError> {
    // The descriptor itself may be one for paths only.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(backing, ".", flags, Mode::empty());
    let entries = readable
        .and_then(Dir::new)
        .map_err(io_error("its content"))?;
    for entry in entries {
        let entry = entry.map_err(io_error("its content"))?;
        let name = entry.file_name().to_bytes();
        if ![&b"."[..], b"..", b"lost+found", DIRECTORY.as_bytes()].contains(&name) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn make_directory(backing: BorrowedFd<'_>) -> Result<OwnedFd, PrivateError> {
    let mode = Mode::from_raw_mode(0o700);
    rustix::fs::mkdirat(backing, DIRECTORY, mode).map_err(io_error(DIRECTORY))?;
    open_directory(backing)?.ok_or_else(|| forged(DIRECTORY, "vanished while it was made"))
}

fn lock(directory: BorrowedFd<'_>) -> Result<OwnedFd, PrivateError> {
    rustix::fs::fchmod(directory, Mode::from_raw_mode(0o700)).map_err(io_error(DIRECTORY))?;
    let name = in_directory(LOCK);
    let file = match open_file(directory, LOCK)? {
        Some(file) => file,
        None => create_file(directory, LOCK)?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(PrivateError::InUse),
        other => {
            other.map_err(io_error(&name))?;
            Ok(file.into())
        }
    }
}

/// Opens a file of ours, if it is there. Refuses what other users could have made or could reach by another name.
fn open_file(directory: BorrowedFd<'_>, name: &str) -> Result<Option<File>, PrivateError> {
    let shown = in_directory(name);
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open_beneath(directory, name, flags) {
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::XDEV) => {
            return Err(forged(&shown, "is not a regular file"));
        }
        other => other.map_err(io_error(&shown))?,
    };
    let stat = rustix::fs::fstat(&file).map_err(io_error(&shown))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(forged(&shown, format!("is {}, not a file", describe(kind))));
    }
    check_owner(&shown, &stat)?;
    if stat.st_nlink != 1 {
        return Err(forged(&shown, "has other names"));
    }
    Ok(Some(file.into()))
}

fn create_file(directory: BorrowedFd<'_>, name: &str) -> Result<File, PrivateError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))
        .map(File::from)
        .map_err(io_error(&in_directory(name)))
}

/// Writes a file anew and brings it to the disk.
fn write_file(directory: BorrowedFd<'_>, name: &str, text: &[u8]) -> Result<(), PrivateError> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(io_error(&in_directory(name))(error)),
    }
    let mut file = create_file(directory, name)?;
    file.write_all(text)
        .and_then(|()| file.sync_all())
        .map_err(|error| PrivateError::Io {
            what: in_directory(name),
            error,
        })
}

/// The format file comes last and at once: with it, everything else is there too.
fn finish(backing: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<(), PrivateError> {
    write_file(directory, FORMAT_NEW, FORMAT_TEXT)?;
    rustix::fs::fsync(directory)
        .and_then(|()| rustix::fs::renameat(directory, FORMAT_NEW, directory, FORMAT))
        .and_then(|()| rustix::fs::fsync(directory))
        .map_err(io_error(&in_directory(FORMAT)))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(backing, ".", flags, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(io_error(DIRECTORY))
}

fn in_directory(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something unknown",
    }
}

fn now_ns() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
}
