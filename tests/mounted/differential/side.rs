//! Carrying operations out in one of the two directories, and what a program learns from that.

use super::operation::{Action, HANDLES, KEYS, Operation, PATHS, TARGETS, Who};
use crate::common::*;
use rustix::fs::{AtFlags, CWD, FileType, OFlags, Stat, Timespec};
use rustix::io::Errno;
use std::fmt::Debug;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Contents, printed short.
#[derive(PartialEq)]
pub struct Bytes(pub Vec<u8>);

impl Debug for Bytes {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        let start = &self.0[..self.0.len().min(12)];
        write!(
            out,
            "{} bytes {start:?} #{:x}",
            self.0.len(),
            hasher.finish()
        )
    }
}

/// What a program learns from a call.
#[derive(Debug, PartialEq)]
pub enum Learned {
    Nothing,
    Count(usize),
    Bytes(Bytes),
    Names(Vec<String>),
    Attributes(Seen),
    NoHandle,
}

/// The attributes that must agree. Sizes of directories, inode and device numbers are the store's business; the
/// current time isn't the same on both sides.
#[derive(Debug, PartialEq)]
pub struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: i64,
    device: u64,
    /// If it was set by hand: anything recent is just that.
    modified: Option<i128>,
}

pub fn seen(stat: &Stat) -> Seen {
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let recent = (now() - mtime(stat)).abs() <= 3_600_000_000_000;
    Seen {
        mode: stat.st_mode,
        owner: (stat.st_uid, stat.st_gid),
        links: stat.st_nlink,
        size: if is_directory { 0 } else { stat.st_size },
        device: stat.st_rdev,
        modified: (!recent).then_some(mtime(stat)),
    }
}

/// One of the two directories, with the files that are open in it.
pub struct Side {
    root: PathBuf,
    pub handles: Vec<Option<File>>,
}

impl Side {
    pub fn new(root: &Path) -> Side {
        Side {
            root: root.into(),
            handles: (0..HANDLES).map(|_| None).collect(),
        }
    }

