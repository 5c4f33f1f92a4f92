//! Requests that are being served, in memory that outlives the server: what a successor must know of one that it is sent
//! again.
//!
//! Each thread that serves has one record. Most operations need none of it: while a program waits for a change of a
//! directory the kernel holds that directory, so that "it is there already" or "it is gone already" can only be the
//! dead server's doing. What cannot be told from the tree is written down here: the reference or the handle that was
//! given, and the file that an exchange began with.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::inodes::Ino;
use crate::shared_record;
use crate::slab::{Record, Slab, Slot};

/// Set in the unique number of a request that is sent again (`FUSE_UNIQUE_RESEND`).
const RESENT: u64 = 1 << 63;

shared_record! {
    /// What one thread is doing.
    struct Request {
        state: AtomicU32,
        /// The kernel's number of the request; 0 is none.
        unique: AtomicU64,
        /// An inode that the reply gives, already counted; or the one that an exchange began with.
        ino: AtomicU64,
        /// A handle that the reply gives.
        handle: AtomicU64,
    }
}

impl Record for Request {
    fn state(&self) -> &AtomicU32 {
        &self.state
    }

    fn wipe(&self) {
        self.unique.store(0, Ordering::Relaxed);
        self.ino.store(0, Ordering::Relaxed);
        self.handle.store(0, Ordering::Relaxed);
    }
}

/// What a dead server had done of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The inode that was counted for the reply, or that an exchange began with.
    pub ino: Option<Ino>,
    /// The handle that was made for the reply.
    pub handle: Option<u64>,
}

/// The table.
#[derive(Debug)]
pub struct InFlight {
    /// Differs from table to table of this process.
    number: u64,
    requests: Slab<Request>,
    /// What the server before was doing when it died.
    before: Mutex<HashMap<u64, Done>>,
}

thread_local! {
    /// This thread's record, and the table that it is in.
    static MINE: Cell<Option<(u64, Slot)>> = const { Cell::new(None) };
}

impl InFlight {
    /// The table in this memfd; what an earlier server left is what it was doing when it died.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        let requests = Slab::<Request>::new(file, 4096)?;
        let mut before = HashMap::new();
        let mut slots = Vec::new();
        requests.for_each(|slot, request| {
            let unique = request.unique.load(Ordering::Acquire);
            if unique != 0 {
                let some = |n: u64| (n != 0).then_some(n);
                let done = Done {
                    ino: some(request.ino.load(Ordering::Acquire)).map(Ino),
                    handle: some(request.handle.load(Ordering::Acquire)),
                };
                before.insert(unique & !RESENT, done);
            }
            slots.push(slot);
        });
        for slot in slots {
            requests.give_back(slot);
        }
        static TABLES: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            number: TABLES.fetch_add(1, Ordering::Relaxed),
            requests,
            before: Mutex::new(before),
        })
    }

    fn mine(&self) -> Option<&Request> {
        MINE.with(|mine| {
            let slot = match mine.get() {
                Some((table, slot)) if table == self.number => slot,
                _ => {
                    let slot = self.requests.take().ok()?;
                    self.requests.get(slot).state.store(1, Ordering::Release);
                    mine.set(Some((self.number, slot)));
                    slot
                }
            };
            Some(self.requests.get(slot))
        })
    }

    /// A request begins. Returns what the server before had done of it, if it is sent again.
    pub fn begin(&self, unique: u64) -> Option<Done> {
        if let Some(mine) = self.mine() {
            mine.ino.store(0, Ordering::Relaxed);
            mine.handle.store(0, Ordering::Relaxed);
            mine.unique.store(unique, Ordering::Release);
        }
        if unique & RESENT == 0 {
            return None;
        }
        Some(
            self.before
                .lock()
                .remove(&(unique & !RESENT))
                .unwrap_or_default(),
        )
    }

    /// The reply gives this inode, and its reference is counted.
    pub fn gives(&self, ino: Ino) {
        if let Some(mine) = self.mine() {
            mine.ino.store(ino.0, Ordering::Release);
        }
    }

    /// The reply gives this handle.
    pub fn gives_handle(&self, handle: u64) {
        if let Some(mine) = self.mine() {
            mine.handle.store(handle, Ordering::Release);
        }
    }

    /// The request is answered.
    pub fn end(&self) {
        if let Some(mine) = self.mine() {
            mine.unique.store(0, Ordering::Release);
        }
    }
}
