//! Open files and directories: what the kernel's file handles stand for.
//!
//! An inode that is open has one open record with one backing descriptor, shared by all its handles, and at most one
//! passthrough id: the kernel insists that all open descriptors of an inode name the same one. The record outlives the
//! last handle for a while, because programs reopen what they closed, and because an id that is dropped at a close can
//! meet its successor in the kernel.
//!
//! The records live in memory that outlives the server; descriptors and directory streams are this process's own.
//! Records change under the node's lock (`Inodes::lock`).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::shared_record;
use crate::slab::{Record, Slab, Slot};

/// How many memfds the tables need.
pub const HANDLE_FDS: usize = 2;

/// How a file's data travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoMode {
    /// In the kernel, straight to the backing file (writers under a limit come to us).
    Passthrough,
    /// Each read and write comes to us.
    Direct,
    /// Through the kernel's page cache, written through.
    Cached,
}

shared_record! {
    /// An open inode.
    pub struct OpenFile {
        state: AtomicU32,
        node: AtomicU32,
        handles: AtomicU32,
        /// Handles that write without our seeing it.
        unseen_writers: AtomicU32,
        /// The passthrough id; 0 is none.
        backing_id: AtomicU32,
        /// The I/O mode, plus `READ_ONLY`.
        mode: AtomicU32,
    }
}

const READ_ONLY: u32 = 1 << 8;

impl Record for OpenFile {
    fn state(&self) -> &AtomicU32 {
        &self.state
    }

