//! Data: open, read, write, reserve, copy, close.
//!
//! A write is charged before it happens, under the node's lock: growth = what the new end costs beyond what is charged
//! already. What did not get stored goes back.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;

use super::Fs;
use crate::backing::Sync;
use crate::clock::Time;
use crate::erase;
use crate::error::{FsError, FsResult, QuotaErrno};
use crate::handles::{HandleId, HandleInfo, IoMode};
use crate::identity::Caller;
use crate::inflight::Done;
use crate::inodes::{Ino, Kind, NodeFlags, Pin};
use crate::quota::{Amount, CHARGE_UNIT, Charge, charge_for};
use crate::rule::TtlFrom;
use crate::slab::Slot;

/// How far `fallocate` reserved a file beyond its size: 8 bytes, little-endian, on the backing file.
pub const RESERVED_XATTR: &CStr = c"trusted.ttlfs.reserved";

/// How an open file's data travels, as the reply to the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// In the kernel, to the backing file with this id.
    Passthrough(u32),
    /// Reads and writes come to us; mappings go to the backing file with this id.
    DirectWithMappings(u32),
    /// Reads and writes come to us.
    Direct,
    /// Through the kernel's page cache.
    Cached,
}

/// An open file, for the reply to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its handle.
    pub handle: HandleId,
    /// How its data travels.
    pub transfer: Transfer,
}

fn access_mode(flags: u32) -> u32 {
    flags & libc::O_ACCMODE as u32
}

fn writes(flags: u32) -> bool {
    access_mode(flags) != libc::O_RDONLY as u32
}

impl Fs {
    /// Opens a plain file. The kernel has checked the permissions.
    pub fn open(
        &self,
        ino: Ino,
        flags: u32,
        caller: Caller,
        done: Option<Done>,
    ) -> FsResult<Opened> {
        if let Some(handle) = done.and_then(|done| done.handle) {
            return self.opened_before(HandleId(handle));
        }
        let node = self.live(ino)?;
        self.check_expiry_by_number(&node)?;
        let opened = self.open_with(&node, flags, None, caller.uid == 0)?;
        if flags & libc::O_TRUNC as u32 != 0 {
            let truncated = self.truncate_handle(&node, opened.handle, 0, caller);
            if let Err(error) = truncated {
                self.release(opened.handle, None);
                return Err(error);
            }
        }
        Ok(opened)
    }

    /// A handle that the server before made and did not get to give.
    pub(crate) fn opened_before(&self, handle: HandleId) -> FsResult<Opened> {
        let info = self.handles.get(handle).ok_or(FsError::Stale)?;
        let open = info.open.ok_or(FsError::Stale)?;
        let file = self.handles.file(open);
        let transfer = match (file.mode(), file.backing_id()) {
            (IoMode::Passthrough, Some(id)) if writes(info.flags) && !info.unseen_writer => {
                Transfer::DirectWithMappings(id)
            }
            (IoMode::Passthrough, Some(id)) => Transfer::Passthrough(id),
            (IoMode::Cached, _) => Transfer::Cached,
            (IoMode::Passthrough | IoMode::Direct, _) => Transfer::Direct,
        };
        Ok(Opened { handle, transfer })
    }

    /// `Stale` if the node has expired and is not in use; costs nothing where nothing expires.
    pub(crate) fn check_expiry_by_number(&self, node: &Pin<'_>) -> FsResult<()> {
        if node.has(NodeFlags::UNLINKED) || !self.is_overdue(node) {
            return Ok(());
        }
        let fd = self.location(node)?;
        let meta = self.backing.stat(fd.as_fd())?;
        match self.verdict(node, &meta)? {
            super::Verdict::Expired => {
                self.work().nudge_reaper();
                Err(FsError::Stale)
            }
            super::Verdict::Live(_) | super::Verdict::Kept => Ok(()),
        }
    }

