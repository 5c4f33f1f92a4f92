//! What request threads hand to the threads that may wait: the reaper and the eraser.

use std::collections::VecDeque;
use std::ffi::CString;
use std::time::{Duration, Instant};

use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::clock::Time;
use crate::inodes::Ino;
use crate::slab::Slot;

/// A file in private state whose data is to be overwritten.
#[derive(Clone, Debug)]
pub struct EraseJob {
    /// Its node, if it was met in this mount.
    pub slot: Option<Slot>,
    /// Its name in private state.
    pub name: CString,
    /// How often to overwrite.
    pub passes: u32,
    /// What is charged for it, bytes.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Wanted {
    /// The reaper should look at its queue.
    nudged: bool,
    /// Reclaims asked for, and done.
    reclaims_wanted: u64,
    reclaims_done: u64,
    erase: VecDeque<EraseJob>,
    /// Inodes whose attributes the kernel should ask for again.
    invalidate: Vec<Ino>,
    erasing: usize,
    stopped: bool,
}

/// The hand-over.
#[derive(Debug, Default)]
pub struct Work {
    wanted: Mutex<Wanted>,
    for_reaper: Condvar,
    for_eraser: Condvar,
    reclaimed: Condvar,
    all_erased: Condvar,
    /// When the reaper wakes by itself, in nanoseconds since the epoch.
    reaper_wakes_at: AtomicI64,
}

/// How long a program at a limit waits for what is expired to go.
const RECLAIM_WAIT: Duration = Duration::from_secs(2);

/// What wakes the reaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something is due, or may be.
    Due,
    /// Programs wait at a limit: this many requests are answered once everything due is gone.
    Reclaim(u64),
    /// The end.
    Stop,
}

impl Work {
    /// Something expired was met: the reaper need not wait for its next deadline.
    pub fn nudge_reaper(&self) {
        let mut wanted = self.wanted.lock();
        if !wanted.nudged {
            wanted.nudged = true;
            self.for_reaper.notify_one();
        }
    }

    /// A deadline came into the queue: the reaper must not sleep past it.
    pub fn wake_reaper_before(&self, at: Time) {
        if at.0 < self.reaper_wakes_at.load(Ordering::SeqCst) {
            self.nudge_reaper();
        }
    }

    /// The reaper says until when it is going to sleep. [`Time::NEVER`] while it looks for that: then any deadline wakes
    /// it.
    pub fn reaper_wakes_at(&self, at: Time) {
        self.reaper_wakes_at.store(at.0, Ordering::SeqCst);
    }

    /// Waits until the reaper has removed what is expired and freed what it could, or until it has taken too long.
    pub fn reclaim(&self) {
        let mut wanted = self.wanted.lock();
        wanted.reclaims_wanted += 1;
        let ticket = wanted.reclaims_wanted;
        self.for_reaper.notify_one();
        let until = Instant::now() + RECLAIM_WAIT;
        while wanted.reclaims_done < ticket && !wanted.stopped {
            if self.reclaimed.wait_until(&mut wanted, until).timed_out() {
                return;
            }
        }
    }

    /// The reaper has reclaimed for all that asked up to `ticket`.
    pub fn reclaimed(&self, ticket: u64) {
        let mut wanted = self.wanted.lock();
        wanted.reclaims_done = wanted.reclaims_done.max(ticket);
        self.reclaimed.notify_all();
    }

    /// The reaper waits until it is wanted, for `timeout` at most.
    pub fn wait_reaper(&self, timeout: Duration) -> Wake {
        let mut wanted = self.wanted.lock();
        let until = Instant::now() + timeout;
        loop {
            if wanted.stopped {
                return Wake::Stop;
            }
            if wanted.reclaims_wanted > wanted.reclaims_done {
                return Wake::Reclaim(wanted.reclaims_wanted);
            }
            if std::mem::take(&mut wanted.nudged)
                || self.for_reaper.wait_until(&mut wanted, until).timed_out()
            {
                return Wake::Due;
            }
        }
    }

    /// Has the kernel told that what it has cached of an inode is not to be relied on.
    pub fn invalidate(&self, ino: Ino) {
        let mut wanted = self.wanted.lock();
        wanted.invalidate.push(ino);
        wanted.nudged = true;
        self.for_reaper.notify_one();
    }

    /// The inodes to tell the kernel of.
    pub fn take_invalidate(&self) -> Vec<Ino> {
        std::mem::take(&mut self.wanted.lock().invalidate)
    }

    /// Hands a file to the eraser.
    pub fn erase(&self, job: EraseJob) {
        self.wanted.lock().erase.push_back(job);
        self.for_eraser.notify_one();
    }

    /// The eraser waits for work; `None` is the end, once nothing is left.
    pub fn wait_eraser(&self, max: usize) -> Option<Vec<EraseJob>> {
        let mut wanted = self.wanted.lock();
        while wanted.erase.is_empty() {
            if wanted.stopped {
                return None;
            }
            self.for_eraser.wait(&mut wanted);
        }
        let count = wanted.erase.len().min(max);
        wanted.erasing = count;
        Some(wanted.erase.drain(..count).collect())
    }

    /// The eraser is done with what it took.
    pub fn erased(&self) {
        self.wanted.lock().erasing = 0;
        self.all_erased.notify_all();
    }

    /// Waits until all files that wait for it are erased.
    pub fn wait_erased(&self, timeout: Duration) {
        let mut wanted = self.wanted.lock();
        let until = Instant::now() + timeout;
        while !wanted.erase.is_empty() || wanted.erasing > 0 {
            if self.all_erased.wait_until(&mut wanted, until).timed_out() {
                return;
            }
        }
    }

    /// How many files wait for erasure or are being erased.
    pub fn to_erase(&self) -> usize {
        let wanted = self.wanted.lock();
        wanted.erase.len() + wanted.erasing
    }

    /// Wakes everybody for the end.
    pub fn wake_all(&self) {
        self.wanted.lock().stopped = true;
        self.for_reaper.notify_all();
        self.for_eraser.notify_all();
        self.reclaimed.notify_all();
    }
}
