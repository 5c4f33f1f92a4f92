//! Attributes: stat, chmod, chown, truncate, times; the file system's own numbers.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{OFlags, Timespec};

use super::{Entry, Fs, Verdict};
use crate::error::{FsError, FsResult};
use crate::handles::HandleId;
use crate::identity::Caller;
use crate::inodes::{Ino, Kind, NodeFlags};
use crate::quota::UNLIMITED;
use crate::slab::Slot;

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The time of the call.
    Now,
    /// This one: seconds and nanoseconds.
    At(i64, u32),
}

/// What `setattr` changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size, bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<When>,
    /// Modification time.
    pub mtime: Option<When>,
}

/// The numbers of `statfs(2)`, in blocks of [`crate::quota::CHARGE_UNIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for users.
    pub available: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
    /// The longest name.
    pub name_max: u32,
}

impl Fs {
    /// The attributes of an inode.
    pub fn getattr(&self, ino: Ino, handle: Option<HandleId>) -> FsResult<Entry<'_>> {
        let node = self.live(ino)?;
        let open = handle
            .and_then(|h| self.handles.get(h))
            .and_then(|info| info.open)
            .and_then(|open| self.handles.descriptor(open, node.slot()));
        let fd = match open {
            Some(fd) => fd,
            None => self.location(&node)?,
        };
        let meta = self.backing.stat(fd.as_fd())?;
        let verdict = self.verdict_of_inode(&node, &meta)?;
        Ok(self.entry(node, meta, verdict))
    }

    /// As `verdict`; an unlinked inode has no deadline any more.
    fn verdict_of_inode(
        &self,
        node: &crate::inodes::Pin<'_>,
        meta: &crate::backing::Meta,
    ) -> FsResult<Verdict> {
        if node.has(NodeFlags::UNLINKED) {
            return Ok(Verdict::Live(crate::clock::Time::NEVER));
        }
        match self.verdict(node, meta)? {
            Verdict::Expired => {
                self.work().nudge_reaper();
                Err(FsError::Stale)
            }
            verdict => Ok(verdict),
        }
    }

    /// Changes attributes.
    pub fn setattr(
        &self,
        ino: Ino,
        handle: Option<HandleId>,
        change: Change,
        caller: Caller,
    ) -> FsResult<Entry<'_>> {
        let node = self.live(ino)?;
        let open = handle
            .and_then(|h| self.handles.get(h))
            .and_then(|info| info.open)
            .and_then(|open| self.handles.descriptor(open, node.slot()));
        let location = match &open {
            Some(fd) => fd.clone(),
            None => self.location(&node)?,
        };
        let before = self.backing.stat(location.as_fd())?;
        self.verdict_of_inode(&node, &before)?;
        // The owner first: a change of owner ends set-id bits, a change of mode in the same call may set them.
        if change.uid.is_some() || change.gid.is_some() {
            self.backing
                .chown(location.as_fd(), change.uid, change.gid)?;
            let foreign_setgid = before.mode & 0o2010 == 0o2000 && !caller.is_in_group(before.gid);
            if foreign_setgid && before.kind() == Kind::File && caller.uid != 0 {
                // The daemon has the privilege to leave it; the caller has not.
                let now = self.backing.stat(location.as_fd())?;
                self.backing.chmod(location.as_fd(), now.mode & 0o5777)?;
            }
        }
        if let Some(mode) = change.mode {
            self.backing.chmod(location.as_fd(), mode)?;
        }
        if let Some(size) = change.size {
            if node.kind() != Kind::File {
                return Err(FsError::Invalid);
            }
            let fd = match &open {
                Some(fd) => fd.clone(),
                None => match Slot::from_raw(node.aux.load(Ordering::Acquire))
                    .filter(|open| !self.handles.file(*open).is_read_only())
                    .and_then(|open| self.handles.descriptor(open, node.slot()))
                {
                    Some(fd) => fd,
                    None => Arc::new(self.open_node(&node, OFlags::WRONLY)?),
                },
            };
            self.truncate(&node, fd.as_fd(), size, caller, open.is_some())?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            self.backing.utimens(
                location.as_fd(),
                timespec(change.atime),
                timespec(change.mtime),
            )?;
        }
        let meta = self.backing.stat(location.as_fd())?;
        self.reschedule(&node, &meta);
        let verdict = match self.verdict_of_inode(&node, &meta) {
            // The change itself was made; that the file expires by it shows in the next call.
            Err(FsError::Stale) => Verdict::Kept,
            verdict => verdict?,
        };
        Ok(self.entry(node, meta, verdict))
    }

    /// Brings a deadline up to date that may have come nearer.
    pub(crate) fn reschedule(&self, node: &crate::inodes::Pin<'_>, meta: &crate::backing::Meta) {
        let policy = self.policy();
        let settings = self.settings_in(&policy, node);
        if settings.may_expire() && !node.has(NodeFlags::UNLINKED) {
            let at = self.deadline_in(settings, node, meta);
            if at < node.deadline_hint() {
                self.schedule(node, at);
            }
        }
    }

    /// The file attribute ioctls (`chattr`, `lsattr`) on an open file or directory.
    pub fn ioctl(
        &self,
        handle: HandleId,
        command: u32,
        input: &[u8],
        out_bytes: usize,
    ) -> FsResult<Vec<u8>> {
        let info = self
            .handles
            .get(handle)
            .ok_or(FsError::Os(rustix::io::Errno::BADF))?;
        if let Some(fd) = info
            .open
            .and_then(|open| self.handles.descriptor(open, info.node))
        {
            let node = self.inodes.pin_slot(info.node);
            let done = crate::sys::fs::attribute_ioctl(fd.as_fd(), command, input, out_bytes)?;
            // What a new flag forbids, a descriptor from before would still allow.
            node.set(NodeFlags::REOPEN);
            return Ok(done);
        }
        let stream = self
            .handles
            .stream(info.slot)
            .ok_or(FsError::Os(rustix::io::Errno::BADF))?;
        let position = stream.inner.lock();
        Ok(crate::sys::fs::attribute_ioctl(
            position.dir.as_fd(),
            command,
            input,
            out_bytes,
        )?)
    }

    /// Space and inodes as seen from an inode: those of the nearest limit, within those of the backing store.
    pub fn statfs(&self, ino: Ino) -> FsResult<Space> {
        const UNIT: u64 = crate::quota::CHARGE_UNIT;
        let node = self.live(ino)?;
        let real = self.backing.statfs()?;
        let fragment = real.f_frsize.max(1);
        let in_units = |fragments: u64| {
            (u128::from(fragments) * u128::from(fragment) / u128::from(UNIT)) as u64
        };
        let mut space = Space {
            blocks: in_units(real.f_blocks),
            free: in_units(real.f_bfree),
            available: in_units(real.f_bavail),
            inodes: real.f_files,
            free_inodes: real.f_ffree,
            name_max: u32::try_from(real.f_namemax).unwrap_or(255),
        };
        let inner = if node.kind() == Kind::Directory {
            &node.aux
        } else {
            &node.subtree
        };
        if let Some(subtree) = Slot::from_raw(inner.load(Ordering::Acquire)) {
            if let Some(usage) = self.quotas.nearest_byte_limit(subtree) {
                space.blocks = usage.limit_bytes / UNIT;
                let left = usage.limit_bytes.saturating_sub(usage.used_bytes) / UNIT;
                // What an outer limit or the backing store leaves may be less.
                let room = self.quotas.room(subtree) / UNIT;
                space.free = left.min(room).min(space.free);
                space.available = left.min(room).min(space.available);
            }
            if let Some(usage) = self.quotas.nearest_inode_limit(subtree) {
                space.inodes = usage.limit_inodes;
                let left = usage.limit_inodes.saturating_sub(usage.used_inodes);
                // A backing store that counts no inodes says 0 in all.
                space.free_inodes = if real.f_files == 0 {
                    left
                } else {
                    left.min(space.free_inodes)
                };
            }
        }
        debug_assert!(space.blocks != UNLIMITED);
        Ok(space)
    }
}

fn timespec(when: Option<When>) -> Timespec {
    match when {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        Some(When::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        },
        Some(When::At(seconds, nanoseconds)) => Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.into(),
        },
    }
}