    /// Adds a handle to a node, through `made` if the file was just created.
    pub(crate) fn open_with(
        &self,
        node: &Pin<'_>,
        flags: u32,
        made: Option<OwnedFd>,
        keeps_set_id: bool,
    ) -> FsResult<Opened> {
        let policy = self.policy();
        let settings = self.settings_in(&policy, node);
        let writes = writes(flags);
        let subtree = Slot::from_raw(node.subtree.load(Ordering::Acquire));
        let limited = writes
            && (settings.max_file.is_some()
                || subtree.is_some_and(|s| self.quotas.limits_bytes(s)));

        let is_new = made.is_some();
        let _lock = self.inodes.lock(node.slot());
        if node.has(NodeFlags::DEAD) {
            return Err(FsError::Stale);
        }
        let found = Slot::from_raw(node.aux.load(Ordering::Acquire));
        let open = match found {
            Some(open) if !(writes && self.handles.file(open).is_read_only()) => open,
            Some(open) => self.upgrade(node, open, flags)?,
            None => self.add_open_file(node, flags, made)?,
        };
        let file = self.handles.file(open);
        // The kernel would not end set-id bits on a write that we do not see.
        let metered = limited || writes && !keeps_set_id && self.has_set_id(node, open);
        let transfer = match (file.mode(), file.backing_id()) {
            (IoMode::Passthrough, Some(id)) if metered => Transfer::DirectWithMappings(id),
            (IoMode::Passthrough, Some(id)) => Transfer::Passthrough(id),
            (IoMode::Cached, _) => Transfer::Cached,
            (IoMode::Passthrough | IoMode::Direct, _) => Transfer::Direct,
        };
        let unseen_writer = writes && matches!(transfer, Transfer::Passthrough(_));
        let handle = match self.handles.add_handle(open, flags, unseen_writer) {
            Ok(handle) => handle,
            Err(error) => {
                self.drop_open_file(node, open);
                return Err(error.into());
            }
        };
        self.in_flight.gives_handle(handle.0);
        node.set(NodeFlags::OPENED);
        if writes
            && file.mode() == IoMode::Passthrough
            && !node.set(NodeFlags::UNSEEN).contains(NodeFlags::UNSEEN)
            && !is_new
        {
            // What the kernel has cached of it may be changed through a mapping from now on.
            self.work().invalidate(node.ino());
        }
        self.note_use(node);
        Ok(Opened { handle, transfer })
    }

    /// Whether an open file has set-id bits.
    fn has_set_id(&self, node: &Pin<'_>, open: Slot) -> bool {
        self.handles
            .descriptor(open, node.slot())
            .and_then(|fd| self.backing.stat(fd.as_fd()).ok())
            .is_some_and(|meta| meta.mode & 0o6000 != 0)
    }

    /// Makes the open record of a node, under the node's lock.
    fn add_open_file(&self, node: &Pin<'_>, flags: u32, made: Option<OwnedFd>) -> FsResult<Slot> {
        let (fd, read_only) = match made {
            Some(fd) => (fd, false),
            None => self.open_for(node, flags)?,
        };
        let mut mode = self.transport().mode;
        let mut id = None;
        if mode == IoMode::Passthrough {
            id = self.open_backing(fd.as_fd());
            if id.is_none() {
                mode = IoMode::Cached;
            }
        }
        match self.handles.add_file(node.slot(), fd, mode, read_only, id) {
            Ok(open) => {
                self.inodes.add_ref(node);
                node.aux.store(open.raw(), Ordering::Release);
                Ok(open)
            }
            Err(error) => {
                self.close_backing(id);
                Err(error.into())
            }
        }
    }

    /// Opens a backing file for reading and writing, so that all handles can share it; for what cannot be opened so, as
    /// the flags ask.
    fn open_for(&self, node: &Pin<'_>, flags: u32) -> FsResult<(OwnedFd, bool)> {
        match self.open_node(node, OFlags::RDWR) {
            Ok(fd) => Ok((fd, false)),
            // Append-only and immutable files, read-only stores, running programs, and, for a user's own mount, files
            // whose mode forbids it.
            Err(FsError::Os(Errno::PERM | Errno::ROFS | Errno::TXTBSY | Errno::ACCESS))
                if !writes(flags) =>
            {
                Ok((self.open_node(node, OFlags::RDONLY)?, true))
            }
            Err(FsError::Os(Errno::PERM)) if flags & libc::O_APPEND as u32 != 0 => {
                Ok((self.open_node(node, OFlags::RDWR | OFlags::APPEND)?, false))
            }
            Err(FsError::Os(Errno::ACCESS)) if access_mode(flags) == libc::O_WRONLY as u32 => {
                Ok((self.open_node(node, OFlags::WRONLY)?, false))
            }
            Err(error) => Err(error),
        }
    }