    fn wipe(&self) {
        for word in [
            &self.node,
            &self.handles,
            &self.unseen_writers,
            &self.backing_id,
            &self.mode,
        ] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl OpenFile {
    /// The node that is open.
    pub fn node(&self) -> Option<Slot> {
        Slot::from_raw(self.node.load(Ordering::Relaxed))
    }

    /// How many handles there are.
    pub fn handles(&self) -> u32 {
        self.handles.load(Ordering::Acquire)
    }

    /// How many handles write in passthrough.
    pub fn unseen_writers(&self) -> u32 {
        self.unseen_writers.load(Ordering::Acquire)
    }

    /// How data travels.
    pub fn mode(&self) -> IoMode {
        match self.mode.load(Ordering::Relaxed) & 0xff {
            0 => IoMode::Passthrough,
            1 => IoMode::Direct,
            _ => IoMode::Cached,
        }
    }

    /// Whether the backing descriptor is good for reading only.
    pub fn is_read_only(&self) -> bool {
        self.mode.load(Ordering::Relaxed) & READ_ONLY != 0
    }

    /// The backing descriptor was replaced by one that can write.
    pub fn now_writable(&self) {
        self.mode.fetch_and(!READ_ONLY, Ordering::AcqRel);
    }

    /// The passthrough id, if any.
    pub fn backing_id(&self) -> Option<u32> {
        self.backing_id.load(Ordering::Acquire).checked_sub(1)
    }
}

shared_record! {
    /// One file handle of the kernel's.
    pub struct Handle {
        state: AtomicU32,
        /// The open record; 0 for directories.
        open: AtomicU32,
        node: AtomicU32,
        /// `O_*` flags of the open.
        flags: AtomicU32,
        /// Tells it from others that had this slot: a release may be sent again.
        serial: AtomicU32,
    }
}

impl Record for Handle {
    fn state(&self) -> &AtomicU32 {
        &self.state
    }

    fn wipe(&self) {
        for word in [&self.open, &self.node, &self.flags, &self.serial] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// The number by which the kernel names a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// A handle, decoded.
#[derive(Clone, Copy, Debug)]
pub struct HandleInfo {
    /// Where it stands.
    pub slot: Slot,
    /// The open record; `None` for directories.
    pub open: Option<Slot>,
    /// The node.
    pub node: Slot,
    /// `O_*` flags of the open.
    pub flags: u32,
    /// Whether it writes in passthrough.
    pub unseen_writer: bool,
}

const STATE_LIVE: u32 = 1;
const STATE_UNSEEN_WRITER: u32 = 2;

/// A directory being read.
#[derive(Debug)]
pub struct DirStream {
    /// The backing directory and where it stands.
    pub inner: Mutex<DirPosition>,
}

/// See [`DirStream`].
#[derive(Debug)]
pub struct DirPosition {
    /// The backing directory.
    pub dir: OwnedFd,
    /// The position that the descriptor stands at.
    pub at: u64,
}

/// The tables.
#[derive(Debug)]
pub struct Handles {
    files: Slab<OpenFile>,
    handles: Slab<Handle>,
    /// By open record: the node that it is of, and the backing descriptor.
    descriptors: RwLock<HashMap<Slot, (Slot, Arc<OwnedFd>)>>,
    streams: RwLock<HashMap<Slot, Arc<DirStream>>>,
    next_serial: AtomicU32,
    /// Open records without handles, the oldest first.
    idle: Mutex<VecDeque<Slot>>,
}

/// Serials of two servers of one mount should not meet: each begins where the clock is.
fn first_serial() -> u32 {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_nsec as u32
        ^ rustix::process::getpid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs()
            << 12
}

/// Open records that are kept although nobody has the file open.
pub const MAX_IDLE: usize = 512;

impl Handles {
    /// The tables in these memfds, with all that an earlier server left.
    pub fn new(mut files: Vec<OwnedFd>, max_handles: usize) -> io::Result<Self> {
        assert_eq!(files.len(), HANDLE_FDS);
        let handles = files.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let open = files.pop().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            files: Slab::new(open, max_handles)?,
            handles: Slab::new(handles, max_handles)?,
            descriptors: RwLock::default(),
            streams: RwLock::default(),
            next_serial: AtomicU32::new(first_serial()),
            idle: Mutex::default(),
        })
    }

    /// Open records and handles.
    pub fn live(&self) -> (usize, usize) {
        (self.files.live(), self.handles.live())
    }

    /// Makes the open record of `node`.
    pub fn add_file(
        &self,
        node: Slot,
        descriptor: OwnedFd,
        mode: IoMode,
        read_only: bool,
        backing_id: Option<u32>,
    ) -> io::Result<Slot> {
        let slot = self.files.take()?;
        let file = self.files.get(slot);
        file.node.store(node.raw(), Ordering::Relaxed);
        file.backing_id
            .store(backing_id.map_or(0, |id| id + 1), Ordering::Relaxed);
        let mode = match mode {
            IoMode::Passthrough => 0,
            IoMode::Direct => 1,
            IoMode::Cached => 2,
        };
        file.mode.store(
            mode | if read_only { READ_ONLY } else { 0 },
            Ordering::Relaxed,
        );
        file.state.store(1, Ordering::Release);
        self.descriptors
            .write()
            .insert(slot, (node, Arc::new(descriptor)));
        Ok(slot)
    }

    /// The open record at `slot`.
    pub fn file(&self, slot: Slot) -> &OpenFile {
        self.files.get(slot)
    }

    /// The open record at a slot that may hold none any more.
    pub fn file_checked(&self, slot: Slot) -> Option<&OpenFile> {
        self.files
            .checked(slot)
            .filter(|f| f.state.load(Ordering::Acquire) != 0)
    }

    /// The backing descriptor of an open record, if it is one of `node`: a record that was looked up without the node's
    /// lock may stand for another by now.
    pub fn descriptor(&self, slot: Slot, node: Slot) -> Option<Arc<OwnedFd>> {
        self.descriptors
            .read()
            .get(&slot)
            .filter(|(of, _)| *of == node)
            .map(|(_, fd)| fd.clone())
    }

    /// Gives an open record another descriptor, or its first in a new server.
    pub fn set_descriptor(&self, slot: Slot, node: Slot, descriptor: OwnedFd) {
        self.descriptors
            .write()
            .insert(slot, (node, Arc::new(descriptor)));
    }

    /// Frees an open record without handles; returns its passthrough id, which the caller closes.
    pub fn remove_file(&self, slot: Slot) -> Option<u32> {
        let id = self.files.get(slot).backing_id();
        self.descriptors.write().remove(&slot);
        self.files.give_back(slot);
        id
    }

    /// Adds a handle to an open record.
    pub fn add_handle(&self, open: Slot, flags: u32, unseen_writer: bool) -> io::Result<HandleId> {
        let file = self.files.get(open);
        let slot = self.handles.take()?;
        let handle = self.handles.get(slot);
        handle.serial.store(
            self.next_serial.fetch_add(1, Ordering::Relaxed),
            Ordering::Relaxed,
        );
        handle.open.store(open.raw(), Ordering::Relaxed);
        handle
            .node
            .store(file.node.load(Ordering::Relaxed), Ordering::Relaxed);
        handle.flags.store(flags, Ordering::Relaxed);
        let state = STATE_LIVE
            | if unseen_writer {
                STATE_UNSEEN_WRITER
            } else {
                0
            };
        handle.state.store(state, Ordering::Release);
        file.handles.fetch_add(1, Ordering::AcqRel);
        if unseen_writer {
            file.unseen_writers.fetch_add(1, Ordering::AcqRel);
        }
        Ok(self.id(slot))
    }

    /// Adds a handle to a directory.
    pub fn add_dir(&self, node: Slot, dir: OwnedFd) -> io::Result<HandleId> {
        let slot = self.handles.take()?;
        let handle = self.handles.get(slot);
        handle.serial.store(
            self.next_serial.fetch_add(1, Ordering::Relaxed),
            Ordering::Relaxed,
        );
        handle.node.store(node.raw(), Ordering::Relaxed);
        self.streams.write().insert(
            slot,
            Arc::new(DirStream {
                inner: Mutex::new(DirPosition { dir, at: 0 }),
            }),
        );
        handle.state.store(STATE_LIVE, Ordering::Release);
        Ok(self.id(slot))
    }

    fn id(&self, slot: Slot) -> HandleId {
        let serial = self.handles.get(slot).serial.load(Ordering::Relaxed);
        HandleId(u64::from(serial) << 32 | u64::from(slot.raw()))
    }

    /// What a handle stands for; `None` if it stands for nothing.
    pub fn get(&self, id: HandleId) -> Option<HandleInfo> {
        let slot = Slot::from_raw(id.0 as u32)?;
        let handle = self.handles.checked(slot)?;
        let state = handle.state.load(Ordering::Acquire);
        if state == 0 || handle.serial.load(Ordering::Relaxed) != (id.0 >> 32) as u32 {
            return None;
        }
        Some(HandleInfo {
            slot,
            open: Slot::from_raw(handle.open.load(Ordering::Relaxed)),
            node: Slot::from_raw(handle.node.load(Ordering::Relaxed))?,
            flags: handle.flags.load(Ordering::Relaxed),
            unseen_writer: state & STATE_UNSEEN_WRITER != 0,
        })
    }

    /// The stream of a directory handle.
    pub fn stream(&self, slot: Slot) -> Option<Arc<DirStream>> {
        self.streams.read().get(&slot).cloned()
    }

    /// Gives a directory handle its stream, in a new server.
    pub fn set_stream(&self, slot: Slot, dir: OwnedFd) {
        self.streams.write().insert(
            slot,
            Arc::new(DirStream {
                inner: Mutex::new(DirPosition { dir, at: 0 }),
            }),
        );
    }

    /// Frees a handle; returns how many its open record has left.
    pub fn remove_handle(&self, info: &HandleInfo) -> u32 {
        let left = info.open.map_or(0, |open| {
            let file = self.files.get(open);
            if info.unseen_writer {
                file.unseen_writers.fetch_sub(1, Ordering::AcqRel);
            }
            file.handles.fetch_sub(1, Ordering::AcqRel) - 1
        });
        if info.open.is_none() {
            self.streams.write().remove(&info.slot);
        }
        self.handles.give_back(info.slot);
        left
    }

    /// Notes that an open record has no handles; returns one that has to go to keep the number bounded.
    pub fn note_idle(&self, slot: Slot) -> Option<Slot> {
        let mut idle = self.idle.lock();
        idle.push_back(slot);
        if idle.len() > MAX_IDLE {
            idle.pop_front()
        } else {
            None
        }
    }

    /// After a takeover: counts handles anew; returns open records with handles, and those without.
    pub fn recount(&self) -> (Vec<Slot>, Vec<Slot>) {
        let mut strays = Vec::new();
        self.files.for_each(|_, file| {
            file.handles.store(0, Ordering::Relaxed);
            file.unseen_writers.store(0, Ordering::Relaxed);
        });
        self.handles.for_each(|slot, handle| {
            let Some(open) = Slot::from_raw(handle.open.load(Ordering::Relaxed)) else {
                return;
            };
            match self.file_checked(open) {
                Some(file) => {
                    file.handles.fetch_add(1, Ordering::Relaxed);
                    if handle.state.load(Ordering::Relaxed) & STATE_UNSEEN_WRITER != 0 {
                        file.unseen_writers.fetch_add(1, Ordering::Relaxed);
                    }
                }
                None => strays.push(slot),
            }
        });
        for stray in strays {
            self.handles.give_back(stray);
        }
        let (mut open, mut idle) = (Vec::new(), Vec::new());
        self.files.for_each(|slot, file| {
            if file.handles() > 0 {
                open.push(slot);
            } else {
                idle.push(slot);
            }
        });
        (open, idle)
    }

    /// Frees a directory handle that nobody has.
    pub fn drop_dir(&self, slot: Slot) {
        self.streams.write().remove(&slot);
        self.handles.give_back(slot);
    }

    /// All handles.
    pub fn all(&self) -> Vec<HandleId> {
        let mut all = Vec::new();
        self.handles.for_each(|slot, _| all.push(self.id(slot)));
        all
    }

    /// Calls `each` for every open record.
    pub fn for_each_file(&self, mut each: impl FnMut(Slot, &OpenFile)) {
        self.files.for_each(|slot, file| each(slot, file));
    }

    /// Calls `each` for every directory handle.
    pub fn for_each_dir(&self, mut each: impl FnMut(Slot, Slot)) {
        self.handles.for_each(|slot, handle| {
            if handle.open.load(Ordering::Relaxed) == 0
                && let Some(node) = Slot::from_raw(handle.node.load(Ordering::Relaxed))
            {
                each(slot, node);
            }
        });
    }
}

#[cfg(test)]
mod tests;
