//! Reading directories.
//!
//! Positions are the backing file system's own cookies: stable while others create and delete, good for `telldir`.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{RawDir, SeekFrom};
use rustix::io::Errno;

use super::{Dir, Entry, Fs};
use crate::clock::Time;
use crate::error::{FsError, FsResult};
use crate::handles::HandleId;
use crate::inodes::{Ino, Kind};

/// One entry, as it is shown to the kernel.
#[derive(Debug)]
pub struct DirEntry<'a, 'f> {
    /// Its name.
    pub name: &'a CStr,
    /// Its inode number.
    pub ino: Ino,
    /// Its type.
    pub kind: Kind,
    /// The position after it.
    pub next: u64,
    /// Its inode, where the kernel asked for it too; never of `.` and `..`.
    pub entry: Option<Entry<'f>>,
}

/// What one call reads ahead from the backing directory, bytes.
const BUFFER_BYTES: usize = 32 * 1024;

fn kind_of(file_type: rustix::fs::FileType) -> Option<Kind> {
    use rustix::fs::FileType;
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return None,
    })
}

impl Fs {
    /// Shows the entries of an open directory from position `from` on, until `show` says that its buffer is full.
    /// `plus`: with their inodes.
    pub fn readdir(
        &self,
        ino: Ino,
        handle: HandleId,
        from: u64,
        plus: bool,
        mut show: impl FnMut(DirEntry<'_, '_>) -> bool,
    ) -> FsResult<()> {
        let info = self.handles.get(handle).ok_or(FsError::Os(Errno::BADF))?;
        let stream = self
            .handles
            .stream(info.slot)
            .ok_or(FsError::Os(Errno::BADF))?;
        let node = self.inodes.pin(ino).ok_or(FsError::Stale)?;
        if node.has(crate::inodes::NodeFlags::UNLINKED) {
            return Ok(());
        }
        let dir = Dir {
            fd: self.location(&node)?,
            node,
        };
        let policy = self.policy();
        let filters = policy.ttl_may_apply(dir.state());

        let mut position = stream.inner.lock();
        if position.at != from {
            self.backing
                .seek(position.dir.as_fd(), SeekFrom::Start(from))?;
        }
        // Whatever happens, where the descriptor stands is not where this call ends.
        position.at = u64::MAX;
        let mut buffer = [MaybeUninit::<u8>::uninit(); BUFFER_BYTES];
        let mut entries = RawDir::new(position.dir.as_fd(), &mut buffer);
        let mut shown = false;
        while let Some(read) = entries.next() {
            let raw = match read {
                Ok(raw) => raw,
                Err(_) if shown => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            let name = raw.file_name();
            let dots = name == c"." || name == c"..";
            let mut kind = kind_of(raw.file_type());
            let mut entry = None;
            if !dots {
                if self.check_reserved(&dir, name).is_err() {
                    continue;
                }
                if plus || kind.is_none() || filters && self.may_have_expired(Ino(raw.ino())) {
                    match self.child(&dir, name) {
                        Ok((node, meta, verdict)) => {
                            kind = Some(meta.kind());
                            entry = plus.then(|| self.entry(node, meta, verdict));
                        }
                        Err(FsError::NotFound) => continue,
                        // Shown like any other; who asks for it gets the error.
                        Err(_) => {}
                    }
                }
            }
            let next = raw.next_entry_cookie();
            let full = !show(DirEntry {
                name,
                ino: Ino(raw.ino()),
                kind: kind.unwrap_or(Kind::File),
                next,
                entry,
            });
            if full {
                return Ok(());
            }
            shown = true;
        }
        Ok(())
    }

    /// Whether an entry's deadline may have passed: a cheap look that never says no wrongly.
    fn may_have_expired(&self, ino: Ino) -> bool {
        match self.inodes.pin(ino) {
            // What was met stands in the queue, if it can expire at all.
            Some(node) if node.deadline_hint() != Time::NEVER => self.is_overdue(&node),
            _ => true,
        }
    }

    /// All names in a directory but the dots, with their types where the backing store tells.
    pub(crate) fn raw_entries(&self, dir: &Dir<'_>) -> FsResult<Vec<(CString, Option<Kind>)>> {
        self.entries_of(dir.fd())
    }

    /// As `raw_entries`, of any directory.
    pub(crate) fn entries_of(&self, dir: BorrowedFd<'_>) -> FsResult<Vec<(CString, Option<Kind>)>> {
        let fd = self.open_dir(dir)?;
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); BUFFER_BYTES];
        let mut entries = RawDir::new(fd.as_fd(), &mut buffer);
        let mut names = Vec::new();
        while let Some(raw) = entries.next() {
            let raw = raw?;
            let name = raw.file_name();
            if name != c"." && name != c".." {
                names.push((name.to_owned(), kind_of(raw.file_type())));
            }
        }
        Ok(names)
    }
}