    /// A writer comes to an open record that is good for reading only.
    fn upgrade(&self, node: &Pin<'_>, open: Slot, flags: u32) -> FsResult<Slot> {
        let (fd, _) = self.open_for(node, flags)?;
        if self.handles.file(open).handles() > 0 {
            // The kernel insists on the id that is in use; only our own descriptor changes.
            self.handles.set_descriptor(open, node.slot(), fd);
            self.handles.file(open).now_writable();
            return Ok(open);
        }
        self.drop_open_file(node, open);
        self.add_open_file(node, flags, Some(fd))
    }

    /// Frees an open record without handles, under the node's lock.
    pub(crate) fn drop_open_file(&self, node: &Pin<'_>, open: Slot) {
        if self.handles.file(open).handles() > 0 {
            return;
        }
        node.aux.store(0, Ordering::Release);
        self.close_backing(self.handles.remove_file(open));
        self.inodes.unref(node.slot());
    }

    /// What a handle of a plain file stands for.
    pub(crate) fn opened(&self, handle: HandleId) -> FsResult<(HandleInfo, Arc<OwnedFd>)> {
        let info = self.handles.get(handle).ok_or(FsError::Os(Errno::BADF))?;
        let fd = info
            .open
            .and_then(|open| self.handles.descriptor(open, info.node))
            .ok_or(FsError::Os(Errno::BADF))?;
        Ok((info, fd))
    }

    /// Reads from an open file.
    pub fn read(&self, handle: HandleId, offset: u64, buf: &mut [u8]) -> FsResult<usize> {
        let (info, fd) = self.opened(handle)?;
        if info.flags & libc::O_NOATIME as u32 != 0 {
            // The shared descriptor would move the access time.
            let node = self.inodes.pin_slot(info.node);
            if let Ok(quiet) = self.open_node(&node, OFlags::RDONLY | OFlags::NOATIME) {
                return Ok(self.backing.read(quiet.as_fd(), buf, offset)?);
            }
        }
        Ok(self.backing.read(fd.as_fd(), buf, offset)?)
    }

    /// Writes to an open file: what fits is stored; an error is returned only if nothing was.
    pub fn write(
        &self,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        ends_privileges: Option<Caller>,
    ) -> FsResult<usize> {
        let (info, fd) = self.opened(handle)?;
        let node = self.inodes.pin_slot(info.node);
        if let Some(caller) = ends_privileges {
            self.strip_privileges(fd.as_fd(), caller)?;
        }
        let sync = if info.flags & libc::O_SYNC as u32 == libc::O_SYNC as u32 {
            Sync::File
        } else if info.flags & libc::O_DSYNC as u32 != 0 {
            Sync::Data
        } else {
            Sync::No
        };
        self.grow_with(&node, offset, data.len() as u64, |len| {
            self.backing
                .write(fd.as_fd(), &data[..len as usize], offset, sync)
                .map(|n| n as u64)
        })
        .map(|n| n as usize)
    }