    pub fn carry_out(&mut self, operation: &Operation) -> Result<Learned> {
        match operation.who {
            Who::Root => ROOT.run(|| self.act(&operation.action)),
            // In each other's groups a bit, so that group bits matter.
            Who::Alice => ALICE
                .in_groups(&[BOB.gid])
                .run(|| self.act(&operation.action)),
            Who::Bob => BOB.with_umask(0o027).run(|| self.act(&operation.action)),
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        // Joined by hand, to keep what is odd in the odd ones.
        let mut whole = self.root.clone().into_os_string();
        whole.push("/");
        whole.push(PATHS[number]);
        whole.into()
    }

    fn with(
        &self,
        handle: usize,
        action: impl FnOnce(&File) -> Result<Learned>,
    ) -> Result<Learned> {
        self.handles[handle]
            .as_ref()
            .map_or(Ok(Learned::NoHandle), action)
    }

    fn act(&mut self, action: &Action) -> Result<Learned> {
        let nothing = |()| Learned::Nothing;
        let bytes = |content| Learned::Bytes(Bytes(content));
        match *action {
            Action::Open {
                path,
                flags,
                mode,
                handle,
            } => {
                let file = open(self.path(path), flags, mode)?;
                // Only plain files are worked with; what FIFOs and devices do isn't the mount's doing.
                let kind = FileType::from_raw_mode(fstat(&file).st_mode);
                self.handles[handle] = (kind == FileType::RegularFile).then_some(file);
                Ok(Learned::Nothing)
            }
            Action::Close { handle } => {
                self.handles[handle] = None;
                Ok(Learned::Nothing)
            }
            Action::Read {
                handle,
                offset,
                length,
            } => self.with(handle, |file| pread(file, length, offset).map(bytes)),
            Action::Write {
                handle,
                offset,
                length,
                seed,
            } => self.with(handle, |file| {
                pwrite(file, &pattern(length, seed), offset).map(Learned::Count)
            }),
            Action::TruncateHandle { handle, length } => self.with(handle, |file| {
                rustix::fs::ftruncate(file, length).map(nothing)
            }),
            Action::Truncate { path, length } => truncate(self.path(path), length).map(nothing),
            Action::Allocate {
                handle,
                flags,
                offset,
                length,
            } => self.with(handle, |file| {
                rustix::fs::fallocate(file, flags, offset, length).map(nothing)
            }),
            Action::Copy {
                from,
                to,
                source,
                target,
                length,
            } => self.with(from, |from| {
                self.with(to, |to| {
                    let (mut source, mut target, mut all) = (source, target, 0);
                    // A short copy is legal: go on until there is no more.
                    while all < length {
                        let left = length - all;
                        match rustix::fs::copy_file_range(
                            from,
                            Some(&mut source),
                            to,
                            Some(&mut target),
                            left,
                        ) {
                            Ok(0) => break,
                            Ok(count) => all += count,
                            Err(errno) if all == 0 => return Err(errno),
                            Err(_) => break,
                        }
                    }
                    Ok(Learned::Count(all))
                })
            }),
            Action::Sync { handle } => {
                self.with(handle, |file| rustix::fs::fdatasync(file).map(nothing))
            }
            Action::Mkdir { path, mode } => mkdir_mode(self.path(path), mode).map(nothing),
            Action::Rmdir { path } => same_refusal(rmdir(self.path(path))).map(nothing),
            Action::Unlink { path } => unlink(self.path(path)).map(nothing),
            Action::Rename { from, to, flags } => {
                same_refusal(rename_with(self.path(from), self.path(to), flags)).map(nothing)
            }
            Action::Link { from, to, follow } => {
                let flags = if follow {
                    AtFlags::SYMLINK_FOLLOW
                } else {
                    AtFlags::empty()
                };
                rustix::fs::linkat(CWD, self.path(from), CWD, self.path(to), flags).map(nothing)
            }
            Action::Symlink { target, path } => {
                symlink(TARGETS[target], self.path(path)).map(nothing)
            }
            Action::ReadLink { path } => rustix::fs::readlink(self.path(path), Vec::new())
                .map(|target| bytes(target.into_bytes())),
            Action::Mknod {
                path,
                kind,
                mode: bits,
            } => mknod(self.path(path), kind, bits, 0).map(nothing),
            Action::Chmod { path, mode: bits } => chmod(self.path(path), bits).map(nothing),
            Action::ChmodHandle { handle, mode: bits } => self.with(handle, |file| {
                rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(bits)).map(nothing)
            }),
            Action::Chown { path, uid, gid } => {
                let (uid, gid) = (
                    uid.map(rustix::fs::Uid::from_raw),
                    gid.map(rustix::fs::Gid::from_raw),
                );
                rustix::fs::chownat(CWD, self.path(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                    .map(nothing)
            }
            Action::SetTimes {
                path,
                access,
                modification,
            } => {
                let time = |(seconds, nanoseconds)| -> Timespec { timespec(seconds, nanoseconds) };
                set_times(self.path(path), time(access), time(modification)).map(nothing)
            }
            Action::Stat { path, follow } => {
                let path = self.path(path);
                if follow { stat(path) } else { lstat(path) }
                    .map(|found| Learned::Attributes(seen(&found)))
            }
            Action::StatHandle { handle } => {
                self.with(handle, |file| Ok(Learned::Attributes(seen(&fstat(file)))))
            }
            Action::May { path, access } => {
                rustix::fs::access(self.path(path), access).map(nothing)
            }
            Action::List { path } => list(&self.path(path)).map(Learned::Names),
            Action::SetXattr {
                path,
                key,
                length,
                flags,
            } => {
                let value = pattern(length, length as u64);
                rustix::fs::lsetxattr(self.path(path), KEYS[key], &value, flags).map(nothing)
            }
            Action::GetXattr { path, key } => xattr(self.path(path), KEYS[key]).map(bytes),
            Action::RemoveXattr { path, key } => {
                remove_xattr(self.path(path), KEYS[key]).map(nothing)
            }
            Action::ListXattrs { path } => {
                let mut keys = xattrs(self.path(path))?;
                if store::is_default(StoreKind::Btrfs) {
                    // It lists these to users too, where the others and the mount don't.
                    keys.retain(|key| !key.starts_with("trusted."));
                }
                Ok(Learned::Names(keys))
            }
            Action::ReadWhole { path } => {
                let file = open(self.path(path), OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
                if FileType::from_raw_mode(fstat(&file).st_mode) != FileType::RegularFile {
                    return Ok(Learned::Nothing);
                }
                pread(&file, 1 << 20, 0).map(bytes)
            }
        }
    }
}

/// POSIX allows two errnos for a directory that isn't empty.
fn same_refusal<T>(outcome: Result<T>) -> Result<T> {
    outcome.map_err(|errno| {
        if errno == Errno::EXIST {
            Errno::NOTEMPTY
        } else {
            errno
        }
    })
}

fn list(path: &Path) -> Result<Vec<String>> {
    let mut listing = rustix::fs::Dir::new(open(path, OFlags::DIRECTORY | OFlags::RDONLY, 0)?)?;
    let mut found = Vec::new();
    while let Some(entry) = listing.read() {
        let entry = entry?;
        found.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()));
    }
    found.sort();
    Ok(found)
}