    /// Runs `store`, which stores up to `len` bytes at `offset` and says how many, with as much of them as fits
    /// charged. At a limit, and where the backing store is full, what has expired goes first.
    fn grow_with(
        &self,
        node: &Pin<'_>,
        offset: u64,
        len: u64,
        store: impl Fn(u64) -> Result<u64, Errno>,
    ) -> FsResult<u64> {
        let max_file = {
            let policy = self.policy();
            self.settings_in(&policy, node).max_file
        };
        let mut len = len;
        if let Some(max) = max_file {
            if offset >= max && len > 0 {
                return Err(FsError::TooLarge);
            }
            len = len.min(max - offset);
        }
        let end = offset.checked_add(len).ok_or(FsError::TooLarge)?;
        for attempt in 0..2 {
            let lock = self.inodes.lock(node.slot());
            let have = node.charge.load(Ordering::Acquire);
            let need = charge_for(end);
            let (granted, refused) = match self.grant(node, need.saturating_sub(have)) {
                Ok(charge) => (charge, None),
                Err(error) => (None, Some(error)),
            };
            let room = have + granted.as_ref().map_or(0, Charge::bytes);
            let fits = if need > have {
                room.saturating_sub(offset).min(len)
            } else {
                len
            };
            if fits == 0 && len > 0 {
                drop((granted, lock));
                let error = refused.unwrap_or_else(|| self.full(node));
                if attempt == 0 {
                    self.work().reclaim();
                    continue;
                }
                if let Some(subtree) = Slot::from_raw(node.subtree.load(Ordering::Acquire)) {
                    self.quotas.count_refusal(subtree);
                }
                return Err(error);
            }
            let stored = store(fits);
            let kept = match stored {
                Ok(stored) => charge_for(offset + stored).saturating_sub(have),
                Err(_) => 0,
            };
            if let Some(granted) = granted {
                granted.keep_bytes(kept);
                node.charge.fetch_add(kept, Ordering::AcqRel);
            }
            drop(lock);
            match stored {
                Err(Errno::NOSPC | Errno::DQUOT) if attempt == 0 => self.work().reclaim(),
                stored => return Ok(stored?),
            }
        }
        Err(FsError::Internal)
    }

    /// The error of a node's nearest limit.
    fn full(&self, node: &Pin<'_>) -> FsError {
        let subtree = Slot::from_raw(node.subtree.load(Ordering::Acquire));
        FsError::Full(subtree.map_or(QuotaErrno::NoSpace, |s| self.quotas.tightest_errno(s)))
    }

    /// Takes up to `bytes` for a node, whatever fits. `None`: nothing to take.
    fn grant(&self, node: &Pin<'_>, bytes: u64) -> FsResult<Option<Charge<'_>>> {
        match Slot::from_raw(node.subtree.load(Ordering::Acquire)) {
            Some(subtree) if bytes > 0 => self.quotas.reserve_some(subtree, bytes).map(Some),
            _ => Ok(None),
        }
    }

    /// Takes exactly `bytes` for a node, all or nothing, reclaiming at a limit. Not under the node's lock.
    fn take_all(&self, node: &Pin<'_>, bytes: u64) -> FsResult<Option<Charge<'_>>> {
        match Slot::from_raw(node.subtree.load(Ordering::Acquire)) {
            Some(subtree) if bytes > 0 => self
                .with_reclaim(subtree, || {
                    self.quotas.reserve(subtree, Amount { bytes, inodes: 0 })
                })
                .map(Some),
            _ => Ok(None),
        }
    }

    /// Sets the size of a file that `handle` has open.
    pub(crate) fn truncate_handle(
        &self,
        node: &Pin<'_>,
        handle: HandleId,
        size: u64,
        caller: Caller,
    ) -> FsResult<()> {
        let (_, fd) = self.opened(handle)?;
        self.truncate(node, fd.as_fd(), size, caller, true)
    }

    /// Sets the size of a file open for writing.
    pub(crate) fn truncate(
        &self,
        node: &Pin<'_>,
        fd: BorrowedFd<'_>,
        size: u64,
        caller: Caller,
        by_descriptor: bool,
    ) -> FsResult<()> {
        let max_file = {
            let policy = self.policy();
            self.settings_in(&policy, node).max_file
        };
        if max_file.is_some_and(|max| size > max) {
            return Err(FsError::TooLarge);
        }
        loop {
            let have = node.charge.load(Ordering::Acquire);
            let subtree = node.subtree.load(Ordering::Acquire);
            let charge = self.take_all(node, charge_for(size).saturating_sub(have))?;
            let lock = self.inodes.lock(node.slot());
            if node.charge.load(Ordering::Acquire) != have
                || node.subtree.load(Ordering::Acquire) != subtree
            {
                // Another writer was quicker, or it was moved.
                drop((charge, lock));
                continue;
            }
            let meta = self.backing.stat(fd)?;
            let shrinks = size <= meta.size;
            let passes = self.erase_passes(node);
            if size < meta.size && passes > 0 {
                erase::overwrite(&self.backing, fd, size, meta.size, passes)?;
            }
            if by_descriptor || size != meta.size {
                self.backing.truncate(fd, size)?;
            } else {
                self.backing.truncate_same(fd, size)?;
            }
            if caller.uid != 0 {
                self.strip_privileges(fd, caller)?;
            }
            if let Some(charge) = charge {
                node.charge.fetch_add(charge.bytes(), Ordering::AcqRel);
                charge.keep();
            }
            if shrinks {
                if have > charge_for(meta.size) {
                    self.forget_reserved(fd);
                }
                // Under the lock: what is charged only shrinks here.
                self.settle_charge(node, charge_for(size));
            }
            drop(lock);
            return Ok(());
        }
    }

    /// Reserves, punches or zeroes a range of an open file.
    pub fn fallocate(
        &self,
        handle: HandleId,
        mode: u32,
        offset: u64,
        len: u64,
        caller: Caller,
    ) -> FsResult<()> {
        let (info, fd) = self.opened(handle)?;
        let node = self.inodes.pin_slot(info.node);
        if caller.uid != 0 {
            self.strip_privileges(fd.as_fd(), caller)?;
        }
        let flags = FallocateFlags::from_bits_retain(mode);
        let end = offset.checked_add(len).ok_or(FsError::TooLarge)?;
        let keeps_size = flags.contains(FallocateFlags::KEEP_SIZE);
        if flags.contains(FallocateFlags::PUNCH_HOLE) {
            let _lock = self.inodes.lock(node.slot());
            let passes = self.erase_passes(&node);
            if passes > 0 {
                let size = self.backing.stat(fd.as_fd())?.size;
                if offset < size {
                    self.check_mode(flags)?;
                    erase::overwrite(&self.backing, fd.as_fd(), offset, end.min(size), passes)?;
                }
            }
            return Ok(self.backing.fallocate(fd.as_fd(), flags, offset, len)?);
        }
        let max_file = {
            let policy = self.policy();
            self.settings_in(&policy, &node).max_file
        };
        if !keeps_size && max_file.is_some_and(|max| end > max) {
            return Err(FsError::TooLarge);
        }
        loop {
            let have = node.charge.load(Ordering::Acquire);
            let subtree = node.subtree.load(Ordering::Acquire);
            let charge = self.take_all(&node, charge_for(end).saturating_sub(have))?;
            let lock = self.inodes.lock(node.slot());
            if node.charge.load(Ordering::Acquire) != have
                || node.subtree.load(Ordering::Acquire) != subtree
            {
                drop((charge, lock));
                continue;
            }
            if flags.contains(FallocateFlags::ZERO_RANGE) {
                let passes = self.erase_passes(&node);
                let size = self.backing.stat(fd.as_fd())?.size;
                if passes > 0 && offset < size {
                    self.check_mode(flags)?;
                    erase::overwrite(&self.backing, fd.as_fd(), offset, end.min(size), passes)?;
                }
            }
            // A note of more than is charged is of a reservation that has gone since.
            let before = Some(self.reserved_end(fd.as_fd()))
                .filter(|end| charge_for(*end) <= have)
                .unwrap_or(0);
            let notes = keeps_size && end > before && end > self.backing.stat(fd.as_fd())?.size;
            if notes {
                // First, so that no recount ever finds less than is charged.
                self.note_reserved(fd.as_fd(), end)?;
            }
            if let Err(errno) = self.backing.fallocate(fd.as_fd(), flags, offset, len) {
                if notes {
                    let _ = self.note_reserved(fd.as_fd(), before);
                }
                return Err(errno.into());
            }
            if let Some(charge) = charge {
                node.charge.fetch_add(charge.bytes(), Ordering::AcqRel);
                charge.keep();
            }
            drop(lock);
            return Ok(());
        }
    }

    /// Whether the backing store knows this mode of `fallocate`: tried on a file without a name, before data is
    /// destroyed for it.
    fn check_mode(&self, flags: FallocateFlags) -> Result<(), Errno> {
        let trial = rustix::fs::openat(
            &self.private,
            c".",
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        );
        match trial {
            Ok(trial) => rustix::fs::fallocate(trial, flags, 0, CHARGE_UNIT),
            // It cannot be tried here.
            Err(_) => Ok(()),
        }
    }

    /// Notes on the backing file how far it is reserved, so that a recount finds the same charge.
    fn note_reserved(&self, fd: BorrowedFd<'_>, end: u64) -> Result<(), Errno> {
        let noted =
            self.backing
                .set_xattr(fd, RESERVED_XATTR, &end.to_le_bytes(), XattrFlags::empty());
        match noted {
            Err(errno @ (Errno::OPNOTSUPP | Errno::PERM)) => {
                tracing::debug!(%errno, "a recount will not see what fallocate reserved");
                Ok(())
            }
            noted => noted,
        }
    }

    /// Nothing is reserved any more. A note that stays means nothing without blocks.
    fn forget_reserved(&self, fd: BorrowedFd<'_>) {
        match self.backing.remove_xattr(fd, RESERVED_XATTR) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(errno) => tracing::debug!(%errno, "an old note of what was reserved stays"),
        }
    }

    /// Copies between two open files.
    pub fn copy_range(
        &self,
        from: HandleId,
        from_offset: u64,
        to: HandleId,
        to_offset: u64,
        len: u64,
    ) -> FsResult<u64> {
        let (from_info, from_fd) = self.opened(from)?;
        let (to_info, to_fd) = self.opened(to)?;
        let node = self.inodes.pin_slot(to_info.node);
        let source = self.inodes.pin_slot(from_info.node);
        if self.erase_passes(&node) > 0 || self.erase_passes(&source) > 0 {
            // A copy that shares blocks could not be overwritten where it lies; the kernel copies by hand instead.
            return Err(FsError::Unsupported);
        }
        let size = self.backing.stat(from_fd.as_fd())?.size;
        let len = len.min(size.saturating_sub(from_offset)).min(1 << 30);
        if len == 0 {
            return Ok(0);
        }
        self.grow_with(&node, to_offset, len, |len| {
            self.backing
                .copy_range(
                    from_fd.as_fd(),
                    from_offset,
                    to_fd.as_fd(),
                    to_offset,
                    len as usize,
                )
                .map(|n| n as u64)
        })
    }

    /// The next data or hole of an open file.
    pub fn seek(&self, handle: HandleId, offset: i64, whence: i32) -> FsResult<u64> {
        let (_, fd) = self.opened(handle)?;
        let offset = u64::try_from(offset).map_err(|_| FsError::Os(Errno::NXIO))?;
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(FsError::Invalid),
        };
        Ok(self.backing.seek(fd.as_fd(), to)?)
    }

    /// Puts an open file or directory on disk.
    pub fn sync(&self, handle: HandleId, data_only: bool) -> FsResult<()> {
        let info = self.handles.get(handle).ok_or(FsError::Os(Errno::BADF))?;
        if let Some(fd) = info
            .open
            .and_then(|open| self.handles.descriptor(open, info.node))
        {
            return Ok(self.backing.sync(fd.as_fd(), data_only)?);
        }
        if let Some(stream) = self.handles.stream(info.slot) {
            return Ok(self
                .backing
                .sync(stream.inner.lock().dir.as_fd(), data_only)?);
        }
        Err(FsError::Os(Errno::BADF))
    }

    /// The kernel let go of a handle.
    pub fn release(&self, handle: HandleId, done: Option<Done>) {
        let Some(info) = self.handles.get(handle) else {
            if done.is_some() {
                // Sent again, and carried out by the server before.
                return;
            }
            tracing::error!(
                handle = handle.0,
                "the kernel released a handle that it was not given"
            );
            return;
        };
        let Some(open) = info.open else {
            self.handles.remove_handle(&info);
            return;
        };
        let node = self.inodes.pin_slot(info.node);
        if info.unseen_writer && node.kind() == Kind::File {
            self.settle_unseen(&node, open);
        }
        let lock = self.inodes.lock(node.slot());
        let left = self.handles.remove_handle(&info);
        self.note_use(&node);
        let mut evict = None;
        if left == 0 {
            if node.has(NodeFlags::UNLINKED) && !node.has(NodeFlags::PRIVATE)
                || node.nlookup() == 0
                || node.has(NodeFlags::REOPEN)
            {
                self.drop_open_file(&node, open);
            } else {
                evict = self.handles.note_idle(open);
            }
        }
        drop(lock);
        if let Some(evict) = evict {
            self.drop_idle(evict);
        }
        if left == 0 {
            self.reschedule_modified(&node);
            if self.is_overdue(&node) {
                self.work().nudge_reaper();
            }
        }
    }

    /// A write moves the modification time to now, and with it the deadline nearer if it was set to later.
    fn reschedule_modified(&self, node: &Pin<'_>) {
        let policy = self.policy();
        if self.settings_in(&policy, node).ttl_from != TtlFrom::Modified
            || node.deadline_hint() == Time::NEVER
        {
            return;
        }
        if let Ok(meta) = self
            .location(node)
            .and_then(|fd| Ok(self.backing.stat(fd.as_fd())?))
        {
            self.reschedule(node, &meta);
        }
    }

    /// Brings the charge up to date of a file that was written out of our sight.
    fn settle_unseen(&self, node: &Pin<'_>, open: Slot) {
        let Some(fd) = self.handles.descriptor(open, node.slot()) else {
            return;
        };
        let _lock = self.inodes.lock(node.slot());
        if let Ok(meta) = self.backing.stat(fd.as_fd()) {
            let charge = charge_for(meta.size);
            let have = node.charge.load(Ordering::Acquire);
            let charge = if meta.blocks * 512 > charge && have > charge {
                charge.max(charge_for(self.reserved_end(fd.as_fd())))
            } else {
                charge
            };
            if charge != have {
                self.settle_charge(node, charge);
            }
        }
    }

    /// An idle open record has to make room.
    fn drop_idle(&self, open: Slot) {
        let Some(slot) = self.handles.file_checked(open).and_then(|f| f.node()) else {
            return;
        };
        let Some(peeked) = self.inodes.peek(slot) else {
            return;
        };
        if peeked.aux.load(Ordering::Acquire) != open.raw() {
            return;
        }
        let Some(node) = self.inodes.pin(peeked.ino()) else {
            return;
        };
        let _lock = self.inodes.lock(node.slot());
        if node.kind() != Kind::Directory && node.aux.load(Ordering::Acquire) == open.raw() {
            self.drop_open_file(&node, open);
        }
    }

    /// Whether the node's deadline has passed, as it was last computed.
    pub(crate) fn is_overdue(&self, node: &Pin<'_>) -> bool {
        node.deadline_hint() != Time::NEVER && node.deadline_hint() <= self.clock.now()
    }

    /// Whether a node is open through a handle.
    pub(crate) fn has_handles(&self, node: &Pin<'_>) -> bool {
        node.kind() != Kind::Directory
            && Slot::from_raw(node.aux.load(Ordering::Acquire))
                .and_then(|open| self.handles.file_checked(open))
                .is_some_and(|file| file.node() == Some(node.slot()) && file.handles() > 0)
    }

    /// An open or close, where lifetimes count from it.
    fn note_use(&self, node: &Pin<'_>) {
        let policy = self.policy();
        let settings = self.settings_in(&policy, node);
        if settings.ttl_from == TtlFrom::Accessed
            && let Some(ttl) = settings.ttl
        {
            node.raise_floor(self.clock.now().after(ttl));
        }
    }

    /// Clears the set-id bits that a write or truncation by `caller` ends (inode(7), as the kernel's
    /// `setattr_should_drop_suidgid`).
    pub(crate) fn strip_privileges(&self, fd: BorrowedFd<'_>, caller: Caller) -> FsResult<()> {
        let meta = self.backing.stat(fd)?;
        let mut mode = meta.mode & 0o7777 & !0o4000;
        if mode & 0o2000 != 0 && (mode & 0o010 != 0 || !caller.is_in_group(meta.gid)) {
            mode &= !0o2000;
        }
        if mode != meta.mode & 0o7777 {
            self.backing.chmod(fd, mode)?;
        }
        Ok(())
    }
}
